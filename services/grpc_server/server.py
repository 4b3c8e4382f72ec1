"""A server: built from a ledger and settings, started, and stopped without losing anything it accepted.

server = await Server.start(books, ServerSettings())
...
await server.stop()
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

import grpc
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]
from grpc_health.v1.health import SERVICE_NAME as HEALTH_SERVICE  # type: ignore[import-untyped]
from grpc_health.v1.health import aio as health_aio
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from ledger.errors import LedgerError
from ledger.leadership import Leadership
from services.grpc_server.authentication import Authentication
from services.grpc_server.certificates import CertificateFiles
from services.grpc_server.group_commit import GroupCommit
from services.grpc_server.interceptors import Gate
from services.grpc_server.limits import Limits
from services.grpc_server.page_tokens import PageTokens
from services.grpc_server.servicers import AllServices, Servicers
from services.grpc_server.streams import Growth, Streams
from services.observability import LOGGER, Metrics, tracing_if_installed
from services.settings import SettingsError

if TYPE_CHECKING:
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
LEADER_SERVICE: Final = "stockledger.leader"
"""The name under which health tells whether this server leads: a balancer that asks for it sends commands to the leader alone."""

_log = logging.getLogger(f"{LOGGER}.server")


class ServerSettingsError(SettingsError):
    """The settings of a server do not go together, or cannot be had; the message says which."""


def is_loopback(address: str) -> bool:
    """Return whether an address to listen on can be reached from this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)} if host else set()
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(str(each).partition("%")[0]).is_loopback for each in found)


def check_settings(settings: ServerSettings) -> bool:
    """Return whether the listener is local: on loopback, without TLS.

    Raises: ServerSettingsError where a setting would leave a door open, or does nothing.
    """
    tls = bool(settings.tls_certificate)
    if tls != bool(settings.tls_private_key):
        raise ServerSettingsError("tls_certificate and tls_private_key go together")
    if settings.tls_client_authorities and not tls:
        raise ServerSettingsError("tls_client_authorities needs tls_certificate")
    if not tls and not is_loopback(settings.address):
        raise ServerSettingsError(f"{settings.address} can be reached from other machines: set tls_certificate and tls_private_key")
    if settings.token_keys and not (settings.token_issuer and settings.token_audience):
        raise ServerSettingsError("token_keys needs token_issuer and token_audience: a token for somebody else must not hold here")
    if tls and not (settings.tls_client_authorities or settings.token_keys):
        raise ServerSettingsError("with TLS somebody must be let in: set tls_client_authorities, token_keys, or both")
    if tls and settings.local_principals:
        raise ServerSettingsError("local_principals is for loopback without TLS")
    return not tls


class Server:
    """A running server; the ledger stays its owner's to close."""

    def __init__(self, books: Ledger, settings: ServerSettings) -> None:
        """Use `Server.start`."""
        self._settings = settings
        self._books = books
        local = check_settings(settings)
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
        streams = Streams(
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
            streams=streams,
            leadership=self.leadership,
        )
        handlers = servicers.handlers()
        self._service_names = ["", *handlers]
        self._server = grpc.aio.server(options=_options(settings))
        self._server.add_generic_rpc_handlers((AllServices(handlers),))
        self._health = health_aio.HealthServicer()
        add_HealthServicer_to_server(self._health, self._server)
        if settings.reflection:
            names = [*handlers, HEALTH_SERVICE, reflection.SERVICE_NAME]
            reflection.enable_server_reflection(names, self._server)
        self.port = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._metrics_server: Any = None

    @classmethod
    async def start(cls, books: Ledger, settings: ServerSettings) -> Self:
        """Start to answer.

        Raises: ServerSettingsError; OSError where the address cannot be had.
        """
        server = cls(books, settings)
        try:
            server.port = server._listen()
        except RuntimeError as error:
            await server._commits.stop()
            raise OSError(f"{settings.address} cannot be listened on") from error
        if settings.metrics_port:
            server._metrics_server = server.metrics.serve(settings.metrics_port)
        server.leadership.start(settings.advertised_address or _reachable(settings.address, server.port))
        server.metrics.standing(lambda: server.leadership.leads, lambda: server.leadership.lag_seconds)
        await server._server.start()
        await server._tell_health(serving=True)
        await server._tell_leading()
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
            raise ServerSettingsError(f"cannot listen on {settings.address}: it is taken, or not an address of this machine") from error

    async def stop(self) -> None:
        """Take nothing new, finish what was accepted, and let go. Streams end with UNAVAILABLE, and are resumed elsewhere or later."""
        self._growth.stop()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(self._settings.stop_seconds)
        for task in list(self._tasks):
            task.cancel()
        await self._commits.stop()
        await asyncio.get_running_loop().run_in_executor(None, self.leadership.stop)
        self._readers.shutdown(wait=True, cancel_futures=True)
        if self._metrics_server is not None:
            self._metrics_server.shutdown()
            self._metrics_server.server_close()
        _log.info("stopped", extra={"size": self._books.size})

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
                await self._tell_leading()
            late = self.leadership.is_late
            if self.leadership.leads:
                await self._look_for_the_store()
            elif late != self._away:
                self._away = late
                await self._tell_health(serving=not late)

    async def _look_for_the_store(self) -> None:
        """Serve again once a store that was away can be read: a balancer that sends nothing here would never let us find out."""
        now = time.monotonic()
        if not self._away or now - self._looked_for_it_at < PROBE_SECONDS:
            return
        self._looked_for_it_at = now
        with suppress(LedgerError):
            await asyncio.get_running_loop().run_in_executor(self._readers, self._books.log.backend.extent)
            self._away = False
            await self._tell_health(serving=True)

    def _tell_streams(self) -> None:
        self._told_size = self._books.size
        self._growth.tell()

    def _on_flush(self) -> None:
        """After every group: the streams have something to send, and a store that was away is back once something was booked."""
        if self._books.size != self._told_size:
            self._tell_streams()
            if self._away:
                self._away = False
                self._run(self._tell_health(serving=True))

    def _on_store_away(self, error: LedgerError) -> None:
        if not self._away and not self._growth.stopping:
            self._away, self._looked_for_it_at = True, time.monotonic()
            _log.warning("store away", extra={"text": error.message})
            self._run(self._tell_health(serving=False))

    async def _tell_leading(self) -> None:
        leads = self._told_leading = self.leadership.leads
        await self._health.set(LEADER_SERVICE, _status(serving=leads))
        if leads:  # whatever kept a follower from reading is over
            self._away = False
            await self._tell_health(serving=True)

    async def _tell_health(self, *, serving: bool) -> None:
        for name in self._service_names:
            await self._health.set(name, _status(serving=serving))


def _status(*, serving: bool) -> Any:
    return health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING


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
    ]
    if settings.keepalive_seconds:
        options += [
            ("grpc.keepalive_time_ms", settings.keepalive_seconds * 1000),
            ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
            ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ]
    if settings.connection_age_seconds:
        options += [
            ("grpc.max_connection_age_ms", settings.connection_age_seconds * 1000),
            ("grpc.max_connection_age_grace_ms", CONNECTION_AGE_GRACE_SECONDS * 1000),
        ]
    return options
