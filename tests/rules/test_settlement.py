"""SettleDelivery and SettleTrades: every refusal in its order of precedence, each beside its nearest acceptance."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from scenario import START_US, Scenario, account, holder, stock, two_holders

from ledger import vectors
from ledger.arithmetic import UNITS_MAX
from ledger.records import FrozenUnits
from ledger.rules.settlement import REFUSALS_PER_PART, TRADES_MAX, TRADES_PER_PART
from stockledger.v1.accounts_pb2 import AmendHolderRequest, CloseAccountRequest, HolderState
from stockledger.v1.common_pb2 import Movement, Operation
from stockledger.v1.corporate_actions_pb2 import TakeDueStepsRequest
from stockledger.v1.holds_pb2 import HoldPurpose, PlaceHoldRequest
from stockledger.v1.instruments_pb2 import HaltInstrumentRequest, RetireInstrumentRequest
from stockledger.v1.settlement_pb2 import DeliverySettled, SettleDeliveryRequest, SettleTradesRequest, TradeRefusal, TradesSettled

ALICE, BOB, FEES, CAROL = 16, 17, 18, 19
REQUEST_ID = "01a2046a-3900-7000-8000-000000000001"
HALT = HaltInstrumentRequest(instrument="AAPLx", operations=[Operation.OPERATION_TRANSFER])
SELL, BUY, SELL_UNHELD, LAPSING = 1, 2, 3, 4


@pytest.fixture
def books() -> Scenario:
    return Scenario().given(*two_holders()).units("AAPLx", "book:alice", 100).units("USDC", "book:bob", 1000)


# ---- one delivery


def movement(units: int = 10, source: str = "book:alice", destination: str = "book:bob", instrument: str = "AAPLx") -> Movement:
    return Movement(instrument=instrument, source=source, destination=destination, units=units)


PAYMENT = movement(190, "book:bob", "book:alice", "USDC")
FEE = movement(1, "book:alice", "book:fees", "USDC")


def delivery(*movements: Movement, **changes: Any) -> SettleDeliveryRequest:
    return SettleDeliveryRequest(movements=movements, **changes)


def test_delivery_payment_and_fee_move_together(books: Scenario) -> None:
    books.when(delivery(movement(), PAYMENT, FEE, reference="trade 4711")).then(
        DeliverySettled(movements=[movement(), PAYMENT, FEE], reference="trade 4711")
    )
    assert [books.holding("USDC", name) for name in ("book:alice", "book:bob", "book:fees")] == [189, 810, 1]


DELIVERY_REFUSALS = [
    ("FIELD_MISSING", delivery(reference="x" * 141), None),
    ("FIELD_MALFORMED", delivery(movement(0), reference="x" * 141), None),
    ("FIELD_MALFORMED", delivery(movement(0)), None),
    ("TOO_MANY_ITEMS", delivery(*[movement(0)] * 65), None),
    ("FIELD_MISSING", delivery(PAYMENT, movement(0, "")), 1),
    ("UNITS_NOT_POSITIVE", delivery(PAYMENT, movement(0, destination="book:alice")), 1),
    ("UNITS_OUT_OF_RANGE", delivery(PAYMENT, movement(UNITS_MAX + 1, destination="book:alice")), 1),
    ("SAME_ACCOUNT", delivery(PAYMENT, movement(destination="book:alice", instrument="NONEx")), 1),
    ("INSTRUMENT_NOT_FOUND", delivery(PAYMENT, movement(destination="book:nobody", instrument="NONEx")), 1),
    ("ACCOUNT_NOT_FOUND", delivery(PAYMENT, movement(101, destination="book:nobody")), 1),
    ("ACCOUNT_RESERVED", delivery(PAYMENT, movement(101, destination="ledger:loss")), 1),
    ("UNITS_INSUFFICIENT", delivery(PAYMENT, movement(101)), 1),
    ("UNITS_INSUFFICIENT", delivery(FEE, PAYMENT), 0),
]


@pytest.mark.parametrize(("reason", "command", "leg"), DELIVERY_REFUSALS)
def test_refusals_of_a_delivery_in_order_of_precedence(
    books: Scenario, reason: str, command: SettleDeliveryRequest, leg: int | None
) -> None:
    books.when(command).raises(reason, **({} if leg is None else {"leg": leg}))
    books.when(delivery(PAYMENT, FEE, movement(100))).accepted()


def test_a_halt_of_either_side_stops_a_delivery(books: Scenario) -> None:
    books.given(HALT).when(delivery(PAYMENT, movement(1000))).raises("INSTRUMENT_HALTED", leg=1)


def test_a_suspended_holder_stops_a_delivery(books: Scenario) -> None:
    books.given(AmendHolderRequest(holder="h-3", state=HolderState.HOLDER_STATE_SUSPENDED))
    books.when(delivery(movement(), PAYMENT, FEE)).raises("HOLDER_NOT_ACTIVE", leg=2)
    books.when(delivery(movement(), PAYMENT)).accepted()


def test_a_delivery_again_gets_its_first_answer(books: Scenario) -> None:
    first = books.when(delivery(movement(), PAYMENT, request_id=REQUEST_ID)).accepted().answer
    again = books.when(delivery(movement(), PAYMENT, request_id=REQUEST_ID)).answer
    assert (again.event, again.booking.repeated_answer) == (first.event, True)
    books.when(delivery(movement(), PAYMENT, FEE, request_id=REQUEST_ID)).raises("REQUEST_ID_REUSED")


# ---- trades


def order(account: str, units: int, instrument: str, **changes: Any) -> PlaceHoldRequest:
    fields: dict[str, Any] = {"account": account, "units": units, "instrument": instrument, "purpose": HoldPurpose.HOLD_PURPOSE_ORDER}
    return PlaceHoldRequest(**(fields | changes))


@pytest.fixture(params=["columns", "loop", "without numpy"])
def market(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, books: Scenario) -> Scenario:
    """Alice sells up to 50 AAPLx (hold 1), Bob buys for up to 500 USDC (hold 2); hold 3 is no order, hold 4 lapses after a minute."""
    if request.param == "columns":
        monkeypatch.setattr(vectors, "WORTHWHILE", 1)
    elif request.param == "without numpy":
        monkeypatch.setattr(vectors, "numpy", None)
    expiry = Timestamp(seconds=START_US // 1_000_000 + 60)
    return books.given(
        order("book:alice", 50, "AAPLx"),
        order("book:bob", 500, "USDC"),
        order("book:alice", 20, "AAPLx", purpose=HoldPurpose.HOLD_PURPOSE_UNSPECIFIED),
        order("book:alice", 10, "AAPLx", expiry_time=expiry),
    )


Row = tuple[int, int, int, int, int, int]
"""Sell hold, buy hold, units, cash, buyer's fee, seller's fee."""


def trades(*rows: Row, **changes: Any) -> SettleTradesRequest:
    columns = list(zip(*rows, strict=True)) or [()] * 6
    fields: dict[str, Any] = {
        "instrument": "AAPLx",
        "cash_instrument": "USDC",
        "sell_holds": columns[0],
        "buy_holds": columns[1],
        "units": columns[2],
        "cash_units": columns[3],
        "buyer_fee_units": columns[4],
        "seller_fee_units": columns[5],
        "fee_account": "book:fees",
    }
    return SettleTradesRequest(**(fields | changes))


GOOD: Row = (SELL, BUY, 10, 100, 2, 1)


def test_trades_settle_against_the_holds_of_their_orders(market: Scenario) -> None:
    market.when(trades(GOOD, (SELL, BUY, 40, 300, 1, 0), reference="run 88")).then(
        TradesSettled(
            instrument="AAPLx",
            cash_instrument="USDC",
            sell_holds=[1, 1],
            buy_holds=[2, 2],
            units=[10, 40],
            cash_units=[100, 300],
            buyer_fee_units=[2, 1],
            seller_fee_units=[1, 0],
            fee_account="book:fees",
            reference="run 88",
            sellers=[ALICE, ALICE],
            buyers=[BOB, BOB],
        )
    )
    assert (market.answer.settled_count, list(market.answer.refusals)) == (2, [])
    assert [market.holding("AAPLx", name) for name in ("book:alice", "book:bob")] == [50, 50]
    assert [market.holding("USDC", name) for name in ("book:alice", "book:bob", "book:fees")] == [399, 597, 4]
    state = market.books._state
    assert (sorted(state.holds), state.holds[BUY].units) == ([2, 3, 4], 97)


def test_trades_without_fees_need_no_fee_account(market: Scenario) -> None:
    market.when(trades((SELL, BUY, 10, 100, 0, 0), fee_account="")).accepted()
    market.when(trades((SELL, BUY, 10, 100, 0, 0), fee_account="", buyer_fee_units=[], seller_fee_units=[])).accepted()
    assert [market.holding("USDC", name) for name in ("book:alice", "book:bob", "book:fees")] == [200, 800, 0]


COMMAND_REFUSALS = [
    ("FIELD_MISSING", trades(instrument="")),
    ("FIELD_MISSING", trades(GOOD, cash_instrument="")),
    ("FIELD_MISSING", trades(reference="x" * 141)),
    ("FIELD_MALFORMED", trades(GOOD, sell_holds=[1, 2])),
    ("FIELD_MALFORMED", trades(GOOD, cash_units=[])),
    ("FIELD_MALFORMED", trades(GOOD, seller_fee_units=[1, 1])),
    ("FIELD_MISSING", trades((1, 2, 0, 0, 1, 0), fee_account="")),
    ("FIELD_MALFORMED", trades((1, 2, 0, 0, 0, 0), cash_instrument="AAPLx")),
    ("FIELD_MALFORMED", trades((1, 2, 0, 0, 0, 0), reference="x" * 141)),
    ("INSTRUMENT_NOT_FOUND", trades((1, 2, 0, 0, 0, 0), instrument="NONEx", fee_account="book:nobody")),
    ("INSTRUMENT_NOT_FOUND", trades((1, 2, 0, 0, 0, 0), cash_instrument="NONE", fee_account="book:nobody")),
    ("ACCOUNT_NOT_FOUND", trades((1, 2, 0, 0, 0, 0), fee_account="book:nobody")),
    ("ACCOUNT_RESERVED", trades((1, 2, 0, 0, 0, 0), fee_account="ledger:loss")),
]


@pytest.mark.parametrize(("reason", "command"), COMMAND_REFUSALS)
def test_refusals_of_the_whole_command_in_order_of_precedence(market: Scenario, reason: str, command: SettleTradesRequest) -> None:
    market.when(command).raises(reason)
    command.each_on_its_own = True
    market.when(command).raises(reason)
    market.when(trades(GOOD)).accepted()


def test_more_trades_than_may_be(books: Scenario) -> None:
    books.when(trades(*[GOOD] * (TRADES_MAX + 1))).raises("TOO_MANY_ITEMS", limit=TRADES_MAX)


TRADE_REFUSALS = [
    ("FIELD_MALFORMED", (9, 9, 0, 5, 0, 6)),
    ("UNITS_NOT_POSITIVE", (9, 9, 0, 0, -1, -1)),
    ("UNITS_NOT_POSITIVE", (9, 9, 1, 0, 0, 0)),
    ("UNITS_NOT_POSITIVE", (9, 9, 1, 1, -1, 0)),
    ("UNITS_NOT_POSITIVE", (9, 9, 1, 1, 0, -1)),
    ("UNITS_OUT_OF_RANGE", (9, 9, UNITS_MAX + 1, 1, 0, 0)),
    ("UNITS_OUT_OF_RANGE", (9, 9, 1, UNITS_MAX + 1, 0, 0)),
    ("UNITS_OUT_OF_RANGE", (9, 9, 1, 1, (1 << 63) - 1, 0)),
    ("HOLD_NOT_FOUND", (9, SELL, 1000, 1, 0, 0)),
    ("HOLD_NOT_FOUND", (-1, BUY, 1000, 1, 0, 0)),
    ("HOLD_UNFIT", (SELL_UNHELD, 9, 1000, 1, 0, 0)),
    ("HOLD_UNFIT", (BUY, BUY, 1000, 1, 0, 0)),
    ("HOLD_NOT_FOUND", (SELL, 9, 1000, 1, 0, 0)),
    ("HOLD_UNFIT", (SELL, SELL, 1000, 1, 0, 0)),
    ("HOLD_INSUFFICIENT", (SELL, BUY, 41, 100, 0, 0)),
    ("HOLD_INSUFFICIENT", (SELL, BUY, 40, 400, 0, 0)),
    ("HOLD_INSUFFICIENT", (SELL, BUY, 40, 399, 1, 0)),
]


@pytest.mark.parametrize(("reason", "row"), TRADE_REFUSALS)
def test_refusals_of_a_trade_in_order_of_precedence(market: Scenario, reason: str, row: Row) -> None:
    good: Row = (SELL, BUY, 10, 100, 1, 1)
    market.when(trades(good, row, (9, 9, 0, 0, 0, 0))).raises(reason, trade=1)
    market.when(trades(good, row, (SELL, BUY, 5, 5, 0, 0), each_on_its_own=True)).accepted()
    assert list(market.answer.refusals) == [TradeRefusal(position=1, reason=reason)]
    assert market.answer.settled_count == 2
    assert (market.holding("AAPLx", "book:bob"), market.holding("USDC", "book:fees")) == (15, 2)


def test_a_hold_that_has_the_units_and_is_unfit(market: Scenario) -> None:
    market.units("USDC", "book:alice", 50).given(order("book:alice", 50, "USDC"))
    for sell in (SELL_UNHELD, 5):
        market.when(trades((sell, BUY, 10, 100, 0, 0))).raises("HOLD_UNFIT", trade=0, hold=sell)


def test_all_of_a_hold_and_not_one_unit_more(market: Scenario) -> None:
    market.when(trades((SELL, BUY, 50, 500, 1, 0))).raises("HOLD_INSUFFICIENT", hold=BUY, remaining=500, needed=501)
    market.when(trades((SELL, BUY, 51, 499, 1, 0))).raises("HOLD_INSUFFICIENT", hold=SELL, remaining=50, needed=51)
    market.when(trades((SELL, BUY, 50, 499, 1, 499))).accepted()
    assert [market.holding("USDC", name) for name in ("book:alice", "book:bob", "book:fees")] == [0, 500, 500]


def test_a_lapsed_order_is_not_settled(market: Scenario) -> None:
    row: Row = (LAPSING, BUY, 1, 1, 0, 0)
    market.when(trades(row)).accepted()
    market.pass_time(60)
    market.when(trades(row)).raises("ACTION_DUE", hold=LAPSING, trade=0)
    market.given(TakeDueStepsRequest()).when(trades(row)).raises("HOLD_NOT_FOUND", trade=0)


def test_nobody_trades_with_himself(market: Scenario) -> None:
    market.units("USDC", "book:alice", 100).given(order("book:alice", 100, "USDC"))
    market.when(trades((SELL, 5, 51, 100, 0, 0))).raises("SAME_ACCOUNT", account="book:alice", trade=0)


def test_nobody_pays_fees_to_himself(market: Scenario) -> None:
    market.when(trades((SELL, BUY, 51, 100, 1, 0), fee_account="book:bob")).raises("SAME_ACCOUNT", account="book:bob")
    market.when(trades((SELL, BUY, 51, 100, 0, 1), fee_account="book:alice")).raises("SAME_ACCOUNT", account="book:alice")
    market.when(trades((SELL, BUY, 10, 100, 0, 1), fee_account="book:bob")).accepted()
    market.when(trades((SELL, BUY, 10, 100, 1, 0), fee_account="book:alice")).accepted()
    assert [market.holding("USDC", name) for name in ("book:alice", "book:bob")] == [200, 800]


@pytest.mark.parametrize("symbol", ["AAPLx", "USDC"])
def test_a_halt_of_either_side_stops_all_trades(market: Scenario, symbol: str) -> None:
    market.given(HaltInstrumentRequest(instrument=symbol, operations=[Operation.OPERATION_TRANSFER]))
    market.when(trades((9, 9, 0, 0, 0, 0), each_on_its_own=True)).raises("INSTRUMENT_HALTED")


def test_a_retired_instrument_is_not_traded(books: Scenario) -> None:
    books.given(stock("TSLAx", "US88160R1014"), RetireInstrumentRequest(instrument="TSLAx"))
    books.when(trades((9, 9, 0, 0, 0, 0), instrument="TSLAx")).raises("INSTRUMENT_RETIRED")


def test_a_closed_fee_account_stops_all_trades(market: Scenario) -> None:
    market.given(CloseAccountRequest(account="book:fees"))
    market.when(trades((9, 9, 0, 0, 0, 0), each_on_its_own=True)).raises("ACCOUNT_CLOSED")


@pytest.mark.parametrize("who", ["h-1", "h-2"])
def test_a_holder_suspended_after_placing_his_order_does_not_trade(market: Scenario, who: str) -> None:
    market.given(AmendHolderRequest(holder=who, state=HolderState.HOLDER_STATE_SUSPENDED))
    market.when(trades((SELL, BUY, 51, 100, 0, 0))).raises("HOLDER_NOT_ACTIVE", holder=who, trade=0)
    market.given(AmendHolderRequest(holder=who, state=HolderState.HOLDER_STATE_ACTIVE)).when(trades(GOOD)).accepted()


def test_units_frozen_after_the_order_stay(market: Scenario) -> None:
    state = market.books._state
    state.put(state.frozen_units, (1, ALICE), FrozenUnits(85, "court order 1/2026"))
    market.replayable = False
    market.when(trades((SELL, BUY, 10, 10, 0, 0), (SELL, BUY, 6, 10, 0, 0))).raises("HOLD_INSUFFICIENT", trade=1, remaining=5, frozen=85)
    market.when(trades((SELL, BUY, 10, 10, 0, 0), (SELL, BUY, 5, 10, 0, 0))).accepted()


def test_if_no_trade_can_be_settled_that_is_the_answer(market: Scenario) -> None:
    command = trades((9, BUY, 1, 1, 0, 0), each_on_its_own=True, request_id=REQUEST_ID, reference="run 88")
    market.when(command).then(
        TradesSettled(
            instrument="AAPLx",
            cash_instrument="USDC",
            fee_account="book:fees",
            refusals=[TradeRefusal(position=0, reason="HOLD_NOT_FOUND")],
            reference="run 88",
        )
    )
    first = market.answer
    again = market.when(command).answer
    assert (again.settled_count, list(again.refusals), again.booking.repeated_answer) == (0, list(first.refusals), True)
    assert not market.booked


def test_trades_again_get_their_first_answer(market: Scenario) -> None:
    command = trades(GOOD, (9, BUY, 1, 1, 0, 0), each_on_its_own=True, request_id=REQUEST_ID)
    first = market.when(command).accepted().answer
    market.given(order("book:alice", 5, "AAPLx"))
    again = market.when(command).answer
    assert (again.settled_count, list(again.refusals)) == (first.settled_count, list(first.refusals)) == (1, list(first.refusals))
    command.units[0] = 9
    market.when(command).raises("REQUEST_ID_REUSED")


@pytest.mark.parametrize("numpy", [vectors.numpy, None])
def test_many_trades_are_cut_into_parts_that_fit_a_leaf(monkeypatch: pytest.MonkeyPatch, numpy: Any) -> None:
    monkeypatch.setattr(vectors, "numpy", numpy)
    count, bad = TRADES_PER_PART + 10, REFUSALS_PER_PART + 10
    books = Scenario().given(*two_holders(), holder("h-4"), account("book:carol", "h-4"))
    books.units("AAPLx", "book:alice", count).units("USDC", "book:bob", 9 * count).units("USDC", "book:carol", 9 * count)
    books.given(order("book:alice", count, "AAPLx"), order("book:bob", 4 * count, "USDC"), order("book:carol", 4 * count, "USDC"))
    rows: list[Row] = [(1, 2 + n % 2, 1, 4, 1, 2) for n in range(count)]
    command = trades(*rows, reference="x" * 140)
    books.when(command, principal="p" * 128).accepted()
    assert (books.answer.settled_count, books.answer.booking.entry_count) == (count, 2)
    assert [books.holding("USDC", name) for name in ("book:alice", "book:fees")] == [2 * count, 3 * count]
    books.given(order("book:bob", 100, "USDC"))
    books.when(trades(*[(1, 4, 1, 4, 1, 2)] * bad, each_on_its_own=True)).accepted()
    assert [len(part.refusals) for part in books.booked] == [REFUSALS_PER_PART, 10]
    assert (books.answer.settled_count, [line.position for line in books.answer.refusals]) == (0, list(range(bad)))
    assert max(len(data) for _, _, data in books.books.log.read(0, books.books.size)) <= 65_535
