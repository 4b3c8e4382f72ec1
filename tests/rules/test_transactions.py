"""Transactions of ours: recorded before they are signed, replaced, and buried with a proof."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from on_chains import A, B, bound, deploy, one_chain, register, set_key, wallet
from scenario import Scenario, two_holders
from steps import check_repeat

from stockledger.v1.accounts_pb2 import FreezeAccountRequest, FreezeHolderRequest, UnfreezeHolderRequest
from stockledger.v1.chains_pb2 import (
    AbandonInstructionRequest,
    ChainKeyRole,
    ChainPosition,
    DeadTransaction,
    DeathProof,
    ExpiringReference,
    GetInstructionRequest,
    InstructionState,
    ListChainKeysRequest,
    ListTransactionsRequest,
    OneTimeValue,
    OpenTransaction,
    RecordDeadTransactionsRequest,
    RecordTransactionsRequest,
    Sequence,
    Transaction,
    TransactionsDied,
    TransactionsRecorded,
)
from stockledger.v1.common_pb2 import Operation
from stockledger.v1.instruments_pb2 import HaltInstrumentRequest
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

KEY, ALICE = f"{A}:key", wallet("alice")
OPEN, RECORDED = InstructionState.INSTRUCTION_STATE_OPEN, InstructionState.INSTRUCTION_STATE_RECORDED
CONSUMED, ADVANCED = DeathProof.DEATH_PROOF_NUMBER_CONSUMED, DeathProof.DEATH_PROOF_VALUE_ADVANCED
EXPIRED = DeathProof.DEATH_PROOF_REFERENCE_EXPIRED


LAST = 29
FIRST, SECOND, ELSEWHERE = (f"{index}-0" for index in range(LAST - 2, LAST + 1))


class Story(Scenario):
    """100 AAPLx in the book, of which two times 10 are on their way to alice's wallet, and 10 to hers on another chain."""

    def __init__(self) -> None:
        super().__init__()
        self.given(*two_holders(), *one_chain(), register(B), deploy(chain=B), bound("alice", "h-1", B))
        self.units("AAPLx", "book:alice", 100)
        for destination in (ALICE, ALICE, wallet("alice", B)):
            self.given(TransferUnitsRequest(instrument="AAPLx", source="book:alice", destination=destination, units=10))
        assert self.books.size == LAST + 1

    def state_of(self, instruction: str) -> tuple[int, int]:
        found = self.books.execute(GetInstructionRequest(instruction=instruction)).instruction
        return found.state, found.attempt_count

    def open_ones(self) -> list[OpenTransaction]:
        return list(self.books.execute(ListTransactionsRequest(chain=A)).transactions)


@pytest.fixture
def books() -> Story:
    return Story()


def numbered(number: int) -> Sequence:
    return Sequence(number=number)


def once(value: str = "v1") -> Sequence:
    return Sequence(one_time_value=OneTimeValue(account="nonce", value=value))


def expiring(value: str = "r1") -> Sequence:
    return Sequence(expiring_reference=ExpiringReference(value=value, last_number=150))


def one(*instructions: str, **changes: Any) -> Transaction:
    return Transaction(**({"key": KEY, "sequence": numbered(0), "payload": b"p", "instructions": instructions} | changes))


def record(*transactions: Transaction, chain: str = A) -> RecordTransactionsRequest:
    return RecordTransactionsRequest(chain=chain, transactions=transactions)


def dead(**changes: Any) -> DeadTransaction:
    position = ChainPosition(number=100, hash="0x1", time=Timestamp(seconds=1))
    return DeadTransaction(**({"key": KEY, "sequence": numbered(0), "proof": CONSUMED, "position": position, "found": "0x77"} | changes))


def at(number: int) -> ChainPosition:
    return ChainPosition(number=number, hash="0x1", time=Timestamp(seconds=1))


def bury(*transactions: DeadTransaction, chain: str = A) -> RecordDeadTransactionsRequest:
    return RecordDeadTransactionsRequest(chain=chain, transactions=transactions)


# ---- recorded --------------------------------------------------------------------------------------------------------------------------


def test_what_is_recorded_may_land_and_is_carried_by_nothing_else(books: Story) -> None:
    size = books.books.size
    transactions = [one(FIRST, SECOND, fee_max="7"), one(sequence=numbered(1))]
    books.when(record(*transactions)).then(TransactionsRecorded(chain=A, transactions=transactions))
    assert books.answer.transaction_count == 2
    assert (books.state_of(FIRST), books.state_of(ELSEWHERE)) == ((RECORDED, 0), (OPEN, 0))
    found = books.open_ones()
    assert [list(each.versions) for each in found] == [[transactions[0]], [transactions[1]]]
    assert [(each.index, each.cursor_number) for each in found] == [(size, 100)] * 2
    pages = books.books.execute(ListTransactionsRequest(chain=A, page_size=1))
    rest = books.books.execute(ListTransactionsRequest(chain=A, page_size=1, page_token=pages.next_page_token))
    assert [*pages.transactions, *rest.transactions] == found
    assert not books.books.execute(ListTransactionsRequest(chain=B)).transactions


def test_a_replacement_is_another_version(books: Story) -> None:
    books.given(record(one(FIRST)))
    dearer, cancelled = one(FIRST, payload=b"q", replacement=True), one(payload=b"c", replacement=True)
    books.given(record(dearer), record(cancelled))
    (found,) = books.open_ones()
    assert list(found.versions) == [one(FIRST), dearer, cancelled]
    assert books.state_of(FIRST) == (RECORDED, 0)


def test_a_large_round_is_recorded_in_parts(books: Story) -> None:
    books.when(record(*(one(sequence=numbered(number), payload=bytes(32_768)) for number in range(5)))).accepted()
    assert (len(books.booked), books.answer.transaction_count) == (5, 5)
    assert len(books.open_ones()) == 5


REFUSED = [
    ("FIELD_MISSING", record(one(FIRST), chain="")),
    ("FIELD_MALFORMED", record(one(FIRST), chain="a")),
    ("FIELD_MISSING", record()),
    ("TOO_MANY_ITEMS", record(*[one()] * 1_001)),
    ("FIELD_MISSING", record(one(key=""), chain="memory:none")),
    ("FIELD_MALFORMED", record(one(key=f"{B}:key"))),
    ("FIELD_MISSING", record(one("9-9", sequence=None))),
    ("FIELD_MALFORMED", record(one("9-9", sequence=numbered(-1)))),
    ("FIELD_MISSING", record(one("9-9", sequence=once("")))),
    ("FIELD_MISSING", record(one("9-9", payload=b""))),
    ("FIELD_MALFORMED", record(one("9-9", payload=bytes(32_769)))),
    ("TOO_MANY_ITEMS", record(one(*["9-9"] * 257))),
    ("FIELD_MALFORMED", record(one("nine"))),
    ("FIELD_MALFORMED", record(one("9-9", fee_max="1.5"))),
    ("TOO_MANY_ITEMS", record(one("9-9", cosigners=[KEY] * 9))),
    ("FIELD_MALFORMED", record(one("9-9", cosigners=[KEY]))),
    ("CHAIN_NOT_FOUND", record(one("9-9", key="memory:none:key"), chain="memory:none")),
    ("INSTRUCTION_NOT_FOUND", record(one("9-9", key=f"{A}:nobody"))),
    ("INSTRUCTION_NOT_FOUND", record(one(ELSEWHERE, key=f"{A}:nobody"))),
    ("KEY_UNFIT", record(one(FIRST, key=f"{A}:nobody"))),
    ("KEY_UNFIT", record(one(FIRST, cosigners=[f"{A}:nobody"]))),
    ("KEY_UNFIT", record(one(FIRST, key=f"{A}:retired"))),
    ("KEY_UNFIT", record(one(FIRST, cosigners=[f"{A}:retired"]))),
    ("KEY_UNFIT", record(one(FIRST, key=f"{A}:burner"))),
    ("KEY_UNFIT", record(one(FIRST, key=f"{A}:other"))),
    ("SEQUENCE_TAKEN", record(one(SECOND, sequence=numbered(7)))),
    ("SEQUENCE_TAKEN", record(one(FIRST, key=f"{A}:used", sequence=numbered(4)))),
    ("SEQUENCE_TAKEN", record(one(FIRST), one(FIRST))),
    ("STATE_UNFIT", record(one(SECOND))),
    ("STATE_UNFIT", record(one(FIRST), one(FIRST, sequence=numbered(1)))),
    ("STATE_UNFIT", record(one(FIRST, FIRST))),
    ("STATE_UNFIT", record(one(replacement=True))),
    ("STATE_UNFIT", record(one(FIRST, sequence=numbered(7), replacement=True))),
]


@pytest.mark.parametrize(("reason", "command"), REFUSED)
def test_refused_records(books: Story, reason: str, command: Any) -> None:
    books.given(set_key(f"{A}:retired"), set_key(f"{A}:retired", roles=[]), set_key(f"{A}:used", consumed_count=5))
    books.given(set_key(f"{A}:burner", roles=[ChainKeyRole.CHAIN_KEY_ROLE_BURNER]), set_key(f"{A}:other", instruments=["USDC"]))
    books.given(record(one(SECOND, sequence=numbered(7))))
    books.when(command).raises(reason)


@pytest.mark.parametrize(
    "transaction",
    [
        {"key": f"{A}:retired"},
        {"key": f"{A}:burner", "cosigners": [KEY]},
        {"key": f"{A}:used", "sequence": numbered(5)},
        {"sequence": once()},
        {"sequence": expiring()},
    ],
)
def test_nearest_to_those_refused(books: Story, transaction: dict[str, Any]) -> None:
    books.given(set_key(f"{A}:retired"), set_key(f"{A}:retired", roles=[]), set_key(f"{A}:used", consumed_count=5))
    books.given(set_key(f"{A}:burner", roles=[ChainKeyRole.CHAIN_KEY_ROLE_BURNER]))
    instructions = [] if transaction.get("key") == f"{A}:retired" else [FIRST]
    books.when(record(one(*instructions, **transaction))).accepted()


def test_a_freeze_or_a_halt_stops_what_is_not_recorded_yet(books: Story) -> None:
    books.given(FreezeHolderRequest(holder="h-1", legal_reference="OFAC"))
    books.when(record(one(FIRST))).raises("INSTRUCTION_BLOCKED", instruction=FIRST, blocked_by="HOLDER_FROZEN")
    books.given(UnfreezeHolderRequest(holder="h-1", legal_reference="lifted"))
    books.given(FreezeAccountRequest(account=ALICE, legal_reference="OFAC"))
    books.when(record(one(FIRST))).raises("INSTRUCTION_BLOCKED", blocked_by="ACCOUNT_FROZEN")


@pytest.mark.parametrize(
    ("operation", "blocked"),
    [(Operation.OPERATION_ISSUE, True), (Operation.OPERATION_TRANSFER, False), (Operation.OPERATION_REDEEM, False)],
)
def test_a_mint_waits_for_issuance_alone(books: Story, operation: Any, blocked: bool) -> None:
    books.given(HaltInstrumentRequest(instrument="AAPLx", operations=[operation], cause="news"))
    books.when(record(one(FIRST)))
    if blocked:
        books.raises("INSTRUCTION_BLOCKED", blocked_by="INSTRUMENT_HALTED")
    else:
        books.accepted()


def test_a_divergence_stops_all_but_freezes_and_pauses(books: Story) -> None:
    books.given(FreezeHolderRequest(holder="h-2", legal_reference="OFAC"))
    freeze = f"{books.books.size - 1}-0"
    state = books.books._state
    state.put(state.halts, (A, "AAPLx"), (7,))
    books.when(record(one(FIRST))).raises("PLACE_HALTED", divergence=7)
    books.when(record(one(freeze))).accepted()


# ---- dead ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sequence", "proof", "consumed_count"),
    [
        (numbered(3), {"proof": CONSUMED}, 4),
        (once(), {"proof": ADVANCED}, 0),
        (expiring(), {"proof": EXPIRED, "position": at(151), "searched_from_number": 100, "found": ""}, 0),
    ],
)
def test_what_is_dead_leaves_its_instructions_open(books: Story, sequence: Any, proof: dict[str, Any], consumed_count: int) -> None:
    books.given(record(one(FIRST, SECOND, sequence=sequence)))
    state = books.books._state
    chain = state.chains[A]
    state.put(state.chains, A, dataclasses.replace(chain, cursor=dataclasses.replace(chain.cursor, number=200)))
    burial = bury(dead(sequence=sequence, **proof))
    books.when(burial).then(TransactionsDied(chain=A, transactions=burial.transactions))
    assert [books.state_of(each) for each in (FIRST, SECOND)] == [(OPEN, 1)] * 2
    assert books.open_ones() == []
    (key,) = books.books.execute(ListChainKeysRequest(chain=A)).keys
    assert key.consumed_count == consumed_count
    books.when(burial).raises("INSTRUCTION_NOT_FOUND")
    books.when(record(one(FIRST, sequence=numbered(4)))).accepted()


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", bury(dead(), chain="")),
        ("FIELD_MISSING", bury()),
        ("TOO_MANY_ITEMS", bury(*[dead()] * 65)),
        ("FIELD_MALFORMED", bury(dead(key=f"{B}:key"))),
        ("FIELD_MISSING", bury(dead(sequence=None))),
        ("FIELD_MISSING", bury(dead(proof=0))),
        ("FIELD_MISSING", bury(dead(position=None))),
        ("FIELD_MALFORMED", bury(dead(found="x" * 129))),
        ("FIELD_MALFORMED", bury(dead(searched_from_number=-1))),
        ("FIELD_MALFORMED", bury(dead(), dead())),
        ("CHAIN_NOT_FOUND", bury(dead(key="memory:none:key"), chain="memory:none")),
        ("INSTRUCTION_NOT_FOUND", bury(dead(sequence=numbered(1)))),
        ("PROOF_INSUFFICIENT", bury(dead(position=at(101)))),
        ("PROOF_INSUFFICIENT", bury(dead(proof=ADVANCED))),
        ("PROOF_INSUFFICIENT", bury(dead(found=""))),
        ("PROOF_INSUFFICIENT", bury(dead(sequence=once(), proof=CONSUMED))),
        ("PROOF_INSUFFICIENT", bury(dead(sequence=expiring(), proof=EXPIRED, position=at(99), searched_from_number=100))),
        ("PROOF_INSUFFICIENT", bury(dead(sequence=expiring(), proof=CONSUMED))),
    ],
)
def test_refused_deaths(books: Story, reason: str, command: Any) -> None:
    books.given(record(one(FIRST), one(SECOND, sequence=once()), one(sequence=expiring())))
    books.when(command).raises(reason)


@pytest.mark.parametrize(("number", "searched", "accepted"), [(150, 100, False), (151, 101, False), (151, 100, True)])
def test_an_expired_reference_must_be_past_and_searched_for(books: Story, number: int, searched: int, accepted: bool) -> None:
    books.given(record(one(FIRST, sequence=expiring())))
    state = books.books._state
    chain = state.chains[A]
    state.put(state.chains, A, dataclasses.replace(chain, cursor=dataclasses.replace(chain.cursor, number=200)))
    books.when(bury(dead(sequence=expiring(), proof=EXPIRED, position=at(number), searched_from_number=searched)))
    if accepted:
        books.accepted()
    else:
        books.raises("PROOF_INSUFFICIENT")


def test_a_recorded_instruction_is_not_given_up(books: Story) -> None:
    books.given(record(one(FIRST)))
    books.when(AbandonInstructionRequest(instruction=FIRST, cause="asked for")).raises("STATE_UNFIT", state="recorded")


def test_repeats(books: Story) -> None:
    check_repeat(books, record(one(FIRST)), record(one(SECOND)))


def test_a_repeated_burial(books: Story) -> None:
    check_repeat(books.given(record(one(FIRST))), bury(dead()), bury(dead(found="0x78")))
