"""Runs of single transfers of one principal, an entry each, booked on whole columns as they are decided.

What comes of it is what folding each entry by itself gives (tests hold the two against each other), in a third of the time. In replay
they are read from their bytes (stored_runs.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ledger.rules.packed import post_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.state import State


class Transfers(NamedTuple):
    """What the entries of a run say, by columns; instruments and accounts are given by their numbers."""

    instruments: Sequence[int]
    sources: Sequence[int]
    destinations: Sequence[int]
    units: Sequence[int]
    request_ids: Sequence[bytes]
    principal: str
    last_decision_time_us: int


def fold_transfers(state: State, run: Transfers) -> None:
    """Book entries that follow each other, as `fold` would book one after the other."""
    assert not state.parts, "no command is half booked"
    first, state.size = state.size, state.size + len(run.units)
    post_run(state, run.instruments, run.sources, run.destinations, run.units)
    state.last_decision_time_us = run.last_decision_time_us
    locations = range(first << 16, state.size << 16, 1 << 16)
    state.remember_requests(run.request_ids, run.principal, locations, run.last_decision_time_us)
