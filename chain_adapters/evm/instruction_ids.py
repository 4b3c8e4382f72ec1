"""The ledger's instruction ids as the 32 bytes that a contract takes once.

    16 bytes   the first of keccak(ledger's id): instructions of two ledgers never meet
     8 bytes   position among the instructions of its event
     8 bytes   index of the event's entry

The index stands last, so that instructions which follow each other in the log share a word of the contract's bitmap: taking one then
costs 5,000 gas instead of 22,100.
"""

from __future__ import annotations

import functools
import re

from eth_utils.crypto import keccak

ID_BYTES = 32
LEDGER_BYTES = 16
NUMBER_BYTES = 8
_INSTRUCTION = re.compile(r"(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})")


def instruction_id(ledger: str, instruction: str) -> bytes:
    """Write an instruction's id, "<index>-<position>", for a contract.

    Example: `instruction_id("acme", "4711-0")[-8:] == (4711).to_bytes(8)`.
    """
    found = _INSTRUCTION.fullmatch(instruction)
    assert found is not None, f"{instruction!r} is not <index>-<position>"
    index, position = int(found[1]), int(found[2])
    return _ledger_part(ledger) + position.to_bytes(NUMBER_BYTES) + index.to_bytes(NUMBER_BYTES)


def read_instruction_id(ledger: str, written: bytes) -> str:
    """Read an id back; empty if it is none of this ledger's."""
    if len(written) != ID_BYTES or written[:LEDGER_BYTES] != _ledger_part(ledger):
        return ""
    position = int.from_bytes(written[LEDGER_BYTES : LEDGER_BYTES + NUMBER_BYTES])
    return f"{int.from_bytes(written[-NUMBER_BYTES:])}-{position}"


@functools.lru_cache(maxsize=64)
def _ledger_part(ledger: str) -> bytes:
    return bytes(keccak(text=ledger)[:LEDGER_BYTES])
