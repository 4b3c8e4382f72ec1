"""A real Solana node for tests: surfpool's npm package, which runs the chain's own programs, in a Node process that ends with us."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "node_modules" / "@solana" / "surfpool-linux-x64-gnu"


@dataclass(frozen=True)
class SolanaNode:
    rpc_url: str
    ws_url: str
    payer: bytes
    """64 bytes: secret and public half of a key with a thousand SOL."""


@contextlib.contextmanager
def solana_node(slot_ms: int = 20) -> Iterator[SolanaNode]:
    """Start a node. A transaction is final after 32 slots, an ordinary blockhash expires after 150."""
    program = shutil.which("node")
    if program is None or not PACKAGE.is_dir():
        pytest.skip("no Solana node: needs Node and `npm ci` in the project's folder")
    script = Path(__file__).with_suffix(".js")
    folder = tempfile.TemporaryDirectory(prefix="stockledger-solana-")  # it leaves folders where it runs
    process = subprocess.Popen([program, script, str(slot_ms)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder.name)
    try:
        line = process.stdout.readline()
        assert line, f"the Solana node ended with {process.wait()} before it said where it is"
        told = json.loads(line)
        yield SolanaNode(told["rpc_url"], told["ws_url"], bytes(told["payer"]))
    finally:
        process.stdin.close()  # ends it, as our own end would
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        folder.cleanup()
