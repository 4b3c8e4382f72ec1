"""Supply and holdings of a token, all at one slot: what the reconciler holds against the books."""

from __future__ import annotations

from typing import Final

from solders.pubkey import Pubkey

from chain_adapters.spl.account_layout import decode_mint, decode_token_account
from chain_adapters.spl.errors import AnswerMalformed
from chain_adapters.spl.rpc import ACCOUNTS_MAX, RpcClient

TRIES: Final = 10
OWNERS_ASKED_SINGLY_MAX: Final = 50
"""Above it, one question for all accounts of the mint costs a node less than one for each owner."""


def holdings_at_one_slot(client: RpcClient, mint: Pubkey, owners: set[Pubkey]) -> tuple[int, int, dict[Pubkey, int]]:
    """Return a slot, the supply at it and what each owner holds at it, over all accounts of theirs.

    Raises: AnswerMalformed when the answers do not come together in a few tries.
    """
    for _ in range(TRIES):
        if len(owners) <= OWNERS_ASKED_SINGLY_MAX:
            every = [one for owner in sorted(owners, key=bytes) for one in client.token_accounts_of(owner, mint)[1]]
        else:
            _, every = client.token_accounts(mint)
        theirs = [one.address for one in every if decode_token_account(one.data).owner in owners]
        parts = [theirs[start : start + ACCOUNTS_MAX - 1] for start in range(0, len(theirs) or 1, ACCOUNTS_MAX - 1)]
        answers = [client.accounts([mint, *part]) for part in parts]
        slots = {slot for slot, _ in answers}
        mints = {found[0].data for _, found in answers if found[0] is not None}
        newest = client.newest_signature(mint)
        if len(mints) != 1 or (len(answers) > 1 and newest is not None and newest.slot >= min(slots)):
            continue
        held: dict[Pubkey, int] = {}
        for _, found in answers:
            for one in found[1:]:
                if one is not None:
                    account = decode_token_account(one.data)
                    held[account.owner] = held.get(account.owner, 0) + account.units
        return min(slots), decode_mint(mints.pop()).supply, held
    raise AnswerMalformed("getMultipleAccounts", f"the holdings of {mint} did not come together at one slot in {TRIES} tries")
