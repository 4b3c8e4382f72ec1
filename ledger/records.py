"""The records of the books: what a table keeps of one holder, hold, subscription...; frozen, replaced whole.

Units, shares and moments are integers: units of the smallest unit, shares at scale 1e8 (`_e8`), multipliers at scale 1e18 (`_e18`),
microseconds since 1970 (`_us`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NEVER: Final = (1 << 63) - 1
"""A moment that does not come, in microseconds."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """A security or currency. Enum fields hold the numbers of instruments.proto; the multiplier is an int at scale 1e18."""

    symbol: str
    number: int
    name: str
    kind: int
    isin: str
    underlying_isin: str
    currency: str
    decimals: int
    backing: int
    authorised_units: int
    multiplier: int
    issue_policy: int
    split_method: int
    dividend_method: int
    halted_operations: frozenset[int] = frozenset()
    retired: bool = False
    share_basis: int = 0
    next_due_time_us: int = NEVER
    """When the next step of a corporate action falls due; from then on commands it would change are refused."""
    eligibility: tuple[EligibilityRule, ...] = ()
    """Dated rules by effective date; of two for one date the later set one stands later."""
    replaced_index: int = -1
    """Index of the last UnitsReplaced, whose evolve sets it (`entry_index`): transfers booked before it moved units of another kind and
    can no longer be reversed."""
    split_index: int = -1
    """Index of the entry that last raised share_basis: commands asked for before it counted in other units or shares."""


@dataclass(frozen=True, slots=True)
class EligibilityRule:
    """Who may hold an instrument from a date on; empty allow sets allow all."""

    effective_date: str
    allowed_countries: frozenset[str]
    barred_countries: frozenset[str]
    allowed_classes: frozenset[int]
    barred_classes: frozenset[int]

    def admits(self, country: str, investor_class: int) -> bool:
        if country in self.barred_countries or investor_class in self.barred_classes:
            return False
        if self.allowed_countries and country not in self.allowed_countries:
            return False
        return not self.allowed_classes or investor_class in self.allowed_classes


@dataclass(frozen=True, slots=True)
class Holder:
    """A registered party under a pseudonym."""

    holder: str
    country: str
    investor_class: int
    state: int
    freeze_reference: str = ""
    broker: str = ""
    """Who brought the holder and acts for it; its accounts are that broker's too."""


@dataclass(frozen=True, slots=True)
class Account:
    """A holder's named line at a place; `place` is what stands before the last colon of its name."""

    name: str
    number: int
    holder: str
    closed: bool = False
    freeze_reference: str = ""

    @property
    def place(self) -> str:
        return self.name.rpartition(":")[0]


@dataclass(frozen=True, slots=True)
class FrozenUnits:
    """Units of one holding under a regulatory stop."""

    units: int
    legal_reference: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Units reserved for a pending step."""

    hold: int
    instrument: int
    account: int
    purpose: int
    expiry_time_us: int
    reference: str
    units: int
    """What is left of them."""


@dataclass(frozen=True, slots=True)
class Approval:
    """A command that waits for approvals."""

    approval: int
    command: str
    content: bytes
    requester: str
    approvals_needed: int
    approvers: tuple[str, ...]
    approved_by: tuple[str, ...]
    request_time_us: int
    index: int
    """Index of the entry that asked for it."""


@dataclass(frozen=True, slots=True)
class ApprovalPolicy:
    """How many others must approve a kind of command, and who may (nobody named: any)."""

    approvals_needed: int
    approvers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Custodian:
    """Who keeps shares or cash, or an agent who vouches for them."""

    custodian: str
    name: str
    public_key: bytes
    agent: bool


@dataclass(frozen=True, slots=True)
class CustodyAccount:
    """An account at a custodian; it backs one instrument."""

    custody_account: str
    custodian: str
    isin: str
    instrument: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """The newest evidence of one custody account, and what was confirmed since. Shares at scale 1e8."""

    custody_account: str
    kind: int
    signer: str
    settled_shares_e8: int
    pending_shares_e8: int
    encumbered_shares_e8: int
    as_of_time_us: int
    valid_until_time_us: int
    share_basis: int
    index: int
    confirmed: tuple[tuple[int, int], ...] = ()
    """Receipts (above zero) and deliveries (below) that settled after as_of_time: (settled_time_us, shares_e8), as confirmed."""
    received_shares_e8: int = 0
    """Sum of the receipts in `confirmed`."""
    delivered_shares_e8: int = 0
    """Sum of the deliveries in `confirmed`, above zero."""

    @property
    def shares_e8(self) -> int:
        """What the custody account holds by this evidence and what was confirmed since; below zero if more left it than was known."""
        return self.settled_shares_e8 + self.received_shares_e8 - self.delivered_shares_e8


@dataclass(frozen=True, slots=True)
class Fill:
    """One execution in the underlying market, for a subscription or a redemption; a split scales shares and units until it is settled."""

    fill: int
    shares_e8: int
    price_e8: int
    cash_units: int
    fee_units: int
    trade_date: str
    settlement_date: str
    units: int
    settled: bool
    issued_at_fill: bool = False
    """Of a subscription: its units were created with the fill, so that settlement creates none."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """An open order for units against cash; what is left of the cash stands on its hold."""

    subscription: int
    instrument: str
    account: str
    cash_instrument: str
    cash_units: int
    hold: int
    fills: tuple[Fill, ...] = ()
    last: bool = False
    """True once no fill can follow; the record goes when all fills are settled."""
    receiving_account: str = ""
    """A wallet where its units are minted; empty: `account`."""


@dataclass(frozen=True, slots=True)
class Redemption:
    """An open request to turn units back; units not destroyed yet stand on its hold."""

    redemption: int
    instrument: str
    account: str
    units: int
    hold: int
    cash_instrument: str
    in_kind: bool
    delivery_reference: str
    fills: tuple[Fill, ...] = ()
    delivered_units: int = 0
    wallet: str = ""
    """Whose units are burned at their chain first; until that is final there is no hold."""
    reference: str = ""
    """The holder's own, for the hold to come."""


@dataclass(frozen=True, slots=True)
class Action:
    """A corporate action; `terms` is its serialised Action message, as announced."""

    action: str
    instrument: str
    state: int
    method: int
    effect: int
    fixing_time_us: int
    """NEVER where no entitlements are fixed."""
    execution_time_us: int
    terms: bytes
    distributed: str = ""
    """The instrument a distribution was paid in, once it was."""
    totals: bytes = b""
    """Its serialised ActionCompleted, once completed."""
    growth: tuple[int, int] = (1, 1)
    """By the multiplier: what one becomes, as (numerator, denominator)."""


@dataclass(frozen=True, slots=True)
class Entitlement:
    """Units each account is entitled for, fixed at the record date: two equally long columns, by account number."""

    accounts: tuple[int, ...]
    units: tuple[int, ...]
    multiplier: int
    """What a unit stood for at that moment, at scale 1e18."""


@dataclass(frozen=True, slots=True)
class ChainPosition:
    """A place in a chain's history: a block or slot."""

    number: int
    hash: str
    time_us: int


@dataclass(frozen=True, slots=True)
class Chain:
    """A place where the chain decides, by its CAIP-2 id; `transit`, `divergence` and `unattributed` are account numbers."""

    chain: str
    name: str
    finality_rule: int
    finality_depth: int
    transit: int
    divergence: int
    unattributed: int
    cursor: ChainPosition
    """Everything up to here is in the books."""
    retired: bool = False


@dataclass(frozen=True, slots=True)
class Deployment:
    """An instrument on a chain. Enum fields hold the numbers of chains.proto."""

    chain: str
    instrument: str
    token: str
    decimals: int
    kind: int
    capabilities: frozenset[int]
    allotment_units: int = 0
    wallets: tuple[str, ...] = ()
    """Omnibus: wallets of ours; withdrawals are sent from the first."""
    units_per_withdrawal_max: int = 0
    units_per_day_max: int = 0
    halt_on_divergence: bool = False
    retired: bool = False
    dust_raw: int = 0
    """Omnibus: raw units received that make no whole unit yet."""
    observed_multiplier: int = 0
    """As last seen on chain, at scale 1e18; 0: none seen."""
    paused_operations: frozenset[int] = frozenset()
    """As last seen on chain."""
    registered_time_us: int = 0
    chain_multiplier: int = -1
    """In force on chain at the chain's cursor, at scale 1e18; 0: there is no token yet; -1: not read yet, or the token has none."""
    chain_next_multiplier: int = 0
    """Set there for a moment ahead; 0: none."""
    chain_next_time_us: int = 0


@dataclass(frozen=True, slots=True)
class ChainKey:
    """A key that signs for the ledger on a chain, by its CAIP-10 account."""

    key: str
    chain: str
    roles: frozenset[int]
    instruments: frozenset[str]
    """For these alone; empty: all."""
    retired: bool
    consumed_count: int
    """Counted keys: every number below this one is finally consumed."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """What the ledger wants done on a chain, while it is not over: OPEN, RECORDED or REFUSED.

    Accounts are names; which fields count, and for what, depends on the kind as Instruction of chains.proto says.
    """

    index: int
    """Of the entry whose event it follows from."""
    position: int
    """Among the instructions of that entry."""
    chain: str
    instrument: str
    kind: int
    decision_time_us: int
    role: int
    source: str = ""
    destination: str = ""
    units: int = 0
    raw: int = 0
    origin: str = ""
    onward: str = ""
    owner_account: str = ""
    redemption: int = 0
    frozen: bool = False
    operations: frozenset[int] = frozenset()
    multiplier: int = 0
    effective_time_us: int = 0
    note: bytes = b""
    legal_reference: str = ""
    state: int = 1
    failure: int = 0
    failure_text: str = ""
    attempt_count: int = 0

    @property
    def key(self) -> tuple[int, int]:
        return self.index, self.position

    @property
    def text(self) -> str:
        """Its id on the wire and on chain. Example: "4711-0"."""
        return f"{self.index}-{self.position}"


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A recorded transaction that may land, with all its versions."""

    chain: str
    key: str
    sequence: str
    """As a text that no other sequence of the key has; see `rules.chains.transactions.sequence_text`."""
    versions: tuple[bytes, ...]
    """Serialised Transaction messages, oldest first; the last is the one to send."""
    instructions: tuple[tuple[int, int], ...]
    """Keys of the instructions that the first version carries."""
    index: int
    position: int
    """Among the transactions of the entry that recorded the first version."""
    first_time_us: int
    last_time_us: int
    cursor_number: int
    """Number of the cursor when the first was recorded: it did not land at or before it."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """An open disagreement of ledger and chain, with both figures."""

    divergence: int
    chain: str
    instrument: str
    account: str
    kind: int
    expected: str
    found: str
    position: ChainPosition
    transaction: str
    halting: bool
    index: int


@dataclass(frozen=True, slots=True)
class FigureRead:
    """A figure last read from a chain, and by how much it differed from the ledger's at that position; both raw."""

    raw: int
    difference_raw: int
    position: ChainPosition


@dataclass(frozen=True, slots=True)
class MultiplierChange:
    """A multiplier took the place of another, at scale 1e18, in the book or on a chain."""

    instrument: str
    place: str
    old_multiplier: int
    multiplier: int
    effective_time_us: int
    """From when on it was to count."""
    time_us: int
    """When it was decided; on a chain, when the first block or slot with it was made."""
    index: int
    position: int = 0
    """Among the effects of its event."""
    number: int = 0
    """Of the block or slot."""
    action: str = ""
    told_ahead: bool = False
    """In the book: whether the chains had been told before."""


@dataclass(frozen=True, slots=True)
class ScheduledMultiplier:
    """A multiplier set for a moment ahead, at scale 1e18."""

    multiplier: int
    effective_time_us: int
    action: str
