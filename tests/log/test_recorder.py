"""The recorder proves itself with the abstract test cases that the eventsourcing library ships."""

from __future__ import annotations

import threading
from uuid import uuid4

import pytest
from eventsourcing.persistence import IntegrityError, StoredEvent

from ledger.log.merkle import Tile
from ledger.log.sqlite_backend import DurableDatastore, LedgerRecorder
from ledger.log.store import open_log

pytest.importorskip("Crypto", reason="the library's test cases import its cipher: pip install pycryptodome")
from eventsourcing.tests.persistence import (
    ApplicationRecorderTestCase,
    NonInterleavingNotificationIDsBaseCase,
)


class TextIds:
    def new_originator_id(self):
        return str(uuid4())

    def create_recorder(self):
        recorder = LedgerRecorder(DurableDatastore(f"file:{self.folder}/{uuid4()}.db?mode=rwc"))
        self.addCleanup(recorder.datastore.close)
        recorder.create_table()
        return recorder

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = tmp_path


class TestLedgerRecorder(TextIds, ApplicationRecorderTestCase):
    def test_concurrent_throughput(self):
        """Left out: it prints a figure and asserts nothing."""


class TestLedgerRecorderNotificationIds(TextIds, NonInterleavingNotificationIDsBaseCase):
    pass


class InPostgres:
    """In a database of its own; `create_table` makes the tables, but not the schema."""

    def new_originator_id(self):
        return str(uuid4())

    def create_recorder(self):
        postgres_backend = pytest.importorskip("ledger.log.postgres_backend")
        recorder = postgres_backend.LedgerRecorder(postgres_backend.LedgerDatastore(self.connection, "public"))
        self.addCleanup(recorder.datastore.close)
        recorder.create_table()
        return recorder

    @pytest.fixture(autouse=True)
    def _connection(self, postgres):
        self.connection = postgres.new_url().rpartition("ledger=")[0].rstrip("&?")


class TestPostgresRecorder(InPostgres, ApplicationRecorderTestCase):
    def test_concurrent_throughput(self):
        """Left out: it prints a figure and asserts nothing."""


class TestPostgresRecorderNotificationIds(InPostgres, NonInterleavingNotificationIDsBaseCase):
    pass


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    return f"sqlite:///{tmp_path}/books.db" if request.param == "sqlite" else request.getfixturevalue("postgres").new_url()


def test_the_librarys_interface_reads_our_log(log, sample):
    sample.append(log, 600)
    recorder = log.backend.recorder
    events = recorder.select_events(sample.ledger, gt=255, lte=257)
    assert [(event.originator_version, event.topic, event.state) for event in events] == [
        (version, sample.topic(version - 1), sample.entry(version - 1)) for version in (256, 257)
    ]
    assert [event.id for event in recorder.select_notifications(start=599, limit=10)] == [599, 600]
    assert recorder.max_notification_id() == 600


def test_what_the_library_inserts_our_log_reads(url, log, sample):
    sample.append(log, 255)
    growth = log.tree.extend([bytes(32)])
    event = StoredEvent(originator_id=sample.ledger, originator_version=256, topic="t", state=b"x")
    hashes = growth.tiles[0].hashes
    assert list(log.backend.recorder.insert_events([event], hash_tiles=[Tile(0, 0, hashes)])) == [256]
    with open_log(url, read_only=True) as reader:
        assert (reader.size, reader.entry(255)) == (256, b"x")
    with pytest.raises(IntegrityError):
        log.backend.recorder.insert_events([event])


def test_a_pool_closes_no_connection_that_is_in_use(tmp_path):
    """The interpreter crashes when one thread closes a connection of sqlite3 on which another executes."""
    datastore = DurableDatastore(f"file:{tmp_path}/books.db?mode=rwc")
    in_use, may_end, seen = threading.Event(), threading.Event(), []

    def read():
        with datastore.transaction(commit=False) as cursor:
            in_use.set()
            may_end.wait(10)
            cursor.execute("SELECT 1")
            seen.append(tuple(cursor.fetchone()))

    reader = threading.Thread(target=read)
    reader.start()
    assert in_use.wait(10)
    threading.Timer(0.05, may_end.set).start()
    datastore.close()
    reader.join()
    assert seen == [(1,)]
