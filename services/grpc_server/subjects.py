"""Subjects: which fields of a message name whose things, and whether they are a caller's own.

One word means one thing in all of protos/, so the name of a field says what stands in it. A field that is in neither table here is a
mistake, and a test finds it.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ledger.rules.chains.endings import instruction_key
from ledger.state import FIRST_ACCOUNT_NUMBER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from google.protobuf.descriptor import Descriptor

    from ledger.state import State


class Kind(Enum):
    """What a field names. All but instruments and custodians are private."""

    ACCOUNT = auto()
    ACCOUNT_NUMBER = auto()
    NEW_ACCOUNT = auto()
    HOLDER = auto()
    NEW_HOLDER = auto()
    BROKER = auto()
    HOLD = auto()
    SUBSCRIPTION = auto()
    REDEMPTION = auto()
    APPROVAL = auto()
    PRINCIPAL = auto()
    ENTRY = auto()
    INSTRUMENT = auto()
    CUSTODIAN = auto()
    CUSTODY_ACCOUNT = auto()
    INSTRUCTION = auto()


KINDS: Final[dict[str, Kind]] = {
    "account": Kind.ACCOUNT,
    "source": Kind.ACCOUNT,
    "destination": Kind.ACCOUNT,
    "lost_account": Kind.ACCOUNT,
    "loss_account": Kind.ACCOUNT,
    "paying_account": Kind.ACCOUNT,
    "fee_account": Kind.ACCOUNT,
    "proceeds_account": Kind.ACCOUNT,
    "funding_account": Kind.ACCOUNT,
    "wallet": Kind.ACCOUNT,
    "receiving_account": Kind.ACCOUNT,
    "origin": Kind.ACCOUNT,
    "onward": Kind.ACCOUNT,
    "owner_account": Kind.ACCOUNT,
    "return_account": Kind.ACCOUNT,
    "instruction": Kind.INSTRUCTION,
    "sources": Kind.ACCOUNT_NUMBER,
    "destinations": Kind.ACCOUNT_NUMBER,
    "accounts": Kind.ACCOUNT_NUMBER,
    "sellers": Kind.ACCOUNT_NUMBER,
    "buyers": Kind.ACCOUNT_NUMBER,
    "frozen_accounts": Kind.ACCOUNT_NUMBER,
    "holder": Kind.HOLDER,
    "broker": Kind.BROKER,
    "hold": Kind.HOLD,
    "holds": Kind.HOLD,
    "sell_holds": Kind.HOLD,
    "buy_holds": Kind.HOLD,
    "subscription": Kind.SUBSCRIPTION,
    "redemption": Kind.REDEMPTION,
    "approval": Kind.APPROVAL,
    "principal": Kind.PRINCIPAL,
    "requester": Kind.PRINCIPAL,
    "index": Kind.ENTRY,
    "instrument": Kind.INSTRUMENT,
    "symbol": Kind.INSTRUMENT,
    "custodian": Kind.CUSTODIAN,
    "signer": Kind.CUSTODIAN,
    "custody_account": Kind.CUSTODY_ACCOUNT,
}

_KINDS_HERE: Final[dict[tuple[str, str], Kind | None]] = {
    ("OpenAccountRequest", "account"): Kind.NEW_ACCOUNT,
    ("RegisterHolderRequest", "holder"): Kind.NEW_HOLDER,
    ("BindWalletRequest", "account"): None,  # its own signature proves whose it is
}

HARMLESS: Final = frozenset(
    {
        *("request_id", "validate_only", "page_size", "page_token", "size", "old_size", "start_index", "stop_when_caught_up"),
        *("seconds", "nanos", "limit", "last", "units", "cash_units", "released_units", "position", "fill"),
        *("country", "investor_class", "state", "frozen", "name", "cause", "reference", "delivery_reference", "in_kind", "action"),
        *("cash_instrument", "purpose", "signature", "each_on_its_own", "number", "kind", "chain"),
    }
)
"""Fields of requests that brokers may make which name nothing of anybody's; a currency is everybody's, and so is a corporate action."""


class Field(NamedTuple):
    """A field that names something."""

    name: str
    kind: Kind
    repeated: bool
    optional: bool


class Fields(NamedTuple):
    """The fields of a message that name something, and those with messages in them."""

    subjects: tuple[Field, ...]
    nested: tuple[tuple[str, bool], ...]


_FIELDS: dict[str, Fields] = {}


def fields_of(descriptor: Descriptor) -> Fields:
    """Return what of a message is looked at; worked out once for each type."""
    found = _FIELDS.get(descriptor.full_name)
    if found is None:
        subjects, nested = [], []
        for field in descriptor.fields:
            if field.message_type is not None:
                if not field.message_type.GetOptions().map_entry:
                    nested.append((field.name, bool(field.is_repeated)))
                continue
            kind = _KINDS_HERE.get((descriptor.name, field.name), KINDS.get(field.name))
            if kind is not None:
                subjects.append(Field(field.name, kind, bool(field.is_repeated), bool(field.has_presence)))
        found = _FIELDS[descriptor.full_name] = Fields(tuple(subjects), tuple(nested))
    return found


def subjects_of(message: Any) -> Iterator[tuple[Kind, Any]]:
    """Yield what a message names, (kind, value) or (kind, list of numbers), at any depth. What is left empty names nothing.

    A broker's id counts even when it is empty: a holder of no broker is nobody's own.
    """
    subjects, nested = fields_of(message.DESCRIPTOR)
    for name, kind, repeated, optional in subjects:
        if optional and not message.HasField(name):
            continue
        value = getattr(message, name)
        if value or kind is Kind.BROKER or (kind is Kind.ENTRY and not repeated):
            yield kind, value
    for name, repeated in nested:
        if repeated:
            for child in getattr(message, name):
                yield from subjects_of(child)
        elif message.HasField(name):
            yield from subjects_of(getattr(message, name))


class Owner:
    """Says what is the own of a principal who acts for brokers, in the books as they stand.

    `origins` knows the account behind holds, subscriptions and redemptions, and the requester of approvals, that are over; without it,
    what is over is nobody's.
    """

    __slots__ = ("_brokers", "_origins", "_principal", "_state", "tests")

    def __init__(self, state: State, principal: str, brokers: frozenset[str], origins: Origins | None = None) -> None:
        self._state = state
        self._principal = principal
        self._brokers = brokers
        self._origins = origins
        self.tests: dict[Kind, Callable[[Any], bool]] = {
            Kind.ACCOUNT: self.account,
            Kind.ACCOUNT_NUMBER: self.number,
            Kind.NEW_ACCOUNT: lambda name: any(name.startswith(f"book:{broker}/") for broker in brokers),
            Kind.HOLDER: self.holder,
            Kind.NEW_HOLDER: lambda name: any(name.startswith(f"{broker}/") for broker in brokers),
            Kind.BROKER: brokers.__contains__,
            Kind.HOLD: self._hold,
            Kind.SUBSCRIPTION: self._subscription,
            Kind.REDEMPTION: self._redemption,
            Kind.APPROVAL: self._approval,
            Kind.INSTRUCTION: self._instruction,
            Kind.PRINCIPAL: principal.__eq__,
        }

    def owns(self, kind: Kind, value: Any) -> bool:
        """Return whether a thing, or every one of a list of numbers, is the caller's own. Public things are; entries never."""
        test = self.tests.get(kind)
        if test is None:
            return kind is not Kind.ENTRY
        if isinstance(value, (str, int)):
            return test(value)
        return all(map(test, set(value)))

    def account(self, name: str) -> bool:
        account = self._state.accounts.get(name)
        return account is not None and bool(account.holder) and self.holder(account.holder)

    def number(self, number: int) -> bool:
        if number < FIRST_ACCOUNT_NUMBER:
            return False
        name = self._state.account_names.get(number)
        return name is not None and self.account(name)

    def holder(self, name: str) -> bool:
        holder = self._state.holders.get(name)
        return holder is not None and holder.broker in self._brokers

    def _hold(self, number: int) -> bool:
        hold = self._state.holds.get(number)
        if hold is not None:
            return self.number(hold.account)
        return self._origins is not None and self.account(self._origins.holds.get(number, ""))

    def _subscription(self, number: int) -> bool:
        subscription = self._state.subscriptions.get(number)
        if subscription is not None:
            return self.account(subscription.account)
        return self._origins is not None and self.account(self._origins.subscriptions.get(number, ""))

    def _redemption(self, number: int) -> bool:
        redemption = self._state.redemptions.get(number)
        if redemption is not None:
            return self.account(redemption.account)
        return self._origins is not None and self.account(self._origins.redemptions.get(number, ""))

    def _instruction(self, text: str) -> bool:
        """An instruction is whose accounts it names; one of others that gives to his is his too."""
        found = self._state.instructions.get(instruction_key(text) or (-1, -1))
        if found is None:
            return False
        return any(map(self.account, (found.source, found.destination, found.origin, found.onward, found.owner_account)))

    def _approval(self, number: int) -> bool:
        approval = self._state.approvals.get(number)
        if approval is not None:
            return approval.requester == self._principal
        return self._origins is not None and self._origins.approvals.get(number) == self._principal


class Origins:
    """Whose holds, subscriptions, redemptions and approvals were, also once they are over: an index over the log, grown as it grows."""

    def __init__(self) -> None:
        self.size = 0
        self.holds: dict[int, str] = {}
        self.subscriptions: dict[int, str] = {}
        self.redemptions: dict[int, str] = {}
        self.approvals: dict[int, str] = {}

    def note(self, kind: str, event: Any, principal: str) -> None:
        """Take in an event that opens one of them."""
        if kind == "hold_placed":
            self.holds[event.hold.hold] = event.hold.account
        elif kind == "subscription_requested":
            self.holds[event.hold] = self.subscriptions[event.subscription] = event.account
        elif kind == "redemption_requested":
            self.redemptions[event.redemption] = event.account
            if event.hold:
                self.holds[event.hold] = event.account
        elif kind == "approval_requested":
            self.approvals[event.approval] = principal


OPENING_KINDS: Final = ("hold_placed", "subscription_requested", "redemption_requested", "approval_requested")


def instruments_of(state: State, subjects: Iterable[tuple[Kind, Any]]) -> set[str]:
    """Return the instruments that subjects name, also by the number of a subscription or redemption; an unknown number gives ""."""
    named: set[str] = set()
    for kind, value in subjects:
        if kind is Kind.INSTRUMENT:
            named.add(value)
        elif kind is Kind.INSTRUCTION:
            instruction = state.instructions.get(instruction_key(value) or (-1, -1))
            named.add("" if instruction is None else instruction.instrument)
        elif kind is Kind.SUBSCRIPTION:
            subscription = state.subscriptions.get(value)
            named.add("" if subscription is None else subscription.instrument)
        elif kind is Kind.REDEMPTION:
            redemption = state.redemptions.get(value)
            named.add("" if redemption is None else redemption.instrument)
    return named


def custodians_of(state: State, subjects: Iterable[tuple[Kind, Any]]) -> set[str]:
    """Return the custodians that subjects name, also by their custody accounts."""
    named: set[str] = set()
    for kind, value in subjects:
        if kind is Kind.CUSTODIAN:
            named.add(value)
        elif kind is Kind.CUSTODY_ACCOUNT:
            account = state.custody_accounts.get(value)
            named.add("" if account is None else account.custodian)
    return named
