"""Refusals as google.rpc.Status: the code, and details that a program can act on.

ErrorInfo (domain "stockledger", the reason, names and numbers), BadRequest where a field is wrong, RetryInfo where the same request
may succeed later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import grpc
from google.protobuf.any_pb2 import Any as PackedAny
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from ledger.errors import (
    DOMAIN,
    ActionDue,
    BeyondLog,
    DataLoss,
    InvalidRequest,
    LedgerError,
    NotFound,
    NotPermitted,
    Overloaded,
    RequestIdRefused,
    RuleViolated,
    Unavailable,
    refusal,
)
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from google.protobuf.message import Message

DETAILS_KEY: Final = "grpc-status-details-bin"
"""The trailing metadata in which google.rpc.Status travels."""
TEXT_BYTES_MAX: Final = 512
"""Of a message or one value of its metadata: trailing metadata above 8 kB makes a client see a broken connection instead."""
METADATA_BYTES_MAX: Final = 3_072

_CODE_OF_REASON: Final[dict[int, grpc.StatusCode]] = {
    Reason.REASON_UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.REASON_REQUEST_ID_REUSED: grpc.StatusCode.ALREADY_EXISTS,
    Reason.REASON_ALREADY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Reason.REASON_INTERNAL: grpc.StatusCode.INTERNAL,
}
_CODE_OF_CLASS: Final[tuple[tuple[type[LedgerError], grpc.StatusCode], ...]] = (
    (NotPermitted, grpc.StatusCode.PERMISSION_DENIED),
    (InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
    (RequestIdRefused, grpc.StatusCode.FAILED_PRECONDITION),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (RuleViolated, grpc.StatusCode.FAILED_PRECONDITION),
    (BeyondLog, grpc.StatusCode.OUT_OF_RANGE),
    (Overloaded, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
    (DataLoss, grpc.StatusCode.DATA_LOSS),
)
_RETRY_MS: Final[tuple[tuple[type[LedgerError], int], ...]] = ((ActionDue, 5_000), (Unavailable, 500), (Overloaded, 250))
_NEVER_AGAIN: Final = frozenset({Reason.REASON_MESSAGE_TOO_LARGE})
_STORE_TEXTS: Final[dict[int, str]] = {
    Reason.REASON_STORE_UNAVAILABLE: "the store of this server cannot be used at this moment; the same request may be sent again",
    Reason.REASON_LEDGER_NOT_FOUND: "the store of this server does not hold the ledger that it serves",
    Reason.REASON_LOG_CORRUPT: "what is stored is not what was stored; a human must look",
    Reason.REASON_CHECKPOINT_INCONSISTENT: "a checkpoint does not agree with the log; a human must look",
}
"""What callers are told of the store. Its URL, and what else stands in such a message, is for the operator."""
_STORE_METADATA: Final = frozenset({"index", "size", "retry_ms"})


class Stopping(Unavailable):
    """This server stops; what it says of that is for callers."""


class Expired(Exception):
    """The deadline passed, or the caller went away, before the command was decided: nothing was booked."""


def code_of(error: LedgerError) -> grpc.StatusCode:
    """Return the gRPC code of a refusal (the table of errors.proto's reasons)."""
    code = _CODE_OF_REASON.get(error.reason)
    if code is not None:
        return code
    return next((code for kind, code in _CODE_OF_CLASS if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def for_caller(error: LedgerError) -> LedgerError:
    """Return a refusal as its caller gets it: the same, but that one for the store tells nothing of where that is and what is in it.

    Such a refusal may come before anybody has asked what the caller may do.
    """
    text = None if isinstance(error, Stopping) else _STORE_TEXTS.get(error.reason)
    if text is None:
        return error
    return refusal(error.reason, text, **{name: value for name, value in error.metadata.items() if name in _STORE_METADATA})


def status_of(error: LedgerError) -> Status:
    """Return a refusal as its caller gets it, with all its details, small enough for trailing metadata."""
    error = for_caller(error)
    message = shortened(error.message, TEXT_BYTES_MAX)
    details: list[Message] = [ErrorInfo(reason=error.reason_name, domain=DOMAIN, metadata=_bounded(error.metadata))]
    if isinstance(error, InvalidRequest):
        field = shortened(error.metadata.get("field", ""), TEXT_BYTES_MAX)
        details.append(BadRequest(field_violations=[BadRequest.FieldViolation(field=field, description=message, reason=error.reason_name)]))
    delay_ms = retry_ms(error)
    if delay_ms:
        seconds, milliseconds = divmod(delay_ms, 1000)
        details.append(RetryInfo(retry_delay=Duration(seconds=seconds, nanos=milliseconds * 1_000_000)))
    status = Status(code=code_of(error).value[0], message=message)
    for detail in details:
        packed = PackedAny()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def retry_ms(error: LedgerError) -> int:
    """Return after how many milliseconds the same request may be tried again; 0: never, or not before the books have changed."""
    if error.reason in _NEVER_AGAIN:
        return 0
    told = error.metadata.get("retry_ms", "")
    return int(told) if told.isdecimal() else next((delay for kind, delay in _RETRY_MS if isinstance(error, kind)), 0)


def trailing_metadata(status: Status) -> tuple[tuple[str, bytes], ...]:
    """Return a status as the trailing metadata in which clients of all languages look for it."""
    return ((DETAILS_KEY, status.SerializeToString()),)


def internal(correlation_id: str) -> LedgerError:
    """Return what a caller is told about a fault of ours: where to find it in the server's log, and nothing else."""
    message = f"a fault of the server; it is in its log as {correlation_id}. A retry with the same request id is safe"
    return refusal(Reason.REASON_INTERNAL, message, correlation_id=correlation_id)


def _bounded(metadata: dict[str, str]) -> dict[str, str]:
    """Return names and values as far as they fit; those that come first matter most."""
    left, fitting = METADATA_BYTES_MAX, {}
    for name, value in metadata.items():
        text = shortened(value, TEXT_BYTES_MAX)
        left -= len(name.encode()) + len(text.encode())
        if left < 0:
            break
        fitting[name] = text
    return fitting


def shortened(text: str, bytes_max: int) -> str:
    """Return a text cut to a number of UTF-8 bytes, on a character's boundary."""
    data = text.encode(errors="replace")
    return data.decode() if len(data) <= bytes_max else data[: bytes_max - 3].decode(errors="ignore") + "..."
