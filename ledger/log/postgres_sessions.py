"""Sessions with PostgreSQL: what a store's URL says, and what every connection is told and asked before it is trusted."""

from __future__ import annotations

import functools
import os
import re
import socket
from collections.abc import Callable
from typing import Any, LiteralString, NamedTuple, NoReturn
from urllib.parse import unquote

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from ledger.errors import refusal
from ledger.log.store_url import redact_url
from stockledger.v1.errors_pb2 import Reason

BUSY_TIMEOUT_SECONDS = 5
"""How long a statement waits for another session's lock, and a connection for its server, before it is refused."""

ANSWER_SECONDS = 5
"""How long the server may take over a statement or a COMMIT before it is given up, and what became of it is not known."""

SERVER_VERSION_MIN = 140_000
"""13 is the first to vacuum a table for its inserts, 14 the first that can be waited for when it ends a session."""

_LEDGER_ID = re.compile(r"[A-Za-z0-9._/-]{1,64}")
IDENTIFIER_BYTES_MAX = 63

# Found by TCP within seconds when the other side is gone without a word. What the URL says comes first.
CONNECTION_DEFAULTS = {
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

SAFE_SETTINGS: dict[str, tuple[str, ...]] = {
    "synchronous_commit": ("on", "remote_apply"),
    "fsync": ("on",),
    "full_page_writes": ("on",),
    "zero_damaged_pages": ("off",),
    "ignore_checksum_failure": ("off",),
}
"""With any other value a commit is answered before it is on disk here and on the synchronous standbys, or damage is read as if sound."""

DURABLE_SETTINGS = ("synchronous_commit", "fsync", "full_page_writes")
"""Those that a reload of the server's configuration may change under a session: read again in every append."""


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
        malformed(shown, "is not understood")
    if len(ids) > 1 or any(not _LEDGER_ID.fullmatch(ledger_id) for ledger_id in ids):
        malformed(shown, "names a ledger that is not 1 to 64 of letters, digits, '.', '_', '/' and '-'")
    return PostgresUrl(connection, ids[0] if ids else None, shown)


def is_ledger_id(text: str) -> bool:
    """Tell whether a text can be the id of a ledger: 1 to 64 of letters, digits, '.', '_', '/' and '-'."""
    return _LEDGER_ID.fullmatch(text) is not None


def connect(connection_url: str, heed: Callable[[psycopg.errors.Diagnostic], None] | None = None) -> psycopg.Connection[Any]:
    """Open a session that is set as ours are; `heed` is told of its notices."""
    options: dict[str, Any] = {**CONNECTION_DEFAULTS, "application_name": this_process(), **conninfo_to_dict(connection_url)}
    connection = psycopg.connect(**options, autocommit=True)
    if heed is not None:
        connection.add_notice_handler(heed)
    prepare_session(connection)
    return connection


def prepare_session(connection: psycopg.Connection[Any]) -> None:
    """Set what a session of ours keeps, whatever its role or database is set to."""
    connection.execute(statement("; ".join(_SESSION)))


def settings_of(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """Read the settings on which durability rests."""
    names = list(SAFE_SETTINGS)
    rows = connection.execute("SELECT current_setting(name) AS value FROM unnest(%s::text[]) AS name", (names,)).fetchall()
    values = [row["value"] if isinstance(row, dict) else row[0] for row in rows]
    return dict(zip(names, values, strict=True))


def refuse_unsafe(settings: dict[str, str], url: str = "this database") -> None:
    """Refuse a server under whose settings what was answered may be lost."""
    for name, value in settings.items():
        if value not in SAFE_SETTINGS[name]:
            safe = " or ".join(SAFE_SETTINGS[name])
            message = f"{url} cannot be used: its setting {name} is {value}, and must be {safe}"
            raise refusal(Reason.REASON_STORE_UNAVAILABLE, message, store=url)


def this_process() -> str:
    """Name this process, for those who look into pg_stat_activity."""
    return f"stockledger pid {os.getpid()} on {socket.gethostname()}"[:IDENTIFIER_BYTES_MAX]


@functools.cache
def in_schema(schema: str, text: str) -> sql.Composed:
    """Put a schema's name into a statement of ours."""
    return sql.SQL(literal(text)).format(schema=sql.Identifier(schema))


def statement(text: str) -> sql.SQL:
    """Give a statement of ours to psycopg, which takes no text that could come from outside."""
    return sql.SQL(literal(text))


def literal(text: str) -> LiteralString:
    """Vouch for a statement of this module: no value from outside is part of it."""
    return text


def malformed(shown: str, what: str) -> NoReturn:
    """Refuse a URL."""
    message = f"the store {shown!r} {what}; the form is postgresql://user@host/database?ledger=acme"
    raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="store", value=shown)
