"""Custodians' statements: the JSON that evidence signs, read strictly.

A statement is one JSON object with exactly these members, in any order:

    {"ledger": "acme", "custody_account": "alpaca/AAPL-1", "isin": "US0378331005",
     "settled_shares_e8": 100000000000, "pending_shares_e8": 0, "encumbered_shares_e8": 0,
     "as_of_time": "2026-11-22T17:00:00Z", "valid_until_time": "2026-11-23T17:00:00Z", "share_basis": 0}

`ledger` is the id of the ledger it is made for (evidence.py compares): the same shares must not back the units of another ledger too, by
somebody's handing the statement in there. The bytes are signed and stored verbatim, so they need no canonical form. But nothing in them
may be read in two ways: two members of one name, a number with a point or an exponent, or a time with another offset are refused, as is
whatever this ledger does not know.
"""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from ledger.errors import LedgerError, refusal
from ledger.rules.checks import check_id, check_text, check_units_or_zero
from stockledger.v1.errors_pb2 import Reason

STATEMENT_BYTES_MAX: Final = 4096
SHARE_BASIS_MAX: Final = (1 << 31) - 1

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_UTC_TIME: Final = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,6}))?Z")
_TEXTS: Final = ("ledger", "custody_account", "isin", "as_of_time", "valid_until_time")
_INTEGERS: Final = ("settled_shares_e8", "pending_shares_e8", "encumbered_shares_e8", "share_basis")
_MEMBERS: Final = frozenset(_TEXTS + _INTEGERS)


@dataclass(frozen=True, slots=True)
class Statement:
    """What a statement says. Shares are integers at scale 1e8, times are microseconds since 1970 UTC."""

    ledger: str
    custody_account: str
    isin: str
    settled_shares_e8: int
    pending_shares_e8: int
    encumbered_shares_e8: int
    as_of_time_us: int
    valid_until_time_us: int
    share_basis: int


def parse_statement(data: bytes) -> Statement:
    """Read the bytes of a statement.

    Raises: InvalidRequest FIELD_MISSING, FIELD_MALFORMED, UNITS_NOT_POSITIVE, UNITS_OUT_OF_RANGE; the field is "statement", or
    "statement.<member>" where one member is to blame.
    """
    if not data:
        raise refusal(Reason.REASON_FIELD_MISSING, "statement is empty", field="statement")
    if len(data) > STATEMENT_BYTES_MAX:
        raise _malformed(f"statement has {len(data)} bytes, at most {STATEMENT_BYTES_MAX} may be")
    members = _read_members(data)
    return Statement(
        ledger=check_id("statement.ledger", members["ledger"]),
        custody_account=check_id("statement.custody_account", members["custody_account"]),
        isin=check_text("statement.isin", members["isin"], 12),
        settled_shares_e8=check_units_or_zero("statement.settled_shares_e8", members["settled_shares_e8"]),
        pending_shares_e8=check_units_or_zero("statement.pending_shares_e8", members["pending_shares_e8"]),
        encumbered_shares_e8=check_units_or_zero("statement.encumbered_shares_e8", members["encumbered_shares_e8"]),
        as_of_time_us=_utc_time("as_of_time", members["as_of_time"]),
        valid_until_time_us=_utc_time("valid_until_time", members["valid_until_time"]),
        share_basis=_share_basis(members["share_basis"]),
    )


def _read_members(data: bytes) -> dict[str, Any]:
    """Return the members: exactly those of a statement, each a text or an integer as it must be."""
    try:
        members = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_members_of_pairs,
            parse_int=_integer_of_text,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
        )
    except (ValueError, RecursionError) as error:  # of the parser, or bytes that are not UTF-8
        raise _malformed(f"statement is not JSON in UTF-8: {error}") from error
    if not isinstance(members, dict):
        raise _malformed("statement is not a JSON object")
    for name in sorted(members.keys() - _MEMBERS):
        raise _malformed(f"statement has a member {name!r} that it must not have", name)
    for name in sorted(_MEMBERS - members.keys()):
        raise refusal(Reason.REASON_FIELD_MISSING, f"statement has no member {name}", field=f"statement.{name}")
    for names, kind, words in ((_TEXTS, str, "a text"), (_INTEGERS, int, "an integer")):
        for name in names:
            if type(members[name]) is not kind:  # a bool is an int to isinstance
                raise _malformed(f"statement.{name} is not {words}", name)
    return members


def _members_of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _malformed("statement names a member twice")
    return members


def _integer_of_text(text: str) -> int:
    value = int(text)
    if str(value) != text:
        _refuse_number(text)
    return value


def _refuse_number(text: str) -> NoReturn:
    raise _malformed(f"statement has a number {text!r} that is not an integer in digits")


def _share_basis(value: int) -> int:
    if not 0 <= value <= SHARE_BASIS_MAX:
        raise _malformed(f"statement.share_basis is {value}, it must be 0 to 2^31 - 1", "share_basis")
    return value


def _utc_time(name: str, text: str) -> int:
    """Return an RFC 3339 time in UTC, written with Z, as microseconds since 1970. Leap seconds are refused: nothing settles in one."""
    found = _UTC_TIME.fullmatch(text)
    if found is None:
        raise _malformed(f"statement.{name} {text!r} is not a time like 2026-11-22T17:00:00Z", name)
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    try:
        moment = datetime.datetime(year, month, day, hour, minute, second, tzinfo=datetime.UTC)
    except ValueError as error:
        raise _malformed(f"statement.{name} {text!r} is not a moment: {error}", name) from error
    return (moment - _EPOCH) // datetime.timedelta(microseconds=1) + int((found[7] or "").ljust(6, "0"))


def _malformed(message: str, member: str = "") -> LedgerError:
    return refusal(Reason.REASON_FIELD_MALFORMED, message, field=f"statement.{member}" if member else "statement")
