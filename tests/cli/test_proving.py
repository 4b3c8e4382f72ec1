from __future__ import annotations

import base64
import json
import shutil
import stat
import subprocess

import pytest
from command_line import ORIGIN, entries_of
from nacl.signing import VerifyKey

from ledger import Signer
from ledger.log.checkpoint import VerifierKey, open_note, parse_checkpoint
from ledger.log.store import open_log
from ledger.rules.statements import parse_statement

SIGN = ("--signing-key", "checkpoint.key")


# ---- checkpoints, receipts, exports ------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_signed_kept_and_printed(run, books_at, signer):
    done = run("checkpoint", *SIGN, "--store", books_at)
    assert done.code == 0
    assert open_note(done.out, [signer.verifier_key]).signers == (ORIGIN,)
    assert parse_checkpoint(done.out).size == 16
    with open_log(books_at, read_only=True) as log:
        assert log.checkpoints() == [(16, done.out)]


def test_a_checkpoint_need_not_be_kept(run, books_at, signer):
    with open_log(books_at):  # somebody writes
        assert run("checkpoint", *SIGN, "--store", books_at).code == 3
        done = run("checkpoint", *SIGN, "--no-save", "--json", "--store", books_at)
    assert (done.code, done.json["verifier_key"]) == (0, str(signer.verifier_key))
    with open_log(books_at, read_only=True) as log:
        assert log.checkpoints() == []


def test_a_checkpoint_needs_the_ledgers_own_key(run, books_at, place):
    assert run("checkpoint", "--store", books_at).code == 64
    (place / "other.key").write_text(Signer.generate("other.example/log").secret_text)
    done = run("checkpoint", "--signing-key", "other.key", "--store", books_at)
    assert done.code == 1
    assert f"the signing key is of other.example/log, the log's checkpoints are of {ORIGIN}" in done.err
    assert "can be read by others: chmod 600 other.key" in done.err


def test_a_receipt_is_checked_with_the_public_key_alone(run, books_at, signer, place):
    done = run("prove", 14, *SIGN, "--store", books_at)
    assert (done.code, done.out) == (0, "entry-14.tlog-proof proves that entry-14.entry is entry 14 of the log of 16 entries\n")
    assert (place / "entry-14.entry").read_bytes() == entries_of(books_at)[14]
    (place / "books.db").unlink()
    done = run("verify-receipt", "entry-14.tlog-proof", "entry-14.entry", "--key", signer.verifier_key, "--json")
    assert done.code == 0
    assert {"verified": True, "index": 14, "event": "units_issued", "origin": ORIGIN, "size": 16}.items() <= done.json.items()


@pytest.mark.parametrize("wrong", ["entry", "receipt", "key"])
def test_a_receipt_that_does_not_hold_ends_with_2(run, books_at, signer, place, wrong):
    run("prove", 14, *SIGN, "--store", books_at, "--out", "r.tlog-proof")
    key = str(signer.verifier_key)
    if wrong == "entry":
        (place / "r.entry").write_bytes(entries_of(books_at)[13])
    elif wrong == "receipt":
        path = place / "r.tlog-proof"
        path.write_text(path.read_text().replace("index 14", "index 13"))
    else:
        key = str(Signer.generate(ORIGIN).verifier_key)
    done = run("verify-receipt", "r.tlog-proof", "r.entry", "--key", key, "--json")
    assert (done.code, done.json["verified"]) == (2, False)


def test_a_receipt_needs_a_key_to_be_checked_with(run, books_at, signer):
    run("prove", 14, *SIGN, "--store", books_at)
    assert run("verify-receipt", "entry-14.tlog-proof", "entry-14.entry").code == 64
    assert run("verify-receipt", "entry-14.tlog-proof", "entry-14.entry", "--key", "nonsense").code == 64


def test_without_a_key_the_newest_checkpoint_kept_serves(run, books_at, signer):
    done = run("prove", 3, "--store", books_at)
    assert (done.code, "the store keeps no checkpoint over entry 3" in done.err) == (1, True)
    run("checkpoint", *SIGN, "--store", books_at)
    assert run("prove", 3, "--store", books_at).code == 0
    assert run("verify-receipt", "entry-3.tlog-proof", "entry-3.entry", "--key", "checkpoint.key").code == 0


@pytest.mark.parametrize("index", [16, -1])
def test_no_receipt_beyond_the_log(run, books_at, signer, index):
    done = run("prove", *SIGN, "--store", books_at, "--", index)
    assert (done.code, f"index {index} is beyond the log of 16" in done.err) == (1, True)


def test_an_export_is_audited_without_the_store(run, books_at, signer, place):
    run("checkpoint", *SIGN, "--store", books_at)
    assert run("export", "out", *SIGN, "--store", books_at).code == 0
    digest = run("replay", "--store", books_at, "--json").json["state_digest"]
    (place / "books.db").unlink()
    done = run("audit", "out", "--key", signer.verifier_key, "--json")
    assert (done.code, done.json["sound"], done.json["size"], done.json["state_digest"]) == (0, True, 16, digest)
    assert run("audit", "out").code == 64
    assert run("audit", "nowhere", "--key", signer.verifier_key).code == 3
    assert run("audit", "out", "--key", Signer.generate(ORIGIN).verifier_key).code == 2


def test_a_changed_export_is_damaged(run, books_at, signer, place):
    run("export", "out", *SIGN, "--store", books_at)
    (bundle,) = (place / "out" / "tile" / "entries").rglob("16")
    content = bytearray(bundle.read_bytes())
    content[-1] ^= 1
    bundle.write_bytes(content)
    done = run("audit", "out", "--key", signer.verifier_key, "--json")
    assert (done.code, done.json["first_bad_index"]) == (2, 15)


def test_an_export_without_a_key_ends_with_the_newest_checkpoint(run, books_at, signer):
    assert run("export", "out", "--store", books_at).code == 1
    run("checkpoint", *SIGN, "--store", books_at)
    assert run("export", "out", "--store", books_at, "--json").json["size"] == 16


# ---- keys --------------------------------------------------------------------------------------------------------------------------


def test_a_new_key_is_for_its_owner_alone_and_is_never_overwritten(run, place):
    done = run("keys", "generate", "k.key", "--name", "alpaca", "--json")
    assert done.code == 0
    text = (place / "k.key").read_text()
    assert stat.S_IMODE((place / "k.key").stat().st_mode) == 0o600
    signer = Signer.from_secret_text(text.strip())
    assert done.json["verifier_key"] == str(signer.verifier_key)
    assert text.strip().split("+", 4)[4] not in done.out, "the secret, which may have a + of its own"
    done = run("keys", "generate", "k.key", "--name", "alpaca")
    assert (done.code, "k.key is there already" in done.err) == (64, True)
    assert (place / "k.key").read_text() == text


@pytest.mark.parametrize("name", ["", "two words", "a+b"])
def test_a_key_has_a_name_that_a_note_can_carry(run, place, name):
    assert run("keys", "generate", "k.key", "--name", name).code == 64
    assert list(place.iterdir()) == []


def test_show_never_shows_the_secret(run, signer):
    done = run("keys", "show", "checkpoint.key")
    assert str(signer.verifier_key) in done.out
    assert signer.secret_text.rpartition("+")[2] not in done.out


def test_forms_lead_back_to_the_key(run, place, signer):
    assert run("keys", "convert", "checkpoint.key", "--to", "pem").code == 64
    assert run("keys", "convert", "checkpoint.key", "--to", "pem", "--out", "k.pem").code == 0
    assert stat.S_IMODE((place / "k.pem").stat().st_mode) == 0o600
    assert run("keys", "convert", "k.pem", "--to", "note", "--out", "again.key").code == 64
    assert run("keys", "convert", "k.pem", "--to", "note", "--out", "again.key", "--name", ORIGIN).code == 0
    assert (place / "again.key").read_text() == signer.secret_text + "\n"
    assert run("keys", "convert", "again.key", "--to", "verifier").out == f"{signer.verifier_key}\n"
    public = signer.verifier_key.public_key
    assert run("keys", "convert", "again.key", "--to", "public-hex").out.strip() == public.hex()
    assert run("keys", "convert", "again.key", "--to", "public-base64").out.strip() == base64.b64encode(public).decode()
    (place / "public.pem").write_text(run("keys", "convert", "again.key", "--to", "public-pem").out)
    shown = run("keys", "show", "public.pem", "--json", "--name", ORIGIN).json
    assert VerifierKey.parse(shown["verifier_key"]) == signer.verifier_key
    assert run("keys", "convert", "public.pem", "--to", "note", "--name", "x", "--out", "no.key").code == 64


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_reads_our_pem_and_we_read_its(run, place, signer):
    run("keys", "convert", "checkpoint.key", "--to", "pem", "--out", "k.pem")
    public = subprocess.run(["openssl", "pkey", "-in", "k.pem", "-pubout"], check=True, capture_output=True, text=True).stdout
    assert public == run("keys", "convert", "checkpoint.key", "--to", "public-pem").out
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", "o.pem"], check=True, capture_output=True)
    (place / "o.pem").chmod(0o600)
    public = subprocess.run(["openssl", "pkey", "-in", "o.pem", "-pubout"], check=True, capture_output=True, text=True).stdout
    assert run("keys", "convert", "o.pem", "--to", "public-pem").out == public


@pytest.mark.parametrize(
    "content", ["", "nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "PRIVATE+KEY+a+00000000+AA=="]
)
def test_what_is_no_key_is_refused(run, place, content):
    (place / "k").write_text(content)
    (place / "k").chmod(0o600)
    done = run("keys", "show", "k")
    assert done.code == 64
    assert "Traceback" not in done.err


def test_a_statement_is_signed_as_a_line_for_apply(run):
    run("keys", "generate", "alpaca.key", "--name", "alpaca")
    public = bytes.fromhex(run("keys", "show", "alpaca.key", "--json").json["public_key_hex"])
    options = (
        "--ledger-id",
        "acme",
        "--custody-account",
        "alpaca/1",
        "--isin",
        "US0378331005",
        "--settled",
        "1000.5",
        "--as-of",
        "2026-11-22T18:00:00+01:00",
    )
    line = json.loads(run("keys", "sign-statement", "alpaca.key", *options).out)
    assert (line["command"], line["kind"], line["signer"]) == ("RecordEvidence", "EVIDENCE_KIND_CUSTODIAN_SIGNED", "alpaca")
    data = base64.b64decode(line["statement"])
    VerifyKey(public).verify(data, base64.b64decode(line["signature"]))
    statement = parse_statement(data)
    assert (statement.ledger, statement.settled_shares_e8, statement.as_of_time_us) == ("acme", 100_050_000_000, 1_795_366_800_000_000)
    assert statement.valid_until_time_us - statement.as_of_time_us == 24 * 3_600_000_000


def test_a_statement_of_ones_own_is_signed_as_it_is(run, place):
    run("keys", "generate", "agent.key", "--name", "verifier")
    text = (
        b'{ "ledger":"acme","custody_account":"alpaca/1","isin":"US0378331005","settled_shares_e8":1,'
        b'"pending_shares_e8":0,"encumbered_shares_e8":0,"as_of_time":"2026-11-22T17:00:00Z","valid_until_time":"2026-11-23T17:00:00Z","share_basis":0}\n'
    )
    (place / "s.json").write_bytes(text)
    line = json.loads(run("keys", "sign-statement", "agent.key", "--statement", "s.json", "--agent").out)
    assert base64.b64decode(line["statement"]) == text
    assert line["kind"] == "EVIDENCE_KIND_AGENT_SIGNED"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "a statement needs --ledger-id, --custody-account, --isin, --settled, or --statement FILE"),
        (
            ("--ledger-id", "acme", "--custody-account", "a/1", "--isin", "US0378331005", "--settled", "x"),
            "'x' is not a number such as 1.5",
        ),
        (
            (
                "--ledger-id",
                "acme",
                "--custody-account",
                "a/1",
                "--isin",
                "US0378331005",
                "--settled",
                "1",
                "--as-of",
                "2026-11-22T18:00:00",
            ),
            "time zone",
        ),
        (
            ("--ledger-id", "acme", "--custody-account", "a 1", "--isin", "US0378331005", "--settled", "1"),
            "the statement would be refused: ",
        ),
        (
            ("--ledger-id", "acme", "--custody-account", "a/1", "--isin", "US0378331005", "--settled", "9" * 5000),
            "a number of 5000 digits is more than can be counted",
        ),
        (
            ("--ledger-id", "a", "--custody-account", "a/1", "--isin", "x", "--settled", "1", "--as-of", "0001-01-01T00:00:00+14:00"),
            "in UTC",
        ),
        (("--statement", "missing.json"), "statement missing.json cannot be read"),
    ],
)
def test_a_statement_that_would_be_refused_is_not_signed(run, options, message):
    run("keys", "generate", "alpaca.key", "--name", "alpaca")
    done = run("keys", "sign-statement", "alpaca.key", *options)
    assert (done.code, done.out) == (64, "")
    assert message in done.err
