"""Transactions with EIP-1559 fees: what is recorded before it is signed, and what is sent.

The payload is what gets signed: 0x02 || rlp([chain id, nonce, priority fee, fee, gas limit, to, value, data, access list]). It says
everything, so signing the same payload with the same key again (RFC 6979) gives the same transaction, hash included, after any crash.

Source: EIP-1559, EIP-2718.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import rlp  # type: ignore[import-untyped]
from eth_utils.address import to_canonical_address, to_checksum_address
from eth_utils.crypto import keccak
from rlp.exceptions import DecodingError, DeserializationError  # type: ignore[import-untyped]

TYPE = b"\x02"
SIGNATURE_BYTES = 65
ADDRESS_BYTES = 20
FIELDS = 9
TRANSFER_GAS = 21_000
"""Gas of a transaction that does nothing. Source: yellow paper, appendix G."""
REPLACEMENT_PERCENT = 13
"""Nodes take a replacement whose both fees are at least 10 % higher; some ask for 12.5 %."""


@dataclass(frozen=True, slots=True)
class Fees:
    """What is paid for a unit of gas at most, and of that to the proposer at most, in wei."""

    most: int
    priority: int

    def __post_init__(self) -> None:
        assert 0 <= self.priority <= self.most, (self.priority, self.most)


@dataclass(frozen=True, slots=True)
class UnsignedTransaction:
    """A call that pays nothing but its fees."""

    chain_id: int
    nonce: int
    fees: Fees
    gas_limit: int
    target: str
    data: bytes

    @property
    def payload(self) -> bytes:
        """The bytes that are signed."""
        fields = [
            self.chain_id,
            self.nonce,
            self.fees.priority,
            self.fees.most,
            self.gas_limit,
            to_canonical_address(self.target),
            0,
            self.data,
            [],
        ]
        return TYPE + bytes(rlp.encode(fields))

    @property
    def cost_most(self) -> int:
        """What is paid at most, in wei."""
        return self.gas_limit * self.fees.most

    def with_fees(self, fees: Fees) -> UnsignedTransaction:
        """Return the same transaction with other fees."""
        return replace(self, fees=fees)

    def cancellation(self, sender: str, fees: Fees) -> UnsignedTransaction:
        """Return what uses up the same nonce and does nothing: a payment of nothing to oneself."""
        return replace(self, target=sender, data=b"", gas_limit=TRANSFER_GAS, fees=fees)


def read_payload(payload: bytes) -> UnsignedTransaction:
    """Read a payload back. Only our own form is taken: no value, no access list, no contract creation, no other type.

    Raises: ValueError.
    """
    if payload[:1] != TYPE:
        message = f"a payload starts with 0x02, not 0x{payload[:1].hex()}"
        raise ValueError(message)
    try:
        fields = rlp.decode(payload[1:], strict=True)
    except (DecodingError, DeserializationError) as error:
        message = f"the payload is not RLP: {error}"
        raise ValueError(message) from error
    if not isinstance(fields, list | tuple) or len(fields) != FIELDS or any(not isinstance(part, bytes) for part in fields[:8]):
        raise ValueError("the payload has not the nine fields of EIP-1559")
    chain_id, nonce, priority, most, gas_limit, target, value, data, access = fields
    if len(target) != ADDRESS_BYTES or value != b"" or access:
        raise ValueError("the payload creates a contract, pays a value or has an access list")
    numbers = [int.from_bytes(part) for part in (chain_id, nonce, priority, most, gas_limit)]
    if numbers[2] > numbers[3]:
        raise ValueError("the payload gives the proposer more than it pays")
    read = UnsignedTransaction(numbers[0], numbers[1], Fees(numbers[3], numbers[2]), numbers[4], to_checksum_address(target), data)
    if read.payload != payload:
        raise ValueError("the payload is not in its one canonical form")
    return read


def assemble(payload: bytes, signature: bytes) -> bytes:
    """Put payload and signature (r || s || y, 32 + 32 + 1 bytes) together to what is broadcast."""
    assert len(signature) == SIGNATURE_BYTES, len(signature)
    parity = signature[64]
    assert parity in (0, 1), parity
    numbers = [parity, int.from_bytes(signature[:32]), int.from_bytes(signature[32:64])]
    return TYPE + bytes(rlp.encode([*rlp.decode(payload[1:]), *numbers]))


def transaction_hash(raw: bytes) -> str:
    """Return the id that the chain gives a broadcast transaction."""
    return "0x" + keccak(raw).hex()


def payload_of_landed(answer: Mapping[str, Any]) -> bytes | None:
    """Make the payload again of a transaction as a node tells it (eth_getTransactionByHash); None for one that cannot be ours.

    Raises: ValueError for an answer that lacks fields or has nonsense in them.
    """
    try:
        if answer["type"] != "0x2":
            return None
        if answer["to"] is None or int(answer["value"], 16) or answer["accessList"]:
            return None
        chain_id, nonce, gas = (int(answer[name], 16) for name in ("chainId", "nonce", "gas"))
        fees = Fees(int(answer["maxFeePerGas"], 16), int(answer["maxPriorityFeePerGas"], 16))
        return UnsignedTransaction(chain_id, nonce, fees, gas, answer["to"], bytes.fromhex(answer["input"][2:])).payload
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        message = f"the node tells a transaction that cannot be: {error!r}"
        raise ValueError(message) from error


def fees_now(base_fee: int, priority: int, *, most: int) -> Fees:
    """Return fees that land although the base fee doubles: six full blocks in a row raise it by 1.125^6 = 2.03.

    They never exceed `most` wei, the operator's limit. Source: EIP-1559.
    """
    wanted = min(2 * base_fee + priority, most)
    return Fees(wanted, min(priority, wanted))


def replacement_fees(old: Fees, now: Fees, *, most: int) -> Fees | None:
    """Return fees that a node takes in place of the old ones, at least today's; None if that is above `most` wei.

    Example: `replacement_fees(Fees(100, 10), Fees(50, 5), most=200) == Fees(113, 12)`.
    """
    raised = Fees(max(_raised(old.most), now.most), max(_raised(old.priority), now.priority))
    return raised if raised.most <= most else None


def is_underpriced(fees: Fees, base_fee: int, priority: int = 0) -> bool:
    """Tell whether it pays less than the base fee, or what that leaves of it is a whole replacement below the `priority` proposers get.

    With `priority` 0 the base fee alone is looked at. All in wei for a unit of gas.
    Example: `is_underpriced(Fees(108, 50), 100, 10)`, for 8 are left and 10 replace them; not so `Fees(109, 50)`, which 11 replace.
    """
    left = min(fees.priority, fees.most - base_fee)
    return left < 0 or _raised(left) <= priority


def _raised(fee: int) -> int:
    """Add REPLACEMENT_PERCENT, rounded up, and at least 1 wei."""
    return max(fee + 1, -(-fee * (100 + REPLACEMENT_PERCENT) // 100))
