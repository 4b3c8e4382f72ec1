"""The ledger's operations on a token, as calls: what to send to the token's address, and under which role.

Units are raw units of the token, multipliers integers at scale 1e18, times seconds since 1970. `instruction` is the id of the
ledger's instruction, 32 bytes and not zero: the token takes it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntFlag
from typing import NamedTuple

from chain_adapters.evm import roles
from chain_adapters.evm.codec import encode_call

TOKEN = "StockToken"  # noqa: S105 - a contract's name
WHOLE_ACCOUNT = 2**256 - 1
"""What `getFrozenTokens` tells of an account that is wholly frozen."""


class Pause(IntFlag):
    """What can be paused, each for itself."""

    TRANSFERS = 1
    MINTS = 2
    BURNS = 4


class Line(NamedTuple):
    """One mint or burn of several."""

    instruction: bytes
    account: str
    units: int


class Call(NamedTuple):
    """What to send to the token, and the role whose key must sign it."""

    role: bytes
    data: bytes


def mint(lines: Sequence[Line]) -> Call:
    """Mint for one account or for several at once, all or none."""
    return Call(roles.MINTER, _lines("mint", lines))


def burn(lines: Sequence[Line]) -> Call:
    """Burn units of the burner or of accounts that approved it, all or none."""
    return Call(roles.BURNER, _lines("burn", lines))


def forced_transfer(instruction: bytes, source: str, destination: str, units: int, reason: bytes) -> Call:
    """Take units from an account, past freezes and the pause of transfers, and give them to another."""
    return _call(roles.ENFORCER, "forcedTransfer(bytes32,address,address,uint256,bytes)", instruction, source, destination, units, reason)


def forced_burn(instruction: bytes, source: str, units: int, reason: bytes) -> Call:
    """Burn units of an account that has approved nothing."""
    return _call(roles.FORCED_BURNER, "forcedBurn(bytes32,address,uint256,bytes)", instruction, source, units, reason)


def freeze_account(instruction: bytes, account: str, frozen: bool, reason: bytes) -> Call:
    """Freeze an account, whatever it has and will have, or end that."""
    return _call(roles.ENFORCER, "freezeAccount(bytes32,address,bool,bytes)", instruction, account, frozen, reason)


def freeze_units(instruction: bytes, account: str, units: int, reason: bytes) -> Call:
    """Set how many units of an account are frozen beside that, 0 for none."""
    return _call(roles.ENFORCER, "freezeUnits(bytes32,address,uint256,bytes)", instruction, account, units, reason)


def set_pauses(instruction: bytes, operations: Pause, reason: bytes) -> Call:
    """Set what is paused, and nothing else. To end a pause the key needs the role of `roles.UNPAUSER`, too or instead."""
    return _call(roles.PAUSER, "setPauses(bytes32,uint8,bytes)", instruction, int(operations), reason)


def schedule_multiplier(instruction: bytes, expected: int, multiplier: int, time_seconds: int, reason: bytes) -> Call:
    """Set the multiplier from a time on; a time that has passed means the block's.

    `expected` is the multiplier set last, in force or to come.
    """
    signature = "scheduleMultiplier(bytes32,uint256,uint256,uint64,bytes)"
    return _call(roles.MULTIPLIER, signature, instruction, expected, multiplier, time_seconds, reason)


def set_allotment(instruction: bytes, units: int) -> Call:
    """Set the most units that may exist on this chain."""
    return _call(roles.ALLOTTER, "setAllotment(bytes32,uint256)", instruction, units)


def cancel(role: bytes, instructions: Sequence[bytes]) -> Call:
    """Make instructions impossible under a role that have not been carried out; if one has, none is cancelled."""
    return _call(role, "cancelInstructions(bytes32,bytes32[])", role, list(instructions))


def _lines(verb: str, lines: Sequence[Line]) -> bytes:
    assert lines, f"nothing to {verb}"
    if len(lines) == 1:
        return encode_call(TOKEN, f"{verb}(bytes32,address,uint256)", *lines[0])
    return encode_call(TOKEN, f"{verb}Batch((bytes32,address,uint256)[])", list(lines))


def _call(role: bytes, signature: str, *arguments: object) -> Call:
    return Call(role, encode_call(TOKEN, signature, *arguments))
