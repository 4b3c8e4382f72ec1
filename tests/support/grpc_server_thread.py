"""A real server on a real socket, in a thread of its own, for tests that talk to it as clients do."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any, Self

import grpc
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from scenario import account, cash, holder, stock

from ledger import Ledger
from ledger.request_ids import RequestIds, format_request_id
from services.grpc_server.server import Server
from services.grpc_server.servicers import services
from services.grpc_server.settings import ServerSettings
from stockledger.v1.accounts_pb2 import RegisterHolderRequest
from stockledger.v1.approvals_pb2 import ApproveCommandRequest, GrantRoleRequest, Role

_IDS = RequestIds()
METHODS = {f"{s.name}/{m.name}": m for s in services().values() for m in s.methods}


class RunningServer:
    """Starts on entering, stops on leaving; the event loop runs in a thread."""

    def __init__(self, books: Ledger, **settings: Any) -> None:
        self.books = books
        self.settings = ServerSettings(**({"address": "127.0.0.1:0", "stop_seconds": 5} | settings))
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.stopped = False

    def __enter__(self) -> Self:
        self.thread.start()
        self.server: Server = self.run(Server.start(self.books, self.settings))
        self.address = f"localhost:{self.server.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            self.run(self.server.stop())


class Client:
    """Calls RPCs by "Service/Method" with request messages."""

    def __init__(self, address: str, principal: str = "", token: str = "", credentials: grpc.ChannelCredentials | None = None) -> None:
        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = (
            grpc.insecure_channel(address, options) if credentials is None else grpc.secure_channel(address, credentials, options)
        )
        self.metadata = [("stockledger-principal", principal)] if principal else []
        if token:
            self.metadata.append(("authorization", f"Bearer {token}"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def multicallable(self, rpc: str, *, raw: bool = False) -> Any:
        method = METHODS[rpc]
        kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
        serializer = None if raw else (lambda message: message.SerializeToString())
        return getattr(self.channel, kind)(
            f"/{method.containing_service.full_name}/{method.name}", serializer, GetMessageClass(method.output_type).FromString
        )

    def call(self, rpc: str, request: Any, timeout: float = 10, raw: bool = False) -> Any:
        return self.multicallable(rpc, raw=raw)(request, timeout=timeout, metadata=self.metadata)

    def refused(self, rpc: str, request: Any, timeout: float = 10, raw: bool = False) -> Refused:
        """Call, and return how it was refused."""
        try:
            answer = self.call(rpc, request, timeout, raw)
            if METHODS[rpc].server_streaming:
                answer = list(answer)
        except grpc.RpcError as error:
            return Refused(error)
        raise AssertionError(f"not refused: {answer}")

    def reason(self, rpc: str, request: Any) -> str:
        """Call, and return "OK" or the reason (or code) of the refusal."""
        try:
            answer = self.call(rpc, request)
            if METHODS[rpc].server_streaming:
                list(answer)
        except grpc.RpcError as error:
            refused = Refused(error)
            return refused.info.reason or refused.code.name
        return "OK"


class Refused:
    """A refusal as a client sees it, with its details."""

    def __init__(self, error: Any) -> None:
        self.code: grpc.StatusCode = error.code()
        self.message: str = error.details()
        self.info, self.bad_request, self.retry = ErrorInfo(), BadRequest(), RetryInfo()
        for key, value in error.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                for detail in Status.FromString(value).details:
                    for message in (self.info, self.bad_request, self.retry):
                        if detail.Is(message.DESCRIPTOR):
                            detail.Unpack(message)


GRANTS = {
    "operator-1": (Role.ROLE_OPERATOR, ""),
    "issuer-1": (Role.ROLE_ISSUER, ""),
    "approver-1": (Role.ROLE_APPROVER, ""),
    "custodian-1": (Role.ROLE_CUSTODIAN, ""),
    "broker-a": (Role.ROLE_BROKER, "broker-a"),
    "broker-b": (Role.ROLE_BROKER, "broker-b"),
    "exchange-1": (Role.ROLE_EXCHANGE, ""),
    "auditor-1": (Role.ROLE_AUDITOR, ""),
    "worker-1": (Role.ROLE_WORKER, ""),
    "enforcer-1": (Role.ROLE_ENFORCER, ""),
}


def book(books: Ledger, *commands: Any, principal: str = "founder") -> None:
    """Book commands in process, approvals included."""
    for command in commands:
        answer = books.execute(command, principal=principal)
        if answer.booking.approval:
            books.execute(ApproveCommandRequest(approval=answer.booking.approval), principal="second")


def broker_holder(broker: str, name: str) -> RegisterHolderRequest:
    registered = holder(f"{broker}/{name}")
    registered.broker = broker
    return registered


def request_id() -> str:
    """Return a new request id of now."""
    return format_request_id(_IDS.make(time.time_ns() // 1_000_000))


def give(books: Ledger, instrument: str, account_name: str, units: int) -> None:
    """Put units onto an account, past issuance rules, as the log would have them."""
    state = books._state
    state.post(state.instruments[instrument].number, 0, state.accounts[account_name].number, units)


def market(url: str = "sqlite:///:memory:", **options: Any) -> Ledger:
    """Two brokers with two clients each, a house account of nobody's, roles for everybody, and units."""
    books = Ledger.open(url, ledger_id="market", **options)
    book(books, stock(), cash(), holder("house"), account("book:house", "house"))
    for broker in ("broker-a", "broker-b"):
        for name in ("alice", "bob"):
            book(books, broker_holder(broker, name), account(f"book:{broker}/{name}", f"{broker}/{name}"))
            give(books, "AAPLx", f"book:{broker}/{name}", 1_000_000)
            give(books, "USDC", f"book:{broker}/{name}", 1_000_000)
    give(books, "AAPLx", "book:house", 1_000_000)
    for principal, (role, scope) in GRANTS.items():
        book(books, GrantRoleRequest(principal=principal, role=role, scope=scope))
    return books
