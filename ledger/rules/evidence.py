"""Evidence of what stands on custody accounts, and the receipts and deliveries confirmed since.

    command               event                  and in the same booking, where it comes to that
    RecordEvidence        EvidenceRecorded       ReserveShortfallRaised or ReserveShortfallEnded
    ConfirmReceipt        ReceiptConfirmed       ReserveShortfallEnded
    ConfirmDelivery       DeliveryConfirmed      ReserveShortfallRaised

Redemptions in kind use `confirm_delivery_events`: shares and units leave in one booking. What evidence counts for is in reserves.py, how
a statement is read in statements.py.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from google.protobuf.timestamp_pb2 import Timestamp
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from ledger import records
from ledger.errors import refusal
from ledger.rules.checks import check_bytes, check_enum, check_id, check_length, check_range, check_units, time_us, utc_text
from ledger.rules.context import entry_index
from ledger.rules.custody import find_custodian, find_custody_account
from ledger.rules.reserves import evidence_of, is_counted, not_renewed, reserve_events
from ledger.rules.statements import parse_statement
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.reserves_pb2 import (
    ConfirmDeliveryRequest,
    ConfirmDeliveryResponse,
    ConfirmReceiptRequest,
    ConfirmReceiptResponse,
    DeliveryConfirmed,
    EvidenceKind,
    EvidenceRecorded,
    ReceiptConfirmed,
    RecordEvidenceRequest,
    RecordEvidenceResponse,
    ReserveShortfallEnded,
    ReserveShortfallRaised,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.records import Evidence, Instrument
    from ledger.rules.context import Context, Decided
    from ledger.rules.statements import Statement
    from ledger.state import State

SIGNATURE_BYTES: Final = 64
HASH_BYTES: Final = 32


def _check_not_ahead(field: str, moment_us: int, now_us: int) -> None:
    if moment_us > now_us:
        message = f"{field} {utc_text(moment_us)} is in the future, it is {utc_text(now_us)}"
        raise refusal(Reason.REASON_DATES_OUT_OF_ORDER, message, earlier=field, later="decision_time")


def _timestamp(moment_us: int) -> Timestamp:
    moment = Timestamp()
    moment.FromMicroseconds(moment_us)
    return moment


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


# ---- evidence -----------------------------------------------------------------------------------------------------------------------


def _check_empty(field: str, value: bytes | str, kind: EvidenceKind.ValueType) -> None:
    if value:
        message = f"{field} does not go with {EvidenceKind.Name(kind)}"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field=field)


def _check_form(command: RecordEvidenceRequest) -> None:
    """Refuse a signature without its signer, or either with an imported statement."""
    kind = command.kind
    check_enum("kind", kind, EvidenceKind)
    if kind == EvidenceKind.EVIDENCE_KIND_IMPORTED:
        _check_empty("signer", command.signer, kind)
        _check_empty("signature", command.signature, kind)
        check_bytes("document_hash", command.document_hash, HASH_BYTES)
        return
    check_id("signer", command.signer)
    check_bytes("signature", command.signature, SIGNATURE_BYTES)
    _check_empty("document_hash", command.document_hash, kind)


def _check_ledger(statement: Statement, ledger_id: str) -> None:
    """Refuse a statement made for another ledger: shares back the units of one ledger only."""
    if statement.ledger != ledger_id:
        message = f"the statement is for the ledger {statement.ledger}, this one is {ledger_id}"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="statement.ledger", value=statement.ledger, expected=ledger_id)


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
    _check_ledger(statement, state.ledger_id)
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


def check_settled_time(settled_time: Timestamp | None, now_us: int) -> int:
    """Return when shares settled at a custodian, in microseconds; pass None where the field is absent. The future is refused."""
    if settled_time is None:
        raise refusal(Reason.REASON_FIELD_MISSING, "settled_time is not set", field="settled_time")
    settled_us = time_us("settled_time", settled_time)
    _check_not_ahead("settled_time", settled_us, now_us)
    return settled_us


def _confirm(state: State, name: str, settled_time_us: int, change_e8: int) -> Evidence:
    """Return the evidence of a custody account as it will be after shares came in (above zero) or went out (below zero)."""
    account = find_custody_account(state, name)
    instrument = state.instruments[account.instrument]
    evidence = state.evidence.get(name)
    if evidence is None:
        message = f"{name} has no evidence yet from which to count"
        raise refusal(Reason.REASON_ATTESTATION_STALE, message, instrument=instrument.symbol, custody_account=name)
    if not is_counted(instrument, evidence):
        raise not_renewed(instrument, evidence)
    changed = with_confirmed(evidence, (*evidence.confirmed, (settled_time_us, change_e8)))
    _check_totals(state, instrument, changed)
    return changed


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


COMMANDS = {
    RecordEvidenceRequest: (decide_record, RecordEvidenceResponse),
    ConfirmReceiptRequest: (decide_receipt, ConfirmReceiptResponse),
    ConfirmDeliveryRequest: (decide_delivery, ConfirmDeliveryResponse),
}
EVENTS = {
    EvidenceRecorded: evolve_recorded,
    ReceiptConfirmed: evolve_receipt,
    DeliveryConfirmed: evolve_delivery,
}
