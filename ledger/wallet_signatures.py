"""Verify what a wallet signed, without a chain and without libraries beyond libsodium.

EVM wallets sign EIP-191 personal messages with ECDSA over secp256k1; the signer's address is recovered from the signature. Solana wallets
sign the plain bytes with Ed25519. Everything here handles public data only, so nothing needs to run in constant time: recovering a key
takes milliseconds in Python integers, and a wallet is bound once.

Source: FIPS 202 section 3 (Keccak-f[1600]), SEC 1 version 2 section 4.1.6 (public key recovery), SEC 2 version 2 section 2.4.1 (secp256k1),
EIP-2 (low s), EIP-55 (address checksum), EIP-191 version 0x45 (personal messages).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

if TYPE_CHECKING:
    Point = tuple[int, int, int]
    """A point of the curve in Jacobian coordinates: (X, Y, Z) stands for (X / Z^2, Y / Z^3), and Z = 0 for infinity."""

EVM_SIGNATURE_BYTES: Final = 65
SOLANA_SIGNATURE_BYTES: Final = 64

_LANE: Final = (1 << 64) - 1
_RATE_BYTES: Final = 136
"""1600 bits of state less twice the 256 bits of security, in bytes."""

_FIELD: Final = 2**256 - 2**32 - 977
_ORDER: Final = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
_GENERATOR: Final = (
    0x79BE667E_F9DCBBAC_55A06295_CE870B07_029BFCDB_2DCE28D9_59F2815B_16F81798,
    0x483ADA77_26A3C465_5DA4FBFC_0E1108A8_FD17B448_A6855419_9C47D08F_FB10D4B8,
    1,
)
_INFINITY: Final = (1, 1, 0)

_HEX_KEY: Final = re.compile(r"[0-9a-f]{64}")
_BASE58: Final = {digit: value for value, digit in enumerate("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")}


# ---- Keccak-256 --------------------------------------------------------------------------------------------------------------------


def _round_constants() -> tuple[int, ...]:
    """Return the 24 constants of step iota (FIPS 202 algorithms 5 and 6): bit 2^j - 1 of each is the next bit of a shift register."""
    register, constants = 1, []
    for _ in range(24):
        constant = 0
        for j in range(7):
            constant |= (register & 1) << ((1 << j) - 1)
            register = register << 1 ^ (0x171 if register & 0x80 else 0)
        constants.append(constant)
    return tuple(constants)


def _lane_moves() -> tuple[tuple[int, int, int], ...]:
    """Return (from, to, rotation) of steps rho and pi together (FIPS 202 sections 3.2.2 and 3.2.3); lane (x, y) has number x + 5y."""
    moves, x, y = [(0, 0, 0)], 1, 0
    for step in range(24):
        moves.append((x + 5 * y, y + 5 * ((2 * x + 3 * y) % 5), (step + 1) * (step + 2) // 2 % 64))
        x, y = y, (2 * x + 3 * y) % 5
    return tuple(moves)


_ROUND_CONSTANTS: Final = _round_constants()
_LANE_MOVES: Final = _lane_moves()


def _rotate_left(lane: int, bits: int) -> int:
    return (lane << bits | lane >> (64 - bits)) & _LANE


def _permute(lanes: list[int]) -> list[int]:
    """Apply Keccak-f[1600] to 25 lanes (FIPS 202 section 3.3)."""
    for constant in _ROUND_CONSTANTS:
        columns = [lanes[x] ^ lanes[x + 5] ^ lanes[x + 10] ^ lanes[x + 15] ^ lanes[x + 20] for x in range(5)]
        parities = [columns[x - 1] ^ _rotate_left(columns[(x + 1) % 5], 1) for x in range(5)]
        moved = [0] * 25
        for source, destination, bits in _LANE_MOVES:
            moved[destination] = _rotate_left(lanes[source] ^ parities[source % 5], bits)
        lanes = [
            moved[x + y] ^ (~moved[(x + 1) % 5 + y] & _LANE & moved[(x + 2) % 5 + y])
            for y in range(0, 25, 5)
            for x in range(5)
        ]  # fmt: skip
        lanes[0] ^= constant
    return lanes


def keccak_256(data: bytes) -> bytes:
    """Return the Keccak-256 digest of Ethereum: the sponge of FIPS 202 section 4, padded by 0x01 as before the standard's 0x06.

    Example: `keccak_256(b"").hex()` begins with "c5d24601".
    """
    padded = bytearray(data) + bytes(_RATE_BYTES - len(data) % _RATE_BYTES)
    padded[len(data)] ^= 0x01
    padded[-1] ^= 0x80
    lanes = [0] * 25
    for start in range(0, len(padded), _RATE_BYTES):
        for lane in range(_RATE_BYTES // 8):
            lanes[lane] ^= int.from_bytes(padded[start + 8 * lane : start + 8 * lane + 8], "little")
        lanes = _permute(lanes)
    return b"".join(lane.to_bytes(8, "little") for lane in lanes[:4])


# ---- secp256k1 ---------------------------------------------------------------------------------------------------------------------


def _double(point: Point) -> Point:
    x, y, z = point
    ratio = 4 * x * y * y % _FIELD
    slope = 3 * x * x % _FIELD
    new_x = (slope * slope - 2 * ratio) % _FIELD
    return new_x, (slope * (ratio - new_x) - 8 * y**4) % _FIELD, 2 * y * z % _FIELD


def _add(left: Point, right: Point) -> Point:
    """Add two points (SEC 1 section 2.2.1, in Jacobian coordinates)."""
    if not left[2]:
        return right
    if not right[2]:
        return left
    left_z2, right_z2 = left[2] * left[2] % _FIELD, right[2] * right[2] % _FIELD
    x1, x2 = left[0] * right_z2 % _FIELD, right[0] * left_z2 % _FIELD
    y1, y2 = left[1] * right_z2 * right[2] % _FIELD, right[1] * left_z2 * left[2] % _FIELD
    if x1 == x2:
        return _double(left) if y1 == y2 else _INFINITY
    width, height = x2 - x1, y2 - y1
    width2 = width * width % _FIELD
    width3, base = width * width2 % _FIELD, x1 * width2 % _FIELD
    new_x = (height * height - width3 - 2 * base) % _FIELD
    return new_x, (height * (base - new_x) - y1 * width3) % _FIELD, width * left[2] * right[2] % _FIELD


def _combine(left_factor: int, left: Point, right_factor: int, right: Point) -> Point:
    """Return left_factor * left + right_factor * right, doubling once for both."""
    both, result = _add(left, right), _INFINITY
    for bit in range(255, -1, -1):
        result = _double(result)
        chosen = (left_factor >> bit & 1) + 2 * (right_factor >> bit & 1)
        if chosen:
            result = _add(result, (left, right, both)[chosen - 1])
    return result


def recover_public_key(digest: bytes, signature: bytes) -> bytes | None:
    """Return the 64 bytes (x, y) of the key that signed a digest, or None where no key can have.

    `signature` is r, s and v: 32 + 32 + 1 bytes. r is below the order, s at most half of it (of the two that verify only one counts,
    EIP-2), v says which of two points was meant: 0 or 27 the one with even y, 1 or 28 the other.

    Source: SEC 1 section 4.1.6 with h = 1 and j = 0: Q = (s R - e G) / r.
    """
    assert len(signature) == EVM_SIGNATURE_BYTES, "r, s and v are 65 bytes"
    r, s, v = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big"), signature[64]
    if v not in {0, 1, 27, 28} or not 0 < r < _ORDER or not 0 < s <= _ORDER // 2:
        return None
    square = (r**3 + 7) % _FIELD
    y = pow(square, (_FIELD + 1) // 4, _FIELD)
    if y * y % _FIELD != square:
        return None
    if y & 1 != (v if v < 27 else v - 27):
        y = _FIELD - y
    inverse = pow(r, -1, _ORDER)
    x, y, z = _combine(s * inverse % _ORDER, (r, y, 1), -int.from_bytes(digest, "big") * inverse % _ORDER, _GENERATOR)
    if not z:
        return None
    shrink = pow(z, -1, _FIELD)
    return (x * shrink**2 % _FIELD).to_bytes(32, "big") + (y * shrink**3 % _FIELD).to_bytes(32, "big")


# ---- wallets -----------------------------------------------------------------------------------------------------------------------


def evm_address(raw: bytes) -> str:
    """Return the 20 bytes of an address with their checksum: a letter is a capital where its digit of the hash is 8 or more (EIP-55)."""
    digits = raw.hex()
    marks = keccak_256(digits.encode()).hex()
    return "0x" + "".join(digit.upper() if int(mark, 16) >= 8 else digit for digit, mark in zip(digits, marks, strict=False))


def evm_signer(text: str, signature: bytes) -> str | None:
    """Return the address that signed a text as an EIP-191 personal message, or None where none can have."""
    message = text.encode()
    public_key = recover_public_key(keccak_256(b"\x19Ethereum Signed Message:\n%d%b" % (len(message), message)), signature)
    return None if public_key is None else evm_address(keccak_256(public_key)[12:])


def solana_public_key(address: str) -> bytes | None:
    """Return the 32 bytes of a Solana address, or None where it is not the base58 of 32 bytes. A leading "1" is a zero byte."""
    if not 32 <= len(address) <= 44 or not set(address) <= _BASE58.keys():
        return None
    number = 0
    for digit in address:
        number = number * 58 + _BASE58[digit]
    zeros = len(address) - len(address.lstrip("1"))
    length = zeros + (number.bit_length() + 7) // 8
    return number.to_bytes(32, "big") if length == 32 else None


def hex_public_key(address: str) -> bytes | None:
    """Return the Ed25519 key that an address of 64 lower-case hex digits is, or None."""
    return bytes.fromhex(address) if _HEX_KEY.fullmatch(address) else None


def solana_signed(text: str, signature: bytes, public_key: bytes) -> bool:
    """Return whether a key signed the bytes of a text (Ed25519, RFC 8032, by libsodium, which refuses keys of small order)."""
    try:
        VerifyKey(public_key).verify(text.encode(), signature)
    except BadSignatureError:
        return False
    return True
