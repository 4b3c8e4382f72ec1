"""Movements with an end at a chain, decided here and carried out there.

    from         to                 booked now           what must be capable
    book         native chain       source -> transit    MINT
    book         omnibus chain      source -> transit    SEND
    native       book               nothing              BURN
    native       another native     nothing              BURN there, MINT here
    native       the same, forced   nothing              FORCE_TRANSFER

Transfers, transfers by force, recoveries, issuance and redemption come through here; what follows on chain is derived by the projection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ledger.errors import refusal
from ledger.rules.chains.places import (
    NATIVE,
    OMNIBUS,
    check_allotment,
    check_capable,
    check_place_open,
    find_usable_deployment,
)
from ledger.rules.chains.withdrawals import check_withdrawal, count_withdrawal
from ledger.rules.checks import (
    BOOK,
    check_eligible,
    check_free,
    check_open,
    check_party,
    find_account,
)
from stockledger.v1.chains_pb2 import ChainCapability
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from ledger.records import Account, Deployment, Instrument
    from ledger.rules.context import Decided
    from ledger.state import State

_MINT: Final = ChainCapability.CHAIN_CAPABILITY_MINT
_BURN: Final = ChainCapability.CHAIN_CAPABILITY_BURN
_SEND: Final = ChainCapability.CHAIN_CAPABILITY_SEND
_FORCE: Final = ChainCapability.CHAIN_CAPABILITY_FORCE_TRANSFER


class Crossing:
    """A movement between two places: what was looked up of both ends."""

    __slots__ = ("chain", "destination", "giving", "instrument", "source", "taking")

    def __init__(self, state: State, instrument: Instrument, source: Account, destination: Account, *, forced: bool = False) -> None:
        """Look up the deployments of both ends.

        Raises: RuleViolated PLACE_UNFIT; NotFound DEPLOYMENT_NOT_FOUND; RuleViolated CHAIN_INCAPABLE.
        """
        self.instrument, self.source, self.destination = instrument, source, destination
        self.giving = _deployment_at(state, instrument, source, forced=forced)
        self.taking = _deployment_at(state, instrument, destination)
        within = self.giving is not None and self.giving is self.taking
        if within and not forced:
            raise _unfit(destination, f"both are on {destination.place}, where their owners move them")
        if self.giving is not None:
            if self.giving.kind != NATIVE:
                raise _unfit(source, "is somebody else's token: a deposit is sent there, and seen")
            check_capable(self.giving, _FORCE if within else _BURN)
        if self.taking is not None and not within:
            if self.taking.kind == OMNIBUS and self.giving is not None:
                raise _unfit(destination, "is at an omnibus chain, which is reached from the book")
            check_capable(self.taking, _SEND if self.taking.kind == OMNIBUS else _MINT)
        if within:
            self.taking = None
        first = self.giving or self.taking
        self.chain = first.chain if first is not None else ""

    def check_places(self, state: State) -> None:
        """Refuse while a divergence stops one of the two."""
        for deployment in (self.giving, self.taking):
            if deployment is not None:
                check_place_open(state, deployment.chain, deployment.instrument)

    def check_units(self, state: State, units: int, *, unfrozen_only: bool = True) -> None:
        """Refuse what the source does not have, beside what is promised of it already; and more than may go to a chain."""
        check_available(state, self.instrument, self.source, units, unfrozen_only=unfrozen_only)
        if self.taking is not None and self.taking.kind == NATIVE:
            check_allotment(state, self.taking, units)


def _unfit(account: Account, why: str) -> Exception:
    return refusal(Reason.REASON_PLACE_UNFIT, f"{account.name} {why}", account=account.name)


def check_reachable(state: State, account: Account, *, forced: bool = False) -> None:
    """Refuse an account at no registered chain, and an address that stands for another one, from which only force takes units."""
    if account.place == BOOK:
        return
    if account.place not in state.chains:
        raise _unfit(account, "is neither in the book nor at a registered chain")
    if account.name in state.deposit_addresses and not forced:
        raise _unfit(account, f"stands for {state.deposit_addresses[account.name]}, by which it is reached")


def _deployment_at(state: State, instrument: Instrument, account: Account, *, forced: bool = False) -> Deployment | None:
    """Return the deployment at an account's chain, or None for one in the book."""
    check_reachable(state, account, forced=forced)
    return None if account.place == BOOK else find_usable_deployment(state, instrument.symbol, account.place)


def forcible_units(state: State, instrument: Instrument, account: Account) -> int:
    """Return the units that force may take of an account: frozen ones too, none on hold, and none that are promised already."""
    promised = state.promised.get((instrument.number, account.number), 0)
    return max(state.holding(instrument.number, account.number) - state.held(instrument.number, account.number) - promised, 0)


def check_available(state: State, instrument: Instrument, account: Account, units: int, *, unfrozen_only: bool = True) -> None:
    """Refuse units that an account does not have free, beside those promised of it. Force takes frozen ones too, and none on hold."""
    promised = state.promised.get((instrument.number, account.number), 0)
    frozen = 0 if unfrozen_only else state.frozen(instrument.number, account.number)
    check_free(state, instrument, account, units, frozen - promised)


def find_crossing(state: State, instrument: Instrument, source: str, destination: str, *, forced: bool = False) -> Crossing:
    """Return a movement of which one end at least is at a chain."""
    giver, taker = find_account(state, source, "source"), find_account(state, destination, "destination")
    return Crossing(state, instrument, giver, taker, forced=forced)


def check_decided(state: State, crossing: Crossing, units: int, now_us: int) -> None:
    """Refuse a movement that somebody asked for and a rule bars.

    Raises: RuleViolated ACTION_DUE, INSTRUMENT_RETIRED, INSTRUMENT_HALTED, PLACE_HALTED, ACCOUNT_CLOSED, ACCOUNT_FROZEN,
    HOLDER_NOT_ACTIVE, HOLDER_FROZEN, HOLDER_NOT_ELIGIBLE, UNITS_INSUFFICIENT, ALLOTMENT_EXCEEDED, WITHDRAWAL_LIMIT_EXCEEDED.
    """
    instrument = crossing.instrument
    check_open(instrument, Operation.OPERATION_TRANSFER, now_us)
    if crossing.taking is not None and crossing.taking.kind == NATIVE:
        check_open(instrument, Operation.OPERATION_ISSUE, now_us)
    if crossing.giving is not None:
        check_open(instrument, Operation.OPERATION_REDEEM, now_us)
    crossing.check_places(state)
    check_party(state, crossing.source)
    check_party(state, crossing.destination)
    check_eligible(state, instrument, crossing.destination, now_us)
    crossing.check_units(state, units)
    if crossing.taking is not None and crossing.taking.kind == OMNIBUS:
        check_withdrawal(state, crossing.taking, units, now_us)


def find_minting(state: State, instrument: Instrument, account: Account) -> Deployment | None:
    """Return the native deployment at whose chain an account is to receive new units, or None for one in the book."""
    deployment = _deployment_at(state, instrument, account)
    if deployment is not None:
        if deployment.kind != NATIVE:
            raise _unfit(account, "is at a chain where somebody else issues")
        check_capable(deployment, _MINT)
    return deployment


def check_own_wallet(state: State, wallet: Account, account: Account) -> None:
    """Refuse a wallet that takes no part now, or is of another holder than the account in the book beside it."""
    check_party(state, wallet)
    if wallet.holder != account.holder:
        message = f"{wallet.name} is of holder {wallet.holder!r}, {account.name} of {account.holder}"
        raise refusal(Reason.REASON_STATE_UNFIT, message, wallet=wallet.name, account=account.name)


def find_burning(state: State, instrument: Instrument, wallet: Account) -> Deployment:
    """Return the native deployment at whose chain units of a wallet are to be burned."""
    deployment = _deployment_at(state, instrument, wallet)
    if deployment is None or deployment.kind != NATIVE:
        raise _unfit(wallet, "is at no chain where we burn")
    check_capable(deployment, _BURN)
    return deployment


def book_crossing(state: State, event: Any, decided: Decided) -> None:
    """Book what moves now: units of the book wait in transit, those at a chain stay there until it is final."""
    source = state.accounts[event.source]
    if source.place != BOOK:
        return
    state.post(state.instruments[event.instrument].number, source.number, state.chains[event.chain].transit, event.units)
    deployment = state.deployments[event.instrument, event.chain]
    if deployment.kind == OMNIBUS:
        count_withdrawal(state, deployment, event.units, decided.decision_time_us)
