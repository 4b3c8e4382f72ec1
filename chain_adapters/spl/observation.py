"""From what a chain has finalised to observations: every movement, freeze, pause, multiplier and change of power, by owner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from solders.message import Message
from solders.pubkey import Pubkey

from chain_adapters.spl.addresses import ASSOCIATED_TOKEN_PROGRAM, SYSTEM_PROGRAM, TOKEN_2022_PROGRAM, associated_account
from chain_adapters.spl.errors import AnswerMalformed
from chain_adapters.spl.multiplier import multiplier_floor
from chain_adapters.spl.planning import MEMO_PREFIX
from chain_adapters.spl.token_2022 import AuthorityKind
from chain_adapters.spl.transactions import (
    AuthoritySet,
    Burned,
    DefaultStateSet,
    Done,
    FreezeChanged,
    HookSet,
    LandedTransaction,
    Memo,
    Minted,
    MultiplierSet,
    PauseChanged,
    Transferred,
    effects_on,
)
from stockledger.v1.chains_pb2 import ChainFailure, Observation, ObservationKind
from stockledger.v1.common_pb2 import Operation

_ALL_OPERATIONS: Final = (Operation.OPERATION_TRANSFER, Operation.OPERATION_ISSUE, Operation.OPERATION_REDEEM)
_TOO_FEW_LAMPORTS: Final = {1: (ChainFailure.CHAIN_FAILURE_FEE_INSUFFICIENT, "too few lamports for a new account")}
_CUSTOM_FAILURES: Final = {
    TOKEN_2022_PROGRAM: {
        1: (ChainFailure.CHAIN_FAILURE_UNITS_INSUFFICIENT, "insufficient funds"),
        4: (ChainFailure.CHAIN_FAILURE_KEY_WITHOUT_ROLE, "owner does not match"),
        5: (ChainFailure.CHAIN_FAILURE_KEY_WITHOUT_ROLE, "fixed supply"),
        17: (ChainFailure.CHAIN_FAILURE_ACCOUNT_BARRED, "account is frozen"),
        29: (ChainFailure.CHAIN_FAILURE_KEY_WITHOUT_ROLE, "no authority exists"),
        67: (ChainFailure.CHAIN_FAILURE_PAUSED, "mint is paused"),
    },
    ASSOCIATED_TOKEN_PROGRAM: _TOO_FEW_LAMPORTS,
    SYSTEM_PROGRAM: _TOO_FEW_LAMPORTS,
}
"""By the program of the instruction that failed, and its number: each program has numbers of its own. That of associated accounts
passes on what the System program says of the payer."""
_FEE_FAILURES: Final = frozenset({"InsufficientFundsForFee", "InsufficientFundsForRent"})
FAILURE_TEXT_MAX: Final = 140


def failure_of(error: object, message: bytes, instruction_count: int) -> tuple[ChainFailure.ValueType, str]:
    """Return why a transaction failed, in the ledger's words and the chain's.

    Example: error 1 of Token-2022 is CHAIN_FAILURE_UNITS_INSUFFICIENT, and of the System program CHAIN_FAILURE_FEE_INSUFFICIENT.

    With several instructions one failed and undid the others: each is to be sent alone, and tells for itself.

    Raises: AnswerMalformed for the failure of an instruction that is not there.
    """
    failure, text = ChainFailure.CHAIN_FAILURE_OTHER, str(error)
    match error:
        case {"InstructionError": [int(place), {"Custom": int(code)}]}:
            known = _CUSTOM_FAILURES.get(_program_of(message, place), {})
            failure, words = known.get(code, (ChainFailure.CHAIN_FAILURE_OTHER, "unknown error"))
            text = f"instruction {place}: custom program error {code:#x} ({words})"
        case str(name) if name in _FEE_FAILURES:
            failure = ChainFailure.CHAIN_FAILURE_FEE_INSUFFICIENT
        case {"InsufficientFundsForRent": _}:
            failure = ChainFailure.CHAIN_FAILURE_FEE_INSUFFICIENT
        case _:
            pass
    if instruction_count > 1:
        failure = ChainFailure.CHAIN_FAILURE_IN_COMPANY
    return failure, text[:FAILURE_TEXT_MAX]


def _program_of(message: bytes, place: int) -> Pubkey:
    """Return the program of the instruction at a place of a message."""
    decoded = Message.from_bytes(message)
    if not 0 <= place < len(decoded.instructions):
        raise AnswerMalformed("getTransaction", f"instruction {place} failed of a transaction that has {len(decoded.instructions)}")
    return decoded.account_keys[decoded.instructions[place].program_id_index]


def observe(
    chain: str, tokens: Mapping[Pubkey, str], transaction: LandedTransaction, ours: Sequence[str], first_index: int
) -> list[Observation]:
    """Return what a transaction did to some tokens, in order.

    Args:
        chain: CAIP-2 id.
        tokens: CAIP-19 ids by mint.
        transaction: Final.
        ours: The instructions it carries, if it is a recorded one of ours.
        first_index: Of the first observation within its slot.

    Raises: TransactionNotUnderstood.
    """
    effects = {id(effect): mint for mint in tokens for effect in effects_on(mint, transaction)}
    lasting = _lasting_changes(transaction, are_ours=bool(ours))
    found: list[Observation] = []
    step = ""
    for done in transaction.done:
        if isinstance(done, Memo):
            step = _step_of(done.text, ours)
        mint = effects.get(id(done))
        if mint is None or (isinstance(done, FreezeChanged | PauseChanged) and id(done) not in lasting):
            continue
        for one in _observations(chain, mint, transaction, done):
            one.token = tokens[mint]
            one.transaction = transaction.signature
            one.number = transaction.slot
            one.instruction = step
            if not _joined(found, one):
                found.append(one)
    for place, one in enumerate(found):
        one.index = first_index + place
    return found


def _step_of(memo: str, ours: Sequence[str]) -> str:
    """Return the instruction that a memo announces: "stockledger:<ledger>/<instruction>", and its legal ground behind a space."""
    instruction = memo.partition(" ")[0].rpartition("/")[2]
    return instruction if memo.startswith(MEMO_PREFIX) and instruction in ours else ""


def _joined(found: list[Observation], one: Observation) -> bool:
    """Add a movement to the one before it where one instruction took units from several accounts of an owner."""
    if not found or not one.instruction or not one.raw:
        return False
    last = found[-1]
    if (last.instruction, last.kind, last.source, last.destination) != (one.instruction, one.kind, one.source, one.destination):
        return False
    last.raw = str(int(last.raw) + int(one.raw))
    return True


def _lasting_changes(transaction: LandedTransaction, *, are_ours: bool) -> set[int]:
    """Return the ids of freezes and pauses that last: thaw, transfer, freeze leaves an account as it was, and is no change.

    A thaw fails on an account that is not frozen. A resume does not fail on a mint that is not paused, so that in a transaction of others
    every pause counts; ours resumes what it pauses again only where it is paused, and nothing else of ours changes that meanwhile.
    """
    changes: dict[Pubkey, list[tuple[int, bool]]] = {}
    lasting = set()
    for done in transaction.done:
        if isinstance(done, FreezeChanged):
            changes.setdefault(done.account, []).append((id(done), done.is_frozen))
        elif isinstance(done, PauseChanged) and are_ours:
            changes.setdefault(done.mint, []).append((id(done), done.is_paused))
        elif isinstance(done, PauseChanged):
            lasting.add(id(done))
    return lasting | {several[-1][0] for several in changes.values() if several[0][1] == several[-1][1]}


def _observations(chain: str, mint: Pubkey, transaction: LandedTransaction, done: Done) -> Iterator[Observation]:
    owners = {change.account: change.owner_after or change.owner_before for change in transaction.balances}

    def at(account: Pubkey) -> str:
        return f"{chain}:{owners[account]}"

    match done:
        case Minted(account=account, units=units) if units:
            yield Observation(kind=ObservationKind.OBSERVATION_KIND_MINT, destination=at(account), raw=str(units))
        case Burned(account=account, units=units) if units:
            yield Observation(kind=ObservationKind.OBSERVATION_KIND_BURN, source=at(account), raw=str(units))
        case Transferred(source=source, destination=destination, units=units) if units and owners[source] != owners[destination]:
            yield Observation(
                kind=ObservationKind.OBSERVATION_KIND_TRANSFER, source=at(source), destination=at(destination), raw=str(units)
            )
        case FreezeChanged(account=account, is_frozen=is_frozen):
            owner = owners[account]
            if owner is not None and account == associated_account(owner, mint):
                value = "true" if is_frozen else "false"
                yield Observation(kind=ObservationKind.OBSERVATION_KIND_FREEZE, source=at(account), value=value)
        case PauseChanged(is_paused=is_paused):
            operations = _ALL_OPERATIONS if is_paused else ()
            yield Observation(kind=ObservationKind.OBSERVATION_KIND_PAUSE, operations=operations)
        case MultiplierSet(bits=bits, effective_time=effective_time):
            yield Observation(
                kind=ObservationKind.OBSERVATION_KIND_MULTIPLIER,
                value=str(multiplier_floor(bits)),
                effective_time=Timestamp(seconds=max(effective_time, transaction.block_time or 0)),
                encoding=bits.to_bytes(8, "little"),
            )
        case AuthoritySet(target=target, kind=kind, successor=successor) if target == mint:
            subject = AuthorityKind(kind).name.lower() if kind in set(AuthorityKind) else f"authority {kind}"
            value = "" if successor is None else str(successor)
            yield Observation(kind=ObservationKind.OBSERVATION_KIND_AUTHORITY, subject=subject, value=value)
        case HookSet(program=program, authority=Pubkey()):
            value = "" if program is None else str(program)
            yield Observation(kind=ObservationKind.OBSERVATION_KIND_AUTHORITY, subject="transfer_hook_program", value=value)
        case DefaultStateSet(state=state, authority=Pubkey()):
            value = state.name.lower()
            yield Observation(kind=ObservationKind.OBSERVATION_KIND_AUTHORITY, subject="default_account_state", value=value)
        case _:
            pass  # an account made or closed, a power over one account: nothing of it concerns units
