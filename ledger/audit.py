"""What auditors read from the log itself: entries, checkpoints, receipts, proofs, and whether a request was ever booked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ledger.errors import refusal
from ledger.log.checkpoint import sign_checkpoint
from ledger.log.proof import format_receipt
from ledger.reads.pages import PAGE_BYTES, page_size_of
from ledger.request_ids import parse_request_id
from stockledger.v1 import audit_pb2
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.events_pb2 import Entry

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.engine import Ledger


def _check_index(index: int, size: int) -> None:
    if not 0 <= index < size:
        raise refusal(Reason.REASON_INDEX_BEYOND_LOG, f"index {index} is beyond the log of {size}", index=index, size=size)


def list_entries(books: Ledger, request: audit_pb2.ListEntriesRequest) -> audit_pb2.ListEntriesResponse:
    size = books.size
    start = request.start_index
    if start != size:
        _check_index(start, size)
    stop = min(start + page_size_of(request), size)
    entries: list[audit_pb2.StoredEntry] = []
    taken = 0
    for index, topic, data in books.log.read(start, stop):
        entries.append(audit_pb2.StoredEntry(index=index, topic=topic, data=data))
        taken += len(data)
        if taken >= PAGE_BYTES:
            break
    return audit_pb2.ListEntriesResponse(size=size, entries=entries)


def checkpoint_at(books: Ledger, size: int) -> str:
    """Sign a checkpoint of a size, and keep it in the store: never two of one size that differ."""
    if books.signer is None:
        message = "the ledger was opened without a signer; `stockledger keys generate` makes one"
        raise refusal(Reason.REASON_STATE_UNFIT, message, needed="signer")
    tree = books.log.tree
    text = sign_checkpoint(books.origin, size, tree.root_at(size), books.signer)
    if not books.read_only:
        books.log.save_checkpoint(size, text)
    return text


def get_checkpoint(books: Ledger, request: audit_pb2.GetCheckpointRequest) -> audit_pb2.GetCheckpointResponse:
    size = books.size
    return audit_pb2.GetCheckpointResponse(size=size, checkpoint=checkpoint_at(books, size))


def get_receipt(books: Ledger, request: audit_pb2.GetReceiptRequest) -> audit_pb2.GetReceiptResponse:
    size = books.size
    _check_index(request.index, size)
    proof = books.log.tree.inclusion_proof(request.index, size)
    receipt = format_receipt(request.index, proof, checkpoint_at(books, size))
    return audit_pb2.GetReceiptResponse(size=size, receipt=receipt, data=books.log.entry(request.index))


def get_consistency_proof(books: Ledger, request: audit_pb2.GetConsistencyProofRequest) -> audit_pb2.GetConsistencyProofResponse:
    size = request.size or books.size
    _check_index(size - 1, books.size)
    _check_index(request.old_size, size + 1)
    hashes = books.log.tree.consistency_proof(request.old_size, size)
    return audit_pb2.GetConsistencyProofResponse(size=size, hashes=hashes)


def find_request(books: Ledger, request: audit_pb2.FindRequestRequest) -> audit_pb2.FindRequestResponse:
    """Search the log itself, so that ids beyond the window are found too; slow, and certain."""
    wanted = parse_request_id(request.request_id)
    principal = request.principal or books.principal
    size = books.size
    for index, _, data in books.log.read(0, size):
        if wanted not in data:
            continue
        entry = Entry.FromString(data)
        if entry.principal != principal:
            continue
        if entry.request_id == wanted:
            return audit_pb2.FindRequestResponse(size=size, found=True, index=index)
        ids = entry.transfers_packed.request_ids
        for position in range(len(ids) // 16):
            if ids[16 * position : 16 * position + 16] == wanted:
                return audit_pb2.FindRequestResponse(size=size, found=True, index=index, position=position)
    return audit_pb2.FindRequestResponse(size=size, found=False)


READS: Final[dict[type[Any], Callable[[Ledger, Any], Any]]] = {
    audit_pb2.ListEntriesRequest: list_entries,
    audit_pb2.GetCheckpointRequest: get_checkpoint,
    audit_pb2.GetReceiptRequest: get_receipt,
    audit_pb2.GetConsistencyProofRequest: get_consistency_proof,
    audit_pb2.FindRequestRequest: find_request,
}
