"""Issuance, the primary market: cash turned into units, or units created in kind.

    command               event
    RequestSubscription   SubscriptionRequested   the cash is held
    FillSubscription      SubscriptionFilled      the cash is taken; units are created now, if the instrument's policy says so
    SettleFill            FillSettled             units are created, unless they were with the fill
    RejectSubscription    SubscriptionEnded       what is left of the cash is released; fills stay until they are settled
    CancelSubscription    SubscriptionEnded       only without fills
    IssueUnits            UnitsIssued             in kind

A subscription may name a wallet on a native chain: its units go there as all do, from issuance into transit, minted, and then to the
wallet. Should the chain refuse them for ever, they come back to the account that paid.

Units are created at one gate, `check_creation`: authorised units, then reserves. They are floor(shares / multiplier) by the terms of the
moment they are created, so that a multiplier or a split between fill and settlement is never missed (fills.py scales the shares).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from ledger import records
from ledger.arithmetic import units_of_shares_e8_floor
from ledger.errors import refusal
from ledger.records import NEVER
from ledger.rules.chains.crossings import check_own_wallet, find_minting
from ledger.rules.chains.places import check_allotment, check_place_open
from ledger.rules.checks import (
    check_eligible,
    check_free,
    check_length,
    check_open,
    check_party,
    check_present,
    check_range,
    check_units,
    find_account,
    find_book_account,
    find_instrument,
)
from ledger.rules.fills import (
    all_settled,
    cash_of_shares_ceiling,
    check_cash_movement,
    check_fill_fields,
    check_kinds,
    check_unfrozen,
    fill_of,
    find_fee_account,
    find_open_fill,
    replace_fill,
)
from ledger.rules.holds import open_hold, take_from_hold
from ledger.rules.reserves import check_reserve
from ledger.state import ISSUANCE
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.holds_pb2 import HoldPurpose
from stockledger.v1.instruments_pb2 import IssuePolicy
from stockledger.v1.issuance_pb2 import (
    CancelSubscriptionRequest,
    CancelSubscriptionResponse,
    Fill,
    FillSettled,
    FillSubscriptionRequest,
    FillSubscriptionResponse,
    IssueUnitsRequest,
    IssueUnitsResponse,
    RejectSubscriptionRequest,
    RejectSubscriptionResponse,
    RequestSubscriptionRequest,
    RequestSubscriptionResponse,
    SettleFillRequest,
    SettleFillResponse,
    SubscriptionEnded,
    SubscriptionFilled,
    SubscriptionRequested,
    UnitsIssued,
)

if TYPE_CHECKING:
    from ledger.records import Account, Deployment, Instrument, Subscription
    from ledger.rules.context import Context, Decided
    from ledger.state import State

OPERATION_ISSUE: Final = Operation.OPERATION_ISSUE


def find_subscription(state: State, number: int) -> Subscription:
    """Return an open subscription by its number."""
    subscription = state.subscriptions.get(number)
    if subscription is None:
        raise refusal(Reason.REASON_SUBSCRIPTION_NOT_FOUND, f"no open subscription {number}", subscription=number)
    return subscription


def cash_left(state: State, subscription: Subscription) -> int:
    """Return the cash still held for a subscription; its hold is gone once nothing is left."""
    return state.holds.left(subscription.hold)


def check_receiver(state: State, instrument: Instrument, account: Account, now_us: int) -> None:
    """Refuse an account that may not receive units created now."""
    check_open(instrument, OPERATION_ISSUE, now_us)
    check_party(state, account)
    check_eligible(state, instrument, account, now_us)


def check_creation(state: State, instrument: Instrument, units: int, now_us: int) -> None:
    """Refuse to create units beyond what is authorised, or beyond what reserves cover.

    Raises: RuleViolated AUTHORISED_EXCEEDED, RESERVE_SHORTFALL, ATTESTATION_STALE, RESERVE_INSUFFICIENT, in this order.
    """
    supply = state.supply(instrument.number)
    authorised = instrument.authorised_units
    if supply + units > authorised:
        message = f"{units} more units than the supply of {supply} {instrument.symbol} would exceed the {authorised} authorised"
        raise refusal(
            Reason.REASON_AUTHORISED_EXCEEDED,
            message,
            instrument=instrument.symbol,
            supply=supply,
            units=units,
            authorised=authorised,
        )
    check_reserve(state, instrument, units, now_us)


def find_receiver(state: State, subscription: Subscription) -> tuple[Account, Deployment | None]:
    """Return where units of a subscription go, and the deployment that mints them there; None: in the book."""
    if not subscription.receiving_account:
        return state.accounts[subscription.account], None
    account = state.accounts[subscription.receiving_account]
    return account, find_minting(state, state.instruments[subscription.instrument], account)


def check_minted(state: State, instrument: Instrument, deployment: Deployment | None, units: int, now_us: int) -> None:
    """Refuse to create units beyond what may be, or to send more to a chain than may go there."""
    if deployment is not None:
        check_place_open(state, deployment.chain, deployment.instrument)
    check_creation(state, instrument, units, now_us)
    if deployment is not None:
        check_allotment(state, deployment, units)


def create_units(state: State, event: Any) -> None:
    """Book units that were created: on an account in the book, or in transit to a chain."""
    receiver = state.chains[event.chain].transit if event.chain else state.accounts[event.account].number
    units = event.units if isinstance(event, UnitsIssued) else event.issued_units
    state.post(state.instruments[event.instrument].number, ISSUANCE, receiver, units)


# ---- in kind ------------------------------------------------------------------------------------------------------------------------


def decide_issue(state: State, command: IssueUnitsRequest, context: Context) -> list[UnitsIssued]:
    check_present(instrument=command.instrument, account=command.account)
    check_length("reference", command.reference)
    check_units("units", command.units)
    instrument = find_instrument(state, command.instrument)
    account = find_account(state, command.account)
    deployment = find_minting(state, instrument, account)
    check_receiver(state, instrument, account, context.decision_time_us)
    check_minted(state, instrument, deployment, command.units, context.decision_time_us)
    chain = deployment.chain if deployment is not None else ""
    return [UnitsIssued(instrument=instrument.symbol, account=account.name, units=command.units, reference=command.reference, chain=chain)]


def evolve_issued(state: State, event: UnitsIssued, decided: Decided) -> None:
    create_units(state, event)


# ---- a subscription, from request to settlement -------------------------------------------------------------------------------------


def decide_request(state: State, command: RequestSubscriptionRequest, context: Context) -> list[SubscriptionRequested]:
    check_present(instrument=command.instrument, account=command.account, cash_instrument=command.cash_instrument)
    check_length("reference", command.reference)
    check_units("cash_units", command.cash_units)
    instrument = find_instrument(state, command.instrument)
    cash = find_instrument(state, command.cash_instrument, "cash_instrument")
    account = find_book_account(state, command.account)
    wallet = find_account(state, command.receiving_account, "receiving_account") if command.receiving_account else None
    if wallet is not None and find_minting(state, instrument, wallet) is None:
        message = f"{wallet.name} is in the book; units of a subscription go to {account.name} there"
        raise refusal(Reason.REASON_PLACE_UNFIT, message, account=wallet.name)
    check_kinds(instrument, cash)
    check_open(instrument, OPERATION_ISSUE, context.decision_time_us)
    check_open(cash, Operation.OPERATION_TRANSFER, context.decision_time_us)
    check_party(state, account)
    if wallet is not None:
        check_own_wallet(state, wallet, account)
    check_eligible(state, instrument, account, context.decision_time_us)
    check_free(state, cash, account, command.cash_units)
    return [
        SubscriptionRequested(
            subscription=state.next_number("subscription"),
            instrument=instrument.symbol,
            account=account.name,
            cash_instrument=cash.symbol,
            cash_units=command.cash_units,
            hold=state.next_number("hold"),
            reference=command.reference,
            receiving_account=command.receiving_account,
        )
    ]


def evolve_requested(state: State, event: SubscriptionRequested, decided: Decided) -> None:
    number = event.subscription
    subscription = records.Subscription(
        subscription=number,
        instrument=event.instrument,
        account=event.account,
        cash_instrument=event.cash_instrument,
        cash_units=event.cash_units,
        hold=event.hold,
        receiving_account=event.receiving_account,
    )
    state.put(state.counters, "subscription", number)
    state.put(state.subscriptions, number, subscription)
    hold = records.Hold(
        hold=event.hold,
        instrument=state.instruments[event.cash_instrument].number,
        account=state.accounts[event.account].number,
        purpose=HoldPurpose.HOLD_PURPOSE_SUBSCRIPTION,
        expiry_time_us=NEVER,
        reference=event.reference,
        units=event.cash_units,
    )
    open_hold(state, hold)


def bought_fill(subscription: Subscription, instrument: Instrument, cash: Instrument, command: FillSubscriptionRequest) -> Fill:
    """Return the fill that shares bought make: cash rounded up, units rounded down.

    Example: 1 share at 189.87 USDC and multiplier 3.0 costs 189_870_000 and buys 33_333_333 units of 8 decimals.

    Raises: UNITS_NOT_POSITIVE, if the shares do not buy a single unit; UNITS_OUT_OF_RANGE.
    """
    units = check_range("units", units_of_shares_e8_floor(command.shares_e8, instrument.multiplier, instrument.decimals))
    if units == 0:
        message = f"{command.shares_e8} shares (1e-8) do not buy a single unit of {instrument.symbol}"
        raise refusal(Reason.REASON_UNITS_NOT_POSITIVE, message, field="shares_e8", value=command.shares_e8)
    return Fill(
        fill=len(subscription.fills) + 1,
        shares_e8=command.shares_e8,
        price_e8=command.price_e8,
        cash_units=check_range("cash_units", cash_of_shares_ceiling(command.shares_e8, command.price_e8, cash.decimals)),
        fee_units=command.fee_units,
        trade_date=command.trade_date,
        settlement_date=command.settlement_date,
        units=units,
        issued_at_fill=instrument.issue_policy == IssuePolicy.ISSUE_POLICY_AT_FILL,
    )


def find_paid_accounts(state: State, command: FillSubscriptionRequest, subscription: Subscription) -> tuple[Account, Account | None]:
    """Return who gets the cash and who the fees; neither is the subscriber."""
    proceeds = find_book_account(state, command.proceeds_account, "proceeds_account")
    fee_account = find_fee_account(state, command.fee_account, command.fee_units)
    for field, account in (("proceeds_account", proceeds), ("fee_account", fee_account)):
        if account is not None and account.name == subscription.account:
            message = f"{field} and the subscriber's account are both {account.name}"
            raise refusal(Reason.REASON_SAME_ACCOUNT, message, account=account.name)
    return proceeds, fee_account


def decide_fill(state: State, command: FillSubscriptionRequest, context: Context) -> list[SubscriptionFilled]:
    now_us = context.decision_time_us
    check_fill_fields(command)
    check_present(proceeds_account=command.proceeds_account)
    if command.fee_units:
        check_present(fee_account=command.fee_account)
    subscription = find_subscription(state, command.subscription)
    proceeds, fee_account = find_paid_accounts(state, command, subscription)
    instrument, cash = state.instruments[subscription.instrument], state.instruments[subscription.cash_instrument]
    account = state.accounts[subscription.account]
    receiver, deployment = find_receiver(state, subscription)
    fill = bought_fill(subscription, instrument, cash, command)
    check_open(instrument, OPERATION_ISSUE, now_us)
    check_cash_movement(state, cash, account, (proceeds, fee_account), now_us)
    check_party(state, receiver)
    check_eligible(state, instrument, receiver, now_us)
    left, cost = cash_left(state, subscription), fill.cash_units + fill.fee_units
    if left < cost:
        message = f"subscription {subscription.subscription} has {left} {cash.symbol} left on its hold, needed {cost}"
        raise refusal(Reason.REASON_HOLD_INSUFFICIENT, message, hold=subscription.hold, remaining=left, needed=cost)
    check_unfrozen(state, cash, account, cost)
    issued_units = fill.units if fill.issued_at_fill else 0
    if issued_units:
        check_minted(state, instrument, deployment, issued_units, now_us)
    minted = issued_units > 0 and deployment is not None
    return [
        SubscriptionFilled(
            subscription=subscription.subscription,
            fill=fill,
            proceeds_account=proceeds.name,
            fee_account=fee_account.name if fee_account else "",
            issued_units=issued_units,
            released_cash_units=left - cost if command.last else 0,
            last=command.last or left == cost,
            instrument=instrument.symbol,
            account=account.name,
            cash_instrument=cash.symbol,
            receiving_account=receiver.name if minted else "",
            chain=receiver.place if minted else "",
        )
    ]


def evolve_filled(state: State, event: SubscriptionFilled, decided: Decided) -> None:
    subscription = state.subscriptions[event.subscription]
    fill = fill_of(event.fill)
    cash = state.instruments[event.cash_instrument].number
    account = state.accounts[event.account].number
    take_from_hold(state, subscription.hold, fill.cash_units + fill.fee_units + event.released_cash_units)
    state.post(cash, account, state.accounts[event.proceeds_account].number, fill.cash_units)
    if fill.fee_units:
        state.post(cash, account, state.accounts[event.fee_account].number, fill.fee_units)
    if event.issued_units:
        create_units(state, event)
    subscription = dataclasses.replace(subscription, fills=(*subscription.fills, fill), last=event.last)
    state.put(state.subscriptions, event.subscription, subscription)


def decide_settle(state: State, command: SettleFillRequest, context: Context) -> list[FillSettled]:
    """Whose units were created with the fill needs no room any more, but a freeze or a halt stops the record of settlement all the same."""
    subscription = find_subscription(state, command.subscription)
    fill = find_open_fill(subscription, command.fill)
    instrument, account = state.instruments[subscription.instrument], state.accounts[subscription.account]
    receiver, deployment = (account, None) if command.in_book else find_receiver(state, subscription)
    check_receiver(state, instrument, receiver, context.decision_time_us)
    units = 0
    if not fill.issued_at_fill:
        units = check_range("units", units_of_shares_e8_floor(fill.shares_e8, instrument.multiplier, instrument.decimals))
        check_minted(state, instrument, deployment, units, context.decision_time_us)
    minted = units > 0 and deployment is not None
    return [
        FillSettled(
            subscription=subscription.subscription,
            fill=fill.fill,
            instrument=instrument.symbol,
            account=account.name,
            issued_units=units,
            completed=subscription.last and all_settled(replace_fill(subscription.fills, fill.fill, settled=True)),
            receiving_account=receiver.name if minted else "",
            chain=receiver.place if minted else "",
        )
    ]


def evolve_settled(state: State, event: FillSettled, decided: Decided) -> None:
    subscription = state.subscriptions[event.subscription]
    if event.issued_units:
        create_units(state, event)
    if event.completed:
        state.remove(state.subscriptions, event.subscription)
        return
    fill = find_open_fill(subscription, event.fill)
    units = fill.units if fill.issued_at_fill else event.issued_units
    fills = replace_fill(subscription.fills, event.fill, settled=True, units=units)
    state.put(state.subscriptions, event.subscription, dataclasses.replace(subscription, fills=fills))


# ---- a subscription that ends early -------------------------------------------------------------------------------------------------


def end_subscription(state: State, subscription: Subscription, *, cancelled: bool, cause: str) -> list[SubscriptionEnded]:
    return [
        SubscriptionEnded(
            subscription=subscription.subscription,
            cancelled=cancelled,
            cause=cause,
            released_cash_units=cash_left(state, subscription),
            account=subscription.account,
            cash_instrument=subscription.cash_instrument,
        )
    ]


def decide_reject(state: State, command: RejectSubscriptionRequest, context: Context) -> list[SubscriptionEnded]:
    check_length("cause", command.cause)
    subscription = find_subscription(state, command.subscription)
    if subscription.last:
        message = f"subscription {subscription.subscription} had its last fill: no cash is held for it, only its fills are to be settled"
        raise refusal(Reason.REASON_STATE_UNFIT, message, subscription=subscription.subscription, state="last")
    return end_subscription(state, subscription, cancelled=False, cause=command.cause)


def decide_cancel(state: State, command: CancelSubscriptionRequest, context: Context) -> list[SubscriptionEnded]:
    subscription = find_subscription(state, command.subscription)
    if subscription.fills:
        message = f"subscription {subscription.subscription} has {len(subscription.fills)} fills and can only be rejected for the rest"
        raise refusal(Reason.REASON_STATE_UNFIT, message, subscription=subscription.subscription, fill_count=len(subscription.fills))
    return end_subscription(state, subscription, cancelled=True, cause="")


def evolve_ended(state: State, event: SubscriptionEnded, decided: Decided) -> None:
    subscription = state.subscriptions[event.subscription]
    take_from_hold(state, subscription.hold, event.released_cash_units)
    if all_settled(subscription.fills):
        state.remove(state.subscriptions, event.subscription)
    else:
        state.put(state.subscriptions, event.subscription, dataclasses.replace(subscription, last=True))


COMMANDS = {
    RequestSubscriptionRequest: (decide_request, RequestSubscriptionResponse),
    FillSubscriptionRequest: (decide_fill, FillSubscriptionResponse),
    SettleFillRequest: (decide_settle, SettleFillResponse),
    RejectSubscriptionRequest: (decide_reject, RejectSubscriptionResponse),
    CancelSubscriptionRequest: (decide_cancel, CancelSubscriptionResponse),
    IssueUnitsRequest: (decide_issue, IssueUnitsResponse),
}
EVENTS = {
    SubscriptionRequested: evolve_requested,
    SubscriptionFilled: evolve_filled,
    FillSettled: evolve_settled,
    SubscriptionEnded: evolve_ended,
    UnitsIssued: evolve_issued,
}
