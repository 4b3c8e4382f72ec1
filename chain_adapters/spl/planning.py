"""Pack what is to be done into as few transactions as hold it, each a message to be recorded before anybody signs it.

A step is done whole or not at all, and carries the ledger's instruction id in a memo of its own just before it, so that everybody can tell
which part of a transaction is which instruction. Steps keep their order; a transaction takes as many as fit its size, its compute units
and its signers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from solders.hash import Hash
from solders.instruction import Instruction
from solders.message import Message
from solders.pubkey import Pubkey

from chain_adapters.spl import compute, programs
from chain_adapters.spl.errors import TransactionTooLarge

TRANSACTION_BYTES_MAX: Final = 1232
"""IPv6's smallest packet of 1280 bytes less its headers."""
PART: Final = "/part"
"""Ends the name of a step that does only a part of an instruction, which is done with another."""

_SIGNATURE_BYTES: Final = 64
MEMO_PREFIX: Final = "stockledger:"
LEGAL_REFERENCE_BYTES_MAX: Final = 140
"""All of it in ASCII; elsewhere what its 140 characters begin with."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one instruction of the ledger comes to on chain."""

    instruction_id: str
    instructions: tuple[Instruction, ...]
    legal_reference: str = ""
    """The ground of enforcement, told in the memo."""
    attempt: int = 0
    """How many transactions with it have failed or died; each makes the bytes of the next one others."""


@dataclass(frozen=True, slots=True)
class DurableNonce:
    """A nonce account and the value it had when read at `slot`."""

    account: Pubkey
    authority: Pubkey
    value: Hash
    slot: int


@dataclass(frozen=True, slots=True)
class PlannedTransaction:
    """An unsigned transaction, to be recorded before it is signed: the record tells for ever which of the chain's transactions is ours."""

    message: bytes
    nonce: DurableNonce
    instruction_ids: tuple[str, ...]
    compute_units: int
    microlamports: int

    @property
    def fee_lamports_max(self) -> int:
        return fee_lamports_max(self.message, self.compute_units, self.microlamports)


def fee_lamports_max(message: bytes, compute_units: int, microlamports: int) -> int:
    """Return what a transaction costs: 5000 lamports a signature, and the priority fee on the limit, rounded up."""
    signatures: int = Message.from_bytes(message).header.num_required_signatures
    return signatures * 5000 + -(-compute_units * microlamports // 1_000_000)


def memo_text(step: Step) -> str:
    """Return what the memo of a step says, of its legal ground no more than a transaction has room for.

    Example: "stockledger:acme/12-0 court order 12/2026".
    """
    ground = step.legal_reference.encode()[:LEGAL_REFERENCE_BYTES_MAX].decode(errors="ignore")
    return f"{MEMO_PREFIX}{step.instruction_id} {ground}".rstrip()


def plan(steps: Sequence[Step], payer: Pubkey, nonces: Sequence[DurableNonce], microlamports: int) -> list[PlannedTransaction]:
    """Pack steps, in order, into transactions, each on a durable nonce of its own.

    Args:
        steps: What is to be done; a prefix of it is planned if the nonces run out first.
        payer: Pays the fees.
        nonces: Nonce accounts that no open transaction uses.
        microlamports: The priority fee offered for each compute unit.

    Raises: TransactionTooLarge if one step alone does not fit.
    """
    planned: list[PlannedTransaction] = []
    start = 0
    for nonce in nonces:
        if start == len(steps):
            break
        fitting = _longest_fitting(steps[start:], payer, nonce, microlamports)
        planned.append(fitting)
        start += len(fitting.instruction_ids)
    return planned


def _longest_fitting(steps: Sequence[Step], payer: Pubkey, nonce: DurableNonce, microlamports: int) -> PlannedTransaction:
    best: PlannedTransaction | None = None
    for count in range(1, len(steps) + 1):
        candidate = _transaction(steps[:count], payer, nonce, microlamports)
        if candidate is None:
            break
        best = candidate
    if best is None:
        step = steps[0]
        raise TransactionTooLarge(
            f"instruction {step.instruction_id} does not fit one transaction of at most {TRANSACTION_BYTES_MAX} bytes and "
            f"{programs.COMPUTE_UNITS_MAX} compute units; it may use {compute.bound(step.instructions)} of these"
        )
    return best


def _transaction(steps: Sequence[Step], payer: Pubkey, nonce: DurableNonce, microlamports: int) -> PlannedTransaction | None:
    """Return the transaction of exactly these steps, or None if it would be too large."""
    advance = programs.advance_nonce(nonce.account, nonce.authority)  # must be the first for the chain to see a durable transaction
    price = programs.set_compute_unit_price(microlamports)
    done = [part for step in steps for part in (programs.memo(memo_text(step)), *step.instructions)]
    # The limit, not made yet, uses what the price does. A unit more for each attempt before, so that where a nonce holds although its
    # transaction failed, as on the node of the tests, the next attempt is another transaction and can land.
    compute_units = compute.bound([advance, price, price, *done]) + sum(step.attempt for step in steps)
    if compute_units > programs.COMPUTE_UNITS_MAX:
        return None
    instructions = [advance, programs.set_compute_unit_limit(compute_units), price, *done]
    message = Message.new_with_blockhash(instructions, payer, nonce.value)
    encoded = bytes(message)
    if _transaction_bytes(message, encoded) > TRANSACTION_BYTES_MAX:
        return None
    return PlannedTransaction(encoded, nonce, tuple(step.instruction_id for step in steps), compute_units, microlamports)


def _transaction_bytes(message: Message, encoded: bytes) -> int:
    return 1 + _SIGNATURE_BYTES * message.header.num_required_signatures + len(encoded)
