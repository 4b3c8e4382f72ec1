"""Which of the recorded transactions are in a range of blocks.

By the numbers their senders had used before and after it, while the node still knows them. One that keeps no state of so long ago is
asked for each of ours by its hash, and has every block looked through only where that leaves a used number unexplained: when a signer
signs otherwise each time, when a key is not here, or when somebody else used it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chain_adapters.evm.chain_view import ChainView, transactions_of
from chain_adapters.evm.node import NodeNonsense, NodeRefused, read_number
from chain_adapters.evm.steps import address_of
from chain_adapters.evm.transactions import payload_of_landed
from stockledger.v1.chains_pb2 import LandedTransaction, OpenTransaction, Transaction

Told = Callable[[Transaction], dict[str, Any] | None]
"""What the node knows of a version by its hash; None where it knows nothing, or the hash cannot be told."""


@dataclass(frozen=True, slots=True)
class Landed:
    """A recorded version that is in a block."""

    version: Transaction
    transaction: str
    number: int


def version_of(entry: Mapping[str, Any], versions: Mapping[bytes, Transaction]) -> Transaction | None:
    """Return the recorded version that a transaction on chain is, by SHA-256 of its payload made again, or None.

    Raises: NodeNonsense for a transaction that cannot be.
    """
    try:
        payload = payload_of_landed(entry)
    except ValueError as error:
        raise NodeNonsense(str(error)) from error
    return None if payload is None else versions.get(hashlib.sha256(payload).digest())


def digests(versions: Sequence[Transaction]) -> dict[bytes, Transaction]:
    """Return recorded versions by the digest of their payload."""
    return {hashlib.sha256(version.payload).digest(): version for version in versions}


def landed_in(view: ChainView, opened: Sequence[OpenTransaction], after: int, through: int, told: Told) -> list[Landed]:
    """Return which recorded transactions are in the blocks from `after` + 1 to `through`, in the chain's order.

    Each block is asked for once, whoever sent in it.

    Raises: NodeError.
    """
    versions = digests([version for one in opened for version in one.versions])
    by_sender: dict[str, list[OpenTransaction]] = {}
    for one in opened:
        by_sender.setdefault(address_of(one.versions[0].key).lower(), []).append(one)
    senders_in: dict[int, set[str]] = {}
    for sender, theirs in sorted(by_sender.items()):
        for number in _blocks_of(view, theirs, after, through, told):
            senders_in.setdefault(number, set()).add(sender)
    found = []
    for number, senders in sorted(senders_in.items()):
        for entry in transactions_of(view.whole_block(number)):
            if str(entry["from"]).lower() in senders:
                version = version_of(entry, versions)
                if version is not None and address_of(version.key).lower() == str(entry["from"]).lower():
                    found.append(Landed(version, str(entry["hash"]), number))
    return found


def landed_message(landed: Landed, receipt: Mapping[str, Any]) -> LandedTransaction:
    """Return what the ledger is told of a transaction of ours that succeeded; of one that failed, the failure is still to be set."""
    try:
        fee = read_number(receipt["gasUsed"]) * read_number(receipt["effectiveGasPrice"])
    except KeyError as error:
        raise NodeNonsense(f"a receipt lacks {error}") from error
    return LandedTransaction(
        key=landed.version.key,
        sequence=landed.version.sequence,
        payload_digest=hashlib.sha256(landed.version.payload).digest(),
        transaction=landed.transaction,
        number=landed.number,
        fee=str(fee),
    )


def block_of(transaction: OpenTransaction, told: Told) -> int | None:
    """Return the block in which a version of a transaction is, the newest asked for first; None where none is known to be in one.

    A block up to where the reader was when the first version was recorded has an earlier transaction of the same bytes.
    """
    for version in reversed(transaction.versions):
        known = told(version)
        if known is not None and known.get("blockNumber") is not None:
            number = read_number(known["blockNumber"])
            if number > transaction.cursor_number:
                return number
    return None


def _blocks_of(view: ChainView, opened: Sequence[OpenTransaction], after: int, through: int, told: Told) -> Collection[int]:
    """Return the blocks of a range in which one sender's recorded transactions are, and perhaps others."""
    sender = address_of(opened[0].versions[0].key)
    try:
        return view.blocks_of(sender, after, through, min(one.versions[0].sequence.number for one in opened))
    except NodeRefused:
        used = view.count(sender, "latest")
    blocks = []
    for one in opened:
        if one.versions[0].sequence.number < used:
            block = block_of(one, told)
            if block is None:
                return range(after + 1, through + 1)
            blocks.append(block)
    return [block for block in blocks if after < block <= through]
