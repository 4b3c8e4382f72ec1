"""The request ids that are remembered, so that a repeated request is booked once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger import vectors

if TYPE_CHECKING:
    from collections.abc import Sequence


_ID_BYTES: Final = 16


def span_ms(request_ids: Sequence[bytes]) -> tuple[int, int]:
    """Return the first and the last moment at which ids were made, in milliseconds since 1970."""
    if vectors.worthwhile(len(request_ids)):
        moments = vectors.numpy.frombuffer(b"".join(request_ids), dtype=">u8")[::2] >> 16
        return int(moments.min()), int(moments.max())
    first, last = (int.from_bytes(edge(request_ids)[:6], "big") for edge in (min, max))
    return first, last


def by_second(request_ids: Sequence[bytes], principal: str, locations: range) -> dict[int, tuple[list[bytes], Sequence[int]]]:
    """Return the keys of requests and their locations, by the second in which the ids were made; many are mostly of the same."""
    suffix = principal.encode()
    first_ms, last_ms = span_ms(request_ids)
    if first_ms // 1000 == last_ms // 1000:
        return {first_ms // 1000: ([request_id + suffix for request_id in request_ids], locations)}
    found: dict[int, tuple[list[bytes], list[int]]] = {}
    for location, request_id in zip(locations, request_ids, strict=True):
        second = int.from_bytes(request_id[:6], "big") // 1000
        if second not in found:
            found[second] = ([], [])
        keys, mine = found[second]
        keys.append(request_id + suffix)
        mine.append(location)
    return {**found}


class RequestWindow:
    """The request ids that were booked within the window, in bounded memory.

    Ids are kept by the second of their own UUIDv7 time, so that forgetting is dropping whole seconds. The low-water mark never falls;
    it rises when the window is over or the count is exceeded, but never into the last minute.
    """

    def __init__(self) -> None:
        self.seconds: dict[int, dict[bytes, int]] = {}
        self.count = 0
        self.low_water_second = 0
        self._newest: bytes | None = None
        """No remembered id is greater; None: unknown."""

    def note_newest(self, request_ids: Sequence[bytes]) -> None:
        """Take note of ids that are being remembered."""
        if self._newest is not None:
            self._newest = max(self._newest, *request_ids)

    def forget_newest(self) -> None:
        """Ids were remembered without a note."""
        self._newest = None

    def find(self, key: bytes, id_time_ms: int) -> int | None:
        """Return where a request (16 bytes of id, then the principal) was booked: index << 16 | position, or None."""
        bucket = self.seconds.get(id_time_ms // 1000)
        return None if bucket is None else bucket.get(key)

    def all_new(self, request_ids: Sequence[bytes], principal: str, latest_ms: int) -> bool:
        """Return whether these ids all lie within the window, up to a moment, and none was booked or stands twice."""
        first_ms, last_ms = span_ms(request_ids)
        if first_ms < self.low_water_second * 1000 or last_ms > latest_ms or len(set(request_ids)) < len(request_ids):
            return False
        if self._newest is None:
            newest_bucket = self.seconds[max(self.seconds)] if self.seconds else {}
            self._newest = max(newest_bucket, default=b"")[:_ID_BYTES]
        if min(request_ids) > self._newest:
            return True
        found = by_second(request_ids, principal, range(len(request_ids)))
        return all(self.seconds[second].keys().isdisjoint(new) for second, (new, _) in found.items() if second in self.seconds)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RequestWindow) and (self.seconds, self.count, self.low_water_second) == (
            other.seconds,
            other.count,
            other.low_water_second,
        )

    __hash__ = None  # type: ignore[assignment]
