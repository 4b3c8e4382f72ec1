"""What the README shows is what runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from services.cli.arguments import build_parser

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "thirty_seconds.py"


def test_the_readme_shows_the_example_that_runs() -> None:
    assert f"```python\n{EXAMPLE.read_text(encoding='utf-8')}```" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs() -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "bob holds 150000000 units" in done.stdout
    assert "RESERVE_INSUFFICIENT" in done.stdout


def _readme_block() -> str:
    (block,) = re.findall("```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return str(block)


def _help_block() -> str:
    _, _, rest = build_parser().format_help().partition("a first quarter of an hour, in an empty folder:\n")
    return rest.partition("\n\n")[0]


@pytest.fixture
def shell(tmp_path):
    """Run a script in an empty folder, with no settings from outside and `stockledger` as it is here."""
    command = tmp_path / "bin" / "stockledger"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m services.cli.main "$@"\n')
    command.chmod(0o755)
    folder = tmp_path / "empty"
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STOCKLEDGER_")}
    environment["PATH"] = f"{command.parent}:{environment['PATH']}"

    def run(script: str) -> str:
        strict = ["bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(strict, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_readmes_command_line_works_as_printed(shell) -> None:
    told = shell(_readme_block())
    assert re.search("AAPLx +book:alice +h-1 +9.00000000 ", told)
    assert re.search("AAPLx +book:bob +h-2 +1.50000000 ", told)
    assert "sqlite:///books.db is sound: ledger acme" in told
    assert "verified: entry-4.entry is entry 4 (account_opened) of the log acme.example/stockledger" in told


def test_the_first_quarter_of_an_hour_works_as_printed(shell) -> None:
    told = shell(_help_block())
    assert re.search("book:alice +[0-9]+ +h-1 +order 7", told)
    assert "sqlite:///books.db is sound: ledger books" in told
    assert "verified: entry-4.entry is entry 4 (account_frozen) of the log acme.example/stockledger" in told


def test_the_architecture_fits_a_short_read() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()) <= 150
