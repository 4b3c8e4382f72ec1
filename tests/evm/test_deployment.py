"""The same addresses on every chain, taken by nobody else, and a deployment that broke off taken up again."""

from __future__ import annotations

import dataclasses

import pytest
from eth_abi.abi import encode
from eth_utils.address import to_canonical_address, to_checksum_address
from eth_utils.crypto import keccak
from evm_market import ROLES, Market, Refused
from evm_node import evm_node

from chain_adapters.evm import token_calls
from chain_adapters.evm.artifacts import load
from chain_adapters.evm.codec import encode_call, encode_creation
from chain_adapters.evm.deployment import COMMON_CREATOR, SALT, create2_address, missing_steps, plan_issuer, plan_token

DEPLOY = "deploy(bytes32,bytes,bytes)"


def test_create2_as_the_eip_computes_it():
    """Source: EIP-1014, the second and fifth of its examples."""
    creator = "0xdeadbeef00000000000000000000000000000000"
    assert create2_address(creator, bytes(32), b"\0") == to_checksum_address("0xB928f69Bb1D91Cd65274e3c79d8986362984fDA3")
    salt = bytes.fromhex("00000000000000000000000000000000000000000000000000000000cafebabe")
    creator = "0x00000000000000000000000000000000deadbeef"
    assert create2_address(creator, salt, bytes.fromhex("deadbeef")) == to_checksum_address("0x60f3f640a8508fC6a86d45DF051962668E1e8AC7")


def test_the_addresses_depend_on_nothing_of_the_chain(market: Market):
    with evm_node(chain_id=4242) as node:
        node.call("evm_increaseTime", 1000)
        node.call("eth_sendTransaction", {"from": node.accounts[0], "to": node.accounts[1], "value": "0x1"})
        other = Market(node)
        assert (other.plan, other.token, other.wrapper(), other.feed(), other.anchor("x")) == (
            market.plan,
            market.token,
            market.wrapper(),
            market.feed(),
            market.anchor("x"),
        )
        assert other.ask("name()") == "Apple Inc. tokenised"
        assert other.ask("DOMAIN_SEPARATOR()") != market.ask("DOMAIN_SEPARATOR()"), "no permit of one chain counts on the other"


def test_other_keys_and_symbols_give_other_addresses(market: Market):
    issuer = market.issuer()
    plan = plan_issuer(issuer)
    assert plan == market.plan
    for change in ({"sender": market["mallory"]}, {"admin": market["mallory"]}, {"admin_delay_seconds": 1}):
        other = plan_issuer(dataclasses.replace(issuer, **change))
        assert other.deployer == plan.deployer
        assert not {other.deny_list, other.code, other.beacon} & {plan.deny_list, plan.code, plan.beacon}
    assert plan_token(plan, market.terms("AAPLx")).address == market.token != plan_token(plan, market.terms("MSFTx")).address
    assert plan_token(plan, market.terms(multiplier=7)).address == market.token, "a token that comes later to a chain has the same address"


def test_nobody_else_takes_an_address(market: Market):
    step = plan_token(market.plan, market.terms("TSLAx"))
    market.send("mallory", step.target, step.data)
    assert market.code_at(step.address) == b"", "the sender is part of the address"
    market.run_steps(step)
    assert market.read("StockToken", step.address, "symbol()") == "TSLAx"


def test_an_address_is_taken_once(market: Market):
    step = plan_token(market.plan, market.terms("TSLAx"))
    market.run_steps(step)
    with pytest.raises(Refused):
        market.send("deployer", step.target, step.data)


def test_the_contract_foretells_the_address(market: Market):
    salt, code = b"\7" * 32, load("Deployer").bytecode
    receipt = market.send("alice", market.plan.deployer, encode_call("Deployer", DEPLOY, salt, code, b""))
    (event,) = receipt.events("Deployer", market.plan.deployer)
    assert event.fields["sender"] == market["alice"]
    foretold = market.read("Deployer", market.plan.deployer, "addressOf(address,bytes32,bytes32)", "alice", salt, keccak(code))
    bound = keccak(encode(["address", "bytes32"], [market["alice"], salt]))
    assert event.fields["deployed"] == foretold == create2_address(market.plan.deployer, bound, code)


def test_a_deployment_that_broke_off_is_taken_up(market: Market):
    steps = plan_issuer(dataclasses.replace(market.issuer(), admin=market["carol"])).steps
    assert missing_steps(steps, market.code_at) == list(steps[1:]), "the deployer is there"
    market.send("deployer", steps[1].target, steps[1].data)
    assert missing_steps(steps, market.code_at) == list(steps[2:])
    market.run_steps(*steps)
    assert missing_steps(steps, market.code_at) == []


def test_a_setup_that_fails_leaves_nothing(market: Market):
    step = plan_token(market.plan, market.terms("BADx", multiplier=0))
    with pytest.raises(Refused):
        market.send("deployer", step.target, step.data)
    assert market.code_at(step.address) == b""
    broken = plan_token(
        market.plan, market.terms("BADx", grants=((ROLES["minter"], market["alice"]), (ROLES["allotter"], market["alice"])))
    )
    with pytest.raises(Refused):
        market.send("deployer", broken.target, broken.data)


def test_other_code_at_the_address_is_noticed(market: Market):
    step = market.plan.steps[1]
    market.node.call("anvil_setCode", step.address, "0x6001")
    with pytest.raises(ValueError, match="2 bytes of other code"):
        missing_steps([step], market.code_at)


def test_deployed_code_is_told_from_other_code(market: Market):
    code = market.code_at(market.plan.code)
    token = load("StockToken")
    assert token.is_code_of(code)
    assert to_canonical_address(market.plan.deny_list).rjust(32, b"\0") in token.immutables_of(code), "and which deny list it asks"
    assert not load("DenyList").is_code_of(code)
    assert not token.is_code_of(code[:-1] + bytes([code[-1] ^ 1]))
    assert not token.is_code_of(b"")
    assert load("BeaconProxy").is_code_of(market.code_at(market.token))


def test_the_code_of_a_token_needs_a_deny_list(market: Market):
    creation = encode_creation("StockToken", market["alice"])
    deploy = encode_call("Deployer", DEPLOY, SALT, creation, b"")
    assert market.refusal("StockToken", "alice", market.plan.deployer, deploy).name == "DenyListMissing"


def test_the_common_creator_is_what_the_node_has(market: Market):
    assert len(market.code_at(COMMON_CREATOR)) == 69


def test_upgrades_reach_all_tokens_and_keep_their_state(market: Market):
    other_token = market.run_steps(plan_token(market.plan, market.terms("MSFTx"))).address
    market.do(token_calls.mint(market.lines(("alice", 100))))
    market.do(token_calls.freeze_units(market.id(), market["alice"], 40, b"order"))
    market.do(token_calls.set_pauses(market.id(), token_calls.Pause.BURNS, b"halt"))
    line = market.lines(("bob", 1))
    market.do(token_calls.mint(line))
    plain = ("pauses()", "uiMultiplier()", "allotment()", "name()", "symbol()", "decimals()", "totalSupply()", "defaultAdmin()")
    questions = [(question,) for question in plain]
    questions += [
        ("balanceOf(address)", "alice"),
        ("getFrozenTokens(address)", "alice"),
        ("hasRole(bytes32,address)", ROLES["minter"], "minter"),
    ]
    before = [market.ask(*question) for question in questions]
    # The next version: the same code, told another deny list, as a later version would be compiled with other rules.
    deny_list = encode_creation("DenyList", 5, market["admin"], market["enforcer"])
    deployed = market.send("alice", market.plan.deployer, encode_call("Deployer", DEPLOY, SALT, deny_list, b""))
    new_list = deployed.events("Deployer", market.plan.deployer)[0].fields["deployed"]
    deployed = market.send(
        "alice", market.plan.deployer, encode_call("Deployer", DEPLOY, SALT, encode_creation("StockToken", new_list), b"")
    )
    new_code = deployed.events("Deployer", market.plan.deployer)[0].fields["deployed"]
    upgrade = encode_call("TokenBeacon", "upgradeTo(address)", new_code)
    for name in ("admin", "deployer", "mallory", "enforcer"):
        assert market.refusal("TokenBeacon", name, market.plan.beacon, upgrade).name == "OwnableUnauthorizedAccount"
    market.send("upgrader", market.plan.beacon, upgrade)
    assert [market.ask(*question) for question in questions] == before
    assert market.refused(token_calls.mint(line)) == "InstructionTaken", "instructions stay taken"
    assert {market.read("StockToken", token, "denyList()") for token in (market.token, other_token)} == {new_list}


def test_a_beacon_takes_code_only_and_changes_hands_in_two_steps(market: Market):
    to_nobody = encode_call("TokenBeacon", "upgradeTo(address)", market["alice"])
    assert market.refusal("TokenBeacon", "upgrader", market.plan.beacon, to_nobody).name == "BeaconInvalidImplementation"
    market.send("upgrader", market.plan.beacon, encode_call("TokenBeacon", "transferOwnership(address)", market["carol"]))
    assert market.read("TokenBeacon", market.plan.beacon, "owner()") == market["upgrader"]
    accept = encode_call("TokenBeacon", "acceptOwnership()")
    assert market.refusal("TokenBeacon", "mallory", market.plan.beacon, accept).name == "OwnableUnauthorizedAccount"
    market.send("carol", market.plan.beacon, accept)
    assert market.read("TokenBeacon", market.plan.beacon, "owner()") == market["carol"]
