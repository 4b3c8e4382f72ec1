"""Holders and their accounts.

    command          event
    RegisterHolder   HolderRegistered
    AmendHolder      HolderAmended
    OpenAccount      AccountOpened
    CloseAccount     AccountClosed

Freezes are in freezes.py, wallets in wallets.py.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from ledger import state as books
from ledger.errors import refusal
from ledger.rules.checks import BOOK, check_account_open, check_country, check_enum, check_holder, check_id, find_account, find_holder
from ledger.state import FIRST_ACCOUNT_NUMBER
from stockledger.v1.accounts_pb2 import (
    AccountClosed,
    AccountOpened,
    AmendHolderRequest,
    AmendHolderResponse,
    CloseAccountRequest,
    CloseAccountResponse,
    HolderAmended,
    HolderRegistered,
    HolderState,
    InvestorClass,
    OpenAccountRequest,
    OpenAccountResponse,
    RegisterHolderRequest,
    RegisterHolderResponse,
)
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from ledger.rules.context import Context, Decided
    from ledger.state import State

_ACTIVE = HolderState.HOLDER_STATE_ACTIVE


def refresh_profile(state: State, account: books.Account) -> None:
    """Recompute the profile of an account: which (country, class) its holder has, or 0 where a movement needs a closer look."""
    profiles = state.profiles
    if account.number >= len(profiles):
        profiles.frombytes(bytes(4 * max(account.number + 1 - len(profiles), len(profiles) // 2)))
    holder = state.holders.get(account.holder)
    plain = (
        holder is not None
        and account.place == BOOK
        and not (account.closed or account.freeze_reference or holder.freeze_reference)
        and holder.state == _ACTIVE
    )
    number = 0
    if plain and holder is not None:
        kind = (holder.country, holder.investor_class)
        number = state.profile_numbers.get(kind, 0)
        if not number:
            number = len(state.profile_numbers) + 1
            state.put(state.profile_numbers, kind, number)
    state.set_cell(profiles, account.number, number)


def change_account(state: State, name: str, /, **changes: Any) -> None:
    """Replace fields of an account's record."""
    account = dataclasses.replace(state.accounts[name], **changes)
    state.put(state.accounts, name, account)
    refresh_profile(state, account)


def change_holder(state: State, holder: str, /, **changes: Any) -> None:
    """Replace fields of a holder's record, and refresh what its accounts may do."""
    state.put(state.holders, holder, dataclasses.replace(state.holders[holder], **changes))
    for name in state.accounts_of_holder.get(holder, ()):
        refresh_profile(state, state.accounts[name])


def add_account(state: State, name: str, number: int, holder: str) -> None:
    """Book a new account."""
    account = books.Account(name=name, number=number, holder=holder)
    state.put(state.counters, "account", number)
    state.put(state.accounts, name, account)
    state.put(state.account_names, number, name)
    if holder:
        names = state.accounts_of_holder.get(holder)
        if names is None:
            names = {}
            state.put(state.accounts_of_holder, holder, names)
        state.put(names, name, None)
    refresh_profile(state, account)


def next_account_number(state: State) -> int:
    """Return the number the next account will get; the first is 16."""
    return max(state.next_number("account"), FIRST_ACCOUNT_NUMBER)


def decide_register(state: State, command: RegisterHolderRequest, context: Context) -> list[HolderRegistered]:
    check_id("holder", command.holder)
    check_country("country", command.country)
    check_enum("investor_class", command.investor_class, InvestorClass)
    if command.holder in state.holders:
        raise refusal(Reason.REASON_ALREADY_EXISTS, f"holder {command.holder} is registered already", holder=command.holder)
    return [HolderRegistered(holder=command.holder, country=command.country, investor_class=command.investor_class)]


def evolve_registered(state: State, event: HolderRegistered, decided: Decided) -> None:
    state.put(state.holders, event.holder, books.Holder(event.holder, event.country, event.investor_class, _ACTIVE))


_AMENDABLE = ("country", "investor_class", "state")


def decide_amend(state: State, command: AmendHolderRequest, context: Context) -> list[HolderAmended]:
    changes = {field: getattr(command, field) for field in _AMENDABLE if command.HasField(field)}
    if "country" in changes:
        check_country("country", command.country)
    if "investor_class" in changes:
        check_enum("investor_class", command.investor_class, InvestorClass)
    if "state" in changes:
        check_enum("state", command.state, HolderState)
    holder = find_holder(state, command.holder)
    if all(getattr(holder, field) == value for field, value in changes.items()):
        raise refusal(Reason.REASON_NOTHING_TO_CHANGE, f"nothing of holder {holder.holder} would change", holder=holder.holder)
    return [HolderAmended(holder=holder.holder, **changes)]


def evolve_amended(state: State, event: HolderAmended, decided: Decided) -> None:
    change_holder(state, event.holder, **{field: getattr(event, field) for field in _AMENDABLE if event.HasField(field)})


def decide_open(state: State, command: OpenAccountRequest, context: Context) -> list[AccountOpened]:
    name = command.account
    if not name:
        raise refusal(Reason.REASON_FIELD_MISSING, "account is empty", field="account")
    place, colon, reference = name.rpartition(":")
    if place == "ledger" or place.startswith(("transit", "divergence")):
        raise refusal(Reason.REASON_ACCOUNT_RESERVED, f"{name} is a name of the ledger's own accounts", account=name)
    if not colon:
        message = f"account {name!r} is not of the form place:reference, like book:alice"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="account", value=name)
    if place != BOOK:
        message = f"{name} is not in the book; a wallet is bound by its own signature (BindWallet)"
        raise refusal(Reason.REASON_PLACE_UNFIT, message, account=name)
    check_id("account", reference)
    holder = find_holder(state, command.holder)
    if name in state.accounts:
        raise refusal(Reason.REASON_ALREADY_EXISTS, f"account {name} is open already, or was", account=name)
    check_holder(holder)
    return [AccountOpened(account=name, number=next_account_number(state), holder=command.holder)]


def evolve_opened(state: State, event: AccountOpened, decided: Decided) -> None:
    add_account(state, event.account, event.number, event.holder)


def decide_close(state: State, command: CloseAccountRequest, context: Context) -> list[AccountClosed]:
    account = find_account(state, command.account)
    check_account_open(account)
    for number, symbol in state.instrument_symbols.items():
        units = state.holding(number, account.number)
        if units or state.frozen(number, account.number):
            message = f"{account.name} still has {units} {symbol}"
            raise refusal(Reason.REASON_ACCOUNT_NOT_EMPTY, message, account=account.name, instrument=symbol, units=units)
    for action, number in state.owed:
        if number == account.number:
            message = f"{account.name} is still owed an entitlement of {action}"
            raise refusal(Reason.REASON_ACCOUNT_NOT_EMPTY, message, account=account.name, action=action)
    return [AccountClosed(account=account.name)]


def evolve_closed(state: State, event: AccountClosed, decided: Decided) -> None:
    change_account(state, event.account, closed=True)


COMMANDS = {
    RegisterHolderRequest: (decide_register, RegisterHolderResponse),
    AmendHolderRequest: (decide_amend, AmendHolderResponse),
    OpenAccountRequest: (decide_open, OpenAccountResponse),
    CloseAccountRequest: (decide_close, CloseAccountResponse),
}
EVENTS = {
    HolderRegistered: evolve_registered,
    HolderAmended: evolve_amended,
    AccountOpened: evolve_opened,
    AccountClosed: evolve_closed,
}
