"""Stores by URL: the log that is opened in each, and the settings that are refused for it.

    with open_log("sqlite:///books.db") as log:
        log.append("acme", ["stockledger.v1.LedgerOpened"], [entry])

What moves a store's bytes is in sqlite_backend.py and postgres_backend.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, NoReturn

from ledger.errors import refusal
from ledger.log.backend import Access, Backend
from ledger.log.log import Log
from ledger.log.sqlite_backend import SqliteBackend
from ledger.log.store_url import redact_url
from stockledger.v1.errors_pb2 import Reason


def open_log(url: str, *, read_only: bool = False, ledger_id: str | None = None, contend: bool = False) -> Log:
    """Open the log in the store of this URL; a writer makes the store when there is none.

    `sqlite:///books.db` is a relative path, `sqlite:////var/books.db` an absolute one, `sqlite:///:memory:` lives as long as the log.
    `postgresql://user@host/database?ledger=acme` is a ledger in a PostgreSQL database, which may hold many; `ledger_id` may name it too.

    With `contend`, a log that somebody else writes is opened to be read, and to be written when he is gone (`ledger.leadership`).

    Raises: InvalidRequest FIELD_MALFORMED for a URL that is not understood; NotFound LEDGER_NOT_FOUND when the store holds another
    ledger than `ledger_id`, or none to be read; Unavailable STORE_UNAVAILABLE when it is locked, read-only or away; DataLoss
    LOG_CORRUPT when its tables, tiles, last entries or last checkpoint contradict each other.
    """
    return _open(url, Access.READ if read_only else Access.CONTEND if contend else Access.WRITE, ledger_id)


def migrate(url: str, *, ledger_id: str | None = None) -> tuple[int, int]:
    """Bring the store's tables to this program's layout; give the version it had, and the one it has. No entry is touched.

    Raises: as `open_log`; Unavailable STORE_UNAVAILABLE while somebody writes it.
    """
    with _open(url, Access.MIGRATE, ledger_id) as log:
        return log.backend.versions


def _open(url: str, access: Access, ledger_id: str | None) -> Log:
    scheme, separator, _ = url.partition("://")
    open_store = _SCHEMES.get(scheme)
    if not separator or open_store is None:
        _malformed_url(url, f"names no kind of store; supported: {', '.join(_FORMS)}")
    store = open_store(url, access, ledger_id)
    try:
        return Log(store.backend, store.url, store.ledger_id)
    except BaseException:
        store.backend.close()
        raise


def _open_without_lock(url: str) -> Log:
    """Open a second writer, as only a test does that proves the primary key alone refuses it."""
    return _open(url, Access.WRITE_WITHOUT_LOCK, None)


class _Store(NamedTuple):
    """A store on its way to become a log: what moves its bytes, the URL to show, and the ledger that it must hold."""

    backend: Backend
    url: str
    ledger_id: str | None


def _open_sqlite(url: str, access: Access, ledger_id: str | None) -> _Store:
    path = url.removeprefix("sqlite://")
    if not path.startswith("/") or len(path) == 1:
        _malformed_url(url, "needs the form sqlite:///relative.db, sqlite:////absolute.db or sqlite:///:memory:")
    if "?" in path or "#" in path:
        _malformed_url(url, "has options, and none are understood; the form is sqlite:///relative.db")
    if access is Access.MIGRATE:  # whoever migrates makes no store
        SqliteBackend(path[1:], url, read_only=True).close()
    lock = access is not Access.WRITE_WITHOUT_LOCK
    return _Store(SqliteBackend(path[1:], url, read_only=access is Access.READ, lock=lock), url, ledger_id)


def _open_postgres(url: str, access: Access, ledger_id: str | None) -> _Store:
    try:
        from ledger.log import postgres_backend, postgres_sessions  # noqa: PLC0415 - psycopg is an extra
    except ImportError as error:
        message = f"a store in PostgreSQL needs a part that is not installed ({error}): pip install 'stockledger[postgres]'"
        raise refusal(Reason.REASON_STORE_UNAVAILABLE, message, store="postgresql://") from error
    parsed = postgres_sessions.parse_url(url)
    wanted = ledger_id or parsed.ledger_id
    if wanted is None:
        _malformed_url(parsed.shown, "names no ledger; the form is postgresql://user@host/database?ledger=acme")
    if parsed.ledger_id not in (None, wanted):
        message = f"{parsed.shown} names the ledger {parsed.ledger_id}, not {wanted}"
        raise refusal(Reason.REASON_LEDGER_NOT_FOUND, message, expected=wanted, found=parsed.ledger_id)
    return _Store(postgres_backend.PostgresBackend(parsed, wanted, access), parsed.shown, wanted)


# A store for nats gets a module beside sqlite_backend.py and a line here.
_SCHEMES: dict[str, Callable[[str, Access, str | None], _Store]] = {
    "sqlite": _open_sqlite,
    "postgresql": _open_postgres,
}
_FORMS = ("sqlite:///books.db", "postgresql://user@host/database?ledger=acme")


def refuse_unsafe_settings(environ: Mapping[str, str]) -> None:
    """Refuse settings of the eventsourcing library under which a store loses events, or a reader misses them.

    Services call it with their environment; nothing here reads one.

    Raises: InvalidRequest FIELD_MALFORMED.
    """
    for name, value in environ.items():
        for ending, (unsafe, why) in _UNSAFE_SETTINGS.items():
            if (name == ending or name.endswith("_" + ending)) and unsafe(value.strip().lower()):
                raise refusal(Reason.REASON_FIELD_MALFORMED, f"{name}={value} is refused: {why}", field=name, value=value)


def _is_true(value: str) -> bool:
    """Tell whether the library would take this for true; what it cannot read counts as true."""
    return value not in ("", "n", "no", "f", "false", "off", "0")


# The library also looks for each name with an application's name before it.
_UNSAFE_SETTINGS: dict[str, tuple[Callable[[str], bool], str]] = {
    "POSTGRES_ENABLE_DB_FUNCTIONS": (
        _is_true,
        "its inserts skip the table lock, and a tailing reader then misses events that commit out of order",
    ),
    "ORIGINATOR_ID_TYPE": (lambda value: value not in ("", "text"), "a ledger's id is a text"),
}


def _malformed_url(url: str, what: str) -> NoReturn:
    shown = redact_url(url)
    raise refusal(Reason.REASON_FIELD_MALFORMED, f"the store {shown!r} {what}", field="store", value=shown)
