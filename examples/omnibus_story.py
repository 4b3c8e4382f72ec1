"""An exchange on chain: somebody else's token in wallets of ours, owed to customers in the book.

The token has 18 decimals and a multiplier that its issuer sets; the ledger follows neither the one nor the other in its units.
"""

from __future__ import annotations

import random
from typing import Any

from brokers_story import SHARE
from chain_nodes import wait_for
from chains_stage import FINAL_SECONDS, FOREIGN, ChainsStage, Flow, shares, short

from services.cli.lines import make_command
from stockledger.v1 import chains_pb2, instruments_pb2, reserves_pb2

DEPOSITS = {"ben": 80, "ana": 20}


class ExchangeChapter(ChainsStage):
    """One chapter: what an exchange does with a token that it does not issue."""

    def other_issuers_token(self) -> None:
        """An exchange takes in a token that it does not issue: deposits of a customer and of nobody known, a sweep, a withdrawal."""
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
        doubled = self._pool.submit(self._double_foreign)
        straight = self._pool.submit(self._send, "ana", hot.account)
        sent = self._send("ben", deposit.account)
        index = self.seen(sent)
        has = shares(self.units("book:ben", FOREIGN))
        print(f"   ben deposits 80 SHOPx of 18 decimals, {short(sent)}: credited at index {index:,}, book:ben has {has}")
        self._attribute(straight.result())
        self._show_foreign_multiplier(doubled.result())
        sweep = chains_pb2.SweepWalletRequest(instrument=FOREIGN, wallet=deposit.account, receiving_wallet=hot.account)
        away = self.transfer("book:ben", self.at("ben", "Ethereum"), 12 * SHARE, FOREIGN)
        self.await_final(
            Flow("the 80 are swept to the hot wallet", self.do(sweep)[1]), Flow("ben withdraws 12 SHOPx from there to his own wallet", away)
        )
        there = self.ethereum.holding(self.foreign_token, hot.account)
        owed = sum(self.units(f"book:{holder}", FOREIGN) for holder in DEPOSITS)
        reserve = self.clients["auditor"].execute(reserves_pb2.GetReserveRequest(instrument=FOREIGN)).reserve
        final = f"the reserve, which is what is final there, is {shares(reserve.reserve_shares_e8)}"
        print(f"   the hot wallet holds {there / 10**18:g}; {final}; the book owes {shares(owed)}")
        self._refused("beyond the day's limit of 50", lambda: self.transfer("book:ben", self.at("ben", "Ethereum"), 45 * SHARE, FOREIGN))

    def _send(self, holder: str, to: str) -> str:
        return str(self.wallet[holder, "Ethereum"].send(self.foreign_token, to, DEPOSITS[holder] * 10**18))

    def _attribute(self, sent: str) -> None:
        """Ana has sent to the hot wallet itself. Nobody knows whose that is, until she shows that the sending wallet is hers."""
        self.seen(sent)
        nobodys = f"unattributed:{self.ethereum.chain}"
        has = f"{nobodys} has {shares(self.units(nobodys, FOREIGN))}"
        print(f"   ana sends 20 straight to the hot wallet, {short(sent)}: nobody knows whose they are, and {has}")
        attribute = chains_pb2.AttributeDepositRequest(
            chain=self.ethereum.chain, instrument=FOREIGN, account="book:ana", units=DEPOSITS["ana"] * SHARE, reference=sent
        )
        self.do(attribute)
        left, has = (shares(self.units(account, FOREIGN)) for account in (nobodys, "book:ana"))
        print(f"   she asks for it, and two people attribute it: {nobodys} has {left}, book:ana has {has}")

    def _show_foreign_multiplier(self, sent: str) -> None:
        """Their issuer has doubled what a unit stands for. It is seen, and decides nothing here."""
        self.seen(sent)
        request = chains_pb2.ListMultiplierChangesRequest(instrument=FOREIGN, place=self.ethereum.chain, page_size=100)

        def change() -> Any:
            found = self.clients["auditor"].items(request)
            return next((each for each in found if each.multiplier == str(2 * 10**18)), None)

        number = wait_for("the multiplier is seen", change, FINAL_SECONDS).number
        instrument = self.clients["auditor"].execute(instruments_pb2.GetInstrumentRequest(instrument=FOREIGN)).instrument
        has = shares(self.units("book:ben", FOREIGN))
        if any(each.instrument == FOREIGN for each in self.log.divergences):
            raise SystemExit("what another issuer does with his token is no divergence")
        noted = f"noted, no divergence; in the book it is {int(instrument.multiplier) / 10**18:g} and book:ben has {has}"
        print(f"   its issuer doubles the multiplier, {short(sent)}: seen to count from block {number:,} on, {noted}")

    def _buy_foreign(self) -> None:
        """Let the other issuer mint to wallets of ben and ana; none of it is the ledger's business."""
        allotter, minter = (self._of_issuer(name) for name in ("allotter", "minter"))
        allotter.do(self.ethereum.token(self.foreign_token).functions.setAllotment(random.randbytes(32), 10**24))
        for holder, shares_bought in DEPOSITS.items():
            minter.mint(self.foreign_token, self.at(holder, "Ethereum"), shares_bought * 10**18)

    def _double_foreign(self) -> str:
        """Let the other issuer set the multiplier to 2, at once."""
        schedule = self.ethereum.token(self.foreign_token).functions.scheduleMultiplier
        return str(self._of_issuer("multiplier").do(schedule(random.randbytes(32), 10**18, 2 * 10**18, 0, b"their split")))

    def _of_issuer(self, power: str) -> Any:
        return self.ethereum.wallet_of(self.folder / "keys" / f"other-issuer-{power}.key")
