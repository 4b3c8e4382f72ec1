"""Instructions of the programs around a token: associated accounts, memos, the compute budget, durable nonces.

Source: the programs' documentation at solana.com (System, Compute Budget) and spl (Associated Token Account, Memo).
"""

from __future__ import annotations

import struct
from typing import Final

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

from chain_adapters.spl.addresses import (
    ASSOCIATED_TOKEN_PROGRAM,
    COMPUTE_BUDGET_PROGRAM,
    MEMO_PROGRAM,
    RECENT_BLOCKHASHES,
    SYSTEM_PROGRAM,
    TOKEN_2022_PROGRAM,
    associated_account,
)

NONCE_ACCOUNT_BYTES: Final = 80
COMPUTE_UNITS_MAX: Final = 1_400_000
"""What one transaction may use."""

NONCE_SEED: Final = "stockledger-nonce-"
_CREATE_ACCOUNT: Final = 0
_TRANSFER: Final = 2
ADVANCE_NONCE: Final = 4
WITHDRAW_NONCE: Final = 5
_INITIALIZE_NONCE: Final = 6
_AUTHORIZE_NONCE: Final = 7
_ALLOCATE_WITH_SEED: Final = 9
_CREATE_IDEMPOTENT: Final = 1
_SET_COMPUTE_UNIT_LIMIT: Final = 2
_SET_COMPUTE_UNIT_PRICE: Final = 3
_RENT: Final = Pubkey.from_string("SysvarRent111111111111111111111111111111111")


def create_associated_account(payer: Pubkey, owner: Pubkey, mint: Pubkey) -> Instruction:
    """Make the associated account of an owner unless it is there already. The payer signs and pays its rent (179 bytes)."""
    accounts = [
        AccountMeta(payer, is_signer=True, is_writable=True),
        AccountMeta(associated_account(owner, mint), is_signer=False, is_writable=True),
        AccountMeta(owner, is_signer=False, is_writable=False),
        AccountMeta(mint, is_signer=False, is_writable=False),
        AccountMeta(SYSTEM_PROGRAM, is_signer=False, is_writable=False),
        AccountMeta(TOKEN_2022_PROGRAM, is_signer=False, is_writable=False),
    ]
    return Instruction(ASSOCIATED_TOKEN_PROGRAM, bytes([_CREATE_IDEMPOTENT]), accounts)


def memo(text: str) -> Instruction:
    """Write a text into the transaction, where explorers and `getSignaturesForAddress` show it."""
    return Instruction(MEMO_PROGRAM, text.encode(), [])


def set_compute_unit_limit(compute_units: int) -> Instruction:
    """Bound what the transaction may use; the priority fee is paid for the bound, not for the use."""
    assert 0 < compute_units <= COMPUTE_UNITS_MAX, f"{compute_units} compute units"
    return Instruction(COMPUTE_BUDGET_PROGRAM, struct.pack("<BI", _SET_COMPUTE_UNIT_LIMIT, compute_units), [])


def set_compute_unit_price(microlamports: int) -> Instruction:
    """Offer a priority fee: millionths of a lamport for each compute unit of the limit."""
    assert microlamports >= 0, f"{microlamports} microlamports"
    return Instruction(COMPUTE_BUDGET_PROGRAM, struct.pack("<BQ", _SET_COMPUTE_UNIT_PRICE, microlamports), [])


def create_account(payer: Pubkey, account: Pubkey, lamports: int, space: int, owner: Pubkey) -> Instruction:
    """Make an account of `space` bytes that the program `owner` governs. Payer and account sign."""
    accounts = [AccountMeta(payer, is_signer=True, is_writable=True), AccountMeta(account, is_signer=True, is_writable=True)]
    return Instruction(SYSTEM_PROGRAM, struct.pack("<IQQ", _CREATE_ACCOUNT, lamports, space) + bytes(owner), accounts)


def derived_nonce_account(authority: Pubkey, number: int) -> Pubkey:
    """Return the address of an authority's nonce account of this number: nothing but the authority's key is needed to find it again."""
    return Pubkey.create_with_seed(authority, f"{NONCE_SEED}{number}", SYSTEM_PROGRAM)


def create_derived_nonce_account(authority: Pubkey, number: int, lamports: int) -> list[Instruction]:
    """Make a nonce account at its derived address. Only the authority signs, and pays."""
    account, seed = derived_nonce_account(authority, number), f"{NONCE_SEED}{number}"
    made = create_derived_account(authority, account, lamports, seed=seed, space=NONCE_ACCOUNT_BYTES, owner=SYSTEM_PROGRAM)
    return [*made, _initialize_nonce(account, authority)]


def create_derived_account(payer: Pubkey, account: Pubkey, lamports: int, *, seed: str, space: int, owner: Pubkey) -> list[Instruction]:
    """Make the account that is derived from the payer's key, a seed and the program that governs it. Only the payer signs.

    It is paid for and then taken: to create it in one step fails where there are lamports already, and anybody who knows the address,
    which is no secret, can send some there.
    """
    pays, takes = AccountMeta(payer, is_signer=True, is_writable=True), AccountMeta(account, is_signer=False, is_writable=True)
    paid = Instruction(SYSTEM_PROGRAM, struct.pack("<IQ", _TRANSFER, lamports), [pays, takes])
    text = seed.encode()
    data = struct.pack("<I", _ALLOCATE_WITH_SEED) + bytes(payer) + struct.pack("<Q", len(text)) + text + struct.pack("<Q", space)
    base = AccountMeta(payer, is_signer=True, is_writable=False)
    return [paid, Instruction(SYSTEM_PROGRAM, data + bytes(owner), [takes, base])]


def create_nonce_account(payer: Pubkey, nonce_account: Pubkey, authority: Pubkey, lamports: int) -> list[Instruction]:
    """Make a durable nonce account: a transaction that names its value stays good until the value is advanced. Payer and account sign."""
    return [
        create_account(payer, nonce_account, lamports, NONCE_ACCOUNT_BYTES, SYSTEM_PROGRAM),
        _initialize_nonce(nonce_account, authority),
    ]


def _initialize_nonce(nonce_account: Pubkey, authority: Pubkey) -> Instruction:
    accounts = [
        AccountMeta(nonce_account, is_signer=False, is_writable=True),
        AccountMeta(RECENT_BLOCKHASHES, is_signer=False, is_writable=False),
        AccountMeta(_RENT, is_signer=False, is_writable=False),
    ]
    return Instruction(SYSTEM_PROGRAM, struct.pack("<I", _INITIALIZE_NONCE) + bytes(authority), accounts)


def advance_nonce(nonce_account: Pubkey, authority: Pubkey) -> Instruction:
    """Use up the value of a nonce account. As the first instruction it makes a transaction durable. The authority signs."""
    accounts = [
        AccountMeta(nonce_account, is_signer=False, is_writable=True),
        AccountMeta(RECENT_BLOCKHASHES, is_signer=False, is_writable=False),
        AccountMeta(authority, is_signer=True, is_writable=False),
    ]
    return Instruction(SYSTEM_PROGRAM, struct.pack("<I", ADVANCE_NONCE), accounts)


def withdraw_nonce(nonce_account: Pubkey, lamports_to: Pubkey, authority: Pubkey, lamports: int) -> Instruction:
    """Take lamports out of a nonce account; taking all of them closes it, if its value is not of this very block. The authority signs."""
    accounts = [
        AccountMeta(nonce_account, is_signer=False, is_writable=True),
        AccountMeta(lamports_to, is_signer=False, is_writable=True),
        AccountMeta(RECENT_BLOCKHASHES, is_signer=False, is_writable=False),
        AccountMeta(_RENT, is_signer=False, is_writable=False),
        AccountMeta(authority, is_signer=True, is_writable=False),
    ]
    return Instruction(SYSTEM_PROGRAM, struct.pack("<IQ", WITHDRAW_NONCE, lamports), accounts)


def authorize_nonce(nonce_account: Pubkey, authority: Pubkey, successor: Pubkey) -> Instruction:
    """Hand a nonce account over. The authority so far signs."""
    accounts = [
        AccountMeta(nonce_account, is_signer=False, is_writable=True),
        AccountMeta(authority, is_signer=True, is_writable=False),
    ]
    return Instruction(SYSTEM_PROGRAM, struct.pack("<I", _AUTHORIZE_NONCE) + bytes(successor), accounts)
