"""Wallets: bound to a holder by their own signature, and what stands on a lost account recovered.

command         event
BindWallet      WalletBound
RecoverWallet   in the book WalletRecovered, in parts of 256 instruments; of a wallet at a chain WalletRecovered, and one
                UnitsTransferredByForce for each instrument that the chain is to move
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.errors import refusal
from ledger.rules.accounts import add_account, change_account, give_account, next_account_number
from ledger.rules.addresses import check_wallet
from ledger.rules.approvals import check_role
from ledger.rules.chains.crossings import Crossing, check_reachable, forcible_units
from ledger.rules.checks import (
    BOOK,
    check_account_open,
    check_holder,
    check_not_due,
    check_party,
    check_present,
    check_text,
    find_account,
    find_book_account,
    find_holder,
)
from ledger.rules.transfers import check_two_accounts, forced_crossing
from ledger.wallet_signatures import evm_signer, hex_public_key, solana_public_key, solana_signed
from stockledger.v1.accounts_pb2 import (
    BindWalletRequest,
    BindWalletResponse,
    RecoverWalletRequest,
    RecoverWalletResponse,
    WalletBound,
    WalletRecovered,
)
from stockledger.v1.approvals_pb2 import Role
from stockledger.v1.common_pb2 import Movement
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from ledger.records import Account
    from ledger.rules.context import Context, Decided
    from ledger.state import State

MOVEMENTS_PER_ENTRY_MAX: Final = 256
"""At most 180 bytes each with the longest names: 46,080 of a leaf's 65,535 bytes."""
RECOVERY: Final = "recovery of a lost wallet"
"""The cause of what is moved by force at a chain; the legal ground is the evidence."""


def wallet_text(ledger_id: str, account: str, holder: str) -> str:
    """Return the text that a wallet signs; the ledger's id keeps a signature from counting in another ledger.

    Example: "stockledger: bind eip155:1:0x71C7656EC7ab88b098defB751B7401B5f6d8976F to holder h-1001 in ledger acme".
    """
    return f"stockledger: bind {account} to holder {holder} in ledger {ledger_id}"


def check_wallet_signature(ledger_id: str, command: BindWalletRequest) -> None:
    """Refuse a signature that the wallet did not make over the text that binds it."""
    text = wallet_text(ledger_id, command.account, command.holder)
    namespace, _, rest = command.account.partition(":")
    address = rest.rpartition(":")[2]
    if namespace == "eip155":
        signed = evm_signer(text, command.signature) == address
    else:
        public_key = solana_public_key(address) if namespace == "solana" else hex_public_key(address)
        signed = public_key is not None and solana_signed(text, command.signature, public_key)
    if not signed:
        message = f"the signature is not one of {command.account} over {text!r}"
        raise refusal(Reason.REASON_SIGNATURE_INVALID, message, signer=command.account, text=text)


def decide_bind(state: State, command: BindWalletRequest, context: Context) -> list[WalletBound]:
    check_present(account=command.account, holder=command.holder)
    if not command.signature:
        raise refusal(Reason.REASON_FIELD_MISSING, "signature is empty", field="signature")
    length = check_wallet(command.account)
    if len(command.signature) != length:
        message = f"signature has {len(command.signature)} bytes, one of {command.account} has {length}"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="signature", bytes=len(command.signature), needed=length)
    holder = find_holder(state, command.holder)
    check_wallet_signature(state.ledger_id, command)  # before anything of the wallet's state: a stranger learns nothing of it
    bound = state.accounts.get(command.account)
    if bound is not None and (bound.holder or bound.name in state.deposit_addresses):
        if not bound.holder:
            message = f"{bound.name} is an address of the ledger's owner, for deposits"
            raise refusal(Reason.REASON_WALLET_BOUND, message, account=bound.name, holder="")
        message = f"{bound.name} is bound to holder {bound.holder} already"
        raise refusal(Reason.REASON_WALLET_BOUND, message, account=bound.name, holder=bound.holder)
    check_holder(holder)
    number = next_account_number(state) if bound is None else bound.number
    return [WalletBound(account=command.account, number=number, holder=command.holder, signature=command.signature)]


def evolve_bound(state: State, event: WalletBound, decided: Decided) -> None:
    """One that was seen at its chain before has its account, and what stands on it, already."""
    if event.account in state.accounts:
        give_account(state, event.account, event.holder)
    else:
        add_account(state, event.account, event.number, event.holder)


def decide_recover(state: State, command: RecoverWalletRequest, context: Context) -> list[Message]:
    """Move everything by force, in the book at once, from a wallet by its chain."""
    check_role(state, context, Role.ROLE_ENFORCER)
    check_present(lost_account=command.lost_account, account=command.account)
    check_text("evidence", command.evidence)
    check_two_accounts(command.lost_account, command.account)
    lost, account = _find_accounts(state, command)
    check_account_open(lost)
    _check_one_holder(lost, account)
    recover = _recover_in_book if lost.place == BOOK else _recover_at_chain
    return recover(state, lost, account, command.evidence, context.decision_time_us)


def _find_accounts(state: State, command: RecoverWalletRequest) -> tuple[Account, Account]:
    """Return the lost account and the one that takes over. What is lost in the book stays in the book."""
    lost = find_account(state, command.lost_account, "lost_account")
    if lost.place == BOOK:
        return lost, find_book_account(state, command.account)
    check_reachable(state, lost)
    account = find_account(state, command.account)
    check_reachable(state, account)
    return lost, account


def _check_one_holder(lost: Account, account: Account) -> None:
    """Refuse two accounts that are not of one holder. A wallet that nobody bound is nobody's to recover."""
    if not lost.holder or lost.holder != account.holder:
        message = f"{lost.name} is of holder {lost.holder!r}, {account.name} of {account.holder!r}"
        raise refusal(
            Reason.REASON_STATE_UNFIT,
            message,
            lost_account=lost.name,
            account=account.name,
            holder=lost.holder,
            other_holder=account.holder,
        )


def _recover_in_book(state: State, lost: Account, account: Account, evidence: str, now_us: int) -> list[Message]:
    """What is on hold or frozen must be dealt with first: no stop may be lost on the way."""
    movements = _everything(state, lost, account, now_us)
    check_party(state, account)
    _check_nothing_stopped(state, lost)
    return [
        WalletRecovered(
            lost_account=lost.name,
            account=account.name,
            evidence=evidence,
            movements=movements[start : start + MOVEMENTS_PER_ENTRY_MAX],
        )
        for start in range(0, max(len(movements), 1), MOVEMENTS_PER_ENTRY_MAX)
    ]


def _everything(state: State, lost: Account, account: Account, now_us: int) -> list[Movement]:
    """Return the movements of all that stands on the lost account, at today's terms."""
    movements = []
    for symbol in sorted(state.instruments):
        instrument = state.instruments[symbol]
        units = state.holding(instrument.number, lost.number)
        if units:
            check_not_due(instrument, now_us)
            movements.append(Movement(instrument=symbol, source=lost.name, destination=account.name, units=units))
    return movements


def _check_nothing_stopped(state: State, lost: Account) -> None:
    """Refuse while units of the lost account are on hold or frozen."""
    for symbol in sorted(state.instruments):
        number = state.instruments[symbol].number
        held, frozen = state.held(number, lost.number), state.frozen(number, lost.number)
        if held or frozen:
            message = (
                f"{lost.name} has {held} {symbol} on hold and {frozen} frozen: release the holds, and freeze the units at the other account"
            )
            raise refusal(Reason.REASON_STATE_UNFIT, message, account=lost.name, instrument=symbol, held=held, frozen=frozen)


def _recover_at_chain(state: State, lost: Account, account: Account, evidence: str, now_us: int) -> list[Message]:
    """Have the chain freeze the wallet and move what is not promised already: who has its key would not wait for an unfreezing."""
    taken: list[tuple[Crossing, int]] = []
    for symbol in sorted(state.instruments):
        instrument = state.instruments[symbol]
        units = forcible_units(state, instrument, lost)
        if units:
            taken.append((Crossing(state, instrument, lost, account, forced=True), units))
    for crossing, _ in taken:
        check_not_due(crossing.instrument, now_us)
    for crossing, _ in taken:
        crossing.check_places(state)
    check_party(state, account)
    for crossing, units in taken:
        crossing.check_units(state, units, unfrozen_only=False)
    recovered = WalletRecovered(lost_account=lost.name, account=account.name, evidence=evidence)
    return [recovered, *(forced_crossing(crossing, units, evidence, RECOVERY) for crossing, units in taken)]


def evolve_recovered(state: State, event: WalletRecovered, decided: Decided) -> None:
    accounts = state.accounts
    for movement in event.movements:
        number = state.instruments[movement.instrument].number
        state.post(number, accounts[movement.source].number, accounts[movement.destination].number, movement.units)
    change_account(state, event.lost_account, freeze_reference=event.evidence)


COMMANDS = {
    BindWalletRequest: (decide_bind, BindWalletResponse),
    RecoverWalletRequest: (decide_recover, RecoverWalletResponse),
}
EVENTS = {
    WalletBound: evolve_bound,
    WalletRecovered: evolve_recovered,
}
