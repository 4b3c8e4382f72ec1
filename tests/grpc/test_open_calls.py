"""Health and reflection, which ask for no credentials: bounded for all callers together, and in nobody's way."""

from __future__ import annotations

import contextlib
import socket
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_server_thread import Client, Refused, RunningServer, market
from server_process import wait_until

from stockledger.v1.accounts_pb2 import GetAccountRequest

GET, HOUSE = "AccountService/GetAccount", GetAccountRequest(account="book:house")
STREAMS_MAX = 20
Status = health_pb2.HealthCheckResponse


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("services.grpc_server.open_calls.OPEN_STREAMS_MAX", STREAMS_MAX)
    with market() as books, RunningServer(books, stop_seconds=20) as running:
        yield running


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def watch(channel, service="", **more):
    return health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service), **more)


def check(channel, service=""):
    return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status


def reflect(channel, questions):
    return reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(questions, timeout=30)


def ask_and_stay():
    yield reflection_pb2.ServerReflectionRequest(list_services="")
    time.sleep(20)


def ended(stream):
    with pytest.raises(grpc.RpcError) as caught:
        list(stream)
    return Refused(caught.value)


def in_flight(server):
    return server.server.metrics.calls.in_flight


@pytest.mark.parametrize("kind", ["health", "reflection"])
def test_streams_without_credentials_are_counted_and_bounded(server, channel, kind):
    def opened(number):
        return watch(channel, f"invented-{number}") if kind == "health" else reflect(channel, ask_and_stay())

    streams = [opened(number) for number in range(STREAMS_MAX)]
    for stream in streams:
        next(stream)
    assert in_flight(server) == STREAMS_MAX
    refused = ended(opened(STREAMS_MAX))
    assert (refused.code.name, refused.info.reason, refused.info.metadata["limit"]) == (
        "RESOURCE_EXHAUSTED",
        "TOO_MANY_REQUESTS",
        str(STREAMS_MAX),
    )
    assert refused.retry.HasField("retry_delay")
    assert check(channel) == Status.SERVING, "a balancer is answered all the same"
    assert next(watch(channel) if kind == "reflection" else reflect(channel, ask_and_stay())), "each service has its own number"
    with Client(server.address) as client:
        assert client.reason(GET, HOUSE) == "OK"
    for stream in streams:
        stream.cancel()
    wait_until(lambda: in_flight(server) <= 1)
    next(opened(STREAMS_MAX))


def test_a_watcher_of_a_name_that_is_not_here_is_told_so_and_kept(server, channel):
    stream = watch(channel, "invented", timeout=1)
    assert next(stream).status == Status.SERVICE_UNKNOWN
    assert ended(stream).code is grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(grpc.RpcError) as caught:
        check(channel, "invented")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("kind", ["health", "reflection"])
def test_nothing_large_is_kept_for_a_stream(server, channel, kind):
    question = reflection_pb2.ServerReflectionRequest(file_by_filename="x" * 5_000)
    stream = watch(channel, "x" * 5_000) if kind == "health" else reflect(channel, iter([question]))
    assert ended(stream).info.reason == "MESSAGE_TOO_LARGE"


def test_reflection_lets_go_of_who_says_nothing(server, channel, monkeypatch):
    monkeypatch.setattr("services.grpc_server.open_calls.SILENCE_SECONDS", 0.2)
    assert len(list(reflect(channel, ask_and_stay()))) == 1
    wait_until(lambda: in_flight(server) == 0)


def test_open_streams_hold_up_no_stop(server, channel):
    known, unknown, reflected = watch(channel), watch(channel, "invented"), reflect(channel, ask_and_stay())
    assert [next(known).status, next(unknown).status] == [Status.SERVING, Status.SERVICE_UNKNOWN]
    next(reflected)
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 10
    assert next(known).status == Status.NOT_SERVING
    assert [ended(stream).code.name for stream in (known, unknown, reflected)] == ["UNAVAILABLE"] * 3


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def literal(name, value):
    """Return a header field without indexing (RFC 7541, 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def test_a_watcher_who_reads_nothing_holds_up_nobody(server, channel):
    """With a window of 0 (RFC 9113, 6.9.2) nothing of the answer can be sent."""
    headers = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/grpc.health.v1.Health/Watch"),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]
    with contextlib.closing(socket.create_connection(("127.0.0.1", server.server.port))) as silent:
        silent.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, (4).to_bytes(2) + (0).to_bytes(4)))
        silent.sendall(frame(1, 4, 1, b"".join(literal(*header) for header in headers)) + frame(0, 1, 1, b"\0" * 5))
        wait_until(lambda: in_flight(server) == 1)
        other = watch(channel)
        assert next(other).status == Status.SERVING
        for serving in (False, True) * 20:
            server.loop.call_soon_threadsafe(lambda serving=serving: server.server._tell_health(serving=serving))
        server.loop.call_soon_threadsafe(lambda: server.server._tell_health(serving=False))
        while next(other).status != Status.NOT_SERVING:
            pass
        wait_until(lambda: check(channel) == Status.NOT_SERVING)
