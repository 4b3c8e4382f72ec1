"""Limits: how much one principal, and all together, may have under way. What is beyond them is refused at once, before any work."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.descriptor import FieldDescriptor

from ledger.errors import refusal
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.descriptor import Descriptor

    from ledger.errors import LedgerError
    from services.grpc_server.settings import ServerSettings

PRINCIPALS_REMEMBERED: Final = 10_000


class TokenBucket:
    """A rate with a burst: `burst` tokens at most, refilled at `rate` a second."""

    __slots__ = ("_burst", "_clock", "_filled_at", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = burst
        self._filled_at = clock()

    def take(self, tokens: float = 1.0) -> float:
        """Take tokens, and return 0; or take none, and return the seconds until they would be there."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < tokens:
            return (tokens - self._tokens) / self._rate
        self._tokens -= tokens
        return 0.0


class _Load:
    """What one principal has under way."""

    __slots__ = ("bucket", "in_flight", "streams")

    def __init__(self, bucket: TokenBucket | None) -> None:
        self.bucket = bucket
        self.in_flight = 0
        self.streams = 0


class Limits:
    """Counts what is under way. Used from the event loop alone."""

    def __init__(self, settings: ServerSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._loads: OrderedDict[str, _Load] = OrderedDict()
        self.in_flight = 0

    def enter(self, principal: str, *, stream: bool = False) -> None:
        """Count a request or stream in. Every `enter` that returns is followed by one `leave`.

        Raises: Overloaded TOO_MANY_REQUESTS with the limit and when to try again.
        """
        settings, load = self._settings, self._load(principal)
        if settings.requests_in_flight_max and self.in_flight >= settings.requests_in_flight_max:
            raise too_many("requests at once of all principals", settings.requests_in_flight_max)
        if stream:
            if settings.principal_streams_max and load.streams >= settings.principal_streams_max:
                raise too_many("streams at once", settings.principal_streams_max, 1_000)
        elif settings.principal_requests_in_flight_max and load.in_flight >= settings.principal_requests_in_flight_max:
            raise too_many("requests at once", settings.principal_requests_in_flight_max)
        wait = self.spend(principal)
        if wait:
            raise too_many("requests a second", settings.principal_requests_per_second, int(wait * 1000) + 1)
        if stream:
            load.streams += 1
        else:
            load.in_flight += 1
            self.in_flight += 1

    def leave(self, principal: str, *, stream: bool = False) -> None:
        load = self._load(principal)
        if stream:
            load.streams -= 1
        else:
            load.in_flight -= 1
            self.in_flight -= 1
        assert load.in_flight >= 0 and load.streams >= 0, "whoever leaves has entered"

    def spend(self, principal: str) -> float:
        """Count one message against the principal's rate; return 0, or the seconds to wait."""
        bucket = self._load(principal).bucket
        return 0.0 if bucket is None else bucket.take()

    def _load(self, principal: str) -> _Load:
        load = self._loads.get(principal)
        if load is None:
            self._forget_the_idle()
            settings = self._settings
            rate, burst = settings.principal_requests_per_second, settings.principal_requests_burst
            load = self._loads[principal] = _Load(TokenBucket(rate, burst, self._clock) if rate else None)
        return load

    def _forget_the_idle(self) -> None:
        """Keep memory bounded: let go of the principal seen first that has nothing under way."""
        if len(self._loads) < PRINCIPALS_REMEMBERED:
            return
        idle = next((name for name, load in self._loads.items() if not (load.in_flight or load.streams)), None)
        if idle is not None:
            del self._loads[idle]


def too_many(what: str, limit: int, retry_ms: int = 250) -> LedgerError:
    """Make the refusal of what is beyond a limit."""
    return refusal(Reason.REASON_TOO_MANY_REQUESTS, f"more than {limit} {what}", limit=limit, of=what, retry_ms=retry_ms)


_LISTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}


def _lists_of(descriptor: Descriptor) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the fields of a message that are lists, and among them those of messages."""
    found = _LISTS.get(descriptor.full_name)
    if found is None:
        lists = tuple(field.name for field in descriptor.fields if field.is_repeated)
        nested = tuple(f.name for f in descriptor.fields if f.is_repeated and f.type == FieldDescriptor.TYPE_MESSAGE)
        found = _LISTS[descriptor.full_name] = (lists, nested)
    return found


def check_lengths(request: Any, limit: int) -> None:
    """Refuse a request one of whose lists is too long, nested ones counted together.

    Raises: InvalidRequest TOO_MANY_ITEMS.
    """
    lists, nested = _lists_of(request.DESCRIPTOR)
    for name in lists:
        items = getattr(request, name)
        count = len(items)
        if name in nested and items:
            inner = _lists_of(items[0].DESCRIPTOR)[0] if hasattr(items, "add") else ()
            count = max([count, *(sum(len(getattr(item, field)) for item in items) for field in inner)])
        if count > limit:
            message = f"{name} has {count} items, at most {limit} may be"
            raise refusal(Reason.REASON_TOO_MANY_ITEMS, message, field=name, count=count, limit=limit)
