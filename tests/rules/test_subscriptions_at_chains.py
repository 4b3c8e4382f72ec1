"""Subscriptions whose units go to a wallet: from issuance into transit, minted, and to the wallet; or back to who paid."""

from __future__ import annotations

from typing import Any

import pytest
from on_chains import A, addresses, bound, change, deploy, omnibus, register, set_key, wallet
from primary_market import COST, FEE, ONE, USDC, evidence, fill, issue, market, moment, settle, subscribe
from readers import MINT, Reader, seen
from scenario import Scenario, enforcer, stock

from ledger import LedgerError
from ledger.records import Instruction
from stockledger.v1.accounts_pb2 import (
    CloseAccountRequest,
    FreezeAccountRequest,
    FreezeHolderRequest,
    OpenAccountRequest,
    UnfreezeAccountRequest,
    UnfreezeHolderRequest,
)
from stockledger.v1.chains_pb2 import ChainCapability, ChainFailure, InstructionKind, InstructionState
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.corporate_actions_pb2 import (
    ActionTerms,
    AnnounceActionRequest,
    CashDividend,
    ExecuteActionRequest,
    FixEntitlementsRequest,
    StockSplit,
)
from stockledger.v1.eligibility_pb2 import EligibilityRule, SetEligibilityRequest
from stockledger.v1.instruments_pb2 import ActionMethod, AmendInstrumentRequest, Backing, HaltInstrumentRequest, IssuePolicy
from stockledger.v1.issuance_pb2 import (
    CancelSubscriptionRequest,
    GetSubscriptionRequest,
    RejectSubscriptionRequest,
    SubscriptionRequested,
)
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

ALICE, BOB = wallet("alice"), wallet("bob")
TRANSIT = f"transit:{A}"
BARRED = ChainFailure.CHAIN_FAILURE_ACCOUNT_BARRED
AT_FILL = AmendInstrumentRequest(instrument="AAPLx", issue_policy=IssuePolicy.ISSUE_POLICY_AT_FILL)
RECORDED = InstructionState.INSTRUCTION_STATE_RECORDED


@pytest.fixture
def books() -> Scenario:
    return market().given(
        register(), deploy(allotment_units=1_000 * ONE), set_key(), bound("alice", "h-1"), bound("bob", "h-2"), enforcer()
    )


@pytest.fixture
def asked(books: Scenario) -> Scenario:
    return books.given(subscribe(receiving_account=ALICE))


def minting(books: Scenario) -> list[Instruction]:
    found = books.books._state.instructions
    return [found[key] for key in sorted(found) if found[key].kind == InstructionKind.INSTRUCTION_KIND_MINT]


def holdings(books: Scenario) -> tuple[int, int, int, int]:
    """Return what issuance, transit, the wallet and the account that paid have."""
    ledgers = -books.holding("AAPLx", "ledger:issuance")
    return ledgers, books.holding("AAPLx", TRANSIT), books.holding("AAPLx", ALICE), books.holding("AAPLx", "book:alice")


# ---- from request to the wallet --------------------------------------------------------------------------------------------------------


def test_it_names_where_its_units_go(books: Scenario) -> None:
    books.when(subscribe(receiving_account=ALICE)).then(
        SubscriptionRequested(
            subscription=1,
            instrument="AAPLx",
            account="book:alice",
            cash_instrument="USDC",
            cash_units=2_000 * USDC,
            hold=1,
            reference="order 77",
            receiving_account=ALICE,
        )
    )
    assert books.books.execute(GetSubscriptionRequest(subscription=1)).subscription.receiving_account == ALICE
    books.when(CloseAccountRequest(account=ALICE)).raises("ACCOUNT_NOT_EMPTY")


def test_units_created_at_settlement_go_by_way_of_transit(asked: Scenario) -> None:
    asked.when(fill()).accepted()
    (booked,) = asked.booked
    assert (booked.issued_units, booked.receiving_account, booked.chain) == (0, "", "")
    assert not minting(asked)
    asked.when(settle()).accepted()
    (booked,) = asked.booked
    assert (booked.issued_units, booked.account, booked.receiving_account, booked.chain) == (10 * ONE, "book:alice", ALICE, A)
    assert holdings(asked) == (10 * ONE, 10 * ONE, 0, 0)
    (mint,) = minting(asked)
    assert (mint.destination, mint.units, mint.origin, mint.owner_account) == (ALICE, 10 * ONE, "book:alice", ALICE)
    Reader(asked).carry_out(mint)
    assert holdings(asked) == (10 * ONE, 0, 10 * ONE, 0)


def test_units_created_with_the_fill_too(books: Scenario) -> None:
    books.given(AT_FILL, subscribe(receiving_account=ALICE)).when(fill()).accepted()
    (booked,) = books.booked
    assert (booked.issued_units, booked.receiving_account, booked.chain) == (10 * ONE, ALICE, A)
    Reader(books).carry_out(minting(books)[0])
    assert holdings(books) == (10 * ONE, 0, 10 * ONE, 0)
    books.when(settle()).accepted()
    (booked,) = books.booked
    assert (booked.issued_units, booked.chain) == (0, ""), "they are there already"
    assert not minting(books)


def test_each_fill_is_a_mint_of_its_own(asked: Scenario) -> None:
    asked.given(fill(shares_e8=4 * ONE, last=False), fill(shares_e8=5 * ONE), settle(fill=2), settle(fill=1))
    assert [each.units for each in minting(asked)] == [5 * ONE, 4 * ONE]
    reader = Reader(asked)
    for each in minting(asked):
        reader.carry_out(each)
    assert holdings(asked) == (9 * ONE, 0, 9 * ONE, 0)


def test_others_still_get_theirs_in_the_book(books: Scenario) -> None:
    books.given(subscribe(), fill(), settle())
    assert holdings(books) == (10 * ONE, 0, 0, 10 * ONE)


# ---- refusals, in their order ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "before", "changes"),
    [
        ("ACCOUNT_NOT_FOUND", (), {"receiving_account": "book:nobody"}),
        ("ACCOUNT_RESERVED", (), {"receiving_account": "ledger:loss"}),
        ("PLACE_UNFIT", (), {"receiving_account": "book:alice"}),
        ("PLACE_UNFIT", (OpenAccountRequest(account="book:alice-2", holder="h-1"),), {"receiving_account": "book:alice-2"}),
        ("PLACE_UNFIT", (addresses((wallet("deposit"), "book:alice")),), {"receiving_account": wallet("deposit")}),
        ("PLACE_UNFIT", (stock("OMNIx", backing=Backing.BACKING_OMNIBUS), omnibus()), {"instrument": "OMNIx", "receiving_account": ALICE}),
        ("DEPLOYMENT_NOT_FOUND", (stock("MSFTx", "US5949181045"),), {"instrument": "MSFTx", "receiving_account": ALICE}),
        ("CHAIN_INCAPABLE", (change(replace_capabilities=[ChainCapability.CHAIN_CAPABILITY_BURN]),), {"receiving_account": ALICE}),
        (
            "INSTRUMENT_HALTED",
            (HaltInstrumentRequest(instrument="AAPLx", operations=[Operation.OPERATION_ISSUE], cause="x"),),
            {"receiving_account": ALICE},
        ),
        ("ACCOUNT_CLOSED", (CloseAccountRequest(account=ALICE),), {"receiving_account": ALICE}),
        ("STATE_UNFIT", (), {"receiving_account": BOB}),
        ("UNITS_INSUFFICIENT", (), {"receiving_account": ALICE, "cash_units": 20_000 * USDC}),
    ],
)
def test_what_cannot_be_asked_for(books: Scenario, reason: str, before: Any, changes: dict[str, Any]) -> None:
    books.given(*before).when(subscribe(**changes)).raises(reason)


def test_a_frozen_wallet_can_neither_be_named_nor_filled_nor_settled(books: Scenario) -> None:
    freeze = FreezeAccountRequest(account=ALICE, legal_reference="order 1")
    books.given(freeze, principal="enforcer").when(subscribe(receiving_account=ALICE)).raises("ACCOUNT_FROZEN", account=ALICE)
    books.given(UnfreezeAccountRequest(account=ALICE, legal_reference="order 2"), principal="enforcer")
    books.given(subscribe(receiving_account=ALICE)).given(freeze, principal="enforcer")
    books.when(fill()).raises("ACCOUNT_FROZEN", account=ALICE)
    books.given(UnfreezeAccountRequest(account=ALICE, legal_reference="order 3"), principal="enforcer").given(fill())
    books.given(freeze, principal="enforcer").when(settle()).raises("ACCOUNT_FROZEN", account=ALICE)
    books.when(settle(in_book=True)).accepted()
    assert holdings(books) == (10 * ONE, 0, 0, 10 * ONE)


def test_a_holder_who_became_ineligible(asked: Scenario) -> None:
    asked.given(fill())
    rule = EligibilityRule(effective_date="2026-11-01", barred_countries=["DE"])
    asked.given(SetEligibilityRequest(instrument="AAPLx", rule=rule)).when(settle()).raises("HOLDER_NOT_ELIGIBLE")
    asked.when(settle(in_book=True)).raises("HOLDER_NOT_ELIGIBLE")


def test_a_halted_place_stops_creation_and_not_the_order(asked: Scenario) -> None:
    asked.given(fill(), change(halt_on_divergence=True))
    Reader(asked).see(seen(MINT, 7, "", wallet("stranger")))
    asked.when(settle()).raises("PLACE_HALTED")
    asked.when(subscribe(receiving_account=ALICE)).accepted()
    asked.when(settle(in_book=True)).accepted()


def test_more_than_is_allotted(asked: Scenario) -> None:
    asked.given(change(allotment_units=10 * ONE - 1), fill()).when(settle()).raises("ALLOTMENT_EXCEEDED", needed=10 * ONE)
    asked.given(change(allotment_units=10 * ONE)).when(settle()).accepted()


def test_more_than_reserves_cover_comes_before_the_allotment(asked: Scenario) -> None:
    asked.given(change(allotment_units=0), fill(), issue(units=995 * ONE)).when(settle()).raises("RESERVE_INSUFFICIENT")


def test_a_deployment_that_is_retired_leaves_the_book(asked: Scenario) -> None:
    asked.given(fill(), change(retired=True)).when(settle()).raises("DEPLOYMENT_NOT_FOUND")
    asked.when(settle(in_book=True)).accepted()
    assert holdings(asked) == (10 * ONE, 0, 0, 10 * ONE)


# ---- ends, and what happens meanwhile --------------------------------------------------------------------------------------------------


def test_rejected_and_cancelled(asked: Scenario) -> None:
    asked.when(CancelSubscriptionRequest(subscription=1)).accepted()
    asked.given(
        subscribe(receiving_account=ALICE),
        fill(subscription=2, last=False),
        RejectSubscriptionRequest(subscription=2, cause="market closed"),
    ).given(settle(subscription=2))
    assert holdings(asked) == (10 * ONE, 10 * ONE, 0, 0), "its fills are settled where they were to go"
    assert not asked.books._state.subscriptions


def test_a_chain_that_refuses_for_ever_gives_them_to_who_paid(asked: Scenario) -> None:
    asked.given(fill(), settle())
    paid = asked.holding("USDC", "book:issuer")
    Reader(asked).fail(minting(asked)[0], failure=BARRED, text="AccessDenied")
    assert holdings(asked) == (10 * ONE, 0, 0, 10 * ONE)
    assert not minting(asked)
    assert asked.holding("USDC", "book:issuer") == paid
    asked.given(TransferUnitsRequest(instrument="AAPLx", source="book:alice", destination=ALICE, units=10 * ONE))
    assert holdings(asked) == (10 * ONE, 10 * ONE, 0, 0), "and from there he may send them again"


def test_a_holder_frozen_on_the_way(asked: Scenario) -> None:
    asked.given(fill(), settle())
    asked.given(FreezeHolderRequest(holder="h-1", legal_reference="order 1"), principal="enforcer")
    reader = Reader(asked)
    with pytest.raises(LedgerError, match="HOLDER_FROZEN"):
        reader.record(minting(asked)[0])
    asked.given(UnfreezeHolderRequest(holder="h-1", legal_reference="order 2"), principal="enforcer")
    reader.carry_out(minting(asked)[0])
    assert holdings(asked) == (10 * ONE, 0, 10 * ONE, 0)


def _action(name: str, terms: ActionTerms, method: Any, **times: Any) -> AnnounceActionRequest:
    return AnnounceActionRequest(
        action=name,
        instrument="AAPLx",
        ex_date="2026-11-23",
        record_date="2026-11-23",
        payment_date="2026-11-23",
        method=method,
        terms=terms,
        **times,
    )


def _split(method: Any = ActionMethod.ACTION_METHOD_MULTIPLIER) -> AnnounceActionRequest:
    return _action("SPLIT", ActionTerms(stock_split=StockSplit(new_shares=10, old_shares=1)), method, execution_time=moment(1))


def test_a_split_between_fill_and_settlement(asked: Scenario) -> None:
    """By the multiplier: ten times the shares, as many units; the chain was told ahead of it."""
    asked.given(fill(), _split()).pass_time(3_600).given(ExecuteActionRequest(action="SPLIT"))
    renewed = {"as_of_time": "2026-11-22T19:00:00Z", "valid_until_time": "2026-11-23T18:00:00Z", "share_basis": 1}
    asked.given(evidence(10_000, **renewed), settle())
    (mint,) = minting(asked)
    assert mint.units == 10 * ONE
    Reader(asked).carry_out(mint)
    assert holdings(asked) == (10 * ONE, 0, 10 * ONE, 0)


def test_a_split_while_they_are_in_transit(asked: Scenario) -> None:
    asked.given(fill(), settle(), _split()).pass_time(3_600)
    reader = Reader(asked)
    transaction = reader.record(minting(asked)[0])
    asked.given(ExecuteActionRequest(action="SPLIT"))
    (mint,) = minting(asked)
    assert (mint.state, mint.units) == (RECORDED, 10 * ONE)
    reader.see(reader.effect_of(mint, transaction), landed=[reader.landed(transaction)])
    assert holdings(asked) == (10 * ONE, 0, 10 * ONE, 0), "a unit stands for more; they are as many"


def test_a_split_by_holdings_waits_until_they_have_arrived_nowhere_outside(asked: Scenario) -> None:
    asked.given(fill(), settle(), _split(ActionMethod.ACTION_METHOD_HOLDINGS)).pass_time(3_600)
    asked.when(ExecuteActionRequest(action="SPLIT")).raises("PLACE_UNFIT")


def test_a_dividend_while_they_are_in_transit_is_the_wallets(asked: Scenario) -> None:
    terms = ActionTerms(cash_dividend=CashDividend(cash_instrument="USDC", cash_per_share_e8=10**8, funding_account="book:issuer"))
    times = {"fixing_time": moment(0.5), "execution_time": moment(1)}
    asked.given(fill(), settle(), _action("DIV", terms, ActionMethod.ACTION_METHOD_HOLDINGS, **times)).pass_time(1_800)
    asked.given(FixEntitlementsRequest(action="DIV"))
    state = asked.books._state
    fixed = state.entitlements["DIV"]
    assert dict(zip(fixed.accounts, fixed.units, strict=True)) == {state.accounts[ALICE].number: 10 * ONE}


def test_what_it_cost_is_as_in_the_book(asked: Scenario) -> None:
    asked.given(fill())
    assert asked.holding("USDC", "book:alice") == 10_000 * USDC - COST - FEE
