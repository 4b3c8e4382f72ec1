"""The command as a whole: how it starts, what it says to a newcomer, and how it ends."""

from __future__ import annotations

import argparse
import importlib
import os
import pty
import resource
import subprocess
import sys

import pytest

from services.cli.arguments import build_parser
from services.cli.outcome import EXIT_CODES


def _commands(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()):
    subparsers = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in subparsers:
        for name, below in action.choices.items():
            yield from _commands(below, (*path, name))
    if not subparsers:
        yield path, parser


COMMANDS = dict(_commands(build_parser()))


def test_help_is_there_at_once():
    """0.3 s is what a person does not notice; processor time, and the best of five, since the machine may be busy."""
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "services.cli.main", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert b"a first quarter of an hour" in done.stdout
    assert min(seconds) < 0.3


def test_help_imports_nothing_of_the_ledger():
    code = "import sys, services.cli.main as m; m.build_parser().format_help(); print(*sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    assert [name for name in modules if name.startswith(("ledger", "google", "stockledger", "eventsourcing", "rich"))] == []


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_can_be_run_and_explains_itself(path):
    parser = COMMANDS[path]
    module, _, function = parser.get_default("run").partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    text = parser.format_help()
    assert f"stockledger {' '.join(path)}" in text.split("examples:")[1]
    assert EXIT_CODES.strip() in text


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("apply",),
        ("apply", "no-such-file.jsonl"),
        ("apply", "no-such-file.jsonl", "--batch", "0"),
        ("prove", "x"),
        ("replay", "--store", "books.db"),
        ("replay", "--store", "oracle://books"),
        ("replay", "--config", "no-such-file.toml"),
        ("show",),
        ("show", "instrument"),
        ("import",),
        ("audit", "."),
        ("commands", "TransferUnit"),
    ],
)
def test_usage_ends_with_64_and_one_sentence(run, arguments):
    done = run(*arguments)
    assert done.code == 64
    assert len(done.err.splitlines()) == 1
    assert "Traceback" not in done.err


@pytest.mark.parametrize("arguments", [("replay",), ("verify",), ("show", "instruments"), ("prove", "1"), ("checkpoint",), ("snapshot",)])
def test_a_store_that_is_not_there_ends_with_3_and_is_not_made(run, place, arguments):
    done = run(*arguments, "--store", "sqlite:///missing.db")
    assert (done.code, "LEDGER_NOT_FOUND" in done.err) == (3, True)
    assert list(place.iterdir()) == []


def test_another_ledgers_store_ends_with_3(run, books_at):
    done = run("replay", "--store", books_at, "--ledger-id", "other")
    assert done.code == 3
    assert "holds the ledger acme, not other" in done.err


def test_an_error_is_json_too(run):
    done = run("replay", "--store", "sqlite:///missing.db", "--json")
    assert done.json["error"]["reason"] == "LEDGER_NOT_FOUND"
    assert done.json["exit_code"] == 3


def test_settings_of_the_library_that_lose_events_are_refused(run, books_at, monkeypatch):
    monkeypatch.setenv("POSTGRES_ENABLE_DB_FUNCTIONS", "y")
    assert "POSTGRES_ENABLE_DB_FUNCTIONS=y is refused" in run("replay", "--store", books_at).err


def test_a_fault_is_not_taken_for_a_refusal(run, books_at, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("services.cli.checking.state_digest", fail)
    done = run("replay", "--store", books_at)
    assert (done.code, "Traceback" in done.err) == (70, True)


def test_a_reader_that_has_seen_enough_is_no_error(books_at):
    command = f"{sys.executable} -m services.cli.main show log --json --store {books_at} | head -n 1"
    done = subprocess.run(["/bin/bash", "-o", "pipefail", "-c", command], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_terminal_gets_frames_and_progress_and_a_pipe_does_not(books_at):
    """Under a pseudo-terminal there are escapes and frames; without one, the same bytes everywhere."""
    command = [sys.executable, "-m", "services.cli.main", "show", "instruments", "--store", books_at]
    main_end, other_end = pty.openpty()
    with subprocess.Popen(command, stdout=other_end, stderr=other_end, env={**os.environ, "TERM": "xterm", "COLUMNS": "200"}) as process:
        os.close(other_end)
        seen = b""
        while True:
            try:
                piece = os.read(main_end, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            seen += piece
    os.close(main_end)
    assert process.returncode == 0
    assert b"books" in seen
    assert b"\x1b[" in seen
    assert "─".encode() in seen
    piped = subprocess.run(command, capture_output=True, check=True)
    assert b"\x1b" not in piped.stdout
    assert piped.stderr == b""
