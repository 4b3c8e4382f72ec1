"""What all parts of the conformance kit share: the fixtures, and what the log knows."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from chain_adapters.conformance_market import Market
from chain_adapters.protocol import ProjectionState
from stockledger.v1.chains_pb2 import (
    ChainCapability,
    ListChainKeysRequest,
    ListDeploymentsRequest,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chain_adapters.rig import Rig


def needs(market: Market, capability: ChainCapability.ValueType) -> None:
    """Skip a test of what the token cannot do."""
    if not market.can(capability):
        pytest.skip(f"the token has no {ChainCapability.Name(capability)}")


def state_of(market: Market) -> ProjectionState:
    """Return what the log knows, as a projector would collect it."""
    chain = market.rig.chain
    keys = market.call(ListChainKeysRequest(chain=chain, page_size=1000)).keys
    deployments = market.call(ListDeploymentsRequest(chain=chain)).deployments
    return ProjectionState(deployments, keys, market.transactions(), market.cursor())


class ConformanceBase:
    """Fixtures of every part."""

    @pytest.fixture
    def rig(self) -> Rig:
        """Give the chain under test; a fixture that yields may close it afterwards."""
        pytest.skip("the test class has no rig of its own")

    @pytest.fixture
    def open_market(self, rig: Rig) -> Iterator[Callable[..., Market]]:
        """Give a function that makes markets in which everything that their registration led to is done."""
        with contextlib.ExitStack() as opened:

            def open_one(**options: Any) -> Market:
                market = opened.enter_context(contextlib.closing(Market(rig, **options)))
                market.settle()
                market.settle_multiplier()
                assert not market.instructions()
                return market

            yield open_one

    @pytest.fixture
    def market(self, open_market: Callable[..., Market]) -> Market:
        """Give a market of a token that can do all that the rig says."""
        return open_market()
