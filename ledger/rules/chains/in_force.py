"""Multipliers in force: when each took effect, in the ledger and on each chain, and whether a chain did what was decided.

    event               what is kept of it
    MultiplierChanged   the ledger's own change, at "book", and whether chains had been told ahead
    RangeObserved       the changes that a chain's clock brought about, by MULTIPLIER_IN_FORCE

The ledger's multiplier binds, and counts from MultiplierChanged on. A chain reaches its own by itself, at the moment that it was set to;
where that is not the value, or not the moment, that the ledger decided, holders there saw another share than theirs: a divergence.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, NamedTuple

from ledger.records import MultiplierChange
from ledger.rules.checks import BOOK, utc_text
from ledger.rules.context import entry_index

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.records import Deployment
    from ledger.rules.context import Decided
    from ledger.state import State
    from stockledger.v1.chains_pb2 import Observation, ObservedEffect
    from stockledger.v1.instruments_pb2 import MultiplierChanged

CHANGES_KEPT: Final = 64
"""Of each instrument at each place, the newest: what others do on a chain must not grow the books without end. The log has all."""
CHAIN_CLOCK_US: Final = 1_000_000
"""Chains count seconds, and may round either way."""
_F64_BITS: Final = 52


def is_encoding_of(found: int, wanted: int) -> bool:
    """Tell whether a multiplier read from a chain is one encoding of another: exact, or the nearest that an f64 can be.

    Example: 1.1 at scale 1e18 as f64 is 1100000000000000088, which is 1.1 still.
    """
    return abs(found - wanted) << _F64_BITS <= wanted


def expected_multiplier(state: State, instrument: str) -> tuple[int, ...]:
    """Return what a chain may say a unit stands for: what it does now, and what it will from a moment set ahead."""
    scheduled = state.scheduled_multipliers.get(instrument)
    now = state.instruments[instrument].multiplier
    return (now,) if scheduled is None else (now, scheduled.multiplier)


# ---- kept ------------------------------------------------------------------------------------------------------------------------------


def _keep(state: State, change: MultiplierChange) -> None:
    key = (change.instrument, change.place)
    before = state.multiplier_changes.get(key, ())
    state.put(state.multiplier_changes, key, (*before, change)[-CHANGES_KEPT:])


def keep_own(state: State, event: MultiplierChanged, decided: Decided) -> None:
    """Keep the ledger's own change. Asked while what was set ahead is still known."""
    action = state.actions.get(event.action)
    scheduled = state.scheduled_multipliers.get(event.instrument)
    change = MultiplierChange(
        instrument=event.instrument,
        place=BOOK,
        old_multiplier=int(event.old_multiplier),
        multiplier=int(event.multiplier),
        effective_time_us=decided.decision_time_us if action is None else action.execution_time_us,
        time_us=decided.decision_time_us,
        action=event.action,
        told_ahead=scheduled is not None and scheduled.action == event.action,
        index=entry_index(state, decided),
    )
    _keep(state, change)


def keep_seen(state: State, chain: str, effect: ObservedEffect, position: int, decided: Decided) -> None:
    """Keep what took effect on a chain; `position` is its place among the effects of its event."""
    seen = effect.observation
    change = MultiplierChange(
        instrument=effect.instrument,
        place=chain,
        old_multiplier=int(seen.old_value),
        multiplier=int(seen.value),
        effective_time_us=seen.effective_time.ToMicroseconds(),
        time_us=seen.time.ToMicroseconds(),
        number=seen.number,
        index=entry_index(state, decided),
        position=position,
    )
    _keep(state, change)


# ---- held together ---------------------------------------------------------------------------------------------------------------------


class _Term(NamedTuple):
    """What the ledger decided a multiplier to be: from when on, and until when."""

    multiplier: int
    from_us: int
    until_us: int | None
    told_ahead: bool


def _terms(state: State, instrument: str) -> Iterator[_Term]:
    """Yield what was and is decided, newest first: what is set ahead, the changes that are kept, and what was before them."""
    until = None
    scheduled = state.scheduled_multipliers.get(instrument)
    if scheduled is not None:
        yield _Term(scheduled.multiplier, scheduled.effective_time_us, None, told_ahead=True)
        until = scheduled.effective_time_us
    changes = state.multiplier_changes.get((instrument, BOOK), ())
    for change in reversed(changes):
        yield _Term(change.multiplier, change.effective_time_us, until, change.told_ahead)
        until = change.effective_time_us
    first = changes[0].old_multiplier if changes else state.instruments[instrument].multiplier
    yield _Term(first, 0, until, told_ahead=False)


def held_together(state: State, deployment: Deployment, seen: Observation) -> tuple[str, str, bool]:
    """Return what the ledger decided, what took effect on a chain, and whether it is that.

    A chain that was told ahead must change at that moment. One that was not follows as soon as it can, and before the next change.
    Example: decided for 18:00:00 and told the day before, in force from 18:00:00 on in a block of 18:00:11: agrees; set to 18:00:30: not.
    """
    found, effective_us = int(seen.value), seen.effective_time.ToMicroseconds()
    terms = list(_terms(state, deployment.instrument))
    current = next(term for term in terms if term.from_us <= effective_us)
    for term in terms:
        if not is_encoding_of(found, term.multiplier) or (term.until_us is not None and effective_us >= term.until_us):
            continue
        current = term
        exact = term.told_ahead and term.from_us > deployment.registered_time_us
        if not exact or abs(effective_us - term.from_us) < CHAIN_CLOCK_US:
            return _text(term.multiplier, term.from_us), _text(found, effective_us), True
    return _text(current.multiplier, current.from_us), _text(found, effective_us), False


def _text(multiplier: int, from_us: int) -> str:
    return f"{multiplier} from {utc_text(from_us)}" if from_us else str(multiplier)


def without_chain_multiplier(deployment: Deployment) -> Deployment:
    """Return a deployment of which it is not known how its multiplier stands: its chain is read on from elsewhere."""
    return dataclasses.replace(deployment, chain_multiplier=-1, chain_next_multiplier=0, chain_next_time_us=0)


def with_chain_multiplier(deployment: Deployment, multiplier: int, next_multiplier: int, next_time_us: int) -> Deployment:
    """Return a deployment whose multiplier stands like this on its chain."""
    return dataclasses.replace(
        deployment, chain_multiplier=multiplier, chain_next_multiplier=next_multiplier, chain_next_time_us=next_time_us
    )
