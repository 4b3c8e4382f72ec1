"""Refusals as exceptions, with the same names, reasons and numbers as in process.

    LedgerError
    |-- NotPermitted        who asks may not do this, or is not known           never the same request again
    |-- InvalidRequest      the request is wrong in itself                      never the same request again
    |-- RequestIdRefused    the request id was used, is too old, or too new     never the same request again
    |-- NotFound            something named does not exist                      after a change of state
    |-- RuleViolated        the books do not allow it now                       after a change of state
    |   `-- ActionDue       a due step must be taken first                      once that step was booked
    |-- BeyondLog           an index or size that is not there yet              after growth
    |-- Overloaded          too much at once                                    the client has tried again already
    |-- Unavailable         the store, a chain or the leader is away            the client has tried again already
    |-- DataLoss            stored bytes or checkpoints contradict each other   never; call a human
    `-- NoAnswer            nothing that the ledger said: the connection broke, or time ran out

Decide by class or `reason_name`, never by the message. What was refused was not booked. After Overloaded, Unavailable or NoAnswer see
`maybe_booked`: the same request with the same `request_id` is always safe, and its answer tells which it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from stockledger.reasons import kind_of
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

DOMAIN: Final = "stockledger"
DETAILS_KEY: Final = "grpc-status-details-bin"


class LedgerError(Exception):
    """A request was refused, or has no answer.

    `reason` is the enum value and `reason_name` its name without the prefix ("UNITS_INSUFFICIENT"), `metadata` the names and numbers behind
    it as text, `code` the gRPC status, `request_id` the id under which the command was sent (empty for reads), `retry_seconds` when the
    server would like to see it again (0: not told).
    """

    def __init__(
        self,
        reason_name: str,
        message: str,
        metadata: Mapping[str, str] | None = None,
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        retry_seconds: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.reason_name = reason_name
        self.message = message
        self.metadata = dict(metadata or {})
        self.code = code
        self.retry_seconds = retry_seconds
        self.request_id = ""
        self.attempts = 1
        self.maybe_booked = False
        """True if an attempt may have been booked whose answer was lost."""

    @property
    def reason(self) -> Reason.ValueType:
        """The enum value; REASON_UNSPECIFIED for a reason that is newer than this client."""
        name = f"REASON_{self.reason_name}"
        return Reason.Value(name) if name in Reason.keys() else Reason.REASON_UNSPECIFIED  # noqa: SIM118 - not a dict

    def __str__(self) -> str:
        return f"{self.reason_name or self.code.name}: {self.message}"


class NotPermitted(LedgerError):
    """Who asks may not do this, or is not known."""


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
    """Too much at once, and still so after all attempts; or a message that is too large for ever (MESSAGE_TOO_LARGE)."""


class Unavailable(LedgerError):
    """The store, a chain or the leader is away, and still so after all attempts."""


class DataLoss(LedgerError):
    """Stored bytes or checkpoints contradict each other; a human must look."""


class NoAnswer(LedgerError):
    """Nothing that the ledger said: the connection broke, or the time ran out. A command may be booked all the same."""


_KINDS: Final[dict[str, type[LedgerError]]] = {
    kind.__name__: kind
    for kind in (
        *(LedgerError, NotPermitted, InvalidRequest, RequestIdRefused, NotFound, RuleViolated),
        *(ActionDue, BeyondLog, Overloaded, Unavailable, DataLoss),
    )
}


def refused(reason_name: str, message: str, metadata: Mapping[str, str], **more: Any) -> LedgerError:
    """Make the exception of a reason by its name, as ErrorInfo and TransferRefusal tell it."""
    name = f"REASON_{reason_name}"
    number = Reason.Value(name) if name in Reason.keys() else 0  # noqa: SIM118 - not a dict
    return _KINDS[kind_of(number)](reason_name, message, metadata, **more)


def error_of(call: grpc.RpcError) -> LedgerError:
    """Return what a failed call says, with the details of its google.rpc.Status where the ledger sent one."""
    code, text = call.code(), call.details() or ""
    metadata: Any = call.trailing_metadata() or ()
    trailing = {key: value for key, value in metadata if key == DETAILS_KEY}
    info, retry_seconds = None, 0.0
    try:
        for detail in _STATUS.FromString(trailing.get(DETAILS_KEY, b"")).details:
            if detail.type_url.endswith("/google.rpc.ErrorInfo"):
                info = _ERROR_INFO.FromString(detail.value)
            elif detail.type_url.endswith("/google.rpc.RetryInfo"):
                retry_seconds = _RETRY_INFO.FromString(detail.value).retry_delay.ToNanoseconds() / 1e9
    except DecodeError:
        info = None
    if info is None or info.domain != DOMAIN:
        return NoAnswer("", text, code=code, retry_seconds=retry_seconds)
    return refused(info.reason, text, info.metadata, code=code, retry_seconds=retry_seconds)


def _messages(file: FileDescriptorProto) -> dict[str, type[Any]]:
    """Return the classes of a file's messages, in a pool of their own: the common pool may hold googleapis-common-protos already."""
    pool = DescriptorPool()
    for known in (any_pb2, duration_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return {message.name: GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{message.name}")) for message in file.message_type}


def _google_rpc() -> FileDescriptorProto:
    """Describe what is read of google/rpc/status.proto and error_details.proto; other details are passed over."""
    file = FileDescriptorProto(name="stockledger/client/google_rpc.proto", package="google.rpc", syntax="proto3")
    file.dependency.extend(["google/protobuf/any.proto", "google/protobuf/duration.proto"])
    kinds = FieldDescriptorProto
    one, many = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED
    status = file.message_type.add(name="Status")
    status.field.add(name="code", number=1, label=one, type=kinds.TYPE_INT32)
    status.field.add(name="message", number=2, label=one, type=kinds.TYPE_STRING)
    status.field.add(name="details", number=3, label=many, type=kinds.TYPE_MESSAGE, type_name=".google.protobuf.Any")
    info = file.message_type.add(name="ErrorInfo")
    info.field.add(name="reason", number=1, label=one, type=kinds.TYPE_STRING)
    info.field.add(name="domain", number=2, label=one, type=kinds.TYPE_STRING)
    info.field.add(name="metadata", number=3, label=many, type=kinds.TYPE_MESSAGE, type_name=".google.rpc.ErrorInfo.MetadataEntry")
    entry = info.nested_type.add(name="MetadataEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=one, type=kinds.TYPE_STRING)
    entry.field.add(name="value", number=2, label=one, type=kinds.TYPE_STRING)
    retry = file.message_type.add(name="RetryInfo")
    retry.field.add(name="retry_delay", number=1, label=one, type=kinds.TYPE_MESSAGE, type_name=".google.protobuf.Duration")
    return file


_GOOGLE_RPC: Final = _messages(_google_rpc())
_STATUS, _ERROR_INFO, _RETRY_INFO = (_GOOGLE_RPC[name] for name in ("Status", "ErrorInfo", "RetryInfo"))
