"""Reads of approvals, their policies, and roles."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    policies = [
        approvals_pb2.ApprovalPolicy(command=command, approvals_needed=policy.approvals_needed, approvers=policy.approvers)
        for command, policy in sorted(state.approval_policies.items())
    ]
    return approvals_pb2.ListApprovalPoliciesResponse(size=state.size, policies=policies)


def list_roles(state: State, request: approvals_pb2.ListRolesRequest, now_us: int) -> approvals_pb2.ListRolesResponse:
    grants = [
        approvals_pb2.RoleGranted(principal=principal, role=approvals_pb2.Role.ValueType(role), scope=scope)
        for principal, role, scope in sorted(state.roles)
        if request.principal in ("", principal)
    ]
    return approvals_pb2.ListRolesResponse(size=state.size, grants=grants)


READS = {
    approvals_pb2.ListApprovalsRequest: list_approvals,
    approvals_pb2.ListApprovalPoliciesRequest: list_approval_policies,
    approvals_pb2.ListRolesRequest: list_roles,
}
