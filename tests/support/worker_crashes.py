"""Kill a worker at random while it carries out instructions, and hold chain and ledger against what was commanded."""

from __future__ import annotations

import contextlib
import random
import threading
from typing import TYPE_CHECKING

from chain_worker_process import Operators, Ticking, WorkerProcess, wait_until
from server_process import ServerProcess

from chain_adapters.conformance_market import SYMBOL, Market
from chain_adapters.fault_proxy import FaultProxy
from chain_adapters.memory.rig import MemoryRig
from ledger import Ledger
from stockledger.v1.accounts_pb2 import FreezeAccountRequest, UnfreezeAccountRequest
from stockledger.v1.approvals_pb2 import GrantRoleRequest, Role
from stockledger.v1.chains_pb2 import ListDivergencesRequest
from stockledger.v1.transfers_pb2 import ForceTransferRequest, TransferUnitsRequest

if TYPE_CHECKING:
    from pathlib import Path

START_SECONDS = 0.4
"""What a process needs before it does anything that could break."""
SECONDS_PER_KILL = 1.1
"""On average; commands are spread over the same time."""


def crash_worker(folder: Path, *, instructions: int, kills: int, seed: int, sequences: str, fault_share: float = 0.0) -> None:
    """Book mixed instructions through a server while its worker is killed; everything must have happened once in the end."""
    chance = random.Random(seed)
    store = f"sqlite:///{folder}/books.db"
    with contextlib.ExitStack() as parties:
        rig = parties.enter_context(MemoryRig(sequences=sequences, seed=seed))
        market = Market(rig, store=store)
        roles = {"operator": Role.ROLE_OPERATOR, "approver": Role.ROLE_APPROVER, "worker": Role.ROLE_WORKER}
        market.do(*(GrantRoleRequest(principal=principal, role=role) for principal, role in roles.items()))
        market.settle()
        first, second = market.wallets
        market.wallets.append(market.make_wallet("h-2"))
        market.transfer("book:alice", first, 100_000)
        market.settle()
        market.close()
        server = parties.enter_context(ServerProcess(store, local_principals=True))
        operators = parties.enter_context(Operators(server.address))
        node_url = rig.node_url
        if fault_share:
            node_url = parties.enter_context(FaultProxy(rig.node_url, share=fault_share, seed=seed)).url
        parties.enter_context(Ticking(rig, random.Random(seed + 1)))
        worker = parties.enter_context(WorkerProcess(rig, server.address, folder, node_url=node_url))
        expected = {first: 100_000, second: 0, "book:bob": 0}
        killing = threading.Thread(target=_kill, args=(worker, kills, random.Random(seed + 2)))
        killing.start()
        _command(operators, instructions, chance, market, expected, pause_seconds=SECONDS_PER_KILL * kills / instructions)
        killing.join()
        wait_until(worker.works, 60, "the worker does not come up", worker.log)
        wait_until(lambda: operators.under_way(rig.chain) == 0, 120, "instructions still under way", worker.log)
        assert not list(operators.client("operator").items(ListDivergencesRequest(chain=rig.chain)))
        assert worker.kills == kills
        assert worker.stop() == 0
        server.kill()
        rig.finalise()
        market.books = Ledger.open(store)
        market.read()
        market.check(expected)
        assert [each.divergence_count for each in market.reconcile()] == [0]
        market.close()


def _kill(worker: WorkerProcess, kills: int, chance: random.Random) -> None:
    pause = threading.Event()
    for _ in range(kills):
        pause.wait(START_SECONDS + chance.expovariate(1 / (SECONDS_PER_KILL - START_SECONDS)))
        worker.kill()


def _command(
    operators: Operators, count: int, chance: random.Random, market: Market, expected: dict[str, int], *, pause_seconds: float
) -> None:
    """Ask for mints, burns, forced transfers, freezes and their ends; note what each account must have in the end."""
    first, second, third = market.wallets
    frozen = False
    spare = expected[first]
    pause = threading.Event()
    for step in range(count):
        kind = chance.choices(("mint", "burn", "force", "freeze"), (5, 3, 2, 1))[0]
        units = chance.randint(1, 50)
        if kind == "mint":
            account = chance.choice((first, second))
            operators.do(TransferUnitsRequest(instrument=SYMBOL, source="book:alice", destination=account, units=units))
            expected[account] += units
        elif kind == "burn" and spare >= units:
            operators.do(TransferUnitsRequest(instrument=SYMBOL, source=first, destination="book:bob", units=units))
            spare, expected[first], expected["book:bob"] = spare - units, expected[first] - units, expected["book:bob"] + units
        elif kind == "force" and spare >= units:
            request = ForceTransferRequest(instrument=SYMBOL, source=first, destination=second, units=units)
            request.legal_reference, request.cause = f"order {step}", "judgment"
            operators.do(request, principal="enforcer")
            spare, expected[first], expected[second] = spare - units, expected[first] - units, expected[second] + units
        elif kind == "freeze":
            _freeze(operators, third, step, frozen=frozen)
            frozen = not frozen
        pause.wait(pause_seconds)


def _freeze(operators: Operators, account: str, step: int, *, frozen: bool) -> None:
    reference = f"order {step}"
    if frozen:
        operators.do(UnfreezeAccountRequest(account=account, legal_reference=reference), principal="enforcer")
    else:
        operators.do(FreezeAccountRequest(account=account, legal_reference=reference), principal="enforcer")
