"""Instruments: registered, amended, halted, resumed, retired.

command              event
RegisterInstrument   InstrumentRegistered
AmendInstrument      InstrumentAmended
HaltInstrument       InstrumentHalted
ResumeInstrument     InstrumentResumed
RetireInstrument     InstrumentRetired
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any, Final

from ledger import records
from ledger import state as books
from ledger.arithmetic import MULTIPLIER_SCALE
from ledger.errors import refusal
from ledger.rules.checks import check_enum, check_length, check_not_due, check_text, check_units, find_instrument
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.instruments_pb2 import (
    ActionMethod,
    AmendInstrumentRequest,
    AmendInstrumentResponse,
    Backing,
    HaltInstrumentRequest,
    HaltInstrumentResponse,
    Instrument,
    InstrumentAmended,
    InstrumentHalted,
    InstrumentKind,
    InstrumentRegistered,
    InstrumentResumed,
    InstrumentRetired,
    IssuePolicy,
    RegisterInstrumentRequest,
    RegisterInstrumentResponse,
    ResumeInstrumentRequest,
    ResumeInstrumentResponse,
    RetireInstrumentRequest,
    RetireInstrumentResponse,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.rules.context import Context, Decided
    from ledger.state import State

DECIMALS_MAX: Final = 8
CASH: Final = InstrumentKind.INSTRUMENT_KIND_CASH

_SYMBOL = re.compile(r"[A-Za-z0-9.-]{1,32}")
_ISIN = re.compile(r"[A-Z]{2}[A-Z0-9]{9}[0-9]")
_CURRENCY = re.compile(r"[A-Z0-9]{3,10}")


def isin_check_digit(stem: str) -> int:
    """Return the check digit of the first eleven characters of an ISIN (ISO 6166: Luhn over the digits, letters as 10 to 35).

    Example: `isin_check_digit("US037833100") == 5`, Apple.
    """
    digits = "".join(str(int(character, 36)) for character in stem)
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * 2 if place % 2 == 0 else int(digit)
        total += doubled - 9 if doubled > 9 else doubled
    return -total % 10


def check_isin(field: str, isin: str) -> str:
    """Return an ISIN whose form and check digit are right."""
    if not _ISIN.fullmatch(isin):
        message = f"{field} {isin!r} is not an ISIN: two letters, nine letters or digits, a check digit"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field=field, value=isin)
    expected = isin_check_digit(isin[:11])
    if int(isin[11]) != expected:
        message = f"{field} {isin} has check digit {isin[11]}, it should be {expected}"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field=field, value=isin)
    return isin


def _check_policy(field: str, value: int, enum: Any) -> int:
    if value not in enum.values():
        raise refusal(Reason.REASON_FIELD_MALFORMED, f"{field} {value} is unknown", field=field, value=value)
    return value


def decide_register(state: State, command: RegisterInstrumentRequest, context: Context) -> list[InstrumentRegistered]:
    check_text("symbol", command.symbol)
    if not _SYMBOL.fullmatch(command.symbol):
        message = f"symbol {command.symbol!r} is not 1 to 32 of letters, digits, '.' and '-'"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="symbol", value=command.symbol)
    check_text("name", command.name)
    check_enum("kind", command.kind, InstrumentKind)
    check_enum("backing", command.backing, Backing)
    if not 0 <= command.decimals <= DECIMALS_MAX:
        message = f"decimals is {command.decimals}, it must be 0 to {DECIMALS_MAX}"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="decimals", value=command.decimals)
    _check_policy("issue_policy", command.issue_policy, IssuePolicy)
    _check_policy("split_method", command.split_method, ActionMethod)
    _check_policy("dividend_method", command.dividend_method, ActionMethod)
    _check_identity(command)
    check_units("authorised_units", command.authorised_units)
    if command.symbol in state.instruments:
        message = f"instrument {command.symbol} is registered already"
        raise refusal(Reason.REASON_ALREADY_EXISTS, message, instrument=command.symbol)
    instrument = Instrument(
        symbol=command.symbol,
        number=state.next_number("instrument"),
        name=command.name,
        kind=command.kind,
        isin=command.isin,
        underlying_isin=command.underlying_isin,
        currency=command.currency,
        decimals=command.decimals,
        backing=command.backing,
        authorised_units=command.authorised_units,
        multiplier=str(MULTIPLIER_SCALE),
        issue_policy=command.issue_policy or IssuePolicy.ISSUE_POLICY_AT_SETTLEMENT,
        split_method=command.split_method or ActionMethod.ACTION_METHOD_HOLDINGS,
        dividend_method=command.dividend_method or ActionMethod.ACTION_METHOD_HOLDINGS,
    )
    return [InstrumentRegistered(instrument=instrument)]


def _check_identity(command: RegisterInstrumentRequest) -> None:
    """Cash has a currency and no ISIN; a security has the ISIN of what is behind it, perhaps one of its own, and no currency."""
    if command.kind == CASH:
        for field, value in (("isin", command.isin), ("underlying_isin", command.underlying_isin)):
            if value:
                raise refusal(Reason.REASON_FIELD_MALFORMED, f"cash has no {field}", field=field, value=value)
        check_text("currency", command.currency)
        if not _CURRENCY.fullmatch(command.currency):
            message = f"currency {command.currency!r} is not 3 to 10 capital letters or digits"
            raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="currency", value=command.currency)
        return
    if command.currency:
        raise refusal(Reason.REASON_FIELD_MALFORMED, "only cash has a currency", field="currency", value=command.currency)
    if command.isin:
        check_isin("isin", command.isin)
    check_text("underlying_isin", command.underlying_isin)
    check_isin("underlying_isin", command.underlying_isin)


def evolve_registered(state: State, event: InstrumentRegistered, decided: Decided) -> None:
    new = event.instrument
    record = records.Instrument(
        symbol=new.symbol,
        number=new.number,
        name=new.name,
        kind=new.kind,
        isin=new.isin,
        underlying_isin=new.underlying_isin,
        currency=new.currency,
        decimals=new.decimals,
        backing=new.backing,
        authorised_units=new.authorised_units,
        multiplier=int(new.multiplier),
        issue_policy=new.issue_policy,
        split_method=new.split_method,
        dividend_method=new.dividend_method,
    )
    state.put(state.counters, "instrument", new.number)
    state.put(state.instruments, new.symbol, record)
    state.put(state.instrument_symbols, new.number, new.symbol)
    state.put(state.books, new.number, books.Book())


def check_kind(instrument: records.Instrument, *, cash: bool) -> None:
    """Refuse an instrument that is not cash where cash is needed, or is cash where a security is."""
    if (instrument.kind == CASH) != cash:
        needed = "cash" if cash else "a security"
        message = f"{instrument.symbol} is {'not cash' if cash else 'cash, a security is needed'}"
        raise refusal(Reason.REASON_INSTRUMENT_KIND_UNFIT, message, instrument=instrument.symbol, needed=needed)


def find_usable(state: State, symbol: str) -> records.Instrument:
    """Return an instrument that is not retired."""
    instrument = find_instrument(state, symbol)
    if instrument.retired:
        raise refusal(Reason.REASON_INSTRUMENT_RETIRED, f"{symbol} is retired", instrument=symbol)
    return instrument


def change_instrument(state: State, symbol: str, /, **changes: Any) -> None:
    """Replace fields of an instrument's record."""
    state.put(state.instruments, symbol, dataclasses.replace(state.instruments[symbol], **changes))


_AMENDABLE: Final = ("name", "isin", "authorised_units", "issue_policy", "split_method", "dividend_method")


def decide_amend(state: State, command: AmendInstrumentRequest, context: Context) -> list[InstrumentAmended]:
    changes = {field: getattr(command, field) for field in _AMENDABLE if command.HasField(field)}
    if "name" in changes:
        check_text("name", command.name)
    if command.isin:
        check_isin("isin", command.isin)
    for field, enum in (("issue_policy", IssuePolicy), ("split_method", ActionMethod), ("dividend_method", ActionMethod)):
        if field in changes:
            check_enum(field, changes[field], enum)
    if "authorised_units" in changes:
        check_units("authorised_units", command.authorised_units)
    instrument = find_usable(state, command.instrument)
    if instrument.kind == CASH and command.isin:
        raise refusal(Reason.REASON_FIELD_MALFORMED, "cash has no isin", field="isin", value=command.isin)
    if "authorised_units" in changes:
        check_not_due(instrument, context.decision_time_us)
    supply = state.supply(instrument.number)
    allotted = sum(
        state.deployments[instrument.symbol, chain].allotment_units for chain in state.chains_of_instrument.get(instrument.symbol, ())
    )
    if changes.get("authorised_units", allotted) < allotted:
        message = f"{command.authorised_units} authorised units would be below the {allotted} {instrument.symbol} allotted to chains"
        raise refusal(
            Reason.REASON_AUTHORISED_EXCEEDED,
            message,
            instrument=instrument.symbol,
            supply=supply,
            units=allotted,
            authorised=command.authorised_units,
        )
    if changes.get("authorised_units", supply) < supply:
        message = f"{command.authorised_units} authorised units would be below the supply of {supply} {instrument.symbol}"
        raise refusal(
            Reason.REASON_AUTHORISED_EXCEEDED,
            message,
            instrument=instrument.symbol,
            supply=supply,
            units=0,
            authorised=command.authorised_units,
        )
    if all(getattr(instrument, field) == value for field, value in changes.items()):
        raise refusal(Reason.REASON_NOTHING_TO_CHANGE, f"nothing of {instrument.symbol} would change", instrument=instrument.symbol)
    return [InstrumentAmended(instrument=instrument.symbol, **changes)]


def evolve_amended(state: State, event: InstrumentAmended, decided: Decided) -> None:
    change_instrument(state, event.instrument, **{field: getattr(event, field) for field in _AMENDABLE if event.HasField(field)})


def _check_operations(operations: Iterable[int]) -> list[Any]:
    found = sorted(set(operations))
    if not found:
        raise refusal(Reason.REASON_FIELD_MISSING, "no operation is named", field="operations")
    for operation in found:
        check_enum("operations", operation, Operation)
    return found


def decide_halt(state: State, command: HaltInstrumentRequest, context: Context) -> list[InstrumentHalted]:
    operations = _check_operations(command.operations)
    check_length("cause", command.cause)
    instrument = find_usable(state, command.instrument)
    new = [operation for operation in operations if operation not in instrument.halted_operations]
    if not new:
        raise refusal(Reason.REASON_NOTHING_TO_CHANGE, f"{instrument.symbol} is halted so already", instrument=instrument.symbol)
    return [InstrumentHalted(instrument=instrument.symbol, operations=new, cause=command.cause)]


def evolve_halted(state: State, event: InstrumentHalted, decided: Decided) -> None:
    halted = state.instruments[event.instrument].halted_operations | frozenset(event.operations)
    change_instrument(state, event.instrument, halted_operations=halted)


def decide_resume(state: State, command: ResumeInstrumentRequest, context: Context) -> list[InstrumentResumed]:
    operations = _check_operations(command.operations)
    check_length("cause", command.cause)
    instrument = find_usable(state, command.instrument)
    halted = [operation for operation in operations if operation in instrument.halted_operations]
    if not halted:
        raise refusal(Reason.REASON_NOTHING_TO_CHANGE, f"{instrument.symbol} is not halted so", instrument=instrument.symbol)
    return [InstrumentResumed(instrument=instrument.symbol, operations=halted, cause=command.cause)]


def evolve_resumed(state: State, event: InstrumentResumed, decided: Decided) -> None:
    halted = state.instruments[event.instrument].halted_operations - frozenset(event.operations)
    change_instrument(state, event.instrument, halted_operations=halted)


def decide_retire(state: State, command: RetireInstrumentRequest, context: Context) -> list[InstrumentRetired]:
    check_length("cause", command.cause)
    instrument = find_usable(state, command.instrument)
    supply = state.supply(instrument.number)
    if supply:
        message = f"{instrument.symbol} still has a supply of {supply}"
        raise refusal(Reason.REASON_INSTRUMENT_NOT_EMPTY, message, instrument=instrument.symbol, supply=supply)
    for number in sorted(state.subscriptions):
        if state.subscriptions[number].instrument == instrument.symbol:
            message = f"units of {instrument.symbol} may still come of subscription {number}"
            raise refusal(Reason.REASON_INSTRUMENT_NOT_EMPTY, message, instrument=instrument.symbol, subscription=number)
    return [InstrumentRetired(instrument=instrument.symbol, cause=command.cause)]


def evolve_retired(state: State, event: InstrumentRetired, decided: Decided) -> None:
    change_instrument(state, event.instrument, retired=True)


COMMANDS = {
    RegisterInstrumentRequest: (decide_register, RegisterInstrumentResponse),
    AmendInstrumentRequest: (decide_amend, AmendInstrumentResponse),
    HaltInstrumentRequest: (decide_halt, HaltInstrumentResponse),
    ResumeInstrumentRequest: (decide_resume, ResumeInstrumentResponse),
    RetireInstrumentRequest: (decide_retire, RetireInstrumentResponse),
}
EVENTS = {
    InstrumentRegistered: evolve_registered,
    InstrumentAmended: evolve_amended,
    InstrumentHalted: evolve_halted,
    InstrumentResumed: evolve_resumed,
    InstrumentRetired: evolve_retired,
}
