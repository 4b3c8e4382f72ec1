"""What transactions take from their payer: fees, the lamports of accounts that they open, and those that it must keep itself.

Every account holds lamports for its bytes, or the chain does not let it be (it is "rent exempt"). Whoever opens a token account pays
them, 2,136,720 lamports for the 179 bytes of one of ours, where a signature costs 5,000; and a payer that would keep less than an
account without data must hold pays for no transaction.

Source: solana.com/docs/core/accounts; agave `svm/src/account_loader.rs`, `validate_fee_payer`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from solders.message import Message
from solders.pubkey import Pubkey

from chain_adapters.spl.account_layout import associated_account_bytes, decode_mint
from chain_adapters.spl.addresses import ASSOCIATED_TOKEN_PROGRAM
from chain_adapters.spl.rpc import ACCOUNTS_MAX, Account, RpcClient


@dataclass(frozen=True, slots=True)
class Cost:
    """What a transaction takes at most, in lamports, and the associated accounts that it opens where they are missing, with their mints."""

    fee_lamports: int
    opened: Mapping[Pubkey, Pubkey]


def cost_of(message: bytes, fee_lamports: int) -> Cost:
    """Return what a transaction of ours takes, by its message."""
    decoded = Message.from_bytes(message)
    keys = decoded.account_keys
    opening = [bytes(one.accounts) for one in decoded.instructions if keys[one.program_id_index] == ASSOCIATED_TOKEN_PROGRAM]
    return Cost(fee_lamports, {keys[places[1]]: keys[places[3]] for places in opening})


def lamports_needed(client: RpcClient, payer: Pubkey, costs: Sequence[Cost]) -> tuple[int, list[int]]:
    """Return what a payer has, and what it must have for the first of some transactions, for the first two, and so on.

    An account that several of them open is paid for once, and one that is there not at all. Example: for a fee of 10,000 lamports and
    one account of 179 bytes, 10,000 + 2,136,720 and the 890,880 that stay with the payer.

    Raises: RpcError; AccountMalformed for a mint that is none.
    """
    mints = {account: mint for cost in costs for account, mint in cost.opened.items()}
    # The payer last: what is opened between two answers is then counted twice, not left out.
    found = _accounts(client, [*mints, *dict.fromkeys(mints.values()), payer])
    rents: dict[int, int] = {}

    def rent(space: int) -> int:
        if space not in rents:
            rents[space] = client.rent(space)
        return rents[space]

    def lacking(account: Pubkey) -> int:
        standing, mint = found.get(account), found.get(mints[account])
        if standing is not None and standing.is_made:
            return 0
        space = associated_account_bytes(() if mint is None else decode_mint(mint.data).extensions)
        return max(rent(space) - (0 if standing is None else standing.lamports), 0)

    needed, total, counted = [], rent(0), set[Pubkey]()
    for cost in costs:
        total += cost.fee_lamports + sum(lacking(account) for account in cost.opened if account not in counted)
        counted.update(cost.opened)
        needed.append(total)
    return found[payer].lamports if payer in found else 0, needed


def _accounts(client: RpcClient, addresses: Sequence[Pubkey]) -> dict[Pubkey, Account]:
    parts: Collection[Sequence[Pubkey]] = [addresses[start : start + ACCOUNTS_MAX] for start in range(0, len(addresses), ACCOUNTS_MAX)]
    return {one.address: one for part in parts for one in client.accounts(part)[1] if one is not None}
