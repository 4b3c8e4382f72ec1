"""A list can be narrowed down by names. One of nothing that there is is refused: an empty list would say that there is nothing of it."""

from __future__ import annotations

from typing import Any

import pytest
from scenario import Scenario, stock

from ledger.reads import READS

UNKNOWN = {
    "instrument": ("NONEx", "INSTRUMENT_NOT_FOUND"),
    "account": ("book:nobody", "ACCOUNT_NOT_FOUND"),
    "holder": ("h-9", "HOLDER_NOT_FOUND"),
    "action": ("NONE", "ACTION_NOT_FOUND"),
    "chain": ("eip155:999", "CHAIN_NOT_FOUND"),
    "place": ("eip155:999", "CHAIN_NOT_FOUND"),
}
OF_NOTHING_REGISTERED = {"principal", "country", "broker", "page_token"}
FILTERS = [
    (request, field.name)
    for request in READS
    for field in request.DESCRIPTOR.fields
    if request.DESCRIPTOR.name.startswith("List") and field.type == field.TYPE_STRING and field.name not in OF_NOTHING_REGISTERED
]


@pytest.mark.parametrize(("request_type", "field"), FILTERS, ids=lambda value: getattr(value, "__name__", value))
def test_an_unknown_name_is_refused(request_type: Any, field: str) -> None:
    name, reason = UNKNOWN[field]
    Scenario().given(stock()).when(request_type(**{field: name})).raises(reason)
