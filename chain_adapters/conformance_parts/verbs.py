"""The Protocol, verb by verb."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from typing import TYPE_CHECKING

import pytest

from chain_adapters.conformance_market import Market
from chain_adapters.conformance_parts.base import ConformanceBase, state_of
from chain_adapters.protocol import DeploymentUnfit, FateKind, KeyMissing
from ledger.errors import InvalidRequest
from stockledger.v1.chains_pb2 import (
    ObservationKind,
    RecordTransactionsRequest,
)

if TYPE_CHECKING:
    from chain_adapters.rig import Rig


class Verbs(ConformanceBase):
    """Each is asked by itself, without the loops."""

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
        first = adapter.prepare(wanted, state_of(market))
        second = adapter.prepare(wanted, state_of(market))
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
        (transaction,) = adapter.prepare(wanted, state_of(market)).transactions
        assert 0 < len(transaction.payload) <= 32_768
        assert int(transaction.fee_max) > 0

    def test_sequences_are_in_no_two_transactions(self, market: Market) -> None:
        for units in range(1, 40):
            market.transfer("book:alice", market.wallets[units % 2], units)
        adapter = market.connect()
        made = adapter.prepare(market.instructions(), state_of(market)).transactions
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
        (transaction,) = adapter.prepare(market.instructions(), state_of(market)).transactions
        market.call(RecordTransactionsRequest(chain=market.rig.chain, transactions=[transaction]))
        (recorded,) = market.transactions()
        market.rig.finalise()
        assert market.connect().fate(recorded, market.cursor()).kind is FateKind.UNSEEN
        market.settle()
        market.check({market.wallets[0]: 10})

    def test_a_sequence_used_up_by_another_is_a_proof_of_death(self, market: Market) -> None:
        market.transfer("book:alice", market.wallets[0], 10)
        adapter = market.connect()
        (transaction,) = adapter.prepare(market.instructions(), state_of(market)).transactions
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
        state = state_of(market)
        with pytest.raises(KeyMissing):
            adapter.prepare(market.instructions(), dataclasses.replace(state, keys=()))
