"""A command of many entries is booked whole: no size, page, tail or failure shows half of it."""

from __future__ import annotations

import pytest
from durable import ACCOUNTS, UNITS, make_faulty, open_funded, request_id, transfer, url_of
from scenario import FixedClock

from ledger import Ledger, LedgerError
from ledger.errors import refusal
from ledger.log.store import open_log
from ledger.replay import latest_state
from ledger.snapshots import encode_state, write_latest
from ledger.state import FIRST_ACCOUNT_NUMBER
from stockledger.v1.accounts_pb2 import GetHoldingRequest, ListRegisterRequest
from stockledger.v1.common_pb2 import AsOf, LegColumns
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.transfers_pb2 import TransferBatchRequest

LEGS = 10_000
"""Three leaves of at most 65,535 bytes, at 16 bytes a leg."""
FIRST, SECOND = FIRST_ACCOUNT_NUMBER, FIRST_ACCOUNT_NUMBER + 1


def batch(**fields):
    legs = LegColumns(instrument="AAPLx", sources=[FIRST] * LEGS, destinations=[SECOND] * LEGS, units=[2] * LEGS)
    return TransferBatchRequest(legs=[legs], **fields)


@pytest.fixture
def books(tmp_path):
    with open_funded(url_of(tmp_path), clock=FixedClock()) as opened:
        yield opened


def test_reads_in_the_middle_show_the_state_before(books):
    before = books.size
    answer = books.execute(batch())
    count = answer.booking.entry_count
    assert count >= 3
    assert (answer.leg_count, books.size) == (LEGS, before + count)
    for size in range(before, books.size):
        read = books.execute(GetHoldingRequest(instrument="AAPLx", account=ACCOUNTS[0], as_of=AsOf(size=size)))
        assert (read.size, read.holding.units) == (size, UNITS), "nothing has moved until the last part is there"
        register = books.execute(ListRegisterRequest(instrument="AAPLx", as_of=AsOf(size=size)))
        assert sum(holding.units for holding in register.holdings) == 0
    moment_us = next(books.tail(before))[1].decision_time_us
    assert books.state_at(time_us=moment_us).size == books.size, "all parts have one decision time"
    assert books.state_at(time_us=moment_us - 1).size == before
    assert books.holding("AAPLx", ACCOUNTS[0]) == UNITS - 2 * LEGS
    assert [entry.part for _, entry in books.tail(before)] == list(range(count))


def test_a_repeat_answers_with_the_first_of_its_entries(books):
    first = books.execute(batch(request_id=request_id(1)))
    again = books.execute(batch(request_id=request_id(1)))
    assert again.booking.repeated_answer
    assert (again.booking.index, again.booking.entry_count, again.leg_count) == (first.booking.index, first.booking.entry_count, LEGS)


@pytest.mark.parametrize("stored", [True, False])
def test_a_failure_leaves_all_parts_or_none(books, stored):
    faulty = make_faulty(books)
    before = encode_state(books._state)
    fault = refusal(Reason.REASON_STORE_UNAVAILABLE, "away", store="test")
    faulty.reading = fault
    setattr(faulty, "after" if stored else "before", fault)
    with pytest.raises(LedgerError):
        books.execute(batch(request_id=request_id(1)))
    assert encode_state(books._state) == before
    faulty.reading = None
    assert books.execute(batch(request_id=request_id(1))).booking.repeated_answer == stored
    assert books.holding("AAPLx", ACCOUNTS[1]) == UNITS + 2 * LEGS
    assert latest_state(books.log) == books._state


def test_a_refused_batch_of_many_parts_books_nothing(books):
    before, size = encode_state(books._state), books.size
    command = batch()
    command.legs[0].units[LEGS - 1] = UNITS
    with pytest.raises(LedgerError) as caught:
        books.execute(command)
    assert (caught.value.reason_name, caught.value.metadata["leg"]) == ("UNITS_INSUFFICIENT", str(LEGS - 1))
    assert (encode_state(books._state), books.size) == (before, size)


def test_a_log_that_ends_within_a_command_goes_on_where_it_left_off(books, tmp_path):
    """A backup may have been cut there: the parts are set aside, kept by a snapshot too, and booked with the last one."""
    before = books.size
    books.execute(batch())
    rows = list(books.log.read(0, books.size))
    cut = tmp_path / "cut"
    cut.mkdir()
    copy_log(url_of(cut), rows[: before + 2])
    with Ledger.open(url_of(cut), read_only=True) as reader:
        assert (reader.size, len(reader._state.parts)) == (before + 2, 2)
        assert reader.holding("AAPLx", ACCOUNTS[0]) == UNITS
        assert write_latest(reader.log, tmp_path / "snapshot") == before + 2
    with Ledger.open(url_of(cut), read_only=True, snapshot=str(tmp_path / "snapshot")) as reader:
        assert reader.opened_from == f"a snapshot of size {before + 2}"
        copy_log(url_of(cut), rows[before + 2 :])
        assert reader.execute(GetHoldingRequest(instrument="AAPLx", account=ACCOUNTS[0])).holding.units == UNITS - 2 * LEGS
        assert reader._state == books._state


def copy_log(url, rows):
    with open_log(url) as log:
        log.append("acme", [row[1] for row in rows], [row[2] for row in rows])


def test_an_entry_that_interrupts_a_command_is_refused(books, tmp_path):
    before = books.size
    books.execute(batch())
    books.execute(transfer())
    rows = list(books.log.read(0, books.size))
    for wrong in (rows[: before + 1] + rows[-1:], rows[: before + 1] + rows[before + 2 :], rows[:before] + rows[before + 1 :]):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        copy_log(url_of(folder), wrong)
        with pytest.raises(LedgerError) as caught:
            Ledger.open(url_of(folder))
        assert caught.value.reason_name == "LOG_CORRUPT"
        assert caught.value.metadata["index"] == str(before + (wrong[before] == rows[before]))
