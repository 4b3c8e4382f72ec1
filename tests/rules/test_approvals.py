"""Four eyes and roles: policies, approvals by others, and what waits being decided by the rules and the state of the last approval."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from scenario import START_US, Scenario, enforcer, two_holders
from steps import check_repeat

from ledger.rules.approvals import APPROVED_BY_DEFAULT, CONTENT_BYTES_MAX, command_name
from stockledger.v1.accounts_pb2 import FreezeHolderRequest
from stockledger.v1.approvals_pb2 import (
    ApprovalGiven,
    ApprovalPolicy,
    ApprovalPolicySet,
    ApprovalRequested,
    ApproveCommandRequest,
    CommandDeclined,
    DeclineCommandRequest,
    GrantRoleRequest,
    ListApprovalPoliciesRequest,
    ListApprovalsRequest,
    ListRolesRequest,
    RevokeRoleRequest,
    Role,
    RoleGranted,
    RoleRevoked,
    SetApprovalPolicyRequest,
)
from stockledger.v1.common_pb2 import LegColumns
from stockledger.v1.transfers_pb2 import ForceTransferRequest, TransferBatchRequest, TransferUnitsRequest, UnitsTransferred


def transfer(**changes: Any) -> TransferUnitsRequest:
    return TransferUnitsRequest(**({"instrument": "AAPLx", "source": "book:alice", "destination": "book:bob", "units": 40} | changes))


def policy(command: str = "TransferUnits", needed: int = 1, *approvers: str) -> SetApprovalPolicyRequest:
    return SetApprovalPolicyRequest(policy=ApprovalPolicy(command=command, approvals_needed=needed, approvers=approvers))


def approve(number: int = 1, **changes: Any) -> ApproveCommandRequest:
    return ApproveCommandRequest(approval=number, **changes)


def decline(number: int = 2, cause: str = "") -> DeclineCommandRequest:
    return DeclineCommandRequest(approval=number, cause=cause)


@pytest.fixture
def books() -> Scenario:
    return Scenario().given(*two_holders()).units("AAPLx", "book:alice", 100)


def waiting(books: Scenario, needed: int = 1, *approvers: str, command: Any = None) -> int:
    """Put TransferUnits under a policy, ask for one, and return the number of its approval."""
    books.given(policy("TransferUnits", needed, *approvers))
    return books.when(command or transfer(), principal="alice").accepted().answer.booking.approval


def walk(books: Scenario, request: Any, field: str, size: int) -> list[Any]:
    """Return the items of a list, page after page; every page but the last is full."""
    found, request.page_size = [], size
    while True:
        page = books.books.execute(request)
        assert page.size == books.books.size
        found += (items := getattr(page, field))
        request.page_token = page.next_page_token
        if not request.page_token:
            assert len(items) <= size
            return found
        assert len(items) == size


# ---- policies ------------------------------------------------------------------------------------------------------------------------


def test_what_waits_by_default(books: Scenario) -> None:
    listed = books.books.execute(ListApprovalPoliciesRequest()).policies
    assert [found.command for found in listed] == sorted(command_name(command) for command in APPROVED_BY_DEFAULT)
    assert {found.approvals_needed for found in listed} == {1}
    assert {"IssueUnits", "ForceTransfer", "ReverseTransfer", "RecoverWallet", "GrantRole", "SetApprovalPolicy"} <= {
        found.command for found in listed
    }


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_pages_of_policies_are_the_list_cut_up(books: Scenario, size: int) -> None:
    whole = list(books.books.execute(ListApprovalPoliciesRequest()).policies)
    assert len(whole) > 3
    assert walk(books, ListApprovalPoliciesRequest(), "policies", size) == whole
    books.when(ListApprovalPoliciesRequest(page_size=1001)).raises("FIELD_MALFORMED")


def test_a_policy_waits_for_another_persons_approval_itself(books: Scenario) -> None:
    books.when(policy(), approver="operator").raises_after_booking("APPROVER_IS_REQUESTER")
    books.when(policy("TransferUnits", 2, "dave", "carol", "dave"), approver="approver").accepted()
    assert books.booked[-1] == ApprovalPolicySet(
        policy=ApprovalPolicy(command="TransferUnits", approvals_needed=2, approvers=["carol", "dave"])
    )


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", SetApprovalPolicyRequest()),
        ("FIELD_MISSING", policy("", -1)),
        ("FIELD_MALFORMED", policy("Transfer Units", -1)),
        ("FIELD_MALFORMED", policy("TransferUnit", 1)),
        ("FIELD_MALFORMED", policy("TransferUnitsRequest", 1)),
        ("FIELD_MALFORMED", policy("GetHolding", 1)),
        ("FIELD_MALFORMED", policy("ApproveCommand", 1)),
        ("FIELD_MALFORMED", policy("DeclineCommand", 1)),
        ("FIELD_MALFORMED", policy("TransferUnits", -1)),
        ("FIELD_MALFORMED", policy("TransferUnits", 17)),
        ("FIELD_MISSING", policy("TransferUnits", 1, "")),
        ("FIELD_MALFORMED", policy("TransferUnits", 1, "x" * 129)),
        ("FIELD_MALFORMED", policy("TransferUnits", 2, "carol", "carol")),
        ("TOO_MANY_ITEMS", policy("TransferUnits", 1, *(f"p-{number}" for number in range(33)))),
        ("NOTHING_TO_CHANGE", policy("TransferUnits", 0)),
        ("NOTHING_TO_CHANGE", policy("GrantRole", 1)),
    ],
)
def test_refusals_of_setting_a_policy(books: Scenario, reason: str, command: SetApprovalPolicyRequest) -> None:
    books.when(command).raises(reason)
    books.when(policy("TransferUnits", 16, *("é" * 127 + chr(97 + number) for number in range(32))), approver="approver").accepted()


def test_a_policy_of_none_lets_commands_pass(books: Scenario) -> None:
    books.given(policy("GrantRole", 0)).when(enforcer()).accepted()
    assert books.answer.booking.approval == 0


def test_setting_a_policy_again_gets_the_first_answer(books: Scenario) -> None:
    check_repeat(books, policy(), policy("TransferUnits", 2))


# ---- asked for -----------------------------------------------------------------------------------------------------------------------


def test_what_waits_books_nothing_but_the_asking(books: Scenario) -> None:
    books.given(policy())
    command = transfer()
    books.when(command, principal="alice").then(
        ApprovalRequested(approval=2, command="TransferUnits", content=command.SerializeToString(), approvals_needed=1)
    )
    assert books.holding("AAPLx", "book:bob") == 0
    assert not books.answer.HasField("event")
    listed = books.books.execute(ListApprovalsRequest()).approvals
    assert [(found.approval, found.requester, found.approvals_needed) for found in listed] == [(2, "alice", 1)]


def test_nobody_is_bothered_with_what_cannot_be(books: Scenario) -> None:
    books.given(policy()).when(transfer(units=101), principal="alice").raises("UNITS_INSUFFICIENT")
    books.when(transfer(units=100), principal="alice").accepted()


def test_what_does_not_fit_an_entry_cannot_wait(books: Scenario) -> None:
    """2,806 legs of 16 bytes, and a reference that fills them up to 45,000 bytes, or to one more."""
    alice, bob = (books.books._state.accounts[name].number for name in ("book:alice", "book:bob"))
    books.given(policy("TransferBatch"))

    columns = {"sources": [alice, bob] * 1_403, "destinations": [bob, alice] * 1_403, "units": [1] * 2_806}
    batch = TransferBatchRequest(legs=[LegColumns(instrument="AAPLx", **columns)], reference="x")
    batch.reference = "x" * (1 + CONTENT_BYTES_MAX - batch.ByteSize())
    assert batch.ByteSize() == CONTENT_BYTES_MAX
    larger = TransferBatchRequest(legs=batch.legs, reference=batch.reference + "x")
    books.when(larger).raises("TOO_MANY_ITEMS", count=CONTENT_BYTES_MAX + 1, limit=CONTENT_BYTES_MAX)
    books.when(batch).accepted()


# ---- approved ------------------------------------------------------------------------------------------------------------------------


def test_the_last_approval_books_the_command_in_its_requesters_name(books: Scenario) -> None:
    number = waiting(books, 2)
    first = ApprovalGiven(approval=number, command="TransferUnits", requester="alice")
    books.when(approve(number), principal="carol").then(first)
    assert books.holding("AAPLx", "book:bob") == 0
    books.when(approve(number), principal="dave").then(
        ApprovalGiven(approval=number, command="TransferUnits", requester="alice", completed=True),
        UnitsTransferred(instrument="AAPLx", source="book:alice", destination="book:bob", units=40),
    )
    assert books.holding("AAPLx", "book:bob") == 40
    books.when(approve(number), principal="erin").raises("APPROVAL_NOT_FOUND", approval=number)


def test_refusals_of_approving_in_order(books: Scenario) -> None:
    number = waiting(books, 2, "alice", "carol", "dave")
    books.when(approve(99), principal="alice").raises("APPROVAL_NOT_FOUND", approval=99)
    books.when(approve(0), principal="alice").raises("APPROVAL_NOT_FOUND")
    books.when(approve(number), principal="alice").raises("APPROVER_IS_REQUESTER", principal="alice")
    books.when(approve(number), principal="mallory").raises("APPROVER_NOT_LISTED", principal="mallory")
    books.when(approve(number), principal="carol").accepted()
    books.when(approve(number), principal="carol").raises("APPROVED_ALREADY", principal="carol")
    books.when(approve(number), principal="dave").accepted()


def test_the_command_meets_the_rules_of_the_last_approval(books: Scenario) -> None:
    number = waiting(books)
    books.given(FreezeHolderRequest(holder="h-1", legal_reference="OFAC 2026-11"))
    books.when(approve(number), principal="carol").raises("HOLDER_FROZEN")
    assert len(books.books.execute(ListApprovalsRequest()).approvals) == 1, "it goes on waiting"


def test_a_role_must_still_be_held_when_the_last_approval_comes(books: Scenario) -> None:
    force = ForceTransferRequest(
        instrument="AAPLx", source="book:alice", destination="book:bob", units=5, legal_reference="court order", cause="seizure"
    )
    number = books.given(enforcer("erin")).when(force, principal="erin").accepted().answer.booking.approval
    books.given(revoke(principal="erin")).when(approve(number), principal="carol").raises("NOT_PERMITTED", principal="erin")
    books.given(enforcer("erin")).when(approve(number), principal="carol").accepted()


def test_a_command_says_until_when_it_may_be_approved(books: Scenario) -> None:
    moment = Timestamp()
    moment.FromMicroseconds(START_US + 60_000_000)
    first = waiting(books, command=transfer(not_after_time=moment, units=1))
    other = books.when(transfer(not_after_time=moment), principal="alice").accepted().answer.booking.approval
    books.clock.now_us = START_US + 60_000_000
    books.when(approve(first), principal="carol").accepted()
    books.pass_time(1).when(approve(other), principal="carol").raises("REQUEST_TOO_LATE", not_after_time="2026-11-22T18:01:00Z")
    books.when(decline(other), principal="alice").accepted()


def test_the_policy_of_the_asking_counts(books: Scenario) -> None:
    number = waiting(books, 2)
    books.given(policy("TransferUnits", 1))
    books.when(approve(number), principal="carol").accepted()
    assert books.holding("AAPLx", "book:bob") == 0
    books.when(approve(number), principal="dave").accepted()
    assert books.holding("AAPLx", "book:bob") == 40


def test_trying_an_approval_out_books_nothing(books: Scenario) -> None:
    number = waiting(books)
    books.when(approve(number, validate_only=True), principal="carol")
    assert (books.error, books.booked, books.answer.booking.index) == (None, [], -1)
    books.when(approve(number), principal="carol").accepted()


def test_approving_again_gets_the_first_answer(books: Scenario) -> None:
    number = waiting(books)
    check_repeat(books, approve(number), approve(number + 1), principal="carol")


def test_asking_again_gets_the_first_answer(books: Scenario) -> None:
    books.given(policy())
    check_repeat(books, transfer(), transfer(units=41))
    assert len(books.books.execute(ListApprovalsRequest()).approvals) == 1


# ---- declined ------------------------------------------------------------------------------------------------------------------------


def test_a_listed_approver_declines_and_the_requester_withdraws(books: Scenario) -> None:
    number = waiting(books, 1, "carol")
    books.when(decline(number, "wrong account"), principal="carol").then(
        CommandDeclined(approval=number, command="TransferUnits", cause="wrong account")
    )
    books.when(approve(number), principal="carol").raises("APPROVAL_NOT_FOUND")
    number = books.when(transfer(), principal="alice").accepted().answer.booking.approval
    books.when(decline(number), principal="alice").accepted()
    assert books.holding("AAPLx", "book:bob") == 0


def test_refusals_of_declining_in_order(books: Scenario) -> None:
    number = waiting(books, 1, "carol")
    books.when(decline(99, "x" * 141), principal="mallory").raises("FIELD_MALFORMED", field="cause")
    books.when(decline(99), principal="mallory").raises("APPROVAL_NOT_FOUND")
    books.when(decline(number), principal="mallory").raises("APPROVER_NOT_LISTED")
    books.when(decline(number), principal="carol").accepted()


def test_anybody_may_decline_where_nobody_is_listed(books: Scenario) -> None:
    books.when(decline(waiting(books)), principal="zoe").accepted()


def test_declining_again_gets_the_first_answer(books: Scenario) -> None:
    number = waiting(books)
    check_repeat(books, decline(number), decline(number, "another"))


# ---- roles ---------------------------------------------------------------------------------------------------------------------------


def grant(**changes: Any) -> GrantRoleRequest:
    return GrantRoleRequest(**({"principal": "carol", "role": Role.ROLE_ENFORCER} | changes))


def revoke(**changes: Any) -> RevokeRoleRequest:
    return RevokeRoleRequest(**({"principal": "carol", "role": Role.ROLE_ENFORCER} | changes))


def test_a_role_is_granted_and_revoked(books: Scenario) -> None:
    books.when(grant(scope="broker-a"), approver="approver").accepted()
    assert books.booked[-1] == RoleGranted(principal="carol", role=Role.ROLE_ENFORCER, scope="broker-a")
    books.given(grant(principal="urn:uuid:é@broker a"))
    listed = books.books.execute(ListRolesRequest()).grants
    assert [found.principal for found in listed] == ["carol", "urn:uuid:é@broker a"]
    assert [found.scope for found in books.books.execute(ListRolesRequest(principal="carol")).grants] == ["broker-a"]
    books.when(revoke(scope="broker-a"), approver="approver").accepted()
    assert books.booked[-1] == RoleRevoked(principal="carol", role=Role.ROLE_ENFORCER, scope="broker-a")
    assert not books.books.execute(ListRolesRequest(principal="carol")).grants


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_pages_of_roles_are_the_list_cut_up(books: Scenario, size: int) -> None:
    """A principal and a scope may have any characters, and be as long as may be: the place behind a grant is told apart all the same."""
    widest = "\N{OLD ITALIC LETTER A}"
    pairs = [("a", "b c"), ("a b", "c"), ("a b", ""), ("a", ""), (widest * 128, widest * 140), ("a\n", '"1 2"'), ("17", "17 9"), ("é", " ")]
    roles = (Role.ROLE_BROKER, Role.ROLE_OPERATOR)
    books.given(*(grant(principal=principal, role=role, scope=scope) for principal, scope in pairs for role in roles))
    expected = sorted((principal, role, scope) for principal, scope in pairs for role in roles)
    assert [(each.principal, each.role, each.scope) for each in walk(books, ListRolesRequest(), "grants", size)] == expected
    own = walk(books, ListRolesRequest(principal="a b"), "grants", size)
    assert [(each.principal, each.role, each.scope) for each in own] == [each for each in expected if each[0] == "a b"]


def test_a_list_of_roles_goes_on_where_it_was_when_the_grant_there_is_revoked(books: Scenario) -> None:
    books.given(*(grant(principal=principal) for principal in ("a", "b", "c")))
    first = books.books.execute(ListRolesRequest(page_size=2))
    books.given(revoke(principal="b"))
    rest = books.books.execute(ListRolesRequest(page_size=2, page_token=first.next_page_token))
    assert [each.principal for each in (*first.grants, *rest.grants)] == ["a", "b", "c"]


@pytest.mark.parametrize("token", ["", "9", "9 1", "carol", "x 1 carol", "9 x carol"])
def test_a_page_token_that_is_not_of_the_list_of_roles_is_refused(books: Scenario, token: str) -> None:
    books.given(grant())
    if token:
        books.when(ListRolesRequest(page_token=token)).raises("FIELD_MALFORMED", field="page_token")
    else:
        assert len(books.books.execute(ListRolesRequest()).grants) == 1


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", grant(principal="", role=0)),
        ("FIELD_MALFORMED", grant(principal="x" * 129, role=0)),
        ("FIELD_MISSING", grant(role=0, scope="x" * 141)),
        ("FIELD_MALFORMED", grant(role=99, scope="")),
        ("FIELD_MALFORMED", grant(scope="x" * 141)),
        ("ALREADY_EXISTS", grant()),
    ],
)
def test_refusals_of_granting(books: Scenario, reason: str, command: GrantRoleRequest) -> None:
    books.given(grant()).when(command).raises(reason)
    books.when(grant(scope="broker-a"), approver="approver").accepted()


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", revoke(principal="", role=0)),
        ("FIELD_MALFORMED", revoke(principal="x" * 129, role=0)),
        ("FIELD_MISSING", revoke(role=0, scope="x" * 141)),
        ("FIELD_MALFORMED", revoke(role=99)),
        ("FIELD_MALFORMED", revoke(scope="x" * 141)),
        ("GRANT_NOT_FOUND", revoke(principal="dave")),
        ("GRANT_NOT_FOUND", revoke(role=Role.ROLE_ISSUER)),
        ("GRANT_NOT_FOUND", revoke(scope="broker-a")),
    ],
)
def test_refusals_of_revoking(books: Scenario, reason: str, command: RevokeRoleRequest) -> None:
    books.given(grant()).when(command).raises(reason)
    books.when(revoke(), approver="approver").accepted()


def test_one_grant_of_two_is_revoked_and_the_other_stays(books: Scenario) -> None:
    books.given(grant(), grant(scope="broker-a"))
    force = ForceTransferRequest(
        instrument="AAPLx", source="book:alice", destination="book:bob", units=5, legal_reference="court order", cause="seizure"
    )
    books.given(revoke()).when(force, principal="carol").accepted()
    books.given(revoke(scope="broker-a")).when(force, principal="carol").raises("NOT_PERMITTED")
    assert not books.books._state.grants, "nothing is kept of who has no role any more"


def test_granting_and_revoking_again_get_the_first_answer(books: Scenario) -> None:
    check_repeat(books, grant(), grant(principal="dave"))
    check_repeat(Scenario().given(grant()), revoke(), revoke(principal="dave"))
