"""SIGKILL of the server that leads, at random moments under load: every acknowledged booking is there once, and another leads at once."""

from __future__ import annotations

import pytest
from durable import url_of
from server_crashes import kill_leaders, kill_the_only_one

TAKE_OVER_SECONDS_MAX = 2


@pytest.mark.slow
def test_two_servers_on_postgresql(postgres):
    acknowledged, took = kill_leaders(postgres.new_url(), 4, 1)
    assert acknowledged > 50
    assert max(took) < TAKE_OVER_SECONDS_MAX


@pytest.mark.slow
def test_one_server_on_sqlite(tmp_path):
    assert kill_the_only_one(url_of(tmp_path), 3, 1) > 50
