"""Answers: made from what was booked, so that a repeated request gets its first answer again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from google.protobuf.timestamp_pb2 import Timestamp

from ledger.errors import LedgerError
from ledger.request_ids import format_request_id
from stockledger.v1.approvals_pb2 import ApprovalRequested

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.rules import Rule


class Booked(NamedTuple):
    """A command that was booked (or found acceptable: index -1), with the events it led to."""

    rule: Rule
    index: int  # type: ignore[assignment]  # tuples have a method of that name; nobody looks for a value in this one
    entry_count: int
    position: int
    events: Sequence[Any]
    decision_time_us: int
    request_id: bytes
    repeated: bool = False


def timestamp(moment_us: int) -> Timestamp:
    """Return a moment as a protobuf Timestamp."""
    seconds, micros = divmod(moment_us, 1_000_000)
    return Timestamp(seconds=seconds, nanos=micros * 1000)


def answer_of(booked: Booked, size: int) -> Any:
    """Make the response to a booked command. `size` is the durable size of the log that it reflects."""
    rule, index, entry_count, position, events, decision_time_us, request_id, repeated = booked
    response = rule.response() if rule.answer is None else rule.response(**rule.answer(events))
    booking = response.booking  # set field by field, in its place: half the time of keyword arguments and a copy
    booking.index, booking.entry_count, booking.size = index, entry_count, size
    booking.request_id = format_request_id(request_id)
    if position or repeated:
        booking.position, booking.repeated_answer = position, repeated
    decision_time = booking.decision_time
    decision_time.seconds, micros = divmod(decision_time_us, 1_000_000)
    decision_time.nanos = micros * 1000
    first = events[0]
    if type(first) is ApprovalRequested:
        booking.approval = first.approval
    if rule.event is not None and rule.answer is None:
        for event in events:
            if type(event) is rule.event:
                response.event.CopyFrom(event)
                break
    return response


class Answers(Sequence[Any]):
    """The results of `execute_many`, in order: a response, or the LedgerError that refused the command.

    Responses are made when they are looked at, since a caller of thousands rarely looks at each.
    """

    def __init__(self, outcomes: Sequence[Any], size: int, positions: range | None = None) -> None:
        """Take outcomes: Booked, a LedgerError, or the run of transfers that a command is in; and the positions of these commands."""
        self._outcomes = outcomes
        self.size = size
        self._positions = range(len(outcomes)) if positions is None else positions

    @property
    def refusals(self) -> dict[int, LedgerError]:
        """The refused commands: position -> why."""
        if not any(issubclass(kind, LedgerError) for kind in set(map(type, self._outcomes))):
            return {}  # the usual answer, in a quarter of the time
        return {n: outcome for n, outcome in enumerate(self._outcomes) if isinstance(outcome, LedgerError)}

    def __len__(self) -> int:
        return len(self._outcomes)

    @overload
    def __getitem__(self, position: int) -> Any: ...
    @overload
    def __getitem__(self, position: slice) -> Answers: ...
    def __getitem__(self, position: int | slice) -> Any:
        if isinstance(position, slice):
            return Answers(self._outcomes[position], self.size, self._positions[position])
        outcome = self._outcomes[position]
        if isinstance(outcome, LedgerError):
            return outcome
        if type(outcome) is not Booked:
            outcome = outcome.booked(self._positions[position])
        return answer_of(outcome, self.size)

    def __iter__(self) -> Iterator[Any]:
        return (self[position] for position in range(len(self)))
