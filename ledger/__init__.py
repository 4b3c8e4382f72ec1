"""The stock ledger in process: one append-only, provable log, and the books that follow from it.

    from ledger import Ledger
    from stockledger.v1.transfers_pb2 import TransferUnitsRequest

    with Ledger.open("sqlite:///books.db") as books:
        books.execute(TransferUnitsRequest(instrument="AAPLx", source="book:alice", destination="book:bob", units=150_000_000))

No Rust, no gRPC, no network.
"""

from ledger.answers import Answers
from ledger.engine import Ledger
from ledger.errors import (
    ActionDue,
    BeyondLog,
    DataLoss,
    InvalidRequest,
    LedgerError,
    NotFound,
    NotPermitted,
    Overloaded,
    RequestIdRefused,
    RuleViolated,
    Unavailable,
)
from ledger.log.checkpoint import Signer, VerifierKey

__all__ = [
    "ActionDue",
    "Answers",
    "BeyondLog",
    "DataLoss",
    "InvalidRequest",
    "Ledger",
    "LedgerError",
    "NotFound",
    "NotPermitted",
    "Overloaded",
    "RequestIdRefused",
    "RuleViolated",
    "Signer",
    "Unavailable",
    "VerifierKey",
]
