"""A proxy between an adapter and its node that breaks calls: what a network, a load balancer or a provider does on a bad day.

    refuse      the connection closes before the node has heard anything
    lose        the node has done it, and the answer is lost
    repeat      the node hears it twice
    delay       the answer comes late
    limit       429, with Retry-After
    fail        500
    cut         200, and half of the answer

    with FaultProxy("http://127.0.0.1:8545", share=0.2, seed=1) as proxy: adapter = rig.connect(proxy.url)

For HTTP with bodies of known length, as JSON-RPC is. Whether it breaks a call is drawn from a generator with a seed, so that a failure of
a test comes back.
"""

from __future__ import annotations

import http.client
import random
import socket
import sys
import threading
import time
import urllib.parse
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

FAULTS: Final = ("refuse", "lose", "repeat", "delay", "limit", "fail", "cut")
UPSTREAM_SECONDS: Final = 30.0


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Tell of faults of our own, and not of clients that are gone: a worker that is killed is one."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class FaultProxy:
    """Forwards POST requests, and breaks a share of them. `told` counts what was done to them."""

    def __init__(
        self, upstream: str, *, share: float = 0.2, seed: int = 0, faults: Sequence[str] = FAULTS, delay_seconds: float = 0.05
    ) -> None:
        parts = urllib.parse.urlsplit(upstream)
        assert parts.hostname is not None
        self._upstream = (parts.hostname, parts.port or 80)
        self.share = share
        self.faults = tuple(faults)
        self.delay_seconds = delay_seconds
        self.told: Counter[str] = Counter()
        self._chance = random.Random(seed)  # noqa: S311 - which calls to break is no secret
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def do_POST(self) -> None:
                proxy.handle(self)

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class names it so
                """Tell nobody."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """Forward one request, as its fault lets it through."""
        body = request.rfile.read(int(request.headers.get("Content-Length", "0")))
        fault = self._draw()
        if fault == "refuse":
            return self._hang_up(request)
        if fault in ("limit", "fail"):
            return self._answer(request, 429 if fault == "limit" else 500, "application/json", b'{"error":"fault"}')
        try:
            status, kind, answer = self._forward(request.path, body)
            if fault == "repeat":
                status, kind, answer = self._forward(request.path, body)
        except (OSError, http.client.HTTPException):
            return self._hang_up(request)
        if fault == "lose":
            return self._hang_up(request)
        if fault == "delay":
            time.sleep(self.delay_seconds)
        return self._answer(request, status, kind, answer[: len(answer) // 2] if fault == "cut" else answer)

    def _draw(self) -> str:
        with self._lock:
            fault = self._chance.choice(self.faults) if self._chance.random() < self.share else ""
            self.told[fault or "forwarded"] += 1
        return fault

    def _forward(self, path: str, body: bytes) -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection(*self._upstream, timeout=UPSTREAM_SECONDS)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.getheader("Content-Type", "application/json"), response.read()
        finally:
            connection.close()

    def _answer(self, request: BaseHTTPRequestHandler, status: int, kind: str, body: bytes) -> None:
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body)))
        if status == http.client.TOO_MANY_REQUESTS:
            request.send_header("Retry-After", "0")
        request.end_headers()
        request.wfile.write(body)

    def _hang_up(self, request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        request.connection.shutdown(socket.SHUT_RDWR)
