"""Custodians, custody accounts, evidence, receipts and deliveries: every refusal in its order, and what they do to the reserve."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from nacl.signing import SigningKey
from scenario import START_US, Scenario, cash, stock, two_holders

from ledger import LedgerError
from ledger.arithmetic import UNITS_MAX
from ledger.replay import latest_state
from ledger.rules.checks import utc_text
from ledger.rules.custody import find_custody_account_of
from ledger.rules.evidence import check_settled_time, confirm_delivery_events
from ledger.rules.multipliers import evolve_changed
from ledger.rules.reserves import (
    check_covered,
    check_reserve,
    needed_shares_e8,
    reserve_events,
    reserve_shares_e8,
)
from ledger.rules.statements import STATEMENT_BYTES_MAX
from stockledger.v1.approvals_pb2 import ApprovalGiven, ApprovalRequested, ApproveCommandRequest
from stockledger.v1.common_pb2 import AsOf
from stockledger.v1.events_pb2 import Entry
from stockledger.v1.instruments_pb2 import MultiplierChanged, RetireInstrumentRequest
from stockledger.v1.reserves_pb2 import (
    ConfirmDeliveryRequest,
    ConfirmReceiptRequest,
    Custodian,
    CustodianKeyRotated,
    CustodianRegistered,
    CustodyAccount,
    CustodyAccountOpened,
    DeliveryConfirmed,
    EvidenceKind,
    EvidenceRecorded,
    GetReserveRequest,
    GetSupplyRequest,
    ListCustodiansRequest,
    ListCustodyAccountsRequest,
    ListReservesRequest,
    OpenCustodyAccountRequest,
    ReceiptConfirmed,
    RecordEvidenceRequest,
    RegisterCustodianRequest,
    ReserveShortfallEnded,
    ReserveShortfallRaised,
    RotateCustodianKeyRequest,
)

HOUR_US = 3_600_000_000
ALPACA, ALPACA_NEW, BANK, VERIFIER = (SigningKey(bytes([n]) * 32) for n in (1, 2, 3, 4))
CUSTODIAN_SIGNED = EvidenceKind.EVIDENCE_KIND_CUSTODIAN_SIGNED
AGENT_SIGNED = EvidenceKind.EVIDENCE_KIND_AGENT_SIGNED
IMPORTED = EvidenceKind.EVIDENCE_KIND_IMPORTED
NOT_A_KEY = bytes(32)
"""A point of order 4: a signature by it proves nothing."""


def moment(moment_us: int) -> Timestamp:
    found = Timestamp()
    found.FromMicroseconds(moment_us)
    return found


def request_id(at_us: int = START_US) -> str:
    """Return the same UUIDv7 of a moment each time."""
    digits = f"{at_us // 1000:012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-000000000001"


def public(key: SigningKey) -> bytes:
    return bytes(key.verify_key)


def register(custodian: str = "alpaca", key: SigningKey = ALPACA, **changes: Any) -> RegisterCustodianRequest:
    return RegisterCustodianRequest(**({"custodian": custodian, "name": custodian.title(), "public_key": public(key)} | changes))


def rotate(**changes: Any) -> RotateCustodianKeyRequest:
    return RotateCustodianKeyRequest(**({"custodian": "alpaca", "public_key": public(ALPACA_NEW)} | changes))


def custody(custody_account: str = "alpaca/AAPL-1", **changes: Any) -> OpenCustodyAccountRequest:
    fields: dict[str, Any] = {
        "custody_account": custody_account,
        "custodian": custody_account.partition("/")[0],
        "isin": "US0378331005",
        "instrument": "AAPLx",
    }
    return OpenCustodyAccountRequest(**(fields | changes))


def members(**changes: Any) -> dict[str, Any]:
    """Return what a statement says: 1,000 shares as of an hour ago, valid for a day."""
    fields = {
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
    return fields | changes


def evidence(
    kind: EvidenceKind.ValueType = CUSTODIAN_SIGNED,
    signer: str = "alpaca",
    key: SigningKey = ALPACA,
    statement: bytes | None = None,
    request: dict[str, Any] | None = None,
    **changes: Any,
) -> RecordEvidenceRequest:
    """Return a statement with changed members, signed; `request` changes the request around it after it was signed."""
    data = json.dumps(members(**changes)).encode() if statement is None else statement
    fields: dict[str, Any] = {"kind": kind, "signer": signer, "statement": data, "signature": key.sign(data).signature}
    if kind == IMPORTED:
        fields = {"kind": kind, "statement": data, "document_hash": hashlib.sha256(b"a letter").digest()}
    return RecordEvidenceRequest(**(fields | (request or {})))


def as_of(hours: float, shares: int = 1000, **changes: Any) -> RecordEvidenceRequest:
    """Return evidence of whole shares some hours after the start, valid for a day from then."""
    at_us = START_US + int(hours * HOUR_US)
    times = {"as_of_time": utc_text(at_us), "valid_until_time": utc_text(at_us + 24 * HOUR_US)}
    return evidence(**({"settled_shares_e8": shares * 10**8} | times | changes))


def receipt(shares: int = 5, hours: float = -0.5, **changes: Any) -> ConfirmReceiptRequest:
    fields: dict[str, Any] = {
        "custody_account": "alpaca/AAPL-1",
        "shares_e8": shares * 10**8,
        "settled_time": moment(START_US + int(hours * HOUR_US)),
        "reference": "DTC 8841",
    }
    return ConfirmReceiptRequest(**(fields | changes))


def delivery(shares: int = 5, hours: float = -0.5, **changes: Any) -> ConfirmDeliveryRequest:
    fields: dict[str, Any] = {
        "custody_account": "alpaca/AAPL-1",
        "shares_e8": shares * 10**8,
        "settled_time": moment(START_US + int(hours * HOUR_US)),
        "reference": "DTC 8842",
    }
    return ConfirmDeliveryRequest(**(fields | changes))


@pytest.fixture
def books() -> Scenario:
    """Alpaca keeps AAPLx's shares, a bank could keep more, a verifier is an agent. Nothing is attested yet, nothing issued."""
    return Scenario().given(
        *two_holders(),
        register(),
        register("bank", BANK),
        register("verifier", VERIFIER, agent=True),
        custody(),
        custody("bank/AAPL-7"),
    )


def supply(books: Scenario, shares: int) -> Scenario:
    """Put AAPLx for whole shares into circulation, past issuance rules."""
    return books.units("AAPLx", "book:alice", shares * 10**8)


def split(books: Scenario, factor: int = 1) -> Scenario:
    """Book a split straight into the state, as a corporate action's event does."""
    state = books.books._state
    old = state.instruments["AAPLx"].multiplier
    event = MultiplierChanged(instrument="AAPLx", old_multiplier=str(old), multiplier=str(old * factor), share_basis_changed=True)
    evolve_changed(state, event, Entry())
    books.replayable = False
    return books


def reserve(books: Scenario) -> Any:
    return books.books.execute(GetReserveRequest(instrument="AAPLx")).reserve


def instrument(books: Scenario) -> Any:
    return books.books._state.instruments["AAPLx"]


def refused(check: Any, *arguments: Any, **named: Any) -> str:
    """Return the reason for which a check of the rules refuses."""
    with pytest.raises(LedgerError) as found:
        check(*arguments, **named)
    return found.value.reason_name


def may_issue(books: Scenario, shares: int) -> str:
    """Return why AAPLx for so many shares cannot be issued now, or "yes"."""
    try:
        check_reserve(books.books._state, instrument(books), shares * 10**8, books.clock.now_us)
    except LedgerError as error:
        return error.reason_name
    return "yes"


def kind_of_entry(books: Scenario, index: int) -> str:
    """Return what kind of event stands at an index of the log."""
    _, entry = next(iter(books.books.tail(index)))
    return str(entry.WhichOneof("event"))


def assert_replay_knows_reserves(books: Scenario) -> None:
    """Check the reserve tables against the log, where supply was put past it."""
    found, state = latest_state(books.books.log), books.books._state
    assert (found.evidence, found.shortfalls) == (state.evidence, state.shortfalls)
    for index in state.shortfalls.values():
        assert kind_of_entry(books, index) == "reserve_shortfall_raised"
    for each in state.evidence.values():
        assert kind_of_entry(books, each.index) == "evidence_recorded"


# ---- custodians and custody accounts ------------------------------------------------------------------------------------------------


def test_a_custodian_is_registered_once_another_person_approves() -> None:
    books = Scenario()
    books.when(register(request_id=request_id())).accepted()
    assert not books.books._state.custodians
    books.when(register(), approver="operator").raises_after_booking("APPROVER_IS_REQUESTER")
    books.when(register(), approver="carol").accepted()
    custodian = Custodian(custodian="alpaca", name="Alpaca", public_key=public(ALPACA))
    assert books.booked[-1] == CustodianRegistered(custodian=custodian)
    books.when(ApproveCommandRequest(approval=1), principal="carol").raises("ALREADY_EXISTS", custodian="alpaca")


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", register(custodian="", name="")),
        ("FIELD_MALFORMED", register(custodian="al paca", name="")),
        ("FIELD_MISSING", register(name="", public_key=b"")),
        ("FIELD_MALFORMED", register(name="x" * 141, public_key=b"")),
        ("FIELD_MISSING", register(public_key=b"")),
        ("FIELD_MALFORMED", register(public_key=public(ALPACA)[:31])),
        ("FIELD_MALFORMED", register(public_key=public(ALPACA) + b"\0")),
        ("FIELD_MALFORMED", register(public_key=NOT_A_KEY)),
        ("ALREADY_EXISTS", register()),
        ("ALREADY_EXISTS", register("verifier")),
    ],
)
def test_refusals_of_a_custodian(books: Scenario, reason: str, command: RegisterCustodianRequest) -> None:
    books.when(command).raises(reason)
    books.when(register("custodian-4")).accepted()


def test_a_key_is_rotated_and_only_the_new_one_signs(books: Scenario) -> None:
    books.given(evidence())
    books.when(rotate(), approver="carol").accepted()
    assert books.booked[-1] == CustodianKeyRotated(custodian="alpaca", public_key=public(ALPACA_NEW))
    assert reserve(books).reserve_shares_e8 == 1000 * 10**8, "evidence recorded before stays"
    books.when(as_of(-0.5)).raises("SIGNATURE_INVALID", signer="alpaca")
    books.when(as_of(-0.5, key=ALPACA_NEW)).accepted()


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", rotate(public_key=b"", custodian="")),
        ("FIELD_MALFORMED", rotate(public_key=b"x" * 33, custodian="nobody")),
        ("FIELD_MALFORMED", rotate(public_key=NOT_A_KEY, custodian="nobody")),
        ("FIELD_MISSING", rotate(custodian="")),
        ("CUSTODIAN_NOT_FOUND", rotate(custodian="nobody")),
        ("NOTHING_TO_CHANGE", rotate(public_key=public(ALPACA))),
    ],
)
def test_refusals_of_a_rotation(books: Scenario, reason: str, command: RotateCustodianKeyRequest) -> None:
    books.when(command).raises(reason)
    books.when(rotate()).accepted()


def test_a_custody_account_is_opened(books: Scenario) -> None:
    books.when(custody("alpaca/AAPL-2")).then(
        CustodyAccountOpened(
            custody_account=CustodyAccount(custody_account="alpaca/AAPL-2", custodian="alpaca", isin="US0378331005", instrument="AAPLx")
        )
    )


def test_cash_is_kept_in_its_currency(books: Scenario) -> None:
    books.when(custody("bank/USDC", isin="US0378331005", instrument="USDC")).raises("FIELD_MALFORMED", field="isin")
    books.when(custody("bank/USDC", isin="USDC", instrument="USDC")).accepted()
    books.given(evidence(signer="bank", key=BANK, custody_account="bank/USDC", isin="USDC"))
    assert books.books.execute(GetReserveRequest(instrument="USDC")).reserve.reserve_shares_e8 == 1000 * 10**8


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", custody("", isin="", custodian="")),
        ("FIELD_MALFORMED", custody("alpaca:AAPL", isin="")),
        ("FIELD_MISSING", custody(isin="", custodian="nobody")),
        ("FIELD_MALFORMED", custody(isin="US03783310051", custodian="nobody")),
        ("FIELD_MISSING", custody(custodian="", instrument="NONEx")),
        ("CUSTODIAN_NOT_FOUND", custody(custodian="nobody", instrument="NONEx")),
        ("CUSTODIAN_NOT_FOUND", custody(custodian="verifier", instrument="NONEx")),
        ("FIELD_MISSING", custody(instrument="")),
        ("INSTRUMENT_NOT_FOUND", custody(instrument="NONEx")),
        ("INSTRUMENT_RETIRED", custody(instrument="OLDx", isin="US5949181045")),
        ("FIELD_MALFORMED", custody(isin="US5949181045")),
        ("ALREADY_EXISTS", custody()),
        ("CUSTODY_ACCOUNT_TAKEN", custody(instrument="AAPLy")),
    ],
)
def test_refusals_of_a_custody_account(books: Scenario, reason: str, command: OpenCustodyAccountRequest) -> None:
    books.given(stock("AAPLy"), stock("OLDx", "US88160R1014"), RetireInstrumentRequest(instrument="OLDx"))
    books.when(command).raises(reason)
    books.when(custody("alpaca/AAPL-9", instrument="AAPLy")).accepted()


# ---- evidence -----------------------------------------------------------------------------------------------------------------------


def test_evidence_of_a_custodian_is_recorded_verbatim(books: Scenario) -> None:
    spaced = json.dumps(members(pending_shares_e8=7, encumbered_shares_e8=8), indent=2).encode()
    command = evidence(statement=spaced)
    books.when(command).then(
        EvidenceRecorded(
            kind=CUSTODIAN_SIGNED,
            signer="alpaca",
            statement=spaced,
            signature=command.signature,
            custody_account="alpaca/AAPL-1",
            settled_shares_e8=1000 * 10**8,
            pending_shares_e8=7,
            encumbered_shares_e8=8,
            as_of_time=moment(START_US - HOUR_US),
            valid_until_time=moment(START_US + 23 * HOUR_US),
            share_basis=0,
        )
    )
    found = reserve(books)
    assert (found.settled_shares_e8, found.pending_shares_e8, found.encumbered_shares_e8) == (1000 * 10**8, 7, 8)
    assert found.reserve_shares_e8 == 1000 * 10**8, "neither pending nor encumbered shares count"


def test_an_agent_may_sign_for_any_custody_account(books: Scenario) -> None:
    books.when(evidence(AGENT_SIGNED, "verifier", VERIFIER)).accepted()
    assert reserve(books).evidence[0].kind == AGENT_SIGNED


def test_an_imported_statement_always_takes_four_eyes(books: Scenario) -> None:
    books.when(evidence(IMPORTED), principal="dora").accepted()
    assert [type(event) for event in books.booked] == [ApprovalRequested]
    assert not reserve(books).evidence
    approval = books.answer.booking.approval
    books.when(ApproveCommandRequest(approval=approval), principal="dora").raises("APPROVER_IS_REQUESTER")
    books.when(ApproveCommandRequest(approval=approval), principal="carol").accepted()
    given, recorded = books.booked
    assert isinstance(given, ApprovalGiven)
    assert (recorded.kind, recorded.signer, recorded.signature) == (IMPORTED, "dora", b"")
    assert recorded.document_hash == hashlib.sha256(b"a letter").digest()
    found = reserve(books).evidence[0]
    assert (found.kind, found.signer) == (IMPORTED, "dora")
    assert kind_of_entry(books, found.index) == "evidence_recorded"


def statement_of(**changes: Any) -> bytes:
    """Return a statement with changed members; a member set to None is left out."""
    return json.dumps({name: value for name, value in members(**changes).items() if value is not None}).encode()


TWICE = json.dumps(members()).encode()[:-1] + b', "share_basis": 0}'
SAME_TEXT = json.dumps(members())

MALFORMED = [
    ("FIELD_MISSING", "statement", b""),
    ("FIELD_MALFORMED", "statement", SAME_TEXT.encode() + b" " * STATEMENT_BYTES_MAX),
    ("FIELD_MALFORMED", "statement", b"settled: 1000"),
    ("FIELD_MALFORMED", "statement", b"[" * STATEMENT_BYTES_MAX),
    ("FIELD_MALFORMED", "statement", b"\xff" + SAME_TEXT.encode()),
    ("FIELD_MALFORMED", "statement", b"\xef\xbb\xbf" + SAME_TEXT.encode()),
    ("FIELD_MALFORMED", "statement", SAME_TEXT.encode("utf-16")),
    ("FIELD_MALFORMED", "statement", SAME_TEXT.encode() + b"{}"),
    ("FIELD_MALFORMED", "statement", b"[" + SAME_TEXT.encode() + b"]"),
    ("FIELD_MALFORMED", "statement", TWICE),
    ("FIELD_MALFORMED", "statement", SAME_TEXT.replace("100000000000", "1e11").encode()),
    ("FIELD_MALFORMED", "statement", SAME_TEXT.replace("100000000000", "100000000000.0").encode()),
    ("FIELD_MALFORMED", "statement", SAME_TEXT.replace("100000000000", "-0").encode()),
    ("FIELD_MALFORMED", "statement", SAME_TEXT.replace("100000000000", "00").encode()),
    ("FIELD_MALFORMED", "statement", SAME_TEXT.replace("100000000000", "NaN").encode()),
    ("FIELD_MALFORMED", "statement.comment", statement_of(comment="all well", isin=None)),
    ("FIELD_MISSING", "statement.isin", statement_of(isin=None, settled_shares_e8="1")),
    ("FIELD_MALFORMED", "statement.isin", statement_of(isin=5, settled_shares_e8="1")),
    ("FIELD_MALFORMED", "statement.settled_shares_e8", statement_of(settled_shares_e8="1")),
    ("FIELD_MALFORMED", "statement.settled_shares_e8", statement_of(settled_shares_e8=True)),
    ("FIELD_MALFORMED", "statement.share_basis", statement_of(share_basis=False)),
    ("FIELD_MALFORMED", "statement.pending_shares_e8", statement_of(pending_shares_e8=[1])),
    ("FIELD_MISSING", "statement.ledger", statement_of(ledger=None, settled_shares_e8="1")),
    ("FIELD_MISSING", "statement.ledger", statement_of(ledger="", custody_account="")),
    ("FIELD_MALFORMED", "statement.ledger", statement_of(ledger=5)),
    ("FIELD_MALFORMED", "statement.ledger", statement_of(ledger="a b", custody_account="")),
    ("FIELD_MISSING", "statement.custody_account", statement_of(custody_account="", settled_shares_e8=-1)),
    ("FIELD_MALFORMED", "statement.custody_account", statement_of(custody_account="a b", settled_shares_e8=-1)),
    ("FIELD_MISSING", "statement.isin", statement_of(isin="", settled_shares_e8=-1)),
    ("UNITS_NOT_POSITIVE", "statement.settled_shares_e8", statement_of(settled_shares_e8=-1, as_of_time="now")),
    ("UNITS_OUT_OF_RANGE", "statement.settled_shares_e8", statement_of(settled_shares_e8=UNITS_MAX + 1, as_of_time="now")),
    ("UNITS_OUT_OF_RANGE", "statement.settled_shares_e8", statement_of(settled_shares_e8=10**1000)),
    ("UNITS_NOT_POSITIVE", "statement.pending_shares_e8", statement_of(pending_shares_e8=-1)),
    ("UNITS_NOT_POSITIVE", "statement.encumbered_shares_e8", statement_of(encumbered_shares_e8=-1)),
    ("FIELD_MALFORMED", "statement.as_of_time", statement_of(as_of_time="now")),
    ("FIELD_MALFORMED", "statement.as_of_time", statement_of(as_of_time="2026-11-22")),
    ("FIELD_MALFORMED", "statement.as_of_time", statement_of(as_of_time="2026-11-22T17:00:00")),
    ("FIELD_MALFORMED", "statement.as_of_time", statement_of(as_of_time="2026-11-22T17:00:00+00:00")),
    ("FIELD_MALFORMED", "statement.as_of_time", statement_of(as_of_time="2026-11-22t17:00:00z")),
    ("FIELD_MALFORMED", "statement.as_of_time", statement_of(as_of_time="2026-11-22T17:00:00.0000001Z")),
    ("FIELD_MALFORMED", "statement.as_of_time", statement_of(as_of_time="2026-02-29T17:00:00Z")),
    ("FIELD_MALFORMED", "statement.as_of_time", statement_of(as_of_time="2026-11-22T24:00:00Z")),
    ("FIELD_MALFORMED", "statement.as_of_time", statement_of(as_of_time="2026-11-22T17:00:60Z")),
    ("FIELD_MALFORMED", "statement.as_of_time", statement_of(as_of_time="２026-11-22T17:00:00Z")),
    ("FIELD_MALFORMED", "statement.valid_until_time", statement_of(valid_until_time="", share_basis=-1)),
    ("FIELD_MALFORMED", "statement.share_basis", statement_of(share_basis=-1)),
    ("FIELD_MALFORMED", "statement.share_basis", statement_of(share_basis=2**31)),
]


@pytest.mark.parametrize(("reason", "field", "statement"), MALFORMED)
def test_a_statement_is_read_strictly(books: Scenario, reason: str, field: str, statement: bytes) -> None:
    books.when(evidence(statement=statement, signer="nobody")).raises(reason, field=field)


def test_a_statement_counts_in_the_ledger_it_is_made_for_only(books: Scenario) -> None:
    """Signed truly, by the custodian of both ledgers; but the same shares would then back the units of both."""
    for kind in (CUSTODIAN_SIGNED, IMPORTED):
        replayed = evidence(kind, ledger="another")
        books.when(replayed).raises("FIELD_MALFORMED", field="statement.ledger", value="another", expected="test")
    books.when(evidence(ledger="another", valid_until_time=utc_text(START_US - 2 * HOUR_US))).raises("FIELD_MALFORMED")
    books.when(evidence()).accepted()


def test_a_statement_may_be_as_long_as_it_may_be_and_times_as_fine(books: Scenario) -> None:
    data = statement_of(as_of_time="2026-11-22T16:59:59.000001Z", settled_shares_e8=UNITS_MAX)
    books.when(evidence(statement=data.ljust(STATEMENT_BYTES_MAX))).accepted()
    assert books.booked[0].as_of_time == moment(START_US - HOUR_US - 999_999)


REFUSALS = [
    ("FIELD_MISSING", evidence(request={"kind": 0, "signer": "", "statement": b""})),
    ("FIELD_MALFORMED", evidence(request={"kind": 9, "signer": ""})),
    ("FIELD_MALFORMED", evidence(IMPORTED, request={"signer": "alpaca", "statement": b""})),
    ("FIELD_MALFORMED", evidence(IMPORTED, request={"signature": b"x" * 64, "statement": b""})),
    ("FIELD_MISSING", evidence(IMPORTED, request={"document_hash": b"", "statement": b""})),
    ("FIELD_MALFORMED", evidence(IMPORTED, request={"document_hash": b"x" * 31, "statement": b""})),
    ("FIELD_MISSING", evidence(request={"signer": "", "signature": b""})),
    ("FIELD_MALFORMED", evidence(request={"signer": "al paca", "signature": b""})),
    ("FIELD_MISSING", evidence(request={"signature": b"", "document_hash": b"x"})),
    ("FIELD_MALFORMED", evidence(request={"signature": b"x" * 63, "document_hash": b"x"})),
    ("FIELD_MALFORMED", evidence(request={"document_hash": b"x" * 32, "statement": b""})),
    ("FIELD_MALFORMED", evidence(statement=b"{", signer="nobody")),
    ("DATES_OUT_OF_ORDER", evidence(valid_until_time=utc_text(START_US - HOUR_US), signer="nobody")),
    ("DATES_OUT_OF_ORDER", as_of(1, signer="nobody")),
    ("CUSTODIAN_NOT_FOUND", evidence(signer="nobody", custody_account="none/1")),
    ("CUSTODY_ACCOUNT_NOT_FOUND", evidence(custody_account="none/1", key=BANK)),
    ("CUSTODY_ACCOUNT_NOT_FOUND", evidence(isin="US5949181045", key=BANK)),
    ("SIGNATURE_INVALID", evidence(key=BANK, share_basis=1)),
    ("SIGNATURE_INVALID", evidence(request={"signature": bytes(64)}, share_basis=1)),
    ("SIGNATURE_INVALID", evidence(request={"statement": statement_of(share_basis=1)})),
    ("SIGNATURE_INVALID", evidence(signer="bank", key=BANK, share_basis=1)),
    ("SIGNATURE_INVALID", evidence(signer="verifier", key=VERIFIER, share_basis=1)),
    ("SIGNATURE_INVALID", evidence(AGENT_SIGNED, share_basis=1)),
    ("SHARE_BASIS_UNFIT", as_of(-2, share_basis=1)),
    ("ATTESTATION_SUPERSEDED", as_of(-2)),
    ("ATTESTATION_SUPERSEDED", as_of(-1, settled_shares_e8=UNITS_MAX)),
    ("UNITS_OUT_OF_RANGE", as_of(-0.5, settled_shares_e8=UNITS_MAX)),
    ("UNITS_OUT_OF_RANGE", as_of(-0.5, pending_shares_e8=UNITS_MAX)),
    ("UNITS_OUT_OF_RANGE", as_of(-0.5, encumbered_shares_e8=UNITS_MAX)),
]


@pytest.mark.parametrize(("reason", "command"), REFUSALS)
def test_refusals_of_evidence_in_order_of_precedence(books: Scenario, reason: str, command: RecordEvidenceRequest) -> None:
    bank = evidence(signer="bank", key=BANK, custody_account="bank/AAPL-7", pending_shares_e8=1, encumbered_shares_e8=1)
    books.given(evidence(), bank)
    books.when(command).raises(reason)
    books.when(as_of(-0.5)).accepted()


def test_evidence_may_speak_of_this_very_moment_and_not_of_the_next(books: Scenario) -> None:
    now_us = books.clock.now_us = START_US + HOUR_US
    late = {"valid_until_time": utc_text(now_us + HOUR_US)}
    books.when(evidence(as_of_time=utc_text(now_us + 1), **late)).raises("DATES_OUT_OF_ORDER", earlier="as_of_time", later="decision_time")
    books.when(evidence(as_of_time=utc_text(now_us), **late)).accepted()


def test_newer_evidence_is_newer_by_a_microsecond_at_least(books: Scenario) -> None:
    books.given(evidence())
    late = {"valid_until_time": utc_text(START_US)}
    last = utc_text(START_US - HOUR_US)
    books.when(evidence(as_of_time=last, **late)).raises("ATTESTATION_SUPERSEDED", as_of_time=last, recorded=last)
    books.when(evidence(as_of_time=utc_text(START_US - HOUR_US + 1), **late)).accepted()


def test_each_custody_account_has_its_own_last(books: Scenario) -> None:
    books.given(evidence())
    books.when(as_of(-5, 400, signer="bank", key=BANK, custody_account="bank/AAPL-7")).accepted()
    assert reserve(books).reserve_shares_e8 == 1400 * 10**8, "several custodians add up"


# ---- receipts and deliveries --------------------------------------------------------------------------------------------------------


def test_receipts_and_deliveries_after_the_evidence_count(books: Scenario) -> None:
    books.given(evidence())
    books.when(receipt(5)).then(
        ReceiptConfirmed(
            custody_account="alpaca/AAPL-1", shares_e8=5 * 10**8, settled_time=moment(START_US - HOUR_US // 2), reference="DTC 8841"
        )
    )
    books.when(delivery(7)).then(
        DeliveryConfirmed(
            custody_account="alpaca/AAPL-1", shares_e8=7 * 10**8, settled_time=moment(START_US - HOUR_US // 2), reference="DTC 8842"
        )
    )
    found = reserve(books)
    assert (found.received_shares_e8, found.delivered_shares_e8, found.reserve_shares_e8) == (5 * 10**8, 7 * 10**8, 998 * 10**8)


def test_what_settled_at_or_before_the_evidence_is_in_it_already(books: Scenario) -> None:
    books.given(evidence(), receipt(5, -1), delivery(7, -2))
    assert reserve(books).reserve_shares_e8 == 1000 * 10**8
    books.given(receipt(5, 0, settled_time=moment(START_US - HOUR_US + 1)))
    assert reserve(books).reserve_shares_e8 == 1005 * 10**8


def test_new_evidence_drops_what_settled_until_its_as_of_time(books: Scenario) -> None:
    books.given(evidence(), receipt(5, -0.75), delivery(7, -0.5), receipt(11, -0.25))
    assert reserve(books).reserve_shares_e8 == 1009 * 10**8
    books.given(as_of(-0.5, 998))
    found = reserve(books)
    assert (found.received_shares_e8, found.delivered_shares_e8, found.reserve_shares_e8) == (11 * 10**8, 0, 1009 * 10**8)


CONFIRMATION_REFUSALS = [
    ("FIELD_MISSING", {"custody_account": "", "shares_e8": 0}),
    ("FIELD_MALFORMED", {"custody_account": "a b", "shares_e8": 0}),
    ("FIELD_MALFORMED", {"reference": "x" * 141, "shares_e8": 0}),
    ("UNITS_NOT_POSITIVE", {"shares_e8": 0, "settled_time": None}),
    ("UNITS_NOT_POSITIVE", {"shares_e8": -1, "settled_time": None}),
    ("UNITS_OUT_OF_RANGE", {"shares_e8": UNITS_MAX + 1, "settled_time": None}),
    ("FIELD_MISSING", {"settled_time": None, "custody_account": "none/1"}),
    ("FIELD_MALFORMED", {"settled_time": Timestamp(nanos=1), "custody_account": "none/1"}),
    ("DATES_OUT_OF_ORDER", {"settled_time": moment(START_US + HOUR_US), "custody_account": "none/1"}),
    ("CUSTODY_ACCOUNT_NOT_FOUND", {"custody_account": "none/1", "shares_e8": UNITS_MAX}),
    ("ATTESTATION_STALE", {"custody_account": "bank/AAPL-7", "shares_e8": UNITS_MAX}),
]


@pytest.mark.parametrize("confirmation", [receipt, delivery])
@pytest.mark.parametrize(("reason", "changes"), CONFIRMATION_REFUSALS)
def test_refusals_of_a_confirmation(books: Scenario, confirmation: Any, reason: str, changes: dict[str, Any]) -> None:
    books.given(evidence())
    books.when(confirmation(**changes)).raises(reason)
    books.when(confirmation()).accepted()


@pytest.mark.parametrize("confirmation", [receipt, delivery])
def test_sums_stay_within_their_range(books: Scenario, confirmation: Any) -> None:
    books.given(evidence(settled_shares_e8=1))
    rest = UNITS_MAX - (1 if confirmation is receipt else 0)
    books.when(confirmation(shares_e8=rest)).accepted()
    books.when(confirmation(shares_e8=1)).raises("UNITS_OUT_OF_RANGE")
    assert reserve(books).reserve_shares_e8 == (UNITS_MAX if confirmation is receipt else 1 - UNITS_MAX)


# ---- shortfalls ---------------------------------------------------------------------------------------------------------------------


def raised(reserve: int, needed: int) -> ReserveShortfallRaised:
    return ReserveShortfallRaised(instrument="AAPLx", reserve_shares_e8=reserve, needed_shares_e8=str(needed))


def ended(reserve: int, needed: int) -> ReserveShortfallEnded:
    return ReserveShortfallEnded(instrument="AAPLx", reserve_shares_e8=reserve, needed_shares_e8=str(needed))


def test_bad_news_is_recorded_and_raises_a_shortfall_until_covered(books: Scenario) -> None:
    supply(books.given(evidence()), 1000)
    assert may_issue(books, 0) == "yes"
    books.when(evidence(settled_shares_e8=1000 * 10**8 - 1, as_of_time=utc_text(START_US - HOUR_US + 1))).accepted()
    assert books.booked[1:] == [raised(1000 * 10**8 - 1, 1000 * 10**8)], "one hundred-millionth of a share is missing"
    assert reserve(books).shortfall
    assert_replay_knows_reserves(books)
    assert may_issue(books, 0) == "RESERVE_SHORTFALL"
    books.when(as_of(-0.75, 999)).accepted()
    assert len(books.booked) == 1, "a shortfall is raised once"
    books.when(as_of(-0.5, 1000)).accepted()
    assert books.booked[1:] == [ended(1000 * 10**8, 1000 * 10**8)]
    assert not reserve(books).shortfall
    assert_replay_knows_reserves(books)
    assert may_issue(books, 0) == "yes"


def test_a_shortfall_that_an_approval_records_stands_at_its_own_entries(books: Scenario) -> None:
    supply(books, 1).given(evidence(IMPORTED, settled_shares_e8=0))
    assert books.books._state.shortfalls == {"AAPLx": books.books.size - 1}
    assert_replay_knows_reserves(books)


def test_deliveries_raise_and_receipts_end_a_shortfall(books: Scenario) -> None:
    supply(books.given(evidence()), 995)
    books.when(delivery(5)).accepted()
    assert len(books.booked) == 1, "995 are left, and needed"
    books.when(delivery(1)).accepted()
    assert books.booked[1:] == [raised(994 * 10**8, 995 * 10**8)]
    books.when(receipt(1)).accepted()
    assert books.booked[1:] == [ended(995 * 10**8, 995 * 10**8)]
    assert_replay_knows_reserves(books)


def test_a_shortfall_does_not_stop_transfers_and_is_of_one_instrument(books: Scenario) -> None:
    books.given(stock("TSLAx", "US88160R1014"), custody("bank/TSLA", isin="US88160R1014", instrument="TSLAx"))
    books.given(evidence(signer="bank", key=BANK, custody_account="bank/TSLA", isin="US88160R1014"))
    supply(books, 1).given(evidence(settled_shares_e8=0))
    assert list(books.books._state.shortfalls) == ["AAPLx"]
    state = books.books._state
    check_reserve(state, state.instruments["TSLAx"], 1000 * 10**8, books.clock.now_us)


def test_custodians_add_up_against_one_supply(books: Scenario) -> None:
    supply(books.given(as_of(-1, 600)), 600)
    books.given(as_of(-1, 400, signer="bank", key=BANK, custody_account="bank/AAPL-7"))
    assert may_issue(books, 400) == "yes"
    assert may_issue(books, 401) == "RESERVE_INSUFFICIENT"
    books.when(as_of(-0.5, 199)).accepted()
    assert books.booked[1:] == [raised(599 * 10**8, 600 * 10**8)]


# ---- what issuance and others ask ---------------------------------------------------------------------------------------------------


def test_needed_is_rounded_up_and_may_exceed_64_bits(books: Scenario) -> None:
    state, apple = books.units("AAPLx", "book:alice", 3).books._state, instrument(books)
    assert needed_shares_e8(state, apple) == 3
    assert needed_shares_e8(state, apple, extra_units=-3) == 0
    third = dataclasses.replace(apple, multiplier=10**18 // 3)
    assert needed_shares_e8(state, third) == 1
    assert needed_shares_e8(state, third, extra_units=1) == 2
    huge = dataclasses.replace(apple, multiplier=2**128 - 1)
    assert needed_shares_e8(state, huge, extra_units=2**62) > 2**64


def test_issuance_needs_evidence(books: Scenario) -> None:
    assert may_issue(books, 1) == "ATTESTATION_STALE"
    books.given(evidence())
    assert may_issue(books, 1000) == "yes"
    assert may_issue(books, 1001) == "RESERVE_INSUFFICIENT"


def test_stale_evidence_counts_but_stops_issuance(books: Scenario) -> None:
    supply(books.given(evidence()), 10)
    state, until_us = books.books._state, START_US + 23 * HOUR_US
    check_reserve(state, instrument(books), 1, until_us - 1)
    assert refused(check_reserve, state, instrument(books), 1, until_us) == "ATTESTATION_STALE"
    assert refused(check_reserve, state, instrument(books), 10**12, until_us) == "ATTESTATION_STALE", "renewing comes first"
    assert reserve_shares_e8(state, instrument(books)) == 1000 * 10**8
    books.pass_time(24 * 3600)
    found = reserve(books)
    assert (found.evidence[0].counted, found.evidence[0].stale, found.shortfall) == (True, True, False)
    books.when(delivery(990)).accepted()
    assert len(books.booked) == 1, "10 shares are known to be left, however old the statement"


def test_evidence_is_stale_as_of_a_time_by_that_time_though_nothing_was_booked_since(books: Scenario) -> None:
    books.given(evidence())
    size, until_us = books.books.size, START_US + 23 * HOUR_US

    def stale(as_of: AsOf | None) -> bool:
        return bool(books.books.execute(GetReserveRequest(instrument="AAPLx", as_of=as_of)).reserve.evidence[0].stale)

    assert not stale(AsOf(time=moment(until_us))), "nobody knows yet what is then: it is asked as of now"
    books.pass_time(24 * 3600)
    assert [stale(AsOf(time=moment(until_us + more))) for more in (-1, 0, 10**15)] == [False, True, True]
    assert stale(None)
    assert not stale(AsOf(size=size)), "when the last of these entries was booked, it was not"


def test_another_custodians_stale_statement_does_not_matter_where_it_is_not_needed(books: Scenario) -> None:
    books.given(as_of(-30, 50, signer="bank", key=BANK, custody_account="bank/AAPL-7"), evidence())
    assert [each.stale for each in reserve(books).evidence] == [False, True]
    assert may_issue(books, 1000) == "yes"
    assert may_issue(books, 1001) == "ATTESTATION_STALE"


def test_what_is_missing_at_a_stale_custodian_is_missing_still(books: Scenario) -> None:
    books.given(as_of(-30, 50, signer="bank", key=BANK, custody_account="bank/AAPL-7"), evidence())
    books.given(delivery(60, custody_account="bank/AAPL-7"))
    assert reserve(books).reserve_shares_e8 == 990 * 10**8
    assert may_issue(books, 990) == "yes"
    assert may_issue(books, 991) == "ATTESTATION_STALE"


def test_after_a_split_evidence_is_renewed_first(books: Scenario) -> None:
    supply(books.given(evidence(), as_of(-1, 400, signer="bank", key=BANK, custody_account="bank/AAPL-7")), 1400)
    split(books, 10)
    assert instrument(books).share_basis == 1
    found = reserve(books)
    assert (found.reserve_shares_e8, found.needed_shares_e8, found.shortfall) == (0, str(14_000 * 10**8), False)
    assert [each.counted for each in found.evidence] == [False, False]
    assert may_issue(books, 0) == "ATTESTATION_STALE"
    books.when(delivery(1)).raises("ATTESTATION_STALE", share_basis=0)
    books.when(as_of(-0.5, 10_000)).raises("SHARE_BASIS_UNFIT", share_basis=0, expected=1)
    books.when(as_of(-0.5, 9_999, share_basis=1)).accepted()
    assert len(books.booked) == 1, "the bank's shares are not known yet, so nobody knows of a shortfall"
    assert may_issue(books, 0) == "ATTESTATION_STALE"
    books.when(as_of(-0.5, 4_000, share_basis=1, signer="bank", key=BANK, custody_account="bank/AAPL-7")).accepted()
    assert books.booked[1:] == [raised(13_999 * 10**8, 14_000 * 10**8)]
    books.when(as_of(-0.25, 10_000, share_basis=1)).accepted()
    assert books.booked[1:] == [ended(14_000 * 10**8, 14_000 * 10**8)]


def test_one_renewed_custodian_suffices_if_it_covers_all(books: Scenario) -> None:
    supply(books.given(evidence(), as_of(-1, 0, signer="bank", key=BANK, custody_account="bank/AAPL-7")), 1000)
    split(books, 10).given(as_of(-0.5, 10_001, share_basis=1))
    assert (may_issue(books, 0), may_issue(books, 1)) == ("yes", "ATTESTATION_STALE")


def test_confirmations_of_old_shares_are_not_carried_over_a_split(books: Scenario) -> None:
    books.given(evidence(), delivery(7, -0.5))
    split(books)
    half = utc_text(START_US - HOUR_US // 2)
    books.when(as_of(-0.75, share_basis=1)).raises("ATTESTATION_SUPERSEDED", recorded=half)
    books.when(as_of(-0.5, share_basis=1)).accepted()
    assert reserve(books).reserve_shares_e8 == 1000 * 10**8


def test_a_shortfall_survives_a_split_until_renewed_evidence_covers(books: Scenario) -> None:
    supply(books, 1).given(evidence(settled_shares_e8=0))
    split(books)
    assert may_issue(books, 0) == "RESERVE_SHORTFALL"
    books.when(as_of(-0.5, 1, share_basis=1)).accepted()
    assert books.booked[1:] == [ended(10**8, 10**8)]


def test_reserve_events_look_at_the_instrument_as_it_will_be(books: Scenario) -> None:
    state = supply(books.given(evidence()), 1000).books._state
    apple = instrument(books)
    assert reserve_events(state, apple) == []
    assert reserve_events(state, apple, extra_units=1) == [raised(1000 * 10**8, 1000 * 10**8 + 1)]
    more = dataclasses.replace(apple, multiplier=apple.multiplier * 2)
    assert reserve_events(state, more) == [raised(1000 * 10**8, 2000 * 10**8)]
    assert reserve_events(state, dataclasses.replace(more, share_basis=1)) == [], "after a split nothing is known"
    assert refused(check_covered, state, more) == "RESERVE_INSUFFICIENT"
    check_covered(state, apple)
    books.given(delivery(1))
    assert reserve_events(state, apple, extra_units=-(10**8)) == [ended(999 * 10**8, 999 * 10**8)]
    assert reserve_events(state, apple, extra_units=1 - 10**8) == []


def test_without_any_evidence_nothing_is_raised(books: Scenario) -> None:
    state = supply(books, 1).books._state
    assert reserve_events(state, instrument(books), extra_units=5) == []


def test_a_delivery_in_kind_goes_with_the_units_it_destroys(books: Scenario) -> None:
    state = supply(books.given(evidence()), 1000).books._state
    asked = (state, "alpaca/AAPL-1", 10 * 10**8, START_US, "DTC 8843")
    confirmed = DeliveryConfirmed(
        custody_account="alpaca/AAPL-1", shares_e8=10 * 10**8, settled_time=moment(START_US), reference="DTC 8843"
    )
    assert confirm_delivery_events(*asked, destroyed_units=10 * 10**8) == [confirmed]
    assert confirm_delivery_events(*asked, destroyed_units=10 * 10**8 - 1) == [confirmed, raised(990 * 10**8, 990 * 10**8 + 1)]
    assert confirm_delivery_events(*asked) == [confirmed, raised(990 * 10**8, 1000 * 10**8)]
    assert refused(confirm_delivery_events, state, "none/1", 1, START_US, "") == "CUSTODY_ACCOUNT_NOT_FOUND"
    assert refused(confirm_delivery_events, state, "bank/AAPL-7", 1, START_US, "") == "ATTESTATION_STALE"


def test_a_custody_account_is_found_for_its_own_instrument(books: Scenario) -> None:
    state = books.books._state
    assert find_custody_account_of(state, "alpaca/AAPL-1", instrument(books)).custodian == "alpaca"
    assert refused(find_custody_account_of, state, "", instrument(books)) == "FIELD_MISSING"
    assert refused(find_custody_account_of, state, "none/1", instrument(books)) == "CUSTODY_ACCOUNT_NOT_FOUND"
    assert refused(find_custody_account_of, state, "alpaca/AAPL-1", state.instruments["USDC"]) == "CUSTODY_ACCOUNT_TAKEN"


def test_shares_do_not_settle_in_the_future() -> None:
    assert check_settled_time(moment(START_US), START_US) == START_US
    assert refused(check_settled_time, moment(START_US), START_US - 1) == "DATES_OUT_OF_ORDER"
    assert refused(check_settled_time, None, START_US) == "FIELD_MISSING"


# ---- reads --------------------------------------------------------------------------------------------------------------------------


def test_reserves_are_read_as_of_any_size(books: Scenario) -> None:
    before = books.books.size
    books.given(evidence(), receipt(5))
    then = books.books.execute(GetReserveRequest(as_of=AsOf(size=before), instrument="AAPLx"))
    assert (then.size, then.reserve.reserve_shares_e8, len(then.reserve.evidence)) == (before, 0, 0)
    now = books.books.execute(GetReserveRequest(instrument="AAPLx"))
    assert (now.size, now.reserve.reserve_shares_e8) == (before + 2, 1005 * 10**8)
    found = now.reserve.evidence[0]
    assert (found.custody_account, found.kind, found.signer, found.index) == ("alpaca/AAPL-1", CUSTODIAN_SIGNED, "alpaca", before)
    assert (found.as_of_time, found.valid_until_time) == (moment(START_US - HOUR_US), moment(START_US + 23 * HOUR_US))
    assert refused(books.books.execute, GetReserveRequest(instrument="NONEx")) == "INSTRUMENT_NOT_FOUND"
    assert refused(books.books.execute, GetReserveRequest()) == "FIELD_MISSING"


def test_reserves_are_listed_by_symbol_where_there_is_something_to_say(books: Scenario) -> None:
    books.given(cash("EURC"), stock("TSLAx", "US88160R1014")).units("TSLAx", "book:alice", 5)
    page = books.books.execute(ListReservesRequest(page_size=1))
    assert ([each.instrument for each in page.reserves], page.next_page_token) == (["AAPLx"], "AAPLx")
    page = books.books.execute(ListReservesRequest(page_size=1, page_token="AAPLx"))
    assert ([each.instrument for each in page.reserves], page.next_page_token) == (["TSLAx"], "")
    assert page.reserves[0].needed_shares_e8 == "5"


def test_custodians_are_listed_with_the_key_they_sign_with_now(books: Scenario) -> None:
    page = books.given(rotate()).books.execute(ListCustodiansRequest(page_size=2))
    assert page.custodians[0] == Custodian(custodian="alpaca", name="Alpaca", public_key=public(ALPACA_NEW))
    assert ([each.custodian for each in page.custodians], page.next_page_token) == (["alpaca", "bank"], "bank")
    page = books.books.execute(ListCustodiansRequest(page_size=2, page_token="bank"))
    assert ([(each.custodian, each.agent) for each in page.custodians], page.next_page_token) == ([("verifier", True)], "")


def test_custody_accounts_are_listed_all_or_of_one_instrument(books: Scenario) -> None:
    books.given(custody("bank/USDC", isin="USDC", instrument="USDC"))
    page = books.books.execute(ListCustodyAccountsRequest())
    assert [each.custody_account for each in page.custody_accounts] == ["alpaca/AAPL-1", "bank/AAPL-7", "bank/USDC"]
    page = books.books.execute(ListCustodyAccountsRequest(instrument="AAPLx", page_size=1))
    alpaca = CustodyAccount(custody_account="alpaca/AAPL-1", custodian="alpaca", isin="US0378331005", instrument="AAPLx")
    assert (list(page.custody_accounts), page.next_page_token) == ([alpaca], "alpaca/AAPL-1")
    assert refused(books.books.execute, ListCustodyAccountsRequest(instrument="NONEx")) == "INSTRUMENT_NOT_FOUND"


def test_supply_is_read(books: Scenario) -> None:
    found = supply(books, 3).books.execute(GetSupplyRequest(instrument="AAPLx"))
    assert (found.supply_units, found.multiplier, found.authorised_units) == (3 * 10**8, str(10**18), 10**16)
    assert refused(books.books.execute, GetSupplyRequest(instrument="NONEx")) == "INSTRUMENT_NOT_FOUND"


# ---- idempotence --------------------------------------------------------------------------------------------------------------------

COMMANDS = [
    (register("carl", BANK), register("carl", ALPACA)),
    (rotate(), rotate(custodian="bank")),
    (custody("alpaca/AAPL-2"), custody("alpaca/AAPL-3")),
    (as_of(-0.9), as_of(-0.8)),
    (receipt(), receipt(6)),
    (delivery(), delivery(6)),
]


@pytest.mark.parametrize(("command", "other"), COMMANDS)
def test_a_repeat_gets_the_first_answer(books: Scenario, command: Any, other: Any) -> None:
    books.given(evidence())
    command, other = type(command).FromString(command.SerializeToString()), type(other).FromString(other.SerializeToString())
    command.request_id = other.request_id = request_id()
    books.when(command).accepted()
    first = books.answer
    books.when(command)
    assert (books.error, books.booked) == (None, [])
    assert books.answer.booking.repeated_answer
    assert (books.answer.booking.index, books.answer.event) == (first.booking.index, first.event)
    books.when(other).raises("REQUEST_ID_REUSED", index=first.booking.index)
