"""An adapter on a real node, and what the log would know: keys, open transactions, the cursor."""

from __future__ import annotations

import dataclasses

from eth_account import Account
from evm_market import Market
from evm_node import CHAIN_ID
from google.protobuf.timestamp_pb2 import Timestamp

from chain_adapters.evm.adapter import connect
from chain_adapters.evm.keys import LocalSigner
from chain_adapters.protocol import ChainSettings, ProjectionState
from stockledger.v1.chains_pb2 import ChainKey, ChainKeyRole, Deployment, DeploymentKind, Instruction, InstructionKind, OpenTransaction

CHAIN = f"eip155:{CHAIN_ID}"
LEDGER = "acme"
DEPTH = 2
KIND_ROLES = {
    "MINT": "MINTER",
    "BURN": "BURNER",
    "FORCE_TRANSFER": "ENFORCER",
    "FREEZE": "ENFORCER",
    "FREEZE_UNITS": "ENFORCER",
    "PAUSE": "PAUSER",
    "SET_MULTIPLIER": "MULTIPLIER",
    "SET_ALLOTMENT": "ALLOTTER",
    "REPORT_RESERVE": "REPORTER",
    "ANCHOR_CHECKPOINT": "REPORTER",
    "SEND": "WALLET",
}
PEOPLE_OF_ROLES = {
    "MINTER": "minter",
    "BURNER": "forced_burner",
    "ENFORCER": "enforcer",
    "PAUSER": "pauser",
    "MULTIPLIER": "multiplier",
    "ALLOTTER": "allotter",
    "REPORTER": "publisher",
    "WALLET": "carol",
}


def secret_of(place: int) -> bytes:
    """Return the key of a rich account of the node, by its place: the ones every development node derives."""
    Account.enable_unaudited_hdwallet_features()
    words = "test test test test test test test test test test test junk"
    return bytes(Account.from_mnemonic(words, account_path=f"m/44'/60'/0'/0/{place}").key)


SECRETS: dict[str, bytes] = {}


class World:
    """Does by hand what projector and reader do, so that each verb is seen by itself."""

    def __init__(self, market: Market, *, urls=None, depth=DEPTH, people=None, **options):
        self.market, self.node = market, market.node
        if not SECRETS:
            SECRETS.update({name: secret_of(place) for place, name in enumerate(market.addresses)})
        self.people = PEOPLE_OF_ROLES | (people or {})
        names = set(self.people.values())
        signers = {signer.account: signer for signer in (LocalSigner(CHAIN, SECRETS[name]) for name in names)}
        assert set(signers) == {f"{CHAIN}:{market[name]}" for name in names}
        self.settings = ChainSettings(CHAIN, urls or (self.node.url,), signers, depth, ledger=LEDGER, options=options)
        self.token = f"{CHAIN}/erc20:{market.token}"
        native = DeploymentKind.DEPLOYMENT_KIND_NATIVE
        self.deployment = Deployment(chain=CHAIN, instrument="AAPLx", token=self.token, decimals=8, kind=native)
        self.deployments = [self.deployment]
        self.keys = [
            ChainKey(key=self.at(name), roles=[ChainKeyRole.Value(f"CHAIN_KEY_ROLE_{role}")], consumed_count=self.count(name))
            for role, name in self.people.items()
        ]
        self.open: list[OpenTransaction] = []
        self.number = 0
        self.mine(DEPTH)
        self.cursor = self.fresh().finalised()

    def fresh(self, *urls):
        """Return a new adapter, as after a crash."""
        settings = dataclasses.replace(self.settings, urls=urls or self.settings.urls)
        return connect(settings)

    def at(self, name):
        return f"{CHAIN}:{self.market[name]}"

    def count(self, name):
        return int(self.node.call("eth_getTransactionCount", self.market[name], "latest"), 16)

    def mine(self, blocks=1):
        self.node.call("anvil_mine", hex(blocks))

    @property
    def state(self):
        return ProjectionState(self.deployments, self.keys, self.open, self.cursor)

    def wanted(self, kind, units=0, source="", destination="", **more):
        self.number += 1
        return Instruction(
            instruction=f"{self.number}-0",
            chain=CHAIN,
            instrument="AAPLx",
            token=more.pop("token", self.token),
            kind=InstructionKind.Value(f"INSTRUCTION_KIND_{kind}"),
            role=ChainKeyRole.Value(f"CHAIN_KEY_ROLE_{KIND_ROLES[kind]}"),
            units=units,
            raw=str(units),
            source=self.at(source) if source else "",
            destination=self.at(destination) if destination else "",
            rank=1,
            **more,
        )

    def record(self, *instructions, adapter=None):
        """Prepare, and record as the ledger would."""
        prepared = (adapter or self.fresh()).prepare(instructions, self.state)
        now = Timestamp(seconds=self.node.time())
        for transaction in prepared.transactions:
            opened = OpenTransaction(chain=CHAIN, versions=[transaction], cursor_number=self.cursor.number, first_time=now, last_time=now)
            self.open.append(opened)
        return prepared

    def record_newer(self, opened, newer):
        """Record another version of an open transaction as the ledger would."""
        opened.versions.append(newer)
        opened.last_time.FromSeconds(self.node.time())

    def send(self, adapter=None):
        for one in self.open:
            (adapter or self.fresh()).send(one.versions[-1])

    def read(self, adapter=None, **options):
        """Read one range, and move on as the ledger would."""
        read = (adapter or self.fresh()).read(self.cursor, self.deployments, self.open, **options)
        if read is None:
            return [], []
        assert read.after == self.cursor
        self.cursor = read.through
        for landed in read.landed:
            self.open = [one for one in self.open if (one.versions[0].key, one.versions[0].sequence) != (landed.key, landed.sequence)]
            for key in self.keys:
                if key.key == landed.key:
                    key.consumed_count = max(key.consumed_count, landed.sequence.number + 1)
        return list(read.observations), list(read.landed)

    def carry_out(self, *instructions):
        """Record, send, let it be final and read; return what was read."""
        prepared = self.record(*instructions)
        assert not prepared.refusals and not prepared.waiting, prepared
        self.send()
        self.mine(DEPTH + 1)
        return self.read()
