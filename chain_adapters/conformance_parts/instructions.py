"""Every kind of instruction, and what the chain or the ledger refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from chain_adapters.conformance_market import ALLOTMENT, MISTAKEN, MULTIPLIER, ROUNDS_MAX, SYMBOL, UNITS, Market, evidence
from chain_adapters.conformance_parts.base import ConformanceBase, needs, state_of
from ledger.errors import LedgerError
from stockledger.v1.accounts_pb2 import (
    FreezeAccountRequest,
    FreezeHolderRequest,
    FreezeUnitsRequest,
    UnfreezeAccountRequest,
    UnfreezeHolderRequest,
    UnfreezeUnitsRequest,
)
from stockledger.v1.chains_pb2 import (
    AbandonInstructionRequest,
    AmendDeploymentRequest,
    AnchorCheckpointRequest,
    ChainCapability,
    InstructionState,
    RecordTransactionsRequest,
)
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.instruments_pb2 import HaltInstrumentRequest, ResumeInstrumentRequest
from stockledger.v1.issuance_pb2 import IssueUnitsRequest

if TYPE_CHECKING:
    from collections.abc import Callable


_C = ChainCapability


class Instructions(ConformanceBase):
    """Each is decided in the ledger, and looked for on the chain."""

    def test_mint(self, market: Market) -> None:
        first, second = market.wallets
        market.transfer("book:alice", first, 1000)
        market.do(IssueUnitsRequest(instrument=SYMBOL, account=second, units=70, reference="DTC 2"))
        market.settle()
        market.check({first: 1000, second: 70, "book:alice": UNITS - 1000})

    def test_burn(self, market: Market) -> None:
        first, _ = market.wallets
        market.transfer("book:alice", first, 1000)
        market.settle()
        market.transfer(first, "book:bob", 300)
        assert market.units("book:bob") == 0, "nothing is booked before the burn is final"
        market.settle()
        market.check({first: 700, "book:bob": 300})

    def test_force_transfer(self, market: Market) -> None:
        needs(market, _C.CHAIN_CAPABILITY_FORCE_TRANSFER)
        first, second = market.wallets
        market.transfer("book:alice", first, 1000)
        market.settle()
        market.force_transfer(first, second, 400)
        market.settle()
        market.check({first: 600, second: 400})

    def test_freeze_and_its_end(self, market: Market) -> None:
        needs(market, _C.CHAIN_CAPABILITY_FREEZE)
        first, _ = market.wallets
        market.transfer("book:alice", first, 1000)
        market.settle()
        market.do(FreezeAccountRequest(account=first, legal_reference="order 1"), principal="enforcer")
        market.settle()
        assert market.rig.controls(market.token, [first]).frozen == {first}
        market.do(UnfreezeAccountRequest(account=first, legal_reference="order 2"), principal="enforcer")
        market.settle()
        assert not market.rig.controls(market.token, [first]).frozen
        market.check({first: 1000})

    def test_seizure_from_a_frozen_holder(self, market: Market) -> None:
        needs(market, _C.CHAIN_CAPABILITY_FREEZE)
        needs(market, _C.CHAIN_CAPABILITY_FORCE_TRANSFER)
        first, second = market.wallets
        market.transfer("book:alice", first, 1000)
        market.settle()
        market.do(FreezeHolderRequest(holder="h-1", legal_reference="order 1"), principal="enforcer")
        market.settle()
        market.force_transfer(first, second, 1000)
        market.settle()
        market.check({first: 0, second: 1000})
        assert market.rig.controls(market.token, [first]).frozen == {first}

    def test_a_lost_wallet_is_recovered(self, market: Market) -> None:
        """It is frozen, and what it holds goes to another wallet of its holder, though a burn that was asked for before waits for ever."""
        needs(market, _C.CHAIN_CAPABILITY_FREEZE)
        needs(market, _C.CHAIN_CAPABILITY_FORCE_TRANSFER)
        lost, kept = market.wallets[0], market.make_wallet("h-1")
        market.transfer("book:alice", lost, 1000)
        market.settle()
        market.transfer(lost, "book:alice", 300)
        market.recover_wallet(lost, kept)
        assert market.units(lost) == 1000, "the chain decides"
        market.settle()
        market.check({lost: 300, kept: 700})
        assert market.rig.controls(market.token, [lost, kept]).frozen == {lost}
        (burn,) = market.instructions()
        assert burn.blocked_by == "ACCOUNT_FROZEN"
        market.do(AbandonInstructionRequest(instruction=burn.instruction, cause="the wallet is lost"))
        market.recover_wallet(lost, "book:alice")
        market.settle()
        market.check({lost: 0, kept: 700, "book:alice": UNITS - 700})
        assert market.rig.controls(market.token, [lost]).frozen == {lost}

    def test_a_freeze_stops_what_was_not_recorded(self, market: Market) -> None:
        first, _ = market.wallets
        market.transfer("book:alice", first, 1000)
        market.do(FreezeHolderRequest(holder="h-1", legal_reference="order 1"), principal="enforcer")
        market.settle()
        (blocked,) = market.instructions()
        assert blocked.blocked_by == "HOLDER_FROZEN"
        market.check({first: 0})
        market.do(UnfreezeHolderRequest(holder="h-1", legal_reference="order 2"), principal="enforcer")
        market.settle()
        market.check({first: 1000})

    def test_a_holder_who_is_frozen_once_his_units_were_sent(self, market: Market) -> None:
        """They arrive where they are frozen, or the chain refuses them and they go back to where they are frozen as well."""
        needs(market, _C.CHAIN_CAPABILITY_FREEZE)
        first, _ = market.wallets
        market.transfer("book:alice", first, 1000)
        assert market.project().sent_count == 1
        market.do(FreezeHolderRequest(holder="h-1", legal_reference="order 1"), principal="enforcer")
        (freeze, *_) = market.instructions(InstructionState.INSTRUCTION_STATE_OPEN)
        assert (freeze.source, freeze.frozen, freeze.rank) == (first, True, 0), "before anything else"
        market.settle()
        assert market.rig.controls(market.token, [first]).frozen == {first}
        arrived = market.units(first)
        assert arrived in (0, 1000)
        market.check({first: arrived, "book:alice": UNITS - arrived})
        for source in (first, "book:alice"):
            with pytest.raises(LedgerError) as refused:
                market.transfer(source, "book:bob", 1)
            assert refused.value.reason_name == "HOLDER_FROZEN"

    @pytest.mark.parametrize("fault", ["decimals", "nowhere"])
    def test_a_token_that_is_not_as_registered_stops_nobody_else(self, market: Market, fault: str) -> None:
        """Nothing of it is sent, and what is wanted of it is stuck, saying why; other tokens are sent, read and reconciled."""
        needs(market, _C.CHAIN_CAPABILITY_PAUSE)
        first, _ = market.wallets
        made = market.register_wrongly(fault)
        market.do(HaltInstrumentRequest(instrument=MISTAKEN, operations=[Operation.OPERATION_TRANSFER], cause="news"))
        market.transfer("book:alice", first, 1000)
        done = market.project()
        for _ in range(ROUNDS_MAX):
            market.rig.finalise()
            market.read(round_=done)
            if market.units(first):
                break
            done = market.project()
        market.check({first: 1000})
        wanted = {each.instruction for each in market.instructions()}
        assert wanted
        assert {each.instrument for each in market.instructions()} == {MISTAKEN}
        assert {each.what for each in done.stuck} == wanted
        assert not market.transactions()
        assert not market.rig.controls(made.token).paused
        reconciler = market.reconciler()
        assert next(reconciler).instrument == SYMBOL
        if fault == "decimals":
            assert all(f"has {made.decimals} decimals" in each.why for each in done.stuck)

    def test_freeze_of_units(self, market: Market) -> None:
        needs(market, _C.CHAIN_CAPABILITY_FREEZE_UNITS)
        first, _ = market.wallets
        market.transfer("book:alice", first, 1000)
        market.settle()
        market.do(FreezeUnitsRequest(instrument=SYMBOL, account=first, units=250, legal_reference="order 1"), principal="enforcer")
        market.settle()
        assert market.rig.controls(market.token, [first]).frozen_raw == 250
        market.do(UnfreezeUnitsRequest(instrument=SYMBOL, account=first, legal_reference="order 2"), principal="enforcer")
        market.settle()
        assert market.rig.controls(market.token, [first]).frozen_raw == 0
        market.check({first: 1000})

    def test_pause_and_its_end(self, market: Market) -> None:
        needs(market, _C.CHAIN_CAPABILITY_PAUSE)
        transfer = Operation.OPERATION_TRANSFER
        market.do(HaltInstrumentRequest(instrument=SYMBOL, operations=[transfer], cause="news"))
        market.settle()
        assert transfer in market.rig.controls(market.token).paused
        market.do(ResumeInstrumentRequest(instrument=SYMBOL, operations=[transfer], cause="news told"))
        market.settle()
        assert not market.rig.controls(market.token).paused
        market.transfer("book:alice", market.wallets[0], 10)
        market.settle()
        market.check({market.wallets[0]: 10})

    def test_multiplier(self, market: Market) -> None:
        needs(market, _C.CHAIN_CAPABILITY_MULTIPLIER)
        assert market.rig.controls(market.token).multiplier_next == MULTIPLIER
        market.transfer("book:alice", market.wallets[0], 1000)
        market.set_multiplier(MULTIPLIER, 3 * 10**18)
        market.settle()
        assert market.rig.controls(market.token).multiplier_next == 3 * 10**18
        market.check({market.wallets[0]: 1000})
        assert [each.divergence_count for each in market.reconcile()] == [0]

    def test_allotment(self, market: Market) -> None:
        needs(market, _C.CHAIN_CAPABILITY_ALLOTMENT)
        assert market.rig.controls(market.token).allotment == ALLOTMENT
        with pytest.raises(LedgerError) as refused:
            market.transfer("book:alice", market.wallets[0], ALLOTMENT + 1)
        assert refused.value.reason_name == "ALLOTMENT_EXCEEDED"
        market.do(AmendDeploymentRequest(chain=market.rig.chain, instrument=SYMBOL, allotment_units=ALLOTMENT + 1))
        market.transfer("book:alice", market.wallets[0], ALLOTMENT + 1)
        market.settle()
        assert market.rig.controls(market.token).allotment == ALLOTMENT + 1
        market.check({market.wallets[0]: ALLOTMENT + 1})

    def test_reserve_report(self, market: Market) -> None:
        needs(market, _C.CHAIN_CAPABILITY_RESERVE_FEED)
        assert market.rig.controls(market.token).reserve_shares_e8 == 1_000_000 * 10**8, "a new token is told what is known already"
        market.do(evidence(2_000_000))
        market.settle()
        assert market.rig.controls(market.token).reserve_shares_e8 == 2_000_000 * 10**8

    def test_anchor(self, market: Market) -> None:
        needs(market, _C.CHAIN_CAPABILITY_ANCHOR)
        before = market.rig.controls(market.token).anchors
        checkpoint = f"kit.example/log\n{market.books.size}\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n— kit AAAAAA==\n"
        market.do(AnchorCheckpointRequest(chain=market.rig.chain, checkpoint=checkpoint), principal="worker")
        market.settle()
        assert market.rig.controls(market.token).anchors == before + 1

    @pytest.mark.parametrize(
        "capability",
        [_C.CHAIN_CAPABILITY_MINT, _C.CHAIN_CAPABILITY_BURN, _C.CHAIN_CAPABILITY_FORCE_TRANSFER, _C.CHAIN_CAPABILITY_FREEZE_UNITS],
        ids=lambda capability: ChainCapability.Name(capability).removeprefix("CHAIN_CAPABILITY_"),
    )
    def test_what_a_token_cannot_do_is_refused(self, open_market: Callable[..., Market], capability: ChainCapability.ValueType) -> None:
        market = open_market(leave_out={capability})
        first, second = market.wallets
        freeze = FreezeUnitsRequest(instrument=SYMBOL, account=first, units=5, legal_reference="order 1")
        asked: dict[ChainCapability.ValueType, Callable[[], Any]] = {
            _C.CHAIN_CAPABILITY_MINT: lambda: market.transfer("book:alice", first, 10),
            _C.CHAIN_CAPABILITY_BURN: lambda: market.transfer(first, "book:bob", 10),
            _C.CHAIN_CAPABILITY_FORCE_TRANSFER: lambda: market.force_transfer(first, second, 10),
            _C.CHAIN_CAPABILITY_FREEZE_UNITS: lambda: market.do(freeze, principal="enforcer"),
        }
        if capability != _C.CHAIN_CAPABILITY_MINT:
            market.transfer("book:alice", first, 100)
            market.settle()
        with pytest.raises(LedgerError) as refused:
            asked[capability]()
        assert refused.value.reason_name == "CHAIN_INCAPABLE"
        assert not market.instructions()

    def test_a_chain_that_refuses_for_ever_gives_the_units_back(self, market: Market) -> None:
        first, second = market.wallets
        if not market.rig.bar(market.token, second):
            pytest.skip("the chain refuses nobody")
        market.rig.finalise()
        market.transfer("book:alice", second, 50)
        market.transfer("book:alice", first, 60)
        market.settle()
        market.check({first: 60, second: 0, "book:alice": UNITS - 60})
        assert not market.instructions()

    def test_one_of_several_is_refused_after_it_was_sent(self, market: Market) -> None:
        first, second = market.wallets
        market.transfer("book:alice", first, 60)
        market.transfer("book:alice", second, 50)
        adapter = market.connect()
        made = adapter.prepare(market.instructions(), state_of(market)).transactions
        market.call(RecordTransactionsRequest(chain=market.rig.chain, transactions=made))
        if not market.rig.bar(market.token, second):
            pytest.skip("the chain refuses nobody")
        market.settle()
        market.check({first: 60, second: 0, "book:alice": UNITS - 60})
        assert not market.instructions()

    def test_fees_rise_and_what_was_sent_is_replaced(self, market: Market) -> None:
        market.transfer("book:alice", market.wallets[0], 10)
        adapter = market.connect()
        made = adapter.prepare(market.instructions(), state_of(market)).transactions
        market.call(RecordTransactionsRequest(chain=market.rig.chain, transactions=made))
        if not market.rig.raise_fees():
            pytest.skip("fees do not rise")
        for transaction in made:
            adapter.send(transaction)
        market.rig.finalise()
        market.read()
        assert len(market.transactions()) == 1, "it must not have landed"
        assert market.project().replaced_count == 1
        assert len(market.transactions()[0].versions) == 2
        market.settle()
        market.check({market.wallets[0]: 10})
