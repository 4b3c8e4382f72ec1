"""Networks that lose what matters most: the reply to a COMMIT, or a server's answer, and the connection with it."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

_LENGTH = struct.Struct("!i")


class Proxy(ABC):
    """Passes bytes between clients and a server, piece by piece as `pieces` cuts them, until `loses` says that a piece is lost."""

    def __init__(self, target: str | tuple[str, int], chance: random.Random) -> None:
        """Pass on to a host and port, or to a Unix socket."""
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.chance = chance
        self.losses = 0
        self.calm = False
        """True: nothing more is lost."""

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    @abstractmethod
    def pieces(self, source: socket.socket, *, from_client: bool) -> Iterator[bytes]:
        """Cut what comes from a side into pieces, each lost or passed on as a whole."""

    @abstractmethod
    def loses(self, piece: bytes, *, from_client: bool) -> bool:
        """Tell whether this piece is lost, and the connection with it."""

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = self._connect()
            except OSError:
                client.close()
                continue
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._pass_both_ways, args=(client, server), daemon=True).start()

    def _connect(self) -> socket.socket:
        if isinstance(self._target, tuple):
            return socket.create_connection(self._target)
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(self._target)
        except OSError:
            server.close()
            raise
        return server

    def _pass_both_ways(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            back = threading.Thread(target=self._pass, args=(server, client, False), daemon=True)
            back.start()
            self._pass(client, server, True)
            back.join()

    def _pass(self, source: socket.socket, sink: socket.socket, from_client: bool) -> None:
        with contextlib.suppress(OSError, struct.error):
            for piece in self.pieces(source, from_client=from_client):
                if not self.calm and self.loses(piece, from_client=from_client):
                    self.losses += 1
                    break
                sink.sendall(piece)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class CommitLosingProxy(Proxy):
    """Speaks enough of PostgreSQL's protocol to lose the reply to a COMMIT, or the COMMIT itself, every so often."""

    def __init__(self, target: str | tuple[str, int], chance: random.Random, one_in: int) -> None:
        super().__init__(target, chance)
        self._one_in = one_in
        self.replies_lost = 0

    def pieces(self, source: socket.socket, *, from_client: bool) -> Iterator[bytes]:
        """Cut the stream into messages: a type, a length that counts itself, and content; the first from the client has no type."""
        typeless = from_client
        while True:
            head = _receive(source, 4 if typeless else 5)
            yield head + _receive(source, _LENGTH.unpack(head[-4:])[0] - 4)
            typeless = False

    def loses(self, piece: bytes, *, from_client: bool) -> bool:
        commits = b"COMMIT\0" in piece[5:] and piece[:1] in ((b"Q", b"P") if from_client else (b"C",))
        if not commits or self.chance.randrange(self._one_in):
            return False
        self.replies_lost += not from_client
        return True


class AnswerLosingProxy(Proxy):
    """Loses what a server sends, every so many pieces, and sometimes what a client sends."""

    def __init__(self, target: str | tuple[str, int], chance: random.Random, one_in: int) -> None:
        super().__init__(target, chance)
        self._one_in = one_in

    def pieces(self, source: socket.socket, *, from_client: bool) -> Iterator[bytes]:  # noqa: ARG002
        while piece := source.recv(65_536):
            yield piece

    def loses(self, piece: bytes, *, from_client: bool) -> bool:  # noqa: ARG002
        return not self.chance.randrange(self._one_in * 10 if from_client else self._one_in)


def _receive(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = source.recv(count - len(data))
        if not more:
            raise OSError("the other side is gone")
        data += more
    return data
