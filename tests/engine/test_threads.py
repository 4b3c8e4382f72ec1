"""Many threads: they share flushes, nobody is answered before the flush, and nobody sees what may never have happened."""

from __future__ import annotations

import sys
import threading
import time

import pytest
from durable import ACCOUNTS, UNITS, booked_requests, make_faulty, open_funded, request_id, transfer, url_of
from scenario import START_US, FixedClock, account, check_invariants

from ledger import Ledger, LedgerError
from ledger.errors import refusal
from ledger.log.log import leaf_index
from ledger.replay import latest_state
from stockledger.v1.accounts_pb2 import GetHoldingRequest, ListRegisterRequest
from stockledger.v1.common_pb2 import AsOf
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.events_pb2 import Entry


@pytest.fixture
def books(tmp_path):
    with open_funded(url_of(tmp_path), clock=FixedClock()) as opened:
        yield opened


@pytest.fixture
def restless():
    """Threads are switched as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def run(*functions):
    """Run each function in a thread of its own, and raise what any of them raised."""
    failures = []

    def guarded(function):
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(function,), daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    if failures:
        raise failures[0]


class Gate:
    """Holds the next append back until it is opened, so that others come to wait behind it; the one after it may fail."""

    def __init__(self, faulty, **second_fails):
        self.entered, self.opened = threading.Event(), threading.Event()
        original = faulty.append

        def append(*batch):
            self.entered.set()
            assert self.opened.wait(30)
            original(*batch)
            del faulty.append
            for when, error in second_fails.items():
                setattr(faulty, when, error)

        faulty.append = append


def wait_for_queue(books, count):
    end = time.monotonic() + 30
    while len(books._queue) < count:
        assert time.monotonic() < end, "the threads do not come"
        time.sleep(0.001)


def sound(books):
    assert latest_state(books.log) == books._state
    check_invariants(books._state)
    requests = [(principal, request) for principal, request, _ in booked_requests(books)]
    assert len(requests) == len(set(requests))


def waiting_together(books, first, others):
    """Run the first function until its append is under way, then the others, so that they all wait; then let them go."""
    faulty = make_faulty(books)
    gate = Gate(faulty)

    def open_gate():
        assert gate.entered.wait(30)
        wait_for_queue(books, len(others))
        gate.opened.set()

    def behind(function):
        def start():
            assert gate.entered.wait(30)
            function()

        return start

    run(first, open_gate, *map(behind, others))
    return faulty


def test_threads_share_a_flush(books):
    answers = []
    many = [lambda n=n: answers.append(books.execute(transfer(units=n + 1, request_id=request_id(n)))) for n in range(1, 41)]
    faulty = waiting_together(books, lambda: books.execute(transfer(request_id=request_id(0))), many)
    assert len(answers) == 40
    assert faulty.appends == 2, "one flush of the first, one of all that waited"
    assert {answer.booking.size for answer in answers} == {books.size}
    assert len({answer.booking.index for answer in answers}) == 40
    sound(books)


def test_a_poisoned_submission_does_not_take_others_with_it(books):
    results = {}

    def good(number):
        results[number] = books.execute(transfer(units=1, request_id=request_id(number)))

    def poisoned():
        with pytest.raises(TypeError, match=r"neither|not a command"):
            books.execute_many([transfer(units=7, request_id=request_id(100)), GetHoldingRequest()])

    waiting_together(books, lambda: good(0), [lambda: good(1), poisoned, lambda: good(2)])
    assert sorted(results) == [0, 1, 2]
    sound(books)
    assert request_id(100) not in {request for _, request, _ in booked_requests(books)}, "all of the poisoned call is undone"


def test_after_a_doubtful_fault_nothing_is_tried_again_unasked(books):
    """The store took the batch and then broke: commands without ids of their own must not be put through twice."""
    units = books.holding("AAPLx", ACCOUNTS[1])
    failed = []

    def move():
        try:
            books.execute(transfer(units=5))
        except RuntimeError:
            failed.append(1)

    gate = Gate(make_faulty(books), after=RuntimeError("after the commit"))

    def break_second():
        assert gate.entered.wait(30)
        wait_for_queue(books, 3)
        gate.opened.set()

    def behind():
        assert gate.entered.wait(30)
        move()

    run(lambda: books.execute(transfer()), break_second, behind, behind, behind)
    assert len(failed) == 3
    books.execute(transfer())
    assert books.holding("AAPLx", ACCOUNTS[1]) == units + 1 + 15 + 1
    sound(books)


@pytest.mark.parametrize("kind", ["refused", "repeat", "validate_only", "read", "as_of", "register"])
def test_no_answer_leaves_before_what_it_rests_on_is_durable(books, kind):
    """A refusal or a repeat that was decided on a provisional batch shares the batch's fate; a read sees the books before it."""
    command = {
        "refused": transfer(0, 1, UNITS, request_id=request_id(2)),
        "repeat": transfer(0, 1, UNITS, request_id=request_id(1)),
        "validate_only": transfer(1, 0, UNITS + 1, validate_only=True),
        "read": GetHoldingRequest(instrument="AAPLx", account=ACCOUNTS[1]),
        "register": ListRegisterRequest(instrument="AAPLx"),
        "as_of": GetHoldingRequest(instrument="AAPLx", account=ACCOUNTS[1], as_of=AsOf(size=books.size)),
    }[kind]
    is_read, read = kind in ("read", "as_of", "register"), threading.Event()
    faulty = make_faulty(books)
    gate = Gate(faulty)
    order = []

    def first():
        books.execute(transfer(0, 1, UNITS, request_id=request_id(1)))

    def second():
        assert gate.entered.wait(30)
        before = books.size
        try:
            answer = books.execute(command)
        except LedgerError as error:
            assert error.reason_name == "UNITS_INSUFFICIENT"  # noqa: PT017 - one of two outcomes
            answer = None
        order.append("answered")
        assert is_read or (books.size > before and gate.opened.is_set())
        if is_read:
            assert answer.size == before
            units = answer.holding.units if kind != "register" else {each.account: each.units for each in answer.holdings}[ACCOUNTS[1]]
            assert units == books.holding("AAPLx", ACCOUNTS[1]) == UNITS
            read.set()

    def third():
        assert gate.entered.wait(30)
        if is_read:
            assert read.wait(30), "a read does not wait for a flush"
        else:
            time.sleep(0.05)
        order.append("flushed")
        gate.opened.set()

    run(first, second, third)
    assert order == (["answered", "flushed"] if is_read else ["flushed", "answered"])
    assert books.holding("AAPLx", ACCOUNTS[1]) == 2 * UNITS
    sound(books)


def test_the_size_does_not_fall_while_a_batch_settles(books, monkeypatch):
    """It is stored, and a read puts the books back meanwhile: until that is over it is in nobody's books."""
    append, stored, opened = books._log.append, threading.Event(), threading.Event()

    def append_slowly(*batch):
        append(*batch)
        stored.set()
        assert opened.wait(30)

    monkeypatch.setattr(books._log, "append", append_slowly)
    before, told = books.size, []

    def watch():
        assert stored.wait(30)
        told.append(books.size)
        told.append(books.look(lambda state: state.size))
        told.append(books.size)
        opened.set()

    run(lambda: books.execute(transfer()), watch)
    assert told == [before] * 3
    assert books.size == before + 1


def test_a_refusal_decided_on_a_batch_that_fails_is_decided_again(books):
    """Two commands wait together: one takes all units, the other is refused for it; the append fails, so neither may be told so."""
    outcomes = {}

    def ask(name, command):
        try:
            outcomes[name] = books.execute(command)
        except LedgerError as error:
            outcomes[name] = error

    gate = Gate(make_faulty(books), before=refusal(Reason.REASON_STORE_UNAVAILABLE, "away", store="test"))

    def break_second():
        assert gate.entered.wait(30)
        wait_for_queue(books, 2)
        gate.opened.set()

    def behind(name, command, others):
        def start():
            assert gate.entered.wait(30)
            wait_for_queue(books, others)
            ask(name, command)

        return start

    run(
        lambda: books.execute(transfer(2, 3)),
        break_second,
        behind("takes", transfer(0, 1, UNITS, request_id=request_id(1)), 0),
        behind("refused", transfer(0, 1, UNITS, request_id=request_id(2)), 1),
    )
    assert [outcomes[name].reason_name for name in ("takes", "refused")] == ["STORE_UNAVAILABLE"] * 2
    assert books.holding("AAPLx", ACCOUNTS[0]) == UNITS
    sound(books)


def test_an_interrupt_of_the_writer_reaches_all_who_waited(books):
    outcomes = []

    def ask(number):
        try:
            books.execute(transfer(request_id=request_id(number)))
        except (LedgerError, KeyboardInterrupt) as error:
            outcomes.append(error)

    gate = Gate(make_faulty(books), after=KeyboardInterrupt())

    def break_second():
        assert gate.entered.wait(30)
        wait_for_queue(books, 3)
        gate.opened.set()

    def behind(number):
        def start():
            assert gate.entered.wait(30)
            ask(number)

        return start

    run(lambda: books.execute(transfer()), break_second, *(behind(number) for number in (1, 2, 3)))
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["KeyboardInterrupt", "Unavailable", "Unavailable"]
    for number in (1, 2, 3):
        assert books.execute(transfer(request_id=request_id(number))).booking.repeated_answer
    sound(books)


# ---- what threads see ----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("fails", [True, False])
def test_a_holding_is_never_one_that_may_not_happen(books, fails):
    """Each call moves 10 away and back in steps; only multiples of 10 are ever durable, and with failing appends only the first."""
    faulty = make_faulty(books)
    stop = threading.Event()
    seen = set()

    def write():
        try:
            end = time.monotonic() + 1.0
            while time.monotonic() < end:
                if fails:
                    faulty.before = refusal(Reason.REASON_STORE_UNAVAILABLE, "away", store="test")
                steps = [transfer(0, 1, 3), transfer(0, 1, 4), transfer(0, 1, 3)]
                try:
                    books.execute_many(steps)
                except LedgerError:
                    assert fails
        finally:
            stop.set()

    def read():
        while not stop.is_set():
            seen.add(books.holding("AAPLx", ACCOUNTS[0]))

    run(write, read, read)
    if fails:
        assert seen == {UNITS}
    else:
        assert len(seen) > 1
        assert all((UNITS - units) % 10 == 0 for units in seen)
    sound(books)


@pytest.mark.usefixtures("restless")
def test_threads_of_all_kinds_at_once(books):
    count = 25
    ends = []

    def single(first):
        def write():
            for number in range(first, first + count):
                books.execute(transfer(number % 4, (number + 1) % 4, 1, request_id=request_id(number)))

        return write

    def many(first, *, pack):
        def write():
            for number in range(count):
                ids = range(first + 10 * number, first + 10 * number + 10)
                answers = books.execute_many([transfer(2, 3, 1, request_id=request_id(each)) for each in ids], pack=pack)
                assert not answers.refusals

        return write

    def read():
        for _ in range(count):
            register = books.execute(ListRegisterRequest(instrument="AAPLx"))
            assert sum(holding.units for holding in register.holdings) == 0
            at = AsOf(size=register.size)
            again = books.execute(ListRegisterRequest(instrument="AAPLx", as_of=at))
            assert again.holdings == register.holdings

    def look_back():
        for step in range(count):
            size = max(books.size - 7 * step, 9)
            state = books.state_at(size=size)
            assert state.size == size
            check_invariants(state)

    def tail():
        indexes = []
        for index, entry in books.tail(0, follow=True, timeout=1.0):
            assert index < books.size
            assert isinstance(entry, Entry)
            indexes.append(index)
        ends.append(indexes)

    def snapshot():
        for _ in range(3):
            books.write_snapshot()

    run(single(1000), single(2000), many(3000, pack=True), many(5000, pack=False), read, look_back, tail, tail, snapshot)
    assert ends == [list(range(books.size))] * 2
    written = {request for _, request, _ in booked_requests(books)}
    expected = [*range(1000, 1000 + count), *range(2000, 2000 + count), *range(3000, 3000 + 10 * count), *range(5000, 5000 + 10 * count)]
    assert {request_id(number) for number in expected} <= written
    sound(books)


@pytest.mark.usefixtures("restless")
def test_reads_of_several_sizes_do_not_disturb_each_other(books):
    """The state kept for reads of the past is one; whoever reads has it for himself."""
    for _ in range(40):
        books.execute(transfer(0, 1))
    start = books.size - 40

    def read(sizes):
        def ask():
            for size in sizes:
                at = AsOf(size=size)
                answer = books.execute(GetHoldingRequest(instrument="AAPLx", account=ACCOUNTS[1], as_of=at))
                assert (answer.size, answer.holding.units) == (size, UNITS + size - start)
                state = books.state_at(size=size)
                assert (state.size, state.holding(1, 17)) == (size, UNITS + size - start)

        return ask

    sizes = list(range(start, start + 41))
    run(read(sizes), read(sizes[::-1]), read(sizes[::2]), lambda: [books.execute(transfer(2, 3)) for _ in range(20)])


# ---- following and closing -----------------------------------------------------------------------------------------------------------


def test_a_tail_waits_goes_on_and_ends_when_the_ledger_is_closed(books):
    size, seen = books.size, []
    followed = threading.Event()

    def follow():
        for index, entry in books.tail(size, follow=True):
            seen.append((index, entry.units_transferred.units))
            followed.set()

    def write():
        books.execute(transfer(units=5))
        assert followed.wait(30)
        books.execute_many([transfer(units=6), transfer(units=7)])
        while len(seen) < 3:
            time.sleep(0.001)
        books.close()

    run(follow, write)
    assert seen == [(size, 5), (size + 1, 6), (size + 2, 7)]


@pytest.mark.usefixtures("restless")
def test_who_waits_for_the_log_to_grow_is_always_woken(books):
    """The writer wakes only those who have said that they wait; one who says so a moment too late must see the entry himself."""
    size, seen = books.size, [threading.Semaphore(0) for _ in range(3)]

    def follow(mine):
        for index, _ in books.tail(size, follow=True, timeout=30):
            mine.release()
            if index == size + 149:
                return

    def write():
        for _ in range(150):
            books.execute(transfer())
            for each in seen:
                assert each.acquire(timeout=20), "somebody sleeps on"

    run(write, *[lambda mine=mine: follow(mine) for mine in seen])
    assert books.size == size + 150
    assert books._waiting_count == 0


def test_a_tail_ends_after_its_timeout_and_refuses_what_is_beyond(books):
    assert len(list(books.tail(books.size - 2, follow=True, timeout=0.01))) == 2
    assert list(books.tail(books.size)) == []
    for index in (-1, books.size + 1):
        with pytest.raises(LedgerError) as caught:
            next(books.tail(index))
        assert caught.value.reason_name == "INDEX_BEYOND_LOG"


def test_a_read_only_tail_follows_the_process_that_writes(books, tmp_path):
    size, seen = books.size, []
    with Ledger.open(url_of(tmp_path), read_only=True) as reader:

        def follow():
            for index, _ in reader.tail(size, follow=True, timeout=20):
                seen.append(index)
                if len(seen) == 3:
                    return

        run(follow, lambda: [books.execute(transfer()) for _ in range(3)])
        assert list(reader.tail(size, follow=True, timeout=0.01))[-1][0] == books.size - 1
    assert seen == [size, size + 1, size + 2]


def test_closing_lets_the_batch_on_its_way_finish_and_refuses_who_waits(books):
    faulty = make_faulty(books)
    gate = Gate(faulty)
    outcomes = []
    size = books.size

    def close():
        assert gate.entered.wait(30)
        thread = threading.Thread(target=books.close)
        thread.start()
        time.sleep(0.02)
        gate.opened.set()
        thread.join()

    def late():
        assert gate.entered.wait(30)
        time.sleep(0.01)
        try:
            outcomes.append(books.execute(transfer()).booking.index)
        except LedgerError as error:
            outcomes.append(error.reason_name)

    run(lambda: outcomes.append(books.execute(transfer()).booking.index), close, late)
    assert outcomes[0] == size
    assert outcomes[1] in (size + 1, "NOT_LEADER")
    with pytest.raises(LedgerError) as caught:
        books.execute(transfer())
    assert caught.value.reason_name == "NOT_LEADER"


# ---- reads of the past ---------------------------------------------------------------------------------------------------------------


def test_states_as_of_sizes_and_times(books):
    clock = books._clock
    marks = []
    for step in range(10):
        clock.pass_time(1_000_000)
        books.execute_many([transfer(0, 1, step + 1), account(f"book:s{step}", "h-1")])
        marks.append((books.size, books._state.last_decision_time_us, books.holding("AAPLx", ACCOUNTS[1])))
    for size, moment, units in marks[::-1] + marks:
        for state in (books.state_at(size=size), books.state_at(time_us=moment), books.state_at(time_us=moment + 5)):
            assert (state.size, state.holding(1, 17)) == (size, units)
    assert books.state_at(size=0).size == 0
    assert books.state_at(time_us=START_US - 1).size == 0
    assert books.state_at(time_us=START_US * 2).size == books.size
    mine = books.state_at(size=marks[0][0])
    books.state_at(size=marks[5][0])
    assert mine.size == marks[0][0], "a state that was handed out does not move on"
    for size in (-1, books.size + 1):
        with pytest.raises(LedgerError) as caught:
            books.state_at(size=size)
        assert caught.value.reason_name == "INDEX_BEYOND_LOG"


def test_the_first_leaf_has_index_zero(books):
    assert leaf_index(1) == 0
    assert next(books.tail())[1].HasField("ledger_opened")
