"""Chains: what the ledger wants done there, and what was seen there. docs/chains.md says how it all hangs together.

registration.py    chains registered, amended, retired
deployments.py     an instrument's token on a chain
keys.py            keys that sign for the ledger; addresses that stand for accounts
places.py          what stands at a chain and what may go there
projection.py      what the ledger wants done on chains after an event
instructions.py    instructions opened, blocked, given up
transactions.py    transactions recorded before they are signed, and buried
crossings.py       movements between the book and chains
withdrawals.py     how much may leave omnibus wallets
endings.py         how instructions end, or start over
sequences.py       what makes a transaction happen once at most
observations.py    a range of a chain booked; ranges.py and walks.py help
missed.py          what a node left out of one
divergences.py     figures held together, places halted and free again
omnibus.py         sweeps, and deposits of nobody known
anchors.py         checkpoints kept on chains
"""

from __future__ import annotations

from typing import Any

from ledger.rules.chains import (
    anchors,
    deployments,
    divergences,
    instructions,
    keys,
    missed,
    observations,
    omnibus,
    registration,
    transactions,
)

_ROOMS: tuple[Any, ...] = (registration, deployments, keys, instructions, transactions, observations, missed, divergences, omnibus, anchors)

COMMANDS: dict[type[Any], tuple[Any, type[Any]]] = {command: rule for room in _ROOMS for command, rule in room.COMMANDS.items()}
EVENTS: dict[type[Any], Any] = {event: evolve for room in _ROOMS for event, evolve in room.EVENTS.items()}
ANSWERS: dict[type[Any], Any] = {answer: make for room in _ROOMS for answer, make in getattr(room, "ANSWERS", {}).items()}
