"""EvmRig: a real EVM node with everything that the conformance kit asks of a chain."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
import time
from collections.abc import Collection, Mapping
from typing import Any, Final, Self

from eth_account import Account
from eth_account.messages import encode_defunct
from evm_market import ROLES, Market
from evm_node import CHAIN_ID, NodeRefused, evm_node
from evm_world import secret_of

from chain_adapters.evm import roles
from chain_adapters.evm.adapter import EvmAdapter, connect
from chain_adapters.evm.codec import encode_call
from chain_adapters.evm.deployment import plan_anchor, plan_reserve_feed, plan_token
from chain_adapters.evm.keys import LocalSigner
from chain_adapters.evm.steps import PAUSES
from chain_adapters.protocol import ChainSettings
from chain_adapters.rig import EVERY_CAPABILITY, Controls, WorkedRig
from stockledger.v1.chains_pb2 import ChainCapability, ChainKey, ChainKeyRole, Deployment, DeploymentKind

GWEI: Final = 10**9
COINS: Final = 10**21
FORK_SHARE: Final = 0.05
"""How often a tick takes the newest block out of the chain, with what is in it."""
MADE_SECONDS: Final = 0.05
"""By then a block that the node had begun is made."""
SIGNING: Final = {
    "MINTER": "minter",
    "BURNER": "forced_burner",
    "ENFORCER": "enforcer",
    "PAUSER": "pauser",
    "MULTIPLIER": "multiplier",
    "ALLOTTER": "allotter",
    "REPORTER": "publisher",
}
"""Who signs for each role of the ledger; who pauses ends pauses too."""


class EvmRig(WorkedRig):
    """One node, where a block is final when two stand on it."""

    def __init__(self) -> None:
        self.chain = f"eip155:{CHAIN_ID}"
        self.capabilities = EVERY_CAPABILITY
        self._stack = contextlib.ExitStack()
        self._seeds = itertools.count(1)
        self._wallets: dict[str, bytes] = {}
        self._options: dict[str, str] = {}

    def __enter__(self) -> Self:
        self.node = self._stack.enter_context(evm_node("--slots-in-an-epoch", "1"))
        self.node_url = self.node.url
        self.market = Market(self.node)
        self._secrets = {role: secret_of(list(self.market.addresses).index(name)) for role, name in SIGNING.items()}
        self.signers = {role: LocalSigner(self.chain, secret) for role, secret in self._secrets.items()}
        alice = self.market["alice"]
        self.bad_accounts = (f"{self.chain}:0x{alice[2:].swapcase()}", f"{self.chain}:0x12", f"eip155:1:{alice}", "book:alice")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def connect(self, url: str | None = None, *, ledger: str = "kit") -> EvmAdapter:
        signers = {signer.account: signer for signer in self.signers.values()}
        signers |= {account: LocalSigner(self.chain, secret) for account, secret in self._wallets.items()}
        return connect(ChainSettings(self.chain, (url or self.node_url,), signers, ledger=ledger, options=self._options))

    def registered_keys(self) -> list[ChainKey]:
        return [
            ChainKey(key=signer.account, roles=[ChainKeyRole.Value(f"CHAIN_KEY_ROLE_{role}")], consumed_count=self._count(signer.account))
            for role, signer in self.signers.items()
        ]

    # Tokens and wallets

    def make_token(self, instrument: str, decimals: int, capabilities: Collection[Any]) -> Deployment:
        address = self._deploy(instrument, decimals, allotment=0)
        feed = self.market.run_steps(plan_reserve_feed(self.market.plan, instrument, 8, self.market["publisher"])).address
        anchor = self.market.run_steps(plan_anchor(self.market.plan, "kit.example/log", self.market["publisher"])).address
        self._options = {"anchor": anchor, f"reserve_feed:{instrument}": feed}
        self._feed, self._anchor = feed, anchor
        self.finalise()
        return Deployment(
            chain=self.chain,
            instrument=instrument,
            token=f"{self.chain}/erc20:{address}",
            decimals=decimals,
            kind=DeploymentKind.DEPLOYMENT_KIND_NATIVE,
            capabilities=sorted(capabilities),
        )

    def make_foreign_token(self, instrument: str, decimals: int) -> Deployment:
        """Deploy a token of which the ledger is told nothing but that it holds some."""
        return Deployment(
            chain=self.chain,
            instrument=instrument,
            token=f"{self.chain}/erc20:{self._deploy(instrument, decimals, allotment=10**40)}",
            decimals=decimals,
            kind=DeploymentKind.DEPLOYMENT_KIND_OMNIBUS,
            capabilities=[ChainCapability.CHAIN_CAPABILITY_SEND],
        )

    def _deploy(self, symbol: str, decimals: int, *, allotment: int) -> str:
        grants = (*((role, self.market[name]) for name, role in ROLES.items()), (roles.UNPAUSER, self.market["pauser"]))
        terms = self.market.terms(f"{symbol}-{next(self._seeds)}", multiplier=10**18, allotment_units=allotment, grants=grants)
        return self.market.run_steps(plan_token(self.market.plan, dataclasses.replace(terms, decimals=decimals))).address

    def make_wallet(self) -> str:
        secret = next(self._seeds).to_bytes(32)
        account = LocalSigner(self.chain, secret).account
        self._wallets[account] = secret
        self.node.call("anvil_setBalance", _address(account), hex(COINS))
        return account

    def sign_binding(self, wallet: str, text: str) -> bytes:
        return bytes(Account.sign_message(encode_defunct(text=text), self._wallets[wallet]).signature)

    # What others do

    def transfer(self, token: str, source: str, destination: str, raw: int) -> None:
        self._act(source, token, encode_call("StockToken", "transfer(address,uint256)", _address(destination), raw))

    def burn(self, token: str, source: str, raw: int) -> bool:
        self._act(self._at("bridge"), token, encode_call("StockToken", "crosschainBurn(address,uint256)", _address(source), raw))
        return True

    def mint_behind(self, token: str, destination: str, raw: int) -> None:
        self._act(self._at("bridge"), token, encode_call("StockToken", "crosschainMint(address,uint256)", _address(destination), raw))

    def set_multiplier(self, token: str, multiplier: int, effective_time_us: int) -> bool:
        """Let the issuer's administrator give a thief the role for one transaction; both changes are seen too."""
        thief, seconds = self.make_wallet(), effective_time_us // 1_000_000
        expected = self._ask(token, "newUIMultiplier()")
        schedule = "scheduleMultiplier(bytes32,uint256,uint256,uint64,bytes)"
        for sender, signature, arguments in (
            (self._at("admin"), "grantRole(bytes32,address)", (roles.MULTIPLIER, _address(thief))),
            (thief, schedule, (self.market.id(), expected, multiplier, seconds, b"stolen")),
            (self._at("admin"), "revokeRole(bytes32,address)", (roles.MULTIPLIER, _address(thief))),
        ):
            self._act(sender, token, encode_call("StockToken", signature, *arguments))
        return True

    def bar(self, token: str, account: str) -> bool:  # noqa: ARG002 - the list is of all tokens
        self.market.deny(_address(account))
        return True

    def use_up_sequence(self, key: str) -> bool:
        self.market.send(_address(key), _address(key), b"")
        return True

    def _act(self, sender: str, token: str, data: bytes) -> None:
        address = _address(sender)
        self.node.call("anvil_impersonateAccount", address)
        self.market.send(address, _address(token), data)
        self.node.call("anvil_stopImpersonatingAccount", address)

    # Time and forks

    def finalise(self) -> None:
        self.node.call("anvil_mine", "0x3")

    def pass_time(self, until_us: int) -> bool:
        seconds = until_us // 1_000_000
        if self.node.time() < seconds:
            self.node.mine_at(seconds)
        return True

    def reorganise(self) -> bool:
        self._reorganise(1)
        return True

    def reorganise_final(self) -> bool:
        self._reorganise(5)
        return True

    def _reorganise(self, depth: int) -> None:
        """Put other blocks in the place of the newest; meanwhile none is made for a transaction.

        The node does not keep the two apart: blocks that it made at the same time were missing afterwards, and logs stood there twice.
        """
        self.node.call("evm_setAutomine", False)
        time.sleep(MADE_SECONDS)
        try:
            self.node.call("anvil_reorg", depth, [])
        finally:
            self.node.call("evm_setAutomine", True)

    def raise_fees(self) -> bool:
        self.node.call("anvil_setNextBlockBaseFeePerGas", hex(100 * GWEI))
        self.node.call("anvil_mine", "0x1")
        return True

    # What a worker of its own process is given

    def key_texts(self) -> Collection[str]:
        return [secret.hex() for secret in self._secrets.values()]

    def options(self) -> Mapping[str, str]:
        return self._options

    def tick(self, chance: random.Random) -> None:
        if chance.random() < FORK_SHARE:
            self.reorganise()
        else:
            self.node.call("anvil_mine", "0x1")

    # A look of its own

    def supply(self, token: str) -> int:
        return int(self._ask(token, "totalSupply()"))

    def holding(self, token: str, account: str) -> int:
        return int(self._ask(token, "balanceOf(address)", _address(account)))

    def controls(self, token: str, accounts: Collection[str] = ()) -> Controls:
        frozen = {account: self._ask(token, "freezeOf(address)", _address(account)) for account in accounts}
        paused = self._ask(token, "pauses()")
        try:
            reserve = self.market.read("ReserveFeed", self._feed, "latestRoundData()")[1]
        except NodeRefused:
            reserve = 0
        return Controls(
            frozen=frozenset(account for account, (whole, _) in frozen.items() if whole),
            frozen_raw=next(iter(frozen.values()))[1] if frozen else 0,
            paused=frozenset(operation for operation, bit in PAUSES.items() if bit & paused),
            multiplier=self._ask(token, "uiMultiplier()"),
            multiplier_next=self._ask(token, "newUIMultiplier()"),
            allotment=self._ask(token, "allotment()"),
            reserve_shares_e8=reserve,
            anchors=self.market.read("CheckpointAnchor", self._anchor, "count()"),
        )

    def _ask(self, token: str, signature: str, *arguments: Any) -> Any:
        return self.market.read("StockToken", _address(token), signature, *arguments)

    def _at(self, name: str) -> str:
        return f"{self.chain}:{self.market[name]}"

    def _count(self, account: str) -> int:
        return int(self.node.call("eth_getTransactionCount", _address(account), "latest"), 16)


def _address(account: str) -> str:
    return account.rpartition(":")[2]
