"""Sequences: what makes a transaction of a signer happen once at most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.errors import refusal
from ledger.rules.checks import check_text
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from stockledger.v1.chains_pb2 import Sequence

VALUE_LENGTH_MAX: Final = 128
NUMBER_MAX: Final = (1 << 62) - 1


def _check_number(field: str, number: int) -> None:
    if not 0 <= number <= NUMBER_MAX:
        message = f"{field} is {number}, it must be 0 to 2^62 - 1"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field=field, value=number)


def check_sequence(field: str, sequence: Sequence) -> None:
    """Refuse a sequence that is not one of its three kinds, whole."""
    kind = sequence.WhichOneof("kind")
    if kind is None:
        raise refusal(Reason.REASON_FIELD_MISSING, f"{field} is not set", field=field)
    if kind == "number":
        _check_number(f"{field}.number", sequence.number)
    elif kind == "one_time_value":
        check_text(f"{field}.one_time_value.account", sequence.one_time_value.account, VALUE_LENGTH_MAX)
        check_text(f"{field}.one_time_value.value", sequence.one_time_value.value, VALUE_LENGTH_MAX)
    else:
        check_text(f"{field}.expiring_reference.value", sequence.expiring_reference.value, VALUE_LENGTH_MAX)
        _check_number(f"{field}.expiring_reference.last_number", sequence.expiring_reference.last_number)


def sequence_text(sequence: Sequence) -> str:
    """Return a sequence as a text that no other of its key has. Example: "17".

    A one-time value goes by its account and value; an expiring reference by its value, whose last number follows from it.
    """
    kind = sequence.WhichOneof("kind")
    if kind == "number":
        return str(sequence.number)
    if kind == "one_time_value":
        return f"value {sequence.one_time_value.account} {sequence.one_time_value.value}"
    return f"reference {sequence.expiring_reference.value}"
