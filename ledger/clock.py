"""The clock of a ledger, and the one judgement about it: whether it may be believed.

The rules never read a clock; the engine hands them the decision time. A wall clock that jumps would be written into the log for ever,
so it is held against the log (never more than 5 s behind the last decision) and against the machine's monotonic clock (never more
than 5 s ahead of what that reckons).
"""

from __future__ import annotations

import time
from typing import Final, Protocol

from ledger.errors import refusal
from stockledger.v1.errors_pb2 import Reason

TOLERANCE_US: Final = 5_000_000


class Clock(Protocol):
    """Two readings in microseconds: the wall (since 1970 UTC), and one that only ever runs forward."""

    def wall_us(self) -> int: ...
    def monotonic_us(self) -> int: ...


class SystemClock:
    """The machine's clocks."""

    def wall_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic_us(self) -> int:
        return time.monotonic_ns() // 1000


def read_time_us(wall_us: int, last_us: int, *, size: int | None = None, time_us: int | None = None) -> int:
    """Return the moment by which a read tells what goes by the clock, such as evidence that is stale; in microseconds since 1970.

    As of a size it is the decision of the last entry, `last_us`; as of a time it is that, and never to come; otherwise it is now.
    """
    if size is not None:
        return last_us
    return max(wall_us if time_us is None else min(time_us, wall_us), last_us)


class Reckoning:
    """Gives decision times from a clock, and refuses a clock that jumped."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_us = clock.wall_us() - clock.monotonic_us()

    def now_us(self, last_decision_time_us: int) -> int:
        """Return the wall's time if it may be believed.

        Slow drift is followed; a jump is not, until the ledger is opened again.

        Raises: Unavailable CLOCK_UNSOUND.
        """
        wall_us = self._clock.wall_us()
        offset_us = wall_us - self._clock.monotonic_us()
        ahead_us = offset_us - self._offset_us
        if ahead_us > TOLERANCE_US:
            message = f"the clock jumped ahead by {ahead_us} us"
            raise refusal(Reason.REASON_CLOCK_UNSOUND, message, ahead_us=ahead_us)
        if wall_us < last_decision_time_us - TOLERANCE_US:
            message = f"the clock is {last_decision_time_us - wall_us} us behind the log"
            raise refusal(Reason.REASON_CLOCK_UNSOUND, message, behind_us=last_decision_time_us - wall_us)
        self._offset_us = offset_us
        return wall_us
