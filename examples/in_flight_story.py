"""What changes while it is under way: a holder is frozen while units come to her, and an owner is faster than the law.

Such moments are short. So that they come about in each run, the worker is held for some of them (SIGSTOP) as a busy machine would hold it,
and a block of Ethereum until two transactions wait for it. Nothing is done for the ledger: it finds out from the chains.
"""

from __future__ import annotations

import re
from typing import Any

from brokers_story import SHARE
from chain_nodes import wait_for
from chains_stage import FINAL_SECONDS, SYMBOL, ChainsStage, Flow, kind_of, shares, short

from stockledger.v1 import accounts_pb2, chains_pb2, transfers_pb2


class InFlightChapters(ChainsStage):
    """Two chapters."""

    def frozen_in_flight(self) -> None:
        """An order freezes cleo while units are on their way to her: the unsigned stop; the sent arrive, and are frozen before all else."""
        both = (self.ethereum, self.solana)
        sent = self._send_to_cleo()
        print("   *** SIGSTOP: the worker stands still; what is decided now is not signed yet ***")
        unsigned = [self.transfer("book:cleo", self.at("cleo", chain.name), 2 * SHARE) for chain in both]
        others = [self.transfer("book:ben", self.at("ben", chain.name), 3 * SHARE) for chain in both]
        freeze = accounts_pb2.FreezeHolderRequest(holder="cleo", legal_reference="freezing order 9/26")
        order = self.do(freeze, "bailiff")[1]
        print("   cleo withdraws 2 more to each chain, and ben 3; then an order freezes cleo. SIGCONT: the worker goes on", flush=True)
        self.go_on()
        flows = [Flow(f"cleo's 10 on {chain.name}, which were sent", index) for chain, index in zip(both, sent, strict=True)]
        flows += self._on_both("cleo is frozen", order)
        flows += [Flow(f"ben's 3 on {chain.name}", index) for chain, index in zip(both, others, strict=True)]
        self.await_final(*flows)
        self._show_first(order, others)
        for chain in both:
            there = shares(chain.holding(self.token[chain.name], self.at("cleo", chain.name)))
            why = self.wallet["cleo", chain.name].why_not(self.token[chain.name], self.at("ben", chain.name), SHARE)
            print(f"   cleo has {there} on {chain.name}, and tries to send 1: {without_figures(why)}")
        self._show_stopped(unsigned)

    def _send_to_cleo(self) -> list[int]:
        """Have 10 sent to cleo on each chain, and hold the worker before it books them; on a machine too busy for that, once more."""
        both = (self.ethereum, self.solana)
        while True:
            ahead = [chain.holding_ahead(self.token[chain.name], self.at("cleo", chain.name)) + 10 * SHARE for chain in both]
            sent = []
            for chain, units in zip(both, ahead, strict=True):  # Ethereum first: it takes longer to be final
                sent.append(self.transfer("book:cleo", self.at("cleo", chain.name), 10 * SHARE))
                self._wait_for_holding(chain, chain.holding_ahead, units)
            self.hold_worker()
            in_transit = {each.place: each.transit_units for each in self.places()}
            if all(in_transit[chain.chain] for chain in both):
                break
            self.go_on()
        for chain, units in zip(both, ahead, strict=True):
            self._wait_for_holding(chain, chain.holding, units)
        print("   cleo withdraws 10 from the book to each chain: sent, in a block of each, and not final")
        return sent

    def _wait_for_holding(self, chain: Any, holding: Any, units: int) -> None:
        at = self.at("cleo", chain.name)
        wait_for(f"units on {chain.name}", lambda: holding(self.token[chain.name], at) == units, FINAL_SECONDS)

    def _show_first(self, order: int, others: list[int]) -> None:
        """Hold against the log what was signed first, though decided last."""
        signed = list(self.log.recorded)
        for number, (chain, index) in enumerate(zip(("Ethereum", "Solana"), others, strict=True)):
            if signed.index(f"{order}-{number}") > signed.index(f"{index}-0"):
                raise SystemExit(f"on {chain} something went before a freeze")
        print("   decided last and signed first: on both chains the freeze went before all that waited")

    def _show_stopped(self, unsigned: list[int]) -> None:
        """Show what became of the units that no transaction carries; those to Ethereum are given up, the others wait."""
        names = [f"{index}-0" for index in unsigned]
        found = [each for chain in (self.ethereum, self.solana) for each in self.open_instructions(chain) if each.instruction in names]
        stopped = ", ".join(f"2 to {self.name_of(each.chain)}, {each.blocked_by}" for each in found)
        print(f"   the mints that were not signed are blocked, their units wait in transit: {stopped}")
        if [each.blocked_by for each in found] != ["HOLDER_FROZEN"] * 2 or any(name in self.log.recorded for name in names):
            raise SystemExit("a mint for somebody frozen was not stopped")
        self.do(chains_pb2.AbandonInstructionRequest(instruction=names[0], cause="cleo is frozen: back to where it came from"))
        back = f"book:cleo has {shares(self.units('book:cleo'))}, where she is frozen as well"
        print(f"   two people give up the one to Ethereum: {back}; the one to Solana waits for the end of the order")
        self._refused("cleo sends 1 to ben in the book", lambda: self.transfer("book:cleo", "book:ben", SHARE))

    def faster_than_force(self) -> None:
        """The bailiff is to take what mallory has left. She is faster: on Ethereum she moves it, on Solana she burns some of it."""
        mallory, to = ({chain: self.at(holder, chain) for chain in ("Ethereum", "Solana")} for holder in ("mallory", "ana"))
        hidden = self.ethereum.new_wallet()
        self.hold_worker()
        on_solana = self._force(mallory["Solana"], to["Solana"], 20)
        burned = self.wallet["mallory", "Solana"].burn(self.token["Solana"], 15 * SHARE)
        print(
            f"   the worker stands still again: 20 are to be taken on Solana; before that is signed, she burns 15 of them, {short(burned)}"
        )
        with self.ethereum.next_block_held():
            on_ethereum = self._force(mallory["Ethereum"], to["Ethereum"], 30)
            self.go_on()
            waiting = wait_for("the bailiff's transaction", lambda: self.ethereum.waiting(self.token["Ethereum"]), FINAL_SECONDS)
            moved = self.wallet["mallory", "Ethereum"].send_before(waiting, self.token["Ethereum"], hidden.account, 30 * SHARE)
        seen = f"{short(waiting[0]['hash'])} waits for a block, where everybody sees it"
        print(f"   it goes on: 30 are to be taken on Ethereum, {seen}; she pays more for {short(moved)}, which moves them")
        first = Flow("the bailiff takes 20 on Solana: she was faster", on_solana)
        self.await_final(first, Flow("the bailiff takes 30 on Ethereum: she was faster", on_ethereum))
        found = self.divergence(burned)
        told = f"divergence {found.divergence}, {kind_of(found)}, expected {shares(int(found.expected))}, found {shares(int(found.found))}"
        print(f"   nothing of it is booked for ana. What she burned is seen: {told}; two people accept it as redeemed")
        resolve = chains_pb2.ResolveDivergenceRequest(
            divergence=found.divergence, cause="burned by its owner", bearing_account="ledger:issuance", units=-15 * SHARE
        )
        self.do(resolve, approver="second-operator")
        has = shares(self.units(hidden.account))
        print(f"   what she moved is seen too: {has} stand at {short(hidden.address)}, a wallet of nobody known. The law follows:")
        follow = Flow("the bailiff takes the 30 where they are", self._force(hidden.account, to["Ethereum"], 30))
        self.await_final(follow, Flow("... and the 5 that are left on Solana", self._force(mallory["Solana"], to["Solana"], 5)))

    def _force(self, source: str, destination: str, units: int) -> int:
        forced = transfers_pb2.ForceTransferRequest(instrument=SYMBOL, source=source, destination=destination, units=units * SHARE)
        forced.cause, forced.legal_reference = "judgment", "Amtsgericht 12 C 35/26"
        return self.do(forced, "bailiff")[1]


def without_figures(text: str) -> str:
    """Leave out what stands in parentheses. Example: "Paused: It is." of "Paused(operation 1): It is."."""
    return re.sub(r"\([^)]*\)", "", text)
