"""What a node can do wrong, behind a proxy that does it, and logs that are all there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from evm_market import Market
from scripted_proxy import ScriptedProxy, scripted_proxy

from chain_adapters.evm import token_calls
from chain_adapters.evm.node import ATTEMPTS, Node, NodeAway, NodeNonsense, NodeRefused, RangeTooLarge
from chain_adapters.evm.token_events import Moved, read_fact


@pytest.fixture
def proxy(market: Market) -> Iterator[ScriptedProxy]:
    with scripted_proxy(market.node.url) as running:
        yield running


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def client(proxy: ScriptedProxy, pauses: list[float]) -> Node:
    return Node(proxy.url, pause=pauses.append)


def error(code: int, message: str, **more: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "error": {"code": code, "message": message, **more}}).encode()


def body(result: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()


PASSING = {
    "429": lambda *_: (429, b"slow down", {"retry-after": "7"}),
    "500": lambda _, a: (500, a, {}),
    "503": lambda *_: (503, b"", {}),
    "dropped": lambda *_: None,
    "truncated": lambda _, a: (200, a[:-4], {}),
    "not JSON": lambda *_: (200, b"<html>busy</html>", {}),
    "empty": lambda *_: (200, b"", {}),
    "no result": lambda *_: (200, b'{"jsonrpc": "2.0", "id": 1}', {}),
    "a list": lambda *_: (200, b"[]", {}),
    "rate limit": lambda *_: (200, error(-32005, "daily request count exceeded, request rate limited"), {}),
    "rate limit by words": lambda *_: (200, error(-32000, "Too Many Requests"), {}),
}


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_is_waited_out(proxy: ScriptedProxy, client: Node, pauses: list[float], fault: str):
    proxy.faults = [PASSING[fault]] * (ATTEMPTS - 1)
    assert client.number("eth_chainId") == 31_337
    assert len(pauses) == ATTEMPTS - 1
    assert pauses == sorted(pauses), "each pause is longer"
    if fault == "429":
        assert all(pause >= 7 for pause in pauses)


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_stays_has_a_name(proxy: ScriptedProxy, client: Node, fault: str):
    proxy.always = PASSING[fault]
    with pytest.raises((NodeAway, NodeNonsense)) as raised:
        client.call("eth_chainId")
    away = {"429", "500", "503", "dropped", "rate limit", "rate limit by words"}
    assert isinstance(raised.value, NodeAway) == (fault in away)
    assert len(proxy.requests) >= ATTEMPTS


def test_a_node_that_is_not_there_is_away(pauses: list[float]):
    with pytest.raises(NodeAway):
        Node("http://127.0.0.1:9", pause=pauses.append).call("eth_chainId")
    assert len(pauses) == ATTEMPTS - 1


def test_a_refusal_is_final_and_carries_what_the_contract_said(market: Market, client: Node, proxy: ScriptedProxy):
    data = token_calls.mint(market.lines(("alice", 1))).data
    with pytest.raises(NodeRefused) as refused:
        client.call("eth_call", {"from": market["mallory"], "to": market.token, "data": "0x" + data.hex()}, "latest")
    assert refused.value.data[:4].hex() == "e2517d3f", "AccessControlUnauthorizedAccount"
    assert len(proxy.requests) == 1, "asking again would not help"


@pytest.mark.parametrize("result", [None, "", "12", "0xzz", -1, 5, [], "0x" + "f" * 65, "0x-1"])
def test_a_number_that_is_none_is_nonsense(proxy: ScriptedProxy, client: Node, result: Any):
    proxy.always = lambda *_: (200, body(result), {})
    with pytest.raises(NodeNonsense):
        client.number("eth_blockNumber")


def supplied(market: Market, count: int) -> tuple[int, int]:
    first = int(market.node.call("eth_blockNumber"), 16) + 1
    for number in range(count):
        market.do(token_calls.mint(market.lines(("alice", number + 1), ("bob", 1))))
    return first, first + count - 1


def units_of(batches: list[tuple[int, list[Any]]]) -> list[int]:
    facts = [read_fact(log.topics, log.data) for _, logs in batches for log in logs]
    return [fact.units for fact in facts if isinstance(fact, Moved)]


@pytest.mark.parametrize("blocks_max", [1, 2, 7, 2_000])
def test_logs_come_whole_and_in_order_whatever_the_range(market: Market, client: Node, blocks_max: int):
    first, last = supplied(market, 6)
    batches = list(client.logs([market.token], first, last, blocks_max))
    assert units_of(batches) == [unit for number in range(6) for unit in (number + 1, 1)]
    assert batches[-1][0] == last
    throughs = [through for through, _ in batches]
    assert throughs == sorted(set(throughs))


@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("words", ["query returned more than 10000 results", "block range is too large", "Log response size exceeded"])
def test_a_providers_limit_halves_the_range_and_leaves_no_gap(market: Market, proxy: ScriptedProxy, client: Node, most: int, words: str):
    first, last = supplied(market, 8)

    def limited(request: dict[str, Any], answer: bytes) -> Any:
        question = request["params"][0]
        if int(question["toBlock"], 16) - int(question["fromBlock"], 16) >= most:
            return 200, error(-32005, words), {}
        return 200, answer, {}

    proxy.always = limited
    assert units_of(list(client.logs([market.token], first, last))) == [unit for number in range(8) for unit in (number + 1, 1)]


def test_a_block_that_is_too_large_for_a_provider_is_told(proxy: ScriptedProxy, client: Node, market: Market):
    proxy.always = lambda *_: (200, error(-32005, "query returned more than 10000 results"), {})
    with pytest.raises(RangeTooLarge):
        list(client.logs([market.token], 1, 9))


def spoil(change: Any) -> Any:
    def fault(_: dict[str, Any], answer: bytes) -> Any:
        content = json.loads(answer)
        content["result"] = change(content["result"])
        return 200, json.dumps(content).encode(), {}

    return fault


SPOILT = {
    "twice": lambda logs: [*logs, logs[-1]],
    "out of order": lambda logs: logs[::-1],
    "of another block": lambda logs: [*logs, logs[-1] | {"blockNumber": "0xffffff"}],
    "of another contract": lambda logs: [logs[0] | {"address": "0x" + "11" * 20}, *logs[1:]],
    "withdrawn": lambda logs: [logs[0] | {"removed": True}, *logs[1:]],
    "no list": lambda logs: {"logs": logs},
    "no entries": lambda _: ["0x"],
    "without topics": lambda logs: [{name: value for name, value in logs[0].items() if name != "topics"}],
    "with a number of nonsense": lambda logs: [logs[0] | {"logIndex": "first"}],
    "with data of nonsense": lambda logs: [logs[0] | {"data": "0xabc"}],
}


@pytest.mark.parametrize("change", SPOILT)
def test_logs_that_cannot_be_are_nonsense(market: Market, proxy: ScriptedProxy, client: Node, change: str):
    first, last = supplied(market, 3)
    proxy.always = spoil(SPOILT[change])
    with pytest.raises(NodeNonsense):
        list(client.logs([market.token], first, last))
    proxy.always = None
    assert units_of(list(client.logs([market.token], first, last))) == [1, 1, 2, 1, 3, 1]


def test_a_node_is_asked_through_the_proxy_that_the_environment_names(proxy: ScriptedProxy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "")
    assert Node("http://node.invalid:8545").number("eth_chainId") == 31337
    assert [request["method"] for request in proxy.requests] == ["eth_chainId"]
