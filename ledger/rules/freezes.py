"""Freezes: regulatory stops on a holder, an account, or a number of units, each with its legal reference.

    command           event
    FreezeHolder      HolderFrozen
    UnfreezeHolder    HolderUnfrozen
    FreezeAccount     AccountFrozen
    UnfreezeAccount   AccountUnfrozen
    FreezeUnits       UnitsFrozen
    UnfreezeUnits     UnitsUnfrozen

A frozen holder or account takes no part in any decided movement, but for what is forced or put right (rules/eligibility.py says where
these are listed): `checks.check_party` is the gate. Frozen units are a number that must stay behind, whatever the holding: 100 frozen of
a holding of 60 means that nothing moves until more than 100 are there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger.errors import refusal
from ledger.records import FrozenUnits
from ledger.rules.accounts import change_account, change_holder
from ledger.rules.chains.places import check_capable
from ledger.rules.checks import (
    check_account_open,
    check_not_due,
    check_present,
    check_text,
    check_units,
    find_account,
    find_holder,
    find_instrument,
)
from stockledger.v1.accounts_pb2 import (
    AccountFrozen,
    AccountUnfrozen,
    FreezeAccountRequest,
    FreezeAccountResponse,
    FreezeHolderRequest,
    FreezeHolderResponse,
    FreezeUnitsRequest,
    FreezeUnitsResponse,
    HolderFrozen,
    HolderUnfrozen,
    UnfreezeAccountRequest,
    UnfreezeAccountResponse,
    UnfreezeHolderRequest,
    UnfreezeHolderResponse,
    UnfreezeUnitsRequest,
    UnfreezeUnitsResponse,
    UnitsFrozen,
    UnitsUnfrozen,
)
from stockledger.v1.chains_pb2 import ChainCapability
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from ledger.rules.context import Context, Decided
    from ledger.state import State


def decide_freeze_holder(state: State, command: FreezeHolderRequest, context: Context) -> list[HolderFrozen]:
    check_present(holder=command.holder)
    reference = check_text("legal_reference", command.legal_reference)
    holder = find_holder(state, command.holder)
    if holder.freeze_reference == reference:
        message = f"holder {holder.holder} is frozen on this ground already ({reference})"
        raise refusal(Reason.REASON_NOTHING_TO_CHANGE, message, holder=holder.holder, legal_reference=reference)
    return [HolderFrozen(holder=holder.holder, legal_reference=reference)]


def evolve_holder_frozen(state: State, event: HolderFrozen, decided: Decided) -> None:
    change_holder(state, event.holder, freeze_reference=event.legal_reference)


def decide_unfreeze_holder(state: State, command: UnfreezeHolderRequest, context: Context) -> list[HolderUnfrozen]:
    check_present(holder=command.holder)
    reference = check_text("legal_reference", command.legal_reference)
    holder = find_holder(state, command.holder)
    if not holder.freeze_reference:
        raise refusal(Reason.REASON_NOTHING_TO_CHANGE, f"holder {holder.holder} is not frozen", holder=holder.holder)
    return [HolderUnfrozen(holder=holder.holder, legal_reference=reference)]


def evolve_holder_unfrozen(state: State, event: HolderUnfrozen, decided: Decided) -> None:
    change_holder(state, event.holder, freeze_reference="")


def decide_freeze_account(state: State, command: FreezeAccountRequest, context: Context) -> list[AccountFrozen]:
    check_present(account=command.account)
    reference = check_text("legal_reference", command.legal_reference)
    account = find_account(state, command.account)
    check_account_open(account)
    if account.freeze_reference == reference:
        message = f"{account.name} is frozen on this ground already ({reference})"
        raise refusal(Reason.REASON_NOTHING_TO_CHANGE, message, account=account.name, legal_reference=reference)
    return [AccountFrozen(account=account.name, legal_reference=reference)]


def evolve_account_frozen(state: State, event: AccountFrozen, decided: Decided) -> None:
    change_account(state, event.account, freeze_reference=event.legal_reference)


def decide_unfreeze_account(state: State, command: UnfreezeAccountRequest, context: Context) -> list[AccountUnfrozen]:
    check_present(account=command.account)
    reference = check_text("legal_reference", command.legal_reference)
    account = find_account(state, command.account)
    if not account.freeze_reference:
        raise refusal(Reason.REASON_NOTHING_TO_CHANGE, f"{account.name} is not frozen", account=account.name)
    return [AccountUnfrozen(account=account.name, legal_reference=reference)]


def evolve_account_unfrozen(state: State, event: AccountUnfrozen, decided: Decided) -> None:
    change_account(state, event.account, freeze_reference="")


def decide_freeze_units(state: State, command: FreezeUnitsRequest, context: Context) -> list[UnitsFrozen]:
    """A count of units means units of today, so a split that is due comes first."""
    check_present(instrument=command.instrument, account=command.account)
    frozen = FrozenUnits(check_units("units", command.units), check_text("legal_reference", command.legal_reference))
    instrument = find_instrument(state, command.instrument)
    account = find_account(state, command.account)
    check_not_due(instrument, context.decision_time_us)
    check_account_open(account)
    deployment = state.deployments.get((instrument.symbol, account.place))
    if deployment is not None:
        check_capable(deployment, ChainCapability.CHAIN_CAPABILITY_FREEZE_UNITS)
    if state.frozen_units.get((instrument.number, account.number)) == frozen:
        message = f"{frozen.units} {instrument.symbol} of {account.name} are frozen on this ground already ({frozen.legal_reference})"
        raise refusal(
            Reason.REASON_NOTHING_TO_CHANGE,
            message,
            account=account.name,
            instrument=instrument.symbol,
            legal_reference=frozen.legal_reference,
        )
    return [UnitsFrozen(instrument=instrument.symbol, account=account.name, units=frozen.units, legal_reference=frozen.legal_reference)]


def evolve_units_frozen(state: State, event: UnitsFrozen, decided: Decided) -> None:
    key = (state.instruments[event.instrument].number, state.accounts[event.account].number)
    state.put(state.frozen_units, key, FrozenUnits(event.units, event.legal_reference))


def decide_unfreeze_units(state: State, command: UnfreezeUnitsRequest, context: Context) -> list[UnitsUnfrozen]:
    check_present(instrument=command.instrument, account=command.account)
    reference = check_text("legal_reference", command.legal_reference)
    instrument = find_instrument(state, command.instrument)
    account = find_account(state, command.account)
    frozen = state.frozen_units.get((instrument.number, account.number))
    if frozen is None:
        message = f"no {instrument.symbol} of {account.name} are frozen"
        raise refusal(Reason.REASON_FREEZE_NOT_FOUND, message, account=account.name, instrument=instrument.symbol)
    return [UnitsUnfrozen(instrument=instrument.symbol, account=account.name, units=frozen.units, legal_reference=reference)]


def evolve_units_unfrozen(state: State, event: UnitsUnfrozen, decided: Decided) -> None:
    state.remove(state.frozen_units, (state.instruments[event.instrument].number, state.accounts[event.account].number))


COMMANDS: dict[type[Any], tuple[Any, type[Any]]] = {
    FreezeHolderRequest: (decide_freeze_holder, FreezeHolderResponse),
    UnfreezeHolderRequest: (decide_unfreeze_holder, UnfreezeHolderResponse),
    FreezeAccountRequest: (decide_freeze_account, FreezeAccountResponse),
    UnfreezeAccountRequest: (decide_unfreeze_account, UnfreezeAccountResponse),
    FreezeUnitsRequest: (decide_freeze_units, FreezeUnitsResponse),
    UnfreezeUnitsRequest: (decide_unfreeze_units, UnfreezeUnitsResponse),
}
EVENTS: dict[type[Any], Any] = {
    HolderFrozen: evolve_holder_frozen,
    HolderUnfrozen: evolve_holder_unfrozen,
    AccountFrozen: evolve_account_frozen,
    AccountUnfrozen: evolve_account_unfrozen,
    UnitsFrozen: evolve_units_frozen,
    UnitsUnfrozen: evolve_units_unfrozen,
}
