"""Verify a log offline, from its bytes alone.

    report = verify_store("sqlite:///books.db", keys=[VerifierKey.parse("acme.example/stockledger+...")])
    report = audit_export("export/", keys=[...])

Nothing here believes what another part of the program has worked out: hashes are computed from the stored bytes, the tree from the hashes,
the books from the entries, and what must hold of the books (DESIGN, section 3) from their tables, after every single booking. Snapshots
are not looked at. A store is read beside its writer, without stopping it.

What a report says of a sound log: every entry is there, unchanged, and in its place; it parses, with no field this version does not know;
whoever asked was booked at most once; every checkpoint is of this tree, and so all of them are of one history; and after every booking
the holdings of each instrument summed to zero, nobody but issuance and external owed anything, no more was held than there was, what was
issued was covered by evidence in force, a shortfall was open where reserves were short, and each corporate action paid out exactly what it
had declared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from google.protobuf.message import DecodeError

from ledger.arithmetic import UNITS_MAX, shares_e8_of_units_ceiling
from ledger.digest import state_digest
from ledger.errors import DataLoss, InvalidRequest, LedgerError, RuleViolated, refusal
from ledger.log.checkpoint import parse_checkpoint
from ledger.log.merkle import root_at
from ledger.log.store import open_log
from ledger.log.store_url import redact_url
from ledger.log.tiles import TileDirectory
from ledger.replay import parse_entry
from ledger.request_ids import AHEAD_MS_MAX, format_request_id, request_id_time_ms
from ledger.rules import ARITHMETIC_VERSION, fold
from ledger.state import EXTERNAL, ISSUANCE, State
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.events_pb2 import Entry

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ledger.log.checkpoint import Checkpoint, VerifierKey
    from ledger.log.log import Log
    from ledger.records import Evidence, Instrument
    from ledger.state import Book

    Progress = Callable[[str, int, int], None]
    """Called with (what is being done, done, total) entries."""

MAY_OWE: Final = (ISSUANCE, EXTERNAL)
"""Accounts whose holdings may be below zero."""
ISSUING: Final = frozenset({"units_issued", "subscription_filled", "fill_settled"})
"""Events that may create units against reserves. A split makes units too, of other shares."""
ATTESTING: Final = frozenset({"evidence_recorded", "receipt_confirmed", "delivery_confirmed"})
"""Events that change what is known of reserves."""
PAID: Final = ("paid_units", "withheld_units", "blocked_units", "unclaimed_units", "remainder_units")
"""Columns of DistributionPaid; their sums over all its parts stand in ActionCompleted under the same names."""
_REQUEST_ID_BYTES: Final = 16
_PRINCIPAL_LENGTH_MAX: Final = 128
_PROGRESS_EVERY: Final = 4096

_FAULTS: Final = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What folding an entry raises that no rule of ours has decided."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it must be; `index` is the first bad entry, where it is one."""

    check: str
    reason: str
    message: str
    index: int | None


@dataclass(slots=True)
class Report:
    """What was looked at, and what was found. `sound_size` entries from the beginning on can be relied on."""

    source: str
    ledger_id: str = ""
    origin: str = ""
    size: int = 0
    sound_size: int = 0
    root: bytes | None = None
    state_digest: str = ""
    checkpoint_count: int = 0
    keys_given: bool = False
    done: list[str] = field(default_factory=list)
    """What was checked and found sound, a sentence each."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.findings

    @property
    def first_bad_index(self) -> int | None:
        return min((finding.index for finding in self.findings if finding.index is not None), default=None)

    def find(self, check: str, error: LedgerError) -> None:
        """Note what an error says."""
        index = error.metadata.get("index")
        self.findings.append(Finding(check, error.reason_name, error.message, None if index is None else int(index)))


def verify_store(url: str, *, ledger_id: str | None = None, keys: Iterable[VerifierKey] = (), progress: Progress | None = None) -> Report:
    """Check a store: its bytes, its tree, its checkpoints, and the books that follow from its entries.

    Signatures of checkpoints are checked with `keys`; without, only that each checkpoint is of this tree.

    Raises: Unavailable STORE_UNAVAILABLE; NotFound LEDGER_NOT_FOUND. Damage is not raised, it is what the report is about.
    """
    known = tuple(keys)
    report = Report(source=redact_url(url), keys_given=bool(known))
    try:
        log = open_log(url, read_only=True, ledger_id=ledger_id)
    except DataLoss as error:
        report.find("store", error)
        return report
    with log:
        report.ledger_id, report.size = log.ledger_id or "", log.size
        _check_bytes(log, report, known, progress)
        stop = min(report.size, report.size if report.first_bad_index is None else report.first_bad_index)
        auditor = Auditor()
        entries = ((index, data) for index, _, data in log.read_checked(0, stop))
        _check_books(auditor, entries, stop, report, progress)
        if report.ledger_id != auditor.state.ledger_id and auditor.state.size:
            message = f"the store's rows are of ledger {report.ledger_id}, its first entry says {auditor.state.ledger_id}"
            report.find("books", _corrupt_error(0, message))
        _check_origins(log.checkpoints(None), auditor.state, report)
    return report


def audit_export(
    directory: str | Path, *, keys: Iterable[VerifierKey], anchored: Sequence[Checkpoint] = (), progress: Progress | None = None
) -> Report:
    """Check an exported directory of tiles, and the books that follow from it, without the store it came from.

    `anchored` are checkpoints that stood elsewhere, on a chain or with a witness: what they are of must be the beginning of the log.

    Raises: Unavailable STORE_UNAVAILABLE when there is no such directory.
    """
    if not Path(directory).is_dir():
        raise refusal(Reason.REASON_STORE_UNAVAILABLE, f"there is no directory {directory}", store=directory)
    export = TileDirectory(directory)
    report = Report(source=str(directory), keys_given=True)
    try:
        checkpoints = export.checkpoints()
        checkpoint = export.verify(keys, lambda done, total: progress("bytes", done, total) if progress is not None else None)
    except (DataLoss, InvalidRequest, RuleViolated) as error:
        report.find("bytes", error)
        return report
    report.size, report.root, report.checkpoint_count = checkpoint.size, checkpoint.root, len(checkpoints)
    report.done += [
        f"{checkpoint.size} entries are those under the signed root",
        f"{len(checkpoints)} older checkpoints, signed too, are of the same tree",
    ]
    for each in anchored:
        _check_anchored(export, checkpoint.size, each, report)
    auditor = Auditor()
    _check_books(auditor, export.entries(checkpoint.size), checkpoint.size, report, progress)
    report.ledger_id = auditor.state.ledger_id
    _check_origins([(checkpoint.size, export.checkpoint_text()), *checkpoints], auditor.state, report)
    return report


def _check_anchored(export: TileDirectory, size: int, anchored: Checkpoint, report: Report) -> None:
    """See that what was anchored is the beginning of an export whose files have been compared with its root."""
    if anchored.size > size:
        message = f"{anchored.size} entries were anchored, the export ends at {size}"
    elif root_at(anchored.size, export.hash_reader(size)) != anchored.root:
        message = f"the first {anchored.size} entries do not give the root that was anchored: the log was changed, or is another"
    else:
        report.done.append(f"the {anchored.size} entries that were anchored are the beginning of the log")
        return
    report.find("anchored", refusal(Reason.REASON_CHECKPOINT_INCONSISTENT, message, size=anchored.size))


def _check_bytes(log: Log, report: Report, keys: tuple[VerifierKey, ...], progress: Progress | None) -> None:
    """Compare entries, tiles, roots and checkpoints with one another, and see that no entry is missing."""
    try:
        found = log.check(
            lambda done, total: progress("bytes", done, total) if progress is not None else None, topic_of=_topic_of, keys=keys
        )
    except (DataLoss, InvalidRequest) as error:
        report.find("bytes", error)
        return
    report.size, report.root, report.checkpoint_count = found.size, found.root, found.checkpoint_count
    report.done.append(f"{found.size} entries are there without gaps, and their bytes give the stored tiles and the root")
    if found.checkpoint_count:
        signatures = "each signed by a known key" if keys else "but no key was given to check their signatures with"
        report.done.append(f"{found.checkpoint_count} checkpoints are of this tree, {signatures}")
    else:
        report.done.append("no checkpoint is kept, so only the tree that the store itself holds was compared")


def _check_books(auditor: Auditor, entries: Iterator[tuple[int, bytes]], stop: int, report: Report, progress: Progress | None) -> None:
    """Fold the entries up to `stop`, and note the first that cannot be."""
    try:
        for index, data in entries:
            auditor.take(index, data)
            report.sound_size = index + 1
            if progress is not None and (index + 1) % _PROGRESS_EVERY == 0:
                progress("books", index + 1, stop)
        if report.sound and auditor.state.parts:
            _corrupt(stop - 1, f"the log ends with {len(auditor.state.parts)} parts of a command whose last part is missing")
        check_books(auditor.state, stop - 1)
    except DataLoss as error:
        report.find("books", error)
    state = auditor.state
    report.origin = state.origin
    if report.sound:
        report.state_digest = state_digest(state)
        report.done += [
            f"{state.size} entries parse with no unknown field, in order of time",
            f"{auditor.request_count} requests are booked once each",
            f"the invariants of the books held after each of {auditor.booking_count} bookings",
        ]


def _check_origins(checkpoints: list[tuple[int, str]], state: State, report: Report) -> None:
    """See that every checkpoint names the origin that the log's first entry fixed."""
    for size, text in checkpoints:
        try:
            origin = parse_checkpoint(text).origin
        except InvalidRequest:
            continue  # the bytes told
        if state.origin and origin != state.origin:
            message = f"the checkpoint of size {size} is of {origin}, the log's origin is {state.origin}"
            report.find("checkpoints", refusal(Reason.REASON_CHECKPOINT_INCONSISTENT, message, size=size))


def _topic_of(data: bytes) -> str:
    """Return the topic an entry must be stored under: the full name of its event's type."""
    try:
        entry = Entry.FromString(data)
    except DecodeError:
        return ""
    kind = entry.WhichOneof("event")
    return "" if kind is None else str(getattr(entry, kind).DESCRIPTOR.full_name)


class Auditor:
    """Folds a log entry by entry and believes none of it; what the books become stands in `state`."""

    def __init__(self) -> None:
        self.state = State()
        self.request_count = 0
        self.booking_count = 0
        self._booking: list[Entry] = []
        """The parts of the booking on its way."""
        self._columns: dict[int, tuple[int, Book]] = {}
        """id of a column -> (instrument number, its book)."""
        self._paid: dict[str, dict[str, int]] = {}
        """What each corporate action has paid out so far, by field of its totals."""

    def take(self, index: int, data: bytes) -> None:
        """Fold one entry, after checking what stands around its event, and check what it did to the books.

        Raises: DataLoss LOG_CORRUPT with its index.
        """
        entry = parse_entry(data, index)
        self._check_envelope(entry, index)
        self._booking.append(entry)
        if entry.part + 1 < entry.part_count:
            self._fold(entry, data, index)
            return
        self.state.begin()
        self._fold(entry, data, index)
        self._check_changes(index)
        self.state.keep()
        for part in self._booking:
            self._check_event(part, index)
        self._booking.clear()
        self.booking_count += 1

    def _fold(self, entry: Entry, data: bytes, index: int) -> None:
        try:
            fold(self.state, entry, data)
        except _FAULTS as error:
            message = f"entry {index} cannot follow the books before it: {type(error).__name__} {error}"
            raise _corrupt_error(index, message) from error

    def _check_envelope(self, entry: Entry, index: int) -> None:
        """Check who asked, when, under which request id, and as which part."""
        state = self.state
        kind = entry.WhichOneof("event")
        if (kind == "ledger_opened") != (index == 0):
            _corrupt(index, f"entry {index} is {kind}; a log is opened by its first entry, and by no other")
        if not 0 < len(entry.principal) <= _PRINCIPAL_LENGTH_MAX:
            _corrupt(index, f"entry {index} has a principal of {len(entry.principal)} characters")
        if not 0 <= entry.arithmetic_version <= ARITHMETIC_VERSION:
            _corrupt(index, f"entry {index} needs arithmetic {entry.arithmetic_version}, this version has {ARITHMETIC_VERSION}")
        if entry.part_count < 0 or entry.part_count == 1 or (entry.part and not entry.part_count):
            _corrupt(index, f"entry {index} is part {entry.part} of {entry.part_count}")
        if self._booking:
            first = self._booking[0]
            for name in ("decision_time_us", "principal", "request_id", "request_digest", "part_count"):
                if getattr(entry, name) != getattr(first, name):
                    _corrupt(index, f"entry {index} is part {entry.part} of a command, and has another {name} than part 0")
            return
        if entry.decision_time_us <= state.last_decision_time_us:
            _corrupt(index, f"entry {index} was decided at {entry.decision_time_us} us, the one before at {state.last_decision_time_us} us")
        if kind == "transfers_packed":
            self._check_packed_requests(entry, index)
        elif kind != "ledger_opened":
            self._check_request(entry.request_id, entry.request_digest, entry, index)

    def _check_packed_requests(self, entry: Entry, index: int) -> None:
        packed = entry.transfers_packed
        count = len(packed.units)
        if len(packed.request_ids) != _REQUEST_ID_BYTES * count:
            _corrupt(index, f"entry {index} packs {count} transfers, and not as many request ids")
        ids = [packed.request_ids[start : start + _REQUEST_ID_BYTES] for start in range(0, len(packed.request_ids), _REQUEST_ID_BYTES)]
        if entry.request_id or len(set(ids)) != count:
            _corrupt(index, f"entry {index} packs {count} transfers under {len(set(ids))} request ids")
        for request_id in ids:
            self._check_request(request_id, request_id, entry, index)

    def _check_request(self, request_id: bytes, digest: bytes, entry: Entry, index: int) -> None:
        """Check that a request may be booked here: not booked before, and not outside the window in which that can be told.

        Ids below the low-water mark are refused and ids above it are remembered, so no request is booked twice in the whole log.
        """
        if len(request_id) != _REQUEST_ID_BYTES or len(digest) != _REQUEST_ID_BYTES:
            _corrupt(index, f"entry {index} has a request id of {len(request_id)} bytes, with a digest of {len(digest)}")
        id_time_ms = request_id_time_ms(request_id)
        requests = self.state.requests
        text = format_request_id(request_id)
        if id_time_ms < requests.low_water_second * 1000 or id_time_ms > entry.decision_time_us // 1000 + AHEAD_MS_MAX:
            _corrupt(index, f"entry {index} has request id {text}, which is outside the window of its time")
        before = requests.find(request_id + entry.principal.encode(), id_time_ms)
        if before is not None:
            _corrupt(index, f"entry {index} books request {text} of {entry.principal} again, it was booked at {before >> 16}")
        self.request_count += 1

    def _check_changes(self, index: int) -> None:
        """Check every holding that a booking has touched, from the old values that the state has kept of it."""
        old_units: dict[int, dict[int, int]] = {}
        touched: dict[int, set[int]] = {}
        for column, number, old in self.state.old_cells():
            owner = self._owner(column)
            if owner is not None:
                instrument_number, book = owner
                touched.setdefault(instrument_number, set()).add(number)
                if column is book.units:
                    old_units.setdefault(instrument_number, {}).setdefault(number, old)
        for instrument_number, numbers in touched.items():
            book = self.state.books[instrument_number]
            for number in numbers:
                _check_holding(self.state, instrument_number, book, number, index)
        for instrument_number, before in old_units.items():
            units = self.state.books[instrument_number].units
            change = sum(units[number] - old for number, old in before.items())
            if change:
                symbol = self.state.instrument_symbols[instrument_number]
                _corrupt(index, f"entry {index} changes the sum of all holdings of {symbol} by {change}")
            if units[ISSUANCE] != before.get(ISSUANCE, units[ISSUANCE]):
                instrument = self.state.instruments[self.state.instrument_symbols[instrument_number]]
                if units[ISSUANCE] < before[ISSUANCE]:
                    self._check_issuance(instrument, index)
                self._check_shortfall(instrument, index)

    def _owner(self, column: array[int]) -> tuple[int, Book] | None:
        """Return whose column this is; None for one that holds no units."""
        if len(self._columns) != 2 * len(self.state.books):
            self._columns = {id(each): (number, book) for number, book in self.state.books.items() for each in (book.units, book.held)}
        return self._columns.get(id(column))

    def _check_issuance(self, instrument: Instrument, index: int) -> None:
        """Check that units were created within what is authorised, and against evidence that covered all supply at that moment."""
        state = self.state
        if not any(entry.WhichOneof("event") in ISSUING for entry in self._booking):
            return
        supply = state.supply(instrument.number)
        if supply > min(instrument.authorised_units, UNITS_MAX):
            _corrupt(
                index, f"entry {index} brings the supply of {instrument.symbol} to {supply}, {instrument.authorised_units} are authorised"
            )
        now_us = self._booking[0].decision_time_us
        fresh = sum(_shares_e8(each) for each in _evidence_of(state, instrument) if _is_counted(each, instrument, now_us))
        needed = shares_e8_of_units_ceiling(supply, instrument.multiplier, instrument.decimals)
        if fresh < needed or instrument.symbol in state.shortfalls:
            _corrupt(index, f"entry {index} issues {instrument.symbol} to {needed} shares (1e-8), valid evidence shows {fresh}")

    def _check_shortfall(self, instrument: Instrument, index: int) -> None:
        """Check that a shortfall is open where reserves are known and below what is needed, and only where they are below it."""
        state = self.state
        evidence = _evidence_of(state, instrument)
        counted = [each for each in evidence if _is_counted(each, instrument)]
        reserve = sum(map(_shares_e8, counted))
        needed = shares_e8_of_units_ceiling(state.supply(instrument.number), instrument.multiplier, instrument.decimals)
        known = bool(evidence) and len(counted) == len(evidence)
        short = instrument.symbol in state.shortfalls
        if (short and reserve >= needed) or (not short and known and reserve < needed):
            told = "a shortfall is open" if short else "no shortfall is open"
            _corrupt(
                index, f"{told} after entry {index}, and reserves of {instrument.symbol} are {reserve} shares (1e-8) of {needed} needed"
            )

    def _check_event(self, entry: Entry, index: int) -> None:
        """Check what an event itself tells: evidence raises or ends a shortfall, and an action pays out exactly what it declares."""
        kind = entry.WhichOneof("event")
        if kind in ATTESTING:
            custody_account = self.state.custody_accounts[getattr(entry, kind).custody_account]
            self._check_shortfall(self.state.instruments[custody_account.instrument], index)
        elif kind == "multiplier_changed":
            self._check_shortfall(self.state.instruments[entry.multiplier_changed.instrument], index)
        elif kind == "distribution_paid":
            paid = entry.distribution_paid
            totals = self._paid.setdefault(paid.action, dict.fromkeys(PAID, 0))
            for name in PAID:
                value = getattr(paid, name)
                totals[name] += value if isinstance(value, int) else sum(value)
        elif kind == "action_completed":
            self._check_totals(entry.action_completed, index)

    def _check_totals(self, totals: Any, index: int) -> None:
        parts = {name: getattr(totals, name) for name in (*PAID, "fee_units")}
        if totals.declared_units != sum(parts.values()):
            told = ", ".join(f"{name} {units}" for name, units in parts.items())
            _corrupt(index, f"{totals.action} declared {totals.declared_units} units, and they went: {told}")
        for name, units in self._paid.pop(totals.action, {}).items():
            if units != parts[name]:
                _corrupt(index, f"{totals.action} says {name} {parts[name]}, its payments sum to {units}")


def _evidence_of(state: State, instrument: Instrument) -> list[Evidence]:
    """Return the newest evidence of each custody account of an instrument."""
    names = state.custody_accounts_of_instrument.get(instrument.symbol, ())
    return [state.evidence[name] for name in names if name in state.evidence]


def _is_counted(evidence: Evidence, instrument: Instrument, now_us: int = 0) -> bool:
    """Tell whether evidence is of today's share basis, and in force at a moment if one is given."""
    return evidence.share_basis == instrument.share_basis and now_us < evidence.valid_until_time_us


def _shares_e8(evidence: Evidence) -> int:
    """Return the shares evidence stands for, from what was attested and each receipt and delivery confirmed since."""
    return evidence.settled_shares_e8 + sum(shares_e8 for _, shares_e8 in evidence.confirmed)


def check_books(state: State, index: int) -> None:
    """Check everything that must hold of the books as a whole, from their tables alone; `index` is that of the last entry.

    Raises: DataLoss LOG_CORRUPT with that index.
    """
    held: dict[tuple[int, int], int] = {}
    for number, hold in state.holds.items():
        if hold.units <= 0:
            _corrupt(index, f"hold {number} is open with {hold.units} units")
        key = (hold.instrument, hold.account)
        held[key] = held.get(key, 0) + hold.units
    for instrument_number, book in state.books.items():
        _check_sum(state, instrument_number, book, index)
        for number in range(len(book.units)):
            _check_holding(state, instrument_number, book, number, index)
            expected = held.pop((instrument_number, number), 0)
            if book.held[number] != expected:
                symbol, name = state.instrument_symbols[instrument_number], state.account_names.get(number, number)
                _corrupt(index, f"{name} holds back {book.held[number]} {symbol}, its open holds sum to {expected}")
    if held:
        _corrupt(index, f"{len(held)} holds are on holdings that do not exist")
    _check_names(state, index)


def _check_names(state: State, index: int) -> None:
    """Check that names and numbers lead to one another."""
    if {account.number: name for name, account in state.accounts.items()} != state.account_names:
        _corrupt(index, "account names and numbers do not lead to one another")
    if {instrument.number: symbol for symbol, instrument in state.instruments.items()} != state.instrument_symbols:
        _corrupt(index, "instrument symbols and numbers do not lead to one another")
    for name, account in state.accounts.items():
        if account.holder and (account.holder not in state.holders or name not in state.accounts_of_holder.get(account.holder, {})):
            _corrupt(index, f"{name} is of holder {account.holder}, who does not know it")


def _check_sum(state: State, instrument_number: int, book: Book, index: int) -> None:
    total = sum(book.units)
    if total:
        _corrupt(index, f"the holdings of {state.instrument_symbols[instrument_number]} sum to {total} after entry {index}, not to zero")


def _may_owe(state: State, number: int) -> bool:
    """Tell whether an account may be below zero: issuance, external, and what a chain did that cannot be."""
    return number in MAY_OWE or any(number == chain.divergence for chain in state.chains.values())


def _check_holding(state: State, instrument_number: int, book: Book, number: int, index: int) -> None:
    units, held = book.units[number], book.held[number]
    if (units < 0 and not _may_owe(state, number)) or not 0 <= held <= max(units, 0):
        symbol, name = state.instrument_symbols[instrument_number], state.account_names.get(number, number)
        _corrupt(index, f"{name} has {units} {symbol} and holds back {held} of them after entry {index}")
    if units and number not in state.account_names:
        _corrupt(index, f"account {number} was never opened and has {units} units after entry {index}")


def _corrupt_error(index: int, message: str) -> LedgerError:
    return refusal(Reason.REASON_LOG_CORRUPT, message, index=index)


def _corrupt(index: int, message: str) -> NoReturn:
    raise _corrupt_error(index, message)
