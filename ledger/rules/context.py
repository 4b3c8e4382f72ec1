"""What the engine hands to a rule beside the state and the command: when it is decided, and who asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from stockledger.v1.events_pb2 import Entry


class Decided(Protocol):
    """Who decided an event, and when; an `Entry` is one."""

    @property
    def decision_time_us(self) -> int: ...
    @property
    def principal(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Context:
    """Decision time in microseconds since 1970 UTC, the principal, and a way to read booked entries by index.

    `read_entry` is as good as a field of the state: the log below `State.size` never changes. It raises EntryNotFound's reason itself.
    """

    decision_time_us: int
    principal: str
    read_entry: Callable[[int], Entry]
