"""Who may do what is judged by the state a command is decided on, whatever else is in its group."""

from __future__ import annotations

import threading
import time
from dataclasses import fields
from typing import Any, Self

import grpc
import pytest
from grpc_server_thread import Client, Refused, RunningServer, book, market, request_id

from ledger import Ledger
from ledger.sent_transfers import SentTransfers
from ledger.state import State
from services.grpc_server.authorization import authorize_all
from stockledger.v1.accounts_pb2 import AmendHolderRequest, OpenAccountRequest
from stockledger.v1.approvals_pb2 import (
    ApprovalPolicy,
    ApproveCommandRequest,
    GrantRoleRequest,
    RevokeRoleRequest,
    Role,
    SetApprovalPolicyRequest,
)
from stockledger.v1.holds_pb2 import HoldPurpose, PlaceHoldRequest
from stockledger.v1.transfers_pb2 import StreamTransfersRequest, TransferUnitsRequest

TRANSFER, STREAM = "TransferService/TransferUnits", "TransferService/StreamTransfers"
ALICE, BOB = "book:broker-a/alice", "book:broker-a/bob"


def transfer(**changes: Any) -> TransferUnitsRequest:
    return TransferUnitsRequest(**({"instrument": "AAPLx", "source": ALICE, "destination": BOB, "units": 1} | changes))


class Group:
    """Sends requests one by one into one group, each in line behind the last, and lets the group go on leaving."""

    def __init__(self, server: RunningServer) -> None:
        self.answers: list[Any] = []
        self._server = server
        self._commits = server.server._commits
        self._open, self._entered = threading.Event(), threading.Event()
        self._clients: list[Client] = []
        self._carry_out, self._append = self._commits._carry_out, server.books._log.append
        self._sizes: list[int] = []

    def __enter__(self) -> Self:
        def append(*arguments: Any) -> Any:
            self._entered.set()
            assert self._open.wait(20)
            return self._append(*arguments)

        def carry_out(jobs: Any) -> Any:
            self._sizes.append(len(jobs))
            return self._carry_out(jobs)

        self._server.books._log.append = append
        self._commits._carry_out = carry_out
        self.send("operator-1", TRANSFER, transfer(), waiting=0)
        assert self._entered.wait(10), "a group is with the writer, so that what comes now makes the next one"
        return self

    def client(self, principal: str) -> Client:
        client = Client(self._server.address, principal)
        self._clients.append(client)
        return client

    def send(self, principal: str, rpc: str, request: Any, waiting: int | None = None) -> None:
        client = self.client(principal)
        self.answers.append(client.multicallable(rpc).future(request, metadata=client.metadata))
        self.await_line(len(self.answers) - 1 if waiting is None else waiting)

    def await_line(self, count: int) -> None:
        deadline = time.monotonic() + 10
        while len(self._commits._waiting) < count:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def __exit__(self, *_: object) -> None:
        self._open.set()
        self.answers = [answer.exception(timeout=20) or answer.result() for answer in self.answers][1:]
        self._server.books._log.append, self._commits._carry_out = self._append, self._carry_out
        for client in self._clients:
            client.channel.close()
        assert len(self._sizes) == 2, "all requests were in one group"

    @property
    def reasons(self) -> list[str]:
        return [Refused(answer).info.reason if isinstance(answer, grpc.RpcError) else "OK" for answer in self.answers]


@pytest.fixture
def server():
    with market() as books, RunningServer(books, local_principals=True) as running:
        yield running


def give_holder_away(books: Ledger) -> tuple[str, str, Any]:
    return "operator-1", "AccountService/AmendHolder", AmendHolderRequest(holder="broker-a/alice", broker="broker-b")


def approve(command: Any) -> Any:
    def change(books: Ledger) -> tuple[str, str, Any]:
        approval = books.execute(command, principal="founder").booking.approval
        return "approver-1", "ApprovalService/ApproveCommand", ApproveCommandRequest(approval=approval)

    return change


def without_approval(command: Any) -> Any:
    def change(books: Ledger) -> tuple[str, str, Any]:
        name = type(command).DESCRIPTOR.name.removesuffix("Request")
        book(books, SetApprovalPolicyRequest(policy=ApprovalPolicy(command=name)))
        return "operator-1", f"ApprovalService/{name}", command

    return change


def open_account(books: Ledger) -> tuple[str, str, Any]:
    return "broker-a", "AccountService/OpenAccount", OpenAccountRequest(account="book:broker-a/new", holder="broker-a/alice")


BROKER_A = {"role": Role.ROLE_BROKER, "scope": "broker-a"}
REVOKE, GRANT = RevokeRoleRequest(principal="broker-a", **BROKER_A), GrantRoleRequest(principal="nobody-1", **BROKER_A)
HOLD = PlaceHoldRequest(instrument="AAPLx", account=ALICE, units=1, purpose=HoldPurpose.HOLD_PURPOSE_ORDER)
CHANGES = {
    "holder lost": (give_holder_away, "broker-a", TRANSFER, transfer(), ("OK", "NOT_PERMITTED")),
    "holder gained": (give_holder_away, "broker-b", "HoldService/PlaceHold", HOLD, ("NOT_PERMITTED", "OK")),
    "role revoked": (without_approval(REVOKE), "broker-a", TRANSFER, transfer(), ("OK", "NOT_PERMITTED")),
    "role granted": (without_approval(GRANT), "nobody-1", TRANSFER, transfer(), ("NOT_PERMITTED", "OK")),
    "role revoked by an approval": (approve(REVOKE), "broker-a", TRANSFER, transfer(), ("OK", "NOT_PERMITTED")),
    "role granted by an approval": (approve(GRANT), "nobody-1", TRANSFER, transfer(), ("NOT_PERMITTED", "OK")),
    "account opened by who uses it": (
        *(open_account, "broker-a", TRANSFER, transfer(destination="book:broker-a/new")),
        ("NOT_PERMITTED", "OK"),
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_before_the_change_one_is_true_and_behind_it_the_other(server, name):
    change, principal, rpc, request, (before, after) = CHANGES[name]
    change_request = change(server.books)
    with Group(server) as group:
        group.send(principal, rpc, request)
        group.send(*change_request)
        group.send(principal, rpc, request)
    assert group.reasons == [before, "OK", after]


@pytest.mark.parametrize("name", CHANGES)
def test_many_behind_the_change_are_judged_by_it(server, name):
    """Transfers that follow one another are decided together; so many that they are booked as whole columns."""
    change, principal, rpc, request, (before, after) = CHANGES[name]
    change_request = change(server.books)
    with Group(server) as group:
        for _ in range(3):
            group.send(principal, rpc, request)
        group.send(*change_request)
        for _ in range(60):
            group.send(principal, rpc, request)
    assert group.reasons == [before] * 3 + ["OK"] + [after] * 60


@pytest.mark.parametrize("name", ["holder lost", "role revoked", "role revoked by an approval"])
def test_a_stream_is_judged_message_by_message(server, name):
    change = CHANGES[name][0]
    change_request = change(server.books)
    outbox = threading.Event()

    def message(count: int) -> StreamTransfersRequest:
        return StreamTransfersRequest(transfers=[transfer(request_id=request_id()) for _ in range(count)])

    def sent():
        yield message(60)
        assert outbox.wait(20)
        yield message(70)

    with Group(server) as group:
        stream = group.client("broker-a").call(STREAM, sent(), timeout=30)
        group.await_line(1)
        group.send(*change_request, waiting=2)
        outbox.set()
        group.await_line(3)
        group._open.set()
        answers = list(stream)
    assert group.reasons == ["OK"]
    assert answers[-1].acknowledged_count == 130
    refused = {refused.position: refused.reason for answer in answers for refused in answer.refusals}
    assert refused == dict.fromkeys(range(60, 130), "NOT_PERMITTED")


def test_a_repeat_gets_its_first_answer_behind_a_change_and_nothing_more(server):
    """What was booked by somebody is told to him again though it is no longer his; who has lost his role is told nothing."""
    mine = transfer(request_id=request_id())
    other = transfer(request_id=mine.request_id, units=2)
    with Group(server) as group:
        group.send("broker-a", TRANSFER, mine)
        group.send(*give_holder_away(server.books))
        group.send("broker-a", TRANSFER, mine)
        group.send("broker-a", TRANSFER, other)
    assert group.reasons == ["OK", "OK", "OK", "REQUEST_ID_REUSED"]
    first, _, again, _ = group.answers
    assert (again.booking.index, again.booking.repeated_answer) == (first.booking.index, True)
    revoke = without_approval(REVOKE)(server.books)
    with Group(server) as group:
        group.send("broker-a", TRANSFER, mine)
        group.send(*revoke)
        group.send("broker-a", TRANSFER, mine)
    assert group.reasons == ["OK", "OK", "NOT_PERMITTED"]


class Recorded:
    """A state that tells which of its tables were looked at."""

    def __init__(self, state: State) -> None:
        self.looked_at: set[str] = set()
        self._state = state

    def __getattr__(self, name: str) -> Any:
        self.looked_at.add(name)
        return getattr(self._state, name)


def test_a_transfer_changes_nothing_that_permission_for_a_transfer_looks_at(server):
    """What makes it sound to look at the permission of many transfers before any of them is decided. Known requests only become more."""
    books, looked_at = server.books, set()
    for request in (transfer(), transfer(source="book:broker-b/alice"), transfer(source="book:nobody", request_id=request_id())):
        for requests in ((request,), SentTransfers([request.SerializeToString()])):
            for principal in ("broker-a", "operator-1", "issuer-1", "nobody-1"):
                recorded = Recorded(books._state)
                authorize_all(recorded, principal, frozenset(), TRANSFER, requests)
                looked_at |= recorded.looked_at
    assert looked_at == {"grants", "accounts", "holders", "requests"}
    before = {field.name: repr(getattr(books._state, field.name)) for field in fields(State) if field.name != "journal"}
    books.execute(transfer(), principal="broker-a")
    books.execute_many([transfer() for _ in range(60)], principal="broker-a", pack=True)
    book(books, SetApprovalPolicyRequest(policy=ApprovalPolicy(command="TransferUnits", approvals_needed=1)))
    books.execute(transfer(), principal="broker-a")
    changed = {name for name, value in before.items() if repr(getattr(books._state, name)) != value}
    assert "size" in changed
    assert changed & looked_at <= {"requests"}
