"""Open what the settings name: books to write, a log to read, a state to look at, keys to sign and to verify with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp

from ledger import replay, snapshots
from ledger.engine import Ledger
from ledger.errors import LedgerError, refusal
from ledger.log.checkpoint import Signer, VerifierKey
from ledger.log.store import open_log
from ledger.rules.checks import time_us
from ledger.state import State
from services.cli.outcome import UsageError
from services.cli.output import note
from services.kept_checkpoint import check_kept
from services.settings import SECRET_KEY_START, Settings, load_settings
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    import argparse

    from ledger.log.log import Log
    from services.cli.output import Progress

_OTHERS_BITS = 0o077


def settings_of(options: argparse.Namespace) -> Settings:
    """Return the settings in force for these options."""
    return load_settings(vars(options), os.environ, getattr(options, "config", None))


def open_books(settings: Settings, progress: Progress, *, make: bool = True) -> Ledger:
    """Open the books to write in them, making the ledger where there is none, and say so.

    Raises: NotFound LEDGER_NOT_FOUND where there is none and none may be made.
    """
    if not make:
        open_log(settings.store, read_only=True, ledger_id=settings.ledger_id or None).close()
    books = Ledger.open(
        settings.store,
        ledger_id=settings.ledger_id or None,
        origin=settings.origin or None,
        principal=settings.principal,
        request_window_seconds=settings.request_window_seconds,
        request_window_count=settings.request_window_count,
        snapshot=settings.snapshot or None,
        progress=progress.of("open"),
    )
    try:
        if settings.checkpoint_file:
            check_kept(books.log, settings.checkpoint_file, verifier_keys_of(settings))
    except BaseException:
        books.close()
        raise
    if books.size == 1:
        note(f"{books.log.url} holds the ledger {books.ledger_id}, with no entry but its first; its checkpoints are of {books.origin}")
    return books


def open_store(settings: Settings, *, read_only: bool = True) -> Log:
    """Open the log alone: to read beside whoever writes, or to keep a checkpoint in it."""
    if not read_only:
        open_log(settings.store, read_only=True, ledger_id=settings.ledger_id or None).close()  # a writer would make an empty store
    return open_log(settings.store, read_only=read_only, ledger_id=settings.ledger_id or None)


def origin_of(log: Log) -> str:
    """Return the origin of the log's checkpoints, from its first entry."""
    return replay.parse_entry(log.entry(0), 0).ledger_opened.origin


def size_of(log: Log, size: int | None, time_text: str | None) -> int:
    """Return the size of the log, or that which --as-of-size or --as-of-time means."""
    if size is not None and time_text is not None:
        raise UsageError("--as-of-size and --as-of-time exclude one another")
    return log.size if size is None and time_text is None else replay.size_at(log, size=size, time_us=parse_time(time_text))


def state_of(log: Log, settings: Settings, progress: Progress, *, size: int | None = None, time_text: str | None = None) -> State:
    """Return the books as they are, or as of a size or a moment; from the snapshot where it is not beyond that."""
    wanted = size_of(log, size, time_text)
    path = settings.snapshot or snapshots.snapshot_path_of(settings.store)
    kept = snapshots.load_state(log, path)[0] if path is not None else None
    state = kept if kept is not None and kept.size <= wanted else State()
    replay.fold_log(state, log, wanted, progress.of("books"))
    return state


def parse_time(text: str | None) -> int | None:
    """Return a moment given as ISO 8601 in microseconds since 1970; a date alone is its first moment in UTC."""
    if text is None:
        return None
    moment = Timestamp()
    try:
        moment.FromJsonString(text if "T" in text else f"{text}T00:00:00Z")
        return time_us("time", moment)
    except (ValueError, LedgerError) as error:
        raise UsageError(f"{text!r} is not a moment such as 2026-11-22T18:00:00Z") from error


def read_text(path: str, what: str) -> str:
    """Return the text of a small file."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{what} {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} {path} is not text") from error


def read_secret(path: str) -> str:
    """Return the text of a file with a secret key, with a word about one that others can read."""
    text = read_text(path, "key").strip()
    if Path(path).stat().st_mode & _OTHERS_BITS:
        note(f"warning: {path} holds a secret key and can be read by others: chmod 600 {path}")
    return text


def signer_of(settings: Settings, origin: str) -> Signer | None:
    """Return the signer of checkpoints that is set, or None. Its name must be the log's origin: auditors compare them.

    Raises: RuleViolated EXPECTATION_FAILED for another name.
    """
    if not settings.signing_key:
        return None
    given = settings.signing_key
    text = given if given.startswith(SECRET_KEY_START) else read_secret(given)
    signer: Signer = as_key(Signer.from_secret_text, text, "signing key")
    if signer.name != origin:
        message = f"the signing key is of {signer.name}, the log's checkpoints are of {origin}"
        raise refusal(Reason.REASON_EXPECTATION_FAILED, message, expected=origin, found=signer.name)
    return signer


def verifier_keys_of(settings: Settings) -> list[VerifierKey]:
    """Return the public keys that are trusted; the public side of the signing key where none is named."""
    keys = []
    for given in settings.verifier_keys:
        text = read_text(given, "key").strip() if Path(given).is_file() else given
        if text.startswith(SECRET_KEY_START):
            keys.append(as_key(Signer.from_secret_text, text, "key").verifier_key)
        else:
            keys.append(as_key(VerifierKey.parse, text, "key"))
    if not keys and settings.signing_key:
        given = settings.signing_key
        text = given if given.startswith(SECRET_KEY_START) else read_secret(given)
        keys.append(as_key(Signer.from_secret_text, text, "signing key").verifier_key)
    return keys


def as_key(parse: Any, text: str, what: str) -> Any:
    """Read a key; what is wrong with one is the caller's to mend."""
    try:
        return parse(text)
    except LedgerError as error:
        raise UsageError(f"the {what} is not understood: {error.message}") from error
