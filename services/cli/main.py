"""The command `stockledger`: books, auditors' tools and keys, for people and for machines.

Reading the command line is all that happens here: what a command needs is imported once it is known which one was meant, so that
`--help` answers at once.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from services.cli.arguments import build_parser

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = build_parser().parse_args(arguments)
    return int(importlib.import_module("services.cli.dispatch").dispatch(options))


if __name__ == "__main__":
    sys.exit(main())
