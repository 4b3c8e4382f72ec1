"""An issuer with a token on a real node: every role a key of its own, and a few wallets."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from eth_utils.address import to_checksum_address
from evm_node import EvmNode, NodeRefused

from chain_adapters.evm import roles
from chain_adapters.evm.codec import ContractRefusal, Event, decode_answer, decode_event, decode_refusal, encode_call
from chain_adapters.evm.deployment import (
    Issuer,
    IssuerPlan,
    Step,
    TokenTerms,
    missing_steps,
    plan_anchor,
    plan_issuer,
    plan_reserve_feed,
    plan_token,
    plan_wrapper,
)
from chain_adapters.evm.token_calls import Call, Line
from chain_adapters.evm.token_events import Fact, read_fact

E18 = 10**18
ALLOTMENT = 1_000_000_000
MULTIPLIER = 1_500_000_000_000_000_000  # other than one throughout: a fixture at 1.0 proves nothing
GAS_LIMIT = 16_000_000  # below the 2^24 that EIP-7825 allows a transaction
PEOPLE = (
    "deployer", "admin", "upgrader", "minter", "burner", "bridge", "allotter", "multiplier", "pauser", "unpauser", "enforcer", "publisher",
    "forced_burner", "alice", "bob", "carol", "mallory",
)  # fmt: skip
ROLES = {
    "minter": roles.MINTER,
    "burner": roles.BURNER,
    "bridge": roles.BRIDGE,
    "allotter": roles.ALLOTTER,
    "multiplier": roles.MULTIPLIER,
    "pauser": roles.PAUSER,
    "unpauser": roles.UNPAUSER,
    "enforcer": roles.ENFORCER,
    "forced_burner": roles.FORCED_BURNER,
}
NAME_OF_ROLE = {role: name for name, role in ROLES.items()}


@dataclass
class Receipt:
    """What a transaction did."""

    hash: str
    gas: int
    block: int
    logs: list[dict[str, Any]]

    def events(self, contract: str, address: str) -> list[Event]:
        found = [decode_event(contract, *raw(log)) for log in self.logs if to_checksum_address(log["address"]) == address]
        assert None not in found, "every log of a contract is one of its events"
        return [event for event in found if event]

    def names(self, contract: str, address: str) -> list[str]:
        return [event.name for event in self.events(contract, address)]


def raw(log: dict[str, Any]) -> tuple[list[bytes], bytes]:
    return [bytes.fromhex(topic[2:]) for topic in log["topics"]], bytes.fromhex(log["data"][2:])


class Refused(AssertionError):
    """A transaction that was to succeed was refused."""


@dataclass
class Market:
    """Sends as people by name; addresses are looked up by name too."""

    node: EvmNode
    plan: IssuerPlan = field(init=False)
    token: str = field(init=False)
    addresses: dict[str, str] = field(init=False)
    issuer_gas: int = field(init=False, default=0)
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.addresses = {name: to_checksum_address(account) for name, account in zip(PEOPLE, self.node.accounts, strict=False)}
        self.plan = plan_issuer(self.issuer())
        self.issuer_gas = sum(self.send("deployer", step.target, step.data).gas for step in self.plan.steps)
        self.token = self.run_steps(plan_token(self.plan, self.terms())).address

    def issuer(self) -> Issuer:
        at = self.addresses
        return Issuer(at["deployer"], at["admin"], at["enforcer"], at["upgrader"], admin_delay_seconds=86_400)

    def terms(self, symbol: str = "AAPLx", **changes: Any) -> TokenTerms:
        grants = tuple((role, self.addresses[name]) for name, role in ROLES.items())
        values = {"multiplier": MULTIPLIER, "allotment_units": ALLOTMENT, "grants": grants} | changes
        return TokenTerms("Apple Inc. tokenised", symbol, 8, **values)

    def run_steps(self, *steps: Step) -> Step:
        for step in missing_steps(steps, self.code_at):
            self.send("deployer", step.target, step.data)
        assert missing_steps(steps, self.code_at) == []
        return steps[-1]

    def wrapper(self) -> str:
        return self.run_steps(plan_wrapper(self.plan, self.token, "Wrapped Apple", "wAAPLx")).address

    def feed(self) -> str:
        return self.run_steps(plan_reserve_feed(self.plan, "AAPLx reserve in shares", 8, self["publisher"])).address

    def anchor(self, origin: str) -> str:
        return self.run_steps(plan_anchor(self.plan, origin, self["publisher"])).address

    def __getitem__(self, name: str) -> str:
        return self.addresses.get(name, name)

    def id(self) -> bytes:
        """Return a new instruction id."""
        return next(self._ids).to_bytes(32)

    def code_at(self, address: str) -> bytes:
        return bytes.fromhex(self.node.call("eth_getCode", address, "latest")[2:])

    def send(self, sender: str, target: str, data: bytes, gas: int = GAS_LIMIT) -> Receipt:
        """Send a transaction and see it mined; `Refused` with the contract's reason if it reverts."""
        transaction = {"from": self[sender], "to": self[target], "data": "0x" + data.hex(), "gas": hex(gas)}
        try:
            hash_ = self.node.call("eth_sendTransaction", transaction)
        except NodeRefused as error:
            raise Refused(f"{error} {error.data.hex()}") from error
        receipt = self.node.receipt(hash_)
        if receipt["status"] != "0x1":
            raise Refused(f"reverted: {data[:4].hex()}")
        return Receipt(hash_, int(receipt["gasUsed"], 16), int(receipt["blockNumber"], 16), receipt["logs"])

    def refusal(self, contract: str, sender: str, target: str, data: bytes) -> ContractRefusal:
        """Return why a call is refused; fail if it is not."""
        try:
            self.node.call(
                "eth_call", {"from": self[sender], "to": self[target], "data": "0x" + data.hex(), "gas": hex(GAS_LIMIT)}, "latest"
            )
        except NodeRefused as error:
            return decode_refusal(contract, error.data)
        raise AssertionError("not refused")

    def read(self, contract: str, target: str, signature: str, *arguments: Any) -> Any:
        data = encode_call(contract, signature, *(self._named(argument) for argument in arguments))
        answer = self.node.call("eth_call", {"to": self[target], "data": "0x" + data.hex()}, "latest")
        return decode_answer(contract, signature, bytes.fromhex(answer[2:]))

    def ask(self, signature: str, *arguments: Any) -> Any:
        """Read from the token."""
        return self.read("StockToken", self.token, signature, *arguments)

    def do(self, call: Call, sender: str | None = None) -> Receipt:
        """Send one of the ledger's operations under the key of its role."""
        return self.send(sender or NAME_OF_ROLE[call.role], self.token, call.data)

    def refused(self, call: Call, sender: str | None = None) -> str:
        """Name the error with which one of the ledger's operations is refused."""
        return self.refusal("StockToken", sender or NAME_OF_ROLE[call.role], self.token, call.data).name

    def as_owner(self, sender: str, signature: str, *arguments: Any) -> Receipt:
        """Let somebody call the token as wallets do."""
        return self.send(sender, self.token, encode_call("StockToken", signature, *(self._named(argument) for argument in arguments)))

    def owner_refused(self, sender: str, signature: str, *arguments: Any) -> ContractRefusal:
        data = encode_call("StockToken", signature, *(self._named(argument) for argument in arguments))
        return self.refusal("StockToken", sender, self.token, data)

    def deny(self, *names: str) -> Receipt:
        """Put people on the issuer's deny list."""
        return self._set_denied("deny(bytes32,address[],bytes)", names)

    def allow(self, *names: str) -> Receipt:
        """Take people off the issuer's deny list."""
        return self._set_denied("allow(bytes32,address[],bytes)", names)

    def _set_denied(self, signature: str, names: tuple[str, ...]) -> Receipt:
        data = encode_call("DenyList", signature, self.id(), [self[name] for name in names], b"sanctions list of 2027-01-15")
        return self.send("enforcer", self.plan.deny_list, data)

    def lines(self, *units_by_name: tuple[str, int]) -> list[Line]:
        return [Line(self.id(), self[name], units) for name, units in units_by_name]

    def units(self, name: str) -> int:
        return int(self.ask("balanceOf(address)", name))

    def supply(self) -> int:
        return int(self.ask("totalSupply()"))

    def facts(self, receipt: Receipt) -> list[Fact]:
        """Read what the token's logs say happened."""
        found = [read_fact(*raw(log)) for log in receipt.logs if to_checksum_address(log["address"]) == self.token]
        return [fact for fact in found if fact]

    def all_facts(self) -> list[Fact]:
        """Read the token's whole history."""
        logs = self.node.call("eth_getLogs", {"fromBlock": "0x0", "toBlock": "latest", "address": self.token})
        return [fact for fact in (read_fact(*raw(log)) for log in logs) if fact]

    def _named(self, argument: Any) -> Any:
        return self.addresses.get(argument, argument) if isinstance(argument, str) else argument
