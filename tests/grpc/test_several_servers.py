"""Two servers on one PostgreSQL, as their clients meet them: reads and streams of both, commands of the leader, and where it is."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import grpc
import pytest
from durable import fund
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_server_thread import Client, RunningServer, book, broker_holder, market, request_id
from prometheus_client import generate_latest
from scenario import account

from ledger import Ledger
from services.grpc_server.server import LEADER_SERVICE
from stockledger.v1.accounts_pb2 import GetHoldingRequest, ListAccountsRequest
from stockledger.v1.audit_pb2 import StreamEntriesRequest
from stockledger.v1.transfers_pb2 import StreamTransfersRequest, TransferUnitsRequest


def transfer(**changes):
    fields = {"instrument": "AAPLx", "source": "book:house", "destination": "book:house-2", "units": 5}
    return TransferUnitsRequest(**(fields | changes))


@pytest.fixture
def url(postgres):
    return postgres.new_url("market")


@contextlib.contextmanager
def serving(url, **settings):
    with Ledger.open(url, contend=True) as books, RunningServer(books, local_principals=True, **settings) as server:
        yield server


@pytest.fixture
def pair(url):
    with market(url, contend=True) as books:
        book(books, account("book:house-2", "house"))
        fund(books, "AAPLx", "book:house", 1_000_000)  # by an entry: what `market` gives is in its own memory alone
    with serving(url) as leader, serving(url) as follower:
        yield leader, follower


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.005)


def health_of(client, service):
    stub = health_pb2_grpc.HealthStub(client.channel)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status)


def figure(server, name):
    text = generate_latest(server.server.metrics.registry).decode()
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")))


def test_a_follower_names_the_leader(pair):
    leader, follower = pair
    address = f"127.0.0.1:{leader.server.port}"
    until(lambda: follower.server.leadership.leader == address)
    with Client(follower.address) as client:
        refused = client.refused("TransferService/TransferUnits", transfer())
        assert refused.code is grpc.StatusCode.UNAVAILABLE
        assert (refused.info.reason, dict(refused.info.metadata)) == ("NOT_LEADER", {"leader": address})
        assert refused.retry.retry_delay.ToMilliseconds() > 0
        # Permission is not judged by books that may be behind: a stranger is told where to go like everybody else.
        with Client(follower.address, principal="stranger") as stranger:
            assert stranger.reason("TransferService/TransferUnits", transfer()) == "NOT_LEADER"
        stream = client.multicallable("TransferService/StreamTransfers")
        with pytest.raises(grpc.RpcError) as caught:
            list(stream(iter([StreamTransfersRequest(transfers=[transfer(request_id="")])]), timeout=5))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_follower_answers_reads_and_streams_with_its_size(pair):
    leader, follower = pair
    with Client(leader.address) as to_leader, Client(follower.address) as to_follower:
        received = []
        stream = to_follower.multicallable("AuditService/StreamEntries")(StreamEntriesRequest(start_index=0), timeout=60)

        def receive():
            with contextlib.suppress(grpc.RpcError):
                received.extend(entry.index for piece in stream for entry in piece.entries)

        receiver = threading.Thread(target=receive)
        receiver.start()
        for _ in range(20):
            size = to_leader.call("TransferService/TransferUnits", transfer()).booking.size
        until(lambda: len(received) == size)
        stream.cancel()
        receiver.join(10)
        assert received == list(range(size))
        assert (figure(leader, "stockledger_log_entries"), figure(follower, "stockledger_log_entries")) == (size, size)
        answer = to_follower.call("AccountService/GetHolding", GetHoldingRequest(instrument="AAPLx", account="book:house-2"))
        assert (answer.size, answer.holding.units) == (size, 100)
        request = GetHoldingRequest(instrument="AAPLx", account="book:house-2")
        request.as_of.size = size - 5
        assert to_follower.call("AccountService/GetHolding", request).holding.units == 75


def test_a_broker_sees_on_a_follower_what_is_his(pair):
    leader, follower = pair
    book(leader.books, broker_holder("broker-a", "carol"), account("book:broker-a/carol", "broker-a/carol"))
    until(lambda: follower.books.size == leader.books.size)
    with Client(follower.address, principal="broker-a") as broker:
        names = [each.account for each in broker.call("AccountService/ListAccounts", ListAccountsRequest()).accounts]
        assert names == ["book:broker-a/alice", "book:broker-a/bob", "book:broker-a/carol"]
        pieces = list(broker.call("AuditService/StreamEntries", StreamEntriesRequest(stop_when_caught_up=True)))
        seen = {entry.entry.account_opened.account for piece in pieces for entry in piece.visible_entries} - {""}
        assert seen == set(names)


def test_health_and_figures_tell_who_leads(pair):
    leader, follower = pair
    with Client(leader.address) as first, Client(follower.address) as second:
        assert (health_of(first, ""), health_of(first, LEADER_SERVICE)) == ("SERVING", "SERVING")
        assert (health_of(second, ""), health_of(second, LEADER_SERVICE)) == ("SERVING", "NOT_SERVING")
        assert (figure(leader, "stockledger_leading"), figure(follower, "stockledger_leading")) == (1, 0)
        assert figure(leader, "stockledger_lag_seconds") == 0
        assert 0 <= figure(follower, "stockledger_lag_seconds") < 5
        leader.stop()
        leader.books.close()
        until(lambda: health_of(second, LEADER_SERVICE) == "SERVING")
        assert second.reason("TransferService/TransferUnits", transfer()) == "OK"
        assert figure(follower, "stockledger_leading") == 1


@pytest.mark.slow
def test_a_follower_that_cannot_reach_the_store_says_so_and_comes_back(postgres, url):
    """The server's processes stand still, which TCP does not notice: every wait has an end of its own."""
    with market(url, contend=True), serving(url, read_lag_seconds_max=2) as follower, Client(follower.address) as client:
        read = GetHoldingRequest(instrument="AAPLx", account="book:house")
        assert client.reason("AccountService/GetHolding", read) == "OK"
        ours = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        frozen = [pid for (pid,) in postgres.run(ours, url)]
        try:
            for pid in frozen:
                os.kill(pid, signal.SIGSTOP)
            until(lambda: client.reason("AccountService/GetHolding", read) == "STORE_UNAVAILABLE")
            until(lambda: health_of(client, "") == "NOT_SERVING")
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        until(lambda: client.reason("AccountService/GetHolding", read) == "OK")
        until(lambda: health_of(client, "") == "SERVING")


@pytest.mark.slow
def test_a_leader_whose_store_stands_still_answers_all_the_same_and_comes_back(postgres, url):
    with market(url, contend=True) as books:
        book(books, account("book:house-2", "house"))
        fund(books, "AAPLx", "book:house", 1_000_000)
    with serving(url, read_lag_seconds_max=2) as server, Client(server.address) as client:
        command = transfer(request_id=request_id())
        ours = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        frozen = [pid for (pid,) in postgres.run(ours, url)]
        try:
            for pid in frozen:
                os.kill(pid, signal.SIGSTOP)
            refused = client.refused("TransferService/TransferUnits", command, timeout=60)
            assert refused.info.reason == "STORE_UNAVAILABLE"
            # It steps down meanwhile, and has books of a moment ago that may still be read for two seconds.
            until(lambda: health_of(client, "") == "NOT_SERVING")
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        until(lambda: health_of(client, "") == "SERVING", 60)  # without a command that would find out
        until(lambda: client.reason("TransferService/TransferUnits", command) == "OK")
        assert client.call("TransferService/TransferUnits", command).booking.repeated_answer
        assert client.call("AccountService/GetHolding", GetHoldingRequest(instrument="AAPLx", account="book:house-2")).holding.units == 5
