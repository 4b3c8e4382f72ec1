"""The demo's part on chains, as anybody plays it: both nodes, both processes, every flow, and nothing left running."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("web3", reason="web3 is not installed: pip install 'stockledger[evm]'")
pytest.importorskip("solders", reason="solders is not installed: pip install 'stockledger[spl]'")

from chain_worker_process import wait_until
from evm_node import ANVIL
from solana_node import PACKAGE

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo.py"
FINAL = (
    "issuer issues 500 to ana on Ethereum",
    "issuer issues 300 to ana on Solana",
    "ben withdraws 120 from the book to Ethereum",
    "ben withdraws 60 from the book to Solana",
    "ana redeems 20 from her wallet on Solana: burned there",
    "... seen final, burned, and 100 credited to book:ana",
    "ana moves 80 from Ethereum to Solana",
    "ben moves 10 from Solana to Ethereum",
    "the bailiff moves 50 from mallory's wallet to ana's",
    "the bailiff freezes ben's wallet on Solana",
    "cleo's 10 on Ethereum, which were sent",
    "cleo's 10 on Solana, which were sent",
    "cleo is frozen, on Ethereum",
    "cleo is frozen, on Solana",
    "the bailiff takes the 30 where they are",
    "... and the 5 that are left on Solana",
    "TSLAx is halted, on Ethereum",
    "TSLAx is halted, on Solana",
    "the chains are told ahead, on Ethereum",
    "the chains are told ahead, on Solana",
    "the 80 are swept to the hot wallet",
    "ben withdraws 12 SHOPx from there to his own wallet",
)
"""What is under way and ends well: told on one line, with how it ended."""
FINDINGS = (
    "in between, burned and not minted yet: ",
    "the redemption is filled and settled: book:ana has 100 TSLAx and 5,000 USDC",
    "the token's own log says why: 'Amtsgericht 12 C 34/26'",
    "decided last and signed first: on both chains the freeze went before all that waited",
    "on Ethereum, and tries to send 1: ERC7943InsufficientUnfrozenBalance",
    "on Solana, and tries to send 1: Error: Account is frozen",
    "their units wait in transit: 2 to Ethereum, HOLDER_FROZEN, 2 to Solana, HOLDER_FROZEN",
    "HOLDER_FROZEN: holder cleo is frozen (freezing order 9/26)",
    "(ERC20InsufficientBalance)",
    "has 500000000 raw units, not 2000000000)",
    "BURN_UNDECIDED, expected 0, found 15",
    "a wallet of nobody known. The law follows:",
    "OperationPaused",
    "the reader saw it take effect on Ethereum in block ",
    "the reader saw it take effect on Solana in slot ",
    "nobody knows whose they are, and unattributed:eip155:31337 has 20",
    "unattributed:eip155:31337 has 0, book:ana has 20",
    "noted, no divergence; in the book it is 1 and book:ben has 80",
    "the hot wallet holds 88; the reserve, which is what is final there, is 88; the book owes 88",
    "(the chain refuses it: ERC7943CannotReceive",
    "book:mallory has 50 again, nothing is on its way",
    "*** SIGKILL: 16 decided",
    "24 withdrawals, each once",
    "a unit stands for 3 on Ethereum and 3 on Solana; in the ledger 3",
    "WITHDRAWAL_LIMIT_EXCEEDED",
    "MINT_UNDECIDED, expected 0, found 1,000",
    "CONTROL_UNDECIDED, for nothing in the ledger asked for it",
    "PLACE_HALTED: divergence",
    "missing from the log: 0; booked twice: 0",
    "(both replay to the same books)",
)

pytestmark = pytest.mark.skipif(not ANVIL.exists() or not PACKAGE.is_dir(), reason="no nodes: `npm ci` has not been run")


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of all processes that were started with this folder for what is temporary, by whomever of them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if f"TMPDIR={folder}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue  # gone, or somebody else's
    return found


def environment(folder: Path) -> dict[str, str]:
    """Return what the demo runs with: its own folder for what is temporary, and its own modules to be found, as `make demo` has it."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"} | {"TMPDIR": str(folder)}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_chains_of_the_demo(tmp_path: Path) -> None:
    command = [sys.executable, DEMO, "--chains"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(tmp_path)) as demo:
        try:
            told, _ = demo.communicate(timeout=480)
        except subprocess.TimeoutExpired:
            demo.terminate()  # so that it ends what it started
            told, _ = demo.communicate(timeout=60)
            pytest.fail(f"it goes on and on; its last lines are\n{told[-3000:]}")
    assert demo.returncode == 0, told[-3000:]
    for flow in FINAL:
        assert re.search(rf"^ +{re.escape(flow)} .*\bfinal\b", told, re.MULTILINE), flow
    for finding in FINDINGS:
        assert finding in told
    assert list(tmp_path.iterdir()) == []
    assert processes_of(tmp_path) == []


@pytest.fixture
def _heeds_interrupts() -> Iterator[None]:
    """A shell has what it starts in the background ignore SIGINT, and so would all that is started here."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heeds_interrupts")
@pytest.mark.parametrize(("how", "when"), [(signal.SIGINT, "the worker works"), (signal.SIGTERM, "A node of each runs")])
def test_a_demo_that_is_interrupted_leaves_nothing_running(tmp_path: Path, how: signal.Signals, when: str) -> None:
    told, command = tmp_path / "told.txt", [sys.executable, DEMO, "--chains"]
    with told.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file, env=environment(tmp_path)) as demo:
        wait_until(
            lambda: demo.poll() is not None or "the worker works" in told.read_text(), 120, "the story does not begin", told.read_text
        )
        assert len(processes_of(tmp_path)) >= 4, "the demo, two nodes, the server; then a worker"
        demo.send_signal(how)
        demo.wait(60)
    assert demo.returncode != 0
    wait_until(lambda: processes_of(tmp_path) == [], 20, "something still runs", lambda: str(processes_of(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["told.txt"]
