"""From an anchor on a real node back to the log: what an outside client reads there is proved by the command line, and by the contract."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("web3", reason="web3 is not installed: pip install 'stockledger[evm]'")

from command_line import Done, run_process
from evm_node import ROOT, run_javascript
from evm_rig import EvmRig

from chain_adapters.conformance_market import Market, evidence
from chain_adapters.evm.codec import encode_call
from ledger.log.checkpoint import Signer, sign_checkpoint
from ledger.log.merkle import leaf_hash
from ledger.replay import parse_entry
from stockledger.v1.chains_pb2 import AnchorCheckpointRequest

SIGNER = Signer("kit.example/log", bytes([7]) * 32)
KEY = str(SIGNER.verifier_key)


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    (tmp_path / "checkpoint.key").write_text(SIGNER.secret_text)
    (tmp_path / "checkpoint.key").chmod(0o600)
    with EvmRig() as rig, contextlib.closing(Market(rig, store=f"sqlite:///{tmp_path}/books.db")) as market:
        market.settle()
        yield market


def anchor(market: Market) -> int:
    """Anchor what is durable now; return its size."""
    size = market.books.size
    text = sign_checkpoint(SIGNER.name, size, market.books.log.tree.root_at(size), SIGNER)
    market.do(AnchorCheckpointRequest(chain=market.rig.chain, checkpoint=text), principal="worker")
    market.settle()
    return size


def anchored(market: Market) -> list[dict[str, Any]]:
    seen = run_javascript(ROOT / "tests" / "evm" / "read_anchor.cjs", market.rig.node_url, market.rig.options()["anchor"])
    assert seen["origin"] == SIGNER.name
    assert seen["latest"] == seen["checkpoints"][-1]["note"]
    return list(seen["checkpoints"])


def prove(market: Market, folder: Path, *arguments: object) -> Done:
    done = run_process(*arguments, "--store", market.store, "--signing-key", folder / "checkpoint.key", "--json")
    assert done.code == 0, done.err
    return done


def test_an_auditor_gets_from_the_chain_back_to_the_log(market: Market, tmp_path: Path) -> None:
    sizes = [anchor(market)]
    market.do(evidence(1_000_001))
    sizes.append(anchor(market))
    market.do(evidence(1_000_002))
    first, second = anchored(market)
    assert [first["size"], second["size"]] == sizes
    note = tmp_path / "anchored.txt"
    note.write_text(first["note"], encoding="utf-8")
    grown, receipt = tmp_path / "grown", tmp_path / "entry.tlog-proof"
    index = sizes[0] - 1
    assert prove(market, tmp_path, "prove-consistency", note, "--out", grown).json["size"] == market.books.size
    prove(market, tmp_path, "prove", index, "--anchored", note, "--out", receipt)
    for given in (note, f"{first['size']}:{first['root']}"):
        verified = run_process("verify-consistency", grown, given, "--key", KEY, "--json")
        assert (verified.code, verified.json["old_size"], verified.json["size"]) == (0, sizes[0], market.books.size)
    assert run_process("verify-consistency", grown, f"{first['size']}:{second['root']}", "--key", KEY).code == 2
    entry = receipt.with_suffix(".entry")
    verified = run_process("verify-receipt", receipt, entry, "--key", KEY, "--json")
    assert (verified.code, verified.json["index"], verified.json["root"]) == (0, index, first["root"].removeprefix("0x"))
    assert leaf_hash(entry.read_bytes()) == market.books.log.tree.read(0, index)
    assert parse_entry(entry.read_bytes(), index).WhichOneof("event") == verified.json["event"]


def test_anybody_may_bring_the_proof_to_the_contract(market: Market, tmp_path: Path) -> None:
    anchor(market)
    market.do(evidence(1_000_001))
    anchor(market)
    assert [each["proven"] for each in anchored(market)] == [True, False]
    for index, each in enumerate(anchored(market)):
        (tmp_path / f"{index}.txt").write_text(each["note"], encoding="utf-8")
    done = prove(market, tmp_path, "prove-consistency", tmp_path / "0.txt", "--to", tmp_path / "1.txt", "--out", tmp_path / "grown")
    hashes = [bytes.fromhex(each.removeprefix("0x")) for each in done.json["hashes"]]
    data = encode_call("CheckpointAnchor", "prove(uint256,bytes32[])", 1, hashes)
    assert isinstance(market.rig, EvmRig)
    market.rig.market.send("mallory", market.rig.options()["anchor"], data)
    assert [each["proven"] for each in anchored(market)] == [True, True]
