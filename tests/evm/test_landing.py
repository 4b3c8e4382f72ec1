"""What landed is found on a node that keeps no old state too: by hash where that tells all, otherwise block by block."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest
from evm_market import Market
from evm_world import DEPTH, World

from chain_adapters.evm.adapter import EvmAdapter, connect
from chain_adapters.evm.node import NodeRefused
from chain_adapters.protocol import FateKind
from stockledger.v1.chains_pb2 import ChainPosition, OpenTransaction

KEPT = 1
"""Blocks below the newest of which the node keeps the state."""
QUIET = 40


@pytest.fixture
def world(market: Market) -> World:
    return World(market)


class Forgetful:
    """Stands before the node of an adapter, keeps no old counts, and knows which whole blocks it was asked for."""

    def __init__(self, adapter: EvmAdapter) -> None:
        self.ask: Callable[..., Any] = adapter.nodes[0].call
        self.whole: list[int] = []
        adapter.nodes[0].call = self  # type: ignore[method-assign]

    def __call__(self, method: str, *parameters: Any) -> Any:
        if method == "eth_getTransactionCount" and parameters[1] != "latest":
            newest = int(self.ask("eth_blockNumber"), 16)
            if int(parameters[1], 16) < newest - KEPT:
                raise NodeRefused(-32000, "missing trie node")
        if method == "eth_getBlockByNumber" and parameters[1]:
            self.whole.append(int(parameters[0], 16))
        return self.ask(method, *parameters)


def forgetful(world: World, *, keys: bool = True) -> tuple[EvmAdapter, Forgetful]:
    adapter = connect(world.settings if keys else dataclasses.replace(world.settings, signers={}))
    return adapter, Forgetful(adapter)


def two_far_apart(world: World) -> tuple[int, int]:
    """Send two mints with much between them; return their blocks."""
    blocks = []
    for units in (5, 7):
        world.record(world.wanted("MINT", units, destination="bob"))
        sent = world.open[-1].versions[-1]
        world.fresh().send(sent)
        while world.count("minter") <= sent.sequence.number:  # the node mines it at once, and answers before
            time.sleep(0.01)
        blocks.append(int(world.node.call("eth_blockNumber"), 16))
        world.mine(QUIET)
    first, second = blocks
    return first, second


@pytest.mark.parametrize("keys", [True, False])
def test_what_landed_is_told_as_by_a_node_that_knows_all(world: World, keys: bool):
    first, second = two_far_apart(world)
    expected = world.fresh().read(world.cursor, world.deployments, world.open)
    adapter, node = forgetful(world, keys=keys)
    assert adapter.read(world.cursor, world.deployments, world.open) == expected
    assert [one.number for one in expected.landed] == [first, second]
    every = list(range(world.cursor.number + 1, expected.through.number + 1))
    assert node.whole == ([first, second] if keys else every)


def test_what_landed_beyond_the_range_is_not_in_it(world: World):
    first, second = two_far_apart(world)
    adapter, node = forgetful(world)
    read = adapter.read(world.cursor, world.deployments, world.open, through_number=second - 1)
    assert [one.number for one in read.landed] == [first]
    assert node.whole == [first]


def test_an_older_version_that_landed_is_found(world: World):
    world.record(world.wanted("MINT", 5, destination="bob"))
    (opened,) = world.open
    world.send()
    opened.versions.append(world.fresh().replace(opened, cancel=True))
    world.mine(QUIET)
    adapter, node = forgetful(world)
    assert adapter.fate(opened, world.cursor).kind is FateKind.LANDED
    read = adapter.read(world.cursor, world.deployments, world.open)
    assert [one.instruction for one in read.observations] == ["1-0"]
    assert len(read.landed) == 1
    assert node.whole == [read.landed[0].number]


def test_a_number_that_somebody_else_used_has_every_block_looked_through(world: World):
    world.record(world.wanted("MINT", 5, destination="bob"))
    (opened,) = world.open
    world.market.send("minter", "alice", b"")
    world.mine(QUIET)
    adapter, node = forgetful(world)
    read = adapter.read(world.cursor, world.deployments, world.open)
    assert not read.landed
    assert node.whole == list(range(world.cursor.number + 1, read.through.number + 1))
    assert adapter.fate(opened, read.through).kind is FateKind.DEAD


def test_a_death_that_is_forgotten_waits_for_the_reader(world: World):
    """The number was gone before it was recorded, and how many were used up to the cursor is known no more: nearer to now it is."""
    world.record(world.wanted("MINT", 5, destination="bob"))
    (opened,) = world.open
    world.send()
    world.mine(DEPTH + 1)
    world.read()
    again = OpenTransaction(versions=opened.versions, cursor_number=world.cursor.number)
    world.mine(QUIET)
    adapter, _ = forgetful(world)
    assert adapter.fate(again, world.cursor).kind is FateKind.PENDING
    near = ChainPosition(number=int(world.node.call("eth_blockNumber"), 16) - KEPT)
    assert adapter.fate(again, near).kind is FateKind.PENDING, "that is not final"
    world.read()
    world.node.call("anvil_mine", hex(KEPT))
    death = world.fresh().fate(again, world.cursor).death
    assert death.position == world.cursor
