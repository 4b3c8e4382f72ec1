"""Accounts at chains in their one canonical spelling: CAIP-10, and what an address must look like where that is known."""

from __future__ import annotations

import re
from typing import Final

from ledger.caip import parse_account
from ledger.errors import refusal
from ledger.wallet_signatures import EVM_SIGNATURE_BYTES, SOLANA_SIGNATURE_BYTES, evm_address, solana_public_key
from stockledger.v1.errors_pb2 import Reason

CHAIN_ID_MAX: Final = (1 << 63) - 37
"""Half of 2^64 - 1, less 36 (EIP-2294): what fits everywhere."""

_EVM: Final = re.compile(r"eip155:([1-9][0-9]{0,18}):0x([0-9A-Fa-f]{40})")
_SOLANA: Final = re.compile(r"solana:[1-9A-HJ-NP-Za-km-z]{32}:([1-9A-HJ-NP-Za-km-z]{32,44})")
_KNOWN: Final = frozenset({"eip155", "solana"})


def _malformed(field: str, account: str, cause: str) -> Exception:
    return refusal(Reason.REASON_FIELD_MALFORMED, f"{field} {account!r} {cause}", field=field, value=account)


def check_wallet(account: str, field: str = "account") -> int:
    """Refuse a wallet's name that is not CAIP-10 in its one canonical spelling; return how many bytes its signature has.

    One wallet must have one name, or it could be bound twice: hence the EIP-55 checksum, and base58 of exactly 32 bytes.

    Of other namespaces only what all have in common is checked; their wallets sign with the Ed25519 key that their address is, in hex.

    Source: CAIP-10 with the namespaces eip155 and solana.
    """
    namespace = account.partition(":")[0]
    if namespace not in _KNOWN:
        parse_account(field, account)
        return SOLANA_SIGNATURE_BYTES
    evm = _EVM.fullmatch(account)
    if evm is not None:
        chain_id, digits = evm.groups()
        if int(chain_id) > CHAIN_ID_MAX:
            raise _malformed(field, account, f"has a chain id above {CHAIN_ID_MAX}")
        expected = evm_address(bytes.fromhex(digits))
        if "0x" + digits != expected:
            raise _malformed(field, account, f"does not have its EIP-55 checksum, it should end in {expected}")
        return EVM_SIGNATURE_BYTES
    solana = _SOLANA.fullmatch(account)
    if solana is None:
        raise _malformed(field, account, "is not of the form eip155:<chain id>:0x<40 digits> or solana:<genesis hash>:<public key>")
    if solana_public_key(solana[1]) is None:
        raise _malformed(field, account, "does not end in the base58 of 32 bytes")
    return SOLANA_SIGNATURE_BYTES


def check_address(field: str, text: str, chain: str = "") -> str:
    """Return an account at a chain in its canonical spelling, at this chain if one is given.

    Raises: InvalidRequest FIELD_MISSING, FIELD_MALFORMED.
    """
    found = parse_account(field, text)
    if chain and found.chain != chain:
        raise refusal(Reason.REASON_FIELD_MALFORMED, f"{field} {text!r} is not at {chain}", field=field, value=text)
    check_wallet(text, field)
    return text
