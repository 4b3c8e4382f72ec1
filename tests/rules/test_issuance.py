"""Subscriptions and IssueUnits: every refusal in its order of precedence, each beside its nearest acceptance."""

from __future__ import annotations

from typing import Any

import pytest
from primary_market import (
    COST,
    FEE,
    HOUR_US,
    ONE,
    OTHER_REQUEST_ID,
    PRICE,
    REQUEST_ID,
    USDC,
    evidence,
    fill,
    issue,
    market,
    moment,
    policy,
    settle,
    subscribe,
)
from scenario import START_US, Scenario, account, cash, holder, stock

from ledger.arithmetic import UNITS_MAX
from ledger.errors import LedgerError
from ledger.records import Account, Fill, Subscription
from ledger.rules.checks import utc_text
from ledger.rules.fills import FILLS_PER_EVENT_MAX, apply_rescaled_fills, cash_of_shares_ceiling, rescale_open_fills
from ledger.state import FIRST_ACCOUNT_NUMBER
from stockledger.v1.accounts_pb2 import (
    AmendHolderRequest,
    CloseAccountRequest,
    FreezeAccountRequest,
    FreezeHolderRequest,
    FreezeUnitsRequest,
    HolderState,
    UnfreezeHolderRequest,
)
from stockledger.v1.approvals_pb2 import ApprovalGiven, ApprovalRequested
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
from stockledger.v1.instruments_pb2 import (
    ActionMethod,
    AmendInstrumentRequest,
    HaltInstrumentRequest,
    IssuePolicy,
    ResumeInstrumentRequest,
    RetireInstrumentRequest,
    SetMultiplierRequest,
)
from stockledger.v1.issuance_pb2 import (
    CancelSubscriptionRequest,
    FillSettled,
    FillsRescaled,
    GetSubscriptionRequest,
    ListSubscriptionsRequest,
    RejectSubscriptionRequest,
    RescaledFill,
    SubscriptionEnded,
    SubscriptionFilled,
    SubscriptionRequested,
    UnitsIssued,
)
from stockledger.v1.issuance_pb2 import Fill as FillMessage
from stockledger.v1.issuance_pb2 import Subscription as SubscriptionMessage

HALT = HaltInstrumentRequest(instrument="AAPLx", operations=[Operation.OPERATION_ISSUE])
CASH_HALT = HaltInstrumentRequest(instrument="USDC", operations=[Operation.OPERATION_TRANSFER])
AT_FILL = AmendInstrumentRequest(instrument="AAPLx", issue_policy=IssuePolicy.ISSUE_POLICY_AT_FILL)
NO_FRANCE = SetEligibilityRequest(instrument="AAPLx", rule=EligibilityRule(effective_date="2026-11-01", barred_countries=["FR"]))


def booked_fill(**changes: Any) -> FillMessage:
    fields: dict[str, Any] = {
        "fill": 1,
        "shares_e8": 10 * ONE,
        "price_e8": PRICE,
        "cash_units": COST,
        "fee_units": FEE,
        "trade_date": "2026-11-20",
        "settlement_date": "2026-11-23",
        "units": 10 * ONE,
    }
    return FillMessage(**(fields | changes))


REJECT = RejectSubscriptionRequest(subscription=1, cause="market closed")
CANCEL = CancelSubscriptionRequest(subscription=1)


@pytest.fixture
def books() -> Scenario:
    return market()


@pytest.fixture
def asked(books: Scenario) -> Scenario:
    """One subscription of book:alice over 2,000 USDC."""
    return books.given(subscribe())


@pytest.fixture
def filled(asked: Scenario) -> Scenario:
    """Its last fill, ten shares, units to be created at settlement."""
    return asked.given(fill())


def cash_of(books: Scenario, name: str) -> int:
    return books.holding("USDC", name)


# ---- IssueUnits ---------------------------------------------------------------------------------------------------------------------


def test_units_are_issued_in_kind(books: Scenario) -> None:
    books.when(issue()).then(UnitsIssued(instrument="AAPLx", account="book:alice", units=10 * ONE, reference="DTC 8841"))
    assert (books.holding("AAPLx", "book:alice"), books.holding("AAPLx", "ledger:issuance")) == (10 * ONE, -10 * ONE)


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", issue(instrument="", units=0)),
        ("FIELD_MISSING", issue(account="", units=0)),
        ("FIELD_MALFORMED", issue(reference="x" * 141, units=0)),
        ("UNITS_NOT_POSITIVE", issue(units=0, instrument="NONEx")),
        ("UNITS_NOT_POSITIVE", issue(units=-1, instrument="NONEx")),
        ("UNITS_OUT_OF_RANGE", issue(units=UNITS_MAX + 1, instrument="NONEx")),
        ("INSTRUMENT_NOT_FOUND", issue(instrument="NONEx", account="book:nobody")),
        ("ACCOUNT_NOT_FOUND", issue(account="book:nobody", units=10**17)),
        ("ACCOUNT_RESERVED", issue(account="ledger:remainder", units=10**17)),
        ("AUTHORISED_EXCEEDED", issue(units=10**16 + 1)),
        ("RESERVE_INSUFFICIENT", issue(units=1_000 * ONE + 1)),
    ],
)
def test_refusals_to_issue_in_order(books: Scenario, reason: str, command: Any) -> None:
    books.when(command).raises(reason)
    books.when(issue()).accepted()


def test_all_that_reserves_cover_may_be_issued_and_not_one_unit_more(books: Scenario) -> None:
    books.given(issue(units=400 * ONE))
    books.when(issue(units=600 * ONE + 1)).raises("RESERVE_INSUFFICIENT", needed_e8=1_000 * ONE + 1, reserve_e8=1_000 * ONE)
    books.when(issue(units=600 * ONE)).accepted()


def test_all_that_is_authorised_may_be_issued_and_not_one_unit_more(books: Scenario) -> None:
    books.given(AmendInstrumentRequest(instrument="AAPLx", authorised_units=500 * ONE), issue(units=400 * ONE))
    books.when(issue(units=100 * ONE + 1)).raises("AUTHORISED_EXCEEDED", supply=400 * ONE, units=100 * ONE + 1, authorised=500 * ONE)
    books.when(issue(units=100 * ONE)).accepted()


def test_authorised_units_are_asked_before_reserves(books: Scenario) -> None:
    books.given(AmendInstrumentRequest(instrument="AAPLx", authorised_units=500 * ONE))
    books.when(issue(units=1_001 * ONE)).raises("AUTHORISED_EXCEEDED")


def test_cash_is_issued_against_the_banks_evidence(books: Scenario) -> None:
    books.when(issue(instrument="USDC", units=940_000 * USDC + 1)).raises("RESERVE_INSUFFICIENT")
    books.when(issue(instrument="USDC", units=940_000 * USDC)).accepted()


def test_stale_evidence_and_a_shortfall_stop_issuance(books: Scenario) -> None:
    books.given(issue()).pass_time(23 * 3600).when(issue()).raises("ATTESTATION_STALE")
    fresh = {"as_of_time": utc_text(START_US + 22 * HOUR_US), "valid_until_time": utc_text(START_US + 40 * HOUR_US)}
    books.given(evidence(9, **fresh)).when(issue(units=1)).raises("RESERVE_SHORTFALL")
    fresh["as_of_time"] = utc_text(START_US + 23 * HOUR_US)
    books.given(evidence(20, **fresh)).when(issue(units=1)).accepted()


@pytest.mark.parametrize("operation", [Operation.OPERATION_TRANSFER, Operation.OPERATION_REDEEM])
def test_only_a_halt_of_issuing_stops_issuing(books: Scenario, operation: Operation.ValueType) -> None:
    books.given(HALT).when(issue(units=10**17)).raises("INSTRUMENT_HALTED", operation="OPERATION_ISSUE")
    books.given(ResumeInstrumentRequest(instrument="AAPLx", operations=[Operation.OPERATION_ISSUE]))
    books.given(HaltInstrumentRequest(instrument="AAPLx", operations=[operation])).when(issue()).accepted()


def test_nothing_is_issued_of_a_retired_instrument(books: Scenario) -> None:
    books.given(RetireInstrumentRequest(instrument="AAPLx")).when(issue(units=10**17)).raises("INSTRUMENT_RETIRED")


def test_nothing_is_issued_to_who_may_not_receive(books: Scenario) -> None:
    books.given(account("book:carol", "h-2"), CloseAccountRequest(account="book:carol"), NO_FRANCE)
    books.when(issue(account="book:carol", units=10**17)).raises("ACCOUNT_CLOSED")
    books.when(issue(account="book:bob", units=10**17)).raises("HOLDER_NOT_ELIGIBLE", holder="h-2")
    books.given(AmendHolderRequest(holder="h-2", state=HolderState.HOLDER_STATE_SUSPENDED))
    books.when(issue(account="book:bob", units=10**17)).raises("HOLDER_NOT_ACTIVE")
    books.when(issue()).accepted()


def test_units_are_issued_in_the_book_only(books: Scenario) -> None:
    wallet = "eip155:1:0x52908400098527886e0f7030069857d2e4169ee7"
    add_account(books, wallet)
    books.when(issue(account=wallet, units=10**17)).raises("PLACE_UNFIT", account=wallet)


def add_account(books: Scenario, name: str) -> None:
    """Put an account at a chain into the books, past the binding of wallets."""
    state = books.books._state
    number = max(state.next_number("account"), FIRST_ACCOUNT_NUMBER)
    state.put(state.counters, "account", number)
    state.put(state.accounts, name, Account(name=name, number=number, holder="h-1"))
    state.put(state.account_names, number, name)
    books.replayable = False


def test_nothing_is_issued_while_a_step_is_due(books: Scenario) -> None:
    books.given(split()).when(issue()).accepted()
    books.pass_time(3600).when(issue(units=10**17)).raises("ACTION_DUE")


def split(**changes: Any) -> AnnounceActionRequest:
    fields: dict[str, Any] = {
        "action": "AAPL-2026-SPLF",
        "instrument": "AAPLx",
        "ex_date": "2026-11-23",
        "record_date": "2026-11-22",
        "payment_date": "2026-11-23",
        "fixing_time": moment(1),
        "execution_time": moment(1),
        "terms": ActionTerms(stock_split=StockSplit(new_shares=10, old_shares=1)),
    }
    return AnnounceActionRequest(**(fields | changes))


def test_issuing_waits_for_an_approval_by_default(books: Scenario) -> None:
    books.given(policy("IssueUnits", 1)).when(issue(units=10**17)).raises("AUTHORISED_EXCEEDED")
    books.when(issue()).accepted()
    assert [type(event) for event in books.booked] == [ApprovalRequested]
    books.when(issue(), approver="approver").accepted()
    assert [type(event) for event in books.booked] == [ApprovalRequested, ApprovalGiven, UnitsIssued]
    assert books.holding("AAPLx", "book:alice") == 10 * ONE


def test_a_repeated_issue_is_booked_once(books: Scenario) -> None:
    first = books.when(issue(request_id=REQUEST_ID)).answer
    again = books.when(issue(request_id=REQUEST_ID)).answer
    assert (again.event, again.booking.repeated_answer, again.booking.index) == (first.event, True, first.booking.index)
    books.when(issue(request_id=REQUEST_ID, units=1)).raises("REQUEST_ID_REUSED")
    assert books.holding("AAPLx", "book:alice") == 10 * ONE


# ---- RequestSubscription ------------------------------------------------------------------------------------------------------------


def test_a_subscription_holds_its_cash(books: Scenario) -> None:
    books.when(subscribe()).then(
        SubscriptionRequested(
            subscription=1,
            instrument="AAPLx",
            account="book:alice",
            cash_instrument="USDC",
            cash_units=2_000 * USDC,
            hold=1,
            reference="order 77",
        )
    )
    books.when(subscribe(cash_units=8_000 * USDC + 1)).raises("UNITS_INSUFFICIENT", free=8_000 * USDC, held=2_000 * USDC)
    books.when(subscribe(cash_units=8_000 * USDC)).accepted()
    assert (books.answer.event.subscription, books.answer.event.hold) == (2, 2)


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", subscribe(instrument="", cash_units=0)),
        ("FIELD_MISSING", subscribe(account="", cash_units=0)),
        ("FIELD_MISSING", subscribe(cash_instrument="", cash_units=0)),
        ("FIELD_MALFORMED", subscribe(reference="x" * 141, cash_units=0)),
        ("UNITS_NOT_POSITIVE", subscribe(cash_units=0, instrument="NONEx")),
        ("UNITS_NOT_POSITIVE", subscribe(cash_units=-5, instrument="NONEx")),
        ("UNITS_OUT_OF_RANGE", subscribe(cash_units=UNITS_MAX + 1, instrument="NONEx")),
        ("INSTRUMENT_NOT_FOUND", subscribe(instrument="NONEx", account="book:nobody")),
        ("INSTRUMENT_NOT_FOUND", subscribe(cash_instrument="NONEx", account="book:nobody")),
        ("ACCOUNT_NOT_FOUND", subscribe(account="book:nobody", instrument="USDC")),
        ("ACCOUNT_RESERVED", subscribe(account="ledger:issuance", instrument="USDC")),
        ("INSTRUMENT_KIND_UNFIT", subscribe(instrument="USDC", cash_units=20_000 * USDC)),
        ("INSTRUMENT_KIND_UNFIT", subscribe(cash_instrument="AAPLx", cash_units=20_000 * USDC)),
        ("UNITS_INSUFFICIENT", subscribe(cash_units=10_000 * USDC + 1)),
    ],
)
def test_refusals_to_subscribe_in_order(books: Scenario, reason: str, command: Any) -> None:
    books.when(command).raises(reason)
    books.when(subscribe()).accepted()


def test_the_kind_that_is_needed_is_named(books: Scenario) -> None:
    books.when(subscribe(instrument="USDC")).raises("INSTRUMENT_KIND_UNFIT", instrument="USDC", needed="a security")
    books.when(subscribe(cash_instrument="AAPLx")).raises("INSTRUMENT_KIND_UNFIT", instrument="AAPLx", needed="cash")


@pytest.mark.parametrize(("halt", "symbol"), [(HALT, "AAPLx"), (CASH_HALT, "USDC")])
def test_a_halt_stops_subscribing(books: Scenario, halt: Any, symbol: str) -> None:
    books.given(halt).when(subscribe(cash_units=20_000 * USDC)).raises("INSTRUMENT_HALTED", instrument=symbol)


def test_only_who_may_receive_may_subscribe(books: Scenario) -> None:
    books.given(NO_FRANCE).when(subscribe(account="book:bob", cash_units=20_000 * USDC)).raises("HOLDER_NOT_ELIGIBLE")
    books.given(FreezeAccountRequest(account="book:alice", legal_reference="court order 12/2026"))
    books.when(subscribe(cash_units=20_000 * USDC)).raises("ACCOUNT_FROZEN", legal_reference="court order 12/2026")


def test_frozen_cash_is_not_free(books: Scenario) -> None:
    books.given(FreezeUnitsRequest(instrument="USDC", account="book:alice", units=1_000 * USDC, legal_reference="garnishment 7"))
    books.when(subscribe(cash_units=9_000 * USDC + 1)).raises("UNITS_INSUFFICIENT", frozen=1_000 * USDC)
    books.when(subscribe(cash_units=9_000 * USDC)).accepted()


def test_a_repeated_subscription_is_booked_once(books: Scenario) -> None:
    first = books.when(subscribe(request_id=REQUEST_ID)).answer
    again = books.when(subscribe(request_id=REQUEST_ID)).answer
    assert (again.event, again.booking.repeated_answer) == (first.event, True)
    books.when(subscribe(request_id=REQUEST_ID, cash_units=1)).raises("REQUEST_ID_REUSED")
    assert len(books.books._state.subscriptions) == 1


# ---- FillSubscription ---------------------------------------------------------------------------------------------------------------


def test_the_last_fill_takes_cash_and_fees_and_releases_the_excess(asked: Scenario) -> None:
    asked.when(fill()).then(
        SubscriptionFilled(
            subscription=1,
            fill=booked_fill(),
            proceeds_account="book:issuer",
            fee_account="book:fees",
            released_cash_units=100_300_000,
            last=True,
            instrument="AAPLx",
            account="book:alice",
            cash_instrument="USDC",
        )
    )
    assert (cash_of(asked, "book:issuer"), cash_of(asked, "book:fees")) == (50_000 * USDC + COST, FEE)
    assert cash_of(asked, "book:alice") == 10_000 * USDC - COST - FEE
    state = asked.books._state
    assert (state.holds, asked.holding("AAPLx", "book:alice")) == ({}, 0), "the hold is gone, and no units yet"


def test_units_are_created_with_the_fill_where_the_policy_says_so(asked: Scenario) -> None:
    asked.given(AT_FILL).when(fill()).accepted()
    assert (asked.booked[0].issued_units, asked.booked[0].fill) == (10 * ONE, booked_fill(issued_at_fill=True))
    assert asked.holding("AAPLx", "book:alice") == 10 * ONE
    asked.when(settle()).then(FillSettled(subscription=1, fill=1, instrument="AAPLx", account="book:alice", completed=True))
    assert asked.holding("AAPLx", "book:alice") == 10 * ONE, "units are not created twice"


def test_a_policy_amended_after_the_fill_does_not_create_units_twice(asked: Scenario) -> None:
    at_settlement = AmendInstrumentRequest(instrument="AAPLx", issue_policy=IssuePolicy.ISSUE_POLICY_AT_SETTLEMENT)
    asked.given(AT_FILL, fill(shares_e8=ONE, last=False), at_settlement, fill(shares_e8=2 * ONE), AT_FILL)
    asked.given(settle(fill=1), settle(fill=2))
    assert asked.holding("AAPLx", "book:alice") == 3 * ONE


def test_cash_is_rounded_up_and_units_are_rounded_down(books: Scenario) -> None:
    raised = SetMultiplierRequest(instrument="AAPLx", expected_multiplier=str(10**18), multiplier=str(3 * 10**18), cause="for a test")
    books.given(raised, subscribe()).when(fill(shares_e8=ONE, price_e8=1, fee_units=0, fee_account="")).accepted()
    booked = books.booked[0].fill
    assert (booked.cash_units, booked.units) == (1, 33_333_333), "0.00000001 of a dollar costs 0.000001, a third of a share is cut"


@pytest.mark.parametrize(
    ("shares_e8", "price_e8", "decimals", "cash_units"),
    [
        (10 * ONE, PRICE, 6, COST),
        (1, 1, 6, 1),
        (ONE, ONE, 0, 1),
        (ONE + 1, ONE, 0, 2),
        (ONE + 1, ONE, 8, ONE + 1),
        (ONE // 3, ONE, 6, 333_334),
    ],
)
def test_what_shares_cost(shares_e8: int, price_e8: int, decimals: int, cash_units: int) -> None:
    assert cash_of_shares_ceiling(shares_e8, price_e8, decimals) == cash_units


def test_several_fills_share_the_cash(asked: Scenario) -> None:
    asked.given(fill(shares_e8=4 * ONE, last=False), fill(shares_e8=6 * ONE, last=False))
    left = 2_000 * USDC - COST - 2 * FEE
    asked.when(fill(shares_e8=ONE, fee_units=0)).raises("HOLD_INSUFFICIENT", hold=1, remaining=left, needed=189_870_000)
    asked.when(fill(shares_e8=ONE // 2, fee_units=0)).accepted()
    assert (asked.booked[0].fill.fill, asked.booked[0].released_cash_units) == (3, left - 94_935_000)


def test_a_fill_that_takes_all_the_cash_is_the_last(books: Scenario) -> None:
    books.given(subscribe(cash_units=COST + FEE - 1)).when(fill(last=False)).raises("HOLD_INSUFFICIENT", remaining=COST + FEE - 1)
    books.given(subscribe(cash_units=COST + FEE)).when(fill(subscription=2, last=False)).accepted()
    assert (books.booked[0].last, books.booked[0].released_cash_units) == (True, 0)
    books.when(fill(subscription=2, shares_e8=1, fee_units=0)).raises("HOLD_INSUFFICIENT", remaining=0)
    books.given(settle(subscription=2)).when(settle(subscription=2)).raises("SUBSCRIPTION_NOT_FOUND")


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("UNITS_NOT_POSITIVE", fill(shares_e8=0, price_e8=0, trade_date="")),
        ("UNITS_NOT_POSITIVE", fill(shares_e8=-1, subscription=9)),
        ("UNITS_OUT_OF_RANGE", fill(shares_e8=UNITS_MAX + 1, subscription=9)),
        ("UNITS_NOT_POSITIVE", fill(price_e8=0, subscription=9)),
        ("UNITS_NOT_POSITIVE", fill(fee_units=-1, subscription=9)),
        ("FIELD_MISSING", fill(trade_date="", subscription=9)),
        ("FIELD_MISSING", fill(settlement_date="", subscription=9)),
        ("FIELD_MALFORMED", fill(settlement_date="2026-11-31", subscription=9)),
        ("DATES_OUT_OF_ORDER", fill(settlement_date="2026-11-19", subscription=9)),
        ("FIELD_MISSING", fill(proceeds_account="", subscription=9)),
        ("FIELD_MISSING", fill(fee_account="", subscription=9)),
        ("SUBSCRIPTION_NOT_FOUND", fill(subscription=9, proceeds_account="book:nobody")),
        ("SUBSCRIPTION_NOT_FOUND", fill(subscription=0, proceeds_account="book:nobody")),
        ("ACCOUNT_NOT_FOUND", fill(proceeds_account="book:nobody", shares_e8=UNITS_MAX)),
        ("ACCOUNT_NOT_FOUND", fill(fee_account="book:nobody", shares_e8=UNITS_MAX)),
        ("ACCOUNT_NOT_FOUND", fill(fee_account="book:nobody", fee_units=0)),
        ("ACCOUNT_RESERVED", fill(proceeds_account="ledger:issuance", shares_e8=UNITS_MAX)),
        ("SAME_ACCOUNT", fill(proceeds_account="book:alice", shares_e8=UNITS_MAX)),
        ("SAME_ACCOUNT", fill(fee_account="book:alice", shares_e8=UNITS_MAX)),
        ("UNITS_OUT_OF_RANGE", fill(shares_e8=UNITS_MAX)),
        ("HOLD_INSUFFICIENT", fill(shares_e8=11 * ONE)),
    ],
)
def test_refusals_to_fill_in_order(asked: Scenario, reason: str, command: Any) -> None:
    asked.when(command).raises(reason)
    asked.when(fill()).accepted()


def test_dates_may_be_the_same_and_fees_none(asked: Scenario) -> None:
    asked.when(fill(settlement_date="2026-11-20", fee_units=0, fee_account="")).accepted()
    assert asked.booked[0].fee_account == ""


def test_shares_that_do_not_buy_a_unit_are_no_fill() -> None:
    books = market().given(stock("WHOLEx", "US5949181045", decimals=0), subscribe(instrument="WHOLEx"))
    books.when(fill(shares_e8=ONE - 1)).raises("UNITS_NOT_POSITIVE", field="shares_e8", value=ONE - 1)
    books.when(fill(shares_e8=ONE)).accepted()


@pytest.mark.parametrize(("halt", "symbol"), [(HALT, "AAPLx"), (CASH_HALT, "USDC")])
def test_a_halt_stops_filling(asked: Scenario, halt: Any, symbol: str) -> None:
    asked.given(halt).when(fill(shares_e8=11 * ONE)).raises("INSTRUMENT_HALTED", instrument=symbol)


@pytest.mark.parametrize("who", ["h-1", "h-3"])
def test_a_freeze_after_the_request_stops_filling_but_not_rejecting(asked: Scenario, who: str) -> None:
    asked.given(FreezeHolderRequest(holder=who, legal_reference="OFAC 2026-11"))
    asked.when(fill(shares_e8=11 * ONE)).raises("HOLDER_FROZEN", holder=who, legal_reference="OFAC 2026-11")
    asked.when(REJECT).accepted()


def test_an_account_frozen_after_the_request_is_not_filled(asked: Scenario) -> None:
    asked.given(FreezeAccountRequest(account="book:alice", legal_reference="court order 12/2026"))
    asked.when(fill(shares_e8=11 * ONE)).raises("ACCOUNT_FROZEN", account="book:alice")


def test_cash_frozen_after_the_request_is_not_taken(asked: Scenario) -> None:
    freeze = FreezeUnitsRequest(
        instrument="USDC", account="book:alice", units=10_000 * USDC - COST - FEE + 1, legal_reference="garnishment 7"
    )
    asked.given(freeze).when(fill()).raises("UNITS_INSUFFICIENT", free=COST + FEE - 1, needed=COST + FEE)
    asked.when(fill(fee_units=FEE - 1)).accepted()


def test_who_is_no_longer_eligible_is_not_filled(asked: Scenario) -> None:
    asked.given(AmendHolderRequest(holder="h-1", country="FR"), NO_FRANCE)
    asked.when(fill(shares_e8=11 * ONE)).raises("HOLDER_NOT_ELIGIBLE", holder="h-1")


def test_proceeds_and_fees_go_to_who_may_hold_the_cash(asked: Scenario) -> None:
    rule = EligibilityRule(effective_date="2026-11-01", barred_countries=["CH"])
    asked.given(SetEligibilityRequest(instrument="USDC", rule=rule))
    asked.when(fill(shares_e8=11 * ONE)).raises("HOLDER_NOT_ELIGIBLE", holder="h-3")
    asked.when(fill(shares_e8=11 * ONE, proceeds_account="book:bob")).raises("HOLDER_NOT_ELIGIBLE", holder="h-3")
    asked.when(fill(proceeds_account="book:bob", fee_account="book:bob")).accepted()


def test_units_created_with_the_fill_pass_the_gates_of_issuing(asked: Scenario) -> None:
    asked.given(AT_FILL, issue(account="book:bob", units=995 * ONE))
    asked.when(fill()).raises("RESERVE_INSUFFICIENT")
    asked.given(AmendInstrumentRequest(instrument="AAPLx", authorised_units=1_004 * ONE)).when(fill()).raises("AUTHORISED_EXCEEDED")
    asked.when(fill(shares_e8=5 * ONE)).accepted()


def test_units_created_at_settlement_pass_the_gates_then(filled: Scenario) -> None:
    filled.given(issue(account="book:bob", units=991 * ONE)).when(settle()).raises("RESERVE_INSUFFICIENT")
    filled.given(AmendInstrumentRequest(instrument="AAPLx", authorised_units=1_000 * ONE)).when(settle()).raises("AUTHORISED_EXCEEDED")


def test_a_repeated_fill_is_booked_once(asked: Scenario) -> None:
    first = asked.when(fill(request_id=REQUEST_ID, last=False, shares_e8=ONE)).answer
    again = asked.when(fill(request_id=REQUEST_ID, last=False, shares_e8=ONE)).answer
    assert (again.event, again.booking.repeated_answer) == (first.event, True)
    asked.when(fill(request_id=REQUEST_ID)).raises("REQUEST_ID_REUSED")
    asked.when(fill(request_id=OTHER_REQUEST_ID, last=False, shares_e8=ONE)).accepted()
    assert asked.booked[0].fill.fill == 2


# ---- SettleFill ---------------------------------------------------------------------------------------------------------------------


def test_units_are_created_at_settlement_and_the_record_goes(filled: Scenario) -> None:
    filled.when(settle()).then(
        FillSettled(subscription=1, fill=1, instrument="AAPLx", account="book:alice", issued_units=10 * ONE, completed=True)
    )
    assert filled.holding("AAPLx", "book:alice") == 10 * ONE
    filled.when(settle()).raises("SUBSCRIPTION_NOT_FOUND", subscription=1)


def test_a_subscription_stays_until_its_last_fill_is_settled(asked: Scenario) -> None:
    asked.given(fill(shares_e8=ONE, last=False)).when(settle()).accepted()
    assert asked.booked[0].completed is False, "more fills may follow"
    asked.given(fill(shares_e8=2 * ONE, last=False), fill(shares_e8=3 * ONE))
    asked.when(settle(fill=3)).accepted()
    asked.when(settle(fill=3)).raises("FILL_NOT_FOUND", fill=3)
    asked.when(settle(fill=2)).accepted()
    assert (asked.booked[0].completed, asked.holding("AAPLx", "book:alice")) == (True, 6 * ONE)


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("SUBSCRIPTION_NOT_FOUND", settle(subscription=9, fill=9)),
        ("FILL_NOT_FOUND", settle(fill=2)),
        ("FILL_NOT_FOUND", settle(fill=0)),
    ],
)
def test_refusals_to_settle_in_order(filled: Scenario, reason: str, command: Any) -> None:
    filled.given(HALT).when(command).raises(reason)
    filled.when(settle()).raises("INSTRUMENT_HALTED")


def test_a_freeze_stops_settlement_until_lifted(filled: Scenario) -> None:
    filled.given(FreezeHolderRequest(holder="h-1", legal_reference="OFAC 2026-11"))
    filled.when(settle()).raises("HOLDER_FROZEN", legal_reference="OFAC 2026-11")
    filled.given(UnfreezeHolderRequest(holder="h-1", legal_reference="OFAC 2026-12")).when(settle()).accepted()


def test_who_is_no_longer_eligible_gets_no_units(filled: Scenario) -> None:
    filled.given(AmendHolderRequest(holder="h-1", country="FR"), NO_FRANCE).when(settle()).raises("HOLDER_NOT_ELIGIBLE")


def test_an_account_that_is_still_due_units_is_not_closed(books: Scenario) -> None:
    books.given(
        holder("h-4"),
        account("book:dora", "h-4"),
        issue(instrument="USDC", account="book:dora", units=COST),
        subscribe(account="book:dora", cash_units=COST),
        fill(fee_units=0, fee_account=""),
    )
    books.when(CloseAccountRequest(account="book:dora")).raises("ACCOUNT_NOT_EMPTY")


def test_units_are_computed_by_the_multiplier_of_settlement(filled: Scenario) -> None:
    raised = SetMultiplierRequest(instrument="AAPLx", expected_multiplier=str(10**18), multiplier=str(3 * 10**18), cause="reinvested")
    filled.given(raised).when(settle()).accepted()
    assert filled.booked[0].issued_units == 333_333_333
    assert filled.holding("AAPLx", "book:alice") == 333_333_333


def test_a_fill_that_no_longer_makes_a_unit_settles_without_units(asked: Scenario) -> None:
    raised = SetMultiplierRequest(instrument="AAPLx", expected_multiplier=str(10**18), multiplier=str(2 * 10**18), cause="reinvested")
    asked.given(fill(shares_e8=1), raised).when(settle()).then(
        FillSettled(subscription=1, fill=1, instrument="AAPLx", account="book:alice", completed=True)
    )


def test_a_repeated_settlement_is_booked_once(filled: Scenario) -> None:
    first = filled.when(settle(request_id=REQUEST_ID)).answer
    again = filled.when(settle(request_id=REQUEST_ID)).answer
    assert (again.event, again.booking.repeated_answer) == (first.event, True)
    filled.when(settle(request_id=REQUEST_ID, fill=2)).raises("REQUEST_ID_REUSED")
    assert filled.holding("AAPLx", "book:alice") == 10 * ONE


# ---- a split between fill and settlement --------------------------------------------------------------------------------------------


def rescale(books: Scenario, *ratio: int, new_multiplier: int | None = None) -> list[FillsRescaled]:
    """Book what a split makes of open fills, without the rest of the split."""
    state = books.books._state
    events = rescale_open_fills(state, "AAPLx", *ratio, new_multiplier=new_multiplier)
    for event in events:
        apply_rescaled_fills(state, event, None)  # type: ignore[arg-type]
    books.replayable = False
    return events


def test_a_split_by_holdings_scales_shares_and_units(filled: Scenario) -> None:
    rescaled = RescaledFill(subscription=1, fill=1, shares_e8=100 * ONE, units=100 * ONE)
    assert rescale(filled, 10, 1) == [FillsRescaled(instrument="AAPLx", new_shares=10, old_shares=1, fills=[rescaled])]
    filled.when(settle()).accepted()
    assert filled.holding("AAPLx", "book:alice") == 100 * ONE


def test_a_split_by_the_multiplier_scales_shares_only(filled: Scenario) -> None:
    rescaled = RescaledFill(subscription=1, fill=1, shares_e8=100 * ONE, units=10 * ONE)
    assert rescale(filled, 10, 1, new_multiplier=10 * 10**18)[0].fills[0] == rescaled
    raised = SetMultiplierRequest(instrument="AAPLx", expected_multiplier=str(10**18), multiplier=str(10 * 10**18), cause="split 10:1")
    filled.given(raised).when(settle()).accepted()
    assert filled.holding("AAPLx", "book:alice") == 10 * ONE


@pytest.mark.parametrize(
    ("method", "units"), [(ActionMethod.ACTION_METHOD_HOLDINGS, 100 * ONE), (ActionMethod.ACTION_METHOD_MULTIPLIER, 10 * ONE)]
)
def test_a_whole_split_reaches_open_fills_by_either_method(filled: Scenario, method: ActionMethod.ValueType, units: int) -> None:
    filled.given(issue(), split(method=method)).pass_time(3600)
    filled.when(settle()).raises("ACTION_DUE")
    steps = {"action": "AAPL-2026-SPLF"}
    filled.given(FixEntitlementsRequest(**steps), ExecuteActionRequest(**steps)).when(settle()).raises("ATTESTATION_STALE")
    renewed = {"as_of_time": utc_text(START_US + HOUR_US), "valid_until_time": utc_text(START_US + 24 * HOUR_US), "share_basis": 1}
    filled.given(evidence(200, **renewed)).when(settle()).accepted()
    assert filled.booked[0].issued_units == units, "what the same fill would have made before the split, split"
    assert filled.holding("AAPLx", "book:alice") == 2 * units
    filled.when(issue(units=1)).raises("RESERVE_INSUFFICIENT")


def test_a_reverse_split_rounds_shares_down(asked: Scenario) -> None:
    asked.given(fill(shares_e8=10))
    assert rescale(asked, 1, 3)[0].fills[0] == RescaledFill(subscription=1, fill=1, shares_e8=3, units=3)


def test_only_open_fills_of_the_instrument_without_units_are_scaled(books: Scenario) -> None:
    books.given(stock("MSFTx", "US5949181045"), subscribe(instrument="MSFTx"), fill(last=False))
    books.given(AT_FILL, subscribe(), fill(subscription=2, shares_e8=ONE, last=False))
    at_settlement = AmendInstrumentRequest(instrument="AAPLx", issue_policy=IssuePolicy.ISSUE_POLICY_AT_SETTLEMENT)
    books.given(at_settlement, fill(subscription=2, shares_e8=ONE, last=False), settle(subscription=2, fill=2))
    assert rescale(books, 10, 1) == []
    books.replayable = True
    books.given(fill(subscription=2, shares_e8=ONE))
    assert [(each.subscription, each.fill) for each in rescale(books, 10, 1)[0].fills] == [(2, 3)]


def test_shares_beyond_the_range_stop_a_split(filled: Scenario) -> None:
    with pytest.raises(LedgerError) as refused:
        rescale_open_fills(filled.books._state, "AAPLx", UNITS_MAX, 1)
    assert refused.value.reason_name == "UNITS_OUT_OF_RANGE"


def test_many_fills_are_scaled_in_parts_that_fit_an_entry(filled: Scenario) -> None:
    state = filled.books._state
    largest = Fill(1, UNITS_MAX, PRICE, COST, FEE, "2026-11-20", "2026-11-23", UNITS_MAX, settled=False)
    for number in range(FILLS_PER_EVENT_MAX):
        state.subscriptions[2**62 + number] = Subscription(2**62 + number, "AAPLx", "book:alice", "USDC", 1, 1, (largest,))
    events = rescale_open_fills(state, "AAPLx", 1, 1)
    assert [len(event.fills) for event in events] == [FILLS_PER_EVENT_MAX, 1]
    assert max(event.ByteSize() for event in events) < 60_000
    state.subscriptions.clear()


# ---- RejectSubscription and CancelSubscription --------------------------------------------------------------------------------------


def ended(**changes: Any) -> SubscriptionEnded:
    fields = {"subscription": 1, "released_cash_units": 2_000 * USDC, "account": "book:alice", "cash_instrument": "USDC"}
    return SubscriptionEnded(**(fields | changes))


def test_rejecting_releases_the_cash(asked: Scenario) -> None:
    asked.when(REJECT).then(ended(cause="market closed"))
    asked.when(subscribe(cash_units=10_000 * USDC)).accepted()
    asked.when(REJECT).raises("SUBSCRIPTION_NOT_FOUND", subscription=1)


def test_rejecting_the_rest_leaves_the_fills_to_settle(asked: Scenario) -> None:
    asked.given(fill(last=False)).when(REJECT).then(ended(cause="market closed", released_cash_units=100_300_000))
    asked.when(REJECT).raises("STATE_UNFIT", subscription=1)
    asked.when(fill(shares_e8=1, fee_units=0)).raises("HOLD_INSUFFICIENT", remaining=0)
    asked.when(settle()).accepted()
    assert (asked.booked[0].completed, asked.holding("AAPLx", "book:alice")) == (True, 10 * ONE)


def test_rejecting_the_rest_of_settled_fills_ends_it(asked: Scenario) -> None:
    asked.given(fill(last=False), settle()).when(REJECT).accepted()
    asked.when(GetSubscriptionRequest(subscription=1))
    assert asked.error is not None
    assert asked.error.reason_name == "SUBSCRIPTION_NOT_FOUND"


def test_refusals_to_reject_in_order(filled: Scenario) -> None:
    filled.when(RejectSubscriptionRequest(subscription=9, cause="x" * 141)).raises("FIELD_MALFORMED")
    filled.when(RejectSubscriptionRequest(subscription=9)).raises("SUBSCRIPTION_NOT_FOUND")
    filled.when(REJECT).raises("STATE_UNFIT")


def test_rejecting_works_while_everything_else_is_stopped(asked: Scenario) -> None:
    asked.given(HALT, CASH_HALT, FreezeHolderRequest(holder="h-1", legal_reference="OFAC 2026-11"), split()).pass_time(3600)
    asked.when(fill()).raises("ACTION_DUE")
    asked.when(REJECT).accepted()


def test_cancelling_releases_the_cash(asked: Scenario) -> None:
    asked.when(CANCEL).then(ended(cancelled=True))
    assert asked.books._state.holds == {}
    asked.when(CANCEL).raises("SUBSCRIPTION_NOT_FOUND")


def test_a_subscription_with_a_fill_is_not_cancelled(asked: Scenario) -> None:
    asked.when(CancelSubscriptionRequest(subscription=9)).raises("SUBSCRIPTION_NOT_FOUND")
    asked.given(fill(shares_e8=ONE, last=False)).when(CANCEL).raises("STATE_UNFIT", fill_count=1)


@pytest.mark.parametrize("command", [RejectSubscriptionRequest, CancelSubscriptionRequest])
def test_a_repeated_end_is_booked_once(asked: Scenario, command: Any) -> None:
    first = asked.when(command(subscription=1, request_id=REQUEST_ID)).answer
    again = asked.when(command(subscription=1, request_id=REQUEST_ID)).answer
    assert (again.event, again.booking.repeated_answer) == (first.event, True)
    asked.when(command(subscription=2, request_id=REQUEST_ID)).raises("REQUEST_ID_REUSED")


def test_callers_do_not_touch_the_hold_of_a_subscription(asked: Scenario) -> None:
    asked.when(ReleaseHoldRequest(hold=1)).raises("HOLD_UNFIT")


# ---- reads --------------------------------------------------------------------------------------------------------------------------


def test_an_open_subscription_is_read_with_its_fills(filled: Scenario) -> None:
    expected = SubscriptionMessage(
        subscription=1,
        instrument="AAPLx",
        account="book:alice",
        cash_instrument="USDC",
        cash_units=2_000 * USDC,
        hold=1,
        fills=[booked_fill()],
    )
    assert filled.books.execute(GetSubscriptionRequest(subscription=1)).subscription == expected
    before = filled.books.execute(GetSubscriptionRequest(subscription=1, as_of=AsOf(size=filled.books.size - 1))).subscription
    assert (before.remaining_cash_units, len(before.fills)) == (2_000 * USDC, 0)


def test_units_to_be_created_are_read_at_todays_terms(asked: Scenario) -> None:
    raised = SetMultiplierRequest(instrument="AAPLx", expected_multiplier=str(10**18), multiplier=str(2 * 10**18), cause="reinvested")
    asked.given(fill(shares_e8=ONE, last=False), settle(), fill(shares_e8=ONE), raised)
    fills = asked.books.execute(GetSubscriptionRequest(subscription=1)).subscription.fills
    assert [(each.settled, each.units) for each in fills] == [(True, ONE), (False, ONE // 2)]


def test_open_subscriptions_are_listed_by_number(books: Scenario) -> None:
    books.given(cash("EURC"), *(subscribe(cash_units=each) for each in (1, 2, 3)), subscribe(account="book:issuer", cash_units=4))
    books.given(CancelSubscriptionRequest(subscription=2))
    everything = books.books.execute(ListSubscriptionsRequest())
    assert [each.subscription for each in everything.subscriptions] == [1, 3, 4]
    first = books.books.execute(ListSubscriptionsRequest(account="book:alice", page_size=1))
    assert ([each.subscription for each in first.subscriptions], first.next_page_token) == ([1], "1")
    second = books.books.execute(ListSubscriptionsRequest(account="book:alice", page_size=1, page_token="1"))
    assert ([each.subscription for each in second.subscriptions], second.next_page_token) == ([3], "")
    books.when(ListSubscriptionsRequest(account="book:nobody"))
    assert books.error is not None
    assert books.error.reason_name == "ACCOUNT_NOT_FOUND"
