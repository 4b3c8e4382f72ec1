"""Checks that many rules share, in the order of precedence of errors.proto.

A check either returns what it looked up or raises the refusal. `check_movement` is the one gate of decided movements
within the book, but for what is forced or put right (rules/eligibility.py says where these are listed).
"""

from __future__ import annotations

import datetime
import re
from typing import TYPE_CHECKING, Any

from ledger.arithmetic import MULTIPLIER_MAX, UNITS_MAX
from ledger.errors import refusal
from ledger.records import NEVER
from stockledger.v1.accounts_pb2 import HolderState
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from ledger.records import Account, EligibilityRule, Holder, Instrument
    from ledger.state import State

OPERATION_TRANSFER = Operation.OPERATION_TRANSFER
BOOK = "book"
OWN_PLACES = frozenset({"ledger", "transit", "divergence", "unattributed"})
"""Where the ledger's own accounts stand: transit:eip155:1 is one."""
REFERENCE_LENGTH_MAX = 140

_ID = re.compile(r"[A-Za-z0-9._/-]{1,64}")
_COUNTRY = re.compile(r"[A-Z]{2}")


# ---- the request in itself ---------------------------------------------------------------------------------------------------------


def check_present(**fields: str) -> None:
    """Refuse the first of the named fields that is empty."""
    for field, value in fields.items():
        if not value:
            raise refusal(Reason.REASON_FIELD_MISSING, f"{field} is empty", field=field)


def check_text(field: str, value: str, length_max: int = REFERENCE_LENGTH_MAX) -> str:
    """Return a text for people that must not be empty."""
    if not value:
        raise refusal(Reason.REASON_FIELD_MISSING, f"{field} is empty", field=field)
    return check_length(field, value, length_max)


def check_length(field: str, value: str, length_max: int = REFERENCE_LENGTH_MAX) -> str:
    """Return a text for people that may be empty."""
    if len(value) > length_max:
        raise refusal(Reason.REASON_FIELD_MALFORMED, f"{field} has {len(value)} characters, at most {length_max} may be", field=field)
    return value


def check_id(field: str, value: str) -> str:
    """Return an id: 1 to 64 of letters, digits, '.', '_', '/' and '-'."""
    if not value:
        raise refusal(Reason.REASON_FIELD_MISSING, f"{field} is empty", field=field)
    if not _ID.fullmatch(value):
        message = f"{field} {value!r} is not 1 to 64 of letters, digits, '.', '_', '/' and '-'"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field=field, value=value)
    return value


def check_bytes(field: str, value: bytes, length: int) -> bytes:
    """Return bytes that must be there, and of one length."""
    if not value:
        raise refusal(Reason.REASON_FIELD_MISSING, f"{field} is empty", field=field)
    if len(value) != length:
        raise refusal(Reason.REASON_FIELD_MALFORMED, f"{field} has {len(value)} bytes, it must have {length}", field=field)
    return value


def check_country(field: str, value: str) -> str:
    """Return an ISO 3166-1 alpha-2 country code; only its form is checked, since countries come and go."""
    if not value:
        raise refusal(Reason.REASON_FIELD_MISSING, f"{field} is empty", field=field)
    if not _COUNTRY.fullmatch(value):
        raise refusal(Reason.REASON_FIELD_MALFORMED, f"{field} {value!r} is not two capital letters", field=field, value=value)
    return value


def check_date(field: str, value: str) -> str:
    """Return an ISO 8601 civil date. Example: "2026-11-22"."""
    if not value:
        raise refusal(Reason.REASON_FIELD_MISSING, f"{field} is empty", field=field)
    try:
        canonical = datetime.date.fromisoformat(value).isoformat()
    except ValueError:
        canonical = ""
    if canonical != value:
        raise refusal(Reason.REASON_FIELD_MALFORMED, f"{field} {value!r} is not a date like 2026-11-22", field=field, value=value)
    return value


def check_units(field: str, units: int) -> int:
    """Return a count of units, cash or shares: above zero, at most 2^62."""
    if units <= 0:
        raise refusal(Reason.REASON_UNITS_NOT_POSITIVE, f"{field} is {units}, it must be above zero", field=field, value=units)
    return check_range(field, units)


def check_units_or_zero(field: str, units: int) -> int:
    """Return a count of units that may be zero, at most 2^62."""
    if units < 0:
        raise refusal(Reason.REASON_UNITS_NOT_POSITIVE, f"{field} is {units}, it must not be below zero", field=field, value=units)
    return check_range(field, units)


def check_range(field: str, units: int) -> int:
    """Return a computed count that must stay at or below 2^62."""
    if units > UNITS_MAX:
        raise refusal(Reason.REASON_UNITS_OUT_OF_RANGE, f"{field} is {units}, above 2^62", field=field, value=units)
    return units


def check_multiplier(field: str, text: str) -> int:
    """Return a multiplier written as a decimal integer at scale 1e18, 1 to 2^128 - 1."""
    if not text:
        raise refusal(Reason.REASON_FIELD_MISSING, f"{field} is empty", field=field)
    canonical = text.isascii() and text.isdecimal() and len(text) <= 39 and str(int(text)) == text
    if not canonical or not 0 < int(text) <= MULTIPLIER_MAX:
        message = f"{field} {text!r} is not an integer at scale 1e18 between 1 and 2^128 - 1"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field=field, value=text)
    return int(text)


def check_enum(field: str, value: int, enum: Any) -> int:
    """Return an enum number that is known and not UNSPECIFIED; `enum` is the generated enum."""
    if value == 0:
        raise refusal(Reason.REASON_FIELD_MISSING, f"{field} is not set", field=field)
    if value not in enum.values():
        raise refusal(Reason.REASON_FIELD_MALFORMED, f"{field} {value} is unknown", field=field, value=value)
    return value


def time_us(field: str, time: Timestamp) -> int:
    """Return a moment in microseconds since 1970 UTC; finer digits are refused, not cut."""
    if not -62135596800 <= time.seconds <= 253402300799 or not 0 <= time.nanos < 1_000_000_000:
        raise refusal(Reason.REASON_FIELD_MALFORMED, f"{field} is not a moment between the years 1 and 9999", field=field)
    if time.nanos % 1000:
        raise refusal(Reason.REASON_FIELD_MALFORMED, f"{field} is finer than a microsecond", field=field, value=time.nanos)
    return time.seconds * 1_000_000 + time.nanos // 1000


def check_not_late(not_after_us: int, now_us: int) -> None:
    """Refuse a command that its sender does not want booked any more. One that was booked in time keeps its answer."""
    if now_us > not_after_us:
        message = f"not to be booked after {utc_text(not_after_us)}, it is {utc_text(now_us)}"
        raise refusal(Reason.REASON_REQUEST_TOO_LATE, message, not_after_time=utc_text(not_after_us), decision_time=utc_text(now_us))


def utc_date(moment_us: int) -> str:
    """Return the civil date in UTC of a moment. Example: `utc_date(0) == "1970-01-01"`."""
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days=moment_us // 86_400_000_000)).isoformat()


def utc_text(moment_us: int) -> str:
    """Return a moment for people, ISO 8601 in UTC. Example: `utc_text(0) == "1970-01-01T00:00:00Z"`.

    The 48 bits of a request id reach to the year 10889, and the calendar to 9999; what is beyond is told in seconds since 1970.
    """
    try:
        moment = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(microseconds=moment_us)
    except OverflowError:
        return f"{moment_us // 1_000_000} s after 1970"
    return moment.isoformat().replace("+00:00", "Z")


# ---- what it names -----------------------------------------------------------------------------------------------------------------


def find_instrument(state: State, symbol: str, field: str = "instrument") -> Instrument:
    """Return an instrument by its symbol."""
    instrument = state.instruments.get(symbol)
    if instrument is None:
        if not symbol:
            raise refusal(Reason.REASON_FIELD_MISSING, f"{field} is empty", field=field)
        raise refusal(Reason.REASON_INSTRUMENT_NOT_FOUND, f"no instrument {symbol!r}", instrument=symbol)
    return instrument


def find_holder(state: State, holder: str) -> Holder:
    """Return a holder by id."""
    found = state.holders.get(holder)
    if found is None:
        if not holder:
            raise refusal(Reason.REASON_FIELD_MISSING, "holder is empty", field="holder")
        raise refusal(Reason.REASON_HOLDER_NOT_FOUND, f"no holder {holder!r}", holder=holder)
    return found


def find_account(state: State, name: str, field: str = "account") -> Account:
    """Return an account by name, whatever its place; the ledger's own cannot be named by a command."""
    account = state.accounts.get(name)
    if account is None:
        if not name:
            raise refusal(Reason.REASON_FIELD_MISSING, f"{field} is empty", field=field)
        raise refusal(Reason.REASON_ACCOUNT_NOT_FOUND, f"no account {name!r}", account=name, field=field)
    if account.name.partition(":")[0] in OWN_PLACES:
        raise refusal(Reason.REASON_ACCOUNT_RESERVED, f"{name} is the ledger's own account", account=name)
    return account


def find_book_account(state: State, name: str, field: str = "account") -> Account:
    """Return an account in the book: where the ledger itself decides."""
    account = find_account(state, name, field)
    if account.place != BOOK:
        message = f"{name} is not in the book: what happens there is decided by its chain"
        raise refusal(Reason.REASON_PLACE_UNFIT, message, account=name)
    return account


# ---- what the books allow ----------------------------------------------------------------------------------------------------------


def check_not_due(instrument: Instrument, now_us: int) -> None:
    """Refuse while a due step of a corporate action of the instrument has not been taken."""
    if now_us >= instrument.next_due_time_us:
        message = f"a corporate action of {instrument.symbol} fell due at {utc_text(instrument.next_due_time_us)} and has not been taken"
        raise refusal(Reason.REASON_ACTION_DUE, message, instrument=instrument.symbol, due_time=utc_text(instrument.next_due_time_us))


def check_open(instrument: Instrument, operation: Operation.ValueType, now_us: int) -> None:
    """Refuse while a step is due, the instrument is retired, or the operation is halted."""
    if now_us >= instrument.next_due_time_us:
        check_not_due(instrument, now_us)
    if instrument.retired:
        raise refusal(Reason.REASON_INSTRUMENT_RETIRED, f"{instrument.symbol} is retired", instrument=instrument.symbol)
    if instrument.halted_operations and operation in instrument.halted_operations:
        name = Operation.Name(operation)
        message = f"{instrument.symbol} is halted for {name.removeprefix('OPERATION_').lower()}"
        raise refusal(Reason.REASON_INSTRUMENT_HALTED, message, instrument=instrument.symbol, operation=name)


def check_account_open(account: Account) -> None:
    """Refuse a closed account."""
    if account.closed:
        raise refusal(Reason.REASON_ACCOUNT_CLOSED, f"{account.name} is closed", account=account.name)


def check_party(state: State, account: Account) -> None:
    """Refuse an account that may not take part in a movement: closed, frozen, or of a holder who is frozen or not active.

    An account with a profile has none of these, so the common case is one look at a column.
    """
    if state.profiles[account.number]:
        return
    check_account_open(account)
    if account.freeze_reference:
        message = f"{account.name} is frozen ({account.freeze_reference})"
        raise refusal(Reason.REASON_ACCOUNT_FROZEN, message, account=account.name, legal_reference=account.freeze_reference)
    if account.holder:
        holder = state.holders[account.holder]
        check_holder(holder)


def check_holder(holder: Holder) -> None:
    """Refuse a holder who is not active or is frozen."""
    if holder.state != HolderState.HOLDER_STATE_ACTIVE:
        name = HolderState.Name(HolderState.ValueType(holder.state))
        message = f"holder {holder.holder} is {name.removeprefix('HOLDER_STATE_').lower()}"
        raise refusal(Reason.REASON_HOLDER_NOT_ACTIVE, message, holder=holder.holder, state=name)
    if holder.freeze_reference:
        message = f"holder {holder.holder} is frozen ({holder.freeze_reference})"
        raise refusal(Reason.REASON_HOLDER_FROZEN, message, holder=holder.holder, legal_reference=holder.freeze_reference)


def rule_in_force(instrument: Instrument, now_us: int) -> EligibilityRule | None:
    """Return the eligibility rule in force on the day (UTC) of a moment, or None."""
    today = utc_date(now_us)
    found = None
    for rule in instrument.eligibility:
        if rule.effective_date <= today:
            found = rule
    return found


def check_eligible(state: State, instrument: Instrument, account: Account, now_us: int) -> None:
    """Refuse a destination whose holder may not hold the instrument."""
    if not instrument.eligibility:
        return
    rule = rule_in_force(instrument, now_us)
    if rule is None or not account.holder:
        return
    holder = state.holders[account.holder]
    if not rule.admits(holder.country, holder.investor_class):
        message = f"holder {holder.holder} ({holder.country}) may not hold {instrument.symbol} under its rule of {rule.effective_date}"
        raise refusal(
            Reason.REASON_HOLDER_NOT_ELIGIBLE,
            message,
            holder=holder.holder,
            instrument=instrument.symbol,
            country=holder.country,
            investor_class=holder.investor_class,
            effective_date=rule.effective_date,
        )


def check_free(state: State, instrument: Instrument, account: Account, units: int, brought: int = 0) -> None:
    """Refuse if an account has fewer free units than needed.

    `brought` is what movements decided before, and not booked yet, have given the account, less what they have taken: the figures of a
    refusal are those that the account would have had one by one. Example: of 100 units a run has taken 60 when 50 more are asked for:
    40 are free, and needed are 50.
    """
    free = state.free(instrument.number, account.number) + brought
    if free < units:
        holding = state.holding(instrument.number, account.number) + brought
        held = state.held(instrument.number, account.number)
        frozen = state.frozen(instrument.number, account.number)
        message = f"{account.name} has {max(free, 0)} free {instrument.symbol} of {holding} (held {held}, frozen {frozen}), needed {units}"
        raise refusal(
            Reason.REASON_UNITS_INSUFFICIENT,
            message,
            account=account.name,
            instrument=instrument.symbol,
            free=max(free, 0),
            needed=units,
            holding=holding,
            held=held,
            frozen=frozen,
        )


def check_movement(state: State, instrument: Instrument, source: Account, destination: Account, now_us: int) -> None:
    """Refuse a decided movement between two book accounts that a rule bars, whatever the units. The units are the caller's check."""
    check_open(instrument, OPERATION_TRANSFER, now_us)
    profiles = state.profiles
    if not (profiles[source.number] and profiles[destination.number]):
        check_party(state, source)
        check_party(state, destination)
    if instrument.eligibility:
        check_eligible(state, instrument, destination, now_us)


assert NEVER > 253402300799 * 1_000_000, "no date within the calendar reaches NEVER"
