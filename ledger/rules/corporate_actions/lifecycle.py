"""The life of a corporate action, whatever it does.

    command              event                                                 the action is then
    AnnounceAction       ActionAnnounced                                       announced
    FixEntitlements      EntitlementsFixed, in parts                           fixed
    ExecuteAction        those of its effect (effects.py), ActionCompleted     completed
    CancelAction         ActionCancelled                                       cancelled
    ReleaseEntitlement   EntitlementReleased                                   (completed)

Due steps. An action is due to be fixed at its fixing_time, if it has one, and then to be executed at its execution_time. A step that
would change what others book has the instrument wait for it: until it is taken, they are refused with ACTION_DUE. These are the fixing of
entitlements, and the execution of a replacement or a multiplier. The payment of a distribution is none of them: who is due what was
fixed, and nobody's transfer must wait for an issuer's cash. Steps of several actions of one instrument are taken in the order in which
they fell due; of two that fell due at the same moment either may come first.

Entitlements are fixed for every account that has units at that moment, those on hold, frozen, or on the ledger's own accounts included,
except issuance, which owes them.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from ledger import records
from ledger.errors import LedgerError, refusal
from ledger.records import NEVER
from ledger.rules.approvals import check_role
from ledger.rules.chains.endings import units_in_transit
from ledger.rules.checks import (
    OPERATION_TRANSFER,
    check_date,
    check_enum,
    check_id,
    check_length,
    check_open,
    check_present,
    find_account,
    find_instrument,
    time_us,
    utc_text,
)
from ledger.rules.corporate_actions.effects import check_totals, why_unpaid
from ledger.rules.corporate_actions.handlers import find_handlers
from ledger.rules.corporate_actions.schedule import open_actions, schedule_events
from ledger.rules.instruments import change_instrument, check_kind, find_usable
from ledger.state import BLOCKED, ISSUANCE, UNCLAIMED
from stockledger.v1.approvals_pb2 import Role
from stockledger.v1.corporate_actions_pb2 import (
    Action,
    ActionAnnounced,
    ActionCancelled,
    ActionCompleted,
    ActionEffect,
    ActionState,
    ActionTerms,
    AnnounceActionRequest,
    AnnounceActionResponse,
    CancelActionRequest,
    CancelActionResponse,
    EntitlementReleased,
    EntitlementsFixed,
    ExecuteActionRequest,
    ExecuteActionResponse,
    FixEntitlementsRequest,
    FixEntitlementsResponse,
    ReleaseEntitlementRequest,
    ReleaseEntitlementResponse,
)
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.instruments_pb2 import ActionMethod, MultiplierChanged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

    from ledger.records import Instrument
    from ledger.rules.context import Context, Decided
    from ledger.rules.corporate_actions.handlers import Handler
    from ledger.state import State

ENTITLEMENTS_PER_ENTRY_MAX: Final = 4_000
"""12 bytes each: 48,000 of the 65,535 bytes of a leaf."""

KINDS: Final = tuple(field.name for field in ActionTerms.DESCRIPTOR.oneofs_by_name["kind"].fields)
HANDLERS: Final[dict[str, Handler]] = find_handlers(KINDS, "ledger.rules.corporate_actions")
"""Line of ActionTerms -> the action's own file."""

_ANNOUNCED: Final = ActionState.ACTION_STATE_ANNOUNCED
_FIXED: Final = ActionState.ACTION_STATE_FIXED
_OPEN: Final = (_ANNOUNCED, _FIXED)
_MULTIPLIER: Final = ActionEffect.ACTION_EFFECT_MULTIPLIER
_DISTRIBUTION: Final = ActionEffect.ACTION_EFFECT_DISTRIBUTION


# ---- what is due ----------------------------------------------------------------------------------------------------------------------


def due_time_us(action: records.Action) -> int:
    """Return when the next step of an action falls due."""
    if action.state == _ANNOUNCED:
        return min(action.fixing_time_us, action.execution_time_us)
    return action.execution_time_us if action.state == _FIXED else NEVER


def waiting_time_us(action: records.Action) -> int:
    """Return from when on others must wait for the next step of an action: a distribution that is fixed changes nothing of theirs."""
    return NEVER if action.state == _FIXED and action.effect == _DISTRIBUTION else due_time_us(action)


def _put_action(state: State, action: records.Action) -> None:
    """Book an action as it is now, and when its instrument is next due."""
    state.put(state.actions, action.action, action)
    due_us = min(waiting_time_us(other) for other in state.actions.values() if other.instrument == action.instrument)
    if due_us != state.instruments[action.instrument].next_due_time_us:
        change_instrument(state, action.instrument, next_due_time_us=due_us)


def find_action(state: State, name: str) -> records.Action:
    """Return an action by its id."""
    check_present(action=name)
    action = state.actions.get(name)
    if action is None:
        raise refusal(Reason.REASON_ACTION_NOT_FOUND, f"no corporate action {name!r}", action=name)
    return action


def _unfit(action: records.Action, why: str) -> Exception:
    name = ActionState.Name(ActionState.ValueType(action.state))
    return refusal(Reason.REASON_STATE_UNFIT, f"{action.action} {why}", action=action.action, state=name)


def _check_due(state: State, action: records.Action, now_us: int) -> None:
    """Refuse a step before its time, and before an earlier one of another action."""
    due_us = due_time_us(action)
    if now_us < due_us:
        message = f"the next step of {action.action} falls due at {utc_text(due_us)}, it is {utc_text(now_us)}"
        raise refusal(Reason.REASON_DATES_OUT_OF_ORDER, message, action=action.action, earlier="decision_time", later="due_time")
    earlier = [
        (waiting_time_us(other), other.action)
        for other in state.actions.values()
        if other.instrument == action.instrument and waiting_time_us(other) < due_us
    ]
    if earlier:
        first_us, first = min(earlier)
        message = f"a step of {first} fell due at {utc_text(first_us)}, before this one of {action.action} ({utc_text(due_us)})"
        raise refusal(Reason.REASON_ACTION_DUE, message, instrument=action.instrument, action=first, due_time=utc_text(first_us))


# ---- announce -------------------------------------------------------------------------------------------------------------------------


def _check_times(command: AnnounceActionRequest) -> tuple[int, int]:
    """Return fixing and execution time; NEVER stands for a fixing that was left out."""
    if not command.HasField("execution_time"):
        raise refusal(Reason.REASON_FIELD_MISSING, "execution_time is not set", field="execution_time")
    fixing_us = time_us("fixing_time", command.fixing_time) if command.HasField("fixing_time") else NEVER
    return fixing_us, time_us("execution_time", command.execution_time)


def _check_order(command: AnnounceActionRequest, fixing_us: int, execution_us: int, now_us: int) -> None:
    """Refuse dates and times that contradict one another or have passed."""
    moments = [("decision_time", now_us), ("fixing_time", fixing_us), ("execution_time", execution_us)]
    if command.payment_date < command.record_date:
        message = f"payment_date {command.payment_date} is before record_date {command.record_date}"
        raise refusal(Reason.REASON_DATES_OUT_OF_ORDER, message, earlier="record_date", later="payment_date")
    for later, later_us in moments[1:]:
        if later_us <= now_us:
            message = f"{later} {utc_text(later_us)} is not ahead of {utc_text(now_us)}"
            raise refusal(Reason.REASON_DATES_OUT_OF_ORDER, message, earlier="decision_time", later=later)
    if execution_us < fixing_us < NEVER:
        message = f"execution_time {utc_text(execution_us)} is before fixing_time {utc_text(fixing_us)}"
        raise refusal(Reason.REASON_DATES_OUT_OF_ORDER, message, earlier="fixing_time", later="execution_time")


def decide_announce(state: State, command: AnnounceActionRequest, context: Context) -> list[Message]:
    check_id("action", command.action)
    check_present(instrument=command.instrument)
    for field in ("ex_date", "record_date", "payment_date"):
        check_date(field, getattr(command, field))
    fixing_us, execution_us = _check_times(command)
    if command.HasField("method"):
        check_enum("method", command.method, ActionMethod)
    kind = command.terms.WhichOneof("kind")
    if kind is None:
        raise refusal(Reason.REASON_FIELD_MISSING, "terms are not set", field="terms")
    handler, terms = HANDLERS[kind], getattr(command.terms, kind)
    handler.check_terms(terms)
    _check_order(command, fixing_us, execution_us, context.decision_time_us)
    instrument = find_instrument(state, command.instrument)
    method = command.method if command.HasField("method") else handler.method(instrument)
    effect = handler.effects[method]
    if effect == _DISTRIBUTION and fixing_us == NEVER:
        message = "fixing_time is not set: a distribution is paid to those whose entitlement was fixed"
        raise refusal(Reason.REASON_FIELD_MISSING, message, field="fixing_time")
    handler.check_books(state, terms, method)
    if command.action in state.actions:
        raise refusal(Reason.REASON_ALREADY_EXISTS, f"{command.action} was announced already", action=command.action)
    check_kind(instrument, cash=False)
    find_usable(state, instrument.symbol)
    action = Action(
        action=command.action,
        instrument=command.instrument,
        ex_date=command.ex_date,
        record_date=command.record_date,
        payment_date=command.payment_date,
        fixing_time=command.fixing_time if command.HasField("fixing_time") else None,
        execution_time=command.execution_time,
        method=ActionMethod.ValueType(method),
        state=_ANNOUNCED,
        terms=command.terms,
        effect=ActionEffect.ValueType(effect),
    )
    announced = ActionAnnounced(action=action)
    actions = [*open_actions(state, instrument.symbol), _record_of(announced)] if effect == _MULTIPLIER else []
    if not actions:
        return [announced]
    return [announced, *schedule_events(state, instrument.symbol, instrument.multiplier, actions, context.decision_time_us)]


def _moment_us(moment: Timestamp) -> int:
    return moment.seconds * 1_000_000 + moment.nanos // 1000


def _record_of(event: ActionAnnounced) -> records.Action:
    new = event.action
    kind = new.terms.WhichOneof("kind")
    assert kind is not None, "an action is announced with its terms"
    return records.Action(
        action=new.action,
        instrument=new.instrument,
        state=_ANNOUNCED,
        method=new.method,
        effect=new.effect,
        fixing_time_us=_moment_us(new.fixing_time) if new.HasField("fixing_time") else NEVER,
        execution_time_us=_moment_us(new.execution_time),
        terms=new.SerializeToString(deterministic=True),
        growth=HANDLERS[kind].growth(getattr(new.terms, kind)) if new.effect == _MULTIPLIER else (1, 1),
    )


def evolve_announced(state: State, event: ActionAnnounced, decided: Decided) -> None:
    _put_action(state, _record_of(event))


# ---- fix ------------------------------------------------------------------------------------------------------------------------------


def decide_fix(state: State, command: FixEntitlementsRequest, context: Context) -> list[EntitlementsFixed]:
    action = find_action(state, command.action)
    if action.state != _ANNOUNCED:
        raise _unfit(action, "is past the fixing of its entitlements")
    if action.fixing_time_us == NEVER:
        raise _unfit(action, "has no fixing_time: it changes what there is when it is executed")
    _check_due(state, action, context.decision_time_us)
    instrument = state.instruments[action.instrument]
    rows = _entitled_units(state, instrument)
    return [
        EntitlementsFixed(
            action=action.action,
            accounts=[number for number, _ in part],
            units=[units for _, units in part],
            multiplier=str(instrument.multiplier),
        )
        for first in range(0, max(len(rows), 1), ENTITLEMENTS_PER_ENTRY_MAX)
        for part in (rows[first : first + ENTITLEMENTS_PER_ENTRY_MAX],)
    ]


def _entitled_units(state: State, instrument: Instrument) -> list[tuple[int, int]]:
    """Return (account number, units) of all who hold, by account number. Units in transit are counted where they belong."""
    units_of = {number: units for number, units in enumerate(state.books[instrument.number].units) if units > 0 and number != ISSUANCE}
    for chain in state.chains_of_instrument.get(instrument.symbol, ()):
        units_of.pop(state.chains[chain].transit, 0)
    for instruction in state.instructions.values():
        units = units_in_transit(instruction) if instruction.instrument == instrument.symbol else 0
        if units:
            owner = state.accounts[instruction.owner_account].number
            units_of[owner] = units_of.get(owner, 0) + units
    return sorted(units_of.items())


def evolve_fixed(state: State, event: EntitlementsFixed, decided: Decided) -> None:
    name = event.action
    before = state.entitlements.get(name) or records.Entitlement((), (), int(event.multiplier))
    accounts, units = before.accounts + tuple(event.accounts), before.units + tuple(event.units)
    assert len(accounts) == len(units), "columns are equally long"
    state.put(state.entitlements, name, records.Entitlement(accounts, units, before.multiplier))
    _put_action(state, dataclasses.replace(state.actions[name], state=_FIXED))


def answer_fixed(events: Sequence[Any]) -> dict[str, Any]:
    parts = [event for event in events if isinstance(event, EntitlementsFixed)]
    return {
        "entitled_account_count": sum(len(part.accounts) for part in parts),
        "entitled_units": sum(sum(part.units) for part in parts),
    }


# ---- execute, cancel ------------------------------------------------------------------------------------------------------------------


def decide_execute(state: State, command: ExecuteActionRequest, context: Context) -> list[Message]:
    action = find_action(state, command.action)
    if action.state not in _OPEN:
        raise _unfit(action, "is not open any more")
    if action.state == _ANNOUNCED and action.fixing_time_us != NEVER:
        raise _unfit(action, "is executed after its entitlements were fixed")
    _check_due(state, action, context.decision_time_us)
    terms = Action.FromString(action.terms).terms
    kind = terms.WhichOneof("kind")
    assert kind is not None, "an action was announced with its terms"
    events = HANDLERS[kind].execute(state, action, getattr(terms, kind), context.decision_time_us)
    changed = next((event for event in events if isinstance(event, MultiplierChanged)), None)
    if changed is None:
        return events
    others = open_actions(state, action.instrument, but=action.action)
    multiplier, now_us = int(changed.multiplier), context.decision_time_us
    return [*events, *schedule_events(state, action.instrument, multiplier, others, now_us, done=action.action)]


def evolve_completed(state: State, event: ActionCompleted, decided: Decided) -> None:
    action = state.actions[event.action]
    check_totals(event)
    booked = ActionCompleted.FromString(action.totals)
    booked.action, booked.declared_units = event.action, event.declared_units
    assert booked == event, "the totals are the sums of what the parts booked"
    if event.action in state.entitlements:
        state.remove(state.entitlements, event.action)
    totals = event.SerializeToString(deterministic=True)
    scheduled = state.scheduled_multipliers.get(action.instrument)
    if scheduled is not None and scheduled.action == event.action:
        state.remove(state.scheduled_multipliers, action.instrument)
    _put_action(state, dataclasses.replace(action, state=ActionState.ACTION_STATE_COMPLETED, totals=totals))


def decide_cancel(state: State, command: CancelActionRequest, context: Context) -> list[Message]:
    check_present(action=command.action)
    check_length("cause", command.cause)
    action = find_action(state, command.action)
    if action.state not in _OPEN:
        raise _unfit(action, "is not open any more")
    others = open_actions(state, action.instrument, but=action.action)
    multiplier = state.instruments[action.instrument].multiplier
    rescheduled = schedule_events(state, action.instrument, multiplier, others, context.decision_time_us)
    return [ActionCancelled(action=action.action, cause=command.cause), *rescheduled]


def evolve_cancelled(state: State, event: ActionCancelled, decided: Decided) -> None:
    if event.action in state.entitlements:
        state.remove(state.entitlements, event.action)
    _put_action(state, dataclasses.replace(state.actions[event.action], state=ActionState.ACTION_STATE_CANCELLED))


# ---- release what was blocked or unclaimed --------------------------------------------------------------------------------------------


def why_unreleased(state: State, action: records.Action, destination: records.Account, now_us: int) -> LedgerError | None:
    """Return why what a distribution owes cannot be paid to an account now, or None if it can."""
    cash = state.instruments[action.distributed]
    try:
        check_open(cash, OPERATION_TRANSFER, now_us)
    except LedgerError as error:
        return error
    return why_unpaid(state, cash, destination, now_us)


def decide_release(state: State, command: ReleaseEntitlementRequest, context: Context) -> list[EntitlementReleased]:
    check_present(action=command.action, account=command.account)
    action = find_action(state, command.action)
    account = find_account(state, command.account)
    destination = find_account(state, command.destination, "destination") if command.destination else account
    owed = state.owed.get((action.action, account.number))
    if owed is None:
        message = f"{action.action} owes {account.name} nothing"
        raise refusal(Reason.REASON_ENTRY_NOT_FOUND, message, action=action.action, account=account.name)
    if destination.holder != account.holder:
        message = f"{destination.name} is not of holder {account.holder!r}, who is owed"
        raise refusal(Reason.REASON_STATE_UNFIT, message, account=destination.name, holder=account.holder)
    if account.freeze_reference and destination is not account:
        # A freeze of one account must not be walked around by the holder's other one; after a recovery an enforcer pays there.
        check_role(state, context, Role.ROLE_ENFORCER)
    why = why_unreleased(state, action, destination, context.decision_time_us)
    if why is not None:
        raise why
    cash = state.instruments[action.distributed]
    blocked, unclaimed, _ = owed
    return [
        EntitlementReleased(
            action=action.action,
            account=account.name,
            instrument=cash.symbol,
            units=blocked + unclaimed,
            blocked=blocked > 0,
            destination=destination.name,
        )
    ]


def evolve_released(state: State, event: EntitlementReleased, decided: Decided) -> None:
    key = (event.action, state.accounts[event.account].number)
    blocked, unclaimed, _ = state.owed[key]
    assert blocked + unclaimed == event.units, "what is released is what was owed"
    source = BLOCKED if event.blocked else UNCLAIMED
    state.post(state.instruments[event.instrument].number, source, state.accounts[event.destination].number, event.units)
    state.remove(state.owed, key)


COMMANDS: dict[type[Any], tuple[Any, type[Any]]] = {
    AnnounceActionRequest: (decide_announce, AnnounceActionResponse),
    FixEntitlementsRequest: (decide_fix, FixEntitlementsResponse),
    ExecuteActionRequest: (decide_execute, ExecuteActionResponse),
    CancelActionRequest: (decide_cancel, CancelActionResponse),
    ReleaseEntitlementRequest: (decide_release, ReleaseEntitlementResponse),
}
EVENTS: dict[type[Any], Any] = {
    ActionAnnounced: evolve_announced,
    EntitlementsFixed: evolve_fixed,
    ActionCompleted: evolve_completed,
    ActionCancelled: evolve_cancelled,
    EntitlementReleased: evolve_released,
}
ANSWERS = {FixEntitlementsResponse: answer_fixed}
