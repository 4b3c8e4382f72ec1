"""Who may do what: each operation under its role and under no other, and which roles nobody has together."""

from __future__ import annotations

import pytest
from evm_market import MULTIPLIER, PEOPLE, ROLES, Market

from chain_adapters.evm import roles, token_calls
from chain_adapters.evm.codec import encode_call
from chain_adapters.evm.token_calls import Pause
from chain_adapters.evm.token_events import RoleSet

# operation: (who may, what it is); everybody else is refused.
OPERATIONS = {
    "mint": ("minter", lambda m: token_calls.mint(m.lines(("alice", 1))).data),
    "mint batch": ("minter", lambda m: token_calls.mint(m.lines(("alice", 1), ("bob", 1))).data),
    "burn": ("burner", lambda m: token_calls.burn(m.lines(("burner", 1))).data),
    "burn batch": ("burner", lambda m: token_calls.burn(m.lines(("burner", 1), ("burner", 1))).data),
    "bridge mint": ("bridge", lambda m: encode_call("StockToken", "crosschainMint(address,uint256)", m["alice"], 1)),
    "bridge burn": ("bridge", lambda m: encode_call("StockToken", "crosschainBurn(address,uint256)", m["alice"], 1)),
    "allotment": ("allotter", lambda m: token_calls.set_allotment(m.id(), 1).data),
    "multiplier": ("multiplier", lambda m: token_calls.schedule_multiplier(m.id(), MULTIPLIER, 1, 0, b"split").data),
    "pause": ("pauser", lambda m: token_calls.set_pauses(m.id(), Pause.MINTS | Pause.BURNS, b"halt").data),
    "end of a pause": ("unpauser", lambda m: token_calls.set_pauses(m.id(), Pause(0), b"over").data),
    "freeze account": ("enforcer", lambda m: token_calls.freeze_account(m.id(), m["alice"], True, b"order 7").data),
    "freeze units": ("enforcer", lambda m: token_calls.freeze_units(m.id(), m["alice"], 1, b"order 7").data),
    "forced transfer": ("enforcer", lambda m: token_calls.forced_transfer(m.id(), m["alice"], m["bob"], 1, b"order 7").data),
    "forced burn": ("forced_burner", lambda m: token_calls.forced_burn(m.id(), m["alice"], 1, b"order 7").data),
    "give reason": ("enforcer", lambda _: encode_call("StockToken", "giveReason(bytes)", b"order 7")),
    "grant": ("admin", lambda m: encode_call("StockToken", "grantRole(bytes32,address)", roles.BURNER, m["alice"])),
    "revoke": ("admin", lambda m: encode_call("StockToken", "revokeRole(bytes32,address)", roles.BURNER, m["burner"])),
    "begin change of admin": ("admin", lambda m: encode_call("StockToken", "beginDefaultAdminTransfer(address)", m["carol"])),
}


@pytest.fixture
def supplied(market: Market) -> Market:
    market.do(token_calls.mint(market.lines(("alice", 10), ("burner", 10))))
    return market


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_takes_its_role(supplied: Market, operation: str):
    may, call = OPERATIONS[operation]
    if "pause" in operation:
        supplied.do(token_calls.set_pauses(supplied.id(), Pause.BURNS, b"halt"))
    for name in PEOPLE:
        if name != may:
            refusal = supplied.refusal("StockToken", name, supplied.token, call(supplied))
            assert refusal.name == "AccessControlUnauthorizedAccount", (operation, name)
            assert refusal.fields["account"] == supplied[name]
    supplied.send(may, supplied.token, call(supplied))


def test_the_table_has_every_operation_of_a_role():
    covered = {may for may, _ in OPERATIONS.values()}
    assert covered == {*ROLES, "admin"}


def test_standard_enforcement_takes_the_role_too(supplied: Market):
    for name in PEOPLE:
        if name == "enforcer":
            continue
        for signature, arguments in (
            ("forcedTransfer(address,address,uint256)", ("alice", "bob", 1)),
            ("setFrozenTokens(address,uint256)", ("alice", 1)),
        ):
            assert supplied.owner_refused(name, signature, *arguments).name == "AccessControlUnauthorizedAccount"


@pytest.mark.parametrize("creating", ["MINTER", "BRIDGE"])
def test_who_mints_does_not_set_the_allotment(market: Market, creating: str):
    creates, holder = getattr(roles, creating), creating.lower()
    for role, other in ((roles.ALLOTTER, holder), (creates, "allotter"), (creates, "admin")):
        refusal = market.owner_refused("admin", "grantRole(bytes32,address)", role, other)
        assert refusal.name == "RolesIncompatible"
        assert refusal.fields == {"role": role, "account": market[other]}
    market.as_owner("admin", "revokeRole(bytes32,address)", creates, holder)
    market.as_owner("admin", "grantRole(bytes32,address)", roles.ALLOTTER, holder)
    assert market.owner_refused("admin", "grantRole(bytes32,address)", creates, holder).name == "RolesIncompatible"


def test_who_mints_does_not_become_the_administrator(market: Market):
    market.as_owner("admin", "beginDefaultAdminTransfer(address)", "minter")
    market.node.call("evm_increaseTime", 86_401)
    market.node.call("evm_mine")
    assert market.owner_refused("minter", "acceptDefaultAdminTransfer()").name == "RolesIncompatible"


def test_administration_changes_hands_in_two_steps_after_a_delay(market: Market):
    market.as_owner("admin", "beginDefaultAdminTransfer(address)", "carol")
    assert market.owner_refused("carol", "acceptDefaultAdminTransfer()").name == "AccessControlEnforcedDefaultAdminDelay"
    market.node.call("evm_increaseTime", 86_401)
    market.node.call("evm_mine")
    assert market.owner_refused("mallory", "acceptDefaultAdminTransfer()").name == "AccessControlInvalidDefaultAdmin"
    market.as_owner("carol", "acceptDefaultAdminTransfer()")
    assert market.ask("defaultAdmin()") == market["carol"]


def test_roles_can_be_rebuilt_from_the_log(market: Market):
    market.as_owner("admin", "revokeRole(bytes32,address)", roles.BURNER, "burner")
    market.as_owner("admin", "grantRole(bytes32,address)", roles.BURNER, "bob")
    held = set()
    for fact in market.all_facts():
        if isinstance(fact, RoleSet):
            (held.add if fact.granted else held.remove)((roles.NAMES[fact.role], fact.account))
    expected = {(roles.NAMES[role], market[name]) for name, role in ROLES.items()} | {("ADMIN", market["admin"]), ("BURNER", market["bob"])}
    assert held == expected - {("BURNER", market["burner"])}
