"""Chains: registered with their accounts, amended, retired."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from scenario import Scenario, two_holders
from steps import check_repeat

from ledger.state import ISSUANCE
from stockledger.v1.accounts_pb2 import FreezeAccountRequest, GetAccountRequest
from stockledger.v1.chains_pb2 import (
    AmendChainRequest,
    Chain,
    ChainAmended,
    ChainPosition,
    ChainRegistered,
    FinalityRule,
    GetChainRequest,
    ListChainsRequest,
    RegisterChainRequest,
)
from stockledger.v1.common_pb2 import LegColumns
from stockledger.v1.transfers_pb2 import TransferBatchRequest, TransferUnitsRequest

CHAIN, DEPTH = FinalityRule.FINALITY_RULE_CHAIN, FinalityRule.FINALITY_RULE_DEPTH
CURSOR = ChainPosition(number=100, hash="0x88e9", time=Timestamp(seconds=1_795_370_000))
SOLANA = "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"


@pytest.fixture
def books() -> Scenario:
    return Scenario().given(*two_holders()).units("AAPLx", "book:alice", 100)


def register(chain: str = "eip155:1", **changes: Any) -> RegisterChainRequest:
    given: dict[str, Any] = {"chain": chain, "name": "Ethereum", "finality_rule": CHAIN, "cursor": CURSOR}
    return RegisterChainRequest(**(given | changes))


def amend(**changes: Any) -> AmendChainRequest:
    return AmendChainRequest(**({"chain": "eip155:1"} | changes))


def chain_of(books: Scenario, chain: str = "eip155:1") -> Chain:
    return books.books.execute(GetChainRequest(chain=chain)).chain


def test_a_chain_gets_its_cursor_and_three_accounts(books: Scenario) -> None:
    first = max(account.number for account in books.books._state.accounts.values()) + 1
    numbers = {"transit_account_number": first, "divergence_account_number": first + 1, "unattributed_account_number": first + 2}
    wanted = Chain(chain="eip155:1", name="Ethereum", finality_rule=CHAIN, cursor=CURSOR, **numbers)
    books.when(register(), approver="approver").accepted()
    assert books.booked[-1] == ChainRegistered(chain=wanted)
    assert chain_of(books) == wanted
    for number, name in enumerate(("transit:eip155:1", "divergence:eip155:1", "unattributed:eip155:1"), first):
        account = books.books.execute(GetAccountRequest(account=name)).account
        assert (account.number, account.holder) == (number, "")


def test_the_next_chain_has_numbers_of_its_own(books: Scenario) -> None:
    books.given(register(), register(SOLANA, name="Solana", finality_rule=DEPTH, finality_depth=32))
    listed = books.books.execute(ListChainsRequest()).chains
    assert [found.chain for found in listed] == ["eip155:1", SOLANA]
    assert listed[1].transit_account_number == listed[0].unattributed_account_number + 1
    first = books.books.execute(ListChainsRequest(page_size=1))
    assert [found.chain for found in first.chains] == ["eip155:1"]
    rest = books.books.execute(ListChainsRequest(page_size=1, page_token=first.next_page_token))
    assert ([found.chain for found in rest.chains], rest.next_page_token) == ([SOLANA], "")


def position(**changes: Any) -> ChainPosition:
    given: dict[str, Any] = {"number": 100, "hash": "0x88e9", "time": CURSOR.time}
    return ChainPosition(**{name: value for name, value in (given | changes).items() if value is not None})


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", register("")),
        ("FIELD_MALFORMED", register("Ethereum")),
        ("FIELD_MALFORMED", register("book:1")),
        ("FIELD_MISSING", register(name="")),
        ("FIELD_MALFORMED", register(name="x" * 141)),
        ("FIELD_MISSING", register(finality_rule=0)),
        ("FIELD_MALFORMED", register(finality_rule=9)),
        ("FIELD_MALFORMED", register(finality_depth=1)),
        ("FIELD_MALFORMED", register(finality_rule=DEPTH)),
        ("FIELD_MALFORMED", register(finality_rule=DEPTH, finality_depth=10_001)),
        ("FIELD_MALFORMED", register(finality_rule=DEPTH, finality_depth=-1)),
        ("FIELD_MISSING", register(cursor=None)),
        ("FIELD_MALFORMED", register(cursor=position(number=-1))),
        ("FIELD_MISSING", register(cursor=position(hash=""))),
        ("FIELD_MALFORMED", register(cursor=position(hash="x" * 129))),
        ("FIELD_MISSING", register(cursor=position(time=None))),
        ("FIELD_MALFORMED", register(cursor=position(time=Timestamp(nanos=1)))),
        ("ALREADY_EXISTS", register()),
        ("FIELD_MISSING", amend(chain="", retired=True)),
        ("FIELD_MALFORMED", amend(chain="eip155", retired=True)),
        ("FIELD_MISSING", amend(name="")),
        ("FIELD_MISSING", amend(finality_depth=5)),  # a depth goes with its rule
        ("FIELD_MALFORMED", amend(finality_rule=CHAIN, finality_depth=5)),
        ("CHAIN_NOT_FOUND", amend(chain="eip155:2", retired=True)),
        ("STATE_UNFIT", amend(chain="eip155:9", name="x")),
        ("NOTHING_TO_CHANGE", amend()),
        ("NOTHING_TO_CHANGE", amend(name="Ethereum", finality_rule=CHAIN, finality_depth=0, retired=False)),
    ],
)
def test_refused(books: Scenario, reason: str, command: Any) -> None:
    books.given(register(), register("eip155:9"), amend(chain="eip155:9", retired=True))
    books.when(command).raises(reason)


@pytest.mark.parametrize("depth", [1, 10_000])
def test_depths(books: Scenario, depth: int) -> None:
    books.given(register(finality_rule=DEPTH, finality_depth=depth))
    assert chain_of(books).finality_depth == depth


def test_amended(books: Scenario) -> None:
    books.given(register()).when(amend(name="Mainnet", finality_rule=DEPTH, finality_depth=64), approver="approver").accepted()
    assert books.booked[-1] == ChainAmended(chain="eip155:1", name="Mainnet", finality_rule=DEPTH, finality_depth=64)
    found = chain_of(books)
    assert (found.name, found.finality_rule, found.finality_depth, found.retired) == ("Mainnet", DEPTH, 64, False)


@pytest.mark.parametrize("place", ["transit", "divergence", "unattributed"])
def test_a_chain_with_units_is_not_retired(books: Scenario, place: str) -> None:
    books.given(register()).units("AAPLx", f"{place}:eip155:1", 5)
    books.when(amend(retired=True)).raises("ACCOUNT_NOT_EMPTY", account=f"{place}:eip155:1", instrument="AAPLx", units=5)
    state = books.books._state
    state.post(state.instruments["AAPLx"].number, state.accounts[f"{place}:eip155:1"].number, ISSUANCE, 5)
    books.given(amend(retired=True))
    assert chain_of(books).retired
    books.when(register()).raises("ALREADY_EXISTS")


@pytest.mark.parametrize("name", ["transit:eip155:1", "divergence:eip155:1", "unattributed:eip155:1"])
def test_the_accounts_of_a_chain_are_the_ledgers_own(books: Scenario, name: str) -> None:
    books.given(register())
    number = {account.name: account.number for account in books.books._state.accounts.values()}
    books.when(TransferUnitsRequest(instrument="AAPLx", source="book:alice", destination=name, units=1)).raises("ACCOUNT_RESERVED")
    books.when(TransferUnitsRequest(instrument="AAPLx", source=name, destination="book:alice", units=1)).raises("ACCOUNT_RESERVED")
    books.when(FreezeAccountRequest(account=name, legal_reference="order 1")).raises("ACCOUNT_RESERVED")
    for leg_count in (1, 100):
        legs = LegColumns(
            instrument="AAPLx", sources=[number["book:alice"]] * leg_count, destinations=[number[name]] * leg_count, units=[1] * leg_count
        )
        books.when(TransferBatchRequest(legs=[legs])).raises("ACCOUNT_RESERVED", leg=0)


def test_a_repeat(books: Scenario) -> None:
    check_repeat(books, register(), register(name="Other"))
