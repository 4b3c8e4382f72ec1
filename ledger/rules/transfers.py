"""Moving units: one by one, by force.

    command                 event                     see
    TransferUnits           UnitsTransferred          transfers.proto
    ForceTransfer           UnitsTransferredByForce   needs ROLE_ENFORCER

A batch of legs is in batches.py, a reversal in reversals.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.arithmetic import UNITS_MAX
from ledger.errors import refusal
from ledger.rules.approvals import check_role
from ledger.rules.chains.crossings import book_crossing, check_decided, find_crossing
from ledger.rules.checks import (
    check_account_open,
    check_free,
    check_length,
    check_movement,
    check_not_due,
    check_present,
    check_text,
    check_units,
    find_book_account,
    find_instrument,
)
from stockledger.v1.approvals_pb2 import Role
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.transfers_pb2 import (
    ForceTransferRequest,
    ForceTransferResponse,
    TransferUnitsRequest,
    TransferUnitsResponse,
    UnitsTransferred,
    UnitsTransferredByForce,
)

if TYPE_CHECKING:
    from ledger.records import Account, Instrument
    from ledger.rules.chains.crossings import Crossing
    from ledger.rules.context import Context, Decided
    from ledger.state import State


def check_two_accounts(source: str, destination: str) -> None:
    """Refuse a movement from an account to itself."""
    if source == destination and source:
        raise refusal(Reason.REASON_SAME_ACCOUNT, f"source and destination are both {source}", account=source)


def find_two_accounts(state: State, source: str, destination: str) -> tuple[Account, Account]:
    """Return source and destination of a movement within the book."""
    return find_book_account(state, source, "source"), find_book_account(state, destination, "destination")


def goes_by_chain(state: State, source_name: str, destination_name: str) -> bool:
    """Tell whether a movement between two accounts has an end at a registered chain. Book accounts with a profile never have."""
    if not state.deployments:
        return False
    ends = (state.accounts.get(source_name), state.accounts.get(destination_name))
    return any(end is not None and end.place in state.chains for end in ends)


def check_transfer(state: State, command: TransferUnitsRequest, now_us: int) -> tuple[Instrument, Account, Account, int]:
    """Return instrument, source, destination and units of an acceptable transfer, but for whether the units are there."""
    symbol, source_name, destination_name, units = command.instrument, command.source, command.destination, command.units
    if not (symbol and source_name and destination_name):
        check_present(instrument=symbol, source=source_name, destination=destination_name)
    if not 0 < units <= UNITS_MAX:
        check_units("units", units)
    if source_name == destination_name:
        check_two_accounts(source_name, destination_name)
    instrument = state.instruments.get(symbol) or find_instrument(state, symbol)
    source, destination = state.accounts.get(source_name), state.accounts.get(destination_name)
    profiles = state.profiles
    if source is None or destination is None or not (profiles[source.number] and profiles[destination.number]):
        source, destination = find_two_accounts(state, source_name, destination_name)  # only book accounts have a profile
    check_movement(state, instrument, source, destination, now_us)
    return instrument, source, destination, units


def decide_transfer(state: State, command: TransferUnitsRequest, context: Context) -> list[UnitsTransferred]:
    reference = command.reference
    if reference:
        check_length("reference", reference)
    if state.deployments and goes_by_chain(state, command.source, command.destination):
        return _decide_crossing(state, command, context.decision_time_us)
    instrument, source, destination, units = check_transfer(state, command, context.decision_time_us)
    if state.free(instrument.number, source.number) < units:
        check_free(state, instrument, source, units)
    return [
        UnitsTransferred(instrument=instrument.symbol, source=source.name, destination=destination.name, units=units, reference=reference)
    ]


def _decide_crossing(state: State, command: TransferUnitsRequest, now_us: int) -> list[UnitsTransferred]:
    """Decide a transfer with an end at a chain."""
    check_present(instrument=command.instrument, source=command.source, destination=command.destination)
    check_units("units", command.units)
    check_two_accounts(command.source, command.destination)
    instrument = find_instrument(state, command.instrument)
    crossing = find_crossing(state, instrument, command.source, command.destination)
    check_decided(state, crossing, command.units, now_us)
    event = UnitsTransferred(instrument=command.instrument, source=command.source, destination=command.destination, units=command.units)
    event.reference, event.chain = command.reference, crossing.chain
    return [event]


def evolve_transfer(state: State, event: UnitsTransferred | UnitsTransferredByForce, decided: Decided) -> None:
    if event.chain:
        book_crossing(state, event, decided)
        return
    accounts = state.accounts
    state.post(state.instruments[event.instrument].number, accounts[event.source].number, accounts[event.destination].number, event.units)


def decide_force(state: State, command: ForceTransferRequest, context: Context) -> list[UnitsTransferredByForce]:
    """Freezes, halts and eligibility do not stop it; units on hold stay where they are until the hold is released."""
    check_role(state, context, Role.ROLE_ENFORCER)
    check_present(instrument=command.instrument, source=command.source, destination=command.destination)
    check_text("legal_reference", command.legal_reference)
    check_text("cause", command.cause)
    check_units("units", command.units)
    check_two_accounts(command.source, command.destination)
    instrument = find_instrument(state, command.instrument)
    if goes_by_chain(state, command.source, command.destination):
        return _force_crossing(state, command, instrument, context.decision_time_us)
    source, destination = find_two_accounts(state, command.source, command.destination)
    check_not_due(instrument, context.decision_time_us)
    check_account_open(destination)
    unheld = state.holding(instrument.number, source.number) - state.held(instrument.number, source.number)
    if unheld < command.units:
        message = f"{source.name} has {unheld} {instrument.symbol} that are not on hold, needed {command.units}"
        raise refusal(
            Reason.REASON_UNITS_INSUFFICIENT, message, account=source.name, instrument=instrument.symbol, free=unheld, needed=command.units
        )
    return [
        UnitsTransferredByForce(
            instrument=command.instrument,
            source=command.source,
            destination=command.destination,
            units=command.units,
            legal_reference=command.legal_reference,
            cause=command.cause,
        )
    ]


def _force_crossing(state: State, command: ForceTransferRequest, instrument: Instrument, now_us: int) -> list[UnitsTransferredByForce]:
    """Decide a transfer by force with an end at a chain; only a divergence there stops it."""
    crossing = find_crossing(state, instrument, command.source, command.destination, forced=True)
    check_not_due(instrument, now_us)
    crossing.check_places(state)
    check_account_open(crossing.destination)
    crossing.check_units(state, command.units, unfrozen_only=False)
    return [forced_crossing(crossing, command.units, command.legal_reference, command.cause)]


def forced_crossing(crossing: Crossing, units: int, legal_reference: str, cause: str) -> UnitsTransferredByForce:
    """Return the event of a transfer by force with an end at a chain."""
    return UnitsTransferredByForce(
        instrument=crossing.instrument.symbol,
        source=crossing.source.name,
        destination=crossing.destination.name,
        units=units,
        legal_reference=legal_reference,
        cause=cause,
        chain=crossing.chain,
    )


def evolve_force(state: State, event: UnitsTransferredByForce, decided: Decided) -> None:
    evolve_transfer(state, event, decided)


COMMANDS = {
    TransferUnitsRequest: (decide_transfer, TransferUnitsResponse),
    ForceTransferRequest: (decide_force, ForceTransferResponse),
}
EVENTS = {
    UnitsTransferred: evolve_transfer,
    UnitsTransferredByForce: evolve_force,
}
