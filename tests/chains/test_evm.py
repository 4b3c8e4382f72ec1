"""The adapter for EVM chains passes the kit, on a real node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("web3", reason="web3 is not installed: pip install 'stockledger[evm]'")

from evm_rig import EvmRig

from chain_adapters.conformance import ChainConformance
from chain_adapters.rig import Rig


class TestEvm(ChainConformance):
    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        with EvmRig() as rig:
            yield rig
