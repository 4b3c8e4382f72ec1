"""The whole log as a static directory that any C2SP auditor reads (c2sp.org/tlog-tiles).

    checkpoint                       the newest signed tree head
    tile/<level>/<number>            256 hashes of the tree, 8,192 bytes; `.p/<width>` when it is not full
    tile/entries/<number>            the entries of a level 0 tile, each after its length in two bytes, big-endian
    checkpoints/<size>               every checkpoint the log has kept; our addition, the same format

A number is written in groups of three digits, all but the last with an x before: 1234067 is x001/x234/067. Full tiles never change,
so a directory grows by adding files; `checkpoint` is replaced last, when all that it commits to is there.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from ledger.errors import refusal
from ledger.log.checkpoint import Checkpoint, Signer, VerifierKey, open_note, parse_checkpoint, sign_checkpoint
from ledger.log.log import ENTRY_BYTES_MAX, Log, Progress
from ledger.log.merkle import HASH_BYTES, TILE_HEIGHT, TILE_WIDTH, HashReader, Tree, leaf_hashes
from ledger.log.snapshot import fsync_folder
from stockledger.v1.errors_pb2 import Reason

CHECKPOINT_FILE = "checkpoint"
CHECKPOINTS_FOLDER = "checkpoints"
ENTRIES = "entries"

_LENGTH_BYTES = 2
_PATH = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


class TileName(NamedTuple):
    """Which tile a file holds; `level` is None for a bundle of entries."""

    level: int | None
    number: int
    width: int


def tile_path(level: int | None, number: int, width: int = TILE_WIDTH) -> str:
    """Name the file of a tile, or with level None of a bundle of entries. Example: (1, 0, 17) -> tile/1/000.p/17."""
    assert number >= 0, number
    assert 1 <= width <= TILE_WIDTH, width
    groups = [f"{number % 1000:03d}"]
    while number >= 1000:
        number //= 1000
        groups.append(f"x{number % 1000:03d}")
    path = f"tile/{ENTRIES if level is None else level}/{'/'.join(reversed(groups))}"
    return path if width == TILE_WIDTH else f"{path}.p/{width}"


def parse_tile_path(path: str) -> TileName:
    """Read what `tile_path` writes, and nothing else.

    Raises: InvalidRequest FIELD_MALFORMED.
    """
    match = _PATH.fullmatch(path)
    if match is not None:
        level = None if match[1] == ENTRIES else int(match[1])
        name = TileName(level, int(re.sub("[x/]", "", match[2])), int(match[3] or TILE_WIDTH))
        if name.width <= TILE_WIDTH and (level is None or level < 64) and tile_path(*name) == path:
            return name
    raise refusal(Reason.REASON_FIELD_MALFORMED, f"{path!r} is not the path of a tile", field="path", value=path)


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """Write entries one after another, each after its length in two bytes, big-endian."""
    parts = []
    for entry in entries:
        assert len(entry) <= ENTRY_BYTES_MAX, len(entry)
        parts += [len(entry).to_bytes(_LENGTH_BYTES, "big"), entry]
    return b"".join(parts)


def decode_bundle(bundle: bytes) -> list[bytes]:
    """Read the entries of a bundle.

    Raises: ValueError when it ends inside an entry.
    """
    entries = []
    position = 0
    while position < len(bundle):
        start = position + _LENGTH_BYTES
        position = start + int.from_bytes(bundle[position:start], "big")
        if start > len(bundle) or position > len(bundle):
            raise ValueError("the bundle ends inside an entry")
        entries.append(bundle[start:position])
    return entries


def export_tiles(log: Log, directory: str | os.PathLike[str], signer: Signer | None = None, progress: Progress | None = None) -> Checkpoint:
    """Write the log as a directory of tiles, or extend the one that is there; give the checkpoint it ends with.

    With a signer that is a checkpoint of the log's whole size, under the signer's name as origin; without, the last one saved in the
    log. Every entry is compared with its hash on the way out, and the checkpoint of an existing directory with the tree.

    Raises: InvalidRequest FIELD_MISSING when there is neither signer nor checkpoint; DataLoss LOG_CORRUPT with the first bad index;
    DataLoss CHECKPOINT_INCONSISTENT when the directory is of another log, or of another past of this one.
    """
    folder = Path(directory)
    text = _checkpoint_text(log, signer)
    checkpoint = parse_checkpoint(text)
    old_size = _old_size(log, folder, checkpoint)
    for size, saved in log.checkpoints(None):
        if size <= checkpoint.size:
            _write(folder / CHECKPOINTS_FOLDER / str(size), saved.encode())
    _write_entries(log, folder, old_size, checkpoint.size, progress)
    _write_hashes(log.tree, folder, old_size, checkpoint.size)
    _write(folder / CHECKPOINT_FILE, text.encode(), replace=True)
    return checkpoint


class TileDirectory:
    """A log as files, read by somebody who trusts nothing in them but the keys he brought."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.path = Path(directory)

    def checkpoint_text(self) -> str:
        """Read the newest checkpoint, unverified.

        Raises: DataLoss LOG_CORRUPT when there is none.
        """
        return self._text(CHECKPOINT_FILE)

    def checkpoint(self, keys: Iterable[VerifierKey]) -> Checkpoint:
        """Read the newest checkpoint and verify its signatures."""
        return parse_checkpoint(open_note(self.checkpoint_text(), keys).text)

    def checkpoints(self) -> list[tuple[int, str]]:
        """Read every checkpoint kept beside the newest, the oldest first, unverified."""
        folder = self.path / CHECKPOINTS_FOLDER
        sizes = sorted(int(file.name) for file in folder.iterdir() if file.name.isdecimal()) if folder.is_dir() else []
        return [(size, self._text(f"{CHECKPOINTS_FOLDER}/{size}")) for size in sizes]

    def hashes(self, level: int, number: int, width: int = TILE_WIDTH) -> bytes:
        """Read the first `width` hashes of a tile, from the file of that width or the full one.

        Raises: DataLoss LOG_CORRUPT.
        """
        data = self._read(level, number, width)
        if len(data) % HASH_BYTES or len(data) < width * HASH_BYTES:
            self._corrupt(number << TILE_HEIGHT * (level + 1), f"{tile_path(level, number, width)} has {len(data)} bytes")
        return data[: width * HASH_BYTES]

    def bundle(self, number: int, width: int = TILE_WIDTH) -> list[bytes]:
        """Read the first `width` entries of a bundle.

        Raises: DataLoss LOG_CORRUPT.
        """
        data = self._read(None, number, width)
        try:
            entries = decode_bundle(data)
        except ValueError as error:
            self._corrupt(number * TILE_WIDTH, f"{tile_path(None, number, width)}: {error}")
        if len(entries) < width:
            self._corrupt(number * TILE_WIDTH + len(entries), f"{tile_path(None, number, width)} has {len(entries)} entries")
        return entries[:width]

    def entries(self, size: int, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Read (index, entry) from `start` up to `size`."""
        while start < size:
            number, skipped = divmod(start, TILE_WIDTH)
            bundle = self.bundle(number, min(TILE_WIDTH, size - number * TILE_WIDTH))
            yield from enumerate(bundle[skipped:], start)
            start = number * TILE_WIDTH + len(bundle)

    def hash_reader(self, size: int) -> HashReader:
        """Give the hashes of the tree of `size`, for proofs; they are as good as the files, until `verify` has passed."""
        return self._tree(size).read

    def verify(self, keys: Iterable[VerifierKey], progress: Progress | None = None) -> Checkpoint:
        """Recompute everything from the entries, and compare: every tile, the signed root, and every older checkpoint.

        Raises: RuleViolated SIGNATURE_INVALID; DataLoss LOG_CORRUPT with the first bad index; DataLoss CHECKPOINT_INCONSISTENT.
        """
        known = tuple(keys)
        checkpoint = self.checkpoint(known)
        size = checkpoint.size
        tree = Tree(self.hashes)
        while tree.size < size:
            number = tree.size // TILE_WIDTH
            width = min(TILE_WIDTH, size - tree.size)
            leaves = leaf_hashes(self.bundle(number, width))
            self._compare_leaves(tree.size, leaves, self.hashes(0, number, width))
            growth = tree.extend(leaves)
            for level, tile_number, hashes in growth.tiles:
                self._compare_tile(level, tile_number, TILE_WIDTH, hashes)
            tree.commit(growth)
            if progress is not None:
                progress(tree.size, size)
        for level, number, width in _partial_tiles(size):
            self._compare_tile(level, number, width, tree.tile(level, number, width))
        self._compare_root(tree, checkpoint)
        for _, text in self.checkpoints():
            older = parse_checkpoint(open_note(text, known).text)
            if older.size <= size:
                self._compare_root(tree, older)
        return checkpoint

    def _tree(self, size: int) -> Tree:
        tree = Tree(self.hashes)
        width = size % TILE_WIDTH
        tail = self.hashes(0, size // TILE_WIDTH, width) if width else b""
        tree.load(size, [tail[start : start + HASH_BYTES] for start in range(0, len(tail), HASH_BYTES)])
        return tree

    def _compare_leaves(self, first: int, leaves: list[bytes], hashes: bytes) -> None:
        for offset, leaf in enumerate(leaves):
            if leaf != hashes[offset * HASH_BYTES : (offset + 1) * HASH_BYTES]:
                self._corrupt(first + offset, f"the bytes of entry {first + offset} do not have the hash that its tile gives")

    def _compare_tile(self, level: int, number: int, width: int, hashes: bytes) -> None:
        if self.hashes(level, number, width) != hashes:
            first = number << TILE_HEIGHT * (level + 1)
            self._corrupt(first, f"{tile_path(level, number, width)} is not what the entries from {first} give")

    def _compare_root(self, tree: Tree, checkpoint: Checkpoint) -> None:
        if tree.root_at(checkpoint.size) != checkpoint.root:
            raise refusal(
                Reason.REASON_CHECKPOINT_INCONSISTENT,
                f"{self.path}: the entries do not give the root of the checkpoint of size {checkpoint.size}",
                size=checkpoint.size,
            )

    def _text(self, name: str) -> str:
        try:
            return (self.path / name).read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            self._corrupt(0, f"{name} cannot be read: {error}")

    def _read(self, level: int | None, number: int, width: int) -> bytes:
        name, full = tile_path(level, number, width), tile_path(level, number)
        try:
            path = self.path / name
            return (path if path.exists() else self.path / full).read_bytes()
        except OSError as error:
            self._corrupt(number << TILE_HEIGHT * ((level or 0) + 1), f"{name} cannot be read: {error.strerror}")

    def _corrupt(self, index: int, what: str) -> NoReturn:
        raise refusal(Reason.REASON_LOG_CORRUPT, f"{self.path}: {what}", index=index)


def _partial_tiles(size: int) -> Iterator[tuple[int, int, int]]:
    """Give (level, number, width) of the unfinished tiles. Example: 70,000 -> (0, 273, 112), (1, 1, 17), (2, 0, 1)."""
    level = 0
    while size >> TILE_HEIGHT * level:
        number, width = divmod(size >> TILE_HEIGHT * level, TILE_WIDTH)
        if width:
            yield level, number, width
        level += 1


def _checkpoint_text(log: Log, signer: Signer | None) -> str:
    if signer is not None:
        size = log.size
        return sign_checkpoint(signer.name, size, log.tree.root_at(size), signer)
    for size, text in log.checkpoints(1):
        if size <= log.size:
            return text
    raise refusal(Reason.REASON_FIELD_MISSING, "the log has no saved checkpoint; give a signer", field="signer")


def _old_size(log: Log, folder: Path, checkpoint: Checkpoint) -> int:
    """Give the size an existing directory was written for, after comparing its checkpoint with the tree; 0 for a new one."""
    if not (folder / CHECKPOINT_FILE).exists():
        return 0
    old = parse_checkpoint(TileDirectory(folder).checkpoint_text())
    if old.origin == checkpoint.origin and old.size <= checkpoint.size and log.tree.root_at(old.size) == old.root:
        return old.size
    raise refusal(
        Reason.REASON_CHECKPOINT_INCONSISTENT,
        f"{folder} holds a checkpoint of {old.origin} at size {old.size}, which is not of the past of this log at {checkpoint.size}",
        size=old.size,
        origin=old.origin,
    )


def _write_entries(log: Log, folder: Path, old_size: int, size: int, progress: Progress | None) -> None:
    start = old_size - old_size % TILE_WIDTH
    while start < size:
        stop = min(size, start + TILE_WIDTH)
        bundle = encode_bundle(entry for _, _, entry in log.read_checked(start, stop))
        _write(folder / tile_path(None, start // TILE_WIDTH, stop - start), bundle)
        start = stop
        if progress is not None:
            progress(stop, size)


def _write_hashes(tree: Tree, folder: Path, old_size: int, size: int) -> None:
    level = 0
    while size >> TILE_HEIGHT * level:
        for number in range(old_size >> TILE_HEIGHT * (level + 1), size >> TILE_HEIGHT * (level + 1)):
            _write(folder / tile_path(level, number), tree.tile(level, number))
        level += 1
    for level, number, width in _partial_tiles(size):
        _write(folder / tile_path(level, number, width), tree.tile(level, number, width))


def _write(path: Path, content: bytes, *, replace: bool = False) -> None:
    """Write a file whole or not at all. A tile that is there with the same bytes is left alone."""
    if not replace and path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        if replace:
            os.fsync(file.fileno())
    os.chmod(temporary, 0o644)  # for a web server to read; a temporary file is its maker's alone
    os.replace(temporary, path)
    if replace:
        fsync_folder(path.parent)
