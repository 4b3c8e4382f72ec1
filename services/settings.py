"""What a service is set to, and from where: a flag, the environment, a file, or the default, in this order.

    store = "sqlite:///books.db"            in stockledger.toml
    STOCKLEDGER_STORE=sqlite:///books.db    in the environment
    --store sqlite:///books.db              as a flag

The names are the same everywhere. A name in the file that is not known is refused, since a setting that is silently not in force is
worse than none. Only services read the environment.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ledger.engine import DEFAULT_PRINCIPAL, REQUEST_WINDOW_COUNT, REQUEST_WINDOW_SECONDS
from ledger.log.store_url import redact_url
from services.chain_worker.settings import WorkerSettings
from services.grpc_server.settings import ServerSettings
from services.setting import expected_of, setting

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FILE_NAME: Final = "stockledger.toml"
"""Read from the current directory, if it is there and no other file is named."""
ENVIRONMENT_PREFIX: Final = "STOCKLEDGER_"
SECRET_KEY_START: Final = "PRIVATE+KEY+"  # noqa: S105 - how such a text begins, not one
_HIDDEN: Final = "(hidden)"
_DIGITS_MAX: Final = 20
_SECRETS: Final = ("page_token_secret", "chain_key_passphrase")
"""Settings that are shown by nobody; others hide the secret part of their text."""


class SettingsError(Exception):
    """A setting is not understood; the message says which, where, and what was expected."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings in force, those of a server and of a worker apart. `sources` says for each where it came from."""

    store: str = setting("sqlite:///stockledger.db", "URL of the store: sqlite:///relative.db or sqlite:////absolute.db")
    ledger_id: str = setting("", "id of the ledger; guards against the wrong store, and names a new one (empty: the file's name)")
    origin: str = setting("", "origin line of a new ledger's checkpoints, the name of its signing key (empty: stockledger.local/<id>)")
    principal: str = setting(DEFAULT_PRINCIPAL, "who asks")
    approvers: tuple[str, ...] = setting((), "who approves at once what waits for approval")
    signing_key: str = setting("", "key that signs checkpoints: a file, or the text PRIVATE+KEY+... itself")
    verifier_keys: tuple[str, ...] = setting((), "public keys whose signatures are trusted: files, or texts name+id+key")
    snapshot: str = setting("", "where the snapshot of the books is kept (empty: beside the store's file)")
    checkpoint_file: str = setting(
        "", "a file outside the store with its last checkpoint: a store without all of it (an older backup) is not written; serve renews it"
    )
    request_window_seconds: int = setting(REQUEST_WINDOW_SECONDS, "of a new ledger: how long repeated requests are recognised")
    request_window_count: int = setting(REQUEST_WINDOW_COUNT, "of a new ledger: how many requests are remembered at most")
    server: ServerSettings = dataclasses.field(default_factory=ServerSettings)
    worker: WorkerSettings = dataclasses.field(default_factory=WorkerSettings)
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)


SERVER_SETTINGS: Final = {field.name: field for field in dataclasses.fields(ServerSettings)}
WORKER_SETTINGS: Final = {field.name: field for field in dataclasses.fields(WorkerSettings)}
SETTINGS: Final = {field.name: field for field in dataclasses.fields(Settings) if field.metadata} | SERVER_SETTINGS | WORKER_SETTINGS


def load_settings(flags: Mapping[str, Any], environment: Mapping[str, str], file: str | None = None) -> Settings:
    """Return the settings in force. Flags that are None, or not settings, do not count; nor does an empty environment variable.

    Raises: SettingsError.
    """
    values: dict[str, Any] = {}
    sources = dict.fromkeys(SETTINGS, "default")
    for name, (value, where) in _from_file(file).items():
        values[name], sources[name] = value, where
    for name in SETTINGS:
        variable = ENVIRONMENT_PREFIX + name.upper()
        if environment.get(variable):
            sources[name] = f"environment {variable}"
            values[name] = _parse(name, environment[variable], sources[name])
        if flags.get(name) is not None:
            sources[name] = f"flag --{name.replace('_', '-')}"
            values[name] = _parse(name, flags[name], sources[name])
    server = ServerSettings(**{name: value for name, value in values.items() if name in SERVER_SETTINGS})
    worker = WorkerSettings(**{name: value for name, value in values.items() if name in WORKER_SETTINGS})
    own = {name: value for name, value in values.items() if name not in SERVER_SETTINGS and name not in WORKER_SETTINGS}
    return Settings(**own, server=server, worker=worker, sources=sources)


def unknown_variables(environment: Iterable[str]) -> list[str]:
    """Return the environment variables that look like settings and are none, with what may have been meant."""
    known = {ENVIRONMENT_PREFIX + name.upper() for name in SETTINGS}
    strangers = sorted(name for name in environment if name.startswith(ENVIRONMENT_PREFIX) and name not in known)
    return [f"{name} is not a setting{suggestion(name, known)}" for name in strangers]


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean ...?)" for the known name nearest to this one, or nothing."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {nearest[0]}?)" if nearest else ""


def shown_value(settings: Settings, name: str) -> str:
    """Return a setting as text for people, with what is secret in it hidden."""
    value = getattr(settings.server if name in SERVER_SETTINGS else settings.worker if name in WORKER_SETTINGS else settings, name)
    if name == "chains":
        return ", ".join(_shown_chain(item) for item in value)
    if isinstance(value, tuple):
        return ", ".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    if name in _SECRETS and value:
        return _HIDDEN
    text = str(value)
    if text.startswith(SECRET_KEY_START):
        name_and_id = text.removeprefix(SECRET_KEY_START).split("+")[:2]
        return "+".join([SECRET_KEY_START.rstrip("+"), *name_and_id, _HIDDEN])
    return redact_url(text) if "://" in text or name == "store" else text


def _shown_chain(item: str) -> str:
    """Return a chain and its nodes without what providers put into addresses: whoever has it can spend their quota."""
    chain, _, nodes = item.partition("=")
    shown = []
    for node in nodes.split():
        scheme, separator, rest = node.partition("://")
        host, slash, path = rest.partition("/")
        shown.append(f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{_HIDDEN if path else ''}")
    return f"{chain}={' '.join(shown)}"


def _from_file(named: str | None) -> dict[str, tuple[Any, str]]:
    """Read the settings of the named file, or of the one in the current directory, if there is one."""
    path = Path(named or FILE_NAME)
    if named is None and not path.is_file():
        return {}
    import tomllib  # noqa: PLC0415 - most runs have no file

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # TOML or UTF-8 that it is not, an integer of thousands of digits, nesting without end
        raise SettingsError(f"{path} is not TOML: {error}") from error
    for name in content:
        if name not in SETTINGS:
            raise SettingsError(f"{path} sets {name}, which is not a setting{suggestion(name, SETTINGS)}")
    source = f"file {path}"
    return {name: (_parse(name, value, source), source) for name, value in content.items()}


def check_value(name: str, value: Any, source: str = "") -> None:
    """Refuse a value that has its setting's type and is not what the setting must be.

    Raises: SettingsError.
    """
    if expected := expected_of(SETTINGS[name], value):
        raise SettingsError(refused_value(name, value, source, expected))


def refused_value(name: str, value: Any, source: str, expected: str) -> str:
    """Return the words in which a value is refused. A source is as in `Settings.sources`, or empty.

    Example: "reader_threads of --reader-threads is 0, it must be a whole number, 1 to 256".
    """
    where = source.partition(" ")[2]
    shown = ", ".join(value) if isinstance(value, tuple) else value
    return f"{name}{f' of {where}' if where else ''} is {shown!r}, it must be {expected}"


def _parse(name: str, value: Any, source: str) -> Any:
    """Return a value of the setting's type. Lists are lists in the file and on the command line, and have commas in the environment."""
    default = SETTINGS[name].default
    if isinstance(default, tuple):
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
            raise SettingsError(refused_value(name, value, source, "a list of texts"))
        value = tuple(item.strip() for item in items if item.strip())
    elif isinstance(default, bool):
        value = {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value
        if not isinstance(value, bool):
            raise SettingsError(refused_value(name, value, source, "true or false"))
    elif isinstance(default, int):
        if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= _DIGITS_MAX:
            value = int(value)
    elif not isinstance(value, str):
        where = source.partition(" ")[2]
        raise SettingsError(f"{name} of {where} is of type {type(value).__name__}, it must be a text")
    check_value(name, value, source)
    return value
