"""Integer arithmetic of the books: every division names its rounding, nothing is ever a float."""

from __future__ import annotations

UNITS_MAX = 1 << 62
"""Supply, and so every single holding, stays at or below 2^62 units: sums of any two fit 63 bits."""

MULTIPLIER_SCALE = 10**18
MULTIPLIER_MAX = (1 << 128) - 1
SHARES_SCALE = 10**8
"""Shares are integers at scale 1e8: 12.5 shares are 1,250,000,000."""


def divide_floor(dividend: int, divisor: int) -> int:
    """Divide two integers, rounding toward minus infinity. Example: `divide_floor(7, 2) == 3`."""
    assert divisor > 0, "a divisor is above zero"
    return dividend // divisor


def divide_ceiling(dividend: int, divisor: int) -> int:
    """Divide two integers, rounding toward plus infinity. Example: `divide_ceiling(7, 2) == 4`."""
    assert divisor > 0, "a divisor is above zero"
    return -(-dividend // divisor)


def shares_e8_of_units_ceiling(units: int, multiplier: int, decimals: int) -> int:
    """Return the underlying shares, at scale 1e8, that units stand for, rounded up (what is owed is never understated).

    shares = units x multiplier / 10^(decimals + 18). Example: 150,000,000 units of 8 decimals at multiplier 1.0 are 1.5 shares:
    `shares_e8_of_units_ceiling(150_000_000, 10**18, 8) == 150_000_000`.
    """
    return divide_ceiling(units * multiplier * SHARES_SCALE, 10 ** (decimals + 18))


def units_of_shares_e8_floor(shares_e8: int, multiplier: int, decimals: int) -> int:
    """Return the units that shares at scale 1e8 buy, rounded down.

    Example: at multiplier 3.0 one share buys 0.33333333 of 8 decimals: `units_of_shares_e8_floor(10**8, 3 * 10**18, 8) == 33_333_333`.
    """
    return divide_floor(shares_e8 * 10 ** (decimals + 18), multiplier * SHARES_SCALE)


def units_of_shares_e8_ceiling(shares_e8: int, multiplier: int, decimals: int) -> int:
    """Return the units that must go for shares at scale 1e8, rounded up."""
    return divide_ceiling(shares_e8 * 10 ** (decimals + 18), multiplier * SHARES_SCALE)
