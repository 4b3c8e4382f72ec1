"""What the engine hands to a rule beside the state and the command: when it is decided, and who asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.state import State
    from stockledger.v1.events_pb2 import Entry


class Decided(Protocol):
    """Who decided an event, and when; an `Entry` is one."""

    @property
    def decision_time_us(self) -> int: ...
    @property
    def principal(self) -> str: ...
    @property
    def part(self) -> int: ...
    @property
    def part_count(self) -> int: ...


def entry_index(state: State, decided: Decided) -> int:
    """Return the index of the entry that is being booked. Parts of one command are booked together once the last one is there.

    Example: parts 0 and 1 of 2 at indexes 41 and 42 are both booked while `state.size` is 42.
    """
    return state.size - max(decided.part_count - 1 - decided.part, 0)


class Context(NamedTuple):
    """Decision time in microseconds since 1970 UTC, the principal, and a way to read booked entries by index.

    `read_entry` is as good as a field of the state: the log below `State.size` never changes. It raises EntryNotFound's reason itself.
    """

    decision_time_us: int
    principal: str
    read_entry: Callable[[int], Entry]
