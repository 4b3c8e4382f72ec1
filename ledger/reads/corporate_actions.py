"""Reads of corporate actions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.reads.pages import page_of
from ledger.rules.checks import find_holder, find_instrument
from ledger.rules.corporate_actions.lifecycle import find_action, why_unreleased
from stockledger.v1.corporate_actions_pb2 import (
    Action,
    ActionCompleted,
    ActionState,
    GetActionRequest,
    GetActionResponse,
    ListActionsRequest,
    ListActionsResponse,
    ListOwedRequest,
    ListOwedResponse,
    OwedEntitlement,
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


def owed_message(state: State, name: str, number: int, now_us: int) -> OwedEntitlement:
    """Return what an action owes an account, and why it cannot be released to it now."""
    action, account = state.actions[name], state.accounts[state.account_names[number]]
    blocked, unclaimed, withheld = state.owed[name, number]
    why = why_unreleased(state, action, account, now_us)
    return OwedEntitlement(
        action=name,
        instrument=action.instrument,
        account=account.name,
        holder=account.holder,
        cash_instrument=action.distributed,
        blocked_units=blocked,
        unclaimed_units=unclaimed,
        withheld_units=withheld,
        reason="" if why is None else why.reason_name,
        explanation="" if why is None else why.message,
    )


def list_owed(state: State, request: ListOwedRequest, now_us: int) -> ListOwedResponse:
    """List by action and account number; the number has ten digits, so that texts sort as numbers do."""
    if request.action:
        find_action(state, request.action)
    if request.instrument:
        find_instrument(state, request.instrument)
    of_holder = state.accounts_of_holder.get(find_holder(state, request.holder).holder, {}) if request.holder else {}
    wanted = (
        f"{name} {number:010}"
        for name, number in state.owed
        if request.action in ("", name)
        and request.instrument in ("", state.actions[name].instrument)
        and (not request.holder or state.account_names[number] in of_holder)
    )
    page, token = page_of(request, wanted)
    owed = [owed_message(state, name, int(number), now_us) for name, number in (key.split(" ") for key in page)]
    return ListOwedResponse(size=state.size, next_page_token=token, owed=owed)


READS = {
    GetActionRequest: get_action,
    ListActionsRequest: list_actions,
    ListOwedRequest: list_owed,
}
