"""Runs of transfers, an entry each, on whole columns: nothing that a caller, a log or a replay could tell from one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from durable import fund
from scenario import START_US, Scenario, stock, two_holders

from ledger import LedgerError, vectors
from ledger.replay import latest_state
from ledger.request_ids import format_request_id
from ledger.rules import fold
from ledger.rules.runs import fold_transfers, read_transfers
from ledger.state import State
from stockledger.v1.approvals_pb2 import ApprovalPolicy, SetApprovalPolicyRequest
from stockledger.v1.events_pb2 import Entry
from stockledger.v1.holds_pb2 import PlaceHoldRequest
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

FUNDING = 1_000
COUNT = 60


def transfer(number: int, **changes: Any) -> TransferUnitsRequest:
    request_id = format_request_id((START_US // 1000 << 80 | 7 << 76 | 2 << 62 | number).to_bytes(16, "big"))
    fields = {"request_id": request_id, "instrument": "AAPLx", "source": "book:alice", "destination": "book:bob", "units": 1 + number % 3}
    return TransferUnitsRequest(**(fields | changes))


def run_of(count: int = COUNT) -> list[TransferUnitsRequest]:
    return [transfer(n, instrument=("AAPLx", "TSLAx")[n % 2]) for n in range(count)]


def funded() -> Scenario:
    books = Scenario()
    books.books._request_ids._tail = 1 << 60  # two ledgers that make the same request ids can be compared whole
    books.given(*two_holders(), stock("TSLAx", "US88160R1014"))
    fund(books.books, "AAPLx", "book:alice", FUNDING)
    fund(books.books, "TSLAx", "book:alice", FUNDING)
    return books


def changed(at: int, command: Any) -> list[Any]:
    commands: list[Any] = run_of()
    commands[at] = command
    return commands


COMMANDS: dict[str, list[Any]] = {
    "a plain run": run_of(),
    "one refused": changed(7, transfer(7, units=FUNDING)),
    "spends what the run brings": changed(30, transfer(30, source="book:bob", destination="book:fees", units=5)),
    "spends what comes later": changed(0, transfer(0, source="book:bob", destination="book:fees", units=5)),
    "a reference": changed(9, transfer(9, reference="invoice 12")),
    "a dry run": changed(9, transfer(9, validate_only=True)),
    "a repeat": changed(9, transfer(8, instrument="AAPLx")),
    "a request id with other content": changed(9, transfer(8, units=9)),
    "a malformed request id": changed(9, transfer(9, request_id="9")),
    "an unknown account": changed(9, transfer(9, destination="book:nobody")),
    "the ledger's own account": changed(9, transfer(9, destination="ledger:loss")),
    "a hold in between": changed(
        9, PlaceHoldRequest(request_id=transfer(9).request_id, instrument="AAPLx", account="book:alice", units=FUNDING - 30)
    ),
    "an unknown field": changed(9, TransferUnitsRequest.FromString(transfer(9).SerializeToString() + b"\xf8\x07\x01")),
}


def carried_out(commands: list[Any], monkeypatch: pytest.MonkeyPatch, *, at_once: bool) -> tuple[list[Any], list[Any], State]:
    """Return answers, entries and books."""
    books = funded()
    before = books.books.size
    with monkeypatch.context() as patched:
        patched.setattr(vectors, "WORTHWHILE", 1 if at_once else 1_000_000)
        answers = books.books.execute_many(commands)
        told = [str(answer) if isinstance(answer, LedgerError) else answer for answer in answers]
    entries = list(books.books.log.read(before, books.books.size))
    books.check()
    return told, entries, books.books._state


@pytest.mark.skipif(vectors.numpy is None, reason="columns need numpy")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_run_gives_the_answers_entries_and_books_of_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, one_by_one = (carried_out(COMMANDS[name], monkeypatch, at_once=way) for way in (True, False))
    assert at_once == one_by_one


@pytest.mark.skipif(vectors.numpy is None, reason="columns need numpy")
def test_what_needs_approval_is_not_taken_at_once() -> None:
    books = funded().given(SetApprovalPolicyRequest(policy=ApprovalPolicy(command="TransferUnits", approvals_needed=1)))
    answers = books.books.execute_many(run_of())
    assert all(answer.booking.approval > 0 for answer in answers)


def test_an_answer_tells_what_was_booked_whatever_became_of_the_command() -> None:
    commands = run_of()
    answers = funded().books.execute_many(commands)
    commands[3].units = 99
    assert answers[3].event.units == 1
    assert [answer.booking.index - answers[0].booking.index for answer in answers] == list(range(COUNT))


def test_request_ids_are_made_where_none_are_given() -> None:
    books = funded()
    answers = books.books.execute_many([transfer(n, request_id="") for n in range(COUNT)])
    assert len({answer.booking.request_id for answer in answers}) == COUNT
    books.check()


# ---- replay ----------------------------------------------------------------------------------------------------------------------------


def entries_of_run() -> tuple[State, list[bytes]]:
    """Return books and the entries of a run that can follow them."""
    books = funded()
    before = books.books.size
    books.books.execute_many(run_of())
    state = State()
    for _, _, data in books.books.log.read(0, before):
        fold(state, Entry.FromString(data), data)
    return state, [data for _, _, data in books.books.log.read(before, books.books.size)]


def folded_each(state: State, entries: list[bytes]) -> State:
    for data in entries:
        fold(state, Entry.FromString(data), data)
    return state


@pytest.mark.skipif(vectors.numpy is None, reason="columns need numpy")
def test_a_run_folds_to_what_its_entries_fold_to() -> None:
    state, entries = entries_of_run()
    other, _ = entries_of_run()
    run = read_transfers(state, entries)
    assert run is not None
    fold_transfers(state, run)
    assert state == folded_each(other, entries)


def edited(**changes: Any) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        entry = Entry.FromString(data)
        for name, value in changes.items():
            setattr(entry if hasattr(entry, name) else entry.units_transferred, name, value)
        return entry.SerializeToString()

    return edit


DOUBTS: dict[str, Callable[[bytes], bytes]] = {
    "an unknown field": lambda data: data + b"\xf8\x07\x01",
    "an unknown field in the event": lambda data: edited(units=1)(data) + b"\x8a\x01\x03\xf8\x07\x01",
    "a field twice": lambda data: data + b"\x12\x08operator",
    "not an entry": lambda data: b"\xff" + data,
    "nothing": lambda _: b"",
    "another principal": edited(principal="somebody"),
    "no principal, and two bytes for it": lambda data: edited(principal="")(data) + b"\x38\x01",
    "a reference": edited(reference="invoice 12"),
    "a part": edited(part=0, part_count=2),
    "another arithmetic": edited(arithmetic_version=1),
    "a short request id": edited(request_id=b"1234"),
    "no digest": edited(request_digest=b""),
    "an earlier time": edited(decision_time_us=1),
    "no time": edited(decision_time_us=0),
    "no units": edited(units=0),
    "units below zero": edited(units=-1),
    "units beyond measure": edited(units=(1 << 63) - 1),
    "an unknown instrument": edited(instrument="TSLA"),
    "an unknown source": edited(source="book:nobody"),
    "an unknown destination": edited(destination="book:nobody"),
    "to itself": edited(destination="book:alice"),
    "a name that is not ASCII": edited(destination="book:b\u00f6b"),
    "an old request id": edited(request_id=bytes(16)),
    "another event": lambda _: Entry(decision_time_us=START_US + 9, principal="operator", hold_released={"hold": 1}).SerializeToString(),
}


@pytest.mark.parametrize("place", [0, 30, COUNT - 1])
@pytest.mark.parametrize("doubt", DOUBTS)
def test_a_run_with_the_least_doubt_is_not_taken(doubt: str, place: int) -> None:
    state, entries = entries_of_run()
    entries[place] = DOUBTS[doubt](entries[place])
    assert read_transfers(state, entries) is None


DOUBTFUL_STATES: dict[str, Callable[[State, list[bytes]], Any]] = {
    "half a command": lambda state, _: state.parts.append(b""),
    "a full window": lambda state, _: setattr(state, "request_window_count", state.requests.count + COUNT - 1),
    "a window that has moved on": lambda state, _: setattr(state.requests, "low_water_second", START_US // 1_000_000 + 1),
    "a request booked before": lambda state, entries: fold(state, Entry.FromString(entries[5]), entries[5]),
    "a request twice": lambda _, entries: entries.__setitem__(5, entries[6]),
}


@pytest.mark.parametrize("doubt", DOUBTFUL_STATES)
def test_a_run_is_not_taken_where_the_books_leave_a_doubt(doubt: str) -> None:
    state, entries = entries_of_run()
    DOUBTFUL_STATES[doubt](state, entries)
    assert read_transfers(state, entries) is None


def test_a_log_with_runs_replays_to_the_same_books(monkeypatch: pytest.MonkeyPatch) -> None:
    books = funded()
    for start in range(0, 600, 200):
        assert not books.books.execute_many([transfer(n, units=1) for n in range(start, start + 200)]).refusals
        books.given(PlaceHoldRequest(instrument="AAPLx", account="book:alice", units=1))
    quick = latest_state(books.books.log)
    monkeypatch.setattr(vectors, "numpy", None)
    assert quick == latest_state(books.books.log) == books.books._state
