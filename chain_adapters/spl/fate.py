"""What became of a recorded transaction: landed, failed, still possible, or provably dead.

A durable nonce has one value at a time, and a value is used up once. So a transaction on a nonce can land while the account holds that
value, and never after. Once another value is final and the history up to it lacks the transaction, it is dead: not because time passed,
not because a node does not know it, but because what it needs is gone for ever.

Source: solana.com, durable transaction nonces; agave `runtime/src/bank/check_transactions.rs`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from solders.hash import Hash
from solders.message import Message
from solders.pubkey import Pubkey

from chain_adapters.spl.account_layout import NonceAccount, decode_nonce_account
from chain_adapters.spl.addresses import SYSTEM_PROGRAM
from chain_adapters.spl.errors import AccountMalformed, HistoryBroken
from chain_adapters.spl.history import read_range
from chain_adapters.spl.planning import DurableNonce
from chain_adapters.spl.rpc import ACCOUNTS_MAX, Account, RpcClient
from chain_adapters.spl.transactions import LandedTransaction, NonceAdvanced, decode


class Fate(enum.Enum):
    """What may still happen to a recorded transaction."""

    OPEN = "open"
    """Its nonce holds and nobody knows it: it can land at any time. Send it."""
    WAITING = "waiting"
    """It landed, or its nonce was used up, but not finally yet. Ask again."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """It landed, paid its fee and did nothing else. It can never land again."""
    DEAD = "dead"
    """Its nonce has another value, finally, and it did not land before. It never can."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A fate and its proof.

    `transaction` is ours where it landed, and with DEAD the one that used its nonce's value up, where that is on record; `value` is what
    the nonce account holds instead, or None where it was closed.
    """

    fate: Fate
    transaction: LandedTransaction | None = None
    value: Hash | None = None


def nonce_of_message(message: bytes) -> tuple[Pubkey, Hash]:
    """Return the nonce account of a durable transaction, and the value it uses up."""
    decoded = Message.from_bytes(message)
    advance = decoded.instructions[0]
    assert decoded.account_keys[advance.program_id_index] == SYSTEM_PROGRAM, "a durable transaction begins by advancing its nonce"
    return decoded.account_keys[bytes(advance.accounts)[0]], decoded.recent_blockhash


def final_nonce(client: RpcClient, address: Pubkey, through_slot: int | None = None) -> DurableNonce | None:
    """Return a nonce account's value, ready to plan a transaction on, or None while its last change is not final.

    A value that came with a block which is undone would never come back, and a transaction on it would be neither alive nor dead.

    Args:
        client: A node.
        address: The nonce account.
        through_slot: What counts as final; the node's own finality if it is left out.

    Raises: AccountMalformed if there is no such account, or it is another kind of account.
    """
    settled = _settled(client, address, client.finalized_slot() if through_slot is None else through_slot)
    if settled is None:
        return None
    slot, account = settled
    if account is None:
        raise AccountMalformed(f"there is no nonce account at {address}")
    nonce = _nonce_of(account)
    return DurableNonce(address, nonce.authority, nonce.value, slot)


def final_nonces(client: RpcClient, addresses: Sequence[Pubkey], through_slot: int) -> Iterator[DurableNonce]:
    """Yield those of some nonce accounts whose last change is final: many at a question, and one more for each that is taken.

    Raises: AccountMalformed on coming to one that is none.
    """
    for start in range(0, len(addresses), ACCOUNTS_MAX):
        part = addresses[start : start + ACCOUNTS_MAX]
        slot, found = client.accounts(part)
        for address, account in zip(part, found, strict=True):
            newest = client.newest_signature(address)
            if newest is not None and newest.slot > through_slot:
                continue
            if account is None:
                raise AccountMalformed(f"there is no nonce account at {address}")
            nonce = _nonce_of(account)
            yield DurableNonce(address, nonce.authority, nonce.value, slot)


def fate_of(client: RpcClient, message: bytes, signature: str, *, since_slot: int, through_slot: int) -> Verdict:
    """Find out what became of a recorded transaction on a durable nonce.

    Args:
        client: A node that keeps history back to `since_slot`.
        message: As recorded before it was signed.
        signature: Its signature; signing it again gives it.
        since_slot: It cannot have landed before; what did is an earlier transaction of the same bytes, and not this one.
        through_slot: A final slot; nothing after it is taken for proof.

    Raises: HistoryBroken if the node answers with another transaction.
    """
    nonce_account, value = nonce_of_message(message)
    answer = client.transaction(signature)
    if answer is not None:
        ours = decode(answer)
        if ours.message != message:
            raise HistoryBroken(f"the node at {client.host} answers {ours.signature} with other content when asked for {signature}")
        if ours.slot >= since_slot:
            return _verdict(ours, through_slot)
    _, account = client.account(nonce_account)
    if account is not None and _value_of(account) == value:
        return Verdict(Fate.OPEN)
    settled = _settled(client, nonce_account, through_slot)
    if settled is None:
        return Verdict(Fate.WAITING)
    found = None if settled[1] is None else _value_of(settled[1])
    if found == value:
        return Verdict(Fate.OPEN)
    for transaction in read_range(client, nonce_account, since_slot, through_slot):
        if transaction.message == message:
            return _verdict(transaction, through_slot)  # signed by a signer that is not deterministic
        if transaction.blockhash == value and _advances(transaction, nonce_account):
            return Verdict(Fate.DEAD, transaction, found)
    return Verdict(Fate.DEAD, None, found)


def _advances(transaction: LandedTransaction, nonce_account: Pubkey) -> bool:
    """Say whether a transaction advances this nonce account: accounts advanced in one block all get the same value."""
    return any(isinstance(done, NonceAdvanced) and done.nonce_account == nonce_account for done in transaction.done)


def _settled(client: RpcClient, address: Pubkey, through_slot: int) -> tuple[int, Account | None] | None:
    """Return an account and the slot it was read at, or None if anything after `through_slot` names it.

    Nodes may answer a finalised read with newer state. What changed an account names it, so its newest transaction tells.
    """
    newest = client.newest_signature(address)
    slot, account = client.account(address)
    if client.newest_signature(address) != newest or (newest is not None and newest.slot > through_slot):
        return None
    return slot, account


def _verdict(ours: LandedTransaction, through_slot: int) -> Verdict:
    if ours.slot > through_slot:
        return Verdict(Fate.WAITING, ours)
    return Verdict(Fate.SUCCEEDED if ours.error is None else Fate.FAILED, ours)


def _value_of(account: Account) -> Hash | None:
    """Return the value of a nonce account; one that was closed may since have become anything."""
    try:
        return _nonce_of(account).value
    except AccountMalformed:
        return None


def _nonce_of(account: Account) -> NonceAccount:
    if account.owner != SYSTEM_PROGRAM:
        raise AccountMalformed(f"{account.address} belongs to the program {account.owner}, a nonce account to {SYSTEM_PROGRAM}")
    return decode_nonce_account(account.data)
