"""Checking many legs of one instrument: on whole columns where that is sound, leg by leg where it is not or where one is refused.

The loop says what is right: legs count in their order, a leg may spend what an earlier one brought, and the first one that breaks a
rule is named. The columns only ever say "all acceptable"; at the least doubt they leave it to the loop, which then finds the leg.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ledger import vectors
from ledger.arithmetic import UNITS_MAX
from ledger.errors import LedgerError, refusal
from ledger.rules.checks import (
    OPERATION_TRANSFER,
    check_free,
    check_movement,
    check_units,
    find_book_account,
    find_instrument,
    rule_in_force,
)
from ledger.state import FIRST_ACCOUNT_NUMBER
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from ledger.records import Account, Instrument
    from ledger.state import State
    from stockledger.v1.common_pb2 import LegColumns


class _Leg(NamedTuple):
    """Account numbers and units of one leg."""

    source: int
    destination: int
    units: int


def at_position(error: LedgerError, name: str, position: int) -> LedgerError:
    """Return a refusal that also says which leg or trade it is about."""
    return refusal(error.reason, f"{name} {position}: {error.message}", **(error.metadata | {name: str(position)}))


def account_of_number(state: State, number: int, field: str) -> Account:
    """Return the book account of this number."""
    name = state.account_names.get(number)
    if name is None:
        raise refusal(Reason.REASON_ACCOUNT_NOT_FOUND, f"no account number {number}", account=number, field=field)
    return find_book_account(state, name, field)


def check_legs(state: State, legs: LegColumns, first_leg: int, now_us: int) -> None:
    """Refuse the first leg that breaks a rule; `first_leg` is the position of legs[0] in its command."""
    instrument = state.instruments.get(legs.instrument)
    if instrument is not None and vectors.worthwhile(len(legs.units)):
        columns = vectors.int64s(legs.sources), vectors.int64s(legs.destinations), vectors.int64s(legs.units)
        if acceptable_at_once(state, instrument, columns, now_us):
            return
    _check_leg_by_leg(state, legs, first_leg, now_us)


def _check_leg_by_leg(state: State, legs: LegColumns, first_leg: int, now_us: int) -> None:
    moved: dict[int, int] = {}
    for leg, (source, destination, units) in enumerate(zip(legs.sources, legs.destinations, legs.units, strict=True), first_leg):
        try:
            _check_leg(state, legs.instrument, _Leg(source, destination, units), moved.get(source, 0), now_us)
        except LedgerError as error:
            raise at_position(error, "leg", leg) from None
        moved[source] = moved.get(source, 0) - units
        moved[destination] = moved.get(destination, 0) + units


def _check_leg(state: State, symbol: str, leg: _Leg, brought: int, now_us: int) -> None:
    """Check one leg; `brought` is what earlier legs gave the source, less what they took."""
    check_units("units", leg.units)
    if leg.source == leg.destination:
        message = f"source and destination are both account {leg.source}"
        raise refusal(Reason.REASON_SAME_ACCOUNT, message, account=leg.source)
    instrument = find_instrument(state, symbol)
    source = account_of_number(state, leg.source, "source")
    destination = account_of_number(state, leg.destination, "destination")
    check_movement(state, instrument, source, destination, now_us)
    if state.free(instrument.number, leg.source) + brought < leg.units:
        check_free(state, instrument, source, leg.units, brought)


def is_open(instrument: Instrument, now_us: int) -> bool:
    """Return whether `check_open` lets transfers of an instrument pass."""
    return now_us < instrument.next_due_time_us and not instrument.retired and OPERATION_TRANSFER not in instrument.halted_operations


def all_admitted(state: State, instrument: Instrument, profiles: Any, now_us: int) -> bool:
    """Return whether accounts of these profiles (a numpy column without zeros) may all hold an instrument.

    The rule in force is asked once for each (country, class) there is, however many accounts there are.
    """
    rule = rule_in_force(instrument, now_us) if instrument.eligibility else None
    if rule is None:
        return True
    admitted = vectors.numpy.zeros(len(state.profile_numbers) + 1, dtype=bool)
    for (country, investor_class), number in state.profile_numbers.items():
        admitted[number] = rule.admits(country, investor_class)
    return bool(admitted[profiles].all())


def have_profiles(state: State, *columns: Any) -> bool:
    """Return whether every account of these columns has a profile, and so stands in the book."""
    profiles = vectors.view_of(state.profiles)
    return all(accounts.max() < len(profiles) and profiles[accounts].all() for accounts in columns)


def acceptable_at_once(state: State, instrument: Instrument, legs: tuple[Any, Any, Any], now_us: int) -> bool:
    """Return True only if every leg is acceptable; `legs` are numpy columns of sources, destinations and units.

    Everything is held to its range before any sum, since int64 wraps in silence.
    """
    if not is_open(instrument, now_us):
        return False
    sources, destinations, units = legs
    book = state.books[instrument.number]
    if min(sources.min(), destinations.min()) < FIRST_ACCOUNT_NUMBER or destinations.max() >= len(state.profiles):
        return False
    if sources.max() >= min(len(book.units), len(state.profiles)) or (sources == destinations).any():
        return False
    if units.min() <= 0 or units.max() > UNITS_MAX:
        return False
    profiles = vectors.view_of(state.profiles)
    giving, taking = profiles[sources], profiles[destinations]
    if not (giving.all() and taking.all() and all_admitted(state, instrument, taking, now_us)):
        return False
    column = vectors.view_of(book.units)
    holdings = column[sources]
    within = destinations[destinations < len(column)]
    largest = max(int(holdings.max()), int(column[within].max(initial=0)))
    if vectors.exact_sum(units) + largest >= UNITS_MAX:
        return False
    free = holdings - vectors.view_of(book.held)[sources] - _frozen(state, instrument, sources)
    return _covered(sources, destinations, units, free)


def _frozen(state: State, instrument: Instrument, accounts: Any) -> Any:
    """Return the frozen units of each of these accounts."""
    if not state.frozen_units:
        return 0
    column = vectors.numpy.zeros(len(state.profiles), dtype=vectors.numpy.int64)
    for (number, account), stop in state.frozen_units.items():
        if number == instrument.number:
            column[account] = stop.units
    return column[accounts]


def _covered(sources: Any, destinations: Any, units: Any, free: Any) -> bool:
    """Return whether every leg finds its units; `free` is what each leg's source has free before the first leg."""
    numpy = vectors.numpy
    spent = numpy.zeros(int(sources.max()) + 1, dtype=numpy.int64)
    numpy.add.at(spent, sources, units)
    if (spent[sources] <= free).all():
        return True  # even without anything that the batch itself brings
    return _covered_in_order(sources, destinations, units, free)


def _covered_in_order(sources: Any, destinations: Any, units: Any, free: Any) -> bool:
    """Return whether no source falls below zero at any of its legs, in the order of the legs.

    Each leg is two changes, 2i at its source and 2i + 1 at its destination. Sorted by account and then by leg, the running sum within
    an account is what the batch has done to it so far: 20 bits of position below 31 bits of account number make one key to sort.
    """
    numpy = vectors.numpy
    count = 2 * len(units)
    assert count < 1 << 20, "positions fit 20 bits"
    keys = numpy.empty(count, dtype=numpy.int64)
    keys[0::2] = sources << 20
    keys[1::2] = destinations << 20
    keys |= numpy.arange(count, dtype=numpy.int64)
    keys.sort()
    order = keys & ((1 << 20) - 1)
    keys >>= 20
    changes = numpy.empty(count, dtype=numpy.int64)
    changes[0::2] = -units
    changes[1::2] = units
    changes = changes[order]
    running = numpy.cumsum(changes)
    first = numpy.concatenate(([True], keys[1:] != keys[:-1]))
    starts = numpy.flatnonzero(first)
    before = (running[starts] - changes[starts])[numpy.cumsum(first) - 1]
    gives = order & 1 == 0
    return bool((free[order[gives] >> 1] + (running - before)[gives] >= 0).all())
