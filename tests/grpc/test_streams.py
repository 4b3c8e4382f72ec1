"""Streams: the log caught up with and followed, resumed, filtered; transfers acknowledged in order, sent again, refused one by one."""

from __future__ import annotations

import asyncio
import queue
import threading
import time

import grpc
import pytest
from grpc_server_thread import Client, Refused, RunningServer, book, give, market, request_id

from ledger.errors import refusal
from stockledger.v1.accounts_pb2 import GetAccountRequest
from stockledger.v1.approvals_pb2 import GrantRoleRequest, RevokeRoleRequest, Role
from stockledger.v1.audit_pb2 import StreamEntriesRequest
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.instruments_pb2 import HaltInstrumentRequest, ListInstrumentsRequest
from stockledger.v1.issuance_pb2 import CancelSubscriptionRequest, RequestSubscriptionRequest
from stockledger.v1.transfers_pb2 import StreamTransfersRequest, TransferUnitsRequest

ENTRIES, TRANSFERS = "AuditService/StreamEntries", "TransferService/StreamTransfers"


def transfer(units=1, source="book:broker-a/alice", destination="book:broker-a/bob", **changes):
    fields = {"request_id": request_id(), "instrument": "AAPLx", "source": source, "destination": destination, "units": units}
    return TransferUnitsRequest(**(fields | changes))


@pytest.fixture
def server():
    with market() as books, RunningServer(books, local_principals=True, stream_report_seconds=1) as running:
        yield running


@pytest.fixture
def broker(server):
    with Client(server.address, "broker-a") as client:
        yield client


@pytest.fixture
def auditor(server):
    with Client(server.address, "auditor-1") as client:
        yield client


def entries_of(pieces):
    return [entry for piece in pieces for entry in piece.entries]


def test_a_stream_catches_up_and_then_follows(server, auditor, broker):
    start = server.books.size
    stream = auditor.call(ENTRIES, StreamEntriesRequest())
    seen = []
    while len(seen) < start:
        seen += next(stream).entries
    for _ in range(3):
        booked = broker.call("TransferService/TransferUnits", transfer()).booking
        piece = next(stream)
        assert [entry.index for entry in piece.entries] == [booked.index]
        assert piece.next_index == booked.index + 1
        seen += piece.entries
    stream.cancel()
    assert [(e.index, e.topic, e.data) for e in seen] == list(server.books.log.read(0, server.books.size))


def test_what_others_in_the_process_book_is_followed_too(server, auditor):
    stream = auditor.call(ENTRIES, StreamEntriesRequest(start_index=server.books.size))
    assert not next(stream).entries
    index = server.books.size
    book(server.books, HaltInstrumentRequest(instrument="AAPLx", operations=[3]))
    assert next(stream).entries[0].index == index
    stream.cancel()


def test_a_stream_is_resumed_where_it_broke(server, auditor):
    for _ in range(1_200):
        server.books.execute(transfer(), principal="broker-a")
    seen, index = [], 0
    while index < server.books.size:
        stream = auditor.call(ENTRIES, StreamEntriesRequest(start_index=index))
        piece = next(stream)
        stream.cancel()
        seen += piece.entries
        index = piece.next_index
    assert [entry.index for entry in seen] == list(range(server.books.size))


def test_a_filtered_stream_tells_how_far_it_is_and_is_resumed(server):
    for _ in range(700):
        server.books.execute(transfer(), principal="broker-a")
    with Client(server.address, "broker-b") as other:
        pieces = list(other.call(ENTRIES, StreamEntriesRequest(start_index=300, stop_when_caught_up=True)))
        assert not [visible for piece in pieces for visible in piece.visible_entries]
        assert pieces[-1].next_index == server.books.size


def test_a_stream_beyond_the_log_is_refused(server, auditor):
    for index in (server.books.size + 1, -1, 2**62):
        refused = auditor.refused(ENTRIES, StreamEntriesRequest(start_index=index))
        assert (refused.code.name, refused.info.reason) == ("OUT_OF_RANGE", "INDEX_BEYOND_LOG")
    assert len(list(auditor.call(ENTRIES, StreamEntriesRequest(start_index=server.books.size, stop_when_caught_up=True)))) == 1


def test_a_quiet_stream_reports_and_a_revoked_role_ends_it(server):
    book(server.books, GrantRoleRequest(principal="temp", role=Role.ROLE_AUDITOR))
    with Client(server.address, "temp") as client:
        stream = client.call(ENTRIES, StreamEntriesRequest(start_index=server.books.size))
        assert next(stream).next_index == server.books.size
        assert next(stream).next_index == server.books.size  # after a second without news
        book(server.books, RevokeRoleRequest(principal="temp", role=Role.ROLE_AUDITOR))
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert Refused(caught.value).info.reason == "NOT_PERMITTED"


def test_what_is_over_is_still_seen_by_whom_it_concerned(server, broker):
    """An event that names only a number is its account's, though the subscription it ended is no longer in the books."""
    request = RequestSubscriptionRequest(instrument="AAPLx", account="book:broker-a/alice", cash_instrument="USDC", cash_units=100)
    subscription = broker.call("IssuanceService/RequestSubscription", request).event.subscription
    broker.call("IssuanceService/CancelSubscription", CancelSubscriptionRequest(subscription=subscription))
    last = server.books.size - 1
    for principal, expected in (("broker-a", [last]), ("broker-b", [])):
        with Client(server.address, principal) as client:
            pieces = list(client.call(ENTRIES, StreamEntriesRequest(start_index=last, stop_when_caught_up=True)))
        assert [visible.index for piece in pieces for visible in piece.visible_entries] == expected


def test_a_slow_reader_slows_nobody_else(server, auditor, broker):
    for _ in range(300):
        server.books.execute(transfer(reference="x" * 140), principal="broker-a")
    streams = [auditor.call(ENTRIES, StreamEntriesRequest()) for _ in range(5)]
    for stream in streams:
        next(stream)  # and then nothing is read any more
    start = time.monotonic()
    for _ in range(100):
        broker.call("TransferService/TransferUnits", transfer())
    assert time.monotonic() - start < 5
    for stream in streams:
        stream.cancel()


@pytest.fixture
def old_entries(server, monkeypatch):
    """Hold back what is read of the log's beginning, as a slow store and a long log do, until this event is set."""
    read, released = server.books.log.read, threading.Event()

    def held(start, stop):
        if start < server.books.size - 3:
            released.wait(60)
        return read(start, stop)

    monkeypatch.setattr(server.books.log, "read", held)
    yield released
    released.set()


def test_brokers_whose_streams_read_the_whole_log_hold_up_nobodys_reads(server, old_entries):
    """Whose a hold was is known once the log has been read from its beginning, which takes as long as the log is."""
    start = server.books.size - 3
    clients = [Client(server.address, ("broker-a", "broker-b")[number % 2]) for number in range(6)]
    streams = [client.call(ENTRIES, StreamEntriesRequest(start_index=start, stop_when_caught_up=True)) for client in clients]
    reports = [next(stream) for stream in streams]  # so all of them wait now
    with Client(server.address) as operator:
        for _ in range(10):
            assert operator.call("InstrumentService/ListInstruments", ListInstrumentsRequest(), timeout=5).instruments
    assert {(report.size, report.next_index) for report in reports} == {(server.books.size, start)}
    old_entries.set()
    assert [list(stream)[-1].next_index for stream in streams] == [server.books.size] * 6
    for client in clients:
        client.channel.close()


def test_a_broker_who_waits_for_the_whole_log_and_loses_his_role_is_let_go(server, old_entries):
    book(server.books, GrantRoleRequest(principal="temp", role=Role.ROLE_BROKER, scope="broker-a"))
    with Client(server.address, "temp") as client:
        stream = client.call(ENTRIES, StreamEntriesRequest(start_index=server.books.size - 1))
        assert not next(stream).visible_entries
        book(server.books, RevokeRoleRequest(principal="temp", role=Role.ROLE_BROKER, scope="broker-a"))
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
    assert Refused(caught.value).info.reason == "NOT_PERMITTED"


def test_a_stop_waits_for_one_slice_of_the_log_only(server, broker, old_entries, monkeypatch):
    monkeypatch.setattr("services.grpc_server.origin_index.SLICE_ENTRIES", 10)
    stream = broker.call(ENTRIES, StreamEntriesRequest(start_index=server.books.size - 1))
    assert not next(stream).visible_entries
    stopped = asyncio.run_coroutine_threadsafe(server.server.stop(), server.loop)
    server.run(asyncio.sleep(0))  # the stop has begun
    old_entries.set()
    with pytest.raises(grpc.RpcError) as caught:
        list(stream)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    stopped.result(30)
    server.stopped = True
    assert server.server.streams.origin_index.origins.size == 10 < server.books.size
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("stockledger-origins")]


def test_nothing_more_of_the_log_is_read_once_the_server_stops(server):
    """Also for a stream that was elsewhere while the last slice ended."""
    index = server.server.streams.origin_index

    async def ask() -> bool:
        server.server._growth.stop()
        return await index.reach(server.books.size, 5)

    assert not server.run(ask())
    assert index.origins.size == 0


def test_a_stream_whose_log_cannot_be_read_ends_and_the_next_one_goes_on(server, broker, monkeypatch):
    """What was indexed before the fault is kept, and what comes after it is not taken twice."""
    request = RequestSubscriptionRequest(instrument="AAPLx", account="book:broker-a/alice", cash_instrument="USDC", cash_units=100)
    subscription = broker.call("IssuanceService/RequestSubscription", request).event.subscription
    broker.call("IssuanceService/CancelSubscription", CancelSubscriptionRequest(subscription=subscription))
    last, read = server.books.size - 1, server.books.log.read

    def broken(start, stop):
        yield from read(start, min(stop, last - 5))
        raise refusal(Reason.REASON_STORE_UNAVAILABLE, "the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(server.books.log, "read", broken)
        assert broker.reason(ENTRIES, StreamEntriesRequest(start_index=last, stop_when_caught_up=True)) == "STORE_UNAVAILABLE"
    pieces = list(broker.call(ENTRIES, StreamEntriesRequest(start_index=last, stop_when_caught_up=True)))
    assert [visible.index for piece in pieces for visible in piece.visible_entries] == [last]


# ---- transfers -----------------------------------------------------------------------------------------------------------------------


def messages(transfers, size=100):
    return [StreamTransfersRequest(transfers=transfers[i : i + size]) for i in range(0, len(transfers), size)]


def test_transfers_are_acknowledged_cumulatively_and_in_order(server, broker):
    wanted = [transfer() for _ in range(2_500)]
    answers = list(broker.call(TRANSFERS, iter(messages(wanted))))
    counts = [answer.acknowledged_count for answer in answers]
    assert counts == sorted(counts)
    assert counts[-1] == 2_500
    assert not any(answer.refusals for answer in answers)
    assert server.books.holding("AAPLx", "book:broker-a/bob") == 1_000_000 + 2_500
    assert answers[-1].size == server.books.size < 200, "runs of transfers share entries"


def test_a_stream_sent_again_books_nothing_twice(server, broker):
    wanted = [transfer() for _ in range(250)]
    for _ in range(3):
        assert list(broker.call(TRANSFERS, iter(messages(wanted))))[-1].acknowledged_count == 250
    assert server.books.holding("AAPLx", "book:broker-a/bob") == 1_000_000 + 250


def test_a_refused_transfer_does_not_stop_the_others(server, broker):
    wanted = [transfer() for _ in range(300)]
    wanted[7] = transfer(units=10**9)
    wanted[150] = transfer(source="book:broker-b/alice")
    wanted[151] = transfer(source="book:nobody")
    wanted[299] = transfer(request_id="")
    answers = list(broker.call(TRANSFERS, iter(messages(wanted))))
    refusals = {refusal.position: refusal for answer in answers for refusal in answer.refusals}
    reasons = {position: refusal.reason for position, refusal in refusals.items()}
    assert reasons == {7: "UNITS_INSUFFICIENT", 150: "NOT_PERMITTED", 151: "NOT_PERMITTED", 299: "FIELD_MISSING"}
    assert refusals[7].metadata["account"] == "book:broker-a/alice"
    assert refusals[150].explanation == refusals[151].explanation
    assert answers[-1].acknowledged_count == 300
    assert server.books.holding("AAPLx", "book:broker-a/bob") == 1_000_000 + 296


@pytest.mark.parametrize(
    ("bad", "reason"),
    [(StreamTransfersRequest(), "FIELD_MISSING"), (StreamTransfersRequest(transfers=[TransferUnitsRequest()] * 10_001), "TOO_MANY_ITEMS")],
)
def test_a_message_that_cannot_be_ends_the_stream_after_what_came_before(server, broker, bad, reason):
    stream = broker.call(
        TRANSFERS, iter([StreamTransfersRequest(transfers=[transfer()]), bad, StreamTransfersRequest(transfers=[transfer()])])
    )
    counts = []
    with pytest.raises(grpc.RpcError) as caught:
        counts.extend(answer.acknowledged_count for answer in stream)
    assert Refused(caught.value).info.reason == reason
    assert server.books.holding("AAPLx", "book:broker-a/bob") == 1_000_001


def test_bytes_that_are_no_message_end_the_stream(broker):
    stream = broker.call(TRANSFERS, iter([b"\xff\xff"]), raw=True)
    with pytest.raises(grpc.RpcError) as caught:
        list(stream)
    assert Refused(caught.value).info.reason == "FIELD_MALFORMED"


def test_a_dialogue(server, broker):
    """One transfer at a time, each acknowledged before the next is sent."""
    outbox: queue.Queue = queue.Queue()
    stream = broker.call(TRANSFERS, iter(outbox.get, None), timeout=20)
    for number in range(1, 20):
        outbox.put(StreamTransfersRequest(transfers=[transfer()]))
        assert next(stream).acknowledged_count == number
    outbox.put(None)
    assert list(stream) == []


def test_a_stream_that_breaks_is_finished_by_another(server):
    """The client goes away in the middle, again and again; sent again with the same ids, everything is booked once."""
    wanted = [transfer() for _ in range(3_000)]
    done = 0
    for patience in (1, 2, 3, 1_000):
        with Client(server.address, "broker-a") as client:
            stream = client.call(TRANSFERS, iter(messages(wanted[done:])))
            base = done
            for _, answer in zip(range(patience), stream, strict=False):
                done = base + answer.acknowledged_count
            stream.cancel()
    assert done == 3_000
    assert server.books.holding("AAPLx", "book:broker-a/bob") == 1_000_000 + 3_000


def test_many_streams_at_once(server):
    give(server.books, "AAPLx", "book:house", 10**9)
    counts = []

    def send():
        with Client(server.address) as client:
            wanted = [transfer(source="book:house", destination="book:broker-b/bob") for _ in range(1_000)]
            counts.append(list(client.call(TRANSFERS, iter(messages(wanted, 50))))[-1].acknowledged_count)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [1_000] * 8
    assert server.books.holding("AAPLx", "book:broker-b/bob") == 1_000_000 + 8_000


def test_reads_see_what_was_acknowledged(broker):
    assert broker.call("AccountService/GetAccount", GetAccountRequest(account="book:broker-a/bob")).account.holder == "broker-a/bob"


@pytest.mark.parametrize(("rpc", "sent"), [(TRANSFERS, StreamTransfersRequest(transfers=[transfer()])), (ENTRIES, StreamEntriesRequest())])
def test_a_field_that_nobody_knows_ends_a_stream(server, broker, rpc, sent):
    size = server.books.size
    data = sent.SerializeToString() + b"\xfa\xff\x01\x01a"
    refused = broker.refused(rpc, iter([data]) if rpc == TRANSFERS else data, raw=True)
    assert (refused.code, refused.info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_MALFORMED")
    assert refused.info.metadata["field"] == "4095"
    assert server.books.size == size


UNUSUAL = [
    b"\x0a\x00",  # the id once more, and empty: the last one counts
    b"\x10\x80\x00",  # validate_only, false with a byte too many
    b"\x32\x13book:broker-a/alice",  # the destination once more
    b"\xfa\xff\x01\x01a",
]


@pytest.mark.parametrize("unusual", UNUSUAL, ids=["no id", "long false", "twice", "unknown"])
@pytest.mark.parametrize("many", [1, 200])
def test_what_is_written_unusually_means_what_protobuf_reads(server, broker, unusual, many):
    odd = transfer(units=3).SerializeToString() + unusual
    plain = [transfer().SerializeToString() for _ in range(many)]
    data = b"".join(b"\x0a" + bytes([len(each)]) + each for each in (*plain, odd, transfer().SerializeToString()))
    (answer,) = broker.call(TRANSFERS, iter([data]), raw=True)
    assert answer.acknowledged_count == many + 2
    found = {refused.position: (refused.reason, dict(refused.metadata).get("field")) for refused in answer.refusals}
    expected = {"no id": ("FIELD_MISSING", "request_id"), "unknown": ("FIELD_MALFORMED", "4095"), "twice": ("SAME_ACCOUNT", None)}
    name = ["no id", "long false", "twice", "unknown"][UNUSUAL.index(unusual)]
    assert found == ({many: expected[name]} if name in expected else {})
