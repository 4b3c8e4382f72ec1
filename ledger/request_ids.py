"""Request ids: UUIDv7 (RFC 9562 section 5.7), whose first 48 bits are milliseconds since 1970.

An id makes a retry safe. Its own time says how long it must be remembered.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import threading
from typing import Any, Final

from google.protobuf.message import Message

from ledger import vectors
from ledger.errors import refusal
from stockledger.v1.errors_pb2 import Reason

AHEAD_MS_MAX: Final = 5 * 60 * 1000
"""An id may be this far ahead of the ledger's clock."""

_TEXT_LENGTH: Final = 36
_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_HYPHENS: Final = (8, 13, 18, 23)
_VERSION: Final = 14
_VERSION_7: Final = 7
_VARIANT: Final = 19
_VARIANT_10: Final = 0b10
_DIGIT_MAX: Final = 15
_HYPHEN: Final = 255


def parse_request_id(text: str) -> bytes:
    """Return the 16 bytes of a UUIDv7 in its canonical lower-case form.

    Raises: InvalidRequest FIELD_MALFORMED.
    """
    if _UUID7.fullmatch(text) is None:
        message = f"request_id {text!r} is not a UUIDv7 in lower case"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="request_id", value=text)
    return bytes.fromhex(text.replace("-", ""))


def parse_request_ids(texts: Any) -> list[bytes] | None:
    """Return the 16 bytes of each id, or None if any is malformed: many at once cost a tenth of one by one.

    `texts` has a row for each id, of its 36 characters and whatever follows, as a numpy array of bytes.
    """
    numpy, values = vectors.numpy, _values().take(texts)
    version_and_variant = values[:, _VERSION] == _VERSION_7, values[:, _VARIANT] >> 2 == _VARIANT_10
    if not all(found.all() for found in (values[:, _HYPHENS] == _HYPHEN, *version_and_variant)):
        return None
    borders = zip((0, *(place + 1 for place in _HYPHENS)), (*_HYPHENS, _TEXT_LENGTH), strict=True)
    digits = numpy.concatenate([values[:, start:stop] for start, stop in borders], axis=1)
    if digits.max() > _DIGIT_MAX:
        return None
    pairs = digits.view("<u2")
    return vectors.cut((pairs << 4 & 0xF0 | pairs >> 8).astype(numpy.uint8).tobytes(), 16)


@functools.cache
def _values() -> Any:
    """Return the value of each byte as a hexadecimal digit, or beyond 15 for what is none."""
    values = vectors.numpy.full(256, _HYPHEN - 1, dtype=vectors.numpy.uint8)
    for value, digit in enumerate(b"0123456789abcdef"):
        values[digit] = value
    values[ord("-")] = _HYPHEN
    return values


def format_request_id(request_id: bytes) -> str:
    """Return the canonical text of 16 bytes. Example: "01932b7e-7c00-7000-8000-000000000001"."""
    digits = request_id.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def request_id_time_ms(request_id: bytes) -> int:
    """Return the milliseconds since 1970 that an id carries."""
    return int.from_bytes(request_id[:6], "big")


def request_digest(command: Message) -> bytes:
    """Return the digest by which a repeat is told from other content under the same id.

    First 16 bytes of SHA-256 over the full type name, a zero byte, and our own deterministic serialisation: what a sender's library made of
    equal messages may differ. Protobuf need not be told to be deterministic, which takes twice as long: no command has a map.
    """
    return digest_of(type(command), command.SerializeToString())


def digest_of(kind: type[Message], data: bytes) -> bytes:
    """Return the digest of a request whose serialisation is there already."""
    prefix = _PREFIXES.get(kind)
    if prefix is None:
        prefix = _PREFIXES[kind] = kind.DESCRIPTOR.full_name.encode() + b"\0"
    return hashlib.sha256(prefix + data).digest()[:16]


_PREFIXES: dict[type[Message], bytes] = {}


class RequestIds:
    """Makes request ids: 48 bits of time, 12 of a counter, 62 of randomness drawn once and counted up (RFC 9562 section 6.2)."""

    def __init__(self) -> None:
        self._tail = int.from_bytes(os.urandom(9), "big") & ((1 << 73) - 1)
        self._lock = threading.Lock()

    def make(self, time_ms: int) -> bytes:
        """Return a new id of a moment in milliseconds since 1970."""
        with self._lock:
            self._tail += 1
            tail = self._tail
        counter, random = tail >> 62 & 0xFFF, tail & ((1 << 62) - 1)
        return (time_ms << 80 | 7 << 76 | counter << 64 | 2 << 62 | random).to_bytes(16, "big")
