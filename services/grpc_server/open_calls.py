"""What is told to anybody, without credentials: health, and the protos by reflection. So it is bounded for all callers together.

Streams are counted among the calls under way, and those beyond a number are refused. `Check` is answered at once and always, so that a
balancer can ask it whoever holds the streams.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from ledger.errors import LedgerError, refusal
from services.grpc_server.errors import code_of, status_of, trailing_metadata
from services.grpc_server.group_commit import stopping
from services.grpc_server.limits import too_many
from services.grpc_server.streams import Growth
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from services.observability import Calls

OPEN_STREAMS_MAX: Final = 256
"""Streams at once of each of the two services, of all callers together."""
OPEN_MESSAGE_BYTES_MAX: Final = 4_096
"""A request is kept as long as its stream, and these are names."""
SILENCE_SECONDS: Final = 60.0
"""After this time without a question a stream of reflection ends."""
_WATCH_SECONDS: Final = 600.0
_Status: Final = health_pb2.HealthCheckResponse


class OpenCalls:
    """Counts the calls of one service that asks for no credentials. For the event loop alone."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._streams = 0

    def answered(self, rpc: str, code: str) -> None:
        """Count a call that was answered at once."""
        self._calls.ended(rpc, code, 0.0)

    @asynccontextmanager
    async def stream(self, rpc: str, context: Any) -> AsyncIterator[None]:
        """Count a stream while it lasts, and end it with details where it is refused."""
        started, code = time.perf_counter(), "OK"
        self._calls.in_flight += 1
        self._streams += 1
        try:
            if self._streams > OPEN_STREAMS_MAX:
                raise too_many("streams at once of all callers", OPEN_STREAMS_MAX, 1_000)
            yield
        except LedgerError as error:
            code, status = code_of(error).name, status_of(error)
            await context.abort(code_of(error), status.message, trailing_metadata(status))
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        finally:
            self._calls.in_flight -= 1
            self._streams -= 1
            self._calls.ended(rpc, code, time.perf_counter() - started)


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """grpc.health.v1.Health for names that are known from the start.

    A watcher of another name is told SERVICE_UNKNOWN and kept, as the protocol says: were the stream ended, clients would come again at
    once, for ever. It costs one of the streams that are counted, and nothing is kept under the name. A watcher who does not read holds up
    nobody but himself.
    """

    def __init__(self, names: Iterable[str], calls: Calls) -> None:
        self._statuses = dict.fromkeys(names, _Status.NOT_SERVING)
        self._open = OpenCalls(calls)
        self._changes = Growth()

    def tell(self, name: str, *, serving: bool) -> None:
        """Say how a service stands; once it stops, nothing else is said."""
        status = _Status.SERVING if serving else _Status.NOT_SERVING
        if not self._changes.stopping and self._statuses[name] != status:
            self._statuses[name] = status
            self._changes.tell()

    def stop(self) -> None:
        """Say that nothing is served any more, and end all watching."""
        self._statuses = dict.fromkeys(self._statuses, _Status.NOT_SERVING)
        self._changes.stop()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - as the service has it
        """Say how a service stands."""
        status = self._statuses.get(request.service)
        if status is None:
            self._open.answered("Health/Check", "NOT_FOUND")
            await context.abort(grpc.StatusCode.NOT_FOUND, "no service of this name is here")
        self._open.answered("Health/Check", "OK")
        return _Status(status=status)

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802
        """Say how a service stands, and again whenever that changes."""
        async with self._open.stream("Health/Watch", context):
            _check_size(request)
            told = None
            while True:
                status = self._statuses.get(request.service, _Status.SERVICE_UNKNOWN)
                if status != told:
                    told = status
                    await context.write(_Status(status=status))
                elif self._changes.stopping:
                    raise stopping()
                else:
                    await self._changes.wait(_WATCH_SECONDS)


class Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]
    """grpc.reflection.v1alpha.ServerReflection. A caller who asks nothing for a minute is let go."""

    def __init__(self, names: Iterable[str], calls: Calls) -> None:
        super().__init__(list(names))
        self._open = OpenCalls(calls)
        self._stopped: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def stop(self) -> None:
        """End all streams."""
        if not self._stopped.done():
            self._stopped.set_result(None)

    async def ServerReflectionInfo(self, request_iterator: Any, context: Any) -> None:  # noqa: N802 - as the service has it
        """Answer questions about the protos."""
        async with self._open.stream("ServerReflection/ServerReflectionInfo", context):
            async for answer in super().ServerReflectionInfo(self._questions(aiter(request_iterator)), context):
                await context.write(answer)

    async def _questions(self, requests: Any) -> AsyncIterator[Any]:
        """Yield what a caller asks until he has asked all, is silent for too long, or the server stops."""
        while True:
            ahead = asyncio.ensure_future(anext(requests, None))
            try:
                await asyncio.wait((ahead, self._stopped), timeout=SILENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if self._stopped.done():
                    raise stopping()
                request = ahead.result() if ahead.done() else None
            finally:
                ahead.cancel()
            if request is None:
                return
            _check_size(request)
            yield request


def _check_size(request: Any) -> None:
    """Refuse a request that is larger than any name.

    Raises: Overloaded MESSAGE_TOO_LARGE.
    """
    size, name = request.ByteSize(), request.DESCRIPTOR.name
    if size > OPEN_MESSAGE_BYTES_MAX:
        message = f"{name} has {size} bytes, at most {OPEN_MESSAGE_BYTES_MAX} may be"
        raise refusal(Reason.REASON_MESSAGE_TOO_LARGE, message, type=name, bytes=size, limit=OPEN_MESSAGE_BYTES_MAX)
