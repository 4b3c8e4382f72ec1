"""Chains beside their own nodes: instructions to finality against a bare script, and what each costs there. Run by run.py.

The work is the ledger's whole way: instructions that are open are prepared, recorded with a flush, signed, sent, seen final and booked
by the reader. The limit is a script that has its transactions ready, signed beforehand: it sends them to the same node, for a token of its
own, and waits for the same finality. Mostly they are as large as ours, so that what a figure lacks is what the ledger costs, and once they
are of one mint each, which is what a script sends that knows no batches. Blocks come by the clock, as on chains that people use; a node
that makes a block of every transaction at once is told beside it, since there the ledger's own work shows most.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))  # real nodes, started as the tests start them

from chain_adapters.calls import items_of
from chain_adapters.conformance_market import SYMBOL, Market
from chain_adapters.projector import Projector
from chain_adapters.reader import Reader
from stockledger.v1.chains_pb2 import ListTransactionsRequest
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

WALLETS = 64
"""Accounts at the chain that units go to and come from; all have some already when measuring begins."""


class Chain(Protocol):
    """A chain to measure on: the ledger's market there, and a token of the script's own, set up the same way."""

    name: str
    cost: str
    """What its transactions use: gas, compute units."""
    market: Market
    mints: int
    """How many make a round."""
    paces: Sequence[str]
    """How its blocks come, the first as on chains that people use."""

    def set_pace(self, pace: str) -> None:
        """Let blocks come otherwise from now on."""

    def let_pass(self) -> None:
        """Let the chain go on, as it would by itself."""

    def script(self, landed: Sequence[str], count: int, *, singly: bool) -> Callable[[], None]:
        """Make and sign the script's mints, `count` of them; return what sends them and waits until the last is final.

        They share transactions as in those that landed, or each has its own.
        """

    def used(self, transaction: str) -> int:
        """Return what a landed transaction used."""

    def owner_transfer(self) -> int:
        """Let a wallet's owner send a unit to another wallet, and return what that used."""


class Work:
    """The ledger's loops over one chain, as the worker runs them."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._market = market = chain.market
        self.wallets = [*market.wallets, *(market.make_wallet("h-1") for _ in range(WALLETS - len(market.wallets)))]
        adapter = market.connect()
        self._projector, self._reader = Projector(market.call, adapter), Reader(market.call, adapter)

    def mint(self, count: int) -> None:
        """Book transfers from the book to wallets, each of which is a MINT."""
        self._transfer([("book:alice", self.wallets[n % WALLETS]) for n in range(count)])

    def burn(self, count: int) -> None:
        """Book transfers from wallets to the book, each of which is a BURN."""
        self._transfer([(self.wallets[n % WALLETS], "book:alice") for n in range(count)])

    def force(self, count: int) -> None:
        """Decide forced transfers between wallets."""
        for n in range(count):
            self._market.force_transfer(self.wallets[n % WALLETS], self.wallets[(n + 1) % WALLETS], 1)

    def _transfer(self, ends: Sequence[tuple[str, str]]) -> None:
        requests = [
            TransferUnitsRequest(instrument=SYMBOL, source=source, destination=destination, units=1) for source, destination in ends
        ]
        assert not self._market.books.execute_many(requests).refusals

    def carry_out(self) -> list[str]:
        """Project and read until all that is open is final and in the books; return the transactions of ours that landed."""
        before = self._market.books.size
        while True:
            done = self._projector.round()
            read = self._reader.read(satisfied=done.satisfied)
            if not done.open_count and not any(True for _ in self._open()):
                break
            if not (done.made_count or done.sent_count or read.observation_count or read.final_count):
                self._chain.let_pass()
        entries = (entry for _, entry in self._market.books.tail(before) if entry.HasField("range_observed"))
        return [landed.transaction for entry in entries for landed in entry.range_observed.landed]

    def _open(self) -> Iterator[Any]:
        return items_of(self._market.call, ListTransactionsRequest(chain=self._market.rig.chain), "transactions")


def measure(bench: Any, in_turns: Any, chain: Chain) -> None:
    """Measure one chain: throughput to finality, and what each operation uses."""
    work = Work(chain)
    work.mint(4 * WALLETS)
    work.carry_out()
    count = chain.mints // 4 if bench.quick else chain.mints
    rows = [(pace, "a bare script, transactions as large", False) for pace in chain.paces]
    rows.append((chain.paces[0], "a bare script, one mint a transaction", True))
    for pace, limit, singly in rows:
        chain.set_pace(pace)

        def mints(singly: bool = singly) -> tuple[int, float, float]:
            work.mint(count)
            start = time.perf_counter()
            landed = work.carry_out()
            took = time.perf_counter() - start
            script = chain.script(landed, count, singly=singly)
            start = time.perf_counter()
            script()
            return count, took, time.perf_counter() - start

        share = 0.6 if pace == chain.paces[0] and not singly else None
        bench.add(f"{chain.name}, mints to finality, {pace}", "mints/s", in_turns(bench, mints), limit, share=share)
    chain.set_pace(chain.paces[-1])
    for name, ask, many in (("mint", work.mint, WALLETS), ("burn", work.burn, WALLETS), ("forced transfer", work.force, 8)):
        for number in (1, many):
            ask(number)
            used = sum(chain.used(transaction) for transaction in work.carry_out())
            bench.tell(f"{chain.name}, {name}" + (f", each of {number}" if number > 1 else ""), chain.cost, used / number)
    bench.tell(f"{chain.name}, a transfer by its owner", chain.cost, chain.owner_transfer())


def _shared_out(count: int, parts: int) -> list[int]:
    """Share out a number as evenly as it goes. Example: `_shared_out(7, 3) == [3, 2, 2]`."""
    each, more = divmod(count, parts)
    return [each + 1] * more + [each] * (parts - more)


# ---- EVM -------------------------------------------------------------------------------------------------------------------------------


class Evm:
    """One node; the script's token has a minter of its own."""

    name, cost = "EVM", "gas"
    mints = 4_096  # at 30 million gas a block they fill three
    paces = ("1 s a block", "at once")

    def __init__(self, rig: Any, market: Market) -> None:
        from evm_world import secret_of  # noqa: PLC0415 - only where web3 is

        from chain_adapters.evm import roles  # noqa: PLC0415
        from chain_adapters.evm.deployment import plan_token  # noqa: PLC0415
        from chain_adapters.evm.keys import LocalSigner  # noqa: PLC0415
        from chain_adapters.evm.node import Node  # noqa: PLC0415

        self.market = market
        self._rig = rig
        self._node = Node(rig.node_url)  # as the adapter asks: by one connection that is kept
        people = rig.market
        terms = people.terms("OTHER", allotment_units=10**40, grants=((roles.MINTER, people["carol"]),))
        self._token = people.run_steps(plan_token(people.plan, terms)).address
        self._minter = LocalSigner(rig.chain, secret_of(list(people.addresses).index("carol")))
        self._ids = 1
        self._clocked = False

    def set_pace(self, pace: str) -> None:
        self._clocked = pace != "at once"
        self._rig.node.call("evm_setIntervalMining", int(self._clocked))
        self._rig.node.call("evm_setAutomine", not self._clocked)  # last: an interval of none stops all mining

    def let_pass(self) -> None:
        """Wait for the next block, or have three made."""
        if not self._clocked:
            self._node.call("anvil_mine", "0x3")
            return
        newest = self._node.call("eth_blockNumber")
        while self._node.call("eth_blockNumber") == newest:
            time.sleep(0.01)

    def script(self, landed: Sequence[str], count: int, *, singly: bool) -> Callable[[], None]:
        sizes = [1] * count if singly else _shared_out(count, len(landed))
        raw, ask = list(self._mints(sizes)), self._node.call

        def send() -> None:
            hashes = [ask("eth_sendRawTransaction", one) for one in raw]
            for one in hashes:
                while (receipt := ask("eth_getTransactionReceipt", one)) is None:
                    time.sleep(0.01)
                assert receipt["status"] == "0x1"
            block = int(receipt["blockNumber"], 16)
            while int(ask("eth_getBlockByNumber", "finalized", False)["number"], 16) < block:
                self.let_pass()

        return send

    def _mints(self, sizes: Sequence[int]) -> Iterator[str]:
        from chain_adapters.evm import token_calls  # noqa: PLC0415
        from chain_adapters.evm.transactions import Fees, UnsignedTransaction, assemble  # noqa: PLC0415

        chain_id = int(self._rig.chain.partition(":")[2])
        wallets = [account.rpartition(":")[2] for account in self.market.wallets]
        first = int(self._node.call("eth_getTransactionCount", self._minter.account.rpartition(":")[2], "latest"), 16)
        for nonce, size in enumerate(sizes, first):
            lines = [token_calls.Line((self._ids + n).to_bytes(32), wallets[n % len(wallets)], 1) for n in range(size)]
            self._ids += size
            data = token_calls.mint(lines).data
            unsigned = UnsignedTransaction(chain_id, nonce, Fees(10**11, 10**9), 100_000 + 60_000 * size, self._token, data)
            yield "0x" + assemble(unsigned.payload, self._minter.sign(unsigned.payload)).hex()

    def used(self, transaction: str) -> int:
        return int(self._rig.node.call("eth_getTransactionReceipt", transaction)["gasUsed"], 16)

    def owner_transfer(self) -> int:
        first, second = self.market.wallets
        self._rig.transfer(self.market.token, first, second, 1)
        block = self._rig.node.call("eth_getBlockByNumber", "latest", False)
        return self.used(block["transactions"][0])


@contextlib.contextmanager
def evm(store: str) -> Iterator[Chain]:
    """Run an EVM node."""
    from evm_rig import EvmRig  # noqa: PLC0415 - only where web3 is

    with EvmRig() as rig:
        market = Market(rig, store=store)
        try:
            yield Evm(rig, market)
        finally:
            market.close()


# ---- Solana ----------------------------------------------------------------------------------------------------------------------------


class Spl:
    """One node; the script mints a token of its own there, to the same wallets."""

    name, cost = "Solana", "compute units"
    mints = 192
    paces = ("20 ms a slot",)

    def __init__(self, rig: Any, market: Market) -> None:
        self.market = market
        self._rig = rig
        self._client = rig.spl.client
        self._token = rig.make_other_token("BARE", 6)
        self._accounts = [self._token.open(rig.address(wallet)) for wallet in market.wallets]

    def set_pace(self, pace: str) -> None:
        """Leave it: slots come as the node makes them."""

    def let_pass(self) -> None:
        """Wait for another final slot."""
        slot = self._client.finalized_slot()
        while self._client.finalized_slot() == slot:
            time.sleep(0.005)

    def script(self, landed: Sequence[str], count: int, *, singly: bool) -> Callable[[], None]:
        """The node forgets a blockhash after 150 slots, three seconds: the script signs as it goes, with a new one each second."""
        from chain_adapters.spl.transactions import Minted, decode  # noqa: PLC0415 - only where solders is

        done = [] if singly else [decode(self._client.transaction(one)).done for one in landed]
        sizes = [sum(isinstance(each, Minted) for each in one) for one in done] or [1] * count
        assert sum(sizes) == count

        def send() -> None:
            for signed in self._signed(sizes, memos=not singly):
                last = self._client.send(signed, skips_trial=True)
            while (answer := self._client.transaction(last)) is None:
                time.sleep(0.001)
            assert decode(answer).error is None
            while self._client.finalized_slot() < answer["slot"]:
                time.sleep(0.001)

        return send

    def _signed(self, sizes: Sequence[int], *, memos: bool) -> Iterator[bytes]:
        from solders.hash import Hash  # noqa: PLC0415 - only where it is

        from chain_adapters.spl import programs, token_2022  # noqa: PLC0415
        from chain_adapters.spl.signing import sign  # noqa: PLC0415

        token, spl = self._token, self._rig.spl
        due = 0.0
        for place, size in enumerate(sizes):
            if time.monotonic() >= due:
                blockhash, due = Hash.from_string(self._client.latest_blockhash()), time.monotonic() + 1
            parts = [programs.set_compute_unit_limit(300_000), programs.set_compute_unit_price(0)] if memos else []
            for number in range(size):
                account = self._accounts[(place * 7 + number) % len(self._accounts)]
                parts += [programs.memo(f"stockledger:bare/{place}-{number}")] if memos else []
                parts.append(token_2022.mint_to(token.mint, account, token.minter.public_key, units=place + 1, decimals=6))
            yield sign(spl.message(parts, blockhash), [spl.payer, token.minter])

    def used(self, transaction: str) -> int:
        from chain_adapters.spl.transactions import decode  # noqa: PLC0415 - only where solders is

        return decode(self._client.transaction(transaction)).compute_units

    def owner_transfer(self) -> int:
        first, second = self.market.wallets[:2]
        self._rig.transfer(self.market.token, first, second, 1)
        return self.used(self._client.newest_signature(self._rig.address(first)).signature)


@contextlib.contextmanager
def spl(store: str) -> Iterator[Chain]:
    """Run a Solana node.

    It runs every instruction of a transaction again with all before it, to tell what each used: twelve mints in one take it longer than
    in four. Real nodes do not, and are given as many as fit.
    """
    from spl_rig import SplRig  # noqa: PLC0415 - only where solders is

    with SplRig(slot_ms=20, options={"nonces": "100", "batch": "3"}) as rig:
        market = Market(rig, store=store)
        try:
            yield Spl(rig, market)
        finally:
            market.close()
