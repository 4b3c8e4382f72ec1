"""The books: what is true after a number of entries, as tables of immutable records and columns of integers.

State changes in two ways only: `put` and `remove` on a table, and `post` for a movement of units (`post_columns` for many). Both
write the old value to the journal while one is kept, so that a batch whose append failed can be undone exactly. Nothing here reads a
clock, a store or a network.

Holdings are columns: `books[instrument number].units[account number]`. Account numbers are dense, so a batch of thousands of legs is
checked and booked on whole columns at once.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ledger import vectors
from ledger.open_holds import OpenHolds
from ledger.records import (  # at run time too: the declared types of State are the schema of snapshots
    Account,
    Action,
    Approval,
    ApprovalPolicy,
    Chain,
    ChainKey,
    Custodian,
    CustodyAccount,
    Deployment,
    Divergence,
    Entitlement,
    Evidence,
    FigureRead,
    FrozenUnits,
    Holder,
    Instruction,
    Instrument,
    MultiplierChange,
    OpenTransaction,
    Redemption,
    ScheduledMultiplier,
    Subscription,
)
from ledger.request_window import RequestWindow, by_second, span_ms

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping, Sequence

K = TypeVar("K")
V = TypeVar("V")

# The ledger's own accounts have the numbers 0 to 15. All but issuance and external never go below zero.
ISSUANCE: Final = 0
REMAINDER: Final = 1
UNCLAIMED: Final = 2
BLOCKED: Final = 3
WITHHELD: Final = 4
LOSS: Final = 5
EXTERNAL: Final = 6
OWN_ACCOUNTS: Final = {
    "ledger:issuance": ISSUANCE,
    "ledger:remainder": REMAINDER,
    "ledger:unclaimed": UNCLAIMED,
    "ledger:blocked": BLOCKED,
    "ledger:withheld": WITHHELD,
    "ledger:loss": LOSS,
    "ledger:external": EXTERNAL,
}
FIRST_ACCOUNT_NUMBER: Final = 16
REQUEST_WINDOW_SECONDS_MIN: Final = 60
"""However many requests come, those of the last minute are remembered."""

UNITS_BOUND: Final = 1 << 63
"""A holding has 64 bits, its sign among them."""

_MISSING: Final = object()


class Book:
    """The holdings of one instrument: units and held units by account number."""

    __slots__ = ("held", "units")

    def __init__(self) -> None:
        self.units = array("q", bytes(8 * FIRST_ACCOUNT_NUMBER))
        self.held = array("q", bytes(8 * FIRST_ACCOUNT_NUMBER))

    def reach(self, account_count: int) -> None:
        """Make both columns long enough for this many accounts, growing by half so that appends stay cheap."""
        missing = account_count - len(self.units)
        if missing > 0:
            room = bytes(8 * max(missing, len(self.units) // 2))
            self.units.frombytes(room)
            self.held.frombytes(room)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Book)
            and _without_trailing_zeros(self.units) == _without_trailing_zeros(other.units)
            and _without_trailing_zeros(self.held) == _without_trailing_zeros(other.held)
        )

    __hash__ = None  # type: ignore[assignment]


class _Cells:
    """Cells of a column as the journal keeps them: many numbers and their old values under one key, where a number may stand twice."""

    __slots__ = ("column",)

    def __init__(self, column: array[int]) -> None:
        self.column = column

    def exchange(self, numbers: Any, values: Any) -> Any:
        cells = vectors.view_of(self.column)
        found = cells[numbers]
        cells[numbers] = values
        return found


class _Rows:
    """Records of a table as the journal keeps them that were added together (old values: `_MISSING`)."""

    __slots__ = ("table",)

    def __init__(self, table: MutableMapping[Any, Any]) -> None:
        self.table = table

    def exchange(self, keys: Sequence[Any], records: Any) -> Any:
        if records is _MISSING:
            return [self.table.pop(key) for key in keys]
        self.table.update(zip(keys, records, strict=True))
        return _MISSING


def _exchange(table: Any, key: Any, value: Any) -> Any:
    """Put a value of the journal where it belongs, and return what was there."""
    if isinstance(table, (_Cells, _Rows)):
        return table.exchange(key, value)
    found = table[key] if isinstance(table, array) else table.get(key, _MISSING)
    if value is _MISSING:
        del table[key]
    else:
        table[key] = value
    return found


def _without_trailing_zeros(column: array[int]) -> bytes:
    """Return a column's values; how far it was grown is no part of the books."""
    return column.tobytes().rstrip(b"\0")


@dataclass(slots=True)
class State:
    """Everything the ledger knows after `size` entries."""

    ledger_id: str = ""
    origin: str = ""
    size: int = 0
    last_decision_time_us: int = 0
    request_window_seconds: int = 0
    request_window_count: int = 0
    requests: RequestWindow = field(default_factory=RequestWindow)
    parts: list[bytes] = field(default_factory=list)
    """Serialised parts of a command whose last part has not been folded yet."""

    counters: dict[str, int] = field(default_factory=dict)
    """The last number given, by kind: "instrument", "account", "hold", ..."""
    instruments: dict[str, Instrument] = field(default_factory=dict)
    instrument_symbols: dict[int, str] = field(default_factory=dict)
    holders: dict[str, Holder] = field(default_factory=dict)
    accounts: dict[str, Account] = field(default_factory=dict)
    account_names: dict[int, str] = field(default_factory=dict)
    accounts_of_holder: dict[str, dict[str, None]] = field(default_factory=dict)
    """Names of each holder's accounts, oldest first."""
    books: dict[int, Book] = field(default_factory=dict)
    """By instrument number."""
    frozen_units: dict[tuple[int, int], FrozenUnits] = field(default_factory=dict)
    """By (instrument number, account number)."""
    profiles: array[int] = field(default_factory=lambda: array("i", bytes(4 * FIRST_ACCOUNT_NUMBER)), compare=False)
    """By account number: the number of its holder's (country, class), or 0 where a movement needs a closer look."""
    profile_numbers: dict[tuple[str, int], int] = field(default_factory=dict)
    """(country, class) -> its number, from 1."""

    holds: OpenHolds = field(default_factory=OpenHolds)
    hold_expiries: dict[int, dict[int, None]] = field(default_factory=dict)
    """Open holds that expire, by the second (since 1970) in which they do."""

    approvals: dict[int, Approval] = field(default_factory=dict)
    approval_policies: dict[str, ApprovalPolicy] = field(default_factory=dict)
    """By command name; a command not named here needs no approval."""
    roles: dict[tuple[str, int, str], int] = field(default_factory=dict)
    """Granted roles: (principal, role, scope) -> index of the grant's entry."""
    grants: dict[str, tuple[tuple[int, str], ...]] = field(default_factory=dict)
    """The same by principal: its (role, scope), sorted. Who asks is looked up before every command."""

    custodians: dict[str, Custodian] = field(default_factory=dict)
    custody_accounts: dict[str, CustodyAccount] = field(default_factory=dict)
    custody_accounts_of_instrument: dict[str, tuple[str, ...]] = field(default_factory=dict)
    evidence: dict[str, Evidence] = field(default_factory=dict)
    """The newest of each custody account."""
    shortfalls: dict[str, int] = field(default_factory=dict)
    """Instruments with an open reserve shortfall -> index of the entry that raised it."""

    subscriptions: dict[int, Subscription] = field(default_factory=dict)
    redemptions: dict[int, Redemption] = field(default_factory=dict)

    actions: dict[str, Action] = field(default_factory=dict)
    entitlements: dict[str, Entitlement] = field(default_factory=dict)
    """Of actions that are fixed and not completed."""
    owed: dict[tuple[str, int], tuple[int, int, int]] = field(default_factory=dict)
    """What actions blocked or left unclaimed: (action, account number) -> (blocked, unclaimed, withheld before) units."""

    receivables: dict[tuple[str, str, str], int] = field(default_factory=dict)
    """Units owed after reversals, by (holder, instrument, loss account)."""
    reversed: dict[tuple[int, int], int] = field(default_factory=dict)
    """(index, position within a packed entry or a batch's part) of a reversed transfer -> index of the reversal."""

    chains: dict[str, Chain] = field(default_factory=dict)
    """By CAIP-2 id."""
    deployments: dict[tuple[str, str], Deployment] = field(default_factory=dict)
    """By (instrument, chain): those of one instrument are looked up more often."""
    chains_of_instrument: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Where each instrument is deployed, retired deployments included, by chain."""
    deployment_of_token: dict[str, tuple[str, str]] = field(default_factory=dict)
    """CAIP-19 id -> key of its deployment."""
    chain_keys: dict[str, ChainKey] = field(default_factory=dict)
    """By CAIP-10 account."""
    deposit_addresses: dict[str, str] = field(default_factory=dict)
    """Address of ours, CAIP-10 -> the account in the book it stands for."""
    place_units: dict[tuple[str, str], int] = field(default_factory=dict)
    """Units of an instrument on all accounts at a chain: (instrument, chain) -> units. Only `rules.chains.places.move` writes it."""
    instructions: dict[tuple[int, int], Instruction] = field(default_factory=dict)
    """What is not over, by (index, position)."""
    targets: dict[tuple[int, str, str, str], tuple[tuple[int, int], ...]] = field(default_factory=dict)
    """Instructions with a target that are not over: (kind, chain, instrument, account) -> their keys, oldest first."""
    promised: dict[tuple[int, int], int] = field(default_factory=dict)
    """Units that open instructions take from accounts at chains: (instrument number, account number) -> units."""
    onward_units: dict[tuple[str, str], int] = field(default_factory=dict)
    """Units of open burns that go on to another chain: (instrument, that chain) -> units. They count for its allotment from the start."""
    open_transactions: dict[tuple[str, str], OpenTransaction] = field(default_factory=dict)
    """By (key, sequence as text)."""
    divergences: dict[int, Divergence] = field(default_factory=dict)
    """Open ones, by number."""
    halts: dict[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)
    """Open divergences that stop (chain, instrument), or with no instrument the whole chain."""
    wallet_raw: dict[tuple[str, str, str], int] = field(default_factory=dict)
    """Omnibus: raw units, final, of each wallet and deposit address of ours: (chain, instrument, address) -> raw."""
    withdrawn: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    """Omnibus: (chain, instrument) -> (day, UTC; units withdrawn on it), of the last day on which any were."""
    figures: dict[tuple[str, str, str], FigureRead] = field(default_factory=dict)
    """As last read from a chain: (chain, instrument, account; "" for the supply)."""
    anchored: dict[str, int] = field(default_factory=dict)
    """Size of the newest checkpoint asked to be kept on each chain."""
    scheduled_multipliers: dict[str, ScheduledMultiplier] = field(default_factory=dict)
    """By instrument: the multiplier that is set for a moment ahead."""
    multiplier_changes: dict[tuple[str, str], tuple[MultiplierChange, ...]] = field(default_factory=dict)
    """Multipliers that took effect, by (instrument, "book" or chain): the newest, oldest first."""

    journal: list[Any] | None = field(default=None, compare=False)
    """Old values since `begin`, newest last: table, key, old value, and so on flat, since a tuple each would keep the garbage collector
    busy for a third of a settlement's time. None while nothing is journaled."""
    as_before: bool = field(default=False, compare=False)
    """True while everything is as it was at `begin`, and the journal keeps what was done since."""
    _saved: tuple[Any, ...] = field(default=(), compare=False)

    def put(self, table: MutableMapping[K, V], key: K, value: V) -> None:
        """Set a record of a table."""
        if self.journal is not None:
            self.journal += (table, key, table.get(key, _MISSING))
        table[key] = value

    def remove(self, table: MutableMapping[K, V], key: K) -> V:
        """Remove a record of a table and return it; it must be there."""
        old = table.pop(key)
        if self.journal is not None:
            self.journal += (table, key, old)
        return old

    def set_cell(self, column: array[int], number: int, value: int) -> None:
        """Set one cell of a column."""
        if self.journal is not None:
            self.journal += (column, number, column[number])
        column[number] = value

    def next_number(self, kind: str) -> int:
        """Return the number that the next thing of a kind will get. `evolve` books it with `put(counters, kind, number)`."""
        return self.counters.get(kind, 0) + 1

    def post(self, instrument_number: int, source: int, destination: int, units: int) -> None:
        """Book a movement: the one way in which holdings change one by one. All holdings of an instrument keep summing to zero."""
        assert units > 0, "a movement has units above zero"
        assert 0 <= source != destination >= 0, "a movement has two ends, and account numbers are not negative"
        book = self.books[instrument_number]
        column = book.units
        if destination >= len(column) or source >= len(column):
            book.reach(max(source, destination) + 1)
        source_before = column[source]
        destination_before = column[destination]
        journal = self.journal
        if journal is not None:
            journal += (column, source, source_before, column, destination, destination_before)
        column[source] = source_before - units
        column[destination] = destination_before + units

    def post_columns(self, instrument_number: int, sources: Sequence[int], destinations: Sequence[int], units: Sequence[int]) -> None:
        """Book movements of one instrument whose order does not matter any more: all of them were found acceptable."""
        if not vectors.worthwhile(len(units)) or not self.has_room(instrument_number, sources, destinations, units):
            for source, destination, moved in zip(sources, destinations, units, strict=True):
                self.post(instrument_number, source, destination, moved)
            return
        giving, taking, moving = vectors.int64s(sources), vectors.int64s(destinations), vectors.int64s(units)
        assert moving.min() > 0, "a movement has units above zero"
        assert (giving != taking).all(), "a movement has two ends"
        book = self.books[instrument_number]
        self.add_to_cells(book, book.units, giving, -moving)
        self.add_to_cells(book, book.units, taking, moving)

    def has_room(self, instrument_number: int, sources: Sequence[int], destinations: Sequence[int], units: Sequence[int]) -> bool:
        """Return whether no holding can leave 64 bits, whatever the order in which these movements are booked."""
        book = self.books[instrument_number]
        if vectors.worthwhile(len(units)):
            giving, taking = vectors.int64s(sources), vectors.int64s(destinations)
            book.reach(int(max(giving.max(), taking.max())) + 1)
            column = vectors.view_of(book.units)
            least, greatest, moved = int(column[giving].min()), int(column[taking].max()), vectors.exact_sum(vectors.int64s(units))
        else:
            book.reach(max(*sources, *destinations) + 1)
            least, greatest = min(map(book.units.__getitem__, sources)), max(map(book.units.__getitem__, destinations))
            moved = sum(units)
        return least - moved >= -UNITS_BOUND and greatest + moved < UNITS_BOUND

    def add_to_cells(self, book: Book, column: array[int], numbers: Any, changes: Any) -> None:
        """Add to many cells of one of a book's columns; both are numpy columns, and an account may stand in them many times.

        Sums wrap at 64 bits on the way without harm: what every account ends with is within range.
        """
        assert numbers.min() >= 0, "account numbers are not negative"
        book.reach(int(numbers.max()) + 1)
        self.change_cells(column, numbers, changes)

    def change_cells(self, column: array[int], numbers: Any, changes: Any) -> None:
        """Add to many cells of a column that is long enough, where a number may stand many times."""
        cells = vectors.view_of(column)
        if self.journal is not None:
            self.journal += (_Cells(column), numbers, cells[numbers])
        vectors.numpy.add.at(cells, numbers, changes)

    def holding(self, instrument_number: int, account_number: int) -> int:
        """Return the units an account holds of an instrument."""
        column = self.books[instrument_number].units
        return column[account_number] if account_number < len(column) else 0

    def held(self, instrument_number: int, account_number: int) -> int:
        """Return the units of a holding that are on hold."""
        column = self.books[instrument_number].held
        return column[account_number] if account_number < len(column) else 0

    def change_held(self, instrument_number: int, account_number: int, change: int) -> None:
        """Add to (or take from) the held units of a holding."""
        book = self.books[instrument_number]
        book.reach(account_number + 1)
        held = book.held[account_number] + change
        assert held >= 0, "held units are never below zero"
        assert held <= book.units[account_number], "held units never exceed the holding"
        self.set_cell(book.held, account_number, held)

    def frozen(self, instrument_number: int, account_number: int) -> int:
        """Return the frozen units of a holding; they may exceed it."""
        if not self.frozen_units:
            return 0
        frozen = self.frozen_units.get((instrument_number, account_number))
        return 0 if frozen is None else frozen.units

    def free(self, instrument_number: int, account_number: int) -> int:
        """Return the units of a holding that can move now; below zero where more are frozen than held."""
        book = self.books[instrument_number]
        unheld = book.units[account_number] - book.held[account_number] if account_number < len(book.units) else 0
        return unheld - self.frozen(instrument_number, account_number) if self.frozen_units else unheld

    def supply(self, instrument_number: int) -> int:
        """Return what the issuance account owes."""
        return -self.books[instrument_number].units[ISSUANCE]

    def remember_request(self, request_id: bytes, principal: str, location: int, decision_time_us: int) -> None:
        """Note where a request was booked (index << 16 | position), and move the low-water mark on."""
        requests = self.requests
        second = int.from_bytes(request_id[:6], "big") // 1000
        bucket = requests.seconds.get(second)
        if bucket is None:
            bucket = {}
            self.put(requests.seconds, second, bucket)
        key = request_id + principal.encode()
        if self.journal is not None:
            self.journal += (bucket, key, _MISSING)
        bucket[key] = location
        requests.note_newest((request_id,))
        requests.count += 1
        self._forget_requests(decision_time_us // 1_000_000)

    def window_holds(self, request_ids: Sequence[bytes], decision_time_us: int) -> bool:
        """Return whether these ids can be remembered together, up to a decision time: one by one, none would be forgotten or too old."""
        return self.window_has_room(len(request_ids), span_ms(request_ids)[0] // 1000, decision_time_us)

    def window_has_room(self, count: int, oldest_second: int, decision_time_us: int) -> bool:
        """Return whether so many ids can be remembered together, the oldest of which was made in this second."""
        requests = self.requests
        if requests.count + count > self.request_window_count:
            return False
        return oldest_second >= max(requests.low_water_second, decision_time_us // 1_000_000 - self.request_window_seconds)

    def remember_requests(self, request_ids: Sequence[bytes], principal: str, locations: range, decision_time_us: int) -> None:
        """Note where requests were booked, each at its location (index << 16 | position), and move the low-water mark on."""
        requests = self.requests
        seconds = requests.seconds
        for second, (new, mine) in by_second(request_ids, principal, locations).items():
            bucket = seconds.get(second)
            if bucket is None:
                bucket = {}
                self.put(seconds, second, bucket)
            if self.journal is not None:
                self.journal += (_Rows(bucket), new, _MISSING)
            remembered = len(bucket) + len(new)
            bucket.update(zip(new, mine, strict=True))
            assert len(bucket) == remembered, "a request is booked once"
            requests.count += len(new)
        requests.note_newest(request_ids)
        self._forget_requests(decision_time_us // 1_000_000)

    def remember_stored(self, keys: Sequence[bytes], starts: Sequence[tuple[int, int]], first_location: int, decision_time_us: int) -> None:
        """Note requests of entries in the log that follow each other, as `remember_request` does one by one; `window_has_room` was asked.

        `starts` are (position, second): from this key on, ids were made in this second.
        """
        assert self.journal is None, "what is stored is not undone"
        seconds = self.requests.seconds
        stops = [*(position for position, _ in starts), len(keys)]
        for (start, second), stop in zip(starts, stops[1:], strict=True):
            locations = range(first_location + (start << 16), first_location + (stop << 16), 1 << 16)
            seconds.setdefault(second, {}).update(zip(keys[start:stop], locations, strict=True))
        self.requests.forget_newest()
        self.requests.count += len(keys)
        self._forget_requests(decision_time_us // 1_000_000)

    def _forget_requests(self, decision_second: int) -> None:
        """Move the low-water mark on where the window is over, or full."""
        requests = self.requests
        oldest = decision_second - self.request_window_seconds
        if oldest > requests.low_water_second:
            self._forget_requests_before(oldest)
        if requests.count <= self.request_window_count:
            return
        latest = decision_second - REQUEST_WINDOW_SECONDS_MIN
        while requests.count > self.request_window_count and requests.low_water_second < latest:
            low = requests.low_water_second
            self._forget_requests_before(low + 1 if low in requests.seconds else min(latest, *requests.seconds))

    def _forget_requests_before(self, second: int) -> None:
        """Raise the low-water mark and drop the ids below it."""
        requests = self.requests
        gap = range(requests.low_water_second, second)
        dropped = (
            [old for old in requests.seconds if old < second]
            if len(gap) > len(requests.seconds)
            else [old for old in gap if old in requests.seconds]
        )
        for old in dropped:
            requests.count -= len(requests.seconds[old])
            self.remove(requests.seconds, old)
        requests.low_water_second = second

    def next_decision_time_us(self, clock_us: int) -> int:
        """Return the decision time of the next command: the clock's, but always later than the last one."""
        return max(clock_us, self.last_decision_time_us + 1)

    # A batch of commands is provisional until its append is durable.

    def begin(self) -> None:
        """Start keeping old values."""
        assert self.journal is None, "batches do not nest"
        self.holds.tidy()
        self.journal = []
        requests = self.requests
        self._saved = (self.size, self.last_decision_time_us, list(self.parts), requests.count, requests.low_water_second)

    def keep(self) -> None:
        """Forget the old values: what was done since `begin` is durable."""
        assert not self.as_before, "what was done is there"
        self.journal = None

    def old_cells(self) -> Iterator[tuple[array[int], int, int]]:
        """Give the cells of columns written since `begin` as (column, number, value before), oldest first; one may stand many times.

        Its first value is what the cell had at `begin`: so the verifier sees what a booking did to holdings without trusting its event.
        """
        journal = self.journal or []
        for table, key, old in zip(journal[0::3], journal[1::3], journal[2::3], strict=True):
            if isinstance(table, array):
                yield table, key, old
            elif isinstance(table, _Cells):
                yield from ((table.column, number, value) for number, value in zip(key.tolist(), old.tolist(), strict=True))

    def swap(self) -> None:
        """Put everything back as it was at `begin`; done a second time, do again what was done since."""
        journal = self.journal
        assert journal is not None, "nothing was begun"
        places = range(0, len(journal), 3)
        for place in places if self.as_before else reversed(places):
            journal[place + 2] = _exchange(*journal[place : place + 3])
        found = (self.size, self.last_decision_time_us, self.parts, self.requests.count, self.requests.low_water_second)
        self.size, self.last_decision_time_us, self.parts, self.requests.count, self.requests.low_water_second = self._saved
        self._saved = found
        self.as_before = not self.as_before

    def undo(self) -> None:
        """Restore every old value: what was done since `begin` never happened."""
        if not self.as_before:
            self.swap()
        self.as_before = False
        self.journal = None
