"""`stockledger migrate`: bring the tables of a store to the layout of this program.

A command of its own, and nothing that happens on opening: with several servers on one store it is the operator who knows when the last
of the old ones has stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.log.store import migrate
from services.cli.outcome import DONE
from services.cli.output import print_json
from services.cli.stores import settings_of

if TYPE_CHECKING:
    import argparse


def run(options: argparse.Namespace) -> int:
    """Migrate the store, and say from which version to which."""
    settings = settings_of(options)
    old, new = migrate(settings.store, ledger_id=settings.ledger_id or None)
    if options.json:
        print_json({"from": old, "to": new})
    elif old == new:
        print(f"store version {new} already; nothing to do")
    else:
        print(f"store version {old} -> {new}; no entry was touched")
    return DONE
