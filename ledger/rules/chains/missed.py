"""Missed observations: what a node left out of a range that it told, booked once another node has told it.

command                      event                                                   and in the same booking
RecordMissedObservations     RangeObserved from the cursor to the cursor, in parts   DivergenceRaised, DivergenceResolved

The chain's order has passed them by, so they are booked behind the cursor, as seen, by the rules that would have booked them there. What
keeps a movement that is in the books from being booked again are figures: supply and every account concerned, read at the cursor, must
be what the books come to with it. Where the books lent units to an account because it seemed to give what it never got (IMPOSSIBLE), they
go back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger.errors import refusal
from ledger.rules.chains.divergences import check_figures, over
from ledger.rules.chains.observations import MOVEMENTS, observe_missed
from ledger.rules.chains.places import NATIVE
from ledger.rules.chains.ranges import OBSERVATIONS_MAX, check_observation, check_order
from ledger.rules.chains.walks import Walk
from stockledger.v1.chains_pb2 import (
    DivergenceKind,
    DivergenceRaised,
    DivergenceResolved,
    ObservationKind,
    ObservedRange,
    RecordMissedObservationsRequest,
    RecordMissedObservationsResponse,
)
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

    from ledger import records
    from ledger.rules.context import Context
    from ledger.state import State
    from stockledger.v1.chains_pb2 import ChainFigure, Observation

HOLDING, SUPPLY = DivergenceKind.DIVERGENCE_KIND_HOLDING, DivergenceKind.DIVERGENCE_KIND_SUPPLY
IMPOSSIBLE = DivergenceKind.DIVERGENCE_KIND_IMPOSSIBLE


def decide_missed(state: State, command: RecordMissedObservationsRequest, context: Context) -> list[Message]:
    _check_form(state, command)
    chain, rows = check_figures(state, command)
    _check_native(state, command)
    check_order("observations", (-1, -1), [(each.number, each.index) for each in command.observations], chain.cursor.number)
    walk = Walk(state, chain, chain.cursor.number, context.decision_time_us)
    observe_missed(walk, command.observations)
    _give_back(walk, rows)
    agreeing = _check_agreement(walk, rows, command.observations)
    seen = ObservedRange(chain=chain.chain, after=command.position, through=command.position)
    return [*walk.parts(seen), *walk.raiser.events(), *over(state, chain, agreeing)]


def _check_form(state: State, command: RecordMissedObservationsRequest) -> None:
    if not command.observations:
        raise refusal(Reason.REASON_FIELD_MISSING, "observations is empty", field="observations")
    if len(command.observations) > OBSERVATIONS_MAX:
        message = f"observations has {len(command.observations)} items, at most {OBSERVATIONS_MAX} may be"
        field, count = "observations", len(command.observations)
        raise refusal(Reason.REASON_TOO_MANY_ITEMS, message, field=field, count=count, limit=OBSERVATIONS_MAX)
    for each in command.observations:
        check_observation(state, each, command.chain)
        if each.kind not in MOVEMENTS or each.instruction:
            message = "observations has what is no movement of others: only these are told by figures"
            raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="observations", value=ObservationKind.Name(each.kind))


def _check_native(state: State, command: RecordMissedObservationsRequest) -> None:
    """Refuse what no figure tells: of somebody else's token, a wallet's measured holding counts at once, whatever moved it."""
    for each in command.observations:
        key = state.deployment_of_token.get(each.token)
        if key is None:
            message = f"the token {each.token} is of no deployment on {command.chain}"
            raise refusal(Reason.REASON_DEPLOYMENT_NOT_FOUND, message, chain=command.chain, token=each.token)
        if state.deployments[key].kind != NATIVE:
            message = f"{each.token} is somebody else's token"
            raise refusal(Reason.REASON_STATE_UNFIT, message, chain=command.chain, state="omnibus")


def _give_back(walk: Walk, rows: Sequence[tuple[ChainFigure, records.Deployment]]) -> None:
    """Return to the divergence account what was lent from it, where what came in was missed and went on as if from nowhere."""
    for figure, deployment in rows:
        instrument, lent = walk.state.instruments[deployment.instrument], _lent(walk, deployment, figure.account)
        if not lent or walk.holding_of(instrument, figure.account) - int(figure.raw) != lent:
            continue
        effects = [row.effect for row in walk.rows if row.effect is not None and row.effect.observation.destination == figure.account]
        if effects:
            walk.move(effects[-1], instrument, walk.number_of(figure.account), walk.chain.divergence, lent)


def _lent(walk: Walk, deployment: records.Deployment, account: str) -> int:
    """Return the units that an account gave and never had, by the divergences that still say so."""
    return sum(
        int(each.found) - int(each.expected)
        for each in walk.state.divergences.values()
        if (each.chain, each.instrument, each.kind) == (deployment.chain, deployment.instrument, IMPOSSIBLE)
        and each.account == account
        and each.expected.isdecimal()
    )


def _check_agreement(
    walk: Walk, rows: Sequence[tuple[ChainFigure, records.Deployment]], observations: Sequence[Observation]
) -> set[tuple[str, str, DivergenceKind.ValueType]]:
    """Return what agrees once the observations are booked, which is every figure; there must be one of all that they concern.

    Raises: InvalidRequest FIELD_MISSING; RuleViolated EXPECTATION_FAILED.
    """
    state = walk.state
    wanted: set[tuple[str, str]] = set()
    for each in observations:
        symbol, _ = state.deployment_of_token[each.token]
        wanted |= {(symbol, ""), *((symbol, account) for account in (each.source, each.destination) if account)}
    told = {(deployment.instrument, figure.account): int(figure.raw) for figure, deployment in rows}
    for symbol, account in sorted(wanted - told.keys()):
        message = f"figures has none of {account or 'the supply'} of {symbol}"
        raise refusal(Reason.REASON_FIELD_MISSING, message, field="figures")
    for (symbol, account), found in told.items():
        instrument = state.instruments[symbol]
        expected = walk.holding_of(instrument, account) if account else _supply(walk, instrument)
        if expected != found:
            message = f"with this, {account or 'the supply'} of {symbol} would be {expected} in the books, the chain has {found}"
            raise refusal(Reason.REASON_EXPECTATION_FAILED, message, field=f"figures {account}".strip(), expected=expected, found=found)
    return {(symbol, account, HOLDING if account else SUPPLY) for symbol, account in told}


def _supply(walk: Walk, instrument: records.Instrument) -> int:
    """Return what all accounts there come to: nothing leaves them or gets there but to and from the divergence account."""
    there, own = walk.state.place_units.get((instrument.symbol, walk.chain.chain), 0), walk.chain.divergence
    return there + walk.state.holding(instrument.number, own) - walk.holding(instrument, own)


def answer_missed(events: Sequence[Any]) -> dict[str, Any]:
    return {
        "divergence_count": sum(isinstance(event, DivergenceRaised) for event in events),
        "resolved_count": sum(isinstance(event, DivergenceResolved) for event in events),
    }


COMMANDS: dict[type[Any], tuple[Any, type[Any]]] = {RecordMissedObservationsRequest: (decide_missed, RecordMissedObservationsResponse)}
EVENTS: dict[type[Any], Any] = {}
ANSWERS = {RecordMissedObservationsResponse: answer_missed}
