"""The books a second time, as plain dicts: holdings, holds, freezes and debts by name, booked from the events alone.

Nothing here knows columns, journals or packed forms. What it says is compared with the state after every step.
"""

from __future__ import annotations

from collections import Counter
from itertools import zip_longest
from typing import Any

from ledger.state import OWN_ACCOUNTS
from stockledger.v1.events_pb2 import Entry

ISSUANCE = "ledger:issuance"


class Model:
    """What is true after a number of events."""

    def __init__(self) -> None:
        self.holdings: Counter[tuple[str, str]] = Counter()
        self.holds: dict[int, list[Any]] = {}
        """By number: instrument, account, units left."""
        self.frozen: dict[tuple[str, str], int] = {}
        self.receivables: Counter[tuple[str, str, str]] = Counter()
        self.instruments: dict[int, str] = {}
        self.accounts: dict[int, str] = {number: name for name, number in OWN_ACCOUNTS.items()}
        self.multipliers: dict[str, int] = {}
        self.fills: dict[tuple[str, int, int], Any] = {}
        self.subscriptions: dict[int, Any] = {}
        self.redemptions: dict[int, Any] = {}
        self.size = 0
        self.crossings: dict[int, Any] = {}
        """What was decided to go to a chain, or to be burned there, by the index of its event."""

    def apply(self, entry: Entry) -> None:
        """Book one event."""
        kind = entry.WhichOneof("event")
        assert kind is not None
        self.size += 1
        if kind not in WITHOUT_UNITS:
            getattr(self, kind)(getattr(entry, kind))

    def move(self, instrument: str, source: str, destination: str, units: int) -> None:
        if units:
            assert units > 0
            self.holdings[instrument, source] -= units
            self.holdings[instrument, destination] += units

    def free(self, instrument: str, account: str) -> int:
        """Return the units that may move."""
        return self.unheld(instrument, account) - self.frozen.get((instrument, account), 0)

    def unheld(self, instrument: str, account: str) -> int:
        held = sum(units for symbol, name, units in self.holds.values() if (symbol, name) == (instrument, account))
        return self.holdings[instrument, account] - held

    def supply(self, instrument: str) -> int:
        return -self.holdings[instrument, ISSUANCE]

    def take(self, hold: int, units: int) -> None:
        """Take units from a hold, which is gone when nothing is left."""
        left = self.holds[hold]
        left[2] -= units
        assert left[2] >= 0, f"hold {hold} is overdrawn"
        if not left[2]:
            del self.holds[hold]

    # ---- instruments and accounts

    def instrument_registered(self, event: Any) -> None:
        self.instruments[event.instrument.number] = event.instrument.symbol
        self.multipliers[event.instrument.symbol] = int(event.instrument.multiplier)

    def multiplier_changed(self, event: Any) -> None:
        assert self.multipliers[event.instrument] == int(event.old_multiplier)
        self.multipliers[event.instrument] = int(event.multiplier)

    def chain_registered(self, event: Any) -> None:
        chain = event.chain
        self.accounts[chain.transit_account_number] = f"transit:{chain.chain}"
        self.accounts[chain.divergence_account_number] = f"divergence:{chain.chain}"
        self.accounts[chain.unattributed_account_number] = f"unattributed:{chain.chain}"

    def deposit_addresses_registered(self, event: Any) -> None:
        for address, number in zip(event.deposit_addresses, event.account_numbers, strict=True):
            assert self.accounts.setdefault(number, address.deposit_address) == address.deposit_address

    def account_opened(self, event: Any) -> None:
        assert event.number not in self.accounts
        self.accounts[event.number] = event.account

    def wallet_bound(self, event: Any) -> None:
        assert self.accounts.setdefault(event.number, event.account) == event.account

    def units_frozen(self, event: Any) -> None:
        self.frozen[event.instrument, event.account] = event.units

    def units_unfrozen(self, event: Any) -> None:
        left = self.frozen.pop((event.instrument, event.account)) - event.units
        assert left == 0, "units are unfrozen as a whole"

    # ---- transfers

    def units_transferred(self, event: Any) -> None:
        """By way of a chain: from the book units wait in transit, from the chain nothing moves before it is seen."""
        destination = f"transit:{event.chain}" if getattr(event, "chain", "") else event.destination
        if destination != event.destination:
            self.crossings[self.size - 1] = event
        if destination == event.destination or event.source.startswith("book:"):
            self.move(event.instrument, event.source, destination, event.units)

    units_transferred_by_force = units_transferred

    def transfers_packed(self, event: Any) -> None:
        for instrument, source, destination, units in zip(event.instruments, event.sources, event.destinations, event.units, strict=True):
            self.move(self.instruments[instrument], self.accounts[source], self.accounts[destination], units)

    def batch_transferred(self, event: Any) -> None:
        for legs in event.legs:
            for source, destination, units in zip(legs.sources, legs.destinations, legs.units, strict=True):
                self.move(legs.instrument, self.accounts[source], self.accounts[destination], units)

    def delivery_settled(self, event: Any) -> None:
        for movement in event.movements:
            self.units_transferred(movement)

    wallet_recovered = delivery_settled

    def transfer_reversed(self, event: Any) -> None:
        self.move(event.instrument, event.source, event.destination, event.taken_units)
        if event.funded_units:
            self.move(event.instrument, event.loss_account, event.destination, event.funded_units)
            self.receivables[event.holder, event.instrument, event.loss_account] += event.funded_units

    def receivable_repaid(self, event: Any) -> None:
        self.move(event.instrument, event.account, event.loss_account, event.units)
        key = (event.holder, event.instrument, event.loss_account)
        self.receivables[key] -= event.units
        assert self.receivables[key] >= 0

    # ---- holds and trades

    def hold_placed(self, event: Any) -> None:
        self.holds[event.hold.hold] = [event.hold.instrument, event.hold.account, event.hold.units]

    def hold_executed(self, event: Any) -> None:
        instrument, account, _ = self.holds[event.hold]
        self.take(event.hold, event.units + event.released_units)
        self.move(instrument, account, event.destination, event.units)

    def hold_released(self, event: Any) -> None:
        self.take(event.hold, event.units)

    def holds_expired(self, event: Any) -> None:
        for hold in event.holds:
            del self.holds[hold]

    def trades_settled(self, event: Any) -> None:
        columns = (event.sell_holds, event.buy_holds, event.units, event.cash_units, event.buyer_fee_units, event.seller_fee_units)
        for sell, buy, units, cash, buyer_fee, seller_fee in zip_longest(*columns, fillvalue=0):
            seller, buyer = self.holds[sell][1], self.holds[buy][1]
            self.take(sell, units)
            self.take(buy, cash + buyer_fee)
            self.move(event.instrument, seller, buyer, units)
            self.move(event.cash_instrument, buyer, seller, cash)
            self.move(event.cash_instrument, buyer, event.fee_account, buyer_fee)
            self.move(event.cash_instrument, seller, event.fee_account, seller_fee)

    # ---- issuance and redemption

    def units_issued(self, event: Any) -> None:
        if event.chain:
            self.crossings[self.size - 1] = event
        self.move(event.instrument, ISSUANCE, f"transit:{event.chain}" if event.chain else event.account, event.units)

    def instruction_abandoned(self, event: Any) -> None:
        """Units come back from the transit of their chain; those that go to an account at a chain wait in the transit of that one."""
        if event.returned_units:
            place = event.return_account.rpartition(":")[0]
            to = event.return_account if place in {"book", "ledger"} else f"transit:{place}"
            source = f"transit:{event.chain}"
            if source != to:
                self.move(event.instrument, source, to, event.returned_units)

    def range_observed(self, event: Any) -> None:
        """What was seen moves as it was seen; what a chain refuses comes back to where it came from."""
        for number, name in enumerate(event.opened_accounts, event.first_opened_number):
            assert number not in self.accounts
            self.accounts[number] = name
        for effect in event.effects:
            for movement in effect.movements:
                self.move(effect.instrument, self.accounts[movement.source], self.accounts[movement.destination], movement.units)
        for outcome in event.outcomes:
            cause = self.crossings.get(int(outcome.instruction.partition("-")[0]))
            if outcome.returned_units:
                origin = cause.account if hasattr(cause, "subscription") else getattr(cause, "source", ISSUANCE)
                self.move(cause.instrument, f"transit:{cause.chain}", origin, outcome.returned_units)
            if outcome.hold:
                self.holds[outcome.hold] = [cause.instrument, cause.account, cause.units]
                self.redemptions[cause.redemption].hold = outcome.hold

    def divergence_resolved(self, event: Any) -> None:
        if event.HasField("movement"):
            self.move(event.movement.instrument, event.movement.source, event.movement.destination, event.movement.units)

    def deployment_registered(self, event: Any) -> None:
        """What wallets of ours held already is owed by external."""
        for opening in event.opening_holdings:
            self.move(event.deployment.instrument, "ledger:external", opening.account, opening.units)
        self.move(event.deployment.instrument, "ledger:external", "ledger:remainder", event.remainder_units)

    deployment_amended = deployment_registered

    def deposit_attributed(self, event: Any) -> None:
        self.move(event.instrument, f"unattributed:{event.chain}", event.account, event.units)

    def subscription_requested(self, event: Any) -> None:
        self.holds[event.hold] = [event.cash_instrument, event.account, event.cash_units]
        self.subscriptions[event.subscription] = event

    def subscription_filled(self, event: Any) -> None:
        request, fill = self.subscriptions[event.subscription], event.fill
        self.take(request.hold, fill.cash_units + fill.fee_units + event.released_cash_units)
        self.move(request.cash_instrument, request.account, event.proceeds_account, fill.cash_units)
        self.move(request.cash_instrument, request.account, event.fee_account, fill.fee_units)
        self.create(request, event)

    def fill_settled(self, event: Any) -> None:
        self.create(self.subscriptions[event.subscription], event)

    def create(self, request: Any, event: Any) -> None:
        """Units of a wallet wait in transit, and come back to who paid for them."""
        if event.chain:
            assert event.chain == request.receiving_account.rpartition(":")[0]
            self.crossings[self.size - 1] = event
        destination = f"transit:{event.chain}" if event.chain else request.account
        self.move(request.instrument, ISSUANCE, destination, event.issued_units)

    def subscription_ended(self, event: Any) -> None:
        self.take(self.subscriptions[event.subscription].hold, event.released_cash_units)

    def redemption_requested(self, event: Any) -> None:
        """Units of a wallet are held once they are burned there."""
        if event.wallet:
            self.crossings[self.size - 1] = event
        if event.hold:
            self.holds[event.hold] = [event.instrument, event.account, event.units]
        self.redemptions[event.redemption] = event

    def destroy(self, redemption: int, units: int) -> None:
        request = self.redemptions[redemption]
        self.take(request.hold, units)
        self.move(request.instrument, request.account, ISSUANCE, units)

    def redemption_settled(self, event: Any) -> None:
        request = self.redemptions[event.redemption]
        self.destroy(event.redemption, event.units)
        self.move(event.cash_instrument, event.paying_account, request.account, event.cash_units)
        self.move(event.cash_instrument, event.paying_account, event.fee_account, event.fee_units)

    def redemption_delivered(self, event: Any) -> None:
        self.destroy(event.redemption, event.units)

    def redemption_ended(self, event: Any) -> None:
        if event.released_units:
            self.take(self.redemptions[event.redemption].hold, event.released_units)

    # ---- corporate actions

    def distribution_paid(self, event: Any) -> None:
        columns = (event.accounts, event.paid_units, event.withheld_units, event.blocked_units, event.unclaimed_units)
        for number, paid, withheld, blocked, unclaimed in zip(*columns, strict=True):
            for destination, units in (
                (self.accounts[number], paid),
                ("ledger:withheld", withheld),
                ("ledger:blocked", blocked),
                ("ledger:unclaimed", unclaimed),
            ):
                self.move(event.cash_instrument, event.funding_account, destination, units)
        self.move(event.cash_instrument, event.funding_account, "ledger:remainder", event.remainder_units)

    def entitlement_released(self, event: Any) -> None:
        self.move(event.instrument, "ledger:blocked" if event.blocked else "ledger:unclaimed", event.destination, event.units)

    def units_replaced(self, event: Any) -> None:
        for number, old, new in zip(event.accounts, event.old_units, event.new_units, strict=True):
            name = self.accounts[number]
            assert self.holdings[event.instrument, name] == old
            self.holdings[event.instrument, name] = new
            self.holdings[event.instrument, ISSUANCE] -= new - old
        for hold, units in zip(event.holds, event.held_units, strict=True):
            self.take(hold, self.holds[hold][2] - units)
        for number, units in zip(event.frozen_accounts, event.frozen_units, strict=True):
            self.frozen[event.instrument, self.accounts[number]] = units
        for owed in event.receivables:
            self.receivables[owed.holder, owed.instrument, owed.loss_account] = owed.units

    # ---- against the state

    def compare(self, state: Any) -> None:
        """Hold the state's tables against these."""
        found = {
            (symbol, state.account_names[number]): units
            for instrument, symbol in state.instrument_symbols.items()
            for number, units in enumerate(state.books[instrument].units)
            if units
        }
        assert found == {key: units for key, units in self.holdings.items() if units}
        holds = {
            number: [state.instrument_symbols[hold.instrument], state.account_names[hold.account], hold.units]
            for number, hold in state.holds.items()
        }
        assert holds == self.holds
        frozen = {
            (state.instrument_symbols[instrument], state.account_names[account]): frozen.units
            for (instrument, account), frozen in state.frozen_units.items()
        }
        assert frozen == self.frozen
        assert state.receivables == {key: units for key, units in self.receivables.items() if units}
        assert {symbol: record.multiplier for symbol, record in state.instruments.items()} == self.multipliers
        assert state.account_names == self.accounts


WITHOUT_UNITS = frozenset({
    "ledger_opened", "instrument_amended", "instrument_halted", "instrument_resumed", "instrument_retired", "holder_registered",
    "holder_amended", "holder_frozen", "holder_unfrozen", "account_closed", "account_frozen", "account_unfrozen", "eligibility_set",
    "approval_policy_set", "approval_requested", "approval_given", "command_declined", "role_granted", "role_revoked",
    "custodian_registered", "custodian_key_rotated", "custody_account_opened", "evidence_recorded", "receipt_confirmed",
    "delivery_confirmed", "reserve_shortfall_raised", "reserve_shortfall_ended", "fills_rescaled", "redemption_filled",
    "action_announced", "entitlements_fixed", "action_completed", "action_cancelled", "chain_amended",
    "chain_key_set",
    "transactions_recorded", "transactions_died", "chain_reconciled", "divergence_raised", "wallet_swept", "anchor_requested",
    "multiplier_scheduled",
})  # fmt: skip
"""Events that leave all units where they are."""
