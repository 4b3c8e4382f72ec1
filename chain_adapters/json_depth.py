"""How deep a node's JSON is nested, found before it is parsed.

CPython's parser calls itself for every level and stops at the interpreter's recursion limit. But that limit belongs to the whole process,
and a library below web3 (py_ecc) sets it to 100,000: then an answer of 90,000 brackets overflows the stack, and the process is gone.
"""

from __future__ import annotations

import re
from typing import Final

DEPTH_MAX: Final = 64
"""The deepest answers of real nodes, parsed transactions with their inner instructions, have about 12 levels."""

_TEXTS: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_ALIKE: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")


def is_too_deep(body: bytes) -> bool:
    """Return whether JSON has more than 64 levels, or brackets left open. Example: `[{"a": [1]}]` has 3 levels."""
    brackets = _TEXTS.sub(b"", body).translate(_ALIKE, _NO_BRACKETS)
    for _ in range(DEPTH_MAX):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)
