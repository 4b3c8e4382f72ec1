"""One node for the tests of a process; each test starts from the same chain, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("web3", reason="web3 is not installed: pip install 'stockledger[evm]'")

from evm_market import Market
from evm_node import EvmNode, evm_node


@pytest.fixture(scope="session")
def node() -> Iterator[EvmNode]:
    with evm_node() as running:
        yield running


@pytest.fixture(scope="session")
def fresh_market(node: EvmNode) -> Market:
    return Market(node)


@pytest.fixture
def market(fresh_market: Market) -> Iterator[Market]:
    """Give an issuer with a token, put back as it was afterwards."""
    with fresh_market.node.put_back():
        yield fresh_market
