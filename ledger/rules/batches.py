"""Many movements in one command, all legs or none.

    command         event
    TransferBatch   BatchTransferred, in as many parts as its legs need

Legs are checked and booked on whole columns (columns.py). Accounts stand as numbers, so that a leg is 16 bytes of the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ledger import vectors
from ledger.errors import refusal
from ledger.rules.checks import check_length
from ledger.rules.columns import check_legs
from stockledger.v1.common_pb2 import LegColumns
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.transfers_pb2 import BatchTransferred, TransferBatchRequest, TransferBatchResponse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.rules.context import Context, Decided
    from ledger.state import State

LEGS_MAX: Final = 250_000
PART_BYTES_MAX: Final = 64_000
"""Legs of one part; 1,535 bytes of the leaf remain for the envelope (at most 575) and the reference (at most 563)."""
_LEG_BYTES: Final = 16
_GROUP_BYTES: Final = 64
"""An instrument's symbol of at most 32 characters, and the heads of its columns."""


def check_equally_long(columns: dict[str, int]) -> None:
    """Refuse columns, given by name and length, that are not all as long as the first, or are empty."""
    (first, count), *others = columns.items()
    if not count:
        raise refusal(Reason.REASON_FIELD_MISSING, f"{first} is empty", field=first)
    for field, length in others:
        if length != count:
            message = f"{field} has {length} items, {first} has {count}"
            raise refusal(Reason.REASON_FIELD_MALFORMED, message, field=field, value=length)


def _check_form(command: TransferBatchRequest) -> None:
    check_length("reference", command.reference)
    if not command.legs:
        raise refusal(Reason.REASON_FIELD_MISSING, "legs is empty", field="legs")
    symbols = set()
    for legs in command.legs:
        if not legs.instrument:
            raise refusal(Reason.REASON_FIELD_MISSING, "legs.instrument is empty", field="legs.instrument")
        if legs.instrument in symbols:
            message = f"{legs.instrument} stands twice; all its legs belong together"
            raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="legs.instrument", value=legs.instrument)
        symbols.add(legs.instrument)
        check_equally_long({"legs.units": len(legs.units), "legs.sources": len(legs.sources), "legs.destinations": len(legs.destinations)})
    count = sum(len(legs.units) for legs in command.legs)
    if count > LEGS_MAX:
        message = f"{count} legs in one batch, at most {LEGS_MAX} may be"
        raise refusal(Reason.REASON_TOO_MANY_ITEMS, message, field="legs", count=count, limit=LEGS_MAX)


def decide_batch(state: State, command: TransferBatchRequest, context: Context) -> list[BatchTransferred]:
    """The position in the metadata `leg` counts through all instruments, in the order of the command."""
    _check_form(command)
    first_leg = 0
    for legs in command.legs:
        check_legs(state, legs, first_leg, context.decision_time_us)
        first_leg += len(legs.units)
    parts = [BatchTransferred(legs=legs) for legs in _parts(command)]
    parts[0].reference = command.reference
    return parts


def _parts(command: TransferBatchRequest) -> list[list[LegColumns]]:
    """Cut the legs of a command into parts that fit a leaf each; a part may hold legs of several instruments."""
    parts: list[list[LegColumns]] = [[]]
    room = PART_BYTES_MAX
    for legs in command.legs:
        sources = vectors.little_endian(legs.sources, "i")
        destinations = vectors.little_endian(legs.destinations, "i")
        units = vectors.little_endian(legs.units, "q")
        start, count = 0, len(legs.units)
        while start < count:
            if room < _GROUP_BYTES + _LEG_BYTES:
                parts.append([])
                room = PART_BYTES_MAX
            stop = min(count, start + (room - _GROUP_BYTES) // _LEG_BYTES)
            cut = LegColumns.FromString(
                vectors.packed_field(2, sources[4 * start : 4 * stop])
                + vectors.packed_field(3, destinations[4 * start : 4 * stop])
                + vectors.packed_field(4, units[8 * start : 8 * stop])
            )
            cut.instrument = legs.instrument
            parts[-1].append(cut)
            room -= _GROUP_BYTES + _LEG_BYTES * (stop - start)
            start = stop
    return parts


def evolve_batch(state: State, event: BatchTransferred, decided: Decided) -> None:
    for legs in event.legs:
        state.post_columns(state.instruments[legs.instrument].number, legs.sources, legs.destinations, legs.units)


def answer_batch(events: Sequence[Any]) -> dict[str, Any]:
    return {"leg_count": sum(len(legs.units) for event in events if isinstance(event, BatchTransferred) for legs in event.legs)}


COMMANDS = {TransferBatchRequest: (decide_batch, TransferBatchResponse)}
EVENTS = {BatchTransferred: evolve_batch}
ANSWERS = {TransferBatchResponse: answer_batch}
