"""Names of chains, accounts and tokens; and how an adapter is found, or what to install."""

from __future__ import annotations

import importlib.metadata
from types import SimpleNamespace

import pytest

from chain_adapters.protocol import ENTRY_POINTS, AdapterMissing, Fate, FateKind, find_adapter
from ledger import LedgerError
from ledger.caip import AccountId, TokenId, check_chain, parse_account, parse_token

ADDRESS = "0x71C7656EC7ab88b098defB751B7401B5f6d8976F"
GENESIS = "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"
MINT = "XsbEhLAtcf6HdfpFZ5xEMdqW8nfAvcsP5bdudRLJzJp"


@pytest.mark.parametrize("chain", ["eip155:1", GENESIS, "memory:a", "abc:" + "x" * 32, "a-b-c-d-:_-9"])
def test_a_chain(chain):
    assert check_chain("chain", chain) == chain


@pytest.mark.parametrize(
    "chain",
    [
        *("eip155", "eip155:", ":1", "eip155:1:", "EIP155:1", "ab:1", "ninechars:1", "abc:" + "x" * 33, "eip155:1 ", "eip155:1\n"),
        *("eip155:\u0661", "book:1", "ledger:issuance", "transit:1"),
    ],
)
def test_no_chain(chain):
    with pytest.raises(LedgerError) as refused:
        check_chain("chain", chain)
    assert (refused.value.reason_name, refused.value.metadata) == ("FIELD_MALFORMED", {"field": "chain", "value": chain})


def test_an_account_and_a_token():
    assert parse_account("account", f"eip155:1:{ADDRESS}") == AccountId("eip155:1", ADDRESS)
    assert parse_account("account", f"{GENESIS}:{MINT}") == AccountId(GENESIS, MINT)
    assert parse_token("token", f"eip155:1/erc20:{ADDRESS}") == TokenId("eip155:1", "erc20", ADDRESS)
    assert parse_token("token", f"{GENESIS}/token:{MINT}") == TokenId(GENESIS, "token", MINT)


@pytest.mark.parametrize(
    "account", ["book:alice", "transit:eip155:1", "eip155:1", f"eip155:1:{ADDRESS}/x", "eip155:1:", "eip155:1:" + "a" * 129]
)
def test_no_account(account):
    with pytest.raises(LedgerError) as refused:
        parse_account("account", account)
    assert refused.value.reason_name == "FIELD_MALFORMED"


@pytest.mark.parametrize(
    "token", ["eip155:1", f"eip155:1:{ADDRESS}", f"eip155:1/{ADDRESS}", f"eip155:1/erc721:{ADDRESS}/7", "eip155:1/er:x"]
)
def test_no_token(token):
    with pytest.raises(LedgerError) as refused:
        parse_token("token", token)
    assert refused.value.reason_name == "FIELD_MALFORMED"


@pytest.mark.parametrize("check", [check_chain, parse_account, parse_token])
def test_nothing(check):
    with pytest.raises(LedgerError) as refused:
        check("chain", "")
    assert refused.value.reason_name == "FIELD_MISSING"


def point(name, value):
    return importlib.metadata.EntryPoint(name=name, value=value, group=ENTRY_POINTS)


def test_an_adapter_is_found_by_its_namespace():
    installed = [point("memory", "types:SimpleNamespace"), point("eip155", "json:loads")]
    assert find_adapter("memory:1", installed) is SimpleNamespace


def test_an_adapter_nobody_has():
    with pytest.raises(AdapterMissing, match=r"cosmos:hub: no adapter serves the namespace 'cosmos'; installed are: eip155, memory"):
        find_adapter("cosmos:hub", [point("memory", "json:loads"), point("eip155", "json:loads")])


def test_a_missing_extra_answers_with_the_command(tmp_path, monkeypatch):
    (tmp_path / "needs_much.py").write_text("import a_library_nobody_has\n\nconnect = a_library_nobody_has.connect\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AdapterMissing, match=r"module 'a_library_nobody_has'.*pip install 'stockledger\[evm\]'"):
        find_adapter("eip155:1", [point("eip155", "needs_much:connect [evm]")])


def test_two_adapters_for_one_namespace():
    with pytest.raises(AdapterMissing, match="json:dumps, json:loads; uninstall all but one"):
        find_adapter("eip155:1", [point("eip155", "json:loads"), point("eip155", "json:dumps")])


def test_no_chain_is_no_adapter_either():
    with pytest.raises(LedgerError, match="FIELD_MALFORMED"):
        find_adapter("eip155", [])


def test_a_death_has_its_proof():
    with pytest.raises(AssertionError):
        Fate(FateKind.DEAD)
