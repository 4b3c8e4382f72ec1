"""The projector: what the log wants done on a chain is recorded, signed and sent until it is final, or provably dead.

    one round    list       what is open, and what is recorded and may land
                 inspect    tokens that were not looked at yet: of one that is not as registered, nothing is sent
                 prepare    unsigned transactions of what is open
                 record     all of them, in one event and one flush, before any is signed
                 send       sign and broadcast
                 ask        what has become of those recorded before: send again, replace, or bury

It books nothing but that: whether a transaction landed is the reader's to say. It keeps nothing between rounds but which tokens it has
found as registered, so that a round can end anywhere: what was recorded is in the log, and everything else is made again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from chain_adapters.calls import changed_history, items_of
from chain_adapters.protocol import (
    ChainIncapable,
    ChainUnavailable,
    DeploymentUnfit,
    FateKind,
    FundsInsufficient,
    KeyMissing,
    Prepared,
    ProjectionState,
)
from ledger.errors import NotFound, RuleViolated
from stockledger.v1.chains_pb2 import (
    AbandonInstructionRequest,
    ChainFailure,
    ChainKeyRole,
    ChainPosition,
    DeadTransaction,
    Deployment,
    GetChainRequest,
    Instruction,
    InstructionState,
    ListChainKeysRequest,
    ListDeploymentsRequest,
    ListInstructionsRequest,
    ListTransactionsRequest,
    OpenTransaction,
    RecordDeadTransactionsRequest,
    RecordTransactionsRequest,
    Transaction,
)
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from chain_adapters.calls import Call
    from chain_adapters.protocol import ChainAdapter

OPEN_TRANSACTIONS_MAX: Final = 2_000
"""While so many may land, no more are made: a chain that takes nothing must not fill the books."""
INSTRUCTIONS_PER_ROUND_MAX: Final = 1_000
TRANSACTIONS_PER_CALL_MAX: Final = 1_000
FAILURES_IN_A_ROW_MAX: Final = 3
"""So many calls of a node in vain, and the round is over."""
OTHER_FAILURES_MAX: Final = 5
"""After so many attempts that failed for a reason nobody knows, a human must look; each costs a fee."""
PATIENCE_SECONDS_MIN: Final = 60
"""A transaction is called stuck once it has waited for this, and ten times what its chain usually takes."""

_PASSING: Final = (KeyMissing, FundsInsufficient, ChainIncapable, DeploymentUnfit)
"""What is wrong with some instructions, one key, or one token, and must not stop the others."""


@dataclass(frozen=True, slots=True)
class Stuck:
    """Something that does not go on by itself."""

    what: str
    """An instruction's id, or a key."""
    since_us: int
    """Since when it has been wanted, or recorded, microseconds since 1970."""
    why: str


@dataclass(frozen=True, slots=True)
class Satisfied:
    """Targets that the chain has reached without us, for the reader to tell."""

    instructions: tuple[str, ...] = ()
    number: int = 0
    """They hold at this final number; a range that goes through it may say so."""


@dataclass(slots=True)
class Round:
    """What one round found and did."""

    chain: str
    open_count: int = 0
    """Instructions that no transaction carries, blocked ones included."""
    blocked_count: int = 0
    """Of these, stopped by a freeze, a halt, or a target before them."""
    recorded_count: int = 0
    """Transactions that may land."""
    made_count: int = 0
    sent_count: int = 0
    replaced_count: int = 0
    buried_count: int = 0
    refused_count: int = 0
    """Instructions given up because the chain would refuse them for ever."""
    oldest_us: int = 0
    """Since when the oldest instruction or transaction has waited; 0: none does."""
    halted: bool = False
    """True where the chain's history has changed: nothing was sent."""
    satisfied: Satisfied = Satisfied()
    stuck: tuple[Stuck, ...] = ()


def _now_us() -> int:
    return time.time_ns() // 1000


class Projector:
    """Sends what the ledger wants done on one chain."""

    def __init__(self, call: Call, adapter: ChainAdapter, *, now_us: Callable[[], int] = _now_us) -> None:
        self._call = call
        self._adapter = adapter
        self._chain = adapter.chain
        self._now_us = now_us
        self._fit: set[tuple[str, int, int]] = set()
        """Tokens, decimals and kinds that `inspect` has found."""

    def round(self) -> Round:
        """Do one round.

        Raises: ChainUnavailable, NodeUnfit; LedgerError where the ledger cannot be asked. The next round goes on from the log.
        """
        result = Round(self._chain)
        if changed_history(self._call, self._chain) is not None:
            result.halted = True
            return result
        _OneRound(self._call, self._adapter, result, self._now_us(), self._fit).run()
        return result


class _OneRound:
    """One round while it lasts."""

    def __init__(self, call: Call, adapter: ChainAdapter, result: Round, now_us: int, fit: set[tuple[str, int, int]]) -> None:
        self._call = call
        self._adapter = adapter
        self._chain = adapter.chain
        self._result = result
        self._now_us = now_us
        self._fit = fit
        self._stuck: dict[str, Stuck] = {}
        self._failures_in_a_row = 0

    def run(self) -> None:
        # The cursor first, keys last: what moves in between is then taken for pending or taken, never for dead or free.
        call, chain, result = self._call, self._chain, self._result
        cursor = call(GetChainRequest(chain=chain)).chain.cursor
        wanted = self._wanted()
        recorded = tuple(items_of(call, ListTransactionsRequest(chain=chain), "transactions"))
        keys = tuple(items_of(call, ListChainKeysRequest(chain=chain), "keys"))
        deployments = tuple(items_of(call, ListDeploymentsRequest(chain=chain), "deployments"))
        result.recorded_count = len(recorded)
        moments = [each.decision_time.ToMicroseconds() for each in wanted] + [each.first_time.ToMicroseconds() for each in recorded]
        result.oldest_us = min(moments, default=0)
        if (wanted or recorded) and len(recorded) < OPEN_TRANSACTIONS_MAX:
            self._project(self._of_fit_tokens(wanted, deployments), ProjectionState(deployments, keys, recorded, cursor))
        self._attend(recorded, cursor)
        result.stuck = tuple(self._stuck.values())

    def _wanted(self) -> list[Instruction]:
        """Return what may be carried out now, stops first, and note what cannot be."""
        wanted: list[Instruction] = []
        for instruction in items_of(self._call, ListInstructionsRequest(chain=self._chain), "instructions"):
            if instruction.state == InstructionState.INSTRUCTION_STATE_REFUSED:
                self._note(instruction, f"refused: {_failure_text(instruction)}; its units wait for AbandonInstruction")
            if instruction.state != InstructionState.INSTRUCTION_STATE_OPEN:
                continue
            self._result.open_count += 1
            if instruction.blocked_by:
                self._result.blocked_count += 1
            elif (
                instruction.failure == ChainFailure.CHAIN_FAILURE_OTHER and instruction.attempt_count >= OTHER_FAILURES_MAX
            ):  # nobody knows why: each further attempt would only cost its fee
                self._note(instruction, f"failed {instruction.attempt_count} times: {_failure_text(instruction)}")
            elif len(wanted) < INSTRUCTIONS_PER_ROUND_MAX:
                wanted.append(instruction)
        return wanted

    # ---- what is new ----------------------------------------------------------------------------------------------------------------

    def _of_fit_tokens(self, wanted: Sequence[Instruction], deployments: Sequence[Deployment]) -> list[Instruction]:
        """Return what is wanted of tokens that are as registered, and note the rest: a unit there may be another amount, or nothing."""
        instruments = {instruction.instrument for instruction in wanted}
        unfit: dict[str, str] = {}
        for deployment in deployments:
            known = (deployment.token, deployment.decimals, deployment.kind)
            if deployment.instrument in instruments and known not in self._fit:
                try:
                    self._adapter.inspect(deployment)
                except DeploymentUnfit as error:
                    unfit[deployment.instrument] = str(error)
                else:
                    self._fit.add(known)
        for instruction in wanted:
            if instruction.instrument in unfit:
                self._note(instruction, unfit[instruction.instrument])
        return [instruction for instruction in wanted if instruction.instrument not in unfit]

    def _project(self, wanted: Sequence[Instruction], state: ProjectionState) -> None:
        try:
            self._carry_out(wanted, state)
        except _PASSING:
            # Something is wrong with some of them: each kind and key by itself, so that the others go on.
            for group in _by_key(wanted):
                try:
                    self._carry_out(group, self._with_recorded(state))
                except _PASSING as error:
                    for instruction in group:
                        self._note(instruction, str(error))

    def _with_recorded(self, state: ProjectionState) -> ProjectionState:
        recorded = tuple(items_of(self._call, ListTransactionsRequest(chain=self._chain), "transactions"))
        return ProjectionState(state.deployments, state.keys, recorded, state.cursor)

    def _carry_out(self, wanted: Sequence[Instruction], state: ProjectionState) -> None:
        prepared = self._adapter.prepare(wanted, state)
        by_id = {instruction.instruction: instruction for instruction in wanted}
        for name, failure in prepared.waiting.items():
            self._note(by_id[name], ChainFailure.Name(failure).removeprefix("CHAIN_FAILURE_"))
        self._refuse(prepared)
        if prepared.satisfied:
            known = self._result.satisfied
            number = max(known.number, self._adapter.finalised().number)
            self._result.satisfied = Satisfied(known.instructions + prepared.satisfied, number)
        for transaction in self._record(prepared.transactions):
            self._send(transaction)

    def _refuse(self, prepared: Prepared) -> None:
        """Give up what the chain refuses for ever; units come back from transit."""
        for refused in prepared.refusals:
            cause = f"the chain refuses it: {refused.failure_text}"[:140]
            request = AbandonInstructionRequest(instruction=refused.instruction, cause=cause, failure=refused.failure)
            try:
                self._call(request)
            except (RuleViolated, NotFound) as error:
                # What came from another chain cannot go back there by itself; or it is over already.
                since = self._now_us
                self._stuck[refused.instruction] = Stuck(refused.instruction, since, f"{refused.failure_text}; {error}")
            else:
                self._result.refused_count += 1

    def _record(self, transactions: Sequence[Transaction]) -> Iterator[Transaction]:
        """Record transactions and yield those that were, for none may be signed before."""
        for first in range(0, len(transactions), TRANSACTIONS_PER_CALL_MAX):
            part = transactions[first : first + TRANSACTIONS_PER_CALL_MAX]
            try:
                self._call(RecordTransactionsRequest(chain=self._chain, transactions=part))
            except (RuleViolated, NotFound):
                yield from self._record_one_by_one(part)
            else:
                self._result.made_count += len(part)
                yield from part

    def _record_one_by_one(self, transactions: Sequence[Transaction]) -> Iterator[Transaction]:
        """Something was blocked or taken meanwhile: record what can be. Of a key, nothing goes after a gap."""
        gaps = set()
        for transaction in transactions:
            if transaction.key in gaps:
                continue
            try:
                self._call(RecordTransactionsRequest(chain=self._chain, transactions=[transaction]))
            except (RuleViolated, NotFound) as refused:
                if transaction.sequence.WhichOneof("kind") == "number":
                    gaps.add(transaction.key)
                for name in transaction.instructions:
                    self._stuck[name] = Stuck(name, self._now_us, f"not recorded: {refused}")
            else:
                self._result.made_count += 1
                yield transaction

    def _send(self, transaction: Transaction) -> None:
        with _Tolerance(self):
            try:
                self._adapter.send(transaction)
            except _PASSING as error:
                self._stuck[transaction.key] = Stuck(transaction.key, self._now_us, str(error))
            else:
                self._result.sent_count += 1

    # ---- what was recorded before ---------------------------------------------------------------------------------------------------

    def _attend(self, recorded: Sequence[OpenTransaction], cursor: ChainPosition) -> None:
        """Send again what the node does not know, pay more for what will not land, and bury what never can."""
        deaths = []
        patience_us = self._patience_us(recorded)
        for transaction in recorded:
            with _Tolerance(self):
                fate = self._adapter.fate(transaction, cursor)
                if fate.death is not None:
                    deaths.append(fate.death)
                    continue
                if fate.underpriced:
                    self._replace(transaction)
                elif fate.kind is FateKind.UNSEEN:
                    self._send(transaction.versions[-1])
                if self._now_us - transaction.first_time.ToMicroseconds() > patience_us:
                    landed = "final on chain, and not in the books" if fate.kind is FateKind.LANDED else f"{fate.kind.value}, and not final"
                    why = "its fee is too low" if fate.underpriced else landed
                    for name in transaction.versions[0].instructions or (transaction.versions[0].key,):
                        self._stuck.setdefault(name, Stuck(name, transaction.first_time.ToMicroseconds(), why))
        self._bury(deaths)

    def _patience_us(self, recorded: Sequence[OpenTransaction]) -> int:
        oldest_us = min((each.first_time.ToMicroseconds() for each in recorded), default=self._now_us)
        if self._now_us - oldest_us <= PATIENCE_SECONDS_MIN * 1_000_000:
            return PATIENCE_SECONDS_MIN * 1_000_000
        return max(PATIENCE_SECONDS_MIN, 10 * self._adapter.describe().final_after_seconds) * 1_000_000

    def _replace(self, transaction: OpenTransaction) -> None:
        """Record and send another version. One that a freeze has stopped meanwhile only gives its sequence free."""
        key = transaction.versions[0].key
        try:
            newer = self._adapter.replace(transaction)
            if newer is None:
                self._send(transaction.versions[-1])
                return
            try:
                self._call(RecordTransactionsRequest(chain=self._chain, transactions=[newer]))
            except RuleViolated as refused:
                if refused.reason not in (Reason.REASON_INSTRUCTION_BLOCKED, Reason.REASON_PLACE_HALTED):
                    raise
                newer = self._adapter.replace(transaction, cancel=True)
                if newer is None:
                    return
                self._call(RecordTransactionsRequest(chain=self._chain, transactions=[newer]))
            self._result.replaced_count += 1
            self._send(newer)
        except _PASSING as error:
            self._stuck[key] = Stuck(key, transaction.first_time.ToMicroseconds(), str(error))
        except (RuleViolated, NotFound) as refused:  # it landed or died meanwhile
            self._stuck[key] = Stuck(key, self._now_us, f"not replaced: {refused}")

    def _bury(self, deaths: Sequence[DeadTransaction]) -> None:
        for first in range(0, len(deaths), TRANSACTIONS_PER_CALL_MAX):
            part = deaths[first : first + TRANSACTIONS_PER_CALL_MAX]
            try:
                self._call(RecordDeadTransactionsRequest(chain=self._chain, transactions=part))
                self._result.buried_count += len(part)
            except (RuleViolated, NotFound):
                for death in part:
                    self._bury_one(death)

    def _bury_one(self, death: DeadTransaction) -> None:
        try:
            self._call(RecordDeadTransactionsRequest(chain=self._chain, transactions=[death]))
        except NotFound:
            return  # booked meanwhile
        except RuleViolated as refused:
            self._stuck[death.key] = Stuck(death.key, self._now_us, f"not buried: {refused}")
        else:
            self._result.buried_count += 1

    def _note(self, instruction: Instruction, why: str) -> None:
        self._stuck[instruction.instruction] = Stuck(instruction.instruction, instruction.decision_time.ToMicroseconds(), why)

    def failed(self, error: ChainUnavailable) -> None:
        """Count a call in vain; after a few in a row the node is given up for this round."""
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= FAILURES_IN_A_ROW_MAX:
            raise error

    def succeeded(self) -> None:
        self._failures_in_a_row = 0


class _Tolerance:
    """Lets a call of the node fail now and then: the next round asks again."""

    def __init__(self, round_: _OneRound) -> None:
        self._round = round_

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if error is None:
            self._round.succeeded()
            return False
        if not isinstance(error, ChainUnavailable):
            return False
        self._round.failed(error)
        return True


def _by_key(wanted: Sequence[Instruction]) -> list[list[Instruction]]:
    """Part instructions by what signs them, in the order of the first of each."""
    groups: dict[tuple[int, int, str, str], list[Instruction]] = {}
    for instruction in wanted:
        wallet = instruction.source if instruction.role == ChainKeyRole.CHAIN_KEY_ROLE_WALLET else ""
        groups.setdefault((instruction.role, instruction.kind, instruction.instrument, wallet), []).append(instruction)
    return list(groups.values())


def _failure_text(instruction: Instruction) -> str:
    name = ChainFailure.Name(instruction.failure).removeprefix("CHAIN_FAILURE_")
    return f"{name} {instruction.failure_text}".strip()
