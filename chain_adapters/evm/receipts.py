"""Receipts of transactions: they tell of every log, and with a call made again why one reverted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from chain_adapters.evm import steps
from chain_adapters.evm.chain_view import ChainView
from chain_adapters.evm.landing import Landed
from chain_adapters.evm.node import NodeNonsense, NodeRefused, RawLog, read_number
from chain_adapters.evm.preparing import outcome_of
from chain_adapters.evm.steps import Places, address_of
from chain_adapters.evm.token_calls import TOKEN
from chain_adapters.evm.transactions import read_payload
from stockledger.v1.chains_pb2 import ChainFailure


def check_logs(receipt: Mapping[str, Any], told: Sequence[RawLog], addresses: Collection[str]) -> None:
    """Hold the logs of a transaction against its receipt: a node that leaves some out is found out.

    Raises: NodeNonsense.
    """
    try:
        expected = [read_number(log["logIndex"]) for log in receipt["logs"] if str(log["address"]).lower() in addresses]
    except (KeyError, TypeError) as error:
        raise NodeNonsense(f"a receipt has a log that lacks {error}") from error
    if expected != [log.index for log in told]:
        name = receipt["transactionHash"]
        raise NodeNonsense(f"logs are partial: {name} has logs {expected} of ours, told were {[log.index for log in told]}")


def failure_of(view: ChainView, landed: Landed, receipt: Mapping[str, Any], places: Places) -> tuple[ChainFailure.ValueType, str]:
    """Return why a transaction of ours reverted: what it says when it is asked again at its own block, and the one before.

    Raises: NodeError.
    """
    content = read_payload(landed.version.payload)
    failure, text = ChainFailure.CHAIN_FAILURE_OTHER, "reverted, and would not if it were sent again"
    if read_number(receipt["gasUsed"]) == content.gas_limit:
        text = f"all of its {content.gas_limit} gas was used up"
    contract = steps.ANCHOR if content.target == places.anchor else TOKEN
    contract = steps.FEED if content.target in places.feeds.values() else contract
    for number in (landed.number - 1, landed.number):
        try:
            view.call(content.target, content.data, sender=address_of(landed.version.key), at=number)
        except NodeRefused as refused:
            failure, text = outcome_of(contract, refused)
            break
    return ChainFailure.CHAIN_FAILURE_IN_COMPANY if len(landed.version.instructions) > 1 else failure, text
