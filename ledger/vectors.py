"""Columns of integers, whole: numpy where it is installed (the extra "fast"), the array module where it is not.

Whoever computes on whole columns asks `numpy is not None` and has a loop beside it that gives the same result.
"""

from __future__ import annotations

import itertools
import sys
from array import array
from typing import TYPE_CHECKING, Any, Final

try:
    import numpy as _numpy
except ImportError:
    _numpy = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Sequence

numpy: Any = _numpy
"""None where it is not installed."""

WORTHWHILE: Final = 48
"""From this many items on, work on whole columns beats a loop."""

_BYTES: Final = {"i": 4, "q": 8}


def worthwhile(count: int) -> bool:
    """Return whether this many items should be worked on as whole columns."""
    return numpy is not None and count >= WORTHWHILE


def int64s(column: Sequence[int]) -> Any:
    """Return a numpy copy of a column of integers that fit 64 bits; a packed field costs 1 ns an item."""
    return numpy.array(column, dtype=numpy.int64)


def view_of(column: array[int]) -> Any:
    """Return a numpy view of a column of the books. The column cannot grow while it lives: never keep it, never raise past it."""
    return numpy.frombuffer(column, dtype=numpy.int64 if column.itemsize == 8 else numpy.int32)


def compress(column: array[int], chosen: array[int]) -> array[int]:
    """Return a new column of those items of a column for which another one is not 0."""
    if numpy is None:
        return array(column.typecode, itertools.compress(column, chosen))
    return array(column.typecode, view_of(column)[view_of(chosen) != 0].tobytes())


def cut(data: bytes, width: int) -> list[bytes]:
    """Return the pieces of so many bytes each that make up the data."""
    if numpy is None or not data:
        return [data[start : start + width] for start in range(0, len(data), width)]
    pieces: list[bytes] = numpy.frombuffer(data, dtype=f"V{width}").tolist()
    return pieces


def exact_sum(values: Any) -> int:
    """Return the sum of a numpy column of non-negative integers, however large: halves of 32 bits cannot overflow."""
    return (int((values >> 32).sum()) << 32) + int((values & 0xFFFFFFFF).sum())


def little_endian(column: Sequence[int], typecode: str) -> bytes:
    """Return a column's values as a packed fixed-width protobuf field has them; typecode "i" is 4 bytes each, "q" is 8."""
    if numpy is not None:
        return bytes(numpy.array(column, dtype=f"<i{_BYTES[typecode]}").tobytes())
    values = array(typecode, column)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def packed_field(number: int, values: bytes) -> bytes:
    """Return a packed field as it stands on the wire: tag, length, values (protobuf.dev/programming-guides/encoding).

    Parsing this is a copy; setting the same field from Python integers costs 40 ns each.
    Example: `packed_field(4, b"...8 bytes...")` begins with the bytes 0x22 0x08.
    """
    assert number < 16, "the tag is one byte"
    length = len(values)
    head = bytearray((number << 3 | 2,))
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + values
