"""The rereader: reads again what was read, from a node that is asked for the first time, and books what the other one left out.

    one pass    booked     what the log has of a range of blocks
                read       the same range, as the node at hand tells it
                measure    supply and holdings of all that is concerned, at the cursor
                book       what the log has not, with these figures, as one command for each token

A node that leaves logs out is found by the reconciler: what it hid shows in supply and holdings. Nothing is booked twice: what the log has
is taken away, and the ledger books the rest only where supply and holdings come out as the chain has them.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from chain_adapters.calls import items_of
from chain_adapters.protocol import NodeUnfit
from chain_adapters.reader import Reader
from chain_adapters.reconciler import Reconciler
from ledger.errors import RuleViolated
from stockledger.v1.audit_pb2 import ListEntriesRequest
from stockledger.v1.chains_pb2 import (
    ChainPosition,
    DeploymentKind,
    GetChainRequest,
    ListDeploymentsRequest,
    Observation,
    ObservationKind,
    RangeObserved,
    RecordMissedObservationsRequest,
)
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.events_pb2 import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from chain_adapters.calls import Call
    from chain_adapters.protocol import ChainAdapter
    from stockledger.v1.chains_pb2 import Deployment

TRIES: Final = 8
"""How often it is begun again because the chain went on meanwhile."""
_MOVEMENTS: Final = frozenset(
    {
        ObservationKind.OBSERVATION_KIND_TRANSFER,
        ObservationKind.OBSERVATION_KIND_MINT,
        ObservationKind.OBSERVATION_KIND_BURN,
    }
)
_TOPIC: Final = RangeObserved.DESCRIPTOR.full_name
Movement = tuple[int, str, str, int, str, str, str]
"""What a movement is known by: block, transaction, token, kind, both ends, raw units. One transaction may have several alike."""


@dataclass(frozen=True, slots=True)
class Reread:
    """What one pass came to."""

    chain: str
    first: int
    """The first block that was read again."""
    last: int
    movement_count: int
    """Movements of native tokens that the node told."""
    missed: tuple[Observation, ...] = ()
    """What the log had not."""
    booked: bool = False
    resolved_count: int = 0
    """Divergences that ended with it; those that halt are for a human."""


class Rereader:
    """Reads one chain again. It may run beside the chain's worker."""

    def __init__(self, call: Call, adapter: ChainAdapter) -> None:
        self._call = call
        self._adapter = adapter
        self._chain = adapter.chain

    def run(self, first_number: int = 0, *, book: bool = True) -> Reread:
        """Read from a block on, or a little before, up to where the books are, and book what they have not.

        Raises: NodeUnfit where this node tells less than the books have; HistoryChanged, ChainUnavailable; LedgerError, above all
        EXPECTATION_FAILED where supply and holdings would not agree: this node leaves something out too.
        """
        found = self._find(first_number)
        if not found.missed or not book:
            return found
        resolved_count = 0
        for deployment in self._deployments():
            mine = [one for one in found.missed if one.token == deployment.token]
            resolved_count += self._book(deployment, mine) if mine else 0
        return dataclasses.replace(found, booked=True, resolved_count=resolved_count)

    def _book(self, deployment: Deployment, missed: Sequence[Observation]) -> int:
        """Book what was missed of a token with figures of everything concerned; return how many divergences ended with it."""
        accounts = sorted({account for one in missed for account in (one.source, one.destination) if account})
        reconciler = Reconciler(self._call, self._adapter, Reader(self._call, self._adapter))
        for attempt in range(TRIES):
            measured = self._adapter.measure(deployment, accounts, self._cursor())
            if not reconciler.read_on(measured.position):
                continue
            request = RecordMissedObservationsRequest(
                chain=self._chain, position=measured.position, observations=missed, figures=measured.figures
            )
            try:
                resolved_count: int = self._call(request).resolved_count
            except RuleViolated as refused:
                gone_on = refused.reason == Reason.REASON_EXPECTATION_FAILED and refused.metadata.get("field") == "position"
                if not gone_on or attempt == TRIES - 1:
                    raise
            else:
                return resolved_count
        raise NodeUnfit(self._chain, f"the chain went on {TRIES} times while {deployment.instrument} was measured")

    def _find(self, first_number: int) -> Reread:
        cursor = self._cursor()
        deployments = self._deployments()
        tokens = {each.token for each in deployments}
        ranges = [each for each in self._booked_ranges() if each.through.number <= cursor.number]
        after = _begin(ranges, cursor, first_number)
        have: Counter[Movement] = Counter()
        for each in ranges:
            seen = (effect.observation for effect in each.effects)
            have.update(_movement(one) for one in seen if one.number > after.number and one.token in tokens and _moves(one))
        told = self._read(after, cursor, deployments)
        missed = []
        for one in told:
            if have[_movement(one)]:
                have[_movement(one)] -= 1
            else:
                missed.append(one)
        unknown = next(iter(+have), None)
        if unknown is not None:
            message = f"the books have a movement in transaction {unknown[1]} of block {unknown[0]} that the node does not tell"
            raise NodeUnfit(self._chain, message)
        return Reread(self._chain, after.number + 1, cursor.number, len(told), tuple(missed))

    def _booked_ranges(self) -> Iterator[RangeObserved]:
        """Yield the ranges that the log has of this chain, in the order in which they were booked."""
        start = 0
        while True:
            page = self._call(ListEntriesRequest(start_index=start, page_size=1000))
            if not page.entries:
                return
            for stored in page.entries:
                if stored.topic == _TOPIC:
                    event = Entry.FromString(stored.data).range_observed
                    if event.chain == self._chain:
                        yield event
            start = page.entries[-1].index + 1

    def _read(self, after: ChainPosition, cursor: ChainPosition, deployments: Sequence[Deployment]) -> list[Observation]:
        """Return the movements that the node tells between two places, as of others: whose they were, the books know."""
        told: list[Observation] = []
        while after.number < cursor.number:
            found = self._adapter.read(after, deployments, (), through_number=cursor.number)
            if found is None:
                raise NodeUnfit(self._chain, f"the node has nothing final after {after.number}, the books end at {cursor.number}")
            told += [one for one in found.observations if _moves(one)]
            after = found.through
        if after.hash != cursor.hash:
            raise NodeUnfit(self._chain, f"the node has {after.hash} at {cursor.number}, the books {cursor.hash}")
        return told

    def _cursor(self) -> ChainPosition:
        cursor: ChainPosition = self._call(GetChainRequest(chain=self._chain)).chain.cursor
        return cursor

    def _deployments(self) -> list[Deployment]:
        """Return the native tokens: of somebody else's, what did not concern our wallets was never kept."""
        listed = items_of(self._call, ListDeploymentsRequest(chain=self._chain), "deployments")
        return [each for each in listed if each.kind == DeploymentKind.DEPLOYMENT_KIND_NATIVE]


def _begin(ranges: Sequence[RangeObserved], cursor: ChainPosition, first_number: int) -> ChainPosition:
    """Return the newest place before a block that the books know by its hash."""
    known = sorted((place for each in ranges for place in (each.after, each.through)), key=lambda place: place.number)
    before = [place for place in known if place.number < first_number]
    return before[-1] if before else known[0] if known else cursor


def _moves(one: Observation) -> bool:
    return one.kind in _MOVEMENTS and int(one.raw) > 0


def _movement(one: Observation) -> Movement:
    return one.number, one.transaction, one.token, one.kind, one.source, one.destination, one.raw
