"""A real EVM node for tests: anvil from node_modules, on a port of its own on loopback, gone with the test."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / "node_modules"
ANVIL = MODULES / "@foundry-rs" / "anvil-linux-amd64" / "bin" / "anvil"
CHAIN_ID = 31_337
GENESIS_SECONDS = 1_800_000_000
ACCOUNT_COUNT = 24
START_SECONDS = 20
MINE_SECONDS = 10


class NodeRefused(Exception):
    """The node answered with an error; `data` is what a contract reverted with."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        data = error.get("data")
        self.data = bytes.fromhex(data[2:]) if isinstance(data, str) and data.startswith("0x") else b""


class EvmNode:
    """JSON-RPC to a running node, whose `accounts` are unlocked and rich."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._ids = itertools.count(1)
        self.accounts: list[str] = []

    def call(self, method: str, *parameters: Any) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": parameters}).encode()
        request = urllib.request.Request(self.url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.load(response)
        if "error" in answer:
            raise NodeRefused(answer["error"])
        return answer["result"]

    def receipt(self, transaction: str) -> dict[str, Any]:
        """Return the receipt of a transaction that is being mined."""
        deadline = time.monotonic() + MINE_SECONDS
        while (receipt := self.call("eth_getTransactionReceipt", transaction)) is None:
            assert time.monotonic() < deadline, f"{transaction} is not mined"
            time.sleep(0.002)
        return dict(receipt)

    @contextlib.contextmanager
    def put_back(self) -> Iterator[None]:
        """Let the chain be afterwards as it was before.

        A receipt may be told before the pool has let go of its transaction; put back then, the chain would mine it again.
        """
        snapshot = self.call("evm_snapshot")
        try:
            yield
        finally:
            deadline = time.monotonic() + MINE_SECONDS
            while self.call("txpool_status")["pending"] != "0x0":
                assert time.monotonic() < deadline, "the pool does not empty"
                time.sleep(0.002)
            assert self.call("evm_revert", snapshot) is True

    def time(self) -> int:
        return int(self.call("eth_getBlockByNumber", "latest", False)["timestamp"], 16)

    def mine_at(self, seconds: int) -> None:
        """Mine a block at this chain time."""
        self.call("evm_setNextBlockTimestamp", seconds)
        self.call("evm_mine")


@contextlib.contextmanager
def evm_node(*options: str, chain_id: int = CHAIN_ID) -> Iterator[EvmNode]:
    """Start a node and stop it; skip, saying why, where its program is not installed."""
    if not ANVIL.exists():
        pytest.skip("no EVM node: `npm ci` (or make node_modules/.installed) has not been run, or there is no anvil for this platform")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(ANVIL), "--host", "127.0.0.1", "--port", str(port), "--chain-id", str(chain_id), "--accounts", str(ACCOUNT_COUNT)]
    command += ["--hardfork", "osaka", "--timestamp", str(GENESIS_SECONDS), "--quiet", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"HOME": os.environ.get("HOME", "/")})
    try:
        node = EvmNode(f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                assert int(node.call("eth_chainId"), 16) == chain_id
                break
            except OSError:
                assert process.poll() is None, "the node ended at once"
                assert time.monotonic() < deadline, "the node does not answer"
                time.sleep(0.02)
        node.accounts = node.call("eth_accounts")
        yield node
    finally:
        process.terminate()
        process.wait(10)


def run_javascript(script: Path, *arguments: str) -> Any:
    """Run a script of ours under Node with the project's node_modules; return the JSON it prints."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("no Node.js")
    done = subprocess.run([program, str(script), *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
