"""A cash dividend (ISO 15022 DVCA).

By holdings: cash from the funding account to everybody entitled, less tax by the holder's country. By the multiplier: the net cash is
reinvested at a reference price, and a unit stands for that much more from now on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.errors import refusal
from ledger.rules.checks import check_country, check_present, check_units, check_units_or_zero, find_book_account, find_instrument
from ledger.rules.corporate_actions.effects import BPS, change_multiplier, distribute
from ledger.rules.corporate_actions.handlers import Handler
from ledger.rules.instruments import check_kind, find_usable
from stockledger.v1.corporate_actions_pb2 import ActionEffect
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.instruments_pb2 import ActionMethod

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from ledger.records import Action, Instrument
    from ledger.state import State
    from stockledger.v1.corporate_actions_pb2 import CashDividend

_CASH_SCALE = 10**8
"""Cash per share is an integer at scale 1e8: 0.25 is 25,000,000."""


def method_of(instrument: Instrument) -> int:
    return instrument.dividend_method


def check_rate(field: str, rate_bps: int) -> None:
    """Refuse a rate of tax outside 0 to 100 percent."""
    if not 0 <= rate_bps <= BPS:
        message = f"{field} is {rate_bps}, it must be 0 to {BPS}"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field=field, value=rate_bps)


def check_terms(terms: CashDividend) -> None:
    check_present(cash_instrument=terms.cash_instrument)
    countries = set()
    for rate in terms.withholding:
        check_country("withholding.country", rate.country)
        check_rate("withholding.rate_bps", rate.rate_bps)
        if rate.country in countries:
            message = f"withholding names {rate.country} twice"
            raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="withholding.country", value=rate.country)
        countries.add(rate.country)
    check_rate("multiplier_withholding_bps", terms.multiplier_withholding_bps)
    check_units("cash_per_share_e8", terms.cash_per_share_e8)
    check_units_or_zero("reference_price_e8", terms.reference_price_e8)


def check_books(state: State, terms: CashDividend, method: int) -> None:
    """By holdings the cash must come from somewhere; by the multiplier it must be known at what price it is reinvested."""
    if method == ActionMethod.ACTION_METHOD_HOLDINGS:
        check_present(funding_account=terms.funding_account)
    elif not terms.reference_price_e8:
        message = "reference_price_e8 is not set: the dividend is reinvested at it"
        raise refusal(Reason.REASON_FIELD_MISSING, message, field="reference_price_e8")
    cash = find_instrument(state, terms.cash_instrument, "cash_instrument")
    if terms.funding_account:
        find_book_account(state, terms.funding_account, "funding_account")
    check_kind(cash, cash=True)
    find_usable(state, cash.symbol)


def execute(state: State, action: Action, terms: CashDividend, now_us: int) -> list[Message]:
    if action.method == ActionMethod.ACTION_METHOD_MULTIPLIER:
        return change_multiplier(state, action, *growth(terms))
    return distribute(
        state,
        action,
        now_us,
        cash_instrument=terms.cash_instrument,
        funding_account=terms.funding_account,
        cash_per_unit=cash_per_unit(state, action, terms),
        withholding={rate.country: rate.rate_bps for rate in terms.withholding},
    )


def cash_per_unit(state: State, action: Action, terms: CashDividend) -> tuple[int, int]:
    """Return the gross cash per unit in smallest units of cash, as (numerator, denominator), by the multiplier of the fixing moment.

    shares = units x multiplier / 10^(decimals + 18); cash = shares x cash per share x 10^(decimals of the cash). Example: 0.25 USDC a
    share at multiplier 2.0 on a unit of 8 decimals is 0.005 smallest units, so 200 units bring 1.
    """
    decimals = state.instruments[action.instrument].decimals
    cash_decimals = state.instruments[terms.cash_instrument].decimals
    multiplier = state.entitlements[action.action].multiplier
    return multiplier * terms.cash_per_share_e8 * 10**cash_decimals, 10 ** (decimals + 18) * _CASH_SCALE


def growth(terms: CashDividend) -> tuple[int, int]:
    """Return what a multiplier grows by, as (numerator, denominator): (price + net dividend) / price, exactly.

    Example: 0.25 less 30 % at a price of 227.00 is 0.175 net: 227.175 / 227.
    """
    price = terms.reference_price_e8 * BPS
    return price + terms.cash_per_share_e8 * (BPS - terms.multiplier_withholding_bps), price


HANDLER = Handler(
    effects={
        ActionMethod.ACTION_METHOD_HOLDINGS: ActionEffect.ACTION_EFFECT_DISTRIBUTION,
        ActionMethod.ACTION_METHOD_MULTIPLIER: ActionEffect.ACTION_EFFECT_MULTIPLIER,
    },
    method=method_of,
    check_terms=check_terms,
    check_books=check_books,
    growth=growth,
    execute=execute,
)
