"""A broker's engineer with standard tools: reflection, a transfer, errors with details, retries, health."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_server_thread import METHODS, Client, RunningServer, book, give, market, request_id

from ledger import audit
from ledger.batch import Batch
from ledger.errors import refusal
from ledger.reads import READS
from ledger.rules import RULES
from services.grpc_server.servicers import services
from stockledger.client import Client as LedgerClient
from stockledger.v1.accounts_pb2 import GetHoldingRequest, ListAccountsRequest
from stockledger.v1.approvals_pb2 import GrantRoleRequest, ListApprovalPoliciesRequest, ListRolesRequest, Role
from stockledger.v1.audit_pb2 import FindRequestRequest, GetReceiptRequest
from stockledger.v1.common_pb2 import AsOf, LegColumns
from stockledger.v1.eligibility_pb2 import EligibilityRule, ListEligibilityRequest, SetEligibilityRequest
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.transfers_pb2 import TransferBatchRequest, TransferUnitsRequest

TRANSFER = "TransferService/TransferUnits"
BUF = shutil.which("buf") or next((str(p) for p in (Path(sys.executable).parent / "buf",) if p.exists()), None)


def transfer(**changes):
    fields = {"instrument": "AAPLx", "source": "book:broker-a/alice", "destination": "book:broker-a/bob", "units": 5}
    return TransferUnitsRequest(**(fields | changes))


@pytest.fixture(scope="module")
def server():
    with market() as books, RunningServer(books, local_principals=True) as running:
        yield running


@pytest.fixture
def operator(server):
    with Client(server.address) as client:
        yield client


def test_every_rpc_is_served(server):
    missing = []
    for rpc, method in METHODS.items():
        request_type = method.input_type._concrete_class
        streams = method.client_streaming or method.server_streaming
        if not (streams or request_type in RULES or request_type in READS or request_type in audit.READS):
            missing.append(rpc)
    assert missing == []


@pytest.mark.parametrize("rpc", sorted(METHODS))
def test_no_rpc_answers_unimplemented_or_internal(operator, rpc):
    method = METHODS[rpc]
    empty = method.input_type._concrete_class()
    if method.client_streaming:
        empty = iter([empty])
    elif method.server_streaming:
        empty.stop_when_caught_up = True
    assert operator.reason(rpc, empty) not in ("UNIMPLEMENTED", "INTERNAL", "UNKNOWN")


def test_a_transfer_is_booked_and_a_retry_gets_its_first_answer(operator, server):
    wanted = transfer(request_id=request_id())
    first = operator.call(TRANSFER, wanted)
    again = operator.call(TRANSFER, wanted)
    assert again.booking.index == first.booking.index
    assert (first.booking.repeated_answer, again.booking.repeated_answer) == (False, True)
    assert first.booking.size > first.booking.index
    wanted.units = 6
    refused = operator.refused(TRANSFER, wanted)
    assert (refused.code, refused.info.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    found = operator.call("AuditService/FindRequest", FindRequestRequest(request_id=wanted.request_id))
    assert (found.found, found.index) == (True, first.booking.index)


def test_validate_only_books_nothing(operator, server):
    before = server.books.size
    assert operator.call(TRANSFER, transfer(validate_only=True)).booking.index == -1
    assert server.books.size == before


REFUSALS = [
    (transfer(units=0), "INVALID_ARGUMENT", "UNITS_NOT_POSITIVE", "units"),
    (transfer(source=""), "INVALID_ARGUMENT", "FIELD_MISSING", "source"),
    (transfer(instrument="NONEx"), "NOT_FOUND", "INSTRUMENT_NOT_FOUND", None),
    (transfer(units=10**12), "FAILED_PRECONDITION", "UNITS_INSUFFICIENT", None),
    (transfer(request_id="no-uuid"), "INVALID_ARGUMENT", "FIELD_MALFORMED", "request_id"),
    (transfer(source="book:" + "x" * 100_000), "NOT_FOUND", "ACCOUNT_NOT_FOUND", None),
    (transfer(source="book:" + "\N{SNOWMAN}" * 50_000), "NOT_FOUND", "ACCOUNT_NOT_FOUND", None),
]


@pytest.mark.parametrize(("request_message", "code", "reason", "field"), REFUSALS)
def test_refusals_carry_details_that_a_program_can_act_on(operator, request_message, code, reason, field):
    refused = operator.refused(TRANSFER, request_message)
    assert (refused.code.name, refused.info.reason, refused.info.domain) == (code, reason, "stockledger")
    assert refused.message
    assert [violation.field for violation in refused.bad_request.field_violations] == ([field] if field else [])
    assert not refused.retry.HasField("retry_delay")


def test_bytes_that_are_no_message_are_refused_with_details(operator):
    refused = operator.refused(TRANSFER, b"\xff\xff\xff", raw=True)
    assert (refused.code.name, refused.info.reason) == ("INVALID_ARGUMENT", "FIELD_MALFORMED")
    assert refused.bad_request.field_violations


def test_an_unknown_field_is_refused(operator):
    refused = operator.refused(TRANSFER, transfer().SerializeToString() + bytes.fromhex("b23e0161"), raw=True)
    assert (refused.code.name, refused.info.reason) == ("INVALID_ARGUMENT", "FIELD_MALFORMED")


def test_reads_as_of_a_size_and_a_time(operator, server):
    get = "AccountService/GetHolding"
    holding = GetHoldingRequest(instrument="AAPLx", account="book:broker-a/alice", as_of=AsOf(size=server.books.size))
    first = operator.call(TRANSFER, transfer(source="book:house", destination="book:broker-b/bob"))
    beyond = operator.refused(get, GetHoldingRequest(as_of=AsOf(size=10**9)))
    assert (beyond.code.name, beyond.info.reason) == ("OUT_OF_RANGE", "INDEX_BEYOND_LOG")
    assert holding.as_of.size == first.booking.index


def test_pages_follow_one_another_and_their_tokens_are_sealed(operator, server):
    seen, token = [], ""
    while True:
        page = operator.call("AccountService/ListAccounts", ListAccountsRequest(page_size=2, page_token=token))
        seen += [account.account for account in page.accounts]
        token = page.next_page_token
        if not token:
            break
        assert not token.isdecimal()
        assert b"book" not in base64.urlsafe_b64decode(token)
    assert len(seen) == len(set(seen)) == len(server.books._state.accounts)


def test_every_read_of_the_books_can_be_as_of():
    assert [request.__name__ for request in READS if "as_of" not in request.DESCRIPTOR.fields_by_name] == []


def test_every_list_has_pages():
    """The log's own list goes on by index."""
    lists = [method for method in METHODS.values() if method.name.startswith("List") and method.name != "ListEntries"]
    assert len(lists) > 20
    paged = [
        method
        for method in lists
        if {"page_size", "page_token"} <= set(method.input_type.fields_by_name) and "next_page_token" in method.output_type.fields_by_name
    ]
    assert [method.name for method in paged] == [method.name for method in lists]


@pytest.mark.parametrize(
    ("rpc", "query", "other"),
    [
        ("ApprovalService/ListRoles", ListRolesRequest(), ListRolesRequest(principal="broker-a")),
        ("ApprovalService/ListApprovalPolicies", ListApprovalPoliciesRequest(), ListApprovalPoliciesRequest(as_of=AsOf(size=9))),
        ("EligibilityService/ListEligibility", ListEligibilityRequest(instrument="AAPLx"), ListEligibilityRequest(instrument="USDC")),
    ],
)
def test_pages_of_roles_policies_and_rules_by_tokens_of_their_own(operator, server, rpc, query, other):
    for country in ("US", "FR", "CH"):
        rule = EligibilityRule(effective_date="2026-01-01", barred_countries=[country])
        book(server.books, SetEligibilityRequest(instrument="AAPLx", rule=rule))
    with LedgerClient(server.address) as books:
        paged = type(query)()
        paged.CopyFrom(query)
        paged.page_size = 2
        whole = list(books.items(query))
        assert list(books.items(paged)) == whole
    assert len(whole) > 2
    token = operator.call(rpc, paged).next_page_token
    foreign = operator.call("AccountService/ListAccounts", ListAccountsRequest(page_size=2)).next_page_token
    for request, bad in ((other, token), (query, foreign), (query, "2"), (query, token[:-4] + "AAAA")):
        asked = type(request)()
        asked.CopyFrom(request)
        asked.page_token = bad
        refused = operator.refused(rpc, asked)
        assert (refused.info.reason, refused.info.metadata["field"]) == ("FIELD_MALFORMED", "page_token")
    with Client(server.address, "auditor-1") as auditor:
        paged.page_token = token
        assert auditor.refused(rpc, paged).info.reason == "FIELD_MALFORMED"


def test_the_token_of_the_longest_grant_is_taken_back(operator, server):
    widest = "\N{OLD ITALIC LETTER A}"
    book(server.books, *(GrantRoleRequest(principal=widest * 128, role=Role.ROLE_AUDITOR, scope=widest * n) for n in (140, 139)))
    request = ListRolesRequest(principal=widest * 128, page_size=1)
    pages = []
    while not pages or request.page_token:
        pages.append(operator.call("ApprovalService/ListRoles", request))
        request.page_token = pages[-1].next_page_token
    assert [len(page.grants[0].scope) for page in pages] == [139, 140]


def test_a_receipt_needs_a_signer(operator):
    refused = operator.refused("AuditService/GetReceipt", GetReceiptRequest(index=0))
    assert (refused.code.name, refused.info.reason) == ("FAILED_PRECONDITION", "STATE_UNFIT")


def test_a_batch_of_a_thousand_legs(operator, server):
    state = server.books._state
    source, destination = (state.accounts[f"book:broker-a/{name}"].number for name in ("alice", "bob"))
    legs = LegColumns(instrument="AAPLx", sources=[source, destination] * 500, destinations=[destination, source] * 500, units=[1] * 1000)
    assert operator.call("TransferService/TransferBatch", TransferBatchRequest(legs=[legs])).leg_count == 1000


def test_group_commit_shares_flushes(server):
    """Thirty-two callers at once: far fewer flushes than commands, and each gets his own answer."""
    before, flushes = server.books.size, []
    append = server.books._log.append
    server.books._log.append = lambda *arguments: (flushes.append(1), append(*arguments))[1]
    give(server.books, "AAPLx", "book:house", 10_000)
    answers = []

    def calls():
        with Client(server.address) as client:
            answers.extend(client.call(TRANSFER, transfer(source="book:house", units=1)).booking.index for _ in range(10))

    threads = [threading.Thread(target=calls) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.books._log.append = append
    assert sorted(answers) == list(range(before, before + 320))
    assert len(flushes) < 160, len(flushes)


def test_health_is_told_for_each_service(server):
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ["", *(service.full_name for service in services().values())]:
            assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.skipif(BUF is None, reason="buf is not installed")
def test_buf_curl_lists_services_and_performs_a_transfer(server):
    """Nothing is known but the address: the protos come by reflection."""

    def curl(*arguments):
        command = [BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    url = f"http://{server.address}"
    listed = curl("--list-services", url).stdout.split()
    assert {service.full_name for service in services().values()} <= set(listed)
    body = {"instrument": "AAPLx", "source": "book:broker-a/alice", "destination": "book:broker-a/bob", "units": 3}
    done = curl("--data", json.dumps(body), f"{url}/stockledger.v1.{TRANSFER}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["event"]["units"] == "3"
    refused = curl("--data", json.dumps(body | {"units": 10**12}), f"{url}/stockledger.v1.{TRANSFER}")
    error = json.loads(refused.stderr)
    assert error["code"] == "failed_precondition"
    detail = next(detail for detail in error["details"] if detail["type"] == "google.rpc.ErrorInfo")
    info = ErrorInfo.FromString(base64.b64decode(detail["value"] + "=="))
    assert (info.reason, info.metadata["needed"]) == ("UNITS_INSUFFICIENT", str(10**12))


def test_a_fault_of_ours_is_told_by_an_id_alone(operator, server, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("alice's secret")

    monkeypatch.setattr(server.books, "execute_group", broken)
    refused = operator.refused(TRANSFER, transfer())
    assert (refused.code.name, refused.info.reason) == ("INTERNAL", Reason.Name(Reason.REASON_INTERNAL).removeprefix("REASON_"))
    assert refused.info.metadata["correlation_id"] in refused.message
    assert "secret" not in refused.message


def test_a_store_that_is_away_is_told_with_when_to_try_again(operator, server, monkeypatch):
    def away(*_):
        raise refusal(Reason.REASON_STORE_UNAVAILABLE, "the disk is full", store="x")

    with monkeypatch.context() as patched:
        patched.setattr(server.books, "execute_group", away)
        refused = operator.refused(TRANSFER, transfer())
    assert (refused.code.name, refused.info.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
    assert refused.retry.retry_delay.nanos > 0
    stub = health_pb2_grpc.HealthStub(operator.channel)
    assert stub.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    operator.call(TRANSFER, transfer())
    deadline = time.monotonic() + 5
    while stub.Check(health_pb2.HealthCheckRequest()).status != health_pb2.HealthCheckResponse.SERVING:
        assert time.monotonic() < deadline


def test_a_fault_met_by_one_request_is_not_told_to_those_beside_it(server, monkeypatch):
    """Requests of one principal are decided together; a command that makes us stumble takes none of the others with it."""
    books = server.books
    give(books, "AAPLx", "book:house", 10_000)
    decide, decide_all, together = Batch._decide_one, Batch.decide, []
    execute_group = books.execute_group
    held = threading.Event()

    def stumbling(batch, command, principal):
        if getattr(command, "reference", "") == "stumble":
            raise ZeroDivisionError
        return decide(batch, command, principal)

    def slow(batches):
        held.wait(0.05)  # so that the others are there when this one is done
        return execute_group(batches)

    def recorded(batch, commands, principal, *, pack):
        together.append(len(commands))
        return decide_all(batch, commands, principal, pack=pack)

    monkeypatch.setattr(Batch, "_decide_one", stumbling)
    monkeypatch.setattr(Batch, "_book_at_once", lambda *_: None)
    monkeypatch.setattr(Batch, "decide", recorded)
    monkeypatch.setattr(books, "execute_group", slow)
    before = books.holding("AAPLx", "book:house")
    with Client(server.address) as client:
        call = client.multicallable(TRANSFER)
        wanted = [transfer(source="book:house", units=1, request_id=request_id()) for _ in range(40)]
        wanted[17].reference = "stumble"
        codes = [each.exception(timeout=20) for each in [call.future(message) for message in wanted]]
    assert max(together) > 1, "they were decided together"
    assert [place for place, error in enumerate(codes) if error is not None] == [17]
    assert codes[17].code() is grpc.StatusCode.INTERNAL
    assert books.holding("AAPLx", "book:house") == before - 39
