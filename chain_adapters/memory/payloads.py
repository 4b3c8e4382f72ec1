"""What is signed on the reference chain: JSON in one canonical form, complete, fees included.

    {"chain": "memory:1", "cosigners": ["9f..."], "fee": 200, "key": "1c...", "operations": [{"do": "mint", "token": "AAPLx",
     "destination": "5e...", "raw": "150000000", "note": "acme/4711-0"}], "sequence": {"number": 17}}

An address is an Ed25519 public key in 64 lower-case hexadecimal digits; the account is "<chain>:<address>".
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Final

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

ADDRESS: Final = re.compile(r"[0-9a-f]{64}")


def encode(content: dict[str, Any]) -> bytes:
    """Return the one form of a payload."""
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def decode(payload: bytes) -> dict[str, Any]:
    """Return what a payload says.

    Raises: ValueError for what is no payload, or in another form.
    """
    content = json.loads(payload)
    if not isinstance(content, dict) or encode(content) != payload:
        raise ValueError("not in canonical form")
    return content


def digest(payload: bytes) -> bytes:
    """Return what a recorded version is recognised by."""
    return hashlib.sha256(payload).digest()


def transaction_id(payload: bytes) -> str:
    """Return the id of the transaction on chain: whoever signs it again makes the very same one."""
    return digest(payload).hex()


def signed_by(payload: bytes, address: str, signature: bytes) -> bool:
    """Tell whether an address signed a payload."""
    try:
        VerifyKey(bytes.fromhex(address)).verify(payload, signature)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True


class MemorySigner:
    """A key of the reference chain, kept in memory."""

    def __init__(self, chain: str, seed: bytes) -> None:
        self.seed = seed
        self._key = SigningKey(seed)
        self.address = bytes(self._key.verify_key).hex()
        self.account = f"{chain}:{self.address}"

    def sign(self, payload: bytes) -> bytes:
        """Return the Ed25519 signature, 64 bytes, the same each time."""
        return self._key.sign(payload).signature


def open_signer(chain: str, content: bytes, passphrase: str = "") -> MemorySigner:  # noqa: ARG001 - these keys are never encrypted
    """Return the signer of a seed of 64 hexadecimal digits.

    Raises: ValueError.
    """
    text = content.decode("ascii").strip()
    if not ADDRESS.fullmatch(text):
        raise ValueError("a key of the reference chain is a seed of 64 lower-case hexadecimal digits")
    return MemorySigner(chain, bytes.fromhex(text))
