"""`stockledger backup`: copy a store while it is written. PostgreSQL has tools of its own for that (docs/operations.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.errors import refusal
from ledger.log.store import open_log
from services.cli.outcome import DONE
from services.cli.output import grouped, print_json
from services.cli.stores import open_store, settings_of
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    """Copy the store to a new file, and say what the copy holds once it has been opened and compared with its tree."""
    settings = settings_of(options)
    if not settings.store.startswith("sqlite:"):
        message = "a store in PostgreSQL is backed up with its own tools: pg_dump of its schema, or pg_basebackup (docs/operations.md)"
        raise refusal(Reason.REASON_STATE_UNFIT, message, needed="sqlite")
    with open_store(settings) as log:
        log.copy_to(options.file)
    with open_log(f"sqlite:///{options.file}", read_only=True, ledger_id=settings.ledger_id or None) as copy:
        size, root = copy.size, copy.tree.root().hex()
    if options.json:
        print_json({"backup": options.file, "size": size, "root": root})
    else:
        print(f"{options.file} holds {grouped(size)} entries, root {root}")
    return DONE
