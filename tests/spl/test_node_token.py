"""Every instruction we build, on a real node: what it does, and beside it the nearest thing that the chain refuses."""

from __future__ import annotations

import pytest
from solders.instruction import AccountMeta, Instruction
from spl_chain import DECIMALS, NAME, SYMBOL, URI, code_of, transfer_lamports

from chain_adapters.spl import programs, token_2022
from chain_adapters.spl.account_layout import Metadata
from chain_adapters.spl.addresses import TOKEN_2022_PROGRAM, associated_account
from chain_adapters.spl.mint_setup import EXTENSIONS, space
from chain_adapters.spl.multiplier import SCALE, ScaledUiAmount, encode_multiplier
from chain_adapters.spl.token_2022 import AccountState, AuthorityKind

OWNER_MISMATCH, SUPPLY_FIXED, INSUFFICIENT, FROZEN, WRONG_STATE, WRONG_DECIMALS = 4, 5, 1, 17, 13, 18
MINT_REQUIRED, INVALID_SCALE, PAUSED = 31, 66, 67


def test_a_mint_is_set_up_as_those_of_xstocks(chain, token):
    _, account = chain.client.account(token.mint)
    mint = token.read()
    assert (len(account.data), space(token.setup)) == (678, 678)
    assert account.owner == TOKEN_2022_PROGRAM
    assert mint.extensions == EXTENSIONS
    assert (mint.decimals, mint.supply, mint.is_paused) == (8, 0, False)
    assert mint.scaled_ui_amount == ScaledUiAmount(encode_multiplier(SCALE), 0, encode_multiplier(SCALE))
    assert mint.default_account_state is AccountState.INITIALIZED
    assert (mint.approves_confidential_accounts, mint.confidential_transfer_auditor, mint.transfer_hook_program) == (False, None, None)
    assert mint.metadata == Metadata(token.delegate.public_key, token.mint, NAME, SYMBOL, URI)
    assert mint.metadata_pointer == token.mint
    assert mint.others == ()


def test_the_powers_of_a_mint_lie_with_four_keys(token):
    mint = token.read()
    assert mint.mint_authority == token.minter.public_key
    assert {mint.freeze_authority, mint.pause_authority} == {token.guard.public_key}
    assert {
        mint.permanent_delegate,
        mint.metadata_pointer_authority,
        mint.confidential_transfer_authority,
        mint.transfer_hook_authority,
    } == {token.delegate.public_key}
    assert mint.scaled_ui_amount_authority == token.scaler.public_key


def test_an_associated_account_is_made_once_and_asked_for_often(chain, token):
    owner = chain.key().public_key
    create = programs.create_associated_account(chain.payer.public_key, owner, token.mint)
    assert chain.run([create]).error is None
    assert chain.run([create, programs.memo("again")]).error is None
    account = token.account(associated_account(owner, token.mint))
    assert (account.owner, account.mint, account.units, account.is_frozen) == (owner, token.mint, 0, False)
    assert sorted(account.extensions) == [7, 15, 27]
    assert len(chain.client.account(associated_account(owner, token.mint))[1].data) == 179
    strange = Instruction(
        create.program_id, create.data, [*create.accounts[:2], AccountMeta(chain.key().public_key, False, False), *create.accounts[3:]]
    )
    assert chain.run([strange]).error is not None  # another owner than the address is derived from


def test_mint_and_burn(chain, token):
    wallet, account = token.holder(units=1_000)
    assert token.burn(wallet, account, 400).error is None
    assert (token.units(account), token.read().supply) == (600, 600)
    assert code_of(token.burn(wallet, account, 601)) == INSUFFICIENT
    by_another = token_2022.mint_to(token.mint, account, token.guard.public_key, units=1, decimals=DECIMALS)
    assert code_of(chain.run([by_another], token.guard)) == OWNER_MISMATCH
    with_other_decimals = token_2022.mint_to(token.mint, account, token.minter.public_key, units=1, decimals=6)
    assert code_of(chain.run([with_other_decimals], token.minter)) == WRONG_DECIMALS
    assert (token.units(account), token.read().supply) == (600, 600)


def test_transfer(chain, token):
    (wallet, source), (stranger, destination) = token.holder(units=1_000), token.holder()
    assert token.transfer(wallet, source, destination, 300).error is None
    assert (token.units(source), token.units(destination)) == (700, 300)
    assert code_of(token.transfer(wallet, source, destination, 701)) == INSUFFICIENT
    assert code_of(token.transfer(stranger, source, destination, 1)) == OWNER_MISMATCH
    unchecked = Instruction(
        TOKEN_2022_PROGRAM,
        b"\x03" + (1).to_bytes(8, "little"),
        [AccountMeta(source, False, True), AccountMeta(destination, False, True), AccountMeta(wallet.public_key, True, False)],
    )
    assert code_of(chain.run([unchecked], wallet)) == MINT_REQUIRED


def test_freeze_stops_in_out_mint_and_burn(chain, token):
    (wallet, account), (other_wallet, other) = token.holder(units=1_000), token.holder(units=1_000)
    freeze = token_2022.freeze(token.mint, account, token.guard.public_key)
    assert chain.run([freeze], token.guard).error is None
    assert token.account(account).is_frozen
    assert code_of(token.transfer(wallet, account, other, 1)) == FROZEN
    assert code_of(token.transfer(other_wallet, other, account, 1)) == FROZEN
    assert code_of(token.mint_to(account, 1)) == FROZEN
    assert code_of(token.burn(wallet, account, 1)) == FROZEN
    assert code_of(chain.run([freeze, programs.memo("again")], token.guard)) == WRONG_STATE
    by_another = token_2022.thaw(token.mint, account, token.minter.public_key)
    assert code_of(chain.run([by_another], token.minter)) == OWNER_MISMATCH
    assert chain.run([token_2022.thaw(token.mint, account, token.guard.public_key)], token.guard).error is None
    assert token.transfer(wallet, account, other, 1).error is None


def test_the_permanent_delegate_moves_and_burns_what_is_not_frozen(chain, token):
    (_, source), (_, destination) = token.holder(units=1_000), token.holder()
    assert token.transfer(token.delegate, source, destination, 100).error is None
    assert token.burn(token.delegate, source, 50).error is None
    assert (token.units(source), token.units(destination)) == (850, 100)
    assert code_of(token.transfer(token.guard, source, destination, 1)) == OWNER_MISMATCH
    assert chain.run([token_2022.freeze(token.mint, source, token.guard.public_key)], token.guard).error is None
    assert code_of(token.transfer(token.delegate, source, destination, 1)) == FROZEN
    assert code_of(token.burn(token.delegate, source, 1)) == FROZEN


@pytest.mark.parametrize("is_frozen", [False, True])
def test_seizure_works_on_frozen_accounts_and_leaves_them_as_they_were(chain, token, is_frozen):
    (_, source), (_, destination) = token.holder(units=1_000), token.holder()
    if is_frozen:
        assert chain.run([token_2022.freeze(token.mint, source, token.guard.public_key)], token.guard).error is None
    powers = {"permanent_delegate": token.delegate.public_key, "freeze_authority": token.guard.public_key, "decimals": DECIMALS}
    moved = token_2022.forced_transfer(token.mint, source, destination, units=600, source_is_frozen=is_frozen, **powers)
    burned = token_2022.forced_burn(token.mint, source, units=300, account_is_frozen=is_frozen, **powers)
    assert chain.run(moved, token.delegate, *([token.guard] if is_frozen else [])).error is None
    assert chain.run(burned, token.delegate, *([token.guard] if is_frozen else [])).error is None
    assert (token.units(source), token.units(destination), token.read().supply) == (100, 600, 700)
    assert token.account(source).is_frozen is is_frozen
    too_much = token_2022.forced_transfer(token.mint, source, destination, units=101, source_is_frozen=is_frozen, **powers)
    assert code_of(chain.run(too_much, token.delegate, *([token.guard] if is_frozen else []))) == INSUFFICIENT
    assert token.account(source).is_frozen is is_frozen  # the thaw before it was undone with it


def test_pause_stops_transfer_mint_and_burn_and_nothing_else(chain, token):
    (wallet, account), (_, other) = token.holder(units=1_000), token.holder()
    by_another = token_2022.pause(token.mint, token.minter.public_key)
    assert code_of(chain.run([by_another], token.minter)) == OWNER_MISMATCH
    assert chain.run([token_2022.pause(token.mint, token.guard.public_key)], token.guard).error is None
    assert token.read().is_paused
    assert code_of(token.mint_to(account, 1)) == PAUSED
    assert code_of(token.burn(wallet, account, 1)) == PAUSED
    assert code_of(token.transfer(wallet, account, other, 1)) == PAUSED
    assert code_of(token.transfer(token.delegate, account, other, 1)) == PAUSED
    assert code_of(token.burn(token.delegate, account, 1)) == PAUSED
    assert chain.run([token_2022.freeze(token.mint, account, token.guard.public_key)], token.guard).error is None
    assert chain.run([token_2022.thaw(token.mint, account, token.guard.public_key)], token.guard).error is None
    update = token_2022.update_multiplier(token.mint, token.scaler.public_key, encode_multiplier(2 * SCALE), 0)
    assert chain.run([update], token.scaler).error is None
    assert token.open(chain.key().public_key)
    assert chain.run([token_2022.resume(token.mint, token.guard.public_key)], token.guard).error is None
    assert token.transfer(wallet, account, other, 1).error is None


def test_a_mint_may_let_accounts_begin_frozen(chain):
    token = chain.token(default_account_state=AccountState.FROZEN)
    _, account = token.holder()
    assert token.account(account).is_frozen
    assert code_of(token.mint_to(account, 1)) == FROZEN
    assert chain.run([token_2022.thaw(token.mint, account, token.guard.public_key)], token.guard).error is None
    assert token.mint_to(account, 1).error is None
    update = token_2022.update_default_account_state(token.mint, token.guard.public_key, AccountState.INITIALIZED)
    assert chain.run([update], token.guard).error is None
    _, later = token.holder(units=1)
    assert not token.account(later).is_frozen


def test_metadata_changes_where_the_lamports_suffice(chain, token):
    field = token_2022.update_metadata_field(token.mint, token.delegate.public_key, "isin", "US0378331005")
    assert chain.run([field], token.delegate).error is not None  # a longer mint must hold more lamports
    assert chain.run([transfer_lamports(chain.payer.public_key, token.mint, 1_000_000), field], token.delegate).error is None
    renamed = token_2022.update_metadata_field(token.mint, token.delegate.public_key, "name", "Apple")
    assert chain.run([renamed], token.delegate).error is None
    assert token.read().metadata == Metadata(token.delegate.public_key, token.mint, "Apple", SYMBOL, URI, (("isin", "US0378331005"),))
    removed = token_2022.remove_metadata_field(token.mint, token.delegate.public_key, "isin")
    assert chain.run([removed], token.delegate).error is None
    assert chain.run([removed, programs.memo("again")], token.delegate).error is not None
    optional = token_2022.remove_metadata_field(token.mint, token.delegate.public_key, "isin", may_be_missing=True)
    assert chain.run([optional], token.delegate).error is None
    successor = chain.key()
    handed_over = token_2022.update_metadata_authority(token.mint, token.delegate.public_key, successor.public_key)
    assert chain.run([handed_over], token.delegate).error is None
    assert token.read().metadata == Metadata(successor.public_key, token.mint, "Apple", SYMBOL, URI)
    assert chain.run([renamed, programs.memo("late")], token.delegate).error is not None


@pytest.mark.parametrize(
    ("kind", "field", "holder"),
    [
        (AuthorityKind.MINT, "mint_authority", "minter"),
        (AuthorityKind.FREEZE, "freeze_authority", "guard"),
        (AuthorityKind.PAUSE, "pause_authority", "guard"),
        (AuthorityKind.PERMANENT_DELEGATE, "permanent_delegate", "delegate"),
        (AuthorityKind.CONFIDENTIAL_TRANSFER, "confidential_transfer_authority", "delegate"),
        (AuthorityKind.TRANSFER_HOOK, "transfer_hook_authority", "delegate"),
        (AuthorityKind.METADATA_POINTER, "metadata_pointer_authority", "delegate"),
        (AuthorityKind.SCALED_UI_AMOUNT, "scaled_ui_amount_authority", "scaler"),
    ],
)
def test_each_power_is_handed_over_by_its_holder_only(chain, token, kind, field, holder):
    holder, stranger, successor = getattr(token, holder), chain.key(), chain.key()
    assert (
        code_of(chain.run([token_2022.set_authority(token.mint, kind, stranger.public_key, stranger.public_key)], stranger))
        == OWNER_MISMATCH
    )
    assert chain.run([token_2022.set_authority(token.mint, kind, holder.public_key, successor.public_key)], holder).error is None
    assert getattr(token.read(), field) == successor.public_key
    assert chain.run([token_2022.set_authority(token.mint, kind, successor.public_key, None)], successor).error is None
    assert getattr(token.read(), field) is None


def test_a_mint_without_a_minter_is_closed_for_ever(chain, token):
    _, account = token.holder()
    given_up = token_2022.set_authority(token.mint, AuthorityKind.MINT, token.minter.public_key, None)
    assert chain.run([given_up], token.minter).error is None
    assert code_of(token.mint_to(account, 1)) == SUPPLY_FIXED


def test_a_transfer_hook_is_named_and_cleared_by_its_authority(chain, token):
    program = chain.key().public_key
    named = token_2022.update_transfer_hook(token.mint, token.delegate.public_key, program)
    assert chain.run([named], token.delegate).error is None
    assert token.read().transfer_hook_program == program
    assert chain.run([token_2022.update_transfer_hook(token.mint, token.delegate.public_key, None)], token.delegate).error is None
    assert token.read().transfer_hook_program is None
    by_another = token_2022.update_transfer_hook(token.mint, token.guard.public_key, program)
    assert code_of(chain.run([by_another], token.guard)) == OWNER_MISMATCH


def test_an_empty_account_is_closed_and_a_full_one_is_not(chain, token):
    wallet, account = token.holder(units=5)
    close = token_2022.close_account(account, chain.payer.public_key, wallet.public_key)
    assert code_of(chain.run([close], wallet)) == 11
    assert token.burn(wallet, account, 5).error is None
    assert chain.run([close, programs.memo("empty")], wallet).error is None
    assert chain.client.account(account)[1] is None


@pytest.mark.parametrize("bits", [0, 1, 1 << 63 | encode_multiplier(SCALE), 0x7FF0000000000000, 0x7FF8000000000000, 0x000FFFFFFFFFFFFF])
def test_a_multiplier_that_is_no_positive_normal_number_is_refused(chain, token, bits):
    update = token_2022.update_multiplier(token.mint, token.scaler.public_key, bits, 0)
    assert code_of(chain.run([update], token.scaler)) == INVALID_SCALE


def test_a_memo_and_a_compute_limit_bind(chain, token):
    _, account = token.holder()
    minted = token_2022.mint_to(token.mint, account, token.minter.public_key, units=1, decimals=DECIMALS)
    limited = [programs.set_compute_unit_limit(20_000), programs.set_compute_unit_price(1_000_000), programs.memo("stockledger:7"), minted]
    landed = chain.run(limited, token.minter)
    assert (landed.error, landed.memos) == (None, ("stockledger:7",))
    assert landed.fee_lamports == 2 * 5000  # this node takes no priority fee; the chain would take 20,000 lamports
    starved = chain.run([programs.set_compute_unit_limit(1_000), minted], token.minter)
    assert starved.error["InstructionError"][0] == 1  # runtimes differ in what they call it
    assert token.units(account) == 1
