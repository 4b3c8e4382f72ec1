"""A server: built from a ledger and settings, started, and stopped without losing anything it accepted.

server = await Server.start(books, ServerSettings())
...
await server.stop()
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

import grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_SERVICE  # type: ignore[import-untyped]
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server  # type: ignore[import-untyped]
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as REFLECTION_SERVICE  # type: ignore[import-untyped]
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server  # type: ignore[import-untyped]

from ledger.errors import LedgerError
from ledger.leadership import Leadership
from services.grpc_server.authentication import Authentication
from services.grpc_server.certificates import CertificateFiles
from services.grpc_server.group_commit import GroupCommit
from services.grpc_server.interceptors import Gate
from services.grpc_server.limits import Limits
from services.grpc_server.open_calls import Health, Reflection
from services.grpc_server.page_tokens import PageTokens
from services.grpc_server.servicers import AllServices, Servicers
from services.grpc_server.settings_check import ServerSettingsError, check_settings, refuse
from services.grpc_server.streams import Growth, Streams
from services.observability import LOGGER, Metrics, tracing_if_installed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger import Ledger
    from services.grpc_server.settings import ServerSettings

LOOK_SECONDS: Final = 0.05
"""How often the size of the log is looked at, for what others in this process have booked."""
PROBE_SECONDS: Final = 2
CONNECTION_AGE_GRACE_SECONDS: Final = 60
STREAMS_PER_CONNECTION_MAX: Final = 1_024
METADATA_BYTES_MAX: Final = 16_384
KEEPALIVE_TIMEOUT_MS: Final = 10_000
"""How long a sign of life may take. gRPC waits 60 s for the answer to a ping that had another cause, unless told the same for all pings."""
KEEPALIVE_NEVER_MS: Final = 2**31 - 1
"""What gRPC takes for never; told nothing, a server asks after two hours."""
LEADER_SERVICE: Final = "stockledger.leader"
"""The name under which health tells whether this server leads: a balancer that asks for it sends commands to the leader alone."""

_log = logging.getLogger(f"{LOGGER}.server")


class Server:
    """A running server; the ledger stays its owner's to close."""

    def __init__(self, books: Ledger, settings: ServerSettings, sources: Mapping[str, str]) -> None:
        """Use `Server.start`."""
        self._settings = settings
        self._sources = sources
        self._books = books
        local = check_settings(settings, sources)
        self.metrics = Metrics()
        self._growth = Growth()
        self._limits = Limits(settings)
        self._readers = ThreadPoolExecutor(settings.reader_threads, thread_name_prefix="stockledger-reader")
        self._commits = GroupCommit(books, self.metrics, self._on_flush)
        self._away = False
        self._looked_for_it_at = 0.0
        self._told_size = books.size
        self.leadership = Leadership(books, lag_seconds_max=settings.read_lag_seconds_max)
        self._told_leading: bool | None = None
        gate = Gate(
            settings=settings,
            authentication=Authentication(settings, local=local),
            limits=self._limits,
            metrics=self.metrics,
            tracing=tracing_if_installed() if settings.tracing else None,
            store_is_away=self._on_store_away,
        )
        operators = frozenset(settings.operators) | ({settings.local_operator} if local and settings.local_operator else set())
        self.streams = Streams(
            books=books,
            commits=self._commits,
            readers=self._readers,
            limits=self._limits,
            operators=operators,
            settings=settings,
            growth=self._growth,
            leadership=self.leadership,
        )
        servicers = Servicers(
            books=books,
            gate=gate,
            commits=self._commits,
            readers=self._readers,
            page_tokens=PageTokens(settings.page_token_secret),
            operators=operators,
            streams=self.streams,
            leadership=self.leadership,
        )
        handlers = servicers.handlers()
        self._service_names = ["", *handlers]
        self._server = grpc.aio.server(options=_options(settings))
        self._server.add_generic_rpc_handlers((AllServices(handlers),))
        self._health = Health([*self._service_names, LEADER_SERVICE], self.metrics.calls)
        add_HealthServicer_to_server(self._health, self._server)
        self._reflection = Reflection([*handlers, HEALTH_SERVICE, REFLECTION_SERVICE], self.metrics.calls)
        if settings.reflection:
            add_ServerReflectionServicer_to_server(self._reflection, self._server)
        self.port = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._metrics_server: Any = None

    @classmethod
    async def start(cls, books: Ledger, settings: ServerSettings, sources: Mapping[str, str] | None = None) -> Self:
        """Start to answer. `sources` says where each setting came from, if that is known.

        Raises: ServerSettingsError, also where an address or port cannot be had.
        """
        server = cls(books, settings, sources or {})
        try:
            server._tell_figures()
            server.port = server._listen()
        except ServerSettingsError:
            await server._let_go()
            raise
        server.leadership.start(settings.advertised_address or _reachable(settings.address, server.port))
        server._tell_health(serving=True)
        server._tell_leading()
        await server._server.start()
        server._run(server._look())
        _log.info("serving", extra={"port": server.port, "ledger": books.ledger_id, "size": books.size})
        return server

    def _listen(self) -> int:
        settings = self._settings
        try:
            if not settings.tls_certificate:
                return self._server.add_insecure_port(settings.address)
            return self._server.add_secure_port(settings.address, CertificateFiles(settings).credentials())
        except RuntimeError as error:
            raise refuse(settings, self._sources, "address", "an address of this machine that is free") from error

    def _tell_figures(self) -> None:
        books, leadership = self._books, self.leadership
        self.metrics.standing(lambda: books.size, lambda: leadership.leads, lambda: leadership.lag_seconds)
        if self._settings.metrics_port:
            try:
                self._metrics_server = self.metrics.serve(self._settings.metrics_port)
            except OSError as error:
                expected = f"a port on loopback that can be had ({error.strerror})"
                raise refuse(self._settings, self._sources, "metrics_port", expected) from error

    async def stop(self) -> None:
        """Take nothing new, finish what was accepted, and let go. Streams end with UNAVAILABLE, and are resumed elsewhere or later."""
        self._growth.stop()
        self._health.stop()
        self._reflection.stop()
        await self._server.stop(self._settings.stop_seconds)
        for task in list(self._tasks):
            task.cancel()
        await self._let_go()
        _log.info("stopped", extra={"size": self._books.size})

    async def _let_go(self) -> None:
        """End the threads, once the writer has carried out what it was given."""
        await self._commits.stop()
        await asyncio.get_running_loop().run_in_executor(None, self.leadership.stop)
        self._readers.shutdown(wait=True, cancel_futures=True)
        self.streams.origin_index.close()
        if self._metrics_server is not None:
            self._metrics_server.shutdown()
            self._metrics_server.server_close()

    # ---- what goes on beside the calls ----------------------------------------------------------------------------------------------

    def _run(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self) -> None:
        """Tell the streams when somebody else has booked something, and whoever asks for our health when we lead, follow or cannot."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self._books.size != self._told_size:
                self._tell_streams()
            if self.leadership.leads != self._told_leading:
                self._tell_leading()
            late = self.leadership.is_late
            if self.leadership.leads:
                await self._look_for_the_store()
            elif late != self._away:
                self._away = late
                self._tell_health(serving=not late)

    async def _look_for_the_store(self) -> None:
        """Serve again once a store that was away can be read: a balancer that sends nothing here would never let us find out."""
        now = time.monotonic()
        if not self._away or now - self._looked_for_it_at < PROBE_SECONDS:
            return
        self._looked_for_it_at = now
        with suppress(LedgerError):
            await asyncio.get_running_loop().run_in_executor(self._readers, self._books.log.backend.extent)
            self._away = False
            self._tell_health(serving=True)

    def _tell_streams(self) -> None:
        self._told_size = self._books.size
        self._growth.tell()

    def _on_flush(self) -> None:
        """After every group: the streams have something to send, and a store that was away is back once something was booked."""
        if self._books.size != self._told_size:
            self._tell_streams()
            if self._away:
                self._away = False
                self._tell_health(serving=True)

    def _on_store_away(self, error: LedgerError) -> None:
        if not self._away and not self._growth.stopping:
            self._away, self._looked_for_it_at = True, time.monotonic()
            _log.warning("store away", extra={"explanation": error.message})
            self._tell_health(serving=False)

    def _tell_leading(self) -> None:
        leads = self._told_leading = self.leadership.leads
        self._health.tell(LEADER_SERVICE, serving=leads)
        if leads:  # whatever kept a follower from reading is over
            self._away = False
            self._tell_health(serving=True)

    def _tell_health(self, *, serving: bool) -> None:
        for name in self._service_names:
            self._health.tell(name, serving=serving)


def _reachable(address: str, port: int) -> str:
    """Return where clients reach a server that listens on an address: this machine's name where it listens on all of them."""
    host = address.rpartition(":")[0]
    return f"{socket.getfqdn() if host.strip('[]') in ('', '0.0.0.0', '::') else host}:{port}"  # noqa: S104 - it is asked, not bound


def _options(settings: ServerSettings) -> list[tuple[str, Any]]:
    """Return what the transport is told. Twice the largest message is let through, so that one too large is refused with details."""
    largest = settings.message_bytes_max * 2 if settings.message_bytes_max else -1
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", largest),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_time_ms", settings.keepalive_seconds * 1000 or KEEPALIVE_NEVER_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ]
    if settings.connection_age_seconds:
        options += [
            ("grpc.max_connection_age_ms", settings.connection_age_seconds * 1000),
            ("grpc.max_connection_age_grace_ms", CONNECTION_AGE_GRACE_SECONDS * 1000),
        ]
    return options
