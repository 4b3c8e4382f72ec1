"""Instructions -> operations -> unsigned transactions of the reference chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from chain_adapters.memory import payloads
from chain_adapters.memory.chain import NUMBER
from chain_adapters.protocol import ChainIncapable, ChainRefusal, FundsInsufficient, KeyMissing, Prepared
from ledger import caip
from stockledger.v1.chains_pb2 import ChainCapability, ChainFailure, ChainKeyRole, InstructionKind, OneTimeValue, Sequence, Transaction
from stockledger.v1.common_pb2 import Operation

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Sequence as Several

    from chain_adapters.memory.node import Node
    from chain_adapters.protocol import ChainSettings, ProjectionState
    from stockledger.v1.chains_pb2 import ChainKey, Instruction

INSTRUCTIONS_PER_TRANSACTION_MAX: Final = 8
OPEN_PER_KEY_MAX: Final = 256
"""Transactions of one key on their way; more would only wait for these."""
ONE_TIME_VALUES: Final = 16
"""Accounts of one-time values that a key has: so many transactions of it may be on their way."""
_FOR_EVER: Final = frozenset({ChainFailure.CHAIN_FAILURE_ACCOUNT_BARRED, ChainFailure.CHAIN_FAILURE_UNITS_INSUFFICIENT})

_K = InstructionKind
_OPERATIONS: Final = {
    _K.INSTRUCTION_KIND_MINT: "mint",
    _K.INSTRUCTION_KIND_BURN: "burn",
    _K.INSTRUCTION_KIND_FORCE_TRANSFER: "force_transfer",
    _K.INSTRUCTION_KIND_SEND: "transfer",
    _K.INSTRUCTION_KIND_FREEZE: "freeze",
    _K.INSTRUCTION_KIND_FREEZE_UNITS: "freeze_units",
    _K.INSTRUCTION_KIND_PAUSE: "pause",
    _K.INSTRUCTION_KIND_SET_MULTIPLIER: "set_multiplier",
    _K.INSTRUCTION_KIND_SET_ALLOTMENT: "set_allotment",
    _K.INSTRUCTION_KIND_REPORT_RESERVE: "report_reserve",
    _K.INSTRUCTION_KIND_ANCHOR_CHECKPOINT: "anchor",
}


def operation_of(instruction: Instruction, ledger_id: str, anchor_token: str) -> dict[str, Any]:
    """Return what an instruction asks of the chain. A checkpoint is kept by a token that has an anchor."""
    operation: dict[str, Any] = {
        "do": _OPERATIONS[instruction.kind],
        "token": caip.parse_token("token", instruction.token).reference if instruction.token else anchor_token,
        "memo": f"{ledger_id}/{instruction.instruction}",
    }
    for field in ("source", "destination"):
        account = getattr(instruction, field)
        if account:
            operation[field] = caip.parse_account(field, account).address
    if instruction.raw:
        operation["raw"] = instruction.raw
    elif instruction.kind in (_K.INSTRUCTION_KIND_FREEZE_UNITS, _K.INSTRUCTION_KIND_SET_ALLOTMENT):
        operation["raw"] = str(instruction.units)
    if instruction.kind == _K.INSTRUCTION_KIND_FREEZE:
        operation["frozen"] = instruction.frozen
    if instruction.kind == _K.INSTRUCTION_KIND_PAUSE:
        operation["operations"] = [Operation.Name(each).removeprefix("OPERATION_") for each in instruction.operations]
    if instruction.kind == _K.INSTRUCTION_KIND_SET_MULTIPLIER:
        operation["multiplier"] = instruction.multiplier
        operation["effective_time_us"] = instruction.effective_time.ToMicroseconds()
    if instruction.note:
        operation["note"] = instruction.note.hex()
    if instruction.legal_reference:
        operation["reason"] = instruction.legal_reference
    return operation


def reached(instruction: Instruction, operation: dict[str, Any], token: dict[str, Any]) -> bool:
    """Tell whether a token is already as a target wants it."""
    kind = instruction.kind
    if kind == _K.INSTRUCTION_KIND_FREEZE:
        return (operation["source"] in token["frozen"]) == instruction.frozen
    if kind == _K.INSTRUCTION_KIND_FREEZE_UNITS:
        return int(token["frozen_raw"].get(operation["source"], "0")) == int(operation["raw"])
    if kind == _K.INSTRUCTION_KIND_PAUSE:
        separate = "PAUSE_SEPARATELY" in token["capabilities"]
        paused = set(token["paused"])
        stopped = "TRANSFER" in operation["operations"]
        return paused == set(operation["operations"]) if separate else (len(paused) > 0) == stopped
    if kind == _K.INSTRUCTION_KIND_SET_ALLOTMENT:
        return int(token["allotment"]) == int(operation["raw"])
    if kind == _K.INSTRUCTION_KIND_SET_MULTIPLIER:
        set_already = bool(token["multiplier_next"] == instruction.multiplier)
        in_time = bool(token["multiplier_time_us"] == operation["effective_time_us"])
        in_force = token["multiplier"] == instruction.multiplier and operation["effective_time_us"] <= token["position"]["time_us"]
        return set_already and (in_time or in_force)
    if kind == _K.INSTRUCTION_KIND_REPORT_RESERVE:
        return bool(token["reserve"] == operation["note"])
    return False


@dataclass
class _Wanted:
    """An instruction on its way into a transaction."""

    instruction: Instruction
    operation: dict[str, Any]
    key: ChainKey


class Preparation:
    """One round: what is known of the chain at one final block, and what is made of it."""

    def __init__(self, node: Node, settings: ChainSettings, state: ProjectionState) -> None:
        self._node = node
        self._chain = settings.chain
        self._signers = settings.signers
        self._ledger_id = settings.ledger
        self._state = state
        self._head = node.ask("head")
        self._final = self._head["final"]["number"]
        self._by_number = self._head["sequences"] == NUMBER
        self._tokens: dict[str, dict[str, Any]] = {}
        self._anchor = next(
            (d.token for d in state.deployments if ChainCapability.CHAIN_CAPABILITY_ANCHOR in d.capabilities and not d.retired), ""
        )

    def run(self, instructions: Several[Instruction]) -> Prepared:
        satisfied, wanted = [], []
        for instruction in instructions:
            each = self._want(instruction)
            if reached(instruction, each.operation, self._token(each.operation["token"])):
                satisfied.append(instruction.instruction)
            else:
                wanted.append(each)
        refusals, waiting, possible = self._simulate(wanted)
        transactions = [*self._fillers(), *self._transactions(possible)]
        self._check_funds(transactions)
        return Prepared(tuple(transactions), tuple(refusals), tuple(satisfied), waiting)

    # ---- what each instruction comes to ---------------------------------------------------------------------------------------------

    def _want(self, instruction: Instruction) -> _Wanted:
        if instruction.kind not in _OPERATIONS:
            raise ChainIncapable(self._chain, f"{instruction.instruction} asks for {InstructionKind.Name(instruction.kind)}")
        anchor = caip.parse_token("token", self._anchor).reference if self._anchor else ""
        operation = operation_of(instruction, self._ledger_id, anchor)
        if instruction.kind == _K.INSTRUCTION_KIND_SEND:
            return _Wanted(instruction, operation, self._key_of_wallet(instruction.source))
        return _Wanted(instruction, operation, self._key(instruction.role, instruction.instrument))

    def _token(self, reference: str) -> dict[str, Any]:
        if reference not in self._tokens:
            found = self._node.ask("token", reference=reference, number=self._final)
            if found is None:
                raise ChainIncapable(self._chain, f"there is no token {reference!r}")
            self._tokens[reference] = found
        return self._tokens[reference]

    def _key(self, role: int, instrument: str) -> ChainKey:
        """Return a registered key of a role that can sign here."""
        registered = [
            key
            for key in self._state.keys
            if role in key.roles and not key.retired and (not key.instruments or not instrument or instrument in key.instruments)
        ]
        for key in registered:
            if key.key in self._signers:
                return key
        name = ChainKeyRole.Name(ChainKeyRole.ValueType(role))
        known = ", ".join(key.key for key in registered) or "none is registered"
        raise KeyMissing(self._chain, f"no signer here for {name} of {instrument or 'any instrument'}: {known}")

    def _key_of_wallet(self, wallet: str) -> ChainKey:
        for key in self._state.keys:
            if key.key == wallet and wallet in self._signers:
                return key
        raise KeyMissing(self._chain, f"no signer here for the wallet {wallet}")

    def _simulate(self, wanted: list[_Wanted]) -> tuple[list[ChainRefusal], dict[str, ChainFailure.ValueType], list[_Wanted]]:
        """Part what fails for ever from what fails for now and what can be done.

        For ever is only what fails with and without what is on its way: a mint behind the end of a freeze only waits for that.
        """
        under_way = [transaction.versions[-1].payload.hex() for transaction in self._state.open_transactions]
        asked = [{"operation": each.operation, "signers": [_address(each.key.key)]} for each in wanted]
        after = self._node.ask("simulate", under_way=under_way, wanted=asked, number=self._final) if asked else []
        failing = [place for place, (failure, _) in enumerate(after) if failure]
        alone = self._node.ask("simulate", under_way=[], wanted=[asked[i] for i in failing], number=self._final) if failing else []
        refusals: list[ChainRefusal] = []
        waiting: dict[str, ChainFailure.ValueType] = {}
        for place, (failure_alone, _) in zip(failing, alone, strict=True):
            name = wanted[place].instruction.instruction
            failure = ChainFailure.Value(f"CHAIN_FAILURE_{after[place][0]}")
            if failure in _FOR_EVER and failure_alone == after[place][0]:
                refusals.append(ChainRefusal(name, failure, after[place][1][:140]))
            else:
                waiting[name] = failure
        left = set(failing)
        return refusals, waiting, [each for place, each in enumerate(wanted) if place not in left]

    # ---- transactions ---------------------------------------------------------------------------------------------------------------

    def _transactions(self, possible: list[_Wanted]) -> list[Transaction]:
        if not self._by_number:
            return self._with_values(possible)
        made: list[Transaction] = []
        numbers: dict[str, int] = {}
        for group in _groups(possible, lambda each: each.key.key):
            key = group[0].key
            number = self._next_free(key, numbers.get(key.key, key.consumed_count))
            if number is not None:
                numbers[key.key] = number + 1
                made.append(self._transaction(key.key, Sequence(number=number), group, ()))
        return made

    def _next_free(self, key: ChainKey, number: int) -> int | None:
        taken = self._open_numbers(key.key)
        while number in taken:
            number += 1
        return number if number < key.consumed_count + OPEN_PER_KEY_MAX else None

    def _open_numbers(self, key: str) -> set[int]:
        return {each.versions[0].sequence.number for each in self._state.open_transactions if each.versions[0].key == key}

    def _fillers(self) -> list[Transaction]:
        """Use up the numbers that keep recorded transactions of retired keys from landing."""
        made: list[Transaction] = []
        for key in self._state.keys:
            taken = self._open_numbers(key.key) if self._by_number and key.retired and key.key in self._signers else set()
            gaps = (number for number in range(key.consumed_count, max(taken, default=0)) if number not in taken)
            made += [self._transaction(key.key, Sequence(number=number), [], ()) for number in gaps]
        return made

    def _with_values(self, possible: list[_Wanted]) -> list[Transaction]:
        """One key pays and owns the values; the keys of the instructions sign beside it."""
        if not possible:
            return []
        payer = self._key(ChainKeyRole.CHAIN_KEY_ROLE_FEE_PAYER, "")
        taken = {each.versions[0].sequence.one_time_value.account for each in self._state.open_transactions}
        accounts = [f"{_address(payer.key)}.{place}" for place in range(ONE_TIME_VALUES)]
        free = [account for account in accounts if account not in taken]
        values = self._node.ask("values", accounts=free, number=self._final) if free else []
        made = []
        for group, account, value in zip(_groups(possible, lambda _: ""), free, values, strict=False):
            cosigners = sorted({each.key.key for each in group} - {payer.key})
            made.append(self._transaction(payer.key, Sequence(one_time_value=OneTimeValue(account=account, value=value)), group, cosigners))
        return made

    def _transaction(self, key: str, sequence: Sequence, group: list[_Wanted], cosigners: Several[str]) -> Transaction:
        operations = [each.operation for each in group]
        fee = 2 * self._head["base_fee"]
        return Transaction(
            key=key,
            sequence=sequence,
            payload=payload_of(key, sequence, cosigners, operations, fee),
            instructions=[each.instruction.instruction for each in group],
            fee_max=str(fee),
            cosigners=cosigners,
        )

    def _check_funds(self, transactions: list[Transaction]) -> None:
        needed: dict[str, int] = {}
        for transaction in transactions:
            needed[transaction.key] = needed.get(transaction.key, 0) + int(transaction.fee_max)
        for key, fees in needed.items():
            check_funds(self._node, self._chain, key, fees)


def check_funds(node: Node, chain: str, key: str, needed: int) -> None:
    """Refuse what a key cannot pay.

    Raises: FundsInsufficient.
    """
    found = node.ask("signer", address=_address(key), number=node.ask("head")["newest"]["number"])["coins"]
    if found < needed:
        raise FundsInsufficient(chain, key=key, needed=needed, found=found)


def payload_of(key: str, sequence: Sequence, cosigners: Several[str], operations: Several[dict[str, Any]], fee: int) -> bytes:
    """Return what is signed."""
    value = sequence.one_time_value
    is_number = sequence.WhichOneof("kind") == "number"
    content = {
        "chain": key.rpartition(":")[0],
        "key": _address(key),
        "sequence": {"number": sequence.number} if is_number else {"account": value.account, "value": value.value},
        "cosigners": [_address(cosigner) for cosigner in cosigners],
        "operations": list(operations),
        "fee": fee,
    }
    return payloads.encode(content)


def _groups(wanted: list[_Wanted], owner_of: Callable[[_Wanted], str]) -> list[list[_Wanted]]:
    """Put together what one owner signs and one rank has, and alone what failed in company.

    A freeze shares its transaction with freezes and pauses only: nothing else that fails may take it along.
    """
    groups: list[list[_Wanted]] = []
    growing: dict[tuple[str, int], list[_Wanted]] = {}
    for each in wanted:
        if each.instruction.failure == ChainFailure.CHAIN_FAILURE_IN_COMPANY:
            groups.append([each])
            continue
        where = (owner_of(each), each.instruction.rank)
        group = growing.get(where)
        if group is None or len(group) == INSTRUCTIONS_PER_TRANSACTION_MAX:
            group = growing[where] = []
            groups.append(group)
        group.append(each)
    return groups


def _address(account: str) -> str:
    return account.rpartition(":")[2]
