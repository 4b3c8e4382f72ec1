"""Reads of approvals, their policies, and roles."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ledger.answers import timestamp
from ledger.reads.pages import count_within_bytes, page_of
from stockledger.v1 import approvals_pb2

if TYPE_CHECKING:
    from ledger.state import State


def list_approvals(state: State, request: approvals_pb2.ListApprovalsRequest, now_us: int) -> approvals_pb2.ListApprovalsResponse:
    page, token = page_of(request, state.approvals, int)
    count = count_within_bytes(len(state.approvals[number].content) for number in page)
    if count < len(page):
        page, token = page[:count], str(page[count - 1])
    found = [
        approvals_pb2.Approval(
            approval=number,
            command=approval.command,
            content=approval.content,
            requester=approval.requester,
            approved_by=approval.approved_by,
            approvals_needed=approval.approvals_needed,
            request_time=timestamp(approval.request_time_us),
        )
        for number in page
        for approval in (state.approvals[number],)
    ]
    return approvals_pb2.ListApprovalsResponse(size=state.size, next_page_token=token, approvals=found)


def list_approval_policies(
    state: State, request: approvals_pb2.ListApprovalPoliciesRequest, now_us: int
) -> approvals_pb2.ListApprovalPoliciesResponse:
    page, token = page_of(request, state.approval_policies)
    policies = [
        approvals_pb2.ApprovalPolicy(command=command, approvals_needed=policy.approvals_needed, approvers=policy.approvers)
        for command in page
        for policy in (state.approval_policies[command],)
    ]
    return approvals_pb2.ListApprovalPoliciesResponse(size=state.size, next_page_token=token, policies=policies)


class _Grant(NamedTuple):
    """A grant, in the order of the list; as a page token "<role> <length of the principal> <principal><scope>".

    Principal and scope may have any characters, so nothing can stand between them.
    """

    principal: str
    role: int
    scope: str

    def __str__(self) -> str:
        return f"{self.role} {len(self.principal)} {self.principal}{self.scope}"


def _grant_of(token: str) -> _Grant:
    role, length, names = token.split(" ", 2)
    return _Grant(names[: int(length)], int(role), names[int(length) :])


def list_roles(state: State, request: approvals_pb2.ListRolesRequest, now_us: int) -> approvals_pb2.ListRolesResponse:
    wanted = (_Grant(*key) for key in state.roles if request.principal in ("", key[0]))
    page, token = page_of(request, wanted, _grant_of)
    grants = [
        approvals_pb2.RoleGranted(principal=grant.principal, role=approvals_pb2.Role.ValueType(grant.role), scope=grant.scope)
        for grant in page
    ]
    return approvals_pb2.ListRolesResponse(size=state.size, next_page_token=token, grants=grants)


READS = {
    approvals_pb2.ListApprovalsRequest: list_approvals,
    approvals_pb2.ListApprovalPoliciesRequest: list_approval_policies,
    approvals_pb2.ListRolesRequest: list_roles,
}
