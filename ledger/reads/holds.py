"""Reads of open holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.answers import timestamp
from ledger.reads.books import find_any_account
from ledger.reads.pages import page_of
from ledger.records import NEVER
from ledger.rules.holds import find_hold
from stockledger.v1 import holds_pb2

if TYPE_CHECKING:
    from ledger.records import Hold
    from ledger.state import State


def hold_message(state: State, hold: Hold) -> holds_pb2.Hold:
    return holds_pb2.Hold(
        hold=hold.hold,
        instrument=state.instrument_symbols[hold.instrument],
        account=state.account_names[hold.account],
        units=hold.units,
        purpose=holds_pb2.HoldPurpose.ValueType(hold.purpose),
        expiry_time=timestamp(hold.expiry_time_us) if hold.expiry_time_us < NEVER else None,
        reference=hold.reference,
    )


def get_hold(state: State, request: holds_pb2.GetHoldRequest, now_us: int) -> holds_pb2.GetHoldResponse:
    return holds_pb2.GetHoldResponse(size=state.size, hold=hold_message(state, find_hold(state, request.hold)))


def list_holds(state: State, request: holds_pb2.ListHoldsRequest, now_us: int) -> holds_pb2.ListHoldsResponse:
    numbers = iter(state.holds)
    if request.account:
        account = find_any_account(state, request.account).number
        numbers = (number for number, hold in state.holds.items() if hold.account == account)
    page, token = page_of(request, numbers, int)
    found = [hold_message(state, state.holds[number]) for number in page]
    return holds_pb2.ListHoldsResponse(size=state.size, next_page_token=token, holds=found)


READS = {
    holds_pb2.GetHoldRequest: get_hold,
    holds_pb2.ListHoldsRequest: list_holds,
}
