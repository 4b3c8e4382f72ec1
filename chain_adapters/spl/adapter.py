"""Solana as the projector, the reader and the reconciler see it: one durable nonce a transaction, whole slots a range.

Options of `ChainSettings`:

    ledger                 the ledger's id, written into every memo before the instruction's
    nonces                 how many nonce accounts the fee payer has, numbered from 0 (16); as many transactions can be open at once
    priority_microlamports the least priority fee offered for a compute unit (0), above which recent fees decide
    priority_max           the most (1000000)

The nonce accounts stand at addresses derived from the fee payer's key: `open_nonce_accounts` makes those that are missing, once.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Concatenate, Final, ParamSpec, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp
from solders.hash import Hash
from solders.instruction import CompiledInstruction
from solders.message import Message
from solders.pubkey import Pubkey

from chain_adapters.protocol import (
    OBSERVATIONS_PER_RANGE_MAX,
    ChainDescription,
    ChainIncapable,
    ChainRefusal,
    ChainSettings,
    ChainUnavailable,
    DeploymentUnfit,
    Fate,
    FateKind,
    FundsInsufficient,
    HistoryChanged,
    KeyMissing,
    Measurement,
    NodeUnfit,
    Prepared,
    ProjectionState,
    Signer,
)
from chain_adapters.spl import errors, fate, programs
from chain_adapters.spl.account_layout import decode_mint, decode_token_account
from chain_adapters.spl.addresses import COMPUTE_BUDGET_PROGRAM, TOKEN_2022_PROGRAM, associated_account
from chain_adapters.spl.history import list_range, transactions_of
from chain_adapters.spl.observation import FAILURE_TEXT_MAX, failure_of, observe
from chain_adapters.spl.planning import DurableNonce, PlannedTransaction, Step, fee_lamports_max, plan
from chain_adapters.spl.projection import CAPABLE, Doing, Holder, Satisfied, TokenState, Unfit, carry_out
from chain_adapters.spl.rpc import ACCOUNTS_MAX, RpcClient
from chain_adapters.spl.signing import required_signers, sign, signature_of
from chain_adapters.spl.transactions import LandedTransaction as OnChain
from ledger import caip
from ledger.errors import refusal
from stockledger.v1.chains_pb2 import (
    ChainCapability,
    ChainFailure,
    ChainFigure,
    ChainKey,
    ChainKeyRole,
    ChainPosition,
    DeadTransaction,
    DeathProof,
    Deployment,
    Instruction,
    InstructionKind,
    LandedTransaction,
    Observation,
    ObservedRange,
    OneTimeValue,
    OpenTransaction,
    Transaction,
)
from stockledger.v1.chains_pb2 import (
    Sequence as TransactionSequence,
)
from stockledger.v1.errors_pb2 import Reason

NONCES_DEFAULT: Final = 16
ASSET_NAMESPACE: Final = "token"
_CLOCK: Final = Pubkey.from_string("SysvarC1ock11111111111111111111111111111111")
_SET_PRICE: Final = 3
_MEASURE_TRIES: Final = 10
_OWNERS_ASKED_SINGLY_MAX: Final = 50
"""Above it, one question for all accounts of the mint costs a node less than one for each owner."""

P = ParamSpec("P")
R = TypeVar("R")


def _named(verb: Callable[Concatenate[SplAdapter, P], R]) -> Callable[Concatenate[SplAdapter, P], R]:
    """Put what the node did into the errors of the protocol; the next node is used from then on where it was away."""

    @functools.wraps(verb)
    def named(self: SplAdapter, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return verb(self, *args, **kwargs)
        except (errors.NodeUnreachable, errors.NodeOverloaded, errors.NodeBehind, errors.NodeFailed) as away:
            self._use_next_node()
            seconds = getattr(away, "retry_after_seconds", None)
            raise ChainUnavailable(self.chain, str(away), retry_after_seconds=float(seconds or 1)) from away
        except errors.KeyMalformed as missing:
            raise KeyMissing(self.chain, str(missing)) from missing
        except errors.SolanaError as unfit:
            raise NodeUnfit(self.chain, str(unfit)) from unfit

    return named


class SplAdapter:
    """Token-2022 on one Solana chain."""

    def __init__(self, settings: ChainSettings) -> None:
        caip.check_chain("chain", settings.chain)
        if not settings.urls:
            raise ValueError("a chain needs the URL of a node")
        self._settings = settings
        self.chain = settings.chain
        self._clients = [RpcClient(url) for url in settings.urls]
        self._current = 0
        self._checked: set[int] = set()
        self._lock = threading.Lock()
        self._finalised = ChainPosition()
        self._ledger = settings.ledger
        self._nonces = settings.whole_number("nonces", NONCES_DEFAULT)
        self._price_min = settings.whole_number("priority_microlamports", 0)
        self._price_max = settings.whole_number("priority_max", 1_000_000)

    # What it is

    @_named
    def describe(self) -> ChainDescription:
        client = self._client()
        return ChainDescription(
            chain=self.chain,
            node=client.version(),
            capabilities=frozenset(
                {
                    ChainCapability.CHAIN_CAPABILITY_MINT,
                    ChainCapability.CHAIN_CAPABILITY_BURN,
                    ChainCapability.CHAIN_CAPABILITY_FORCE_TRANSFER,
                    ChainCapability.CHAIN_CAPABILITY_FREEZE,
                    ChainCapability.CHAIN_CAPABILITY_PAUSE,
                    ChainCapability.CHAIN_CAPABILITY_MULTIPLIER,
                    ChainCapability.CHAIN_CAPABILITY_ANCHOR,
                    ChainCapability.CHAIN_CAPABILITY_SEND,
                }
            ),
            instructions_per_transaction_max=12,
            final_after_seconds=15,
        )

    def check_account(self, account: str) -> str:
        found = caip.parse_account("account", account)
        if found.chain != self.chain:
            cause = f"account {account!r} does not stand on {self.chain}"
            raise refusal(Reason.REASON_FIELD_MALFORMED, cause, field="account", value=account)
        try:
            Pubkey.from_string(found.address)
        except ValueError:
            cause = f"account {account!r} does not end in the base58 of 32 bytes"
            raise refusal(Reason.REASON_FIELD_MALFORMED, cause, field="account", value=account) from None
        return account

    @_named
    def inspect(self, deployment: Deployment) -> frozenset[ChainCapability.ValueType]:
        address = self._mint_of(deployment.token)
        _, account = self._client().account(address)
        if account is None or account.owner != TOKEN_2022_PROGRAM:
            raise DeploymentUnfit(self.chain, f"there is no mint of Token-2022 at {address}")
        try:
            mint = decode_mint(account.data)
        except errors.AccountMalformed as wrong:
            raise DeploymentUnfit(self.chain, str(wrong)) from wrong
        if mint.decimals != deployment.decimals:
            raise DeploymentUnfit(self.chain, f"{address} has {mint.decimals} decimals, registered are {deployment.decimals}")
        if mint.transfer_hook_program is not None:
            raise DeploymentUnfit(self.chain, f"{address} calls {mint.transfer_hook_program} on every transfer, which is not supported")
        delegate = mint.permanent_delegate is not None
        able = {
            ChainCapability.CHAIN_CAPABILITY_MINT: mint.mint_authority is not None,
            ChainCapability.CHAIN_CAPABILITY_BURN: delegate,
            ChainCapability.CHAIN_CAPABILITY_FORCE_TRANSFER: delegate,
            ChainCapability.CHAIN_CAPABILITY_FREEZE: mint.freeze_authority is not None,
            ChainCapability.CHAIN_CAPABILITY_PAUSE: mint.pause_authority is not None,
            ChainCapability.CHAIN_CAPABILITY_MULTIPLIER: mint.scaled_ui_amount_authority is not None,
            ChainCapability.CHAIN_CAPABILITY_SEND: True,
            ChainCapability.CHAIN_CAPABILITY_ANCHOR: True,
        }
        return frozenset(capability for capability, can in able.items() if can)

    @_named
    def finalised(self) -> ChainPosition:
        client = self._client()
        depth = self._settings.finality_depth
        last = client.latest_slot() - depth if depth else client.finalized_slot()
        with self._lock:
            known = self._finalised
        if last <= known.number:
            return known
        slot = client.newest_block(known.number + 1 if known.hash else max(last - 5_000, 0), last)
        if slot is None:
            return known
        position = self._position(client, slot)
        with self._lock:
            if position.number > self._finalised.number:
                self._finalised = position
            return self._finalised

    # The projector's

    @_named
    def prepare(self, instructions: Sequence[Instruction], state: ProjectionState) -> Prepared:
        client = self._client()
        payer = self._payer(state.keys)
        tokens: dict[str, TokenState] = {}
        refusals: list[ChainRefusal] = []
        satisfied: list[str] = []
        waiting: dict[str, ChainFailure.ValueType] = {}
        steps: list[tuple[Step, bool]] = []
        final = self.finalised().number
        for instruction in instructions:
            if instruction.kind not in CAPABLE:
                kind = InstructionKind.Name(instruction.kind)
                raise ChainIncapable(self.chain, f"instruction {instruction.instruction} asks for {kind}")
            token = None
            if instruction.token:
                known = tokens.get(instruction.token)
                token = tokens[instruction.token] = self._token_state(client, instruction, known)
            reporter = self._key_with(state.keys, ChainKeyRole.CHAIN_KEY_ROLE_REPORTER, instruction.instrument)
            outcome = carry_out(instruction, token, payer, reporter)
            if isinstance(outcome, Doing) and not self._may_sign(outcome, instruction, state.keys):
                outcome = Unfit(ChainFailure.CHAIN_FAILURE_KEY_WITHOUT_ROLE, "", for_ever=False)
            match outcome:
                case Doing(parts):
                    alone = instruction.failure == ChainFailure.CHAIN_FAILURE_IN_COMPANY
                    steps.append((Step(f"{self._ledger}/{instruction.instruction}", parts), alone))
                case Satisfied():
                    if token is None or self._is_settled(client, token, instruction, final):
                        satisfied.append(instruction.instruction)
                case Unfit(failure, text, for_ever):
                    if not for_ever:
                        waiting[instruction.instruction] = failure
                    elif token is None or self._is_settled(client, token, instruction, final):
                        refusals.append(ChainRefusal(instruction.instruction, failure, text[:FAILURE_TEXT_MAX]))
        planned = self._plan(client, steps, payer, state) if steps else []
        needed, found = sum(one.fee_lamports_max for one in planned), client.lamports(payer) if planned else 0
        if planned and found < needed:
            raise FundsInsufficient(self.chain, key=self._account(payer), needed=needed, found=found)
        return Prepared(tuple(self._transaction(one) for one in planned), tuple(refusals), tuple(satisfied), waiting)

    @_named
    def replace(self, transaction: OpenTransaction, *, cancel: bool = False) -> Transaction | None:
        client = self._client()
        last = transaction.versions[-1]
        message = Message.from_bytes(last.payload)
        price = _price_of(message)
        wanted = self._price(client, [self._payer_of(message)])
        if cancel:
            nonce_account, value = fate.nonce_of_message(last.payload)
            payer = self._payer_of(message)
            nonce = DurableNonce(nonce_account, payer, value, transaction.cursor_number)
            [planned] = plan([Step(f"{self._ledger}/cancel", ())], payer, [nonce], max(wanted, price + 1))
            made = self._transaction(planned)
            del made.instructions[:]
            made.replacement = True
            return made
        if wanted <= price:
            return None
        payload = _with_price(message, wanted)
        made = Transaction()
        made.CopyFrom(last)
        made.payload, made.fee_max, made.replacement = payload, str(fee_lamports_max(payload, _limit_of(message), wanted)), True
        return made

    @_named
    def send(self, transaction: Transaction) -> None:
        client = self._client()
        signed = sign(transaction.payload, self._signers(transaction.payload))
        payer = required_signers(transaction.payload)[0]
        needed, found = int(transaction.fee_max or "0"), client.lamports(payer)
        if found < needed:
            raise FundsInsufficient(self.chain, key=self._account(payer), needed=needed, found=found)
        try:
            client.send(signed, skips_trial=True)
        except (errors.TransactionRefused, errors.RequestRefused):
            return  # `fate` tells whether it landed

    @_named
    def fate(self, transaction: OpenTransaction, cursor: ChainPosition) -> Fate:
        client = self._client()
        since = transaction.cursor_number + 1
        verdicts = {}
        for version in transaction.versions:
            signature = signature_of(sign(version.payload, self._signers(version.payload)))
            verdict = fate.fate_of(client, version.payload, signature, since_slot=since, through_slot=cursor.number)
            verdicts[verdict.fate] = verdict
        if fate.Fate.SUCCEEDED in verdicts or fate.Fate.FAILED in verdicts:
            return Fate(FateKind.LANDED)
        if fate.Fate.WAITING in verdicts:
            ours = verdicts[fate.Fate.WAITING].transaction
            return Fate(FateKind.LANDED if ours is not None and ours.slot <= self.finalised().number else FateKind.PENDING)
        if fate.Fate.OPEN in verdicts:
            message = Message.from_bytes(transaction.versions[-1].payload)
            return Fate(FateKind.UNSEEN, underpriced=self._price(client, [self._payer_of(message)]) > _price_of(message))
        dead = verdicts[fate.Fate.DEAD]
        last = transaction.versions[-1]
        found = dead.transaction.signature if dead.transaction is not None else str(dead.value or "closed")
        death = DeadTransaction(
            key=last.key, sequence=last.sequence, proof=DeathProof.DEATH_PROOF_VALUE_ADVANCED, position=cursor, found=found
        )
        return Fate(FateKind.DEAD, death)

    # The reader's

    @_named
    def read(
        self,
        after: ChainPosition,
        deployments: Sequence[Deployment],
        open_transactions: Sequence[OpenTransaction],
        *,
        through_number: int | None = None,
        observations_max: int = OBSERVATIONS_PER_RANGE_MAX,
    ) -> ObservedRange | None:
        client = self._client()
        newest = self.finalised().number
        last = newest if through_number is None else min(newest, through_number)
        if last <= after.number:
            return None
        found = client.block_hash(after.number)
        if after.hash and found != after.hash:
            raise HistoryChanged(self.chain, number=after.number, expected=after.hash, found=found)
        through = client.newest_block(after.number + 1, last)
        if through is None:
            return None
        tokens = {self._mint_of(deployment.token): deployment.token for deployment in deployments}
        ours = {version.payload: version for one in open_transactions for version in one.versions}
        nonces = {fate.nonce_of_message(payload)[0] for payload in ours}
        listed = list_range(client, [*tokens, *sorted(nonces, key=bytes)], after.number + 1, through)
        read = ObservedRange(chain=self.chain, after=after)
        complete = after.number
        for slot, together in itertools.groupby(listed, key=lambda one: one.slot):
            observations: list[Observation] = []
            landed: list[LandedTransaction] = []
            for transaction in transactions_of(client, together):
                version = ours.get(transaction.message)
                carried = [] if version is None else list(version.instructions)
                observations += observe(self.chain, tokens, transaction, carried, len(observations))
                if version is not None:
                    landed.append(_landed(version, transaction))
            if read.observations and len(read.observations) + len(observations) > observations_max:
                through = complete
                break
            read.observations.extend(observations)
            read.landed.extend(landed)
            complete = slot
        read.through.CopyFrom(self._position(client, through))
        return read

    # The reconciler's

    @_named
    def measure(self, deployment: Deployment, accounts: Collection[str], at: ChainPosition) -> Measurement:
        client = self._client()
        mint = self._mint_of(deployment.token)
        owners = [(account, Pubkey.from_string(caip.parse_account("account", account).address)) for account in accounts]
        slot, supply, held = self._holdings_at_one_slot(client, mint, {owner for _, owner in owners})
        if slot < at.number:
            raise errors.NodeBehind("getMultipleAccounts", f"the node answered for slot {slot}, before {at.number}")
        for _ in range(600):
            if self.finalised().number >= slot:
                break
            time.sleep(0.05)
        else:
            raise errors.NodeBehind("getSlot", f"slot {slot} did not become final")
        number = client.newest_block(max(slot - 500, 0), slot)
        assert number is not None, "500 slots have a block"
        figures = [ChainFigure(instrument=deployment.instrument, raw=str(supply))]
        figures += [ChainFigure(instrument=deployment.instrument, account=name, raw=str(held.get(owner, 0))) for name, owner in owners]
        return Measurement(self._position(client, number), tuple(figures))

    def close(self) -> None:
        for client in self._clients:
            client.close()

    # Setting up

    @_named
    def open_nonce_accounts(self, payer: Pubkey) -> list[str]:
        """Make the fee payer's nonce accounts that are missing, one ordinary transaction each; return the signatures sent.

        Asked again it makes those that are still missing: an account cannot be made twice.
        """
        client = self._client()
        lamports, sent = client.rent(programs.NONCE_ACCOUNT_BYTES), []
        for number in range(self._nonces):
            _, account = client.account(programs.derived_nonce_account(payer, number))
            if account is not None:
                continue
            blockhash = Hash.from_string(client.latest_blockhash())
            instructions = programs.create_derived_nonce_account(payer, number, lamports)
            message = bytes(Message.new_with_blockhash(instructions, payer, blockhash))
            sent.append(client.send(sign(message, self._signers(message))))
        return sent

    # Below

    def _client(self) -> RpcClient:
        with self._lock:
            number = self._current
        client = self._clients[number]
        if number not in self._checked:
            client.check_chain(self.chain)
            self._checked.add(number)
        return client

    def _use_next_node(self) -> None:
        with self._lock:
            self._current = (self._current + 1) % len(self._clients)

    def _position(self, client: RpcClient, slot: int) -> ChainPosition:
        block_time = client.block_time(slot)
        position = ChainPosition(number=slot, hash=client.block_hash(slot))
        if block_time is not None:
            position.time.CopyFrom(Timestamp(seconds=block_time))
        return position

    def _mint_of(self, token: str) -> Pubkey:
        found = caip.parse_token("token", token)
        if (found.chain, found.namespace) != (self.chain, ASSET_NAMESPACE):
            raise DeploymentUnfit(self.chain, f"{token} is no token here: it must begin with {self.chain}/{ASSET_NAMESPACE}:")
        try:
            return Pubkey.from_string(found.reference)
        except ValueError:
            raise DeploymentUnfit(self.chain, f"{token} does not end in the base58 of 32 bytes") from None

    def _account(self, address: Pubkey) -> str:
        return f"{self.chain}:{address}"

    def _payer(self, keys: Sequence[ChainKey]) -> Pubkey:
        payer = self._key_with(keys, ChainKeyRole.CHAIN_KEY_ROLE_FEE_PAYER, "")
        if payer is None:
            raise KeyMissing(self.chain, "no registered key pays the fees here")
        return payer

    def _key_with(self, keys: Sequence[ChainKey], role: ChainKeyRole.ValueType, instrument: str) -> Pubkey | None:
        for key in keys:
            if role in key.roles and not key.retired and (not key.instruments or instrument in key.instruments):
                return Pubkey.from_string(caip.parse_account("key", key.key).address)
        return None

    def _may_sign(self, doing: Doing, instruction: Instruction, keys: Sequence[ChainKey]) -> bool:
        """Say whether every signer the chain asks for is a registered key with the instruction's role."""
        able = {
            key.key
            for key in keys
            if instruction.role in key.roles and not key.retired and (not key.instruments or instruction.instrument in key.instruments)
        }
        accounts = {self._account(signer) for signer in doing.signers}
        if not accounts <= able:
            return False
        missing = sorted(accounts - self._settings.signers.keys())
        if missing:
            raise KeyMissing(self.chain, f"instruction {instruction.instruction} needs the signature of {missing[0]}, which has no signer")
        return True

    def _token_state(self, client: RpcClient, instruction: Instruction, known: TokenState | None) -> TokenState:
        """Read the mint once a round, and the holders that an instruction names."""
        if known is None:
            address = self._mint_of(instruction.token)
            _, (mint_account, clock) = client.accounts([address, _CLOCK])
            if mint_account is None or clock is None:
                raise DeploymentUnfit(self.chain, f"there is no mint at {address}")
            now = int.from_bytes(clock.data[32:40], "little", signed=True)
            known = TokenState(address, decode_mint(mint_account.data), now, {})
        holders = dict(known.holders)
        for account in (instruction.source, instruction.destination):
            if account and account not in holders:
                owner = Pubkey.from_string(caip.parse_account("account", account).address)
                _, found = client.token_accounts_of(owner, known.address)
                accounts = {one.address: decode_token_account(one.data) for one in found}
                holders[account] = Holder(owner, associated_account(owner, known.address), accounts)
        return TokenState(known.address, known.mint, known.time, holders)

    def _is_settled(self, client: RpcClient, token: TokenState, instruction: Instruction, final: int) -> bool:
        """Say whether what an outcome rests on is final: nothing after `final` names the mint's accounts concerned, or the mint."""
        concerned = [token.holders[account] for account in (instruction.source, instruction.destination) if account]
        addresses = [address for holder in concerned for address in (holder.associated, *holder.accounts)] or [token.address]
        for address in addresses:
            newest = client.newest_signature(address)
            if newest is not None and newest.slot > final:
                return False
        return True

    def _plan(self, client: RpcClient, steps: list[tuple[Step, bool]], payer: Pubkey, state: ProjectionState) -> list[PlannedTransaction]:
        price = self._price(client, [payer])
        nonces = self._free_nonces(client, payer, state)
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

    def _free_nonces(self, client: RpcClient, payer: Pubkey, state: ProjectionState) -> Iterator[DurableNonce]:
        used = {version.sequence.one_time_value.account for one in state.open_transactions for version in one.versions}
        for number in range(self._nonces):
            address = programs.derived_nonce_account(payer, number)
            if str(address) in used:
                continue
            try:
                nonce = fate.final_nonce(client, address)
            except errors.AccountMalformed as missing:
                raise KeyMissing(self.chain, f"nonce account {number} of {payer} is not open: {missing}") from missing
            if nonce is not None:
                yield nonce

    def _price(self, client: RpcClient, writable: Sequence[Pubkey]) -> int:
        """Return the priority fee to offer: the upper quarter of what recent slots took, within the settings."""
        recent = sorted(client.recent_priority_fees(writable))
        usual = recent[len(recent) * 3 // 4] if recent else 0
        return min(max(usual, self._price_min), self._price_max)

    def _transaction(self, planned: PlannedTransaction) -> Transaction:
        payer, *cosigners = required_signers(planned.message)
        value = OneTimeValue(account=str(planned.nonce.account), value=str(planned.nonce.value))
        return Transaction(
            key=self._account(payer),
            sequence=TransactionSequence(one_time_value=value),
            payload=planned.message,
            instructions=[number.rpartition("/")[2] for number in planned.instruction_ids],
            fee_max=str(planned.fee_lamports_max),
            cosigners=[self._account(address) for address in cosigners],
        )

    def _payer_of(self, message: Message) -> Pubkey:
        return message.account_keys[0]

    def _signers(self, payload: bytes) -> list[NamedSigner]:
        found = []
        for address in required_signers(payload):
            signer = self._settings.signers.get(self._account(address))
            if signer is None:
                raise KeyMissing(self.chain, f"there is no signer for {self._account(address)}")
            found.append(NamedSigner(address, signer))
        return found

    def _holdings_at_one_slot(self, client: RpcClient, mint: Pubkey, owners: set[Pubkey]) -> tuple[int, int, dict[Pubkey, int]]:
        """Return a slot, the supply at it and what each owner holds at it, over all accounts of theirs."""
        for _ in range(_MEASURE_TRIES):
            if len(owners) <= _OWNERS_ASKED_SINGLY_MAX:
                every = [one for owner in sorted(owners, key=bytes) for one in client.token_accounts_of(owner, mint)[1]]
            else:
                _, every = client.token_accounts(mint)
            theirs = [one.address for one in every if decode_token_account(one.data).owner in owners]
            parts = [theirs[start : start + ACCOUNTS_MAX - 1] for start in range(0, len(theirs) or 1, ACCOUNTS_MAX - 1)]
            answers = [client.accounts([mint, *part]) for part in parts]
            slots = {slot for slot, _ in answers}
            mints = {found[0].data for _, found in answers if found[0] is not None}
            newest = client.newest_signature(mint)
            if len(mints) != 1 or (len(answers) > 1 and newest is not None and newest.slot >= min(slots)):
                continue
            held: dict[Pubkey, int] = {}
            for _, found in answers:
                for one in found[1:]:
                    if one is not None:
                        account = decode_token_account(one.data)
                        held[account.owner] = held.get(account.owner, 0) + account.units
            return min(slots), decode_mint(mints.pop()).supply, held
        raise NodeUnfit(self.chain, f"the holdings of {mint} did not come together at one slot in {_MEASURE_TRIES} tries")


class NamedSigner:
    """A signer of the settings under the key it signs for."""

    def __init__(self, public_key: Pubkey, signer: Signer) -> None:
        self.public_key = public_key
        self.sign = signer.sign


def connect(settings: ChainSettings) -> SplAdapter:
    """Make an adapter without asking the node yet.

    Raises: ValueError for settings that cannot be.
    """
    return SplAdapter(settings)


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


def _landed(version: Transaction, transaction: OnChain) -> LandedTransaction:
    landed = LandedTransaction(
        key=version.key,
        sequence=version.sequence,
        payload_digest=hashlib.sha256(transaction.message).digest(),
        transaction=transaction.signature,
        number=transaction.slot,
        fee=str(transaction.fee_lamports),
    )
    if transaction.error is not None:
        landed.failure, landed.failure_text = failure_of(transaction.error, len(version.instructions))
    return landed


def _budget(message: Message, code: int) -> tuple[int, bytes]:
    for place, instruction in enumerate(message.instructions):
        if message.account_keys[instruction.program_id_index] == COMPUTE_BUDGET_PROGRAM and bytes(instruction.data)[:1] == bytes([code]):
            return place, bytes(instruction.data)
    raise AssertionError("every transaction of ours names its compute units and their price")


def _price_of(message: Message) -> int:
    return int.from_bytes(_budget(message, _SET_PRICE)[1][1:], "little")


def _limit_of(message: Message) -> int:
    return int.from_bytes(_budget(message, 2)[1][1:], "little")


def _with_price(message: Message, microlamports: int) -> bytes:
    """Return the same message with another priority fee."""
    place, _ = _budget(message, _SET_PRICE)
    old = message.instructions[place]
    data = bytes(programs.set_compute_unit_price(microlamports).data)
    instructions = [*message.instructions]
    instructions[place] = CompiledInstruction(old.program_id_index, data, bytes(old.accounts))
    header = message.header
    return bytes(
        Message.new_with_compiled_instructions(
            header.num_required_signatures,
            header.num_readonly_signed_accounts,
            header.num_readonly_unsigned_accounts,
            message.account_keys,
            message.recent_blockhash,
            instructions,
        )
    )
