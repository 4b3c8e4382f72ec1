"""Pages of a list: every key once, in order, and without sorting a whole table for each."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import LedgerError
from ledger.reads.pages import PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, page_of
from stockledger.v1.holds_pb2 import ListHoldsRequest


def walk(keys: Any, key_of: Any, size: int) -> list[list[Any]]:
    """Return all pages of a list."""
    pages, token = [], ""
    while True:
        page, token = page_of(ListHoldsRequest(page_size=size, page_token=token), iter(keys), key_of)
        pages.append(page)
        if not token:
            return pages


@given(keys=st.sets(st.integers(1, 10**6)) | st.sets(st.text(min_size=1, alphabet="abz/:-09")), size=st.integers(1, 7))
def test_pages_are_the_sorted_keys_cut_up(keys: set[Any], size: int) -> None:
    key_of = int if keys and isinstance(next(iter(keys)), int) else str
    pages = walk(keys, key_of, size)
    assert [key for page in pages for key in page] == sorted(keys)
    assert all(len(page) == size for page in pages[:-1])


class Counted(str):
    """A name that counts how often it is compared."""

    __slots__ = ()
    comparisons = 0

    def __lt__(self, other: str) -> bool:
        Counted.comparisons += 1
        return str.__lt__(self, other)


def test_a_page_costs_about_one_comparison_a_key() -> None:
    """Sorting 20,000 names takes some 260,000 comparisons; the 101 smallest of them take 20,000 and a few for each that comes up."""
    keys = [Counted(f"book:{number}") for number in range(20_000)]
    random.Random(5).shuffle(keys)
    page, token = page_of(ListHoldsRequest(), keys)
    assert (page, token) == (sorted(map(str, keys))[:PAGE_SIZE_DEFAULT], page[-1])
    assert Counted.comparisons < 2 * len(keys)


@pytest.mark.parametrize("size", [-1, PAGE_SIZE_MAX + 1])
def test_a_page_size_out_of_range_is_refused(size: int) -> None:
    with pytest.raises(LedgerError, match=f"page_size is {size}"):
        page_of(ListHoldsRequest(page_size=size), [1, 2], int)


def test_a_token_of_another_list_is_refused() -> None:
    with pytest.raises(LedgerError, match="page_token"):
        page_of(ListHoldsRequest(page_token="book:alice"), [1, 2], int)
