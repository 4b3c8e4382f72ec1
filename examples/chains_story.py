"""The story goes on two chains: TSLAx becomes a token on Ethereum and on Solana, and one ledger says who holds it, wherever it stands.

Played by demo.py after the brokers, on the same store. Both chains are real nodes on loopback (chain_nodes.py); tokens are put there by
`stockledger chain deploy`, and `stockledger work` carries out what the ledger decides and books what the chains finalised. Everybody
below asks over gRPC; what wallets do on chain they do with their own keys.
"""

from __future__ import annotations

import hashlib
import json
import random
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

from brokers_story import DOLLAR, SHARE, BrokersStory, attestation
from chain_nodes import Ethereum, Solana, wait_for
from google.protobuf.timestamp_pb2 import Timestamp

from chain_adapters.evm.setup import PARTIES as EVM_PARTIES
from chain_adapters.spl.setup import PARTIES as SPL_PARTIES
from services.cli.lines import make_command
from stockledger.client import Client, LedgerError, new_request_id
from stockledger.v1 import (
    accounts_pb2,
    approvals_pb2,
    audit_pb2,
    chains_pb2,
    corporate_actions_pb2,
    instruments_pb2,
    issuance_pb2,
    redemptions_pb2,
    reserves_pb2,
    transfers_pb2,
)
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.events_pb2 import Entry

PARTIES = {"Ethereum": EVM_PARTIES, "Solana": SPL_PARTIES}
"""Who does what on a chain: each a key of its own."""
SYMBOL, FOREIGN = "TSLAx", "SHOPx"
ALLOTMENT = 5_000 * SHARE
FINAL_SECONDS = 90
KILLS, WITHDRAWALS = 2, 8


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


class ChainsStory:
    """The third part."""

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
        why = f" ({over.text.partition('(')[0]})" if over.state != "FINAL" and over.text else ""
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
            for chain in (self.ethereum, self.solana):
                open_ones = self.clients["auditor"].items(chains_pb2.ListInstructionsRequest(chain=chain.chain, page_size=100))
                if any(each.state != chains_pb2.INSTRUCTION_STATE_REFUSED and not each.blocked_by for each in open_ones):
                    return False
            return True

        wait_for("everything is final", nothing, FINAL_SECONDS)

    # ---- chapters -------------------------------------------------------------------------------------------------------------------

    def two_chains(self) -> None:
        """The ledger is served, a worker works on both chains, and three people bind their wallets by signature."""
        size = self.clients["auditor"].execute(chains_pb2.ListPlacesRequest(page_size=1)).size
        self.log = LogReader(self.clients["auditor"], size)
        self.do(instruments_pb2.AmendInstrumentRequest(instrument=SYMBOL, split_method=instruments_pb2.ACTION_METHOD_MULTIPLIER))
        retail = accounts_pb2.INVESTOR_CLASS_RETAIL
        self.wallet: dict[tuple[str, str], Any] = {}
        for holder, country in (("ana", "DE"), ("ben", "FR"), ("mallory", "BR")):
            self.do(accounts_pb2.RegisterHolderRequest(holder=holder, country=country, investor_class=retail))
            self.do(accounts_pb2.OpenAccountRequest(account=f"book:{holder}", holder=holder))
            for chain in (self.ethereum, self.solana):
                wallet = self.wallet[holder, chain.name] = chain.new_wallet()
                text = f"stockledger: bind {wallet.account} to holder {holder} in ledger demo"
                self.do(accounts_pb2.BindWalletRequest(account=wallet.account, holder=holder, signature=wallet.sign_text(text)))
        self.transfer("book:maker-2", "book:ben", 300 * SHARE)
        self.transfer("book:maker-2", "book:mallory", 100 * SHARE)
        self._bought = self._pool.submit(self._buy_foreign)
        self.settle()
        allotted = " and ".join(f"{shares(ALLOTMENT)} on {chain.name}" for chain in (self.ethereum, self.solana))
        print(f"   the worker works; at most {allotted} may ever be minted")
        for holder in ("ana", "ben", "mallory"):
            print(f"   {holder:<8} " + "   ".join(short(self.wallet[holder, chain.name].address) for chain in (self.ethereum, self.solana)))

    def to_wallets(self) -> None:
        """The issuer issues straight to wallets, and clients withdraw from the book."""
        flows = []
        for holder, chain, units in (("ana", "Ethereum", 500), ("ana", "Solana", 300)):
            issue = issuance_pb2.IssueUnitsRequest(
                instrument=SYMBOL, account=self.at(holder, chain), units=units * SHARE, reference="in kind"
            )
            flows.append(Flow(f"issuer issues {units} to ana on {chain}", self.do(issue, "issuer")[1]))
        for holder, chain, units in (("ben", "Ethereum", 120), ("ben", "Solana", 60), ("mallory", "Ethereum", 50)):
            index = self.transfer(f"book:{holder}", self.at(holder, chain), units * SHARE)
            flows.append(Flow(f"{holder} withdraws {units} from the book to {chain}", index))
        self.show_transit()
        self.await_final(*flows)
        for chain in (self.ethereum, self.solana):
            found = chain.holding(self.token[chain.name], self.at("ana", chain.name))
            print(
                f"   {chain.name}, asked by somebody else: ana's wallet holds {shares(found)}, the supply is {shares(self.supply(chain))}"
            )

    def back_to_the_book(self) -> None:
        """Ana sends to her deposit address, and redeems from a wallet."""
        deposit = self.ethereum.new_wallet().account
        address = chains_pb2.DepositAddress(deposit_address=deposit, account="book:ana")
        self.do(chains_pb2.RegisterDepositAddressesRequest(deposit_addresses=[address]))
        ask = redemptions_pb2.RequestRedemptionRequest(
            instrument=SYMBOL, account="book:ana", units=20 * SHARE, cash_instrument="USDC", wallet=self.at("ana", "Solana")
        )
        answer, index = self.do(ask)
        redemption = Flow("ana redeems 20 from her wallet on Solana: burned there", index)
        sent = self.wallet["ana", "Ethereum"].send(self.token["Ethereum"], deposit, 100 * SHARE)
        print(f"   ana sends 100 to her deposit address on Ethereum, {short(sent)}; credited when final, not before")
        burn = Flow("... seen final, burned, and 100 credited to book:ana", self.seen(sent))
        self.await_final(redemption, burn)
        dates = {"trade_date": "2026-11-20", "settlement_date": "2026-11-23"}
        number = answer.event.redemption
        fill = redemptions_pb2.FillRedemptionRequest(redemption=number, shares_e8=20 * SHARE, price_e8=250 * 10**8, **dates)
        self.do(fill, "issuer")
        settle = redemptions_pb2.SettleRedemptionRequest(
            redemption=number, fill=1, paying_account="book:issuer-cash", fee_account="book:fees"
        )
        self.do(settle, "issuer")
        cash = self.units("book:ana", "USDC")
        print(f"   the redemption is filled and settled: book:ana has {shares(self.units('book:ana'))} TSLAx and {cash // DOLLAR:,} USDC")

    def across(self) -> None:
        """Ana moves units from Ethereum to Solana, and Ben from Solana to Ethereum: burned here, final, then minted there."""
        there = Flow(
            "ana moves 80 from Ethereum to Solana", self.transfer(self.at("ana", "Ethereum"), self.at("ana", "Solana"), 80 * SHARE), 2
        )
        back = Flow(
            "ben moves 10 from Solana to Ethereum", self.transfer(self.at("ben", "Solana"), self.at("ben", "Ethereum"), 10 * SHARE), 2
        )
        watcher = self._pool.submit(self._see_transit)
        self.await_final(there, back)
        print(f"   in between, burned and not minted yet: {watcher.result()}, and counted there")

    def _see_transit(self) -> str:
        def moving() -> str:
            found = [
                f"{shares(each.transit_units)} on their way to {self.name_of(each.place)}" for each in self.places() if each.transit_units
            ]
            return ", ".join(found)

        return str(wait_for("units in transit", moving, FINAL_SECONDS))

    def enforcement(self) -> None:
        """A court takes from one wallet, an order freezes another; each says why, in the log and on chain."""
        order = {"legal_reference": "Amtsgericht 12 C 34/26"}
        forced = transfers_pb2.ForceTransferRequest(
            instrument=SYMBOL,
            source=self.at("mallory", "Ethereum"),
            destination=self.at("ana", "Ethereum"),
            units=50 * SHARE,
            cause="judgment",
            **order,
        )
        freeze = accounts_pb2.FreezeAccountRequest(account=self.at("ben", "Solana"), legal_reference="freezing order 7/26")
        moved = Flow("the bailiff moves 50 from mallory's wallet to ana's", self.do(forced, "bailiff")[1])
        self.await_final(moved, Flow("the bailiff freezes ben's wallet on Solana", self.do(freeze, "bailiff")[1]))
        print(f"   the token's own log says why: {self.ethereum.reason_of(self.log.transaction[moved.instructions[0]])!r}")
        ana = self.at("ana", "Solana")
        why = self.wallet["ben", "Solana"].why_not(self.token["Solana"], ana, SHARE)
        print(f"   ben tries to send 1 to ana on Solana: {why}")
        thaw = accounts_pb2.UnfreezeAccountRequest(account=self.at("ben", "Solana"), legal_reference="order 7/26 lifted")
        self.await_final(Flow("the bailiff ends the freeze", self.do(thaw, "bailiff")[1]))

    def paused(self) -> None:
        """A halt in the ledger pauses the tokens; its end resumes them."""
        transfers = [Operation.OPERATION_TRANSFER]
        index = self.do(instruments_pb2.HaltInstrumentRequest(instrument=SYMBOL, operations=transfers, cause="news pending"))[1]
        self.await_final(*self._on_both("TSLAx is halted", index))
        for chain in (self.ethereum, self.solana):
            why = self.wallet["ana", chain.name].why_not(self.token[chain.name], self.at("ben", chain.name), SHARE)
            print(f"   ana tries to send 1 on {chain.name}: {why}")
        index = self.do(instruments_pb2.ResumeInstrumentRequest(instrument=SYMBOL, operations=transfers, cause="published"))[1]
        self.await_final(*self._on_both("TSLAx is resumed", index))

    def _on_both(self, what: str, index: int) -> list[Flow]:
        """Return the flows of an event that leads to an instruction on each chain, which are ordered by the chain's name."""
        return [Flow(f"{what}, on {chain.name}", index, 1, [f"{index}-{n}"]) for n, chain in enumerate((self.ethereum, self.solana))]

    def split(self) -> None:
        """Tesla splits 3 for 1. No unit moves: the multiplier does, on both chains, at the moment that was announced."""
        self.solana.keep_time()
        at = int(time.time()) + 5
        moment = Timestamp(seconds=at)
        dates = {"ex_date": "2026-11-22", "record_date": "2026-11-22", "payment_date": "2026-11-22"}
        terms = corporate_actions_pb2.ActionTerms(stock_split=corporate_actions_pb2.StockSplit(new_shares=3, old_shares=1))
        announce = corporate_actions_pb2.AnnounceActionRequest(
            action="TSLA-SPLF", instrument=SYMBOL, terms=terms, fixing_time=moment, execution_time=moment, **dates
        )
        index = self.do(announce, "issuer")[1]
        told = wait_for("the schedule", lambda: [each for each in range(index, index + 3) if f"{each}-0" in self.log.recorded])[0]
        self.await_final(*self._on_both("the chains are told ahead", told))
        print(f"   {at - time.time():.1f} s before it: {self._multipliers()}")
        time.sleep(max(0.0, at + 0.2 - time.time()))
        for step in (corporate_actions_pb2.FixEntitlementsRequest, corporate_actions_pb2.ExecuteActionRequest):
            self.do(step(action="TSLA-SPLF"), "issuer")
        both = (self.ethereum, self.solana)
        wait_for("both chains' multiplier", lambda: all(c.multiplier(self.token[c.name]) == 3 * 10**18 for c in both), FINAL_SECONDS)
        instrument = self.clients["auditor"].execute(instruments_pb2.GetInstrumentRequest(instrument=SYMBOL)).instrument
        print(f"   {time.time() - at:.1f} s after it:  {self._multipliers()}; in the ledger {int(instrument.multiplier) / 10**18:.0f}")

        for chain in both:
            seen = wait_for("the reader sees it", lambda chain=chain: self._took_effect(chain.chain), FINAL_SECONDS)
            lag = seen.time.ToMilliseconds() / 1000 - at
            print(f"   the reader saw it take effect on {chain.name} in {chain.step} {seen.number:,}, {lag:+.0f} s")
        self.do(attestation("custodian/TSLAx", "US88160R1014", 60_000, share_basis=1), "custody-desk")
        print("   the custodian attests 60,000 shares, three for each of before; what he said of old shares counts no more")

    def _took_effect(self, place: str) -> Any:
        """Return when the split took effect at a place, as far as the books know."""
        request = chains_pb2.ListMultiplierChangesRequest(instrument=SYMBOL, place=place, page_size=100)
        found = self.clients["auditor"].items(request)
        return next((each for each in found if each.multiplier == str(3 * 10**18)), None)

    def _multipliers(self) -> str:
        found = [f"{chain.multiplier(self.token[chain.name]) / 10**18:.0f} on {chain.name}" for chain in (self.ethereum, self.solana)]
        return "a unit stands for " + " and ".join(found)

    def other_issuers_token(self) -> None:
        """An exchange takes in a token that it does not issue: deposit addresses, a sweep, a withdrawal; its wallets are the reserve."""
        register = instruments_pb2.RegisterInstrumentRequest(
            symbol=FOREIGN,
            name="Shopify, issued by somebody else",
            kind=instruments_pb2.INSTRUMENT_KIND_STOCK,
            underlying_isin="CA82509L1076",
            decimals=8,
            backing=instruments_pb2.BACKING_OMNIBUS,
            authorised_units=10**15,
        )
        self.do(register)
        for line in self._exchange.result()[1:]:
            self.do(make_command(line.pop("command"), line), approver="second-operator")
        hot, deposit = (self.ethereum.wallet_of(self.folder / "keys" / f"{name}.key") for name in ("hot", "deposit"))
        wallet_role = [chains_pb2.CHAIN_KEY_ROLE_WALLET]
        self.do(chains_pb2.SetChainKeyRequest(key=deposit.account, roles=wallet_role), approver="second-operator")
        address = chains_pb2.DepositAddress(deposit_address=deposit.account, account="book:ben")
        self.do(chains_pb2.RegisterDepositAddressesRequest(deposit_addresses=[address]))
        self._bought.result()
        sent = str(self.wallet["ben", "Ethereum"].send(self.foreign_token, deposit.account, 80 * 10**18))
        index = self.seen(sent)
        has = shares(self.units("book:ben", FOREIGN))
        print(f"   ben deposits 80 SHOPx of 18 decimals, {short(sent)}: credited at index {index:,}, book:ben has {has}")
        sweep = chains_pb2.SweepWalletRequest(instrument=FOREIGN, wallet=deposit.account, receiving_wallet=hot.account)
        self.await_final(Flow("all of it is swept to the hot wallet", self.do(sweep)[1]))
        to = self.at("ben", "Ethereum")
        self.await_final(Flow("ben withdraws 12 SHOPx to his own wallet", self.transfer("book:ben", to, 12 * SHARE, FOREIGN)))
        there = self.ethereum.holding(self.foreign_token, hot.account)
        print(f"   the hot wallet holds {there / 10**18:g}, the book owes {shares(self.units('book:ben', FOREIGN))}")
        self._refused("beyond the day's limit of 50", lambda: self.transfer("book:ben", to, 45 * SHARE, FOREIGN))

    def _buy_foreign(self) -> None:
        """Let the other issuer mint to ben's wallet; none of it is the ledger's business."""
        there = self.ethereum.token(self.foreign_token)
        allotter, minter = (self.ethereum.wallet_of(self.folder / "keys" / f"other-issuer-{name}.key") for name in ("allotter", "minter"))
        allotter.do(there.functions.setAllotment(random.randbytes(32), 10**24))
        minter.mint(self.foreign_token, self.at("ben", "Ethereum"), 80 * 10**18)

    def denied(self) -> None:
        """Mallory is put on the chain's deny list. What is on its way to her comes back."""
        mallory = self.at("mallory", "Ethereum")
        listed = self.ethereum.wallet_of(self.folder / "keys" / "ethereum-deny_list.key").deny(self.deny_list, mallory)
        before = self.units("book:mallory")
        index = self.transfer("book:mallory", mallory, 25 * SHARE)
        left = shares(self.units("book:mallory"))
        print(f"   listed in {short(listed)}; then she withdraws 25 of {shares(before)}: book:mallory has {left}, the rest is on its way")
        self.await_final(Flow("mallory withdraws 25, which the chain refuses for ever", index))
        print(f"   book:mallory has {shares(self.units('book:mallory'))} again, nothing is on its way")
        found = self.divergence(listed)
        told = f"divergence {found.divergence}, {kind_of(found)}"
        print(f"   the listing is seen too: {told}, for nothing in the ledger asked for it; two people resolve it")
        resolve = chains_pb2.ResolveDivergenceRequest(divergence=found.divergence, cause="the sanctions list, put there by us")
        self.do(resolve, approver="second-operator")

    def worker_killed(self) -> None:
        """SIGKILL of the worker, again and again, while withdrawals and a checkpoint of the log are under way."""
        accounts = [self.at(holder, chain) for holder in ("ana", "ben") for chain in ("Ethereum", "Solana")]
        expected = {account: self.units(account) for account in accounts}
        flows: list[int] = []
        for kill in range(KILLS + 1):
            for number in range(len(flows), len(flows) + WITHDRAWALS):
                account = accounts[number % len(accounts)]
                units = (number + 1) * SHARE // 10
                flows.append(self.transfer("book:ben", account, units))
                expected[account] += units
            if kill == 0:
                anchors = self._anchor()
            if kill < KILLS:
                self._kill_worker(flows)
        self.await_final(*anchors)
        wait_for("all are final", lambda: all(f"{index}-0" in self.log.over for index in flows), FINAL_SECONDS)
        chains = {self.ethereum.chain: self.ethereum, self.solana.chain: self.solana}
        for account, units in expected.items():
            chain = chains[account.rpartition(":")[0]]
            found = chain.holding(self.token[chain.name], account)
            if not found == units == self.units(account):
                raise SystemExit(f"{account}: expected {units}, in the ledger {self.units(account)}, on chain {found}")
        print(f"   {len(flows)} withdrawals, each once: every wallet holds on chain what the ledger says, to the unit")

    def _kill_worker(self, flows: list[int]) -> None:
        """Kill it at a random moment after it has recorded some of the newest, and start another one at once."""
        assert self.log is not None, "it is followed"
        wait_for("a recorded withdrawal", lambda: any(f"{index}-0" in self.log.recorded for index in flows[-WITHDRAWALS:]), FINAL_SECONDS)
        time.sleep(random.random())
        self.stop_worker(signal.SIGKILL)
        recorded, final = (sum(f"{index}-0" in known for index in flows) for known in (self.log.recorded, self.log.over))
        print(f"   *** SIGKILL: {len(flows)} decided, {recorded} recorded, {final} final; started again ***", flush=True)
        self.start_worker()

    def _anchor(self) -> list[Flow]:
        """Have the log's signed checkpoint kept on both chains, where nobody can rewrite it."""
        checkpoint = self.clients["auditor"].execute(audit_pb2.GetCheckpointRequest()).checkpoint
        flows = []
        for chain in (self.ethereum, self.solana):
            anchor = chains_pb2.AnchorCheckpointRequest(chain=chain.chain, checkpoint=checkpoint)
            what = f"the log's checkpoint of size {checkpoint.splitlines()[1]} is kept on {chain.name}"
            flows.append(Flow(what, self.do(anchor, "worker")[1]))
        return flows

    def supply(self, chain: Any) -> int:
        return int(chain.supply(self.token[chain.name]))

    def at(self, holder: str, chain: str) -> str:
        return str(self.wallet[holder, chain].account)

    def _refused(self, what: str, ask: Callable[[], Any]) -> None:
        self.brokers.refused(what, ask)

    def place_rows(self) -> list[list[str]]:
        """Return, by instrument and place: what the ledger has, what a chain has, what is on its way there, and the difference."""
        rows = []
        places = self.places(SYMBOL)
        for each in places:
            there = {self.ethereum.chain: self.ethereum, self.solana.chain: self.solana}.get(each.place)
            ledger, transit = shares(each.units), shares(each.transit_units)
            supply = None if there is None else self.supply(there)
            difference = "" if supply is None else shares(supply - each.units)
            rows.append([f"{SYMBOL}, {self.name_of(each.place)}", ledger, "" if supply is None else shares(supply), transit, difference])
        supply = self.clients["auditor"].execute(reserves_pb2.GetSupplyRequest(instrument=SYMBOL)).supply_units
        everywhere = sum(each.units + each.transit_units for each in places)
        rows.append([f"{SYMBOL}, issued in all", shares(supply), "", "", shares(everywhere - supply)])
        owed = sum(each.units + each.transit_units for each in self.places(FOREIGN))
        held = self.ethereum.holding(self.foreign_token, self.ethereum.wallet_of(self.folder / "keys" / "hot.key").account)
        surplus, dust = divmod(held - owed * 10**10, 10**10)
        assert dust == 0, "whole units were deposited and withdrawn"
        rows.append([f"{FOREIGN}, owed in the book, held in our wallet", shares(owed), shares(held // 10**10), "0", shares(surplus)])
        return rows

    def stolen_key(self) -> None:
        """Somebody has stolen the minter's key of Ethereum, and mints behind the ledger's back."""
        for chain in (self.ethereum, self.solana):
            halting = chains_pb2.AmendDeploymentRequest(chain=chain.chain, instrument=SYMBOL, halt_on_divergence=True)
            self.do(halting, approver="second-operator")
        print("   two people have decided that from now on a divergence stops the place where it is found")
        thief = self.ethereum.new_wallet()
        stolen = self.ethereum.wallet_of(self.folder / "keys" / "ethereum-minter.key")
        before = shares(self.supply(self.ethereum))
        sent = stolen.mint(self.token["Ethereum"], thief.account, 1_000 * SHARE)
        print(f"   1,000 TSLAx to {short(thief.address)} in {short(sent)}; supply there {before} -> {shares(self.supply(self.ethereum))}")
        begun = time.time()
        found = self.divergence(sent)
        caught = f"divergence {found.divergence}, {time.time() - begun:.1f} s later, as soon as it is final: {kind_of(found)}"
        print(f"   *** {caught}, expected {shares(int(found.expected))}, found {shares(int(found.found))} ***")
        place = next(each for each in self.places() if each.place == self.ethereum.chain)
        owes = f"divergence:{place.place} owes {shares(-place.divergence_units)}"
        print(f"   in the books the thief holds {shares(self.units(thief.account))}, and {owes}")
        self._refused("anything more to that chain", lambda: self.transfer("book:ben", self.at("ben", "Ethereum"), SHARE))
        paused = self.ethereum.token(self.token["Ethereum"]).functions
        wait_for("the token is paused", lambda: paused.pauses().call() == 7, FINAL_SECONDS)
        print("   transfers, mints and burns are paused on Ethereum until a human has resolved it; Solana goes on:")
        self.await_final(Flow("ben withdraws 5 from the book to Solana", self.transfer("book:ben", self.at("ben", "Solana"), 5 * SHARE)))


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


CHAPTERS = (
    "two_chains", "to_wallets", "back_to_the_book", "across", "enforcement", "paused", "split", "other_issuers_token", "denied",
    "worker_killed",
)  # fmt: skip
