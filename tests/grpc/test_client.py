"""The client against real servers: refused, limited, cut off, killed and moved, and nothing lost or booked twice."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time

import grpc
import pytest
from durable import ACCOUNTS, booked_requests, open_funded, url_of
from durable import transfer as funded_transfer
from grpc_certificates import AUDIENCE, ISSUER, Authority, TokenIssuer, write_keys
from grpc_server_thread import METHODS, RunningServer, market
from server_process import Proxy, ServerProcess, wait_until

import stockledger.client as api
from ledger import Ledger, errors
from ledger.errors import refusal
from stockledger.client import Client, Tls, new_request_id
from stockledger.client.client import rpc_of
from stockledger.v1.accounts_pb2 import GetAccountRequest, GetHoldingRequest, ListAccountsRequest
from stockledger.v1.accounts_pb2_grpc import AccountServiceStub
from stockledger.v1.audit_pb2 import FindRequestRequest, StreamEntriesRequest
from stockledger.v1.common_pb2 import Movement
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.transfers_pb2 import TransferUnitsRequest
from stockledger.v1.transfers_pb2_grpc import TransferServiceStub

HOUSE = GetAccountRequest(account="book:house")


def transfer(units=1, **changes):
    fields = {"instrument": "AAPLx", "source": "book:broker-a/alice", "destination": "book:broker-a/bob", "units": units}
    return TransferUnitsRequest(**(fields | changes))


def held(books, account="book:broker-a/bob"):
    return books.holding("AAPLx", account) - 1_000_000


@pytest.fixture
def server():
    with market() as books, RunningServer(books, local_principals=True, stream_report_seconds=1) as running:
        yield running


@pytest.fixture
def broker(server):
    with Client(server.address, principal="broker-a", seconds=10) as client:
        yield client


# ---- requests ------------------------------------------------------------------------------------------------------------------------


def test_every_rpc_is_found_by_its_request():
    for rpc, method in METHODS.items():
        assert rpc_of(method.input_type._concrete_class).path == f"/stockledger.v1.{rpc}"


def test_it_needs_nothing_of_the_ledger():
    probe = "import sys, stockledger.client; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert "'stockledger'" in done.stdout
    for foreign in ("ledger", "services", "chain_adapters", "eventsourcing", "nacl", "numpy", "grpc_status", "jwt", "cryptography"):
        assert f"'{foreign}'" not in done.stdout


def test_a_command_and_a_read(server, broker):
    answer = broker.execute(transfer(5))
    assert (answer.event.units, held(server.books)) == (5, 5)
    assert broker.execute(GetHoldingRequest(instrument="AAPLx", account="book:broker-a/bob")).holding.units == 1_000_005
    assert broker.stub(TransferServiceStub).TransferUnits(transfer(2)).event.units == 2
    assert broker.stub(AccountServiceStub).GetAccount(GetAccountRequest(account="book:broker-a/bob"), timeout=5).account.holder


def test_a_request_id_is_made_in_a_copy(server, broker):
    """The same message sent twice by the caller is two transfers; with an id of its own it is one."""
    wanted = transfer()
    first, second = broker.execute(wanted), broker.execute(wanted)
    assert not wanted.request_id
    assert first.booking.request_id != second.booking.request_id
    wanted.request_id = new_request_id()
    assert [broker.execute(wanted).booking.repeated_answer for _ in range(2)] == [False, True]
    assert held(server.books) == 3


def test_request_ids_are_new_and_of_now():
    ids = [new_request_id() for _ in range(1_000)]
    assert len(set(ids)) == 1_000
    assert all(abs(int(each.replace("-", "")[:12], 16) / 1000 - time.time()) < 5 for each in ids)


REFUSED = [
    (transfer(10**12), api.RuleViolated, "UNITS_INSUFFICIENT", "needed"),
    (transfer(0), api.InvalidRequest, "UNITS_NOT_POSITIVE", "field"),
    (transfer(instrument="NONEx"), api.NotFound, "INSTRUMENT_NOT_FOUND", "instrument"),
    (transfer(source="book:broker-b/alice"), api.NotPermitted, "NOT_PERMITTED", "principal"),
]


@pytest.mark.parametrize(("request_message", "kind", "reason", "named"), REFUSED)
def test_a_refusal_is_an_exception_with_its_reason_and_numbers(broker, request_message, kind, reason, named):
    with pytest.raises(kind) as caught:
        broker.execute(request_message)
    error = caught.value
    assert (error.reason_name, error.reason, error.maybe_booked) == (reason, Reason.Value(f"REASON_{reason}"), False)
    assert error.metadata[named]
    assert error.request_id
    assert str(error).startswith(f"{reason}: ")


def test_reasons_are_the_same_exceptions_as_in_process():
    for reason in Reason.values():
        if reason:
            name = Reason.Name(reason).removeprefix("REASON_")
            here, there = api.errors.refused(name, "x", {}), refusal(reason, "x")
            assert (type(here).__name__, here.reason, here.reason_name) == (type(there).__name__, there.reason, there.reason_name)
    assert [base.__name__ for base in api.ActionDue.__mro__[:3]] == [base.__name__ for base in errors.ActionDue.__mro__[:3]]
    newer = api.errors.refused("SOMETHING_OF_TOMORROW", "x", {})
    assert (newer.reason, newer.reason_name) == (Reason.REASON_UNSPECIFIED, "SOMETHING_OF_TOMORROW")


def test_lists_page_after_page(server, broker):
    accounts = list(broker.items(ListAccountsRequest(page_size=1)))
    assert [each.account for each in accounts] == ["book:broker-a/alice", "book:broker-a/bob"]
    assert len(list(broker.pages(ListAccountsRequest(page_size=1)))) >= 2


def test_what_streams_is_no_single_request(broker):
    with pytest.raises(TypeError, match="entries"):
        broker.execute(StreamEntriesRequest())
    with pytest.raises(TypeError, match="no request"):
        broker.execute(Movement())


# ---- who asks, and where -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["10.0.0.1:8080", "ledger.example:8080", "8080", "localhost:", "[2001:db8::1]:1"])
def test_without_tls_only_this_machine_is_spoken_to(address):
    with pytest.raises(ValueError, match=r"TLS|host:port"):
        Client(address)
    with pytest.raises(ValueError, match="no address"):
        Client([])


def test_a_certificate_is_shown(tmp_path):
    authority = Authority("Clients")
    key, certificate = authority.issue("localhost", dns=("localhost",))
    names = {"tls_private_key": key, "tls_certificate": certificate, "tls_client_authorities": authority.pem}
    for name, content in names.items():
        (tmp_path / name).write_bytes(content)
    own_key, own = authority.issue("broker-a")
    (tmp_path / "own.pem").write_bytes(own)
    (tmp_path / "own.key").write_bytes(own_key)
    settings = {name: str(tmp_path / name) for name in names}
    with market() as books, RunningServer(books, **settings) as server:
        authorities = str(tmp_path / "tls_client_authorities")
        tls = Tls.from_files(authorities, str(tmp_path / "own.pem"), str(tmp_path / "own.key"))
        with Client(server.address, tls=tls) as client:
            assert client.execute(transfer()).event.units == 1
        address = server.address.replace("localhost", "127.0.0.1")
        named = Tls.from_files(authorities, str(tmp_path / "own.pem"), str(tmp_path / "own.key"), "localhost")
        with Client(address, tls=named) as client:
            assert client.execute(transfer()).event.units == 1
        with Client(server.address, tls=Tls.from_files(authorities), seconds=0.5) as client, pytest.raises(api.NoAnswer):
            client.execute(transfer())
    with pytest.raises(ValueError, match="go together"):
        Tls(certificate=own).credentials()


def test_a_token_is_renewed_when_it_is_refused(tmp_path):
    issuer = TokenIssuer("EdDSA", "one")
    write_keys(tmp_path / "keys.json", issuer)
    settings = {"token_keys": str(tmp_path / "keys.json"), "token_issuer": ISSUER, "token_audience": AUDIENCE, "local_operator": ""}
    old, fresh = issuer.token(exp=int(time.time()) - 60), issuer.token()
    with market() as books, RunningServer(books, **settings) as server:
        with Client(server.address, token=fresh) as client:
            assert client.execute(transfer()).event.units == 1
        tokens = iter([old, fresh])
        with Client(server.address, token=lambda: next(tokens)) as client:
            assert client.execute(transfer()).event.units == 1
        asked = []
        with Client(server.address, token=lambda: asked.append(1) or old) as client, pytest.raises(api.NotPermitted) as caught:
            client.execute(transfer())
        assert (caught.value.reason_name, caught.value.code, len(asked)) == ("UNAUTHENTICATED", grpc.StatusCode.UNAUTHENTICATED, 2)
        with Client(server.address, token=old) as client, pytest.raises(api.NotPermitted):
            client.execute(transfer())


# ---- once more -----------------------------------------------------------------------------------------------------------------------


def test_what_is_too_much_is_tried_again_after_the_delay():
    limits = {"principal_requests_per_second": 5, "principal_requests_burst": 2}
    with market() as books, RunningServer(books, **limits) as server, Client(server.address) as client:
        start = time.monotonic()
        for _ in range(5):
            client.execute(transfer())
        assert time.monotonic() - start > 0.5
        assert held(books) == 5
        with pytest.raises(api.Overloaded) as caught:
            client.execute(transfer(), seconds=0.05)
        assert caught.value.reason_name == "TOO_MANY_REQUESTS"


def test_a_message_that_is_too_large_is_not_tried_again():
    with market() as books, RunningServer(books, message_bytes_max=1_000) as server, Client(server.address) as client:
        for length in (1_500, 1_000_000):
            with pytest.raises(api.LedgerError) as caught:
                client.execute(transfer(reference="x" * length))
            assert (caught.value.code, caught.value.attempts) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 1)


def test_a_server_that_is_not_there_is_told_in_time():
    with ServerProcess("sqlite:///:memory:") as gone:
        gone.kill()
        with Client(gone.address, seconds=1) as client, pytest.raises(api.NoAnswer) as caught:
            client.execute(transfer())
    error = caught.value
    assert (error.code, error.maybe_booked) == (grpc.StatusCode.UNAVAILABLE, True)
    assert error.attempts > 2
    assert error.request_id


def test_an_answer_that_was_swallowed_is_asked_for_again(server):
    """The proxy lets the request through and drops the answer: booked, not heard; the next attempt gets the first answer."""
    with Proxy(server.server.port) as proxy, Client(proxy.address, principal="broker-a", seconds=20, attempt_seconds=0.5) as client:
        client.execute(transfer())
        for number in range(3):
            proxy.swallow = True
            wanted = transfer(request_id=new_request_id())
            answers = []
            caller = threading.Thread(target=lambda wanted=wanted, answers=answers: answers.append(client.execute(wanted)))
            caller.start()
            wait_until(lambda number=number: held(server.books) == number + 2)
            proxy.swallow = False
            proxy.cut()
            caller.join(20)
            assert answers[0].booking.repeated_answer
        assert held(server.books) == 4
        assert proxy.swallowed_bytes > 0


def test_a_deadline_leaves_it_open_and_says_so(server):
    with Proxy(server.server.port) as proxy, Client(proxy.address, principal="broker-a", attempt_seconds=0.3) as client:
        client.execute(transfer())
        proxy.swallow = True
        with pytest.raises(api.NoAnswer) as caught:
            client.execute(transfer(), seconds=0.8)
        assert caught.value.maybe_booked
        proxy.swallow = False
        proxy.cut()
        assert client.execute(FindRequestRequest(request_id=caught.value.request_id)).found


def test_a_connection_that_leads_nowhere_is_left(server):
    """No FIN and no RST: the network is gone for this connection, and a new one finds its way."""
    with Proxy(server.server.port) as proxy, Client(proxy.address, principal="broker-a", attempt_seconds=0.5) as client:
        client.execute(transfer())
        proxy.freeze()
        start = time.monotonic()
        assert client.execute(transfer()).event.units == 1
        assert time.monotonic() - start < 5
        assert held(server.books) == 2


def test_a_stream_whose_connection_leads_nowhere_goes_on_over_another(server):
    with Proxy(server.server.port) as proxy, Client(proxy.address, principal="broker-a", seconds=6) as client:
        with client.transfer_stream() as stream:
            stream.send(transfer())
            wait_until(lambda: not stream.unacknowledged)
            proxy.freeze()
            stream.send(transfer())
        assert [outcome.refusal for outcome in stream.outcomes()] == [None, None]
        assert held(server.books) == 2


def test_the_leader_is_followed(server, monkeypatch):
    """A server that does not lead names who does; the client goes there, and stays."""
    with market() as other:
        monkeypatch.setattr(other, "execute_group", not_leader(server.address))
        with RunningServer(other, local_principals=True) as follower, Client(follower.address, principal="broker-a") as client:
            assert client.execute(transfer()).event.units == 1
            assert client.target == server.address
            assert client.execute(transfer()).event.units == 1
            assert (held(server.books), held(other)) == (2, 0)


def not_leader(leader):
    def execute_group(*_):
        raise refusal(Reason.REASON_NOT_LEADER, "another server leads", leader=leader)

    return execute_group


@pytest.mark.parametrize("leader", ["", "203.0.113.7:443", "nonsense"])
def test_a_leader_that_cannot_be_followed_is_looked_for_among_the_addresses(server, monkeypatch, leader):
    with market() as other:
        monkeypatch.setattr(other, "execute_group", not_leader(leader))
        with RunningServer(other, local_principals=True) as follower:
            with Client([follower.address, server.address], principal="broker-a") as client:
                assert client.execute(transfer()).event.units == 1
                assert client.target == server.address
            with Client(follower.address, principal="broker-a", seconds=1) as client, pytest.raises(api.Unavailable) as caught:
                client.execute(transfer())
            assert (caught.value.reason_name, caught.value.maybe_booked) == ("NOT_LEADER", False)


def test_a_server_that_is_gone_is_left_for_the_next(server):
    with Proxy(1) as nobody, Client([nobody.address, server.address], principal="broker-a") as client:
        assert client.execute(transfer()).event.units == 1
        assert client.target == server.address


def test_a_closed_client_says_so(server):
    client = Client(server.address)
    client.execute(HOUSE)
    client.close()
    with pytest.raises(ValueError, match="closed"):
        client.execute(HOUSE)


# ---- the log -------------------------------------------------------------------------------------------------------------------------


def test_the_log_is_followed_through_cuts(server):
    """Cut at every tenth of a second while the log grows: every entry comes once, in order."""
    with Proxy(server.server.port) as proxy, Client(proxy.address, principal="auditor-1") as client:
        stop = threading.Event()

        def write_and_cut():
            for _ in range(15):
                for _ in range(20):
                    server.books.execute(transfer(), principal="broker-a")
                proxy.cut()
                time.sleep(0.1)
            stop.set()

        writer = threading.Thread(target=write_and_cut)
        writer.start()
        seen = []
        for piece in client.entries():
            seen += piece.entries
            if stop.is_set() and piece.next_index == server.books.size:
                break
        writer.join()
    assert [(e.index, e.data) for e in seen] == [(i, d) for i, _, d in server.books.log.read(0, server.books.size)]


def test_a_broker_follows_what_concerns_him_and_catches_up(server, broker):
    index = server.books.size
    broker.execute(transfer(3))
    pieces = list(broker.entries(index, stop_when_caught_up=True))
    assert [v.entry.units_transferred.units for piece in pieces for v in piece.visible_entries] == [3]
    assert pieces[-1].next_index == server.books.size


def test_a_place_beyond_the_log_is_refused_at_once(server):
    start = time.monotonic()
    with Client(server.address, principal="auditor-1") as client, pytest.raises(api.BeyondLog):
        list(client.entries(server.books.size + 1))
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("shift", [1, -1])
def test_entries_out_of_order_are_noticed(server, monkeypatch, shift):
    read = server.books.log.read
    with Client(server.address, principal="auditor-1") as client:
        monkeypatch.setattr(server.books.log, "read", lambda start, stop: ((i + shift, t, d) for i, t, d in read(start, stop)))
        with pytest.raises(api.DataLoss):
            list(client.entries(3, stop_when_caught_up=True))


# ---- transfers -----------------------------------------------------------------------------------------------------------------------


def test_transfers_have_outcomes_in_order(server, broker):
    wanted = [transfer(1 + n % 7) for n in range(5_000)]
    wanted[7] = transfer(10**12)
    wanted[4_321] = transfer(source="book:broker-b/alice")
    outcomes = list(broker.transfers(wanted, window=700))
    assert [outcome.position for outcome in outcomes] == list(range(5_000))
    assert [outcome.transfer.units for outcome in outcomes] == [each.units for each in wanted]
    assert {o.position: o.refusal.reason_name for o in outcomes if o.refusal} == {7: "UNITS_INSUFFICIENT", 4_321: "NOT_PERMITTED"}
    refused = outcomes[7].refusal
    assert isinstance(refused, api.RuleViolated)
    assert refused.request_id == outcomes[7].transfer.request_id
    assert int(refused.metadata["needed"]) - int(refused.metadata["free"]) == 10**12 + 28 - 1_000_000
    assert held(server.books) == sum(each.units for n, each in enumerate(wanted) if n not in (7, 4_321))


def test_a_stream_that_is_quiet_for_a_while_goes_on(server, broker):
    with broker.transfer_stream() as stream:
        for number in range(5):
            assert stream.send(transfer()) == number
            wait_until(lambda: not stream.unacknowledged)
            assert [outcome.position for outcome in stream.outcomes()] == [number]
            time.sleep(0.05)
        assert list(stream.finish()) == []
    with pytest.raises(ValueError, match="finished"):
        stream.send(transfer())


def test_a_block_left_waits_for_what_was_sent(server, broker):
    with broker.transfer_stream() as stream:
        for _ in range(300):
            stream.send(transfer())
    assert held(server.books) == 300
    assert len(list(stream.outcomes())) == 300


def test_a_block_left_by_an_exception_does_not_wait(server, broker):
    stream = broker.transfer_stream()
    stream.send(transfer())
    stream.__exit__(ZeroDivisionError, None, None)
    assert not stream._thread.is_alive()


def test_a_stream_through_cuts_and_swallowed_answers(server):
    with Proxy(server.server.port) as proxy, Client(proxy.address, principal="broker-a", seconds=20) as client:
        stop = threading.Event()

        def break_it():
            for turn in itertools.count():
                time.sleep(0.3)
                proxy.swallow = turn % 3 == 1
                if turn % 3 != 1:
                    proxy.cut()
                if stop.is_set():
                    return

        breaker = threading.Thread(target=break_it, daemon=True)
        breaker.start()
        outcomes = []
        with client.transfer_stream(window=200) as stream:
            for _ in range(20_000):
                stream.send(transfer())
                outcomes += stream.outcomes()
                if len(outcomes) >= 4_000:
                    break
            stop.set()
            breaker.join()
            proxy.swallow = False
            proxy.cut()
            outcomes += stream.finish()
    assert [outcome.position for outcome in outcomes] == list(range(len(outcomes)))
    assert not [outcome for outcome in outcomes if outcome.refusal]
    assert held(server.books) == len(outcomes) >= 4_000


def test_a_stream_that_may_not_be_fails_with_its_reason(server):
    with Client(server.address, principal="auditor-1") as client:
        outcomes = list(client.transfers([transfer()]))
        assert outcomes[0].refusal.reason_name == "NOT_PERMITTED"
    with Client(server.address, principal="not a principal") as client, pytest.raises(api.NotPermitted):
        list(client.transfers([transfer()]))
    with Proxy(1) as nobody, Client(nobody.address, principal="broker-a", seconds=1) as client:
        stream = client.transfer_stream()
        stream.send(transfer())
        with pytest.raises(api.NoAnswer):
            list(stream.finish())
        assert len(stream.unacknowledged) == 1
        stream.close()


# ---- a server killed -----------------------------------------------------------------------------------------------------------------


def test_a_server_killed_again_and_again_loses_and_doubles_nothing(tmp_path):
    """Four kinds of callers at work through six SIGKILLs: each request is booked once, and what an auditor follows is the log."""
    store = url_of(tmp_path)
    open_funded(store).close()
    wanted = {name: [funded_transfer(n % 4, (n + 1) % 4, request_id=new_request_id()) for n in range(400)] for name in ("a", "b")}
    streamed = [funded_transfer(n % 4, (n + 1) % 4, request_id=new_request_id()) for n in range(6_000)]
    acknowledged, seen, done = {}, [], threading.Event()
    with ServerProcess(store, operators="operator") as server, Client(server.address, seconds=60) as client:

        def execute(commands):
            for command in commands:
                acknowledged[command.request_id] = client.execute(command).booking.index
                time.sleep(0.005)

        def stream():
            with client.transfer_stream(window=100) as sent:
                for command in streamed:
                    sent.send(command)
                    time.sleep(0.0003)
                    acknowledged.update({o.transfer.request_id: None for o in sent.outcomes() if o.refusal is None})
                acknowledged.update({o.transfer.request_id: None for o in sent.finish() if o.refusal is None})

        def follow():
            for piece in client.entries(seconds=60):
                seen.extend(piece.entries)
                if done.is_set() and piece.next_index >= piece.size:
                    return

        callers = [threading.Thread(target=execute, args=(commands,)) for commands in wanted.values()]
        callers.append(threading.Thread(target=stream))
        auditor = threading.Thread(target=follow)
        for thread in (*callers, auditor):
            thread.start()
        for _ in range(6):
            time.sleep(0.35)
            server.kill()
            server.start()
        for thread in callers:
            thread.join(120)
        done.set()
        client.execute(funded_transfer(request_id=new_request_id()))
        auditor.join(60)
        assert not auditor.is_alive()
        server.kill()
    everything = [command.request_id for commands in (*wanted.values(), streamed) for command in commands]
    assert sorted(acknowledged) == sorted(everything)
    with Ledger.open(store) as books:
        found = {}
        for _, request, index in booked_requests(books):
            assert request not in found, "booked twice"
            found[request] = index
        assert set(everything) <= set(found)
        assert all(index is None or found[request] == index for request, index in acknowledged.items())
        assert [(e.index, e.data) for e in seen] == [(i, d) for i, _, d in books.log.read(0, books.size)]
        assert sum(books.holding("AAPLx", name) for name in ACCOUNTS) == 4_000_000
