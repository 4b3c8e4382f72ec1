"""A broker who wants another broker's data: by every id, token, page, stream and error, and gets nothing."""

from __future__ import annotations

import grpc
import pytest
from grpc_server_thread import METHODS, Client, RunningServer, book, broker_holder, give, market, request_id
from scenario import FixedClock, account, holder

from ledger.answers import timestamp
from ledger.rules import RULES
from services.grpc_server.authorization import cells_of
from stockledger.v1 import accounts_pb2, audit_pb2, holds_pb2
from stockledger.v1.accounts_pb2 import FreezeAccountRequest, OpenAccountRequest
from stockledger.v1.approvals_pb2 import GrantRoleRequest, ListApprovalsRequest, ListRolesRequest, Role
from stockledger.v1.audit_pb2 import FindRequestRequest, GetReceiptRequest, StreamEntriesRequest
from stockledger.v1.common_pb2 import AsOf, LegColumns
from stockledger.v1.corporate_actions_pb2 import (
    ActionTerms,
    AnnounceActionRequest,
    CashDividend,
    ExecuteActionRequest,
    FixEntitlementsRequest,
    ListOwedRequest,
)
from stockledger.v1.holds_pb2 import ExecuteHoldRequest, HoldPurpose, PlaceHoldRequest
from stockledger.v1.instruments_pb2 import ActionMethod
from stockledger.v1.settlement_pb2 import SettleTradesRequest
from stockledger.v1.transfers_pb2 import TransferBatchRequest, TransferUnitsRequest

SECRETS = ("broker-b/", "secret-of-b", "book:house", "house")
MORE = 30
"""Accounts of each broker beyond the first two, so that lists have pages."""


def transfer(source, destination, units=1, **changes):
    return TransferUnitsRequest(instrument="AAPLx", source=source, destination=destination, units=units, **changes)


@pytest.fixture(scope="module")
def server():
    with market() as books:
        for number in range(MORE):
            for broker in ("broker-b", "broker-a"):
                name = f"{broker}/client-{number:03}"
                book(books, broker_holder(broker, f"client-{number:03}"), account(f"book:{name}", name))
                give(books, "AAPLx", f"book:{name}", 10)
        for broker in ("broker-a", "broker-b"):
            hold = PlaceHoldRequest(
                instrument="AAPLx",
                account=f"book:{broker}/bob",
                units=100,
                purpose=HoldPurpose.HOLD_PURPOSE_ORDER,
                reference=f"secret-of-{broker[-1]}",
            )
            book(books, hold)
            usd = PlaceHoldRequest(instrument="USDC", account=f"book:{broker}/alice", units=900, purpose=HoldPurpose.HOLD_PURPOSE_ORDER)
            book(books, usd)
        book(books, transfer("book:broker-b/alice", "book:broker-b/bob", reference="secret-of-b"), principal="broker-b")
        book(books, transfer("book:house", "book:broker-a/alice"), principal="founder")
        numbers = {name: a.number for name, a in books._state.accounts.items()}
        pairs = [
            ("book:broker-a/alice", "book:broker-a/bob"),
            ("book:broker-b/alice", "book:broker-b/bob"),
            ("book:house", "book:broker-a/bob"),
        ]
        legs = LegColumns(
            instrument="AAPLx", sources=[numbers[s] for s, _ in pairs], destinations=[numbers[d] for _, d in pairs], units=[7, 8, 9]
        )
        book(books, TransferBatchRequest(legs=[legs], reference="secret-of-b and others"))
        trade = SettleTradesRequest(
            instrument="AAPLx", cash_instrument="USDC", sell_holds=[3], buy_holds=[2], units=[5], cash_units=[50], fee_account="book:house"
        )
        book(books, trade)
        books.execute_many(
            [transfer("book:broker-b/alice", "book:broker-b/bob"), transfer("book:house", "book:broker-a/bob")],
            principal="founder",
            pack=True,
        )
        books.execute(GrantRoleRequest(principal="secret-of-b", role=Role.ROLE_AUDITOR), principal="broker-b")
        with RunningServer(books, local_principals=True) as running:
            yield running


@pytest.fixture
def broker(server):
    with Client(server.address, "broker-a") as client:
        yield client


def holds_no_secret(*messages):
    text = " ".join(str(message) for message in messages)
    return [secret for secret in SECRETS if secret in text]


def test_own_accounts_work(broker):
    assert broker.call("TransferService/TransferUnits", transfer("book:broker-a/alice", "book:broker-a/bob")).event.units == 1


@pytest.mark.parametrize("target", ["book:broker-b/alice", "book:house", "book:nobody", "ledger:issuance", "eip155:1:0x00"])
def test_foreign_and_unknown_accounts_are_refused_alike(broker, target):
    messages = set()
    for request in (
        transfer(target, "book:broker-a/alice"),
        transfer("book:broker-a/alice", target),
        transfer(target, target, units=-1),
        transfer("book:broker-a/alice", target, validate_only=True),
    ):
        refused = broker.refused("TransferService/TransferUnits", request)
        assert (refused.code, refused.info.reason) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_PERMITTED")
        messages.add((refused.message, str(refused.info)))
    for rpc, request in (
        ("AccountService/GetAccount", accounts_pb2.GetAccountRequest(account=target)),
        ("AccountService/GetHolding", accounts_pb2.GetHoldingRequest(instrument="AAPLx", account=target)),
        ("AccountService/ListHoldings", accounts_pb2.ListHoldingsRequest(account=target)),
        ("AccountService/GetHolding", accounts_pb2.GetHoldingRequest(instrument="AAPLx", account=target, as_of=AsOf(size=5))),
        ("AccountService/CloseAccount", accounts_pb2.CloseAccountRequest(account=target)),
        ("HoldService/ListHolds", holds_pb2.ListHoldsRequest(account=target)),
    ):
        refused = broker.refused(rpc, request)
        assert refused.info.reason == "NOT_PERMITTED"
        assert target not in refused.message + str(refused.info)
    assert len(messages) == 1


def test_numbers_reach_no_further_than_names(broker, server):
    numbers = {name: a.number for name, a in server.books._state.accounts.items()}
    own = numbers["book:broker-a/alice"]
    for other in (numbers["book:broker-b/alice"], numbers["book:house"], 0, -1, 9_999, 2**31 - 1):
        for source, destination in ((own, other), (other, own)):
            legs = LegColumns(instrument="AAPLx", sources=[own, source], destinations=[own + 1, destination], units=[1, 1])
            assert broker.reason("TransferService/TransferBatch", TransferBatchRequest(legs=[legs])) == "NOT_PERMITTED"


@pytest.mark.parametrize("hold", [3, 4, 999, -1])
def test_holds_of_others_and_of_nobody_are_refused_alike(broker, hold):
    expected = {"NOT_PERMITTED"}
    assert {broker.reason("HoldService/GetHold", holds_pb2.GetHoldRequest(hold=hold))} == expected
    assert {broker.reason("HoldService/ExecuteHold", ExecuteHoldRequest(hold=hold, destination="book:broker-a/alice", units=1))} == expected
    assert {broker.reason("HoldService/ReleaseHold", holds_pb2.ReleaseHoldRequest(hold=hold))} == expected


def test_a_hold_that_is_over_still_gives_its_first_answer(broker, server):
    place = PlaceHoldRequest(instrument="AAPLx", account="book:broker-a/alice", units=4, purpose=HoldPurpose.HOLD_PURPOSE_ORDER)
    hold = broker.call("HoldService/PlaceHold", place).event.hold.hold
    request = ExecuteHoldRequest(request_id=request_id(), hold=hold, destination="book:broker-a/bob", units=4)
    first = broker.call("HoldService/ExecuteHold", request)
    again = broker.call("HoldService/ExecuteHold", request)
    assert again.booking.repeated_answer
    assert again.booking.index == first.booking.index
    request.request_id = request_id()
    assert broker.reason("HoldService/ExecuteHold", request) == "NOT_PERMITTED"


@pytest.mark.parametrize("name", ["book:broker-b/alice", "book:alice", "book:broker-ax/alice", "book:broker-a", "ledger:broker-a/x", ""])
def test_new_accounts_are_named_under_ones_own_name(broker, name):
    request = OpenAccountRequest(account=name, holder="broker-a/alice")
    assert broker.reason("AccountService/OpenAccount", request) == ("FIELD_MISSING" if not name else "NOT_PERMITTED")


def test_a_holder_is_registered_and_moved_within_ones_own_alone(broker):
    register = "AccountService/RegisterHolder"
    for name, of in (("broker-a/new", "broker-b"), ("broker-a/new", ""), ("broker-b/new", "broker-a"), ("new", "broker-a")):
        request = broker_holder("broker-a", "x")
        request.holder, request.broker = name, of
        assert broker.reason(register, request) == "NOT_PERMITTED"
    assert broker.reason(register, broker_holder("broker-a", "new")) == "OK"
    amend = accounts_pb2.AmendHolderRequest
    assert broker.reason("AccountService/AmendHolder", amend(holder="broker-a/new", broker="broker-b")) == "NOT_PERMITTED"
    assert broker.reason("AccountService/AmendHolder", amend(holder="broker-a/new", broker="")) == "NOT_PERMITTED"
    assert broker.reason("AccountService/AmendHolder", amend(holder="broker-b/alice", country="FR")) == "NOT_PERMITTED"
    assert broker.reason("AccountService/AmendHolder", amend(holder="broker-a/new", country="FR")) == "OK"


def pages_of(client, rpc, request):
    """Return all pages of a list."""
    pages = []
    while True:
        pages.append(client.call(rpc, request))
        request.page_token = pages[-1].next_page_token
        if not request.page_token:
            return pages


LISTS = [rpc for rpc, method in sorted(METHODS.items()) if "page_token" in method.input_type.fields_by_name]


@pytest.mark.parametrize("size", [1, 7, 0, 1000])
@pytest.mark.parametrize("rpc", [rpc for rpc in LISTS if cells_of(rpc)[Role.ROLE_BROKER] != "."])
def test_no_page_of_any_list_shows_others(broker, rpc, size):
    descriptor = METHODS[rpc].input_type
    request = descriptor._concrete_class(page_size=size)
    if "instrument" in descriptor.fields_by_name:
        request.instrument = "AAPLx"
    if rpc == "AccountService/ListHoldings":
        request.account = "book:broker-a/alice"
    pages = pages_of(broker, rpc, request)
    assert holds_no_secret(*pages) == []
    field = next(f.name for f in METHODS[rpc].output_type.fields if f.is_repeated and f.message_type is not None)
    assert all(len(getattr(page, field)) <= (size or 100) for page in pages)


def test_a_filtered_list_is_complete_and_has_no_holes(broker):
    own = {f"book:broker-a/client-{n:03}" for n in range(MORE)} | {"book:broker-a/alice", "book:broker-a/bob"}
    for size in (1, 5, 1000):
        pages = pages_of(broker, "AccountService/ListAccounts", accounts_pb2.ListAccountsRequest(page_size=size))
        names = [a.account for page in pages for a in page.accounts]
        assert len(names) == len(set(names))
        assert set(names) == own
        assert all(len(page.accounts) == size for page in pages[:-1])
    pages = pages_of(broker, "AccountService/ListRegister", accounts_pb2.ListRegisterRequest(page_size=3, instrument="AAPLx"))
    assert {h.account for page in pages for h in page.holdings} == own


def test_a_broker_lists_his_own_holders_only(broker):
    pages = pages_of(broker, "AccountService/ListHolders", accounts_pb2.ListHoldersRequest(page_size=3))
    holders = [holder for page in pages for holder in page.holders]
    assert {"broker-a/alice", "broker-a/bob"} <= {holder.holder for holder in holders}
    assert {holder.broker for holder in holders} == {"broker-a"}
    own = accounts_pb2.ListHoldersRequest(broker="broker-a", page_size=1000)
    assert list(broker.call("AccountService/ListHolders", own).holders) == holders
    for other in ("broker-b", ""):
        assert broker.reason("AccountService/ListHolders", accounts_pb2.ListHoldersRequest(broker=other)) == "NOT_PERMITTED"


def test_a_broker_sees_what_actions_owe_his_own_holders_only():
    clock = FixedClock()
    with market(clock=clock) as books:
        book(books, holder("issuer"), account("book:issuer-cash", "issuer"))
        give(books, "USDC", "book:issuer-cash", 10**12)
        for broker in ("broker-a", "broker-b"):
            book(books, FreezeAccountRequest(account=f"book:{broker}/alice", legal_reference=f"secret-of-{broker[-1]}"))
        book(books, FreezeAccountRequest(account="book:house", legal_reference="secret-of-house"))
        moments = [timestamp(clock.wall_us() + seconds * 1_000_000) for seconds in (10, 20)]
        terms = CashDividend(cash_instrument="USDC", cash_per_share_e8=10**12, funding_account="book:issuer-cash", reference_price_e8=1)
        dates = dict.fromkeys(("ex_date", "record_date", "payment_date"), "2026-11-22")
        announcement = AnnounceActionRequest(
            action="DVCA",
            instrument="AAPLx",
            fixing_time=moments[0],
            execution_time=moments[1],
            method=ActionMethod.ACTION_METHOD_HOLDINGS,
            terms=ActionTerms(cash_dividend=terms),
            **dates,
        )
        book(books, announcement)
        clock.pass_time(15_000_000)
        book(books, FixEntitlementsRequest(action="DVCA"))
        clock.pass_time(15_000_000)
        book(books, ExecuteActionRequest(action="DVCA"))
        owed = {each.account for each in books.execute(ListOwedRequest()).owed}
        assert owed == {"book:broker-a/alice", "book:broker-b/alice", "book:house"}
        with RunningServer(books, local_principals=True) as server, Client(server.address, "broker-a") as broker:
            pages = pages_of(broker, "CorporateActionService/ListOwed", ListOwedRequest(page_size=1))
            found = [each for page in pages for each in page.owed]
            assert [(each.account, each.holder, each.reason) for each in found] == [
                ("book:broker-a/alice", "broker-a/alice", "ACCOUNT_FROZEN")
            ]
            assert not any(secret in str(pages) for secret in ("secret-of-b", "secret-of-house", "broker-b", "book:house"))
            own = ListOwedRequest(holder="broker-a/alice", action="DVCA", instrument="AAPLx")
            assert list(broker.call("CorporateActionService/ListOwed", own).owed) == found
            assert broker.reason("CorporateActionService/ListOwed", ListOwedRequest(holder="broker-b/alice")) == "NOT_PERMITTED"


def test_page_tokens_are_good_for_one_query_and_one_principal(broker, server):
    rpc = "AccountService/ListAccounts"
    with Client(server.address, "broker-b") as other:
        token = other.call(rpc, accounts_pb2.ListAccountsRequest(page_size=3)).next_page_token
    mine = broker.call(rpc, accounts_pb2.ListAccountsRequest(page_size=3)).next_page_token
    of_another_query = broker.call(
        "AccountService/ListRegister", accounts_pb2.ListRegisterRequest(page_size=3, instrument="AAPLx")
    ).next_page_token
    for bad in (token, of_another_query, "17", "AAAA", mine[:-4] + "AAAA", "\N{SNOWMAN}", "A" * 5_000):
        refused = broker.refused(rpc, accounts_pb2.ListAccountsRequest(page_size=3, page_token=bad))
        assert (refused.info.reason, refused.info.metadata["field"]) == ("FIELD_MALFORMED", "page_token")
    narrowed = accounts_pb2.ListAccountsRequest(page_size=3, page_token=mine, holder="broker-a/alice")
    assert broker.refused(rpc, narrowed).info.reason == "FIELD_MALFORMED"
    assert broker.call(rpc, accounts_pb2.ListAccountsRequest(page_size=1000, page_token=mine)).accounts


def test_approvals_and_roles_of_others_stay_hidden(broker, server):
    assert not broker.call("ApprovalService/ListApprovals", ListApprovalsRequest()).approvals
    assert {grant.principal for grant in broker.call("ApprovalService/ListRoles", ListRolesRequest(principal="broker-a")).grants} == {
        "broker-a"
    }
    assert {grant.principal for grant in broker.call("ApprovalService/ListRoles", ListRolesRequest()).grants} == {"broker-a"}
    with Client(server.address, "broker-b") as other:
        assert len(other.call("ApprovalService/ListApprovals", ListApprovalsRequest()).approvals) == 1


def test_the_log_itself_is_closed_to_a_broker(broker, server):
    assert broker.reason("AuditService/ListEntries", audit_pb2.ListEntriesRequest()) == "NOT_PERMITTED"
    reasons = {broker.reason("AuditService/GetReceipt", GetReceiptRequest(index=i)) for i in (*range(120), 10**9, -1)}
    assert reasons == {"NOT_PERMITTED"}
    assert broker.reason("AuditService/FindRequest", FindRequestRequest(principal="broker-b", request_id="x")) == "NOT_PERMITTED"


def test_a_receipt_of_ones_own_transfer_is_given(broker, server):
    index = broker.call("TransferService/TransferUnits", transfer("book:broker-a/alice", "book:broker-a/bob")).booking.index
    assert broker.reason("AuditService/GetReceipt", GetReceiptRequest(index=index)) == "STATE_UNFIT"  # allowed, but there is no signer


def test_the_stream_shows_a_broker_his_own_and_nothing_else(broker, server):
    pieces = list(broker.call("AuditService/StreamEntries", StreamEntriesRequest(stop_when_caught_up=True)))
    assert pieces[-1].next_index == server.books.size
    assert not any(piece.entries for piece in pieces)
    shown = [visible for piece in pieces for visible in piece.visible_entries]
    assert holds_no_secret(*shown) == []
    events = {visible.entry.WhichOneof("event"): visible.entry for visible in shown}
    batch = events["batch_transferred"].batch_transferred
    numbers = {name: a.number for name, a in server.books._state.accounts.items()}
    assert list(batch.legs[0].sources) == [numbers["book:broker-a/alice"], 0]
    assert list(batch.legs[0].units) == [7, 9]
    assert not batch.reference
    trade = events["trades_settled"].trades_settled
    assert (list(trade.sell_holds), list(trade.buy_holds), list(trade.units)) == ([0], [2], [5])
    assert (list(trade.sellers), list(trade.buyers)) == ([0], [numbers["book:broker-a/alice"]])
    packed = events["transfers_packed"].transfers_packed
    assert list(packed.units) == [1]
    assert not packed.request_ids
    others = [v.entry for v in shown if v.entry.principal not in ("", "broker-a")]
    assert others == []
    assert "instrument_registered" in events
    assert not {"approval_requested", "custody_account_opened"} & events.keys()


def test_the_other_broker_sees_the_other_side(server):
    with Client(server.address, "broker-b") as other:
        pieces = list(other.call("AuditService/StreamEntries", StreamEntriesRequest(stop_when_caught_up=True)))
    shown = [visible for piece in pieces for visible in piece.visible_entries]
    assert "broker-a" not in str(shown)
    trade = next(v.entry.trades_settled for v in shown if v.entry.WhichOneof("event") == "trades_settled")
    assert (list(trade.sell_holds), list(trade.buy_holds)) == ([3], [0])
    assert any(v.entry.WhichOneof("event") == "approval_requested" for v in shown)


def test_what_only_others_may_do_is_refused_whatever_is_sent(broker):
    for rpc, method in METHODS.items():
        if cells_of(rpc)[Role.ROLE_BROKER] == "." and method.input_type._concrete_class in RULES:
            assert broker.reason(rpc, method.input_type._concrete_class()) == "NOT_PERMITTED"


def test_an_auditor_reads_all_and_changes_nothing(server):
    before = server.books.size
    with Client(server.address, "auditor-1") as auditor:
        for rpc, method in METHODS.items():
            if method.input_type._concrete_class in RULES:
                assert auditor.reason(rpc, method.input_type._concrete_class()) == "NOT_PERMITTED"
        pieces = list(auditor.call("AuditService/StreamEntries", StreamEntriesRequest(stop_when_caught_up=True)))
    entries = [entry for piece in pieces for entry in piece.entries]
    assert [(entry.index, entry.data) for entry in entries] == [(i, d) for i, _, d in server.books.log.read(0, server.books.size)]
    assert server.books.size == before
