"""A primary market for tests: a custodian with fresh evidence, cash in the book, and issuance that waits for nobody.

1,000 AAPL stand behind AAPLx and 1,000,000 USD behind USDC. book:alice (h-1) has 10,000 USDC, book:issuer (h-3) has 50,000 USDC.
"""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from nacl.signing import SigningKey
from scenario import START_US, Scenario, account, two_holders

from ledger.rules.checks import utc_text
from stockledger.v1.approvals_pb2 import ApprovalPolicy, SetApprovalPolicyRequest
from stockledger.v1.issuance_pb2 import FillSubscriptionRequest, IssueUnitsRequest, RequestSubscriptionRequest, SettleFillRequest
from stockledger.v1.reserves_pb2 import EvidenceKind, OpenCustodyAccountRequest, RecordEvidenceRequest, RegisterCustodianRequest

HOUR_US = 3_600_000_000
ONE = 10**8
"""One share at scale 1e8, and the units of one share at multiplier 1.0."""
USDC = 10**6
PRICE = 189_87 * 10**6
"""189.87 at scale 1e8."""
COST = 1_898_700_000
"""Ten shares at that price, in USDC of 6 decimals."""
FEE = 1 * USDC
KEY = SigningKey(bytes([9]) * 32)
REQUEST_ID = "01a2046a-3900-7000-8000-000000000001"
OTHER_REQUEST_ID = "01a2046a-3900-7000-8000-000000000002"


def moment(hours: float) -> Timestamp:
    """Return a moment some hours after the start."""
    found = Timestamp()
    found.FromMicroseconds(START_US + int(hours * HOUR_US))
    return found


def evidence(shares: int, custody_account: str = "alpaca/AAPL-1", isin: str = "US0378331005", **changes: Any) -> RecordEvidenceRequest:
    """Return signed evidence of whole shares (or currency) as of an hour before the start, valid for a day."""
    members = {
        "ledger": "test",
        "custody_account": custody_account,
        "isin": isin,
        "settled_shares_e8": shares * ONE,
        "pending_shares_e8": 0,
        "encumbered_shares_e8": 0,
        "as_of_time": utc_text(START_US - HOUR_US),
        "valid_until_time": utc_text(START_US + 23 * HOUR_US),
        "share_basis": 0,
    }
    statement = json.dumps(members | changes).encode()
    kind = EvidenceKind.EVIDENCE_KIND_CUSTODIAN_SIGNED
    return RecordEvidenceRequest(kind=kind, signer="alpaca", statement=statement, signature=KEY.sign(statement).signature)


def policy(command: str, approvals_needed: int = 0) -> SetApprovalPolicyRequest:
    return SetApprovalPolicyRequest(policy=ApprovalPolicy(command=command, approvals_needed=approvals_needed))


def issue(**changes: Any) -> IssueUnitsRequest:
    return IssueUnitsRequest(**({"instrument": "AAPLx", "account": "book:alice", "units": 10 * ONE, "reference": "DTC 8841"} | changes))


def reserve() -> tuple[Any, ...]:
    """1,000 AAPL at a custodian."""
    return (
        RegisterCustodianRequest(custodian="alpaca", name="Alpaca", public_key=bytes(KEY.verify_key)),
        OpenCustodyAccountRequest(custody_account="alpaca/AAPL-1", custodian="alpaca", isin="US0378331005", instrument="AAPLx"),
        evidence(1_000),
    )


def market() -> Scenario:
    return Scenario().given(
        *two_holders(),
        account("book:issuer", "h-3"),
        *reserve(),
        OpenCustodyAccountRequest(custody_account="alpaca/USD", custodian="alpaca", isin="USDC", instrument="USDC"),
        evidence(1_000_000, "alpaca/USD", "USDC"),
        policy("IssueUnits"),
        policy("FillSubscription"),
        policy("SettleFill"),
        policy("SetMultiplier"),
        issue(instrument="USDC", account="book:alice", units=10_000 * USDC, reference="wire 1"),
        issue(instrument="USDC", account="book:issuer", units=50_000 * USDC, reference="wire 2"),
    )


def subscribe(**changes: Any) -> RequestSubscriptionRequest:
    fields = {
        "instrument": "AAPLx",
        "account": "book:alice",
        "cash_instrument": "USDC",
        "cash_units": 2_000 * USDC,
        "reference": "order 77",
    }
    return RequestSubscriptionRequest(**(fields | changes))


def fill(**changes: Any) -> FillSubscriptionRequest:
    fields: dict[str, Any] = {
        "subscription": 1,
        "shares_e8": 10 * ONE,
        "price_e8": PRICE,
        "fee_units": FEE,
        "trade_date": "2026-11-20",
        "settlement_date": "2026-11-23",
        "proceeds_account": "book:issuer",
        "fee_account": "book:fees",
        "last": True,
    }
    return FillSubscriptionRequest(**(fields | changes))


def settle(**changes: Any) -> SettleFillRequest:
    return SettleFillRequest(**({"subscription": 1, "fill": 1} | changes))
