"""Divergences: figures held together, places stopped, and how a human ends them."""

from __future__ import annotations

from typing import Any

import pytest
from on_chains import A, B, change, one_chain, register, wallet
from primary_market import ONE, issue, market
from readers import BURN, MINT, TRANSFER, Reader, at, seen
from scenario import Scenario, enforcer, two_holders
from steps import check_repeat

from stockledger.v1.approvals_pb2 import ApprovalPolicy, SetApprovalPolicyRequest
from stockledger.v1.chains_pb2 import (
    ChainFigure,
    ChainPosition,
    ChainReconciled,
    DivergenceKind,
    DivergenceRaised,
    DivergenceResolved,
    InstructionKind,
    ListDeploymentsRequest,
    ListDivergencesRequest,
    ListPlacesRequest,
    ObservationKind,
    RaiseDivergenceRequest,
    RecordReconciliationRequest,
    ResolveDivergenceRequest,
)
from stockledger.v1.common_pb2 import Movement
from stockledger.v1.instruments_pb2 import SetMultiplierRequest
from stockledger.v1.reserves_pb2 import ReserveShortfallRaised
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

ALICE, BOB = wallet("alice"), wallet("bob")
DIVERGENCE = f"divergence:{A}"
HISTORY_CHANGED = DivergenceKind.DIVERGENCE_KIND_HISTORY_CHANGED
MULTIPLIER = ObservationKind.OBSERVATION_KIND_MULTIPLIER


@pytest.fixture
def books() -> Scenario:
    """100 AAPLx in the book, and 50 at alice's wallet as if seen there."""
    made = Scenario().given(*two_holders(), enforcer(), *one_chain(), register(B))
    return made.units("AAPLx", "book:alice", 100).at_chain("AAPLx", ALICE, 50)


@pytest.fixture
def reader(books: Scenario) -> Reader:
    return Reader(books)


def figure(raw: int | str = 50, account: str = "", instrument: str = "AAPLx") -> ChainFigure:
    return ChainFigure(instrument=instrument, account=account, raw=str(raw))


def measured(*figures: ChainFigure, number: int = 100, **changes: Any) -> RecordReconciliationRequest:
    fields: dict[str, Any] = {"chain": A, "position": at(number), "figures": figures or [figure()]}
    return RecordReconciliationRequest(**{name: value for name, value in (fields | changes).items() if value is not None})


def told(**changes: Any) -> RaiseDivergenceRequest:
    return RaiseDivergenceRequest(**({"chain": A, "kind": HISTORY_CHANGED, "expected": "0x88e9", "found": "0xff"} | changes))


def resolve(divergence: int = 1, **changes: Any) -> ResolveDivergenceRequest:
    return ResolveDivergenceRequest(**({"divergence": divergence, "cause": "key replaced"} | changes))


def kinds(events: list[Any]) -> list[str]:
    raised = [event.divergence.kind for event in events if isinstance(event, DivergenceRaised)]
    return [DivergenceKind.Name(kind).removeprefix("DIVERGENCE_KIND_") for kind in raised]


def transfer(source: str = "book:alice", destination: str = ALICE, units: int = 1) -> TransferUnitsRequest:
    return TransferUnitsRequest(instrument="AAPLx", source=source, destination=destination, units=units)


# ---- measured --------------------------------------------------------------------------------------------------------------------------

MANY = [figure(0, f"{A}:{number}") for number in range(10_001)]


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", measured(chain="")),
        ("FIELD_MALFORMED", measured(chain="memory")),
        ("FIELD_MISSING", measured(position=None)),
        ("FIELD_MISSING", measured(position=ChainPosition(number=100))),
        ("FIELD_MISSING", measured(figure(instrument=""))),
        ("FIELD_MISSING", measured(figure(""))),
        ("FIELD_MALFORMED", measured(figure("-1"))),
        ("FIELD_MALFORMED", measured(figure(1, wallet("alice", B)))),
        ("FIELD_MALFORMED", measured(figure(1, "book:alice"))),
        ("FIELD_MALFORMED", measured(figure(), figure(51))),
        ("FIELD_MISSING", RecordReconciliationRequest(chain=A, position=at(100))),
        ("TOO_MANY_ITEMS", measured(*MANY)),
        ("CHAIN_NOT_FOUND", measured(chain="memory:c")),
        ("INSTRUMENT_NOT_FOUND", measured(figure(instrument="NONEx"))),
        ("DEPLOYMENT_NOT_FOUND", measured(figure(instrument="USDC"))),
        ("EXPECTATION_FAILED", measured(number=101)),
        ("FIELD_MISSING", told(chain="")),
        ("FIELD_MALFORMED", told(chain="memory")),
        ("FIELD_MISSING", told(kind=0)),
        ("FIELD_MALFORMED", told(kind=99)),
        ("FIELD_MALFORMED", told(kind=DivergenceKind.DIVERGENCE_KIND_SUPPLY)),
        ("FIELD_MISSING", told(expected="")),
        ("FIELD_MALFORMED", told(found="x" * 129)),
        ("CHAIN_NOT_FOUND", told(chain="memory:c")),
        ("NOTHING_TO_CHANGE", told(chain=B)),
        ("FIELD_MISSING", resolve(cause="")),
        ("FIELD_MALFORMED", resolve(cause="x" * 141)),
        ("FIELD_MISSING", resolve(units=5)),
        ("FIELD_MISSING", resolve(bearing_account="book:alice")),
        ("FIELD_MISSING", resolve(cursor=ChainPosition(number=1))),
        ("DIVERGENCE_NOT_FOUND", resolve(9)),
        ("ACCOUNT_NOT_FOUND", resolve(2, bearing_account="book:nobody", units=5)),
        ("ACCOUNT_RESERVED", resolve(2, bearing_account="ledger:loss", units=5)),
        ("ACCOUNT_RESERVED", resolve(2, bearing_account=DIVERGENCE, units=5)),
        ("PLACE_UNFIT", resolve(2, bearing_account=ALICE, units=5)),
        ("STATE_UNFIT", resolve(1, bearing_account="book:alice", units=5)),
        ("STATE_UNFIT", resolve(2, bearing_account="book:alice", units=201)),
        ("STATE_UNFIT", resolve(2, bearing_account="book:alice", units=-1)),
        ("STATE_UNFIT", resolve(2, cursor=at(90))),
        ("UNITS_INSUFFICIENT", resolve(2, bearing_account="book:alice", units=101)),
    ],
)
def test_refused(books: Scenario, reason: str, command: Any) -> None:
    """Divergence 1 is of the whole chain B, 2 a mint of 200 that nobody decided."""
    if type(command) is not RecordReconciliationRequest:
        books.given(told(chain=B))
        Reader(books).see(seen(MINT, 200, destination=BOB))
    books.when(command, approver="approver").raises(reason)


def test_figures_that_agree(books: Scenario) -> None:
    books.when(measured(figure(), figure(50, ALICE), figure(0, BOB), figure(0, f"{A}:stranger"))).then(
        ChainReconciled(chain=A, position=at(100), figures=[figure()], agreeing_account_count=3, agreeing_count=4)
    )
    assert (books.answer.agreeing_count, books.answer.divergence_count) == (4, 0)
    (_, place) = books.books.execute(ListPlacesRequest(instrument="AAPLx")).places
    assert (place.chain_raw, place.difference_raw, place.position.number) == ("50", "0", 100)


def test_figures_that_differ_are_raised_once_and_end_when_they_agree(books: Scenario, reader: Reader) -> None:
    events = books.when(measured(figure(51), figure(50, ALICE), figure(1, BOB))).accepted().booked
    assert kinds(events) == ["SUPPLY", "HOLDING"]
    supply, holding = (event.divergence for event in events[1:])
    assert (supply.account, supply.expected, supply.found, supply.position.number) == ("", "50", "51", 100)
    assert (holding.account, holding.expected, holding.found, holding.divergence) == (BOB, "0", "1", 2)
    assert (books.answer.agreeing_count, books.answer.divergence_count) == (1, 2)
    place = books.books.execute(ListPlacesRequest(instrument="AAPLx")).places[1]
    assert (place.chain_raw, place.difference_raw) == ("51", "1")
    assert kinds(books.when(measured(figure(52), figure(2, BOB))).accepted().booked) == []
    assert [each.divergence for each in books.books.execute(ListDivergencesRequest()).divergences] == [1, 2]
    reader.see()
    events = books.when(measured(figure(50), figure(2, BOB), number=101)).accepted().booked
    assert events[1:] == [DivergenceResolved(divergence=1, cause="the figures agree at 101", chain=A, instrument="AAPLx")]
    assert [each.divergence for each in books.books.execute(ListDivergencesRequest()).divergences] == [2]
    books.when(measured(figure(51), number=101)).accepted()
    assert books.booked[-1].divergence.divergence == 3, "a number is given once"


def test_one_that_halts_waits_for_a_human(books: Scenario) -> None:
    books.given(change(halt_on_divergence=True), measured(figure(51)))
    books.when(transfer()).raises("PLACE_HALTED", divergence=1)
    books.when(transfer(ALICE, "book:alice")).raises("PLACE_HALTED", divergence=1)
    assert list(books.books.execute(ListDeploymentsRequest()).deployments[0].halting_divergences) == [1]
    assert len(books.when(measured()).accepted().booked) == 1, "it agrees, and stays open"
    books.when(transfer()).raises("PLACE_HALTED")
    books.when(resolve(), approver="approver").accepted()
    books.when(transfer()).accepted()


def test_a_halt_pauses_the_token_and_its_end_lets_it_go(books: Scenario) -> None:
    books.given(change(halt_on_divergence=True), measured(figure(51)))
    pauses = [each for each in books.books._state.instructions.values() if each.kind == InstructionKind.INSTRUCTION_KIND_PAUSE]
    assert [len(each.operations) for each in pauses] == [3]
    books.given(resolve())
    pauses = [each for each in books.books._state.instructions.values() if each.kind == InstructionKind.INSTRUCTION_KIND_PAUSE]
    assert [len(each.operations) for each in pauses] == [0]


@pytest.mark.parametrize(
    ("value", "raised"),
    [(10**18, []), (10**18 + 222, []), (10**18 + 223, ["MULTIPLIER"]), (10**18 - 222, []), (2 * 10**18, ["MULTIPLIER"])],
)
def test_a_multiplier_is_held_to_what_an_f64_can_be(books: Scenario, reader: Reader, value: int, raised: list[str]) -> None:
    reader.see(seen(MULTIPLIER, value=str(value)))
    assert kinds(books.when(measured(number=101)).accepted().booked) == raised


def test_a_multiplier_is_not_judged_while_another_is_on_its_way() -> None:
    books = market().given(*one_chain()[:3])
    reader = Reader(books)

    def measured(number: int) -> RecordReconciliationRequest:
        return RecordReconciliationRequest(chain=A, position=at(number), figures=[figure(0)])

    reader.see(seen(MULTIPLIER, value=str(10**18)))
    books.given(SetMultiplierRequest(instrument="AAPLx", expected_multiplier=str(10**18), multiplier=str(2 * 10**18), cause="split"))
    assert kinds(books.when(measured(number=101)).accepted().booked) == []
    (wanted,) = [each for each in books.books._state.instructions.values() if each.kind == InstructionKind.INSTRUCTION_KIND_SET_MULTIPLIER]
    reader.carry_out(wanted)
    assert kinds(books.when(measured(number=102)).accepted().booked) == ["MULTIPLIER"], "done, and not seen"
    reader.see(seen(MULTIPLIER, value=str(2 * 10**18)))
    events = books.when(measured(number=103)).accepted().booked
    assert [type(event) for event in events] == [ChainReconciled, DivergenceResolved]


def test_many_figures_are_booked_in_parts(books: Scenario) -> None:
    figures = [figure(0, f"{A}:{number}") for number in range(9_999)]
    books.when(measured(figure(), *figures)).accepted()
    assert books.booked == [
        ChainReconciled(chain=A, position=at(100), figures=[figure()], agreeing_account_count=9_999, agreeing_count=10_000)
    ]


def test_a_reconciliation_is_booked_once(books: Scenario) -> None:
    check_repeat(books, measured(figure(51)), measured(figure(52)))


# ---- told, and resolved ----------------------------------------------------------------------------------------------------------------


def test_changed_history_stops_the_chain_and_its_reader(books: Scenario, reader: Reader) -> None:
    (event,) = books.when(told()).accepted().booked
    assert (event.divergence.halting, event.divergence.instrument, event.divergence.position.number) == (True, "", 100)
    books.when(transfer()).raises("PLACE_HALTED")
    books.when(reader.range_of()).raises("PLACE_HALTED", divergence=1)
    books.when(told()).raises("NOTHING_TO_CHANGE")
    wanted = ChainPosition(number=90, hash="0x90", time=at(90).time)
    books.when(resolve(cursor=wanted), approver="approver").accepted()
    assert books.booked[-1] == DivergenceResolved(divergence=1, cause="key replaced", cursor=wanted, chain=A, halting=True)
    books.when(reader.range_of()).raises("EXPECTATION_FAILED")
    reader.number = 90
    reader.see()
    assert books.books._state.chains[A].cursor.number == 91


def test_changed_history_may_be_read_on_from_where_it_was(books: Scenario, reader: Reader) -> None:
    books.given(told(), resolve())
    reader.see()


def test_other_halts_let_the_reader_go_on(books: Scenario, reader: Reader) -> None:
    books.given(change(halt_on_divergence=True), measured(figure(51)))
    reader.see(seen(TRANSFER, 1, ALICE, BOB))
    assert books.holding("AAPLx", BOB) == 1


@pytest.mark.parametrize(
    ("observation", "bearing", "units", "left", "supply"),
    [
        (seen(MINT, 30, destination=BOB), "book:alice", 30, {DIVERGENCE: 0, "book:alice": 70, BOB: 30}, 0),
        (seen(MINT, 30, destination=BOB), "book:alice", 10, {DIVERGENCE: -20, "book:alice": 90}, 0),
        (seen(MINT, 30, destination=BOB), "ledger:issuance", 30, {DIVERGENCE: 0, "book:alice": 100}, 30),
        (seen(BURN, 30, ALICE), "book:alice", -30, {DIVERGENCE: 0, "book:alice": 130, ALICE: 20}, 0),
        (seen(BURN, 30, ALICE), "ledger:issuance", -30, {DIVERGENCE: 0, ALICE: 20}, -30),
    ],
)
def test_somebody_bears_what_nobody_decided(
    books: Scenario, reader: Reader, *, observation: Any, bearing: str, units: int, left: dict[str, int], supply: int
) -> None:
    before = books.books._state.supply(books.books._state.instruments["AAPLx"].number)
    reader.see(observation)
    books.when(resolve(bearing_account=bearing, units=units), approver="approver").accepted()
    source, destination = (bearing, DIVERGENCE) if units > 0 else (DIVERGENCE, bearing)
    moved = Movement(instrument="AAPLx", source=source, destination=destination, units=abs(units))
    assert books.booked[-1].movement == moved
    assert {name: books.holding("AAPLx", name) for name in left} == left
    assert books.books._state.supply(books.books._state.instruments["AAPLx"].number) - before == supply
    assert not books.books._state.divergences


def test_accepting_what_was_minted_shows_a_shortfall() -> None:
    """1,000 shares are attested and as many are issued; 30 more minted on chain are accepted as supply."""
    books = market().given(*one_chain()[:3], issue(units=1_000 * ONE))
    Reader(books).see(seen(MINT, 30 * ONE, destination=f"{A}:somebody"))
    books.when(resolve(bearing_account="ledger:issuance", units=30 * ONE), approver="approver").accepted()
    assert isinstance(books.booked[-1], ReserveShortfallRaised)
    assert "AAPLx" in books.books._state.shortfalls


def test_four_eyes_are_needed_to_resolve(books: Scenario, reader: Reader) -> None:
    reader.see(seen(MINT, 30, destination=BOB))
    assert books.when(resolve(bearing_account="book:alice", units=30)).accepted().answer.booking.approval
    assert books.holding("AAPLx", "book:alice") == 100


def test_a_resolution_is_booked_once(books: Scenario, reader: Reader) -> None:
    books.given(SetApprovalPolicyRequest(policy=ApprovalPolicy(command="ResolveDivergence", approvals_needed=0)))
    reader.see(seen(MINT, 30, destination=BOB))
    check_repeat(books, resolve(bearing_account="book:alice", units=30), resolve(bearing_account="book:alice", units=20))
    assert books.holding("AAPLx", "book:alice") == 70


def test_telling_is_booked_once(books: Scenario) -> None:
    check_repeat(books, told(), told(found="0xfe"))


def test_divergences_are_listed_by_chain(books: Scenario, reader: Reader) -> None:
    books.given(told(chain=B))
    reader.see(seen(MINT, 30, destination=BOB, transaction="0xbad"))
    listed = books.books.execute(ListDivergencesRequest(page_size=1))
    assert ([each.chain for each in listed.divergences], listed.next_page_token) == ([B], "1")
    (found,) = books.books.execute(ListDivergencesRequest(page_token="1")).divergences
    assert (found.divergence, found.chain, found.transaction, found.index) == (2, A, "0xbad", books.books.size - 1)
    assert [each.chain for each in books.books.execute(ListDivergencesRequest(chain=A)).divergences] == [A]
