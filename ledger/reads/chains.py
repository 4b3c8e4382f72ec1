"""Reads of chains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.answers import timestamp
from ledger.reads.pages import page_of
from ledger.rules.chains.registration import find_chain
from stockledger.v1 import chains_pb2

if TYPE_CHECKING:
    from ledger import records
    from ledger.state import State


def position_message(position: records.ChainPosition) -> chains_pb2.ChainPosition:
    return chains_pb2.ChainPosition(number=position.number, hash=position.hash, time=timestamp(position.time_us))


def chain_message(chain: records.Chain) -> chains_pb2.Chain:
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
    )


def get_chain(state: State, request: chains_pb2.GetChainRequest, now_us: int) -> chains_pb2.GetChainResponse:
    return chains_pb2.GetChainResponse(size=state.size, chain=chain_message(find_chain(state, request.chain)))


def list_chains(state: State, request: chains_pb2.ListChainsRequest, now_us: int) -> chains_pb2.ListChainsResponse:
    page, token = page_of(request, state.chains)
    found = [chain_message(state.chains[chain]) for chain in page]
    return chains_pb2.ListChainsResponse(size=state.size, next_page_token=token, chains=found)


READS = {
    chains_pb2.GetChainRequest: get_chain,
    chains_pb2.ListChainsRequest: list_chains,
}
