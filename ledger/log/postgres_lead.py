"""Who of several sessions writes a ledger: the one that holds its advisory lock.

The lock dies with its session, so a killed leader is followed at once. A leader that hangs, or whose host is gone without a word, keeps
its session until somebody ends it: a leader that has told its address also says something in its session twice a second, and the session
of one that has been silent for LEASE_SECONDS may be ended by whoever wants to lead. All this is judged by the server's clock alone, and
none of it is what keeps the books right: that is the primary key.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any, NamedTuple

import psycopg

from ledger.log.postgres_sessions import BUSY_TIMEOUT_SECONDS, in_schema

LEASE_SECONDS = 5
"""How long a leader that has told its address may be silent before its session may be ended by another."""

_ATTEMPTS = 3

_HOLDER = """
SELECT l.pid, coalesce(a.application_name, ''), coalesce(host(a.client_addr), 'a local socket'), o.address,
  CASE WHEN a.wait_event = 'ClientRead' THEN extract(epoch FROM clock_timestamp() - a.state_change)::float ELSE 0 END
FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
  LEFT JOIN {schema}.leader o ON o.session = l.pid AND o.started = a.backend_start
WHERE l.locktype = 'advisory' AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::bigint << 32 | l.objid::bigint) = %s AND l.objsubid = 1"""

_HOLDER_ALONE = """
SELECT pid, coalesce(a.application_name, ''), coalesce(host(a.client_addr), 'a local socket')
FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::bigint << 32 | l.objid::bigint) = %s AND l.objsubid = 1"""

_ADVERTISE = """
INSERT INTO {schema}.leader (id, session, started, address)
  SELECT 0, pid, backend_start, %s FROM pg_stat_activity WHERE pid = pg_backend_pid()
  ON CONFLICT (id) DO UPDATE SET session = excluded.session, started = excluded.started, address = excluded.address"""


class Holder(NamedTuple):
    """The session that holds the lock."""

    session: int
    name: str
    host: str
    address: str | None
    """Where clients reach its server, if it has said so."""
    silent_seconds: float
    """How long the server has waited for a word of it; 0 while it is the server that works."""

    def __str__(self) -> str:
        return f"{self.name or 'unknown'}, session {self.session} from {self.host}"


class Lead:
    """The lock of one ledger."""

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._key = struct.unpack("!q", hashlib.sha256(f"stockledger {schema}".encode()).digest()[:8])[0]

    def try_lock(self, connection: psycopg.Connection[Any]) -> bool:
        """Take the lead for this session, if nobody has it."""
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", (self._key,)).fetchone()
        return row is not None and bool(row[0])

    def holder(self, connection: psycopg.Connection[Any]) -> Holder | None:
        """Look who has the lead."""
        row = connection.execute(in_schema(self._schema, _HOLDER), (self._key,)).fetchone()
        return None if row is None else Holder._make(row)

    def take(self, connection: psycopg.Connection[Any], last_session: int | None) -> str | None:
        """Take the lead, or say who has it. A session of our own (`last_session`) that the server has not given up yet is ended first."""
        for _ in range(_ATTEMPTS):
            if self.try_lock(connection):
                return None
            # The tables may not be there yet: another one is making them.
            row = connection.execute(_HOLDER_ALONE, (self._key,)).fetchone()
            if row is None:
                continue
            session, name, host = row
            if session != last_session:
                return f"{name or 'unknown'}, session {session} from {host}"
            end_session(connection, session)
        return f"session {last_session} of our own, which does not end"

    def take_from_silent(self, connection: psycopg.Connection[Any], last_session: int | None) -> bool:
        """Take the lead where nobody has it, or where its holder is our own last session or has been silent for too long."""
        if self.try_lock(connection):
            return True
        holder = self.holder(connection)
        if holder is None:
            return self.try_lock(connection)
        if holder.session == last_session or (holder.address is not None and holder.silent_seconds > LEASE_SECONDS):
            end_session(connection, holder.session)
            return self.try_lock(connection)
        return False

    def advertise(self, connection: psycopg.Connection[Any], address: str) -> None:
        """Tell followers where the leader is reached; true only as long as this session holds the lock."""
        connection.execute(in_schema(self._schema, _ADVERTISE), (address,))


def end_session(connection: psycopg.Connection[Any], session: int) -> None:
    """End a session, and wait until it has: what it was about to commit is committed or never will be."""
    connection.execute("SELECT pg_terminate_backend(%s, %s)", (session, BUSY_TIMEOUT_SECONDS * 1000))
