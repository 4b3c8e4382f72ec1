"""An end for every wait: a server that hangs, or whose synchronous standby is away, holds nobody for ever.

PostgreSQL's own `statement_timeout` does not count the wait for a standby at COMMIT, and a connection whose other side is frozen looks
sound to TCP. So the client keeps the time: it asks the server to cancel, and if that does not help, cuts the connection.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg

LOOK_SECONDS = 0.2
CUT_SECONDS = 2
"""How long a server has to cancel before the connection is cut."""


class Deadlines:
    """Watches what is under way on connections, in a thread that sleeps while nothing is."""

    def __init__(self) -> None:
        self._ends: dict[psycopg.Connection[Any], float] = {}
        self._asked: dict[psycopg.Connection[Any], float] = {}
        self._work = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False

    @contextlib.contextmanager
    def within(self, connection: psycopg.Connection[Any], seconds: float) -> Iterator[None]:
        """Do something on a connection; after that many seconds it ends with an error, or a COMMIT with a warning."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="stockledger-deadlines", daemon=True)
            self._thread.start()
        outer = self._ends.get(connection)
        self._ends[connection] = time.monotonic() + seconds
        if not self._work.is_set():
            self._work.set()
        try:
            yield
        finally:
            if outer is None:
                del self._ends[connection]
            else:
                self._ends[connection] = outer

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._work.set()

    def _watch(self) -> None:
        while not self._closed:
            self._work.wait()
            if not self._ends:
                self._work.clear()
                if not self._ends:  # nothing came between the two
                    continue
                self._work.set()
            time.sleep(LOOK_SECONDS)
            now = time.monotonic()
            ends = self._ends.copy()
            self._asked = {connection: at for connection, at in self._asked.items() if ends.get(connection, now) < now}
            for connection, end in ends.items():
                if end < now:
                    self._end(connection, now)

    def _end(self, connection: psycopg.Connection[Any], now: float) -> None:
        asked = self._asked.get(connection)
        if asked is None:
            self._asked[connection] = now
            with contextlib.suppress(psycopg.Error, OSError):
                connection.cancel_safe(timeout=1)
        elif now - asked > CUT_SECONDS:
            with contextlib.suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as cut:
                cut.shutdown(socket.SHUT_RDWR)
