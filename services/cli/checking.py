"""`stockledger replay`, `verify`, `audit` and `snapshot`: whether the log is sound, and what follows from it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ledger import replay, snapshots
from ledger.digest import state_digest
from ledger.errors import refusal
from ledger.log.store_url import redact_url
from ledger.state import State
from ledger.verify import audit_export, verify_store
from services.cli.anchored import check_signed, read_anchored
from services.cli.outcome import DAMAGED, DONE, UsageError
from services.cli.output import Progress, grouped, print_json
from services.cli.stores import open_store, settings_of, verifier_keys_of
from services.kept_checkpoint import check_kept
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    import argparse

    from ledger.verify import Report


def run_replay(options: argparse.Namespace) -> int:
    """Fold the log from its first entry, and print what comes out."""
    settings = settings_of(options)
    with Progress() as progress, open_store(settings) as log:
        size = log.size if options.as_of_size is None else replay.size_at(log, size=options.as_of_size)
        state = State()
        start = time.perf_counter()
        replay.fold_log(state, log, size, progress.of("replay"))
        seconds = time.perf_counter() - start
        rate = round(size / max(seconds, 1e-6))
        answer = {
            "ledger": state.ledger_id,
            "size": size,
            "root": log.tree.root_at(size).hex(),
            "state_digest": state_digest(state),
            "instruments": len(state.instruments),
            "holders": len(state.holders),
            "accounts": len(state.accounts),
            "seconds": round(seconds, 3),
            "entries_per_second": rate,
        }
    if options.json:
        print_json(answer)
        return DONE
    print(f"ledger        {answer['ledger']}")
    print(f"size          {grouped(size)} entries")
    print(f"root          {answer['root']}")
    print(f"state digest  {answer['state_digest']}")
    print(f"books         {len(state.instruments)} instruments, {len(state.holders)} holders, {len(state.accounts)} accounts")
    print(f"time          {seconds:.3f} s, {grouped(rate)} entries/s")
    return DONE


def run_verify(options: argparse.Namespace) -> int:
    """Check a store."""
    settings = settings_of(options)
    keys = verifier_keys_of(settings)
    if settings.checkpoint_file:
        with open_store(settings) as log:
            check_kept(log, settings.checkpoint_file, keys)
    with Progress() as progress:
        report = verify_store(settings.store, ledger_id=settings.ledger_id or None, keys=keys, progress=progress)
    return _print_report(report, as_json=options.json)


def run_audit(options: argparse.Namespace) -> int:
    """Check an exported directory, without the store it came from."""
    keys = verifier_keys_of(settings_of(options))
    if not keys:
        raise UsageError("an export proves nothing without the log's public key: give --key")
    anchored = [read_anchored(given) for given in options.anchored]
    for each in anchored:
        check_signed(each, keys)
    with Progress() as progress:
        report = audit_export(options.directory, keys=keys, anchored=[each.checkpoint for each in anchored], progress=progress)
    return _print_report(report, as_json=options.json)


def run_snapshot(options: argparse.Namespace) -> int:
    """Write the snapshot of everything durable."""
    settings = settings_of(options)
    path = settings.snapshot or snapshots.snapshot_path_of(settings.store)
    if path is None:
        raise refusal(Reason.REASON_STATE_UNFIT, f"{redact_url(settings.store)} has no place for a snapshot; name a file", needed="a file")
    with Progress() as progress, open_store(settings) as log:
        size = snapshots.write_latest(log, path, progress.of("snapshot"))
    if options.json:
        print_json({"snapshot": path, "size": size})
    else:
        print(f"{path} holds the books after {grouped(size)} entries")
    return DONE


def _print_report(report: Report, *, as_json: bool) -> int:
    code = DONE if report.sound else DAMAGED
    if as_json:
        print_json(
            {
                "sound": report.sound,
                "source": report.source,
                "ledger": report.ledger_id,
                "origin": report.origin,
                "size": report.size,
                "sound_size": report.sound_size,
                "root": "" if report.root is None else report.root.hex(),
                "state_digest": report.state_digest,
                "checkpoint_count": report.checkpoint_count,
                "signatures_checked": report.keys_given,
                "first_bad_index": report.first_bad_index,
                "checks": report.done,
                "findings": [
                    {"check": each.check, "reason": each.reason, "message": each.message, "index": each.index} for each in report.findings
                ],
            }
        )
        return code
    for sentence in report.done:
        print(f"sound    {sentence}")
    for finding in report.findings:
        print(f"DAMAGED  {finding.reason}: {finding.message}")
    if report.sound:
        root = "" if report.root is None else report.root.hex()
        print(f"\n{report.source} is sound: ledger {report.ledger_id}, {grouped(report.size)} entries")
        print(f"root          {root}\nstate digest  {report.state_digest}")
    else:
        first = "" if report.first_bad_index is None else f"; the first bad index is {report.first_bad_index}"
        print(f"\n{report.source} is damaged{first}")
        if report.size:
            print(f"the first {grouped(report.sound_size)} of {grouped(report.size)} entries can be relied on")
        else:
            print("it could not even be opened, so nothing more was checked")
    return code
