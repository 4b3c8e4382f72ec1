"""Kill a worker at random while it carries out instructions, and hold chain and ledger against what was commanded."""

from __future__ import annotations

import contextlib
import random
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chain_worker_process import Operators, Ticking, WorkerProcess, wait_until
from server_process import ServerProcess

from chain_adapters.conformance_market import MULTIPLIER, SYMBOL, Market, evidence
from chain_adapters.fault_proxy import FaultProxy
from ledger import Ledger
from ledger.log.checkpoint import Signer
from stockledger.v1.accounts_pb2 import FreezeAccountRequest, UnfreezeAccountRequest
from stockledger.v1.approvals_pb2 import GrantRoleRequest, Role
from stockledger.v1.audit_pb2 import GetCheckpointRequest
from stockledger.v1.chains_pb2 import AnchorCheckpointRequest, ChainCapability, InstructionKind, ListDivergencesRequest
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.instruments_pb2 import HaltInstrumentRequest, ResumeInstrumentRequest, SetMultiplierRequest
from stockledger.v1.transfers_pb2 import ForceTransferRequest, TransferUnitsRequest

if TYPE_CHECKING:
    from pathlib import Path

    from chain_adapters.rig import WorkedRig

ORIGIN = "kit.example/log"
LIFE_SECONDS = 0.8
"""How long a worker that has come up lives, on average."""
UP_SECONDS = 60
OVER_SECONDS = 1_200
FIRST_UNITS = 100_000
KINDS = {"mint": 10, "burn": 6, "force": 4, "freeze": 3, "pause": 1, "multiplier": 1, "evidence": 1, "anchor": 1}
"""What is asked for, by how often."""
_C = ChainCapability
NEEDS = {
    "force": _C.CHAIN_CAPABILITY_FORCE_TRANSFER,
    "freeze": _C.CHAIN_CAPABILITY_FREEZE,
    "pause": _C.CHAIN_CAPABILITY_PAUSE,
    "multiplier": _C.CHAIN_CAPABILITY_MULTIPLIER,
    "evidence": _C.CHAIN_CAPABILITY_RESERVE_FEED,
    "anchor": _C.CHAIN_CAPABILITY_ANCHOR,
}
"""What a token must be able to do for it."""
HALTS = (Operation.OPERATION_TRANSFER, Operation.OPERATION_ISSUE, Operation.OPERATION_REDEEM)


def crash_worker(rig: WorkedRig, folder: Path, *, instructions: int, kills: int, seed: int, fault_share: float = 0.0) -> dict[str, int]:
    """Book mixed instructions through a server while its worker is killed; everything must have happened once in the end.

    Returns how many of each kind were asked for, and what the proxy did to the calls of the node.
    """
    store = f"sqlite:///{folder}/books.db"
    with contextlib.ExitStack() as parties:
        market = _open_market(rig, store)
        (folder / "checkpoint.key").write_text(Signer(ORIGIN, bytes([7]) * 32).secret_text)
        server = parties.enter_context(ServerProcess(store, local_principals=True, signing_key=folder / "checkpoint.key"))
        operators = parties.enter_context(Operators(server.address))
        proxy = parties.enter_context(FaultProxy(rig.node_url, share=fault_share, seed=seed))
        with Ticking(rig, random.Random(seed + 1)):
            worker = parties.enter_context(WorkerProcess(rig, server.address, folder, node_url=proxy.url))
            asked = Asked(operators, market, random.Random(seed))
            killing = threading.Thread(target=_kill, args=(worker, kills, random.Random(seed + 2)))
            killing.start()
            for step in range(instructions):
                wait_until(lambda: worker.kills * instructions >= step * kills or not killing.is_alive(), OVER_SECONDS, "nothing is killed")  # noqa: B023 - at once
                asked.one()
            killing.join()
            asked.end()
            wait_until(worker.works, UP_SECONDS, "the worker does not come up", worker.log)
            wait_until(lambda: operators.under_way(rig.chain) == 0, OVER_SECONDS, "instructions still under way", worker.log)
            assert not list(operators.client("operator").items(ListDivergencesRequest(chain=rig.chain)))
            assert worker.kills == kills
            assert worker.stop() == 0
        server.kill()
        rig.finalise()
        market.books = Ledger.open(store)
        market.read()
        asked.check()
        market.close()
        return dict(asked.counts) | dict(proxy.told)


def _open_market(rig: WorkedRig, store: str) -> Market:
    """Return a market with a wallet more than the kit's, the first one filled; its books are closed again."""
    market = Market(rig, store=store)
    roles = {"operator": Role.ROLE_OPERATOR, "approver": Role.ROLE_APPROVER, "worker": Role.ROLE_WORKER}
    market.do(*(GrantRoleRequest(principal=principal, role=role) for principal, role in roles.items()))
    market.settle()
    market.wallets.append(market.make_wallet("h-2"))
    market.transfer("book:alice", market.wallets[0], FIRST_UNITS)
    market.settle()
    market.close()
    return market


def _kill(worker: WorkerProcess, kills: int, chance: random.Random) -> None:
    pause = threading.Event()
    for _ in range(kills):
        wait_until(worker.works, UP_SECONDS, "the worker does not come up", worker.log)
        pause.wait(chance.expovariate(1 / LIFE_SECONDS))
        worker.kill()


@dataclass
class Asked:
    """Asks for mints, burns, forced transfers, freezes, pauses, multipliers, reserves and anchors, and knows what must come of them."""

    operators: Operators
    market: Market
    chance: random.Random
    counts: dict[str, int] = field(default_factory=dict)
    frozen: bool = False
    halted: Operation.ValueType | None = None
    multiplier: int = MULTIPLIER
    shares: int = 1_000_000
    """What the kit's custodian states at first."""
    anchors: int = 0

    def __post_init__(self) -> None:
        first, second, third = self.market.wallets
        self.expected = {first: FIRST_UNITS, second: 0, third: 0, "book:bob": 0}
        self.kinds = {kind: share for kind, share in KINDS.items() if self.market.can(NEEDS.get(kind, _C.CHAIN_CAPABILITY_MINT))}
        self.spare = FIRST_UNITS
        """What the first wallet surely has: mints to it may still be under way."""

    def one(self) -> None:
        """Ask for one thing, drawn by chance."""
        kind = self.chance.choices(list(self.kinds), list(self.kinds.values()))[0]
        if kind == "multiplier" and self._is_multiplier_on_its_way():
            kind = "mint"
        units = self.chance.randint(1, 50)
        first, second, _ = self.market.wallets
        if kind in ("mint", "burn") and self.halted is not None:
            self._pause("units are wanted")
        elif kind == "mint":
            account = self.chance.choice((first, second))
            self._move(TransferUnitsRequest(instrument=SYMBOL, source="book:alice", destination=account, units=units))
        elif kind == "burn":
            self._move(TransferUnitsRequest(instrument=SYMBOL, source=first, destination="book:bob", units=units))
        elif kind == "force":
            request = ForceTransferRequest(instrument=SYMBOL, source=first, destination=second, units=units)
            request.legal_reference, request.cause = f"order {sum(self.counts.values())}", "judgment"
            self._move(request, principal="enforcer")
        elif kind == "freeze":
            self._freeze()
        elif kind == "pause":
            self._pause("news")
        elif kind == "multiplier":
            self._set_multiplier()
        elif kind == "evidence":
            self.shares += units
            self.operators.do(evidence(self.shares))
        else:
            self._anchor()
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def end(self) -> None:
        """Let nothing be halted, so that everything can be carried out."""
        if self.halted is not None:
            self._pause("the day is over")

    def check(self) -> None:
        """Hold books and chain against what was asked for."""
        market = self.market
        market.check(self.expected)
        third = market.wallets[2]
        controls = market.rig.controls(market.token, [third])
        assert controls.frozen == ({third} if self.frozen else set())
        assert not controls.paused
        if "multiplier" in self.kinds:
            assert controls.multiplier_next == self.multiplier
        if "evidence" in self.kinds:
            assert controls.reserve_shares_e8 == self.shares * 10**8
        assert controls.anchors == self.anchors
        assert [each.divergence_count for each in market.reconcile()] == [0]
        assert not market.divergences()

    def _move(self, request: TransferUnitsRequest | ForceTransferRequest, *, principal: str = "operator") -> None:
        source, units = request.source, request.units
        if source == self.market.wallets[0]:
            assert self.spare >= units, "the first wallet has run dry: give it more"
            self.spare -= units
        self.operators.do(request, principal=principal)
        if source in self.expected:
            self.expected[source] -= units
        self.expected[request.destination] += units

    def _freeze(self) -> None:
        kind = UnfreezeAccountRequest if self.frozen else FreezeAccountRequest
        self.operators.do(kind(account=self.market.wallets[2], legal_reference=f"order {self.counts}"[:60]), principal="enforcer")
        self.frozen = not self.frozen

    def _pause(self, cause: str) -> None:
        if self.halted is None:
            self.halted = self.chance.choice(HALTS)
            self.operators.do(HaltInstrumentRequest(instrument=SYMBOL, operations=[self.halted], cause=cause))
        else:
            self.operators.do(ResumeInstrumentRequest(instrument=SYMBOL, operations=[self.halted], cause=cause))
            self.halted = None

    def _is_multiplier_on_its_way(self) -> bool:
        """Tell whether the chain has the last one not yet: in force only after the next was decided, it would be a divergence."""
        kinds = {each.kind for each in self.operators.instructions(self.market.rig.chain)}
        return InstructionKind.INSTRUCTION_KIND_SET_MULTIPLIER in kinds

    def _set_multiplier(self) -> None:
        wanted = MULTIPLIER if self.multiplier != MULTIPLIER else 2 * MULTIPLIER
        request = SetMultiplierRequest(instrument=SYMBOL, expected_multiplier=str(self.multiplier), multiplier=str(wanted), cause="split")
        self.operators.do(request)
        self.multiplier = wanted

    def _anchor(self) -> None:
        """Have a checkpoint of now kept on chain: each is anchored once, or the contract would have one twice."""
        signed = self.operators.execute(GetCheckpointRequest()).checkpoint
        self.operators.do(AnchorCheckpointRequest(chain=self.market.rig.chain, checkpoint=signed), principal="worker")
        self.anchors += 1
