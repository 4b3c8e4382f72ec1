"""The multiplier: what a unit stands for, an integer at scale 1e18.

    command         event               and in the same booking, where it comes to that
    SetMultiplier   MultiplierChanged   ReserveShortfallEnded

Corporate actions lead to MultiplierChanged too, with what their floor cut off as its residue; set by hand it is exact.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ledger.errors import refusal
from ledger.rules.chains.in_force import keep_own
from ledger.rules.checks import check_multiplier, check_not_due, check_text, find_instrument
from ledger.rules.context import entry_index
from ledger.rules.corporate_actions.schedule import open_actions, schedule_events
from ledger.rules.instruments import CASH, change_instrument, find_usable
from ledger.rules.reserves import check_covered, reserve_events
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.instruments_pb2 import MultiplierChanged, SetMultiplierRequest, SetMultiplierResponse

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from ledger.rules.context import Context, Decided
    from ledger.state import State


def decide_set(state: State, command: SetMultiplierRequest, context: Context) -> list[Message]:
    """Raised only as far as reserves cover it; lowered always, since then less is owed. A shortfall may end by it."""
    expected = check_multiplier("expected_multiplier", command.expected_multiplier)
    multiplier = check_multiplier("multiplier", command.multiplier)
    check_text("cause", command.cause)
    instrument = find_instrument(state, command.instrument)
    symbol, found = instrument.symbol, instrument.multiplier
    if instrument.kind == CASH:
        message = f"{symbol} is cash: a unit of it always stands for itself"
        raise refusal(Reason.REASON_INSTRUMENT_KIND_UNFIT, message, instrument=symbol, needed="a security")
    check_not_due(instrument, context.decision_time_us)
    find_usable(state, symbol)
    if expected != found:
        message = f"the multiplier of {symbol} is {found}, not {expected} as expected"
        raise refusal(Reason.REASON_EXPECTATION_FAILED, message, instrument=symbol, expected=expected, found=found)
    if multiplier == found:
        raise refusal(Reason.REASON_NOTHING_TO_CHANGE, f"the multiplier of {symbol} is {found} already", instrument=symbol)
    changed = dataclasses.replace(instrument, multiplier=multiplier)
    if multiplier > found:
        check_covered(state, changed)
    event = MultiplierChanged(
        instrument=symbol,
        old_multiplier=str(found),
        multiplier=str(multiplier),
        residue_numerator="0",
        residue_denominator="1",
        cause=command.cause,
    )
    rescheduled = schedule_events(state, symbol, multiplier, open_actions(state, symbol), context.decision_time_us)
    return [event, *reserve_events(state, changed), *rescheduled]


def evolve_changed(state: State, event: MultiplierChanged, decided: Decided) -> None:
    instrument = state.instruments[event.instrument]
    assert str(instrument.multiplier) == event.old_multiplier, "a multiplier changes from the value it had when that was decided"
    keep_own(state, event, decided)
    share_basis = instrument.share_basis + event.share_basis_changed
    split_index = entry_index(state, decided) if event.share_basis_changed else instrument.split_index
    change_instrument(state, event.instrument, multiplier=int(event.multiplier), share_basis=share_basis, split_index=split_index)


COMMANDS = {
    SetMultiplierRequest: (decide_set, SetMultiplierResponse),
}
EVENTS = {
    MultiplierChanged: evolve_changed,
}
