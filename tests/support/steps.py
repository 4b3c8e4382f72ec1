"""Steps that stories of many rules share: a request sent twice, and a corporate action that falls due."""

from __future__ import annotations

import dataclasses
from typing import Any

from scenario import START_US, Scenario

from ledger.request_ids import format_request_id

REQUEST_ID = format_request_id((START_US // 1000 << 80 | 7 << 76 | 2 << 62 | 1).to_bytes(16, "big"))


def check_repeat(books: Scenario, command: Any, other: Any, *, principal: str = "operator") -> None:
    """Book a command under a request id, repeat it, and then send `other` under the same id. Both messages are changed."""
    command.request_id = other.request_id = REQUEST_ID
    first = books.when(command, principal=principal).accepted().answer
    again = books.when(command, principal=principal).answer
    assert books.error is None, f"the repeat was refused: {books.error}"
    assert not books.booked, "a repeat books nothing"
    assert again.booking.repeated_answer
    first.booking.repeated_answer = True
    assert again == first
    books.when(other, principal=principal).raises("REQUEST_ID_REUSED", request_id=REQUEST_ID)


def make_due(books: Scenario, symbol: str = "AAPLx") -> None:
    """Let a step of a corporate action have fallen due, without the action: for the order of checks only. Replay does not know it."""
    state = books.books._state
    state.put(state.instruments, symbol, dataclasses.replace(state.instruments[symbol], next_due_time_us=0))
    books.replayable = False
