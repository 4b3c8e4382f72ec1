"""Reads of the primary market: open subscriptions and redemptions."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ledger.arithmetic import units_of_shares_e8_floor
from ledger.reads.pages import page_of
from ledger.rules.checks import find_account
from ledger.rules.fills import fill_message
from ledger.rules.issuance import cash_left, find_subscription
from ledger.rules.redemptions import find_redemption, units_left
from stockledger.v1 import issuance_pb2, redemptions_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.records import Fill, Redemption, Subscription
    from ledger.state import State


def subscription_fill(state: State, subscription: Subscription, fill: Fill) -> issuance_pb2.Fill:
    """Return a fill with the units that its settlement would create today, where it is still to create them."""
    if fill.settled or fill.issued_at_fill:
        return fill_message(fill)
    instrument = state.instruments[subscription.instrument]
    units = units_of_shares_e8_floor(fill.shares_e8, instrument.multiplier, instrument.decimals)
    return fill_message(dataclasses.replace(fill, units=units))


def subscription_message(state: State, subscription: Subscription) -> issuance_pb2.Subscription:
    return issuance_pb2.Subscription(
        subscription=subscription.subscription,
        instrument=subscription.instrument,
        account=subscription.account,
        cash_instrument=subscription.cash_instrument,
        cash_units=subscription.cash_units,
        remaining_cash_units=cash_left(state, subscription),
        hold=subscription.hold,
        fills=[subscription_fill(state, subscription, fill) for fill in subscription.fills],
        receiving_account=subscription.receiving_account,
    )


def redemption_message(state: State, redemption: Redemption) -> redemptions_pb2.Redemption:
    return redemptions_pb2.Redemption(
        redemption=redemption.redemption,
        instrument=redemption.instrument,
        account=redemption.account,
        units=redemption.units,
        remaining_units=units_left(state, redemption),
        hold=redemption.hold,
        cash_instrument=redemption.cash_instrument,
        in_kind=redemption.in_kind,
        fills=[fill_message(fill) for fill in redemption.fills],
        delivery_reference=redemption.delivery_reference,
        wallet=redemption.wallet,
    )


def numbers_of(state: State, orders: dict[int, Subscription] | dict[int, Redemption], account: str) -> Iterable[int]:
    """Return the numbers of open orders, of one account where it is named."""
    if not account:
        return orders
    name = find_account(state, account).name
    return [number for number, order in orders.items() if order.account == name]


def get_subscription(state: State, request: issuance_pb2.GetSubscriptionRequest, now_us: int) -> issuance_pb2.GetSubscriptionResponse:
    subscription = find_subscription(state, request.subscription)
    return issuance_pb2.GetSubscriptionResponse(size=state.size, subscription=subscription_message(state, subscription))


def list_subscriptions(state: State, request: issuance_pb2.ListSubscriptionsRequest, now_us: int) -> issuance_pb2.ListSubscriptionsResponse:
    page, token = page_of(request, numbers_of(state, state.subscriptions, request.account), int)
    found = [subscription_message(state, state.subscriptions[number]) for number in page]
    return issuance_pb2.ListSubscriptionsResponse(size=state.size, next_page_token=token, subscriptions=found)


def get_redemption(state: State, request: redemptions_pb2.GetRedemptionRequest, now_us: int) -> redemptions_pb2.GetRedemptionResponse:
    redemption = find_redemption(state, request.redemption)
    return redemptions_pb2.GetRedemptionResponse(size=state.size, redemption=redemption_message(state, redemption))


def list_redemptions(state: State, request: redemptions_pb2.ListRedemptionsRequest, now_us: int) -> redemptions_pb2.ListRedemptionsResponse:
    page, token = page_of(request, numbers_of(state, state.redemptions, request.account), int)
    found = [redemption_message(state, state.redemptions[number]) for number in page]
    return redemptions_pb2.ListRedemptionsResponse(size=state.size, next_page_token=token, redemptions=found)


READS = {
    issuance_pb2.GetSubscriptionRequest: get_subscription,
    issuance_pb2.ListSubscriptionsRequest: list_subscriptions,
    redemptions_pb2.GetRedemptionRequest: get_redemption,
    redemptions_pb2.ListRedemptionsRequest: list_redemptions,
}
