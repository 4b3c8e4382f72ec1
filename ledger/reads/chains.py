"""Reads of chains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.answers import timestamp
from ledger.reads.pages import page_of
from ledger.rules.chains.deployments import deployment_message
from ledger.rules.chains.keys import key_message
from ledger.rules.chains.places import halting
from ledger.rules.chains.registration import find_chain
from stockledger.v1 import chains_pb2

if TYPE_CHECKING:
    from ledger import records
    from ledger.state import State


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
    page, token = page_of(request, (name for name, key in state.chain_keys.items() if request.chain in ("", key.chain)))
    found = [key_message(state.chain_keys[name]) for name in page]
    return chains_pb2.ListChainKeysResponse(size=state.size, next_page_token=token, keys=found)


def list_deposit_addresses(
    state: State, request: chains_pb2.ListDepositAddressesRequest, now_us: int
) -> chains_pb2.ListDepositAddressesResponse:
    at_chain = (name for name in state.deposit_addresses if request.chain in ("", state.accounts[name].place))
    page, token = page_of(request, at_chain)
    found = [chains_pb2.DepositAddress(deposit_address=name, account=state.deposit_addresses[name]) for name in page]
    return chains_pb2.ListDepositAddressesResponse(size=state.size, next_page_token=token, deposit_addresses=found)


READS = {
    chains_pb2.ListDeploymentsRequest: list_deployments,
    chains_pb2.ListChainKeysRequest: list_chain_keys,
    chains_pb2.ListDepositAddressesRequest: list_deposit_addresses,
    chains_pb2.GetChainRequest: get_chain,
    chains_pb2.ListChainsRequest: list_chains,
}
