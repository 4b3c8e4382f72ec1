"""The adapter for Solana passes the kit, on a real node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("solders", reason="solders is not installed: pip install 'stockledger[spl]'")

from spl_rig import SplRig
from worker_crashes import crash_worker

from chain_adapters.conformance import ChainConformance
from chain_adapters.conformance_market import Market
from chain_adapters.rig import Rig
from stockledger.v1.accounts_pb2 import FreezeAccountRequest


class TestSpl(ChainConformance):
    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        with SplRig() as rig:
            yield rig

    def test_who_opens_many_accounts_is_frozen_all_the_same(self, market: Market) -> None:
        """By transactions that name no instruction, until one with the rest ends it."""
        rig, wallet = market.rig, market.wallets[0]
        assert isinstance(rig, SplRig)
        market.transfer("book:alice", wallet, 10)
        market.settle()
        rig.open_others(market.token, wallet, 14)
        rig.finalise()
        market.do(FreezeAccountRequest(account=wallet, legal_reference="order 1"), principal="enforcer")
        market.settle()
        assert rig.controls(market.token, [wallet]).frozen == {wallet}
        assert not market.divergences()
        market.check({wallet: 10})


def test_a_worker_killed_at_random_does_everything_once(tmp_path: Path) -> None:
    with SplRig() as rig:
        told = crash_worker(rig, tmp_path, instructions=24, kills=2, seed=11, fault_share=0.1)
        moved = told["mint"] + told["burn"] + told["force"] - told.get("pause", 0)  # a halt was ended in place of what was drawn
        assert rig.check_story() >= moved
