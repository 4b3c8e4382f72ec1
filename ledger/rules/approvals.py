"""Four eyes, and roles: which commands wait for others to approve them, and who may do what is not everybody's.

    command              event
    SetApprovalPolicy    ApprovalPolicySet
    ApproveCommand       ApprovalGiven, and with the last approval needed the events of the command itself
    DeclineCommand       CommandDeclined
    GrantRole            RoleGranted
    RevokeRole           RoleRevoked
    (any that waits)     ApprovalRequested

A command that needs approval is decided twice: when it is asked for, so that nobody is bothered with what cannot be; and when the last
approval comes, by the rules and the state of that moment. Only the second is booked.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import descriptor_pool

from ledger.errors import refusal
from ledger.records import Approval, ApprovalPolicy
from ledger.rules.checks import check_enum, check_id, check_length, check_text
from ledger.rules.context import entry_index
from stockledger.v1 import (
    accounts_pb2,
    approvals_pb2,
    chains_pb2,
    corporate_actions_pb2,
    instruments_pb2,
    issuance_pb2,
    reserves_pb2,
    transfers_pb2,
)
from stockledger.v1.approvals_pb2 import (
    ApprovalGiven,
    ApprovalPolicySet,
    ApprovalRequested,
    CommandDeclined,
    DeclineCommandRequest,
    DeclineCommandResponse,
    GrantRoleRequest,
    GrantRoleResponse,
    RevokeRoleRequest,
    RevokeRoleResponse,
    Role,
    RoleGranted,
    RoleRevoked,
    SetApprovalPolicyRequest,
    SetApprovalPolicyResponse,
)
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.reserves_pb2 import EvidenceKind, RecordEvidenceRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger.records import CustodyAccount, Redemption, Subscription
    from ledger.rules.context import Context, Decided
    from ledger.state import State

APPROVALS_NEEDED_MAX: Final = 16
APPROVERS_MAX: Final = 32
PRINCIPAL_LENGTH_MAX: Final = 128
CONTENT_BYTES_MAX: Final = 45_000
"""A command that waits is kept whole in one leaf of 65,535 bytes, beside at most 32 approvers of at most 512 bytes."""

APPROVED_BY_DEFAULT: Final = (
    issuance_pb2.IssueUnitsRequest,
    issuance_pb2.FillSubscriptionRequest,
    issuance_pb2.SettleFillRequest,
    transfers_pb2.ForceTransferRequest,
    transfers_pb2.ReverseTransferRequest,
    accounts_pb2.RecoverWalletRequest,
    instruments_pb2.SetMultiplierRequest,
    corporate_actions_pb2.ExecuteActionRequest,
    chains_pb2.RegisterChainRequest,
    chains_pb2.AmendChainRequest,
    chains_pb2.RegisterDeploymentRequest,
    chains_pb2.AmendDeploymentRequest,
    chains_pb2.SetChainKeyRequest,
    chains_pb2.AttributeDepositRequest,
    chains_pb2.ResolveDivergenceRequest,
    chains_pb2.AbandonInstructionRequest,
    reserves_pb2.RegisterCustodianRequest,
    reserves_pb2.RotateCustodianKeyRequest,
    approvals_pb2.SetApprovalPolicyRequest,
    approvals_pb2.GrantRoleRequest,
    approvals_pb2.RevokeRoleRequest,
)
"""Commands that one other principal must approve until a policy says otherwise."""

_WITHOUT_POLICY: Final = frozenset({"ApproveCommand", "DeclineCommand"})


def command_name(command_type: type[Any]) -> str:
    """Return the name by which policies know a command. Example: "IssueUnits" for IssueUnitsRequest."""
    return str(command_type.DESCRIPTOR.name).removesuffix("Request")


def default_policies() -> dict[str, ApprovalPolicy]:
    """Return the policies a new ledger starts with."""
    return {command_name(command): ApprovalPolicy(approvals_needed=1, approvers=()) for command in APPROVED_BY_DEFAULT}


def policy_of(state: State, command: Any, name: str) -> ApprovalPolicy | None:
    """Return the policy that a command of this name must wait for, or None. An imported statement always takes four eyes.

    What a chain refuses for ever goes back to where it came from without any: nobody gains by saying so.
    """
    policy = state.approval_policies.get(name)
    if isinstance(command, chains_pb2.AbandonInstructionRequest) and command.failure:
        return None
    if policy is not None and policy.approvals_needed:
        return policy
    if type(command) is RecordEvidenceRequest and command.kind == EvidenceKind.EVIDENCE_KIND_IMPORTED:
        return ApprovalPolicy(approvals_needed=1, approvers=())
    return None


def request_approval(state: State, command: Any, policy: ApprovalPolicy) -> ApprovalRequested:
    """Return the event by which an acceptable command starts to wait."""
    name, content = command_name(type(command)), command.SerializeToString(deterministic=True)
    if len(content) > CONTENT_BYTES_MAX:
        message = f"{name} waits for approvals, and its {len(content)} bytes are more than the {CONTENT_BYTES_MAX} that can wait"
        raise refusal(Reason.REASON_TOO_MANY_ITEMS, message, field="content", count=len(content), limit=CONTENT_BYTES_MAX)
    return ApprovalRequested(
        approval=state.next_number("approval"),
        command=name,
        content=content,
        approvals_needed=policy.approvals_needed,
        approvers=policy.approvers,
    )


def check_role(state: State, context: Context, role: Role.ValueType) -> None:
    """Refuse a principal without a role. Asked before anything else, so that nothing is revealed."""
    if not any(granted == role for granted, _ in state.grants.get(context.principal, ())):
        message = f"{context.principal} has not been granted {Role.Name(role)}"
        raise refusal(Reason.REASON_NOT_PERMITTED, message, principal=context.principal, needed=Role.Name(role))


def find_approval(state: State, number: int) -> Approval:
    approval = state.approvals.get(number)
    if approval is None:
        raise refusal(Reason.REASON_APPROVAL_NOT_FOUND, f"no pending approval {number}", approval=number)
    return approval


def check_approver(approval: Approval, principal: str) -> None:
    """Refuse who may not approve: the requester, somebody not listed, somebody who already has."""
    number = approval.approval
    if principal == approval.requester:
        message = f"{principal} asked for approval {number} and cannot give it"
        raise refusal(Reason.REASON_APPROVER_IS_REQUESTER, message, approval=number, principal=principal)
    if approval.approvers and principal not in approval.approvers:
        message = f"{principal} is not among the approvers of approval {number}"
        raise refusal(Reason.REASON_APPROVER_NOT_LISTED, message, approval=number, principal=principal)
    if principal in approval.approved_by:
        message = f"{principal} has given approval {number} already"
        raise refusal(Reason.REASON_APPROVED_ALREADY, message, approval=number, principal=principal)


def give_approval(approval: Approval, principal: str) -> ApprovalGiven:
    """Return the event of one approval. The command's own events follow it where it completes the approval (rules/__init__.py)."""
    check_approver(approval, principal)
    completed = len(approval.approved_by) + 1 >= approval.approvals_needed
    return ApprovalGiven(approval=approval.approval, command=approval.command, requester=approval.requester, completed=completed)


def evolve_requested(state: State, event: ApprovalRequested, decided: Decided) -> None:
    number = event.approval
    approval = Approval(
        approval=number,
        command=event.command,
        content=event.content,
        requester=decided.principal,
        approvals_needed=event.approvals_needed,
        approvers=tuple(event.approvers),
        approved_by=(),
        request_time_us=decided.decision_time_us,
        index=entry_index(state, decided),
    )
    state.put(state.counters, "approval", number)
    state.put(state.approvals, number, approval)


def evolve_given(state: State, event: ApprovalGiven, decided: Decided) -> None:
    approval = state.approvals[event.approval]
    if event.completed:
        state.remove(state.approvals, event.approval)
        return
    approved = (*approval.approved_by, decided.principal)
    state.put(state.approvals, event.approval, dataclasses.replace(approval, approved_by=approved))


def decide_decline(state: State, command: DeclineCommandRequest, context: Context) -> list[CommandDeclined]:
    check_length("cause", command.cause)
    approval = find_approval(state, command.approval)
    listed = not approval.approvers or context.principal in approval.approvers
    if context.principal != approval.requester and not listed:
        message = f"{context.principal} is not among the approvers of approval {approval.approval}"
        raise refusal(Reason.REASON_APPROVER_NOT_LISTED, message, approval=approval.approval, principal=context.principal)
    return [CommandDeclined(approval=approval.approval, command=approval.command, cause=command.cause)]


def evolve_declined(state: State, event: CommandDeclined, decided: Decided) -> None:
    state.remove(state.approvals, event.approval)


def _named_instruments(state: State, waiting: Any) -> set[str]:
    """Return the instruments whose units or shares a command counts, by whatever it names them."""
    symbols = {getattr(waiting, "instrument", "")}
    symbols.update(each.instrument for field in ("legs", "movements") for each in getattr(waiting, field, ()))
    tables: dict[str, Mapping[Any, Subscription | Redemption | CustodyAccount]] = {
        "subscription": state.subscriptions,
        "redemption": state.redemptions,
        "custody_account": state.custody_accounts,
    }
    for field, table in tables.items():
        record = table.get(getattr(waiting, field, None))
        if record is not None:
            symbols.add(record.instrument)
    hold = state.holds.get(getattr(waiting, "hold", 0))
    if hold is not None:
        symbols.add(state.instrument_symbols[hold.instrument])
    return symbols


def check_same_units(state: State, approval: Approval, waiting: Any) -> None:
    """Refuse a command whose instrument was split since it was asked for: its units or shares were counted before the split."""
    for symbol in sorted(_named_instruments(state, waiting)):
        instrument = state.instruments.get(symbol)
        if instrument is not None and approval.index < instrument.split_index:
            message = f"{symbol} was split by entry {instrument.split_index}, after approval {approval.approval} was asked for"
            raise refusal(Reason.REASON_STATE_UNFIT, message, approval=approval.approval, split_index=instrument.split_index)


def _check_command_name(field: str, name: str) -> None:
    """Refuse a name that no policy may have: a misspelt one would guard nothing, one for approvals themselves would end all approving."""
    check_id(field, name)
    try:
        request = descriptor_pool.Default().FindMessageTypeByName(f"stockledger.v1.{name}Request")
    except KeyError:
        request = None
    if request is None or "validate_only" not in request.fields_by_name or name in _WITHOUT_POLICY:
        message = f"{field} {name!r} is not the name of a command that can wait for approvals"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field=field, value=name)


def decide_policy(state: State, command: SetApprovalPolicyRequest, context: Context) -> list[ApprovalPolicySet]:
    if not command.HasField("policy"):
        raise refusal(Reason.REASON_FIELD_MISSING, "policy is not set", field="policy")
    policy = command.policy
    _check_command_name("policy.command", policy.command)
    if not 0 <= policy.approvals_needed <= APPROVALS_NEEDED_MAX:
        message = f"approvals_needed is {policy.approvals_needed}, it must be 0 to {APPROVALS_NEEDED_MAX}"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="policy.approvals_needed", value=policy.approvals_needed)
    approvers = sorted({check_text("policy.approvers", approver, PRINCIPAL_LENGTH_MAX) for approver in policy.approvers})
    if approvers and len(approvers) < policy.approvals_needed:
        message = f"{len(approvers)} approvers cannot give {policy.approvals_needed} approvals"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="policy.approvers", value=len(approvers))
    if len(approvers) > APPROVERS_MAX:
        message = f"{len(approvers)} approvers, at most {APPROVERS_MAX} may be"
        raise refusal(Reason.REASON_TOO_MANY_ITEMS, message, field="policy.approvers", count=len(approvers), limit=APPROVERS_MAX)
    wanted = ApprovalPolicy(policy.approvals_needed, tuple(approvers))
    if state.approval_policies.get(policy.command, ApprovalPolicy(0, ())) == wanted:
        raise refusal(Reason.REASON_NOTHING_TO_CHANGE, f"the policy of {policy.command} is so already", command=policy.command)
    set_to = approvals_pb2.ApprovalPolicy(command=policy.command, approvals_needed=policy.approvals_needed, approvers=approvers)
    return [ApprovalPolicySet(policy=set_to)]


def evolve_policy(state: State, event: ApprovalPolicySet, decided: Decided) -> None:
    policy = event.policy
    state.put(state.approval_policies, policy.command, ApprovalPolicy(policy.approvals_needed, tuple(policy.approvers)))


def decide_grant(state: State, command: GrantRoleRequest, context: Context) -> list[RoleGranted]:
    check_text("principal", command.principal, PRINCIPAL_LENGTH_MAX)
    check_enum("role", command.role, Role)
    check_length("scope", command.scope)
    if (command.principal, command.role, command.scope) in state.roles:
        message = f"{command.principal} has {Role.Name(command.role)} already"
        raise refusal(Reason.REASON_ALREADY_EXISTS, message, principal=command.principal, role=Role.Name(command.role))
    return [RoleGranted(principal=command.principal, role=command.role, scope=command.scope)]


def evolve_grant(state: State, event: RoleGranted, decided: Decided) -> None:
    state.put(state.roles, (event.principal, event.role, event.scope), entry_index(state, decided))
    granted = {*state.grants.get(event.principal, ()), (int(event.role), event.scope)}
    state.put(state.grants, event.principal, tuple(sorted(granted)))


def decide_revoke(state: State, command: RevokeRoleRequest, context: Context) -> list[RoleRevoked]:
    check_text("principal", command.principal, PRINCIPAL_LENGTH_MAX)
    check_enum("role", command.role, Role)
    check_length("scope", command.scope)
    if (command.principal, command.role, command.scope) not in state.roles:
        message = f"{command.principal} has not been granted {Role.Name(command.role)}"
        raise refusal(Reason.REASON_GRANT_NOT_FOUND, message, principal=command.principal, role=Role.Name(command.role))
    return [RoleRevoked(principal=command.principal, role=command.role, scope=command.scope)]


def evolve_revoke(state: State, event: RoleRevoked, decided: Decided) -> None:
    state.remove(state.roles, (event.principal, event.role, event.scope))
    left = tuple(grant for grant in state.grants[event.principal] if grant != (event.role, event.scope))
    if left:
        state.put(state.grants, event.principal, left)
    else:
        state.remove(state.grants, event.principal)


# ApproveCommand itself is decided in rules/__init__.py, since it decides the command it approves.
COMMANDS = {
    SetApprovalPolicyRequest: (decide_policy, SetApprovalPolicyResponse),
    DeclineCommandRequest: (decide_decline, DeclineCommandResponse),
    GrantRoleRequest: (decide_grant, GrantRoleResponse),
    RevokeRoleRequest: (decide_revoke, RevokeRoleResponse),
}
EVENTS = {
    ApprovalRequested: evolve_requested,
    ApprovalGiven: evolve_given,
    CommandDeclined: evolve_declined,
    ApprovalPolicySet: evolve_policy,
    RoleGranted: evolve_grant,
    RoleRevoked: evolve_revoke,
}
