"""The broker of a holder, and the grants by principal that the server goes by."""

from __future__ import annotations

from typing import Any

import pytest
from scenario import Scenario, holder

from stockledger.v1.accounts_pb2 import AmendHolderRequest, GetHolderRequest, HolderAmended, HolderRegistered, InvestorClass
from stockledger.v1.approvals_pb2 import GrantRoleRequest, RevokeRoleRequest, Role

RETAIL = InvestorClass.INVESTOR_CLASS_RETAIL


def registered(broker: str) -> Any:
    command = holder("h-1")
    command.broker = broker
    return command


def broker_of(books: Scenario, name: str) -> str:
    return str(books.books.execute(GetHolderRequest(holder=name)).holder.broker)


def test_a_holder_is_brought_by_a_broker_or_by_none() -> None:
    event = HolderRegistered(holder="h-1", country="DE", investor_class=RETAIL, broker="broker-a")
    books = Scenario().when(registered("broker-a")).then(event)
    assert broker_of(books, "h-1") == "broker-a"
    assert broker_of(Scenario().given(registered("")), "h-1") == ""


@pytest.mark.parametrize("broker", ["broker a", "a/b", "/", "x" * 65, "b:c"])
def test_a_broker_that_is_no_id_is_refused(broker: str) -> None:
    books = Scenario().when(registered(broker)).raises("FIELD_MALFORMED", field="broker")
    books.given(registered("x" * 64)).when(AmendHolderRequest(holder="h-1", broker=broker)).raises("FIELD_MALFORMED", field="broker")


def test_a_holder_changes_its_broker() -> None:
    books = Scenario().given(registered("broker-a"))
    books.when(AmendHolderRequest(holder="h-1", broker="broker-a")).raises("NOTHING_TO_CHANGE")
    books.when(AmendHolderRequest(holder="h-1", broker="broker-b")).then(HolderAmended(holder="h-1", broker="broker-b"))
    books.when(AmendHolderRequest(holder="h-1", broker="")).then(HolderAmended(holder="h-1", broker=""))
    assert broker_of(books, "h-1") == ""


def test_grants_are_kept_by_principal_too() -> None:
    books = Scenario()
    grants = [(Role.ROLE_BROKER, "broker-b"), (Role.ROLE_AUDITOR, ""), (Role.ROLE_BROKER, "broker-a")]
    books.given(*(GrantRoleRequest(principal="p", role=role, scope=scope) for role, scope in grants))
    state = books.books._state
    assert state.grants == {"p": tuple(sorted((int(role), scope) for role, scope in grants))}
    for role, scope in grants:
        books.given(RevokeRoleRequest(principal="p", role=role, scope=scope))
        assert {(principal, *grant) for principal, held in state.grants.items() for grant in held} == set(state.roles)
    assert state.grants == {}
