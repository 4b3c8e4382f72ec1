"""Mint and burn as the ledger's instructions: each once, up to the allotment, all or none."""

from __future__ import annotations

import pytest
from evm_market import ALLOTMENT, Market, Refused

from chain_adapters.evm import roles, token_calls
from chain_adapters.evm.codec import encode_call
from chain_adapters.evm.token_calls import Line
from chain_adapters.evm.token_events import InstructionDead, InstructionDone, Moved, effects_by_instruction


def test_a_mint_says_its_instruction_and_then_what_moved(market: Market):
    line = Line(market.id(), market["alice"], 150)
    facts = market.facts(market.do(token_calls.mint([line])))
    assert [type(fact) for fact in facts] == [InstructionDone, Moved]
    assert facts[0].instruction == line.instruction
    assert facts[0].role == roles.MINTER
    assert facts[1] == Moved("", market["alice"], 150)
    assert (market.units("alice"), market.supply()) == (150, 150)


def test_an_instruction_is_carried_out_once(market: Market):
    call = token_calls.mint(market.lines(("alice", 150)))
    market.do(call)
    assert market.refused(call) == "InstructionTaken"
    with pytest.raises(Refused):
        market.do(call)
    assert market.supply() == 150
    market.do(token_calls.mint(market.lines(("alice", 150))))
    assert market.supply() == 300


def test_a_repeat_is_refused_whatever_else_it_says(market: Market):
    line = Line(market.id(), market["alice"], 150)
    market.do(token_calls.mint([line]))
    assert market.refused(token_calls.mint([line._replace(account=market["bob"], units=1)])) == "InstructionTaken"
    assert market.refused(token_calls.mint([*market.lines(("bob", 1)), line])) == "InstructionTaken"
    assert market.refused(token_calls.mint([market.lines(("bob", 1))[0]] * 2)) == "InstructionTaken", "twice in one batch"


def test_an_id_is_taken_for_one_role_only(market: Market):
    line = Line(market.id(), market["burner"], 150)
    market.do(token_calls.mint([line]))
    market.do(token_calls.burn([line]))
    assert market.supply() == 0
    assert market.refused(token_calls.burn([line])) == "InstructionTaken"


@pytest.mark.parametrize("number", [1, 255, 256, 257, 2**255, 2**256 - 1])
def test_ids_that_share_a_word_do_not_share_a_bit(market: Market, number: int):
    market.do(token_calls.mint([Line(number.to_bytes(32), market["alice"], 1)]))
    for other in (number ^ 1, number ^ 0x80, number ^ 0x100, number ^ 2**254):
        taken = market.ask("instructionTaken(bytes32,bytes32)", roles.MINTER, other.to_bytes(32))
        assert taken is False
    assert market.ask("instructionTaken(bytes32,bytes32)", roles.MINTER, number.to_bytes(32)) is True


def test_zero_is_no_id(market: Market):
    assert market.refused(token_calls.mint([Line(bytes(32), market["alice"], 1)])) == "InstructionMissing"


def test_a_cancelled_instruction_can_never_land(market: Market):
    line = Line(market.id(), market["alice"], 150)
    facts = market.facts(market.do(token_calls.cancel(roles.MINTER, [line.instruction]), "minter"))
    assert facts == [InstructionDead(line.instruction, roles.MINTER)]
    assert market.refused(token_calls.mint([line])) == "InstructionTaken"
    assert market.supply() == 0


def test_what_has_landed_cannot_be_cancelled(market: Market):
    done, open_ = market.lines(("alice", 150), ("bob", 150))
    market.do(token_calls.mint([done]))
    assert market.refused(token_calls.cancel(roles.MINTER, [open_.instruction, done.instruction])) == "InstructionTaken"
    market.do(token_calls.mint([open_]))


def test_nobody_cancels_for_another_role(market: Market):
    ids = [market.id()]
    for sender in ("minter", "alice", "admin", "burner"):
        assert market.refused(token_calls.cancel(roles.ENFORCER, ids), sender) == "AccessControlUnauthorizedAccount"
    market.do(token_calls.cancel(roles.ENFORCER, ids))


def test_a_batch_of_mints_is_all_or_none(market: Market):
    lines = market.lines(("alice", 1), ("bob", 2), ("alice", 3))
    facts = market.facts(market.do(token_calls.mint(lines)))
    groups = effects_by_instruction(facts)
    assert [(done.instruction, effects) for done, effects in groups] == [
        (line.instruction, [Moved("", line.account, line.units)]) for line in lines
    ]
    assert (market.units("alice"), market.units("bob"), market.supply()) == (4, 2, 6)
    broken = market.lines(("alice", 1), ("bob", ALLOTMENT))
    assert market.refused(token_calls.mint(broken)) == "AllotmentExceeded"
    assert market.supply() == 6


def test_a_batch_has_lines_and_each_has_units(market: Market):
    for verb, sender in (("mint", "minter"), ("burn", "burner")):
        empty = encode_call("StockToken", f"{verb}Batch((bytes32,address,uint256)[])", [])
        assert market.refusal("StockToken", sender, market.token, empty).name == "LinesMissing"
        assert market.refused(getattr(token_calls, verb)(market.lines(("burner", 0)))) == "UnitsNotPositive"
        assert market.refused(getattr(token_calls, verb)(market.lines(("burner", 1), ("burner", 0)))) != "LinesMissing"


def test_mints_stop_at_the_allotment(market: Market):
    assert market.refused(token_calls.mint(market.lines(("alice", ALLOTMENT + 1)))) == "AllotmentExceeded"
    assert market.refused(token_calls.mint(market.lines(("alice", 2**256 - 1)))) == "AllotmentExceeded"
    market.do(token_calls.mint(market.lines(("alice", ALLOTMENT))))
    assert market.refused(token_calls.mint(market.lines(("alice", 1)))) == "AllotmentExceeded"
    refusal = market.owner_refused("bridge", "crosschainMint(address,uint256)", "alice", 1)
    assert refusal.fields == {"units": 1, "supply": ALLOTMENT, "allotment": ALLOTMENT}
    assert "More units would exist" in str(refusal)


def test_what_was_burned_may_be_minted_again(market: Market):
    market.do(token_calls.mint(market.lines(("burner", ALLOTMENT))))
    market.do(token_calls.burn(market.lines(("burner", 10))))
    market.do(token_calls.mint(market.lines(("alice", 10))))
    assert market.refused(token_calls.mint(market.lines(("alice", 1)))) == "AllotmentExceeded"


def test_an_allotment_below_supply_stops_mints_and_takes_nothing(market: Market):
    market.do(token_calls.mint(market.lines(("burner", 100))))
    market.do(token_calls.set_allotment(market.id(), 40))
    assert market.supply() == 100
    assert market.refused(token_calls.mint(market.lines(("alice", 1)))) == "AllotmentExceeded"
    market.do(token_calls.burn(market.lines(("burner", 70))))
    assert market.refused(token_calls.mint(market.lines(("alice", 11)))) == "AllotmentExceeded"
    market.do(token_calls.mint(market.lines(("alice", 10))))
    assert market.ask("allotment()") == market.supply() == 40


def test_the_burner_burns_its_own_and_what_was_approved(market: Market):
    market.do(token_calls.mint(market.lines(("alice", 100), ("burner", 100))))
    market.do(token_calls.burn(market.lines(("burner", 60))))
    assert market.refused(token_calls.burn(market.lines(("alice", 1)))) == "ERC20InsufficientAllowance"
    market.as_owner("alice", "approve(address,uint256)", "burner", 30)
    assert market.refused(token_calls.burn(market.lines(("alice", 31)))) == "ERC20InsufficientAllowance"
    market.do(token_calls.burn(market.lines(("alice", 10), ("burner", 40), ("alice", 20))))
    assert (market.units("alice"), market.units("burner"), market.supply()) == (70, 0, 70)
    assert market.refused(token_calls.burn(market.lines(("alice", 1)))) == "ERC20InsufficientAllowance"
    assert market.refused(token_calls.burn(market.lines(("burner", 1)))) == "ERC20InsufficientBalance"


def test_a_bridge_mints_and_burns(market: Market):
    minted = market.as_owner("bridge", "crosschainMint(address,uint256)", "alice", 70)
    assert minted.names("StockToken", market.token) == ["Transfer", "CrosschainMint"]
    burned = market.as_owner("bridge", "crosschainBurn(address,uint256)", "alice", 30)
    assert burned.names("StockToken", market.token) == ["Transfer", "CrosschainBurn"]
    assert (market.units("alice"), market.supply()) == (40, 40)
    assert effects_by_instruction(market.facts(burned)) == [(None, [Moved(market["alice"], "", 30)])], "not ours"


def test_a_token_is_set_up_once(market: Market):
    terms = ("Other", "O", 8, 1, 1, 0, market["mallory"], [])
    signature = "initialize((string,string,uint8,uint256,uint256,uint48,address,(bytes32,address)[]))"
    data = encode_call("StockToken", signature, terms)
    assert market.refusal("StockToken", "mallory", market.token, data).name == "InvalidInitialization"
    assert market.refusal("StockToken", "mallory", market.plan.code, data).name == "InvalidInitialization", "nor the code behind it"
