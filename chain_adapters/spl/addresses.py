"""Addresses of programs and accounts, and their names in CAIP-2 and CAIP-10."""

from __future__ import annotations

from typing import Final

from solders.pubkey import Pubkey

from chain_adapters.spl.errors import AddressMalformed

TOKEN_2022_PROGRAM: Final = Pubkey.from_string("TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb")
ASSOCIATED_TOKEN_PROGRAM: Final = Pubkey.from_string("ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL")
MEMO_PROGRAM: Final = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
COMPUTE_BUDGET_PROGRAM: Final = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
SYSTEM_PROGRAM: Final = Pubkey.from_string("11111111111111111111111111111111")
RECENT_BLOCKHASHES: Final = Pubkey.from_string("SysvarRecentB1ockHashes11111111111111111111")

CHAIN_REFERENCE_CHARACTERS: Final = 32
_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS: Final = {character: digit for digit, character in enumerate(_ALPHABET)}


def decode_base58(text: str) -> bytes:
    """Return the bytes of a base58 text of any length, as JSON-RPC writes instruction data.

    Example: `decode_base58("3Bxs4h24hBtQy9rw")` is 12 bytes, the data of a transfer of lamports.

    Raises: AddressMalformed for a character outside the alphabet.
    """
    number = 0
    for character in text:
        digit = _DIGITS.get(character)
        if digit is None:
            raise AddressMalformed(f"{character!r} is no character of base58")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8)


def parse_address(text: str) -> Pubkey:
    """Return the address that a base58 text names: 32 bytes, a wallet's key or a program's own account.

    Raises: AddressMalformed.
    """
    try:
        address = Pubkey.from_string(text)
    except ValueError as wrong:
        raise AddressMalformed(f"{text!r} is no Solana address: it must be 32 bytes in base58 ({wrong})") from None
    assert str(address) == text, "base58 of 32 bytes has one form"
    return address


def chain_id(genesis_hash: str) -> str:
    """Return the CAIP-2 name of the chain that began with this block.

    Example: `chain_id("5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d")` is mainnet, "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp".

    Source: CAIP-2, namespace solana: the first 32 characters of the genesis hash.
    """
    return f"solana:{genesis_hash[:CHAIN_REFERENCE_CHARACTERS]}"


def parse_account(account: str, chain: str) -> Pubkey:
    """Return the address of a CAIP-10 account on `chain`.

    Raises: AddressMalformed, also for an account of another chain.
    """
    namespace, _, rest = account.partition(":")
    reference, _, address = rest.partition(":")
    if f"{namespace}:{reference}" != chain:
        raise AddressMalformed(f"account {account!r} does not stand on {chain}")
    return parse_address(address)


def associated_account(owner: Pubkey, mint: Pubkey) -> Pubkey:
    """Return the address at which `owner` holds units of `mint`: derived from both, so that anybody can pay for making it."""
    return associated_account_and_bump(owner, mint)[0]


def associated_account_and_bump(owner: Pubkey, mint: Pubkey) -> tuple[Pubkey, int]:
    """Return the associated account and how the search for it ended.

    The program searches from 255 down on chain as well and pays for each try, so that making the account costs more the lower it ends.
    """
    seeds = [bytes(owner), bytes(TOKEN_2022_PROGRAM), bytes(mint)]
    return Pubkey.find_program_address(seeds, ASSOCIATED_TOKEN_PROGRAM)
