"""Checkpoints that stood elsewhere: on a chain, with a witness, in an auditor's drawer. Where, does not matter to what they prove."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from ledger.errors import LedgerError, refusal
from ledger.log.checkpoint import Checkpoint, open_note, parse_checkpoint
from services.cli.outcome import UsageError
from services.cli.stores import read_text
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.log.checkpoint import VerifierKey
    from ledger.log.log import Log

_SIZE_AND_ROOT: Final = re.compile(r"(0|[1-9][0-9]{0,18}):(?:0x)?([0-9a-fA-F]{64})")


class Anchored(NamedTuple):
    """What was read elsewhere. Without a note nothing says whose log it is of: that is for the caller to know."""

    checkpoint: Checkpoint
    note: str = ""


def read_anchored(given: str) -> Anchored:
    """Read what was anchored. Line ends that a terminal or an editor added after a note are no part of it.

    Raises: UsageError.
    """
    figures = _SIZE_AND_ROOT.fullmatch(given)
    if figures is not None:
        return Anchored(Checkpoint("", int(figures[1]), bytes.fromhex(figures[2])))
    note = read_text(given, "checkpoint").rstrip("\n") + "\n"
    try:
        return Anchored(parse_checkpoint(note), note)
    except LedgerError as error:
        raise UsageError(f"{given} is no checkpoint: {error.message}") from error


def check_signed(anchored: Anchored, keys: Sequence[VerifierKey], origin: str = "") -> None:
    """See that a note was signed by one of the keys, and is of the log that is meant.

    Raises: DataLoss CHECKPOINT_INCONSISTENT.
    """
    if not anchored.note:
        return
    try:
        open_note(anchored.note, keys)
    except LedgerError as error:
        message = f"what was anchored is not of this log: {error.message}"
        raise refusal(Reason.REASON_CHECKPOINT_INCONSISTENT, message, size=anchored.checkpoint.size) from error
    if origin and anchored.checkpoint.origin != origin:
        message = f"what was anchored is of {anchored.checkpoint.origin}, the log is {origin}"
        raise refusal(Reason.REASON_CHECKPOINT_INCONSISTENT, message, size=anchored.checkpoint.size)


def check_beginning(log: Log, anchored: Anchored) -> None:
    """See that what was anchored is the beginning of a log.

    Raises: DataLoss CHECKPOINT_INCONSISTENT.
    """
    size = anchored.checkpoint.size
    if size > log.size:
        message = f"{size} entries were anchored, {log.url} has {log.size}"
    elif log.tree.root_at(size) != anchored.checkpoint.root:
        message = f"{log.url} has another root at size {size} than was anchored: it is another log, or was changed"
    else:
        return
    raise refusal(Reason.REASON_CHECKPOINT_INCONSISTENT, message, size=size)
