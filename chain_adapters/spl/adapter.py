"""Solana as the projector, the reader and the reconciler see it: one durable nonce a transaction, whole slots a range.

Options of `ChainSettings`:

    nonces                 how many nonce accounts the fee payer has, numbered from 0 (16); as many transactions can be open at once
    batch                  how many instructions a transaction carries at most, where they fit (12)
    priority_microlamports the least priority fee offered for a compute unit (0), above which recent fees decide
    priority_max           the most (1000000)

All of an answer comes from one node; where that one fails, the whole question is put to the next.

The nonce accounts stand at addresses derived from the fee payer's key: `open_nonce_accounts` makes those that are missing, once.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Concatenate, Final, ParamSpec, TypeVar

from solders.hash import Hash
from solders.message import Message
from solders.pubkey import Pubkey

from chain_adapters.multipliers import Schedule, tell_in_force
from chain_adapters.protocol import (
    OBSERVATIONS_PER_RANGE_MAX,
    ChainDescription,
    ChainError,
    ChainIncapable,
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
from chain_adapters.spl.account_layout import decode_mint
from chain_adapters.spl.addresses import TOKEN_2022_PROGRAM
from chain_adapters.spl.fees import PriceRange, limit_of, price_of, with_price
from chain_adapters.spl.funds import cost_of, lamports_needed
from chain_adapters.spl.measuring import holdings_at_one_slot
from chain_adapters.spl.multiplier_view import SlotClock, schedule_at
from chain_adapters.spl.names import account_of, mint_of, owner_of
from chain_adapters.spl.planning import DurableNonce, Step, fee_lamports_max, plan
from chain_adapters.spl.preparing import NONCES_FOR_STOPS, Preparation, recorded
from chain_adapters.spl.reading import position_at, read_slots
from chain_adapters.spl.rpc import RpcClient
from chain_adapters.spl.signing import required_signers, sign, signature_of
from ledger import caip
from ledger.errors import refusal
from stockledger.v1.chains_pb2 import (
    ChainCapability,
    ChainFigure,
    ChainPosition,
    DeadTransaction,
    DeathProof,
    Deployment,
    DeploymentKind,
    Instruction,
    ObservedRange,
    OpenTransaction,
    Transaction,
)
from stockledger.v1.errors_pb2 import Reason

NONCES_DEFAULT: Final = 16
BATCH_DEFAULT: Final = 12

P = ParamSpec("P")
R = TypeVar("R")


def _named(verb: Callable[Concatenate[SplAdapter, RpcClient, P], R]) -> Callable[Concatenate[SplAdapter, P], R]:
    """Give a verb one node, put what that did into the errors of the protocol, and ask the next one where it was the node's fault."""

    @functools.wraps(verb)
    def named(self: SplAdapter, /, *args: P.args, **kwargs: P.kwargs) -> R:
        for place in range(len(self._clients)):
            number = self._current
            try:
                return verb(self, self._client(number), *args, **kwargs)
            except errors.SolanaError as failed:
                told = self._told(number, failed)
                if place == len(self._clients) - 1 or not isinstance(told, ChainUnavailable | NodeUnfit):
                    raise told from failed
        raise AssertionError("the last node answered or failed")

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
        if self._nonces <= NONCES_FOR_STOPS:
            raise ValueError(f"option nonces is {self._nonces}; {NONCES_FOR_STOPS} is kept for stops, and movements need others")
        self._batch = settings.whole_number("batch", BATCH_DEFAULT)
        if self._batch == 0:
            raise ValueError("option batch is 0; a transaction carries at least one instruction")
        lowest, highest = settings.whole_number("priority_microlamports", 0), settings.whole_number("priority_max", 1_000_000)
        self._prices = PriceRange(lowest, highest)

    # What it is

    @_named
    def describe(self, client: RpcClient) -> ChainDescription:
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
            instructions_per_transaction_max=self._batch,
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
    def inspect(self, client: RpcClient, deployment: Deployment) -> frozenset[ChainCapability.ValueType]:
        address = mint_of(self.chain, deployment.token)
        _, account = client.account(address)
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
        if deployment.kind == DeploymentKind.DEPLOYMENT_KIND_OMNIBUS:
            return frozenset({ChainCapability.CHAIN_CAPABILITY_SEND})
        delegate = mint.permanent_delegate is not None
        able = {
            ChainCapability.CHAIN_CAPABILITY_MINT: mint.mint_authority is not None,
            ChainCapability.CHAIN_CAPABILITY_BURN: delegate,
            ChainCapability.CHAIN_CAPABILITY_FORCE_TRANSFER: delegate,
            ChainCapability.CHAIN_CAPABILITY_FREEZE: mint.freeze_authority is not None,
            ChainCapability.CHAIN_CAPABILITY_PAUSE: mint.pause_authority is not None,
            ChainCapability.CHAIN_CAPABILITY_MULTIPLIER: mint.scaled_ui_amount_authority is not None,
            ChainCapability.CHAIN_CAPABILITY_ANCHOR: True,
        }
        return frozenset(capability for capability, can in able.items() if can)

    @_named
    def finalised(self, client: RpcClient) -> ChainPosition:
        return self._final(client)

    # The projector's

    @_named
    def prepare(self, client: RpcClient, instructions: Sequence[Instruction], state: ProjectionState) -> Prepared:
        signers = self._settings.signers
        final = self._final(client).number
        round_ = Preparation(self.chain, client, final, self._ledger, self._nonces, self._batch, self._prices, signers, state)
        return round_.run(instructions)

    @_named
    def replace(self, client: RpcClient, transaction: OpenTransaction, *, cancel: bool = False) -> Transaction | None:
        last = transaction.versions[-1]
        message = Message.from_bytes(last.payload)
        payer, price = message.account_keys[0], price_of(message)
        wanted = self._prices.offer(client, [payer])
        if cancel:
            nonce_account, value = fate.nonce_of_message(last.payload)
            nonce = DurableNonce(nonce_account, payer, value, transaction.cursor_number)
            [planned] = plan([Step(f"{self._ledger}/cancel", ())], payer, [nonce], max(wanted, price + 1))
            made = recorded(self.chain, planned)
            del made.instructions[:]
            made.replacement = True
            self._check_funds(client, made)
            return made
        if wanted <= price:
            return None
        payload = with_price(message, wanted)
        made = Transaction()
        made.CopyFrom(last)
        made.payload, made.fee_max, made.replacement = payload, str(fee_lamports_max(payload, limit_of(message), wanted)), True
        self._check_funds(client, made)
        return made

    @_named
    def send(self, client: RpcClient, transaction: Transaction) -> None:
        signed = sign(transaction.payload, self._signers(transaction.payload))
        self._check_funds(client, transaction)
        try:
            client.send(signed, skips_trial=True)
        except (errors.TransactionRefused, errors.RequestRefused):
            return  # `fate` tells whether it landed

    @_named
    def fate(self, client: RpcClient, transaction: OpenTransaction, cursor: ChainPosition) -> Fate:
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
            return Fate(FateKind.LANDED if ours is not None and ours.slot <= self._final(client).number else FateKind.PENDING)
        if fate.Fate.OPEN in verdicts:
            message = Message.from_bytes(transaction.versions[-1].payload)
            return Fate(FateKind.UNSEEN, underpriced=self._prices.offer(client, message.account_keys[:1]) > price_of(message))
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
        client: RpcClient,
        after: ChainPosition,
        deployments: Sequence[Deployment],
        open_transactions: Sequence[OpenTransaction],
        *,
        through_number: int | None = None,
        observations_max: int = OBSERVATIONS_PER_RANGE_MAX,
    ) -> ObservedRange | None:
        newest = self._final(client).number
        last = newest if through_number is None else min(newest, through_number)
        if last <= after.number:
            return None
        found = client.block_hash(after.number)
        if after.hash and found != after.hash:
            raise HistoryChanged(self.chain, number=after.number, expected=after.hash, found=found)
        through = client.newest_block(after.number + 1, last)
        if through is None:
            return None
        tokens = {mint_of(self.chain, deployment.token): deployment.token for deployment in deployments}
        ours = {version.payload: version for one in open_transactions for version in one.versions}
        read = read_slots(client, after, through, tokens, ours, chain=self.chain, observations_max=observations_max)
        found_at = after.number

        def find(deployment: Deployment) -> Schedule | None:
            return schedule_at(client, mint_of(self.chain, deployment.token), found_at)

        tell_in_force(read, deployments, SlotClock(client), find, observations_max)
        return read

    # The reconciler's

    @_named
    def measure(self, client: RpcClient, deployment: Deployment, accounts: Collection[str], at: ChainPosition) -> Measurement:
        mint = mint_of(self.chain, deployment.token)
        owners = [(account, owner_of(account)) for account in accounts]
        slot, supply, held = holdings_at_one_slot(client, mint, {owner for _, owner in owners})
        if slot < at.number:
            raise errors.NodeBehind("getMultipleAccounts", f"the node answered for slot {slot}, before {at.number}")
        for _ in range(600):
            if self._final(client).number >= slot:
                break
            time.sleep(0.05)
        else:
            raise errors.NodeBehind("getSlot", f"slot {slot} did not become final")
        number = client.newest_block(max(slot - 500, 0), slot)
        assert number is not None, "500 slots have a block"
        figures = [ChainFigure(instrument=deployment.instrument, raw=str(supply))]
        figures += [ChainFigure(instrument=deployment.instrument, account=name, raw=str(held.get(owner, 0))) for name, owner in owners]
        return Measurement(position_at(client, number), tuple(figures))

    def close(self) -> None:
        for client in self._clients:
            client.close()

    # Setting up

    def open_nonce_accounts(self, payer: Pubkey) -> list[str]:
        """Make the fee payer's nonce accounts that are missing, one ordinary transaction each; return the signatures sent.

        Asked again it makes those that are still missing: an account cannot be made twice. Another node may not have seen yet what was
        sent through the first, so that none steps in meanwhile.
        """
        number = self._current
        try:
            return self._open_nonce_accounts(self._client(number), payer)
        except errors.SolanaError as failed:
            raise self._told(number, failed) from failed

    def _open_nonce_accounts(self, client: RpcClient, payer: Pubkey) -> list[str]:
        lamports, sent = client.rent(programs.NONCE_ACCOUNT_BYTES), []
        for number in range(self._nonces):
            _, account = client.account(programs.derived_nonce_account(payer, number))
            if account is not None and account.is_made:
                continue
            blockhash = Hash.from_string(client.latest_blockhash())
            instructions = programs.create_derived_nonce_account(payer, number, lamports)
            message = bytes(Message.new_with_blockhash(instructions, payer, blockhash))
            sent.append(client.send(sign(message, self._signers(message))))
        return sent

    # Below

    def _client(self, number: int) -> RpcClient:
        """Return a node, once it is known to be of the chain.

        Raises: WrongChain, and what else a node does.
        """
        client = self._clients[number]
        if number not in self._checked:
            client.check_chain(self.chain)
            self._checked.add(number)
        return client

    def _told(self, number: int, failed: errors.SolanaError) -> ChainError:
        """Return an error in the words of the protocol; where it is the node's, the next one is asked from now on."""
        if isinstance(failed, errors.KeyMalformed | errors.SignatureWrong):
            return KeyMissing(self.chain, str(failed))
        if isinstance(failed, errors.TransactionTooLarge | errors.MultiplierNotRepresentable):
            return ChainIncapable(self.chain, str(failed))
        with self._lock:
            if self._current == number:
                self._current = (number + 1) % len(self._clients)
        if isinstance(failed, errors.NodeUnreachable | errors.NodeOverloaded | errors.NodeBehind | errors.NodeFailed):
            seconds = getattr(failed, "retry_after_seconds", None)
            return ChainUnavailable(self.chain, str(failed), retry_after_seconds=float(seconds or 1))
        return NodeUnfit(self.chain, str(failed))

    def _final(self, client: RpcClient) -> ChainPosition:
        """Return the newest final position, of all that were ever told."""
        depth = self._settings.finality_depth
        last = client.latest_slot() - depth if depth else client.finalized_slot()
        with self._lock:
            known = self._finalised
        if last <= known.number:
            return known
        slot = client.newest_block(known.number + 1 if known.hash else max(last - 5_000, 0), last)
        if slot is None:
            return known
        position = position_at(client, slot)
        with self._lock:
            if position.number > self._finalised.number:
                self._finalised = position
            return self._finalised

    def _check_funds(self, client: RpcClient, transaction: Transaction) -> None:
        """Refuse a transaction that its payer cannot pay.

        Raises: FundsInsufficient.
        """
        payer = required_signers(transaction.payload)[0]
        found, [needed] = lamports_needed(client, payer, [cost_of(transaction.payload, int(transaction.fee_max or "0"))])
        if found < needed:
            raise FundsInsufficient(self.chain, key=account_of(self.chain, payer), needed=needed, found=found)

    def _signers(self, payload: bytes) -> list[NamedSigner]:
        found = []
        for address in required_signers(payload):
            signer = self._settings.signers.get(account_of(self.chain, address))
            if signer is None:
                raise KeyMissing(self.chain, f"there is no signer for {account_of(self.chain, address)}")
            found.append(NamedSigner(address, signer))
        return found


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
