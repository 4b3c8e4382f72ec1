"""The Merkle tree of RFC 6962 section 2.1, and the proofs over it.

Pure functions do the mathematics; they see the tree only through a `HashReader`, which gives the hash of a complete subtree: level 0
is the leaves, the subtree `index` at level `k` covers the leaves from `index * 2**k` up to `(index + 1) * 2**k`. A tree of any size is
a row of such subtrees, one for every 1 bit of its size, the largest first: 13 = 8 + 4 + 1.

`Tree` is the tree that grows. It cuts the levels into tiles of height 8 (256 hashes), hands full tiles out to be stored, and keeps in
memory only the unfinished tile of each tile level: its right edge.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import NamedTuple, NoReturn

from ledger.errors import refusal
from stockledger.v1.errors_pb2 import Reason

HASH_BYTES = 32
TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
TILE_BYTES = TILE_WIDTH * HASH_BYTES

EMPTY_ROOT = sha256(b"").digest()
"""The root of a tree without leaves (RFC 6962 section 2.1)."""

_LEAF = sha256(b"\x00")

HashReader = Callable[[int, int], bytes]
"""`(level, index)` -> the hash of the complete subtree of 2**level leaves, number `index` at that level."""

TileReader = Callable[[int, int], bytes]
"""`(tile level, tile number)` -> the 8,192 bytes of a full tile."""

TILES_CACHED = 64

KEPT_ENTRY_BYTES = 1024
"""Longer entries are hashed at once: of the newest, up to 255 may be kept."""


def leaf_hash(data: bytes) -> bytes:
    """Hash one leaf: SHA-256(0x00 || data)."""
    return sha256(b"\x00" + data).digest()


def leaf_hashes(entries: Iterable[bytes]) -> list[bytes]:
    """Hash many leaves in one tight loop; to copy a hash that has begun takes a tenth less than to make one."""
    begin, hashes = _LEAF.copy, []
    for entry in entries:
        leaf = begin()
        leaf.update(entry)
        hashes.append(leaf.digest())
    return hashes


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash two neighbouring subtrees into their parent: SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


def root_at(size: int, read: HashReader) -> bytes:
    """Compute the root of the first `size` leaves."""
    return _range_root(0, size, read) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, read: HashReader) -> list[bytes]:
    """Prove that leaf `index` is in the tree of `size` leaves: the sibling hashes from the leaf up to the root.

    Source: RFC 6962 section 2.1.1, PATH(m, D[n]). Example: for leaf 2 of 7 the proof is leaf 3, the parent of leaves 0 and 1, and
    the root over leaves 4 to 6.
    """
    assert 0 <= index < size, (index, size)
    start, stop = 0, size
    path = []
    while stop - start > 1:
        middle = start + _largest_power_below(stop - start)
        if index < middle:
            path.append(_range_root(middle, stop, read))
            stop = middle
        else:
            path.append(_range_root(start, middle, read))
            start = middle
    path.reverse()
    return path


def consistency_proof(old_size: int, new_size: int, read: HashReader) -> list[bytes]:
    """Prove that the tree of `old_size` leaves is the beginning of the one of `new_size`.

    Source: RFC 6962 section 2.1.2, PROOF(m, D[n]). The proof is empty when the sizes are equal, or the old one is 0.
    """
    assert 0 <= old_size <= new_size, (old_size, new_size)
    if old_size == 0:
        return []
    start, stop = 0, new_size
    path = []
    while stop != old_size:
        middle = start + _largest_power_below(stop - start)
        if old_size <= middle:
            path.append(_range_root(middle, stop, read))
            stop = middle
        else:
            path.append(_range_root(start, middle, read))
            start = middle
    if start > 0:  # otherwise the remaining subtree is the whole old tree, whose root the verifier holds
        path.append(_range_root(start, stop, read))
    path.reverse()
    return path


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check an inclusion proof for the leaf hash `leaf`; return only if it holds.

    It raises instead of returning a bool, so that a forgotten `if` cannot pass a bad proof.

    Raises: DataLoss CHECKPOINT_INCONSISTENT. Source: RFC 9162 section 2.1.3.2.
    """
    if not 0 <= index < size:
        _inconsistent(f"no leaf {index} in a tree of {size}", index=index, size=size)
    position, last = index, size - 1
    found = leaf
    for sibling in proof:
        if last == 0:
            _inconsistent(f"the inclusion proof of leaf {index} in {size} is too long", index=index, size=size)
        if position & 1 or position == last:
            found = node_hash(sibling, found)
            position, last = _skip_missing_siblings(position, last)
        else:
            found = node_hash(found, sibling)
        position >>= 1
        last >>= 1
    if last != 0 or found != root:
        _inconsistent(f"leaf {index} is not proven to be in the tree of {size} with this root", index=index, size=size)


def verify_consistency(old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check a consistency proof between two roots; return only if it holds.

    Raises: DataLoss CHECKPOINT_INCONSISTENT. Source: RFC 9162 section 2.1.4.2.
    """
    sizes = {"old_size": old_size, "size": new_size}
    if not 0 <= old_size <= new_size:
        _inconsistent(f"a tree of {new_size} cannot follow one of {old_size}", **sizes)
    if old_size in (0, new_size):
        expected = EMPTY_ROOT if old_size == 0 else new_root
        if proof or old_root != expected:
            _inconsistent(f"the roots at {old_size} and {new_size} do not agree", **sizes)
        return
    # A complete old tree is itself a node of the new one, and its root is left out of the proof.
    path = [old_root, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    if not path:
        _inconsistent(f"the consistency proof from {old_size} to {new_size} is empty", **sizes)
    position, last = old_size - 1, new_size - 1
    while position & 1:
        position >>= 1
        last >>= 1
    old_found = new_found = path[0]
    for sibling in path[1:]:
        if last == 0:
            _inconsistent(f"the consistency proof from {old_size} to {new_size} is too long", **sizes)
        if position & 1 or position == last:
            old_found = node_hash(sibling, old_found)
            new_found = node_hash(sibling, new_found)
            position, last = _skip_missing_siblings(position, last)
        else:
            new_found = node_hash(new_found, sibling)
        position >>= 1
        last >>= 1
    if last != 0 or old_found != old_root or new_found != new_root:
        _inconsistent(f"the tree of {old_size} is not proven to be the beginning of the one of {new_size}", **sizes)


def _skip_missing_siblings(position: int, last: int) -> tuple[int, int]:
    """Rise past the levels at which the rightmost node has no sibling, and so nothing in the proof."""
    while position and not position & 1:
        position >>= 1
        last >>= 1
    return position, last


def _largest_power_below(count: int) -> int:
    """Give the largest power of two smaller than `count` (RFC 6962: k < n <= 2k). Example: 7 -> 4, 8 -> 4."""
    return 1 << ((count - 1).bit_length() - 1)


def _range_root(start: int, stop: int, read: HashReader) -> bytes:
    """Fold the complete subtrees that make up the leaves from `start` up to `stop`; `start` is aligned to all of them."""
    count = stop - start
    peaks = []
    for level in range(count.bit_length() - 1, -1, -1):
        if count >> level & 1:
            peaks.append(read(level, start >> level))
            start += 1 << level
    return _fold(reversed(peaks))


def _fold(peaks_smallest_first: Iterable[bytes]) -> bytes:
    """Combine the peaks of a tree from the right, as RFC 6962 splits it at the largest power of two."""
    root: bytes | None = None
    for peak in peaks_smallest_first:
        root = peak if root is None else node_hash(peak, root)
    return EMPTY_ROOT if root is None else root


def _inconsistent(message: str, **metadata: object) -> NoReturn:
    raise refusal(Reason.REASON_CHECKPOINT_INCONSISTENT, message, **metadata)


Pyramid = list[list[bytes]]
"""The nodes of one tile: row 0 holds its hashes (at most 256), row k+1 the parents of the pairs in row k that are complete. A tile's
own root belongs to the tile above, so there are 8 rows."""


class Tile(NamedTuple):
    """A full tile, ready to be stored."""

    level: int
    number: int
    hashes: bytes


class Growth(NamedTuple):
    """What a tree would become: provisional until the entries are durable and `Tree.commit` adopts it."""

    old_size: int
    new_size: int
    tiles: list[Tile]
    woven: int
    """How many leaves are in the unfinished tiles of `edge`, and the full ones before them."""
    edge: tuple[Pyramid, ...]
    fresh: list[bytes]
    """The tree's own list of entries that are not in these yet."""
    added: Sequence[bytes]
    """Entries that go there too."""

    def root(self) -> bytes:
        """Compute the root the tree would have."""
        entries = [*self.fresh[: self.old_size - self.woven], *self.added]
        return _edge_root(_woven(self.new_size, self.edge, leaf_hashes(entries))[0])


class Tree:
    """An appendable tree that holds its right edge only, and reads full tiles from the store when a proof needs them.

    One thread grows it; any thread may read it. The state is swapped as a whole, so a reader sees the tree before a growth or after.

    The newest entries, as long as they fill no tile, are only kept: they and their parents are hashed when the tile is full or when
    somebody asks, all at once. Behind a flush everything is cold, and hashing them one by one took 9 of the 10 us that the tree cost a
    lone append.
    """

    def __init__(self, read_tile: TileReader) -> None:
        self._read_tile = read_tile
        self._state: tuple[int, int, tuple[Pyramid, ...], list[bytes]] = (0, 0, (), [])
        """The size, how many leaves are in tiles, the unfinished tiles, and the entries that are not in these yet.

        That list only grows, and may be longer than the size of a reader's state says.
        """
        self._asked: tuple[int, tuple[Pyramid, ...]] = (0, ())
        """The size that somebody last asked about, and the unfinished tiles with all leaves in them."""
        self._cache: OrderedDict[tuple[int, int], Pyramid] = OrderedDict()
        self._cache_lock = threading.Lock()

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self._state[0]

    def root(self) -> bytes:
        """Compute the root of all leaves."""
        return _edge_root(self._right_edge()[1])

    def append(self, entries: Sequence[bytes]) -> Growth:
        """Compute what these further entries make of the tree, without changing it."""
        size, woven, edge, fresh = self._state
        new_size = size + len(entries)
        if size >> TILE_HEIGHT != new_size >> TILE_HEIGHT or max(map(len, entries)) > KEPT_ENTRY_BYTES:
            return self.extend(leaf_hashes(entries))
        if self._asked[0] == size:
            woven, edge, fresh = size, self._asked[1], []
        return Growth(size, new_size, [], woven, edge, fresh, entries)

    def extend(self, new_leaf_hashes: Sequence[bytes]) -> Growth:
        """Compute what further leaves make of the tree, without changing it."""
        size, edge = self._right_edge()
        new_size = size + len(new_leaf_hashes)
        edge, tiles = _woven(new_size, edge, new_leaf_hashes)
        return Growth(size, new_size, tiles, new_size, edge, [], ())

    def commit(self, growth: Growth) -> None:
        """Adopt a growth whose entries and tiles are durable now."""
        assert growth.old_size == self._state[0], (growth.old_size, self.size)
        growth.fresh.extend(growth.added)
        assert len(growth.fresh) == growth.new_size - growth.woven, "every leaf is in a tile, or kept"
        self._state = (growth.new_size, growth.woven, growth.edge, growth.fresh)

    def _right_edge(self) -> tuple[int, tuple[Pyramid, ...]]:
        """Return the size and the unfinished tiles of all levels, with every leaf in them."""
        size, woven, edge, fresh = self._state
        if size == woven:
            return size, edge
        asked = self._asked
        if asked[0] != size:
            asked = self._asked = size, _woven(size, edge, leaf_hashes(fresh[: size - woven]))[0]
        return asked

    def load(self, size: int, tail: Sequence[bytes]) -> None:
        """Set the tree to `size` leaves, from the stored tiles and the leaf hashes after the last full one."""
        edge: list[Pyramid] = []
        level = 0
        while size >> TILE_HEIGHT * level:
            count = size >> TILE_HEIGHT * level
            if level == 0:
                hashes = list(tail)
            else:
                first = count & ~(TILE_WIDTH - 1)
                hashes = [_tile_root(self._read_checked(level - 1, number)) for number in range(first, count)]
            assert len(hashes) == count % TILE_WIDTH, (level, len(hashes), count)
            pyramid = _new_pyramid()
            pyramid[0] = hashes
            _complete(pyramid)
            edge.append(pyramid)
            level += 1
        with self._cache_lock:
            self._cache.clear()
        self._state = (size, size, tuple(edge), [])
        self._asked = size, tuple(edge)

    def read(self, level: int, index: int) -> bytes:
        """Give the hash of a complete subtree: the `HashReader` of this tree."""
        size, edge = self._right_edge()
        assert (index + 1) << level <= size, (level, index, size)
        tile_level, row = divmod(level, TILE_HEIGHT)
        number = index << row >> TILE_HEIGHT
        if number == size >> TILE_HEIGHT * (tile_level + 1):
            pyramid = edge[tile_level]
        else:
            pyramid = self._pyramid(tile_level, number)
        return pyramid[row][index - (number << TILE_HEIGHT - row)]

    def tile(self, level: int, number: int, width: int = TILE_WIDTH) -> bytes:
        """Give the first `width` hashes of a tile, be it full and stored or still the right edge."""
        size, edge = self._right_edge()
        assert (number << TILE_HEIGHT) + width <= size >> TILE_HEIGHT * level, (level, number, width, size)
        if number == size >> TILE_HEIGHT * (level + 1):
            return b"".join(edge[level][0][:width])
        return self._read_checked(level, number)[: width * HASH_BYTES]

    def root_at(self, size: int) -> bytes:
        """Compute the root of the first `size` leaves."""
        assert 0 <= size <= self.size, (size, self.size)
        return root_at(size, self.read)

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """Prove that leaf `index` is among the first `size`."""
        assert size <= self.size, (size, self.size)
        return inclusion_proof(index, size, self.read)

    def consistency_proof(self, old_size: int, new_size: int) -> list[bytes]:
        """Prove that the tree at `old_size` is the beginning of that at `new_size`."""
        assert new_size <= self.size, (new_size, self.size)
        return consistency_proof(old_size, new_size, self.read)

    def _pyramid(self, level: int, number: int) -> Pyramid:
        with self._cache_lock:
            pyramid = self._cache.get((level, number))
            if pyramid is not None:
                self._cache.move_to_end((level, number))
                return pyramid
        pyramid = _full_pyramid(self._read_checked(level, number))
        with self._cache_lock:
            self._cache[level, number] = pyramid
            while len(self._cache) > TILES_CACHED:
                self._cache.popitem(last=False)
        return pyramid

    def _read_checked(self, level: int, number: int) -> bytes:
        hashes = self._read_tile(level, number)
        if len(hashes) != TILE_BYTES:
            raise refusal(
                Reason.REASON_LOG_CORRUPT,
                f"hash tile {number} of level {level} has {len(hashes)} bytes, not {TILE_BYTES}",
                index=number << TILE_HEIGHT * (level + 1),
                level=level,
                number=number,
            )
        return hashes


def _new_pyramid() -> Pyramid:
    return [[] for _ in range(TILE_HEIGHT)]


def _complete(pyramid: Pyramid) -> None:
    """Add the parents that the hashes in row 0 allow and that are not there yet; each pair is hashed once in its life."""
    for row in range(1, TILE_HEIGHT):
        lower, upper = pyramid[row - 1], pyramid[row]
        start = 2 * len(upper)
        if len(lower) - start < 2:
            return
        pyramid[row] = upper + [
            sha256(b"\x01" + left + right).digest()
            for left, right in zip(lower[start::2], lower[start + 1 :: 2], strict=False)  # the odd one out waits for its sibling
        ]


def _woven(new_size: int, edge: tuple[Pyramid, ...], fresh: Sequence[bytes]) -> tuple[tuple[Pyramid, ...], list[Tile]]:
    """Put the newest leaves of a tree into its unfinished tiles; return these, and the tiles that became full."""
    size = new_size - len(fresh)
    edges = list(edge)
    tiles: list[Tile] = []
    level = 0
    added = fresh
    while added:
        pyramid = edges[level].copy() if level < len(edges) else _new_pyramid()  # rows are replaced, never changed: readers have them
        pyramid, added = _fill(level, size >> TILE_HEIGHT * (level + 1), pyramid, added, tiles)
        edges[level : level + 1] = [pyramid]
        level += 1
    return tuple(edges), tiles


def _fill(level: int, number: int, pyramid: Pyramid, added: Sequence[bytes], tiles: list[Tile]) -> tuple[Pyramid, list[bytes]]:
    """Put hashes into a tile and those after it; return the unfinished tile, and the roots of those that became full."""
    roots = []
    position = 0
    while position < len(added):
        room = TILE_WIDTH - len(pyramid[0])
        pyramid[0] = [*pyramid[0], *added[position : position + room]]
        position += room
        _complete(pyramid)
        if len(pyramid[0]) == TILE_WIDTH:
            tiles.append(Tile(level, number, b"".join(pyramid[0])))
            roots.append(node_hash(*pyramid[-1]))
            number += 1
            pyramid = _new_pyramid()
    return pyramid, roots


def _full_pyramid(hashes: bytes) -> Pyramid:
    pyramid = _new_pyramid()
    pyramid[0] = [hashes[start : start + HASH_BYTES] for start in range(0, len(hashes), HASH_BYTES)]
    _complete(pyramid)
    return pyramid


def _tile_root(hashes: bytes) -> bytes:
    return node_hash(*_full_pyramid(hashes)[-1])


def _edge_root(edge: Sequence[Pyramid]) -> bytes:
    """Fold the last node of every row that has one without a sibling: they are the 1 bits of the size, the smallest first."""
    return _fold(row[-1] for pyramid in edge for row in pyramid if len(row) & 1)
