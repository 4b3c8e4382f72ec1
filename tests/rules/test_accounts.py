"""Holders and their accounts: registered, amended, opened, closed."""

from __future__ import annotations

from typing import Any

import pytest
from primary_market import ONE, USDC, issue, market
from scenario import Scenario, account, holder, stock, two_holders
from steps import check_repeat

from ledger import LedgerError
from ledger.records import Entitlement
from ledger.state import FIRST_ACCOUNT_NUMBER
from stockledger.v1.accounts_pb2 import (
    AccountClosed,
    AccountOpened,
    AmendHolderRequest,
    CloseAccountRequest,
    FreezeHolderRequest,
    GetHolderRequest,
    HolderAmended,
    HolderRegistered,
    HolderState,
    InvestorClass,
    ListAccountsRequest,
    ListHoldersRequest,
    OpenAccountRequest,
    RegisterHolderRequest,
    UnfreezeHolderRequest,
)
from stockledger.v1.common_pb2 import AsOf
from stockledger.v1.issuance_pb2 import FillSubscriptionRequest, RequestSubscriptionRequest, SettleFillRequest
from stockledger.v1.redemptions_pb2 import RequestRedemptionRequest
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

RETAIL = InvestorClass.INVESTOR_CLASS_RETAIL
PROFESSIONAL = InvestorClass.INVESTOR_CLASS_PROFESSIONAL
SUSPENDED = HolderState.HOLDER_STATE_SUSPENDED
ACTIVE = HolderState.HOLDER_STATE_ACTIVE


@pytest.fixture
def books() -> Scenario:
    return Scenario().given(*two_holders())


# ---- holders -------------------------------------------------------------------------------------------------------------------------


def register(**changes: Any) -> RegisterHolderRequest:
    return RegisterHolderRequest(**({"holder": "h-7", "country": "DE", "investor_class": RETAIL} | changes))


def test_a_holder_is_registered_and_active(books: Scenario) -> None:
    books.when(register()).then(HolderRegistered(holder="h-7", country="DE", investor_class=RETAIL))
    found = books.books.execute(GetHolderRequest(holder="h-7")).holder
    assert (found.country, found.investor_class, found.state, found.freeze_reference) == ("DE", RETAIL, ACTIVE, "")


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", register(holder="", country="")),
        ("FIELD_MALFORMED", register(holder="Alice Smith", country="")),
        ("FIELD_MALFORMED", register(holder="h:7", country="")),
        ("FIELD_MALFORMED", register(holder="h" * 65, country="")),
        ("FIELD_MISSING", register(country="", investor_class=0)),
        ("FIELD_MALFORMED", register(country="de", investor_class=0)),
        ("FIELD_MALFORMED", register(country="DEU", investor_class=0)),
        ("FIELD_MISSING", register(investor_class=0, holder="h-1")),
        ("FIELD_MALFORMED", register(investor_class=99, holder="h-1")),
        ("FIELD_MALFORMED", register(broker="broker-a/desk", holder="h-1")),
        ("ALREADY_EXISTS", register(holder="h-1")),
    ],
)
def test_refusals_of_registering(books: Scenario, reason: str, command: RegisterHolderRequest) -> None:
    books.when(command).raises(reason)
    books.when(register(holder="h" * 64)).accepted()


def test_registering_again_gets_the_first_answer(books: Scenario) -> None:
    check_repeat(books, register(), register(country="FR"))


def amend(**changes: Any) -> AmendHolderRequest:
    return AmendHolderRequest(**({"holder": "h-1"} | changes))


def test_what_is_absent_stays(books: Scenario) -> None:
    books.when(amend(country="FR")).then(HolderAmended(holder="h-1", country="FR"))
    books.when(amend(investor_class=PROFESSIONAL, state=SUSPENDED)).then(
        HolderAmended(holder="h-1", investor_class=PROFESSIONAL, state=SUSPENDED)
    )
    found = books.books.execute(GetHolderRequest(holder="h-1")).holder
    assert (found.country, found.investor_class, found.state) == ("FR", PROFESSIONAL, SUSPENDED)


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", amend(country="", holder="h-9")),
        ("FIELD_MALFORMED", amend(country="fr", holder="h-9")),
        ("FIELD_MISSING", amend(investor_class=0, holder="h-9")),
        ("FIELD_MALFORMED", amend(investor_class=99, holder="h-9")),
        ("FIELD_MISSING", amend(state=0, holder="h-9")),
        ("FIELD_MALFORMED", amend(state=99, holder="h-9")),
        ("FIELD_MALFORMED", amend(broker="broker-a/desk", holder="h-9")),
        ("FIELD_MISSING", amend(holder="")),
        ("HOLDER_NOT_FOUND", amend(holder="h-9")),
        ("NOTHING_TO_CHANGE", amend()),
        ("NOTHING_TO_CHANGE", amend(country="DE", investor_class=RETAIL, state=ACTIVE)),
    ],
)
def test_refusals_of_amending(books: Scenario, reason: str, command: AmendHolderRequest) -> None:
    books.when(command).raises(reason)
    books.when(amend(country="FR", state=ACTIVE)).accepted()


def test_amending_again_gets_the_first_answer(books: Scenario) -> None:
    check_repeat(books, amend(country="FR"), amend(country="IT"))


def test_a_registration_that_lapsed_stops_all_accounts_until_it_is_active(books: Scenario) -> None:
    books.given(account("book:alice-2", "h-1")).units("AAPLx", "book:alice", 10).units("AAPLx", "book:alice-2", 10)
    for state in (SUSPENDED, HolderState.HOLDER_STATE_CLOSED):
        books.given(amend(state=state))
        for name in ("book:alice", "book:alice-2"):
            transfer = TransferUnitsRequest(instrument="AAPLx", source=name, destination="book:bob", units=1)
            books.when(transfer).raises("HOLDER_NOT_ACTIVE", holder="h-1", state=HolderState.Name(state))
        books.given(amend(state=ACTIVE)).when(transfer).accepted()


# ---- opened --------------------------------------------------------------------------------------------------------------------------


def listed(books: Scenario, **fields: Any) -> list[str]:
    """Return the holders of a list, all pages."""
    request, found = ListHoldersRequest(page_size=2, **fields), []
    while True:
        answer = books.books.execute(request)
        assert answer.size == books.books.size
        found += [each.holder for each in answer.holders]
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


def test_holders_are_listed_by_what_they_are() -> None:
    institution = InvestorClass.INVESTOR_CLASS_INSTITUTION
    of_broker = holder("h-4", "FR")
    of_broker.broker = "broker-a"
    books = Scenario().given(holder("h-3", "FR", institution), holder("h-1"), holder("h-2"), of_broker)
    books.given(AmendHolderRequest(holder="h-2", state=HolderState.HOLDER_STATE_SUSPENDED))
    books.given(FreezeHolderRequest(holder="h-3", legal_reference="order 7"))
    assert listed(books) == ["h-1", "h-2", "h-3", "h-4"]
    assert listed(books, country="FR") == ["h-3", "h-4"]
    assert listed(books, country="FR", investor_class=institution) == ["h-3"]
    assert listed(books, state=HolderState.HOLDER_STATE_SUSPENDED) == ["h-2"]
    assert listed(books, state=HolderState.HOLDER_STATE_ACTIVE, country="DE") == ["h-1"]
    assert listed(books, broker="broker-a") == ["h-4"]
    assert listed(books, broker="") == ["h-1", "h-2", "h-3"]
    assert listed(books, frozen=True) == ["h-3"]
    assert listed(books, country="IT") == []
    found = books.books.execute(ListHoldersRequest(broker="broker-a")).holders
    assert found[0] == books.books.execute(GetHolderRequest(holder="h-4")).holder
    before = books.books.execute(ListHoldersRequest(as_of=AsOf(size=2)))
    assert (before.size, [each.holder for each in before.holders]) == (2, ["h-3"])


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"country": "Germany"}, "country"),
        ({"investor_class": 99}, "investor_class"),
        ({"state": 99}, "state"),
        ({"page_size": 1001}, "page_size"),
    ],
)
def test_a_list_of_holders_that_cannot_be_is_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(LedgerError) as caught:
        Scenario().books.execute(ListHoldersRequest(**fields))
    assert (caught.value.reason_name, caught.value.metadata["field"]) == ("FIELD_MALFORMED", field)


def test_account_numbers_are_dense_from_16_on() -> None:
    books = Scenario().given(holder("h-1"))
    for number, name in enumerate(("book:a", "book:B.2_c/d-e", "book:" + "x" * 64), FIRST_ACCOUNT_NUMBER):
        books.when(account(name, "h-1")).then(AccountOpened(account=name, number=number, holder="h-1"))
    listed = books.books.execute(ListAccountsRequest(holder="h-1")).accounts
    assert [found.number for found in listed] == [16, 17, 18]
    assert not books.books.execute(ListAccountsRequest(page_size=1, holder="h-1", page_token="18")).accounts


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", account("", "")),
        ("FIELD_MISSING", account("nonsense", "")),
        ("FIELD_MALFORMED", account("alice", "h-9")),
        ("FIELD_MALFORMED", account("ledger", "h-9")),
        ("FIELD_MALFORMED", account("book:", "h-9")),
        ("FIELD_MALFORMED", account(":alice", "h-9")),
        ("FIELD_MALFORMED", account("book:al ice", "h-9")),
        ("FIELD_MALFORMED", account("book:a:b", "h-9")),
        ("FIELD_MALFORMED", account("book:" + "x" * 65, "h-9")),
        ("HOLDER_NOT_FOUND", account("ledger:issuance", "h-9")),
        ("HOLDER_NOT_FOUND", account("book:alice", "h-9")),
        ("ACCOUNT_RESERVED", account("ledger:issuance", "h-frozen")),
        ("ACCOUNT_RESERVED", account("ledger:new", "h-frozen")),
        ("ACCOUNT_RESERVED", account("transit:eip155:1", "h-frozen")),
        ("ACCOUNT_RESERVED", account("divergence:eip155:1", "h-frozen")),
        ("PLACE_UNFIT", account("eip155:1:0x71C7656EC7ab88b098defB751B7401B5f6d8976F", "h-frozen")),
        ("PLACE_UNFIT", account("vault:alice", "h-frozen")),
        ("ALREADY_EXISTS", account("book:alice", "h-frozen")),
        ("ALREADY_EXISTS", account("book:closed", "h-1")),
        ("HOLDER_FROZEN", account("book:new", "h-frozen")),
    ],
)
def test_refusals_of_opening(books: Scenario, reason: str, command: OpenAccountRequest) -> None:
    books.given(holder("h-frozen"), FreezeHolderRequest(holder="h-frozen", legal_reference="OFAC 2026-11"))
    books.given(account("book:closed", "h-1"), CloseAccountRequest(account="book:closed"))
    books.when(command).raises(reason)
    books.given(UnfreezeHolderRequest(holder="h-frozen", legal_reference="lifted")).when(account("book:new", "h-frozen")).accepted()


def test_not_active_comes_before_frozen(books: Scenario) -> None:
    books.given(FreezeHolderRequest(holder="h-1", legal_reference="OFAC 2026-11"), amend(state=SUSPENDED))
    books.when(account("book:new", "h-1")).raises("HOLDER_NOT_ACTIVE")


def test_opening_again_gets_the_first_answer(books: Scenario) -> None:
    check_repeat(books, account("book:new", "h-1"), account("book:new", "h-2"))


def test_an_account_has_the_profile_of_its_holder_while_nothing_stops_it(books: Scenario) -> None:
    """Equal (country, class), equal number; 0 wherever a movement needs a closer look."""
    books.given(holder("h-same", "DE"), account("book:same", "h-same"), account("book:alice-2", "h-1"))
    state = books.books._state

    def profile(name: str) -> int:
        return int(state.profiles[state.accounts[name].number])

    german = profile("book:alice")
    assert german
    assert (profile("book:same"), profile("book:alice-2")) == (german, german)
    assert profile("book:bob") not in {0, german}
    books.given(amend(country="FR"))
    assert profile("book:alice") == profile("book:alice-2") == profile("book:bob")
    for stop, end in (
        (amend(state=SUSPENDED), amend(state=ACTIVE)),
        (FreezeHolderRequest(holder="h-1", legal_reference="law"), UnfreezeHolderRequest(holder="h-1", legal_reference="law")),
    ):
        books.given(stop)
        assert profile("book:alice") == profile("book:alice-2") == 0
        books.given(end)
        assert profile("book:alice")
    books.given(close())
    assert profile("book:alice") == 0
    assert profile("book:alice-2")


# ---- closed --------------------------------------------------------------------------------------------------------------------------


def close(name: str = "book:alice") -> CloseAccountRequest:
    return CloseAccountRequest(account=name)


def test_an_empty_account_is_closed_for_good(books: Scenario) -> None:
    books.when(close()).then(AccountClosed(account="book:alice"))
    books.when(close()).raises("ACCOUNT_CLOSED", account="book:alice")
    books.when(account("book:alice", "h-1")).raises("ALREADY_EXISTS")


@pytest.mark.parametrize(
    ("reason", "command"),
    [("FIELD_MISSING", close("")), ("ACCOUNT_NOT_FOUND", close("book:nobody")), ("ACCOUNT_RESERVED", close("ledger:remainder"))],
)
def test_refusals_of_closing(books: Scenario, reason: str, command: CloseAccountRequest) -> None:
    books.when(command).raises(reason)
    books.when(close()).accepted()


def test_one_unit_of_any_instrument_keeps_an_account_open(books: Scenario) -> None:
    books.given(stock("TSLAx", "US88160R1014")).units("TSLAx", "book:alice", 1)
    books.when(close()).raises("ACCOUNT_NOT_EMPTY", account="book:alice", instrument="TSLAx", units=1)
    books.when(TransferUnitsRequest(instrument="TSLAx", source="book:alice", destination="book:bob", units=1)).accepted()
    books.when(close()).accepted()


def test_a_subscription_keeps_its_account_open() -> None:
    """All its cash is spent, and its units come only at settlement."""
    books = market().given(account("book:carol", "h-2"))
    books.given(TransferUnitsRequest(instrument="USDC", source="book:issuer", destination="book:carol", units=100 * USDC))
    order = RequestSubscriptionRequest(instrument="AAPLx", account="book:carol", cash_instrument="USDC", cash_units=100 * USDC)
    fill = FillSubscriptionRequest(
        subscription=1,
        shares_e8=ONE,
        price_e8=100 * ONE,
        trade_date="2026-11-20",
        settlement_date="2026-11-23",
        proceeds_account="book:issuer",
        last=True,
    )
    books.given(order, fill)
    assert books.holding("USDC", "book:carol") == 0
    books.when(close("book:carol")).raises("ACCOUNT_NOT_EMPTY", due="subscription 1")
    books.given(SettleFillRequest(subscription=1, fill=1)).when(close("book:carol")).raises("ACCOUNT_NOT_EMPTY", units=ONE)
    books.given(TransferUnitsRequest(instrument="AAPLx", source="book:carol", destination="book:alice", units=ONE))
    books.when(close("book:carol")).accepted()


def test_a_redemption_keeps_its_account_open() -> None:
    books = market().given(account("book:carol", "h-2"), issue(account="book:carol", units=5))
    books.given(RequestRedemptionRequest(instrument="AAPLx", account="book:carol", units=5, cash_instrument="USDC"))
    books.when(close("book:carol")).raises("ACCOUNT_NOT_EMPTY", units=5)


@pytest.mark.parametrize("table", ["entitlements", "owed"])
def test_an_entitlement_keeps_its_account_open(books: Scenario, table: str) -> None:
    state = books.books._state
    number = state.accounts["book:alice"].number
    books.replayable = False
    if table == "entitlements":
        state.entitlements["AAPL-DVCA"] = Entitlement((number,), (100,), 10**18)
    else:
        state.owed["AAPL-DVCA", number] = (5, 0, 0)
    books.when(close()).raises("ACCOUNT_NOT_EMPTY", due="action AAPL-DVCA")
    books.when(close("book:bob")).accepted()
    getattr(state, table).clear()
    books.when(close()).accepted()


def test_closing_again_gets_the_first_answer(books: Scenario) -> None:
    check_repeat(books, close(), close("book:bob"))
