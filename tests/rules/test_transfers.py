"""TransferUnits and ForceTransfer: every refusal in its order of precedence, each beside its nearest acceptance."""

from __future__ import annotations

from typing import Any

import pytest
from scenario import Scenario, account, enforcer, stock, two_holders

from ledger.arithmetic import UNITS_MAX
from stockledger.v1.accounts_pb2 import AmendHolderRequest, CloseAccountRequest, HolderState
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.instruments_pb2 import HaltInstrumentRequest, ResumeInstrumentRequest, RetireInstrumentRequest
from stockledger.v1.transfers_pb2 import ForceTransferRequest, TransferUnitsRequest, UnitsTransferred, UnitsTransferredByForce


def transfer(**changes: Any) -> TransferUnitsRequest:
    fields: dict[str, Any] = {"instrument": "AAPLx", "source": "book:alice", "destination": "book:bob", "units": 40}
    return TransferUnitsRequest(**(fields | changes))


@pytest.fixture
def books() -> Scenario:
    return Scenario().given(*two_holders()).units("AAPLx", "book:alice", 100)


def test_units_move(books: Scenario) -> None:
    books.when(transfer(reference="invoice 12")).then(
        UnitsTransferred(instrument="AAPLx", source="book:alice", destination="book:bob", units=40, reference="invoice 12")
    )
    assert (books.holding("AAPLx", "book:alice"), books.holding("AAPLx", "book:bob")) == (60, 40)


REFUSALS = [
    ("FIELD_MISSING", transfer(instrument="", units=0)),
    ("FIELD_MISSING", transfer(source="")),
    ("FIELD_MISSING", transfer(destination="")),
    ("FIELD_MALFORMED", transfer(reference="x" * 141, units=0)),
    ("UNITS_NOT_POSITIVE", transfer(units=0)),
    ("UNITS_NOT_POSITIVE", transfer(units=-1, destination="book:alice")),
    ("UNITS_OUT_OF_RANGE", transfer(units=UNITS_MAX + 1, destination="book:alice")),
    ("SAME_ACCOUNT", transfer(destination="book:alice", instrument="NONEx")),
    ("INSTRUMENT_NOT_FOUND", transfer(instrument="NONEx", source="book:nobody")),
    ("ACCOUNT_NOT_FOUND", transfer(source="book:nobody", destination="ledger:issuance")),
    ("ACCOUNT_NOT_FOUND", transfer(destination="book:nobody", units=1000)),
    ("ACCOUNT_RESERVED", transfer(source="ledger:issuance", units=1000)),
    ("ACCOUNT_RESERVED", transfer(destination="ledger:remainder", units=1000)),
    ("UNITS_INSUFFICIENT", transfer(units=101)),
]


@pytest.mark.parametrize(("reason", "command"), REFUSALS)
def test_refusals_in_order_of_precedence(books: Scenario, reason: str, command: TransferUnitsRequest) -> None:
    books.when(command).raises(reason)
    books.when(transfer()).accepted()


def test_all_units_may_move_and_not_one_more(books: Scenario) -> None:
    books.when(transfer(units=101)).raises("UNITS_INSUFFICIENT", free=100, needed=101, holding=100, held=0)
    books.when(transfer(units=100)).accepted()


def test_a_halt_stops_transfers_until_resumed(books: Scenario) -> None:
    halt = HaltInstrumentRequest(instrument="AAPLx", operations=[Operation.OPERATION_TRANSFER], cause="news")
    books.given(halt).when(transfer(units=1000)).raises("INSTRUMENT_HALTED", operation="OPERATION_TRANSFER")
    books.given(ResumeInstrumentRequest(instrument="AAPLx", operations=[Operation.OPERATION_TRANSFER])).when(transfer()).accepted()


def test_another_halt_does_not_stop_transfers(books: Scenario) -> None:
    books.given(HaltInstrumentRequest(instrument="AAPLx", operations=[Operation.OPERATION_ISSUE])).when(transfer()).accepted()


def test_a_retired_instrument_does_not_move() -> None:
    books = Scenario().given(*two_holders(), RetireInstrumentRequest(instrument="AAPLx"))
    books.when(transfer()).raises("INSTRUMENT_RETIRED")


@pytest.mark.parametrize(("source", "destination"), [("book:carol", "book:bob"), ("book:alice", "book:carol")])
def test_a_closed_account_takes_no_part(books: Scenario, source: str, destination: str) -> None:
    books.given(account("book:carol", "h-2"), CloseAccountRequest(account="book:carol"))
    books.when(transfer(source=source, destination=destination, units=1000)).raises("ACCOUNT_CLOSED", account="book:carol")


@pytest.mark.parametrize("who", ["h-1", "h-2"])
def test_a_suspended_holder_takes_no_part(books: Scenario, who: str) -> None:
    books.given(AmendHolderRequest(holder=who, state=HolderState.HOLDER_STATE_SUSPENDED))
    books.when(transfer(units=1000)).raises("HOLDER_NOT_ACTIVE", holder=who)
    books.given(AmendHolderRequest(holder=who, state=HolderState.HOLDER_STATE_ACTIVE)).when(transfer()).accepted()


def force(**changes: Any) -> ForceTransferRequest:
    fields: dict[str, Any] = {
        "instrument": "AAPLx",
        "source": "book:alice",
        "destination": "book:bob",
        "units": 40,
        "legal_reference": "court order 12/2026",
        "cause": "succession",
    }
    return ForceTransferRequest(**(fields | changes))


def test_force_takes_its_own_role_and_another_persons_approval(books: Scenario) -> None:
    books.when(force(units=0), principal="enforcer").raises("NOT_PERMITTED", needed="ROLE_ENFORCER")
    books.given(enforcer())
    books.when(force(), principal="enforcer").accepted()
    assert books.holding("AAPLx", "book:bob") == 0, "nothing moves before the approval"
    books.when(force(), principal="enforcer", approver="enforcer").raises_after_booking("APPROVER_IS_REQUESTER")
    books.when(force(), principal="enforcer", approver="judge").accepted()
    assert books.booked[-1] == UnitsTransferredByForce(
        instrument="AAPLx",
        source="book:alice",
        destination="book:bob",
        units=40,
        legal_reference="court order 12/2026",
        cause="succession",
    )


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", force(legal_reference="")),
        ("FIELD_MISSING", force(cause="")),
        ("UNITS_NOT_POSITIVE", force(units=0)),
        ("SAME_ACCOUNT", force(destination="book:alice")),
        ("INSTRUMENT_NOT_FOUND", force(instrument="NONEx")),
        ("ACCOUNT_NOT_FOUND", force(source="book:nobody")),
        ("ACCOUNT_RESERVED", force(destination="ledger:issuance")),
        ("UNITS_INSUFFICIENT", force(units=101)),
    ],
)
def test_refusals_of_force(books: Scenario, reason: str, command: ForceTransferRequest) -> None:
    books.given(enforcer()).when(command, principal="enforcer").raises(reason)


def test_force_passes_halts(books: Scenario) -> None:
    books.given(enforcer(), HaltInstrumentRequest(instrument="AAPLx", operations=[Operation.OPERATION_TRANSFER]))
    books.when(transfer()).raises("INSTRUMENT_HALTED")
    books.when(force(), principal="enforcer", approver="judge").accepted()


def test_force_does_not_reach_into_a_closed_account(books: Scenario) -> None:
    books.given(enforcer(), account("book:carol", "h-2")).when(force(destination="book:carol"), principal="enforcer").accepted()
    books.given(CloseAccountRequest(account="book:carol"))
    books.when(force(destination="book:carol"), principal="enforcer").raises("ACCOUNT_CLOSED", account="book:carol")


def test_two_instruments_do_not_mix(books: Scenario) -> None:
    books.given(stock("TSLAx", "US88160R1014")).when(transfer(instrument="TSLAx", units=1)).raises("UNITS_INSUFFICIENT")
