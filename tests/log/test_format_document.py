"""docs/log-format.md shows real bytes: its worked example is computed here and compared, line by line.

Run this file as a program to print the example anew; a stored log must never need it to change.
"""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from pathlib import Path

from ledger.log.checkpoint import Signer, open_note, sign_checkpoint
from ledger.log.proof import format_receipt, verify_receipt
from ledger.log.sqlite_backend import APPLICATION_ID, STORE_VERSION
from ledger.log.store import open_log
from ledger.log.tiles import export_tiles

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "log-format.md"
BEGIN = "<!-- worked example: compared with the code by tests/log/test_format_document.py -->\n"
END = "<!-- end of worked example -->\n"

SIGNER = Signer("example.com/acme", bytes(range(32)))
ENTRIES = (b"\x0a\x01a", b"\x0a\x02bc", b"")
TOPICS = ("example.Opened", "example.Moved", "example.Closed")


def block(title: str, text: str) -> str:
    return f"{title}\n```\n{text.rstrip()}\n```\n"


def worked_example(folder: Path) -> str:
    path = folder / "books.db"
    with open_log(f"sqlite:///{path}") as log:
        log.append("acme", TOPICS, ENTRIES)
        text = sign_checkpoint(SIGNER.name, 3, log.tree.root(), SIGNER)
        log.save_checkpoint(3, text)
        receipt = format_receipt(1, log.tree.inclusion_proof(1, 3), text, b"acme")
        consistency = log.tree.consistency_proof(1, 3)
        nodes = [log.tree.read(level, index).hex() for level, index in ((0, 0), (0, 1), (0, 2), (1, 0))]
        root = log.tree.root().hex()
        export_tiles(log, folder / "out")
    verify_receipt(receipt, ENTRIES[1], [SIGNER.verifier_key])
    open_note(text, [SIGNER.verifier_key])
    files = sorted(
        file for file in (folder / "out").rglob("*") if file.is_file() and file.name != "checkpoint" and file.parent.name != "checkpoints"
    )
    hashes = "\n".join(
        [
            *(f"leaf {index}      SHA-256(00 {ENTRIES[index].hex(' ')}) = {nodes[index]}".replace(" )", ")") for index in range(3)),
            f"leaves 0-1  SHA-256(01 leaf0 leaf1) = {nodes[3]}",
            f"root        SHA-256(01 leaves0-1 leaf2) = {root}",
        ]
    )
    return "\n".join(
        [
            block("Three entries, as rows of `stored_events`:", _rows(path)),
            block("Their hashes:", hashes),
            block(
                "The key of the example (its seed is the bytes 00 to 1f), secret and public:",
                f"{SIGNER.secret_text}\n{SIGNER.verifier_key}",
            ),
            block("The checkpoint of size 3:", text),
            block("The receipt of entry 1, with the four bytes `acme` as its extra data:", receipt),
            block("The consistency proof from size 1 to size 3:", "\n".join(node.hex() for node in consistency)),
            block(
                "The files of an export, beside `checkpoint` and `checkpoints/3`:",
                "\n".join(f"{file.relative_to(folder / 'out')}  {file.read_bytes().hex()}" for file in files),
            ),
        ]
    )


def _rows(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT * FROM stored_events ORDER BY originator_version").fetchall()
    lines = [f"{ledger:<15}{version:<20}{topic:<16}{state.hex(' ')}" for ledger, version, topic, state in rows]
    return "\n".join([f"{'originator_id':<15}{'originator_version':<20}{'topic':<16}state", *(line.rstrip() for line in lines)])


def test_the_worked_example_is_what_the_code_computes(tmp_path):
    document = DOCUMENT.read_text()
    shown = document.split(BEGIN)[1].split(END)[0]
    assert shown.strip() == worked_example(tmp_path).strip()


def test_the_tables_are_those_of_the_store(tmp_path):
    path = tmp_path / "books.db"
    open_log(f"sqlite:///{path}").close()
    document = " ".join(DOCUMENT.read_text().split())
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for (statement,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"):
            assert f"{statement};" in document
        assert connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
    assert f"{APPLICATION_ID:#010x}" in document
    assert f"`user_version` {STORE_VERSION}" in document


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        print(worked_example(Path(name)))
