"""The window of request ids: what is new is what no set of all remembered ids has, however they were remembered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.request_ids import AHEAD_MS_MAX
from ledger.state import State

NOW_MS = 1_800_000_000_000
ids = st.builds(
    lambda ms, tail: (NOW_MS + ms).to_bytes(6, "big") + b"\x70\x00\x80" + tail.to_bytes(7, "big"),
    st.integers(0, 3_000),
    st.integers(0, 3),
)
groups = st.lists(ids, min_size=1, max_size=70)
ways = st.sampled_from(["singly", "together", "stored", "undone"])


def remember(state: State, request_ids: list[bytes], principal: str, way: str) -> None:
    time_us = (NOW_MS + 5_000) * 1_000
    if way == "singly":
        for request_id in request_ids:
            state.remember_request(request_id, principal, 0, time_us)
    elif way == "stored":
        keys = [request_id + principal.encode() for request_id in request_ids]
        seconds = [int.from_bytes(request_id[:6], "big") // 1000 for request_id in request_ids]
        starts = [(place, second) for place, second in enumerate(seconds) if place == 0 or seconds[place - 1] != second]
        state.remember_stored(keys, starts, 0, time_us)
    else:
        state.begin()
        state.remember_requests(request_ids, principal, range(len(request_ids)), time_us)
        state.undo() if way == "undone" else state.keep()


@given(st.lists(st.tuples(groups, st.sampled_from(["ann", "ben"]), ways), max_size=8))
def test_what_is_new_is_what_is_not_among_all_that_were_remembered(plan):
    state, known = State(request_window_seconds=86_400, request_window_count=10**6), set()
    for request_ids, principal, way in plan:
        are_new = len(set(request_ids)) == len(request_ids) and known.isdisjoint((each, principal) for each in request_ids)
        assert state.requests.all_new(request_ids, principal, NOW_MS + 5_000 + AHEAD_MS_MAX) == are_new
        if are_new:
            remember(state, request_ids, principal, way)
            if way != "undone":
                known.update((each, principal) for each in request_ids)


@pytest.mark.parametrize("way", ["singly", "together", "stored"])
def test_a_remembered_id_is_found_whatever_is_newer(way):
    first, second, third = ((NOW_MS + ms).to_bytes(6, "big") + bytes(10) for ms in (5, 6, 7))
    state = State(request_window_seconds=86_400, request_window_count=10**6)
    latest_ms = NOW_MS + 5_000 + AHEAD_MS_MAX
    assert state.requests.all_new([first], "ann", latest_ms)
    remember(state, [first], "ann", way)
    assert not state.requests.all_new([first, second], "ann", latest_ms)
    assert state.requests.all_new([first, second], "ben", latest_ms)
    assert state.requests.all_new([second], "ann", latest_ms)
    remember(state, [second], "ann", way)
    assert not state.requests.all_new([second, third], "ann", latest_ms)
    assert state.requests.all_new([third], "ann", latest_ms)
