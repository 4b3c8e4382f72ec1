"""An exchange on chain: somebody else's token in wallets of ours, owed to customers in the book."""

from __future__ import annotations

import random

from brokers_story import SHARE
from chains_stage import FOREIGN, ChainsStage, Flow, shares, short

from services.cli.lines import make_command
from stockledger.v1 import chains_pb2, instruments_pb2


class ExchangeChapter(ChainsStage):
    """One chapter: what an exchange does with a token that it does not issue."""

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
