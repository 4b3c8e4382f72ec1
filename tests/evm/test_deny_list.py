"""The issuer's deny list: asked on transfer, mint, burn, approve and permit, by every token of the issuer."""

from __future__ import annotations

import pytest
from evm_market import Market
from evm_permits import sign_permit

from chain_adapters.evm import roles, token_calls
from chain_adapters.evm.codec import encode_call
from chain_adapters.evm.deployment import plan_token

TRANSFER, FROM = "transfer(address,uint256)", "transferFrom(address,address,uint256)"
APPROVE = "approve(address,uint256)"
DENY = "deny(bytes32,address[],bytes)"

# path: for each party of it, (who is listed, who calls, the call). None of it works while he is listed, all of it when he is not.
PATHS = {
    "transfer, sender": ("alice", "alice", lambda m: encode_call("StockToken", TRANSFER, m["bob"], 1)),
    "transfer, receiver": ("bob", "alice", lambda m: encode_call("StockToken", TRANSFER, m["bob"], 1)),
    "transfer from, spender": ("carol", "carol", lambda m: encode_call("StockToken", FROM, m["alice"], m["bob"], 1)),
    "transfer from, sender": ("alice", "carol", lambda m: encode_call("StockToken", FROM, m["alice"], m["bob"], 1)),
    "transfer from, receiver": ("bob", "carol", lambda m: encode_call("StockToken", FROM, m["alice"], m["bob"], 1)),
    "mint": ("bob", "minter", lambda m: token_calls.mint(m.lines(("bob", 1))).data),
    "mint batch": ("bob", "minter", lambda m: token_calls.mint(m.lines(("alice", 1), ("bob", 1))).data),
    "bridge mint": ("bob", "bridge", lambda m: encode_call("StockToken", "crosschainMint(address,uint256)", m["bob"], 1)),
    "burn": ("burner", "burner", lambda m: token_calls.burn(m.lines(("burner", 1))).data),
    "burn of what was approved": ("alice", "burner", lambda m: token_calls.burn(m.lines(("alice", 1))).data),
    "burn of what was approved, burner": ("burner", "burner", lambda m: token_calls.burn(m.lines(("alice", 1))).data),
    "burn batch": ("alice", "burner", lambda m: token_calls.burn(m.lines(("burner", 1), ("alice", 1))).data),
    "bridge burn": ("alice", "bridge", lambda m: encode_call("StockToken", "crosschainBurn(address,uint256)", m["alice"], 1)),
    "approve, owner": ("alice", "alice", lambda m: encode_call("StockToken", APPROVE, m["bob"], 1)),
    "approve, spender": ("bob", "alice", lambda m: encode_call("StockToken", APPROVE, m["bob"], 1)),
    "permit, owner": ("alice", "mallory", lambda m: sign_permit(m, "alice", "bob", 1).call),
    "permit, spender": ("bob", "mallory", lambda m: sign_permit(m, "alice", "bob", 1).call),
    "forced transfer, receiver": ("bob", "enforcer", lambda m: token_calls.forced_transfer(m.id(), m["alice"], m["bob"], 1, b"order").data),
}


@pytest.fixture
def supplied(market: Market) -> Market:
    market.do(token_calls.mint(market.lines(("alice", 100), ("bob", 100), ("burner", 100))))
    for spender in ("carol", "burner"):
        market.as_owner("alice", APPROVE, spender, 50)
    return market


def refused_as(path: str) -> str:
    """Name the error: the standard's for who would send or receive, ours for who acts or is approved."""
    if path in {"transfer from, spender", "burn of what was approved, burner"} or path.startswith(("approve", "permit")):
        return "AccountDenied"
    return "ERC7943CannotSend" if "sender" in path or "burn" in path else "ERC7943CannotReceive"


@pytest.mark.parametrize("path", PATHS)
def test_who_is_listed_takes_no_part(supplied: Market, path: str):
    listed, sender, call = PATHS[path]
    supplied.deny(listed)
    refusal = supplied.refusal("StockToken", sender, supplied.token, call(supplied))
    assert (refusal.name, refusal.fields) == (refused_as(path), {"account": supplied[listed]})
    supplied.allow(listed)
    supplied.send(sender, supplied.token, call(supplied))


@pytest.mark.parametrize("path", PATHS)
def test_who_is_not_listed_is_not_touched(supplied: Market, path: str):
    _, sender, call = PATHS[path]
    supplied.deny("mallory", "pauser")
    supplied.send(sender if sender != "mallory" else "admin", supplied.token, call(supplied))


def test_an_approval_can_always_be_taken_back(supplied: Market):
    supplied.deny("carol", "alice")
    supplied.as_owner("alice", APPROVE, "carol", 0)
    assert supplied.ask("allowance(address,address)", "alice", "carol") == 0


def test_enforcement_reaches_who_is_listed(supplied: Market):
    supplied.deny("alice")
    supplied.do(token_calls.forced_transfer(supplied.id(), supplied["alice"], supplied["bob"], 60, b"order 7"))
    supplied.do(token_calls.forced_burn(supplied.id(), supplied["alice"], 40, b"order 8"))
    assert (supplied.units("alice"), supplied.units("bob")) == (0, 160)


def test_views_know_the_list(supplied: Market):
    supplied.deny("alice")
    assert supplied.ask("canSend(address)", "alice") is False
    assert supplied.ask("canReceive(address)", "alice") is False
    assert supplied.ask("canTransfer(address,address,uint256)", "alice", "bob", 1) is False
    assert supplied.ask("canTransfer(address,address,uint256)", "bob", "alice", 1) is False
    assert supplied.ask("canTransfer(address,address,uint256)", "bob", "carol", 1) is True


def test_one_list_stops_an_account_in_every_token(supplied: Market):
    other = supplied.run_steps(plan_token(supplied.plan, supplied.terms("MSFTx"))).address
    mint = token_calls.mint(supplied.lines(("alice", 1))).data
    supplied.send("minter", other, mint)
    supplied.deny("alice")
    again = token_calls.mint(supplied.lines(("alice", 1))).data
    for token in (supplied.token, other):
        assert supplied.read("StockToken", token, "denyList()") == supplied.plan.deny_list
        assert supplied.refusal("StockToken", "minter", token, again).name == "ERC7943CannotReceive"


def test_a_listing_names_accounts_and_says_why_and_is_the_enforcers(supplied: Market):
    def refused(sender: str, accounts: list[str], reason: bytes) -> str:
        data = encode_call("DenyList", DENY, supplied.id(), accounts, reason)
        return supplied.refusal("DenyList", sender, supplied.plan.deny_list, data).name

    assert refused("enforcer", [], b"why") == "AccountsMissing"
    assert refused("enforcer", [supplied["bob"]], b"") == "ReasonMissing"
    assert refused("admin", [supplied["bob"]], b"why") == "AccessControlUnauthorizedAccount"
    assert refused("mallory", [supplied["bob"]], b"why") == "AccessControlUnauthorizedAccount"


def test_a_listing_is_carried_out_once_and_can_be_cancelled(supplied: Market):
    instruction = supplied.id()
    deny = encode_call("DenyList", DENY, instruction, [supplied["bob"]], b"why")
    receipt = supplied.send("enforcer", supplied.plan.deny_list, deny)
    assert receipt.names("DenyList", supplied.plan.deny_list) == ["InstructionExecuted", "DenialSet"]
    supplied.allow("bob")
    assert supplied.refusal("DenyList", "enforcer", supplied.plan.deny_list, deny).name == "InstructionTaken", "a late copy lists nobody"
    cancelled = supplied.id()
    cancel = encode_call("DenyList", "cancelInstructions(bytes32,bytes32[])", roles.ENFORCER, [cancelled])
    assert supplied.refusal("DenyList", "mallory", supplied.plan.deny_list, cancel).name == "AccessControlUnauthorizedAccount"
    supplied.send("enforcer", supplied.plan.deny_list, cancel)
    late = encode_call("DenyList", DENY, cancelled, [supplied["bob"]], b"why")
    assert supplied.refusal("DenyList", "enforcer", supplied.plan.deny_list, late).name == "InstructionTaken"
    assert supplied.read("DenyList", supplied.plan.deny_list, "isDenied(address)", "bob") is False
