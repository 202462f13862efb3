"""Sums of products in the exact readings, against models in whole numbers, and what the fast readings keep of them."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanproof.numerics import get
from nanproof.numerics.rounding import nearest_away, nearest_away_double
from tests.numerics.models import engine_dot, fused_dot, parts, to_half
from tests.numerics.running import Half, halves_from_bits, run

examples = settings(max_examples=300, deadline=None, derandomize=True)

patterns = st.one_of(
    st.integers(0, 0xFFFF),
    st.sampled_from([0x3C00, 0xBC00, 0x7400, 0xF400, 0x7BFF, 0x0001, 0x03FF, 0x8400, 0x7C00, 0xFE00]),
    # Numbers near 2**-8, whose products are at the edge of the alignment rule.
    st.builds(lambda exponent, fraction: exponent << 10 | fraction, st.integers(5, 9), st.integers(0, 1023)),
)
finite = patterns.filter(lambda b: b >> 10 & 31 != 31)


def terms(one: st.SearchStrategy[int]) -> st.SearchStrategy[list[tuple[int, int]]]:
    return st.lists(st.tuples(one, one), min_size=1, max_size=6)


def quieted(bits: int) -> int:
    """Signalling NaNs reach the unit as quiet ones."""
    return bits | 0x200 if bits >> 10 & 31 == 31 and bits & 1023 else bits


def dot(unit: str, pairs: list[tuple[int, int]], bias: int) -> float:
    x, w = (halves_from_bits(list(side)).astype(np.float32) for side in zip(*pairs, strict=True))
    offset = halves_from_bits([bias]).astype(np.float32)
    half = get(unit, exact=True).half
    return half.linear(torch.from_numpy(x), torch.from_numpy(w).reshape(1, -1), torch.from_numpy(offset)).item()


@examples
@given(terms(patterns), patterns)
@example([(0x7400, 0x3C00), (0xF400, 0x3C00)], 0xF800)
@example([(0x77FF, 0x3C00), (0x4800, 0x3C00)], 0)  # 32760, which rounds to 32768
@example([(0x7000, 0x3C01)], 0)  # beyond 8192, where products are whole
def test_the_engine_is_the_fixed_point_model(pairs: list[tuple[int, int]], bias: int) -> None:
    x, w = ([quieted(b) for b in side] for side in zip(*pairs, strict=True))
    assert dot("ane", pairs, bias) == engine_dot(x, w, quieted(bias))


@examples
@given(terms(finite), finite)
def test_the_cpu_is_the_fused_chain(pairs: list[tuple[int, int]], bias: int) -> None:
    x, w = ([parts(b)[2] for b in side] for side in zip(*pairs, strict=True))
    assert dot("cpu", pairs, bias) == fused_dot(x, w, parts(bias)[2])


def test_the_multiplier_rounds_every_product_as_the_model() -> None:
    """Products at and around ties of 2**-16, of all sizes up to the limit."""
    generator = np.random.default_rng(0)
    x, w = (generator.integers(0, 0x7800, 4000).astype(np.uint16) for _ in range(2))
    signs = generator.integers(0, 2, 4000).astype(np.uint16) << 15
    ours = get("ane", exact=True).half.matmul(*_rows_and_columns(x | signs, w))
    expected = [engine_dot([int(a)], [int(b)], 0) for a, b in zip(x | signs, w, strict=True)]
    np.testing.assert_array_equal(ours.reshape(-1).numpy(), expected)


def _rows_and_columns(x: np.ndarray, w: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    left, right = (torch.from_numpy(v.view(Half).astype(np.float32)) for v in (x, w))
    return left.reshape(-1, 1, 1), right.reshape(-1, 1, 1)


@pytest.mark.parametrize("unit", ["ane", "cpu"])
def test_conv_linear_and_matmul_take_products_in_one_order(unit: str) -> None:
    """Channel by channel, within a channel place by place, the bias first."""
    generator = np.random.default_rng(1)
    x, w = (generator.normal(0, 30, shape).astype(Half) for shape in ((1, 4, 3, 3), (6, 2, 2, 2)))
    bias = generator.normal(0, 30, 6).astype(Half)
    conv = run("conv", unit, exact=True, x=x, weight=w, bias=bias, groups=np.int32(2))
    for c, i, j in product(range(6), range(2), range(2)):
        window = x[0, 2 * (c // 3) : 2 * (c // 3) + 2, i : i + 2, j : j + 2].reshape(1, -1)
        linear = run("linear", unit, exact=True, x=window, weight=w[c : c + 1].reshape(1, -1), bias=bias[c : c + 1])
        assert conv[0, c, i, j] == linear[0, 0]
    rows = generator.normal(0, 30, (3, 5)).astype(Half)
    plain = run("matmul", unit, exact=True, x=rows, y=rows.T.copy())
    np.testing.assert_array_equal(plain, run("linear", unit, exact=True, x=rows, weight=rows))


@examples
@given(st.floats(-70000, 70000, width=32) | st.floats(-(2.0**-13), 2.0**-13, width=32))
@example(65520.0)
@example(-(2.0**-25))
@example(np.nextafter(np.float32(2049), np.float32(0)).item())
def test_results_are_rounded_away_from_zero(x: float) -> None:
    expected = to_half(Fraction(x), away=True)
    assert nearest_away(torch.tensor([x])).item() == expected
    assert nearest_away_double(torch.tensor([x], dtype=torch.float64)).item() == expected


# ---------------------------------------------------------------------------------------------------------------------
# M1


def ones(*first: float, count: int) -> np.ndarray:
    return np.array([[*first, *[1.0] * count]], Half)


@pytest.mark.parametrize("exact", [False, True])
def test_m1_rounds_to_even_and_m4_away(exact: bool) -> None:
    x = np.array([[2048.0, 1.0]], Half)
    weight = np.ones((1, 2), Half)
    assert run("linear", "ane_m1", exact=exact, x=x, weight=weight).item() == 2048  # A8
    assert run("linear", "ane", exact=exact, x=x, weight=weight).item() == 2050


def test_m1_loses_ones_beside_4096() -> None:
    x = ones(4096, count=1024)
    weight = np.ones((1, 1025), Half)
    assert run("linear", "ane_m1", exact=True, x=x, weight=weight).item() == 5116  # A10
    assert run("linear", "ane", exact=True, x=x, weight=weight).item() == 5120  # A9


def survivors(large: float) -> int:
    """In how many of 16 places 1 survives before a number that is cancelled (their order is a guess)."""
    count = 0
    for place in range(16):
        x = np.zeros((1, 20), Half)
        x[0, place : place + 3] = (1, large, -large)
        count += run("linear", "ane_m1", exact=True, x=x, weight=np.ones((1, 20), Half)).item() == 1
    return count


def test_m1_cancellations_survive_below_4096_only() -> None:
    assert survivors(2048) == 16  # A10
    assert survivors(8192) == 4


@pytest.mark.parametrize("exact", [False, True])
def test_m1_has_its_limit_for_two_products_and_more(exact: bool) -> None:
    single, weight = np.array([[[[60000.0]]]], Half), np.ones((1, 1, 1, 1), Half)
    assert run("conv", "ane_m1", exact=exact, x=single, weight=weight).item() == 60000  # A5
    assert run("conv", "ane", exact=exact, x=single, weight=weight).item() == math.inf
    two = np.array([[20000.0, 20000.0]], Half)
    assert run("linear", "ane_m1", exact=exact, x=two, weight=np.ones((1, 2), Half)).item() == math.inf


def test_m1_flushes_subnormals_before_it_multiplies() -> None:
    x, weight = np.array([[2.0**-15]], Half), np.array([[256.0]], Half)
    assert run("linear", "ane_m1", exact=True, x=x, weight=weight).item() == 0  # A11
    assert run("linear", "ane", exact=True, x=x, weight=weight).item() == 2.0**-7
    assert run("add", "ane_m1", exact=True, x=x, y=x).item() == 2.0**-14  # elementwise it keeps them


# ---------------------------------------------------------------------------------------------------------------------
# Fast against exact


def test_fast_and_exact_agree_on_usual_data() -> None:
    """Within the roundings of the products, each half of 2**-16, and of the result."""
    generator = np.random.default_rng(2)
    x, weight = generator.normal(size=(16, 256)).astype(Half), generator.normal(0, 0.06, (32, 256)).astype(Half)
    bias = generator.normal(size=32).astype(Half)
    fast, exact = (run("linear", "ane", exact=e, x=x, weight=weight, bias=bias) for e in (False, True))
    wide = x.astype(np.float64) @ weight.T.astype(np.float64) + bias
    for ours in (fast, exact):
        assert (np.abs(ours - wide) <= 257 * 2.0**-17 + np.abs(wide) * 2.0**-11).all()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ((16384.0, 16384.0), math.inf),
        ((16384.0, 16376.0), 32768.0),
        ((-16384.0, -16384.0), -math.inf),
        ((2.0**-18, 2.0**-19), 0.0),
        ((2.0**-16, 2.0**-18), 2.0**-16),
    ],
)
def test_both_readings_have_the_limit_and_the_resolution(x: tuple[float, float], expected: float, exact: bool) -> None:
    weight = np.ones((1, 2), Half)
    assert run("linear", "ane", exact=exact, x=np.array([x], Half), weight=weight).item() == expected


@pytest.mark.parametrize("unit", ["ane", "ane_m1"])
@pytest.mark.parametrize("exact", [False, True])
def test_a_sum_of_infinities_is_a_number(unit: str, exact: bool) -> None:
    """Inf is 2**16 to the multiplier (A12), so inf - inf and 0 * inf are 0 (A13)."""
    x, weight = np.array([[np.inf, np.inf]], Half), np.array([[0.125, -0.125], [0, 0]], Half)
    np.testing.assert_array_equal(run("linear", unit, exact=exact, x=x, weight=weight), [[0, 0]])


def test_the_same_bytes_on_every_run() -> None:
    generator = np.random.default_rng(3)
    x, weight = generator.normal(size=(9, 64)).astype(Half), generator.normal(size=(7, 64)).astype(Half)
    for unit, exact in product(("strict", "cpu", "ane", "ane_m1", "ane_pessimistic"), (False, True)):
        runs = [run("linear", unit, exact=exact, x=x, weight=weight).tobytes() for _ in range(2)]
        assert runs[0] == runs[1]
