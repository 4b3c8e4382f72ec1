"""The stage of the story on two chains: nodes, tokens, the worker, and what somebody asks and waits for in any of its chapters.

chains_story.py and what it is made of play on it. The log is followed as an auditor does, so that each line that is printed says what
the log says.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brokers_story import SHARE, BrokersStory
from chain_nodes import Ethereum, Solana, wait_for

from chain_adapters.evm.setup import PARTIES as EVM_PARTIES
from chain_adapters.spl.setup import PARTIES as SPL_PARTIES
from stockledger.client import Client, LedgerError, new_request_id
from stockledger.v1 import accounts_pb2, approvals_pb2, chains_pb2, transfers_pb2
from stockledger.v1.events_pb2 import Entry

PARTIES = {"Ethereum": EVM_PARTIES, "Solana": SPL_PARTIES}
"""Who does what on a chain: each a key of its own."""
SYMBOL, FOREIGN = "TSLAx", "SHOPx"
ALLOTMENT = 5_000 * SHARE
FINAL_SECONDS = 90
WORD_MAX = 30
"""A longer one is an address, or a transaction."""


@dataclass
class Over:
    """How an instruction ended, as the log says."""

    time_us: int
    index: int
    state: str
    text: str = ""


class LogReader:
    """Follows the log as an auditor does, and remembers what became of each instruction."""

    def __init__(self, client: Client, start_index: int) -> None:
        self.decided: dict[int, int] = {}
        self.recorded: dict[str, int] = {}
        self.over: dict[str, Over] = {}
        self.transaction: dict[str, str] = {}
        self.seen: dict[str, tuple[int, int]] = {}
        """Transaction of others -> (index, moment) at which the ledger booked it."""
        self.divergences: list[Any] = []
        self._by_digest: dict[bytes, list[str]] = {}
        self._closed = False
        threading.Thread(target=self._follow, args=(client, start_index), daemon=True).start()

    def close(self) -> None:
        self._closed = True

    def _follow(self, client: Client, start_index: int) -> None:
        try:
            for piece in client.entries(start_index):
                for raw in piece.entries:
                    self._take(raw.index, Entry.FromString(raw.data))
        except (LedgerError, ValueError):
            if not self._closed:
                raise

    def _take(self, index: int, entry: Entry) -> None:
        now = entry.decision_time_us
        self.decided[index] = now
        match entry.WhichOneof("event"):
            case "transactions_recorded":
                for transaction in entry.transactions_recorded.transactions:
                    names = list(transaction.instructions)
                    self._by_digest[hashlib.sha256(transaction.payload).digest()] = names
                    self.recorded.update(dict.fromkeys(names, now))
            case "range_observed":
                observed = entry.range_observed
                for landed in observed.landed:
                    self.transaction.update(dict.fromkeys(self._by_digest.get(landed.payload_digest, []), landed.transaction))
                for effect in observed.effects:
                    self.seen.setdefault(effect.observation.transaction, (index, now))
                for outcome in observed.outcomes:
                    name = chains_pb2.InstructionState.Name(outcome.state).removeprefix("INSTRUCTION_STATE_")
                    if name != "OPEN":
                        self.over[outcome.instruction] = Over(now, index, name, outcome.failure_text)
            case "instruction_abandoned":
                given_up = entry.instruction_abandoned
                self.over[given_up.instruction] = Over(now, index, "GIVEN UP", given_up.cause)
            case "divergence_raised":
                self.divergences.append(entry.divergence_raised.divergence)


@dataclass
class Flow:
    """Something under way: what a person asked for, and the instructions that it takes, one after the other."""

    what: str
    index: int
    """Of the entry that its first instruction follows from."""
    hops: int = 1
    instructions: list[str] = field(default_factory=list)


class ChainsStage:
    """Both nodes, the worker between them and the ledger, and the wallets of those who play."""

    def __init__(self, folder: Path, brokers: BrokersStory) -> None:
        self.folder = folder
        self.ethereum, self.solana = Ethereum(), Solana(folder)
        self.brokers = brokers
        self.clients = brokers.clients
        for name in ("bailiff", "worker"):
            self.clients[name] = Client(brokers.server.address, token=lambda name=name: brokers.desk.token(name), seconds=60)
        self._worker: subprocess.Popen[bytes] | None = None
        self._pool = ThreadPoolExecutor(4)
        self.log: LogReader | None = None
        self.wallet: dict[tuple[str, str], Any] = {}
        """(holder, name of the chain) -> what its owner acts with there."""
        self._deployed = self._pool.submit(self._deploy)

    # ---- before the server starts ---------------------------------------------------------------------------------------------------

    def _deploy(self) -> dict[str, Any]:
        """Put tokens on both chains, each with keys of its own for each power; somebody else does the same with another token."""
        for node in (self.ethereum, self.solana):
            node.wait_until_up()
        (self.folder / "keys").mkdir()
        self._write_file("ethereum", self.ethereum, [self._token(reserve_feed=True)], 'origin = "demo.example/stockledger"')
        self._write_file("solana", self.solana, [self._token()], "", '[options]\nnonces = "8"')
        theirs = {"instrument": FOREIGN, "name": "Shopify of another issuer", "decimals": 18}
        self._write_file("other-issuer", self.ethereum, [theirs])
        for name in ("hot", "deposit"):
            self.ethereum.new_key(self.folder / "keys" / f"{name}.key")
        names = ("ethereum", "solana", "other-issuer")
        running = {name: self._pool.submit(self._run, "chain", "deploy", f"{name}.toml", "--json") for name in names}
        return {name: run.result() for name, run in running.items()}

    def deploy(self) -> None:
        """Show what was deployed while the brokers were at work, and write what the ledger and its worker are told."""
        told = self._deployed.result()
        settings: dict[str, list[str]] = {"chains": [], "chain_keys": [], "chain_options": []}
        lines: list[dict[str, Any]] = [
            {"command": "GrantRole", "principal": "worker", "role": "ROLE_WORKER"},
            {"command": "GrantRole", "principal": "bailiff", "role": "ROLE_ENFORCER"},
        ]
        self.token = {}
        for name, chain in (("ethereum", self.ethereum), ("solana", self.solana)):
            print(f"\n$ stockledger chain deploy {name}.toml        # {chain.node}, {chain.chain}")
            self._show_parts(told[name])
            for setting, values in told[name]["worker"].items():
                settings[setting] += values
            lines += told[name]["commands"]
            self.token[chain.name] = told[name]["commands"][-1]["token"]
        self.deny_list = next(part["address"] for part in told["ethereum"]["parts"] if part["name"] == "DenyList")
        settings["chain_keys"] += [f"{self.ethereum.chain}=keys/{name}.key" for name in ("hot", "deposit")]
        self.foreign_token = told["other-issuer"]["commands"][-1]["token"]
        self._exchange = self._pool.submit(self._register_foreign)
        (self.folder / "chains.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        toml = "".join(f"{name} = {json.dumps(values)}\n" for name, values in settings.items())
        (self.folder / "worker.toml").write_text(f'{toml}ledger_token = "worker.token"\n')
        (self.folder / "worker.token").write_text(self.brokers.desk.token("worker"))

    def _token(self, **more: Any) -> dict[str, Any]:
        return {
            "instrument": SYMBOL,
            "name": "Tesla tokenised",
            "decimals": 8,
            "allotment_units": ALLOTMENT,
            **more,
        }

    def _write_file(self, name: str, chain: Any, tokens: list[dict[str, Any]], top: str = "", options: str = "") -> None:
        parties = PARTIES[chain.name]
        for party in parties:
            chain.new_key(self.folder / "keys" / f"{name}-{party}.key")
        keys = "".join(f'{party} = "keys/{name}-{party}.key"\n' for party in parties)
        head = f'chain = "{chain.chain}"\nname = "{chain.name}"\nnodes = ["{chain.url}"]\n{top}\n'
        tables = "".join("[[tokens]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in token.items()) for token in tokens)
        (self.folder / f"{name}.toml").write_text(f"{head}\n[keys]\n{keys}\n{tables}\n{options}\n")

    def _run(self, *arguments: str) -> Any:
        command = [sys.executable, "-m", "services.cli.main", *arguments]
        done = subprocess.run(command, check=False, cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"stockledger {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
        return json.loads(done.stdout)

    def _register_foreign(self) -> Any:
        """Find out, as an exchange would, what somebody else's token can do, and write what registers it."""
        entry = {
            "instrument": FOREIGN,
            "token": self.foreign_token,
            "decimals": 18,
            "wallets": ["keys/hot.key"],
            "units_per_day_max": 50 * SHARE,
        }
        head = f'chain = "{self.ethereum.chain}"\nname = "Ethereum"\nnodes = ["{self.ethereum.url}"]\n'
        fields = "".join(f"{name} = {json.dumps(value)}\n" for name, value in entry.items())
        (self.folder / "exchange.toml").write_text(f"{head}[[omnibus]]\n{fields}")
        return self._run("chain", "deploy", "exchange.toml", "--json")["commands"]

    @staticmethod
    def _show_parts(document: dict[str, Any]) -> None:
        parts = [part for part in document["parts"] if part["name"] != "nonce account"]
        nonces = len(document["parts"]) - len(parts)
        for part in parts:
            print(f"   {part['name']:<22} {short(part['address'])}")
        if nonces:
            print(f"   {nonces} nonce accounts, which let a transaction wait without expiring")
        cost = int(document["cost"]) / 10 ** document["coin_decimals"]
        print(f"   made for {cost:.4f} {document['coin']}; {len(document['commands'])} commands tell the ledger of it and of the keys")

    # ---- the processes --------------------------------------------------------------------------------------------------------------

    def start_worker(self) -> None:
        flags = ["--ledger-address", self.brokers.server.address, "--chain-poll-ms", "200", "--chain-reconcile-seconds", "5"]
        command = [sys.executable, "-m", "services.cli.main", "work", "--config", "worker.toml", "--log-level", "warning", *flags]
        with (self.folder / "worker.log").open("ab") as log:
            self._worker = subprocess.Popen(command, cwd=self.folder, stderr=log)

    def stop_worker(self, how: int) -> None:
        assert self._worker is not None, "it runs"
        self._worker.send_signal(how)
        try:
            self._worker.wait(FINAL_SECONDS)
        except subprocess.TimeoutExpired:
            log = (self.folder / "worker.log").read_text()
            raise SystemExit(f"the worker did not stop within {FINAL_SECONDS} s\n{log}") from None
        self._worker = None

    def hold_worker(self) -> None:
        """Have the worker stand still until `go_on`, so that what is decided meanwhile is not signed, and what is final is not booked."""
        assert self._worker is not None, "it runs"
        self._worker.send_signal(signal.SIGSTOP)
        os.waitpid(self._worker.pid, os.WUNTRACED)

    def go_on(self) -> None:
        assert self._worker is not None, "it runs"
        self._worker.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End what this part has started, whatever happened."""
        if self.log is not None:
            self.log.close()
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()
        for node in (self.ethereum, self.solana):
            node.stop()
        self._pool.shutdown(cancel_futures=True)

    # ---- asking ---------------------------------------------------------------------------------------------------------------------

    def do(self, command: Any, principal: str = "operator", approver: str = "compliance") -> tuple[Any, int]:
        """Have a command booked, approved where that is needed; return its answer and the index of its last event."""
        command.request_id = new_request_id()
        answer = self.clients[principal].execute(command)
        self.brokers.acknowledged[principal, command.request_id] = answer.booking.index
        if not answer.booking.approval:
            return answer, answer.booking.index + max(answer.booking.entry_count, 1) - 1
        return answer, self.do(approvals_pb2.ApproveCommandRequest(approval=answer.booking.approval), approver)[1]

    def transfer(self, source: str, destination: str, units: int, instrument: str = SYMBOL) -> int:
        request = transfers_pb2.TransferUnitsRequest(instrument=instrument, source=source, destination=destination, units=units)
        return self.do(request)[1]

    def units(self, account: str, instrument: str = SYMBOL) -> int:
        request = accounts_pb2.GetHoldingRequest(instrument=instrument, account=account)
        return int(self.clients["operator"].execute(request).holding.units)

    def places(self, instrument: str = SYMBOL) -> list[Any]:
        return list(self.clients["auditor"].items(chains_pb2.ListPlacesRequest(instrument=instrument, page_size=100)))

    def show_transit(self) -> None:
        waiting = [f"{shares(each.transit_units)} to {self.name_of(each.place)}" for each in self.places() if each.transit_units]
        print(f"   on their way: {', '.join(waiting) or 'nothing'}")

    def name_of(self, place: str) -> str:
        return {self.ethereum.chain: "Ethereum", self.solana.chain: "Solana"}.get(place, place)

    def await_final(self, *flows: Flow) -> None:
        """Wait for all, and tell of each when it is over."""
        left = list(flows)
        deadline = time.monotonic() + FINAL_SECONDS
        while left:
            if time.monotonic() > deadline:
                log = (self.folder / "worker.log").read_text()
                raise SystemExit(f"not final after {FINAL_SECONDS} s: {', '.join(flow.what for flow in left)}\n{log}")
            left = [flow for flow in left if not self._is_over(flow)]
            time.sleep(0.05)

    def _is_over(self, flow: Flow) -> bool:
        assert self.log is not None, "it is followed"
        if not flow.instructions:
            flow.instructions.append(f"{flow.index}-0")
        over = self.log.over.get(flow.instructions[-1])
        if over is None:
            return False
        if len(flow.instructions) < flow.hops:
            following = next((name for name in list(self.log.recorded) if name.startswith(f"{over.index}-")), None)
            if following is not None:
                flow.instructions.append(following)
            return False
        begun = wait_for("the log", lambda: self.log.decided.get(flow.index))
        sent = [self.log.transaction[name] for name in flow.instructions if name in self.log.transaction]
        how = "final" if over.state == "FINAL" else over.state.lower()
        text = " ".join(short(word) if len(word) > WORD_MAX else word for word in over.text.partition("(")[0].split())
        why = f" ({text})" if over.state != "FINAL" and text else ""
        first = self.log.recorded.get(flow.instructions[0])
        signed = f"signed {(first - begun) / 1e6:4.1f} s, " if first else ""
        print(f"   {flow.what:<60} {signed}{how} {(over.time_us - begun) / 1e6:4.1f} s  {', '.join(map(short, sent))}{why}", flush=True)
        return True

    def seen(self, transaction: str) -> int:
        """Wait until the reader has booked what somebody did on chain; return at which index."""
        assert self.log is not None, "it is followed"
        return int(wait_for(f"the reader sees {transaction}", lambda: self.log.seen.get(transaction), FINAL_SECONDS)[0])

    def divergence(self, transaction: str) -> Any:
        """Wait for the divergence that a transaction of others leads to."""
        assert self.log is not None, "it is followed"
        known = self.log.divergences
        return wait_for("the divergence", lambda: next((each for each in known if each.transaction == transaction), None), FINAL_SECONDS)

    def settle(self) -> None:
        """Wait until nothing is under way on either chain."""

        def nothing() -> bool:
            open_ones = [each for chain in (self.ethereum, self.solana) for each in self.open_instructions(chain)]
            return all(each.state == chains_pb2.INSTRUCTION_STATE_REFUSED or each.blocked_by for each in open_ones)

        wait_for("everything is final", nothing, FINAL_SECONDS)

    def open_instructions(self, chain: Any) -> list[Any]:
        return list(self.clients["auditor"].items(chains_pb2.ListInstructionsRequest(chain=chain.chain, page_size=100)))

    def _on_both(self, what: str, index: int) -> list[Flow]:
        """Return the flows of an event that leads to an instruction on each chain, which are ordered by the chain's name."""
        return [Flow(f"{what}, on {chain.name}", index, 1, [f"{index}-{n}"]) for n, chain in enumerate((self.ethereum, self.solana))]

    def supply(self, chain: Any) -> int:
        return int(chain.supply(self.token[chain.name]))

    def at(self, holder: str, chain: str) -> str:
        return str(self.wallet[holder, chain].account)

    def _refused(self, what: str, ask: Callable[[], Any]) -> None:
        self.brokers.refused(what, ask)


def kind_of(divergence: Any) -> str:
    return str(chains_pb2.DivergenceKind.Name(divergence.kind).removeprefix("DIVERGENCE_KIND_"))


def short(text: str) -> str:
    """Shorten an address or a transaction for people. Example: "0x4e59b448..4956C" of an address of 42 characters."""
    return text if len(text) <= 14 else f"{text[:8]}..{text[-4:]}"


def shares(units: int) -> str:
    """Write units of 8 decimals, without trailing zeros. Example: `shares(150_000_000) == "1.5"`."""
    whole, rest = divmod(abs(units), SHARE)
    text = f"{whole:,}.{rest:08}".rstrip("0").rstrip(".")
    return f"-{text}" if units < 0 else text
