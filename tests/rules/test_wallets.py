"""Wallets: bound by their own signatures, checked against other people's code and published vectors; and lost ones recovered."""

from __future__ import annotations

from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_utils import keccak, to_checksum_address
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey
from scenario import Scenario, account, enforcer, holder, stock, two_holders
from steps import check_repeat, make_due

from ledger.rules.addresses import CHAIN_ID_MAX
from ledger.rules.wallets import MOVEMENTS_PER_ENTRY_MAX, wallet_text
from ledger.wallet_signatures import (
    evm_address,
    evm_signer,
    keccak_256,
    recover_public_key,
    solana_public_key,
    solana_signed,
)
from stockledger.v1.accounts_pb2 import (
    AmendHolderRequest,
    BindWalletRequest,
    CloseAccountRequest,
    FreezeAccountRequest,
    FreezeHolderRequest,
    FreezeUnitsRequest,
    GetAccountRequest,
    HolderState,
    OpenAccountRequest,
    RecoverWalletRequest,
    UnfreezeUnitsRequest,
    WalletBound,
    WalletRecovered,
)
from stockledger.v1.approvals_pb2 import ApprovalGiven, ApproveCommandRequest
from stockledger.v1.common_pb2 import Movement, Operation
from stockledger.v1.holds_pb2 import PlaceHoldRequest, ReleaseHoldRequest
from stockledger.v1.instruments_pb2 import HaltInstrumentRequest
from stockledger.v1.transfers_pb2 import TransferUnitsRequest

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
EVM_KEY = "0x4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
EVM_ADDRESS = "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23"
EVM_WALLET = f"eip155:1:{EVM_ADDRESS}"
GENESIS = "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"


def base58(raw: bytes) -> str:
    number, digits = int.from_bytes(raw, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"[digit] + digits
    return "1" * (len(raw) - len(raw.lstrip(b"\0"))) + digits


SOLANA_KEY = SigningKey(bytes(range(32)))
SOLANA_WALLET = f"solana:{GENESIS}:{base58(bytes(SOLANA_KEY.verify_key))}"
OTHER_WALLET = f"memory:a:{bytes(SOLANA_KEY.verify_key).hex()}"
"""At a chain of which nothing particular is known."""


def evm_sign(text: str, key: str = EVM_KEY) -> bytes:
    return bytes(Account.sign_message(encode_defunct(text=text), key).signature)


# ---- Keccak-256 ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (b"", "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"),
        (b"abc", "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"),
    ],
)
def test_keccak_of_published_vectors(data: bytes, digest: str) -> None:
    assert keccak_256(data).hex() == digest


@settings(max_examples=40)
@given(st.binary(max_size=600))
@example(bytes(135))
@example(bytes(136))
@example(bytes(137))
@example(bytes(272))
def test_keccak_is_that_of_other_people(data: bytes) -> None:
    assert keccak_256(data) == keccak(data)


# ---- EVM -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
    ],
)
def test_checksums_of_eip_55(address: str) -> None:
    assert evm_address(bytes.fromhex(address[2:])) == address


@settings(max_examples=20)
@given(st.binary(min_size=20, max_size=20))
def test_checksums_are_those_of_other_people(raw: bytes) -> None:
    assert evm_address(raw) == to_checksum_address(raw)


def test_a_published_signature() -> None:
    signature = bytes.fromhex(
        "b91467e570a6466aa9e9876cbcd013baba02900b8979d43fe208a4a4f339f5fd6007e74cd82e037b800186422fc2da167c747ef045e5d18a5f5d4300f8e1a0291c"
    )
    assert evm_signer("Some data", signature) == EVM_ADDRESS
    assert evm_signer("Some date", signature) != EVM_ADDRESS


@settings(max_examples=20)
@given(st.integers(1, ORDER - 1), st.text(max_size=80))
@example(1, "")
@example(ORDER - 1, "é")
def test_signers_are_those_of_other_people(key: int, text: str) -> None:
    signer = Account.from_key(key.to_bytes(32, "big"))
    signature = evm_sign(text, signer.key)
    assert evm_signer(text, signature) == signer.address
    assert evm_signer(text, signature[:64] + bytes([signature[64] - 27])) == signer.address, "v may be 0 or 1 too"
    other_point = signature[:64] + bytes([55 - signature[64]])
    assert evm_signer(text, other_point) == Account.recover_message(encode_defunct(text=text), signature=other_point) != signer.address


def test_what_no_key_can_have_signed() -> None:
    digest, signature = keccak_256(b"x"), evm_sign("x")
    r, s, v = signature[:32], signature[32:64], signature[64:]
    assert recover_public_key(digest, signature) is not None
    for wrong in (
        bytes(32) + s + v,
        ORDER.to_bytes(32, "big") + s + v,
        r + bytes(32) + v,
        r + (ORDER - int.from_bytes(s, "big")).to_bytes(32, "big") + v,
        r + (ORDER // 2 + 1).to_bytes(32, "big") + v,
        r + s + bytes([2]),
        r + s + bytes([26]),
        r + s + bytes([29]),
        (5).to_bytes(32, "big") + s + v,  # 5^3 + 7 = 132 is no square of the field: no point has this x
    ):
        assert recover_public_key(digest, wrong) is None
    assert recover_public_key(digest, r + (ORDER // 2).to_bytes(32, "big") + v) is not None, "the largest low s"


def test_a_signature_that_leads_to_infinity_is_nobodys() -> None:
    """With R = G and s = e, the key would be (e G - e G) / r: the point at infinity, which is no key."""
    x = 0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798
    digest = (12345).to_bytes(32, "big")
    assert recover_public_key(digest, x.to_bytes(32, "big") + digest + bytes([27])) is None
    assert recover_public_key(digest, x.to_bytes(32, "big") + (12346).to_bytes(32, "big") + bytes([27])) is not None


# ---- Solana --------------------------------------------------------------------------------------------------------------------------


def test_solana_addresses() -> None:
    assert solana_public_key("1" * 32) == bytes(32)
    token_program = "06ddf6e1d765a193d9cbe146ceeb79ac1cb485ed5f5b37913a8cf5857eff00a9"
    assert solana_public_key("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA") == bytes.fromhex(token_program)
    assert solana_public_key("1" * 33) is None
    assert solana_public_key("1" * 31) is None
    assert solana_public_key("0" * 32) is None, "0 is not a digit of base58"
    assert solana_public_key("z" * 44) is None, "more than 32 bytes"


@settings(max_examples=50)
@given(st.binary(min_size=32, max_size=32))
@example(b"\0" * 31 + b"\1")
@example(b"\xff" * 32)
def test_base58_there_and_back(raw: bytes) -> None:
    assert solana_public_key(base58(raw)) == raw


def test_the_first_signature_of_rfc_8032_and_its_neighbours() -> None:
    key = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    signature = bytes.fromhex(
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    assert solana_signed("", signature, key)
    assert not solana_signed("x", signature, key)
    assert not solana_signed("", signature, bytes(32)), "a key of small order signs nothing"


# ---- BindWallet ----------------------------------------------------------------------------------------------------------------------


def bind(wallet: str = EVM_WALLET, holder: str = "h-1", ledger_id: str = "test", **changes: Any) -> BindWalletRequest:
    text = wallet_text(ledger_id, wallet, holder)
    signature = evm_sign(text) if wallet.startswith("eip155:") else SOLANA_KEY.sign(text.encode()).signature
    return BindWalletRequest(**({"account": wallet, "holder": holder, "signature": signature} | changes))


@pytest.fixture
def books() -> Scenario:
    return Scenario().given(*two_holders())


def test_the_text_is_the_one_the_proto_promises() -> None:
    text = "stockledger: bind eip155:1:0x71C7656EC7ab88b098defB751B7401B5f6d8976F to holder h-1001 in ledger acme"
    assert wallet_text("acme", "eip155:1:0x71C7656EC7ab88b098defB751B7401B5f6d8976F", "h-1001") == text


@pytest.mark.parametrize("wallet", [EVM_WALLET, SOLANA_WALLET, OTHER_WALLET, f"eip155:{CHAIN_ID_MAX}:{EVM_ADDRESS}"])
def test_a_wallet_is_bound_by_its_own_signature(books: Scenario, wallet: str) -> None:
    command = bind(wallet)
    books.when(command).then(WalletBound(account=wallet, number=19, holder="h-1", signature=command.signature))
    assert books.books.execute(GetAccountRequest(account=wallet)).account.holder == "h-1"
    books.when(OpenAccountRequest(account="book:next", holder="h-1")).accepted()
    assert books.booked[0].number == 20
    books.when(TransferUnitsRequest(instrument="AAPLx", source=wallet, destination="book:bob", units=1)).raises("PLACE_UNFIT")
    books.when(TransferUnitsRequest(instrument="AAPLx", source="book:bob", destination=wallet, units=1)).raises("PLACE_UNFIT")


def test_v_may_be_0_or_1(books: Scenario) -> None:
    signature = bind().signature
    books.when(bind(signature=signature[:64] + bytes([signature[64] - 27]))).accepted()


REFUSALS = [
    ("FIELD_MISSING", bind(account="", holder="h-9")),
    ("FIELD_MISSING", BindWalletRequest(account="nonsense", signature=b"x")),
    ("FIELD_MISSING", BindWalletRequest(account="nonsense", holder="h-9")),
    ("FIELD_MALFORMED", bind("book:alice", "h-9")),
    ("FIELD_MALFORMED", bind("ledger:issuance", "h-9")),
    ("FIELD_MALFORMED", bind(EVM_WALLET.lower(), "h-9")),
    ("FIELD_MALFORMED", bind(EVM_WALLET.replace("2c7536E", "2c7536e"), "h-9")),
    ("FIELD_MALFORMED", bind(EVM_WALLET[:-1], "h-9")),
    ("FIELD_MALFORMED", bind(EVM_WALLET.replace(":1:", ":01:"), "h-9")),
    ("FIELD_MALFORMED", bind(EVM_WALLET.replace(":1:", ":0:"), "h-9")),
    ("FIELD_MALFORMED", bind(EVM_WALLET.replace(":1:", f":{CHAIN_ID_MAX + 1}:"), "h-9")),
    ("FIELD_MALFORMED", bind(EVM_WALLET.replace(":1:", "::"), "h-9")),
    ("FIELD_MALFORMED", bind(SOLANA_WALLET[:-1] + "0", "h-9")),
    ("FIELD_MALFORMED", bind(SOLANA_WALLET[:-4], "h-9")),
    ("FIELD_MALFORMED", bind(SOLANA_WALLET.replace(GENESIS, GENESIS[:-1]), "h-9")),
    ("FIELD_MALFORMED", bind("cosmos:hub", "h-9")),
    ("FIELD_MALFORMED", bind(OTHER_WALLET, "h-9", signature=bytes(65))),
    ("FIELD_MALFORMED", bind(holder="h-9", signature=bytes(64))),
    ("FIELD_MALFORMED", bind(SOLANA_WALLET, "h-9", signature=bytes(65))),
    ("HOLDER_NOT_FOUND", bind(holder="h-9", signature=bytes(65))),
    ("SIGNATURE_INVALID", bind(signature=bytes(65))),
    ("SIGNATURE_INVALID", bind(signature=evm_sign("something else"))),
    ("SIGNATURE_INVALID", bind(signature=bind(holder="h-2").signature)),
    ("SIGNATURE_INVALID", bind(signature=bind(EVM_WALLET.replace(":1:", ":2:")).signature)),
    ("SIGNATURE_INVALID", bind(ledger_id="another")),
    ("SIGNATURE_INVALID", bind(OTHER_WALLET, ledger_id="another")),
    ("SIGNATURE_INVALID", bind("memory:a:alice", signature=bytes(64))),
    ("SIGNATURE_INVALID", bind(OTHER_WALLET.upper().replace("MEMORY:A", "memory:a"), signature=bytes(64))),
    ("SIGNATURE_INVALID", bind(SOLANA_WALLET, signature=bytes(64))),
    ("SIGNATURE_INVALID", bind(SOLANA_WALLET, ledger_id="another")),
    ("SIGNATURE_INVALID", bind(SOLANA_WALLET, signature=bind(SOLANA_WALLET, "h-2").signature)),
]


@pytest.mark.parametrize(("reason", "command"), REFUSALS)
def test_refusals_of_binding(books: Scenario, reason: str, command: BindWalletRequest) -> None:
    books.when(command).raises(reason)
    books.when(bind()).accepted()
    books.when(bind(SOLANA_WALLET)).accepted()


def test_a_high_s_is_refused(books: Scenario) -> None:
    """(r, n - s, other v) verifies as well; were both accepted, one consent would have two encodings."""
    signature = bind().signature
    s = int.from_bytes(signature[32:64], "big")
    books.when(bind(signature=signature[:32] + (ORDER - s).to_bytes(32, "big") + bytes([55 - signature[64]]))).raises("SIGNATURE_INVALID")


def test_a_wallet_is_bound_once_for_ever(books: Scenario) -> None:
    books.given(bind(), FreezeHolderRequest(holder="h-2", legal_reference="OFAC 2026-11"))
    books.when(bind(holder="h-2")).raises("WALLET_BOUND", account=EVM_WALLET, holder="h-1")
    books.when(bind()).raises("WALLET_BOUND")
    books.when(bind(EVM_WALLET.replace(":1:", ":8453:"))).accepted()
    books.given(CloseAccountRequest(account=EVM_WALLET)).when(bind()).raises("WALLET_BOUND")


def test_who_cannot_sign_learns_nothing_of_a_wallet(books: Scenario) -> None:
    """Bound or not, of a holder who may act or not: without the wallet's own signature the answer is the same."""
    books.given(bind(), FreezeHolderRequest(holder="h-1", legal_reference="OFAC 2026-11"))
    free = f"eip155:1:{to_checksum_address(bytes(20))}"
    for wallet in (EVM_WALLET, free):
        for of in ("h-1", "h-2"):
            books.when(bind(wallet, of, signature=bytes(65))).raises("SIGNATURE_INVALID", signer=wallet)
            assert not {"holder", "state", "legal_reference"} & books.error.metadata.keys()


def test_who_may_not_act_binds_nothing(books: Scenario) -> None:
    books.given(AmendHolderRequest(holder="h-1", state=HolderState.HOLDER_STATE_SUSPENDED))
    books.given(FreezeHolderRequest(holder="h-1", legal_reference="OFAC 2026-11"))
    books.when(bind()).raises("HOLDER_NOT_ACTIVE")
    books.given(AmendHolderRequest(holder="h-1", state=HolderState.HOLDER_STATE_ACTIVE))
    books.when(bind()).raises("HOLDER_FROZEN")
    books.when(bind(holder="h-2")).accepted()


def test_binding_again_gets_the_first_answer(books: Scenario) -> None:
    check_repeat(books, bind(), bind(SOLANA_WALLET))


# ---- RecoverWallet -------------------------------------------------------------------------------------------------------------------


def recover(**changes: Any) -> RecoverWalletRequest:
    return RecoverWalletRequest(**({"lost_account": "book:alice", "account": "book:alice-2", "evidence": "affidavit 2026-117"} | changes))


@pytest.fixture
def lost() -> Scenario:
    books = Scenario().given(*two_holders(), stock("NVDAx", "US67066G1040"), account("book:alice-2", "h-1"), enforcer())
    return books.units("AAPLx", "book:alice", 100).units("USDC", "book:alice", 7).units("AAPLx", "book:alice-2", 1)


RECOVERED = WalletRecovered(
    lost_account="book:alice",
    account="book:alice-2",
    evidence="affidavit 2026-117",
    movements=[
        Movement(instrument="AAPLx", source="book:alice", destination="book:alice-2", units=100),
        Movement(instrument="USDC", source="book:alice", destination="book:alice-2", units=7),
    ],
)


def test_everything_moves_and_the_lost_account_is_frozen(lost: Scenario) -> None:
    lost.when(recover(), principal="enforcer").accepted()
    assert lost.holding("AAPLx", "book:alice") == 100, "nothing moves before the approval"
    lost.when(ApproveCommandRequest(approval=lost.answer.booking.approval), principal="judge")
    assert lost.booked[1:] == [RECOVERED]
    assert isinstance(lost.booked[0], ApprovalGiven)
    assert [lost.holding("AAPLx", name) for name in ("book:alice", "book:alice-2")] == [0, 101]
    assert lost.holding("USDC", "book:alice-2") == 7
    assert lost.books.execute(GetAccountRequest(account="book:alice")).account.freeze_reference == "affidavit 2026-117"
    lost.when(TransferUnitsRequest(instrument="AAPLx", source="book:alice-2", destination="book:alice", units=1)).raises("ACCOUNT_FROZEN")
    lost.when(TransferUnitsRequest(instrument="AAPLx", source="book:alice-2", destination="book:bob", units=101)).accepted()


@pytest.mark.parametrize(
    ("reason", "command"),
    [
        ("FIELD_MISSING", recover(lost_account="", evidence="x" * 141)),
        ("FIELD_MISSING", recover(account="", evidence="x" * 141)),
        ("FIELD_MISSING", recover(evidence="", account="book:alice")),
        ("FIELD_MALFORMED", recover(evidence="x" * 141, account="book:alice")),
        ("SAME_ACCOUNT", recover(lost_account="book:nobody", account="book:nobody")),
        ("ACCOUNT_NOT_FOUND", recover(lost_account="book:nobody", account="ledger:issuance")),
        ("ACCOUNT_NOT_FOUND", recover(account="book:nobody")),
        ("ACCOUNT_RESERVED", recover(lost_account="ledger:issuance")),
        ("ACCOUNT_RESERVED", recover(account="ledger:issuance")),
        ("PLACE_UNFIT", recover(lost_account=EVM_WALLET, account="book:closed")),
        ("PLACE_UNFIT", recover(account=EVM_WALLET)),
        ("ACCOUNT_CLOSED", recover(lost_account="book:closed", account="book:bob")),
        ("STATE_UNFIT", recover(account="book:bob")),
        ("ACCOUNT_CLOSED", recover(account="book:closed")),
    ],
)
def test_refusals_of_recovering(lost: Scenario, reason: str, command: RecoverWalletRequest) -> None:
    lost.given(bind(), account("book:closed", "h-1"), CloseAccountRequest(account="book:closed"))
    lost.when(command).raises("NOT_PERMITTED", needed="ROLE_ENFORCER")
    lost.when(command, principal="enforcer").raises(reason)
    lost.when(recover(), principal="enforcer", approver="judge").accepted()


def test_a_due_split_comes_first_where_it_would_change_what_moves(lost: Scenario) -> None:
    make_due(lost, "NVDAx")
    lost.when(recover(validate_only=True), principal="enforcer")
    assert lost.error is None
    make_due(lost)
    lost.given(FreezeAccountRequest(account="book:alice-2", legal_reference="court order"))
    lost.when(recover(), principal="enforcer").raises("ACTION_DUE", instrument="AAPLx")


def test_the_account_that_takes_over_must_be_free_to_act(lost: Scenario) -> None:
    lost.given(PlaceHoldRequest(instrument="AAPLx", account="book:alice", units=30))
    lost.given(FreezeAccountRequest(account="book:alice-2", legal_reference="court order"))
    lost.when(recover(), principal="enforcer").raises("ACCOUNT_FROZEN", account="book:alice-2")


def test_a_frozen_holder_recovers_nothing(lost: Scenario) -> None:
    lost.given(FreezeHolderRequest(holder="h-1", legal_reference="OFAC 2026-11"))
    lost.when(recover(), principal="enforcer").raises("HOLDER_FROZEN")
    lost.given(AmendHolderRequest(holder="h-1", state=HolderState.HOLDER_STATE_SUSPENDED))
    lost.when(recover(), principal="enforcer").raises("HOLDER_NOT_ACTIVE")


def test_holds_must_be_released_and_frozen_units_frozen_elsewhere(lost: Scenario) -> None:
    lost.given(PlaceHoldRequest(instrument="AAPLx", account="book:alice", units=30))
    lost.when(recover(), principal="enforcer").raises("STATE_UNFIT", account="book:alice", instrument="AAPLx", held=30, frozen=0)
    lost.given(ReleaseHoldRequest(hold=1), FreezeUnitsRequest(instrument="NVDAx", account="book:alice", units=5, legal_reference="lien"))
    lost.when(recover(), principal="enforcer").raises("STATE_UNFIT", instrument="NVDAx", held=0, frozen=5)
    lost.given(UnfreezeUnitsRequest(instrument="NVDAx", account="book:alice", legal_reference="moved"))
    lost.when(recover(), principal="enforcer", approver="judge").accepted()


def test_a_lost_account_is_rightly_frozen_before_and_halts_do_not_matter(lost: Scenario) -> None:
    lost.given(FreezeAccountRequest(account="book:alice", legal_reference="reported lost"))
    lost.given(HaltInstrumentRequest(instrument="AAPLx", operations=[Operation.OPERATION_TRANSFER]))
    lost.when(recover(), principal="enforcer", approver="judge").accepted()
    assert lost.booked[-1] == RECOVERED


def test_an_empty_account_is_frozen_all_the_same(lost: Scenario) -> None:
    lost.given(account("book:alice-3", "h-1")).when(recover(lost_account="book:alice-3"), principal="enforcer", approver="judge").accepted()
    assert lost.booked[-1] == WalletRecovered(lost_account="book:alice-3", account="book:alice-2", evidence="affidavit 2026-117")


def test_the_approval_is_decided_by_the_state_of_its_moment(lost: Scenario) -> None:
    approval = lost.when(recover(), principal="enforcer").accepted().answer.booking.approval
    lost.given(TransferUnitsRequest(instrument="AAPLx", source="book:alice", destination="book:bob", units=60))
    lost.when(ApproveCommandRequest(approval=approval), principal="judge").accepted()
    assert lost.holding("AAPLx", "book:alice-2") == 41


def test_more_than_one_leaf_of_holdings_moves_in_parts() -> None:
    count = MOVEMENTS_PER_ENTRY_MAX + 1
    long_names = ("book:" + "a" * 64, "book:" + "b" * 64)
    symbols = [f"{number:X>32}" for number in range(count)]
    books = Scenario().given(holder("h-1"), enforcer(), *(account(name, "h-1") for name in long_names))
    books.books.execute_many([stock(symbol) for symbol in symbols])
    for symbol in symbols:
        books.units(symbol, long_names[0], 2**62)
    books.when(recover(lost_account=long_names[0], account=long_names[1]), principal="enforcer", approver="judge").accepted()
    assert [len(event.movements) for event in books.booked[-2:]] == [MOVEMENTS_PER_ENTRY_MAX, 1]
    assert all(books.holding(symbol, long_names[1]) == 2**62 for symbol in symbols)


def test_recovering_again_gets_the_first_answer(lost: Scenario) -> None:
    check_repeat(lost, recover(), recover(evidence="affidavit 2026-118"), principal="enforcer")
