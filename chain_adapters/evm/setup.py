"""Sets an EVM chain up: the deny list, tokens with their roles, reserve feeds and an anchor, at addresses that follow from the keys.

Parties that terms name: `deployer` sends and pays, and has no right to anything afterwards; `admin` grants roles; `upgrader` owns the
code of the tokens; `deny_list` lists accounts; the others sign for the ledger, each for the role of its name. Beside the adapter's own
options there is `admin_delay_seconds` (86400): how long `admin` waits before it changes hands.

All that is missing is sent at once: addresses are known before, so nothing has to wait for what it builds on. Sent again after a crash it
has the same numbers and the same content, so that a node that knows it already only says so.

Source: EIP-1014 (CREATE2), EIP-7825 (the most gas of a transaction).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from chain_adapters.evm import roles
from chain_adapters.evm.adapter import ASSET_NAMESPACE, EvmAdapter
from chain_adapters.evm.artifacts import load
from chain_adapters.evm.chain_view import ChainView
from chain_adapters.evm.codec import NotDecodable
from chain_adapters.evm.deployment import (
    COMMON_CREATOR,
    Issuer,
    IssuerPlan,
    Step,
    TokenTerms,
    missing_steps,
    plan_anchor,
    plan_issuer,
    plan_reserve_feed,
    plan_token,
)
from chain_adapters.evm.node import NodeAway, NodeError, NodeRefused, read_number
from chain_adapters.evm.steps import ANCHOR, FEED, SHARES_DECIMALS, address_of
from chain_adapters.evm.token_calls import TOKEN
from chain_adapters.evm.transactions import UnsignedTransaction, assemble, transaction_hash
from chain_adapters.protocol import (
    ChainSettings,
    ChainUnavailable,
    DeploymentUnfit,
    FundsInsufficient,
    KeyMissing,
    NodeUnfit,
)
from chain_adapters.setting_up import LANDING_SECONDS_MAX, Coin, Part, Terms
from stockledger.v1.chains_pb2 import ChainKey, ChainKeyRole, ChainPosition, Deployment, DeploymentKind

PARTIES: Final[Mapping[str, tuple[ChainKeyRole.ValueType, ...]]] = {
    "deployer": (),
    "admin": (),
    "upgrader": (),
    "deny_list": (),
    "minter": (ChainKeyRole.CHAIN_KEY_ROLE_MINTER,),
    "burner": (ChainKeyRole.CHAIN_KEY_ROLE_BURNER,),
    "enforcer": (ChainKeyRole.CHAIN_KEY_ROLE_ENFORCER,),
    "pauser": (ChainKeyRole.CHAIN_KEY_ROLE_PAUSER,),
    "multiplier": (ChainKeyRole.CHAIN_KEY_ROLE_MULTIPLIER,),
    "allotter": (ChainKeyRole.CHAIN_KEY_ROLE_ALLOTTER,),
    "reporter": (ChainKeyRole.CHAIN_KEY_ROLE_REPORTER,),
}
ROLES_ON_TOKEN: Final[Mapping[ChainKeyRole.ValueType, tuple[bytes, ...]]] = {
    ChainKeyRole.CHAIN_KEY_ROLE_MINTER: (roles.MINTER,),
    ChainKeyRole.CHAIN_KEY_ROLE_BURNER: (roles.FORCED_BURNER,),
    ChainKeyRole.CHAIN_KEY_ROLE_ENFORCER: (roles.ENFORCER,),
    ChainKeyRole.CHAIN_KEY_ROLE_PAUSER: (roles.PAUSER, roles.UNPAUSER),
    ChainKeyRole.CHAIN_KEY_ROLE_MULTIPLIER: (roles.MULTIPLIER,),
    ChainKeyRole.CHAIN_KEY_ROLE_ALLOTTER: (roles.ALLOTTER,),
}
"""What each role of the ledger needs on a token; who pauses ends pauses too."""
ADMIN_DELAY_SECONDS: Final = 86_400
GAS_OF_CODE_BYTE: Final = 200
GAS_OF_DATA_BYTE: Final = 16
GAS_OF_THE_REST: Final = 1_100_000
"""What constructors and setups store, and the transaction itself; measured: 800,000 for a token with ten grants."""
_HARMLESS: Final = ("known", "already imported", "nonce too low", "underpriced")
_POLL_SECONDS: Final = 0.25


class EvmSetup:
    """One EVM chain."""

    coin = Coin("ETH", 18)

    def __init__(self, settings: ChainSettings) -> None:
        self._adapter = EvmAdapter(settings)
        self._settings = settings
        self.chain = settings.chain
        self._delay = settings.whole_number("admin_delay_seconds", ADMIN_DELAY_SECONDS)

    def close(self) -> None:
        self._adapter.close()

    def needed(self, terms: Terms) -> Mapping[str, tuple[ChainKeyRole.ValueType, ...]]:
        return PARTIES if terms.tokens or terms.origin else {}

    def plan(self, terms: Terms) -> list[Part]:
        with self._asking() as view:
            missing = self._missing(view, terms)
            fee = self._adapter.fees(view).most
        return [self._part(name, step, missing, fee) for name, step in self._steps(terms)]

    def make(self, terms: Terms) -> Iterator[Part]:
        steps = self._steps(terms)
        with self._asking() as view:
            missing = self._missing(view, terms)
            sent = self._send(view, missing, address_of(terms.parties["deployer"])) if missing else {}
        for name, step in steps:
            if step in missing:
                yield self._landed(name, step, sent[step.address])

    def is_final(self, terms: Terms) -> bool:
        final = self._adapter.finalised().number
        with self._asking() as view:
            return not missing_steps([step for _, step in self._steps(terms)], lambda address: view.code(address, final))

    def options(self, terms: Terms) -> Mapping[str, str]:
        if not self.needed(terms):
            return {}
        found = {
            f"reserve_feed:{token.instrument}": self._feed(terms, token.instrument).address for token in terms.tokens if token.reserve_feed
        }
        return found | ({"anchor": self._anchor(terms).address} if terms.origin else {})

    def tokens(self, terms: Terms) -> list[Deployment]:
        return [
            Deployment(
                chain=self.chain,
                instrument=token.instrument,
                token=f"{self.chain}/{ASSET_NAMESPACE}:{self._token(terms, number).address}",
                decimals=token.decimals,
                kind=DeploymentKind.DEPLOYMENT_KIND_NATIVE,
            )
            for number, token in enumerate(terms.tokens)
        ]

    def count(self, key: str, at: ChainPosition) -> int:
        with self._asking() as view:
            return view.count(address_of(key), at.number)

    def coins(self, key: str) -> int:
        with self._asking() as view:
            return view.node.number("eth_getBalance", address_of(key), "latest")

    def faults(self, deployments: Sequence[Deployment], keys: Sequence[ChainKey]) -> list[str]:
        found = [f"{key.key} has no coin to pay fees with" for key in keys if not self.coins(key.key)]
        with self._asking() as view:
            for deployment in deployments:
                if deployment.kind == DeploymentKind.DEPLOYMENT_KIND_NATIVE:
                    found += [fault for key in keys for fault in self._lacking(view, deployment, key)]
            for contract, address in self._publishing():
                for key in keys:
                    if ChainKeyRole.CHAIN_KEY_ROLE_REPORTER in key.roles and not _has_role(view, contract, address, roles.PUBLISHER, key):
                        found.append(f"{key.key} lacks PUBLISHER on the {contract} {address}")
        return found

    # What stands where

    def _issuer(self, terms: Terms) -> IssuerPlan:
        at = {name: address_of(account) for name, account in terms.parties.items()}
        return plan_issuer(Issuer(at["deployer"], at["admin"], at["deny_list"], at["upgrader"], self._delay))

    def _steps(self, terms: Terms) -> list[tuple[str, Step]]:
        if not self.needed(terms):
            return []
        named = [(step.contract, step) for step in self._issuer(terms).steps]
        for number, token in enumerate(terms.tokens):
            named.append((f"{TOKEN} of {token.instrument}", self._token(terms, number)))
            if token.reserve_feed:
                named.append((f"{FEED} of {token.instrument}", self._feed(terms, token.instrument)))
        return [*named, (ANCHOR, self._anchor(terms))] if terms.origin else named

    def _token(self, terms: Terms, number: int) -> Step:
        """Plan a token. Its first allotment is nothing: the ledger sets one when the token is registered."""
        token = terms.tokens[number]
        grants = tuple(
            (role, address_of(terms.parties[party]))
            for party, has in PARTIES.items()
            for each in has
            for role in ROLES_ON_TOKEN.get(each, ())
        )
        wanted = TokenTerms(token.name, token.instrument, token.decimals, token.multiplier, 0, grants)
        return plan_token(self._issuer(terms), wanted)

    def _feed(self, terms: Terms, instrument: str) -> Step:
        publisher = address_of(terms.parties["reporter"])
        return plan_reserve_feed(self._issuer(terms), f"{instrument} reserve in shares", SHARES_DECIMALS, publisher)

    def _anchor(self, terms: Terms) -> Step:
        return plan_anchor(self._issuer(terms), terms.origin, address_of(terms.parties["reporter"]))

    def _missing(self, view: ChainView, terms: Terms) -> list[Step]:
        steps = [step for _, step in self._steps(terms)]
        if steps and not view.code(COMMON_CREATOR):
            raise DeploymentUnfit(self.chain, f"the contract that creates others, {COMMON_CREATOR}, does not stand there")
        try:
            return missing_steps(steps, view.code)
        except ValueError as other:
            raise DeploymentUnfit(self.chain, str(other)) from other

    def _part(self, name: str, step: Step, missing: Sequence[Step], fee: int) -> Part:
        stands = step not in missing
        return Part(name, step.address, stands, 0 if stands else gas_bound(step) * fee)

    # Sending

    def _send(self, view: ChainView, missing: Sequence[Step], sender: str) -> dict[str, str]:
        """Send all steps with the sender's next numbers; return the transaction of each by its address."""
        signer = self._settings.signers.get(f"{self.chain}:{sender}")
        if signer is None:
            raise KeyMissing(self.chain, f"there is no key of the deployer {sender} here")
        fees, first = self._adapter.fees(view), view.count(sender, "latest")
        made = [
            UnsignedTransaction(int(self.chain.partition(":")[2]), first + place, fees, gas_bound(step), step.target, step.data)
            for place, step in enumerate(missing)
        ]
        needed, has = sum(one.cost_most for one in made), view.node.number("eth_getBalance", sender, "latest")
        if has < needed:
            raise FundsInsufficient(self.chain, key=signer.account, needed=needed, found=has)
        sent = {}
        for step, one in zip(missing, made, strict=True):
            raw = assemble(one.payload, signer.sign(one.payload))
            try:
                view.node.call("eth_sendRawTransaction", "0x" + raw.hex())
            except NodeRefused as refused:
                if not any(word in refused.message.lower() for word in _HARMLESS):
                    raise
            sent[step.address] = transaction_hash(raw)
        return sent

    def _landed(self, name: str, step: Step, transaction: str) -> Part:
        """Wait until a contract stands, made by our transaction or by one of an earlier run.

        Raises: DeploymentUnfit where ours failed; ChainUnavailable where nothing comes of it.
        """
        deadline = time.monotonic() + LANDING_SECONDS_MAX
        while time.monotonic() < deadline:
            with self._asking() as view:
                receipt = view.node.call("eth_getTransactionReceipt", transaction)
                stands = bool(view.code(step.address))
                if stands and receipt is None:  # it may have landed between the two questions
                    receipt = view.node.call("eth_getTransactionReceipt", transaction)
            if stands:
                cost = read_number(receipt["gasUsed"]) * read_number(receipt["effectiveGasPrice"]) if isinstance(receipt, dict) else 0
                return Part(name, step.address, True, cost, transaction if cost else "")
            if isinstance(receipt, dict):
                raise DeploymentUnfit(self.chain, f"the transaction {transaction} has landed, and no {name} stands at {step.address}")
            time.sleep(_POLL_SECONDS)
        raise ChainUnavailable(self.chain, f"no block has taken {transaction} within {LANDING_SECONDS_MAX} s; begin again to go on")

    # Below

    def _lacking(self, view: ChainView, deployment: Deployment, key: ChainKey) -> list[str]:
        if key.instruments and deployment.instrument not in key.instruments:
            return []
        token = address_of(deployment.token)
        wanted = [role for each in key.roles for role in ROLES_ON_TOKEN.get(each, ())]
        try:
            lacking = [roles.NAMES[role] for role in wanted if not _has_role(view, TOKEN, token, role, key)]
        except NotDecodable:
            return []  # the adapter's inspection says what stands there instead
        return [f"{key.key} lacks {' and '.join(lacking)} on {deployment.instrument}"] if lacking else []

    def _publishing(self) -> list[tuple[str, str]]:
        """Return the contracts beside the tokens that the settings name."""
        options = self._settings.options
        anchor = [(ANCHOR, options["anchor"])] if options.get("anchor") else []
        return anchor + [(FEED, address) for name, address in options.items() if name.startswith("reserve_feed:")]

    @contextlib.contextmanager
    def _asking(self) -> Iterator[ChainView]:
        """Give the node, and put what it does into the errors of the protocol."""
        try:
            yield self._adapter.view(self._adapter.current)
        except NodeAway as away:
            self._adapter.use_next(self._adapter.current)
            raise ChainUnavailable(self.chain, str(away), retry_after_seconds=away.retry_after_seconds) from away
        except NodeError as wrong:
            raise NodeUnfit(self.chain, str(wrong)) from wrong


def gas_bound(step: Step) -> int:
    """Return gas that making a contract does not exceed: its code, what is sent, and what its constructor may store.

    What is not used is not paid. Asking the node would not do: what a step builds on may not stand yet.
    """
    code = len(load(step.contract).deployed_bytecode)
    return GAS_OF_CODE_BYTE * code + GAS_OF_DATA_BYTE * len(step.data) + GAS_OF_THE_REST


def open_setup(settings: ChainSettings) -> EvmSetup:
    """Make a setup without asking the node yet.

    Raises: ValueError for settings that cannot be.
    """
    return EvmSetup(settings)


def _has_role(view: ChainView, contract: str, address: str, role: bytes, key: ChainKey) -> bool:
    return bool(view.ask(contract, address, "hasRole(bytes32,address)", role, address_of(key.key)))
