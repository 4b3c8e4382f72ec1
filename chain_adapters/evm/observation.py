"""From a token's final logs to observations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from eth_utils.abi import function_signature_to_4byte_selector
from eth_utils.address import to_checksum_address
from google.protobuf.timestamp_pb2 import Timestamp

from chain_adapters.evm import roles, token_events
from chain_adapters.evm.codec import NotDecodable, decode_call, decode_event
from chain_adapters.evm.instruction_ids import read_instruction_id
from chain_adapters.evm.node import RawLog
from chain_adapters.evm.steps import PAUSES
from chain_adapters.evm.token_calls import TOKEN
from chain_adapters.evm.token_events import Fact, InstructionDone, Moved
from chain_adapters.evm.transactions import read_payload
from stockledger.v1.chains_pb2 import Observation, ObservationKind, Transaction

_BEACON: Final = "TokenBeacon"
_DENY_LIST: Final = "DenyList"
_FREEZE_ACCOUNT: Final = bytes(function_signature_to_4byte_selector("freezeAccount(bytes32,address,bool,bytes)"))
_K = ObservationKind
_OF_OTHERS: Final = frozenset(
    {_K.OBSERVATION_KIND_TRANSFER, _K.OBSERVATION_KIND_MINT, _K.OBSERVATION_KIND_BURN, _K.OBSERVATION_KIND_MULTIPLIER}
)
"""What is told of somebody else's token: what may be ours, and what a unit of it stands for by ERC-8056."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A token that is read: its id, whether it is ours, and its beacon, by which its code may change."""

    token: str
    native: bool
    beacon: str = ""


def observe(
    chain: str, ledger: str, watched: Mapping[str, Watched], logs: Sequence[RawLog], ours: Transaction | None
) -> Iterator[Observation]:
    """Yield what the logs of one transaction say, in order, without numbers and index.

    Args:
        chain: CAIP-2 id.
        ledger: The ledger's id.
        watched: Tokens by address, in lower case.
        logs: Of these tokens, their beacons and the deny lists they ask, all of one transaction.
        ours: The recorded version that the transaction is.

    Raises: NotDecodable for a log of a native token that is not what its topic says.
    """
    tokens = [watched.get(log.address.lower()) for log in logs]
    facts = [None if one is None else _fact(one, log) for one, log in zip(tokens, logs, strict=True)]
    told = [(log, fact) for log, fact in zip(logs, facts, strict=True) if fact is not None]
    groups = _instructions(ledger, watched, told, ours)
    for one, log, fact in zip(tokens, logs, facts, strict=True):
        if one is None:
            is_beacon = log.address.lower() in {each.beacon.lower() for each in watched.values()}
            yield from _code_changes(watched, log) if is_beacon else _list_changes(chain, log)
            continue
        if fact is None:
            continue
        instruction, operation = groups.get((log.block, log.index), ("", b""))
        for seen in _seen(chain, fact, operation):
            if not one.native and seen.kind not in _OF_OTHERS:
                continue
            seen.token = one.token
            seen.transaction = log.transaction
            seen.number = log.block
            seen.instruction = instruction
            yield seen


def _fact(watched: Watched, log: RawLog) -> Fact | None:
    """Read a log; of a token that is not ours, what has another form than our own says nothing."""
    try:
        return token_events.read_fact(log.topics, log.data)
    except NotDecodable:
        if watched.native:
            raise
        return None


def _instructions(
    ledger: str, watched: Mapping[str, Watched], told: Sequence[tuple[RawLog, Fact]], ours: Transaction | None
) -> dict[tuple[int, int], tuple[str, bytes]]:
    """Return, by place of a log, the instruction that it is the effect of and the operation that did it."""
    found: dict[tuple[int, int], tuple[str, bytes]] = {}
    for address, one in watched.items():
        facts = [(log, fact) for log, fact in told if log.address.lower() == address]
        place = 0
        for done, effects in token_events.effects_by_instruction(fact for _, fact in facts):
            place += done is not None
            members = facts[place : place + len(effects)]
            place += len(effects)
            if done is not None:
                found |= _effect(ledger, ours, done, members)
        if ours is not None and not one.native:
            found |= _sent(ours, address, facts)
    return found


def _effect(
    ledger: str, ours: Transaction | None, done: InstructionDone, members: Sequence[tuple[RawLog, Fact]]
) -> dict[tuple[int, int], tuple[str, bytes]]:
    """Name the one effect of an instruction: its movement, or where it moves nothing, what it set."""
    name = read_instruction_id(ledger, done.instruction)
    mine = ours is not None and name in ours.instructions
    moved = [log for log, fact in members if isinstance(fact, Moved)]
    effect = moved[:1] or [log for log, _ in members[:1]]
    named = {(log.block, log.index) for log in effect} if mine else set()
    return {(log.block, log.index): (name if (log.block, log.index) in named else "", done.operation) for log, _ in members}


def _sent(ours: Transaction, token: str, facts: Sequence[tuple[RawLog, Fact]]) -> dict[tuple[int, int], tuple[str, bytes]]:
    """Recognise our own transfer of somebody else's token: what the payload asks for, from the key that signed it."""
    content = read_payload(ours.payload)
    if content.target.lower() != token or len(ours.instructions) != 1:
        return {}
    try:
        signature, (destination, raw) = decode_call(TOKEN, content.data)
    except (NotDecodable, ValueError):
        return {}
    sender = ours.key.rpartition(":")[2]
    if signature != "transfer(address,uint256)":
        return {}
    for log, fact in facts:
        if fact == Moved(sender, destination, raw):
            return {(log.block, log.index): (ours.instructions[0], b"")}
    return {}


def _seen(chain: str, fact: Fact, operation: bytes) -> Iterator[Observation]:
    def at(address: str) -> str:
        return f"{chain}:{address}"

    match fact:
        case Moved(source="", destination="") | Moved(units=0):
            pass
        case Moved(source="", destination=destination, units=units):
            yield Observation(kind=_K.OBSERVATION_KIND_MINT, destination=at(destination), raw=str(units))
        case Moved(source=source, destination="", units=units):
            yield Observation(kind=_K.OBSERVATION_KIND_BURN, source=at(source), raw=str(units))
        case Moved(source=source, destination=destination, units=units):
            if source != destination:
                yield Observation(kind=_K.OBSERVATION_KIND_TRANSFER, source=at(source), destination=at(destination), raw=str(units))
        case token_events.FreezeSet(account=account, whole=whole, units=units):
            # The event tells both ways at once; the operation tells which of them was set, and nobody tells of ERC-7943's own.
            if operation in (b"", _FREEZE_ACCOUNT):
                yield Observation(kind=_K.OBSERVATION_KIND_FREEZE, source=at(account), value="true" if whole else "false")
            if operation != _FREEZE_ACCOUNT:
                yield Observation(kind=_K.OBSERVATION_KIND_FREEZE_UNITS, source=at(account), raw=str(units))
        case token_events.PausesSet(paused=paused):
            operations = [ledgers for ledgers, bit in PAUSES.items() if bit in paused]
            yield Observation(kind=_K.OBSERVATION_KIND_PAUSE, operations=operations)
        case token_events.MultiplierSet(new=new, effective_time_seconds=seconds):
            time = Timestamp(seconds=seconds)
            encoding = new.to_bytes(32)
            yield Observation(kind=_K.OBSERVATION_KIND_MULTIPLIER, value=str(new), effective_time=time, encoding=encoding)
        case token_events.AllotmentSet(units=units):
            yield Observation(kind=_K.OBSERVATION_KIND_ALLOTMENT, raw=str(units))
        case token_events.RoleSet(role=role, account=account, granted=granted):
            subject = roles.NAMES.get(role, role.hex())
            yield Observation(kind=_K.OBSERVATION_KIND_AUTHORITY, subject=subject, source=at(account), value=account if granted else "")
        case _:
            pass  # an instruction's announcement, a cancellation, a reason: the facts beside them say what happened


def _code_changes(watched: Mapping[str, Watched], log: RawLog) -> Iterator[Observation]:
    """Tell each token of a beacon that its code, or who may change it, is another."""
    event = decode_event(_BEACON, log.topics, log.data)
    if event is None or event.name == "OwnershipTransferStarted":
        return
    subject, value = ("code", "implementation") if event.name == "Upgraded" else ("upgrader", "newOwner")
    address = event.fields[value]
    for one in watched.values():
        if one.beacon.lower() == log.address.lower():
            yield Observation(
                kind=_K.OBSERVATION_KIND_AUTHORITY,
                token=one.token,
                transaction=log.transaction,
                number=log.block,
                subject=subject,
                value="" if address == token_events.ZERO_ADDRESS else address,
            )


def _list_changes(chain: str, log: RawLog) -> Iterator[Observation]:
    """Tell whom a deny list bars, and who may change it; of no token, since all tokens of an issuer ask the same."""
    event = decode_event(_DENY_LIST, log.topics, log.data)
    if event is None:
        return
    where = f"deny list {to_checksum_address(log.address)}"
    source = f"{chain}:{event.fields.get('account', '')}"
    if event.name == "DenialSet":
        value = "true" if event.fields["denied"] else "false"
        seen = Observation(kind=_K.OBSERVATION_KIND_BAR, source=source, subject=where, value=value)
    elif event.name in ("RoleGranted", "RoleRevoked"):
        role, account = event.fields["role"], event.fields["account"]
        subject = f"{roles.NAMES.get(role, role.hex())} of {where}"
        value = account if event.name == "RoleGranted" else ""
        seen = Observation(kind=_K.OBSERVATION_KIND_AUTHORITY, source=source, subject=subject, value=value)
    else:
        return  # the reason before, a cancellation, a handover that has not come about: nothing is set by them
    seen.transaction, seen.number = log.transaction, log.block
    yield seen
