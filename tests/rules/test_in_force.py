"""Multipliers in force: when each took effect in the ledger and on chains, and what a chain does at another time or to another value."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from on_chains import A, B, change, deploy, omnibus, one_chain, register, wallet
from readers import Reader, at, seen
from scenario import START_US, Scenario, enforcer, two_holders

from ledger.rules.chains.in_force import CHANGES_KEPT
from stockledger.v1.chains_pb2 import (
    ChainMultiplier,
    DivergenceKind,
    DivergenceRaised,
    ListDeploymentsRequest,
    ListMultiplierChangesRequest,
    Observation,
    ObservationKind,
    RaiseDivergenceRequest,
    RangeObserved,
    RecordObservationsRequest,
    ResolveDivergenceRequest,
)
from stockledger.v1.corporate_actions_pb2 import ActionTerms, AnnounceActionRequest, CancelActionRequest, ExecuteActionRequest, StockSplit
from stockledger.v1.instruments_pb2 import (
    ActionMethod,
    Backing,
    InstrumentKind,
    RegisterInstrumentRequest,
    SetMultiplierRequest,
)

ONE = 10**18
START = START_US // 1_000_000
IN_FORCE = ObservationKind.OBSERVATION_KIND_MULTIPLIER_IN_FORCE
KIND = DivergenceKind.DIVERGENCE_KIND_MULTIPLIER_IN_FORCE


@pytest.fixture
def books() -> Scenario:
    return Scenario().given(*two_holders(), enforcer(), *one_chain(), register(B), deploy(chain=B))


@pytest.fixture
def reader(books: Scenario) -> Reader:
    return Reader(books)


def moment(seconds: float) -> Timestamp:
    found = Timestamp()
    found.FromMicroseconds(START_US + round(seconds * 1_000_000))
    return found


def split(name: str = "SPLIT", seconds: float = 1_000, new_shares: int = 2) -> AnnounceActionRequest:
    return AnnounceActionRequest(
        action=name,
        instrument="AAPLx",
        ex_date="2026-11-23",
        record_date="2026-11-23",
        payment_date="2026-11-23",
        execution_time=moment(seconds),
        method=ActionMethod.ACTION_METHOD_MULTIPLIER,
        terms=ActionTerms(stock_split=StockSplit(new_shares=new_shares, old_shares=1)),
    )


def by_hand(expected: int, multiplier: int) -> SetMultiplierRequest:
    return SetMultiplierRequest(instrument="AAPLx", expected_multiplier=str(expected), multiplier=str(multiplier), cause="correction")


def in_force(value: int, seconds: float, old: int = ONE, block_seconds: float | None = None, **more: Any) -> Observation:
    """Return that a multiplier took effect at a time of the chain, in a block made 5 seconds after it unless told otherwise."""
    fields: dict[str, Any] = {
        "value": str(value),
        "old_value": str(old),
        "effective_time": moment(seconds),
        "time": moment(seconds + 5 if block_seconds is None else block_seconds),
        "transaction": "",
    }
    return seen(IN_FORCE, **(fields | more))


def told(events: list[Any]) -> list[tuple[str, str]]:
    """Return what was expected and found of each such divergence."""
    found = [event.divergence for event in events if isinstance(event, DivergenceRaised)]
    assert all(each.kind == KIND for each in found)
    return [(each.expected, each.found) for each in found]


def changes(books: Scenario, **filters: str) -> list[tuple[str, int, int]]:
    """Return (place, before, after) of all that took effect, in the order of the books."""
    found = books.books.execute(ListMultiplierChangesRequest(**filters)).multiplier_changes
    return [(each.place, int(each.old_multiplier), int(each.multiplier)) for each in found]


# ---- what was decided, and what is not -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds", "agrees"),
    [
        (2 * ONE, 1_000, True),
        (2 * ONE + 444, 1_000, True),
        (2 * ONE + 445, 1_000, False),
        (2 * ONE, 999.5, True),
        (2 * ONE, 1_000.9, True),
        (2 * ONE, 999, False),
        (2 * ONE, 1_001, False),
        (3 * ONE, 1_000, False),
        (2 * ONE, 10, False),
    ],
    ids=["exact", "nearest f64", "another", "cut to a second", "rounded up", "a second early", "a second late", "other value", "at once"],
)
@pytest.mark.parametrize("executed", [(), (ExecuteActionRequest(action="SPLIT"),)], ids=["before", "after"])
def test_a_chain_that_was_told_ahead_does_it_at_that_time(value: int, seconds: float, *, agrees: bool, executed: Any) -> None:
    """Before the ledger's own step is booked, and after."""
    books = Scenario().given(*two_holders(), *one_chain(), split()).pass_time(1_100).given(*executed)
    reader = Reader(books)
    found = told(reader.see(in_force(value, seconds)))
    assert bool(found) != agrees
    if found and is_close(value, 2 * ONE):
        assert found[0][0] == f"{2 * ONE} from 2026-11-22T18:16:40Z"


def is_close(value: int, wanted: int) -> bool:
    return abs(value - wanted) < 445


def test_one_decided_at_once_may_take_its_time_until_the_next(books: Scenario, reader: Reader) -> None:
    books.given(by_hand(ONE, 2 * ONE)).pass_time(100)
    assert not told(reader.see(in_force(2 * ONE, 60)))
    books.given(by_hand(2 * ONE, 3 * ONE)).pass_time(100)
    assert not told(reader.see(in_force(3 * ONE, 200, old=2 * ONE)))
    ((expected, found),) = told(reader.see(in_force(2 * ONE, 201, old=3 * ONE)))
    assert expected.startswith(f"{3 * ONE} from "), "what was decided once is not decided for ever"
    assert found == f"{2 * ONE} from 2026-11-22T18:03:21Z"


def test_read_long_after_it_is_held_against_what_was_decided_then(books: Scenario, reader: Reader) -> None:
    books.given(split("FIRST", 1_000, 2)).pass_time(1_000).given(ExecuteActionRequest(action="FIRST"))
    books.given(split("SECOND", 2_000, 3)).pass_time(1_000).given(ExecuteActionRequest(action="SECOND"))
    books.given(by_hand(6 * ONE, 5 * ONE))
    assert not told(reader.see(in_force(2 * ONE, 1_000), in_force(6 * ONE, 2_000, old=2 * ONE), in_force(5 * ONE, 2_030, old=6 * ONE)))


def test_what_was_taken_back_must_not_take_effect(books: Scenario, reader: Reader) -> None:
    books.given(split(), CancelActionRequest(action="SPLIT", cause="withdrawn")).pass_time(1_100)
    assert told(reader.see(in_force(2 * ONE, 1_000))) == [(str(ONE), f"{2 * ONE} from 2026-11-22T18:16:40Z")]


def test_a_token_registered_after_a_change_follows_as_soon_as_it_can(books: Scenario) -> None:
    books.given(split()).pass_time(1_100).given(ExecuteActionRequest(action="SPLIT"), register("memory:c"), deploy(chain="memory:c"))
    later = Reader(books, "memory:c")
    token = "memory:c/token:AAPLx"
    assert not told(later.see(in_force(2 * ONE, 1_160, token=token)))
    books.given(change(chain="memory:c", allotment_units=5))
    assert not told(later.see(in_force(2 * ONE, 1_170, old=ONE, token=token))), "an amendment changes nothing of it"


def test_what_a_token_came_with_is_no_divergence(books: Scenario, reader: Reader) -> None:
    books.given(by_hand(ONE, 2 * ONE))
    assert not told(reader.see(in_force(ONE, 50, old=0)))


def test_a_divergence_halts_where_that_is_set(books: Scenario, reader: Reader) -> None:
    books.given(change(halt_on_divergence=True))
    reader.see(in_force(7 * ONE, 50))
    (divergence,) = books.books._state.divergences.values()
    assert divergence.halting
    assert divergence.found == f"{7 * ONE} from 2026-11-22T18:00:50Z"


def test_somebody_elses_multiplier_is_only_noted(books: Scenario) -> None:
    books.given(
        RegisterInstrumentRequest(
            symbol="OMNIx",
            name="Somebody else's",
            kind=InstrumentKind.INSTRUMENT_KIND_STOCK,
            underlying_isin="US0378331005",
            decimals=8,
            backing=Backing.BACKING_OMNIBUS,
            authorised_units=1_000,
        ),
        omnibus(),
    )
    events = Reader(books).see(in_force(7 * ONE, 50, instrument="OMNIx"))
    assert [type(event) for event in events] == [RangeObserved]
    assert changes(books) == [(A, ONE, 7 * ONE)]


# ---- what is kept ----------------------------------------------------------------------------------------------------------------------


def test_all_that_took_effect_can_be_listed(books: Scenario, reader: Reader) -> None:
    books.given(split()).pass_time(1_100).given(ExecuteActionRequest(action="SPLIT"))
    reader.see(in_force(2 * ONE, 1_000, block_seconds=1_007))
    books.given(by_hand(2 * ONE, ONE))
    assert changes(books) == [("book", ONE, 2 * ONE), (A, ONE, 2 * ONE), ("book", 2 * ONE, ONE)]
    assert changes(books, place="book", instrument="AAPLx") == [("book", ONE, 2 * ONE), ("book", 2 * ONE, ONE)]
    assert changes(books, instrument="USDC") == changes(books, place=B) == []
    first = books.books.execute(ListMultiplierChangesRequest(page_size=2))
    rest = books.books.execute(ListMultiplierChangesRequest(page_token=first.next_page_token))
    own, there = first.multiplier_changes
    assert (own.action, own.number, own.effective_time, own.time.seconds) == ("SPLIT", 0, moment(1_000), moment(1_100).seconds)
    assert (there.action, there.number, there.effective_time, there.time) == ("", reader.number, moment(1_000), moment(1_007))
    assert [each.multiplier for each in rest.multiplier_changes] == [str(ONE)]
    assert own.index < there.index < rest.multiplier_changes[0].index


def test_the_newest_of_each_place_are_kept(books: Scenario, reader: Reader) -> None:
    """Somebody who turns a multiplier to and fro does not grow the books."""
    reader.see(*(in_force(ONE + turn, 50, old=ONE + turn - 1) for turn in range(CHANGES_KEPT + 3)))
    kept = changes(books)
    assert len(kept) == CHANGES_KEPT
    assert kept[-1] == (A, ONE + CHANGES_KEPT + 1, ONE + CHANGES_KEPT + 2)


def test_how_it_stands_at_the_cursor_is_what_the_reader_goes_on_from(books: Scenario, reader: Reader) -> None:
    standing = ChainMultiplier(token=f"{A}/token:AAPLx", multiplier=str(ONE), next_multiplier=str(2 * ONE), next_effective_time=moment(900))
    command = reader.range_of()
    command.range.multipliers.append(standing)
    books.when(command).accepted()
    reader.number += 1
    (event,) = books.booked
    assert list(event.multipliers) == [standing]
    books.given(change(allotment_units=7))
    listed = books.books.execute(ListDeploymentsRequest(chain=A)).deployments
    assert [each.chain_multiplier for each in listed] == [standing]
    ended = reader.range_of()
    ended.range.multipliers.add(token=standing.token, multiplier=str(2 * ONE))
    books.when(ended).accepted()
    (found,) = books.books.execute(ListDeploymentsRequest(chain=A)).deployments
    assert found.chain_multiplier == ChainMultiplier(token=standing.token, multiplier=str(2 * ONE))
    (other,) = books.books.execute(ListDeploymentsRequest(chain=B)).deployments
    assert not other.HasField("chain_multiplier")


def test_of_another_history_the_chain_is_asked_anew(books: Scenario, reader: Reader) -> None:
    """What stood at the cursor of before says nothing of where a human has set it."""
    command = reader.range_of()
    command.range.multipliers.add(token=f"{A}/token:AAPLx", multiplier=str(ONE), next_multiplier="7", next_effective_time=moment(900))
    books.given(command)
    books.given(RaiseDivergenceRequest(chain=A, kind=DivergenceKind.DIVERGENCE_KIND_HISTORY_CHANGED, expected="0x101", found="0x0"))
    books.given(ResolveDivergenceRequest(divergence=1, cause="another node", cursor=at(90)))
    (found,) = books.books.execute(ListDeploymentsRequest(chain=A)).deployments
    assert not found.HasField("chain_multiplier")


# ---- the form --------------------------------------------------------------------------------------------------------------------------


def _with(**changes: Any) -> Any:
    return lambda command: _set(command.range.observations[0], changes)


def _set(message: Any, changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, Timestamp):
            getattr(message, name).CopyFrom(value)
        else:
            setattr(message, name, value)


def _standing(**changes: Any) -> Any:
    fields = {"token": f"{A}/token:AAPLx", "multiplier": str(ONE)} | changes
    return lambda command: command.range.multipliers.append(ChainMultiplier(**fields))


@pytest.mark.parametrize(
    ("reason", "break_it"),
    [
        ("FIELD_MISSING", _with(value="")),
        ("FIELD_MISSING", _with(old_value="")),
        ("FIELD_MALFORMED", _with(old_value="-1")),
        ("FIELD_MALFORMED", _with(effective_time=Timestamp(nanos=1))),
        ("FIELD_MALFORMED", _with(time=Timestamp(nanos=1))),
        ("FIELD_MALFORMED", _standing(token=f"{B}/token:AAPLx")),
        ("FIELD_MISSING", _standing(multiplier="")),
        ("FIELD_MALFORMED", _standing(multiplier="1.5")),
        ("FIELD_MALFORMED", _standing(next_multiplier="x")),
        ("FIELD_MALFORMED", _standing(next_multiplier="1", next_effective_time=Timestamp(nanos=1))),
        ("FIELD_MALFORMED", lambda command: [_standing()(command), _standing()(command)]),
        ("DEPLOYMENT_NOT_FOUND", _standing(token=f"{A}/token:NONEx")),
    ],
)
def test_a_range_of_wrong_form_is_refused(books: Scenario, reader: Reader, reason: str, break_it: Any) -> None:
    command: RecordObservationsRequest = reader.range_of(in_force(2 * ONE, 50))
    break_it(command)
    books.when(command).raises(reason)


def test_only_what_its_time_brings_about_has_no_transaction(books: Scenario, reader: Reader) -> None:
    set_ = seen(ObservationKind.OBSERVATION_KIND_MULTIPLIER, value=str(ONE), transaction="")
    books.when(reader.range_of(set_)).raises("FIELD_MISSING")
    other = seen(ObservationKind.OBSERVATION_KIND_FREEZE, source=wallet("bob"), value="false", transaction="")
    books.when(reader.range_of(other)).raises("FIELD_MISSING")
