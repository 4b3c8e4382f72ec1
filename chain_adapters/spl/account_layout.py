"""What stands in a mint, a token account and a nonce account, byte by byte. Anything else than exactly that is refused.

A mint with extensions: 82 bytes, zeros up to 165, a byte that says mint (1) or account (2), then type (u16), length (u16), value, again
and again; a type of 0 is padding to the end. A token account fills the 165 bytes itself. All numbers little endian.

Source: token-2022 interface at 426400f2, `state.rs` and `extension/mod.rs`; Solana's `nonce::versions::Versions`.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NoReturn

from solders.hash import Hash
from solders.pubkey import Pubkey

from chain_adapters.spl.errors import AccountMalformed
from chain_adapters.spl.multiplier import ScaledUiAmount
from chain_adapters.spl.programs import NONCE_ACCOUNT_BYTES
from chain_adapters.spl.token_2022 import NOBODY, AccountState

MINT_BYTES: Final = 82
ACCOUNT_BYTES: Final = 165
MULTISIG_BYTES: Final = 355
EXTENSIONS_START: Final = ACCOUNT_BYTES + 1
_KIND_MINT: Final = 1
_KIND_ACCOUNT: Final = 2
_NONCE_CURRENT: Final = 1
_NONCE_INITIALIZED: Final = 1
_BASE_OF_MINT: Final = struct.Struct("<I32sQBBI32s")
_BASE_OF_ACCOUNT: Final = struct.Struct("<32s32sQI32sBIQQI32s")
_NONCE: Final = struct.Struct("<II32s32sQ")


class Extension(enum.IntEnum):
    """Types of extensions."""

    TRANSFER_FEE_CONFIG = 1
    TRANSFER_FEE_AMOUNT = 2
    MINT_CLOSE_AUTHORITY = 3
    CONFIDENTIAL_TRANSFER_MINT = 4
    CONFIDENTIAL_TRANSFER_ACCOUNT = 5
    DEFAULT_ACCOUNT_STATE = 6
    IMMUTABLE_OWNER = 7
    MEMO_TRANSFER = 8
    NON_TRANSFERABLE = 9
    INTEREST_BEARING_CONFIG = 10
    CPI_GUARD = 11
    PERMANENT_DELEGATE = 12
    NON_TRANSFERABLE_ACCOUNT = 13
    TRANSFER_HOOK = 14
    TRANSFER_HOOK_ACCOUNT = 15
    CONFIDENTIAL_TRANSFER_FEE_CONFIG = 16
    CONFIDENTIAL_TRANSFER_FEE_AMOUNT = 17
    METADATA_POINTER = 18
    TOKEN_METADATA = 19
    GROUP_POINTER = 20
    TOKEN_GROUP = 21
    GROUP_MEMBER_POINTER = 22
    TOKEN_GROUP_MEMBER = 23
    CONFIDENTIAL_MINT_BURN = 24
    SCALED_UI_AMOUNT = 25
    PAUSABLE = 26
    PAUSABLE_ACCOUNT = 27
    PERMISSIONED_BURN = 28


_EXACT_BYTES: Final = {
    Extension.MINT_CLOSE_AUTHORITY: 32,
    Extension.CONFIDENTIAL_TRANSFER_MINT: 65,
    Extension.DEFAULT_ACCOUNT_STATE: 1,
    Extension.IMMUTABLE_OWNER: 0,
    Extension.PERMANENT_DELEGATE: 32,
    Extension.TRANSFER_HOOK: 64,
    Extension.TRANSFER_HOOK_ACCOUNT: 1,
    Extension.METADATA_POINTER: 64,
    Extension.SCALED_UI_AMOUNT: 56,
    Extension.PAUSABLE: 33,
    Extension.PAUSABLE_ACCOUNT: 0,
    Extension.PERMISSIONED_BURN: 32,
}
_ASKED_OF_ACCOUNTS: Final = {
    Extension.TRANSFER_FEE_CONFIG: 8,
    Extension.NON_TRANSFERABLE: 0,
    Extension.TRANSFER_HOOK: 1,
    Extension.PAUSABLE: 0,
}
"""Extensions of a mint that give each of its accounts one of their own, and the bytes of its value."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """Name, symbol and address of the description of a mint, and fields of its own."""

    update_authority: Pubkey | None
    mint: Pubkey
    name: str
    symbol: str
    uri: str
    additional: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Mint:
    """A mint as it stands on chain. An authority of None has been given up, or its extension is not there (see `extensions`)."""

    mint_authority: Pubkey | None
    supply: int
    decimals: int
    freeze_authority: Pubkey | None
    extensions: tuple[int, ...]
    """Types in the order they stand in."""
    permanent_delegate: Pubkey | None = None
    default_account_state: AccountState = AccountState.INITIALIZED
    scaled_ui_amount_authority: Pubkey | None = None
    scaled_ui_amount: ScaledUiAmount | None = None
    pause_authority: Pubkey | None = None
    is_paused: bool = False
    confidential_transfer_authority: Pubkey | None = None
    approves_confidential_accounts: bool = False
    confidential_transfer_auditor: bytes | None = None
    transfer_hook_authority: Pubkey | None = None
    transfer_hook_program: Pubkey | None = None
    metadata_pointer_authority: Pubkey | None = None
    metadata_pointer: Pubkey | None = None
    metadata: Metadata | None = None
    close_authority: Pubkey | None = None
    permissioned_burn_authority: Pubkey | None = None
    others: tuple[tuple[int, bytes], ...] = ()
    """Extensions, by type and value, that no mint set up as xStocks' are has."""


@dataclass(frozen=True, slots=True)
class TokenAccount:
    """A token account as it stands on chain."""

    mint: Pubkey
    owner: Pubkey
    units: int
    state: AccountState
    delegate: Pubkey | None = None
    delegated_units: int = 0
    close_authority: Pubkey | None = None
    extensions: tuple[int, ...] = ()
    others: tuple[tuple[int, bytes], ...] = field(default=())

    @property
    def is_frozen(self) -> bool:
        return self.state is AccountState.FROZEN


@dataclass(frozen=True, slots=True)
class NonceAccount:
    """A durable nonce account: whoever may advance it, and the value that durable transactions name as their blockhash."""

    authority: Pubkey
    value: Hash
    lamports_per_signature: int


def associated_account_bytes(extensions: Iterable[int]) -> int:
    """Return how many bytes an associated account has at first, by the extensions of its mint; its owner is immutable always.

    Example: with a transfer hook and a pause, 165 + 1 + 4 + (4 + 1) + 4 = 179.

    Source: token-2022 interface at 426400f2, `ExtensionType::get_required_init_account_extensions`.
    """
    return EXTENSIONS_START + 4 + sum(4 + _ASKED_OF_ACCOUNTS[Extension(kind)] for kind in extensions if kind in _ASKED_OF_ACCOUNTS)


def decode_mint(data: bytes) -> Mint:
    """Read a mint.

    Raises: AccountMalformed.
    """
    base, extensions = _base_and_extensions(data, MINT_BYTES, _KIND_MINT)
    mint_tag, mint_authority, supply, decimals, is_initialized, freeze_tag, freeze_authority = _BASE_OF_MINT.unpack(base)
    if is_initialized != 1:
        _malformed("a mint", f"its initialised byte is {is_initialized}")
    values: dict[str, object] = {}
    others = []
    for kind, value in extensions:
        read = _MINT_READERS.get(kind)
        if read is None:
            others.append((kind, value))
        else:
            values |= read(value)
    return Mint(
        _tagged("mint authority", mint_tag, mint_authority),
        supply,
        decimals,
        _tagged("freeze authority", freeze_tag, freeze_authority),
        tuple(kind for kind, _ in extensions),
        others=tuple(others),
        **values,  # type: ignore[arg-type]  # each reader below names the fields it fills
    )


def decode_token_account(data: bytes) -> TokenAccount:
    """Read a token account.

    Raises: AccountMalformed.
    """
    base, extensions = _base_and_extensions(data, ACCOUNT_BYTES, _KIND_ACCOUNT)
    mint, owner, units, delegate_tag, delegate, state, _, _, delegated, close_tag, close = _BASE_OF_ACCOUNT.unpack(base)
    if state not in (AccountState.INITIALIZED, AccountState.FROZEN):
        _malformed("a token account", f"its state is {state}")
    return TokenAccount(
        Pubkey(mint),
        Pubkey(owner),
        units,
        AccountState(state),
        _tagged("delegate", delegate_tag, delegate),
        delegated,
        _tagged("close authority", close_tag, close),
        tuple(kind for kind, _ in extensions),
        tuple((kind, value) for kind, value in extensions if kind not in _EXACT_BYTES),
    )


def decode_nonce_account(data: bytes) -> NonceAccount:
    """Read a durable nonce account.

    Raises: AccountMalformed, also for one that was made but never initialised, or in the form before 2022.
    """
    if len(data) != NONCE_ACCOUNT_BYTES:
        _malformed("a nonce account", f"it has {len(data)} bytes, not {NONCE_ACCOUNT_BYTES}")
    version, state, authority, value, lamports = _NONCE.unpack(data)
    if (version, state) != (_NONCE_CURRENT, _NONCE_INITIALIZED):
        _malformed("a nonce account", f"version {version} and state {state} are not those of an initialised one (1, 1)")
    return NonceAccount(Pubkey(authority), Hash(value), lamports)


def _base_and_extensions(data: bytes, base_bytes: int, kind: int) -> tuple[bytes, list[tuple[int, bytes]]]:
    """Take an account apart into its base and its extensions."""
    what = "a mint" if kind == _KIND_MINT else "a token account"
    if len(data) == base_bytes:
        return data, []
    if len(data) == MULTISIG_BYTES:
        _malformed(what, f"{MULTISIG_BYTES} bytes are a multisig")
    if len(data) < EXTENSIONS_START:
        _malformed(what, f"it has {len(data)} bytes, neither {base_bytes} nor at least {EXTENSIONS_START}")
    if any(data[base_bytes:ACCOUNT_BYTES]):
        _malformed(what, f"bytes {base_bytes} to {ACCOUNT_BYTES} are not zero")
    if data[ACCOUNT_BYTES] != kind:
        _malformed(what, f"its type byte is {data[ACCOUNT_BYTES]}, not {kind}")
    extensions = list(_extensions(what, data[EXTENSIONS_START:]))
    kinds = [number for number, _ in extensions]
    if len(set(kinds)) != len(kinds):
        _malformed(what, f"an extension stands twice among {kinds}")
    return data[:base_bytes], extensions


def _extensions(what: str, rest: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(rest):
        if len(rest) - position < 2 or rest[position : position + 2] == b"\0\0":
            if any(rest[position:]):
                _malformed(what, "there are bytes after its last extension")
            return
        if len(rest) - position < 4:
            _malformed(what, "an extension is cut short")
        kind, length = struct.unpack_from("<HH", rest, position)
        value = rest[position + 4 : position + 4 + length]
        if len(value) != length:
            _malformed(what, f"extension {kind} says {length} bytes, {len(value)} are left")
        expected = _EXACT_BYTES.get(kind)
        if expected is not None and length != expected:
            _malformed(what, f"extension {Extension(kind).name} has {length} bytes, not {expected}")
        yield kind, value
        position += 4 + length


def _tagged(what: str, tag: int, value: bytes) -> Pubkey | None:
    if tag not in (0, 1):
        _malformed("an account", f"the tag of its {what} is {tag}")
    return Pubkey(value) if tag else None


def _optional(value: bytes) -> Pubkey | None:
    return None if value == NOBODY else Pubkey(value)


def _boolean(what: str, value: int) -> bool:
    if value not in (0, 1):
        _malformed("a mint", f"{what} is {value}, neither 0 nor 1")
    return value == 1


def _default_account_state(value: bytes) -> dict[str, object]:
    if value[0] not in (AccountState.INITIALIZED, AccountState.FROZEN):
        _malformed("a mint", f"its default account state is {value[0]}")
    return {"default_account_state": AccountState(value[0])}


def _scaled_ui_amount(value: bytes) -> dict[str, object]:
    current, effective_time, following = struct.unpack_from("<QqQ", value, 32)
    return {"scaled_ui_amount_authority": _optional(value[:32]), "scaled_ui_amount": ScaledUiAmount(current, effective_time, following)}


def _confidential_transfer(value: bytes) -> dict[str, object]:
    return {
        "confidential_transfer_authority": _optional(value[:32]),
        "approves_confidential_accounts": _boolean("the approval of confidential accounts", value[32]),
        "confidential_transfer_auditor": None if value[33:] == NOBODY else value[33:],
    }


def _metadata(value: bytes) -> dict[str, object]:
    position = 64

    def number() -> int:
        nonlocal position
        if len(value) - position < 4:
            _malformed("a mint", "its metadata is cut short")
        (found,) = struct.unpack_from("<I", value, position)
        position += 4
        return int(found)

    def text() -> str:
        nonlocal position
        length = number()
        encoded = value[position : position + length]
        if len(encoded) != length:
            _malformed("a mint", "its metadata is cut short")
        position += length
        try:
            return encoded.decode()
        except UnicodeDecodeError:
            _malformed("a mint", "its metadata is no UTF-8")

    if len(value) < position:
        _malformed("a mint", "its metadata is cut short")
    name, symbol, uri = text(), text(), text()
    additional = tuple((text(), text()) for _ in range(number()))
    if position != len(value):
        _malformed("a mint", f"there are {len(value) - position} bytes after its metadata")
    return {"metadata": Metadata(_optional(value[:32]), Pubkey(value[32:64]), name, symbol, uri, additional)}


_MINT_READERS: Final[dict[int, Callable[[bytes], dict[str, object]]]] = {
    Extension.MINT_CLOSE_AUTHORITY: lambda value: {"close_authority": _optional(value)},
    Extension.CONFIDENTIAL_TRANSFER_MINT: _confidential_transfer,
    Extension.DEFAULT_ACCOUNT_STATE: _default_account_state,
    Extension.PERMANENT_DELEGATE: lambda value: {"permanent_delegate": _optional(value)},
    Extension.TRANSFER_HOOK: lambda value: {
        "transfer_hook_authority": _optional(value[:32]),
        "transfer_hook_program": _optional(value[32:]),
    },
    Extension.METADATA_POINTER: lambda value: {
        "metadata_pointer_authority": _optional(value[:32]),
        "metadata_pointer": _optional(value[32:]),
    },
    Extension.TOKEN_METADATA: _metadata,
    Extension.SCALED_UI_AMOUNT: _scaled_ui_amount,
    Extension.PAUSABLE: lambda value: {"pause_authority": _optional(value[:32]), "is_paused": _boolean("its pause", value[32])},
    Extension.PERMISSIONED_BURN: lambda value: {"permissioned_burn_authority": _optional(value)},
}


def _malformed(what: str, why: str) -> NoReturn:
    raise AccountMalformed(f"the account is not {what}: {why}")
