"""The reference chain by itself: what a chain must be, before an adapter speaks to it."""

from __future__ import annotations

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from chain_adapters.memory import connect, payloads
from chain_adapters.memory.chain import NUMBER, ONE_TIME_VALUE, MemoryChain
from chain_adapters.memory.payloads import MemorySigner
from chain_adapters.memory.token import Token
from chain_adapters.protocol import ENTRY_POINTS, find_adapter

CAPABILITIES = frozenset({"MINT", "BURN", "FREEZE", "PAUSE", "MULTIPLIER", "ALLOTMENT"})


class Story:
    """A chain with one token, whose every role one key has."""

    def __init__(self, sequences: str = NUMBER) -> None:
        self.now_us = 1_000_000
        self.chain = MemoryChain(sequences=sequences, clock_us=lambda: self.now_us)
        self.key = MemorySigner(self.chain.chain, bytes([1]) * 32)
        self.wallet = MemorySigner(self.chain.chain, bytes([2]) * 32)
        roles = dict.fromkeys(("MINTER", "BURNER", "ENFORCER", "PAUSER", "MULTIPLIER", "ALLOTTER", "OWNER"), self.key.address)
        self.chain.deploy(Token("AAPLx", 6, roles, CAPABILITIES, allotment=1000))
        for signer in (self.key, self.wallet):
            self.chain.fund(signer.address, 10_000)

    def payload(self, *operations: dict[str, Any], number: int = 0, fee: int = 200, **changes: Any) -> bytes:
        content = {"chain": self.chain.chain, "key": self.key.address, "sequence": {"number": number}, "cosigners": [], "fee": fee}
        content["operations"] = [{"token": "AAPLx"} | operation for operation in operations]
        return payloads.encode(content | changes)

    def submit(self, payload: bytes, *signers: MemorySigner) -> str:
        signing = signers or (self.key,)
        return self.chain.submit(payload, {signer.address: signer.sign(payload) for signer in signing})

    def mint(self, raw: int = 5) -> dict[str, Any]:
        return {"do": "mint", "destination": self.wallet.address, "raw": str(raw)}

    @property
    def token(self) -> Token:
        return self.chain.state.tokens["AAPLx"]


@pytest.fixture
def story() -> Story:
    return Story()


def test_of_one_number_one_transaction_lands(story: Story) -> None:
    first, second = story.payload(story.mint(5)), story.payload(story.mint(6), fee=300)
    assert story.submit(first) == "taken"
    assert story.submit(first) == "known"
    assert story.submit(story.payload(story.mint(7), fee=210)) == "replacement underpriced"
    assert story.submit(second) == "taken"
    story.chain.produce()
    assert story.token.supply == 6
    assert story.submit(first) == "sequence used"
    story.chain.produce()
    assert story.token.supply == 6


def test_numbers_are_taken_in_order(story: Story) -> None:
    assert story.submit(story.payload(story.mint(1), number=1)) == "taken"
    story.chain.produce()
    assert story.token.supply == 0, "number 0 is missing"
    story.submit(story.payload(story.mint(2), number=0))
    story.chain.produce()
    assert story.token.supply == 3


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"chain": "memory:2"}, "other chain"),
        ({"key": "00" * 32}, "bad signature"),
        ({"fee": 20_000}, "insufficient funds"),
        ({"sequence": {"account": "nobody.0", "value": "x"}}, "malformed"),
    ],
)
def test_what_a_node_does_not_take(story: Story, changes: dict[str, Any], answer: str) -> None:
    assert story.submit(story.payload(story.mint(), **changes)) == answer


def test_another_form_of_the_same_json_is_no_payload(story: Story) -> None:
    assert story.submit(story.payload(story.mint()) + b" ") == "malformed"


def test_a_failed_transaction_pays_and_does_nothing_else(story: Story) -> None:
    story.submit(story.payload(story.mint(900), story.mint(200)))
    story.chain.produce()
    (included,) = story.chain.head.transactions
    assert (included.failure, included.text) == ("ALLOTMENT_EXCEEDED", "AllotmentExceeded(1100, 1000)")
    assert not included.events
    assert story.token.supply == 0
    assert story.chain.state.coins[story.key.address] == 10_000 - 200
    assert story.submit(story.payload(story.mint())) == "sequence used"


def test_a_fee_too_low_waits(story: Story) -> None:
    story.chain.base_fee = 500
    story.submit(story.payload(story.mint()))
    story.chain.produce(3)
    assert story.token.supply == 0
    story.chain.base_fee = 100
    story.chain.produce()
    assert story.token.supply == 5


def test_roles_and_owners(story: Story) -> None:
    theirs = story.payload(story.mint(), key=story.wallet.address)
    assert story.submit(theirs, story.wallet) == "taken"
    story.submit(story.payload(story.mint(10)))
    story.submit(story.payload({"do": "transfer", "source": story.wallet.address, "destination": story.key.address, "raw": "1"}, number=1))
    story.chain.produce()
    failures = {each.payload: each.failure for each in story.chain.head.transactions}
    assert failures[theirs] == "KEY_WITHOUT_ROLE"
    assert story.token.holdings == {story.wallet.address: 10}
    both = story.payload(
        {"do": "transfer", "source": story.wallet.address, "destination": story.key.address, "raw": "1"},
        number=2,
        cosigners=[story.wallet.address],
    )
    assert story.submit(both) == "bad signature", "the cosigner has not signed"
    assert story.submit(both, story.key, story.wallet) == "taken"
    story.chain.produce()
    assert story.token.holdings == {story.wallet.address: 9, story.key.address: 1}


def test_a_burn_with_a_legal_ground_passes_a_freeze_and_a_bar(story: Story) -> None:
    """The owner's own does not, whatever ground it gives."""
    burn = {"do": "burn", "source": story.wallet.address, "raw": "1"}
    story.submit(story.payload(story.mint(), {"do": "freeze", "source": story.wallet.address, "frozen": True}))
    story.submit(story.payload(burn, number=1))
    story.submit(story.payload(burn | {"reason": "court order 12/2026"}, number=2))
    story.submit(story.payload({"do": "bar", "account": story.wallet.address, "barred": True}, number=3))
    story.submit(story.payload(burn | {"reason": "court order 12/2026"}, number=4))
    owners = story.payload(burn | {"reason": "mine"}, key=story.wallet.address)
    story.submit(owners, story.wallet)
    story.chain.produce()
    failures = [each.failure for each in story.chain.head.transactions if each.payload != owners]
    assert failures == ["", "ACCOUNT_BARRED", "", "", ""]
    assert [each.failure for each in story.chain.head.transactions if each.payload == owners] == ["ACCOUNT_BARRED"]
    assert story.token.supply == 3


def test_one_time_values_change_with_each_use() -> None:
    story = Story(ONE_TIME_VALUE)
    account = f"{story.key.address}.0"
    value = story.chain.value_of(account, story.chain.state)
    first = story.payload(story.mint(5), sequence={"account": account, "value": value})
    failing = story.payload(story.mint(5000), sequence={"account": account, "value": value}, fee=400)
    assert story.submit(failing) == "taken"
    story.chain.produce()
    assert story.chain.value_of(account, story.chain.state) != value
    assert story.submit(first) == "sequence used", "a failed transaction uses the value up too"


def test_a_multiplier_counts_from_its_time_on(story: Story) -> None:
    story.submit(story.payload({"do": "set_multiplier", "multiplier": str(2 * 10**18), "effective_time_us": "5000000"}))
    story.chain.produce()
    assert story.token.multiplier_at(4_999_999) == 10**18
    assert story.token.multiplier_at(5_000_000) == 2 * 10**18


def test_a_reorganisation_puts_transactions_back_to_wait(story: Story) -> None:
    story.chain.produce(3)
    story.submit(story.payload(story.mint(5)))
    story.chain.produce()
    before = story.chain.head
    final = story.chain.blocks[story.chain.final_number]
    story.chain.reorganise(1)
    assert story.token.supply == 5, "it landed again"
    assert story.chain.blocks[before.number].hash != before.hash
    assert story.chain.blocks[final.number] == final
    story.chain.reorganise(2, forget=True)
    story.chain.produce(5)
    assert story.token.supply == 0, "it was lost, and may be sent again"
    assert story.submit(story.payload(story.mint(5))) == "taken"


def test_is_found_by_its_namespace() -> None:
    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    declared = pyproject["project"]["entry-points"][ENTRY_POINTS]
    points = [EntryPoint(name, value, ENTRY_POINTS) for name, value in declared.items()]
    assert find_adapter("memory:1", points) is connect
