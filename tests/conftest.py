"""What all tests share: they run against the installed package, never by accident against the tree."""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from postgres_server import Postgres, postgres_server

PACKAGES = ("ledger", "chain_adapters", "services", "stockledger")

settings.register_profile("stockledger", deadline=None, print_blob=True)
settings.register_profile("soak", deadline=None, print_blob=True, max_examples=10_000)
settings.load_profile("stockledger")


def pytest_configure() -> None:
    """Refuse a run whose packages do not come from site-packages (STOCKLEDGER_TEST_TREE=1 allows it)."""
    if os.environ.get("STOCKLEDGER_TEST_TREE") == "1":
        return
    installed = [Path(sysconfig.get_path(scheme)).resolve() for scheme in ("purelib", "platlib")]
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        where = Path(spec.origin).resolve() if spec and spec.origin else None
        if where is None or not any(where.is_relative_to(folder) for folder in installed):
            message = f"`{name}` would come from {where}, not from the installed wheel; use `make test`, or STOCKLEDGER_TEST_TREE=1"
            raise pytest.UsageError(message)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Start a PostgreSQL for the tests of this process that ask for one."""
    with postgres_server() as server:
        yield server
