"""A real Solana node for tests: surfpool's npm package, which runs the chain's own programs, in a Node process that ends with us."""

from __future__ import annotations

import contextlib
import json
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "node_modules" / "@solana" / "surfpool-linux-x64-gnu"
START_SECONDS = 30
ATTEMPTS = 3


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
    command = [program, str(Path(__file__).with_suffix(".js")), str(slot_ms)]
    for _ in range(ATTEMPTS):
        with _process(command) as process:
            line = _first_line(process)
            if line:
                told = json.loads(line)
                yield SolanaNode(told["rpc_url"], told["ws_url"], bytes(told["payer"]))
                return
    pytest.fail(f"the Solana node did not start in {ATTEMPTS} attempts")


@contextlib.contextmanager
def _process(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    folder = tempfile.TemporaryDirectory(prefix="stockledger-solana-")  # it leaves folders where it runs
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, cwd=folder.name)
    try:
        yield process
    finally:
        process.stdin.close()  # ends it, as our own end would
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        folder.cleanup()


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    """Return what a node says once it is up; nothing when it ended, or says nothing: somebody may have taken a port it chose."""
    ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
    return process.stdout.readline() if ready else b""
