"""Keys that sign for the ledger, and addresses of ours that stand for accounts in the book.

command                    event
SetChainKey                ChainKeySet
RegisterDepositAddresses   DepositAddressesRegistered, in parts of 200
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ledger import records
from ledger.caip import parse_account
from ledger.errors import refusal
from ledger.rules.accounts import add_account, next_account_number
from ledger.rules.addresses import check_address
from ledger.rules.chains.registration import find_chain
from ledger.rules.checks import check_account_open, check_enum, check_present, find_book_account, find_instrument
from stockledger.v1.chains_pb2 import (
    ChainKey,
    ChainKeyRole,
    ChainKeySet,
    DepositAddress,
    DepositAddressesRegistered,
    RegisterDepositAddressesRequest,
    RegisterDepositAddressesResponse,
    SetChainKeyRequest,
    SetChainKeyResponse,
)
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.records import Account
    from ledger.rules.context import Context, Decided
    from ledger.state import State

DEPOSIT_ADDRESSES_MAX: Final = 1_000
DEPOSIT_ADDRESSES_PER_ENTRY_MAX: Final = 200
"""At most 250 bytes each with the longest names: 50,000 of a leaf's 65,535 bytes."""
KEY_INSTRUMENTS_MAX: Final = 256
_COUNT_MAX: Final = (1 << 62) - 1


def _check_key_form(command: SetChainKeyRequest) -> str:
    """Return the chain of a key whose command is well-formed."""
    check_address("key", command.key)
    for role in command.roles:
        check_enum("roles", role, ChainKeyRole)
    for field, values in (("roles", command.roles), ("instruments", command.instruments)):
        if len(set(values)) < len(values):
            raise refusal(Reason.REASON_FIELD_MALFORMED, f"{field} names one twice", field=field, value=list(values))
    if len(command.instruments) > KEY_INSTRUMENTS_MAX:
        message = f"instruments has {len(command.instruments)} items, at most {KEY_INSTRUMENTS_MAX} may be"
        raise refusal(Reason.REASON_TOO_MANY_ITEMS, message, field="instruments", count=len(command.instruments), limit=KEY_INSTRUMENTS_MAX)
    if not 0 <= command.consumed_count <= _COUNT_MAX:
        message = f"consumed_count is {command.consumed_count}, a count of transactions is not below zero"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="consumed_count", value=command.consumed_count)
    return parse_account("key", command.key).chain


def decide_set_key(state: State, command: SetChainKeyRequest, context: Context) -> list[ChainKeySet]:
    """What a chain has seen of a key is counted by its reader from its registration on; given again, it can only be higher."""
    chain = find_chain(state, _check_key_form(command))
    for symbol in command.instruments:
        find_instrument(state, symbol, "instruments")
    before = state.chain_keys.get(command.key)
    consumed_count = max(command.consumed_count, before.consumed_count if before is not None else 0)
    after = records.ChainKey(
        key=command.key,
        chain=chain.chain,
        roles=frozenset(command.roles),
        instruments=frozenset(command.instruments),
        retired=not command.roles,
        consumed_count=consumed_count,
    )
    if before == after or (before is None and after.retired):
        message = f"nothing of the key {command.key} would change" if before is not None else f"{command.key} is no key, and has no role"
        raise refusal(Reason.REASON_NOTHING_TO_CHANGE, message, key=command.key)
    return [ChainKeySet(key=key_message(after))]


def key_message(key: records.ChainKey) -> ChainKey:
    return ChainKey(
        key=key.key,
        roles=sorted(key.roles),  # type: ignore[arg-type]
        instruments=sorted(key.instruments),
        retired=key.retired,
        consumed_count=key.consumed_count,
    )


def evolve_key_set(state: State, event: ChainKeySet, decided: Decided) -> None:
    new = event.key
    record = records.ChainKey(
        key=new.key,
        chain=parse_account("key", new.key).chain,
        roles=frozenset(new.roles),
        instruments=frozenset(new.instruments),
        retired=new.retired,
        consumed_count=new.consumed_count,
    )
    state.put(state.chain_keys, new.key, record)


def decide_register_addresses(state: State, command: RegisterDepositAddressesRequest, context: Context) -> list[DepositAddressesRegistered]:
    addresses = command.deposit_addresses
    if not addresses:
        raise refusal(Reason.REASON_FIELD_MISSING, "deposit_addresses is empty", field="deposit_addresses")
    if len(addresses) > DEPOSIT_ADDRESSES_MAX:
        message = f"deposit_addresses has {len(addresses)} items, at most {DEPOSIT_ADDRESSES_MAX} may be"
        raise refusal(Reason.REASON_TOO_MANY_ITEMS, message, field="deposit_addresses", count=len(addresses), limit=DEPOSIT_ADDRESSES_MAX)
    for address in addresses:
        check_address("deposit_address", address.deposit_address)
        check_present(account=address.account)
    for address in addresses:
        find_chain(state, parse_account("deposit_address", address.deposit_address).chain)
    for address in addresses:
        find_book_account(state, address.account)
    _check_free(state, [address.deposit_address for address in addresses])
    for address in addresses:
        check_account_open(state.accounts[address.account])
    return _parts(state, addresses)


def _check_free(state: State, names: Sequence[str]) -> None:
    """Refuse an address that stands for an account already, or is a holder's own wallet."""
    seen: set[str] = set()
    for name in names:
        if name in state.deposit_addresses or name in seen:
            raise refusal(Reason.REASON_ALREADY_EXISTS, f"{name} stands for an account already", deposit_address=name)
        seen.add(name)
        known = state.accounts.get(name)
        if known is not None and known.holder:
            message = f"{name} is the wallet of holder {known.holder}"
            raise refusal(Reason.REASON_WALLET_BOUND, message, account=name, holder=known.holder)
        if known is not None:
            _check_empty(state, known)


def _check_empty(state: State, account: Account) -> None:
    """Refuse an address that has units of ours already: nobody sent them to whom it is to stand for."""
    for symbol, chain in sorted(state.deployments):
        units = state.holding(state.instruments[symbol].number, account.number) if chain == account.place else 0
        if units:
            message = f"{account.name} has {units} {symbol} already, which nobody sent for this account"
            raise refusal(Reason.REASON_STATE_UNFIT, message, account=account.name, instrument=symbol, holding=units)


def _parts(state: State, addresses: Sequence[DepositAddress]) -> list[DepositAddressesRegistered]:
    """Give each address its account's number; one that was seen before has an account already."""
    following = next_account_number(state)
    rows = []
    for address in addresses:
        known = state.accounts.get(address.deposit_address)
        if known is None:
            rows.append((following, address))
            following += 1
        else:
            rows.append((known.number, address))
    rows.sort(key=lambda row: row[0])
    return [
        DepositAddressesRegistered(deposit_addresses=[address for _, address in part], account_numbers=[number for number, _ in part])
        for start in range(0, len(rows), DEPOSIT_ADDRESSES_PER_ENTRY_MAX)
        for part in (rows[start : start + DEPOSIT_ADDRESSES_PER_ENTRY_MAX],)
    ]


def evolve_addresses(state: State, event: DepositAddressesRegistered, decided: Decided) -> None:
    for address, number in zip(event.deposit_addresses, event.account_numbers, strict=True):
        name = address.deposit_address
        if name not in state.accounts:
            add_account(state, name, number, "")
        assert state.accounts[name].number == number, "an account keeps its number"
        state.put(state.deposit_addresses, name, address.account)


def answer_addresses(events: Sequence[Any]) -> dict[str, Any]:
    return {"deposit_address_count": sum(len(event.deposit_addresses) for event in events if isinstance(event, DepositAddressesRegistered))}


COMMANDS: dict[type[Any], tuple[Any, type[Any]]] = {
    SetChainKeyRequest: (decide_set_key, SetChainKeyResponse),
    RegisterDepositAddressesRequest: (decide_register_addresses, RegisterDepositAddressesResponse),
}
EVENTS: dict[type[Any], Any] = {
    ChainKeySet: evolve_key_set,
    DepositAddressesRegistered: evolve_addresses,
}
ANSWERS = {RegisterDepositAddressesResponse: answer_addresses}
