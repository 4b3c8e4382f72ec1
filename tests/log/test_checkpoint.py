from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import InvalidRequest, RuleViolated
from ledger.log.checkpoint import (
    Checkpoint,
    Signer,
    VerifierKey,
    encode_base64,
    open_note,
    parse_checkpoint,
    sign_checkpoint,
)

ROOT = bytes(range(32))
# The key and the note that the documentation of Go's sumdb/note shows.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def test_a_note_of_go_opens():
    note = open_note(GO_NOTE, [VerifierKey.parse(GO_KEY)])
    assert note.signers == ("PeterNeumann",)
    assert note.text.endswith("problem is.\n")


@given(st.integers(0, 2**62), st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_what_is_signed_is_read_back(size, root, seed):
    signer = Signer("example.com/log", seed)
    text = sign_checkpoint("example.com/log", size, root, signer)
    note = open_note(text, [VerifierKey.parse(str(signer.verifier_key))])
    assert parse_checkpoint(text) == parse_checkpoint(note.text) == Checkpoint("example.com/log", size, root)
    assert Signer.from_secret_text(signer.secret_text).sign("x\n") == signer.sign("x\n")


def test_generated_keys_differ_and_hide_their_secret():
    first, second = Signer.generate("a"), Signer.generate("a")
    assert first.secret_text != second.secret_text
    assert first.secret_text not in repr(first)


def test_unknown_keys_are_ignored_and_a_known_one_that_fails_rejects(signer):
    text = sign_checkpoint(signer.name, 7, ROOT, signer)
    others = [Signer.generate(f"witness{number}") for number in range(20)]
    body = parse_checkpoint(text).body()
    many = text + "".join(other.sign(body) for other in others)
    assert open_note(many, [signer.verifier_key]).signers == (signer.name,)
    assert len(open_note(many, [signer.verifier_key, *(other.verifier_key for other in others)]).signers) == 21
    forged = text + others[0].sign("another text\n")
    assert open_note(forged, [signer.verifier_key]).signers == (signer.name,)
    with pytest.raises(RuleViolated, match="witness0") as caught:
        open_note(forged, [signer.verifier_key, others[0].verifier_key])
    assert caught.value.reason_name == "SIGNATURE_INVALID"
    with pytest.raises(RuleViolated, match="no known key"):
        open_note(text, [others[0].verifier_key])
    with pytest.raises(RuleViolated, match="nobody"):
        open_note(text, [])


def test_a_key_of_the_same_name_is_another_key(signer):
    namesake = Signer(signer.name, bytes(32))
    with pytest.raises(RuleViolated):
        open_note(sign_checkpoint(signer.name, 7, ROOT, namesake), [signer.verifier_key])


BODY = f"example.com/acme\n7\n{encode_base64(ROOT)}\n"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "example.com/acme\n7\n",
        BODY.removesuffix("\n"),
        BODY + "extension\n",
        BODY.replace("\n7\n", "\n07\n"),
        BODY.replace("\n7\n", "\n+7\n"),
        BODY.replace("\n7\n", "\n-7\n"),
        BODY.replace("\n7\n", "\n7 \n"),
        BODY.replace("\n7\n", "\n٧\n"),
        BODY.replace("\n7\n", "\n99999999999999999999\n"),
        BODY.replace("example.com/acme", ""),
        BODY.replace("=", ""),
        BODY.replace("Hh8=", "Hh9="),
        BODY.replace("A", "-", 1),
        f"example.com/acme\n7\n{encode_base64(ROOT[:31])}\n",
        BODY.replace("\n", "\r\n"),
    ],
)
def test_only_the_canonical_checkpoint_is_read(body):
    assert parse_checkpoint(BODY).size == 7
    with pytest.raises(InvalidRequest) as caught:
        parse_checkpoint(body)
    assert caught.value.reason_name == "FIELD_MALFORMED"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.removesuffix("\n"),
        lambda text: text + "\n",
        lambda text: text + "x\n",
        lambda text: text.replace("\u2014", "-"),
        lambda text: text.replace("acme ", "acme  "),
        lambda text: text.replace("\n\n", "\n"),
        lambda text: text.replace("7", "\x00"),
        lambda text: text + "\u2014 name\n",
        lambda text: text + "\u2014 name QUJDRA==\n",
        lambda text: text + "\u2014 na+me QUJDREU=\n",
        lambda text: text + "\u2014 name QUJDREU=\n" * 100,
        lambda text: "x" * 1_000_001 + text,
        lambda text: "\ud800" + text,
    ],
)
def test_only_the_canonical_note_is_opened(signer, change):
    text = sign_checkpoint(signer.name, 7, ROOT, signer)
    with pytest.raises(InvalidRequest):
        open_note(change(text), [signer.verifier_key])


@given(st.data())
def test_no_changed_character_of_a_signed_checkpoint_passes(signer, data):
    text = sign_checkpoint(signer.name, 7, ROOT, signer)
    place = data.draw(st.integers(0, len(text) - 1))
    wrong = text[:place] + data.draw(st.characters().filter(lambda other: other != text[place])) + text[place + 1 :]
    with pytest.raises((InvalidRequest, RuleViolated)):
        open_note(wrong, [signer.verifier_key])


@pytest.mark.parametrize(
    "text",
    ["", "a+b", "name+00000000+AAAA", GO_KEY.replace("c74f20a3", "c74f20a4"), GO_KEY.replace("c74f20a3", "C74F20A3"), "+c74f20a3+AQ=="],
)
def test_bad_verifier_keys_are_refused(text):
    with pytest.raises(InvalidRequest):
        VerifierKey.parse(text)
    with pytest.raises(InvalidRequest) as caught:
        Signer.from_secret_text(f"PRIVATE+KEY+{text}")
    assert text not in caught.value.message or len(text) < 4


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u00a0b"])
def test_names_that_a_signature_line_cannot_carry_are_refused(name):
    with pytest.raises(InvalidRequest):
        Signer(name, bytes(32))
    with pytest.raises(InvalidRequest):
        Signer.from_secret_text("KEY+" + GO_KEY)
