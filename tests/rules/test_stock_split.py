"""Splits and reverse splits, by both methods: examples worked out by hand, what they reach, and what is never lost."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from actions import HOLDINGS, HOUR, MULTIPLIER, at, carry_out, evidence, execute, holdings, set_multiplier, split, story, totals
from hypothesis import given as each
from hypothesis import settings
from hypothesis import strategies as some
from scenario import Scenario, units_left

from ledger.arithmetic import MULTIPLIER_MAX, UNITS_MAX
from ledger.records import FrozenUnits
from stockledger.v1.accounts_pb2 import FreezeHolderRequest, FreezeUnitsRequest
from stockledger.v1.approvals_pb2 import ApprovalPolicy, ApproveCommandRequest, SetApprovalPolicyRequest
from stockledger.v1.common_pb2 import LegColumns, Movement
from stockledger.v1.corporate_actions_pb2 import ActionCompleted, AnnounceActionRequest, FixEntitlementsRequest, UnitsReplaced
from stockledger.v1.holds_pb2 import ExecuteHoldRequest, HoldPurpose, PlaceHoldRequest, ReleaseHoldRequest
from stockledger.v1.instruments_pb2 import MultiplierChanged
from stockledger.v1.issuance_pb2 import FillSubscriptionRequest, IssueUnitsRequest, RequestSubscriptionRequest, SettleFillRequest
from stockledger.v1.redemptions_pb2 import CancelRedemptionRequest, FillRedemptionRequest, RequestRedemptionRequest, SettleRedemptionRequest
from stockledger.v1.reserves_pb2 import ConfirmDeliveryRequest, ConfirmReceiptRequest
from stockledger.v1.settlement_pb2 import SettleDeliveryRequest
from stockledger.v1.transfers_pb2 import ReverseTransferRequest, TransferBatchRequest, TransferUnitsRequest

SHARE = 10**8
RATIOS = [(10, 1), (3, 2), (1, 8), (2, 3), (1, 1000), (1000, 1)]


def hold(units: int, who: str = "alice", symbol: str = "NVDAx") -> PlaceHoldRequest:
    return PlaceHoldRequest(
        instrument=symbol, account=f"book:{who}", units=units, purpose=HoldPurpose.HOLD_PURPOSE_ORDER, reference="order"
    )


def freeze(units: int, who: str, symbol: str = "NVDAx") -> FreezeUnitsRequest:
    return FreezeUnitsRequest(instrument=symbol, account=f"book:{who}", units=units, legal_reference="order 7")


def record(books: Scenario, symbol: str = "NVDAx") -> Any:
    return books.books._state.instruments[symbol]


def hold_units(books: Scenario) -> list[int]:
    return list(units_left(books).values())


# ---- by holdings: worked out by hand --------------------------------------------------------------------------------------------------


def test_nvidia_ten_for_one_reaches_holds_and_the_frozen() -> None:
    """One unit, an odd count with two holds, a frozen holder, and an account with more units frozen than it has."""
    books = story(NVDAx={"book:alice": 1, "book:bob": 7, "book:carol": 5, "book:dave": 3})
    books.given(hold(3, "bob"), hold(2, "bob"), freeze(4, "dave"), FreezeHolderRequest(holder="h-carol", legal_reference="order 7"))
    carry_out(books, split())
    alice, bob, carol, dave = (books.books._state.accounts[f"book:{name}"].number for name in ("alice", "bob", "carol", "dave"))
    assert books.booked[-2:] == [
        UnitsReplaced(
            action="ACTION-1",
            instrument="NVDAx",
            accounts=[alice, bob, carol, dave],
            old_units=[1, 7, 5, 3],
            new_units=[10, 70, 50, 30],
            holds=[1, 2],
            held_units=[30, 20],
            frozen_accounts=[dave],
            frozen_units=[40],
            new_shares=10,
            old_shares=1,
            supply_units=160,
            authorised_units=10**17,
            last=True,
        ),
        ActionCompleted(action="ACTION-1", declared_units=160, paid_units=160, account_count=4),
    ]
    assert holdings(books, "NVDAx") == {"alice": 10, "bob": 70, "carol": 50, "dave": 30}
    assert hold_units(books) == [30, 20]
    assert books.books._state.frozen_units == {(record(books).number, dave): FrozenUnits(40, "order 7")}
    books.when(ReleaseHoldRequest(hold=1)).accepted()
    give = {"instrument": "NVDAx", "source": "book:bob", "destination": "book:alice"}
    books.when(TransferUnitsRequest(**give, units=51)).raises("UNITS_INSUFFICIENT", free=50)
    books.when(TransferUnitsRequest(**give, units=50)).accepted()


def test_general_electric_one_for_eight_leaves_whole_units_to_the_remainder() -> None:
    """15, 15 and 7 of 37: 1, 1 and 0; the new supply is 4, so 2 are left over. Holds of 9 and 3 become 1 and none; 1 frozen stays 1."""
    books = story(GEx={"book:alice": 15, "book:bob": 15, "book:carol": 7})
    books.given(hold(9, "alice", "GEx"), hold(3, "alice", "GEx"), freeze(1, "bob", "GEx"))
    carry_out(books, split(1, 8, instrument="GEx"))
    assert holdings(books, "GEx") == {"alice": 1, "bob": 1, "ledger:remainder": 2}
    assert totals(books) == {"declared": 4, "paid": 2, "remainder": 2, "account_count": 3}
    assert units_left(books) == {1: 1}, "a hold with nothing left is closed"
    give = {"instrument": "GEx", "destination": "book:carol", "units": 1}
    books.when(TransferUnitsRequest(**give, source="book:alice")).raises("UNITS_INSUFFICIENT", held=1, free=0)
    books.when(TransferUnitsRequest(**give, source="book:bob")).raises("UNITS_INSUFFICIENT", frozen=1, free=0)


def test_the_remainder_takes_part_in_the_next_split() -> None:
    books = story(GEx={"book:alice": 15, "book:bob": 15, "book:carol": 7})
    carry_out(books, split(1, 8, instrument="GEx"))
    books.given(split(3, 1, instrument="GEx", action="SECOND", execution_time=at_later(books))).pass_time(HOUR).given(execute("SECOND"))
    assert holdings(books, "GEx") == {"alice": 3, "bob": 3, "ledger:remainder": 6}


def at_later(books: Scenario) -> Any:
    """Return the moment an hour from now."""
    command = AnnounceActionRequest()
    command.execution_time.FromMicroseconds(books.clock.now_us + HOUR * 1_000_000)
    return command.execution_time


def test_an_instrument_nobody_holds_splits_too() -> None:
    books = carry_out(story(), split())
    assert totals(books) == {}
    assert (record(books).authorised_units, record(books).share_basis) == (10**17, 1)


def test_authorised_units_split_with_the_shares() -> None:
    """Rounded up, so that supply fits as before; and never beyond what units may be."""
    books = carry_out(story(NVDAx={"book:alice": 8}), split(1, 3))
    assert record(books).authorised_units == 3_333_333_333_333_334
    books = carry_out(story(), split(1000, 1))
    assert record(books).authorised_units == UNITS_MAX


def test_supply_stays_within_range() -> None:
    books = story(NVDAx={"book:alice": 10**16})
    books.given(split(500, 1)).pass_time(2 * HOUR).when(execute()).raises("UNITS_OUT_OF_RANGE", value=5 * 10**18)
    books = carry_out(story(NVDAx={"book:alice": 10**16}), split(461, 1))
    assert holdings(books, "NVDAx") == {"alice": 461 * 10**16}


def test_a_fixing_puts_on_record_who_held_and_changes_nothing_else() -> None:
    books = story(NVDAx={"book:alice": 4, "book:bob": 4})
    announcement = split(fixing_time=split().execution_time)
    books.given(announcement).pass_time(2 * HOUR).when(execute()).raises("STATE_UNFIT")
    books.given(FixEntitlementsRequest(action="ACTION-1"), execute())
    assert holdings(books, "NVDAx") == {"alice": 40, "bob": 40}
    assert not books.books._state.entitlements


# ---- by the multiplier ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "ratio", "multiplier", "residue"),
    [
        (10**18, (10, 1), 10**19, ("0", "1")),
        (1_000_770_925_110_132_158, (10, 1), 10_007_709_251_101_321_580, ("0", "1")),
        (10**18, (1, 8), 125 * 10**15, ("0", "1")),
        (10**18, (1, 3), 333_333_333_333_333_333, ("1", "3")),
        (2 * 10**18 + 1, (4, 6), 1_333_333_333_333_333_334, ("0", "1")),
        (2 * 10**18, (4, 6), 1_333_333_333_333_333_333, ("1", "3")),
    ],
)
def test_the_multiplier_is_floored_once_with_its_residue(before: int, ratio: tuple[int, int], multiplier: int, residue: Any) -> None:
    books = story(NVDAx={"book:alice": 1, "book:bob": 7})
    if before != 10**18:
        books.given(set_multiplier("NVDAx", before))
    books.given(hold(3, "bob"), FreezeHolderRequest(holder="h-bob", legal_reference="order 7"))
    carry_out(books, split(*ratio, method=MULTIPLIER))
    assert books.booked[-2:] == [
        MultiplierChanged(
            instrument="NVDAx",
            old_multiplier=str(before),
            multiplier=str(multiplier),
            residue_numerator=residue[0],
            residue_denominator=residue[1],
            action="ACTION-1",
            share_basis_changed=True,
        ),
        ActionCompleted(action="ACTION-1"),
    ]
    assert (record(books).multiplier, record(books).share_basis) == (multiplier, 1)
    assert holdings(books, "NVDAx") == {"alice": 1, "bob": 7}, "units and holds stay as they are"
    assert hold_units(books) == [3]
    assert totals(books) == {}


def test_the_multiplier_stays_within_128_bits() -> None:
    books = story()
    books.given(set_multiplier("NVDAx", MULTIPLIER_MAX // 10 + 1), split(method=MULTIPLIER)).pass_time(2 * HOUR)
    books.when(execute()).raises("UNITS_OUT_OF_RANGE", field="multiplier")
    books = story().given(set_multiplier("NVDAx", 7), split(1, 8, method=MULTIPLIER)).pass_time(2 * HOUR)
    books.when(execute()).raises("UNITS_OUT_OF_RANGE", field="multiplier", value=0)
    books = story().given(set_multiplier("NVDAx", 8))
    carry_out(books, split(1, 8, method=MULTIPLIER))
    assert record(books).multiplier == 1


# ---- what else a split reaches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [HOLDINGS, MULTIPLIER])
def test_evidence_must_be_renewed_after_a_split(method: int) -> None:
    books = carry_out(story(NVDAx={"book:alice": SHARE}), split(method=method))
    issue = IssueUnitsRequest(instrument="NVDAx", account="book:bob", units=1, reference="DTC 2")
    books.when(issue).raises("ATTESTATION_STALE", share_basis=0)
    assert not books.books._state.shortfalls, "the reserve is unknown, not short"
    books.given(evidence("NVDAx", share_basis=1, hours=1.5, shares_e8=11 * SHARE)).when(issue).accepted()


@pytest.mark.parametrize("method", [HOLDINGS, MULTIPLIER])
def test_what_was_asked_for_before_a_split_is_not_approved_after_it(method: int) -> None:
    """100 units asked for before a 10:1 split are not the 100 units of after it, by whichever method."""
    books = story(NVDAx={"book:alice": SHARE}).given(split(method=method))
    issue = IssueUnitsRequest(instrument="NVDAx", account="book:bob", units=100, reference="DTC 2")
    before = books.when(issue).accepted().answer.booking.approval
    other = books.when(IssueUnitsRequest(instrument="AAPLx", account="book:bob", units=100)).accepted().answer.booking.approval
    books.pass_time(2 * HOUR).given(execute(), evidence("NVDAx", share_basis=1, hours=1.5))
    books.when(ApproveCommandRequest(approval=before), principal="approver").raises("STATE_UNFIT", approval=before)
    books.when(ApproveCommandRequest(approval=other), principal="approver").accepted()
    books.when(issue, approver="approver").accepted()


def test_an_open_fill_splits_with_its_shares() -> None:
    """10 shares bought at 100 are 100 shares when they settle after a 10:1 split: as many units by holdings, 10 by the multiplier."""
    for method, units in ((HOLDINGS, 100 * SHARE), (MULTIPLIER, 10 * SHARE)):
        books = story(NVDAx={"book:alice": SHARE})
        cash = {"cash_instrument": "USDC", "cash_units": 1_000_000_000}
        books.given(
            RequestSubscriptionRequest(instrument="NVDAx", account="book:issuer-cash", **cash),
            FillSubscriptionRequest(
                subscription=1,
                shares_e8=10 * SHARE,
                price_e8=100 * 10**8,
                trade_date="2026-11-20",
                settlement_date="2026-11-23",
                proceeds_account="book:bob",
                last=True,
            ),
        )
        carry_out(books, split(method=method))
        books.given(evidence("NVDAx", share_basis=1, hours=1.5), SettleFillRequest(subscription=1, fill=1))
        assert holdings(books, "NVDAx")["issuer-cash"] == units


def test_an_open_redemption_splits_with_its_hold() -> None:
    books = story(NVDAx={"book:alice": 10 * SHARE})
    books.given(RequestRedemptionRequest(instrument="NVDAx", account="book:alice", units=4 * SHARE, cash_instrument="USDC"))
    sell = {"redemption": 1, "shares_e8": SHARE, "price_e8": 100 * 10**8, "trade_date": "2026-11-20", "settlement_date": "2026-11-23"}
    books.given(FillRedemptionRequest(**sell))
    carry_out(books, split())
    assert hold_units(books) == [40 * SHARE]
    books.given(SettleRedemptionRequest(redemption=1, fill=1, paying_account="book:issuer-cash"))
    assert holdings(books, "NVDAx") == {"alice": 90 * SHARE}
    assert hold_units(books) == [30 * SHARE]
    assert holdings(books, "USDC")["alice"] == 100_000_000


def test_a_redemption_that_a_reverse_split_leaves_nothing_of_can_still_end() -> None:
    books = story(GEx={"book:alice": 15})
    books.given(RequestRedemptionRequest(instrument="GEx", account="book:alice", units=7, cash_instrument="USDC"))
    carry_out(books, split(1, 8, instrument="GEx"))
    assert not hold_units(books)
    books.when(CancelRedemptionRequest(redemption=1)).accepted()
    assert not books.books._state.redemptions


def test_a_receivable_splits_too_and_old_transfers_are_not_reversed() -> None:
    """Bob spent 3 of 5 units that were sent by mistake; the issuer's cash account funded them; 3 owed are 30, and 1 for 8 later 3."""
    books = story(NVDAx={"book:alice": 5, "book:issuer-cash": 10})
    move = {"instrument": "NVDAx", "units": 5}
    books.when(TransferUnitsRequest(**move, source="book:alice", destination="book:bob"))
    index = books.answer.booking.index
    books.given(TransferUnitsRequest(instrument="NVDAx", source="book:bob", destination="book:dave", units=3))
    books.given(ReverseTransferRequest(index=index, cause="fat finger", loss_account="book:issuer-cash"))
    key = ("h-bob", "NVDAx", "book:issuer-cash")
    assert books.books._state.receivables == {key: 3}
    books.when(TransferUnitsRequest(**move, source="book:alice", destination="book:bob")).accepted()
    index = books.answer.booking.index
    carry_out(books, split())
    assert books.books._state.receivables == {key: 30}
    books.when(ReverseTransferRequest(index=index, cause="too late")).raises("STATE_UNFIT")
    for action, left in (("SECOND", 3), ("THIRD", 0)):
        books.given(split(1, 8, action=action, execution_time=at_later(books))).pass_time(HOUR).given(execute(action))
        assert books.books._state.receivables.get(key, 0) == left
    assert not books.books._state.receivables, "at nothing it is gone"


@pytest.mark.parametrize(
    ("reason", "ratio"),
    [
        ("UNITS_NOT_POSITIVE", (0, 1)),
        ("UNITS_NOT_POSITIVE", (1, -1)),
        ("UNITS_OUT_OF_RANGE", (UNITS_MAX + 1, 1)),
        ("FIELD_MALFORMED", (3, 3)),
    ],
)
def test_refusals_of_a_ratio(reason: str, ratio: tuple[int, int]) -> None:
    books = story()
    books.when(split(*ratio, instrument="NONEx")).raises(reason)
    books.when(split(3, 2)).accepted()


# ---- nothing is ever lost -------------------------------------------------------------------------------------------------------------


units = some.integers(1, 10**15)


@settings(max_examples=40, deadline=None)
@each(
    owned=some.lists(units, min_size=4, max_size=4),
    held=some.lists(some.integers(0, 100), min_size=4, max_size=4),
    frozen=some.integers(1, UNITS_MAX),
    ratio=some.tuples(some.integers(1, 1000), some.integers(1, 1000)).filter(lambda ratio: ratio[0] != ratio[1]),
)
def test_units_are_scaled_to_the_unit_and_none_is_lost(owned: list[int], held: list[int], frozen: int, ratio: tuple[int, int]) -> None:
    """Scenario checks after each step that holdings sum to zero, that holds fit into holdings, and here that rounding is as promised."""
    new, old = ratio
    books = story()
    state = books.books._state
    state.put(state.instruments, "NVDAx", dataclasses.replace(state.instruments["NVDAx"], authorised_units=UNITS_MAX))
    names = ("alice", "bob", "carol", "dave")
    for name, count in zip(names, owned, strict=True):
        books.units("NVDAx", f"book:{name}", count)
    holds = [max(1, count * percent // 200) for count, percent in zip(owned, held, strict=True)]
    books.given(*(hold(count, name) for name, count in zip(names, holds, strict=True)), freeze(frozen, "dave"))
    carry_out(books, split(new, old))
    found = holdings(books, "NVDAx")
    assert [found.get(name, 0) for name in names] == [count * new // old for count in owned]
    assert sum(found.values()) == sum(owned) * new // old
    assert 0 <= found.get("ledger:remainder", 0) < len(names)
    assert [books.books._state.holds.left(number) for number in range(1, 5)] == [count * new // old for count in holds]
    [left] = books.books._state.frozen_units.values()
    assert left.units == min(-(-frozen * new // old), UNITS_MAX)


# ---- what waited for approval over a split --------------------------------------------------------------------------------------------


def waiting_commands() -> dict[str, Any]:
    """Commands that count units or shares of NVDAx, each by another way of naming it. Bob is account number 17, carol 18."""
    sold = {"shares_e8": SHARE, "price_e8": SHARE, "trade_date": "2026-11-22", "settlement_date": "2026-11-23"}
    return {
        "TransferUnits": TransferUnitsRequest(instrument="NVDAx", source="book:bob", destination="book:carol", units=5),
        "TransferBatch": TransferBatchRequest(legs=[LegColumns(instrument="NVDAx", sources=[17], destinations=[18], units=[5])]),
        "SettleDelivery": SettleDeliveryRequest(
            movements=[
                Movement(instrument="USDC", source="book:issuer-cash", destination="book:bob", units=5),
                Movement(instrument="NVDAx", source="book:bob", destination="book:carol", units=5),
            ]
        ),
        "ExecuteHold": ExecuteHoldRequest(hold=1, destination="book:carol", units=5),
        "ReleaseHold": ReleaseHoldRequest(hold=1, units=5),
        "FillRedemption": FillRedemptionRequest(redemption=1, **sold),
        "ConfirmReceipt": ConfirmReceiptRequest(custody_account="bank/NVDAx", shares_e8=SHARE, settled_time=at(0)),
        "ConfirmDelivery": ConfirmDeliveryRequest(custody_account="bank/NVDAx", shares_e8=SHARE, settled_time=at(0)),
    }


@pytest.mark.parametrize("name", waiting_commands())
@pytest.mark.parametrize("method", [HOLDINGS, MULTIPLIER])
def test_what_waited_over_a_split_counts_in_other_units_and_is_refused(name: str, method: Any) -> None:
    books = story(NVDAx={"book:bob": 100 * SHARE}).given(
        SetApprovalPolicyRequest(policy=ApprovalPolicy(command=name, approvals_needed=1)),
        PlaceHoldRequest(instrument="NVDAx", account="book:bob", units=10),
        RequestRedemptionRequest(instrument="NVDAx", account="book:bob", units=10 * SHARE, cash_instrument="USDC"),
    )
    command = waiting_commands()[name]
    before = books.books.execute(command).booking.approval
    books.given(split(method=method, execution_time=at(1))).pass_time(HOUR).given(execute())
    books.when(ApproveCommandRequest(approval=before), principal="approver").raises("STATE_UNFIT", approval=before)
    if name not in ("ConfirmReceipt", "ConfirmDelivery"):  # these also wait for renewed evidence
        books.when(command, approver="approver").accepted()
