"""Instruments: registered, amended, halted, resumed, retired; and ISINs, over 77 real ones and every single wrong digit."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from primary_market import USDC, issue, market
from scenario import Scenario, cash, stock, two_holders
from steps import check_repeat, make_due

from ledger.arithmetic import UNITS_MAX
from ledger.rules.instruments import check_isin, isin_check_digit
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.instruments_pb2 import (
    ActionMethod,
    AmendInstrumentRequest,
    Backing,
    GetInstrumentRequest,
    HaltInstrumentRequest,
    Instrument,
    InstrumentAmended,
    InstrumentHalted,
    InstrumentKind,
    InstrumentRegistered,
    InstrumentResumed,
    InstrumentRetired,
    IssuePolicy,
    RegisterInstrumentRequest,
    ResumeInstrumentRequest,
    RetireInstrumentRequest,
)
from stockledger.v1.issuance_pb2 import CancelSubscriptionRequest, RequestSubscriptionRequest

TRANSFER, ISSUE, REDEEM = Operation.OPERATION_TRANSFER, Operation.OPERATION_ISSUE, Operation.OPERATION_REDEEM

with (Path(__file__).parent.parent / "data" / "instruments.csv").open(encoding="utf-8", newline="") as file:
    LISTED = list(csv.DictReader(file))


@pytest.fixture
def books() -> Scenario:
    return Scenario().given(*two_holders()).units("AAPLx", "book:alice", 100)


def instrument(books: Scenario, symbol: str = "AAPLx") -> Instrument:
    return books.books.execute(GetInstrumentRequest(instrument=symbol)).instrument


# ---- ISIN ----------------------------------------------------------------------------------------------------------------------------


def test_all_77_listed_isins_pass_and_every_other_check_digit_fails() -> None:
    assert len(LISTED) == 77
    for row in LISTED:
        isin = row["underlying_isin"]
        assert isin_check_digit(isin[:11]) == int(isin[11]), row["symbol"]
        assert check_isin("underlying_isin", isin) == isin
        for wrong in set("0123456789") - {isin[11]}:
            with pytest.raises(Exception, match=f"it should be {isin[11]}"):
                check_isin("underlying_isin", isin[:11] + wrong)


def test_every_single_digit_mistyped_is_caught() -> None:
    """What the Luhn digit promises: no one wrong digit goes unnoticed."""
    for row in LISTED:
        isin = row["underlying_isin"]
        for place in range(2, 11):
            if isin[place].isdigit():
                typed = isin[:place] + str((int(isin[place]) + 1) % 10) + isin[place + 1 : 11]
                assert isin_check_digit(typed) != int(isin[11]), typed


@pytest.mark.parametrize(
    ("isin", "digit"),
    [("AU0000XVGZA", 3), ("GB000263494", 6), ("US037833100", 5), ("CH139628139", 1), ("DE000BASF11", 1), ("FR000013110", 4)],
)
def test_published_isins(isin: str, digit: int) -> None:
    assert isin_check_digit(isin) == digit


def test_the_whole_list_can_be_registered(books: Scenario) -> None:
    kinds = {name.removeprefix("INSTRUMENT_KIND_").lower(): number for name, number in InstrumentKind.items()}
    new = Scenario()
    new.given(*(stock(row["symbol"], row["underlying_isin"], name=row["underlying_name"], kind=kinds[row["kind"]]) for row in LISTED))
    assert len(new.books._state.instruments) == 77
    assert instrument(new, LISTED[76]["symbol"]).number == 77


# ---- registered ----------------------------------------------------------------------------------------------------------------------


def test_a_stock_is_registered_with_the_defaults_of_its_policies() -> None:
    Scenario().when(stock(isin="US0378331005", name="Apple")).then(
        InstrumentRegistered(
            instrument=Instrument(
                symbol="AAPLx",
                number=1,
                name="Apple",
                kind=InstrumentKind.INSTRUMENT_KIND_STOCK,
                underlying_isin="US0378331005",
                decimals=8,
                backing=Backing.BACKING_CUSTODIED,
                authorised_units=10**16,
                multiplier="1000000000000000000",
                issue_policy=IssuePolicy.ISSUE_POLICY_AT_SETTLEMENT,
                split_method=ActionMethod.ACTION_METHOD_HOLDINGS,
                dividend_method=ActionMethod.ACTION_METHOD_HOLDINGS,
            )
        )
    )


def test_all_that_was_said_is_kept(books: Scenario) -> None:
    policies = {
        "issue_policy": IssuePolicy.ISSUE_POLICY_AT_FILL,
        "split_method": ActionMethod.ACTION_METHOD_MULTIPLIER,
        "dividend_method": ActionMethod.ACTION_METHOD_MULTIPLIER,
    }
    command = RegisterInstrumentRequest(
        symbol="TSLAx",
        name="Tesla tokenised",
        kind=InstrumentKind.INSTRUMENT_KIND_STOCK,
        isin="CH1396281391",
        underlying_isin="US88160R1014",
        decimals=0,
        backing=Backing.BACKING_OMNIBUS,
        authorised_units=UNITS_MAX,
        **policies,
    )
    books.when(command).accepted()
    assert instrument(books, "TSLAx") == books.booked[0].instrument
    assert books.booked[0].instrument.number == 3
    for field in ("symbol", "name", "kind", "isin", "underlying_isin", "decimals", "backing", "authorised_units", *policies):
        assert getattr(books.booked[0].instrument, field) == getattr(command, field)


def fresh(**changes: Any) -> RegisterInstrumentRequest:
    return stock(**({"symbol": "TSLAx", "isin": "US88160R1014"} | changes))


def fresh_cash(**changes: Any) -> RegisterInstrumentRequest:
    return cash("EURC", **changes)


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", fresh(symbol="", name="")),
        ("FIELD_MALFORMED", fresh(symbol="TSLA x", name="")),
        ("FIELD_MALFORMED", fresh(symbol="T" * 33, name="")),
        ("FIELD_MALFORMED", fresh(symbol="TSLAẋ", name="")),
        ("FIELD_MISSING", fresh(name="", kind=0)),
        ("FIELD_MALFORMED", fresh(name="x" * 141, kind=0)),
        ("FIELD_MISSING", fresh(kind=0, backing=99)),
        ("FIELD_MALFORMED", fresh(kind=99, backing=0)),
        ("FIELD_MISSING", fresh(backing=0, decimals=9)),
        ("FIELD_MALFORMED", fresh(backing=99)),
        ("FIELD_MALFORMED", fresh(decimals=9, authorised_units=0)),
        ("FIELD_MALFORMED", fresh(decimals=-1, authorised_units=0)),
        ("FIELD_MALFORMED", fresh(issue_policy=99, authorised_units=0)),
        ("FIELD_MALFORMED", fresh(split_method=99, authorised_units=0)),
        ("FIELD_MALFORMED", fresh(dividend_method=99, authorised_units=0)),
        ("FIELD_MALFORMED", fresh(currency="USD", authorised_units=0)),
        ("FIELD_MISSING", fresh(isin="", authorised_units=0)),
        ("FIELD_MALFORMED", fresh(isin="US0378331006", authorised_units=0)),
        ("FIELD_MALFORMED", fresh(isin="US037833100", authorised_units=0)),
        ("FIELD_MALFORMED", fresh(isin="us0378331005", authorised_units=0)),
        ("FIELD_MALFORMED", fresh(isin="1S0378331005", authorised_units=0)),
        ("UNITS_NOT_POSITIVE", fresh(authorised_units=0, symbol="AAPLx")),
        ("UNITS_NOT_POSITIVE", fresh(authorised_units=-1, symbol="AAPLx")),
        ("UNITS_OUT_OF_RANGE", fresh(authorised_units=UNITS_MAX + 1, symbol="AAPLx")),
        ("ALREADY_EXISTS", fresh(symbol="AAPLx")),
        ("FIELD_MISSING", fresh_cash(currency="", authorised_units=0)),
        ("FIELD_MALFORMED", fresh_cash(currency="eur", authorised_units=0)),
        ("FIELD_MALFORMED", fresh_cash(currency="EU", authorised_units=0)),
        ("FIELD_MALFORMED", fresh_cash(currency="E" * 11, authorised_units=0)),
        ("FIELD_MALFORMED", fresh_cash(underlying_isin="US0378331005", authorised_units=0)),
        ("FIELD_MALFORMED", fresh_cash(isin="US0378331005", authorised_units=0)),
    ],
)
def test_refusals_of_registering(books: Scenario, reason: str, command: RegisterInstrumentRequest) -> None:
    books.when(command).raises(reason)
    books.when(fresh()).accepted()
    books.when(fresh_cash()).accepted()


def test_the_tokens_own_isin_is_checked_too(books: Scenario) -> None:
    command = fresh()
    command.isin = "CH1396281392"
    books.when(command).raises("FIELD_MALFORMED", field="isin", value="CH1396281392")
    command.isin = "CH1396281391"
    books.when(command).accepted()


def test_registering_again_gets_the_first_answer(books: Scenario) -> None:
    check_repeat(books, fresh(), fresh(decimals=0))


# ---- amended -------------------------------------------------------------------------------------------------------------------------


def amend(symbol: str = "AAPLx", **changes: Any) -> AmendInstrumentRequest:
    return AmendInstrumentRequest(instrument=symbol, **changes)


def test_what_is_absent_stays(books: Scenario) -> None:
    before = instrument(books)
    books.when(amend(name="Apple")).then(InstrumentAmended(instrument="AAPLx", name="Apple"))
    before.name = "Apple"
    assert instrument(books) == before


def test_everything_that_may_change(books: Scenario) -> None:
    changes: dict[str, Any] = {
        "name": "Apple",
        "isin": "CH1396281391",
        "authorised_units": 100,
        "issue_policy": IssuePolicy.ISSUE_POLICY_AT_FILL,
        "split_method": ActionMethod.ACTION_METHOD_MULTIPLIER,
        "dividend_method": ActionMethod.ACTION_METHOD_MULTIPLIER,
    }
    books.when(amend(**changes)).then(InstrumentAmended(instrument="AAPLx", **changes))
    after = instrument(books)
    assert {field: getattr(after, field) for field in changes} == changes
    books.when(amend(isin="")).accepted()
    assert not instrument(books).isin, "an ISIN given by mistake can be taken away"


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", amend("NONEx", name="")),
        ("FIELD_MALFORMED", amend("NONEx", name="x" * 141)),
        ("FIELD_MALFORMED", amend("NONEx", isin="CH1396281392")),
        ("FIELD_MALFORMED", amend("NONEx", issue_policy=99)),
        ("FIELD_MISSING", amend("NONEx", issue_policy=0)),
        ("FIELD_MALFORMED", amend("NONEx", split_method=99)),
        ("FIELD_MALFORMED", amend("NONEx", dividend_method=99)),
        ("UNITS_NOT_POSITIVE", amend("NONEx", authorised_units=0)),
        ("UNITS_OUT_OF_RANGE", amend("NONEx", authorised_units=UNITS_MAX + 1)),
        ("FIELD_MISSING", amend("")),
        ("INSTRUMENT_NOT_FOUND", amend("NONEx")),
        ("INSTRUMENT_RETIRED", amend("OLDx")),
        ("FIELD_MALFORMED", amend("USDC", isin="CH1396281391")),
        ("AUTHORISED_EXCEEDED", amend(authorised_units=99, name="AAPLx tokenised")),
        ("NOTHING_TO_CHANGE", amend()),
        ("NOTHING_TO_CHANGE", amend(name="AAPLx tokenised", authorised_units=10**16)),
    ],
)
def test_refusals_of_amending(books: Scenario, reason: str, command: AmendInstrumentRequest) -> None:
    books.given(stock("OLDx"), RetireInstrumentRequest(instrument="OLDx"))
    books.when(command).raises(reason)
    books.when(amend(authorised_units=100)).accepted()


def test_a_limit_waits_for_a_due_split_and_a_name_does_not(books: Scenario) -> None:
    make_due(books)
    books.when(amend(authorised_units=99)).raises("ACTION_DUE")
    books.when(amend(name="Apple")).accepted()


def test_amending_again_gets_the_first_answer(books: Scenario) -> None:
    check_repeat(books, amend(name="Apple"), amend(name="Apple Inc."))


# ---- halted and resumed --------------------------------------------------------------------------------------------------------------


def halt(*operations: Any, symbol: str = "AAPLx", cause: str = "news") -> HaltInstrumentRequest:
    return HaltInstrumentRequest(instrument=symbol, operations=operations, cause=cause)


def resume(*operations: Any, symbol: str = "AAPLx", cause: str = "") -> ResumeInstrumentRequest:
    return ResumeInstrumentRequest(instrument=symbol, operations=operations, cause=cause)


def test_only_what_is_new_is_halted_and_only_what_is_halted_resumed(books: Scenario) -> None:
    books.when(halt(REDEEM, TRANSFER, REDEEM)).then(InstrumentHalted(instrument="AAPLx", operations=[TRANSFER, REDEEM], cause="news"))
    books.when(halt(ISSUE, TRANSFER)).then(InstrumentHalted(instrument="AAPLx", operations=[ISSUE], cause="news"))
    assert list(instrument(books).halted_operations) == [TRANSFER, ISSUE, REDEEM]
    books.when(resume(TRANSFER, ISSUE)).then(InstrumentResumed(instrument="AAPLx", operations=[TRANSFER, ISSUE]))
    books.when(resume(TRANSFER, REDEEM)).then(InstrumentResumed(instrument="AAPLx", operations=[REDEEM]))
    assert not instrument(books).halted_operations


@pytest.mark.parametrize(
    ("reason", "operations", "changes"),
    [
        ("FIELD_MISSING", [], {"symbol": "NONEx"}),
        ("FIELD_MISSING", [0], {"symbol": "NONEx"}),
        ("FIELD_MALFORMED", [99], {"symbol": "NONEx"}),
        ("FIELD_MALFORMED", [TRANSFER], {"symbol": "NONEx", "cause": "x" * 141}),
        ("FIELD_MISSING", [TRANSFER], {"symbol": ""}),
        ("INSTRUMENT_NOT_FOUND", [TRANSFER], {"symbol": "NONEx"}),
        ("INSTRUMENT_RETIRED", [TRANSFER], {"symbol": "OLDx"}),
    ],
)
def test_refusals_of_halting_and_resuming(books: Scenario, reason: str, operations: list[int], changes: dict[str, str]) -> None:
    books.given(stock("OLDx"), RetireInstrumentRequest(instrument="OLDx"))
    books.when(halt(*operations, **changes)).raises(reason)
    books.when(resume(*operations, **changes)).raises(reason)
    books.when(resume(TRANSFER)).raises("NOTHING_TO_CHANGE")
    books.when(halt(TRANSFER)).accepted()
    books.when(halt(TRANSFER)).raises("NOTHING_TO_CHANGE")


def test_a_halt_is_of_one_instrument(books: Scenario) -> None:
    books.given(halt(TRANSFER))
    assert not instrument(books, "USDC").halted_operations


def test_halting_and_resuming_again_get_the_first_answer(books: Scenario) -> None:
    check_repeat(books, halt(TRANSFER), halt(ISSUE))
    check_repeat(Scenario().given(*two_holders(), halt(TRANSFER)), resume(TRANSFER), resume(TRANSFER, cause="over"))


# ---- retired -------------------------------------------------------------------------------------------------------------------------


def retire(symbol: str = "TSLAx", **changes: Any) -> RetireInstrumentRequest:
    return RetireInstrumentRequest(instrument=symbol, **changes)


def test_an_empty_instrument_retires_for_ever(books: Scenario) -> None:
    books.given(fresh()).when(retire(cause="merged for cash")).then(InstrumentRetired(instrument="TSLAx", cause="merged for cash"))
    assert instrument(books, "TSLAx").retired
    books.when(retire()).raises("INSTRUMENT_RETIRED")
    books.when(fresh()).raises("ALREADY_EXISTS")


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MALFORMED", retire("NONEx", cause="x" * 141)),
        ("FIELD_MISSING", retire("")),
        ("INSTRUMENT_NOT_FOUND", retire("NONEx")),
        ("INSTRUMENT_NOT_EMPTY", retire("AAPLx")),
    ],
)
def test_refusals_of_retiring(books: Scenario, reason: str, command: RetireInstrumentRequest) -> None:
    books.given(fresh()).when(command).raises(reason)
    books.when(retire()).accepted()


def test_a_subscription_keeps_an_instrument_in_use() -> None:
    """Cash may have been taken already for units that come only at settlement."""
    books = market()
    order = RequestSubscriptionRequest(instrument="AAPLx", account="book:alice", cash_instrument="USDC", cash_units=100 * USDC)
    books.given(order).when(retire("AAPLx")).raises("INSTRUMENT_NOT_EMPTY", subscription=1)
    books.given(CancelSubscriptionRequest(subscription=1), issue(units=1)).when(retire("AAPLx")).raises("INSTRUMENT_NOT_EMPTY", supply=1)


def test_retiring_again_gets_the_first_answer(books: Scenario) -> None:
    check_repeat(books.given(fresh()), retire(), retire(cause="another"))
