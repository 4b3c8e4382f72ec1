"""The adapter for EVM chains passes the kit, on a real node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("web3", reason="web3 is not installed: pip install 'stockledger[evm]'")

from evm_rig import EvmRig
from worker_crashes import crash_worker

from chain_adapters.conformance import ChainConformance
from chain_adapters.rig import Rig


class TestEvm(ChainConformance):
    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        with EvmRig() as rig:
            yield rig


def test_a_worker_killed_at_random_does_everything_once(tmp_path: Path) -> None:
    with EvmRig() as rig:
        crash_worker(rig, tmp_path, instructions=24, kills=2, seed=11, fault_share=0.1)
