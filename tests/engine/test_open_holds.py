"""The open holds as columns against a plain dict, through batches that are kept and batches that are undone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import open_holds, vectors
from ledger.records import NEVER, Hold
from ledger.rules.holds import lessen_holds, open_hold, take_from_hold
from ledger.state import Book, State

UNITS = 10
steps = st.one_of(st.just("open"), st.tuples(st.just("take"), st.integers(0, 30), st.integers(1, UNITS)))
batches = st.lists(st.tuples(st.lists(steps, max_size=12), st.booleans()), max_size=12)


def a_state() -> State:
    state = State()
    state.books[1] = Book()
    state.books[1].reach(17)
    state.books[1].units[16] = 10**6
    return state


def do(state: State, model: dict[int, Hold], step) -> None:
    if step == "open":
        number = state.next_number("hold")
        expiry_time_us = NEVER if number % 3 else number * 1_000_000
        model[number] = Hold(number, 1, 16, number % 2, expiry_time_us, f"order {number}", UNITS)
        open_hold(state, model[number])
        return
    _, place, units = step
    if model:
        hold = model.pop(sorted(model)[place % len(model)])
        units = min(units, hold.units)
        take_from_hold(state, hold.hold, units)
        if hold.units > units:
            model[hold.hold] = Hold(hold.hold, 1, 16, hold.purpose, hold.expiry_time_us, hold.reference, hold.units - units)


def check(state: State, model: dict[int, Hold]) -> None:
    holds = state.holds
    assert (dict(holds), list(holds), len(holds)) == (model, sorted(model), len(model))
    assert state.held(1, 16) == sum(hold.units for hold in model.values())
    assert {number for second in state.hold_expiries.values() for number in second} == {n for n in model if n % 3 == 0}
    for number in range(state.next_number("hold") + 1):
        assert (number in holds, holds.left(number)) == (number in model, model[number].units if number in model else 0)
        assert holds.get(number) == model.get(number)


@pytest.mark.parametrize("with_numpy", [True, False])
@given(batches)
def test_holds_are_those_of_a_dict_whatever_is_undone(with_numpy, plan):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_holds, "ROWS_MIN", 2)
        if not with_numpy:
            patch.setattr(vectors, "numpy", None)
        state, model = a_state(), {}
        state.holds._tidy_at = 2
        for doings, is_kept in plan:
            before = dict(model)
            state.begin()
            for step in doings:
                do(state, model, step)
            check(state, model)
            state.swap()
            check(state, before)
            state.swap()
            check(state, model)
            if is_kept:
                state.keep()
            else:
                state.undo()
                model = before
            check(state, model)


@pytest.mark.skipif(vectors.numpy is None, reason="whole columns need numpy")
@given(st.data())
def test_many_are_found_and_lessened_as_one_by_one(data):
    numpy = vectors.numpy
    at_once, singly, model = a_state(), a_state(), {}
    for _ in range(data.draw(st.integers(1, 12))):
        do(at_once, {}, "open")
        do(singly, model, "open")
    for number in data.draw(st.lists(st.sampled_from(sorted(model)), unique=True)):
        for state in (at_once, singly):
            take_from_hold(state, number, UNITS)
        del model[number]
    asked = numpy.unique(numpy.array(data.draw(st.lists(st.integers(0, 14), min_size=1)), dtype=numpy.int64))
    rows = at_once.holds.rows_of(asked)
    assert (rows is not None) == all(number in model for number in asked.tolist())
    if rows is None:
        return
    units = numpy.array([data.draw(st.integers(1, UNITS)) for _ in asked], dtype=numpy.int64)
    at_once.begin()
    at_once.books[1].held[16] -= int(units.sum())
    lessen_holds(at_once, asked, units)
    for number, taken in zip(asked.tolist(), units.tolist(), strict=True):
        take_from_hold(singly, number, taken)
    assert (dict(at_once.holds), at_once.hold_expiries) == (dict(singly.holds), singly.hold_expiries)
    at_once.undo()
    assert dict(at_once.holds) == model


def test_numbers_of_holds_only_grow():
    state = a_state()
    open_hold(state, Hold(2, 1, 16, 0, NEVER, "", 1))
    for number in (1, 2):
        with pytest.raises(AssertionError, match="only grow"):
            open_hold(state, Hold(number, 1, 16, 0, NEVER, "", 1))


def test_rows_of_closed_holds_are_given_up():
    state = a_state()
    for _ in range(10):
        for _ in range(open_holds.ROWS_MIN // 2):
            do(state, {}, "open")
        for number in list(state.holds):
            take_from_hold(state, number, UNITS)
    assert len(state.holds.units) <= open_holds.ROWS_MIN
