"""An HTTP proxy before one node that spoils a share of the calls, by a seed: before they reach it, or their answers after."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import random
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

FAULTS = ("drop", "lose", "delay", "twice", "429", "500", "truncate", "garbage")


class FaultProxy:
    def __init__(self, url: str, share: float, seed: int) -> None:
        self.upstream = urlsplit(url).netloc
        self.chances = random.Random(seed)
        self.share = share
        self.counts = dict.fromkeys(("calls", *FAULTS), 0)
        self.lock = threading.Lock()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                proxy.handle(self)

            def log_message(self, *_words: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def handle(self, request: http.server.BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        with self.lock:
            fault = self.chances.choice(FAULTS) if self.chances.random() < self.share else None
            self.counts["calls"] += 1
            if fault is not None:
                self.counts[fault] += 1
        if fault == "drop":
            request.close_connection = True
            return
        if fault in ("429", "500"):
            self.answer(request, int(fault), b"")
            return
        if fault == "delay":
            time.sleep(0.2)
        if fault == "twice":
            self.forward(body)
        status, answer = self.forward(body)
        if fault == "lose":
            request.close_connection = True
            return
        if fault == "truncate":
            answer = answer[: len(answer) // 2]
        if fault == "garbage":
            answer = b"<html>proxy</html>"
        self.answer(request, status, answer)

    def forward(self, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.upstream, timeout=10)
        try:
            connection.request("POST", "/", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    @staticmethod
    def answer(request: http.server.BaseHTTPRequestHandler, status: int, body: bytes) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


@contextlib.contextmanager
def fault_proxy(url: str, share: float = 0.2, seed: int = 1) -> Iterator[FaultProxy]:
    proxy = FaultProxy(url, share, seed)
    thread = threading.Thread(target=proxy.server.serve_forever, args=[0.05], daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        proxy.server.server_close()
        thread.join()
