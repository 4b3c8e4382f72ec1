"""Whole columns, leg by leg, and without numpy: the same answer to every batch, at the edges of the integers too."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger import vectors
from ledger.arithmetic import UNITS_MAX
from ledger.errors import LedgerError
from ledger.records import NEVER, Account, EligibilityRule, FrozenUnits, Hold, Holder, Instrument
from ledger.rules import columns, settlement
from ledger.rules.batches import decide_batch, evolve_batch
from ledger.rules.context import Context
from ledger.rules.holds import open_hold
from ledger.rules.settlement import decide_trades, evolve_trades
from ledger.state import Book, State
from stockledger.v1.common_pb2 import LegColumns
from stockledger.v1.holds_pb2 import HoldPurpose
from stockledger.v1.settlement_pb2 import SettleTradesRequest
from stockledger.v1.transfers_pb2 import TransferBatchRequest

INT64_MAX = (1 << 63) - 1
ACCOUNTS = range(16, 22)
CONTEXT = Context(1_795_370_400_000_000, "operator", lambda index: pytest.fail(f"entry {index} is not needed"))

HOLDERS = {
    "h-1": Holder("h-1", "DE", 1, 1),
    "h-2": Holder("h-2", "FR", 1, 1),
    "h-3": Holder("h-3", "US", 2, 1),
    "frozen": Holder("frozen", "DE", 1, 1, "court order 1/2026"),
}
HOLDER_OF = {16: "h-1", 17: "h-1", 18: "h-2", 19: "h-2", 20: "h-3", 21: "frozen"}
BARRED = EligibilityRule("2026-01-01", frozenset(), frozenset({"US"}), frozenset(), frozenset())


def books(holdings: list[int], frozen: dict[int, int], *, barred: bool) -> State:
    """Two instruments with the same holdings, six accounts of four holders; the last holder is frozen."""
    state = State(holders=dict(HOLDERS), profile_numbers={("DE", 1): 1, ("FR", 1): 2, ("US", 2): 3})
    for number, symbol in ((1, "AAPLx"), (2, "USDC")):
        state.instruments[symbol] = Instrument(symbol, number, symbol, 1, "", "", "", 8, 1, UNITS_MAX, 10**18, 1, 1, 1)
        state.instrument_symbols[number] = symbol
        state.books[number] = Book()
    if barred:
        state.instruments["AAPLx"] = dataclasses.replace(state.instruments["AAPLx"], eligibility=(BARRED,))
    state.profiles.extend([1, 1, 2, 2, 3, 0])
    for account, units in zip(ACCOUNTS, holdings, strict=True):
        name = f"book:a{account}"
        state.accounts[name] = Account(name, account, HOLDER_OF[account])
        state.account_names[account] = name
        for number in (1, 2):
            if units:
                state.post(number, 0, account, units)
    for account, units in frozen.items():
        state.frozen_units[1, account] = FrozenUnits(units, "court order 1/2026")
    return state


def outcome(decide: Callable[..., list[Any]], evolve: Callable[..., None], state: State, command: Any) -> Any:
    """Decide and book; return the events or the refusal, and every column afterwards."""
    try:
        events = decide(state, command, CONTEXT)
    except LedgerError as error:
        return error.reason_name, error.message, error.metadata
    before = copy.deepcopy(state)
    state.begin()
    for event in events:
        evolve(state, event, None)
    state.undo()
    assert state == before, "what was not stored leaves no trace"
    for event in events:
        evolve(state, event, None)
    cells = [(book.units.tobytes().rstrip(b"\0"), book.held.tobytes().rstrip(b"\0")) for book in state.books.values()]
    return [event.SerializeToString() for event in events], cells, dict(state.holds), state.hold_expiries


def three_ways(make_state: Callable[[], State], decide: Any, evolve: Any, command: Any) -> list[Any]:
    """Return the outcomes on whole columns, leg by leg, and with numpy hidden."""
    outcomes = []
    for worthwhile, numpy in ((1, vectors.numpy), (1 << 62, vectors.numpy), (1, None)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(vectors, "WORTHWHILE", worthwhile)
            patch.setattr(vectors, "numpy", numpy)
            outcomes.append(outcome(decide, evolve, make_state(), command))
    return outcomes


small = st.integers(1, 30)
edge = st.sampled_from([0, -1, UNITS_MAX - 1, UNITS_MAX, UNITS_MAX + 1, UNITS_MAX // 2, INT64_MAX, -(1 << 63), 1 << 61])
units_of_legs = st.one_of(*[small] * 12, edge)
numbers = st.one_of(*[st.integers(16, 19)] * 12, st.sampled_from([-1, 0, 5, 15, 20, 21, 22, 23, 1 << 20, (1 << 31) - 1, -(1 << 31)]))
plain_numbers = st.integers(16, 19)
large = st.sampled_from([UNITS_MAX // 8, (1 << 61) - 1, 1 << 61, UNITS_MAX])
holdings = st.lists(st.one_of(*[st.integers(0, 60)] * 8, large), min_size=6, max_size=6).filter(lambda units: sum(units) <= UNITS_MAX)
"""The supply, and so every holding, is at most 2^62."""
freezes = st.dictionaries(plain_numbers, st.one_of(st.integers(1, 40), st.just(UNITS_MAX)), max_size=2)


def batch(legs: list[tuple[int, int, int]]) -> TransferBatchRequest:
    sources, destinations, units = zip(*legs, strict=True)
    return TransferBatchRequest(legs=[LegColumns(instrument="AAPLx", sources=sources, destinations=destinations, units=units)])


wild_legs = st.lists(st.tuples(numbers, numbers, units_of_legs), min_size=1, max_size=12)
plain_legs = st.lists(st.tuples(plain_numbers, plain_numbers, small).filter(lambda leg: leg[0] != leg[1]), min_size=1, max_size=40)


@given(holdings=holdings, frozen=freezes, barred=st.booleans(), legs=st.one_of(plain_legs, plain_legs, wild_legs))
@example(holdings=[100, 0, 0, 0, 0, 0], frozen={}, barred=False, legs=[(16, 17, 101), (17, 16, 50)])
@example(holdings=[100, 0, 0, 0, 0, 0], frozen={}, barred=False, legs=[(16, 17, 100), (17, 18, 100), (18, 16, 100), (16, 19, 100)])
@example(holdings=[100, 0, 0, 0, 0, 0], frozen={}, barred=False, legs=[(16, 17, 50), (17, 18, 50), (17, 18, 1), (16, 17, 50)])
@example(holdings=[1 << 61, 1 << 61, 0, 0, 0, 0], frozen={}, barred=False, legs=[(16, 17, 1 << 61), (17, 18, UNITS_MAX)])
@example(holdings=[1, 0, 0, 0, 0, 0], frozen={}, barred=False, legs=[(16, 17, UNITS_MAX), (16, 17, UNITS_MAX), (16, 17, UNITS_MAX)])
@example(holdings=[1, 5, 0, 0, 0, 0], frozen={16: 3}, barred=False, legs=[(17, 16, 2), (16, 17, 1)])
@example(holdings=[9, 5, 0, 0, 0, 0], frozen={}, barred=True, legs=[(16, 17, 2), (16, 20, 1)])
@example(holdings=[9, 5, 0, 0, 0, 0], frozen={}, barred=False, legs=[(16, -1, 2)])
@example(holdings=[9, 5, 0, 0, 0, 0], frozen={}, barred=False, legs=[(21, 16, 2)])
def test_batches_have_one_outcome(holdings: list[int], frozen: dict[int, int], barred: bool, legs: list[tuple[int, int, int]]) -> None:
    on_columns, leg_by_leg, without_numpy = three_ways(
        lambda: books(holdings, frozen, barred=barred), decide_batch, evolve_batch, batch(legs)
    )
    assert on_columns == leg_by_leg == without_numpy


@given(holdings=holdings, legs=plain_legs)
def test_a_batch_is_what_its_legs_are_one_by_one(holdings: list[int], legs: list[tuple[int, int, int]]) -> None:
    """Against a model of plain dicts: every leg in its order, none below zero."""
    model = dict(zip(ACCOUNTS, holdings, strict=True))
    first_bad = None
    for leg, (source, destination, units) in enumerate(legs):
        if model[source] < units:
            first_bad = leg
            break
        model[source] -= units
        model[destination] += units
    state = books(holdings, {}, barred=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "WORTHWHILE", 1)
        found = outcome(decide_batch, evolve_batch, state, batch(legs))
    if first_bad is None:
        assert {account: state.holding(1, account) for account in ACCOUNTS} == model
    else:
        assert (found[0], found[2]["leg"]) == ("UNITS_INSUFFICIENT", str(first_bad))


@pytest.mark.parametrize(("legs", "sound"), [([(16, 17, 100), (17, 18, 100)], True), ([(17, 18, 100), (16, 17, 100)], False)])
def test_columns_decide_what_needs_what_the_batch_brings(legs: list[tuple[int, int, int]], sound: bool) -> None:
    """The sorting check itself, not only the loop behind it."""
    if vectors.numpy is None:
        pytest.skip("numpy is not installed")
    state = books([100, 0, 0, 0, 0, 0], {}, barred=False)
    sources, destinations, units = (vectors.int64s(column) for column in zip(*legs, strict=True))
    instrument = state.instruments["AAPLx"]
    assert columns.acceptable_at_once(state, instrument, (sources, destinations, units), CONTEXT.decision_time_us) is sound


def orders(state: State) -> State:
    """Sell orders 1 to 4 of accounts 16 to 19 and buy orders 5 to 8 of the same, half of each holding; order 8 is none, order 4 lapsed."""
    for number in range(1, 9):
        instrument, account = (1, 15 + number) if number < 5 else (2, 11 + number)
        units = state.holding(instrument, account) // 2
        purpose = HoldPurpose.HOLD_PURPOSE_UNSPECIFIED if number == 8 else HoldPurpose.HOLD_PURPOSE_ORDER
        if units:
            expiry = CONTEXT.decision_time_us - (number == 4)
            open_hold(state, Hold(number, instrument, account, purpose, expiry if number == 4 else NEVER, "", units))
    return state


cash_of_trades = st.one_of(*[small] * 12, edge)
fees = st.one_of(*[st.integers(0, 2)] * 12, edge)
good_trades = st.tuples(st.integers(1, 3), st.integers(5, 7), st.integers(1, 5), st.integers(2, 9), st.integers(0, 2), st.integers(0, 2))
wild_trades = st.tuples(st.integers(0, 9), st.integers(0, 9), units_of_legs, cash_of_trades, fees, fees)


@given(
    holdings=holdings,
    frozen=freezes,
    rows=st.one_of(st.lists(good_trades, min_size=1, max_size=20), st.lists(st.one_of(good_trades, wild_trades), min_size=1, max_size=12)),
    fee_account=st.sampled_from([16, 18, 19]),
    each_on_its_own=st.booleans(),
)
@example(holdings=[40, 40, 40, 0, 0, 0], frozen={}, rows=[(1, 6, 20, 20, 0, 3)] * 2, fee_account=19, each_on_its_own=True)
@example(holdings=[40, 40, 40, 0, 0, 0], frozen={16: 25}, rows=[(1, 6, 10, 2, 0, 0)] * 2, fee_account=19, each_on_its_own=False)
@example(holdings=[40, 40, 40, 0, 0, 0], frozen={}, rows=[(1, 7, 3, 4, 0, 1), (2, 7, 3, 4, 0, 1)], fee_account=18, each_on_its_own=False)
def test_trades_have_one_outcome(
    holdings: list[int], frozen: dict[int, int], rows: list[tuple[int, ...]], fee_account: int, each_on_its_own: bool
) -> None:
    sell_holds, buy_holds, units, cash_units, buyer_fees, seller_fees = zip(*rows, strict=True)
    command = SettleTradesRequest(
        instrument="AAPLx",
        cash_instrument="USDC",
        sell_holds=sell_holds,
        buy_holds=buy_holds,
        units=units,
        cash_units=cash_units,
        buyer_fee_units=buyer_fees,
        seller_fee_units=seller_fees,
        fee_account=f"book:a{fee_account}",
        each_on_its_own=each_on_its_own,
    )
    on_columns, trade_by_trade, without_numpy = three_ways(
        lambda: orders(books(holdings, frozen, barred=False)), decide_trades, evolve_trades, command
    )
    assert on_columns == trade_by_trade == without_numpy


def test_columns_settle_what_is_plainly_sound() -> None:
    """The columns themselves say yes, so that the property above is about both ways."""
    if vectors.numpy is None:
        pytest.skip("numpy is not installed")
    state = orders(books([40, 40, 40, 0, 0, 0], {}, barred=False))
    command = SettleTradesRequest(
        instrument="AAPLx", cash_instrument="USDC", sell_holds=[1, 1], buy_holds=[6, 7], units=[10, 10], cash_units=[5, 5]
    )
    terms = settlement._find_terms(state, command, CONTEXT.decision_time_us)
    assert settlement._parties_at_once(state, terms, command) is not None
    command.units[1] = 11
    assert settlement._parties_at_once(state, terms, command) is None


@given(st.lists(st.integers(0, INT64_MAX), min_size=1, max_size=50))
def test_sums_are_exact(values: list[int]) -> None:
    if vectors.numpy is not None:
        assert vectors.exact_sum(vectors.int64s(values)) == sum(values)


@given(st.lists(st.integers(-(1 << 63), INT64_MAX), max_size=300))
def test_a_packed_field_reads_as_the_message_does(values: list[int]) -> None:
    expected = LegColumns(units=values)
    assert LegColumns.FromString(vectors.packed_field(4, vectors.little_endian(values, "q"))) == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "numpy", None)
        assert LegColumns.FromString(vectors.packed_field(4, vectors.little_endian(values, "q"))) == expected


# ---- booking ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(vectors.numpy is None, reason="columns need numpy")
@pytest.mark.parametrize("holding", [INT64_MAX - 1, 5 - INT64_MAX])
def test_no_holding_leaves_64_bits_in_silence(holding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a forged log comes that far; it is refused with numpy as without it."""
    account, other = 16, 17
    legs = ([other], [account], [1]) if holding > 0 else ([account], [other], [1])
    for at_once in (1, 1_000_000):
        monkeypatch.setattr(vectors, "WORTHWHILE", at_once)
        state = State()
        state.books[1] = Book()
        state.books[1].reach(18)
        state.books[1].units[account] = holding
        with pytest.raises(OverflowError):
            state.post_columns(1, *(column * 60 for column in legs))
