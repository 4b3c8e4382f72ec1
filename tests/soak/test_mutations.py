"""Mistakes in the rules do not stay unnoticed: each of them makes a test fail."""

from __future__ import annotations

import pytest
from mutations import MUTATIONS, find_problem, is_caught


@pytest.mark.soak
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.file}: {mutation.old.strip()}")
def test_a_mistake_is_caught(mutation, tmp_path):
    assert is_caught(mutation, tmp_path), mutation


def test_every_mistake_can_still_be_made():
    assert len(MUTATIONS) >= 50
    assert not list(filter(None, map(find_problem, MUTATIONS)))
