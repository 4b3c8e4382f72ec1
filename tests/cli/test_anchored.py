"""What stood elsewhere (on a chain, with a witness) leads back to the log: by a store, by an export, and by proofs alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import ORIGIN, entries_of

from ledger import Ledger, Signer
from ledger.log.checkpoint import sign_checkpoint
from ledger.log.merkle import verify_consistency
from ledger.log.store import open_log
from stockledger.v1.accounts_pb2 import InvestorClass, RegisterHolderRequest

OLD, NEW = 9, 16
SIGN = ("--signing-key", "checkpoint.key")


@pytest.fixture
def notes(books_at, signer, place):
    """Write what was signed at two sizes, and give the older root."""
    with open_log(books_at, read_only=True) as log:
        for size in (OLD, NEW):
            (place / f"{size}.txt").write_text(sign_checkpoint(ORIGIN, size, log.tree.root_at(size), signer), encoding="utf-8")
        return log.tree.root_at(OLD)


@pytest.fixture
def rewritten(place, signer):
    """Make another log of the same name, and sign what it has: what somebody with all keys could do."""
    url = f"sqlite:///{place}/rewritten.db"
    with Ledger.open(url, ledger_id="acme", origin=ORIGIN) as books:
        for number in range(NEW - 1):
            person = RegisterHolderRequest(holder=f"h-{number}", country="DE", investor_class=InvestorClass.INVESTOR_CLASS_RETAIL)
            books.execute(person)
        assert books.size == NEW
    return url


def consistency(run, anchored, key, proof=f"log-{OLD}-{NEW}.tlog-consistency"):
    return run("verify-consistency", proof, anchored, "--key", key, "--json")


@pytest.mark.parametrize("given", ["note", "figures"])
def test_the_log_only_grew_since_an_anchor(run, books_at, signer, notes, given):
    anchored = "9.txt" if given == "note" else f"{OLD}:0x{notes.hex()}"
    done = run("prove-consistency", anchored, *SIGN, "--store", books_at)
    assert done.out == "log-9-16.tlog-consistency proves that the first 9 entries are the beginning of the log of 16\n"
    Path("books.db").unlink()
    told = consistency(run, anchored, signer.verifier_key)
    assert told.code == 0
    expected = {"verified": True, "old_size": OLD, "size": NEW, "origin": ORIGIN, "signed": given == "note"}
    assert expected.items() <= told.json.items()
    assert (
        "the 9 entries anchored are the beginning"
        in run("verify-consistency", "log-9-16.tlog-consistency", anchored, "--key", signer.verifier_key).out
    )


def test_a_proof_leads_from_one_anchor_to_a_later_one(run, books_at, notes, place):
    done = run("prove-consistency", "9.txt", "--to", "16.txt", "--store", books_at, "--out", "p", "--json")
    hashes = [bytes.fromhex(each.removeprefix("0x")) for each in done.json["hashes"]]
    with open_log(books_at, read_only=True) as log:
        verify_consistency(OLD, NEW, notes, log.tree.root_at(NEW), hashes)
    assert run("prove-consistency", "16.txt", "--to", "9.txt", "--store", books_at).code == 64
    assert run("prove-consistency", "9.txt", "--to", f"{OLD}:{notes.hex()}", "--store", books_at).code == 64
    assert run("prove-consistency", "16.txt", "--to", "16.txt", "--store", books_at, "--json").json["hashes"] == []


def test_without_a_key_the_newest_checkpoint_kept_serves(run, books_at, signer, notes):
    assert run("prove-consistency", "9.txt", "--store", books_at).code == 1
    run("checkpoint", *SIGN, "--store", books_at)
    assert run("prove-consistency", "9.txt", "--store", books_at).code == 0
    assert consistency(run, "9.txt", signer.verifier_key).code == 0


def test_a_receipt_stands_under_what_was_anchored(run, books_at, signer, notes, place):
    assert run("prove", 4, "--anchored", "9.txt", "--store", books_at).code == 0
    assert (place / "entry-4.tlog-proof").read_text().endswith((place / "9.txt").read_text())
    assert (place / "entry-4.entry").read_bytes() == entries_of(books_at)[4]
    done = run("verify-receipt", "entry-4.tlog-proof", "entry-4.entry", "--key", signer.verifier_key, "--json")
    assert (done.code, done.json["size"]) == (0, OLD)
    assert run("prove", 9, "--anchored", "9.txt", "--store", books_at).code == 1
    assert run("prove", 4, "--anchored", f"{OLD}:{notes.hex()}", "--store", books_at).code == 64


def test_an_export_is_held_against_what_was_anchored(run, books_at, signer, notes, place):
    run("export", "out", *SIGN, "--store", books_at)
    done = run("audit", "out", "--key", signer.verifier_key, "--anchored", "9.txt", "--anchored", f"{OLD}:{notes.hex()}", "--json")
    assert (done.code, sum("were anchored" in each for each in done.json["checks"])) == (0, 2)
    done = run("audit", "out", "--key", signer.verifier_key, "--anchored", f"{OLD}:{'ab' * 32}", "--json")
    assert (done.code, [each["check"] for each in done.json["findings"]]) == (2, ["anchored"])
    done = run("audit", "out", "--key", signer.verifier_key, "--anchored", f"{NEW + 1}:{'ab' * 32}")
    assert (done.code, "17 entries were anchored, the export ends at 16" in done.out) == (2, True)
    other = Signer.generate(ORIGIN).verifier_key
    done = run("audit", "out", "--key", other, "--anchored", "9.txt")
    assert (done.code, "what was anchored is not of this log: no known key has signed" in done.err) == (2, True)


def test_a_rewritten_log_has_no_way_back_to_its_anchors(run, rewritten, signer, notes):
    """Whoever has all keys can sign another history, but not bring the proof; a forged one does not verify."""
    for command in (("prove-consistency", "9.txt"), ("prove", 4, "--anchored", "9.txt")):
        done = run(*command, *SIGN, "--store", rewritten)
        assert (done.code, "another root at size 9 than was anchored" in done.err) == (2, True)
    with open_log(rewritten, read_only=True) as log:
        forged = log.tree.root_at(OLD)
    assert run("prove-consistency", f"{OLD}:{forged.hex()}", *SIGN, "--store", rewritten).code == 0
    told = consistency(run, "9.txt", signer.verifier_key)
    assert (told.code, told.json["verified"], told.json["reason"]) == (2, False, "CHECKPOINT_INCONSISTENT")
    run("export", "out", *SIGN, "--store", rewritten)
    assert run("audit", "out", "--key", signer.verifier_key).code == 0, "it is sound by itself"
    assert run("audit", "out", "--key", signer.verifier_key, "--anchored", "9.txt").code == 2


def test_a_shorter_log_is_not_what_was_anchored(run, books_at, signer, notes):
    done = run("prove-consistency", f"{NEW + 1}:{notes.hex()}", *SIGN, "--store", books_at)
    assert (done.code, "17 entries were anchored" in done.err) == (2, True)


def test_what_a_proof_cannot_be(run, books_at, signer, notes, place):
    run("prove-consistency", "9.txt", *SIGN, "--store", books_at)
    path = place / "log-9-16.tlog-consistency"
    good = path.read_text()
    lines = good.split("\n")
    key = signer.verifier_key
    assert consistency(run, "9.txt", key).code == 0
    for bad in (
        "", good.replace("old 9", "old 8"), good.replace("old 9", "old 09"), good.replace("old 9", "new 9"),
        good.replace(lines[1], lines[2]),
        "\n".join([lines[0], *lines[2:]]), good.replace(lines[1], "AAAA"), "\n".join([lines[0], *[lines[1]] * 64, *lines[2:]]),
        good.replace(ORIGIN, "other.example/log"),
    ):  # fmt: skip
        path.write_text(bad)
        assert consistency(run, "9.txt", key).code == 2, bad
    path.write_text(good)
    assert consistency(run, "9.txt", Signer.generate(ORIGIN).verifier_key).code == 2
    assert consistency(run, f"8:{notes.hex()}", key).code == 2
    assert run("verify-consistency", path, "9.txt").code == 64
    for nonsense in ("9:12", "nowhere.txt", "log-9-16.tlog-consistency"):
        assert consistency(run, nonsense, key).code == 64


def test_an_anchor_of_another_log_is_told(run, books_at, signer, notes, place):
    run("prove-consistency", "9.txt", *SIGN, "--store", books_at)
    other = Signer("other.example/log", bytes(range(32)))
    (place / "theirs.txt").write_text(sign_checkpoint("other.example/log", OLD, notes, other), encoding="utf-8")
    done = run(
        "verify-consistency", "log-9-16.tlog-consistency", "theirs.txt", "--key", signer.verifier_key, "--key", other.verifier_key, "--json"
    )
    assert (done.code, "is of other.example/log" in done.json["message"]) == (2, True)


def test_line_ends_of_a_terminal_are_no_part_of_a_note(run, books_at, signer, notes, place):
    (place / "9.txt").write_text((place / "9.txt").read_text() + "\n\n")
    run("prove-consistency", "9.txt", *SIGN, "--store", books_at)
    assert consistency(run, "9.txt", signer.verifier_key).code == 0
