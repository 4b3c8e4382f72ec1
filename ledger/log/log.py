"""The log of one ledger: entries in order, durable when `append` returns, with the Merkle tree over exactly the stored bytes.

    log.append("acme", ["stockledger.v1.LedgerOpened"], [entry])

`ledger.log.store` opens it. Entries are bytes of at most 65,535; what they mean is not known here. The tree's tiles are stored in
the same transaction as the entries that complete them, so that opening a log costs the same at any size.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, Self

from ledger.errors import DataLoss, LedgerError, refusal
from ledger.log.backend import Backend, RightEdge, Row
from ledger.log.checkpoint import VerifierKey, open_note, parse_checkpoint
from ledger.log.merkle import HASH_BYTES, TILE_HEIGHT, TILE_WIDTH, Growth, Tree, leaf_hashes
from ledger.log.sqlite_backend import SqliteBackend
from stockledger.v1.errors_pb2 import Reason

ENTRY_BYTES_MAX = 65_535
"""An entry bundle gives an entry's length in two bytes."""

PAGE = TILE_WIDTH
"""Entries read at once: one tile's worth, at most 16 MB."""

_SIZE_BYTES = 8
"""Of a checkpoint's size behind the hashes of a right edge."""

RELOAD_ENTRIES = 100_000
"""A reader further behind than this takes the tree from the tiles instead of growing it entry by entry."""

Progress = Callable[[int, int], None]
"""Called with (done, total) entries."""


class AppendConflict(Exception):
    """Other bytes are stored where a batch was to go: somebody else writes this ledger. Catch up, and decide again.

    `first_index` is the first index at which the store differs from the batch.
    """

    def __init__(self, first_index: int) -> None:
        super().__init__(f"the store holds other bytes from index {first_index}")
        self.first_index = first_index


class AppendDoubtful(Exception):
    """Whether a batch was stored cannot be told, because the store cannot be read either. `Log.resolve` tells later."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `Log.check` found sound."""

    size: int
    root: bytes
    checkpoint_count: int


@dataclass(frozen=True)
class _Batch:
    """An append on its way: kept until it is known to be stored, or not to be."""

    ledger_id: str
    topics: Sequence[str]
    entries: Sequence[bytes]
    tree: Tree
    old_size: int

    @functools.cached_property
    def growth(self) -> Growth:
        """What the entries make of the tree, which is the same all the while."""
        return self.tree.append(self.entries)


def leaf_index(version: int) -> int:
    """Give the index of the leaf that is stored under a version: versions count from 1, leaves from 0."""
    return version - 1


def leaf_version(index: int) -> int:
    """Give the version under which a leaf is stored: the inverse of `leaf_index`."""
    return index + 1


class Log:
    """The entries of one ledger and the tree over them. One thread appends; any thread reads what is durable."""

    def __init__(self, backend: Backend, url: str, ledger_id: str | None = None) -> None:
        self.backend = backend
        self.url = url
        self.ledger_id: str | None = None
        self.tree = Tree(self._stored_tile)
        self._doubtful: _Batch | None = None
        self._refreshing = threading.Lock()
        self._expected_id = ledger_id
        self._load()

    @property
    def read_only(self) -> bool:
        return self.backend.read_only

    @property
    def expected_id(self) -> str | None:
        """The id of the ledger that this log holds, or was opened to hold while it is empty."""
        return self.ledger_id or self._expected_id

    @property
    def size(self) -> int:
        """The number of durable entries."""
        return self.tree.size

    @property
    def in_doubt(self) -> bool:
        """True after an append of which nobody knows whether it happened."""
        return self._doubtful is not None

    def append(self, ledger_id: str, topics: Sequence[str], entries: Sequence[bytes]) -> None:
        """Store a batch, all of it or nothing; it is durable when this returns.

        Topics are hints for tools, one per entry: stable names such as "stockledger.v1.UnitsTransferred".

        Raises: Unavailable STORE_UNAVAILABLE when nothing was stored; AppendConflict when somebody else's bytes are there;
        AppendDoubtful when neither can be known now, and for every append until `resolve` has settled it.
        """
        backend = self.backend
        assert not backend.read_only, "a log opened read-only does not append"
        assert len(topics) == len(entries), (len(topics), len(entries))
        if self._doubtful is not None:
            raise AppendDoubtful("an earlier append is not settled")
        if not entries:
            return
        longest = max(map(len, entries))
        assert longest <= ENTRY_BYTES_MAX, f"an entry of {longest} bytes"
        assert ledger_id and self.ledger_id in (None, ledger_id), (ledger_id, self.ledger_id)
        self._doubtful = batch = _Batch(ledger_id, topics, entries, self.tree, self.size)
        try:
            backend.append(ledger_id, leaf_version(batch.old_size), topics, entries, lambda: batch.growth.tiles)
        except LedgerError as failure:
            if not self.resolve():
                raise _unavailable(failure, self.url) from failure
            return
        self._adopt(batch)

    def resolve(self) -> bool:
        """Settle a doubtful append by comparing what is stored: True if the batch is there and adopted, False if nothing is.

        Identical bytes are ours, whoever was told that the commit failed: a lost reply looks like a conflict.

        Raises: AppendConflict, AppendDoubtful.
        """
        batch = self._doubtful
        if batch is None:
            return True
        first = leaf_version(batch.old_size)
        try:
            found_id, last = self.backend.extent()
            stored = self.backend.rows(batch.ledger_id, first, first + len(batch.entries) - 1) if last >= first else []
        except LedgerError as failure:
            raise AppendDoubtful(f"whether {len(batch.entries)} entries are stored cannot be told: {failure}") from failure
        if last < first:
            self._doubtful = None
            return False
        wanted = [Row(first + n, *pair) for n, pair in enumerate(zip(batch.topics, batch.entries, strict=True))]
        same = 0
        while found_id == batch.ledger_id and same < min(len(stored), len(wanted)) and stored[same] == wanted[same]:
            same += 1
        if same == len(wanted):
            self._adopt(batch)
            return True
        self._doubtful = None
        raise AppendConflict(leaf_index(first + same))

    def read(self, start: int, stop: int) -> Iterator[tuple[int, str, bytes]]:
        """Read (index, topic, entry) from `start` up to `stop`, page by page; every index is there, or an error names it.

        Raises: BeyondLog INDEX_BEYOND_LOG; DataLoss LOG_CORRUPT with the first bad index.
        """
        for page in self._pages(start, stop):
            for version, topic, entry in page:
                yield leaf_index(version), topic, entry

    def read_checked(self, start: int, stop: int) -> Iterator[tuple[int, str, bytes]]:
        """Read as `read` does, and compare the hash of every entry with the tree.

        Raises: BeyondLog INDEX_BEYOND_LOG; DataLoss LOG_CORRUPT with the first bad index.
        """
        for page in self._pages(start, stop):
            self._compare_page(leaf_index(page[0][0]), [row[2] for row in page])
            for version, topic, entry in page:
                yield leaf_index(version), topic, entry

    def read_pages_checked(self, start: int, stop: int) -> Iterator[list[bytes]]:
        """Read as `read_checked` does, the entries alone and a page at a time: for who works on many at once.

        Raises: BeyondLog INDEX_BEYOND_LOG; DataLoss LOG_CORRUPT with the first bad index.
        """
        for begin, end in self._page_bounds(start, stop):
            entries = self._entries(begin, end)
            self._compare_page(begin, entries)
            yield entries

    def entry(self, index: int) -> bytes:
        """Read one entry.

        Raises: BeyondLog INDEX_BEYOND_LOG; DataLoss LOG_CORRUPT.
        """
        return next(self.read(index, index + 1))[2]

    def refresh(self) -> int:
        """Catch up with what another writer has appended, and give the size.

        What was read before must still be its beginning, and the tiles stored must be those that the new entries make.

        Raises: DataLoss LOG_CORRUPT; Unavailable STORE_UNAVAILABLE.
        """
        with self._refreshing:
            assert self._doubtful is None, "an append is not settled"
            ledger_id, size = self._extent()
            if size - self.size > RELOAD_ENTRIES:
                self._reload(ledger_id, size)
            while self.size < size:
                self._grow_by_page(ledger_id, size)
            return self.size

    def check(
        self,
        progress: Progress | None = None,
        *,
        topic_of: Callable[[bytes], str] | None = None,
        keys: Iterable[VerifierKey] = (),
    ) -> CheckReport:
        """Check the whole store, byte by byte.

        Every entry against the tiles, these against each other up to the root, versions without gaps, one ledger id, every checkpoint
        against the tree, and the store's own structure.

        A topic is outside the tree; `topic_of` derives it from the entry, so that it is checked too. Signatures of checkpoints are
        checked when `keys` are given.

        Raises: DataLoss LOG_CORRUPT with the first bad index where an entry is bad; DataLoss CHECKPOINT_INCONSISTENT.
        """
        edge, checkpoints = self.backend.right_edge(), self.checkpoints(None)  # before the size: the log must reach to each of them
        if self.read_only:
            self.refresh()
        size = self.size
        self._extent()
        rebuilt = Tree(self._stored_tile)
        for page in self._pages(0, size):
            self._check_page(page, rebuilt, topic_of)
            if progress is not None:
                progress(rebuilt.size, size)
        if rebuilt.root() != self.tree.root():
            self._corrupt(size, f"the entries do not give the root that was read at size {size}")
        self._check_tile_counts(size)
        for checkpoint_size, text in checkpoints:
            self._check_checkpoint(rebuilt, checkpoint_size, text, tuple(keys))
        self._check_right_edge(rebuilt, edge, checkpoints[0][0] if checkpoints else 0)
        self.backend.check(size)
        return CheckReport(size, rebuilt.root(), len(checkpoints))

    def save_checkpoint(self, size: int, text: str) -> None:
        """Store a signed checkpoint, after comparing it with the tree; one of the same size may be replaced by its better signed self.

        Raises: BeyondLog INDEX_BEYOND_LOG; DataLoss CHECKPOINT_INCONSISTENT; Unavailable STORE_UNAVAILABLE.
        """
        assert not self.read_only, "a log opened read-only saves no checkpoints"
        checkpoint = parse_checkpoint(text)
        assert checkpoint.size == size, (checkpoint.size, size)
        self._check_bounds(0, size)
        if checkpoint.root != self.tree.root_at(size):
            raise refusal(Reason.REASON_CHECKPOINT_INCONSISTENT, f"the log has another root at size {size} than this checkpoint", size=size)
        kept, newest = self.backend.right_edge(), self._checkpoint_size()
        edge = self._edge_at(size if kept is None else max(size, kept.size), max(size, newest))
        self.backend.save_checkpoint(size, text, edge)

    def keep_right_edge(self) -> None:
        """Store the hashes of the entries that are in no full tile yet, so that a byte of them that changes later is found.

        Raises: Unavailable STORE_UNAVAILABLE.
        """
        assert not self.read_only, "a log opened read-only stores nothing"
        kept = self.backend.right_edge()
        if not self.in_doubt and self.size > (0 if kept is None else kept.size):
            self.backend.save_right_edge(self._edge_at(self.size, self._checkpoint_size()))

    def _edge_at(self, size: int, checkpoint_size: int) -> RightEdge:
        """Return the right edge at a size; the size of the newest checkpoint stands behind the hashes where that is another one."""
        width = size % TILE_WIDTH
        hashes = self.tree.tile(0, size // TILE_WIDTH, width) if width else b""
        return RightEdge(size, hashes if checkpoint_size == size else hashes + checkpoint_size.to_bytes(_SIZE_BYTES, "big"))

    def _checkpoint_size(self) -> int:
        newest = self.checkpoints(1)
        return newest[0][0] if newest else 0

    def checkpoints(self, limit: int | None = 100) -> list[tuple[int, str]]:
        """Give the last checkpoints as (size, text), the newest first; all of them when `limit` is None."""
        return self.backend.checkpoints(limit)

    def copy_to(self, path: str) -> None:
        """Copy the store to a new file, as it is at one moment, while it is written.

        Raises: RuleViolated STATE_UNFIT for a store that has tools of its own for that; Unavailable STORE_UNAVAILABLE.
        """
        if not isinstance(self.backend, SqliteBackend):
            raise refusal(Reason.REASON_STATE_UNFIT, f"{self.url} is copied with the tools of its database", needed="sqlite")
        self.backend.copy_to(path)

    def close(self) -> None:
        """Let go of the store. What was appended is durable already; the hashes of the newest entries are kept if the store is there."""
        if not self.read_only:
            with contextlib.suppress(LedgerError):
                self.keep_right_edge()
        self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _adopt(self, batch: _Batch) -> None:
        self.tree.commit(batch.growth)
        self.ledger_id = batch.ledger_id
        self._doubtful = None

    def _load(self) -> None:
        """Build the right edge from the tiles and at most 255 entries, and compare it with the one kept and the last checkpoint."""
        edge, newest = self.backend.right_edge(), self.checkpoints(1)  # before the size, which another writer may be moving
        ledger_id, size = self._extent()
        if newest and newest[0][0] > size:
            self._corrupt(size, f"there is a checkpoint of size {newest[0][0]}, but the log ends at {size}")
        if edge is not None and edge.size > size:
            self._corrupt(size, f"the hashes of {edge.size} entries were kept, but the log ends at {size}")
        self._check_told(size, edge, newest[0][0] if newest else 0)
        self._check_tile_counts(size)
        self.ledger_id = ledger_id
        self.tree.load(size, self._tail_hashes(size))
        for checkpoint_size, text in newest:
            self._check_checkpoint(self.tree, checkpoint_size, text, ())
        if not self.read_only:
            self.keep_right_edge()

    def _reload(self, ledger_id: str | None, size: int) -> None:
        old_size, old_root = self.size, self.tree.root()
        fresh = Tree(self._stored_tile)
        self.ledger_id = ledger_id
        fresh.load(size, self._tail_hashes(size))
        if fresh.root_at(old_size) != old_root:
            self._corrupt(old_size, f"the first {old_size} entries are no longer those that were read before")
        self.tree.load(size, self._tail_hashes(size))

    def _tail_hashes(self, size: int) -> list[bytes]:
        """Hash the entries after the last full tile, and compare them with those kept."""
        start = size - size % TILE_WIDTH
        if start == size:
            return []
        assert self.ledger_id is not None
        hashes = leaf_hashes(row[2] for row in self._page(self.ledger_id, start, size))
        edge = self.backend.right_edge()
        if edge is not None and edge.size // TILE_WIDTH == size // TILE_WIDTH:
            kept = min(edge.size, size) - start
            self._compare_leaves(start, hashes[:kept], edge.hashes[: kept * HASH_BYTES])
        return hashes

    def _grow_by_page(self, ledger_id: str | None, size: int) -> None:
        assert ledger_id is not None
        self.ledger_id = ledger_id
        start = self.size
        stop = min(size, start - start % PAGE + PAGE)
        growth = self.tree.extend(leaf_hashes(row[2] for row in self._page(ledger_id, start, stop)))
        self._compare_tiles(growth)
        self.tree.commit(growth)

    def _extent(self) -> tuple[str | None, int]:
        """Read the store's ledger id and size, and refuse another ledger, or a log that has become shorter."""
        found, last = self.backend.extent()
        expected = self.expected_id
        if expected is not None and found not in (None, expected):
            raise refusal(
                Reason.REASON_LEDGER_NOT_FOUND,
                f"{self.url} holds the ledger {found}, not {expected}",
                expected=expected,
                found=found,
            )
        if last < self.size:
            self._corrupt(last, f"the log had {self.size} entries and has {last} now")
        return found, last

    def _page_bounds(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Give where pages begin and end, cut at the borders of tiles."""
        self._check_bounds(start, stop)
        while start < stop:
            end = min(stop, start - start % PAGE + PAGE)
            yield start, end
            start = end

    def _pages(self, start: int, stop: int) -> Iterator[list[Row]]:
        """Read whole pages."""
        for begin, end in self._page_bounds(start, stop):
            assert self.ledger_id is not None
            yield self._page(self.ledger_id, begin, end)

    def _compare_page(self, first: int, entries: Sequence[bytes]) -> None:
        """Compare the hash of every entry of a page with the tree."""
        number, offset = divmod(first, TILE_WIDTH)
        hashes = self.tree.tile(0, number, offset + len(entries))
        self._compare_leaves(first, leaf_hashes(entries), hashes[offset * HASH_BYTES :])

    def _entries(self, start: int, stop: int) -> list[bytes]:
        """Read the entries from `start` up to `stop` alone; where that is not what should be there, the whole rows say what is wrong."""
        assert self.ledger_id is not None
        with contextlib.suppress(DataLoss):
            entries = self.backend.entries(self.ledger_id, leaf_version(start), leaf_version(stop - 1))
            if len(entries) == stop - start and set(map(type, entries)) == {bytes}:
                return entries
        return [row[2] for row in self._page(self.ledger_id, start, stop)]

    def _page(self, ledger_id: str, start: int, stop: int) -> list[Row]:
        """Read the entries from `start` up to `stop`, at most a page, and see that each is there and of the right types."""
        try:
            rows = self.backend.rows(ledger_id, leaf_version(start), leaf_version(stop - 1))
        except DataLoss:
            self._name_unreadable(ledger_id, start, stop)
            raise
        versions, *values = zip(*rows, strict=True) if rows else ((),)
        if versions == tuple(range(leaf_version(start), leaf_version(stop))) and _kinds(versions, *values) == [{int}, {str}, {bytes}]:
            return rows
        for index, row in zip(range(start, stop), rows, strict=False):
            if type(row[0]) is not int or leaf_index(row[0]) != index:
                self._corrupt(index, f"entry {index} is missing")
            if type(row[2]) is not bytes or type(row[1]) is not str:
                self._corrupt(index, f"entry {index} is not a text and bytes")
        if len(rows) != stop - start:
            self._corrupt(start + len(rows), f"entry {start + len(rows)} is missing")
        return rows

    def _name_unreadable(self, ledger_id: str, start: int, stop: int) -> None:
        """Find the first entry of an unreadable page that cannot be read alone."""
        for index in range(start, stop):
            try:
                self.backend.rows(ledger_id, leaf_version(index), leaf_version(index))
            except DataLoss as error:
                self._corrupt(index, f"entry {index} cannot be read: {error.message}")

    def _check_page(self, page: list[Row], rebuilt: Tree, topic_of: Callable[[bytes], str] | None) -> None:
        first = leaf_index(page[0][0])
        hashes = leaf_hashes(row[2] for row in page)
        number = first // TILE_WIDTH
        self._compare_leaves(first, hashes, self.tree.tile(0, number, len(page)))
        if topic_of is not None:
            for version, topic, entry in page:
                if topic != topic_of(entry):
                    index = leaf_index(version)
                    self._corrupt(index, f"entry {index} is stored under the topic {topic!r}, which is not its own")
        growth = rebuilt.extend(hashes)
        self._compare_tiles(growth)
        rebuilt.commit(growth)

    def _compare_leaves(self, first: int, found: list[bytes], expected: bytes) -> None:
        if b"".join(found) == expected:
            return
        for offset, leaf in enumerate(found):
            if leaf != expected[offset * HASH_BYTES : (offset + 1) * HASH_BYTES]:
                self._corrupt(first + offset, f"the bytes of entry {first + offset} do not have the hash that is stored for it")
        raise AssertionError("more hashes than leaves")

    def _compare_tiles(self, growth: Growth) -> None:
        """Compare the tiles that entries make with those that are stored."""
        for level, number, hashes in growth.tiles:
            if self._stored_tile(level, number) != hashes:
                first = number << TILE_HEIGHT * (level + 1)
                self._corrupt(first, f"hash tile {number} of level {level} is not what the entries from {first} give")

    def _check_tile_counts(self, size: int) -> None:
        """See that there are as many tiles as the size says, or as a size says that another writer has reached meanwhile."""
        counts = self.backend.tile_counts()
        _, later_size = self.backend.extent()
        levels = set(range((size.bit_length() - 1) // TILE_HEIGHT if size else 0)).union(counts)
        for level in sorted(levels):
            count, last = counts.get(level, (0, -1))
            shift = TILE_HEIGHT * (level + 1) if level >= 0 else size.bit_length()
            if count != last + 1 or not size >> shift <= count <= later_size >> shift:
                self._corrupt(size, f"there are {count} hash tiles of level {level}, where {size} entries make {size >> shift}")

    def _check_right_edge(self, rebuilt: Tree, edge: RightEdge | None, newest: int) -> None:
        """Compare the leaf hashes kept, read just before the newest checkpoint, with those of the entries."""
        if edge is not None:
            width = edge.size % TILE_WIDTH
            expected = rebuilt.tile(0, edge.size // TILE_WIDTH, width) if width and edge.size <= rebuilt.size else b""
            if edge.hashes[: HASH_BYTES * width] != expected:
                self._corrupt(edge.size, f"the saved right edge of size {edge.size} is not what the entries give")
        self._check_told(rebuilt.size, edge, newest)

    def _check_told(self, size: int, edge: RightEdge | None, newest: int) -> None:
        """Compare what a right edge says of the newest checkpoint, read just after it, with what is there."""
        told = 0
        if edge is not None:
            rest = edge.hashes[HASH_BYTES * (edge.size % TILE_WIDTH) :]
            if len(rest) not in (0, _SIZE_BYTES):
                self._corrupt(edge.size, f"the saved right edge of size {edge.size} has {len(edge.hashes)} bytes")
            told = int.from_bytes(rest, "big") if rest else edge.size
        elif newest:
            self._corrupt(size, f"there is a checkpoint of size {newest}, and no right edge is saved")
        if told != newest and (told > newest or not self.read_only):
            self._corrupt(size, f"by the saved right edge the newest checkpoint is of size {told}, and it is of {newest}")

    def _check_checkpoint(self, tree: Tree, size: int, text: str, keys: tuple[VerifierKey, ...]) -> None:
        try:
            checkpoint = parse_checkpoint(text)
            if keys:
                open_note(text, keys)
        except LedgerError as error:
            raise refusal(
                Reason.REASON_CHECKPOINT_INCONSISTENT, f"the stored checkpoint of size {size} is damaged: {error.message}", size=size
            ) from error
        if checkpoint.size != size or not 0 <= size <= tree.size or checkpoint.root != tree.root_at(size):
            raise refusal(Reason.REASON_CHECKPOINT_INCONSISTENT, f"the stored checkpoint of size {size} is not of this tree", size=size)

    def _check_bounds(self, start: int, stop: int) -> None:
        assert 0 <= start <= stop, (start, stop)
        if stop > self.size:
            index = max(start, self.size)
            raise refusal(Reason.REASON_INDEX_BEYOND_LOG, f"the log ends at {self.size}, before {stop}", index=index, size=self.size)

    def _stored_tile(self, level: int, number: int) -> bytes:
        hashes = self.backend.tile(level, number)
        if hashes is None:
            self._corrupt(number << TILE_HEIGHT * (level + 1), f"hash tile {number} of level {level} is missing")
        return hashes

    def _corrupt(self, index: int, message: str) -> NoReturn:
        raise refusal(Reason.REASON_LOG_CORRUPT, f"{self.url}: {message}", index=index)


def _kinds(*columns: Iterable[object]) -> list[set[type]]:
    """Give the types that stand in each column."""
    return [set(map(type, column)) for column in columns]


def _unavailable(failure: LedgerError, url: str) -> LedgerError:
    return failure if isinstance(failure, DataLoss) else refusal(Reason.REASON_STORE_UNAVAILABLE, failure.message, store=url)
