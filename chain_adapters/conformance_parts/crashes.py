"""Any step may be the last of a process, any answer lost, late, twice or garbage."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any, Final

from chain_adapters.conformance_market import Market
from chain_adapters.conformance_parts.base import ConformanceBase
from chain_adapters.fault_proxy import FaultProxy
from chain_adapters.projector import Projector
from chain_adapters.reader import Reader
from stockledger.v1.chains_pb2 import (
    ChainCapability,
    InstructionState,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from chain_adapters.protocol import ChainAdapter

_C = ChainCapability
CRASH_STEPS_MAX: Final = 200
"""More boundaries than any of the crash tests has; each is one run."""


class Crash(BaseException):
    """The process dies here."""


class _Boundaries:
    """Counts calls of the ledger and of an adapter, each a boundary before and one after, and dies at one of them."""

    def __init__(self, dies_at: int) -> None:
        self._dies_at = dies_at
        self._passed = 0

    def _pass(self) -> None:
        if self._passed == self._dies_at:
            raise Crash
        self._passed += 1

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self._pass()
            answer = function(*arguments, **named)
            self._pass()
            return answer

        return wrapped


class _Dying:
    """An adapter whose process may die before or after any call of it."""

    def __init__(self, adapter: ChainAdapter, boundaries: _Boundaries) -> None:
        self.chain = adapter.chain
        for verb in ("describe", "inspect", "finalised", "prepare", "replace", "send", "fate", "read", "measure"):
            setattr(self, verb, boundaries.wrap(getattr(adapter, verb)))


class Crashes(ConformanceBase):
    """Each run ends with the same books and the same chain, whatever broke on the way."""

    def test_a_crash_between_any_two_steps(self, market: Market) -> None:
        """Each run dies one boundary later, until one gets through; after each, everything is made anew and goes on."""
        first, second = market.wallets
        market.transfer("book:alice", first, 100_000)
        market.settle()
        minted, burned = 100_000, 0
        for step in range(CRASH_STEPS_MAX):
            market.transfer("book:alice", first, 1000 + step)
            market.transfer(first, "book:bob", 10 + step)
            minted, burned = minted + 1000 + step, burned + 10 + step
            boundaries = _Boundaries(step)
            died = False
            for _ in range(2):
                try:
                    self._one_pass(market, boundaries)
                except Crash:
                    died = True
                    break
                market.rig.finalise()
            market.settle()
            market.check({first: minted - burned, second: 0, "book:bob": burned})
            if not died:
                assert step > 20, "the boundaries were not counted"
                return
        raise AssertionError(f"more than {CRASH_STEPS_MAX} boundaries")

    @staticmethod
    def _one_pass(market: Market, boundaries: _Boundaries) -> None:
        adapter: Any = _Dying(market.connect(), boundaries)
        call = boundaries.wrap(market.call)
        Projector(call, adapter).round()
        Reader(call, adapter).read()

    def test_a_node_that_fails_one_call_in_five(self, market: Market) -> None:
        with FaultProxy(market.rig.node_url, share=0.2, seed=7) as proxy:
            market.url = proxy.url
            first, second = market.wallets
            for step in itertools.count(1):
                market.transfer("book:alice", first, 100)
                market.transfer("book:alice", second, 50)
                market.settle()
                market.transfer(first, "book:bob", 10)
                if market.can(_C.CHAIN_CAPABILITY_FORCE_TRANSFER):
                    market.force_transfer(second, first, 5)
                market.settle()
                if len(proxy.told) > 6 and step >= 5:
                    break
        market.url = None
        market.settle()
        forced = 5 * step if market.can(_C.CHAIN_CAPABILITY_FORCE_TRANSFER) else 0
        market.check({first: 90 * step + forced, second: 50 * step - forced, "book:bob": 10 * step})
        assert not market.divergences()

    def test_what_nobody_reads_is_called_stuck(self, market: Market) -> None:
        market.transfer("book:alice", market.wallets[0], 10)
        market.project()
        market.rig.finalise()
        days_later = Projector(market.call, market.connect(), now_us=lambda: time.time_ns() // 1000 + 10**12)
        assert [one.why for one in days_later.round().stuck] == ["final on chain, and not in the books"]
        market.settle()
        market.check({market.wallets[0]: 10})

    def test_two_readers_and_two_projectors_at_once(self, market: Market) -> None:
        first, _ = market.wallets
        for units in range(1, 9):
            market.transfer("book:alice", first, units)
            one, other = market.connect(), market.connect()
            market.project(one)
            market.project(other)
            market.rig.finalise()
            Reader(market.call, one).read()
            Reader(market.call, other).read()
        market.settle()
        market.check({first: sum(range(1, 9))})
        assert not market.divergences()

    def test_a_whole_day_mixed(self, market: Market) -> None:
        """Everything at once, nothing waited for in between."""
        first, second = market.wallets
        market.transfer("book:alice", first, 10_000)
        market.settle()
        expected = {first: 10_000, second: 0, "book:bob": 0}
        for turn in range(1, 25):
            market.transfer("book:alice", second, 10 * turn)
            expected[second] += 10 * turn
            market.transfer(first, "book:bob", turn)
            expected[first] -= turn
            expected["book:bob"] += turn
            if turn % 3 == 0:
                market.rig.transfer(market.token, first, second, 2)
                expected[first] -= 2
                expected[second] += 2
            if turn % 4 == 0 and market.can(_C.CHAIN_CAPABILITY_FORCE_TRANSFER):
                market.force_transfer(first, second, 3)
                expected[first] -= 3
                expected[second] += 3
            if turn % 5 == 0:
                market.project()
        market.settle()
        market.check(expected)
        assert not market.divergences()
        assert not market.instructions(InstructionState.INSTRUCTION_STATE_REFUSED)
        assert [each.divergence_count for each in market.reconcile()] == [0]
