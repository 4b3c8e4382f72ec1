"""What a caller may see of an answer or an entry: what is not his own is taken out.

Everything goes by the names of fields (subjects.py), so a new message is covered on the day it is written: an item of a list that names
nothing of the caller's is left out, and a name of somebody else's in an item that stays is emptied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from services.grpc_server.subjects import Kind, Owner, fields_of, instruments_of, subjects_of
from stockledger.v1.audit_pb2 import VisibleEntry
from stockledger.v1.events_pb2 import Entry

if TYPE_CHECKING:
    from ledger.state import State
    from services.grpc_server.authorization import Permission

_NAMES: Final = frozenset({Kind.ACCOUNT, Kind.HOLDER, Kind.BROKER, Kind.PRINCIPAL})
"""Kinds whose foreign values are emptied."""
_NUMBERS: Final = frozenset({Kind.HOLD, Kind.SUBSCRIPTION, Kind.REDEMPTION, Kind.APPROVAL})
"""Kinds that say whose a message is where no name does."""

PUBLIC_EVENTS: Final = frozenset(
    {
        *("ledger_opened", "instrument_registered", "instrument_amended", "instrument_halted", "instrument_resumed"),
        *("instrument_retired", "multiplier_changed", "eligibility_set", "approval_policy_set", "custodian_registered"),
        *("custodian_key_rotated", "reserve_shortfall_raised", "reserve_shortfall_ended"),
        *("action_announced", "action_completed", "action_cancelled"),
        *("chain_registered", "chain_amended", "deployment_registered", "deployment_amended", "multiplier_scheduled"),
    }
)
"""Announced to all; private names in them are emptied all the same."""
PRIVATE_EVENTS: Final = frozenset(
    {
        *("units_transferred", "batch_transferred", "transfers_packed", "trades_settled", "delivery_settled", "units_issued"),
        *("hold_placed", "hold_executed", "hold_released", "holds_expired", "units_transferred_by_force", "transfer_reversed"),
        *("receivable_repaid", "holder_registered", "holder_amended", "holder_frozen", "holder_unfrozen", "account_opened"),
        *("account_closed", "account_frozen", "account_unfrozen", "units_frozen", "units_unfrozen", "wallet_bound"),
        *("wallet_recovered", "approval_given", "command_declined", "role_granted", "role_revoked", "subscription_requested"),
        *("subscription_filled", "fill_settled", "subscription_ended", "redemption_requested", "redemption_filled"),
        *("redemption_settled", "redemption_delivered", "redemption_ended", "fills_rescaled", "entitlements_fixed"),
        *("distribution_paid", "units_replaced", "entitlement_released"),
    }
)
"""Seen by whom they concern."""
REQUESTERS_EVENTS: Final = frozenset({"approval_requested"})
"""Seen by who asked."""
HIDDEN_EVENTS: Final = frozenset(
    {
        *("custody_account_opened", "evidence_recorded", "receipt_confirmed", "delivery_confirmed"),
        *("chain_key_set", "deposit_addresses_registered", "transactions_recorded", "transactions_died", "range_observed"),
        *("chain_reconciled", "instruction_abandoned", "divergence_raised", "divergence_resolved", "wallet_swept"),
        *("deposit_attributed", "anchor_requested"),
    }
)
"""Between custodians, workers of chains and the operator; GetReserve, GetHolding and GetInstruction tell the outcome."""


class Columns(NamedTuple):
    """Equally long columns of a message: keys that say whose a line is, what only that key's owner may see, and what both may."""

    keys: dict[str, tuple[str, ...]]
    shared: tuple[str, ...]


COLUMNS: Final[dict[str, tuple[Columns, ...]]] = {
    "LegColumns": (Columns({"sources": (), "destinations": ()}, ("units",)),),
    "TransfersPacked": (Columns({"sources": (), "destinations": ()}, ("instruments", "units")),),
    "TradesSettled": (
        Columns({"sellers": ("sell_holds", "seller_fee_units"), "buyers": ("buy_holds", "buyer_fee_units")}, ("units", "cash_units")),
    ),
    "HoldsExpired": (Columns({"holds": ()}, ()),),
    "EntitlementsFixed": (Columns({"accounts": ("units",)}, ()),),
    "DistributionPaid": (Columns({"accounts": ("paid_units", "withheld_units", "blocked_units", "unclaimed_units")}, ()),),
    "UnitsReplaced": (
        Columns({"accounts": ("old_units", "new_units")}, ()),
        Columns({"holds": ("held_units",)}, ()),
        Columns({"frozen_accounts": ("frozen_units",)}, ()),
    ),
}
_OF_ALL_LINES: Final = {"TransfersPacked": ("request_ids",), "TradesSettled": ("refusals",)}
"""Fields that count over all lines, and go when a line does."""


def show_answer(permission: Permission, state: State, answer: Any) -> Any:
    """Take out of an answer, in place, what its caller may not see, and return it."""
    if permission.everything:
        return answer
    owner = Owner(state, permission.principal, permission.brokers)
    for field, value in answer.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        if not field.is_repeated:
            redact(value, owner)
        else:
            kept = [item for item in value if _item_is_visible(permission, state, owner, item) or permission.public]
            if len(kept) < len(value):
                answer.ClearField(field.name)
                getattr(answer, field.name).extend(kept)
    return answer


def _item_is_visible(permission: Permission, state: State, owner: Owner, item: Any) -> bool:
    if permission.instruments:
        named = instruments_of(state, subjects_of(item))
        if named and named <= permission.instruments:
            return True
    return redact(item, owner)


def show_entry(index: int, entry: Entry, permission: Permission, owner: Owner) -> VisibleEntry | None:
    """Return an entry as far as a broker may see it, or None. The entry is used up."""
    kind = entry.WhichOneof("event")
    if kind is None:
        return None
    asked = entry.principal == permission.principal
    event = getattr(entry, kind)
    concerned = redact(event, owner)
    if not (kind in PUBLIC_EVENTS or (kind in PRIVATE_EVENTS and concerned) or (kind in REQUESTERS_EVENTS and asked)):
        return None
    if not asked:
        for name in ("principal", "request_id", "request_digest"):
            entry.ClearField(name)
        if kind == "transfers_packed":
            event.ClearField("request_ids")
        if kind == "batch_transferred":
            event.ClearField("reference")
    return VisibleEntry(index=index, entry=entry)


def is_own_throughout(entry: Entry, permission: Permission, owner: Owner) -> bool:
    """Return whether a broker may see an entry as it is stored."""
    whole = entry.SerializeToString(deterministic=True)
    shown = show_entry(0, entry, permission, owner)
    return shown is not None and shown.entry.SerializeToString(deterministic=True) == whole


def redact(message: Any, owner: Owner) -> bool:
    """Empty the names of others in a message, in place; return whether anything in it is the owner's."""
    subjects, nested = fields_of(message.DESCRIPTOR)
    concerned = False
    columns = COLUMNS.get(message.DESCRIPTOR.name, ())
    for group in columns:
        concerned |= _redact_columns(message, group, owner)
    named = bool(columns)
    for name, kind, repeated, _ in subjects:
        if repeated or kind not in _NAMES:
            continue
        value = getattr(message, name)
        if not value:
            continue
        named = True
        if owner.owns(kind, value):
            concerned = True
        else:
            message.ClearField(name)
    for name, repeated in nested:
        if repeated:
            concerned |= _redact_items(message, name, owner)
        elif message.HasField(name):
            concerned |= redact(getattr(message, name), owner)
    if not concerned and not named:
        concerned = any(
            owner.owns(kind, getattr(message, name)) for name, kind, repeated, _ in subjects if kind in _NUMBERS and not repeated
        )
    return concerned


def _redact_items(message: Any, name: str, owner: Owner) -> bool:
    """Leave out the items of a list that concern others only. Items that name nobody stay, and say nothing."""
    items = getattr(message, name)
    kept, concerned = [], False
    for item in items:
        private = any(kind in _NAMES or kind in _NUMBERS or kind is Kind.ACCOUNT_NUMBER for kind, _ in subjects_of(item))
        own = redact(item, owner)
        concerned |= own
        if own or not private:
            kept.append(item)
    if len(kept) < len(items):
        message.ClearField(name)
        getattr(message, name).extend(kept)
    return concerned


def _redact_columns(message: Any, group: Columns, owner: Owner) -> bool:
    """Leave out the lines that concern others only, and set to 0 what belongs to the other side of a line that stays."""
    own = {key: list(map(owner.tests[Kind.HOLD if key == "holds" else Kind.ACCOUNT_NUMBER], getattr(message, key))) for key in group.keys}
    lines = [line for line in range(len(next(iter(own.values())))) if any(mine[line] for mine in own.values())]
    for key, dependents in group.keys.items():
        for name in (key, *dependents):
            column = getattr(message, name)
            column[:] = [column[line] if own[key][line] else 0 for line in lines if line < len(column)]
    complete = all(len(mine) == len(lines) and all(mine) for mine in own.values())
    for name in group.shared:
        column = getattr(message, name)
        column[:] = [column[line] for line in lines]
    if not complete:
        for name in _OF_ALL_LINES.get(message.DESCRIPTOR.name, ()):
            message.ClearField(name)
    return bool(lines)
