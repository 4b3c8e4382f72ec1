"""What a store must be able to do to hold a log.

A backend moves bytes: entries by version (1, 2, 3...), full hash tiles, checkpoints and the hashes of the unfinished tile. It turns the
errors of its database into LedgerErrors, and makes no judgement of its own about what it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple, Protocol, runtime_checkable

from ledger.log.merkle import Tile


class Access(Enum):
    """What a store is opened for."""

    READ = "read"
    WRITE = "write"
    WRITE_WITHOUT_LOCK = "write without lock"
    """A second writer, as only a test opens one that proves the primary key alone refuses it."""
    CONTEND = "contend"
    """To write whenever nobody else does, and to read meanwhile. A store that cannot be shared is opened to write."""
    MIGRATE = "migrate"
    """To write, and to bring the tables of an older layout to ours first."""


class Row(NamedTuple):
    """An entry as stored."""

    version: int
    topic: str
    entry: bytes


class RightEdge(NamedTuple):
    """The leaf hashes after the last full tile of the first `size` entries."""

    size: int
    hashes: bytes


class Backend(Protocol):
    """A store of one ledger. Reads may come from any thread; writes come from one at a time."""

    read_only: bool
    versions: tuple[int, int]
    """The layout that the store had when it was opened, and the one it has."""

    def extent(self) -> tuple[str | None, int]:
        """Give the ledger's id and its last version; (None, 0) while the store is empty.

        Raises: DataLoss LOG_CORRUPT when the store holds rows of two ledgers.
        """

    def rows(self, ledger_id: str, first_version: int, last_version: int) -> list[Row]:
        """Read the rows of these versions, both ends included, in order; those missing are simply not there."""

    def entries(self, ledger_id: str, first_version: int, last_version: int) -> list[bytes]:
        """Read the entries of these versions without what stands beside them, in half the time of `rows`; perhaps not all of them."""

    def append(
        self, ledger_id: str, first_version: int, topics: Sequence[str], entries: Sequence[bytes], make_tiles: Callable[[], Sequence[Tile]]
    ) -> None:
        """Store entries and the tiles that they complete in one transaction, flushed when this returns; tiles are made once, when it likes.

        Raises: Unavailable STORE_UNAVAILABLE, DataLoss LOG_CORRUPT. Whatever it raises, the rows may or may not be stored.
        """

    def tile(self, level: int, number: int) -> bytes | None:
        """Read a full tile, or None when it is not there."""

    def tile_counts(self) -> dict[int, tuple[int, int]]:
        """Give for each tile level how many tiles there are, and the highest number."""

    def right_edge(self) -> RightEdge | None:
        """Read the right edge saved last."""

    def save_right_edge(self, edge: RightEdge) -> None:
        """Store the right edge in the place of the one before, unless that is of a greater size; flushed when this returns."""

    def save_checkpoint(self, size: int, text: str, edge: RightEdge) -> None:
        """Store a checkpoint, and the right edge with it as `save_right_edge` does; one of the same size is replaced."""

    def checkpoints(self, limit: int | None) -> list[tuple[int, str]]:
        """Read the last checkpoints, the newest first."""

    def check(self, size: int) -> None:
        """Check what only this kind of store can: its own structure, and that it holds `size` entries and nothing else.

        Raises: DataLoss LOG_CORRUPT.
        """

    def close(self) -> None:
        """Let go of the store."""


@runtime_checkable
class Contested(Backend, Protocol):
    """A store opened by several who want to write it. One leads; for all others it is read-only."""

    contends: bool
    """False where it was opened to be written, or read, by this process come what may."""

    def advertise(self, address: str) -> None:
        """Say where clients reach us; followers tell it whenever we lead."""

    def leader(self) -> str | None:
        """Give the address of who leads, as far as it was seen last."""

    def try_to_lead(self) -> bool:
        """Take the lead if it is to be had. Until `lead` is called the store stays read-only: the books must catch up first.

        Raises: Unavailable STORE_UNAVAILABLE.
        """

    def lead(self) -> None:
        """Let appends through, once `try_to_lead` has taken the lead."""

    def keep_lead(self) -> bool:
        """Say something in the session that leads, and tell whether it still does."""

    def follow(self) -> None:
        """Let nothing through any more, and leave the lead to others."""

    def lead_age_seconds(self) -> float:
        """Give how long ago the lead was last seen to be ours."""

    def await_news(self, seconds: float) -> None:
        """Wait until the leader has appended something, or at most so long.

        Raises: Unavailable STORE_UNAVAILABLE.
        """
