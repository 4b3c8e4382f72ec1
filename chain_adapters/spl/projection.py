"""From the ledger's instructions to steps on chain: which accounts, which keys, and what the chain would say, all from what it holds.

MINT              open the destination's account if need be, mint
BURN              burn by the permanent delegate, from as many accounts of the owner as it takes
FORCE_TRANSFER    the same, transferring; from or to a frozen account: thaw, transfer, freeze
SEND              transfer, signed by our wallet
FREEZE            open the account if need be, then freeze it, and every other of the owner: who has none cannot receive unseen
PAUSE             Token-2022 has one pause for transfer, mint and burn: any operation pauses all
SET_MULTIPLIER    schedule the binary64 nearest to it
ANCHOR_CHECKPOINT a memo signed by the reporter

What has a legal ground is carried out under a pause too: resume, move, pause, in one transaction and so unseen by anybody else's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from solders.instruction import AccountMeta
from solders.instruction import Instruction as ChainInstruction
from solders.pubkey import Pubkey

from chain_adapters.spl import programs, token_2022
from chain_adapters.spl.account_layout import Mint, TokenAccount
from chain_adapters.spl.addresses import MEMO_PROGRAM
from chain_adapters.spl.multiplier import encode_multiplier
from stockledger.v1.chains_pb2 import ChainFailure, ChainKeyRole, Instruction, InstructionKind

CAPABLE: Final = frozenset(
    {
        InstructionKind.INSTRUCTION_KIND_MINT,
        InstructionKind.INSTRUCTION_KIND_BURN,
        InstructionKind.INSTRUCTION_KIND_FORCE_TRANSFER,
        InstructionKind.INSTRUCTION_KIND_SEND,
        InstructionKind.INSTRUCTION_KIND_FREEZE,
        InstructionKind.INSTRUCTION_KIND_PAUSE,
        InstructionKind.INSTRUCTION_KIND_SET_MULTIPLIER,
        InstructionKind.INSTRUCTION_KIND_ANCHOR_CHECKPOINT,
    }
)
MOVES: Final = frozenset(
    {
        InstructionKind.INSTRUCTION_KIND_MINT,
        InstructionKind.INSTRUCTION_KIND_BURN,
        InstructionKind.INSTRUCTION_KIND_FORCE_TRANSFER,
        InstructionKind.INSTRUCTION_KIND_SEND,
    }
)


FREEZES_MAX: Final = 12
"""Accounts of one owner that are frozen or thawed in one transaction; 15 would fit."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The token accounts of one owner, the associated one first, whether it is there or not."""

    owner: Pubkey
    associated: Pubkey
    accounts: Mapping[Pubkey, TokenAccount]

    @property
    def is_open(self) -> bool:
        return self.associated in self.accounts

    @property
    def is_frozen(self) -> bool:
        return self.is_open and self.accounts[self.associated].is_frozen

    @property
    def addresses(self) -> frozenset[Pubkey]:
        """Every account of the owner, and the associated one even where it is not open."""
        return frozenset({self.associated, *self.accounts})

    @property
    def units(self) -> int:
        return sum(account.units for account in self.accounts.values())


@dataclass(frozen=True, slots=True)
class TokenState:
    """A token as an answer of the node has it: the mint, the time there, and the holders that instructions name."""

    address: Pubkey
    mint: Mint
    time: int
    holders: Mapping[str, Holder]
    """By account, CAIP-10."""


@dataclass(frozen=True, slots=True)
class Doing:
    """What an instruction comes to, and the keys that must sign it beside the fee payer, each in the role that it signs for."""

    instructions: tuple[ChainInstruction, ...]
    signers: frozenset[tuple[Pubkey, ChainKeyRole.ValueType]]
    is_part: bool = False
    """True where the instruction is not done with it, and is to be carried out again."""

    def within(self, before: ChainInstruction, after: ChainInstruction, signer: Pubkey, role: ChainKeyRole.ValueType) -> Doing:
        """Return the same with something done before it and undone after it."""
        return Doing((before, *self.instructions, after), self.signers | {(signer, role)})


@dataclass(frozen=True, slots=True)
class Unfit:
    """The chain will not do it: `for_ever` where nothing but another decision helps."""

    failure: ChainFailure.ValueType
    text: str
    for_ever: bool


class Satisfied:
    """The chain is where a target wants it."""


Outcome = Doing | Unfit | Satisfied


def rests_on(instruction: Instruction, token: TokenState) -> frozenset[Pubkey]:
    """Return the accounts and mints whose freeze or pause decides what an instruction comes to."""
    holders = [token.holders[account].addresses for account in (instruction.source, instruction.destination) if account]
    paused = instruction.kind in MOVES or instruction.kind == InstructionKind.INSTRUCTION_KIND_PAUSE
    return frozenset({token.address} if paused else ()).union(*holders)


def carry_out(instruction: Instruction, token: TokenState | None, payer: Pubkey, reporter: Pubkey | None) -> Outcome:
    """Return what an instruction comes to on chain as it stands."""
    if instruction.kind == InstructionKind.INSTRUCTION_KIND_ANCHOR_CHECKPOINT:
        if reporter is None:
            return _without_role("no key reports here")
        signature = AccountMeta(reporter, is_signer=True, is_writable=False)
        return Doing((ChainInstruction(MEMO_PROGRAM, instruction.note, [signature]),), frozenset({(reporter, instruction.role)}))
    assert token is not None, "only a checkpoint has no token"
    if instruction.kind in MOVES:
        return _move(instruction, token, payer)
    match instruction.kind:
        case InstructionKind.INSTRUCTION_KIND_FREEZE:
            return _freeze(instruction, token, payer)
        case InstructionKind.INSTRUCTION_KIND_PAUSE:
            return _pause(instruction, token)
        case InstructionKind.INSTRUCTION_KIND_SET_MULTIPLIER:
            return _set_multiplier(instruction, token)
        case _:
            raise AssertionError(f"instruction {instruction.instruction} was not refused for its kind {instruction.kind}")


def _move(instruction: Instruction, token: TokenState, payer: Pubkey) -> Outcome:
    """Return what moves units, and lifts a pause for as long as that takes if it is enforcement."""
    mint = token.mint
    if not mint.is_paused:
        return _moved(instruction, token, payer)
    if mint.pause_authority is None or not _is_forced(instruction):
        return Unfit(ChainFailure.CHAIN_FAILURE_PAUSED, "the mint is paused", for_ever=False)
    outcome = _moved(instruction, token, payer)
    if not isinstance(outcome, Doing):
        return outcome
    authority = mint.pause_authority
    resumed, paused = token_2022.resume(token.address, authority), token_2022.pause(token.address, authority)
    return outcome.within(resumed, paused, authority, ChainKeyRole.CHAIN_KEY_ROLE_PAUSER)


def _is_forced(instruction: Instruction) -> bool:
    return instruction.kind == InstructionKind.INSTRUCTION_KIND_FORCE_TRANSFER or bool(instruction.legal_reference)


def _moved(instruction: Instruction, token: TokenState, payer: Pubkey) -> Outcome:
    mint, units = token.mint, int(instruction.raw)
    if mint.transfer_hook_program is not None and instruction.kind != InstructionKind.INSTRUCTION_KIND_BURN:
        return Unfit(ChainFailure.CHAIN_FAILURE_OTHER, f"the mint has a transfer hook, {mint.transfer_hook_program}", for_ever=False)
    opening: list[ChainInstruction] = []
    destination = token.holders.get(instruction.destination)
    if destination is not None:
        lifts = _is_forced(instruction) and mint.freeze_authority is not None
        if destination.is_frozen and not lifts:
            return Unfit(ChainFailure.CHAIN_FAILURE_ACCOUNT_BARRED, f"{destination.associated} is frozen", for_ever=True)
        if not destination.is_open:
            if mint.default_account_state is token_2022.AccountState.FROZEN:
                return Unfit(ChainFailure.CHAIN_FAILURE_ACCOUNT_BARRED, f"{destination.associated} would begin frozen", for_ever=True)
            opening.append(programs.create_associated_account(payer, destination.owner, token.address))
    if instruction.kind == InstructionKind.INSTRUCTION_KIND_MINT:
        if mint.mint_authority is None:
            return _without_role("the mint has no minter any more")
        assert destination is not None, "a mint has a destination"
        minted = token_2022.mint_to(token.address, destination.associated, mint.mint_authority, units=units, decimals=mint.decimals)
        return _with_thawed(token, destination, Doing((*opening, minted), frozenset({(mint.mint_authority, instruction.role)})))
    source = token.holders[instruction.source]
    if source.units < units:
        text = f"{source.owner} has {source.units} raw units, not {units}"
        return Unfit(ChainFailure.CHAIN_FAILURE_UNITS_INSUFFICIENT, text, for_ever=True)
    if instruction.kind == InstructionKind.INSTRUCTION_KIND_SEND:
        if source.is_frozen:
            return Unfit(ChainFailure.CHAIN_FAILURE_ACCOUNT_BARRED, f"{source.associated} is frozen", for_ever=True)
        return _take(token, source, destination, units, (source.owner, instruction.role), opening=opening)
    if mint.permanent_delegate is None:
        return _without_role("the mint has no permanent delegate")
    taken = _take(token, source, destination, units, (mint.permanent_delegate, instruction.role), opening=opening)
    return taken if destination is None or not isinstance(taken, Doing) else _with_thawed(token, destination, taken)


def _with_thawed(token: TokenState, holder: Holder, doing: Doing) -> Doing:
    """Put a thaw of an owner's associated account before something and a freeze after it, if it is frozen."""
    guard = token.mint.freeze_authority
    if not holder.is_frozen or guard is None:
        return doing
    thawed, frozen = (change(token.address, holder.associated, guard) for change in (token_2022.thaw, token_2022.freeze))
    return doing.within(thawed, frozen, guard, ChainKeyRole.CHAIN_KEY_ROLE_ENFORCER)


def _take(
    token: TokenState,
    source: Holder,
    destination: Holder | None,
    units: int,
    signer: tuple[Pubkey, ChainKeyRole.ValueType],
    *,
    opening: Sequence[ChainInstruction],
) -> Outcome:
    """Take units from an owner's accounts, the associated one first and then from as few as hold them, for a destination or to burn."""
    instructions, signers, missing = list(opening), {signer}, units
    authority, _ = signer
    in_order = sorted(source.accounts.items(), key=lambda item: (item[0] != source.associated, -item[1].units, bytes(item[0])))
    for address, account in in_order:
        taken = min(account.units, missing)
        if taken == 0:
            continue
        missing -= taken
        sums = {"units": taken, "decimals": token.mint.decimals}
        if destination is None:
            moved = token_2022.burn(token.address, address, authority, **sums)
        else:
            moved = token_2022.transfer(token.address, address, destination.associated, authority, **sums)
        if not account.is_frozen:
            instructions.append(moved)
            continue
        guard = token.mint.freeze_authority
        if guard is None:
            return _without_role(f"{address} is frozen, and nobody may thaw it any more")
        instructions += [token_2022.thaw(token.address, address, guard), moved, token_2022.freeze(token.address, address, guard)]
        signers.add((guard, ChainKeyRole.CHAIN_KEY_ROLE_ENFORCER))
    assert missing == 0, "the owner has enough"
    return Doing(tuple(instructions), frozenset(signers))


def _freeze(instruction: Instruction, token: TokenState, payer: Pubkey) -> Outcome:
    holder, guard = token.holders[instruction.source], token.mint.freeze_authority
    wrong = [address for address, account in holder.accounts.items() if account.is_frozen != instruction.frozen]
    if not wrong and (holder.is_open or not instruction.frozen):
        return Satisfied()
    if guard is None:
        return _without_role("the mint has no freeze authority any more")
    change = token_2022.freeze if instruction.frozen else token_2022.thaw
    signers = frozenset({(guard, instruction.role)})
    in_order = sorted(wrong, key=lambda address: (address == holder.associated, -holder.accounts[address].units, bytes(address)))
    if len(in_order) > FREEZES_MAX:
        # Whoever opens many accounts is frozen all the same; the associated one, by which a freeze is seen, comes last.
        return Doing(tuple(change(token.address, address, guard) for address in in_order[:FREEZES_MAX]), signers, is_part=True)
    instructions = [change(token.address, address, guard) for address in in_order]
    if instruction.frozen and not holder.is_open:
        opened = [programs.create_associated_account(payer, holder.owner, token.address)]
        if token.mint.default_account_state is not token_2022.AccountState.FROZEN:
            opened.append(token_2022.freeze(token.address, holder.associated, guard))
        instructions = [*opened, *instructions]
    return Doing(tuple(instructions), signers)


def _pause(instruction: Instruction, token: TokenState) -> Outcome:
    paused = bool(instruction.operations)
    if token.mint.is_paused == paused:
        return Satisfied()
    authority = token.mint.pause_authority
    if authority is None:
        return _without_role("nobody may pause the mint")
    change = token_2022.pause if paused else token_2022.resume
    return Doing((change(token.address, authority),), frozenset({(authority, instruction.role)}))


def _set_multiplier(instruction: Instruction, token: TokenState) -> Outcome:
    scaled, authority = token.mint.scaled_ui_amount, token.mint.scaled_ui_amount_authority
    bits, effective_time = encode_multiplier(int(instruction.multiplier)), -(-instruction.effective_time.ToMicroseconds() // 1_000_000)
    if scaled is not None:
        announced = scaled.next == bits and scaled.next_effective_time == max(effective_time, 0)
        in_force = effective_time <= token.time and scaled.at(token.time) == bits and scaled.next_effective_time <= token.time
        if announced or in_force:
            return Satisfied()
    if scaled is None or authority is None:
        return _without_role("nobody may change the multiplier")
    updated = token_2022.update_multiplier(token.address, authority, bits, effective_time)
    return Doing((updated,), frozenset({(authority, instruction.role)}))


def _without_role(text: str) -> Unfit:
    return Unfit(ChainFailure.CHAIN_FAILURE_KEY_WITHOUT_ROLE, text, for_ever=False)
