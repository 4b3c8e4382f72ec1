"""What the ledger refuses, and why.

Every refusal is a `LedgerError` that carries a `Reason` of protos/stockledger/v1/errors.proto and the numbers behind it:

    LedgerError
    |-- NotPermitted        who asks may not do this                            never the same request again
    |-- InvalidRequest      the request is wrong in itself                      never the same request again
    |-- RequestIdRefused    the request id was used, is too old, or too new     never the same request again
    |-- NotFound            something named does not exist                      after a change of state
    |-- RuleViolated        the books do not allow it now                       after a change of state
    |   `-- ActionDue       a due step must be taken first                      once that step was booked
    |-- BeyondLog           an index or size that is not there yet              after growth
    |-- Overloaded          too much at once                                    the same request, later
    |-- Unavailable         the store, a chain or the leader is away            the same request, later
    `-- DataLoss            stored bytes or checkpoints contradict each other   never; call a human

All of them are expected in normal operation. A bug is an AssertionError or another Python error, never one of these.
"""

from __future__ import annotations

from stockledger.reasons import kind_of
from stockledger.v1.errors_pb2 import Reason

DOMAIN = "stockledger"


class LedgerError(Exception):
    """A request was refused, or an answer cannot be given.

    `reason` is the enum value, `reason_name` its name without the prefix ("UNITS_INSUFFICIENT"), `metadata` the names and
    numbers behind it as text, ready for google.rpc.ErrorInfo.
    """

    def __init__(self, reason: Reason.ValueType, message: str, **metadata: object) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata: dict[str, str] = {name: str(value) for name, value in metadata.items()}

    @property
    def reason_name(self) -> str:
        return Reason.Name(self.reason).removeprefix("REASON_")

    def __str__(self) -> str:
        return f"{self.reason_name}: {self.message}"

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.reason, self.message, self.metadata))


class NotPermitted(LedgerError):
    """Who asks may not do this."""


class InvalidRequest(LedgerError):
    """The request is wrong in itself, whatever the books say."""


class RequestIdRefused(LedgerError):
    """The request id was used with other content, or lies outside the window."""


class NotFound(LedgerError):
    """Something the request names does not exist."""


class RuleViolated(LedgerError):
    """The books, as they stand, do not allow it."""


class ActionDue(RuleViolated):
    """A step that is due has not been taken; nothing is booked at yesterday's terms."""


class BeyondLog(LedgerError):
    """The index or size asked for is beyond the log."""


class Overloaded(LedgerError):
    """Too much at once; the same request may succeed later."""


class Unavailable(LedgerError):
    """The store, a chain or the leader is away; the same request may succeed later."""


class DataLoss(LedgerError):
    """Stored bytes or checkpoints contradict each other; a human must look."""


_KINDS: dict[str, type[LedgerError]] = {
    kind.__name__: kind
    for kind in (
        *(LedgerError, NotPermitted, InvalidRequest, RequestIdRefused, NotFound, RuleViolated),
        *(ActionDue, BeyondLog, Overloaded, Unavailable, DataLoss),
    )
}


def refusal(reason: Reason.ValueType, message: str, **metadata: object) -> LedgerError:
    """Make the exception that belongs to a reason.

    Example: `raise refusal(Reason.REASON_INSTRUMENT_NOT_FOUND, "no instrument ZZZx", instrument="ZZZx")`.
    """
    return _KINDS[kind_of(reason)](reason, message, **metadata)


def _rebuild(reason: Reason.ValueType, message: str, metadata: dict[str, str]) -> LedgerError:
    return refusal(reason, message, **metadata)
