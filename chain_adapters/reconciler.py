"""The reconciler: supply and holdings on chain, held against the books at the very position they were read at.

    one pass, for each deployment    measure    supply and holdings, at the cursor or where the node's answers say
                                     read       on to that position, if it is beyond the cursor
                                     record     the figures; the ledger says what differs

Whose holdings: of a native token everybody's who has one in the books there; of somebody else's token our wallets and deposit addresses.
An account that the books do not know shows in the supply.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from chain_adapters.calls import changed_history, items_of
from chain_adapters.protocol import DeploymentUnfit, NodeUnfit
from ledger.errors import RuleViolated
from stockledger.v1.accounts_pb2 import ListRegisterRequest
from stockledger.v1.chains_pb2 import (
    ChainPosition,
    Deployment,
    DeploymentKind,
    GetChainRequest,
    ListDeploymentsRequest,
    ListDepositAddressesRequest,
    RecordReconciliationRequest,
)
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chain_adapters.calls import Call
    from chain_adapters.protocol import ChainAdapter
    from chain_adapters.reader import Reader

ACCOUNTS_PER_MEASUREMENT_MAX: Final = 500
TRIES: Final = 8
"""How often a measurement is begun again because the books had gone on, or the chain was elsewhere."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What one deployment came to."""

    chain: str
    instrument: str
    position: ChainPosition | None
    """Where the last figures are from; None: the chain went on too fast each time."""
    agreeing_count: int = 0
    divergence_count: int = 0
    """Divergences that were raised by this pass; those that were open already are not."""


class Reconciler:
    """Holds one chain against the books. Nobody else may read the chain meanwhile, or a pass only takes longer."""

    def __init__(self, call: Call, adapter: ChainAdapter, reader: Reader) -> None:
        self._call = call
        self._adapter = adapter
        self._chain = adapter.chain
        self._reader = reader

    def run(self) -> Iterator[Reconciled]:
        """Do one pass over all deployments of the chain; where one cannot be measured, the others are before that is said.

        Raises: ChainUnavailable, NodeUnfit, DeploymentUnfit; LedgerError where the ledger cannot be asked.
        """
        if changed_history(self._call, self._chain) is not None:
            return
        failure: NodeUnfit | DeploymentUnfit | None = None
        for deployment in tuple(items_of(self._call, ListDeploymentsRequest(chain=self._chain), "deployments")):
            if not deployment.retired:
                try:
                    yield self._reconcile(deployment)
                except (NodeUnfit, DeploymentUnfit) as error:
                    failure = failure or error
        if failure is not None:
            raise failure

    def _reconcile(self, deployment: Deployment) -> Reconciled:
        accounts = self._accounts(deployment)
        agreeing_count = divergence_count = 0
        position = None
        for first in range(0, max(len(accounts), 1), ACCOUNTS_PER_MEASUREMENT_MAX):
            part = self._part(deployment, accounts[first : first + ACCOUNTS_PER_MEASUREMENT_MAX])
            if part.position is None:
                return Reconciled(self._chain, deployment.instrument, None, agreeing_count, divergence_count)
            position = part.position
            agreeing_count += part.agreeing_count
            divergence_count += part.divergence_count
        return Reconciled(self._chain, deployment.instrument, position, agreeing_count, divergence_count)

    def _accounts(self, deployment: Deployment) -> list[str]:
        call, chain = self._call, self._chain
        if deployment.kind == DeploymentKind.DEPLOYMENT_KIND_OMNIBUS:
            addresses = items_of(call, ListDepositAddressesRequest(chain=chain), "deposit_addresses")
            return sorted({*deployment.wallets, *(each.deposit_address for each in addresses)})
        register = items_of(call, ListRegisterRequest(instrument=deployment.instrument), "holdings")
        return sorted(holding.account for holding in register if holding.account.rpartition(":")[0] == chain)

    def _part(self, deployment: Deployment, accounts: list[str]) -> Reconciled:
        for _ in range(TRIES):
            cursor = self._call(GetChainRequest(chain=self._chain)).chain.cursor
            measured = self._adapter.measure(deployment, accounts, cursor)
            if not self.read_on(measured.position):
                continue
            request = RecordReconciliationRequest(chain=self._chain, position=measured.position, figures=measured.figures)
            try:
                answer = self._call(request)
            except RuleViolated as refused:
                if refused.reason != Reason.REASON_EXPECTATION_FAILED:
                    raise
                continue
            return Reconciled(self._chain, deployment.instrument, measured.position, answer.agreeing_count, answer.divergence_count)
        return Reconciled(self._chain, deployment.instrument, None)

    def read_on(self, position: ChainPosition) -> bool:
        """Read until the cursor is exactly where the figures are from; tell whether it is."""
        while True:
            cursor = self._call(GetChainRequest(chain=self._chain)).chain.cursor
            if cursor.number >= position.number:
                return bool((cursor.number, cursor.hash) == (position.number, position.hash))
            read = self._reader.read(through_number=position.number)
            if read.cursor.number == cursor.number:
                return False
