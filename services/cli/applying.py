"""`stockledger apply`: commands from a file, a batch at a time."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ledger.engine import COMMANDS_PER_CALL_MAX
from services.cli.approving import STATES, Clerk, Outcome
from services.cli.lines import Line, read_commands
from services.cli.outcome import DONE, REFUSED, UsageError
from services.cli.output import Column, Progress, grouped, note, print_json, print_table
from services.cli.stores import open_books, settings_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

_REFUSALS_SHOWN = 20


class Report:
    """What became of the lines of a file."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.refused: list[dict[str, Any]] = []
        self.size = 0
        """Of the log, in entries, at the end."""

    def add(self, where: str, name: str, outcome: Outcome) -> None:
        self.counts[outcome.state] += 1
        if outcome.error is not None:
            error = outcome.error
            refusal = {"line": where, "command": name, "reason": error.reason_name, "message": error.message, "metadata": error.metadata}
            self.refused.append(refusal | ({"approval": outcome.approval} if outcome.approval else {}))

    def add_malformed(self, where: str, name: str, message: str) -> None:
        self.counts["refused"] += 1
        self.refused.append({"line": where, "command": name, "reason": "FIELD_MALFORMED", "message": message, "metadata": {}})

    def print(self, *, as_json: bool) -> int:
        """Print the report and return the exit code."""
        if as_json:
            print_json({**{state.replace(" ", "_"): self.counts[state] for state in STATES}, "size": self.size, "refusals": self.refused})
            return REFUSED if self.refused else DONE
        shown = self.refused[:_REFUSALS_SHOWN]
        if shown:
            columns = [Column("line"), Column("command"), Column("reason"), Column("why")]
            print_table(columns, [[each["line"], each["command"], each["reason"], each["message"]] for each in shown], "")
        if len(self.refused) > len(shown):
            print(f"... and {grouped(len(self.refused) - len(shown))} more refused; --json lists all")
        told = [f"{grouped(self.counts[state])} {state}" for state in STATES if self.counts[state]]
        print(f"{', '.join(told) or 'nothing to do'}; the log has {grouped(self.size)} entries")
        return REFUSED if self.refused else DONE


def run(options: argparse.Namespace) -> int:
    """Carry out the commands of a file and report on them."""
    settings = settings_of(options)
    if not 1 <= options.batch <= COMMANDS_PER_CALL_MAX:
        raise UsageError(f"--batch is {options.batch}, it must be 1 to {COMMANDS_PER_CALL_MAX}")
    report = Report()
    with Progress("bytes") as progress, contextlib.ExitStack() as opened:
        lines = opened.enter_context(_lines_of(options.file, progress))
        commands = read_commands(lines, options.format or _form_of(options.file))
        books = opened.enter_context(open_books(settings, progress, make=not options.dry_run))
        clerk = Clerk(books, settings.principal, () if options.dry_run else settings.approvers, pack=options.pack)
        size = 1 if options.stop_at_first_refusal else options.batch
        try:
            for batch in batches(commands, size):
                _apply(clerk, batch, report, dry_run=options.dry_run)
                if options.stop_at_first_refusal and report.refused:
                    break
        finally:
            report.size = books.size
            if sys.exc_info()[0] is not None:
                note(f"stopped after {grouped(report.counts.total())} lines; to go on, apply the file again (with request ids)")
    return report.print(as_json=options.json)


def _apply(clerk: Clerk, batch: list[Line], report: Report, *, dry_run: bool) -> None:
    commands = [line.command for line in batch if line.command is not None]
    if dry_run:
        for command in commands:
            command.validate_only = True
    outcomes = iter(clerk.ask(commands))
    for line in batch:
        if line.command is None:
            report.add_malformed(str(line.number), line.name, line.error)
        else:
            report.add(str(line.number), line.name, next(outcomes))


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of at most `size` items."""
    source = iter(items)
    while batch := list(itertools.islice(source, size)):
        yield batch


def _form_of(path: str) -> str | None:
    ending = Path(path).suffix.lower()
    return {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}.get(ending)


@contextlib.contextmanager
def _lines_of(path: str, progress: Progress) -> Iterator[Iterator[str]]:
    """Open a file, or standard input, as lines, and show how much of it has been read."""
    if path == "-":
        yield _counted(io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", newline=""), 0, None)
        return
    try:
        file = Path(path).open(encoding="utf-8-sig", newline="")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    with file:
        yield _counted(file, os.fstat(file.fileno()).st_size, progress)


def _counted(file: Iterable[str], total: int, progress: Progress | None) -> Iterator[str]:
    done = 0
    try:
        for line in file:
            done += len(line)
            if progress is not None:
                progress("apply", min(done, total), total)
            yield line
    except UnicodeDecodeError as error:
        raise UsageError(f"the input is not text in UTF-8: {error.reason} after {done} characters") from error
