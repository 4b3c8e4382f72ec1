"""Chains: places where the chain decides.

command         event
RegisterChain   ChainRegistered
AmendChain      ChainAmended

A chain gets three accounts of the ledger: units on their way there, what it did that cannot be, and deposits of nobody known.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from ledger import records
from ledger.caip import check_chain
from ledger.errors import refusal
from ledger.rules.accounts import add_account, next_account_number
from ledger.rules.checks import check_enum, check_text, time_us
from stockledger.v1.chains_pb2 import (
    AmendChainRequest,
    AmendChainResponse,
    Chain,
    ChainAmended,
    ChainPosition,
    ChainRegistered,
    FinalityRule,
    RegisterChainRequest,
    RegisterChainResponse,
)
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from ledger.rules.context import Context, Decided
    from ledger.state import State

FINALITY_DEPTH_MAX: Final = 10_000
HASH_LENGTH_MAX: Final = 128


def find_chain(state: State, chain: str, field: str = "chain") -> records.Chain:
    """Return a chain by its CAIP-2 id."""
    found = state.chains.get(chain)
    if found is None:
        check_chain(field, chain)
        raise refusal(Reason.REASON_CHAIN_NOT_FOUND, f"no chain {chain!r}", chain=chain)
    return found


def check_position(field: str, position: ChainPosition | None) -> records.ChainPosition:
    """Return a place in a chain's history, complete: number, hash and time."""
    if position is None:
        raise refusal(Reason.REASON_FIELD_MISSING, f"{field} is not set", field=field)
    if position.number < 0:
        message = f"{field}.number is {position.number}, blocks and slots count from 0"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field=f"{field}.number", value=position.number)
    check_text(f"{field}.hash", position.hash, HASH_LENGTH_MAX)
    if not position.HasField("time"):
        raise refusal(Reason.REASON_FIELD_MISSING, f"{field}.time is not set", field=f"{field}.time")
    return records.ChainPosition(position.number, position.hash, time_us(f"{field}.time", position.time))


def check_finality(rule: int, depth: int) -> None:
    """Refuse a depth that does not go with its rule. Example: 64 blocks on top; 0 where the chain itself says what is final."""
    check_enum("finality_rule", rule, FinalityRule)
    lowest, highest = (1, FINALITY_DEPTH_MAX) if rule == FinalityRule.FINALITY_RULE_DEPTH else (0, 0)
    if not lowest <= depth <= highest:
        name = FinalityRule.Name(FinalityRule.ValueType(rule))
        message = f"finality_depth is {depth}, with {name} it must be {lowest} to {highest}"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="finality_depth", value=depth)


def decide_register(state: State, command: RegisterChainRequest, context: Context) -> list[ChainRegistered]:
    check_chain("chain", command.chain)
    check_text("name", command.name)
    check_finality(command.finality_rule, command.finality_depth)
    check_position("cursor", command.cursor if command.HasField("cursor") else None)
    if command.chain in state.chains:
        raise refusal(Reason.REASON_ALREADY_EXISTS, f"chain {command.chain} is registered already, or was", chain=command.chain)
    number = next_account_number(state)
    chain = Chain(
        chain=command.chain,
        name=command.name,
        finality_rule=command.finality_rule,
        finality_depth=command.finality_depth,
        transit_account_number=number,
        divergence_account_number=number + 1,
        unattributed_account_number=number + 2,
        cursor=command.cursor,
    )
    return [ChainRegistered(chain=chain)]


def evolve_registered(state: State, event: ChainRegistered, decided: Decided) -> None:
    new = event.chain
    record = records.Chain(
        chain=new.chain,
        name=new.name,
        finality_rule=new.finality_rule,
        finality_depth=new.finality_depth,
        transit=new.transit_account_number,
        divergence=new.divergence_account_number,
        unattributed=new.unattributed_account_number,
        cursor=check_position("cursor", new.cursor),
    )
    state.put(state.chains, new.chain, record)
    add_account(state, f"transit:{new.chain}", record.transit, "")
    add_account(state, f"divergence:{new.chain}", record.divergence, "")
    add_account(state, f"unattributed:{new.chain}", record.unattributed, "")


_AMENDABLE: Final = ("name", "finality_rule", "finality_depth", "retired")


def decide_amend(state: State, command: AmendChainRequest, context: Context) -> list[ChainAmended]:
    changes: dict[str, Any] = {field: getattr(command, field) for field in _AMENDABLE if command.HasField(field)}
    if "name" in changes:
        check_text("name", command.name)
    if "finality_rule" in changes or "finality_depth" in changes:
        check_finality(command.finality_rule, command.finality_depth)
    chain = find_chain(state, command.chain)
    if chain.retired:
        raise refusal(Reason.REASON_STATE_UNFIT, f"chain {chain.chain} is retired", chain=chain.chain, state="retired")
    if all(getattr(chain, field) == value for field, value in changes.items()):
        raise refusal(Reason.REASON_NOTHING_TO_CHANGE, f"nothing of chain {chain.chain} would change", chain=chain.chain)
    if changes.get("retired"):
        _check_empty(state, chain)
    return [ChainAmended(chain=chain.chain, **changes)]


def _check_empty(state: State, chain: records.Chain) -> None:
    """Refuse while units stand on an account of a chain, or of the ledger for it."""
    own = (chain.transit, chain.divergence, chain.unattributed)
    numbers = sorted({*own, *(account.number for account in state.accounts.values() if account.place == chain.chain)})
    for instrument, symbol in sorted(state.instrument_symbols.items()):
        for number in numbers:
            units = state.holding(instrument, number)
            if units:
                account = state.account_names[number]
                message = f"{account} still has {units} {symbol}"
                raise refusal(Reason.REASON_ACCOUNT_NOT_EMPTY, message, account=account, instrument=symbol, units=units)


def evolve_amended(state: State, event: ChainAmended, decided: Decided) -> None:
    changes: dict[str, Any] = {field: getattr(event, field) for field in _AMENDABLE if event.HasField(field)}
    state.put(state.chains, event.chain, dataclasses.replace(state.chains[event.chain], **changes))


COMMANDS: dict[type[Any], tuple[Any, type[Any]]] = {
    RegisterChainRequest: (decide_register, RegisterChainResponse),
    AmendChainRequest: (decide_amend, AmendChainResponse),
}
EVENTS: dict[type[Any], Any] = {
    ChainRegistered: evolve_registered,
    ChainAmended: evolve_amended,
}
