"""The index of origins, grown along the log in a thread of its own.

The first broker's stream after a start needs it, and that reads the log from its beginning. Reads of everybody share few threads, so none
of those does it or waits for it: streams wait in the event loop.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from services.grpc_server.subjects import OPENING_KINDS, Origins
from stockledger.v1.events_pb2 import Entry

if TYPE_CHECKING:
    from ledger import Ledger
    from services.grpc_server.streams import Growth

SLICE_ENTRIES: Final = 8_192
"""Entries taken in between two looks at who waits and whether the server stops: about 20 ms of a file."""

_OPENING_TOPICS: Final = {
    message.full_name: field.name
    for field in Entry.DESCRIPTOR.oneofs_by_name["event"].fields
    if field.name in OPENING_KINDS and (message := field.message_type) is not None
}


class OriginIndex:
    """Grows `origins` when somebody waits for it, and no further. Any thread may look up what is before `origins.size`.

    All methods but `_grow` are for the event loop alone.
    """

    def __init__(self, books: Ledger, growth: Growth) -> None:
        self.origins = Origins()
        self._books = books
        self._growth = growth
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stockledger-origins")
        self._slice: asyncio.Future[None] | None = None

    async def reach(self, size: int, seconds: float) -> bool:
        """Return True once all entries before a size are known, False when that takes longer than told or the server stops.

        All who wait share the slice that is under way; what one of them had indexed is there for the next.

        Raises: Unavailable STORE_UNAVAILABLE, DataLoss LOG_CORRUPT where the log cannot be read.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while self.origins.size < size:
            if self._growth.stopping or loop.time() >= end:
                return False
            if self._slice is None or self._slice.done():
                stop = min(self.origins.size + SLICE_ENTRIES, size)
                self._slice = loop.run_in_executor(self._thread, self._grow, stop)
            current = self._slice
            await asyncio.wait({current}, timeout=end - loop.time())
            if current.done():
                current.result()
        return True

    def close(self) -> None:
        """End the thread, after the slice that it has."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _grow(self, stop: int) -> None:
        """Note whose holds, subscriptions, redemptions and approvals were opened before an index. The topic tells which entries to read."""
        origins = self.origins
        for index, topic, data in self._books.log.read(origins.size, stop):
            kind = _OPENING_TOPICS.get(topic)
            if kind is not None:
                entry = Entry.FromString(data)
                origins.note(kind, getattr(entry, kind), entry.principal)
            origins.size = index + 1
