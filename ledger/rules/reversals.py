"""Reversals: a booked transfer taken back by an event of its own, and the receivables that may remain.

command           event
ReverseTransfer   TransferReversed
RepayReceivable   ReceivableRepaid

Nothing is ever un-booked. Of 150 units sent by mistake, of which 100 are still free at their destination: 100 are taken back, 50 come
from the loss account, who sent them has all 150 again, and the destination's holder owes the loss account 50.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ledger.errors import refusal
from ledger.rules.approvals import check_role
from ledger.rules.checks import (
    check_account_open,
    check_free,
    check_movement,
    check_not_due,
    check_party,
    check_present,
    check_text,
    check_units,
    find_book_account,
    find_holder,
    find_instrument,
)
from ledger.rules.context import entry_index
from ledger.rules.packed import transfer_of_packed
from ledger.rules.transfers import check_two_accounts
from stockledger.v1.approvals_pb2 import Role
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.transfers_pb2 import (
    BatchTransferred,
    ReceivableRepaid,
    RepayReceivableRequest,
    RepayReceivableResponse,
    ReverseTransferRequest,
    ReverseTransferResponse,
    TransferReversed,
)

if TYPE_CHECKING:
    from ledger.records import Account, Instrument
    from ledger.rules.context import Context, Decided
    from ledger.state import State
    from stockledger.v1.events_pb2 import Entry


class _Transfer(NamedTuple):
    """What was booked."""

    instrument: str
    source: str
    destination: str
    units: int


def _not_there(index: int, position: int, count: int) -> Exception:
    message = f"entry {index} has {count} transfers, none at position {position}"
    return refusal(Reason.REASON_ENTRY_NOT_FOUND, message, index=index, position=position)


def _leg_of_batch(state: State, batch: BatchTransferred, index: int, position: int) -> _Transfer:
    """Return a leg of a batch's part, counted over all its columns."""
    first = 0
    for columns in batch.legs:
        leg = position - first
        if 0 <= leg < len(columns.units):
            source, destination = state.account_names[columns.sources[leg]], state.account_names[columns.destinations[leg]]
            return _Transfer(columns.instrument, source, destination, columns.units[leg])
        first += len(columns.units)
    raise _not_there(index, position, first)


def booked_transfer(state: State, entry: Entry, index: int, position: int) -> _Transfer:
    """Return the transfer that stands at a position of an entry.

    Raises: ENTRY_NOT_FOUND where nothing stands there; STATE_UNFIT where the entry is no transfer.
    """
    kind = entry.WhichOneof("event")
    if kind == "transfers_packed":
        packed = entry.transfers_packed
        if not 0 <= position < len(packed.units):
            raise _not_there(index, position, len(packed.units))
        line = transfer_of_packed(state, packed, position)
        return _Transfer(line.instrument, line.source, line.destination, line.units)
    if kind == "batch_transferred":
        return _leg_of_batch(state, entry.batch_transferred, index, position)
    if kind not in {"units_transferred", "units_transferred_by_force"}:
        message = f"entry {index} is {kind}, not a transfer"
        raise refusal(Reason.REASON_STATE_UNFIT, message, index=index, event=kind)
    if position:
        raise _not_there(index, position, 1)
    booked = entry.units_transferred if kind == "units_transferred" else entry.units_transferred_by_force
    if booked.chain:
        message = f"entry {index} is a transfer by way of {booked.chain}, which only another one can bring back"
        raise refusal(Reason.REASON_STATE_UNFIT, message, index=index, event=kind, chain=booked.chain)
    return _Transfer(booked.instrument, booked.source, booked.destination, booked.units)


def free_to_take_back(state: State, instrument: Instrument, account: Account) -> int:
    """Return the units that a reversal may take: none of a frozen account or a frozen holder."""
    if account.freeze_reference or state.holders[account.holder].freeze_reference:
        return 0
    return max(state.free(instrument.number, account.number), 0)


def decide_reverse(state: State, command: ReverseTransferRequest, context: Context) -> list[TransferReversed]:
    check_text("cause", command.cause)
    index, position = command.index, command.position
    entry = context.read_entry(index)
    booked = booked_transfer(state, entry, index, position)
    if entry.HasField("units_transferred_by_force"):
        check_role(state, context, Role.ROLE_ENFORCER)
    _check_first_time(state, index, position)
    if command.loss_account:
        check_two_accounts(command.loss_account, booked.source)
        check_two_accounts(command.loss_account, booked.destination)
    loss = find_book_account(state, command.loss_account, "loss_account") if command.loss_account else None
    instrument = state.instruments[booked.instrument]
    _check_same_units(instrument, index)
    check_not_due(instrument, context.decision_time_us)
    giver, getter = state.accounts[booked.destination], state.accounts[booked.source]
    check_account_open(getter)
    taken = min(free_to_take_back(state, instrument, giver), booked.units)
    reversal = TransferReversed(
        index=index,
        position=position,
        cause=command.cause,
        instrument=instrument.symbol,
        source=giver.name,
        destination=getter.name,
        taken_units=taken,
    )
    missing = booked.units - taken
    if missing:
        if loss is None:
            message = (
                f"{taken} of {booked.units} {instrument.symbol} can be taken back from {giver.name}, and no loss account funds the rest"
            )
            raise refusal(
                Reason.REASON_UNITS_INSUFFICIENT, message, account=giver.name, instrument=instrument.symbol, free=taken, needed=booked.units
            )
        check_party(state, loss)
        check_free(state, instrument, loss, missing)
        reversal.funded_units = missing
        reversal.loss_account = loss.name
        reversal.holder = giver.holder
    return [reversal]


def _check_first_time(state: State, index: int, position: int) -> None:
    reversed_by = state.reversed.get((index, position))
    if reversed_by is not None:
        message = f"the transfer at index {index}, position {position} was reversed by entry {reversed_by}"
        raise refusal(Reason.REASON_REVERSED_ALREADY, message, index=index, position=position, reversed_by=reversed_by)


def _check_same_units(instrument: Instrument, index: int) -> None:
    """Refuse where a split came between: the units of then are not the units of today."""
    if index < instrument.replaced_index:
        message = (
            f"the units of {instrument.symbol} were replaced by entry {instrument.replaced_index}, after the transfer of entry {index}"
        )
        raise refusal(
            Reason.REASON_STATE_UNFIT, message, index=index, instrument=instrument.symbol, replaced_index=instrument.replaced_index
        )


def evolve_reversed(state: State, event: TransferReversed, decided: Decided) -> None:
    number = state.instruments[event.instrument].number
    accounts = state.accounts
    destination = accounts[event.destination].number
    if event.taken_units:
        state.post(number, accounts[event.source].number, destination, event.taken_units)
    if event.funded_units:
        state.post(number, accounts[event.loss_account].number, destination, event.funded_units)
        key = (event.holder, event.instrument, event.loss_account)
        state.put(state.receivables, key, state.receivables.get(key, 0) + event.funded_units)
    state.put(state.reversed, (event.index, event.position), entry_index(state, decided))


def find_receivable(state: State, holder: str, instrument: str, loss_account: str) -> tuple[str, int]:
    """Return the loss account of a receivable and what is owed; without a name given it must be the only one."""
    owed = {
        funder: units
        for (debtor, symbol, funder), units in sorted(state.receivables.items())
        if (debtor, symbol) == (holder, instrument) and loss_account in {"", funder}
    }
    if not owed:
        message = f"holder {holder} owes no {instrument}" + (f" to {loss_account}" if loss_account else "")
        raise refusal(Reason.REASON_RECEIVABLE_NOT_FOUND, message, holder=holder, instrument=instrument, loss_account=loss_account)
    if len(owed) > 1:
        message = f"holder {holder} owes {instrument} to {', '.join(owed)}: name the loss_account that is paid back"
        raise refusal(Reason.REASON_FIELD_MISSING, message, field="loss_account")
    return next(iter(owed.items()))


def decide_repay(state: State, command: RepayReceivableRequest, context: Context) -> list[ReceivableRepaid]:
    check_present(holder=command.holder, instrument=command.instrument, account=command.account)
    check_units("units", command.units)
    check_two_accounts(command.account, command.loss_account)
    instrument = find_instrument(state, command.instrument)
    holder = find_holder(state, command.holder)
    account = find_book_account(state, command.account)
    loss_account, owed = find_receivable(state, holder.holder, instrument.symbol, command.loss_account)
    check_two_accounts(account.name, loss_account)
    if account.holder != holder.holder:
        message = f"{account.name} is of holder {account.holder}, who does not owe this"
        raise refusal(Reason.REASON_STATE_UNFIT, message, account=account.name, holder=account.holder, needed=holder.holder)
    if command.units > owed:
        message = f"holder {holder.holder} owes {owed} {instrument.symbol} to {loss_account}, not {command.units}"
        raise refusal(
            Reason.REASON_STATE_UNFIT, message, holder=holder.holder, instrument=instrument.symbol, owed=owed, units=command.units
        )
    check_movement(state, instrument, account, state.accounts[loss_account], context.decision_time_us)
    check_free(state, instrument, account, command.units)
    return [
        ReceivableRepaid(
            holder=holder.holder, instrument=instrument.symbol, account=account.name, units=command.units, loss_account=loss_account
        )
    ]


def evolve_repaid(state: State, event: ReceivableRepaid, decided: Decided) -> None:
    accounts = state.accounts
    state.post(state.instruments[event.instrument].number, accounts[event.account].number, accounts[event.loss_account].number, event.units)
    key = (event.holder, event.instrument, event.loss_account)
    left = state.receivables[key] - event.units
    assert left >= 0, "no more is paid back than is owed"
    if left:
        state.put(state.receivables, key, left)
    else:
        state.remove(state.receivables, key)


COMMANDS = {
    ReverseTransferRequest: (decide_reverse, ReverseTransferResponse),
    RepayReceivableRequest: (decide_repay, RepayReceivableResponse),
}
EVENTS = {
    TransferReversed: evolve_reversed,
    ReceivableRepaid: evolve_repaid,
}
