"""Instructions of Token-2022, byte by byte, for mints set up as xStocks' are.

Each function returns one instruction and names the accounts that must sign by their role. Units are raw units, never scaled ones. The
checked forms are used throughout: they repeat the decimals, so that a wrong mint is refused, and a pausable mint refuses the others.

Source: token-2022 interface at 426400f2, `instruction.rs` and `extension/*/instruction.rs`; SPL token metadata interface.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey

from chain_adapters.spl.addresses import TOKEN_2022_PROGRAM

UNITS_MAX: Final = (1 << 64) - 1
NOBODY: Final = bytes(32)
"""How an extension says that it has no authority, program or auditor."""


class Code(enum.IntEnum):
    """First byte of an instruction's data."""

    TRANSFER = 3
    SET_AUTHORITY = 6
    MINT_TO = 7
    BURN = 8
    CLOSE_ACCOUNT = 9
    FREEZE_ACCOUNT = 10
    THAW_ACCOUNT = 11
    TRANSFER_CHECKED = 12
    MINT_TO_CHECKED = 14
    BURN_CHECKED = 15
    INITIALIZE_MINT_2 = 20
    AMOUNT_TO_UI_AMOUNT = 23
    TRANSFER_FEE = 26
    CONFIDENTIAL_TRANSFER = 27
    DEFAULT_ACCOUNT_STATE = 28
    INITIALIZE_PERMANENT_DELEGATE = 35
    TRANSFER_HOOK = 36
    METADATA_POINTER = 39
    SCALED_UI_AMOUNT = 43
    PAUSABLE = 44
    PERMISSIONED_BURN = 46
    BATCH = 255


class AuthorityKind(enum.IntEnum):
    """What SetAuthority hands over."""

    MINT = 0
    FREEZE = 1
    ACCOUNT_OWNER = 2
    CLOSE_ACCOUNT = 3
    CLOSE_MINT = 6
    PERMANENT_DELEGATE = 8
    CONFIDENTIAL_TRANSFER = 9
    TRANSFER_HOOK = 10
    METADATA_POINTER = 12
    SCALED_UI_AMOUNT = 15
    PAUSE = 16
    PERMISSIONED_BURN = 17


class AccountState(enum.IntEnum):
    """State of a token account."""

    UNINITIALIZED = 0
    INITIALIZED = 1
    FROZEN = 2


METADATA_INITIALIZE: Final = bytes.fromhex("d2e11ea258b84d8d")
METADATA_UPDATE_FIELD: Final = bytes.fromhex("dde9312db5cadcc8")
METADATA_REMOVE_KEY: Final = bytes.fromhex("ea122038598d25b5")
METADATA_UPDATE_AUTHORITY: Final = bytes.fromhex("d7e4a6e45464567b")
_METADATA_FIELDS: Final = {"name": 0, "symbol": 1, "uri": 2}
_METADATA_FIELD_KEY: Final = 3


def _writable(address: Pubkey, *, signs: bool = False) -> AccountMeta:
    return AccountMeta(address, is_signer=signs, is_writable=True)


def _readable(address: Pubkey, *, signs: bool = False) -> AccountMeta:
    return AccountMeta(address, is_signer=signs, is_writable=False)


def _instruction(data: bytes, *accounts: AccountMeta) -> Instruction:
    return Instruction(TOKEN_2022_PROGRAM, data, list(accounts))


def _optional(address: Pubkey | None) -> bytes:
    """Write an address or its absence the way extensions do."""
    return NOBODY if address is None else bytes(address)


def _tagged(address: Pubkey | None) -> bytes:
    """Write an address or its absence the way the base instructions do: a byte, then the address if there is one."""
    return b"\x00" if address is None else b"\x01" + bytes(address)


def _units_and_decimals(code: Code, units: int, decimals: int) -> bytes:
    assert 0 < units <= UNITS_MAX, f"{units} units"
    return struct.pack("<BQB", code, units, decimals)


# Setting up a mint: the extensions first, in any order, then the mint itself, then its metadata.


def initialize_metadata_pointer(mint: Pubkey, authority: Pubkey | None, metadata: Pubkey) -> Instruction:
    """Say where the metadata of a new mint stands: at the mint itself, as a rule."""
    return _instruction(bytes([Code.METADATA_POINTER, 0]) + _optional(authority) + bytes(metadata), _writable(mint))


def initialize_permanent_delegate(mint: Pubkey, delegate: Pubkey) -> Instruction:
    """Give one key power to transfer and burn from every account of a new mint."""
    return _instruction(bytes([Code.INITIALIZE_PERMANENT_DELEGATE]) + bytes(delegate), _writable(mint))


def initialize_default_account_state(mint: Pubkey, state: AccountState) -> Instruction:
    """Say in which state accounts of a new mint begin."""
    return _instruction(bytes([Code.DEFAULT_ACCOUNT_STATE, 0, state]), _writable(mint))


def initialize_scaled_ui_amount(mint: Pubkey, authority: Pubkey | None, multiplier_bits: int) -> Instruction:
    """Give a new mint a multiplier, by the bits of a binary64."""
    return _instruction(bytes([Code.SCALED_UI_AMOUNT, 0]) + _optional(authority) + struct.pack("<Q", multiplier_bits), _writable(mint))


def initialize_pausable(mint: Pubkey, authority: Pubkey) -> Instruction:
    """Let one key pause a new mint."""
    return _instruction(bytes([Code.PAUSABLE, 0]) + bytes(authority), _writable(mint))


def initialize_confidential_transfer(mint: Pubkey, authority: Pubkey | None, *, approves_new_accounts: bool) -> Instruction:
    """Prepare a new mint for confidential transfers, without an auditor. While accounts need an approval nobody gives, it is inert."""
    data = bytes([Code.CONFIDENTIAL_TRANSFER, 0]) + _optional(authority) + bytes([approves_new_accounts]) + NOBODY
    return _instruction(data, _writable(mint))


def initialize_transfer_hook(mint: Pubkey, authority: Pubkey | None, program: Pubkey | None) -> Instruction:
    """Reserve the place for a program called on every transfer of a new mint; without a program nothing is called."""
    return _instruction(bytes([Code.TRANSFER_HOOK, 0]) + _optional(authority) + _optional(program), _writable(mint))


def initialize_mint(mint: Pubkey, decimals: int, mint_authority: Pubkey, freeze_authority: Pubkey | None) -> Instruction:
    """Make the account, extensions in place, a mint."""
    data = bytes([Code.INITIALIZE_MINT_2, decimals]) + bytes(mint_authority) + _tagged(freeze_authority)
    return _instruction(data, _writable(mint))


def initialize_metadata(mint: Pubkey, update_authority: Pubkey, mint_authority: Pubkey, *, name: str, symbol: str, uri: str) -> Instruction:
    """Write a mint's name, symbol and address of its description into the mint. The mint authority signs."""
    data = METADATA_INITIALIZE + _text(name) + _text(symbol) + _text(uri)
    return _instruction(data, _writable(mint), _readable(update_authority), _readable(mint), _readable(mint_authority, signs=True))


# Moving units.


def mint_to(mint: Pubkey, account: Pubkey, mint_authority: Pubkey, *, units: int, decimals: int) -> Instruction:
    """Create units in a token account. The mint authority signs. Fails when paused (67) and for a frozen account (17)."""
    data = _units_and_decimals(Code.MINT_TO_CHECKED, units, decimals)
    return _instruction(data, _writable(mint), _writable(account), _readable(mint_authority, signs=True))


def burn(mint: Pubkey, account: Pubkey, authority: Pubkey, *, units: int, decimals: int) -> Instruction:
    """Destroy units of a token account. Its owner or the permanent delegate signs. Fails when paused (67) and for a frozen account (17)."""
    data = _units_and_decimals(Code.BURN_CHECKED, units, decimals)
    return _instruction(data, _writable(account), _writable(mint), _readable(authority, signs=True))


def transfer(mint: Pubkey, source: Pubkey, destination: Pubkey, authority: Pubkey, *, units: int, decimals: int) -> Instruction:
    """Move units between token accounts. The owner of the source or the permanent delegate signs. Fails as `burn` does, for either."""
    data = _units_and_decimals(Code.TRANSFER_CHECKED, units, decimals)
    return _instruction(data, _writable(source), _readable(mint), _writable(destination), _readable(authority, signs=True))


def forced_transfer(
    mint: Pubkey,
    source: Pubkey,
    destination: Pubkey,
    *,
    permanent_delegate: Pubkey,
    freeze_authority: Pubkey,
    units: int,
    decimals: int,
    source_is_frozen: bool,
) -> list[Instruction]:
    """Move units without their owner. From a frozen account: thaw, transfer, freeze, in one transaction or not at all.

    The permanent delegate works on accounts that are not frozen only; between the three no other transaction can get in.
    """
    moved = transfer(mint, source, destination, permanent_delegate, units=units, decimals=decimals)
    if not source_is_frozen:
        return [moved]
    return [thaw(mint, source, freeze_authority), moved, freeze(mint, source, freeze_authority)]


def forced_burn(
    mint: Pubkey,
    account: Pubkey,
    *,
    permanent_delegate: Pubkey,
    freeze_authority: Pubkey,
    units: int,
    decimals: int,
    account_is_frozen: bool,
) -> list[Instruction]:
    """Destroy units without their owner; see `forced_transfer`."""
    burned = burn(mint, account, permanent_delegate, units=units, decimals=decimals)
    if not account_is_frozen:
        return [burned]
    return [thaw(mint, account, freeze_authority), burned, freeze(mint, account, freeze_authority)]


# Regulatory stops.


def freeze(mint: Pubkey, account: Pubkey, freeze_authority: Pubkey) -> Instruction:
    """Stop everything of one token account: in, out, mint and burn. Works while paused. Fails for a frozen account (13)."""
    return _instruction(bytes([Code.FREEZE_ACCOUNT]), _writable(account), _readable(mint), _readable(freeze_authority, signs=True))


def thaw(mint: Pubkey, account: Pubkey, freeze_authority: Pubkey) -> Instruction:
    """Undo `freeze`. Fails for an account that is not frozen (13)."""
    return _instruction(bytes([Code.THAW_ACCOUNT]), _writable(account), _readable(mint), _readable(freeze_authority, signs=True))


def pause(mint: Pubkey, pause_authority: Pubkey) -> Instruction:
    """Stop every transfer, mint and burn of a mint, the permanent delegate's too. Freezing and multiplier updates still work."""
    return _instruction(bytes([Code.PAUSABLE, 1]), _writable(mint), _readable(pause_authority, signs=True))


def resume(mint: Pubkey, pause_authority: Pubkey) -> Instruction:
    """Undo `pause`."""
    return _instruction(bytes([Code.PAUSABLE, 2]), _writable(mint), _readable(pause_authority, signs=True))


# Changing a mint.


def update_multiplier(mint: Pubkey, authority: Pubkey, multiplier_bits: int, effective_time: int) -> Instruction:
    """Set the multiplier from a time on, in seconds since 1970; at or before the chain's time it applies at once.

    There is one slot for what is to come: a later update replaces an earlier one. Sending the value in force with time 0 calls it off.
    """
    data = bytes([Code.SCALED_UI_AMOUNT, 1]) + struct.pack("<Qq", multiplier_bits, effective_time)
    return _instruction(data, _writable(mint), _readable(authority, signs=True))


def update_default_account_state(mint: Pubkey, freeze_authority: Pubkey, state: AccountState) -> Instruction:
    """Change in which state accounts begin from now on."""
    return _instruction(bytes([Code.DEFAULT_ACCOUNT_STATE, 1, state]), _writable(mint), _readable(freeze_authority, signs=True))


def update_transfer_hook(mint: Pubkey, authority: Pubkey, program: Pubkey | None) -> Instruction:
    """Set or clear the program called on every transfer."""
    return _instruction(bytes([Code.TRANSFER_HOOK, 1]) + _optional(program), _writable(mint), _readable(authority, signs=True))


def set_authority(target: Pubkey, kind: AuthorityKind, authority: Pubkey, successor: Pubkey | None) -> Instruction:
    """Hand a power over, or give it up for ever (None). The authority so far signs."""
    data = bytes([Code.SET_AUTHORITY, kind]) + _tagged(successor)
    return _instruction(data, _writable(target), _readable(authority, signs=True))


def update_metadata_field(mint: Pubkey, update_authority: Pubkey, field: str, value: str) -> Instruction:
    """Write one field of the metadata: name, symbol, uri, or one of your own. A longer value needs more lamports in the mint first."""
    number = _METADATA_FIELDS.get(field)
    head = bytes([_METADATA_FIELD_KEY]) + _text(field) if number is None else bytes([number])
    return _instruction(METADATA_UPDATE_FIELD + head + _text(value), _writable(mint), _readable(update_authority, signs=True))


def remove_metadata_field(mint: Pubkey, update_authority: Pubkey, field: str, *, may_be_missing: bool = False) -> Instruction:
    """Remove one field of your own from the metadata."""
    data = METADATA_REMOVE_KEY + bytes([may_be_missing]) + _text(field)
    return _instruction(data, _writable(mint), _readable(update_authority, signs=True))


def update_metadata_authority(mint: Pubkey, update_authority: Pubkey, successor: Pubkey | None) -> Instruction:
    """Hand over who may write the metadata."""
    return _instruction(METADATA_UPDATE_AUTHORITY + _optional(successor), _writable(mint), _readable(update_authority, signs=True))


# Asking.


def amount_to_ui_amount(mint: Pubkey, units: int) -> Instruction:
    """Ask, in a simulation, for the text wallets show for raw units at the chain's time: the multiplier is in it."""
    assert 0 <= units <= UNITS_MAX, f"{units} units"
    return _instruction(struct.pack("<BQ", Code.AMOUNT_TO_UI_AMOUNT, units), _readable(mint))


def _text(text: str) -> bytes:
    """Write a text as borsh does: its length in bytes, then UTF-8."""
    encoded = text.encode()
    return struct.pack("<I", len(encoded)) + encoded


def close_account(account: Pubkey, lamports_to: Pubkey, owner: Pubkey) -> Instruction:
    """Close an empty token account and return its rent. The owner signs."""
    return _instruction(bytes([Code.CLOSE_ACCOUNT]), _writable(account), _writable(lamports_to), _readable(owner, signs=True))
