"""Runs of single transfers of one principal, booked as one entry.

Each transfer keeps its own request id, digest and result; only the envelope is shared. The engine packs where the caller asks for it
(`execute_many(..., pack=True)`); no command leads here by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ledger import vectors
from stockledger.v1.transfers_pb2 import TransfersPacked, UnitsTransferred

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.rules.context import Decided
    from ledger.state import State

TRANSFERS_PER_ENTRY_MAX: Final = 1_200
"""52 bytes each: below the 65,535 bytes of a leaf with room for the envelope."""


def evolve_packed(state: State, event: TransfersPacked, decided: Decided) -> None:
    each = vectors.cut(event.request_ids, 16)
    post_run(state, event.instruments, event.sources, event.destinations, event.units)
    location = state.size << 16
    state.remember_requests(each, decided.principal, range(location, location + len(each)), decided.decision_time_us)


def post_run(state: State, instruments: Sequence[int], sources: Sequence[int], destinations: Sequence[int], units: Sequence[int]) -> None:
    """Book movements of any instruments, by their numbers, whose order does not matter any more."""
    for instrument, legs in legs_by_instrument(instruments, sources, destinations, units).items():
        state.post_columns(instrument, *legs)


def legs_by_instrument(
    instruments: Sequence[int], sources: Sequence[int], destinations: Sequence[int], units: Sequence[int]
) -> dict[int, tuple[Sequence[int], Sequence[int], Sequence[int]]]:
    """Return the sources, destinations and units of each instrument's movements."""
    if vectors.worthwhile(len(units)):
        numbers, giving, taking, moving = map(vectors.int64s, (instruments, sources, destinations, units))
        if (numbers == numbers[0]).all():
            return {int(numbers[0]): (giving, taking, moving)}
        each = {number: numbers == number for number in sorted(set(numbers.tolist()))}
        return {number: (giving[mine], taking[mine], moving[mine]) for number, mine in each.items()}
    legs: dict[int, tuple[list[int], list[int], list[int]]] = {}
    for instrument, source, destination, moved in zip(instruments, sources, destinations, units, strict=True):
        columns = legs.get(instrument)
        if columns is None:
            columns = legs[instrument] = ([], [], [])
        columns[0].append(source)
        columns[1].append(destination)
        columns[2].append(moved)
    return {**legs}


def transfer_of_packed(state: State, packed: TransfersPacked, position: int) -> UnitsTransferred:
    """Return one transfer of a packed entry, as the event it would have been alone."""
    return UnitsTransferred(
        instrument=state.instrument_symbols[packed.instruments[position]],
        source=state.account_names[packed.sources[position]],
        destination=state.account_names[packed.destinations[position]],
        units=packed.units[position],
    )


COMMANDS: dict[type[Any], tuple[Any, type[Any]]] = {}
EVENTS = {TransfersPacked: evolve_packed}
