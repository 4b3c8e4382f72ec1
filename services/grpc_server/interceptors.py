"""What stands around every call: who asks, limits, errors with details, and what is told about it.

Handlers take and give bytes, so that a message that cannot be read, or is too large, is answered with details like any other refusal.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import grpc
from google.protobuf.message import DecodeError

from ledger.errors import DataLoss, LedgerError, refusal
from services.grpc_server.errors import Expired, code_of, for_caller, internal, status_of, trailing_metadata
from services.grpc_server.limits import check_lengths
from services.observability import LOGGER, NO_SPAN
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from services.grpc_server.authentication import Authentication, Identity
    from services.grpc_server.limits import Limits
    from services.grpc_server.settings import ServerSettings
    from services.observability import Metrics, Span, Tracing

_log = logging.getLogger(f"{LOGGER}.server")


class Call(NamedTuple):
    """One call that is under way."""

    rpc: str
    identity: Identity
    deadline: float | None
    """On the monotonic clock; None: the caller has all the time in the world."""
    span: Span


class Gate:
    """Lets calls in, and sees them out."""

    def __init__(
        self,
        *,
        settings: ServerSettings,
        authentication: Authentication,
        limits: Limits,
        metrics: Metrics,
        tracing: Tracing | None,
        store_is_away: Callable[[LedgerError], None],
    ) -> None:
        self._settings = settings
        self._authentication = authentication
        self._limits = limits
        self._metrics = metrics
        self._tracing = tracing
        self._store_is_away = store_is_away

    def unary(self, rpc: str, request_type: type[Any], answer: Callable[[Any, Call], Awaitable[bytes]]) -> Any:
        """Make the handler of an RPC with one request and one answer."""

        async def handle(raw: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            async def carry_out(identity: Identity, span: Span) -> bytes:
                self._limits.enter(identity.principal)
                try:
                    return await answer(self.parse(raw, request_type), Call(rpc, identity, _deadline(context), span))
                finally:
                    self._limits.leave(identity.principal)

            data: bytes = await self._around(rpc, context, carry_out)
            return data

        return grpc.unary_unary_rpc_method_handler(handle)

    def server_stream(self, rpc: str, request_type: type[Any], answer: Callable[[Any, Call], AsyncGenerator[bytes, None]]) -> Any:
        """Make the handler of an RPC that answers one request with a stream."""

        async def handle(raw: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            async def carry_out(identity: Identity, span: Span) -> None:
                self._limits.enter(identity.principal, stream=True)
                try:
                    request, call = self.parse(raw, request_type), Call(rpc, identity, _deadline(context), span)
                    async with aclosing(answer(request, call)) as messages:
                        async for message in messages:
                            await context.write(message)
                finally:
                    self._limits.leave(identity.principal, stream=True)

            await self._around(rpc, context, carry_out)

        return grpc.unary_stream_rpc_method_handler(handle)

    def two_streams(self, rpc: str, answer: Callable[[Any, Call], AsyncGenerator[bytes, None]]) -> Any:
        """Make the handler of an RPC that answers a stream with a stream. It gets `read()`: the next message's bytes, or None."""

        async def handle(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            async def read() -> bytes | None:
                raw = await context.read()
                return None if raw is grpc.aio.EOF else raw

            async def carry_out(identity: Identity, span: Span) -> None:
                self._limits.enter(identity.principal, stream=True)
                try:
                    async with aclosing(answer(read, Call(rpc, identity, _deadline(context), span))) as messages:
                        async for message in messages:
                            await context.write(message)
                finally:
                    self._limits.leave(identity.principal, stream=True)

            await self._around(rpc, context, carry_out)

        return grpc.stream_stream_rpc_method_handler(handle)

    def parse(self, raw: bytes, request_type: type[Any]) -> Any:
        """Return the message that was sent.

        Raises: Overloaded MESSAGE_TOO_LARGE; InvalidRequest FIELD_MALFORMED, TOO_MANY_ITEMS.
        """
        settings, name = self._settings, request_type.DESCRIPTOR.name
        if settings.message_bytes_max and len(raw) > settings.message_bytes_max:
            message = f"{name} has {len(raw)} bytes, at most {settings.message_bytes_max} may be"
            raise refusal(Reason.REASON_MESSAGE_TOO_LARGE, message, type=name, bytes=len(raw), limit=settings.message_bytes_max)
        try:
            request = request_type.FromString(raw)
        except DecodeError as error:
            raise refusal(Reason.REASON_FIELD_MALFORMED, f"these bytes are no {name}", type=name, bytes=len(raw)) from error
        if settings.batch_length_max and len(raw) > settings.batch_length_max:
            check_lengths(request, settings.batch_length_max)
        return request

    async def _around(
        self, rpc: str, context: grpc.aio.ServicerContext[Any, Any], carry_out: Callable[[Identity, Span], Awaitable[Any]]
    ) -> Any:
        """Carry a call out; whatever happens, its caller gets a clear status, and the log and figures tell of it."""
        started, calls = time.perf_counter(), self._metrics.calls
        error: LedgerError | None = None
        code, principal = "OK", ""

        async def identified(span: Span) -> Any:
            nonlocal principal
            identity = self._authentication.identify(context.invocation_metadata() or (), context.auth_context)
            principal = identity.principal
            return await carry_out(identity, span)

        calls.in_flight += 1
        try:
            if self._tracing is None:
                return await identified(NO_SPAN)
            texts = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
            with self._tracing.span(rpc, texts) as span:
                try:
                    return await identified(span)
                except LedgerError as refused:
                    span.fail(code_of(refused).name)
                    raise
        except LedgerError as refused:
            error, code = refused, code_of(refused).name
        except Expired:
            code = "DEADLINE_EXCEEDED"
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except Exception:  # noqa: BLE001 - logged in full, and told to the caller as our fault
            error, code = self._fault(rpc, principal), "INTERNAL"
        finally:
            calls.in_flight -= 1
            seconds = time.perf_counter() - started
            calls.ended(rpc, code, seconds)
            if _log.isEnabledFor(logging.DEBUG if error is None else _level_of(error)):
                self._tell(rpc, code, principal, error, seconds)
        if error is not None and error.reason == Reason.REASON_STORE_UNAVAILABLE:
            self._store_is_away(error)
        return await _abort(context, error)

    def _fault(self, rpc: str, principal: str) -> LedgerError:
        """Log an exception that nobody expected, under an id that its caller gets too."""
        correlation_id = secrets.token_hex(8)
        self._metrics.fault()
        _log.exception("fault", extra={"rpc": rpc} | _who(principal) | {"correlation_id": correlation_id})
        return internal(correlation_id)

    @staticmethod
    def tell_withheld(call: Call, refusals: Iterable[LedgerError]) -> None:
        """Log the first of the refusals in an answer of which the caller is not told everything: the others are for the same store."""
        error = next((each for each in refusals if for_caller(each) is not each), None)
        if error is not None:
            line = {"rpc": call.rpc, "principal": call.identity.principal, "reason": error.reason_name, "explanation": error.message}
            _log.warning("refused", extra=line)

    @staticmethod
    def _tell(rpc: str, code: str, principal: str, error: LedgerError | None, seconds: float) -> None:
        line = {"rpc": rpc, "code": code, "milliseconds": round(seconds * 1000, 3)}
        if error is None:
            _log.debug("call", extra=line)
        else:
            line |= _who(principal) | {"reason": error.reason_name}
            if for_caller(error) is not error:
                line |= {"explanation": error.message}
            _log.log(_level_of(error), "refused", extra=line)


def _who(principal: str) -> dict[str, str]:
    """Return what a line of the log says of who asked, once that is known."""
    return {"principal": principal} if principal else {}


def _level_of(error: LedgerError) -> int:
    """Return how loud a refusal is told: what is damaged waits for a human."""
    return logging.WARNING if isinstance(error, DataLoss) else logging.INFO


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: LedgerError | None) -> NoReturn:
    if error is None:
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the command was decided; nothing was booked")
    else:
        status = status_of(error)
        await context.abort(code_of(error), status.message, trailing_metadata(status))
    raise AssertionError("abort does not return")


def _deadline(context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    """Return when the caller will have stopped waiting.

    Raises: Expired if that is now.
    """
    left = context.time_remaining()
    if left is None:
        return None
    if left <= 0:
        raise Expired
    return time.monotonic() + left
