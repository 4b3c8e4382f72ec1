"""Every cell of the table RPC x role, over the wire; and that the table and the words it goes by leave nothing out."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from grpc_server_thread import GRANTS, METHODS, Client, RunningServer, book, market

from ledger.sent_transfers import SentTransfers
from services.grpc_server.authorization import ROLES, TABLE, Permission, admits, authorize_all, cells_of, permission_of
from services.grpc_server.subjects import HARMLESS, KINDS, Kind, fields_of
from services.grpc_server.visibility import COLUMNS, HIDDEN_EVENTS, PRIVATE_EVENTS, PUBLIC_EVENTS, REQUESTERS_EVENTS
from stockledger.v1.approvals_pb2 import GrantRoleRequest, RevokeRoleRequest, Role
from stockledger.v1.events_pb2 import Entry
from stockledger.v1.holds_pb2 import HoldPurpose, PlaceHoldRequest
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

PRINCIPAL_OF = {role: principal for principal, (role, _) in GRANTS.items() if principal != "broker-b"}
OWN = {
    Kind.ACCOUNT: "book:broker-a/alice",
    Kind.NEW_ACCOUNT: "book:broker-a/new",
    Kind.HOLDER: "broker-a/alice",
    Kind.NEW_HOLDER: "broker-a/new",
    Kind.BROKER: "broker-a",
    Kind.INSTRUMENT: "AAPLx",
}
FOREIGN = {
    Kind.ACCOUNT: "book:broker-b/alice",
    Kind.NEW_ACCOUNT: "book:broker-b/new",
    Kind.HOLDER: "broker-b/alice",
    Kind.NEW_HOLDER: "broker-b/new",
    Kind.BROKER: "broker-b",
    Kind.INSTRUMENT: "AAPLx",
    Kind.PRINCIPAL: "broker-b",
    Kind.SUBSCRIPTION: 999,
    Kind.REDEMPTION: 999,
    Kind.APPROVAL: 999,
    Kind.INSTRUCTION: "4711-0",
}
UNKNOWN = FOREIGN | {Kind.ACCOUNT: "book:nobody", Kind.HOLDER: "nobody", Kind.BROKER: "nobody", Kind.PRINCIPAL: "nobody"}


@pytest.fixture(scope="module")
def server():
    with market() as books:
        for broker in ("broker-a", "broker-b"):
            hold = PlaceHoldRequest(
                instrument="AAPLx", account=f"book:{broker}/bob", units=100, purpose=HoldPurpose.HOLD_PURPOSE_ORDER, reference=broker
            )
            book(books, hold)
        with RunningServer(books, local_principals=True) as running:
            yield running


@pytest.fixture(scope="module")
def clients(server):
    opened = {principal: Client(server.address, principal) for principal in [*GRANTS, "nobody-1"]}
    yield opened
    for client in opened.values():
        client.channel.close()


def fill(message, values, owner_hold):
    """Fill every field that names something; the rest stays as it is."""
    for name, kind, repeated, _ in fields_of(message.DESCRIPTOR).subjects:
        if kind is Kind.HOLD:
            value = owner_hold
        elif kind is Kind.ACCOUNT_NUMBER:
            value = values.get(kind, 0)
        else:
            value = values.get(kind)
        if value is None:
            continue
        if repeated:
            getattr(message, name).append(value)
        else:
            setattr(message, name, value)
    for name, repeated in fields_of(message.DESCRIPTOR).nested:
        if name == "as_of":
            continue
        child = getattr(message, name)
        if repeated:
            fill(child.add(), values, owner_hold)
        elif fields_of(child.DESCRIPTOR).subjects:
            fill(child, values, owner_hold)
    if "validate_only" in message.DESCRIPTOR.fields_by_name:
        message.validate_only = True
    if "stop_when_caught_up" in message.DESCRIPTOR.fields_by_name:
        message.stop_when_caught_up = True
    if "request_id" in message.DESCRIPTOR.fields_by_name and message.DESCRIPTOR.name == "TransferUnitsRequest":
        message.request_id = "01a204c1-7cd9-71d3-9694-f209ce5c8b25"
    return message


def outcome(client, rpc, values, hold):
    """Return "OK" or the reason. A transfer stream answers with a refusal instead of ending."""
    method = METHODS[rpc]
    request = fill(method.input_type._concrete_class(), values, hold)
    if not method.client_streaming:
        return client.reason(rpc, request)
    try:
        answers = list(client.call(rpc, iter([request])))
    except grpc.RpcError as error:
        return error.code().name
    return answers[0].refusals[0].reason if answers[0].refusals else "OK"


def test_every_rpc_has_a_row_and_every_row_an_rpc():
    assert sorted(TABLE) == sorted(METHODS)
    assert all(len(row.split()) == len(ROLES) and set(row.split()) <= set("=+o.") for row in TABLE.values())
    assert set(ROLES) == {role for role in Role.values() if role}


@pytest.mark.parametrize("role", ROLES, ids=Role.Name)
@pytest.mark.parametrize("rpc", sorted(METHODS))
def test_cell(server, clients, rpc, role):
    """A refused cell is refused whatever is named; an open one is not; one's own is open to what is his own alone."""
    cell, client = cells_of(rpc)[role], clients[PRINCIPAL_OF[role]]
    state = server.books._state
    own = OWN | {Kind.PRINCIPAL: PRINCIPAL_OF[role], Kind.ACCOUNT_NUMBER: state.accounts["book:broker-a/alice"].number}
    foreign = FOREIGN | {Kind.ACCOUNT_NUMBER: state.accounts["book:broker-b/alice"].number}
    unknown = UNKNOWN | {Kind.ACCOUNT_NUMBER: 9_999}
    if cell == ".":
        assert {outcome(client, rpc, values, hold) for values, hold in ((own, 1), (foreign, 2))} == {"NOT_PERMITTED"}
        return
    assert outcome(client, rpc, own, 1) != "NOT_PERMITTED" or rpc == "AuditService/GetReceipt"
    if cell != "o":
        assert outcome(client, rpc, foreign, 2) != "NOT_PERMITTED"
        return
    names_something = any(kind not in (Kind.INSTRUMENT, Kind.ENTRY) for kind in kinds_in(METHODS[rpc].input_type))
    if names_something:
        assert outcome(client, rpc, foreign, 2) == "NOT_PERMITTED"
        assert outcome(client, rpc, unknown, 999) == "NOT_PERMITTED"


def kinds_in(descriptor):
    found = {field.kind for field in fields_of(descriptor).subjects}
    for name, _ in fields_of(descriptor).nested:
        if name != "as_of":
            found |= kinds_in(descriptor.fields_by_name[name].message_type)
    return found


@pytest.mark.parametrize("rpc", sorted(METHODS))
def test_without_a_role_nothing_is_permitted(clients, rpc):
    assert outcome(clients["nobody-1"], rpc, OWN, 1) in ("NOT_PERMITTED", "PERMISSION_DENIED")


def test_every_field_of_what_brokers_may_ask_is_known_to_name_something_or_nothing():
    unknown = set()

    def look(descriptor):
        for field in descriptor.fields:
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                look(field.message_type)
            elif field.name not in KINDS and field.name not in HARMLESS:
                unknown.add(f"{descriptor.name}.{field.name}")

    for rpc, method in METHODS.items():
        if cells_of(rpc)[Role.ROLE_BROKER] == "o":
            look(method.input_type)
    assert unknown == set()


def test_every_event_is_public_private_or_hidden():
    events = [field.name for field in Entry.DESCRIPTOR.oneofs_by_name["event"].fields]
    known = [*PUBLIC_EVENTS, *PRIVATE_EVENTS, *REQUESTERS_EVENTS, *HIDDEN_EVENTS]
    assert sorted(known) == sorted(events)


def test_every_column_of_private_events_is_known():
    """A list of numbers that no table knows would be shown whole."""
    missing = []

    def look(descriptor):
        listed = {
            name for group in COLUMNS.get(descriptor.name, ()) for name in (*group.keys, *sum(group.keys.values(), ()), *group.shared)
        }
        for field in descriptor.fields:
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                look(field.message_type)
            elif field.is_repeated and field.name not in listed:
                missing.append(f"{descriptor.name}.{field.name}")

    for field in Entry.DESCRIPTOR.oneofs_by_name["event"].fields:
        if field.name in PRIVATE_EVENTS:
            look(field.message_type)
    assert missing == []


def test_a_scope_limits_an_issuer_to_an_instrument_and_a_custodian_to_himself(server):
    state = server.books._state
    request = METHODS["InstrumentService/HaltInstrument"].input_type._concrete_class
    issuer = permission_of("i", ((Role.ROLE_ISSUER, "AAPLx"),), "InstrumentService/HaltInstrument")
    assert issuer == Permission("i", instruments=frozenset({"AAPLx"}))
    assert admits(issuer, state, request(instrument="AAPLx"))
    assert not admits(issuer, state, request(instrument="USDC"))
    assert not admits(issuer, state, request())
    evidence = METHODS["ReserveService/RecordEvidence"].input_type._concrete_class
    custodian = permission_of("c", ((Role.ROLE_CUSTODIAN, "acme-custody"),), "ReserveService/RecordEvidence")
    assert admits(custodian, state, evidence(signer="acme-custody"))
    assert not admits(custodian, state, evidence(signer="other"))


def test_a_scope_that_is_not_understood_permits_nothing():
    assert permission_of("o", ((Role.ROLE_OPERATOR, "AAPLx"),), "TransferService/TransferUnits") is None


def test_a_broker_without_scope_is_the_broker_of_his_own_name():
    permission = permission_of("broker-z", ((Role.ROLE_BROKER, ""),), "TransferService/TransferUnits")
    assert permission.brokers == {"broker-z"}


def test_a_revoked_role_ends_at_once(server, clients):
    book(server.books, GrantRoleRequest(principal="nobody-1", role=Role.ROLE_AUDITOR))
    request = METHODS["AccountService/GetAccount"].input_type._concrete_class(account="book:house")
    assert clients["nobody-1"].reason("AccountService/GetAccount", request) == "OK"
    book(server.books, RevokeRoleRequest(principal="nobody-1", role=Role.ROLE_AUDITOR))
    assert clients["nobody-1"].reason("AccountService/GetAccount", request) == "NOT_PERMITTED"


def test_transfers_of_a_stream_are_permitted_as_each_alone():
    """A broker's are looked at together where all accounts are his own; nothing but accounts and the instrument may be named by them."""
    named = {(field.name, field.kind) for field in fields_of(TransferUnitsRequest.DESCRIPTOR).subjects}
    assert named == {("instrument", Kind.INSTRUMENT), ("source", Kind.ACCOUNT), ("destination", Kind.ACCOUNT)}
    ends = ("book:broker-a/alice", "book:broker-a/bob", "book:broker-b/bob", "book:house", "book:nobody", "ledger:issuance", "")
    each = [TransferUnitsRequest(source=source, destination=destination) for source in ends for destination in ends]
    rpc = "TransferService/StreamTransfers"
    with market() as books:

        def asked(principal: str, requests: Any) -> tuple[Any, list[bool]]:
            permission, refusals = books.look(lambda state: authorize_all(state, principal, frozenset(), rpc, requests))
            return permission, [refused is not None for refused in refusals]

        for principal in ("broker-a", "operator-1", "nobody"):
            for request in each:
                assert asked(principal, SentTransfers([request.SerializeToString()])) == asked(principal, (request,))
            together = SentTransfers([request.SerializeToString() for request in each])
            assert asked(principal, together) == asked(principal, each)
        foreign = [not {request.source, request.destination} <= {*ends[:2], ""} for request in each]
        assert asked("broker-a", each)[1] == foreign
