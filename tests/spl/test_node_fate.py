"""Recorded transactions on a real node: each lands once however often it is sent, and is called dead only with the proof in hand."""

from __future__ import annotations

import dataclasses

import pytest
from solders.message import Message
from spl_chain import DECIMALS, transfer_lamports, wait_for

from chain_adapters.spl import programs, token_2022
from chain_adapters.spl.account_layout import decode_nonce_account
from chain_adapters.spl.errors import AccountMalformed, TransactionRefused
from chain_adapters.spl.fate import Fate, Verdict, fate_of, final_nonce
from chain_adapters.spl.planning import Step, plan
from chain_adapters.spl.signing import sign, signature_of

FIRST = programs.memo("so that the node does not take the transaction for a durable one")


@pytest.fixture
def operator(chain):
    return chain.key()


@pytest.fixture
def nonce(chain, operator):
    return chain.nonce(operator)


def mint_step(token, account, units=10, number="1"):
    return Step(number, (token_2022.mint_to(token.mint, account, token.minter.public_key, units=units, decimals=DECIMALS),))


@pytest.fixture
def minting(chain, token, operator, nonce):
    """Plan one mint of 10 units; return the account, the plan and the signed transaction."""
    _, account = token.holder()
    [planned] = plan([mint_step(token, account)], chain.payer.public_key, [nonce], 0)
    return account, planned, sign(planned.message, [chain.payer, token.minter, operator])


def fate(chain, planned, transaction):
    through = chain.client.finalized_slot()
    return fate_of(chain.client, planned.message, signature_of(transaction), since_slot=planned.nonce.slot, through_slot=through)


def verdict_once_final(chain, planned, transaction):
    def decided():
        verdict = fate(chain, planned, transaction)
        return None if verdict.fate is Fate.WAITING else verdict

    return wait_for(decided)


def test_sent_five_times_it_lands_once(chain, token, minting):
    account, planned, transaction = minting
    assert fate(chain, planned, transaction).fate is Fate.OPEN
    for _ in range(5):
        assert chain.client.send(transaction) == signature_of(transaction)
    assert token.units(account) == 10
    verdict = verdict_once_final(chain, planned, transaction)
    assert verdict.fate is Fate.SUCCEEDED
    assert verdict.transaction.signature == signature_of(transaction)
    assert verdict.transaction.memos == ("stockledger:1",)
    chain.land(transaction)
    assert token.units(account) == 10


def test_it_is_open_long_after_ordinary_blockhashes_expired(chain, token, minting):
    account, planned, transaction = minting
    begun = chain.client.latest_slot()
    ordinary = sign(chain.message([programs.memo("ordinary")]), [chain.payer])
    wait_for(lambda: chain.client.latest_slot() > begun + 400)
    with pytest.raises(TransactionRefused, match=r"[Bb]lockhash"):
        chain.client.send(ordinary)
    assert fate(chain, planned, transaction).fate is Fate.OPEN
    chain.land(transaction)
    assert token.units(account) == 10


def test_landed_but_not_final_is_neither(chain, minting):
    _, planned, transaction = minting
    landed = chain.land(transaction)
    verdict = fate(chain, planned, transaction)
    if chain.client.finalized_slot() < landed.slot:
        assert verdict.fate is Fate.WAITING
    assert verdict_once_final(chain, planned, transaction).fate is Fate.SUCCEEDED


def test_a_failed_one_used_its_nonce_up_and_did_nothing(chain, token, operator, nonce):
    _, account = token.holder()
    assert chain.run([token_2022.freeze(token.mint, account, token.guard.public_key)], token.guard).error is None
    [planned] = plan([mint_step(token, account)], chain.payer.public_key, [nonce], 0)
    transaction = sign(planned.message, [chain.payer, token.minter, operator])
    with pytest.raises(TransactionRefused) as refused:
        chain.client.send(transaction)
    assert any("frozen" in line for line in refused.value.logs)
    assert fate(chain, planned, transaction).fate is Fate.OPEN  # a trial run proves nothing
    assert chain.land(transaction).error is not None
    verdict = verdict_once_final(chain, planned, transaction)
    assert verdict.fate is Fate.FAILED
    assert token.units(account) == 0
    assert chain.run([token_2022.thaw(token.mint, account, token.guard.public_key)], token.guard).error is None
    chain.client.send(transaction, skips_trial=True)
    assert token.units(account) == 0


def test_what_landed_before_it_was_recorded_is_another_of_the_same_bytes(chain, token, operator, nonce):
    """This node leaves a nonce as it is when its transaction fails, so that the same bytes may be recorded again."""
    _, account = token.holder()
    assert chain.run([token_2022.freeze(token.mint, account, token.guard.public_key)], token.guard).error is None
    [planned] = plan([mint_step(token, account)], chain.payer.public_key, [nonce], 0)
    transaction = sign(planned.message, [chain.payer, token.minter, operator])
    landed = chain.land(transaction)
    assert landed.error is not None
    chain.wait_final(landed.slot)
    assert final_nonce(chain.client, nonce.account).value == nonce.value
    for since, expected in ((landed.slot, Fate.FAILED), (landed.slot + 1, Fate.OPEN)):
        verdict = fate_of(chain.client, planned.message, signature_of(transaction), since_slot=since, through_slot=landed.slot)
        assert verdict.fate is expected
    [again] = plan([dataclasses.replace(mint_step(token, account), attempt=1)], chain.payer.public_key, [nonce], 0)
    assert chain.run([token_2022.thaw(token.mint, account, token.guard.public_key)], token.guard).error is None
    assert chain.land(sign(again.message, [chain.payer, token.minter, operator])).error is None
    assert token.units(account) == 10


def test_dead_once_another_transaction_took_its_nonce(chain, token, operator, nonce, minting):
    account, planned, transaction = minting
    [other] = plan([mint_step(token, account, units=7, number="2")], chain.payer.public_key, [nonce], 0)
    taken = chain.land(sign(other.message, [chain.payer, token.minter, operator]))
    verdict = verdict_once_final(chain, planned, transaction)
    assert (verdict.fate, verdict.transaction.signature) == (Fate.DEAD, taken.signature)
    with pytest.raises(TransactionRefused):
        chain.client.send(transaction)
    assert token.units(account) == 7
    assert verdict_once_final(chain, other, b"\x01" + b"\x07" * 64 + other.message).fate is Fate.SUCCEEDED


def test_dead_once_an_ordinary_transaction_advanced_the_nonce(chain, token, operator, nonce, minting):
    account, planned, transaction = minting
    advanced = chain.run([FIRST, programs.advance_nonce(nonce.account, operator.public_key)], operator)
    assert advanced.error is None
    verdict = verdict_once_final(chain, planned, transaction)
    assert (verdict.fate, verdict.transaction) == (Fate.DEAD, None)
    assert verdict.value not in (None, nonce.value)
    with pytest.raises(TransactionRefused):
        chain.client.send(transaction)
    assert token.units(account) == 0


def test_dead_once_the_nonce_account_is_closed(chain, operator, nonce, minting):
    _, planned, transaction = minting
    lamports = chain.client.rent(programs.NONCE_ACCOUNT_BYTES)
    closed = chain.run([programs.withdraw_nonce(nonce.account, chain.payer.public_key, operator.public_key, lamports)], operator)
    assert closed.error is None, closed.error
    assert chain.client.account(nonce.account)[1] is None
    verdict = verdict_once_final(chain, planned, transaction)
    assert verdict == Verdict(Fate.DEAD, None, None)


def test_what_only_names_the_nonce_account_kills_nothing(chain, nonce, minting):
    _, planned, transaction = minting
    given = chain.run([transfer_lamports(chain.payer.public_key, nonce.account, 5)])
    stranger = chain.key()
    refused = chain.run([FIRST, programs.advance_nonce(nonce.account, stranger.public_key)], stranger)
    assert refused.error is not None
    chain.wait_final(max(given.slot, refused.slot))
    assert fate(chain, planned, transaction).fate is Fate.OPEN


def test_a_nonce_is_planned_on_only_once_its_last_change_is_final(chain, operator, nonce):
    assert final_nonce(chain.client, nonce.account).value == nonce.value
    advanced = chain.run([FIRST, programs.advance_nonce(nonce.account, operator.public_key)], operator)
    early = final_nonce(chain.client, nonce.account)
    assert early is None or chain.client.finalized_slot() >= advanced.slot
    later = wait_for(lambda: final_nonce(chain.client, nonce.account))
    assert later.value != nonce.value
    assert later.slot >= advanced.slot


def test_only_its_authority_advances_a_nonce_and_hands_it_over(chain, operator, nonce):
    successor = chain.key()
    assert chain.run([programs.authorize_nonce(nonce.account, successor.public_key, successor.public_key)], successor).error is not None
    assert chain.run([programs.authorize_nonce(nonce.account, operator.public_key, successor.public_key)], operator).error is None
    assert chain.run([FIRST, programs.advance_nonce(nonce.account, operator.public_key)], operator).error is not None
    assert chain.run([FIRST, programs.advance_nonce(nonce.account, successor.public_key)], successor).error is None
    assert decode_nonce_account(chain.client.account(nonce.account)[1].data).authority == successor.public_key


def test_what_is_no_nonce_account_is_named(chain, token):
    with pytest.raises(AccountMalformed, match="there is no nonce account"):
        final_nonce(chain.client, chain.key().public_key)
    chain.wait_final(token.made.slot)
    with pytest.raises(AccountMalformed, match="belongs to the program Token"):
        final_nonce(chain.client, token.mint)
    with pytest.raises(AccountMalformed, match="0 bytes, not 80"):
        final_nonce(chain.client, chain.payer.public_key)


def test_several_instructions_land_in_one_transaction(chain, token, operator, nonce):
    accounts = [token.holder()[1] for _ in range(4)]
    steps = [mint_step(token, account, units=number + 1, number=str(number)) for number, account in enumerate(accounts)]
    [planned] = plan(steps, chain.payer.public_key, [nonce], 1000)
    landed = chain.land(sign(planned.message, [chain.payer, token.minter, operator]))
    assert landed.error is None
    assert [token.units(account) for account in accounts] == [1, 2, 3, 4]
    assert landed.memos == tuple(f"stockledger:{number}" for number in range(4))
    assert landed.compute_units <= planned.compute_units


def test_one_bad_step_undoes_the_whole_transaction(chain, token, operator, nonce):
    (_, good), (_, frozen) = token.holder(), token.holder()
    assert chain.run([token_2022.freeze(token.mint, frozen, token.guard.public_key)], token.guard).error is None
    steps = [mint_step(token, good), mint_step(token, frozen, number="2")]
    [planned] = plan(steps, chain.payer.public_key, [nonce], 0)
    landed = chain.land(sign(planned.message, [chain.payer, token.minter, operator]))
    assert landed.error is not None
    assert (token.units(good), token.units(frozen)) == (0, 0)
    assert Message.from_bytes(landed.message).recent_blockhash == nonce.value


def test_nonces_made_in_one_block_share_their_value_and_not_their_fate(chain, token, operator):
    """Both are advanced by one transaction, so that both have the value of its block; one is used, the other stays open."""
    accounts = [chain.nonce(operator).account for _ in range(2)]
    both = chain.run([FIRST, *(programs.advance_nonce(account, operator.public_key) for account in accounts)], operator)
    assert both.error is None
    first, second = (wait_for(lambda account=account: final_nonce(chain.client, account)) for account in accounts)
    assert first.value == second.value
    _, account = token.holder()
    [planned] = plan([mint_step(token, account, units=1)], chain.payer.public_key, [first], 0)
    lamports = transfer_lamports(chain.payer.public_key, first.account, 5)  # so that it stands in the history of the first one too
    [other] = plan([Step("2", (*mint_step(token, account, units=2).instructions, lamports))], chain.payer.public_key, [second], 0)
    transaction, unsent = (sign(one.message, [chain.payer, token.minter, operator]) for one in (planned, other))
    chain.land(transaction)
    assert verdict_once_final(chain, planned, transaction).fate is Fate.SUCCEEDED
    assert fate(chain, other, unsent).fate is Fate.OPEN
    chain.land(unsent)
    assert verdict_once_final(chain, other, unsent).fate is Fate.SUCCEEDED
    assert token.units(account) == 3
