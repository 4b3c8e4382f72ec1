"""Backup and restore, drilled on real stores: a backup gives back all it had, and an older one is recognised by what is known outside."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from command_line import run_process
from durable import open_funded, transfer, url_of
from grpc_server_thread import Client, RunningServer
from postgres_pair import Node, base_backup, make_primary, programs, run_program, scratch
from server_crashes import asking
from server_process import ServerProcess
from server_processes import check_booked_once, first_answer_after, running

from ledger import Ledger, Signer
from ledger.errors import DataLoss
from ledger.log.store import open_log
from ledger.replay import latest_state
from ledger.snapshots import load_state
from services.kept_checkpoint import check_kept, keep
from stockledger.v1.audit_pb2 import StreamEntriesRequest
from stockledger.v1.instruments_pb2 import ListInstrumentsRequest

ORIGIN = "stockledger.local/acme"


def book(url, count):
    with Ledger.open(url) as books:
        for _ in range(count):
            books.execute(transfer())
        return books.size


# SQLite


@pytest.mark.slow
def test_sqlite_is_backed_up_under_load_and_an_older_backup_is_recognised(tmp_path):
    url, kept = url_of(tmp_path), tmp_path / "elsewhere.checkpoint"
    open_funded(url).close()
    base_us = time.time_ns() // 1000
    server = ServerProcess(url, checkpoint_file=kept, checkpoint_seconds=1)
    with running(server), asking([server.address], base_us) as askers:
        first_answer_after(askers, time.monotonic())
        seen = sum(len(asker.acknowledged) for asker in askers)
        done = run_process("backup", tmp_path / "copy.db", "--store", url, "--json")
        assert done.code == 0, done.err
        size = done.json["size"]
        end = time.monotonic() + 20
        while not kept.exists() or int(kept.read_text().split("\n")[1]) <= size:
            assert time.monotonic() < end, "no checkpoint is kept"
            time.sleep(0.05)
        first_answer_after(askers, time.monotonic())
        for asker in askers:
            asker.stopping.set()
        for asker in askers:
            asker.finish()
        assert server.stop() == 0, server.told

    restored = f"sqlite:///{tmp_path}/copy.db"
    with Ledger.open(restored, read_only=True) as books:
        assert books.size == size > seen
        assert latest_state(books.log) == books._state
        books.log.check()
    for command in (("serve", "--address", "127.0.0.1:0"), ("verify",), ("apply", "/dev/null")):
        done = run_process(*command, "--store", restored, STOCKLEDGER_CHECKPOINT_FILE=str(kept))
        assert done.code != 0
        assert f"has {size} entries" in done.err
        assert "it was put back from an older backup" in done.err

    done = run_process("verify", "--store", url, "--checkpoint-file", kept)
    assert "entries are there without gaps" in done.out
    assert done.err == ""
    with Ledger.open(url, read_only=True) as books:
        assert check_kept(books.log, kept) == books.size, "it is renewed when the server stops"
        assert check_booked_once(books, askers, base_us) > seen


def test_clients_recognise_an_older_backup_by_the_sizes_they_know(tmp_path):
    url = url_of(tmp_path)
    with open_funded(url) as books:
        books.log.copy_to(str(tmp_path / "copy.db"))
        for _ in range(5):
            known = books.execute(transfer()).booking.size
    with Ledger.open(f"sqlite:///{tmp_path}/copy.db") as books, RunningServer(books) as server, Client(server.address) as client:
        resumed = client.refused("AuditService/StreamEntries", StreamEntriesRequest(start_index=known))
        assert (resumed.info.reason, resumed.info.metadata["size"]) == ("INDEX_BEYOND_LOG", str(known - 5))
        request = ListInstrumentsRequest()
        request.as_of.size = known
        assert client.refused("InstrumentService/ListInstruments", request).info.reason == "INDEX_BEYOND_LOG"


def test_a_backup_is_never_written_over_anything(tmp_path):
    url = url_of(tmp_path)
    open_funded(url).close()
    (tmp_path / "there").write_text("something")
    done = run_process("backup", tmp_path / "there", "--store", url)
    assert done.code != 0
    assert (tmp_path / "there").read_text() == "something"
    assert run_process("backup", tmp_path / "no" / "folder", "--store", url).code != 0


# What is kept outside


@pytest.mark.parametrize("signed", [False, True])
def test_the_kept_checkpoint(tmp_path, signed):
    url, kept = url_of(tmp_path), tmp_path / "kept"
    signer = Signer(ORIGIN, bytes(range(32))) if signed else None
    keys = [signer.verifier_key] if signer else []
    with open_funded(url, signer=signer) as books:
        assert check_kept(books.log, kept, keys) == 0
        assert keep(books, kept) == books.size
        books.execute(transfer())
        assert check_kept(books.log, kept, keys) == books.size - 1
        text = kept.read_text()
        other = Ledger.open("sqlite:///:memory:", ledger_id="acme")
        keep(other, kept)
        with pytest.raises(DataLoss, match="has another root" if not signed else "is damaged: "):
            check_kept(books.log, kept, keys)
        kept.write_text(text[:-3])
        with pytest.raises(DataLoss, match="is damaged"):
            check_kept(books.log, kept, keys)
        other.close()
    assert [path.name for path in tmp_path.glob("kept*")] == ["kept"], "no temporary file is left"


# PostgreSQL


@pytest.mark.slow
def test_postgresql_is_dumped_and_restored_and_an_older_dump_is_recognised(postgres, tmp_path):
    url, kept = postgres.new_url(), tmp_path / "kept"
    open_funded(url).close()
    dumps = []
    for number in range(2):
        size = book(url, 5)
        dump = tmp_path / f"{number}.sql"
        uri = url.rpartition("ledger=")[0].rstrip("&?")
        done = run_program("pg_dump", "--schema=ledger_acme", "--no-owner", "--no-privileges", uri)
        dump.write_text(done.stdout)
        dumps.append((dump, size))
    with Ledger.open(url) as books:
        root = books.log.tree.root()
        keep(books, kept)
    for dump, size in dumps:
        restored = postgres.new_url()
        run_program("psql", "-q", "-v", "ON_ERROR_STOP=1", restored.rpartition("ledger=")[0].rstrip("&?"), input=dump.read_text())
        with Ledger.open(restored) as books:
            assert books.size == size
            assert latest_state(books.log) == books._state
            books.log.check()
            if dump is dumps[-1][0]:
                assert check_kept(books.log, kept) == size
                assert books.log.tree.root() == root
                books.execute(transfer())
            else:
                with pytest.raises(DataLoss, match="it was put back from an older backup"):
                    check_kept(books.log, kept)


@pytest.mark.slow
def test_postgresql_is_copied_as_files_under_load(tmp_path):
    programs()
    with scratch() as folder:
        primary = make_primary(folder)
        copy = Node(folder / "copy")
        try:
            url = f"{primary.uri}?ledger=acme"
            open_funded(url).close()
            server = ServerProcess(url)
            with running(server), asking([server.address], time.time_ns() // 1000) as askers:
                first_answer_after(askers, time.monotonic())
                size = book_size(url)
                base_backup(primary, copy.folder)
                later = book_size(url)
            copy.start()
            with Ledger.open(f"{copy.uri}?ledger=acme") as books:
                assert size <= books.size
                assert later > size
                assert latest_state(books.log) == books._state
                books.log.check()
        finally:
            primary.kill()
            copy.kill()


def book_size(url):
    with open_log(url, read_only=True) as log:
        return log.size


# Snapshots, so that a restart is quick


@pytest.mark.slow
def test_a_server_writes_snapshots_as_it_goes(tmp_path):
    url = url_of(tmp_path)
    open_funded(url).close()
    path = Path(f"{tmp_path}/books.db.snapshot")
    server = ServerProcess(url, snapshot_entries=20, snapshot_seconds=0)
    with running(server), asking([server.address], time.time_ns() // 1000):
        end = time.monotonic() + 60
        while not path.exists():
            assert time.monotonic() < end, server.told
            time.sleep(0.05)
        server.kill()
        with open_log(url, read_only=True) as log:
            state, how = load_state(log, path)
            assert state is not None, how
            assert 20 < state.size <= log.size
        server.start()


def test_a_server_on_postgresql_stops_cleanly_without_a_place_for_snapshots(postgres, tmp_path):
    url = postgres.new_url()
    open_funded(url).close()
    server = ServerProcess(url)
    with running(server):
        assert server.stop() == 0, server.told
