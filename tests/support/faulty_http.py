"""A JSON-RPC server that misbehaves as told, over real sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator

Behaviour = Callable[[socket.socket, dict], None]


def answer_raw(status: str, body: bytes, *headers: str, length: int | None = None) -> Behaviour:
    """Answer with any status and bytes; `length` says another length than theirs."""

    def behave(connection: socket.socket, _request: dict) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers, "", ""]
        connection.sendall("\r\n".join(lines).encode() + body)
        if length is not None and length > len(body):
            connection.shutdown(socket.SHUT_RDWR)

    return behave


def answer(result: object) -> Behaviour:
    """Answer as a node that works."""

    def behave(connection: socket.socket, request: dict) -> None:
        answer_raw("200 OK", json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode())(connection, request)

    return behave


def answer_error(code: int, message: str = "no", data: object = None) -> Behaviour:
    """Answer with a JSON-RPC error."""

    def behave(connection: socket.socket, request: dict) -> None:
        error = {"code": code, "message": message, "data": data}
        answer_raw("200 OK", json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": error}).encode())(connection, request)

    return behave


def hang_up(connection: socket.socket, _request: dict) -> None:
    connection.shutdown(socket.SHUT_RDWR)


class FaultyServer:
    """Takes one behaviour after another, the last one for ever."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/?api-key=SECRET"
        self.behaviours: list[Behaviour] = []
        self.requests: list[dict] = []
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while not self.ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as lines:
            while lines.readline():
                length = 0
                while (line := lines.readline()) not in (b"\r\n", b""):
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                request = json.loads(lines.read(length))
                self.requests.append(request)
                behaviour = self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]
                behaviour(connection, request)

    def close(self) -> None:
        self.ended.set()
        self._listener.close()


@contextlib.contextmanager
def faulty_server() -> Iterator[FaultyServer]:
    server = FaultyServer()
    try:
        yield server
    finally:
        server.close()
