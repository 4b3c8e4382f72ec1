"""What is to be done goes into as few transactions as hold it; what is recorded is all that signing needs, for ever the same."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solders.hash import Hash
from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.transaction import Transaction

from chain_adapters.spl import compute, programs, token_2022
from chain_adapters.spl.addresses import MEMO_PROGRAM, associated_account, associated_account_and_bump
from chain_adapters.spl.errors import KeyMalformed, SignatureWrong, TransactionTooLarge
from chain_adapters.spl.planning import TRANSACTION_BYTES_MAX, DurableNonce, Step, _transaction, plan
from chain_adapters.spl.signing import KeypairSigner, open_signer, required_signers, sign, signature_of
from services.chain_worker.keys import open_signers
from services.settings import SettingsError

CHAIN = "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"

PAYER, MINTER, MINT = (KeypairSigner(Keypair.from_seed(bytes([number]) * 32)) for number in (1, 2, 3))


def nonce(number):
    return DurableNonce(Pubkey(bytes([100 + number]) * 32), PAYER.public_key, Hash.hash(bytes([number])), 1_000 + number)


def mint_step(number, *, opens=False):
    owner = Pubkey(number.to_bytes(2) * 16)
    mint = MINT.public_key
    minted = token_2022.mint_to(mint, associated_account(owner, mint), MINTER.public_key, units=number + 1, decimals=8)
    return Step(f"{number}", (programs.create_associated_account(PAYER.public_key, owner, mint), minted) if opens else (minted,))


NONCES = [nonce(number) for number in range(20)]


@pytest.mark.parametrize("opens", [False, True])
def test_as_many_as_fit_in_their_order(opens):
    steps = [mint_step(number, opens=opens) for number in range(50)]
    planned = plan(steps, PAYER.public_key, NONCES, 1_000)
    assert [number for one in planned for number in one.instruction_ids] == [step.instruction_id for step in steps]
    for place, one in enumerate(planned):
        transaction = sign(one.message, [PAYER, MINTER])
        assert len(transaction) <= TRANSACTION_BYTES_MAX
        assert one.compute_units <= programs.COMPUTE_UNITS_MAX
        message = Message.from_bytes(one.message)
        memos = [bytes(part.data).decode() for part in message.instructions if message.account_keys[part.program_id_index] == MEMO_PROGRAM]
        assert memos == [f"stockledger:{number}" for number in one.instruction_ids]
        assert one.nonce == NONCES[place]
        assert message.recent_blockhash == NONCES[place].value
        assert Transaction.from_bytes(transaction).uses_durable_nonce() is not None
    taken = [len(one.instruction_ids) for one in planned]
    assert set(taken[:-1]) <= ({6, 7} if opens else {11, 12})
    for place, count in enumerate(taken[:-1]):  # one more would not have fitted
        start = sum(taken[:place])
        assert _transaction(steps[start : start + count], PAYER.public_key, NONCES[place], 1_000) == planned[place]
        assert _transaction(steps[start : start + count + 1], PAYER.public_key, NONCES[place], 1_000) is None


def test_a_prefix_when_the_nonces_run_out():
    steps = [mint_step(number) for number in range(50)]
    assert plan(steps, PAYER.public_key, NONCES[:1], 0)[0].instruction_ids == tuple(str(number) for number in range(11))
    assert plan(steps, PAYER.public_key, [], 0) == []
    assert plan([], PAYER.public_key, NONCES, 0) == []


def test_a_step_too_large_is_named_and_its_neighbours_fit():
    large = Step("4711", tuple(programs.memo("x" * 200) for _ in range(5)))
    with pytest.raises(TransactionTooLarge, match="instruction 4711 does not fit one transaction of at most 1232 bytes"):
        plan([mint_step(1), large], PAYER.public_key, NONCES, 0)
    slow = Step("4712", tuple(programs.create_associated_account(PAYER.public_key, PAYER.public_key, MINT.public_key) for _ in range(31)))
    with pytest.raises(TransactionTooLarge, match="1400000 compute units"):
        plan([slow], PAYER.public_key, NONCES, 0)
    assert len(plan([mint_step(1), mint_step(2)], PAYER.public_key, NONCES, 0)) == 1


def test_the_same_plan_is_the_same_bytes():
    steps = [mint_step(number) for number in range(5)]
    assert plan(steps, PAYER.public_key, NONCES, 5) == plan(steps, PAYER.public_key, NONCES, 5)
    assert plan(steps, PAYER.public_key, NONCES, 5) != plan(steps, PAYER.public_key, NONCES, 6)


def test_no_two_attempts_are_the_same_bytes():
    steps = [mint_step(number) for number in range(2)]
    later = [
        [dataclasses.replace(steps[0], attempt=first), dataclasses.replace(steps[1], attempt=second)] for first, second in ((1, 1), (2, 5))
    ]
    planned = [plan(each, PAYER.public_key, NONCES, 5)[0] for each in (steps, *later)]
    assert len({one.message for one in planned}) == 3
    assert [one.compute_units - planned[0].compute_units for one in planned] == [0, 2, 7]
    assert {len(one.message) for one in planned} == {len(planned[0].message)}


def test_the_fee_is_paid_for_signatures_and_for_the_limit():
    [planned] = plan([mint_step(1)], PAYER.public_key, NONCES, 1_000_000)
    assert planned.fee_lamports_max == 2 * 5_000 + planned.compute_units
    [planned] = plan([mint_step(1)], PAYER.public_key, NONCES, 1)
    assert planned.fee_lamports_max == 2 * 5_000 + 1


def test_the_search_for_an_associated_account_is_in_the_bound():
    mint = MINT.public_key
    bounds = {}
    for number in range(1, 200):
        owner = Pubkey(number.to_bytes(2) * 16)
        bounds[255 - associated_account_and_bump(owner, mint)[1]] = compute.bound(
            [programs.create_associated_account(PAYER.public_key, owner, mint)]
        )
    assert len(bounds) > 3
    assert bounds == {tries: 45_000 + 1_500 * tries for tries in bounds}


# Signing


def test_signing_again_gives_the_same_transaction():
    [planned] = plan([mint_step(1)], PAYER.public_key, NONCES, 0)
    first = sign(planned.message, [PAYER, MINTER])
    assert first == sign(planned.message, [MINTER, PAYER])
    assert bytes(Transaction.from_bytes(first).message) == planned.message
    assert Transaction.from_bytes(first).verify() is None
    assert signature_of(first) == str(Transaction.from_bytes(first).signatures[0])
    assert required_signers(planned.message) == [PAYER.public_key, MINTER.public_key]


def test_a_missing_key_is_named():
    [planned] = plan([mint_step(1)], PAYER.public_key, NONCES, 0)
    with pytest.raises(KeyMalformed, match=f"needs the signature of {MINTER.public_key}"):
        sign(planned.message, [PAYER])


@pytest.mark.parametrize("answer", [b"", bytes(64), bytes(63), PAYER.sign(b"something else")])
def test_a_signer_that_answers_with_something_else_is_named(answer):
    class Strange:
        public_key = MINTER.public_key

        def sign(self, _message):
            return answer

    [planned] = plan([mint_step(1)], PAYER.public_key, NONCES, 0)
    with pytest.raises(SignatureWrong, match=str(MINTER.public_key)):
        sign(planned.message, [PAYER, Strange()])


def test_a_key_as_the_command_line_writes_it():
    pair = list(bytes(Keypair.from_seed(bytes([1]) * 32)))
    signer = KeypairSigner.from_text(json.dumps(pair))
    assert signer.public_key == PAYER.public_key
    assert signer.sign(b"x") == PAYER.sign(b"x")
    assert str(pair[0]) not in repr(signer).replace(str(signer.public_key), "")


GOOD = list(bytes(Keypair.from_seed(bytes([1]) * 32)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON list"),
        ("hunter2", "no JSON list"),
        ('"hunter2"', "no JSON list"),
        ("[1, 2", "no JSON list"),
        (json.dumps([256, *GOOD[1:]]), "no JSON list"),
        (json.dumps([True, *GOOD[1:]]), "no JSON list"),
        (json.dumps(GOOD[:32]), "32 bytes, not 64"),
        (json.dumps([*GOOD, 1]), "65 bytes, not 64"),
        (json.dumps([*GOOD[:63], GOOD[63] ^ 1]), "does not belong"),
    ],
)
def test_a_key_that_is_none_is_refused_and_never_shown(text, words):
    with pytest.raises(KeyMalformed, match=words) as refused:
        KeypairSigner.from_text(text)
    assert "hunter2" not in str(refused.value)


def test_a_worker_opens_what_a_file_has():
    signers = open_signers([f"{CHAIN}=env:KEY"], "", {"KEY": json.dumps(GOOD)})[CHAIN]
    assert signers.keys() == {f"{CHAIN}:{PAYER.public_key}"}
    assert signers[f"{CHAIN}:{PAYER.public_key}"].sign(b"x") == PAYER.sign(b"x")
    for text in (json.dumps(GOOD[:63]), "hunter2", "\N{SNOWMAN}"):
        with pytest.raises(SettingsError) as refused:
            open_signers([f"{CHAIN}=env:KEY"], "", {"KEY": text})
        assert text not in str(refused.value)
    with pytest.raises(ValueError, match="no JSON list"):
        open_signer(CHAIN, b"\xff")


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_ed25519_signs_the_same_every_time(seed, message):
    assert KeypairSigner(Keypair.from_seed(seed)).sign(message) == KeypairSigner(Keypair.from_seed(seed)).sign(message)
