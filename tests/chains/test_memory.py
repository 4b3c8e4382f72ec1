"""The reference chain passes the kit, with either kind of sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from chain_adapters.conformance import ChainConformance
from chain_adapters.memory.chain import ONE_TIME_VALUE
from chain_adapters.memory.rig import MemoryRig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chain_adapters.rig import Rig


class TestMemory(ChainConformance):
    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        with MemoryRig() as rig:
            yield rig


class TestMemoryWithOneTimeValues(ChainConformance):
    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        with MemoryRig(sequences=ONE_TIME_VALUE) as rig:
            yield rig
