"""Freezes of holders, accounts and units: what they refuse, what they stop, and what they let pass."""

from __future__ import annotations

from typing import Any

import pytest
from scenario import Scenario, account, enforcer, stock, two_holders
from steps import check_repeat, make_due

from ledger.arithmetic import UNITS_MAX
from stockledger.v1.accounts_pb2 import (
    AccountFrozen,
    AccountUnfrozen,
    CloseAccountRequest,
    FreezeAccountRequest,
    FreezeHolderRequest,
    FreezeUnitsRequest,
    GetHolderRequest,
    GetHoldingRequest,
    HolderFrozen,
    HolderUnfrozen,
    OpenAccountRequest,
    UnfreezeAccountRequest,
    UnfreezeHolderRequest,
    UnfreezeUnitsRequest,
    UnitsFrozen,
    UnitsUnfrozen,
)
from stockledger.v1.holds_pb2 import ExecuteHoldRequest, PlaceHoldRequest, ReleaseHoldRequest
from stockledger.v1.transfers_pb2 import ForceTransferRequest, TransferUnitsRequest

LAW = "OFAC 2026-11"


def transfer(units: int = 40, source: str = "book:alice", destination: str = "book:bob") -> TransferUnitsRequest:
    return TransferUnitsRequest(instrument="AAPLx", source=source, destination=destination, units=units)


def freeze_holder(**changes: Any) -> FreezeHolderRequest:
    return FreezeHolderRequest(**({"holder": "h-1", "legal_reference": LAW} | changes))


def unfreeze_holder(**changes: Any) -> UnfreezeHolderRequest:
    return UnfreezeHolderRequest(**({"holder": "h-1", "legal_reference": "OFAC delisting"} | changes))


def freeze_account(**changes: Any) -> FreezeAccountRequest:
    return FreezeAccountRequest(**({"account": "book:alice", "legal_reference": LAW} | changes))


def unfreeze_account(**changes: Any) -> UnfreezeAccountRequest:
    return UnfreezeAccountRequest(**({"account": "book:alice", "legal_reference": "lifted"} | changes))


def freeze_units(**changes: Any) -> FreezeUnitsRequest:
    return FreezeUnitsRequest(**({"instrument": "AAPLx", "account": "book:alice", "units": 70, "legal_reference": LAW} | changes))


def unfreeze_units(**changes: Any) -> UnfreezeUnitsRequest:
    return UnfreezeUnitsRequest(**({"instrument": "AAPLx", "account": "book:alice", "legal_reference": "lifted"} | changes))


@pytest.fixture
def books() -> Scenario:
    return Scenario().given(*two_holders()).units("AAPLx", "book:alice", 100)


# ---- holders -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", freeze_holder(holder="", legal_reference="x" * 141)),
        ("FIELD_MISSING", freeze_holder(legal_reference="", holder="h-9")),
        ("FIELD_MALFORMED", freeze_holder(legal_reference="x" * 141, holder="h-9")),
        ("HOLDER_NOT_FOUND", freeze_holder(holder="h-9")),
    ],
)
def test_refusals_of_freezing_a_holder(books: Scenario, reason: str, command: FreezeHolderRequest) -> None:
    books.when(command).raises(reason)
    books.when(freeze_holder(legal_reference="x" * 140)).then(HolderFrozen(holder="h-1", legal_reference="x" * 140))


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", unfreeze_holder(holder="", legal_reference="x" * 141)),
        ("FIELD_MISSING", unfreeze_holder(legal_reference="", holder="h-9")),
        ("FIELD_MALFORMED", unfreeze_holder(legal_reference="x" * 141, holder="h-9")),
        ("HOLDER_NOT_FOUND", unfreeze_holder(holder="h-9")),
        ("NOTHING_TO_CHANGE", unfreeze_holder(holder="h-2")),
    ],
)
def test_refusals_of_unfreezing_a_holder(books: Scenario, reason: str, command: UnfreezeHolderRequest) -> None:
    books.given(freeze_holder()).when(command).raises(reason)
    books.when(unfreeze_holder()).then(HolderUnfrozen(holder="h-1", legal_reference="OFAC delisting"))


def test_a_frozen_holder_gives_and_takes_nothing_on_any_account(books: Scenario) -> None:
    books.given(account("book:alice-2", "h-1"), transfer(10, destination="book:alice-2"), transfer(10))
    books.given(freeze_holder())
    for source, destination in (("book:alice", "book:bob"), ("book:alice-2", "book:bob"), ("book:bob", "book:alice")):
        books.when(transfer(1000, source, destination)).raises("HOLDER_FROZEN", holder="h-1", legal_reference=LAW)
    books.when(OpenAccountRequest(account="book:alice-3", holder="h-1")).raises("HOLDER_FROZEN")
    books.when(transfer(5, "book:bob", "book:fees")).accepted()
    books.given(unfreeze_holder()).when(transfer(80)).accepted()
    books.when(OpenAccountRequest(account="book:alice-3", holder="h-1")).accepted()


def test_an_account_opened_before_a_freeze_is_no_way_around_it(books: Scenario) -> None:
    books.given(freeze_holder(holder="h-2"))
    books.when(transfer()).raises("HOLDER_FROZEN", holder="h-2")
    books.when(transfer(destination="book:fees")).accepted()


def test_another_ground_replaces_the_first_and_the_same_one_does_not(books: Scenario) -> None:
    books.given(freeze_holder()).when(freeze_holder()).raises("NOTHING_TO_CHANGE", holder="h-1")
    books.when(freeze_holder(legal_reference="EU 2026/7")).accepted()
    assert books.books.execute(GetHolderRequest(holder="h-1")).holder.freeze_reference == "EU 2026/7"


def test_a_freeze_reaches_holds(books: Scenario) -> None:
    books.given(PlaceHoldRequest(instrument="AAPLx", account="book:alice", units=30))
    execute = ExecuteHoldRequest(hold=1, destination="book:bob", units=10)
    for freeze, reason, unfreeze in (
        (freeze_holder(), "HOLDER_FROZEN", unfreeze_holder()),
        (freeze_account(), "ACCOUNT_FROZEN", unfreeze_account()),
        (freeze_holder(holder="h-2"), "HOLDER_FROZEN", unfreeze_holder(holder="h-2")),
    ):
        books.given(freeze).when(execute).raises(reason)
        books.given(unfreeze)
    books.given(freeze_account())
    books.when(PlaceHoldRequest(instrument="AAPLx", account="book:alice", units=5)).raises("ACCOUNT_FROZEN")
    books.when(ReleaseHoldRequest(hold=1)).accepted()
    books.given(unfreeze_account(), PlaceHoldRequest(instrument="AAPLx", account="book:alice", units=30))
    books.when(ExecuteHoldRequest(hold=2, destination="book:bob", units=10)).accepted()


# ---- accounts ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", freeze_account(account="", legal_reference="x" * 141)),
        ("FIELD_MISSING", freeze_account(legal_reference="", account="book:nobody")),
        ("FIELD_MALFORMED", freeze_account(legal_reference="x" * 141, account="book:nobody")),
        ("ACCOUNT_NOT_FOUND", freeze_account(account="book:nobody")),
        ("ACCOUNT_RESERVED", freeze_account(account="ledger:issuance")),
        ("ACCOUNT_CLOSED", freeze_account(account="book:closed")),
    ],
)
def test_refusals_of_freezing_an_account(books: Scenario, reason: str, command: FreezeAccountRequest) -> None:
    books.given(account("book:closed", "h-1"), CloseAccountRequest(account="book:closed"))
    books.when(command).raises(reason)
    books.when(freeze_account()).then(AccountFrozen(account="book:alice", legal_reference=LAW))
    books.when(freeze_account()).raises("NOTHING_TO_CHANGE")


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", unfreeze_account(account="", legal_reference="x" * 141)),
        ("FIELD_MISSING", unfreeze_account(legal_reference="", account="book:nobody")),
        ("FIELD_MALFORMED", unfreeze_account(legal_reference="x" * 141, account="book:nobody")),
        ("ACCOUNT_NOT_FOUND", unfreeze_account(account="book:nobody")),
        ("ACCOUNT_RESERVED", unfreeze_account(account="ledger:issuance")),
        ("NOTHING_TO_CHANGE", unfreeze_account(account="book:bob")),
    ],
)
def test_refusals_of_unfreezing_an_account(books: Scenario, reason: str, command: UnfreezeAccountRequest) -> None:
    books.given(freeze_account()).when(command).raises(reason)
    books.when(unfreeze_account()).then(AccountUnfrozen(account="book:alice", legal_reference="lifted"))


def test_a_frozen_account_does_not_stop_the_holders_others(books: Scenario) -> None:
    books.given(account("book:alice-2", "h-1"), transfer(10, destination="book:alice-2"), freeze_account())
    books.when(transfer(1000)).raises("ACCOUNT_FROZEN", account="book:alice", legal_reference=LAW)
    books.when(transfer(1000, "book:alice-2", "book:alice")).raises("ACCOUNT_FROZEN", account="book:alice")
    books.when(transfer(10, "book:alice-2")).accepted()
    books.given(freeze_holder(), unfreeze_holder()).when(transfer()).raises("ACCOUNT_FROZEN")
    books.given(unfreeze_account()).when(transfer()).accepted()


def test_force_passes_a_freeze(books: Scenario) -> None:
    books.given(enforcer(), freeze_account(), freeze_holder(), freeze_units(units=1000))
    force = ForceTransferRequest(
        instrument="AAPLx", source="book:alice", destination="book:bob", units=100, legal_reference="court order 12/2026", cause="seizure"
    )
    books.when(force, principal="enforcer", approver="judge").accepted()
    assert books.holding("AAPLx", "book:bob") == 100


# ---- units ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", freeze_units(instrument="", units=0)),
        ("FIELD_MISSING", freeze_units(account="", units=0)),
        ("UNITS_NOT_POSITIVE", freeze_units(units=0, instrument="NONEx")),
        ("UNITS_NOT_POSITIVE", freeze_units(units=-1)),
        ("UNITS_OUT_OF_RANGE", freeze_units(units=UNITS_MAX + 1, instrument="NONEx")),
        ("FIELD_MISSING", freeze_units(legal_reference="", instrument="NONEx")),
        ("FIELD_MALFORMED", freeze_units(legal_reference="x" * 141, instrument="NONEx")),
        ("INSTRUMENT_NOT_FOUND", freeze_units(instrument="NONEx", account="book:nobody")),
        ("ACCOUNT_NOT_FOUND", freeze_units(account="book:nobody")),
        ("ACCOUNT_RESERVED", freeze_units(account="ledger:issuance")),
        ("ACCOUNT_CLOSED", freeze_units(account="book:closed")),
    ],
)
def test_refusals_of_freezing_units(books: Scenario, reason: str, command: FreezeUnitsRequest) -> None:
    books.given(account("book:closed", "h-1"), CloseAccountRequest(account="book:closed"))
    books.when(command).raises(reason)
    books.when(freeze_units()).then(UnitsFrozen(instrument="AAPLx", account="book:alice", units=70, legal_reference=LAW))
    books.when(freeze_units()).raises("NOTHING_TO_CHANGE")


def test_a_number_of_units_waits_for_a_due_split(books: Scenario) -> None:
    books.given(account("book:closed", "h-1"), CloseAccountRequest(account="book:closed"), freeze_units())
    make_due(books)
    books.when(freeze_units(account="book:closed")).raises("ACTION_DUE")
    books.when(unfreeze_units()).accepted()


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", unfreeze_units(instrument="", legal_reference="x" * 141)),
        ("FIELD_MISSING", unfreeze_units(account="", legal_reference="x" * 141)),
        ("FIELD_MISSING", unfreeze_units(legal_reference="", instrument="NONEx")),
        ("FIELD_MALFORMED", unfreeze_units(legal_reference="x" * 141, instrument="NONEx")),
        ("INSTRUMENT_NOT_FOUND", unfreeze_units(instrument="NONEx", account="book:nobody")),
        ("ACCOUNT_NOT_FOUND", unfreeze_units(account="book:nobody")),
        ("ACCOUNT_RESERVED", unfreeze_units(account="ledger:issuance")),
        ("FREEZE_NOT_FOUND", unfreeze_units(account="book:bob")),
        ("FREEZE_NOT_FOUND", unfreeze_units(instrument="USDC")),
    ],
)
def test_refusals_of_unfreezing_units(books: Scenario, reason: str, command: UnfreezeUnitsRequest) -> None:
    books.given(freeze_units()).when(command).raises(reason)
    books.when(unfreeze_units()).then(UnitsUnfrozen(instrument="AAPLx", account="book:alice", units=70, legal_reference="lifted"))
    books.when(unfreeze_units()).raises("FREEZE_NOT_FOUND")


def test_frozen_units_stay_behind(books: Scenario) -> None:
    books.given(freeze_units(units=70))
    books.when(transfer(31)).raises("UNITS_INSUFFICIENT", free=30, needed=31, holding=100, held=0, frozen=70)
    books.when(transfer(30)).accepted()
    books.when(transfer(1)).raises("UNITS_INSUFFICIENT", free=0)


def test_a_later_number_replaces_an_earlier_one(books: Scenario) -> None:
    books.given(freeze_units(units=70), freeze_units(units=20)).when(transfer(81)).raises("UNITS_INSUFFICIENT", free=80, frozen=20)
    books.when(transfer(80)).accepted()
    books.when(freeze_units(units=20, legal_reference="garnishment 7/2026")).accepted()


def test_more_may_be_frozen_than_there_is_and_then_what_comes_is_caught(books: Scenario) -> None:
    books.given(freeze_units(units=150)).when(transfer(1)).raises("UNITS_INSUFFICIENT", free=0, frozen=150)
    books.units("AAPLx", "book:bob", 60).given(transfer(60, "book:bob", "book:alice"))
    books.when(transfer(11)).raises("UNITS_INSUFFICIENT", free=10, holding=160)
    books.when(transfer(10)).accepted()
    holding = books.books.execute(GetHoldingRequest(instrument="AAPLx", account="book:alice")).holding
    assert (holding.units, holding.frozen_units, holding.free_units) == (150, 150, 0)


def test_units_can_be_frozen_before_there_are_any(books: Scenario) -> None:
    books.given(account("book:new", "h-2"), freeze_units(account="book:new", units=40), transfer(50, destination="book:new"))
    books.when(transfer(11, "book:new")).raises("UNITS_INSUFFICIENT", free=10)
    books.when(transfer(10, "book:new")).accepted()


def test_a_freeze_of_units_is_of_one_instrument_and_one_account(books: Scenario) -> None:
    books.given(stock("TSLAx", "US88160R1014"), freeze_units(instrument="TSLAx"), freeze_units(account="book:bob"))
    books.when(transfer(100)).accepted()


def test_frozen_units_keep_an_account_open(books: Scenario) -> None:
    books.given(account("book:new", "h-2"), freeze_units(account="book:new"))
    books.when(CloseAccountRequest(account="book:new")).raises("ACCOUNT_NOT_EMPTY", units=0, frozen=70)
    books.given(unfreeze_units(account="book:new")).when(CloseAccountRequest(account="book:new")).accepted()


# ---- once ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "command", "other"),
    [
        ([], freeze_holder(), freeze_holder(holder="h-2")),
        ([freeze_holder()], unfreeze_holder(), unfreeze_holder(holder="h-2")),
        ([], freeze_account(), freeze_account(account="book:bob")),
        ([freeze_account()], unfreeze_account(), unfreeze_account(account="book:bob")),
        ([], freeze_units(), freeze_units(units=71)),
        ([freeze_units()], unfreeze_units(), unfreeze_units(account="book:bob")),
    ],
)
def test_a_repeat_gets_the_first_answer(before: list[Any], command: Any, other: Any) -> None:
    check_repeat(Scenario().given(*two_holders(), *before), command, other)
