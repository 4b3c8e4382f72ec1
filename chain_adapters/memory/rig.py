"""MemoryRig: a reference chain with everything that the conformance kit asks of one."""

from __future__ import annotations

import contextlib
import itertools
import time
from typing import TYPE_CHECKING, Any, Final, Self

from chain_adapters.memory import payloads
from chain_adapters.memory.adapter import MemoryAdapter, connect
from chain_adapters.memory.chain import NUMBER, MemoryChain
from chain_adapters.memory.node import MemoryNode
from chain_adapters.memory.payloads import MemorySigner
from chain_adapters.memory.token import OWNER, Token
from chain_adapters.protocol import ChainSettings
from chain_adapters.rig import EVERY_CAPABILITY, Controls, WorkedRig
from ledger import caip
from stockledger.v1.chains_pb2 import ChainCapability, ChainKey, ChainKeyRole, Deployment, DeploymentKind
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.reserves_pb2 import Reserve

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Mapping

COINS: Final = 10**9
FORK_SHARE: Final = 0.05
FORGOTTEN_SHARE: Final = 0.5
"""How often a tick forks, and how often what was in such blocks does not wait for another."""
_OWN_FEES: Final = 1_000_000
"""What others pay, so that no rise of fees stops them."""


class MemoryRig(WorkedRig):
    """A chain of this process, its node behind HTTP on loopback, so that a process that is killed leaves it alone."""

    def __init__(self, chain: str = "memory:1", *, sequences: str = NUMBER, seed: int = 0) -> None:
        self.chain = chain
        self.capabilities = EVERY_CAPABILITY
        self.bad_accounts = (f"{chain}:12", f"{chain}:{'A' * 64}", f"memory:other:{'a' * 64}", "book:alice")
        self._passed_us = 0
        self.memory = MemoryChain(chain, sequences=sequences, clock_us=self._clock_us)
        self.node = MemoryNode(self.memory)
        self._seeds = itertools.count(seed * 1_000_003 + 1)
        roles = [role for role in ChainKeyRole.values() if role != ChainKeyRole.CHAIN_KEY_ROLE_UNSPECIFIED]
        self.signers = {role: self._new_signer() for role in roles if role != ChainKeyRole.CHAIN_KEY_ROLE_WALLET}
        self._thief = self._new_signer()
        self._owner = self._new_signer()
        self._wallets: dict[str, MemorySigner] = {}
        self._listening = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.node_url = self._listening.enter_context(self.node.listening())
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    def _new_signer(self) -> MemorySigner:
        signer = MemorySigner(self.chain, payloads.digest(str(next(self._seeds)).encode()))
        self.memory.fund(signer.address, COINS)
        return signer

    def connect(self, url: str | None = None, *, ledger: str = "kit") -> MemoryAdapter:
        signers = {signer.account: signer for signer in (*self.signers.values(), *self._wallets.values())}
        return connect(ChainSettings(chain=self.chain, urls=(url or self.node_url,), signers=signers, ledger=ledger))

    def registered_keys(self) -> list[ChainKey]:
        return [ChainKey(key=signer.account, roles=[role]) for role, signer in self.signers.items()]

    # ---- tokens and wallets ---------------------------------------------------------------------------------------------------------

    def make_token(self, instrument: str, decimals: int, capabilities: Collection[ChainCapability.ValueType]) -> Deployment:
        roles = {_role(role): signer.address for role, signer in self.signers.items()} | {OWNER: self._owner.address}
        names = frozenset(ChainCapability.Name(each).removeprefix("CHAIN_CAPABILITY_") for each in capabilities)
        self.memory.deploy(Token(instrument, decimals, roles, names))
        return Deployment(
            chain=self.chain,
            instrument=instrument,
            token=f"{self.chain}/token:{instrument}",
            decimals=decimals,
            kind=DeploymentKind.DEPLOYMENT_KIND_NATIVE,
            capabilities=sorted(capabilities),
        )

    def make_foreign_token(self, instrument: str, decimals: int) -> Deployment:
        roles = dict.fromkeys((OWNER, "MINTER", "MULTIPLIER"), self._owner.address)
        self.memory.deploy(Token(instrument, decimals, roles, frozenset({"MINT", "MULTIPLIER"})))
        return Deployment(
            chain=self.chain,
            instrument=instrument,
            token=f"{self.chain}/token:{instrument}",
            decimals=decimals,
            kind=DeploymentKind.DEPLOYMENT_KIND_OMNIBUS,
            capabilities=[ChainCapability.CHAIN_CAPABILITY_SEND],
        )

    def make_wallet(self) -> str:
        signer = self._new_signer()
        self._wallets[signer.account] = signer
        return signer.account

    def sign_binding(self, wallet: str, text: str) -> bytes:
        return self._wallets[wallet].sign(text.encode())

    # ---- what others do -------------------------------------------------------------------------------------------------------------

    def transfer(self, token: str, source: str, destination: str, raw: int) -> None:
        operation = {"do": "transfer", "source": _address(source), "destination": _address(destination), "raw": str(raw)}
        self._act(self._wallets[source], token, operation)

    def burn(self, token: str, source: str, raw: int) -> bool:
        self._act(self._wallets[source], token, {"do": "burn", "source": _address(source), "raw": str(raw)})
        return True

    def mint_behind(self, token: str, destination: str, raw: int) -> None:
        self._steal(token, "MINTER", {"do": "mint", "destination": _address(destination), "raw": str(raw)})

    def set_multiplier(self, token: str, multiplier: int, effective_time_us: int) -> bool:
        operation = {"do": "set_multiplier", "multiplier": str(multiplier), "effective_time_us": effective_time_us}
        self._steal(token, "MULTIPLIER", operation)
        return True

    def _steal(self, token: str, role: str, operation: dict[str, Any]) -> None:
        """Let the owner of a token give the thief a role for one transaction; each change of authority is seen too."""
        before = self._token(token).roles[role]
        self._act(self._owner, token, {"do": "set_authority", "role": role, "address": self._thief.address})
        self._act(self._thief, token, operation)
        self._act(self._owner, token, {"do": "set_authority", "role": role, "address": before})

    def bar(self, token: str, account: str) -> bool:
        self._act(self._owner, token, {"do": "bar", "account": _address(account), "barred": True})
        return True

    def use_up_sequence(self, key: str) -> bool:
        signer = next((each for each in self.signers.values() if each.account == key), None)
        if signer is None:
            return False
        self._send(signer, [{"do": "nothing"}], account=f"{signer.address}.0")
        return True

    def _act(self, signer: MemorySigner, token: str, operation: dict[str, Any]) -> None:
        self._send(signer, [operation | {"token": caip.parse_token("token", token).reference}])

    def _send(self, signer: MemorySigner, operations: list[dict[str, Any]], account: str = "") -> None:
        """Sign with the next sequence, a value of `account` for one, and make the block that takes it."""
        with self.memory.lock:
            account = account or f"{signer.address}.others"
            by_number = self.memory.sequences == NUMBER
            number = {"number": self.memory.state.numbers.get(signer.address, 0)}
            value = {"account": account, "value": self.memory.value_of(account, self.memory.state)}
            content = {
                "chain": self.chain,
                "key": signer.address,
                "sequence": number if by_number else value,
                "cosigners": [],
                "operations": operations,
                "fee": _OWN_FEES,
            }
            payload = payloads.encode(content)
            answer = self.memory.submit(payload, {signer.address: signer.sign(payload)})
            assert answer == "taken", answer
            self.memory.produce()
            included = next(each for each in self.memory.head.transactions if each.payload == payload)
            assert not included.failure, included.text

    # ---- time and forks -------------------------------------------------------------------------------------------------------------

    def finalise(self) -> None:
        self.memory.produce(self.memory.finality_blocks + 1)

    def pass_time(self, until_us: int) -> bool:
        self._passed_us += max(0, until_us - self._clock_us())
        self.memory.produce()
        return True

    def _clock_us(self) -> int:
        return time.time_ns() // 1000 + self._passed_us

    def reorganise(self) -> bool:
        self.memory.reorganise(self.memory.finality_blocks)
        return True

    def reorganise_final(self) -> bool:
        self.memory.reorganise(self.memory.finality_blocks + 3)
        return True

    def raise_fees(self) -> bool:
        self.memory.base_fee *= 10
        return True

    # ---- what a worker of its own process is given ----------------------------------------------------------------------------------

    def key_texts(self) -> Collection[str]:
        return [signer.seed.hex() for signer in self.signers.values()]

    def options(self) -> Mapping[str, str]:
        return {}

    def tick(self, chance: random.Random) -> None:
        self.memory.produce()
        if chance.random() < FORK_SHARE:
            self.memory.reorganise(self.memory.finality_blocks, forget=chance.random() < FORGOTTEN_SHARE)

    # ---- a look of its own ----------------------------------------------------------------------------------------------------------

    def _token(self, token: str) -> Token:
        return self.memory.state.tokens[caip.parse_token("token", token).reference]

    def supply(self, token: str) -> int:
        return self._token(token).supply

    def holding(self, token: str, account: str) -> int:
        return self._token(token).holdings.get(_address(account), 0)

    def controls(self, token: str, accounts: Collection[str] = ()) -> Controls:
        found = self._token(token)
        first = next(iter(accounts), "")
        return Controls(
            frozen=frozenset(account for account in accounts if _address(account) in found.frozen),
            frozen_raw=found.frozen_raw.get(_address(first), 0),
            paused=frozenset(Operation.Value(f"OPERATION_{name}") for name in found.paused),
            multiplier=found.multiplier_at(self.memory.head.time_us),
            multiplier_next=found.multiplier_next,
            allotment=found.allotment,
            reserve_shares_e8=Reserve.FromString(bytes.fromhex(found.reserve)).reserve_shares_e8,
            anchors=len(found.anchors),
        )


def _role(role: ChainKeyRole.ValueType) -> str:
    return ChainKeyRole.Name(role).removeprefix("CHAIN_KEY_ROLE_")


def _address(account: str) -> str:
    return account.rpartition(":")[2]
