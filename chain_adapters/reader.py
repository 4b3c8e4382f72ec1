"""The reader: everything that a chain has finalised comes into the books, in the chain's order, one command a range.

    one range    final      the newest final position, asked first
                 recorded   transactions of ours that may land, listed after that
                 read       from the cursor to that position, or less
                 book       the range with its cursor, as one event

A transaction that lands at or before a final position was recorded before the position could be told, so it is in a list that is made
afterwards: that is why the position comes first, and why the range ends with it. Nothing else moves the cursor, and the ledger takes a
range only where the cursor stands, so nothing is booked twice or skipped, whoever reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from chain_adapters.calls import changed_history, items_of
from chain_adapters.projector import Satisfied
from chain_adapters.protocol import HistoryChanged
from ledger.errors import RuleViolated
from stockledger.v1.chains_pb2 import (
    ChainPosition,
    DivergenceKind,
    GetChainRequest,
    ListDeploymentsRequest,
    ListTransactionsRequest,
    ObservedRange,
    RaiseDivergenceRequest,
    RecordObservationsRequest,
)
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from chain_adapters.calls import Call
    from chain_adapters.protocol import ChainAdapter

_HASH_LENGTH_MAX: Final = 128


@dataclass(frozen=True, slots=True)
class Read:
    """What one range came to."""

    chain: str
    cursor: ChainPosition
    """Everything up to here is in the books now."""
    final: ChainPosition
    """The newest final position when the range was begun."""
    booked: bool = False
    observation_count: int = 0
    final_count: int = 0
    """Instructions that became final."""
    refused_count: int = 0
    divergence_count: int = 0
    halted: bool = False
    """True where the chain's history has changed: nothing more is read until a human has resolved it."""

    @property
    def lag_blocks(self) -> int:
        """Blocks that are final and not in the books yet."""
        return max(0, self.final.number - self.cursor.number)

    @property
    def lag_seconds(self) -> float:
        """What lies between the cursor and the newest final position, by the chain's own clock."""
        return max(0, self.final.time.ToMicroseconds() - self.cursor.time.ToMicroseconds()) / 1e6 if self.lag_blocks else 0.0


class Reader:
    """Reads one chain."""

    def __init__(self, call: Call, adapter: ChainAdapter) -> None:
        self._call = call
        self._adapter = adapter
        self._chain = adapter.chain

    def read(self, *, through_number: int | None = None, satisfied: Satisfied | None = None) -> Read:
        """Read and book one range, if there is anything final after the cursor.

        `satisfied` are targets that the projector found reached; the range says so if it goes through the number at which they are.

        Raises: ChainUnavailable, NodeUnfit; LedgerError where the ledger cannot be asked. Reading again goes on from the cursor.
        """
        call, chain = self._call, self._chain
        final = self._adapter.finalised()
        cursor = call(GetChainRequest(chain=chain)).chain.cursor
        if changed_history(call, chain) is not None:
            return Read(chain, cursor, final, halted=True)
        recorded = tuple(items_of(call, ListTransactionsRequest(chain=chain), "transactions"))
        deployments = tuple(items_of(call, ListDeploymentsRequest(chain=chain), "deployments"))
        last = final.number if through_number is None else min(final.number, through_number)
        try:
            found = self._adapter.read(cursor, deployments, recorded, through_number=last)
        except HistoryChanged as changed:
            self._raise(changed)
            return Read(chain, cursor, final, halted=True)
        if found is None:
            return Read(chain, cursor, final)
        if satisfied is not None and satisfied.instructions and found.through.number >= satisfied.number:
            found.satisfied_instructions.extend(satisfied.instructions)
        return self._book(found, final)

    def _book(self, found: ObservedRange, final: ChainPosition) -> Read:
        try:
            answer = self._call(RecordObservationsRequest(range=found))
        except RuleViolated as refused:
            if refused.reason != Reason.REASON_EXPECTATION_FAILED:
                raise
            # Another reader was faster, or an answer was lost: the cursor says where to go on.
            return Read(self._chain, self._call(GetChainRequest(chain=self._chain)).chain.cursor, final)
        return Read(
            self._chain,
            found.through,
            final,
            booked=True,
            observation_count=len(found.observations),
            final_count=answer.final_count,
            refused_count=answer.refused_count,
            divergence_count=answer.divergence_count,
        )

    def _raise(self, changed: HistoryChanged) -> None:
        """Tell that what was final is no more; from then on nothing goes to or from that chain."""
        request = RaiseDivergenceRequest(
            chain=self._chain,
            kind=DivergenceKind.DIVERGENCE_KIND_HISTORY_CHANGED,
            expected=changed.expected[:_HASH_LENGTH_MAX],
            found=changed.found[:_HASH_LENGTH_MAX],
        )
        try:
            self._call(request)
        except RuleViolated as refused:
            if refused.reason != Reason.REASON_NOTHING_TO_CHANGE:
                raise
