"""What a landed transaction did to a token, read from its bytes and its inner instructions, and proved on its balances.

Instructions say what was done and by whom: a history that wallets cannot show and that no log line carries (a multiplier update logs no
values). The balances before and after say what became of it. `effects_on` gives the instructions of one mint only if they explain the
balances to the unit; otherwise something moved units in a way not understood here, and guessing would be worse than stopping.

Source: solana.com/docs/rpc (getTransaction); token-2022 at 426400f2, `process_batch` for instructions inside an instruction.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from solders.hash import Hash
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from chain_adapters.spl import programs
from chain_adapters.spl.addresses import MEMO_PROGRAM, SYSTEM_PROGRAM, TOKEN_2022_PROGRAM, decode_base58
from chain_adapters.spl.errors import AddressMalformed, AnswerMalformed, TransactionNotUnderstood
from chain_adapters.spl.token_2022 import NOBODY, AccountState, Code

_METHOD: Final = "getTransaction"


@dataclass(frozen=True, slots=True)
class Minted:
    """Units were created."""

    mint: Pubkey
    account: Pubkey
    authority: Pubkey
    units: int


@dataclass(frozen=True, slots=True)
class Burned:
    """Units were destroyed, by the account's owner, a delegate or the permanent delegate."""

    mint: Pubkey
    account: Pubkey
    authority: Pubkey
    units: int


@dataclass(frozen=True, slots=True)
class Transferred:
    """Units went from one token account to another; `mint` is None for the unchecked form, which a pausable mint refuses."""

    mint: Pubkey | None
    source: Pubkey
    destination: Pubkey
    authority: Pubkey
    units: int


@dataclass(frozen=True, slots=True)
class FreezeChanged:
    """A token account was frozen or thawed."""

    mint: Pubkey
    account: Pubkey
    authority: Pubkey
    is_frozen: bool


@dataclass(frozen=True, slots=True)
class PauseChanged:
    """A mint was paused or resumed."""

    mint: Pubkey
    authority: Pubkey
    is_paused: bool


@dataclass(frozen=True, slots=True)
class MultiplierSet:
    """A multiplier was given, from a time on in seconds since 1970; at a mint's making by nobody and from time 0."""

    mint: Pubkey
    authority: Pubkey | None
    bits: int
    effective_time: int


@dataclass(frozen=True, slots=True)
class DefaultStateSet:
    """The state in which accounts begin was set; at a mint's making by nobody."""

    mint: Pubkey
    authority: Pubkey | None
    state: AccountState


@dataclass(frozen=True, slots=True)
class HookSet:
    """The program called on every transfer was set or cleared."""

    mint: Pubkey
    authority: Pubkey | None
    program: Pubkey | None


@dataclass(frozen=True, slots=True)
class AuthoritySet:
    """A power over a mint or a token account went to somebody else, or was given up."""

    target: Pubkey
    kind: int
    authority: Pubkey
    successor: Pubkey | None


@dataclass(frozen=True, slots=True)
class MintMade:
    """An account became a mint."""

    mint: Pubkey
    decimals: int
    mint_authority: Pubkey
    freeze_authority: Pubkey | None


@dataclass(frozen=True, slots=True)
class AccountMade:
    """An account became a token account."""

    mint: Pubkey
    account: Pubkey
    owner: Pubkey


@dataclass(frozen=True, slots=True)
class AccountClosed:
    """An empty token account, or a mint, was closed."""

    account: Pubkey
    lamports_to: Pubkey
    authority: Pubkey


@dataclass(frozen=True, slots=True)
class Memo:
    """A text."""

    text: str


@dataclass(frozen=True, slots=True)
class NonceAdvanced:
    """The value of a durable nonce account was used up."""

    nonce_account: Pubkey
    authority: Pubkey


@dataclass(frozen=True, slots=True)
class Other:
    """Any other instruction, or one of Token-2022 that moves no units of a mint set up as ours."""

    program: Pubkey
    data: bytes
    accounts: tuple[Pubkey, ...]


Done = (
    Minted
    | Burned
    | Transferred
    | FreezeChanged
    | PauseChanged
    | MultiplierSet
    | DefaultStateSet
    | HookSet
    | AuthoritySet
    | MintMade
    | AccountMade
    | AccountClosed
    | Memo
    | NonceAdvanced
    | Other
)


@dataclass(frozen=True, slots=True)
class BalanceChange:
    """Units of a token account before and after a transaction, and its owner; None where it did not exist."""

    account: Pubkey
    mint: Pubkey
    owner_before: Pubkey | None
    owner_after: Pubkey | None
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class LandedTransaction:
    """A transaction in a block, whether it succeeded or failed.

    `message` is what was signed, to be compared with what was recorded; `blockhash` the recent blockhash or the durable nonce it used.
    A failed transaction has done nothing but pay its fee and advance its durable nonce.
    """

    signature: str
    slot: int
    block_time: int | None
    error: object
    message: bytes
    blockhash: Hash
    fee_lamports: int
    compute_units: int
    done: tuple[Done, ...]
    balances: tuple[BalanceChange, ...]

    @property
    def memos(self) -> tuple[str, ...]:
        return tuple(one.text for one in self.done if isinstance(one, Memo))


def decode(answer: Mapping[str, Any], block_time: int | None = None) -> LandedTransaction:
    """Read the answer of getTransaction (encoding base64).

    Args:
        answer: As `RpcClient.transaction` returns it.
        block_time: Taken in place of the answer's own, where the history of the address told it.

    Raises: AnswerMalformed.
    """
    try:
        return _decode(answer, block_time)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, AddressMalformed, binascii.Error, struct.error) as wrong:
        raise AnswerMalformed(_METHOD, f"the transaction is not of the documented shape: {type(wrong).__name__} {wrong}") from None


def _decode(answer: Mapping[str, Any], block_time: int | None) -> LandedTransaction:
    encoded, encoding = answer["transaction"]
    if encoding != "base64":
        raise ValueError(f"encoded in {encoding}")
    transaction = VersionedTransaction.from_bytes(base64.b64decode(encoded, validate=True))
    message = transaction.message
    meta = answer["meta"]
    loaded = meta.get("loadedAddresses") or {"writable": [], "readonly": []}
    keys = [*message.account_keys, *(Pubkey.from_string(text) for text in [*loaded["writable"], *loaded["readonly"]])]
    inner = {group["index"]: group["instructions"] for group in meta.get("innerInstructions") or ()}
    failed = meta["err"] is not None
    done: list[Done] = []
    for index, instruction in enumerate(message.instructions):
        accounts = [keys[key] for key in bytes(instruction.accounts)]
        done += _of_program(keys[instruction.program_id_index], bytes(instruction.data), accounts, failed=failed)
        for one in inner.get(index, ()):
            accounts = [keys[key] for key in one["accounts"]]
            done += _of_program(keys[one["programIdIndex"]], decode_base58(one["data"]), accounts, failed=failed)
    slot, fee = answer["slot"], meta["fee"]
    own_time = answer.get("blockTime")
    for number in (slot, fee, *(() if own_time is None else (own_time,))):
        if not isinstance(number, int) or number < 0:
            raise ValueError(f"{number!r} is no count")
    return LandedTransaction(
        str(transaction.signatures[0]),
        slot,
        own_time if block_time is None else block_time,
        meta["err"],
        _message_bytes(transaction),
        message.recent_blockhash,
        fee,
        int(meta.get("computeUnitsConsumed") or 0),
        tuple(done),
        tuple(_balances(meta, keys)),
    )


def _message_bytes(transaction: VersionedTransaction) -> bytes:
    """Return the bytes that were signed: what follows the signatures."""
    return bytes(transaction)[1 + 64 * len(transaction.signatures) :]


def _balances(meta: Mapping[str, Any], keys: Sequence[Pubkey]) -> Iterator[BalanceChange]:
    def by_account(name: str) -> dict[int, tuple[Pubkey, Pubkey, int]]:
        found = {}
        for one in meta.get(name) or ():
            if one["programId"] == str(TOKEN_2022_PROGRAM):
                units = one["uiTokenAmount"]["amount"]
                if not units.isdecimal():
                    raise ValueError(f"{units!r} units")
                found[one["accountIndex"]] = (Pubkey.from_string(one["mint"]), Pubkey.from_string(one["owner"]), int(units))
        return found

    before, after = by_account("preTokenBalances"), by_account("postTokenBalances")
    for index in sorted(before.keys() | after.keys()):
        was, became = before.get(index), after.get(index)
        known = became or was
        assert known is not None, "it stands in one of the two"
        yield BalanceChange(
            keys[index],
            known[0],
            was[1] if was else None,
            became[1] if became else None,
            was[2] if was else 0,
            became[2] if became else 0,
        )


def controls_changed(program: Pubkey, data: bytes, accounts: Sequence[Pubkey]) -> Iterator[Pubkey]:
    """Yield the token accounts that an instruction of ours freezes or thaws, and the mints that it pauses or resumes."""
    for one in _of_program(program, data, accounts, failed=False):
        if isinstance(one, FreezeChanged):
            yield one.account
        elif isinstance(one, PauseChanged):
            yield one.mint


def _of_program(program: Pubkey, data: bytes, accounts: Sequence[Pubkey], *, failed: bool) -> list[Done]:
    """Read one instruction. In a failed transaction it may be nonsense: anybody can send that, and it must not stop a reader."""
    try:
        if program == TOKEN_2022_PROGRAM:
            return list(_of_token(data, accounts))
        if program == MEMO_PROGRAM:
            return [Memo(data.decode(errors="replace"))]
        if program == SYSTEM_PROGRAM and data[:4] == struct.pack("<I", programs.ADVANCE_NONCE):
            return [NonceAdvanced(accounts[0], accounts[2])]
    except (IndexError, ValueError, struct.error):
        if not failed:
            raise
    return [Other(program, data, tuple(accounts))]


def _of_token(data: bytes, accounts: Sequence[Pubkey]) -> Iterator[Done]:
    """Read an instruction of Token-2022, those of a batch one by one: for each it holds a count of accounts, a length and the data."""
    if data[:1] != bytes([Code.BATCH]):
        yield _of_token_single(data, accounts)
        return
    position, taken = 1, 0
    while position < len(data):
        count, length = data[position], data[position + 1]
        yield _of_token_single(data[position + 2 : position + 2 + length], accounts[taken : taken + count])
        position, taken = position + 2 + length, taken + count


def _of_token_single(data: bytes, accounts: Sequence[Pubkey]) -> Done:
    code, sub = data[0], data[1] if len(data) > 1 else None
    match code, sub:
        case (Code.MINT_TO | Code.MINT_TO_CHECKED, _):
            return Minted(accounts[0], accounts[1], accounts[2], _units(data, 1))
        case (Code.BURN | Code.BURN_CHECKED, _):
            return Burned(accounts[1], accounts[0], accounts[2], _units(data, 1))
        case (Code.PERMISSIONED_BURN, 1 | 2):
            return Burned(accounts[1], accounts[0], accounts[3], _units(data, 2))
        case (Code.TRANSFER, _):
            return Transferred(None, accounts[0], accounts[1], accounts[2], _units(data, 1))
        case (Code.TRANSFER_CHECKED, _):
            return Transferred(accounts[1], accounts[0], accounts[2], accounts[3], _units(data, 1))
        case (Code.TRANSFER_FEE, 1):
            return Transferred(accounts[1], accounts[0], accounts[2], accounts[3], _units(data, 2))
        case (Code.FREEZE_ACCOUNT | Code.THAW_ACCOUNT, _):
            return FreezeChanged(accounts[1], accounts[0], accounts[2], code == Code.FREEZE_ACCOUNT)
        case (Code.PAUSABLE, 1 | 2):
            return PauseChanged(accounts[0], accounts[1], sub == 1)
        case (Code.SCALED_UI_AMOUNT, 0):
            return MultiplierSet(accounts[0], None, _units(data, 34), 0)
        case (Code.SCALED_UI_AMOUNT, 1):
            bits, effective_time = struct.unpack_from("<Qq", data, 2)
            return MultiplierSet(accounts[0], accounts[1], bits, effective_time)
        case (Code.DEFAULT_ACCOUNT_STATE, 0 | 1):
            return DefaultStateSet(accounts[0], accounts[1] if sub == 1 else None, AccountState(data[2]))
        case (Code.TRANSFER_HOOK, 0):
            return HookSet(accounts[0], None, _optional(data[34:66]))
        case (Code.TRANSFER_HOOK, 1):
            return HookSet(accounts[0], accounts[1], _optional(data[2:34]))
        case (Code.SET_AUTHORITY, _):
            return AuthoritySet(accounts[0], data[1], accounts[1], Pubkey(data[3:35]) if data[2] else None)
        case (0 | Code.INITIALIZE_MINT_2, _):
            return MintMade(accounts[0], data[1], Pubkey(data[2:34]), Pubkey(data[35:67]) if data[34] else None)
        case (1, _):
            return AccountMade(accounts[1], accounts[0], accounts[2])
        case (16 | 18, _):
            return AccountMade(accounts[1], accounts[0], Pubkey(data[1:33]))
        case (Code.CLOSE_ACCOUNT, _):
            return AccountClosed(accounts[0], accounts[1], accounts[2])
        case _:
            return Other(TOKEN_2022_PROGRAM, data, tuple(accounts))


def _units(data: bytes, position: int) -> int:
    (units,) = struct.unpack_from("<Q", data, position)
    return int(units)


def _optional(value: bytes) -> Pubkey | None:
    return None if value == NOBODY else Pubkey(value)


def effects_on(mint: Pubkey, transaction: LandedTransaction) -> tuple[Done, ...]:
    """Return what a transaction did to a mint and its accounts, in order; nothing if it failed.

    Raises: TransactionNotUnderstood if the instructions do not explain the balances: an extension unknown here moved units.
    """
    if transaction.error is not None:
        return ()
    balances = {change.account: change for change in transaction.balances if change.mint == mint}
    expected = {account: change.before for account, change in balances.items()}
    effects = []
    for one in transaction.done:
        match one:
            case Minted() if one.mint == mint:
                expected[one.account] = expected.get(one.account, 0) + one.units
            case Burned() if one.mint == mint:
                expected[one.account] = expected.get(one.account, 0) - one.units
            case Transferred() if one.mint == mint or (one.mint is None and one.source in balances):
                expected[one.source] = expected.get(one.source, 0) - one.units
                expected[one.destination] = expected.get(one.destination, 0) + one.units
            case AuthoritySet() if one.target == mint or one.target in balances:
                pass
            case AccountClosed() if one.account == mint or one.account in balances:
                pass
            case FreezeChanged() | PauseChanged() | MultiplierSet() | DefaultStateSet() | HookSet() | MintMade() | AccountMade() if (
                one.mint == mint
            ):
                pass
            case _:
                continue
        effects.append(one)
    for account, units in expected.items():
        after = balances[account].after if account in balances else 0
        if units != after:
            raise TransactionNotUnderstood(
                f"transaction {transaction.signature} in slot {transaction.slot}: its instructions leave {units} units of {mint} in "
                f"{account}, the chain {after}; look at it before anything more is read"
            )
    return tuple(effects)
