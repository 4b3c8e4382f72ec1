"""Deployments: an instrument's token on a chain.

command              event
RegisterDeployment   DeploymentRegistered
AmendDeployment      DeploymentAmended

Both events carry the deployment whole. What follows from them on the chain (its allotment, what is paused and frozen already) is derived by
the projection.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from ledger import records
from ledger.caip import check_chain, parse_token
from ledger.errors import refusal
from ledger.rules.addresses import check_address
from ledger.rules.chains.openings import book_openings, check_opening_fields, check_openings
from ledger.rules.chains.places import NATIVE, OMNIBUS, find_deployment, units_there
from ledger.rules.chains.registration import find_chain
from ledger.rules.checks import check_enum, check_present, check_units_or_zero, find_instrument
from ledger.rules.corporate_actions.schedule import open_actions, schedule_events
from stockledger.v1.chains_pb2 import (
    AmendDeploymentRequest,
    AmendDeploymentResponse,
    ChainCapability,
    ChainMultiplier,
    Deployment,
    DeploymentAmended,
    DeploymentKind,
    DeploymentRegistered,
    RegisterDeploymentRequest,
    RegisterDeploymentResponse,
    WithdrawalLimits,
)
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.instruments_pb2 import Backing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

    from ledger.rules.context import Context, Decided
    from ledger.state import State

DECIMALS_MAX: Final = 36
WALLETS_MAX: Final = 64


def _malformed(field: str, why: str, value: object) -> Exception:
    return refusal(Reason.REASON_FIELD_MALFORMED, f"{field} {why}", field=field, value=value)


def _check_capabilities(field: str, capabilities: Sequence[int]) -> None:
    for capability in capabilities:
        check_enum(field, capability, ChainCapability)
    if len(set(capabilities)) < len(capabilities):
        raise _malformed(field, "names a capability twice", list(capabilities))


def _check_wallets(field: str, wallets: Sequence[str], chain: str) -> None:
    if len(wallets) > WALLETS_MAX:
        message = f"{field} has {len(wallets)} wallets, at most {WALLETS_MAX} may be"
        raise refusal(Reason.REASON_TOO_MANY_ITEMS, message, field=field, count=len(wallets), limit=WALLETS_MAX)
    for wallet in wallets:
        check_address(field, wallet, chain)
    if len(set(wallets)) < len(wallets):
        raise _malformed(field, "names a wallet twice", list(wallets))


def _check_limits(limits: WithdrawalLimits) -> None:
    check_units_or_zero("withdrawal_limits.units_per_withdrawal_max", limits.units_per_withdrawal_max)
    check_units_or_zero("withdrawal_limits.units_per_day_max", limits.units_per_day_max)


def check_authorised(state: State, instrument: records.Instrument, chain: str, allotment_units: int) -> None:
    """Refuse allotments that, over all chains together, exceed what is authorised: no two chains can mint the same reserve."""
    others = sum(
        state.deployments[instrument.symbol, other].allotment_units
        for other in state.chains_of_instrument.get(instrument.symbol, ())
        if other != chain
    )
    if others + allotment_units > instrument.authorised_units:
        message = (
            f"{allotment_units} {instrument.symbol} allotted to {chain} and {others} to other chains exceed the "
            f"{instrument.authorised_units} authorised"
        )
        raise refusal(
            Reason.REASON_AUTHORISED_EXCEEDED,
            message,
            instrument=instrument.symbol,
            supply=others,
            units=allotment_units,
            authorised=instrument.authorised_units,
        )


def _check_form(command: RegisterDeploymentRequest) -> None:
    check_chain("chain", command.chain)
    check_present(instrument=command.instrument)
    token = parse_token("token", command.token)
    if token.chain != command.chain:
        raise _malformed("token", f"{command.token!r} is not on {command.chain}", command.token)
    if not 0 <= command.decimals <= DECIMALS_MAX:
        raise _malformed("decimals", f"is {command.decimals}, it must be 0 to {DECIMALS_MAX}", command.decimals)
    check_enum("kind", command.kind, DeploymentKind)
    _check_capabilities("capabilities", command.capabilities)
    check_units_or_zero("allotment_units", command.allotment_units)
    _check_limits(command.withdrawal_limits)
    _check_wallets("wallets", command.wallets, command.chain)
    _check_kind_fields(command.kind, command.allotment_units, command.wallets, limits_set=command.HasField("withdrawal_limits"))
    check_opening_fields(command, command.kind)


def _check_kind_fields(kind: int, allotment_units: int, wallets: Sequence[str], *, limits_set: bool) -> None:
    """Refuse what has no meaning for a kind of deployment."""
    if kind == OMNIBUS:
        if not wallets:
            raise refusal(Reason.REASON_FIELD_MISSING, "wallets is empty: an omnibus deployment has some of ours", field="wallets")
        if allotment_units:
            raise _malformed("allotment_units", f"is {allotment_units}, an omnibus deployment has none", allotment_units)
        return
    if wallets:
        raise _malformed("wallets", "is set, a native deployment has none", list(wallets))
    if limits_set:
        raise _malformed("withdrawal_limits", "is set, a native deployment has none", "")


def decide_register(state: State, command: RegisterDeploymentRequest, context: Context) -> list[Message]:
    _check_form(command)
    instrument = find_instrument(state, command.instrument)
    chain = find_chain(state, command.chain)
    if (instrument.symbol, chain.chain) in state.deployments or command.token in state.deployment_of_token:
        message = f"{instrument.symbol} or the token {command.token} is registered on {chain.chain} already, or was"
        raise refusal(Reason.REASON_ALREADY_EXISTS, message, chain=chain.chain, instrument=instrument.symbol, token=command.token)
    if instrument.retired:
        raise refusal(Reason.REASON_INSTRUMENT_RETIRED, f"{instrument.symbol} is retired", instrument=instrument.symbol)
    if chain.retired:
        raise refusal(Reason.REASON_STATE_UNFIT, f"chain {chain.chain} is retired", chain=chain.chain, state="retired")
    _check_decimals(instrument, command)
    if (command.kind == OMNIBUS) != (instrument.backing == Backing.BACKING_OMNIBUS):
        message = f"an omnibus deployment is of an instrument with omnibus backing, and only that; {instrument.symbol} does not fit"
        raise refusal(Reason.REASON_STATE_UNFIT, message, instrument=instrument.symbol, kind=DeploymentKind.Name(command.kind))
    if command.kind == NATIVE:
        check_authorised(state, instrument, chain.chain, command.allotment_units)
    deployment = Deployment(
        chain=command.chain,
        instrument=command.instrument,
        token=command.token,
        decimals=command.decimals,
        kind=command.kind,
        capabilities=sorted(command.capabilities),
        allotment_units=command.allotment_units,
        wallets=command.wallets,
        withdrawal_limits=command.withdrawal_limits if command.HasField("withdrawal_limits") else None,
        halt_on_divergence=command.halt_on_divergence,
    )
    registered = DeploymentRegistered(deployment=deployment)
    _open(state, registered, command, context)
    return [
        registered,
        *schedule_events(
            state,
            instrument.symbol,
            instrument.multiplier,
            open_actions(state, instrument.symbol),
            context.decision_time_us,
            deployed=command.kind == NATIVE,
        ),
    ]


def _open(state: State, event: Any, command: Any, context: Context) -> None:
    """Add to an event what wallets of ours held already, if they are said to."""
    opened, remainder, dust = check_openings(state, command, _record_of(event.deployment), context.decision_time_us)
    if opened:
        event.opening_holdings.extend(opened)
        event.remainder_units = remainder
        event.opening_position.CopyFrom(command.opening_position)
        event.deployment.dust_raw = str(dust) if dust else ""


def _check_decimals(instrument: records.Instrument, command: RegisterDeploymentRequest) -> None:
    """Refuse decimals that would leave dust between places: a native token has the instrument's, an omnibus one not fewer."""
    fits = command.decimals >= instrument.decimals if command.kind == OMNIBUS else command.decimals == instrument.decimals
    if not fits:
        message = f"the token has {command.decimals} decimals, {instrument.symbol} has {instrument.decimals}"
        raise refusal(
            Reason.REASON_STATE_UNFIT, message, instrument=instrument.symbol, decimals=command.decimals, needed=instrument.decimals
        )


def _record_of(deployment: Deployment) -> records.Deployment:
    limits = deployment.withdrawal_limits
    return records.Deployment(
        chain=deployment.chain,
        instrument=deployment.instrument,
        token=deployment.token,
        decimals=deployment.decimals,
        kind=deployment.kind,
        capabilities=frozenset(deployment.capabilities),
        allotment_units=deployment.allotment_units,
        wallets=tuple(deployment.wallets),
        units_per_withdrawal_max=limits.units_per_withdrawal_max,
        units_per_day_max=limits.units_per_day_max,
        halt_on_divergence=deployment.halt_on_divergence,
        retired=deployment.retired,
        dust_raw=int(deployment.dust_raw or 0),
        observed_multiplier=int(deployment.observed_multiplier or 0),
        paused_operations=frozenset(deployment.paused_operations),
        chain_multiplier=int(deployment.chain_multiplier.multiplier) if deployment.HasField("chain_multiplier") else -1,
        chain_next_multiplier=int(deployment.chain_multiplier.next_multiplier or 0),
        chain_next_time_us=deployment.chain_multiplier.next_effective_time.ToMicroseconds(),
    )


def multiplier_message(deployment: records.Deployment) -> ChainMultiplier:
    """Return how the multiplier of a deployment stands on its chain."""
    message = ChainMultiplier(token=deployment.token, multiplier=str(deployment.chain_multiplier))
    if deployment.chain_next_multiplier:
        message.next_multiplier = str(deployment.chain_next_multiplier)
        message.next_effective_time.FromMicroseconds(deployment.chain_next_time_us)
    return message


def deployment_message(deployment: records.Deployment) -> Deployment:
    """Return a deployment as events carry it: all but what stops it, which stands in the divergences."""
    message = Deployment(
        chain=deployment.chain,
        instrument=deployment.instrument,
        token=deployment.token,
        decimals=deployment.decimals,
        kind=DeploymentKind.ValueType(deployment.kind),
        capabilities=sorted(deployment.capabilities),  # type: ignore[arg-type]
        allotment_units=deployment.allotment_units,
        wallets=deployment.wallets,
        halt_on_divergence=deployment.halt_on_divergence,
        retired=deployment.retired,
        dust_raw=str(deployment.dust_raw) if deployment.dust_raw else "",
        observed_multiplier=str(deployment.observed_multiplier) if deployment.observed_multiplier else "",
        paused_operations=sorted(deployment.paused_operations),  # type: ignore[arg-type]
        chain_multiplier=multiplier_message(deployment) if deployment.chain_multiplier >= 0 else None,
    )
    if deployment.units_per_withdrawal_max or deployment.units_per_day_max:
        message.withdrawal_limits.units_per_withdrawal_max = deployment.units_per_withdrawal_max
        message.withdrawal_limits.units_per_day_max = deployment.units_per_day_max
    return message


def evolve_registered(state: State, event: DeploymentRegistered, decided: Decided) -> None:
    record = dataclasses.replace(_record_of(event.deployment), registered_time_us=decided.decision_time_us)
    key = (record.instrument, record.chain)
    state.put(state.deployments, key, record)
    state.put(state.deployment_of_token, record.token, key)
    chains = tuple(sorted((*state.chains_of_instrument.get(record.instrument, ()), record.chain)))
    state.put(state.chains_of_instrument, record.instrument, chains)
    book_openings(state, event)


def decide_amend(state: State, command: AmendDeploymentRequest, context: Context) -> list[DeploymentAmended]:
    check_chain("chain", command.chain)
    check_present(instrument=command.instrument)
    check_units_or_zero("allotment_units", command.allotment_units)
    _check_limits(command.withdrawal_limits)
    _check_capabilities("replace_capabilities", command.replace_capabilities)
    _check_wallets("replace_wallets", command.replace_wallets, command.chain)
    find_chain(state, command.chain)
    deployment = find_deployment(state, command.instrument, command.chain)
    check_opening_fields(command, deployment.kind)
    if command.replace_wallets or command.HasField("withdrawal_limits") or deployment.kind == OMNIBUS:
        wallets = command.replace_wallets or deployment.wallets
        limits_set = command.HasField("withdrawal_limits")
        _check_kind_fields(deployment.kind, command.allotment_units, wallets, limits_set=limits_set)
    if deployment.retired:
        message = f"the deployment of {deployment.instrument} on {deployment.chain} is retired"
        raise refusal(Reason.REASON_STATE_UNFIT, message, chain=deployment.chain, instrument=deployment.instrument, state="retired")
    there = units_there(state, deployment)
    if command.HasField("allotment_units"):
        _check_new_allotment(state, deployment, command.allotment_units, there)
    if command.retired and there:
        message = f"{there} {deployment.instrument} are on {deployment.chain} or on their way there"
        raise refusal(Reason.REASON_INSTRUMENT_NOT_EMPTY, message, instrument=deployment.instrument, units=there)
    before, after = deployment_message(deployment), _amended(deployment, command)
    if before == after and not command.opening_holdings:
        message = f"nothing of {deployment.instrument} on {deployment.chain} would change"
        raise refusal(Reason.REASON_NOTHING_TO_CHANGE, message, chain=deployment.chain, instrument=deployment.instrument)
    amended = DeploymentAmended(deployment=after)
    _open(state, amended, command, context)
    return [amended]


def _check_new_allotment(state: State, deployment: records.Deployment, allotment_units: int, there: int) -> None:
    if allotment_units < there:
        message = f"{there} {deployment.instrument} are on {deployment.chain} or on their way there, more than {allotment_units}"
        raise refusal(
            Reason.REASON_ALLOTMENT_EXCEEDED,
            message,
            chain=deployment.chain,
            instrument=deployment.instrument,
            units=there,
            needed=0,
            allotment=allotment_units,
        )
    check_authorised(state, state.instruments[deployment.instrument], deployment.chain, allotment_units)


def _amended(deployment: records.Deployment, command: AmendDeploymentRequest) -> Deployment:
    after = deployment_message(deployment)
    if command.HasField("allotment_units"):
        after.allotment_units = command.allotment_units
    if command.HasField("withdrawal_limits"):
        after.ClearField("withdrawal_limits")
        if command.withdrawal_limits.ListFields():
            after.withdrawal_limits.CopyFrom(command.withdrawal_limits)
    if command.HasField("halt_on_divergence"):
        after.halt_on_divergence = command.halt_on_divergence
    if command.replace_capabilities:
        after.capabilities[:] = sorted(command.replace_capabilities)
    if command.replace_wallets:
        after.wallets[:] = command.replace_wallets
    after.retired = command.retired
    if command.retired:
        after.allotment_units = 0
    return after


def evolve_amended(state: State, event: DeploymentAmended, decided: Decided) -> None:
    key = (event.deployment.instrument, event.deployment.chain)
    record = dataclasses.replace(_record_of(event.deployment), registered_time_us=state.deployments[key].registered_time_us)
    state.put(state.deployments, key, record)
    book_openings(state, event)


COMMANDS: dict[type[Any], tuple[Any, type[Any]]] = {
    RegisterDeploymentRequest: (decide_register, RegisterDeploymentResponse),
    AmendDeploymentRequest: (decide_amend, AmendDeploymentResponse),
}
EVENTS: dict[type[Any], Any] = {
    DeploymentRegistered: evolve_registered,
    DeploymentAmended: evolve_amended,
}
