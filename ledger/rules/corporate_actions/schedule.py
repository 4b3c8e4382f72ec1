"""Multipliers set for a moment ahead, so that a chain changes its own at the very time at which the ledger does.

    event                 in the same booking as
    MultiplierScheduled   ActionAnnounced, ActionCancelled, MultiplierChanged, DeploymentRegistered

A chain keeps one multiplier ahead, so the ledger sets the earliest: once it took effect, the next. It is told for instruments on chains
alone. In the ledger a multiplier counts from MultiplierChanged on, never by the passing of time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger.arithmetic import MULTIPLIER_MAX, divide_floor
from ledger.records import ScheduledMultiplier
from stockledger.v1.chains_pb2 import MultiplierScheduled
from stockledger.v1.corporate_actions_pb2 import ActionEffect, ActionState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger import records
    from ledger.rules.context import Decided
    from ledger.state import State

_OPEN = frozenset({ActionState.ACTION_STATE_ANNOUNCED, ActionState.ACTION_STATE_FIXED})


def open_actions(state: State, symbol: str, *, but: str = "") -> list[records.Action]:
    """Return an instrument's open actions by the multiplier, but for one by its name."""
    return [
        action
        for action in state.actions.values()
        if action.instrument == symbol
        and action.action != but
        and action.state in _OPEN
        and action.effect == ActionEffect.ACTION_EFFECT_MULTIPLIER
    ]


def _next_multiplier(multiplier: int, actions: Iterable[records.Action]) -> ScheduledMultiplier | None:
    """Return what the earliest action makes of a multiplier, and when; None where none does, or none that can be counted."""
    earliest = min(actions, key=lambda action: (action.execution_time_us, action.action), default=None)
    if earliest is None:
        return None
    numerator, denominator = earliest.growth
    following = divide_floor(multiplier * numerator, denominator)
    if not 0 < following <= MULTIPLIER_MAX:
        return None
    return ScheduledMultiplier(following, earliest.execution_time_us, earliest.action)


def schedule_events(
    state: State, symbol: str, multiplier: int, actions: Iterable[records.Action], now_us: int, *, done: str = "", deployed: bool = False
) -> list[MultiplierScheduled]:
    """Return the event that sets the next multiplier ahead, or takes the one set back; nothing where it stands already.

    `multiplier` and `actions` are as they will be; `done` is the action that takes effect with this booking.
    """
    if not deployed and not state.chains_of_instrument.get(symbol):
        return []
    scheduled = state.scheduled_multipliers.get(symbol)
    if scheduled is not None and scheduled.action == done:
        scheduled = None
    wanted = _next_multiplier(multiplier, actions)
    if wanted == scheduled:
        return []
    if wanted is None:
        wanted = ScheduledMultiplier(multiplier, now_us, "")
    event = MultiplierScheduled(instrument=symbol, multiplier=str(wanted.multiplier), action=wanted.action)
    event.effective_time.FromMicroseconds(wanted.effective_time_us)
    return [event]


def evolve_scheduled(state: State, event: MultiplierScheduled, decided: Decided) -> None:
    if event.action:
        record = ScheduledMultiplier(int(event.multiplier), event.effective_time.ToMicroseconds(), event.action)
        state.put(state.scheduled_multipliers, event.instrument, record)
    elif event.instrument in state.scheduled_multipliers:
        state.remove(state.scheduled_multipliers, event.instrument)


COMMANDS: dict[type[Any], tuple[Any, type[Any]]] = {}
EVENTS: dict[type[Any], Any] = {MultiplierScheduled: evolve_scheduled}
