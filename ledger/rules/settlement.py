"""Settlement: delivery against payment, and the trades of a matching engine against the holds of their orders.

    command          event
    SettleDelivery   DeliverySettled
    SettleTrades     TradesSettled, in as many parts as its trades and refusals need

Trades are checked and booked on whole columns where that is sound, trade by trade where it is not or where one is refused, with the
same result (see columns.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ledger import vectors
from ledger.arithmetic import UNITS_MAX
from ledger.errors import LedgerError, refusal
from ledger.rules.batches import check_equally_long
from ledger.rules.checks import (
    OPERATION_TRANSFER,
    check_eligible,
    check_free,
    check_length,
    check_movement,
    check_open,
    check_party,
    check_present,
    check_units,
    check_units_or_zero,
    find_book_account,
    find_instrument,
)
from ledger.rules.columns import all_admitted, at_position
from ledger.rules.holds import check_left, check_not_lapsed, check_unfrozen, find_hold, lessen_holds, take_from_hold
from ledger.rules.transfers import check_two_accounts, find_two_accounts
from stockledger.v1.common_pb2 import Movement
from stockledger.v1.errors_pb2 import Reason
from stockledger.v1.holds_pb2 import HoldPurpose
from stockledger.v1.settlement_pb2 import (
    DeliverySettled,
    SettleDeliveryRequest,
    SettleDeliveryResponse,
    SettleTradesRequest,
    SettleTradesResponse,
    TradeRefusal,
    TradesSettled,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ledger.records import Account, Hold, Instrument
    from ledger.rules.context import Context, Decided
    from ledger.state import State

MOVEMENTS_MIN: Final = 2
MOVEMENTS_MAX: Final = 64
TRADES_MAX: Final = 100_000
TRADES_PER_PART: Final = 1_130
"""56 bytes each: below the 65,535 bytes of a leaf with room for names, reference and envelope."""
REFUSALS_PER_PART: Final = 1_500
"""At most 40 bytes each."""

_ORDER: Final = HoldPurpose.HOLD_PURPOSE_ORDER


# ---- one delivery --------------------------------------------------------------------------------------------------------------------


def decide_delivery(state: State, command: SettleDeliveryRequest, context: Context) -> list[DeliverySettled]:
    count = len(command.movements)
    if not count:
        raise refusal(Reason.REASON_FIELD_MISSING, "movements is empty", field="movements")
    check_length("reference", command.reference)
    if count < MOVEMENTS_MIN:
        message = "a delivery against payment has at least two movements"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="movements", value=count)
    if count > MOVEMENTS_MAX:
        message = f"{count} movements, at most {MOVEMENTS_MAX} may be"
        raise refusal(Reason.REASON_TOO_MANY_ITEMS, message, field="movements", count=count, limit=MOVEMENTS_MAX)
    moved: dict[tuple[int, int], int] = {}
    for leg, movement in enumerate(command.movements):
        try:
            _check_delivery_leg(state, movement, moved, context.decision_time_us)
        except LedgerError as error:
            raise at_position(error, "leg", leg) from None
    return [DeliverySettled(movements=command.movements, reference=command.reference)]


def _check_delivery_leg(state: State, movement: Movement, moved: dict[tuple[int, int], int], now_us: int) -> None:
    """Check one movement after those before it, and add it to what has moved."""
    check_present(instrument=movement.instrument, source=movement.source, destination=movement.destination)
    units = check_units("units", movement.units)
    check_two_accounts(movement.source, movement.destination)
    instrument = find_instrument(state, movement.instrument)
    source, destination = find_two_accounts(state, movement.source, movement.destination)
    check_movement(state, instrument, source, destination, now_us)
    giving, taking = (instrument.number, source.number), (instrument.number, destination.number)
    brought = moved.get(giving, 0)
    check_free(state, instrument, source, units, brought)
    moved[giving] = brought - units
    moved[taking] = moved.get(taking, 0) + units


def evolve_delivery(state: State, event: DeliverySettled, decided: Decided) -> None:
    accounts = state.accounts
    for movement in event.movements:
        instrument = state.instruments[movement.instrument].number
        state.post(instrument, accounts[movement.source].number, accounts[movement.destination].number, movement.units)


# ---- trades --------------------------------------------------------------------------------------------------------------------------


class Trade(NamedTuple):
    """One trade of the columns."""

    sell_hold: int
    buy_hold: int
    units: int
    cash_units: int
    buyer_fee_units: int
    seller_fee_units: int


class _Terms(NamedTuple):
    """What all trades of a command share."""

    instrument: Instrument
    cash: Instrument
    fee_account: Account | None
    now_us: int


def _check_form(command: SettleTradesRequest) -> None:
    check_present(instrument=command.instrument, cash_instrument=command.cash_instrument)
    count = len(command.units)
    check_equally_long(
        {
            "units": count,
            "sell_holds": len(command.sell_holds),
            "buy_holds": len(command.buy_holds),
            "cash_units": len(command.cash_units),
            "buyer_fee_units": len(command.buyer_fee_units) or count,
            "seller_fee_units": len(command.seller_fee_units) or count,
        }
    )
    if not command.fee_account and (any(command.buyer_fee_units) or any(command.seller_fee_units)):
        raise refusal(Reason.REASON_FIELD_MISSING, "fee_account is empty, and there are fees", field="fee_account")
    if command.instrument == command.cash_instrument:
        message = f"{command.instrument} is not traded against itself"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="cash_instrument", value=command.cash_instrument)
    check_length("reference", command.reference)
    if count > TRADES_MAX:
        message = f"{count} trades, at most {TRADES_MAX} may be"
        raise refusal(Reason.REASON_TOO_MANY_ITEMS, message, field="units", count=count, limit=TRADES_MAX)


def _find_terms(state: State, command: SettleTradesRequest, now_us: int) -> _Terms:
    """Return what all trades share; where it is refused, no trade can be settled."""
    instrument = find_instrument(state, command.instrument)
    cash = find_instrument(state, command.cash_instrument, "cash_instrument")
    fee_account = find_book_account(state, command.fee_account, "fee_account") if command.fee_account else None
    check_open(instrument, OPERATION_TRANSFER, now_us)
    check_open(cash, OPERATION_TRANSFER, now_us)
    if fee_account is not None:
        check_party(state, fee_account)
        check_eligible(state, cash, fee_account, now_us)
    return _Terms(instrument, cash, fee_account, now_us)


def decide_trades(state: State, command: SettleTradesRequest, context: Context) -> list[TradesSettled]:
    _check_form(command)
    terms = _find_terms(state, command, context.decision_time_us)
    if vectors.worthwhile(len(command.units)):
        parties = _parties_at_once(state, terms, command)
        if parties is not None:
            return _parts(command, *parties, kept=None, refusals=[])
    sellers, buyers, kept, refusals = _check_trade_by_trade(state, terms, command)
    packed_sellers, packed_buyers = vectors.little_endian(sellers, "i"), vectors.little_endian(buyers, "i")
    return _parts(command, packed_sellers, packed_buyers, kept=kept if refusals else None, refusals=refusals)


def _check_trade_by_trade(
    state: State, terms: _Terms, command: SettleTradesRequest
) -> tuple[list[int], list[int], list[int], list[TradeRefusal]]:
    """Return the sellers, buyers and positions of the trades that are acceptable, and why the others are not."""
    run = _TradeByTrade(state, terms)
    sellers, buyers, kept = [], [], []
    refusals: list[TradeRefusal] = []
    for position, trade in enumerate(_trades(command)):
        try:
            seller, buyer = run.take(trade)
        except LedgerError as error:
            if not command.each_on_its_own:
                raise at_position(error, "trade", position) from None
            refusals.append(TradeRefusal(position=position, reason=error.reason_name))
        else:
            sellers.append(seller)
            buyers.append(buyer)
            kept.append(position)
    return sellers, buyers, kept, refusals


def _trades(columns: SettleTradesRequest | TradesSettled) -> Iterable[Trade]:
    none = [0] * len(columns.units)
    return map(
        Trade._make,
        zip(
            columns.sell_holds,
            columns.buy_holds,
            columns.units,
            columns.cash_units,
            columns.buyer_fee_units or none,
            columns.seller_fee_units or none,
            strict=True,
        ),
    )


class _TradeByTrade:
    """Trades checked one after the other, each after what those before it took from holds and moved."""

    def __init__(self, state: State, terms: _Terms) -> None:
        self._state = state
        self._terms = terms
        self._taken: dict[int, int] = {}
        """Units that earlier trades took, by hold."""
        self._moved: dict[tuple[int, int], int] = {}
        """(instrument, account) -> units that earlier trades brought, less those they took."""

    def take(self, trade: Trade) -> tuple[int, int]:
        """Check one trade, count it as settled, and return the account numbers of seller and buyer."""
        state, terms = self._state, self._terms
        _check_amounts(trade)
        sell = self._order_hold(trade.sell_hold, terms.instrument)
        buy = self._order_hold(trade.buy_hold, terms.cash)
        seller, buyer = state.accounts[state.account_names[sell.account]], state.accounts[state.account_names[buy.account]]
        self._check_parties(trade, seller, buyer)
        cash_needed = trade.cash_units + trade.buyer_fee_units
        self._check_units(sell, trade.units)
        self._check_units(buy, cash_needed)
        self._taken[sell.hold] = self._taken.get(sell.hold, 0) + trade.units
        self._taken[buy.hold] = self._taken.get(buy.hold, 0) + cash_needed
        self._move(terms.instrument, seller, -trade.units)
        self._move(terms.instrument, buyer, trade.units)
        self._move(terms.cash, buyer, -cash_needed)
        self._move(terms.cash, seller, trade.cash_units - trade.seller_fee_units)
        if terms.fee_account is not None:
            self._move(terms.cash, terms.fee_account, trade.buyer_fee_units + trade.seller_fee_units)
        return seller.number, buyer.number

    def _order_hold(self, number: int, instrument: Instrument) -> Hold:
        hold = find_hold(self._state, number)
        if hold.purpose != _ORDER:
            message = f"hold {number} was not placed for an order"
            raise refusal(Reason.REASON_HOLD_UNFIT, message, hold=number, needed=HoldPurpose.Name(_ORDER))
        if hold.instrument != instrument.number:
            message = f"hold {number} is of {self._state.instrument_symbols[hold.instrument]}, not of {instrument.symbol}"
            raise refusal(Reason.REASON_HOLD_UNFIT, message, hold=number, needed=instrument.symbol)
        check_not_lapsed(hold, self._terms.now_us)
        return hold

    def _check_parties(self, trade: Trade, seller: Account, buyer: Account) -> None:
        state, terms = self._state, self._terms
        check_two_accounts(seller.name, buyer.name)
        if terms.fee_account is not None:
            if trade.buyer_fee_units:
                check_two_accounts(buyer.name, terms.fee_account.name)
            if trade.seller_fee_units:
                check_two_accounts(seller.name, terms.fee_account.name)
        check_party(state, seller)
        check_party(state, buyer)
        check_eligible(state, terms.instrument, buyer, terms.now_us)
        check_eligible(state, terms.cash, seller, terms.now_us)

    def _check_units(self, hold: Hold, units: int) -> None:
        check_left(hold.hold, hold.units - self._taken.get(hold.hold, 0), units)
        if self._state.frozen_units:
            check_unfrozen(self._state, hold, self._moved.get((hold.instrument, hold.account), 0), units)

    def _move(self, instrument: Instrument, account: Account, units: int) -> None:
        key = (instrument.number, account.number)
        self._moved[key] = self._moved.get(key, 0) + units


def _check_amounts(trade: Trade) -> None:
    if 0 < trade.seller_fee_units > trade.cash_units:
        message = f"seller_fee_units is {trade.seller_fee_units}, above the proceeds of {trade.cash_units}"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="seller_fee_units", value=trade.seller_fee_units)
    check_units("units", trade.units)
    check_units("cash_units", trade.cash_units)
    check_units_or_zero("buyer_fee_units", trade.buyer_fee_units)
    check_units_or_zero("seller_fee_units", trade.seller_fee_units)


# ---- trades, on whole columns --------------------------------------------------------------------------------------------------------


def _parties_at_once(state: State, terms: _Terms, command: SettleTradesRequest) -> tuple[bytes, bytes] | None:
    """Return the packed account numbers of sellers and buyers if every trade is acceptable, or None if one may not be.

    Holds only ever shrink within a command, so the order of the trades does not matter when all of them find their units.
    """
    numpy = vectors.numpy
    units, cash = vectors.int64s(command.units), vectors.int64s(command.cash_units)
    buyer_fees, seller_fees = _fees(command.buyer_fee_units, len(units)), _fees(command.seller_fee_units, len(units))
    if units.min() <= 0 or cash.min() <= 0 or buyer_fees.min() < 0 or seller_fees.min() < 0 or (seller_fees > cash).any():
        return None
    if vectors.exact_sum(units) > UNITS_MAX or vectors.exact_sum(cash) + vectors.exact_sum(buyer_fees) > UNITS_MAX:
        return None
    sellers = _givers_at_once(state, terms, terms.instrument, vectors.int64s(command.sell_holds), units)
    if sellers is None:
        return None
    buyers = _givers_at_once(state, terms, terms.cash, vectors.int64s(command.buy_holds), cash + buyer_fees)
    if buyers is None or (sellers == buyers).any():
        return None
    if terms.fee_account is not None:
        fees = terms.fee_account.number
        if buyer_fees[buyers == fees].any() or seller_fees[sellers == fees].any():
            return None
    profiles = vectors.view_of(state.profiles)
    selling, buying = profiles[sellers], profiles[buyers]
    if not (selling.all() and buying.all()):
        return None
    if not (all_admitted(state, terms.instrument, buying, terms.now_us) and all_admitted(state, terms.cash, selling, terms.now_us)):
        return None
    return sellers.astype(numpy.dtype("<i4")).tobytes(), buyers.astype(numpy.dtype("<i4")).tobytes()


def _fees(column: Sequence[int], count: int) -> Any:
    return vectors.int64s(column) if len(column) else vectors.numpy.zeros(count, dtype=vectors.numpy.int64)


def _givers_at_once(state: State, terms: _Terms, instrument: Instrument, numbers: Any, units: Any) -> Any | None:
    """Return the account each trade's units come from if its hold can give them, or None if one may not.

    Each hold is looked at once, however many trades it is in.
    """
    holds, wanted = state.holds, instrument.number
    distinct, place, needed = _by_hold(numbers, units)
    rows = holds.rows_of(distinct)
    if rows is None:
        return None
    of_orders = (vectors.view_of(holds.instruments)[rows] == wanted) & (vectors.view_of(holds.purposes)[rows] == _ORDER)
    if not (of_orders & (vectors.view_of(holds.expiry_times_us)[rows] > terms.now_us)).all():
        return None
    accounts = vectors.view_of(holds.accounts)[rows]
    if state.frozen_units and any((wanted, account) in state.frozen_units for account in accounts.tolist()):
        return None
    return accounts[place] if (needed <= vectors.view_of(holds.units)[rows]).all() else None


def _by_hold(numbers: Any, units: Any) -> tuple[Any, Any, Any]:
    """Return the distinct holds of a column, each trade's place among them, and the units that are taken from each."""
    numpy = vectors.numpy
    distinct, place = numpy.unique(numbers, return_inverse=True)
    totals = numpy.zeros(len(distinct), dtype=numpy.int64)
    numpy.add.at(totals, place, units)
    return distinct, place, totals


def _parts(
    command: SettleTradesRequest, sellers: bytes, buyers: bytes, *, kept: Sequence[int] | None, refusals: Sequence[TradeRefusal]
) -> list[TradesSettled]:
    """Cut the settled trades into parts that fit a leaf each, and put the refusals after them. `kept` None: all are settled."""
    columns = (command.sell_holds, command.buy_holds, command.units, command.cash_units, command.buyer_fee_units, command.seller_fee_units)
    packed = [vectors.little_endian(column if kept is None or not column else [column[n] for n in kept], "q") for column in columns]
    count = len(sellers) // 4
    parts = []
    for start in range(0, count, TRADES_PER_PART):
        stop = start + TRADES_PER_PART
        fields = [vectors.packed_field(number, column[8 * start : 8 * stop]) for number, column in enumerate(packed, 3) if column]
        fields.append(vectors.packed_field(12, sellers[4 * start : 4 * stop]))
        fields.append(vectors.packed_field(13, buyers[4 * start : 4 * stop]))
        parts.append(TradesSettled.FromString(b"".join(fields)))
    parts += [TradesSettled(refusals=refusals[n : n + REFUSALS_PER_PART]) for n in range(0, len(refusals), REFUSALS_PER_PART)]
    for part in parts:
        part.instrument = command.instrument
        part.cash_instrument = command.cash_instrument
        part.fee_account = command.fee_account
    parts[0].reference = command.reference
    return parts


def evolve_trades(state: State, event: TradesSettled, decided: Decided) -> None:
    instrument, cash = state.instruments[event.instrument].number, state.instruments[event.cash_instrument].number
    fee_account = state.accounts[event.fee_account].number if event.fee_account else -1
    if vectors.worthwhile(len(event.units)):
        _settle_at_once(state, event, instrument, cash, fee_account)
        return
    for trade, seller, buyer in zip(_trades(event), event.sellers, event.buyers, strict=True):
        take_from_hold(state, trade.sell_hold, trade.units)
        take_from_hold(state, trade.buy_hold, trade.cash_units + trade.buyer_fee_units)
        state.post(instrument, seller, buyer, trade.units)
        state.post(cash, buyer, seller, trade.cash_units)
        if trade.buyer_fee_units:
            state.post(cash, buyer, fee_account, trade.buyer_fee_units)
        if trade.seller_fee_units:
            state.post(cash, seller, fee_account, trade.seller_fee_units)


def _settle_at_once(state: State, event: TradesSettled, instrument: int, cash: int, fee_account: int) -> None:
    """Book what the loop of `evolve_trades` books, a whole column at a time."""
    numpy = vectors.numpy
    units, cash_units = vectors.int64s(event.units), vectors.int64s(event.cash_units)
    buyer_fees, seller_fees = _fees(event.buyer_fee_units, len(units)), _fees(event.seller_fee_units, len(units))
    sellers, buyers = vectors.int64s(event.sellers), vectors.int64s(event.buyers)
    paid = cash_units + buyer_fees
    for numbers, accounts, given, number in (
        (event.sell_holds, sellers, units, instrument),
        (event.buy_holds, buyers, paid, cash),
    ):
        book = state.books[number]
        state.add_to_cells(book, book.held, accounts, -given)
        assert vectors.view_of(book.held)[accounts].min() >= 0, "held units are never below zero"
        distinct, _, totals = _by_hold(vectors.int64s(numbers), given)
        lessen_holds(state, distinct, totals)
    state.post_columns(instrument, event.sellers, event.buyers, event.units)
    book = state.books[cash]
    state.add_to_cells(book, book.units, buyers, -paid)
    state.add_to_cells(book, book.units, sellers, cash_units - seller_fees)
    fees = int(buyer_fees.sum()) + int(seller_fees.sum())
    if fees:
        state.add_to_cells(book, book.units, numpy.array([fee_account]), numpy.array([fees]))


def answer_trades(events: Sequence[Any]) -> dict[str, Any]:
    parts = [event for event in events if isinstance(event, TradesSettled)]
    return {"settled_count": sum(len(part.units) for part in parts), "refusals": [line for part in parts for line in part.refusals]}


COMMANDS: dict[type[Any], tuple[Any, type[Any]]] = {
    SettleDeliveryRequest: (decide_delivery, SettleDeliveryResponse),
    SettleTradesRequest: (decide_trades, SettleTradesResponse),
}
EVENTS: dict[type[Any], Any] = {
    DeliverySettled: evolve_delivery,
    TradesSettled: evolve_trades,
}
ANSWERS = {SettleTradesResponse: answer_trades}
