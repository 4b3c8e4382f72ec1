"""Omnibus: somebody else's token of 18 decimals in wallets of ours, for an instrument of 8; sweeps, deposits, dust, anchors."""

from __future__ import annotations

from typing import Any

import pytest
from on_chains import A, B, addresses, bound, change, deploy, omnibus, register, set_key, wallet
from readers import BURN, MINT, TRANSFER, Reader, at, seen
from scenario import Scenario, enforcer, stock, two_holders
from steps import check_repeat, make_due

from ledger.arithmetic import UNITS_MAX
from ledger.rules.chains.omnibus import omnibus_owed, omnibus_reserve
from stockledger.v1.accounts_pb2 import CloseAccountRequest, FreezeAccountRequest, FreezeHolderRequest
from stockledger.v1.approvals_pb2 import ApprovalPolicy, SetApprovalPolicyRequest
from stockledger.v1.chains_pb2 import (
    AnchorCheckpointRequest,
    AnchorRequested,
    AttributeDepositRequest,
    Breach,
    ChainCapability,
    ChainFailure,
    ChainFigure,
    DepositAttributed,
    DivergenceKind,
    DivergenceRaised,
    InstructionKind,
    ObservationKind,
    RaiseDivergenceRequest,
    RecordReconciliationRequest,
    SweepWalletRequest,
    WalletSwept,
)
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.eligibility_pb2 import EligibilityRule, SetEligibilityRequest
from stockledger.v1.instruments_pb2 import Backing, HaltInstrumentRequest, RetireInstrumentRequest
from stockledger.v1.reserves_pb2 import GetReserveRequest
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

HOT, COLD, DEPOSIT, STRANGER, ALICE = wallet("hot"), wallet("cold"), wallet("deposit"), wallet("stranger"), wallet("alice")
UNATTRIBUTED, EXTERNAL, REMAINDER, TRANSIT = f"unattributed:{A}", "ledger:external", "ledger:remainder", f"transit:{A}"
SCALE = 10**10
"""Raw units of the token for one unit of the instrument."""


def books_of(**changes: Any) -> Scenario:
    made = Scenario().given(*two_holders(), stock("OMNIx", "US5949181045", backing=Backing.BACKING_OMNIBUS), register(), register(B))
    made.given(omnibus(wallets=[HOT, COLD], **changes), deploy(), *map(set_key, (f"{A}:key", HOT, DEPOSIT)))
    return made.given(bound("alice", "h-1"), addresses((DEPOSIT, "book:bob")), enforcer())


@pytest.fixture
def books() -> Scenario:
    return books_of()


@pytest.fixture
def reader(books: Scenario) -> Reader:
    return Reader(books)


def went(kind: int, raw: int, source: str = "", destination: str = "", **more: Any) -> Any:
    return seen(kind, raw, source, destination, instrument="OMNIx", **more)


def sweep(**changes: Any) -> SweepWalletRequest:
    return SweepWalletRequest(**({"instrument": "OMNIx", "wallet": HOT, "receiving_wallet": COLD} | changes))


def attribute(**changes: Any) -> AttributeDepositRequest:
    fields = {"chain": A, "instrument": "OMNIx", "account": "book:alice", "units": 5, "reference": "0x5c50"}
    return AttributeDepositRequest(**(fields | changes))


def withdraw(units: int = 5, destination: str = ALICE) -> TransferUnitsRequest:
    return TransferUnitsRequest(instrument="OMNIx", source="book:bob", destination=destination, units=units)


def holdings(books: Scenario, *names: str) -> list[int]:
    return [books.holding("OMNIx", name) for name in names]


def kinds(events: list[Any]) -> list[str]:
    raised = [event.divergence.kind for event in events if isinstance(event, DivergenceRaised)]
    return [DivergenceKind.Name(kind).removeprefix("DIVERGENCE_KIND_") for kind in raised]


def in_wallet(books: Scenario, address: str) -> int:
    return books.books._state.wallet_raw.get((A, "OMNIx", address), 0)


def sending(books: Scenario) -> list[Any]:
    return [each for each in books.books._state.instructions.values() if each.kind == InstructionKind.INSTRUCTION_KIND_SEND]


# ---- what comes in, and what goes out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observation", "credited", "in_hot", "in_deposit"),
    [
        (went(TRANSFER, 7 * SCALE, STRANGER, HOT), {UNATTRIBUTED: 7}, 7 * SCALE, 0),
        (went(TRANSFER, 7 * SCALE, STRANGER, DEPOSIT), {"book:bob": 7}, 0, 7 * SCALE),
        (went(MINT, 7 * SCALE, destination=HOT), {UNATTRIBUTED: 7}, 7 * SCALE, 0),
        (went(TRANSFER, SCALE - 1, STRANGER, DEPOSIT), {}, 0, SCALE - 1),
        (went(TRANSFER, 7 * SCALE, STRANGER, ALICE), {}, 0, 0),
        (went(BURN, 7 * SCALE, STRANGER), {}, 0, 0),
    ],
)
def test_what_comes_in(
    books: Scenario, reader: Reader, *, observation: Any, credited: dict[str, int], in_hot: int, in_deposit: int
) -> None:
    events = reader.see(observation)
    names = [UNATTRIBUTED, "book:bob", REMAINDER]
    assert holdings(books, *names) == [credited.get(name, 0) for name in names]
    assert holdings(books, EXTERNAL) == [-sum(credited.values())]
    assert (in_wallet(books, HOT), in_wallet(books, DEPOSIT), kinds(events)) == (in_hot, in_deposit, [])
    kept = [effect for event in events for effect in event.effects]
    assert bool(kept) == bool(in_hot or in_deposit), "what is nobody's of ours is not kept"


def test_dust_is_kept_until_it_makes_a_unit(books: Scenario, reader: Reader) -> None:
    (event,) = reader.see(went(TRANSFER, 2 * SCALE + 7 * SCALE // 10, STRANGER, DEPOSIT))
    assert (event.effects[0].dust_raw, holdings(books, "book:bob", REMAINDER)) == (str(7 * SCALE // 10), [2, 0])
    (event,) = reader.see(went(TRANSFER, 5 * SCALE // 10, STRANGER, HOT), went(TRANSFER, 9 * SCALE // 10, STRANGER, HOT))
    assert [effect.dust_raw for effect in event.effects] == [str(2 * SCALE // 10), str(SCALE // 10)]
    assert holdings(books, "book:bob", REMAINDER, UNATTRIBUTED, EXTERNAL) == [2, 2, 0, -4]
    assert books.books._state.deployments["OMNIx", A].dust_raw == SCALE // 10
    (event,) = reader.see(went(TRANSFER, SCALE, STRANGER, HOT))
    assert not event.effects[0].HasField("dust_raw")


def test_between_addresses_of_ours_nothing_is_booked(books: Scenario, reader: Reader) -> None:
    reader.see(went(TRANSFER, 7 * SCALE, STRANGER, DEPOSIT))
    events = reader.see(went(TRANSFER, 4 * SCALE, DEPOSIT, HOT))
    assert (events[0].effects[0].movements, holdings(books, "book:bob")) == ([], [7])
    assert (in_wallet(books, DEPOSIT), in_wallet(books, HOT)) == (3 * SCALE, 4 * SCALE)


@pytest.mark.parametrize("kind", [TRANSFER, BURN])
def test_what_others_took_out_shows_the_wallets_short_once(books: Scenario, reader: Reader, kind: int) -> None:
    reader.see(went(TRANSFER, 7 * SCALE, STRANGER, HOT))
    taken = went(kind, 2 * SCALE, HOT, STRANGER if kind == TRANSFER else "")
    events = reader.see(taken)
    assert kinds(events) == ["WALLETS_SHORT"]
    assert (events[-1].divergence.expected, events[-1].divergence.found) == ("7", "5")
    assert (holdings(books, UNATTRIBUTED), in_wallet(books, HOT)) == ([7], 5 * SCALE)
    assert kinds(reader.see(taken)) == [], "it is open already"


def test_more_goes_out_than_was_there(books: Scenario, reader: Reader) -> None:
    assert kinds(reader.see(went(TRANSFER, 5, HOT, STRANGER))) == ["IMPOSSIBLE"]
    assert in_wallet(books, HOT) == 0


def test_more_than_can_be_counted_stops_the_place(books: Scenario, reader: Reader) -> None:
    events = reader.see(went(TRANSFER, (UNITS_MAX + 1) * SCALE, STRANGER, HOT))
    assert (kinds(events), events[-1].divergence.halting, holdings(books, UNATTRIBUTED)) == (["IMPOSSIBLE"], True, [0])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([FreezeHolderRequest(holder="h-2", legal_reference="x")], [Breach.BREACH_PARTY_FROZEN]),
        (
            [SetEligibilityRequest(instrument="OMNIx", rule=EligibilityRule(effective_date="2026-11-22", barred_countries=["FR"]))],
            [Breach.BREACH_HOLDER_NOT_ELIGIBLE],
        ),
        (
            [HaltInstrumentRequest(instrument="OMNIx", operations=[Operation.OPERATION_TRANSFER], cause="x")],
            [Breach.BREACH_INSTRUMENT_HALTED],
        ),
    ],
)
def test_a_deposit_is_credited_whatever_it_breaks(books: Scenario, reader: Reader, given: list[Any], expected: list[int]) -> None:
    books.given(*given)
    (event,) = reader.see(went(TRANSFER, 7 * SCALE, STRANGER, DEPOSIT))
    assert (list(event.effects[0].breaches), holdings(books, "book:bob")) == (expected, [7])


def test_a_withdrawal_is_sent_and_leaves_when_it_is_final(books: Scenario, reader: Reader) -> None:
    reader.see(went(TRANSFER, 7 * SCALE, STRANGER, DEPOSIT), went(TRANSFER, 9 * SCALE, STRANGER, HOT))
    books.given(withdraw())
    (sent,) = sending(books)
    assert (sent.source, sent.destination, sent.raw) == (HOT, ALICE, 5 * SCALE)
    assert kinds(reader.carry_out(sent)) == []
    assert holdings(books, "book:bob", TRANSIT, EXTERNAL) == [2, 0, -11]
    assert (in_wallet(books, HOT), sending(books)) == (4 * SCALE, [])


def test_a_withdrawal_that_the_chain_refuses_comes_back(books: Scenario, reader: Reader) -> None:
    reader.see(went(TRANSFER, 7 * SCALE, STRANGER, DEPOSIT))
    books.given(withdraw())
    reader.fail(*sending(books), failure=ChainFailure.CHAIN_FAILURE_ACCOUNT_BARRED)
    assert (holdings(books, "book:bob", TRANSIT), sending(books)) == ([7, 0], [])


def test_a_withdrawal_without_effect_waits(books: Scenario, reader: Reader) -> None:
    reader.see(went(TRANSFER, 7 * SCALE, STRANGER, DEPOSIT))
    books.given(withdraw())
    transaction = reader.record(*sending(books))
    assert kinds(reader.see(landed=[reader.landed(transaction)])) == ["WITHOUT_EFFECT"]
    assert holdings(books, "book:bob", TRANSIT) == [2, 5]


def test_a_multiplier_and_controls_of_somebody_else_are_only_seen(books: Scenario, reader: Reader) -> None:
    multiplier, pause = ObservationKind.OBSERVATION_KIND_MULTIPLIER, ObservationKind.OBSERVATION_KIND_PAUSE
    freeze = ObservationKind.OBSERVATION_KIND_FREEZE
    seen_there = [
        seen(multiplier, value=str(3 * 10**18), instrument="OMNIx"),
        seen(pause, operations=[Operation.OPERATION_TRANSFER], instrument="OMNIx"),
        seen(freeze, source=HOT, value="true", instrument="OMNIx"),
    ]
    assert kinds(reader.see(*seen_there)) == []
    found = books.books._state.deployments["OMNIx", A]
    assert (found.observed_multiplier, found.paused_operations) == (3 * 10**18, {Operation.OPERATION_TRANSFER})
    assert books.books._state.instruments["OMNIx"].multiplier == 10**18


# ---- the reserve -----------------------------------------------------------------------------------------------------------------------


def test_what_the_wallets_hold_is_the_reserve_of_the_book(books: Scenario, reader: Reader) -> None:
    reader.see(went(TRANSFER, 7 * SCALE, STRANGER, HOT), went(TRANSFER, 3 * SCALE + 1, STRANGER, DEPOSIT))
    state = books.books._state
    assert (omnibus_reserve(state, "OMNIx", {}), omnibus_owed(state, "OMNIx")) == (10, 10)
    reserve = books.books.execute(GetReserveRequest(instrument="OMNIx")).reserve
    assert (reserve.reserve_shares_e8, reserve.needed_shares_e8) == (10, "10")
    books.given(withdraw(2))
    assert omnibus_owed(state, "OMNIx") == 10, "what is on its way out is owed still"


def test_wallets_of_all_chains_together_cover_one_book(books: Scenario, reader: Reader) -> None:
    hot_on_b = wallet("hot", B)
    books.given(omnibus(chain=B, decimals=9))
    reader.see(went(TRANSFER, 7 * SCALE, STRANGER, HOT))
    Reader(books, B).see(seen(TRANSFER, 38, wallet("x", B), hot_on_b, token=f"{B}/token:OMNIx"))
    assert omnibus_reserve(books.books._state, "OMNIx", {}) == 10
    assert kinds(reader.see(went(TRANSFER, 7 * SCALE, HOT, STRANGER))) == ["WALLETS_SHORT"]


def reconcile(*figures: tuple[str, int], number: int) -> RecordReconciliationRequest:
    rows = [ChainFigure(instrument="OMNIx", account=account, raw=str(raw)) for account, raw in figures]
    return RecordReconciliationRequest(chain=A, position=at(number), figures=rows)


def test_a_measured_wallet_counts_from_then_on(books: Scenario, reader: Reader) -> None:
    reader.see(went(TRANSFER, 7 * SCALE, STRANGER, HOT))
    books.when(reconcile(("", 10**30), (HOT, 7 * SCALE), (STRANGER, 5), number=101)).accepted()
    assert ([figure.account for figure in books.booked[0].figures], books.booked[0].agreeing_count) == ([HOT], 1)
    events = books.when(reconcile((HOT, 6 * SCALE), number=101)).accepted().booked
    assert kinds(events) == ["HOLDING", "WALLETS_SHORT"]
    assert in_wallet(books, HOT) == 6 * SCALE
    events = books.when(reconcile((HOT, 6 * SCALE), (COLD, SCALE), number=101)).accepted().booked
    assert kinds(events) == ["HOLDING"], "the cold wallet had one more than was known"
    assert [event.divergence for event in events[2:]] == [1, 2], "the hot one agrees now, and together they cover it"


# ---- swept -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", sweep(instrument="")),
        ("FIELD_MISSING", sweep(wallet="")),
        ("FIELD_MALFORMED", sweep(wallet="book:alice")),
        ("FIELD_MALFORMED", sweep(receiving_wallet=wallet("cold", B))),
        ("FIELD_MALFORMED", sweep(raw="1.5")),
        ("UNITS_NOT_POSITIVE", sweep(raw="0")),
        ("SAME_ACCOUNT", sweep(receiving_wallet=HOT)),
        ("INSTRUMENT_NOT_FOUND", sweep(instrument="NONEx")),
        ("CHAIN_NOT_FOUND", sweep(wallet="memory:c:1", receiving_wallet="memory:c:2")),
        ("DEPLOYMENT_NOT_FOUND", sweep(wallet=wallet("hot", B), receiving_wallet=wallet("cold", B))),
        ("STATE_UNFIT", sweep(instrument="AAPLx")),
        ("STATE_UNFIT", sweep(wallet=STRANGER)),
        ("STATE_UNFIT", sweep(receiving_wallet=DEPOSIT)),
        ("UNITS_INSUFFICIENT", sweep(wallet=COLD, receiving_wallet=HOT)),
        ("UNITS_INSUFFICIENT", sweep(raw=str(7 * SCALE + 1))),
    ],
)
def test_a_sweep_is_refused(books: Scenario, reader: Reader, reason: str, command: Any) -> None:
    reader.see(went(TRANSFER, 7 * SCALE, STRANGER, HOT))
    books.when(command).raises(reason)


def test_a_sweep_is_refused_while_the_place_is_halted_or_cannot(books: Scenario, reader: Reader) -> None:
    reader.see(went(TRANSFER, 7 * SCALE, STRANGER, HOT))
    told = {"chain": A, "kind": DivergenceKind.DIVERGENCE_KIND_HISTORY_CHANGED, "expected": "a", "found": "b"}
    books.given(RaiseDivergenceRequest(**told))
    books.when(sweep()).raises("PLACE_HALTED")
    books.given(change("OMNIx", replace_capabilities=[ChainCapability.CHAIN_CAPABILITY_MULTIPLIER]))
    books.when(sweep()).raises("CHAIN_INCAPABLE", needed="CHAIN_CAPABILITY_SEND")


def test_a_sweep_moves_raw_units_and_nothing_in_the_book(books: Scenario, reader: Reader) -> None:
    reader.see(went(TRANSFER, 7 * SCALE + 3, STRANGER, DEPOSIT))
    books.when(sweep(wallet=DEPOSIT)).then(WalletSwept(instrument="OMNIx", wallet=DEPOSIT, receiving_wallet=COLD, raw=str(7 * SCALE + 3)))
    books.when(sweep(wallet=DEPOSIT, raw="1")).raises("UNITS_INSUFFICIENT", free=0, needed=1, holding=7 * SCALE + 3)
    (sent,) = sending(books)
    assert (sent.source, sent.destination, sent.raw, sent.units) == (DEPOSIT, COLD, 7 * SCALE + 3, 0)
    assert kinds(reader.carry_out(sent)) == []
    assert (in_wallet(books, DEPOSIT), in_wallet(books, COLD), holdings(books, "book:bob")) == (0, 7 * SCALE + 3, [7])


def test_a_sweep_that_fails_leaves_what_was(books: Scenario, reader: Reader) -> None:
    reader.see(went(TRANSFER, 7 * SCALE, STRANGER, HOT))
    books.given(sweep())
    reader.fail(*sending(books), failure=ChainFailure.CHAIN_FAILURE_UNITS_INSUFFICIENT)
    assert (sending(books), in_wallet(books, HOT)) == ([], 7 * SCALE)


def test_a_sweep_is_booked_once(books: Scenario, reader: Reader) -> None:
    reader.see(went(TRANSFER, 7 * SCALE, STRANGER, HOT))
    check_repeat(books, sweep(raw="5"), sweep(raw="6"))


# ---- attributed ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", attribute(chain="")),
        ("FIELD_MISSING", attribute(instrument="")),
        ("FIELD_MISSING", attribute(account="")),
        ("FIELD_MISSING", attribute(reference="")),
        ("UNITS_NOT_POSITIVE", attribute(units=0)),
        ("UNITS_OUT_OF_RANGE", attribute(units=UNITS_MAX + 1)),
        ("INSTRUMENT_NOT_FOUND", attribute(instrument="NONEx")),
        ("CHAIN_NOT_FOUND", attribute(chain="memory:c")),
        ("ACCOUNT_NOT_FOUND", attribute(account="book:nobody")),
        ("ACCOUNT_RESERVED", attribute(account="ledger:loss")),
        ("PLACE_UNFIT", attribute(account=ALICE)),
        ("UNITS_INSUFFICIENT", attribute(units=8)),
    ],
)
def test_an_attribution_is_refused(books: Scenario, reader: Reader, reason: str, command: Any) -> None:
    reader.see(went(TRANSFER, 7 * SCALE, STRANGER, HOT))
    books.when(command).raises(reason)


@pytest.mark.parametrize(
    ("reason", "given"),
    [
        ("INSTRUMENT_HALTED", HaltInstrumentRequest(instrument="OMNIx", operations=[Operation.OPERATION_TRANSFER], cause="x")),
        ("ACCOUNT_CLOSED", CloseAccountRequest(account="book:alice")),
        ("ACCOUNT_FROZEN", FreezeAccountRequest(account="book:alice", legal_reference="x")),
        ("HOLDER_FROZEN", FreezeHolderRequest(holder="h-1", legal_reference="x")),
        (
            "HOLDER_NOT_ELIGIBLE",
            SetEligibilityRequest(instrument="OMNIx", rule=EligibilityRule(effective_date="2026-11-22", barred_countries=["DE"])),
        ),
    ],
)
def test_a_rule_bars_an_attribution(books: Scenario, reader: Reader, reason: str, given: Any) -> None:
    reader.see(went(TRANSFER, 7 * SCALE, STRANGER, HOT))
    books.given(given).when(attribute()).raises(reason)


def test_an_attribution_waits_for_what_is_due_and_is_none_of_a_retired_instrument(books: Scenario) -> None:
    books.given(stock("OLDx", "US0231351067"), RetireInstrumentRequest(instrument="OLDx"))
    books.when(attribute(instrument="OLDx")).raises("INSTRUMENT_RETIRED")
    make_due(books, "OMNIx")
    books.when(attribute()).raises("ACTION_DUE")


def test_a_deposit_of_nobody_known_is_credited_with_four_eyes(books: Scenario, reader: Reader) -> None:
    reader.see(went(TRANSFER, 7 * SCALE, STRANGER, HOT))
    assert books.when(attribute()).accepted().answer.booking.approval
    books.when(attribute(units=7), approver="approver").accepted()
    assert books.booked[-1] == DepositAttributed(chain=A, instrument="OMNIx", account="book:alice", units=7, reference="0x5c50")
    assert holdings(books, UNATTRIBUTED, "book:alice", EXTERNAL) == [0, 7, -7]


def test_an_attribution_is_booked_once(books: Scenario, reader: Reader) -> None:
    reader.see(went(TRANSFER, 7 * SCALE, STRANGER, HOT))
    books.given(SetApprovalPolicyRequest(policy=ApprovalPolicy(command="AttributeDeposit", approvals_needed=0)))
    check_repeat(books, attribute(), attribute(units=2))


# ---- anchored --------------------------------------------------------------------------------------------------------------------------


def note(books: Scenario, size: int, origin: str = "") -> str:
    return f"{origin or books.books._state.origin}\n{size}\nAAAA\n\n\u2014 signer AAAA\n"


def test_a_checkpoint_is_anchored_once_and_only_newer(books: Scenario) -> None:
    books.when(AnchorCheckpointRequest(chain=A, checkpoint=note(books, 3))).then(AnchorRequested(chain=A, checkpoint=note(books, 3)))
    kind = InstructionKind.INSTRUCTION_KIND_ANCHOR_CHECKPOINT
    (wanted,) = [each for each in books.books._state.instructions.values() if each.kind == kind]
    assert (wanted.chain, wanted.instrument, wanted.note) == (A, "", note(books, 3).encode())
    for size in (2, 3):
        books.when(AnchorCheckpointRequest(chain=A, checkpoint=note(books, size))).raises("NOTHING_TO_CHANGE", newest=3)
    books.when(AnchorCheckpointRequest(chain=A, checkpoint=note(books, 4))).accepted()
    Reader(books).carry_out(wanted)
    assert wanted.key not in books.books._state.instructions


@pytest.mark.parametrize(
    ("reason", "chain", "text"),
    [
        ("FIELD_MISSING", "", "{note}"),
        ("FIELD_MALFORMED", "memory", "{note}"),
        ("FIELD_MISSING", A, ""),
        ("FIELD_MALFORMED", A, "x" * 8_193),
        ("FIELD_MALFORMED", A, "x\n3\nAAAA\n\n- s AAAA\n"),
        ("FIELD_MALFORMED", A, "{origin}\n03\nAAAA\n\n- s AAAA\n"),
        ("FIELD_MALFORMED", A, "{origin}\n3\nAAAA\n"),
        ("FIELD_MALFORMED", A, "{origin}\n0\nAAAA\n\n- s AAAA\n"),
        ("FIELD_MALFORMED", A, "{origin}\n999\nAAAA\n\n- s AAAA\n"),
        ("CHAIN_NOT_FOUND", "memory:c", "{note}"),
        ("CHAIN_INCAPABLE", B, "{note}"),
    ],
)
def test_an_anchor_is_refused(books: Scenario, reason: str, chain: str, text: str) -> None:
    filled = text.format(origin=books.books._state.origin, note=note(books, 3))
    books.when(AnchorCheckpointRequest(chain=chain, checkpoint=filled)).raises(reason)


def test_an_anchor_is_booked_once(books: Scenario) -> None:
    first, second = (AnchorCheckpointRequest(chain=A, checkpoint=note(books, size)) for size in (3, 4))
    check_repeat(books, first, second)
