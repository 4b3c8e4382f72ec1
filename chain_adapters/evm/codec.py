"""Calls, answers, events and refusals of the contracts as bytes, and back. Pure functions over an ABI; no node.

A function, event or error is named by its whole signature ("mint(bytes32,address,uint256)"), because names alone are not
unique: the token has two `forcedTransfer`. Addresses are text with checksum (EIP-55), bytes are bytes, numbers are ints.

Source: the Solidity ABI specification.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
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
    selector, types = _function(contract, signature)
    return selector + encode(types, arguments)


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
    shape = _events(contract).get(topics[0]) if topics else None
    if shape is None:
        return None
    if len(shape.indexed) != len(topics) - 1:
        _malformed(f"{shape.name} has {len(topics) - 1} indexed fields, not {len(shape.indexed)}")
    values = [_decode_types((kind,), topic)[0] for kind, topic in zip(shape.indexed, topics[1:], strict=True)]
    values += _decode_types(shape.rest, data)
    return Event(shape.name, {name: values[place] for name, place in shape.places})


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
def _function(contract: str, signature: str) -> tuple[bytes, tuple[str, ...]]:
    """Return a function's selector and the types of its arguments."""
    return function_signature_to_4byte_selector(signature), _types(_members(contract, "function")[signature]["inputs"])


@dataclass(frozen=True, slots=True)
class _EventShape:
    """How an event's fields are told: the indexed ones each in a topic, the others together."""

    name: str
    indexed: tuple[str, ...]
    rest: tuple[str, ...]
    places: tuple[tuple[str, int], ...]
    """Each field's name, as the event declares them, and its place among the values as they are told."""


@functools.cache
def _events(contract: str) -> dict[bytes, _EventShape]:
    return {event_abi_to_log_topic(cast("Any", member)): _shape(member) for member in _members(contract, "event").values()}


def _shape(member: dict[str, Any]) -> _EventShape:
    indexed = [part for part in member["inputs"] if part["indexed"]]
    hashed = [part["name"] for part in indexed if part["type"].endswith(_DYNAMIC)]
    assert not hashed, f"{member['name']} tells {hashed} by a hash alone"
    told = [part["name"] for part in (*indexed, *(part for part in member["inputs"] if not part["indexed"]))]
    rest = [part for part in member["inputs"] if not part["indexed"]]
    places = tuple((part["name"], told.index(part["name"])) for part in member["inputs"])
    return _EventShape(member["name"], _types(indexed), _types(rest), places)


def _types(parts: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(str(collapse_if_tuple(cast("Any", part))) for part in parts)


def _decode(parts: Sequence[dict[str, Any]], data: bytes) -> list[Any]:
    return _decode_types(_types(parts), data)


def _decode_types(types: tuple[str, ...], data: bytes) -> list[Any]:
    """Read values of these types; what each needs but one word of is read here, a tenth of the library's time.

    Raises: NotDecodable.
    """
    readers = [_WORDS.get(kind) for kind in types]
    try:
        if all(readers):
            return [cast("_Word", read)(_word(data, place)) for place, read in enumerate(readers)]
        return [_normal(kind, value) for kind, value in zip(types, decode(types, data), strict=True)]
    except (DecodingError, NotDecodable, OverflowError, UnicodeDecodeError) as error:
        message = f"{len(data)} bytes are not ({', '.join(types)}): {error}"
        raise NotDecodable(message) from error


def _word(data: bytes, place: int) -> bytes:
    word = data[place * WORD_BYTES : (place + 1) * WORD_BYTES]
    if len(word) != WORD_BYTES:
        _malformed("they end too early")
    return word


def _number(bits: int) -> _Word:
    def read(word: bytes) -> int:
        number = int.from_bytes(word)
        if number >> bits:
            _malformed(f"{number} has more than {bits} bits")
        return number

    return read


def _flag(word: bytes) -> bool:
    return bool(_number(1)(word))


def _address(word: bytes) -> str:
    if any(word[: WORD_BYTES - _ADDRESS_BYTES]):
        _malformed("an address has more than 20 bytes")
    return _checksummed(word[-_ADDRESS_BYTES:])


@functools.lru_cache(maxsize=65_536)
def _checksummed(address: bytes) -> str:
    """Write an address with its checksum, a hash that wallets which come again need not be given again."""
    return str(to_checksum_address(address))


_Word = Callable[[bytes], Any]
_ADDRESS_BYTES = 20
_WORDS: dict[str, _Word] = {
    "address": _address,
    "bool": _flag,
    "bytes32": bytes,
    **{f"uint{bits}": _number(bits) for bits in (8, 64, 80, 128, 256)},
}


def _normal(kind: str, value: Any) -> Any:
    if kind == "address":
        return to_checksum_address(value)
    if kind == "address[]":
        return tuple(to_checksum_address(item) for item in value)
    return value


def _malformed(message: str) -> NoReturn:
    raise NotDecodable(message)
