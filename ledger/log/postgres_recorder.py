"""The eventsourcing library's recorder on PostgreSQL, with an insert of our own.

The insert is a COPY of the entries and one of the hash tiles that they complete.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from ledger.log.merkle import Tile
from ledger.log.postgres_sessions import BUSY_TIMEOUT_SECONDS, CONNECTION_DEFAULTS, in_schema, prepare_session, refuse_unsafe, settings_of
from ledger.log.postgres_tables import CREATE

_COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_TRAILER = b"\xff\xff"
_COPY_VERSION = struct.Struct("!iq")
_COPY_LENGTH = struct.Struct("!i")
_COPY_TILE = struct.Struct("!hiiiqi")


class LedgerDatastore(PostgresDatastore):
    """The library's datastore for one ledger's schema: text ids, and connections whose commits are durable."""

    def __init__(self, connection: str, schema: str) -> None:
        super().__init__(
            "", "", "", "", "", schema=schema, originator_id_type="text", lock_timeout=BUSY_TIMEOUT_SECONDS, enable_db_functions=False
        )
        self.pool.kwargs = {**CONNECTION_DEFAULTS, **conninfo_to_dict(connection), "row_factory": dict_row}

    def after_connect_func(self) -> Callable[[psycopg.Connection[Any]], None]:
        """Give what prepares a new connection of the pool."""

        def prepare(connection: psycopg.Connection[Any]) -> None:
            connection.autocommit = True
            prepare_session(connection)
            refuse_unsafe(settings_of(connection))

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
        self.sql_create_statements = [sql.Composed([in_schema(datastore.schema, statement)]) for statement in CREATE]

    def insert_events(self, stored_events: Sequence[StoredEvent], *, hash_tiles: Sequence[Tile] = (), **_: Any) -> Sequence[int] | None:
        """Insert events and the tiles they complete in one transaction; give their notification ids."""
        if not stored_events:
            return None
        rows = [(str(event.originator_id), event.originator_version, event.topic, event.state) for event in stored_events]
        with self.datastore.get_connection() as connection, connection.transaction(), connection.cursor() as cursor:
            self._lock_table(cursor)
            self._notify_channel(cursor)
            copy_entries(cursor, self.datastore.schema, rows, lambda: hash_tiles)
            last = cursor.execute(self.max_notification_id_statement).fetchone()
            assert last is not None
        return list(range(last["max"] - len(rows) + 1, last["max"] + 1))


def copy_entries(cursor: psycopg.Cursor[Any], schema: str, rows: Any, make_tiles: Callable[[], Sequence[Tile]]) -> None:
    """COPY (ledger id, version, topic, entry) in PostgreSQL's binary form, 0.4 us a row to make, nothing to escape; then the tiles.

    The tiles are made while the server takes the rows in: to hash them takes a quarter of the time that it needs.
    """
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
    with cursor.copy(in_schema(schema, columns)) as copy:
        copy.write(b"".join(pieces))
        tiles = make_tiles()
    _copy_tiles(cursor, schema, tiles)


def _copy_tiles(cursor: psycopg.Cursor[Any], schema: str, tiles: Sequence[Tile]) -> None:
    """COPY (level, number, hashes) likewise."""
    if not tiles:
        return
    pieces = [_COPY_HEADER]
    for level, number, hashes in tiles:
        pieces += (_COPY_TILE.pack(3, 4, level, 8, number, len(hashes)), hashes)
    pieces.append(_COPY_TRAILER)
    with cursor.copy(in_schema(schema, "COPY {schema}.hash_tiles (level, number, hashes) FROM STDIN (FORMAT binary)")) as copy:
        copy.write(b"".join(pieces))


def _copy_text(text: str) -> bytes:
    data = text.encode()
    return _COPY_LENGTH.pack(len(data)) + data
