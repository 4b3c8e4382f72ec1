"""What a principal may do: one table of RPCs and roles, and the scopes of the roles.

Roles are granted by a command and stand in the log. Nothing is permitted that no cell of the table permits, and a refusal is the same
whether what was named exists or not.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ledger.errors import LedgerError, refusal
from ledger.request_ids import parse_request_id, request_id_time_ms
from ledger.sent_transfers import SentTransfers
from services.grpc_server.subjects import Kind, Owner, custodians_of, instruments_of, subjects_of
from stockledger.v1.approvals_pb2 import Role
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.state import State

ROLES: Final = (
    Role.ROLE_OPERATOR,
    Role.ROLE_ISSUER,
    Role.ROLE_APPROVER,
    Role.ROLE_CUSTODIAN,
    Role.ROLE_BROKER,
    Role.ROLE_EXCHANGE,
    Role.ROLE_AUDITOR,
    Role.ROLE_WORKER,
    Role.ROLE_ENFORCER,
)
"""The columns of the table."""

# =  everything, whatever the scope of the grant: what is announced to all (to a broker without the names of others' accounts)
# +  everything within the scope of the grant
# o  his own only: his requests and grants, and a broker's holders and accounts
# .  refused
TABLE: Final[dict[str, str]] = {
    #                                           operator
    #                                           | issuer
    #                                           | | approver
    #                                           | | | custodian
    #                                           | | | | broker
    #                                           | | | | | exchange
    #                                           | | | | | | auditor
    #                                           | | | | | | | worker
    #                                           | | | | | | | | enforcer
    "InstrumentService/RegisterInstrument": "   + + . . . . . . .",
    "InstrumentService/AmendInstrument": "      + + . . . . . . .",
    "InstrumentService/HaltInstrument": "       + + . . . . . . +",
    "InstrumentService/ResumeInstrument": "     + + . . . . . . +",
    "InstrumentService/RetireInstrument": "     + + . . . . . . .",
    "InstrumentService/SetMultiplier": "        + + . . . . . . .",
    "InstrumentService/GetInstrument": "        = = = = = = = = =",
    "InstrumentService/ListInstruments": "      = = = = = = = = =",
    "AccountService/RegisterHolder": "          + . . . o . . . .",
    "AccountService/AmendHolder": "             + . . . o . . . .",
    "AccountService/FreezeHolder": "            + . . . . . . . +",
    "AccountService/UnfreezeHolder": "          + . . . . . . . +",
    "AccountService/OpenAccount": "             + . . . o . . . .",
    "AccountService/CloseAccount": "            + . . . o . . . .",
    "AccountService/FreezeAccount": "           + . . . . . . . +",
    "AccountService/UnfreezeAccount": "         + . . . . . . . +",
    "AccountService/FreezeUnits": "             + . . . . . . . +",
    "AccountService/UnfreezeUnits": "           + . . . . . . . +",
    "AccountService/BindWallet": "              + . . . o . . . .",
    "AccountService/RecoverWallet": "           . . . . . . . . +",
    "AccountService/GetHolder": "               + + + . o . + + +",
    "AccountService/ListHolders": "             + + + . o . + + +",
    "AccountService/GetAccount": "              + + + . o + + + +",
    "AccountService/ListAccounts": "            + + + . o . + + +",
    "AccountService/GetHolding": "              + + + . o + + + +",
    "AccountService/ListHoldings": "            + + + . o . + + +",
    "AccountService/ListRegister": "            + + + . o . + + +",
    "HoldService/PlaceHold": "                  + . . . o + . . .",
    "HoldService/ExecuteHold": "                + . . . o + . . .",
    "HoldService/ReleaseHold": "                + . . . o + . . .",
    "HoldService/GetHold": "                    + + + . o + + . +",
    "HoldService/ListHolds": "                  + + + . o + + . +",
    "EligibilityService/SetEligibility": "      + + . . . . . . .",
    "EligibilityService/CheckTransfer": "       + + . . o + + . +",
    "EligibilityService/ListEligibility": "     = = = = = = = = =",
    "IssuanceService/RequestSubscription": "    + + . . o . . . .",
    "IssuanceService/FillSubscription": "       + + . . . . . . .",
    "IssuanceService/SettleFill": "             + + . . . . . . .",
    "IssuanceService/RejectSubscription": "     + + . . . . . . .",
    "IssuanceService/CancelSubscription": "     + + . . o . . . .",
    "IssuanceService/IssueUnits": "             + + . . . . . . .",
    "IssuanceService/GetSubscription": "        + + + . o . + . .",
    "IssuanceService/ListSubscriptions": "      + + + . o . + . .",
    "RedemptionService/RequestRedemption": "    + + . . o . . . .",
    "RedemptionService/FillRedemption": "       + + . . . . . . .",
    "RedemptionService/SettleRedemption": "     + + . . . . . . .",
    "RedemptionService/DeliverRedemption": "    + + . + . . . . .",
    "RedemptionService/RejectRedemption": "     + + . . . . . . .",
    "RedemptionService/CancelRedemption": "     + + . . o . . . .",
    "RedemptionService/GetRedemption": "        + + + . o . + . .",
    "RedemptionService/ListRedemptions": "      + + + . o . + . .",
    "ReserveService/RegisterCustodian": "       + . . . . . . . .",
    "ReserveService/RotateCustodianKey": "      + . . + . . . . .",
    "ReserveService/OpenCustodyAccount": "      + . . + . . . . .",
    "ReserveService/RecordEvidence": "          + . . + . . . . .",
    "ReserveService/ConfirmReceipt": "          + . . + . . . . .",
    "ReserveService/ConfirmDelivery": "         + . . + . . . . .",
    "ReserveService/GetReserve": "              = = = = = = = = =",
    "ReserveService/ListReserves": "            = = = = = = = = =",
    "ReserveService/ListCustodians": "          = = = = = = = = =",
    "ReserveService/ListCustodyAccounts": "     + + + + . . + . .",
    "ReserveService/GetSupply": "               = = = = = = = = =",
    "TransferService/TransferUnits": "          + . . . o . . . .",
    "TransferService/StreamTransfers": "        + . . . o . . . .",
    "TransferService/TransferBatch": "          + . . . o . . . .",
    "TransferService/ForceTransfer": "          . . . . . . . . +",
    "TransferService/ReverseTransfer": "        + . . . . . . . +",
    "TransferService/RepayReceivable": "        + . . . o . . . .",
    "TransferService/ListReceivables": "        + + + . o . + . +",
    "SettlementService/SettleDelivery": "       + . . . o + . . .",
    "SettlementService/SettleTrades": "         + . . . . + . . .",
    "CorporateActionService/AnnounceAction": "  + + . . . . . . .",
    "CorporateActionService/FixEntitlements": " + + . . . . . + .",
    "CorporateActionService/ExecuteAction": "   + + . . . . . + .",
    "CorporateActionService/CancelAction": "    + + . . . . . . .",
    "CorporateActionService/ReleaseEntitlement": "+ + . . . . . . +",
    "CorporateActionService/TakeDueSteps": "    + + . . . + . + .",
    "CorporateActionService/GetAction": "       = = = = = = = = =",
    "CorporateActionService/ListActions": "     = = = = = = = = =",
    "CorporateActionService/ListOwed": "        + + + . o . + . +",
    "ChainService/RegisterChain": "             + . . . . . . . .",
    "ChainService/AmendChain": "                + . . . . . . . .",
    "ChainService/RegisterDeployment": "        + + . . . . . . .",
    "ChainService/AmendDeployment": "           + + . . . . . . .",
    "ChainService/SetChainKey": "               + . . . . . . . .",
    "ChainService/RegisterDepositAddresses": "  + + . . . . . . .",
    "ChainService/RecordTransactions": "        . . . . . . . + .",
    "ChainService/RecordDeadTransactions": "    . . . . . . . + .",
    "ChainService/AbandonInstruction": "        + . . . . . . + +",
    "ChainService/RecordObservations": "        . . . . . . . + .",
    "ChainService/RecordMissedObservations": "  . . . . . . . + .",
    "ChainService/RecordReconciliation": "      . . . . . . . + .",
    "ChainService/RaiseDivergence": "           . . . . . . . + .",
    "ChainService/ResolveDivergence": "         + . . . . . . . .",
    "ChainService/SweepWallet": "               + . . . . . . . .",
    "ChainService/AttributeDeposit": "          + . . . . . . . .",
    "ChainService/AnchorCheckpoint": "          . . . . . . . + .",
    "ChainService/ListDivergences": "           + + . . . . + + +",
    "ChainService/GetInstruction": "            + + . . o . + + +",
    "ChainService/ListInstructions": "          + + . . o . + + +",
    "ChainService/ListTransactions": "          + + . . . . + + +",
    "ChainService/ListMultiplierChanges": "     = = = = = = = = =",
    "ChainService/ListPlaces": "                = = = = = = = = =",
    "ChainService/ListDeployments": "           = = = = = = = = =",
    "ChainService/ListChainKeys": "             + + . . . . + + +",
    "ChainService/ListDepositAddresses": "      + + . . . . + + +",
    "ChainService/GetChain": "                  = = = = = = = = =",
    "ChainService/ListChains": "                = = = = = = = = =",
    "ApprovalService/SetApprovalPolicy": "      + . . . . . . . .",
    "ApprovalService/ApproveCommand": "         + . + . . . . . .",
    "ApprovalService/DeclineCommand": "         + o + o o o . o o",
    "ApprovalService/GrantRole": "              + . . . . . . . .",
    "ApprovalService/RevokeRole": "             + . . . . . . . .",
    "ApprovalService/ListApprovals": "          + o + o o o + o o",
    "ApprovalService/ListApprovalPolicies": "   = = = = = = = = =",
    "ApprovalService/ListRoles": "              + o + o o o + o o",
    "AuditService/ListEntries": "               + . . . . . + + .",
    "AuditService/GetCheckpoint": "             = = = = = = = = =",
    "AuditService/GetReceipt": "                + . . . o . + . .",
    "AuditService/GetConsistencyProof": "       = = = = = = = = =",
    "AuditService/StreamEntries": "             + . . . o . + + .",
    "AuditService/FindRequest": "               + o o o o o + o o",
}

_SCOPED: Final = {Role.ROLE_BROKER: "brokers", Role.ROLE_ISSUER: "instruments", Role.ROLE_CUSTODIAN: "custodians"}
"""What a scope limits a role to. The scope of any other role is not understood, so such a grant permits nothing."""


class Permission(NamedTuple):
    """What the grants of a principal let it do with one RPC: everything, or what any one of the limits lets through."""

    principal: str
    everything: bool = False
    public: bool = False
    own: bool = False
    brokers: frozenset[str] = frozenset()
    instruments: frozenset[str] = frozenset()
    custodians: frozenset[str] = frozenset()


def cells_of(rpc: str) -> dict[int, str]:
    """Return the row of an RPC: role -> cell. An RPC without a row is refused to everybody."""
    return dict(zip(ROLES, TABLE.get(rpc, "").split(), strict=False))


@lru_cache(maxsize=16_384)
def permission_of(principal: str, grants: tuple[tuple[int, str], ...], rpc: str) -> Permission | None:
    """Return what (role, scope) grants let a principal do with an RPC, or None: nothing."""
    row = cells_of(rpc)
    everything = public = own = False
    limits: dict[str, set[str]] = {"brokers": set(), "instruments": set(), "custodians": set()}
    for role, scope in grants:
        cell = row.get(role, ".")
        if cell == "=" and role == Role.ROLE_BROKER:
            public = True
            limits["brokers"].add(scope or principal)
        elif cell == "=" or (cell == "+" and not scope and role != Role.ROLE_BROKER):
            everything = True
        elif cell == "o":
            own = True
            if role == Role.ROLE_BROKER:
                limits["brokers"].add(scope or principal)
        elif cell == "+" and role in _SCOPED and role != Role.ROLE_BROKER:
            limits[_SCOPED[Role.ValueType(role)]].add(scope)
    if not (everything or own or any(limits.values())):
        return None
    return Permission(principal, everything, public, own, *(frozenset(values) for values in limits.values()))


def not_permitted(principal: str, rpc: str) -> LedgerError:
    """Make the refusal: the same for what is another's and for what does not exist."""
    message = f"{principal} may not do this, or not with what the request names"
    return refusal(Reason.REASON_NOT_PERMITTED, message, principal=principal, rpc=rpc)


def grants_of(state: State, principal: str, operators: frozenset[str]) -> tuple[tuple[int, str], ...]:
    """Return the roles of a principal: those of the log, and that of an operator by setting."""
    grants = state.grants.get(principal, ())
    return (*grants, (int(Role.ROLE_OPERATOR), "")) if principal in operators else grants


def authorize(state: State, principal: str, operators: frozenset[str], rpc: str, request: Any) -> Permission:
    """Return what a principal may do with this RPC, having checked all that the request names.

    Raises: NotPermitted NOT_PERMITTED.
    """
    permission, (refused,) = authorize_all(state, principal, operators, rpc, (request,))
    if refused is not None:
        raise refused
    assert permission is not None, "what was not refused was permitted"
    return permission


def authorize_all(
    state: State, principal: str, operators: frozenset[str], rpc: str, requests: Sequence[Any]
) -> tuple[Permission | None, list[LedgerError | None]]:
    """Return what a principal may do with this RPC, and for each request why it is not permitted, or None.

    A request that this very principal has had booked is let through: it gets its first answer again, though what it named may be over.
    """
    permission = permission_of(principal, grants_of(state, principal, operators), rpc)
    if permission is not None and (permission.everything or permission.public):
        return permission, [None] * len(requests)
    refused = not_permitted(principal, rpc)
    if permission is None:
        return None, [refused] * len(requests)
    owner = Owner(state, principal, permission.brokers)
    if permission.own and isinstance(requests, SentTransfers) and _name_own_accounts(requests, owner):
        return permission, [None] * len(requests)
    return permission, [
        None if admits(permission, state, request, owner) or _was_booked(state, principal, request) else refused for request in requests
    ]


def _name_own_accounts(transfers: SentTransfers, owner: Owner) -> bool:
    """Return whether all accounts that transfers name are the caller's own; the instrument, which is all else they name, is public.

    Each account is looked at once: a tenth of the time of `admits` for each transfer.
    """
    ends = {end for transfer in transfers for end in (transfer.source, transfer.destination)}
    return all(not end or owner.account(end) for end in ends)


def admits(permission: Permission, state: State, message: Any, owner: Owner | None = None) -> bool:
    """Return whether one of the limits of a permission lets through everything that a message names."""
    if permission.own:
        owns = (owner or Owner(state, permission.principal, permission.brokers)).owns
        if all(owns(kind, value) for kind, value in subjects_of(message) if kind is not Kind.ENTRY):
            return True
    if permission.instruments:
        named = instruments_of(state, subjects_of(message))
        if named and named <= permission.instruments:
            return True
    if permission.custodians:
        named = custodians_of(state, subjects_of(message))
        return bool(named) and named <= permission.custodians
    return False


def _was_booked(state: State, principal: str, request: Any) -> bool:
    text = getattr(request, "request_id", "")
    if not text or "validate_only" not in request.DESCRIPTOR.fields_by_name:
        return False
    try:
        request_id = parse_request_id(text)
    except LedgerError:
        return False
    return state.requests.find(request_id + principal.encode(), request_id_time_ms(request_id)) is not None
