"""PostgreSQL's own failover under load: the primary is killed, its synchronous standby promoted, and nothing acknowledged is lost."""

from __future__ import annotations

import time

import pytest
from durable import open_funded, transfer
from postgres_pair import postgres_pair, until
from server_crashes import asking
from server_process import ServerProcess
from server_processes import check_booked_once, first_answer_after, running

from ledger import Ledger
from ledger.errors import LedgerError, Unavailable
from ledger.log.postgres_sessions import ANSWER_SECONDS


@pytest.fixture
def pair():
    with postgres_pair() as nodes:
        yield nodes


def url_of(*nodes):
    hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    return f"postgresql://postgres@{hosts}/postgres?target_session_attrs=primary&ledger=acme"


@pytest.mark.slow
def test_a_standby_is_promoted_under_load(pair):
    primary, standby = pair
    url = url_of(primary, standby)
    open_funded(url).close()
    base_us = time.time_ns() // 1000
    servers = [ServerProcess(url) for _ in range(2)]
    with running(*servers), asking([server.address for server in servers], base_us) as askers:
        first_answer_after(askers, time.monotonic())
        time.sleep(1)
        primary.kill()
        before = sum(len(asker.acknowledged) for asker in askers)
        standby.run("SELECT pg_promote()")
        first_answer_after(askers, time.monotonic())
        time.sleep(1)
    with Ledger.open(url_of(standby), read_only=True) as books:
        count = check_booked_once(books, askers, base_us)
    assert before > 20
    assert count > before + 20

    # The old primary comes back and knows nothing of this: without its standby it lets nobody write.
    primary.start()
    try:
        with pytest.raises(Unavailable, match="the commit came with a warning: canceling wait for synchronous replication"):
            Ledger.open(url_of(primary))
    finally:
        primary.kill()


@pytest.mark.slow
def test_a_doubtful_commit_waits_for_the_standby_and_no_longer(pair):
    primary, standby = pair
    with open_funded(url_of(primary)) as books:
        size = books.size
        standby.kill()
        start = time.monotonic()
        with pytest.raises(LedgerError, match="whether the last batch was stored is not known yet") as caught:
            books.execute(transfer())
        assert caught.value.reason_name == "STORE_UNAVAILABLE"
        assert time.monotonic() - start < 3 * ANSWER_SECONDS
        with pytest.raises(LedgerError, match="canceling wait") as caught:
            books.execute(transfer())
        assert caught.value.reason_name == "STORE_UNAVAILABLE"
        assert books.size == size
        standby.start()
        until(lambda: primary.run("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"), "the standby does not come back")
        assert books.execute(transfer()).booking.index == size + 1
        assert books.size == size + 2
        assert books.log.check().size == size + 2


@pytest.mark.slow
def test_a_reader_of_a_standby_sees_what_it_has(pair):
    primary, standby = pair
    with open_funded(url_of(primary)) as books:
        books.execute(transfer())
        answer = f"postgresql://postgres@127.0.0.1:{standby.port}/postgres?ledger=acme"
        until(lambda: standby.run("SELECT max(originator_version) FROM ledger_acme.stored_events") == [(books.size,)], "it does not follow")
        with Ledger.open(answer, read_only=True) as reader:
            assert reader._state == books._state
        with pytest.raises(Unavailable, match="a standby, which takes no writes"):
            Ledger.open(answer, contend=True)
