"""A thin client for a ledger's gRPC server. It needs grpcio and protobuf, and nothing of the ledger itself.

    from stockledger.client import Client, RuleViolated, new_request_id

    with Client("ledger.acme.example:8080", tls=Tls.from_files("ca.pem"), token=read_token) as books:
        answer = books.execute(TransferUnitsRequest(request_id=new_request_id(), instrument="AAPLx", ...))

connection.py       addresses, TLS, tokens, the channel to each server
request_ids.py      UUIDv7, made once and sent with every retry
errors.py           refusals as exceptions with the reasons of errors.proto
retries.py          what may be tried again, when, and at which server
client.py           Client: one method for every command and read, pages, the log as a stream
transfer_stream.py  transfers sent and acknowledged while the connection comes and goes
"""

from stockledger.client.client import Client
from stockledger.client.connection import Tls
from stockledger.client.errors import (
    ActionDue,
    BeyondLog,
    DataLoss,
    InvalidRequest,
    LedgerError,
    NoAnswer,
    NotFound,
    NotPermitted,
    Overloaded,
    RequestIdRefused,
    RuleViolated,
    Unavailable,
)
from stockledger.client.request_ids import new_request_id
from stockledger.client.transfer_stream import Outcome, TransferStream

__all__ = [
    "ActionDue",
    "BeyondLog",
    "Client",
    "DataLoss",
    "InvalidRequest",
    "LedgerError",
    "NoAnswer",
    "NotFound",
    "NotPermitted",
    "Outcome",
    "Overloaded",
    "RequestIdRefused",
    "RuleViolated",
    "Tls",
    "TransferStream",
    "Unavailable",
    "new_request_id",
]
