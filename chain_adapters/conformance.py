"""The conformance kit: any adapter, ours or a third party's, proves itself with five lines.

    class TestMyChain(ChainConformance):
        @pytest.fixture
        def rig(self) -> Iterator[Rig]:
            with MyRig() as rig:
                yield rig

Each test runs a real ledger in memory, the chain behind the rig, and projector, reader and reconciler between them, made anew for every
step as after a crash. What the ledger says in the end is held against what the rig sees on chain by itself. What a chain cannot do by its
rig's own account is tested as a refusal, and hooks that answer False skip their test.

    class                what it proves
    ChainConformance     all of the below, each a file of conformance_parts/
    Verbs                the Protocol, verb by verb
    Instructions         every kind of instruction, and what the chain or the ledger refuses
    Times                what takes effect by the chain's clock
    Others               what others do comes into the books, and differences are found
    Crashes              any step may be the last of a process, any answer lost, late, twice or garbage
"""

from __future__ import annotations

from chain_adapters.conformance_parts.crashes import Crashes
from chain_adapters.conformance_parts.instructions import Instructions
from chain_adapters.conformance_parts.others import Others
from chain_adapters.conformance_parts.times import Times
from chain_adapters.conformance_parts.verbs import Verbs


class ChainConformance(Verbs, Instructions, Times, Others, Crashes):
    """Subclass it, and give it a fixture `rig`."""
