"""How a multiplier stood at each block: what the state of then says is what the events until then say, where that state is gone."""

from __future__ import annotations

from evm_market import E18, MULTIPLIER, Market

from chain_adapters.evm.chain_view import ChainView
from chain_adapters.evm.codec import encode_call
from chain_adapters.evm.multiplier_view import BlockClock, _told_last, schedule_at
from chain_adapters.evm.node import Node, NodeRefused
from chain_adapters.multipliers import Schedule

SET = "scheduleMultiplier(bytes32,uint256,uint256,uint64,bytes)"


def _set(market: Market, expected: int, multiplier: int, seconds: int) -> None:
    market.send("multiplier", market.token, encode_call("StockToken", SET, market.id(), expected, multiplier, seconds, b"split"))


class _Pruned(Node):
    """A node that has the newest state alone."""

    def call(self, method: str, *parameters: object) -> object:
        if method in ("eth_call", "eth_getCode") and parameters[-1] != "latest":
            raise NodeRefused(-32000, "missing trie node")
        return super().call(method, *parameters)


def test_state_and_events_say_the_same_at_every_block(market: Market) -> None:
    view, first = ChainView(Node(market.node.url)), int(market.node.call("eth_blockNumber"), 16)
    pruned = ChainView(_Pruned(market.node.url))
    now = market.node.time()
    _set(market, MULTIPLIER, 2 * E18, now + 100)
    _set(market, 2 * E18, 3 * E18, now + 50)
    market.node.mine_at(now + 50)
    market.node.mine_at(now + 60)
    _set(market, 3 * E18, 4 * E18, 0)
    _set(market, 4 * E18, 5 * E18, now + 500)
    _set(market, 5 * E18, 4 * E18, 0)
    market.node.call("evm_mine")
    last = int(market.node.call("eth_blockNumber"), 16)
    told = [schedule_at(view, market.token, number) for number in range(first, last + 1)]
    assert told == [
        Schedule(MULTIPLIER),
        Schedule(MULTIPLIER, 2 * E18, (now + 100) * 1_000_000),
        Schedule(MULTIPLIER, 3 * E18, (now + 50) * 1_000_000),
        Schedule(3 * E18),
        Schedule(3 * E18),
        Schedule(4 * E18),
        Schedule(4 * E18, 5 * E18, (now + 500) * 1_000_000),
        Schedule(4 * E18),
        Schedule(4 * E18),
    ]
    clock = BlockClock(view)
    for blocks_max in (1, 2, 1_000):
        assert [schedule_at(pruned, market.token, number, blocks_max) for number in range(first, last + 1)] == told
    assert _told_last(view, market.token, first, 1_000).at(clock.time_us(first)) == told[0]


def test_before_it_was_made_there_is_none(market: Market) -> None:
    for node in (Node, _Pruned):
        assert schedule_at(ChainView(node(market.node.url)), market.token, 0) == Schedule(0)


def test_a_contract_without_one_has_none(market: Market) -> None:
    assert schedule_at(ChainView(Node(market.node.url)), market["alice"], 0) is None
