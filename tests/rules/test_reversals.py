"""ReverseTransfer and RepayReceivable: what is free is taken back, the rest is funded and owed, and nothing happens twice."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from nacl.signing import SigningKey
from primary_market import issue, market
from scenario import Scenario, account, enforcer, holder, two_holders
from steps import check_repeat, make_due

from ledger.arithmetic import UNITS_MAX
from ledger.rules.wallets import wallet_text
from stockledger.v1.accounts_pb2 import (
    AmendHolderRequest,
    BindWalletRequest,
    CloseAccountRequest,
    FreezeAccountRequest,
    FreezeHolderRequest,
    FreezeUnitsRequest,
    HolderState,
    UnfreezeAccountRequest,
)
from stockledger.v1.approvals_pb2 import ApproveCommandRequest
from stockledger.v1.common_pb2 import LegColumns, Operation
from stockledger.v1.eligibility_pb2 import EligibilityRule, SetEligibilityRequest
from stockledger.v1.holds_pb2 import PlaceHoldRequest
from stockledger.v1.instruments_pb2 import HaltInstrumentRequest, ResumeInstrumentRequest
from stockledger.v1.transfers_pb2 import (
    ForceTransferRequest,
    ListReceivablesRequest,
    Receivable,
    ReceivableRepaid,
    RepayReceivableRequest,
    ReverseTransferRequest,
    TransferBatchRequest,
    TransferReversed,
    TransferUnitsRequest,
)

LOSS = "book:loss"
LOSS_OF_MARKET = "book:issuer"


def transfer(units: int = 60, source: str = "book:alice", destination: str = "book:bob", **changes: Any) -> TransferUnitsRequest:
    return TransferUnitsRequest(instrument="AAPLx", source=source, destination=destination, units=units, **changes)


@pytest.fixture
def books() -> Scenario:
    """60 of alice's 100 went to bob by mistake; the house holds 500 against losses."""
    books = Scenario().given(*two_holders(), holder("h-house", "CH"), account(LOSS, "h-house"))
    books.units("AAPLx", "book:alice", 100).units("AAPLx", LOSS, 500)
    books.when(transfer()).accepted()
    return books


def mistake(books: Scenario) -> int:
    """Return the index of the last entry."""
    return books.books.size - 1


def reverse(index: int, **changes: Any) -> ReverseTransferRequest:
    return ReverseTransferRequest(**({"index": index, "cause": "fat finger"} | changes))


def bind() -> BindWalletRequest:
    """Return what binds a Solana wallet to h-1."""
    key = SigningKey(bytes(31) + b"\1")
    name = "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp:6ASf5EcmmEHTgDJ4X4ZT5vT6iHVJBXPg5AN5YoTCpGWt"
    return BindWalletRequest(account=name, holder="h-1", signature=key.sign(wallet_text("test", name, "h-1").encode()).signature)


def holdings(books: Scenario) -> tuple[int, int, int]:
    alice, bob, loss = (books.holding("AAPLx", name) for name in ("book:alice", "book:bob", LOSS))
    return alice, bob, loss


def receivables(books: Scenario) -> list[Receivable]:
    return list(books.books.execute(ListReceivablesRequest()).receivables)


# ---- taken back ----------------------------------------------------------------------------------------------------------------------


def test_all_that_is_free_comes_back_once_somebody_else_approves(books: Scenario) -> None:
    index = mistake(books)
    books.when(reverse(index)).accepted()
    assert holdings(books) == (40, 60, 500), "nothing moves before the approval"
    books.when(ApproveCommandRequest(approval=books.answer.booking.approval), principal="approver")
    assert books.booked[1:] == [
        TransferReversed(index=index, cause="fat finger", instrument="AAPLx", source="book:bob", destination="book:alice", taken_units=60)
    ]
    assert holdings(books) == (100, 0, 500)
    assert not receivables(books)


def test_the_rest_is_funded_and_owed(books: Scenario) -> None:
    index = mistake(books)
    books.when(transfer(25, "book:bob", "book:fees")).accepted()
    books.when(reverse(index, loss_account=LOSS), approver="approver")
    assert books.booked[-1] == TransferReversed(
        index=index,
        cause="fat finger",
        instrument="AAPLx",
        source="book:bob",
        destination="book:alice",
        taken_units=35,
        funded_units=25,
        loss_account=LOSS,
        holder="h-2",
    )
    assert holdings(books) == (100, 0, 475)
    assert receivables(books) == [Receivable(holder="h-2", instrument="AAPLx", units=25, loss_account=LOSS)]


def test_units_on_hold_or_frozen_are_not_free(books: Scenario) -> None:
    index = mistake(books)
    books.given(PlaceHoldRequest(instrument="AAPLx", account="book:bob", units=20))
    books.given(FreezeUnitsRequest(instrument="AAPLx", account="book:bob", units=15, legal_reference="garnishment 7/2026"))
    books.when(reverse(index, loss_account=LOSS), approver="approver").accepted()
    assert (books.booked[-1].taken_units, books.booked[-1].funded_units) == (25, 35)
    assert holdings(books) == (100, 35, 465)


@pytest.mark.parametrize(
    "freeze",
    [
        FreezeAccountRequest(account="book:bob", legal_reference="court order"),
        FreezeHolderRequest(holder="h-2", legal_reference="OFAC 2026-11"),
        FreezeUnitsRequest(instrument="AAPLx", account="book:bob", units=1000, legal_reference="garnishment 7/2026"),
    ],
)
def test_nothing_is_free_behind_a_freeze(books: Scenario, freeze: Any) -> None:
    index = mistake(books)
    books.given(freeze).when(reverse(index)).raises("UNITS_INSUFFICIENT", account="book:bob", free=0, needed=60)
    books.when(reverse(index, loss_account=LOSS), approver="approver").accepted()
    assert (books.booked[-1].taken_units, books.booked[-1].funded_units) == (0, 60)
    assert holdings(books) == (100, 60, 440)


def test_what_does_not_stop_a_reversal(books: Scenario) -> None:
    index = mistake(books)
    books.given(
        HaltInstrumentRequest(instrument="AAPLx", operations=[Operation.OPERATION_TRANSFER]),
        SetEligibilityRequest(instrument="AAPLx", rule=EligibilityRule(effective_date="2026-01-01", barred_countries=["DE", "FR"])),
        FreezeAccountRequest(account="book:alice", legal_reference="court order"),
        AmendHolderRequest(holder="h-2", state=HolderState.HOLDER_STATE_SUSPENDED),
    )
    books.when(reverse(index), approver="approver").accepted()
    assert holdings(books) == (100, 0, 500)


def test_the_approval_is_decided_by_what_is_free_then(books: Scenario) -> None:
    index = mistake(books)
    approval = books.when(reverse(index)).accepted().answer.booking.approval
    books.when(transfer(1, "book:bob", "book:fees")).accepted()
    books.when(ApproveCommandRequest(approval=approval), principal="approver").raises("UNITS_INSUFFICIENT", free=59, needed=60)


# ---- what can be reversed ------------------------------------------------------------------------------------------------------------


def test_a_transfer_by_force_takes_an_enforcer_to_reverse(books: Scenario) -> None:
    force = ForceTransferRequest(
        instrument="AAPLx", source="book:alice", destination="book:bob", units=5, legal_reference="court order 12/2026", cause="seizure"
    )
    books.given(enforcer()).when(force, principal="enforcer", approver="judge").accepted()
    index = mistake(books)
    books.when(reverse(index)).raises("NOT_PERMITTED", needed="ROLE_ENFORCER")
    books.when(reverse(index - 1), principal="enforcer").raises("STATE_UNFIT", event="approval_given")
    books.when(reverse(index, position=1), principal="enforcer").raises("ENTRY_NOT_FOUND", index=index, position=1)
    books.when(reverse(index), principal="enforcer", approver="judge").accepted()
    assert books.booked[-1].taken_units == 5


def test_each_line_of_a_packed_entry_by_its_position(books: Scenario) -> None:
    answers = books.books.execute_many([transfer(3), transfer(4), transfer(5, destination="book:fees")], pack=True)
    index = answers[1].booking.index
    assert [answer.booking.position for answer in answers] == [0, 1, 2]
    books.when(reverse(index, position=1), approver="approver").accepted()
    assert books.booked[-1] == TransferReversed(
        index=index, position=1, cause="fat finger", instrument="AAPLx", source="book:bob", destination="book:alice", taken_units=4
    )
    books.when(reverse(index, position=1)).raises("REVERSED_ALREADY", index=index, position=1, reversed_by=mistake(books))
    books.when(reverse(index, position=3)).raises("ENTRY_NOT_FOUND", position=3)
    books.when(reverse(index, position=-1)).raises("ENTRY_NOT_FOUND", position=-1)
    books.when(reverse(index, position=2), approver="approver").accepted()
    assert books.booked[-1].source == "book:fees"
    books.when(reverse(index), approver="approver").accepted()
    assert books.booked[-1].taken_units == 3


def test_each_leg_of_a_batch_counted_over_its_columns(books: Scenario) -> None:
    books.units("USDC", "book:alice", 50)
    numbers = {name: books.books._state.accounts[name].number for name in ("book:alice", "book:bob", "book:fees")}
    alice, bob, fees = numbers.values()
    batch = TransferBatchRequest(
        legs=[
            LegColumns(instrument="AAPLx", sources=[alice, bob], destinations=[bob, fees], units=[7, 8]),
            LegColumns(instrument="USDC", sources=[alice], destinations=[fees], units=[9]),
        ]
    )
    index = books.when(batch).accepted().answer.booking.index
    books.when(reverse(index, position=3)).raises("ENTRY_NOT_FOUND", position=3)
    books.when(reverse(index, position=-1)).raises("ENTRY_NOT_FOUND", position=-1)
    for position, instrument, source, destination, units in (
        (2, "USDC", "book:fees", "book:alice", 9),
        (1, "AAPLx", "book:fees", "book:bob", 8),
        (0, "AAPLx", "book:bob", "book:alice", 7),
    ):
        books.when(reverse(index, position=position), approver="approver").accepted()
        assert books.booked[-1] == TransferReversed(
            index=index,
            position=position,
            cause="fat finger",
            instrument=instrument,
            source=source,
            destination=destination,
            taken_units=units,
        )


def test_a_leg_of_a_later_part_is_named_by_the_index_of_its_part(books: Scenario) -> None:
    alice, bob = (books.books._state.accounts[name].number for name in ("book:alice", "book:bob"))
    count = 5_000
    sources, destinations = [alice, bob] * (count // 2), [bob, alice] * (count // 2)
    batch = TransferBatchRequest(legs=[LegColumns(instrument="AAPLx", sources=sources, destinations=destinations, units=[1] * count)])
    booking = books.when(batch).accepted().answer.booking
    first_part = len(books.booked[0].legs[0].units)
    assert booking.entry_count == 2
    books.when(reverse(booking.index, position=first_part)).raises("ENTRY_NOT_FOUND")
    books.when(reverse(booking.index + 1, position=count - first_part - 1), approver="approver").accepted()
    assert (books.booked[-1].source, books.booked[-1].destination) == ("book:alice", "book:bob")


# ---- refused -------------------------------------------------------------------------------------------------------------------------


def test_refusals_of_reversing(books: Scenario) -> None:
    """Each case breaks the rule that is named and one that stands later."""
    index = mistake(books)
    wallet = bind()
    books.given(wallet)
    books.when(reverse(-1, cause="")).raises("FIELD_MISSING", field="cause")
    books.when(reverse(-1, cause="x" * 141)).raises("FIELD_MALFORMED", field="cause")
    books.when(reverse(books.books.size, loss_account="book:nobody")).raises("ENTRY_NOT_FOUND")
    books.when(reverse(-1, loss_account="book:nobody")).raises("ENTRY_NOT_FOUND")
    books.when(reverse(0, loss_account="book:nobody")).raises("STATE_UNFIT", event="ledger_opened")
    books.when(reverse(index, position=1, loss_account="book:nobody")).raises("ENTRY_NOT_FOUND", position=1)
    books.when(reverse(index, loss_account="book:alice")).raises("SAME_ACCOUNT", account="book:alice")
    books.when(reverse(index, loss_account="book:bob")).raises("SAME_ACCOUNT", account="book:bob")
    books.when(reverse(index, loss_account="book:nobody")).raises("ACCOUNT_NOT_FOUND", field="loss_account")
    books.when(reverse(index, loss_account="ledger:loss")).raises("ACCOUNT_RESERVED")
    books.when(reverse(index, loss_account=wallet.account)).raises("PLACE_UNFIT")
    books.when(reverse(index), approver="approver").accepted()


def test_a_transfer_is_reversed_once(books: Scenario) -> None:
    index = mistake(books)
    waiting = books.when(reverse(index)).accepted().answer.booking.approval
    books.when(reverse(index), approver="approver").accepted()
    reversal = mistake(books)
    books.when(reverse(index, loss_account="book:alice")).raises("REVERSED_ALREADY", index=index, position=0, reversed_by=reversal)
    books.when(ApproveCommandRequest(approval=waiting), principal="approver").raises("REVERSED_ALREADY", reversed_by=reversal)
    books.when(reverse(reversal)).raises("STATE_UNFIT", event="transfer_reversed")
    assert holdings(books) == (100, 0, 500)


def test_units_from_before_a_split_are_not_those_of_today(books: Scenario) -> None:
    """The later of a transfer and the last replacement decides; a transfer after the split can be reversed."""
    state = books.books._state
    index = mistake(books)
    state.instruments["AAPLx"] = dataclasses.replace(state.instruments["AAPLx"], replaced_index=index + 1)
    make_due(books)
    books.when(reverse(index)).raises("STATE_UNFIT", instrument="AAPLx", replaced_index=index + 1)
    state.instruments["AAPLx"] = dataclasses.replace(state.instruments["AAPLx"], replaced_index=index - 1)
    books.when(reverse(index)).raises("ACTION_DUE")


def test_a_due_step_comes_first(books: Scenario) -> None:
    index = mistake(books)
    books.when(transfer(40, destination="book:fees")).accepted()
    books.given(CloseAccountRequest(account="book:alice"))
    make_due(books)
    books.when(reverse(index)).raises("ACTION_DUE")


def test_a_closed_account_gets_nothing_back(books: Scenario) -> None:
    index = mistake(books)
    books.when(transfer(40, destination="book:fees")).accepted()
    books.when(transfer(60, "book:bob", "book:fees")).accepted()
    books.given(CloseAccountRequest(account="book:alice"))
    books.when(reverse(index)).raises("ACCOUNT_CLOSED", account="book:alice")


def test_from_a_closed_account_nothing_is_taken_and_its_holder_owes_all(books: Scenario) -> None:
    index = mistake(books)
    books.when(transfer(60, "book:bob", "book:fees")).accepted()
    books.given(CloseAccountRequest(account="book:bob"))
    books.when(reverse(index, loss_account=LOSS), approver="approver").accepted()
    assert receivables(books) == [Receivable(holder="h-2", instrument="AAPLx", units=60, loss_account=LOSS)]


def test_who_funds_must_be_free_to_and_have_it(books: Scenario) -> None:
    index = mistake(books)
    books.when(transfer(20, "book:bob", "book:fees")).accepted()
    books.given(FreezeUnitsRequest(instrument="AAPLx", account=LOSS, units=481, legal_reference="garnishment 7/2026"))
    books.given(FreezeAccountRequest(account=LOSS, legal_reference="court order"))
    books.when(reverse(index)).raises("UNITS_INSUFFICIENT", account="book:bob", free=40, needed=60)
    books.when(reverse(index, loss_account=LOSS)).raises("ACCOUNT_FROZEN", account=LOSS)
    books.given(UnfreezeAccountRequest(account=LOSS, legal_reference="lifted"))
    books.when(reverse(index, loss_account=LOSS)).raises("UNITS_INSUFFICIENT", account=LOSS, free=19, needed=20)
    books.given(FreezeUnitsRequest(instrument="AAPLx", account=LOSS, units=480, legal_reference="garnishment 7/2026"))
    books.when(reverse(index, loss_account=LOSS), approver="approver").accepted()


def test_a_loss_account_that_is_not_needed_pays_nothing(books: Scenario) -> None:
    index = mistake(books)
    books.given(FreezeAccountRequest(account=LOSS, legal_reference="court order"))
    books.when(reverse(index, loss_account=LOSS), approver="approver").accepted()
    assert (books.booked[-1].loss_account, books.booked[-1].funded_units) == ("", 0)


def test_reversing_again_gets_the_first_answer(books: Scenario) -> None:
    index = mistake(books)
    check_repeat(books, reverse(index), reverse(index, cause="another"))


# ---- paid back -----------------------------------------------------------------------------------------------------------------------


def repay(units: int = 10, **changes: Any) -> RepayReceivableRequest:
    return RepayReceivableRequest(**({"holder": "h-2", "instrument": "AAPLx", "account": "book:bob", "units": units} | changes))


@pytest.fixture
def owed(books: Scenario) -> Scenario:
    """h-2 owes 25 to the loss account, and bob has 100 again; h-1 owes nothing."""
    index = mistake(books)
    books.when(transfer(25, "book:bob", "book:fees")).accepted()
    books.when(reverse(index, loss_account=LOSS), approver="approver").accepted()
    return books.units("AAPLx", "book:bob", 100)


def test_a_receivable_is_paid_back_in_parts(owed: Scenario) -> None:
    owed.when(repay(10)).then(ReceivableRepaid(holder="h-2", instrument="AAPLx", account="book:bob", units=10, loss_account=LOSS))
    assert receivables(owed) == [Receivable(holder="h-2", instrument="AAPLx", units=15, loss_account=LOSS)]
    owed.when(repay(16)).raises("STATE_UNFIT", owed=15, units=16)
    owed.when(repay(15, loss_account=LOSS)).accepted()
    assert not receivables(owed)
    assert holdings(owed) == (100, 75, 500)
    owed.when(repay(1)).raises("RECEIVABLE_NOT_FOUND")


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", repay(0, holder="")),
        ("FIELD_MISSING", repay(0, instrument="")),
        ("FIELD_MISSING", repay(0, account="")),
        ("UNITS_NOT_POSITIVE", repay(0, loss_account="book:bob")),
        ("UNITS_NOT_POSITIVE", repay(-1)),
        ("UNITS_OUT_OF_RANGE", repay(UNITS_MAX + 1, loss_account="book:bob")),
        ("SAME_ACCOUNT", repay(loss_account="book:bob", instrument="NONEx")),
        ("INSTRUMENT_NOT_FOUND", repay(instrument="NONEx", holder="h-9")),
        ("HOLDER_NOT_FOUND", repay(holder="h-9", account="book:nobody")),
        ("ACCOUNT_NOT_FOUND", repay(account="book:nobody", holder="h-1")),
        ("ACCOUNT_RESERVED", repay(account="ledger:loss", holder="h-1")),
        ("RECEIVABLE_NOT_FOUND", repay(holder="h-1", account="book:alice")),
        ("RECEIVABLE_NOT_FOUND", repay(instrument="USDC")),
        ("RECEIVABLE_NOT_FOUND", repay(loss_account="book:fees", account="book:alice")),
        ("SAME_ACCOUNT", repay(account=LOSS)),
        ("STATE_UNFIT", repay(26, account="book:alice")),
        ("STATE_UNFIT", repay(26)),
    ],
)
def test_refusals_of_repaying(owed: Scenario, reason: str, command: RepayReceivableRequest) -> None:
    owed.when(command).raises(reason)
    owed.when(repay(25)).accepted()


def test_a_repayment_is_a_movement_like_any_other(owed: Scenario) -> None:
    halt = HaltInstrumentRequest(instrument="AAPLx", operations=[Operation.OPERATION_TRANSFER])
    owed.given(halt).when(repay()).raises("INSTRUMENT_HALTED")
    owed.given(ResumeInstrumentRequest(instrument="AAPLx", operations=[Operation.OPERATION_TRANSFER]))
    owed.given(FreezeAccountRequest(account=LOSS, legal_reference="court order")).when(repay()).raises("ACCOUNT_FROZEN")
    owed.given(UnfreezeAccountRequest(account=LOSS, legal_reference="lifted"))
    owed.given(SetEligibilityRequest(instrument="AAPLx", rule=EligibilityRule(effective_date="2026-01-01", barred_countries=["CH"])))
    owed.when(repay()).raises("HOLDER_NOT_ELIGIBLE", holder="h-house")
    owed.given(SetEligibilityRequest(instrument="AAPLx", rule=EligibilityRule(effective_date="2026-01-01")))
    owed.given(FreezeUnitsRequest(instrument="AAPLx", account="book:bob", units=91, legal_reference="garnishment 7/2026"))
    owed.when(repay()).raises("UNITS_INSUFFICIENT", free=9, needed=10)
    owed.when(repay(9)).accepted()
    make_due(owed)
    owed.when(repay(9)).raises("ACTION_DUE")


def test_two_loss_accounts_are_told_apart(owed: Scenario) -> None:
    owed.given(account("book:loss-2", "h-house")).units("AAPLx", "book:loss-2", 50)
    owed.when(transfer(30)).accepted()
    index = mistake(owed)
    owed.when(transfer(130, "book:bob", "book:fees")).accepted()
    owed.when(reverse(index, loss_account="book:loss-2"), approver="approver").accepted()
    assert receivables(owed) == [
        Receivable(holder="h-2", instrument="AAPLx", units=25, loss_account=LOSS),
        Receivable(holder="h-2", instrument="AAPLx", units=30, loss_account="book:loss-2"),
    ]
    owed.units("AAPLx", "book:bob", 100).when(repay(26)).raises("FIELD_MISSING", field="loss_account")
    owed.when(repay(26, loss_account=LOSS)).raises("STATE_UNFIT", owed=25)
    owed.when(repay(26, loss_account="book:loss-2")).accepted()
    owed.when(repay(25, loss_account=LOSS)).accepted()
    owed.when(repay(4)).accepted()


def test_a_second_receivable_adds_to_the_first(owed: Scenario) -> None:
    owed.when(transfer(30)).accepted()
    index = mistake(owed)
    owed.when(transfer(130, "book:bob", "book:fees")).accepted()
    owed.when(reverse(index, loss_account=LOSS), approver="approver").accepted()
    assert receivables(owed) == [Receivable(holder="h-2", instrument="AAPLx", units=55, loss_account=LOSS)]


def test_who_is_owed_stays_open(owed: Scenario) -> None:
    owed.when(transfer(475, LOSS, "book:fees")).accepted()
    owed.when(CloseAccountRequest(account=LOSS)).raises("ACCOUNT_NOT_EMPTY", due="receivable of h-2")
    owed.when(repay(25)).accepted()
    owed.when(transfer(25, LOSS, "book:fees")).accepted()
    owed.when(CloseAccountRequest(account=LOSS)).accepted()


def test_receivables_come_in_pages(owed: Scenario) -> None:
    owed.given(account("book:a-loss", "h-house")).units("AAPLx", "book:a-loss", 50)
    owed.when(transfer(30)).accepted()
    index = mistake(owed)
    owed.when(transfer(130, "book:bob", "book:fees")).accepted()
    owed.when(reverse(index, loss_account="book:a-loss"), approver="approver").accepted()
    first = owed.books.execute(ListReceivablesRequest(page_size=1))
    second = owed.books.execute(ListReceivablesRequest(page_size=1, page_token=first.next_page_token))
    assert [page.receivables[0].loss_account for page in (first, second)] == ["book:a-loss", LOSS]
    assert (first.size, second.next_page_token) == (owed.books.size, "")


def test_repaying_again_gets_the_first_answer(owed: Scenario) -> None:
    check_repeat(owed, repay(), repay(11))


def test_replay_reaches_the_same_reversals_and_receivables() -> None:
    """The same story with units that were issued, so that every step is replayed from the log and compared."""
    books = market().given(issue(units=100), issue(account=LOSS_OF_MARKET, units=500), transfer())
    index = mistake(books)
    books.given(transfer(25, "book:bob", "book:fees"), reverse(index, loss_account=LOSS_OF_MARKET))
    assert books.replayable
    state = books.books._state
    assert state.reversed == {(index, 0): mistake(books)}
    assert state.receivables == {("h-2", "AAPLx", LOSS_OF_MARKET): 25}
    books.given(transfer(40), repay(25))
    assert not state.receivables
