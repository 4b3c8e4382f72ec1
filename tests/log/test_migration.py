"""Stores of an older layout are told from ours, brought forward by a command, and no entry is touched; newer ones are refused."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import psycopg
import pytest
from command_line import run_process
from durable import open_funded, transfer, url_of

from ledger import Ledger
from ledger.errors import NotFound, Unavailable
from ledger.log.postgres_sessions import parse_url
from ledger.log.store import migrate, open_log
from ledger.replay import latest_state

OLD = (Path(__file__).parents[1] / "data" / "postgres_store_1.sql").read_text(encoding="utf-8")
OLD_SIZE, OLD_ROOT = 19, "d06418dcdc17808e119fb0153ed99ebf7579fa1a4a0249fe7abf70a152e0730d"


@pytest.fixture
def old(postgres):
    """Restore a ledger as the first version left it."""
    url = postgres.new_url()
    dump = re.sub("^SET (?!standard)[^;]*;$", "", OLD, flags=re.MULTILINE)
    with psycopg.connect(parse_url(url).connection, autocommit=True) as connection:
        connection.execute(dump)
    return url


def test_an_old_store_is_refused_with_the_command_that_helps(old):
    for options in ({}, {"read_only": True}, {"contend": True}):
        with pytest.raises(NotFound, match="has store version 1; this program needs 2: run `stockledger migrate`") as caught:
            open_log(old, **options)
        assert caught.value.metadata == {"expected": "2", "found": "1"}


def test_an_old_store_is_brought_forward(old):
    assert migrate(old) == (1, 2)
    with Ledger.open(old) as books:
        assert (books.size, books.log.tree.root().hex()) == (OLD_SIZE, OLD_ROOT)
        assert latest_state(books.log) == books._state
        books.execute(transfer())
        assert books.log.check().size == OLD_SIZE + 1
    assert migrate(old) == (2, 2)


def test_a_store_that_is_written_is_not_migrated(old):
    migrate(old)
    with Ledger.open(old), pytest.raises(Unavailable, match="writes this ledger"):
        migrate(old)


def test_a_migration_that_fails_changes_nothing(postgres, old):
    postgres.run("CREATE VIEW ledger_acme.leader AS SELECT 1", old)
    with pytest.raises(Unavailable, match="already exists"):
        migrate(old)
    postgres.run("DROP VIEW ledger_acme.leader", old)
    assert postgres.run("SELECT version FROM ledger_acme.store", old) == [(1,)]
    assert migrate(old) == (1, 2)


def test_tables_that_are_not_what_their_version_says_are_refused(postgres, old):
    postgres.run("DROP TABLE ledger_acme.checkpoints", old)
    with pytest.raises(Exception, match=r"not those of a ledger \(checkpoints\)"):
        migrate(old)


def test_a_newer_store_is_refused(postgres, old, tmp_path):
    postgres.run("UPDATE ledger_acme.store SET version = 3", old)
    for refuse in (migrate, open_log):
        with pytest.raises(NotFound, match="has store version 3; this program knows 2: a newer one wrote it"):
            refuse(old)
    url = url_of(tmp_path)
    open_funded(url).close()
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    for refuse in (migrate, open_log):
        with pytest.raises(NotFound, match="has store version 2; this program knows 1"):
            refuse(url)


def test_there_must_be_a_store_to_migrate(postgres, tmp_path):
    for url in (postgres.new_url(), url_of(tmp_path)):
        with pytest.raises(NotFound):
            migrate(url)
    assert not list(tmp_path.iterdir())


def test_the_command(old):
    first = run_process("migrate", "--store", old)
    assert (first.code, first.out) == (0, "store version 1 -> 2; no entry was touched\n"), first.err
    assert json.loads(run_process("migrate", "--store", old, "--json").out) == {"from": 2, "to": 2}
