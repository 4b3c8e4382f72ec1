"""One setting as a dataclass field: its default, what it means, and what it must be. What is said of it is said here alone."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

DAY_SECONDS: Final = 86_400
WEEK_SECONDS: Final = 7 * DAY_SECONDS
PORT_MAX: Final = 65_535
NUMBER_MAX: Final = 10**9
"""More than anybody means, and little enough for everything that reckons with it."""


PRINCIPAL_PATTERN: Final = re.compile(r"[A-Za-z0-9._/-]{1,64}")
_ADDRESS_PATTERN: Final = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[^][:\s]*):([0-9]{1,5})")


class Form(NamedTuple):
    """What a text must be, each of a list of them, in words and as a test. Whether it may be empty is the form's to say."""

    words: str
    fits: Callable[[str], bool]


def _is_address(text: str) -> bool:
    found = _ADDRESS_PATTERN.fullmatch(text)
    return found is not None and int(found[1]) <= PORT_MAX


PRINCIPAL: Final = Form(
    "1 to 64 of letters, digits, '.', '_', '/' and '-'", lambda text: not text or PRINCIPAL_PATTERN.fullmatch(text) is not None
)
ADDRESS: Final = Form("host:port, like 127.0.0.1:8080", _is_address)
ADDRESS_OR_NONE: Final = Form("host:port, like ledger-1.example:8080", lambda text: not text or _is_address(text))
LOG_LEVEL: Final = Form("debug, info, warning or error", lambda text: text.lower() in ("debug", "info", "warning", "error"))


def setting(default: Any, meaning: str, *, least: int = 1, most: int = NUMBER_MAX, zero: str = "", form: Form | None = None) -> Any:
    """Make the field of a setting.

    A number has a least and a most. `zero` says what a 0 means where it is not just a small number, and lets it be. A text, and each of a
    list of texts, may have a form.
    """
    bounds = {"least": 0 if zero else least, "most": most, "zero": zero} if type(default) is int else {}
    return dataclasses.field(default=default, metadata={"meaning": meaning, "form": form} | bounds)


def meaning_of(field: dataclasses.Field[Any]) -> str:
    """Return what a setting means, with the numbers it may have.

    Example: "port on loopback for Prometheus; 0 to 65535, 0: none".
    """
    meaning: str = field.metadata["meaning"]
    if "least" not in field.metadata:
        return meaning
    zero = field.metadata["zero"]
    return f"{meaning}; {_range(field)}{f', 0: {zero}' if zero else ''}"


def expected_of(field: dataclasses.Field[Any], value: Any) -> str:
    """Return what the setting must be where a value of its type is not that, and nothing where it is.

    Example: "a whole number, 1 to 256".
    """
    if "least" in field.metadata:
        fits = type(value) is int and field.metadata["least"] <= value <= field.metadata["most"]
        return "" if fits else f"a whole number, {_range(field)}"
    form: Form | None = field.metadata["form"]
    texts = value if isinstance(value, tuple) else (value,)
    return "" if form is None or all(form.fits(text) for text in texts) else form.words


def _range(field: dataclasses.Field[Any]) -> str:
    return f"{field.metadata['least']} to {field.metadata['most']}"
