"""A log in an SQLite file, through the recorder of the eventsourcing library.

The table of entries is the library's own, with text ids, so its tools read our files; the insert is ours: entries and the hash tiles
they complete go in one transaction on a connection kept for writing. One file holds one ledger. A lock on `<file>.lock` keeps a second
writer out early; the primary key (ledger id, version) keeps it out for certain.

We never open the database file ourselves: closing it would drop the POSIX locks that SQLite holds on it in this process.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, unquote

from eventsourcing.persistence import StoredEvent
from eventsourcing.sqlite import (
    SQLiteApplicationRecorder,
    SQLiteConnection,
    SQLiteConnectionPool,
    SQLiteCursor,
    SQLiteDatastore,
)

from ledger.errors import LedgerError, refusal
from ledger.log.backend import RightEdge, Row
from ledger.log.merkle import Tile
from ledger.log.snapshot import fsync_folder
from stockledger.v1.errors_pb2 import Reason

BUSY_TIMEOUT_SECONDS = 5
"""How long a statement waits for another process' transaction before it is refused."""

APPLICATION_ID = 0x73_6C_64_67
"""Marks our files in the SQLite header: "sldg"."""

STORE_VERSION = 1
"""The layout of the tables, in the header's user_version."""

_SYNCHRONOUS_FULL = 2

_TABLES = (
    "CREATE TABLE hash_tiles (level INTEGER, number INTEGER, hashes BLOB, PRIMARY KEY (level, number))",
    "CREATE TABLE checkpoints (size INTEGER PRIMARY KEY, text TEXT)",
    "CREATE TABLE right_edge (id INTEGER PRIMARY KEY CHECK (id = 0), size INTEGER, hashes BLOB)",
)
_SCHEMA = "SELECT rowid, type, name, tbl_name, sql FROM sqlite_master ORDER BY rowid"
_INSERT_ENTRY = "INSERT INTO stored_events VALUES (?,?,?,?)"
ROWS_TOGETHER_MAX = 64
_INSERT_TOGETHER = [_INSERT_ENTRY + ",(?,?,?,?)" * (count - 1) for count in range(ROWS_TOGETHER_MAX + 1)]
"""By the number of entries; the driver keeps as many as 128 statements prepared."""
_INSERT_TILE = "INSERT INTO hash_tiles VALUES (?,?,?)"
_KEEP_RIGHT_EDGE = (
    "INSERT INTO right_edge VALUES (0,?,?)"
    " ON CONFLICT (id) DO UPDATE SET size = excluded.size, hashes = excluded.hashes WHERE excluded.size >= right_edge.size"
)

_WHY_UNAVAILABLE = {
    "SQLITE_BUSY": "it is locked by another process' transaction",
    "SQLITE_LOCKED": "it is locked by another transaction",
    "SQLITE_FULL": "the disk is full",
    "SQLITE_READONLY": "the file or its folder is read-only",
    "SQLITE_CANTOPEN": "the file or its folder cannot be opened",
    "SQLITE_IOERR": "reading or writing the file failed",
    "SQLITE_PERM": "access is not permitted",
    "SQLITE_AUTH": "access is not permitted",
    "SQLITE_NOMEM": "there is no memory left",
    "SQLITE_CONSTRAINT": "the versions are taken",
}
_WHY_CORRUPT = {
    "SQLITE_CORRUPT": "its structure is damaged",
    "SQLITE_NOTADB": "it is not an SQLite file, or its header is damaged",
    "SQLITE_ERROR": "its structure is damaged",
    "SQLITE_SCHEMA": "its structure is damaged",
    "SQLITE_MISMATCH": "its structure is damaged",
    "SQLITE_TOOBIG": "its structure is damaged",
    "SQLITE_FORMAT": "its structure is damaged",
}


_MEMORY_NUMBERS = itertools.count(1)
"""Stores in memory are told apart by these: an object's id is given again when the object is gone."""


class DurablePool(SQLiteConnectionPool):
    """The library's pool, with every connection set to flush at each commit, and closed only when nobody uses it.

    CPython's sqlite3 crashes the interpreter when one thread closes a connection on which another executes, and the library's pool does.
    """

    def close(self) -> None:
        """Close what is idle, and what is in use once it is back; after the time-out the garbage collector gets what is left."""
        with self._put_condition:
            self._put_condition.wait_for(lambda: not self._in_use, timeout=self.pool_timeout)
            self._in_use.clear()
            super().close()

    def _create_connection(self) -> SQLiteConnection:
        connection = super()._create_connection()
        _set_durable(connection.cursor().sqlite_cursor.connection, in_memory=self.is_sqlite_memory_mode)
        return connection


class DurableDatastore(SQLiteDatastore):
    """The library's datastore, with text ids and durable connections."""

    def __init__(self, db_name: str) -> None:
        super().__init__(db_name, originator_id_type="text")
        self.pool.close()
        self.pool = DurablePool(db_name=db_name, lock_timeout=BUSY_TIMEOUT_SECONDS)


class LedgerRecorder(SQLiteApplicationRecorder):
    """The library's application recorder, whose insert also takes the hash tiles that the events complete.

    Notification ids are rowids here, as in the library; nothing of ours uses them.
    """

    def construct_create_table_statements(self) -> list[str]:
        """Give the library's table of events and ours beside it."""
        ours = [statement.replace("CREATE TABLE ", "CREATE TABLE IF NOT EXISTS ", 1) for statement in _TABLES]
        return [*super().construct_create_table_statements(), *ours]

    def _insert_events(
        self, c: SQLiteCursor, stored_events: Sequence[StoredEvent], *, hash_tiles: Sequence[Tile] = (), **_: Any
    ) -> Sequence[int] | None:
        rows = [(str(event.originator_id), event.originator_version, event.topic, event.state) for event in stored_events]
        c.executemany(self.insert_events_statement, rows)
        c.executemany(_INSERT_TILE, hash_tiles)
        last = self._max_notification_id(c) or 0
        return list(range(last - len(rows) + 1, last + 1))


class SqliteBackend:
    """A store in one SQLite file, or in memory."""

    def __init__(self, path: str, url: str, *, read_only: bool, lock: bool = True) -> None:
        self.read_only = read_only
        self.versions = (STORE_VERSION, STORE_VERSION)
        self._url = url
        self._in_memory = path == ":memory:"
        self._uri = _uri(path, self._in_memory, next(_MEMORY_NUMBERS), read_only)
        self._idle: list[sqlite3.Connection] = []
        self._guard = threading.RLock()
        self._closed = False
        self._writer: sqlite3.Connection | None = None
        self._cursor: sqlite3.Cursor | None = None
        """Kept for inserts of one entry: 2 us less than a new one each."""
        self._lock: int | None = None
        try:
            with self._translated():
                if read_only:
                    self._recognise_file(path)
                else:
                    if lock and not self._in_memory:
                        self._lock = _take_lock(path, url)
                    self._writer = self._open_writer()
        except BaseException:
            self.close()
            raise
        self.recorder = LedgerRecorder(DurableDatastore(self._uri))

    @property
    def writer(self) -> sqlite3.Connection:
        """The connection kept for writing; a new one when the last could not even be rolled back."""
        assert not self.read_only, "this store was opened read-only"
        if self._closed:
            raise self._unavailable("it is closed")
        if self._writer is None:
            self._writer = self._open_writer()
        return self._writer

    def extent(self) -> tuple[str | None, int]:
        with self._reader() as connection:
            first, last = connection.execute(
                "SELECT (SELECT MIN(originator_id) FROM stored_events), (SELECT MAX(originator_id) FROM stored_events)"
            ).fetchone()
            if first is None:
                return None, 0
            if first != last or not isinstance(first, str):
                self._corrupt(f"it holds rows of two ledgers, {first!r} and {last!r}")
            version = connection.execute("SELECT MAX(originator_version) FROM stored_events WHERE originator_id = ?", (first,)).fetchone()[
                0
            ]
            if not isinstance(version, int) or version < 1:
                self._corrupt(f"its last version is {version!r}")
            return first, version

    def rows(self, ledger_id: str, first_version: int, last_version: int) -> list[Row]:
        with self._reader() as connection:
            return connection.execute(
                "SELECT originator_version, topic, state FROM stored_events"
                " WHERE originator_id = ? AND originator_version BETWEEN ? AND ? ORDER BY originator_version",
                (ledger_id, first_version, last_version),
            ).fetchall()

    def entries(self, ledger_id: str, first_version: int, last_version: int) -> list[bytes]:  # noqa: ARG002 - a file has one ledger
        with self._reader() as connection:
            # Rows stand where they were appended, the row of each version under its number: a fifth less than by their key.
            found = connection.execute(
                "SELECT state FROM stored_events WHERE rowid BETWEEN ? AND ? AND +originator_version = rowid ORDER BY rowid",
                (first_version, last_version),
            ).fetchall()
        return [entry for (entry,) in found]

    def append(
        self, ledger_id: str, first_version: int, topics: Sequence[str], entries: Sequence[bytes], make_tiles: Callable[[], Sequence[Tile]]
    ) -> None:
        tiles = make_tiles()
        versions = range(first_version, first_version + len(entries))
        if len(entries) <= ROWS_TOGETHER_MAX and not tiles and first_version > 1:
            # One statement is a transaction of its own. The driver lets go of the interpreter in every step, and where another thread is
            # busy it waits each time to get it back: with a step for each row, that was three quarters of a server's flush.
            values = itertools.chain.from_iterable(zip(itertools.repeat(ledger_id), versions, topics, entries, strict=False))
            with self._guard:
                try:
                    writer, cursor = self.writer, self._cursor
                    if cursor is None or cursor.connection is not writer:
                        cursor = self._cursor = writer.cursor()
                    cursor.execute(_INSERT_TOGETHER[len(entries)], tuple(values))
                except sqlite3.Error as error:
                    raise self._translate(error) from error
            return
        with self._transaction() as connection:
            if first_version == 1 and connection.execute("SELECT 1 FROM stored_events LIMIT 1").fetchone():
                # The primary key does not keep two ledgers with different ids out of one file; this does.
                raise self._unavailable("another ledger has begun in it")
            connection.executemany(_INSERT_ENTRY, zip(itertools.repeat(ledger_id), versions, topics, entries, strict=False))
            if tiles:
                connection.executemany(_INSERT_TILE, tiles)

    def tile(self, level: int, number: int) -> bytes | None:
        with self._reader() as connection:
            row = connection.execute("SELECT hashes FROM hash_tiles WHERE level = ? AND number = ?", (level, number)).fetchone()
        if row is not None and type(row[0]) is not bytes:
            self._corrupt(f"hash tile {number} of level {level} is not a blob")
        return row[0] if row else None

    def tile_counts(self) -> dict[int, tuple[int, int]]:
        with self._reader() as connection:
            rows = connection.execute("SELECT level, COUNT(*), MAX(number) FROM hash_tiles GROUP BY level").fetchall()
        if any(type(value) is not int for row in rows for value in row):
            self._corrupt("a hash tile is not numbered by integers")
        return {level: (count, last) for level, count, last in rows}

    def right_edge(self) -> RightEdge | None:
        with self._reader() as connection:
            row = connection.execute("SELECT size, hashes FROM right_edge WHERE id = 0").fetchone()
        if row is None:
            return None
        if type(row[0]) is not int or type(row[1]) is not bytes:
            self._corrupt("the saved right edge has other types")
        return RightEdge(*row)

    def save_checkpoint(self, size: int, text: str, edge: RightEdge) -> None:
        with self._transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO checkpoints VALUES (?,?)", (size, text))
            connection.execute(_KEEP_RIGHT_EDGE, edge)

    def save_right_edge(self, edge: RightEdge) -> None:
        with self._transaction() as connection:
            connection.execute(_KEEP_RIGHT_EDGE, edge)

    def checkpoints(self, limit: int | None) -> list[tuple[int, str]]:
        with self._reader() as connection:
            rows: list[tuple[int, str]] = connection.execute(
                "SELECT size, text FROM checkpoints ORDER BY size DESC LIMIT ?", (-1 if limit is None else limit,)
            ).fetchall()
        for size, text in rows:
            if type(text) is not str:
                self._corrupt(f"the checkpoint of size {size} is not text")
        return rows

    def check(self, size: int) -> None:
        with self._reader() as connection:
            self._check_schema(connection)
            problems = [row[0] for row in connection.execute("PRAGMA integrity_check(10)")]
            if problems != ["ok"]:
                self._corrupt("; ".join(map(str, problems)))
            rows, last = connection.execute(
                "SELECT COUNT(*), MAX(originator_version) FROM stored_events NOT INDEXED"  # the table itself: it must agree with its index
            ).fetchone()
            if rows != (last or 0) or rows < size:
                self._corrupt(f"it holds {rows} rows up to version {last} for {size} entries")

    def close(self) -> None:
        with self._guard:
            self._closed = True
            for connection in (*self._idle, *([self._writer] if self._writer else [])):
                with contextlib.suppress(sqlite3.Error):  # what was durable stays so; there is nothing left to save
                    connection.close()
            self._idle.clear()
            self._writer = self._cursor = None
            if hasattr(self, "recorder"):
                self.recorder.datastore.close()
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def copy_to(self, path: str) -> None:
        """Copy the store to a new file with SQLite's own backup, in one step: of one moment, while it is written.

        Raises: Unavailable STORE_UNAVAILABLE when the file is there already, or cannot be written.
        """
        with self._translated():
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))  # never over another ledger
            try:
                with self._reader() as source, contextlib.closing(sqlite3.connect(path)) as copy:
                    source.backup(copy)
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                fsync_folder(Path(path).absolute().parent)
            except BaseException:
                os.unlink(path)
                raise

    def _open_writer(self) -> sqlite3.Connection:
        connection = self._connect(self._uri)
        try:
            _set_durable(connection, in_memory=self._in_memory)
            connection.execute("BEGIN IMMEDIATE")
            tables = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
            if tables == 0:
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {STORE_VERSION}")
                for statement in _expected_statements():
                    connection.execute(statement)
            else:
                self._recognise(connection)
                # SQLite begins a transaction on a read-only file without complaint; only a write tells. This one changes nothing.
                connection.execute(f"PRAGMA user_version = {STORE_VERSION}")
            connection.execute("COMMIT" if tables == 0 else "ROLLBACK")
        except BaseException:
            connection.close()
            raise
        return connection

    def _recognise_file(self, path: str) -> None:
        if self._in_memory:
            raise refusal(Reason.REASON_FIELD_MALFORMED, "a store in memory cannot be opened read-only", field="store")
        if not os.path.exists(path):
            raise refusal(Reason.REASON_LEDGER_NOT_FOUND, f"{self._url}: there is no such file", expected=self._url, found="nothing")
        with self._reader() as connection:
            if connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0] == 0:
                raise refusal(Reason.REASON_LEDGER_NOT_FOUND, f"{self._url}: the file is empty", expected=self._url, found="nothing")
            self._recognise(connection)

    def _recognise(self, connection: sqlite3.Connection) -> None:
        """Refuse an SQLite file that is not ours, or is of a layout we do not know."""
        application_id = connection.execute("PRAGMA application_id").fetchone()[0]
        if application_id != APPLICATION_ID:
            raise refusal(
                Reason.REASON_LEDGER_NOT_FOUND,
                f"{self._url} is an SQLite file of another application (id {application_id:#010x}, not {APPLICATION_ID:#010x})",
                expected=f"{APPLICATION_ID:#010x}",
                found=f"{application_id:#010x}",
            )
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version != STORE_VERSION:
            raise refusal(
                Reason.REASON_LEDGER_NOT_FOUND,
                f"{self._url} has store version {version}; this program knows {STORE_VERSION}",
                expected=STORE_VERSION,
                found=version,
            )
        self._check_schema(connection)

    def _check_schema(self, connection: sqlite3.Connection) -> None:
        if connection.execute(_SCHEMA).fetchall() != _expected_schema():
            self._corrupt("its tables are not those of a ledger")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Run one transaction on the writer's connection; whatever goes wrong, none is left open."""
        with self._guard, self._translated():
            connection = self.writer
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                self._roll_back(connection)
                raise

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._writer = None
            connection.close()

    @contextlib.contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection for one short read; in memory there is only the writer's."""
        with self._translated():
            if self._in_memory:
                with self._guard:
                    yield self.writer
                return
            with self._guard:
                if self._closed:
                    raise self._unavailable("it is closed")
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                connection = self._open_reader()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            with self._guard:
                if self._closed:
                    connection.close()
                else:
                    self._idle.append(connection)

    def _open_reader(self) -> sqlite3.Connection:
        uri = self._uri.replace("mode=rwc", "mode=ro")
        connection = self._connect(uri)
        try:
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            connection.close()
            if not self.read_only or _primary(error) not in ("SQLITE_CANTOPEN", "SQLITE_READONLY"):
                raise
            return self._open_immutable(uri, error)
        return connection

    def _open_immutable(self, uri: str, error: sqlite3.OperationalError) -> sqlite3.Connection:
        """Read a file in a folder where SQLite cannot make its index of the write-ahead log: sound only when that log is empty."""
        path = _path_of(uri)
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path + "-wal").st_size > 0:
                raise error
        os.stat(path)
        return self._connect(uri + "&immutable=1")

    def _connect(self, uri: str) -> sqlite3.Connection:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_SECONDS)
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute("PRAGMA trusted_schema = OFF")
        return connection

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the errors of SQLite and of the operating system into ours."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._translate(error) from error
        except UnicodeDecodeError as error:
            raise refusal(Reason.REASON_LOG_CORRUPT, f"{self._url}: a text is not UTF-8", store=self._url) from error
        except OSError as error:
            raise self._unavailable(error.strerror or str(error)) from error

    def _translate(self, error: sqlite3.Error) -> LedgerError:
        code = _primary(error)
        if code in _WHY_UNAVAILABLE:
            return self._unavailable(f"{_WHY_UNAVAILABLE[code]} ({error})")
        if code in _WHY_CORRUPT or "decode to UTF-8" in str(error):
            why = _WHY_CORRUPT.get(code, "a text in it is not UTF-8")
            return refusal(Reason.REASON_LOG_CORRUPT, f"{self._url}: {why} ({error})", store=self._url)
        return self._unavailable(str(error))

    def _unavailable(self, why: str) -> LedgerError:
        return refusal(Reason.REASON_STORE_UNAVAILABLE, f"{self._url} cannot be used: {why}", store=self._url)

    def _corrupt(self, what: str) -> NoReturn:
        raise refusal(Reason.REASON_LOG_CORRUPT, f"{self._url}: {what}", store=self._url)


def _set_durable(connection: sqlite3.Connection, *, in_memory: bool) -> None:
    """Set what durability rests on, and read it back: SQLite answers an unknown or refused setting with silence."""
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    assert mode == "memory" if in_memory else mode == "wal", f"journal mode {mode}"
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")  # on macOS a plain fsync does not reach the medium
    synchronous = connection.execute("PRAGMA synchronous").fetchone()[0]
    assert synchronous == _SYNCHRONOUS_FULL, f"synchronous {synchronous}"


def _expected_statements() -> list[str]:
    """Give the statements that make a store, as SQLite keeps them."""
    events = (
        "CREATE TABLE stored_events (originator_id TEXT, originator_version INTEGER, topic TEXT, state BLOB, "
        "PRIMARY KEY (originator_id, originator_version))"
    )
    return [events, *_TABLES]


@functools.cache
def _expected_schema() -> list[tuple[int, str, str, str, str | None]]:
    """Give what SQLite's own catalogue says of a new store, all but the pages."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for statement in _expected_statements():
            connection.execute(statement)
        return connection.execute(_SCHEMA).fetchall()


def _uri(path: str, in_memory: bool, number: int, read_only: bool) -> str:
    if in_memory:
        return f"file:stockledger-{os.getpid()}-{number}?mode=memory&cache=shared"
    return f"file:{quote(os.path.abspath(path))}?mode={'ro' if read_only else 'rwc'}"


def _path_of(uri: str) -> str:
    return unquote(uri.removeprefix("file:").partition("?")[0])


def _primary(error: sqlite3.Error) -> str:
    """Give the name of the primary result code: SQLITE_IOERR for SQLITE_IOERR_FSYNC."""
    name: str = getattr(error, "sqlite_errorname", None) or ""
    return "_".join(name.split("_")[:2])


def _take_lock(path: str, url: str) -> int:
    """Become the writer of a file for as long as the descriptor stays open, across crashes of any kind."""
    if not Path(path).absolute().parent.is_dir():
        raise refusal(Reason.REASON_STORE_UNAVAILABLE, f"{url} cannot be used: its folder does not exist", store=url)
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise refusal(
            Reason.REASON_STORE_UNAVAILABLE,
            f"{url}: another process (pid {holder}) writes this ledger; open it read-only",
            store=url,
            pid=holder,
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
