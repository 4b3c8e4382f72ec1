"""How a token's multiplier stood at a block, and when blocks were made: ERC-8056, of our own tokens and of others'."""

from __future__ import annotations

from typing import Final

from chain_adapters.evm import token_events
from chain_adapters.evm.chain_view import ChainView
from chain_adapters.evm.codec import NotDecodable
from chain_adapters.evm.node import BLOCKS_MAX, NodeRefused, RawLog
from chain_adapters.evm.token_calls import TOKEN
from chain_adapters.evm.token_events import MultiplierSet
from chain_adapters.multipliers import Schedule
from stockledger.v1.chains_pb2 import ChainPosition

_US: Final = 1_000_000


class BlockClock:
    """When blocks were made."""

    def __init__(self, view: ChainView) -> None:
        self._view = view

    def position(self, number: int) -> ChainPosition:
        return self._view.position(number)

    def time_us(self, number: int) -> int:
        return self.position(number).time.ToMicroseconds()

    def numbers(self, after: int, through: int) -> range:
        return range(after + 1, through + 1)


def schedule_at(view: ChainView, token: str, number: int, blocks_max: int = BLOCKS_MAX) -> Schedule | None:
    """Return how a token's multiplier stood at a block; None for a token that has none by ERC-8056.

    Where the node has no state of that block any more, the newest event until then says it.

    Raises: NodeError.
    """
    try:
        _ask(view, token, "latest")
    except (NodeRefused, NotDecodable):
        return None
    time_us = view.position(number).time.ToMicroseconds()
    try:
        found = _ask(view, token, number) if view.code(token, number) else Schedule(0)
    except (NodeRefused, NotDecodable):
        found = _told_last(view, token, number, blocks_max)
    return found.at(time_us)


def _ask(view: ChainView, token: str, at: int | str) -> Schedule:
    """Return what a token says; both multipliers are the same, and the time past, where nothing is ahead."""
    in_force, ahead, seconds = (
        int(view.ask(TOKEN, token, signature, at=at)) for signature in ("uiMultiplier()", "newUIMultiplier()", "effectiveAt()")
    )
    return Schedule(in_force, ahead, seconds * _US) if ahead != in_force else Schedule(in_force)


def _told_last(view: ChainView, token: str, number: int, blocks_max: int) -> Schedule:
    """Return what the newest event at or before a block set; a token that has told none is not there yet."""
    last = number
    while last >= 0:
        first = max(0, last - blocks_max + 1)
        sets = [found for _, logs in view.node.logs([token], first, last, blocks_max) for found in map(_set_by, logs) if found is not None]
        if sets:
            return Schedule(sets[-1].old, sets[-1].new, sets[-1].effective_time_seconds * _US)
        last = first - 1
    return Schedule(0)


def _set_by(log: RawLog) -> MultiplierSet | None:
    """Return how a log says that the multiplier was set; others' tokens may tell anything beside."""
    try:
        fact = token_events.read_fact(log.topics, log.data)
    except NotDecodable:
        return None
    return fact if isinstance(fact, MultiplierSet) else None
