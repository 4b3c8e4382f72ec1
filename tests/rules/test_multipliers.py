"""SetMultiplier: every refusal in its order of precedence, and what a raise, a lowering and a split do."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from nacl.signing import SigningKey
from scenario import START_US, Scenario, stock, two_holders

from ledger.rules.checks import utc_text
from ledger.rules.multipliers import evolve_changed
from stockledger.v1.approvals_pb2 import ApproveCommandRequest
from stockledger.v1.events_pb2 import Entry
from stockledger.v1.instruments_pb2 import GetInstrumentRequest, MultiplierChanged, RetireInstrumentRequest, SetMultiplierRequest
from stockledger.v1.reserves_pb2 import (
    ConfirmDeliveryRequest,
    ConfirmReceiptRequest,
    EvidenceKind,
    OpenCustodyAccountRequest,
    RecordEvidenceRequest,
    RegisterCustodianRequest,
    ReserveShortfallEnded,
    ReserveShortfallRaised,
)

ONE = 10**18
HOUR_US = 3_600_000_000
KEY = SigningKey(bytes([7]) * 32)


def multiplier(**changes: Any) -> SetMultiplierRequest:
    fields: dict[str, Any] = {
        "instrument": "AAPLx",
        "expected_multiplier": str(ONE),
        "multiplier": "999500000000000000",
        "cause": "management fee 2026-11",
    }
    return SetMultiplierRequest(**(fields | changes))


def changed(old: int, new: int, cause: str = "management fee 2026-11") -> MultiplierChanged:
    return MultiplierChanged(
        instrument="AAPLx", old_multiplier=str(old), multiplier=str(new), residue_numerator="0", residue_denominator="1", cause=cause
    )


def thousand_shares() -> tuple[Any, ...]:
    """Evidence of 1,000 AAPL at a custodian, as of an hour ago and valid for a day."""
    statement = json.dumps(
        {
            "ledger": "test",
            "custody_account": "alpaca/AAPL-1",
            "isin": "US0378331005",
            "settled_shares_e8": 1000 * 10**8,
            "pending_shares_e8": 0,
            "encumbered_shares_e8": 0,
            "as_of_time": utc_text(START_US - HOUR_US),
            "valid_until_time": utc_text(START_US + 23 * HOUR_US),
            "share_basis": 0,
        }
    ).encode()
    return (
        RegisterCustodianRequest(custodian="alpaca", name="Alpaca", public_key=bytes(KEY.verify_key)),
        OpenCustodyAccountRequest(custody_account="alpaca/AAPL-1", custodian="alpaca", isin="US0378331005", instrument="AAPLx"),
        RecordEvidenceRequest(
            kind=EvidenceKind.EVIDENCE_KIND_CUSTODIAN_SIGNED,
            signer="alpaca",
            statement=statement,
            signature=KEY.sign(statement).signature,
        ),
    )


def delivery(shares: int) -> ConfirmDeliveryRequest:
    command = ConfirmDeliveryRequest(custody_account="alpaca/AAPL-1", shares_e8=shares * 10**8, reference="DTC 8842")
    command.settled_time.FromMicroseconds(START_US - HOUR_US // 2)
    return command


def receipt(shares: int) -> ConfirmReceiptRequest:
    command = ConfirmReceiptRequest(custody_account="alpaca/AAPL-1", shares_e8=shares * 10**8, reference="DTC 8841")
    command.settled_time.FromMicroseconds(START_US - HOUR_US // 2)
    return command


@pytest.fixture
def books() -> Scenario:
    return Scenario().given(*two_holders(), *thousand_shares())


def of_instrument(books: Scenario) -> tuple[str, int]:
    found = books.books.execute(GetInstrumentRequest(instrument="AAPLx")).instrument
    return found.multiplier, found.share_basis


def test_a_multiplier_is_set_once_another_person_approves(books: Scenario) -> None:
    books.when(multiplier()).accepted()
    assert of_instrument(books) == (str(ONE), 0)
    books.when(multiplier(), approver="operator").raises_after_booking("APPROVER_IS_REQUESTER")
    books.when(multiplier(), approver="carol").accepted()
    assert books.booked[-1] == changed(ONE, 999_500_000_000_000_000)
    assert of_instrument(books) == ("999500000000000000", 0)


REFUSALS = [
    ("FIELD_MISSING", multiplier(expected_multiplier="", multiplier="")),
    ("FIELD_MALFORMED", multiplier(expected_multiplier="1.0", multiplier="")),
    ("FIELD_MISSING", multiplier(multiplier="", cause="")),
    ("FIELD_MALFORMED", multiplier(multiplier="0", cause="")),
    ("FIELD_MALFORMED", multiplier(multiplier="-1", cause="")),
    ("FIELD_MALFORMED", multiplier(multiplier="+1", cause="")),
    ("FIELD_MALFORMED", multiplier(multiplier="0999500000000000000", cause="")),
    ("FIELD_MALFORMED", multiplier(multiplier="1e18", cause="")),
    ("FIELD_MALFORMED", multiplier(multiplier="٣", cause="")),
    ("FIELD_MALFORMED", multiplier(multiplier=str(2**128), cause="")),
    ("FIELD_MISSING", multiplier(cause="", instrument="")),
    ("FIELD_MALFORMED", multiplier(cause="x" * 141, instrument="")),
    ("FIELD_MISSING", multiplier(instrument="")),
    ("INSTRUMENT_NOT_FOUND", multiplier(instrument="NONEx")),
    ("INSTRUMENT_KIND_UNFIT", multiplier(instrument="USDC", expected_multiplier="1")),
    ("ACTION_DUE", multiplier(instrument="DUEx", expected_multiplier="1")),
    ("INSTRUMENT_RETIRED", multiplier(instrument="OLDx", expected_multiplier="1")),
    ("EXPECTATION_FAILED", multiplier(expected_multiplier="1", multiplier=str(ONE))),
    ("NOTHING_TO_CHANGE", multiplier(multiplier=str(ONE))),
    ("RESERVE_INSUFFICIENT", multiplier(multiplier=str(ONE + 1))),
]


@pytest.mark.parametrize(("reason", "command"), REFUSALS)
def test_refusals_in_order_of_precedence(books: Scenario, reason: str, command: SetMultiplierRequest) -> None:
    books.given(stock("OLDx", "US88160R1014"), stock("DUEx", "US5949181045"), RetireInstrumentRequest(instrument="OLDx"))
    state = books.units("AAPLx", "book:alice", 1000 * 10**8).books._state
    for symbol in ("DUEx", "OLDx"):
        due_us = START_US if symbol == "DUEx" else START_US + HOUR_US
        state.put(state.instruments, symbol, dataclasses.replace(state.instruments[symbol], next_due_time_us=due_us))
    books.when(command).raises(reason)
    books.when(multiplier()).accepted()


def test_the_guard_keeps_a_fee_from_being_taken_twice(books: Scenario) -> None:
    books.given(multiplier())
    books.when(multiplier()).raises("EXPECTATION_FAILED", expected=ONE, found=999_500_000_000_000_000)
    books.when(multiplier(expected_multiplier="999500000000000000", multiplier="999000250000000000")).accepted()


def test_a_raise_goes_as_far_as_reserves(books: Scenario) -> None:
    books.units("AAPLx", "book:alice", 500 * 10**8)
    too_much = multiplier(multiplier=str(2 * ONE + 1))
    books.when(too_much).raises("RESERVE_INSUFFICIENT", needed_e8=1000 * 10**8 + 1, reserve_e8=1000 * 10**8)
    books.when(multiplier(multiplier=str(2 * ONE)), approver="carol").accepted()
    assert books.booked[2:] == [changed(ONE, 2 * ONE)]


def test_the_widest_multiplier_is_taken_where_nothing_is_owed(books: Scenario) -> None:
    books.when(multiplier(multiplier=str(2**128 - 1)), approver="carol").accepted()
    assert of_instrument(books) == (str(2**128 - 1), 0)


def test_without_evidence_a_multiplier_is_lowered_and_not_raised() -> None:
    books = Scenario().given(*two_holders()).units("AAPLx", "book:alice", 1)
    books.when(multiplier(multiplier=str(ONE + 1))).raises("RESERVE_INSUFFICIENT", reserve_e8=0)
    books.when(multiplier(), approver="carol").accepted()
    assert books.booked[2:] == [changed(ONE, 999_500_000_000_000_000)], "no evidence, no shortfall"


def test_a_lowering_is_never_refused_and_ends_a_shortfall_it_covers(books: Scenario) -> None:
    books.units("AAPLx", "book:alice", 1000 * 10**8)
    books.when(delivery(10)).accepted()
    assert isinstance(books.booked[1], ReserveShortfallRaised)
    books.when(multiplier(multiplier="995000000000000000"), approver="carol").accepted()
    assert books.booked[2:] == [changed(ONE, 995 * 10**15)], "995 are needed still, 990 are there"
    books.when(multiplier(expected_multiplier="995000000000000000", multiplier="990000000000000000"), approver="carol").accepted()
    end = ReserveShortfallEnded(instrument="AAPLx", reserve_shares_e8=990 * 10**8, needed_shares_e8=str(990 * 10**8))
    assert books.booked[2:] == [changed(995 * 10**15, 990 * 10**15), end]


def test_it_is_decided_again_when_it_is_approved(books: Scenario) -> None:
    books.units("AAPLx", "book:alice", 500 * 10**8)
    books.when(multiplier(multiplier=str(2 * ONE))).accepted()
    approval = ApproveCommandRequest(approval=books.answer.booking.approval)
    books.given(delivery(1)).when(approval, principal="carol").raises("RESERVE_INSUFFICIENT")
    books.given(receipt(1)).when(approval, principal="carol").accepted()
    assert of_instrument(books) == (str(2 * ONE), 0)


def test_a_split_moves_the_share_basis_on(books: Scenario) -> None:
    event = MultiplierChanged(
        instrument="AAPLx",
        old_multiplier=str(ONE),
        multiplier=str(10 * ONE),
        residue_numerator="0",
        residue_denominator="1",
        action="AAPL-2026-SPLF",
        share_basis_changed=True,
    )
    state = books.books._state
    evolve_changed(state, event, Entry())
    assert (state.instruments["AAPLx"].multiplier, state.instruments["AAPLx"].share_basis) == (10 * ONE, 1)
    with pytest.raises(AssertionError):
        evolve_changed(state, event, Entry())


def test_a_repeat_gets_the_first_answer(books: Scenario) -> None:
    digits = f"{START_US // 1000:012x}"
    request_id = f"{digits[:8]}-{digits[8:]}-7000-8000-000000000001"
    books.when(multiplier(request_id=request_id)).accepted()
    first = books.answer
    books.when(multiplier(request_id=request_id))
    assert (books.error, books.booked) == (None, [])
    assert books.answer.booking.repeated_answer
    assert books.answer.booking.approval == first.booking.approval
    books.when(multiplier(request_id=request_id, cause="another")).raises("REQUEST_ID_REUSED")
