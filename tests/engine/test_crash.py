"""SIGKILL under load at random moments: every acknowledged command is there afterwards, none twice."""

from __future__ import annotations

import pytest
from crashes import crash_rounds


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_what_was_acknowledged_survives_a_kill(tmp_path, seed):
    assert crash_rounds(tmp_path, 4, seed) > 20
