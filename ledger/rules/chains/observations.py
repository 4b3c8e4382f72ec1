"""Observations: everything a chain finalised in a range, booked in the chain's own order and never refused.

command              event                                      and in the same booking
RecordObservations   RangeObserved, in parts where it is long   DivergenceRaised; a shortfall ended, where units went back to issuance

The cursor is part of the event, so nothing is seen twice or skipped. What an observation comes to stands in docs/chains.md as a table; here
it is `_native` and `_omnibus`. What became of our transactions is `_land`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ledger.arithmetic import divide_floor
from ledger.rules.accounts import add_account
from ledger.rules.chains.divergences import set_cursor
from ledger.rules.chains.endings import (
    BURN,
    FOR_EVER,
    FORCE_TRANSFER,
    MINT,
    MOVING,
    SEND,
    TAKING,
    TARGETS,
    finish,
    instruction_key,
    refuse,
    reopen,
    return_units,
    returnable_units,
    stays_refused,
)
from ledger.rules.chains.in_force import expected_multiplier, held_together, is_encoding_of, keep_seen, with_chain_multiplier
from ledger.rules.chains.omnibus import is_ours, omnibus_reserve
from ledger.rules.chains.places import NATIVE, OMNIBUS, move, raw_of_units
from ledger.rules.chains.projection import ISSUANCE_NAME, paused_operations
from ledger.rules.chains.ranges import check_range
from ledger.rules.chains.sequences import sequence_text
from ledger.rules.chains.walks import Walk
from ledger.rules.redemptions import begin_redemption
from ledger.rules.reserves import reserve_events
from ledger.state import EXTERNAL, REMAINDER
from stockledger.v1.chains_pb2 import (
    ChainFailure,
    DivergenceKind,
    DivergenceRaised,
    InstructionOutcome,
    InstructionState,
    Observation,
    ObservationKind,
    ObservedEffect,
    RangeObserved,
    RecordObservationsRequest,
    RecordObservationsResponse,
    Transaction,
)
from stockledger.v1.common_pb2 import Operation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

    from ledger.records import Deployment, Instruction, OpenTransaction
    from ledger.rules.context import Context, Decided
    from ledger.state import State
    from stockledger.v1.chains_pb2 import ChainMultiplier, LandedTransaction

FINAL, OPEN = InstructionState.INSTRUCTION_STATE_FINAL, InstructionState.INSTRUCTION_STATE_OPEN
RECORDED, REFUSED = InstructionState.INSTRUCTION_STATE_RECORDED, InstructionState.INSTRUCTION_STATE_REFUSED
SEEN_TRANSFER, SEEN_MINT = ObservationKind.OBSERVATION_KIND_TRANSFER, ObservationKind.OBSERVATION_KIND_MINT
SEEN_BURN, SEEN_IN_FORCE = ObservationKind.OBSERVATION_KIND_BURN, ObservationKind.OBSERVATION_KIND_MULTIPLIER_IN_FORCE
MOVEMENTS: Final = frozenset({SEEN_TRANSFER, SEEN_MINT, SEEN_BURN})
_OPERATION_OF: Final = {
    SEEN_TRANSFER: Operation.OPERATION_TRANSFER,
    SEEN_MINT: Operation.OPERATION_ISSUE,
    SEEN_BURN: Operation.OPERATION_REDEEM,
}
_SHOWN_BY: Final[dict[int, int]] = {MINT: SEEN_MINT, BURN: SEEN_BURN, FORCE_TRANSFER: SEEN_TRANSFER, SEND: SEEN_TRANSFER}
"""As what each kind of instruction is seen."""
_COMPANY: Final = FOR_EVER | {ChainFailure.CHAIN_FAILURE_OTHER}
"""Failures of one of several instructions of a transaction that say nothing about the others."""


class _Sent(NamedTuple):
    """An instruction that a transaction of ours, landed and done, must have carried out."""

    instruction: Instruction
    transaction: str


class _Ours:
    """What landed of ours in a range: which transactions, and which of their instructions have not been seen to take effect yet."""

    def __init__(self) -> None:
        self.transactions: set[str] = set()
        self.closed: set[tuple[str, str]] = set()
        self.sent: dict[tuple[int, int], _Sent] = {}

    def claim(self, seen: Observation, deployment: Deployment) -> Instruction | None:
        """Return the instruction that an observation is the effect of, once; None: others did it.

        The reader's word is checked: the transaction, the kind, both ends and the raw units must be those of the instruction.
        """
        key = instruction_key(seen.instruction) if seen.instruction else None
        sent = None if key is None else self.sent.get(key)
        if sent is None or sent.transaction != seen.transaction:
            return None
        wanted = sent.instruction
        if _SHOWN_BY.get(wanted.kind) != seen.kind or (wanted.chain, wanted.instrument) != (deployment.chain, deployment.instrument):
            return None
        if (wanted.source or seen.source, wanted.destination or seen.destination) != (seen.source, seen.destination):
            return None
        if int(seen.raw) != wanted.raw:
            return None
        del self.sent[wanted.key]
        return wanted


# ---- decided ---------------------------------------------------------------------------------------------------------------------------


def decide_observe(state: State, command: RecordObservationsRequest, context: Context) -> list[Message]:
    seen = command.range
    chain, through = check_range(state, seen)
    walk, ours = Walk(state, chain, through.number, context.decision_time_us), _Ours()
    issued_back: Counter[str] = Counter()
    for landed in seen.landed:
        _land(walk, ours, landed, issued_back)
    for observation in seen.observations:
        _observe(walk, ours, observation)
    for sent in ours.sent.values():
        _end_unseen(walk, sent)
    for text in seen.satisfied_instructions:
        _satisfy(walk, text)
    for standing in seen.multipliers:
        walk.add(multiplier=standing)
    for symbol, other in sorted(state.deployments):
        if other == chain.chain and any(key[1] == symbol for key in walk.wallet_raw):
            _hold_wallets_together(walk, state.deployments[symbol, other])
    events: list[Message] = [*walk.parts(seen), *walk.raiser.events()]
    for symbol, units in sorted(issued_back.items()):
        events += reserve_events(state, state.instruments[symbol], extra_units=-units)
    return events


def _observe(walk: Walk, ours: _Ours, seen: Observation) -> None:
    if not seen.token:
        _control_of_all(walk, seen)
        return
    deployment = walk.state.deployments[walk.state.deployment_of_token[seen.token]]
    if seen.kind not in MOVEMENTS:
        _control(walk, ours, seen, deployment)
    elif deployment.kind == OMNIBUS:
        _omnibus(walk, ours, seen, deployment)
    else:
        _native(walk, ours, seen, deployment)


def observe_missed(walk: Walk, observations: Sequence[Observation]) -> None:
    """Take native movements that a range should have told, as of others: what landed of ours is told by our own transactions."""
    for seen in observations:
        _native(walk, _Ours(), seen, walk.state.deployments[walk.state.deployment_of_token[seen.token]])


# ---- our transactions ------------------------------------------------------------------------------------------------------------------


def _land(walk: Walk, ours: _Ours, landed: LandedTransaction, issued_back: Counter[str]) -> None:
    """Say what a landed transaction of ours means for its instructions."""
    state = walk.state
    sequence = (landed.key, sequence_text(landed.sequence))
    opened = None if sequence in ours.closed else state.open_transactions.get(sequence)
    ours.closed.add(sequence)
    version = None if opened is None else _version_of(opened, landed.payload_digest)
    walk.add(landed=landed)
    if version is None:
        walk.raiser.tell(
            DivergenceKind.DIVERGENCE_KIND_CONTROL_UNDECIDED,
            expected="no transaction of ours but recorded ones",
            found=f"payload {landed.payload_digest.hex()}",
            account=landed.key,
            number=landed.number,
            transaction=landed.transaction,
        )
    if opened is None:
        return
    carried = [state.instructions[key] for key in opened.instructions]
    if version is None or not version.instructions:
        for instruction in carried:
            walk.end(instruction, InstructionOutcome(state=OPEN))
    elif not landed.failure:
        ours.transactions.add(landed.transaction)
        ours.sent.update({instruction.key: _Sent(instruction, landed.transaction) for instruction in carried})
    else:
        for instruction in carried:
            _fail(walk, instruction, landed, issued_back, alone=len(carried) == 1)


def _version_of(opened: OpenTransaction, digest: bytes) -> Transaction | None:
    """Return the version of a transaction that landed, by SHA-256 of its payload."""
    for data in opened.versions:
        version = Transaction.FromString(data)
        if sha256(version.payload).digest() == digest:
            return version
    return None


def _fail(walk: Walk, instruction: Instruction, landed: LandedTransaction, issued_back: Counter[str], *, alone: bool) -> None:
    """Say what the failure of a transaction means for an instruction. Targets must be reached, so they are tried again."""
    outcome = InstructionOutcome(state=OPEN, failure=landed.failure, failure_text=landed.failure_text)
    if not alone and landed.failure in _COMPANY:
        outcome.failure = ChainFailure.CHAIN_FAILURE_IN_COMPANY
    elif landed.failure in FOR_EVER and instruction.kind in MOVING:
        outcome.state = REFUSED
        outcome.returned_units = returnable_units(walk.state, instruction)
        if instruction.origin == ISSUANCE_NAME:
            issued_back[instruction.instrument] += outcome.returned_units
        _release(walk, instruction)
    walk.end(instruction, outcome)


def _release(walk: Walk, instruction: Instruction) -> None:
    if instruction.kind in TAKING:
        instrument = walk.state.instruments[instruction.instrument]
        walk.release(instrument, walk.state.accounts[instruction.source].number, instruction.units)


def _end_unseen(walk: Walk, sent: _Sent) -> None:
    """End an instruction whose transaction is done and showed no effect: as it should be of a target, and a divergence of a movement."""
    instruction = sent.instruction
    if instruction.kind not in MOVING:
        walk.end(instruction, InstructionOutcome(state=FINAL))
        return
    walk.end(instruction, InstructionOutcome(state=REFUSED, failure_text="done without its effect"))
    walk.raiser.tell(
        DivergenceKind.DIVERGENCE_KIND_WITHOUT_EFFECT,
        expected=instruction.raw,
        found=0,
        instrument=instruction.instrument,
        account=instruction.destination or instruction.source,
        transaction=sent.transaction,
    )


def _satisfy(walk: Walk, text: str) -> None:
    """End a target that the chain has reached without us. One that a transaction carries ends with that."""
    key = instruction_key(text)
    instruction = None if key is None else walk.state.instructions.get(key)
    if instruction is None or instruction.chain != walk.chain.chain or text in walk.ended:
        return
    if instruction.kind in TARGETS and instruction.state == OPEN:
        walk.end(instruction, InstructionOutcome(state=FINAL))


# ---- what an observation comes to ------------------------------------------------------------------------------------------------------


def _native(walk: Walk, ours: _Ours, seen: Observation, deployment: Deployment) -> None:
    """Book a movement of a token that the ledger's owner mints and burns."""
    instrument = walk.state.instruments[deployment.instrument]
    units, claimed = int(seen.raw), ours.claim(seen, deployment)
    effect = ObservedEffect(observation=seen, instrument=instrument.symbol)
    if not units or (seen.kind == SEEN_TRANSFER and seen.source == seen.destination):
        walk.add(effect=effect)
        return
    lacking = _lacking(walk, seen, deployment, units, decided=claimed is not None)
    if not walk.can_count(instrument, lacking):
        _tell(walk, seen, deployment, DivergenceKind.DIVERGENCE_KIND_IMPOSSIBLE, expected="at most 2^62", found=units, halting=True)
        if claimed is None:
            walk.add(effect=effect)
        else:  # more was taken from an account than can be counted; what was decided ends all the same
            _release(walk, claimed)
            walk.end(claimed, InstructionOutcome(state=REFUSED, failure_text="more than can be counted"), effect)
        return
    source, destination = _ends(walk, seen, claimed)
    if seen.kind != SEEN_MINT and lacking:
        _tell(walk, seen, deployment, DivergenceKind.DIVERGENCE_KIND_IMPOSSIBLE, expected=units - lacking, found=units)
        walk.move(effect, instrument, walk.chain.divergence, source, lacking)
    walk.move(effect, instrument, source, destination, units)
    if claimed is None and seen.kind == SEEN_MINT:
        _tell(walk, seen, deployment, DivergenceKind.DIVERGENCE_KIND_MINT_UNDECIDED, expected=0, found=units)
    if claimed is None and seen.kind == SEEN_BURN:
        _tell(walk, seen, deployment, DivergenceKind.DIVERGENCE_KIND_BURN_UNDECIDED, expected=0, found=units)
    if claimed is not None:
        _release(walk, claimed)
    if claimed is None or not claimed.legal_reference:
        walk.note_breaches(effect, instrument, _OPERATION_OF[seen.kind], seen.source, seen.destination)
    if claimed is None:
        walk.add(effect=effect)
    else:
        walk.end(claimed, _final(walk, claimed), effect)


def _lacking(walk: Walk, seen: Observation, deployment: Deployment, units: int, *, decided: bool) -> int:
    """Return the units that must come from nowhere for a movement to be booked."""
    if seen.kind == SEEN_MINT:
        return 0 if decided else units
    return max(units - walk.holding_of(walk.state.instruments[deployment.instrument], seen.source), 0)


def _ends(walk: Walk, seen: Observation, claimed: Instruction | None) -> tuple[int, int]:
    """Return the account numbers between which a native movement is booked."""
    chain, state = walk.chain, walk.state
    if seen.kind == SEEN_MINT:
        return chain.transit if claimed is not None else chain.divergence, walk.number_of(seen.destination)
    if seen.kind == SEEN_TRANSFER:
        return walk.number_of(seen.source), walk.number_of(seen.destination)
    if claimed is None:
        return walk.number_of(seen.source), chain.divergence
    onward = state.accounts[claimed.onward]
    other = state.chains.get(onward.place)
    return walk.number_of(seen.source), onward.number if other is None else other.transit


def _final(walk: Walk, instruction: Instruction) -> InstructionOutcome:
    """Return the outcome of an instruction whose effect is final."""
    outcome = InstructionOutcome(state=FINAL)
    if instruction.kind == BURN:
        if instruction.redemption:
            outcome.hold = walk.take_hold_number()
        if walk.state.accounts[instruction.onward].place in walk.state.chains:
            outcome.onward, outcome.owner_account = instruction.onward, instruction.owner_account or instruction.source
            outcome.legal_reference = instruction.legal_reference
    return outcome


def _tell(
    walk: Walk,
    seen: Observation,
    deployment: Deployment,
    kind: DivergenceKind.ValueType,
    *,
    expected: object,
    found: object,
    halting: bool = False,
) -> None:
    walk.raiser.tell(
        kind,
        expected=expected,
        found=found,
        instrument=deployment.instrument,
        account=seen.source if seen.kind != SEEN_MINT else seen.destination,
        number=seen.number,
        transaction=seen.transaction,
        halting=halting,
    )


def _omnibus(walk: Walk, ours: _Ours, seen: Observation, deployment: Deployment) -> None:
    """Book a movement of somebody else's token into, out of or between our addresses; others' are not kept at all."""
    state, instrument, raw = walk.state, walk.state.instruments[deployment.instrument], int(seen.raw)
    gives = seen.kind != SEEN_MINT and is_ours(state, deployment, seen.source)
    takes = seen.kind != SEEN_BURN and is_ours(state, deployment, seen.destination)
    if not (gives or takes):
        return
    claimed = ours.claim(seen, deployment)
    effect = ObservedEffect(observation=seen, instrument=instrument.symbol)
    if gives and _take_raw(walk, deployment, seen.source, raw):
        _tell(walk, seen, deployment, DivergenceKind.DIVERGENCE_KIND_IMPOSSIBLE, expected=f"at most what {seen.source} had", found=raw)
    if takes:
        _add_raw(walk, deployment, seen.destination, raw)
    if takes and not gives:
        _deposit(walk, effect, deployment, raw)
    if claimed is None:
        walk.add(effect=effect)
        return
    if claimed.units:
        walk.move(effect, instrument, walk.chain.transit, EXTERNAL, claimed.units)
        if takes:
            _deposit(walk, effect, deployment, raw)
    walk.end(claimed, InstructionOutcome(state=FINAL), effect)


def _add_raw(walk: Walk, deployment: Deployment, address: str, raw: int) -> None:
    key = (deployment.chain, deployment.instrument, address)
    walk.wallet_raw[key] = walk.wallet_raw.get(key, walk.state.wallet_raw.get(key, 0)) + raw


def _take_raw(walk: Walk, deployment: Deployment, address: str, raw: int) -> bool:
    """Take raw units from a wallet of ours; True: it did not have as many."""
    _add_raw(walk, deployment, address, -raw)
    key = (deployment.chain, deployment.instrument, address)
    short = walk.wallet_raw[key] < 0
    walk.wallet_raw[key] = max(walk.wallet_raw[key], 0)
    return short


def _deposit(walk: Walk, effect: ObservedEffect, deployment: Deployment, raw: int) -> None:
    """Credit what came into an address of ours: whole units to whom it stands for, the rest as dust, of which whole units are booked too.

    Example: of a token of 18 decimals, for an instrument of 8, 1.5 units arrive and 0.7 units of dust are there: one unit is credited, one
    goes to the remainder, and 0.2 units are left as dust.
    """
    state, seen = walk.state, effect.observation
    instrument = state.instruments[deployment.instrument]
    scale = raw_of_units(state, deployment, 1)
    units = divide_floor(raw, scale)
    dust = walk.dust_raw.get(instrument.symbol, deployment.dust_raw) + raw - units * scale
    whole = divide_floor(dust, scale)
    if not walk.can_count(instrument, units + whole):
        _tell(walk, seen, deployment, DivergenceKind.DIVERGENCE_KIND_IMPOSSIBLE, expected="at most 2^62", found=units, halting=True)
        return
    account = state.deposit_addresses.get(seen.destination, "")
    number = state.accounts[account].number if account else walk.chain.unattributed
    if units:
        walk.move(effect, instrument, EXTERNAL, number, units)
        walk.note_breaches(effect, instrument, Operation.OPERATION_TRANSFER, destination=account)
    if whole:
        walk.move(effect, instrument, EXTERNAL, REMAINDER, whole)
    if raw - units * scale:
        walk.dust_raw[instrument.symbol] = dust - whole * scale
        effect.dust_raw = str(dust - whole * scale)


def _hold_wallets_together(walk: Walk, deployment: Deployment) -> None:
    """Tell once when our wallets hold less than is owed, after all of a range."""
    instrument = walk.state.instruments[deployment.instrument]
    owed = -walk.holding(instrument, EXTERNAL)
    reserve = omnibus_reserve(walk.state, instrument.symbol, walk.wallet_raw)
    if reserve < owed:
        kind = DivergenceKind.DIVERGENCE_KIND_WALLETS_SHORT
        walk.raiser.tell(kind, expected=owed, found=reserve, instrument=instrument.symbol)


def _control(walk: Walk, ours: _Ours, seen: Observation, deployment: Deployment) -> None:
    """Note a freeze, a pause, a multiplier, an allotment or an authority; of a token of ours, tell what nobody decided."""
    walk.add(effect=ObservedEffect(observation=seen, instrument=deployment.instrument))
    if deployment.kind == OMNIBUS:
        return
    if seen.kind == SEEN_IN_FORCE:  # what was set by us may have come too late; what a token came with is put right by SET_MULTIPLIER
        expected, found, agrees = held_together(walk.state, deployment, seen)
        if not agrees and int(seen.old_value):
            _tell(walk, seen, deployment, DivergenceKind.DIVERGENCE_KIND_MULTIPLIER_IN_FORCE, expected=expected, found=found)
        return
    if seen.transaction in ours.transactions:
        return
    expected, found, agrees = _wanted(walk.state, seen, deployment)
    if not agrees:
        _tell(walk, seen, deployment, DivergenceKind.DIVERGENCE_KIND_CONTROL_UNDECIDED, expected=expected, found=found)


def _control_of_all(walk: Walk, seen: Observation) -> None:
    """Note what all tokens of ours go by. It is told of the chain; where it must halt tokens, of each of them."""
    walk.add(effect=ObservedEffect(observation=seen))
    expected, found, agrees = _wanted_of_all(seen)
    if agrees:
        return
    there = [each for _, each in sorted(walk.state.deployments.items()) if each.chain == walk.chain.chain]
    halted = [each.instrument for each in there if each.kind == NATIVE and each.halt_on_divergence]
    for instrument in halted or [""]:
        kind = DivergenceKind.DIVERGENCE_KIND_CONTROL_UNDECIDED
        walk.raiser.tell(
            kind,
            expected=expected,
            found=found,
            instrument=instrument,
            account=seen.source,
            number=seen.number,
            transaction=seen.transaction,
        )


def _wanted_of_all(seen: Observation) -> tuple[str, str, bool]:
    """Return what the ledger has of what it never sets, what was seen, and whether they agree."""
    if seen.kind == ObservationKind.OBSERVATION_KIND_BAR:
        return "not barred", f"barred by {seen.subject}", seen.value == "false"
    return "unchanged", f"{seen.subject}: {seen.value or 'nobody'}", False


def _wanted(state: State, seen: Observation, deployment: Deployment) -> tuple[str, str, bool]:
    """Return what the ledger has of something a chain is set to, what was seen, and whether they agree."""
    instrument, kind = state.instruments[deployment.instrument], seen.kind
    account = state.accounts.get(seen.source)
    if kind == ObservationKind.OBSERVATION_KIND_FREEZE:
        holder = None if account is None else state.holders.get(account.holder)
        frozen = account is not None and bool(account.freeze_reference or (holder is not None and holder.freeze_reference))
        expected, found = str(frozen).lower(), seen.value
    elif kind == ObservationKind.OBSERVATION_KIND_FREEZE_UNITS:
        expected, found = str(0 if account is None else state.frozen(instrument.number, account.number)), seen.raw
    elif kind == ObservationKind.OBSERVATION_KIND_PAUSE:
        expected, found = _names(paused_operations(state, deployment)), _names(frozenset(seen.operations))
    elif kind == ObservationKind.OBSERVATION_KIND_MULTIPLIER:
        wanted = expected_multiplier(state, instrument.symbol)
        return str(wanted[0]), seen.value, any(is_encoding_of(int(seen.value), each) for each in wanted)
    elif kind == ObservationKind.OBSERVATION_KIND_ALLOTMENT:
        expected, found = str(deployment.allotment_units), seen.raw
    else:
        return _wanted_of_all(seen)
    return expected, found, expected == found


def _names(operations: frozenset[int]) -> str:
    names = [Operation.Name(Operation.ValueType(each)).removeprefix("OPERATION_").lower() for each in sorted(operations)]
    return ", ".join(names) or "none"


# ---- booked ----------------------------------------------------------------------------------------------------------------------------


def evolve_observed(state: State, event: RangeObserved, decided: Decided) -> None:
    for number, name in enumerate(event.opened_accounts, event.first_opened_number):
        add_account(state, name, number, "")
    for position, effect in enumerate(event.effects):
        _book_effect(state, event.chain, effect)
        if effect.observation.kind == SEEN_IN_FORCE:
            keep_seen(state, event.chain, effect, position, decided)
    for standing in event.multipliers:
        _book_multiplier(state, standing)
    for landed in event.landed:
        _close_transaction(state, landed)
    for outcome in event.outcomes:
        _book_outcome(state, outcome)
    set_cursor(state, event.chain, event.through)


def _book_effect(state: State, chain: str, effect: ObservedEffect) -> None:
    if not effect.instrument:
        return  # of all tokens: it is noted, and nothing is kept
    instrument, seen = state.instruments[effect.instrument], effect.observation
    for movement in effect.movements:
        move(state, instrument, movement.source, movement.destination, movement.units)
    key = (effect.instrument, chain)
    deployment = state.deployments[key]
    changes: dict[str, Any] = {}
    if effect.HasField("dust_raw"):
        changes["dust_raw"] = int(effect.dust_raw)
    if seen.kind == ObservationKind.OBSERVATION_KIND_MULTIPLIER:
        changes["observed_multiplier"] = int(seen.value)
    if seen.kind == ObservationKind.OBSERVATION_KIND_PAUSE:
        changes["paused_operations"] = frozenset(seen.operations)
    if changes:
        state.put(state.deployments, key, dataclasses.replace(deployment, **changes))
    if deployment.kind == OMNIBUS and seen.kind in MOVEMENTS:
        raw = int(seen.raw)
        if seen.kind != SEEN_MINT and is_ours(state, deployment, seen.source):
            _change_wallet(state, (chain, effect.instrument, seen.source), -raw)
        if seen.kind != SEEN_BURN and is_ours(state, deployment, seen.destination):
            _change_wallet(state, (chain, effect.instrument, seen.destination), raw)


def _book_multiplier(state: State, standing: ChainMultiplier) -> None:
    """Book how a multiplier stands on its chain at the cursor: what the reader goes on from."""
    key = state.deployment_of_token[standing.token]
    following, time_us = int(standing.next_multiplier or 0), standing.next_effective_time.ToMicroseconds()
    state.put(state.deployments, key, with_chain_multiplier(state.deployments[key], int(standing.multiplier), following, time_us))


def _change_wallet(state: State, key: tuple[str, str, str], raw: int) -> None:
    """Book raw units into or out of a wallet of ours; what it did not have left from nowhere, which was told."""
    state.put(state.wallet_raw, key, max(state.wallet_raw.get(key, 0) + raw, 0))


def _close_transaction(state: State, landed: LandedTransaction) -> None:
    """Book that a transaction has landed, and with it used up its sequence."""
    opened = (landed.key, sequence_text(landed.sequence))
    if opened in state.open_transactions:
        state.remove(state.open_transactions, opened)
    key = state.chain_keys.get(landed.key)
    if key is not None and landed.sequence.WhichOneof("kind") == "number" and landed.sequence.number >= key.consumed_count:
        state.put(state.chain_keys, landed.key, dataclasses.replace(key, consumed_count=landed.sequence.number + 1))


def _book_outcome(state: State, outcome: InstructionOutcome) -> None:
    key = instruction_key(outcome.instruction)
    assert key is not None, "events carry ids of instructions"
    instruction = state.instructions[key]
    if outcome.state == OPEN:
        reopen(state, instruction, outcome.failure, outcome.failure_text)
        return
    if outcome.state == REFUSED and stays_refused(state, instruction, outcome.returned_units):
        refuse(state, instruction, outcome.failure, outcome.failure_text)
        return
    if outcome.returned_units:
        return_units(state, instruction, instruction.origin, outcome.returned_units)
    finish(state, instruction)
    if outcome.hold:
        begin_redemption(state, instruction.redemption, outcome.hold)
    elif instruction.redemption:
        state.remove(state.redemptions, instruction.redemption)


def answer_observed(events: Sequence[Any]) -> dict[str, Any]:
    outcomes = [outcome for event in events if isinstance(event, RangeObserved) for outcome in event.outcomes]
    return {
        "final_count": sum(outcome.state == FINAL for outcome in outcomes),
        "refused_count": sum(outcome.state == REFUSED for outcome in outcomes),
        "divergence_count": sum(isinstance(event, DivergenceRaised) for event in events),
    }


COMMANDS: dict[type[Any], tuple[Any, type[Any]]] = {RecordObservationsRequest: (decide_observe, RecordObservationsResponse)}
EVENTS: dict[type[Any], Any] = {RangeObserved: evolve_observed}
ANSWERS = {RecordObservationsResponse: answer_observed}
