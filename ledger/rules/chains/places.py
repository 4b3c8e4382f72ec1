"""Places: what stands at a chain, what may go there, and the one function that moves units there and away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.errors import refusal
from ledger.rules.checks import find_instrument
from stockledger.v1.chains_pb2 import ChainCapability, DeploymentKind
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from ledger.records import Account, Chain, Deployment, Instrument
    from ledger.state import State

NATIVE = DeploymentKind.DEPLOYMENT_KIND_NATIVE
OMNIBUS = DeploymentKind.DEPLOYMENT_KIND_OMNIBUS


def chain_of(state: State, account: Account) -> Chain | None:
    """Return the chain an account stands at, or None: it is in the book, or the ledger's own."""
    return state.chains.get(account.place)


def find_deployment(state: State, instrument: str, chain: str) -> Deployment:
    """Return an instrument's deployment on a chain, retired or not."""
    found = state.deployments.get((instrument, chain))
    if found is None:
        find_instrument(state, instrument)
        message = f"{instrument} has no deployment on {chain}"
        raise refusal(Reason.REASON_DEPLOYMENT_NOT_FOUND, message, chain=chain, instrument=instrument)
    return found


def find_usable_deployment(state: State, instrument: str, chain: str) -> Deployment:
    """Return a deployment that is in use."""
    found = find_deployment(state, instrument, chain)
    if found.retired:
        message = f"the deployment of {instrument} on {chain} is retired"
        raise refusal(Reason.REASON_DEPLOYMENT_NOT_FOUND, message, chain=chain, instrument=instrument)
    return found


def check_capable(deployment: Deployment, needed: ChainCapability.ValueType) -> None:
    """Refuse what the token of a deployment cannot do."""
    if needed not in deployment.capabilities:
        name = ChainCapability.Name(needed)
        message = f"{deployment.instrument} on {deployment.chain} lacks {name}"
        raise refusal(Reason.REASON_CHAIN_INCAPABLE, message, chain=deployment.chain, instrument=deployment.instrument, needed=name)


def halting(state: State, chain: str, instrument: str) -> tuple[int, ...]:
    """Return the open divergences that stop what goes to or from a chain."""
    if not state.halts:
        return ()
    return (*state.halts.get((chain, ""), ()), *(state.halts.get((chain, instrument), ()) if instrument else ()))


def check_place_open(state: State, chain: str, instrument: str) -> None:
    """Refuse while a divergence stops a place."""
    stopping = halting(state, chain, instrument)
    if stopping:
        message = f"divergence {stopping[0]} stops {instrument} on {chain}"
        raise refusal(Reason.REASON_PLACE_HALTED, message, chain=chain, instrument=instrument, divergence=stopping[0])


def raw_of_units(state: State, deployment: Deployment, units: int) -> int:
    """Return units of the instrument as raw units of the token. Example: 150 units of 8 decimals are 1,500,000,000,000 of 18."""
    return int(units * 10 ** (deployment.decimals - state.instruments[deployment.instrument].decimals))


def units_there(state: State, deployment: Deployment) -> int:
    """Return the units on all accounts at a deployment's chain, and on their way there, from the book or from another chain."""
    key = (deployment.instrument, deployment.chain)
    transit = state.holding(state.instruments[deployment.instrument].number, state.chains[deployment.chain].transit)
    return state.place_units.get(key, 0) + transit + state.onward_units.get(key, 0)


def check_allotment(state: State, deployment: Deployment, units: int) -> None:
    """Refuse to send more to a native deployment than may be there. Example: 60 there, 30 on their way, 100 allotted: 10 more may go."""
    there = units_there(state, deployment)
    if there + units > deployment.allotment_units:
        message = (
            f"{there} {deployment.instrument} are on {deployment.chain} or on their way there, {units} more exceed the "
            f"{deployment.allotment_units} allotted"
        )
        raise refusal(
            Reason.REASON_ALLOTMENT_EXCEEDED,
            message,
            chain=deployment.chain,
            instrument=deployment.instrument,
            units=there,
            needed=units,
            allotment=deployment.allotment_units,
        )


def move(state: State, instrument: Instrument, source: int, destination: int, units: int) -> None:
    """Book a movement of which one end at least may stand at a chain, and keep the sums of the places."""
    state.post(instrument.number, source, destination, units)
    for number, change in ((source, -units), (destination, units)):
        place = state.accounts[state.account_names[number]].place
        if place in state.chains:
            key = (instrument.symbol, place)
            there = state.place_units.get(key, 0) + change
            assert there >= 0, "no place has fewer than no units"
            if there:
                state.put(state.place_units, key, there)
            else:
                state.remove(state.place_units, key)
