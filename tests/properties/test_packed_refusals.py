"""Packed or one by one: every transfer has the same outcome, and a refusal names the same figures."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scenario import Scenario, check_invariants, two_holders

from ledger import LedgerError, vectors
from stockledger.v1.accounts_pb2 import FreezeUnitsRequest
from stockledger.v1.holds_pb2 import PlaceHoldRequest
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

NAMES = ("book:alice", "book:bob", "book:fees")
accounts = st.sampled_from(NAMES)
transfers = st.tuples(accounts, accounts, st.integers(0, 60)).filter(lambda row: row[0] != row[1])


def outcomes(rows: list[tuple[str, str, int]], held: int, frozen: int, *, pack: bool) -> list[Any]:
    """Return the event, or reason, words and figures, of each transfer; alice has 100 units, some of them on hold or frozen."""
    books = Scenario().given(*two_holders()).units("AAPLx", "book:alice", 100).units("AAPLx", "book:bob", 20)
    if held:
        books.given(PlaceHoldRequest(instrument="AAPLx", account="book:alice", units=held))
    if frozen:
        books.given(FreezeUnitsRequest(instrument="AAPLx", account="book:alice", units=frozen, legal_reference="order 7"))
    commands = [TransferUnitsRequest(instrument="AAPLx", source=source, destination=to, units=units) for source, to, units in rows]
    answers = books.books.execute_many(commands, pack=pack)
    check_invariants(books.books._state)
    books.books.close()
    return [
        (answer.reason_name, answer.message, answer.metadata) if isinstance(answer, LedgerError) else answer.event for answer in answers
    ]


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(transfers, min_size=1, max_size=12), held=st.integers(0, 50), frozen=st.sampled_from([0, 0, 10, 120]))
@example(rows=[("book:alice", "book:bob", 60), ("book:alice", "book:bob", 50)], held=0, frozen=0)
@example(rows=[("book:alice", "book:bob", 60), ("book:bob", "book:fees", 90)], held=10, frozen=0)
@example(rows=[("book:bob", "book:alice", 20), ("book:alice", "book:bob", 60)], held=50, frozen=120)
def test_a_packed_run_refuses_with_the_figures_of_single_transfers(rows: list[tuple[str, str, int]], held: int, frozen: int) -> None:
    single = outcomes(rows, held, frozen, pack=False)
    assert outcomes(rows, held, frozen, pack=True) == single
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectors, "WORTHWHILE", 1)
        assert outcomes(rows, held, frozen, pack=True) == single


def test_a_refusal_tells_what_the_run_has_left() -> None:
    refused = outcomes([("book:alice", "book:bob", 60), ("book:alice", "book:bob", 50)], 0, 0, pack=True)[1]
    assert refused[0] == "UNITS_INSUFFICIENT"
    assert {name: refused[2][name] for name in ("free", "needed", "holding")} == {"free": "40", "needed": "50", "holding": "40"}
