"""Two hundred random moments: twenty ledgers, each killed ten times over."""

from __future__ import annotations

import pytest
from crashes import crash_rounds


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 120))
def test_what_was_acknowledged_survives_a_kill(tmp_path, seed):
    assert crash_rounds(tmp_path, 10, seed) > 100
