"""Reads of what holders owe after reversals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.reads.pages import page_of
from stockledger.v1.transfers_pb2 import ListReceivablesRequest, ListReceivablesResponse, Receivable

if TYPE_CHECKING:
    from ledger.state import State


def list_receivables(state: State, request: ListReceivablesRequest, now_us: int) -> ListReceivablesResponse:
    """List by holder, instrument and loss account; none of them contains a space, which sorts before all that they do contain."""
    page, token = page_of(request, (" ".join(key) for key in state.receivables))
    receivables = [
        Receivable(
            holder=holder, instrument=instrument, units=state.receivables[holder, instrument, loss_account], loss_account=loss_account
        )
        for key in page
        for holder, instrument, loss_account in (key.split(" "),)
    ]
    return ListReceivablesResponse(size=state.size, next_page_token=token, receivables=receivables)


READS = {
    ListReceivablesRequest: list_receivables,
}
