"""MemoryAdapter: the verbs of the Protocol, said of the reference chain. Everything it keeps is how far finality has been seen."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any, Final

from chain_adapters.memory import payloads
from chain_adapters.memory.node import BLOCKS_MAX, Node, node_at
from chain_adapters.memory.preparing import INSTRUCTIONS_PER_TRANSACTION_MAX, Preparation, check_funds, payload_of
from chain_adapters.multipliers import Schedule, tell_in_force
from chain_adapters.protocol import (
    OBSERVATIONS_PER_RANGE_MAX,
    ChainDescription,
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
)
from ledger import caip
from ledger.errors import refusal
from stockledger.v1.chains_pb2 import (
    ChainCapability,
    ChainFailure,
    ChainFigure,
    ChainPosition,
    DeadTransaction,
    DeathProof,
    DeploymentKind,
    LandedTransaction,
    Observation,
    ObservationKind,
    ObservedRange,
    Transaction,
)
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from chain_adapters.protocol import ChainSettings, ProjectionState
    from stockledger.v1.chains_pb2 import Deployment, Instruction, OpenTransaction

NAMESPACE: Final = "memory"
TOKEN_NAMESPACE: Final = "token"  # noqa: S105 - of CAIP-19
_HARMLESS: Final = frozenset({"taken", "known", "sequence used", "replacement underpriced"})


def connect(settings: ChainSettings) -> MemoryAdapter:
    """Make an adapter; its nodes are named by URLs like "memory:anything", in this process, or "http://127.0.0.1:40123".

    Raises: ValueError.
    """
    chain = caip.check_chain("chain", settings.chain)
    if chain.partition(":")[0] != NAMESPACE:
        raise ValueError(f"{chain} is no chain of the namespace {NAMESPACE}")
    if not settings.urls:
        raise ValueError(f"{chain} has no node's address")
    return MemoryAdapter(settings, [node_at(chain, url) for url in settings.urls])


class MemoryAdapter:
    """A reference chain as the projector, the reader and the reconciler see it."""

    def __init__(self, settings: ChainSettings, nodes: Sequence[Node]) -> None:
        self._settings = settings
        self._node = _FirstThatAnswers(nodes)
        self._lock = threading.Lock()
        self._final = ChainPosition(number=-1)

    @property
    def chain(self) -> str:
        return self._settings.chain

    def describe(self) -> ChainDescription:
        head = self._head()
        capabilities = frozenset(ChainCapability.values()) - {ChainCapability.CHAIN_CAPABILITY_UNSPECIFIED}
        return ChainDescription(
            chain=self.chain,
            node=f"memory/{head['sequences']}",
            capabilities=capabilities,
            instructions_per_transaction_max=INSTRUCTIONS_PER_TRANSACTION_MAX,
            final_after_seconds=1,
        )

    def check_account(self, account: str) -> str:
        found = caip.parse_account("account", account)
        if found.chain != self.chain or not payloads.ADDRESS.fullmatch(found.address):
            message = f"{account!r} is not an account of {self.chain}: 64 lower-case hexadecimal digits"
            raise refusal(Reason.REASON_FIELD_MALFORMED, message, field="account", value=account)
        return account

    def inspect(self, deployment: Deployment) -> frozenset[ChainCapability.ValueType]:
        reference = self._reference(deployment)
        token = self._node.ask("token", reference=reference, number=self._head()["final"]["number"])
        if token is None:
            raise DeploymentUnfit(self.chain, f"there is no token {reference!r}")
        if token["decimals"] != deployment.decimals:
            message = f"{reference} has {token['decimals']} decimals there, registered are {deployment.decimals}"
            raise DeploymentUnfit(self.chain, message)
        if deployment.kind == DeploymentKind.DEPLOYMENT_KIND_OMNIBUS:
            return frozenset({ChainCapability.CHAIN_CAPABILITY_SEND})
        own = {caip.parse_account("signer", account).address for account in self._settings.signers}
        if own and token["roles"].get("MINTER") not in own:
            raise DeploymentUnfit(
                self.chain, f"the minter of {reference} is {token['roles'].get('MINTER')}, none of ours: it is not native"
            )
        return frozenset(ChainCapability.Value(f"CHAIN_CAPABILITY_{name}") for name in token["capabilities"])

    def finalised(self) -> ChainPosition:
        head = self._head()
        final = head["final"]
        if self._settings.finality_depth:
            number = max(0, head["newest"]["number"] - self._settings.finality_depth)
            final = self._node.ask("header", number=number)
            if final is None:
                raise NodeUnfit(self.chain, f"the node has {head['newest']['number']} blocks, and not block {number}")
        with self._lock:
            if final["number"] >= self._final.number:
                self._final = _position(final)
            return self._final

    # ---- sending --------------------------------------------------------------------------------------------------------------------

    def prepare(self, instructions: Sequence[Instruction], state: ProjectionState) -> Prepared:
        self._head()
        return Preparation(self._node, self._settings, state).run(instructions)

    def replace(self, transaction: OpenTransaction, *, cancel: bool = False) -> Transaction | None:
        last = transaction.versions[-1]
        content = payloads.decode(last.payload)
        base_fee = self._head()["base_fee"]
        if content["fee"] >= base_fee and not cancel:
            return None
        fee = max(2 * base_fee, -(-content["fee"] * 11 // 10))
        check_funds(self._node, self.chain, last.key, fee)
        operations = [{"do": "nothing"}] if cancel else content["operations"]
        return Transaction(
            key=last.key,
            sequence=last.sequence,
            payload=payload_of(last.key, last.sequence, last.cosigners, operations, fee),
            instructions=() if cancel else last.instructions,
            fee_max=str(fee),
            replacement=True,
            cosigners=last.cosigners,
        )

    def send(self, transaction: Transaction) -> None:
        signatures = {}
        for account in (transaction.key, *transaction.cosigners):
            signer = self._settings.signers.get(account)
            if signer is None:
                raise KeyMissing(self.chain, f"no signer here for {account}")
            signatures[caip.parse_account("key", account).address] = signer.sign(transaction.payload).hex()
        answer = self._node.ask("submit", payload=transaction.payload.hex(), signatures=signatures)
        if answer == "insufficient funds":
            check_funds(self._node, self.chain, transaction.key, int(transaction.fee_max))
            raise FundsInsufficient(self.chain, key=transaction.key, needed=int(transaction.fee_max), found=0)
        if answer not in _HARMLESS:
            raise NodeUnfit(self.chain, f"the node does not take a transaction: {answer}")

    def fate(self, transaction: OpenTransaction, cursor: ChainPosition) -> Fate:
        first = transaction.versions[0]
        account, value, proof = _sequence(first)
        found = self._node.ask("find", account=account, value=value)
        landed = found["landed"]
        if landed is not None:
            ours = any(bytes.fromhex(landed["payload"]) == version.payload for version in transaction.versions)
            if ours:
                return Fate(FateKind.LANDED if landed["number"] <= self.finalised().number else FateKind.PENDING)
            if landed["number"] > min(cursor.number, self.finalised().number):
                return Fate(FateKind.PENDING)
            other = payloads.transaction_id(bytes.fromhex(landed["payload"]))
            death = DeadTransaction(key=first.key, sequence=first.sequence, proof=proof, position=_position(landed), found=other)
            return Fate(FateKind.DEAD, death)
        waiting = any(found["waiting"] == version.payload.hex() for version in transaction.versions)
        underpriced = payloads.decode(transaction.versions[-1].payload)["fee"] < self._head()["base_fee"]
        return Fate(FateKind.PENDING if waiting else FateKind.UNSEEN, underpriced=underpriced)

    # ---- reading --------------------------------------------------------------------------------------------------------------------

    def read(
        self,
        after: ChainPosition,
        deployments: Sequence[Deployment],
        open_transactions: Sequence[OpenTransaction],
        *,
        through_number: int | None = None,
        observations_max: int = OBSERVATIONS_PER_RANGE_MAX,
    ) -> ObservedRange | None:
        final = self.finalised()
        there = self._node.ask("header", number=after.number)
        if there is None or there["hash"] != after.hash:
            found = "no such block" if there is None else there["hash"]
            raise HistoryChanged(self.chain, number=after.number, expected=after.hash, found=found)
        last = final.number if through_number is None else min(final.number, through_number)
        if last <= after.number:
            return None
        found_range = ObservedRange(chain=self.chain, after=after, through=after)
        tokens = {self._reference(deployment): deployment.token for deployment in deployments}
        ours = {_sequence(each.versions[0])[:2]: each for each in open_transactions}
        parent = after.hash
        for block in self._blocks(after.number, last):
            if block["parent"] != parent:
                raise NodeUnfit(self.chain, f"block {block['number']} does not follow {parent} but {block['parent']}")
            parent = block["hash"]
            landed, observations = self._observe(block, tokens, ours)
            if found_range.observations and len(found_range.observations) + len(observations) > observations_max:
                break
            found_range.landed.extend(landed)
            found_range.observations.extend(observations)
            found_range.through.CopyFrom(_position(block))
        tell_in_force(found_range, deployments, _Clock(self.chain, self._node), functools.partial(self._schedule, after), observations_max)
        return found_range

    def _schedule(self, after: ChainPosition, deployment: Deployment) -> Schedule | None:
        found = self._node.ask("multiplier", reference=self._reference(deployment), number=after.number)
        if found is None:
            return None
        return Schedule(int(found["multiplier"]), int(found["next_multiplier"] or 0), found["next_time_us"])

    def _blocks(self, after: int, last: int) -> Sequence[dict[str, Any]]:
        """Return the next blocks, in one answer: fewer than all is a shorter range, a gap within is no answer."""
        blocks: list[dict[str, Any]] = self._node.ask("blocks", after=after, through=last)
        expected = range(after + 1, after + 1 + len(blocks))
        if not 0 < len(blocks) <= BLOCKS_MAX or [block["number"] for block in blocks] != list(expected) or expected[-1] > last:
            raise NodeUnfit(self.chain, f"asked for blocks {after + 1} to {last}, the node sent {[block['number'] for block in blocks]}")
        return blocks

    def _observe(
        self, block: dict[str, Any], tokens: Mapping[str, str], ours: Mapping[tuple[str, Any], OpenTransaction]
    ) -> tuple[list[LandedTransaction], list[Observation]]:
        landed, observations = [], []
        index = 0
        for included in block["transactions"]:
            payload = bytes.fromhex(included["payload"])
            version = _version_of(payload, ours)
            if version is not None:
                failure = f"CHAIN_FAILURE_{included['failure'] or 'UNSPECIFIED'}"
                landed.append(
                    LandedTransaction(
                        key=version.key,
                        sequence=version.sequence,
                        payload_digest=payloads.digest(payload),
                        transaction=payloads.transaction_id(payload),
                        number=block["number"],
                        failure=ChainFailure.Value(failure),
                        failure_text=included["text"][:140],
                        fee=included["fee"],
                    )
                )
            for event in included["events"]:
                index += 1
                if event["token"] in tokens:
                    instructions = version.instructions if version is not None else ()
                    instruction = instructions[event["operation"]] if instructions else ""
                    observation = self._observation(event, tokens[event["token"]], payload, block["number"], index)
                    observation.instruction = instruction
                    observations.append(observation)
        return landed, observations

    def _observation(self, event: dict[str, Any], token: str, payload: bytes, number: int, index: int) -> Observation:
        kind = ObservationKind.Value(f"OBSERVATION_KIND_{event['kind']}")
        seen = Observation(
            kind=kind,
            token=token,
            transaction=payloads.transaction_id(payload),
            number=number,
            index=index,
            raw=event.get("raw", ""),
            operations=[Operation.Value(f"OPERATION_{name}") for name in event.get("operations", ())],
            subject=event.get("subject", ""),
            value=event.get("value", ""),
        )
        for field in ("source", "destination"):
            if event.get(field):
                setattr(seen, field, f"{self.chain}:{event[field]}")
        if "effective_time_us" in event:
            seen.effective_time.FromMicroseconds(event["effective_time_us"])
            seen.encoding = int(event["value"]).to_bytes(32, "big")
        return seen

    def measure(self, deployment: Deployment, accounts: Collection[str], at: ChainPosition) -> Measurement:
        listed = list(accounts)
        addresses = [caip.parse_account("account", account).address for account in listed]
        found = self._node.ask("holdings", reference=self._reference(deployment), accounts=addresses, number=at.number)
        if found is None:
            raise DeploymentUnfit(self.chain, f"there is no token {deployment.token}")
        if found["position"]["number"] < at.number or len(found["holdings"]) != len(listed):
            raise NodeUnfit(self.chain, f"asked for {len(listed)} holdings at {at.number}, the node answered for {found['position']}")
        figures = [ChainFigure(instrument=deployment.instrument, raw=found["supply"])]
        figures += [
            ChainFigure(instrument=deployment.instrument, account=account, raw=raw)
            for account, raw in zip(listed, found["holdings"], strict=True)
        ]
        return Measurement(_position(found["position"]), tuple(figures))

    def close(self) -> None:
        self._node.close()

    # ---- what they have in common ---------------------------------------------------------------------------------------------------

    def _head(self) -> dict[str, Any]:
        head: dict[str, Any] = self._node.ask("head")
        if head["chain"] != self.chain:
            raise NodeUnfit(self.chain, f"the node is of {head['chain']}")
        if not 0 <= head["final"]["number"] <= head["newest"]["number"]:
            raise NodeUnfit(self.chain, f"block {head['final']['number']} is final, and {head['newest']['number']} the newest")
        return head

    def _reference(self, deployment: Deployment) -> str:
        token = caip.parse_token("token", deployment.token)
        if token.chain != self.chain or token.namespace != TOKEN_NAMESPACE:
            raise DeploymentUnfit(self.chain, f"{deployment.token} is no token of {self.chain}/{TOKEN_NAMESPACE}")
        return token.reference


class _Clock:
    """When blocks were made."""

    def __init__(self, chain: str, node: Node) -> None:
        self._chain = chain
        self._node = node

    def position(self, number: int) -> ChainPosition:
        found = self._node.ask("header", number=number)
        if found is None:
            raise NodeUnfit(self._chain, f"the node has lost block {number}")
        return _position(found)

    def time_us(self, number: int) -> int:
        return self.position(number).time.ToMicroseconds()

    def numbers(self, after: int, through: int) -> range:
        return range(after + 1, through + 1)


ATTEMPTS_MAX: Final = 3
"""Of one question, over all nodes in turn: whatever is asked, submitting included, may be asked twice."""


class _FirstThatAnswers:
    """Several nodes of one chain: the first that answers, the one that answered last time before others."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = list(nodes)

    def ask(self, method: str, **parameters: Any) -> Any:
        failed: ChainUnavailable | None = None
        for node in tuple(self._nodes) * ATTEMPTS_MAX:
            try:
                answer = node.ask(method, **parameters)
            except ChainUnavailable as error:
                failed = error
            else:
                if node is not self._nodes[0]:
                    self._nodes = [node, *(other for other in self._nodes if other is not node)]
                return answer
        assert failed is not None, "there is at least one node"
        raise failed

    def close(self) -> None:
        for node in self._nodes:
            close = getattr(node, "close", None)
            if close is not None:
                close()


def _sequence(version: Transaction) -> tuple[str, Any, DeathProof.ValueType]:
    """Return what lets a transaction land once, and what proves that it did not."""
    if version.sequence.WhichOneof("kind") == "number":
        address = caip.parse_account("key", version.key).address
        return address, version.sequence.number, DeathProof.DEATH_PROOF_NUMBER_CONSUMED
    value = version.sequence.one_time_value
    return value.account, value.value, DeathProof.DEATH_PROOF_VALUE_ADVANCED


def _version_of(payload: bytes, ours: Mapping[tuple[str, Any], OpenTransaction]) -> Transaction | None:
    """Return the recorded version that a payload on chain is, or None: of others, or not as recorded."""
    content = payloads.decode(payload)
    sequence = content["sequence"]
    key = (content["key"], sequence["number"]) if "number" in sequence else (sequence["account"], sequence["value"])
    transaction = ours.get(key)
    versions = transaction.versions if transaction is not None else ()
    return next((version for version in versions if version.payload == payload), None)


def _position(header: dict[str, Any]) -> ChainPosition:
    position = ChainPosition(number=header["number"], hash=header["hash"])
    position.time.FromMicroseconds(header["time_us"])
    return position
