"""Open instructions -> unsigned transactions: as many together as one holds, each on a durable nonce that nothing else uses."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

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
from chain_adapters.spl.names import account_of, mint_of, owner_of
from chain_adapters.spl.observation import FAILURE_TEXT_MAX
from chain_adapters.spl.planning import DurableNonce, PlannedTransaction, Step, plan
from chain_adapters.spl.projection import CAPABLE, Doing, Holder, Satisfied, TokenState, Unfit, carry_out
from chain_adapters.spl.rpc import RpcClient
from chain_adapters.spl.signing import required_signers
from stockledger.v1.chains_pb2 import (
    ChainFailure,
    ChainKeyRole,
    Instruction,
    InstructionKind,
    OneTimeValue,
    Transaction,
)
from stockledger.v1.chains_pb2 import Sequence as TransactionSequence

_CLOCK: Final = Pubkey.from_string("SysvarC1ock11111111111111111111111111111111")


@dataclass
class Preparation:
    """One round. What an outcome rests on is held against `final`, the newest final slot."""

    chain: str
    client: RpcClient
    final: int
    ledger: str
    nonces: int
    """How many nonce accounts the fee payer has."""
    prices: PriceRange
    signers: Collection[str]
    """Accounts that can sign here."""
    state: ProjectionState
    _tokens: dict[str, TokenState] = field(default_factory=dict)
    _refusals: list[ChainRefusal] = field(default_factory=list)
    _satisfied: list[str] = field(default_factory=list)
    _waiting: dict[str, ChainFailure.ValueType] = field(default_factory=dict)

    def run(self, instructions: Sequence[Instruction]) -> Prepared:
        """Make the round's transactions.

        Raises: KeyMissing, FundsInsufficient, ChainIncapable, DeploymentUnfit; SolanaError.
        """
        payer = self._payer()
        steps = [step for instruction in instructions for step in self._steps_of(instruction, payer)]
        planned = self._plan(steps, payer) if steps else []
        needed, found = sum(one.fee_lamports_max for one in planned), self.client.lamports(payer) if planned else 0
        if planned and found < needed:
            raise FundsInsufficient(self.chain, key=account_of(self.chain, payer), needed=needed, found=found)
        transactions = tuple(recorded(self.chain, one) for one in planned)
        return Prepared(transactions, tuple(self._refusals), tuple(self._satisfied), self._waiting)

    def _steps_of(self, instruction: Instruction, payer: Pubkey) -> Iterator[tuple[Step, bool]]:
        """Yield the step of an instruction and whether it must go alone, or note why there is none now."""
        if instruction.kind not in CAPABLE:
            kind = InstructionKind.Name(instruction.kind)
            raise ChainIncapable(self.chain, f"instruction {instruction.instruction} asks for {kind}")
        token = self._token_state(instruction) if instruction.token else None
        reporter = self._key_with(ChainKeyRole.CHAIN_KEY_ROLE_REPORTER, instruction.instrument)
        outcome = carry_out(instruction, token, payer, reporter)
        if isinstance(outcome, Doing) and not self._may_sign(outcome, instruction):
            outcome = Unfit(ChainFailure.CHAIN_FAILURE_KEY_WITHOUT_ROLE, "", for_ever=False)
        match outcome:
            case Doing(parts):
                alone = instruction.failure == ChainFailure.CHAIN_FAILURE_IN_COMPANY
                yield Step(f"{self.ledger}/{instruction.instruction}", parts), alone
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
        """Say whether every signer the chain asks for is a registered key with the instruction's role."""
        able = {
            key.key
            for key in self.state.keys
            if instruction.role in key.roles and not key.retired and (not key.instruments or instruction.instrument in key.instruments)
        }
        accounts = {account_of(self.chain, signer) for signer in doing.signers}
        if not accounts <= able:
            return False
        missing = sorted(accounts - set(self.signers))
        if missing:
            raise KeyMissing(self.chain, f"instruction {instruction.instruction} needs the signature of {missing[0]}, which has no signer")
        return True

    # The token as it stands

    def _token_state(self, instruction: Instruction) -> TokenState:
        """Read the mint once a round, and the holders that an instruction names."""
        known = self._tokens.get(instruction.token)
        if known is None:
            address = mint_of(self.chain, instruction.token)
            _, (mint_account, clock) = self.client.accounts([address, _CLOCK])
            if mint_account is None or clock is None:
                raise DeploymentUnfit(self.chain, f"there is no mint at {address}")
            now = int.from_bytes(clock.data[32:40], "little", signed=True)
            known = TokenState(address, decode_mint(mint_account.data), now, {})
        holders = dict(known.holders)
        for account in (instruction.source, instruction.destination):
            if account and account not in holders:
                owner = owner_of(account)
                _, found = self.client.token_accounts_of(owner, known.address)
                accounts = {one.address: decode_token_account(one.data) for one in found}
                holders[account] = Holder(owner, associated_account(owner, known.address), accounts)
        token = self._tokens[instruction.token] = TokenState(known.address, known.mint, known.time, holders)
        return token

    def _is_settled(self, token: TokenState, instruction: Instruction) -> bool:
        """Say whether what an outcome rests on is final: nothing after `final` names the mint's accounts concerned, or the mint."""
        concerned = [token.holders[account] for account in (instruction.source, instruction.destination) if account]
        addresses = [address for holder in concerned for address in (holder.associated, *holder.accounts)] or [token.address]
        for address in addresses:
            newest = self.client.newest_signature(address)
            if newest is not None and newest.slot > self.final:
                return False
        return True

    # Transactions

    def _plan(self, steps: list[tuple[Step, bool]], payer: Pubkey) -> list[PlannedTransaction]:
        price = self.prices.offer(self.client, [payer])
        nonces = self._free_nonces(payer)
        planned: list[PlannedTransaction] = []
        for together in _runs(steps):
            rest = list(together)
            while rest:
                nonce = next(nonces, None)
                if nonce is None:
                    return planned
                [one] = plan(rest, payer, [nonce], price)
                planned.append(one)
                rest = rest[len(one.instruction_ids) :]
        return planned

    def _free_nonces(self, payer: Pubkey) -> Iterator[DurableNonce]:
        used = {version.sequence.one_time_value.account for one in self.state.open_transactions for version in one.versions}
        for number in range(self.nonces):
            address = programs.derived_nonce_account(payer, number)
            if str(address) in used:
                continue
            try:
                nonce = fate.final_nonce(self.client, address)
            except errors.AccountMalformed as missing:
                raise KeyMissing(self.chain, f"nonce account {number} of {payer} is not open: {missing}") from missing
            if nonce is not None:
                yield nonce


def recorded(chain: str, planned: PlannedTransaction) -> Transaction:
    """Return a transaction as the ledger records it."""
    payer, *cosigners = required_signers(planned.message)
    value = OneTimeValue(account=str(planned.nonce.account), value=str(planned.nonce.value))
    return Transaction(
        key=account_of(chain, payer),
        sequence=TransactionSequence(one_time_value=value),
        payload=planned.message,
        instructions=[number.rpartition("/")[2] for number in planned.instruction_ids],
        fee_max=str(planned.fee_lamports_max),
        cosigners=[account_of(chain, address) for address in cosigners],
    )


def _runs(steps: Sequence[tuple[Step, bool]]) -> Iterator[list[Step]]:
    """Yield steps that may share a transaction, in order; one that must go alone comes alone."""
    together: list[Step] = []
    for step, alone in steps:
        if alone:
            if together:
                yield together
            yield [step]
            together = []
        else:
            together.append(step)
    if together:
        yield together
