"""Anchors: signed checkpoints of this log that a chain is to keep.

command            event
AnchorCheckpoint   AnchorRequested; ANCHOR_CHECKPOINT follows
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ledger.caip import check_chain
from ledger.errors import refusal
from ledger.rules.chains.registration import find_chain
from ledger.rules.checks import check_text
from stockledger.v1.chains_pb2 import AnchorCheckpointRequest, AnchorCheckpointResponse, AnchorRequested, ChainCapability
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from ledger.rules.context import Context, Decided
    from ledger.state import State

CHECKPOINT_LENGTH_MAX: Final = 8_192
_SIZE_DIGITS_MAX: Final = 19


def checkpoint_size(state: State, text: str) -> int:
    """Return the size that a checkpoint of this log is of. Its signatures are for those to check who read it there.

    Source: C2SP tlog-checkpoint: origin, size in decimal, root in base64, then an empty line and the signatures.
    """
    lines = text.split("\n")
    well_formed = len(lines) >= 5 and lines[0] == state.origin and "" in lines[3:-1] and lines[-1] == ""
    size = lines[1] if well_formed else ""
    if not (size.isascii() and size.isdecimal() and len(size) <= _SIZE_DIGITS_MAX and str(int(size)) == size):
        message = f"checkpoint is no signed checkpoint of {state.origin}"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="checkpoint")
    if not 0 < int(size) <= state.size:
        message = f"checkpoint is of {size} entries, this log has {state.size}"
        raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="checkpoint", value=size)
    return int(size)


def decide_anchor(state: State, command: AnchorCheckpointRequest, context: Context) -> list[AnchorRequested]:
    check_chain("chain", command.chain)
    check_text("checkpoint", command.checkpoint, CHECKPOINT_LENGTH_MAX)
    size = checkpoint_size(state, command.checkpoint)
    chain = find_chain(state, command.chain)
    needed = ChainCapability.CHAIN_CAPABILITY_ANCHOR
    if not any(each.chain == chain.chain and not each.retired and needed in each.capabilities for each in state.deployments.values()):
        name = ChainCapability.Name(needed)
        message = f"no deployment on {chain.chain} has {name}"
        raise refusal(Reason.REASON_CHAIN_INCAPABLE, message, chain=chain.chain, instrument="", needed=name)
    newest = state.anchored.get(chain.chain, 0)
    if size <= newest:
        message = f"a checkpoint of {newest} entries is on its way to {chain.chain}, or there; this one is of {size}"
        raise refusal(Reason.REASON_NOTHING_TO_CHANGE, message, chain=chain.chain, size=size, newest=newest)
    return [AnchorRequested(chain=chain.chain, checkpoint=command.checkpoint)]


def evolve_anchored(state: State, event: AnchorRequested, decided: Decided) -> None:
    state.put(state.anchored, event.chain, int(event.checkpoint.split("\n")[1]))


COMMANDS: dict[type[Any], tuple[Any, type[Any]]] = {AnchorCheckpointRequest: (decide_anchor, AnchorCheckpointResponse)}
EVENTS: dict[type[Any], Any] = {AnchorRequested: evolve_anchored}
