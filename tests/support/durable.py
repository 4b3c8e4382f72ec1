"""A ledger on a real file with units in it, request ids on demand, and what its log says of each request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scenario import START_US, account, holder, stock

from ledger import Ledger
from ledger.request_ids import format_request_id
from ledger.rules import TOPICS, fold
from stockledger.v1.events_pb2 import Entry
from stockledger.v1.transfers_pb2 import TransferUnitsRequest, UnitsTransferred

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ACCOUNTS = ("book:a0", "book:a1", "book:a2", "book:a3")
UNITS = 1_000_000


def url_of(path: Path) -> str:
    return f"sqlite:///{path / 'books.db'}"


def fund(books: Ledger, instrument: str, account: str, units: int) -> None:
    """Put units on an account by an entry of its own, past the rules of issuance; replay knows it."""
    event = UnitsTransferred(instrument=instrument, source="ledger:issuance", destination=account, units=units)
    moment = books._state.next_decision_time_us(books._clock.wall_us())
    entry = Entry(decision_time_us=moment, principal="operator", units_transferred=event)
    data = entry.SerializeToString()
    with books._writing:
        books.log.append(books.ledger_id, [TOPICS[UnitsTransferred]], [data])
        fold(books._state, entry, data)
        books._settled_size = books._state.size


def open_funded(url: str, **options: Any) -> Ledger:
    """Make a ledger with one instrument and four accounts of a million units each."""
    books = Ledger.open(url, ledger_id="acme", **options)
    books.execute(stock())
    books.execute(holder("h-1"))
    for name in ACCOUNTS:
        books.execute(account(name, "h-1"))
        fund(books, "AAPLx", name, UNITS)
    return books


def transfer(source: int = 0, destination: int = 1, units: int = 1, **fields: Any) -> TransferUnitsRequest:
    return TransferUnitsRequest(instrument="AAPLx", source=ACCOUNTS[source], destination=ACCOUNTS[destination], units=units, **fields)


def request_id(number: int, time_us: int = START_US) -> str:
    """Make the request id of a moment with this number in it."""
    return format_request_id((time_us // 1000 << 80 | 7 << 76 | 2 << 62 | number).to_bytes(16, "big"))


def booked_requests(books: Ledger) -> Iterator[tuple[str, str, int]]:
    """Walk the log: (principal, request id, index) of every request in it, those in packed entries too."""
    for index, entry in books.tail():
        if entry.request_id and entry.part == 0:
            yield entry.principal, format_request_id(entry.request_id), index
        ids = entry.transfers_packed.request_ids
        for place in range(0, len(ids), 16):
            yield entry.principal, format_request_id(ids[place : place + 16]), index


class Faulty:
    """A real backend behind a switch: the next append fails before it, or after it, and reading may fail as well."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.before: BaseException | None = None
        self.after: BaseException | None = None
        self.reading: BaseException | None = None
        self.appends = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def append(self, *batch: Any) -> None:
        self.appends += 1
        before, self.before = self.before, None
        if before is not None:
            raise before
        self.backend.append(*batch)
        after, self.after = self.after, None
        if after is not None:
            raise after

    def extent(self) -> Any:
        if self.reading is not None:
            raise self.reading
        return self.backend.extent()


def make_faulty(books: Ledger) -> Faulty:
    """Put the switch between a ledger's log and its store."""
    faulty = Faulty(books.log.backend)
    books.log.backend = faulty
    return faulty
