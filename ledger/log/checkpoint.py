"""Signed tree heads: C2SP signed notes (c2sp.org/signed-note) and checkpoints (c2sp.org/tlog-checkpoint).

A checkpoint's body is three lines, and the note adds an empty line and one line per signature:

    example.com/acme
    70000
    mqjx0gXlB...=

    — example.com/acme Az3grl...=

Only the canonical form is accepted: no leading zeros, no other base64, nothing before or after. A key is known by its name and the
first four bytes of SHA-256(name || 0x0A || 0x01 || public key); 0x01 says Ed25519.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from ledger.errors import refusal
from ledger.log.merkle import HASH_BYTES
from stockledger.v1.errors_pb2 import Reason

ED25519 = b"\x01"
KEY_ID_BYTES = 4
NOTE_CHARACTERS_MAX = 1_000_000
SIGNATURES_MAX = 100

_SIGNATURE_START = "\u2014 "
_PRIVATE_START = "PRIVATE+KEY+"
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint says: the log of this origin had this root at this size."""

    origin: str
    size: int
    root: bytes

    def body(self) -> str:
        """Write the text that is signed."""
        return f"{self.origin}\n{self.size}\n{encode_base64(self.root)}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text and the names of the known keys that signed it, each verified."""

    text: str
    signers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key and the name it signs under."""

    name: str
    public_key: bytes

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read `name+hex(key id)+base64(type || public key)`.

        Raises: InvalidRequest FIELD_MALFORMED.
        """
        name, key_id, encoded = _three_parts(text, "verifier_key")
        typed = decode_base64(encoded, "verifier_key")
        if not _is_name(name) or len(typed) != 33 or typed[:1] != ED25519:
            _malformed("verifier_key", "is not the name and key of an Ed25519 signer")
        key = cls(name, typed[1:])
        if key_id != key.key_id.hex():
            _malformed("verifier_key", f"has key id {key_id}, but its content gives {key.key_id.hex()}")
        return key

    @property
    def key_id(self) -> bytes:
        """The four bytes that, with the name, point from a signature to its key."""
        return hashlib.sha256(self.name.encode() + b"\n" + ED25519 + self.public_key).digest()[:KEY_ID_BYTES]

    def verify(self, text: str, signature: bytes) -> bool:
        """Tell whether this key signed the text."""
        try:
            VerifyKey(self.public_key).verify(text.encode(), signature)
        except (BadSignatureError, ValueError):
            return False
        return True

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{encode_base64(ED25519 + self.public_key)}"


class Signer:
    """An Ed25519 key that signs notes under a name. Its signatures are deterministic (RFC 8032)."""

    def __init__(self, name: str, seed: bytes) -> None:
        if not _is_name(name):
            _malformed("name", f"{name!r} cannot name a key: it is empty, or has a space or a plus")
        self._key = SigningKey(seed)
        self.verifier_key = VerifierKey(name, bytes(self._key.verify_key))

    @classmethod
    def generate(cls, name: str) -> Signer:
        """Make a new key from the operating system's randomness."""
        return cls(name, bytes(SigningKey.generate()))

    @classmethod
    def from_secret_text(cls, text: str) -> Signer:
        """Read `PRIVATE+KEY+name+hex(key id)+base64(type || seed)`, the form that Go's sumdb/note uses.

        Raises: InvalidRequest FIELD_MALFORMED, which never repeats the text.
        """
        if not text.startswith(_PRIVATE_START):
            _malformed("secret_key", f"does not start with {_PRIVATE_START}")
        name, key_id, encoded = _three_parts(text.removeprefix(_PRIVATE_START), "secret_key")
        typed = decode_base64(encoded, "secret_key")
        if len(typed) != 33 or typed[:1] != ED25519:
            _malformed("secret_key", "is not an Ed25519 key")
        signer = cls(name, typed[1:])
        if key_id != signer.verifier_key.key_id.hex():
            _malformed("secret_key", f"has key id {key_id}, but its content gives {signer.verifier_key.key_id.hex()}")
        return signer

    @property
    def name(self) -> str:
        return self.verifier_key.name

    @property
    def secret_text(self) -> str:
        """The key as text, to be kept secret."""
        return f"{_PRIVATE_START}{self.name}+{self.verifier_key.key_id.hex()}+{encode_base64(ED25519 + bytes(self._key))}"

    def sign(self, text: str) -> str:
        """Make the signature line for a note text."""
        signature = self._key.sign(text.encode()).signature
        return f"{_SIGNATURE_START}{self.name} {encode_base64(self.verifier_key.key_id + signature)}\n"

    def __repr__(self) -> str:
        return f"Signer({str(self.verifier_key)!r})"


def sign_checkpoint(origin: str, size: int, root: bytes, signer: Signer) -> str:
    """Write and sign the checkpoint of a tree. The key's name should equal the origin.

    Never sign two that are inconsistent: whoever holds both holds the proof that the log was rewritten.
    """
    assert size >= 0, size
    assert len(root) == HASH_BYTES, len(root)
    if not _is_line(origin):
        _malformed("origin", f"{origin!r} is not one printable line")
    body = Checkpoint(origin, size, root).body()
    return f"{body}\n{signer.sign(body)}"


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a checkpoint, signed or its body alone, without looking at the signatures.

    Raises: InvalidRequest FIELD_MALFORMED for anything but the canonical form, extension lines included.
    """
    body, _ = _split_note(text) if "\n\n" in text else (text, [])
    lines = body.split("\n")
    if len(lines) != 4 or lines[3]:
        _malformed("checkpoint", f"has {len(lines) - 1} lines in its body, not 3")
    origin, decimal, encoded, _ = lines
    if not _is_line(origin):
        _malformed("checkpoint", "has no origin")
    if not _DECIMAL.fullmatch(decimal):
        _malformed("checkpoint", f"has the size {decimal[:40]!r}")
    root = decode_base64(encoded, "checkpoint")
    if len(root) != HASH_BYTES:
        _malformed("checkpoint", f"has a root of {len(root)} bytes, not {HASH_BYTES}")
    return Checkpoint(origin, int(decimal), root)


def open_note(text: str, keys: Iterable[VerifierKey]) -> Note:
    """Check the signatures of a note against the keys one trusts, and give its text.

    Signatures of unknown keys are ignored. A known key whose signature fails rejects the note, whatever else signed it.

    Raises: InvalidRequest FIELD_MALFORMED; RuleViolated SIGNATURE_INVALID when a known key fails, or none has signed.
    """
    known = {(key.name, key.key_id): key for key in keys}
    body, signatures = _split_note(text)
    signers = []
    for name, key_id, signature in signatures:
        key = known.get((name, key_id))
        if key is None:
            continue
        if not key.verify(body, signature):
            raise refusal(Reason.REASON_SIGNATURE_INVALID, f"the signature of {name} does not verify", signer=name)
        if name not in signers:
            signers.append(name)
    if not signers:
        names = ", ".join(sorted({name for name, _ in known})) or "nobody"
        raise refusal(Reason.REASON_SIGNATURE_INVALID, f"no known key has signed; known are {names}", signer=names)
    return Note(body, tuple(signers))


def encode_base64(data: bytes) -> str:
    """Encode with the standard alphabet and padding (RFC 4648 section 4)."""
    return base64.b64encode(data).decode("ascii")


def decode_base64(text: str, field: str) -> bytes:
    """Decode standard base64, and only its canonical form.

    Raises: InvalidRequest FIELD_MALFORMED, naming the field.
    """
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        _malformed(field, "has bad base64")
    if encode_base64(data) != text:  # unused bits must be zero, or one signature would have several spellings
        _malformed(field, "has base64 that is not canonical")
    return data


def parse_decimal(text: str, field: str) -> int:
    """Read a decimal number without sign or leading zeros.

    Raises: InvalidRequest FIELD_MALFORMED, naming the field.
    """
    if not _DECIMAL.fullmatch(text):
        _malformed(field, f"has {text[:40]!r} where a decimal number belongs")
    return int(text)


def _split_note(text: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """Take a note apart into its text and its signatures (name, key id, signature)."""
    if len(text) > NOTE_CHARACTERS_MAX:
        _malformed("note", f"has {len(text)} characters, more than {NOTE_CHARACTERS_MAX}")
    if any((character < " " and character != "\n") or "\ud800" <= character <= "\udfff" for character in text):
        _malformed("note", "has control characters, or halves of characters")
    body, separator, block = text.rpartition("\n\n")
    if not separator or not block.endswith("\n"):
        _malformed("note", "has no signature block after an empty line")
    lines = block.removesuffix("\n").split("\n")
    if len(lines) > SIGNATURES_MAX:
        _malformed("note", f"has {len(lines)} signatures, more than {SIGNATURES_MAX}")
    return body + "\n", [_parse_signature(line) for line in lines]


def _parse_signature(line: str) -> tuple[str, bytes, bytes]:
    if not line.startswith(_SIGNATURE_START):
        _malformed("note", "has a line among its signatures that is none")
    name, _, encoded = line.removeprefix(_SIGNATURE_START).partition(" ")
    blob = decode_base64(encoded, "note")
    if not _is_name(name) or len(blob) <= KEY_ID_BYTES:
        _malformed("note", "has a signature without name or content")
    return name, blob[:KEY_ID_BYTES], blob[KEY_ID_BYTES:]


def _three_parts(text: str, field: str) -> tuple[str, str, str]:
    parts = text.split("+", 2)  # base64 has plus signs of its own, a name has none
    if len(parts) != 3:
        _malformed(field, "is not of the form name+id+key")
    return parts[0], parts[1], parts[2]


def _is_name(name: str) -> bool:
    return _is_line(name) and not any(character.isspace() or character == "+" for character in name)


def _is_line(text: str) -> bool:
    return bool(text) and all(character >= " " for character in text)


def _malformed(field: str, what: str) -> NoReturn:
    raise refusal(Reason.REASON_FIELD_MALFORMED, f"{field} {what}", field=field)
