"""A hundred random moments on PostgreSQL with two servers, and a hundred on SQLite."""

from __future__ import annotations

import statistics

import pytest
from durable import url_of
from server_crashes import kill_leaders, kill_the_only_one


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(10, 14))
def test_two_servers_on_postgresql(postgres, seed):
    acknowledged, took = kill_leaders(postgres.new_url(), 25, seed)
    print(f"{acknowledged} acknowledged; seconds to the next answer: median {statistics.median(took):.2f}, longest {max(took):.2f}")
    assert acknowledged > 1_000
    assert max(took) < 2


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(20, 24))
def test_one_server_on_sqlite(tmp_path, seed):
    assert kill_the_only_one(url_of(tmp_path), 25, seed) > 1_000
