"""What a chain must be able to do for the ledger: a few idempotent verbs, in the messages of chains.proto.

    verb               called by     does
    describe           worker        tell which chain the node is of, and what it can do
    check_account      anybody       canonical spelling of an account there, or a refusal
    inspect            operator      hold a token against its registration
    finalised          all three     the newest final position
    prepare            projector     instructions -> unsigned transactions; sends nothing, remembers nothing
    replace            projector     the same transaction with other fees, or one that does nothing in its place
    send               projector     sign and broadcast a recorded version; again and again does no harm
    fate               projector     pending, landed, or provably dead
    read               reader        everything final after a cursor
    measure            reconciler    supply and holdings, and the position they are of

An adapter books nothing and keeps nothing that matters: all it needs to go on after a crash stands in the log and comes back as
arguments. Its verbs may be called in any order, by several threads, any number of times, and after any of them the process may die.

    ChainError                  what an adapter raises; each says what an operator can do
    |-- ChainUnavailable        the node is away, slow, limiting, or answers 5xx: try again after `retry_after_seconds`
    |-- NodeUnfit               the node is of another chain, answers nonsense, or lacks history: use another node
    |-- HistoryChanged          what was final is no more: raise a divergence; nothing more is read or sent
    |-- ChainIncapable          this is asked of a chain that cannot do it
    |-- DeploymentUnfit         the token is not as registered: other decimals, authorities, or none there
    |-- FundsInsufficient       the fee payer has too little of the chain's coin
    |-- KeyMissing              there is no signer for a registered key
    `-- AdapterMissing          no adapter for this namespace is installed, or what it needs is not; says the pip command

Never raised for what others do on the chain: garbage from a node is NodeUnfit, a token event is an observation.
"""

from __future__ import annotations

import enum
import importlib.metadata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from ledger import caip
from stockledger.v1.chains_pb2 import (
    ChainCapability,
    ChainFailure,
    ChainFigure,
    ChainKey,
    ChainPosition,
    DeadTransaction,
    Deployment,
    Instruction,
    ObservedRange,
    OpenTransaction,
    Transaction,
)

ENTRY_POINTS: Final = "stockledger.chain_adapters"
"""The group of entry points in which adapters are found, each by the CAIP-2 namespace that it serves."""
PAYLOAD_BYTES_MAX: Final = 32_768
"""A recorded transaction stands in one leaf of 65,535 bytes with the ids of its instructions."""
OBSERVATIONS_PER_RANGE_MAX: Final = 10_000


# ---- what goes wrong ---------------------------------------------------------------------------------------------------------------


class ChainError(Exception):
    """Something with a chain that an operator can act on."""

    def __init__(self, chain: str, message: str) -> None:
        super().__init__(f"{chain}: {message}")
        self.chain = chain


class ChainUnavailable(ChainError):
    """The node cannot be used now; the same call may succeed later."""

    def __init__(self, chain: str, message: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(chain, message)
        self.retry_after_seconds = retry_after_seconds


class NodeUnfit(ChainError):
    """The node is of another chain, answers what cannot be, or does not go back far enough."""


class HistoryChanged(ChainError):
    """The chain has another hash than the cursor's at the cursor's number."""

    def __init__(self, chain: str, *, number: int, expected: str, found: str) -> None:
        super().__init__(chain, f"at {number} the ledger has {expected}, the node {found}")
        self.number = number
        self.expected = expected
        self.found = found


class ChainIncapable(ChainError):
    """The chain, or this token, cannot do what an instruction asks."""


class DeploymentUnfit(ChainError):
    """A token is not as it was registered."""


class FundsInsufficient(ChainError):
    """A key cannot pay for a transaction. `needed` and `found` are in the chain's smallest coin."""

    def __init__(self, chain: str, *, key: str, needed: int, found: int) -> None:
        super().__init__(chain, f"{key} has {found} of the chain's coin, needed {needed}")
        self.key = key
        self.needed = needed
        self.found = found


class KeyMissing(ChainError):
    """A registered key cannot sign here."""


class AdapterMissing(ChainError):
    """There is no adapter for the chain, or it lacks what it imports."""


# ---- what is passed about, beside the messages -------------------------------------------------------------------------------------


class Signer(Protocol):
    """Whatever holds one key: a keystore's file, the environment, a KMS.

    Signing must be deterministic where it can be (RFC 6979, Ed25519): then a crash leads to the very same transaction again. Where it
    cannot, the sequence still lets only one land.
    """

    @property
    def account(self) -> str:
        """Its account at the chain, CAIP-10 in canonical spelling."""
        ...

    def sign(self, payload: bytes) -> bytes:
        """Return the signature over `Transaction.payload`; hashing, if the chain hashes first, is the signer's.

        Raises: ChainUnavailable when the key is elsewhere and cannot be reached now.
        """
        ...


@dataclass(frozen=True, slots=True)
class ChainSettings:
    """What an adapter is connected with. Only services read files and the environment."""

    chain: str
    """CAIP-2 id that the node must be of."""
    urls: tuple[str, ...]
    """Nodes, the preferred one first; others stand in for it, never beside it within one answer."""
    signers: Mapping[str, Signer] = field(default_factory=dict)
    """By account; empty for a reader or reconciler alone."""
    finality_depth: int = 0
    """0: what the chain itself calls final; otherwise blocks on top."""
    ledger: str = ""
    """The ledger's id: an instruction is written on chain as "<ledger>/<instruction>"."""
    options: Mapping[str, str] = field(default_factory=dict)
    """The adapter's own settings, by the names it documents."""

    def whole_number(self, name: str, default: int) -> int:
        """Return an option that is a whole number from 0 on.

        Raises: ValueError.
        """
        text = self.options.get(name, str(default))
        if not (text.isascii() and text.isdecimal()):
            raise ValueError(f"option {name} is {text!r}, not a whole number")
        return int(text)


@dataclass(frozen=True, slots=True)
class ChainDescription:
    """What `describe` finds."""

    chain: str
    """CAIP-2 id as the node says."""
    node: str
    """What the node calls itself, for people. Example: "anvil/1.7.1"."""
    capabilities: frozenset[ChainCapability.ValueType]
    """The most that any token of this kind can do there; `inspect` says it of one token."""
    instructions_per_transaction_max: int
    """1: no batches."""
    final_after_seconds: int
    """How long a transaction usually takes to be final; for people and for time-outs."""


@dataclass(frozen=True, slots=True)
class ProjectionState:
    """What the log knows of a chain at one size, all that `prepare` may build on.

    A node's own count of pending transactions is never asked: it forgets, and another process may have used it.
    """

    deployments: Sequence[Deployment]
    keys: Sequence[ChainKey]
    """`consumed_count` is the lowest number that may be free; it is free unless an open transaction has it."""
    open_transactions: Sequence[OpenTransaction]
    cursor: ChainPosition


@dataclass(frozen=True, slots=True)
class ChainRefusal:
    """An instruction that the chain would refuse for ever, as a simulation at a final position shows."""

    instruction: str
    failure: ChainFailure.ValueType
    """CHAIN_FAILURE_ACCOUNT_BARRED or CHAIN_FAILURE_UNITS_INSUFFICIENT; anything else may pass and is no refusal."""
    failure_text: str
    """What the chain says, at most 140 characters."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` makes of a round of instructions."""

    transactions: tuple[Transaction, ...] = ()
    """Complete and unsigned, in the order in which they are to be recorded and sent."""
    refusals: tuple[ChainRefusal, ...] = ()
    satisfied: tuple[str, ...] = ()
    """Targets (freeze, pause, multiplier, allotment, reserve) that the chain has reached at the newest final position without us; the
    reader tells them with the first range that goes through it."""
    waiting: Mapping[str, ChainFailure.ValueType] = field(default_factory=dict)
    """Instructions that cannot be done now and may be later, and why: paused, a key without its role, an allotment used up."""


class FateKind(enum.Enum):
    """What can have become of a recorded transaction."""

    UNSEEN = "unseen"
    """The node does not know it: never sent, dropped, or reorganised away. Send it."""
    PENDING = "pending"
    """Known, not final. Sending it again does no harm."""
    LANDED = "landed"
    """Final, done or failed. Nothing to do: the reader books it when its cursor gets there."""
    DEAD = "dead"
    """Can never land, with proof."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What has become of a recorded transaction, all versions of it together."""

    kind: FateKind
    death: DeadTransaction | None = None
    """With DEAD, ready to be recorded."""
    underpriced: bool = False
    """With UNSEEN or PENDING: at today's fees it will not land soon; `replace` it."""

    def __post_init__(self) -> None:
        assert (self.death is not None) == (self.kind is FateKind.DEAD), "a death has its proof, and only a death has one"


@dataclass(frozen=True, slots=True)
class Measurement:
    """Figures read from a chain, all of one position."""

    position: ChainPosition
    """The final position that the node's answers name, not the one that was asked for."""
    figures: tuple[ChainFigure, ...]


class ChainAdapter(Protocol):
    """A chain as the projector, the reader and the reconciler see it.

    Amounts are raw units of the token, before any multiplier. Accounts are owners, in canonical spelling: where a chain keeps a token
    in accounts of its own under an owner, a movement between two of one owner is not reported, and a holding is their sum.
    """

    @property
    def chain(self) -> str:
        """CAIP-2 id, as in the settings."""
        ...

    def describe(self) -> ChainDescription:
        """Ask the node what it is.

        Raises: NodeUnfit when it is of another chain; ChainUnavailable.
        """
        ...

    def check_account(self, account: str) -> str:
        """Return the one canonical spelling of an account at this chain. Asks nobody.

        Raises: ledger.errors.InvalidRequest FIELD_MALFORMED for a wrong form or checksum, or another chain's account.
        """
        ...

    def inspect(self, deployment: Deployment) -> frozenset[ChainCapability.ValueType]:
        """Return what the token of a deployment can do with the registered setup.

        Raises: DeploymentUnfit when there is no such token, or its decimals or kind differ; NodeUnfit; ChainUnavailable.
        """
        ...

    def finalised(self) -> ChainPosition:
        """Return the newest final position by the rule of the settings. Never falls while the process lives.

        Where a node answers "final" reads with newer state, the adapter decides by number itself.

        Raises: ChainUnavailable; NodeUnfit for numbers that cannot be.
        """
        ...

    def prepare(self, instructions: Sequence[Instruction], state: ProjectionState) -> Prepared:
        """Make unsigned transactions of open instructions, as many as make sense in one round, taking them in the order given.

        Every instruction ends up in exactly one of: a transaction, a refusal, `satisfied`, `waiting`, or nowhere
        (not in this round). All
        instructions of one transaction take effect, or none. One with failure CHAIN_FAILURE_IN_COMPANY goes alone. Sequences come from
        `state` alone and are in no two transactions; the payload is complete, at most 32,768 bytes, and carries
        "<ledger>/<instruction>" of each instruction where the chain has room for it. The chain may be read: fees, coin, a simulation
        at the final position. Nothing is signed or sent, and two calls with one state may give the same sequences.

        Raises: KeyMissing for a role without a signer; FundsInsufficient; ChainIncapable; NodeUnfit; ChainUnavailable.
        """
        ...

    def replace(self, transaction: OpenTransaction, *, cancel: bool = False) -> Transaction | None:
        """Return another version with fees that the chain will take now, or None where the last version's will do.

        It has the same key and sequence and `replacement` set; with `cancel` it carries no instruction and does nothing but use up
        the sequence. Any version recorded may still be the one that lands.

        Raises: FundsInsufficient; ChainIncapable where nothing can be replaced; NodeUnfit; ChainUnavailable.
        """
        ...

    def send(self, transaction: Transaction) -> None:
        """Sign a recorded version with all its keys and broadcast it; whatever the node says, `fate` tells whether it landed.

        "Known already", "sequence used", "replacement underpriced" and a lost answer are no errors: all of them also follow from a
        crash after an earlier send.

        Raises: KeyMissing; FundsInsufficient; NodeUnfit; ChainUnavailable.
        """
        ...

    def fate(self, transaction: OpenTransaction, cursor: ChainPosition) -> Fate:
        """Tell what has become of a recorded transaction, all its versions taken together.

        DEAD only with a proof read at a final position at or below `cursor`, after which the reader would have seen it land: its
        number consumed by another transaction, its one-time value advanced, its reference expired and the history of the same node,
        which reaches back to `transaction.cursor_number`, without it. Time passed is no proof, nor is a node that does not know it.

        Raises: NodeUnfit for a history that does not reach back far enough; ChainUnavailable.
        """
        ...

    def read(
        self,
        after: ChainPosition,
        deployments: Sequence[Deployment],
        open_transactions: Sequence[OpenTransaction],
        *,
        through_number: int | None = None,
        observations_max: int = OBSERVATIONS_PER_RANGE_MAX,
    ) -> ObservedRange | None:
        """Return everything final after a cursor, or None where nothing is final beyond it yet.

        The range ends at a whole block or slot, at `through_number` or before, and has at most `observations_max` observations unless
        a single block has more. It is complete: a provider's limit, a missing page or partial logs end the range earlier or raise,
        and never leave a gap. Observations stand in the chain's order, each of a token of `deployments`, also those of a transaction
        that others sent to the token through other programs. `landed` has each of `open_transactions` that landed in the range, done
        or failed, recognised by its payload made again from what the chain has. An observation names an instruction only where it
        is the effect of one that the landed version carries: of the same kind, accounts and raw units, each instruction once.
        A multiplier that takes effect is told in the range in which the chain's time passes its moment, by `multipliers.tell_in_force`.
        Two calls with the same arguments give ranges of which one is the beginning of the other.

        Raises: HistoryChanged when the node has another hash at `after`; NodeUnfit; ChainUnavailable.
        """
        ...

    def measure(self, deployment: Deployment, accounts: Collection[str], at: ChainPosition) -> Measurement:
        """Read the supply of a token and what accounts hold of it, all at one final position.

        It is `at` where the chain keeps its past, and otherwise the one that the answers name, which is not before `at`.

        The first figure is the supply, and one follows for each account, zero included, in order.

        Raises: NodeUnfit for answers of different positions that do not come together in a few tries; ChainUnavailable.
        """
        ...

    def close(self) -> None:
        """Let go of connections. Nothing is lost by not calling it."""
        ...


Connect = Callable[[ChainSettings], ChainAdapter]
"""What an entry point gives: it makes an adapter without asking the node yet.

Raises: ValueError for settings that cannot be.
"""


# ---- which adapter -----------------------------------------------------------------------------------------------------------------


def find_adapter(chain: str, installed: Collection[importlib.metadata.EntryPoint] | None = None) -> Connect:
    """Return what connects to a chain, by the namespace of its CAIP-2 id.

    Example: `find_adapter("eip155:1")(ChainSettings(chain="eip155:1", urls=("http://127.0.0.1:8545",)))`.

    Raises: AdapterMissing with the command that would install it; ledger.errors.InvalidRequest for no CAIP-2 id.
    """
    connect: Connect = load_for_chain(ENTRY_POINTS, chain, "adapter", installed)
    return connect


def load_for_chain(group: str, chain: str, what: str, installed: Collection[importlib.metadata.EntryPoint] | None = None) -> Any:
    """Return the one thing of a group of entry points that serves a chain's namespace.

    Raises: AdapterMissing with the command that would install it; ledger.errors.InvalidRequest for no CAIP-2 id.
    """
    namespace = caip.check_chain("chain", chain).partition(":")[0]
    points = importlib.metadata.entry_points(group=group) if installed is None else installed
    found = [point for point in points if point.name == namespace]
    if not found:
        known = ", ".join(sorted({point.name for point in points})) or "none"
        raise AdapterMissing(chain, f"no {what} serves the namespace {namespace!r}; installed are: {known}")
    if len(found) > 1:
        values = ", ".join(sorted(point.value for point in found))
        raise AdapterMissing(chain, f"several {what}s serve the namespace {namespace!r}: {values}; uninstall all but one")
    try:
        return found[0].load()
    except ModuleNotFoundError as error:
        raise AdapterMissing(chain, _what_is_missing(found[0], error)) from error


def _what_is_missing(point: importlib.metadata.EntryPoint, error: ModuleNotFoundError) -> str:
    """Return what to install: an entry point names its extra in brackets, like "chain_adapters.evm:connect [evm]"."""
    distribution = point.dist.name if point.dist is not None else "stockledger"
    extras = f"[{','.join(point.extras)}]" if point.extras else ""
    return f"its adapter needs the module {error.name!r}, which is not installed; try: pip install '{distribution}{extras}'"
