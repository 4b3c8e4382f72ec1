"""Who may hold what: dated rules, tried at the boundaries of their days, and CheckTransfer, which books nothing."""

from __future__ import annotations

from typing import Any

import pytest
from primary_market import ONE, issue, market
from scenario import START_US, Scenario, account, enforcer, holder, stock, two_holders
from steps import check_repeat

from ledger.answers import timestamp
from stockledger.v1.accounts_pb2 import AmendHolderRequest, InvestorClass
from stockledger.v1.common_pb2 import AsOf
from stockledger.v1.eligibility_pb2 import (
    CheckTransferRequest,
    CheckTransferResponse,
    EligibilityRule,
    EligibilitySet,
    ListEligibilityRequest,
    SetEligibilityRequest,
)
from stockledger.v1.instruments_pb2 import RetireInstrumentRequest
from stockledger.v1.transfers_pb2 import ForceTransferRequest, TransferUnitsRequest

RETAIL = InvestorClass.INVESTOR_CLASS_RETAIL
PROFESSIONAL = InvestorClass.INVESTOR_CLASS_PROFESSIONAL
INSTITUTION = InvestorClass.INVESTOR_CLASS_INSTITUTION
TODAY = "2026-11-22"
TOMORROW_US = START_US + 6 * 3_600_000_000
"""2026-11-23T00:00:00Z."""


def rule(effective_date: str = TODAY, instrument: str = "AAPLx", **lists: Any) -> SetEligibilityRequest:
    return SetEligibilityRequest(instrument=instrument, rule=EligibilityRule(effective_date=effective_date, **lists))


def transfer(units: int = 10, destination: str = "book:bob", instrument: str = "AAPLx") -> TransferUnitsRequest:
    return TransferUnitsRequest(instrument=instrument, source="book:alice", destination=destination, units=units)


@pytest.fixture
def books() -> Scenario:
    """Alice is of DE and retail, bob of FR and retail, fees of CH and an institution."""
    return Scenario().given(*two_holders()).units("AAPLx", "book:alice", 1000)


def set_rule(books: Scenario, *commands: SetEligibilityRequest) -> None:
    for command in commands:
        books.when(command).accepted()


# ---- SetEligibility ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", rule("2026-11-31", instrument="")),
        ("FIELD_MISSING", SetEligibilityRequest(instrument="NONEx")),
        ("FIELD_MISSING", rule("", instrument="NONEx", barred_countries=["us"])),
        ("FIELD_MALFORMED", rule("2026-11-31", instrument="NONEx")),
        ("FIELD_MALFORMED", rule("20261122", instrument="NONEx")),
        ("FIELD_MALFORMED", rule("2026-11-22T00:00:00", instrument="NONEx")),
        ("FIELD_MALFORMED", rule(instrument="NONEx", allowed_countries=["DE", "us"])),
        ("FIELD_MALFORMED", rule(instrument="NONEx", barred_countries=["USA"])),
        ("FIELD_MISSING", rule(instrument="NONEx", barred_countries=[""])),
        ("FIELD_MISSING", rule(instrument="NONEx", allowed_classes=[0])),
        ("FIELD_MALFORMED", rule(instrument="NONEx", barred_classes=[99])),
        ("INSTRUMENT_NOT_FOUND", rule(instrument="NONEx", barred_countries=["US"])),
        ("INSTRUMENT_RETIRED", rule(instrument="OLDx", barred_countries=["US"])),
    ],
)
def test_refusals_of_setting_a_rule(books: Scenario, reason: str, command: SetEligibilityRequest) -> None:
    books.given(stock("OLDx", "US0378331005"), RetireInstrumentRequest(instrument="OLDx"))
    books.when(command).raises(reason)
    books.when(rule(barred_countries=["US"])).accepted()


def test_the_event_has_the_rule_in_one_canonical_form(books: Scenario) -> None:
    books.when(rule(allowed_countries=["FR", "DE", "FR"] * 5000, barred_classes=[INSTITUTION, PROFESSIONAL, INSTITUTION])).then(
        EligibilitySet(
            instrument="AAPLx",
            rule=EligibilityRule(effective_date=TODAY, allowed_countries=["DE", "FR"], barred_classes=[PROFESSIONAL, INSTITUTION]),
        )
    )


def test_rules_are_kept_by_date_and_the_later_set_one_later(books: Scenario) -> None:
    set_rule(
        books,
        rule("2026-12-01", barred_countries=["US"]),
        rule("2026-01-01"),
        rule("2026-12-01", barred_countries=["FR"]),
        rule("2026-06-01", allowed_classes=[RETAIL]),
    )
    listed = books.books.execute(ListEligibilityRequest(instrument="AAPLx"))
    assert [(known.effective_date, list(known.barred_countries)) for known in listed.rules] == [
        ("2026-01-01", []),
        ("2026-06-01", []),
        ("2026-12-01", ["US"]),
        ("2026-12-01", ["FR"]),
    ]
    assert listed.size == books.books.size
    assert list(listed.rules[1].allowed_classes) == [RETAIL]
    assert not books.books.execute(ListEligibilityRequest(instrument="USDC")).rules


def test_the_list_as_of_an_earlier_size() -> None:
    books = Scenario().given(*two_holders(), rule(barred_countries=["US"]))
    size = books.books.size
    books.given(rule(barred_countries=["FR"]))
    assert len(books.books.execute(ListEligibilityRequest(instrument="AAPLx", as_of=AsOf(size=size))).rules) == 1
    books.when(ListEligibilityRequest(instrument="NONEx")).raises("INSTRUMENT_NOT_FOUND")


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_pages_of_rules_are_the_list_cut_up(books: Scenario, size: int) -> None:
    for number in range(4):
        set_rule(
            books, *(rule(date, barred_countries=[country]) for date, country in (("2026-12-01", f"A{'ABCD'[number]}"), (TODAY, "US")))
        )
    whole = books.books.execute(ListEligibilityRequest(instrument="AAPLx"))
    assert len(whole.rules) == 8
    assert not whole.next_page_token
    found, token = [], ""
    while True:
        page = books.books.execute(ListEligibilityRequest(instrument="AAPLx", page_size=size, page_token=token))
        assert len(page.rules) <= size
        found += page.rules
        token = page.next_page_token
        if not token:
            break
    assert found == list(whole.rules)
    books.when(ListEligibilityRequest(instrument="AAPLx", page_size=-1)).raises("FIELD_MALFORMED")
    for foreign in ("AAPLx", "2026-12-01", "2026-12-01 x"):
        books.when(ListEligibilityRequest(instrument="AAPLx", page_token=foreign)).raises("FIELD_MALFORMED", field="page_token")


def test_rules_set_between_two_pages_move_none_of_the_others(books: Scenario) -> None:
    set_rule(books, *(rule(date, barred_countries=["US"]) for date in ("2026-01-01", "2026-06-01", "2026-06-01", "2026-12-01")))
    first = books.books.execute(ListEligibilityRequest(instrument="AAPLx", page_size=2))
    set_rule(books, rule("2025-01-01", barred_countries=["FR"]), rule("2026-06-01", barred_countries=["FR"]))
    rest = books.books.execute(ListEligibilityRequest(instrument="AAPLx", page_token=first.next_page_token))
    assert [(known.effective_date, list(known.barred_countries)) for known in (*first.rules, *rest.rules)] == [
        ("2026-01-01", ["US"]),
        ("2026-06-01", ["US"]),
        ("2026-06-01", ["US"]),
        ("2026-06-01", ["FR"]),
        ("2026-12-01", ["US"]),
    ]


def test_setting_again_gets_the_first_answer(books: Scenario) -> None:
    check_repeat(Scenario().given(*two_holders()), rule(barred_countries=["US"]), rule(barred_countries=["FR"]))


# ---- who may hold --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lists", "admits_bob", "admits_fees"),
    [
        ({}, True, True),
        ({"barred_countries": ["US", "FR"]}, False, True),
        ({"barred_countries": ["US"]}, True, True),
        ({"allowed_countries": ["FR"]}, True, False),
        ({"allowed_countries": ["FR", "CH"]}, True, True),
        ({"allowed_countries": ["FR", "CH"], "barred_countries": ["FR"]}, False, True),
        ({"barred_classes": [RETAIL]}, False, True),
        ({"allowed_classes": [RETAIL]}, True, False),
        ({"allowed_classes": [RETAIL, INSTITUTION], "barred_classes": [INSTITUTION]}, True, False),
        ({"allowed_countries": ["FR"], "allowed_classes": [INSTITUTION]}, False, False),
        ({"allowed_countries": ["CH"], "allowed_classes": [INSTITUTION]}, False, True),
    ],
)
def test_who_is_admitted(books: Scenario, lists: dict[str, Any], admits_bob: bool, admits_fees: bool) -> None:
    set_rule(books, rule(**lists))
    for destination, admitted in (("book:bob", admits_bob), ("book:fees", admits_fees)):
        books.when(transfer(destination=destination))
        if admitted:
            books.accepted()
        else:
            books.raises("HOLDER_NOT_ELIGIBLE", instrument="AAPLx", effective_date=TODAY)


def test_the_refusal_says_who_and_by_which_rule(books: Scenario) -> None:
    set_rule(books, rule("2026-01-01", barred_countries=["FR"]))
    books.when(transfer(10_000)).raises(
        "HOLDER_NOT_ELIGIBLE", holder="h-2", instrument="AAPLx", country="FR", investor_class=RETAIL, effective_date="2026-01-01"
    )


def test_a_rule_holds_from_the_first_microsecond_of_its_day(books: Scenario) -> None:
    set_rule(books, rule("2026-11-23", barred_countries=["FR"]))
    books.clock.now_us = TOMORROW_US - 1
    books.when(transfer()).accepted()
    books.clock.now_us = TOMORROW_US
    books.when(transfer()).raises("HOLDER_NOT_ELIGIBLE", effective_date="2026-11-23")


def test_a_rule_ends_with_the_last_microsecond_before_the_next(books: Scenario) -> None:
    set_rule(books, rule("2026-11-23"), rule("2026-01-01", barred_countries=["FR"]))
    books.clock.now_us = TOMORROW_US - 1
    books.when(transfer()).raises("HOLDER_NOT_ELIGIBLE", effective_date="2026-01-01")
    books.clock.now_us = TOMORROW_US
    books.when(transfer()).accepted()


def test_of_two_rules_for_one_day_the_one_set_last_holds(books: Scenario) -> None:
    set_rule(books, rule(barred_countries=["FR"]), rule(barred_countries=["CH"]))
    books.when(transfer()).accepted()
    books.when(transfer(destination="book:fees")).raises("HOLDER_NOT_ELIGIBLE")


def test_an_earlier_dated_rule_set_later_does_not_replace_the_one_in_force(books: Scenario) -> None:
    set_rule(books, rule(barred_countries=["FR"]), rule("2026-11-21"))
    books.when(transfer()).raises("HOLDER_NOT_ELIGIBLE")


def test_who_holds_already_keeps_and_may_give(books: Scenario) -> None:
    set_rule(books, rule(barred_countries=["DE"]))
    assert books.holding("AAPLx", "book:alice") == 1000
    books.when(transfer()).accepted()
    back = TransferUnitsRequest(instrument="AAPLx", source="book:bob", destination="book:alice", units=5)
    books.when(back).raises("HOLDER_NOT_ELIGIBLE", holder="h-1")


def test_moving_country_or_class_counts_at_once(books: Scenario) -> None:
    set_rule(books, rule(barred_countries=["US"], allowed_classes=[RETAIL, PROFESSIONAL]))
    books.given(AmendHolderRequest(holder="h-2", country="US")).when(transfer()).raises("HOLDER_NOT_ELIGIBLE", country="US")
    books.given(AmendHolderRequest(holder="h-2", country="FR", investor_class=PROFESSIONAL)).when(transfer()).accepted()
    books.given(AmendHolderRequest(holder="h-2", investor_class=INSTITUTION)).when(transfer()).raises("HOLDER_NOT_ELIGIBLE")


def test_a_rule_is_of_one_instrument(books: Scenario) -> None:
    books.given(stock("TSLAx", "US88160R1014")).units("TSLAx", "book:alice", 10)
    set_rule(books, rule(barred_countries=["FR"]))
    books.when(transfer(instrument="TSLAx")).accepted()


def test_force_passes_eligibility(books: Scenario) -> None:
    books.given(enforcer())
    set_rule(books, rule(barred_countries=["FR"]))
    force = ForceTransferRequest(
        instrument="AAPLx", source="book:alice", destination="book:bob", units=5, legal_reference="court order 12/2026", cause="seizure"
    )
    books.when(force, principal="enforcer", approver="judge").accepted()


# ---- CheckTransfer -------------------------------------------------------------------------------------------------------------------


def check(**changes: Any) -> CheckTransferRequest:
    fields: dict[str, Any] = {"instrument": "AAPLx", "source": "book:alice", "destination": "book:bob", "units": 10}
    return CheckTransferRequest(**(fields | changes))


def test_asking_whether_books_nothing(books: Scenario) -> None:
    size = books.books.size
    assert books.books.execute(check()) == CheckTransferResponse(size=size, accepted=True)
    assert books.books.size == size
    assert books.holding("AAPLx", "book:bob") == 0


@pytest.mark.parametrize(
    ("reason", "question"),
    [
        ("FIELD_MISSING", check(instrument="")),
        ("UNITS_NOT_POSITIVE", check(units=0)),
        ("SAME_ACCOUNT", check(destination="book:alice")),
        ("ACCOUNT_NOT_FOUND", check(destination="book:nobody")),
        ("HOLDER_NOT_ELIGIBLE", check(destination="book:american", units=10_000)),
        ("UNITS_INSUFFICIENT", check(units=1001)),
    ],
)
def test_the_answer_is_the_refusal_that_the_transfer_would_meet(books: Scenario, reason: str, question: CheckTransferRequest) -> None:
    books.given(holder("h-us", "US"), account("book:american", "h-us"))
    set_rule(books, rule(barred_countries=["US"]))
    answer = books.books.execute(question)
    command = TransferUnitsRequest(
        instrument=question.instrument, source=question.source, destination=question.destination, units=question.units
    )
    books.when(command).raises(reason)
    assert books.error is not None
    assert (answer.accepted, answer.reason, answer.explanation) == (False, reason, books.error.message)
    assert dict(answer.metadata) == books.error.metadata


def test_whether_it_would_have_been_booked_after_so_many_entries() -> None:
    """The units, the accounts and the rules of then, all of them from the log."""
    books = market().given(issue())
    issued = books.books.size
    books.given(transfer(10 * ONE))
    sent = books.books.size
    books.given(rule(barred_countries=["FR"]))
    answers = {size: books.books.execute(check(as_of=AsOf(size=size))) for size in (2, issued, sent, books.books.size)}
    assert [(answer.accepted, answer.reason) for answer in answers.values()] == [
        (False, "ACCOUNT_NOT_FOUND"),
        (True, ""),
        (False, "UNITS_INSUFFICIENT"),
        (False, "HOLDER_NOT_ELIGIBLE"),
    ]
    assert [answer.size for answer in answers.values()] == list(answers)
    assert books.books.execute(check()) == answers[books.books.size]
    books.when(check(as_of=AsOf(size=books.books.size + 1))).raises("INDEX_BEYOND_LOG")


def test_whether_it_would_have_been_booked_at_a_time_by_the_rules_of_that_day() -> None:
    """A rule that takes effect at midnight bars from then on, though nothing was booked in between."""
    books = market().given(issue(), rule("2026-11-23", barred_countries=["FR"]))
    size = books.books.size

    def accepted(as_of: AsOf | None) -> bool:
        answer = books.books.execute(check(as_of=as_of))
        assert answer.size == size
        return bool(answer.accepted)

    assert accepted(AsOf(time=timestamp(TOMORROW_US))), "still to come: as of now"
    books.pass_time(24 * 3600)
    assert [accepted(AsOf(time=timestamp(TOMORROW_US + more))) for more in (-1, 0, 10**15)] == [True, False, False]
    assert not accepted(None)
    assert accepted(AsOf(size=size)), "as when the last of these entries was booked"
