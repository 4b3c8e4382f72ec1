"""Plays everybody but the broker, so that the pages can be tried alone: operator, issuer, custodian and bank, against a server on loopback.

stockledger serve --store sqlite:///cookbook.db --local-principals true --operators compliance
python docs/cookbook/market.py
"""

import json
import os
import time
from typing import Any

from nacl.signing import SigningKey

from stockledger.client import Client
from stockledger.v1.accounts_pb2 import InvestorClass, OpenAccountRequest, RegisterHolderRequest
from stockledger.v1.approvals_pb2 import ApproveCommandRequest, GrantRoleRequest, Role
from stockledger.v1.instruments_pb2 import (
    Backing,
    HaltInstrumentRequest,
    InstrumentKind,
    RegisterInstrumentRequest,
    ResumeInstrumentRequest,
)
from stockledger.v1.issuance_pb2 import FillSubscriptionRequest, IssueUnitsRequest, SettleFillRequest
from stockledger.v1.redemptions_pb2 import DeliverRedemptionRequest
from stockledger.v1.reserves_pb2 import EvidenceKind, OpenCustodyAccountRequest, RecordEvidenceRequest, RegisterCustodianRequest

ADDRESS = os.environ.get("STOCKLEDGER_ADDRESS", "localhost:8080")
SHARE, DOLLAR = 10**8, 10**6
KEYS = {"custodian": SigningKey(bytes(range(32))), "bank": SigningKey(bytes(range(32, 64)))}


def book(command: Any, principal: str = "operator") -> Any:
    """Book a command, and let a second person approve it where that is needed."""
    with Client(ADDRESS, principal=principal) as books:
        answer = books.execute(command)
    if answer.booking.approval:
        with Client(ADDRESS, principal="compliance") as books:
            books.execute(ApproveCommandRequest(approval=answer.booking.approval))
    return answer


def attest(signer: str, custody_account: str, isin: str, shares: int) -> None:
    """Record what a custodian says it holds for this ledger, signed."""
    now = int(time.time())
    moments = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(each)) for each in (now, now + 86_400)]
    content = {
        "ledger": "cookbook",
        "custody_account": custody_account,
        "isin": isin,
        "settled_shares_e8": shares * SHARE,
        "pending_shares_e8": 0,
    }
    content |= {"encumbered_shares_e8": 0, "as_of_time": moments[0], "valid_until_time": moments[1], "share_basis": 0}
    statement = json.dumps(content).encode()
    kind = EvidenceKind.EVIDENCE_KIND_CUSTODIAN_SIGNED
    signature = KEYS[signer].sign(statement).signature
    book(RecordEvidenceRequest(kind=kind, signer=signer, statement=statement, signature=signature))


def fund(account: str, dollars: int) -> None:
    """Credit USDC that has arrived at the bank."""
    book(IssueUnitsRequest(instrument="USDC", account=account, units=dollars * DOLLAR, reference="wire"))


def fill(subscription: int, shares: int, dollars_a_share: int) -> None:
    """Buy the shares of a subscription."""
    dates = {"trade_date": "2026-11-20", "settlement_date": "2026-11-23"}
    price_e8 = dollars_a_share * 10**8
    accounts = {"proceeds_account": "book:issuer", "fee_account": "book:fees"}
    filled = {"subscription": subscription, "shares_e8": shares * SHARE, "price_e8": price_e8, "fee_units": DOLLAR, "last": True}
    book(FillSubscriptionRequest(**filled, **accounts, **dates))


def settle(subscription: int) -> None:
    """Settle the first fill of a subscription."""
    book(SettleFillRequest(subscription=subscription, fill=1))


def deliver(redemption: int, shares: int) -> None:
    """Hand shares over to the broker's own custodian."""
    delivered = {"redemption": redemption, "shares": shares, "custody_account": "custodian/AAPLx", "reference": "DTC 8841"}
    command = DeliverRedemptionRequest(**delivered)
    command.settled_time.FromSeconds(int(time.time()))
    book(command)


def halt(instrument: str) -> None:
    book(HaltInstrumentRequest(instrument=instrument, operations=[1], cause="news pending"))


def resume(instrument: str) -> None:
    book(ResumeInstrumentRequest(instrument=instrument, operations=[1], cause="published"))


def main() -> None:
    """Set up two instruments with their reserves, the issuer's accounts, and the roles of two brokers."""
    kinds = InstrumentKind
    shared = {"backing": Backing.BACKING_CUSTODIED, "authorised_units": 10**15}
    stock = kinds.INSTRUMENT_KIND_STOCK
    book(RegisterInstrumentRequest(symbol="AAPLx", name="Apple Inc.", kind=stock, underlying_isin="US0378331005", decimals=8, **shared))
    cash = kinds.INSTRUMENT_KIND_CASH
    book(RegisterInstrumentRequest(symbol="USDC", name="USD Coin", kind=cash, currency="USDC", decimals=6, **shared))
    for principal, role, scope in (
        ("compliance", Role.ROLE_APPROVER, ""),
        ("broker-a", Role.ROLE_BROKER, "broker-a"),
        ("broker-b", Role.ROLE_BROKER, "broker-b"),
    ):
        book(GrantRoleRequest(principal=principal, role=role, scope=scope))
    for signer, account, isin, instrument in (
        ("custodian", "custodian/AAPLx", "US0378331005", "AAPLx"),
        ("bank", "bank/USDC", "USDC", "USDC"),
    ):
        book(RegisterCustodianRequest(custodian=signer, name=signer, public_key=bytes(KEYS[signer].verify_key)))
        book(OpenCustodyAccountRequest(custody_account=account, custodian=signer, isin=isin, instrument=instrument))
        attest(signer, account, isin, 1_000_000)
    institution = InvestorClass.INVESTOR_CLASS_INSTITUTION
    for name in ("issuer", "fees"):
        book(RegisterHolderRequest(holder=name, country="CH", investor_class=institution))
        book(OpenAccountRequest(account=f"book:{name}", holder=name))


if __name__ == "__main__":
    main()
