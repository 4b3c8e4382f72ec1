"""Payloads: one form, signed to the same bytes again, made again from what the chain tells, replaced under the same nonce."""

from __future__ import annotations

import json
import pickle

import pytest
from eth_account import Account
from evm_market import Market
from evm_node import CHAIN_ID, NodeRefused
from hypothesis import given
from hypothesis import strategies as st

from chain_adapters.evm import token_calls
from chain_adapters.evm.instruction_ids import instruction_id, read_instruction_id
from chain_adapters.evm.keys import KeyUnusable, LocalSigner
from chain_adapters.evm.transactions import (
    Fees,
    UnsignedTransaction,
    assemble,
    fees_now,
    is_underpriced,
    payload_of_landed,
    read_payload,
    replacement_fees,
    transaction_hash,
)
from services.chain_worker.keys import open_signers
from services.settings import SettingsError

CHAIN = f"eip155:{CHAIN_ID}"
SECRET = b"\x42" * 32
TO = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
GWEI = 10**9
numbers = st.integers(0, 2**64 - 1)
fees = st.tuples(numbers, numbers).map(lambda pair: Fees(max(pair), min(pair)))
transactions = st.builds(UnsignedTransaction, st.integers(1, 2**53), numbers, fees, numbers, st.just(TO), st.binary(max_size=300))


@given(transactions)
def test_a_payload_reads_back_and_is_signed_as_others_sign_it(transaction: UnsignedTransaction):
    assert read_payload(transaction.payload) == transaction
    signer = LocalSigner(CHAIN, SECRET)
    raw = assemble(transaction.payload, signer.sign(transaction.payload))
    theirs = Account.sign_transaction(
        {
            "type": 2,
            "chainId": transaction.chain_id,
            "nonce": transaction.nonce,
            "maxPriorityFeePerGas": transaction.fees.priority,
            "maxFeePerGas": transaction.fees.most,
            "gas": transaction.gas_limit,
            "to": transaction.target,
            "value": 0,
            "data": transaction.data,
        },
        SECRET,
    )
    assert raw == theirs.raw_transaction
    assert transaction_hash(raw) == "0x" + theirs.hash.hex()
    assert raw == assemble(transaction.payload, LocalSigner(CHAIN, SECRET).sign(transaction.payload)), "the very same again"


@given(st.binary(max_size=200), transactions, st.integers(0, 400))
def test_no_other_bytes_are_a_payload(noise: bytes, transaction: UnsignedTransaction, place: int):
    payload = transaction.payload
    for wrong in (noise, b"\x02" + noise, payload[:place] if place < len(payload) else b"", payload + b"\0", b"\x01" + payload[1:]):
        with pytest.raises(ValueError, match="payload"):
            read_payload(wrong)


# old fees, today's, the operator's limit: fees of a replacement.
@pytest.mark.parametrize(
    ("old", "now", "most", "new"),
    [
        (Fees(100, 10), Fees(50, 5), 200, Fees(113, 12)),
        (Fees(100, 10), Fees(500, 50), 500, Fees(500, 50)),
        (Fees(100, 10), Fees(500, 50), 499, None),
        (Fees(1, 0), Fees(0, 0), 10, Fees(2, 1)),
        (Fees(8, 8), Fees(1, 1), 9, None),
        (Fees(8, 8), Fees(1, 1), 10, Fees(10, 10)),
    ],
)
def test_a_replacement_pays_more_up_to_the_limit(old: Fees, now: Fees, most: int, new: Fees | None):
    assert replacement_fees(old, now, most=most) == new


@given(fees, fees, st.integers(0, 2**70))
def test_a_replacement_is_one_that_nodes_take(old: Fees, now: Fees, most: int):
    new = replacement_fees(old, now, most=most)
    if new is not None:
        assert new.most <= most
        assert 1000 * new.most >= 1125 * old.most and 1000 * new.priority >= 1125 * old.priority


def test_fees_stand_a_doubling_of_the_base_fee_and_never_pass_the_limit():
    assert fees_now(100, 3, most=1000) == Fees(203, 3)
    assert fees_now(100, 3, most=150) == Fees(150, 3)
    assert fees_now(100, 30, most=20) == Fees(20, 20)


# fees, base fee, what proposers get now: whether they are too low.
@pytest.mark.parametrize(
    ("fees", "base_fee", "priority", "too_low"),
    [
        (Fees(99, 1), 100, 0, True),
        (Fees(100, 1), 100, 0, False),
        (Fees(200, 8), 100, 10, True),
        (Fees(200, 9), 100, 10, False),
        (Fees(108, 50), 100, 10, True),
        (Fees(109, 50), 100, 10, False),
        (Fees(100, 0), 100, 1, True),
        (Fees(200, 100), 50, 99, False),
    ],
)
def test_fees_are_too_low_below_the_base_fee_or_a_replacement_step_below_what_proposers_get(
    fees: Fees, base_fee: int, priority: int, too_low: bool
):
    assert is_underpriced(fees, base_fee, priority) is too_low


def test_a_payload_is_made_again_from_what_the_chain_tells(market: Market):
    signer = LocalSigner(CHAIN, SECRET)
    address = signer.account.rpartition(":")[2]
    market.node.call("anvil_setBalance", address, hex(10**20))
    market.as_owner("admin", "grantRole(bytes32,address)", token_calls.mint(market.lines(("alice", 1))).role, address)
    call = token_calls.mint(market.lines(("alice", 5)))
    ours = UnsignedTransaction(CHAIN_ID, 0, Fees(10 * GWEI, GWEI), 300_000, market.token, call.data)
    raw = assemble(ours.payload, signer.sign(ours.payload))
    sent = market.node.call("eth_sendRawTransaction", "0x" + raw.hex())
    assert sent == transaction_hash(raw)
    market.node.receipt(sent)
    told = market.node.call("eth_getTransactionByHash", sent)
    assert payload_of_landed(told) == ours.payload
    assert market.units("alice") == 5
    with pytest.raises(NodeRefused, match=r"nonce too low|already known|already imported"):
        market.node.call("eth_sendRawTransaction", "0x" + raw.hex())


def test_a_replacement_and_a_cancellation_use_up_the_nonce_once(market: Market):
    signer = LocalSigner(CHAIN, SECRET)
    address = signer.account.rpartition(":")[2]
    node = market.node
    node.call("anvil_setBalance", address, hex(10**20))
    data = bytes.fromhex("095ea7b3") + bytes(12) + bytes.fromhex(TO[2:]) + (7).to_bytes(32)
    first = UnsignedTransaction(CHAIN_ID, 0, Fees(10 * GWEI, GWEI), 300_000, market.token, data)
    old = first.fees
    node.call("evm_setAutomine", False)
    try:
        hashes = []
        for version in (
            first,
            first.with_fees(replacement_fees(old, old, most=10**12)),
            first.cancellation(address, Fees(20 * GWEI, 2 * GWEI)),
        ):
            raw = assemble(version.payload, signer.sign(version.payload))
            hashes.append(node.call("eth_sendRawTransaction", "0x" + raw.hex()))
        lower = first.with_fees(Fees(20 * GWEI, 2 * GWEI + 1))
        with pytest.raises(NodeRefused, match="underpriced"):
            node.call("eth_sendRawTransaction", "0x" + assemble(lower.payload, signer.sign(lower.payload)).hex())
        node.call("evm_mine")
    finally:
        node.call("evm_setAutomine", True)
    receipts = [node.call("eth_getTransactionReceipt", hash_) for hash_ in hashes]
    assert [receipt is not None for receipt in receipts] == [False, False, True]
    assert receipts[2]["logs"] == []
    assert int(receipts[2]["gasUsed"], 16) == 21_000


def test_what_is_not_ours_or_cannot_be_is_told_apart():
    told = {
        "type": "0x2", "to": TO, "value": "0x0", "accessList": [], "chainId": "0x1", "nonce": "0x0", "gas": "0x5208", "maxFeePerGas": "0x2",
        "maxPriorityFeePerGas": "0x1", "input": "0x",
    }  # fmt: skip
    assert payload_of_landed(told) == UnsignedTransaction(1, 0, Fees(2, 1), 21_000, TO, b"").payload
    for other in ({"type": "0x0"}, {"to": None}, {"value": "0x1"}, {"accessList": [{"address": TO, "storageKeys": []}]}):
        assert payload_of_landed(told | other) is None
    for nonsense in ({"nonce": "x"}, {"gas": None}, {"maxFeePerGas": "0x0"}, {"input": "0xzz"}, {"to": "0x12"}):
        with pytest.raises(ValueError, match="cannot be"):
            payload_of_landed(told | nonsense)
    with pytest.raises(ValueError, match="cannot be"):
        payload_of_landed({})


def test_keys_come_from_keystores_and_text_and_never_show():
    signer = LocalSigner.from_text(CHAIN, "0x" + SECRET.hex() + "\n")
    assert signer.account == f"{CHAIN}:{Account.from_key(SECRET).address}"
    keystore = signer.keystore("correct horse", kdf="pbkdf2", iterations=2)
    assert LocalSigner.from_keystore(CHAIN, keystore, "correct horse").account == signer.account
    theirs = json.dumps(Account.encrypt(SECRET, "correct horse", kdf="pbkdf2", iterations=2))
    assert LocalSigner.from_keystore(CHAIN, theirs, "correct horse").account == signer.account
    assert SECRET.hex() not in repr(signer)
    with pytest.raises(TypeError):
        pickle.dumps(signer)


@pytest.mark.parametrize("text", ["", "zz", "42" * 31, "42" * 33, "00" * 32, "ff" * 32])
def test_a_secret_that_is_no_key_is_refused_and_not_repeated(text: str):
    with pytest.raises(KeyUnusable) as refused:
        LocalSigner.from_text(CHAIN, text)
    assert not text or text not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_keystore_that_does_not_open_is_refused():
    keystore = LocalSigner(CHAIN, SECRET).keystore("right", kdf="pbkdf2", iterations=2)
    for text, password in ((keystore, "wrong"), ("{}", "right"), ("no json", "right"), ("[]", "right")):
        with pytest.raises(KeyUnusable):
            LocalSigner.from_keystore(CHAIN, text, password)


def test_a_worker_opens_what_a_file_has():
    account = LocalSigner(CHAIN, SECRET).account
    keystore = LocalSigner(CHAIN, SECRET).keystore("right", kdf="pbkdf2", iterations=2)
    secret = f"{SECRET.hex()}\n"
    assert open_signers([f"{CHAIN}=env:KEY"], "", {"KEY": secret})[CHAIN].keys() == {account}
    assert open_signers([f"{CHAIN}=env:KEY"], "right", {"KEY": keystore})[CHAIN].keys() == {account}
    for text, passphrase in ((keystore, "wrong"), (secret[2:], ""), ("{", ""), ("\N{SNOWMAN}", "")):
        with pytest.raises(SettingsError) as refused:
            open_signers([f"{CHAIN}=env:KEY"], passphrase, {"KEY": text})
        assert text not in str(refused.value)


@given(st.text(max_size=40), st.integers(0, 2**63 - 1), st.integers(0, 2**31 - 1))
def test_instruction_ids_read_back_for_their_ledger_alone(ledger: str, index: int, position: int):
    written = instruction_id(ledger, f"{index}-{position}")
    assert len(written) == 32 and any(written)
    assert read_instruction_id(ledger, written) == f"{index}-{position}"
    assert read_instruction_id(ledger + "x", written) == ""
    assert read_instruction_id(ledger, written[1:]) == ""


def test_instructions_that_follow_each_other_share_a_word():
    first, second = instruction_id("acme", "512-0"), instruction_id("acme", "767-0")
    assert first[:31] == second[:31]
    assert instruction_id("acme", "512-1")[:31] != first[:31]
    for wrong in ("", "1", "1-", "01-0", "1-0-0", "-1-0", " 1-0"):
        with pytest.raises(AssertionError):
            instruction_id("acme", wrong)
