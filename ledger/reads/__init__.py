"""Reads of the books: one function a request message, over a state that is durable. Each file ends in its table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ledger.reads import approvals, books, chains, corporate_actions, divergences, eligibility, holds, primary_market, receivables, reserves

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.state import State

_ROOMS: Final = (
    books,
    eligibility,
    approvals,
    holds,
    reserves,
    receivables,
    primary_market,
    corporate_actions,
    chains,
    divergences,
)

READS: Final[dict[type[Any], Callable[[State, Any, int], Any]]] = {request: read for room in _ROOMS for request, read in room.READS.items()}
"""Request type -> (state, request, moment in microseconds) -> response."""
