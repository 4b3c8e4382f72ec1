"""Instructions: opened as the projection says, blocked while something stands in their way, given up.

    command              event
    AbandonInstruction   InstructionAbandoned

How they end is in endings.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ledger.errors import refusal
from ledger.rules.chains.endings import (
    BURN,
    FOR_EVER,
    FORCE_TRANSFER,
    MINT,
    SEND,
    TAKING,
    TARGETS,
    finish,
    instruction_key,
    promise,
    refuse,
    return_units,
    returnable_units,
    stays_refused,
    target_key,
    units_in_transit,
)
from ledger.rules.chains.places import halting
from ledger.rules.chains.projection import ISSUANCE_NAME, project
from ledger.rules.checks import BOOK, check_account_open, check_enum, check_present, check_text, find_account
from ledger.rules.reserves import reserve_events
from stockledger.v1.chains_pb2 import (
    AbandonInstructionRequest,
    AbandonInstructionResponse,
    ChainFailure,
    InstructionAbandoned,
    InstructionKind,
    InstructionState,
)
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from ledger.records import Instruction
    from ledger.rules.context import Context, Decided
    from ledger.state import State

OPEN: Final = InstructionState.INSTRUCTION_STATE_OPEN
RECORDED: Final = InstructionState.INSTRUCTION_STATE_RECORDED

_OPERATION_OF: Final = {
    MINT: Operation.OPERATION_ISSUE,
    BURN: Operation.OPERATION_REDEEM,
    SEND: Operation.OPERATION_TRANSFER,
}
"""The operation of the ledger whose halt stops a kind."""
_FIRST: Final = frozenset(
    {InstructionKind.INSTRUCTION_KIND_FREEZE, InstructionKind.INSTRUCTION_KIND_FREEZE_UNITS, InstructionKind.INSTRUCTION_KIND_PAUSE}
)


def rank_of(instruction: Instruction) -> int:
    """Return when an instruction is sent: stops, and their ends, first."""
    return 0 if instruction.kind in _FIRST else 1


def find_instruction(state: State, text: str) -> Instruction:
    """Return an instruction that is not over by its id."""
    check_present(instruction=text)
    key = instruction_key(text)
    found = None if key is None else state.instructions.get(key)
    if found is None:
        raise refusal(Reason.REASON_INSTRUCTION_NOT_FOUND, f"no instruction {text!r} that is not over", instruction=text)
    return found


def carry_out(state: State, kind: str, event: Any, decided: Decided) -> None:
    """Open what follows from an event that has just been booked. Most are transfers within the book, of which nothing does."""
    if kind == "units_transferred" and not event.chain:
        return
    for instruction in project(state, kind, event, decided):
        open_instruction(state, instruction)


def open_instruction(state: State, instruction: Instruction) -> None:
    """Book a new instruction. One with a target takes the place of those that no transaction carries.

    A multiplier for later does not take the place of one that counts already: it waits for it.
    """
    state.put(state.instructions, instruction.key, instruction)
    if instruction.kind in TAKING:
        promise(state, instruction, instruction.units)
    if instruction.kind in TARGETS:
        key = target_key(instruction)
        for older in state.targets.get(key, ()):
            waits = 0 < state.instructions[older].effective_time_us <= instruction.decision_time_us < instruction.effective_time_us
            if state.instructions[older].state != RECORDED and not waits:
                finish(state, state.instructions[older])
        state.put(state.targets, key, (*state.targets.get(key, ()), instruction.key))


# ---- what stands in the way ------------------------------------------------------------------------------------------------------------


def blocked_by(state: State, instruction: Instruction) -> str:
    """Return why an open instruction must not be recorded now, a reason without its prefix, or nothing.

    Enforcement goes on under freezes and halts, but not at a place that a divergence stops. A target waits for the one before it.
    """
    kind = instruction.kind
    if kind in TARGETS:
        return "STATE_UNFIT" if state.targets[target_key(instruction)][0] != instruction.key else ""
    if kind not in _OPERATION_OF and kind != FORCE_TRANSFER:
        return ""
    if halting(state, instruction.chain, instruction.instrument):
        return "PLACE_HALTED"
    if instruction.legal_reference:
        return ""
    for name in (instruction.source, instruction.destination, instruction.origin, instruction.onward, instruction.owner_account):
        account = state.accounts.get(name)
        if account is None:
            continue
        if account.freeze_reference:
            return "ACCOUNT_FROZEN"
        holder = state.holders.get(account.holder)
        if holder is not None and holder.freeze_reference:
            return "HOLDER_FROZEN"
    if _OPERATION_OF[InstructionKind.ValueType(kind)] in state.instruments[instruction.instrument].halted_operations:
        return "INSTRUMENT_HALTED"
    return ""


# ---- given up --------------------------------------------------------------------------------------------------------------------------


def decide_abandon(state: State, command: AbandonInstructionRequest, context: Context) -> list[Message]:
    check_present(instruction=command.instruction)
    check_text("cause", command.cause)
    if command.failure:
        check_enum("failure", command.failure, ChainFailure)
        if command.return_account:
            message = "return_account is set: what the chain refuses goes back to where it came from"
            raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="return_account", value=command.return_account)
    instruction = find_instruction(state, command.instruction)
    units = units_in_transit(instruction)
    account = find_account(state, command.return_account, "return_account") if command.return_account else None
    if instruction.state == RECORDED:
        message = f"a transaction that may land carries instruction {instruction.text}"
        raise refusal(Reason.REASON_STATE_UNFIT, message, instruction=instruction.text, state="recorded")
    if command.failure and command.failure not in FOR_EVER:
        name = ChainFailure.Name(command.failure)
        message = f"{name} may pass, and is no reason by itself to give up instruction {instruction.text}"
        raise refusal(Reason.REASON_STATE_UNFIT, message, instruction=instruction.text, failure=name)
    returned = units
    if account is not None:
        _check_return(state, instruction, account.name, units)
        check_account_open(account)
    elif command.failure:
        returned = returnable_units(state, instruction)
    elif returnable_units(state, instruction) < units:
        message = f"what instruction {instruction.text} moves came from {instruction.origin}, at a chain: name the account it goes to"
        raise refusal(Reason.REASON_STATE_UNFIT, message, instruction=instruction.text, origin=instruction.origin)
    abandoned = InstructionAbandoned(
        instruction=instruction.text,
        cause=command.cause,
        failure=command.failure,
        instrument=instruction.instrument,
        returned_units=returned,
        return_account=(account.name if account is not None else instruction.origin) if returned else "",
        chain=instruction.chain,
    )
    if abandoned.return_account != ISSUANCE_NAME:
        return [abandoned]
    return [abandoned, *reserve_events(state, state.instruments[instruction.instrument], extra_units=-returned)]


def _check_return(state: State, instruction: Instruction, name: str, units: int) -> None:
    """Refuse to send units in transit to somebody else, or where none are, or to where the instrument is not."""
    if not units:
        message = f"nothing of instruction {instruction.text} is in transit, so nothing can go to {name}"
        raise refusal(Reason.REASON_STATE_UNFIT, message, instruction=instruction.text, account=name)
    owner, taker = state.accounts[instruction.owner_account], state.accounts[name]
    if owner.holder != taker.holder or (not owner.holder and owner.name != taker.name):
        message = f"{name} is not of holder {owner.holder!r}, whose units are in transit"
        raise refusal(Reason.REASON_STATE_UNFIT, message, account=name, holder=owner.holder)
    if taker.place != BOOK:
        deployment = state.deployments.get((instruction.instrument, taker.place))
        if deployment is None or deployment.retired:
            message = f"{instruction.instrument} has no deployment in use on {taker.place}"
            raise refusal(Reason.REASON_STATE_UNFIT, message, account=name, chain=taker.place)


def evolve_abandoned(state: State, event: InstructionAbandoned, decided: Decided) -> None:
    instruction = find_instruction(state, event.instruction)
    if event.failure and stays_refused(state, instruction, event.returned_units):
        refuse(state, instruction, event.failure, event.cause)
        return
    finish(state, instruction)
    if instruction.redemption:
        state.remove(state.redemptions, instruction.redemption)
    if not event.returned_units:
        return
    account = state.accounts.get(event.return_account)
    if account is not None and account.place in state.chains:
        _to_transit(state, instruction, account.place, event.returned_units)
    else:
        return_units(state, instruction, event.return_account, event.returned_units)


def _to_transit(state: State, instruction: Instruction, chain: str, units: int) -> None:
    """Book that units in transit wait for a mint on another chain; on the same chain they wait where they are."""
    if chain != instruction.chain:
        number = state.instruments[instruction.instrument].number
        state.post(number, state.chains[instruction.chain].transit, state.chains[chain].transit, units)


COMMANDS: dict[type[Any], tuple[Any, type[Any]]] = {AbandonInstructionRequest: (decide_abandon, AbandonInstructionResponse)}
EVENTS: dict[type[Any], Any] = {InstructionAbandoned: evolve_abandoned}
