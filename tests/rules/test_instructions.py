"""What the ledger wants done on chains: derived from events, superseded, blocked, listed and given up."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from on_chains import A, B, addresses, bound, change, deploy, one_chain, register, wallet
from scenario import START_US, Scenario, account, two_holders
from steps import check_repeat

from ledger import LedgerError
from ledger.records import Instruction
from stockledger.v1.accounts_pb2 import (
    CloseAccountRequest,
    FreezeAccountRequest,
    FreezeHolderRequest,
    FreezeUnitsRequest,
    UnfreezeAccountRequest,
    UnfreezeHolderRequest,
    UnfreezeUnitsRequest,
)
from stockledger.v1.chains_pb2 import (
    AbandonInstructionRequest,
    ChainCapability,
    ChainFailure,
    GetInstructionRequest,
    InstructionAbandoned,
    InstructionKind,
    InstructionState,
    ListInstructionsRequest,
    ListPlacesRequest,
    RecordTransactionsRequest,
    Sequence,
    Transaction,
)
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.corporate_actions_pb2 import (
    ActionTerms,
    AnnounceActionRequest,
    CancelActionRequest,
    CashDividend,
    ExecuteActionRequest,
    FixEntitlementsRequest,
    StockSplit,
)
from stockledger.v1.instruments_pb2 import ActionMethod, HaltInstrumentRequest, ResumeInstrumentRequest, SetMultiplierRequest
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

ALICE, BOB, ALICE_ON_B = wallet("alice"), wallet("bob"), wallet("alice", B)
KIND = InstructionKind
FREEZE, PAUSE, MINT = KIND.INSTRUCTION_KIND_FREEZE, KIND.INSTRUCTION_KIND_PAUSE, KIND.INSTRUCTION_KIND_MINT
MULTIPLIER, ALLOTMENT = KIND.INSTRUCTION_KIND_SET_MULTIPLIER, KIND.INSTRUCTION_KIND_SET_ALLOTMENT
TRANSFER, ISSUE, REDEEM = Operation.OPERATION_TRANSFER, Operation.OPERATION_ISSUE, Operation.OPERATION_REDEEM
BARRED, PAUSED = ChainFailure.CHAIN_FAILURE_ACCOUNT_BARRED, ChainFailure.CHAIN_FAILURE_PAUSED
ONE = 10**18


@pytest.fixture
def books() -> Scenario:
    """AAPLx on two chains, alice with 100 in the book and wallets on both, bob with one on the first."""
    made = Scenario().given(*two_holders(), *one_chain(), register(B), deploy(chain=B), bound("alice", "h-1", B))
    return made.units("AAPLx", "book:alice", 100)


def of_kind(books: Scenario, kind: int, chain: str = "") -> list[Instruction]:
    found = books.books._state.instructions
    return [found[key] for key in sorted(found) if found[key].kind == kind and chain in ("", found[key].chain)]


def send(destination: str = ALICE, units: int = 40, source: str = "book:alice") -> TransferUnitsRequest:
    return TransferUnitsRequest(instrument="AAPLx", source=source, destination=destination, units=units)


def record(instruction: Instruction, number: int = 0) -> RecordTransactionsRequest:
    transaction = Transaction(key=f"{A}:key", sequence=Sequence(number=number), payload=b"p", instructions=[instruction.text])
    return RecordTransactionsRequest(chain=A, transactions=[transaction])


def moment(seconds: int) -> Timestamp:
    made = Timestamp()
    made.FromMicroseconds(START_US + seconds * 1_000_000)
    return made


# ---- freezes and halts -----------------------------------------------------------------------------------------------------------------


def test_a_frozen_holder_is_frozen_at_each_wallet(books: Scenario) -> None:
    books.given(FreezeHolderRequest(holder="h-1", legal_reference="OFAC"))
    found = of_kind(books, FREEZE)
    assert [(each.chain, each.source, each.frozen, each.legal_reference) for each in found] == [
        (A, ALICE, True, "OFAC"),
        (B, ALICE_ON_B, True, "OFAC"),
    ]
    books.given(FreezeAccountRequest(account=ALICE, legal_reference="court"), UnfreezeHolderRequest(holder="h-1", legal_reference="lifted"))
    assert [(each.chain, each.frozen) for each in of_kind(books, FREEZE)] == [(A, True), (B, False)]
    books.given(UnfreezeAccountRequest(account=ALICE, legal_reference="lifted"))
    assert [(each.chain, each.frozen) for each in of_kind(books, FREEZE, A)] == [(A, False)]


def test_what_is_recorded_is_waited_for(books: Scenario) -> None:
    books.given(FreezeAccountRequest(account=ALICE, legal_reference="court"))
    (first,) = of_kind(books, FREEZE)
    books.given(record(first), UnfreezeAccountRequest(account=ALICE, legal_reference="lifted"))
    first, second = of_kind(books, FREEZE)
    assert (first.frozen, second.frozen) == (True, False)
    books.when(record(second, 1)).raises("INSTRUCTION_BLOCKED", blocked_by="STATE_UNFIT")
    books.given(FreezeAccountRequest(account=ALICE, legal_reference="court 2"))
    assert [each.legal_reference for each in of_kind(books, FREEZE)] == ["court", "court 2"]


def test_units_are_frozen_where_the_token_can(books: Scenario) -> None:
    kind = KIND.INSTRUCTION_KIND_FREEZE_UNITS
    freeze = FreezeUnitsRequest(instrument="AAPLx", account=ALICE, units=7, legal_reference="court")
    books.when(freeze).accepted()
    (found,) = of_kind(books, kind)
    assert (found.source, found.units, found.raw) == (ALICE, 7, 7)
    books.given(UnfreezeUnitsRequest(instrument="AAPLx", account=ALICE, legal_reference="lifted"))
    assert [each.units for each in of_kind(books, kind)] == [0]
    books.given(change(replace_capabilities=[ChainCapability.CHAIN_CAPABILITY_MINT]))
    books.when(freeze).raises("CHAIN_INCAPABLE", needed="CHAIN_CAPABILITY_FREEZE_UNITS")
    books.given(FreezeUnitsRequest(instrument="AAPLx", account="book:alice", units=7, legal_reference="court"))
    assert len(of_kind(books, kind)) == 1


@pytest.mark.parametrize(
    ("halted", "separately", "together"),
    [
        ([TRANSFER], {TRANSFER}, {TRANSFER, ISSUE, REDEEM}),
        ([ISSUE], {ISSUE}, set()),
        ([REDEEM], {REDEEM}, set()),
        ([ISSUE, TRANSFER], {TRANSFER, ISSUE}, {TRANSFER, ISSUE, REDEEM}),
    ],
)
def test_what_a_halt_pauses(books: Scenario, halted: list[Any], separately: set[int], together: set[int]) -> None:
    books.given(change(chain=B, replace_capabilities=[ChainCapability.CHAIN_CAPABILITY_PAUSE]))
    books.given(HaltInstrumentRequest(instrument="AAPLx", operations=halted, cause="news"))
    assert [(each.chain, each.operations) for each in of_kind(books, PAUSE)] == [(A, separately), (B, together)]
    books.given(ResumeInstrumentRequest(instrument="AAPLx", operations=halted))
    assert [each.operations for each in of_kind(books, PAUSE)] == [set(), set()]


def test_a_new_token_is_brought_to_where_the_ledger_is(books: Scenario) -> None:
    books.given(register("memory:c"), bound("alice", "h-1", "memory:c"), FreezeHolderRequest(holder="h-1", legal_reference="OFAC"))
    books.given(HaltInstrumentRequest(instrument="AAPLx", operations=[TRANSFER], cause="news"))
    books.given(SetMultiplierRequest(instrument="AAPLx", expected_multiplier=str(ONE), multiplier=str(ONE // 2), cause="split"))
    books.given(deploy(chain="memory:c", allotment_units=5))
    found = [each for each in books.books._state.instructions.values() if each.chain == "memory:c"]
    assert [(each.kind, each.position) for each in found] == [(FREEZE, 0), (PAUSE, 1), (MULTIPLIER, 2), (ALLOTMENT, 3)]
    assert (found[0].source, found[2].multiplier, found[3].units) == (wallet("alice", "memory:c"), ONE // 2, 5)


def test_an_allotment_is_told(books: Scenario) -> None:
    assert [(each.chain, each.units) for each in of_kind(books, ALLOTMENT)] == [(A, 1_000), (B, 1_000)]
    books.given(change(allotment_units=7))
    assert [(each.chain, each.units) for each in of_kind(books, ALLOTMENT)] == [(B, 1_000), (A, 7)]


# ---- multipliers -----------------------------------------------------------------------------------------------------------------------


def split(name: str, seconds: int, new_shares: int = 2) -> AnnounceActionRequest:
    return AnnounceActionRequest(
        action=name,
        instrument="AAPLx",
        ex_date="2026-11-23",
        record_date="2026-11-23",
        payment_date="2026-11-23",
        execution_time=moment(seconds),
        method=ActionMethod.ACTION_METHOD_MULTIPLIER,
        terms=ActionTerms(stock_split=StockSplit(new_shares=new_shares, old_shares=1)),
    )


def told(books: Scenario, chain: str = A) -> list[tuple[int, int]]:
    """Return the multipliers a chain is to be told, with the seconds from the start at which they count."""
    return [(each.multiplier, (each.effective_time_us - START_US) // 1_000_000) for each in of_kind(books, MULTIPLIER, chain)]


def test_the_earliest_multiplier_is_set_ahead_and_then_the_next(books: Scenario) -> None:
    books.given(split("LATE", 2_000))
    assert told(books) == told(books, B) == [(2 * ONE, 2_000)]
    books.given(split("EARLY", 1_000, 3))
    assert told(books) == [(3 * ONE, 1_000)]
    books.pass_time(1_000).given(ExecuteActionRequest(action="EARLY"))
    assert told(books) == [(3 * ONE, 1_000), (6 * ONE, 2_000)]
    books.pass_time(1_000).given(ExecuteActionRequest(action="LATE"))
    assert told(books) == [(6 * ONE, 2_000)]
    assert not books.books._state.scheduled_multipliers


def test_an_action_executed_late_leaves_a_chain_that_was_told_ahead_as_it_is(books: Scenario) -> None:
    """Told of a later moment, a chain whose clock lags would put off what it has announced."""
    books.given(split("LATE", 1_000)).pass_time(1_030).given(ExecuteActionRequest(action="LATE"))
    assert told(books) == [(2 * ONE, 1_000)]


def test_a_cancelled_action_takes_its_multiplier_back(books: Scenario) -> None:
    books.given(split("LATE", 2_000), split("EARLY", 1_000, 3), CancelActionRequest(action="EARLY", cause="withdrawn"))
    assert told(books) == [(2 * ONE, 2_000)]
    books.given(CancelActionRequest(action="LATE", cause="withdrawn"))
    assert told(books) == [(ONE, 0)]


def test_a_multiplier_set_by_hand_changes_the_one_ahead(books: Scenario) -> None:
    books.given(split("LATE", 2_000))
    books.given(SetMultiplierRequest(instrument="AAPLx", expected_multiplier=str(ONE), multiplier=str(ONE // 2), cause="correction"))
    assert told(books) == [(ONE // 2, 0), (ONE, 2_000)]
    first, second = of_kind(books, MULTIPLIER, A)
    books.when(record(second)).raises("INSTRUCTION_BLOCKED")
    books.when(record(first)).accepted()


def test_a_token_that_comes_later_is_told_what_is_ahead(books: Scenario) -> None:
    books.given(split("LATE", 2_000), register("memory:c"), deploy(chain="memory:c", allotment_units=5))
    assert told(books, "memory:c") == [(2 * ONE, 2_000)]


def test_an_instrument_on_no_chain_sets_nothing_ahead() -> None:
    books = Scenario().given(*two_holders(), split("LATE", 2_000))
    assert not books.books._state.scheduled_multipliers
    books.given(*one_chain())
    assert told(books) == [(2 * ONE, 2_000)]


# ---- units in transit ------------------------------------------------------------------------------------------------------------------


def test_units_in_transit_earn_a_dividend_for_whose_they_are(books: Scenario) -> None:
    books.units("USDC", "book:fees", 1_000_000).given(send(BOB, 40), send(ALICE_ON_B, 10))
    terms = CashDividend(cash_instrument="USDC", cash_per_share_e8=10**15, funding_account="book:fees")
    announcement = AnnounceActionRequest(
        action="D-1",
        instrument="AAPLx",
        ex_date="2026-11-23",
        record_date="2026-11-23",
        payment_date="2026-11-23",
        fixing_time=moment(10),
        execution_time=moment(20),
        method=ActionMethod.ACTION_METHOD_HOLDINGS,
        terms=ActionTerms(cash_dividend=terms),
    )
    books.given(announcement).pass_time(10).given(FixEntitlementsRequest(action="D-1"))
    fixed = books.books._state.entitlements["D-1"]
    assert (fixed.accounts, fixed.units) == ((books.books._state.accounts["book:alice"].number,), (100,))


def test_a_split_by_holdings_waits_for_units_in_transit(books: Scenario) -> None:
    by_holdings = split("HOLDINGS", 10)
    by_holdings.method = ActionMethod.ACTION_METHOD_HOLDINGS
    books.given(by_holdings, send()).pass_time(10)
    books.when(ExecuteActionRequest(action="HOLDINGS")).raises("PLACE_UNFIT", account=f"transit:{A}", units=40)


def test_an_account_with_something_under_way_is_not_closed(books: Scenario) -> None:
    books.given(account("book:empty", "h-1"), addresses((f"{A}:deposit", "book:empty")))
    books.when(CloseAccountRequest(account="book:empty")).raises("ACCOUNT_NOT_EMPTY", due=f"deposit address {A}:deposit")
    books.given(send(BOB, 100))
    (mint,) = of_kind(books, MINT)
    for name in ("book:alice", BOB):
        books.when(CloseAccountRequest(account=name)).raises("ACCOUNT_NOT_EMPTY", due=f"instruction {mint.text}")
    books.when(CloseAccountRequest(account=ALICE)).accepted()


# ---- given up --------------------------------------------------------------------------------------------------------------------------


def abandon(instruction: str, **changes: Any) -> AbandonInstructionRequest:
    return AbandonInstructionRequest(**({"instruction": instruction, "cause": "asked for"} | changes))


@pytest.mark.parametrize(
    ("changes", "approver", "ends"),
    [
        ({}, "approver", {"book:alice": 100}),
        ({"return_account": "book:spare"}, "approver", {"book:spare": 40}),
        ({"return_account": ALICE_ON_B}, "approver", {f"transit:{B}": 40}),
        ({"return_account": ALICE}, "approver", {f"transit:{A}": 40}),
        ({"failure": BARRED}, None, {"book:alice": 100}),
    ],
)
def test_units_come_back_to_whose_they_are(books: Scenario, changes: dict[str, Any], approver: str | None, ends: dict[str, int]) -> None:
    books.given(account("book:spare", "h-1"), send())
    (mint,) = of_kind(books, MINT)
    books.when(abandon(mint.text, **changes), approver=approver).accepted()
    back = changes.get("return_account", "book:alice")
    wanted = InstructionAbandoned(
        instruction=mint.text, cause="asked for", instrument="AAPLx", returned_units=40, return_account=back, chain=A
    )
    wanted.failure = changes.get("failure", 0)
    assert books.booked[-1] == wanted
    assert {name: books.holding("AAPLx", name) for name in ends} == ends
    again = of_kind(books, MINT)
    assert [(each.destination, each.units, each.origin) for each in again] == ([(back, 40, back)] if back.startswith("memory") else [])


def test_what_came_from_a_chain_waits_for_a_name(books: Scenario) -> None:
    books.given(send())
    (mint,) = of_kind(books, MINT)
    books.given(abandon(mint.text, return_account=ALICE))
    (again,) = of_kind(books, MINT)
    books.when(abandon(again.text)).raises("STATE_UNFIT", origin=ALICE)
    books.when(abandon(again.text, failure=BARRED)).accepted()
    (refused,) = of_kind(books, MINT)
    assert (refused.state, refused.failure) == (InstructionState.INSTRUCTION_STATE_REFUSED, BARRED)
    books.when(record(refused)).raises("STATE_UNFIT")
    books.when(abandon(refused.text, return_account="book:alice"), approver="approver").accepted()
    assert (books.holding("AAPLx", "book:alice"), of_kind(books, MINT)) == (100, [])


REFUSED = [
    ("FIELD_MISSING", {"instruction": "", "cause": ""}),
    ("FIELD_MISSING", {"cause": ""}),
    ("FIELD_MALFORMED", {"cause": "x" * 141}),
    ("FIELD_MALFORMED", {"instruction": "9-9", "failure": 99}),
    ("FIELD_MALFORMED", {"instruction": "9-9", "failure": BARRED, "return_account": "book:nobody"}),
    ("INSTRUCTION_NOT_FOUND", {"instruction": "9-9", "return_account": "book:nobody"}),
    ("INSTRUCTION_NOT_FOUND", {"instruction": "nine"}),
    ("ACCOUNT_NOT_FOUND", {"return_account": "book:nobody"}),
    ("ACCOUNT_RESERVED", {"return_account": "ledger:loss"}),
    ("STATE_UNFIT", {"failure": PAUSED}),
    ("STATE_UNFIT", {"return_account": "book:bob"}),
    ("STATE_UNFIT", {"return_account": wallet("alice", "memory:d")}),
    ("STATE_UNFIT", {"instruction": "target", "return_account": "book:alice"}),
    ("ACCOUNT_CLOSED", {"return_account": "book:closed"}),
]


@pytest.mark.parametrize(("reason", "changes"), REFUSED)
def test_refused_to_give_up(books: Scenario, reason: str, changes: dict[str, Any]) -> None:
    books.given(account("book:closed", "h-1"), CloseAccountRequest(account="book:closed"), bound("alice", "h-1", "memory:d"), send())
    (mint,) = of_kind(books, MINT)
    if changes.get("instruction") == "target":
        changes = changes | {"instruction": of_kind(books, ALLOTMENT)[0].text}
    books.when(abandon(**({"instruction": mint.text} | changes))).raises(reason)


def test_a_repeat(books: Scenario) -> None:
    books.given(send())
    (mint,) = of_kind(books, MINT)
    check_repeat(books, abandon(mint.text, failure=BARRED), abandon(mint.text))


# ---- read ------------------------------------------------------------------------------------------------------------------------------


def test_instructions_are_listed_as_they_are_sent(books: Scenario) -> None:
    books.given(send(), send(ALICE_ON_B, 5), FreezeAccountRequest(account=ALICE, legal_reference="court"))
    listed = books.books.execute(ListInstructionsRequest()).instructions
    assert [(each.rank, each.kind, each.chain) for each in listed] == [
        (0, FREEZE, A), (1, ALLOTMENT, A), (1, ALLOTMENT, B), (1, MINT, A), (1, MINT, B),
    ]  # fmt: skip
    assert [each.blocked_by for each in listed] == ["", "", "", "ACCOUNT_FROZEN", ""]
    assert [each.token for each in listed] == [f"{each.chain}/token:AAPLx" for each in listed]
    paged, token = [], ""
    while True:
        page = books.books.execute(ListInstructionsRequest(page_size=2, page_token=token))
        paged += page.instructions
        token = page.next_page_token
        if not token:
            break
    assert paged == list(listed)
    for filters, count in (
        ({"chain": A}, 3),
        ({"instrument": "USDC"}, 0),
        ({"state": 1}, 5),
        ({"state": 2}, 0),
        ({"chain": B, "state": 1}, 2),
    ):
        assert len(books.books.execute(ListInstructionsRequest(**filters)).instructions) == count
    found = books.books.execute(GetInstructionRequest(instruction=listed[3].instruction)).instruction
    assert found == listed[3]
    with pytest.raises(LedgerError, match="FIELD_MALFORMED"):
        books.books.execute(ListInstructionsRequest(page_token="x"))
    with pytest.raises(LedgerError, match="INSTRUCTION_NOT_FOUND"):
        books.books.execute(GetInstructionRequest(instruction="9-9"))


def test_places_add_up(books: Scenario) -> None:
    books.at_chain("AAPLx", ALICE, 30).given(send(), send(ALICE_ON_B, 5))
    places = books.books.execute(ListPlacesRequest(instrument="AAPLx")).places
    found = [(each.place, each.units, each.transit_units) for each in places]
    assert found == [("book", 55, 0), (A, 30, 40), (B, 0, 5)]
    assert books.books.execute(ListPlacesRequest()).places == places
    assert [each.place for each in books.books.execute(ListPlacesRequest(instrument="USDC")).places] == ["book"]
    first = books.books.execute(ListPlacesRequest(page_size=1))
    rest = books.books.execute(ListPlacesRequest(page_token=first.next_page_token))
    assert [*first.places, *rest.places] == list(places)
