"""Whatever happens to the stored bytes is noticed, and the first bad index is named."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from collections import Counter

import pytest

from ledger.errors import DataLoss, LedgerError
from ledger.log.checkpoint import sign_checkpoint
from ledger.log.merkle import leaf_hash
from ledger.log.store import open_log

SIZE = 700


@pytest.fixture(scope="module")
def sound(tmp_path_factory, sample, signer):
    path = tmp_path_factory.mktemp("sound") / "books.db"
    with open_log(f"sqlite:///{path}") as log:
        sample.append(log, SIZE // 2, batch=90)
        sample.checkpoint(log, signer)
        sample.append(log, SIZE - log.size, batch=90)
        sample.checkpoint(log, signer)
    assert not path.with_name("books.db-wal").exists()
    return path


@pytest.fixture
def copy(sound, tmp_path):
    return shutil.copy(sound, tmp_path / "books.db")


@pytest.fixture
def change(copy):
    def run(statement, *arguments):
        with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as connection:
            assert connection.execute(statement, arguments).rowcount > 0

    return run


@pytest.fixture
def examine(copy, sample, signer):
    def run(read_only=True):
        with open_log(f"sqlite:///{copy}", read_only=read_only) as log:
            log.check(topic_of=sample.topic_of, keys=[signer.verifier_key])

    return run


def test_a_sound_log_passes(examine):
    examine()
    examine(read_only=False)


@pytest.mark.parametrize("version", [1, 2, 256, 257, 512, 600, 699, 700])
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE stored_events SET state = state || x'00' WHERE originator_version = ?",
        "UPDATE stored_events SET state = CAST(state AS TEXT) WHERE originator_version = ?",
        "UPDATE stored_events SET state = NULL WHERE originator_version = ?",
        "UPDATE stored_events SET topic = 'example.Other' WHERE originator_version = ?",
        "UPDATE stored_events SET topic = x'00' WHERE originator_version = ?",
        "UPDATE stored_events SET topic = CAST(x'ff' AS TEXT) WHERE originator_version = ?",
        "UPDATE stored_events SET originator_version = -5 WHERE originator_version = ?",
        "DELETE FROM stored_events WHERE originator_version = ?",
    ],
)
def test_a_changed_entry_is_named(change, examine, version, statement):
    change(statement, version)
    with pytest.raises(DataLoss) as caught:
        examine()
    assert caught.value.reason_name == "LOG_CORRUPT"
    if version < SIZE or ("version =" not in statement and "DELETE" not in statement):
        assert caught.value.metadata["index"] == str(version - 1)


@pytest.mark.parametrize("last_checkpoint", [None, 100, 300])
@pytest.mark.parametrize("version", [1, 257, 300, 301, 343])
def test_a_changed_byte_is_named_where_no_checkpoint_is_of_the_end(tmp_path, sample, signer, last_checkpoint, version):
    """Closed in order, a log keeps the hashes of the entries that no tile has yet."""
    path = tmp_path / "books.db"
    with open_log(f"sqlite:///{path}") as log:
        sample.append(log, last_checkpoint or 0)
        if last_checkpoint is not None:
            sample.checkpoint(log, signer)
        sample.append(log, 343 - log.size)
    flip_a_byte(path, version)
    for read_only in (True, False):
        with pytest.raises(DataLoss) as caught, open_log(f"sqlite:///{path}", read_only=read_only) as log:
            log.check()
        assert caught.value.metadata["index"] == str(version - 1)


def test_the_newest_entries_of_a_killed_writer_are_kept_safe_once_it_opens_again(tmp_path, sample):
    path, left = tmp_path / "books.db", tmp_path / "left.db"
    with open_log(f"sqlite:///{path}") as log:
        sample.append(log, 300)
        log.copy_to(str(left))  # as it is without the end of an orderly close
    with open_log(f"sqlite:///{left}"):
        pass
    flip_a_byte(left, 299)
    with pytest.raises(DataLoss) as caught:
        open_log(f"sqlite:///{left}")
    assert caught.value.metadata["index"] == "298"


def test_entries_lost_from_the_end_are_missed(tmp_path, sample):
    path = tmp_path / "books.db"
    with open_log(f"sqlite:///{path}") as log:
        sample.append(log, 300)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM stored_events WHERE originator_version > 290")
    with pytest.raises(DataLoss, match="300 entries were kept, but the log ends at 290"):
        open_log(f"sqlite:///{path}", read_only=True)


def test_a_late_checkpoint_leaves_the_newest_hashes(tmp_path, sample, signer):
    with open_log(f"sqlite:///{tmp_path}/books.db") as log:
        sample.append(log, 300)
        log.keep_right_edge()
        text = sign_checkpoint(signer.name, 280, log.tree.root_at(280), signer)
        log.save_checkpoint(280, text)
        assert log.backend.right_edge().size == 300
        assert log.check().checkpoint_count == 1
    with open_log(f"sqlite:///{tmp_path}/books.db") as log:
        assert log.check().size == 300


def flip_a_byte(path, version):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        (entry,) = connection.execute("SELECT state FROM stored_events WHERE originator_version = ?", (version,)).fetchone()
        changed = entry[:-1] + bytes([entry[-1] ^ 1])
        connection.execute("UPDATE stored_events SET state = ? WHERE originator_version = ?", (changed, version))


def test_read_names_a_missing_entry_and_read_checked_a_changed_one(change, copy, sample):
    change("DELETE FROM stored_events WHERE originator_version = 300")
    change("UPDATE stored_events SET state = x'00' WHERE originator_version = 200")
    with open_log(f"sqlite:///{copy}") as log:
        assert sum(1 for _ in log.read(0, 256)) == 256
        for read, index in ((log.read, 299), (log.read_checked, 199)):
            with pytest.raises(DataLoss) as caught:
                list(read(0, SIZE))
            assert caught.value.metadata["index"] == str(index)
        assert log.entry(0) == sample.entry(0)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE stored_events SET originator_version = 5000 WHERE originator_version = 700",
        "UPDATE stored_events SET originator_version = 9000000000000000000 WHERE originator_version = 700",
        "UPDATE stored_events SET originator_version = 700.5 WHERE originator_version = 700",
        "UPDATE stored_events SET originator_id = 'other' WHERE originator_version = 300",
        "INSERT INTO stored_events VALUES ('other', 1, 't', x'00')",
        "UPDATE stored_events SET originator_version = 'x' WHERE originator_version = 300",
        "INSERT INTO stored_events VALUES ('acme', 'x', 't', x'00')",
        "INSERT INTO stored_events VALUES ('acme', 0, 't', x'00')",
        "DELETE FROM stored_events WHERE originator_version > 600",
        "DELETE FROM stored_events",
        "DELETE FROM hash_tiles WHERE number = 1",
        "DELETE FROM hash_tiles",
        "UPDATE hash_tiles SET hashes = zeroblob(8192) WHERE number = 0",
        "UPDATE hash_tiles SET hashes = x'00' WHERE number = 0",
        "UPDATE hash_tiles SET hashes = 'text' WHERE number = 0",
        "INSERT INTO hash_tiles VALUES (0, 2, zeroblob(8192))",
        "INSERT INTO hash_tiles VALUES (3, 0, zeroblob(8192))",
        "INSERT INTO hash_tiles VALUES (-1, 0, zeroblob(8192))",
        "INSERT INTO hash_tiles VALUES ('x', 0, zeroblob(8192))",
        "UPDATE right_edge SET size = 699",
        "UPDATE right_edge SET hashes = zeroblob(188 * 32)",
        "UPDATE right_edge SET hashes = hashes || x'00'",
        "DELETE FROM right_edge",
        "DELETE FROM checkpoints WHERE size = 700",
        "UPDATE checkpoints SET size = 701 WHERE size = 700",
        "UPDATE checkpoints SET size = 349 WHERE size = 350",
        "UPDATE checkpoints SET text = replace(text, 'A', 'B') WHERE size = 350",
        "UPDATE checkpoints SET text = replace(text, 'example', 'Example') WHERE size = 700",
        "UPDATE checkpoints SET text = CAST(text AS BLOB) WHERE size = 350",
    ],
)
def test_any_other_change_is_found(change, examine, statement):
    change(statement)
    with pytest.raises(DataLoss):
        examine()
    with pytest.raises(DataLoss):
        examine(read_only=False)


def test_an_entry_changed_together_with_its_hash_is_found(copy, change, examine):
    """Whoever can rewrite the tile too is stopped by the root that was signed."""
    forged = b"299 example.Closed forged"
    change("UPDATE stored_events SET state = ? WHERE originator_version = 300", forged)
    with open_log(f"sqlite:///{copy}") as log:
        hashes = log.tree.tile(0, 1)
    change("UPDATE hash_tiles SET hashes = ? WHERE number = 1", hashes[: 43 * 32] + leaf_hash(forged) + hashes[44 * 32 :])
    with pytest.raises(DataLoss) as caught:
        examine()
    assert caught.value.reason_name == "CHECKPOINT_INCONSISTENT"


@pytest.mark.parametrize("kept", [0.99, 0.5, 0.1])
def test_a_truncated_file_is_found(copy, examine, kept):
    size = copy.stat().st_size
    with copy.open("r+b") as file:
        file.truncate(int(size * kept))
    with pytest.raises(LedgerError):
        examine()


def _logical_content(path):
    """Everything SQLite can be asked for: tables and indexes, row by row."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        tables = ("sqlite_master", "stored_events", "hash_tiles", "checkpoints", "right_edge")
        content = [connection.execute(f"SELECT rowid, * FROM {table} ORDER BY rowid").fetchall() for table in tables]
        content.append(connection.execute("SELECT originator_id, originator_version FROM stored_events ORDER BY 1, 2").fetchall())
        content.append(connection.execute("PRAGMA integrity_check").fetchall())
        return content


@pytest.mark.parametrize("count", [250, pytest.param(20_000, marks=pytest.mark.soak)])
def test_one_changed_byte_anywhere_is_found_or_is_in_unused_space(sound, copy, examine, count):
    original = sound.read_bytes()
    content = _logical_content(sound)
    generator = random.Random(20260101)
    outcome = Counter()
    offsets = [*range(0, 100, 3), *range(3900, 4096), *(generator.randrange(len(original)) for _ in range(count))]
    for offset in offsets:
        changed = bytearray(original)
        changed[offset] ^= 1 << generator.randrange(8)
        copy.write_bytes(changed)
        try:
            examine()
        except LedgerError as error:
            outcome[error.reason_name] += 1
        else:
            assert _logical_content(copy) == content, f"byte {offset} was changed, and nobody noticed"
            outcome["unused"] += 1
        for ending in ("-wal", "-shm"):
            copy.with_name(copy.name + ending).unlink(missing_ok=True)
    assert outcome["LOG_CORRUPT"] > 150, outcome


def test_a_changed_byte_of_an_entry_is_named(sound, copy, examine, sample):
    original = sound.read_bytes()
    generator = random.Random(7)
    for index in (0, 255, 256, 349, 350, 511, 512, 698, 699, *(generator.randrange(SIZE) for _ in range(30))):
        entry = sample.entry(index)
        assert original.count(entry) == 1
        offset = original.index(entry) + generator.randrange(len(entry))
        changed = bytearray(original)
        changed[offset] ^= 1 << generator.randrange(8)
        copy.write_bytes(changed)
        with pytest.raises(DataLoss) as caught:
            examine()
        assert caught.value.metadata["index"] == str(index)
