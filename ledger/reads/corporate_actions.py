"""Reads of corporate actions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.reads.pages import page_of
from ledger.rules.checks import find_instrument
from ledger.rules.corporate_actions.lifecycle import find_action
from stockledger.v1.corporate_actions_pb2 import (
    Action,
    ActionCompleted,
    ActionState,
    GetActionRequest,
    GetActionResponse,
    ListActionsRequest,
    ListActionsResponse,
)

if TYPE_CHECKING:
    from ledger import records
    from ledger.state import State


def action_message(action: records.Action) -> Action:
    """Return an action as announced, with how far it is now."""
    message = Action.FromString(action.terms)
    message.state = ActionState.ValueType(action.state)
    return message


def get_action(state: State, request: GetActionRequest, now_us: int) -> GetActionResponse:
    action = find_action(state, request.action)
    totals = ActionCompleted.FromString(action.totals) if action.totals else None
    return GetActionResponse(size=state.size, action=action_message(action), totals=totals)


def list_actions(state: State, request: ListActionsRequest, now_us: int) -> ListActionsResponse:
    if request.instrument:
        find_instrument(state, request.instrument)
    wanted = (name for name, action in state.actions.items() if request.instrument in ("", action.instrument))
    page, token = page_of(request, wanted)
    return ListActionsResponse(size=state.size, next_page_token=token, actions=[action_message(state.actions[name]) for name in page])


READS = {
    GetActionRequest: get_action,
    ListActionsRequest: list_actions,
}
