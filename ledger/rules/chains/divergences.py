"""Divergences: where ledger and chain disagree, with both figures; the places they stop, and how they end.

    command                event
    RecordReconciliation   ChainReconciled, in parts where it is long; DivergenceRaised, DivergenceResolved for what differs, or no more
    RaiseDivergence        DivergenceRaised
    ResolveDivergence      DivergenceResolved, and a shortfall raised or ended
    (RecordObservations)   DivergenceRaised

What is measured again and again (supply, holdings, wallets, multiplier) is raised once and stays open until the figures agree, or until a
human resolves it where it halts. What happened at one moment is raised each time, and only a human resolves it.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from ledger import records
from ledger.caip import check_chain
from ledger.errors import refusal
from ledger.rules.addresses import check_address
from ledger.rules.chains.in_force import expected_multiplier, is_encoding_of, without_chain_multiplier
from ledger.rules.chains.omnibus import is_ours, omnibus_owed, omnibus_reserve
from ledger.rules.chains.places import NATIVE, OMNIBUS, find_deployment, move
from ledger.rules.chains.projection import ISSUANCE_NAME
from ledger.rules.chains.ranges import check_cursor, check_raw
from ledger.rules.chains.registration import check_position, find_chain
from ledger.rules.checks import BOOK, check_enum, check_free, check_present, check_text, find_account
from ledger.rules.context import entry_index
from ledger.rules.reserves import reserve_events
from ledger.state import ISSUANCE
from stockledger.v1.chains_pb2 import (
    ChainFigure,
    ChainPosition,
    ChainReconciled,
    Divergence,
    DivergenceKind,
    DivergenceRaised,
    DivergenceResolved,
    InstructionKind,
    RaiseDivergenceRequest,
    RaiseDivergenceResponse,
    RecordMissedObservationsRequest,
    RecordReconciliationRequest,
    RecordReconciliationResponse,
    ResolveDivergenceRequest,
    ResolveDivergenceResponse,
)
from stockledger.v1.common_pb2 import Movement
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

    from ledger.rules.context import Context, Decided
    from ledger.state import State

SUPPLY, HOLDING = DivergenceKind.DIVERGENCE_KIND_SUPPLY, DivergenceKind.DIVERGENCE_KIND_HOLDING
WALLETS_SHORT, MULTIPLIER = DivergenceKind.DIVERGENCE_KIND_WALLETS_SHORT, DivergenceKind.DIVERGENCE_KIND_MULTIPLIER
HISTORY_CHANGED = DivergenceKind.DIVERGENCE_KIND_HISTORY_CHANGED
MEASURED: Final = frozenset({SUPPLY, HOLDING, WALLETS_SHORT, MULTIPLIER})
"""What is raised once, however often it is measured."""

FIGURES_MAX: Final = 10_000
FIGURES_PER_ENTRY_MAX: Final = 200
"""At most 290 bytes each with the longest names: 58,000 of a leaf's 65,535 bytes."""
FIGURE_LENGTH_MAX: Final = 128


class Raiser:
    """The divergences that one command raises: numbered, and what is open already not raised again."""

    def __init__(self, state: State, chain: records.Chain, number: int) -> None:
        """Take the number of the block or slot at which they are seen."""
        self._state = state
        self._chain = chain
        self._number = number
        self._open = {(each.instrument, each.account, each.kind) for each in state.divergences.values() if each.chain == chain.chain}
        self.raised: list[Divergence] = []

    def tell(
        self,
        kind: DivergenceKind.ValueType,
        *,
        expected: object,
        found: object,
        instrument: str = "",
        account: str = "",
        number: int | None = None,
        transaction: str = "",
        halting: bool = False,
    ) -> None:
        """Raise a divergence. It halts where it must, and where the deployment is set to."""
        if kind in MEASURED:
            if (instrument, account, kind) in self._open:
                return
            self._open.add((instrument, account, kind))
        deployment = self._state.deployments.get((instrument, self._chain.chain))
        new = Divergence(
            divergence=self._state.next_number("divergence") + len(self.raised),
            chain=self._chain.chain,
            instrument=instrument,
            account=account,
            kind=kind,
            expected=str(expected),
            found=str(found),
            position=ChainPosition(number=self._number if number is None else number),
            transaction=transaction,
            halting=halting or (deployment is not None and deployment.halt_on_divergence),
        )
        self.raised.append(new)

    def events(self) -> list[DivergenceRaised]:
        return [DivergenceRaised(divergence=each) for each in self.raised]


def evolve_raised(state: State, event: DivergenceRaised, decided: Decided) -> None:
    new = event.divergence
    position = new.position
    record = records.Divergence(
        divergence=new.divergence,
        chain=new.chain,
        instrument=new.instrument,
        account=new.account,
        kind=new.kind,
        expected=new.expected,
        found=new.found,
        position=records.ChainPosition(position.number, position.hash, position.time.ToMicroseconds()),
        transaction=new.transaction,
        halting=new.halting,
        index=entry_index(state, decided),
    )
    state.put(state.counters, "divergence", new.divergence)
    state.put(state.divergences, new.divergence, record)
    if new.halting:
        key = (new.chain, new.instrument)
        state.put(state.halts, key, (*state.halts.get(key, ()), new.divergence))


# ---- figures held together -----------------------------------------------------------------------------------------------------------


def _expected_raw(state: State, deployment: records.Deployment, account: str) -> int:
    """Return what the books say a figure is, in raw units."""
    if deployment.kind == OMNIBUS:
        return state.wallet_raw.get((deployment.chain, deployment.instrument, account), 0)
    if not account:
        return state.place_units.get((deployment.instrument, deployment.chain), 0)
    known = state.accounts.get(account)
    return 0 if known is None else state.holding(state.instruments[deployment.instrument].number, known.number)


def check_figures(
    state: State, command: RecordReconciliationRequest | RecordMissedObservationsRequest
) -> tuple[records.Chain, list[tuple[ChainFigure, records.Deployment]]]:
    """Return the chain and the figures of a command, each with its deployment, if they were read at the cursor."""
    check_chain("chain", command.chain)
    position = check_position("position", command.position if command.HasField("position") else None)
    for figure in command.figures:
        check_present(instrument=figure.instrument)
        check_raw("raw", figure.raw)
        if figure.account and figure.account not in state.accounts:
            check_address("account", figure.account, command.chain)
        elif figure.account and state.accounts[figure.account].place != command.chain:
            message = f"account {figure.account!r} is not at {command.chain}"
            raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="account", value=figure.account)
    if not command.figures:
        raise refusal(Reason.REASON_FIELD_MISSING, "figures is empty", field="figures")
    if len({(figure.instrument, figure.account) for figure in command.figures}) < len(command.figures):
        raise refusal(Reason.REASON_FIELD_MALFORMED, "figures has one twice", field="figures")
    if len(command.figures) > FIGURES_MAX:
        message = f"figures has {len(command.figures)} items, at most {FIGURES_MAX} may be"
        raise refusal(Reason.REASON_TOO_MANY_ITEMS, message, field="figures", count=len(command.figures), limit=FIGURES_MAX)
    chain = find_chain(state, command.chain)
    rows = [(figure, find_deployment(state, figure.instrument, chain.chain)) for figure in command.figures]
    check_cursor("position", position, chain)
    return chain, rows


def _counts(state: State, figure: ChainFigure, deployment: records.Deployment) -> bool:
    """Tell whether a figure is held against the books: of somebody else's token only what is ours."""
    return deployment.kind == NATIVE or is_ours(state, deployment, figure.account)


def decide_reconcile(state: State, command: RecordReconciliationRequest, context: Context) -> list[Message]:
    chain, rows = check_figures(state, command)
    raiser = Raiser(state, chain, chain.cursor.number)
    kept, agreeing, of_accounts = [], set(), 0
    counted = [(figure, deployment) for figure, deployment in rows if _counts(state, figure, deployment)]
    for figure, deployment in counted:
        expected = _expected_raw(state, deployment, figure.account)
        kind = HOLDING if figure.account else SUPPLY
        if int(figure.raw) == expected:
            agreeing.add((deployment.instrument, figure.account, kind))
            of_accounts += bool(figure.account)
        else:
            raiser.tell(kind, expected=expected, found=figure.raw, instrument=deployment.instrument, account=figure.account)
        if not figure.account or deployment.kind == OMNIBUS:
            kept.append(figure)
    agreeing_count = len(agreeing)
    for instrument in sorted({deployment.instrument for _, deployment in counted}):
        agreeing |= _hold_together(state, state.deployments[instrument, chain.chain], counted, raiser)
    events: list[Message] = [
        ChainReconciled(chain=chain.chain, position=command.position, figures=kept[first : first + FIGURES_PER_ENTRY_MAX])
        for first in range(0, max(len(kept), 1), FIGURES_PER_ENTRY_MAX)
    ]
    events[0].agreeing_account_count, events[0].agreeing_count = of_accounts, agreeing_count  # type: ignore[attr-defined]
    return [*events, *raiser.events(), *over(state, chain, agreeing)]


def _hold_together(
    state: State, deployment: records.Deployment, counted: Sequence[tuple[ChainFigure, records.Deployment]], raiser: Raiser
) -> set[tuple[str, str, DivergenceKind.ValueType]]:
    """Hold what follows from several figures against the books, and return what agrees."""
    instrument = deployment.instrument
    if deployment.kind == OMNIBUS:
        seen = {(deployment.chain, instrument, figure.account): int(figure.raw) for figure, of in counted if of == deployment}
        reserve, owed = omnibus_reserve(state, instrument, seen), omnibus_owed(state, instrument)
        if reserve >= owed:
            return {(instrument, "", WALLETS_SHORT)}
        raiser.tell(WALLETS_SHORT, expected=owed, found=reserve, instrument=instrument)
        return set()
    if not deployment.observed_multiplier or (_SET_MULTIPLIER, deployment.chain, instrument, "") in state.targets:
        return set()
    wanted = expected_multiplier(state, instrument)
    if any(is_encoding_of(deployment.observed_multiplier, each) for each in wanted):
        return {(instrument, "", MULTIPLIER)}
    raiser.tell(MULTIPLIER, expected=wanted[0], found=deployment.observed_multiplier, instrument=instrument)
    return set()


_SET_MULTIPLIER: Final = InstructionKind.INSTRUCTION_KIND_SET_MULTIPLIER


def over(state: State, chain: records.Chain, agreeing: set[Any]) -> list[DivergenceResolved]:
    """Return the ends of what was measured and agrees now; one that halts is for a human to end."""
    cause = f"the figures agree at {chain.cursor.number}"
    return [
        DivergenceResolved(divergence=number, cause=cause, chain=chain.chain, instrument=each.instrument)
        for number, each in sorted(state.divergences.items())
        if each.chain == chain.chain and not each.halting and (each.instrument, each.account, each.kind) in agreeing
    ]


def evolve_reconciled(state: State, event: ChainReconciled, decided: Decided) -> None:
    position = check_position("position", event.position)
    for figure in event.figures:
        deployment = state.deployments[figure.instrument, event.chain]
        raw = int(figure.raw)
        difference = raw - _expected_raw(state, deployment, figure.account)
        key = (event.chain, figure.instrument, figure.account)
        state.put(state.figures, key, records.FigureRead(raw, difference, position))
        if deployment.kind == OMNIBUS:
            state.put(state.wallet_raw, key, raw)


def answer_reconciled(events: Sequence[Any]) -> dict[str, Any]:
    return {
        "agreeing_count": sum(event.agreeing_count for event in events if isinstance(event, ChainReconciled)),
        "divergence_count": sum(isinstance(event, DivergenceRaised) for event in events),
    }


# ---- told, and resolved ----------------------------------------------------------------------------------------------------------------


def decide_raise(state: State, command: RaiseDivergenceRequest, context: Context) -> list[DivergenceRaised]:
    check_chain("chain", command.chain)
    if check_enum("kind", command.kind, DivergenceKind) != HISTORY_CHANGED:
        name = DivergenceKind.Name(command.kind)
        raise refusal(Reason.REASON_FIELD_MALFORMED, f"kind is {name}, which the books see by themselves", field="kind", value=name)
    check_text("expected", command.expected, FIGURE_LENGTH_MAX)
    check_text("found", command.found, FIGURE_LENGTH_MAX)
    chain = find_chain(state, command.chain)
    for number, each in sorted(state.divergences.items()):
        if (each.chain, each.kind) == (chain.chain, HISTORY_CHANGED):
            message = f"divergence {number} says already that the history of {chain.chain} has changed"
            raise refusal(Reason.REASON_NOTHING_TO_CHANGE, message, chain=chain.chain, divergence=number)
    raiser = Raiser(state, chain, chain.cursor.number)
    raiser.tell(HISTORY_CHANGED, expected=command.expected, found=command.found, halting=True)
    return raiser.events()


def find_divergence(state: State, number: int) -> records.Divergence:
    """Return an open divergence by its number."""
    found = state.divergences.get(number)
    if found is None:
        raise refusal(Reason.REASON_DIVERGENCE_NOT_FOUND, f"no open divergence {number}", divergence=number)
    return found


def decide_resolve(state: State, command: ResolveDivergenceRequest, context: Context) -> list[Message]:
    check_text("cause", command.cause)
    if command.units:
        check_present(bearing_account=command.bearing_account)
    elif command.bearing_account:
        raise refusal(Reason.REASON_FIELD_MISSING, f"units is 0, and {command.bearing_account} is to bear some", field="units")
    if command.HasField("cursor"):
        check_position("cursor", command.cursor)
    divergence = find_divergence(state, command.divergence)
    bearing = _find_bearing_account(state, command.bearing_account) if command.units else None
    resolved = DivergenceResolved(
        divergence=divergence.divergence,
        cause=command.cause,
        chain=divergence.chain,
        instrument=divergence.instrument,
        halting=divergence.halting,
    )
    if command.HasField("cursor"):
        if divergence.kind != HISTORY_CHANGED:
            kind = DivergenceKind.Name(DivergenceKind.ValueType(divergence.kind))
            message = f"divergence {divergence.divergence} is {kind} and leaves the cursor of {divergence.chain} where it is"
            raise refusal(Reason.REASON_STATE_UNFIT, message, divergence=divergence.divergence, state=kind)
        resolved.cursor.CopyFrom(command.cursor)
    if bearing is None:
        return [resolved]
    movement, created = _bear(state, divergence, bearing, command.units)
    resolved.movement.CopyFrom(movement)
    instrument = state.instruments[divergence.instrument]
    return [resolved, *(reserve_events(state, instrument, extra_units=created) if created else [])]


def _find_bearing_account(state: State, name: str) -> records.Account:
    if name == ISSUANCE_NAME:
        return state.accounts[name]
    account = find_account(state, name, "bearing_account")
    if account.place != BOOK:
        raise refusal(Reason.REASON_PLACE_UNFIT, f"{name} is not in the book", account=name)
    return account


def _bear(state: State, divergence: records.Divergence, bearing: records.Account, units: int) -> tuple[Movement, int]:
    """Return the movement that puts the divergence account right, and the units that it creates (below zero: destroys)."""
    symbol, own = divergence.instrument, state.accounts[f"divergence:{divergence.chain}"]
    if not symbol:
        message = f"divergence {divergence.divergence} is of the whole chain {divergence.chain}, so no units can end it"
        raise refusal(Reason.REASON_STATE_UNFIT, message, divergence=divergence.divergence, state="whole chain")
    instrument = state.instruments[symbol]
    there = state.holding(instrument.number, own.number)
    if not 0 < abs(units) <= (-there if units > 0 else there):
        message = f"{own.name} has {there} {symbol}: {units} do not put it right"
        raise refusal(Reason.REASON_STATE_UNFIT, message, divergence=divergence.divergence, account=own.name, units=there, needed=units)
    source, destination = (bearing, own) if units > 0 else (own, bearing)
    if source is bearing and bearing.number != ISSUANCE:
        check_free(state, instrument, bearing, units)
    movement = Movement(instrument=symbol, source=source.name, destination=destination.name, units=abs(units))
    return movement, units if bearing.number == ISSUANCE else 0


def evolve_resolved(state: State, event: DivergenceResolved, decided: Decided) -> None:
    divergence = state.remove(state.divergences, event.divergence)
    if divergence.halting:
        key = (divergence.chain, divergence.instrument)
        others = tuple(other for other in state.halts[key] if other != event.divergence)
        if others:
            state.put(state.halts, key, others)
        else:
            state.remove(state.halts, key)
    if event.HasField("movement"):
        moved = event.movement
        source, destination = state.accounts[moved.source].number, state.accounts[moved.destination].number
        move(state, state.instruments[moved.instrument], source, destination, moved.units)
    if event.HasField("cursor"):
        set_cursor(state, divergence.chain, event.cursor)
        for key in [key for key in state.deployments if key[1] == divergence.chain]:
            state.put(state.deployments, key, without_chain_multiplier(state.deployments[key]))


def set_cursor(state: State, chain: str, position: ChainPosition) -> None:
    """Book where a chain is read on from."""
    state.put(state.chains, chain, dataclasses.replace(state.chains[chain], cursor=check_position("cursor", position)))


COMMANDS: dict[type[Any], tuple[Any, type[Any]]] = {
    RecordReconciliationRequest: (decide_reconcile, RecordReconciliationResponse),
    RaiseDivergenceRequest: (decide_raise, RaiseDivergenceResponse),
    ResolveDivergenceRequest: (decide_resolve, ResolveDivergenceResponse),
}
EVENTS: dict[type[Any], Any] = {
    ChainReconciled: evolve_reconciled,
    DivergenceRaised: evolve_raised,
    DivergenceResolved: evolve_resolved,
}
ANSWERS = {RecordReconciliationResponse: answer_reconciled}
