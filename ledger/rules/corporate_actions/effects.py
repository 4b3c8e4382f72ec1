"""The three effects every corporate action reduces to, per unit: something on top, something instead, or a unit that stands for more.

    effect         decide               events                                     evolve
    distribution   distribute           DistributionPaid, in parts                 evolve_distribution
    replacement    replace_units        UnitsReplaced, in parts; FillsRescaled     evolve_replaced
    multiplier     change_multiplier    MultiplierChanged; FillsRescaled           multipliers.py

Each ends in ActionCompleted. Every division is made here, named by its rounding, and its outcome is in the event; what rounding leaves
over is booked to `ledger:remainder`.

The ledger's own accounts (remainder, unclaimed, blocked, withheld, loss) are reached like any other: shares stand behind their units
too. Only issuance is not, which owes all units.
"""

from __future__ import annotations

import dataclasses
from math import gcd
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ledger.arithmetic import MULTIPLIER_MAX, UNITS_MAX, divide_ceiling, divide_floor
from ledger.errors import LedgerError, refusal
from ledger.rules.checks import (
    BOOK,
    OPERATION_TRANSFER,
    check_eligible,
    check_free,
    check_open,
    check_party,
    check_range,
    find_instrument,
)
from ledger.rules.context import entry_index
from ledger.rules.fills import rescale_open_fills
from ledger.rules.holds import take_from_hold
from ledger.rules.instruments import change_instrument
from ledger.rules.reserves import reserve_events
from ledger.state import BLOCKED, EXTERNAL, FIRST_ACCOUNT_NUMBER, ISSUANCE, REMAINDER, UNCLAIMED, WITHHELD
from stockledger.v1.accounts_pb2 import HolderState
from stockledger.v1.corporate_actions_pb2 import ActionCompleted, DistributionPaid, UnitsReplaced
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.instruments_pb2 import MultiplierChanged
from stockledger.v1.transfers_pb2 import Receivable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from google.protobuf.message import Message

    from ledger.records import Account, Action, Instrument
    from ledger.rules.context import Decided
    from ledger.state import State

BPS: Final = 10_000
"""Rates of tax are in 1/100 of a percent."""
DISTRIBUTION_ROWS_MAX: Final = 1_600
"""36 bytes each: 57,600 of the 65,535 bytes of a leaf."""
_PART_BYTES_MAX: Final = 60_000
_FRAGMENT_ROWS_MAX: Final = 500
"""At most 20 bytes each: 10,000 bytes."""
_FRAGMENT_RECEIVABLES_MAX: Final = 50
"""At most 200 bytes each: 10,000 bytes."""
_SET_ASIDE_AS_BLOCKED: Final = frozenset({Reason.REASON_ACCOUNT_FROZEN, Reason.REASON_HOLDER_FROZEN, Reason.REASON_HOLDER_NOT_ELIGIBLE})


def check_totals(totals: ActionCompleted) -> None:
    """Assert that nothing declared is lost: declared = paid + withheld + fees + blocked + unclaimed + remainder, in units."""
    parts = (
        totals.paid_units,
        totals.withheld_units,
        totals.fee_units,
        totals.blocked_units,
        totals.unclaimed_units,
        totals.remainder_units,
    )
    assert min(parts) >= 0, "no part of what is declared is below zero"
    assert totals.declared_units == sum(parts), "what is declared is the sum of its parts"


def _add_to_totals(state: State, action: Action, /, **units: int) -> Action:
    """Return an action with what one part books added to its totals: evolve_completed compares them with those decided."""
    totals = ActionCompleted.FromString(action.totals)
    for field, more in units.items():
        setattr(totals, field, getattr(totals, field) + more)
    return dataclasses.replace(action, totals=totals.SerializeToString(deterministic=True))


# ---- distribution: something on top ---------------------------------------------------------------------------------------------------


class _Share(NamedTuple):
    """What one account gets: paid, blocked or unclaimed, and what is withheld before."""

    account: int
    paid: int
    withheld: int
    blocked: int
    unclaimed: int


def why_unpaid(state: State, cash: Instrument, account: Account, now_us: int) -> LedgerError | None:
    """Return why an account cannot be paid an entitlement now, or None if it can.

    A suspended holder can: his registration lapsed, and what he is due stays his. So can an account with frozen units: the freeze is of
    those units, not of what they earn.
    """
    if account.number < FIRST_ACCOUNT_NUMBER:
        return None
    if not state.profiles[account.number]:
        holder = state.holders.get(account.holder)
        if account.freeze_reference:
            message = f"{account.name} is frozen ({account.freeze_reference})"
            return refusal(Reason.REASON_ACCOUNT_FROZEN, message, account=account.name, legal_reference=account.freeze_reference)
        if holder is None:
            return refusal(Reason.REASON_HOLDER_NOT_ACTIVE, f"{account.name} has no registered holder", account=account.name, state="")
        if holder.freeze_reference:
            message = f"holder {holder.holder} is frozen ({holder.freeze_reference})"
            return refusal(Reason.REASON_HOLDER_FROZEN, message, holder=holder.holder, legal_reference=holder.freeze_reference)
        if holder.state == HolderState.HOLDER_STATE_CLOSED:
            message = f"the relation with holder {holder.holder} has ended"
            return refusal(Reason.REASON_HOLDER_NOT_ACTIVE, message, holder=holder.holder, state="HOLDER_STATE_CLOSED")
        if account.place != BOOK:
            return refusal(Reason.REASON_PLACE_UNFIT, f"{account.name} is not in the book", account=account.name)
        if account.closed:
            return refusal(Reason.REASON_ACCOUNT_CLOSED, f"{account.name} is closed", account=account.name)
    try:
        check_eligible(state, cash, account, now_us)
    except LedgerError as error:
        return error
    return None


def _share_of(state: State, cash: Instrument, number: int, gross: int, *, withholding: Mapping[str, int], now_us: int) -> _Share:
    """Return what becomes of one account's gross entitlement. Tax is withheld by the holder's country of today, rounded down.

    Example: 2,500 gross at 1,500 bps are 375 withheld and 2,125 paid.
    """
    account = state.accounts[state.account_names[number]]
    holder = state.holders.get(account.holder)
    rate_bps = 0 if holder is None else withholding.get(holder.country, 0)
    withheld = divide_floor(gross * rate_bps, BPS)
    net = gross - withheld
    why = why_unpaid(state, cash, account, now_us)
    if why is None:
        return _Share(number, net, withheld, 0, 0)
    if why.reason in _SET_ASIDE_AS_BLOCKED:
        return _Share(number, 0, withheld, net, 0)
    return _Share(number, 0, withheld, 0, net)


def distribute(
    state: State,
    action: Action,
    now_us: int,
    *,
    cash_instrument: str,
    funding_account: str,
    cash_per_unit: tuple[int, int],
    withholding: Mapping[str, int],
) -> list[Message]:
    """Return the events that pay `cash_per_unit` (numerator, denominator) in smallest units of cash on every unit entitled.

    Gross per account = floor(units x rate); declared = floor(total units x rate), so that the remainder is never below zero. Example:
    0.25 USDC of 6 decimals a share on units of 8 decimals is 1 for every 400 units. Of 399, 400 and 401 units the first brings 0, the
    others 1 each; 3 are declared on 1,200 units, and 1 is left over.

    Raises: InvalidRequest UNITS_OUT_OF_RANGE; RuleViolated INSTRUMENT_RETIRED, INSTRUMENT_HALTED (the cash), ACCOUNT_CLOSED,
    ACCOUNT_FROZEN, HOLDER_NOT_ACTIVE, HOLDER_FROZEN, UNITS_INSUFFICIENT (the funding account).
    """
    entitlement = state.entitlements[action.action]
    cash = find_instrument(state, cash_instrument)
    funding = state.accounts[funding_account]
    numerator, denominator = cash_per_unit
    declared = check_range("declared_units", divide_floor(sum(entitlement.units) * numerator, denominator))
    check_open(cash, OPERATION_TRANSFER, now_us)
    check_party(state, funding)
    check_free(state, cash, funding, declared)
    shares = [
        _share_of(state, cash, number, divide_floor(units * numerator, denominator), withholding=withholding, now_us=now_us)
        for number, units in zip(entitlement.accounts, entitlement.units, strict=True)
    ]
    paid, withheld, blocked, unclaimed = (sum(share[column] for share in shares) for column in range(1, 5))
    totals = ActionCompleted(
        action=action.action,
        declared_units=declared,
        paid_units=paid,
        withheld_units=withheld,
        blocked_units=blocked,
        unclaimed_units=unclaimed,
        remainder_units=declared - paid - withheld - blocked - unclaimed,
        account_count=len(shares),
    )
    check_totals(totals)
    parts = [
        DistributionPaid(
            action=action.action,
            cash_instrument=cash.symbol,
            funding_account=funding.name,
            accounts=[share.account for share in rows],
            paid_units=[share.paid for share in rows],
            withheld_units=[share.withheld for share in rows],
            blocked_units=[share.blocked for share in rows],
            unclaimed_units=[share.unclaimed for share in rows],
        )
        for first in range(0, max(len(shares), 1), DISTRIBUTION_ROWS_MAX)
        for rows in (shares[first : first + DISTRIBUTION_ROWS_MAX],)
    ]
    parts[-1].remainder_units = totals.remainder_units
    return [*parts, totals]


def evolve_distribution(state: State, event: DistributionPaid, decided: Decided) -> None:
    cash = state.instruments[event.cash_instrument].number
    funding = state.accounts[event.funding_account].number
    rows = [(number, units) for number, units in zip(event.accounts, event.paid_units, strict=True) if units and number != funding]
    if rows:
        state.post_columns(cash, [funding] * len(rows), [number for number, _ in rows], [units for _, units in rows])
    withheld, blocked, unclaimed = sum(event.withheld_units), sum(event.blocked_units), sum(event.unclaimed_units)
    for destination, units in (
        (WITHHELD, withheld),
        (BLOCKED, blocked),
        (UNCLAIMED, unclaimed),
        (REMAINDER, event.remainder_units),
    ):
        if units:
            state.post(cash, funding, destination, units)
    for number, *owed in zip(event.accounts, event.blocked_units, event.unclaimed_units, event.withheld_units, strict=True):
        if owed[0] or owed[1]:
            state.put(state.owed, (event.action, number), (owed[0], owed[1], owed[2]))
    action = _add_to_totals(
        state,
        state.actions[event.action],
        paid_units=sum(event.paid_units),
        withheld_units=withheld,
        blocked_units=blocked,
        unclaimed_units=unclaimed,
        remainder_units=event.remainder_units,
        account_count=len(event.accounts),
    )
    state.put(state.actions, event.action, dataclasses.replace(action, distributed=event.cash_instrument))


# ---- replacement: something instead ---------------------------------------------------------------------------------------------------


def replace_units(state: State, action: Action, new_shares: int, old_shares: int) -> list[Message]:
    """Return the events that replace every unit of an instrument at a ratio, held and frozen ones included.

    Holdings and holds are rounded down, a freeze up (a stop is never loosened), supply down once; the whole units by which supply exceeds
    the sum of holdings go to the remainder account. Authorised units are scaled too, rounded up, since the issuer's charter splits with
    its shares. Example: 1 for 8 of holdings 15, 15 and 7: 1, 1 and 0, supply 4 from 37, and 2 to the remainder.

    Raises: InvalidRequest UNITS_OUT_OF_RANGE; RuleViolated PLACE_UNFIT, where units stand outside the book: they can only be reached by
    the multiplier.
    """
    instrument = state.instruments[action.instrument]
    holdings = _holdings_in_book(state, instrument)
    old_supply = state.supply(instrument.number)
    supply = check_range("supply_units", divide_floor(old_supply * new_shares, old_shares))
    scaled = [(number, units, divide_floor(units * new_shares, old_shares)) for number, units in holdings]
    credited = sum(new_units for _, _, new_units in scaled)
    totals = ActionCompleted(
        action=action.action,
        declared_units=supply,
        paid_units=credited,
        remainder_units=supply - credited,
        account_count=len(scaled),
    )
    check_totals(totals)
    parts = _parts_of(_fragments(state, instrument, scaled, new_shares, old_shares))
    for part in parts:
        part.action, part.instrument = action.action, instrument.symbol
        part.new_shares, part.old_shares = new_shares, old_shares
    last = parts[-1]
    last.last = True
    last.remainder_units = totals.remainder_units
    last.supply_units = supply
    last.authorised_units = min(divide_ceiling(instrument.authorised_units * new_shares, old_shares), UNITS_MAX)
    changed = dataclasses.replace(instrument, share_basis=instrument.share_basis + 1)
    fills = rescale_open_fills(state, instrument.symbol, new_shares, old_shares)
    return [*parts, *fills, *reserve_events(state, changed, extra_units=supply - old_supply), totals]


def _holdings_in_book(state: State, instrument: Instrument) -> list[tuple[int, int]]:
    """Return (account number, units) of all holdings but issuance's, by account number. Refuse units the ledger cannot reach."""
    holdings = [(number, units) for number, units in enumerate(state.books[instrument.number].units) if units and number != ISSUANCE]
    for number, units in holdings:
        account = state.accounts[state.account_names[number]]
        if number == EXTERNAL or (number >= FIRST_ACCOUNT_NUMBER and account.place != BOOK):
            message = f"{account.name} has {units} {instrument.symbol} outside the book; the multiplier reaches them, new units do not"
            raise refusal(Reason.REASON_PLACE_UNFIT, message, account=account.name, instrument=instrument.symbol, units=units)
    return holdings


def _fragments(
    state: State, instrument: Instrument, scaled: Sequence[tuple[int, int, int]], new_shares: int, old_shares: int
) -> Iterator[UnitsReplaced]:
    """Yield what is replaced in pieces, in an order in which held units never exceed a holding on the way.

    Where units get fewer, holds shrink first; where they get more, holds grow last.
    """
    number = instrument.number
    holds = [
        (hold.hold, divide_floor(hold.units * new_shares, old_shares))
        for _, hold in sorted(state.holds.items())
        if hold.instrument == number
    ]
    frozen = [
        (account, min(divide_ceiling(units.units * new_shares, old_shares), UNITS_MAX))
        for (of_instrument, account), units in sorted(state.frozen_units.items())
        if of_instrument == number
    ]
    receivables = [
        Receivable(
            holder=holder,
            instrument=symbol,
            loss_account=loss_account,
            units=check_range("receivables", divide_floor(units * new_shares, old_shares)),
        )
        for (holder, symbol, loss_account), units in sorted(state.receivables.items())
        if symbol == instrument.symbol
    ]
    of_accounts = [
        UnitsReplaced(accounts=[row[0] for row in rows], old_units=[row[1] for row in rows], new_units=[row[2] for row in rows])
        for rows in _pieces(scaled, _FRAGMENT_ROWS_MAX)
    ]
    of_holds = [
        UnitsReplaced(holds=[row[0] for row in rows], held_units=[row[1] for row in rows]) for rows in _pieces(holds, _FRAGMENT_ROWS_MAX)
    ]
    yield from (*of_holds, *of_accounts) if new_shares < old_shares else (*of_accounts, *of_holds)
    for rows in _pieces(frozen, _FRAGMENT_ROWS_MAX):
        yield UnitsReplaced(frozen_accounts=[row[0] for row in rows], frozen_units=[row[1] for row in rows])
    for owed in _pieces(receivables, _FRAGMENT_RECEIVABLES_MAX):
        yield UnitsReplaced(receivables=owed)


def _pieces(rows: Sequence[Any], rows_max: int) -> Iterator[Sequence[Any]]:
    return (rows[first : first + rows_max] for first in range(0, len(rows), rows_max))


def _parts_of(fragments: Iterator[UnitsReplaced]) -> list[UnitsReplaced]:
    """Merge pieces, in their order, into as few parts as fit a leaf each; at least one."""
    parts = [UnitsReplaced()]
    room = _PART_BYTES_MAX
    for fragment in fragments:
        size = fragment.ByteSize()
        if room < size:
            parts.append(UnitsReplaced())
            room = _PART_BYTES_MAX
        parts[-1].MergeFrom(fragment)
        room -= size
    return parts


def evolve_replaced(state: State, event: UnitsReplaced, decided: Decided) -> None:
    instrument = state.instruments[event.instrument]
    number = instrument.number
    shrinking = event.new_shares < event.old_shares
    if shrinking:
        _replace_holds(state, event)
    _replace_holdings(state, number, event)
    if not shrinking:
        _replace_holds(state, event)
    for account, units in zip(event.frozen_accounts, event.frozen_units, strict=True):
        frozen = dataclasses.replace(state.frozen_units[number, account], units=units)
        state.put(state.frozen_units, (number, account), frozen)
    for receivable in event.receivables:
        key = (receivable.holder, receivable.instrument, receivable.loss_account)
        if receivable.units:
            state.put(state.receivables, key, receivable.units)
        else:
            state.remove(state.receivables, key)
    action = _add_to_totals(
        state,
        state.actions[event.action],
        paid_units=sum(event.new_units),
        remainder_units=event.remainder_units,
        account_count=len(event.accounts),
    )
    state.put(state.actions, event.action, action)
    if event.last:
        if event.remainder_units:
            state.post(number, ISSUANCE, REMAINDER, event.remainder_units)
        assert state.supply(number) == event.supply_units, "supply is what it was decided to be"
        change_instrument(
            state,
            event.instrument,
            authorised_units=event.authorised_units,
            share_basis=instrument.share_basis + 1,
            replaced_index=entry_index(state, decided),
            split_index=entry_index(state, decided),
        )


def _replace_holdings(state: State, number: int, event: UnitsReplaced) -> None:
    """Move the differences from or to issuance, so that all holdings keep summing to zero."""
    gaining, losing = [], []
    for account, old_units, new_units in zip(event.accounts, event.old_units, event.new_units, strict=True):
        assert state.holding(number, account) == old_units, "what is replaced is what is there"
        if new_units > old_units:
            gaining.append((account, new_units - old_units))
        elif new_units < old_units:
            losing.append((account, old_units - new_units))
    if gaining:
        state.post_columns(number, [ISSUANCE] * len(gaining), [account for account, _ in gaining], [units for _, units in gaining])
    if losing:
        state.post_columns(number, [account for account, _ in losing], [ISSUANCE] * len(losing), [units for _, units in losing])


def _replace_holds(state: State, event: UnitsReplaced) -> None:
    for number, units in zip(event.holds, event.held_units, strict=True):
        hold = state.holds[number]
        if units < hold.units:
            take_from_hold(state, number, hold.units - units)
        elif units > hold.units:
            state.set_cell(state.holds.units, state.holds.row_of(number), units)
            state.change_held(hold.instrument, hold.account, units - hold.units)


# ---- multiplier: a unit stands for more or less ---------------------------------------------------------------------------------------


def change_multiplier(
    state: State, action: Action, numerator: int, denominator: int, *, split: tuple[int, int] | None = None
) -> list[Message]:
    """Return the events by which a unit stands for `numerator / denominator` times what it stood for, floored once to 1e-18.

    What the floor cuts off is recorded as a fraction of one step. A split (new shares, old shares) also changes the share basis and
    reaches fills that are not settled. Nobody is refused for want of reserves: the shares were bought with the dividend, or split at the
    custodian, and evidence of it is to follow; until it does, a shortfall may be raised. Example: 1.0 and 1 for 3 is
    333,333,333,333,333,333 with a residue of 1/3.

    Raises: InvalidRequest UNITS_OUT_OF_RANGE.
    """
    instrument = state.instruments[action.instrument]
    product = instrument.multiplier * numerator
    multiplier = divide_floor(product, denominator)
    if not 0 < multiplier <= MULTIPLIER_MAX:
        message = f"the multiplier of {instrument.symbol} would be {multiplier} at scale 1e18, it must be 1 to 2^128 - 1"
        raise refusal(Reason.REASON_UNITS_OUT_OF_RANGE, message, field="multiplier", value=multiplier)
    residue = product - multiplier * denominator
    common = gcd(residue, denominator)
    event = MultiplierChanged(
        instrument=instrument.symbol,
        old_multiplier=str(instrument.multiplier),
        multiplier=str(multiplier),
        residue_numerator=str(divide_floor(residue, common)),
        residue_denominator=str(divide_floor(denominator, common)),
        action=action.action,
        share_basis_changed=split is not None,
    )
    fills = [] if split is None else rescale_open_fills(state, instrument.symbol, *split, new_multiplier=multiplier)
    share_basis = instrument.share_basis + (split is not None)
    changed = dataclasses.replace(instrument, multiplier=multiplier, share_basis=share_basis)
    return [event, *fills, *reserve_events(state, changed), ActionCompleted(action=action.action)]


EVENTS = {
    DistributionPaid: evolve_distribution,
    UnitsReplaced: evolve_replaced,
}
