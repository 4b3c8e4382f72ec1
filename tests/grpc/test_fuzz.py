"""Thousands of hostile requests in every run, a million in the soak: no crash, no INTERNAL, no memory that grows with them."""

from __future__ import annotations

import os

import pytest
from durable import fund, open_funded, url_of
from fuzzing import bear, check_books
from grpc_server_thread import GRANTS, METHODS, book, broker_holder
from hostile_requests import Hostility
from scenario import account, cash, check_invariants

from ledger import Ledger
from stockledger.v1.approvals_pb2 import GrantRoleRequest

SEED = int(os.environ.get("STOCKLEDGER_FUZZ_SEED", "20261122"))
GROWTH_KB_MAX = 30_000
"""What caches may take once the server is warm: tokens, principals, permissions, gRPC's own pools."""
ENTRY_KB = 1.5
"""What an entry may cost in memory: hostile requests that are booked are in the books for ever."""


@pytest.fixture
def store(tmp_path):
    url = url_of(tmp_path)
    with open_funded(url) as books:
        book(books, cash())
        for name in ("alice", "bob"):
            book(books, broker_holder("broker-a", name), account(f"book:broker-a/{name}", f"broker-a/{name}"))
            fund(books, "AAPLx", f"book:broker-a/{name}", 1_000_000)
            fund(books, "USDC", f"book:broker-a/{name}", 1_000_000)
        for principal, (role, scope) in GRANTS.items():
            book(books, GrantRoleRequest(principal=principal, role=role, scope=scope))
    return url


def test_the_same_seed_makes_the_same_requests():
    first, second = Hostility(7), Hostility(7)
    pairs = [(first.next(), second.next()) for _ in range(300)]
    assert all(a[0] == b[0] for a, b in pairs)
    assert sum(a[1] == b[1] for a, b in pairs) > 50, "but for request ids"
    assert {a[0] for a, _ in [(first.next(), 0) for _ in range(2_000)]} == set(METHODS)


def check_borne(store, count, seed):
    before = check_books(store)
    borne = bear(store, count, seed)
    booked = check_books(store) - before
    print(f"{count} requests, seed {seed}: {dict(borne.codes)}; {booked} entries booked; resident {borne.resident_kb} kB")
    assert borne.faults == []
    assert sum(borne.codes.values()) == count
    assert {"OK", "INVALID_ARGUMENT", "PERMISSION_DENIED", "NOT_FOUND", "FAILED_PRECONDITION"} <= borne.codes.keys()
    with Ledger.open(store) as books:
        check_invariants(books._state)
    warm, last = borne.resident_kb[len(borne.resident_kb) // 2], borne.resident_kb[-1]
    assert last - warm < GROWTH_KB_MAX + ENTRY_KB * booked, borne.resident_kb


def test_thousands_of_hostile_requests(store):
    check_borne(store, 4_000, SEED)


@pytest.mark.soak
@pytest.mark.timeout(7_200)
def test_a_million_hostile_requests(store):
    check_borne(store, 1_000_000, SEED + 1)
