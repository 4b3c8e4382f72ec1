"""The adapter for Solana passes the kit, on a real node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("solders", reason="solders is not installed: pip install 'stockledger[spl]'")

from spl_rig import SplRig
from worker_crashes import crash_worker

from chain_adapters.conformance import ChainConformance
from chain_adapters.rig import Rig


class TestSpl(ChainConformance):
    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        with SplRig() as rig:
            yield rig


def test_a_worker_killed_at_random_does_everything_once(tmp_path: Path) -> None:
    with SplRig() as rig:
        told = crash_worker(rig, tmp_path, instructions=24, kills=2, seed=11, fault_share=0.1)
        assert rig.check_story() >= told["mint"] + told["burn"] + told["force"]
