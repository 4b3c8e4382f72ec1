"""Limits, deadlines, stopping, the log and the figures; and `stockledger serve` as a process."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_server_thread import Client, Refused, RunningServer, give, market, request_id

from ledger import Ledger
from services.cli.arguments import build_parser
from services.cli.stores import settings_of
from services.grpc_server.limits import Limits, TokenBucket
from services.grpc_server.settings import ServerSettings
from services.observability import JsonFormatter
from services.settings import SettingsError
from stockledger.v1.accounts_pb2 import GetAccountRequest
from stockledger.v1.audit_pb2 import StreamEntriesRequest
from stockledger.v1.common_pb2 import LegColumns
from stockledger.v1.transfers_pb2 import StreamTransfersRequest, TransferBatchRequest, TransferUnitsRequest

TRANSFER, GET = "TransferService/TransferUnits", "AccountService/GetAccount"
HOUSE = GetAccountRequest(account="book:house")


def transfer(units=1, **changes):
    fields = {"instrument": "AAPLx", "source": "book:broker-a/alice", "destination": "book:broker-a/bob", "units": units}
    return TransferUnitsRequest(**(fields | changes))


class Gated:
    """Holds the writer back until it is let go, to see what happens meanwhile."""

    def __init__(self, books):
        self.open = threading.Event()
        self.entered = threading.Event()
        self._append = books._log.append
        books._log.append = self.append

    def append(self, *arguments):
        self.entered.set()
        assert self.open.wait(20)
        return self._append(*arguments)


# ---- limits --------------------------------------------------------------------------------------------------------------------------


def test_a_message_that_is_too_large_is_refused_with_details():
    with market() as books, RunningServer(books, message_bytes_max=1_000) as server, Client(server.address) as client:
        assert client.reason(TRANSFER, transfer(reference="x" * 139)) == "OK"
        refused = client.refused(TRANSFER, transfer(reference="x" * 1_000))
        assert (refused.code.name, refused.info.reason, refused.info.metadata["limit"]) == (
            "RESOURCE_EXHAUSTED",
            "MESSAGE_TOO_LARGE",
            "1000",
        )
        assert not refused.retry.HasField("retry_delay")
        assert client.refused(TRANSFER, transfer(reference="x" * 1_000_000)).code.name == "RESOURCE_EXHAUSTED"
        assert client.reason(TRANSFER, transfer()) == "OK"


def test_a_batch_that_is_too_long_is_refused():
    with market() as books, RunningServer(books, batch_length_max=10) as server, Client(server.address) as client:
        for legs in ([LegColumns(instrument="AAPLx", sources=range(11))], [LegColumns(units=range(6)), LegColumns(units=range(6))]):
            refused = client.refused("TransferService/TransferBatch", TransferBatchRequest(legs=legs))
            assert (refused.code.name, refused.info.reason) == ("INVALID_ARGUMENT", "TOO_MANY_ITEMS")
        legs = [LegColumns(instrument="AAPLx", sources=range(10))]
        assert client.reason("TransferService/TransferBatch", TransferBatchRequest(legs=legs)) != "TOO_MANY_ITEMS"


def test_the_rate_of_one_principal_is_limited_and_others_are_not_affected():
    limits = {"principal_requests_per_second": 1, "principal_requests_burst": 5}
    with market() as books, RunningServer(books, local_principals=True, **limits) as server, Client(server.address, "auditor-1") as flood:
        reasons = [flood.reason(GET, HOUSE) for _ in range(8)]
        assert reasons[:5] == ["OK"] * 5
        assert set(reasons[5:]) == {"TOO_MANY_REQUESTS"}
        refused = flood.refused(GET, HOUSE)
        assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert 0 < refused.retry.retry_delay.ToMilliseconds() <= 1_001
        with Client(server.address, "worker-1") as other:
            assert other.reason(GET, HOUSE) == "OK"


def test_requests_in_flight_are_limited_for_each_principal():
    settings = {"local_principals": True, "principal_requests_in_flight_max": 3}
    with market() as books, RunningServer(books, **settings) as server, Client(server.address, "broker-a") as client:
        gate = Gated(books)
        calls = [client.multicallable(TRANSFER).future(transfer(), metadata=client.metadata) for _ in range(6)]
        assert gate.entered.wait(10)
        refused = [call for call in calls if call_ended(call)]
        assert [Refused(call.exception()).info.reason for call in refused] == ["TOO_MANY_REQUESTS"] * 3
        gate.open.set()
        assert sum(call.exception() is None for call in calls) == 3


def call_ended(call):
    try:
        return call.exception(timeout=0.5) is not None
    except grpc.FutureTimeoutError:
        return False


def test_streams_are_limited_for_each_principal():
    with market() as books, RunningServer(books, principal_streams_max=2) as server, Client(server.address) as client:
        streams = [client.call("AuditService/StreamEntries", StreamEntriesRequest()) for _ in range(2)]
        for stream in streams:
            next(stream)
        assert client.refused("AuditService/StreamEntries", StreamEntriesRequest()).info.reason == "TOO_MANY_REQUESTS"
        for stream in streams:
            stream.cancel()


def test_a_token_bucket_refills_at_its_rate():
    now = [0.0]
    bucket = TokenBucket(10, 2, lambda: now[0])
    assert [bucket.take(), bucket.take()] == [0, 0]
    assert bucket.take() == pytest.approx(0.1)
    now[0] = 0.1
    assert bucket.take() == 0
    now[0] = 100
    assert [bucket.take(), bucket.take()] == [0, 0]
    assert bucket.take() > 0


def test_memory_of_principals_is_bounded(monkeypatch):
    monkeypatch.setattr("services.grpc_server.limits.PRINCIPALS_REMEMBERED", 10)
    limits = Limits(ServerSettings())
    limits.enter("busy")
    for number in range(100):
        limits.enter(f"p{number}")
        limits.leave(f"p{number}")
    assert len(limits._loads) <= 10
    limits.leave("busy")


# ---- deadlines -----------------------------------------------------------------------------------------------------------------------


def test_a_command_whose_deadline_passed_before_it_was_decided_books_nothing():
    with market() as books, RunningServer(books) as server, Client(server.address) as client:
        gate = Gated(books)
        first = client.multicallable(TRANSFER).future(transfer())
        assert gate.entered.wait(10)
        late = transfer(request_id=request_id())
        assert client.refused(TRANSFER, late, timeout=0.2).code is grpc.StatusCode.DEADLINE_EXCEEDED
        gone = client.multicallable(TRANSFER).future(transfer(units=2))
        time.sleep(0.1)
        gone.cancel()
        time.sleep(0.1)
        gate.open.set()
        assert first.result(timeout=10).event.units == 1
        assert not client.call(TRANSFER, late).booking.repeated_answer
        assert books.holding("AAPLx", "book:broker-a/bob") == 1_000_002


def test_an_answer_that_came_too_late_is_there_for_the_asking():
    with market() as books, RunningServer(books) as server, Client(server.address) as client:
        gate = Gated(books)
        request = transfer(request_id=request_id())
        assert client.refused(TRANSFER, request, timeout=0.3).code is grpc.StatusCode.DEADLINE_EXCEEDED
        gate.open.set()
        assert client.call(TRANSFER, request).booking.repeated_answer
        assert books.holding("AAPLx", "book:broker-a/bob") == 1_000_001


# ---- stopping ------------------------------------------------------------------------------------------------------------------------


def test_a_stop_finishes_what_was_accepted():
    with market() as books, RunningServer(books) as server, Client(server.address) as client:
        stub = health_pb2_grpc.HealthStub(client.channel)
        watched = stub.Watch(health_pb2.HealthCheckRequest())
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        entries = client.call("AuditService/StreamEntries", StreamEntriesRequest(start_index=books.size), timeout=30)
        next(entries)
        gate = Gated(books)
        calls = [client.multicallable(TRANSFER).future(transfer()) for _ in range(20)]
        assert gate.entered.wait(10)
        time.sleep(0.2)
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            list(entries)
        ended = Refused(caught.value)
        assert (ended.code.name, ended.retry.HasField("retry_delay")) == ("UNAVAILABLE", True)
        gate.open.set()
        assert [call.result(timeout=10).event.units for call in calls] == [1] * 20
        watched.cancel()
        stopper.join(20)
        assert not stopper.is_alive()
        assert books.holding("AAPLx", "book:broker-a/bob") == 1_000_020
        assert client.refused(TRANSFER, transfer()).code is grpc.StatusCode.UNAVAILABLE


def test_a_stop_acknowledges_what_a_stream_has_sent():
    with market() as books, RunningServer(books) as server, Client(server.address) as client:
        outbox = threading.Event()

        def sent():
            yield StreamTransfersRequest(transfers=[transfer(request_id=request_id()) for _ in range(50)])
            outbox.wait(20)

        stream = client.call("TransferService/StreamTransfers", sent(), timeout=30)
        assert next(stream).acknowledged_count == 50
        server.stop()
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        outbox.set()


# ---- what is told --------------------------------------------------------------------------------------------------------------------


def test_the_log_is_json_and_carries_nothing_of_what_requests_say(monkeypatch):
    told = io.StringIO()
    handler = logging.StreamHandler(told)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("stockledger")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    logging.getLogger("stockledger.server").setLevel(logging.DEBUG)
    with market() as books, RunningServer(books) as server, Client(server.address) as client:
        client.call(TRANSFER, transfer(reference="rent of alice"))
        client.refused(TRANSFER, transfer(units=10**12, reference="rent of alice"))
        books.execute_group = lambda *_: 1 / 0
        fault = client.refused(TRANSFER, transfer(reference="rent of alice"))
    logging.getLogger("stockledger.server").setLevel(logging.NOTSET)
    lines = [json.loads(line) for line in told.getvalue().splitlines()]
    text = told.getvalue()
    assert "alice" not in text
    assert "AAPLx" not in text
    assert [line["reason"] for line in lines if line["event"] == "refused"] == ["UNITS_INSUFFICIENT", "INTERNAL"]
    found = next(line for line in lines if line["event"] == "fault")
    assert found["correlation_id"] == fault.info.metadata["correlation_id"]
    assert found["exception"] == "ZeroDivisionError"
    assert found["places"]


def test_the_log_says_who_was_refused_and_who_met_a_fault(caplog):
    """Once it is known who asks, and nothing else about anybody."""
    caplog.set_level(logging.DEBUG, "stockledger")
    with market() as books, RunningServer(books, local_principals=True, local_operator="", message_bytes_max=1_000) as server:
        with Client(server.address, "broker-a") as client:
            client.call(TRANSFER, transfer())
            client.refused(TRANSFER, transfer(source="book:house"))
            client.refused(GET, HOUSE)
            client.refused(TRANSFER, transfer(reference="x" * 1_000))
            with pytest.raises(grpc.RpcError):
                list(client.call("TransferService/StreamTransfers", iter([StreamTransfersRequest()])))
            client.refused("AuditService/StreamEntries", StreamEntriesRequest(start_index=10**9))
            books.execute_group = lambda *_: 1 / 0
            client.refused(TRANSFER, transfer())
        for principal in ("", "not a principal", "nobody-1"):
            with Client(server.address, principal) as client:
                client.refused(GET, HOUSE)
    lines = [record for record in caplog.records if record.getMessage() in ("refused", "fault")]
    told = [(record.getMessage(), getattr(record, "reason", ""), getattr(record, "principal", None)) for record in lines]
    assert told == [
        ("refused", "NOT_PERMITTED", "broker-a"),
        ("refused", "NOT_PERMITTED", "broker-a"),
        ("refused", "MESSAGE_TOO_LARGE", "broker-a"),
        ("refused", "FIELD_MISSING", "broker-a"),
        ("refused", "INDEX_BEYOND_LOG", "broker-a"),
        ("fault", "", "broker-a"),
        ("refused", "INTERNAL", "broker-a"),
        ("refused", "UNAUTHENTICATED", None),
        ("refused", "UNAUTHENTICATED", None),
        ("refused", "NOT_PERMITTED", "nobody-1"),
    ]
    assert not any("house" in JsonFormatter().format(record) for record in caplog.records)
    assert not any(hasattr(record, "principal") for record in caplog.records if record.getMessage() == "call")


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_figures_are_there_for_prometheus():
    port = free_port()
    with market() as books, RunningServer(books, metrics_port=port) as server, Client(server.address) as client:
        for _ in range(3):
            client.call(TRANSFER, transfer())
        client.refused(TRANSFER, transfer(units=0))
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
        assert f'stockledger_rpc_total{{code="OK",rpc="{TRANSFER}"}} 3.0' in text
        assert f'stockledger_rpc_total{{code="INVALID_ARGUMENT",rpc="{TRANSFER}"}} 1.0' in text
        assert f"stockledger_log_entries {float(books.size)}" in text


def test_the_size_of_the_log_is_told_before_anything_is_booked(tmp_path):
    store = f"sqlite:///{tmp_path}/books.db"
    with market(store) as books:
        size = books.size
    port = free_port()
    with Ledger.open(store) as books, RunningServer(books, metrics_port=port):
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
        assert f"stockledger_log_entries {float(size)}" in text


# ---- the command ---------------------------------------------------------------------------------------------------------------------


def test_every_setting_is_documented_and_has_a_flag():
    assert all(field.metadata["meaning"] for field in ServerSettings.__dataclass_fields__.values())
    text = "serve --address 127.0.0.1:9 --reflection false --operators a,b --reader-threads 2 --metrics-port 0"
    wanted = settings_of(build_parser().parse_args(text.split())).server
    assert (wanted.address, wanted.reflection, wanted.operators, wanted.reader_threads) == ("127.0.0.1:9", False, ("a", "b"), 2)
    assert (wanted.metrics_port, wanted.token_keys) == (0, "")
    for wrong in ("--reflection=perhaps", "--reader-threads=-1", "--reader-threads=two"):
        with pytest.raises(SettingsError):
            settings_of(build_parser().parse_args(["serve", wrong]))


def test_serve_over_a_store_with_no_place_for_a_snapshot_ends_well(postgres, tmp_path):
    store = postgres.new_url("market")
    with market(store) as books:
        size = books.size
    command = [sys.executable, "-m", "services.cli.main", "serve", "--store", store, "--address", "127.0.0.1:0"]
    for place in (None, tmp_path / "books.snapshot"):
        environment = os.environ if place is None else {**os.environ, "STOCKLEDGER_SNAPSHOT": str(place)}
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        try:
            assert next(line for line in process.stderr if line.startswith("stockledger serves"))
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0, process.stderr.read()
        finally:
            process.kill()
            process.stderr.close()
        assert place is None or place.is_file()
    with Ledger.open(store) as books:
        assert books.size == size


def test_serve_as_a_process_stops_on_sigterm_and_keeps_what_it_acknowledged(tmp_path):
    store = f"sqlite:///{tmp_path}/books.db"
    with market(store) as books:
        give(books, "AAPLx", "book:house", 1)
        size = books.size
    command = [sys.executable, "-m", "services.cli.main", "serve", "--store", store, "--address", "127.0.0.1:0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in process.stderr if line.startswith("stockledger serves"))
        with Client(f"localhost:{line.strip().rpartition(':')[2]}") as client:
            answer = client.call(GET, HOUSE)
            assert (answer.size, answer.account.holder) == (size, "house")
            halted = client.refused(TRANSFER, transfer())
            assert halted.info.reason == "UNITS_INSUFFICIENT"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.stderr.close()
    with Ledger.open(store) as books:
        assert books.size == size
        assert books.opened_from.startswith("a snapshot")
