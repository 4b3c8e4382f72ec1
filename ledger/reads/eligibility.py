"""Reads of who may hold what."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from ledger.errors import LedgerError
from ledger.reads.pages import count_within_bytes, page_of
from ledger.rules.checks import find_instrument
from ledger.rules.context import Context
from ledger.rules.transfers import decide_transfer
from stockledger.v1 import accounts_pb2, eligibility_pb2, transfers_pb2

if TYPE_CHECKING:
    from ledger.records import EligibilityRule
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


def rule_message(rule: EligibilityRule) -> eligibility_pb2.EligibilityRule:
    return eligibility_pb2.EligibilityRule(
        effective_date=rule.effective_date,
        allowed_countries=sorted(rule.allowed_countries),
        barred_countries=sorted(rule.barred_countries),
        allowed_classes=[accounts_pb2.InvestorClass.ValueType(number) for number in sorted(rule.allowed_classes)],
        barred_classes=[accounts_pb2.InvestorClass.ValueType(number) for number in sorted(rule.barred_classes)],
    )


class _Dated(NamedTuple):
    """A rule's date and how many were set for it before: rules set later move it nowhere. As a page token "<date> <number>"."""

    date: str
    number: int

    def __str__(self) -> str:
        return f"{self.date} {self.number}"


def _dated_of(token: str) -> _Dated:
    date, number = token.split(" ")
    return _Dated(date, int(number))


def list_eligibility(state: State, request: eligibility_pb2.ListEligibilityRequest, now_us: int) -> eligibility_pb2.ListEligibilityResponse:
    """List the rules. One may name 676 countries twice, so a page ends by bytes too."""
    rules = find_instrument(state, request.instrument).eligibility
    by_date = groupby(rules, key=lambda rule: rule.effective_date)
    wanted = {_Dated(date, number): rule for date, same in by_date for number, rule in enumerate(same)}
    page, token = page_of(request, wanted, _dated_of)
    found = [rule_message(wanted[key]) for key in page]
    count = count_within_bytes(message.ByteSize() for message in found)
    if count < len(page):
        found, token = found[:count], str(page[count - 1])
    return eligibility_pb2.ListEligibilityResponse(size=state.size, next_page_token=token, rules=found)


READS = {
    eligibility_pb2.CheckTransferRequest: check_transfer,
    eligibility_pb2.ListEligibilityRequest: list_eligibility,
}
