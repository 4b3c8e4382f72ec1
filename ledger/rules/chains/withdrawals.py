"""How much may leave omnibus wallets: by one withdrawal, and on one day (UTC, by decision time)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.errors import refusal
from ledger.rules.checks import utc_date
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from ledger.records import Deployment
    from ledger.state import State


def withdrawn_on(state: State, deployment: Deployment, day: str) -> int:
    """Return the units that were withdrawn on a day, if it is the last on which any were."""
    last, units = state.withdrawn.get((deployment.chain, deployment.instrument), ("", 0))
    return units if last == day else 0


def check_withdrawal(state: State, deployment: Deployment, units: int, now_us: int) -> None:
    """Refuse a withdrawal beyond a limit. What comes back from transit the same day has counted all the same."""
    limits = (
        ("units_per_withdrawal_max", deployment.units_per_withdrawal_max, 0),
        ("units_per_day_max", deployment.units_per_day_max, withdrawn_on(state, deployment, utc_date(now_us))),
    )
    for limit, allowed, before in limits:
        if allowed and before + units > allowed:
            message = (
                f"{units} {deployment.instrument} after {before} withdrawn from {deployment.chain} exceed its limit {limit} of {allowed}"
            )
            raise refusal(
                Reason.REASON_WITHDRAWAL_LIMIT_EXCEEDED,
                message,
                chain=deployment.chain,
                instrument=deployment.instrument,
                limit=limit,
                allowed=allowed,
                needed=before + units,
            )


def count_withdrawal(state: State, deployment: Deployment, units: int, now_us: int) -> None:
    """Book that units leave omnibus wallets today."""
    day = utc_date(now_us)
    total = withdrawn_on(state, deployment, day) + units
    state.put(state.withdrawn, (deployment.chain, deployment.instrument), (day, total))
