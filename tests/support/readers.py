"""A reader as tests play it: what a chain finalised, range after range, and transactions of ours recorded and landed."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from on_chains import CURSOR, A
from scenario import Scenario

from ledger.records import Instruction
from stockledger.v1.chains_pb2 import (
    ChainPosition,
    InstructionKind,
    LandedTransaction,
    Observation,
    ObservationKind,
    ObservedRange,
    RecordObservationsRequest,
    RecordTransactionsRequest,
    Sequence,
    Transaction,
)

TRANSFER, MINT, BURN = (
    ObservationKind.OBSERVATION_KIND_TRANSFER,
    ObservationKind.OBSERVATION_KIND_MINT,
    ObservationKind.OBSERVATION_KIND_BURN,
)
SEND = InstructionKind.INSTRUCTION_KIND_SEND
"""Signed by the wallet that it leaves."""
SHOWN_BY = {
    InstructionKind.INSTRUCTION_KIND_MINT: MINT,
    InstructionKind.INSTRUCTION_KIND_BURN: BURN,
    InstructionKind.INSTRUCTION_KIND_FORCE_TRANSFER: TRANSFER,
    SEND: TRANSFER,
}


def at(number: int) -> ChainPosition:
    """Return a block: one hash and time for each number."""
    if number == CURSOR.number:
        return ChainPosition(number=number, hash=CURSOR.hash, time=CURSOR.time)
    return ChainPosition(number=number, hash=f"0x{number}", time=Timestamp(seconds=number))


def seen(kind: int, raw: int | str = "", source: str = "", destination: str = "", *, instrument: str = "AAPLx", **more: Any) -> Observation:
    """Return something that others did; its place in the range is given by the reader."""
    more = {"token": f"{A}/token:{instrument}", "transaction": "0xothers"} | more
    return Observation(kind=kind, raw=str(raw), source=source, destination=destination, **more)  # type: ignore[arg-type]


class Reader:
    """Everything final on one chain, one block a range."""

    def __init__(self, books: Scenario, chain: str = A, key: str = "") -> None:
        self.books = books
        self.chain = chain
        self.key = key or f"{chain}:key"
        self.number = CURSOR.number
        self.sequence = 0

    def range_of(self, *observations: Observation, landed: Any = (), satisfied: Any = ()) -> RecordObservationsRequest:
        """Return the next block with these observations, in this order."""
        after, through = at(self.number), at(self.number + 1)
        for index, observation in enumerate(observations):
            observation.number, observation.index = through.number, index
        for each in landed:
            each.number = through.number
        found = ObservedRange(
            chain=self.chain, after=after, through=through, landed=landed, observations=observations, satisfied_instructions=satisfied
        )
        return RecordObservationsRequest(range=found)

    def see(self, *observations: Observation, landed: Any = (), satisfied: Any = ()) -> list[Any]:
        """Book the next block, and return what was booked."""
        self.books.when(self.range_of(*observations, landed=landed, satisfied=satisfied)).accepted()
        self.number += 1
        return self.books.booked

    def record(self, *instructions: Instruction, key: str = "") -> Transaction:
        """Record a transaction that carries instructions, and return it."""
        transaction = Transaction(
            key=key or (instructions[0].source if instructions[0].kind == SEND else self.key),
            sequence=Sequence(number=self.sequence),
            payload=f"{self.chain} {self.sequence}".encode(),
            instructions=[instruction.text for instruction in instructions],
        )
        self.sequence += 1
        self.books.given(RecordTransactionsRequest(chain=self.chain, transactions=[transaction]))
        return transaction

    def landed(self, transaction: Transaction, /, **changes: Any) -> LandedTransaction:
        """Return the transaction as it landed."""
        fields = {
            "key": transaction.key,
            "sequence": transaction.sequence,
            "payload_digest": sha256(transaction.payload).digest(),
            "transaction": f"0x{transaction.payload.hex()}",
        }
        return LandedTransaction(**(fields | changes))

    def effect_of(self, instruction: Instruction, transaction: Transaction, /, **changes: Any) -> Observation:
        """Return an instruction's effect as it is seen."""
        fields = {
            "kind": SHOWN_BY[InstructionKind.ValueType(instruction.kind)],
            "raw": instruction.raw,
            "source": instruction.source,
            "destination": instruction.destination,
            "instrument": instruction.instrument,
            "token": f"{self.chain}/token:{instruction.instrument}",
            "transaction": f"0x{transaction.payload.hex()}",
            "instruction": instruction.text,
        }
        return seen(**(fields | changes))

    def carry_out(self, instruction: Instruction) -> list[Any]:
        """Record, send and see an instruction final; return what was booked last."""
        transaction = self.record(instruction)
        effects = [self.effect_of(instruction, transaction)] if instruction.kind in SHOWN_BY else []
        return self.see(*effects, landed=[self.landed(transaction)])

    def fail(self, *instructions: Instruction, failure: int, text: str = "no") -> list[Any]:
        """Record a transaction that lands and fails; return what was booked last."""
        return self.see(landed=[self.landed(self.record(*instructions), failure=failure, failure_text=text)])
