"""The projection rule: what the ledger wants done on chains after an event. Nothing else derives an instruction.

`project(state, kind, event, decided) -> instructions` is asked once an event is booked, live and in replay alike, for the kinds of
`PROJECTED` alone, and only where an instrument has a deployment. It changes nothing. The tables are those of docs/chains.md:

    a movement                    to a native chain MINT, to an omnibus chain SEND, from a chain BURN, within a chain FORCE_TRANSFER
    a freeze, or its end          FREEZE, FREEZE_UNITS
    a halt, or its end            PAUSE
    a multiplier                  SET_MULTIPLIER
    a deployment                  SET_ALLOTMENT, and what is halted, frozen or set already
    a change of the reserve       REPORT_RESERVE
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from ledger.records import Instruction
from ledger.rules.chains.places import NATIVE, OMNIBUS, halting, raw_of_units
from ledger.rules.checks import BOOK
from ledger.rules.context import entry_index
from ledger.rules.reserves import as_of_time_us, needed_shares_e8, reserve_shares_e8
from stockledger.v1.chains_pb2 import ChainCapability, ChainKeyRole, InstructionKind, InstructionState, ObservationKind
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.reserves_pb2 import Reserve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.records import Account, Deployment
    from ledger.rules.context import Decided
    from ledger.state import State

    Projection = Callable[[State, Any, Decided], Iterator[Instruction]]

ISSUANCE_NAME: Final = "ledger:issuance"
ONE: Final = 10**18
ALL_OPERATIONS: Final = frozenset({Operation.OPERATION_TRANSFER, Operation.OPERATION_ISSUE, Operation.OPERATION_REDEEM})

MINT: Final = InstructionKind.INSTRUCTION_KIND_MINT
BURN: Final = InstructionKind.INSTRUCTION_KIND_BURN
FORCE_TRANSFER: Final = InstructionKind.INSTRUCTION_KIND_FORCE_TRANSFER
SEND: Final = InstructionKind.INSTRUCTION_KIND_SEND
FREEZE: Final = InstructionKind.INSTRUCTION_KIND_FREEZE
FREEZE_UNITS: Final = InstructionKind.INSTRUCTION_KIND_FREEZE_UNITS
PAUSE: Final = InstructionKind.INSTRUCTION_KIND_PAUSE
SET_MULTIPLIER: Final = InstructionKind.INSTRUCTION_KIND_SET_MULTIPLIER
SET_ALLOTMENT: Final = InstructionKind.INSTRUCTION_KIND_SET_ALLOTMENT
REPORT_RESERVE: Final = InstructionKind.INSTRUCTION_KIND_REPORT_RESERVE
ANCHOR_CHECKPOINT: Final = InstructionKind.INSTRUCTION_KIND_ANCHOR_CHECKPOINT

CAPABILITY_OF: Final = {
    MINT: ChainCapability.CHAIN_CAPABILITY_MINT,
    BURN: ChainCapability.CHAIN_CAPABILITY_BURN,
    FORCE_TRANSFER: ChainCapability.CHAIN_CAPABILITY_FORCE_TRANSFER,
    SEND: ChainCapability.CHAIN_CAPABILITY_SEND,
    FREEZE: ChainCapability.CHAIN_CAPABILITY_FREEZE,
    FREEZE_UNITS: ChainCapability.CHAIN_CAPABILITY_FREEZE_UNITS,
    PAUSE: ChainCapability.CHAIN_CAPABILITY_PAUSE,
    SET_MULTIPLIER: ChainCapability.CHAIN_CAPABILITY_MULTIPLIER,
    SET_ALLOTMENT: ChainCapability.CHAIN_CAPABILITY_ALLOTMENT,
    REPORT_RESERVE: ChainCapability.CHAIN_CAPABILITY_RESERVE_FEED,
    ANCHOR_CHECKPOINT: ChainCapability.CHAIN_CAPABILITY_ANCHOR,
}
"""What a token must be able to do for each kind."""
ROLE_OF: Final = {
    MINT: ChainKeyRole.CHAIN_KEY_ROLE_MINTER,
    BURN: ChainKeyRole.CHAIN_KEY_ROLE_BURNER,
    FORCE_TRANSFER: ChainKeyRole.CHAIN_KEY_ROLE_ENFORCER,
    SEND: ChainKeyRole.CHAIN_KEY_ROLE_WALLET,
    FREEZE: ChainKeyRole.CHAIN_KEY_ROLE_ENFORCER,
    FREEZE_UNITS: ChainKeyRole.CHAIN_KEY_ROLE_ENFORCER,
    PAUSE: ChainKeyRole.CHAIN_KEY_ROLE_PAUSER,
    SET_MULTIPLIER: ChainKeyRole.CHAIN_KEY_ROLE_MULTIPLIER,
    SET_ALLOTMENT: ChainKeyRole.CHAIN_KEY_ROLE_ALLOTTER,
    REPORT_RESERVE: ChainKeyRole.CHAIN_KEY_ROLE_REPORTER,
    ANCHOR_CHECKPOINT: ChainKeyRole.CHAIN_KEY_ROLE_REPORTER,
}
"""Whose key signs each kind."""
SEEN_TRANSFER: Final = ObservationKind.OBSERVATION_KIND_TRANSFER


def _make(chain: str, instrument: str, kind: InstructionKind.ValueType, decided: Decided, **fields: Any) -> Instruction:
    """Return an open instruction; its place in the log is given once all of the event are there."""
    return Instruction(
        index=-1, position=-1, chain=chain, instrument=instrument, kind=kind, decision_time_us=decided.decision_time_us,
        role=ROLE_OF[kind], state=InstructionState.INSTRUCTION_STATE_OPEN, **fields,
    )  # fmt: skip


def _capable(state: State, instrument: str, kind: InstructionKind.ValueType) -> Iterator[Deployment]:
    """Yield an instrument's native deployments in use whose tokens can do something, by chain."""
    for chain in state.chains_of_instrument.get(instrument, ()):
        deployment = state.deployments[instrument, chain]
        if deployment.kind == NATIVE and not deployment.retired and CAPABILITY_OF[kind] in deployment.capabilities:
            yield deployment


def _at_chain(state: State, chain: str, kind: InstructionKind.ValueType) -> Iterator[Deployment]:
    """Yield a chain's native deployments in use whose tokens can do something, by instrument."""
    for instrument, other in sorted(state.deployments):
        deployment = state.deployments[instrument, other]
        if other == chain and deployment.kind == NATIVE and not deployment.retired and CAPABILITY_OF[kind] in deployment.capabilities:
            yield deployment


# ---- movements -------------------------------------------------------------------------------------------------------------------------


def _to_chain(
    state: State, instrument: str, destination: str, units: int, decided: Decided, *, origin: str, owner: str, legal_reference: str = ""
) -> Instruction:
    """Return the instruction that brings units in transit to an account at a chain, or to a stranger's at an omnibus one."""
    chain = state.accounts[destination].place
    deployment = state.deployments[instrument, chain]
    fields: dict[str, Any] = {
        "destination": destination,
        "units": units,
        "raw": raw_of_units(state, deployment, units),
        "origin": origin,
        "owner_account": owner,
        "legal_reference": legal_reference,
    }
    if deployment.kind == OMNIBUS:
        return _make(chain, instrument, SEND, decided, source=deployment.wallets[0], **fields)
    return _make(chain, instrument, MINT, decided, **fields)


def _transferred(state: State, event: Any, decided: Decided, legal_reference: str = "") -> Iterator[Instruction]:
    if not event.chain:
        return
    instrument, source, destination, units = event.instrument, event.source, event.destination, event.units
    if state.accounts[source].place == BOOK:
        yield _to_chain(state, instrument, destination, units, decided, origin=source, owner=source, legal_reference=legal_reference)
        return
    within = state.accounts[destination].place == event.chain
    fields = {"source": source, "units": units, "raw": units, "legal_reference": legal_reference}
    if within:
        yield _make(event.chain, instrument, FORCE_TRANSFER, decided, destination=destination, **fields)
    else:
        yield _make(event.chain, instrument, BURN, decided, onward=destination, **fields)


def _transferred_by_force(state: State, event: Any, decided: Decided) -> Iterator[Instruction]:
    return _transferred(state, event, decided, event.legal_reference)


def _issued(state: State, event: Any, decided: Decided) -> Iterator[Instruction]:
    if event.chain:
        yield _to_chain(state, event.instrument, event.account, event.units, decided, origin=ISSUANCE_NAME, owner=event.account)


def _subscribed(state: State, event: Any, decided: Decided) -> Iterator[Instruction]:
    """Mint units of a subscription at its wallet; they come back to the account that paid, should the chain refuse them."""
    if event.chain:
        wallet = event.receiving_account
        yield _to_chain(state, event.instrument, wallet, event.issued_units, decided, origin=event.account, owner=wallet)


def _redemption_requested(state: State, event: Any, decided: Decided) -> Iterator[Instruction]:
    if event.wallet:
        yield _make(
            state.accounts[event.wallet].place, event.instrument, BURN, decided,
            source=event.wallet, units=event.units, raw=event.units, onward=event.account, redemption=event.redemption,
        )  # fmt: skip


def _observed(state: State, event: Any, decided: Decided) -> Iterator[Instruction]:
    """Burn what was sent to an address that stands for an account; mint what a final burn sent on to another chain.

    What came there from nowhere, by a mint that nobody decided for one, is credited to nobody.
    """
    onward = {outcome.instruction: outcome for outcome in event.outcomes if outcome.onward}
    transits = {chain.transit for chain in state.chains.values()}
    for effect in event.effects:
        for movement in effect.movements:
            source, destination = state.account_names[movement.source], state.account_names[movement.destination]
            stands_for = state.deposit_addresses.get(destination)
            sent = effect.observation.kind == SEEN_TRANSFER and state.accounts[source].place == event.chain
            if stands_for is not None and sent:
                yield _make(
                    event.chain, effect.instrument, BURN, decided,
                    source=destination, units=movement.units, raw=movement.units, onward=stands_for,
                )  # fmt: skip
            elif movement.destination in transits and effect.observation.instruction in onward:
                outcome = onward[effect.observation.instruction]
                yield _to_chain(
                    state,
                    effect.instrument,
                    outcome.onward,
                    movement.units,
                    decided,
                    origin=source,
                    owner=outcome.owner_account,
                    legal_reference=outcome.legal_reference,
                )


def _abandoned(state: State, event: Any, decided: Decided) -> Iterator[Instruction]:
    """Mint again what comes back to an account at a chain."""
    account = state.accounts.get(event.return_account)
    if event.returned_units and account is not None and account.place in state.chains:
        owner = event.return_account
        yield _to_chain(state, event.instrument, owner, event.returned_units, decided, origin=owner, owner=owner)


# ---- freezes and halts -----------------------------------------------------------------------------------------------------------------


def is_frozen(state: State, account: Account) -> bool:
    """Tell whether an account, or its holder, is frozen."""
    holder = state.holders.get(account.holder)
    return bool(account.freeze_reference or (holder is not None and holder.freeze_reference))


def _freezes(state: State, account: Account, decided: Decided, legal_reference: str) -> Iterator[Instruction]:
    if account.place in state.chains:
        frozen = is_frozen(state, account)
        for deployment in _at_chain(state, account.place, FREEZE):
            yield _make(
                account.place, deployment.instrument, FREEZE, decided,
                source=account.name, frozen=frozen, legal_reference=legal_reference,
            )  # fmt: skip


def _holder_frozen(state: State, event: Any, decided: Decided) -> Iterator[Instruction]:
    for name in state.accounts_of_holder.get(event.holder, ()):
        yield from _freezes(state, state.accounts[name], decided, event.legal_reference)


def _account_frozen(state: State, event: Any, decided: Decided) -> Iterator[Instruction]:
    yield from _freezes(state, state.accounts[event.account], decided, event.legal_reference)


def _wallet_recovered(state: State, event: Any, decided: Decided) -> Iterator[Instruction]:
    return _freezes(state, state.accounts[event.lost_account], decided, event.evidence)


def _wallet_bound(state: State, event: Any, decided: Decided) -> Iterator[Instruction]:
    account = state.accounts[event.account]
    holder = state.holders[account.holder]
    if holder.freeze_reference:
        yield from _freezes(state, account, decided, holder.freeze_reference)


def _units_frozen(state: State, event: Any, decided: Decided) -> Iterator[Instruction]:
    account = state.accounts[event.account]
    frozen = state.frozen(state.instruments[event.instrument].number, account.number)
    for deployment in _capable(state, event.instrument, FREEZE_UNITS):
        if deployment.chain == account.place:
            yield _make(
                account.place, event.instrument, FREEZE_UNITS, decided,
                source=account.name, units=frozen, raw=frozen, legal_reference=event.legal_reference,
            )  # fmt: skip


def paused_operations(state: State, deployment: Deployment) -> frozenset[int]:
    """Return what is to be paused on a chain now, by the table of halts: one pause for all follows a halt of transfers alone."""
    if halting(state, deployment.chain, deployment.instrument):
        return ALL_OPERATIONS
    halted = state.instruments[deployment.instrument].halted_operations
    if ChainCapability.CHAIN_CAPABILITY_PAUSE_SEPARATELY in deployment.capabilities:
        return ALL_OPERATIONS & halted
    return ALL_OPERATIONS if Operation.OPERATION_TRANSFER in halted else frozenset()


def _pause(state: State, deployment: Deployment, decided: Decided) -> Instruction:
    operations = paused_operations(state, deployment)
    return _make(deployment.chain, deployment.instrument, PAUSE, decided, operations=operations)


def _halted(state: State, event: Any, decided: Decided) -> Iterator[Instruction]:
    for deployment in _capable(state, event.instrument, PAUSE):
        yield _pause(state, deployment, decided)


def _diverged(state: State, event: Any, decided: Decided) -> Iterator[Instruction]:
    divergence = event.divergence
    if divergence.halting:
        yield from _pauses_at(state, divergence.chain, divergence.instrument, decided)


def _resolved(state: State, event: Any, decided: Decided) -> Iterator[Instruction]:
    if event.halting:
        yield from _pauses_at(state, event.chain, event.instrument, decided)


def _pauses_at(state: State, chain: str, instrument: str, decided: Decided) -> Iterator[Instruction]:
    for deployment in _at_chain(state, chain, PAUSE):
        if instrument in ("", deployment.instrument):
            yield _pause(state, deployment, decided)


# ---- what a unit stands for, how many may be there, what is behind them ----------------------------------------------------------------


def _multiplier_changed(state: State, event: Any, decided: Decided) -> Iterator[Instruction]:
    """Tell the chains, of the moment that was announced, however late an action is executed: one that was told before is left as it is."""
    moment_us = state.actions[event.action].execution_time_us if event.action else decided.decision_time_us
    for deployment in _capable(state, event.instrument, SET_MULTIPLIER):
        yield _make(
            deployment.chain, event.instrument, SET_MULTIPLIER, decided,
            multiplier=int(event.multiplier), effective_time_us=moment_us,
        )  # fmt: skip
    yield from _reserve(state, event.instrument, decided)


def _multiplier_scheduled(state: State, event: Any, decided: Decided) -> Iterator[Instruction]:
    for deployment in _capable(state, event.instrument, SET_MULTIPLIER):
        yield _make(
            deployment.chain, event.instrument, SET_MULTIPLIER, decided,
            multiplier=int(event.multiplier), effective_time_us=event.effective_time.ToMicroseconds(),
        )  # fmt: skip


def _deployed(state: State, event: Any, decided: Decided) -> Iterator[Instruction]:
    """Bring a new token to where the ledger is: what is halted, frozen and set already, and the reserve where it has a feed."""
    yield from _allotted(state, event, decided)
    deployment = state.deployments[event.deployment.instrument, event.deployment.chain]
    if deployment.kind != NATIVE:
        return
    if CAPABILITY_OF[PAUSE] in deployment.capabilities and paused_operations(state, deployment):
        yield _pause(state, deployment, decided)
    if CAPABILITY_OF[FREEZE] in deployment.capabilities:
        for account in state.accounts.values():
            if account.place == deployment.chain and is_frozen(state, account):
                reference = account.freeze_reference or state.holders[account.holder].freeze_reference
                yield _make(
                    deployment.chain, deployment.instrument, FREEZE, decided,
                    source=account.name, frozen=True, legal_reference=reference,
                )  # fmt: skip
    multiplier = state.instruments[deployment.instrument].multiplier
    if CAPABILITY_OF[SET_MULTIPLIER] in deployment.capabilities and multiplier != ONE:
        yield _make(
            deployment.chain, deployment.instrument, SET_MULTIPLIER, decided,
            multiplier=multiplier, effective_time_us=decided.decision_time_us,
        )  # fmt: skip
    scheduled = state.scheduled_multipliers.get(deployment.instrument)
    if CAPABILITY_OF[SET_MULTIPLIER] in deployment.capabilities and scheduled is not None:
        yield _make(
            deployment.chain, deployment.instrument, SET_MULTIPLIER, decided,
            multiplier=scheduled.multiplier, effective_time_us=scheduled.effective_time_us,
        )  # fmt: skip
    if CAPABILITY_OF[REPORT_RESERVE] in deployment.capabilities:
        yield from _reserve_at(state, deployment, decided)


def _allotted(state: State, event: Any, decided: Decided) -> Iterator[Instruction]:
    deployment = state.deployments[event.deployment.instrument, event.deployment.chain]
    if deployment.kind == NATIVE and CAPABILITY_OF[SET_ALLOTMENT] in deployment.capabilities:
        units = deployment.allotment_units
        yield _make(deployment.chain, deployment.instrument, SET_ALLOTMENT, decided, units=units, raw=units)


def _evidenced(state: State, event: Any, decided: Decided) -> Iterator[Instruction]:
    return _reserve(state, state.custody_accounts[event.custody_account].instrument, decided)


def _reserve(state: State, symbol: str, decided: Decided) -> Iterator[Instruction]:
    for deployment in _capable(state, symbol, REPORT_RESERVE):
        yield from _reserve_at(state, deployment, decided)


def _reserve_at(state: State, deployment: Deployment, decided: Decided) -> Iterator[Instruction]:
    """Tell the reserve: what counts as held, what is owed, and how old the evidence is; without any there is nothing to tell."""
    instrument = state.instruments[deployment.instrument]
    as_of_us = as_of_time_us(state, instrument)
    if as_of_us is None:
        return
    reserve = Reserve(
        instrument=instrument.symbol,
        reserve_shares_e8=reserve_shares_e8(state, instrument),
        needed_shares_e8=str(needed_shares_e8(state, instrument)),
        shortfall=instrument.symbol in state.shortfalls,
    )
    reserve.as_of_time.FromMicroseconds(as_of_us)
    note = reserve.SerializeToString(deterministic=True)
    yield _make(deployment.chain, instrument.symbol, REPORT_RESERVE, decided, note=note)


# ---- wallets of ours, and checkpoints --------------------------------------------------------------------------------------------------


def _swept(state: State, event: Any, decided: Decided) -> Iterator[Instruction]:
    chain = event.wallet.rpartition(":")[0]
    yield _make(chain, event.instrument, SEND, decided, source=event.wallet, destination=event.receiving_wallet, raw=int(event.raw))


def _anchor_requested(state: State, event: Any, decided: Decided) -> Iterator[Instruction]:
    yield _make(event.chain, "", ANCHOR_CHECKPOINT, decided, note=event.checkpoint.encode())


PROJECTED: Final[dict[str, Projection]] = {
    "units_transferred": _transferred,
    "units_transferred_by_force": _transferred_by_force,
    "units_issued": _issued,
    "subscription_filled": _subscribed,
    "fill_settled": _subscribed,
    "redemption_requested": _redemption_requested,
    "range_observed": _observed,
    "instruction_abandoned": _abandoned,
    "holder_frozen": _holder_frozen,
    "holder_unfrozen": _holder_frozen,
    "account_frozen": _account_frozen,
    "account_unfrozen": _account_frozen,
    "wallet_bound": _wallet_bound,
    "wallet_recovered": _wallet_recovered,
    "units_frozen": _units_frozen,
    "units_unfrozen": _units_frozen,
    "instrument_halted": _halted,
    "instrument_resumed": _halted,
    "divergence_raised": _diverged,
    "divergence_resolved": _resolved,
    "multiplier_changed": _multiplier_changed,
    "multiplier_scheduled": _multiplier_scheduled,
    "deployment_registered": _deployed,
    "deployment_amended": _allotted,
    "evidence_recorded": _evidenced,
    "receipt_confirmed": _evidenced,
    "delivery_confirmed": _evidenced,
    "wallet_swept": _swept,
    "anchor_requested": _anchor_requested,
}
"""Field in Entry -> what follows from that event. `rules._evolve` looks here, and nowhere else."""


def project(state: State, kind: str, event: Any, decided: Decided) -> list[Instruction]:
    """Return what the ledger wants done on chains after an event that has just been booked, in the order of chain, kind and account."""
    found = sorted(
        PROJECTED[kind](state, event, decided),
        key=lambda each: (each.chain, each.kind, each.source or each.destination, each.instrument, each.effective_time_us),
    )
    index = entry_index(state, decided)
    return [dataclasses.replace(each, index=index, position=position) for position, each in enumerate(found)]
