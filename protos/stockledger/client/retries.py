"""What may be tried again, when, and at which server. Every request may be sent twice: a command is booked once by its request id."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final

import grpc

from stockledger.client.errors import LedgerError, NoAnswer

if TYPE_CHECKING:
    from stockledger.client.connection import Connections

PAUSE_SECONDS: Final = 0.05
PAUSE_SECONDS_MAX: Final = 1.0
"""The first pause, which doubles with every failure, and the longest. A take-over takes up to 2 s."""

_BROKEN: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
    }
)
"""Without details these are the transport's: a connection that broke, a proxy that gave up, time that ran out."""

_UNHEARD: Final = frozenset({grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})
"""Nothing came back in time: perhaps the connection leads nowhere."""
_UNTOUCHED: Final = frozenset({"NOT_LEADER", "CLOCK_UNSOUND"})
"""Told before anything was booked."""
_UNTOLD: Final = _BROKEN | {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAUTHENTICATED}
_UNTOLD_REASONS: Final = frozenset({"REQUEST_ID_EXPIRED", "REQUEST_TOO_LATE"})
"""Refusals that do not tell whether an earlier attempt was booked. Any other does: what is booked is answered again, never refused."""


class Retries:
    """The attempts of one request, or of one stream since it last came further; for one thread."""

    def __init__(self, connections: Connections, seconds: float) -> None:
        self._connections = connections
        self._seconds = seconds
        self._failures_in_a_row = 0
        self._token_renewed = False
        self._channel: grpc.Channel | None = None
        self.attempts = 0
        self.maybe_booked = False
        self.end = time.monotonic() + seconds

    @property
    def seconds_left(self) -> float:
        return self.end - time.monotonic()

    def begin(self) -> tuple[str, grpc.Channel]:
        """Begin an attempt; return the server to ask, and the channel to it.

        Raises: ValueError if the client is closed.
        """
        self.attempts += 1
        target = self._connections.target
        self._channel = self._connections.channel(target)
        return target, self._channel

    def progressed(self) -> None:
        """Begin anew: something was received."""
        self.end = time.monotonic() + self._seconds
        self._failures_in_a_row = 0
        self._token_renewed = False

    def after(self, error: LedgerError, address: str, *, beyond_log_passes: bool = False) -> None:
        """Pause before the next attempt, and choose the server.

        Raises: the error itself if it may not be tried again, or not in time.
        """
        error.attempts = self.attempts
        if error.code in _BROKEN and error.reason_name not in _UNTOUCHED:
            self.maybe_booked = True
        error.maybe_booked = self.maybe_booked and (error.code in _UNTOLD or error.reason_name in _UNTOLD_REASONS)
        lagging = beyond_log_passes and error.code is grpc.StatusCode.OUT_OF_RANGE
        if not (lagging or self._may_pass(error)) or self._connections.closed:
            raise error from None
        if error.code in _UNHEARD and self._channel is not None:
            self._connections.leave(address, self._channel)
        pause = self._pause(error, address)
        if pause >= self.seconds_left:
            raise error from None
        if pause:
            time.sleep(pause)

    def _may_pass(self, error: LedgerError) -> bool:
        if error.code is grpc.StatusCode.UNAUTHENTICATED and self._connections.renews_token and not self._token_renewed:
            self._token_renewed = True
            return True
        if isinstance(error, NoAnswer):
            return error.code in _BROKEN
        if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return error.retry_seconds > 0
        return error.code is grpc.StatusCode.UNAVAILABLE

    def _pause(self, error: LedgerError, address: str) -> float:
        """Return for how many seconds to wait. A leader that was just named is asked at once, everybody else after a random while."""
        self._failures_in_a_row += 1
        leader = error.metadata.get("leader", "") if error.reason_name == "NOT_LEADER" else ""
        if leader and self._connections.may_reach(leader):
            if self._connections.follow(leader) and self._failures_in_a_row == 1:
                return 0.0
        elif error.code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            self._connections.turn_from(address)
        longest = min(PAUSE_SECONDS * 2 ** min(self._failures_in_a_row - 1, 16), PAUSE_SECONDS_MAX)
        jitter = random.uniform(0, longest)  # noqa: S311 - so that not all clients come back at once
        return min(error.retry_seconds, PAUSE_SECONDS_MAX) + jitter if error.retry_seconds else jitter
