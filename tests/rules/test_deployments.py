"""Tokens of instruments on chains, the keys that sign for them, and addresses that stand for accounts."""

from __future__ import annotations

from typing import Any

import pytest
from on_chains import NATIVE, OMNIBUS, addresses, bound, register, retire, wallet
from on_chains import change as change_on
from on_chains import deploy as deploy_on
from on_chains import set_key as set_any_key
from scenario import Scenario, account, stock, two_holders
from steps import check_repeat

from ledger.rules.accounts import add_account, next_account_number
from stockledger.v1.accounts_pb2 import CloseAccountRequest, WalletBound
from stockledger.v1.chains_pb2 import (
    AmendDeploymentRequest,
    ChainCapability,
    ChainKey,
    ChainKeyRole,
    ChainKeySet,
    Deployment,
    DeploymentAmended,
    DeploymentRegistered,
    DepositAddress,
    DepositAddressesRegistered,
    ListChainKeysRequest,
    ListDeploymentsRequest,
    ListDepositAddressesRequest,
    RegisterDeploymentRequest,
    RegisterDepositAddressesRequest,
    SetChainKeyRequest,
    WithdrawalLimits,
)
from stockledger.v1.instruments_pb2 import AmendInstrumentRequest, Backing, RetireInstrumentRequest

MINT, BURN = ChainCapability.CHAIN_CAPABILITY_MINT, ChainCapability.CHAIN_CAPABILITY_BURN
MINTER, BURNER = ChainKeyRole.CHAIN_KEY_ROLE_MINTER, ChainKeyRole.CHAIN_KEY_ROLE_BURNER
ETHEREUM, SOLANA = "eip155:1", "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"
TOKEN = "eip155:1/erc20:0x9d275685dC284C8eB1C79f6ABA7a63Dc75ec890a"
KEY = "eip155:1:0x71C7656EC7ab88b098defB751B7401B5f6d8976F"
WALLET = wallet("alice")
CLOSE = CloseAccountRequest(account="book:closed")
OTHER_ADDRESS = "eip155:1:0x52908400098527886E0F7030069857D2E4169EE7"


@pytest.fixture
def books() -> Scenario:
    omnibus_stock = stock("OMNIx", "US5949181045", backing=Backing.BACKING_OMNIBUS)
    return Scenario().given(*two_holders(), stock("NVDAx", "US67066G1040"), omnibus_stock, register(ETHEREUM))


def deploy(instrument: str = "AAPLx", **changes: Any) -> RegisterDeploymentRequest:
    fields: dict[str, Any] = {"chain": ETHEREUM, "token": TOKEN, "capabilities": [BURN, MINT]}
    return deploy_on(instrument, **(fields | changes))


def omnibus(**changes: Any) -> RegisterDeploymentRequest:
    return deploy(**({"instrument": "OMNIx", "kind": OMNIBUS, "decimals": 18, "allotment_units": 0, "wallets": [KEY]} | changes))


def change(instrument: str = "AAPLx", **changes: Any) -> AmendDeploymentRequest:
    return change_on(instrument, **({"chain": ETHEREUM} | changes))


def set_key(**changes: Any) -> SetChainKeyRequest:
    return set_any_key(**({"key": KEY, "roles": [MINTER]} | changes))


def listed(books: Scenario, **filters: str) -> list[Deployment]:
    return list(books.books.execute(ListDeploymentsRequest(**filters)).deployments)


# ---- deployments -----------------------------------------------------------------------------------------------------------------------


def test_a_native_token(books: Scenario) -> None:
    wanted = Deployment(
        chain="eip155:1", instrument="AAPLx", token=TOKEN, decimals=8, kind=NATIVE, capabilities=[MINT, BURN], allotment_units=1_000
    )
    books.when(deploy(), approver="approver").accepted()
    assert books.booked[-1] == DeploymentRegistered(deployment=wanted)
    assert listed(books) == listed(books, chain="eip155:1", instrument="AAPLx") == [wanted]
    books.given(register("eip155:2"))
    assert listed(books, chain="eip155:2") == listed(books, instrument="NVDAx") == []


def test_somebody_elses_token(books: Scenario) -> None:
    books.given(omnibus(withdrawal_limits=WithdrawalLimits(units_per_day_max=5)))
    (found,) = listed(books)
    assert (list(found.wallets), found.withdrawal_limits.units_per_day_max, found.decimals) == ([KEY], 5, 18)


def test_deployments_are_listed_by_chain_and_instrument(books: Scenario) -> None:
    books.given(
        register(SOLANA), deploy("NVDAx"), deploy(chain=SOLANA, token=f"{SOLANA}/token:So1"), deploy(token=TOKEN.replace("9d", "8d"))
    )
    order = [(found.chain, found.instrument) for found in listed(books)]
    assert order == [("eip155:1", "AAPLx"), ("eip155:1", "NVDAx"), (SOLANA, "AAPLx")]
    first = books.books.execute(ListDeploymentsRequest(page_size=2))
    assert first.next_page_token == "eip155:1 NVDAx"
    rest = books.books.execute(ListDeploymentsRequest(page_size=2, page_token=first.next_page_token))
    assert [found.chain for found in rest.deployments] == [SOLANA]


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", deploy(chain="", instrument="NONEx")),
        ("FIELD_MALFORMED", deploy(chain="eip155", instrument="NONEx")),
        ("FIELD_MISSING", deploy("")),
        ("FIELD_MISSING", deploy("NONEx", token="")),
        ("FIELD_MALFORMED", deploy("NONEx", token="0x9d")),
        ("FIELD_MALFORMED", deploy("NONEx", token=TOKEN.replace("eip155:1", "eip155:2"))),
        ("FIELD_MALFORMED", deploy("NONEx", decimals=-1)),
        ("FIELD_MALFORMED", deploy("NONEx", decimals=37)),
        ("FIELD_MISSING", deploy("NONEx", kind=0)),
        ("FIELD_MALFORMED", deploy("NONEx", kind=3)),
        ("FIELD_MISSING", deploy("NONEx", capabilities=[0])),
        ("FIELD_MALFORMED", deploy("NONEx", capabilities=[99])),
        ("FIELD_MALFORMED", deploy("NONEx", capabilities=[MINT, MINT])),
        ("UNITS_NOT_POSITIVE", deploy("NONEx", allotment_units=-1)),
        ("UNITS_OUT_OF_RANGE", deploy("NONEx", allotment_units=2**62 + 1)),
        ("UNITS_NOT_POSITIVE", deploy("NONEx", withdrawal_limits=WithdrawalLimits(units_per_day_max=-1))),
        ("TOO_MANY_ITEMS", omnibus(instrument="NONEx", wallets=[KEY] * 65)),
        ("FIELD_MALFORMED", omnibus(instrument="NONEx", wallets=["eip155:1:0x1"])),
        ("FIELD_MALFORMED", omnibus(instrument="NONEx", wallets=[KEY.replace("eip155:1", "eip155:2")])),
        ("FIELD_MALFORMED", omnibus(instrument="NONEx", wallets=[KEY, KEY])),
        ("FIELD_MISSING", omnibus(instrument="NONEx", wallets=[])),
        ("FIELD_MALFORMED", omnibus(instrument="NONEx", allotment_units=1)),
        ("FIELD_MALFORMED", deploy("NONEx", wallets=[KEY])),
        ("FIELD_MALFORMED", deploy("NONEx", withdrawal_limits=WithdrawalLimits(units_per_day_max=1))),
        ("INSTRUMENT_NOT_FOUND", deploy("NONEx", chain="eip155:7", token=TOKEN.replace("eip155:1", "eip155:7"))),
        ("CHAIN_NOT_FOUND", deploy(chain="eip155:7", token=TOKEN.replace("eip155:1", "eip155:7"))),
        ("ALREADY_EXISTS", deploy("NVDAx", token=TOKEN.replace("9d", "8d"))),
        ("ALREADY_EXISTS", deploy("GONEx", token=TOKEN.replace("9d", "7d"))),
        ("INSTRUMENT_RETIRED", deploy("GONEx", chain="eip155:9", token="eip155:9/erc20:0x1")),
        ("STATE_UNFIT", deploy(chain="eip155:9", token="eip155:9/erc20:0x1")),
        ("STATE_UNFIT", deploy(decimals=7, allotment_units=10**17)),
        ("STATE_UNFIT", omnibus(decimals=7)),
        ("STATE_UNFIT", omnibus(instrument="AAPLx")),
        ("STATE_UNFIT", deploy("OMNIx")),
        ("AUTHORISED_EXCEEDED", deploy(allotment_units=10**16 + 1)),
    ],
)
def test_refused_deployments(books: Scenario, reason: str, command: Any) -> None:
    gone = stock("GONEx", "US0231351067")
    books.given(gone, RetireInstrumentRequest(instrument="GONEx"), register("eip155:9"), retire("eip155:9"))
    books.given(deploy("NVDAx", token=TOKEN.replace("9d", "7d")))
    books.when(command).raises(reason)


def test_all_chains_together_are_allotted_what_is_authorised(books: Scenario) -> None:
    books.given(register(SOLANA), deploy(allotment_units=10**16 - 5))
    other = {"chain": SOLANA, "token": f"{SOLANA}/token:So1"}
    books.when(deploy(**other, allotment_units=6)).raises("AUTHORISED_EXCEEDED", supply=10**16 - 5, units=6, authorised=10**16)
    books.given(deploy(**other, allotment_units=5))
    books.when(change(allotment_units=10**16 - 4)).raises("AUTHORISED_EXCEEDED")
    books.given(change(allotment_units=10**16 - 6), change(chain=SOLANA, allotment_units=6))
    books.when(AmendInstrumentRequest(instrument="AAPLx", authorised_units=10**16 - 1)).raises("AUTHORISED_EXCEEDED", units=10**16)
    books.given(change(chain=SOLANA, allotment_units=5), AmendInstrumentRequest(instrument="AAPLx", authorised_units=10**16 - 1))


def test_a_deployment_is_amended(books: Scenario) -> None:
    books.given(deploy(), omnibus(token=TOKEN.replace("9d", "8d")))
    books.when(change(allotment_units=0, halt_on_divergence=True, replace_capabilities=[MINT]), approver="approver").accepted()
    wanted = Deployment(chain=ETHEREUM, instrument="AAPLx", token=TOKEN, decimals=8, kind=NATIVE, capabilities=[MINT])
    wanted.halt_on_divergence = True
    assert books.booked[-1] == DeploymentAmended(deployment=wanted)
    books.given(change("OMNIx", replace_wallets=[OTHER_ADDRESS], withdrawal_limits=WithdrawalLimits(units_per_withdrawal_max=7)))
    found = listed(books)[1]
    assert (list(found.wallets), found.withdrawal_limits.units_per_withdrawal_max) == ([OTHER_ADDRESS], 7)
    books.given(change(retired=True))
    assert listed(books)[0].retired
    books.when(deploy(token=TOKEN.replace("9d", "7d"))).raises("ALREADY_EXISTS")


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", change(chain="", allotment_units=1)),
        ("FIELD_MISSING", change("", allotment_units=1)),
        ("UNITS_NOT_POSITIVE", change("NONEx", allotment_units=-1)),
        ("FIELD_MALFORMED", change("NONEx", replace_capabilities=[MINT, MINT])),
        ("FIELD_MALFORMED", change("NONEx", replace_wallets=["x"])),
        ("CHAIN_NOT_FOUND", change("NONEx", chain="eip155:7")),
        ("INSTRUMENT_NOT_FOUND", change("NONEx")),
        ("DEPLOYMENT_NOT_FOUND", change("USDC")),
        ("FIELD_MALFORMED", change(replace_wallets=[KEY])),
        ("FIELD_MALFORMED", change("OMNIx", allotment_units=5)),
        ("STATE_UNFIT", change("NVDAx", allotment_units=1)),
        ("NOTHING_TO_CHANGE", change(allotment_units=1_000)),
        ("NOTHING_TO_CHANGE", change()),
    ],
)
def test_refused_amendments(books: Scenario, reason: str, command: Any) -> None:
    books.given(deploy(), deploy("NVDAx", token=TOKEN.replace("9d", "8d")), change("NVDAx", retired=True))
    books.given(omnibus(token=TOKEN.replace("9d", "7d")))
    books.when(command).raises(reason)


# ---- keys ------------------------------------------------------------------------------------------------------------------------------


def keys(books: Scenario) -> list[ChainKey]:
    return list(books.books.execute(ListChainKeysRequest(chain="eip155:1")).keys)


def test_a_key_is_set_changed_and_retired(books: Scenario) -> None:
    books.when(set_key(roles=[BURNER, MINTER], instruments=["NVDAx", "AAPLx"], consumed_count=7), approver="approver").accepted()
    wanted = ChainKey(key=KEY, roles=[MINTER, BURNER], instruments=["AAPLx", "NVDAx"], consumed_count=7)
    assert books.booked[-1] == ChainKeySet(key=wanted)
    assert keys(books) == [wanted]
    books.given(set_key(consumed_count=3))
    assert keys(books) == [ChainKey(key=KEY, roles=[MINTER], consumed_count=7)]
    books.given(set_key(roles=[]))
    assert keys(books) == [ChainKey(key=KEY, retired=True, consumed_count=7)]


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", set_key(key="")),
        ("FIELD_MALFORMED", set_key(key="eip155:7:0x1")),
        ("FIELD_MISSING", set_key(key=KEY.replace(":1:", ":7:"), roles=[0])),
        ("FIELD_MALFORMED", set_key(key=KEY.replace(":1:", ":7:"), roles=[99])),
        ("FIELD_MALFORMED", set_key(key=KEY.replace(":1:", ":7:"), roles=[MINTER, MINTER])),
        ("FIELD_MALFORMED", set_key(key=KEY.replace(":1:", ":7:"), instruments=["NONEx", "NONEx"])),
        ("TOO_MANY_ITEMS", set_key(key=KEY.replace(":1:", ":7:"), instruments=[f"X{number}" for number in range(257)])),
        ("FIELD_MALFORMED", set_key(key=KEY.replace(":1:", ":7:"), consumed_count=-1)),
        ("CHAIN_NOT_FOUND", set_key(key=KEY.replace(":1:", ":7:"), instruments=["NONEx"])),
        ("INSTRUMENT_NOT_FOUND", set_key(instruments=["NONEx"])),
        ("NOTHING_TO_CHANGE", set_key()),
        ("NOTHING_TO_CHANGE", set_key(key=OTHER_ADDRESS, roles=[])),
    ],
)
def test_refused_keys(books: Scenario, reason: str, command: Any) -> None:
    books.given(set_key()).when(command).raises(reason)


# ---- addresses that stand for accounts -------------------------------------------------------------------------------------------------


def test_deposit_addresses_get_accounts_at_their_chain(books: Scenario) -> None:
    first = max(account.number for account in books.books._state.accounts.values()) + 1
    books.when(addresses((KEY, "book:alice"), (OTHER_ADDRESS, "book:bob"))).accepted()
    rows = [DepositAddress(deposit_address=KEY, account="book:alice"), DepositAddress(deposit_address=OTHER_ADDRESS, account="book:bob")]
    assert books.booked == [DepositAddressesRegistered(deposit_addresses=rows, account_numbers=[first, first + 1])]
    assert books.answer.deposit_address_count == 2
    found = books.books.execute(ListDepositAddressesRequest(chain="eip155:1")).deposit_addresses
    assert [row.deposit_address for row in found] == sorted([KEY, OTHER_ADDRESS])
    books.given(register("eip155:2"))
    assert not books.books.execute(ListDepositAddressesRequest(chain="eip155:2")).deposit_addresses


def test_a_thousand_addresses_at_once(books: Scenario) -> None:
    books.given(register("memory:a"))
    pairs = [(f"memory:a:{'d' * 120}{number}", "book:alice") for number in range(1_000)]
    books.when(addresses(*pairs)).accepted()
    assert (len(books.booked), books.answer.deposit_address_count) == (5, 1_000)
    books.when(addresses(*pairs, ("memory:a:more", "book:alice"))).raises("TOO_MANY_ITEMS")


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", RegisterDepositAddressesRequest()),
        ("FIELD_MALFORMED", addresses(("eip155:7:0x1", "book:nobody"))),
        ("FIELD_MISSING", addresses((KEY.replace(":1:", ":7:"), ""))),
        ("CHAIN_NOT_FOUND", addresses((KEY.replace(":1:", ":7:"), "book:nobody"))),
        ("ACCOUNT_NOT_FOUND", addresses((KEY, "book:nobody"))),
        ("ACCOUNT_RESERVED", addresses((KEY, "ledger:loss"))),
        ("PLACE_UNFIT", addresses((KEY, WALLET))),
        ("ALREADY_EXISTS", addresses((OTHER_ADDRESS, "book:closed"))),
        ("ALREADY_EXISTS", addresses((KEY, "book:closed"), (KEY, "book:closed"))),
        ("WALLET_BOUND", addresses((WALLET, "book:closed"))),
        ("ACCOUNT_CLOSED", addresses((KEY, "book:closed"))),
    ],
)
def test_refused_addresses(books: Scenario, reason: str, command: Any) -> None:
    books.given(
        register(),
        bound("alice", "h-1"),
        addresses((OTHER_ADDRESS, "book:bob")),
        account("book:closed", "h-1"),
        CloseAccountRequest(account="book:closed"),
    )
    books.when(command).raises(reason)


def test_an_address_with_units_stands_for_nobody(books: Scenario) -> None:
    """Nobody sent them for the account that it would stand for."""
    books.given(register(), deploy())
    state = books.books._state
    add_account(state, KEY, next_account_number(state), "")
    books.at_chain("AAPLx", KEY, 5)
    books.when(addresses((KEY, "book:alice"))).raises("STATE_UNFIT", account=KEY, instrument="AAPLx", holding=5)


def test_an_address_of_ours_is_nobodys_wallet(books: Scenario) -> None:
    books.given(register(), addresses((WALLET, "book:alice")))
    books.when(bound("alice", "h-1")).raises("WALLET_BOUND")


def test_a_wallet_seen_before_keeps_its_account(books: Scenario) -> None:
    state = books.books._state
    number = next_account_number(state)
    add_account(state, WALLET, number, "")
    books.replayable = False
    command = bound("alice", "h-1")
    books.when(command).then(WalletBound(account=WALLET, number=number, holder="h-1", signature=command.signature))
    assert list(state.accounts_of_holder["h-1"]) == ["book:alice", WALLET]
    books.when(bound("alice", "h-2")).raises("WALLET_BOUND", holder="h-1")


@pytest.mark.parametrize(
    ("command", "other"),
    [(deploy(), deploy(decimals=9)), (set_key(), set_key(roles=[BURNER])), (addresses((KEY, "book:alice")), addresses((KEY, "book:bob")))],
)
def test_a_repeat(books: Scenario, command: Any, other: Any) -> None:
    check_repeat(books, command, other)


def test_a_repeated_amendment(books: Scenario) -> None:
    check_repeat(books.given(deploy()), change(allotment_units=5), change(allotment_units=6))
