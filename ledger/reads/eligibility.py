"""Reads of who may hold what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger.errors import LedgerError
from ledger.rules.checks import find_instrument
from ledger.rules.context import Context
from ledger.rules.transfers import decide_transfer
from stockledger.v1 import accounts_pb2, eligibility_pb2, transfers_pb2

if TYPE_CHECKING:
    from ledger.state import State


def check_transfer(state: State, request: eligibility_pb2.CheckTransferRequest, now_us: int) -> eligibility_pb2.CheckTransferResponse:
    """Ask whether and why not, by the very rule that would decide it."""
    command = transfers_pb2.TransferUnitsRequest(
        instrument=request.instrument, source=request.source, destination=request.destination, units=request.units
    )
    try:
        decide_transfer(state, command, Context(now_us, "", _no_entries))
    except LedgerError as error:
        return eligibility_pb2.CheckTransferResponse(
            size=state.size, accepted=False, reason=error.reason_name, explanation=error.message, metadata=error.metadata
        )
    return eligibility_pb2.CheckTransferResponse(size=state.size, accepted=True)


def _no_entries(index: int) -> Any:
    raise AssertionError("a transfer is decided from the state alone")


def list_eligibility(state: State, request: eligibility_pb2.ListEligibilityRequest, now_us: int) -> eligibility_pb2.ListEligibilityResponse:
    rules = [
        eligibility_pb2.EligibilityRule(
            effective_date=rule.effective_date,
            allowed_countries=sorted(rule.allowed_countries),
            barred_countries=sorted(rule.barred_countries),
            allowed_classes=[accounts_pb2.InvestorClass.ValueType(number) for number in sorted(rule.allowed_classes)],
            barred_classes=[accounts_pb2.InvestorClass.ValueType(number) for number in sorted(rule.barred_classes)],
        )
        for rule in find_instrument(state, request.instrument).eligibility
    ]
    return eligibility_pb2.ListEligibilityResponse(size=state.size, rules=rules)


READS = {
    eligibility_pb2.CheckTransferRequest: check_transfer,
    eligibility_pb2.ListEligibilityRequest: list_eligibility,
}
