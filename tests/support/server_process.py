"""`stockledger serve` as a process, killed and started again on the same address; and a proxy that breaks connections."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any, Self

START_SECONDS = 60


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class ServerProcess:
    """`stockledger serve` over a store, on a port that it keeps when it is started again; settings go by the environment."""

    def __init__(self, store: str, **settings: object) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        settings |= {"store": store, "address": self.address}
        self._environment = os.environ | {f"STOCKLEDGER_{name.upper()}": str(value) for name, value in settings.items()}
        self._process: subprocess.Popen[str] | None = None
        self.told: list[str] = []
        """What it wrote to standard error, all its lives together."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The number of its process, which runs."""
        assert self._process is not None and self._process.poll() is None, "the server is gone"
        return self._process.pid

    def start(self, *, wait: bool = True) -> Self:
        """Start it, and wait until it serves."""
        command = [sys.executable, "-m", "services.cli.main", "serve"]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=self._environment)
        serves = threading.Event()
        threading.Thread(target=self._listen, args=(self._process, serves), daemon=True).start()
        if wait:
            assert serves.wait(START_SECONDS) and self._process.poll() is None, "".join(self.told)
        return self

    def _listen(self, process: subprocess.Popen[str], serves: threading.Event) -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                self.told.append(line)
                if line.startswith("stockledger serves"):
                    serves.set()
        serves.set()

    def kill(self) -> None:
        """Kill it as a power cut would, if it runs, and be sure that it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int:
        """Ask it to stop, and return its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(60)


class Proxy:
    """Stands between a client and a server. It can cut all connections, and swallow answers: booked, and the client does not hear of it."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.swallow = False
        self.swallowed_bytes = 0
        self._frozen: set[socket.socket] = set()
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def freeze(self) -> None:
        """Pass nothing on any more over the connections there are, in either direction, and close nothing: a network that is gone."""
        with self._lock:
            self._frozen |= self._sockets

    def cut(self) -> None:
        """Break every connection, at once."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._to), 1)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                with self._lock:
                    self._sockets |= {near, far}
                threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(65_536):
                if source in self._frozen:
                    continue
                if answers and self.swallow:
                    self.swallowed_bytes += len(data)
                    continue
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for each in (source, sink):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)


def wait_until(condition: Any, seconds: float = 10) -> None:
    """Wait until something holds, and fail if it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.005)
