"""A reserve, from a custodian's signed statement to what a contract of somebody else's reads on a real node."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("web3", reason="web3 is not installed: pip install 'stockledger[evm]'")

from chain_worker_process import wait_until
from evm_node import ROOT, run_javascript
from evm_rig import EvmRig
from google.protobuf.timestamp_pb2 import Timestamp

from chain_adapters.conformance_market import MULTIPLIER, SYMBOL, Market, evidence
from chain_adapters.fault_proxy import FaultProxy
from ledger.errors import InvalidRequest
from stockledger.v1.corporate_actions_pb2 import ActionTerms, AnnounceActionRequest, ExecuteActionRequest, StockSplit
from stockledger.v1.instruments_pb2 import ActionMethod
from stockledger.v1.reserves_pb2 import GetReserveRequest, Reserve

SHARES = 1_000_000
"""What the kit's custodian states at first."""


@pytest.fixture
def market() -> Iterator[Market]:
    with EvmRig() as rig, contextlib.closing(Market(rig)) as market:
        market.settle()
        yield market


def feed(market: Market) -> dict[str, Any]:
    """Read the feed with ethers, by AggregatorV3Interface alone."""
    address = market.rig.options()[f"reserve_feed:{SYMBOL}"]
    found: dict[str, Any] = run_javascript(ROOT / "tests" / "evm" / "read_feed.cjs", market.rig.node_url, address)
    return found


def reserve(market: Market) -> Reserve:
    return market.call(GetReserveRequest(instrument=SYMBOL)).reserve


def latest(market: Market) -> tuple[int, int]:
    """Return the shares that the feed tells, and of when, once everything is carried out; they are what the ledger says of itself."""
    market.settle()
    seen, known = feed(market), reserve(market)
    assert seen["decimals"] == 8
    told = int(seen["latest"]["answer"]), seen["latest"]["updated_at"]
    assert told == (known.reserve_shares_e8, known.as_of_time.ToSeconds())
    return told


def split(market: Market) -> None:
    """Split two for one by the multiplier."""
    soon = Timestamp()
    soon.FromMicroseconds(time.time_ns() // 1000 + 300_000)
    announcement = AnnounceActionRequest(
        action="SPLIT-1",
        instrument=SYMBOL,
        ex_date="2026-11-22",
        record_date="2026-11-22",
        payment_date="2026-11-23",
        execution_time=soon,
        method=ActionMethod.ACTION_METHOD_MULTIPLIER,
        terms=ActionTerms(stock_split=StockSplit(new_shares=2, old_shares=1)),
    )
    market.do(announcement)

    def executed() -> bool:
        with contextlib.suppress(InvalidRequest):  # its moment has not come
            market.do(ExecuteActionRequest(action="SPLIT-1"))
            return True
        return False

    wait_until(executed, 20, "the split is not executed")


def test_what_a_custodian_signs_is_what_others_read(market: Market) -> None:
    first = latest(market)
    assert first[0] == SHARES * 10**8, "a new token's feed is told what is known already"
    market.do(evidence(SHARES))
    renewed = latest(market)
    assert renewed[0] == first[0]
    assert feed(market)["round"] == 2, "the same figure again, of a newer statement, is a newer round"
    market.do(evidence(SHARES + 5))
    assert latest(market)[0] == (SHARES + 5) * 10**8
    market.set_multiplier(MULTIPLIER, 2 * MULTIPLIER)
    assert latest(market)[1] == reserve(market).evidence[0].as_of_time.ToSeconds(), "no step of the multiplier makes a statement newer"


def test_after_a_split_nothing_is_told_to_be_there_until_it_is_stated_anew(market: Market) -> None:
    before = latest(market)
    split(market)
    assert latest(market) == (0, before[1]), "shares of the old size count for nothing, and nobody calls that fresh"
    assert market.rig.controls(market.token).multiplier_next == 2 * MULTIPLIER
    market.do(evidence(2 * SHARES, share_basis=1))
    after = latest(market)
    assert after[0] == 2 * SHARES * 10**8
    assert after[1] >= before[1]
    assert [int(each["answer"]) for each in feed(market)["rounds"]] == [SHARES * 10**8, 0, 2 * SHARES * 10**8]
    assert [each.divergence_count for each in market.reconcile()] == [0]


def test_every_statement_is_a_round_once_though_answers_are_lost(market: Market) -> None:
    rounds = feed(market)["round"]
    with FaultProxy(market.rig.node_url, share=0.2, seed=3, faults=("lose", "repeat", "refuse")) as proxy:
        market.url = proxy.url
        for step in range(1, 4):
            market.do(evidence(SHARES + step))
            market.settle()
        market.url = None
    assert latest(market)[0] == (SHARES + 3) * 10**8
    assert feed(market)["round"] == rounds + 3
