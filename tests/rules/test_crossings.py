"""Movements with an end at a chain: what is booked when they are decided, what follows on chain, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from on_chains import A, B, addresses, bound, change, deploy, omnibus, one_chain, register, set_key, wallet
from primary_market import market
from readers import Reader
from scenario import Scenario, account, enforcer, stock, two_holders
from steps import check_repeat, make_due

from ledger.records import Instruction
from stockledger.v1.accounts_pb2 import CloseAccountRequest, FreezeAccountRequest, FreezeHolderRequest
from stockledger.v1.chains_pb2 import AbandonInstructionRequest, ChainCapability, InstructionKind, WithdrawalLimits
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.eligibility_pb2 import EligibilityRule, SetEligibilityRequest
from stockledger.v1.instruments_pb2 import Backing, HaltInstrumentRequest
from stockledger.v1.issuance_pb2 import IssueUnitsRequest, UnitsIssued
from stockledger.v1.redemptions_pb2 import CancelRedemptionRequest, GetRedemptionRequest, RejectRedemptionRequest, RequestRedemptionRequest
from stockledger.v1.transfers_pb2 import ForceTransferRequest, TransferUnitsRequest, UnitsTransferred, UnitsTransferredByForce

ALICE, BOB, BOB_ON_B = wallet("alice"), wallet("bob"), wallet("bob", B)
ALL = [Operation.OPERATION_TRANSFER, Operation.OPERATION_ISSUE, Operation.OPERATION_REDEEM]
MINT, BURN = InstructionKind.INSTRUCTION_KIND_MINT, InstructionKind.INSTRUCTION_KIND_BURN
FORCE_TRANSFER, SEND = InstructionKind.INSTRUCTION_KIND_FORCE_TRANSFER, InstructionKind.INSTRUCTION_KIND_SEND


@pytest.fixture
def books() -> Scenario:
    """100 AAPLx in the book and 50 at alice's wallet, as if seen there, of 1,000 allotted to each of two chains."""
    made = Scenario().given(*two_holders(), enforcer(), *one_chain(), register(B), deploy(chain=B), bound("bob", "h-2", B))
    return made.units("AAPLx", "book:alice", 100).at_chain("AAPLx", ALICE, 50)


def send(source: str = "book:alice", destination: str = ALICE, units: int = 40, **changes: Any) -> TransferUnitsRequest:
    return TransferUnitsRequest(**({"instrument": "AAPLx", "source": source, "destination": destination, "units": units} | changes))


def force(source: str = ALICE, destination: str = BOB, units: int = 40, **changes: Any) -> ForceTransferRequest:
    fields = {"instrument": "AAPLx", "source": source, "destination": destination, "units": units}
    return ForceTransferRequest(**(fields | {"legal_reference": "court order 12/2026", "cause": "seizure"} | changes))


def halt(*operations: Any) -> HaltInstrumentRequest:
    return HaltInstrumentRequest(instrument="AAPLx", operations=operations, cause="news")


def moving(books: Scenario) -> list[Instruction]:
    """Return the instructions that move units, oldest first."""
    found = books.books._state.instructions
    return [found[key] for key in sorted(found) if found[key].kind in {MINT, BURN, FORCE_TRANSFER, SEND}]


def the_instruction(books: Scenario) -> Instruction:
    (found,) = moving(books)
    return found


# ---- what is booked, and what follows --------------------------------------------------------------------------------------------------


def test_from_the_book_units_wait_in_transit_for_a_mint(books: Scenario) -> None:
    size = books.books.size
    books.when(send(reference="mine")).then(
        UnitsTransferred(instrument="AAPLx", source="book:alice", destination=ALICE, units=40, reference="mine", chain=A)
    )
    assert [books.holding("AAPLx", name) for name in ("book:alice", f"transit:{A}", ALICE)] == [60, 40, 50]
    found = the_instruction(books)
    assert (found.text, found.chain, found.kind, found.destination, found.units, found.raw) == (f"{size}-0", A, MINT, ALICE, 40, 40)
    assert (found.origin, found.owner_account, found.source, found.onward) == ("book:alice", "book:alice", "", "")


def test_from_a_chain_nothing_is_booked_until_it_is_burned(books: Scenario) -> None:
    books.when(send(ALICE, "book:alice")).accepted()
    assert [books.holding("AAPLx", name) for name in ("book:alice", f"transit:{A}", ALICE)] == [100, 0, 50]
    found = the_instruction(books)
    assert (found.kind, found.source, found.onward, found.units) == (BURN, ALICE, "book:alice", 40)
    books.when(send(ALICE, "book:alice", 11)).raises("UNITS_INSUFFICIENT", free=10)
    books.when(send(ALICE, "book:alice", 10)).accepted()


def test_between_chains_it_is_burned_first(books: Scenario) -> None:
    books.when(send(ALICE, BOB_ON_B)).accepted()
    found = the_instruction(books)
    assert (found.chain, found.kind, found.source, found.onward) == (A, BURN, ALICE, BOB_ON_B)
    assert books.holding("AAPLx", f"transit:{B}") == 0
    books.given(change(chain=B, allotment_units=40))
    books.when(send(destination=BOB_ON_B, units=1)).raises("ALLOTMENT_EXCEEDED", units=40, needed=1, allotment=40)


def test_within_a_chain_by_force_alone(books: Scenario) -> None:
    books.when(send(ALICE, BOB)).raises("PLACE_UNFIT")
    event = UnitsTransferredByForce(instrument="AAPLx", source=ALICE, destination=BOB, units=40, chain=A)
    event.legal_reference, event.cause = "court order 12/2026", "seizure"
    books.when(force(), principal="enforcer", approver="approver").accepted()
    assert books.booked[-1] == event
    found = the_instruction(books)
    assert (found.kind, found.source, found.destination, found.legal_reference) == (FORCE_TRANSFER, ALICE, BOB, "court order 12/2026")
    assert books.holding("AAPLx", ALICE) == 50


@pytest.mark.parametrize(
    ("source", "destination", "kind", "in_transit"),
    [("book:alice", BOB, MINT, 40), (ALICE, "book:bob", BURN, 0), (ALICE, BOB_ON_B, BURN, 0)],
)
def test_force_crosses_like_a_transfer(books: Scenario, source: str, destination: str, kind: int, in_transit: int) -> None:
    books.given(FreezeHolderRequest(holder="h-1", legal_reference="OFAC"), halt(*ALL))
    books.when(force(source, destination), principal="enforcer", approver="approver").accepted()
    assert (the_instruction(books).kind, books.holding("AAPLx", f"transit:{A}")) == (kind, in_transit)
    assert the_instruction(books).legal_reference == "court order 12/2026"


def test_to_somebody_elses_token_units_are_sent_from_our_wallet() -> None:
    books = Scenario().given(
        *two_holders(), stock("OMNIx", "US5949181045", backing=Backing.BACKING_OMNIBUS), register(), bound("alice", "h-1")
    )
    books.given(enforcer(), omnibus(withdrawal_limits=WithdrawalLimits(units_per_withdrawal_max=50, units_per_day_max=70)))
    books.units("OMNIx", "book:alice", 200)
    books.when(send(instrument="OMNIx", units=51)).raises(
        "WITHDRAWAL_LIMIT_EXCEEDED", limit="units_per_withdrawal_max", allowed=50, needed=51
    )
    books.when(send(instrument="OMNIx", units=50)).accepted()
    found = the_instruction(books)
    assert (found.kind, found.source, found.destination, found.units) == (SEND, wallet("hot"), ALICE, 50)
    assert (found.raw, books.holding("OMNIx", f"transit:{A}")) == (50 * 10**10, 50)
    books.when(send(instrument="OMNIx", units=21)).raises("WITHDRAWAL_LIMIT_EXCEEDED", limit="units_per_day_max", allowed=70, needed=71)
    books.when(send(instrument="OMNIx", units=20)).accepted()
    books.pass_time(6 * 3600).when(send(instrument="OMNIx", units=50)).accepted()
    books.when(send(ALICE, "book:alice", instrument="OMNIx")).raises("PLACE_UNFIT")
    books.when(force(ALICE, BOB, instrument="OMNIx"), principal="enforcer").raises("ACCOUNT_NOT_FOUND")
    books.when(IssueUnitsRequest(instrument="OMNIx", account=ALICE, units=1)).raises("PLACE_UNFIT")


# ---- issuance and redemption -----------------------------------------------------------------------------------------------------------


def issued(**changes: Any) -> IssueUnitsRequest:
    return IssueUnitsRequest(**({"instrument": "AAPLx", "account": ALICE, "units": 30, "reference": "DTC 1"} | changes))


def test_units_are_issued_to_a_wallet_by_way_of_transit() -> None:
    books = market().given(*one_chain())
    supply = books.books._state.supply(books.books._state.instruments["AAPLx"].number)
    books.when(issued(), approver="approver").accepted()
    assert books.booked[-1] == UnitsIssued(instrument="AAPLx", account=ALICE, units=30, reference="DTC 1", chain=A)
    assert books.holding("AAPLx", f"transit:{A}") == 30
    assert books.books._state.supply(books.books._state.instruments["AAPLx"].number) == supply + 30
    found = the_instruction(books)
    assert (found.kind, found.destination, found.origin, found.owner_account) == (MINT, ALICE, "ledger:issuance", ALICE)
    books.when(issued(units=971)).raises("ALLOTMENT_EXCEEDED", units=30, needed=971, allotment=1000)
    books.given(change(replace_capabilities=[ChainCapability.CHAIN_CAPABILITY_BURN]))
    books.when(issued()).raises("CHAIN_INCAPABLE", needed="CHAIN_CAPABILITY_MINT")


def redeem(**changes: Any) -> RequestRedemptionRequest:
    fields = {"instrument": "AAPLx", "account": "book:alice", "wallet": ALICE, "units": 40, "cash_instrument": "USDC", "reference": "mine"}
    return RequestRedemptionRequest(**(fields | changes))


def test_units_of_a_wallet_are_redeemed_once_they_are_burned(books: Scenario) -> None:
    books.when(redeem()).accepted()
    event = books.booked[0]
    assert (event.redemption, event.hold, event.wallet) == (1, 0, ALICE)
    found = the_instruction(books)
    assert (found.kind, found.source, found.onward, found.redemption) == (BURN, ALICE, "book:alice", 1)
    assert books.holding("AAPLx", ALICE) == 50
    books.when(redeem(units=11)).raises("UNITS_INSUFFICIENT")
    books.when(CancelRedemptionRequest(redemption=1)).raises("STATE_UNFIT", state="burning")
    books.when(RejectRedemptionRequest(redemption=1, cause="late")).raises("STATE_UNFIT", state="burning")
    shown = books.books.execute(GetRedemptionRequest(redemption=1)).redemption
    assert (shown.wallet, shown.hold, shown.remaining_units) == (ALICE, 0, 0)
    books.when(AbandonInstructionRequest(instruction=found.text, cause="asked for"), approver="approver").accepted()
    assert not books.books._state.redemptions
    assert not books.books._state.promised


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("ACCOUNT_NOT_FOUND", redeem(wallet="memory:a:nobody")),
        ("ACCOUNT_RESERVED", redeem(wallet=f"transit:{A}")),
        ("PLACE_UNFIT", redeem(wallet="book:alice", instrument="USDC", cash_instrument="AAPLx")),
        ("DEPLOYMENT_NOT_FOUND", redeem(instrument="USDC", cash_instrument="AAPLx")),
        ("STATE_UNFIT", redeem(wallet=BOB)),
        ("UNITS_INSUFFICIENT", redeem(units=51)),
    ],
)
def test_refused_redemptions_from_a_wallet(books: Scenario, reason: str, command: Any) -> None:
    books.when(command).raises(reason)


# ---- what is refused -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", send(instrument="", units=0)),
        ("UNITS_NOT_POSITIVE", send(instrument="NONEx", units=0)),
        ("SAME_ACCOUNT", send(ALICE, ALICE, instrument="NONEx")),
        ("INSTRUMENT_NOT_FOUND", send(instrument="NONEx", destination="memory:a:nobody")),
        ("INSTRUMENT_NOT_FOUND", send(instrument="NONEx")),
        ("ACCOUNT_NOT_FOUND", send(destination="memory:a:nobody")),
        ("ACCOUNT_RESERVED", send("ledger:loss", ALICE)),
        ("ACCOUNT_RESERVED", send(ALICE, f"transit:{B}")),
        ("PLACE_UNFIT", send(destination=wallet("alice", "memory:c"))),
        ("PLACE_UNFIT", send(ALICE, wallet("alice", "memory:c"))),
        ("PLACE_UNFIT", send(destination=f"{A}:deposit")),
        ("PLACE_UNFIT", send(f"{A}:deposit", "book:alice")),
        ("PLACE_UNFIT", send(ALICE, BOB)),
        ("DEPLOYMENT_NOT_FOUND", send(instrument="USDC")),
        ("DEPLOYMENT_NOT_FOUND", send(instrument="USDC", source=ALICE, destination="book:alice")),
        ("CHAIN_INCAPABLE", send(instrument="NVDAx")),
        ("CHAIN_INCAPABLE", send(ALICE, "book:alice", instrument="NVDAx")),
        ("ACCOUNT_CLOSED", send(destination="book:closed", source=ALICE)),
        ("UNITS_INSUFFICIENT", send(units=101)),
        ("UNITS_INSUFFICIENT", send(ALICE, "book:alice", 51)),
        ("UNITS_INSUFFICIENT", send(units=1_001)),
    ],
)
def test_refused_transfers(books: Scenario, reason: str, command: Any) -> None:
    books.given(bound("alice", "h-1", "memory:c"), addresses((f"{A}:deposit", "book:alice")))
    books.given(stock("NVDAx", "US67066G1040"), deploy("NVDAx", capabilities=[]))
    books.given(account("book:closed", "h-2"), CloseAccountRequest(account="book:closed"))
    books.when(command).raises(reason)


@pytest.mark.parametrize(
    ("operation", "stopped", "free"),
    [
        (Operation.OPERATION_TRANSFER, [send(), send(ALICE, "book:alice"), send(ALICE, BOB_ON_B)], []),
        (Operation.OPERATION_ISSUE, [send(), send(ALICE, BOB_ON_B)], [send(ALICE, "book:alice")]),
        (Operation.OPERATION_REDEEM, [send(ALICE, "book:alice"), send(ALICE, BOB_ON_B), redeem()], [send()]),
    ],
)
def test_halts_of_the_ledger(books: Scenario, operation: Any, stopped: list[Any], free: list[Any]) -> None:
    books.given(halt(operation))
    for command in stopped:
        books.when(command).raises("INSTRUMENT_HALTED", operation=Operation.Name(operation))
    for command in free:
        books.when(command).accepted()


@pytest.mark.parametrize(
    ("halted", "stopped", "free"),
    [
        ((A, "AAPLx"), [send(), send(ALICE, "book:alice"), send(ALICE, BOB_ON_B), redeem()], [send(destination=BOB_ON_B)]),
        ((A, ""), [send(), send(ALICE, "book:alice"), send(ALICE, BOB_ON_B)], [send(destination=BOB_ON_B)]),
        ((B, "AAPLx"), [send(ALICE, BOB_ON_B), send(destination=BOB_ON_B)], [send(), send(ALICE, "book:alice", 1)]),
        ((A, "NVDAx"), [], [send(), send(ALICE, "book:alice", 1)]),
    ],
)
def test_a_divergence_stops_its_place(books: Scenario, halted: tuple[str, str], stopped: list[Any], free: list[Any]) -> None:
    state = books.books._state
    state.put(state.halts, halted, (7,))
    for command in stopped:
        books.when(command).raises("PLACE_HALTED", divergence=7)
    for command in free:
        books.when(command).accepted()


def test_force_stops_at_a_halted_place_and_at_a_closed_account(books: Scenario) -> None:
    books.given(account("book:closed", "h-2"), CloseAccountRequest(account="book:closed"))
    books.when(force(ALICE, "book:closed"), principal="enforcer").raises("ACCOUNT_CLOSED")
    books.when(force(), principal="operator").raises("NOT_PERMITTED")
    books.when(force(units=51), principal="enforcer").raises("UNITS_INSUFFICIENT", free=50)
    state = books.books._state
    state.put(state.halts, (A, "AAPLx"), (7,))
    books.when(force(), principal="enforcer").raises("PLACE_HALTED")
    make_due(books)
    books.when(force(), principal="enforcer").raises("ACTION_DUE")


@pytest.mark.parametrize("command", [send(), send(ALICE, "book:alice"), redeem()])
def test_parties_must_be_free(books: Scenario, command: Any) -> None:
    books.given(FreezeAccountRequest(account=ALICE, legal_reference="OFAC"))
    books.when(command).raises("ACCOUNT_FROZEN")
    make_due(books)
    books.when(command).raises("ACTION_DUE")


def test_an_instrument_without_eligibility_for_the_holder_of_the_wallet(books: Scenario) -> None:
    rule = EligibilityRule(effective_date="2026-11-01", barred_countries=["FR"])
    books.given(SetEligibilityRequest(instrument="AAPLx", rule=rule))
    books.when(send(destination=BOB)).raises("HOLDER_NOT_ELIGIBLE", holder="h-2")
    books.when(send(destination=ALICE)).accepted()


def test_the_allotment_counts_what_is_there_and_on_its_way(books: Scenario) -> None:
    books.given(change(allotment_units=90), send(units=39))
    books.when(send(units=2)).raises("ALLOTMENT_EXCEEDED", chain=A, units=89, needed=2, allotment=90)
    books.when(send(units=1)).accepted()
    books.when(change(allotment_units=89)).raises("ALLOTMENT_EXCEEDED")
    books.when(change(retired=True)).raises("INSTRUMENT_NOT_EMPTY", units=90)


@pytest.mark.parametrize("pack", [False, True])
def test_many_at_once_are_decided_as_one_by_one(books: Scenario, pack: bool) -> None:
    commands = [send(destination="book:bob", units=1), send(units=2)] * 20
    answers = books.books.execute_many(commands, pack=pack)
    assert [answer.event.chain for answer in answers] == ["", A] * 20
    assert [books.holding("AAPLx", name) for name in ("book:alice", "book:bob", f"transit:{A}")] == [40, 20, 40]
    books.check()


@pytest.mark.parametrize(("command", "other"), [(send(), send(units=41)), (send(ALICE, "book:alice"), send(ALICE, "book:bob"))])
def test_a_repeat(books: Scenario, command: Any, other: Any) -> None:
    check_repeat(books, command, other)


def test_seized_units_go_on_to_another_chain_though_their_owner_is_frozen(books: Scenario) -> None:
    reader = Reader(books)
    books.given(FreezeHolderRequest(holder="h-1", legal_reference="OFAC"))
    books.when(force(ALICE, BOB_ON_B), principal="enforcer", approver="approver").accepted()
    reader.carry_out(the_instruction(books))
    mint = the_instruction(books)
    assert (mint.chain, mint.kind, mint.origin, mint.legal_reference) == (B, MINT, ALICE, "court order 12/2026")
    books.given(set_key(f"{B}:key"))
    Reader(books, B).carry_out(mint)
    assert [books.holding("AAPLx", name) for name in (ALICE, f"transit:{B}", BOB_ON_B)] == [10, 0, 40]
