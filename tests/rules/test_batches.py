"""TransferBatch: all legs or none, in their order, and the first leg that breaks a rule is named."""

from __future__ import annotations

from typing import Any

import pytest
from scenario import Scenario, account, holder, stock, two_holders

from ledger import vectors
from ledger.arithmetic import UNITS_MAX
from ledger.records import FrozenUnits
from ledger.rules.batches import LEGS_MAX
from stockledger.v1.accounts_pb2 import AmendHolderRequest, CloseAccountRequest, HolderState
from stockledger.v1.common_pb2 import LegColumns, Operation
from stockledger.v1.holds_pb2 import PlaceHoldRequest
from stockledger.v1.instruments_pb2 import HaltInstrumentRequest, RetireInstrumentRequest
from stockledger.v1.transfers_pb2 import BatchTransferred, TransferBatchRequest

ALICE, BOB, FEES = 16, 17, 18
REQUEST_ID = "01a2046a-3900-7000-8000-000000000001"
PLAIN = [(ALICE, BOB, 1)] * 9
"""Nine legs in front of the one that is looked at."""
MANY = 60
"""Enough legs for whole columns."""


def legs_of(legs: list[tuple[int, int, int]], instrument: str = "AAPLx") -> LegColumns:
    sources, destinations, units = zip(*legs, strict=True)
    return LegColumns(instrument=instrument, sources=sources, destinations=destinations, units=units)


def batch(*legs: tuple[int, int, int], **changes: Any) -> TransferBatchRequest:
    return TransferBatchRequest(**({"legs": [legs_of(list(legs))] if legs else []} | changes))


@pytest.fixture(params=["columns", "loop", "without numpy"])
def books(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Scenario:
    if request.param == "columns":
        monkeypatch.setattr(vectors, "WORTHWHILE", 1)
    elif request.param == "without numpy":
        monkeypatch.setattr(vectors, "numpy", None)
    return Scenario().given(*two_holders()).units("AAPLx", "book:alice", 100)


def test_legs_move_and_the_answer_counts_them(books: Scenario) -> None:
    books.when(batch((ALICE, BOB, 60), (BOB, FEES, 10), reference="payroll")).then(
        BatchTransferred(legs=[legs_of([(ALICE, BOB, 60), (BOB, FEES, 10)])], reference="payroll")
    )
    assert books.answer.leg_count == 2
    assert [books.holding("AAPLx", name) for name in ("book:alice", "book:bob", "book:fees")] == [40, 50, 10]


FORM_REFUSALS = [
    ("FIELD_MALFORMED", batch((ALICE, BOB, 0), reference="x" * 141)),
    ("FIELD_MISSING", TransferBatchRequest()),
    ("FIELD_MISSING", TransferBatchRequest(legs=[LegColumns(sources=[ALICE])])),
    ("FIELD_MALFORMED", TransferBatchRequest(legs=[legs_of([(ALICE, BOB, 0)]), legs_of([(ALICE, BOB, 1)])])),
    ("FIELD_MISSING", TransferBatchRequest(legs=[LegColumns(instrument="AAPLx", sources=[ALICE])])),
    ("FIELD_MALFORMED", TransferBatchRequest(legs=[LegColumns(instrument="AAPLx", sources=[ALICE], destinations=[BOB], units=[1, 2])])),
    ("FIELD_MALFORMED", TransferBatchRequest(legs=[LegColumns(instrument="AAPLx", sources=[ALICE], units=[1])])),
]


@pytest.mark.parametrize(("reason", "command"), FORM_REFUSALS)
def test_refusals_of_the_form_in_order_of_precedence(books: Scenario, reason: str, command: TransferBatchRequest) -> None:
    books.when(command).raises(reason)
    books.when(batch((ALICE, BOB, 1))).accepted()


def test_more_legs_than_may_be() -> None:
    books = Scenario().given(*two_holders()).units("AAPLx", "book:alice", 100)
    books.when(batch(*[(ALICE, BOB, 1)] * (LEGS_MAX + 1))).raises("TOO_MANY_ITEMS", count=LEGS_MAX + 1, limit=LEGS_MAX)


LEG_REFUSALS = [
    ("UNITS_NOT_POSITIVE", (ALICE, ALICE, 0)),
    ("UNITS_NOT_POSITIVE", (ALICE, ALICE, -1)),
    ("UNITS_NOT_POSITIVE", (ALICE, BOB, 0)),
    ("UNITS_NOT_POSITIVE", (ALICE, BOB, -1)),
    ("UNITS_OUT_OF_RANGE", (ALICE, ALICE, UNITS_MAX + 1)),
    ("UNITS_OUT_OF_RANGE", (ALICE, BOB, (1 << 63) - 1)),
    ("SAME_ACCOUNT", (-1, -1, 1)),
    ("SAME_ACCOUNT", (ALICE, ALICE, 1)),
    ("ACCOUNT_NOT_FOUND", (ALICE, 19, 1000)),
    ("ACCOUNT_NOT_FOUND", (-1, BOB, 1)),
    ("ACCOUNT_NOT_FOUND", (ALICE, -(1 << 31), 1)),
    ("ACCOUNT_NOT_FOUND", (8, BOB, 1)),
    ("ACCOUNT_RESERVED", (0, BOB, 1)),
    ("ACCOUNT_RESERVED", (ALICE, 6, 1000)),
    ("UNITS_INSUFFICIENT", (ALICE, BOB, 92)),
    ("UNITS_INSUFFICIENT", (FEES, BOB, 1)),
]


@pytest.mark.parametrize(("reason", "leg"), LEG_REFUSALS)
def test_a_batch_whose_tenth_leg_fails_books_nothing(books: Scenario, reason: str, leg: tuple[int, int, int]) -> None:
    books.when(batch(*PLAIN, leg, (ALICE, BOB, 0))).raises(reason, leg=9)
    books.when(batch(*PLAIN, leg)).raises(reason, leg=9)
    assert books.holding("AAPLx", "book:alice") == 100
    books.when(batch(*PLAIN, (ALICE, BOB, 91))).accepted()


def test_a_leg_may_spend_what_an_earlier_one_brought(books: Scenario) -> None:
    books.when(batch((BOB, FEES, 100), (ALICE, BOB, 100))).raises("UNITS_INSUFFICIENT", leg=0)
    books.when(batch((ALICE, BOB, 100), (BOB, FEES, 101))).raises("UNITS_INSUFFICIENT", leg=1)
    books.when(batch((ALICE, BOB, 100), (BOB, FEES, 100), (FEES, ALICE, 100))).accepted()
    assert books.holding("AAPLx", "book:alice") == 100


def test_an_overdraft_in_the_middle_that_is_covered_later_is_refused(books: Scenario) -> None:
    legs = [*PLAIN, (ALICE, BOB, 92), (BOB, ALICE, 50)]
    books.when(batch(*legs)).raises("UNITS_INSUFFICIENT", leg=9)
    legs[9], legs[10] = legs[10], legs[9]
    legs[9] = (BOB, ALICE, 1)
    books.when(batch(*legs)).accepted()


def test_held_and_frozen_units_do_not_move(books: Scenario) -> None:
    books.given(PlaceHoldRequest(instrument="AAPLx", account="book:alice", units=30))
    books.when(batch((ALICE, BOB, 71))).raises("UNITS_INSUFFICIENT", leg=0, held=30)
    state = books.books._state
    state.put(state.frozen_units, (1, ALICE), FrozenUnits(50, "court order 1/2026"))
    books.replayable = False
    books.when(batch((ALICE, BOB, 21))).raises("UNITS_INSUFFICIENT", leg=0, frozen=50)
    books.when(batch((ALICE, BOB, 20))).accepted()


def test_a_halted_or_unknown_instrument_is_refused_at_its_first_leg(books: Scenario) -> None:
    books.given(stock("TSLAx", "US88160R1014")).units("TSLAx", "book:alice", 10)
    two = batch(legs=[legs_of(PLAIN), legs_of([(ALICE, BOB, 5), (ALICE, BOB, 5)], "TSLAx")])
    books.given(HaltInstrumentRequest(instrument="TSLAx", operations=[Operation.OPERATION_TRANSFER]))
    books.when(two).raises("INSTRUMENT_HALTED", leg=9)
    two.legs[1].instrument = "NONEx"
    books.when(two).raises("INSTRUMENT_NOT_FOUND", leg=9)
    two.legs[1].units[0] = 0
    books.when(two).raises("UNITS_NOT_POSITIVE", leg=9)


def test_a_retired_instrument_does_not_move(books: Scenario) -> None:
    books.given(stock("TSLAx", "US88160R1014"), RetireInstrumentRequest(instrument="TSLAx"))
    books.when(batch(legs=[legs_of([(ALICE, BOB, 1)], "TSLAx")])).raises("INSTRUMENT_RETIRED", leg=0)


def test_each_instrument_has_its_own_units(books: Scenario) -> None:
    books.given(stock("TSLAx", "US88160R1014")).units("TSLAx", "book:bob", 7)
    books.when(batch(legs=[legs_of([(ALICE, BOB, 100)]), legs_of([(BOB, FEES, 8)], "TSLAx")])).raises("UNITS_INSUFFICIENT", leg=1)
    books.when(batch(legs=[legs_of([(ALICE, BOB, 100)]), legs_of([(BOB, FEES, 7)], "TSLAx")])).accepted()
    assert (books.holding("AAPLx", "book:bob"), books.holding("TSLAx", "book:fees")) == (100, 7)


def test_a_closed_account_takes_no_part(books: Scenario) -> None:
    books.given(account("book:carol", "h-2"), CloseAccountRequest(account="book:carol"))
    books.when(batch((ALICE, BOB, 1), (ALICE, 19, 1000))).raises("ACCOUNT_CLOSED", leg=1)


@pytest.mark.parametrize("who", ["h-1", "h-2"])
def test_a_suspended_holder_takes_no_part(books: Scenario, who: str) -> None:
    books.given(AmendHolderRequest(holder=who, state=HolderState.HOLDER_STATE_SUSPENDED))
    books.when(batch((ALICE, FEES, 1), (FEES, BOB, 1), (ALICE, BOB, 1000))).raises("HOLDER_NOT_ACTIVE", holder=who)
    books.given(AmendHolderRequest(holder=who, state=HolderState.HOLDER_STATE_ACTIVE)).when(batch((ALICE, BOB, 1))).accepted()


def test_the_same_batch_again_gets_the_first_answer(books: Scenario) -> None:
    command = batch((ALICE, BOB, 60), (BOB, FEES, 10), request_id=REQUEST_ID)
    first = books.when(command).accepted().answer
    again = books.when(command).answer
    assert (again.leg_count, again.booking.index, again.booking.repeated_answer) == (2, first.booking.index, True)
    assert not books.booked
    command.legs[0].units[1] = 11
    books.when(command).raises("REQUEST_ID_REUSED")


@pytest.mark.parametrize("numpy", [vectors.numpy, None])
def test_a_long_batch_is_cut_into_parts_that_fit_a_leaf(monkeypatch: pytest.MonkeyPatch, numpy: Any) -> None:
    monkeypatch.setattr(vectors, "numpy", numpy)
    people = [holder(f"h-{n}") for n in range(4, 40)] + [account(f"book:a{n}", f"h-{n}") for n in range(4, 40)]
    books = Scenario().given(*two_holders(), stock("TSLAx", "US88160R1014"), *people)
    books.units("AAPLx", "book:alice", 10_000).units("TSLAx", "book:alice", 10_000)
    first = [(ALICE, 17 + n % 30, 1) for n in range(5_000)]
    second = [(ALICE, 17 + n % 30, 2) for n in range(5_000)]
    command = batch(legs=[legs_of(first), legs_of(second, "TSLAx")], reference="x" * 140, request_id=REQUEST_ID)
    books.when(command, principal="p" * 128).accepted()
    assert (books.answer.leg_count, books.answer.booking.entry_count) == (10_000, 3)
    assert [[(legs.instrument, len(legs.units)) for legs in event.legs] for event in books.booked] == [
        [("AAPLx", 3996)],
        [("AAPLx", 1004), ("TSLAx", 2988)],
        [("TSLAx", 2012)],
    ]
    moved = [zip(legs.sources, legs.destinations, legs.units, strict=True) for event in books.booked for legs in event.legs]
    assert [leg for legs in moved for leg in legs] == first + second
    assert max(len(data) for _, _, data in books.books.log.read(0, books.books.size)) <= 65_535
    assert books.when(command, principal="p" * 128).answer.leg_count == 10_000
    assert books.holding("TSLAx", "book:alice") == 0


def test_undoing_a_batch_leaves_no_trace(books: Scenario) -> None:
    state = books.books._state
    before = state.books[1].units.tobytes()
    state.begin()
    state.post_columns(1, [ALICE, BOB] * MANY, [BOB, FEES] * MANY, [1] * (2 * MANY))
    assert state.books[1].units[ALICE] == 100 - MANY
    state.post(1, FEES, 90, 1)
    state.undo()
    assert state.books[1].units.tobytes().rstrip(b"\0") == before.rstrip(b"\0")
