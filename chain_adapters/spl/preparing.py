"""Open instructions -> unsigned transactions: as many together as one holds, each on a durable nonce that nothing else uses.

What an instruction comes to is read off the chain as it stands. So nothing is made, refused or told as reached while a freeze or pause
that it rests on may still change by a transaction that is recorded, or was made in this round: the next round sees what became of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

from solders.message import Message
from solders.pubkey import Pubkey

from chain_adapters.protocol import (
    ChainIncapable,
    ChainRefusal,
    DeploymentUnfit,
    FundsInsufficient,
    KeyMissing,
    Prepared,
    ProjectionState,
)
from chain_adapters.spl import errors, fate, programs
from chain_adapters.spl.account_layout import decode_mint, decode_token_account
from chain_adapters.spl.addresses import associated_account
from chain_adapters.spl.fees import PriceRange
from chain_adapters.spl.funds import cost_of, lamports_needed
from chain_adapters.spl.history import transactions_of
from chain_adapters.spl.names import account_of, mint_of, owner_of
from chain_adapters.spl.observation import FAILURE_TEXT_MAX
from chain_adapters.spl.planning import PART, DurableNonce, PlannedTransaction, Step, plan
from chain_adapters.spl.projection import CAPABLE, MOVES, Doing, Holder, Satisfied, TokenState, Unfit, carry_out, rests_on
from chain_adapters.spl.rpc import ACCOUNTS_MAX, Account, RpcClient
from chain_adapters.spl.signing import required_signers
from chain_adapters.spl.transactions import (
    AuthoritySet,
    DefaultStateSet,
    HookSet,
    MultiplierSet,
    PauseChanged,
    controls_changed,
    effects_on,
)
from stockledger.v1.chains_pb2 import (
    ChainFailure,
    ChainKeyRole,
    Instruction,
    InstructionKind,
    OneTimeValue,
    Transaction,
)
from stockledger.v1.chains_pb2 import Sequence as TransactionSequence

NONCES_FOR_STOPS: Final = 1
"""So many nonce accounts are kept for freezes and pauses, which must not wait until movements have landed."""
_CONTROLS: Final = (PauseChanged, MultiplierSet, AuthoritySet, HookSet, DefaultStateSet)
"""What changes how a mint stands; movements and freezes of its accounts do not."""
_CLOCK: Final = Pubkey.from_string("SysvarC1ock11111111111111111111111111111111")
_Answer = TypeVar("_Answer")


@dataclass
class Preparation:
    """One round. What an outcome rests on is held against `final`, the newest final slot."""

    chain: str
    client: RpcClient
    final: int
    ledger: str
    nonces: int
    """How many nonce accounts the fee payer has."""
    batch: int
    """How many instructions a transaction carries at most."""
    prices: PriceRange
    signers: Collection[str]
    """Accounts that can sign here."""
    state: ProjectionState
    _tokens: dict[str, TokenState] = field(default_factory=dict)
    _undecided: set[Pubkey] = field(default_factory=set)
    """Token accounts and mints whose freeze or pause may still change."""
    _refusals: list[ChainRefusal] = field(default_factory=list)
    _satisfied: list[str] = field(default_factory=list)
    _waiting: dict[str, ChainFailure.ValueType] = field(default_factory=dict)

    def run(self, instructions: Sequence[Instruction]) -> Prepared:
        """Make the round's transactions.

        Raises: KeyMissing, FundsInsufficient, ChainIncapable, DeploymentUnfit; SolanaError.
        """
        for instruction in instructions:
            if instruction.kind not in CAPABLE:
                kind = InstructionKind.Name(instruction.kind)
                raise ChainIncapable(self.chain, f"instruction {instruction.instruction} asks for {kind}")
        payer = self._payer()
        self._read_tokens(instructions)
        for opened in self.state.open_transactions:
            for version in opened.versions:
                self._undecided |= _controls_of(Message.from_bytes(version.payload))
        steps = [step for instruction in instructions for step in self._steps_of(instruction, payer)]
        planned = self._plan(steps, payer) if steps else []
        transactions = tuple(recorded(self.chain, one) for one in self._payable(planned, payer))
        return Prepared(transactions, tuple(self._refusals), tuple(self._satisfied), self._waiting)

    def _steps_of(self, instruction: Instruction, payer: Pubkey) -> Iterator[_Wanted]:
        """Yield the step of an instruction, or note why there is none now."""
        token = self._tokens[instruction.token] if instruction.token else None
        if token is not None and rests_on(instruction, token) & self._undecided:
            return
        reporter = self._key_with(ChainKeyRole.CHAIN_KEY_ROLE_REPORTER, instruction.instrument)
        outcome = carry_out(instruction, token, payer, reporter)
        if isinstance(outcome, Doing) and not self._may_sign(outcome, instruction):
            lifts = token is not None and token.mint.is_paused and instruction.kind in MOVES
            failure = ChainFailure.CHAIN_FAILURE_PAUSED if lifts else ChainFailure.CHAIN_FAILURE_KEY_WITHOUT_ROLE
            outcome = Unfit(failure, "", for_ever=False)
        match outcome:
            case Doing(parts, _, is_part):
                for part in parts:
                    accounts = [meta.pubkey for meta in part.accounts]
                    self._undecided.update(controls_changed(part.program_id, bytes(part.data), accounts))
                alone = is_part or instruction.failure == ChainFailure.CHAIN_FAILURE_IN_COMPANY
                name = f"{self.ledger}/{instruction.instruction}" + (PART if is_part else "")
                step = Step(name, parts, instruction.legal_reference, instruction.attempt_count)
                yield _Wanted(step, instruction.rank, alone)
            case Satisfied():
                if token is None or self._is_settled(token, instruction):
                    self._satisfied.append(instruction.instruction)
            case Unfit(failure, text, for_ever):
                if not for_ever:
                    self._waiting[instruction.instruction] = failure
                elif token is None or self._is_settled(token, instruction):
                    self._refusals.append(ChainRefusal(instruction.instruction, failure, text[:FAILURE_TEXT_MAX]))

    # Keys

    def _payer(self) -> Pubkey:
        payer = self._key_with(ChainKeyRole.CHAIN_KEY_ROLE_FEE_PAYER, "")
        if payer is None:
            raise KeyMissing(self.chain, "no registered key pays the fees here")
        return payer

    def _key_with(self, role: ChainKeyRole.ValueType, instrument: str) -> Pubkey | None:
        for key in self.state.keys:
            if role in key.roles and not key.retired and (not key.instruments or instrument in key.instruments):
                return owner_of(key.key)
        return None

    def _may_sign(self, doing: Doing, instruction: Instruction) -> bool:
        """Say whether every signer the chain asks for is a registered key with the role that it signs for."""
        able = {
            (key.key, role)
            for key in self.state.keys
            for role in key.roles
            if not key.retired and (not key.instruments or instruction.instrument in key.instruments)
        }
        signers = {(account_of(self.chain, signer), role) for signer, role in doing.signers}
        if not signers <= able:
            return False
        missing = sorted({account for account, _ in signers} - set(self.signers))
        if missing:
            raise KeyMissing(self.chain, f"instruction {instruction.instruction} needs the signature of {missing[0]}, which has no signer")
        return True

    # The token as it stands

    def _read_tokens(self, instructions: Sequence[Instruction]) -> None:
        """Read the mints, and the holders that instructions name: all accounts of who gives or is frozen, one of who only takes."""
        for token in dict.fromkeys(each.token for each in instructions if each.token):
            those = [each for each in instructions if each.token == token]
            mint = mint_of(self.chain, token)
            givers = {each.source: owner_of(each.source) for each in those if each.source}
            takers = {each.destination: owner_of(each.destination) for each in those if each.destination and each.destination not in givers}
            associated = {account: associated_account(owner, mint) for account, owner in (givers | takers).items()}
            found = self._accounts([mint, _CLOCK, *(associated[account] for account in takers)])
            if mint not in found or _CLOCK not in found:
                raise DeploymentUnfit(self.chain, f"there is no mint at {mint}")
            held = {account: [found[associated[account]]] if associated[account] in found else [] for account in takers}
            held |= {account: self._current(self.client.token_accounts_of(owner, mint)) for account, owner in givers.items()}
            holders = {
                account: Holder(owner, associated[account], {one.address: decode_token_account(one.data) for one in held[account]})
                for account, owner in (givers | takers).items()
            }
            now = int.from_bytes(found[_CLOCK].data[32:40], "little", signed=True)
            self._tokens[token] = TokenState(mint, decode_mint(found[mint].data), now, holders)

    def _accounts(self, addresses: Sequence[Pubkey]) -> dict[Pubkey, Account]:
        """Return what stands at addresses; lamports that somebody sent there are nothing."""
        parts = (addresses[start : start + ACCOUNTS_MAX] for start in range(0, len(addresses), ACCOUNTS_MAX))
        return {one.address: one for part in parts for one in self._current(self.client.accounts(part)) if one is not None and one.is_made}

    def _current(self, answer: tuple[int, _Answer]) -> _Answer:
        """Return what an answer found, if it is no older than the books: another node that lags may have stepped in."""
        slot, found = answer
        if slot < self.state.cursor.number:
            text = f"the node at {self.client.host} answered for slot {slot}, before the cursor at {self.state.cursor.number}"
            raise errors.NodeBehind("getMultipleAccounts", text)
        return found

    def _is_settled(self, token: TokenState, instruction: Instruction) -> bool:
        """Say whether what an outcome rests on is final: nothing after `final` touched the accounts concerned, or a power over the mint."""
        holders = [token.holders[account] for account in (instruction.source, instruction.destination) if account]
        for address in frozenset[Pubkey]().union(*(holder.addresses for holder in holders)):
            newest = self.client.newest_signature(address)
            if newest is not None and newest.slot > self.final:
                return False
        if holders:
            return True
        # In no order: of a slot that is not final, the node may not tell the block.
        recent = transactions_of(self.client, self.client.signatures_back_to(token.address, self.final + 1))
        return not any(isinstance(effect, _CONTROLS) for one in recent for effect in effects_on(token.address, one))

    # Transactions

    def _plan(self, wanted: list[_Wanted], payer: Pubkey) -> list[PlannedTransaction]:
        price = self.prices.offer(self.client, [payer])
        nonces: Iterator[DurableNonce] = self._free_nonces(payer)
        free = self.nonces - len(self.state.open_transactions)
        planned: list[PlannedTransaction] = []
        for rank, together in _runs(wanted):
            kept = 0 if rank == 0 else NONCES_FOR_STOPS
            rest = together
            while rest and free - len(planned) > kept:
                nonce = next(nonces, None)
                if nonce is None:
                    return planned
                try:
                    [one] = plan(rest[: self.batch], payer, [nonce], price)
                except errors.TransactionTooLarge:
                    # An owner may have spread units over more accounts than one transaction can name.
                    self._waiting[instruction_of(rest.pop(0).instruction_id)] = ChainFailure.CHAIN_FAILURE_OTHER
                    nonces = itertools.chain([nonce], nonces)
                    continue
                planned.append(one)
                rest = rest[len(one.instruction_ids) :]
        return planned

    def _payable(self, planned: list[PlannedTransaction], payer: Pubkey) -> list[PlannedTransaction]:
        """Return those that the payer can pay, beside all that is recorded and may still be paid for: the first of them.

        Raises: FundsInsufficient, with what all of them need, where it can pay none.
        """
        if not planned:
            return []
        key = account_of(self.chain, payer)
        may_land = [
            cost_of(one.versions[0].payload, max(int(version.fee_max or "0") for version in one.versions))
            for one in self.state.open_transactions
            if one.versions[0].key == key
        ]
        costs = [cost_of(one.message, one.fee_lamports_max) for one in planned]
        found, needed = lamports_needed(self.client, payer, [*may_land, *costs])
        payable = [one for one, lamports in zip(planned, needed[len(may_land) :], strict=True) if lamports <= found]
        if not payable:
            raise FundsInsufficient(self.chain, key=key, needed=needed[-1], found=found)
        return payable

    def _free_nonces(self, payer: Pubkey) -> Iterator[DurableNonce]:
        used = {version.sequence.one_time_value.account for one in self.state.open_transactions for version in one.versions}
        addresses = [programs.derived_nonce_account(payer, number) for number in range(self.nonces)]
        try:
            yield from fate.final_nonces(self.client, [address for address in addresses if str(address) not in used], self.final)
        except errors.AccountMalformed as missing:
            raise KeyMissing(self.chain, f"not all {self.nonces} nonce accounts of {payer} are open: {missing}") from missing


def instruction_of(name: str) -> str:
    """Return the ledger's id of an instruction from what the chain is told, "<ledger>/<instruction>"."""
    return name.removesuffix(PART).rpartition("/")[2]


def recorded(chain: str, planned: PlannedTransaction) -> Transaction:
    """Return a transaction as the ledger records it."""
    payer, *cosigners = required_signers(planned.message)
    value = OneTimeValue(account=str(planned.nonce.account), value=str(planned.nonce.value))
    return Transaction(
        key=account_of(chain, payer),
        sequence=TransactionSequence(one_time_value=value),
        payload=planned.message,
        instructions=[instruction_of(name) for name in planned.instruction_ids if not name.endswith(PART)],
        fee_max=str(planned.fee_lamports_max),
        cosigners=[account_of(chain, address) for address in cosigners],
    )


class _Wanted(NamedTuple):
    """A step, and with what it may share a transaction."""

    step: Step
    rank: int
    alone: bool


def _runs(wanted: Iterable[_Wanted]) -> Iterator[tuple[int, list[Step]]]:
    """Yield the rank and the steps that may share a transaction, in order.

    One that failed in company comes alone. A freeze or pause comes with others of these only: nothing else that fails may take it along.
    """
    together: list[Step] = []
    last = 0
    for step, rank, alone in wanted:
        if together and (alone or rank != last):
            yield last, together
            together = []
        last = rank
        if alone:
            yield rank, [step]
        else:
            together.append(step)
    if together:
        yield last, together


def _controls_of(message: Message) -> set[Pubkey]:
    """Return the accounts and mints whose freeze or pause a message of ours changes."""
    keys = message.account_keys
    return {
        changed
        for one in message.instructions
        for changed in controls_changed(keys[one.program_id_index], bytes(one.data), [keys[place] for place in bytes(one.accounts)])
    }
