"""Missed observations: what a node left out is booked once another has told it, and nothing that is in the books already."""

from __future__ import annotations

from typing import Any

import pytest
from on_chains import A, addresses, change, omnibus, one_chain, wallet
from readers import BURN, MINT, TRANSFER, Reader, at, seen
from scenario import Scenario, stock, two_holders
from steps import check_repeat

from ledger.verify import check_books
from stockledger.v1.chains_pb2 import (
    ChainFigure,
    DivergenceKind,
    DivergenceRaised,
    DivergenceResolved,
    InstructionKind,
    ObservationKind,
    RangeObserved,
    RecordMissedObservationsRequest,
    RecordReconciliationRequest,
)
from stockledger.v1.instruments_pb2 import Backing

ALICE, BOB, STRANGER = wallet("alice"), wallet("bob"), wallet("stranger")
DIVERGENCE = f"divergence:{A}"


@pytest.fixture
def books() -> Scenario:
    """Give alice 90 units on chain A and bob 50, as if seen there."""
    foreign = stock("OMNIx", "US5949181045", backing=Backing.BACKING_OMNIBUS)
    made = Scenario().given(*two_holders(), foreign, *one_chain())
    return made.at_chain("AAPLx", ALICE, 90).at_chain("AAPLx", BOB, 50)


@pytest.fixture
def reader(books: Scenario) -> Reader:
    reader = Reader(books)
    reader.see()
    return reader


def figures(**raw: int) -> list[ChainFigure]:
    names = {"supply": "", "alice": ALICE, "bob": BOB, "stranger": STRANGER}
    return [ChainFigure(instrument="AAPLx", account=names[name], raw=str(units)) for name, units in raw.items()]


def missed(reader: Reader, *observations: Any, **raw: int) -> RecordMissedObservationsRequest:
    for index, each in enumerate(observations):
        each.number, each.index = reader.number, index
    return RecordMissedObservationsRequest(chain=A, position=at(reader.number), observations=observations, figures=figures(**raw))


def reconcile(books: Scenario, reader: Reader, **raw: int) -> list[Any]:
    books.given(RecordReconciliationRequest(chain=A, position=at(reader.number), figures=figures(**raw)))
    return books.booked[-1:]


def kinds(books: Scenario) -> list[str]:
    found = books.books._state.divergences.values()
    return sorted(DivergenceKind.Name(each.kind).removeprefix("DIVERGENCE_KIND_") for each in found)


def units(books: Scenario, *names: str) -> list[int]:
    return [books.holding("AAPLx", name) for name in names]


def test_a_transfer_that_was_left_out_is_booked_and_its_divergences_end(books: Scenario, reader: Reader) -> None:
    reconcile(books, reader, supply=140, alice=60, bob=80)
    assert kinds(books) == ["HOLDING", "HOLDING"]
    command = missed(reader, seen(TRANSFER, 30, ALICE, BOB), supply=140, alice=60, bob=80)
    books.when(command).accepted()
    (event, *resolved) = books.booked
    assert isinstance(event, RangeObserved)
    assert (event.after, event.through) == (at(reader.number), at(reader.number))
    assert [type(each) for each in resolved] == [DivergenceResolved] * 2
    assert (books.answer.divergence_count, books.answer.resolved_count) == (0, 2)
    assert (units(books, ALICE, BOB), kinds(books)) == ([60, 80], [])
    check_books(books.books._state, 0)
    reader.see(seen(TRANSFER, 1, BOB, ALICE))
    assert units(books, ALICE, BOB) == [61, 79], "the cursor is where it was, and reading goes on"


def test_nothing_is_booked_twice(books: Scenario, reader: Reader) -> None:
    command = missed(reader, seen(TRANSFER, 30, ALICE, BOB), supply=140, alice=60, bob=80)
    check_repeat(books, command, missed(reader, seen(TRANSFER, 31, ALICE, BOB), supply=140, alice=59, bob=81))
    again = RecordMissedObservationsRequest()
    again.CopyFrom(command)
    again.ClearField("request_id")
    books.when(again).raises("EXPECTATION_FAILED", expected=str(30), found=str(60))
    assert units(books, ALICE, BOB) == [60, 80]


def test_what_was_seen_is_not_missed(books: Scenario, reader: Reader) -> None:
    reader.see(seen(TRANSFER, 30, ALICE, BOB))
    books.when(missed(reader, seen(TRANSFER, 30, ALICE, BOB), supply=140, alice=60, bob=80)).raises("EXPECTATION_FAILED")


def test_mints_and_burns_of_others_are_divergences_as_ever(books: Scenario, reader: Reader) -> None:
    command = missed(reader, seen(MINT, 7, "", STRANGER), seen(BURN, 10, ALICE, ""), supply=137, alice=80, stranger=7)
    books.when(command).accepted()
    assert [type(each) for each in books.booked] == [RangeObserved, DivergenceRaised, DivergenceRaised]
    assert kinds(books) == ["BURN_UNDECIDED", "MINT_UNDECIDED"]
    assert units(books, ALICE, STRANGER, DIVERGENCE) == [80, 7, 3]


def test_what_comes_to_a_deposit_address_is_credited_late(books: Scenario, reader: Reader) -> None:
    books.given(addresses((STRANGER, "book:bob")))
    books.when(missed(reader, seen(TRANSFER, 30, ALICE, STRANGER), supply=140, alice=60, stranger=30)).accepted()
    (burn,) = [each for each in books.books._state.instructions.values() if each.kind == InstructionKind.INSTRUCTION_KIND_BURN]
    assert (burn.source, burn.onward, burn.units) == (STRANGER, "book:bob", 30)


def test_what_was_lent_to_an_account_that_seemed_to_have_nothing_goes_back(books: Scenario, reader: Reader) -> None:
    """Alice's 30 to a stranger were left out, and he sent them on to bob."""
    reader.see(seen(TRANSFER, 30, STRANGER, BOB))
    assert (kinds(books), units(books, ALICE, BOB, STRANGER, DIVERGENCE)) == (["IMPOSSIBLE"], [90, 80, 0, -30])
    books.when(missed(reader, seen(TRANSFER, 30, ALICE, STRANGER), supply=140, alice=60, stranger=0)).accepted()
    assert units(books, ALICE, BOB, STRANGER, DIVERGENCE) == [60, 80, 0, 0]
    check_books(books.books._state, 0)


def test_a_divergence_that_halts_is_for_a_human(books: Scenario, reader: Reader) -> None:
    books.given(change(halt_on_divergence=True))
    reconcile(books, reader, supply=140, alice=60, bob=80)
    books.when(missed(reader, seen(TRANSFER, 30, ALICE, BOB), supply=140, alice=60, bob=80)).accepted()
    assert (kinds(books), units(books, ALICE, BOB)) == (["HOLDING", "HOLDING"], [60, 80])


def test_refusals(books: Scenario, reader: Reader) -> None:
    """In the order in which they are checked."""
    books.given(omnibus())
    right = {"supply": 140, "alice": 60, "bob": 80}

    def of(**changes: Any) -> RecordMissedObservationsRequest:
        return missed(reader, seen(TRANSFER, 30, ALICE, BOB, **changes), **right)

    books.when(missed(reader, **right)).raises("FIELD_MISSING", field="observations")
    books.when(missed(reader, *[seen(TRANSFER, 0, ALICE, BOB) for _ in range(10_001)], **right)).raises("TOO_MANY_ITEMS")
    books.when(of(token="")).raises("FIELD_MISSING", field="token")
    frozen = seen(ObservationKind.OBSERVATION_KIND_FREEZE, source=ALICE, value="true")
    books.when(missed(reader, frozen, **right)).raises("FIELD_MALFORMED", field="observations")
    books.when(of(instruction="4711-0")).raises("FIELD_MALFORMED", field="observations")
    books.when(missed(reader, seen(TRANSFER, 30, ALICE, BOB))).raises("FIELD_MISSING", field="figures")
    elsewhere = of()
    elsewhere.position.CopyFrom(at(reader.number - 1))
    books.when(elsewhere).raises("EXPECTATION_FAILED", field="position")
    books.when(of(token=f"{A}/token:NVDAx")).raises("DEPLOYMENT_NOT_FOUND")
    books.when(of(token=f"{A}/token:OMNIx")).raises("STATE_UNFIT", state="omnibus")
    ahead = of()
    ahead.observations[0].number += 1
    books.when(ahead).raises("DATES_OUT_OF_ORDER")
    books.when(missed(reader, seen(TRANSFER, 30, ALICE, BOB), supply=140, alice=60)).raises("FIELD_MISSING", field="figures")
    books.when(missed(reader, seen(TRANSFER, 30, ALICE, BOB), alice=60, bob=80)).raises("FIELD_MISSING", field="figures")
    wrong = missed(reader, seen(TRANSFER, 30, ALICE, BOB), supply=141, alice=60, bob=80)
    books.when(wrong).raises("EXPECTATION_FAILED", field="figures", expected="140", found="141")
    books.when(of()).accepted()
