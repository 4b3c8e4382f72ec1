"""SplRig: a real Solana node with everything that the conformance kit asks of a chain."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from typing import Any, Final, Self

from solana_node import solana_node
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from spl_chain import Powers, SplChain, Token, wait_for
from spl_history import tell

from chain_adapters.protocol import ChainSettings
from chain_adapters.rig import Controls, WorkedRig
from chain_adapters.spl import programs, token_2022
from chain_adapters.spl.adapter import SplAdapter, connect
from chain_adapters.spl.addresses import associated_account, chain_id
from chain_adapters.spl.fate import final_nonce
from chain_adapters.spl.multiplier import encode_multiplier
from chain_adapters.spl.signing import ChainSigner, KeypairSigner, sign
from chain_adapters.spl.token_2022 import AuthorityKind
from stockledger.v1.chains_pb2 import ChainCapability, ChainKey, ChainKeyRole, Deployment, DeploymentKind
from stockledger.v1.common_pb2 import Operation

SLOT_MS: Final = 5
"""About nine times as long on a busy machine; a transaction is final after 32 slots."""
SOL: Final = 10**9
SIGNING: Final = {
    "payer": ("FEE_PAYER",),
    "minter": ("MINTER",),
    "guard": ("ENFORCER", "PAUSER"),
    "delegate": ("BURNER", "ENFORCER"),
    "scaler": ("MULTIPLIER",),
    "reporter": ("REPORTER",),
}
"""What each of the ledger's keys signs, shared out as the powers over an xStock are."""
GIVEN_UP: Final = {
    ChainCapability.CHAIN_CAPABILITY_MINT: (AuthorityKind.MINT, "minter"),
    ChainCapability.CHAIN_CAPABILITY_BURN: (AuthorityKind.PERMANENT_DELEGATE, "delegate"),
    ChainCapability.CHAIN_CAPABILITY_FORCE_TRANSFER: (AuthorityKind.PERMANENT_DELEGATE, "delegate"),
    ChainCapability.CHAIN_CAPABILITY_FREEZE: (AuthorityKind.FREEZE, "guard"),
    ChainCapability.CHAIN_CAPABILITY_PAUSE: (AuthorityKind.PAUSE, "guard"),
    ChainCapability.CHAIN_CAPABILITY_MULTIPLIER: (AuthorityKind.SCALED_UI_AMOUNT, "scaler"),
}
"""The power without which a mint can not do it, ever again, and who has it."""


class SplRig(WorkedRig):
    """One node. It never takes a slot back, and what it calls the hash of an empty block is the slot's number written out."""

    def __init__(self, slot_ms: int = SLOT_MS, options: Mapping[str, str] | None = None) -> None:
        self._slot_ms = slot_ms
        self._options = options or {}
        self.capabilities = {*GIVEN_UP, ChainCapability.CHAIN_CAPABILITY_ANCHOR}
        self._seeds = itertools.count(1)
        self._secrets: dict[Pubkey, str] = {}
        self._wallets: dict[str, KeypairSigner] = {}
        self._tokens: dict[str, Token] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as starting:
            node = starting.enter_context(solana_node(self._slot_ms))
            self.node_url = node.rpc_url
            self.spl = starting.enter_context(contextlib.closing(SplChain(node)))
            self._set_up()
            self._stack = starting.pop_all()
        return self

    def _set_up(self) -> None:
        self.chain = chain_id(self.spl.client.genesis_hash())
        self.keys = {name: self._new_key() for name in SIGNING}
        payer = self.keys["payer"].public_key
        self.spl.fund(payer, 100 * SOL)
        with contextlib.closing(self.connect()) as adapter:
            adapter.open_nonce_accounts(payer)
        self.finalise()
        self.bad_accounts = (f"{self.chain}:{payer}1", f"{self.chain}:0", f"{self.chain}:{'1' * 31}", f"solana:other:{payer}", "book:alice")

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _new_key(self) -> KeypairSigner:
        pair = Keypair.from_seed(next(self._seeds).to_bytes(32))
        self._secrets[pair.pubkey()] = json.dumps(list(bytes(pair)))
        return KeypairSigner(pair)

    def connect(self, url: str | None = None, *, ledger: str = "kit") -> SplAdapter:
        signers = [ChainSigner(self.chain, signer) for signer in (*self.keys.values(), *self._wallets.values())]
        by_account = {one.account: one for one in signers}
        return connect(ChainSettings(self.chain, (url or self.node_url,), by_account, ledger=ledger, options=self._options))

    def registered_keys(self) -> list[ChainKey]:
        return [
            ChainKey(key=self._account(self.keys[name].public_key), roles=[ChainKeyRole.Value(f"CHAIN_KEY_ROLE_{role}") for role in roles])
            for name, roles in SIGNING.items()
        ]

    # Tokens and wallets

    def make_token(self, instrument: str, decimals: int, capabilities: Collection[ChainCapability.ValueType]) -> Deployment:
        """Make a mint of which the powers for what it is not to do are given up for good.

        The permanent delegate burns and transfers alike: without one of the two, a mint has neither.
        """
        missing = {GIVEN_UP[each] for each in frozenset(self.capabilities) - frozenset(capabilities)}
        token = self._make(instrument, decimals, Powers(*(self.keys[name] for name in ("minter", "guard", "delegate", "scaler"))))
        for kind, name in sorted(missing):
            given_up = token_2022.set_authority(token.mint, kind, self.keys[name].public_key, None)
            self._run([given_up], self.keys[name])
        self.finalise()
        can = [each for each in sorted(capabilities) if GIVEN_UP.get(each) not in missing]
        return self._deployment(instrument, token, DeploymentKind.DEPLOYMENT_KIND_NATIVE, can)

    def make_foreign_token(self, instrument: str, decimals: int) -> Deployment:
        token = self.make_other_token(instrument, decimals)
        can = [ChainCapability.CHAIN_CAPABILITY_SEND]
        return self._deployment(instrument, token, DeploymentKind.DEPLOYMENT_KIND_OMNIBUS, can)

    def make_other_token(self, symbol: str, decimals: int) -> Token:
        """Make a mint over which the ledger has no power."""
        return self._make(symbol, decimals, Powers(*(self._new_key() for _ in range(4))))

    def _make(self, symbol: str, decimals: int, powers: Powers) -> Token:
        token = Token(self.spl, mint_key=self._new_key(), powers=powers, symbol=symbol, decimals=decimals)
        self._tokens[self._name(token)] = token
        return token

    def _name(self, token: Token) -> str:
        return f"{self.chain}/token:{token.mint}"

    def _deployment(self, instrument: str, token: Token, kind: DeploymentKind.ValueType, capabilities: Iterable[Any]) -> Deployment:
        decimals = token.setup.decimals
        name = self._name(token)
        return Deployment(chain=self.chain, instrument=instrument, token=name, decimals=decimals, kind=kind, capabilities=capabilities)

    def make_wallet(self) -> str:
        wallet = self._new_key()
        self._wallets[self._account(wallet.public_key)] = wallet
        self.spl.fund(wallet.public_key, SOL)
        return self._account(wallet.public_key)

    def sign_binding(self, wallet: str, text: str) -> bytes:
        return self._wallets[wallet].sign(text.encode())

    # What others do

    def transfer(self, token: str, source: str, destination: str, raw: int) -> None:
        made, owner = self._tokens[token], self._wallets[source]
        opened = self._opened(made, destination)
        decimals, held = made.setup.decimals, associated_account(owner.public_key, made.mint)
        account = associated_account(self.address(destination), made.mint)
        moved = token_2022.transfer(made.mint, held, account, owner.public_key, units=raw, decimals=decimals)
        self._run([opened, moved], owner)

    def burn(self, token: str, source: str, raw: int) -> bool:
        """Let the owner burn, as every owner of a token of Token-2022 may."""
        made, owner = self._tokens[token], self._wallets[source]
        held = associated_account(owner.public_key, made.mint)
        self._run([token_2022.burn(made.mint, held, owner.public_key, units=raw, decimals=made.setup.decimals)], owner)
        return True

    def mint_behind(self, token: str, destination: str, raw: int) -> None:
        made = self._tokens[token]
        account, minter = associated_account(self.address(destination), made.mint), made.minter
        minted = token_2022.mint_to(made.mint, account, minter.public_key, units=raw, decimals=made.setup.decimals)
        self._run([self._opened(made, destination), minted], minter)

    def set_multiplier(self, token: str, multiplier: int, effective_time_us: int) -> bool:
        made = self._tokens[token]
        bits, seconds = encode_multiplier(multiplier), effective_time_us // 1_000_000
        self._run([token_2022.update_multiplier(made.mint, made.scaler.public_key, bits, seconds)], made.scaler)
        return True

    def bar(self, token: str, account: str) -> bool:
        """Freeze an account with the ledger's key, behind its back."""
        made = self._tokens[token]
        frozen = token_2022.freeze(made.mint, associated_account(self.address(account), made.mint), made.guard.public_key)
        self._run([self._opened(made, account), frozen], made.guard)
        return True

    def use_up_sequence(self, key: str) -> bool:
        """Advance the first nonce account, which the next transaction of a chain at rest is made on."""
        payer = self.keys["payer"]
        assert key == self._account(payer.public_key)
        address = programs.derived_nonce_account(payer.public_key, 0)
        nonce = wait_for(lambda: final_nonce(self.spl.client, address))
        message = self.spl.message([programs.advance_nonce(address, payer.public_key)], nonce.value)
        assert self.spl.land(sign(message, [self.spl.payer, payer])).error is None
        return True

    def open_others(self, token: str, account: str, count: int) -> None:
        """Let an owner have accounts beside the associated one, which is opened too."""
        self._run([self._opened(self._tokens[token], account)])
        for _ in range(count):
            self._tokens[token].open_another(self.address(account))

    def _opened(self, token: Token, account: str) -> Instruction:
        return programs.create_associated_account(self.spl.payer.public_key, self.address(account), token.mint)

    def _run(self, instructions: Iterable[Instruction], *signers: KeypairSigner) -> None:
        landed = self.spl.run(instructions, *signers)
        assert landed.error is None, landed.error

    # Time and forks

    def finalise(self) -> None:
        """Wait until the slot after the newest is final: what was sent before is in it at the latest, or in none."""
        newest = self.spl.client.latest_slot() + 1
        wait_for(lambda: self.spl.client.finalized_slot() >= newest)

    def pass_time(self, until_us: int) -> bool:
        """Move the clock of the programs, and with it the slots; the time of blocks follows within a second."""
        if self.spl.clock() * 1_000_000 < until_us:
            self.spl.travel(until_us // 1_000_000)
        return True

    def reorganise(self) -> bool:
        """Say no: the node runs one fork, and has no way to take a slot back."""
        return False

    def reorganise_final(self) -> bool:
        """Say no: the node names each block after its slot, so that another history has the same hashes."""
        return False

    def raise_fees(self) -> bool:
        """Say no: the node takes whatever pays for its signatures, and tells of no priority fees."""
        return False

    # What a worker of its own process is given

    def key_texts(self) -> Collection[str]:
        return [self._secrets[key.public_key] for key in self.keys.values()]

    def options(self) -> Mapping[str, str]:
        return self._options

    def tick(self, chance: random.Random) -> None:
        """Do nothing: slots pass by themselves, and none is taken back."""

    # A look of its own: the node's own reading of its accounts

    def supply(self, token: str) -> int:
        return int(self.spl.client.call("getTokenSupply", str(self._tokens[token].mint))["value"]["amount"])

    def holding(self, token: str, account: str) -> int:
        return sum(int(each["tokenAmount"]["amount"]) for each in self._held(token, account))

    def _held(self, token: str, account: str) -> list[dict[str, Any]]:
        of_mint = {"mint": str(self._tokens[token].mint)}
        found = self.spl.client.call("getTokenAccountsByOwner", str(self.address(account)), of_mint, {"encoding": "jsonParsed"})
        return [each["account"]["data"]["parsed"]["info"] for each in found["value"]]

    def controls(self, token: str, accounts: Collection[str] = ()) -> Controls:
        held = {account: self._held(token, account) for account in accounts}
        found = self.spl.client.call("getAccountInfo", str(self._tokens[token].mint), {"encoding": "jsonParsed"})
        extensions = {
            each["extension"]: each["state"] for each in found["value"]["data"]["parsed"]["info"]["extensions"] if "state" in each
        }
        scaled = extensions["scaledUiAmountConfig"]
        now = self.spl.clock()
        due = now >= scaled["newMultiplierEffectiveTimestamp"]
        everything = {Operation.OPERATION_TRANSFER, Operation.OPERATION_ISSUE, Operation.OPERATION_REDEEM}
        return Controls(
            frozen=frozenset(account for account, those in held.items() if those and all(each["state"] == "frozen" for each in those)),
            paused=frozenset(everything if extensions["pausableConfig"]["paused"] else ()),
            multiplier=_scaled(scaled["newMultiplier" if due else "multiplier"]),
            multiplier_next=_scaled(scaled["newMultiplier"]),
            anchors=self._anchors(),
        )

    def _anchors(self) -> int:
        """Count the checkpoints among the memos in the history of the key that reports; several may share a transaction."""
        listed = self.spl.client.call("getSignaturesForAddress", str(self.keys["reporter"].public_key), {"limit": 1000})
        return sum((each["memo"] or "").count("kit.example/log\n") for each in listed if each["err"] is None)

    def check_story(self) -> int:
        """Hold the history of each token against how it stands; return how many instructions were carried out, each once."""
        count = 0
        for token, made in self._tokens.items():
            history, carried_out = tell(self.spl.client, made.mint)
            assert history.supply == self.supply(token)
            for owner, units in history.holdings().items():
                assert self.holding(token, self._account(owner)) == units
            assert max(carried_out.values(), default=1) == 1, carried_out.most_common(3)
            count += len(carried_out)
        return count

    @staticmethod
    def address(account: str) -> Pubkey:
        return Pubkey.from_string(account.rpartition(":")[2])

    def _account(self, address: Pubkey) -> str:
        return f"{self.chain}:{address}"


def _scaled(multiplier: str) -> int:
    return int(Decimal(multiplier) * 10**18)
