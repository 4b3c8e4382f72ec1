"""Who may hold an instrument: a list of dated rules, the thin first form of rule packs.

command          event
SetEligibility   EligibilitySet

The rule in force on a day (UTC) is the one with the latest effective_date that is not after it; `checks.check_eligible` asks it about
the destination of a decided movement. Which commands do not ask, since force and correction follow the law and not somebody's wish, is
listed at SetEligibilityRequest in eligibility.proto, and nowhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger import records
from ledger.errors import refusal
from ledger.rules.checks import check_country, check_date, check_enum, check_present
from ledger.rules.instruments import change_instrument, find_usable
from stockledger.v1.accounts_pb2 import InvestorClass
from stockledger.v1.eligibility_pb2 import EligibilityRule, EligibilitySet, SetEligibilityRequest, SetEligibilityResponse
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.rules.context import Context, Decided
    from ledger.state import State


def _check_countries(field: str, countries: Iterable[str]) -> list[str]:
    """Return countries sorted, each once: at most 676, however many were sent."""
    return sorted({check_country(field, country) for country in countries})


def _check_classes(field: str, classes: Iterable[int]) -> list[InvestorClass.ValueType]:
    """Return investor classes sorted, each once."""
    return sorted({InvestorClass.ValueType(check_enum(field, number, InvestorClass)) for number in classes})


def decide_set(state: State, command: SetEligibilityRequest, context: Context) -> list[EligibilitySet]:
    """The event carries the rule in one canonical form, whatever the order and repetitions of the request."""
    check_present(instrument=command.instrument)
    if not command.HasField("rule"):
        raise refusal(Reason.REASON_FIELD_MISSING, "rule is not set", field="rule")
    wanted = command.rule
    rule = EligibilityRule(
        effective_date=check_date("rule.effective_date", wanted.effective_date),
        allowed_countries=_check_countries("rule.allowed_countries", wanted.allowed_countries),
        barred_countries=_check_countries("rule.barred_countries", wanted.barred_countries),
        allowed_classes=_check_classes("rule.allowed_classes", wanted.allowed_classes),
        barred_classes=_check_classes("rule.barred_classes", wanted.barred_classes),
    )
    return [EligibilitySet(instrument=find_usable(state, command.instrument).symbol, rule=rule)]


def evolve_set(state: State, event: EligibilitySet, decided: Decided) -> None:
    """Keep the rules by effective date; sorting is stable, so of two for one date the later set one stays later, and wins."""
    rule = records.EligibilityRule(
        effective_date=event.rule.effective_date,
        allowed_countries=frozenset(event.rule.allowed_countries),
        barred_countries=frozenset(event.rule.barred_countries),
        allowed_classes=frozenset(event.rule.allowed_classes),
        barred_classes=frozenset(event.rule.barred_classes),
    )
    rules = (*state.instruments[event.instrument].eligibility, rule)
    change_instrument(state, event.instrument, eligibility=tuple(sorted(rules, key=lambda known: known.effective_date)))


COMMANDS = {SetEligibilityRequest: (decide_set, SetEligibilityResponse)}
EVENTS = {EligibilitySet: evolve_set}
