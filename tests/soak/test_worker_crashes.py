"""Kill a worker a hundred times during five hundred mixed instructions, over a node that fails one call in five."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from worker_crashes import crash_worker

from chain_adapters.memory.chain import NUMBER, ONE_TIME_VALUE

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("fault_share", [0.0, 0.2])
@pytest.mark.parametrize("sequences", [NUMBER, ONE_TIME_VALUE])
def test_a_hundred_kills(tmp_path: Path, sequences: str, fault_share: float) -> None:
    crash_worker(tmp_path, instructions=500, kills=100, seed=2026, sequences=sequences, fault_share=fault_share)
