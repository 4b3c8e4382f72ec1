"""What is final after a cursor -> one range: everything on some tokens in the chain's order, and our transactions among it."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping

from google.protobuf.timestamp_pb2 import Timestamp
from solders.pubkey import Pubkey

from chain_adapters.spl import fate
from chain_adapters.spl.history import list_range, transactions_of
from chain_adapters.spl.observation import failure_of, observe
from chain_adapters.spl.rpc import RpcClient
from chain_adapters.spl.transactions import LandedTransaction as OnChain
from stockledger.v1.chains_pb2 import ChainPosition, LandedTransaction, Observation, ObservedRange, Transaction


def position_at(client: RpcClient, slot: int) -> ChainPosition:
    """Return the position of a slot that has a block."""
    block_time = client.block_time(slot)
    position = ChainPosition(number=slot, hash=client.block_hash(slot))
    if block_time is not None:
        position.time.CopyFrom(Timestamp(seconds=block_time))
    return position


def read_slots(
    client: RpcClient,
    after: ChainPosition,
    through: int,
    tokens: Mapping[Pubkey, str],
    ours: Mapping[bytes, Transaction],
    *,
    chain: str,
    observations_max: int,
) -> ObservedRange:
    """Read whole slots after a position, as many as bring no more observations than asked for, unless one slot alone has more.

    Args:
        client: A node that goes back to `after`.
        after: The cursor.
        through: A final slot with a block.
        tokens: CAIP-19 ids by mint.
        ours: Recorded versions by payload.
        chain: CAIP-2 id.
        observations_max: At least 1.

    Raises: HistoryPruned, HistoryBroken, TransactionNotUnderstood; RpcError.
    """
    nonces = {fate.nonce_of_message(payload)[0] for payload in ours}
    listed = list_range(client, [*tokens, *sorted(nonces, key=bytes)], after.number + 1, through)
    read = ObservedRange(chain=chain, after=after)
    complete = after.number
    for slot, together in itertools.groupby(listed, key=lambda one: one.slot):
        observations: list[Observation] = []
        landed: list[LandedTransaction] = []
        for transaction in transactions_of(client, together):
            version = ours.get(transaction.message)
            carried = [] if version is None else list(version.instructions)
            observations += observe(chain, tokens, transaction, carried, len(observations))
            if version is not None:
                landed.append(_landed(version, transaction))
        if read.observations and len(read.observations) + len(observations) > observations_max:
            through = complete
            break
        read.observations.extend(observations)
        read.landed.extend(landed)
        complete = slot
    read.through.CopyFrom(position_at(client, through))
    return read


def _landed(version: Transaction, transaction: OnChain) -> LandedTransaction:
    landed = LandedTransaction(
        key=version.key,
        sequence=version.sequence,
        payload_digest=hashlib.sha256(transaction.message).digest(),
        transaction=transaction.signature,
        number=transaction.slot,
        fee=str(transaction.fee_lamports),
    )
    if transaction.error is not None:
        landed.failure, landed.failure_text = failure_of(transaction.error, version.payload, len(version.instructions))
    return landed
