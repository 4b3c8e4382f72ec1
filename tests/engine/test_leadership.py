"""Several ledgers on one PostgreSQL: one leads, the others follow and take over when it is gone, hangs, or loses its session."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest
from durable import open_funded, request_id, transfer
from scenario import check_invariants

from ledger import Ledger
from ledger.errors import LedgerError, Unavailable
from ledger.leadership import LEAD_SECONDS_MAX, Leadership
from ledger.log.postgres_lead import LEASE_SECONDS
from ledger.replay import latest_state
from stockledger.v1.accounts_pb2 import GetHoldingRequest


@pytest.fixture
def url(postgres):
    url = postgres.new_url()
    open_funded(url).close()
    return url


@contextlib.contextmanager
def server(url, address):
    """Open a ledger to lead or follow, as a server does."""
    with Ledger.open(url, contend=True) as books:
        leadership = Leadership(books)
        leadership.start(address)
        try:
            yield books
        finally:
            leadership.stop()


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.005)


def sound(books):
    assert latest_state(books.log) == books._state
    check_invariants(books._state)


def asked_of_all(all_books, command):
    """Ask one after the other until one books it, and return that one."""
    for _ in range(1000):
        for books in all_books:
            with contextlib.suppress(Unavailable):
                books.execute(command)
                return books
        time.sleep(0.01)
    raise AssertionError("nobody books it")


def book_until_refused(books):
    """Return the size after the last command that was booked, and how the next was refused."""
    while True:
        size = books.size
        try:
            books.execute(transfer())
        except LedgerError as refused:
            return size, refused


def session_of(books):
    return books.log.backend.writer.info.backend_pid


def test_one_leads_and_the_others_follow(url):
    with server(url, "a:1") as first, server(url, "b:2") as second, server(url, "c:3") as third:
        assert (first.leadership.leads, second.leadership.leads, third.leadership.leads) == (True, False, False)
        for number in range(1, 31):
            size = first.execute(transfer(units=number)).booking.size
            until(lambda size=size: second.size == third.size == size, 2)
        assert second.execute(GetHoldingRequest(instrument="AAPLx", account="book:a1")).size == first.size
        assert second._state == third._state == first._state
        until(lambda: second.leadership.leader == third.leadership.leader == "a:1")
        for follower in (second, third):
            with pytest.raises(Unavailable, match="a:1 leads") as caught:
                follower.execute(transfer())
            assert (caught.value.reason_name, caught.value.metadata) == ("NOT_LEADER", {"leader": "a:1"})
            assert follower.leadership.lag_seconds < 2


def test_a_follower_takes_over_when_the_leader_stops(url):
    with contextlib.ExitStack() as stack:
        with server(url, "a:1") as first:
            second = stack.enter_context(server(url, "b:2"))
            size = first.execute(transfer()).booking.size
        start = time.monotonic()
        until(lambda: second.leadership.leads)
        assert time.monotonic() - start < 2
        assert second.execute(transfer()).booking.size == size + 1
        sound(second)


def test_a_lost_session_is_a_lost_lead_and_requests_find_their_first_answer(postgres, url):
    with server(url, "a:1") as first, server(url, "b:2") as second:
        base = first._clock.wall_us()
        answer = first.execute(transfer(request_id=request_id(1, base)))
        start = time.monotonic()
        postgres.run(f"SELECT pg_terminate_backend({session_of(first)}, 5000)")
        with pytest.raises(Unavailable):
            first.execute(transfer(request_id=request_id(2, base)))
        leader = asked_of_all([first, second], transfer(request_id=request_id(2, base)))
        assert time.monotonic() - start < 2
        follower = second if leader is first else first
        again = leader.execute(transfer(request_id=request_id(1, base)))
        assert (again.booking.repeated_answer, again.booking.index) == (True, answer.booking.index)
        assert leader.execute(transfer(request_id=request_id(2, base))).booking.repeated_answer
        until(lambda: follower.size == leader.size)
        sound(leader)
        sound(follower)
        address = "a:1" if leader is first else "b:2"
        until(lambda: follower.leadership.leader == address)


PROGRAM = """
import sys
from ledger import Ledger
from ledger.leadership import Leadership
with Ledger.open(sys.argv[1], contend=True) as books:
    leadership = Leadership(books)
    leadership.start("x:9")
    print("leads" if leadership.leads else "follows", flush=True)
    for line in sys.stdin:
        try:
            from durable import transfer
            print("booked", books.execute(transfer()).booking.index, flush=True)
        except Exception as error:
            print(error.reason_name, flush=True)
"""


@contextlib.contextmanager
def process(url):
    support = str(Path(__file__).parents[1] / "support")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([support, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", PROGRAM, url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True, bufsize=1) as started:
        try:
            yield started
        finally:
            started.kill()


def ask(started):
    started.stdin.write("go\n")
    return started.stdout.readline().split()


def test_a_killed_leader_is_followed_within_two_seconds(url):
    with process(url) as leader:
        assert leader.stdout.readline() == "leads\n"
        with server(url, "b:2") as second:
            assert ask(leader)[0] == "booked"
            leader.kill()
            start = time.monotonic()
            until(lambda: second.leadership.leads)
            second.execute(transfer())
            assert time.monotonic() - start < 2
            sound(second)


@pytest.mark.slow
def test_a_leader_that_hangs_is_deposed_and_books_nothing_when_it_comes_back(url):
    with process(url) as leader:
        assert leader.stdout.readline() == "leads\n"
        with server(url, "b:2") as second:
            assert ask(leader)[0] == "booked"
            until(lambda: second.leadership.leader == "x:9")
            leader.send_signal(signal.SIGSTOP)
            start = time.monotonic()
            leader.stdin.write("go\n")  # it finds a command before anything else when it wakes
            until(lambda: second.leadership.leads, 3 * LEASE_SECONDS)
            assert LEAD_SECONDS_MAX < time.monotonic() - start < LEASE_SECONDS + 2
            size = second.execute(transfer()).booking.size
            leader.send_signal(signal.SIGCONT)
            assert leader.stdout.readline().strip() in ("STORE_UNAVAILABLE", "NOT_LEADER")
            until(lambda: ask(leader) == ["NOT_LEADER"])
            assert second.size == size
            sound(second)


@pytest.mark.slow
def test_an_idle_leader_is_not_deposed(url):
    with server(url, "a:1") as first, server(url, "b:2") as second:
        session = session_of(first)
        time.sleep(LEASE_SECONDS + 1.5)
        assert first.leadership.leads
        assert not second.leadership.leads
        assert session_of(first) == session


def test_a_writer_that_does_not_serve_is_never_deposed(url):
    """Such as an import that thinks for a minute: nobody has promised that it says something."""
    with Ledger.open(url) as writer, server(url, "b:2") as second:
        with pytest.raises(Unavailable, match="nobody leads at this moment"):
            second.execute(transfer())
        holder = second.log.backend._lock.holder(writer.log.backend.writer)
        assert holder.address is None
        writer.execute(transfer())
        until(lambda: second.size == writer.size)


def test_many_may_make_the_ledger_at_once(postgres):
    url = postgres.new_url()
    opened, failures = [], []

    def make():
        try:
            opened.append(Ledger.open(url, contend=True))
        except BaseException as failure:  # noqa: BLE001 - told below
            failures.append(failure)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(books.read_only for books in opened) == [False, True, True, True]
    assert {books.size for books in opened} == {1}
    for books in opened:
        books.close()


def test_a_follower_shows_nothing_that_only_the_primary_has(postgres, url):
    """A row whose wait for the standby was cancelled can be seen by all, and lost with the primary."""
    with server(url, "a:1") as first, server(url, "b:2") as second:
        first.execute(transfer())
        until(lambda: second.size == first.size)
        postgres.run("ALTER SYSTEM SET synchronous_standby_names = 'away'")
        try:
            postgres.run("SELECT pg_reload_conf()")
            with psycopg.connect(postgres.uri, autocommit=True) as other:
                until(lambda: other.execute("SHOW synchronous_standby_names").fetchone() == ("away",))
            size, refused = book_until_refused(first)  # the reload takes a moment to reach the session
            assert refused.reason_name == "STORE_UNAVAILABLE"
            rows = postgres.run("SELECT max(originator_version) FROM ledger_acme.stored_events", url)[0][0]
            assert rows == size + 1, "the row is there for all to see"
            until(lambda: second.leadership.lag_seconds > 1)
            assert second.size == size
            assert second.log.size == size
            with pytest.raises(Unavailable):
                first.execute(transfer())
        finally:
            with psycopg.connect(postgres.uri, autocommit=True, options="-c synchronous_commit=local") as other:
                other.execute("ALTER SYSTEM RESET synchronous_standby_names")
                other.execute("SELECT pg_reload_conf()")
        until(lambda: first.size == second.size == size + 1)
        sound(first)
        sound(second)
