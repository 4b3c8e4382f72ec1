"""Bytes that are not what they should be, and the facts read out of real ones."""

from __future__ import annotations

import pytest
from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from chain_adapters.evm import token_calls
from chain_adapters.evm.codec import (
    NotDecodable,
    _decode_types,
    decode_answer,
    decode_call,
    decode_event,
    decode_refusal,
    encode_call,
)
from chain_adapters.evm.token_calls import TOKEN, Line
from chain_adapters.evm.token_events import InstructionDone, Moved, effects_by_instruction, read_fact

ALICE = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
BOB = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"
TRANSFER = keccak(text="Transfer(address,address,uint256)")
MINT = encode_call(TOKEN, "mint(bytes32,address,uint256)", bytes(32), ALICE, 1)[:4]
addresses = st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex())
ids = st.binary(min_size=32, max_size=32)
units = st.integers(0, 2**256 - 1)


@given(instruction=ids, source=addresses, destination=addresses, amount=units, reason=st.binary(max_size=200))
def test_a_call_reads_back(instruction: bytes, source: str, destination: str, amount: int, reason: bytes):
    call = token_calls.forced_transfer(instruction, source, destination, amount, reason)
    signature, values = decode_call(TOKEN, call.data)
    assert signature == "forcedTransfer(bytes32,address,address,uint256,bytes)"
    assert (values[0], values[1].lower(), values[2].lower(), *values[3:]) == (instruction, source, destination, amount, reason)


@given(st.lists(st.tuples(ids, addresses, units), min_size=1, max_size=5))
def test_lines_read_back(raw: list[tuple[bytes, str, int]]):
    signature, values = decode_call(TOKEN, token_calls.mint([Line(*line) for line in raw]).data)
    assert signature == ("mint(bytes32,address,uint256)" if len(raw) == 1 else "mintBatch((bytes32,address,uint256)[])")
    lines = [values] if len(raw) == 1 else values[0]
    assert [(line[0], line[1].lower(), line[2]) for line in lines] == raw


def test_an_empty_batch_is_our_mistake():
    with pytest.raises(AssertionError):
        token_calls.mint([])


@given(st.binary(max_size=300))
def test_no_bytes_crash_a_reader(data: bytes):
    for read in (
        lambda: decode_call(TOKEN, data),
        lambda: decode_call(TOKEN, MINT + data),
        lambda: decode_answer(TOKEN, "name()", data),
        lambda: decode_answer(TOKEN, "defaultAdminDelay()", data),
        lambda: decode_event(TOKEN, [TRANSFER, data[:32], data[:32]], data),
        lambda: read_fact([keccak(text="PausesSet(uint8,address)"), data[:32].ljust(32, b"\0")], data),
    ):
        try:
            read()
        except NotDecodable as error:
            assert str(error)  # noqa: PT017 - whichever of them it was
    assert str(decode_refusal(TOKEN, data))


@given(st.lists(st.sampled_from(["address", "bool", "bytes32", "uint8", "uint64", "uint80", "uint128", "uint256"]), max_size=4), st.data())
def test_single_words_are_read_as_the_library_reads_them(types: list[str], data: st.DataObject):
    """Both by the same bytes: random ones, and such as have few bits set, of which more are well-formed."""
    word = st.binary(min_size=32, max_size=32) | st.integers(0, 2).map(lambda n: n.to_bytes(32)) | addresses.map(_word_of)
    content = b"".join(data.draw(word) for _ in types)[data.draw(st.sampled_from([0, 0, 0, 1])) :]
    try:
        told = zip(types, decode(types, content), strict=True)
        expected = [to_checksum_address(value) if kind == "address" else value for kind, value in told]
    except DecodingError:
        with pytest.raises(NotDecodable):
            _decode_types(tuple(types), content)
    else:
        assert _decode_types(tuple(types), content) == expected


def _word_of(address: str) -> bytes:
    return bytes.fromhex(address[2:]).rjust(32, b"\0")


def test_an_address_without_code_answers_nothing():
    with pytest.raises(NotDecodable):
        decode_answer(TOKEN, "decimals()", b"")


def test_a_log_with_the_topic_and_another_shape_is_not_that_event():
    word = bytes(12) + bytes.fromhex(ALICE[2:])
    assert decode_event(TOKEN, [TRANSFER, word, word], (5).to_bytes(32)).fields == {"from": ALICE, "to": ALICE, "value": 5}
    with pytest.raises(NotDecodable):
        decode_event(TOKEN, [TRANSFER, word, word, (5).to_bytes(32)], b"")  # an NFT's
    with pytest.raises(NotDecodable):
        decode_event(TOKEN, [TRANSFER, word, word], b"\5")
    with pytest.raises(NotDecodable):
        decode_event(TOKEN, [TRANSFER, b"\1" + word[1:], word], (5).to_bytes(32))
    assert decode_event(TOKEN, [keccak(text="Somebody(uint256)")], b"") is None
    assert decode_event(TOKEN, [], b"") is None


def test_refusals_say_what_they_mean():
    refusal = decode_refusal(TOKEN, keccak(text="OperationPaused(uint8)")[:4] + (2).to_bytes(32))
    assert (refusal.name, refusal.fields) == ("OperationPaused", {"operation": 2})
    assert "paused" in refusal.meaning
    assert decode_refusal(TOKEN, keccak(text="Panic(uint256)")[:4] + (0x11).to_bytes(32)).fields == {"code": 0x11}
    assert decode_refusal(TOKEN, b"").name == "Unknown"
    assert decode_refusal(TOKEN, keccak(text="OperationPaused(uint8)")[:4]).name == "Unknown", "cut short"


def test_a_movement_that_an_instruction_did_not_cause_is_not_its_effect():
    first = InstructionDone(b"\1" * 32, b"", MINT, b"")
    ours, bridge, other = Moved("", ALICE, 1), Moved("", BOB, 2), Moved(ALICE, BOB, 3)
    assert effects_by_instruction([other, first, ours, bridge, other]) == [(None, [other]), (first, [ours]), (None, [bridge, other])]
    freeze = InstructionDone(b"\2" * 32, b"", b"\0\0\0\0", b"order")
    assert effects_by_instruction([freeze, other]) == [(freeze, []), (None, [other])]
    assert effects_by_instruction([]) == []
