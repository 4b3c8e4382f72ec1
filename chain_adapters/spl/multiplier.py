"""The multiplier as Token-2022 keeps it: a binary64, converted from and to integers without ever computing in floats.

The ledger's multiplier is an integer at scale 1e18 and binds; the chain's is the nearest binary64, a copy. Here a binary64 is always its
64 bits as an integer: two copies agree when their bits do.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from chain_adapters.spl.errors import MultiplierNotRepresentable

SCALE: Final = 10**18
_FRACTION_BITS: Final = 52
_BIAS: Final = 1023
_EXPONENTS: Final = range(1, 2047)  # 0 is zero and the subnormals, 2047 infinity and NaN
_IMPLICIT: Final = 1 << _FRACTION_BITS


def encode_multiplier(multiplier: int) -> int:
    """Return the bits of the binary64 nearest to multiplier / 1e18, ties to even.

    Args:
        multiplier: At scale 1e18: 1.0 is 10**18.

    Example: 1/40 is 0x3F9999999999999A, which stands for 0.02500000000000000138...

    Raises: MultiplierNotRepresentable for zero and below; Token-2022 refuses these, and values beyond binary64.

    Source: IEEE 754-2019, 4.3.1 roundTiesToEven; Token-2022 `try_validate_multiplier`: positive and normal.
    """
    if multiplier <= 0:
        raise MultiplierNotRepresentable(f"the multiplier {multiplier} / 1e18 is not above zero")
    exponent = multiplier.bit_length() - SCALE.bit_length() - _FRACTION_BITS
    significand, rest, divisor = _divide(multiplier, exponent)
    while significand < _IMPLICIT:
        exponent -= 1
        significand, rest, divisor = _divide(multiplier, exponent)
    while significand >= 2 * _IMPLICIT:
        exponent += 1
        significand, rest, divisor = _divide(multiplier, exponent)
    if 2 * rest > divisor or (2 * rest == divisor and significand % 2 == 1):
        significand += 1
        if significand == 2 * _IMPLICIT:
            significand, exponent = _IMPLICIT, exponent + 1
    biased = exponent + _FRACTION_BITS + _BIAS
    if biased not in _EXPONENTS:
        raise MultiplierNotRepresentable(f"the multiplier {multiplier} / 1e18 is beyond the normal numbers of binary64")
    return (biased << _FRACTION_BITS) | (significand - _IMPLICIT)


def _divide(multiplier: int, exponent: int) -> tuple[int, int, int]:
    """Return quotient, rest and divisor of multiplier / (1e18 x 2^exponent)."""
    dividend = multiplier << -exponent if exponent < 0 else multiplier
    divisor = SCALE if exponent < 0 else SCALE << exponent
    quotient, rest = divmod(dividend, divisor)
    return quotient, rest, divisor


def is_accepted(bits: int) -> bool:
    """Say whether Token-2022 takes this binary64 for a multiplier: positive and normal."""
    return bits >> 63 == 0 and (bits >> _FRACTION_BITS) in _EXPONENTS


def exact_value(bits: int) -> Fraction:
    """Return exactly what a binary64 stands for.

    Raises: MultiplierNotRepresentable for everything that Token-2022 refuses.
    """
    if not is_accepted(bits):
        raise MultiplierNotRepresentable(f"binary64 0x{bits:016X} is no positive normal number")
    significand = _IMPLICIT | (bits & (_IMPLICIT - 1))
    exponent = (bits >> _FRACTION_BITS) - _BIAS - _FRACTION_BITS
    return Fraction(significand * 2**exponent) if exponent >= 0 else Fraction(significand, 2**-exponent)


def multiplier_floor(bits: int) -> int:
    """Return the multiplier at scale 1e18 that a binary64 stands for, rounded down. Example: 1/40 comes back as 25000000000000001."""
    value = exact_value(bits)
    return value.numerator * SCALE // value.denominator


def deviation(multiplier: int, bits: int) -> Fraction:
    """Return what the chain's copy is too large by, relative to the ledger's multiplier; below zero if it is too small.

    The nearest binary64 deviates by at most 2^-53, about 1.1e-16: one unit of 8 decimals in 90 million shares.
    """
    return (exact_value(bits) - Fraction(multiplier, SCALE)) / Fraction(multiplier, SCALE)


@dataclass(frozen=True, slots=True)
class ScaledUiAmount:
    """The multiplier of a mint: the value now and the one slot for the next.

    `current` and `next` are bits of a binary64, `next_effective_time` seconds since 1970. Nothing happens on chain at that time: `current`
    stays as it was, and readers take `next`.
    """

    current: int
    next_effective_time: int
    next: int

    def at(self, time: int) -> int:
        """Return the bits in force at a time, in seconds since 1970."""
        return self.next if time >= self.next_effective_time else self.current

    def updated(self, bits: int, effective_time: int, now: int) -> ScaledUiAmount:
        """Return what UpdateMultiplier makes of it at chain time `now`: the pending value is replaced, not queued behind.

        Source: token-2022 program, `process_update_multiplier`.
        """
        current = bits if now >= effective_time else self.at(now)
        return ScaledUiAmount(current, max(effective_time, 0), bits)
