"""The adapter for Solana passes the kit, on a real node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("solders", reason="solders is not installed: pip install 'stockledger[spl]'")

from spl_chain import transfer_lamports
from spl_rig import SplRig
from worker_crashes import crash_worker

from chain_adapters.conformance import ChainConformance
from chain_adapters.conformance_market import UNITS, Market
from chain_adapters.rig import Rig
from chain_adapters.spl import token_2022
from stockledger.v1.accounts_pb2 import FreezeAccountRequest
from stockledger.v1.chains_pb2 import ChainFailure, InstructionState, RecordTransactionsRequest


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

    def test_too_few_lamports_for_a_new_account_give_no_instruction_up(self, market: Market) -> None:
        """Nothing is recorded while they lack, with the figures told; units wait in transit, and a freeze of nobody's account waits too."""
        rig, wallet, other = market.rig, market.wallets[0], market.wallets[1]
        assert isinstance(rig, SplRig)
        market.settle()
        payer, bank = rig.keys["payer"], rig.spl.payer.public_key
        taken = rig.spl.client.lamports(payer.public_key) - 1_500_000
        assert rig.spl.run([transfer_lamports(payer.public_key, bank, taken)], payer).error is None
        rig.finalise()
        market.transfer("book:alice", wallet, 10)
        market.do(FreezeAccountRequest(account=other, legal_reference="order 1"), principal="enforcer")
        for _ in range(3):
            done = market.project()
            rig.finalise()
            market.read()
            assert [each.why.partition(" has ")[2] for each in done.stuck] == ["1500000 of the chain's coin, needed 3037600"] * 2
        assert [(each.state, each.attempt_count) for each in market.instructions()] == [(InstructionState.INSTRUCTION_STATE_OPEN, 0)] * 2
        assert not market.transactions()
        rig.spl.fund(payer.public_key, 10**9)
        rig.finalise()
        market.settle()
        assert rig.controls(market.token, [other]).frozen == {other}
        market.check({wallet: 10, "book:alice": UNITS - 10})

    def test_what_failed_on_chain_goes_on_with_another_transaction(self, market: Market) -> None:
        """Also on this node, which leaves a nonce as it was when its transaction fails."""
        rig, wallet = market.rig, market.wallets[0]
        assert isinstance(rig, SplRig)
        market.settle()
        guard, mint = rig.keys["guard"], rig.address(market.token)

        def record_and_pause(request: Any) -> Any:
            answer = market.call(request)
            if isinstance(request, RecordTransactionsRequest):
                assert rig.spl.run([token_2022.pause(mint, guard.public_key)], guard).error is None
            return answer

        market.transfer("book:alice", wallet, 10)
        market.project(call=record_and_pause)
        rig.finalise()
        market.read()
        [failed] = market.instructions()
        assert (failed.failure, failed.attempt_count) == (ChainFailure.CHAIN_FAILURE_PAUSED, 1)
        assert rig.spl.run([token_2022.resume(mint, guard.public_key)], guard).error is None
        rig.finalise()
        market.settle()
        market.check({wallet: 10})


def test_a_worker_killed_at_random_does_everything_once(tmp_path: Path) -> None:
    with SplRig() as rig:
        told = crash_worker(rig, tmp_path, instructions=24, kills=2, seed=11, fault_share=0.1)
        moved = told["mint"] + told["burn"] + told["force"] - told.get("pause", 0)  # a halt was ended in place of what was drawn
        assert rig.check_story() >= moved
