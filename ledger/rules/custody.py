"""Custody: who keeps shares and cash, or vouches for them, with which key, and the accounts they keep them on.

    command               event
    RegisterCustodian     CustodianRegistered
    RotateCustodianKey    CustodianKeyRotated
    OpenCustodyAccount    CustodyAccountOpened

What stands on the accounts is in evidence.py, what it means for an instrument in reserves.py.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from nacl.bindings import crypto_core_ed25519_is_valid_point

from ledger import records
from ledger.errors import LedgerError, refusal
from ledger.rules.checks import check_bytes, check_id, check_text
from ledger.rules.instruments import CASH, find_usable
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.reserves_pb2 import (
    Custodian,
    CustodianKeyRotated,
    CustodianRegistered,
    CustodyAccount,
    CustodyAccountOpened,
    OpenCustodyAccountRequest,
    OpenCustodyAccountResponse,
    RegisterCustodianRequest,
    RegisterCustodianResponse,
    RotateCustodianKeyRequest,
    RotateCustodianKeyResponse,
)

if TYPE_CHECKING:
    from ledger.records import Instrument
    from ledger.rules.context import Context, Decided
    from ledger.state import State

PUBLIC_KEY_BYTES: Final = 32


def find_custodian(state: State, custodian: str, field: str = "custodian") -> records.Custodian:
    """Return a custodian or agent by its id."""
    found = state.custodians.get(custodian)
    if found is None:
        if not custodian:
            raise refusal(Reason.REASON_FIELD_MISSING, f"{field} is empty", field=field)
        raise refusal(Reason.REASON_CUSTODIAN_NOT_FOUND, f"no custodian {custodian!r}", custodian=custodian)
    return found


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


def _taken(account: records.CustodyAccount) -> LedgerError:
    message = f"custody account {account.custody_account} backs {account.instrument}"
    return refusal(Reason.REASON_CUSTODY_ACCOUNT_TAKEN, message, custody_account=account.custody_account, instrument=account.instrument)


def _check_public_key(field: str, key: bytes) -> bytes:
    """Return an Ed25519 public key: 32 bytes that are a point of the prime-order group (RFC 8032 section 5.1), so not a weak key."""
    check_bytes(field, key, PUBLIC_KEY_BYTES)
    if not crypto_core_ed25519_is_valid_point(key):
        raise refusal(Reason.REASON_FIELD_MALFORMED, f"{field} {key.hex()} is not an Ed25519 public key", field=field, value=key.hex())
    return key


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


def evolve_opened(state: State, event: CustodyAccountOpened, decided: Decided) -> None:
    new = event.custody_account
    account = records.CustodyAccount(new.custody_account, new.custodian, new.isin, new.instrument)
    of_instrument = state.custody_accounts_of_instrument
    state.put(state.custody_accounts, account.custody_account, account)
    state.put(of_instrument, account.instrument, (*of_instrument.get(account.instrument, ()), account.custody_account))


COMMANDS = {
    RegisterCustodianRequest: (decide_register, RegisterCustodianResponse),
    RotateCustodianKeyRequest: (decide_rotate, RotateCustodianKeyResponse),
    OpenCustodyAccountRequest: (decide_open, OpenCustodyAccountResponse),
}
EVENTS = {
    CustodianRegistered: evolve_registered,
    CustodianKeyRotated: evolve_rotated,
    CustodyAccountOpened: evolve_opened,
}
