"""A book in thirty seconds: an instrument, a custodian's word for ten shares, units issued by two people, one transfer."""

import json
from datetime import UTC, datetime, timedelta

from nacl.signing import SigningKey

from ledger import Ledger, LedgerError
from stockledger.v1.accounts_pb2 import InvestorClass, OpenAccountRequest, RegisterHolderRequest
from stockledger.v1.approvals_pb2 import ApproveCommandRequest
from stockledger.v1.instruments_pb2 import Backing, InstrumentKind, RegisterInstrumentRequest
from stockledger.v1.issuance_pb2 import IssueUnitsRequest
from stockledger.v1.reserves_pb2 import EvidenceKind, OpenCustodyAccountRequest, RecordEvidenceRequest, RegisterCustodianRequest
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

SHARE = 10**8  # units of 8 decimals, and shares at scale 1e8
custodian = SigningKey.generate()

with Ledger.open("sqlite:///:memory:", ledger_id="acme") as books:
    books.execute(
        RegisterInstrumentRequest(
            symbol="AAPLx",
            name="Apple Inc. tokenised",
            kind=InstrumentKind.INSTRUMENT_KIND_STOCK,
            underlying_isin="US0378331005",
            decimals=8,
            backing=Backing.BACKING_CUSTODIED,
            authorised_units=1_000_000 * SHARE,
        )
    )
    for holder, country in (("h-1", "DE"), ("h-2", "FR")):
        retail = InvestorClass.INVESTOR_CLASS_RETAIL
        books.execute(RegisterHolderRequest(holder=holder, country=country, investor_class=retail))
    books.execute(OpenAccountRequest(account="book:alice", holder="h-1"))
    books.execute(OpenAccountRequest(account="book:bob", holder="h-2"))

    key = bytes(custodian.verify_key)
    waiting = books.execute(RegisterCustodianRequest(custodian="acme-custody", name="Acme Custody", public_key=key))
    books.execute(ApproveCommandRequest(approval=waiting.booking.approval), principal="second-person")
    books.execute(
        OpenCustodyAccountRequest(custody_account="acme-custody/1", custodian="acme-custody", isin="US0378331005", instrument="AAPLx")
    )
    now = datetime.now(UTC).replace(microsecond=0)
    statement = json.dumps(
        {
            "ledger": books.ledger_id,
            "custody_account": "acme-custody/1",
            "isin": "US0378331005",
            "settled_shares_e8": 10 * SHARE,
            "pending_shares_e8": 0,
            "encumbered_shares_e8": 0,
            "as_of_time": (now - timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "valid_until_time": (now + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "share_basis": 0,
        }
    ).encode()
    books.execute(
        RecordEvidenceRequest(
            kind=EvidenceKind.EVIDENCE_KIND_CUSTODIAN_SIGNED,
            signer="acme-custody",
            statement=statement,
            signature=custodian.sign(statement).signature,
        )
    )

    waiting = books.execute(IssueUnitsRequest(instrument="AAPLx", account="book:alice", units=10 * SHARE))
    books.execute(ApproveCommandRequest(approval=waiting.booking.approval), principal="second-person")
    answer = books.execute(TransferUnitsRequest(instrument="AAPLx", source="book:alice", destination="book:bob", units=150_000_000))
    print(f"booked at index {answer.booking.index}; bob holds {books.holding('AAPLx', 'book:bob')} units")

    try:
        books.execute(IssueUnitsRequest(instrument="AAPLx", account="book:alice", units=1))
    except LedgerError as error:
        print(error)
