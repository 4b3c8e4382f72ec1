"""What named some addresses in a range of slots: complete, each transaction once, in the chain's order, or an error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from solders.pubkey import Pubkey

from chain_adapters.spl.errors import HistoryBroken, HistoryPruned
from chain_adapters.spl.rpc import RpcClient, SignatureInfo
from chain_adapters.spl.transactions import (
    LandedTransaction,
    decode,
)


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
