"""A proxy before a node that answers what a test says: the node's own answer, changed, or none."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, bytes, dict[str, str]]
Fault = Callable[[dict[str, Any], bytes], Reply | None]
"""(request, the node's answer) -> status, body, headers; None: drop the connection."""


class ScriptedProxy:
    """Faults are used up in order, one a request; then the node's answers pass."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.requests: list[dict[str, Any]] = []
        self.url = ""

    def reply(self, body: bytes) -> Reply | None:
        request = json.loads(body)
        self.requests.append(request)
        with urllib.request.urlopen(
            urllib.request.Request(self.target, body, {"content-type": "application/json"}), timeout=30
        ) as response:
            answer = response.read()
        fault = self.faults.pop(0) if self.faults else self.always
        return fault(request, answer) if fault else (200, answer, {})


@contextlib.contextmanager
def scripted_proxy(target: str) -> Iterator[ScriptedProxy]:
    proxy = ScriptedProxy(target)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            reply = proxy.reply(self.rfile.read(int(self.headers["content-length"])))
            if reply is None:
                self.connection.close()
                return
            status, body, headers = reply
            self.send_response(status)
            for name, value in {"content-type": "application/json", "content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
