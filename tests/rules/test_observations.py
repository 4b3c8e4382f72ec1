"""Observations: what a range comes to in the books, by the table of docs/chains.md; ours and others'."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from on_chains import A, B, addresses, bound, change, deploy, one_chain, register, set_key, wallet
from readers import BURN, MINT, TRANSFER, Reader, at, seen
from scenario import Scenario, enforcer, two_holders
from steps import check_repeat

from ledger.arithmetic import UNITS_MAX
from ledger.records import Instruction
from ledger.verify import check_books
from stockledger.v1.accounts_pb2 import (
    AmendHolderRequest,
    CloseAccountRequest,
    FreezeAccountRequest,
    FreezeHolderRequest,
    FreezeUnitsRequest,
    HolderState,
    UnfreezeAccountRequest,
)
from stockledger.v1.chains_pb2 import (
    AbandonInstructionRequest,
    Breach,
    ChainFailure,
    DivergenceKind,
    DivergenceRaised,
    InstructionKind,
    InstructionState,
    LandedTransaction,
    ListInstructionsRequest,
    ObservationKind,
    ObservedRange,
    RangeObserved,
    RecordObservationsRequest,
    RecordTransactionsRequest,
    ResolveDivergenceRequest,
    Sequence,
    Transaction,
)
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.eligibility_pb2 import EligibilityRule, SetEligibilityRequest
from stockledger.v1.instruments_pb2 import HaltInstrumentRequest
from stockledger.v1.redemptions_pb2 import RequestRedemptionRequest
from stockledger.v1.transfers_pb2 import ForceTransferRequest, TransferUnitsRequest

ALICE, BOB, STRANGER = wallet("alice"), wallet("bob"), wallet("stranger")
TRANSIT, DIVERGENCE = f"transit:{A}", f"divergence:{A}"
FREEZE, FREEZE_UNITS = ObservationKind.OBSERVATION_KIND_FREEZE, ObservationKind.OBSERVATION_KIND_FREEZE_UNITS
PAUSE, MULTIPLIER = ObservationKind.OBSERVATION_KIND_PAUSE, ObservationKind.OBSERVATION_KIND_MULTIPLIER
ALLOTMENT, AUTHORITY = ObservationKind.OBSERVATION_KIND_ALLOTMENT, ObservationKind.OBSERVATION_KIND_AUTHORITY
BAR = ObservationKind.OBSERVATION_KIND_BAR
FINAL, OPEN = InstructionState.INSTRUCTION_STATE_FINAL, InstructionState.INSTRUCTION_STATE_OPEN
RECORDED, REFUSED = InstructionState.INSTRUCTION_STATE_RECORDED, InstructionState.INSTRUCTION_STATE_REFUSED
BARRED, LACKING = ChainFailure.CHAIN_FAILURE_ACCOUNT_BARRED, ChainFailure.CHAIN_FAILURE_UNITS_INSUFFICIENT
PAUSED, OTHER = ChainFailure.CHAIN_FAILURE_PAUSED, ChainFailure.CHAIN_FAILURE_OTHER
IN_COMPANY = ChainFailure.CHAIN_FAILURE_IN_COMPANY
MOVING = {
    InstructionKind.INSTRUCTION_KIND_MINT,
    InstructionKind.INSTRUCTION_KIND_BURN,
    InstructionKind.INSTRUCTION_KIND_FORCE_TRANSFER,
}


@pytest.fixture
def books() -> Scenario:
    """100 AAPLx in the book, and 50 at alice's wallet as if seen there."""
    made = Scenario().given(*two_holders(), enforcer(), *one_chain(), register(B), deploy(chain=B), bound("bob", "h-2", B))
    return made.units("AAPLx", "book:alice", 100).at_chain("AAPLx", ALICE, 50)


@pytest.fixture
def reader(books: Scenario) -> Reader:
    return Reader(books)


def transfer(source: str, destination: str, units: int = 40, **changes: Any) -> TransferUnitsRequest:
    return TransferUnitsRequest(**({"instrument": "AAPLx", "source": source, "destination": destination, "units": units} | changes))


def force(source: str = ALICE, destination: str = BOB, units: int = 40) -> ForceTransferRequest:
    fields = {"instrument": "AAPLx", "source": source, "destination": destination, "units": units}
    return ForceTransferRequest(**fields, legal_reference="court order 12/2026", cause="seizure")


def holdings(books: Scenario, *names: str) -> list[int]:
    return [books.holding("AAPLx", name) for name in names]


def moving(books: Scenario) -> list[Instruction]:
    """Return the instructions that move units and are not over, oldest first."""
    found = books.books._state.instructions
    return [found[key] for key in sorted(found) if found[key].kind in MOVING]


def the_instruction(books: Scenario) -> Instruction:
    (found,) = moving(books)
    return found


def outcome_of(events: list[Any], text: str) -> Any:
    (found,) = (
        outcome for event in events if isinstance(event, RangeObserved) for outcome in event.outcomes if outcome.instruction == text
    )
    return found


def kinds(events: list[Any]) -> list[str]:
    """Return what was raised, by its kind."""
    raised = [event.divergence.kind for event in events if isinstance(event, DivergenceRaised)]
    return [DivergenceKind.Name(kind).removeprefix("DIVERGENCE_KIND_") for kind in raised]


def breaches(events: list[Any]) -> list[str]:
    found = [breach for event in events if isinstance(event, RangeObserved) for effect in event.effects for breach in effect.breaches]
    return [Breach.Name(breach).removeprefix("BREACH_") for breach in found]


# ---- the range -------------------------------------------------------------------------------------------------------------------------


def a_range(**changes: Any) -> RecordObservationsRequest:
    """Return a range with one transfer of others in it."""
    fields: dict[str, Any] = {"chain": A, "after": at(100), "through": at(110)}
    fields["observations"] = [seen(TRANSFER, 1, ALICE, BOB, number=101)]
    fields = {name: value for name, value in (fields | changes).items() if value is not None}
    return RecordObservationsRequest(range=ObservedRange(**fields))


def observing(**changes: Any) -> RecordObservationsRequest:
    fields = {"kind": TRANSFER, "raw": 1, "source": ALICE, "destination": BOB, "number": 101}
    return a_range(observations=[seen(**(fields | changes))])


def landing(**changes: Any) -> RecordObservationsRequest:
    fields = {"key": f"{A}:key", "sequence": Sequence(number=0), "payload_digest": bytes(32), "transaction": "0x1", "number": 101}
    return a_range(landed=[LandedTransaction(**{name: value for name, value in (fields | changes).items() if value is not None})])


MANY = [seen(TRANSFER, 0, ALICE, BOB, number=101, index=index) for index in range(10_001)]


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", RecordObservationsRequest()),
        ("FIELD_MALFORMED", a_range(chain="memory")),
        ("FIELD_MISSING", a_range(after=None)),
        ("FIELD_MISSING", a_range(through=None)),
        ("FIELD_MISSING", observing(kind=0)),
        ("FIELD_MALFORMED", observing(kind=99)),
        ("FIELD_MISSING", observing(token="")),
        ("FIELD_MALFORMED", observing(token=f"{B}/token:AAPLx")),
        ("FIELD_MISSING", observing(transaction="")),
        ("FIELD_MALFORMED", observing(transaction="x" * 129)),
        ("FIELD_MALFORMED", observing(index=-1)),
        ("FIELD_MISSING", observing(source="")),
        ("FIELD_MALFORMED", observing(source="book:alice")),
        ("FIELD_MALFORMED", observing(destination=wallet("bob", B))),
        ("FIELD_MISSING", observing(raw="")),
        ("FIELD_MALFORMED", observing(raw="-1")),
        ("FIELD_MALFORMED", observing(raw="01")),
        ("FIELD_MALFORMED", observing(raw=str(2**256))),
        ("FIELD_MISSING", observing(kind=MULTIPLIER)),
        ("FIELD_MALFORMED", observing(kind=FREEZE, value="yes")),
        ("FIELD_MISSING", observing(kind=AUTHORITY)),
        ("FIELD_MISSING", observing(kind=BAR, value="true")),
        ("FIELD_MISSING", observing(kind=BAR, value="true", subject="list 0x1", source="")),
        ("FIELD_MALFORMED", observing(kind=BAR, value="yes", subject="list 0x1")),
        ("FIELD_MISSING", observing(kind=FREEZE, value="true", token="")),
        ("FIELD_MALFORMED", observing(value="x" * 141)),
        ("FIELD_MISSING", observing(operations=[0])),
        ("FIELD_MALFORMED", observing(operations=[1, 1])),
        ("FIELD_MALFORMED", observing(kind=PAUSE, raw="1" * 141)),
        ("FIELD_MALFORMED", observing(kind=PAUSE, source="x" * 171)),
        ("FIELD_MALFORMED", observing(operations=[9])),
        ("FIELD_MALFORMED", observing(effective_time=Timestamp(nanos=1))),
        ("FIELD_MALFORMED", observing(encoding=bytes(65))),
        ("FIELD_MALFORMED", observing(instruction="4711")),
        ("FIELD_MISSING", landing(key="")),
        ("FIELD_MALFORMED", landing(key="book:alice")),
        ("FIELD_MISSING", landing(sequence=None)),
        ("FIELD_MALFORMED", landing(sequence=Sequence(number=-1))),
        ("FIELD_MISSING", landing(payload_digest=b"")),
        ("FIELD_MALFORMED", landing(payload_digest=bytes(31))),
        ("FIELD_MISSING", landing(transaction="")),
        ("FIELD_MALFORMED", landing(failure=99)),
        ("FIELD_MALFORMED", landing(failure_text="x" * 141)),
        ("FIELD_MALFORMED", landing(fee="1.5")),
        ("FIELD_MALFORMED", a_range(satisfied_instructions=["x"])),
        ("TOO_MANY_ITEMS", a_range(observations=[*MANY, seen(TRANSFER, 1, ALICE, BOB, number=102)])),
        ("CHAIN_NOT_FOUND", a_range(chain="memory:c", observations=[])),
        ("DEPLOYMENT_NOT_FOUND", observing(token=f"{A}/token:NVDAx")),
        ("EXPECTATION_FAILED", a_range(after=at(101))),
        ("EXPECTATION_FAILED", a_range(after=at(99), through=at(100))),
        ("DATES_OUT_OF_ORDER", a_range(through=at(100))),
        ("DATES_OUT_OF_ORDER", observing(number=100)),
        ("DATES_OUT_OF_ORDER", observing(number=111)),
        ("DATES_OUT_OF_ORDER", a_range(observations=[seen(TRANSFER, 1, ALICE, BOB, number=101)] * 2)),
        ("DATES_OUT_OF_ORDER", landing(number=100)),
        ("DATES_OUT_OF_ORDER", landing(number=111)),
    ],
)
def test_a_range_is_refused(books: Scenario, reason: str, command: Any) -> None:
    books.when(command).raises(reason)


def test_the_cursor_goes_by_number_and_hash(books: Scenario) -> None:
    other = at(100)
    other.hash = "0xother"
    books.when(a_range(after=other)).raises("EXPECTATION_FAILED", expected="100 0x88e9", found="100 0xother")
    books.when(a_range()).accepted()
    books.when(a_range()).raises("EXPECTATION_FAILED", expected="110 0x110", found="100 0x88e9")
    assert holdings(books, ALICE, BOB) == [49, 1]


def test_a_range_is_booked_once(books: Scenario) -> None:
    check_repeat(books, a_range(), a_range(through=at(111)))


def test_an_empty_range_moves_the_cursor(books: Scenario, reader: Reader) -> None:
    assert reader.see() == [RangeObserved(chain=A, after=at(100), through=at(101))]
    assert books.books._state.chains[A].cursor.number == 101


def test_a_block_with_more_than_most_is_booked_in_parts(books: Scenario) -> None:
    names = [wallet(f"w{number}") for number in range(1_000)]
    rows = [seen(TRANSFER, 1, ALICE, names[0], number=101)]
    rows += [seen(TRANSFER, 1, names[each], names[each + 1], number=101, index=each + 1) for each in range(999)]
    rows += MANY[1_000:]
    books.when(a_range(observations=rows)).accepted()
    assert len(books.booked) > 30
    assert holdings(books, ALICE, names[0], names[-1]) == [49, 0, 1]
    state = books.books._state
    assert [state.account_names[state.accounts[names[0]].number + each] for each in (0, 999)] == [names[0], names[999]]
    assert books.answer.booking.entry_count == len(books.booked)
    check_books(state, state.size)


# ---- of others -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observation", "moved", "raised"),
    [
        (seen(MINT, 10, destination=ALICE), {DIVERGENCE: -10, ALICE: 10}, ["MINT_UNDECIDED"]),
        (seen(MINT, 10, destination=STRANGER), {DIVERGENCE: -10, STRANGER: 10}, ["MINT_UNDECIDED"]),
        (seen(BURN, 10, ALICE), {ALICE: -10, DIVERGENCE: 10}, ["BURN_UNDECIDED"]),
        (seen(BURN, 60, ALICE), {ALICE: -50, DIVERGENCE: 50}, ["IMPOSSIBLE", "BURN_UNDECIDED"]),
        (seen(TRANSFER, 10, ALICE, BOB), {ALICE: -10, BOB: 10}, []),
        (seen(TRANSFER, 50, ALICE, STRANGER), {ALICE: -50, STRANGER: 50}, []),
        (seen(TRANSFER, 60, ALICE, BOB), {DIVERGENCE: -10, ALICE: -50, BOB: 60}, ["IMPOSSIBLE"]),
        (seen(TRANSFER, 5, STRANGER, BOB), {DIVERGENCE: -5, BOB: 5}, ["IMPOSSIBLE"]),
        (seen(TRANSFER, 0, ALICE, STRANGER), {}, []),
        (seen(TRANSFER, 10, ALICE, ALICE), {}, []),
        (seen(MINT, 2**255, destination=ALICE), {}, ["IMPOSSIBLE"]),
        (seen(MINT, UNITS_MAX - 149, destination=ALICE), {}, ["IMPOSSIBLE"]),
        (seen(MINT, UNITS_MAX - 150, destination=ALICE), {DIVERGENCE: 150 - UNITS_MAX, ALICE: UNITS_MAX - 150}, ["MINT_UNDECIDED"]),
        (seen(TRANSFER, UNITS_MAX + 1, ALICE, BOB), {}, ["IMPOSSIBLE"]),
    ],
)
def test_what_others_did_is_booked_as_seen(
    books: Scenario, reader: Reader, observation: Any, moved: dict[str, int], raised: list[str]
) -> None:
    names = ["book:alice", TRANSIT, DIVERGENCE, ALICE, BOB]
    before = dict(zip(names, holdings(books, *names), strict=True))
    events = reader.see(observation)
    after = {name: before.get(name, 0) + units for name, units in (dict.fromkeys(names, 0) | moved).items()}
    assert {name: books.holding("AAPLx", name) for name in after} == after
    assert kinds(events) == raised
    assert books.answer.divergence_count == len(raised)
    halted = observation.raw not in {"0", "5", "10", "50", "60", str(UNITS_MAX - 150)}
    assert bool(books.books._state.halts) == halted, "only what cannot be counted stops the place by itself"


def test_a_stranger_gets_an_account_of_nobody(books: Scenario, reader: Reader) -> None:
    following = books.books._state.counters["account"] + 1
    (event,) = reader.see(seen(TRANSFER, 5, ALICE, STRANGER), seen(TRANSFER, 2, STRANGER, wallet("other")))
    assert (list(event.opened_accounts), event.first_opened_number) == ([STRANGER, wallet("other")], following)
    found = books.books._state.accounts[STRANGER]
    assert (found.number, found.holder) == (following, "")
    assert holdings(books, STRANGER, wallet("other")) == [3, 2]
    reader.see(seen(TRANSFER, 1, STRANGER, ALICE))
    books.given(bound("stranger", "h-2"))
    assert (books.books._state.accounts[STRANGER].holder, books.holding("AAPLx", STRANGER)) == ("h-2", 2)


def test_within_a_range_the_order_of_the_chain_counts(books: Scenario, reader: Reader) -> None:
    assert kinds(reader.see(seen(TRANSFER, 50, ALICE, STRANGER), seen(TRANSFER, 50, STRANGER, BOB))) == []
    assert kinds(reader.see(seen(TRANSFER, 50, STRANGER, ALICE), seen(TRANSFER, 50, BOB, STRANGER))) == ["IMPOSSIBLE"]


def test_a_divergence_has_both_figures(books: Scenario, reader: Reader) -> None:
    books.given(change(halt_on_divergence=True))
    _, raised = reader.see(seen(TRANSFER, 60, ALICE, BOB, transaction="0xbad"))
    found = raised.divergence
    assert (found.divergence, found.chain, found.instrument, found.account) == (1, A, "AAPLx", ALICE)
    assert (found.expected, found.found, found.position.number, found.transaction, found.halting) == ("50", "60", 101, "0xbad", True)
    books.when(transfer("book:alice", ALICE)).raises("PLACE_HALTED", divergence=1)


@pytest.mark.parametrize(
    ("observation", "raised", "figures"),
    [
        (seen(FREEZE, source=BOB, value="true"), True, ("false", "true")),
        (seen(FREEZE, source=ALICE, value="true"), False, None),
        (seen(FREEZE, source=ALICE, value="false"), True, ("true", "false")),
        (seen(FREEZE, source=STRANGER, value="true"), True, ("false", "true")),
        (seen(FREEZE_UNITS, 7, ALICE), True, ("0", "7")),
        (seen(FREEZE_UNITS, 0, ALICE), False, None),
        (seen(PAUSE, operations=[Operation.OPERATION_TRANSFER]), True, ("none", "transfer")),
        (seen(PAUSE), False, None),
        (seen(MULTIPLIER, value=str(10**18)), False, None),
        (seen(MULTIPLIER, value=str(10**18 + 200)), False, None),
        (seen(MULTIPLIER, value=str(10**18 + 300)), True, (str(10**18), str(10**18 + 300))),
        (seen(MULTIPLIER, value=str(2**255)), True, (str(10**18), str(2**255))),
        (seen(ALLOTMENT, 1_000), False, None),
        (seen(ALLOTMENT, 2_000), True, ("1000", "2000")),
        (seen(AUTHORITY, subject="MINTER_ROLE", value="0xbad"), True, ("unchanged", "MINTER_ROLE: 0xbad")),
        (seen(AUTHORITY, subject="code"), True, ("unchanged", "code: nobody")),
        (seen(BAR, source=BOB, subject="list 0x1", value="true"), True, ("not barred", "barred by list 0x1")),
        (seen(BAR, source=BOB, subject="list 0x1", value="false"), False, None),
    ],
)
def test_what_nobody_decided_is_told(
    books: Scenario, reader: Reader, observation: Any, raised: bool, figures: tuple[str, str] | None
) -> None:
    books.given(FreezeHolderRequest(holder="h-1", legal_reference="OFAC"))
    events = reader.see(observation)
    assert kinds(events) == (["CONTROL_UNDECIDED"] if raised else [])
    if figures is not None:
        assert (events[-1].divergence.expected, events[-1].divergence.found) == figures


def test_what_concerns_all_tokens_of_a_chain_is_told_once(books: Scenario, reader: Reader) -> None:
    """One list that all tokens ask: of no token, and of each one that is to be halted by it."""
    barred = seen(BAR, source=STRANGER, subject="list 0x1", value="true", token="")
    role = seen(AUTHORITY, subject="ENFORCER_ROLE of list 0x1", value="0xbad", token="")
    events = reader.see(barred, role)
    assert [(each.divergence.instrument, each.divergence.account, each.divergence.halting) for each in events[1:]] == [
        ("", STRANGER, False),
        ("", "", False),
    ]
    assert STRANGER not in books.books._state.accounts
    books.given(ResolveDivergenceRequest(divergence=events[1].divergence.divergence, cause="sanctions"), change(halt_on_divergence=True))
    events = reader.see(barred)
    assert [(each.divergence.instrument, each.divergence.account, each.divergence.halting) for each in events[1:]] == [
        ("AAPLx", STRANGER, True)
    ]


def test_what_a_chain_is_set_to_is_kept(books: Scenario, reader: Reader) -> None:
    reader.see(seen(MULTIPLIER, value=str(10**18 + 200)), seen(PAUSE, operations=[Operation.OPERATION_ISSUE]))
    found = books.books._state.deployments["AAPLx", A]
    assert (found.observed_multiplier, found.paused_operations) == (10**18 + 200, {Operation.OPERATION_ISSUE})


# ---- breaches --------------------------------------------------------------------------------------------------------------------------

BARRED_FR = SetEligibilityRequest(instrument="AAPLx", rule=EligibilityRule(effective_date="2026-11-22", barred_countries=["FR"]))


@pytest.mark.parametrize(
    ("given", "observation", "expected"),
    [
        ([], seen(TRANSFER, 10, ALICE, BOB), []),
        ([FreezeHolderRequest(holder="h-1", legal_reference="x")], seen(TRANSFER, 10, ALICE, BOB), ["PARTY_FROZEN"]),
        ([FreezeHolderRequest(holder="h-2", legal_reference="x")], seen(TRANSFER, 10, ALICE, BOB), ["PARTY_FROZEN"]),
        ([FreezeAccountRequest(account=BOB, legal_reference="x")], seen(TRANSFER, 10, ALICE, BOB), ["PARTY_FROZEN"]),
        ([FreezeAccountRequest(account=ALICE, legal_reference="x")], seen(BURN, 10, ALICE), ["PARTY_FROZEN"]),
        (
            [FreezeUnitsRequest(instrument="AAPLx", account=ALICE, units=41, legal_reference="x")],
            seen(TRANSFER, 10, ALICE, BOB),
            ["PARTY_FROZEN"],
        ),
        ([FreezeUnitsRequest(instrument="AAPLx", account=ALICE, units=40, legal_reference="x")], seen(TRANSFER, 10, ALICE, BOB), []),
        ([BARRED_FR], seen(TRANSFER, 10, ALICE, BOB), ["HOLDER_NOT_ELIGIBLE"]),
        ([BARRED_FR], seen(TRANSFER, 10, ALICE, STRANGER), []),
        ([CloseAccountRequest(account=BOB)], seen(TRANSFER, 10, ALICE, BOB), ["ACCOUNT_CLOSED"]),
        (
            [AmendHolderRequest(holder="h-2", state=HolderState.HOLDER_STATE_SUSPENDED)],
            seen(TRANSFER, 10, ALICE, BOB),
            ["HOLDER_NOT_ACTIVE"],
        ),
        (
            [HaltInstrumentRequest(instrument="AAPLx", operations=[Operation.OPERATION_TRANSFER], cause="x")],
            seen(TRANSFER, 10, ALICE, BOB),
            ["INSTRUMENT_HALTED"],
        ),
        ([HaltInstrumentRequest(instrument="AAPLx", operations=[Operation.OPERATION_TRANSFER], cause="x")], seen(BURN, 10, ALICE), []),
        (
            [HaltInstrumentRequest(instrument="AAPLx", operations=[Operation.OPERATION_REDEEM], cause="x")],
            seen(BURN, 10, ALICE),
            ["INSTRUMENT_HALTED"],
        ),
        ([transfer(ALICE, "book:alice", 40)], seen(TRANSFER, 11, ALICE, BOB), ["UNITS_PROMISED"]),
        ([transfer(ALICE, "book:alice", 40)], seen(TRANSFER, 10, ALICE, BOB), []),
    ],
)
def test_broken_rules_stand_beside_what_is_booked(
    books: Scenario, reader: Reader, given: list[Any], observation: Any, expected: list[str]
) -> None:
    books.given(*given)
    events = reader.see(observation)
    assert breaches(events) == expected
    assert books.holding("AAPLx", ALICE) == 50 - int(observation.raw)


# ---- ours ------------------------------------------------------------------------------------------------------------------------------


def test_a_mint_of_ours_ends_in_the_account(books: Scenario, reader: Reader) -> None:
    books.given(transfer("book:alice", ALICE))
    minted = the_instruction(books)
    events = reader.carry_out(minted)
    assert outcome_of(events, minted.text).state == FINAL
    assert (kinds(events), breaches(events), moving(books)) == ([], [], [])
    assert holdings(books, "book:alice", TRANSIT, ALICE) == [60, 0, 90]
    assert (books.answer.final_count, books.answer.refused_count) == (1, 0)
    assert not books.books._state.open_transactions
    assert books.books._state.chain_keys[f"{A}:key"].consumed_count == 1


def test_a_burn_of_ours_goes_on_to_the_book(books: Scenario, reader: Reader) -> None:
    books.given(transfer(ALICE, "book:bob"))
    events = reader.carry_out(the_instruction(books))
    assert (kinds(events), moving(books)) == ([], [])
    assert holdings(books, ALICE, "book:bob", DIVERGENCE) == [10, 40, 0]
    assert not books.books._state.promised


def test_what_a_burn_of_ours_took_is_promised_no_longer_in_the_same_range(books: Scenario, reader: Reader) -> None:
    books.given(transfer(ALICE, "book:bob"))
    burned = the_instruction(books)
    sent = reader.record(burned)
    events = reader.see(reader.effect_of(burned, sent), seen(TRANSFER, 10, ALICE, BOB), landed=[reader.landed(sent)])
    assert (breaches(events), holdings(books, ALICE, BOB, "book:bob")) == ([], [0, 10, 40])


def test_a_burn_of_ours_goes_on_to_another_chain(books: Scenario, reader: Reader) -> None:
    bob_on_b = wallet("bob", B)
    books.given(transfer(ALICE, bob_on_b))
    burned = the_instruction(books)
    events = reader.carry_out(burned)
    found = outcome_of(events, burned.text)
    assert (found.onward, found.owner_account) == (bob_on_b, ALICE)
    assert holdings(books, ALICE, f"transit:{B}", bob_on_b) == [10, 40, 0]
    minted = the_instruction(books)
    assert (minted.chain, minted.kind, minted.destination, minted.units) == (B, InstructionKind.INSTRUCTION_KIND_MINT, bob_on_b, 40)
    assert (minted.origin, minted.owner_account) == (ALICE, ALICE)
    books.given(set_key(f"{B}:key"))
    Reader(books, B).carry_out(minted)
    assert holdings(books, f"transit:{B}", bob_on_b) == [0, 40]


def test_a_transfer_by_force_is_no_breach(books: Scenario, reader: Reader) -> None:
    books.given(FreezeHolderRequest(holder="h-1", legal_reference="OFAC"))
    books.given(force(), principal="enforcer")
    events = reader.carry_out(the_instruction(books))
    assert (kinds(events), breaches(events), holdings(books, ALICE, BOB)) == ([], [], [10, 40])


def test_what_comes_to_an_address_of_ours_is_burned_and_credited(books: Scenario, reader: Reader) -> None:
    deposit = wallet("deposit")
    books.given(addresses((deposit, "book:bob")))
    reader.see(seen(TRANSFER, 30, ALICE, deposit))
    burned = the_instruction(books)
    assert (burned.kind, burned.source, burned.onward, burned.units) == (InstructionKind.INSTRUCTION_KIND_BURN, deposit, "book:bob", 30)
    reader.carry_out(burned)
    assert holdings(books, ALICE, deposit, "book:bob") == [20, 0, 30]


def test_what_could_not_all_be_burned_stays_refused_and_is_taken_by_force(books: Scenario, reader: Reader) -> None:
    """The address's key was used behind our back: what is left there is shown until somebody decides about it."""
    deposit = wallet("deposit")
    books.given(addresses((deposit, "book:bob")))
    reader.see(seen(TRANSFER, 30, ALICE, deposit))
    burned = the_instruction(books)
    reader.see(seen(TRANSFER, 1, deposit, STRANGER))
    reader.fail(burned, failure=LACKING)
    (refused,) = moving(books)
    assert (refused.state, refused.failure) == (REFUSED, LACKING)
    books.when(force(deposit, "book:bob", 29), principal="enforcer").raises("UNITS_INSUFFICIENT")
    books.given(AbandonInstructionRequest(instruction=refused.text, cause="its key was used"))
    assert moving(books) == []
    books.given(force(deposit, "book:bob", 29), principal="enforcer")
    reader.carry_out(the_instruction(books))
    assert holdings(books, ALICE, deposit, STRANGER, "book:bob") == [20, 0, 1, 29]


def test_the_chain_may_refuse_it_before_it_was_sent(books: Scenario, reader: Reader) -> None:
    deposit = wallet("deposit")
    books.given(addresses((deposit, "book:bob")))
    reader.see(seen(TRANSFER, 30, ALICE, deposit))
    books.given(AbandonInstructionRequest(instruction=the_instruction(books).text, cause="the chain refuses it", failure=BARRED))
    (refused,) = moving(books)
    assert (refused.state, refused.failure) == (REFUSED, BARRED)


def test_units_that_nobody_sent_to_it_are_taken_from_an_address_by_force(books: Scenario, reader: Reader) -> None:
    deposit = wallet("deposit")
    books.given(addresses((deposit, "book:bob")))
    reader.see(seen(MINT, 30, destination=deposit))
    books.when(force(ALICE, deposit, 1), principal="enforcer").raises("PLACE_UNFIT")
    books.given(force(deposit, BOB, 30), principal="enforcer")
    reader.carry_out(the_instruction(books))
    assert holdings(books, deposit, BOB) == [0, 30]


def test_what_nobody_decided_to_mint_is_not_credited(books: Scenario, reader: Reader) -> None:
    deposit = wallet("deposit")
    books.given(addresses((deposit, "book:bob")))
    assert kinds(reader.see(seen(MINT, 30, destination=deposit))) == ["MINT_UNDECIDED"]
    assert moving(books) == []
    assert kinds(reader.see(seen(TRANSFER, 50, deposit, STRANGER))) == ["IMPOSSIBLE"]
    assert moving(books) == []


def test_a_redemption_from_a_wallet_is_held_once_burned(books: Scenario, reader: Reader) -> None:
    asked = RequestRedemptionRequest(instrument="AAPLx", account="book:alice", units=40, cash_instrument="USDC", wallet=ALICE)
    books.given(asked)
    events = reader.carry_out(the_instruction(books))
    found = books.books._state.redemptions[1]
    assert (found.hold, found.wallet) == (events[0].outcomes[0].hold, "")
    assert books.books._state.holds[found.hold].units == 40
    assert holdings(books, ALICE, "book:alice") == [10, 140]


def test_a_redemption_ends_when_the_chain_refuses_to_burn(books: Scenario, reader: Reader) -> None:
    books.given(RequestRedemptionRequest(instrument="AAPLx", account="book:alice", units=40, cash_instrument="USDC", wallet=ALICE))
    events = reader.fail(the_instruction(books), failure=LACKING)
    assert (books.answer.refused_count, len(events), books.books._state.redemptions) == (1, 1, {})
    assert (moving(books), holdings(books, ALICE), books.books._state.promised) == ([], [50], {})


@pytest.mark.parametrize(
    ("change", "raised"),
    [
        ({}, []),
        ({"transaction": "0xother"}, ["MINT_UNDECIDED", "WITHOUT_EFFECT"]),
        ({"instruction": ""}, ["MINT_UNDECIDED", "WITHOUT_EFFECT"]),
        ({"instruction": "1-0"}, ["MINT_UNDECIDED", "WITHOUT_EFFECT"]),
        ({"raw": 41}, ["MINT_UNDECIDED", "WITHOUT_EFFECT"]),
        ({"destination": BOB}, ["MINT_UNDECIDED", "WITHOUT_EFFECT"]),
        ({"kind": BURN, "source": ALICE, "destination": ""}, ["BURN_UNDECIDED", "WITHOUT_EFFECT"]),
    ],
)
def test_the_readers_word_is_checked(books: Scenario, reader: Reader, change: dict[str, Any], raised: list[str]) -> None:
    books.given(transfer("book:alice", ALICE))
    minted = the_instruction(books)
    transaction = reader.record(minted)
    events = reader.see(reader.effect_of(minted, transaction, **change), landed=[reader.landed(transaction)])
    assert kinds(events) == raised
    if raised:
        assert (the_instruction(books).state, books.holding("AAPLx", TRANSIT)) == (REFUSED, 40)
        assert (events[-1].divergence.expected, events[-1].divergence.found) == ("40", "0")


def test_an_effect_counts_once(books: Scenario, reader: Reader) -> None:
    books.given(transfer("book:alice", ALICE))
    minted = the_instruction(books)
    transaction = reader.record(minted)
    twice = [reader.effect_of(minted, transaction) for _ in range(2)]
    assert kinds(reader.see(*twice, landed=[reader.landed(transaction)])) == ["MINT_UNDECIDED"]
    assert holdings(books, TRANSIT, DIVERGENCE, ALICE) == [0, -40, 130]


def test_a_failed_transaction_shows_nothing(books: Scenario, reader: Reader) -> None:
    """An effect that is said to be of a failed transaction was somebody else's."""
    books.given(transfer("book:alice", ALICE))
    minted = the_instruction(books)
    transaction = reader.record(minted)
    events = reader.see(reader.effect_of(minted, transaction), landed=[reader.landed(transaction, failure=PAUSED)])
    assert kinds(events) == ["MINT_UNDECIDED"]
    assert (the_instruction(books).state, the_instruction(books).attempt_count) == (OPEN, 1)


@pytest.mark.parametrize(
    ("command", "failure", "state", "back"),
    [
        (transfer("book:alice", ALICE), BARRED, None, 100),
        (transfer("book:alice", ALICE), LACKING, None, 100),
        (transfer("book:alice", ALICE), PAUSED, OPEN, 60),
        (transfer("book:alice", ALICE), OTHER, OPEN, 60),
        (transfer(ALICE, "book:alice"), BARRED, None, 100),
        (transfer(ALICE, "book:alice"), PAUSED, OPEN, 100),
        (force(), LACKING, None, 100),
        (force(), ChainFailure.CHAIN_FAILURE_KEY_WITHOUT_ROLE, OPEN, 100),
    ],
)
def test_failures(books: Scenario, reader: Reader, *, command: Any, failure: int, state: int | None, back: int) -> None:
    books.given(command, principal="enforcer")
    wanted = the_instruction(books)
    events = reader.fail(wanted, failure=failure, text="AccessDenied")
    outcome = outcome_of(events, wanted.text)
    assert (outcome.failure, outcome.failure_text) == (failure, "AccessDenied")
    assert outcome.state == (REFUSED if state is None else state)
    assert books.holding("AAPLx", "book:alice") == back
    assert holdings(books, TRANSIT, ALICE, BOB) == [100 - back, 50, 0]
    if state is None:
        assert (moving(books), books.books._state.promised) == ([], {})
    else:
        again = the_instruction(books)
        assert (again.state, again.failure, again.failure_text, again.attempt_count) == (OPEN, failure, "AccessDenied", 1)
        reader.carry_out(again)
        assert moving(books) == []


def test_what_came_from_a_chain_waits_in_transit_when_refused(books: Scenario, reader: Reader) -> None:
    books.given(set_key(f"{B}:key"), transfer(ALICE, wallet("bob", B)))
    reader.carry_out(the_instruction(books))
    minted = the_instruction(books)
    Reader(books, B).fail(minted, failure=BARRED)
    assert (the_instruction(books).state, books.holding("AAPLx", f"transit:{B}")) == (REFUSED, 40)


def test_several_in_one_transaction_go_alone_after_it_failed(books: Scenario, reader: Reader) -> None:
    books.given(transfer("book:alice", ALICE, 10), transfer("book:alice", BOB, 20))
    both = moving(books)
    reader.fail(*both, failure=BARRED)
    assert [(each.state, each.failure, each.attempt_count) for each in moving(books)] == [(OPEN, IN_COMPANY, 1)] * 2
    assert books.holding("AAPLx", TRANSIT) == 30
    reader.fail(moving(books)[0], failure=BARRED)
    reader.carry_out(moving(books)[0])
    assert holdings(books, "book:alice", TRANSIT, ALICE, BOB) == [80, 0, 50, 20]


def test_several_in_one_transaction_wait_together(books: Scenario, reader: Reader) -> None:
    books.given(transfer("book:alice", ALICE, 10), transfer("book:alice", BOB, 20))
    reader.fail(*moving(books), failure=PAUSED)
    assert [each.failure for each in moving(books)] == [PAUSED] * 2


def targets(books: Scenario, kind: InstructionKind.ValueType) -> list[Instruction]:
    found = books.books._state.instructions
    return [found[key] for key in sorted(found) if (found[key].kind, found[key].chain) == (kind, A)]


def test_a_target_needs_no_effect_and_never_ends_by_a_failure(books: Scenario, reader: Reader) -> None:
    books.given(FreezeAccountRequest(account=ALICE, legal_reference="OFAC"))
    (freeze,) = targets(books, InstructionKind.INSTRUCTION_KIND_FREEZE)
    reader.fail(freeze, failure=BARRED)
    (again,) = targets(books, InstructionKind.INSTRUCTION_KIND_FREEZE)
    assert (again.state, again.attempt_count) == (OPEN, 1)
    transaction = reader.record(again)
    done = f"0x{transaction.payload.hex()}"
    events = reader.see(seen(FREEZE, source=ALICE, value="true", transaction=done), landed=[reader.landed(transaction)])
    assert (kinds(events), outcome_of(events, freeze.text).state) == ([], FINAL)
    assert targets(books, InstructionKind.INSTRUCTION_KIND_FREEZE) == []


def test_a_target_that_is_wanted_no_more_and_lands_is_nobodys_doing(books: Scenario, reader: Reader) -> None:
    books.given(FreezeAccountRequest(account=ALICE, legal_reference="OFAC"))
    (freeze,) = targets(books, InstructionKind.INSTRUCTION_KIND_FREEZE)
    sent = reader.record(freeze)
    books.given(UnfreezeAccountRequest(account=ALICE, legal_reference="lifted"))
    frozen = {"source": ALICE, "value": "true"}
    ours = seen(FREEZE, **frozen, transaction=f"0x{sent.payload.hex()}")
    assert kinds(reader.see(ours, landed=[reader.landed(sent)])) == []
    assert kinds(reader.see(seen(FREEZE, **frozen))) == ["CONTROL_UNDECIDED"]


def test_a_target_that_the_chain_has_reached_is_over(books: Scenario, reader: Reader) -> None:
    books.given(FreezeAccountRequest(account=ALICE, legal_reference="OFAC"))
    (freeze,) = targets(books, InstructionKind.INSTRUCTION_KIND_FREEZE)
    reader.see(satisfied=["9999-0", freeze.text, freeze.text])
    assert (targets(books, InstructionKind.INSTRUCTION_KIND_FREEZE), books.answer.final_count) == ([], 1)


def test_what_moves_units_or_is_recorded_is_not_over_by_being_reached(books: Scenario, reader: Reader) -> None:
    books.given(FreezeAccountRequest(account=BOB, legal_reference="OFAC"), transfer("book:alice", ALICE))
    (freeze,) = targets(books, InstructionKind.INSTRUCTION_KIND_FREEZE)
    reader.record(freeze)
    reader.see(satisfied=[the_instruction(books).text, freeze.text])
    assert books.answer.final_count == 0
    assert targets(books, InstructionKind.INSTRUCTION_KIND_FREEZE)[0].state == RECORDED


# ---- transactions ----------------------------------------------------------------------------------------------------------------------


def replacement(of: Transaction, **changes: Any) -> Transaction:
    fields = {"key": of.key, "sequence": of.sequence, "payload": b"more", "instructions": of.instructions, "replacement": True}
    return Transaction(**(fields | changes))


def test_any_version_may_be_the_one_that_lands(books: Scenario, reader: Reader) -> None:
    books.given(transfer("book:alice", ALICE))
    minted = the_instruction(books)
    first = reader.record(minted)
    books.given(RecordTransactionsRequest(chain=A, transactions=[replacement(first)]))
    reader.see(reader.effect_of(minted, first), landed=[reader.landed(first)])
    assert (moving(books), books.holding("AAPLx", ALICE)) == ([], 90)


def test_a_cancellation_that_lands_opens_the_instructions_again(books: Scenario, reader: Reader) -> None:
    books.given(transfer("book:alice", ALICE))
    first = reader.record(the_instruction(books))
    cancelled = replacement(first, instructions=[])
    books.given(RecordTransactionsRequest(chain=A, transactions=[cancelled]))
    assert kinds(reader.see(landed=[reader.landed(cancelled)])) == []
    again = the_instruction(books)
    assert (again.state, again.attempt_count, books.holding("AAPLx", TRANSIT)) == (OPEN, 1, 40)
    reader.carry_out(again)
    assert books.holding("AAPLx", ALICE) == 90


def test_another_payload_under_our_sequence_is_told(books: Scenario, reader: Reader) -> None:
    books.given(transfer("book:alice", ALICE))
    first = reader.record(the_instruction(books))
    events = reader.see(landed=[reader.landed(first, payload_digest=bytes(32))])
    assert kinds(events) == ["CONTROL_UNDECIDED"]
    assert events[-1].divergence.account == f"{A}:key"
    assert (the_instruction(books).state, books.books._state.open_transactions) == (OPEN, {})


def test_a_transaction_that_nobody_recorded_is_told_and_lands_once(books: Scenario, reader: Reader) -> None:
    books.given(transfer("book:alice", ALICE))
    minted = the_instruction(books)
    first = reader.record(minted)
    events = reader.see(reader.effect_of(minted, first), landed=[reader.landed(first), reader.landed(first)])
    assert kinds(events) == ["CONTROL_UNDECIDED"]
    unknown = Transaction(key=f"{A}:key", sequence=Sequence(number=7), payload=b"x")
    assert kinds(reader.see(landed=[reader.landed(unknown)])) == ["CONTROL_UNDECIDED"]
    assert books.books._state.chain_keys[f"{A}:key"].consumed_count == 8
    assert (moving(books), books.holding("AAPLx", ALICE)) == ([], 90)


# ---- freezes while something is in flight ----------------------------------------------------------------------------------------------


def test_a_mint_for_somebody_frozen_is_stopped_while_it_is_not_recorded(books: Scenario, reader: Reader) -> None:
    books.given(transfer("book:alice", BOB), FreezeHolderRequest(holder="h-2", legal_reference="OFAC"))
    wanted = Transaction(key=f"{A}:key", sequence=Sequence(number=0), payload=b"x", instructions=[the_instruction(books).text])
    books.when(RecordTransactionsRequest(chain=A, transactions=[wanted])).raises("INSTRUCTION_BLOCKED", blocked_by="HOLDER_FROZEN")
    assert holdings(books, TRANSIT, BOB) == [40, 0]


def test_a_mint_that_was_sent_to_somebody_frozen_lands_where_it_is_frozen_first(books: Scenario, reader: Reader) -> None:
    books.given(transfer("book:alice", BOB))
    minted = the_instruction(books)
    sent = reader.record(minted)
    books.given(FreezeHolderRequest(holder="h-2", legal_reference="OFAC"))
    listed = books.books.execute(ListInstructionsRequest(chain=A)).instructions
    first = next(each for each in listed if each.source == BOB)
    assert (listed[0].rank, first.kind, first.frozen, first.blocked_by) == (0, InstructionKind.INSTRUCTION_KIND_FREEZE, True, "")
    (freeze,) = targets(books, InstructionKind.INSTRUCTION_KIND_FREEZE)
    reader.carry_out(freeze)
    events = reader.see(reader.effect_of(minted, sent), landed=[reader.landed(sent)])
    assert (breaches(events), holdings(books, TRANSIT, BOB)) == (["PARTY_FROZEN"], [0, 40])


def test_a_chain_that_bars_a_wallet_sends_the_units_back(books: Scenario, reader: Reader) -> None:
    books.given(transfer("book:alice", BOB))
    minted = the_instruction(books)
    sent = reader.record(minted)
    books.given(FreezeHolderRequest(holder="h-2", legal_reference="OFAC"))
    events = reader.see(landed=[reader.landed(sent, failure=BARRED)])
    assert outcome_of(events, minted.text).returned_units == 40
    assert (holdings(books, "book:alice", TRANSIT, BOB), moving(books)) == ([100, 0, 0], [])


@pytest.mark.parametrize("away", [seen(TRANSFER, 30, ALICE, STRANGER), seen(BURN, 30, ALICE)])
def test_an_owner_who_is_faster_than_a_transfer_by_force(books: Scenario, reader: Reader, away: Any) -> None:
    books.given(force(), principal="enforcer")
    forced = the_instruction(books)
    sent = reader.record(forced)
    assert breaches(reader.see(away)) == ["UNITS_PROMISED"]
    events = reader.see(landed=[reader.landed(sent, failure=LACKING)])
    assert outcome_of(events, forced.text).state == REFUSED
    assert (moving(books), books.books._state.promised, holdings(books, ALICE, BOB)) == ([], {}, [20, 0])
    books.given(force(units=20), principal="enforcer")
    reader.carry_out(the_instruction(books))
    assert holdings(books, ALICE, BOB) == [0, 20]
