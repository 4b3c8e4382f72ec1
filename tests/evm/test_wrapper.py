"""The ERC-4626 wrapper: its unit never rebases, rounding never favours who asks, and the token's rules hold in it."""

from __future__ import annotations

from typing import Any

import pytest
from evm_market import E18, MULTIPLIER, Market, Receipt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chain_adapters.evm import token_calls
from chain_adapters.evm.codec import ContractRefusal, encode_call
from chain_adapters.evm.token_calls import Pause

VIRTUAL = 10**6
DEPOSIT, WITHDRAW, REDEEM = "deposit(uint256,address)", "withdraw(uint256,address,address)", "redeem(uint256,address,address)"
MINT, TRANSFER = "mint(uint256,address)", "transfer(address,uint256)"
FORCED = "forcedTransfer(address,address,uint256,bytes)"


class Wrapper:
    def __init__(self, market: Market) -> None:
        self.market = market
        self.address = market.wrapper()

    def data(self, signature: str, *arguments: Any) -> bytes:
        return encode_call(
            "WrappedStock",
            signature,
            *(self.market.addresses.get(value, value) if isinstance(value, str) else value for value in arguments),
        )

    def send(self, sender: str, signature: str, *arguments: Any) -> Receipt:
        return self.market.send(sender, self.address, self.data(signature, *arguments))

    def refused(self, sender: str, signature: str, *arguments: Any) -> ContractRefusal:
        return self.market.refusal("WrappedStock", sender, self.address, self.data(signature, *arguments))

    def ask(self, signature: str, *arguments: Any) -> Any:
        return self.market.read("WrappedStock", self.address, signature, *arguments)

    def shares(self, name: str) -> int:
        return int(self.ask("balanceOf(address)", name))

    def assets(self) -> int:
        return self.market.units(self.address)


@pytest.fixture
def wrapper(market: Market) -> Wrapper:
    market.do(token_calls.mint(market.lines(("alice", 10_000), ("bob", 10_000), ("mallory", 1_000_000))))
    made = Wrapper(market)
    for name in ("alice", "bob", "mallory"):
        market.as_owner(name, "approve(address,uint256)", made.address, 2**256 - 1)
    return made


def test_a_share_is_a_fixed_claim_whatever_the_multiplier(wrapper: Wrapper):
    wrapper.send("alice", DEPOSIT, 1000, "alice")
    before = (wrapper.shares("alice"), wrapper.ask("convertToAssets(uint256)", VIRTUAL), wrapper.ask("totalAssets()"))
    assert before == (1000 * VIRTUAL, 1, 1000)
    wrapper.market.do(token_calls.schedule_multiplier(wrapper.market.id(), MULTIPLIER, 40 * E18, 0, b"split"))
    assert (wrapper.shares("alice"), wrapper.ask("convertToAssets(uint256)", VIRTUAL), wrapper.ask("totalAssets()")) == before
    assert (wrapper.ask("decimals()"), wrapper.ask("asset()")) == (14, wrapper.market.token)
    wrapper.send("alice", REDEEM, 1000 * VIRTUAL, "alice", "alice")
    assert wrapper.market.units("alice") == 10_000


def test_units_given_raise_what_a_share_is_worth(wrapper: Wrapper):
    wrapper.send("alice", DEPOSIT, 1000, "alice")
    wrapper.market.as_owner("bob", TRANSFER, wrapper.address, 500)
    wrapper.send("alice", REDEEM, wrapper.shares("alice"), "alice", "alice")
    assert wrapper.market.units("alice") in (10_499, 10_500)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_rounding_never_favours_who_asks(wrapper: Wrapper, data: st.DataObject):
    """After every step the vault owes no more than it has, and what a share is worth has not fallen: in integers, across the step."""
    with wrapper.market.node.put_back():
        check_steps(wrapper, data)


def check_steps(wrapper: Wrapper, data: st.DataObject) -> None:
    start = {name: wrapper.market.units(name) for name in ("alice", "bob")}
    given_away = 0
    for _ in range(data.draw(st.integers(1, 8))):
        assets, supply = wrapper.assets(), wrapper.ask("totalSupply()")
        name = data.draw(st.sampled_from(["alice", "bob"]))
        held, own = wrapper.shares(name), wrapper.market.units(name)
        match data.draw(st.sampled_from(["deposit", "mint", "withdraw", "redeem", "give"])):
            case "deposit" if own:
                wrapper.send(name, DEPOSIT, data.draw(st.integers(1, own)), name)
            case "mint" if own > 1:
                shares = wrapper.ask("previewDeposit(uint256)", data.draw(st.integers(1, own - 1)))
                wrapper.send(name, MINT, shares, name)
            case "withdraw" if most := wrapper.ask("maxWithdraw(address)", name):
                wrapper.send(name, WITHDRAW, data.draw(st.integers(1, most)), name, name)
            case "redeem" if held:
                wrapper.send(name, REDEEM, data.draw(st.integers(1, held)), name, name)
            case "give" if own:
                units = data.draw(st.integers(1, min(own, 977)))
                given_away += units
                wrapper.market.as_owner(name, TRANSFER, wrapper.address, units)
        now, shares_now = wrapper.assets(), wrapper.ask("totalSupply()")
        assert (now + 1) * (supply + VIRTUAL) >= (assets + 1) * (shares_now + VIRTUAL)
        owed = sum(wrapper.ask("previewRedeem(uint256)", wrapper.shares(each)) for each in ("alice", "bob"))
        assert owed <= now
    for name in ("alice", "bob"):
        if wrapper.shares(name):
            wrapper.send(name, REDEEM, wrapper.shares(name), name, name)
    left = sum(wrapper.market.units(name) for name in ("alice", "bob"))
    assert left + wrapper.assets() == sum(start.values()), "nothing is lost"
    assert left <= sum(start.values())


@pytest.mark.parametrize("donation", [1, 999, 10_000, 900_000])
def test_an_inflation_attack_costs_the_attacker(wrapper: Wrapper, donation: int):
    """He deposits 1, gives units so that the next deposit rounds to nothing, and takes all out."""
    start = wrapper.market.units("mallory")
    wrapper.send("mallory", DEPOSIT, 1, "mallory")
    wrapper.market.as_owner("mallory", TRANSFER, wrapper.address, donation)
    wrapper.send("alice", DEPOSIT, 1000, "alice")
    worth = wrapper.ask("previewRedeem(uint256)", wrapper.shares("alice"))
    assert worth >= 999, "the victim loses a rounding at most"
    wrapper.send("mallory", REDEEM, wrapper.shares("mallory"), "mallory", "mallory")
    assert wrapper.market.units("mallory") <= start - donation // 2 + 1, "half of what was given stays with the virtual shares"
    assert wrapper.market.units("mallory") <= start


def test_a_pause_of_the_token_is_one_here(wrapper: Wrapper):
    wrapper.send("alice", DEPOSIT, 1000, "alice")
    market = wrapper.market
    market.do(token_calls.set_pauses(market.id(), Pause.MINTS | Pause.BURNS, b"halt"))
    wrapper.send("alice", DEPOSIT, 1, "alice")
    market.do(token_calls.set_pauses(market.id(), Pause(7), b"halt"))
    limits = ("maxDeposit(address)", "maxMint(address)", "maxWithdraw(address)", "maxRedeem(address)")
    assert [wrapper.ask(limit, "alice") for limit in limits] == [0, 0, 0, 0]
    assert wrapper.refused("alice", TRANSFER, "bob", 1).name == "TransfersPaused"
    assert wrapper.refused("alice", DEPOSIT, 1, "alice").name == "ERC4626ExceededMaxDeposit"
    assert wrapper.refused("alice", REDEEM, 1, "alice", "alice").name == "ERC4626ExceededMaxRedeem"
    market.do(token_calls.set_pauses(market.id(), Pause.MINTS | Pause.BURNS, b"over"), "unpauser")
    wrapper.send("alice", TRANSFER, "bob", 1)


def test_the_deny_list_holds_here(wrapper: Wrapper):
    market = wrapper.market
    wrapper.send("alice", DEPOSIT, 1000, "alice")
    wrapper.send("alice", "approve(address,uint256)", "carol", 500)
    market.deny("bob")
    assert wrapper.refused("alice", TRANSFER, "bob", 1).name == "AccountDenied"
    assert wrapper.refused("alice", DEPOSIT, 1, "bob").name == "ERC4626ExceededMaxDeposit"
    assert wrapper.ask("maxDeposit(address)", "bob") == 0
    market.allow("bob")
    market.deny("carol")
    from_alice = ("transferFrom(address,address,uint256)", "alice", "bob", 1)
    assert wrapper.refused("carol", *from_alice).name == "AccountDenied"
    market.allow("carol")
    wrapper.send("carol", *from_alice)
    market.deny("alice")
    assert wrapper.ask("maxRedeem(address)", "alice") == 0
    assert wrapper.refused("alice", TRANSFER, "bob", 1).name == "AccountDenied"


# frozen units: how many of 1,000 wrapped may leave, with 9,000 outside.
@pytest.mark.parametrize(
    ("frozen", "movable"), [(0, 1000), (9_000, 1000), (9_001, 999), (9_999, 1), (10_000, 0), (10_001, 0), (2**248 - 1, 0)]
)
def test_a_freeze_is_covered_by_both_forms_together(wrapper: Wrapper, frozen: int, movable: int):
    market = wrapper.market
    wrapper.send("alice", DEPOSIT, 1000, "alice")
    market.do(token_calls.freeze_units(market.id(), market["alice"], frozen, b"order"))
    assert wrapper.ask("maxRedeem(address)", "alice") == wrapper.ask("movableShares(address)", "alice") == movable * VIRTUAL
    if movable < 1000:
        refusal = wrapper.refused("alice", TRANSFER, "bob", movable * VIRTUAL + 1)
        assert (refusal.name, refusal.fields["movable"]) == ("SharesFrozen", movable * VIRTUAL)
    wrapper.send("alice", TRANSFER, "bob", movable * VIRTUAL)
    assert wrapper.shares("bob") == movable * VIRTUAL


@pytest.mark.parametrize("given", [1, 333, 334, 999])
def test_what_stays_covers_what_is_frozen_at_any_rate(wrapper: Wrapper, given: int):
    market = wrapper.market
    wrapper.send("alice", DEPOSIT, 1000, "alice")
    market.as_owner("bob", TRANSFER, wrapper.address, given)
    for missing in (1, 7, 500, 777):
        market.do(token_calls.freeze_units(market.id(), market["alice"], 9_000 + missing, b"order"))
        movable = wrapper.ask("movableShares(address)", "alice")
        assert wrapper.ask("convertToAssets(uint256)", wrapper.shares("alice") - movable) >= missing, "rounded against who would leave"
        assert wrapper.ask("convertToAssets(uint256)", wrapper.shares("alice") - movable - 1) < missing, "and by no more than that"


def test_shares_that_are_not_there_are_missing_and_not_frozen(wrapper: Wrapper):
    wrapper.send("alice", DEPOSIT, 1000, "alice")
    assert wrapper.refused("alice", TRANSFER, "bob", 1000 * VIRTUAL + 1).name == "ERC20InsufficientBalance"


def test_a_freeze_of_the_wrapper_itself_limits_what_leaves_it(wrapper: Wrapper):
    market = wrapper.market
    wrapper.send("alice", DEPOSIT, 1000, "alice")
    market.do(token_calls.freeze_units(market.id(), wrapper.address, 400, b"order"))
    assert wrapper.ask("maxWithdraw(address)", "alice") == 600
    assert wrapper.refused("alice", WITHDRAW, 601, "alice", "alice").name == "ERC4626ExceededMaxWithdraw"
    wrapper.send("alice", WITHDRAW, 600, "alice", "alice")
    market.do(token_calls.freeze_units(market.id(), wrapper.address, 1000, b"order"))
    assert wrapper.ask("maxRedeem(address)", "alice") == 0


def test_an_enforcer_of_the_token_takes_shares_with_a_reason(wrapper: Wrapper):
    market = wrapper.market
    wrapper.send("alice", DEPOSIT, 1000, "alice")
    market.do(token_calls.freeze_account(market.id(), market["alice"], True, b"order"))
    market.do(token_calls.set_pauses(market.id(), Pause(7), b"halt"))
    market.deny("carol")
    for sender in ("alice", "admin", "minter", "mallory"):
        assert wrapper.refused(sender, FORCED, "alice", "bob", 1, b"order 7").name == "EnforcerRequired"
    zero = "0x" + "0" * 40
    assert wrapper.refused("enforcer", FORCED, "alice", "bob", 1, b"").name == "ReasonMissing"
    assert wrapper.refused("enforcer", FORCED, "alice", "carol", 1, b"order 7").name == "AccountDenied"
    assert wrapper.refused("enforcer", FORCED, "alice", zero, 1, b"order 7").name == "ERC20InvalidReceiver"
    assert wrapper.refused("enforcer", FORCED, zero, "bob", 1, b"order 7").name == "ERC20InvalidSender"
    assert wrapper.refused("enforcer", FORCED, "alice", "bob", 1000 * VIRTUAL + 1, b"order 7").name == "ERC20InsufficientBalance"
    receipt = wrapper.send("enforcer", FORCED, "alice", "bob", 300, b"order 7")
    assert receipt.names("WrappedStock", wrapper.address) == ["ForcedShareTransfer", "Transfer"]
    assert wrapper.shares("bob") == 300
