"""A store that is away or damaged: callers learn what to do, and nothing about where it is; the operator's log has the rest."""

from __future__ import annotations

import contextlib
import logging
import sqlite3

import grpc
import pytest
from grpc_server_thread import Client, Refused, RunningServer, market, request_id

from ledger.errors import refusal
from ledger.leadership import Leadership
from services.grpc_server.errors import status_of
from services.grpc_server.group_commit import stopping
from stockledger.v1.accounts_pb2 import GetAccountRequest
from stockledger.v1.audit_pb2 import StreamEntriesRequest
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.transfers_pb2 import StreamTransfersRequest, TransferUnitsRequest

TRANSFER, STREAM, GET = "TransferService/TransferUnits", "TransferService/StreamTransfers", "AccountService/GetAccount"
HOUSE = GetAccountRequest(account="book:house")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "secret-place"
    folder.mkdir()
    return folder


@pytest.fixture
def server(folder):
    with market(f"sqlite:///{folder}/secret-name.db") as books, RunningServer(books, local_principals=True) as running:
        yield running


def transfer(**changes):
    fields = {"instrument": "USDC", "source": "book:broker-a/alice", "destination": "book:broker-a/bob", "units": 5}
    return TransferUnitsRequest(**(fields | changes))


def texts_of(refused):
    return f"{refused.message} {refused.info} {refused.bad_request}"


def told(caplog):
    """What the log says of refusals, in full."""
    return [record.explanation for record in caplog.records if getattr(record, "explanation", None)]


@contextlib.contextmanager
def read_only(books):
    books.log.backend.writer.execute("PRAGMA query_only = ON")
    yield
    books.log.backend.writer.execute("PRAGMA query_only = OFF")


def test_a_store_that_cannot_be_written_is_told_without_where_it_is(server, caplog):
    caplog.set_level(logging.INFO, "stockledger")
    with Client(server.address, "broker-a") as client, read_only(server.books):
        refused = client.refused(TRANSFER, transfer())
    assert (refused.code, refused.info.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert "secret" not in texts_of(refused)
    assert "store" not in refused.info.metadata
    assert refused.retry.HasField("retry_delay")
    assert "secret-place/secret-name.db" in told(caplog)[0]
    away = [record for record in caplog.records if record.getMessage() == "store away"]
    assert [(record.levelname, "secret-name.db" in record.explanation) for record in away] == [("WARNING", True)]


def test_who_may_nothing_learns_nothing_of_the_store(server, monkeypatch):
    monkeypatch.setattr(Leadership, "is_late", True)
    with Client(server.address, "nobody-1") as client:
        refused = client.refused(GET, HOUSE)
    assert refused.info.reason == "STORE_UNAVAILABLE"
    assert "secret" not in texts_of(refused)


def test_a_missing_entry_is_told_by_its_index_alone(server, folder, caplog):
    with Client(server.address, "operator-1") as client:
        mine = transfer(request_id=request_id())
        index = client.call(TRANSFER, mine).booking.index
        with contextlib.closing(sqlite3.connect(folder / "secret-name.db", isolation_level=None)) as connection:
            connection.execute("DELETE FROM stored_events WHERE originator_version = ?", (index + 1,))
        read = client.refused("AuditService/StreamEntries", StreamEntriesRequest(start_index=index, stop_when_caught_up=True))
        repeated = client.refused(TRANSFER, mine)
    for refused in (read, repeated):
        assert (refused.code, refused.info.reason) == (grpc.StatusCode.DATA_LOSS, "LOG_CORRUPT")
        assert "secret" not in texts_of(refused)
        assert dict(refused.info.metadata) == {"index": str(index)}
    assert ["secret-name.db" in text for text in told(caplog)] == [True, True]


@pytest.mark.parametrize("reason", ["STORE_UNAVAILABLE", "LOG_CORRUPT", "CHECKPOINT_INCONSISTENT", "LEDGER_NOT_FOUND"])
def test_a_refusal_for_the_store_keeps_what_a_program_acts_on_and_drops_the_rest(reason):
    where = "postgresql://ops@db.internal/books?ledger=acme"
    names = {"store": where, "expected": "acme", "found": where, "leader": "10.0.0.7:8080", "index": 17, "size": 400, "retry_ms": 700}
    error = refusal(Reason.Value(f"REASON_{reason}"), f"{where} holds the ledger acme, not {where}: KeyError 'book:house'", **names)
    status = status_of(error)
    data = status.SerializeToString()
    for word in (b"postgresql", b"db.internal", b"acme", b"10.0.0.7", b"book:house"):
        assert word not in data
    refused = Refused(_Call(status))
    assert refused.info.reason == reason
    assert dict(refused.info.metadata) == {"index": "17", "size": "400", "retry_ms": "700"}
    assert refused.retry.retry_delay.ToMilliseconds() == 700
    assert status.message
    assert where in error.message


def test_a_server_that_stops_says_so():
    assert "stopping" in status_of(stopping()).message


class _Call:
    """What a client's call tells of a status."""

    def __init__(self, status):
        self.code = lambda: status.code
        self.details = lambda: status.message
        self.trailing_metadata = lambda: (("grpc-status-details-bin", status.SerializeToString()),)


def test_refusals_within_a_stream_say_no_more(server, caplog, monkeypatch):
    where = server.books.log.url

    def broken(*_):
        raise refusal(Reason.REASON_LOG_CORRUPT, f"{where}: entry 3 is missing", store=where, index=3)

    monkeypatch.setattr("ledger.batch.Batch._repeat", broken)
    mine = transfer(request_id=request_id())
    message = StreamTransfersRequest(transfers=[mine, mine, mine])
    with Client(server.address, "operator-1") as client:
        answers = list(client.call(STREAM, iter([message])))
    refusals = [refused for answer in answers for refused in answer.refusals]
    assert [refused.reason for refused in refusals] == ["LOG_CORRUPT"] * 2
    assert "secret" not in str(refusals)
    assert dict(refusals[0].metadata) == {"index": "3"}
    assert [(record.principal, record.explanation) for record in caplog.records if hasattr(record, "explanation")] == [
        ("operator-1", f"{where}: entry 3 is missing")
    ]
