"""A mint set up as xStocks' mints are: the same extensions in the same order, and its powers with keys that can be four people's.

Source: AAPLx, XsbEhLAtcf6HdfpFZ5xEMdqW8nfAvcsP5bdudRLJzJp: 8 decimals, 678 bytes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

from solders.instruction import Instruction
from solders.pubkey import Pubkey

from chain_adapters.spl import token_2022
from chain_adapters.spl.account_layout import EXTENSIONS_START, Extension
from chain_adapters.spl.addresses import TOKEN_2022_PROGRAM
from chain_adapters.spl.multiplier import SCALE, encode_multiplier
from chain_adapters.spl.programs import create_account, create_derived_account

EXTENSIONS: Final = (
    Extension.METADATA_POINTER,
    Extension.PERMANENT_DELEGATE,
    Extension.DEFAULT_ACCOUNT_STATE,
    Extension.SCALED_UI_AMOUNT,
    Extension.PAUSABLE,
    Extension.CONFIDENTIAL_TRANSFER_MINT,
    Extension.TRANSFER_HOOK,
    Extension.TOKEN_METADATA,
)
MINT_SEED: Final = "mint-"
_SEED_BYTES_MAX: Final = 32
_FIXED_BYTES: Final = 4 * 7 + 64 + 32 + 1 + 56 + 33 + 65 + 64
_EMPTY_METADATA_BYTES: Final = 4 + 32 + 32 + 4 * 4


@dataclass(frozen=True, slots=True)
class Authorities:
    """Who may do what to a mint."""

    mint: Pubkey
    freeze: Pubkey
    """May freeze, thaw and set the state that accounts begin in."""
    pause: Pubkey
    permanent_delegate: Pubkey
    """May transfer and burn from every account, and write the metadata."""
    metadata: Pubkey
    confidential_transfer: Pubkey
    transfer_hook: Pubkey
    multiplier: Pubkey

    @classmethod
    def of_four(cls, *, mint: Pubkey, freeze_and_pause: Pubkey, permanent_delegate: Pubkey, multiplier: Pubkey) -> Authorities:
        """Share the powers out as xStocks do: mint; freeze and pause; delegate, metadata, confidential transfer and hook; multiplier."""
        return cls(
            mint,
            freeze_and_pause,
            freeze_and_pause,
            permanent_delegate,
            permanent_delegate,
            permanent_delegate,
            permanent_delegate,
            multiplier,
        )


@dataclass(frozen=True, slots=True)
class MintSetup:
    """What a mint is to be. `multiplier` is at scale 1e18."""

    mint: Pubkey
    authorities: Authorities
    name: str
    symbol: str
    uri: str
    decimals: int = 8
    multiplier: int = SCALE
    default_account_state: token_2022.AccountState = token_2022.AccountState.INITIALIZED


def space_without_metadata() -> int:
    """Return the bytes to make the account with; the program adds those of the metadata itself."""
    return EXTENSIONS_START + _FIXED_BYTES


def space(setup: MintSetup) -> int:
    """Return the bytes of the finished mint, which its lamports must be enough for. Example: 678 for AAPLx."""
    texts = sum(len(text.encode()) for text in (setup.name, setup.symbol, setup.uri))
    return EXTENSIONS_START + _FIXED_BYTES + _EMPTY_METADATA_BYTES + texts


def create_mint(setup: MintSetup, payer: Pubkey, lamports: int) -> list[Instruction]:
    """Return the instructions that make a mint, for one transaction: half a mint is of no use to anybody.

    The payer, the mint's own key and the mint authority sign.

    Args:
        setup: What the mint is to be.
        payer: Pays `lamports`.
        lamports: What the chain asks for an account of `space(setup)` bytes.
    """
    made = create_account(payer, setup.mint, lamports, space_without_metadata(), TOKEN_2022_PROGRAM)
    return [made, *_initialize(setup)]


def derived_mint(payer: Pubkey, symbol: str) -> Pubkey:
    """Return the address of a payer's mint of this symbol: nothing but the payer's key is needed to find it again.

    Raises: ValueError for a symbol of more than 27 characters, which make no seed.
    """
    return Pubkey.create_with_seed(payer, _seed(symbol), TOKEN_2022_PROGRAM)


def create_derived_mint(setup: MintSetup, payer: Pubkey, lamports: int) -> list[Instruction]:
    """Return the instructions that make a mint at its derived address, for one transaction. Only the payer signs.

    The payer is the mint authority for as long as the transaction lasts: the program asks for one that signs where metadata are written,
    and the key of the real one may be anywhere.
    """
    own = dataclasses.replace(setup, authorities=dataclasses.replace(setup.authorities, mint=payer))
    space_now, seed = space_without_metadata(), _seed(setup.symbol)
    made = create_derived_account(payer, setup.mint, lamports, seed=seed, space=space_now, owner=TOKEN_2022_PROGRAM)
    handed_over = token_2022.set_authority(setup.mint, token_2022.AuthorityKind.MINT, payer, setup.authorities.mint)
    return [*made, *_initialize(own), handed_over]


def _seed(symbol: str) -> str:
    seed = f"{MINT_SEED}{symbol}"
    if len(seed.encode()) > _SEED_BYTES_MAX:
        raise ValueError(
            f"the symbol {symbol} is too long: a mint's address is derived from {_SEED_BYTES_MAX - len(MINT_SEED)} bytes of it"
        )
    return seed


def _initialize(setup: MintSetup) -> list[Instruction]:
    mint, powers = setup.mint, setup.authorities
    return [
        token_2022.initialize_metadata_pointer(mint, powers.metadata, mint),
        token_2022.initialize_permanent_delegate(mint, powers.permanent_delegate),
        token_2022.initialize_default_account_state(mint, setup.default_account_state),
        token_2022.initialize_scaled_ui_amount(mint, powers.multiplier, encode_multiplier(setup.multiplier)),
        token_2022.initialize_pausable(mint, powers.pause),
        token_2022.initialize_confidential_transfer(mint, powers.confidential_transfer, approves_new_accounts=False),
        token_2022.initialize_transfer_hook(mint, powers.transfer_hook, None),
        token_2022.initialize_mint(mint, setup.decimals, powers.mint, powers.freeze),
        token_2022.initialize_metadata(mint, powers.metadata, powers.mint, name=setup.name, symbol=setup.symbol, uri=setup.uri),
    ]
