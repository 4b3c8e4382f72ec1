"""Transfers read from their stored bytes: the books, or the refusal, that protobuf and `fold` come to entry by entry."""

from __future__ import annotations

import contextlib
import functools
import random
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenario import START_US

from ledger import DataLoss, replay, vectors
from ledger.digest import state_digest
from ledger.log.store import open_log
from ledger.rules import TOPICS
from ledger.rules.stored_runs import fold_stretch, read_page
from ledger.state import ISSUANCE, State
from stockledger.v1.accounts_pb2 import AccountOpened, HolderRegistered
from stockledger.v1.events_pb2 import Entry, LedgerOpened
from stockledger.v1.holds_pb2 import HoldPlaced
from stockledger.v1.instruments_pb2 import InstrumentRegistered
from stockledger.v1.transfers_pb2 import BatchTransferred, UnitsTransferred

pytestmark = pytest.mark.skipif(vectors.numpy is None, reason="columns need numpy")

COUNT = 60
FUNDING = 1 << 40
NAMES = ["book:alice", "book:bob", "book:b\u00c3\u00b6b", "a", "book:" + "long" * 30, "base:0x" + "5a" * 20, "eight:8x", "book:bob\x00"]
"""The third is what the UTF-8 of book:b\u00f6b looks like byte by byte; the last is another account than the second."""
SYMBOLS = ["AAPLx", "TSLAx", "A"]


def entry(moment_us: int, **fields: Any) -> bytes:
    return Entry(decision_time_us=moment_us, principal="operator", **fields).SerializeToString()


@functools.cache
def opening() -> list[bytes]:
    """Return the entries of books in which every account has something of every instrument."""
    opened = LedgerOpened(ledger="t", origin="t/t", request_window_seconds=3_600, request_window_count=100_000, format_version=1)
    entries = [entry(START_US - 99, ledger_opened=opened)]
    entries.append(entry(START_US - 98, holder_registered=HolderRegistered(holder="h", country="DE")))
    entries += [
        entry(START_US - 90 + n, instrument_registered=InstrumentRegistered(instrument={"symbol": symbol, "number": n, "multiplier": "1"}))
        for n, symbol in enumerate(SYMBOLS, 1)
    ]
    numbers = range(16, 16 + len(NAMES))
    entries += [
        entry(START_US - 60 + n, account_opened=AccountOpened(account=name, number=n, holder="h"))
        for n, name in zip(numbers, NAMES, strict=True)
    ]
    columns = {"sources": [ISSUANCE] * len(NAMES), "destinations": numbers, "units": [FUNDING] * len(NAMES)}
    legs = [{"instrument": symbol, **columns} for symbol in SYMBOLS]
    return [*entries, entry(START_US - 1, batch_transferred=BatchTransferred(legs=legs))]


def request_id_of(number: int, second: int = 0) -> bytes:
    return (START_US // 1000 + 1000 * second << 80 | 7 << 76 | 2 << 62 | number).to_bytes(16, "big")


def transfer(number: int, **changes: Any) -> Entry:
    made = Entry(decision_time_us=START_US + number, principal="operator", request_id=request_id_of(number), request_digest=b"d" * 16)
    made.units_transferred.CopyFrom(UnitsTransferred(instrument="AAPLx", source="book:alice", destination="book:bob", units=1 + number))
    for name, value in changes.items():
        setattr(made if name in Entry.DESCRIPTOR.fields_by_name else made.units_transferred, name, value)
    return made


def run_of(count: int = COUNT) -> list[bytes]:
    return [transfer(n).SerializeToString() for n in range(count)]


def funded() -> State:
    state = State()
    for data in opening():
        replay._fold_one(state, data)
    return state


def verdict(entries: list[bytes], *, at_once: bool, state: State | None = None) -> tuple[str, str, State]:
    """Return the refusal, if any, and the books as far as they came."""
    state = funded() if state is None else state
    error = ""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(vectors, "WORTHWHILE", 1 if at_once else 1_000_000)
        try:
            replay._fold_parcel(state, entries)
        except DataLoss as refused:
            error = str(refused)
    return error, state_digest(state), state


def assert_same(entries: list[bytes], prepare: Callable[[State], Any] = lambda _: None) -> str:
    """Compare both ways, and return the refusal."""
    states = funded(), funded()
    for state in states:
        prepare(state)
    at_once, one_by_one = (verdict(entries, at_once=way, state=state) for way, state in zip((True, False), states, strict=True))
    assert at_once == one_by_one
    return at_once[0]


def taken(state: State, entries: list[bytes]) -> bool:
    """Return whether a run of entries is booked at once, as a whole."""
    page = read_page(entries)
    return page is not None and page.stretches() == [(0, len(entries))] and fold_stretch(state, page, 0, len(entries))


# ---- runs that are taken ---------------------------------------------------------------------------------------------------------------

PLAIN: dict[str, Callable[[int], dict[str, Any]]] = {
    "all alike": lambda _: {},
    "units of any width": lambda n: {"units": 1 << n % 50},
    "many instruments": lambda n: {"instrument": SYMBOLS[n % 3]},
    "names of any length": lambda n: {"source": NAMES[3 + n % 4], "destination": NAMES[3 + (n + 1) % 4]},
    "names that need two bytes of length": lambda _: {"source": NAMES[4], "destination": NAMES[5]},
    "principals of any length": lambda n: {"principal": ("a", "operator", "b\u00f6rse", "x" * 127)[n % 4]},
    "a principal that is not ASCII": lambda _: {"principal": "b\u00f6rse"},
    "ids of many seconds": lambda n: {"request_id": request_id_of(n, second=n * 7 % 5)},
    "a request booked twice": lambda n: {"request_id": request_id_of(n // 2)},
    "the ledger's own account": lambda _: {"destination": "ledger:loss"},
    "more units than there are": lambda _: {"units": FUNDING},
    "the window moves on": lambda n: {"decision_time_us": START_US + (3_600 - COUNT + n) * 1_000_000},
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_run_is_booked_at_once_as_one_by_one(name: str) -> None:
    entries = [transfer(n, **PLAIN[name](n)).SerializeToString() for n in range(COUNT)]
    assert taken(funded(), entries)
    assert assert_same(entries) == ""


# ---- the least doubt -------------------------------------------------------------------------------------------------------------------


def edited(**changes: Any) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        return transfer(Entry.FromString(data).decision_time_us - START_US, **changes).SerializeToString()

    return edit


def event_of(data: bytes, event: bytes) -> bytes:
    """Put other bytes in place of the event."""
    head = Entry.FromString(data)
    head.ClearField("units_transferred")
    return head.SerializeToString() + b"\x8a\x01" + bytes([len(event)]) + event


def fields_of(data: bytes) -> list[bytes]:
    """Return the fields of a transfer's entry as they stand, the event last."""
    event = Entry.FromString(data).units_transferred.SerializeToString()
    head = data[: -len(event) - 3]
    return [head[:9], head[9:-36], head[-36:-18], head[-18:], data[-len(event) - 3 :]]


def other_kind(data: bytes) -> bytes:
    held = Entry.FromString(data)
    held.hold_placed.CopyFrom(HoldPlaced(hold={"hold": 1, "instrument": "AAPLx", "account": "book:alice", "units": 5}))
    return held.SerializeToString()


DOUBTS: dict[str, Callable[[bytes], bytes]] = {
    "an unknown field": lambda data: data + b"\xf8\x07\x01",
    "an unknown field in the event": lambda data: event_of(data, UnitsTransferred(units=1).SerializeToString() + b"\xf8\x07\x01"),
    "an unknown field instead of a known one": lambda data: data.replace(b"\x12\x08operator", b"\x72\x08operator"),
    "a field twice": lambda data: data + b"\x12\x08operator",
    "fields in another order": lambda data: b"".join(fields_of(data)[::-1]),
    "two fields changed about": lambda data: b"".join(fields_of(data)[place] for place in (0, 1, 3, 2, 4)),
    "fields of the event in another order": lambda data: event_of(data, b"\x12\x0abook:alice\x0a\x05AAPLx\x1a\x08book:bob\x20\x05"),
    "units in more bytes than they need": lambda data: event_of(data, b"\x0a\x05AAPLx\x12\x0abook:alice\x1a\x08book:bob\x20\x85\x00"),
    "a length in more bytes than it needs": lambda data: data.replace(b"\x12\x08operator", b"\x12\x88\x00operator"),
    "an event's length in more bytes than it needs": lambda data: data[:58] + bytes([data[58] | 128, 0]) + data[59:],
    "a time in more bytes than it needs": lambda data: data[:8] + bytes([data[8] | 128, 0]) + data[9:],
    "cut short": lambda data: data[:-1],
    "a byte too many": lambda data: data + b"\x01",
    "not an entry": lambda data: b"\xff" + data,
    "nothing": lambda _: b"",
    "longer than any transfer": lambda data: data + b"\x12\x7f" + b"p" * 127 + b"\x12\x7f" + b"p" * 500,
    "no principal": edited(principal=""),
    "a principal of 128 bytes": edited(principal="p" * 128),
    "a principal that is not UTF-8": lambda data: data.replace(b"operator", b"\xffperator"),
    "a reference": edited(reference="invoice 12"),
    "a part": edited(part=0, part_count=2),
    "another arithmetic": edited(arithmetic_version=1),
    "a short request id": edited(request_id=b"1234"),
    "no request id": edited(request_id=b""),
    "no digest": edited(request_digest=b""),
    "an earlier time": edited(decision_time_us=START_US - 2),
    "a time of seven bytes": edited(decision_time_us=1),
    "no time": edited(decision_time_us=0),
    "a time below zero": edited(decision_time_us=-1),
    "no units": edited(units=0),
    "units below zero": edited(units=-1),
    "units of nine bytes": edited(units=1 << 60),
    "units that leave 64 bits": edited(units=(1 << 63) - 1),
    "an unknown instrument": edited(instrument="TSLA"),
    "no instrument": edited(instrument=""),
    "an unknown source": edited(source="book:nobody"),
    "an unknown destination": edited(destination="book:nobody"),
    "to itself": edited(destination="book:alice"),
    "a name that looks like another byte by byte": edited(destination="book:b\u00f6b"),
    "a name that is not ASCII": edited(destination=NAMES[2]),
    "a name that ends in a zero": edited(destination=NAMES[-1]),
    "a name that is not UTF-8": lambda data: event_of(data, b"\x0a\x05AAPLx\x12\x0abook:alice\x1a\x08book:b\xffb\x20\x05"),
    "an old request id": edited(request_id=bytes(16)),
    "another event": other_kind,
}


@pytest.mark.parametrize("place", [0, 30, COUNT - 1])
@pytest.mark.parametrize("doubt", DOUBTS)
def test_an_entry_with_the_least_doubt_is_folded_by_itself(doubt: str, place: int) -> None:
    entries = run_of()
    entries[place] = DOUBTS[doubt](entries[place])
    assert not taken(funded(), entries)
    assert_same(entries)


DOUBTFUL_STATES: dict[str, Callable[[State], Any]] = {
    "half a command": lambda state: state.parts.append(run_of()[0]),
    "a full window": lambda state: setattr(state, "request_window_count", state.requests.count + COUNT - 1),
    "a window that has moved on": lambda state: setattr(state.requests, "low_water_second", START_US // 1_000_000 + 1),
    "a later time": lambda state: setattr(state, "last_decision_time_us", START_US),
    "a holding near the end of 64 bits": lambda state: state.set_cell(state.books[1].units, 17, (1 << 63) - 9),
    "a debt near the end of 64 bits": lambda state: state.set_cell(state.books[1].units, 16, 9 - (1 << 63)),
    "an account with a number below zero": lambda state: setattr(state, "accounts", state.accounts | {"book:bob": negative(state)}),
}


def negative(state: State) -> Any:
    return type(state.accounts["book:bob"])(name="book:bob", number=-1, holder="h")


@pytest.mark.parametrize("doubt", DOUBTFUL_STATES)
def test_a_run_is_not_taken_where_the_books_leave_a_doubt(doubt: str) -> None:
    state, entries = funded(), run_of()
    DOUBTFUL_STATES[doubt](state)
    before = state_digest(state)
    assert not taken(state, entries)
    assert state_digest(state) == before
    assert_same(entries, DOUBTFUL_STATES[doubt])


def test_what_is_between_runs_does_not_keep_them_from_being_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = run_of(300)
    entries[100] = edited(reference="invoice 12")(entries[100])
    entries[200] = other_kind(entries[200])
    page = read_page(entries)
    assert page is not None
    assert page.stretches() == [(0, 100), (101, 200), (201, 300)]
    folded = []
    monkeypatch.setattr(replay, "_fold_one", lambda state, data, fold_one=replay._fold_one: (folded.append(data), fold_one(state, data)))
    state = funded()
    folded.clear()
    replay._fold_parcel(state, entries)
    assert folded == [entries[100], entries[200]]


# ---- any bytes -------------------------------------------------------------------------------------------------------------------------


def test_a_changed_byte_leads_to_the_same_verdict_both_ways() -> None:
    entries = run_of(3)
    refused = 0
    for place in range(len(entries[1])):
        old = entries[1][place]
        for new in {0, 0x7F, 0x80, 0xFF, old ^ 1, old ^ 2, old ^ 8, old ^ 0x40, old ^ 0x80} - {old}:
            changed = entries[1][:place] + bytes([new]) + entries[1][place + 1 :]
            refused += assert_same([entries[0], changed, entries[2]]) != ""
    assert refused > 100


@st.composite
def logs(draw: Any) -> list[bytes]:
    """Draw entries: mostly plain transfers, some odd ones, of many principals, instruments and accounts."""
    chance = random.Random(draw(st.integers(0, 1 << 32)))
    odd_share = draw(st.sampled_from([0, 0, 0.05, 0.3]))
    moment_us, second = START_US, 0
    entries = []
    for n in range(draw(st.integers(1, 80))):
        moment_us += chance.choice([1, 1, 1, 50, 900_000] if chance.random() > odd_share / 4 else [0, -1, -5_000_000])
        second = max(0, second + chance.choice([0, 0, 0, 1, -1]))
        source, destination = chance.sample(NAMES[:2] + NAMES[3:7] if chance.random() > odd_share else [*NAMES, "book:nobody"], 2)
        data = transfer(
            n,
            decision_time_us=moment_us,
            principal=chance.choice(["operator", "operator", "alice", "b\u00f6rse"]),
            request_id=request_id_of(n if chance.random() > odd_share else n // 2, second),
            instrument=chance.choice(SYMBOLS),
            source=source,
            destination=destination,
            units=chance.randrange(1, 1 << chance.choice([1, 7, 8, 14, 30, 50])),
        ).SerializeToString()
        if chance.random() < odd_share:
            data = chance.choice([*DOUBTS.values()])(run_of(n + 1)[n])
        if chance.random() < odd_share / 4:
            place = chance.randrange(len(data)) if data else 0
            data = data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]
        entries.append(data)
    return entries


@given(logs())
@settings(max_examples=300, deadline=None)
def test_any_log_comes_to_the_same_both_ways(entries: list[bytes]) -> None:
    assert_same(entries)


# ---- whole logs ------------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def log_of(entries: list[bytes], path: Any) -> Iterator[Any]:
    with open_log(f"sqlite:///{path}") as log:
        log.append("t", [TOPICS[UnitsTransferred]] * len(entries), entries)
        yield log


def test_a_log_replays_to_the_same_books_with_and_without_numpy(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = run_of(3_000)
    entries[1_500] = edited(reference="invoice 12")(entries[1_500])
    with log_of([*opening(), *entries], tmp_path / "books.db") as log:
        told: list[tuple[int, int]] = []
        at_once = replay.latest_state(log, lambda done, total: told.append((done, total)))
        assert told[-1] == (log.size, log.size)
        monkeypatch.setattr(vectors, "numpy", None)
        assert at_once == replay.latest_state(log)


def test_the_first_bad_entry_is_named_where_a_later_one_has_other_bytes(tmp_path: Any) -> None:
    """Pages are folded together; that one of them cannot be read must not hide what is wrong before it."""
    entries = [*opening(), *run_of(800)]
    entries[300] = edited(source="book:nobody")(entries[300])
    path = tmp_path / "books.db"
    with log_of(entries, path):
        pass
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE stored_events SET state = ? WHERE originator_version = 601", (entries[599],))
    with open_log(f"sqlite:///{path}", read_only=True) as log:
        with pytest.raises(DataLoss) as refused:
            replay.latest_state(log)
        assert refused.value.metadata["index"] == "300"
        with pytest.raises(DataLoss) as refused:
            list(log.read_pages_checked(0, log.size))
        assert refused.value.metadata["index"] == "600"
