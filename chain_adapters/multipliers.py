"""When multipliers take effect on a chain: nothing happens there at that moment, so it is told by the chain's own clock.

    begin        how a multiplier stands at the position after which a range begins: the ledger's record of that very cursor, or the chain
    set          MULTIPLIER observations of the range, in the chain's order
    in force     MULTIPLIER_IN_FORCE, made here: in the first block or slot at or after the moment, before all else in it; right behind
                 the MULTIPLIER that set it where its moment had come already
    end          how it stands where the range ends, for the ledger to record with the cursor

All of it follows from what the chain has, so a reader that begins anew at any cursor tells the same, and no moment falls between two
ranges: it belongs to the one in which the chain's time passes it.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from stockledger.v1.chains_pb2 import ChainMultiplier, Observation, ObservationKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from stockledger.v1.chains_pb2 import ChainPosition, Deployment, ObservedRange

_SET: Final = ObservationKind.OBSERVATION_KIND_MULTIPLIER
_IN_FORCE: Final = ObservationKind.OBSERVATION_KIND_MULTIPLIER_IN_FORCE


class Clock(Protocol):
    """A chain's own time: never earlier in a later block or slot."""

    def time_us(self, number: int) -> int:
        """Return when a block or slot was made, in microseconds since 1970."""
        ...

    def numbers(self, after: int, through: int) -> Sequence[int]:
        """Return the blocks or slots that there are after one number and up to another, in order."""
        ...

    def position(self, number: int) -> ChainPosition:
        """Return the position of a block or slot that there is."""
        ...


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a multiplier stands, at scale 1e18: one in force, 0 for no token yet, and at most one set for a moment ahead."""

    multiplier: int
    next_multiplier: int = 0
    next_time_us: int = 0

    def at(self, time_us: int) -> Schedule:
        """Return how it stands at a time, if nobody sets it before."""
        return Schedule(self.next_multiplier) if self.next_multiplier and self.next_time_us <= time_us else self

    def message(self, token: str) -> ChainMultiplier:
        found = ChainMultiplier(token=token, multiplier=str(self.multiplier))
        if self.next_multiplier:
            found.next_multiplier = str(self.next_multiplier)
            found.next_effective_time.FromMicroseconds(self.next_time_us)
        return found


def schedule_of(message: ChainMultiplier) -> Schedule:
    """Return what a deployment says of its multiplier at the cursor."""
    return Schedule(int(message.multiplier), int(message.next_multiplier or 0), message.next_effective_time.ToMicroseconds())


def tell_in_force(
    read: ObservedRange,
    deployments: Iterable[Deployment],
    clock: Clock,
    find: Callable[[Deployment], Schedule | None],
    observations_max: int,
) -> None:
    """Add to a range what took effect in it and how multipliers stand at its end; what makes it too long ends it at an earlier block.

    Args:
        read: Complete but for this; observations of others keep their order, and may get another index within their block.
        deployments: Of whose tokens it tells.
        clock: The chain's.
        find: Asks the chain how the multiplier of a deployment stands at `read.after`, None: it has none. Asked only where the
            deployment does not say, as when it was just registered.
        observations_max: As given to `read`.
    """
    begins = {}
    for deployment in deployments:
        found = schedule_of(deployment.chain_multiplier) if deployment.HasField("chain_multiplier") else find(deployment)
        if found is not None:
            begins[deployment.token] = found.at(read.after.time.ToMicroseconds())
    own = list(read.observations)
    told, ends = _fold(read, own, begins, clock)
    last = _last_that_fits(told, observations_max, read.through.number)
    if last < read.through.number:
        own = [each for each in own if each.number <= last]
        landed = [each for each in read.landed if each.number <= last]
        del read.landed[:]
        read.landed.extend(landed)
        read.through.CopyFrom(clock.position(last))
        told, ends = _fold(read, own, begins, clock)
    del read.observations[:]
    read.observations.extend(_numbered(told))
    for deployment in deployments:
        if deployment.token in ends:
            standing = ends[deployment.token].message(deployment.token)
            if not deployment.HasField("chain_multiplier") or deployment.chain_multiplier != standing:
                read.multipliers.append(standing)


class _Place(NamedTuple):
    """Where an observation stands: what takes effect with a block or slot comes before all else in it."""

    number: int
    begun: int
    order: int
    behind: int


def _fold(
    read: ObservedRange, own: Sequence[Observation], begins: dict[str, Schedule], clock: Clock
) -> tuple[list[Observation], dict[str, Schedule]]:
    """Return all observations of a range in their order, and how multipliers stand at its end."""
    placed = [(_Place(each.number, 1, order, 0), each) for order, each in enumerate(own)]
    ends = {}
    for row, (token, schedule) in enumerate(begins.items()):
        walk = _Walk(token, schedule, read.after.number, clock, row)
        for order, each in enumerate(own):
            if each.kind == _SET and each.token == token:
                walk.set(each, order)
        ends[token] = walk.end(read.through)
        placed += walk.found
    return [each for _, each in sorted(placed, key=lambda pair: pair[0])], ends


class _Walk:
    """One token's multiplier through a range."""

    def __init__(self, token: str, schedule: Schedule, after: int, clock: Clock, row: int) -> None:
        self.found: list[tuple[_Place, Observation]] = []
        self._token = token
        self._schedule = schedule
        self._number = after
        self._clock = clock
        self._row = row

    def set(self, seen: Observation, order: int) -> None:
        """Take in what set the multiplier; what was set before may have taken effect until then."""
        time_us = self._clock.time_us(seen.number)
        self._pass(seen.number, time_us)
        multiplier, from_us = int(seen.value), seen.effective_time.ToMicroseconds()
        if from_us > time_us:
            self._schedule = Schedule(self._schedule.multiplier, multiplier, from_us)
            return
        self._tell(_Place(seen.number, 1, order, 1), multiplier, time_us, time_us, seen.transaction)
        self._schedule = Schedule(multiplier)

    def end(self, through: ChainPosition) -> Schedule:
        if self._schedule.next_multiplier:
            time_us = through.time.ToMicroseconds() if through.HasField("time") else self._clock.time_us(through.number)
            self._pass(through.number, time_us)
        return self._schedule

    def _pass(self, number: int, time_us: int) -> None:
        """Go on to a block or slot; what is set ahead takes effect in the first whose time has come to it."""
        ahead = self._schedule
        if ahead.at(time_us) != ahead:
            numbers = self._clock.numbers(self._number, number)
            first = numbers[bisect_left(numbers, ahead.next_time_us, key=self._clock.time_us)]
            self._tell(_Place(first, 0, self._row, 0), ahead.next_multiplier, ahead.next_time_us, self._clock.time_us(first))
            self._schedule = ahead.at(time_us)
        self._number = number - 1  # another may set it in the same block

    def _tell(self, place: _Place, multiplier: int, from_us: int, time_us: int, transaction: str = "") -> None:
        if multiplier == self._schedule.multiplier:
            return
        told = Observation(
            kind=_IN_FORCE,
            token=self._token,
            transaction=transaction,
            number=place.number,
            value=str(multiplier),
            old_value=str(self._schedule.multiplier),
        )
        told.effective_time.FromMicroseconds(from_us)
        told.time.FromMicroseconds(time_us)
        self.found.append((place, told))


def _last_that_fits(told: Sequence[Observation], observations_max: int, through: int) -> int:
    """Return the last block of a range of whole blocks with so many observations at most; a single block may have more."""
    if len(told) <= observations_max or told[0].number == told[-1].number:
        return through
    numbers = [each.number for each in told]
    kept = bisect_left(numbers, numbers[observations_max])
    return numbers[kept - 1] if kept else numbers[0]


def _numbered(told: Sequence[Observation]) -> Sequence[Observation]:
    """Give observations of blocks in which something took effect another index each; all others keep theirs."""
    changed = {each.number for each in told if each.kind == _IN_FORCE}
    index: dict[int, int] = {}
    for each in told:
        if each.number in changed:
            each.index = index.get(each.number, 0)
            index[each.number] = each.index + 1
    return told
