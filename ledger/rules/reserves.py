"""Reserves: what counts as held behind an instrument, against what is owed, and when it falls short.

    event                    in the same booking as
    ReserveShortfallRaised   evidence or a delivery (evidence.py), a split, another multiplier
    ReserveShortfallEnded    the same, a receipt, or units destroyed

What counts. The reserve of an instrument is the settled shares of the newest evidence of each of its custody accounts, as far as that
evidence is of the instrument's share basis, plus the receipts and less the deliveries that settled after its as-of time.

- Stale evidence (past its valid_until_time) still counts: shares do not vanish because a statement grew old. But it stops issuance:
  units are created only against what fresh evidence covers by itself.
- After a split old evidence counts for nothing until it is renewed: its shares are of another size. Meanwhile nobody knows the reserve,
  so no shortfall is raised; issuance is refused as stale. A shortfall is judged again once all evidence of the instrument is renewed; it
  ends as soon as what is renewed covers what is needed.

Issuance, redemptions, corporate actions and the multiplier use `check_reserve` and `reserve_events`. These take the instrument as it will
be: pass `dataclasses.replace(instrument, multiplier=...)` to ask about another multiplier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger.arithmetic import shares_e8_of_units_ceiling
from ledger.errors import LedgerError, refusal
from ledger.rules.checks import utc_text
from ledger.rules.context import entry_index
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.reserves_pb2 import ReserveShortfallEnded, ReserveShortfallRaised

if TYPE_CHECKING:
    from ledger.records import Evidence, Instrument
    from ledger.rules.context import Decided
    from ledger.state import State


def evidence_of(state: State, instrument: Instrument, changed: Evidence | None = None) -> list[Evidence]:
    """Return the newest evidence of each custody account of an instrument, in the order the accounts were opened.

    `changed` stands in for the evidence of its custody account: the evidence as it will be.
    """
    found = []
    for name in state.custody_accounts_of_instrument.get(instrument.symbol, ()):
        evidence = changed if changed is not None and changed.custody_account == name else state.evidence.get(name)
        if evidence is not None:
            found.append(evidence)
    return found


def is_counted(instrument: Instrument, evidence: Evidence) -> bool:
    """Tell whether evidence is of the instrument's share basis: shares from before a split are of another size."""
    return evidence.share_basis == instrument.share_basis


def is_stale(evidence: Evidence, now_us: int) -> bool:
    """Tell whether evidence has reached its valid_until_time."""
    return now_us >= evidence.valid_until_time_us


def reserve_shares_e8(state: State, instrument: Instrument, changed: Evidence | None = None) -> int:
    """Return the reserve: settled shares of counted evidence, plus receipts and less deliveries since, at scale 1e8.

    Below zero where custodians confirmed more deliveries than they ever attested shares. Example: two custodians attest 600 and 400
    shares, the first then delivers 50: `reserve_shares_e8(...) == 95_000_000_000`.
    """
    return sum(evidence.shares_e8 for evidence in evidence_of(state, instrument, changed) if is_counted(instrument, evidence))


def as_of_time_us(state: State, instrument: Instrument) -> int | None:
    """Return how old the reserve is: what the oldest evidence speaks of, microseconds since 1970; None: there is no evidence.

    Evidence that does not count since a split is asked too: until it is renewed, the sum of the others is not the whole.
    """
    return min((evidence.as_of_time_us for evidence in evidence_of(state, instrument)), default=None)


def needed_shares_e8(state: State, instrument: Instrument, extra_units: int = 0) -> int:
    """Return the shares that supply stands for, at scale 1e8, rounded up; `extra_units` are about to be created (below zero: destroyed).

    May exceed 64 bits. Example: a supply of 150,000,000 units of 8 decimals at multiplier 1.0 needs 1.5 shares, 150_000_000.
    """
    return shares_e8_of_units_ceiling(state.supply(instrument.number) + extra_units, instrument.multiplier, instrument.decimals)


def check_reserve(state: State, instrument: Instrument, extra_units: int, now_us: int) -> None:
    """Refuse to create units that fresh evidence does not cover.

    Evidence must be fresh as far as it is needed: if what fresh evidence shows covers supply and the new units by itself, another
    custodian's stale statement does not matter (unless it is below zero: what is missing there is missing still). If it does not, and
    there is stale evidence, evidence from before a split, or none at all, then renewing comes first; only with all evidence fresh the
    reserve itself is too small.

    Raises: RuleViolated RESERVE_SHORTFALL, ATTESTATION_STALE, RESERVE_INSUFFICIENT, in this order.
    """
    symbol = instrument.symbol
    if symbol in state.shortfalls:
        message = f"reserves of {symbol} are short since index {state.shortfalls[symbol]}: nothing is issued until they cover supply again"
        raise refusal(Reason.REASON_RESERVE_SHORTFALL, message, instrument=symbol, index=state.shortfalls[symbol])
    evidence = evidence_of(state, instrument)
    needed = needed_shares_e8(state, instrument, extra_units)
    counted = [each for each in evidence if is_counted(instrument, each)]
    fresh = sum(min(each.shares_e8, 0) if is_stale(each, now_us) else each.shares_e8 for each in counted)
    if fresh >= needed:
        return
    if not evidence:
        message = f"there is no evidence of reserves of {symbol}"
        raise refusal(Reason.REASON_ATTESTATION_STALE, message, instrument=symbol)
    for each in evidence:
        if not is_counted(instrument, each):
            raise not_renewed(instrument, each)
        if is_stale(each, now_us):
            name, until = each.custody_account, utc_text(each.valid_until_time_us)
            message = f"evidence of {name} was valid until {until}; without it {symbol} has {fresh} shares (1e-8) and needs {needed}"
            raise refusal(Reason.REASON_ATTESTATION_STALE, message, instrument=symbol, custody_account=name, valid_until_time=until)
    raise _insufficient(symbol, fresh, needed)


def not_renewed(instrument: Instrument, evidence: Evidence) -> LedgerError:
    name, basis = evidence.custody_account, evidence.share_basis
    message = f"evidence of {name} is of share basis {basis}, {instrument.symbol} is at {instrument.share_basis}: it must be renewed"
    return refusal(Reason.REASON_ATTESTATION_STALE, message, instrument=instrument.symbol, custody_account=name, share_basis=basis)


def _insufficient(symbol: str, reserve: int, needed: int) -> LedgerError:
    message = f"reserves of {symbol} are {reserve} shares (1e-8), supply would need {needed}"
    return refusal(Reason.REASON_RESERVE_INSUFFICIENT, message, instrument=symbol, needed_e8=needed, reserve_e8=reserve)


def check_covered(state: State, instrument: Instrument) -> None:
    """Refuse an instrument as it would be (another multiplier), if its reserve did not cover its supply.

    Raises: RuleViolated RESERVE_INSUFFICIENT.
    """
    reserve, needed = reserve_shares_e8(state, instrument), needed_shares_e8(state, instrument)
    if reserve < needed:
        raise _insufficient(instrument.symbol, reserve, needed)


def reserve_events(
    state: State, instrument: Instrument, *, extra_units: int = 0, changed: Evidence | None = None
) -> list[ReserveShortfallRaised | ReserveShortfallEnded]:
    """Return what a booking does to the shortfall of an instrument: raised, ended, or nothing.

    For rules that change supply (`extra_units`, below zero where units are destroyed), the multiplier or the share basis (pass the
    instrument as it will be), or evidence (`changed`). The events follow the rule's own in the same booking.

    Raised when the reserve is known and below what is needed; it is known when there is evidence and all of it is of today's share
    basis. Ended when counted evidence covers what is needed. Example: 100 shares are needed and 90 are left: raised; then 10 come in:
    ended.
    """
    symbol = instrument.symbol
    reserve, needed = reserve_shares_e8(state, instrument, changed), needed_shares_e8(state, instrument, extra_units)
    short = symbol in state.shortfalls
    if short and reserve >= needed:
        return [ReserveShortfallEnded(instrument=symbol, reserve_shares_e8=reserve, needed_shares_e8=str(needed))]
    if short or reserve >= needed:
        return []
    evidence = evidence_of(state, instrument, changed)
    if evidence and all(is_counted(instrument, each) for each in evidence):
        return [ReserveShortfallRaised(instrument=symbol, reserve_shares_e8=reserve, needed_shares_e8=str(needed))]
    return []


def evolve_raised(state: State, event: ReserveShortfallRaised, decided: Decided) -> None:
    state.put(state.shortfalls, event.instrument, entry_index(state, decided))


def evolve_ended(state: State, event: ReserveShortfallEnded, decided: Decided) -> None:
    state.remove(state.shortfalls, event.instrument)


COMMANDS: dict[type[Any], tuple[Any, type[Any]]] = {}
EVENTS = {
    ReserveShortfallRaised: evolve_raised,
    ReserveShortfallEnded: evolve_ended,
}
