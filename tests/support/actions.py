"""What stories of corporate actions share: three instruments with evidence behind them, five accounts, and announcements.

Units are issued by the rules, so that every story can be replayed from its log.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from scenario import START_US, Scenario, account, cash, holder, stock

from ledger.rules.checks import utc_text
from stockledger.v1.corporate_actions_pb2 import (
    ActionTerms,
    AnnounceActionRequest,
    CashDividend,
    ExecuteActionRequest,
    FixEntitlementsRequest,
    GetActionRequest,
    StockSplit,
)
from stockledger.v1.instruments_pb2 import ActionMethod, SetMultiplierRequest
from stockledger.v1.issuance_pb2 import IssueUnitsRequest
from stockledger.v1.reserves_pb2 import EvidenceKind, OpenCustodyAccountRequest, RecordEvidenceRequest, RegisterCustodianRequest

HOUR = 3600
HOLDINGS = ActionMethod.ACTION_METHOD_HOLDINGS
MULTIPLIER = ActionMethod.ACTION_METHOD_MULTIPLIER
ISINS = {"AAPLx": "US0378331005", "NVDAx": "US67066G1040", "GEx": "US3696043013", "USDC": "USDC"}
FUNDS = 10**12
PUBLIC_KEY = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
"""Of RFC 8032, section 7.1."""


def at(hours: float) -> Timestamp:
    """Return a moment some hours after the start."""
    moment = Timestamp()
    moment.FromMicroseconds(START_US + int(hours * HOUR * 1_000_000))
    return moment


def evidence(symbol: str, *, shares_e8: int = 10**16, share_basis: int = 0, hours: float = -1) -> RecordEvidenceRequest:
    """Return an imported statement about the shares (or cash) behind an instrument."""
    statement = {
        "ledger": "test",
        "custody_account": f"bank/{symbol}",
        "isin": ISINS[symbol],
        "settled_shares_e8": shares_e8,
        "pending_shares_e8": 0,
        "encumbered_shares_e8": 0,
        "as_of_time": utc_text(START_US + int(hours * HOUR * 1_000_000)),
        "valid_until_time": utc_text(START_US + 1000 * HOUR * 1_000_000),
        "share_basis": share_basis,
    }
    data = json.dumps(statement).encode()
    return RecordEvidenceRequest(kind=EvidenceKind.EVIDENCE_KIND_IMPORTED, statement=data, document_hash=hashlib.sha256(data).digest())


def story(**holdings: dict[str, int]) -> Scenario:
    """Open the books, and issue holdings: `story(AAPLx={"book:alice": 100})`. The issuer has USDC.

    Alice lives in Germany, bob in France, carol and dave in Switzerland, where also the issuer is.
    """
    people = {"alice": "DE", "bob": "FR", "carol": "CH", "dave": "CH", "issuer-cash": "CH"}
    books = Scenario().given(
        *(stock(symbol, isin) for symbol, isin in ISINS.items() if symbol != "USDC"),
        cash(),
        *(holder(f"h-{name}", country) for name, country in people.items()),
        *(account(f"book:{name}", f"h-{name}") for name in people),
        RegisterCustodianRequest(custodian="bank", name="Bank", public_key=PUBLIC_KEY),
        *(
            OpenCustodyAccountRequest(custody_account=f"bank/{symbol}", custodian="bank", isin=isin, instrument=symbol)
            for symbol, isin in ISINS.items()
        ),
        *(evidence(symbol) for symbol in ISINS),
        IssueUnitsRequest(instrument="USDC", account="book:issuer-cash", units=FUNDS, reference="wire 1"),
    )
    return books.given(
        *(
            IssueUnitsRequest(instrument=symbol, account=name, units=units, reference="DTC 1")
            for symbol, of_accounts in holdings.items()
            for name, units in of_accounts.items()
        )
    )


def set_multiplier(symbol: str, multiplier: int, expected: int = 10**18) -> SetMultiplierRequest:
    return SetMultiplierRequest(instrument=symbol, expected_multiplier=str(expected), multiplier=str(multiplier), cause="a story")


def announce(terms: ActionTerms, **changes: Any) -> AnnounceActionRequest:
    """Return an announcement: fixed an hour from the start, executed two hours from it."""
    fields: dict[str, Any] = {
        "action": "ACTION-1",
        "instrument": "AAPLx",
        "ex_date": "2026-11-22",
        "record_date": "2026-11-22",
        "payment_date": "2026-11-23",
        "fixing_time": at(1),
        "execution_time": at(2),
        "terms": terms,
    }
    fields |= changes
    return AnnounceActionRequest(**{name: value for name, value in fields.items() if value is not None})


def dividend(terms: dict[str, Any] | None = None, **changes: Any) -> AnnounceActionRequest:
    """Return 0.25 USDC a share, taxed 15 % in Germany and 30 % in Switzerland; by the multiplier 30 % are withheld, at 227.00."""
    fields: dict[str, Any] = {
        "cash_instrument": "USDC",
        "cash_per_share_e8": 25_000_000,
        "withholding": [{"country": "DE", "rate_bps": 1500}, {"country": "CH", "rate_bps": 3000}],
        "funding_account": "book:issuer-cash",
        "reference_price_e8": 22_700_000_000,
        "multiplier_withholding_bps": 3000,
    }
    return announce(ActionTerms(cash_dividend=CashDividend(**(fields | (terms or {})))), **changes)


def split(new_shares: int = 10, old_shares: int = 1, **changes: Any) -> AnnounceActionRequest:
    """Return a split of NVDAx that fixes nothing."""
    terms = ActionTerms(stock_split=StockSplit(new_shares=new_shares, old_shares=old_shares))
    return announce(terms, **({"instrument": "NVDAx", "fixing_time": None} | changes))


def fix(action: str = "ACTION-1") -> FixEntitlementsRequest:
    return FixEntitlementsRequest(action=action)


def execute(action: str = "ACTION-1") -> ExecuteActionRequest:
    return ExecuteActionRequest(action=action)


def carry_out(books: Scenario, announcement: AnnounceActionRequest) -> Scenario:
    """Announce an action, wait, fix it if it is to be fixed, wait, and execute it."""
    books.given(announcement).pass_time(HOUR)
    if announcement.HasField("fixing_time"):
        books.given(fix(announcement.action))
    books.pass_time(HOUR)
    return books.when(execute(announcement.action), approver="approver").accepted()


def totals(books: Scenario, action: str = "ACTION-1") -> dict[str, int]:
    """Return the totals of a completed action that are not zero, without the suffix `_units`."""
    found = books.books.execute(GetActionRequest(action=action)).totals
    return {field.name.removesuffix("_units"): value for field, value in found.ListFields() if field.name != "action"}


def holdings(books: Scenario, symbol: str) -> dict[str, int]:
    """Return who has how much of an instrument, issuance left out."""
    state = books.books._state
    number = state.instruments[symbol].number
    return {
        name.removeprefix("book:"): units
        for name, record in state.accounts.items()
        if (units := state.holding(number, record.number)) and name != "ledger:issuance"
    }
