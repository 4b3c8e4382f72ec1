"""Corporate actions: one lifecycle, three effects, and one file for each action.

lifecycle.py   announce, fix, execute, cancel, release; knows no particular action
effects.py     distribution, replacement, multiplier: the arithmetic and how it is booked
schedule.py    multipliers set for a moment ahead, for chains
handlers.py    what the file of an action must have, and how it is found
(others)       one action each, named like its line in ActionTerms
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger.rules.corporate_actions import effects, lifecycle, schedule

if TYPE_CHECKING:
    from collections.abc import Callable

COMMANDS: dict[type[Any], tuple[Callable[..., list[Any]], type[Any]]] = lifecycle.COMMANDS
EVENTS: dict[type[Any], Callable[..., None]] = lifecycle.EVENTS | effects.EVENTS | schedule.EVENTS
ANSWERS: dict[type[Any], Callable[..., dict[str, Any]]] = lifecycle.ANSWERS
