"""Bytes, to the last one: what we write is what was written before, and accounts are read whole or refused."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from solders import system_program
from solders.hash import Hash
from solders.pubkey import Pubkey
from spl_chain import NAME, SYMBOL, URI
from spl_instructions import KEYS, known_instructions

from chain_adapters.spl import programs, token_2022
from chain_adapters.spl.account_layout import (
    Extension,
    Metadata,
    NonceAccount,
    associated_account_bytes,
    decode_mint,
    decode_nonce_account,
    decode_token_account,
)
from chain_adapters.spl.addresses import chain_id, decode_base58, parse_account, parse_address
from chain_adapters.spl.errors import AccountMalformed, AddressMalformed
from chain_adapters.spl.mint_setup import Authorities, MintSetup, create_mint, space, space_without_metadata
from chain_adapters.spl.multiplier import SCALE, ScaledUiAmount, encode_multiplier
from chain_adapters.spl.token_2022 import AccountState

GOLDEN = json.loads((Path(__file__).parents[1] / "data/solana_bytes.json").read_text(encoding="utf-8"))
MINT = bytes.fromhex(GOLDEN["accounts"]["mint"])
TOKEN_ACCOUNT = bytes.fromhex(GOLDEN["accounts"]["token_account"])
NONCE_ACCOUNT = bytes.fromhex(GOLDEN["accounts"]["nonce_account"])
AAPLX = "XsbEhLAtcf6HdfpFZ5xEMdqW8nfAvcsP5bdudRLJzJp"
MAINNET = "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"


def more_instructions():
    mint, account, other, authority, payer = KEYS
    return {
        "confidentialTransfer": token_2022.initialize_confidential_transfer(mint, authority, approves_new_accounts=False),
        "metadata": token_2022.initialize_metadata(mint, other, authority, name=NAME, symbol=SYMBOL, uri=URI),
        "updateName": token_2022.update_metadata_field(mint, authority, "name", "Apple"),
        "updateOwnField": token_2022.update_metadata_field(mint, authority, "isin", "US0378331005"),
        "removeField": token_2022.remove_metadata_field(mint, authority, "isin"),
        "metadataAuthority": token_2022.update_metadata_authority(mint, authority, None),
        "memo": programs.memo("stockledger:1"),
        "computeLimit": programs.set_compute_unit_limit(123_456),
        "computePrice": programs.set_compute_unit_price(1_000_000),
        "createAccount": programs.create_account(payer, account, 5, 509, other),
        "createNonce": programs.create_nonce_account(payer, account, authority, 1_447_680)[1],
        "advanceNonce": programs.advance_nonce(account, authority),
        "withdrawNonce": programs.withdraw_nonce(account, payer, authority, 7),
        "authorizeNonce": programs.authorize_nonce(account, authority, other),
    }


@pytest.mark.parametrize(("name", "instruction"), {**known_instructions(), **more_instructions()}.items())
def test_golden_instructions(name, instruction):
    accounts = " ".join(
        f"{bytes(meta.pubkey).hex()[:2]}{'s' if meta.is_signer else '-'}{'w' if meta.is_writable else '-'}" for meta in instruction.accounts
    )
    assert GOLDEN["instructions"][name] == [str(instruction.program_id), bytes(instruction.data).hex(), accounts]


def test_a_derived_account_is_made_as_the_library_makes_it():
    payer, owner, seed = KEYS[0], KEYS[2], "stockledger-mint-AAPLx"
    account = Pubkey.create_with_seed(payer, seed, owner)
    made = programs.create_derived_account(payer, account, 5, seed=seed, space=509, owner=owner)
    paid = {"from_pubkey": payer, "to_pubkey": account, "lamports": 5}
    taken = {"address": account, "base": payer, "seed": seed, "space": 509, "owner": owner}
    assert made == [system_program.transfer(paid), system_program.allocate_with_seed(taken)]


def test_every_golden_instruction_is_still_made():
    assert GOLDEN["instructions"].keys() == {**known_instructions(), **more_instructions()}.keys()


def test_the_golden_mint():
    mint = decode_mint(MINT)
    assert len(MINT) == 678
    assert mint.extensions == (18, 12, 6, 25, 26, 4, 14, 19)
    assert (mint.supply, mint.decimals) == (1_000, 8)
    assert mint.scaled_ui_amount == ScaledUiAmount(encode_multiplier(SCALE), 4_000_000_000, encode_multiplier(SCALE // 40))
    assert mint.is_paused
    assert mint.metadata == Metadata(mint.permanent_delegate, mint.metadata_pointer, NAME, SYMBOL, URI)


def test_the_golden_accounts():
    account = decode_token_account(TOKEN_ACCOUNT)
    assert (len(TOKEN_ACCOUNT), account.units, account.state, sorted(account.extensions)) == (179, 1_000, AccountState.FROZEN, [7, 15, 27])
    nonce = decode_nonce_account(NONCE_ACCOUNT)
    assert isinstance(nonce, NonceAccount)
    assert nonce.lamports_per_signature == 5_000
    assert nonce.value != Hash.default()


def test_an_account_cut_short_is_refused_unless_between_two_extensions():
    for data, base, decode in ((MINT, 82, decode_mint), (TOKEN_ACCOUNT, 165, decode_token_account)):
        whole = {base: 0}
        position = 166
        for count in range(len(decode(data).extensions)):
            whole[position] = count
            position += 4 + struct.unpack_from("<H", data, position + 2)[0]
        assert position == len(data)
        for length in range(len(data)):
            if length in whole:
                assert len(decode(data[:length]).extensions) == whole[length]
            else:
                with pytest.raises(AccountMalformed):
                    decode(data[:length])


def changed(data: bytes, position: int, new: bytes) -> bytes:
    return data[:position] + new + data[position + len(new) :]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (changed(MINT, 0, b"\2"), "tag of its mint authority is 2"),
        (changed(MINT, 45, b"\0"), "initialised byte is 0"),
        (changed(MINT, 100, b"\1"), "82 to 165 are not zero"),
        (changed(MINT, 165, b"\2"), "type byte is 2, not 1"),
        (changed(MINT, 166, struct.pack("<HH", 26, 33)), "extension"),
        (changed(MINT, 168, b"\x41"), "METADATA_POINTER has 65 bytes, not 64"),
        (changed(MINT, 274, b"\0"), "default account state is 0"),
        (MINT + b"\0\0\1", "bytes after its last extension"),
        (MINT + b"\1", "bytes after its last extension"),
        (MINT + MINT[166 + 104 : 166 + 109], "stands twice"),
        (changed(MINT, 513 + 64, b"\xff\xff\xff\x7f"), "metadata is cut short"),
        (changed(MINT, 513 + 68, b"\xff"), "no UTF-8"),
        (MINT[:355], "multisig"),
    ],
)
def test_a_mint_with_a_byte_too_many_or_wrong_is_refused(data, words):
    with pytest.raises(AccountMalformed, match=words):
        decode_mint(data)


def test_padding_and_unknown_extensions_are_kept_apart():
    assert decode_mint(MINT + b"\0\0") == decode_mint(MINT)
    strange = decode_mint(MINT + struct.pack("<HH", 999, 3) + b"abc")
    assert strange.others == ((999, b"abc"),)
    assert strange.extensions[-1] == 999
    assert decode_mint(MINT + struct.pack("<HH", Extension.INTEREST_BEARING_CONFIG, 1) + b"x").others == ((10, b"x"),)


@given(st.binary(max_size=800))
def test_no_bytes_at_all_make_a_reader_stumble(data):
    for decode in (decode_mint, decode_token_account, decode_nonce_account):
        with contextlib.suppress(AccountMalformed):
            decode(data)


@given(st.integers(0, len(MINT) - 1), st.integers(0, 255))
def test_no_change_of_a_byte_makes_a_reader_stumble(position, byte):
    with contextlib.suppress(AccountMalformed):
        decode_mint(changed(MINT, position, bytes([byte])))


@pytest.mark.parametrize("data", [b"", bytes(79), bytes(81), bytes(80), changed(NONCE_ACCOUNT, 0, b"\0"), changed(NONCE_ACCOUNT, 4, b"\0")])
def test_a_nonce_account_that_is_none_is_refused(data):
    with pytest.raises(AccountMalformed):
        decode_nonce_account(data)


def test_the_space_of_aaplx():
    powers = Authorities.of_four(mint=KEYS[1], freeze_and_pause=KEYS[2], permanent_delegate=KEYS[3], multiplier=KEYS[4])
    setup = MintSetup(KEYS[0], powers, NAME, SYMBOL, URI)
    assert (space(setup), space_without_metadata(), len(create_mint(setup, KEYS[1], 1))) == (678, 509, 10)


def test_the_space_of_an_associated_account():
    assert associated_account_bytes(decode_mint(MINT).extensions) == len(TOKEN_ACCOUNT)
    everything = [Extension.TRANSFER_FEE_CONFIG, Extension.NON_TRANSFERABLE, *decode_mint(MINT).extensions]
    assert [associated_account_bytes(one) for one in ([], everything[:1], everything[:2], everything)] == [170, 182, 186, 195]


@pytest.mark.parametrize("text", ["", "1", "0" * 44, AAPLX[:-1], AAPLX + "1", "é", "x" * 1000])
def test_an_address_that_is_none_is_refused(text):
    with pytest.raises(AddressMalformed):
        parse_address(text)


def test_addresses_and_their_names():
    assert str(parse_account(f"{MAINNET}:{AAPLX}", MAINNET)) == AAPLX
    assert chain_id("5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d") == MAINNET
    for other in (f"solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1:{AAPLX}", f"eip155:1:{AAPLX}", AAPLX, ""):
        with pytest.raises(AddressMalformed, match="does not stand on"):
            parse_account(other, MAINNET)


@given(st.binary(max_size=100))
def test_base58_of_any_length(data):
    number, text = int.from_bytes(data), ""
    while number:
        number, digit = divmod(number, 58)
        text = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"[digit] + text
    assert decode_base58("1" * (len(data) - len(data.lstrip(b"\0"))) + text) == data


@given(st.binary(min_size=32, max_size=32))
def test_base58_of_addresses_is_that_of_solders(data):
    assert decode_base58(str(Pubkey(data))) == data
