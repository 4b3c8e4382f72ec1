"""A checkpoint kept outside the store: what a store that was put back from an older backup is recognised by.

Whoever holds the checkpoint of size N knows what the first N entries were. A store that has fewer, or others, is not what it was: it must
not be written, since clients hold answers for what is missing. What was booked after the checkpoint was kept is not covered; so it is
renewed every few seconds, and wants another disk than the store.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ledger.errors import LedgerError, refusal
from ledger.log.checkpoint import Checkpoint, open_note, parse_checkpoint, sign_checkpoint
from ledger.log.snapshot import fsync_folder
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger import Ledger
    from ledger.log.checkpoint import VerifierKey
    from ledger.log.log import Log


def check_kept(log: Log, path: str | os.PathLike[str], keys: Sequence[VerifierKey] = ()) -> int:
    """Compare a log with the checkpoint kept in a file, and give its size; 0 where there is no file yet.

    Signatures are checked where keys are given.

    Raises: DataLoss CHECKPOINT_INCONSISTENT for a log that is not what it was; Unavailable STORE_UNAVAILABLE for an unreadable file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return 0
    except (OSError, UnicodeDecodeError) as error:
        raise refusal(Reason.REASON_STORE_UNAVAILABLE, f"the kept checkpoint {path} cannot be read: {error}", store=path) from error
    try:
        kept = parse_checkpoint(text)
        if keys:
            open_note(text, keys)
    except LedgerError as error:
        message = f"the kept checkpoint {path} is damaged: {error.message}"
        raise refusal(Reason.REASON_CHECKPOINT_INCONSISTENT, message, size=log.size) from error
    if kept.size > log.size:
        message = (
            f"{log.url} has {log.size} entries, and had {kept.size} when {path} was kept: it was put back from an older backup."
            f" Bring back the {kept.size - log.size} entries, or accept that they are lost by moving {path} away"
        )
        raise refusal(Reason.REASON_CHECKPOINT_INCONSISTENT, message, size=log.size, expected=kept.size)
    if log.tree.root_at(kept.size) != kept.root:
        message = f"{log.url} has another root at size {kept.size} than {path}: it is another log, or was changed"
        raise refusal(Reason.REASON_CHECKPOINT_INCONSISTENT, message, size=kept.size)
    return kept.size


def keep(books: Ledger, path: str | os.PathLike[str]) -> int:
    """Write the checkpoint of everything durable to a file, signed if the ledger has a signer, and give its size.

    Raises: Unavailable STORE_UNAVAILABLE when it cannot be written.
    """
    size = books.size
    root = books.log.tree.root_at(size)
    body = Checkpoint(books.origin, size, root).body()
    text = body if books.signer is None else sign_checkpoint(books.origin, size, root, books.signer)
    target = Path(path).absolute()
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f"{target.name}.", suffix=".tmp", dir=target.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(target)
        fsync_folder(target.parent)
    except OSError as error:
        message = f"the checkpoint cannot be kept in {path}: {error.strerror}"
        raise refusal(Reason.REASON_STORE_UNAVAILABLE, message, store=path) from error
    return size
