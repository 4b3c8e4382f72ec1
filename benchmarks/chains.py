"""Chains beside their own nodes: instructions to finality against a bare script, and what each costs there. Run by run.py.

The work is the ledger's whole way: instructions that are open are prepared, recorded with a flush, signed, sent, seen final and booked by
the reader. The limit is a script that has its transactions ready, signed beforehand: it sends them to a node of the same kind and waits for
the same finality. It is asked twice: for the same transactions, so that what a figure lacks is what the ledger costs; and for one mint a
transaction, which is what an issuer's script sends that knows no batches.
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
INSTRUCTIONS = 1_024
"""Mints in one round."""


class Chain(Protocol):
    """A chain to measure on: the ledger's market there, and a node of the same kind for the script."""

    name: str
    cost: str
    """What its transactions use: gas, compute units."""
    market: Market

    def remember(self) -> None:
        """Take note of the chain as it is, for the script to begin from."""

    def let_pass(self) -> None:
        """Let the chain go on, as it would by itself."""

    def script(self, landed: Sequence[str], count: int, *, singly: bool) -> Callable[[], None]:
        """Make and sign the script's transactions; return what sends them and waits until the last is final.

        They are those that landed, or others of one mint each, `count` of them.
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
            self._chain.let_pass()
            while self._reader.read(satisfied=done.satisfied).booked:
                pass
            if not done.open_count and not any(True for _ in self._open()):
                break
        entries = (entry for _, entry in self._market.books.tail(before) if entry.HasField("range_observed"))
        return [landed.transaction for entry in entries for landed in entry.range_observed.landed]

    def _open(self) -> Iterator[Any]:
        return items_of(self._market.call, ListTransactionsRequest(chain=self._market.rig.chain), "transactions")


def measure(bench: Any, in_turns: Any, chain: Chain) -> None:
    """Measure one chain: throughput to finality, and what each operation uses."""
    work = Work(chain)
    work.mint(4 * WALLETS)
    work.carry_out()
    count = INSTRUCTIONS // 4 if bench.quick else INSTRUCTIONS
    for singly, limit in ((False, "a bare script, the same transactions"), (True, "a bare script, one mint a transaction")):

        def mints(singly: bool = singly) -> tuple[int, float, float]:
            chain.remember()
            work.mint(count)
            start = time.perf_counter()
            landed = work.carry_out()
            took = time.perf_counter() - start
            script = chain.script(landed, count, singly=singly)
            start = time.perf_counter()
            script()
            return count, took, time.perf_counter() - start

        bench.add(f"{chain.name}, mints to finality", "mints/s", in_turns(bench, mints), limit, share=0.6)
    for name, ask, many in (("mint", work.mint, WALLETS), ("burn", work.burn, WALLETS), ("forced transfer", work.force, 8)):
        for number in (1, many):
            ask(number)
            used = sum(chain.used(transaction) for transaction in work.carry_out())
            bench.tell(f"{chain.name}, {name}" + (f", each of {number}" if number > 1 else ""), chain.cost, used / number)
    bench.tell(f"{chain.name}, a transfer by its owner", chain.cost, chain.owner_transfer())


# ---- EVM -------------------------------------------------------------------------------------------------------------------------------


class Evm:
    """Two nodes: the ledger's, and one that is given the other's state for the script."""

    name, cost = "EVM", "gas"

    def __init__(self, rig: Any, market: Market, other: Any) -> None:
        from chain_adapters.evm.node import Node  # noqa: PLC0415 - only where web3 is

        self.market = market
        self._rig = rig
        self._other = other
        self._script_node = Node(other.url)  # as the adapter asks: by one connection that is kept
        self._ids = 2**128

    def remember(self) -> None:
        self._state = self._rig.node.call("anvil_dumpState")

    def let_pass(self) -> None:
        self._rig.finalise()

    def script(self, landed: Sequence[str], count: int, *, singly: bool) -> Callable[[], None]:
        assert self._other.call("anvil_loadState", self._state)
        raw = self._single_mints(count) if singly else [self._rig.node.call("eth_getRawTransactionByHash", one) for one in landed]
        ask = self._script_node.call

        def send() -> None:
            hashes = [ask("eth_sendRawTransaction", one) for one in raw]
            for one in hashes:
                while (receipt := ask("eth_getTransactionReceipt", one)) is None:
                    time.sleep(0.001)
                assert receipt["status"] == "0x1"
            block = int(receipt["blockNumber"], 16)
            while int(ask("eth_getBlockByNumber", "finalized", False)["number"], 16) < block:
                ask("anvil_mine", "0x3")

        return send

    def _single_mints(self, count: int) -> list[str]:
        from chain_adapters.evm import token_calls  # noqa: PLC0415
        from chain_adapters.evm.transactions import Fees, UnsignedTransaction, assemble  # noqa: PLC0415

        minter, chain_id = self._rig.signers["MINTER"], int(self._rig.chain.partition(":")[2])
        token = self.market.token.rpartition(":")[2]
        first = int(self._other.call("eth_getTransactionCount", minter.account.rpartition(":")[2], "latest"), 16)
        made = []
        for number in range(count):
            self._ids += 1
            wallet = self.market.wallets[number % len(self.market.wallets)].rpartition(":")[2]
            data = token_calls.mint([token_calls.Line(self._ids.to_bytes(32), wallet, 1)]).data
            unsigned = UnsignedTransaction(chain_id, first + number, Fees(10**11, 10**9), 200_000, token, data)
            made.append("0x" + assemble(unsigned.payload, minter.sign(unsigned.payload)).hex())
        return made

    def used(self, transaction: str) -> int:
        return int(self._rig.node.call("eth_getTransactionReceipt", transaction)["gasUsed"], 16)

    def owner_transfer(self) -> int:
        first, second = self.market.wallets
        self._rig.transfer(self.market.token, first, second, 1)
        block = self._rig.node.call("eth_getBlockByNumber", "latest", False)
        return self.used(block["transactions"][0])


@contextlib.contextmanager
def evm(store: str) -> Iterator[Chain]:
    """Run two EVM nodes."""
    from evm_node import evm_node  # noqa: PLC0415 - only where web3 is
    from evm_rig import EvmRig  # noqa: PLC0415

    with EvmRig() as rig, evm_node("--slots-in-an-epoch", "1") as other:
        market = Market(rig, store=store)
        try:
            yield Evm(rig, market, other)
        finally:
            market.close()
