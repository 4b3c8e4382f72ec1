"""One setting as a dataclass field: its default, what it means, and what it must be. What is said of it is said here alone."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

DAY_SECONDS: Final = 86_400
WEEK_SECONDS: Final = 7 * DAY_SECONDS
PORT_MAX: Final = 65_535
NUMBER_MAX: Final = 10**9
"""More than anybody means, and little enough for everything that reckons with it."""


def setting(default: Any, meaning: str, *, least: int = 1, most: int = NUMBER_MAX, zero: str = "") -> Any:
    """Make the field of a setting.

    A number has a least and a most. `zero` says what a 0 means where it is not just a small number, and lets it be.
    """
    bounds = {"least": 0 if zero else least, "most": most, "zero": zero} if type(default) is int else {}
    return dataclasses.field(default=default, metadata={"meaning": meaning} | bounds)


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
    return ""


def _range(field: dataclasses.Field[Any]) -> str:
    return f"{field.metadata['least']} to {field.metadata['most']}"
