"""`stockledger checkpoint`, `export`, `prove`, `prove-consistency` and what checks them: what makes others believe the log, and not us."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ledger.errors import LedgerError, refusal
from ledger.log.checkpoint import parse_checkpoint, sign_checkpoint
from ledger.log.proof import (
    CONSISTENCY_EXTENSION,
    RECEIPT_EXTENSION,
    format_consistency,
    format_receipt,
    open_consistency,
    parse_receipt,
    verify_receipt,
)
from ledger.log.tiles import export_tiles
from ledger.replay import parse_entry
from services.cli.anchored import check_beginning, check_signed, read_anchored
from services.cli.outcome import DAMAGED, DONE, UsageError
from services.cli.output import Progress, grouped, note, print_json
from services.cli.stores import open_store, origin_of, read_text, settings_of, signer_of, verifier_keys_of
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    import argparse

    from ledger.log.checkpoint import Signer
    from ledger.log.log import Log
    from services.settings import Settings

ENTRY_EXTENSION = ".entry"


def run_checkpoint(options: argparse.Namespace) -> int:
    """Sign a checkpoint, keep it, and print it."""
    settings = settings_of(options)
    with open_store(settings, read_only=options.no_save) as log:
        signer = _needed_signer(settings, log)
        size = log.size
        text = sign_checkpoint(signer.name, size, log.tree.root_at(size), signer)
        if not options.no_save:
            log.save_checkpoint(size, text)
    if options.json:
        print_json({"size": size, "checkpoint": text, "verifier_key": str(signer.verifier_key)})
    else:
        print(text, end="")
    return DONE


def run_export(options: argparse.Namespace) -> int:
    """Write the log as tiles."""
    settings = settings_of(options)
    with Progress() as progress, open_store(settings) as log:
        checkpoint = export_tiles(log, options.directory, signer_of(settings, origin_of(log)), progress.of("export"))
    if options.json:
        print_json({"directory": options.directory, "origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex()})
    else:
        print(f"{options.directory} holds {grouped(checkpoint.size)} entries under a checkpoint of {checkpoint.origin}")
    return DONE


def run_prove(options: argparse.Namespace) -> int:
    """Write the receipt of one entry, and its bytes."""
    settings = settings_of(options)
    receipt_path = Path(options.out or f"entry-{options.index}{RECEIPT_EXTENSION}")
    entry_path = receipt_path.with_suffix(ENTRY_EXTENSION)
    if entry_path == receipt_path:
        raise UsageError(f"the receipt cannot end in {ENTRY_EXTENSION}: the entry's bytes do")
    with open_store(settings) as log:
        if not 0 <= options.index < log.size:
            message = f"index {options.index} is beyond the log of {log.size}"
            raise refusal(Reason.REASON_INDEX_BEYOND_LOG, message, index=options.index, size=log.size)
        size, text = _anchored_over(log, options) if options.anchored else _checkpoint_over(log, settings, options.index)
        receipt = format_receipt(options.index, log.tree.inclusion_proof(options.index, size), text)
        data = log.entry(options.index)
    _write(receipt_path, receipt.encode())
    _write(entry_path, data)
    if options.json:
        print_json({"index": options.index, "size": size, "receipt": str(receipt_path), "entry": str(entry_path)})
    else:
        print(f"{receipt_path} proves that {entry_path} is entry {options.index} of the log of {grouped(size)} entries")
    return DONE


def run_verify_receipt(options: argparse.Namespace) -> int:
    """Check a receipt against an entry's bytes and the log's public key."""
    keys = verifier_keys_of(settings_of(options))
    if not keys:
        raise UsageError("a receipt proves nothing without the log's public key: give --key")
    receipt_text = read_text(options.receipt, "receipt")
    try:
        data = Path(options.entry).read_bytes()
    except OSError as error:
        raise UsageError(f"entry {options.entry} cannot be read: {error.strerror}") from error
    try:
        checkpoint = verify_receipt(receipt_text, data, keys)
        index = parse_receipt(receipt_text).index
    except LedgerError as error:
        if options.json:
            print_json({"verified": False, "reason": error.reason_name, "message": error.message})
        note(f"stockledger: the receipt does not verify: {error}")
        return DAMAGED
    kind = parse_entry(data, index).WhichOneof("event")
    if options.json:
        answer = {"verified": True, "index": index, "event": kind, "origin": checkpoint.origin, "size": checkpoint.size}
        print_json(answer | {"root": checkpoint.root.hex()})
    else:
        print(f"verified: {options.entry} is entry {index} ({kind}) of the log {checkpoint.origin}")
        print(f"signed at {grouped(checkpoint.size)} entries, root {checkpoint.root.hex()}")
    return DONE


def run_prove_consistency(options: argparse.Namespace) -> int:
    """Write the proof that the log only grew since a checkpoint that stood elsewhere."""
    settings = settings_of(options)
    old = read_anchored(options.anchored)
    with open_store(settings) as log:
        check_beginning(log, old)
        old_size = old.checkpoint.size
        if options.to:
            later = read_anchored(options.to)
            check_beginning(log, later)
            size, text = later.checkpoint.size, _needed_note(later.note)
        else:
            size, text = _checkpoint_over(log, settings, max(old_size - 1, 0))
        if size < old_size:
            raise UsageError(f"the log does not grow from {old_size} entries to {size}")
        hashes = log.tree.consistency_proof(old_size, size)
    path = Path(options.out or f"log-{old_size}-{size}{CONSISTENCY_EXTENSION}")
    _write(path, format_consistency(old_size, hashes, text).encode())
    if options.json:
        print_json({"old_size": old_size, "size": size, "proof": str(path), "hashes": [f"0x{each.hex()}" for each in hashes]})
    else:
        print(f"{path} proves that the first {grouped(old_size)} entries are the beginning of the log of {grouped(size)}")
    return DONE


def run_verify_consistency(options: argparse.Namespace) -> int:
    """Check that the log only grew since a checkpoint that stood elsewhere, with nothing but the log's public key."""
    keys = verifier_keys_of(settings_of(options))
    if not keys:
        raise UsageError("a proof proves nothing without the log's public key: give --key")
    old = read_anchored(options.anchored)
    text = read_text(options.proof, "proof")
    try:
        checkpoint = open_consistency(text, old.checkpoint.size, old.checkpoint.root, keys)
        check_signed(old, keys, checkpoint.origin)
    except LedgerError as error:
        if options.json:
            print_json({"verified": False, "reason": error.reason_name, "message": error.message})
        note(f"stockledger: the proof does not verify: {error}")
        return DAMAGED
    if options.json:
        answer = {"verified": True, "old_size": old.checkpoint.size, "old_root": old.checkpoint.root.hex(), "signed": bool(old.note)}
        print_json(answer | {"origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex()})
    else:
        print(f"verified: the {grouped(old.checkpoint.size)} entries anchored are the beginning of the log {checkpoint.origin}")
        print(f"signed at {grouped(checkpoint.size)} entries, root {checkpoint.root.hex()}")
    return DONE


def _anchored_over(log: Log, options: argparse.Namespace) -> tuple[int, str]:
    """Return what was anchored, if it is of this log and covers the entry."""
    found = read_anchored(options.anchored)
    check_beginning(log, found)
    size = found.checkpoint.size
    if not options.index < size:
        message = f"index {options.index} is beyond the {size} entries that were anchored"
        raise refusal(Reason.REASON_INDEX_BEYOND_LOG, message, index=options.index, size=size)
    return size, _needed_note(found.note)


def _needed_note(text: str) -> str:
    if not text:
        raise UsageError("a proof ends with a signed checkpoint: give the note, not its size and root (a CheckpointAnchor tells both)")
    return text


def _needed_signer(settings: Settings, log: Log) -> Signer:
    signer = signer_of(settings, origin_of(log))
    if signer is None:
        raise UsageError("no key to sign with: give --signing-key; `stockledger keys generate` makes one")
    return signer


def _checkpoint_over(log: Log, settings: Settings, index: int) -> tuple[int, str]:
    """Return a checkpoint that covers an entry: signed now, or without a key the newest that the store keeps."""
    signer = signer_of(settings, origin_of(log))
    if signer is not None:
        return log.size, sign_checkpoint(signer.name, log.size, log.tree.root(), signer)
    for size, text in log.checkpoints(1):
        if index < size:
            parse_checkpoint(text)
            return size, text
    message = f"the store keeps no checkpoint over entry {index}: give --signing-key, or run `stockledger checkpoint`"
    raise refusal(Reason.REASON_STATE_UNFIT, message, index=index, needed="checkpoint")


def _write(path: Path, content: bytes) -> None:
    """Write a file whole, replacing one of its name."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)  # noqa: PTH105 - the rename that makes it whole
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
