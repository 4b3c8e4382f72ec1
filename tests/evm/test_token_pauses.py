"""Three pauses: what each stops, and what it leaves open."""

from __future__ import annotations

import pytest
from evm_market import MULTIPLIER, Market

from chain_adapters.evm import roles, token_calls
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
    "forced burn": (Pause.BURNS, "forced_burner", lambda m: token_calls.forced_burn(m.id(), m["alice"], 1, b"order").data),
    "forced transfer": (None, "enforcer", lambda m: token_calls.forced_transfer(m.id(), m["alice"], m["bob"], 1, b"order").data),
    "freeze": (None, "enforcer", lambda m: token_calls.freeze_units(m.id(), m["alice"], 1, b"order").data),
    "multiplier": (None, "multiplier", lambda m: token_calls.schedule_multiplier(m.id(), MULTIPLIER, 7, 0, b"split").data),
    "approve": (None, "alice", lambda m: encode_call("StockToken", "approve(address,uint256)", m["bob"], 1)),
}
SETS = [Pause(bits) for bits in range(1, 8)]


@pytest.fixture
def supplied(market: Market) -> Market:
    market.do(token_calls.mint(market.lines(("alice", 10), ("burner", 10))))
    market.as_owner("alice", "approve(address,uint256)", "carol", 5)
    return market


def set_pauses(market: Market, pauses: Pause, sender: str = "pauser", reason: bytes = b"halt"):
    return market.do(token_calls.set_pauses(market.id(), pauses, reason), sender)


@pytest.mark.parametrize("pauses", SETS, ids=str)
def test_a_pause_stops_what_it_says_and_nothing_else(supplied: Market, pauses: Pause):
    set_pauses(supplied, pauses)
    for operation, (stopped_by, sender, call) in MOVING.items():
        if stopped_by is not None and stopped_by in pauses:
            refusal = supplied.refusal("StockToken", sender, supplied.token, call(supplied))
            assert (refusal.name, refusal.fields) == ("OperationPaused", {"operation": int(stopped_by)}), operation
        else:
            with supplied.node.put_back():
                supplied.send(sender, supplied.token, call(supplied))


@pytest.mark.parametrize("after", [Pause(0), *SETS], ids=str)
@pytest.mark.parametrize("before", [Pause(0), *SETS], ids=str)
def test_beginning_and_ending_take_different_roles(market: Market, before: Pause, after: Pause):
    """All 64 steps: who only begins may begin, who only ends may end, and a step that does both takes both."""
    if before:
        set_pauses(market, before)
    begins, ends = bool(after & ~before), bool(before & ~after)
    call = token_calls.set_pauses(market.id(), after, b"change")
    allowed = {"pauser": not ends, "unpauser": ends and not begins, "enforcer": False, "admin": False}
    for name, may in allowed.items():
        if not may:
            assert market.refused(call, name) == "AccessControlUnauthorizedAccount", name
    if begins and ends:
        market.as_owner("admin", "grantRole(bytes32,address)", roles.UNPAUSER, "pauser")
    market.do(call, "unpauser" if ends and not begins else "pauser")
    assert market.ask("pauses()") == after
    assert market.ask("paused()") is (Pause.TRANSFERS in after)
    if not (ends and not begins):
        assert market.refused(call) == "InstructionTaken"


def test_a_late_copy_begins_and_ends_nothing(market: Market):
    call = token_calls.set_pauses(market.id(), Pause.TRANSFERS, b"halt")
    market.do(call)
    set_pauses(market, Pause(0), "unpauser")
    assert market.refused(call) == "InstructionTaken"
    end = token_calls.set_pauses(market.id(), Pause(0), b"over")
    set_pauses(market, Pause.TRANSFERS)
    market.do(end, "unpauser")
    set_pauses(market, Pause.TRANSFERS)
    assert market.refused(end, "unpauser") == "InstructionTaken"


def test_a_pause_names_operations_that_are_and_says_why(market: Market):
    assert market.refused(token_calls.set_pauses(market.id(), 8, b"halt")) == "OperationsOutOfRange"
    assert market.refused(token_calls.set_pauses(market.id(), Pause.MINTS, b"")) == "ReasonMissing"


def test_a_view_knows_the_pause_of_transfers(supplied: Market):
    question = ("canTransfer(address,address,uint256)", "alice", "bob", 1)
    assert supplied.ask(*question) is True
    set_pauses(supplied, Pause.MINTS | Pause.BURNS)
    assert supplied.ask(*question) is True
    set_pauses(supplied, Pause(7))
    assert supplied.ask(*question) is False
    assert supplied.ask("canSend(address)", "alice") is True, "a pause is nobody's in particular"


def test_pauses_can_be_rebuilt_from_the_log_and_are_seen_by_other_tools(market: Market):
    began = set_pauses(market, Pause.TRANSFERS | Pause.BURNS)
    over = set_pauses(market, Pause.BURNS, "unpauser")
    same = set_pauses(market, Pause.BURNS)
    names = [receipt.names("StockToken", market.token) for receipt in (began, over, same)]
    assert names == [["InstructionExecuted", "PausesSet", *more] for more in (["Paused"], ["Unpaused"], [])]
    facts = [fact.paused for fact in market.all_facts() if isinstance(fact, PausesSet)]
    assert facts == [Pause.TRANSFERS | Pause.BURNS, Pause.BURNS, Pause.BURNS]
