from __future__ import annotations

import os

import pytest
from command_line import ORIGIN, Done, fill_books
from scenario import START_US, FixedClock

from ledger import Ledger, Signer
from services.cli.main import main


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Run in an empty directory, with no settings from outside."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("STOCKLEDGER_"):
            monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run the command in this process."""

    def call(*arguments: object) -> Done:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return call


@pytest.fixture
def books_at(place):
    """Make the small story's store, decided in November 2026: to be read, not written, by the machine's clock."""
    url = f"sqlite:///{place}/books.db"
    with Ledger.open(url, ledger_id="acme", origin=ORIGIN, clock=FixedClock()) as books:
        fill_books(books, START_US)
    return url


@pytest.fixture
def signer(place) -> Signer:
    """Make the log's signing key, in checkpoint.key."""
    key = Signer(ORIGIN, bytes(range(32)))
    path = place / "checkpoint.key"
    path.write_text(key.secret_text + "\n", encoding="ascii")
    path.chmod(0o600)
    return key
