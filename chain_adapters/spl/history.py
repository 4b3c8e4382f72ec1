"""A mint's whole story, folded from its transactions in the chain's order: holdings, freezes, pause, and every multiplier with its time.

Nothing of it can be asked of a node: Solana gives no past balances, and a multiplier that was replaced has left no trace but the
instruction that set it. The fold checks each step against the balances the chain reports with it, so that a missed transaction shows at
the next one of the same account.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from solders.pubkey import Pubkey

from chain_adapters.spl.errors import HistoryBroken, HistoryPruned
from chain_adapters.spl.multiplier import ScaledUiAmount
from chain_adapters.spl.rpc import RpcClient, SignatureInfo
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
    decode,
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


def read_range(client: RpcClient, address: Pubkey, first_slot: int, last_slot: int) -> Iterator[LandedTransaction]:
    """Yield every transaction that names an address, from one slot to another, both included, in the chain's order.

    Whole slots are read, so that a slot is all the cursor there need be. The caller sees to it that `last_slot` is final.

    Raises: HistoryPruned if the node does not go back to `first_slot`; HistoryBroken if it lists a transaction in a slot and does not
    find it, or tells two slots for it.
    """
    yield from transactions_of(client, list_range(client, [address], first_slot, last_slot))


def list_range(client: RpcClient, addresses: Iterable[Pubkey], first_slot: int, last_slot: int) -> list[SignatureInfo]:
    """Return every transaction that names one of some addresses in a range of slots, each once, in the chain's order.

    Raises: HistoryPruned, HistoryBroken.
    """
    oldest = client.first_available_slot()
    if first_slot and oldest > first_slot:
        raise HistoryPruned("getFirstAvailableBlock", f"the node at {client.host} goes back to slot {oldest}, needed is {first_slot}")
    found: dict[str, SignatureInfo] = {}
    for address in addresses:
        for one in client.signatures_back_to(address, first_slot):
            if one.slot <= last_slot:
                found.setdefault(one.signature, one)
    return in_chain_order(client, sorted(found.values(), key=lambda one: -one.slot))


def transactions_of(client: RpcClient, listed: Iterable[SignatureInfo]) -> Iterator[LandedTransaction]:
    """Yield the transactions of a list, each as the list tells it.

    Raises: HistoryBroken.
    """
    for one in listed:
        answer = client.transaction(one.signature)
        if answer is None:
            raise HistoryBroken(f"the node at {client.host} lists {one.signature} in slot {one.slot} and does not find it")
        transaction = decode(answer, one.block_time)
        if (transaction.slot, transaction.signature) != (one.slot, one.signature):
            answered = f"{transaction.signature} in slot {transaction.slot}"
            raise HistoryBroken(f"the node at {client.host} lists {one.signature} in slot {one.slot} and answers {answered}")
        yield transaction


def in_chain_order(client: RpcClient, newest_first: list[SignatureInfo]) -> list[SignatureInfo]:
    """Return a history oldest first. Where several share a slot, the block says which ran first.

    Raises: HistoryBroken if the block lacks one of them.
    """
    by_slot: dict[int, list[SignatureInfo]] = {}
    for one in reversed(newest_first):
        by_slot.setdefault(one.slot, []).append(one)
    ordered: list[SignatureInfo] = []
    for slot in sorted(by_slot):
        together = by_slot[slot]
        if len(together) > 1:
            places = {signature: place for place, signature in enumerate(client.block_signatures(slot))}
            missing = [one.signature for one in together if one.signature not in places]
            if missing:
                raise HistoryBroken(f"the block of slot {slot} lacks {missing[0]}, which the node at {client.host} lists there")
            together.sort(key=lambda one: places[one.signature])
        ordered += together
    return ordered
