"""The checkpoint anchor: only a log that grew by appending can be anchored, by the ledger's own proofs and signatures."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from evm_market import Market, Receipt

from chain_adapters.evm.codec import encode_call
from ledger.log.checkpoint import Signer, open_note, parse_checkpoint, sign_checkpoint
from ledger.log.merkle import consistency_proof, leaf_hash, node_hash, root_at

ANCHOR = "anchor(uint64,bytes32,bytes32[],bytes)"
ORIGIN = "acme.example/stockledger"
SIGNER = Signer(ORIGIN, b"\7" * 32)


class Log:
    """A tree over numbered entries, by the ledger's own functions."""

    def __init__(self, count: int, changed: int | None = None) -> None:
        self.leaves = [leaf_hash(b"changed" if index == changed else index.to_bytes(4)) for index in range(count)]

    def read(self, level: int, index: int) -> bytes:
        if level == 0:
            return self.leaves[index]
        return node_hash(self.read(level - 1, 2 * index), self.read(level - 1, 2 * index + 1))

    def root(self, size: int) -> bytes:
        return root_at(size, self.read)

    def proof(self, old: int, new: int) -> list[bytes]:
        return consistency_proof(old, new, self.read) if old else []

    def anchor(self, old: int, new: int, proof: list[bytes] | None = None) -> bytes:
        text = sign_checkpoint(ORIGIN, new, self.root(new), SIGNER)
        signatures = text.partition("\n\n")[2].encode()
        return encode_call("CheckpointAnchor", ANCHOR, new, self.root(new), self.proof(old, new) if proof is None else proof, signatures)


@pytest.fixture
def anchor(market: Market) -> str:
    return market.anchor(ORIGIN)


def send(market: Market, anchor: str, data: bytes) -> Receipt:
    return market.send("publisher", anchor, data)


def refused(market: Market, anchor: str, data: bytes, sender: str = "publisher") -> str:
    return market.refusal("CheckpointAnchor", sender, anchor, data).name


def test_the_signed_note_comes_back_byte_by_byte(market: Market, anchor: str):
    log = Log(9)
    receipt = send(market, anchor, log.anchor(0, 9))
    note = market.read("CheckpointAnchor", anchor, "latestNote()")
    assert note == sign_checkpoint(ORIGIN, 9, log.root(9), SIGNER)
    assert receipt.events("CheckpointAnchor", anchor)[0].fields == {"index": 0, "size": 9, "root": log.root(9), "note": note}
    assert open_note(note, [SIGNER.verifier_key]).signers == (ORIGIN,), "and its signature holds"
    assert parse_checkpoint(note).root == log.root(9)
    assert market.read("CheckpointAnchor", anchor, "checkpoint(uint256)", 0) == (9, log.root(9), market.node.time(), True)


@pytest.mark.parametrize("old", range(1, 18))
def test_every_honest_growth_is_taken(market: Market, anchor: str, old: int):
    log = Log(34)
    send(market, anchor, log.anchor(0, old))
    for new in range(old + 1, 35):
        with market.node.put_back():
            send(market, anchor, log.anchor(old, new))


def test_a_chain_of_growth(market: Market, anchor: str):
    log = Log(300)
    sizes = [1, 2, 3, 7, 8, 64, 65, 255, 256, 257, 300]
    for old, new in itertools.pairwise([0, *sizes]):
        send(market, anchor, log.anchor(old, new))
    assert market.read("CheckpointAnchor", anchor, "count()") == len(sizes)
    assert [market.read("CheckpointAnchor", anchor, "checkpoint(uint256)", index)[0] for index in range(len(sizes))] == sizes


@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 3), (3, 7), (4, 8), (6, 8), (7, 8), (7, 20), (8, 9), (8, 16), (13, 21), (16, 33)])
def test_a_rewritten_log_is_refused_whoever_signs_it(market: Market, anchor: str, old: int, new: int):
    send(market, anchor, Log(new).anchor(0, old))
    for changed in range(old):
        rewritten = Log(new, changed)
        assert refused(market, anchor, rewritten.anchor(old, new)) == "CheckpointInconsistent", changed
    send(market, anchor, Log(new, changed=old).anchor(old, new))


def test_a_checkpoint_can_be_proven_later_by_anybody(market: Market, anchor: str):
    log, rewritten = Log(21), Log(40, changed=3)
    send(market, anchor, log.anchor(0, 13))
    send(market, anchor, log.anchor(13, 21, []))
    send(market, anchor, rewritten.anchor(21, 40, []))

    def proven() -> list[bool]:
        return [market.read("CheckpointAnchor", anchor, "checkpoint(uint256)", index)[3] for index in range(3)]

    def prove(index: int, proof: list[bytes]) -> bytes:
        return encode_call("CheckpointAnchor", "prove(uint256,bytes32[])", index, proof)

    assert proven() == [True, False, False]
    assert refused(market, anchor, prove(1, []), "mallory") == "CheckpointInconsistent"
    receipt = market.send("mallory", anchor, prove(1, log.proof(13, 21)))
    assert receipt.names("CheckpointAnchor", anchor) == ["CheckpointProven"]
    assert market.send("mallory", anchor, prove(1, log.proof(13, 21))).names("CheckpointAnchor", anchor) == []
    for proof in (log.proof(13, 21), rewritten.proof(21, 40), []):
        assert refused(market, anchor, prove(2, proof), "mallory") == "CheckpointInconsistent", "there is no proof for a rewritten log"
    assert refused(market, anchor, prove(0, []), "mallory") == "CheckpointInconsistent"
    assert refused(market, anchor, prove(3, []), "mallory") == "CheckpointMissing"
    assert proven() == [True, True, False]


@pytest.mark.parametrize(("old", "new"), [(1, 2), (3, 7), (4, 8), (6, 8), (8, 9), (13, 21)])
def test_a_proof_with_anything_changed_is_refused(market: Market, anchor: str, old: int, new: int):
    log = Log(new)
    send(market, anchor, log.anchor(0, old))
    proof = log.proof(old, new)
    wrong = [proof[:-1], proof[1:], [*proof, proof[-1]], [log.root(old), *proof], proof[::-1]]
    wrong += [[*proof[:i], hashlib.sha256(proof[i]).digest(), *proof[i + 1 :]] for i in range(len(proof))]
    for candidate in wrong:
        if candidate not in ([], proof):
            assert refused(market, anchor, log.anchor(old, new, candidate)) == "CheckpointInconsistent", candidate
    send(market, anchor, log.anchor(old, new))


@pytest.mark.parametrize("claimed", [17, 18, 32, 1000, 2**63])
def test_a_root_of_another_size_is_refused(market: Market, anchor: str, claimed: int):
    log = Log(16)
    send(market, anchor, log.anchor(0, 8))
    signatures = sign_checkpoint(ORIGIN, claimed, log.root(16), SIGNER).partition("\n\n")[2].encode()
    data = encode_call("CheckpointAnchor", ANCHOR, claimed, log.root(16), log.proof(8, 16), signatures)
    assert refused(market, anchor, data) == "CheckpointInconsistent", "the proof leads to a tree of 16"
    send(market, anchor, log.anchor(8, 16))


def test_sizes_grow_and_the_first_needs_no_proof(market: Market, anchor: str):
    log = Log(9)
    assert refused(market, anchor, encode_call("CheckpointAnchor", ANCHOR, 0, bytes(32), [], b"\xe2\x80\x94 x y\n")) == "SizeNotGrowing"
    assert refused(market, anchor, log.anchor(0, 5, [log.root(5)])) == "CheckpointInconsistent"
    send(market, anchor, log.anchor(0, 5))
    assert refused(market, anchor, log.anchor(0, 5)) == "SizeNotGrowing"
    assert refused(market, anchor, log.anchor(0, 4)) == "SizeNotGrowing"
    send(market, anchor, log.anchor(5, 9))


@pytest.mark.parametrize(
    "signatures", [b"", b"\n", b"x\n", b"\xe2\x80\x94 a b", b"\xe2\x80\x94", b"\xe2\x80\x94\n", b" \xe2\x80\x94 a b\n"]
)
def test_signatures_are_lines_of_signatures(market: Market, anchor: str, signatures: bytes):
    data = encode_call("CheckpointAnchor", ANCHOR, 5, Log(5).root(5), [], signatures)
    assert refused(market, anchor, data) == "SignaturesMalformed"


def test_only_the_publisher_anchors(market: Market, anchor: str):
    for name in ("admin", "mallory", "enforcer", "deployer"):
        assert refused(market, anchor, Log(5).anchor(0, 5), name) == "AccessControlUnauthorizedAccount"
    send(market, anchor, Log(5).anchor(0, 5))


def test_what_is_not_there_is_missing(market: Market, anchor: str):
    for question, arguments in (("latestNote()", ()), ("note(uint256)", (0,)), ("checkpoint(uint256)", (0,))):
        assert refused(market, anchor, encode_call("CheckpointAnchor", question, *arguments), "alice") == "CheckpointMissing"
    send(market, anchor, Log(5).anchor(0, 5))
    assert refused(market, anchor, encode_call("CheckpointAnchor", "note(uint256)", 1), "alice") == "CheckpointMissing"
