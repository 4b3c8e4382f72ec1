"""Runs of transfers, an entry each, on whole columns: nothing that a caller or a log could tell from one by one."""

from __future__ import annotations

from typing import Any

import pytest
from durable import fund
from scenario import START_US, Scenario, stock, two_holders

from ledger import LedgerError, vectors
from ledger.request_ids import format_request_id
from ledger.state import State
from stockledger.v1.approvals_pb2 import ApprovalPolicy, SetApprovalPolicyRequest
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
