"""Transactions of ours: recorded before they are signed, and buried once they can never land. One sequence, one intent.

command                  event
RecordTransactions       TransactionsRecorded, in parts of 60,000 bytes
RecordDeadTransactions   TransactionsDied

What landed is booked by the reader alone (observations.py).
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any, Final

from ledger import records
from ledger.caip import check_chain
from ledger.errors import refusal
from ledger.rules.addresses import check_address
from ledger.rules.chains.endings import SEND, instruction_key, reopen
from ledger.rules.chains.instructions import OPEN, RECORDED, blocked_by, find_instruction
from ledger.rules.chains.places import check_place_open
from ledger.rules.chains.registration import check_position, find_chain
from ledger.rules.chains.sequences import check_sequence, sequence_text
from ledger.rules.checks import check_enum, check_length
from ledger.rules.context import entry_index
from stockledger.v1.chains_pb2 import (
    ChainKeyRole,
    DeadTransaction,
    DeathProof,
    RecordDeadTransactionsRequest,
    RecordDeadTransactionsResponse,
    RecordTransactionsRequest,
    RecordTransactionsResponse,
    Transaction,
    TransactionsDied,
    TransactionsRecorded,
)
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.records import Chain, Instruction, OpenTransaction
    from ledger.rules.context import Context, Decided
    from ledger.state import State

TRANSACTIONS_MAX: Final = 1_000
INSTRUCTIONS_PER_TRANSACTION_MAX: Final = 256
COSIGNERS_MAX: Final = 8
PAYLOAD_BYTES_MAX: Final = 32_768
PART_BYTES_MAX: Final = 60_000
"""A transaction has at most 43,600 bytes: its payload, 256 ids of at most 30, 8 cosigners and a key of at most 173, and its sequence."""
DEAD_MAX: Final = 64
"""At most 800 bytes each: 51,200 of a leaf's 65,535 bytes."""
FOUND_LENGTH_MAX: Final = 128

_FEE: Final = re.compile(r"|0|[1-9][0-9]{0,77}")
_KIND_OF_PROOF: Final = {
    DeathProof.DEATH_PROOF_NUMBER_CONSUMED: "number",
    DeathProof.DEATH_PROOF_VALUE_ADVANCED: "one_time_value",
    DeathProof.DEATH_PROOF_REFERENCE_EXPIRED: "expiring_reference",
}


def _malformed(field: str, why: str, value: object = "") -> Exception:
    return refusal(Reason.REASON_FIELD_MALFORMED, f"{field} {why}", field=field, value=value)


def _check_count(field: str, count: int, limit: int) -> None:
    if count > limit:
        message = f"{field} has {count} items, at most {limit} may be"
        raise refusal(Reason.REASON_TOO_MANY_ITEMS, message, field=field, count=count, limit=limit)


def _check_some(field: str, count: int, limit: int) -> None:
    if not count:
        raise refusal(Reason.REASON_FIELD_MISSING, f"{field} is empty", field=field)
    _check_count(field, count, limit)


# ---- recorded --------------------------------------------------------------------------------------------------------------------------


def _check_form(transaction: Transaction, chain: str) -> None:
    check_address("key", transaction.key, chain)
    check_sequence("sequence", transaction.sequence)
    if not transaction.payload:
        raise refusal(Reason.REASON_FIELD_MISSING, "payload is empty", field="payload")
    if len(transaction.payload) > PAYLOAD_BYTES_MAX:
        raise _malformed("payload", f"has {len(transaction.payload)} bytes, at most {PAYLOAD_BYTES_MAX} may be", len(transaction.payload))
    _check_count("instructions", len(transaction.instructions), INSTRUCTIONS_PER_TRANSACTION_MAX)
    for instruction in transaction.instructions:
        if instruction_key(instruction) is None:
            raise _malformed("instructions", f"has {instruction!r}, which is not <index>-<position>", instruction)
    if not _FEE.fullmatch(transaction.fee_max):
        raise _malformed("fee_max", f"{transaction.fee_max!r} is not a decimal of at most 78 digits", transaction.fee_max)
    _check_count("cosigners", len(transaction.cosigners), COSIGNERS_MAX)
    for cosigner in transaction.cosigners:
        check_address("cosigners", cosigner, chain)
    signers = (transaction.key, *transaction.cosigners)
    if len(set(signers)) < len(signers):
        raise _malformed("cosigners", "names a signer twice", list(transaction.cosigners))


def decide_record(state: State, command: RecordTransactionsRequest, context: Context) -> list[TransactionsRecorded]:
    check_chain("chain", command.chain)
    _check_some("transactions", len(command.transactions), TRANSACTIONS_MAX)
    for transaction in command.transactions:
        _check_form(transaction, command.chain)
    chain = find_chain(state, command.chain)
    carried = [[_find_carried(state, chain, text) for text in transaction.instructions] for transaction in command.transactions]
    for transaction, instructions in zip(command.transactions, carried, strict=True):
        _check_keys(state, transaction, instructions)
    _check_sequences(state, command.transactions)
    _check_each_once(state, command.transactions, carried)
    for instructions in carried:
        for instruction in instructions:
            _check_unblocked(state, instruction)
    return [TransactionsRecorded(chain=chain.chain, transactions=part) for part in _parts(command.transactions)]


def _find_carried(state: State, chain: Chain, text: str) -> Instruction:
    instruction = find_instruction(state, text)
    if instruction.chain != chain.chain:
        message = f"instruction {text} is for {instruction.chain}, not for {chain.chain}"
        raise refusal(Reason.REASON_INSTRUCTION_NOT_FOUND, message, instruction=text)
    return instruction


def _check_keys(state: State, transaction: Transaction, instructions: Sequence[Instruction]) -> None:
    """Refuse keys that are not registered or may not sign for this. A retired one signs what does nothing but use up a sequence."""
    keys = []
    for name in (transaction.key, *transaction.cosigners):
        key = state.chain_keys.get(name)
        if key is None or (key.retired and instructions):
            message = f"{name} is {'no registered key' if key is None else 'a retired key'}"
            raise refusal(Reason.REASON_KEY_UNFIT, message, key=name, needed="a registered key")
        keys.append(key)
    for instruction in instructions:
        if not any(_may_sign(key, instruction) for key in keys):
            needed = ChainKeyRole.Name(ChainKeyRole.ValueType(instruction.role))
            message = f"{transaction.key} and its cosigners may not sign for instruction {instruction.text}: {needed} is needed"
            raise refusal(Reason.REASON_KEY_UNFIT, message, key=transaction.key, needed=needed, instruction=instruction.text)


def _may_sign(key: records.ChainKey, instruction: Instruction) -> bool:
    of_instrument = not key.instruments or instruction.instrument in key.instruments
    of_wallet = instruction.kind != SEND or key.key == instruction.source
    return instruction.role in key.roles and of_instrument and of_wallet


def _check_sequences(state: State, transactions: Sequence[Transaction]) -> None:
    """Refuse the first version of a transaction whose sequence another has, or that is used up."""
    given: set[tuple[str, str]] = set()
    for transaction in transactions:
        sequence = (transaction.key, sequence_text(transaction.sequence))
        consumed = (
            transaction.sequence.WhichOneof("kind") == "number"
            and transaction.sequence.number < state.chain_keys[transaction.key].consumed_count
        )
        if sequence in given or (not transaction.replacement and (consumed or sequence in state.open_transactions)):
            why = "is used up" if consumed else "belongs to another transaction"
            message = f"sequence {sequence[1]} of {transaction.key} {why}"
            raise refusal(Reason.REASON_SEQUENCE_TAKEN, message, key=transaction.key, sequence=sequence[1])
        given.add(sequence)


def _check_each_once(state: State, transactions: Sequence[Transaction], carried: Sequence[Sequence[Instruction]]) -> None:
    """Refuse an instruction in two transactions, and a replacement that is none."""
    seen: set[tuple[int, int]] = set()
    for transaction, instructions in zip(transactions, carried, strict=True):
        if transaction.replacement:
            _check_replacement(state, transaction, instructions)
        for instruction in instructions:
            fits = RECORDED if transaction.replacement else OPEN
            if instruction.state != fits or instruction.key in seen:
                message = f"instruction {instruction.text} is carried by another transaction, or refused"
                raise refusal(Reason.REASON_STATE_UNFIT, message, instruction=instruction.text)
            seen.add(instruction.key)


def _check_replacement(state: State, transaction: Transaction, instructions: Sequence[Instruction]) -> None:
    sequence = sequence_text(transaction.sequence)
    first = state.open_transactions.get((transaction.key, sequence))
    if first is None:
        message = f"sequence {sequence} of {transaction.key} has no transaction that may land, so nothing can be replaced"
        raise refusal(Reason.REASON_STATE_UNFIT, message, key=transaction.key, sequence=sequence)
    if instructions and tuple(instruction.key for instruction in instructions) != first.instructions:
        message = (
            f"a replacement carries the instructions of the first version, or none; sequence {sequence} of {transaction.key} has others"
        )
        raise refusal(Reason.REASON_STATE_UNFIT, message, key=transaction.key, sequence=sequence)


def _check_unblocked(state: State, instruction: Instruction) -> None:
    why = blocked_by(state, instruction)
    if why == "PLACE_HALTED":
        check_place_open(state, instruction.chain, instruction.instrument)
    if why:
        message = f"instruction {instruction.text} is blocked: {why}"
        raise refusal(Reason.REASON_INSTRUCTION_BLOCKED, message, instruction=instruction.text, blocked_by=why)


def _parts(transactions: Sequence[Transaction]) -> list[list[Transaction]]:
    """Split transactions, in their order, into as few parts as fit a leaf each."""
    parts: list[list[Transaction]] = [[]]
    room = PART_BYTES_MAX
    for transaction in transactions:
        size = transaction.ByteSize() + 4
        if room < size:
            parts.append([])
            room = PART_BYTES_MAX
        parts[-1].append(transaction)
        room -= size
    return parts


def evolve_recorded(state: State, event: TransactionsRecorded, decided: Decided) -> None:
    index, now_us = entry_index(state, decided), decided.decision_time_us
    for position, transaction in enumerate(event.transactions):
        sequence = sequence_text(transaction.sequence)
        version = transaction.SerializeToString(deterministic=True)
        first = state.open_transactions.get((transaction.key, sequence))
        if first is not None:
            newer = dataclasses.replace(first, versions=(*first.versions, version), last_time_us=now_us)
            state.put(state.open_transactions, (transaction.key, sequence), newer)
            continue
        keys = [find_instruction(state, text).key for text in transaction.instructions]
        opened = records.OpenTransaction(
            chain=event.chain,
            key=transaction.key,
            sequence=sequence,
            versions=(version,),
            instructions=tuple(keys),
            index=index,
            position=position,
            first_time_us=now_us,
            last_time_us=now_us,
            cursor_number=state.chains[event.chain].cursor.number,
        )
        state.put(state.open_transactions, (transaction.key, sequence), opened)
        for key in keys:
            state.put(state.instructions, key, dataclasses.replace(state.instructions[key], state=RECORDED))


def answer_recorded(events: Sequence[Any]) -> dict[str, Any]:
    return {"transaction_count": sum(len(event.transactions) for event in events if isinstance(event, TransactionsRecorded))}


# ---- dead ------------------------------------------------------------------------------------------------------------------------------


def _check_dead_form(dead: DeadTransaction, chain: str) -> None:
    check_address("key", dead.key, chain)
    check_sequence("sequence", dead.sequence)
    check_enum("proof", dead.proof, DeathProof)
    check_position("position", dead.position if dead.HasField("position") else None)
    check_length("found", dead.found, FOUND_LENGTH_MAX)
    if dead.searched_from_number < 0:
        raise _malformed(
            "searched_from_number", f"is {dead.searched_from_number}, blocks and slots count from 0", dead.searched_from_number
        )


def decide_dead(state: State, command: RecordDeadTransactionsRequest, context: Context) -> list[TransactionsDied]:
    check_chain("chain", command.chain)
    _check_some("transactions", len(command.transactions), DEAD_MAX)
    for dead in command.transactions:
        _check_dead_form(dead, command.chain)
    named = [(dead.key, sequence_text(dead.sequence)) for dead in command.transactions]
    if len(set(named)) < len(named):
        raise _malformed("transactions", "names one twice")
    chain = find_chain(state, command.chain)
    found = []
    for key, sequence in named:
        opened = state.open_transactions.get((key, sequence))
        if opened is None:
            message = f"{key} has no transaction with sequence {sequence} that may land"
            raise refusal(Reason.REASON_INSTRUCTION_NOT_FOUND, message, key=key, sequence=sequence)
        found.append(opened)
    for dead, opened in zip(command.transactions, found, strict=True):
        _check_proof(chain, dead, opened)
    return [TransactionsDied(chain=chain.chain, transactions=command.transactions)]


def _check_proof(chain: Chain, dead: DeadTransaction, opened: OpenTransaction) -> None:
    """Refuse a proof that does not show that the transaction can never land, or that the reader might yet contradict.

    What was read beyond the cursor proves nothing yet: the reader has not seen what landed up to there.
    """
    why = ""
    kind = dead.sequence.WhichOneof("kind")
    if dead.position.number > chain.cursor.number:
        why = f"it was read at {dead.position.number}, beyond the cursor at {chain.cursor.number}"
    elif _KIND_OF_PROOF[dead.proof] != kind:
        why = f"{DeathProof.Name(dead.proof)} is no proof of a sequence by {kind}"
    elif kind == "expiring_reference":
        if dead.position.number <= dead.sequence.expiring_reference.last_number:
            why = f"its reference counts up to {dead.sequence.expiring_reference.last_number}, it was read at {dead.position.number}"
        elif dead.searched_from_number > opened.cursor_number:
            why = f"the history was searched from {dead.searched_from_number} on, and it may have landed after {opened.cursor_number}"
    elif not dead.found:
        why = "what used up its sequence is not told"
    if why:
        message = f"it is not shown that sequence {opened.sequence} of {dead.key} can never land: {why}"
        raise refusal(
            Reason.REASON_PROOF_INSUFFICIENT,
            message,
            key=dead.key,
            sequence=opened.sequence,
            position=dead.position.number,
            cursor=chain.cursor.number,
        )


def evolve_died(state: State, event: TransactionsDied, decided: Decided) -> None:
    for dead in event.transactions:
        opened = state.remove(state.open_transactions, (dead.key, sequence_text(dead.sequence)))
        for key in opened.instructions:
            reopen(state, state.instructions[key])
        if dead.proof == DeathProof.DEATH_PROOF_NUMBER_CONSUMED:
            consume_number(state, dead.key, dead.sequence.number)


def consume_number(state: State, name: str, number: int) -> None:
    """Book that a number of a key, and so each before it, is finally consumed."""
    key = state.chain_keys[name]
    if number >= key.consumed_count:
        state.put(state.chain_keys, name, dataclasses.replace(key, consumed_count=number + 1))


COMMANDS: dict[type[Any], tuple[Any, type[Any]]] = {
    RecordTransactionsRequest: (decide_record, RecordTransactionsResponse),
    RecordDeadTransactionsRequest: (decide_dead, RecordDeadTransactionsResponse),
}
EVENTS: dict[type[Any], Any] = {
    TransactionsRecorded: evolve_recorded,
    TransactionsDied: evolve_died,
}
ANSWERS = {RecordTransactionsResponse: answer_recorded}
