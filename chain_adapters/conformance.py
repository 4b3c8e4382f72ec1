"""The conformance kit: any adapter, ours or a third party's, proves itself with five lines.

    class TestMyChain(ChainConformance):
        @pytest.fixture
        def rig(self) -> Iterator[Rig]:
            with MyRig() as rig:
                yield rig

Each test runs a real ledger in memory, the chain behind the rig, and projector, reader and reconciler between them, made anew for every
step as after a crash. What the ledger says in the end is held against what the rig sees on chain by itself. What a chain cannot do by its
rig's own account is tested as a refusal, and hooks that answer False skip their test.

    class                what it proves
    ChainConformance     all of the below
    _Verbs               the Protocol, verb by verb
    _Times               what takes effect by the chain's clock
    _Instructions        every kind of instruction, and what the chain or the ledger refuses
    _Others              what others do comes into the books, and differences are found
    _Crashes             any step may be the last of a process, any answer lost, late, twice or garbage
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
from typing import TYPE_CHECKING, Any, Final

import pytest

from chain_adapters.conformance_market import ALLOTMENT, DECIMALS, FOREIGN, MULTIPLIER, SYMBOL, UNITS, Market, evidence
from chain_adapters.fault_proxy import FaultProxy
from chain_adapters.projector import Projector
from chain_adapters.protocol import DeploymentUnfit, FateKind, KeyMissing, ProjectionState
from chain_adapters.reader import Reader
from ledger.errors import InvalidRequest, LedgerError
from ledger.rules.checks import utc_text
from stockledger.v1.accounts_pb2 import (
    FreezeAccountRequest,
    FreezeHolderRequest,
    FreezeUnitsRequest,
    UnfreezeAccountRequest,
    UnfreezeHolderRequest,
    UnfreezeUnitsRequest,
)
from stockledger.v1.chains_pb2 import (
    AmendDeploymentRequest,
    AnchorCheckpointRequest,
    ChainCapability,
    DivergenceKind,
    InstructionState,
    ListChainKeysRequest,
    ListDeploymentsRequest,
    ObservationKind,
    RecordTransactionsRequest,
    SweepWalletRequest,
)
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.corporate_actions_pb2 import CancelActionRequest
from stockledger.v1.instruments_pb2 import HaltInstrumentRequest, ResumeInstrumentRequest
from stockledger.v1.issuance_pb2 import IssueUnitsRequest
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chain_adapters.conformance_market import Omnibus
    from chain_adapters.protocol import ChainAdapter
    from chain_adapters.rig import Rig
    from stockledger.v1.chains_pb2 import ChainPosition, MultiplierChange

_C = ChainCapability
CLOCK_ROUNDS_MAX: Final = 200
"""How often a chain whose clock was moved is let go on until a final block or slot has that time."""
CRASH_STEPS_MAX: Final = 200
"""More boundaries than any of the crash tests has; each is one run."""


def _needs(market: Market, capability: ChainCapability.ValueType) -> None:
    if not market.can(capability):
        pytest.skip(f"the token has no {ChainCapability.Name(capability)}")


def _state(market: Market) -> ProjectionState:
    """Return what the log knows, as a projector would collect it."""
    chain = market.rig.chain
    keys = market.call(ListChainKeysRequest(chain=chain, page_size=1000)).keys
    deployments = market.call(ListDeploymentsRequest(chain=chain)).deployments
    return ProjectionState(deployments, keys, market.transactions(), market.cursor())


class _Base:
    @pytest.fixture
    def rig(self) -> Rig:
        """Give the chain under test; a fixture that yields may close it afterwards."""
        pytest.skip("the test class has no rig of its own")

    @pytest.fixture
    def open_market(self, rig: Rig) -> Iterator[Callable[..., Market]]:
        """Give a function that makes markets in which everything that their registration led to is done."""
        with contextlib.ExitStack() as opened:

            def open_one(**options: Any) -> Market:
                market = opened.enter_context(contextlib.closing(Market(rig, **options)))
                market.settle()
                assert not market.instructions()
                return market

            yield open_one

    @pytest.fixture
    def market(self, open_market: Callable[..., Market]) -> Market:
        """Give a market of a token that can do all that the rig says."""
        return open_market()


class _Verbs(_Base):
    def test_describes_the_chain_it_was_connected_to(self, rig: Rig) -> None:
        with contextlib.closing(rig.connect()) as adapter:
            description = adapter.describe()
        assert description.chain == rig.chain
        assert description.instructions_per_transaction_max >= 1
        assert description.final_after_seconds > 0
        assert frozenset(rig.capabilities) <= description.capabilities

    def test_accounts_have_one_spelling(self, rig: Rig) -> None:
        adapter = rig.connect()
        wallet = rig.make_wallet()
        assert adapter.check_account(wallet) == wallet
        assert rig.bad_accounts, "a chain has accounts that are none"
        for account in rig.bad_accounts:
            with pytest.raises(InvalidRequest):
                adapter.check_account(account)

    def test_a_token_is_inspected(self, market: Market) -> None:
        adapter = market.connect()
        assert adapter.inspect(market.deployment) == market.capabilities
        other = type(market.deployment)()
        other.CopyFrom(market.deployment)
        other.decimals += 1
        with pytest.raises(DeploymentUnfit):
            adapter.inspect(other)

    def test_finality_does_not_fall(self, market: Market) -> None:
        adapter = market.connect()
        first = adapter.finalised()
        market.rig.finalise()
        second = adapter.finalised()
        assert second.number > first.number
        assert second.hash != first.hash
        assert second.time.ToMicroseconds() >= first.time.ToMicroseconds()

    def test_preparing_neither_sends_nor_remembers(self, market: Market) -> None:
        market.transfer("book:alice", market.wallets[0], 10)
        wanted = market.instructions()
        adapter = market.connect()
        first = adapter.prepare(wanted, _state(market))
        second = adapter.prepare(wanted, _state(market))
        assert [each.sequence for each in first.transactions] == [each.sequence for each in second.transactions]
        assert [list(each.instructions) for each in first.transactions] == [[wanted[0].instruction]]
        market.rig.finalise()
        assert market.rig.holding(market.token, market.wallets[0]) == 0
        market.settle()
        market.check({market.wallets[0]: 10})

    def test_payloads_name_their_instruction_where_there_is_room(self, market: Market) -> None:
        market.transfer("book:alice", market.wallets[0], 10)
        wanted = market.instructions()
        adapter = market.connect()
        (transaction,) = adapter.prepare(wanted, _state(market)).transactions
        assert 0 < len(transaction.payload) <= 32_768
        assert int(transaction.fee_max) > 0

    def test_sequences_are_in_no_two_transactions(self, market: Market) -> None:
        for units in range(1, 40):
            market.transfer("book:alice", market.wallets[units % 2], units)
        adapter = market.connect()
        made = adapter.prepare(market.instructions(), _state(market)).transactions
        sequences = [(each.key, each.sequence.SerializeToString()) for each in made]
        assert len(set(sequences)) == len(sequences)
        named = [name for each in made for name in each.instructions]
        assert len(set(named)) == len(named)
        market.settle()
        market.check({market.wallets[0]: sum(range(2, 40, 2)), market.wallets[1]: sum(range(1, 40, 2))})

    def test_sending_again_and_again_does_no_harm(self, market: Market) -> None:
        market.transfer("book:alice", market.wallets[0], 10)
        adapter = market.connect()
        assert market.project(adapter).sent_count == 1
        (recorded,) = market.transactions()
        for _ in range(3):
            market.connect().send(recorded.versions[-1])
        assert adapter.fate(recorded, market.cursor()).kind in (FateKind.PENDING, FateKind.LANDED)
        market.rig.finalise()
        for _ in range(3):
            market.connect().send(recorded.versions[-1])
        assert adapter.fate(recorded, market.cursor()).kind is FateKind.LANDED
        market.settle()
        market.check({market.wallets[0]: 10})

    def test_what_was_never_sent_is_unseen(self, market: Market) -> None:
        market.transfer("book:alice", market.wallets[0], 10)
        adapter = market.connect()
        (transaction,) = adapter.prepare(market.instructions(), _state(market)).transactions
        market.call(RecordTransactionsRequest(chain=market.rig.chain, transactions=[transaction]))
        (recorded,) = market.transactions()
        market.rig.finalise()
        assert market.connect().fate(recorded, market.cursor()).kind is FateKind.UNSEEN
        market.settle()
        market.check({market.wallets[0]: 10})

    def test_a_sequence_used_up_by_another_is_a_proof_of_death(self, market: Market) -> None:
        market.transfer("book:alice", market.wallets[0], 10)
        adapter = market.connect()
        (transaction,) = adapter.prepare(market.instructions(), _state(market)).transactions
        market.call(RecordTransactionsRequest(chain=market.rig.chain, transactions=[transaction]))
        if not market.rig.use_up_sequence(transaction.key):
            pytest.skip("nobody else can use up a sequence of ours")
        market.rig.finalise()
        (recorded,) = market.transactions()
        assert market.connect().fate(recorded, market.cursor()).kind is not FateKind.DEAD, "the reader has not been there yet"
        market.read()
        fate = market.connect().fate(recorded, market.cursor())
        assert fate.death is not None
        assert fate.death.position.number <= market.cursor().number
        assert market.project().buried_count == 1
        market.settle()
        market.check({market.wallets[0]: 10})

    def test_ranges_are_beginnings_of_one_another(self, market: Market) -> None:
        start = market.cursor()
        for units in (5, 6, 7):
            market.transfer("book:alice", market.wallets[0], units)
            market.project()
            market.rig.finalise()
        adapter = market.connect()
        recorded = market.transactions()
        whole = adapter.read(start, [market.deployment], recorded)
        assert whole is not None
        assert whole.after == start
        assert [each.kind for each in whole.observations] == [ObservationKind.OBSERVATION_KIND_MINT] * 3
        assert len(whole.landed) == 3
        for number in range(start.number + 1, whole.through.number + 1):
            part = market.connect().read(start, [market.deployment], recorded, through_number=number)
            if part is None:
                continue
            assert part.through.number <= number
            assert list(part.observations) == list(whole.observations)[: len(part.observations)]
            assert all(each.number <= part.through.number for each in part.observations)
            rest = adapter.read(part.through, [market.deployment], recorded, through_number=whole.through.number)
            left = [] if rest is None else list(rest.observations)
            assert [*part.observations, *left] == list(whole.observations)[: len(part.observations) + len(left)]
        short = adapter.read(start, [market.deployment], recorded, observations_max=1)
        assert short is not None
        assert len(short.observations) == 1
        market.settle()
        market.check({market.wallets[0]: 18})

    def test_landed_transactions_are_recognised_by_their_payload(self, market: Market) -> None:
        market.transfer("book:alice", market.wallets[0], 10)
        start = market.cursor()
        market.project()
        (recorded,) = market.transactions()
        market.rig.finalise()
        seen = market.connect().read(start, [market.deployment], [recorded])
        assert seen is not None
        (landed,) = seen.landed
        assert landed.payload_digest == hashlib.sha256(recorded.versions[-1].payload).digest()
        assert [each.instruction for each in seen.observations] == list(recorded.versions[-1].instructions)
        unknown = market.connect().read(start, [market.deployment], [])
        assert unknown is not None
        assert not unknown.landed
        assert not unknown.observations[0].instruction

    def test_measures_at_a_position_that_it_names(self, market: Market) -> None:
        market.transfer("book:alice", market.wallets[0], 10)
        market.settle()
        stranger = market.rig.make_wallet()
        cursor = market.cursor()
        measured = market.connect().measure(market.deployment, [market.wallets[0], stranger], cursor)
        assert measured.position.number >= cursor.number
        assert [(each.account, each.raw) for each in measured.figures] == [("", "10"), (market.wallets[0], "10"), (stranger, "0")]

    def test_a_key_without_a_signer_is_named(self, market: Market) -> None:
        market.transfer("book:alice", market.wallets[0], 10)
        adapter = market.connect()
        state = _state(market)
        with pytest.raises(KeyMissing):
            adapter.prepare(market.instructions(), dataclasses.replace(state, keys=()))


class _Instructions(_Base):
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
        _needs(market, _C.CHAIN_CAPABILITY_FORCE_TRANSFER)
        first, second = market.wallets
        market.transfer("book:alice", first, 1000)
        market.settle()
        market.force_transfer(first, second, 400)
        market.settle()
        market.check({first: 600, second: 400})

    def test_freeze_and_its_end(self, market: Market) -> None:
        _needs(market, _C.CHAIN_CAPABILITY_FREEZE)
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
        _needs(market, _C.CHAIN_CAPABILITY_FREEZE)
        _needs(market, _C.CHAIN_CAPABILITY_FORCE_TRANSFER)
        first, second = market.wallets
        market.transfer("book:alice", first, 1000)
        market.settle()
        market.do(FreezeHolderRequest(holder="h-1", legal_reference="order 1"), principal="enforcer")
        market.settle()
        market.force_transfer(first, second, 1000)
        market.settle()
        market.check({first: 0, second: 1000})
        assert market.rig.controls(market.token, [first]).frozen == {first}

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
        _needs(market, _C.CHAIN_CAPABILITY_FREEZE)
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

    def test_freeze_of_units(self, market: Market) -> None:
        _needs(market, _C.CHAIN_CAPABILITY_FREEZE_UNITS)
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
        _needs(market, _C.CHAIN_CAPABILITY_PAUSE)
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
        _needs(market, _C.CHAIN_CAPABILITY_MULTIPLIER)
        assert market.rig.controls(market.token).multiplier_next == MULTIPLIER
        market.transfer("book:alice", market.wallets[0], 1000)
        market.set_multiplier(MULTIPLIER, 3 * 10**18)
        market.settle()
        assert market.rig.controls(market.token).multiplier_next == 3 * 10**18
        market.check({market.wallets[0]: 1000})
        assert [each.divergence_count for each in market.reconcile()] == [0]

    def test_allotment(self, market: Market) -> None:
        _needs(market, _C.CHAIN_CAPABILITY_ALLOTMENT)
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
        _needs(market, _C.CHAIN_CAPABILITY_RESERVE_FEED)
        assert market.rig.controls(market.token).reserve_shares_e8 == 1_000_000 * 10**8, "a new token is told what is known already"
        market.do(evidence(2_000_000))
        market.settle()
        assert market.rig.controls(market.token).reserve_shares_e8 == 2_000_000 * 10**8

    def test_anchor(self, market: Market) -> None:
        _needs(market, _C.CHAIN_CAPABILITY_ANCHOR)
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
        made = adapter.prepare(market.instructions(), _state(market)).transactions
        market.call(RecordTransactionsRequest(chain=market.rig.chain, transactions=made))
        if not market.rig.bar(market.token, second):
            pytest.skip("the chain refuses nobody")
        market.settle()
        market.check({first: 60, second: 0, "book:alice": UNITS - 60})
        assert not market.instructions()

    def test_fees_rise_and_what_was_sent_is_replaced(self, market: Market) -> None:
        market.transfer("book:alice", market.wallets[0], 10)
        adapter = market.connect()
        made = adapter.prepare(market.instructions(), _state(market)).transactions
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


class _Times(_Base):
    """Nothing happens on a chain when a multiplier takes effect there, so an adapter tells it by the chain's clock."""

    @pytest.fixture
    def timed(self, open_market: Callable[..., Market], rig: Rig) -> Market:
        """Give a market on a chain whose clock is a little before the ledger's: what counts at once here has come to pass there."""
        market = open_market()
        _needs(market, _C.CHAIN_CAPABILITY_MULTIPLIER)
        ahead_us = market.second_ahead(5)
        if not rig.pass_time(ahead_us):
            pytest.skip("nobody can move the chain's clock")
        self._pass(market, ahead_us)
        return market

    @staticmethod
    def _pass(market: Market, until_us: int) -> None:
        market.rig.pass_time(until_us)
        for _ in range(CLOCK_ROUNDS_MAX):
            market.rig.finalise()
            if market.connect().finalised().time.ToMicroseconds() >= until_us:
                break
        market.read()

    def test_a_multiplier_takes_effect_at_its_time(self, timed: Market) -> None:
        at_us, start = timed.second_ahead(600), timed.cursor()
        before = timed.in_force()
        timed.announce_split("SPLIT", at_us, 2)
        timed.settle()
        assert timed.rig.controls(timed.token).multiplier == MULTIPLIER
        self._pass(timed, at_us - 60_000_000)
        assert timed.in_force() == before, "its time has not come"
        self._pass(timed, at_us)
        self._pass(timed, at_us + 60_000_000)
        assert timed.rig.controls(timed.token).multiplier == 2 * MULTIPLIER
        (change,) = timed.in_force()[len(before) :]
        assert (int(change.old_multiplier), int(change.multiplier)) == (MULTIPLIER, 2 * MULTIPLIER)
        assert change.effective_time.ToMicroseconds() == at_us
        assert at_us <= change.time.ToMicroseconds() < at_us + 60_000_000, "told of the first block or slot with it"
        assert not timed.divergences()
        timed.check()
        self._check_read_anew(timed, start, change)

    @staticmethod
    def _check_read_anew(market: Market, start: ChainPosition, change: MultiplierChange) -> None:
        """Read again from where nothing was known, wherever ranges end and as often as they begin: once, and in the same place."""
        adapter, end = market.connect(), market.cursor().number
        whole = adapter.read(start, [market.deployment], [], through_number=end)
        assert whole is not None
        (expected,) = (each for each in whole.observations if each.kind == ObservationKind.OBSERVATION_KIND_MULTIPLIER_IN_FORCE)
        assert (expected.number, expected.value, expected.time) == (change.number, change.multiplier, change.time)
        for number in (change.number - 1, change.number, change.number + 1):
            first = market.connect().read(start, [market.deployment], [], through_number=number)
            assert first is not None
            known = type(market.deployment)()
            known.CopyFrom(market.deployment)
            known.chain_multiplier.CopyFrom(first.multipliers[0])
            for deployment in (known, market.deployment):
                rest = market.connect().read(first.through, [deployment], [], through_number=end)
                assert [*first.observations, *(rest.observations if rest is not None else ())] == list(whole.observations)

    def test_one_set_for_an_earlier_time_takes_its_place(self, timed: Market) -> None:
        at_us = timed.second_ahead(600)
        before = len(timed.in_force())
        timed.announce_split("LATE", at_us + 300_000_000, 2)
        timed.settle()
        timed.announce_split("EARLY", at_us, 3)
        timed.settle()
        self._pass(timed, at_us + 300_000_000)
        (change,) = timed.in_force()[before:]
        assert (int(change.multiplier), change.effective_time.ToMicroseconds()) == (3 * MULTIPLIER, at_us)
        assert not timed.divergences()

    def test_one_that_is_taken_back_does_not_take_effect(self, timed: Market) -> None:
        at_us = timed.second_ahead(600)
        before = timed.in_force()
        timed.announce_split("SPLIT", at_us, 2)
        timed.settle()
        timed.do(CancelActionRequest(action="SPLIT", cause="withdrawn"))
        timed.settle()
        self._pass(timed, at_us + 60_000_000)
        assert timed.in_force() == before
        assert timed.rig.controls(timed.token).multiplier == MULTIPLIER
        assert not timed.divergences()

    def test_one_set_for_a_time_that_is_past_takes_effect_at_once(self, timed: Market) -> None:
        start = timed.cursor()
        timed.set_multiplier(MULTIPLIER, 3 * 10**18)
        timed.settle()
        change = timed.in_force()[-1]
        assert (change.old_multiplier, change.multiplier) == (str(MULTIPLIER), str(3 * 10**18))
        assert change.effective_time == change.time
        whole = timed.connect().read(start, [timed.deployment], [])
        assert whole is not None
        set_, told = whole.observations
        assert (set_.kind, told.kind) == (
            ObservationKind.OBSERVATION_KIND_MULTIPLIER,
            ObservationKind.OBSERVATION_KIND_MULTIPLIER_IN_FORCE,
        )
        assert (told.number, told.transaction) == (set_.number, set_.transaction) == (change.number, set_.transaction)
        assert told.index > set_.index
        assert not timed.divergences()

    def test_one_that_comes_too_late_is_a_divergence(self, timed: Market) -> None:
        at_us = timed.second_ahead(600)
        timed.announce_split("SPLIT", at_us, 2)
        self._pass(timed, at_us + 60_000_000)
        timed.settle()
        change = timed.in_force()[-1]
        assert int(change.multiplier) == 2 * MULTIPLIER
        assert change.effective_time.ToMicroseconds() > at_us
        (divergence,) = timed.divergences()
        assert divergence.kind == DivergenceKind.DIVERGENCE_KIND_MULTIPLIER_IN_FORCE
        assert divergence.expected == f"{2 * MULTIPLIER} from {utc_text(at_us)}"

    def test_one_that_nobody_decided_is_a_divergence_when_it_takes_effect(self, timed: Market) -> None:
        at_us = timed.second_ahead(600)
        if not timed.rig.set_multiplier(timed.token, 7 * 10**18, at_us):
            pytest.skip("nobody else can set the multiplier")
        timed.settle()
        set_ = {each.kind for each in timed.divergences()}
        assert DivergenceKind.DIVERGENCE_KIND_CONTROL_UNDECIDED in set_
        assert DivergenceKind.DIVERGENCE_KIND_MULTIPLIER_IN_FORCE not in set_
        self._pass(timed, at_us)
        (divergence,) = (each for each in timed.divergences() if each.kind == DivergenceKind.DIVERGENCE_KIND_MULTIPLIER_IN_FORCE)
        assert divergence.found == f"{7 * 10**18} from {utc_text(at_us)}"
        assert divergence.expected.startswith(f"{MULTIPLIER} from ")

    def test_that_of_somebody_elses_token_is_only_observed(self, timed: Market) -> None:
        """Also one that was set before the ledger knew of the token."""
        at_us = timed.second_ahead(600)
        market = timed

        def set_before(ours: Omnibus) -> None:
            if not market.rig.set_multiplier(ours.token, 2 * 10**18, at_us):
                pytest.skip("somebody else's token has no multiplier that is told")

        market.open_omnibus(DECIMALS, set_before)
        market.settle()
        self._pass(market, at_us)
        self._pass(market, at_us + 60_000_000)
        (change,) = (each for each in market.in_force(FOREIGN) if int(each.old_multiplier))
        assert (int(change.old_multiplier), int(change.multiplier)) == (10**18, 2 * 10**18)
        assert change.effective_time.ToMicroseconds() == at_us
        assert not market.divergences()


class _Others(_Base):
    def test_transfers_between_wallets_known_and_unknown(self, market: Market) -> None:
        first, second = market.wallets
        stranger = market.make_wallet()
        market.transfer("book:alice", first, 1000)
        market.settle()
        market.rig.transfer(market.token, first, second, 200)
        market.rig.transfer(market.token, second, stranger, 50)
        market.rig.transfer(market.token, stranger, stranger, 20)
        market.settle()
        market.check({first: 800, second: 150, stranger: 50})
        assert not market.divergences()
        assert [(each.agreeing_count, each.divergence_count) for each in market.reconcile()] == [(4, 0)]

    def test_units_minted_behind_the_ledgers_back(self, market: Market) -> None:
        market.transfer("book:alice", market.wallets[0], 1000)
        market.settle()
        market.rig.mint_behind(market.token, market.wallets[0], 77)
        market.settle()
        kinds = {each.kind for each in market.divergences()}
        assert DivergenceKind.DIVERGENCE_KIND_MINT_UNDECIDED in kinds
        market.check({market.wallets[0]: 1077})
        assert market.units(f"divergence:{market.rig.chain}") == -77
        assert [each.divergence_count for each in market.reconcile()] == [0], "what was seen is in the books"

    def test_a_divergence_halts_the_place_where_that_is_set(self, open_market: Callable[..., Market]) -> None:
        market = open_market(halt_on_divergence=True)
        market.rig.mint_behind(market.token, market.wallets[0], 77)
        market.settle()
        with pytest.raises(LedgerError) as refused:
            market.transfer("book:alice", market.wallets[0], 10)
        assert refused.value.reason_name == "PLACE_HALTED"
        market.check({market.wallets[0]: 77})

    def test_units_burned_by_others(self, market: Market) -> None:
        first, _ = market.wallets
        market.transfer("book:alice", first, 1000)
        market.settle()
        if not market.rig.burn(market.token, first, 30):
            pytest.skip("nobody else can burn")
        market.settle()
        assert {each.kind for each in market.divergences()} == {DivergenceKind.DIVERGENCE_KIND_BURN_UNDECIDED}
        market.check({first: 970})
        assert market.units(f"divergence:{market.rig.chain}") == 30

    def test_whom_others_bar_is_told(self, market: Market) -> None:
        first, second = market.wallets
        market.transfer("book:alice", first, 1000)
        market.settle()
        if not market.rig.bar(market.token, second):
            pytest.skip("the chain refuses nobody")
        market.settle()
        (told,) = market.divergences()
        assert (told.kind, told.account) == (DivergenceKind.DIVERGENCE_KIND_CONTROL_UNDECIDED, second)
        market.transfer("book:alice", second, 50)
        market.settle()
        market.check({first: 1000, second: 0, "book:alice": UNITS - 1000})

    def test_somebody_elses_token_in_wallets_of_ours(self, market: Market) -> None:
        """Deposits with dust, one of nobody known, a sweep and a withdrawal; the wallets are the reserve of the book."""
        scale = 10**4
        ours = market.open_omnibus(DECIMALS + 4)
        stranger, customer = market.rig.make_wallet(), market.wallets[1]
        market.rig.mint_behind(ours.token, stranger, 100 * scale)
        market.rig.transfer(ours.token, stranger, ours.deposit, 7 * scale + 3)
        market.rig.transfer(ours.token, stranger, ours.hot, 2 * scale)
        market.settle()
        assert market.books.holding(FOREIGN, "book:bob") == 7
        assert market.books.holding(FOREIGN, f"unattributed:{market.rig.chain}") == 2
        market.do(SweepWalletRequest(instrument=FOREIGN, wallet=ours.deposit, receiving_wallet=ours.hot))
        market.settle()
        assert market.rig.holding(ours.token, ours.hot) == 9 * scale + 3
        market.do(TransferUnitsRequest(instrument=FOREIGN, source="book:bob", destination=customer, units=5))
        assert market.books.holding(FOREIGN, f"transit:{market.rig.chain}") == 5
        market.settle()
        assert market.rig.holding(ours.token, customer) == 5 * scale
        assert market.rig.holding(ours.token, ours.hot) == 4 * scale + 3
        assert market.books.holding(FOREIGN, "book:bob") == 2
        assert market.books.holding(FOREIGN, "ledger:external") == -4
        assert not market.divergences()
        assert [each.divergence_count for each in market.reconcile()] == [0, 0]

    def test_wallets_of_ours_that_hold_some_already_are_taken_over(self, market: Market) -> None:
        """What they hold is measured, registered with them, and confirmed; from then on it is spent like any other."""
        scale = 10**4

        def hold_before(ours: Omnibus) -> None:
            market.rig.mint_behind(ours.token, ours.hot, 9 * scale + 6)
            market.rig.mint_behind(ours.token, ours.deposit, 5 * scale + 7)

        ours = market.open_omnibus(DECIMALS + 4, hold_before, taken_over=True)
        assert market.books.holding(FOREIGN, f"unattributed:{market.rig.chain}") == 9
        assert market.books.holding(FOREIGN, "book:bob") == 5
        assert market.books.holding(FOREIGN, "ledger:external") == -14
        market.settle()
        assert [each.divergence_count for each in market.reconcile()] == [0, 0]
        market.do(TransferUnitsRequest(instrument=FOREIGN, source="book:bob", destination=market.wallets[1], units=3))
        market.settle()
        assert market.rig.holding(ours.token, market.wallets[1]) == 3 * scale
        assert market.books.holding(FOREIGN, "ledger:external") == -11
        assert [each.divergence_count for each in market.reconcile()] == [0, 0]
        assert not market.divergences()

    def test_an_owner_is_faster_than_our_burn(self, market: Market) -> None:
        first, second = market.wallets
        market.transfer("book:alice", first, 1000)
        market.settle()
        market.transfer(first, "book:bob", 1000)
        market.rig.transfer(market.token, first, second, 1)
        market.settle()
        market.check({first: 999, second: 1, "book:bob": 0})
        assert not market.instructions()

    @pytest.mark.parametrize("burns", [False, True], ids=["moves", "burns"])
    def test_an_owner_is_faster_than_our_transfer_by_force(self, market: Market, burns: bool) -> None:
        """What he has left is taken by another; of what he sent away or burned the books say what became of it."""
        _needs(market, _C.CHAIN_CAPABILITY_FORCE_TRANSFER)
        first, second = market.wallets
        stranger = market.make_wallet()
        market.transfer("book:alice", first, 1000)
        market.settle()
        market.force_transfer(first, second, 1000)
        adapter = market.connect()
        made = adapter.prepare(market.instructions(), _state(market)).transactions
        market.call(RecordTransactionsRequest(chain=market.rig.chain, transactions=made))
        if not burns:
            market.rig.transfer(market.token, first, stranger, 300)
        elif not market.rig.burn(market.token, first, 300):
            pytest.skip("nobody else can burn")
        for transaction in made:
            adapter.send(transaction)
        market.settle()
        market.check({first: 700, second: 0} | ({} if burns else {stranger: 300}))
        assert not market.instructions()
        market.force_transfer(first, second, 700)
        market.settle()
        market.check({first: 0, second: 700})
        kinds = {each.kind for each in market.divergences()}
        assert kinds == ({DivergenceKind.DIVERGENCE_KIND_BURN_UNDECIDED} if burns else set())

    def test_a_reorganisation_before_finality_changes_nothing(self, market: Market) -> None:
        first, second = market.wallets
        market.transfer("book:alice", first, 1000)
        market.settle()
        digest = market.books.state_digest()
        market.rig.transfer(market.token, first, second, 100)
        if not market.rig.reorganise():
            pytest.skip("this chain has no forks")
        market.rig.reorganise()
        assert market.books.state_digest() == digest
        market.settle()
        market.transfer("book:alice", second, 5)
        market.project()
        market.rig.reorganise()
        market.settle()
        assert not market.divergences()
        market.check({first: market.rig.holding(market.token, first), second: market.rig.holding(market.token, second)})
        assert market.rig.supply(market.token) == 1005

    def test_a_change_of_what_was_final_stops_the_chain(self, market: Market) -> None:
        market.transfer("book:alice", market.wallets[0], 1000)
        market.settle()
        if not market.rig.reorganise_final():
            pytest.skip("what is final stays final")
        digest_before = market.units(market.wallets[0])
        read = Reader(market.call, market.connect()).read()
        assert read.halted
        assert [each.kind for each in market.divergences()] == [DivergenceKind.DIVERGENCE_KIND_HISTORY_CHANGED]
        assert market.project().halted
        assert market.units(market.wallets[0]) == digest_before
        with pytest.raises(LedgerError) as refused:
            market.transfer("book:alice", market.wallets[0], 10)
        assert refused.value.reason_name == "PLACE_HALTED"


class Crash(BaseException):
    """The process dies here."""


class _Boundaries:
    """Counts calls of the ledger and of an adapter, each a boundary before and one after, and dies at one of them."""

    def __init__(self, dies_at: int) -> None:
        self._dies_at = dies_at
        self._passed = 0

    def _pass(self) -> None:
        if self._passed == self._dies_at:
            raise Crash
        self._passed += 1

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            self._pass()
            answer = function(*arguments, **named)
            self._pass()
            return answer

        return wrapped


class _Dying:
    """An adapter whose process may die before or after any call of it."""

    def __init__(self, adapter: ChainAdapter, boundaries: _Boundaries) -> None:
        self.chain = adapter.chain
        for verb in ("describe", "finalised", "prepare", "replace", "send", "fate", "read", "measure"):
            setattr(self, verb, boundaries.wrap(getattr(adapter, verb)))


class _Crashes(_Base):
    def test_a_crash_between_any_two_steps(self, market: Market) -> None:
        """Each run dies one boundary later, until one gets through; after each, everything is made anew and goes on."""
        first, second = market.wallets
        market.transfer("book:alice", first, 100_000)
        market.settle()
        minted, burned = 100_000, 0
        for step in range(CRASH_STEPS_MAX):
            market.transfer("book:alice", first, 1000 + step)
            market.transfer(first, "book:bob", 10 + step)
            minted, burned = minted + 1000 + step, burned + 10 + step
            boundaries = _Boundaries(step)
            died = False
            for _ in range(2):
                try:
                    self._one_pass(market, boundaries)
                except Crash:
                    died = True
                    break
                market.rig.finalise()
            market.settle()
            market.check({first: minted - burned, second: 0, "book:bob": burned})
            if not died:
                assert step > 20, "the boundaries were not counted"
                return
        raise AssertionError(f"more than {CRASH_STEPS_MAX} boundaries")

    @staticmethod
    def _one_pass(market: Market, boundaries: _Boundaries) -> None:
        adapter: Any = _Dying(market.connect(), boundaries)
        call = boundaries.wrap(market.call)
        Projector(call, adapter).round()
        Reader(call, adapter).read()

    def test_a_node_that_fails_one_call_in_five(self, market: Market) -> None:
        with FaultProxy(market.rig.node_url, share=0.2, seed=7) as proxy:
            market.url = proxy.url
            first, second = market.wallets
            for step in itertools.count(1):
                market.transfer("book:alice", first, 100)
                market.transfer("book:alice", second, 50)
                market.settle()
                market.transfer(first, "book:bob", 10)
                if market.can(_C.CHAIN_CAPABILITY_FORCE_TRANSFER):
                    market.force_transfer(second, first, 5)
                market.settle()
                if len(proxy.told) > 6 and step >= 5:
                    break
        market.url = None
        market.settle()
        forced = 5 * step if market.can(_C.CHAIN_CAPABILITY_FORCE_TRANSFER) else 0
        market.check({first: 90 * step + forced, second: 50 * step - forced, "book:bob": 10 * step})
        assert not market.divergences()

    def test_two_readers_and_two_projectors_at_once(self, market: Market) -> None:
        first, _ = market.wallets
        for units in range(1, 9):
            market.transfer("book:alice", first, units)
            one, other = market.connect(), market.connect()
            market.project(one)
            market.project(other)
            market.rig.finalise()
            Reader(market.call, one).read()
            Reader(market.call, other).read()
        market.settle()
        market.check({first: sum(range(1, 9))})
        assert not market.divergences()

    def test_a_whole_day_mixed(self, market: Market) -> None:
        """Everything at once, nothing waited for in between."""
        first, second = market.wallets
        market.transfer("book:alice", first, 10_000)
        market.settle()
        expected = {first: 10_000, second: 0, "book:bob": 0}
        for turn in range(1, 25):
            market.transfer("book:alice", second, 10 * turn)
            expected[second] += 10 * turn
            market.transfer(first, "book:bob", turn)
            expected[first] -= turn
            expected["book:bob"] += turn
            if turn % 3 == 0:
                market.rig.transfer(market.token, first, second, 2)
                expected[first] -= 2
                expected[second] += 2
            if turn % 4 == 0 and market.can(_C.CHAIN_CAPABILITY_FORCE_TRANSFER):
                market.force_transfer(first, second, 3)
                expected[first] -= 3
                expected[second] += 3
            if turn % 5 == 0:
                market.project()
        market.settle()
        market.check(expected)
        assert not market.divergences()
        assert not market.instructions(InstructionState.INSTRUCTION_STATE_REFUSED)
        assert [each.divergence_count for each in market.reconcile()] == [0]


class ChainConformance(_Verbs, _Instructions, _Times, _Others, _Crashes):
    """Subclass it, and give it a fixture `rig`."""
