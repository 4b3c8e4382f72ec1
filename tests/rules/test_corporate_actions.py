"""The life of a corporate action, whatever it does: every refusal in its order of precedence, due steps, and how an action is found."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from actions import HOLDINGS, HOUR, MULTIPLIER, at, carry_out, dividend, execute, fix, holdings, set_multiplier, split, story, totals
from scenario import Scenario, account, enforcer, holder, units_left
from steps import check_repeat

import ledger
from ledger.batch import ENTRY_BYTES_MAX
from ledger.records import NEVER
from ledger.rules.accounts import add_account
from ledger.rules.corporate_actions import effects, lifecycle
from ledger.rules.corporate_actions.handlers import Handler, find_handlers
from stockledger.v1.accounts_pb2 import (
    AmendHolderRequest,
    FreezeAccountRequest,
    FreezeHolderRequest,
    HolderState,
    UnfreezeAccountRequest,
    UnfreezeHolderRequest,
)
from stockledger.v1.common_pb2 import AsOf, Operation
from stockledger.v1.corporate_actions_pb2 import (
    Action,
    ActionAnnounced,
    ActionCancelled,
    ActionCompleted,
    ActionEffect,
    ActionState,
    ActionTerms,
    AnnounceActionRequest,
    CancelActionRequest,
    DistributionPaid,
    EntitlementReleased,
    EntitlementsFixed,
    ExecuteActionRequest,
    FixEntitlementsRequest,
    GetActionRequest,
    ListActionsRequest,
    ListOwedRequest,
    OwedEntitlement,
    ReleaseEntitlementRequest,
)
from stockledger.v1.eligibility_pb2 import EligibilityRule, SetEligibilityRequest
from stockledger.v1.events_pb2 import Entry
from stockledger.v1.holds_pb2 import HoldPurpose, PlaceHoldRequest
from stockledger.v1.instruments_pb2 import HaltInstrumentRequest, ResumeInstrumentRequest, RetireInstrumentRequest
from stockledger.v1.issuance_pb2 import IssueUnitsRequest
from stockledger.v1.transfers_pb2 import Receivable, TransferUnitsRequest

SHARE = 10**8


@pytest.fixture
def books() -> Scenario:
    return story(AAPLx={"book:alice": SHARE, "book:bob": 3 * SHARE}, NVDAx={"book:alice": SHARE})


def transfer(symbol: str = "AAPLx", units: int = 1) -> TransferUnitsRequest:
    return TransferUnitsRequest(instrument=symbol, source="book:alice", destination="book:bob", units=units)


def cancel(action: str = "ACTION-1", cause: str = "withdrawn by the issuer") -> CancelActionRequest:
    return CancelActionRequest(action=action, cause=cause)


# ---- announce -------------------------------------------------------------------------------------------------------------------------


def test_an_action_is_announced_with_its_effect(books: Scenario) -> None:
    command = dividend()
    announced = Action(
        action="ACTION-1",
        instrument="AAPLx",
        ex_date="2026-11-22",
        record_date="2026-11-22",
        payment_date="2026-11-23",
        fixing_time=at(1),
        execution_time=at(2),
        method=HOLDINGS,
        state=ActionState.ACTION_STATE_ANNOUNCED,
        terms=command.terms,
        effect=ActionEffect.ACTION_EFFECT_DISTRIBUTION,
    )
    books.when(command).then(ActionAnnounced(action=announced))
    assert books.books.execute(GetActionRequest(action="ACTION-1")).action == announced


@pytest.mark.parametrize(
    ("announcement", "method", "effect"),
    [
        (dividend(), HOLDINGS, ActionEffect.ACTION_EFFECT_DISTRIBUTION),
        (dividend(method=MULTIPLIER), MULTIPLIER, ActionEffect.ACTION_EFFECT_MULTIPLIER),
        (split(), HOLDINGS, ActionEffect.ACTION_EFFECT_REPLACEMENT),
        (split(method=MULTIPLIER), MULTIPLIER, ActionEffect.ACTION_EFFECT_MULTIPLIER),
    ],
)
def test_the_method_makes_the_effect(books: Scenario, announcement: AnnounceActionRequest, method: int, effect: int) -> None:
    action = books.when(announcement).accepted().booked[0].action
    assert (action.method, action.effect) == (method, effect)


def without_terms(**changes: Any) -> AnnounceActionRequest:
    command = split(**changes)
    command.ClearField("terms")
    return command


ANNOUNCE_REFUSALS = [
    ("FIELD_MISSING", dividend(action="", payment_date="2026-11-21")),
    ("FIELD_MALFORMED", dividend(action="one action", instrument="")),
    ("FIELD_MISSING", dividend(instrument="", ex_date="22.11.2026")),
    ("FIELD_MISSING", dividend(ex_date="")),
    ("FIELD_MALFORMED", dividend(record_date="2026-11-31")),
    ("FIELD_MISSING", dividend(payment_date="")),
    ("FIELD_MISSING", dividend(execution_time=None, method=9)),
    ("FIELD_MISSING", dividend(method=0)),
    ("FIELD_MALFORMED", dividend(method=9)),
    ("FIELD_MISSING", without_terms(payment_date="2026-11-21")),
    ("DATES_OUT_OF_ORDER", dividend(payment_date="2026-11-21", instrument="NONEx")),
    ("DATES_OUT_OF_ORDER", dividend(fixing_time=at(0), instrument="NONEx")),
    ("DATES_OUT_OF_ORDER", split(execution_time=at(0), instrument="NONEx")),
    ("DATES_OUT_OF_ORDER", dividend(fixing_time=at(2), execution_time=at(1.9))),
    ("INSTRUMENT_NOT_FOUND", dividend(instrument="NONEx", fixing_time=None)),
    ("FIELD_MISSING", dividend({"funding_account": "book:nobody"}, fixing_time=None)),
    ("INSTRUMENT_KIND_UNFIT", split(instrument="USDC")),
]


@pytest.mark.parametrize(("reason", "command"), ANNOUNCE_REFUSALS)
def test_refusals_of_an_announcement_in_order_of_precedence(books: Scenario, reason: str, command: AnnounceActionRequest) -> None:
    books.when(command).raises(reason)
    books.when(dividend()).accepted()


def test_an_id_is_used_once_even_if_the_action_was_cancelled(books: Scenario) -> None:
    books.given(split(), cancel()).when(split(instrument="USDC")).raises("ALREADY_EXISTS", action="ACTION-1")


def test_a_retired_instrument_has_no_actions(books: Scenario) -> None:
    books.given(RetireInstrumentRequest(instrument="GEx")).when(split(instrument="GEx")).raises("INSTRUMENT_RETIRED")


def test_execution_may_come_with_the_fixing_and_payment_on_the_record_date(books: Scenario) -> None:
    books.when(dividend(execution_time=at(1), payment_date="2026-11-22")).accepted()


def test_this_very_moment_is_not_ahead(books: Scenario) -> None:
    books.pass_time(HOUR).when(dividend()).raises("DATES_OUT_OF_ORDER", later="fixing_time")
    soon = at(1)
    soon.FromMicroseconds(soon.ToMicroseconds() + 1)
    books.when(dividend(fixing_time=soon)).accepted()


# ---- fix ------------------------------------------------------------------------------------------------------------------------------


def test_entitlements_are_fixed_for_all_holdings_by_account_number(books: Scenario) -> None:
    books.given(dividend()).pass_time(HOUR)
    alice, bob = (books.books._state.accounts[f"book:{name}"].number for name in ("alice", "bob"))
    expected = EntitlementsFixed(action="ACTION-1", accounts=[alice, bob], units=[SHARE, 3 * SHARE], multiplier=str(10**18))
    answer = books.when(fix()).then(expected).answer
    assert (answer.entitled_account_count, answer.entitled_units) == (2, 4 * SHARE)


def test_what_is_sold_after_the_fixing_is_still_entitled(books: Scenario) -> None:
    books.given(dividend()).pass_time(HOUR).given(fix(), transfer(units=SHARE)).pass_time(HOUR)
    books.when(execute(), approver="approver").accepted()
    assert holdings(books, "USDC")["alice"] == 212_500


@pytest.mark.parametrize(("reason", "action"), [("FIELD_MISSING", ""), ("ACTION_NOT_FOUND", "NONE"), ("STATE_UNFIT", "SPLIT")])
@pytest.mark.parametrize("command", [FixEntitlementsRequest, ExecuteActionRequest])
def test_refusals_of_the_name(books: Scenario, command: Any, reason: str, action: str) -> None:
    books.given(split(action="SPLIT"))
    if command is ExecuteActionRequest:
        books.given(cancel("SPLIT"))
    books.when(command(action=action)).raises(reason)


def test_a_step_is_not_taken_before_its_time_nor_twice(books: Scenario) -> None:
    books.given(dividend()).when(fix()).raises("DATES_OUT_OF_ORDER")
    books.pass_time(HOUR).when(execute()).raises("STATE_UNFIT", state="ACTION_STATE_ANNOUNCED")
    books.given(fix()).when(fix()).raises("STATE_UNFIT", state="ACTION_STATE_FIXED")
    books.when(execute()).raises("DATES_OUT_OF_ORDER")
    books.pass_time(HOUR).when(execute(), approver="approver").accepted()
    for command in (fix(), execute(), cancel()):
        books.when(command).raises("STATE_UNFIT", state="ACTION_STATE_COMPLETED")


def test_execution_takes_another_persons_approval(books: Scenario) -> None:
    books.given(split()).pass_time(2 * HOUR).when(execute()).accepted()
    assert holdings(books, "NVDAx") == {"alice": SHARE}
    books.when(execute(), approver="operator").raises_after_booking("APPROVER_IS_REQUESTER")
    books.when(execute(), approver="approver").accepted()
    assert holdings(books, "NVDAx") == {"alice": 10 * SHARE}


# ---- what is due ----------------------------------------------------------------------------------------------------------------------


def next_due(books: Scenario, symbol: str) -> int:
    return books.books._state.instruments[symbol].next_due_time_us


def moment_us(hours: float) -> int:
    return int(at(hours).ToMicroseconds())


def test_nothing_is_booked_at_yesterdays_terms(books: Scenario) -> None:
    books.given(split()).pass_time(2 * HOUR - 1).when(transfer("NVDAx")).accepted()
    books.pass_time(1).when(transfer("NVDAx")).raises("ACTION_DUE", due_time="2026-11-22T20:00:00Z")
    books.when(transfer("AAPLx")).accepted()
    books.given(execute()).when(transfer("NVDAx")).accepted()


def test_a_due_fixing_stops_transfers_and_a_due_payment_does_not(books: Scenario) -> None:
    books.given(dividend()).pass_time(HOUR).when(transfer()).raises("ACTION_DUE")
    books.given(fix()).when(transfer()).accepted()
    books.pass_time(HOUR).when(transfer()).accepted()


def test_a_fixing_of_a_split_is_a_step_of_its_own(books: Scenario) -> None:
    books.given(split(fixing_time=at(1))).pass_time(HOUR).when(transfer("NVDAx")).raises("ACTION_DUE")
    books.given(fix()).when(transfer("NVDAx")).accepted()
    books.pass_time(HOUR).when(transfer("NVDAx")).raises("ACTION_DUE")
    books.given(execute()).when(transfer("NVDAx")).accepted()


def test_a_cancelled_action_is_not_due(books: Scenario) -> None:
    books.given(split(), dividend(action="DVCA")).pass_time(2 * HOUR)
    books.when(cancel("SPLIT", "x" * 141)).raises("FIELD_MALFORMED")
    books.when(cancel("NONE")).raises("ACTION_NOT_FOUND")
    books.when(cancel()).then(ActionCancelled(action="ACTION-1", cause="withdrawn by the issuer"))
    books.when(transfer("NVDAx")).accepted()
    books.given(fix("DVCA")).when(cancel("DVCA")).accepted()
    state = books.books._state
    assert not state.entitlements
    assert (next_due(books, "AAPLx"), next_due(books, "NVDAx")) == (NEVER, NEVER)
    books.when(cancel("DVCA")).raises("STATE_UNFIT", state="ACTION_STATE_CANCELLED")


def test_the_earliest_step_of_all_actions_of_an_instrument_is_the_due_one(books: Scenario) -> None:
    books.given(split(action="B", execution_time=at(3)), split(action="A", execution_time=at(5)), dividend(instrument="NVDAx", action="C"))
    assert next_due(books, "NVDAx") == moment_us(1)
    books.pass_time(6 * HOUR).given(fix("C"))
    assert next_due(books, "NVDAx") == moment_us(3)
    books.when(execute("A")).raises("ACTION_DUE", action="B", due_time="2026-11-22T21:00:00Z")
    books.given(execute("B"))
    assert next_due(books, "NVDAx") == moment_us(5)
    books.given(execute("A"), execute("C"))
    assert next_due(books, "NVDAx") == NEVER
    assert holdings(books, "NVDAx") == {"alice": 100 * SHARE}
    assert totals(books, "C")["declared"] == 250_000, "paid on the units and at the terms of the fixing, before both splits"


def test_of_two_steps_due_at_one_moment_either_may_come_first(books: Scenario) -> None:
    books.given(split(action="A"), split(2, action="B")).pass_time(2 * HOUR)
    books.given(execute("B"), execute("A"))
    assert holdings(books, "NVDAx") == {"alice": 20 * SHARE}


# ---- what was blocked or unclaimed ----------------------------------------------------------------------------------------------------


def release(**changes: Any) -> ReleaseEntitlementRequest:
    return ReleaseEntitlementRequest(**({"action": "ACTION-1", "account": "book:alice"} | changes))


@pytest.fixture
def blocked(books: Scenario) -> Scenario:
    """Alice was frozen when 212,500 were to be paid to her."""
    return carry_out(books.given(FreezeHolderRequest(holder="h-alice", legal_reference="order 7")), dividend())


def test_what_was_blocked_is_paid_once_it_can_be(blocked: Scenario) -> None:
    assert holdings(blocked, "USDC")["ledger:blocked"] == 212_500
    blocked.when(release()).raises("HOLDER_FROZEN", legal_reference="order 7")
    blocked.given(UnfreezeHolderRequest(holder="h-alice", legal_reference="order 8")).when(release()).then(
        EntitlementReleased(
            action="ACTION-1", account="book:alice", instrument="USDC", units=212_500, blocked=True, destination="book:alice"
        )
    )
    assert "ledger:blocked" not in holdings(blocked, "USDC")
    assert holdings(blocked, "USDC")["alice"] == 212_500
    blocked.when(release()).raises("ENTRY_NOT_FOUND")


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", release(action="", account="book:nobody")),
        ("FIELD_MISSING", release(action="NONE", account="")),
        ("ACTION_NOT_FOUND", release(action="NONE", account="book:nobody")),
        ("ACCOUNT_NOT_FOUND", release(account="book:nobody")),
        ("ACCOUNT_NOT_FOUND", release(destination="book:nobody")),
        ("ACCOUNT_RESERVED", release(account="ledger:remainder")),
        ("ACCOUNT_RESERVED", release(destination="ledger:remainder")),
        ("ENTRY_NOT_FOUND", release(account="book:bob")),
        ("STATE_UNFIT", release(destination="book:bob")),
    ],
)
def test_refusals_of_a_release_in_order_of_precedence(blocked: Scenario, reason: str, command: ReleaseEntitlementRequest) -> None:
    blocked.given(UnfreezeHolderRequest(holder="h-alice", legal_reference="order 8"))
    blocked.when(command).raises(reason)
    blocked.when(release()).accepted()


def test_a_halt_of_the_cash_stops_a_release(blocked: Scenario) -> None:
    blocked.given(UnfreezeHolderRequest(holder="h-alice", legal_reference="order 8"))
    blocked.given(HaltInstrumentRequest(instrument="USDC", operations=[Operation.OPERATION_TRANSFER]))
    blocked.when(release()).raises("INSTRUMENT_HALTED")
    blocked.given(ResumeInstrumentRequest(instrument="USDC", operations=[Operation.OPERATION_TRANSFER])).when(release()).accepted()


def test_it_may_be_paid_to_another_account_of_the_same_holder(blocked: Scenario) -> None:
    blocked.given(UnfreezeHolderRequest(holder="h-alice", legal_reference="order 8"), account("book:alice-new", "h-alice"))
    blocked.when(release(destination="book:alice-new")).accepted()
    assert holdings(blocked, "USDC")["alice-new"] == 212_500


def test_what_a_frozen_account_is_owed_goes_to_another_one_by_an_enforcer_only(books: Scenario) -> None:
    """The freeze of one account must not be walked around by the holder's other one."""
    books.given(FreezeAccountRequest(account="book:alice", legal_reference="order 7"), account("book:alice-new", "h-alice"), enforcer())
    carry_out(books, dividend())
    assert holdings(books, "USDC")["ledger:blocked"] == 212_500
    elsewhere = release(destination="book:alice-new")
    books.when(release(), principal="enforcer").raises("ACCOUNT_FROZEN", legal_reference="order 7")
    books.when(release(destination="book:alice"), principal="enforcer").raises("ACCOUNT_FROZEN")
    books.when(elsewhere).raises("NOT_PERMITTED", principal="operator", needed="ROLE_ENFORCER")
    books.when(elsewhere, principal="enforcer").then(
        EntitlementReleased(
            action="ACTION-1", account="book:alice", instrument="USDC", units=212_500, blocked=True, destination="book:alice-new"
        )
    )
    assert holdings(books, "USDC")["alice-new"] == 212_500


def test_once_unfrozen_it_goes_elsewhere_without_an_enforcer(books: Scenario) -> None:
    books.given(FreezeAccountRequest(account="book:alice", legal_reference="order 7"), account("book:alice-new", "h-alice"))
    carry_out(books, dividend())
    books.given(UnfreezeAccountRequest(account="book:alice", legal_reference="order 8"))
    books.when(release(destination="book:alice-new")).accepted()


def owed(books: Scenario, **fields: Any) -> list[OwedEntitlement]:
    """Return a list of what is owed, all pages."""
    request, found = ListOwedRequest(page_size=1, **fields), []
    while True:
        answer = books.books.execute(request)
        assert answer.size == books.books.size
        found += answer.owed
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


def test_what_actions_owe_is_listed_with_why(books: Scenario) -> None:
    """Of four who have AAPLx alice is frozen, bob's relation has ended, carol may not hold the cash, and dave is paid."""
    books.given(
        *(IssueUnitsRequest(instrument="AAPLx", account=f"book:{name}", units=SHARE, reference="DTC 2") for name in ("carol", "dave")),
        FreezeAccountRequest(account="book:alice", legal_reference="order 7"),
        AmendHolderRequest(holder="h-bob", state=HolderState.HOLDER_STATE_CLOSED),
        AmendHolderRequest(holder="h-carol", country="US"),
        SetEligibilityRequest(instrument="USDC", rule=EligibilityRule(effective_date="2026-01-01", barred_countries=["US"])),
    )
    carry_out(books, dividend({"withholding": [{"country": "DE", "rate_bps": 1500}, {"country": "US", "rate_bps": 3000}]}))
    alice, bob, carol = found = owed(books)
    assert alice == OwedEntitlement(
        action="ACTION-1",
        instrument="AAPLx",
        account="book:alice",
        holder="h-alice",
        cash_instrument="USDC",
        blocked_units=212_500,
        withheld_units=37_500,
        reason="ACCOUNT_FROZEN",
        explanation="book:alice is frozen (order 7)",
    )
    assert (bob.holder, bob.blocked_units, bob.unclaimed_units, bob.reason) == ("h-bob", 0, 750_000, "HOLDER_NOT_ACTIVE")
    assert (carol.holder, carol.blocked_units, carol.withheld_units, carol.reason) == ("h-carol", 175_000, 75_000, "HOLDER_NOT_ELIGIBLE")
    of_ledger = holdings(books, "USDC")
    assert sum(each.blocked_units for each in found) == of_ledger["ledger:blocked"]
    assert sum(each.unclaimed_units for each in found) == of_ledger["ledger:unclaimed"]
    assert owed(books, holder="h-bob") == owed(books, holder="h-bob", action="ACTION-1", instrument="AAPLx") == [bob]
    assert owed(books, instrument="NVDAx") == owed(books, holder="h-dave") == []

    books.given(HaltInstrumentRequest(instrument="USDC", operations=[Operation.OPERATION_TRANSFER]))
    assert {each.reason for each in owed(books)} == {"INSTRUMENT_HALTED"}
    books.given(ResumeInstrumentRequest(instrument="USDC", operations=[Operation.OPERATION_TRANSFER]))
    books.given(UnfreezeAccountRequest(account="book:alice", legal_reference="order 8"))
    assert [each.reason for each in owed(books)] == ["", "HOLDER_NOT_ACTIVE", "HOLDER_NOT_ELIGIBLE"]
    size = books.books.size
    books.when(release()).accepted()
    assert owed(books) == [bob, carol]
    before = books.books.execute(ListOwedRequest(as_of=AsOf(size=size))).owed
    assert [each.account for each in before] == ["book:alice", "book:bob", "book:carol"]


@pytest.mark.parametrize(
    ("reason", "fields"),
    [
        ("ACTION_NOT_FOUND", {"action": "NONE", "instrument": "NONE"}),
        ("INSTRUMENT_NOT_FOUND", {"instrument": "NONE", "holder": "NONE"}),
        ("HOLDER_NOT_FOUND", {"holder": "NONE"}),
    ],
)
def test_refusals_of_a_list_of_what_is_owed(books: Scenario, reason: str, fields: dict[str, str]) -> None:
    with pytest.raises(ledger.LedgerError) as caught:
        books.books.execute(ListOwedRequest(**fields))
    assert caught.value.reason_name == reason


def test_a_holder_whose_relation_has_ended_leaves_it_unclaimed(books: Scenario) -> None:
    books.given(AmendHolderRequest(holder="h-alice", state=HolderState.HOLDER_STATE_CLOSED))
    carry_out(books, dividend())
    assert totals(books)["unclaimed"] == holdings(books, "USDC")["ledger:unclaimed"] == 212_500
    books.when(release()).raises("HOLDER_NOT_ACTIVE", state="HOLDER_STATE_CLOSED")
    books.given(AmendHolderRequest(holder="h-alice", state=HolderState.HOLDER_STATE_SUSPENDED)).when(release()).accepted()
    assert not books.booked[0].blocked
    assert holdings(books, "USDC")["alice"] == 212_500


# ---- repeats --------------------------------------------------------------------------------------------------------------------------


def test_a_repeat_gets_the_first_answer(books: Scenario) -> None:
    check_repeat(books, dividend(), dividend(ex_date="2026-11-21"))


def test_a_repeated_fixing_gets_the_first_answer(books: Scenario) -> None:
    check_repeat(books.given(dividend()).pass_time(HOUR), fix(), fix("NONE"))


def test_a_repeated_cancelling_gets_the_first_answer(books: Scenario) -> None:
    check_repeat(books.given(split()), cancel(), cancel(cause="another"))


def test_a_repeated_execution_gets_the_first_answer(books: Scenario) -> None:
    check_repeat(books.given(split()).pass_time(2 * HOUR), execute(), execute("NONE"))


def test_a_repeated_release_gets_the_first_answer(blocked: Scenario) -> None:
    blocked.given(UnfreezeHolderRequest(holder="h-alice", legal_reference="order 8"))
    check_repeat(blocked, release(), release(account="book:bob"))


# ---- reads ----------------------------------------------------------------------------------------------------------------------------


def test_actions_are_listed_by_id_and_by_instrument(books: Scenario) -> None:
    books.given(split(action="B"), dividend(action="C"), split(action="A"), cancel("A"))
    listed = books.books.execute(ListActionsRequest(page_size=2))
    assert [action.action for action in listed.actions] == ["A", "B"]
    assert listed.actions[0].state == ActionState.ACTION_STATE_CANCELLED
    rest = books.books.execute(ListActionsRequest(page_size=2, page_token=listed.next_page_token))
    assert [action.action for action in rest.actions] == ["C"]
    of_instrument = books.books.execute(ListActionsRequest(instrument="AAPLx"))
    assert [action.action for action in of_instrument.actions] == ["C"]
    books.when(ListActionsRequest(instrument="NONEx")).raises("INSTRUMENT_NOT_FOUND")
    books.when(GetActionRequest(action="NONE")).raises("ACTION_NOT_FOUND")


def test_an_action_without_totals_has_not_been_completed(books: Scenario) -> None:
    books.given(dividend())
    assert not books.books.execute(GetActionRequest(action="ACTION-1")).HasField("totals")
    books.pass_time(2 * HOUR).given(fix(), execute())
    answer = books.books.execute(GetActionRequest(action="ACTION-1"))
    assert answer.action.state == ActionState.ACTION_STATE_COMPLETED
    assert answer.totals == books.books.execute(GetActionRequest(action="ACTION-1")).totals
    assert totals(books) == {"declared": 1_000_000, "paid": 962_500, "withheld": 37_500, "account_count": 2}


# ---- parts ----------------------------------------------------------------------------------------------------------------------------


def hold(name: str) -> PlaceHoldRequest:
    """Hold three units of seven and more: two of these on one account are nearly all it has."""
    return PlaceHoldRequest(instrument="NVDAx", account=f"book:{name}", units=3 * SHARE, purpose=HoldPurpose.HOLD_PURPOSE_ORDER)


@pytest.mark.parametrize("ratio", [(1, 8), (10, 1)])
def test_an_action_in_many_parts_is_the_same_as_in_one(monkeypatch: pytest.MonkeyPatch, ratio: tuple[int, int]) -> None:
    holders = {f"book:{name}": 7 * SHARE + n for n, name in enumerate(("alice", "bob", "carol", "dave"), 1)}
    holds = [hold(name) for name in ("alice", "dave", "alice", "dave")]
    whole = story(AAPLx=holders, NVDAx=holders).given(*holds)
    carry_out(whole, dividend())
    carry_out(whole, split(*ratio, action="SPLIT", execution_time=at(4)))
    monkeypatch.setattr(lifecycle, "ENTITLEMENTS_PER_ENTRY_MAX", 3)
    monkeypatch.setattr(effects, "DISTRIBUTION_ROWS_MAX", 3)
    monkeypatch.setattr(effects, "_FRAGMENT_ROWS_MAX", 1)
    monkeypatch.setattr(effects, "_PART_BYTES_MAX", 60)
    cut = story(AAPLx=holders, NVDAx=holders).given(*holds)
    carry_out(cut, dividend())
    assert [type(event) for event in cut.booked[-3:]] == [DistributionPaid, DistributionPaid, ActionCompleted]
    assert (cut.booked[-3].remainder_units, cut.booked[-2].remainder_units) == (0, totals(cut).get("remainder", 0))
    carry_out(cut, split(*ratio, action="SPLIT", execution_time=at(4)))
    replaced = [event for event in cut.booked if isinstance(event, effects.UnitsReplaced)]
    assert len(replaced) > 2
    assert [event.last for event in replaced] == [False] * (len(replaced) - 1) + [True]
    assert bool(replaced[0].holds) == (ratio == (1, 8)), "holds shrink first and grow last"
    assert units_left(cut) == units_left(whole)
    for symbol in ("AAPLx", "NVDAx", "USDC"):
        assert holdings(cut, symbol) == holdings(whole, symbol)
    assert (totals(cut), totals(cut, "SPLIT")) == (totals(whole), totals(whole, "SPLIT"))


def test_totals_that_are_not_what_the_parts_booked_are_a_mistake_of_ours(books: Scenario) -> None:
    """Checked at both ends: when decided, and again when booked, where a forged or damaged log would show."""
    books.given(split())
    state = books.books._state
    with pytest.raises(AssertionError, match="sum of its parts"):
        lifecycle.evolve_completed(state, ActionCompleted(action="ACTION-1", declared_units=2, paid_units=1), Entry())
    with pytest.raises(AssertionError, match="what the parts booked"):
        lifecycle.evolve_completed(state, ActionCompleted(action="ACTION-1", declared_units=1, paid_units=1), Entry())
    lifecycle.evolve_completed(state, ActionCompleted(action="ACTION-1"), Entry())


def test_every_part_fits_a_leaf() -> None:
    """The longest names, the largest numbers, and an envelope with the longest principal."""
    action, text, number, units = "A" * 64, "x" * 140, 2**31 - 1, 2**62
    receivable = Receivable(holder="h" * 64, instrument="I" * 32, loss_account="book:" + "l" * 64, units=units)
    fixed_rows, paid_rows, receivables = (
        lifecycle.ENTITLEMENTS_PER_ENTRY_MAX,
        effects.DISTRIBUTION_ROWS_MAX,
        effects._FRAGMENT_RECEIVABLES_MAX,
    )
    rows = effects._FRAGMENT_ROWS_MAX
    of_accounts = effects.UnitsReplaced(accounts=[number] * rows, old_units=[units] * rows, new_units=[units] * rows)
    of_receivables = effects.UnitsReplaced(receivables=[receivable] * receivables)
    assert max(of_accounts.ByteSize(), of_receivables.ByteSize()) < effects._PART_BYTES_MAX
    full = effects._parts_of(iter([of_accounts] * 20))[0]
    full.action, full.instrument, full.last = action, "I" * 32, True
    full.new_shares = full.old_shares = full.supply_units = full.authorised_units = full.remainder_units = units
    events = {
        "entitlements_fixed": EntitlementsFixed(
            action=action, accounts=[number] * fixed_rows, units=[units] * fixed_rows, multiplier=str(2**128 - 1)
        ),
        "distribution_paid": DistributionPaid(
            action=action,
            cash_instrument="I" * 32,
            funding_account=text,
            accounts=[number] * paid_rows,
            paid_units=[units] * paid_rows,
            withheld_units=[units] * paid_rows,
            blocked_units=[units] * paid_rows,
            unclaimed_units=[units] * paid_rows,
            remainder_units=units,
        ),
        "units_replaced": full,
    }
    for field, event in events.items():
        entry = Entry(
            decision_time_us=2**62,
            principal="\U0001f4a0" * 128,
            request_id=bytes(16),
            request_digest=bytes(16),
            part=2**30,
            part_count=2**30,
            arithmetic_version=2**30,
            **{field: event},
        )
        assert entry.ByteSize() <= ENTRY_BYTES_MAX, field


# ---- a new action is a file, a message and a line -------------------------------------------------------------------------------------


PACKAGE = Path(lifecycle.__file__).parent
GENERIC = {"schedule", "__init__", "lifecycle", "effects", "handlers"}


def test_every_line_of_the_terms_has_its_file_and_every_file_its_line() -> None:
    assert set(lifecycle.KINDS) == {path.stem for path in PACKAGE.glob("*.py")} - GENERIC
    assert set(lifecycle.HANDLERS) == set(lifecycle.KINDS)
    for handler in lifecycle.HANDLERS.values():
        assert isinstance(handler, Handler)
        assert set(handler.effects) == {HOLDINGS, MULTIPLIER}


def test_nothing_but_its_own_file_knows_an_action() -> None:
    """Every other file of the ledger names neither the line nor the message, so a new action changes none of them."""
    messages = {field.message_type.name for field in ActionTerms.DESCRIPTOR.fields}
    names = re.compile("|".join(rf"\b{name}\b" for name in (*lifecycle.KINDS, *messages)))
    others = [path for path in Path(ledger.__file__).parent.rglob("*.py") if path.stem not in lifecycle.KINDS]
    assert [str(path) for path in others if names.search(path.read_text(encoding="utf-8"))] == []


def test_a_file_with_a_handler_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (PACKAGE / "stock_split.py").read_text(encoding="utf-8")
    (tmp_path / "bonus_issue.py").write_text(source, encoding="utf-8")
    package = "ledger.rules.corporate_actions"
    with pytest.raises(ModuleNotFoundError):
        find_handlers(["bonus_issue"], package)
    monkeypatch.setattr(sys.modules[package], "__path__", [str(PACKAGE), str(tmp_path)])
    monkeypatch.delitem(sys.modules, f"{package}.bonus_issue", raising=False)
    found = find_handlers([*lifecycle.KINDS, "bonus_issue"], package)
    sys.modules.pop(f"{package}.bonus_issue")
    assert found["bonus_issue"].effects == found["stock_split"].effects
    assert found["bonus_issue"].execute is not found["stock_split"].execute


# ---- accounts that cannot be paid -----------------------------------------------------------------------------------------------------


def test_units_at_a_chain_are_entitled_and_their_cash_waits_unclaimed(books: Scenario) -> None:
    """Opened and filled past the rules: what a chain's reader will do. Replay does not know it."""
    state = books.given(holder("h-wallet", "DE"), account("book:wallet", "h-wallet")).books._state
    number = state.next_number("account")
    add_account(state, "eip155:1:0xabc", number, "h-wallet")
    add_account(state, "eip155:1:0xdef", number + 1, "")
    books.units("AAPLx", "eip155:1:0xabc", SHARE).units("AAPLx", "eip155:1:0xdef", SHARE)
    carry_out(books, dividend())
    assert totals(books)["unclaimed"] == 212_500 + 250_000, "nobody knows where who is not registered lives: no tax"
    books.when(release(account="eip155:1:0xdef")).raises("HOLDER_NOT_ACTIVE")
    books.when(release(account="eip155:1:0xabc")).raises("PLACE_UNFIT")
    books.when(release(account="eip155:1:0xabc", destination="book:wallet")).accepted()
    books.given(split(instrument="AAPLx", action="SPLIT", execution_time=at(3))).pass_time(HOUR)
    books.when(execute("SPLIT")).raises("PLACE_UNFIT", account="eip155:1:0xabc")
    books.given(cancel("SPLIT"), split(instrument="AAPLx", action="AGAIN", execution_time=at(4), method=MULTIPLIER)).pass_time(HOUR)
    books.when(execute("AGAIN"), approver="approver").accepted()


def test_the_multiplier_of_the_fixing_moment_counts(books: Scenario) -> None:
    books.given(set_multiplier("AAPLx", 2 * 10**18), dividend()).pass_time(HOUR)
    books.given(fix(), set_multiplier("AAPLx", 3 * 10**18, 2 * 10**18)).pass_time(HOUR).given(execute())
    assert totals(books)["declared"] == 2 * 1_000_000
