"""The books as bytes, so that a ledger opens without folding its whole log again.

    size = write_latest(log, "books.db.snapshot")
    state, opened_from = open_state(log, "books.db.snapshot")

A snapshot is a cache that may be deleted at any time. It is folded from the durable log, never taken from books that run ahead of it,
and it is discarded, with the reason said, unless its size, the root of the log at that size, and the version of rules and tables match.

The declared types of State are the schema: records become lists of their fields, tables two lists of keys and values, columns raw
little-endian bytes behind the JSON that refers to them by number. A changed declaration changes `VERSION`, so that no older snapshot is
read by it. Tables keep their order: a loaded state is the folded one in that too.
"""

from __future__ import annotations

import array
import dataclasses
import hashlib
import itertools
import json
import sys
import types
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ledger import replay
from ledger.errors import refusal
from ledger.log.snapshot import read_snapshot, write_snapshot
from ledger.open_holds import COLUMNS, OpenHolds
from ledger.request_window import RequestWindow
from ledger.rules import RULES_VERSION
from ledger.state import Book, State
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    import os

    from ledger.log.log import Log

_T = typing.TypeVar("_T")


class _Column(typing.Generic[_T]):
    """Stands for array.array in annotations, which takes no parameters at run time before Python 3.12."""


class _Codec(NamedTuple):
    """How values of one declared type become JSON and columns, and come back."""

    name: str
    encode: Callable[[Any, list[bytes]], Any]
    decode: Callable[[Any, list[bytes]], Any]


_NOT_KEPT: Final = frozenset({"journal"})
"""Fields of `State` that belong to a batch on its way; so do those whose names begin with an underscore."""
_TYPE_CODES: Final = frozenset("iqIQ")
_LENGTH_BYTES: Final = 8


# ---- one codec for each form of declaration ----------------------------------------------------------------------------------------


def _same(value: Any, _: list[bytes]) -> Any:
    return value


def _scalar(kind: type[Any]) -> _Codec:
    return _Codec(kind.__name__, _same, _same)


_BYTES: Final = _Codec("bytes", lambda value, _: value.hex(), lambda value, _: bytes.fromhex(value))


def _raw(column: array.array[Any]) -> bytes:
    """Return a column's bytes, little-endian on every machine."""
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column.tobytes()


def _unraw(code: str, data: bytes) -> array.array[Any]:
    if code not in _TYPE_CODES:
        raise ValueError(f"a column of type {code!r}")
    column = array.array(code)
    column.frombytes(data)
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _encode_column(column: array.array[Any], blobs: list[bytes]) -> list[Any]:
    """Set a column's bytes aside, without the zeros at its end that are only room to grow."""
    blobs.append(_raw(column).rstrip(b"\0"))
    return [column.typecode, len(column) * column.itemsize, len(blobs) - 1]


def _decode_column(value: list[Any], blobs: list[bytes]) -> array.array[Any]:
    code, length, number = value
    return _unraw(code, blobs[number].ljust(length, b"\0"))


def _encode_locations(table: dict[bytes, int], blobs: list[bytes]) -> int:
    """Set a table of request ids aside as three columns: there may be ten million of them."""
    blobs.append(_raw(array.array("Q", map(len, table))))
    blobs.append(b"".join(table))
    blobs.append(_raw(array.array("q", table.values())))
    return len(blobs) - 3


def _decode_locations(number: int, blobs: list[bytes]) -> dict[bytes, int]:
    lengths, keys, locations = _unraw("Q", blobs[number]), blobs[number + 1], _unraw("q", blobs[number + 2])
    ends = list(itertools.accumulate(lengths))
    starts = [end - length for end, length in zip(ends, lengths, strict=True)]
    return {keys[start:end]: location for start, end, location in zip(starts, ends, locations, strict=True)}


def _sequence(make: Callable[[Any], Any], item: _Codec) -> _Codec:
    name = f"{make.__name__}[{item.name}]"
    put_in_order = sorted if make is frozenset else list
    if item.encode is _same:
        return _Codec(name, lambda value, _: put_in_order(value), lambda value, _: make(value))
    return _Codec(
        name,
        lambda value, blobs: [item.encode(each, blobs) for each in put_in_order(value)],
        lambda value, blobs: make(item.decode(each, blobs) for each in value),
    )


def _fixed_tuple(items: list[_Codec]) -> _Codec:
    name = f"tuple[{', '.join(item.name for item in items)}]"
    if all(item.encode is _same for item in items):
        return _Codec(name, lambda value, _: list(value), lambda value, _: tuple(value))
    return _Codec(
        name,
        lambda value, blobs: [item.encode(each, blobs) for item, each in zip(items, value, strict=True)],
        lambda value, blobs: tuple(item.decode(each, blobs) for item, each in zip(items, value, strict=True)),
    )


def _table(key: _Codec, value: _Codec) -> _Codec:
    name = f"dict[{key.name}, {value.name}]"
    if (key.name, value.name) == ("bytes", "int"):
        return _Codec(name, _encode_locations, _decode_locations)
    keys, values = _sequence(list, key), _sequence(list, value)
    return _Codec(
        name,
        lambda table, blobs: [keys.encode(table, blobs), values.encode(table.values(), blobs)],
        lambda pair, blobs: dict(zip(keys.decode(pair[0], blobs), values.decode(pair[1], blobs), strict=True)),
    )


def _optional(inner: _Codec) -> _Codec:
    return _Codec(
        f"{inner.name} | None",
        lambda value, blobs: None if value is None else [inner.encode(value, blobs)],
        lambda value, blobs: None if value is None else inner.decode(value[0], blobs),
    )


def _record(kind: type[Any], hints: dict[str, Any]) -> _Codec:
    """Return the codec of a class as the list of its fields."""
    fields = [(field, _codec(hint)) for field, hint in hints.items()]
    name = f"{kind.__name__}({', '.join(f'{field}: {codec.name}' for field, codec in fields)})"

    def encode(record: Any, blobs: list[bytes]) -> list[Any]:
        return [codec.encode(getattr(record, field), blobs) for field, codec in fields]

    def decode(values: list[Any], blobs: list[bytes]) -> Any:
        found = {field: codec.decode(value, blobs) for (field, codec), value in zip(fields, values, strict=True)}
        if dataclasses.is_dataclass(kind):
            return kind(**found)
        made = kind()
        for field, value in found.items():
            setattr(made, field, value)
        return made

    return _Codec(name, encode, decode)


_PLAIN_CLASSES: Final[dict[type[Any], dict[str, Any]]] = {
    Book: {"units": _Column[int], "held": _Column[int]},
    OpenHolds: {**dict.fromkeys(COLUMNS, _Column[int]), "references": list[str]},
    RequestWindow: {"seconds": dict[int, dict[bytes, int]], "count": int, "low_water_second": int},
}
"""What the classes of the books that are no dataclasses consist of."""


def _codec(hint: Any) -> _Codec:
    """Return the codec of a declared type.

    Raises: TypeError for a declaration that no snapshot could keep.
    """
    if hint in (int, str, bool, None, type(None)):
        return _scalar(hint or type(None))
    if hint is bytes:
        return _BYTES
    if hint in _PLAIN_CLASSES:
        return _record(hint, _PLAIN_CLASSES[hint])
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = typing.get_type_hints(hint, localns={"array": _Column})
        kept = {field.name: hints[field.name] for field in dataclasses.fields(hint) if field.name not in _NOT_KEPT and field.name[0] != "_"}
        return _record(hint, kept)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is _Column:
        return _Codec("column", _encode_column, _decode_column)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return _fixed_tuple([_codec(argument) for argument in arguments])
    if origin in (tuple, list, frozenset):
        return _sequence(origin, _codec(arguments[0]))
    if origin is dict:
        return _table(_codec(arguments[0]), _codec(arguments[1]))
    if origin in (types.UnionType, typing.Union) and len(arguments) == 2 and arguments[1] is type(None):
        return _optional(_codec(arguments[0]))
    raise TypeError(f"no snapshot can keep a {hint}")


_STATE: Final = _codec(State)
VERSION: Final = f"{RULES_VERSION}:{hashlib.sha256(_STATE.name.encode()).hexdigest()[:16]}"
"""What a snapshot must have been written under: the version of the rules, and a digest of all declared tables."""


# ---- a state and its bytes ---------------------------------------------------------------------------------------------------------


def encode_state(state: State) -> bytes:
    """Return a state as bytes: the length of the JSON in 8 bytes, the JSON ([lengths of the columns, state]), the columns."""
    assert state.journal is None, "a state that may never have happened is not kept"
    blobs: list[bytes] = []
    value = _STATE.encode(state, blobs)
    document = json.dumps([[len(blob) for blob in blobs], value], separators=(",", ":")).encode()
    return b"".join([len(document).to_bytes(_LENGTH_BYTES, "big"), document, *blobs])


def decode_state(payload: bytes) -> State:
    """Return the state that `encode_state` made these bytes of.

    Raises: ValueError, TypeError, LookupError, OverflowError for bytes it did not make.
    """
    start = _LENGTH_BYTES + int.from_bytes(payload[:_LENGTH_BYTES], "big")
    lengths, value = json.loads(payload[_LENGTH_BYTES:start])
    if sum(lengths) != len(payload) - start:
        raise ValueError("its columns have another length")
    ends = list(itertools.accumulate(lengths, initial=start))
    state: State = _STATE.decode(value, [payload[begin:end] for begin, end in itertools.pairwise(ends)])
    return state


# ---- beside a log ------------------------------------------------------------------------------------------------------------------


def snapshot_path_of(url: str) -> str | None:
    """Return where the snapshot of a store belongs: beside its file, or nowhere for a store in memory.

    Example: `snapshot_path_of("sqlite:///books.db") == "books.db.snapshot"`.
    """
    path = url.removeprefix("sqlite:///")
    return None if path in (url, ":memory:") else f"{path}.snapshot"


def load_state(log: Log, path: str | os.PathLike[str]) -> tuple[State | None, str]:
    """Return the state of the snapshot at this path, and its size in words; or None, and why it is not used."""
    whys: list[str] = []
    snapshot = read_snapshot(path, whys.append)
    if snapshot is None:
        return None, whys[0]
    if snapshot.rules_version != VERSION:
        return None, f"the snapshot is of rules {snapshot.rules_version}, these are {VERSION}"
    if not 0 <= snapshot.size <= log.size:
        return None, f"the snapshot is of size {snapshot.size}, the log has {log.size}"
    if snapshot.root != log.tree.root_at(snapshot.size):
        return None, f"the snapshot is of another log: the root at size {snapshot.size} differs"
    try:
        state = decode_state(snapshot.payload)
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        return None, f"the snapshot is damaged: {error}"
    if state.size != snapshot.size:
        return None, f"the snapshot is damaged: it says size {snapshot.size} and holds a state of {state.size}"
    return state, f"a snapshot of size {snapshot.size}"


def open_state(log: Log, path: str | os.PathLike[str] | None, progress: replay.Progress | None = None) -> tuple[State, str]:
    """Return the state of the whole log, and what it was folded from: "a snapshot of size 5000", or "the whole log: ..." and why.

    Raises: DataLoss LOG_CORRUPT with the first bad index.
    """
    state, how = (None, "no place for a snapshot") if path is None else load_state(log, path)
    if state is None:
        state, how = State(), f"the whole log: {how}"
    replay.fold_log(state, log, log.size, progress)
    return state, how


def write_latest(log: Log, path: str | os.PathLike[str], progress: replay.Progress | None = None) -> int:
    """Write the snapshot of everything durable, folding on from the last one, and return its size.

    It reads the log alone, so any process that can read the log may do it while another writes.

    Raises: Unavailable STORE_UNAVAILABLE when the file cannot be written; DataLoss LOG_CORRUPT with the first bad index.
    """
    if log.read_only:
        log.refresh()
    state, _ = open_state(log, path, progress)
    try:
        write_snapshot(path, size=state.size, root=log.tree.root_at(state.size), rules_version=VERSION, payload=encode_state(state))
    except OSError as error:
        message = f"the snapshot {path} cannot be written: {error.strerror}"
        raise refusal(Reason.REASON_STORE_UNAVAILABLE, message, store=path) from error
    return state.size
