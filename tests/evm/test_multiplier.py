"""The multiplier: raw units never change, a step takes effect at its second, and no step is lost."""

from __future__ import annotations

import pytest
from evm_market import E18, MULTIPLIER, Market

from chain_adapters.evm import token_calls
from chain_adapters.evm.token_events import MultiplierSet

SPLIT = 3 * E18


@pytest.fixture
def supplied(market: Market) -> Market:
    market.do(token_calls.mint(market.lines(("alice", 101))))
    return market


def schedule(market: Market, expected: int, multiplier: int, seconds: int, reason: bytes = b"split 2:1") -> token_calls.Call:
    return token_calls.schedule_multiplier(market.id(), expected, multiplier, seconds, reason)


def shown(market: Market) -> tuple[int, int, int]:
    return market.ask("uiMultiplier()"), market.ask("newUIMultiplier()"), market.ask("effectiveAt()")


def test_a_token_starts_with_its_multiplier(supplied: Market):
    assert shown(supplied)[:2] == (MULTIPLIER, MULTIPLIER)
    assert supplied.units("alice") == supplied.supply() == 101
    assert supplied.ask("balanceOfUI(address)", "alice") == 151, "floor of 151.5"
    assert supplied.ask("totalSupplyUI()") == 151
    assert supplied.ask("toUIAmount(uint256)", 1) == 1
    assert supplied.ask("fromUIAmount(uint256)", 151) == 100, "floor of 100.67"


@pytest.mark.parametrize(("seconds_after", "in_force"), [(-1, MULTIPLIER), (0, SPLIT), (1, SPLIT)])
def test_a_step_takes_effect_at_its_second(supplied: Market, seconds_after: int, in_force: int):
    at = supplied.node.time() + 1000
    supplied.do(schedule(supplied, MULTIPLIER, SPLIT, at))
    assert shown(supplied) == (MULTIPLIER, SPLIT, at)
    supplied.node.mine_at(at + seconds_after)
    assert shown(supplied) == (in_force, SPLIT, at)
    assert supplied.ask("balanceOfUI(address)", "alice") == 101 * in_force // E18
    assert supplied.units("alice") == 101, "the ERC-20 surface is raw"


def test_a_second_step_in_the_very_second_of_the_first_loses_nothing(supplied: Market):
    """The reference code of ERC-8056 promotes at `now > effectiveAt`, and loses the step that has just become active."""
    at = supplied.node.time() + 1000
    supplied.do(schedule(supplied, MULTIPLIER, SPLIT, at))
    supplied.node.call("evm_setNextBlockTimestamp", at)
    facts = supplied.facts(supplied.do(schedule(supplied, SPLIT, 4 * E18, at + 500)))
    assert supplied.node.time() == at
    assert facts[1] == MultiplierSet(SPLIT, 4 * E18, at + 500)
    assert shown(supplied) == (SPLIT, 4 * E18, at + 500)
    supplied.node.mine_at(at + 500)
    assert shown(supplied)[0] == 4 * E18


def test_a_step_to_come_can_be_overridden_accelerated_and_called_off(supplied: Market):
    now = supplied.node.time()
    supplied.do(schedule(supplied, MULTIPLIER, SPLIT, now + 10_000))
    supplied.do(schedule(supplied, SPLIT, 4 * E18, now + 10_000))
    assert shown(supplied) == (MULTIPLIER, 4 * E18, now + 10_000), "overridden: the first never comes"
    supplied.do(schedule(supplied, 4 * E18, 4 * E18, now + 500))
    assert shown(supplied) == (MULTIPLIER, 4 * E18, now + 500), "accelerated"
    supplied.do(schedule(supplied, 4 * E18, MULTIPLIER, 0))
    supplied.node.mine_at(now + 20_000)
    assert shown(supplied)[:2] == (MULTIPLIER, MULTIPLIER), "called off"


@pytest.mark.parametrize("seconds", [0, 1, 1_799_999_999])
def test_a_time_that_has_passed_means_the_block(supplied: Market, seconds: int):
    facts = supplied.facts(supplied.do(schedule(supplied, MULTIPLIER, SPLIT, seconds)))
    now = supplied.node.time()
    assert facts[1] == MultiplierSet(MULTIPLIER, SPLIT, now), "the event tells when it really took effect"
    assert shown(supplied) == (SPLIT, SPLIT, now)


def test_nobodys_step_is_overlooked(supplied: Market):
    at = supplied.node.time() + 1000
    supplied.do(schedule(supplied, MULTIPLIER, SPLIT, at))
    assert supplied.refused(schedule(supplied, MULTIPLIER, 4 * E18, at)) == "MultiplierUnexpected", "a step to come counts"
    supplied.node.mine_at(at)
    assert supplied.refused(schedule(supplied, MULTIPLIER, 4 * E18, at)) == "MultiplierUnexpected"
    supplied.do(schedule(supplied, SPLIT, 4 * E18, at))


def test_a_late_copy_changes_nothing(supplied: Market):
    call = schedule(supplied, MULTIPLIER, SPLIT, 0)
    supplied.do(call)
    supplied.do(schedule(supplied, SPLIT, MULTIPLIER, 0))
    assert supplied.refused(call) == "InstructionTaken"


@pytest.mark.parametrize("multiplier", [0, 2**128])
def test_a_multiplier_is_positive_and_of_128_bits(supplied: Market, multiplier: int):
    assert supplied.refused(schedule(supplied, MULTIPLIER, multiplier, 0)) == "MultiplierOutOfRange"


@pytest.mark.parametrize("multiplier", [1, 2**128 - 1])
def test_the_extremes_work(supplied: Market, multiplier: int):
    supplied.do(schedule(supplied, MULTIPLIER, multiplier, 0))
    assert supplied.ask("balanceOfUI(address)", "alice") == 101 * multiplier // E18
    assert supplied.ask("toUIAmount(uint256)", 2**128) == 2**128 * multiplier // E18


def test_a_step_has_a_reason(supplied: Market):
    assert supplied.refused(schedule(supplied, MULTIPLIER, SPLIT, 0, b"")) == "ReasonMissing"


def test_one_unit_moves_as_one_unit_at_any_multiplier(supplied: Market):
    supplied.do(schedule(supplied, MULTIPLIER, 333_333_333_333_333_333, 0))
    supplied.as_owner("alice", "transfer(address,uint256)", "bob", 1)
    assert (supplied.units("alice"), supplied.units("bob")) == (100, 1)
    assert supplied.ask("balanceOfUI(address)", "bob") == 0, "shown is less than one, and nothing is lost"


def test_more_units_than_a_double_can_count(supplied: Market):
    supplied.do(token_calls.set_allotment(supplied.id(), 2**63 - 1))
    supplied.do(token_calls.mint(supplied.lines(("bob", 2**53 + 1))))
    assert supplied.ask("balanceOfUI(address)", "bob") == (2**53 + 1) * MULTIPLIER // E18


def test_the_multiplier_at_any_time_can_be_rebuilt_from_the_log(supplied: Market):
    start = supplied.node.time()
    supplied.do(schedule(supplied, MULTIPLIER, SPLIT, start + 100))
    supplied.node.mine_at(start + 200)
    supplied.do(schedule(supplied, SPLIT, 7 * E18, start + 10_000))
    supplied.do(schedule(supplied, 7 * E18, 5 * E18, start + 300))
    facts = [fact for fact in supplied.all_facts() if isinstance(fact, MultiplierSet)]
    assert [fact.old for fact in facts] == [0, MULTIPLIER, SPLIT, SPLIT]

    def in_force(seconds: int) -> int:
        found = 0
        for fact in facts:
            found = fact.new if fact.effective_time_seconds <= seconds else fact.old
        return found

    assert in_force(start + 299) == SPLIT
    supplied.node.mine_at(start + 300)
    assert in_force(start + 300) == supplied.ask("uiMultiplier()") == 5 * E18
