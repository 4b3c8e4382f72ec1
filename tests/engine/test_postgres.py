"""The whole ledger on PostgreSQL: booked, followed, killed at any moment, and cut off from its server in the middle of a commit."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

import psycopg
import pytest
from crashes import crash_rounds
from durable import open_funded, request_id, transfer
from scenario import check_invariants, holder

from ledger import Ledger
from ledger.errors import Unavailable
from ledger.replay import latest_state
from ledger.verify import verify_store


@pytest.fixture
def url(postgres):
    return postgres.new_url()


def test_it_opens_as_it_was_left(url):
    with open_funded(url) as books:
        answers = books.execute_many([transfer(units=number) for number in range(1, 301)])
        assert [answer.booking.index for answer in answers] == list(range(books.size - 300, books.size))
        root, state = books.log.tree.root(), books._state
    with Ledger.open(url) as books:
        assert (books.log.tree.root(), books._state) == (root, state)
        assert books.log.check().size == books.size


def test_a_follower_reads_while_another_writes(url):
    with open_funded(url) as books, Ledger.open(url, ledger_id="acme", read_only=True) as follower:
        for _ in range(3):
            books.execute_many([transfer() for _ in range(200)])
            follower._follow()
            assert follower._state == books._state
        with pytest.raises(Unavailable, match="writes this ledger; open it read-only"):
            Ledger.open(url)


@pytest.mark.slow
def test_what_was_acknowledged_survives_a_kill(tmp_path, url):
    assert crash_rounds(tmp_path, 2, 1, url) > 10


def test_a_server_killed_under_load_doubles_and_loses_nothing(postgres, url):
    """Every request is asked for until it is answered; PostgreSQL restarts and recovers twice meanwhile."""
    with open_funded(url) as books:
        size = books.size
        booked = {}
        for number in range(1, 61):
            if number in (20, 40):
                session = books.log.backend.writer.info.backend_pid
                threading.Timer(0.002, lambda session=session: os.kill(session, signal.SIGKILL)).start()
            for _ in range(2000):
                with contextlib.suppress(Unavailable):
                    answer = books.execute(transfer(request_id=request_id(number, books._clock.wall_us() // 10**9 * 10**9)))
                    booked[number] = answer.booking.index
                    break
                threading.Event().wait(0.005)
        assert len(set(booked.values())) == 60
        assert books.size == size + 60
        assert latest_state(books.log) == books._state
        check_invariants(books._state)
        books.log.check()
    with psycopg.connect(postgres.uri) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_report_of_a_store_tells_no_password(url):
    """The server of the tests asks for none, so any will do."""
    with_password = f"{url}&password=hunter2"
    with Ledger.open(with_password) as books:
        books.execute(holder("h-1"))
        assert "hunter2" not in books.log.url
    report = verify_store(with_password)
    assert report.sound
    assert "hunter2" not in repr(report)
    assert "password=***" in report.source
