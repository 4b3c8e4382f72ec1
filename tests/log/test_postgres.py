"""What is particular to a log in PostgreSQL: its settings, its lead, and a server that goes away in the middle of a commit."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading

import psycopg
import pytest

from ledger import Ledger
from ledger.errors import DataLoss, InvalidRequest, LedgerError, NotFound, Unavailable
from ledger.log import postgres_backend
from ledger.log.log import AppendConflict, AppendDoubtful
from ledger.log.postgres_sessions import parse_url
from ledger.log.postgres_tables import schema_of
from ledger.log.store import _open_without_lock, open_log


@pytest.fixture
def url(postgres):
    return postgres.new_url()


@pytest.fixture
def log(url):
    with open_log(url) as opened:
        yield opened


def at_commit(log, act, *, after: bool):
    """Let `act(connection)` happen once: just before the next COMMIT goes out, or after its answer has come but before we hear it."""
    connection = log.backend.writer
    make_cursor = connection.cursor

    class Cursor(psycopg.Cursor):
        def execute(self, query, *values, **options):
            if query != "COMMIT":
                return super().execute(query, *values, **options)
            connection.cursor = make_cursor
            if after:
                super().execute(query)
            act(connection)
            return self if after else super().execute(query)

    connection.cursor = lambda *values, **options: Cursor(connection, *values, **options)


# What the URL says


@pytest.mark.parametrize(
    ("url", "connection", "ledger_id", "shown"),
    [
        ("postgresql://u@h/d?ledger=acme", "postgresql://u@h/d", "acme", "postgresql://u@h/d?ledger=acme"),
        ("postgresql://u:p:q@r@h/d?ledger=b&port=1", "postgresql://u:p:q@r@h/d?port=1", "b", "postgresql://u:***@h/d?ledger=b&port=1"),
        ("postgresql://u:secret@h:1/d", "postgresql://u:secret@h:1/d", None, "postgresql://u:***@h:1/d"),
        ("postgresql://h/d?password=x&ledger=a%2Fb", "postgresql://h/d?password=x", "a/b", "postgresql://h/d?password=***&ledger=a%2Fb"),
    ],
)
def test_the_url_names_the_ledger_and_hides_the_password(url, connection, ledger_id, shown):
    assert parse_url(url) == (connection, ledger_id, shown)


@pytest.mark.parametrize(
    "bad", ["postgresql://h/d", "postgresql://h/d?ledger=", "postgresql://h/d?ledger=a%20b", "postgresql://h/d?x=y&ledger=a"]
)
def test_a_url_that_is_not_understood_is_refused(bad):
    with pytest.raises(InvalidRequest, match=r"postgresql://user@host/database\?ledger=acme") as caught:
        open_log(bad)
    assert caught.value.reason_name == "FIELD_MALFORMED"


def test_a_server_that_is_not_there_is_unavailable():
    with pytest.raises(Unavailable, match="cannot be used"):
        open_log("postgresql://u:secret@127.0.0.1:1/d?ledger=acme")


def test_a_missing_extra_answers_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "ledger.log.postgres_backend", None)
    monkeypatch.delattr("ledger.log.postgres_backend")
    with pytest.raises(Unavailable, match=r"pip install 'stockledger\[postgres\]'"):
        open_log("postgresql://h/d?ledger=acme")


def test_names_of_schemas():
    assert schema_of("acme") == "ledger_acme"
    assert len(schema_of("x" * 56)) == 63
    assert len({schema_of("x" * 63 + last) for last in "abc"}) == 3
    assert len(schema_of("x" * 64)) == 63


def test_many_ledgers_in_one_database(postgres, url):
    odd = 'A-b/c.d_"'.rstrip('"')
    with open_log(url) as first, open_log(url.replace("=acme", f"={odd}")) as second:
        first.append("acme", ["t"], [b"x"])
        second.append(odd, ["t", "t"], [b"y", b"z"])
        assert (first.check().size, second.check().size) == (1, 2)
    with pytest.raises(NotFound, match="there is no ledger other"):
        open_log(url.replace("=acme", "=other"), read_only=True)
    with pytest.raises(NotFound, match="names the ledger acme"):
        open_log(url, ledger_id="other")
    with open_log(url.replace("ledger=acme", ""), ledger_id="acme", read_only=True) as named:
        assert named.size == 1


def test_a_schema_of_something_else_is_refused(postgres, url):
    postgres.run("CREATE SCHEMA ledger_acme; CREATE TABLE ledger_acme.stored_events (x int)", url)
    for read_only in (False, True):
        with pytest.raises(DataLoss, match="not those of a ledger"):
            open_log(url, read_only=read_only)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE ledger_acme.stored_events SET UNLOGGED",
        "ALTER TABLE ledger_acme.stored_events DROP CONSTRAINT stored_events_pkey",
        "ALTER TABLE ledger_acme.stored_events ENABLE ROW LEVEL SECURITY",
        "CREATE RULE r AS ON INSERT TO ledger_acme.hash_tiles DO INSTEAD NOTHING",
        "DROP TABLE ledger_acme.checkpoints",
    ],
)
def test_tables_that_would_lose_rows_are_refused(postgres, url, change):
    open_log(url).close()
    postgres.run(change, url)
    with pytest.raises(DataLoss, match="not those of a ledger"):
        open_log(url)


def test_another_store_version_is_refused(postgres, url):
    open_log(url).close()
    postgres.run("UPDATE ledger_acme.store SET version = 3", url)
    with pytest.raises(NotFound, match="store version 3"):
        open_log(url)


# Settings under which a commit is not durable


@pytest.mark.parametrize(("name", "value"), [("synchronous_commit", "off"), ("synchronous_commit", "local"), ("zero_damaged_pages", "on")])
def test_an_unsafe_setting_is_refused_by_name(postgres, url, name, value):
    open_log(url).close()
    database = url.partition("?")[0].rpartition("/")[2]
    postgres.run(f"ALTER DATABASE {database} SET {name} = {value}")
    with pytest.raises(Unavailable, match=f"its setting {name} is {value}, and must be "):
        open_log(url)
    with (
        open_log(url, read_only=True) as reader,
        psycopg.connect(parse_url(url).connection) as pooled,
        pytest.raises(Unavailable, match=name),
    ):
        reader.backend.recorder.datastore.after_connect_func()(pooled)


def test_fsync_switched_off_under_way_is_refused(postgres, log, sample):
    sample.append(log, 3)
    postgres.run("ALTER SYSTEM SET fsync = off")
    try:
        postgres.run("SELECT pg_reload_conf()")
        with pytest.raises(Unavailable, match="its setting fsync is off"):
            sample.append(log, 1000, batch=1)  # the reload takes a moment
    finally:
        postgres.run("ALTER SYSTEM RESET fsync")
        postgres.run("SELECT pg_reload_conf()")


def test_a_session_keeps_its_synchronous_commit(log):
    assert log.backend.writer.execute("SELECT source FROM pg_settings WHERE name = 'synchronous_commit'").fetchone() == ("session",)


# Who leads


def test_a_lost_session_is_a_lost_lead(postgres, log, url, sample):
    sample.append(log, 3)
    postgres.run(f"SELECT pg_terminate_backend({log.backend.writer.info.backend_pid}, 5000)")
    with sample.open_when_left(url) as other:
        sample.append(other, 2)
        with pytest.raises((Unavailable, AppendConflict)):
            log.append(sample.ledger, ["t"], [b"mine"])
        assert log.refresh() == 5
        with pytest.raises(Unavailable, match=rf"another process \(stockledger pid {os.getpid()} .*session \d+ from a local socket"):
            log.append(sample.ledger, ["t"], [b"mine"])
    sample.append(log, 2)
    assert log.check().size == 7


def test_a_writer_that_was_killed_leaves_the_lead_at_once(url):
    program = "import os, sys\nfrom ledger.log.store import open_log\nlog = open_log(sys.argv[1])\nprint('leads', flush=True)\ninput()\n"
    with subprocess.Popen([sys.executable, "-c", program, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as leader:
        assert leader.stdout.readline() == b"leads\n"
        with pytest.raises(Unavailable, match=f"stockledger pid {leader.pid} "):
            open_log(url)
        leader.kill()
        leader.wait()
        taken = threading.Event()
        while not taken.is_set():
            with contextlib.suppress(Unavailable), open_log(url):
                taken.set()


def test_a_session_of_our_own_that_lingers_is_ended(log, url, sample):
    """As when the network drops a connection, and the server has not noticed: it still holds the lock."""
    sample.append(log, 3)
    lingering, log.backend._writer = log.backend._writer, None
    sample.append(log, 3)
    with pytest.raises(psycopg.OperationalError, match="terminating connection"):
        lingering.execute("SELECT 1")
    lingering.close()
    assert log.check().size == 6


def test_versions_without_gaps(log, sample):
    sample.append(log, 3)
    for first_version in (3, 5):
        with pytest.raises(Unavailable, match="taken or would leave a gap: its last is 3"):
            log.backend.append(sample.ledger, first_version, ["t"], [b"x"], list)
    with pytest.raises(Unavailable, match="of the ledger acme, not of other"):
        log.backend.append("other", 4, ["t"], [b"x"], list)


# A commit in the middle of which something breaks


@pytest.mark.parametrize("after", [False, True])
def test_a_connection_lost_at_commit(postgres, log, sample, after):
    sample.append(log, 250)
    at_commit(log, drop, after=after)
    if after:
        sample.append(log, 300)  # stored, and found to be ours
    else:
        with pytest.raises(Unavailable):
            sample.append(log, 300)
        assert log.size == 250
        sample.append(log, 300)
    assert log.size == 550
    assert log.check(topic_of=sample.topic_of).size == 550


def drop(connection):
    """Cut the connection, as a network does."""
    with socket.socket(fileno=os.dup(connection.fileno())) as cut:
        cut.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(psycopg.Error):
        connection.execute("SELECT 1")
    raise psycopg.OperationalError("the connection is cut")


@pytest.mark.parametrize("after", [False, True])
def test_a_server_process_killed_at_commit_and_the_server_coming_back(log, sample, after):
    """SIGKILL of one of its processes makes PostgreSQL restart all of them and recover from its log."""
    sample.append(log, 250)

    def kill(connection):
        os.kill(connection.info.backend_pid, signal.SIGKILL)
        if after:
            raise psycopg.OperationalError("the answer is lost")

    at_commit(log, kill, after=after)
    with contextlib.suppress(Unavailable, AppendDoubtful):
        sample.append(log, 300)
    for _ in range(3000):  # a busy machine takes its time to recover
        with contextlib.suppress(LedgerError, AppendDoubtful):
            log.resolve()
            break
        threading.Event().wait(0.01)
    assert log.size in ((550,) if after else (250, 550))
    with contextlib.suppress(LedgerError):  # the connection of a reader was cut as well
        log.entry(0)
    sample.append(log, 600 - log.size)
    assert log.check(topic_of=sample.topic_of).size == 600


def test_a_wait_for_a_standby_that_was_cancelled_is_no_commit(postgres, log, sample):
    """PostgreSQL then commits all the same, with a warning; the batch is ours only once a later commit was waited for."""
    sample.append(log, 3)
    session = log.backend.writer.info.backend_pid
    postgres.run("ALTER SYSTEM SET synchronous_standby_names = 'away'")
    try:
        postgres.run("SELECT pg_reload_conf()")
        cancelled = threading.Event()

        def cancel():
            # First the commit's own wait, then those of the barrier that looks for it.
            while not cancelled.wait(0.02):
                with psycopg.connect(postgres.uri, autocommit=True, options="-c synchronous_commit=local") as other:
                    other.execute(
                        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'", (session,)
                    )

        canceller = threading.Thread(target=cancel)
        canceller.start()
        try:
            with pytest.raises(AppendDoubtful, match="canceling wait for synchronous replication"):
                sample.append(log, 1000, batch=1)  # the reload takes a moment
        finally:
            cancelled.set()
            canceller.join()
        size = log.size
        with pytest.raises(AppendDoubtful):
            sample.append(log, 1)
    finally:
        with psycopg.connect(postgres.uri, autocommit=True, options="-c synchronous_commit=local") as other:
            other.execute("ALTER SYSTEM RESET synchronous_standby_names")
            other.execute("SELECT pg_reload_conf()")
    assert log.resolve() is True
    assert log.size == size + 1
    sample.append(log, 1)
    assert log.check().size == size + 2


def test_the_lock_of_another_transaction_makes_the_store_unavailable(postgres, log, url, sample):
    sample.append(log, 3)
    log.backend.writer.execute("SET lock_timeout = '20ms'")
    with psycopg.connect(parse_url(url).connection) as other:
        other.execute("LOCK TABLE ledger_acme.stored_events IN EXCLUSIVE MODE")
        with pytest.raises(Unavailable, match="lock timeout"):
            sample.append(log, 1)
    sample.append(log, 1)
    assert log.check().size == 4


def test_rows_that_were_lost_are_named(postgres, log, url, sample):
    sample.append(log, 700)
    with open_log(url, read_only=True) as reader:
        postgres.run("DELETE FROM ledger_acme.stored_events WHERE originator_version > 600", url)
        with pytest.raises(DataLoss, match="had 700 entries and has 600"):
            reader.refresh()


def test_two_writers_without_a_lock_cannot_both_win(url):
    with open_log(url) as first, _open_without_lock(url) as second:
        wins, failures = [], []

        def write(log, name):
            for number in range(60):
                try:
                    log.append("acme", ["t"], [b"%s %d" % (name, number)])
                    wins.append(b"%s %d" % (name, number))
                except (AppendConflict, Unavailable):
                    log.refresh()
                except BaseException as error:
                    failures.append(error)
                    raise

        threads = [threading.Thread(target=write, args=pair) for pair in ((first, b"a"), (second, b"b"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert sorted(entry for _, _, entry in first.read(0, first.refresh())) == sorted(wins)


# The whole ledger on it


def test_a_ledger_takes_its_name_from_the_url(url):
    with Ledger.open(url) as books:
        assert books.ledger_id == "acme"
    with Ledger.open(url, read_only=True) as books:
        assert books.size == 1


def test_the_module_says_which_server_it_needs(monkeypatch, url):
    monkeypatch.setattr(postgres_backend, "SERVER_VERSION_MIN", 990_000)
    with pytest.raises(Unavailable, match="at least 99 is needed"):
        open_log(url)
