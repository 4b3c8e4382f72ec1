"""Holds: units reserved for a pending step, executed or released, never both for the same units.

`open_hold` and `take_from_hold` are how other rules (settlement, subscriptions, redemptions, corporate actions) book on holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger.errors import refusal
from ledger.state import Hold
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from ledger.state import State


def find_hold(state: State, number: int) -> Hold:
    """Return an open hold by its number."""
    hold = state.holds.get(number)
    if hold is None:
        raise refusal(Reason.REASON_HOLD_NOT_FOUND, f"no open hold {number}", hold=number)
    return hold


def open_hold(state: State, hold: Hold, units: int) -> None:
    """Book a new hold over units that are free."""
    state.put(state.counters, "hold", hold.hold)
    state.put(state.holds, hold.hold, hold)
    state.put(state.hold_units, hold.hold, units)
    state.change_held(hold.instrument, hold.account, units)


def take_from_hold(state: State, number: int, units: int) -> None:
    """Book that units of a hold are held no longer; a hold with nothing left is closed."""
    hold = state.holds[number]
    left = state.hold_units[number] - units
    assert left >= 0, "no more is taken from a hold than is left of it"
    if units:
        state.change_held(hold.instrument, hold.account, -units)
    if left:
        state.put(state.hold_units, number, left)
    else:
        state.remove(state.hold_units, number)
        state.remove(state.holds, number)


COMMANDS: dict[type[Any], tuple[Any, type[Any]]] = {}
EVENTS: dict[type[Any], Any] = {}
