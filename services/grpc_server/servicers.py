"""One handler for every RPC, made from the service descriptors: a request that is a command is booked, one that is a read is read.

Nothing stands here by the name of a capability. An RPC is served as soon as the ledger has a rule or a read for its request, and its row
in the table of authorization.py says who may call it.
"""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf.message_factory import GetMessageClass

import stockledger.v1
from ledger import audit
from ledger.errors import LedgerError
from ledger.reads import READS
from ledger.reads.pages import PAGE_SIZE_MAX, page_size_of
from ledger.rules import RULES
from services.grpc_server.authorization import authorize, authorize_all, not_permitted
from services.grpc_server.group_commit import Job
from services.grpc_server.subjects import Owner
from services.grpc_server.visibility import is_own_throughout, show_answer
from stockledger.v1.audit_pb2 import FindRequestRequest, GetReceiptRequest
from stockledger.v1.events_pb2 import Entry

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from google.protobuf.descriptor import ServiceDescriptor

    from ledger import Answers, Ledger
    from ledger.leadership import Leadership
    from ledger.state import State
    from services.grpc_server.authorization import Permission
    from services.grpc_server.group_commit import GroupCommit
    from services.grpc_server.interceptors import Call, Gate
    from services.grpc_server.page_tokens import PageTokens
    from services.grpc_server.streams import Streams

PAGES_SCANNED_MAX: Final = 20
"""Pages of the ledger looked through for one page of a caller who sees little of it; then he gets what there is, and a token."""


def services() -> dict[str, ServiceDescriptor]:
    """Return the services of protos/ by name."""
    found: dict[str, ServiceDescriptor] = {}
    for module in pkgutil.iter_modules(stockledger.v1.__path__):
        if module.name.endswith("_pb2"):
            file = importlib.import_module(f"stockledger.v1.{module.name}").DESCRIPTOR
            found |= file.services_by_name
    return dict(sorted(found.items()))


class AllServices(grpc.GenericRpcHandler):
    """All services as one handler: gRPC asks its handlers one after the other, at every call."""

    def __init__(self, handlers: dict[str, grpc.GenericRpcHandler]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: Any) -> Any:
        _, service, _ = f"{handler_call_details.method}//".split("/", 2)
        handler = self._handlers.get(service)
        return None if handler is None else handler.service(handler_call_details)


class Servicers:
    """Answers unary calls."""

    def __init__(
        self,
        *,
        books: Ledger,
        gate: Gate,
        commits: GroupCommit,
        readers: Executor,
        page_tokens: PageTokens,
        operators: frozenset[str],
        streams: Streams,
        leadership: Leadership,
    ) -> None:
        self._books = books
        self._leadership = leadership
        self._gate = gate
        self._commits = commits
        self._readers = readers
        self._page_tokens = page_tokens
        self._operators = operators
        self._streams = streams

    def handlers(self) -> dict[str, grpc.GenericRpcHandler]:
        """Return the handlers of all services, by full name."""
        made = {}
        for service in services().values():
            methods = {method.name: self._handler(f"{service.name}/{method.name}", method) for method in service.methods}
            served = {name: handler for name, handler in methods.items() if handler is not None}
            made[service.full_name] = grpc.method_handlers_generic_handler(service.full_name, served)
        return made

    def _handler(self, rpc: str, method: Any) -> Any:
        request_type = GetMessageClass(method.input_type)
        if method.client_streaming or method.server_streaming:
            return self._streams.handler(rpc, request_type, self._gate)
        if request_type in RULES:
            return self._gate.unary(rpc, request_type, self._book)
        if request_type in READS or request_type in audit.READS:
            return self._gate.unary(rpc, request_type, self._read)
        return None

    # ---- commands -------------------------------------------------------------------------------------------------------------------

    async def _book(self, request: Any, call: Call) -> bytes:
        """Have a command booked along with all others that wait."""
        principal, rpc, operators = call.identity.principal, call.rpc, self._operators
        permission: Permission | None = None

        def check(state: State) -> list[LedgerError | None]:
            nonlocal permission
            permission, refusals = authorize_all(state, principal, operators, rpc, (request,))
            return refusals

        def finish(answers: Answers, refusals: list[LedgerError | None]) -> bytes:
            outcome = refusals[0] or answers[0]
            if isinstance(outcome, LedgerError):
                raise outcome
            assert permission is not None, "what was not refused was permitted"
            return self._shown(permission, outcome)

        job = Job((request,), principal, check, finish, deadline=call.deadline)
        try:
            data: bytes = await self._commits.submit(job)
        finally:
            call.span.step("wait", job.queued_ns, job.started_ns or job.queued_ns)
            call.span.step("decide and flush", job.started_ns or job.queued_ns, job.flushed_ns or job.queued_ns)
        return data

    def _shown(self, permission: Permission, answer: Any) -> bytes:
        """Return an answer as bytes, as far as its caller may see it."""
        if not permission.everything:
            answer = self._books.look(lambda state: show_answer(permission, state, answer))
        data: bytes = answer.SerializeToString()
        return data

    # ---- reads ----------------------------------------------------------------------------------------------------------------------

    async def _read(self, request: Any, call: Call) -> bytes:
        """Read in a thread of its own, so that a long read holds up nobody's command."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._read_now, request, call)

    def _read_now(self, request: Any, call: Call) -> bytes:
        principal, rpc = call.identity.principal, call.rpc
        self._leadership.refuse_to_read()
        if isinstance(request, FindRequestRequest) and not request.principal:
            request.principal = principal
        permission = self._books.look(lambda state: authorize(state, principal, self._operators, rpc, request))
        if isinstance(request, GetReceiptRequest) and not permission.everything:
            self._check_receipt(request, permission, rpc)
        if "page_token" not in request.DESCRIPTOR.fields_by_name:
            return self._shown(permission, self._books.execute(request, principal=principal))
        asked = type(request)()
        asked.CopyFrom(request)
        request.page_token = self._page_tokens.open(asked, principal)
        if permission.everything or permission.public:
            answer = self._books.execute(request, principal=principal)
        else:
            answer = self._page(request, permission)
        answer.next_page_token = self._page_tokens.seal(asked, principal, answer.next_page_token)
        return self._shown(permission, answer)

    def _page(self, request: Any, permission: Permission) -> Any:
        """Return a page of what the caller may see, gathered from as many pages of the ledger as it takes, within reason."""
        wanted = page_size_of(request)
        kept: list[Any] = []
        found: Any = None
        for _ in range(PAGES_SCANNED_MAX):
            request.page_size = PAGE_SIZE_MAX
            found, positions = self._visible(request, permission)
            while len(kept) + len(positions) > wanted:
                request.page_size = positions[wanted - len(kept) - 1] + 1
                found, positions = self._visible(request, permission)
            items = _items_of(found)
            kept += [items[position] for position in positions]
            request.page_token = found.next_page_token
            if not found.next_page_token or len(kept) >= wanted:
                break
        page = type(found)(size=found.size, next_page_token=found.next_page_token)
        _items_of(page).extend(kept)
        return page

    def _visible(self, request: Any, permission: Permission) -> tuple[Any, list[int]]:
        """Return a page of the ledger, and the positions of the items on it that the caller may see."""
        page = self._books.execute(request, principal=permission.principal)

        def positions(state: State) -> list[int]:
            visible = []
            for position, item in enumerate(_items_of(page)):
                alone = type(page)()
                _items_of(alone).append(item)
                if len(_items_of(show_answer(permission, state, alone))):
                    visible.append(position)
            return visible

        return page, self._books.look(positions)

    def _check_receipt(self, request: GetReceiptRequest, permission: Permission, rpc: str) -> None:
        """Refuse a receipt, which holds an entry as stored, unless all of the entry is the caller's own."""
        books = self._books
        if 0 <= request.index < books.size:
            entry = Entry.FromString(books.log.entry(request.index))
            if entry.principal == permission.principal and books.look(lambda state: _own(entry, permission, state)):
                return
        raise not_permitted(permission.principal, rpc)


def _own(entry: Entry, permission: Permission, state: State) -> bool:
    copy = Entry()
    copy.CopyFrom(entry)
    return is_own_throughout(copy, permission, Owner(state, permission.principal, permission.brokers))


def _items_field(page: Any) -> str:
    """Return the field of a list's answer that holds the items."""
    return str(next(field.name for field in page.DESCRIPTOR.fields if field.is_repeated and field.message_type is not None))


def _items_of(page: Any) -> Any:
    return getattr(page, _items_field(page))
