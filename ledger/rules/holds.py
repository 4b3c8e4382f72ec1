"""Holds: units reserved for a pending step, executed or released, never both for the same units.

    command        event
    PlaceHold      HoldPlaced
    ExecuteHold    HoldExecuted
    ReleaseHold    HoldReleased
    TakeDueSteps   HoldsExpired

A hold whose time has passed is neither executed nor released until TakeDueSteps has recorded that it lapsed. `open_hold` and
`take_from_hold` are how other rules (settlement, subscriptions, redemptions, corporate actions) book on holds.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any, Final

from ledger import vectors
from ledger.errors import refusal
from ledger.records import NEVER, Hold
from ledger.rules.checks import (
    OPERATION_TRANSFER,
    check_free,
    check_length,
    check_movement,
    check_open,
    check_party,
    check_present,
    check_units,
    check_units_or_zero,
    find_book_account,
    find_instrument,
    time_us,
    utc_text,
)
from ledger.rules.transfers import check_two_accounts
from stockledger.v1 import holds_pb2
from stockledger.v1.corporate_actions_pb2 import TakeDueStepsRequest, TakeDueStepsResponse
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.holds_pb2 import (
    ExecuteHoldRequest,
    ExecuteHoldResponse,
    HoldExecuted,
    HoldPlaced,
    HoldPurpose,
    HoldReleased,
    HoldsExpired,
    PlaceHoldRequest,
    PlaceHoldResponse,
    ReleaseHoldRequest,
    ReleaseHoldResponse,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.timestamp_pb2 import Timestamp

    from ledger.rules.context import Context, Decided
    from ledger.state import State

EXPIRED_PER_ENTRY_MAX: Final = 4_000
"""At most 9 bytes a number: 36,000 of the 65,535 bytes of a leaf."""

_OF_CALLERS: Final = (HoldPurpose.HOLD_PURPOSE_UNSPECIFIED, HoldPurpose.HOLD_PURPOSE_ORDER)


def find_hold(state: State, number: int) -> Hold:
    """Return an open hold by its number."""
    hold = state.holds.get(number)
    if hold is None:
        raise refusal(Reason.REASON_HOLD_NOT_FOUND, f"no open hold {number}", hold=number)
    return hold


def open_hold(state: State, hold: Hold) -> None:
    """Book a new hold over units that are free."""
    number = hold.hold
    state.put(state.counters, "hold", number)
    if state.journal is None:
        state.holds.tidy()
    state.set_cell(state.holds.units, state.holds.append(hold), hold.units)
    state.change_held(hold.instrument, hold.account, hold.units)
    if hold.expiry_time_us < NEVER:
        second = hold.expiry_time_us // 1_000_000
        expiring = state.hold_expiries.get(second)
        if expiring is None:
            expiring = {}
            state.put(state.hold_expiries, second, expiring)
        state.put(expiring, number, None)


def take_from_hold(state: State, number: int, units: int) -> None:
    """Book that units of a hold are held no longer; a hold with nothing left is closed."""
    holds = state.holds
    row = holds.row_of(number)
    if units:
        state.change_held(holds.instruments[row], holds.accounts[row], -units)
    left = holds.units[row] - units
    assert left >= 0, "no more is taken from a hold than is left of it"
    state.set_cell(holds.units, row, left)
    if not left:
        _forget_expiry(state, number, holds.expiry_times_us[row])


def lessen_holds(state: State, numbers: Any, units: Any) -> None:
    """Take units from what is left of many holds, each named once; the held units of their accounts are booked by the caller.

    Both are numpy columns.
    """
    holds = state.holds
    rows = holds.rows_of(numbers)
    assert rows is not None, "all of them are open"
    left = vectors.view_of(holds.units)[rows] - units
    assert left.min() >= 0, "no more is taken from a hold than is left of it"
    state.change_cells(holds.units, rows, -units)
    expiry_times_us = vectors.view_of(holds.expiry_times_us)[rows]
    expiring = (left == 0) & (expiry_times_us < NEVER)
    for number, expiry_time_us in zip(numbers[expiring].tolist(), expiry_times_us[expiring].tolist(), strict=True):
        _forget_expiry(state, number, expiry_time_us)


def _forget_expiry(state: State, number: int, expiry_time_us: int) -> None:
    """Take a hold that is no more from those that expire."""
    if expiry_time_us < NEVER:
        second = expiry_time_us // 1_000_000
        expiring = state.hold_expiries[second]
        state.remove(expiring, number)
        if not expiring:
            state.remove(state.hold_expiries, second)


def check_not_lapsed(hold: Hold, now_us: int) -> None:
    """Refuse a hold whose time has passed and that has not been recorded as lapsed."""
    if now_us >= hold.expiry_time_us:
        due = utc_text(hold.expiry_time_us)
        message = f"hold {hold.hold} lapsed at {due}; TakeDueSteps records it"
        raise refusal(Reason.REASON_ACTION_DUE, message, hold=hold.hold, due_time=due)


def check_left(number: int, left: int, units: int) -> None:
    """Refuse to take more than is left of a hold."""
    if left < units:
        message = f"hold {number} has {left} left, needed {units}"
        raise refusal(Reason.REASON_HOLD_INSUFFICIENT, message, hold=number, remaining=left, needed=units)


def check_unfrozen(state: State, hold: Hold, brought: int, units: int) -> None:
    """Refuse to take units from an account that must keep them: a freeze of units reaches those on hold too.

    `brought` is what the command itself has given the account so far, less what it has taken.
    """
    frozen = state.frozen(hold.instrument, hold.account)
    if frozen:
        movable = state.holding(hold.instrument, hold.account) + brought - frozen
        if movable < units:
            movable = max(movable, 0)
            message = f"hold {hold.hold}: {frozen} units of its account are frozen, {movable} can move, needed {units}"
            raise refusal(Reason.REASON_HOLD_INSUFFICIENT, message, hold=hold.hold, remaining=movable, needed=units, frozen=frozen)


def _find_hold_of_caller(state: State, number: int, now_us: int) -> Hold:
    """Return a hold that callers may use: not one that belongs to a subscription or redemption, and not a lapsed one."""
    hold = find_hold(state, number)
    if hold.purpose not in _OF_CALLERS:
        purpose = HoldPurpose.Name(HoldPurpose.ValueType(hold.purpose))
        message = f"hold {number} is of {purpose.removeprefix('HOLD_PURPOSE_').lower()}s, which end it themselves"
        raise refusal(Reason.REASON_HOLD_UNFIT, message, hold=number, purpose=purpose)
    check_not_lapsed(hold, now_us)
    return hold


def decide_place(state: State, command: PlaceHoldRequest, context: Context) -> list[HoldPlaced]:
    check_present(instrument=command.instrument, account=command.account)
    if command.purpose not in _OF_CALLERS:
        message = f"purpose {command.purpose} is not for callers; UNSPECIFIED and ORDER are"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="purpose", value=command.purpose)
    expires = command.HasField("expiry_time")
    expiry_time_us = time_us("expiry_time", command.expiry_time) if expires else NEVER
    check_length("reference", command.reference)
    check_units("units", command.units)
    now_us = context.decision_time_us
    if expiry_time_us <= now_us:
        message = f"expiry_time {utc_text(expiry_time_us)} is not ahead of {utc_text(now_us)}"
        raise refusal(Reason.REASON_DATES_OUT_OF_ORDER, message, earlier="decision_time", later="expiry_time")
    instrument = find_instrument(state, command.instrument)
    account = find_book_account(state, command.account)
    check_open(instrument, OPERATION_TRANSFER, now_us)
    check_party(state, account)
    check_free(state, instrument, account, command.units)
    hold = holds_pb2.Hold(
        hold=state.next_number("hold"),
        instrument=instrument.symbol,
        account=account.name,
        units=command.units,
        purpose=command.purpose,
        reference=command.reference,
    )
    if expires:
        hold.expiry_time.CopyFrom(command.expiry_time)
    return [HoldPlaced(hold=hold)]


def evolve_placed(state: State, event: HoldPlaced, decided: Decided) -> None:
    new = event.hold
    hold = Hold(
        hold=new.hold,
        instrument=state.instruments[new.instrument].number,
        account=state.accounts[new.account].number,
        purpose=new.purpose,
        expiry_time_us=_expiry_us(new.expiry_time) if new.HasField("expiry_time") else NEVER,
        reference=new.reference,
        units=new.units,
    )
    open_hold(state, hold)


def _expiry_us(expiry_time: Timestamp) -> int:
    return expiry_time.seconds * 1_000_000 + expiry_time.nanos // 1000


def decide_execute(state: State, command: ExecuteHoldRequest, context: Context) -> list[HoldExecuted]:
    if not command.hold:
        raise refusal(Reason.REASON_FIELD_MISSING, "hold is not set", field="hold")
    check_present(destination=command.destination)
    units = check_units("units", command.units)
    now_us = context.decision_time_us
    hold = _find_hold_of_caller(state, command.hold, now_us)
    check_left(hold.hold, hold.units, units)
    check_unfrozen(state, hold, 0, units)
    source = state.accounts[state.account_names[hold.account]]
    check_two_accounts(source.name, command.destination)
    instrument = state.instruments[state.instrument_symbols[hold.instrument]]
    destination = find_book_account(state, command.destination, "destination")
    check_movement(state, instrument, source, destination, now_us)
    return [
        HoldExecuted(
            hold=hold.hold,
            destination=destination.name,
            units=units,
            released_units=hold.units - units if command.last else 0,
            instrument=instrument.symbol,
            source=source.name,
        )
    ]


def evolve_executed(state: State, event: HoldExecuted, decided: Decided) -> None:
    hold = state.holds[event.hold]
    take_from_hold(state, event.hold, event.units + event.released_units)
    state.post(hold.instrument, hold.account, state.accounts[event.destination].number, event.units)


def decide_release(state: State, command: ReleaseHoldRequest, context: Context) -> list[HoldReleased]:
    if not command.hold:
        raise refusal(Reason.REASON_FIELD_MISSING, "hold is not set", field="hold")
    check_units_or_zero("units", command.units)
    hold = _find_hold_of_caller(state, command.hold, context.decision_time_us)
    check_left(hold.hold, hold.units, command.units)
    return [
        HoldReleased(
            hold=hold.hold,
            units=command.units or hold.units,
            instrument=state.instrument_symbols[hold.instrument],
            account=state.account_names[hold.account],
        )
    ]


def evolve_released(state: State, event: HoldReleased, decided: Decided) -> None:
    take_from_hold(state, event.hold, event.units)


def due_holds(state: State, now_us: int) -> Iterator[int]:
    """Yield the numbers of lapsed holds, by expiry time and then by number.

    A million open orders share few seconds of expiry: only those seconds are looked through, and only their holds sorted.
    """
    holds = state.holds
    seconds = [second for second in state.hold_expiries if second * 1_000_000 <= now_us]
    heapq.heapify(seconds)
    while seconds:
        of_second = ((holds.expiry_times_us[holds.row_of(number)], number) for number in state.hold_expiries[heapq.heappop(seconds)])
        yield from (number for expiry_time_us, number in sorted(of_second) if expiry_time_us <= now_us)


def decide_due(state: State, command: TakeDueStepsRequest, context: Context) -> list[HoldsExpired]:
    if not 0 <= command.limit <= EXPIRED_PER_ENTRY_MAX:
        message = f"limit is {command.limit}, it must be 0 to {EXPIRED_PER_ENTRY_MAX}"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="limit", value=command.limit)
    limit = command.limit or EXPIRED_PER_ENTRY_MAX
    due = [number for number, _ in zip(due_holds(state, context.decision_time_us), range(limit), strict=False)]
    if not due:
        raise refusal(Reason.REASON_NOTHING_TO_CHANGE, f"nothing is due at {utc_text(context.decision_time_us)}")
    return [HoldsExpired(holds=due)]


def evolve_expired(state: State, event: HoldsExpired, decided: Decided) -> None:
    for number in event.holds:
        take_from_hold(state, number, state.holds[number].units)


COMMANDS: dict[type[Any], tuple[Any, type[Any]]] = {
    PlaceHoldRequest: (decide_place, PlaceHoldResponse),
    ExecuteHoldRequest: (decide_execute, ExecuteHoldResponse),
    ReleaseHoldRequest: (decide_release, ReleaseHoldResponse),
    TakeDueStepsRequest: (decide_due, TakeDueStepsResponse),
}
EVENTS: dict[type[Any], Any] = {
    HoldPlaced: evolve_placed,
    HoldExecuted: evolve_executed,
    HoldReleased: evolve_released,
    HoldsExpired: evolve_expired,
}
