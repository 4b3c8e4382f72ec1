"""When the store fails: what was not stored never happened, what was stored is acknowledged, and nothing is booked twice."""

from __future__ import annotations

import contextlib
import sqlite3
import threading

import pytest
from durable import booked_requests, make_faulty, open_funded, request_id, transfer, url_of
from scenario import FixedClock, account, check_invariants, holder, stock

from ledger import Ledger, LedgerError
from ledger.errors import Unavailable, refusal
from ledger.log.store import _open_without_lock
from ledger.replay import latest_state
from ledger.snapshots import encode_state
from stockledger.v1.errors_pb2 import Reason


def away(message="the store is away"):
    return refusal(Reason.REASON_STORE_UNAVAILABLE, message, store="test")


@pytest.fixture
def url(tmp_path):
    return url_of(tmp_path)


@pytest.fixture
def books(url):
    with open_funded(url, clock=FixedClock()) as opened:
        yield opened


@pytest.fixture
def faulty(books):
    return make_faulty(books)


def sound(books):
    """The books are those of the log, which is whole, and every request is in it once."""
    assert latest_state(books.log) == books._state
    check_invariants(books._state)
    books.log.check()
    requests = [(principal, request) for principal, request, _ in booked_requests(books)]
    assert len(requests) == len(set(requests))
    assert books._state.journal is None


MANY = [
    lambda: [transfer(units=5, request_id=request_id(number)) for number in range(300)],
    lambda: [stock("MSFTx", "US5949181045"), holder("h-9"), account("book:n1", "h-9"), transfer(), stock("NVDAx", "US67066G1040")],
]


# ---- nothing was stored --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("many", MANY)
def test_a_failed_append_is_undone_exactly(books, faulty, many, pack):
    before = encode_state(books._state)
    held = books._state
    faulty.before = away()
    with pytest.raises(LedgerError) as caught:
        books.execute_many(many(), pack=pack)
    assert caught.value.reason_name == "STORE_UNAVAILABLE"
    assert encode_state(books._state) == before
    assert books._state is held
    sound(books)
    answers = books.execute_many(many(), pack=pack)
    assert not answers.refusals
    assert not answers[0].booking.repeated_answer
    sound(books)


def test_a_full_disk(books):
    pages = books.log.backend.writer.execute("PRAGMA page_count").fetchone()[0]
    books.log.backend.writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    before = encode_state(books._state)
    with pytest.raises(LedgerError, match="the disk is full"):
        books.execute_many(MANY[0]())
    assert encode_state(books._state) == before
    assert books.holding("AAPLx", "book:a0") == 1_000_000
    sound(books)
    books.log.backend.writer.execute("PRAGMA max_page_count = 1000000")
    assert not books.execute_many(MANY[0]()).refusals
    sound(books)


def test_another_process_transaction(books, url, tmp_path):
    books.log.backend.writer.execute("PRAGMA busy_timeout = 10")
    before = encode_state(books._state)
    with contextlib.closing(sqlite3.connect(tmp_path / "books.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="locked by another process' transaction") as caught:
            books.execute(transfer())
        other.execute("ROLLBACK")
    assert caught.value.reason_name == "STORE_UNAVAILABLE"
    assert encode_state(books._state) == before
    books.execute(transfer())
    sound(books)


def test_a_database_that_turns_read_only(books):
    books.log.backend.writer.execute("PRAGMA query_only = ON")
    before = encode_state(books._state)
    with pytest.raises(LedgerError, match="read-only"):
        books.execute(transfer())
    assert encode_state(books._state) == before
    books.log.backend.writer.execute("PRAGMA query_only = OFF")
    books.execute(transfer())
    sound(books)


def test_a_second_writer_is_refused(books, url):
    with pytest.raises(LedgerError, match="another process") as caught:
        Ledger.open(url)
    assert caught.value.reason_name == "STORE_UNAVAILABLE"
    books.execute(transfer())


# ---- nobody knows whether it was stored ----------------------------------------------------------------------------------------------


def test_a_lost_reply_to_a_commit_is_still_an_answer(books, faulty):
    faulty.after = away("the reply was lost")
    answer = books.execute(transfer(units=5, request_id=request_id(1)))
    assert answer.event.units == 5
    assert not answer.booking.repeated_answer
    assert books.holding("AAPLx", "book:a1") == 1_000_005
    sound(books)


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("pack", [False, True])
def test_a_store_that_cannot_be_read_either(books, faulty, stored, pack):
    """The commit failed and so did the reading that would tell: the request is repeated later, and booked once either way."""
    fault = away()
    if stored:
        faulty.after = fault
    else:
        faulty.before = fault
    faulty.reading = fault
    before, size = encode_state(books._state), books.size
    commands = [transfer(units=5, request_id=request_id(number)) for number in range(3)]
    for _ in range(2):
        with pytest.raises(LedgerError, match=r"not known yet|cannot be told") as caught:
            books.execute_many(commands, pack=pack)
        assert caught.value.reason_name == "STORE_UNAVAILABLE"
        assert encode_state(books._state) == before
        assert (books.size, books.holding("AAPLx", "book:a1")) == (size, 1_000_000)
    faulty.reading = None
    answers = books.execute_many(commands, pack=pack)
    assert [answer.booking.repeated_answer for answer in answers] == [stored] * 3
    assert books.holding("AAPLx", "book:a1") == 1_000_015
    sound(books)


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("fault", [KeyboardInterrupt, MemoryError, RuntimeError])
def test_a_fault_that_is_no_answer_of_the_store_is_settled_by_the_next_command(books, faulty, fault, stored):
    if stored:
        faulty.after = fault()
    else:
        faulty.before = fault()
    with pytest.raises(fault):
        books.execute(transfer(units=5, request_id=request_id(1)))
    answer = books.execute(transfer(units=5, request_id=request_id(1)))
    assert answer.booking.repeated_answer == stored
    assert books.holding("AAPLx", "book:a1") == 1_000_005
    sound(books)


def test_nothing_is_decided_until_the_doubt_is_folded(books, faulty):
    """The doubtful batch was stored, the store answers that, and fails once more before the books have caught up."""
    faulty.after = RuntimeError()
    with pytest.raises(RuntimeError):
        books.execute(transfer(units=5, request_id=request_id(1)))
    original, calls = faulty.backend.extent, []

    def extent():
        calls.append(1)
        if len(calls) > 1:
            raise away()
        return original()

    faulty.backend.extent = extent
    with pytest.raises(LedgerError):
        books.execute(transfer(units=7, request_id=request_id(2)))
    del faulty.backend.extent
    assert len(calls) > 1
    books.execute(transfer(units=7, request_id=request_id(2)))
    assert books.holding("AAPLx", "book:a1") == 1_000_012
    assert books.execute(transfer(units=5, request_id=request_id(1))).booking.repeated_answer
    sound(books)


# ---- two writers ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def rival(books, url, monkeypatch):
    """A second writer of the same log, its lock bypassed."""
    monkeypatch.setattr("ledger.engine.open_log", lambda url, **_: _open_without_lock(url))
    with Ledger.open(url, clock=FixedClock()) as other:
        yield other


def test_the_slower_of_two_writers_catches_up_and_decides_again(books, rival):
    books.execute(transfer(units=600_000, request_id=request_id(1)))
    rival.execute(transfer(units=1, request_id=request_id(2)))
    with pytest.raises(LedgerError) as caught:
        rival.execute(transfer(units=600_000, request_id=request_id(3)))
    assert caught.value.reason_name == "UNITS_INSUFFICIENT"
    rival.execute(account("book:late", "h-1"))
    for number in range(20):
        one, other = (books, rival) if number % 2 else (rival, books)
        first = one.execute(transfer(1, 2, number + 1, request_id=request_id(100 + number)))
        second = other.execute(transfer(1, 2, number + 1, request_id=request_id(100 + number)))
        # Decided at the same moment, both would store the very same bytes; what one stored is then the other's too.
        assert (first.booking.index, first.event) == (second.booking.index, second.event)
    with pytest.raises(LedgerError):
        books.execute(account("book:late", "h-1"))
    books.execute(transfer())
    rival.execute(transfer())
    books._catch_up()
    assert books._state == rival._state
    sound(books)
    sound(rival)


def test_what_a_group_is_decided_on_is_what_its_commands_are_chosen_by(books, rival):
    """Chosen behind the batch before, and once more behind what a faster writer has left."""
    rival.execute(account("book:late", "h-1"))
    asked = []

    def choose(state):
        asked.append(("book:new" in state.accounts, "book:late" in state.accounts))
        return [] if "book:late" in state.accounts else [transfer()]

    before = books.holding("AAPLx", "book:a0")
    opened, chosen = books.execute_group([(lambda _: [account("book:new", "h-1")], "operator", False), (choose, "operator", False)])
    assert asked == [(True, False), (True, True)]
    assert (len(opened), len(chosen), opened.size) == (1, 0, books.size)
    assert books.holding("AAPLx", "book:a0") == before
    sound(books)


def test_two_writers_at_once_lose_nothing_and_double_nothing(books, rival):
    answered = {}

    def write(ledger, first):
        for number in range(first, first + 60):
            command = transfer(number % 4, (number + 1) % 4, 3, request_id=request_id(number))
            while True:
                try:
                    answered[number] = ledger.execute(command).booking.index
                except Unavailable:
                    continue
                break

    threads = [threading.Thread(target=write, args=(ledger, first)) for ledger, first in ((books, 1), (rival, 31), (rival, 101))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    books.execute(transfer())
    booked = {request: index for _, request, index in booked_requests(books)}
    assert {request_id(number): index for number, index in answered.items()}.items() <= booked.items()
    sound(books)


def test_a_writer_who_is_always_beaten_says_so(books, rival, faulty):
    original = faulty.append
    numbers = iter(range(10_000, 20_000))

    def beaten(*batch):
        rival.execute(transfer(request_id=request_id(next(numbers))))
        original(*batch)

    faulty.append = beaten
    with pytest.raises(LedgerError, match="faster 5 times") as caught:
        books.execute(transfer(units=5, request_id=request_id(1)))
    assert caught.value.reason_name == "STORE_UNAVAILABLE"
    del faulty.append
    books.execute(transfer(units=5, request_id=request_id(1)))
    sound(books)


# ---- damaged stores, seen by a ledger ------------------------------------------------------------------------------------------------


def test_a_gap_a_cut_and_a_changed_byte_are_refused_with_their_index(url, tmp_path):
    with open_funded(url) as books:
        books.execute_many([transfer(units=number + 1) for number in range(400)])
        size = books.size
    path = tmp_path / "books.db"
    content = path.read_bytes()
    for statement, index in [
        ("DELETE FROM stored_events WHERE originator_version = 300", 299),
        ("UPDATE stored_events SET state = state || x'00' WHERE originator_version = 100", 99),
        ("UPDATE stored_events SET originator_version = 1000 WHERE originator_version = 200", None),
        (f"UPDATE stored_events SET state = x'00' WHERE originator_version = {size}", size - 1),
        (
            "UPDATE stored_events SET state = (SELECT MAX(state) FROM stored_events) WHERE originator_version = 51",
            50,
        ),
    ]:
        path.write_bytes(content)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            assert connection.execute(statement).rowcount == 1
        with pytest.raises(LedgerError) as caught:
            Ledger.open(url)
        assert caught.value.reason_name == "LOG_CORRUPT", statement
        assert index is None or caught.value.metadata["index"] == str(index), (statement, str(caught.value))
    for kept in (0.95, 0.5, 0.05):
        path.write_bytes(content[: int(len(content) * kept)])
        with pytest.raises(LedgerError) as caught:
            Ledger.open(url)
        assert caught.value.reason_name == "LOG_CORRUPT"
    path.write_bytes(content)
    with Ledger.open(url) as books:
        assert books.size == size
        sound(books)


def test_a_damaged_entry_under_a_snapshot_is_still_found_by_a_check(url, tmp_path):
    """A snapshot spares the folding of old entries, so it is `verify` that reads them again."""
    with open_funded(url) as books:
        books.execute_many([transfer(units=number + 1) for number in range(400)])
        books.write_snapshot()
    with contextlib.closing(sqlite3.connect(tmp_path / "books.db", isolation_level=None)) as connection:
        connection.execute("UPDATE stored_events SET state = x'00' WHERE originator_version = 100")
    with Ledger.open(url) as books:
        with pytest.raises(LedgerError, match="entry 99"):
            latest_state(books.log)
        with pytest.raises(LedgerError, match="entry 99"):
            books.log.check()
