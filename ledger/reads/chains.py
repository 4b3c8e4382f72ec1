"""Reads of chains."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from ledger.answers import timestamp
from ledger.reads.pages import count_within_bytes, page_of
from ledger.rules.chains.deployments import deployment_message
from ledger.rules.chains.instructions import OPEN, blocked_by, find_instruction, rank_of
from ledger.rules.chains.keys import key_message
from ledger.rules.chains.places import halting
from ledger.rules.chains.registration import find_chain
from ledger.rules.checks import BOOK, find_instrument
from ledger.state import EXTERNAL
from stockledger.v1 import chains_pb2

if TYPE_CHECKING:
    from ledger import records
    from ledger.state import State


_ORDER: Final = re.compile(r"([01]) ([0-9]{1,18})-([0-9]{1,9})")


def position_message(position: records.ChainPosition) -> chains_pb2.ChainPosition:
    return chains_pb2.ChainPosition(number=position.number, hash=position.hash, time=timestamp(position.time_us))


def chain_message(state: State, chain: records.Chain) -> chains_pb2.Chain:
    return chains_pb2.Chain(
        chain=chain.chain,
        name=chain.name,
        finality_rule=chains_pb2.FinalityRule.ValueType(chain.finality_rule),
        finality_depth=chain.finality_depth,
        transit_account_number=chain.transit,
        divergence_account_number=chain.divergence,
        unattributed_account_number=chain.unattributed,
        cursor=position_message(chain.cursor),
        retired=chain.retired,
        halting_divergences=state.halts.get((chain.chain, ""), ()),
    )


def get_chain(state: State, request: chains_pb2.GetChainRequest, now_us: int) -> chains_pb2.GetChainResponse:
    return chains_pb2.GetChainResponse(size=state.size, chain=chain_message(state, find_chain(state, request.chain)))


def list_chains(state: State, request: chains_pb2.ListChainsRequest, now_us: int) -> chains_pb2.ListChainsResponse:
    page, token = page_of(request, state.chains)
    found = [chain_message(state, state.chains[chain]) for chain in page]
    return chains_pb2.ListChainsResponse(size=state.size, next_page_token=token, chains=found)


def list_deployments(state: State, request: chains_pb2.ListDeploymentsRequest, now_us: int) -> chains_pb2.ListDeploymentsResponse:
    if request.instrument:
        find_instrument(state, request.instrument)
    if request.chain:
        find_chain(state, request.chain)
    wanted = {
        f"{chain} {instrument}": (instrument, chain)
        for instrument, chain in state.deployments
        if request.chain in ("", chain) and request.instrument in ("", instrument)
    }
    page, token = page_of(request, wanted)
    found = [deployment_of(state, wanted[key]) for key in page]
    return chains_pb2.ListDeploymentsResponse(size=state.size, next_page_token=token, deployments=found)


def deployment_of(state: State, key: tuple[str, str]) -> chains_pb2.Deployment:
    """Return a deployment as it stands, with what stops it."""
    message = deployment_message(state.deployments[key])
    message.halting_divergences[:] = halting(state, message.chain, message.instrument)
    return message


def list_chain_keys(state: State, request: chains_pb2.ListChainKeysRequest, now_us: int) -> chains_pb2.ListChainKeysResponse:
    if request.chain:
        find_chain(state, request.chain)
    page, token = page_of(request, (name for name, key in state.chain_keys.items() if request.chain in ("", key.chain)))
    found = [key_message(state.chain_keys[name]) for name in page]
    return chains_pb2.ListChainKeysResponse(size=state.size, next_page_token=token, keys=found)


def list_deposit_addresses(
    state: State, request: chains_pb2.ListDepositAddressesRequest, now_us: int
) -> chains_pb2.ListDepositAddressesResponse:
    if request.chain:
        find_chain(state, request.chain)
    at_chain = (name for name in state.deposit_addresses if request.chain in ("", state.accounts[name].place))
    page, token = page_of(request, at_chain)
    found = [chains_pb2.DepositAddress(deposit_address=name, account=state.deposit_addresses[name]) for name in page]
    return chains_pb2.ListDepositAddressesResponse(size=state.size, next_page_token=token, deposit_addresses=found)


# ---- instructions and transactions ----------------------------------------------------------------------------------------------------


def instruction_message(state: State, each: records.Instruction) -> chains_pb2.Instruction:
    """Return an instruction as it stands, with what stands in its way."""
    deployment = state.deployments.get((each.instrument, each.chain))
    message = chains_pb2.Instruction(
        instruction=each.text,
        chain=each.chain,
        instrument=each.instrument,
        token=deployment.token if deployment is not None else "",
        kind=chains_pb2.InstructionKind.ValueType(each.kind),
        source=each.source,
        destination=each.destination,
        units=each.units,
        raw=str(each.raw) if each.raw else "",
        origin=each.origin,
        onward=each.onward,
        owner_account=each.owner_account,
        redemption=each.redemption,
        frozen=each.frozen,
        operations=sorted(each.operations),  # type: ignore[arg-type]
        multiplier=str(each.multiplier) if each.multiplier else "",
        note=each.note,
        legal_reference=each.legal_reference,
        role=chains_pb2.ChainKeyRole.ValueType(each.role),
        state=chains_pb2.InstructionState.ValueType(each.state),
        blocked_by=blocked_by(state, each) if each.state == OPEN else "",
        failure=chains_pb2.ChainFailure.ValueType(each.failure),
        failure_text=each.failure_text,
        attempt_count=each.attempt_count,
        rank=rank_of(each),
        decision_time=timestamp(each.decision_time_us),
    )
    if each.multiplier:
        message.effective_time.CopyFrom(timestamp(each.effective_time_us))
    return message


def get_instruction(state: State, request: chains_pb2.GetInstructionRequest, now_us: int) -> chains_pb2.GetInstructionResponse:
    found = find_instruction(state, request.instruction)
    return chains_pb2.GetInstructionResponse(size=state.size, instruction=instruction_message(state, found))


class _Order(NamedTuple):
    """In what order instructions are sent; as a page token "<rank> <index>-<position>"."""

    rank: int
    entry: int
    position: int

    def __str__(self) -> str:
        return f"{self.rank} {self.entry}-{self.position}"


def _order_of(token: str) -> _Order:
    found = _ORDER.fullmatch(token)
    if found is None:
        raise ValueError(token)
    return _Order(*map(int, found.groups()))


def list_instructions(state: State, request: chains_pb2.ListInstructionsRequest, now_us: int) -> chains_pb2.ListInstructionsResponse:
    if request.instrument:
        find_instrument(state, request.instrument)
    if request.chain:
        find_chain(state, request.chain)
    wanted = (
        _Order(rank_of(each), each.index, each.position)
        for each in state.instructions.values()
        if request.chain in ("", each.chain) and request.instrument in ("", each.instrument) and request.state in (0, each.state)
    )
    page, token = page_of(request, wanted, _order_of)
    found = [instruction_message(state, state.instructions[order.entry, order.position]) for order in page]
    return chains_pb2.ListInstructionsResponse(size=state.size, next_page_token=token, instructions=found)


class _Recorded(NamedTuple):
    """Where something was booked: the entry, and the place in it; as a page token "<index> <position>"."""

    entry: int
    position: int

    def __str__(self) -> str:
        return f"{self.entry} {self.position}"


def _recorded_of(token: str) -> _Recorded:
    index, position = map(int, token.split(" "))
    return _Recorded(index, position)


def transaction_message(each: records.OpenTransaction) -> chains_pb2.OpenTransaction:
    return chains_pb2.OpenTransaction(
        chain=each.chain,
        versions=map(chains_pb2.Transaction.FromString, each.versions),
        index=each.index,
        first_time=timestamp(each.first_time_us),
        last_time=timestamp(each.last_time_us),
        cursor_number=each.cursor_number,
    )


def list_transactions(state: State, request: chains_pb2.ListTransactionsRequest, now_us: int) -> chains_pb2.ListTransactionsResponse:
    """List what may land. Versions of 32,768 bytes make a page of large items, so it ends by bytes too."""
    if request.chain:
        find_chain(state, request.chain)
    recorded = (each for each in state.open_transactions.values() if request.chain in ("", each.chain))
    wanted = {_Recorded(each.index, each.position): each for each in recorded}
    page, token = page_of(request, wanted, _recorded_of)
    count = count_within_bytes(sum(map(len, wanted[key].versions)) for key in page)
    if count < len(page):
        page, token = page[:count], str(page[count - 1])
    found = [transaction_message(wanted[key]) for key in page]
    return chains_pb2.ListTransactionsResponse(size=state.size, next_page_token=token, transactions=found)


# ---- what stands where ----------------------------------------------------------------------------------------------------------------


def place_units(state: State, instrument: records.Instrument, place: str) -> chains_pb2.PlaceUnits:
    """Return what stands of an instrument at a chain or in the book. In the book it is all that issuance owes and is nowhere else."""
    symbol, number = instrument.symbol, instrument.number
    chains = [state.chains[chain] for chain in state.chains_of_instrument.get(symbol, ())]
    if place == BOOK:
        elsewhere = sum(
            state.place_units.get((symbol, chain.chain), 0) + state.holding(number, chain.transit) + state.holding(number, chain.divergence)
            for chain in chains
        )
        units = state.supply(number) - state.holding(number, EXTERNAL) - elsewhere
        return chains_pb2.PlaceUnits(place=place, instrument=symbol, units=units)
    chain = state.chains[place]
    message = chains_pb2.PlaceUnits(
        place=place,
        instrument=symbol,
        units=state.place_units.get((symbol, place), 0),
        transit_units=state.holding(number, chain.transit),
        divergence_units=state.holding(number, chain.divergence),
    )
    figures = [figure for (of_chain, of_symbol, account), figure in state.figures.items() if (of_chain, of_symbol) == (place, symbol)]
    if figures:
        message.chain_raw = str(sum(figure.raw for figure in figures))
        message.difference_raw = str(sum(figure.difference_raw for figure in figures))
        message.position.CopyFrom(position_message(figures[-1].position))
    return message


def list_places(state: State, request: chains_pb2.ListPlacesRequest, now_us: int) -> chains_pb2.ListPlacesResponse:
    """List the book, then the chains, of each instrument that is at a chain, or of the one asked for."""
    symbols = [find_instrument(state, request.instrument).symbol] if request.instrument else list(state.chains_of_instrument)
    wanted = {
        f"{symbol} {'' if place == BOOK else place}": (symbol, place)
        for symbol in symbols
        for place in (BOOK, *state.chains_of_instrument.get(symbol, ()))
    }
    page, token = page_of(request, wanted)
    found = [place_units(state, state.instruments[symbol], place) for symbol, place in map(wanted.__getitem__, page)]
    return chains_pb2.ListPlacesResponse(size=state.size, next_page_token=token, places=found)


# ---- multipliers ----------------------------------------------------------------------------------------------------------------------


def list_multiplier_changes(
    state: State, request: chains_pb2.ListMultiplierChangesRequest, now_us: int
) -> chains_pb2.ListMultiplierChangesResponse:
    if request.instrument:
        find_instrument(state, request.instrument)
    if request.place not in ("", BOOK):
        find_chain(state, request.place, "place")
    wanted = {
        _Recorded(change.index, change.position): change
        for (instrument, place), changes in state.multiplier_changes.items()
        if request.instrument in ("", instrument) and request.place in ("", place)
        for change in changes
    }
    page, token = page_of(request, wanted, _recorded_of)
    found = [change_message(wanted[key]) for key in page]
    return chains_pb2.ListMultiplierChangesResponse(size=state.size, next_page_token=token, multiplier_changes=found)


def change_message(change: records.MultiplierChange) -> chains_pb2.MultiplierChange:
    return chains_pb2.MultiplierChange(
        instrument=change.instrument,
        place=change.place,
        old_multiplier=str(change.old_multiplier),
        multiplier=str(change.multiplier),
        effective_time=timestamp(change.effective_time_us),
        time=timestamp(change.time_us),
        number=change.number,
        action=change.action,
        index=change.index,
    )


READS = {
    chains_pb2.ListMultiplierChangesRequest: list_multiplier_changes,
    chains_pb2.GetInstructionRequest: get_instruction,
    chains_pb2.ListInstructionsRequest: list_instructions,
    chains_pb2.ListTransactionsRequest: list_transactions,
    chains_pb2.ListPlacesRequest: list_places,
    chains_pb2.ListDeploymentsRequest: list_deployments,
    chains_pb2.ListChainKeysRequest: list_chain_keys,
    chains_pb2.ListDepositAddressesRequest: list_deposit_addresses,
    chains_pb2.GetChainRequest: get_chain,
    chains_pb2.ListChainsRequest: list_chains,
}
