"""The rules: what a command makes of the books.

`decide(state, command, context)` returns events or raises a refusal; `fold(state, entry)` books what was decided. Each file beside this
one is one capability and ends in two literal tables, command -> (decide, response) and event -> evolve; here they are put together.
Rules read no clock, no randomness, no store and no network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from google.protobuf.message_factory import GetMessageClass

from ledger.errors import refusal
from ledger.rules import (
    accounts,
    approvals,
    batches,
    chains,
    corporate_actions,
    custody,
    eligibility,
    evidence,
    fills,
    freezes,
    holds,
    instruments,
    issuance,
    multipliers,
    opening,
    packed,
    redemptions,
    reserves,
    reversals,
    settlement,
    transfers,
    wallets,
)
from ledger.rules.chains import anchors, divergences, observations, omnibus
from ledger.rules.chains.instructions import carry_out
from ledger.rules.chains.projection import PROJECTED
from ledger.rules.checks import check_not_late, time_us
from ledger.rules.context import Context
from stockledger.v1.approvals_pb2 import ApproveCommandRequest, ApproveCommandResponse
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.events_pb2 import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.protobuf.message import Message

    from ledger.state import State

RULES_VERSION: Final = 1
"""Raised when the meaning of a state table changes, so that older snapshots are not read."""
ARITHMETIC_VERSION: Final = 0

CAPABILITIES: Final = (
    opening,
    instruments,
    accounts,
    approvals,
    transfers,
    packed,
    batches,
    holds,
    settlement,
    custody,
    evidence,
    reserves,
    multipliers,
    freezes,
    wallets,
    eligibility,
    reversals,
    fills,
    issuance,
    redemptions,
    corporate_actions,
    chains,
    omnibus,
    anchors,
    divergences,
    observations,
)


class Rule(NamedTuple):
    """How a command is decided, what answers it, and under which name policies know it."""

    decide: Callable[[State, Any, Context], list[Any]]
    response: type[Any]
    name: str
    event: type[Any] | None
    """The type of event the response carries, or None."""
    answer: Callable[[Sequence[Any]], dict[str, Any]] | None
    """Makes the fields of a response that carries counts instead of an event."""


def _rule(command: type[Any], decide_command: Callable[..., list[Any]], response: type[Any]) -> Rule:
    answer = next((c.ANSWERS[response] for c in CAPABILITIES if response in getattr(c, "ANSWERS", {})), None)
    field = response.DESCRIPTOR.fields_by_name.get("event")
    event = None if field is None else GetMessageClass(field.message_type)
    return Rule(decide_command, response, approvals.command_name(command), event, answer)


def decide_approve(state: State, command: ApproveCommandRequest, context: Context) -> list[Message]:
    """Give an approval; the last one needed books the command that waited, in its requester's name, by today's rules."""
    approval = approvals.find_approval(state, command.approval)
    given = approvals.give_approval(approval, context.principal)
    if not given.completed:
        return [given]
    waiting = COMMAND_TYPES[approval.command].FromString(approval.content)
    if waiting.HasField("not_after_time"):
        check_not_late(time_us("not_after_time", waiting.not_after_time), context.decision_time_us)
    approvals.check_same_units(state, approval, waiting)
    requested = Context(context.decision_time_us, approval.requester, context.read_entry)
    return [given, *RULES[type(waiting)].decide(state, waiting, requested)]


RULES: Final[dict[type[Any], Rule]] = {
    command: _rule(command, decide_command, response)
    for capability in CAPABILITIES
    for command, (decide_command, response) in capability.COMMANDS.items()
} | {ApproveCommandRequest: _rule(ApproveCommandRequest, decide_approve, ApproveCommandResponse)}
COMMAND_TYPES: Final[dict[str, type[Any]]] = {rule.name: command for command, rule in RULES.items()}

_FIELD_OF_EVENT: Final[dict[str, str]] = {
    field.message_type.full_name: field.name for field in Entry.DESCRIPTOR.oneofs_by_name["event"].fields if field.message_type is not None
}
EVENT_FIELDS: Final[dict[type[Any], str]] = {
    event: _FIELD_OF_EVENT[event.DESCRIPTOR.full_name] for capability in CAPABILITIES for event in capability.EVENTS
}
"""Event type -> its field in Entry."""
TOPICS: Final[dict[type[Any], str]] = {event: event.DESCRIPTOR.full_name for event in EVENT_FIELDS}
EVOLVE: Final[dict[str, Callable[[State, Any, Entry], None]]] = {
    EVENT_FIELDS[event]: evolve for capability in CAPABILITIES for event, evolve in capability.EVENTS.items()
}
"""Field in Entry -> the function that books it."""


def decide(state: State, command: Any, context: Context) -> list[Any]:
    """Return the events a command leads to, or raise a LedgerError. Nothing is changed.

    A command that must wait for approvals leads to one ApprovalRequested, if it would be acceptable now.
    """
    rule = RULES[type(command)]
    events = rule.decide(state, command, context)
    policy = approvals.policy_of(state, command, rule.name)
    if policy is not None:
        return [approvals.request_approval(state, command, policy)]
    return events


def fold(state: State, entry: Entry, data: bytes) -> None:
    """Book one entry: the only way in which a state changes, live and in replay alike. `data` is the entry as stored.

    The parts of one command are set aside until the last one is there and then booked together, so nobody ever sees half of it.

    Raises LOG_CORRUPT where an entry cannot follow the ones before it.
    """
    part_count = entry.part_count
    if part_count:
        if entry.part != len(state.parts) or entry.part >= part_count:
            message = f"entry {state.size} is part {entry.part} of {part_count}, part {len(state.parts)} was expected"
            raise refusal(Reason.REASON_LOG_CORRUPT, message, index=state.size)
        if entry.part + 1 < part_count:
            state.parts.append(data)
            state.size += 1
            return
        parts = [Entry.FromString(part) for part in state.parts]
        state.parts.clear()
        first_index = state.size + 1 - part_count
        for part in parts:
            _evolve(state, part)
        _evolve(state, entry)
        state.size += 1
        _remember(state, entry, first_index)
        return
    if state.parts:
        message = f"entry {state.size} stands where part {len(state.parts)} of a command was expected"
        raise refusal(Reason.REASON_LOG_CORRUPT, message, index=state.size)
    _evolve(state, entry)
    state.size += 1
    _remember(state, entry, state.size - 1)


def _evolve(state: State, entry: Entry) -> None:
    kind = entry.WhichOneof("event")
    evolve = None if kind is None else EVOLVE.get(kind)
    if kind is None or evolve is None:
        raise refusal(Reason.REASON_LOG_CORRUPT, f"entry {state.size} has no event this version knows", index=state.size)
    event = getattr(entry, kind)
    evolve(state, event, entry)
    if kind in PROJECTED and state.deployments:
        carry_out(state, kind, event, entry)


def _remember(state: State, entry: Entry, index: int) -> None:
    """Note the decision time and the request, so that its repeat is recognised."""
    decision_time_us = entry.decision_time_us
    state.last_decision_time_us = decision_time_us
    request_id = entry.request_id
    if request_id:
        state.remember_request(request_id, entry.principal, index << 16, decision_time_us)
