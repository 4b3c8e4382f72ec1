"""The last acceptable beside the first refused, where the files of the capabilities leave one step between them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from actions import carry_out, holdings, split, story
from google.protobuf.timestamp_pb2 import Timestamp
from nacl.signing import SigningKey
from scenario import START_US, Scenario, enforcer, stock, two_holders

from ledger import vectors
from ledger.rules.checks import utc_text
from stockledger.v1.approvals_pb2 import GrantRoleRequest, Role
from stockledger.v1.common_pb2 import LegColumns
from stockledger.v1.holds_pb2 import PlaceHoldRequest
from stockledger.v1.instruments_pb2 import SetMultiplierRequest
from stockledger.v1.reserves_pb2 import EvidenceKind, OpenCustodyAccountRequest, RecordEvidenceRequest, RegisterCustodianRequest
from stockledger.v1.transfers_pb2 import (
    ForceTransferRequest,
    RepayReceivableRequest,
    ReverseTransferRequest,
    TransferBatchRequest,
    TransferUnitsRequest,
)

ALICE, BOB, FEES = 16, 17, 18
HOUR_US = 3_600_000_000
KEY = SigningKey(bytes([5]) * 32)


@pytest.fixture
def books() -> Scenario:
    return Scenario().given(*two_holders()).units("AAPLx", "book:alice", 100)


def moment(moment_us: int) -> Timestamp:
    found = Timestamp()
    found.FromMicroseconds(moment_us)
    return found


def test_a_hold_lapses_one_microsecond_after_its_decision_at_the_earliest(books: Scenario) -> None:
    now_us = books.books._state.next_decision_time_us(books.clock.wall_us())
    hold = {"instrument": "AAPLx", "account": "book:alice", "units": 1}
    books.when(PlaceHoldRequest(**hold, expiry_time=moment(now_us))).raises("DATES_OUT_OF_ORDER")
    books.when(PlaceHoldRequest(**hold, expiry_time=moment(now_us + 1))).accepted()


@pytest.mark.parametrize("worthwhile", [1, 1000])
@pytest.mark.parametrize("units", [0, -1])
def test_a_leg_without_units_among_others(books: Scenario, monkeypatch: pytest.MonkeyPatch, worthwhile: int, units: int) -> None:
    monkeypatch.setattr(vectors, "WORTHWHILE", worthwhile)

    def batch(last: int) -> TransferBatchRequest:
        legs = LegColumns(instrument="AAPLx", sources=[ALICE] * 3, destinations=[BOB] * 2 + [FEES], units=[5, 5, last])
        return TransferBatchRequest(legs=[legs])

    books.when(batch(units)).raises("UNITS_NOT_POSITIVE", leg=2)
    books.when(batch(1)).accepted()


def test_one_share_in_a_hundred_million_too_few(books: Scenario) -> None:
    """100 shares are at the custodian and 100 are owed; a multiplier higher by 1e-18 would owe 1e-8 more, rounded up."""
    statement = {
        "ledger": "test",
        "custody_account": "alpaca/1",
        "isin": "US0378331005",
        "settled_shares_e8": 100 * 10**8,
        "pending_shares_e8": 0,
        "encumbered_shares_e8": 0,
        "as_of_time": utc_text(START_US - HOUR_US),
        "valid_until_time": utc_text(START_US + HOUR_US),
        "share_basis": 0,
    }
    data = json.dumps(statement).encode()
    books.units("AAPLx", "book:alice", 100 * 10**8 - 100).given(
        RegisterCustodianRequest(custodian="alpaca", name="Alpaca", public_key=bytes(KEY.verify_key)),
        OpenCustodyAccountRequest(custody_account="alpaca/1", custodian="alpaca", isin="US0378331005", instrument="AAPLx"),
        RecordEvidenceRequest(
            kind=EvidenceKind.EVIDENCE_KIND_CUSTODIAN_SIGNED, signer="alpaca", statement=data, signature=KEY.sign(data).signature
        ),
    )

    def change(found: int, multiplier: int) -> SetMultiplierRequest:
        return SetMultiplierRequest(instrument="AAPLx", expected_multiplier=str(found), multiplier=str(multiplier), cause="correction")

    books.when(change(10**18, 10**18 + 1)).raises("RESERVE_INSUFFICIENT", reserve_e8=10**10, needed_e8=10**10 + 1)
    books.given(change(10**18, 10**18 - 1))
    books.when(change(10**18 - 1, 10**18)).accepted()


def test_another_role_is_not_this_role(books: Scenario) -> None:
    force = ForceTransferRequest(
        instrument="AAPLx", source="book:alice", destination="book:bob", units=1, legal_reference="court order 1", cause="court"
    )
    books.given(GrantRoleRequest(principal="auditor", role=Role.ROLE_AUDITOR), enforcer())
    books.when(force, principal="auditor").raises("NOT_PERMITTED")
    books.when(force, principal="enforcer").accepted()


def test_nobody_pays_another_holders_debt(books: Scenario) -> None:
    def move(**changes: Any) -> TransferUnitsRequest:
        fields: dict[str, Any] = {"instrument": "AAPLx", "source": "book:alice", "destination": "book:bob", "units": 60}
        return TransferUnitsRequest(**(fields | changes))

    books.given(stock("TSLAx", "US88160R1014"), move())
    mistake = books.books.size - 1
    books.units("AAPLx", "book:fees", 50)
    books.given(move(source="book:bob", destination="book:fees", units=20))
    books.given(ReverseTransferRequest(index=mistake, cause="typo", loss_account="book:fees"))
    owed = {"holder": "h-2", "instrument": "AAPLx", "units": 10}
    books.when(RepayReceivableRequest(**owed, account="book:alice")).raises("STATE_UNFIT", account="book:alice", needed="h-2")
    books.given(move(units=10))
    books.when(RepayReceivableRequest(**owed, account="book:bob")).accepted()


def test_a_split_may_give_nobody_one_unit_or_none() -> None:
    """3 for 2: one unit becomes 1 and a half, so 1; two become 3."""
    books = story(NVDAx={"book:alice": 1, "book:bob": 2})
    carry_out(books, split(3, 2))
    assert {name: units for name, units in holdings(books, "NVDAx").items() if units} == {"alice": 1, "bob": 3}
