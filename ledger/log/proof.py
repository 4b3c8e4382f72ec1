"""Proofs that are checked without the log: receipts of entries, and that the log only grew.

A receipt is one entry's place in a signed tree (c2sp.org/tlog-proof; file extension `.tlog-proof`):

    c2sp.org/tlog-proof@v1
    extra <base64>                 optional; not authenticated
    index 4
    <base64 hash>                  from the leaf's sibling up to the root's child

    <the checkpoint, verbatim>

A consistency proof leads from the tree of an older checkpoint to a newer one, in the form in which witnesses are asked
(c2sp.org/tlog-witness, the body of add-checkpoint; file extension `.tlog-consistency`):

    old 4
    <base64 hash>                  RFC 6962 section 2.1.2, none where nothing came after the old size

    <the newer checkpoint, verbatim>
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ledger.errors import refusal
from ledger.log.checkpoint import (
    Checkpoint,
    VerifierKey,
    decode_base64,
    encode_base64,
    open_note,
    parse_checkpoint,
    parse_decimal,
)
from ledger.log.merkle import HASH_BYTES, leaf_hash, verify_consistency, verify_inclusion
from stockledger.v1.errors_pb2 import Reason

RECEIPT_EXTENSION = ".tlog-proof"
CONSISTENCY_EXTENSION = ".tlog-consistency"

_FIRST_LINE = "c2sp.org/tlog-proof@v1"
_PROOF_HASHES_MAX = 63


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt as read: nothing in it is verified yet, and `extra` never is."""

    index: int
    proof: tuple[bytes, ...]
    checkpoint_text: str
    extra: bytes | None = None


def format_receipt(index: int, proof: Sequence[bytes], checkpoint_text: str, extra: bytes | None = None) -> str:
    """Write the receipt of entry `index` under a signed checkpoint."""
    lines = [_FIRST_LINE]
    if extra is not None:
        lines.append(f"extra {encode_base64(extra)}")
    lines.append(f"index {index}")
    lines += [encode_base64(node) for node in proof]
    return "\n".join(lines) + "\n\n" + checkpoint_text


def parse_receipt(text: str) -> Receipt:
    """Read a receipt, in its canonical form only.

    Raises: InvalidRequest FIELD_MALFORMED.
    """
    head, separator, checkpoint_text = text.partition("\n\n")
    lines = head.split("\n")
    if not separator or lines.pop(0) != _FIRST_LINE:
        raise refusal(Reason.REASON_FIELD_MALFORMED, f"the receipt does not start with {_FIRST_LINE}", field="receipt")
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = decode_base64(lines.pop(0).removeprefix("extra "), "receipt")
    if not lines or not lines[0].startswith("index "):
        raise refusal(Reason.REASON_FIELD_MALFORMED, "the receipt has no index", field="receipt")
    index = parse_decimal(lines.pop(0).removeprefix("index "), "receipt")
    proof = _parse_hashes(lines, "receipt")
    parse_checkpoint(checkpoint_text)
    return Receipt(index, proof, checkpoint_text, extra)


def _parse_hashes(lines: Sequence[str], field: str) -> tuple[bytes, ...]:
    if len(lines) > _PROOF_HASHES_MAX:
        raise refusal(Reason.REASON_FIELD_MALFORMED, f"the {field} has {len(lines)} hashes", field=field)
    proof = tuple(decode_base64(line, field) for line in lines)
    if any(len(node) != HASH_BYTES for node in proof):
        raise refusal(Reason.REASON_FIELD_MALFORMED, f"a hash of the {field} is not of 32 bytes", field=field)
    return proof


def verify_receipt(receipt_text: str, entry_bytes: bytes, keys: Iterable[VerifierKey]) -> Checkpoint:
    """Check that these bytes are the entry the receipt speaks of, in a tree that one of the keys signed.

    Give the log's own key, and compare the origin of the checkpoint returned with the log you mean.

    Raises: InvalidRequest FIELD_MALFORMED; RuleViolated SIGNATURE_INVALID; DataLoss CHECKPOINT_INCONSISTENT when the entry is not in
    that tree at that index.
    """
    receipt = parse_receipt(receipt_text)
    note = open_note(receipt.checkpoint_text, keys)
    checkpoint = parse_checkpoint(note.text)
    verify_inclusion(leaf_hash(entry_bytes), receipt.index, checkpoint.size, receipt.proof, checkpoint.root)
    return checkpoint


def format_consistency(old_size: int, proof: Sequence[bytes], checkpoint_text: str) -> str:
    """Write the proof that the tree of `old_size` is the beginning of the one that a signed checkpoint is of."""
    lines = [f"old {old_size}", *(encode_base64(node) for node in proof)]
    return "\n".join(lines) + "\n\n" + checkpoint_text


def open_consistency(text: str, old_size: int, old_root: bytes, keys: Iterable[VerifierKey]) -> Checkpoint:
    """Check that a proof leads from an older tree to a checkpoint that one of the keys signed, and give that checkpoint.

    Size and root of the older tree come from elsewhere (a chain, a witness, an auditor's own copy), never from the proof.

    Raises: InvalidRequest FIELD_MALFORMED; RuleViolated SIGNATURE_INVALID; DataLoss CHECKPOINT_INCONSISTENT when the proof is of another
    size, or the log under the checkpoint does not begin with that tree.
    """
    head, separator, checkpoint_text = text.partition("\n\n")
    first, *lines = head.split("\n")
    if not separator or not first.startswith("old "):
        raise refusal(Reason.REASON_FIELD_MALFORMED, "the proof does not start with the old size", field="proof")
    proved_size = parse_decimal(first.removeprefix("old "), "proof")
    proof = _parse_hashes(lines, "proof")
    checkpoint = parse_checkpoint(open_note(checkpoint_text, keys).text)
    if proved_size != old_size:
        message = f"the proof is from {proved_size} entries on, asked was from {old_size}"
        raise refusal(Reason.REASON_CHECKPOINT_INCONSISTENT, message, size=checkpoint.size, old_size=old_size)
    verify_consistency(old_size, checkpoint.size, old_root, checkpoint.root, proof)
    return checkpoint
