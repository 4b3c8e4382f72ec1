"""What stories of chains share: two chains, their tokens, keys and wallets, at chains of which nothing particular is known."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from nacl.signing import SigningKey

from ledger.rules.wallets import wallet_text
from stockledger.v1.accounts_pb2 import BindWalletRequest
from stockledger.v1.chains_pb2 import (
    AmendChainRequest,
    AmendDeploymentRequest,
    ChainCapability,
    ChainKeyRole,
    ChainPosition,
    DeploymentKind,
    DepositAddress,
    FinalityRule,
    RegisterChainRequest,
    RegisterDeploymentRequest,
    RegisterDepositAddressesRequest,
    SetChainKeyRequest,
)

A, B = "memory:a", "memory:b"
CURSOR = ChainPosition(number=100, hash="0x88e9", time=Timestamp(seconds=1_795_370_000))
NATIVE, OMNIBUS = DeploymentKind.DEPLOYMENT_KIND_NATIVE, DeploymentKind.DEPLOYMENT_KIND_OMNIBUS
EVERYTHING = [
    capability
    for capability in ChainCapability.values()[1:]
    if capability not in {ChainCapability.CHAIN_CAPABILITY_SEND, ChainCapability.CHAIN_CAPABILITY_RESERVE_FEED}
]
"""All that a native token can do, but for the feed, which would be told of every change of the reserve."""


def key_of(name: str) -> SigningKey:
    return SigningKey(name.encode().ljust(32, b"."))


def wallet(name: str, chain: str = A) -> str:
    """Return the account of somebody's wallet. Example: `wallet("alice")`."""
    return f"{chain}:{bytes(key_of(name).verify_key).hex()}"


def bound(name: str, holder: str, chain: str = A, ledger_id: str = "test") -> BindWalletRequest:
    """Bind somebody's wallet to a holder by its own signature."""
    account = wallet(name, chain)
    signature = key_of(name).sign(wallet_text(ledger_id, account, holder).encode()).signature
    return BindWalletRequest(account=account, holder=holder, signature=signature)


def register(chain: str = A, **changes: Any) -> RegisterChainRequest:
    given: dict[str, Any] = {"chain": chain, "name": "Chain", "finality_rule": FinalityRule.FINALITY_RULE_CHAIN, "cursor": CURSOR}
    return RegisterChainRequest(**(given | changes))


def retire(chain: str = A) -> AmendChainRequest:
    return AmendChainRequest(chain=chain, retired=True)


def deploy(instrument: str = "AAPLx", chain: str = A, **changes: Any) -> RegisterDeploymentRequest:
    fields: dict[str, Any] = {
        "chain": chain,
        "instrument": instrument,
        "token": f"{chain}/token:{instrument}",
        "decimals": 8,
        "kind": NATIVE,
        "capabilities": EVERYTHING,
        "allotment_units": 1_000,
    }
    return RegisterDeploymentRequest(**(fields | changes))


def omnibus(instrument: str = "OMNIx", chain: str = A, **changes: Any) -> RegisterDeploymentRequest:
    fields: dict[str, Any] = {
        "kind": OMNIBUS,
        "decimals": 18,
        "allotment_units": 0,
        "wallets": [wallet("hot", chain)],
        "capabilities": [ChainCapability.CHAIN_CAPABILITY_SEND],
    }
    return deploy(instrument, chain, **(fields | changes))


def change(instrument: str = "AAPLx", chain: str = A, **changes: Any) -> AmendDeploymentRequest:
    return AmendDeploymentRequest(chain=chain, instrument=instrument, **changes)


def set_key(key: str = f"{A}:key", **changes: Any) -> SetChainKeyRequest:
    return SetChainKeyRequest(**({"key": key, "roles": ChainKeyRole.values()[1:]} | changes))


def addresses(*pairs: tuple[str, str]) -> RegisterDepositAddressesRequest:
    rows = [DepositAddress(deposit_address=address, account=account) for address, account in pairs]
    return RegisterDepositAddressesRequest(deposit_addresses=rows)


def one_chain() -> tuple[Any, ...]:
    """Chain A with AAPLx on it, a key for everything, and wallets of alice and bob there. After `two_holders()`."""
    return (register(), deploy(), set_key(), bound("alice", "h-1"), bound("bob", "h-2"))
