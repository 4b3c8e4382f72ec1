"""Who signs: a key in this process, or anything that answers with an Ed25519 signature (a KMS, a device).

Ed25519 is deterministic (RFC 8032), so that signing a recorded message again after a crash gives the same transaction with the same
signature, and the chain takes it once. A signer that is not deterministic gives another signature, but the message's durable nonce still
lets only one of them land.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final, Protocol

from solders.keypair import Keypair
from solders.message import Message
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import Transaction

from chain_adapters.spl.errors import KeyMalformed, SignatureWrong

_KEY_BYTES: Final = 64
_SIGNATURE_BYTES: Final = 64


class Signer(Protocol):
    """Signs messages with one key."""

    @property
    def public_key(self) -> Pubkey: ...

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature, 64 bytes, of the bytes given."""
        ...


class KeypairSigner:
    """A key held in this process."""

    def __init__(self, keypair: Keypair) -> None:
        self._keypair = keypair
        self.public_key = keypair.pubkey()

    @classmethod
    def from_text(cls, text: str) -> KeypairSigner:
        """Read a key as the Solana command line writes it: a JSON list of 64 bytes, the secret and then the public half.

        Raises: KeyMalformed; the text itself is in no message.
        """
        try:
            numbers = json.loads(text)
        except ValueError:
            numbers = None
        if not isinstance(numbers, list) or not all(type(number) is int and 0 <= number <= 255 for number in numbers):
            raise KeyMalformed("the key is no JSON list of bytes, as solana-keygen writes it")
        if len(numbers) != _KEY_BYTES:
            raise KeyMalformed(f"the key has {len(numbers)} bytes, not {_KEY_BYTES}")
        pair = bytes(numbers)
        keypair = Keypair.from_seed(pair[:32])
        if bytes(keypair.pubkey()) != pair[32:]:
            raise KeyMalformed("the public half of the key does not belong to its secret half")
        return cls(keypair)

    def __repr__(self) -> str:
        return f"KeypairSigner({self.public_key})"

    def sign(self, message: bytes) -> bytes:
        return bytes(self._keypair.sign_message(message))


class ChainSigner:
    """A key under its account at one chain, as `ChainSettings` wants its signers."""

    def __init__(self, chain: str, signer: Signer) -> None:
        self.account = f"{chain}:{signer.public_key}"
        self._signer = signer

    def __repr__(self) -> str:
        return f"ChainSigner({self.account})"

    def sign(self, payload: bytes) -> bytes:
        return self._signer.sign(payload)


def open_signer(chain: str, content: bytes, passphrase: str = "") -> ChainSigner:  # noqa: ARG001 - these keys are never encrypted
    """Open a key as the Solana command line writes it: a JSON list of 64 bytes.

    Raises: ValueError; the content itself is in no message.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = ""
    try:
        return ChainSigner(chain, KeypairSigner.from_text(text))
    except KeyMalformed as wrong:
        raise ValueError(str(wrong)) from None


def required_signers(message: bytes) -> list[Pubkey]:
    """Return whose signatures a message needs, in the order they stand in; the first pays."""
    decoded = Message.from_bytes(message)
    return decoded.account_keys[: decoded.header.num_required_signatures]


def sign(message: bytes, signers: Iterable[Signer]) -> bytes:
    """Return the signed transaction of a recorded message. The same message and keys give the same bytes, always.

    Raises: KeyMalformed if a key is missing; SignatureWrong if a signer answers with anything but its signature of this message.
    """
    known = {signer.public_key: signer for signer in signers}
    signatures = []
    for address in required_signers(message):
        signer = known.get(address)
        if signer is None:
            raise KeyMalformed(f"the transaction needs the signature of {address}, whose key is not configured")
        signature = signer.sign(message)
        if len(signature) != _SIGNATURE_BYTES or not Signature(signature).verify(address, message):
            raise SignatureWrong(f"the signer of {address} answered with something that is not its signature of the transaction")
        signatures.append(Signature(signature))
    return bytes(Transaction.populate(Message.from_bytes(message), signatures))


def signature_of(transaction: bytes) -> str:
    """Return the first signature of a signed transaction, by which the chain knows it."""
    return str(Transaction.from_bytes(transaction).signatures[0])
