"""Reserves: what custodians hold, by which evidence, against what is owed.

    command               event                  and in the same booking, where it comes to that
    RegisterCustodian     CustodianRegistered
    RotateCustodianKey    CustodianKeyRotated
    OpenCustodyAccount    CustodyAccountOpened
    RecordEvidence        EvidenceRecorded       ReserveShortfallRaised or ReserveShortfallEnded
    ConfirmReceipt        ReceiptConfirmed       ReserveShortfallEnded
    ConfirmDelivery       DeliveryConfirmed      ReserveShortfallRaised

What counts. The reserve of an instrument is the settled shares of the newest evidence of each of its custody accounts, as far as that
evidence is of the instrument's share basis, plus the receipts and less the deliveries that settled after its as-of time.

- Stale evidence (past its valid_until_time) still counts: shares do not vanish because a statement grew old. But it stops issuance:
  units are created only against what fresh evidence covers by itself.
- After a split old evidence counts for nothing until it is renewed: its shares are of another size. Meanwhile nobody knows the reserve,
  so no shortfall is raised; issuance is refused as stale. A shortfall is judged again once all evidence of the instrument is renewed; it
  ends as soon as what is renewed covers what is needed.

Issuance, redemptions, corporate actions and the multiplier use `check_reserve`, `reserve_events` and `confirm_delivery_events`. These
take the instrument as it will be: pass `dataclasses.replace(instrument, multiplier=...)` to ask about another multiplier.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from google.protobuf.timestamp_pb2 import Timestamp
from nacl.bindings import crypto_core_ed25519_is_valid_point
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from ledger import records
from ledger.arithmetic import shares_e8_of_units_ceiling
from ledger.errors import LedgerError, refusal
from ledger.rules.checks import (
    check_enum,
    check_id,
    check_length,
    check_range,
    check_text,
    check_units,
    time_us,
    utc_text,
)
from ledger.rules.context import entry_index
from ledger.rules.instruments import CASH, find_usable
from ledger.rules.statements import parse_statement
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.reserves_pb2 import (
    ConfirmDeliveryRequest,
    ConfirmDeliveryResponse,
    ConfirmReceiptRequest,
    ConfirmReceiptResponse,
    Custodian,
    CustodianKeyRotated,
    CustodianRegistered,
    CustodyAccount,
    CustodyAccountOpened,
    DeliveryConfirmed,
    EvidenceKind,
    EvidenceRecorded,
    OpenCustodyAccountRequest,
    OpenCustodyAccountResponse,
    ReceiptConfirmed,
    RecordEvidenceRequest,
    RecordEvidenceResponse,
    RegisterCustodianRequest,
    RegisterCustodianResponse,
    ReserveShortfallEnded,
    ReserveShortfallRaised,
    RotateCustodianKeyRequest,
    RotateCustodianKeyResponse,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.records import Evidence, Instrument
    from ledger.rules.context import Context, Decided
    from ledger.rules.statements import Statement
    from ledger.state import State

PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
HASH_BYTES: Final = 32


# ---- what other rules ask -----------------------------------------------------------------------------------------------------------


def evidence_of(state: State, instrument: Instrument, changed: Evidence | None = None) -> list[Evidence]:
    """Return the newest evidence of each custody account of an instrument, in the order the accounts were opened.

    `changed` stands in for the evidence of its custody account: the evidence as it will be.
    """
    found = []
    for name in state.custody_accounts_of_instrument.get(instrument.symbol, ()):
        evidence = changed if changed is not None and changed.custody_account == name else state.evidence.get(name)
        if evidence is not None:
            found.append(evidence)
    return found


def is_counted(instrument: Instrument, evidence: Evidence) -> bool:
    """Tell whether evidence is of the instrument's share basis: shares from before a split are of another size."""
    return evidence.share_basis == instrument.share_basis


def is_stale(evidence: Evidence, now_us: int) -> bool:
    """Tell whether evidence has reached its valid_until_time."""
    return now_us >= evidence.valid_until_time_us


def reserve_shares_e8(state: State, instrument: Instrument, changed: Evidence | None = None) -> int:
    """Return the reserve: settled shares of counted evidence, plus receipts and less deliveries since, at scale 1e8.

    Below zero where custodians confirmed more deliveries than they ever attested shares. Example: two custodians attest 600 and 400
    shares, the first then delivers 50: `reserve_shares_e8(...) == 95_000_000_000`.
    """
    return sum(evidence.shares_e8 for evidence in evidence_of(state, instrument, changed) if is_counted(instrument, evidence))


def needed_shares_e8(state: State, instrument: Instrument, extra_units: int = 0) -> int:
    """Return the shares that supply stands for, at scale 1e8, rounded up; `extra_units` are about to be created (below zero: destroyed).

    May exceed 64 bits. Example: a supply of 150,000,000 units of 8 decimals at multiplier 1.0 needs 1.5 shares, 150_000_000.
    """
    return shares_e8_of_units_ceiling(state.supply(instrument.number) + extra_units, instrument.multiplier, instrument.decimals)


def check_reserve(state: State, instrument: Instrument, extra_units: int, now_us: int) -> None:
    """Refuse to create units that fresh evidence does not cover.

    Evidence must be fresh as far as it is needed: if what fresh evidence shows covers supply and the new units by itself, another
    custodian's stale statement does not matter (unless it is below zero: what is missing there is missing still). If it does not, and
    there is stale evidence, evidence from before a split, or none at all, then renewing comes first; only with all evidence fresh the
    reserve itself is too small.

    Raises: RuleViolated RESERVE_SHORTFALL, ATTESTATION_STALE, RESERVE_INSUFFICIENT, in this order.
    """
    symbol = instrument.symbol
    if symbol in state.shortfalls:
        message = f"reserves of {symbol} are short since index {state.shortfalls[symbol]}: nothing is issued until they cover supply again"
        raise refusal(Reason.REASON_RESERVE_SHORTFALL, message, instrument=symbol, index=state.shortfalls[symbol])
    evidence = evidence_of(state, instrument)
    needed = needed_shares_e8(state, instrument, extra_units)
    counted = [each for each in evidence if is_counted(instrument, each)]
    fresh = sum(min(each.shares_e8, 0) if is_stale(each, now_us) else each.shares_e8 for each in counted)
    if fresh >= needed:
        return
    if not evidence:
        message = f"there is no evidence of reserves of {symbol}"
        raise refusal(Reason.REASON_ATTESTATION_STALE, message, instrument=symbol)
    for each in evidence:
        if not is_counted(instrument, each):
            raise _not_renewed(instrument, each)
        if is_stale(each, now_us):
            name, until = each.custody_account, utc_text(each.valid_until_time_us)
            message = f"evidence of {name} was valid until {until}; without it {symbol} has {fresh} shares (1e-8) and needs {needed}"
            raise refusal(Reason.REASON_ATTESTATION_STALE, message, instrument=symbol, custody_account=name, valid_until_time=until)
    raise _insufficient(symbol, fresh, needed)


def _not_renewed(instrument: Instrument, evidence: Evidence) -> LedgerError:
    name, basis = evidence.custody_account, evidence.share_basis
    message = f"evidence of {name} is of share basis {basis}, {instrument.symbol} is at {instrument.share_basis}: it must be renewed"
    return refusal(Reason.REASON_ATTESTATION_STALE, message, instrument=instrument.symbol, custody_account=name, share_basis=basis)


def _insufficient(symbol: str, reserve: int, needed: int) -> LedgerError:
    message = f"reserves of {symbol} are {reserve} shares (1e-8), supply would need {needed}"
    return refusal(Reason.REASON_RESERVE_INSUFFICIENT, message, instrument=symbol, needed_e8=needed, reserve_e8=reserve)


def check_covered(state: State, instrument: Instrument) -> None:
    """Refuse an instrument as it would be (another multiplier), if its reserve did not cover its supply.

    Raises: RuleViolated RESERVE_INSUFFICIENT.
    """
    reserve, needed = reserve_shares_e8(state, instrument), needed_shares_e8(state, instrument)
    if reserve < needed:
        raise _insufficient(instrument.symbol, reserve, needed)


def reserve_events(
    state: State, instrument: Instrument, *, extra_units: int = 0, changed: Evidence | None = None
) -> list[ReserveShortfallRaised | ReserveShortfallEnded]:
    """Return what a booking does to the shortfall of an instrument: raised, ended, or nothing.

    For rules that change supply (`extra_units`, below zero where units are destroyed), the multiplier or the share basis (pass the
    instrument as it will be), or evidence (`changed`). The events follow the rule's own in the same booking.

    Raised when the reserve is known and below what is needed; it is known when there is evidence and all of it is of today's share
    basis. Ended when counted evidence covers what is needed. Example: 100 shares are needed and 90 are left: raised; then 10 come in:
    ended.
    """
    symbol = instrument.symbol
    reserve, needed = reserve_shares_e8(state, instrument, changed), needed_shares_e8(state, instrument, extra_units)
    short = symbol in state.shortfalls
    if short and reserve >= needed:
        return [ReserveShortfallEnded(instrument=symbol, reserve_shares_e8=reserve, needed_shares_e8=str(needed))]
    if short or reserve >= needed:
        return []
    evidence = evidence_of(state, instrument, changed)
    if evidence and all(is_counted(instrument, each) for each in evidence):
        return [ReserveShortfallRaised(instrument=symbol, reserve_shares_e8=reserve, needed_shares_e8=str(needed))]
    return []


def find_custody_account(state: State, name: str) -> records.CustodyAccount:
    """Return a custody account by its id."""
    account = state.custody_accounts.get(name)
    if account is None:
        if not name:
            raise refusal(Reason.REASON_FIELD_MISSING, "custody_account is empty", field="custody_account")
        raise refusal(Reason.REASON_CUSTODY_ACCOUNT_NOT_FOUND, f"no custody account {name!r}", custody_account=name)
    return account


def find_custody_account_of(state: State, name: str, instrument: Instrument) -> records.CustodyAccount:
    """Return a custody account that backs an instrument.

    Raises: NotFound CUSTODY_ACCOUNT_NOT_FOUND; RuleViolated CUSTODY_ACCOUNT_TAKEN, if it backs another one.
    """
    account = find_custody_account(state, name)
    if account.instrument != instrument.symbol:
        raise _taken(account)
    return account


def check_settled_time(settled_time: Timestamp | None, now_us: int) -> int:
    """Return when shares settled at a custodian, in microseconds; pass None where the field is absent. The future is refused."""
    if settled_time is None:
        raise refusal(Reason.REASON_FIELD_MISSING, "settled_time is not set", field="settled_time")
    settled_us = time_us("settled_time", settled_time)
    _check_not_ahead("settled_time", settled_us, now_us)
    return settled_us


def confirm_delivery_events(
    state: State, custody_account_id: str, shares_e8: int, settled_time_us: int, reference: str, *, destroyed_units: int = 0
) -> list[DeliveryConfirmed | ReserveShortfallRaised | ReserveShortfallEnded]:
    """Return the events of shares leaving a custody account: DeliveryConfirmed, and what it does to the shortfall.

    `destroyed_units` are units of the account's instrument that the same booking destroys (a redemption in kind): shares and supply fall
    together, so whether they still match is judged on both. Check the units, the time (`check_settled_time`) and the reference before.

    Raises: NotFound CUSTODY_ACCOUNT_NOT_FOUND; RuleViolated ATTESTATION_STALE (no evidence to count from, or not renewed since a
    split); InvalidRequest UNITS_OUT_OF_RANGE.
    """
    changed = _confirm(state, custody_account_id, settled_time_us, -shares_e8)
    instrument = state.instruments[state.custody_accounts[custody_account_id].instrument]
    event = DeliveryConfirmed(
        custody_account=custody_account_id, shares_e8=shares_e8, settled_time=_timestamp(settled_time_us), reference=reference
    )
    return [event, *reserve_events(state, instrument, extra_units=-destroyed_units, changed=changed)]


def _confirm(state: State, name: str, settled_time_us: int, change_e8: int) -> Evidence:
    """Return the evidence of a custody account as it will be after shares came in (above zero) or went out (below zero)."""
    account = find_custody_account(state, name)
    instrument = state.instruments[account.instrument]
    evidence = state.evidence.get(name)
    if evidence is None:
        message = f"{name} has no evidence yet from which to count"
        raise refusal(Reason.REASON_ATTESTATION_STALE, message, instrument=instrument.symbol, custody_account=name)
    if not is_counted(instrument, evidence):
        raise _not_renewed(instrument, evidence)
    changed = with_confirmed(evidence, (*evidence.confirmed, (settled_time_us, change_e8)))
    _check_totals(state, instrument, changed)
    return changed


def with_confirmed(evidence: Evidence, confirmed: Sequence[tuple[int, int]]) -> Evidence:
    """Return evidence with what was confirmed since: of these receipts and deliveries, those that settled after its as-of time.

    What settled at or before that moment is in the evidence already.
    """
    since = tuple((settled_us, shares) for settled_us, shares in confirmed if settled_us > evidence.as_of_time_us)
    return dataclasses.replace(
        evidence,
        confirmed=since,
        received_shares_e8=sum(shares for _, shares in since if shares > 0),
        delivered_shares_e8=-sum(shares for _, shares in since if shares < 0),
    )


def _check_totals(state: State, instrument: Instrument, changed: Evidence) -> None:
    """Refuse figures whose sums over all custody accounts of an instrument would leave the range of shares, 2^62 (46 billion shares)."""
    evidence = evidence_of(state, instrument, changed)
    check_range("settled and received shares", sum(each.settled_shares_e8 + each.received_shares_e8 for each in evidence))
    check_range("pending shares", sum(each.pending_shares_e8 for each in evidence))
    check_range("encumbered shares", sum(each.encumbered_shares_e8 for each in evidence))
    check_range("delivered shares", sum(each.delivered_shares_e8 for each in evidence))


def _check_not_ahead(field: str, moment_us: int, now_us: int) -> None:
    if moment_us > now_us:
        message = f"{field} {utc_text(moment_us)} is in the future, it is {utc_text(now_us)}"
        raise refusal(Reason.REASON_DATES_OUT_OF_ORDER, message, earlier=field, later="decision_time")


def _timestamp(moment_us: int) -> Timestamp:
    moment = Timestamp()
    moment.FromMicroseconds(moment_us)
    return moment


# ---- custodians and their accounts --------------------------------------------------------------------------------------------------


def _check_bytes(field: str, value: bytes, length: int) -> bytes:
    """Return bytes that must be there, and of one length."""
    if not value:
        raise refusal(Reason.REASON_FIELD_MISSING, f"{field} is empty", field=field)
    if len(value) != length:
        raise refusal(Reason.REASON_FIELD_MALFORMED, f"{field} has {len(value)} bytes, it must have {length}", field=field)
    return value


def _check_empty(field: str, value: bytes | str, kind: EvidenceKind.ValueType) -> None:
    if value:
        message = f"{field} does not go with {EvidenceKind.Name(kind)}"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field=field)


def _check_public_key(field: str, key: bytes) -> bytes:
    """Return an Ed25519 public key: 32 bytes that are a point of the prime-order group (RFC 8032 section 5.1), so not a weak key."""
    _check_bytes(field, key, PUBLIC_KEY_BYTES)
    if not crypto_core_ed25519_is_valid_point(key):
        raise refusal(Reason.REASON_FIELD_MALFORMED, f"{field} {key.hex()} is not an Ed25519 public key", field=field, value=key.hex())
    return key


def find_custodian(state: State, custodian: str, field: str = "custodian") -> records.Custodian:
    """Return a custodian or agent by its id."""
    found = state.custodians.get(custodian)
    if found is None:
        if not custodian:
            raise refusal(Reason.REASON_FIELD_MISSING, f"{field} is empty", field=field)
        raise refusal(Reason.REASON_CUSTODIAN_NOT_FOUND, f"no custodian {custodian!r}", custodian=custodian)
    return found


def decide_register(state: State, command: RegisterCustodianRequest, context: Context) -> list[CustodianRegistered]:
    check_id("custodian", command.custodian)
    check_text("name", command.name)
    _check_public_key("public_key", command.public_key)
    if command.custodian in state.custodians:
        message = f"custodian {command.custodian} is registered already"
        raise refusal(Reason.REASON_ALREADY_EXISTS, message, custodian=command.custodian)
    custodian = Custodian(custodian=command.custodian, name=command.name, public_key=command.public_key, agent=command.agent)
    return [CustodianRegistered(custodian=custodian)]


def evolve_registered(state: State, event: CustodianRegistered, decided: Decided) -> None:
    new = event.custodian
    state.put(state.custodians, new.custodian, records.Custodian(new.custodian, new.name, new.public_key, new.agent))


def decide_rotate(state: State, command: RotateCustodianKeyRequest, context: Context) -> list[CustodianKeyRotated]:
    _check_public_key("public_key", command.public_key)
    custodian = find_custodian(state, command.custodian)
    if custodian.public_key == command.public_key:
        message = f"{custodian.custodian} has this key already"
        raise refusal(Reason.REASON_NOTHING_TO_CHANGE, message, custodian=custodian.custodian)
    return [CustodianKeyRotated(custodian=custodian.custodian, public_key=command.public_key)]


def evolve_rotated(state: State, event: CustodianKeyRotated, decided: Decided) -> None:
    custodian = dataclasses.replace(state.custodians[event.custodian], public_key=event.public_key)
    state.put(state.custodians, event.custodian, custodian)


def decide_open(state: State, command: OpenCustodyAccountRequest, context: Context) -> list[CustodyAccountOpened]:
    check_id("custody_account", command.custody_account)
    check_text("isin", command.isin, 12)
    custodian = find_custodian(state, command.custodian)
    if custodian.agent:
        message = f"{custodian.custodian} is an agent and holds nothing itself"
        raise refusal(Reason.REASON_CUSTODIAN_NOT_FOUND, message, custodian=custodian.custodian)
    instrument = find_usable(state, command.instrument)
    behind = instrument.currency if instrument.kind == CASH else instrument.underlying_isin
    if command.isin != behind:
        message = f"isin is {command.isin}, but {instrument.symbol} stands for {behind}"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="isin", value=command.isin)
    known = state.custody_accounts.get(command.custody_account)
    if known is not None and known.instrument != instrument.symbol:
        raise _taken(known)
    if known is not None:
        message = f"custody account {known.custody_account} is open already"
        raise refusal(Reason.REASON_ALREADY_EXISTS, message, custody_account=known.custody_account)
    account = CustodyAccount(
        custody_account=command.custody_account, custodian=command.custodian, isin=command.isin, instrument=command.instrument
    )
    return [CustodyAccountOpened(custody_account=account)]


def _taken(account: records.CustodyAccount) -> LedgerError:
    message = f"custody account {account.custody_account} backs {account.instrument}"
    return refusal(Reason.REASON_CUSTODY_ACCOUNT_TAKEN, message, custody_account=account.custody_account, instrument=account.instrument)


def evolve_opened(state: State, event: CustodyAccountOpened, decided: Decided) -> None:
    new = event.custody_account
    account = records.CustodyAccount(new.custody_account, new.custodian, new.isin, new.instrument)
    of_instrument = state.custody_accounts_of_instrument
    state.put(state.custody_accounts, account.custody_account, account)
    state.put(of_instrument, account.instrument, (*of_instrument.get(account.instrument, ()), account.custody_account))


# ---- evidence -----------------------------------------------------------------------------------------------------------------------


def _check_form(command: RecordEvidenceRequest) -> None:
    """Refuse a signature without its signer, or either with an imported statement."""
    kind = command.kind
    check_enum("kind", kind, EvidenceKind)
    if kind == EvidenceKind.EVIDENCE_KIND_IMPORTED:
        _check_empty("signer", command.signer, kind)
        _check_empty("signature", command.signature, kind)
        _check_bytes("document_hash", command.document_hash, HASH_BYTES)
        return
    check_id("signer", command.signer)
    _check_bytes("signature", command.signature, SIGNATURE_BYTES)
    _check_empty("document_hash", command.document_hash, kind)


def _check_times(statement: Statement, now_us: int) -> None:
    """Refuse evidence about the future, or that was never valid. Evidence that is stale on arrival is recorded: it may be bad news."""
    if statement.valid_until_time_us <= statement.as_of_time_us:
        as_of, until = utc_text(statement.as_of_time_us), utc_text(statement.valid_until_time_us)
        message = f"valid_until_time {until} is not after as_of_time {as_of}"
        raise refusal(Reason.REASON_DATES_OUT_OF_ORDER, message, earlier="as_of_time", later="valid_until_time")
    _check_not_ahead("as_of_time", statement.as_of_time_us, now_us)


def _check_signature(command: RecordEvidenceRequest, signer: records.Custodian, account: records.CustodyAccount) -> None:
    """Refuse a signature that does not verify, or of somebody who may not sign for the custody account."""
    by_custodian = command.kind == EvidenceKind.EVIDENCE_KIND_CUSTODIAN_SIGNED
    if by_custodian and signer.custodian != account.custodian:
        message = f"{signer.custodian} cannot sign for {account.custody_account} at {account.custodian}"
        raise refusal(Reason.REASON_SIGNATURE_INVALID, message, signer=signer.custodian, needed=account.custodian)
    if not by_custodian and not signer.agent:
        message = f"{signer.custodian} is not an agent"
        raise refusal(Reason.REASON_SIGNATURE_INVALID, message, signer=signer.custodian, needed="an agent")
    try:
        VerifyKey(signer.public_key).verify(command.statement, command.signature)
    except BadSignatureError as error:
        message = f"the signature of {signer.custodian} over the statement does not verify"
        raise refusal(Reason.REASON_SIGNATURE_INVALID, message, signer=signer.custodian) from error


def _check_newer(statement: Statement, instrument: Instrument, last: Evidence | None) -> None:
    """Refuse evidence that counts shares of another basis, or is no newer than what is recorded.

    Where the share basis changed since the last evidence, the first new evidence must also be no older than the receipts and deliveries
    confirmed before: these count shares of the old size, and cannot be carried on to it.
    """
    basis = statement.share_basis
    if basis != instrument.share_basis:
        message = f"the statement is of share basis {basis}, {instrument.symbol} is at {instrument.share_basis}"
        raise refusal(Reason.REASON_SHARE_BASIS_UNFIT, message, share_basis=basis, expected=instrument.share_basis)
    if last is None:
        return
    as_of_us = statement.as_of_time_us
    confirmed_us = max((settled_us for settled_us, _ in last.confirmed), default=last.as_of_time_us)
    renewed = last.share_basis != basis
    if as_of_us <= last.as_of_time_us or (renewed and as_of_us < confirmed_us):
        recorded = utc_text(confirmed_us if renewed else last.as_of_time_us)
        message = f"the statement is as of {utc_text(as_of_us)}, {last.custody_account} is known as of {recorded}"
        raise refusal(Reason.REASON_ATTESTATION_SUPERSEDED, message, as_of_time=utc_text(as_of_us), recorded=recorded)


def decide_record(
    state: State, command: RecordEvidenceRequest, context: Context
) -> list[EvidenceRecorded | ReserveShortfallRaised | ReserveShortfallEnded]:
    """Valid evidence is recorded whatever it says; what it means for supply follows in the same booking."""
    _check_form(command)
    statement = parse_statement(command.statement)
    _check_times(statement, context.decision_time_us)
    imported = command.kind == EvidenceKind.EVIDENCE_KIND_IMPORTED
    signer = None if imported else find_custodian(state, command.signer, "signer")
    account = find_custody_account(state, statement.custody_account)
    if statement.isin != account.isin:
        message = f"custody account {account.custody_account} is over {account.isin}, not {statement.isin}"
        raise refusal(Reason.REASON_CUSTODY_ACCOUNT_NOT_FOUND, message, custody_account=account.custody_account, isin=statement.isin)
    if signer is not None:
        _check_signature(command, signer, account)
    instrument = state.instruments[account.instrument]
    _check_newer(statement, instrument, state.evidence.get(account.custody_account))
    event = EvidenceRecorded(
        kind=command.kind,
        signer=context.principal if imported else command.signer,
        statement=command.statement,
        signature=command.signature,
        document_hash=command.document_hash,
        custody_account=statement.custody_account,
        settled_shares_e8=statement.settled_shares_e8,
        pending_shares_e8=statement.pending_shares_e8,
        encumbered_shares_e8=statement.encumbered_shares_e8,
        as_of_time=_timestamp(statement.as_of_time_us),
        valid_until_time=_timestamp(statement.valid_until_time_us),
        share_basis=statement.share_basis,
    )
    changed = _evidence_after(state, event, index=state.size)
    _check_totals(state, instrument, changed)
    return [event, *reserve_events(state, instrument, changed=changed)]


def _evidence_after(state: State, event: EvidenceRecorded, index: int) -> Evidence:
    """Return the evidence of a custody account as recorded, with the receipts and deliveries known already that settled later."""
    last = state.evidence.get(event.custody_account)
    evidence = records.Evidence(
        custody_account=event.custody_account,
        kind=event.kind,
        signer=event.signer,
        settled_shares_e8=event.settled_shares_e8,
        pending_shares_e8=event.pending_shares_e8,
        encumbered_shares_e8=event.encumbered_shares_e8,
        as_of_time_us=time_us("as_of_time", event.as_of_time),
        valid_until_time_us=time_us("valid_until_time", event.valid_until_time),
        share_basis=event.share_basis,
        index=index,
    )
    return with_confirmed(evidence, last.confirmed if last is not None else ())


def evolve_recorded(state: State, event: EvidenceRecorded, decided: Decided) -> None:
    state.put(state.evidence, event.custody_account, _evidence_after(state, event, entry_index(state, decided)))


# ---- receipts and deliveries --------------------------------------------------------------------------------------------------------


def _check_confirmation(command: ConfirmReceiptRequest | ConfirmDeliveryRequest, now_us: int) -> int:
    """Return when the shares settled, of a confirmation that is right in itself."""
    check_id("custody_account", command.custody_account)
    check_length("reference", command.reference)
    check_units("shares_e8", command.shares_e8)
    return check_settled_time(command.settled_time if command.HasField("settled_time") else None, now_us)


def decide_receipt(
    state: State, command: ConfirmReceiptRequest, context: Context
) -> list[ReceiptConfirmed | ReserveShortfallRaised | ReserveShortfallEnded]:
    settled_us = _check_confirmation(command, context.decision_time_us)
    changed = _confirm(state, command.custody_account, settled_us, command.shares_e8)
    instrument = state.instruments[state.custody_accounts[command.custody_account].instrument]
    event = ReceiptConfirmed(
        custody_account=command.custody_account,
        shares_e8=command.shares_e8,
        settled_time=command.settled_time,
        reference=command.reference,
    )
    return [event, *reserve_events(state, instrument, changed=changed)]


def decide_delivery(
    state: State, command: ConfirmDeliveryRequest, context: Context
) -> list[DeliveryConfirmed | ReserveShortfallRaised | ReserveShortfallEnded]:
    settled_us = _check_confirmation(command, context.decision_time_us)
    return confirm_delivery_events(state, command.custody_account, command.shares_e8, settled_us, command.reference)


def _evolve_confirmed(state: State, event: ReceiptConfirmed | DeliveryConfirmed, change_e8: int) -> None:
    evidence = state.evidence[event.custody_account]
    confirmed = (*evidence.confirmed, (time_us("settled_time", event.settled_time), change_e8))
    state.put(state.evidence, event.custody_account, with_confirmed(evidence, confirmed))


def evolve_receipt(state: State, event: ReceiptConfirmed, decided: Decided) -> None:
    _evolve_confirmed(state, event, event.shares_e8)


def evolve_delivery(state: State, event: DeliveryConfirmed, decided: Decided) -> None:
    _evolve_confirmed(state, event, -event.shares_e8)


def evolve_raised(state: State, event: ReserveShortfallRaised, decided: Decided) -> None:
    state.put(state.shortfalls, event.instrument, entry_index(state, decided))


def evolve_ended(state: State, event: ReserveShortfallEnded, decided: Decided) -> None:
    state.remove(state.shortfalls, event.instrument)


COMMANDS = {
    RegisterCustodianRequest: (decide_register, RegisterCustodianResponse),
    RotateCustodianKeyRequest: (decide_rotate, RotateCustodianKeyResponse),
    OpenCustodyAccountRequest: (decide_open, OpenCustodyAccountResponse),
    RecordEvidenceRequest: (decide_record, RecordEvidenceResponse),
    ConfirmReceiptRequest: (decide_receipt, ConfirmReceiptResponse),
    ConfirmDeliveryRequest: (decide_delivery, ConfirmDeliveryResponse),
}
EVENTS = {
    CustodianRegistered: evolve_registered,
    CustodianKeyRotated: evolve_rotated,
    CustodyAccountOpened: evolve_opened,
    EvidenceRecorded: evolve_recorded,
    ReceiptConfirmed: evolve_receipt,
    DeliveryConfirmed: evolve_delivery,
    ReserveShortfallRaised: evolve_raised,
    ReserveShortfallEnded: evolve_ended,
}
