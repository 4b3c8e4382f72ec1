"""A mint's whole story, folded from its transactions in the chain's order: holdings, freezes, pause, and every multiplier with its time.

Nothing of it can be asked of a node: Solana gives no past balances, and a multiplier that was replaced has left no trace but the
instruction that set it. The fold checks each step against the balances the chain reports with it, so that a missed transaction shows at
the next one of the same account. It knows nothing of the ledger, and is held against what the ledger's reader made of the same chain.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from solders.pubkey import Pubkey

from chain_adapters.spl.errors import HistoryBroken
from chain_adapters.spl.history import read_range
from chain_adapters.spl.multiplier import ScaledUiAmount
from chain_adapters.spl.planning import MEMO_PREFIX
from chain_adapters.spl.rpc import RpcClient
from chain_adapters.spl.token_2022 import AccountState, AuthorityKind
from chain_adapters.spl.transactions import (
    AccountClosed,
    AccountMade,
    AuthoritySet,
    Burned,
    DefaultStateSet,
    Done,
    FreezeChanged,
    LandedTransaction,
    Minted,
    MintMade,
    MultiplierSet,
    PauseChanged,
    effects_on,
)


@dataclass(frozen=True, slots=True)
class HeldAccount:
    """A token account as far as the story has come."""

    owner: Pubkey
    units: int = 0
    is_frozen: bool = False


@dataclass(frozen=True, slots=True)
class OwnerChanged:
    """A token account has another owner than when it was last seen.

    Giving an account away names no mint, so the transaction is not in the mint's history; it shows when the account is next used.
    Associated accounts cannot be given away.
    """

    account: Pubkey
    owner_before: Pubkey
    owner_after: Pubkey


@dataclass(frozen=True, slots=True)
class MultiplierPeriod:
    """A multiplier, as bits of a binary64, in force from a time on, in seconds since 1970."""

    from_time: int
    bits: int


@dataclass(slots=True)
class TokenHistory:
    """The fold. Feed it every transaction of the mint from the first on; it ends where the chain stands."""

    mint: Pubkey
    decimals: int | None = None
    supply: int = 0
    is_paused: bool = False
    default_account_state: AccountState = AccountState.INITIALIZED
    scaled_ui_amount: ScaledUiAmount | None = None
    periods: list[MultiplierPeriod] = field(default_factory=list)
    """Every multiplier that was, is or is announced to be in force, by time. An announced one that was replaced is not among them."""
    accounts: dict[Pubkey, HeldAccount] = field(default_factory=dict)
    slot: int = 0

    def apply(self, transaction: LandedTransaction) -> list[Done | OwnerChanged]:
        """Take the next transaction in, and return what it did to the mint.

        Raises: HistoryBroken if it does not follow on what is known; TransactionNotUnderstood, see `effects_on`.
        """
        if transaction.slot < self.slot:
            raise HistoryBroken(f"slot {transaction.slot} of {transaction.signature} comes after slot {self.slot}")
        effects: list[Done | OwnerChanged] = []
        changes = [change for change in transaction.balances if change.mint == self.mint] if transaction.error is None else []
        for change in changes:
            held = self.accounts.get(change.account)
            known = 0 if held is None else held.units
            if change.before != known:
                raise HistoryBroken(
                    f"before {transaction.signature} in slot {transaction.slot}, {change.account} held {change.before} units of "
                    f"{self.mint}; by its history up to slot {self.slot} it should be {known}"
                )
            if held is not None and change.owner_before is not None and change.owner_before != held.owner:
                effects.append(OwnerChanged(change.account, held.owner, change.owner_before))
                self.accounts[change.account] = replace(held, owner=change.owner_before)
        for effect in effects_on(self.mint, transaction):
            self._apply(effect, transaction)
            effects.append(effect)
        for change in changes:
            held = self.accounts.get(change.account)
            if held is not None:
                self.accounts[change.account] = replace(held, units=change.after, owner=change.owner_after or held.owner)
            elif change.after:
                raise HistoryBroken(f"{change.account} holds {change.after} units of {self.mint}, but was never made")
        self.slot = transaction.slot
        return effects

    def _apply(self, effect: Done, transaction: LandedTransaction) -> None:
        match effect:
            case MintMade():
                self.decimals = effect.decimals
            case Minted():
                self.supply += effect.units
            case Burned():
                self.supply -= effect.units
            case AccountMade():
                self.accounts[effect.account] = HeldAccount(effect.owner, is_frozen=self.default_account_state is AccountState.FROZEN)
            case AccountClosed():
                self.accounts.pop(effect.account, None)
            case FreezeChanged():
                self.accounts[effect.account] = replace(self.accounts[effect.account], is_frozen=effect.is_frozen)
            case PauseChanged():
                self.is_paused = effect.is_paused
            case DefaultStateSet():
                self.default_account_state = effect.state
            case AuthoritySet(kind=AuthorityKind.ACCOUNT_OWNER, target=target, successor=Pubkey() as successor) if target in self.accounts:
                self.accounts[target] = replace(self.accounts[target], owner=successor)
            case MultiplierSet():
                self._set_multiplier(effect, transaction)
            case _:
                pass  # an authority or a hook: who may act, not what is held

    def _set_multiplier(self, effect: MultiplierSet, transaction: LandedTransaction) -> None:
        if self.scaled_ui_amount is None:
            self.scaled_ui_amount = ScaledUiAmount(effect.bits, 0, effect.bits)
            self.periods = [MultiplierPeriod(0, effect.bits)]
            return
        now = transaction.block_time
        if now is None:
            raise HistoryBroken(f"the node does not tell when slot {transaction.slot} was; without it a multiplier has no time")
        self.scaled_ui_amount = self.scaled_ui_amount.updated(effect.bits, effect.effective_time, now)
        in_force = [period for period in self.periods if period.from_time <= now]
        self.periods = [*in_force, MultiplierPeriod(max(effect.effective_time, now), effect.bits)]

    def holdings(self) -> dict[Pubkey, int]:
        """Return the units of each owner over all accounts, those above zero."""
        total: dict[Pubkey, int] = {}
        for held in self.accounts.values():
            if held.units:
                total[held.owner] = total.get(held.owner, 0) + held.units
        return total


def tell(client: RpcClient, mint: Pubkey) -> tuple[TokenHistory, Counter[str]]:
    """Fold everything final of a mint, and count how often each of the ledger's instructions was carried out in it."""
    history, carried_out = TokenHistory(mint), Counter[str]()
    for transaction in read_range(client, mint, 0, client.finalized_slot()):
        history.apply(transaction)
        if transaction.error is None:
            carried_out.update(memo.partition(" ")[0] for memo in transaction.memos if memo.startswith(MEMO_PREFIX))
    return history, carried_out
