"""Reads of instruments, holders, accounts and holdings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.errors import refusal
from ledger.reads.pages import page_of
from ledger.rules.checks import check_country, check_enum, find_holder, find_instrument
from stockledger.v1 import accounts_pb2, instruments_pb2
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.records import Account, Holder, Instrument
    from ledger.state import State


def find_any_account(state: State, name: str) -> Account:
    """Return any account, the ledger's own included."""
    account = state.accounts.get(name)
    if account is None:
        if not name:
            raise refusal(Reason.REASON_FIELD_MISSING, "account is empty", field="account")
        raise refusal(Reason.REASON_ACCOUNT_NOT_FOUND, f"no account {name!r}", account=name)
    return account


def holding_units(state: State, instrument: str, account: str) -> int:
    """Return the units an account holds of an instrument."""
    return state.holding(find_instrument(state, instrument).number, find_any_account(state, account).number)


def instrument_message(instrument: Instrument) -> instruments_pb2.Instrument:
    return instruments_pb2.Instrument(
        symbol=instrument.symbol,
        number=instrument.number,
        name=instrument.name,
        kind=instruments_pb2.InstrumentKind.ValueType(instrument.kind),
        isin=instrument.isin,
        underlying_isin=instrument.underlying_isin,
        currency=instrument.currency,
        decimals=instrument.decimals,
        backing=instruments_pb2.Backing.ValueType(instrument.backing),
        authorised_units=instrument.authorised_units,
        multiplier=str(instrument.multiplier),
        issue_policy=instruments_pb2.IssuePolicy.ValueType(instrument.issue_policy),
        split_method=instruments_pb2.ActionMethod.ValueType(instrument.split_method),
        dividend_method=instruments_pb2.ActionMethod.ValueType(instrument.dividend_method),
        halted_operations=sorted(instrument.halted_operations),  # type: ignore[arg-type]
        retired=instrument.retired,
        share_basis=instrument.share_basis,
    )


def account_message(account: Account) -> accounts_pb2.Account:
    return accounts_pb2.Account(
        account=account.name,
        number=account.number,
        holder=account.holder,
        closed=account.closed,
        freeze_reference=account.freeze_reference,
    )


def holding_message(state: State, instrument: Instrument, account: Account) -> accounts_pb2.Holding:
    units = state.holding(instrument.number, account.number)
    return accounts_pb2.Holding(
        instrument=instrument.symbol,
        account=account.name,
        holder=account.holder,
        units=units,
        held_units=state.held(instrument.number, account.number),
        frozen_units=state.frozen(instrument.number, account.number),
        free_units=max(state.free(instrument.number, account.number), 0),
    )


def get_instrument(state: State, request: instruments_pb2.GetInstrumentRequest, now_us: int) -> instruments_pb2.GetInstrumentResponse:
    instrument = find_instrument(state, request.instrument)
    return instruments_pb2.GetInstrumentResponse(size=state.size, instrument=instrument_message(instrument))


def list_instruments(state: State, request: instruments_pb2.ListInstrumentsRequest, now_us: int) -> instruments_pb2.ListInstrumentsResponse:
    page, token = page_of(request, state.instruments)
    found = [instrument_message(state.instruments[symbol]) for symbol in page]
    return instruments_pb2.ListInstrumentsResponse(size=state.size, next_page_token=token, instruments=found)


def holder_message(holder: Holder) -> accounts_pb2.Holder:
    return accounts_pb2.Holder(
        holder=holder.holder,
        country=holder.country,
        investor_class=accounts_pb2.InvestorClass.ValueType(holder.investor_class),
        state=accounts_pb2.HolderState.ValueType(holder.state),
        freeze_reference=holder.freeze_reference,
        broker=holder.broker,
    )


def get_holder(state: State, request: accounts_pb2.GetHolderRequest, now_us: int) -> accounts_pb2.GetHolderResponse:
    return accounts_pb2.GetHolderResponse(size=state.size, holder=holder_message(find_holder(state, request.holder)))


def list_holders(state: State, request: accounts_pb2.ListHoldersRequest, now_us: int) -> accounts_pb2.ListHoldersResponse:
    """List the holders that every filter that is set lets through."""
    if request.country:
        check_country("country", request.country)
    if request.investor_class:
        check_enum("investor_class", request.investor_class, accounts_pb2.InvestorClass)
    if request.state:
        check_enum("state", request.state, accounts_pb2.HolderState)
    wanted = (
        name
        for name, holder in state.holders.items()
        if request.country in ("", holder.country)
        and request.investor_class in (0, holder.investor_class)
        and request.state in (0, holder.state)
        and (not request.HasField("broker") or request.broker == holder.broker)
        and (not request.frozen or holder.freeze_reference)
    )
    page, token = page_of(request, wanted)
    found = [holder_message(state.holders[name]) for name in page]
    return accounts_pb2.ListHoldersResponse(size=state.size, next_page_token=token, holders=found)


def get_account(state: State, request: accounts_pb2.GetAccountRequest, now_us: int) -> accounts_pb2.GetAccountResponse:
    return accounts_pb2.GetAccountResponse(size=state.size, account=account_message(find_any_account(state, request.account)))


def list_accounts(state: State, request: accounts_pb2.ListAccountsRequest, now_us: int) -> accounts_pb2.ListAccountsResponse:
    names = state.account_names
    if request.holder:
        of_holder = state.accounts_of_holder.get(find_holder(state, request.holder).holder, {})
        numbers: Iterable[int] = [state.accounts[name].number for name in of_holder]
    else:
        numbers = names
    page, token = page_of(request, numbers, int)
    accounts = [account_message(state.accounts[names[number]]) for number in page]
    return accounts_pb2.ListAccountsResponse(size=state.size, next_page_token=token, accounts=accounts)


def get_holding(state: State, request: accounts_pb2.GetHoldingRequest, now_us: int) -> accounts_pb2.GetHoldingResponse:
    instrument = find_instrument(state, request.instrument)
    account = find_any_account(state, request.account)
    return accounts_pb2.GetHoldingResponse(size=state.size, holding=holding_message(state, instrument, account))


def list_holdings(state: State, request: accounts_pb2.ListHoldingsRequest, now_us: int) -> accounts_pb2.ListHoldingsResponse:
    account = find_any_account(state, request.account)
    held = (symbol for symbol, instrument in state.instruments.items() if state.holding(instrument.number, account.number))
    page, token = page_of(request, held)
    holdings = [holding_message(state, state.instruments[symbol], account) for symbol in page]
    return accounts_pb2.ListHoldingsResponse(size=state.size, next_page_token=token, holdings=holdings)


def list_register(state: State, request: accounts_pb2.ListRegisterRequest, now_us: int) -> accounts_pb2.ListRegisterResponse:
    instrument = find_instrument(state, request.instrument)
    column = state.books[instrument.number].units
    page, token = page_of(request, (number for number, units in enumerate(column) if units), int)
    holdings = [holding_message(state, instrument, state.accounts[state.account_names[number]]) for number in page]
    return accounts_pb2.ListRegisterResponse(size=state.size, next_page_token=token, holdings=holdings)


READS = {
    instruments_pb2.GetInstrumentRequest: get_instrument,
    instruments_pb2.ListInstrumentsRequest: list_instruments,
    accounts_pb2.GetHolderRequest: get_holder,
    accounts_pb2.ListHoldersRequest: list_holders,
    accounts_pb2.GetAccountRequest: get_account,
    accounts_pb2.ListAccountsRequest: list_accounts,
    accounts_pb2.GetHoldingRequest: get_holding,
    accounts_pb2.ListHoldingsRequest: list_holdings,
    accounts_pb2.ListRegisterRequest: list_register,
}
