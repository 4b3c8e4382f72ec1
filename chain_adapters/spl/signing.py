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
        self.keypair = keypair
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
        return bytes(self.keypair.sign_message(message))


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


class ChainSigner(KeypairSigner):
    """A key in this process, as the account of a chain that it signs for."""

    def __init__(self, chain: str, keypair: Keypair) -> None:
        super().__init__(keypair)
        self.account = f"{chain}:{self.public_key}"


def open_signer(chain: str, content: bytes, passphrase: str = "") -> ChainSigner:  # noqa: ARG001 - solana-keygen encrypts nothing
    """Return the signer of what a key's file or variable holds: the JSON list of 64 bytes that solana-keygen writes.

    Raises: ValueError, which never repeats what is in a key.
    """
    try:
        signer = KeypairSigner.from_text(content.decode("utf-8", "replace"))
    except KeyMalformed as malformed:
        raise ValueError(str(malformed)) from None
    return ChainSigner(chain, signer.keypair)
