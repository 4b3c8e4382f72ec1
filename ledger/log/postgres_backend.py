"""A log in PostgreSQL, in tables of the eventsourcing library's recorder.

    postgresql://user@host/database?ledger=acme

Each ledger has a schema of its own, so that neither its lock nor its vacuum touches another's. The table of entries is the library's,
with text ids, so its tools read our ledgers; the insert is ours: one COPY of the entries and one of the hash tiles they complete, in one
transaction under the library's table lock.

Who leads holds an advisory lock in the session that he writes with (postgres_lead.py): a lost connection is a lost lead. That is only
speed; the primary key (ledger id, version) keeps a second writer out for certain.

After a COMMIT without a clean answer, and where PostgreSQL gave up waiting for a synchronous standby (it then commits all the same, with
no more than a warning), nothing is read before a later commit has had a clean one: the server's log is written in order, so that one
carries all before it. For the same reason a reader beside the writer shows what it sees only after a commit of its own, where there is a
synchronous standby: rows whose wait was cancelled, or whose server crashed while they waited, can be seen, and can still be lost.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from ledger.errors import LedgerError, refusal
from ledger.log.backend import Access, RightEdge, Row
from ledger.log.merkle import Tile
from ledger.log.postgres_deadlines import Deadlines
from ledger.log.postgres_lead import Lead
from ledger.log.postgres_recorder import LedgerDatastore, LedgerRecorder, copy_entries
from ledger.log.postgres_sessions import (
    ANSWER_SECONDS,
    BUSY_TIMEOUT_SECONDS,
    DURABLE_SETTINGS,
    SERVER_VERSION_MIN,
    PostgresUrl,
    connect,
    in_schema,
    is_ledger_id,
    literal,
    malformed,
    refuse_unsafe,
    settings_of,
)
from ledger.log.postgres_tables import STORE_VERSION, make_where_missing, migrate_tables, recognise, schema_of
from stockledger.v1.errors_pb2 import Reason

_KEEP_RIGHT_EDGE = (
    "INSERT INTO {schema}.right_edge VALUES (0, %s, %s)"
    " ON CONFLICT (id) DO UPDATE SET size = excluded.size, hashes = excluded.hashes WHERE excluded.size >= right_edge.size"
)
_IDLE_MAX = 8
"""Connections kept for reads."""


class PostgresBackend:
    """A store in one schema of a PostgreSQL database."""

    def __init__(self, url: PostgresUrl, ledger_id: str, access: Access) -> None:
        if not is_ledger_id(ledger_id):
            malformed(url.shown, f"cannot hold a ledger of the id {ledger_id!r}")
        self.read_only = access in (Access.READ, Access.CONTEND)
        self.versions = (STORE_VERSION, STORE_VERSION)
        self.contends = access is Access.CONTEND
        self._access = access
        self._url = url.shown
        self._connection_url = url.connection
        self._ledger_id = ledger_id
        self._schema = schema_of(ledger_id)
        self._lock = Lead(self._schema)
        self._deadlines = Deadlines()
        self._idle: list[psycopg.Connection[Any]] = []
        self._guard = threading.RLock()
        self._closed = False
        self._writer: psycopg.Connection[Any] | None = None
        self._candidate: psycopg.Connection[Any] | None = None
        """Of one who would lead: the session that asks for the lead, hears of the leader's appends, and writes once it has it."""
        self._last_session: int | None = None
        """The server's process id of the session that wrote last: while it holds the lock, its commit may still come."""
        self._in_doubt = False
        """True from COMMIT to its clean answer."""
        self._warnings: weakref.WeakKeyDictionary[psycopg.Connection[Any], list[str]] = weakref.WeakKeyDictionary()
        self._address = ""
        self._leader: str | None = None
        self._lead_seen = -math.inf
        """When the lead was last known to be ours, on the monotonic clock."""
        self._shown = 0
        """Up to this version entries are known to be durable although another writes them."""
        try:
            with self._translated():
                if access is Access.CONTEND:
                    self._contend()
                elif access is Access.READ:
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
            if self._access is Access.CONTEND:
                raise self._unavailable("the session that led is lost")
            self._writer = self._open_writer()
        return self._writer

    def extent(self) -> tuple[str | None, int]:
        with self._reader() as connection:
            query = (
                "SELECT (SELECT min(originator_id) FROM {schema}.stored_events), (SELECT max(originator_id) FROM {schema}.stored_events),"
                " (SELECT max(originator_version) FROM {schema}.stored_events WHERE originator_id = %s),"
                " current_setting('synchronous_standby_names') <> '' AND NOT pg_is_in_recovery()"
            )
            first, last, version, has_standby = self._one(connection, query, (self._ledger_id,))
            if has_standby and self._writer is None and version is not None and version > self._shown:
                self._commit_something(connection)
            self._shown = max(self._shown, version or 0)
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

    def entries(self, ledger_id: str, first_version: int, last_version: int) -> list[bytes]:
        query = (
            "SELECT state FROM {schema}.stored_events"
            " WHERE originator_id = %s AND originator_version BETWEEN %s AND %s ORDER BY originator_version"
        )
        with self._reader() as connection:
            return [entry for (entry,) in self._all(connection, query, (ledger_id, first_version, last_version))]

    def append(
        self, ledger_id: str, first_version: int, topics: Sequence[str], entries: Sequence[bytes], make_tiles: Callable[[], Sequence[Tile]]
    ) -> None:
        if ledger_id != self._ledger_id:
            raise self._unavailable(f"it is of the ledger {self._ledger_id}, not of {ledger_id}")
        versions = range(first_version, first_version + len(entries))
        with self._transaction(self._begin_append) as cursor:
            last, session, *settings = _last_row(cursor)
            refuse_unsafe(dict(zip(DURABLE_SETTINGS, settings, strict=True)), self._url)
            if session != cursor.connection.info.backend_pid:
                raise self._unavailable("a pooler changes the session under this connection; name the server itself, or pool by session")
            if last != first_version - 1:
                raise self._unavailable(f"the versions from {first_version} are taken or would leave a gap: its last is {last}")
            copy_entries(cursor, self._schema, zip(itertools.repeat(ledger_id), versions, topics, entries, strict=False), make_tiles)

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
            cursor.execute(self._sql(_KEEP_RIGHT_EDGE), edge)

    def save_right_edge(self, edge: RightEdge) -> None:
        with self._transaction(sql.SQL("BEGIN")) as cursor:
            cursor.execute(self._sql(_KEEP_RIGHT_EDGE), edge)

    def checkpoints(self, limit: int | None) -> list[tuple[int, str]]:
        with self._reader() as connection:
            rows = self._all(connection, "SELECT size, text FROM {schema}.checkpoints ORDER BY size DESC LIMIT %s", (limit,))
        return [(size, text) for size, text in rows]

    def check(self, size: int) -> None:
        with self._reader(seconds=math.inf) as connection:
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
            for connection in (*self._idle, *filter(None, (self._writer, self._candidate))):
                with contextlib.suppress(psycopg.Error):  # what was durable stays so; there is nothing left to save
                    connection.close()
            self._idle.clear()
            self._writer = self._candidate = None
            self._deadlines.close()
            if "recorder" in self.__dict__:
                self.recorder.datastore.close()

    # ---- several who would write ----------------------------------------------------------------------------------------------------

    def advertise(self, address: str) -> None:
        with self._guard, self._translated():
            self._address = address
            if self._writer is not None and not self.read_only:
                self._lock.advertise(self._writer, address)

    def leader(self) -> str | None:
        return self._leader

    def try_to_lead(self) -> bool:
        with self._guard, self._translated():
            assert self.read_only, "who leads does not ask for the lead"
            candidate = self._open_candidate()
            with self._deadlines.within(candidate, ANSWER_SECONDS):
                led = self._lock.take_from_silent(candidate, self._last_session)
                if not led:
                    holder = self._lock.holder(candidate)
                    self._leader = holder.address if holder is not None else None
                    return False
                candidate.execute("UNLISTEN *")
                self._recognise(candidate)
                self._last_session = candidate.info.backend_pid
                self._pass_barrier(candidate)
            self._writer, self._candidate = candidate, None
            self._in_doubt = False
            self._lead_seen = time.monotonic()
            return True

    def lead(self) -> None:
        with self._guard, self._translated():
            if self._writer is None or self._writer.closed:
                raise self._unavailable("the session that was to lead is lost")
            if self._address:
                self._lock.advertise(self._writer, self._address)
            self._leader = self._address or None
            self.read_only = False

    def keep_lead(self) -> bool:
        with self._guard:
            now, connection = time.monotonic(), self._writer
            if connection is None or connection.closed or self._closed:
                return False
            try:
                with self._deadlines.within(connection, ANSWER_SECONDS):
                    connection.execute("SELECT 1")
            except psycopg.Error:
                return False
            self._lead_seen = now
            return True

    def follow(self) -> None:
        with self._guard:
            self.read_only = True
            self._leader = None
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close()

    def lead_age_seconds(self) -> float:
        return time.monotonic() - self._lead_seen

    def await_news(self, seconds: float) -> None:
        with self._translated():
            candidate = self._open_candidate()
            with self._deadlines.within(candidate, seconds + ANSWER_SECONDS):
                for _ in candidate.notifies(timeout=seconds, stop_after=1):
                    return

    def _contend(self) -> None:
        """Lead, making the tables where there are none, if nobody else does; else wait until there is something to follow."""
        end = time.monotonic() + BUSY_TIMEOUT_SECONDS
        while True:
            connection = self._connect()
            try:
                self._require_primary(connection)
                if self._lock.take(connection, None) is None:
                    make_where_missing(connection, self._schema, self._ledger_id)
                    self._recognise(connection)
                    self._last_session = connection.info.backend_pid
                    self._pass_barrier(connection)
                    self._writer, self._lead_seen, self.read_only = connection, time.monotonic(), False
                    return
                self._recognise(connection)
            except LedgerError as error:
                connection.close()
                if (
                    error.reason != Reason.REASON_LEDGER_NOT_FOUND
                    or "nothing" not in error.metadata.get("found", "")
                    or time.monotonic() > end
                ):
                    raise
                time.sleep(0.02)
            except BaseException:
                connection.close()
                raise
            else:
                connection.close()
                return

    def _open_candidate(self) -> psycopg.Connection[Any]:
        """Return the session that asks for the lead."""
        with self._guard:
            if self._closed:
                raise self._unavailable("it is closed")
            if self._candidate is None or self._candidate.closed:
                connection = self._connect()
                try:
                    self._require_primary(connection)
                    connection.execute(self._sql("LISTEN {schema}"))
                except BaseException:
                    connection.close()
                    raise
                self._candidate = connection
            return self._candidate

    @functools.cached_property
    def _begin_append(self) -> sql.Composed:
        """One round trip: the transaction, its lock, a hint to those who listen, the last version, and that all is as it was."""
        statement = (
            "BEGIN; LOCK TABLE {schema}.stored_events IN EXCLUSIVE MODE; NOTIFY {schema};"
            " SELECT coalesce((SELECT max(originator_version) FROM {schema}.stored_events WHERE originator_id = {ledger}), 0),"
            " pg_backend_pid(), current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes')"
        )
        return sql.SQL(literal(statement)).format(schema=sql.Identifier(self._schema), ledger=sql.Literal(self._ledger_id))

    def _open_writer(self) -> psycopg.Connection[Any]:
        connection = self._connect()
        try:
            self._require_primary(connection)
            if self._access is not Access.WRITE_WITHOUT_LOCK:
                self._refuse_beside(self._lock.take(connection, self._last_session))
            if self._access is Access.MIGRATE:
                self.versions = migrate_tables(connection, self._schema, self._ledger_id, self._url)
            elif self._access is Access.WRITE:
                make_where_missing(connection, self._schema, self._ledger_id)
            self._recognise(connection)
            self._last_session = connection.info.backend_pid
            self._pass_barrier(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _recognise(self, connection: psycopg.Connection[Any]) -> None:
        recognise(connection, self._schema, self._ledger_id, self._url)

    def _refuse_beside(self, leader: str | None) -> None:
        if leader is not None:
            message = f"{self._url}: another process ({leader}) writes this ledger; open it read-only"
            raise refusal(Reason.REASON_STORE_UNAVAILABLE, message, store=self._url, leader=leader)

    def _require_primary(self, connection: psycopg.Connection[Any]) -> None:
        """Refuse a server that would not keep what it is told."""
        version = connection.info.server_version
        if version < SERVER_VERSION_MIN:
            raise self._unavailable(f"the server is of version {version // 10_000}, at least {SERVER_VERSION_MIN // 10_000} is needed")
        settings = settings_of(connection)
        refuse_unsafe(settings, self._url)
        # A reload of the server's configuration changes a setting for sessions that have not set it themselves.
        connection.execute("SELECT set_config('synchronous_commit', %s, false)", (settings["synchronous_commit"],))
        standby, session = connection.execute("SELECT pg_is_in_recovery(), pg_backend_pid()").fetchone() or (True, 0)
        if standby:
            raise self._unavailable("the server is a standby, which takes no writes")
        if session != connection.info.backend_pid:
            raise self._unavailable("a pooler changes the session under this connection; name the server itself, or pool by session")

    def _pass_barrier(self, connection: psycopg.Connection[Any]) -> None:
        """Commit something small: with its clean answer, everything that was committed before is as durable as it is."""
        self._warnings[connection].clear()
        with self._deadlines.within(connection, ANSWER_SECONDS):
            connection.execute(self._sql("UPDATE {schema}.store SET barriers = barriers + 1"))
        self._refuse_warnings(connection)

    def _commit_something(self, connection: psycopg.Connection[Any]) -> None:
        """Do the same where no table may be written: a message that nobody reads goes through the server's log as well."""
        self._warnings[connection].clear()
        with self._deadlines.within(connection, ANSWER_SECONDS):
            connection.execute("SELECT pg_logical_emit_message(true, 'stockledger', '')")
        self._refuse_warnings(connection)

    def _refuse_warnings(self, connection: psycopg.Connection[Any]) -> None:
        """Take no COMMIT for one that came with a warning: it is not what it seems."""
        for warning in self._warnings[connection]:
            raise self._unavailable(f"the commit came with a warning: {warning}")

    def _settle(self) -> None:
        """After a doubtful commit: see that its session can commit nothing any more, and that what it did commit is durable.

        Raises: Unavailable STORE_UNAVAILABLE while that cannot be had, as while the synchronous standby is away: the doubt stays.
        """
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
            leads = self._access is Access.WRITE_WITHOUT_LOCK or self._lock.take(connection, self._last_session) is None
            self._pass_barrier(connection)
            if leads and self._address:
                self._lock.advertise(connection, self._address)
        except BaseException:
            connection.close()
            raise
        if leads and not self.read_only:
            self._writer, self._last_session, self._lead_seen = connection, connection.info.backend_pid, time.monotonic()
        else:
            connection.close()

    @contextlib.contextmanager
    def _transaction(self, begin: sql.SQL | sql.Composed) -> Iterator[psycopg.Cursor[Any]]:
        """Run one transaction on the writer's connection; whatever goes wrong, none is left open."""
        with self._guard, self._translated():
            self._settle()
            connection = self.writer
            self._warnings[connection].clear()
            now = time.monotonic()
            try:
                with connection.cursor() as cursor:
                    with self._deadlines.within(connection, BUSY_TIMEOUT_SECONDS + ANSWER_SECONDS):
                        cursor.execute(begin)
                        yield cursor
                    self._in_doubt = True
                    with self._deadlines.within(connection, ANSWER_SECONDS):
                        cursor.execute("COMMIT")
                    assert cursor.statusmessage == "COMMIT", cursor.statusmessage
                    self._refuse_warnings(connection)
                    self._in_doubt = False
                    self._lead_seen = now
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
    def _reader(self, *, seconds: float = ANSWER_SECONDS) -> Iterator[psycopg.Connection[Any]]:
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
                with self._deadlines.within(connection, seconds):
                    yield connection
            except BaseException:
                connection.close()
                raise
            with self._guard:
                if self._closed or len(self._idle) >= _IDLE_MAX:
                    connection.close()
                else:
                    self._idle.append(connection)

    def _connect(self) -> psycopg.Connection[Any]:
        warnings: list[str] = []

        def heed(diagnostic: psycopg.errors.Diagnostic) -> None:
            if diagnostic.severity_nonlocalized == "WARNING":
                warnings.append(diagnostic.message_primary or "without words")

        connection = connect(self._connection_url, heed)
        self._warnings[connection] = warnings
        return connection

    def _sql(self, statement: str) -> sql.Composed:
        return in_schema(self._schema, statement)

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


def _last_row(cursor: psycopg.Cursor[Any]) -> tuple[Any, ...]:
    """Give the row of the last of several statements."""
    while cursor.nextset():
        pass
    row: tuple[Any, ...] | None = cursor.fetchone()
    assert row is not None
    return row
