"""Mistakes in the rules do not stay unnoticed: each of them makes a test fail."""

from __future__ import annotations

import subprocess
import sys

import pytest
from mutations import MUTATIONS, TESTS, environment_of, find_problem, is_caught


@pytest.mark.soak
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.file}: {mutation.old.strip()}")
def test_a_mistake_is_caught(mutation, tmp_path):
    assert is_caught(mutation, tmp_path), mutation


def test_the_copy_is_what_is_tested(tmp_path):
    """Otherwise every mistake would seem to survive, or none to matter."""
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "__init__.py").touch()
    command = [sys.executable, "-c", "import ledger; print(ledger.__file__)"]
    where = subprocess.run(command, env=environment_of(tmp_path), cwd=TESTS.parent, capture_output=True, text=True, check=True).stdout
    assert where.strip() == str(tmp_path / "ledger" / "__init__.py")


def test_every_mistake_can_still_be_made():
    assert len(MUTATIONS) >= 50
    assert not list(filter(None, map(find_problem, MUTATIONS)))
