"""Request ids: UUIDv7 (RFC 9562 section 5.7). An id is made once, kept with the caller's own record, and sent with every retry."""

from __future__ import annotations

import secrets
import time


def new_request_id() -> str:
    """Return a new request id: 48 bits of milliseconds since 1970, the version, and 74 random bits.

    The server refuses ids more than 5 minutes ahead of its clock, and remembers them for its window (7 days by default).

    Example: "01932b7e-7c00-7000-8000-000000000001".
    """
    number = (time.time_ns() // 1_000_000) << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62)
    digits = f"{number:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
