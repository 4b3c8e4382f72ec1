"""The adapter's verbs on a real node: from instructions to what the reader reports of them, and nothing twice."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import time
import tomllib

import pytest
from faulty_http import answer, answer_error, answer_raw, faulty_server, hang_up
from google.protobuf.timestamp_pb2 import Timestamp
from scripted_proxy import scripted_proxy
from solana_node import ROOT
from solders.keypair import Keypair
from spl_chain import Token, transfer_lamports, wait_for

from chain_adapters.fault_proxy import FAULTS, FaultProxy
from chain_adapters.protocol import (
    ENTRY_POINTS,
    ChainIncapable,
    ChainSettings,
    ChainUnavailable,
    DeploymentUnfit,
    FateKind,
    FundsInsufficient,
    HistoryChanged,
    KeyMissing,
    NodeUnfit,
    ProjectionState,
    find_adapter,
)
from chain_adapters.spl import token_2022
from chain_adapters.spl.adapter import connect
from chain_adapters.spl.addresses import associated_account, chain_id
from chain_adapters.spl.fees import PriceRange
from chain_adapters.spl.multiplier import SCALE, encode_multiplier
from chain_adapters.spl.signing import ChainSigner, sign
from chain_adapters.spl.transactions import decode
from ledger import LedgerError
from stockledger.v1.chains_pb2 import (
    ChainCapability,
    ChainFailure,
    ChainKey,
    ChainKeyRole,
    ChainPosition,
    DeathProof,
    Deployment,
    DeploymentKind,
    Instruction,
    InstructionKind,
    ObservationKind,
    OpenTransaction,
)
from stockledger.v1.common_pb2 import Operation

ROLES = {
    "payer": [ChainKeyRole.CHAIN_KEY_ROLE_FEE_PAYER],
    "minter": [ChainKeyRole.CHAIN_KEY_ROLE_MINTER],
    "guard": [ChainKeyRole.CHAIN_KEY_ROLE_ENFORCER, ChainKeyRole.CHAIN_KEY_ROLE_PAUSER],
    "delegate": [ChainKeyRole.CHAIN_KEY_ROLE_BURNER, ChainKeyRole.CHAIN_KEY_ROLE_ENFORCER],
    "scaler": [ChainKeyRole.CHAIN_KEY_ROLE_MULTIPLIER],
    "reporter": [ChainKeyRole.CHAIN_KEY_ROLE_REPORTER],
}
MINT, BURN, FORCE, FREEZE, PAUSE, MULTIPLIER, ANCHOR, SEND = (
    (getattr(InstructionKind, f"INSTRUCTION_KIND_{kind}"), getattr(ChainKeyRole, f"CHAIN_KEY_ROLE_{role}"))
    for kind, role in [
        ("MINT", "MINTER"),
        ("BURN", "BURNER"),
        ("FORCE_TRANSFER", "ENFORCER"),
        ("FREEZE", "ENFORCER"),
        ("PAUSE", "PAUSER"),
        ("SET_MULTIPLIER", "MULTIPLIER"),
        ("ANCHOR_CHECKPOINT", "REPORTER"),
        ("SEND", "WALLET"),
    ]
)


class World:
    """A token, an adapter, and what the log would know: open transactions and the cursor."""

    def __init__(self, chain, **options):
        self.node = chain
        self.token = Token(chain)
        self.chain = chain_id(chain.client.genesis_hash())
        self.keys = {"payer": chain.key(10_000_000_000), "reporter": chain.key()}
        self.keys |= {name: getattr(self.token, name) for name in ("minter", "guard", "delegate", "scaler")}
        named = [ChainSigner(self.chain, signer) for signer in self.keys.values()]
        options = {"nonces": "4", **options}
        signers = {one.account: one for one in named}
        self.settings = ChainSettings(self.chain, (chain.node.rpc_url,), signers, ledger="acme", options=options)
        self.adapter = connect(self.settings)
        chain_keys = [ChainKey(key=f"{self.chain}:{self.keys[name].public_key}", roles=roles) for name, roles in ROLES.items()]
        self.caip19 = f"{self.chain}/token:{self.token.mint}"
        self.deployment = Deployment(chain=self.chain, instrument="AAPLx", token=self.caip19, decimals=8)
        self.chain_keys = chain_keys
        self.open: list[OpenTransaction] = []
        self.adapter.open_nonce_accounts(self.keys["payer"].public_key)
        self.node.wait_final(chain.client.latest_slot())
        self.cursor = self.adapter.finalised()
        self.number = 0

    def close(self):
        self.adapter.close()

    @property
    def state(self):
        return ProjectionState([self.deployment], self.chain_keys, self.open, self.cursor)

    def account(self, owner):
        return f"{self.chain}:{owner}"

    def instruction(self, what, units=0, source=None, destination=None, **more):
        kind, role = what
        self.number += 1
        return Instruction(
            instruction=f"{self.number}-0",
            chain=self.chain,
            instrument="AAPLx",
            token=self.caip19,
            kind=kind,
            role=role,
            rank=0 if what in (FREEZE, PAUSE) else 1,
            units=units,
            raw=str(units),
            source="" if source is None else self.account(source),
            destination="" if destination is None else self.account(destination),
            **more,
        )

    def record(self, *instructions):
        """Prepare, and record as the ledger would."""
        prepared = self.adapter.prepare(instructions, self.state)
        for transaction in prepared.transactions:
            self.open.append(OpenTransaction(chain=self.chain, versions=[transaction], cursor_number=self.cursor.number))
        return prepared

    def carry_out(self, *instructions):
        """Record, send and read until all of it is final; return everything read."""
        prepared = self.record(*instructions)
        assert not prepared.refusals and not prepared.waiting, prepared
        for one in self.open:
            self.adapter.send(one.versions[-1])
        return self.read_until_landed()

    def forget(self, landed):
        """What landed is open no more; several nonces may have one value, made in one block."""
        done = [one.sequence for one in landed]
        self.open[:] = [one for one in self.open if one.versions[0].sequence not in done]

    def read_until_landed(self):
        observations, landed = [], []

        def step():
            read = self.adapter.read(self.cursor, [self.deployment], self.open)
            if read is not None:
                self.cursor = read.through
                observations.extend(read.observations)
                landed.extend(read.landed)
                self.forget(read.landed)
            return not self.open

        wait_for(step)
        return observations, landed

    def units(self, *owners):
        measured = self.adapter.measure(self.deployment, [self.account(owner) for owner in owners], self.cursor)
        return [int(figure.raw) for figure in measured.figures]


@pytest.fixture
def world(chain):
    with contextlib.closing(World(chain)) as world:
        yield world


@pytest.fixture
def alice():
    return Keypair().pubkey()


@pytest.fixture
def bob():
    return Keypair().pubkey()


def kinds(observations):
    return [ObservationKind.Name(one.kind).removeprefix("OBSERVATION_KIND_") for one in observations]


def test_what_the_chain_and_the_token_can_do(world):
    described = world.adapter.describe()
    assert (described.chain, described.instructions_per_transaction_max) == (world.chain, 12)
    assert described.node.startswith("solana-core ")
    send = {ChainCapability.CHAIN_CAPABILITY_SEND}
    assert world.adapter.inspect(world.deployment) == described.capabilities - send
    foreign = Deployment(token=world.caip19, decimals=8, kind=DeploymentKind.DEPLOYMENT_KIND_OMNIBUS)
    assert world.adapter.inspect(foreign) == send
    for change, words in [
        ({"decimals": 6}, "has 8 decimals, registered are 6"),
        ({"token": f"{world.chain}/token:{Keypair().pubkey()}"}, "no mint of Token-2022"),
        ({"token": f"{world.chain}/erc20:{Keypair().pubkey()}"}, "is no token here"),
        ({"token": f"{world.chain}/token:abc"}, "base58 of 32 bytes"),
    ]:
        other = Deployment()
        other.CopyFrom(world.deployment)
        for name, value in change.items():
            setattr(other, name, value)
        with pytest.raises(DeploymentUnfit, match=words):
            world.adapter.inspect(other)


def test_accounts_are_checked_without_asking_anybody(world, alice):
    assert world.adapter.check_account(world.account(alice)) == world.account(alice)
    for wrong in (f"eip155:1:{alice}", f"{world.chain}:abc", f"{world.chain}:{alice}111", str(alice), ""):
        with pytest.raises(LedgerError) as refused:
            world.adapter.check_account(wrong)
        assert refused.value.reason_name in ("FIELD_MALFORMED", "FIELD_MISSING")


def test_mint_burn_and_forced_transfer_happen_once_and_are_read_as_ours(world, alice, bob):
    first = world.instruction(MINT, 1_000, destination=alice)
    observations, landed = world.carry_out(first)
    [seen] = [one for one in observations if one.kind == ObservationKind.OBSERVATION_KIND_MINT]
    assert (seen.instruction, seen.destination, seen.raw, seen.token) == (first.instruction, world.account(alice), "1000", world.caip19)
    assert (len(landed), landed[0].failure, landed[0].transaction) == (1, 0, seen.transaction)
    forced, burned = world.instruction(FORCE, 300, alice, bob), world.instruction(BURN, 100, source=alice)
    observations, [landed] = world.carry_out(forced, burned)
    assert kinds(observations) == ["TRANSFER", "BURN"]
    assert [one.instruction for one in observations] == [forced.instruction, burned.instruction]
    assert world.units(alice, bob) == [900, 600, 300]


def test_a_recorded_transaction_sent_again_and_again_by_others_too_lands_once(world, alice):
    world.record(world.instruction(MINT, 5, destination=alice))
    [recorded] = world.open
    assert world.adapter.fate(recorded, world.cursor).kind is FateKind.UNSEEN
    other = connect(world.settings)
    for _ in range(3):
        world.adapter.send(recorded.versions[0])
        other.send(recorded.versions[0])
    assert wait_for(lambda: world.adapter.fate(recorded, world.adapter.finalised()).kind is FateKind.LANDED)
    _, [landed] = world.read_until_landed()
    assert landed.payload_digest == hashlib.sha256(recorded.versions[0].payload).digest()
    world.adapter.send(recorded.versions[0])
    assert world.units(alice) == [5, 5]
    other.close()


def test_two_calls_with_one_state_give_the_same_sequences(world, alice):
    instruction = world.instruction(MINT, 5, destination=alice)
    first, second = (world.adapter.prepare([instruction], world.state) for _ in range(2))
    assert first == second
    world.record(instruction)
    third = world.adapter.prepare([world.instruction(MINT, 6, destination=alice)], world.state)
    assert third.transactions[0].sequence != first.transactions[0].sequence


def test_many_instructions_share_transactions_as_far_as_nonces_go(world):
    owners = [Keypair().pubkey() for _ in range(40)]
    instructions = [world.instruction(MINT, place + 1, destination=owner) for place, owner in enumerate(owners)]
    prepared = world.adapter.prepare(instructions, world.state)
    taken = [number for one in prepared.transactions for number in one.instructions]
    assert len(prepared.transactions) == 3, "one nonce is kept for stops"
    assert taken == [one.instruction for one in instructions[: len(taken)]]
    assert 12 <= len(taken) < 40
    observations, landed = world.carry_out(*instructions)
    assert len(landed) == 3
    minted = [(one.instruction, one.raw) for one in observations if one.kind == ObservationKind.OBSERVATION_KIND_MINT]
    assert sorted(minted) == sorted((one.instruction, one.raw) for one in instructions[: len(taken)])
    assert world.units(*owners[: len(taken)]) == [sum(range(1, len(taken) + 1)), *range(1, len(taken) + 1)]


def test_options_that_cannot_be(world):
    for options, words in (({"nonces": "1"}, "kept for stops"), ({"batch": "0"}, "at least one"), ({"batch": "two"}, "not a whole number")):
        with pytest.raises(ValueError, match=words):
            connect(dataclasses.replace(world.settings, options=options))
    by_two = connect(dataclasses.replace(world.settings, options={"nonces": "4", "batch": "2"}))
    asked = [world.instruction(MINT, 1, destination=Keypair().pubkey()) for _ in range(5)]
    assert [len(one.instructions) for one in by_two.prepare(asked, world.state).transactions] == [2, 2, 1]
    assert by_two.describe().instructions_per_transaction_max == 2
    by_two.close()


def test_nothing_is_concluded_from_a_node_behind_the_books(world, alice):
    """A holder thawed at the cursor may still be frozen there, and a mint to him be refused for ever."""
    ahead = ChainPosition(number=world.node.client.latest_slot() + 100_000, hash="x")
    for asked in (world.instruction(MINT, 1, destination=alice), world.instruction(BURN, 1, source=alice)):
        with pytest.raises(ChainUnavailable, match="before the cursor"):
            world.adapter.prepare([asked], dataclasses.replace(world.state, cursor=ahead))


def test_one_that_failed_in_company_goes_alone(world, alice):
    marked = world.instruction(MINT, 1, destination=alice, failure=ChainFailure.CHAIN_FAILURE_IN_COMPANY)
    others = [world.instruction(MINT, 1, destination=alice) for _ in range(2)]
    prepared = world.adapter.prepare([others[0], marked, others[1]], world.state)
    in_order = [others[0], marked, others[1]]
    assert [list(one.instructions) for one in prepared.transactions] == [[one.instruction] for one in in_order]


def test_freezing_and_seizing(world, alice, bob):
    world.carry_out(world.instruction(MINT, 1_000, destination=alice))
    freeze = world.instruction(FREEZE, source=alice, frozen=True)
    observations, _ = world.carry_out(freeze)
    assert [(one.kind, one.value, one.instruction, one.source) for one in observations] == [
        (ObservationKind.OBSERVATION_KIND_FREEZE, "true", freeze.instruction, world.account(alice))
    ]
    again = world.instruction(FREEZE, source=alice, frozen=True)
    assert world.record(again).satisfied == (again.instruction,)
    barred = world.instruction(MINT, 1, destination=alice)
    [refused] = world.record(barred).refusals
    assert (refused.instruction, refused.failure) == (barred.instruction, ChainFailure.CHAIN_FAILURE_ACCOUNT_BARRED)
    observations, _ = world.carry_out(world.instruction(FORCE, 400, alice, bob))
    assert kinds(observations) == ["TRANSFER"]  # the thaw and freeze around it change nothing that lasts
    assert world.token.account(world.token.open(alice)).is_frozen
    assert world.units(alice, bob) == [1_000, 600, 400]
    observations, _ = world.carry_out(world.instruction(BURN, 100, source=alice))  # its guard enforces, and need not burn too
    assert kinds(observations) == ["BURN"]
    observations, _ = world.carry_out(world.instruction(FREEZE, source=alice, frozen=False))
    assert [one.value for one in observations] == ["false"]


def test_what_a_freeze_that_may_still_land_decides_waits_for_it(world, alice, bob):
    """A seizure made before the freeze landed would fail for ever, and a mint made before the thaw be refused for ever."""
    world.carry_out(world.instruction(MINT, 100, destination=alice))
    freeze = world.instruction(FREEZE, source=alice, frozen=True)
    seizure, other = world.instruction(FORCE, 40, alice, bob), world.instruction(MINT, 1, destination=bob)
    prepared = world.record(freeze, seizure, other)
    assert [list(one.instructions) for one in prepared.transactions] == [[freeze.instruction], [other.instruction]]
    assert not prepared.refusals and not prepared.waiting
    assert not world.record(seizure).transactions, "the freeze is recorded, and may land at any time"
    for one in world.open:
        world.adapter.send(one.versions[0])
    world.read_until_landed()
    world.carry_out(seizure)
    thaw, mint = world.instruction(FREEZE, source=alice, frozen=False), world.instruction(MINT, 5, destination=alice)
    prepared = world.record(thaw, mint)
    assert [list(one.instructions) for one in prepared.transactions] == [[thaw.instruction]]
    assert not prepared.refusals
    world.adapter.send(world.open[0].versions[0])
    world.read_until_landed()
    world.carry_out(mint)
    assert world.units(alice, bob) == [106, 65, 41]


def test_a_seizure_goes_from_a_frozen_to_a_frozen_account(world, alice, bob):
    world.carry_out(world.instruction(MINT, 100, destination=alice))
    world.carry_out(*(world.instruction(FREEZE, source=owner, frozen=True) for owner in (alice, bob)))
    seizure = world.instruction(FORCE, 40, alice, bob, legal_reference="court order 12/2026, \N{SNOWMAN}" + 110 * "\N{SNOWMAN}")
    observations, [landed] = world.carry_out(seizure)
    assert [(one.kind, one.instruction) for one in observations] == [(ObservationKind.OBSERVATION_KIND_TRANSFER, seizure.instruction)]
    assert all(world.token.account(world.token.open(owner)).is_frozen for owner in (alice, bob))
    [memo] = decode(world.node.client.transaction(landed.transaction)).memos
    assert memo.startswith(f"stockledger:acme/{seizure.instruction} court order 12/2026, \N{SNOWMAN}")
    assert world.units(alice, bob) == [100, 60, 40]


def test_enforcement_lifts_the_one_pause_and_restores_it(world, alice, bob):
    world.carry_out(world.instruction(MINT, 100, destination=alice))
    world.carry_out(world.instruction(PAUSE, operations=[Operation.OPERATION_TRANSFER]))
    seizure, again = world.instruction(FORCE, 40, alice, bob), world.instruction(FORCE, 1, alice, bob)
    forced = world.instruction(BURN, 5, source=alice, legal_reference="order 13")
    plain, resume = world.instruction(BURN, 5, source=alice), world.instruction(PAUSE)
    prepared = world.record(seizure, again, resume)
    assert [list(one.instructions) for one in prepared.transactions] == [[seizure.instruction]]
    assert not world.record(resume).transactions, "a resume that lands first would leave the mint paused in the end"
    world.adapter.send(world.open[0].versions[0])
    observations, _ = world.read_until_landed()
    assert kinds(observations) == ["TRANSFER"], "nothing that lasts has happened to the pause"
    assert world.token.read().is_paused
    assert world.record(plain).waiting == {plain.instruction: ChainFailure.CHAIN_FAILURE_PAUSED}
    observations, _ = world.carry_out(forced)
    assert kinds(observations) == ["BURN"]
    enforcing = [key for key in world.chain_keys if ChainKeyRole.CHAIN_KEY_ROLE_PAUSER not in key.roles]
    without = ProjectionState([world.deployment], enforcing, [], world.cursor)
    assert world.adapter.prepare([again], without).waiting == {again.instruction: ChainFailure.CHAIN_FAILURE_PAUSED}
    world.carry_out(resume)
    assert world.units(alice, bob) == [95, 55, 40]


def test_others_who_resume_and_pause_are_seen(world):
    mint, guard = world.token.mint, world.token.guard
    both = [token_2022.resume(mint, guard.public_key), token_2022.pause(mint, guard.public_key)]
    landed = world.node.run(both, guard)
    assert landed.error is None and world.token.read().is_paused
    world.node.wait_final(landed.slot)
    seen = wait_for(lambda: world.adapter.read(world.cursor, [world.deployment], []))
    assert [list(one.operations) for one in seen.observations if one.number == landed.slot] == [[], [1, 2, 3]]


def test_a_target_of_a_busy_mint_is_found_reached(world):
    """Movements after the newest final slot say nothing of a pause; a pause there does."""
    resume = world.instruction(PAUSE)
    world.token.holder(units=1)
    assert world.adapter.prepare([resume], world.state).satisfied == (resume.instruction,)
    paused, resumed = (change(world.token.mint, world.token.guard.public_key) for change in (token_2022.pause, token_2022.resume))
    assert world.node.run([paused, resumed], world.token.guard).error is None
    assert world.adapter.prepare([resume], world.state).satisfied == ()


def test_units_in_more_accounts_than_a_transaction_can_name_stop_nobody_else(world, bob):
    owner = world.node.key()
    world.token.mint_to(world.token.open(owner.public_key), 30)
    for _ in range(30):
        account = world.token.open_another(owner.public_key)
        assert world.token.transfer(owner, world.token.open(owner.public_key), account, 1).error is None
    everything, some = world.instruction(FORCE, 30, owner.public_key, bob), world.instruction(FORCE, 5, owner.public_key, bob)
    prepared = world.record(everything, some)
    assert prepared.waiting == {everything.instruction: ChainFailure.CHAIN_FAILURE_OTHER}
    assert [list(one.instructions) for one in prepared.transactions] == [[some.instruction]]


def test_who_opens_many_accounts_is_frozen_all_the_same(world):
    owner = world.node.key()
    accounts = [world.token.open(owner.public_key), *(world.token.open_another(owner.public_key) for _ in range(14))]
    freeze = world.instruction(FREEZE, source=owner.public_key, frozen=True)
    prepared = world.record(freeze)
    assert [list(one.instructions) for one in prepared.transactions] == [[]], "a part of it, which does not end it"
    assert not world.record(freeze).transactions, "one part after the other"
    world.adapter.send(world.open[0].versions[0])
    observations, _ = world.read_until_landed()
    assert not observations
    observations, [landed] = world.carry_out(freeze)
    assert ([one.instruction for one in observations], landed.failure) == ([freeze.instruction], 0)
    assert all(world.token.account(account).is_frozen for account in accounts)


def test_an_owner_without_an_account_is_frozen_all_the_same(world, alice):
    nothing = world.instruction(FREEZE, source=alice, frozen=False)
    assert world.record(nothing).satisfied == (nothing.instruction,)
    observations, _ = world.carry_out(world.instruction(FREEZE, source=alice, frozen=True))
    assert kinds(observations) == ["FREEZE"]
    barred = world.instruction(MINT, 1, destination=alice)
    assert [one.instruction for one in world.record(barred).refusals] == [barred.instruction]


def test_the_pause_makes_movements_wait_and_enforcement_not(world, alice):
    world.carry_out(world.instruction(MINT, 10, destination=alice))
    observations, _ = world.carry_out(world.instruction(PAUSE, operations=[Operation.OPERATION_TRANSFER]))
    assert [sorted(one.operations) for one in observations] == [[1, 2, 3]]
    waiting = [world.instruction(MINT, 1, destination=alice), world.instruction(BURN, 1, source=alice)]
    assert world.record(*waiting).waiting == {one.instruction: ChainFailure.CHAIN_FAILURE_PAUSED for one in waiting}
    world.carry_out(world.instruction(FREEZE, source=alice, frozen=True))
    observations, _ = world.carry_out(world.instruction(PAUSE))
    assert (kinds(observations), list(observations[0].operations)) == (["PAUSE"], [])


def test_a_multiplier_is_announced_and_read_back(world):
    soon = Timestamp(seconds=world.node.clock() + 5_000)
    instruction = world.instruction(MULTIPLIER, multiplier=str(SCALE // 40), effective_time=soon)
    [seen], _ = world.carry_out(instruction)
    assert (seen.kind, seen.instruction) == (ObservationKind.OBSERVATION_KIND_MULTIPLIER, instruction.instruction)
    assert (seen.value, seen.effective_time) == ("25000000000000001", soon)
    assert seen.encoding == encode_multiplier(SCALE // 40).to_bytes(8, "little")
    again = world.instruction(MULTIPLIER, multiplier=str(SCALE // 40), effective_time=soon)
    assert world.record(again).satisfied == (again.instruction,)


def test_a_checkpoint_is_kept(world):
    anchored = world.instruction(ANCHOR, note=b"example.com/acme\n70000\nmqjx0gXlB...=\n")
    anchored.token = anchored.instrument = ""
    observations, [landed] = world.carry_out(anchored)
    assert (observations, landed.failure) == ([], 0)


def test_what_others_do_is_read_as_theirs(world, alice):
    world.carry_out(world.instruction(MINT, 10, destination=alice))
    world.token.holder(units=7)  # behind the ledger's back
    successor = world.node.key().public_key
    handed = token_2022.set_authority(world.token.mint, token_2022.AuthorityKind.FREEZE, world.token.guard.public_key, successor)
    landed = world.node.run([handed], world.token.guard)
    observed = []

    def read():
        one = world.adapter.read(world.cursor, [world.deployment], [])
        if one is not None:
            observed.extend(one.observations)
            world.cursor = one.through
        return world.cursor.number >= landed.slot

    wait_for(read)
    assert kinds(observed) == ["MINT", "AUTHORITY"]
    assert [one.instruction for one in observed] == ["", ""]
    assert (observed[1].subject, observed[1].value) == ("freeze", str(successor))
    freeze = world.instruction(FREEZE, source=alice, frozen=True)
    assert world.record(freeze).waiting == {freeze.instruction: ChainFailure.CHAIN_FAILURE_KEY_WITHOUT_ROLE}


def test_a_transaction_that_fails_says_why(world, alice):
    """The holder is frozen after the mint was recorded and before it lands."""
    account = world.token.open(alice)
    world.record(world.instruction(MINT, 5, destination=alice))
    assert world.node.run([token_2022.freeze(world.token.mint, account, world.token.guard.public_key)], world.token.guard).error is None
    world.adapter.send(world.open[0].versions[0])
    observations, [landed] = world.read_until_landed()
    assert kinds(observations) == ["FREEZE"]
    assert landed.failure == ChainFailure.CHAIN_FAILURE_ACCOUNT_BARRED
    assert "0x11 (account is frozen)" in landed.failure_text
    assert world.units(alice) == [0, 0]


def test_what_failed_is_tried_again_as_another_transaction(world, alice):
    """The token is paused while the mint is under way. This node leaves the nonce as it was, real ones advance it."""
    guard, mint = world.token.guard, world.instruction(MINT, 5, destination=alice)
    world.record(mint)
    [failing] = world.open
    assert world.node.run([token_2022.pause(world.token.mint, guard.public_key)], guard).error is None
    world.adapter.send(failing.versions[0])
    _, [landed] = world.read_until_landed()
    assert landed.failure == ChainFailure.CHAIN_FAILURE_PAUSED
    world.node.wait_final(world.node.run([token_2022.resume(world.token.mint, guard.public_key)], guard).slot)
    world.record(mint)
    [same] = world.open
    assert same.versions == failing.versions
    assert world.adapter.fate(failing, world.cursor).kind is FateKind.LANDED
    assert world.adapter.fate(same, world.cursor).kind is FateKind.UNSEEN, "what landed before it was recorded is another one"
    world.open.clear()
    mint.attempt_count = 1
    world.carry_out(mint)
    assert world.units(alice) == [5, 5]


def test_dead_with_its_proof_and_cancelled_on_purpose(world, alice):
    world.record(world.instruction(MINT, 5, destination=alice))
    recorded = world.open.pop()
    cancelling = world.adapter.replace(recorded, cancel=True)
    assert (list(cancelling.instructions), cancelling.sequence, cancelling.replacement) == ([], recorded.versions[0].sequence, True)
    world.adapter.send(cancelling)
    final = wait_for(lambda: (f := world.adapter.fate(recorded, world.adapter.finalised())).kind is FateKind.DEAD and f)
    assert final.death.proof == DeathProof.DEATH_PROOF_VALUE_ADVANCED
    assert final.death.sequence == recorded.versions[0].sequence
    world.adapter.send(recorded.versions[0])
    both = OpenTransaction(chain=world.chain, versions=[recorded.versions[0], cancelling], cursor_number=recorded.cursor_number)
    assert world.adapter.fate(both, world.adapter.finalised()).kind is FateKind.LANDED
    assert world.units(alice) == [0, 0]


def test_a_higher_fee_only_where_the_chain_asks_for_it(chain, world, alice):
    world.record(world.instruction(MINT, 5, destination=alice))
    assert world.adapter.replace(world.open[0]) is None
    dearer = connect(ChainSettings(world.chain, world.settings.urls, world.settings.signers, options={"priority_microlamports": "5000"}))
    assert dearer.fate(world.open[0], world.cursor).underpriced
    version = dearer.replace(world.open[0])
    assert (version.replacement, version.sequence) == (True, world.open[0].versions[0].sequence)
    assert int(version.fee_max) > int(world.open[0].versions[0].fee_max)
    first = world.open[0].versions[0].payload
    world.open[0].versions.append(version)
    assert dearer.replace(world.open[0]) is None
    world.adapter.send(world.open[0].versions[0])
    world.adapter.send(version)
    _, [landed] = world.read_until_landed()
    assert landed.payload_digest == hashlib.sha256(first).digest()
    assert world.units(alice) == [5, 5]
    dearer.close()


def test_ranges_end_at_whole_slots_and_begin_each_other(world, alice):
    start = world.cursor
    for units in (1, 2, 3):
        world.carry_out(world.instruction(MINT, units, destination=alice))
    whole = world.adapter.read(start, [world.deployment], [])
    cut = world.adapter.read(start, [world.deployment], [], observations_max=2)
    assert [one.raw for one in whole.observations] == ["1", "2", "3"]
    assert [one.raw for one in cut.observations] == ["1", "2"]
    rest = world.adapter.read(cut.through, [world.deployment], [])
    assert [one.raw for one in rest.observations] == ["3"]
    limited = world.adapter.read(start, [world.deployment], [], through_number=cut.through.number)
    assert list(limited.observations) == list(cut.observations)
    assert world.adapter.read(world.adapter.finalised(), [world.deployment], []) is None or world.adapter.finalised()


def test_another_hash_at_the_cursor_is_named(world):
    wrong = ChainPosition(number=world.cursor.number, hash="4uQeVj5tqViQh7yWWGStvkEG1Zmhx6uasJtWCJziofM")
    wait_for(lambda: world.adapter.finalised().number > wrong.number)
    with pytest.raises(HistoryChanged, match=f"at {wrong.number} the ledger has 4uQeVj5"):
        world.adapter.read(wrong, [world.deployment], [])


def test_what_the_chain_cannot_do(world, alice):
    for kind in ("SET_ALLOTMENT", "REPORT_RESERVE", "FREEZE_UNITS"):
        asked = world.instruction((getattr(InstructionKind, f"INSTRUCTION_KIND_{kind}"), 0), source=alice)
        with pytest.raises(ChainIncapable, match=f"INSTRUCTION_KIND_{kind}"):
            world.adapter.prepare([asked], world.state)


def test_too_few_units_are_refused_once_that_is_final(world, alice):
    world.carry_out(world.instruction(MINT, 10, destination=alice))
    short = world.instruction(BURN, 11, source=alice)
    [refused] = world.record(short).refusals
    assert (refused.failure, refused.failure_text) == (ChainFailure.CHAIN_FAILURE_UNITS_INSUFFICIENT, f"{alice} has 10 raw units, not 11")
    enough = world.adapter.prepare([world.instruction(BURN, 10, source=alice)], world.state)
    assert (len(enough.transactions), enough.refusals) == (1, ())


def test_keys_and_coin(world, alice):
    mint = world.instruction(MINT, 10, destination=alice)
    without = connect(dataclasses.replace(world.settings, signers={}))
    with contextlib.closing(without), pytest.raises(KeyMissing, match=str(world.token.minter.public_key)):
        without.prepare([mint], world.state)
    retired = [ChainKey(key=key.key, roles=key.roles, retired=ChainKeyRole.CHAIN_KEY_ROLE_MINTER in key.roles) for key in world.chain_keys]
    state = ProjectionState([world.deployment], retired, [], world.cursor)
    assert world.adapter.prepare([mint], state).waiting == {mint.instruction: ChainFailure.CHAIN_FAILURE_KEY_WITHOUT_ROLE}
    poor = World(world.node, priority_microlamports="1000000", priority_max="1000000000000")
    poor.adapter._prices = PriceRange(10**12, 10**12)
    with contextlib.closing(poor.adapter), pytest.raises(FundsInsufficient, match="needed"):
        poor.adapter.prepare([poor.instruction(MINT, 10, destination=alice)], poor.state)


def leave(world, lamports):
    """Take from the fee payer what it has beyond some lamports."""
    payer, client = world.keys["payer"], world.node.client
    excess = client.lamports(payer.public_key) - lamports
    taken = world.node.run([transfer_lamports(payer.public_key, world.node.payer.public_key, excess)], payer)
    assert taken.error is None, taken.error
    world.node.wait_final(taken.slot)


def short_of(world, *instructions):
    """Return what preparing needs and finds, both in lamports, where it is too little."""
    with pytest.raises(FundsInsufficient) as refused:
        world.record(*instructions)
    assert refused.value.key == world.account(world.keys["payer"].public_key)
    return refused.value.needed, refused.value.found


FEE, NEW_ACCOUNT, KEPT = 2 * 5_000, 2_136_720, 890_880
"""Lamports: two signatures; what 179 bytes must hold; and no bytes, as the payer itself."""


def test_the_lamports_of_a_new_account_are_there_before_anything_is_recorded(world, alice, bob):
    mint = world.instruction(MINT, 10, destination=alice)
    leave(world, FEE + NEW_ACCOUNT + KEPT - 1)
    assert short_of(world, mint) == (FEE + NEW_ACCOUNT + KEPT, FEE + NEW_ACCOUNT + KEPT - 1)
    world.node.fund(world.keys["payer"].public_key, 1)
    world.carry_out(mint)
    assert world.node.client.lamports(world.keys["payer"].public_key) == KEPT
    assert short_of(world, world.instruction(MINT, 10, destination=alice)) == (FEE + KEPT, KEPT)
    assert short_of(world, *(world.instruction(MINT, 10, destination=bob) for _ in range(2))) == (FEE + NEW_ACCOUNT + KEPT, KEPT)


def test_lamports_sent_to_where_an_account_is_to_stand_stop_nothing(world, alice):
    """Anybody can send some to an address; the account that is opened there takes them for its own."""
    world.node.fund(associated_account(alice, world.token.mint), 1_000_000)
    leave(world, FEE + NEW_ACCOUNT - 1_000_000 + KEPT - 1)
    mint, frozen = world.instruction(MINT, 10, destination=alice), world.instruction(FREEZE, source=alice, frozen=True)
    assert short_of(world, mint)[0] == FEE + NEW_ACCOUNT - 1_000_000 + KEPT
    world.node.fund(world.keys["payer"].public_key, FEE + 1)
    world.carry_out(mint)
    world.carry_out(frozen)
    assert world.units(alice) == [10, 10]


def test_what_is_recorded_counts_until_it_is_paid(chain, alice, bob):
    with contextlib.closing(World(chain, batch="1")) as world:
        leave(world, FEE + NEW_ACCOUNT + KEPT + FEE)
        first, second = world.instruction(MINT, 10, destination=alice), world.instruction(MINT, 10, destination=bob)
        prepared = world.record(first, second)
        assert [list(one.instructions) for one in prepared.transactions] == [[first.instruction]], "as many as can be paid"
        assert short_of(world, second) == (2 * (FEE + NEW_ACCOUNT) + KEPT, FEE + NEW_ACCOUNT + KEPT + FEE)
        world.carry_out()
        assert short_of(world, second) == (FEE + NEW_ACCOUNT + KEPT, KEPT + FEE)
        assert world.units(alice, bob) == [10, 10, 0]


def test_too_few_lamports_are_no_lack_of_units(world, alice):
    """The payer's coin is taken away after the transaction was recorded: it is not sent, and of one that lands it is said so."""
    world.record(world.instruction(MINT, 10, destination=alice))
    leave(world, NEW_ACCOUNT)
    [recorded] = world.open
    with pytest.raises(FundsInsufficient, match=f"has {NEW_ACCOUNT} of the chain's coin, needed {FEE + NEW_ACCOUNT + KEPT}"):
        world.adapter.send(recorded.versions[0])
    assert world.adapter.fate(recorded, world.cursor).kind is FateKind.UNSEEN
    signers = [world.keys[name] for name in ("payer", "minter")]
    assert world.node.land(sign(recorded.versions[0].payload, signers)).error is not None
    _, [landed] = world.read_until_landed()
    assert landed.failure == ChainFailure.CHAIN_FAILURE_FEE_INSUFFICIENT
    assert "custom program error 0x1 (too few lamports for a new account)" in landed.failure_text


def test_a_node_of_another_chain_and_no_node_at_all(world):
    other = connect(ChainSettings("solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", world.settings.urls))
    with contextlib.closing(other), pytest.raises(NodeUnfit, match="is one of"):
        other.describe()
    with nodes(world, "http://127.0.0.1:9") as nobody, pytest.raises(ChainUnavailable):
        nobody.finalised()


@contextlib.contextmanager
def nodes(world, *urls):
    """Connect to some nodes, which are not waited for."""
    with contextlib.closing(connect(dataclasses.replace(world.settings, urls=urls))) as adapter:
        for client in adapter._clients:
            client._pause = lambda _seconds: None
        yield adapter


@pytest.mark.parametrize(
    "behaviour",
    [
        hang_up,
        answer_raw("429 Too Many Requests", b""),
        answer_raw("403 Forbidden", b"no such key"),
        answer_raw("200 OK", b"<html>welcome</html>"),
        answer("5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d"),
        answer_error(-32601, "Method not found"),
        answer_error(-32005, "Node is unhealthy"),
    ],
    ids=["away", "limits", "refuses", "garbage", "of another chain", "knows nothing", "behind"],
)
def test_another_node_stands_in_at_once_whatever_the_first_one_does(world, alice, *, behaviour):
    mint = world.instruction(MINT, 5, destination=alice)
    with faulty_server() as server, contextlib.ExitStack() as stack:
        server.behaviours = [behaviour]

        def fresh():
            return stack.enter_context(nodes(world, server.url, *world.settings.urls))

        assert fresh().describe().node.startswith("solana-core ")
        assert fresh().inspect(world.deployment)
        assert fresh().finalised().number >= world.cursor.number
        world.adapter.close()
        world.adapter = fresh()
        world.record(mint)
        assert fresh().replace(world.open[0]) is None
        assert fresh().fate(world.open[0], world.cursor).kind is FateKind.UNSEEN
        fresh().send(world.open[0].versions[0])
        world.adapter = fresh()
        world.read_until_landed()
        world.adapter = fresh()
        assert world.units(alice) == [5, 5]
        asked = len(server.requests)
        assert world.adapter.finalised().number
        assert len(server.requests) == asked, "what failed is not asked first again"


@pytest.mark.parametrize(
    ("method", "fault", "words"),
    [
        ("getTransaction", lambda *_: (200, b"{}", {}), "no JSON-RPC 2.0"),
        (
            "getBlock",
            lambda request, _: (200, json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": None}).encode(), {}),
            "has no block",
        ),
    ],
    ids=["garbage", "pruned"],
)
def test_an_answer_comes_from_one_node_alone(world, alice, *, method, fault, words):
    """The first node fails in the middle of a range: the second is asked all of it anew."""
    start, url = world.cursor, world.node.node.rpc_url
    world.carry_out(world.instruction(MINT, 5, destination=alice))
    with scripted_proxy(url) as first, scripted_proxy(url) as second:
        first.always = lambda request, told: fault(request, told) if request["method"] == method else (200, told, {})
        with nodes(world, first.url, second.url) as adapter:
            read = adapter.read(start, [world.deployment], [])
        with nodes(world, second.url) as alone:
            second.requests, asked = [], second.requests
            assert alone.read(start, [world.deployment], [], through_number=read.through.number) == read
        with nodes(world, first.url) as alone, pytest.raises(NodeUnfit, match=words):
            alone.read(start, [world.deployment], [])
    assert kinds(read.observations) == ["MINT"]
    assert {each["method"] for each in asked} == {each["method"] for each in second.requests}


def test_no_node_is_left_for_what_is_a_signers_fault(world, alice):
    class Strange:
        def __init__(self, account):
            self.account = account

        def sign(self, _payload):
            return bytes(64)

    world.record(world.instruction(MINT, 5, destination=alice))
    url, signers = world.node.node.rpc_url, {account: Strange(account) for account in world.settings.signers}
    with (
        scripted_proxy(url) as second,
        contextlib.closing(connect(dataclasses.replace(world.settings, urls=(url, second.url), signers=signers))) as adapter,
    ):
        with pytest.raises(KeyMissing, match="is not its signature"):
            adapter.send(world.open[0].versions[0])
        adapter.finalised()
        assert not second.requests


def test_what_is_no_nodes_fault_stops_no_other_instruction(world, alice):
    """A multiplier that no binary64 comes near is the instruction's fault."""
    wrong = world.instruction(MULTIPLIER, multiplier="0", effective_time=Timestamp(seconds=1))
    with pytest.raises(ChainIncapable, match="0"):
        world.adapter.prepare([wrong], world.state)


def test_finality_never_falls(world):
    numbers = []
    for _ in range(20):
        numbers.append(world.adapter.finalised().number)
        time.sleep(0.01)
    assert numbers == sorted(numbers)
    assert numbers[-1] <= world.node.client.finalized_slot()


def patiently(call):
    """Ask again where the adapter says that this can help, as its workers do."""
    for _ in range(20):
        with contextlib.suppress(ChainUnavailable):
            return call()
    raise AssertionError("unavailable 20 times over")


def test_a_fifth_of_all_calls_spoiled_comes_to_the_same_end(world, alice, bob):
    with FaultProxy(world.node.node.rpc_url, share=0.2, seed=20_261_122, delay_seconds=0.2) as proxy:
        adapter = connect(dataclasses.replace(world.settings, urls=(proxy.url,)))
        adapter._clients[0]._pause = lambda _seconds: None
        world.adapter.close()
        world.adapter, observed = adapter, []

        def send_and_read():
            for one in world.open:
                patiently(lambda one=one: adapter.send(one.versions[-1]))
            read = patiently(lambda: adapter.read(world.cursor, [world.deployment], world.open))
            if read is not None:
                world.cursor = read.through
                observed.extend(read.observations)
                assert all(landed.failure == 0 for landed in read.landed)
                world.forget(read.landed)
            return not world.open

        asked = []
        for units in range(1, 8):
            asked.append(world.instruction(MINT, 100 * units, destination=alice))
            patiently(lambda: world.record(asked[-1]))
            wait_for(send_and_read)
            asked.append(world.instruction(FORCE, units, alice, bob))
            patiently(lambda: world.record(asked[-1]))
            wait_for(send_and_read)
        assert [one.instruction for one in observed] == [one.instruction for one in asked]
        assert patiently(lambda: world.units(alice, bob)) == [2_800, 2_772, 28]
        assert all(proxy.told[fault] for fault in FAULTS), proxy.told
        assert sum(proxy.told[fault] for fault in FAULTS) > proxy.told.total() // 7


def test_it_is_found_by_its_namespace():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    points = settings["project"]["entry-points"][ENTRY_POINTS]
    installed = [importlib.metadata.EntryPoint(name=name, value=value, group=ENTRY_POINTS) for name, value in points.items()]
    assert find_adapter("solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", installed) is connect


def test_the_holdings_of_many_owners_come_together(world):
    holders = [Keypair().pubkey() for _ in range(60)]
    for owner in holders[:3]:
        world.token.mint_to(world.token.open(owner), 7)
    assert world.units(*holders) == [21, 7, 7, 7, *([0] * 57)]


def test_units_in_several_accounts_of_one_owner_are_one_holding(world, bob):
    """A second account beside the associated one: burned from both, and reported as one."""
    owner = world.node.key()
    second = world.token.open_another(owner.public_key)
    world.token.mint_to(world.token.open(owner.public_key), 30)
    world.token.mint_to(second, 12)
    assert world.units(owner.public_key) == [42, 42]
    inside = world.token.transfer(owner, second, world.token.open(owner.public_key), 2)
    world.node.wait_final(inside.slot)
    burned = world.instruction(BURN, 40, source=owner.public_key)
    observations, _ = world.carry_out(burned)
    assert kinds(observations) == ["MINT", "MINT", "BURN"]  # what goes between two of one owner is no movement
    assert (observations[-1].raw, observations[-1].instruction) == ("40", burned.instruction)
    assert world.units(owner.public_key, bob) == [2, 2, 0]
