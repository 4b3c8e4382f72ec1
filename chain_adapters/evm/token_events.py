"""A token's logs, as what happened on the chain: the facts that the ledger's reader needs, in the chain's order.

Every movement of units is one `Transfer`; mints come from the zero address and burns go to it, whoever caused them. So a
holding is the sum of its movements and nothing else. An instruction of ours announces itself before its effects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from eth_utils.abi import function_signature_to_4byte_selector

from chain_adapters.evm.codec import decode_event
from chain_adapters.evm.token_calls import TOKEN, Pause

ZERO_ADDRESS = "0x" + "0" * 40
_MOVING = {
    bytes(function_signature_to_4byte_selector(signature))
    for signature in (
        "mint(bytes32,address,uint256)",
        "burn(bytes32,address,uint256)",
        "forcedTransfer(bytes32,address,address,uint256,bytes)",
        "forcedBurn(bytes32,address,uint256,bytes)",
    )
}


@dataclass(frozen=True, slots=True)
class Moved:
    """Units went from one account to another; `source` is empty for a mint, `destination` for a burn."""

    source: str
    destination: str
    units: int


@dataclass(frozen=True, slots=True)
class InstructionDone:
    """An instruction of the ledger was carried out; what follows, up to the next one in the transaction, is its effect."""

    instruction: bytes
    role: bytes
    operation: bytes
    reason: bytes


@dataclass(frozen=True, slots=True)
class InstructionDead:
    """An instruction of the ledger was cancelled and can never land."""

    instruction: bytes
    role: bytes


@dataclass(frozen=True, slots=True)
class MultiplierSet:
    """A multiplier was set, at scale 1e18, from a time on."""

    old: int
    new: int
    effective_time_seconds: int


@dataclass(frozen=True, slots=True)
class FreezeSet:
    """From now on the whole account is frozen, or not, and beside that so many units, which may be more than it has."""

    account: str
    whole: bool
    units: int


@dataclass(frozen=True, slots=True)
class PausesSet:
    """This is paused from now on, and nothing else."""

    paused: Pause


@dataclass(frozen=True, slots=True)
class AllotmentSet:
    """So many units may exist on this chain from now on."""

    units: int


@dataclass(frozen=True, slots=True)
class RoleSet:
    """An account got or lost a role."""

    role: bytes
    account: str
    granted: bool


@dataclass(frozen=True, slots=True)
class Reasoned:
    """The reason for the enforcement in ERC-7943's own form that follows in the transaction."""

    reason: bytes


Fact = Moved | InstructionDone | InstructionDead | MultiplierSet | FreezeSet | PausesSet | AllotmentSet | RoleSet | Reasoned


def read_fact(topics: Sequence[bytes], data: bytes) -> Fact | None:
    """Read one log entry of a token; None for one that the books do not need.

    Such are approvals and permits, the terms of the token, and Frozen, ForcedTransfer and Paused, which say what other facts do too.

    Raises: NotDecodable if it is not what its topic says.
    """
    event = decode_event(TOKEN, topics, data)
    reader = _READERS.get(event.name) if event else None
    return reader(event.fields) if event and reader else None


def effects_by_instruction(facts: Iterable[Fact]) -> list[tuple[InstructionDone | None, list[Fact]]]:
    """Group the facts of one transaction by the instruction they are the effect of; None for what was not ours.

    An instruction moves units once or, by its operation, not at all: a further movement in the transaction is not its effect, and
    ends its group, as an ERC-7943 call with its reason does.
    """
    groups: list[tuple[InstructionDone | None, list[Fact]]] = []
    may_move = False
    for fact in facts:
        if isinstance(fact, InstructionDone):
            groups.append((fact, []))
            may_move = fact.operation in _MOVING
        elif not groups or isinstance(fact, Reasoned) or (isinstance(fact, Moved) and groups[-1][0] is not None and not may_move):
            groups.append((None, [fact]))
        else:
            groups[-1][1].append(fact)
            may_move = may_move and not isinstance(fact, Moved)
    return groups


def _account(address: str) -> str:
    return "" if address == ZERO_ADDRESS else address


_READERS: dict[str, Callable[[dict[str, Any]], Fact]] = {
    "Transfer": lambda f: Moved(_account(f["from"]), _account(f["to"]), f["value"]),
    "InstructionExecuted": lambda f: InstructionDone(f["instruction"], f["role"], f["operation"], f["reason"]),
    "InstructionCancelled": lambda f: InstructionDead(f["instruction"], f["role"]),
    "UIMultiplierUpdated": lambda f: MultiplierSet(f["oldMultiplier"], f["newMultiplier"], f["effectiveAtTimestamp"]),
    "FreezeSet": lambda f: FreezeSet(f["account"], f["whole"], f["units"]),
    "PausesSet": lambda f: PausesSet(Pause(f["paused"])),
    "AllotmentSet": lambda f: AllotmentSet(f["units"]),
    "RoleGranted": lambda f: RoleSet(f["role"], f["account"], granted=True),
    "RoleRevoked": lambda f: RoleSet(f["role"], f["account"], granted=False),
    "ReasonGiven": lambda f: Reasoned(f["reason"]),
}
