"""What a compute unit is paid: found in recent slots, written into a message, read from it, and raised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from solders.instruction import CompiledInstruction
from solders.message import Message
from solders.pubkey import Pubkey

from chain_adapters.spl import programs
from chain_adapters.spl.addresses import COMPUTE_BUDGET_PROGRAM
from chain_adapters.spl.rpc import RpcClient

_SET_LIMIT: Final = 2
_SET_PRICE: Final = 3


@dataclass(frozen=True, slots=True)
class PriceRange:
    """The least and the most that is ever offered, in microlamports for a compute unit."""

    lowest: int
    highest: int

    def offer(self, client: RpcClient, writable: Sequence[Pubkey]) -> int:
        """Return the priority fee to offer: the upper quarter of what recent slots took, within the range."""
        recent = sorted(client.recent_priority_fees(writable))
        usual = recent[len(recent) * 3 // 4] if recent else 0
        return min(max(usual, self.lowest), self.highest)


def price_of(message: Message) -> int:
    """Return the microlamports that a message offers for a compute unit."""
    return int.from_bytes(_budget(message, _SET_PRICE)[1][1:], "little")


def limit_of(message: Message) -> int:
    """Return the compute units that a message asks for."""
    return int.from_bytes(_budget(message, _SET_LIMIT)[1][1:], "little")


def with_price(message: Message, microlamports: int) -> bytes:
    """Return the same message with another priority fee."""
    place, _ = _budget(message, _SET_PRICE)
    old = message.instructions[place]
    data = bytes(programs.set_compute_unit_price(microlamports).data)
    instructions = [*message.instructions]
    instructions[place] = CompiledInstruction(old.program_id_index, data, bytes(old.accounts))
    header = message.header
    return bytes(
        Message.new_with_compiled_instructions(
            header.num_required_signatures,
            header.num_readonly_signed_accounts,
            header.num_readonly_unsigned_accounts,
            message.account_keys,
            message.recent_blockhash,
            instructions,
        )
    )


def _budget(message: Message, code: int) -> tuple[int, bytes]:
    for place, instruction in enumerate(message.instructions):
        if message.account_keys[instruction.program_id_index] == COMPUTE_BUDGET_PROGRAM and bytes(instruction.data)[:1] == bytes([code]):
            return place, bytes(instruction.data)
    raise AssertionError("every transaction of ours names its compute units and their price")
