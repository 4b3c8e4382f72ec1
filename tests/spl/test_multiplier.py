"""The multiplier as binary64: integers alone, and to the bit what IEEE 754 says."""

from __future__ import annotations

import struct
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain_adapters.spl.errors import MultiplierNotRepresentable
from chain_adapters.spl.multiplier import SCALE, ScaledUiAmount, deviation, encode_multiplier, exact_value, is_accepted, multiplier_floor

MULTIPLIERS = st.integers(1, (1 << 128) - 1)
EVERY_PATTERN = st.integers(0, (1 << 64) - 1)


def bits_of(number: float) -> int:
    return struct.unpack("<Q", struct.pack("<d", number))[0]


def number_of(bits: int) -> float:
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


@pytest.mark.parametrize(
    ("multiplier", "bits"),
    [
        (SCALE, 0x3FF0000000000000),
        (3 * SCALE, 0x4008000000000000),
        (SCALE // 40, 0x3F9999999999999A),
        (SCALE // 3, 0x3FD5555555555555),
        (1, 0x3C32725DD1D243AC),  # 1e-18
        ((1 << 128) - 1, 0x4432725DD1D243AC),
    ],
)
def test_known_multipliers(multiplier, bits):
    assert encode_multiplier(multiplier) == bits == bits_of(multiplier / SCALE)


@given(MULTIPLIERS)
def test_the_encoding_is_the_nearest_with_ties_to_even(multiplier):
    assert encode_multiplier(multiplier) == bits_of(multiplier / SCALE)  # Python divides integers with one rounding


@given(st.integers(1 << 52, (1 << 53) - 1), st.integers(-40, 40))
def test_ties_go_to_the_even_significand(significand, shift):
    half_way = Fraction(2 * significand + 1) * Fraction(2) ** (shift - 60) * SCALE
    if half_way.denominator == 1:
        assert number_of(encode_multiplier(half_way.numerator)) == half_way.numerator / SCALE


@given(EVERY_PATTERN)
def test_what_is_accepted_is_positive_and_normal(bits):
    number = number_of(bits)
    normal = 2.2250738585072014e-308 <= number < float("inf")
    assert is_accepted(bits) is normal
    if normal:
        assert exact_value(bits) == Fraction(number)
    else:
        with pytest.raises(MultiplierNotRepresentable):
            exact_value(bits)


@given(MULTIPLIERS)
def test_the_deviation_is_at_most_half_a_step(multiplier):
    bits = encode_multiplier(multiplier)
    assert abs(deviation(multiplier, bits)) <= Fraction(1, 1 << 53)
    for neighbour in (bits - 1, bits + 1):
        assert abs(deviation(multiplier, neighbour)) >= abs(deviation(multiplier, bits))


@pytest.mark.parametrize(("multiplier", "read"), [(SCALE, SCALE), (SCALE // 40, 25000000000000001), (SCALE // 3, 333333333333333314)])
def test_what_is_read_back_is_not_what_was_written(multiplier, read):
    assert multiplier_floor(encode_multiplier(multiplier)) == read


@pytest.mark.parametrize("multiplier", [0, -1, -SCALE, 1 << 1100])
def test_what_token_2022_would_refuse_is_refused(multiplier):
    with pytest.raises(MultiplierNotRepresentable):
        encode_multiplier(multiplier)


ONE, TWO, THREE = (encode_multiplier(number * SCALE) for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("before", "bits", "effective_time", "now", "after"),
    [
        (ScaledUiAmount(ONE, 0, ONE), TWO, 100, 99, ScaledUiAmount(ONE, 100, TWO)),  # announced
        (ScaledUiAmount(ONE, 0, ONE), TWO, 100, 100, ScaledUiAmount(TWO, 100, TWO)),  # at once
        (ScaledUiAmount(ONE, 100, TWO), THREE, 90, 80, ScaledUiAmount(ONE, 90, THREE)),  # replaced before it took effect
        (ScaledUiAmount(ONE, 100, TWO), THREE, 200, 100, ScaledUiAmount(TWO, 200, THREE)),  # after it took effect
        (ScaledUiAmount(ONE, 100, TWO), ONE, 0, 80, ScaledUiAmount(ONE, 0, ONE)),  # called off
        (ScaledUiAmount(ONE, 0, ONE), TWO, -5, 80, ScaledUiAmount(TWO, 0, TWO)),
    ],
)
def test_an_update_makes_of_the_slots_what_the_program_makes(before, bits, effective_time, now, after):
    assert before.updated(bits, effective_time, now) == after


def test_the_next_multiplier_is_in_force_from_its_second_on():
    scaled = ScaledUiAmount(ONE, 100, TWO)
    assert [scaled.at(99), scaled.at(100), scaled.at(101)] == [ONE, TWO, TWO]
