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
from typing import TYPE_CHECKING, Any, Final

from ledger import records
from ledger.errors import refusal
from ledger.rules.checks import (
    BOOK,
    OWN_PLACES,
    check_account_open,
    check_country,
    check_enum,
    check_holder,
    check_id,
    check_present,
    find_account,
    find_holder,
)
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


def refresh_profile(state: State, account: records.Account) -> None:
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
    account = records.Account(name=name, number=number, holder=holder)
    state.put(state.counters, "account", number)
    state.put(state.accounts, name, account)
    state.put(state.account_names, number, name)
    if holder:
        _list_account(state, name, holder)
    refresh_profile(state, account)


def _list_account(state: State, name: str, holder: str) -> None:
    names = state.accounts_of_holder.get(holder)
    if names is None:
        names = {}
        state.put(state.accounts_of_holder, holder, names)
    state.put(names, name, None)


def give_account(state: State, name: str, holder: str) -> None:
    """Book that an account of nobody is a holder's from now on."""
    assert not state.accounts[name].holder, "an account does not change its holder"
    _list_account(state, name, holder)
    change_account(state, name, holder=holder)


def next_account_number(state: State) -> int:
    """Return the number the next account will get; the first is 16."""
    return max(state.next_number("account"), FIRST_ACCOUNT_NUMBER)


def check_broker(broker: str) -> str:
    """Return a broker's id, or nothing. It has no "/", since what brokers name themselves begins with their id and one."""
    if broker and "/" in check_id("broker", broker):
        raise refusal(Reason.REASON_FIELD_MALFORMED, f"broker {broker!r} has a '/'", field="broker", value=broker)
    return broker


def decide_register(state: State, command: RegisterHolderRequest, context: Context) -> list[HolderRegistered]:
    check_id("holder", command.holder)
    check_country("country", command.country)
    check_enum("investor_class", command.investor_class, InvestorClass)
    check_broker(command.broker)
    if command.holder in state.holders:
        raise refusal(Reason.REASON_ALREADY_EXISTS, f"holder {command.holder} is registered already", holder=command.holder)
    return [HolderRegistered(holder=command.holder, country=command.country, investor_class=command.investor_class, broker=command.broker)]


def evolve_registered(state: State, event: HolderRegistered, decided: Decided) -> None:
    state.put(state.holders, event.holder, records.Holder(event.holder, event.country, event.investor_class, _ACTIVE, broker=event.broker))


_AMENDABLE: Final = ("country", "investor_class", "state", "broker")


def decide_amend(state: State, command: AmendHolderRequest, context: Context) -> list[HolderAmended]:
    changes = {field: getattr(command, field) for field in _AMENDABLE if command.HasField(field)}
    if "country" in changes:
        check_country("country", command.country)
    if "investor_class" in changes:
        check_enum("investor_class", command.investor_class, InvestorClass)
    if "state" in changes:
        check_enum("state", command.state, HolderState)
    if "broker" in changes:
        check_broker(command.broker)
    holder = find_holder(state, command.holder)
    if all(getattr(holder, field) == value for field, value in changes.items()):
        raise refusal(Reason.REASON_NOTHING_TO_CHANGE, f"nothing of holder {holder.holder} would change", holder=holder.holder)
    return [HolderAmended(holder=holder.holder, **changes)]


def evolve_amended(state: State, event: HolderAmended, decided: Decided) -> None:
    change_holder(state, event.holder, **{field: getattr(event, field) for field in _AMENDABLE if event.HasField(field)})


def decide_open(state: State, command: OpenAccountRequest, context: Context) -> list[AccountOpened]:
    name = command.account
    check_present(account=name, holder=command.holder)
    place, colon, reference = name.partition(":")
    if not (place and colon and reference):
        message = f"account {name!r} is not of the form place:reference, like book:alice"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="account", value=name)
    if place == BOOK:
        check_id("account", reference)
    holder = find_holder(state, command.holder)
    if place in OWN_PLACES:
        raise refusal(Reason.REASON_ACCOUNT_RESERVED, f"{name} is a name of the ledger's own accounts", account=name)
    if place != BOOK:
        message = f"{name} is not in the book; a wallet is bound by its own signature (BindWallet)"
        raise refusal(Reason.REASON_PLACE_UNFIT, message, account=name)
    if name in state.accounts:
        raise refusal(Reason.REASON_ALREADY_EXISTS, f"account {name} is open already, or was", account=name)
    check_holder(holder)
    return [AccountOpened(account=name, number=next_account_number(state), holder=command.holder)]


def evolve_opened(state: State, event: AccountOpened, decided: Decided) -> None:
    add_account(state, event.account, event.number, event.holder)


def decide_close(state: State, command: CloseAccountRequest, context: Context) -> list[AccountClosed]:
    account = find_account(state, command.account)
    check_account_open(account)
    for number, symbol in sorted(state.instrument_symbols.items()):
        units, frozen = state.holding(number, account.number), state.frozen(number, account.number)
        if units or frozen:
            message = f"{account.name} still has {units} {symbol}, {frozen} are frozen"
            raise refusal(Reason.REASON_ACCOUNT_NOT_EMPTY, message, account=account.name, instrument=symbol, units=units, frozen=frozen)
    _check_nothing_due(state, account)
    return [AccountClosed(account=account.name)]


def _named(instruction: records.Instruction) -> tuple[str, ...]:
    """Return the accounts that units of an instruction come from, go to, or belong to."""
    ends = (instruction.source, instruction.destination, instruction.origin, instruction.onward, instruction.owner_account)
    return ends if instruction.units else ()


def _check_nothing_due(state: State, account: records.Account) -> None:
    """Refuse while something may still come to an account: units of orders, entitlements, receivables that it funded."""
    due = [
        *(
            f"subscription {number}"
            for number, order in sorted(state.subscriptions.items())
            if account.name in (order.account, order.receiving_account)
        ),
        *(f"redemption {number}" for number, order in sorted(state.redemptions.items()) if order.account == account.name),
        *(f"action {action}" for action, entitled in sorted(state.entitlements.items()) if account.number in entitled.accounts),
        *(f"action {action}" for action, number in sorted(state.owed) if number == account.number),
        *(f"instruction {each.text}" for _, each in sorted(state.instructions.items()) if account.name in _named(each)),
        *(f"deposit address {address}" for address, name in sorted(state.deposit_addresses.items()) if name == account.name),
        *(f"receivable of {holder}" for holder, _, loss_account in sorted(state.receivables) if loss_account == account.name),
    ]
    if due:
        message = f"{account.name} may still get something: {due[0]}"
        raise refusal(Reason.REASON_ACCOUNT_NOT_EMPTY, message, account=account.name, due=due[0])


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
