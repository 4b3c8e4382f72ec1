"""How an issuer's tokens come to a chain: what an operator has made there once, before the ledger projects anything to it.

A setup is a list of parts, each at an address that follows from the keys and terms alone. So making it again makes only what is missing:
one that broke off is taken up where it stopped, and nothing is ever made twice. Like an adapter, a setup keeps nothing.

    verb      does
    needed    tell which parties the terms ask for, and what each may sign for in the ledger
    plan      list the parts in order, with what stands already and what the rest costs at most
    make      send what is missing, and tell of each part as it lands
    is_final  tell whether all of it is beyond any reorganisation: only then may the ledger's reader begin
    options   name what stands to the adapter, as the worker's settings do
    tokens    name the tokens as the ledger registers them
    count     how many transactions of a key the chain has finally seen
    coins     what a key has to pay with
    faults    hold tokens and keys as registered against what stands
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Final, Protocol

from chain_adapters.protocol import ChainSettings, load_for_chain
from stockledger.v1.chains_pb2 import ChainKey, ChainKeyRole, ChainPosition, Deployment

ENTRY_POINTS: Final = "stockledger.chain_setups"
"""The group of entry points in which setups are found, each by the CAIP-2 namespace that it serves."""
LANDING_SECONDS_MAX: Final = 600
"""For how long a transaction is waited for; after that the operator begins again, which costs nothing that was paid already."""


@dataclass(frozen=True, slots=True)
class TokenTerms:
    """What a token is from the start. The multiplier is at scale 1e18."""

    instrument: str
    name: str
    decimals: int
    multiplier: int
    uri: str = ""
    """Where wallets find its description, on chains whose tokens say so."""
    reserve_feed: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """All that is to stand on one chain. Parties are accounts, CAIP-10, by the names that `needed` tells."""

    parties: Mapping[str, str]
    tokens: tuple[TokenTerms, ...]
    origin: str = ""
    """The log whose checkpoints are to be kept there; empty: none."""


@dataclass(frozen=True, slots=True)
class Part:
    """Something at an address of its own. Costs are in the chain's smallest coin."""

    name: str
    """For people. Example: "StockToken of AAPLx"."""
    address: str
    stands: bool
    cost: int = 0
    """What making it costs at most, from `plan`; what it has cost, from `make`."""
    transaction: str = ""
    """What made it, from `make`."""


@dataclass(frozen=True, slots=True)
class Coin:
    """What fees are paid in. Example: Coin("ETH", 18)."""

    name: str
    decimals: int


class ChainSetup(Protocol):
    """Sets one chain up. Every verb may raise ChainError."""

    coin: Coin

    def needed(self, terms: Terms) -> Mapping[str, tuple[ChainKeyRole.ValueType, ...]]:
        """Return the parties that terms must name, and the roles that each is to have in the ledger; none for one that only acts there."""
        ...

    def plan(self, terms: Terms) -> list[Part]:
        """Return all parts in the order in which they are made.

        Raises: DeploymentUnfit where something else stands at an address; ValueError for terms that cannot be.
        """
        ...

    def make(self, terms: Terms) -> Iterator[Part]:
        """Make what is missing, and yield each part when it has landed.

        Raises: FundsInsufficient before anything is sent; KeyMissing without the key that pays; DeploymentUnfit where a transaction fails.
        """
        ...

    def is_final(self, terms: Terms) -> bool:
        """Tell whether every part stands at a final position."""
        ...

    def options(self, terms: Terms) -> Mapping[str, str]:
        """Return what the adapter is to be connected with beside the settings: addresses of what stands beside the tokens."""
        ...

    def tokens(self, terms: Terms) -> list[Deployment]:
        """Return the tokens as native deployments, in the order of the terms, without capabilities and allotment."""
        ...

    def count(self, key: str, at: ChainPosition) -> int:
        """Return how many numbers of a counted key are used up at a position; 0 on a chain that does not count."""
        ...

    def coins(self, key: str) -> int:
        """Return what an account has of the chain's smallest coin."""
        ...

    def faults(self, deployments: Sequence[Deployment], keys: Sequence[ChainKey]) -> list[str]:
        """Return in sentences what keys cannot do on chain that they are registered for; the adapter inspects the tokens themselves."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


OpenSetup = Callable[[ChainSettings], ChainSetup]
"""What an entry point gives. Raises: ValueError for settings that cannot be."""


def find_setup(chain: str, installed: Collection[EntryPoint] | None = None) -> OpenSetup:
    """Return what sets a chain up, by the namespace of its CAIP-2 id.

    Raises: AdapterMissing; ledger.errors.InvalidRequest for no CAIP-2 id.
    """
    found: OpenSetup = load_for_chain(ENTRY_POINTS, chain, "setup", installed)
    return found
