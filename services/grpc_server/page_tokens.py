"""Page tokens: sealed, so that they tell nothing, and bound to query and principal, so that another's is of no use.

What the ledger gives as a token is the last key of a page, which may be the name of an account that the caller must not know of.
XChaCha20-Poly1305 with a random nonce; who asks and what is asked is authenticated along with it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from typing import TYPE_CHECKING, Any, Final

from nacl.exceptions import CryptoError
from nacl.secret import Aead

from ledger.errors import refusal
from stockledger.v1.errors_pb2 import Reason

if TYPE_CHECKING:
    from ledger.errors import LedgerError

TOKEN_LENGTH_MAX: Final = 2_048
"""The longest key is that of a grant, whose principal and scope have 268 characters of up to 4 bytes: sealed, 1,492."""


class PageTokens:
    """Seals and opens page tokens with one secret; an empty one is drawn anew, so that tokens end with the process."""

    def __init__(self, secret: str = "") -> None:
        self._box = Aead(hashlib.sha256(b"stockledger page tokens\0" + secret.encode()).digest() if secret else os.urandom(32))

    def open(self, request: Any, principal: str) -> str:
        """Return the ledger's own token of a request for a page.

        Raises: InvalidRequest FIELD_MALFORMED for a token of another query, of another principal, or made up.
        """
        token = request.page_token
        if not token:
            return ""
        if len(token) > TOKEN_LENGTH_MAX:
            raise _foreign()
        try:
            sealed = base64.urlsafe_b64decode(token.encode("ascii"))
            return self._box.decrypt(sealed, aad=_binding(request, principal)).decode()
        except (CryptoError, binascii.Error, UnicodeError, ValueError) as error:
            raise _foreign() from error

    def seal(self, request: Any, principal: str, token: str) -> str:
        """Return a token for callers; nothing for the last page."""
        if not token:
            return ""
        return base64.urlsafe_b64encode(self._box.encrypt(token.encode(), aad=_binding(request, principal))).decode()


def _binding(request: Any, principal: str) -> bytes:
    """Return what a token is good for: this principal, and this query but for its page."""
    query = type(request)()
    query.CopyFrom(request)
    query.ClearField("page_token")
    query.ClearField("page_size")
    content = query.SerializeToString(deterministic=True)
    return b"\0".join((principal.encode(), request.DESCRIPTOR.full_name.encode(), hashlib.sha256(content).digest()))


def _foreign() -> LedgerError:
    message = "page_token is not one that this query was given; start again without one"
    return refusal(Reason.REASON_FIELD_MALFORMED, message, field="page_token")
