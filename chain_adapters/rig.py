"""Rig: what the conformance kit needs of a chain beside an adapter: wallets that act, time that passes, forks, and a look of its own.

A rig is one running chain with the ledger's keys on it. It must not use the adapter under test for anything but `connect`, so that what the
adapter says is held against something else. Hooks that a chain cannot do answer False, and the tests that need them are skipped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stockledger.v1.chains_pb2 import ChainCapability

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Mapping

    from chain_adapters.protocol import ChainAdapter
    from stockledger.v1.chains_pb2 import ChainKey, Deployment
    from stockledger.v1.common_pb2 import Operation

EVERY_CAPABILITY = frozenset(ChainCapability.values()) - {
    ChainCapability.CHAIN_CAPABILITY_UNSPECIFIED,
    ChainCapability.CHAIN_CAPABILITY_SEND,
}


@dataclass(frozen=True, slots=True)
class Controls:
    """How a token stands, at the newest block, as the rig reads it itself."""

    frozen: frozenset[str] = frozenset()
    """Accounts, of those asked for, that are wholly frozen."""
    frozen_raw: int = 0
    """Of the first account asked for, raw units."""
    paused: frozenset[Operation.ValueType] = frozenset()
    multiplier: int = 0
    """In force now, at scale 1e18 as near as the chain can say it; 0: the token has none."""
    multiplier_next: int = 0
    allotment: int = 0
    reserve_shares_e8: int = 0
    """The reserve that was told last, shares at scale 1e8; 0 also where none was."""
    anchors: int = 0


class Rig(ABC):
    """One running chain. The kit makes one for each test, or one for many, as the test class's fixture does."""

    chain: str
    """CAIP-2 id."""
    node_url: str
    """Where its node is, for a proxy in between; http."""
    capabilities: Collection[ChainCapability.ValueType] = EVERY_CAPABILITY
    """What its native tokens can do."""
    bad_accounts: Collection[str] = ()
    """Accounts of a wrong form or checksum, and other chains'."""

    # ---- connecting -----------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def connect(self, url: str | None = None, *, ledger: str = "kit") -> ChainAdapter:
        """Return a fresh adapter with the signers of all keys, as after a crash; by another URL, through a proxy."""

    @abstractmethod
    def registered_keys(self) -> list[ChainKey]:
        """Return the ledger's keys: of every role, by different keys where the chain can."""

    # ---- tokens and wallets ---------------------------------------------------------------------------------------------------------

    @abstractmethod
    def make_token(self, instrument: str, decimals: int, capabilities: Collection[ChainCapability.ValueType]) -> Deployment:
        """Put a native token on the chain that can do just this, and return it as it is to be registered.

        Chain, instrument, token, decimals, kind and capabilities are set.
        """

    @abstractmethod
    def make_foreign_token(self, instrument: str, decimals: int) -> Deployment:
        """Put somebody else's token on the chain and return it as it is to be registered, but for its wallets."""

    @abstractmethod
    def make_wallet(self) -> str:
        """Return the account (CAIP-10) of a new wallet that can pay for what it does.

        Its signer is among those of every later `connect`, since it may become a wallet of the ledger's owner.
        """

    @abstractmethod
    def sign_binding(self, wallet: str, text: str) -> bytes:
        """Return the wallet's signature over the text that binds it to a holder."""

    # ---- what others do: sent and in a block, not final -----------------------------------------------------------------------------

    @abstractmethod
    def transfer(self, token: str, source: str, destination: str, raw: int) -> None:
        """Let a wallet send some of its token."""

    @abstractmethod
    def burn(self, token: str, source: str, raw: int) -> bool:
        """Let a wallet, or somebody with a stolen key, destroy some of a token; False where nobody can."""

    @abstractmethod
    def mint_behind(self, token: str, destination: str, raw: int) -> None:
        """Mint with a stolen key, past the ledger."""

    @abstractmethod
    def bar(self, token: str, account: str) -> bool:
        """Let a token refuse an account for ever (a deny list); False where it cannot."""

    @abstractmethod
    def set_multiplier(self, token: str, multiplier: int, effective_time_us: int) -> bool:
        """Let a multiplier, at scale 1e18, be set from a whole second on: with a stolen key, or of somebody else's token by its issuer.

        False where a token has none that can be set.
        """

    @abstractmethod
    def use_up_sequence(self, key: str) -> bool:
        """Let somebody else with the ledger's key use up its next sequence; False where that cannot be."""

    # ---- time and forks -------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def finalise(self) -> None:
        """Let time pass until all that was sent is final, or cannot get into a block."""

    @abstractmethod
    def pass_time(self, until_us: int) -> bool:
        """Let the chain's own time come to a moment that is ahead, a whole second, if it is; False where nobody can move it."""

    @abstractmethod
    def reorganise(self) -> bool:
        """Take what is not final out of its blocks, and leave it to wait or be lost; False where that cannot be."""

    @abstractmethod
    def reorganise_final(self) -> bool:
        """Replace what was final, down to where the last range ended; False where that cannot be."""

    @abstractmethod
    def raise_fees(self) -> bool:
        """Let fees rise so far that what was made before will not land; False where that cannot be."""

    # ---- a look of its own, at the newest block -------------------------------------------------------------------------------------

    @abstractmethod
    def supply(self, token: str) -> int:
        """Return the raw units that exist."""

    @abstractmethod
    def holding(self, token: str, account: str) -> int:
        """Return the raw units an account holds."""

    @abstractmethod
    def controls(self, token: str, accounts: Collection[str] = ()) -> Controls:
        """Return how the token stands."""


class WorkedRig(Rig):
    """A rig on which `stockledger work` can be let loose as a process of its own, and killed."""

    @abstractmethod
    def key_texts(self) -> Collection[str]:
        """Return the secrets of the ledger's keys, as files that `chain_keys` names have them."""

    @abstractmethod
    def options(self) -> Mapping[str, str]:
        """Return what `chain_options` must say of the chain, once its tokens are made."""

    @abstractmethod
    def tick(self, chance: random.Random) -> None:
        """Let the chain go on by a block or so, and now and then fork short of finality."""
