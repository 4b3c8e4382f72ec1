"""The fault proxy does what it says, and tells it."""

from __future__ import annotations

import contextlib

import pytest

from chain_adapters.fault_proxy import FAULTS, FaultProxy
from chain_adapters.memory.chain import MemoryChain
from chain_adapters.memory.node import HttpNode, MemoryNode
from chain_adapters.protocol import ChainUnavailable


class CountingNode(MemoryNode):
    """A node that knows how often it was asked."""

    asked = 0

    def ask(self, method: str, **parameters: object) -> object:
        self.asked += 1
        return super().ask(method, **parameters)


@pytest.mark.parametrize(
    ("fault", "heard", "answered"),
    [
        ("refuse", 0, False),
        ("lose", 1, False),
        ("repeat", 2, True),
        ("delay", 1, True),
        ("limit", 0, False),
        ("fail", 0, False),
        ("cut", 1, False),
    ],
)
def test_each_fault(fault: str, heard: int, answered: bool) -> None:
    assert fault in FAULTS
    counting = CountingNode(MemoryChain())
    with counting.listening() as url, FaultProxy(url, share=1.0, faults=[fault]) as proxy:
        node = HttpNode("memory:1", proxy.url)
        if answered:
            assert node.ask("head")["chain"] == "memory:1"
        else:
            with pytest.raises(ChainUnavailable):
                node.ask("head")
        node.close()
        assert counting.asked == heard
        assert proxy.told == {fault: 1}


def test_a_share_of_calls_is_broken_the_same_each_time() -> None:
    told = []
    for _ in range(2):
        counting = CountingNode(MemoryChain())
        with counting.listening() as url, FaultProxy(url, share=0.2, seed=3, delay_seconds=0.0) as proxy:
            node = HttpNode("memory:1", proxy.url)
            for _ in range(200):
                with contextlib.suppress(ChainUnavailable):
                    node.ask("head")
            node.close()
            told.append(dict(proxy.told))
    assert told[0] == told[1]
    assert 20 < 200 - told[0]["forwarded"] < 60
