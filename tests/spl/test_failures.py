"""A failure is read by the program that told it: each has numbers of its own."""

from __future__ import annotations

import pytest
from solders.hash import Hash
from solders.message import Message
from solders.pubkey import Pubkey

from chain_adapters.spl import programs, token_2022
from chain_adapters.spl.addresses import associated_account
from chain_adapters.spl.errors import AnswerMalformed
from chain_adapters.spl.observation import failure_of
from stockledger.v1.chains_pb2 import ChainFailure

PAYER, MINTER, MINT, OWNER, NONCE = (Pubkey(bytes([number]) * 32) for number in range(1, 6))
ADVANCE, MEMO, OPEN, MINTED = range(4)
MESSAGE = bytes(
    Message.new_with_blockhash(
        [
            programs.advance_nonce(NONCE, PAYER),
            programs.memo("stockledger:acme/1-0"),
            programs.create_associated_account(PAYER, OWNER, MINT),
            token_2022.mint_to(MINT, associated_account(OWNER, MINT), MINTER, units=1, decimals=8),
        ],
        PAYER,
        Hash.default(),
    )
)


@pytest.mark.parametrize(
    ("place", "code", "failure", "words"),
    [
        (MINTED, 1, "UNITS_INSUFFICIENT", "instruction 3: custom program error 0x1 (insufficient funds)"),
        (MINTED, 17, "ACCOUNT_BARRED", "0x11 (account is frozen)"),
        (MINTED, 67, "PAUSED", "0x43 (mint is paused)"),
        (MINTED, 99, "OTHER", "0x63 (unknown error)"),
        (OPEN, 1, "FEE_INSUFFICIENT", "instruction 2: custom program error 0x1 (too few lamports for a new account)"),
        (OPEN, 17, "OTHER", "0x11 (unknown error)"),
        (ADVANCE, 1, "FEE_INSUFFICIENT", "0x1 (too few lamports"),
        (ADVANCE, 17, "OTHER", "0x11 (unknown error)"),
        (MEMO, 1, "OTHER", "0x1 (unknown error)"),
    ],
)
def test_a_number_means_what_its_program_says(place, code, failure, words):
    found, text = failure_of({"InstructionError": [place, {"Custom": code}]}, MESSAGE, 1)
    assert ChainFailure.Name(found) == f"CHAIN_FAILURE_{failure}"
    assert words in text


def test_of_several_instructions_each_goes_alone():
    found, text = failure_of({"InstructionError": [OPEN, {"Custom": 1}]}, MESSAGE, 2)
    assert (found, text[:13]) == (ChainFailure.CHAIN_FAILURE_IN_COMPANY, "instruction 2")


@pytest.mark.parametrize("place", [4, 255, -1])
def test_an_instruction_that_is_not_there_has_not_failed(place):
    with pytest.raises(AnswerMalformed, match=f"instruction {place} failed of a transaction that has 4"):
        failure_of({"InstructionError": [place, {"Custom": 1}]}, MESSAGE, 1)
