"""A small story on a store, and the command line run on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from nacl.signing import SigningKey
from scenario import START_US, account, cash, holder, stock

from ledger import Ledger
from ledger.answers import timestamp
from ledger.log.store import open_log
from stockledger.v1.approvals_pb2 import ApproveCommandRequest
from stockledger.v1.issuance_pb2 import IssueUnitsRequest
from stockledger.v1.reserves_pb2 import EvidenceKind, OpenCustodyAccountRequest, RecordEvidenceRequest, RegisterCustodianRequest
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

ORIGIN = "acme.example/stockledger"
HOUR_US = 3_600_000_000
CUSTODIAN_KEY = SigningKey(bytes(range(32)))


@dataclass(frozen=True)
class Done:
    """How a run ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def run_process(*arguments: object, stdin: str = "", **environment: str) -> Done:
    """Run the command as its user does."""
    command = [sys.executable, "-m", "services.cli.main", *map(str, arguments)]
    done = subprocess.run(command, input=stdin.encode(), capture_output=True, check=False, env={**os.environ, **environment}, timeout=60)
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def statement(shares: int, *, at_us: int = START_US, symbol: str = "AAPLx", isin: str = "US0378331005", ledger_id: str = "acme") -> bytes:
    def utc(moment_us: int) -> str:
        return timestamp(moment_us).ToJsonString()

    return json.dumps(
        {
            "ledger": ledger_id,
            "custody_account": f"alpaca/{symbol}",
            "isin": isin,
            "settled_shares_e8": shares * 10**8,
            "pending_shares_e8": 0,
            "encumbered_shares_e8": 0,
            "as_of_time": utc(at_us - HOUR_US),
            "valid_until_time": utc(at_us + 24 * HOUR_US),
            "share_basis": 0,
        }
    ).encode()


def evidence(shares: int, **options: Any) -> RecordEvidenceRequest:
    text = statement(shares, **options)
    signature = CUSTODIAN_KEY.sign(text).signature
    return RecordEvidenceRequest(kind=EvidenceKind.EVIDENCE_KIND_CUSTODIAN_SIGNED, signer="alpaca", statement=text, signature=signature)


def fill_books(books: Ledger, now_us: int) -> None:
    """Book a small story: AAPLx and USDC, alice and bob, 1,000 shares at a custodian, 10.5 AAPLx issued and 1.5 moved."""
    story = [
        stock(),
        cash(),
        holder("h-1"),
        holder("h-2", "FR"),
        account("book:alice", "h-1"),
        account("book:bob", "h-2"),
        RegisterCustodianRequest(custodian="alpaca", name="Alpaca", public_key=bytes(CUSTODIAN_KEY.verify_key)),
        OpenCustodyAccountRequest(custody_account="alpaca/AAPLx", custodian="alpaca", isin="US0378331005", instrument="AAPLx"),
        evidence(1000, at_us=now_us, ledger_id=books.ledger_id),
        IssueUnitsRequest(instrument="AAPLx", account="book:alice", units=1_050_000_000),
        TransferUnitsRequest(instrument="AAPLx", source="book:alice", destination="book:bob", units=150_000_000, reference="first"),
    ]
    for command in story:
        answer = books.execute(command)
        if answer.booking.approval:
            books.execute(ApproveCommandRequest(approval=answer.booking.approval), principal="carol")


def entries_of(url: str) -> list[bytes]:
    with open_log(url, read_only=True) as log:
        return [data for _, _, data in log.read(0, log.size)]
