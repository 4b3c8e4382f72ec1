"""What takes effect by the chain's clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from chain_adapters.conformance_market import DECIMALS, FOREIGN, MULTIPLIER, Market
from chain_adapters.conformance_parts.base import ConformanceBase, needs
from ledger.rules.checks import utc_text
from stockledger.v1.chains_pb2 import (
    ChainCapability,
    DivergenceKind,
    ObservationKind,
)
from stockledger.v1.corporate_actions_pb2 import CancelActionRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from chain_adapters.conformance_market import Omnibus
    from chain_adapters.rig import Rig
    from stockledger.v1.chains_pb2 import ChainPosition, MultiplierChange

_C = ChainCapability
FLOAT_STEP: Final = 2**8
"""Multipliers from 1 to 2 that a chain keeps as floating-point numbers of 64 bits are 2^-52 apart, of 10^18 that is 222."""
CLOCK_ROUNDS_MAX: Final = 200
"""How often a chain whose clock was moved is let go on until a final block or slot has that time."""


class Times(ConformanceBase):
    """Nothing happens on a chain when a multiplier takes effect there, so an adapter tells it by the chain's clock."""

    @pytest.fixture
    def timed(self, open_market: Callable[..., Market], rig: Rig) -> Market:
        """Give a market on a chain whose clock is a little before the ledger's: what counts at once here has come to pass there."""
        market = open_market()
        needs(market, _C.CHAIN_CAPABILITY_MULTIPLIER)
        ahead_us = market.second_ahead(5)
        if not rig.pass_time(ahead_us):
            pytest.skip("nobody can move the chain's clock")
        self._pass(market, ahead_us)
        return market

    @staticmethod
    def _pass(market: Market, until_us: int) -> None:
        market.rig.pass_time(until_us)
        for _ in range(CLOCK_ROUNDS_MAX):
            market.rig.finalise()
            if market.connect().finalised().time.ToMicroseconds() >= until_us:
                break
        market.read()

    @pytest.mark.parametrize(("action", "wanted"), [("split", 2 * MULTIPLIER), ("dividend", MULTIPLIER * 9087 // 9080)])
    def test_a_multiplier_takes_effect_at_its_time(self, timed: Market, action: str, wanted: int) -> None:
        at_us, start = timed.second_ahead(600), timed.cursor()
        before = timed.in_force()
        if action == "split":
            timed.announce_split("ACTION", at_us, 2)
        else:
            timed.announce_dividend("ACTION", at_us)
        timed.settle()
        assert timed.rig.controls(timed.token).multiplier == MULTIPLIER
        self._pass(timed, at_us - 60_000_000)
        assert timed.in_force() == before, "its time has not come"
        self._pass(timed, at_us)
        self._pass(timed, at_us + 60_000_000)
        assert abs(timed.rig.controls(timed.token).multiplier - wanted) <= FLOAT_STEP
        (change,) = timed.in_force()[len(before) :]
        assert int(change.old_multiplier) == MULTIPLIER
        assert abs(int(change.multiplier) - wanted) <= FLOAT_STEP
        assert change.effective_time.ToMicroseconds() == at_us
        assert at_us <= change.time.ToMicroseconds() < at_us + 60_000_000, "told of the first block or slot with it"
        assert not timed.divergences()
        timed.check()
        self._check_read_anew(timed, start, change)

    @staticmethod
    def _check_read_anew(market: Market, start: ChainPosition, change: MultiplierChange) -> None:
        """Read again from where nothing was known, wherever ranges end and as often as they begin: once, and in the same place."""
        adapter, end = market.connect(), market.cursor().number
        whole = adapter.read(start, [market.deployment], [], through_number=end)
        assert whole is not None
        (expected,) = (each for each in whole.observations if each.kind == ObservationKind.OBSERVATION_KIND_MULTIPLIER_IN_FORCE)
        assert (expected.number, expected.value, expected.time) == (change.number, change.multiplier, change.time)
        for number in (change.number - 1, change.number, change.number + 1):
            first = market.connect().read(start, [market.deployment], [], through_number=number)
            assert first is not None
            known = type(market.deployment)()
            known.CopyFrom(market.deployment)
            known.chain_multiplier.CopyFrom(first.multipliers[0])
            for deployment in (known, market.deployment):
                rest = market.connect().read(first.through, [deployment], [], through_number=end)
                assert [*first.observations, *(rest.observations if rest is not None else ())] == list(whole.observations)

    def test_one_set_for_an_earlier_time_takes_its_place(self, timed: Market) -> None:
        at_us = timed.second_ahead(600)
        before = len(timed.in_force())
        timed.announce_split("LATE", at_us + 300_000_000, 2)
        timed.settle()
        timed.announce_split("EARLY", at_us, 3)
        timed.settle()
        self._pass(timed, at_us + 300_000_000)
        (change,) = timed.in_force()[before:]
        assert (int(change.multiplier), change.effective_time.ToMicroseconds()) == (3 * MULTIPLIER, at_us)
        assert not timed.divergences()

    def test_one_that_is_taken_back_does_not_take_effect(self, timed: Market) -> None:
        at_us = timed.second_ahead(600)
        before = timed.in_force()
        timed.announce_split("SPLIT", at_us, 2)
        timed.settle()
        timed.do(CancelActionRequest(action="SPLIT", cause="withdrawn"))
        timed.settle()
        self._pass(timed, at_us + 60_000_000)
        assert timed.in_force() == before
        assert timed.rig.controls(timed.token).multiplier == MULTIPLIER
        assert not timed.divergences()

    def test_one_set_for_a_time_that_is_past_takes_effect_at_once(self, timed: Market) -> None:
        start = timed.cursor()
        timed.set_multiplier(MULTIPLIER, 3 * 10**18)
        timed.settle()
        change = timed.in_force()[-1]
        assert (change.old_multiplier, change.multiplier) == (str(MULTIPLIER), str(3 * 10**18))
        assert change.effective_time == change.time
        whole = timed.connect().read(start, [timed.deployment], [])
        assert whole is not None
        set_, told = whole.observations
        assert (set_.kind, told.kind) == (
            ObservationKind.OBSERVATION_KIND_MULTIPLIER,
            ObservationKind.OBSERVATION_KIND_MULTIPLIER_IN_FORCE,
        )
        assert (told.number, told.transaction) == (set_.number, set_.transaction) == (change.number, set_.transaction)
        assert told.index > set_.index
        assert not timed.divergences()

    def test_one_that_comes_too_late_is_a_divergence(self, timed: Market) -> None:
        at_us = timed.second_ahead(600)
        timed.announce_split("SPLIT", at_us, 2)
        self._pass(timed, at_us + 60_000_000)
        timed.settle()
        change = timed.in_force()[-1]
        assert int(change.multiplier) == 2 * MULTIPLIER
        assert change.effective_time.ToMicroseconds() > at_us
        (divergence,) = timed.divergences()
        assert divergence.kind == DivergenceKind.DIVERGENCE_KIND_MULTIPLIER_IN_FORCE
        assert divergence.expected == f"{2 * MULTIPLIER} from {utc_text(at_us)}"

    def test_one_that_nobody_decided_is_a_divergence_when_it_takes_effect(self, timed: Market) -> None:
        at_us = timed.second_ahead(600)
        if not timed.rig.set_multiplier(timed.token, 7 * 10**18, at_us):
            pytest.skip("nobody else can set the multiplier")
        timed.settle()
        set_ = {each.kind for each in timed.divergences()}
        assert DivergenceKind.DIVERGENCE_KIND_CONTROL_UNDECIDED in set_
        assert DivergenceKind.DIVERGENCE_KIND_MULTIPLIER_IN_FORCE not in set_
        self._pass(timed, at_us)
        (divergence,) = (each for each in timed.divergences() if each.kind == DivergenceKind.DIVERGENCE_KIND_MULTIPLIER_IN_FORCE)
        assert divergence.found == f"{7 * 10**18} from {utc_text(at_us)}"
        assert divergence.expected.startswith(f"{MULTIPLIER} from ")

    def test_that_of_somebody_elses_token_is_only_observed(self, timed: Market) -> None:
        """Also one that was set before the ledger knew of the token."""
        at_us = timed.second_ahead(600)
        market = timed

        def set_before(ours: Omnibus) -> None:
            if not market.rig.set_multiplier(ours.token, 2 * 10**18, at_us):
                pytest.skip("somebody else's token has no multiplier that is told")

        market.open_omnibus(DECIMALS, set_before)
        market.settle()
        self._pass(market, at_us)
        self._pass(market, at_us + 60_000_000)
        (change,) = (each for each in market.in_force(FOREIGN) if int(each.old_multiplier))
        assert (int(change.old_multiplier), int(change.multiplier)) == (10**18, 2 * 10**18)
        assert change.effective_time.ToMicroseconds() == at_us
        assert not market.divergences()
