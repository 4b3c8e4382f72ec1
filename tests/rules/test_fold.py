"""Folding entries that a newer version may have written."""

from __future__ import annotations

import pytest

from ledger import LedgerError
from ledger.rules import EVOLVE, fold
from ledger.state import State
from stockledger.v1.events_pb2 import Entry
from stockledger.v1.transfers_pb2 import UnitsTransferred


def test_an_event_with_a_name_but_no_rule_is_refused(monkeypatch):
    """The language may name an event before this version has a rule for it."""
    monkeypatch.delitem(EVOLVE, "units_transferred")
    entry = Entry(decision_time_us=1, units_transferred=UnitsTransferred(units=5))
    state = State(size=3)
    with pytest.raises(LedgerError) as refused:
        fold(state, entry, entry.SerializeToString())
    assert (refused.value.reason_name, refused.value.metadata) == ("LOG_CORRUPT", {"index": "3"})
    assert state.size == 3
