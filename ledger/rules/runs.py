"""Runs of single transfers of one principal, an entry each, booked on whole columns: live and in replay.

What comes of it is what folding each entry by itself gives (tests hold the two against each other), in a third of the time. A run is
only taken where every entry is a plain transfer; at the least doubt nothing is, and the entries are folded one by one.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from google.protobuf.message import DecodeError

from ledger import vectors
from ledger.arithmetic import UNITS_MAX
from ledger.rules.packed import post_run
from stockledger.v1.events_pb2 import Entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ledger.state import State

REQUEST_ID_LATEST_MS = (1 << 48) - 1
_ID_BYTES = 16


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


def read_transfers(state: State, entries: Sequence[bytes]) -> Transfers | None:
    """Return what entries say if all are plain transfers that can follow the books, under new request ids; else None.

    That an entry says nothing else, known or unknown, shows in the sizes: no encoding of the fields looked at is shorter than the one
    reckoned here, and anything beside them would add to it.
    """
    if state.parts or not vectors.worthwhile(len(entries)):
        return None
    try:
        parsed = [Entry.FromString(data) for data in entries]
    except DecodeError:
        return None
    principal = parsed[0].principal
    events = [entry.units_transferred for entry in parsed]
    times = [entry.decision_time_us for entry in parsed]
    symbols, units = [event.instrument for event in events], [event.units for event in events]
    sources, destinations = [event.source for event in events], [event.destination for event in events]
    request_ids, digests = [entry.request_id for entry in parsed], [entry.request_digest for entry in parsed]
    if not principal or {entry.principal for entry in parsed} != {principal}:
        return None
    if sorted(times) != times or times[0] <= state.last_decision_time_us:
        return None
    if {*map(len, request_ids), *map(len, digests)} != {_ID_BYTES} or min(units) <= 0 or sum(units) > UNITS_MAX >> 1:
        return None
    if sum(map(len, entries)) != _least_bytes(principal, times, (symbols, sources, destinations), units):
        return None
    accounts, instruments = state.accounts, state.instruments
    try:
        run = Transfers(
            [instruments[symbol].number for symbol in symbols],
            [accounts[name].number for name in sources],
            [accounts[name].number for name in destinations],
            units,
            request_ids,
            principal,
            times[-1],
        )
    except KeyError:
        return None
    if any(map(int.__eq__, run.sources, run.destinations)) or not state.window_holds(request_ids, run.last_decision_time_us):
        return None
    return run if state.requests.all_new(request_ids, principal, REQUEST_ID_LATEST_MS) else None


def _least_bytes(principal: str, times: Sequence[int], texts: Iterable[Sequence[str]], units: Sequence[int]) -> int:
    """Return how many bytes entries of plain transfers have together, if they say nothing else.

    Around the values are tags, lengths, request id and digest: 7 bytes of an event, 42 of an entry. A number has 7 bits in a byte.
    """
    values = sum(sum(map(len, column)) for column in texts)
    numbers = sum(-(-bits // 7) * count for column in (times, units) for bits, count in Counter(map(int.bit_length, column)).items())
    return len(units) * (7 + 42 + len(principal.encode())) + values + numbers
