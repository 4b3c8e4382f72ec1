"""A server, a worker and a chain as three parties: the worker is killed at random, the chain and the ledger live on."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from stockledger.client import Client
from stockledger.v1.approvals_pb2 import ApproveCommandRequest
from stockledger.v1.chains_pb2 import Instruction, InstructionState, ListInstructionsRequest, ListTransactionsRequest

if TYPE_CHECKING:
    from pathlib import Path

    from chain_adapters.rig import WorkedRig


class WorkerProcess:
    """`stockledger work` on the chain of one rig, killed and started again."""

    def __init__(self, rig: WorkedRig, ledger_address: str, folder: Path, *flags: str, node_url: str = "") -> None:
        given = ["--chain", f"{rig.chain}={node_url or rig.node_url}"]
        for place, text in enumerate(rig.key_texts()):
            path = folder / f"{place}.key"
            path.write_text(text)
            given += ["--chain-key", f"{rig.chain}={path}"]
        for name, value in rig.options().items():
            given += ["--chain-option", f"{rig.chain}={name}={value}"]
        self._command = [sys.executable, "-m", "services.cli.main", "work", "--ledger-address", ledger_address, *given]
        self._command += ["--chain-poll-ms", "20", "--chain-reconcile-seconds", "1", *flags]
        self._log = folder / "worker.log"
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.kills = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def start(self) -> None:
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stderr=log, env=os.environ)

    def kill(self) -> None:
        """SIGKILL, and another one at once."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.kills += 1
        self.start()

    def stop(self) -> int:
        """SIGTERM; return the exit code."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(30)
        self.process = None
        return code

    def works(self) -> bool:
        """Tell whether the process that runs now has come up."""
        return b"stockledger works on" in self._log.read_bytes()[self._log_start :]

    def log(self) -> str:
        return self._log.read_text()


class Operators:
    """What people and systems ask of the server: commands by name of who asks, approved where that is needed."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._clients: dict[str, Client] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients.values():
            client.close()

    def client(self, principal: str) -> Client:
        if principal not in self._clients:
            self._clients[principal] = Client(self._address, principal=principal)
        return self._clients[principal]

    def execute(self, request: Any, *, principal: str = "operator") -> Any:
        return self.client(principal).execute(request)

    def do(self, request: Any, *, principal: str = "operator") -> None:
        answer = self.execute(request, principal=principal)
        if answer.booking.approval:
            self.execute(ApproveCommandRequest(approval=answer.booking.approval), principal="approver")

    def instructions(self, chain: str) -> list[Instruction]:
        """Return those that are not over."""
        return list(self.client("operator").items(ListInstructionsRequest(chain=chain, page_size=1000)))

    def under_way(self, chain: str) -> int:
        """Return how many instructions and transactions are not over."""
        instructions = self.instructions(chain)
        waiting = [each for each in instructions if each.state != InstructionState.INSTRUCTION_STATE_REFUSED and not each.blocked_by]
        return len(waiting) + len(list(self.client("operator").items(ListTransactionsRequest(chain=chain, page_size=1000))))


class Ticking:
    """Lets a chain go on, and now and then fork short of finality, for as long as it lives."""

    def __init__(self, rig: WorkedRig, chance: random.Random, seconds: float = 0.03) -> None:
        self._rig = rig
        self._chance = chance
        self._seconds = seconds
        self._told = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._told.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._told.wait(self._seconds):
            self._rig.tick(self._chance)


def wait_until(condition: Any, seconds: float, what: str, tell: Any = str) -> None:
    """Wait for something, or fail and say what was waited for, and what `tell` says then."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}\n{tell()}"
        time.sleep(0.05)
