"""Names of chains, accounts and tokens in one spelling for all chains.

    CAIP-2    chain     namespace:reference                       eip155:1
    CAIP-10   account   chain:address                             eip155:1:0x71C7656EC7ab88b098defB751B7401B5f6d8976F
    CAIP-19   token     chain/asset namespace:asset reference     eip155:1/erc20:0x9d275685dC284C8eB1C79f6ABA7a63Dc75ec890a

Only the grammar common to all chains is checked here; what an address must look like on one chain, its checksum for one, is known to
`rules.wallets` and to that chain's adapter.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from ledger.errors import refusal
from stockledger.v1.errors_pb2 import Reason

_CHAIN: Final = r"[-a-z0-9]{3,8}:[-_a-zA-Z0-9]{1,32}"
_CHAIN_ID: Final = re.compile(_CHAIN)
_ACCOUNT_ID: Final = re.compile(rf"({_CHAIN}):([-.%a-zA-Z0-9]{{1,128}})")
_TOKEN_ID: Final = re.compile(rf"({_CHAIN})/([-a-z0-9]{{3,8}}):([-.%a-zA-Z0-9]{{1,128}})")

NOT_CHAINS: Final = frozenset({"book", "ledger", "transit", "divergence", "unattributed"})
"""Places of the ledger itself; no chain's namespace may read like one."""


class AccountId(NamedTuple):
    """A CAIP-10 id. Example: ("eip155:1", "0x71C7656EC7ab88b098defB751B7401B5f6d8976F")."""

    chain: str
    address: str


class TokenId(NamedTuple):
    """A CAIP-19 id of a fungible token. Example: ("eip155:1", "erc20", "0x9d275685dC284C8eB1C79f6ABA7a63Dc75ec890a")."""

    chain: str
    namespace: str
    reference: str


def check_chain(field: str, text: str) -> str:
    """Return a chain's id of the right form.

    Raises: InvalidRequest FIELD_MISSING, FIELD_MALFORMED.

    Source: CAIP-2.
    """
    _check_present(field, text)
    if not _CHAIN_ID.fullmatch(text) or text.partition(":")[0] in NOT_CHAINS:
        raise _malformed(field, text, "a chain's id (CAIP-2), like eip155:1")
    return text


def parse_account(field: str, text: str) -> AccountId:
    """Return the chain and address of an account at a chain.

    Raises: InvalidRequest FIELD_MISSING, FIELD_MALFORMED.

    Source: CAIP-10.
    """
    _check_present(field, text)
    found = _ACCOUNT_ID.fullmatch(text)
    if found is None or text.partition(":")[0] in NOT_CHAINS:
        raise _malformed(field, text, "an account at a chain (CAIP-10), like eip155:1:0x71C7656EC7ab88b098defB751B7401B5f6d8976F")
    return AccountId(found[1], found[2])


def parse_token(field: str, text: str) -> TokenId:
    """Return the chain, kind and reference of a token; one of a collection (an asset id) is not one.

    Raises: InvalidRequest FIELD_MISSING, FIELD_MALFORMED.

    Source: CAIP-19, asset type.
    """
    _check_present(field, text)
    found = _TOKEN_ID.fullmatch(text)
    if found is None or text.partition(":")[0] in NOT_CHAINS:
        raise _malformed(field, text, "a token (CAIP-19), like eip155:1/erc20:0x9d275685dC284C8eB1C79f6ABA7a63Dc75ec890a")
    return TokenId(found[1], found[2], found[3])


def _check_present(field: str, text: str) -> None:
    if not text:
        raise refusal(Reason.REASON_FIELD_MISSING, f"{field} is empty", field=field)


def _malformed(field: str, text: str, needed: str) -> Exception:
    return refusal(Reason.REASON_FIELD_MALFORMED, f"{field} {text!r} is not {needed}", field=field, value=text)
