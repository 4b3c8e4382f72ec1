"""Permits (EIP-2612) signed by the test node's own wallet, over EIP-712 data that these tests write themselves."""

from __future__ import annotations

from typing import Any, NamedTuple

from evm_market import Market
from evm_node import CHAIN_ID

from chain_adapters.evm.codec import encode_call

PERMIT = "permit(address,address,uint256,uint256,uint8,bytes32,bytes32)"
FIELDS = [("owner", "address"), ("spender", "address"), ("value", "uint256"), ("nonce", "uint256"), ("deadline", "uint256")]
DOMAIN = [("name", "string"), ("version", "string"), ("chainId", "uint256"), ("verifyingContract", "address")]


class Permit(NamedTuple):
    arguments: tuple[Any, ...]

    @property
    def call(self) -> bytes:
        return encode_call("StockToken", PERMIT, *self.arguments)


def sign_permit(market: Market, owner: str, spender: str, units: int, *, signer: str | None = None, **changes: Any) -> Permit:
    """Sign a permit of the owner; `changes` go to the signed data or, as chain_id and contract, to its domain."""
    message = {
        "owner": market[owner],
        "spender": market[spender],
        "value": units,
        "nonce": changes.get("nonce", market.ask("nonces(address)", owner)),
        "deadline": changes.get("deadline", market.node.time() + 3600),
    }
    domain = {
        "name": "Apple Inc. tokenised",
        "version": "1",
        "chainId": changes.get("chain_id", CHAIN_ID),
        "verifyingContract": changes.get("contract", market.token),
    }
    typed = {
        "types": {"EIP712Domain": _fields(DOMAIN), "Permit": _fields(FIELDS)},
        "primaryType": "Permit",
        "domain": domain,
        "message": {name: str(value) if isinstance(value, int) else value for name, value in message.items()},
    }
    signature = bytes.fromhex(market.node.call("eth_signTypedData_v4", market[signer or owner], typed)[2:])
    shown = changes.get("shown_units", units)
    return Permit((market[owner], market[spender], shown, message["deadline"], signature[64], signature[:32], signature[32:64]))


def _fields(fields: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": name, "type": kind} for name, kind in fields]
