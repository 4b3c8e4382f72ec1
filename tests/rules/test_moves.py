"""From one chain to another and back: where the units are at each step, whose they are in transit, and a split on the way."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from on_chains import A, B, bound, change, deploy, one_chain, register, set_key, wallet
from readers import Reader
from scenario import START_US, Scenario, enforcer, two_holders

from ledger.records import Instruction
from stockledger.v1.chains_pb2 import AbandonInstructionRequest, ChainFailure, InstructionKind, InstructionState, ListPlacesRequest
from stockledger.v1.corporate_actions_pb2 import ActionTerms, AnnounceActionRequest, ExecuteActionRequest, StockSplit
from stockledger.v1.instruments_pb2 import ActionMethod
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

HERE, THERE = wallet("alice"), wallet("alice", B)
MINT, BURN = InstructionKind.INSTRUCTION_KIND_MINT, InstructionKind.INSTRUCTION_KIND_BURN
BARRED = ChainFailure.CHAIN_FAILURE_ACCOUNT_BARRED
REFUSED = InstructionState.INSTRUCTION_STATE_REFUSED


@pytest.fixture
def books() -> Scenario:
    """100 AAPLx in the book, and alice has a wallet at each of two chains."""
    made = Scenario().given(*two_holders(), enforcer(), *one_chain(), register(B), deploy(chain=B), set_key(f"{B}:key"))
    return made.given(bound("alice", "h-1", B)).units("AAPLx", "book:alice", 100)


@pytest.fixture
def readers(books: Scenario) -> dict[str, Reader]:
    return {chain: Reader(books, chain, f"{chain}:key") for chain in (A, B)}


def send(source: str, destination: str, units: int = 40) -> TransferUnitsRequest:
    return TransferUnitsRequest(instrument="AAPLx", source=source, destination=destination, units=units)


def moving(books: Scenario) -> Instruction:
    found = books.books._state.instructions
    (one,) = [found[key] for key in sorted(found) if found[key].kind in {MINT, BURN}]
    return one


def places(books: Scenario) -> list[tuple[int, int]]:
    """Return (units there, on their way there) of the book, A and B."""
    found = books.books.execute(ListPlacesRequest(instrument="AAPLx")).places
    assert [each.place for each in found] == ["book", A, B]
    return [(each.units, each.transit_units) for each in found]


def step(books: Scenario, readers: dict[str, Reader]) -> Instruction:
    """Carry out what moves units next, at its chain."""
    instruction = moving(books)
    readers[instruction.chain].carry_out(instruction)
    return instruction


def test_there_and_back(books: Scenario, readers: dict[str, Reader]) -> None:
    books.given(send("book:alice", HERE))
    assert places(books) == [(60, 0), (0, 40), (0, 0)]
    step(books, readers)
    books.given(send(HERE, THERE))
    assert places(books) == [(60, 0), (40, 0), (0, 0)], "nothing moves before it is burned"
    assert step(books, readers).kind == BURN
    assert places(books) == [(60, 0), (0, 0), (0, 40)]
    assert (moving(books).origin, moving(books).owner_account) == (HERE, HERE), "in transit it is whose it was"
    assert step(books, readers).kind == MINT
    assert places(books) == [(60, 0), (0, 0), (40, 0)]
    books.given(send(THERE, HERE, 25))
    step(books, readers)
    assert places(books) == [(60, 0), (0, 25), (15, 0)]
    step(books, readers)
    books.given(send(HERE, "book:alice", 25), send(THERE, "book:alice", 15))
    for chain in (A, B):
        (burn,) = [each for each in books.books._state.instructions.values() if (each.kind, each.chain) == (BURN, chain)]
        readers[chain].carry_out(burn)
    assert places(books) == [(100, 0), (0, 0), (0, 0)]
    assert not books.books._state.divergences


def test_the_allotment_over_there_is_kept_from_the_start(books: Scenario, readers: dict[str, Reader]) -> None:
    books.given(change(chain=B, allotment_units=40), send("book:alice", HERE))
    step(books, readers)
    books.given(send(HERE, THERE, 30)).when(send("book:alice", THERE, 11)).raises("ALLOTMENT_EXCEEDED")
    step(books, readers)
    books.when(send("book:alice", THERE, 11)).raises("ALLOTMENT_EXCEEDED")
    books.when(send("book:alice", THERE, 10)).accepted()


def test_what_the_other_chain_refuses_waits_in_transit_and_can_go_back(books: Scenario, readers: dict[str, Reader]) -> None:
    books.given(send("book:alice", HERE))
    step(books, readers)
    books.given(send(HERE, THERE))
    step(books, readers)
    minted = moving(books)
    readers[B].fail(minted, failure=BARRED)
    assert (moving(books).state, places(books)) == (REFUSED, [(60, 0), (0, 0), (0, 40)])
    books.given(AbandonInstructionRequest(instruction=minted.text, cause="barred there", return_account=HERE))
    assert places(books) == [(60, 0), (0, 40), (0, 0)], "on their way back, to be minted where they were"
    step(books, readers)
    assert places(books) == [(60, 0), (40, 0), (0, 0)]


def split() -> AnnounceActionRequest:
    execution = Timestamp()
    execution.FromMicroseconds(START_US + 1_000_000_000)
    return AnnounceActionRequest(
        action="SPLIT",
        instrument="AAPLx",
        ex_date="2026-11-23",
        record_date="2026-11-23",
        payment_date="2026-11-23",
        execution_time=execution,
        method=ActionMethod.ACTION_METHOD_MULTIPLIER,
        terms=ActionTerms(stock_split=StockSplit(new_shares=10, old_shares=1)),
    )


@pytest.mark.parametrize("steps_before", [0, 1], ids=["while it is being burned", "while it is in transit"])
def test_a_split_on_the_way(books: Scenario, readers: dict[str, Reader], steps_before: int) -> None:
    """A unit stands for ten times as much wherever it is; as many arrive as left, and both chains are told ahead."""
    books.given(send("book:alice", HERE))
    step(books, readers)
    books.given(send(HERE, THERE), split())
    for _ in range(steps_before):
        step(books, readers)
    told = [each for each in books.books._state.instructions.values() if each.kind == InstructionKind.INSTRUCTION_KIND_SET_MULTIPLIER]
    assert sorted((each.chain, each.multiplier) for each in told) == [(A, 10**19), (B, 10**19)]
    pending = moving(books)
    sent = readers[pending.chain].record(pending)
    books.pass_time(1_000).when(send("book:alice", "book:bob")).raises("ACTION_DUE")
    books.given(ExecuteActionRequest(action="SPLIT"))
    reader = readers[pending.chain]
    reader.see(reader.effect_of(pending, sent), landed=[reader.landed(sent)])
    while any(each.kind in {MINT, BURN} for each in books.books._state.instructions.values()):
        step(books, readers)
    assert places(books) == [(60, 0), (0, 0), (40, 0)]


def test_what_is_under_way_is_never_in_two_places(books: Scenario, readers: dict[str, Reader]) -> None:
    def total() -> Any:
        return sum(units + transit for units, transit in places(books))

    books.given(send("book:alice", HERE))
    assert total() == 100
    for destination in (THERE, HERE, THERE, "book:alice"):
        step(books, readers)
        while any(each.kind in {MINT, BURN} for each in books.books._state.instructions.values()):
            assert total() == 100
            step(books, readers)
        source = HERE if books.holding("AAPLx", HERE) else THERE
        books.given(send(source, destination))
        assert total() == 100
