"""Kill a worker a hundred times during five hundred mixed instructions, also over a node that fails one call in five."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from worker_crashes import crash_worker

from chain_adapters.memory.chain import NUMBER, ONE_TIME_VALUE
from chain_adapters.memory.rig import MemoryRig

if TYPE_CHECKING:
    from pathlib import Path

    from chain_adapters.rig import WorkedRig

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


def crash_a_hundred_times(rig: WorkedRig, folder: Path, fault_share: float) -> dict[str, int]:
    told = crash_worker(rig, folder, instructions=500, kills=100, seed=2026, fault_share=fault_share)
    print(told)
    return told


@pytest.mark.parametrize("fault_share", [0.0, 0.2])
@pytest.mark.parametrize("sequences", [NUMBER, ONE_TIME_VALUE])
def test_the_reference_chain(tmp_path: Path, sequences: str, fault_share: float) -> None:
    with MemoryRig(sequences=sequences, seed=2026) as rig:
        crash_a_hundred_times(rig, tmp_path, fault_share)


@pytest.mark.parametrize("fault_share", [0.0, 0.2])
def test_an_evm_chain(tmp_path: Path, fault_share: float) -> None:
    pytest.importorskip("web3", reason="web3 is not installed: pip install 'stockledger[evm]'")
    from evm_rig import EvmRig  # noqa: PLC0415 - it imports what may not be there

    with EvmRig() as rig:
        crash_a_hundred_times(rig, tmp_path, fault_share)


@pytest.mark.parametrize("fault_share", [0.0, 0.2])
def test_a_solana_chain(tmp_path: Path, fault_share: float) -> None:
    pytest.importorskip("solders", reason="solders is not installed: pip install 'stockledger[spl]'")
    from spl_rig import SplRig  # noqa: PLC0415 - it imports what may not be there

    with SplRig() as rig:
        told = crash_a_hundred_times(rig, tmp_path, fault_share)
        moved = told["mint"] + told["burn"] + told["force"] - told.get("pause", 0)  # a halt was ended in place of what was drawn
        assert rig.check_story() >= moved
