"""What a store must be able to do to hold a log.

A backend moves bytes: entries by version (1, 2, 3...), full hash tiles, checkpoints and the hashes of the unfinished tile. It turns the
errors of its database into LedgerErrors, and makes no judgement of its own about what it finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ledger.log.merkle import Tile


class Row(NamedTuple):
    """An entry as stored."""

    version: int
    topic: str
    entry: bytes


class RightEdge(NamedTuple):
    """The leaf hashes after the last full tile, as they were when the checkpoint of `size` was saved."""

    size: int
    hashes: bytes


class Backend(Protocol):
    """A store of one ledger. Reads may come from any thread; writes come from one at a time."""

    read_only: bool

    def extent(self) -> tuple[str | None, int]:
        """Give the ledger's id and its last version; (None, 0) while the store is empty.

        Raises: DataLoss LOG_CORRUPT when the store holds rows of two ledgers.
        """

    def rows(self, ledger_id: str, first_version: int, last_version: int) -> list[Row]:
        """Read the rows of these versions, both ends included, in order; those missing are simply not there."""

    def append(self, ledger_id: str, first_version: int, topics: Sequence[str], entries: Sequence[bytes], tiles: Sequence[Tile]) -> None:
        """Store entries and tiles in one transaction, flushed when this returns.

        Raises: Unavailable STORE_UNAVAILABLE, DataLoss LOG_CORRUPT. Whatever it raises, the rows may or may not be stored.
        """

    def tile(self, level: int, number: int) -> bytes | None:
        """Read a full tile, or None when it is not there."""

    def tile_counts(self) -> dict[int, tuple[int, int]]:
        """Give for each tile level how many tiles there are, and the highest number."""

    def right_edge(self) -> RightEdge | None:
        """Read the right edge saved with the last checkpoint."""

    def save_checkpoint(self, size: int, text: str, edge: RightEdge) -> None:
        """Store a checkpoint and the right edge with it, flushed when this returns; one of the same size is replaced."""

    def checkpoints(self, limit: int | None) -> list[tuple[int, str]]:
        """Read the last checkpoints, the newest first."""

    def check(self, size: int) -> None:
        """Check what only this kind of store can: its own structure, and that it holds `size` entries and nothing else.

        Raises: DataLoss LOG_CORRUPT.
        """

    def close(self) -> None:
        """Let go of the store."""
