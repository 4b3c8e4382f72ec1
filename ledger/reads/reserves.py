"""Reads of reserves, of who attests them, and of supply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.answers import timestamp
from ledger.arithmetic import SHARES_SCALE, divide_floor, shares_e8_of_units_ceiling
from ledger.reads.pages import page_of
from ledger.rules.chains.omnibus import omnibus_owed, omnibus_reserve
from ledger.rules.checks import find_instrument
from ledger.rules.reserves import as_of_time_us, evidence_of, is_counted, is_stale, needed_shares_e8, reserve_shares_e8
from stockledger.v1 import reserves_pb2
from stockledger.v1.instruments_pb2 import Backing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.records import Evidence, Instrument
    from ledger.state import State

SHARES_MAX: Final = (1 << 63) - 1


def evidence_message(instrument: Instrument, evidence: Evidence, now_us: int) -> reserves_pb2.Evidence:
    return reserves_pb2.Evidence(
        custody_account=evidence.custody_account,
        kind=reserves_pb2.EvidenceKind.ValueType(evidence.kind),
        signer=evidence.signer,
        settled_shares_e8=evidence.settled_shares_e8,
        pending_shares_e8=evidence.pending_shares_e8,
        encumbered_shares_e8=evidence.encumbered_shares_e8,
        as_of_time=timestamp(evidence.as_of_time_us),
        valid_until_time=timestamp(evidence.valid_until_time_us),
        share_basis=evidence.share_basis,
        counted=is_counted(instrument, evidence),
        stale=is_stale(evidence, now_us),
        index=evidence.index,
    )


def _backing_of(state: State, instrument: Instrument) -> tuple[int, int]:
    """Return the shares that are there and those that are needed, at scale 1e8.

    Of an omnibus instrument it is somebody else's token that our wallets hold, raw and final, against what is owed in the book: both at
    the multiplier that the book has, the first rounded down and the second up. Beyond 64 bits the first is told as the most there is.
    """
    if instrument.backing != Backing.BACKING_OMNIBUS:
        return reserve_shares_e8(state, instrument), needed_shares_e8(state, instrument)
    units = omnibus_reserve(state, instrument.symbol, {})
    shares = divide_floor(units * instrument.multiplier * SHARES_SCALE, 10 ** (instrument.decimals + 18))
    needed = shares_e8_of_units_ceiling(omnibus_owed(state, instrument.symbol), instrument.multiplier, instrument.decimals)
    return min(shares, SHARES_MAX), needed


def reserve_message(state: State, instrument: Instrument, now_us: int) -> reserves_pb2.Reserve:
    """Return the reserve with all evidence behind it; figures are sums of the evidence that counts."""
    evidence, (there, needed) = evidence_of(state, instrument), _backing_of(state, instrument)
    counted = [each for each in evidence if is_counted(instrument, each)]
    as_of_us = as_of_time_us(state, instrument)
    return reserves_pb2.Reserve(
        instrument=instrument.symbol,
        settled_shares_e8=sum(each.settled_shares_e8 for each in counted),
        pending_shares_e8=sum(each.pending_shares_e8 for each in counted),
        encumbered_shares_e8=sum(each.encumbered_shares_e8 for each in counted),
        received_shares_e8=sum(each.received_shares_e8 for each in counted),
        delivered_shares_e8=sum(each.delivered_shares_e8 for each in counted),
        reserve_shares_e8=there,
        needed_shares_e8=str(needed),
        shortfall=instrument.symbol in state.shortfalls,
        evidence=[evidence_message(instrument, each, now_us) for each in evidence],
        as_of_time=None if as_of_us is None else timestamp(as_of_us),
    )


def get_reserve(state: State, request: reserves_pb2.GetReserveRequest, now_us: int) -> reserves_pb2.GetReserveResponse:
    instrument = find_instrument(state, request.instrument)
    return reserves_pb2.GetReserveResponse(size=state.size, reserve=reserve_message(state, instrument, now_us))


def list_reserves(state: State, request: reserves_pb2.ListReservesRequest, now_us: int) -> reserves_pb2.ListReservesResponse:
    backed = (
        symbol
        for symbol, instrument in state.instruments.items()
        if symbol in state.custody_accounts_of_instrument
        or state.supply(instrument.number)
        or (instrument.backing == Backing.BACKING_OMNIBUS and symbol in state.chains_of_instrument)
    )
    page, token = page_of(request, backed)
    reserves = [reserve_message(state, state.instruments[symbol], now_us) for symbol in page]
    return reserves_pb2.ListReservesResponse(size=state.size, next_page_token=token, reserves=reserves)


def list_custodians(state: State, request: reserves_pb2.ListCustodiansRequest, now_us: int) -> reserves_pb2.ListCustodiansResponse:
    page, token = page_of(request, state.custodians)
    custodians = [
        reserves_pb2.Custodian(custodian=each.custodian, name=each.name, public_key=each.public_key, agent=each.agent)
        for each in (state.custodians[custodian] for custodian in page)
    ]
    return reserves_pb2.ListCustodiansResponse(size=state.size, next_page_token=token, custodians=custodians)


def list_custody_accounts(
    state: State, request: reserves_pb2.ListCustodyAccountsRequest, now_us: int
) -> reserves_pb2.ListCustodyAccountsResponse:
    names: Iterable[str] = state.custody_accounts
    if request.instrument:
        names = state.custody_accounts_of_instrument.get(find_instrument(state, request.instrument).symbol, ())
    page, token = page_of(request, names)
    accounts = [
        reserves_pb2.CustodyAccount(
            custody_account=each.custody_account, custodian=each.custodian, isin=each.isin, instrument=each.instrument
        )
        for each in (state.custody_accounts[name] for name in page)
    ]
    return reserves_pb2.ListCustodyAccountsResponse(size=state.size, next_page_token=token, custody_accounts=accounts)


def get_supply(state: State, request: reserves_pb2.GetSupplyRequest, now_us: int) -> reserves_pb2.GetSupplyResponse:
    instrument = find_instrument(state, request.instrument)
    return reserves_pb2.GetSupplyResponse(
        size=state.size,
        instrument=instrument.symbol,
        supply_units=state.supply(instrument.number),
        multiplier=str(instrument.multiplier),
        authorised_units=instrument.authorised_units,
    )


READS = {
    reserves_pb2.GetReserveRequest: get_reserve,
    reserves_pb2.ListReservesRequest: list_reserves,
    reserves_pb2.ListCustodiansRequest: list_custodians,
    reserves_pb2.ListCustodyAccountsRequest: list_custody_accounts,
    reserves_pb2.GetSupplyRequest: get_supply,
}
