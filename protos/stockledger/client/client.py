"""Client: every command and read of the ledger, each with retries that book nothing twice.

with Client("localhost:8080") as books:
    answer = books.execute(TransferUnitsRequest(instrument="AAPLx", source="book:alice", destination="book:bob", units=150_000_000))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, TypeVar, cast

import grpc
from google.protobuf.message_factory import GetMessageClass

from stockledger.client.connection import Connections, Tls
from stockledger.client.errors import DataLoss, error_of
from stockledger.client.request_ids import new_request_id
from stockledger.client.retries import Retries
from stockledger.client.transfer_stream import WINDOW, TransferStream
from stockledger.v1.audit_pb2 import StreamEntriesRequest, StreamEntriesResponse
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from google.protobuf.message import Message

    from stockledger.client.transfer_stream import Outcome
    from stockledger.v1.transfers_pb2 import TransferUnitsRequest

SECONDS: Final = 30.0
"""How long a request is tried, all attempts together, unless told otherwise."""
ATTEMPT_SECONDS: Final = 10.0
"""How long one attempt may take before the next one."""

_Stub = TypeVar("_Stub")


class Rpc(NamedTuple):
    """Where a request goes, and what comes back."""

    path: str
    answer_type: type[Any]
    streams: bool


def rpc_of(request_type: type[Message]) -> Rpc:
    """Return the RPC of a request's type: the one in whose file it stands.

    Raises: TypeError if there is none.
    """
    found = _RPCS.get(request_type)
    if found is None:
        services: Any = request_type.DESCRIPTOR.file.services_by_name
        for service in services.values():
            for method in service.methods:
                streams = method.client_streaming or method.server_streaming
                rpc = Rpc(f"/{service.full_name}/{method.name}", GetMessageClass(method.output_type), streams)
                _RPCS[GetMessageClass(method.input_type)] = rpc
        found = _RPCS.get(request_type)
        if found is None:
            raise TypeError(f"{request_type.DESCRIPTOR.full_name} is no request of the ledger's")
    return found


_RPCS: dict[type[Any], Rpc] = {}


class Client:
    """Speaks to a ledger's servers; may be shared by threads.

    `addresses` are one or more "host:port" of servers of one ledger: whichever answers is asked, and whoever leads is followed. `tls` is
    needed for anything but this machine. `token` is a bearer token, or a function that returns one and is called for every attempt, so that
    it can be renewed. `principal` is for trying out, where a server on loopback lets callers name themselves. `seconds` limit each request,
    all attempts together.
    """

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        tls: Tls | None = None,
        token: str | Callable[[], str] = "",
        principal: str = "",
        seconds: float = SECONDS,
        attempt_seconds: float = ATTEMPT_SECONDS,
    ) -> None:
        listed = [addresses] if isinstance(addresses, str) else list(addresses)
        self._connections = Connections(listed, tls, token, principal)
        self._seconds = seconds
        self._attempt_seconds = attempt_seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all connections. What is under way ends with NoAnswer."""
        self._connections.close()

    @property
    def target(self) -> str:
        """The server that is asked now, "host:port"."""
        return self._connections.target

    # ---- one request, one answer ----------------------------------------------------------------------------------------------------

    def execute(self, request: Any, *, seconds: float | None = None) -> Any:
        """Return the answer to a command or a read, by its request message.

        A command without a request id gets one for this call, which is kept over all its attempts. A program that may itself be killed
        makes the id first (`new_request_id`), stores it with its own record, and asks again with it. The request is not changed.

        Raises: LedgerError: what the ledger refused; NoAnswer, Unavailable or Overloaded where no attempt succeeded in time (then see
        `maybe_booked`). TypeError for what is no request.
        """
        rpc = rpc_of(type(request))
        if rpc.streams:
            raise TypeError(f"{rpc.path} streams: use entries() or transfers()")
        sent = _with_request_id(request)
        retries = Retries(self._connections, self._seconds if seconds is None else seconds)
        while True:
            target, channel = retries.begin()
            try:
                return self._attempt(channel, rpc, sent, max(min(self._attempt_seconds, retries.seconds_left), 0.001))
            except grpc.RpcError as failed:
                error = error_of(failed)
                error.request_id = getattr(sent, "request_id", "")
                retries.after(error, target)

    def _attempt(self, channel: grpc.Channel, rpc: Rpc, request: Any, timeout: float) -> Any:
        call = channel.unary_unary(rpc.path, _serialised, rpc.answer_type.FromString)
        return call(request, timeout=timeout, metadata=self._connections.metadata())

    def stub(self, stub_type: Callable[[grpc.Channel], _Stub]) -> _Stub:
        """Return a generated stub whose calls go through `execute`: the same retries, and answers with their types.

        Example: `books.stub(HoldServiceStub).GetHold(GetHoldRequest(hold=17)).hold.units`.
        """
        return stub_type(cast("grpc.Channel", _StubChannel(self)))

    # ---- lists ----------------------------------------------------------------------------------------------------------------------

    def pages(self, request: Any, *, seconds: float | None = None) -> Iterator[Any]:
        """Yield the pages of a list, from the request's page on. A page may be short, or empty, and another one may follow all the same.

        Page tokens may end with the server's process: then InvalidRequest for page_token, and the list is begun anew.
        """
        asked = type(request)()
        asked.CopyFrom(request)
        while True:
            page = self.execute(asked, seconds=seconds)
            yield page
            asked.page_token = page.next_page_token
            if not asked.page_token:
                return

    def items(self, request: Any, *, seconds: float | None = None) -> Iterator[Any]:
        """Yield the items of a list, page after page. Example: `for holding in books.items(ListHoldingsRequest(account=name))`."""
        for page in self.pages(request, seconds=seconds):
            yield from getattr(page, _items_field(page))

    # ---- the log --------------------------------------------------------------------------------------------------------------------

    def entries(
        self, start_index: int = 0, *, stop_when_caught_up: bool = False, seconds: float | None = None
    ) -> Iterator[StreamEntriesResponse]:
        """Yield pieces of the log from an index on, and follow it; after a cut, from where the last piece ended.

        Keep `next_index` of a piece together with what was made of it: then nothing is missed or taken twice, whatever breaks.
        A quiet log is told as pieces without entries. `seconds` is how long a broken connection may take to come back.

        Raises: LedgerError; BeyondLog if the log is shorter than `start_index`, and stays so: an older backup was restored, or it is
        another log; DataLoss if entries do not follow one another.
        """
        index, first = start_index, True
        retries = Retries(self._connections, self._seconds if seconds is None else seconds)
        while True:
            (target, channel), heard = retries.begin(), False
            try:
                for piece in self._entries_once(channel, index, stop_when_caught_up=stop_when_caught_up):
                    _check_order(piece, index)
                    index, first, heard = piece.next_index, False, True
                    yield piece
            except grpc.RpcError as failed:
                if heard:
                    retries.progressed()
                # Another server may be behind the one that was read from before.
                retries.after(error_of(failed), target, beyond_log_passes=not first)
            else:
                return

    def _entries_once(self, channel: grpc.Channel, index: int, *, stop_when_caught_up: bool) -> Iterator[StreamEntriesResponse]:
        rpc = rpc_of(StreamEntriesRequest)
        request = StreamEntriesRequest(start_index=index, stop_when_caught_up=stop_when_caught_up)
        call = channel.unary_stream(rpc.path, _serialised, rpc.answer_type.FromString)(request, metadata=self._connections.metadata())
        try:
            yield from call
        finally:
            call.cancel()  # the caller may have left the loop

    # ---- many transfers -------------------------------------------------------------------------------------------------------------

    def transfer_stream(self, *, window: int = WINDOW, seconds: float | None = None) -> TransferStream:
        """Return a stream to send transfers on, for as long as one likes; see TransferStream."""
        return TransferStream(self._connections, window=window, seconds=self._seconds if seconds is None else seconds)

    def transfers(
        self, transfers: Iterable[TransferUnitsRequest], *, window: int = WINDOW, seconds: float | None = None
    ) -> Iterator[Outcome]:
        """Send many transfers and yield the outcome of each, in order.

        Example: `refused = [outcome for outcome in books.transfers(wanted) if outcome.refusal]`.
        """
        with self.transfer_stream(window=window, seconds=seconds) as stream:
            for transfer in transfers:
                stream.send(transfer)
                yield from stream.outcomes()
            yield from stream.finish()


class _StubChannel:
    """Stands where a generated stub wants a channel."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def unary_unary(self, *_: object, **__: object) -> Callable[..., Any]:
        def call(request: Any, timeout: float | None = None) -> Any:
            return self._client.execute(request, seconds=timeout)

        return call

    def unary_stream(self, path: str, *_: object, **__: object) -> Callable[..., Any]:
        def call(*_: object, **__: object) -> Any:
            raise TypeError(f"{path} streams: use Client.entries() or Client.transfers()")

        return call

    stream_stream = unary_stream


def _serialised(message: Message) -> bytes:
    return message.SerializeToString()


def _with_request_id(request: Any) -> Any:
    """Return the request itself, or a copy with a request id if it is a command without one."""
    fields = request.DESCRIPTOR.fields_by_name
    if "validate_only" not in fields or request.request_id:
        return request
    copy = type(request)()
    copy.CopyFrom(request)
    copy.request_id = new_request_id()
    return copy


def _items_field(page: Any) -> str:
    """Return the field of a page that holds the items."""
    return str(next(field.name for field in page.DESCRIPTOR.fields if field.is_repeated and field.message_type is not None))


def _check_order(piece: StreamEntriesResponse, index: int) -> None:
    """Hold a piece against where the last one ended: stored entries come one after the other without a gap, visible ones in order.

    Raises: DataLoss.
    """
    whole = [entry.index for entry in piece.entries]
    visible = [entry.index for entry in piece.visible_entries]
    in_order = all(a < b for a, b in zip([index - 1, *visible], [*visible, piece.next_index], strict=True))
    if piece.next_index < index or (whole and whole != list(range(index, piece.next_index))) or (visible and not in_order):
        reason = Reason.Name(Reason.REASON_LOG_CORRUPT).removeprefix("REASON_")
        raise DataLoss(reason, f"asked from index {index}, the server sent entries {whole or visible} and next index {piece.next_index}")
