"""Keys that sign, from an encrypted keystore or a secret in text. Services read files and the environment; these take what they read.

Any other holder of a key (a KMS) is the same to the adapter: an `account`, and `sign(payload) -> r || s || y`. It must give s in the
lower half (EIP-2), as chains ask, and should be deterministic; where it is not, the nonce lets only one of its signatures land.
"""

from __future__ import annotations

import json
from typing import Any

from eth_keyfile.keyfile import create_keyfile_json, decode_keyfile_json
from eth_keys.datatypes import PrivateKey
from eth_utils.crypto import keccak

SECRET_BYTES = 32


class KeyUnusable(ValueError):
    """A keystore, password or secret cannot be used. The message never repeats a secret."""


class LocalSigner:
    """A private key in this process. Signatures are deterministic (RFC 6979)."""

    def __init__(self, chain: str, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise KeyUnusable(f"the secret is no key: it has {len(secret)} bytes, not {SECRET_BYTES}")
        try:
            self._key = PrivateKey(secret)
            address = self._key.public_key.to_checksum_address()
        except Exception:  # noqa: BLE001 - each library has its own, and some repeat the secret
            raise KeyUnusable("the secret is no key: it is not between 1 and the order of secp256k1") from None
        self._account = f"{chain}:{address}"

    @classmethod
    def from_keystore(cls, chain: str, text: str, password: str) -> LocalSigner:
        """Open an encrypted keystore (Web3 Secret Storage, version 3 or 4).

        Raises: KeyUnusable.
        """
        try:
            content = json.loads(text)
            secret = decode_keyfile_json(content, password.encode())
        except Exception as error:  # noqa: BLE001 - each library has its own, and some repeat the secret
            raise KeyUnusable(f"the keystore cannot be opened ({type(error).__name__}): wrong password, or no keystore") from None
        return cls(chain, secret)

    @classmethod
    def from_text(cls, chain: str, text: str) -> LocalSigner:
        """Read a secret of 64 hex digits, with or without 0x.

        Raises: KeyUnusable.
        """
        try:
            secret = bytes.fromhex(text.strip().removeprefix("0x"))
        except ValueError:
            raise KeyUnusable("the secret is not hex") from None
        return cls(chain, secret)

    @property
    def account(self) -> str:
        """Its account, CAIP-10."""
        return self._account

    def sign(self, payload: bytes) -> bytes:
        """Return r || s || y over keccak(payload)."""
        return bytes(self._key.sign_msg_hash(keccak(payload)).to_bytes())

    def keystore(self, password: str, **settings: Any) -> str:
        """Write it as an encrypted keystore; `settings` are eth_keyfile's (kdf, iterations)."""
        return json.dumps(create_keyfile_json(self._key.to_bytes(), password.encode(), **settings))

    def __repr__(self) -> str:
        return f"LocalSigner({self._account!r})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a key is not copied to another process by pickling")


def open_signer(chain: str, content: bytes, passphrase: str = "") -> LocalSigner:
    """Return the signer of what a key's file or variable has: an encrypted keystore, or a secret of 64 hex digits.

    Raises: KeyUnusable.
    """
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        raise KeyUnusable("it is neither a keystore nor a secret in hex") from None
    if text.lstrip().startswith("{"):
        return LocalSigner.from_keystore(chain, text, passphrase)
    return LocalSigner.from_text(chain, text)
