"""An export is accepted by Go's sumdb/note and sumdb/tlog, and every kind of damage to it is refused by them.

Debian's packages golang-go and golang-golang-x-mod-dev suffice; nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ledger.log.checkpoint import Signer, sign_checkpoint
from ledger.log.proof import format_receipt
from ledger.log.store import open_log
from ledger.log.tiles import export_tiles, tile_path

GO = shutil.which("go")
SOURCES = Path("/usr/share/gocode")
SIZE = 70_000
OLDER_SIZE = 300
INDEX = 123

pytestmark = pytest.mark.skipif(
    GO is None or not (SOURCES / "src/golang.org/x/mod/sumdb/tlog").is_dir(),
    reason="Go or its sumdb packages are missing: apt-get install golang-go golang-golang-x-mod-dev",
)


@pytest.fixture(scope="module")
def checker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("go")
    environment = {
        **os.environ,
        "GO111MODULE": "off",
        "GOPATH": str(SOURCES),
        "GOFLAGS": "",
        "GOPROXY": "off",
        "GOCACHE": str(folder / "cache"),
    }
    program = folder / "check_export"
    source = Path(__file__).with_name("check_export.go")
    subprocess.run([GO, "build", "-o", program, source], env=environment, check=True, cwd=folder)
    return program


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    signer = Signer("example.com/acme", bytes(range(32)))
    with open_log("sqlite:///:memory:") as log:
        for stop in (OLDER_SIZE, SIZE):
            entries = [b"entry %d " % index + bytes(index % 50) for index in range(log.size, stop)]
            log.append("acme", ["example.Moved"] * len(entries), entries)
            text = sign_checkpoint(signer.name, stop, log.tree.root(), signer)
            log.save_checkpoint(stop, text)
            export_tiles(log, folder / "out")
        receipt = format_receipt(INDEX, log.tree.inclusion_proof(INDEX, SIZE), text, b"context")
        (folder / "older").write_text(log.checkpoints()[-1][1])
        (folder / "receipt.tlog-proof").write_text(receipt)
        (folder / "entry").write_bytes(log.entry(INDEX))
    (folder / "key").write_text(str(signer.verifier_key))
    return folder


def run(checker, folder, key=None):
    arguments = [folder / "out", key or (folder / "key").read_text(), folder / "older", folder / "receipt.tlog-proof", folder / "entry"]
    return subprocess.run([checker, *arguments], capture_output=True, text=True, check=False)


def test_go_accepts_the_export(checker, exported):
    done = run(checker, exported)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        f"checkpoints of example.com/acme at {OLDER_SIZE} and {SIZE}: signatures good",
        f"root of {SIZE} entries: recomputed and equal",
        "277 tiles: equal",
        f"inclusion in {SIZE}, consistency from {OLDER_SIZE}: proven",
        f"receipt of entry {INDEX} in {SIZE}: proven",
    ]


@pytest.mark.parametrize(
    ("file", "position", "message"),
    [
        ("out/checkpoint", 20, "invalid signature"),
        ("out/" + tile_path(None, 5), 1000, "the entries give the root"),
        ("out/" + tile_path(0, 5), 1000, "differs"),
        ("out/" + tile_path(1, 1, 17), 100, "differs"),
        ("older", 1, "invalid signature"),
        ("entry", 0, "invalid"),
    ],
)
def test_go_refuses_what_was_changed(checker, exported, tmp_path, *, file, position, message):
    copy = shutil.copytree(exported, tmp_path / "copy")
    content = bytearray((copy / file).read_bytes())
    content[position] ^= 1
    (copy / file).write_bytes(content)
    done = run(checker, copy)
    assert done.returncode == 1
    assert message in done.stderr


def test_go_refuses_another_key(checker, exported):
    done = run(checker, exported, str(Signer.generate("example.com/acme").verifier_key))
    assert done.returncode == 1


def test_go_reads_our_secret_keys(exported, tmp_path, checker):
    """A note signed by Go with our secret text is the note that we sign: the key format and the signature are the same bytes."""
    signer = Signer("example.com/acme", bytes(range(32)))
    source = tmp_path / "sign.go"
    source.write_text(
        'package main\nimport ("os"; "golang.org/x/mod/sumdb/note")\n'
        "func main() {\n"
        " signer, err := note.NewSigner(os.Args[1]); if err != nil { panic(err) }\n"
        " text, err := note.Sign(&note.Note{Text: os.Args[2]}, signer); if err != nil { panic(err) }\n"
        " os.Stdout.Write(text)\n}\n"
    )
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(SOURCES), "GOFLAGS": "", "GOCACHE": str(checker.parent / "cache")}
    text = sign_checkpoint(signer.name, 7, bytes(32), signer)
    body = text.split("\n\n")[0] + "\n"
    done = subprocess.run([GO, "run", source, signer.secret_text, body], env=environment, capture_output=True, check=True)
    assert done.stdout.decode() == text
