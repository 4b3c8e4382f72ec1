"""A page of large items ends before a client's limit of 4 MB, and the list goes on behind it."""

from __future__ import annotations

import string
from dataclasses import replace

from scenario import Scenario, account, cash, holder, stock

from ledger.reads.pages import PAGE_BYTES, count_within_bytes
from stockledger.v1.approvals_pb2 import GrantRoleRequest, ListApprovalsRequest, Role
from stockledger.v1.audit_pb2 import ListEntriesRequest
from stockledger.v1.common_pb2 import LegColumns
from stockledger.v1.eligibility_pb2 import EligibilityRule, ListEligibilityRequest, SetEligibilityRequest
from stockledger.v1.transfers_pb2 import TransferBatchRequest

LEGS = 250_000
MESSAGE_BYTES_MAX = 4 * 1024 * 1024


def test_items_are_counted_up_to_the_one_that_passes_the_mark():
    assert count_within_bytes([]) == 0
    assert count_within_bytes([1] * 10) == 10
    assert count_within_bytes([PAGE_BYTES - 1, 1, 1]) == 2
    assert count_within_bytes([PAGE_BYTES * 5, 1]) == 1


def test_pages_of_large_entries_are_bounded_and_complete():
    books = Scenario().given(stock(), cash(), holder("h-1"), account("book:a", "h-1"), account("book:b", "h-1"))
    books.units("AAPLx", "book:a", LEGS)
    numbers = [books.books._state.accounts[name].number for name in ("book:a", "book:b")]
    columns = {"sources": [numbers[0]] * LEGS, "destinations": [numbers[1]] * LEGS, "units": [1] * LEGS}
    books.books.execute(TransferBatchRequest(legs=[LegColumns(instrument="AAPLx", **columns)]))
    entries, pages, index = [], 0, 0
    while index < books.books.size:
        page = books.books.execute(ListEntriesRequest(start_index=index, page_size=1_000))
        assert 0 < page.ByteSize() < MESSAGE_BYTES_MAX
        entries += page.entries
        index = entries[-1].index + 1
        pages += 1
    assert [(e.index, e.data) for e in entries] == [(i, d) for i, _, d in books.books.log.read(0, books.books.size)]
    assert pages > 2, "250,000 legs are 4 MB"


def test_a_list_of_large_waiting_commands_is_bounded_and_complete():
    books = Scenario()
    for number in range(60):
        books.books.execute(GrantRoleRequest(principal=f"auditor-{number}", role=Role.ROLE_AUDITOR), principal="a")
    state = books.books._state
    for number, approval in list(state.approvals.items()):
        state.approvals[number] = replace(approval, content=approval.content + b"\0" * 60_000)
    found, sizes, token = [], [], ""
    while True:
        page = books.books.execute(ListApprovalsRequest(page_size=1_000, page_token=token))
        found += [approval.approval for approval in page.approvals]
        sizes.append(page.ByteSize())
        token = page.next_page_token
        if not token:
            break
    assert found == sorted(state.approvals)
    assert len(found) == 60
    assert len(sizes) == 4
    assert max(sizes) < MESSAGE_BYTES_MAX


def test_a_list_of_long_rules_is_bounded_and_complete():
    """A rule may name all 676 countries twice, which makes 5,408 bytes."""
    letters = string.ascii_uppercase
    countries = [first + second for first in letters for second in letters]
    books = Scenario().given(stock())
    longest = EligibilityRule(effective_date="2026-01-01", allowed_countries=countries, barred_countries=countries)
    books.books.execute_many([SetEligibilityRequest(instrument="AAPLx", rule=longest)] * 900)
    found, sizes, token = 0, [], ""
    while True:
        page = books.books.execute(ListEligibilityRequest(instrument="AAPLx", page_size=1_000, page_token=token))
        found += len(page.rules)
        sizes.append(page.ByteSize())
        token = page.next_page_token
        if not token:
            break
    assert found == 900
    assert max(sizes) < MESSAGE_BYTES_MAX
