"""Three pauses: what each stops, and what it leaves open."""

from __future__ import annotations

import itertools

import pytest
from evm_market import MULTIPLIER, Market

from chain_adapters.evm import token_calls
from chain_adapters.evm.codec import encode_call
from chain_adapters.evm.token_calls import Pause
from chain_adapters.evm.token_events import PausesSet

# What moves units: (which pause stops it, who does it, the call). None: nothing does.
MOVING = {
    "transfer": (Pause.TRANSFERS, "alice", lambda m: encode_call("StockToken", "transfer(address,uint256)", m["bob"], 1)),
    "transfer from": (
        Pause.TRANSFERS,
        "carol",
        lambda m: encode_call("StockToken", "transferFrom(address,address,uint256)", m["alice"], m["bob"], 1),
    ),
    "mint": (Pause.MINTS, "minter", lambda m: token_calls.mint(m.lines(("alice", 1))).data),
    "mint batch": (Pause.MINTS, "minter", lambda m: token_calls.mint(m.lines(("alice", 1), ("bob", 1))).data),
    "bridge mint": (Pause.MINTS, "bridge", lambda m: encode_call("StockToken", "crosschainMint(address,uint256)", m["alice"], 1)),
    "burn": (Pause.BURNS, "burner", lambda m: token_calls.burn(m.lines(("burner", 1))).data),
    "burn batch": (Pause.BURNS, "burner", lambda m: token_calls.burn(m.lines(("burner", 1), ("burner", 1))).data),
    "bridge burn": (Pause.BURNS, "bridge", lambda m: encode_call("StockToken", "crosschainBurn(address,uint256)", m["alice"], 1)),
    "forced burn": (Pause.BURNS, "enforcer", lambda m: token_calls.forced_burn(m.id(), m["alice"], 1, b"order").data),
    "forced transfer": (None, "enforcer", lambda m: token_calls.forced_transfer(m.id(), m["alice"], m["bob"], 1, b"order").data),
    "freeze": (None, "enforcer", lambda m: token_calls.freeze(m.id(), m["alice"], 1, b"order").data),
    "multiplier": (None, "multiplier", lambda m: token_calls.schedule_multiplier(m.id(), MULTIPLIER, 7, 0, b"split").data),
    "approve": (None, "alice", lambda m: encode_call("StockToken", "approve(address,uint256)", m["bob"], 1)),
}
SETS = [Pause(bits) for bits in range(1, 8)]


@pytest.fixture
def supplied(market: Market) -> Market:
    market.do(token_calls.mint(market.lines(("alice", 10), ("burner", 10))))
    market.as_owner("alice", "approve(address,uint256)", "carol", 5)
    return market


@pytest.mark.parametrize("pauses", SETS, ids=str)
def test_a_pause_stops_what_it_says_and_nothing_else(supplied: Market, pauses: Pause):
    supplied.do(token_calls.pause(supplied.id(), pauses, b"halt"))
    for operation, (stopped_by, sender, call) in MOVING.items():
        if stopped_by in pauses if stopped_by else False:
            refusal = supplied.refusal("StockToken", sender, supplied.token, call(supplied))
            assert (refusal.name, refusal.fields) == ("OperationPaused", {"operation": int(stopped_by)}), operation
        else:
            snapshot = supplied.node.call("evm_snapshot")
            supplied.send(sender, supplied.token, call(supplied))
            supplied.node.call("evm_revert", snapshot)


@pytest.mark.parametrize("pauses", SETS, ids=str)
def test_the_end_of_a_pause_ends_only_it(supplied: Market, pauses: Pause):
    supplied.do(token_calls.pause(supplied.id(), Pause(7), b"halt"))
    supplied.do(token_calls.unpause(supplied.id(), pauses, b"over"))
    assert supplied.ask("pauses()") == 7 & ~pauses
    assert supplied.ask("paused()") is (Pause.TRANSFERS not in pauses)


def test_pausing_twice_and_ending_what_is_not_paused_change_nothing_else(market: Market):
    market.do(token_calls.pause(market.id(), Pause.MINTS, b"one"))
    again = market.do(token_calls.pause(market.id(), Pause.MINTS, b"two"))
    market.do(token_calls.unpause(market.id(), Pause.BURNS, b"three"))
    assert market.ask("pauses()") == Pause.MINTS
    assert again.names("StockToken", market.token) == ["InstructionExecuted", "PausesSet"]


def test_a_pause_names_something_and_says_why(market: Market):
    for call in (token_calls.pause, token_calls.unpause):
        assert market.refused(call(market.id(), Pause(0), b"halt")) == "OperationsOutOfRange"
        assert market.refused(call(market.id(), 8, b"halt")) == "OperationsOutOfRange"
        assert market.refused(call(market.id(), Pause.MINTS, b"")) == "ReasonMissing"


def test_a_view_knows_the_pause_of_transfers(supplied: Market):
    question = ("canTransfer(address,address,uint256)", "alice", "bob", 1)
    assert supplied.ask(*question) is True
    supplied.do(token_calls.pause(supplied.id(), Pause.MINTS | Pause.BURNS, b"halt"))
    assert supplied.ask(*question) is True
    supplied.do(token_calls.pause(supplied.id(), Pause.TRANSFERS, b"halt"))
    assert supplied.ask(*question) is False
    assert supplied.ask("canSend(address)", "alice") is True, "a pause is nobody's in particular"


def test_pauses_can_be_rebuilt_from_the_log_and_are_seen_by_other_tools(market: Market):
    paused = market.do(token_calls.pause(market.id(), Pause.TRANSFERS | Pause.BURNS, b"halt"))
    over = market.do(token_calls.unpause(market.id(), Pause.TRANSFERS, b"over"))
    assert paused.names("StockToken", market.token)[-1] == "Paused"
    assert over.names("StockToken", market.token)[-1] == "Unpaused"
    facts = [fact.paused for fact in market.all_facts() if isinstance(fact, PausesSet)]
    assert facts == [Pause.TRANSFERS | Pause.BURNS, Pause.BURNS]
    assert list(itertools.islice(reversed(facts), 1)) == [Pause(market.ask("pauses()"))]
