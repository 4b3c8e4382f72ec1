"""How a token of ours stands at a block, and what observations make of that: a node that leaves whole transactions out is found by it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from chain_adapters.evm import steps
from chain_adapters.evm.chain_view import ChainView
from chain_adapters.evm.codec import decode_answer, encode_call
from chain_adapters.evm.node import NodeNonsense
from chain_adapters.evm.token_calls import TOKEN
from stockledger.v1.chains_pb2 import Observation, ObservationKind

_FIGURES: Final = ("totalSupply()", "pauses()", "allotment()")


class Stand(NamedTuple):
    """How a token stands at a block."""

    supply: int
    pauses: int
    allotment: int

    def changed_by(self, observations: Iterable[Observation]) -> Stand:
        """Return how it stands after what was seen."""
        stand, kinds = self, ObservationKind
        for one in observations:
            raw = int(one.raw or "0")
            if one.kind == kinds.OBSERVATION_KIND_MINT:
                stand = stand._replace(supply=stand.supply + raw)
            elif one.kind == kinds.OBSERVATION_KIND_BURN:
                stand = stand._replace(supply=stand.supply - raw)
            elif one.kind == kinds.OBSERVATION_KIND_PAUSE:
                stand = stand._replace(pauses=sum(steps.PAUSES[operation] for operation in one.operations))
            elif one.kind == kinds.OBSERVATION_KIND_ALLOTMENT:
                stand = stand._replace(allotment=raw)
        return stand


def stand_at(view: ChainView, token: str, number: int) -> Stand:
    """Ask a token of ours how it stands at a block, at once.

    Raises: NodeRefused, NotDecodable where there is no state, or no token of ours; NodeNonsense.
    """
    answers = view.ask(TOKEN, token, "multicall(bytes[])", [encode_call(TOKEN, signature) for signature in _FIGURES], at=number)
    if len(answers) != len(_FIGURES):
        raise NodeNonsense(f"asked for {len(_FIGURES)} figures of {token}, told {len(answers)}")
    return Stand(*(int(decode_answer(TOKEN, signature, answer)) for signature, answer in zip(_FIGURES, answers, strict=True)))
