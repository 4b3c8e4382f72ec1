"""Connections that are not what they should be: half open, silent, flooding, resetting; everybody else is served all the same."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from pathlib import Path

import grpc
import pytest
from grpc_server_thread import Client, RunningServer, market, request_id
from server_process import Proxy, wait_until

from stockledger.v1.accounts_pb2 import GetAccountRequest
from stockledger.v1.audit_pb2 import StreamEntriesRequest
from stockledger.v1.transfers_pb2 import StreamTransfersRequest, TransferUnitsRequest

TRANSFER, GET, ENTRIES = "TransferService/TransferUnits", "AccountService/GetAccount", "AuditService/StreamEntries"
HOUSE = GetAccountRequest(account="book:house")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EMPTY_SETTINGS = b"\0\0\0\x04\0\0\0\0\0"


def transfer(units=1, **changes):
    fields = {"instrument": "AAPLx", "source": "book:broker-a/alice", "destination": "book:broker-a/bob", "units": units}
    return TransferUnitsRequest(**(fields | changes))


@pytest.fixture
def server():
    with market() as books, RunningServer(books, local_principals=True) as running:
        yield running


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def served_soon(server, calls=20, seconds=3.0):
    start = time.monotonic()
    with Client(server.address, "broker-a") as client:
        for _ in range(calls):
            assert client.reason(TRANSFER, transfer()) == "OK"
    return time.monotonic() - start < seconds


@pytest.mark.parametrize(
    "greeting",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        PREFACE,
        PREFACE + EMPTY_SETTINGS,
        PREFACE[:9],
        b"\x16\x03\x01\x02\x00\x01",
        b"\0" * 10_000,
    ],
    ids=["silent", "http-1", "preface", "settings", "half-a-preface", "tls-hello", "zeros"],
)
def test_connections_that_say_nothing_sensible_hold_nobody_up(server, greeting):
    opened = []
    try:
        for _ in range(150):
            opened.append(socket.create_connection(("127.0.0.1", server.server.port)))
            opened[-1].sendall(greeting)
        assert served_soon(server)
    finally:
        for each in opened:
            each.close()
    assert served_soon(server)


def test_frames_that_break_the_protocol_end_their_connection_only(server):
    frames = [
        b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",  # DATA of 16 MB for a stream that is not open
        b"\x00\x00\x04\x03\x00\x00\x00\x00\x00" + b"\0" * 4,  # RST_STREAM for stream 0
        b"\x00\x00\x05\x01\x04\x00\x00\x00\x01" + b"\xff" * 5,  # HEADERS that cannot be decompressed
        b"\x00\x00\x04\x08\x00\x00\x00\x00\x00" + b"\0" * 4,  # WINDOW_UPDATE by nothing
    ]
    for frame in frames:
        with socket.create_connection(("127.0.0.1", server.server.port)) as broken:
            broken.sendall(PREFACE + EMPTY_SETTINGS + frame)
            broken.settimeout(5)
            with contextlib.suppress(OSError):
                while broken.recv(65_536):
                    pass
    assert served_soon(server)


def test_resets_in_the_middle_of_calls_leak_nothing(server):
    """Connections torn down with RST while transfers are under way: what was accepted is booked, and no file stays open."""
    with Client(server.address) as client:
        client.call(GET, HOUSE)
        before = open_files()
    for _ in range(30):
        with Proxy(server.server.port) as proxy, Client(proxy.address, "broker-a") as client:
            calls = [client.multicallable(TRANSFER).future(transfer(), metadata=client.metadata) for _ in range(20)]
            with proxy._lock:
                for each in proxy._sockets:
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            proxy.cut()
            for call in calls:
                call.exception(timeout=10)
    wait_until(lambda: open_files() <= before + 8)
    assert [load for load in server.server._limits._loads.values() if load.in_flight] == []
    assert served_soon(server)


def test_a_half_open_connection_is_ended_and_gives_its_places_back():
    """A client whose network is gone: no FIN ever comes. The server asks for a sign of life, and lets go of its streams."""
    settings = {"local_principals": True, "keepalive_seconds": 1, "principal_streams_max": 2, "stream_report_seconds": 1}
    with (
        market() as books,
        RunningServer(books, **settings) as server,
        Proxy(server.server.port) as proxy,
        Client(proxy.address, "auditor-1") as gone,
        Client(server.address, "auditor-1") as other,
    ):
        streams = [gone.call(ENTRIES, StreamEntriesRequest(), timeout=60) for _ in range(2)]
        for stream in streams:
            next(stream)
        assert other.refused(ENTRIES, StreamEntriesRequest()).info.reason == "TOO_MANY_REQUESTS"
        proxy.freeze()
        wait_until(lambda: server.server._limits._loads["auditor-1"].streams == 0, 25)
        assert other.reason(ENTRIES, StreamEntriesRequest(stop_when_caught_up=True)) == "OK"
        for stream in streams:
            stream.cancel()


def test_a_flood_of_one_principal_leaves_the_others_served():
    limits = {"principal_requests_in_flight_max": 32, "principal_requests_per_second": 200, "principal_requests_burst": 200}
    with market() as books, RunningServer(books, local_principals=True, **limits) as server:
        stop, refused = threading.Event(), []

        def flood():
            with Client(server.address, "auditor-1") as client:
                call = client.multicallable(GET)
                while not stop.is_set():
                    under_way = [call.future(HOUSE, metadata=client.metadata) for _ in range(100)]
                    refused.append(sum(each.exception(timeout=30) is not None for each in under_way))

        floods = [threading.Thread(target=flood, daemon=True) for _ in range(3)]
        for thread in floods:
            thread.start()
        try:
            wait_until(lambda: sum(refused) > 500, 20)
            assert served_soon(server, calls=20, seconds=30)
        finally:
            stop.set()
            for thread in floods:
                thread.join(30)


def test_readers_who_do_not_read_take_no_memory_and_no_time():
    """Forty streams of a log of 8 MB that nobody reads: the server makes a piece only when the last one was taken."""
    settings = {"local_principals": True, "principal_streams_max": 64}
    with market() as books, RunningServer(books, **settings) as server, Client(server.address, "auditor-1") as idle:
        for _ in range(40):
            books.execute_many([transfer(reference="x" * 140) for _ in range(500)], principal="broker-a")
        before = resident_kb()
        streams = [idle.call(ENTRIES, StreamEntriesRequest(), timeout=60) for _ in range(40)]
        for stream in streams:
            next(stream)
        assert served_soon(server, calls=50, seconds=5)
        assert resident_kb() - before < 200_000, "at most a few pieces of 1 MB for each, here and there"
        for stream in streams:
            stream.cancel()
        assert idle.reason(ENTRIES, StreamEntriesRequest(start_index=books.size, stop_when_caught_up=True)) == "OK"


def resident_kb():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))


def test_a_sender_who_never_takes_acknowledgements_is_slowed_and_loses_nothing(server):
    wanted = [transfer(request_id=request_id()) for _ in range(30_000)]
    messages = [StreamTransfersRequest(transfers=wanted[n : n + 500]) for n in range(0, len(wanted), 500)]
    with Client(server.address, "broker-a") as client:
        stream = client.call("TransferService/StreamTransfers", iter(messages), timeout=60)
        assert served_soon(server, calls=10, seconds=5)
        assert list(stream)[-1].acknowledged_count == 30_000
    assert server.books.holding("AAPLx", "book:broker-a/bob") == 1_000_000 + 30_010


def test_metadata_that_is_too_large_or_foreign_is_refused_or_passed_over(server):
    with Client(server.address, "broker-a") as client:
        client.metadata.append(("x-large", "x" * 60_000))
        assert client.refused(TRANSFER, transfer()).code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
    with Client(server.address, "broker-a") as client:
        client.metadata += [("x-own", "~"), ("x-bin-bin", b"\0\xff"), ("traceparent", "00-zz"), ("grpc-previous-rpc-attempts", "-1")]
        assert client.reason(TRANSFER, transfer()) == "OK"


def test_rpcs_that_do_not_exist_are_unimplemented(server):
    with Client(server.address) as client:
        for path in (
            "/stockledger.v1.TransferService/Nothing",
            "/x/y",
            "/",
            "/stockledger.v1.TransferService/",
            "/stockledger.v2.TransferService/TransferUnits",
        ):
            with pytest.raises(grpc.RpcError) as caught:
                client.channel.unary_unary(path)(b"", timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
