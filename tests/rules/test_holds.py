"""PlaceHold, ExecuteHold, ReleaseHold and TakeDueSteps: every refusal in its order of precedence, each beside its nearest acceptance."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from scenario import START_US, Scenario, account, stock, two_holders

from ledger.arithmetic import UNITS_MAX
from ledger.errors import LedgerError
from ledger.records import NEVER, FrozenUnits, Hold
from ledger.rules.holds import due_holds, open_hold
from stockledger.v1.accounts_pb2 import AmendHolderRequest, CloseAccountRequest, HolderState
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.corporate_actions_pb2 import TakeDueStepsRequest
from stockledger.v1.holds_pb2 import (
    ExecuteHoldRequest,
    GetHoldRequest,
    HoldExecuted,
    HoldPlaced,
    HoldPurpose,
    HoldReleased,
    HoldsExpired,
    ListHoldsRequest,
    PlaceHoldRequest,
    ReleaseHoldRequest,
)
from stockledger.v1.holds_pb2 import Hold as HoldMessage
from stockledger.v1.instruments_pb2 import HaltInstrumentRequest, RetireInstrumentRequest
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

REQUEST_ID = "01a2046a-3900-7000-8000-000000000001"
HALT = HaltInstrumentRequest(instrument="AAPLx", operations=[Operation.OPERATION_TRANSFER])


def in_seconds(seconds: int, nanos: int = 0) -> Timestamp:
    return Timestamp(seconds=START_US // 1_000_000 + seconds, nanos=nanos)


def place(**changes: Any) -> PlaceHoldRequest:
    return PlaceHoldRequest(**({"instrument": "AAPLx", "account": "book:alice", "units": 60} | changes))


def execute(**changes: Any) -> ExecuteHoldRequest:
    return ExecuteHoldRequest(**({"hold": 1, "destination": "book:bob", "units": 40} | changes))


def release(**changes: Any) -> ReleaseHoldRequest:
    return ReleaseHoldRequest(**({"hold": 1} | changes))


@pytest.fixture
def books() -> Scenario:
    return Scenario().given(*two_holders()).units("AAPLx", "book:alice", 100)


@pytest.fixture
def held(books: Scenario) -> Scenario:
    return books.given(place(expiry_time=in_seconds(60)))


def held_of_another_purpose(books: Scenario) -> Scenario:
    """A hold as a subscription places it, straight into the books."""
    open_hold(books.books._state, Hold(1, 1, 16, HoldPurpose.HOLD_PURPOSE_SUBSCRIPTION, NEVER, "", 60))
    return books


def freeze_units(books: Scenario, instrument: str, name: str, units: int) -> None:
    state = books.books._state
    key = (state.instruments[instrument].number, state.accounts[name].number)
    state.put(state.frozen_units, key, FrozenUnits(units, "court order 1/2026"))


# ---- placing


def test_a_hold_keeps_units_where_they_are(books: Scenario) -> None:
    books.when(place(purpose=HoldPurpose.HOLD_PURPOSE_ORDER, expiry_time=in_seconds(60), reference="order 77")).then(
        HoldPlaced(
            hold=HoldMessage(
                hold=1,
                instrument="AAPLx",
                account="book:alice",
                units=60,
                purpose=HoldPurpose.HOLD_PURPOSE_ORDER,
                expiry_time=in_seconds(60),
                reference="order 77",
            )
        )
    )
    move = TransferUnitsRequest(instrument="AAPLx", source="book:alice", destination="book:bob", units=41)
    books.when(move).raises("UNITS_INSUFFICIENT", free=40, held=60, holding=100)
    move.units = 40
    books.when(move).accepted()


PLACE_REFUSALS = [
    ("FIELD_MISSING", place(instrument="", purpose=9)),
    ("FIELD_MISSING", place(account="", purpose=9)),
    ("FIELD_MALFORMED", place(purpose=HoldPurpose.HOLD_PURPOSE_SUBSCRIPTION, units=0)),
    ("FIELD_MALFORMED", place(purpose=9, units=0)),
    ("FIELD_MALFORMED", place(expiry_time=in_seconds(60, 1), units=0)),
    ("FIELD_MALFORMED", place(reference="x" * 141, units=0)),
    ("UNITS_NOT_POSITIVE", place(units=0, expiry_time=in_seconds(-1))),
    ("UNITS_NOT_POSITIVE", place(units=-5, expiry_time=in_seconds(-1))),
    ("UNITS_OUT_OF_RANGE", place(units=UNITS_MAX + 1, expiry_time=in_seconds(-1))),
    ("DATES_OUT_OF_ORDER", place(expiry_time=in_seconds(0), instrument="NONEx")),
    ("INSTRUMENT_NOT_FOUND", place(instrument="NONEx", account="book:nobody")),
    ("ACCOUNT_NOT_FOUND", place(account="book:nobody", units=1000)),
    ("ACCOUNT_RESERVED", place(account="ledger:issuance", units=1000)),
    ("UNITS_INSUFFICIENT", place(units=101)),
]


@pytest.mark.parametrize(("reason", "command"), PLACE_REFUSALS)
def test_refusals_of_placing_in_order_of_precedence(books: Scenario, reason: str, command: PlaceHoldRequest) -> None:
    books.when(command).raises(reason)
    books.when(place(units=100)).accepted()


def test_a_halted_instrument_takes_no_holds(books: Scenario) -> None:
    books.given(HALT).when(place(units=1000)).raises("INSTRUMENT_HALTED")


def test_a_retired_instrument_takes_no_holds() -> None:
    Scenario().given(*two_holders(), RetireInstrumentRequest(instrument="AAPLx")).when(place()).raises("INSTRUMENT_RETIRED")


def test_a_closed_account_takes_no_holds(books: Scenario) -> None:
    books.given(account("book:carol", "h-2"), CloseAccountRequest(account="book:carol"))
    books.when(place(account="book:carol")).raises("ACCOUNT_CLOSED")


def test_a_suspended_holder_places_no_holds(books: Scenario) -> None:
    books.given(AmendHolderRequest(holder="h-1", state=HolderState.HOLDER_STATE_SUSPENDED))
    books.when(place(units=1000)).raises("HOLDER_NOT_ACTIVE")


def test_units_are_not_held_twice(held: Scenario) -> None:
    held.when(place(units=41)).raises("UNITS_INSUFFICIENT", free=40, held=60)
    held.when(place(units=40)).accepted()


def test_placing_again_with_one_request_id(books: Scenario) -> None:
    first = books.when(place(request_id=REQUEST_ID)).accepted().answer
    again = books.when(place(request_id=REQUEST_ID)).answer
    assert (again.event, again.booking.repeated_answer, again.booking.index) == (first.event, True, first.booking.index)
    assert not books.booked
    books.when(place(request_id=REQUEST_ID, units=5)).raises("REQUEST_ID_REUSED")


# ---- executing


def test_execution_in_part_and_the_rest_released(held: Scenario) -> None:
    held.when(execute(units=10)).then(
        HoldExecuted(hold=1, destination="book:bob", units=10, released_units=0, instrument="AAPLx", source="book:alice")
    )
    assert held.books.execute(GetHoldRequest(hold=1)).hold.units == 50
    held.when(execute(units=20, last=True)).then(
        HoldExecuted(hold=1, destination="book:bob", units=20, released_units=30, instrument="AAPLx", source="book:alice")
    )
    assert (held.holding("AAPLx", "book:alice"), held.holding("AAPLx", "book:bob")) == (70, 30)
    held.when(execute(units=1)).raises("HOLD_NOT_FOUND")


EXECUTE_REFUSALS = [
    ("FIELD_MISSING", execute(hold=0, units=0)),
    ("FIELD_MISSING", execute(destination="", units=0)),
    ("UNITS_NOT_POSITIVE", execute(units=0, hold=9)),
    ("UNITS_OUT_OF_RANGE", execute(units=UNITS_MAX + 1, hold=9)),
    ("HOLD_NOT_FOUND", execute(hold=2, destination="book:alice", units=61)),
    ("HOLD_INSUFFICIENT", execute(units=61, destination="book:alice")),
    ("SAME_ACCOUNT", execute(destination="book:alice")),
    ("ACCOUNT_NOT_FOUND", execute(destination="book:nobody")),
    ("ACCOUNT_RESERVED", execute(destination="ledger:remainder")),
]


@pytest.mark.parametrize(("reason", "command"), EXECUTE_REFUSALS)
def test_refusals_of_executing_in_order_of_precedence(held: Scenario, reason: str, command: ExecuteHoldRequest) -> None:
    held.when(command).raises(reason)
    held.when(execute(units=60)).accepted()


def test_a_hold_of_a_subscription_is_not_for_callers(books: Scenario) -> None:
    held_of_another_purpose(books)
    books.replayable = False
    for command in (execute(units=61), release(units=61)):
        books.when(command).raises("HOLD_UNFIT", purpose="HOLD_PURPOSE_SUBSCRIPTION")


def test_no_more_is_executed_than_is_left(held: Scenario) -> None:
    held.when(execute(units=61)).raises("HOLD_INSUFFICIENT", remaining=60, needed=61)
    held.when(execute(units=60)).accepted()


def test_a_halt_stops_execution_but_not_release(held: Scenario) -> None:
    held.given(HALT).when(execute()).raises("INSTRUMENT_HALTED")
    held.when(release()).accepted()


@pytest.mark.parametrize("who", ["h-1", "h-2"])
def test_a_suspended_holder_stops_execution(held: Scenario, who: str) -> None:
    held.given(AmendHolderRequest(holder=who, state=HolderState.HOLDER_STATE_SUSPENDED)).when(execute()).raises("HOLDER_NOT_ACTIVE")


def test_frozen_units_stay_though_they_are_on_hold(held: Scenario) -> None:
    freeze_units(held, "AAPLx", "book:alice", 70)
    held.when(execute(units=31)).raises("HOLD_INSUFFICIENT", remaining=30, needed=31, frozen=70)
    held.when(execute(units=30)).accepted()


def test_executing_again_with_one_request_id(held: Scenario) -> None:
    first = held.when(execute(request_id=REQUEST_ID, units=60)).accepted().answer
    again = held.when(execute(request_id=REQUEST_ID, units=60)).answer
    assert (again.event, again.booking.repeated_answer) == (first.event, True)
    held.when(execute(request_id=REQUEST_ID, units=5)).raises("REQUEST_ID_REUSED")


# ---- releasing


def test_release_in_part_and_then_the_rest(held: Scenario) -> None:
    held.when(release(units=20)).then(HoldReleased(hold=1, units=20, instrument="AAPLx", account="book:alice"))
    held.when(release()).then(HoldReleased(hold=1, units=40, instrument="AAPLx", account="book:alice"))
    held.when(release()).raises("HOLD_NOT_FOUND")
    held.when(place(units=100)).accepted()


RELEASE_REFUSALS = [
    ("FIELD_MISSING", release(hold=0, units=-1)),
    ("UNITS_NOT_POSITIVE", release(units=-1, hold=9)),
    ("HOLD_NOT_FOUND", release(hold=9, units=61)),
    ("HOLD_INSUFFICIENT", release(units=61)),
]


@pytest.mark.parametrize(("reason", "command"), RELEASE_REFUSALS)
def test_refusals_of_releasing_in_order_of_precedence(held: Scenario, reason: str, command: ReleaseHoldRequest) -> None:
    held.when(command).raises(reason)
    held.when(release(units=60)).accepted()


def test_releasing_again_with_one_request_id(held: Scenario) -> None:
    first = held.when(release(request_id=REQUEST_ID)).accepted().answer
    again = held.when(release(request_id=REQUEST_ID)).answer
    assert (again.event, again.booking.repeated_answer) == (first.event, True)
    held.when(release(request_id=REQUEST_ID, units=5)).raises("REQUEST_ID_REUSED")


# ---- lapsing


def test_a_lapsed_hold_waits_until_it_is_recorded(held: Scenario) -> None:
    held.when(TakeDueStepsRequest()).raises("NOTHING_TO_CHANGE")
    held.pass_time(60)
    held.when(execute(units=61)).raises("ACTION_DUE", hold=1, due_time="2026-11-22T18:01:00Z")
    held.when(release(units=61)).raises("ACTION_DUE", hold=1)
    held.when(place(units=41)).raises("UNITS_INSUFFICIENT")
    held.when(TakeDueStepsRequest()).then(HoldsExpired(holds=[1]))
    held.when(execute()).raises("HOLD_NOT_FOUND")
    held.when(place(units=100)).accepted()
    assert not held.books._state.hold_expiries


def test_a_hold_lasts_to_the_microsecond(books: Scenario) -> None:
    books.given(place(expiry_time=in_seconds(60, 5_000)))
    books.clock.now_us = START_US + 60_000_004
    books.when(TakeDueStepsRequest()).raises("NOTHING_TO_CHANGE")
    books.when(execute(units=10)).accepted()
    books.clock.now_us = START_US + 60_000_005
    books.when(execute(units=10)).raises("ACTION_DUE")
    books.when(TakeDueStepsRequest()).then(HoldsExpired(holds=[1]))


def test_holds_lapse_in_order_of_their_time_and_no_more_than_asked_for(books: Scenario) -> None:
    for units, seconds, nanos in ((1, 30, 0), (2, 20, 9000), (3, 20, 8000), (4, 3_600, 0), (5, 20, 8000)):
        books.given(place(units=units, expiry_time=in_seconds(seconds, nanos)))
    books.given(place(units=6))
    books.pass_time(60)
    books.when(TakeDueStepsRequest(limit=-1)).raises("FIELD_MALFORMED")
    books.when(TakeDueStepsRequest(limit=4_001)).raises("FIELD_MALFORMED")
    books.when(TakeDueStepsRequest(limit=3)).then(HoldsExpired(holds=[3, 5, 2]))
    books.when(TakeDueStepsRequest(request_id=REQUEST_ID)).then(HoldsExpired(holds=[1]))
    assert books.when(TakeDueStepsRequest(request_id=REQUEST_ID)).answer.event == HoldsExpired(holds=[1])
    books.when(TakeDueStepsRequest(request_id=REQUEST_ID, limit=1)).raises("REQUEST_ID_REUSED")
    assert sorted(books.books._state.holds) == [4, 6]


def test_undoing_leaves_no_trace_of_holds(held: Scenario) -> None:
    state = held.books._state
    before = (dict(state.holds), {second: dict(numbers) for second, numbers in state.hold_expiries.items()})
    state.begin()
    open_hold(state, Hold(2, 1, 16, 0, START_US + 60_000_000, "", 10))
    open_hold(state, Hold(3, 1, 16, 0, START_US + 90_000_000, "", 10))
    assert list(due_holds(state, START_US + 100_000_000)) == [1, 2, 3]
    state.undo()
    assert (state.holds, state.hold_expiries) == before
    assert state.held(1, 16) == 60


# ---- reads


def test_open_holds_are_listed_by_number(books: Scenario) -> None:
    books.given(stock("TSLAx", "US88160R1014")).units("TSLAx", "book:bob", 10)
    books.given(place(units=1), place(instrument="TSLAx", account="book:bob", units=2), place(units=3, expiry_time=in_seconds(60)))
    page = books.books.execute(ListHoldsRequest(page_size=2))
    assert [(hold.hold, hold.instrument, hold.account, hold.units) for hold in page.holds] == [
        (1, "AAPLx", "book:alice", 1),
        (2, "TSLAx", "book:bob", 2),
    ]
    rest = books.books.execute(ListHoldsRequest(page_size=2, page_token=page.next_page_token))
    assert ([hold.hold for hold in rest.holds], rest.next_page_token) == ([3], "")
    of_alice = books.books.execute(ListHoldsRequest(account="book:alice"))
    assert [hold.hold for hold in of_alice.holds] == [1, 3]
    assert of_alice.holds[1].expiry_time == in_seconds(60)
    with pytest.raises(LedgerError, match="HOLD_NOT_FOUND"):
        books.books.execute(GetHoldRequest(hold=9))
    with pytest.raises(LedgerError, match="ACCOUNT_NOT_FOUND"):
        books.books.execute(ListHoldsRequest(account="book:nobody"))
