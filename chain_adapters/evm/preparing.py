"""Instructions -> calls -> unsigned transactions: as many of one key together as the chain takes at once.

Mints go as one batch, other calls of a token as one multicall. What a transaction would come to is asked before it is made: if all of it
passes, it is made; if not, each instruction is asked for by itself, and only what fails at the final block and at the newest is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from chain_adapters.evm import token_calls
from chain_adapters.evm.chain_view import ChainView
from chain_adapters.evm.codec import ContractRefusal, decode_refusal, encode_call
from chain_adapters.evm.node import NodeRefused
from chain_adapters.evm.refusals import FOR_EVER, failure_of
from chain_adapters.evm.steps import NotPossible, Places, Step, address_of, reached, step_of
from chain_adapters.evm.token_calls import TOKEN
from chain_adapters.evm.transactions import TRANSFER_GAS, Fees, UnsignedTransaction
from chain_adapters.protocol import (
    PAYLOAD_BYTES_MAX,
    ChainIncapable,
    ChainRefusal,
    FundsInsufficient,
    KeyMissing,
    Prepared,
    ProjectionState,
)
from stockledger.v1.chains_pb2 import ChainFailure, ChainKey, ChainKeyRole, Instruction, InstructionKind, Transaction
from stockledger.v1.chains_pb2 import Sequence as TransactionSequence

INSTRUCTIONS_PER_TRANSACTION_MAX: Final = 64
OPEN_PER_KEY_MAX: Final = 64
"""What nodes keep waiting for one sender without dropping it: geth's `--txpool.accountqueue`."""
GAS_MAX: Final = 16_000_000
"""Below the 2^24 that EIP-7825 allows a transaction."""
GAS_SPARE_PERCENT: Final = 25
"""Storage that others write between the estimate and the block costs more or less than was estimated."""
MOVING: Final = frozenset(
    {
        InstructionKind.INSTRUCTION_KIND_MINT,
        InstructionKind.INSTRUCTION_KIND_BURN,
        InstructionKind.INSTRUCTION_KIND_FORCE_TRANSFER,
        InstructionKind.INSTRUCTION_KIND_SEND,
    }
)
"""Only what moves units can be refused for ever: a target is wanted until it is reached."""

Outcome = tuple[ChainFailure.ValueType, str] | None


@dataclass
class Preparation:
    """One round. `view` is of one node, `final` its final block, not before the ledger's cursor."""

    chain: str
    view: ChainView
    final: int
    fees: Fees
    places: Places
    signers: Collection[str]
    state: ProjectionState
    _taken: dict[str, set[int]] = field(default_factory=dict)
    _mint_gas: dict[str, int] = field(default_factory=dict)
    """By token, the gas of a mint in the newest batch of this round that was estimated."""

    def run(self, instructions: Sequence[Instruction]) -> Prepared:
        """Make the round's transactions.

        Raises: KeyMissing, FundsInsufficient, ChainIncapable; NodeError.
        """
        satisfied: list[str] = []
        wanted: list[tuple[ChainKey, Step]] = []
        for instruction in instructions:
            key = self._key_for(instruction)
            if reached(self.view, instruction, self.places, self.final):
                satisfied.append(instruction.instruction)
                continue
            try:
                wanted.append((key, step_of(self.view, instruction, self.places, address_of(key.key))))
            except NotPossible as error:
                raise ChainIncapable(self.chain, str(error)) from error
        refusals: list[ChainRefusal] = []
        waiting: dict[str, ChainFailure.ValueType] = {}
        transactions: list[Transaction] = []
        for key, group in _groups(wanted):
            fitting = self._fitting(key, group, refusals, waiting)
            number = self._free_number(key)
            if fitting and number is not None:
                transactions.append(self._transaction(key, number, fitting))
        transactions += self._fillers()
        self._check_funds(transactions)
        return Prepared(tuple(transactions), tuple(refusals), tuple(satisfied), waiting)

    # Keys and numbers

    def _key_for(self, instruction: Instruction) -> ChainKey:
        """Return a registered key that may sign an instruction, and can here."""
        role, wallet = instruction.role, instruction.source if instruction.kind == InstructionKind.INSTRUCTION_KIND_SEND else ""
        known = [
            key
            for key in self.state.keys
            if role in key.roles
            and not key.retired
            and (not key.instruments or not instruction.instrument or instruction.instrument in key.instruments)
            and wallet in ("", key.key)
        ]
        for key in known:
            if key.key in self.signers:
                return key
        what = f"{ChainKeyRole.Name(role)} of {instruction.instrument or 'any instrument'} {wallet}".rstrip()
        names = ", ".join(key.key for key in known) or "none is registered"
        raise KeyMissing(self.chain, f"no signer here for {what}, which instruction {instruction.instruction} needs; keys: {names}")

    def _numbers(self, key: ChainKey) -> set[int]:
        """Return the numbers of a key that a recorded transaction has, or one of this round."""
        if key.key not in self._taken:
            opened = (one.versions[0] for one in self.state.open_transactions)
            self._taken[key.key] = {one.sequence.number for one in opened if one.key == key.key}
        return self._taken[key.key]

    def _free_number(self, key: ChainKey) -> int | None:
        taken = self._numbers(key)
        for number in range(key.consumed_count, key.consumed_count + OPEN_PER_KEY_MAX):
            if number not in taken:
                return number
        return None

    def _fillers(self) -> list[Transaction]:
        """Use up numbers without which recorded transactions above them could not land."""
        made = []
        for key in self.state.keys:
            taken = self._numbers(key)
            if taken and key.key in self.signers:
                for number in range(key.consumed_count, max(taken)):
                    if number not in taken:
                        address = address_of(key.key)
                        nothing = UnsignedTransaction(self._chain_id, number, self.fees, TRANSFER_GAS, address, b"")
                        made.append(recorded(key.key, nothing, ()))
        return made

    @property
    def _chain_id(self) -> int:
        return int(self.chain.partition(":")[2])

    # What passes

    def _fitting(
        self, key: ChainKey, group: list[Step], refusals: list[ChainRefusal], waiting: dict[str, ChainFailure.ValueType]
    ) -> tuple[UnsignedTransaction, list[Step]] | None:
        """Return the call of as many of a group as pass together, and note what cannot."""
        left = group
        judged = False
        while left:
            made = self._together(key, left)
            if made is not None:
                return made, left
            if not judged:
                left, judged = [step for step in left if self._passes(key, step, refusals, waiting)], True
            elif len(left) == 1:
                return None  # it passed alone a moment ago: the next round asks again
            else:
                left = left[: len(left) // 2]
        return None

    def _together(self, key: ChainKey, steps: list[Step]) -> UnsignedTransaction | None:
        """Return the transaction of all steps, number still open; None if it fails or is too large."""
        data = call_of(steps)
        try:
            gas = self._gas(address_of(key.key), steps, data)
        except NodeRefused:
            return None
        limit = gas + gas * GAS_SPARE_PERCENT // 100
        made = UnsignedTransaction(self._chain_id, 2**63, self.fees, limit, steps[0].target, data)
        return made if limit <= GAS_MAX and len(made.payload) <= PAYLOAD_BYTES_MAX else None

    def _gas(self, sender: str, steps: Sequence[Step], data: bytes) -> int:
        """Return what a call needs. A node estimates by trying many limits; of batches of mints it does that once a round.

        For the next the gas of as many mints is offered, and the node is asked whether that will do, which is one try.

        Raises: NodeRefused if the call fails whatever it is given.
        """
        target = steps[0].target
        known = self._mint_gas.get(target, 0) * len(steps) if steps[0].line is not None else 0
        if known:
            try:
                self.view.call(target, data, sender=sender, gas=known)
            except NodeRefused:
                known = 0
        if not known:
            known = self.view.node.number("eth_estimateGas", {"from": sender, "to": target, "data": "0x" + data.hex()})
            self._mint_gas[target] = -(-known // len(steps))
        return known

    def _passes(self, key: ChainKey, step: Step, refusals: list[ChainRefusal], waiting: dict[str, ChainFailure.ValueType]) -> bool:
        now = self._outcome(key, step, "latest")
        if now is None:
            return True
        then = self._outcome(key, step, self.final)
        name = step.instruction.instruction
        moves = step.instruction.kind in MOVING
        if moves and now[0] in FOR_EVER and then is not None and then[0] == now[0]:
            refusals.append(ChainRefusal(name, then[0], then[1]))
        else:
            waiting[name] = now[0]
        return False

    def _outcome(self, key: ChainKey, step: Step, at: int | str) -> Outcome:
        try:
            self.view.call(step.target, step.data, sender=address_of(key.key), at=at)
        except NodeRefused as refused:
            return outcome_of(step.contract, refused)
        return None

    def _transaction(self, key: ChainKey, number: int, fitting: tuple[UnsignedTransaction, list[Step]]) -> Transaction:
        made, steps = fitting
        self._numbers(key).add(number)
        numbered = UnsignedTransaction(made.chain_id, number, made.fees, made.gas_limit, made.target, made.data)
        return recorded(key.key, numbered, [step.instruction.instruction for step in steps])

    def _check_funds(self, transactions: Sequence[Transaction]) -> None:
        needed: dict[str, int] = {}
        for transaction in transactions:
            needed[transaction.key] = needed.get(transaction.key, 0) + int(transaction.fee_max)
        for key, cost in needed.items():
            check_funds(self.chain, self.view, key, cost)


def call_of(steps: Sequence[Step]) -> bytes:
    """Return one call for several steps of one token."""
    lines = [step.line for step in steps if step.line is not None]
    if len(lines) == len(steps):
        return token_calls.mint(lines).data
    if len(steps) == 1:
        return steps[0].data
    return encode_call(TOKEN, "multicall(bytes[])", [step.data for step in steps])


def recorded(key: str, transaction: UnsignedTransaction, instructions: Sequence[str], *, replacement: bool = False) -> Transaction:
    """Return a transaction as the ledger records it."""
    return Transaction(
        key=key,
        sequence=TransactionSequence(number=transaction.nonce),
        payload=transaction.payload,
        instructions=instructions,
        fee_max=str(transaction.cost_most),
        replacement=replacement,
    )


def outcome_of(contract: str, refused: NodeRefused) -> tuple[ChainFailure.ValueType, str]:
    """Return why a call reverted, by what the contract said, or the node where the contract said nothing."""
    return failure_of(decode_refusal(contract, refused.data) if refused.data else ContractRefusal("Reverted", {}, refused.message))


def check_funds(chain: str, view: ChainView, key: str, needed: int) -> None:
    """Refuse what a key cannot pay at most.

    Raises: FundsInsufficient.
    """
    found = view.node.number("eth_getBalance", address_of(key), "latest")
    if found < needed:
        raise FundsInsufficient(chain, key=key, needed=needed, found=found)


def _groups(wanted: Sequence[tuple[ChainKey, Step]]) -> Iterator[tuple[ChainKey, list[Step]]]:
    """Yield what may share a transaction: one key, one token, one rank, mints apart from the rest; alone what failed in company.

    A freeze shares its transaction with freezes and pauses only: nothing else that fails may take it along.
    """
    groups: list[tuple[ChainKey, list[Step]]] = []
    growing: dict[tuple[str, str, int, bool], list[Step]] = {}
    for key, step in wanted:
        if step.alone or step.instruction.failure == ChainFailure.CHAIN_FAILURE_IN_COMPANY:
            groups.append((key, [step]))
            continue
        where = (key.key, step.target, step.instruction.rank, step.line is not None)
        group = growing.get(where)
        if group is None or len(group) == INSTRUCTIONS_PER_TRANSACTION_MAX:
            group = growing[where] = []
            groups.append((key, group))
        group.append(step)
    yield from groups
