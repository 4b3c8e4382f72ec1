"""Fold a log into a state, up to any size or moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.message import DecodeError

from ledger.errors import LedgerError, refusal
from ledger.request_ids import format_request_id, request_digest
from ledger.rules import fold
from ledger.rules.packed import transfer_of_packed
from ledger.rules.stored_runs import fold_stretch, read_page
from ledger.state import State
from ledger.unknown_fields import find_unknown_field
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.events_pb2 import Entry
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ledger.log.log import Log

    Progress = Callable[[int, int], None]
    """Called with (done, total) entries."""

_PROGRESS_EVERY = 8192
_PARCEL_ENTRIES = 16384
"""So many are read at once: each account is looked up once a parcel. With 4,096 a transfer costs a sixth more. They are 8 MB at most, and
then a page of any size."""
_PAGE_BYTES_LARGE = 1 << 17
"""From so many bytes on, a page is a parcel by itself: it has few of them, and memory stays small."""


def parse_entry(data: bytes, index: int) -> Entry:
    """Parse a stored entry; nothing in it is ignored.

    Raises: DataLoss LOG_CORRUPT.
    """
    try:
        entry = Entry.FromString(data)
    except DecodeError as error:
        raise refusal(Reason.REASON_LOG_CORRUPT, f"entry {index} is not an Entry: {error}", index=index) from error
    unknown = find_unknown_field(entry)
    if unknown is not None:
        message = f"entry {index} has field {unknown}, which this version does not know: it was written by a newer one"
        raise refusal(Reason.REASON_LOG_CORRUPT, message, index=index)
    return entry


def fold_log(state: State, log: Log, stop: int, progress: Progress | None = None) -> None:
    """Fold the entries from where the state is up to `stop`, comparing each with the tree.

    Raises: DataLoss LOG_CORRUPT with the first bad index.
    """
    told = state.size
    for entries in _parcels(log.read_pages_checked(state.size, stop)):
        _fold_parcel(state, entries)
        if progress is not None and state.size - told >= _PROGRESS_EVERY:
            told = state.size
            progress(told, stop)
    if progress is not None:
        progress(stop, stop)


def _parcels(pages: Iterator[list[bytes]]) -> Iterator[list[bytes]]:
    """Gather pages into parcels. What was read before a bad page is given before it is told of: an earlier entry may be worse."""
    parcel: list[bytes] = []
    try:
        for page in pages:
            parcel += page
            if len(parcel) >= _PARCEL_ENTRIES or sum(map(len, page)) > _PAGE_BYTES_LARGE:
                yield parcel
                parcel = []
    except LedgerError:
        yield parcel
        raise
    yield parcel


def _fold_parcel(state: State, entries: Sequence[bytes]) -> None:
    """Fold entries, plain transfers that follow each other at once."""
    page = read_page(entries)
    done = 0
    if page is not None:
        for start, stop in page.stretches():
            for data in entries[done:start]:
                _fold_one(state, data)
            done = stop if fold_stretch(state, page, start, stop) else start
    for data in entries[done:]:
        _fold_one(state, data)


def _fold_one(state: State, data: bytes) -> None:
    index = state.size
    entry = parse_entry(data, index)
    try:
        fold(state, entry, data)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        message = f"entry {index} cannot follow the books before it: {type(error).__name__} {error}"
        raise refusal(Reason.REASON_LOG_CORRUPT, message, index=index) from error


def latest_state(log: Log, progress: Progress | None = None) -> State:
    """Return the state of the whole log."""
    state = State()
    fold_log(state, log, log.size, progress)
    return state


def size_at(log: Log, *, size: int | None = None, time_us: int | None = None) -> int:
    """Return the size meant: as given, or that of the last entry decided at or before a moment (found by halving).

    Raises: BeyondLog INDEX_BEYOND_LOG.
    """
    if size is not None:
        if not 0 <= size <= log.size:
            raise refusal(Reason.REASON_INDEX_BEYOND_LOG, f"size {size} is beyond the log of {log.size}", index=size, size=log.size)
        return size
    assert time_us is not None, "a size or a time"
    low, high = 0, log.size
    while low < high:
        middle = (low + high) // 2
        if parse_entry(log.entry(middle), middle).decision_time_us <= time_us:
            low = middle + 1
        else:
            high = middle
    return low


class BookedRequest(NamedTuple):
    """What a request led to, and the digest of its content."""

    digest: bytes
    events: list[Any]


def booked_request(first: Entry, position: int, following: Callable[[int], Entry], state: State) -> BookedRequest:
    """Return what a request booked: all its parts, or its line of a packed entry."""
    kind = first.WhichOneof("event")
    assert kind is not None, "an entry has an event"
    if kind == "transfers_packed":
        packed = first.transfers_packed
        event = transfer_of_packed(state, packed, position)
        request_id = format_request_id(packed.request_ids[16 * position : 16 * position + 16])
        request = TransferUnitsRequest(
            request_id=request_id, instrument=event.instrument, source=event.source, destination=event.destination, units=event.units
        )
        return BookedRequest(request_digest(request), [event])
    entries = [first, *(following(n) for n in range(1, first.part_count))]
    events = [getattr(entry, entry.WhichOneof("event") or "") for entry in entries]
    return BookedRequest(first.request_digest, events)
