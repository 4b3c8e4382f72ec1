"""Redemptions: units turned back into cash or shares, and units of cash into money at a bank.

    command             event                 and in the same booking, where it comes to that
    RequestRedemption   RedemptionRequested   the units are held
    FillRedemption      RedemptionFilled      shares were sold; their units stay on the hold
    SettleRedemption    RedemptionSettled     units destroyed, cash paid; ReserveShortfallEnded
    DeliverRedemption   RedemptionDelivered   units destroyed; DeliveryConfirmed, and a shortfall raised or ended
    RejectRedemption    RedemptionEnded       units not sold are released; fills stay until they are settled
    CancelRedemption    RedemptionEnded       only before anything was sold or delivered

Cash itself is redeemed in kind: its units are held, and destroyed when the bank has paid the money out (DeliverRedemption, `cash_units`),
as they were created when it came in (IssueUnits). Nothing of it is sold, so it has no fills.

The hold keeps every unit that is not destroyed yet: those sold and not settled, and those left. No gate of reserves stands here, so that
holders can leave while reserves are short. Rounding is the redeemer's: units up, cash down. The record goes when nothing is left.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from ledger import records
from ledger.arithmetic import SHARES_SCALE, shares_e8_of_units_ceiling, units_of_shares_e8_ceiling
from ledger.errors import refusal
from ledger.records import NEVER
from ledger.rules.chains.crossings import check_available, check_own_wallet, find_burning
from ledger.rules.chains.places import check_place_open
from ledger.rules.checks import (
    check_eligible,
    check_free,
    check_length,
    check_open,
    check_party,
    check_present,
    check_range,
    check_text,
    check_units,
    find_account,
    find_book_account,
    find_instrument,
)
from ledger.rules.custody import find_custody_account_of
from ledger.rules.evidence import check_settled_time, confirm_delivery_events
from ledger.rules.fills import (
    all_settled,
    cash_of_shares_floor,
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
from ledger.rules.instruments import CASH, check_kind
from ledger.rules.reserves import reserve_events
from ledger.state import ISSUANCE
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.holds_pb2 import HoldPurpose
from stockledger.v1.issuance_pb2 import Fill
from stockledger.v1.redemptions_pb2 import (
    CancelRedemptionRequest,
    CancelRedemptionResponse,
    DeliverRedemptionRequest,
    DeliverRedemptionResponse,
    FillRedemptionRequest,
    FillRedemptionResponse,
    RedemptionDelivered,
    RedemptionEnded,
    RedemptionFilled,
    RedemptionRequested,
    RedemptionSettled,
    RejectRedemptionRequest,
    RejectRedemptionResponse,
    RequestRedemptionRequest,
    RequestRedemptionResponse,
    SettleRedemptionRequest,
    SettleRedemptionResponse,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from ledger.records import Account, Instrument, Redemption
    from ledger.rules.context import Context, Decided
    from ledger.state import State

OPERATION_REDEEM: Final = Operation.OPERATION_REDEEM


def find_redemption(state: State, number: int) -> Redemption:
    """Return an open redemption by its number."""
    redemption = state.redemptions.get(number)
    if redemption is None:
        raise refusal(Reason.REASON_REDEMPTION_NOT_FOUND, f"no open redemption {number}", redemption=number)
    return redemption


def units_left(state: State, redemption: Redemption) -> int:
    """Return the units that are neither destroyed nor sold. A hold with nothing left is gone."""
    return state.holds.left(redemption.hold) - sum(fill.units for fill in redemption.fills if not fill.settled)


def is_completed(state: State, redemption: Redemption, destroyed_units: int, settled_fill: int = 0) -> bool:
    """Tell whether nothing is left of a redemption once more units of it are destroyed, and a fill settled."""
    fills = replace_fill(redemption.fills, settled_fill, settled=True)
    return state.holds.left(redemption.hold) == destroyed_units and all_settled(fills)


def check_giver(state: State, instrument: Instrument, account: Account, now_us: int) -> None:
    """Refuse an account whose units may not be redeemed now."""
    check_open(instrument, OPERATION_REDEEM, now_us)
    check_party(state, account)


def units_given(state: State, redemption: Redemption, instrument: Instrument, shares_e8: int) -> int:
    """Return the units that go for shares: rounded up, at most what is left.

    The shares may be at most what the units left stand for, rounded up to 1e-8, so that the last units always find a whole share of 1e-8.
    Example: at multiplier 3.0 and 33,333,333 units left, 0.99999999 shares take them all; a whole share is more than there is.

    Raises: HOLD_INSUFFICIENT.
    """
    left = units_left(state, redemption)
    units = units_of_shares_e8_ceiling(shares_e8, instrument.multiplier, instrument.decimals)
    if shares_e8 > shares_e8_of_units_ceiling(left, instrument.multiplier, instrument.decimals):
        message = f"redemption {redemption.redemption} has {left} {instrument.symbol} left, needed {units} for {shares_e8} shares (1e-8)"
        raise refusal(Reason.REASON_HOLD_INSUFFICIENT, message, hold=redemption.hold, remaining=left, needed=units)
    return min(units, left)


def check_paid_out(state: State, redemption: Redemption, instrument: Instrument, cash_units: int) -> int:
    """Return the shares (of the currency, at scale 1e8) that a payment of cash takes from the bank, rounded up.

    Example: 250 USDC of 6 decimals are 250_000_000 units and 25_000_000_000 at scale 1e8.

    Raises: HOLD_INSUFFICIENT.
    """
    left = units_left(state, redemption)
    if cash_units > left:
        message = f"redemption {redemption.redemption} has {left} {instrument.symbol} left, needed {cash_units}"
        raise refusal(Reason.REASON_HOLD_INSUFFICIENT, message, hold=redemption.hold, remaining=left, needed=cash_units)
    return check_range("shares at scale 1e8", shares_e8_of_units_ceiling(cash_units, instrument.multiplier, instrument.decimals))


def destroy(state: State, redemption: Redemption, units: int) -> None:
    """Book that units of a redemption go back to where they came from. None are left to go where a reverse split took the last."""
    if units:
        hold = state.holds[redemption.hold]
        take_from_hold(state, redemption.hold, units)
        state.post(hold.instrument, hold.account, ISSUANCE, units)


# ---- asked for ----------------------------------------------------------------------------------------------------------------------


def find_paid_in(state: State, command: RequestRedemptionRequest, instrument: Instrument) -> Instrument | None:
    """Return the cash that shares, or the rest of them, are paid in; None where cash itself is redeemed, which is paid in nothing else."""
    if instrument.kind == CASH and command.in_kind and not command.cash_instrument:
        return None
    return find_instrument(state, command.cash_instrument, "cash_instrument")


def decide_request(state: State, command: RequestRedemptionRequest, context: Context) -> list[RedemptionRequested]:
    check_present(instrument=command.instrument, account=command.account)
    if command.in_kind:
        check_text("delivery_reference", command.delivery_reference)
    else:
        check_present(cash_instrument=command.cash_instrument)
        check_length("delivery_reference", command.delivery_reference)
    check_length("reference", command.reference)
    check_units("units", command.units)
    instrument = find_instrument(state, command.instrument)
    cash = find_paid_in(state, command, instrument)
    account = find_book_account(state, command.account)
    wallet = find_account(state, command.wallet, "wallet") if command.wallet else None
    burning = None if wallet is None else find_burning(state, instrument, wallet)
    if cash is not None:
        check_kinds(instrument, cash)
    check_giver(state, instrument, account, context.decision_time_us)
    if burning is not None:
        check_place_open(state, burning.chain, burning.instrument)
    if wallet is not None:
        check_own_wallet(state, wallet, account)
    if cash is not None:
        check_eligible(state, cash, account, context.decision_time_us)
    if wallet is not None:
        check_available(state, instrument, wallet, command.units)
    else:
        check_free(state, instrument, account, command.units)
    return [
        RedemptionRequested(
            redemption=state.next_number("redemption"),
            instrument=instrument.symbol,
            account=account.name,
            units=command.units,
            hold=0 if wallet is not None else state.next_number("hold"),
            cash_instrument="" if cash is None else cash.symbol,
            in_kind=command.in_kind,
            delivery_reference=command.delivery_reference,
            reference=command.reference,
            wallet=command.wallet,
        )
    ]


def evolve_requested(state: State, event: RedemptionRequested, decided: Decided) -> None:
    number = event.redemption
    redemption = records.Redemption(
        redemption=number,
        instrument=event.instrument,
        account=event.account,
        units=event.units,
        hold=event.hold,
        cash_instrument=event.cash_instrument,
        in_kind=event.in_kind,
        delivery_reference=event.delivery_reference,
        wallet=event.wallet,
        reference=event.reference if event.wallet else "",
    )
    state.put(state.counters, "redemption", number)
    state.put(state.redemptions, number, redemption)
    if not event.wallet:
        hold_redeemed(state, redemption, event.hold, event.units, event.reference)


def hold_redeemed(state: State, redemption: Redemption, number: int, units: int, reference: str) -> None:
    """Book the hold that keeps the units of a redemption."""
    hold = records.Hold(
        hold=number,
        instrument=state.instruments[redemption.instrument].number,
        account=state.accounts[redemption.account].number,
        purpose=HoldPurpose.HOLD_PURPOSE_REDEMPTION,
        expiry_time_us=NEVER,
        reference=reference,
        units=units,
    )
    open_hold(state, hold)


def begin_redemption(state: State, number: int, hold: int) -> None:
    """Book that the units of a redemption from a wallet are burned there and stand on its account: they are held from now on."""
    redemption = state.redemptions[number]
    hold_redeemed(state, redemption, hold, redemption.units, redemption.reference)
    state.put(state.redemptions, number, dataclasses.replace(redemption, hold=hold, wallet="", reference=""))


# ---- sold, and settled --------------------------------------------------------------------------------------------------------------


def check_only_fraction(state: State, redemption: Redemption, instrument: Instrument, shares_e8: int) -> None:
    """Refuse to sell whole shares of a redemption in kind: they are delivered. Example: of 10.5 shares left, 0.5 may be sold."""
    if not redemption.in_kind:
        return
    left_e8 = shares_e8_of_units_ceiling(units_left(state, redemption), instrument.multiplier, instrument.decimals)
    if shares_e8 > left_e8 % SHARES_SCALE:
        message = (
            f"redemption {redemption.redemption} is in kind and has {left_e8} shares (1e-8) left: "
            f"only the fraction of {left_e8 % SHARES_SCALE} is sold, not {shares_e8}"
        )
        raise refusal(Reason.REASON_STATE_UNFIT, message, redemption=redemption.redemption, state="in_kind")


def decide_fill(state: State, command: FillRedemptionRequest, context: Context) -> list[RedemptionFilled]:
    check_fill_fields(command)
    redemption = find_redemption(state, command.redemption)
    instrument = state.instruments[redemption.instrument]
    check_kind(instrument, cash=False)
    cash = state.instruments[redemption.cash_instrument]
    account = state.accounts[redemption.account]
    cash_units = check_range("cash_units", cash_of_shares_floor(command.shares_e8, command.price_e8, cash.decimals))
    if command.fee_units > cash_units:
        message = f"fee_units is {command.fee_units}, above the consideration of {cash_units}"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="fee_units", value=command.fee_units)
    check_giver(state, instrument, account, context.decision_time_us)
    check_only_fraction(state, redemption, instrument, command.shares_e8)
    units = units_given(state, redemption, instrument, command.shares_e8)
    check_unfrozen(state, instrument, account, units)
    fill = Fill(
        fill=len(redemption.fills) + 1,
        shares_e8=command.shares_e8,
        price_e8=command.price_e8,
        cash_units=cash_units,
        fee_units=command.fee_units,
        trade_date=command.trade_date,
        settlement_date=command.settlement_date,
        units=units,
    )
    return [RedemptionFilled(redemption=redemption.redemption, fill=fill, instrument=instrument.symbol, account=account.name)]


def evolve_filled(state: State, event: RedemptionFilled, decided: Decided) -> None:
    redemption = state.redemptions[event.redemption]
    fills = (*redemption.fills, fill_of(event.fill))
    state.put(state.redemptions, event.redemption, dataclasses.replace(redemption, fills=fills))


def find_paying_accounts(
    state: State, command: SettleRedemptionRequest, redemption: Redemption, fee_units: int
) -> tuple[Account, Account | None]:
    """Return who pays the cash and who gets the fees; the payer pays others."""
    if fee_units:
        check_present(fee_account=command.fee_account)
    paying = find_book_account(state, command.paying_account, "paying_account")
    fee_account = find_fee_account(state, command.fee_account, fee_units)
    if paying.name == redemption.account or (fee_account is not None and fee_account.name == paying.name):
        message = f"{paying.name} would pay itself"
        raise refusal(Reason.REASON_SAME_ACCOUNT, message, account=paying.name)
    return paying, fee_account


def decide_settle(state: State, command: SettleRedemptionRequest, context: Context) -> list[Message]:
    now_us = context.decision_time_us
    check_present(paying_account=command.paying_account)
    redemption = find_redemption(state, command.redemption)
    fill = find_open_fill(redemption, command.fill)
    paying, fee_account = find_paying_accounts(state, command, redemption, fill.fee_units)
    instrument, cash = state.instruments[redemption.instrument], state.instruments[redemption.cash_instrument]
    account = state.accounts[redemption.account]
    check_giver(state, instrument, account, now_us)
    check_cash_movement(state, cash, paying, (account, fee_account), now_us)
    check_unfrozen(state, instrument, account, fill.units)
    if fill.cash_units:
        check_free(state, cash, paying, fill.cash_units)
    settled = RedemptionSettled(
        redemption=redemption.redemption,
        fill=fill.fill,
        instrument=instrument.symbol,
        account=account.name,
        units=fill.units,
        cash_instrument=cash.symbol,
        cash_units=fill.cash_units - fill.fee_units,
        fee_units=fill.fee_units,
        paying_account=paying.name,
        fee_account=fee_account.name if fee_account else "",
        completed=is_completed(state, redemption, fill.units, fill.fill),
    )
    return [settled, *reserve_events(state, instrument, extra_units=-fill.units)]


def evolve_settled(state: State, event: RedemptionSettled, decided: Decided) -> None:
    redemption = state.redemptions[event.redemption]
    destroy(state, redemption, event.units)
    cash, paying = state.instruments[event.cash_instrument].number, state.accounts[event.paying_account].number
    if event.cash_units:
        state.post(cash, paying, state.accounts[event.account].number, event.cash_units)
    if event.fee_units:
        state.post(cash, paying, state.accounts[event.fee_account].number, event.fee_units)
    if event.completed:
        state.remove(state.redemptions, event.redemption)
    else:
        fills = replace_fill(redemption.fills, event.fill, settled=True)
        state.put(state.redemptions, event.redemption, dataclasses.replace(redemption, fills=fills))


# ---- delivered in kind --------------------------------------------------------------------------------------------------------------


def check_delivered(command: DeliverRedemptionRequest) -> int:
    """Return the whole shares delivered, at scale 1e8, or 0 where cash was paid out instead.

    Raises: FIELD_MALFORMED where both are said; UNITS_NOT_POSITIVE; UNITS_OUT_OF_RANGE.
    """
    if not command.cash_units:
        return check_range("shares at scale 1e8", check_units("shares", command.shares) * SHARES_SCALE)
    check_units("cash_units", command.cash_units)
    if command.shares:
        message = "shares does not go with cash_units: a delivery is of one of them"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="shares", value=command.shares)
    return 0


def decide_deliver(state: State, command: DeliverRedemptionRequest, context: Context) -> list[Message]:
    check_present(custody_account=command.custody_account)
    check_length("reference", command.reference)
    shares_e8 = check_delivered(command)
    settled_us = check_settled_time(command.settled_time if command.HasField("settled_time") else None, context.decision_time_us)
    redemption = find_redemption(state, command.redemption)
    if not redemption.in_kind:
        message = f"redemption {redemption.redemption} is paid in {redemption.cash_instrument}, not in kind"
        raise refusal(Reason.REASON_STATE_UNFIT, message, redemption=redemption.redemption, state="cash")
    instrument, account = state.instruments[redemption.instrument], state.accounts[redemption.account]
    check_kind(instrument, cash=command.cash_units > 0)
    find_custody_account_of(state, command.custody_account, instrument)
    check_giver(state, instrument, account, context.decision_time_us)
    if command.cash_units:
        units, shares_e8 = command.cash_units, check_paid_out(state, redemption, instrument, command.cash_units)
    else:
        units = units_given(state, redemption, instrument, shares_e8)
    check_unfrozen(state, instrument, account, units)
    delivered = RedemptionDelivered(
        redemption=redemption.redemption,
        instrument=instrument.symbol,
        account=account.name,
        shares=command.shares,
        units=units,
        custody_account=command.custody_account,
        settled_time=command.settled_time,
        reference=command.reference,
        completed=is_completed(state, redemption, units),
    )
    confirmed = confirm_delivery_events(state, command.custody_account, shares_e8, settled_us, command.reference, destroyed_units=units)
    return [delivered, *confirmed]


def evolve_delivered(state: State, event: RedemptionDelivered, decided: Decided) -> None:
    redemption = state.redemptions[event.redemption]
    destroy(state, redemption, event.units)
    if event.completed:
        state.remove(state.redemptions, event.redemption)
    else:
        delivered = redemption.delivered_units + event.units
        state.put(state.redemptions, event.redemption, dataclasses.replace(redemption, delivered_units=delivered))


# ---- a redemption that ends early ---------------------------------------------------------------------------------------------------


def end_redemption(state: State, redemption: Redemption, *, cancelled: bool, cause: str) -> list[RedemptionEnded]:
    return [
        RedemptionEnded(
            redemption=redemption.redemption,
            cancelled=cancelled,
            cause=cause,
            released_units=units_left(state, redemption),
            instrument=redemption.instrument,
            account=redemption.account,
        )
    ]


def _check_begun(redemption: Redemption) -> None:
    """Refuse to end a redemption while its units are to be burned: giving up the instruction ends both."""
    if redemption.wallet:
        message = f"units of {redemption.wallet} are being burned for redemption {redemption.redemption}; AbandonInstruction ends both"
        raise refusal(Reason.REASON_STATE_UNFIT, message, redemption=redemption.redemption, state="burning")


def decide_reject(state: State, command: RejectRedemptionRequest, context: Context) -> list[RedemptionEnded]:
    check_length("cause", command.cause)
    redemption = find_redemption(state, command.redemption)
    _check_begun(redemption)
    if not units_left(state, redemption) and not all_settled(redemption.fills):
        message = f"all that is left of redemption {redemption.redemption} is sold, and its fills are to be settled"
        raise refusal(Reason.REASON_STATE_UNFIT, message, redemption=redemption.redemption, state="sold")
    return end_redemption(state, redemption, cancelled=False, cause=command.cause)


def decide_cancel(state: State, command: CancelRedemptionRequest, context: Context) -> list[RedemptionEnded]:
    redemption = find_redemption(state, command.redemption)
    _check_begun(redemption)
    if redemption.fills or redemption.delivered_units:
        message = f"redemption {redemption.redemption} is being processed and can only be rejected for the rest"
        raise refusal(
            Reason.REASON_STATE_UNFIT,
            message,
            redemption=redemption.redemption,
            fill_count=len(redemption.fills),
            delivered_units=redemption.delivered_units,
        )
    return end_redemption(state, redemption, cancelled=True, cause="")


def evolve_ended(state: State, event: RedemptionEnded, decided: Decided) -> None:
    redemption = state.redemptions[event.redemption]
    if event.released_units:
        take_from_hold(state, redemption.hold, event.released_units)
    if all_settled(redemption.fills):
        state.remove(state.redemptions, event.redemption)


COMMANDS = {
    RequestRedemptionRequest: (decide_request, RequestRedemptionResponse),
    FillRedemptionRequest: (decide_fill, FillRedemptionResponse),
    SettleRedemptionRequest: (decide_settle, SettleRedemptionResponse),
    DeliverRedemptionRequest: (decide_deliver, DeliverRedemptionResponse),
    RejectRedemptionRequest: (decide_reject, RejectRedemptionResponse),
    CancelRedemptionRequest: (decide_cancel, CancelRedemptionResponse),
}
EVENTS = {
    RedemptionRequested: evolve_requested,
    RedemptionFilled: evolve_filled,
    RedemptionSettled: evolve_settled,
    RedemptionDelivered: evolve_delivered,
    RedemptionEnded: evolve_ended,
}
