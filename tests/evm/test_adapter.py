"""The adapter's verbs on a real node: from instructions to what the reader tells of them, and nothing twice."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from evm_market import MULTIPLIER, Market
from evm_node import CHAIN_ID, ROOT
from evm_world import CHAIN, DEPTH, World
from google.protobuf.timestamp_pb2 import Timestamp

from chain_adapters.evm import roles, token_calls
from chain_adapters.evm.adapter import TIP_PATIENCE_SECONDS, connect
from chain_adapters.evm.codec import encode_call
from chain_adapters.evm.deployment import plan_issuer, plan_token
from chain_adapters.evm.token_calls import Pause
from chain_adapters.evm.transactions import read_payload
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
from ledger.errors import InvalidRequest
from stockledger.v1.chains_pb2 import (
    ChainCapability,
    ChainFailure,
    ChainKey,
    ChainPosition,
    DeathProof,
    Deployment,
    DeploymentKind,
    ObservationKind,
    OpenTransaction,
)
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.reserves_pb2 import Reserve

K = ObservationKind
NATIVE = DeploymentKind.DEPLOYMENT_KIND_NATIVE
GWEI = 10**9


@pytest.fixture
def world(market: Market) -> World:
    return World(market)


def kinds(observations):
    return [ObservationKind.Name(one.kind).removeprefix("OBSERVATION_KIND_") for one in observations]


def test_the_node_is_described_and_the_token_inspected(world: World):
    adapter = world.fresh()
    assert adapter.describe().chain == CHAIN
    assert adapter.describe().node.startswith("anvil")
    able = adapter.inspect(world.deployment)
    assert ChainCapability.CHAIN_CAPABILITY_PAUSE_SEPARATELY in able
    assert ChainCapability.CHAIN_CAPABILITY_ANCHOR not in able, "none is named"
    with pytest.raises(DeploymentUnfit, match="has 8 decimals, registered are 9"):
        adapter.inspect(Deployment(token=world.token, decimals=9))
    with pytest.raises(DeploymentUnfit, match="there is no token"):
        adapter.inspect(Deployment(token=f"{CHAIN}/erc20:{world.market['alice']}", decimals=8))


def test_accounts_have_one_spelling(world: World):
    adapter, alice = world.fresh(), world.at("alice")
    assert adapter.check_account(alice) == alice
    assert adapter.check_account(f"{CHAIN}:{world.market['alice'].lower()}") == alice
    swapped = f"{CHAIN}:0x{world.market['alice'][2:].swapcase()}"
    for wrong in (swapped, f"{CHAIN}:0x12", "eip155:1:" + world.market["alice"], "book:alice"):
        with pytest.raises(InvalidRequest):
            adapter.check_account(wrong)


def test_a_node_of_another_chain_is_refused(world: World):
    adapter = connect(ChainSettings("eip155:1", (world.node.url,)))
    for ask in (adapter.describe, adapter.finalised):
        with pytest.raises(NodeUnfit, match=f"eip155:{CHAIN_ID}"):
            ask()
    with pytest.raises(ValueError, match="no EVM chain"):
        connect(ChainSettings("solana:1", (world.node.url,)))


def test_mints_go_together_and_are_read_as_ours(world: World):
    wanted = [world.wanted("MINT", units, destination=name) for units, name in ((5, "alice"), (6, "bob"), (7, "alice"))]
    prepared = world.record(*wanted)
    (made,) = prepared.transactions
    assert list(made.instructions) == ["1-0", "2-0", "3-0"]
    for _ in range(5):
        world.send()
    world.mine(DEPTH + 1)
    observations, landed = world.read()
    assert [(one.instruction, one.destination, one.raw) for one in observations] == [
        ("1-0", world.at("alice"), "5"), ("2-0", world.at("bob"), "6"), ("3-0", world.at("alice"), "7"),
    ]  # fmt: skip
    assert [one.payload_digest for one in landed] == [hashlib.sha256(made.payload).digest()]
    assert int(landed[0].fee) > 0
    assert (world.market.units("alice"), world.market.supply()) == (12, 18)
    assert world.read() == ([], [])


def test_every_kind_of_instruction_is_carried_out_and_seen(world: World):
    market = world.market
    world.carry_out(world.wanted("MINT", 1000, destination="alice"))
    done = [
        (world.wanted("FORCE_TRANSFER", 100, "alice", "bob", legal_reference="court order 12"), "TRANSFER"),
        (world.wanted("BURN", 50, "alice"), "BURN"),
        (world.wanted("FREEZE", source="alice", frozen=True), "FREEZE"),
        (world.wanted("FREEZE_UNITS", 33, "bob"), "FREEZE_UNITS"),
        (world.wanted("PAUSE", operations=[Operation.OPERATION_ISSUE]), "PAUSE"),
        (world.wanted("SET_MULTIPLIER", multiplier=str(2 * MULTIPLIER)), "MULTIPLIER"),
        (world.wanted("SET_ALLOTMENT", 77), "ALLOTMENT"),
    ]
    for instruction, kind in done:
        observations, landed = world.carry_out(instruction)
        effects = [one for one in observations if one.kind != ObservationKind.OBSERVATION_KIND_MULTIPLIER_IN_FORCE]
        assert kinds(effects) == [kind]
        assert [one.instruction for one in effects] == [instruction.instruction]
        assert (observations != effects) == (kind == "MULTIPLIER"), "set for a time that is past, it is in force at once"
        assert [one.failure for one in landed] == [ChainFailure.CHAIN_FAILURE_UNSPECIFIED]
        if kind not in ("TRANSFER", "BURN"):
            assert world.fresh().prepare([instruction], world.state).satisfied == (instruction.instruction,)
    assert (market.units("alice"), market.units("bob"), market.supply()) == (850, 100, 950)


def test_what_others_do_is_told_and_nobodys(world: World):
    world.carry_out(world.wanted("MINT", 1000, destination="alice"))
    market = world.market
    market.as_owner("alice", "transfer(address,uint256)", "bob", 10)
    market.as_owner("bridge", "crosschainMint(address,uint256)", "bob", 20)
    market.as_owner("admin", "grantRole(bytes32,address)", hashlib.sha256(b"other").digest(), "mallory")
    world.mine(DEPTH + 1)
    observations, landed = world.read()
    assert kinds(observations) == ["TRANSFER", "MINT", "AUTHORITY"]
    assert {one.instruction for one in observations} == {""}
    assert observations[2].value == market["mallory"]
    assert landed == []
    measured = world.fresh().measure(world.deployment, [world.at("alice"), world.at("mallory")], world.cursor)
    assert measured.position == world.cursor
    assert [one.raw for one in measured.figures] == ["1020", "990", "0"]


def test_a_refusal_for_ever_and_what_only_waits(world: World):
    world.market.deny("bob")
    world.mine(DEPTH)
    barred, poor, fine = (
        world.wanted("MINT", 5, destination="bob"), world.wanted("BURN", 5, "carol"), world.wanted("MINT", 6, destination="alice"),
    )  # fmt: skip
    much = world.wanted("MINT", 10**15, destination="alice")
    prepared = world.fresh().prepare([barred, poor, fine, much], world.state)
    assert {one.instruction: one.failure for one in prepared.refusals} == {
        barred.instruction: ChainFailure.CHAIN_FAILURE_ACCOUNT_BARRED,
        poor.instruction: ChainFailure.CHAIN_FAILURE_UNITS_INSUFFICIENT,
    }
    assert prepared.waiting == {much.instruction: ChainFailure.CHAIN_FAILURE_ALLOTMENT_EXCEEDED}
    assert [list(one.instructions) for one in prepared.transactions] == [[fine.instruction]]
    world.market.deny("alice")
    newly = world.fresh().prepare([fine], world.state)
    assert newly.waiting == {fine.instruction: ChainFailure.CHAIN_FAILURE_ACCOUNT_BARRED}, "not final yet"


def test_a_failure_on_chain_is_read_with_its_cause(world: World):
    world.record(world.wanted("MINT", 5, destination="bob"))
    world.market.deny("bob")
    world.send()
    world.mine(DEPTH + 1)
    observations, (landed,) = world.read()
    assert kinds(observations) == ["BAR"]
    assert landed.failure == ChainFailure.CHAIN_FAILURE_ACCOUNT_BARRED
    assert landed.failure_text.startswith("ERC7943CannotReceive")


def test_a_key_without_role_waits_and_one_without_signer_is_named(market: Market):
    world = World(market, people={"MINTER": "mallory"})
    wanted = world.wanted("MINT", 5, destination="bob")
    assert world.fresh().prepare([wanted], world.state).waiting == {wanted.instruction: ChainFailure.CHAIN_FAILURE_KEY_WITHOUT_ROLE}
    other = ChainKey(key=world.at("alice"), roles=world.keys[0].roles)
    with pytest.raises(KeyMissing, match="MINTER"):
        world.fresh().prepare([wanted], ProjectionState(world.deployments, [other], [], world.cursor))


def test_too_little_gas_money_is_said_with_figures(world: World):
    world.record(world.wanted("MINT", 5, destination="bob"))
    world.node.call("anvil_setBalance", world.market["minter"], hex(1000))
    with pytest.raises(FundsInsufficient) as poor:
        world.fresh().prepare([world.wanted("MINT", 5, destination="bob")], world.state)
    assert poor.value.found == 1000
    with pytest.raises(FundsInsufficient):
        world.send()


def test_what_is_stuck_is_replaced_under_the_same_number(world: World):
    world.record(world.wanted("MINT", 5, destination="bob"))
    (opened,) = world.open
    world.node.call("anvil_setNextBlockBaseFeePerGas", hex(50 * 10**9))
    world.mine()
    world.send()
    world.mine(DEPTH)
    assert world.count("minter") == opened.versions[0].sequence.number
    adapter = world.fresh()
    world.node.call("anvil_setNextBlockBaseFeePerGas", hex(50 * 10**9))
    world.mine()
    assert adapter.fate(opened, world.cursor).underpriced
    newer = adapter.replace(opened)
    assert newer.replacement and newer.sequence == opened.versions[0].sequence
    opened.versions.append(newer)
    assert world.fresh().replace(opened) is None
    world.send()
    world.mine(DEPTH + 1)
    observations, (landed,) = world.read()
    assert [one.instruction for one in observations] == ["1-0"]
    assert landed.payload_digest == hashlib.sha256(newer.payload).digest()
    assert world.market.units("bob") == 5


@contextlib.contextmanager
def full_blocks(world: World, gas_limit: int) -> Iterator[Callable[[int, int], None]]:
    """Give `mine(tip_gwei, seconds)`: a block in which somebody pays that tip, and then there is too little room for `gas_limit`."""
    node = world.node
    usual = node.call("eth_getBlockByNumber", "latest", False)["gasLimit"]

    def mine(tip_gwei: int, seconds: int) -> None:
        fees = {"maxPriorityFeePerGas": hex(tip_gwei * GWEI), "maxFeePerGas": hex((tip_gwei + 1) * GWEI)}
        node.call("eth_sendTransaction", {"from": world.market["mallory"], "to": world.market["mallory"], "gas": hex(21_000), **fees})
        node.mine_at(node.time() + seconds)

    node.call("evm_setAutomine", False)
    node.call("evm_setBlockGasLimit", hex(gas_limit + 20_000))
    try:
        yield mine
    finally:
        node.call("evm_setBlockGasLimit", usual)
        node.call("evm_setAutomine", True)
        world.mine()


def test_what_others_outbid_is_replaced_once_it_has_waited(world: World):
    """Anvil takes transactions by the most they pay, as others do by the tip; both are low here."""
    world.node.call("anvil_setNextBlockBaseFeePerGas", hex(GWEI))
    world.mine()
    world.record(world.wanted("MINT", 5, destination="bob"))
    (opened,) = world.open
    first = read_payload(opened.versions[0].payload)
    assert first.fees.priority == GWEI

    def found() -> tuple[bool, bool]:
        """Ask both verbs; they say the same."""
        return world.fresh().fate(opened, world.cursor).underpriced, world.fresh().replace(opened) is not None

    with full_blocks(world, first.gas_limit) as mine:
        world.send()
        for _ in range(DEPTH + 1):
            mine(5, (TIP_PATIENCE_SECONDS - 1) // (DEPTH + 1))
        assert found() == (False, False), "outbid, but no block is final that was made long enough after it"
        for _ in range(DEPTH):
            mine(5, TIP_PATIENCE_SECONDS)
        assert world.count("minter") == first.nonce, "passed over"
        assert found() == (False, False), "such blocks are there, but not final"
        mine(5, 1)
        assert found() == (True, True)
        limited = connect(dataclasses.replace(world.settings, options={"fee_max_wei": str(first.fees.most)}))
        assert limited.fate(opened, world.cursor).underpriced
        assert limited.replace(opened) is None, "the operator offers no more"
        newer = world.fresh().replace(opened)
        assert read_payload(newer.payload).fees.priority == 5 * GWEI
        world.record_newer(opened, newer)
        for tip in (8, 8, 8):
            mine(tip, 1)
        assert found() == (False, False), "it has to wait again"
        for tip in (5, 5, 5):
            mine(tip, TIP_PATIENCE_SECONDS)
        assert world.count("minter") == first.nonce
        assert found() == (False, False), "nobody pays more"
        dearer = connect(dataclasses.replace(world.settings, options={"priority_min_wei": str(6 * GWEI)}))
        assert dearer.fate(opened, world.cursor).underpriced, "the operator pays more from now on"
        world.send()
        mine(5, 1)
        assert world.count("minter") == first.nonce + 1
    world.mine(DEPTH + 1)
    _, (landed,) = world.read()
    assert landed.payload_digest == hashlib.sha256(newer.payload).digest()


def test_a_cancellation_lands_instead(world: World):
    world.record(world.wanted("MINT", 5, destination="bob"))
    (opened,) = world.open
    opened.versions.append(world.fresh().replace(opened, cancel=True))
    world.send()
    world.mine(DEPTH + 1)
    world.fresh().send(opened.versions[0])
    observations, (landed,) = world.read()
    assert (observations, landed.payload_digest) == ([], hashlib.sha256(opened.versions[-1].payload).digest())
    assert world.market.supply() == 0


def test_fates_unseen_pending_landed_and_dead_with_proof(world: World):
    world.record(world.wanted("MINT", 5, destination="bob"))
    (opened,) = world.open
    assert world.fresh().fate(opened, world.cursor).kind is FateKind.UNSEEN
    with world.node.put_back():
        world.send()
        world.mine()
        assert world.fresh().fate(opened, world.cursor).kind is FateKind.PENDING
        world.mine(DEPTH)
        assert world.fresh().fate(opened, world.cursor).kind is FateKind.LANDED
    world.market.send("minter", "alice", b"")
    world.mine(DEPTH + 1)
    assert world.fresh().fate(opened, world.cursor).kind is FateKind.PENDING, "the reader has not been there"
    world.read()
    death = world.fresh().fate(opened, world.cursor).death
    assert death.proof == DeathProof.DEATH_PROOF_NUMBER_CONSUMED
    assert death.position.number <= world.cursor.number
    assert len(death.found) == 66


def test_a_number_counted_before_its_block_is_asked_about_again(world: World, monkeypatch: pytest.MonkeyPatch):
    """A node counts what is in the block that it is just making, and no block has it yet."""
    world.record(world.wanted("MINT", 5, destination="bob"))
    (opened,), adapter = world.open, world.fresh()
    newest, ask = world.node.call("eth_blockNumber"), adapter.nodes[0].call

    def count_ahead(method: str, *parameters: Any) -> Any:
        answer = ask(method, *parameters)
        return hex(int(answer, 16) + 1) if method == "eth_getTransactionCount" and parameters[1] == newest else answer

    monkeypatch.setattr(adapter.nodes[0], "call", count_ahead)
    with pytest.raises(ChainUnavailable, match="no block after"):
        adapter.fate(opened, world.cursor)


def test_a_fate_is_found_without_the_key_too(world: World):
    """Without its signature the name of a transaction is not known: it is looked for by its number."""
    world.record(world.wanted("MINT", 5, destination="bob"))
    (opened,) = world.open
    world.send()
    world.mine()
    keyless = connect(dataclasses.replace(world.settings, signers={}))
    assert keyless.fate(opened, world.cursor).kind is FateKind.PENDING
    world.mine(DEPTH)
    assert keyless.fate(opened, world.cursor).kind is FateKind.LANDED


def test_the_same_transaction_recorded_again_after_it_landed_is_dead(world: World):
    """Its first landing is in the books and is not its own: the reader does not come by there again."""
    world.record(world.wanted("MINT", 5, destination="bob"))
    (opened,) = world.open
    world.send()
    world.mine(DEPTH + 1)
    world.read()
    again = OpenTransaction(versions=opened.versions, cursor_number=world.cursor.number)
    death = world.fresh().fate(again, world.cursor).death
    assert death.proof == DeathProof.DEATH_PROOF_NUMBER_CONSUMED


def test_another_transaction_than_asked_for_is_nonsense(world: World, monkeypatch: pytest.MonkeyPatch):
    world.record(world.wanted("MINT", 5, destination="bob"))
    (opened,), adapter = world.open, world.fresh()
    ask = adapter.nodes[0].call
    other = {"hash": "0x" + "11" * 32, "blockNumber": "0x1"}
    monkeypatch.setattr(
        adapter.nodes[0], "call", lambda method, *parameters: other if method == "eth_getTransactionByHash" else ask(method, *parameters)
    )
    with pytest.raises(NodeUnfit, match="something else"):
        adapter.fate(opened, world.cursor)


def test_ranges_end_at_whole_blocks_and_are_beginnings_of_one_another(world: World):
    start = world.cursor
    for units in (5, 6, 7):
        world.record(world.wanted("MINT", units, destination="bob"))
        world.send()
        world.mine()
    world.mine(DEPTH + 1)
    whole = world.fresh().read(start, world.deployments, world.open)
    assert [one.raw for one in whole.observations] == ["5", "6", "7"]
    for number in range(start.number + 1, whole.through.number + 1):
        part = world.fresh().read(start, world.deployments, world.open, through_number=number)
        assert part.through.number == number
        rest = world.fresh().read(part.through, world.deployments, world.open, through_number=whole.through.number)
        left = [] if rest is None else [*rest.observations]
        assert [*part.observations, *left] == [*whole.observations]
    short = world.fresh().read(start, world.deployments, world.open, observations_max=1)
    assert (len(short.observations), len(short.landed)) == (1, 1)


def test_a_reorganisation_shallower_than_finality_changes_nothing_read(world: World):
    world.carry_out(world.wanted("MINT", 5, destination="alice"))
    before = world.cursor
    world.market.as_owner("alice", "transfer(address,uint256)", "bob", 1)
    assert world.read()[0] == []
    world.node.call("anvil_reorg", 1, [])
    world.mine(DEPTH + 1)
    observations, _ = world.read()
    assert world.cursor.number > before.number
    assert sum(int(one.raw) for one in observations) == world.market.units("bob")


def test_a_change_of_what_was_final_is_named(world: World):
    world.mine(4)
    world.read()
    world.node.call("anvil_reorg", DEPTH + 2, [])
    with pytest.raises(HistoryChanged, match=str(world.cursor.number)):
        world.fresh().read(world.cursor, world.deployments, [])


def test_another_node_stands_in_between_answers(world: World):
    adapter = world.fresh("http://127.0.0.1:9", world.node.url)
    assert adapter.finalised() == world.fresh().finalised()
    assert adapter.current == 1
    with pytest.raises(ChainUnavailable):
        world.fresh("http://127.0.0.1:9").finalised()


def test_a_fifth_of_all_calls_spoiled_comes_to_the_same_end(world: World):
    with FaultProxy(world.node.url, share=0.2, seed=3) as proxy:
        for _ in range(4):
            wanted = [world.wanted("MINT", 10, destination="alice"), world.wanted("MINT", 3, destination="bob")]
            persist(lambda wanted=wanted: world.record(*wanted, adapter=world.fresh(proxy.url)))
            persist(lambda: world.send(world.fresh(proxy.url)))
            world.mine(DEPTH + 1)
            while world.open:
                persist(lambda: world.read(world.fresh(proxy.url)))
        assert sum(proxy.told[name] for name in FAULTS) > 10
    assert (world.market.units("alice"), world.market.units("bob"), world.market.supply()) == (40, 12, 52)


def persist(step):
    for _ in range(20):
        with contextlib.suppress(ChainUnavailable, NodeUnfit):
            return step()
    raise AssertionError("20 times in vain")


def test_code_and_its_owner_are_seen_to_change(world: World):
    market = world.market
    market.send("upgrader", market.plan.beacon, encode_call("TokenBeacon", "upgradeTo(address)", market.plan.code))
    world.mine(DEPTH + 1)
    (seen,), _ = world.read()
    assert (seen.kind, seen.subject, seen.value) == (K.OBSERVATION_KIND_AUTHORITY, "code", market.plan.code)


def test_what_the_deny_list_does_is_seen_once_for_all_tokens(world: World):
    market = world.market
    other = market.run_steps(plan_token(market.plan, market.terms("OTHR"))).address
    world.deployments.append(Deployment(chain=CHAIN, instrument="OTHR", token=f"{CHAIN}/erc20:{other}", decimals=8, kind=NATIVE))
    world.mine(DEPTH + 1)
    world.read()
    receipt = market.deny("bob", "carol")
    market.as_owner("bridge", "crosschainMint(address,uint256)", "mallory", 10)
    market.allow("bob")
    market.send("admin", market.plan.deny_list, encode_call("DenyList", "grantRole(bytes32,address)", roles.ENFORCER, market["mallory"]))
    world.mine(DEPTH + 1)
    seen, landed = world.read()
    assert kinds(seen) == ["BAR", "BAR", "MINT", "BAR", "AUTHORITY"]
    bars = [one for one in seen if one.kind == K.OBSERVATION_KIND_BAR]
    assert [(one.source, one.value) for one in bars] == [(world.at("bob"), "true"), (world.at("carol"), "true"), (world.at("bob"), "false")]
    assert {(one.token, one.subject) for one in bars} == {("", f"deny list {market.plan.deny_list}")}
    assert (bars[0].transaction, bars[0].number, bars[0].instruction) == (receipt.hash, receipt.block, "")
    assert (seen[-1].token, seen[-1].subject, seen[-1].value) == ("", f"ENFORCER of deny list {market.plan.deny_list}", market["mallory"])
    assert landed == []


def test_the_deny_list_is_read_until_other_code_asks_another(world: World):
    market = world.market
    plan = plan_issuer(dataclasses.replace(market.issuer(), enforcer=market["mallory"]))
    market.run_steps(*plan.steps)
    denied = encode_call("DenyList", "deny(bytes32,address[],bytes)", market.id(), [market["bob"]], b"x")
    market.send("mallory", plan.deny_list, denied)
    market.deny("carol")
    market.send("upgrader", market.plan.beacon, encode_call("TokenBeacon", "upgradeTo(address)", plan.code))
    world.mine(DEPTH + 1)
    seen, _ = world.read()
    assert [one.source for one in seen if one.subject == f"deny list {market.plan.deny_list}"] == [world.at("carol")]
    market.send("mallory", plan.deny_list, encode_call("DenyList", "deny(bytes32,address[],bytes)", market.id(), [market["alice"]], b"x"))
    market.deny("alice")
    world.mine(DEPTH + 1)
    seen, _ = world.read()
    assert [(one.source, one.subject) for one in seen] == [(world.at("alice"), f"deny list {plan.deny_list}")]


def test_the_reserve_is_told_and_a_checkpoint_kept(market: Market):
    feed, anchor = market.feed(), market.anchor("acme.example/log")
    world = World(market, anchor=anchor, **{"reserve_feed:AAPLx": feed})
    assert ChainCapability.CHAIN_CAPABILITY_ANCHOR in world.fresh().inspect(world.deployment)
    as_of = market.node.time() - 5000
    reserve = Reserve(instrument="AAPLx", reserve_shares_e8=123_456_789, as_of_time=Timestamp(seconds=as_of))
    note = reserve.SerializeToString(deterministic=True)
    checkpoint = f"acme.example/log\n42\n{base64.b64encode(bytes(range(32))).decode()}\n\n— acme AAAAAA==\n"
    told = world.wanted("REPORT_RESERVE", note=note)
    _, landed = world.carry_out(told, world.wanted("ANCHOR_CHECKPOINT", note=checkpoint.encode()))
    assert [one.failure for one in landed] == [ChainFailure.CHAIN_FAILURE_UNSPECIFIED] * 2
    assert market.read("ReserveFeed", feed, "latestRoundData()") == (1, 123_456_789, as_of, as_of, 1)
    assert market.read("CheckpointAnchor", anchor, "latestNote()") == checkpoint
    assert world.fresh().prepare([told], world.state).satisfied == (told.instruction,)
    bare = World(market)
    with pytest.raises(ChainIncapable, match="reserve_feed:AAPLx"):
        bare.fresh().prepare([told], bare.state)


def test_a_foreign_token_is_sent_and_seen(market: Market):
    world = World(market)
    foreign = market.run_steps(plan_token(market.plan, market.terms("FRGN"))).address
    token = f"{CHAIN}/erc20:{foreign}"
    world.deployments = [Deployment(chain=CHAIN, instrument="FRGN", token=token, decimals=8, kind=DeploymentKind.DEPLOYMENT_KIND_OMNIBUS)]
    assert world.fresh().inspect(world.deployments[0]) == {ChainCapability.CHAIN_CAPABILITY_SEND}
    market.send("bridge", foreign, encode_call("StockToken", "crosschainMint(address,uint256)", market["carol"], 100))
    world.mine(DEPTH + 1)
    (*multiplier, came), _ = world.read()
    assert kinds(multiplier) == ["MULTIPLIER", "MULTIPLIER_IN_FORCE"], "what it came with"
    assert (came.kind, came.destination, came.raw) == (K.OBSERVATION_KIND_MINT, world.at("carol"), "100")
    sent = world.wanted("SEND", 40, "carol", "alice", token=token)
    (seen,), _ = world.carry_out(sent)
    assert (seen.instruction, seen.source, seen.destination, seen.raw) == (sent.instruction, world.at("carol"), world.at("alice"), "40")
    figures = world.fresh().measure(world.deployments[0], [world.at("carol")], world.cursor).figures
    assert [one.raw for one in figures] == ["100", "60"]


LIES = {
    "eth_blockNumber": ["0x-1", "0x" + "f" * 80, 7, None, "latest"],
    "eth_getBlockByNumber": [{"number": "0x7", "hash": "0x12", "timestamp": "0x1"}, {"number": "nonsense"}, 5],
    "eth_getLogs": [None, {}, [{"address": "0x"}]],
    "eth_getTransactionReceipt": [{}, 7],
}


@pytest.mark.parametrize(("method", "answer"), [(method, answer) for method, answers in LIES.items() for answer in answers])
def test_nonsense_is_named_and_never_a_figure(world: World, monkeypatch: pytest.MonkeyPatch, method: str, answer: object):
    world.record(world.wanted("MINT", 5, destination="bob"))
    world.send()
    world.mine(DEPTH + 1)
    adapter = world.fresh()
    node = adapter.nodes[0]
    honest = node.call
    monkeypatch.setattr(node, "call", lambda asked, *parameters: answer if asked == method else honest(asked, *parameters))
    with pytest.raises((NodeUnfit, ChainUnavailable)):
        adapter.read(world.cursor, world.deployments, world.open)


def test_partial_logs_are_found_out(world: World, monkeypatch: pytest.MonkeyPatch):
    world.record(*(world.wanted("MINT", units, destination="bob") for units in (5, 6)))
    world.send()
    world.mine(DEPTH + 1)
    adapter = world.fresh()
    node = adapter.nodes[0]
    honest = node.call
    for spoil in (lambda logs: logs[:-1], lambda logs: logs[1:], lambda _: []):
        partial = lambda asked, *parameters, spoil=spoil: (  # noqa: E731
            spoil(honest(asked, *parameters)) if asked == "eth_getLogs" else honest(asked, *parameters)
        )
        monkeypatch.setattr(node, "call", partial)
        with pytest.raises(NodeUnfit, match="partial"):
            adapter.read(world.cursor, world.deployments, world.open)


@pytest.mark.parametrize(
    "act",
    [
        lambda market: market.as_owner("bridge", "crosschainMint(address,uint256)", "bob", 20),
        lambda market: market.do(token_calls.set_pauses(market.id(), Pause.MINTS | Pause.BURNS, b"stolen")),
        lambda market: market.do(token_calls.set_allotment(market.id(), 7)),
    ],
    ids=["mint", "pause", "allotment"],
)
def test_what_others_did_and_is_left_out_is_found_out(world: World, monkeypatch: pytest.MonkeyPatch, act: Callable[[Market], Any]):
    act(world.market)
    world.mine(DEPTH + 1)
    adapter = world.fresh()
    node = adapter.nodes[0]
    honest = node.call
    monkeypatch.setattr(node, "call", lambda asked, *parameters: [] if asked == "eth_getLogs" else honest(asked, *parameters))
    with pytest.raises(NodeUnfit, match="partial"):
        adapter.read(world.cursor, world.deployments, [])
    monkeypatch.setattr(node, "call", honest)
    assert adapter.read(world.cursor, world.deployments, []).observations


def test_a_node_behind_the_cursor_is_asked_again_later(world: World):
    ahead = ChainPosition(number=world.cursor.number + 50, hash="0x" + "1" * 64)
    with pytest.raises(ChainUnavailable):
        world.fresh().read(ahead, world.deployments, [])
    with pytest.raises(ChainUnavailable, match="the ledger has read"):
        world.fresh().prepare([world.wanted("MINT", 5, destination="bob")], ProjectionState(world.deployments, world.keys, [], ahead))


def test_the_adapter_is_found_by_the_entry_point():
    with (ROOT / "pyproject.toml").open("rb") as file:
        points = tomllib.load(file)["project"]["entry-points"][ENTRY_POINTS]
    point = importlib.metadata.EntryPoint("eip155", points["eip155"], ENTRY_POINTS)
    assert find_adapter(CHAIN, [point]) is connect
