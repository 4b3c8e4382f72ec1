"""Opening holdings: taking over somebody else's token in wallets of ours that hold some already."""

from __future__ import annotations

from typing import Any

import pytest
from on_chains import CURSOR, A, addresses, bound, change, deploy, omnibus, register, set_key, wallet
from readers import TRANSFER, Reader, at, seen
from scenario import Scenario, enforcer, stock, two_holders
from steps import check_repeat, make_due

from ledger.arithmetic import UNITS_MAX
from ledger.rules.chains.openings import OPENINGS_MAX
from ledger.verify import check_books
from stockledger.v1.accounts_pb2 import FreezeAccountRequest, FreezeHolderRequest
from stockledger.v1.approvals_pb2 import ApprovalPolicy, ApprovalRequested, ApproveCommandRequest, SetApprovalPolicyRequest
from stockledger.v1.chains_pb2 import (
    ChainFigure,
    ChainPosition,
    Deployment,
    DeploymentAmended,
    DeploymentRegistered,
    DivergenceKind,
    DivergenceRaised,
    OpeningHolding,
    RecordReconciliationRequest,
    SweepWalletRequest,
)
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.eligibility_pb2 import EligibilityRule, SetEligibilityRequest
from stockledger.v1.instruments_pb2 import Backing, HaltInstrumentRequest
from stockledger.v1.reserves_pb2 import GetReserveRequest
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

HOT, COLD, DEPOSIT = wallet("hot"), wallet("cold"), wallet("deposit")
UNATTRIBUTED, EXTERNAL, REMAINDER = f"unattributed:{A}", "ledger:external", "ledger:remainder"
SCALE = 10**10
"""Raw units of the token, of 18 decimals, for one unit of the instrument, of 8."""
NO_GERMANY = SetEligibilityRequest(instrument="OMNIx", rule=EligibilityRule(effective_date="2026-11-01", barred_countries=["DE"]))
HALT = HaltInstrumentRequest(instrument="OMNIx", operations=[Operation.OPERATION_TRANSFER], cause="news")


@pytest.fixture
def books() -> Scenario:
    made = Scenario().given(*two_holders(), stock("OMNIx", "US5949181045", backing=Backing.BACKING_OMNIBUS), register())
    return made.given(deploy(), *map(set_key, (f"{A}:key", HOT, DEPOSIT)), addresses((DEPOSIT, "book:bob")), enforcer())


def opening(address: str = HOT, raw: int | str = 150 * SCALE, account: str = "book:alice", **more: Any) -> OpeningHolding:
    return OpeningHolding(wallet=address, raw=str(raw), account=account, **more)


def taken_over(*openings: OpeningHolding, position: ChainPosition | None = CURSOR, **changes: Any) -> Any:
    return omnibus(wallets=[HOT, COLD], opening_holdings=openings, opening_position=position, **changes)


def holdings(books: Scenario, *names: str) -> list[int]:
    return [books.holding("OMNIx", name) for name in names]


def reserve_of(books: Scenario) -> Any:
    return books.books.execute(GetReserveRequest(instrument="OMNIx")).reserve


def measured(number: int, *figures: tuple[str, int]) -> RecordReconciliationRequest:
    rows = [ChainFigure(instrument="OMNIx", account=address, raw=str(raw)) for address, raw in figures]
    return RecordReconciliationRequest(chain=A, position=at(number), figures=rows)


# ---- taken over ------------------------------------------------------------------------------------------------------------------------


def test_what_a_wallet_holds_already_is_credited_and_owed(books: Scenario) -> None:
    books.when(taken_over(opening()), approver="approver").accepted()
    (event,) = [event for event in books.booked if isinstance(event, DeploymentRegistered)]
    expected = OpeningHolding(wallet=HOT, raw=str(150 * SCALE), account="book:alice", units=150)
    assert (list(event.opening_holdings), event.remainder_units, event.opening_position) == ([expected], 0, CURSOR)
    assert holdings(books, "book:alice", EXTERNAL, UNATTRIBUTED) == [150, -150, 0]
    assert books.books._state.wallet_raw == {(A, "OMNIx", HOT): 150 * SCALE}
    reserve = reserve_of(books)
    assert (reserve.reserve_shares_e8, reserve.needed_shares_e8) == (150, "150")
    assert not books.books._state.divergences
    check_books(books.books._state, books.books.size - 1)


def test_four_eyes_see_the_figures(books: Scenario) -> None:
    books.when(taken_over(opening())).accepted()
    (asked,) = books.booked
    assert isinstance(asked, ApprovalRequested)
    assert holdings(books, "book:alice", EXTERNAL) == [0, 0]
    books.when(ApproveCommandRequest(approval=asked.approval), principal="operator").raises("APPROVER_IS_REQUESTER")
    books.when(ApproveCommandRequest(approval=asked.approval), principal="approver").accepted()
    assert holdings(books, "book:alice", EXTERNAL) == [150, -150]


def test_whose_it_is_when_nobody_is_named(books: Scenario) -> None:
    books.given(taken_over(opening(HOT, 7 * SCALE, ""), opening(DEPOSIT, 5 * SCALE, "")))
    assert holdings(books, UNATTRIBUTED, "book:bob", EXTERNAL) == [7, 5, -12]


def test_dust_is_kept_and_whole_units_of_it_go_to_the_remainder(books: Scenario) -> None:
    books.when(taken_over(opening(HOT, 3 * SCALE // 2), opening(COLD, SCALE - 1, "book:bob")), approver="approver").accepted()
    (event,) = [event for event in books.booked if isinstance(event, DeploymentRegistered)]
    assert ([each.units for each in event.opening_holdings], event.remainder_units) == ([1, 0], 1)
    assert event.deployment.dust_raw == str(SCALE // 2 - 1)
    assert holdings(books, "book:alice", "book:bob", REMAINDER, EXTERNAL) == [1, 0, 1, -2]
    reader = Reader(books)
    reader.see(seen(TRANSFER, SCALE // 2 + 1, wallet("stranger"), HOT, instrument="OMNIx"))
    assert holdings(books, UNATTRIBUTED, REMAINDER, EXTERNAL) == [0, 2, -3], "and adds up with what comes later"


def test_a_wallet_that_is_added_later(books: Scenario) -> None:
    books.given(omnibus(wallets=[HOT]))
    command = change("OMNIx", replace_wallets=[HOT, COLD], opening_holdings=[opening(COLD)], opening_position=CURSOR)
    books.when(command, approver="approver").accepted()
    (event,) = [event for event in books.booked if isinstance(event, DeploymentAmended)]
    assert [each.units for each in event.opening_holdings] == [150]
    assert holdings(books, "book:alice", EXTERNAL) == [150, -150]
    again = change("OMNIx", opening_holdings=[opening(COLD)], opening_position=CURSOR)
    books.when(again, approver="approver").raises("STATE_UNFIT", account=COLD)
    books.given(change("OMNIx", opening_holdings=[opening(HOT)], opening_position=CURSOR))
    assert holdings(books, "book:alice", EXTERNAL) == [300, -300], "a wallet of which nothing was seen yet"


def test_it_moves_like_any_other_holding(books: Scenario) -> None:
    books.given(taken_over(opening()), TransferUnitsRequest(instrument="OMNIx", source="book:alice", destination="book:bob", units=50))
    books.given(bound("alice", "h-1"))
    books.given(TransferUnitsRequest(instrument="OMNIx", source="book:bob", destination=wallet("alice"), units=20))
    books.given(SweepWalletRequest(instrument="OMNIx", wallet=HOT, receiving_wallet=COLD, raw=str(30 * SCALE)))
    reader = Reader(books)
    for instruction in sorted(books.books._state.instructions.values(), key=lambda each: each.key):
        if instruction.instrument == "OMNIx":
            reader.carry_out(instruction)
    assert holdings(books, "book:alice", "book:bob", EXTERNAL) == [100, 30, -130]
    assert books.books._state.wallet_raw == {(A, "OMNIx", HOT): 100 * SCALE, (A, "OMNIx", COLD): 30 * SCALE}
    assert not books.books._state.divergences


def test_the_reconciler_confirms_it_or_says_what_is_wrong(books: Scenario) -> None:
    books.given(taken_over(opening()))
    books.when(measured(100, (HOT, 150 * SCALE), (COLD, 0)), principal="worker").accepted()
    assert (books.answer.agreeing_count, books.answer.divergence_count) == (2, 0)
    reader = Reader(books)
    reader.see(seen(TRANSFER, 4 * SCALE, HOT, wallet("stranger"), instrument="OMNIx"))
    books.when(measured(101, (HOT, 145 * SCALE), (COLD, 0)), principal="worker").accepted()
    raised = [event.divergence for event in books.booked if isinstance(event, DivergenceRaised)]
    assert [(each.kind, each.expected, each.found) for each in raised] == [
        (DivergenceKind.DIVERGENCE_KIND_HOLDING, str(146 * SCALE), str(145 * SCALE)),
    ]


def test_what_moved_between_measuring_and_registering_is_found(books: Scenario) -> None:
    """Measured at 100, registered at 103; nobody read for us what moved in between."""
    reader = Reader(books)
    for _ in range(3):
        reader.see()
    books.given(taken_over(opening()))
    books.when(measured(103, (HOT, 149 * SCALE), (COLD, 0)), principal="worker").accepted()
    kinds = [event.divergence.kind for event in books.booked if isinstance(event, DivergenceRaised)]
    assert kinds == [DivergenceKind.DIVERGENCE_KIND_HOLDING, DivergenceKind.DIVERGENCE_KIND_WALLETS_SHORT]


# ---- what cannot be --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "before", "openings", "changes"),
    [
        ("TOO_MANY_ITEMS", (), [opening()] * (OPENINGS_MAX + 1), {}),
        ("FIELD_MISSING", (), [opening()], {"position": None}),
        ("FIELD_MISSING", (), [], {}),
        ("FIELD_MALFORMED", (), [opening("book:alice")], {}),
        ("FIELD_MALFORMED", (), [opening(wallet("hot", "memory:b"))], {}),
        ("FIELD_MISSING", (), [opening(raw="")], {}),
        ("FIELD_MALFORMED", (), [opening(raw="1.5")], {}),
        ("UNITS_NOT_POSITIVE", (), [opening(raw=0)], {}),
        ("FIELD_MALFORMED", (), [opening(units=1)], {}),
        ("FIELD_MALFORMED", (), [opening(), opening()], {}),
        ("FIELD_MISSING", (), [opening()], {"position": ChainPosition(number=100)}),
        ("ACCOUNT_NOT_FOUND", (), [opening(account="book:nobody")], {}),
        ("ACCOUNT_RESERVED", (), [opening(account="ledger:loss")], {}),
        ("PLACE_UNFIT", (), [opening(account=DEPOSIT)], {}),
        ("STATE_UNFIT", (), [opening(DEPOSIT, account="book:alice")], {}),
        ("STATE_UNFIT", (), [opening(wallet("stranger"))], {}),
        ("EXPECTATION_FAILED", (), [opening()], {"position": at(101)}),
        ("EXPECTATION_FAILED", (), [opening()], {"position": ChainPosition(number=100, hash="0xother", time=CURSOR.time)}),
        ("INSTRUMENT_HALTED", (HALT,), [opening()], {}),
        ("ACCOUNT_FROZEN", (FreezeAccountRequest(account="book:alice", legal_reference="x"),), [opening()], {}),
        ("HOLDER_FROZEN", (FreezeHolderRequest(holder="h-1", legal_reference="x"),), [opening()], {}),
        ("HOLDER_NOT_ELIGIBLE", (NO_GERMANY,), [opening()], {}),
        ("UNITS_OUT_OF_RANGE", (), [opening(raw=(UNITS_MAX + 1) * SCALE)], {}),
        ("UNITS_OUT_OF_RANGE", (), [opening(raw=UNITS_MAX * SCALE), opening(COLD, SCALE)], {}),
    ],
)
def test_what_cannot_be(books: Scenario, reason: str, before: Any, openings: Any, changes: dict[str, Any]) -> None:
    books.given(*before, principal="enforcer" if before and "Freeze" in type(before[0]).__name__ else "operator")
    books.when(taken_over(*openings, **changes)).raises(reason)


def test_all_there_can_be_is_taken(books: Scenario) -> None:
    books.given(taken_over(opening(raw=UNITS_MAX * SCALE)))
    assert holdings(books, "book:alice", EXTERNAL) == [UNITS_MAX, -UNITS_MAX]


def test_a_native_token_has_none(books: Scenario) -> None:
    books.when(deploy("MSFTx", opening_holdings=[opening()], opening_position=CURSOR)).raises("FIELD_MALFORMED")
    books.when(change(opening_holdings=[opening()], opening_position=CURSOR)).raises("FIELD_MALFORMED")


def test_not_while_a_step_is_due(books: Scenario) -> None:
    make_due(books, "OMNIx")
    books.when(taken_over(opening())).raises("ACTION_DUE")


def test_nobody_registered_is_asked_where_it_goes_to_nobody(books: Scenario) -> None:
    books.given(NO_GERMANY, taken_over(opening(account="")))
    assert holdings(books, UNATTRIBUTED) == [150]


def test_an_amendment_with_nothing_but_openings_is_a_change(books: Scenario) -> None:
    books.given(omnibus(wallets=[HOT, COLD]))
    books.when(change("OMNIx"), approver="approver").raises("NOTHING_TO_CHANGE")
    books.when(change("OMNIx", opening_holdings=[opening()], opening_position=CURSOR), approver="approver").accepted()


def test_asked_again_it_is_booked_once(books: Scenario) -> None:
    books.given(omnibus(wallets=[HOT, COLD]), SetApprovalPolicyRequest(policy=ApprovalPolicy(command="AmendDeployment")))
    fields = {"opening_position": CURSOR}
    first = change("OMNIx", opening_holdings=[opening()], **fields)
    check_repeat(books, first, change("OMNIx", opening_holdings=[opening(raw=SCALE)], **fields))
    assert holdings(books, "book:alice", EXTERNAL) == [150, -150]


def test_the_largest_fits_a_leaf() -> None:
    account = f"book:{'x' * 120}"
    rows = [OpeningHolding(wallet=f"{'c' * 41}:{'a' * 128}", raw="9" * 78, account=account, units=UNITS_MAX) for _ in range(OPENINGS_MAX)]
    deployment = Deployment(wallets=[f"{'c' * 41}:{'a' * 128}"] * 64, token="t" * 250)
    assert DeploymentRegistered(deployment=deployment, opening_holdings=rows).ByteSize() < 60_000
