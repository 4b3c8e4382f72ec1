"""How instructions end, or start over: what their last transaction came to. Every rule that ends one does it by these functions.

    finish    FINAL, ABANDONED, SUPERSEDED, or REFUSED with nothing left in transit: the record goes
    reopen    failed for now, or its transaction died: OPEN, to be carried out by another transaction
    refuse    the chain will not do it, and units wait for AbandonInstruction, in transit or at a deposit address: REFUSED

Units in transit move by `return_units` alone, or by the observed mint itself.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any, Final

from ledger.rules.chains.places import move
from stockledger.v1.chains_pb2 import ChainFailure, InstructionKind, InstructionState

if TYPE_CHECKING:
    from ledger.records import Instruction
    from ledger.state import State

MINT: Final = InstructionKind.INSTRUCTION_KIND_MINT
BURN: Final = InstructionKind.INSTRUCTION_KIND_BURN
FORCE_TRANSFER: Final = InstructionKind.INSTRUCTION_KIND_FORCE_TRANSFER
SEND: Final = InstructionKind.INSTRUCTION_KIND_SEND
MOVING: Final = frozenset({MINT, BURN, FORCE_TRANSFER, SEND})
"""What moves units: a landed transaction must show it. All others but a checkpoint are targets."""
TAKING: Final = frozenset({BURN, FORCE_TRANSFER})
"""What promises units of an account at a chain until it is over."""
ACCOUNT_TARGETS: Final = frozenset({InstructionKind.INSTRUCTION_KIND_FREEZE, InstructionKind.INSTRUCTION_KIND_FREEZE_UNITS})
TARGETS: Final = ACCOUNT_TARGETS | {
    InstructionKind.INSTRUCTION_KIND_PAUSE,
    InstructionKind.INSTRUCTION_KIND_SET_MULTIPLIER,
    InstructionKind.INSTRUCTION_KIND_SET_ALLOTMENT,
    InstructionKind.INSTRUCTION_KIND_REPORT_RESERVE,
}
"""What says how the chain shall be; of one account or token the newest counts."""
FOR_EVER: Final = frozenset({ChainFailure.CHAIN_FAILURE_ACCOUNT_BARRED, ChainFailure.CHAIN_FAILURE_UNITS_INSUFFICIENT})
"""Failures of a single instruction that will not pass by themselves."""

_ID: Final = re.compile(r"(0|[1-9][0-9]{0,17})-(0|[1-9][0-9]{0,8})")


def instruction_key(text: str) -> tuple[int, int] | None:
    """Return the key of an instruction's id, or None where it is none. Example: `instruction_key("4711-0") == (4711, 0)`."""
    found = _ID.fullmatch(text)
    return None if found is None else (int(found[1]), int(found[2]))


def target_key(instruction: Instruction) -> tuple[int, str, str, str]:
    """Return under which key of `State.targets` an instruction with a target stands."""
    account = instruction.source if instruction.kind in ACCOUNT_TARGETS else ""
    return instruction.kind, instruction.chain, instruction.instrument, account


def units_in_transit(instruction: Instruction) -> int:
    """Return the units of an instruction that wait in the transit of its chain: those of a mint, or of a withdrawal (a sweep has none)."""
    return instruction.units if instruction.kind == MINT or (instruction.kind == SEND and instruction.origin) else 0


def returnable_units(state: State, instruction: Instruction) -> int:
    """Return the units that go back to where they came from when the chain refuses an instruction: to the book or to issuance.

    What came from an account at a chain was burned there and cannot go back by itself.
    """
    origin = state.accounts.get(instruction.origin)
    at_chain = origin is not None and origin.place in state.chains
    return 0 if at_chain else units_in_transit(instruction)


def stays_refused(state: State, instruction: Instruction, returned_units: int) -> bool:
    """Tell whether an instruction that the chain refuses is kept: its units are in transit still, or lie where they are nobody's to move.

    So do those of a deposit address, of which not all could be burned.
    """
    deposited = instruction.kind == BURN and instruction.source in state.deposit_addresses
    return deposited or units_in_transit(instruction) > returned_units


def return_units(state: State, instruction: Instruction, account: str, units: int) -> None:
    """Book that units come back from transit to an account, or to issuance."""
    transit = state.chains[instruction.chain].transit
    move(state, state.instruments[instruction.instrument], transit, state.accounts[account].number, units)


def promise(state: State, instruction: Instruction, units: int) -> None:
    """Add to the units that are promised of the account an instruction takes from; below zero: they are promised no longer."""
    key = (state.instruments[instruction.instrument].number, state.accounts[instruction.source].number)
    _add(state, state.promised, key, units)
    onward = state.accounts.get(instruction.onward)
    if onward is not None and onward.place in state.chains:
        _add(state, state.onward_units, (instruction.instrument, onward.place), units)


def _add(state: State, sums: dict[Any, int], key: Any, units: int) -> None:
    left = sums.get(key, 0) + units
    assert left >= 0, "no more is released than was promised"
    if left:
        state.put(sums, key, left)
    else:
        state.remove(sums, key)


def finish(state: State, instruction: Instruction) -> None:
    """Book that an instruction is over: nothing of it is kept."""
    state.remove(state.instructions, instruction.key)
    if instruction.kind in TAKING:
        promise(state, instruction, -instruction.units)
    if instruction.kind in TARGETS:
        key = target_key(instruction)
        others = tuple(other for other in state.targets[key] if other != instruction.key)
        if others:
            state.put(state.targets, key, others)
        else:
            state.remove(state.targets, key)


def reopen(state: State, instruction: Instruction, failure: int = 0, failure_text: str = "") -> None:
    """Book that an instruction is to be carried out by another transaction, and why the last one did not."""
    changed = dataclasses.replace(
        instruction,
        state=InstructionState.INSTRUCTION_STATE_OPEN,
        failure=failure,
        failure_text=failure_text,
        attempt_count=instruction.attempt_count + 1,
    )
    state.put(state.instructions, instruction.key, changed)


def refuse(state: State, instruction: Instruction, failure: int, failure_text: str) -> None:
    """Book that the chain will not do it, while its units wait in transit."""
    changed = dataclasses.replace(instruction, state=InstructionState.INSTRUCTION_STATE_REFUSED, failure=failure, failure_text=failure_text)
    state.put(state.instructions, instruction.key, changed)
