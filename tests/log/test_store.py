"""The log in a store: what is appended, who may append, and what happens when the store fails."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import BeyondLog, DataLoss, InvalidRequest, NotFound, Unavailable
from ledger.log.checkpoint import Signer, sign_checkpoint
from ledger.log.log import AppendConflict, AppendDoubtful, leaf_index, leaf_version
from ledger.log.merkle import EMPTY_ROOT, leaf_hash, verify_inclusion
from ledger.log.store import _open_without_lock, open_log, refuse_unsafe_settings


@pytest.fixture
def sqlite_url(tmp_path):
    return f"sqlite:///{tmp_path}/books.db"


@pytest.fixture
def sqlite_log(sqlite_url):
    with open_log(sqlite_url) as opened:
        yield opened


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, sqlite_url):
    return sqlite_url if request.param == "sqlite" else request.getfixturevalue("postgres").new_url()


@pytest.fixture(params=["sqlite", "memory", "postgresql"])
def any_url(request, sqlite_url):
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").new_url()
    return sqlite_url if request.param == "sqlite" else "sqlite:///:memory:"


def test_an_empty_log(any_url):
    with open_log(any_url) as log:
        assert (log.ledger_id, log.size, log.tree.root()) == (None, 0, EMPTY_ROOT)
        assert list(log.read(0, 0)) == []
        assert log.check().size == 0
        log.append("acme", [], [])
        assert log.size == 0


def test_versions_count_from_one_and_leaves_from_zero(any_url):
    assert (leaf_index(1), leaf_version(0)) == (0, 1)
    with open_log(any_url) as log:
        log.append("acme", ["t", "u"], [b"first", b""])
        log.append("acme", ["v"], [b"third"])
        assert list(log.read(0, 3)) == [(0, "t", b"first"), (1, "u", b""), (2, "v", b"third")]
        assert log.backend.rows("acme", 1, 3) == [(1, "t", b"first"), (2, "u", b""), (3, "v", b"third")]
        assert log.entry(2) == b"third"
        verify_inclusion(leaf_hash(b"third"), 2, 3, log.tree.inclusion_proof(2, 3), log.tree.root())


@given(st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=300), max_size=6), st.data())
def test_a_log_is_a_list(tmp_path_factory, batches, data):
    url = f"sqlite:///{tmp_path_factory.mktemp('log')}/books.db"
    model: list[bytes] = []
    for batch in batches:
        with open_log(url, ledger_id="acme") as log:
            assert log.size == len(model)
            log.append("acme", ["t"] * len(batch), batch)
            model += batch
            start = data.draw(st.integers(0, len(model)))
            stop = data.draw(st.integers(start, len(model)))
            expected = [(index, "t", model[index]) for index in range(start, stop)]
            assert list(log.read(start, stop)) == list(log.read_checked(start, stop)) == expected
            root = log.tree.root()
    with open_log(url) as log:
        assert log.check().size == len(model)
        if batches:
            assert log.tree.root() == root


def test_reopening_gives_the_same_tree(url, sample, signer):
    roots = {}
    for size in (1, 255, 256, 257, 511, 512, 1300):
        with open_log(url) as log:
            sample.append(log, size - log.size, batch=100)
            sample.checkpoint(log, signer)
            roots[size] = log.tree.root()
    with open_log(url) as log:
        assert {size: log.tree.root_at(size) for size in roots} == roots
        assert [size for size, _ in log.checkpoints()] == sorted(roots, reverse=True)
        assert [size for size, _ in log.checkpoints(2)] == [1300, 512]
        report = log.check(topic_of=sample.topic_of, keys=[signer.verifier_key])
        assert (report.size, report.root, report.checkpoint_count) == (1300, roots[1300], 7)


def test_progress_is_reported(log, sample):
    sample.append(log, 600)
    seen = []
    log.check(lambda done, total: seen.append((done, total)))
    assert seen == [(256, 600), (512, 600), (600, 600)]


def test_bounds(log, sample):
    sample.append(log, 3)
    with pytest.raises(BeyondLog) as caught:
        list(log.read(0, 4))
    assert caught.value.metadata == {"index": "3", "size": "3"}
    with pytest.raises(BeyondLog):
        log.entry(3)
    with pytest.raises(AssertionError):
        log.append(sample.ledger, ["t"], [bytes(65_536)])
    with pytest.raises(AssertionError):
        log.append(sample.ledger, ["t"], [])
    with pytest.raises(AssertionError):
        log.append("another", ["t"], [b"x"])
    log.append(sample.ledger, ["t"], [bytes(65_535)])
    assert len(log.entry(3)) == 65_535


def test_what_is_appended_survives_the_death_of_the_process(url, sample):
    program = (
        "import os, sys\n"
        "from ledger.log.store import open_log\n"
        "log = open_log(sys.argv[1])\n"
        "log.append('acme', ['t'] * 300, [b'%d' % n for n in range(300)])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, url], check=False)
    assert done.returncode == -9
    with sample.open_when_left(url) as log:
        assert log.size == 300
        assert log.check().size == 300


def test_every_connection_flushes_at_commit(sqlite_log):
    for connection in (sqlite_log.backend.writer, sqlite_log.backend.recorder.datastore.pool._create_connection()._sqlite_conn):
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2
        connection is sqlite_log.backend.writer or connection.close()
    assert sqlite_log.backend.writer.execute("PRAGMA busy_timeout").fetchone()[0] == 5000


# Who may open it


def test_a_second_writer_is_refused_and_a_reader_is_not(log, url, sample):
    sample.append(log, 10)
    with pytest.raises(Unavailable, match=rf"pid {os.getpid()}\b.*\) writes this ledger; open it read-only"):
        open_log(url)
    with open_log(url, read_only=True) as reader:
        assert reader.size == 10
        with pytest.raises(AssertionError):
            reader.append(sample.ledger, ["t"], [b"x"])


def test_the_lock_ends_with_the_writer(url):
    for _ in range(3):
        open_log(url).close()


def test_the_primary_key_alone_refuses_a_second_writer(url, sample):
    with open_log(url) as first, _open_without_lock(url) as second:
        sample.append(first, 5)
        second.refresh()
        sample.append(first, 3)
        with pytest.raises(AppendConflict) as caught:
            second.append(sample.ledger, ["t"], [b"mine"])
        assert caught.value.first_index == 5
        assert second.refresh() == 8
        second.append(sample.ledger, ["t"], [b"mine"])
        assert first.refresh() == 9
        assert first.check().root == second.tree.root()


def test_two_ledgers_cannot_begin_in_one_store(url):
    with open_log(url) as first, _open_without_lock(url) as second:
        first.append("acme", ["t"], [b"x"])
        with pytest.raises(AppendConflict) as caught:
            second.append("other", ["t"], [b"x"])
        assert caught.value.first_index == 0
        assert second.refresh() == 1
        assert second.ledger_id == "acme"


def test_a_partly_taken_batch_is_a_conflict_at_the_first_difference(url):
    with open_log(url) as first, _open_without_lock(url) as second:
        first.append("acme", ["t", "t"], [b"a", b"b"])
        with pytest.raises(AppendConflict) as caught:
            second.append("acme", ["t", "t", "t"], [b"a", b"b", b"c"])
        assert caught.value.first_index == 2
        with pytest.raises(AppendConflict) as caught:
            second.append("acme", ["t", "u"], [b"a", b"b"])
        assert caught.value.first_index == 1


def test_identical_bytes_are_ours(url):
    """As after a COMMIT whose reply was lost: the insert fails, and the rows are there."""
    with open_log(url) as first, _open_without_lock(url) as second:
        batch = ["t"] * 300, [b"%d" % index for index in range(300)]
        first.append("acme", *batch)
        second.append("acme", *batch)
        assert (second.size, second.tree.root()) == (300, first.tree.root())
        second.append("acme", ["t"], [b"next"])
        assert first.refresh() == 301


def test_another_ledger_is_refused(url, sample):
    with open_log(url, ledger_id="acme") as log:
        log.append("acme", ["t"], [b"x"])
    for read_only in (False, True):
        with pytest.raises(NotFound) as caught:
            open_log(url, read_only=read_only, ledger_id="other")
        assert caught.value.reason_name == "LEDGER_NOT_FOUND"
        assert caught.value.metadata == {"expected": "other", "found": "acme"}
    open_log(url, ledger_id="acme").close()


@pytest.mark.parametrize(
    "bad",
    ["books.db", "mysql://x/y", "nats://x", "sqlite:", "sqlite://", "sqlite:///", "sqlite://host/x", "sqlite:///a?b=c"],
)
def test_a_url_that_is_not_understood_is_refused(bad):
    with pytest.raises(InvalidRequest, match="sqlite:///") as caught:
        open_log(bad)
    assert caught.value.reason_name == "FIELD_MALFORMED"
    assert caught.value.metadata["value"] == bad


def test_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    open_log("sqlite:///books.db").close()
    assert (tmp_path / "books.db").exists()


def test_a_path_with_odd_characters(tmp_path):
    url = f"sqlite:///{tmp_path}/a b%41é.db"
    with open_log(url) as log:
        log.append("acme", ["t"], [b"x"])
    assert (tmp_path / "a b%41é.db").exists()
    with open_log(url, read_only=True) as log:
        assert log.size == 1


def test_nothing_to_read(sqlite_url, tmp_path):
    with pytest.raises(NotFound, match="no such file"):
        open_log(sqlite_url, read_only=True)
    (tmp_path / "books.db").touch()
    with pytest.raises(NotFound, match="empty"):
        open_log(sqlite_url, read_only=True)
    with pytest.raises(InvalidRequest):
        open_log("sqlite:///:memory:", read_only=True)
    with pytest.raises(Unavailable, match="folder does not exist"):
        open_log(f"sqlite:///{tmp_path}/none/books.db")


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "text").write_text("this is not a database, whatever its name says\n" * 50)
    with contextlib.closing(sqlite3.connect(tmp_path / "other")) as other:
        other.execute("CREATE TABLE stored_events (x)")
    for read_only in (False, True):
        with pytest.raises(DataLoss, match="not an SQLite file"):
            open_log(f"sqlite:///{tmp_path}/text", read_only=read_only)
        with pytest.raises(NotFound, match="another application"):
            open_log(f"sqlite:///{tmp_path}/other", read_only=read_only)
    open_log(f"sqlite:///{tmp_path}/ours").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "ours")) as other:
        other.execute("PRAGMA user_version = 2")
    with pytest.raises(NotFound, match="store version 2"):
        open_log(f"sqlite:///{tmp_path}/ours")


@pytest.fixture
def unprivileged():
    """A folder, and a user to whom its permissions apply; root passes them all."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    with contextlib.ExitStack() as stack:
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
            stack.callback(os.seteuid, 0)
            os.seteuid(65534)
        yield folder
        folder.chmod(0o755)


def test_a_read_only_file_is_refused_to_a_writer(unprivileged, sample):
    url = f"sqlite:///{unprivileged}/books.db"
    with open_log(url) as log:
        sample.append(log, 10)
    (unprivileged / "books.db").chmod(0o444)
    with pytest.raises(Unavailable, match="read-only"):
        open_log(url)
    with open_log(url, read_only=True) as log:
        assert log.check().size == 10


def test_a_read_only_folder_is_refused_to_a_writer(unprivileged, sample):
    url = f"sqlite:///{unprivileged}/books.db"
    with open_log(url) as log:
        sample.append(log, 10)
    (unprivileged / "books.db.lock").unlink()
    unprivileged.chmod(0o555)
    with pytest.raises(Unavailable, match="Permission denied"):
        open_log(url)
    with open_log(url, read_only=True) as log:
        assert log.check().size == 10


# What happens when the store fails


def test_a_full_disk_stores_nothing_and_the_log_goes_on(sqlite_log, sample):
    sample.append(sqlite_log, 300)
    root = sqlite_log.tree.root()
    pages = sqlite_log.backend.writer.execute("PRAGMA page_count").fetchone()[0]
    sqlite_log.backend.writer.execute(f"PRAGMA max_page_count = {pages + 5}")
    with pytest.raises(Unavailable, match="the disk is full"):
        sample.append(sqlite_log, 1000)
    assert (sqlite_log.size, sqlite_log.tree.root()) == (300, root)
    sqlite_log.backend.writer.execute("PRAGMA max_page_count = 1000000")
    sample.append(sqlite_log, 1000)
    assert sqlite_log.check().size == 1300


def test_another_transaction_makes_the_store_unavailable(sqlite_log, sample, tmp_path):
    sample.append(sqlite_log, 3)
    sqlite_log.backend.writer.execute("PRAGMA busy_timeout = 10")
    with contextlib.closing(sqlite3.connect(tmp_path / "books.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked by another process' transaction"):
            sample.append(sqlite_log, 1)
        other.execute("ROLLBACK")
    sample.append(sqlite_log, 1)
    assert sqlite_log.check().size == 4


def test_a_store_that_cannot_be_read_either_leaves_a_doubt(sqlite_url, sample, tmp_path):
    with open_log(sqlite_url) as log:
        sample.append(log, 300)
        with contextlib.closing(sqlite3.connect(tmp_path / "books.db", isolation_level=None)) as other:
            other.execute("ALTER TABLE stored_events RENAME TO away")
            with pytest.raises(AppendDoubtful):
                sample.append(log, 5)
            with pytest.raises(AppendDoubtful):
                sample.append(log, 5)
            with pytest.raises(AppendDoubtful):
                log.resolve()
            assert log.size == 300
            other.execute("ALTER TABLE away RENAME TO stored_events")
        assert log.resolve() is False
        assert log.resolve() is True  # nothing is in doubt any more
        sample.append(log, 5)
        assert list(log.read_checked(300, 305))[4][2] == sample.entry(304)


def test_an_append_interrupted_after_its_commit_is_settled(url, sample):
    with open_log(url) as log:
        sample.append(log, 3)

        class Interrupted:
            def __getattr__(self, name):
                return getattr(backend, name)

            def append(self, *batch):
                backend.append(*batch)
                raise KeyboardInterrupt

        backend = log.backend
        log.backend = Interrupted()
        with pytest.raises(KeyboardInterrupt):
            sample.append(log, 300)
        log.backend = backend
        assert log.size == 3
        with pytest.raises(AppendDoubtful):
            sample.append(log, 1)
        assert log.resolve() is True
        assert log.size == 303
        assert log.check().size == 303


def test_a_closed_log_is_unavailable(url, sample):
    log = open_log(url)
    sample.append(log, 3)
    log.close()
    log.close()
    with pytest.raises(Unavailable):
        log.entry(0)
    with pytest.raises((Unavailable, AppendDoubtful)):
        sample.append(log, 1)


# Readers


@pytest.mark.parametrize("moved", ["-rowid", "rowid + 1000 * (rowid > 100)"])
def test_rows_that_stand_elsewhere_are_read_all_the_same(sqlite_url, sample, moved):
    """As a copy of the table may leave them: entries are read by where they stand, and by their key where they do not stand there."""
    with open_log(sqlite_url) as log:
        sample.append(log, 300)
        pages = list(log.read_pages_checked(0, 300))
        assert sum(map(len, pages)) == 300
    with contextlib.closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
        connection.execute(f"UPDATE stored_events SET rowid = {moved}")
    with open_log(sqlite_url, read_only=True) as log:
        assert list(log.read_pages_checked(0, 300)) == pages


def test_a_reader_follows(log, url, sample, signer):
    with open_log(url, read_only=True) as reader:
        for count in (1, 254, 1, 1, 700, 3):
            sample.append(log, count)
            sample.checkpoint(log, signer)
            assert reader.refresh() == log.size
            assert reader.tree.root() == log.tree.root()
            assert reader.check().size == log.size
        assert list(reader.read(0, reader.size)) == list(log.read(0, log.size))


def test_a_reader_far_behind_takes_the_tiles(log, url, sample, monkeypatch):
    monkeypatch.setattr("ledger.log.log.RELOAD_ENTRIES", 300)
    sample.append(log, 100)
    with open_log(url, read_only=True) as reader:
        sample.append(log, 1000)
        assert reader.refresh() == 1100
        assert reader.tree.root() == log.tree.root()


def test_a_reader_refuses_a_log_that_was_rewritten(sqlite_url, sample, tmp_path):
    with open_log(sqlite_url) as log:
        sample.append(log, 700)
    with open_log(sqlite_url, read_only=True) as reader:
        with contextlib.closing(sqlite3.connect(tmp_path / "books.db", isolation_level=None)) as other:
            other.execute("DELETE FROM stored_events WHERE originator_version > 600")
        with pytest.raises(DataLoss, match="had 700 entries and has 600"):
            reader.refresh()


def test_readers_in_many_threads(log, sample):
    sample.append(log, 600)
    expected = list(log.read(0, 600))
    failures = []

    def read() -> None:
        for _ in range(20):
            if list(log.read_checked(0, 600)) != expected:
                failures.append("read")
            size = log.size
            verify_inclusion(leaf_hash(log.entry(599)), 599, size, log.tree.inclusion_proof(599, size), log.tree.root_at(size))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        sample.append(log, 20)
    for thread in threads:
        thread.join()
    assert failures == []
    assert log.check().size == 1600


# Checkpoints


def test_checkpoints_that_are_not_of_this_tree_are_refused(log, sample, signer):
    sample.append(log, 300)
    sample.checkpoint(log, signer)
    wrong = sign_checkpoint(signer.name, 300, bytes(32), signer)
    with pytest.raises(DataLoss) as caught:
        log.save_checkpoint(300, wrong)
    assert caught.value.reason_name == "CHECKPOINT_INCONSISTENT"
    with pytest.raises(BeyondLog):
        log.save_checkpoint(301, sign_checkpoint(signer.name, 301, bytes(32), signer))
    with pytest.raises(AssertionError):
        log.save_checkpoint(299, wrong)
    with pytest.raises(InvalidRequest):
        log.save_checkpoint(300, "nonsense")


def test_a_checkpoint_may_gain_signatures_and_may_come_late(log, sample, signer):
    sample.append(log, 300)
    text = sample.checkpoint(log, signer)
    body = text.split("\n\n")[0] + "\n"
    log.save_checkpoint(300, text + Signer.generate("witness").sign(body))
    log.save_checkpoint(100, sign_checkpoint(signer.name, 100, log.tree.root_at(100), signer))
    assert [size for size, _ in log.checkpoints()] == [300, 100]
    assert log.check(keys=[signer.verifier_key]).checkpoint_count == 2


def test_unsafe_settings_are_refused():
    refuse_unsafe_settings({"POSTGRES_ENABLE_DB_FUNCTIONS": "n", "ORIGINATOR_ID_TYPE": "text", "PATH": "y"})
    for name, value in [
        ("POSTGRES_ENABLE_DB_FUNCTIONS", "y"),
        ("LEDGER_POSTGRES_ENABLE_DB_FUNCTIONS", " TRUE "),
        ("POSTGRES_ENABLE_DB_FUNCTIONS", "1"),
        ("ORIGINATOR_ID_TYPE", "uuid"),
    ]:
        with pytest.raises(InvalidRequest) as caught:
            refuse_unsafe_settings({name: value})
        assert caught.value.metadata["field"] == name
