"""EVM chains as the projector, the reader and the reconciler see them: one number a transaction, whole blocks a range.

Options of `ChainSettings`:

    ledger                      the ledger's id, of which every instruction's id on chain is made
    anchor                      address of the CheckpointAnchor; none: checkpoints are not kept here
    reserve_feed:<instrument>   address of a ReserveFeed; none: that reserve is not told here
    fee_max_wei                 the most that is offered for a unit of gas (500 gwei)
    priority_min_wei            the least that is offered to the proposer (0); the node's suggestion where that is more
    blocks_max                  blocks asked for at once (2000); providers that take fewer are found out

All of an answer comes from one node; where that one fails, the whole question is put to the next.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from eth_utils.address import to_checksum_address

from chain_adapters.evm.chain_view import ChainView, position_of
from chain_adapters.evm.codec import NotDecodable, decode_answer, encode_call
from chain_adapters.evm.landing import Landed, block_of, digests, landed_in, landed_message, version_of
from chain_adapters.evm.multiplier_view import BlockClock, schedule_at
from chain_adapters.evm.node import BLOCKS_MAX, Node, NodeAway, NodeError, NodeNonsense, NodeRefused, RawLog, read_number
from chain_adapters.evm.observation import Watched, observe
from chain_adapters.evm.preparing import INSTRUCTIONS_PER_TRANSACTION_MAX, Preparation, check_funds, recorded
from chain_adapters.evm.receipts import check_logs, failure_of
from chain_adapters.evm.stand import stand_at
from chain_adapters.evm.steps import Places, address_of
from chain_adapters.evm.token_calls import TOKEN
from chain_adapters.evm.token_code import TokenCode
from chain_adapters.evm.transactions import (
    Fees,
    assemble,
    fees_now,
    is_underpriced,
    read_payload,
    replacement_fees,
    transaction_hash,
)
from chain_adapters.multipliers import Schedule, tell_in_force
from chain_adapters.protocol import (
    OBSERVATIONS_PER_RANGE_MAX,
    ChainDescription,
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
)
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
    LandedTransaction,
    Observation,
    ObservedRange,
    OpenTransaction,
    Transaction,
)
from stockledger.v1.errors_pb2 import Reason

NAMESPACE: Final = "eip155"
ASSET_NAMESPACE: Final = "erc20"
FEE_MAX_WEI: Final = 500 * 10**9
TIP_PATIENCE_SECONDS: Final = 60
"""A tip is held against today's once a block is final that was made so long after the version was recorded, and did not take it."""
FINAL_AFTER_SECONDS: Final = 900
"""Two epochs of 32 slots of 12 s, and a part of the one a transaction is in."""
ACCOUNTS_PER_CALL: Final = 200
SPAN_FIRST: Final = 128
SPAN_MIN: Final = 16
"""Blocks of a range: it begins with the first, and grows up to `blocks_max` as long as ranges are read to their end."""
_HARMLESS: Final = (
    "known",
    "already imported",
    "nonce too low",
    "underpriced",
    "less than block base fee",
    "below base fee",
    "fee too low",
)
_FULL: Final = ("pool is full", "pool limit", "overflow")


P = ParamSpec("P")
R = TypeVar("R")


def _named(verb: Callable[Concatenate[EvmAdapter, ChainView, P], R]) -> Callable[Concatenate[EvmAdapter, P], R]:
    """Give a verb one node, put what that did into the errors of the protocol, and ask the next one where it failed."""

    @functools.wraps(verb)
    def named(self: EvmAdapter, /, *args: P.args, **kwargs: P.kwargs) -> R:
        for place in range(len(self.nodes)):
            last = place == len(self.nodes) - 1
            number = self.current
            try:
                return verb(self, self.view(number), *args, **kwargs)
            except NodeAway as away:
                self.use_next(number)
                if last:
                    raise ChainUnavailable(self.chain, str(away), retry_after_seconds=away.retry_after_seconds) from away
            except (NodeError, NotDecodable) as wrong:
                self.use_next(number)
                if last:
                    raise NodeUnfit(self.chain, str(wrong)) from wrong
            except NodeUnfit:
                self.use_next(number)
                if last:
                    raise
        raise AssertionError("the last node answered or failed")

    return named


class EvmAdapter:
    """Our tokens, and others' in our wallets, on one EVM chain."""

    def __init__(self, settings: ChainSettings) -> None:
        caip.check_chain("chain", settings.chain)
        namespace, _, reference = settings.chain.partition(":")
        if namespace != NAMESPACE or not reference.isdecimal():
            message = f"{settings.chain} is no EVM chain: it must read eip155:<chain id>"
            raise ValueError(message)
        if not settings.urls:
            raise ValueError("a chain needs the URL of a node")
        self._settings = settings
        self._id = int(reference)
        self.chain = settings.chain
        self.nodes = [Node(url) for url in settings.urls]
        self.current = 0
        self._checked: set[int] = set()
        self._lock = threading.Lock()
        self._finalised = ChainPosition()
        self._code = TokenCode()
        self._fee_max = settings.whole_number("fee_max_wei", FEE_MAX_WEI)
        self._priority_min = settings.whole_number("priority_min_wei", 0)
        self._blocks_max = max(1, settings.whole_number("blocks_max", BLOCKS_MAX))
        self._span = min(SPAN_FIRST, self._blocks_max)
        """Blocks of the next range: fewer after one that failed, for a node that fails now and then gets through no long one."""
        feeds = {
            name.partition(":")[2]: _address(name, value) for name, value in settings.options.items() if name.startswith("reserve_feed:")
        }
        anchor = settings.options.get("anchor", "")
        self._places = Places(settings.ledger, _address("anchor", anchor) if anchor else "", feeds)

    # What it is

    @_named
    def describe(self, view: ChainView) -> ChainDescription:
        node = view.node.call("web3_clientVersion")
        every = frozenset(ChainCapability.values()) - {ChainCapability.CHAIN_CAPABILITY_UNSPECIFIED}
        return ChainDescription(
            chain=self.chain,
            node=node if isinstance(node, str) else "",
            capabilities=every,
            instructions_per_transaction_max=INSTRUCTIONS_PER_TRANSACTION_MAX,
            final_after_seconds=FINAL_AFTER_SECONDS,
        )

    def check_account(self, account: str) -> str:
        found = caip.parse_account("account", account)
        if found.chain != self.chain:
            cause = f"account {account!r} does not stand on {self.chain}"
            raise refusal(Reason.REASON_FIELD_MALFORMED, cause, field="account", value=account)
        try:
            canonical = str(to_checksum_address(found.address))
        except ValueError:
            canonical = ""
        digits = found.address.removeprefix("0x")
        if canonical != found.address and (not canonical or digits not in (digits.lower(), digits.upper())):
            cause = f"account {account!r} does not end in an address of 20 bytes with the checksum of EIP-55"
            raise refusal(Reason.REASON_FIELD_MALFORMED, cause, field="account", value=account)
        return f"{self.chain}:{canonical}"

    @_named
    def inspect(self, view: ChainView, deployment: Deployment) -> frozenset[ChainCapability.ValueType]:
        token = self._token(deployment.token)
        try:
            decimals = view.ask(TOKEN, token, "decimals()")
        except (NotDecodable, NodeRefused) as error:
            raise DeploymentUnfit(self.chain, f"there is no token at {token}: {error}") from error
        if decimals != deployment.decimals:
            raise DeploymentUnfit(self.chain, f"{token} has {decimals} decimals, registered are {deployment.decimals}")
        if deployment.kind == DeploymentKind.DEPLOYMENT_KIND_OMNIBUS:
            return frozenset({ChainCapability.CHAIN_CAPABILITY_SEND})
        if not self._code.is_ours(view, token):
            raise DeploymentUnfit(self.chain, f"{token} does not run the code of StockToken that this adapter knows")
        able = set(ChainCapability.values()) - {ChainCapability.CHAIN_CAPABILITY_UNSPECIFIED, ChainCapability.CHAIN_CAPABILITY_SEND}
        if not self._places.anchor:
            able.discard(ChainCapability.CHAIN_CAPABILITY_ANCHOR)
        if deployment.instrument not in self._places.feeds:
            able.discard(ChainCapability.CHAIN_CAPABILITY_RESERVE_FEED)
        return frozenset(ChainCapability.ValueType(one) for one in able)

    @_named
    def finalised(self, view: ChainView) -> ChainPosition:
        self._final(view)
        return self._finalised

    # The projector's

    @_named
    def prepare(self, view: ChainView, instructions: Sequence[Instruction], state: ProjectionState) -> Prepared:
        final = self._final(view).number
        if final < state.cursor.number:
            raise NodeAway(f"the node has finalised block {final}, the ledger has read {state.cursor.number}")
        fees = self.fees(view)
        round_ = Preparation(self.chain, view, final, fees, self._places, self._settings.signers.keys(), state)
        return round_.run(instructions)

    @_named
    def replace(self, view: ChainView, transaction: OpenTransaction, *, cancel: bool = False) -> Transaction | None:
        last = transaction.versions[-1]
        old = read_payload(last.payload)
        idle = cancel and not last.instructions
        if (not cancel or idle) and not self._is_underpriced(view, transaction, self._final(view)):
            return None
        fees = replacement_fees(old.fees, self.fees(view), most=self._fee_max)
        if fees is None:
            return None  # the operator's limit: what is recorded waits for lower fees
        newer = old.cancellation(address_of(last.key), fees) if cancel else old.with_fees(fees)
        check_funds(self.chain, view, last.key, newer.cost_most)
        return recorded(last.key, newer, () if cancel else last.instructions, replacement=True)

    @_named
    def send(self, view: ChainView, transaction: Transaction) -> None:
        raw = self._signed(transaction)
        try:
            view.node.call("eth_sendRawTransaction", "0x" + raw.hex())
        except NodeRefused as refused:
            words = refused.message.lower()
            if "insufficient funds" in words:
                check_funds(self.chain, view, transaction.key, int(transaction.fee_max))
                found = view.node.number("eth_getBalance", address_of(transaction.key), "latest")
                raise FundsInsufficient(self.chain, key=transaction.key, needed=int(transaction.fee_max), found=found) from refused
            if any(word in words for word in _FULL):
                raise NodeAway(f"the node takes no more transactions now: {refused.message}") from refused
            if not any(word in words for word in _HARMLESS):
                raise

    @_named
    def fate(self, view: ChainView, transaction: OpenTransaction, cursor: ChainPosition) -> Fate:
        first, last = transaction.versions[0], transaction.versions[-1]
        sender, number = address_of(first.key), first.sequence.number
        known = self._told(view, last)
        block_number = block_of(transaction, lambda version: known if version is last else self._told(view, version))
        if block_number is not None:
            is_final = block_number <= self._finalised.number or block_number <= self._final(view).number
            return Fate(FateKind.LANDED if is_final else FateKind.PENDING)
        final = self._final(view)
        newest = view.newest()
        if view.count(sender, newest) <= number:
            underpriced = self._is_underpriced(view, transaction, final)
            return Fate(FateKind.UNSEEN if known is None else FateKind.PENDING, underpriced=underpriced)
        versions = digests(transaction.versions)
        for block, entry in view.sent(sender, transaction.cursor_number, newest, number):
            if read_number(entry["nonce"]) != number:
                continue
            position = position_of(block)
            if version_of(entry, versions) is not None:
                return Fate(FateKind.LANDED if position.number <= final.number else FateKind.PENDING)
            return self._death(view, first, position, str(entry["hash"]), cursor)
        # Its number was gone when it was recorded: up to there the reader had seen everything, and not this.
        position = view.position(cursor.number)
        try:
            consumed = view.count(sender, position.number)
        except NodeRefused:  # it keeps no state of so long ago: the reader comes nearer
            return Fate(FateKind.PENDING)
        if consumed <= number:  # some nodes count what is in the block they are just making
            raise NodeAway(f"{sender} is said to have used number {number} up, and no block after {position.number} has it yet")
        return self._death(view, first, position, f"count {consumed}", cursor)

    # The reader's

    @_named
    def read(
        self,
        view: ChainView,
        after: ChainPosition,
        deployments: Sequence[Deployment],
        open_transactions: Sequence[OpenTransaction],
        *,
        through_number: int | None = None,
        observations_max: int = OBSERVATIONS_PER_RANGE_MAX,
    ) -> ObservedRange | None:
        final = view.final(self._settings.finality_depth).number
        last = final if through_number is None else min(final, through_number)
        self._check_history(view, after)
        if last <= after.number:
            return None
        watched = self._watched(view, deployments)
        span = self._span
        self._span = max(SPAN_MIN, span // 4)  # of the next, should this one fail
        last = min(last, after.number + span)
        addresses = sorted(watched.keys() | _beacons(watched) | self._code.deny_lists(view, _beacons(watched), after.number, last))
        logs: list[RawLog] = []
        through = after.number
        for reached, found in view.node.logs(addresses, after.number + 1, last, self._blocks_max) if addresses else [(last, [])]:
            logs, through = logs + found, reached
            if len(logs) > observations_max:
                break
        ours = landed_in(view, open_transactions, after.number, through, functools.partial(self._told, view))
        by_hash = {one.transaction: one for one in ours}
        read = ObservedRange(chain=self.chain, after=after)
        complete = after.number
        for number, together in itertools.groupby(logs, key=lambda log: log.block):
            seen = self._observations(view, watched, addresses, list(together), by_hash)
            if read.observations and len(read.observations) + len(seen) > observations_max:
                through = complete
                break
            read.observations.extend(seen)
            complete = number
        for one in ours:
            if one.number <= through:
                read.landed.append(self._landed_message(view, one, addresses, logs))
        read.through.CopyFrom(view.position(through))
        tell_in_force(read, deployments, BlockClock(view), lambda one: self._schedule(view, one, after), observations_max)
        self._check_state(view, read, deployments)
        self._check_history(view, after)
        self._span = max(SPAN_MIN, min(2 * span, self._blocks_max))
        return read

    # The reconciler's

    @_named
    def measure(self, view: ChainView, deployment: Deployment, accounts: Collection[str], at: ChainPosition) -> Measurement:
        token = self._token(deployment.token)
        owners = [(account, address_of(account)) for account in accounts]
        native = deployment.kind != DeploymentKind.DEPLOYMENT_KIND_OMNIBUS
        try:
            supply, held = self._holdings(view, token, [address for _, address in owners], at, together=native)
            position = at
        except NodeRefused:
            position = view.final(self._settings.finality_depth)
            if position.number < at.number:
                raise NodeAway(f"the node has finalised block {position.number}, before {at.number}") from None
            supply, held = self._holdings(view, token, [address for _, address in owners], position, together=native)
        figures = [ChainFigure(instrument=deployment.instrument, raw=str(supply))]
        figures += [
            ChainFigure(instrument=deployment.instrument, account=account, raw=str(units))
            for (account, _), units in zip(owners, held, strict=True)
        ]
        return Measurement(position, tuple(figures))

    def close(self) -> None:
        for node in self.nodes:
            node.close()

    # Nodes

    def view(self, number: int) -> ChainView:
        """Return a node that is of this chain.

        Raises: NodeUnfit, NodeError.
        """
        view = ChainView(self.nodes[number])
        if number not in self._checked:
            found = view.node.number("eth_chainId")
            if found != self._id:
                raise NodeUnfit(self.chain, f"the node is of eip155:{found}")
            self._checked.add(number)
        return view

    def use_next(self, number: int) -> None:
        """Turn to the node after one that failed, unless another thread has."""
        with self._lock:
            if self.current == number:
                self.current = (number + 1) % len(self.nodes)

    # Below

    def _final(self, view: ChainView) -> ChainPosition:
        """Return a node's newest final block, and remember it: another node that is behind takes nothing back."""
        position = view.final(self._settings.finality_depth)
        with self._lock:
            if position.number > self._finalised.number or not self._finalised.hash:
                self._finalised = position
        return position

    def _token(self, token: str) -> str:
        found = caip.parse_token("token", token)
        if (found.chain, found.namespace) != (self.chain, ASSET_NAMESPACE):
            raise DeploymentUnfit(self.chain, f"{token} is no token here: it must begin with {self.chain}/{ASSET_NAMESPACE}:")
        try:
            return str(to_checksum_address(found.reference))
        except ValueError:
            raise DeploymentUnfit(self.chain, f"{token} does not end in an address of 20 bytes") from None

    def _schedule(self, view: ChainView, deployment: Deployment, after: ChainPosition) -> Schedule | None:
        return schedule_at(view, self._token(deployment.token), after.number, self._blocks_max)

    def _watched(self, view: ChainView, deployments: Sequence[Deployment]) -> dict[str, Watched]:
        watched = {}
        for deployment in deployments:
            token = self._token(deployment.token)
            native = deployment.kind != DeploymentKind.DEPLOYMENT_KIND_OMNIBUS
            beacon = self._code.beacon_of(view, token).lower() if native else ""
            watched[token.lower()] = Watched(deployment.token, native, beacon)
        return watched

    def _base_fee(self, view: ChainView) -> int:
        found = view.block("latest")
        if found is None or "baseFeePerGas" not in found:
            raise NodeUnfit(self.chain, "the newest block has no base fee: the chain is from before EIP-1559")
        return read_number(found["baseFeePerGas"])

    def fees(self, view: ChainView) -> Fees:
        """Return the fees to offer now, within the operator's limits."""
        return fees_now(self._base_fee(view), self._priority(view), most=self._fee_max)

    def _priority(self, view: ChainView) -> int:
        """Return what to offer the proposer now, in wei: what the node suggests, and no less than the operator's least."""
        try:
            suggested = view.node.number("eth_maxPriorityFeePerGas")
        except NodeRefused:
            suggested = 0
        return max(suggested, self._priority_min)

    def _is_underpriced(self, view: ChainView, transaction: OpenTransaction, final: ChainPosition) -> bool:
        """Tell whether a last version that has not landed needs other fees: at once below the base fee, for its tip once it has waited.

        Tips go up and down with every block, so one is only asked about after blocks that did not take it are final. Each replacement
        begins to wait anew, and offers more by a whole step: a change of fees leads to few of them.
        """
        waited = final.time.seconds - transaction.last_time.seconds >= TIP_PATIENCE_SECONDS
        fees = read_payload(transaction.versions[-1].payload).fees
        return is_underpriced(fees, self._base_fee(view), self._priority(view) if waited else 0)

    def _signed(self, transaction: Transaction) -> bytes:
        signer = self._settings.signers.get(transaction.key)
        if signer is None:
            raise KeyMissing(self.chain, f"there is no signer for {transaction.key}")
        return assemble(transaction.payload, signer.sign(transaction.payload))

    def _told(self, view: ChainView, version: Transaction) -> dict[str, Any] | None:
        """Return what the node knows of a transaction as we sign it; None: nothing, or its key is not here."""
        if version.key not in self._settings.signers:
            return None
        name = transaction_hash(self._signed(version))
        found = view.node.call("eth_getTransactionByHash", name)
        if found is not None and (not isinstance(found, dict) or found.get("hash") != name):
            raise NodeNonsense(f"asked for the transaction {name}, told something else")
        return found

    def _check_history(self, view: ChainView, cursor: ChainPosition) -> None:
        """Hold the cursor against the node.

        Raises: HistoryChanged; NodeAway where the node has not got that far.
        """
        found = view.block(cursor.number)
        if found is None:
            raise NodeAway(f"the node does not have block {cursor.number} yet")
        digest = position_of(found).hash
        if cursor.hash and digest != cursor.hash:
            raise HistoryChanged(self.chain, number=cursor.number, expected=cursor.hash, found=digest)

    def _death(self, view: ChainView, version: Transaction, position: ChainPosition, found: str, cursor: ChainPosition) -> Fate:
        """Return a death as soon as what killed is final and read; until then the transaction only waits."""
        if position.number > min(cursor.number, view.final(self._settings.finality_depth).number):
            return Fate(FateKind.PENDING)
        self._check_history(view, cursor)
        proof = DeathProof.DEATH_PROOF_NUMBER_CONSUMED
        death = DeadTransaction(key=version.key, sequence=version.sequence, proof=proof, position=position, found=found)
        return Fate(FateKind.DEAD, death)

    def _observations(
        self, view: ChainView, watched: dict[str, Watched], addresses: Collection[str], logs: Sequence[RawLog], ours: dict[str, Landed]
    ) -> list[Observation]:
        """Return what the logs of one block say."""
        seen: list[Observation] = []
        for transaction, together in itertools.groupby(logs, key=lambda log: log.transaction):
            told = list(together)
            check_logs(view.receipt(transaction), told, addresses)
            version = ours[transaction].version if transaction in ours else None
            seen += observe(self.chain, self._places.ledger, watched, told, version)
        for index, one in enumerate(seen):
            one.index = index
        return seen

    def _check_state(self, view: ChainView, read: ObservedRange, deployments: Sequence[Deployment]) -> None:
        """Hold what was told of tokens against how they stood before and after, as far as the node still has the state of both.

        Raises: NodeNonsense where a node has left whole transactions out of its logs.
        """
        for deployment in deployments:
            if deployment.kind == DeploymentKind.DEPLOYMENT_KIND_OMNIBUS:
                continue
            token = self._token(deployment.token)
            try:
                before, after = (stand_at(view, token, at.number) for at in (read.after, read.through))
            except (NodeRefused, NotDecodable):
                continue  # no state any more, or no token yet: the reconciler holds the sums together all the same
            told = before.changed_by(one for one in read.observations if one.token == deployment.token)
            if told != after:
                raise NodeNonsense(
                    f"logs are partial: {token} was {before} at block {read.after.number} and is {after} at {read.through.number}, "
                    f"and by the logs told it would be {told}"
                )

    def _landed_message(self, view: ChainView, landed: Landed, addresses: Collection[str], logs: Sequence[RawLog]) -> LandedTransaction:
        receipt = view.receipt(landed.transaction)
        message = landed_message(landed, receipt)
        if receipt.get("status") == "0x1":
            check_logs(receipt, [log for log in logs if log.transaction == landed.transaction], addresses)
            return message
        message.failure, message.failure_text = failure_of(view, landed, receipt, self._places)
        return message

    def _holdings(self, view: ChainView, token: str, owners: Sequence[str], at: ChainPosition, *, together: bool) -> tuple[int, list[int]]:
        """Return supply and holdings at one block, by its hash; our own token answers for many accounts at once.

        Raises: NodeRefused where the node has no state of that block.
        """
        block = {"blockHash": at.hash}
        supply = int(view.ask(TOKEN, token, "totalSupply()", at=block))
        signature = "balanceOf(address)"
        if not together:
            return supply, [int(view.ask(TOKEN, token, signature, owner, at=block)) for owner in owners]
        held: list[int] = []
        for start in range(0, len(owners), ACCOUNTS_PER_CALL):
            calls = [encode_call(TOKEN, signature, owner) for owner in owners[start : start + ACCOUNTS_PER_CALL]]
            answers = view.ask(TOKEN, token, "multicall(bytes[])", calls, at=block)
            if len(answers) != len(calls):
                raise NodeNonsense(f"asked for {len(calls)} holdings, told {len(answers)}")
            held += [int(decode_answer(TOKEN, signature, answer)) for answer in answers]
        return supply, held


def connect(settings: ChainSettings) -> EvmAdapter:
    """Make an adapter without asking the node yet.

    Raises: ValueError for settings that cannot be.
    """
    return EvmAdapter(settings)


def _beacons(watched: dict[str, Watched]) -> set[str]:
    return {one.beacon for one in watched.values() if one.beacon}


def _address(name: str, text: str) -> str:
    try:
        return str(to_checksum_address(text))
    except ValueError:
        raise ValueError(f"option {name} is {text!r}, not an address") from None
