"""The form of a range of a chain: what a reader must have got right before what it saw is looked at.

A refusal here is a mistake of the reader, never of what others did on the chain: whatever a chain can show has a form that passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.caip import check_chain, parse_token
from ledger.errors import refusal
from ledger.rules.addresses import check_address
from ledger.rules.chains.endings import instruction_key
from ledger.rules.chains.places import halting
from ledger.rules.chains.registration import check_position, find_chain
from ledger.rules.chains.sequences import check_sequence
from ledger.rules.checks import check_bytes, check_enum, check_length, check_text, time_us
from stockledger.v1.chains_pb2 import ChainFailure, DivergenceKind, ObservationKind
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger import records
    from ledger.state import State
    from stockledger.v1.chains_pb2 import ChainMultiplier, ChainPosition, LandedTransaction, Observation, ObservedRange

OBSERVATIONS_MAX: Final = 10_000
TRANSACTION_LENGTH_MAX: Final = 128
ENCODING_BYTES_MAX: Final = 64
ACCOUNT_LENGTH_MAX: Final = 170
"""CAIP-10: 41 of the chain, a colon, 128 of the address."""
_DIGITS_MAX: Final = 78
"""2^256 has 78 digits."""

_TRANSFER, _MINT, _BURN = (
    ObservationKind.OBSERVATION_KIND_TRANSFER,
    ObservationKind.OBSERVATION_KIND_MINT,
    ObservationKind.OBSERVATION_KIND_BURN,
)
_FREEZE, _FREEZE_UNITS = ObservationKind.OBSERVATION_KIND_FREEZE, ObservationKind.OBSERVATION_KIND_FREEZE_UNITS
_MULTIPLIER, _ALLOTMENT = ObservationKind.OBSERVATION_KIND_MULTIPLIER, ObservationKind.OBSERVATION_KIND_ALLOTMENT
_IN_FORCE = ObservationKind.OBSERVATION_KIND_MULTIPLIER_IN_FORCE
_AUTHORITY, _BAR = ObservationKind.OBSERVATION_KIND_AUTHORITY, ObservationKind.OBSERVATION_KIND_BAR
_WITH_SOURCE: Final = frozenset({_TRANSFER, _BURN, _FREEZE, _FREEZE_UNITS, _BAR})
_WITH_DESTINATION: Final = frozenset({_TRANSFER, _MINT})
_WITH_RAW: Final = frozenset({_TRANSFER, _MINT, _BURN, _FREEZE_UNITS, _ALLOTMENT})
_WITHOUT_TOKEN: Final = frozenset({_AUTHORITY, _BAR})
"""What may concern all tokens of ours at once."""


def _malformed(field: str, message: str, value: object) -> Exception:
    return refusal(Reason.REASON_FIELD_MALFORMED, f"{field} {message}", field=field, value=value)


def check_raw(field: str, text: str) -> int:
    """Return raw units of a token: a decimal integer of at most 256 bits."""
    if not text:
        raise refusal(Reason.REASON_FIELD_MISSING, f"{field} is empty", field=field)
    canonical = text.isascii() and text.isdecimal() and len(text) <= _DIGITS_MAX and str(int(text)) == text
    if not canonical or int(text) >= 1 << 256:
        raise _malformed(field, f"{text!r} is not a decimal integer of at most 256 bits", text)
    return int(text)


def _check_not_too_many(field: str, count: int) -> None:
    if count > OBSERVATIONS_MAX:
        message = f"{field} has {count} items, at most {OBSERVATIONS_MAX} may be"
        raise refusal(Reason.REASON_TOO_MANY_ITEMS, message, field=field, count=count, limit=OBSERVATIONS_MAX)


def _check_account(state: State, field: str, name: str, chain: str) -> None:
    """Refuse a name that is not an account at the chain in its one spelling; one that is known is one."""
    known = state.accounts.get(name)
    if known is None or known.place != chain:
        check_address(field, name, chain)


def check_observation(state: State, seen: Observation, chain: str) -> None:
    """Refuse an observation that has not the form of its kind."""
    kind = check_enum("kind", seen.kind, ObservationKind)
    if (seen.token or kind not in _WITHOUT_TOKEN) and parse_token("token", seen.token).chain != chain:
        raise _malformed("token", f"{seen.token!r} is not on {chain}", seen.token)
    if seen.transaction or kind != _IN_FORCE:
        check_text("transaction", seen.transaction, TRANSACTION_LENGTH_MAX)
    if seen.index < 0:
        raise _malformed("index", f"is {seen.index}, it counts from 0", seen.index)
    if kind in _WITH_SOURCE:
        _check_account(state, "source", seen.source, chain)
    if kind in _WITH_DESTINATION:
        _check_account(state, "destination", seen.destination, chain)
    if kind in _WITH_RAW:
        check_raw("raw", seen.raw)
    if kind in {_MULTIPLIER, _IN_FORCE}:
        check_raw("value", seen.value)
    if kind == _IN_FORCE:
        check_raw("old_value", seen.old_value)
        time_us("effective_time", seen.effective_time)
        time_us("time", seen.time)
    if kind in (_FREEZE, _BAR) and seen.value not in {"true", "false"}:
        raise _malformed("value", f"{seen.value!r} is neither true nor false", seen.value)
    if kind in (_AUTHORITY, _BAR):
        check_text("subject", seen.subject)
    for field, text in (("subject", seen.subject), ("value", seen.value), ("raw", seen.raw), ("old_value", seen.old_value)):
        check_length(field, text)
    for field, text in (("source", seen.source), ("destination", seen.destination)):
        check_length(field, text, ACCOUNT_LENGTH_MAX)
    if len(set(seen.operations)) < len(seen.operations):
        raise _malformed("operations", "names one twice", list(seen.operations))
    for operation in seen.operations:
        check_enum("operations", operation, Operation)
    if seen.HasField("effective_time"):
        time_us("effective_time", seen.effective_time)
    if len(seen.encoding) > ENCODING_BYTES_MAX:
        raise _malformed("encoding", f"has {len(seen.encoding)} bytes, at most {ENCODING_BYTES_MAX} may be", len(seen.encoding))
    if seen.instruction:
        _check_instruction("instruction", seen.instruction)


def _check_multiplier(state: State, standing: ChainMultiplier, chain: str) -> None:
    if parse_token("multipliers", standing.token).chain != chain:
        raise _malformed("multipliers", f"has {standing.token!r}, which is not on {chain}", standing.token)
    check_raw("multiplier", standing.multiplier)
    if standing.next_multiplier:
        check_raw("next_multiplier", standing.next_multiplier)
        time_us("next_effective_time", standing.next_effective_time)


def _check_instruction(field: str, text: str) -> None:
    if instruction_key(text) is None:
        raise _malformed(field, f"{text!r} is no instruction's id, like 4711-0", text)


def _check_landed(landed: LandedTransaction, chain: str) -> None:
    check_address("key", landed.key, chain)
    check_sequence("sequence", landed.sequence)
    check_bytes("payload_digest", landed.payload_digest, 32)
    check_text("transaction", landed.transaction, TRANSACTION_LENGTH_MAX)
    if landed.failure:
        check_enum("failure", landed.failure, ChainFailure)
    check_length("failure_text", landed.failure_text)
    if landed.fee:
        check_raw("fee", landed.fee)


def check_range(state: State, seen: ObservedRange) -> tuple[records.Chain, records.ChainPosition]:
    """Return the chain of a range that may be booked now, and where it ends."""
    check_chain("chain", seen.chain)
    after = check_position("after", seen.after if seen.HasField("after") else None)
    through = check_position("through", seen.through if seen.HasField("through") else None)
    for observation in seen.observations:
        check_observation(state, observation, seen.chain)
    for landed in seen.landed:
        _check_landed(landed, seen.chain)
    for text in seen.satisfied_instructions:
        _check_instruction("satisfied_instructions", text)
    for standing in seen.multipliers:
        _check_multiplier(state, standing, seen.chain)
    if len({standing.token for standing in seen.multipliers}) < len(seen.multipliers):
        raise _malformed("multipliers", "has one token twice", "")
    if len({observation.number for observation in seen.observations}) > 1:
        _check_not_too_many("observations", len(seen.observations))
    _check_not_too_many("landed", len(seen.landed))
    _check_not_too_many("satisfied_instructions", len(seen.satisfied_instructions))
    chain = find_chain(state, seen.chain)
    for token in (*(each.token for each in seen.observations if each.token), *(each.token for each in seen.multipliers)):
        if token not in state.deployment_of_token:
            message = f"the token {token} is of no deployment on {chain.chain}"
            raise refusal(Reason.REASON_DEPLOYMENT_NOT_FOUND, message, chain=chain.chain, token=token)
    check_cursor("after", after, chain)
    check_order("through", (after.number, 0), [(through.number, 0)], through.number)
    check_order("observations", (after.number + 1, -1), [(each.number, each.index) for each in seen.observations], through.number)
    for landed in seen.landed:
        check_order("landed", (after.number + 1, -1), [(landed.number, 0)], through.number)
    _check_history(state, chain)
    return chain, through


def check_cursor(field: str, found: records.ChainPosition, chain: records.Chain) -> None:
    """Refuse a position that is not the cursor, by number and hash: another reader was faster, or the node is of another history."""
    if (found.number, found.hash) != (chain.cursor.number, chain.cursor.hash):
        expected, given = position_text(chain.cursor), position_text(found)
        message = f"{field} is {given}, everything up to {expected} of {chain.chain} is in the books"
        raise refusal(Reason.REASON_EXPECTATION_FAILED, message, field=field, expected=expected, found=given)


def position_text(position: records.ChainPosition | ChainPosition) -> str:
    """Return a position for people. Example: "23456789 0x88e9"."""
    return f"{position.number} {position.hash}"


def check_order(field: str, lowest: tuple[int, int], places: Sequence[tuple[int, int]], last_number: int) -> None:
    """Refuse places that do not grow, or lie outside a range."""
    before = lowest
    for place in places:
        if not before < place or place[0] > last_number:
            message = f"{field} has {place[0]}.{place[1]} after {before[0]}.{before[1]}, in a range that ends with {last_number}"
            raise refusal(Reason.REASON_DATES_OUT_OF_ORDER, message, earlier=f"{before[0]}.{before[1]}", later=f"{place[0]}.{place[1]}")
        before = place


def _check_history(state: State, chain: records.Chain) -> None:
    """Refuse to read on while what was final is no more: a human says from where on."""
    for number in halting(state, chain.chain, ""):
        if state.divergences[number].kind == DivergenceKind.DIVERGENCE_KIND_HISTORY_CHANGED:
            message = f"divergence {number} stops {chain.chain}: what was final there has changed"
            raise refusal(Reason.REASON_PLACE_HALTED, message, chain=chain.chain, instrument="", divergence=number)
