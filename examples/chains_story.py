"""The story goes on two chains: TSLAx becomes a token on Ethereum and on Solana, and one ledger says who holds it, wherever it stands.

Played by demo.py after the brokers, on the same store. Both chains are real nodes on loopback (chain_nodes.py); tokens are put there by
`stockledger chain deploy`, and `stockledger work` carries out what the ledger decides and books what the chains finalised. Everybody
below asks over gRPC; what wallets do on chain they do with their own keys.
"""

from __future__ import annotations

import random
import signal
import time
from typing import Any

from brokers_story import DOLLAR, SHARE, attestation
from chain_nodes import wait_for
from chains_stage import ALLOTMENT, FINAL_SECONDS, FOREIGN, SYMBOL, Flow, LogReader, kind_of, shares, short
from google.protobuf.timestamp_pb2 import Timestamp
from in_flight_story import InFlightChapters
from omnibus_story import ExchangeChapter

from stockledger.v1 import (
    accounts_pb2,
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

KILLS, WITHDRAWALS = 2, 8


class ChainsStory(InFlightChapters, ExchangeChapter):
    """The third part."""

    def two_chains(self) -> None:
        """The ledger is served, a worker works on both chains, and four people bind their wallets by signature."""
        size = self.clients["auditor"].execute(chains_pb2.ListPlacesRequest(page_size=1)).size
        self.log = LogReader(self.clients["auditor"], size)
        self.do(instruments_pb2.AmendInstrumentRequest(instrument=SYMBOL, split_method=instruments_pb2.ACTION_METHOD_MULTIPLIER))
        retail = accounts_pb2.INVESTOR_CLASS_RETAIL
        for holder, country in (("ana", "DE"), ("ben", "FR"), ("cleo", "IT"), ("mallory", "BR")):
            self.do(accounts_pb2.RegisterHolderRequest(holder=holder, country=country, investor_class=retail))
            self.do(accounts_pb2.OpenAccountRequest(account=f"book:{holder}", holder=holder))
            for chain in (self.ethereum, self.solana):
                wallet = self.wallet[holder, chain.name] = chain.new_wallet()
                text = f"stockledger: bind {wallet.account} to holder {holder} in ledger demo"
                self.do(accounts_pb2.BindWalletRequest(account=wallet.account, holder=holder, signature=wallet.sign_text(text)))
        for holder, units in (("ben", 300), ("cleo", 100), ("mallory", 150)):
            self.transfer("book:maker-2", f"book:{holder}", units * SHARE)
        self._bought = self._pool.submit(self._buy_foreign)
        self.settle()
        allotted = " and ".join(f"{shares(ALLOTMENT)} on {chain.name}" for chain in (self.ethereum, self.solana))
        print(f"   the worker works; at most {allotted} may ever be minted")
        for holder in ("ana", "ben", "cleo", "mallory"):
            print(f"   {holder:<8} " + "   ".join(short(self.wallet[holder, chain.name].address) for chain in (self.ethereum, self.solana)))

    def to_wallets(self) -> None:
        """The issuer issues straight to wallets, and clients withdraw from the book."""
        flows = []
        for holder, chain, units in (("ana", "Ethereum", 500), ("ana", "Solana", 300)):
            issue = issuance_pb2.IssueUnitsRequest(
                instrument=SYMBOL, account=self.at(holder, chain), units=units * SHARE, reference="in kind"
            )
            flows.append(Flow(f"issuer issues {units} to ana on {chain}", self.do(issue, "issuer")[1]))
        withdrawn = (("ben", "Ethereum", 120), ("ben", "Solana", 60), ("mallory", "Ethereum", 80), ("mallory", "Solana", 20))
        for holder, chain, units in withdrawn:
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


CHAPTERS = (
    "two_chains", "to_wallets", "back_to_the_book", "across", "enforcement", "frozen_in_flight", "faster_than_force", "paused", "split",
    "other_issuers_token", "denied", "worker_killed",
)  # fmt: skip
