"""A split or reverse split (ISO 15022 SPLF and SPLR): new shares for old.

By holdings: every unit is replaced at the ratio, held and frozen ones included. By the multiplier: holdings stay, and a unit stands for
that many more shares, or fewer. Either way evidence of reserves counts shares of another size from now on and must be renewed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.errors import refusal
from ledger.rules.checks import check_units
from ledger.rules.corporate_actions.effects import change_multiplier, replace_units
from ledger.rules.corporate_actions.handlers import Handler
from stockledger.v1.corporate_actions_pb2 import ActionEffect
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.instruments_pb2 import ActionMethod

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from ledger.records import Action, Instrument
    from ledger.state import State
    from stockledger.v1.corporate_actions_pb2 import StockSplit


def method_of(instrument: Instrument) -> int:
    return instrument.split_method


def check_terms(terms: StockSplit) -> None:
    new_shares = check_units("new_shares", terms.new_shares)
    old_shares = check_units("old_shares", terms.old_shares)
    if new_shares == old_shares:
        message = f"{new_shares} shares for {old_shares} change nothing"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="new_shares", value=new_shares)


def check_books(state: State, terms: StockSplit, method: int) -> None:
    """Nothing but the instrument is concerned."""


def growth(terms: StockSplit) -> tuple[int, int]:
    return terms.new_shares, terms.old_shares


def execute(state: State, action: Action, terms: StockSplit, now_us: int) -> list[Message]:
    ratio = growth(terms)
    if action.method == ActionMethod.ACTION_METHOD_MULTIPLIER:
        return change_multiplier(state, action, *ratio, split=ratio)
    return replace_units(state, action, *ratio)


HANDLER = Handler(
    effects={
        ActionMethod.ACTION_METHOD_HOLDINGS: ActionEffect.ACTION_EFFECT_REPLACEMENT,
        ActionMethod.ACTION_METHOD_MULTIPLIER: ActionEffect.ACTION_EFFECT_MULTIPLIER,
    },
    method=method_of,
    check_terms=check_terms,
    check_books=check_books,
    growth=growth,
    execute=execute,
)
