"""Reads of divergences: where ledger and chain disagree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.answers import timestamp
from ledger.reads.pages import page_of
from ledger.rules.chains.registration import find_chain
from stockledger.v1 import chains_pb2

if TYPE_CHECKING:
    from ledger import records
    from ledger.state import State


def divergence_message(each: records.Divergence) -> chains_pb2.Divergence:
    """Return a divergence as it stands; of its position the number is always known, hash and time where the reader told them."""
    message = chains_pb2.Divergence(
        divergence=each.divergence,
        chain=each.chain,
        instrument=each.instrument,
        account=each.account,
        kind=chains_pb2.DivergenceKind.ValueType(each.kind),
        expected=each.expected,
        found=each.found,
        position=chains_pb2.ChainPosition(number=each.position.number, hash=each.position.hash),
        transaction=each.transaction,
        halting=each.halting,
        index=each.index,
    )
    if each.position.time_us:
        message.position.time.CopyFrom(timestamp(each.position.time_us))
    return message


def list_divergences(state: State, request: chains_pb2.ListDivergencesRequest, now_us: int) -> chains_pb2.ListDivergencesResponse:
    if request.chain:
        find_chain(state, request.chain)
    wanted = (number for number, each in state.divergences.items() if request.chain in ("", each.chain))
    page, token = page_of(request, wanted, int)
    found = [divergence_message(state.divergences[number]) for number in page]
    return chains_pb2.ListDivergencesResponse(size=state.size, next_page_token=token, divergences=found)


READS = {chains_pb2.ListDivergencesRequest: list_divergences}
