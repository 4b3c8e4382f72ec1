"""The two RPCs that stream: the log as it grows, and transfers with cumulative acknowledgements.

A slow reader slows nobody else: what he has not taken stays in the log, and a piece is made only when the last one has been taken.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.unknown_fields import UnknownFieldSet

from ledger.errors import LedgerError, refusal
from ledger.sent_transfers import SentTransfers
from services.grpc_server.authentication import unauthenticated
from services.grpc_server.authorization import authorize, authorize_all
from services.grpc_server.errors import for_caller, shortened
from services.grpc_server.group_commit import Job, stopping
from services.grpc_server.origin_index import OriginIndex
from services.grpc_server.subjects import Owner
from services.grpc_server.visibility import show_entry
from services.observability import NO_SPAN
from stockledger.v1.audit_pb2 import StoredEntry, StreamEntriesRequest, StreamEntriesResponse, VisibleEntry
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.events_pb2 import Entry
from stockledger.v1.transfers_pb2 import StreamTransfersRequest, StreamTransfersResponse, TransferRefusal

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from concurrent.futures import Executor

    from ledger import Answers, Ledger
    from ledger.leadership import Leadership
    from ledger.state import State
    from services.grpc_server.authorization import Permission
    from services.grpc_server.group_commit import GroupCommit
    from services.grpc_server.interceptors import Call, Gate
    from services.grpc_server.limits import Limits
    from services.grpc_server.settings import ServerSettings

PIECE_ENTRIES: Final = 500
PIECE_BYTES: Final = 1024 * 1024
"""Clients take messages of 4 MB unless told otherwise; a piece ends with the entry that passes this mark, of 65,535 bytes at most."""
TRANSFERS_PER_MESSAGE_MAX: Final = 10_000

_NO_REQUEST_ID: Final = refusal(
    Reason.REASON_FIELD_MISSING,
    "request_id is empty: on a stream every transfer has one, so that it can be sent again when the stream breaks",
    field="request_id",
)


class Growth:
    """Tells those who wait that the log has grown, or that the server stops. For the event loop alone."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.stopping = False

    def tell(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    def stop(self) -> None:
        self.stopping = True
        self.tell()

    async def wait(self, seconds: float) -> bool:
        """Return True when something was told, False when nothing was for that long."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return False
        return True


class _Piece(NamedTuple):
    """A piece of the log for one caller: by what permission, where the next one begins, whether anything is in it, and the message."""

    permission: Permission
    next_index: int
    has_entries: bool
    data: bytes


class Streams:
    """Answers the calls that stream."""

    def __init__(
        self,
        *,
        books: Ledger,
        commits: GroupCommit,
        readers: Executor,
        limits: Limits,
        operators: frozenset[str],
        settings: ServerSettings,
        growth: Growth,
        leadership: Leadership,
    ) -> None:
        self._books = books
        self._leadership = leadership
        self._commits = commits
        self._readers = readers
        self._limits = limits
        self._operators = operators
        self._settings = settings
        self._growth = growth
        self.origin_index = OriginIndex(books, growth)

    def handler(self, rpc: str, request_type: type[Any], gate: Gate) -> Any:
        """Return the handler of a streaming RPC, or None if it is not known here."""
        if request_type is StreamEntriesRequest:
            return gate.server_stream(rpc, request_type, self._entries)
        if request_type is StreamTransfersRequest:
            return gate.two_streams(rpc, lambda read, call: _TransferStream(self, gate, read, call).answers())
        return None

    # ---- entries --------------------------------------------------------------------------------------------------------------------

    async def _entries(self, request: StreamEntriesRequest, call: Call) -> AsyncGenerator[bytes, None]:
        """Send the log from an index on, then what comes."""
        check_known(request)
        index = request.start_index
        permission = await self._in_thread(self._permission, call, request)
        size = self._books.size
        if not 0 <= index <= size:
            raise refusal(Reason.REASON_INDEX_BEYOND_LOG, f"index {index} is beyond the log of {size}", index=index, size=size)
        told = -1
        while True:
            while index < self._books.size:
                stop = min(index + PIECE_ENTRIES, self._books.size)
                if not (permission.everything or await self.origin_index.reach(stop, self._settings.stream_report_seconds)):
                    check_valid(call, self._growth)
                    yield StreamEntriesResponse(size=self._books.size, next_index=index).SerializeToString()
                    permission = await self._in_thread(self._permission, call, request)
                    continue
                piece = await self._in_thread(self._piece, index, stop, call, request)
                check_valid(call, self._growth)
                permission, index = piece.permission, piece.next_index
                if piece.has_entries:
                    told = index
                    yield piece.data
            if told < index:
                told = index
                yield StreamEntriesResponse(size=self._books.size, next_index=index).SerializeToString()
            if request.stop_when_caught_up:
                return
            check_valid(call, self._growth)
            if not await self._growth.wait(self._settings.stream_report_seconds):
                told = -1
                await self._in_thread(self._permission, call, request)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._readers, function, *arguments)

    def _permission(self, call: Call, request: StreamEntriesRequest) -> Permission:
        """Return what the caller may see now: a role may be revoked while a stream runs."""
        self._leadership.refuse_to_read()
        return self._books.look(lambda state: authorize(state, call.identity.principal, self._operators, call.rpc, request))

    def _piece(self, index: int, stop: int, call: Call, request: StreamEntriesRequest) -> _Piece:
        """Return what a caller may see of the log from an index up to `stop`, or less."""
        permission, books = self._permission(call, request), self._books
        piece = StreamEntriesResponse(size=books.size)
        if not permission.everything:  # perhaps only since a moment ago: then nobody has asked for origins yet
            stop = max(index, min(stop, self.origin_index.origins.size))
        taken = 0
        for at, topic, data in books.log.read(index, stop):
            if permission.everything:
                piece.entries.append(StoredEntry(index=at, topic=topic, data=data))
            else:
                shown = books.look(lambda state, at=at, data=data: self._shown(state, at, data, permission))  # type: ignore[misc]
                if shown is not None:
                    piece.visible_entries.append(shown)
            index = at + 1
            taken += len(data)
            if taken >= PIECE_BYTES:
                break
        piece.next_index = index
        return _Piece(permission, index, bool(piece.entries or piece.visible_entries), piece.SerializeToString())

    def _shown(self, state: State, index: int, data: bytes, permission: Permission) -> VisibleEntry | None:
        owner = Owner(state, permission.principal, permission.brokers, self.origin_index.origins)
        return show_entry(index, Entry.FromString(data), permission, owner)

    # ---- what transfers need --------------------------------------------------------------------------------------------------------

    def job(self, call: Call, commands: SentTransfers) -> Job:
        """Make the job of one message of transfers; runs of them share entries."""
        principal = call.identity.principal

        def check(state: State) -> list[LedgerError | None]:
            _, refusals = authorize_all(state, principal, self._operators, call.rpc, commands)
            if commands.have_request_ids():
                return refusals
            return [no or (None if command.request_id else _NO_REQUEST_ID) for command, no in zip(commands, refusals, strict=True)]

        def finish(answers: Answers, refusals: list[LedgerError | None]) -> tuple[int, int, dict[int, LedgerError]]:
            refused = {place: no for place, no in enumerate(refusals) if no is not None} if any(refusals) else {}
            if found := answers.refusals:
                permitted = [place for place, no in enumerate(refusals) if no is None]
                refused |= {permitted[place]: error for place, error in found.items()}
            return len(refusals), answers.size, dict(sorted(refused.items()))

        return Job(commands, principal, check, finish, pack=True, deadline=call.deadline)

    def enqueue(self, job: Job) -> asyncio.Future[Any]:
        return self._commits.enqueue(job)

    def rate_wait(self, principal: str) -> float:
        return self._limits.spend(principal)

    @property
    def growth(self) -> Growth:
        return self._growth

    @property
    def unanswered_max(self) -> int:
        return self._settings.stream_unanswered_max


def check_known(request: Any) -> None:
    """Refuse a request with a field that this version does not know. What is in commands is looked at when they are decided.

    Raises: InvalidRequest FIELD_MALFORMED.
    """
    unknown = UnknownFieldSet(request)
    if unknown:
        number = unknown[0].field_number
        message = f"field {number} of {request.DESCRIPTOR.name} is not known to this version"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field=number)


def sent_transfers(raw: bytes, request: StreamTransfersRequest) -> SentTransfers:
    """Return the transfers of a message, given what it says and as the bytes it came in.

    They are cut out as they are if a message that says the same takes as many bytes: then every field stands once, in its shortest form.
    """
    if len(raw) == request.ByteSize():
        return SentTransfers([*_Cut.FromString(raw).transfers])
    return SentTransfers([transfer.SerializeToString() for transfer in request.transfers])


def _cut_type() -> Any:
    """Return a message type that reads a StreamTransfersRequest and leaves its transfers as bytes: a third of the time of messages."""
    file = FileDescriptorProto(name="services/grpc_server/cut.proto", package="stockledger.server", syntax="proto3")
    field = StreamTransfersRequest.DESCRIPTOR.fields_by_name["transfers"]
    kinds = FieldDescriptorProto
    cut = file.message_type.add(name="Cut")
    cut.field.add(name=field.name, number=field.number, label=kinds.LABEL_REPEATED, type=kinds.TYPE_BYTES)
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName("stockledger.server.Cut"))


_Cut: Final = _cut_type()


def check_valid(call: Call, growth: Growth) -> None:
    """End a stream whose caller is no longer known, or whose server stops."""
    if growth.stopping:
        raise stopping()
    if call.identity.expires_at and time.time() >= call.identity.expires_at:
        raise unauthenticated("the token has expired; open the stream again with a new one")


class _TransferStream:
    """One stream of transfers: a task reads ahead and puts jobs in line, and the answers go back in the same order."""

    def __init__(self, streams: Streams, gate: Gate, read: Callable[[], Awaitable[bytes | None]], call: Call) -> None:
        self._streams = streams
        self._gate = gate
        self._read = read
        self._call = call
        self._jobs: deque[Job] = deque()
        self._unanswered = 0
        self._changed = asyncio.Event()

    async def answers(self) -> AsyncGenerator[bytes, None]:
        """Yield acknowledgements until everything that was read is answered."""
        reader = asyncio.ensure_future(self._read_ahead())
        reader.add_done_callback(lambda _: self._changed.set())
        watcher = asyncio.ensure_future(self._stop_reading_when_the_server_stops(reader))
        acknowledged = 0
        try:
            while self._jobs or not reader.done():
                if not self._jobs:
                    self._changed.clear()
                    await self._changed.wait()
                    continue
                answer = StreamTransfersResponse()
                first = last = self._jobs[0]
                await asyncio.wait([first.future])
                while self._jobs and self._jobs[0].future.done():
                    fault = self._jobs[0].future.exception()
                    if fault is not None and answer.acknowledged_count:
                        break
                    last = self._jobs.popleft()
                    count, size, refusals = await last.future
                    answer.size = size
                    self._gate.tell_withheld(self._call, refusals.values())
                    for place, error in refusals.items():
                        answer.refusals.append(_refusal(acknowledged + place, error))
                    acknowledged += count
                    answer.acknowledged_count = acknowledged
                    self._unanswered -= count
                self._changed.set()
                if self._call.span is not NO_SPAN:
                    self._trace(first, last, answer)
                yield answer.SerializeToString()
            if not reader.cancelled():
                await reader
            check_valid(self._call, self._streams.growth)
        finally:
            watcher.cancel()
            reader.cancel()
            for job in self._jobs:
                job.abandoned = True
                job.future.cancel()  # nobody will ask what became of it

    def _trace(self, first: Job, last: Job, answer: StreamTransfersResponse) -> None:
        """Tell the steps of what is acknowledged together, by its first and its last message."""
        span = self._call.span
        span.step("wait", first.queued_ns, first.started_ns)
        span.step("decide and flush", first.started_ns, last.flushed_ns, acknowledged_count=answer.acknowledged_count)

    async def _read_ahead(self) -> None:
        """Read messages and put their transfers in line, no further ahead than may be unanswered."""
        streams, call = self._streams, self._call
        while True:
            raw = await self._read()
            if raw is None:
                return
            check_valid(call, streams.growth)
            request = self._gate.parse(raw, StreamTransfersRequest)
            check_known(request)
            count = len(request.transfers)
            if not 0 < count <= TRANSFERS_PER_MESSAGE_MAX:
                message = f"a message has {count} transfers, it must have 1 to {TRANSFERS_PER_MESSAGE_MAX}"
                reason = Reason.REASON_TOO_MANY_ITEMS if count else Reason.REASON_FIELD_MISSING
                raise refusal(reason, message, field="transfers", count=count, limit=TRANSFERS_PER_MESSAGE_MAX)
            await self._keep_to_the_rate()
            while self._unanswered and self._unanswered + count > streams.unanswered_max:
                self._changed.clear()
                await self._changed.wait()
            job = streams.job(call, sent_transfers(raw, request))
            streams.enqueue(job)
            self._unanswered += count
            self._jobs.append(job)
            self._changed.set()

    async def _keep_to_the_rate(self) -> None:
        """Read no faster than the principal's rate allows: a stream is slowed where a single request would be refused."""
        wait = self._streams.rate_wait(self._call.identity.principal)
        while wait:
            await asyncio.sleep(wait)
            wait = self._streams.rate_wait(self._call.identity.principal)

    async def _stop_reading_when_the_server_stops(self, reader: asyncio.Future[None]) -> None:
        while not self._streams.growth.stopping:
            await self._streams.growth.wait(60)
        reader.cancel()


def _refusal(position: int, error: LedgerError) -> TransferRefusal:
    error = for_caller(error)
    metadata = {name: shortened(value, 512) for name, value in error.metadata.items()}
    return TransferRefusal(position=position, reason=error.reason_name, explanation=shortened(error.message, 512), metadata=metadata)
