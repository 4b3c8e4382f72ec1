"""Transfers as they came over the wire: a server passes them on unread, and runs of plain ones are read by columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self, overload

from stockledger.v1.transfers_pb2 import TransferUnitsRequest

if TYPE_CHECKING:
    from collections.abc import Iterable


class SentTransfers(Sequence[TransferUnitsRequest]):
    """Transfers of which a message is made only when somebody looks at one.

    `requests` are the bytes of each: protobuf can read them, and no field stands twice in them, or at a length that is not the shortest.
    """

    __slots__ = ("requests",)

    def __init__(self, requests: list[bytes]) -> None:
        self.requests = requests

    def __len__(self) -> int:
        return len(self.requests)

    @overload
    def __getitem__(self, position: int) -> TransferUnitsRequest: ...
    @overload
    def __getitem__(self, position: slice) -> SentTransfers: ...
    def __getitem__(self, position: int | slice) -> TransferUnitsRequest | SentTransfers:
        if isinstance(position, slice):
            return SentTransfers(self.requests[position])
        return TransferUnitsRequest.FromString(self.requests[position])

    def __iadd__(self, others: SentTransfers) -> Self:
        self.requests += others.requests
        return self

    def picked(self, places: Iterable[int]) -> SentTransfers:
        """Return those at some places."""
        return SentTransfers([self.requests[place] for place in places])

    def have_request_ids(self) -> bool:
        """Return whether all are seen to have a request id: it is the first field, so they begin with its tag."""
        return {request[:1] for request in self.requests} == {b"\x0a"}
