"""Cash dividends, by both methods: examples worked out by hand, refusals, and that what is declared is accounted for to the unit."""

from __future__ import annotations

from typing import Any

import pytest
from actions import FUNDS, HOUR, MULTIPLIER, carry_out, dividend, evidence, execute, fix, holdings, set_multiplier, story, totals
from hypothesis import given as each
from hypothesis import settings
from hypothesis import strategies as some
from scenario import Scenario, cash

from stockledger.v1.accounts_pb2 import (
    AmendHolderRequest,
    FreezeAccountRequest,
    FreezeHolderRequest,
    FreezeUnitsRequest,
    HolderState,
)
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.corporate_actions_pb2 import ActionCompleted, AnnounceActionRequest, DistributionPaid
from stockledger.v1.eligibility_pb2 import EligibilityRule, SetEligibilityRequest
from stockledger.v1.holds_pb2 import HoldPurpose, PlaceHoldRequest
from stockledger.v1.instruments_pb2 import HaltInstrumentRequest, MultiplierChanged, RetireInstrumentRequest
from stockledger.v1.reserves_pb2 import ReserveShortfallRaised

SHARE = 10**8
ISSUER = "book:issuer-cash"


# ---- by holdings: worked out by hand --------------------------------------------------------------------------------------------------


def test_apple_pays_a_quarter_to_one_unit_an_odd_count_and_a_frozen_holder() -> None:
    """0.25 USDC on units of 1e-8 shares is 1 for every 400 units, rounded down for each account.

    alice (DE, 15 %)       100,000,000 units, 40 % on hold: 250,000 gross, 37,500 withheld, 212,500 paid
    bob (FR, none)                   1 unit:                      0
    carol (CH, 30 %, frozen) 100,000,399 units:             250,000 gross, 75,000 withheld, 175,000 blocked
    dave (CH, 30 %)      1,000,000,401 units:             2,500,001 gross, 750,000 withheld, 1,750,001 paid
    declared: 1,200,000,801 units, 3,000,002; the accounts bring 3,000,001, so 1 is left over
    """
    books = story(AAPLx={"book:alice": SHARE, "book:bob": 1, "book:carol": SHARE + 399, "book:dave": 10 * SHARE + 401})
    books.given(
        PlaceHoldRequest(instrument="AAPLx", account="book:alice", units=40_000_000, purpose=HoldPurpose.HOLD_PURPOSE_ORDER),
        FreezeHolderRequest(holder="h-carol", legal_reference="order 7"),
        FreezeUnitsRequest(instrument="AAPLx", account="book:dave", units=10**9, legal_reference="order 8"),
    )
    carry_out(books, dividend())
    alice, bob, carol, dave = (books.books._state.accounts[f"book:{name}"].number for name in ("alice", "bob", "carol", "dave"))
    assert books.booked[-2:] == [
        DistributionPaid(
            action="ACTION-1",
            cash_instrument="USDC",
            funding_account=ISSUER,
            accounts=[alice, bob, carol, dave],
            paid_units=[212_500, 0, 0, 1_750_001],
            withheld_units=[37_500, 0, 75_000, 750_000],
            blocked_units=[0, 0, 175_000, 0],
            unclaimed_units=[0, 0, 0, 0],
            remainder_units=1,
        ),
        ActionCompleted(
            action="ACTION-1",
            declared_units=3_000_002,
            paid_units=1_962_501,
            withheld_units=862_500,
            blocked_units=175_000,
            remainder_units=1,
            account_count=4,
        ),
    ]
    assert holdings(books, "USDC") == {
        "alice": 212_500,
        "dave": 1_750_001,
        "issuer-cash": FUNDS - 3_000_002,
        "ledger:withheld": 862_500,
        "ledger:blocked": 175_000,
        "ledger:remainder": 1,
    }
    assert books.books._state.owed == {("ACTION-1", carol): (175_000, 0, 75_000)}


def test_shares_not_units_are_paid_on() -> None:
    """At multiplier 1.5, a share and a half for each unit of 8 decimals: 3 for every 800 units. 801 bring 3, 2 x 801 bring 6."""
    books = story(AAPLx={"book:bob": 801, "book:alice": 801}).given(set_multiplier("AAPLx", 15 * 10**17))
    carry_out(books, dividend({"withholding": []}))
    assert totals(books) == {"declared": 6, "paid": 6, "account_count": 2}
    assert holdings(books, "USDC") == {"alice": 3, "bob": 3, "issuer-cash": FUNDS - 6}


def test_nobody_holds_and_nothing_is_paid() -> None:
    books = carry_out(story(), dividend())
    assert [type(event) for event in books.booked[-2:]] == [DistributionPaid, ActionCompleted]
    assert totals(books) == {}


def test_who_funds_a_dividend_may_be_entitled_to_it() -> None:
    """The issuer has 400 of 800 units: of 2 declared it keeps 1."""
    books = carry_out(story(AAPLx={ISSUER: 400, "book:bob": 400}), dividend({"withholding": []}))
    assert totals(books) == {"declared": 2, "paid": 2, "account_count": 2}
    assert holdings(books, "USDC") == {"issuer-cash": FUNDS - 1, "bob": 1}


def test_the_ledgers_own_accounts_are_paid_in_full() -> None:
    """Units that a split left over stand for shares too: what they earn stays with them, untaxed."""
    books = story(AAPLx={"book:alice": SHARE}).units("AAPLx", "ledger:remainder", 800)
    carry_out(books, dividend())
    assert holdings(books, "USDC")["ledger:remainder"] == 2
    assert totals(books) == {"declared": 250_002, "paid": 212_502, "withheld": 37_500, "account_count": 2}


BY_STATUS = [
    ("paid", AmendHolderRequest(holder="h-bob", state=HolderState.HOLDER_STATE_SUSPENDED)),
    ("paid", FreezeUnitsRequest(instrument="AAPLx", account="book:bob", units=1, legal_reference="order 7")),
    ("paid", FreezeUnitsRequest(instrument="USDC", account="book:bob", units=1, legal_reference="order 7")),
    ("blocked", FreezeAccountRequest(account="book:bob", legal_reference="order 7")),
    ("blocked", FreezeHolderRequest(holder="h-bob", legal_reference="order 7")),
    (
        "blocked",
        SetEligibilityRequest(instrument="USDC", rule=EligibilityRule(effective_date="2026-11-22", barred_countries=["FR"])),
    ),
    ("unclaimed", AmendHolderRequest(holder="h-bob", state=HolderState.HOLDER_STATE_CLOSED)),
]


@pytest.mark.parametrize(("where", "command"), BY_STATUS)
def test_where_it_goes_by_the_state_of_the_holder_at_payment(where: str, command: Any) -> None:
    books = story(AAPLx={"book:bob": SHARE}).given(dividend()).pass_time(HOUR).given(fix(), command).pass_time(HOUR).given(execute())
    assert totals(books) == {"declared": 250_000, where: 250_000, "account_count": 1}


def test_tax_follows_the_country_at_payment() -> None:
    books = (
        story(AAPLx={"book:bob": SHARE}).given(dividend()).pass_time(HOUR).given(fix(), AmendHolderRequest(holder="h-bob", country="CH"))
    )
    books.pass_time(HOUR).given(execute())
    assert totals(books) == {"declared": 250_000, "paid": 175_000, "withheld": 75_000, "account_count": 1}


# ---- what payment needs ---------------------------------------------------------------------------------------------------------------


def due(**terms: Any) -> Scenario:
    """Four shares entitled to 1,000,000, fixed and due."""
    books = story(AAPLx={"book:bob": 4 * SHARE})
    return books.given(dividend(terms)).pass_time(HOUR).given(fix()).pass_time(HOUR)


def test_the_funding_account_must_have_all_of_it_free() -> None:
    books = due()
    keep = PlaceHoldRequest(
        instrument="USDC", account=ISSUER, units=FUNDS - 999_999, purpose=HoldPurpose.HOLD_PURPOSE_ORDER, reference="keep"
    )
    books.given(keep).when(execute()).raises("UNITS_INSUFFICIENT", free=999_999, needed=1_000_000)


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("INSTRUMENT_HALTED", HaltInstrumentRequest(instrument="USDC", operations=[Operation.OPERATION_TRANSFER])),
        ("ACCOUNT_FROZEN", FreezeAccountRequest(account=ISSUER, legal_reference="order 7")),
        ("HOLDER_FROZEN", FreezeHolderRequest(holder="h-issuer-cash", legal_reference="order 7")),
        ("HOLDER_NOT_ACTIVE", AmendHolderRequest(holder="h-issuer-cash", state=HolderState.HOLDER_STATE_SUSPENDED)),
    ],
)
def test_refusals_of_a_payment(reason: str, command: Any) -> None:
    due().given(command).when(execute()).raises(reason)


def test_a_halt_of_the_share_does_not_stop_its_dividend() -> None:
    books = due().given(HaltInstrumentRequest(instrument="AAPLx", operations=[Operation.OPERATION_TRANSFER]))
    books.when(execute(), approver="approver").accepted()


def test_what_is_declared_stays_within_range() -> None:
    due(cash_per_share_e8=2**62).when(execute()).raises("UNITS_INSUFFICIENT", needed=2**62 * 4 * 10**6 // 10**8)
    books = story(AAPLx={"book:bob": 101 * SHARE}).given(dividend({"cash_per_share_e8": 2**62}))
    books.pass_time(HOUR).given(fix()).pass_time(HOUR).when(execute()).raises("UNITS_OUT_OF_RANGE", field="declared_units")


TERMS_REFUSALS = [
    ("FIELD_MISSING", {"cash_instrument": "", "cash_per_share_e8": 0}),
    ("FIELD_MISSING", {"withholding": [{"country": ""}], "cash_per_share_e8": 0}),
    ("FIELD_MALFORMED", {"withholding": [{"country": "Germany"}]}),
    ("FIELD_MALFORMED", {"withholding": [{"country": "DE", "rate_bps": 10_001}]}),
    ("FIELD_MALFORMED", {"withholding": [{"country": "DE", "rate_bps": -1}]}),
    ("FIELD_MALFORMED", {"withholding": [{"country": "DE", "rate_bps": 1}, {"country": "DE", "rate_bps": 2}]}),
    ("FIELD_MALFORMED", {"multiplier_withholding_bps": 10_001, "cash_per_share_e8": 0}),
    ("UNITS_NOT_POSITIVE", {"cash_per_share_e8": 0}),
    ("UNITS_OUT_OF_RANGE", {"cash_per_share_e8": 2**62 + 1}),
    ("UNITS_NOT_POSITIVE", {"reference_price_e8": -1}),
    ("FIELD_MISSING", {"funding_account": "", "cash_instrument": "NONE"}),
    ("INSTRUMENT_NOT_FOUND", {"cash_instrument": "NONE", "funding_account": "book:nobody"}),
    ("ACCOUNT_NOT_FOUND", {"funding_account": "book:nobody", "cash_instrument": "NVDAx"}),
    ("ACCOUNT_RESERVED", {"funding_account": "ledger:remainder"}),
    ("INSTRUMENT_KIND_UNFIT", {"cash_instrument": "NVDAx"}),
]


@pytest.mark.parametrize(("reason", "terms"), TERMS_REFUSALS)
def test_refusals_of_the_terms_in_order_of_precedence(reason: str, terms: dict[str, Any]) -> None:
    books = story()
    books.when(dividend(terms)).raises(reason)
    books.when(dividend({"withholding": [{"country": "DE", "rate_bps": 10_000}, {"country": "CH", "rate_bps": 0}]})).accepted()


def test_retired_cash_pays_nothing() -> None:
    books = story().given(cash("EURC"))
    books.when(dividend({"cash_instrument": "EURC"}, action="A")).accepted()
    books.given(RetireInstrumentRequest(instrument="EURC"))
    books.when(dividend({"cash_instrument": "EURC"}, action="B")).raises("INSTRUMENT_RETIRED", instrument="EURC")


def by_multiplier(terms: dict[str, Any] | None = None, **changes: Any) -> AnnounceActionRequest:
    return dividend(terms, **({"method": MULTIPLIER, "fixing_time": None} | changes))


def test_each_method_needs_its_own_terms() -> None:
    books = story()
    books.when(by_multiplier({"reference_price_e8": 0, "funding_account": ""})).raises("FIELD_MISSING", field="reference_price_e8")
    books.when(by_multiplier({"funding_account": ""})).accepted()
    books.when(dividend({"funding_account": "", "reference_price_e8": 0}, action="B")).raises("FIELD_MISSING", field="funding_account")
    books.when(dividend({"reference_price_e8": 0}, action="B")).accepted()
    books.when(dividend(action="C", fixing_time=None)).raises("FIELD_MISSING", field="fixing_time")


# ---- by the multiplier ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "multiplier", "residue"),
    [(10**18, 1_000_770_925_110_132_158, ("134", "227")), (2 * 10**18, 2_001_541_850_220_264_317, ("41", "227"))],
)
def test_apple_reinvests_a_quarter_at_227(before: int, multiplier: int, residue: tuple[str, str]) -> None:
    """0.25 less 30 % is 0.175; 227.175 / 227 = 9087 / 9080."""
    books = story(AAPLx={"book:alice": 1, "book:bob": 7})
    if before != 10**18:
        books.given(set_multiplier("AAPLx", before))
    carry_out(books, by_multiplier())
    assert before * 9087 // 9080 == multiplier
    numerator, denominator = before * 9087 % 9080, 9080
    assert numerator * int(residue[1]) == int(residue[0]) * denominator
    assert books.booked[-2:] == [
        MultiplierChanged(
            instrument="AAPLx",
            old_multiplier=str(before),
            multiplier=str(multiplier),
            residue_numerator=residue[0],
            residue_denominator=residue[1],
            action="ACTION-1",
        ),
        ActionCompleted(action="ACTION-1"),
    ]
    assert holdings(books, "AAPLx") == {"alice": 1, "bob": 7}
    assert holdings(books, "USDC") == {"issuer-cash": FUNDS}, "the issuer bought shares with it, outside the ledger"
    assert books.books._state.instruments["AAPLx"].share_basis == 0, "evidence of before still counts"


def test_reserves_that_do_not_cover_the_reinvested_shares_are_a_shortfall_and_no_refusal() -> None:
    books = story(AAPLx={"book:alice": 100 * SHARE}).given(evidence("AAPLx", shares_e8=100 * SHARE, hours=0))
    carry_out(books, by_multiplier())
    assert books.booked[-2] == ReserveShortfallRaised(
        instrument="AAPLx", reserve_shares_e8=100 * SHARE, needed_shares_e8=str(10_007_709_252)
    )
    books.given(evidence("AAPLx", shares_e8=10_007_709_252, hours=2))
    assert not books.books._state.shortfalls


# ---- what is declared is accounted for ------------------------------------------------------------------------------------------------


NAMES = ("alice", "bob", "carol", "dave", "issuer-cash")


@settings(max_examples=60, deadline=None)
@each(
    owned=some.lists(some.integers(0, 10**16), min_size=5, max_size=5),
    multiplier=some.integers(1, 9 * 10**19),
    per_share=some.integers(1, 10**10),
    rates=some.lists(some.integers(0, 10_000), min_size=3, max_size=3),
    frozen=some.sets(some.sampled_from(NAMES[:4])),
    ended=some.sets(some.sampled_from(NAMES[:4])),
)
def test_what_is_declared_is_paid_withheld_set_aside_or_left_over(
    *, owned: list[int], multiplier: int, per_share: int, rates: list[int], frozen: set[str], ended: set[str]
) -> None:
    books = story()
    for name, units in zip(NAMES, owned, strict=True):
        if units:
            books.units("AAPLx", f"book:{name}", units)
    books.units("USDC", ISSUER, 2**60)
    state = books.books._state
    if multiplier != 10**18:
        books.given(evidence("AAPLx", shares_e8=2**62, hours=0), set_multiplier("AAPLx", multiplier))
    countries = ("DE", "FR", "CH")
    withholding = [{"country": country, "rate_bps": rate} for country, rate in zip(countries, rates, strict=True)]
    books.given(
        dividend({"cash_per_share_e8": per_share, "withholding": withholding}),
        *(FreezeHolderRequest(holder=f"h-{name}", legal_reference="order") for name in sorted(frozen)),
        *(AmendHolderRequest(holder=f"h-{name}", state=HolderState.HOLDER_STATE_CLOSED) for name in sorted(ended)),
    )
    before = holdings(books, "USDC")
    books.pass_time(HOUR).given(fix()).pass_time(HOUR)
    declared = sum(owned) * multiplier * per_share * 10**6 // (10**26 * 10**8)
    books.when(execute(), approver="approver")
    if declared > 2**60 + FUNDS:
        books.raises("UNITS_OUT_OF_RANGE" if declared > 2**62 else "UNITS_INSUFFICIENT")
        return
    found = totals(books)
    assert found.get("declared", 0) == declared
    assert declared == sum(units for name, units in found.items() if name not in ("declared", "account_count"))
    assert 0 <= found.get("remainder", 0) < len(NAMES)
    after = holdings(books, "USDC")
    country = dict(zip(NAMES, ("DE", "FR", "CH", "CH", "CH"), strict=True))
    for name, units in zip(NAMES, owned, strict=True):
        gross = units * multiplier * per_share * 10**6 // (10**26 * 10**8)
        net = gross - gross * rates[countries.index(country[name])] // 10_000
        number = state.accounts[f"book:{name}"].number
        set_aside = state.owed.get(("ACTION-1", number), (0, 0, 0))[:2]
        assert set_aside == ((net, 0) if name in frozen else (0, net) if name in ended else (0, 0))
        if name != "issuer-cash":
            assert after.get(name, 0) - before.get(name, 0) == net - sum(set_aside)
    for own in ("withheld", "blocked", "unclaimed", "remainder"):
        assert after.get(f"ledger:{own}", 0) == found.get(own, 0)
