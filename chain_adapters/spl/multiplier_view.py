"""How a mint's multiplier stood at a slot, and when slots were. Token-2022 keeps one value and one ahead, and no past."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from solders.pubkey import Pubkey

from chain_adapters.multipliers import Schedule
from chain_adapters.spl.account_layout import decode_mint
from chain_adapters.spl.addresses import TOKEN_2022_PROGRAM
from chain_adapters.spl.errors import HistoryBroken
from chain_adapters.spl.history import in_chain_order, transactions_of
from chain_adapters.spl.multiplier import multiplier_floor
from chain_adapters.spl.rpc import RpcClient, SignatureInfo
from chain_adapters.spl.transactions import LandedTransaction, MultiplierSet, decode, effects_on
from stockledger.v1.chains_pb2 import ChainPosition

_US: Final = 1_000_000


class SlotClock:
    """When slots were, by the clock that programs of the chain see; slots may be empty."""

    def __init__(self, client: RpcClient) -> None:
        self._client = client

    def position(self, number: int) -> ChainPosition:
        seconds = self.time_us(number) // _US
        return ChainPosition(number=number, hash=self._client.block_hash(number), time=Timestamp(seconds=seconds))

    def time_us(self, number: int) -> int:
        seconds = self._client.block_time(number)
        if seconds is None:
            raise HistoryBroken(f"the node does not tell when slot {number} was; without it a multiplier has no time")
        return seconds * _US

    def numbers(self, after: int, through: int) -> Sequence[int]:
        return self._client.blocks(after + 1, through)


def schedule_at(client: RpcClient, mint: Pubkey, number: int) -> Schedule | None:
    """Return how a mint's multiplier stood at a slot; None for a mint that has none, and for what is no mint.

    What it is now says it, unless it was set since; then what set it until then does, from the newest back as far as it matters.

    Raises: HistoryPruned, HistoryBroken, TransactionNotUnderstood.
    """
    _, account = client.account(mint)
    if account is None or account.owner != TOKEN_2022_PROGRAM:
        return None
    scaled = decode_mint(account.data).scaled_ui_amount
    if scaled is None:
        return None
    time_us = SlotClock(client).time_us(number)
    if not _is_set_after(client, mint, number):
        ahead = Schedule(multiplier_floor(scaled.current), multiplier_floor(scaled.next), scaled.next_effective_time * _US)
        return ahead.at(time_us)
    return _from_history(mint, _newest_first(client, mint, number)).at(time_us)


def _is_set_after(client: RpcClient, mint: Pubkey, number: int) -> bool:
    """Tell whether a mint's multiplier was set after a slot, or may have been: a node may answer with more than is final."""
    for one in client.signatures_back_to(mint, number + 1):
        answer = client.transaction(one.signature)
        if answer is None or any(True for _ in _sets(mint, decode(answer, one.block_time))):
            return True
    return False


def _sets(mint: Pubkey, transaction: LandedTransaction) -> Iterator[MultiplierSet]:
    return (effect for effect in effects_on(mint, transaction) if isinstance(effect, MultiplierSet))


def _newest_first(client: RpcClient, mint: Pubkey, last_slot: int) -> Iterator[LandedTransaction]:
    """Yield what names a mint up to a slot, the newest first."""
    together: list[SignatureInfo] = []
    for one in client.signatures_back_to(mint, 0):
        if one.slot > last_slot:
            continue
        if together and together[0].slot != one.slot:
            yield from transactions_of(client, reversed(in_chain_order(client, together)))
            together = []
        together.append(one)
    yield from transactions_of(client, reversed(in_chain_order(client, together)))


def _from_history(mint: Pubkey, newest_first: Iterable[LandedTransaction]) -> Schedule:
    """Return what was set last, over what was in force when it was set; no transaction: there is no mint yet.

    Example: set to 3 for noon, before that to 2 for a time long past: 2, with 3 ahead.
    """
    last: Schedule | None = None
    replaced_us = 0
    for transaction in newest_first:
        for effect in reversed(list(_sets(mint, transaction))):
            if transaction.block_time is None:
                raise HistoryBroken(f"the node does not tell when slot {transaction.slot} was; without it a multiplier has no time")
            multiplier, from_us, set_us = multiplier_floor(effect.bits), effect.effective_time * _US, transaction.block_time * _US
            if from_us <= set_us or (last is not None and from_us <= replaced_us):
                return Schedule(multiplier, last.next_multiplier, last.next_time_us) if last is not None else Schedule(multiplier)
            last, replaced_us = last or Schedule(0, multiplier, from_us), set_us
    return Schedule(0)
