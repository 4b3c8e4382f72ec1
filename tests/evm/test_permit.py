"""Permits: an approval by signature, once, in time, for this token on this chain."""

from __future__ import annotations

from evm_market import Market
from evm_permits import sign_permit

ALLOWANCE = "allowance(address,address)"


def refused(market: Market, call: bytes) -> str:
    return market.refusal("StockToken", "mallory", market.token, call).name


def test_a_permit_approves_whoever_brings_it(market: Market):
    market.send("mallory", market.token, sign_permit(market, "alice", "bob", 7).call)
    assert market.ask(ALLOWANCE, "alice", "bob") == 7
    assert market.ask("nonces(address)", "alice") == 1


def test_a_permit_counts_once(market: Market):
    permit = sign_permit(market, "alice", "bob", 7)
    market.send("mallory", market.token, permit.call)
    market.as_owner("alice", "approve(address,uint256)", "bob", 0)
    assert refused(market, permit.call) == "ERC2612InvalidSigner"
    assert market.ask(ALLOWANCE, "alice", "bob") == 0


def test_a_permit_of_another_chain_token_signer_or_amount_counts_for_nothing(market: Market):
    for wrong in (
        sign_permit(market, "alice", "bob", 7, chain_id=1),
        sign_permit(market, "alice", "bob", 7, contract=market.plan.code),
        sign_permit(market, "alice", "bob", 7, signer="mallory"),
        sign_permit(market, "alice", "bob", 7, shown_units=8),
        sign_permit(market, "alice", "bob", 7, nonce=1),
    ):
        assert refused(market, wrong.call) == "ERC2612InvalidSigner"
    market.send("mallory", market.token, sign_permit(market, "alice", "bob", 7).call)


def test_a_permit_has_a_deadline(market: Market):
    now = market.node.time()
    permit = sign_permit(market, "alice", "bob", 7, deadline=now + 100)
    market.node.mine_at(now + 101)
    assert refused(market, permit.call) == "ERC2612ExpiredSignature"
    market.send("mallory", market.token, sign_permit(market, "alice", "bob", 7, deadline=now + 1000).call)
