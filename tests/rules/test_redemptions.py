"""Redemptions, sold for cash and delivered in kind: every refusal in its order of precedence, each beside its nearest acceptance."""

from __future__ import annotations

from typing import Any

import pytest
from primary_market import HOUR_US, ONE, OTHER_REQUEST_ID, REQUEST_ID, USDC, evidence, issue, market, moment
from scenario import START_US, Scenario, account, stock, units_left

from ledger.arithmetic import UNITS_MAX
from ledger.rules.checks import utc_text
from ledger.rules.fills import apply_rescaled_fills, cash_of_shares_floor, rescale_open_fills
from stockledger.v1.accounts_pb2 import (
    CloseAccountRequest,
    FreezeAccountRequest,
    FreezeHolderRequest,
    FreezeUnitsRequest,
    UnfreezeHolderRequest,
)
from stockledger.v1.common_pb2 import AsOf, Operation
from stockledger.v1.corporate_actions_pb2 import (
    ActionTerms,
    AnnounceActionRequest,
    ExecuteActionRequest,
    FixEntitlementsRequest,
    StockSplit,
)
from stockledger.v1.eligibility_pb2 import EligibilityRule, SetEligibilityRequest
from stockledger.v1.holds_pb2 import ReleaseHoldRequest
from stockledger.v1.instruments_pb2 import ActionMethod, HaltInstrumentRequest, ResumeInstrumentRequest, SetMultiplierRequest
from stockledger.v1.issuance_pb2 import Fill, RescaledFill
from stockledger.v1.redemptions_pb2 import (
    CancelRedemptionRequest,
    DeliverRedemptionRequest,
    FillRedemptionRequest,
    GetRedemptionRequest,
    ListRedemptionsRequest,
    Redemption,
    RedemptionDelivered,
    RedemptionEnded,
    RedemptionFilled,
    RedemptionRequested,
    RedemptionSettled,
    RejectRedemptionRequest,
    RequestRedemptionRequest,
    SettleRedemptionRequest,
)
from stockledger.v1.reserves_pb2 import DeliveryConfirmed, GetReserveRequest, OpenCustodyAccountRequest, ReserveShortfallEnded

UNITS = 1_050_000_000
"""10.5 shares at multiplier 1.0."""
PRICE = 190 * 10**8
CASH = 1_900 * USDC
"""Ten shares at that price."""
FEE = 1 * USDC
HALT = HaltInstrumentRequest(instrument="AAPLx", operations=[Operation.OPERATION_REDEEM])
CASH_HALT = HaltInstrumentRequest(instrument="USDC", operations=[Operation.OPERATION_TRANSFER])


def redeem(**changes: Any) -> RequestRedemptionRequest:
    fields = {"instrument": "AAPLx", "account": "book:bob", "units": UNITS, "cash_instrument": "USDC", "reference": "redeem 3"}
    return RequestRedemptionRequest(**(fields | changes))


def in_kind(**changes: Any) -> RequestRedemptionRequest:
    return redeem(**({"in_kind": True, "delivery_reference": "DTC 0226 acct 99"} | changes))


def fill(**changes: Any) -> FillRedemptionRequest:
    fields: dict[str, Any] = {
        "redemption": 1,
        "shares_e8": 10 * ONE,
        "price_e8": PRICE,
        "fee_units": FEE,
        "trade_date": "2026-11-20",
        "settlement_date": "2026-11-23",
    }
    return FillRedemptionRequest(**(fields | changes))


def settle(**changes: Any) -> SettleRedemptionRequest:
    fields = {"redemption": 1, "fill": 1, "paying_account": "book:issuer", "fee_account": "book:fees"}
    return SettleRedemptionRequest(**(fields | changes))


def deliver(**changes: Any) -> DeliverRedemptionRequest:
    fields: dict[str, Any] = {
        "redemption": 1,
        "shares": 10,
        "custody_account": "alpaca/AAPL-1",
        "settled_time": moment(-0.5),
        "reference": "DTC 8843",
    }
    return DeliverRedemptionRequest(**(fields | changes))


def booked_fill(**changes: Any) -> Fill:
    fields: dict[str, Any] = {
        "fill": 1,
        "shares_e8": 10 * ONE,
        "price_e8": PRICE,
        "cash_units": CASH,
        "fee_units": FEE,
        "trade_date": "2026-11-20",
        "settlement_date": "2026-11-23",
        "units": 10 * ONE,
    }
    return Fill(**(fields | changes))


def raised(multiplier: int) -> SetMultiplierRequest:
    return SetMultiplierRequest(instrument="AAPLx", expected_multiplier=str(10**18), multiplier=str(multiplier), cause="for a test")


def split(method: ActionMethod.ValueType, new_shares: int = 10, old_shares: int = 1) -> AnnounceActionRequest:
    return AnnounceActionRequest(
        action="AAPL-2026-SPLF",
        instrument="AAPLx",
        ex_date="2026-11-23",
        record_date="2026-11-22",
        payment_date="2026-11-23",
        fixing_time=moment(1),
        execution_time=moment(1),
        method=method,
        terms=ActionTerms(stock_split=StockSplit(new_shares=new_shares, old_shares=old_shares)),
    )


SPLIT_STEPS = (FixEntitlementsRequest(action="AAPL-2026-SPLF"), ExecuteActionRequest(action="AAPL-2026-SPLF"))
REJECT = RejectRedemptionRequest(redemption=1, cause="below the minimum")
CANCEL = CancelRedemptionRequest(redemption=1)


@pytest.fixture
def books() -> Scenario:
    """book:bob (h-2) has 20 AAPLx."""
    return market().given(issue(account="book:bob", units=20 * ONE))


@pytest.fixture
def asked(books: Scenario) -> Scenario:
    """A redemption of 10.5 AAPLx for USDC."""
    return books.given(redeem())


@pytest.fixture
def sold(asked: Scenario) -> Scenario:
    """Ten of its shares sold."""
    return asked.given(fill())


@pytest.fixture
def kind(books: Scenario) -> Scenario:
    """A redemption of 10.5 AAPLx in kind."""
    return books.given(in_kind())


def units_of(books: Scenario) -> int:
    return books.holding("AAPLx", "book:bob")


def is_open(books: Scenario) -> bool:
    return 1 in books.books._state.redemptions


# ---- RequestRedemption --------------------------------------------------------------------------------------------------------------


def test_a_redemption_holds_its_units(books: Scenario) -> None:
    books.when(redeem()).then(
        RedemptionRequested(
            redemption=1, instrument="AAPLx", account="book:bob", units=UNITS, hold=1, cash_instrument="USDC", reference="redeem 3"
        )
    )
    books.when(redeem(units=20 * ONE - UNITS + 1)).raises("UNITS_INSUFFICIENT", free=20 * ONE - UNITS, held=UNITS)
    books.when(in_kind(units=20 * ONE - UNITS)).accepted()
    assert (books.answer.event.redemption, books.answer.event.hold, books.answer.event.in_kind) == (2, 2, True)
    assert units_of(books) == 20 * ONE, "nothing is destroyed yet"


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", redeem(instrument="", units=0)),
        ("FIELD_MISSING", redeem(account="", units=0)),
        ("FIELD_MISSING", redeem(cash_instrument="", units=0)),
        ("FIELD_MISSING", in_kind(delivery_reference="", units=0)),
        ("FIELD_MALFORMED", in_kind(delivery_reference="x" * 141, units=0)),
        ("FIELD_MALFORMED", redeem(delivery_reference="x" * 141, units=0)),
        ("FIELD_MALFORMED", redeem(reference="x" * 141, units=0)),
        ("UNITS_NOT_POSITIVE", redeem(units=0, instrument="NONEx")),
        ("UNITS_NOT_POSITIVE", redeem(units=-1, instrument="NONEx")),
        ("UNITS_OUT_OF_RANGE", redeem(units=UNITS_MAX + 1, instrument="NONEx")),
        ("INSTRUMENT_NOT_FOUND", redeem(instrument="NONEx", account="book:nobody")),
        ("INSTRUMENT_NOT_FOUND", redeem(cash_instrument="NONEx", account="book:nobody")),
        ("ACCOUNT_NOT_FOUND", redeem(account="book:nobody", instrument="USDC")),
        ("ACCOUNT_RESERVED", redeem(account="ledger:remainder", instrument="USDC")),
        ("INSTRUMENT_KIND_UNFIT", redeem(instrument="USDC", units=21 * ONE)),
        ("INSTRUMENT_KIND_UNFIT", redeem(cash_instrument="AAPLx", units=21 * ONE)),
        ("UNITS_INSUFFICIENT", redeem(units=20 * ONE + 1)),
    ],
)
def test_refusals_to_redeem_in_order(books: Scenario, reason: str, command: Any) -> None:
    books.when(command).raises(reason)
    books.when(redeem()).accepted()


@pytest.mark.parametrize("operation", [Operation.OPERATION_TRANSFER, Operation.OPERATION_ISSUE])
def test_only_a_halt_of_redeeming_stops_redeeming(books: Scenario, operation: Operation.ValueType) -> None:
    books.given(HaltInstrumentRequest(instrument="AAPLx", operations=[operation])).when(redeem(units=1)).accepted()
    books.given(HALT).when(redeem(units=21 * ONE)).raises("INSTRUMENT_HALTED", operation="OPERATION_REDEEM")


def test_who_is_frozen_does_not_redeem(books: Scenario) -> None:
    freeze = FreezeUnitsRequest(instrument="AAPLx", account="book:bob", units=10 * ONE, legal_reference="garnishment 7/2026")
    books.given(freeze).when(redeem()).raises("UNITS_INSUFFICIENT", frozen=10 * ONE)
    books.when(redeem(units=10 * ONE)).accepted()
    books.given(FreezeAccountRequest(account="book:bob", legal_reference="court order 12/2026"))
    books.when(redeem(units=21 * ONE)).raises("ACCOUNT_FROZEN", legal_reference="court order 12/2026")


def test_a_closed_account_does_not_redeem(books: Scenario) -> None:
    books.given(account("book:carol", "h-2"), CloseAccountRequest(account="book:carol"))
    books.when(redeem(account="book:carol")).raises("ACCOUNT_CLOSED")


def test_who_may_no_longer_hold_the_instrument_may_leave_it(books: Scenario) -> None:
    barred = EligibilityRule(effective_date="2026-11-01", barred_countries=["FR"])
    books.given(SetEligibilityRequest(instrument="AAPLx", rule=barred)).when(redeem(units=1)).accepted()
    books.given(SetEligibilityRequest(instrument="USDC", rule=barred)).when(redeem(units=21 * ONE)).raises("HOLDER_NOT_ELIGIBLE")


def test_nothing_is_asked_while_a_step_is_due(books: Scenario) -> None:
    books.given(split(ActionMethod.ACTION_METHOD_HOLDINGS)).pass_time(3600).when(redeem(units=21 * ONE)).raises("ACTION_DUE")


def test_a_repeated_request_is_booked_once(books: Scenario) -> None:
    first = books.when(redeem(request_id=REQUEST_ID)).answer
    again = books.when(redeem(request_id=REQUEST_ID)).answer
    assert (again.event, again.booking.repeated_answer) == (first.event, True)
    books.when(redeem(request_id=REQUEST_ID, units=1)).raises("REQUEST_ID_REUSED")
    assert len(books.books._state.redemptions) == 1


# ---- FillRedemption -----------------------------------------------------------------------------------------------------------------


def test_a_sale_is_recorded_and_its_units_stay_held(asked: Scenario) -> None:
    asked.when(fill()).then(RedemptionFilled(redemption=1, fill=booked_fill(), instrument="AAPLx", account="book:bob"))
    assert (units_of(asked), units_left(asked)) == (20 * ONE, {1: UNITS})
    asked.when(fill(shares_e8=ONE // 2 + 1)).raises("HOLD_INSUFFICIENT", hold=1, remaining=ONE // 2, needed=ONE // 2 + 1)
    asked.when(fill(shares_e8=ONE // 2)).accepted()
    asked.when(fill(shares_e8=1, fee_units=0)).raises("HOLD_INSUFFICIENT", remaining=0)


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("UNITS_NOT_POSITIVE", fill(shares_e8=0, price_e8=0, redemption=9)),
        ("UNITS_OUT_OF_RANGE", fill(shares_e8=UNITS_MAX + 1, redemption=9)),
        ("UNITS_NOT_POSITIVE", fill(price_e8=-1, redemption=9)),
        ("UNITS_NOT_POSITIVE", fill(fee_units=-1, redemption=9)),
        ("FIELD_MISSING", fill(trade_date="", redemption=9)),
        ("FIELD_MALFORMED", fill(settlement_date="23.11.2026", redemption=9)),
        ("DATES_OUT_OF_ORDER", fill(settlement_date="2026-11-19", redemption=9)),
        ("REDEMPTION_NOT_FOUND", fill(redemption=9, fee_units=CASH + 1)),
        ("UNITS_OUT_OF_RANGE", fill(shares_e8=UNITS_MAX)),
        ("FIELD_MALFORMED", fill(fee_units=11 * 190 * USDC + 1, shares_e8=11 * ONE)),
        ("HOLD_INSUFFICIENT", fill(shares_e8=11 * ONE)),
    ],
)
def test_refusals_to_fill_in_order(asked: Scenario, reason: str, command: Any) -> None:
    asked.when(command).raises(reason)
    asked.when(fill(fee_units=CASH)).accepted()


@pytest.mark.parametrize(
    ("shares_e8", "price_e8", "decimals", "cash_units"),
    [(10 * ONE, PRICE, 6, CASH), (1, 1, 6, 0), (ONE, ONE, 0, 1), (2 * ONE - 1, ONE, 0, 1), (ONE // 3, ONE, 6, 333_333)],
)
def test_what_shares_bring(shares_e8: int, price_e8: int, decimals: int, cash_units: int) -> None:
    assert cash_of_shares_floor(shares_e8, price_e8, decimals) == cash_units


def test_units_are_rounded_up_and_cash_is_rounded_down(books: Scenario) -> None:
    books.given(raised(3 * 10**18), redeem()).when(fill(shares_e8=ONE, price_e8=99, fee_units=0)).accepted()
    assert (books.booked[0].fill.units, books.booked[0].fill.cash_units) == (33_333_334, 0)


def test_the_last_units_are_sold_for_the_shares_they_stand_for(books: Scenario) -> None:
    books.given(raised(3 * 10**18), redeem(units=33_333_333))
    books.when(fill(shares_e8=ONE, fee_units=0)).raises("HOLD_INSUFFICIENT", remaining=33_333_333, needed=33_333_334)
    books.when(fill(shares_e8=ONE - 1, fee_units=0)).accepted()
    assert books.booked[0].fill.units == 33_333_333


def test_units_below_the_finest_share_are_sold_as_one(books: Scenario) -> None:
    """At multiplier 0.1 the 15 units stand for 1.5e-8 shares: 2e-8 take them, at most what is left, and 3e-8 are too many."""
    books.given(raised(10**17), redeem(units=15))
    books.when(fill(shares_e8=3, fee_units=0)).raises("HOLD_INSUFFICIENT", remaining=15, needed=30)
    books.when(fill(shares_e8=2, fee_units=0)).accepted()
    assert books.booked[0].fill.units == 15


def test_a_halt_stops_filling(asked: Scenario) -> None:
    asked.given(HALT).when(fill(shares_e8=11 * ONE)).raises("INSTRUMENT_HALTED", operation="OPERATION_REDEEM")


@pytest.mark.parametrize(
    ("reason", "freeze"),
    [
        ("HOLDER_FROZEN", FreezeHolderRequest(holder="h-2", legal_reference="OFAC 2026-11")),
        ("ACCOUNT_FROZEN", FreezeAccountRequest(account="book:bob", legal_reference="OFAC 2026-11")),
    ],
)
def test_a_freeze_after_the_request_stops_all_but_rejecting(sold: Scenario, reason: str, freeze: Any) -> None:
    sold.given(freeze).when(fill(shares_e8=11 * ONE)).raises(reason, legal_reference="OFAC 2026-11")
    sold.when(settle()).raises(reason, legal_reference="OFAC 2026-11")
    sold.when(REJECT).accepted()


def test_units_frozen_after_the_request_are_not_sold(asked: Scenario) -> None:
    freeze = FreezeUnitsRequest(instrument="AAPLx", account="book:bob", units=10 * ONE + 1, legal_reference="garnishment 7/2026")
    asked.given(freeze).when(fill()).raises("UNITS_INSUFFICIENT", free=10 * ONE - 1, needed=10 * ONE, frozen=10 * ONE + 1)
    asked.when(fill(shares_e8=10 * ONE - 1)).accepted()


def test_only_the_fraction_of_a_redemption_in_kind_is_sold(kind: Scenario) -> None:
    kind.when(fill(shares_e8=ONE // 2 + 1)).raises("STATE_UNFIT", state="in_kind")
    kind.when(fill(shares_e8=ONE // 4, fee_units=0)).accepted()
    kind.when(fill(shares_e8=ONE // 4 + 1)).raises("STATE_UNFIT")
    kind.when(fill(shares_e8=ONE // 4)).accepted()
    kind.when(fill(shares_e8=1, fee_units=0)).raises("STATE_UNFIT")


def test_a_repeated_fill_is_booked_once(asked: Scenario) -> None:
    first = asked.when(fill(request_id=REQUEST_ID, shares_e8=ONE)).answer
    again = asked.when(fill(request_id=REQUEST_ID, shares_e8=ONE)).answer
    assert (again.event, again.booking.repeated_answer) == (first.event, True)
    asked.when(fill(request_id=REQUEST_ID)).raises("REQUEST_ID_REUSED")
    asked.when(fill(request_id=OTHER_REQUEST_ID, shares_e8=ONE)).accepted()
    assert asked.booked[0].fill.fill == 2


# ---- SettleRedemption ---------------------------------------------------------------------------------------------------------------


def test_units_are_destroyed_and_cash_is_paid_less_fees(sold: Scenario) -> None:
    sold.when(settle()).then(
        RedemptionSettled(
            redemption=1,
            fill=1,
            instrument="AAPLx",
            account="book:bob",
            units=10 * ONE,
            cash_instrument="USDC",
            cash_units=CASH - FEE,
            fee_units=FEE,
            paying_account="book:issuer",
            fee_account="book:fees",
        )
    )
    assert (units_of(sold), sold.holding("AAPLx", "ledger:issuance")) == (10 * ONE, -10 * ONE)
    assert (sold.holding("USDC", "book:bob"), sold.holding("USDC", "book:fees")) == (CASH - FEE, FEE)
    assert sold.holding("USDC", "book:issuer") == 50_000 * USDC - CASH
    assert units_left(sold) == {1: ONE // 2}


def test_the_record_goes_when_nothing_is_left_and_no_fill_is_open(asked: Scenario) -> None:
    asked.given(fill(shares_e8=4 * ONE), fill(shares_e8=5 * ONE), fill(shares_e8=3 * ONE // 2))
    for number, completed in ((3, False), (1, False), (2, True)):
        asked.when(settle(fill=number)).accepted()
        assert asked.booked[0].completed is completed
    assert (is_open(asked), asked.books._state.holds, units_of(asked)) == (False, {}, 20 * ONE - UNITS)


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", settle(paying_account="", redemption=9)),
        ("REDEMPTION_NOT_FOUND", settle(redemption=9, fill=9)),
        ("FILL_NOT_FOUND", settle(fill=2, paying_account="book:nobody")),
        ("FIELD_MISSING", settle(fee_account="", paying_account="book:nobody")),
        ("ACCOUNT_NOT_FOUND", settle(paying_account="book:nobody")),
        ("ACCOUNT_NOT_FOUND", settle(fee_account="book:nobody")),
        ("ACCOUNT_RESERVED", settle(paying_account="ledger:external")),
        ("SAME_ACCOUNT", settle(paying_account="book:bob")),
        ("SAME_ACCOUNT", settle(fee_account="book:issuer")),
        ("UNITS_INSUFFICIENT", settle(paying_account="book:fees", fee_account="book:issuer")),
    ],
)
def test_refusals_to_settle_in_order(sold: Scenario, reason: str, command: Any) -> None:
    sold.when(command).raises(reason)
    sold.when(settle()).accepted()
    sold.when(settle()).raises("FILL_NOT_FOUND", fill=1)


def test_the_paying_account_needs_cash_and_fees_and_not_a_unit_more(sold: Scenario) -> None:
    sold.given(account("book:payer", "h-3"), issue(instrument="USDC", account="book:payer", units=CASH - 1))
    sold.when(settle(paying_account="book:payer")).raises("UNITS_INSUFFICIENT", account="book:payer", free=CASH - 1, needed=CASH)
    sold.given(issue(instrument="USDC", account="book:payer", units=1)).when(settle(paying_account="book:payer")).accepted()


def test_a_sale_that_brings_nothing_still_takes_the_units(asked: Scenario) -> None:
    asked.given(fill(shares_e8=1, price_e8=1, fee_units=0)).when(settle(paying_account="book:fees", fee_account="")).accepted()
    assert (asked.booked[0].units, asked.booked[0].cash_units, units_of(asked)) == (1, 0, 20 * ONE - 1)


def test_fees_may_take_all_that_a_sale_brings(asked: Scenario) -> None:
    asked.given(fill(fee_units=CASH)).when(settle()).accepted()
    assert (asked.holding("USDC", "book:bob"), asked.holding("USDC", "book:fees")) == (0, CASH)


@pytest.mark.parametrize(("halt", "symbol"), [(HALT, "AAPLx"), (CASH_HALT, "USDC")])
def test_a_halt_stops_settlement(sold: Scenario, halt: Any, symbol: str) -> None:
    sold.given(halt).when(settle(paying_account="book:fees", fee_account="book:issuer")).raises("INSTRUMENT_HALTED", instrument=symbol)


def test_a_frozen_payer_does_not_pay(sold: Scenario) -> None:
    sold.given(FreezeHolderRequest(holder="h-3", legal_reference="OFAC 2026-11")).when(settle()).raises("HOLDER_FROZEN", holder="h-3")
    sold.given(UnfreezeHolderRequest(holder="h-3", legal_reference="OFAC 2026-12")).when(settle()).accepted()


def test_units_frozen_after_the_sale_are_not_destroyed(sold: Scenario) -> None:
    freeze = FreezeUnitsRequest(instrument="AAPLx", account="book:bob", units=10 * ONE + 1, legal_reference="garnishment 7/2026")
    sold.given(freeze).when(settle()).raises("UNITS_INSUFFICIENT", account="book:bob", free=10 * ONE - 1, needed=10 * ONE)


def test_cash_is_paid_to_who_may_hold_it(sold: Scenario) -> None:
    barred = EligibilityRule(effective_date="2026-11-01", barred_countries=["FR"])
    sold.given(SetEligibilityRequest(instrument="USDC", rule=barred)).when(settle()).raises("HOLDER_NOT_ELIGIBLE", holder="h-2")


def test_redeeming_goes_on_in_a_shortfall_and_ends_it(sold: Scenario) -> None:
    bad_news = {"as_of_time": utc_text(START_US - HOUR_US // 2)}
    sold.given(evidence(10, **bad_news))
    assert "AAPLx" in sold.books._state.shortfalls
    sold.when(issue(units=1)).raises("RESERVE_SHORTFALL")
    sold.when(redeem(units=1)).accepted()
    sold.when(settle()).accepted()
    assert sold.booked[1:] == [ReserveShortfallEnded(instrument="AAPLx", reserve_shares_e8=10 * ONE, needed_shares_e8=str(10 * ONE))]
    assert (type(sold.answer.event), sold.books._state.shortfalls) == (RedemptionSettled, {})


def test_redeeming_goes_on_without_fresh_evidence(sold: Scenario) -> None:
    sold.pass_time(48 * 3600).when(issue(units=1)).raises("ATTESTATION_STALE")
    sold.when(settle()).accepted()


def test_a_repeated_settlement_is_booked_once(sold: Scenario) -> None:
    first = sold.when(settle(request_id=REQUEST_ID)).answer
    again = sold.when(settle(request_id=REQUEST_ID)).answer
    assert (again.event, again.booking.repeated_answer) == (first.event, True)
    sold.when(settle(request_id=REQUEST_ID, fill=2)).raises("REQUEST_ID_REUSED")
    assert units_of(sold) == 10 * ONE


# ---- DeliverRedemption --------------------------------------------------------------------------------------------------------------


def test_whole_shares_are_delivered_and_the_fraction_is_sold(kind: Scenario) -> None:
    kind.when(deliver()).then(
        RedemptionDelivered(
            redemption=1,
            instrument="AAPLx",
            account="book:bob",
            shares=10,
            units=10 * ONE,
            custody_account="alpaca/AAPL-1",
            settled_time=moment(-0.5),
            reference="DTC 8843",
        ),
        DeliveryConfirmed(custody_account="alpaca/AAPL-1", shares_e8=10 * ONE, settled_time=moment(-0.5), reference="DTC 8843"),
    )
    assert type(kind.answer.event) is RedemptionDelivered
    assert (units_of(kind), kind.holding("AAPLx", "ledger:issuance")) == (10 * ONE, -10 * ONE)
    assert kind.books._state.evidence["alpaca/AAPL-1"].shares_e8 == 990 * ONE
    kind.given(fill(shares_e8=ONE // 2)).when(settle()).accepted()
    assert (kind.booked[0].completed, is_open(kind), units_of(kind)) == (True, False, 20 * ONE - UNITS)


def test_the_fraction_may_be_sold_first(kind: Scenario) -> None:
    kind.given(fill(shares_e8=ONE // 2), settle(), deliver(shares=4)).when(deliver(shares=6)).accepted()
    assert (kind.booked[0].completed, is_open(kind), kind.books._state.holds) == (True, False, {})


def test_a_delivery_does_not_complete_while_a_fill_is_open(kind: Scenario) -> None:
    kind.given(fill(shares_e8=ONE // 2)).when(deliver()).accepted()
    assert (kind.booked[0].completed, is_open(kind)) == (False, True)
    kind.when(settle()).accepted()
    assert kind.booked[0].completed


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", deliver(custody_account="", redemption=9)),
        ("FIELD_MALFORMED", deliver(reference="x" * 141, redemption=9)),
        ("UNITS_NOT_POSITIVE", deliver(shares=0, redemption=9)),
        ("UNITS_OUT_OF_RANGE", deliver(shares=UNITS_MAX // ONE + 1, redemption=9)),
        ("FIELD_MISSING", deliver(settled_time=None, redemption=9)),
        ("DATES_OUT_OF_ORDER", deliver(settled_time=moment(1), redemption=9)),
        ("REDEMPTION_NOT_FOUND", deliver(redemption=9, custody_account="alpaca/none")),
        ("STATE_UNFIT", deliver(redemption=2, custody_account="alpaca/none")),
        ("CUSTODY_ACCOUNT_NOT_FOUND", deliver(custody_account="alpaca/none", shares=11)),
        ("CUSTODY_ACCOUNT_TAKEN", deliver(custody_account="alpaca/USD", shares=11)),
        ("HOLD_INSUFFICIENT", deliver(shares=11)),
        ("HOLD_INSUFFICIENT", deliver(shares=11, custody_account="alpaca/AAPL-2")),
        ("ATTESTATION_STALE", deliver(custody_account="alpaca/AAPL-2")),
    ],
)
def test_refusals_to_deliver_in_order(kind: Scenario, reason: str, command: Any) -> None:
    empty = OpenCustodyAccountRequest(custody_account="alpaca/AAPL-2", custodian="alpaca", isin="US0378331005", instrument="AAPLx")
    kind.given(redeem(units=ONE), empty).when(command).raises(reason)
    kind.when(deliver()).accepted()


def test_a_halt_or_a_freeze_stops_delivery(kind: Scenario) -> None:
    kind.given(FreezeHolderRequest(holder="h-2", legal_reference="OFAC 2026-11")).when(deliver(shares=11)).raises("HOLDER_FROZEN")
    kind.given(HALT).when(deliver(shares=11)).raises("INSTRUMENT_HALTED")


def test_units_frozen_after_the_request_are_not_delivered(kind: Scenario) -> None:
    freeze = FreezeUnitsRequest(instrument="AAPLx", account="book:bob", units=10 * ONE + 1, legal_reference="garnishment 7/2026")
    kind.given(freeze).when(deliver()).raises("UNITS_INSUFFICIENT", free=10 * ONE - 1, needed=10 * ONE)
    kind.when(deliver(shares=9)).accepted()


def test_units_of_a_whole_share_are_rounded_up_to_what_is_left(books: Scenario) -> None:
    """At multiplier 3.0 a share takes 33,333,334 units; 33,333,333 stand for less than a share, which is then not delivered."""
    books.given(raised(3 * 10**18), in_kind(units=66_666_667)).when(deliver(shares=1)).accepted()
    assert books.booked[0].units == 33_333_334
    books.when(deliver(shares=1)).raises("HOLD_INSUFFICIENT", remaining=33_333_333, needed=33_333_334)
    books.when(fill(shares_e8=ONE - 1, fee_units=0)).accepted()


def test_shares_and_units_leave_together_without_a_shortfall(books: Scenario) -> None:
    books.given(evidence(20, as_of_time=utc_text(START_US - 2 * HOUR_US // 3)), in_kind()).when(deliver()).accepted()
    assert books.books._state.shortfalls == {}, "10 of 20 shares for 10 of 20 units"


def test_a_repeated_delivery_is_booked_once(kind: Scenario) -> None:
    first = kind.when(deliver(request_id=REQUEST_ID, shares=4)).answer
    again = kind.when(deliver(request_id=REQUEST_ID, shares=4)).answer
    assert (again.event, again.booking.repeated_answer) == (first.event, True)
    kind.when(deliver(request_id=REQUEST_ID, shares=5)).raises("REQUEST_ID_REUSED")
    assert units_of(kind) == 16 * ONE


# ---- RejectRedemption and CancelRedemption ------------------------------------------------------------------------------------------


def ended(**changes: Any) -> RedemptionEnded:
    return RedemptionEnded(**({"redemption": 1, "released_units": UNITS, "instrument": "AAPLx", "account": "book:bob"} | changes))


def test_rejecting_releases_the_units(asked: Scenario) -> None:
    asked.when(REJECT).then(ended(cause="below the minimum"))
    asked.when(REJECT).raises("REDEMPTION_NOT_FOUND", redemption=1)
    asked.when(redeem(units=20 * ONE)).accepted()


def test_rejecting_the_rest_leaves_what_was_sold_to_settle(sold: Scenario) -> None:
    sold.when(REJECT).then(ended(cause="below the minimum", released_units=ONE // 2))
    sold.when(REJECT).raises("STATE_UNFIT", redemption=1)
    sold.when(fill(shares_e8=1, fee_units=0)).raises("HOLD_INSUFFICIENT", remaining=0)
    sold.when(settle()).accepted()
    assert (sold.booked[0].completed, units_of(sold)) == (True, 10 * ONE)


def test_rejecting_the_rest_of_settled_fills_ends_it(sold: Scenario) -> None:
    sold.given(settle()).when(REJECT).then(ended(cause="below the minimum", released_units=ONE // 2))
    assert not is_open(sold)


def test_refusals_to_reject_in_order(sold: Scenario) -> None:
    sold.given(fill(shares_e8=ONE // 2)).when(RejectRedemptionRequest(redemption=9, cause="x" * 141)).raises("FIELD_MALFORMED")
    sold.when(RejectRedemptionRequest(redemption=9)).raises("REDEMPTION_NOT_FOUND")
    sold.when(REJECT).raises("STATE_UNFIT", state="sold")


def test_rejecting_works_while_everything_else_is_stopped(asked: Scenario) -> None:
    asked.given(HALT, FreezeHolderRequest(holder="h-2", legal_reference="OFAC 2026-11"), split(ActionMethod.ACTION_METHOD_HOLDINGS))
    asked.pass_time(3600).when(fill()).raises("ACTION_DUE")
    asked.when(REJECT).accepted()


def test_cancelling_releases_the_units(asked: Scenario) -> None:
    asked.when(CANCEL).then(ended(cancelled=True))
    assert asked.books._state.holds == {}
    asked.when(CANCEL).raises("REDEMPTION_NOT_FOUND")


def test_what_is_being_processed_is_not_cancelled(sold: Scenario) -> None:
    sold.when(CancelRedemptionRequest(redemption=9)).raises("REDEMPTION_NOT_FOUND")
    sold.when(CANCEL).raises("STATE_UNFIT", fill_count=1, delivered_units=0)


def test_what_was_delivered_in_part_is_not_cancelled(kind: Scenario) -> None:
    kind.given(deliver(shares=1)).when(CANCEL).raises("STATE_UNFIT", fill_count=0, delivered_units=ONE)


@pytest.mark.parametrize("command", [RejectRedemptionRequest, CancelRedemptionRequest])
def test_a_repeated_end_is_booked_once(asked: Scenario, command: Any) -> None:
    first = asked.when(command(redemption=1, request_id=REQUEST_ID)).answer
    again = asked.when(command(redemption=1, request_id=REQUEST_ID)).answer
    assert (again.event, again.booking.repeated_answer) == (first.event, True)
    asked.when(command(redemption=2, request_id=REQUEST_ID)).raises("REQUEST_ID_REUSED")


def test_callers_do_not_touch_the_hold_of_a_redemption(asked: Scenario) -> None:
    asked.when(ReleaseHoldRequest(hold=1)).raises("HOLD_UNFIT")


# ---- a split between fill and settlement --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "units", "left"),
    [(ActionMethod.ACTION_METHOD_HOLDINGS, 100 * ONE, 5 * ONE), (ActionMethod.ACTION_METHOD_MULTIPLIER, 10 * ONE, ONE // 2)],
)
def test_a_whole_split_reaches_open_fills_by_either_method(sold: Scenario, method: ActionMethod.ValueType, units: int, left: int) -> None:
    sold.given(split(method)).pass_time(3600)
    sold.when(settle()).raises("ACTION_DUE")
    sold.given(*SPLIT_STEPS).when(settle()).accepted()
    assert (sold.booked[0].units, sold.booked[0].cash_units) == (units, CASH - FEE), "what was sold is destroyed and paid, no more"
    sold.when(fill(shares_e8=5 * ONE + 1)).raises("HOLD_INSUFFICIENT", remaining=left)
    sold.when(fill(shares_e8=5 * ONE)).accepted()


def test_fills_that_took_all_units_take_all_that_a_reverse_split_leaves(books: Scenario) -> None:
    """5 and 5 of 10 units, 1 for 3: the hold becomes 3, the fills 1 and 2."""
    books.given(redeem(units=10), fill(shares_e8=5, fee_units=0), fill(shares_e8=5, fee_units=0))
    books.given(split(ActionMethod.ACTION_METHOD_HOLDINGS, 1, 3)).pass_time(3600).given(*SPLIT_STEPS)
    for number, units, completed in ((1, 1, False), (2, 2, True)):
        books.when(settle(fill=number)).accepted()
        assert (books.booked[0].units, books.booked[0].completed) == (units, completed)
    assert (is_open(books), books.books._state.holds) == (False, {})


def test_a_sale_whose_units_a_reverse_split_took_is_still_paid(books: Scenario) -> None:
    """2 units, 1 for 3, leave none: the hold is gone, but the cash of what was sold is still owed."""
    books.given(redeem(units=2), fill(shares_e8=2, price_e8=10**14, fee_units=0))
    books.given(split(ActionMethod.ACTION_METHOD_HOLDINGS, 1, 3)).pass_time(3600).given(*SPLIT_STEPS)
    before = units_of(books)
    books.when(REJECT).raises("STATE_UNFIT")
    books.when(settle()).accepted()
    event = books.booked[0]
    assert (event.units, event.cash_units, event.completed) == (0, 20_000, True)
    assert (units_of(books), is_open(books)) == (before, False)


def test_a_redemption_that_a_reverse_split_emptied_can_be_ended(books: Scenario) -> None:
    books.given(redeem(units=2), split(ActionMethod.ACTION_METHOD_HOLDINGS, 1, 3)).pass_time(3600).given(*SPLIT_STEPS)
    books.when(fill(shares_e8=1, fee_units=0)).raises("HOLD_INSUFFICIENT", remaining=0)
    books.when(REJECT).accepted()
    assert (books.booked[0].released_units, is_open(books)) == (0, False)


def test_only_open_fills_of_the_instrument_are_scaled(sold: Scenario) -> None:
    sold.given(stock("MSFTx", "US5949181045"), settle(), fill(shares_e8=ONE // 4))
    state = sold.books._state
    assert rescale_open_fills(state, "MSFTx", 10, 1) == []
    (event,) = rescale_open_fills(state, "AAPLx", 10, 1)
    assert list(event.fills) == [RescaledFill(redemption=1, fill=2, shares_e8=10 * ONE // 4, units=10 * ONE // 4)]
    apply_rescaled_fills(state, event, None)  # type: ignore[arg-type]
    assert [(each.shares_e8, each.units) for each in state.redemptions[1].fills] == [
        (10 * ONE, 10 * ONE),
        (10 * ONE // 4, 10 * ONE // 4),
    ]


# ---- reads --------------------------------------------------------------------------------------------------------------------------


def test_an_open_redemption_is_read_with_its_fills(sold: Scenario) -> None:
    expected = Redemption(
        redemption=1,
        instrument="AAPLx",
        account="book:bob",
        units=UNITS,
        remaining_units=ONE // 2,
        hold=1,
        cash_instrument="USDC",
        fills=[booked_fill()],
    )
    assert sold.books.execute(GetRedemptionRequest(redemption=1)).redemption == expected
    before = sold.books.execute(GetRedemptionRequest(redemption=1, as_of=AsOf(size=sold.books.size - 1))).redemption
    assert (before.remaining_units, len(before.fills)) == (UNITS, 0)
    sold.given(settle())
    after = sold.books.execute(GetRedemptionRequest(redemption=1)).redemption
    assert (after.remaining_units, after.fills[0].settled) == (ONE // 2, True)
    sold.when(GetRedemptionRequest(redemption=2))
    assert sold.error is not None
    assert sold.error.reason_name == "REDEMPTION_NOT_FOUND"


def test_open_redemptions_are_listed_by_number(books: Scenario) -> None:
    books.given(issue(), *(redeem(units=each) for each in (1, 2, 3)), redeem(account="book:alice", units=4))
    books.given(CancelRedemptionRequest(redemption=2))
    assert [each.redemption for each in books.books.execute(ListRedemptionsRequest()).redemptions] == [1, 3, 4]
    first = books.books.execute(ListRedemptionsRequest(account="book:bob", page_size=1))
    assert ([each.redemption for each in first.redemptions], first.next_page_token) == ([1], "1")
    second = books.books.execute(ListRedemptionsRequest(account="book:bob", page_size=1, page_token="1"))
    assert ([each.redemption for each in second.redemptions], second.next_page_token) == ([3], "")


# ---- cash itself, back to a bank ------------------------------------------------------------------------------------------------------


def pay_back(**changes: Any) -> RequestRedemptionRequest:
    """Alice wants 250 of her 10,000 USDC in her bank account."""
    fields = {"instrument": "USDC", "account": "book:alice", "units": 250 * USDC, "in_kind": True, "delivery_reference": "payee 7"}
    return RequestRedemptionRequest(**(fields | changes))


def pay_out(**changes: Any) -> DeliverRedemptionRequest:
    fields: dict[str, Any] = {
        "redemption": 1,
        "cash_units": 250 * USDC,
        "custody_account": "alpaca/USD",
        "settled_time": moment(0),
        "reference": "wire 9",
    }
    return DeliverRedemptionRequest(**(fields | changes))


def reserve_of_cash(books: Scenario) -> int:
    return int(books.books.execute(GetReserveRequest(instrument="USDC")).reserve.reserve_shares_e8)


def test_cash_goes_back_to_the_bank_it_came_from() -> None:
    books = market()
    supply = books.books._state.supply(books.books._state.instruments["USDC"].number)
    reserve = reserve_of_cash(books)
    books.when(pay_back(reference="out 1")).then(
        RedemptionRequested(
            redemption=1,
            instrument="USDC",
            account="book:alice",
            units=250 * USDC,
            hold=1,
            in_kind=True,
            delivery_reference="payee 7",
            reference="out 1",
        )
    )
    assert books.books._state.free(2, books.books._state.accounts["book:alice"].number) == 9_750 * USDC
    books.when(pay_out()).then(
        RedemptionDelivered(
            redemption=1,
            instrument="USDC",
            account="book:alice",
            units=250 * USDC,
            custody_account="alpaca/USD",
            settled_time=moment(0),
            reference="wire 9",
            completed=True,
        ),
        DeliveryConfirmed(custody_account="alpaca/USD", shares_e8=250 * ONE, settled_time=moment(0), reference="wire 9"),
    )
    assert books.holding("USDC", "book:alice") == 9_750 * USDC
    assert books.books._state.supply(2) == supply - 250 * USDC
    assert reserve_of_cash(books) == reserve - 250 * ONE, "supply and the money behind it fall together"
    books.when(pay_out()).raises("REDEMPTION_NOT_FOUND")


def test_cash_is_paid_out_in_parts_and_the_rest_released() -> None:
    books = market().given(pay_back()).given(pay_out(cash_units=100 * USDC + 1))
    books.when(pay_out(cash_units=150 * USDC)).raises("HOLD_INSUFFICIENT", remaining=150 * USDC - 1, needed=150 * USDC)
    books.when(CancelRedemptionRequest(redemption=1)).raises("STATE_UNFIT", delivered_units=100 * USDC + 1)
    books.when(RejectRedemptionRequest(redemption=1, cause="payee unknown")).then(
        RedemptionEnded(redemption=1, cause="payee unknown", released_units=150 * USDC - 1, instrument="USDC", account="book:alice")
    )
    assert books.holding("USDC", "book:alice") == 9_900 * USDC - 1
    books.given(pay_back(units=1)).when(CancelRedemptionRequest(redemption=2)).accepted()


def test_money_that_left_the_bank_for_a_redemption_is_no_shortfall() -> None:
    """All 60,000 USDC are attested, and not one more; half of them are paid out."""
    books = market().given(evidence(60_000, "alpaca/USD", "USDC", as_of_time=utc_text(START_US - HOUR_US // 2)))
    books.given(pay_back(units=10_000 * USDC), pay_out(cash_units=10_000 * USDC))
    assert "USDC" not in books.books._state.shortfalls
    books.when(issue(instrument="USDC", units=1)).raises("RESERVE_INSUFFICIENT")


CASH_REFUSALS = [
    ("FIELD_MISSING", "cash_instrument", pay_back(in_kind=False, cash_instrument="", units=0)),
    ("FIELD_MISSING", "delivery_reference", pay_back(delivery_reference="", units=0)),
    ("FIELD_MISSING", "cash_instrument", pay_back(instrument="AAPLx", account="book:bob")),
    ("INSTRUMENT_KIND_UNFIT", None, pay_back(in_kind=False, cash_instrument="USDC")),
    ("INSTRUMENT_KIND_UNFIT", None, pay_back(cash_instrument="USDC")),
    ("UNITS_INSUFFICIENT", None, pay_back(units=10_000 * USDC + 1)),
]


@pytest.mark.parametrize(("reason", "field", "command"), CASH_REFUSALS)
def test_refusals_of_asking_for_cash(reason: str, field: str | None, command: RequestRedemptionRequest) -> None:
    books = market()
    books.when(command).raises(reason, **({"field": field} if field else {}))
    books.when(pay_back()).accepted()


PAYMENT_REFUSALS = [
    ("FIELD_MISSING", pay_out(custody_account="", cash_units=-1)),
    ("UNITS_NOT_POSITIVE", pay_out(cash_units=-1, redemption=9)),
    ("UNITS_NOT_POSITIVE", pay_out(cash_units=0, redemption=9)),
    ("UNITS_OUT_OF_RANGE", pay_out(cash_units=UNITS_MAX + 1, shares=1)),
    ("FIELD_MALFORMED", pay_out(shares=1, redemption=9)),
    ("DATES_OUT_OF_ORDER", pay_out(settled_time=moment(1), redemption=9)),
    ("REDEMPTION_NOT_FOUND", pay_out(redemption=9, custody_account="NONE")),
    ("INSTRUMENT_KIND_UNFIT", pay_out(cash_units=0, shares=1, custody_account="NONE")),
    ("INSTRUMENT_KIND_UNFIT", pay_out(redemption=2)),
    ("CUSTODY_ACCOUNT_NOT_FOUND", pay_out(custody_account="NONE", cash_units=251 * USDC)),
    ("CUSTODY_ACCOUNT_TAKEN", pay_out(custody_account="alpaca/AAPL-1", cash_units=251 * USDC)),
    ("HOLD_INSUFFICIENT", pay_out(cash_units=250 * USDC + 1)),
]


@pytest.mark.parametrize(("reason", "command"), PAYMENT_REFUSALS)
def test_refusals_of_paying_out_in_order_of_precedence(reason: str, command: DeliverRedemptionRequest) -> None:
    books = market().given(issue(account="book:bob", units=UNITS), pay_back(), in_kind())
    books.when(command).raises(reason)
    books.when(pay_out()).accepted()


def test_a_halt_a_freeze_and_frozen_units_stop_a_payment() -> None:
    books = market().given(pay_back(units=10_000 * USDC))
    books.given(HaltInstrumentRequest(instrument="USDC", operations=[Operation.OPERATION_REDEEM]))
    books.when(pay_out()).raises("INSTRUMENT_HALTED")
    books.when(pay_back(units=1)).raises("INSTRUMENT_HALTED")
    books.given(ResumeInstrumentRequest(instrument="USDC", operations=[Operation.OPERATION_REDEEM]))
    books.given(FreezeHolderRequest(holder="h-1", legal_reference="order 7")).when(pay_out()).raises("HOLDER_FROZEN")
    books.given(UnfreezeHolderRequest(holder="h-1", legal_reference="order 8"))
    books.given(FreezeUnitsRequest(instrument="USDC", account="book:alice", units=9_751 * USDC, legal_reference="garnishment"))
    books.when(pay_out()).raises("UNITS_INSUFFICIENT", free=249 * USDC, needed=250 * USDC)
    books.when(pay_out(cash_units=249 * USDC)).accepted()


def test_nothing_of_cash_is_sold() -> None:
    books = market().given(pay_back())
    books.when(fill()).raises("INSTRUMENT_KIND_UNFIT", instrument="USDC", needed="a security")
    assert books.books.execute(GetRedemptionRequest(redemption=1)).redemption == Redemption(
        redemption=1,
        instrument="USDC",
        account="book:alice",
        units=250 * USDC,
        remaining_units=250 * USDC,
        hold=1,
        in_kind=True,
        delivery_reference="payee 7",
    )


def test_paying_out_again_gets_the_first_answer() -> None:
    books = market().given(pay_back())
    first = books.books.execute(pay_out(request_id=REQUEST_ID))
    again = books.books.execute(pay_out(request_id=REQUEST_ID))
    assert (again.event, again.booking.repeated_answer) == (first.event, True)
    books.when(pay_out(request_id=REQUEST_ID, cash_units=1)).raises("REQUEST_ID_REUSED")
