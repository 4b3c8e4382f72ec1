"""What one corporate action brings along: a file beside this one, named like its line in ActionTerms, with a HANDLER.

The lifecycle knows no particular action. It finds the file by the name of the line, so that a new action is one file, one message of
terms and its line, and nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from google.protobuf.message import Message

    from ledger.records import Action, Instrument
    from ledger.state import State


class Handler(NamedTuple):
    """One kind of corporate action; `terms` is always its own message of ActionTerms."""

    effects: Mapping[int, int]
    """ActionMethod -> the ActionEffect it comes to."""
    method: Callable[[Instrument], int]
    """The instrument's policy, where the announcement names no method."""
    check_terms: Callable[[Any], None]
    """(terms): refuse what is wrong in itself."""
    check_books: Callable[[State, Any, int], None]
    """(state, terms, method): refuse what the method misses, or what is not there."""
    growth: Callable[[Any], tuple[int, int]]
    """(terms): what a multiplier becomes by it, as (numerator, denominator)."""
    execute: Callable[[State, Action, Any, int], list[Message]]
    """(state, action, terms, decision time): return the events of its effect, ActionCompleted last."""


def find_handlers(kinds: Iterable[str], package: str) -> dict[str, Handler]:
    """Return the handler of each kind: the HANDLER of the file of this name. A line without a file stops the program at its start."""
    return {kind: import_module(f"{package}.{kind}").HANDLER for kind in kinds}
