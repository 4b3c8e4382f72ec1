"""What became of a recorded transaction: landed, failed, still possible, or provably dead.

A durable nonce has one value at a time, and a value is used up once. So a transaction on a nonce can land while the account holds that
value, and never after. Who used it up stands in the history of the nonce account: ours, and it has landed; another's, and ours is dead.
Giving up waiting proves nothing, a missing signature neither; only finality does.

Source: solana.com, durable transaction nonces; agave `runtime/src/bank/check_transactions.rs`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from solders.hash import Hash
from solders.pubkey import Pubkey

from chain_adapters.spl.account_layout import NonceAccount, decode_nonce_account
from chain_adapters.spl.addresses import SYSTEM_PROGRAM
from chain_adapters.spl.errors import AccountMalformed
from chain_adapters.spl.history import read_range
from chain_adapters.spl.planning import DurableNonce, PlannedTransaction
from chain_adapters.spl.programs import WITHDRAW_NONCE
from chain_adapters.spl.rpc import Account, RpcClient
from chain_adapters.spl.transactions import LandedTransaction, NonceAdvanced, Other, decode


class Fate(enum.Enum):
    """What may still happen to a recorded transaction."""

    OPEN = "open"
    """Its nonce holds: it can land at any time. Send it again."""
    WAITING = "waiting"
    """Its nonce was used up, but by what is not final yet, or the node does not tell. Ask again."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """It landed, paid its fee and did nothing else. It can never land again."""
    DEAD = "dead"
    """Something else used up its nonce, finally. It can never land."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A fate and its proof: `transaction` is the one that used up the nonce, ours or not."""

    fate: Fate
    transaction: LandedTransaction | None = None


def final_nonce(client: RpcClient, address: Pubkey) -> DurableNonce | None:
    """Return a nonce account's value, ready to plan a transaction on, or None while its last change is not final.

    A value that came with a block which is undone would never come back, and a transaction on it would be neither alive nor dead.

    Raises: AccountMalformed if there is no such account, or it is another kind of account.
    """
    finalized = client.finalized_slot()
    newest = client.signatures(address, limit=1)
    slot, account = client.account(address)
    if account is None:
        raise AccountMalformed(f"there is no nonce account at {address}")
    nonce = _nonce_of(account)
    changed = client.signatures(address, limit=1)
    if newest != changed or (newest and newest[0].slot > finalized):
        return None
    return DurableNonce(address, nonce.authority, nonce.value, slot)


def fate_of(client: RpcClient, planned: PlannedTransaction, signature: str) -> Verdict:
    """Find out what became of a recorded transaction.

    Args:
        client: A node that keeps history back to `planned.nonce.slot`.
        planned: As recorded before it was signed.
        signature: Its signature; signing it again gives it.
    """
    nonce = planned.nonce
    finalized = client.finalized_slot()
    answer = client.transaction(signature)
    if answer is not None:
        return _verdict(decode(answer), finalized)
    _, account = client.account(nonce.account)
    if account is not None and _holds(account, nonce.value):
        return Verdict(Fate.OPEN)
    changed: LandedTransaction | None = None
    for transaction in read_range(client, nonce.account, nonce.slot, finalized):
        if transaction.message == planned.message:
            return _verdict(transaction, finalized)  # signed by a signer that is not deterministic
        if transaction.blockhash == nonce.value:
            return Verdict(Fate.DEAD, transaction)
        if changed is None and transaction.slot > nonce.slot and _uses_up(transaction, nonce.account, is_closed=account is None):
            changed = transaction
    return Verdict(Fate.WAITING) if changed is None else Verdict(Fate.DEAD, changed)


def _verdict(ours: LandedTransaction, finalized: int) -> Verdict:
    if ours.slot > finalized:
        return Verdict(Fate.WAITING)
    return Verdict(Fate.SUCCEEDED if ours.error is None else Fate.FAILED, ours)


def _holds(account: Account, value: Hash) -> bool:
    """Say whether this is a nonce account with this value; one that was closed may since have become anything."""
    try:
        return _nonce_of(account).value == value
    except AccountMalformed:
        return False


def _uses_up(transaction: LandedTransaction, nonce_account: Pubkey, *, is_closed: bool) -> bool:
    """Say whether a transaction that is not on the nonce itself changed its value: an ordinary advance, or a withdrawal that closed it."""
    if transaction.error is not None:
        return False
    for done in transaction.done:
        match done:
            case NonceAdvanced(nonce_account=advanced) if advanced == nonce_account:
                return True
            case Other(program=program, data=data, accounts=accounts) if is_closed and program == SYSTEM_PROGRAM:
                if data[:4] == WITHDRAW_NONCE.to_bytes(4, "little") and accounts[0] == nonce_account:
                    return True
            case _:
                pass
    return False


def _nonce_of(account: Account) -> NonceAccount:
    if account.owner != SYSTEM_PROGRAM:
        raise AccountMalformed(f"{account.address} belongs to the program {account.owner}, a nonce account to {SYSTEM_PROGRAM}")
    return decode_nonce_account(account.data)
