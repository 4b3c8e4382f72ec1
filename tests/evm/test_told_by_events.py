"""What the contracts store and can change, rebuilt from their events alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from evm_market import MULTIPLIER, Market, raw
from evm_permits import sign_permit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chain_adapters.evm import token_calls
from chain_adapters.evm.codec import Event, decode_event, encode_call

MOST = 2**256 - 1
OWNERS, SPENDERS = ("alice", "bob"), ("alice", "burner", "carol")
APPROVE, TRANSFER_FROM = "approve(address,uint256)", "transferFrom(address,address,uint256)"


def events(market: Market, contract: str, address: str) -> Iterator[Event]:
    """Yield the whole history of a contract; every log of it is one of its events, or its proxy's."""
    for log in market.node.call("eth_getLogs", {"fromBlock": "0x0", "toBlock": "latest", "address": address}):
        event = decode_event(contract, *raw(log)) or decode_event("BeaconProxy", *raw(log))
        assert event is not None
        yield event


def told(market: Market, contract: str, address: str, name: str) -> list[dict[str, Any]]:
    return [event.fields for event in events(market, contract, address) if event.name == name]


def allowances(market: Market, contract: str, address: str) -> dict[tuple[str, str], int]:
    return {(each["owner"], each["spender"]): each["value"] for each in told(market, contract, address, "Approval")}


def check_allowances(market: Market) -> None:
    """Hold what the events tell of allowances and of permits against what the token says."""
    known = allowances(market, "StockToken", market.token)
    nonces = {each["owner"]: each["nonce"] + 1 for each in told(market, "StockToken", market.token, "NonceUsed")}
    for owner in OWNERS:
        assert market.ask("nonces(address)", owner) == nonces.get(market[owner], 0)
        for spender in SPENDERS:
            assert market.ask("allowance(address,address)", owner, spender) == known.get((market[owner], market[spender]), 0)


def test_what_is_spent_of_an_allowance_is_told_with_who_spends_it(market: Market):
    market.do(token_calls.mint(market.lines(("alice", 100))))
    market.as_owner("alice", APPROVE, "carol", 50)
    spent = market.as_owner("carol", TRANSFER_FROM, "alice", "bob", 20)
    assert spent.events("StockToken", market.token)[0] == Event(
        "Approval", {"owner": market["alice"], "spender": market["carol"], "value": 30}
    )
    market.as_owner("alice", APPROVE, "burner", 9)
    burned = market.do(token_calls.burn(market.lines(("alice", 4), ("alice", 5))))
    assert burned.names("StockToken", market.token) == 2 * ["InstructionExecuted", "Approval", "Transfer"]
    market.send("mallory", market.token, sign_permit(market, "bob", "carol", 7).call)
    market.as_owner("carol", TRANSFER_FROM, "bob", "alice", 6)
    market.as_owner("bob", APPROVE, "alice", MOST)
    unlimited = market.as_owner("alice", TRANSFER_FROM, "bob", "alice", 1)
    assert unlimited.names("StockToken", market.token) == ["Transfer"], "the most there is is never spent"
    check_allowances(market)
    known = allowances(market, "StockToken", market.token)
    assert known[market["bob"], market["carol"]] == 1
    assert known[market["bob"], market["alice"]] == MOST


spending = st.tuples(st.sampled_from(["spend", "burn"]), st.sampled_from(OWNERS), st.sampled_from(SPENDERS), st.integers(0, 9))
giving = st.tuples(
    st.sampled_from(["approve", "permit"]), st.sampled_from(OWNERS), st.sampled_from(SPENDERS), st.one_of(st.integers(0, 9), st.just(MOST))
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.one_of(giving, spending), min_size=1, max_size=12))
def test_allowances_and_permits_come_back_from_events(market: Market, steps: list[tuple[str, str, str, int]]):
    with market.node.put_back():
        market.do(token_calls.mint(market.lines(("alice", 40), ("bob", 40))))
        for what, owner, spender, units in steps:
            allowance = market.ask("allowance(address,address)", owner, spender)
            if what == "approve":
                market.as_owner(owner, APPROVE, spender, units)
            elif what == "permit":
                market.send("mallory", market.token, sign_permit(market, owner, spender, units).call)
            elif what == "spend" and units <= min(allowance, market.units(owner)):
                market.as_owner(spender, TRANSFER_FROM, owner, spender, units)
            elif what == "burn" and spender == "burner" and 0 < units <= min(allowance, market.units(owner)):
                market.do(token_calls.burn(market.lines((owner, units))))
        check_allowances(market)


def test_what_is_spent_of_an_allowance_of_shares_is_told(market: Market):
    market.do(token_calls.mint(market.lines(("alice", 100))))
    wrapper = market.wrapper()
    market.as_owner("alice", APPROVE, wrapper, 100)

    def send(sender: str, signature: str, *arguments: Any) -> None:
        market.send(sender, wrapper, encode_call("WrappedStock", signature, *(market.addresses.get(each, each) for each in arguments)))

    send("alice", "deposit(uint256,address)", 100, "alice")
    send("alice", APPROVE, "carol", 90)
    send("carol", TRANSFER_FROM, "alice", "bob", 20)
    send("carol", "redeem(uint256,address,address)", 30, "carol", "alice")
    assert allowances(market, "WrappedStock", wrapper) == {(market["alice"], market["carol"]): 40}
    assert market.read("WrappedStock", wrapper, "allowance(address,address)", "alice", "carol") == 40


def test_a_token_a_wrapper_and_a_feed_say_what_they_are(market: Market):
    (terms,) = told(market, "StockToken", market.token, "TermsSet")
    assert terms == {"name": "Apple Inc. tokenised", "symbol": "AAPLx", "decimals": 8}
    assert terms == {name: market.ask(f"{name}()") for name in terms}
    (multiplier,) = told(market, "StockToken", market.token, "UIMultiplierUpdated")
    assert multiplier["newMultiplier"] == MULTIPLIER
    wrapper, feed = market.wrapper(), market.feed()
    for contract, address, event in (("WrappedStock", wrapper, "TermsSet"), ("ReserveFeed", feed, "TermsSet")):
        (terms,) = told(market, contract, address, event)
        assert terms == {name: market.read(contract, address, f"{name}()") for name in terms}
        assert "decimals" in terms


def test_the_delay_of_an_administrator_is_told_from_the_start(market: Market):
    """In the form in which a later one is told, so that one rule gives the delay of any time."""
    day = 86_400
    contracts: list[tuple[str, str]] = [
        ("StockToken", market.token),
        ("DenyList", market.plan.deny_list),
        ("ReserveFeed", market.feed()),
        ("CheckpointAnchor", market.anchor("ledger.example/log")),
    ]
    market.node.mine_at(market.node.time() + 1)
    for contract, address in contracts:
        assert delay_told(market, contract, address) == market.read(contract, address, "defaultAdminDelay()") == day
        market.send("admin", address, encode_call(contract, "changeDefaultAdminDelay(uint48)", day // 2))
    market.node.mine_at(market.node.time() + 2 * day)
    for contract, address in contracts:
        assert delay_told(market, contract, address) == market.read(contract, address, "defaultAdminDelay()") == day // 2


def delay_told(market: Market, contract: str, address: str) -> int:
    """Return the newest delay that was told to count from before now."""
    now = market.node.time()
    passed = [each for each in told(market, contract, address, "DefaultAdminDelayChangeScheduled") if each["effectSchedule"] < now]
    return int(passed[-1]["newDelay"])
