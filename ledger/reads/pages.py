"""Pages of a list: how many, and from where on. A page token is the last key of the page before."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any, Final

from ledger.errors import refusal
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PAGE_SIZE_DEFAULT: Final = 100
PAGE_SIZE_MAX: Final = 1_000
PAGE_BYTES: Final = 1024 * 1024
"""A page of large items ends with the one that passes this mark: a client takes messages of 4 MB unless told otherwise, and an item has
65,535 bytes at most."""


def page_size_of(request: Any) -> int:
    """Return how many items a page may have."""
    size = request.page_size
    if not 0 <= size <= PAGE_SIZE_MAX:
        message = f"page_size is {size}, it must be 0 to {PAGE_SIZE_MAX}"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="page_size", value=size)
    return int(size) or PAGE_SIZE_DEFAULT


def page_of(request: Any, keys: Iterable[Any], key_of: Callable[[str], Any] = str) -> tuple[list[Any], str]:
    """Return the keys of one page, the smallest that come after the page token, in order, and the token of the next page.

    One look at each key: a table of 100,000 is not sorted whole to give 100 of them.
    """
    size = page_size_of(request)
    token = request.page_token
    if token:
        try:
            after = key_of(token)
        except ValueError as error:
            raise refusal(Reason.REASON_FIELD_MALFORMED, f"page_token {token!r} is not one of this list", field="page_token") from error
        keys = (key for key in keys if key > after)
    page = heapq.nsmallest(size + 1, keys)
    if len(page) <= size:
        return page, ""
    return page[:size], str(page[size - 1])


def count_within_bytes(lengths: Iterable[int]) -> int:
    """Return how many items of these lengths, in bytes, make a page. Example: `count_within_bytes([700_000, 700_000, 1]) == 2`."""
    count = taken = 0
    for length in lengths:
        if taken >= PAGE_BYTES:
            break
        taken += length
        count += 1
    return count
