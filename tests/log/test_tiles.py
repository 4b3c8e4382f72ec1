from __future__ import annotations

import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import DataLoss, InvalidRequest, LedgerError, RuleViolated
from ledger.log.checkpoint import Signer
from ledger.log.merkle import consistency_proof, inclusion_proof, leaf_hash, verify_consistency, verify_inclusion
from ledger.log.store import open_log
from ledger.log.tiles import (
    TileDirectory,
    TileName,
    _partial_tiles,
    decode_bundle,
    encode_bundle,
    export_tiles,
    parse_tile_path,
    tile_path,
)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ((0, 0, 256), "tile/0/000"),
        ((1, 0, 17), "tile/1/000.p/17"),
        ((0, 273, 112), "tile/0/273.p/112"),
        ((None, 1234067, 256), "tile/entries/x001/x234/067"),
        ((2, 1000, 1), "tile/2/x001/000.p/1"),
        ((0, 999, 255), "tile/0/999.p/255"),
    ],
)
def test_paths(name, path):
    assert tile_path(*name) == path
    assert parse_tile_path(path) == TileName(*name)


@given(st.none() | st.integers(0, 63), st.integers(0, 10**12), st.integers(1, 256))
def test_paths_are_read_back(level, number, width):
    assert parse_tile_path(tile_path(level, number, width)) == (level, number, width)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0",
        "tile/0/1",
        "tile/00/001",
        "tile/64/001",
        "tile/0/x000/001",
        "tile/0/001/002",
        "tile/0/x001",
        "tile/0/001.p/0",
        "tile/0/001.p/256",
        "tile/0/001.p/999",
        "tile/0/001.p/01",
        "tile/x/001",
        "/tile/0/001",
        "tile/0/001\n",
        "tile/0/٠٠١",
    ],
)
def test_other_paths_are_refused(path):
    with pytest.raises(InvalidRequest):
        parse_tile_path(path)


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_bundles_are_read_back(entries):
    bundle = encode_bundle(entries)
    assert decode_bundle(bundle) == entries
    if bundle:
        with pytest.raises(ValueError, match="inside an entry"):
            decode_bundle(bundle + b"\x00")
        with pytest.raises(ValueError, match="inside an entry"):
            decode_bundle(bundle + b"\x00\x05abcd")


def test_the_partial_tiles_of_a_size():
    assert list(_partial_tiles(70_000)) == [(0, 273, 112), (1, 1, 17), (2, 0, 1)]
    assert list(_partial_tiles(0)) == []
    assert list(_partial_tiles(256)) == [(1, 0, 1)]


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 700])
def test_an_export_verifies(log, sample, signer, tmp_path, size):
    sample.append(log, size)
    seen = []
    checkpoint = export_tiles(log, tmp_path / "out", signer, lambda done, total: seen.append((done, total)))
    assert (checkpoint.size, checkpoint.root) == (size, log.tree.root())
    assert seen[-1:] == ([(size, size)] if size else [])
    directory = TileDirectory(tmp_path / "out")
    assert directory.verify([signer.verifier_key], lambda *_: None) == checkpoint
    assert [entry for _, entry in directory.entries(size)] == [sample.entry(index) for index in range(size)]
    read = directory.hash_reader(size)
    for index in range(0, size, 50):
        verify_inclusion(leaf_hash(sample.entry(index)), index, size, inclusion_proof(index, size, read), checkpoint.root)


def test_an_export_is_extended(log, sample, signer, tmp_path):
    out = tmp_path / "out"
    written = {}
    roots = {}
    for size in (0, 100, 256, 300, 1000, 1000):
        sample.append(log, size - log.size)
        sample.checkpoint(log, signer)
        roots[size] = log.tree.root()
        assert export_tiles(log, out).size == size
        directory = TileDirectory(out)
        assert directory.verify([signer.verifier_key]).root == roots[size]
        for file, content in written.items():
            assert file.read_bytes() == content
        written = {file: file.read_bytes() for file in out.rglob("*") if file.is_file() and file.name != "checkpoint"}
    assert [size for size, _ in TileDirectory(out).checkpoints()] == [0, 100, 256, 300, 1000]
    assert next(TileDirectory(out).entries(1000, 700)) == (700, sample.entry(700))
    read = TileDirectory(out).hash_reader(1000)
    verify_consistency(300, 1000, roots[300], roots[1000], consistency_proof(300, 1000, read))


def test_an_export_of_another_log_is_left_alone(log, sample, signer, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InvalidRequest, match="give a signer"):
        export_tiles(log, out)
    with open_log("sqlite:///:memory:") as other:
        other.append("other", ["t"], [b"another"])
        export_tiles(other, out, signer)
    sample.append(log, 10)
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    with pytest.raises(DataLoss) as caught:
        export_tiles(log, out, signer)
    assert caught.value.reason_name == "CHECKPOINT_INCONSISTENT"
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


@pytest.fixture(scope="module")
def exported(tmp_path_factory, sample, signer):
    out = tmp_path_factory.mktemp("exported") / "out"
    with open_log("sqlite:///:memory:") as log:
        sample.append(log, 300)
        sample.checkpoint(log, signer)
        sample.append(log, 300)
        sample.checkpoint(log, signer)
        export_tiles(log, out)
    return out


def test_any_changed_or_missing_file_is_found(exported, tmp_path, signer):
    files = sorted(file.relative_to(exported) for file in exported.rglob("*") if file.is_file())
    assert len(files) == 10
    for file in files:
        copy = tmp_path / "copy"
        shutil.copytree(exported, copy)
        content = (copy / file).read_bytes()
        for damaged in (content[:-1], bytes([content[0] ^ 1]) + content[1:], content[:40] + bytes([content[40] ^ 1]) + content[41:]):
            (copy / file).write_bytes(damaged)
            with pytest.raises(LedgerError):
                TileDirectory(copy).verify([signer.verifier_key])
        (copy / file).unlink()
        if file.parts[0] != "checkpoints":
            with pytest.raises(DataLoss):
                TileDirectory(copy).verify([signer.verifier_key])
        shutil.rmtree(copy)


def test_the_index_of_a_changed_entry_is_named(exported, tmp_path, signer, sample):
    copy = shutil.copytree(exported, tmp_path / "copy")
    file = copy / tile_path(None, 1)
    content = file.read_bytes()
    place = content.index(sample.entry(300))
    file.write_bytes(content[:place] + b"X" + content[place + 1 :])
    with pytest.raises(DataLoss) as caught:
        TileDirectory(copy).verify([signer.verifier_key])
    assert caught.value.metadata["index"] == "300"


def test_a_directory_is_trusted_by_its_key_only(exported, tmp_path):
    with pytest.raises(RuleViolated):
        TileDirectory(exported).verify([Signer.generate("example.com/acme").verifier_key])
    with pytest.raises(DataLoss):
        TileDirectory(tmp_path).verify([])
