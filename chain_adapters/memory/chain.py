"""The reference chain itself: blocks, signatures, sequences, fees, finality and reorganisations.

A signed transaction waits in the pool until a block is made. One transaction of a (signer, number), or of a one-time value, lands; it
pays its fee and uses up its sequence also where it fails, and then has no other effect. Blocks are made on request. The newest
`finality_blocks` of them are not final and may be replaced by `reorganise`.
"""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from chain_adapters.memory import payloads
from chain_adapters.memory.token import Failure, Token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NUMBER: Final = "number"
ONE_TIME_VALUE: Final = "one_time_value"
STATES_KEPT: Final = 512
"""Of how many blocks the state is kept, the newest; of older ones only what happened."""


@dataclass
class State:
    """Everything at one block."""

    tokens: dict[str, Token] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    """Signer -> the number its next transaction must have."""
    values: dict[str, str] = field(default_factory=dict)
    """Account of a one-time value -> the value, once it has advanced."""
    coins: dict[str, int] = field(default_factory=dict)

    def copy(self) -> State:
        tokens = {reference: token.copy() for reference, token in self.tokens.items()}
        return State(tokens, dict(self.numbers), dict(self.values), dict(self.coins))


@dataclass(frozen=True)
class Included:
    """A transaction in a block."""

    payload: bytes
    failure: str
    """Name of a ChainFailure without its prefix; empty: done."""
    text: str
    fee: int
    events: tuple[dict[str, Any], ...]
    """Each with `operation`, the place of the operation that it came from."""


@dataclass(frozen=True)
class Block:
    """A block, made of the transactions that were sent before it."""

    number: int
    hash: str
    parent: str
    time_us: int
    transactions: tuple[Included, ...]


class MemoryChain:
    """A chain in one process. All methods may be called by several threads."""

    def __init__(
        self,
        chain: str = "memory:1",
        *,
        sequences: str = NUMBER,
        finality_blocks: int = 2,
        base_fee: int = 100,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        assert sequences in (NUMBER, ONE_TIME_VALUE)
        self.chain = chain
        self.sequences = sequences
        self.finality_blocks = finality_blocks
        self.base_fee = base_fee
        """What a transaction must offer to get into the next block."""
        self.clock_us = clock_us
        self.lock = threading.RLock()
        self._forks = 0
        self.pool: dict[tuple[str, Any], bytes] = {}
        """Sequence -> the payload that would land: of several versions the dearest."""
        self.blocks = [Block(0, _hash(chain, "genesis", 0), "", clock_us(), ())]
        self._states = {0: State()}
        self._landed: dict[tuple[str, Any], tuple[int, bytes]] = {}
        """Sequence -> number of the block and payload of the transaction that used it up."""

    # ---- what is where --------------------------------------------------------------------------------------------------------------

    @property
    def head(self) -> Block:
        return self.blocks[-1]

    @property
    def final_number(self) -> int:
        return max(0, self.head.number - self.finality_blocks)

    def state_at(self, number: int) -> State | None:
        """Return the state at a block, or None where it is not kept any more, or not there yet."""
        return self._states.get(number)

    @property
    def state(self) -> State:
        return self._states[self.head.number]

    def landed(self, sequence: tuple[str, Any]) -> tuple[int, bytes] | None:
        return self._landed.get(sequence)

    def value_of(self, account: str, state: State) -> str:
        """Return a one-time value; an account exists from the beginning."""
        return state.values.get(account) or _hash(self.chain, account, 0)

    # ---- set up ---------------------------------------------------------------------------------------------------------------------

    def deploy(self, token: Token) -> None:
        """Put a token on the chain, as of the newest block."""
        with self.lock:
            assert token.reference not in self.state.tokens
            for state in self._states.values():
                state.tokens[token.reference] = token.copy()

    def fund(self, address: str, coins: int) -> None:
        """Set what an address can pay with, as of now."""
        with self.lock:
            for state in self._states.values():
                state.coins[address] = coins

    # ---- transactions ---------------------------------------------------------------------------------------------------------------

    def submit(self, payload: bytes, signatures: dict[str, bytes]) -> str:
        """Take a signed transaction into the pool, and say what was thought of it; "taken" is no promise."""
        try:
            content = payloads.decode(payload)
            sequence = sequence_of(content)
            signers = [content["key"], *content["cosigners"]]
        except (ValueError, KeyError, TypeError):
            return "malformed"
        if content["chain"] != self.chain:
            return "other chain"
        if not all(payloads.signed_by(payload, address, signatures.get(address, b"")) for address in signers):
            return "bad signature"
        with self.lock:
            if self._used_up(sequence):
                return "sequence used"
            if self.state.coins.get(content["key"], 0) < content["fee"]:
                return "insufficient funds"
            waiting = self.pool.get(sequence)
            if waiting == payload:
                return "known"
            if waiting is not None and content["fee"] * 10 < payloads.decode(waiting)["fee"] * 11:
                return "replacement underpriced"
            self.pool[sequence] = payload
            return "taken"

    def _used_up(self, sequence: tuple[str, Any]) -> bool:
        account, value = sequence
        if isinstance(value, int):
            return value < self.state.numbers.get(account, 0)
        return str(value) != self.value_of(account, self.state)

    def produce(self, count: int = 1) -> None:
        """Make blocks; the first takes what it can from the pool, and so does each one after it."""
        with self.lock:
            for _ in range(count):
                self._produce_one()

    def _produce_one(self) -> None:
        head = self.head
        state = self.state.copy()
        number, time_us = head.number + 1, max(self.clock_us(), head.time_us + 1)
        taken: list[Included] = []
        progress = True
        while progress:
            progress = False
            for sequence, payload in list(self.pool.items()):
                included = self._include(payload, sequence, state, time_us)
                if included is not None:
                    del self.pool[sequence]
                    self._landed[sequence] = (number, payload)
                    taken.append(included)
                    progress = True
        block_hash = _hash(head.hash, "|".join(payloads.transaction_id(included.payload) for included in taken), self._forks)
        self.blocks.append(Block(number, block_hash, head.hash, time_us, tuple(taken)))
        self._states[number] = state
        self._states.pop(number - STATES_KEPT, None)

    def _include(self, payload: bytes, sequence: tuple[str, Any], state: State, time_us: int) -> Included | None:
        """Carry out a transaction if its turn has come and it pays enough; drop it if its sequence was used up."""
        content = payloads.decode(payload)
        account, value = sequence
        if isinstance(value, int):
            there = state.numbers.get(account, 0)
            if value < there:
                del self.pool[sequence]
            if value != there:
                return None
        elif value != self.value_of(account, state):
            del self.pool[sequence]
            return None
        if content["fee"] < self.base_fee or state.coins.get(content["key"], 0) < content["fee"]:
            return None
        state.coins[content["key"]] -= content["fee"]
        if isinstance(value, int):
            state.numbers[account] = value + 1
        else:
            state.values[account] = _hash(value, account, 1)
        failure, text, events = self.carry_out(content["operations"], [content["key"], *content["cosigners"]], state, time_us)
        return Included(payload, failure, text, content["fee"], tuple(events))

    def carry_out(
        self, operations: list[dict[str, Any]], signers: list[str], state: State, time_us: int
    ) -> tuple[str, str, list[dict[str, Any]]]:
        """Do all operations, or none; return (failure, what the chain says, events)."""
        before = {name: state.tokens[name].copy() for name in {each.get("token", "") for each in operations} if name in state.tokens}
        events: list[dict[str, Any]] = []
        try:
            for place, operation in enumerate(operations):
                if operation["do"] == "nothing":
                    continue
                token = state.tokens.get(operation["token"])
                if token is None:
                    raise Failure("OTHER", f"NoSuchToken({operation['token']})")  # noqa: TRY301 - one way out for all failures
                done = token.apply(operation, signers, time_us)
                events += [event | {"token": token.reference, "operation": place} for event in done]
        except Failure as failed:
            state.tokens.update(before)
            return failed.failure, failed.text, []
        return "", "", events

    # ---- what may happen before finality, and must not after ------------------------------------------------------------------------

    def reorganise(self, depth: int, *, drop: Iterable[str] = (), forget: bool = False) -> None:
        """Replace the newest blocks by one more of others; their transactions wait again, but those of ids `drop`, or with `forget` all.

        A depth beyond `finality_blocks` is what must never happen: what was final is no more.
        """
        with self.lock:
            depth = min(depth, self.head.number)
            dropped = set(drop)
            gone, self.blocks = self.blocks[-depth:], self.blocks[:-depth]
            for block in gone:
                self._states.pop(block.number)
                for included in block.transactions:
                    sequence = sequence_of(payloads.decode(included.payload))
                    del self._landed[sequence]
                    if not forget and payloads.transaction_id(included.payload) not in dropped:
                        self.pool[sequence] = included.payload
            assert self.head.number in self._states, "deeper than the states that are kept"
            self._forks += 1
            self.produce(depth + 1)

    def forget_pool(self) -> None:
        """Lose what waits, as a node does that is started again."""
        with self.lock:
            self.pool.clear()


def sequence_of(content: dict[str, Any]) -> tuple[str, Any]:
    """Return what lets a transaction land once: (signer, number), or (account, value)."""
    sequence = content["sequence"]
    if "number" in sequence:
        return content["key"], int(sequence["number"])
    account = str(sequence["account"])
    if account.partition(".")[0] not in (content["key"], *content["cosigners"]):
        raise ValueError(f"{account} is not of a signer")
    return account, str(sequence["value"])


def _hash(*parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
