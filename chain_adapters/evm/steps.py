"""One instruction of the ledger as a call of a contract: where to, what, and whether the chain is there already."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from chain_adapters.evm import roles, token_calls
from chain_adapters.evm.chain_view import ChainView
from chain_adapters.evm.codec import decode_refusal, encode_call
from chain_adapters.evm.instruction_ids import instruction_id
from chain_adapters.evm.node import NodeRefused
from chain_adapters.evm.token_calls import TOKEN, Line, Pause
from stockledger.v1.chains_pb2 import Instruction, InstructionKind
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.reserves_pb2 import Reserve

_K = InstructionKind
FEED: Final = "ReserveFeed"
ANCHOR: Final = "CheckpointAnchor"
PAUSES: Final = {
    Operation.OPERATION_TRANSFER: Pause.TRANSFERS,
    Operation.OPERATION_ISSUE: Pause.MINTS,
    Operation.OPERATION_REDEEM: Pause.BURNS,
}
SHARES_DECIMALS: Final = 8
_US: Final = 1_000_000


class NotPossible(Exception):
    """The chain, as it is set up, cannot do what an instruction asks."""


@dataclass(frozen=True, slots=True)
class Step:
    """A call that carries out one instruction. `made` is the line of a mint, which others may join in one batch, or else the call."""

    instruction: Instruction
    contract: str
    target: str
    made: bytes | Line

    @property
    def line(self) -> Line | None:
        """The line of a mint."""
        return self.made if isinstance(self.made, Line) else None

    @property
    def data(self) -> bytes:
        """The call that does this alone."""
        return token_calls.mint([self.made]).data if isinstance(self.made, Line) else self.made

    @property
    def alone(self) -> bool:
        """Tell whether no other instruction may share its transaction: only the token takes several calls at once, and not SEND."""
        return self.contract != TOKEN or self.instruction.kind == _K.INSTRUCTION_KIND_SEND


@dataclass(frozen=True, slots=True)
class Places:
    """Where the contracts beside the tokens are; empty: there is none."""

    ledger: str
    anchor: str
    feeds: dict[str, str]


def address_of(account: str) -> str:
    """Return the address of an account (CAIP-10) or token (CAIP-19)."""
    return account.rpartition(":")[2]


def reached(view: ChainView, instruction: Instruction, places: Places, at: int) -> bool:
    """Tell whether the chain was, at a block, as a target wants it."""
    kind = instruction.kind
    token = address_of(instruction.token)

    def ask(signature: str, *arguments: object) -> int:
        return int(view.ask(TOKEN, token, signature, *arguments, at=at))

    if kind in (_K.INSTRUCTION_KIND_FREEZE, _K.INSTRUCTION_KIND_FREEZE_UNITS):
        whole, units = view.ask(TOKEN, token, "freezeOf(address)", address_of(instruction.source), at=at)
        if kind == _K.INSTRUCTION_KIND_FREEZE:
            return bool(whole == instruction.frozen)
        return bool(units == raw_of(instruction))
    if kind == _K.INSTRUCTION_KIND_PAUSE:
        return ask("pauses()") == pauses_of(instruction)
    if kind == _K.INSTRUCTION_KIND_SET_ALLOTMENT:
        return ask("allotment()") == raw_of(instruction)
    if kind == _K.INSTRUCTION_KIND_SET_MULTIPLIER:
        if ask("newUIMultiplier()") != int(instruction.multiplier):
            return False
        effective, wanted = ask("effectiveAt()"), seconds_of(instruction)
        now = view.position(at).time.ToSeconds()
        return effective == wanted or (effective <= now and wanted <= now)
    if kind == _K.INSTRUCTION_KIND_REPORT_RESERVE:
        feed = places.feeds.get(instruction.instrument, "")
        return bool(feed) and _newest_evidence(view, feed, at) == hashlib.sha256(instruction.note).digest()
    return False


def _newest_evidence(view: ChainView, feed: str, at: int) -> bytes:
    """Return the digest of what a feed told last; empty where it has told nothing yet."""
    try:
        round_id = view.ask(FEED, feed, "latestRoundData()", at=at)[0]
        return bytes(view.ask(FEED, feed, "evidenceOf(uint80)", round_id, at=at))
    except NodeRefused as refused:
        if decode_refusal(FEED, refused.data).name == "RoundMissing":
            return b""
        raise


def step_of(view: ChainView, instruction: Instruction, places: Places, key: str) -> Step:
    """Return the call that carries out an instruction under a key.

    Raises: NotPossible; NodeError, NotDecodable for what has to be read first.
    """
    maker = _MAKERS.get(instruction.kind)
    if maker is not None:
        identity = instruction_id(places.ledger, instruction.instruction)
        reason = (instruction.legal_reference or f"{places.ledger}/{instruction.instruction}").encode()
        return Step(instruction, TOKEN, address_of(instruction.token), maker(view, instruction, identity, reason, key))
    if instruction.kind == _K.INSTRUCTION_KIND_SEND:
        data = encode_call(TOKEN, "transfer(address,uint256)", address_of(instruction.destination), raw_of(instruction))
        return Step(instruction, TOKEN, address_of(instruction.token), data)
    if instruction.kind == _K.INSTRUCTION_KIND_REPORT_RESERVE:
        return _report(view, instruction, places)
    if instruction.kind == _K.INSTRUCTION_KIND_ANCHOR_CHECKPOINT:
        return _anchor(instruction, places)
    raise NotPossible(f"instruction {instruction.instruction} asks for {InstructionKind.Name(instruction.kind)}")


def raw_of(instruction: Instruction) -> int:
    """Return raw units of the token."""
    return int(instruction.raw) if instruction.raw else instruction.units


def pauses_of(instruction: Instruction) -> Pause:
    """Return what is to be paused."""
    wanted = Pause(0)
    for operation in instruction.operations:
        wanted |= PAUSES[operation]
    return wanted


def seconds_of(instruction: Instruction) -> int:
    """Return from when a multiplier is to count, not before its moment."""
    return max(0, -(-instruction.effective_time.ToMicroseconds() // _US))


def _mint(_: ChainView, one: Instruction, identity: bytes, __: bytes, ___: str) -> Line:
    return Line(identity, address_of(one.destination), raw_of(one))


def _burn(view: ChainView, one: Instruction, identity: bytes, reason: bytes, key: str) -> bytes:
    """Burn by force where the key may; otherwise what the holder approved, or the key's own."""
    token, source, units = address_of(one.token), address_of(one.source), raw_of(one)
    if source != key and view.ask(TOKEN, token, "hasRole(bytes32,address)", roles.FORCED_BURNER, key):
        return token_calls.forced_burn(identity, source, units, reason).data
    return token_calls.burn([Line(identity, source, units)]).data


def _force(_: ChainView, one: Instruction, identity: bytes, reason: bytes, __: str) -> bytes:
    return token_calls.forced_transfer(identity, address_of(one.source), address_of(one.destination), raw_of(one), reason).data


def _freeze(_: ChainView, one: Instruction, identity: bytes, reason: bytes, __: str) -> bytes:
    return token_calls.freeze_account(identity, address_of(one.source), one.frozen, reason).data


def _freeze_units(_: ChainView, one: Instruction, identity: bytes, reason: bytes, __: str) -> bytes:
    return token_calls.freeze_units(identity, address_of(one.source), raw_of(one), reason).data


def _pause(_: ChainView, one: Instruction, identity: bytes, reason: bytes, __: str) -> bytes:
    return token_calls.set_pauses(identity, pauses_of(one), reason).data


def _multiplier(view: ChainView, one: Instruction, identity: bytes, reason: bytes, _: str) -> bytes:
    """Name the multiplier set last, so that a step of somebody else's in between is not overwritten unseen."""
    expected = int(view.ask(TOKEN, address_of(one.token), "newUIMultiplier()"))
    return token_calls.schedule_multiplier(identity, expected, int(one.multiplier), seconds_of(one), reason).data


def _allotment(_: ChainView, one: Instruction, identity: bytes, __: bytes, ___: str) -> bytes:
    return token_calls.set_allotment(identity, raw_of(one)).data


_MAKERS: Final[dict[int, Callable[[ChainView, Instruction, bytes, bytes, str], bytes | Line]]] = {
    _K.INSTRUCTION_KIND_MINT: _mint,
    _K.INSTRUCTION_KIND_BURN: _burn,
    _K.INSTRUCTION_KIND_FORCE_TRANSFER: _force,
    _K.INSTRUCTION_KIND_FREEZE: _freeze,
    _K.INSTRUCTION_KIND_FREEZE_UNITS: _freeze_units,
    _K.INSTRUCTION_KIND_PAUSE: _pause,
    _K.INSTRUCTION_KIND_SET_MULTIPLIER: _multiplier,
    _K.INSTRUCTION_KIND_SET_ALLOTMENT: _allotment,
}


def _report(view: ChainView, one: Instruction, places: Places) -> Step:
    """Publish the reserve as of its oldest evidence, or of the newest block where custodians' clocks are ahead of the chain's."""
    feed = places.feeds.get(one.instrument, "")
    if not feed:
        raise NotPossible(f"no reserve feed of {one.instrument} is named; set the option reserve_feed:{one.instrument}")
    try:
        reserve = Reserve.FromString(one.note)
    except DecodeError as error:
        raise NotPossible(f"the note of {one.instruction} is no Reserve") from error
    decimals = int(view.ask(FEED, feed, "decimals()"))
    scaled = max(reserve.reserve_shares_e8, 0) * 10**decimals // 10**SHARES_DECIMALS
    as_of = min(reserve.as_of_time.ToSeconds(), view.position(view.newest()).time.ToSeconds())
    identity = instruction_id(places.ledger, one.instruction)
    digest = hashlib.sha256(one.note).digest()
    data = encode_call(FEED, "publish(bytes32,uint128,uint64,bytes32)", identity, scaled, as_of, digest)
    return Step(one, FEED, feed, data)


def _anchor(one: Instruction, places: Places) -> Step:
    if not places.anchor:
        raise NotPossible("no anchor for checkpoints is named; set the option anchor")
    try:
        body, _, signatures = one.note.decode().partition("\n\n")
        _, size, root = body.split("\n")[:3]
        digest = base64.b64decode(root, validate=True)
        data = encode_call(ANCHOR, "anchor(uint64,bytes32,bytes32[],bytes)", int(size), digest, [], signatures.encode())
    except (ValueError, binascii.Error) as error:
        raise NotPossible(f"the note of {one.instruction} is no signed checkpoint") from error
    return Step(one, ANCHOR, places.anchor, data)
