"""Packed runs of single transfers: one entry, and otherwise nothing that a caller could tell from transfers booked one by one."""

from __future__ import annotations

from typing import Any

import pytest
from scenario import START_US, Scenario, check_invariants, stock, two_holders

from ledger import LedgerError, vectors
from ledger.replay import latest_state
from ledger.request_ids import format_request_id
from ledger.rules.packed import TRANSFERS_PER_ENTRY_MAX
from stockledger.v1.approvals_pb2 import ApprovalPolicy, SetApprovalPolicyRequest
from stockledger.v1.audit_pb2 import FindRequestRequest
from stockledger.v1.holds_pb2 import PlaceHoldRequest
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

FUNDING = 1_000_000


def request_id(number: int) -> str:
    return format_request_id((START_US // 1000 << 80 | 7 << 76 | 2 << 62 | number).to_bytes(16, "big"))


def transfer(number: int = 0, **changes: Any) -> TransferUnitsRequest:
    fields: dict[str, Any] = {"instrument": "AAPLx", "source": "book:alice", "destination": "book:bob", "units": 1}
    if number:
        fields["request_id"] = request_id(number)
    return TransferUnitsRequest(**(fields | changes))


@pytest.fixture(params=["columns", "loop", "without numpy"])
def books(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Scenario:
    if request.param == "columns":
        monkeypatch.setattr(vectors, "WORTHWHILE", 1)
    elif request.param == "without numpy":
        monkeypatch.setattr(vectors, "numpy", None)
    books = Scenario().given(*two_holders(), stock("TSLAx", "US88160R1014"))
    return books.units("AAPLx", "book:alice", 100).units("TSLAx", "book:bob", 50)


def outcomes(books: Scenario, commands: list[Any], *, pack: bool) -> list[Any]:
    """Return event or reason of each command, and check the books."""
    answers = books.books.execute_many(commands, pack=pack)
    check_invariants(books.books._state)
    return [answer.reason_name if isinstance(answer, LedgerError) else getattr(answer, "event", None) for answer in answers]


MIXED = [
    transfer(1, units=60),
    transfer(2, units=50),
    transfer(3, source="book:bob", destination="book:fees", units=60),
    transfer(4, source="book:bob", destination="book:fees"),
    transfer(5, instrument="TSLAx", source="book:bob", destination="book:alice", units=50),
    transfer(6, units=0),
    transfer(7, source="book:fees", destination="book:alice", units=60),
    transfer(8, units=100),
    transfer(1, units=60),
    transfer(1, units=61),
    transfer(9, reference="invoice 12"),
    transfer(10, source="book:bob", destination="book:alice", units=2, validate_only=True),
    PlaceHoldRequest(instrument="AAPLx", account="book:bob", units=99),
    transfer(11, source="book:bob", destination="book:alice", units=2),
    transfer(12, source="book:bob", destination="book:alice", units=1),
]


def test_a_packed_run_has_the_outcomes_of_single_entries(books: Scenario) -> None:
    other = Scenario().given(*two_holders(), stock("TSLAx", "US88160R1014"))
    other.units("AAPLx", "book:alice", 100).units("TSLAx", "book:bob", 50)
    packed, single = outcomes(books, MIXED, pack=True), outcomes(other, MIXED, pack=False)
    assert packed == single
    assert [each for each in packed if isinstance(each, str)] == [
        "UNITS_INSUFFICIENT",
        "UNITS_INSUFFICIENT",
        "UNITS_NOT_POSITIVE",
        "REQUEST_ID_REUSED",
        "UNITS_INSUFFICIENT",
        "UNITS_INSUFFICIENT",
    ]
    assert books.books._state.books == other.books._state.books
    assert books.books.size < other.books.size


def with_unknown(command: TransferUnitsRequest) -> TransferUnitsRequest:
    """Add field 1023, a varint of 1: three bytes."""
    return TransferUnitsRequest.FromString(command.SerializeToString() + b"\xf8\x3f\x01")


@pytest.mark.parametrize(
    ("odd", "reasons"),
    [
        ([transfer(1, units=0), transfer(2, validate_only=True)], ["UNITS_NOT_POSITIVE"]),
        ([transfer(1, units=-1), transfer(2)], ["UNITS_NOT_POSITIVE"]),
        ([transfer(1, instrument=""), transfer(2, validate_only=True)], ["FIELD_MISSING"]),
        ([transfer(1, source=""), transfer(2, reference="1")], ["FIELD_MISSING"]),
        ([transfer(1, units=0), transfer(2, units=0), with_unknown(transfer(3))], ["UNITS_NOT_POSITIVE"] * 2 + ["FIELD_MALFORMED"]),
        ([transfer(), with_unknown(transfer(1))], ["FIELD_MALFORMED"]),
    ],
)
def test_what_one_command_lacks_hides_nothing_in_another(books: Scenario, odd: list[Any], reasons: list[str]) -> None:
    """A run is taken at once where the sizes of its commands together are right: none may make up for another."""
    other = Scenario().given(*two_holders(), stock("TSLAx", "US88160R1014"))
    other.units("AAPLx", "book:alice", 100).units("TSLAx", "book:bob", 50)
    commands = [transfer(20), *odd, transfer(21)]
    packed, single = outcomes(books, commands, pack=True), outcomes(other, commands, pack=False)
    assert packed == single
    assert [each for each in packed if isinstance(each, str)] == reasons
    assert books.books._state.books == other.books._state.books


def test_each_transfer_of_a_run_has_its_own_place_and_its_own_first_answer(books: Scenario) -> None:
    commands = [transfer(n) for n in range(1, 11)]
    first = books.books.execute_many(commands, pack=True)
    assert [answer.booking.position for answer in first] == list(range(10))
    assert {answer.booking.index for answer in first} == {books.books.size - 1}
    again = books.books.execute(commands[6])
    assert (again.event, again.booking.position, again.booking.repeated_answer) == (first[6].event, 6, True)
    commands[6].units = 2
    books.when(commands[6]).raises("REQUEST_ID_REUSED")
    found = books.books.execute(FindRequestRequest(request_id=request_id(7)))
    assert (found.found, found.index, found.position) == (True, books.books.size - 1, 6)


def test_a_long_run_is_cut_into_entries_that_fit_a_leaf_and_replay() -> None:
    from durable import fund  # an entry puts the units there, so that replay has them too  # noqa: PLC0415

    books = Scenario().given(*two_holders(), stock("TSLAx", "US88160R1014"))
    fund(books.books, "AAPLx", "book:alice", FUNDING)
    fund(books.books, "TSLAx", "book:alice", FUNDING)
    before, count = books.books.size, TRANSFERS_PER_ENTRY_MAX + 5
    commands = [transfer(n + 1, instrument=("AAPLx", "TSLAx")[n % 2]) for n in range(count)]
    answers = books.books.execute_many(commands, pack=True, principal="p" * 128)
    assert not answers.refusals
    assert [answers[n].booking.index for n in (0, TRANSFERS_PER_ENTRY_MAX - 1, TRANSFERS_PER_ENTRY_MAX)] == [before, before, before + 1]
    assert books.books.size == before + 2
    assert max(len(data) for _, _, data in books.books.log.read(before, before + 2)) <= 65_535
    assert latest_state(books.books.log) == books.books._state


def test_transfers_that_need_approval_are_not_packed(books: Scenario) -> None:
    policy = ApprovalPolicy(command="TransferUnits", approvals_needed=1)
    books.given(SetApprovalPolicyRequest(policy=policy))
    answers = books.books.execute_many([transfer(1), transfer(2)], pack=True)
    assert [answer.booking.approval > 0 for answer in answers] == [True, True]
    assert books.holding("AAPLx", "book:bob") == 0


def test_a_policy_set_between_two_transfers_counts_for_the_second(books: Scenario) -> None:
    books.given(SetApprovalPolicyRequest(policy=ApprovalPolicy(command="SetApprovalPolicy", approvals_needed=0)))
    policy = SetApprovalPolicyRequest(policy=ApprovalPolicy(command="TransferUnits", approvals_needed=1))
    answers = books.books.execute_many([transfer(1), policy, transfer(2)], pack=True)
    assert [answer.booking.approval > 0 for answer in answers] == [False, False, True]
    assert books.holding("AAPLx", "book:bob") == 1
