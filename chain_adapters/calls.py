"""How projector, reader and reconciler talk to the ledger: one function, `call(request) -> response`.

In the ledger's own process it is `Ledger.execute`; elsewhere a function that asks a server and raises the same exceptions, those of
`ledger.errors`. Nothing here remembers anything from one call to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from stockledger.v1.chains_pb2 import Divergence, DivergenceKind, GetChainRequest, ListDivergencesRequest

Call = Callable[[Any], Any]
"""Carry out one request message and return its response message.

Raises: ledger.errors.LedgerError.
"""
PAGE_SIZE: Final = 1000


def items_of(call: Call, request: Any, field: str) -> Iterator[Any]:
    """Yield the items of a list, page after page. The request is changed."""
    request.page_size = PAGE_SIZE
    while True:
        page = call(request)
        yield from getattr(page, field)
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def open_divergences(call: Call, chain: str) -> tuple[Divergence, ...]:
    """Return what is open of a chain."""
    return tuple(items_of(call, ListDivergencesRequest(chain=chain), "divergences"))


def changed_history(call: Call, chain: str) -> Divergence | None:
    """Return the divergence that says that the history of a chain has changed: then nothing more is read or sent there."""
    if not call(GetChainRequest(chain=chain)).chain.halting_divergences:
        return None
    kind = DivergenceKind.DIVERGENCE_KIND_HISTORY_CHANGED
    return next((each for each in open_divergences(call, chain) if each.kind == kind), None)
