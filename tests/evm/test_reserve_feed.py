"""The reserve feed, as DeFi reads it."""

from __future__ import annotations

import pytest
from evm_market import Market, Receipt

from chain_adapters.evm import roles, token_calls
from chain_adapters.evm.codec import encode_call

PUBLISH = "publish(bytes32,uint128,uint64,bytes32)"
LATEST, ROUND = "latestRoundData()", "getRoundData(uint80)"
EVIDENCE = b"\xe1" * 32


@pytest.fixture
def feed(market: Market) -> str:
    return market.feed()


def publish(market: Market, feed: str, shares: int, as_of: int, evidence: bytes = EVIDENCE) -> Receipt:
    return market.send("publisher", feed, encode_call("ReserveFeed", PUBLISH, market.id(), shares, as_of, evidence))


def refused(market: Market, feed: str, *arguments: object, sender: str = "publisher") -> str:
    return market.refusal("ReserveFeed", sender, feed, encode_call("ReserveFeed", PUBLISH, *arguments)).name


def test_a_feed_says_what_it_is(market: Market, feed: str):
    answers = [market.read("ReserveFeed", feed, question) for question in ("description()", "decimals()", "version()")]
    assert answers == ["AAPLx reserve in shares", 8, 1]


def test_an_empty_feed_has_no_answer(market: Market, feed: str):
    for signature, arguments in ((LATEST, ()), (ROUND, (0,)), (ROUND, (1,)), ("evidenceOf(uint80)", (1,))):
        assert market.refusal("ReserveFeed", "alice", feed, encode_call("ReserveFeed", signature, *arguments)).name == "RoundMissing"


def test_rounds_are_as_old_as_their_evidence(market: Market, feed: str):
    old, new = market.node.time() - 7200, market.node.time() - 60
    publish(market, feed, 500, old)
    receipt = publish(market, feed, 400, new, b"\xe2" * 32)
    assert market.read("ReserveFeed", feed, LATEST) == (2, 400, new, new, 2)
    assert market.read("ReserveFeed", feed, ROUND, 1) == (1, 500, old, old, 1)
    assert market.read("ReserveFeed", feed, "evidenceOf(uint80)", 2) == b"\xe2" * 32
    event = receipt.events("ReserveFeed", feed)[-1]
    assert (event.name, event.fields) == ("ReservePublished", {"round": 2, "shares": 400, "asOf": new, "evidence": b"\xe2" * 32})


@pytest.mark.parametrize("shares", [0, 1, 2**128 - 1])
def test_an_answer_is_never_negative(market: Market, feed: str, shares: int):
    publish(market, feed, shares, market.node.time())
    assert market.read("ReserveFeed", feed, LATEST)[1] == shares


def test_evidence_is_of_the_past_and_has_a_digest(market: Market, feed: str):
    now = market.node.time()
    assert refused(market, feed, market.id(), 1, now + 1_000_000, EVIDENCE) == "EvidenceOfTheFuture"
    assert refused(market, feed, market.id(), 1, now, bytes(32)) == "EvidenceMissing"
    publish(market, feed, 1, now - 100)
    publish(market, feed, 2, now - 100)
    assert market.read("ReserveFeed", feed, LATEST)[:2] == (2, 2), "a correction of the same time"
    publish(market, feed, 3, now - 5000)
    assert market.read("ReserveFeed", feed, LATEST) == (3, 3, now - 5000, now - 5000, 3), "with a further, older statement"


def test_a_round_is_written_once_by_the_publisher(market: Market, feed: str):
    instruction, now = market.id(), market.node.time()
    for name in ("admin", "minter", "mallory", "enforcer"):
        assert refused(market, feed, instruction, 1, now, EVIDENCE, sender=name) == "AccessControlUnauthorizedAccount"
    market.send("publisher", feed, encode_call("ReserveFeed", PUBLISH, instruction, 1, now, EVIDENCE))
    assert refused(market, feed, instruction, 1, now, EVIDENCE) == "InstructionTaken"
    cancelled = market.id()
    market.send("publisher", feed, encode_call("ReserveFeed", "cancelInstructions(bytes32,bytes32[])", roles.PUBLISHER, [cancelled]))
    assert refused(market, feed, cancelled, 1, now, EVIDENCE) == "InstructionTaken"


def test_a_feed_does_not_gate_a_mint(market: Market, feed: str):
    publish(market, feed, 0, market.node.time())
    market.do(token_calls.mint(market.lines(("alice", 1))))
