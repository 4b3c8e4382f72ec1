"""Requests read from their bytes by columns: what protobuf reads from each, or nothing at all."""

from __future__ import annotations

import random
from typing import Any

import pytest
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given, settings
from hypothesis import strategies as st
from scenario import START_US, account, holder, stock

from ledger import Ledger, vectors
from ledger.request_ids import format_request_id, parse_request_id
from ledger.rules.requested_runs import read_requests
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

pytestmark = pytest.mark.skipif(vectors.numpy is None, reason="columns need numpy")

COUNT = 50
NAMES = ["book:alice", "book:bob", "book:" + "long" * 16, "book:eight8x"]
SYMBOLS = ["AAPLx", "TSLAx"]


@pytest.fixture(scope="module")
def state():
    with Ledger.open("sqlite:///:memory:", ledger_id="t") as books:
        made = [stock(SYMBOLS[0]), stock(SYMBOLS[1], "US88160R1014"), holder("h"), *(account(name, "h") for name in NAMES)]
        assert books.execute_many(made).refusals == {}
        yield books._state


def request_id_of(number: int) -> str:
    return format_request_id((START_US // 1000 << 80 | 7 << 76 | 2 << 62 | number).to_bytes(16, "big"))


def transfer(number: int, **changes: Any) -> TransferUnitsRequest:
    fields = {
        "instrument": SYMBOLS[number % 2],
        "source": NAMES[number % 4],
        "destination": NAMES[(number + 1) % 4],
        "units": 1 + number**5,
    }
    return TransferUnitsRequest(**({"request_id": request_id_of(number)} | fields | changes))


def as_protobuf_reads(state: Any, requests: list[bytes]) -> tuple[Any, ...] | None:
    """Return the columns of requests by protobuf, or None where one says something special or names what is not there."""
    read = [TransferUnitsRequest.FromString(data) for data in requests]
    plain = [
        TransferUnitsRequest(request_id=r.request_id, instrument=r.instrument, source=r.source, destination=r.destination, units=r.units)
        for r in read
    ]
    if plain != read or any(len(UnknownFieldSet(each)) for each in read) or any(each.units <= 0 for each in read):
        return None
    if not all(r.instrument in state.instruments and r.source in state.accounts and r.destination in state.accounts for r in read):
        return None
    columns = (
        [state.instruments[each.instrument].number for each in read],
        [state.accounts[each.source].number for each in read],
        [state.accounts[each.destination].number for each in read],
        [each.units for each in read],
    )
    if not any(each.request_id for each in read):
        return None, *columns
    return [parse_request_id(each.request_id) for each in read], *columns


def by_columns(state: Any, requests: list[bytes]) -> tuple[Any, ...] | None:
    found = read_requests(state, requests)
    return None if found is None else (found.request_ids, *(column.tolist() for column in found[1:]))


@pytest.mark.parametrize("named", [True, False], ids=["with ids", "without"])
def test_plain_requests_are_read(state, named):
    requests = [transfer(n, **({} if named else {"request_id": ""})).SerializeToString() for n in range(COUNT)]
    found = by_columns(state, requests)
    assert found is not None
    assert found == as_protobuf_reads(state, requests)


ODD = {
    "no id": transfer(7, request_id=""),
    "a short id": transfer(7, request_id="x"),
    "an id in capitals": transfer(7, request_id=request_id_of(0xABC).upper()),
    "an id of another version": transfer(7, request_id=request_id_of(7).replace("-7", "-4")),
    "only a check": transfer(7, validate_only=True),
    "a reference": transfer(7, reference="r"),
    "not after": transfer(7, not_after_time={"seconds": 1}),
    "no instrument": transfer(7, instrument=""),
    "an unknown instrument": transfer(7, instrument="AAPLy"),
    "an unknown account": transfer(7, source="book:alice\0"),
    "an account beyond ASCII": transfer(7, destination="book:b\u00f6b"),
    "a long name": transfer(7, destination="book:" + "long" * 40),
    "no units": transfer(7, units=0),
    "units below zero": transfer(7, units=-1),
    "units of nine bytes": transfer(7, units=1 << 60),
    "an empty request": TransferUnitsRequest(),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("place", [0, 20, COUNT - 1])
def test_at_the_least_doubt_nothing_is_read(state, odd, place):
    requests = [transfer(n).SerializeToString() for n in range(COUNT)]
    requests[place] = odd.SerializeToString()
    assert by_columns(state, requests) is None


@pytest.mark.parametrize("more", [b"\x0a\x00", b"\x10\x00", b"\x32\x0abook:alice", b"\xfa\xff\x01\x01a", b"\x38\x01", b"\x42\x01r"])
def test_a_field_too_many_is_a_doubt(state, more):
    requests = [transfer(n).SerializeToString() for n in range(COUNT)]
    requests[30] += more
    assert by_columns(state, requests) is None


@given(st.randoms(use_true_random=False), st.integers(1, 3))
@settings(max_examples=400)
def test_changed_bytes_are_read_as_protobuf_does_or_not_at_all(state, chance: random.Random, changes: int):
    requests = [transfer(n).SerializeToString() for n in range(COUNT)]
    for _ in range(changes):
        place = chance.randrange(COUNT)
        changed = bytearray(requests[place])
        at = chance.randrange(len(changed))
        changed[at : at + chance.randrange(2)] = chance.choice((b"", bytes([chance.randrange(256)]), changed[at:], changed[at - 9 : at]))
        requests[place] = bytes(changed)
    found = by_columns(state, requests)
    if found is not None:
        assert found == as_protobuf_reads(state, requests)
