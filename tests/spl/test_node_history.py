"""The story of a token, told by the node's transactions alone, equals what its accounts say at the end."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from solana_node import solana_node
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.pubkey import Pubkey
from spl_chain import DECIMALS, SplChain, Token, transfer_lamports
from spl_history import MultiplierPeriod, OwnerChanged, TokenHistory

from chain_adapters.spl import programs, token_2022
from chain_adapters.spl.account_layout import decode_token_account
from chain_adapters.spl.addresses import TOKEN_2022_PROGRAM, associated_account
from chain_adapters.spl.errors import HistoryBroken, TransactionNotUnderstood
from chain_adapters.spl.history import read_range
from chain_adapters.spl.multiplier import SCALE, encode_multiplier
from chain_adapters.spl.signing import sign
from chain_adapters.spl.token_2022 import AccountState, AuthorityKind, Code
from chain_adapters.spl.transactions import AccountMade, Burned, FreezeChanged, Memo, Minted, Transferred, effects_on

ONE, TWO, THREE = (encode_multiplier(number * SCALE) for number in (1, 2, 3))


def told(token: Token, first_slot: int = 0) -> TokenHistory:
    """Wait until all of it is final, and fold it."""
    history, client = TokenHistory(token.mint), token.chain.client
    last = client.signatures(token.mint, limit=1)[0].slot
    token.chain.wait_final(last)
    for transaction in read_range(client, token.mint, first_slot, last):
        history.apply(transaction)
    return history


def assert_told_as_it_stands(token: Token, history: TokenHistory) -> None:
    mint = token.read()
    _, accounts = token.chain.client.token_accounts(token.mint)
    standing = {account.address: decode_token_account(account.data) for account in accounts}
    assert {a: (h.owner, h.units, h.is_frozen) for a, h in history.accounts.items()} == {
        a: (s.owner, s.units, s.is_frozen) for a, s in standing.items()
    }
    assert history.supply == mint.supply == sum(held.units for held in history.accounts.values())
    assert (history.is_paused, history.decimals, history.scaled_ui_amount) == (mint.is_paused, mint.decimals, mint.scaled_ui_amount)
    assert history.default_account_state is mint.default_account_state


def batch(*instructions: Instruction) -> Instruction:
    """Put several instructions of Token-2022 into one of its own."""
    data, accounts = bytearray([Code.BATCH]), []
    for instruction in instructions:
        data += bytes([len(instruction.accounts), len(instruction.data)]) + bytes(instruction.data)
        accounts += instruction.accounts
    return Instruction(TOKEN_2022_PROGRAM, bytes(data), accounts)


def test_everything_that_happened_is_told(chain, token):
    (alice, at_alice), (_, at_bob) = token.holder(units=1_000), token.holder()
    powers = {"permanent_delegate": token.delegate.public_key, "freeze_authority": token.guard.public_key, "decimals": DECIMALS}
    assert token.transfer(alice, at_alice, at_bob, 300).error is None
    assert token.transfer(alice, at_alice, at_bob, 701).error is not None  # too much: told as nothing
    assert token.burn(alice, at_alice, 50).error is None
    assert chain.run([token_2022.freeze(token.mint, at_bob, token.guard.public_key)], token.guard).error is None
    seized = token_2022.forced_transfer(token.mint, at_bob, at_alice, units=100, source_is_frozen=True, **powers)
    landed = chain.run([programs.memo("stockledger:9"), *seized], token.delegate, token.guard)
    assert [type(one) for one in landed.done] == [Memo, FreezeChanged, Transferred, FreezeChanged]
    assert landed.done[2] == Transferred(token.mint, at_bob, at_alice, token.delegate.public_key, 100)
    assert chain.run([token_2022.pause(token.mint, token.guard.public_key)], token.guard).error is None
    history = told(token)
    assert_told_as_it_stands(token, history)
    assert history.accounts[at_alice].units == 750
    assert history.accounts[at_bob].is_frozen
    assert history.is_paused


def test_a_batch_inside_one_instruction_is_told_one_by_one(chain, token):
    (alice, at_alice), (_, at_bob) = token.holder(units=1_000), token.holder()
    several = batch(
        token_2022.mint_to(token.mint, at_bob, token.minter.public_key, units=7, decimals=DECIMALS),
        token_2022.transfer(token.mint, at_alice, at_bob, alice.public_key, units=10, decimals=DECIMALS),
        token_2022.burn(token.mint, at_bob, token.delegate.public_key, units=2, decimals=DECIMALS),
    )
    landed = chain.run([several], token.minter, alice, token.delegate)
    assert landed.error is None
    assert landed.done == (
        Minted(token.mint, at_bob, token.minter.public_key, 7),
        Transferred(token.mint, at_alice, at_bob, alice.public_key, 10),
        Burned(token.mint, at_bob, token.delegate.public_key, 2),
    )
    assert_told_as_it_stands(token, told(token))


def test_what_another_program_calls_is_told(chain, token):
    """The associated token program makes accounts by calling Token-2022: an instruction inside another's."""
    owner = chain.key().public_key
    landed = chain.run([programs.create_associated_account(chain.payer.public_key, owner, token.mint)])
    assert AccountMade(token.mint, associated_account(owner, token.mint), owner) in landed.done


def test_the_schedule_of_multipliers_is_told_with_its_times(chain, token):
    """The last test of this file that moves the chain's clock does it forward only, as all do."""

    def update(bits, effective_time):
        message = token_2022.update_multiplier(token.mint, token.scaler.public_key, bits, effective_time)
        landed = chain.run([message], token.scaler)
        assert landed.error is None
        return landed

    start = chain.clock()
    units = 150_000_000
    assert token.shown(units) == "1.5"
    update(TWO, start + 1_000)  # announced,
    assert (token.shown(units), token.read().scaled_ui_amount.at(chain.clock())) == ("1.5", ONE)
    update(THREE, start + 2_000)  # and replaced before its time
    chain.travel(start + 1_500)
    assert (token.shown(units), token.read().scaled_ui_amount.at(chain.clock())) == ("1.5", ONE)
    chain.travel(start + 2_001)
    assert (token.shown(units), token.read().scaled_ui_amount.at(chain.clock())) == ("4.5", THREE)
    assert token.read().scaled_ui_amount.current == ONE  # nothing happened on chain at that time
    update(TWO, start + 4_000)
    assert (token.shown(units), token.read().scaled_ui_amount.current) == ("4.5", THREE)
    at_once = update(ONE, 0)  # called off, and back to one
    assert token.shown(units) == "1.5"
    history = told(token)
    assert_told_as_it_stands(token, history)
    [info] = [one for one in chain.client.signatures(token.mint) if one.signature == at_once.signature]
    assert history.periods == [MultiplierPeriod(0, ONE), MultiplierPeriod(start + 2_000, THREE), MultiplierPeriod(info.block_time, ONE)]


def test_random_histories_are_told_as_they_stand(chain, token):
    chances = random.Random(20_261_122)
    wallets = [token.holder(units=100) for _ in range(3)]
    for _ in range(40):
        (wallet, account), (_, other) = chances.sample(wallets, 2)
        units = chances.randrange(1, 60)
        mint, minter, guard, delegate = token.mint, token.minter.public_key, token.guard.public_key, token.delegate.public_key
        moved: Sequence[Instruction] = chances.choice(
            [
                [token_2022.mint_to(mint, account, minter, units=units, decimals=DECIMALS)],
                [token_2022.burn(mint, account, wallet.public_key, units=units, decimals=DECIMALS)],
                [token_2022.burn(mint, account, delegate, units=units, decimals=DECIMALS)],
                [token_2022.transfer(mint, account, other, wallet.public_key, units=units, decimals=DECIMALS)],
                [token_2022.transfer(mint, account, other, delegate, units=units, decimals=DECIMALS)],
                [token_2022.freeze(mint, account, guard)],
                [token_2022.thaw(mint, account, guard)],
                [token_2022.pause(mint, guard) if chances.random() < 0.3 else token_2022.resume(mint, guard)],
                [programs.create_associated_account(chain.payer.public_key, chain.key().public_key, mint)],
            ]
        )
        signers = {meta.pubkey for one in moved for meta in one.accounts if meta.is_signer}
        keys = [key for key in (wallet, token.minter, token.guard, token.delegate) if key.public_key in signers]
        chain.run(moved, *keys)
    assert_told_as_it_stands(token, told(token))


def test_transactions_of_one_slot_are_told_in_the_order_they_ran():
    """On a node whose slots are long enough for several, on a busy machine too."""
    with solana_node(slot_ms=100) as node, contextlib.closing(SplChain(node)) as chain:
        token = chain.token()
        for _ in range(10):
            if slots_of_a_round(chain, token) < TRANSACTIONS_OF_A_ROUND:
                return
    raise AssertionError("no two transactions ever shared a slot")


TRANSACTIONS_OF_A_ROUND = 30


def slots_of_a_round(chain, token) -> int:
    """Mint and burn in turns, hold the order told against the order sent, and return in how many slots it was."""
    alice, at_alice = token.holder()
    signed, blockhash = [], Hash.from_string(chain.client.latest_blockhash())
    for number in range(TRANSACTIONS_OF_A_ROUND):
        if number % 2 == 0:
            made, signer = token_2022.mint_to(token.mint, at_alice, token.minter.public_key, units=10, decimals=DECIMALS), token.minter
        else:
            made, signer = token_2022.burn(token.mint, at_alice, alice.public_key, units=10, decimals=DECIMALS), alice
        signed.append(sign(chain.message([made, programs.memo(str(number))], blockhash), [chain.payer, signer]))
    sent = [chain.client.send(transaction, skips_trial=True) for transaction in signed]
    listed = {one.signature: one for one in chain.client.signatures(at_alice)}
    if not listed.keys() >= set(sent):
        return TRANSACTIONS_OF_A_ROUND  # on a busy machine the node has forgotten the blockhash before the last was sent
    slots = [listed[signature].slot for signature in sent]
    chain.wait_final(slots[-1])
    read = list(read_range(chain.client, at_alice, slots[0], slots[-1]))
    assert [one.signature for one in read if one.memos] == sent
    assert_told_as_it_stands(token, told(token))
    return len(set(slots))


def test_ranges_meet_without_gap_or_overlap(chain, token):
    _, account = token.holder()
    for units in range(1, 9):
        assert token.mint_to(account, units).error is None
    last = chain.client.signatures(token.mint, limit=1)[0].slot
    chain.wait_final(last)
    whole = [one.signature for one in read_range(chain.client, token.mint, 0, last)]
    for cut in sorted({one.slot for one in chain.client.signatures(token.mint)}):
        parts = [*read_range(chain.client, token.mint, 0, cut), *read_range(chain.client, token.mint, cut + 1, last)]
        assert [one.signature for one in parts] == whole


def test_a_missed_transaction_shows_at_the_next_of_the_same_account(chain, token):
    _, account = token.holder()
    for units in (5, 6, 7):
        assert token.mint_to(account, units).error is None
    told(token)
    last = chain.client.signatures(token.mint, limit=1)[0].slot
    transactions = list(read_range(chain.client, token.mint, 0, last))
    missed = [one for one in transactions if one.balances and one.balances[0].after == 11]
    assert len(missed) == 1
    history = TokenHistory(token.mint)
    place = transactions.index(missed[0])
    for transaction in transactions[:place]:
        history.apply(transaction)
    with pytest.raises(HistoryBroken, match=r"held 11 units .* should be 5"):
        history.apply(transactions[place + 1])


def test_an_account_given_away_shows_when_it_is_next_used(chain, token):
    """Associated accounts cannot be given away; others can, and the transaction does not name the mint."""
    alice, bob, account = chain.key(), chain.key(), chain.key()
    space = 165 + 1 + 4 + (4 + 1)  # PausableAccount and TransferHookAccount
    made = [
        programs.create_account(chain.payer.public_key, account.public_key, chain.client.rent(space), space, TOKEN_2022_PROGRAM),
        Instruction(
            TOKEN_2022_PROGRAM,
            b"\x12" + bytes(alice.public_key),
            [AccountMeta(account.public_key, False, True), AccountMeta(token.mint, False, False)],
        ),
    ]
    assert chain.run(made, account).error is None
    assert token.mint_to(account.public_key, 5).error is None
    given = token_2022.set_authority(account.public_key, AuthorityKind.ACCOUNT_OWNER, alice.public_key, bob.public_key)
    landed = chain.run([given], alice)
    assert landed.error is None
    assert told(token).accounts[account.public_key].owner == alice.public_key
    assert landed.signature not in {one.signature for one in chain.client.signatures(token.mint)}
    _, at_carol = token.holder()
    moved = token.transfer(bob, account.public_key, at_carol, 2)
    assert moved.error is None
    history = told(token)
    assert_told_as_it_stands(token, history)
    assert history.accounts[account.public_key].owner == bob.public_key
    before = TokenHistory(token.mint)
    changes = [one for t in read_range(chain.client, token.mint, 0, moved.slot) for one in before.apply(t) if isinstance(one, OwnerChanged)]
    assert changes == [OwnerChanged(account.public_key, alice.public_key, bob.public_key)]
    _, associated = token.holder()
    fixed = token_2022.set_authority(associated, AuthorityKind.ACCOUNT_OWNER, bob.public_key, alice.public_key)
    assert chain.run([fixed], bob).error is not None


def test_nonsense_that_failed_stops_no_reader(chain, token):
    """Anybody may name a mint in a transaction that fails."""
    named = [AccountMeta(token.mint, False, False)]
    for data in (b"", b"\xff", b"\xff\x01", b"\x0e", b"\x2b\x01", b"\x06\x00", b"\x1c\x00\x09", b"\x63"):
        landed = chain.run([Instruction(TOKEN_2022_PROGRAM, data, named), programs.memo(data.hex())])
        assert landed.error is not None
    assert_told_as_it_stands(token, told(token))


def test_movements_that_the_instructions_do_not_explain_are_named(chain, token):
    _, account = token.holder()
    landed = token.mint_to(account, 5)
    assert effects_on(token.mint, landed) == (Minted(token.mint, account, token.minter.public_key, 5),)
    with pytest.raises(TransactionNotUnderstood, match=r"leave 0 units .* the chain 5"):
        effects_on(token.mint, replace(landed, done=()))
    with pytest.raises(TransactionNotUnderstood, match=r"leave 5 units .* the chain 0"):
        effects_on(token.mint, replace(landed, balances=()))
    assert effects_on(Pubkey.new_unique(), landed) == ()


def test_another_tokens_movements_in_the_same_transaction_are_not_ours(chain, token):
    other = chain.token()
    (_, ours), (_, theirs) = token.holder(), other.holder()
    both = [
        token_2022.mint_to(token.mint, ours, token.minter.public_key, units=3, decimals=DECIMALS),
        token_2022.mint_to(other.mint, theirs, other.minter.public_key, units=4, decimals=DECIMALS),
        transfer_lamports(chain.payer.public_key, ours, 1),
    ]
    landed = chain.run(both, token.minter, other.minter)
    assert effects_on(token.mint, landed) == (Minted(token.mint, ours, token.minter.public_key, 3),)
    assert_told_as_it_stands(token, told(token))
    assert_told_as_it_stands(other, told(other))


def test_accounts_that_begin_frozen_are_told_so(chain):
    token = chain.token(default_account_state=AccountState.FROZEN)
    token.holder()
    history = told(token)
    assert [held.is_frozen for held in history.accounts.values()] == [True]
    assert_told_as_it_stands(token, history)
