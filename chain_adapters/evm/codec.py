"""Calls, answers, events and refusals of the contracts as bytes, and back. Pure functions over an ABI; no node.

A function, event or error is named by its whole signature ("mint(bytes32,address,uint256)"), because names alone are not
unique: the token has two `forcedTransfer`. Addresses are text with checksum (EIP-55), bytes are bytes, numbers are ints.

Source: the Solidity ABI specification.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_typing import ABIElement
from eth_utils.abi import (
    abi_to_signature,
    collapse_if_tuple,
    event_abi_to_log_topic,
    function_signature_to_4byte_selector,
)
from eth_utils.address import to_checksum_address

from chain_adapters.evm.artifacts import load

WORD_BYTES = 32
SELECTOR_BYTES = 4
_DYNAMIC = ("string", "bytes", "[]")


class NotDecodable(ValueError):
    """The bytes are not what the contract would have said."""


@dataclass(frozen=True, slots=True)
class Event:
    """A log entry in words: the event's name and its fields."""

    name: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ContractRefusal:
    """Why a contract reverted: the error's name, its fields, and what it means in words."""

    name: str
    fields: dict[str, Any]
    meaning: str

    def __str__(self) -> str:
        numbers = ", ".join(f"{name} {value.hex() if isinstance(value, bytes) else value}" for name, value in self.fields.items())
        return f"{self.name}({numbers}){': ' + self.meaning if self.meaning else ''}"


def encode_call(contract: str, signature: str, *arguments: Any) -> bytes:
    """Write a call.

    Raises: KeyError for a signature the contract does not have, eth_abi's EncodingError for arguments that do not fit.
    """
    member = _members(contract, "function")[signature]
    return function_signature_to_4byte_selector(signature) + encode(_types(member["inputs"]), arguments)


def encode_creation(contract: str, *arguments: Any) -> bytes:
    """Write the creation code of a contract with the arguments of its constructor."""
    artifact = load(contract)
    inputs = [part for member in artifact.abi if member["type"] == "constructor" for part in member["inputs"]]
    return artifact.bytecode + encode(_types(inputs), arguments)


def decode_call(contract: str, data: bytes) -> tuple[str, tuple[Any, ...]]:
    """Read a call back: signature and arguments.

    Raises: NotDecodable.
    """
    for signature, member in _members(contract, "function").items():
        if function_signature_to_4byte_selector(signature) == data[:SELECTOR_BYTES]:
            return signature, tuple(_decode(member["inputs"], data[SELECTOR_BYTES:]))
    raise NotDecodable(f"{contract} has no function 0x{data[:SELECTOR_BYTES].hex()}")


def decode_answer(contract: str, signature: str, data: bytes) -> Any:
    """Read what a call answered: one value, a tuple of several, or None.

    Raises: NotDecodable, also for the empty answer of an address without code.
    """
    values = _decode(_members(contract, "function")[signature]["outputs"], data)
    if not values:
        return None
    return values[0] if len(values) == 1 else tuple(values)


def decode_event(contract: str, topics: Sequence[bytes], data: bytes) -> Event | None:
    """Read a log entry; None if the contract has no such event.

    Raises: NotDecodable if it is that event by its topic and not by its content.
    """
    member = _events(contract).get(topics[0]) if topics else None
    if member is None:
        return None
    indexed = [part for part in member["inputs"] if part["indexed"]]
    if len(indexed) != len(topics) - 1:
        _malformed(f"{member['name']} has {len(topics) - 1} indexed fields, not {len(indexed)}")
    if any(part["type"].endswith(_DYNAMIC) for part in indexed):
        _malformed(f"{member['name']} has an indexed field that is only told by its hash")
    values = {part["name"]: _decode([part], topic)[0] for part, topic in zip(indexed, topics[1:], strict=True)}
    rest = [part for part in member["inputs"] if not part["indexed"]]
    values |= {part["name"]: value for part, value in zip(rest, _decode(rest, data), strict=True)}
    return Event(member["name"], {part["name"]: values[part["name"]] for part in member["inputs"]})


def decode_refusal(contract: str, data: bytes) -> ContractRefusal:
    """Read what a contract reverted with. What nobody can read is a refusal too, named by its bytes."""
    for signature, member in _members(contract, "error").items():
        if function_signature_to_4byte_selector(signature) != data[:SELECTOR_BYTES]:
            continue
        try:
            values = _decode(member["inputs"], data[SELECTOR_BYTES:])
        except NotDecodable:
            break
        fields = {part["name"]: value for part, value in zip(member["inputs"], values, strict=True)}
        return ContractRefusal(member["name"], fields, load(contract).errors.get(signature, ""))
    if data[:SELECTOR_BYTES] == function_signature_to_4byte_selector("Panic(uint256)"):
        return ContractRefusal("Panic", {"code": int.from_bytes(data[SELECTOR_BYTES:])}, "")
    return ContractRefusal("Unknown", {"data": data}, "The contract gave no reason that is known.")


def signature_of(member: dict[str, Any]) -> str:
    """Write the signature of a member of an ABI: `mint(bytes32,address,uint256)`."""
    return str(abi_to_signature(cast("ABIElement", member)))


@functools.cache
def _members(contract: str, kind: str) -> dict[str, dict[str, Any]]:
    return {signature_of(member): member for member in load(contract).abi if member["type"] == kind}


@functools.cache
def _events(contract: str) -> dict[bytes, dict[str, Any]]:
    return {event_abi_to_log_topic(cast("Any", member)): member for member in _members(contract, "event").values()}


def _types(parts: Sequence[dict[str, Any]]) -> list[str]:
    return [str(collapse_if_tuple(cast("Any", part))) for part in parts]


def _decode(parts: Sequence[dict[str, Any]], data: bytes) -> list[Any]:
    types = _types(parts)
    try:
        values = decode(types, data)
    except (DecodingError, OverflowError, UnicodeDecodeError) as error:
        message = f"{len(data)} bytes are not ({', '.join(types)}): {error}"
        raise NotDecodable(message) from error
    return [_normal(kind, value) for kind, value in zip(types, values, strict=True)]


def _normal(kind: str, value: Any) -> Any:
    if kind == "address":
        return to_checksum_address(value)
    if kind == "address[]":
        return tuple(to_checksum_address(item) for item in value)
    return value


def _malformed(message: str) -> NoReturn:
    raise NotDecodable(message)
