"""RecoverWallet of a wallet at a chain: what is decided, what follows there, when it is booked, and every refusal in its order."""

from __future__ import annotations

from typing import Any

import pytest
from on_chains import A, B, addresses, bound, change, deploy, omnibus, one_chain, register, set_key, wallet
from readers import MINT, TRANSFER, Reader, seen
from scenario import Scenario, enforcer, stock, two_holders
from steps import check_repeat, make_due

from ledger.records import Instruction
from stockledger.v1.accounts_pb2 import (
    AmendHolderRequest,
    CloseAccountRequest,
    FreezeAccountRequest,
    FreezeHolderRequest,
    FreezeUnitsRequest,
    GetAccountRequest,
    HolderState,
    RecoverWalletRequest,
    UnfreezeAccountRequest,
    WalletRecovered,
)
from stockledger.v1.approvals_pb2 import ApprovalGiven, ApprovalPolicy, ApproveCommandRequest, SetApprovalPolicyRequest
from stockledger.v1.chains_pb2 import (
    AbandonInstructionRequest,
    ChainCapability,
    GetInstructionRequest,
    InstructionKind,
    ListInstructionsRequest,
)
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.eligibility_pb2 import EligibilityRule, SetEligibilityRequest
from stockledger.v1.instruments_pb2 import Backing, HaltInstrumentRequest
from stockledger.v1.transfers_pb2 import TransferUnitsRequest, UnitsTransferredByForce

LOST, KEPT, KEPT_ON_B, BOB = wallet("alice"), wallet("alice-2"), wallet("alice", B), wallet("bob")
FORCE, BURN, FREEZE = (
    InstructionKind.INSTRUCTION_KIND_FORCE_TRANSFER,
    InstructionKind.INSTRUCTION_KIND_BURN,
    InstructionKind.INSTRUCTION_KIND_FREEZE,
)
EVIDENCE = "affidavit 2026-117"


@pytest.fixture
def books() -> Scenario:
    """100 AAPLx of alice in the book; at her lost wallet 50 AAPLx and 7 NVDAx, as if seen there."""
    made = Scenario().given(*two_holders(), stock("NVDAx", "US67066G1040"), enforcer(), *one_chain(), deploy("NVDAx"))
    made.given(bound("alice-2", "h-1"), register(B), deploy(chain=B), deploy("NVDAx", B), set_key(f"{B}:key"), bound("alice", "h-1", B))
    return made.units("AAPLx", "book:alice", 100).at_chain("AAPLx", LOST, 50).at_chain("NVDAx", LOST, 7)


def recover(**changes: Any) -> RecoverWalletRequest:
    return RecoverWalletRequest(**({"lost_account": LOST, "account": KEPT, "evidence": EVIDENCE} | changes))


def recovered(books: Scenario, **changes: Any) -> Scenario:
    """Have the wallet recovered, with its approval."""
    return books.when(recover(**changes), principal="enforcer", approver="judge").accepted()


def forced(instrument: str, units: int, destination: str = KEPT) -> UnitsTransferredByForce:
    event = UnitsTransferredByForce(instrument=instrument, source=LOST, destination=destination, units=units, chain=A)
    event.legal_reference, event.cause = EVIDENCE, "recovery of a lost wallet"
    return event


def of_kind(books: Scenario, kind: int) -> list[Instruction]:
    found = books.books._state.instructions
    return [found[key] for key in sorted(found) if found[key].kind == kind]


def send(source: str, destination: str, units: int) -> TransferUnitsRequest:
    return TransferUnitsRequest(instrument="AAPLx", source=source, destination=destination, units=units)


# ---- what is decided, and what follows at the chain -----------------------------------------------------------------------------------


def test_nothing_is_booked_but_the_decision(books: Scenario) -> None:
    books.when(recover(), principal="enforcer").accepted()
    approval = books.answer.booking.approval
    assert not of_kind(books, FREEZE), "nothing is asked of the chain before the approval"
    books.when(ApproveCommandRequest(approval=approval), principal="judge").accepted()
    assert isinstance(books.booked[0], ApprovalGiven)
    decision = WalletRecovered(lost_account=LOST, account=KEPT, evidence=EVIDENCE)
    assert books.booked[1:] == [decision, forced("AAPLx", 50), forced("NVDAx", 7)]
    assert [books.holding(symbol, LOST) for symbol in ("AAPLx", "NVDAx")] == [50, 7], "the chain decides"
    assert books.books.execute(GetAccountRequest(account=LOST)).account.freeze_reference == EVIDENCE


def test_the_wallet_is_frozen_at_the_chain_before_its_units_are_taken(books: Scenario) -> None:
    size = recovered(books).books.size
    listed = books.books.execute(ListInstructionsRequest(chain=A)).instructions
    wanted = [each for each in listed if each.kind in {FREEZE, FORCE}]
    assert [(each.instruction, each.kind, each.instrument) for each in wanted] == [
        (f"{size - 3}-0", FREEZE, "AAPLx"),
        (f"{size - 3}-1", FREEZE, "NVDAx"),
        (f"{size - 2}-0", FORCE, "AAPLx"),
        (f"{size - 1}-0", FORCE, "NVDAx"),
    ]
    assert {(each.source, each.legal_reference, each.blocked_by) for each in wanted} == {(LOST, EVIDENCE, "")}
    assert [(each.frozen, each.destination, each.units) for each in wanted[1:3]] == [(True, "", 0), (False, KEPT, 50)]


def test_units_move_when_the_chain_has_done_it(books: Scenario) -> None:
    recovered(books)
    reader = Reader(books)
    for each in [*of_kind(books, FREEZE), *of_kind(books, FORCE)]:
        reader.carry_out(each)
    assert [books.holding(symbol, name) for name in (LOST, KEPT) for symbol in ("AAPLx", "NVDAx")] == [0, 0, 50, 7]
    assert not of_kind(books, FREEZE)
    assert not of_kind(books, FORCE)
    assert not books.books._state.promised


def test_without_a_policy_the_answer_is_the_decision(books: Scenario) -> None:
    books.given(SetApprovalPolicyRequest(policy=ApprovalPolicy(command="RecoverWallet", approvals_needed=0)))
    books.when(recover(), principal="enforcer").accepted()
    assert (books.answer.event, books.answer.booking.entry_count) == (books.booked[0], 3)


def test_into_the_book_units_are_burned_and_credited(books: Scenario) -> None:
    recovered(books, account="book:alice")
    assert books.booked[-1] == forced("NVDAx", 7, "book:alice")
    (burn, _) = of_kind(books, BURN)
    assert (burn.source, burn.onward, burn.units, burn.legal_reference) == (LOST, "book:alice", 50, EVIDENCE)
    assert books.holding("AAPLx", "book:alice") == 100
    Reader(books).carry_out(burn)
    assert [books.holding("AAPLx", name) for name in (LOST, "book:alice")] == [0, 150]


def test_to_another_chain_units_are_burned_and_minted(books: Scenario) -> None:
    recovered(books, account=KEPT_ON_B)
    Reader(books).carry_out(of_kind(books, BURN)[0])
    (mint,) = of_kind(books, InstructionKind.INSTRUCTION_KIND_MINT)
    assert (mint.chain, mint.destination, mint.origin, mint.legal_reference) == (B, KEPT_ON_B, LOST, EVIDENCE)
    Reader(books, B).carry_out(mint)
    assert [books.holding("AAPLx", name) for name in (LOST, f"transit:{B}", KEPT_ON_B)] == [0, 0, 50]


def test_an_empty_wallet_is_frozen_all_the_same(books: Scenario) -> None:
    recovered(books, lost_account=KEPT, account=LOST)
    assert books.booked[-1] == WalletRecovered(lost_account=KEPT, account=LOST, evidence=EVIDENCE)
    assert [(each.source, each.frozen) for each in of_kind(books, FREEZE)] == [(KEPT, True)] * 2
    assert not of_kind(books, FORCE)


def test_a_token_that_cannot_freeze_is_forced_all_the_same(books: Scenario) -> None:
    able = [ChainCapability.CHAIN_CAPABILITY_BURN, ChainCapability.CHAIN_CAPABILITY_FORCE_TRANSFER]
    books.given(change("NVDAx", replace_capabilities=able))
    recovered(books)
    assert [each.instrument for each in of_kind(books, FREEZE)] == ["AAPLx"]
    assert [each.instrument for each in of_kind(books, FORCE)] == ["AAPLx", "NVDAx"]


def test_somebody_elses_token_in_the_wallet_is_in_no_book(books: Scenario) -> None:
    books.given(stock("OMNIx", "US5949181045", backing=Backing.BACKING_OMNIBUS), omnibus())
    theirs = {"instrument": "OMNIx", "token": f"{A}/token:OMNIx"}
    Reader(books).see(seen(MINT, 10**18, "", LOST, **theirs), seen(TRANSFER, 10**17, LOST, BOB, **theirs))
    recovered(books)
    assert [event.instrument for event in books.booked[-2:]] == ["AAPLx", "NVDAx"]


# ---- what the wallet may still do, and what comes to it later --------------------------------------------------------------------------


def test_promised_units_are_not_taken_twice(books: Scenario) -> None:
    books.given(send(LOST, "book:alice", 20))
    (burn,) = of_kind(books, BURN)
    recovered(books)
    assert books.booked[-2:] == [forced("AAPLx", 30), forced("NVDAx", 7)]
    assert books.books.execute(GetInstructionRequest(instruction=burn.text)).instruction.blocked_by == "ACCOUNT_FROZEN"
    recovered(books, evidence="affidavit 2026-118")
    assert isinstance(books.booked[-1], WalletRecovered), "all is promised"
    books.given(AbandonInstructionRequest(instruction=burn.text, cause="wallet lost"))
    recovered(books)
    assert books.booked[-1] == forced("AAPLx", 20)


def test_more_may_be_promised_than_is_left(books: Scenario) -> None:
    """Its owner, or a thief, sent units away that a burn was to take."""
    books.given(send(LOST, "book:alice", 20))
    Reader(books).see(seen(TRANSFER, 40, LOST, BOB))
    recovered(books)
    assert books.booked[-1] == forced("NVDAx", 7)


def test_the_lost_wallet_takes_no_part_in_anything(books: Scenario) -> None:
    books.given(send("book:alice", LOST, 5))
    recovered(books)
    books.when(send("book:alice", LOST, 1)).raises("ACCOUNT_FROZEN", account=LOST, legal_reference=EVIDENCE)
    books.when(send(LOST, "book:alice", 1)).raises("ACCOUNT_FROZEN")
    (mint,) = of_kind(books, InstructionKind.INSTRUCTION_KIND_MINT)
    books.given(AbandonInstructionRequest(instruction=mint.text, cause="wallet lost", return_account=KEPT))
    (mint,) = of_kind(books, InstructionKind.INSTRUCTION_KIND_MINT)
    assert (mint.destination, mint.units) == (KEPT, 5), "what was on its way to it goes to the other wallet"


def test_what_others_send_there_later_is_recovered_by_another_one(books: Scenario) -> None:
    recovered(books)
    Reader(books).see(seen(TRANSFER, 3, BOB, LOST))
    recovered(books)
    assert books.booked[-1] == forced("AAPLx", 3)


def test_a_wallet_that_was_found_is_unfrozen(books: Scenario) -> None:
    recovered(books).given(UnfreezeAccountRequest(account=LOST, legal_reference="found"))
    assert [(each.instrument, each.frozen) for each in of_kind(books, FREEZE)] == [("AAPLx", False), ("NVDAx", False)]


def test_freezes_of_the_wallet_halts_and_eligibility_do_not_stop_it(books: Scenario) -> None:
    books.given(FreezeAccountRequest(account=LOST, legal_reference="reported lost"))
    books.given(FreezeUnitsRequest(instrument="AAPLx", account=LOST, units=50, legal_reference="lien"))
    books.given(HaltInstrumentRequest(instrument="AAPLx", operations=Operation.values()[1:], cause="news"))
    books.given(SetEligibilityRequest(instrument="AAPLx", rule=EligibilityRule(effective_date="2026-01-01", barred_countries=["DE"])))
    recovered(books)
    assert books.booked[-2] == forced("AAPLx", 50)
    assert [each.legal_reference for each in of_kind(books, FREEZE)] == [EVIDENCE] * 2


def test_the_approval_is_decided_by_the_state_of_its_moment(books: Scenario) -> None:
    approval = books.when(recover(), principal="enforcer").accepted().answer.booking.approval
    Reader(books).see(seen(TRANSFER, 40, LOST, BOB))
    books.when(ApproveCommandRequest(approval=approval), principal="judge").accepted()
    assert books.booked[-2] == forced("AAPLx", 10)


# ---- what is refused -------------------------------------------------------------------------------------------------------------------

ELSEWHERE, DEPOSIT, UNBOUND, UNBOUND_TOO, CLOSED = (
    wallet("alice", "memory:c"),
    f"{A}:deposit",
    wallet("stranger"),
    wallet("stranger-2"),
    wallet("closed"),
)


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", recover(evidence="", account=LOST)),
        ("SAME_ACCOUNT", recover(lost_account=UNBOUND, account=UNBOUND)),
        ("ACCOUNT_NOT_FOUND", recover(lost_account=f"{A}:nobody", account=f"transit:{A}")),
        ("ACCOUNT_RESERVED", recover(lost_account=f"transit:{A}", account=ELSEWHERE)),
        ("PLACE_UNFIT", recover(lost_account=ELSEWHERE, account=f"{A}:nobody")),
        ("PLACE_UNFIT", recover(lost_account=DEPOSIT, account=UNBOUND)),
        ("ACCOUNT_NOT_FOUND", recover(account=f"{A}:nobody")),
        ("ACCOUNT_RESERVED", recover(account=f"transit:{A}")),
        ("PLACE_UNFIT", recover(lost_account=CLOSED, account=ELSEWHERE)),
        ("PLACE_UNFIT", recover(lost_account=CLOSED, account=DEPOSIT)),
        ("PLACE_UNFIT", recover(lost_account="book:alice", account=KEPT)),
        ("ACCOUNT_CLOSED", recover(lost_account=CLOSED, account=BOB)),
        ("STATE_UNFIT", recover(account=BOB)),
        ("STATE_UNFIT", recover(account=UNBOUND)),
        ("STATE_UNFIT", recover(lost_account=UNBOUND)),
        ("STATE_UNFIT", recover(lost_account=UNBOUND, account=UNBOUND_TOO)),
        ("ACCOUNT_CLOSED", recover(account=CLOSED)),
    ],
)
def test_refusals_in_order_of_precedence(books: Scenario, reason: str, command: RecoverWalletRequest) -> None:
    books.given(bound("alice", "h-1", "memory:c"), addresses((DEPOSIT, "book:alice")))
    books.given(bound("closed", "h-1"), CloseAccountRequest(account=CLOSED))
    Reader(books).see(seen(TRANSFER, 1, LOST, UNBOUND), seen(TRANSFER, 1, LOST, UNBOUND_TOO))
    books.when(command).raises("NOT_PERMITTED", needed="ROLE_ENFORCER")
    books.when(command, principal="enforcer").raises(reason)
    recovered(books)


def test_refusals_of_tokens_places_and_who_takes_over(books: Scenario) -> None:
    """One refusal after the other is put in front of the ones before."""
    lacking = [each for each in ChainCapability.values()[1:5] if each != ChainCapability.CHAIN_CAPABILITY_FORCE_TRANSFER]

    def refused(reason: str, **metadata: Any) -> None:
        books.when(recover(), principal="enforcer").raises(reason, **metadata)

    books.given(FreezeHolderRequest(holder="h-1", legal_reference="OFAC"))
    refused("HOLDER_FROZEN")
    books.given(AmendHolderRequest(holder="h-1", state=HolderState.HOLDER_STATE_SUSPENDED))
    refused("HOLDER_NOT_ACTIVE")
    books.given(FreezeAccountRequest(account=KEPT, legal_reference="court order"))
    refused("ACCOUNT_FROZEN", account=KEPT)
    state = books.books._state
    state.put(state.halts, (A, "NVDAx"), (7,))
    refused("PLACE_HALTED", divergence=7)
    make_due(books, "NVDAx")
    refused("ACTION_DUE", instrument="NVDAx")
    books.given(change("NVDAx", replace_capabilities=lacking))
    refused("CHAIN_INCAPABLE", instrument="NVDAx", needed="CHAIN_CAPABILITY_FORCE_TRANSFER")


def test_another_chain_must_have_every_token_and_room_for_it(books: Scenario) -> None:
    books.given(stock("MSFTx", "US5949181045"), deploy("MSFTx"), change("NVDAx", B, allotment_units=6))
    books.when(recover(account=KEPT_ON_B), principal="enforcer").raises("ALLOTMENT_EXCEEDED", instrument="NVDAx", needed=7)
    books.at_chain("MSFTx", LOST, 1)
    books.when(recover(account=KEPT_ON_B), principal="enforcer").raises("DEPLOYMENT_NOT_FOUND", chain=B, instrument="MSFTx")


def test_recovering_again_gets_the_first_answer(books: Scenario) -> None:
    check_repeat(books, recover(), recover(evidence="affidavit 2026-118"), principal="enforcer")
