"""Fills: executions in the underlying market, shared by subscriptions (issuance.py) and redemptions (redemptions.py).

For whoever writes a corporate action that changes the basis of the shares (a split, a reverse split, a stock dividend): a fill that is
not settled yet was traded in shares of the old basis, so it must be scaled in the same booking as everything else:

    [UnitsReplaced(...), *rescale_open_fills(state, "NVDAx", 10, 1), ActionCompleted(...)]                            by holdings
    [MultiplierChanged(...), *rescale_open_fills(state, "NVDAx", 10, 1, new_multiplier=m), ActionCompleted(...)]      by the multiplier

That is all: `rescale_open_fills` computes every outcome into events of their own kind, `FillsRescaled` (none where there is no open
fill), and this file's EVENTS books them. Give the holds of redemptions (HOLD_PURPOSE_REDEMPTION) floor(units x new / old) as all other
holds, and remove one that is left with nothing; holds of subscriptions are cash and are not reached.

A dividend reinvested by the multiplier changes no basis and needs nothing here: units not created yet are computed when they are.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from ledger.arithmetic import SHARES_SCALE, divide_ceiling, divide_floor, units_of_shares_e8_floor
from ledger.errors import refusal
from ledger.records import Fill
from ledger.rules.checks import (
    OPERATION_TRANSFER,
    check_date,
    check_eligible,
    check_open,
    check_party,
    check_range,
    check_units,
    check_units_or_zero,
    find_book_account,
)
from ledger.rules.instruments import check_kind
from stockledger.v1 import issuance_pb2
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.issuance_pb2 import FillsRescaled, RescaledFill

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.records import Account, Instrument, Redemption, Subscription
    from ledger.rules.context import Decided
    from ledger.state import State

FILLS_PER_EVENT_MAX: Final = 1_000
"""A rescaled fill takes up to 57 bytes, an entry 65,535."""
_PRICE_SCALE: Final = 10**8


# ---- what a fill is made of ---------------------------------------------------------------------------------------------------------


def cash_of_shares_ceiling(shares_e8: int, price_e8: int, cash_decimals: int) -> int:
    """Return what shares cost in smallest units of cash, rounded up: the subscriber pays.

    Example: 10 shares at 189.87 in USDC of 6 decimals: `cash_of_shares_ceiling(10 * 10**8, 18_987_000_000, 6) == 1_898_700_000`.
    """
    return divide_ceiling(shares_e8 * price_e8 * 10**cash_decimals, SHARES_SCALE * _PRICE_SCALE)


def cash_of_shares_floor(shares_e8: int, price_e8: int, cash_decimals: int) -> int:
    """Return what shares bring in smallest units of cash, rounded down: the redeemer is paid.

    Example: a third of a share at 1.00 in USDC: `cash_of_shares_floor(33_333_333, 10**8, 6) == 333_333`.
    """
    return divide_floor(shares_e8 * price_e8 * 10**cash_decimals, SHARES_SCALE * _PRICE_SCALE)


def check_fill_fields(command: Any) -> None:
    """Refuse a fill that is wrong in itself: shares and price above zero, fees zero or more, dates in order."""
    check_units("shares_e8", command.shares_e8)
    check_units("price_e8", command.price_e8)
    check_units_or_zero("fee_units", command.fee_units)
    trade_date = check_date("trade_date", command.trade_date)
    settlement_date = check_date("settlement_date", command.settlement_date)
    if settlement_date < trade_date:
        message = f"settlement_date {settlement_date} is before trade_date {trade_date}"
        raise refusal(Reason.REASON_DATES_OUT_OF_ORDER, message, earlier="trade_date", later="settlement_date")


def check_kinds(instrument: Instrument, cash: Instrument) -> None:
    """Refuse unless a security is turned into or out of cash."""
    check_kind(instrument, cash=False)
    check_kind(cash, cash=True)


def find_fee_account(state: State, name: str, fee_units: int) -> Account | None:
    """Return who gets the fees; None where there are none and nobody is named."""
    return find_book_account(state, name, "fee_account") if name or fee_units else None


def check_cash_movement(state: State, cash: Instrument, source: Account, destinations: tuple[Account | None, ...], now_us: int) -> None:
    """Refuse cash from one account to others where a rule bars it, whatever the units."""
    paid = [account for account in destinations if account is not None]
    check_open(cash, OPERATION_TRANSFER, now_us)
    for account in (source, *paid):
        check_party(state, account)
    for account in paid:
        check_eligible(state, cash, account, now_us)


def check_unfrozen(state: State, instrument: Instrument, account: Account, units: int) -> None:
    """Refuse to take units off a hold where the account would be left with fewer than are frozen, by a freeze that came after the hold."""
    holding = state.holding(instrument.number, account.number)
    frozen = state.frozen(instrument.number, account.number)
    if holding - frozen < units:
        message = f"{account.name} has {holding} {instrument.symbol}, of which {frozen} are frozen, needed {units}"
        raise refusal(
            Reason.REASON_UNITS_INSUFFICIENT,
            message,
            account=account.name,
            instrument=instrument.symbol,
            free=max(holding - frozen, 0),
            needed=units,
            holding=holding,
            held=state.held(instrument.number, account.number),
            frozen=frozen,
        )


def find_open_fill(order: Subscription | Redemption, number: int) -> Fill:
    """Return a fill that is not settled."""
    for fill in order.fills:
        if fill.fill == number and not fill.settled:
            return fill
    raise refusal(Reason.REASON_FILL_NOT_FOUND, f"no open fill {number}", fill=number)


def fill_message(fill: Fill) -> issuance_pb2.Fill:
    return issuance_pb2.Fill(
        fill=fill.fill,
        shares_e8=fill.shares_e8,
        price_e8=fill.price_e8,
        cash_units=fill.cash_units,
        fee_units=fill.fee_units,
        trade_date=fill.trade_date,
        settlement_date=fill.settlement_date,
        settled=fill.settled,
        units=fill.units,
        issued_at_fill=fill.issued_at_fill,
    )


def fill_of(message: issuance_pb2.Fill) -> Fill:
    """Return the record of a fill as an event carries it."""
    return Fill(
        fill=message.fill,
        shares_e8=message.shares_e8,
        price_e8=message.price_e8,
        cash_units=message.cash_units,
        fee_units=message.fee_units,
        trade_date=message.trade_date,
        settlement_date=message.settlement_date,
        units=message.units,
        settled=message.settled,
        issued_at_fill=message.issued_at_fill,
    )


def replace_fill(fills: tuple[Fill, ...], number: int, /, **changes: Any) -> tuple[Fill, ...]:
    """Return the fills with one of them changed."""
    return tuple(dataclasses.replace(fill, **changes) if fill.fill == number else fill for fill in fills)


def all_settled(fills: tuple[Fill, ...]) -> bool:
    return all(fill.settled for fill in fills)


# ---- a split between fill and settlement --------------------------------------------------------------------------------------------


def rescale_open_fills(
    state: State, instrument_symbol: str, new_shares: int, old_shares: int, *, new_multiplier: int | None = None
) -> list[FillsRescaled]:
    """Return the events by which a split of `new_shares` for every `old_shares` reaches the fills that are not settled.

    Shares are rounded down to 1e-8. Units yet to be created follow from the new shares. Units yet to be destroyed are scaled by the
    holdings method and stay by the multiplier method (`new_multiplier` is given, at scale 1e18); they are rounded down over the fills of
    one redemption together, so that fills which took all its units take all of what is left: 5 and 5 of 10 units, 1 for 3, become 1 and
    2 of 3. Price, cash and fees are as traded. A fill whose units exist already needs nothing: they are holdings.

    Raises: UNITS_OUT_OF_RANGE where shares would leave 2^62.
    """
    assert new_shares > 0, "a ratio is above zero"
    assert old_shares > 0, "a ratio is above zero"
    instrument = state.instruments[instrument_symbol]
    multiplier = instrument.multiplier if new_multiplier is None else new_multiplier
    ratio = (new_shares, old_shares)
    rescaled = [
        *_rescaled_of_subscriptions(state, instrument, ratio, multiplier),
        *_rescaled_of_redemptions(state, instrument, ratio, units_too=new_multiplier is None),
    ]
    return [
        FillsRescaled(
            instrument=instrument_symbol,
            new_shares=new_shares,
            old_shares=old_shares,
            fills=rescaled[first : first + FILLS_PER_EVENT_MAX],
        )
        for first in range(0, len(rescaled), FILLS_PER_EVENT_MAX)
    ]


def _rescaled_shares_e8(fill: Fill, ratio: tuple[int, int]) -> int:
    return check_range("shares_e8", divide_floor(fill.shares_e8 * ratio[0], ratio[1]))


def _rescaled_of_subscriptions(state: State, instrument: Instrument, ratio: tuple[int, int], multiplier: int) -> Iterator[RescaledFill]:
    for number, subscription in sorted(state.subscriptions.items()):
        if subscription.instrument != instrument.symbol:
            continue
        for fill in subscription.fills:
            if fill.settled or fill.issued_at_fill:
                continue
            shares_e8 = _rescaled_shares_e8(fill, ratio)
            units = check_range("units", units_of_shares_e8_floor(shares_e8, multiplier, instrument.decimals))
            yield RescaledFill(subscription=number, fill=fill.fill, shares_e8=shares_e8, units=units)


def _rescaled_of_redemptions(state: State, instrument: Instrument, ratio: tuple[int, int], *, units_too: bool) -> Iterator[RescaledFill]:
    new_shares, old_shares = ratio if units_too else (1, 1)
    for number, redemption in sorted(state.redemptions.items()):
        if redemption.instrument != instrument.symbol:
            continue
        old_sum = new_sum = 0
        for fill in redemption.fills:
            if fill.settled:
                continue
            old_sum += fill.units
            units = divide_floor(old_sum * new_shares, old_shares) - new_sum
            new_sum += units
            yield RescaledFill(redemption=number, fill=fill.fill, shares_e8=_rescaled_shares_e8(fill, ratio), units=units)


def apply_rescaled_fills(state: State, event: FillsRescaled, decided: Decided) -> None:
    """Book what a split made of fills that were not settled."""
    for rescaled in event.fills:
        changes = {"shares_e8": rescaled.shares_e8, "units": rescaled.units}
        if rescaled.subscription:
            subscription = state.subscriptions[rescaled.subscription]
            fills = replace_fill(subscription.fills, rescaled.fill, **changes)
            state.put(state.subscriptions, rescaled.subscription, dataclasses.replace(subscription, fills=fills))
        else:
            redemption = state.redemptions[rescaled.redemption]
            fills = replace_fill(redemption.fills, rescaled.fill, **changes)
            state.put(state.redemptions, rescaled.redemption, dataclasses.replace(redemption, fills=fills))


COMMANDS: dict[type[Any], tuple[Any, type[Any]]] = {}
EVENTS = {
    FillsRescaled: apply_rescaled_fills,
}
