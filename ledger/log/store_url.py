"""URLs of stores as people may see them: what is secret in them is hidden, and everything else stays."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

HIDDEN: Final = "***"
_SECRET_NAME: Final = re.compile(r"pass|secret|token|credential", re.IGNORECASE)
_SECRET_PAIR: Final = re.compile(r"(\w*(?:pass|secret|token|credential)\w*\s*=\s*)(?:'[^']*'?|\S*)", re.IGNORECASE)


def redact_url(url: str) -> str:
    """Return a store's URL without its passwords, for messages, reports and logs.

    The password of a user ends at the last "@" there is, since one that should have been percent-encoded must not show in part; so too
    much may be hidden, never too little. An option is secret by its name, also if that is percent-encoded. What is no URL is taken for
    the key=value form of libpq.

    Example: `redact_url("postgresql://u:p@h/d?password=p&ledger=acme") == "postgresql://u:***@h/d?password=***&ledger=acme"`.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return _SECRET_PAIR.sub(rf"\1{HIDDEN}", url)
    if not rest.startswith("/"):  # sqlite:///file has no user, and its path may have any characters
        credentials, at, place = rest.rpartition("@")
        user, colon, _ = credentials.partition(":")
        rest = f"{user}{colon}{HIDDEN if colon else ''}{at}{place}"
    base, mark, query = rest.partition("?")
    return f"{scheme}://{base}{mark}{'&'.join(map(_redact_option, query.split('&')))}"


def _redact_option(option: str) -> str:
    name, equals, _ = option.partition("=")
    return f"{name}={HIDDEN}" if equals and _SECRET_NAME.search(unquote(name)) else option
