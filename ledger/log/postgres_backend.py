"""A log in PostgreSQL, in tables of the eventsourcing library's recorder.

    postgresql://user@host/database?ledger=acme

Each ledger has a schema of its own, so that neither its lock nor its vacuum touches another's. The table of entries is the library's,
with text ids, so its tools read our ledgers; the insert is ours: one COPY of the entries and one of the hash tiles they complete, in one
transaction under the library's table lock.

Who leads holds an advisory lock in the session that he writes with: a lost connection is a lost lead. That is only speed; the primary key
(ledger id, version) keeps a second writer out for certain.

After a COMMIT without a clean answer, and where PostgreSQL gave up waiting for a synchronous standby (it then commits all the same, with
no more than a warning), nothing is read before a later commit has had a clean one: the server's log is written in order, so that one
carries all before it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, LiteralString, NamedTuple, NoReturn
from urllib.parse import unquote

import psycopg
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from ledger.errors import LedgerError, refusal
from ledger.log.backend import RightEdge, Row
from ledger.log.merkle import Tile
from ledger.log.store_url import redact_url
from stockledger.v1.errors_pb2 import Reason

BUSY_TIMEOUT_SECONDS = 5
"""How long a statement waits for another session's lock, and a connection for its server, before it is refused."""

STORE_VERSION = 1
"""The layout of the tables, in the row of the table `store`."""

SERVER_VERSION_MIN = 140_000
"""13 is the first to vacuum a table for its inserts, 14 the first that can be waited for when it ends a session."""

_LEDGER_ID = re.compile(r"[A-Za-z0-9._/-]{1,64}")
_IDENTIFIER_BYTES_MAX = 63
_LEAD_ATTEMPTS = 3

# Found by TCP within seconds when the other side is gone without a word. What the URL says comes first.
_CONNECTION_DEFAULTS = {
    "connect_timeout": BUSY_TIMEOUT_SECONDS,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
    "client_encoding": "utf8",
}

# A session keeps these whatever its role or database is set to. A writer that was stopped in the middle must not hold the lock for ever.
_SESSION = (
    "SET search_path = pg_catalog",
    "SET default_transaction_isolation = 'read committed'",
    "SET statement_timeout = 0",
    f"SET lock_timeout = '{BUSY_TIMEOUT_SECONDS}s'",
    "SET idle_in_transaction_session_timeout = '10s'",
    "SET tcp_keepalives_idle = 2",
    "SET tcp_keepalives_interval = 1",
    "SET tcp_keepalives_count = 3",
)

_SAFE_SETTINGS: dict[str, tuple[str, ...]] = {
    "synchronous_commit": ("on", "remote_apply"),
    "fsync": ("on",),
    "full_page_writes": ("on",),
    "zero_damaged_pages": ("off",),
    "ignore_checksum_failure": ("off",),
}
"""With any other value a commit is answered before it is on disk here and on the synchronous standbys, or damage is read as if sound."""

_DURABLE_SETTINGS = ("synchronous_commit", "fsync", "full_page_writes")
"""Those that a reload of the server's configuration may change under a session: read again in every append."""

# Nothing is ever updated or deleted: vacuum comes for the inserts, often, so that each time it has little to do, and freezes at once, so
# that no pass over the whole table is ever due. It takes the lock that an append needs, and gives way to it.
_STORAGE = """ WITH (
    autovacuum_vacuum_insert_threshold = 200000, autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_cost_delay = 0,
    autovacuum_freeze_min_age = 0, autovacuum_analyze_threshold = 200000, autovacuum_analyze_scale_factor = 0)"""

_CREATE = (
    "CREATE TABLE {schema}.stored_events (originator_id text NOT NULL, originator_version bigint NOT NULL, topic text, state bytea,"
    " notification_id bigserial, PRIMARY KEY (originator_id, originator_version))" + _STORAGE,
    "ALTER TABLE {schema}.stored_events ALTER COLUMN state SET STORAGE EXTERNAL",  # packed columns: compressing costs time and gains little
    "CREATE UNIQUE INDEX stored_events_notification_id_idx ON {schema}.stored_events (notification_id)",
    "CREATE TABLE {schema}.hash_tiles (level integer, number bigint, hashes bytea NOT NULL, PRIMARY KEY (level, number))" + _STORAGE,
    "ALTER TABLE {schema}.hash_tiles ALTER COLUMN hashes SET STORAGE EXTERNAL",
    "CREATE TABLE {schema}.checkpoints (size bigint PRIMARY KEY, text text NOT NULL)",
    "CREATE TABLE {schema}.right_edge (id integer PRIMARY KEY CHECK (id = 0), size bigint NOT NULL, hashes bytea NOT NULL)",
    "CREATE TABLE {schema}.store (id integer PRIMARY KEY, version integer NOT NULL, ledger_id text NOT NULL, barriers bigint NOT NULL)",
)

# table -> its columns and primary key
_EXPECTED_TABLES = {
    "checkpoints": ("size bigint, text text", "size"),
    "hash_tiles": ("level integer, number bigint, hashes bytea", "level, number"),
    "right_edge": ("id integer, size bigint, hashes bytea", "id"),
    "store": ("id integer, version integer, ledger_id text, barriers bigint", "id"),
    "stored_events": (
        "originator_id text, originator_version bigint, topic text, state bytea, notification_id bigint",
        "originator_id, originator_version",
    ),
}

# Only tables whose writes reach the disk as they are: permanent, without triggers, rules and row security.
_TABLES_FOUND = """
SELECT c.relname,
  (SELECT string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
     FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  (SELECT string_agg(a.attname, ', ' ORDER BY place)
     FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS key(number, place), pg_attribute a
     WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid AND a.attrelid = c.oid AND a.attnum = key.number)
FROM pg_class c WHERE c.relnamespace = %s::text::regnamespace AND c.relkind = 'r' AND c.relpersistence = 'p'
  AND NOT c.relhastriggers AND NOT c.relhasrules AND NOT c.relrowsecurity"""

_LEADER = """
SELECT pid, coalesce(a.application_name, ''), coalesce(host(a.client_addr), 'a local socket')
FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::bigint << 32 | l.objid::bigint) = %s AND l.objsubid = 1"""

_COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_TRAILER = b"\xff\xff"
_COPY_VERSION = struct.Struct("!iq")
_COPY_LENGTH = struct.Struct("!i")
_COPY_TILE = struct.Struct("!hiiiqi")


class PostgresUrl(NamedTuple):
    """What a store's URL says."""

    connection: str
    """The URL as libpq takes it."""

    ledger_id: str | None
    shown: str
    """The URL without its password, for messages."""

    def __repr__(self) -> str:
        return f"PostgresUrl({self.shown!r})"


def _is_understood(connection: str) -> bool:
    """Tell whether libpq can read a URL. What it says of one that it cannot may hold its password, and is not passed on."""
    try:
        conninfo_to_dict(connection)
    except psycopg.ProgrammingError:
        return False
    return True


def parse_url(url: str) -> PostgresUrl:
    """Take the ledger's id out of a URL: `postgresql://user@host/database?ledger=acme`.

    Raises: InvalidRequest FIELD_MALFORMED.
    """
    shown = redact_url(url)
    base, _, query = url.partition("?")
    options = [option for option in query.split("&") if option]
    ids = [unquote(option.removeprefix("ledger=")) for option in options if option.startswith("ledger=")]
    rest = "&".join(option for option in options if not option.startswith("ledger="))
    connection = f"{base}?{rest}" if rest else base
    if not _is_understood(connection):
        _malformed(shown, "is not understood")
    if len(ids) > 1 or any(not _LEDGER_ID.fullmatch(ledger_id) for ledger_id in ids):
        _malformed(shown, "names a ledger that is not 1 to 64 of letters, digits, '.', '_', '/' and '-'")
    return PostgresUrl(connection, ids[0] if ids else None, shown)


def schema_of(ledger_id: str) -> str:
    """Give the schema that holds a ledger: `ledger_acme`; PostgreSQL cuts names at 63 bytes, so a longer one ends in a hash."""
    name = f"ledger_{ledger_id}"
    if len(name) <= _IDENTIFIER_BYTES_MAX:
        return name
    return f"{name[: _IDENTIFIER_BYTES_MAX - 17]}_{hashlib.sha256(ledger_id.encode()).hexdigest()[:16]}"


class LedgerDatastore(PostgresDatastore):
    """The library's datastore for one ledger's schema: text ids, and connections whose commits are durable."""

    def __init__(self, connection: str, schema: str) -> None:
        super().__init__(
            "", "", "", "", "", schema=schema, originator_id_type="text", lock_timeout=BUSY_TIMEOUT_SECONDS, enable_db_functions=False
        )
        self.pool.kwargs = {**_CONNECTION_DEFAULTS, **conninfo_to_dict(connection), "row_factory": dict_row}

    def after_connect_func(self) -> Callable[[psycopg.Connection[Any]], None]:
        """Give what prepares a new connection of the pool."""

        def prepare(connection: psycopg.Connection[Any]) -> None:
            connection.autocommit = True
            connection.execute(_statement("; ".join(_SESSION)))
            _refuse_unsafe(_settings(connection))

        return prepare

    def register_type_adapters(self) -> None:
        """Have none: COPY needs no composite types."""


class LedgerRecorder(PostgresApplicationRecorder):
    """The library's application recorder, whose insert is a COPY that also takes the hash tiles that the events complete.

    An insert is not tried again by itself: after a lost answer to COMMIT the library's own retry meets its own rows.
    """

    def __init__(self, datastore: PostgresDatastore) -> None:
        assert not datastore.enable_db_functions, "its functions skip the table lock"
        super().__init__(datastore)
        self.channel_name = datastore.schema
        self.sql_create_statements = [sql.Composed([_in_schema(datastore.schema, statement)]) for statement in _CREATE]

    def insert_events(self, stored_events: Sequence[StoredEvent], *, hash_tiles: Sequence[Tile] = (), **_: Any) -> Sequence[int] | None:
        """Insert events and the tiles they complete in one transaction; give their notification ids."""
        if not stored_events:
            return None
        rows = [(str(event.originator_id), event.originator_version, event.topic, event.state) for event in stored_events]
        with self.datastore.get_connection() as connection, connection.transaction(), connection.cursor() as cursor:
            self._lock_table(cursor)
            self._notify_channel(cursor)
            _copy_entries(cursor, self.datastore.schema, rows)
            _copy_tiles(cursor, self.datastore.schema, hash_tiles)
            last = cursor.execute(self.max_notification_id_statement).fetchone()
            assert last is not None
        return list(range(last["max"] - len(rows) + 1, last["max"] + 1))


class PostgresBackend:
    """A store in one schema of a PostgreSQL database."""

    def __init__(self, url: PostgresUrl, ledger_id: str, *, read_only: bool, lock: bool = True) -> None:
        if not _LEDGER_ID.fullmatch(ledger_id):
            _malformed(url.shown, f"cannot hold a ledger of the id {ledger_id!r}")
        self.read_only = read_only
        self._url = url.shown
        self._connection_url = url.connection
        self._ledger_id = ledger_id
        self._schema = schema_of(ledger_id)
        self._lock_key = struct.unpack("!q", hashlib.sha256(f"stockledger {self._schema}".encode()).digest()[:8])[0]
        self._take_lead = lock
        self._idle: list[psycopg.Connection[Any]] = []
        self._guard = threading.RLock()
        self._closed = False
        self._writer: psycopg.Connection[Any] | None = None
        self._last_session: int | None = None
        """The server's process id of the session that wrote last: while it holds the lock, its commit may still come."""
        self._in_doubt = False
        """True from COMMIT to its clean answer."""
        self._warnings: list[str] = []
        try:
            with self._translated():
                if read_only:
                    with self._reader() as connection:
                        self._recognise(connection)
                else:
                    self._writer = self._open_writer()
        except BaseException:
            self.close()
            raise

    @functools.cached_property
    def recorder(self) -> LedgerRecorder:
        """The library's interface to this store."""
        return LedgerRecorder(LedgerDatastore(self._connection_url, self._schema))

    @property
    def writer(self) -> psycopg.Connection[Any]:
        """The connection kept for writing; a new one, when this process can lead again, where the last was lost."""
        assert not self.read_only, "this store was opened read-only"
        if self._closed:
            raise self._unavailable("it is closed")
        if self._writer is None or self._writer.closed:
            self._writer = self._open_writer()
        return self._writer

    def extent(self) -> tuple[str | None, int]:
        with self._reader() as connection:
            query = (
                "SELECT (SELECT min(originator_id) FROM {schema}.stored_events), (SELECT max(originator_id) FROM {schema}.stored_events),"
                " (SELECT max(originator_version) FROM {schema}.stored_events WHERE originator_id = %s)"
            )
            first, last, version = self._one(connection, query, (self._ledger_id,))
        if first is None:
            return None, 0
        if first != last:
            self._corrupt(f"it holds rows of two ledgers, {first!r} and {last!r}")
        if first != self._ledger_id:
            self._corrupt(f"it holds rows of the ledger {first!r}, and is of {self._ledger_id!r}")
        if version < 1:
            self._corrupt(f"its last version is {version}")
        return first, version

    def rows(self, ledger_id: str, first_version: int, last_version: int) -> list[Row]:
        query = (
            "SELECT originator_version, topic, state FROM {schema}.stored_events"
            " WHERE originator_id = %s AND originator_version BETWEEN %s AND %s ORDER BY originator_version"
        )
        with self._reader() as connection:
            return [Row._make(row) for row in self._all(connection, query, (ledger_id, first_version, last_version))]

    def append(self, ledger_id: str, first_version: int, topics: Sequence[str], entries: Sequence[bytes], tiles: Sequence[Tile]) -> None:
        if ledger_id != self._ledger_id:
            raise self._unavailable(f"it is of the ledger {self._ledger_id}, not of {ledger_id}")
        versions = range(first_version, first_version + len(entries))
        with self._transaction(self._begin_append) as cursor:
            last, session, *settings = _last_row(cursor)
            _refuse_unsafe(dict(zip(_DURABLE_SETTINGS, settings, strict=True)), self._url)
            if session != cursor.connection.info.backend_pid:
                raise self._unavailable("a pooler changes the session under this connection; name the server itself, or pool by session")
            if last != first_version - 1:
                raise self._unavailable(f"the versions from {first_version} are taken or would leave a gap: its last is {last}")
            _copy_entries(cursor, self._schema, zip(itertools.repeat(ledger_id), versions, topics, entries, strict=False))
            _copy_tiles(cursor, self._schema, tiles)

    def tile(self, level: int, number: int) -> bytes | None:
        with self._reader() as connection:
            rows = self._all(connection, "SELECT hashes FROM {schema}.hash_tiles WHERE level = %s AND number = %s", (level, number))
        return rows[0][0] if rows else None

    def tile_counts(self) -> dict[int, tuple[int, int]]:
        with self._reader() as connection:
            rows = self._all(connection, "SELECT level, count(*), max(number) FROM {schema}.hash_tiles GROUP BY level")
        return {level: (count, last) for level, count, last in rows}

    def right_edge(self) -> RightEdge | None:
        with self._reader() as connection:
            rows = self._all(connection, "SELECT size, hashes FROM {schema}.right_edge WHERE id = 0")
        return RightEdge._make(rows[0]) if rows else None

    def save_checkpoint(self, size: int, text: str, edge: RightEdge) -> None:
        with self._transaction(sql.SQL("BEGIN")) as cursor:
            statement = "INSERT INTO {schema}.checkpoints VALUES (%s, %s) ON CONFLICT (size) DO UPDATE SET text = excluded.text"
            cursor.execute(self._sql(statement), (size, text))
            statement = (
                "INSERT INTO {schema}.right_edge VALUES (0, %s, %s)"
                " ON CONFLICT (id) DO UPDATE SET size = excluded.size, hashes = excluded.hashes"
            )
            cursor.execute(self._sql(statement), edge)

    def checkpoints(self, limit: int | None) -> list[tuple[int, str]]:
        with self._reader() as connection:
            rows = self._all(connection, "SELECT size, text FROM {schema}.checkpoints ORDER BY size DESC LIMIT %s", (limit,))
        return [(size, text) for size, text in rows]

    def check(self, size: int) -> None:
        with self._reader() as connection:
            self._recognise(connection)
            try:
                # The table itself, then its index: they must agree.
                connection.execute("SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off")
                rows, last = self._one(connection, "SELECT count(*), max(originator_version) FROM {schema}.stored_events")
            finally:
                connection.execute("RESET enable_indexscan; RESET enable_indexonlyscan; RESET enable_bitmapscan")
        if rows != (last or 0) or rows < size:
            self._corrupt(f"it holds {rows} rows up to version {last} for {size} entries")

    def close(self) -> None:
        with self._guard:
            self._closed = True
            for connection in (*self._idle, *([self._writer] if self._writer else [])):
                with contextlib.suppress(psycopg.Error):  # what was durable stays so; there is nothing left to save
                    connection.close()
            self._idle.clear()
            self._writer = None
            if "recorder" in self.__dict__:
                self.recorder.datastore.close()

    @functools.cached_property
    def _begin_append(self) -> sql.Composed:
        """One round trip: the transaction, its lock, a hint to those who listen, the last version, and that all is as it was."""
        statement = (
            "BEGIN; LOCK TABLE {schema}.stored_events IN EXCLUSIVE MODE; NOTIFY {schema};"
            " SELECT coalesce((SELECT max(originator_version) FROM {schema}.stored_events WHERE originator_id = {ledger}), 0),"
            " pg_backend_pid(), current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes')"
        )
        return sql.SQL(_literal(statement)).format(schema=sql.Identifier(self._schema), ledger=sql.Literal(self._ledger_id))

    def _open_writer(self) -> psycopg.Connection[Any]:
        connection = self._connect()
        try:
            self._require_primary(connection)
            if self._take_lead:
                self._refuse_beside(self._lead(connection))
                self._make_where_missing(connection)
            self._recognise(connection)
            self._last_session = connection.info.backend_pid
            self._pass_barrier(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _refuse_beside(self, leader: str | None) -> None:
        if leader is not None:
            message = f"{self._url}: another process ({leader}) writes this ledger; open it read-only"
            raise refusal(Reason.REASON_STORE_UNAVAILABLE, message, store=self._url, leader=leader)

    def _require_primary(self, connection: psycopg.Connection[Any]) -> None:
        """Refuse a server that would not keep what it is told."""
        version = connection.info.server_version
        if version < SERVER_VERSION_MIN:
            raise self._unavailable(f"the server is of version {version // 10_000}, at least {SERVER_VERSION_MIN // 10_000} is needed")
        settings = _settings(connection)
        _refuse_unsafe(settings, self._url)
        # A reload of the server's configuration changes a setting for sessions that have not set it themselves.
        connection.execute("SELECT set_config('synchronous_commit', %s, false)", (settings["synchronous_commit"],))
        standby, session = connection.execute("SELECT pg_is_in_recovery(), pg_backend_pid()").fetchone() or (True, 0)
        if standby:
            raise self._unavailable("the server is a standby, which takes no writes")
        if session != connection.info.backend_pid:
            raise self._unavailable("a pooler changes the session under this connection; name the server itself, or pool by session")

    def _lead(self, connection: psycopg.Connection[Any]) -> str | None:
        """Take the lead, or say who has it. A session of our own that the server has not given up yet is ended first."""
        for _ in range(_LEAD_ATTEMPTS):
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", (self._lock_key,)).fetchone()
            if row is not None and row[0]:
                return None
            leader = connection.execute(_LEADER, (self._lock_key,)).fetchone()
            if leader is None:
                continue
            session, name, address = leader
            if session != self._last_session:
                return f"{name or 'unknown'}, session {session} from {address}"
            connection.execute("SELECT pg_terminate_backend(%s, %s)", (session, BUSY_TIMEOUT_SECONDS * 1000))
        return f"session {self._last_session} of our own, which does not end"

    def _make_where_missing(self, connection: psycopg.Connection[Any]) -> None:
        """Make the schema and its tables, in one transaction; a schema that is there and empty may have been made for us."""
        schemas, tables = self._tables_there(connection)
        if tables:
            return
        with connection.transaction():
            if not schemas:
                connection.execute(self._sql("CREATE SCHEMA {schema}"))
            for statement in _CREATE:
                connection.execute(_in_schema(self._schema, statement))
            connection.execute(self._sql("INSERT INTO {schema}.store VALUES (0, %s, %s, 0)"), (STORE_VERSION, self._ledger_id))

    def _tables_there(self, connection: psycopg.Connection[Any]) -> tuple[int, int]:
        query = (
            "SELECT count(DISTINCT n.oid), count(c.oid) FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid"
            " WHERE n.nspname = %s"
        )
        schemas, tables = connection.execute(query, (self._schema,)).fetchone() or (0, 0)
        return schemas, tables

    def _recognise(self, connection: psycopg.Connection[Any]) -> None:
        """Refuse a schema that is not ours, not of this ledger, or of a layout we do not know."""
        if not self._tables_there(connection)[1]:
            raise refusal(
                Reason.REASON_LEDGER_NOT_FOUND,
                f"{self._url}: there is no ledger {self._ledger_id}",
                expected=self._ledger_id,
                found="nothing",
            )
        quoted = sql.Identifier(self._schema).as_string(connection)
        found = {name: (columns, key) for name, columns, key in connection.execute(_TABLES_FOUND, (quoted,))}
        if found != _EXPECTED_TABLES:
            names = sorted(name for name in {*found, *_EXPECTED_TABLES} if found.get(name) != _EXPECTED_TABLES.get(name))
            self._corrupt(f"its tables are not those of a ledger ({', '.join(names)})")
        rows = self._all(connection, "SELECT version, ledger_id FROM {schema}.store")
        if not rows:
            self._corrupt("its table `store` is empty")
        version, ledger_id = rows[0]
        if version != STORE_VERSION:
            message = f"{self._url} has store version {version}; this program knows {STORE_VERSION}"
            raise refusal(Reason.REASON_LEDGER_NOT_FOUND, message, expected=STORE_VERSION, found=version)
        if ledger_id != self._ledger_id:
            message = f"{self._url} holds the ledger {ledger_id}, not {self._ledger_id}"
            raise refusal(Reason.REASON_LEDGER_NOT_FOUND, message, expected=self._ledger_id, found=ledger_id)

    def _pass_barrier(self, connection: psycopg.Connection[Any]) -> None:
        """Commit something small: with its clean answer, everything that was committed before is as durable as it is."""
        self._warnings.clear()
        connection.execute(self._sql("UPDATE {schema}.store SET barriers = barriers + 1"))
        self._refuse_warnings()

    def _refuse_warnings(self) -> None:
        if self._warnings:
            raise self._unavailable(f"the commit came with a warning: {self._warnings[0]}")

    def _settle(self) -> None:
        """After a doubtful commit: see that its session can commit nothing any more, and that what it did commit is durable."""
        with self._guard:
            if not self._in_doubt:
                return
            if self._closed:
                raise self._unavailable("it is closed")
            if self._writer is not None and not self._writer.closed:
                self._pass_barrier(self._writer)
            else:
                self._settle_by_new_session()
            self._in_doubt = False

    def _settle_by_new_session(self) -> None:
        connection = self._connect()
        try:
            self._require_primary(connection)
            # Whoever leads instead of us has the lock that our session held until its end.
            leads = not self._take_lead or self._lead(connection) is None
            self._pass_barrier(connection)
        except BaseException:
            connection.close()
            raise
        if leads:
            self._writer, self._last_session = connection, connection.info.backend_pid
        else:
            connection.close()

    @contextlib.contextmanager
    def _transaction(self, begin: sql.SQL | sql.Composed) -> Iterator[psycopg.Cursor[Any]]:
        """Run one transaction on the writer's connection; whatever goes wrong, none is left open."""
        with self._guard, self._translated():
            self._settle()
            connection = self.writer
            self._warnings.clear()
            try:
                with connection.cursor() as cursor:
                    cursor.execute(begin)
                    yield cursor
                    self._in_doubt = True
                    cursor.execute("COMMIT")
                    assert cursor.statusmessage == "COMMIT", cursor.statusmessage
                    self._refuse_warnings()
                    self._in_doubt = False
            except BaseException:
                self._roll_back(connection)
                raise

    def _roll_back(self, connection: psycopg.Connection[Any]) -> None:
        try:
            if connection.info.transaction_status is not TransactionStatus.IDLE:
                connection.execute("ROLLBACK")
        except psycopg.Error:
            self._writer = None
            connection.close()

    @contextlib.contextmanager
    def _reader(self) -> Iterator[psycopg.Connection[Any]]:
        """Lend a connection for one short read."""
        with self._translated():
            self._settle()
            with self._guard:
                if self._closed:
                    raise self._unavailable("it is closed")
                connection = self._idle.pop() if self._idle else None
            if connection is None or connection.closed:
                connection = self._connect()
                connection.execute("SET default_transaction_read_only = on")
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

    def _connect(self) -> psycopg.Connection[Any]:
        options: dict[str, Any] = {**_CONNECTION_DEFAULTS, "application_name": _this_process(), **conninfo_to_dict(self._connection_url)}
        connection = psycopg.connect(**options, autocommit=True)
        connection.add_notice_handler(self._heed)
        connection.execute(_statement("; ".join(_SESSION)))
        return connection

    def _heed(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        """Keep the warnings: one that comes with a COMMIT says that it is not what it seems."""
        if diagnostic.severity_nonlocalized == "WARNING":
            self._warnings.append(diagnostic.message_primary or "without words")

    def _sql(self, statement: str) -> sql.Composed:
        return _in_schema(self._schema, statement)

    def _all(self, connection: psycopg.Connection[Any], query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return connection.execute(self._sql(query), values, binary=True, prepare=True).fetchall()

    def _one(self, connection: psycopg.Connection[Any], query: str, values: Sequence[Any] = ()) -> tuple[Any, ...]:
        return self._all(connection, query, values)[0]

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the errors of PostgreSQL into ours."""
        try:
            yield
        except psycopg.Error as error:
            raise self._translate(error) from error

    def _translate(self, error: psycopg.Error) -> LedgerError:
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        if isinstance(error, _CORRUPT):
            return refusal(Reason.REASON_LOG_CORRUPT, f"{self._url}: its structure is damaged ({why})", store=self._url)
        return self._unavailable(why)

    def _unavailable(self, why: str) -> LedgerError:
        return refusal(Reason.REASON_STORE_UNAVAILABLE, f"{self._url} cannot be used: {why}", store=self._url)

    def _corrupt(self, what: str) -> NoReturn:
        raise refusal(Reason.REASON_LOG_CORRUPT, f"{self._url}: {what}", store=self._url)


_CORRUPT = (
    psycopg.errors.DataCorrupted,
    psycopg.errors.IndexCorrupted,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.CharacterNotInRepertoire,
)


def _copy_entries(cursor: psycopg.Cursor[Any], schema: str, rows: Any) -> None:
    """COPY (ledger id, version, topic, entry) in PostgreSQL's binary form: 0.4 us a row to make, and nothing to escape."""
    pieces = [_COPY_HEADER]
    add, version_of, length_of = pieces.append, _COPY_VERSION.pack, _COPY_LENGTH.pack
    heads: dict[str, bytes] = {}
    texts: dict[str, bytes] = {}
    for ledger_id, version, topic, entry in rows:
        head = heads.get(ledger_id)
        if head is None:
            head = heads[ledger_id] = b"\0\4" + _copy_text(ledger_id)
        text = texts.get(topic)
        if text is None:
            text = texts[topic] = _copy_text(topic)
        add(head)
        add(version_of(8, version))
        add(text)
        add(length_of(len(entry)))
        add(entry)
    add(_COPY_TRAILER)
    columns = "COPY {schema}.stored_events (originator_id, originator_version, topic, state) FROM STDIN (FORMAT binary)"
    with cursor.copy(_in_schema(schema, columns)) as copy:
        copy.write(b"".join(pieces))


def _copy_tiles(cursor: psycopg.Cursor[Any], schema: str, tiles: Sequence[Tile]) -> None:
    if not tiles:
        return
    pieces = [_COPY_HEADER]
    for level, number, hashes in tiles:
        pieces += (_COPY_TILE.pack(3, 4, level, 8, number, len(hashes)), hashes)
    pieces.append(_COPY_TRAILER)
    with cursor.copy(_in_schema(schema, "COPY {schema}.hash_tiles (level, number, hashes) FROM STDIN (FORMAT binary)")) as copy:
        copy.write(b"".join(pieces))


def _copy_text(text: str) -> bytes:
    data = text.encode()
    return _COPY_LENGTH.pack(len(data)) + data


def _last_row(cursor: psycopg.Cursor[Any]) -> tuple[Any, ...]:
    """Give the row of the last of several statements."""
    while cursor.nextset():
        pass
    row: tuple[Any, ...] | None = cursor.fetchone()
    assert row is not None
    return row


def _settings(connection: psycopg.Connection[Any]) -> dict[str, str]:
    names = list(_SAFE_SETTINGS)
    rows = connection.execute("SELECT current_setting(name) AS value FROM unnest(%s::text[]) AS name", (names,)).fetchall()
    values = [row["value"] if isinstance(row, dict) else row[0] for row in rows]
    return dict(zip(names, values, strict=True))


def _refuse_unsafe(settings: dict[str, str], url: str = "this database") -> None:
    """Refuse a server under whose settings what was answered may be lost."""
    for name, value in settings.items():
        if value not in _SAFE_SETTINGS[name]:
            safe = " or ".join(_SAFE_SETTINGS[name])
            message = f"{url} cannot be used: its setting {name} is {value}, and must be {safe}"
            raise refusal(Reason.REASON_STORE_UNAVAILABLE, message, store=url)


def _this_process() -> str:
    return f"stockledger pid {os.getpid()} on {socket.gethostname()}"[:_IDENTIFIER_BYTES_MAX]


@functools.cache
def _in_schema(schema: str, statement: str) -> sql.Composed:
    return sql.SQL(_literal(statement)).format(schema=sql.Identifier(schema))


def _statement(text: str) -> sql.SQL:
    return sql.SQL(_literal(text))


def _literal(text: str) -> LiteralString:
    """Vouch for a statement of this module: no value from outside is part of it."""
    return text


def _malformed(shown: str, what: str) -> NoReturn:
    message = f"the store {shown!r} {what}; the form is postgresql://user@host/database?ledger=acme"
    raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="store", value=shown)
