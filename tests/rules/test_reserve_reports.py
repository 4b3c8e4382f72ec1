"""What a reserve feed is told: the shares that count as held, and how old the statement is that says so."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from actions import HOUR, MULTIPLIER, at, evidence, execute, set_multiplier, split, story
from on_chains import deploy, register, set_key
from scenario import Scenario, two_holders

from ledger.state import State
from stockledger.v1.chains_pb2 import ChainCapability, InstructionKind
from stockledger.v1.reserves_pb2 import ConfirmReceiptRequest, GetReserveRequest, OpenCustodyAccountRequest, Reserve

FEED = [ChainCapability.CHAIN_CAPABILITY_MINT, ChainCapability.CHAIN_CAPABILITY_RESERVE_FEED]
SHARES_E8 = 10**16


@pytest.fixture
def books() -> Scenario:
    """NVDAx with evidence of an hour before the start, and a chain with a key for everything."""
    return story(NVDAx={"book:alice": 100}).given(register(), set_key())


def told(books: Scenario) -> list[Reserve]:
    """Return what is to be told: a newer report takes the place of one that is not sent yet."""
    state: State = books.books._state
    kind = InstructionKind.INSTRUCTION_KIND_REPORT_RESERVE
    return [Reserve.FromString(each.note) for each in state.instructions.values() if each.kind == kind]


def figures(books: Scenario) -> tuple[int, Any]:
    (report,) = told(books)
    return report.reserve_shares_e8, report.as_of_time


def test_a_new_feed_is_told_what_is_known(books: Scenario) -> None:
    books.given(deploy("NVDAx", capabilities=FEED))
    assert figures(books) == (SHARES_E8, at(-1))
    books = story().given(register(), deploy("NVDAx", capabilities=FEED[:1]))
    assert told(books) == []


def test_a_feed_of_an_instrument_without_evidence_is_told_nothing() -> None:
    assert told(Scenario().given(*two_holders(), register(), deploy("AAPLx", capabilities=FEED))) == []


def test_evidence_that_says_the_same_again_is_told_as_newer(books: Scenario) -> None:
    books.given(deploy("NVDAx", capabilities=FEED)).pass_time(HOUR)
    books.given(evidence("NVDAx", hours=0.5))
    assert figures(books) == (SHARES_E8, at(0.5))


def test_another_multiplier_makes_no_statement_newer(books: Scenario) -> None:
    books.given(deploy("NVDAx", capabilities=FEED)).pass_time(HOUR)
    books.given(set_multiplier("NVDAx", 2 * 10**18))
    assert figures(books) == (SHARES_E8, at(-1))


def test_a_receipt_adds_shares_and_makes_no_statement_newer(books: Scenario) -> None:
    books.given(deploy("NVDAx", capabilities=FEED)).pass_time(HOUR)
    receipt = ConfirmReceiptRequest(custody_account="bank/NVDAx", shares_e8=500, settled_time=at(0.5), reference="DTC 1")
    books.given(receipt)
    assert figures(books) == (SHARES_E8 + 500, at(-1))


def test_the_oldest_of_several_statements_counts(books: Scenario) -> None:
    books.given(deploy("NVDAx", capabilities=FEED)).pass_time(HOUR)
    second = evidence("NVDAx", shares_e8=7, hours=-30)
    second.statement = second.statement.replace(b"bank/NVDAx", b"bank/second")
    second.document_hash = hashlib.sha256(second.statement).digest()
    opened = OpenCustodyAccountRequest(custody_account="bank/second", custodian="bank", isin="US67066G1040", instrument="NVDAx")
    books.given(opened, second)
    assert figures(books) == (SHARES_E8 + 7, at(-30))
    assert books.books.execute(GetReserveRequest(instrument="NVDAx")).reserve.as_of_time == at(-30)


def test_after_a_split_nothing_counts_until_it_is_renewed(books: Scenario) -> None:
    books.given(deploy("NVDAx", capabilities=FEED), split(method=MULTIPLIER)).pass_time(2 * HOUR)
    books.when(execute(), approver="approver").accepted()
    assert figures(books) == (0, at(-1))
    books.given(evidence("NVDAx", shares_e8=10 * SHARES_E8, share_basis=1, hours=1.9))
    assert figures(books) == (10 * SHARES_E8, at(1.9))
