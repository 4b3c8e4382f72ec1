"""Freezes and forced movements: past the owner's will, never without a reason, never of more than there is."""

from __future__ import annotations

import pytest
from eth_abi.abi import encode
from evm_market import Market

from chain_adapters.evm import token_calls
from chain_adapters.evm.codec import encode_call
from chain_adapters.evm.token_calls import WHOLE_ACCOUNT
from chain_adapters.evm.token_events import FreezeSet, InstructionDone, Moved, Reasoned, effects_by_instruction

FORCED = "forcedTransfer(address,address,uint256)"
SET_FROZEN = "setFrozenTokens(address,uint256)"
TRANSFER = "transfer(address,uint256)"
UNITS_MAX = 2**248 - 1


@pytest.fixture
def supplied(market: Market) -> Market:
    market.do(token_calls.mint(market.lines(("alice", 100))))
    return market


def freeze(market: Market, units: int, reason: bytes = b"order 7 of the court of X") -> token_calls.Call:
    return token_calls.freeze_units(market.id(), market["alice"], units, reason)


def freeze_account(market: Market, frozen: bool, reason: bytes = b"order 7 of the court of X") -> token_calls.Call:
    return token_calls.freeze_account(market.id(), market["alice"], frozen, reason)


def frozen(market: Market) -> int:
    return int(market.ask("getFrozenTokens(address)", "alice"))


# frozen units: how many of 100 can still go.
@pytest.mark.parametrize(("units", "movable"), [(0, 100), (1, 99), (60, 40), (100, 0), (150, 0), (UNITS_MAX, 0), (WHOLE_ACCOUNT, 0)])
def test_frozen_units_do_not_leave(supplied: Market, units: int, movable: int):
    supplied.do(freeze_account(supplied, True) if units == WHOLE_ACCOUNT else freeze(supplied, units))
    assert frozen(supplied) == units
    assert supplied.ask("canTransfer(address,address,uint256)", "alice", "bob", movable) is True
    assert supplied.ask("canTransfer(address,address,uint256)", "alice", "bob", movable + 1) is False
    if movable < 100:
        for sender, signature, arguments in (
            ("alice", TRANSFER, ("bob", movable + 1)),
            ("bridge", "crosschainBurn(address,uint256)", ("alice", movable + 1)),
        ):
            refusal = supplied.owner_refused(sender, signature, *arguments)
            assert (refusal.name, refusal.fields["unfrozen"]) == ("ERC7943InsufficientUnfrozenBalance", movable)
    supplied.as_owner("alice", TRANSFER, "bob", movable)
    assert supplied.units("bob") == movable


def test_an_account_and_units_of_it_are_frozen_beside_each_other(supplied: Market):
    alice = supplied["alice"]
    supplied.do(freeze(supplied, 60))
    facts = supplied.facts(supplied.do(freeze_account(supplied, True)))
    assert facts[1:] == [FreezeSet(alice, whole=True, units=60)]
    assert (frozen(supplied), supplied.ask("freezeOf(address)", "alice")) == (WHOLE_ACCOUNT, (True, 60))
    supplied.do(freeze(supplied, 70))
    assert supplied.owner_refused("alice", TRANSFER, "bob", 1).fields["unfrozen"] == 0
    facts = supplied.facts(supplied.do(freeze_account(supplied, False)))
    assert facts[1:] == [FreezeSet(alice, whole=False, units=70)]
    assert supplied.owner_refused("alice", TRANSFER, "bob", 31).fields["unfrozen"] == 30
    supplied.as_owner("alice", TRANSFER, "bob", 30)


def test_more_than_can_be_counted_is_not_frozen(supplied: Market):
    assert supplied.refused(freeze(supplied, UNITS_MAX + 1)) == "FrozenUnitsOutOfRange"


def test_units_that_are_not_there_are_missing_and_not_frozen(supplied: Market):
    supplied.do(freeze(supplied, 60))
    assert supplied.owner_refused("alice", TRANSFER, "bob", 101).name == "ERC20InsufficientBalance"


def test_a_whole_account_is_frozen_ahead_of_what_arrives(supplied: Market):
    supplied.do(freeze_account(supplied, True))
    supplied.do(token_calls.mint(supplied.lines(("alice", 50))))
    assert supplied.owner_refused("alice", TRANSFER, "bob", 1).name == "ERC7943InsufficientUnfrozenBalance"
    supplied.do(freeze_account(supplied, False))
    supplied.as_owner("alice", TRANSFER, "bob", 150)


# frozen before, units taken: frozen after. What is not frozen goes first; what was frozen ahead stays frozen.
@pytest.mark.parametrize(
    ("before", "taken", "after"),
    [(0, 100, 0), (60, 40, 60), (60, 41, 59), (60, 100, 0), (100, 30, 70), (150, 100, 50), (UNITS_MAX, 100, UNITS_MAX - 100)],
)
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("verb", ["transfer", "burn"])
def test_an_enforcement_takes_frozen_units_last(supplied: Market, verb: str, whole: bool, before: int, taken: int, after: int):  # noqa: PLR0917
    supplied.do(freeze(supplied, before))
    if whole:
        supplied.do(freeze_account(supplied, True))
    id_, alice, bob = supplied.id(), supplied["alice"], supplied["bob"]
    if verb == "transfer":
        call = token_calls.forced_transfer(id_, alice, bob, taken, b"order 8")
        moved = Moved(alice, bob, taken)
    else:
        call = token_calls.forced_burn(id_, alice, taken, b"order 8")
        moved = Moved(alice, "", taken)
    facts = supplied.facts(supplied.do(call))
    thawed = [FreezeSet(alice, whole, after)] if after != before else []
    assert facts[1:] == [*thawed, moved], "first what is thawed, then what moves (ERC-7943)"
    assert isinstance(facts[0], InstructionDone)
    assert (facts[0].instruction, facts[0].reason) == (id_, b"order 8")
    assert (supplied.units("alice"), supplied.ask("freezeOf(address)", "alice")) == (100 - taken, (whole, after))
    assert supplied.supply() == (100 if verb == "transfer" else 100 - taken)
    assert supplied.refused(call) == "InstructionTaken"


def test_an_enforcement_takes_what_is_there_to_somebody(supplied: Market):
    def refused(source: str, destination: str, units: int) -> str:
        return supplied.refused(token_calls.forced_transfer(supplied.id(), supplied[source], supplied[destination], units, b"order"))

    zero = "0x" + "0" * 40
    assert refused("alice", "bob", 101) == "ERC20InsufficientBalance"
    assert refused("alice", "bob", 0) == "UnitsNotPositive"
    assert refused("alice", zero, 1) == "ERC20InvalidReceiver"
    assert refused(zero, "bob", 1) == "ERC20InvalidSender"
    assert supplied.refused(token_calls.forced_burn(supplied.id(), supplied["alice"], 101, b"order")) == "ERC20InsufficientBalance"
    assert supplied.refused(token_calls.forced_burn(supplied.id(), supplied["alice"], 0, b"order")) == "UnitsNotPositive"
    supplied.do(token_calls.forced_transfer(supplied.id(), supplied["alice"], supplied["alice"], 100, b"to himself"))
    assert supplied.units("alice") == 100


def test_no_enforcement_is_without_a_reason(supplied: Market):
    alice, bob = supplied["alice"], supplied["bob"]
    assert supplied.refused(freeze(supplied, 1, b"")) == "ReasonMissing"
    assert supplied.refused(freeze_account(supplied, True, b"")) == "ReasonMissing"
    assert supplied.refused(token_calls.forced_transfer(supplied.id(), alice, bob, 1, b"")) == "ReasonMissing"
    assert supplied.refused(token_calls.forced_burn(supplied.id(), alice, 1, b"")) == "ReasonMissing"
    assert supplied.owner_refused("enforcer", FORCED, "alice", "bob", 1).name == "ReasonMissing"
    assert supplied.owner_refused("enforcer", SET_FROZEN, "alice", 1).name == "ReasonMissing"
    assert supplied.owner_refused("enforcer", "giveReason(bytes)", b"").name == "ReasonMissing"


def multicall(*calls: bytes) -> bytes:
    return encode_call("StockToken", "multicall(bytes[])", list(calls))


def standard(market: Market, signature: str, *arguments: object) -> bytes:
    return encode_call("StockToken", signature, *(market[value] if isinstance(value, str) else value for value in arguments))


def test_the_standards_own_form_works_with_a_reason_before_it(supplied: Market):
    reason = standard(supplied, "giveReason(bytes)", b"order 9")
    both = multicall(reason, standard(supplied, SET_FROZEN, "alice", 90), reason, standard(supplied, FORCED, "alice", "bob", 30))
    facts = supplied.facts(supplied.send("enforcer", supplied.token, both))
    alice, bob = supplied["alice"], supplied["bob"]
    ninety, seventy = FreezeSet(alice, whole=False, units=90), FreezeSet(alice, whole=False, units=70)
    assert facts == [Reasoned(b"order 9"), ninety, Reasoned(b"order 9"), seventy, Moved(alice, bob, 30)]
    assert [done for done, _ in effects_by_instruction(facts)] == [None, None]


def test_the_standards_own_form_freezes_accounts_too(supplied: Market):
    reason = standard(supplied, "giveReason(bytes)", b"order 9")

    def set_frozen(units: int) -> None:
        supplied.send("enforcer", supplied.token, multicall(reason, standard(supplied, SET_FROZEN, "alice", units)))

    set_frozen(90)
    for units in (UNITS_MAX + 1, WHOLE_ACCOUNT):
        set_frozen(units)
        assert (frozen(supplied), supplied.ask("freezeOf(address)", "alice")) == (WHOLE_ACCOUNT, (True, 90))
    set_frozen(0)
    assert (frozen(supplied), supplied.ask("freezeOf(address)", "alice")) == (0, (False, 0))


def test_a_reason_serves_once_and_not_in_another_transaction(supplied: Market):
    reason, take = standard(supplied, "giveReason(bytes)", b"order 9"), standard(supplied, FORCED, "alice", "bob", 1)
    assert supplied.refusal("StockToken", "enforcer", supplied.token, multicall(reason, take, take)).name == "ReasonMissing"
    supplied.send("enforcer", supplied.token, reason)
    assert supplied.owner_refused("enforcer", FORCED, "alice", "bob", 1).name == "ReasonMissing"


def test_a_batch_of_calls_gives_nobody_a_right(supplied: Market):
    for inner in (
        token_calls.mint(supplied.lines(("mallory", 1))).data,
        freeze(supplied, 1).data,
        standard(supplied, "giveReason(bytes)", b"x"),
    ):
        assert supplied.refusal("StockToken", "mallory", supplied.token, multicall(inner)).name == "AccessControlUnauthorizedAccount"


def test_views_answer_for_whatever_they_are_asked(supplied: Market):
    zero = "0x" + "0" * 40
    assert supplied.ask("canSend(address)", zero) is False
    assert supplied.ask("canReceive(address)", zero) is False
    assert supplied.ask("canTransfer(address,address,uint256)", "mallory", "bob", 1) is False, "who has nothing"
    assert supplied.ask("canTransfer(address,address,uint256)", "alice", zero, 1) is False
    assert supplied.ask("canTransfer(address,address,uint256)", "alice", "bob", 2**256 - 1) is False
    assert supplied.ask("getFrozenTokens(address)", zero) == 0


def test_what_announces_an_instruction_cannot_be_forged(supplied: Market):
    data = encode(["bytes32"], [supplied.id()])
    transfer = standard(supplied, TRANSFER, "bob", 1) + data  # bytes after the arguments are nobody's instruction
    facts = supplied.facts(supplied.send("alice", supplied.token, transfer))
    assert facts == [Moved(supplied["alice"], supplied["bob"], 1)]
