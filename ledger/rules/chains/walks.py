"""A walk through a range: the books as they will be, one observation after the other, while nothing is booked yet.

Holdings, promises, dust and new accounts are kept beside the state, so that the last observation of a range is judged by what the first
one did. What a walk finds comes out as rows, and rows as parts of one event.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from ledger.arithmetic import UNITS_MAX
from ledger.rules.accounts import next_account_number
from ledger.rules.chains.divergences import Raiser
from ledger.rules.checks import rule_in_force
from ledger.state import EXTERNAL, ISSUANCE
from stockledger.v1.accounts_pb2 import HolderState
from stockledger.v1.chains_pb2 import (
    Breach,
    ChainMultiplier,
    InstructionOutcome,
    LandedTransaction,
    ObservedEffect,
    ObservedMovement,
    RangeObserved,
)

if TYPE_CHECKING:
    from ledger.records import Account, Chain, Instruction, Instrument
    from ledger.state import State
    from stockledger.v1.chains_pb2 import ObservedRange

PART_BYTES_MAX: Final = 60_000
"""Of the 65,535 bytes of a leaf; the rest is for the envelope, the chain's id and both positions."""
_ROW_BYTES: Final = 16
"""Tags and lengths around a row."""


class Row(NamedTuple):
    """What belongs together in one part of the event: an effect with the accounts it opens and the end of its instruction."""

    opened: tuple[str, ...] = ()
    effect: ObservedEffect | None = None
    outcome: InstructionOutcome | None = None
    landed: LandedTransaction | None = None
    multiplier: ChainMultiplier | None = None

    def byte_count(self) -> int:
        rows = (self.effect, self.outcome, self.landed, self.multiplier)
        messages = sum(each.ByteSize() + _ROW_BYTES for each in rows if each is not None)
        return messages + sum(len(name.encode()) + _ROW_BYTES for name in self.opened)


class Walk:
    """The books while a range is decided."""

    def __init__(self, state: State, chain: Chain, number: int, now_us: int) -> None:
        """Begin at the state; the range ends with block or slot `number`."""
        self.state = state
        self.chain = chain
        self.now_us = now_us
        self.raiser = Raiser(state, chain, number)
        self.rows: list[Row] = []
        self.ended: set[str] = set()
        self.dust_raw: dict[str, int] = {}
        self.wallet_raw: dict[tuple[str, str, str], int] = {}
        self._brought: Counter[tuple[int, int]] = Counter()
        self._released: Counter[tuple[int, int]] = Counter()
        self._numbers: dict[str, int] = {}
        self._opened: list[str] = []
        self._next_account = next_account_number(state)
        self._next_hold = state.next_number("hold")

    # ---- accounts and holdings

    def number_of(self, name: str) -> int:
        """Return the number of an account; one that nobody knows is opened for nobody."""
        known = self.state.accounts.get(name)
        if known is not None:
            return known.number
        if name not in self._numbers:
            self._numbers[name] = self._next_account
            self._next_account += 1
            self._opened.append(name)
        return self._numbers[name]

    def take_hold_number(self) -> int:
        """Return the number of the next hold."""
        self._next_hold += 1
        return self._next_hold - 1

    def holding(self, instrument: Instrument, account: int) -> int:
        return self.state.holding(instrument.number, account) + self._brought[instrument.number, account]

    def holding_of(self, instrument: Instrument, name: str) -> int:
        """Return the units of an account that may not be open yet, and is not opened by asking."""
        known = self.state.accounts.get(name)
        number = self._numbers.get(name) if known is None else known.number
        return 0 if number is None else self.holding(instrument, number)

    def move(self, effect: ObservedEffect, instrument: Instrument, source: int, destination: int, units: int) -> None:
        """Add a movement to an effect, and to the books as they will be."""
        effect.movements.append(ObservedMovement(source=source, destination=destination, units=units))
        self._brought[instrument.number, source] -= units
        self._brought[instrument.number, destination] += units

    def release(self, instrument: Instrument, account: int, units: int) -> None:
        """Note that units are promised no longer: the instruction that took them is over."""
        self._released[instrument.number, account] += units

    def promised(self, instrument: Instrument, account: int) -> int:
        key = (instrument.number, account)
        return self.state.promised.get(key, 0) - self._released[key]

    def can_count(self, instrument: Instrument, units: int) -> bool:
        """Tell whether units may still come from nowhere: then all that exists stays at or below 2^62, and so does every sum."""
        owing = [ISSUANCE, EXTERNAL, *(chain.divergence for chain in self.state.chains.values())]
        owed = sum(max(-self.holding(instrument, number), 0) for number in owing)
        return owed + units <= UNITS_MAX

    # ---- rules that were broken

    def note_breaches(
        self, effect: ObservedEffect, instrument: Instrument, operation: int, source: str = "", destination: str = ""
    ) -> None:
        """Say of an effect, once its movements are there, which rules it broke. Who is not registered breaks none."""
        found = set()
        for name in (source, destination):
            account = self.state.accounts.get(name)
            if account is not None:
                found |= self._breaches_of(account)
        if operation in instrument.halted_operations:
            found.add(Breach.BREACH_INSTRUMENT_HALTED)
        giver, taker = self.state.accounts.get(source), self.state.accounts.get(destination)
        if giver is not None:
            left = self.holding(instrument, giver.number)
            if left < self.promised(instrument, giver.number):
                found.add(Breach.BREACH_UNITS_PROMISED)
            if left < self.state.frozen(instrument.number, giver.number):
                found.add(Breach.BREACH_PARTY_FROZEN)
        if taker is not None and not self._is_eligible(instrument, taker):
            found.add(Breach.BREACH_HOLDER_NOT_ELIGIBLE)
        effect.breaches.extend(sorted(found))

    def _breaches_of(self, account: Account) -> set[Breach.ValueType]:
        holder = self.state.holders.get(account.holder)
        found = set()
        if account.freeze_reference or (holder is not None and holder.freeze_reference):
            found.add(Breach.BREACH_PARTY_FROZEN)
        if holder is not None and holder.state != HolderState.HOLDER_STATE_ACTIVE:
            found.add(Breach.BREACH_HOLDER_NOT_ACTIVE)
        if account.closed:
            found.add(Breach.BREACH_ACCOUNT_CLOSED)
        return found

    def _is_eligible(self, instrument: Instrument, account: Account) -> bool:
        rule = rule_in_force(instrument, self.now_us) if instrument.eligibility else None
        holder = self.state.holders.get(account.holder)
        return rule is None or holder is None or rule.admits(holder.country, holder.investor_class)

    # ---- what comes out

    def add(
        self,
        *,
        effect: ObservedEffect | None = None,
        outcome: InstructionOutcome | None = None,
        landed: LandedTransaction | None = None,
        multiplier: ChainMultiplier | None = None,
    ) -> None:
        """Add a row, with the accounts that were opened for it."""
        self.rows.append(Row(tuple(self._opened), effect, outcome, landed, multiplier))
        self._opened.clear()

    def end(self, instruction: Instruction, outcome: InstructionOutcome, effect: ObservedEffect | None = None) -> None:
        """Add a row in which an instruction ends."""
        outcome.instruction = instruction.text
        self.ended.add(instruction.text)
        self.add(effect=effect, outcome=outcome)

    def parts(self, seen: ObservedRange) -> list[RangeObserved]:
        """Return the rows as parts of one event, each with room for its envelope. An empty range is one part: the cursor moves."""
        part = _part_of(seen)
        found, used, opened = [part], 0, 0
        for row in self.rows:
            needed = row.byte_count()
            if used + needed > PART_BYTES_MAX:
                part, used = _part_of(seen), 0
                found.append(part)
            if row.opened:
                if not part.opened_accounts:
                    part.first_opened_number = next_account_number(self.state) + opened
                part.opened_accounts.extend(row.opened)
                opened += len(row.opened)
            part.effects.extend(each for each in (row.effect,) if each is not None)
            part.outcomes.extend(each for each in (row.outcome,) if each is not None)
            part.landed.extend(each for each in (row.landed,) if each is not None)
            part.multipliers.extend(each for each in (row.multiplier,) if each is not None)
            used += needed
        return found


def _part_of(seen: ObservedRange) -> RangeObserved:
    return RangeObserved(chain=seen.chain, after=seen.after, through=seen.through)
