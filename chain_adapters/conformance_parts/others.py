"""What others do comes into the books, and differences are found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from chain_adapters.conformance_market import DECIMALS, FOREIGN, UNITS, Market
from chain_adapters.conformance_parts.base import ConformanceBase, needs, state_of
from chain_adapters.reader import Reader
from ledger.errors import LedgerError
from stockledger.v1.chains_pb2 import (
    ChainCapability,
    DivergenceKind,
    RecordTransactionsRequest,
    SweepWalletRequest,
)
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from chain_adapters.conformance_market import Omnibus

_C = ChainCapability


class Others(ConformanceBase):
    """Each is done on the chain, and looked for in the ledger."""

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
        needs(market, _C.CHAIN_CAPABILITY_FORCE_TRANSFER)
        first, second = market.wallets
        stranger = market.make_wallet()
        market.transfer("book:alice", first, 1000)
        market.settle()
        market.force_transfer(first, second, 1000)
        adapter = market.connect()
        made = adapter.prepare(market.instructions(), state_of(market)).transactions
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
