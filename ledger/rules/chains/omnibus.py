"""Omnibus: somebody else's token in wallets of ours, and what of it is owed in the book.

command          event
SweepWallet      WalletSwept; nothing in the book changes, and SEND follows
AttributeDeposit DepositAttributed

What the wallets hold, raw and final, is the reserve behind the book; ledger:external owes what is in the book. Limits of withdrawals are in
withdrawals.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ledger.arithmetic import divide_floor
from ledger.caip import parse_account
from ledger.errors import refusal
from ledger.rules.addresses import check_address
from ledger.rules.chains.endings import SEND
from ledger.rules.chains.places import OMNIBUS, check_capable, check_place_open, find_usable_deployment
from ledger.rules.chains.ranges import check_raw
from ledger.rules.chains.registration import find_chain
from ledger.rules.checks import (
    OPERATION_TRANSFER,
    check_eligible,
    check_free,
    check_open,
    check_party,
    check_present,
    check_text,
    check_units,
    find_book_account,
    find_instrument,
)
from ledger.rules.transfers import check_two_accounts
from ledger.state import EXTERNAL
from stockledger.v1.chains_pb2 import (
    AttributeDepositRequest,
    AttributeDepositResponse,
    ChainCapability,
    DepositAttributed,
    SweepWalletRequest,
    SweepWalletResponse,
    WalletSwept,
)
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger.records import Deployment
    from ledger.rules.context import Context, Decided
    from ledger.state import State

REFERENCE_MAX: Final = 140


def is_ours(state: State, deployment: Deployment, address: str) -> bool:
    """Tell whether an address is a wallet or deposit address of ours, or was and still has something."""
    return (
        address in deployment.wallets
        or address in state.deposit_addresses
        or (deployment.chain, deployment.instrument, address) in state.wallet_raw
    )


def omnibus_owed(state: State, instrument: str) -> int:
    """Return the units of somebody else's token that are in the book and on their way out of it."""
    return -state.holding(state.instruments[instrument].number, EXTERNAL)


def omnibus_reserve(state: State, instrument: str, seen: Mapping[tuple[str, str, str], int]) -> int:
    """Return the whole units that our wallets hold on all chains together, rounded down; `seen` stands in for what is in the books.

    One book is behind them all, so only together do they cover it. Example: 1.5 units on one chain and 0.6 on another are 2.
    """
    deployments = [state.deployments[instrument, chain] for chain in state.chains_of_instrument.get(instrument, ())]
    finest = max((deployment.decimals for deployment in deployments), default=0)
    raw = 0
    for deployment in deployments:
        if deployment.kind == OMNIBUS:
            addresses = {key for key in (*state.wallet_raw, *seen) if key[:2] == (deployment.chain, instrument)}
            held = sum(seen.get(key, state.wallet_raw.get(key, 0)) for key in addresses)
            raw += held * 10 ** (finest - deployment.decimals)
    return divide_floor(raw, 10 ** (finest - state.instruments[instrument].decimals)) if deployments else 0


def raw_on_its_way(state: State, chain: str, instrument: str, wallet: str) -> int:
    """Return the raw units of a wallet that instructions are to send, or are sending."""
    return sum(
        each.raw
        for each in state.instructions.values()
        if (each.kind, each.chain, each.instrument, each.source) == (SEND, chain, instrument, wallet)
    )


def decide_sweep(state: State, command: SweepWalletRequest, context: Context) -> list[WalletSwept]:
    check_present(instrument=command.instrument)
    check_address("wallet", command.wallet)
    name = parse_account("wallet", command.wallet).chain
    check_address("receiving_wallet", command.receiving_wallet, name)
    wanted = check_raw("raw", command.raw) if command.raw else None
    if wanted == 0:
        raise refusal(Reason.REASON_UNITS_NOT_POSITIVE, "raw is 0, it must be above zero", field="raw", value=0)
    check_two_accounts(command.wallet, command.receiving_wallet)
    find_instrument(state, command.instrument)
    chain = find_chain(state, name)
    deployment = find_usable_deployment(state, command.instrument, chain.chain)
    if deployment.kind != OMNIBUS:
        message = f"{deployment.instrument} on {chain.chain} is native: what wallets hold there is their holders'"
        raise refusal(Reason.REASON_STATE_UNFIT, message, chain=chain.chain, instrument=deployment.instrument, state="native")
    for address, ours in (
        (command.wallet, is_ours(state, deployment, command.wallet)),
        (command.receiving_wallet, command.receiving_wallet in deployment.wallets),
    ):
        if not ours:
            message = f"{address} is no wallet of ours for {deployment.instrument}"
            raise refusal(Reason.REASON_STATE_UNFIT, message, account=address, state="not ours")
    check_capable(deployment, ChainCapability.CHAIN_CAPABILITY_SEND)
    check_place_open(state, chain.chain, deployment.instrument)
    there = state.wallet_raw.get((chain.chain, deployment.instrument, command.wallet), 0)
    free = there - raw_on_its_way(state, chain.chain, deployment.instrument, command.wallet)
    needed = free if wanted is None else wanted
    if not 0 < needed <= free:
        message = f"{command.wallet} has {max(free, 0)} raw {deployment.instrument} that are final and not on their way, needed {needed}"
        raise refusal(
            Reason.REASON_UNITS_INSUFFICIENT,
            message,
            account=command.wallet,
            instrument=deployment.instrument,
            free=max(free, 0),
            needed=max(needed, 1),
            holding=there,
        )
    return [
        WalletSwept(instrument=deployment.instrument, wallet=command.wallet, receiving_wallet=command.receiving_wallet, raw=str(needed))
    ]


def evolve_swept(state: State, event: WalletSwept, decided: Decided) -> None:
    """Nothing changes in the books until the reader sees it: the projection makes the instruction."""


def decide_attribute(state: State, command: AttributeDepositRequest, context: Context) -> list[DepositAttributed]:
    check_present(chain=command.chain, instrument=command.instrument, account=command.account)
    check_text("reference", command.reference, REFERENCE_MAX)
    check_units("units", command.units)
    instrument = find_instrument(state, command.instrument)
    chain = find_chain(state, command.chain)
    account = find_book_account(state, command.account)
    check_open(instrument, OPERATION_TRANSFER, context.decision_time_us)
    check_party(state, account)
    check_eligible(state, instrument, account, context.decision_time_us)
    check_free(state, instrument, state.accounts[f"unattributed:{chain.chain}"], command.units)
    return [
        DepositAttributed(
            chain=chain.chain, instrument=instrument.symbol, account=account.name, units=command.units, reference=command.reference
        )
    ]


def evolve_attributed(state: State, event: DepositAttributed, decided: Decided) -> None:
    instrument = state.instruments[event.instrument].number
    state.post(instrument, state.chains[event.chain].unattributed, state.accounts[event.account].number, event.units)


COMMANDS: dict[type[Any], tuple[Any, type[Any]]] = {
    SweepWalletRequest: (decide_sweep, SweepWalletResponse),
    AttributeDepositRequest: (decide_attribute, AttributeDepositResponse),
}
EVENTS: dict[type[Any], Any] = {
    WalletSwept: evolve_swept,
    DepositAttributed: evolve_attributed,
}
