"""Names of the ledger for what stands on one chain: accounts (CAIP-10) and mints (CAIP-19), to addresses and back."""

from __future__ import annotations

from typing import Final

from solders.pubkey import Pubkey

from chain_adapters.protocol import DeploymentUnfit
from ledger import caip

ASSET_NAMESPACE: Final = "token"


def account_of(chain: str, address: Pubkey) -> str:
    """Return the account that stands at an address."""
    return f"{chain}:{address}"


def owner_of(account: str) -> Pubkey:
    """Return the address of an account that the ledger has checked."""
    return Pubkey.from_string(caip.parse_account("account", account).address)


def mint_of(chain: str, token: str) -> Pubkey:
    """Return the mint of a token.

    Raises: DeploymentUnfit for what is no token of this chain.
    """
    found = caip.parse_token("token", token)
    if (found.chain, found.namespace) != (chain, ASSET_NAMESPACE):
        raise DeploymentUnfit(chain, f"{token} is no token here: it must begin with {chain}/{ASSET_NAMESPACE}:")
    try:
        return Pubkey.from_string(found.reference)
    except ValueError:
        raise DeploymentUnfit(chain, f"{token} does not end in the base58 of 32 bytes") from None
