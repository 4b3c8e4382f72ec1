"""The tables of one ledger in PostgreSQL: a schema of its own, how it is made, and how it is recognised."""

from __future__ import annotations

import hashlib
from typing import Any, NoReturn

import psycopg
from psycopg import sql

from ledger.errors import refusal
from ledger.log.postgres_sessions import IDENTIFIER_BYTES_MAX, in_schema
from stockledger.v1.errors_pb2 import Reason

STORE_VERSION = 2
"""The layout of the tables, in the row of the table `store`. Version 2 added `leader`."""

# Nothing is ever updated or deleted: vacuum comes for the inserts, often, so that each time it has little to do, and freezes at once, so
# that no pass over the whole table is ever due. It takes the lock that an append needs, and gives way to it.
_STORAGE = """ WITH (
    autovacuum_vacuum_insert_threshold = 200000, autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_cost_delay = 0,
    autovacuum_freeze_min_age = 0, autovacuum_analyze_threshold = 200000, autovacuum_analyze_scale_factor = 0)"""

_CREATE_LEADER = (
    "CREATE TABLE {schema}.leader (id integer PRIMARY KEY CHECK (id = 0), session integer NOT NULL, started timestamptz NOT NULL,"
    " address text NOT NULL)"
)

CREATE = (
    "CREATE TABLE {schema}.stored_events (originator_id text NOT NULL, originator_version bigint NOT NULL, topic text, state bytea,"
    " notification_id bigserial, PRIMARY KEY (originator_id, originator_version))" + _STORAGE,
    "ALTER TABLE {schema}.stored_events ALTER COLUMN state SET STORAGE EXTERNAL",  # packed columns: compressing costs time and gains little
    "CREATE UNIQUE INDEX stored_events_notification_id_idx ON {schema}.stored_events (notification_id)",
    "CREATE TABLE {schema}.hash_tiles (level integer, number bigint, hashes bytea NOT NULL, PRIMARY KEY (level, number))" + _STORAGE,
    "ALTER TABLE {schema}.hash_tiles ALTER COLUMN hashes SET STORAGE EXTERNAL",
    "CREATE TABLE {schema}.checkpoints (size bigint PRIMARY KEY, text text NOT NULL)",
    "CREATE TABLE {schema}.right_edge (id integer PRIMARY KEY CHECK (id = 0), size bigint NOT NULL, hashes bytea NOT NULL)",
    "CREATE TABLE {schema}.store (id integer PRIMARY KEY, version integer NOT NULL, ledger_id text NOT NULL, barriers bigint NOT NULL)",
    _CREATE_LEADER,
)

MIGRATIONS: dict[int, tuple[str, ...]] = {1: (_CREATE_LEADER,)}
"""What makes the tables of one version those of the next. Entries are never touched: the leaf is the stored bytes."""

# table -> its columns and primary key
EXPECTED_TABLES = {
    "checkpoints": ("size bigint, text text", "size"),
    "hash_tiles": ("level integer, number bigint, hashes bytea", "level, number"),
    "leader": ("id integer, session integer, started timestamp with time zone, address text", "id"),
    "right_edge": ("id integer, size bigint, hashes bytea", "id"),
    "store": ("id integer, version integer, ledger_id text, barriers bigint", "id"),
    "stored_events": (
        "originator_id text, originator_version bigint, topic text, state bytea, notification_id bigint",
        "originator_id, originator_version",
    ),
}

_ADDED = {2: ("leader",)}
"""version -> the tables that it added."""

# Only tables whose writes reach the disk as they are: permanent, without triggers, rules and row security.
TABLES_FOUND = """
SELECT c.relname,
  (SELECT string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
     FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  (SELECT string_agg(a.attname, ', ' ORDER BY place)
     FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS key(number, place), pg_attribute a
     WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid AND a.attrelid = c.oid AND a.attnum = key.number)
FROM pg_class c WHERE c.relnamespace = %s::text::regnamespace AND c.relkind = 'r' AND c.relpersistence = 'p'
  AND NOT c.relhastriggers AND NOT c.relhasrules AND NOT c.relrowsecurity"""


def schema_of(ledger_id: str) -> str:
    """Give the schema that holds a ledger: `ledger_acme`; PostgreSQL cuts names at 63 bytes, so a longer one ends in a hash."""
    name = f"ledger_{ledger_id}"
    if len(name) <= IDENTIFIER_BYTES_MAX:
        return name
    return f"{name[: IDENTIFIER_BYTES_MAX - 17]}_{hashlib.sha256(ledger_id.encode()).hexdigest()[:16]}"


def make_where_missing(connection: psycopg.Connection[Any], schema: str, ledger_id: str) -> None:
    """Make the schema and its tables, in one transaction; a schema that is there and empty may have been made for us."""
    schemas, tables = _tables_there(connection, schema)
    if tables:
        return
    with connection.transaction():
        if not schemas:
            connection.execute(in_schema(schema, "CREATE SCHEMA {schema}"))
        for each in CREATE:
            connection.execute(in_schema(schema, each))
        connection.execute(in_schema(schema, "INSERT INTO {schema}.store VALUES (0, %s, %s, 0)"), (STORE_VERSION, ledger_id))


def recognise(connection: psycopg.Connection[Any], schema: str, ledger_id: str, url: str) -> None:
    """Refuse a schema that is not ours, not of this ledger, or of another layout than ours.

    Raises: NotFound LEDGER_NOT_FOUND; DataLoss LOG_CORRUPT.
    """
    version = _version(connection, schema, ledger_id, url)
    if version < STORE_VERSION:
        message = f"{url} has store version {version}; this program needs {STORE_VERSION}: run `stockledger migrate`"
        raise refusal(Reason.REASON_LEDGER_NOT_FOUND, message, expected=STORE_VERSION, found=version)


def migrate_tables(connection: psycopg.Connection[Any], schema: str, ledger_id: str, url: str) -> tuple[int, int]:
    """Bring the tables to our version, in one transaction, and give the version they had and the one they have.

    Raises: NotFound LEDGER_NOT_FOUND; DataLoss LOG_CORRUPT.
    """
    found = _version(connection, schema, ledger_id, url)
    with connection.transaction():
        for version in range(found, STORE_VERSION):
            for each in MIGRATIONS[version]:
                connection.execute(in_schema(schema, each))
        connection.execute(in_schema(schema, "UPDATE {schema}.store SET version = %s"), (STORE_VERSION,))
    recognise(connection, schema, ledger_id, url)
    return found, STORE_VERSION


def _version(connection: psycopg.Connection[Any], schema: str, ledger_id: str, url: str) -> int:
    """Give the version of the tables, once they are seen to be what it says."""
    if not _tables_there(connection, schema)[1]:
        raise refusal(Reason.REASON_LEDGER_NOT_FOUND, f"{url}: there is no ledger {ledger_id}", expected=ledger_id, found="nothing")
    quoted = sql.Identifier(schema).as_string(connection)
    found = {name: (columns, key) for name, columns, key in connection.execute(TABLES_FOUND, (quoted,))}
    if found.get("store") != EXPECTED_TABLES["store"]:
        _corrupt(url, "its tables are not those of a ledger (store)")
    row = connection.execute(in_schema(schema, "SELECT version, ledger_id FROM {schema}.store")).fetchone()
    if row is None:
        _corrupt(url, "its table `store` is empty")
    version, found_id = int(row[0]), row[1]
    if found_id != ledger_id:
        message = f"{url} holds the ledger {found_id}, not {ledger_id}"
        raise refusal(Reason.REASON_LEDGER_NOT_FOUND, message, expected=ledger_id, found=found_id)
    if version not in range(1, STORE_VERSION + 1):
        message = f"{url} has store version {version}; this program knows {STORE_VERSION}: a newer one wrote it"
        raise refusal(Reason.REASON_LEDGER_NOT_FOUND, message, expected=STORE_VERSION, found=version)
    later = {name for since, names in _ADDED.items() if since > version for name in names}
    expected = {name: table for name, table in EXPECTED_TABLES.items() if name not in later}
    if found != expected:
        names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        _corrupt(url, f"its tables are not those of a ledger ({', '.join(names)})")
    return version


def _tables_there(connection: psycopg.Connection[Any], schema: str) -> tuple[int, int]:
    """Give how many schemas of this name there are, and how many tables in it."""
    query = (
        "SELECT count(DISTINCT n.oid), count(c.oid) FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid WHERE n.nspname = %s"
    )
    schemas, tables = connection.execute(query, (schema,)).fetchone() or (0, 0)
    return schemas, tables


def _corrupt(url: str, what: str) -> NoReturn:
    raise refusal(Reason.REASON_LOG_CORRUPT, f"{url}: {what}", store=url)
