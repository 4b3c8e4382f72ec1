"""How many compute units instructions may use: bounds for the limit that a transaction asks for, about three times what was measured.

The measured figures stand in tests/data/solana_compute_units.csv and are compared with a real node. A bound that is too low fails the
transaction; one too high costs its share of the priority fee: 1000 units at 1000 microlamports are one lamport.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from solders.instruction import Instruction

from chain_adapters.spl import token_2022
from chain_adapters.spl.addresses import (
    ASSOCIATED_TOKEN_PROGRAM,
    COMPUTE_BUDGET_PROGRAM,
    MEMO_PROGRAM,
    SYSTEM_PROGRAM,
    TOKEN_2022_PROGRAM,
    associated_account_and_bump,
)
from chain_adapters.spl.token_2022 import Code

UNKNOWN: Final = 200_000
"""What the chain itself allows an instruction whose transaction names no limit."""
_BUILT_IN: Final = 150
"""Measured and exact: compute budget and system instructions."""
_TOKEN: Final[dict[int, int]] = {
    Code.MINT_TO_CHECKED: 8_000,
    Code.BURN_CHECKED: 9_000,
    Code.TRANSFER_CHECKED: 12_000,
    Code.FREEZE_ACCOUNT: 4_000,
    Code.THAW_ACCOUNT: 4_000,
    Code.PAUSABLE: 5_000,
    Code.SCALED_UI_AMOUNT: 5_000,
    Code.DEFAULT_ACCOUNT_STATE: 4_000,
    Code.SET_AUTHORITY: 5_000,
    Code.TRANSFER_HOOK: 5_000,
    Code.METADATA_POINTER: 3_000,
    Code.INITIALIZE_PERMANENT_DELEGATE: 3_000,
    Code.CONFIDENTIAL_TRANSFER: 4_000,
    Code.INITIALIZE_MINT_2: 9_000,
    Code.CLOSE_ACCOUNT: 6_000,
}
_METADATA: Final = {
    token_2022.METADATA_INITIALIZE: 20_000,
    token_2022.METADATA_UPDATE_FIELD: 30_000,
    token_2022.METADATA_REMOVE_KEY: 30_000,
    token_2022.METADATA_UPDATE_AUTHORITY: 20_000,
}
_ASSOCIATED_ACCOUNT: Final = 45_000
_ASSOCIATED_ACCOUNT_TRY: Final = 1_500
"""Measured and exact: each address that the search for an associated account tries in vain."""
_MEMO: Final = 6_000
_MEMO_BYTE: Final = 400
"""The memo program of 2020 uses up to 353 for each byte; its successor, which the local node runs, 287 for a whole short memo."""


def bound(instructions: Iterable[Instruction]) -> int:
    """Return the compute units that instructions may use at most. Example: minting to an account that is there may use 8,000."""
    return sum(_bound(instruction) for instruction in instructions)


def _bound(instruction: Instruction) -> int:
    program, data = instruction.program_id, bytes(instruction.data)
    if program == TOKEN_2022_PROGRAM:
        return _METADATA.get(data[:8]) or _TOKEN.get(data[0], UNKNOWN)
    if program == ASSOCIATED_TOKEN_PROGRAM:
        owner, mint = instruction.accounts[2].pubkey, instruction.accounts[3].pubkey
        _, bump = associated_account_and_bump(owner, mint)
        return _ASSOCIATED_ACCOUNT + _ASSOCIATED_ACCOUNT_TRY * (255 - bump)
    if program == MEMO_PROGRAM:
        return _MEMO + _MEMO_BYTE * len(data)
    return _BUILT_IN if program in (SYSTEM_PROGRAM, COMPUTE_BUDGET_PROGRAM) else UNKNOWN
