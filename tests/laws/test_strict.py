"""Ops of several steps under ``strict``: each step of the formula in binary16, by NumPy's own binary16 arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from nanproof.numerics import get
from nanproof.numerics.arithmetic import SingleInside
from nanproof.numerics.half import HalfInside
from nanproof.ops import TABLE
from tests.laws.calls import Call

Half = np.float16
STRICT = get("strict", exact=True)


def strict(name: str, **inputs: Any) -> np.ndarray:
    (result,) = Call(TABLE[name], 0, inputs, half=True).run(STRICT)
    assert result.dtype == Half
    return result


def halves(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(Half)


def folded(step: Callable[[Half, Half], Half], start: Half, row: np.ndarray) -> np.ndarray:
    """Running results of a binary16 accumulator."""
    results = []
    for element in row:
        start = step(start, element)
        results.append(start)
    return np.array(results, Half)


def total(row: np.ndarray) -> Half:
    return folded(np.add, Half(0), row)[-1]


def rounded(function: Callable[[Any], Any], x: np.ndarray) -> np.ndarray:
    """A function evaluated in float64 and rounded once."""
    return np.asarray(function(x.astype(np.float64))).astype(Half)


def test_reductions_accumulate_in_binary16() -> None:
    x = halves(5, 300, scale=4.0)
    axes = np.array([1], np.int32)
    squares = x * x
    np.testing.assert_array_equal(strict("reduce_sum", x=x, axes=axes), [total(r) for r in x])
    np.testing.assert_array_equal(strict("reduce_mean", x=x, axes=axes), [total(r) / Half(300) for r in x])
    np.testing.assert_array_equal(strict("reduce_l1_norm", x=x, axes=axes), [total(np.abs(r)) for r in x])
    np.testing.assert_array_equal(strict("reduce_sum_square", x=x, axes=axes), [total(r) for r in squares])
    np.testing.assert_array_equal(strict("reduce_l2_norm", x=x, axes=axes), [np.sqrt(total(r)) for r in squares])


def test_products_accumulate_in_binary16() -> None:
    x = 1 + halves(4, 20, scale=0.2)
    expected = [folded(np.multiply, Half(1), r)[-1] for r in x]
    np.testing.assert_array_equal(strict("reduce_prod", x=x, axes=np.array([1], np.int32)), expected)


def test_running_sums_accumulate_in_binary16() -> None:
    x = halves(3, 200, scale=8.0)
    expected = np.stack([folded(np.add, Half(0), r) for r in x])
    np.testing.assert_array_equal(strict("cumsum", x=x, axis=np.int32(1)), expected)


def test_a_sum_of_ones_stalls_at_2048() -> None:
    assert strict("reduce_sum", x=np.ones(4096, Half)) == 2048
    assert strict("cumsum", x=np.ones(4096, Half))[-1] == 2048


def test_a_mean_overflows_in_its_sum() -> None:
    assert strict("reduce_mean", x=np.full(4, 30000, Half)) == np.inf


def test_softmax_rounds_every_step() -> None:
    x = halves(6, 40, scale=5.0)
    powers = rounded(np.exp, x - x.max(1, keepdims=True))
    expected = powers / np.array([total(r) for r in powers])[:, None]
    np.testing.assert_array_equal(strict("softmax", x=x), expected)


def test_log_sum_exp_rounds_every_step() -> None:
    x = halves(6, 40, scale=5.0)
    largest = x.max(1)
    sums = np.array([total(rounded(np.exp, r - m)) for r, m in zip(x, largest, strict=True)])
    expected = rounded(np.log, sums) + largest
    np.testing.assert_array_equal(strict("reduce_log_sum_exp", x=x, axes=np.array([1], np.int32)), expected)


@pytest.mark.parametrize("numerics", ["reference", "gpu", "strict", "cpu", STRICT, get("cpu", exact=True)], ids=str)
@pytest.mark.parametrize("name", ["softmax", "reduce_log_sum_exp"])
def test_a_fully_masked_row_is_nan(name: str, numerics: str) -> None:
    inputs = {"x": np.array([[-np.inf] * 3, [-np.inf, 0, 1]], Half)}
    if name != "softmax":
        inputs["axes"] = np.array([1], np.int32)
    (result,) = Call(TABLE[name], 0, inputs, half=True).run(numerics)
    assert np.isnan(result[0]).all()
    assert np.isfinite(result[1]).all()


def test_epsilon_is_added_in_binary16() -> None:
    # 1e-4 is lost beside 1 (ulp 2**-10), and float32 1e-12 beside 0 (iOS17 allows that dtype).
    x = np.array([1.0, 0.0, 2048.0], Half)
    with np.errstate(divide="ignore"):
        np.testing.assert_array_equal(strict("inverse", x=x, epsilon=Half(1e-4)), 1 / (x + Half(1e-4)))
        np.testing.assert_array_equal(strict("rsqrt", x=x, epsilon=np.float32(1e-12)), rounded(lambda v: v**-0.5, x))
        np.testing.assert_array_equal(strict("log", x=x, epsilon=Half(1e-45)), rounded(np.log, x))


def test_linear_activation_rounds_its_product() -> None:
    x, alpha, beta = halves(500, scale=9.0), Half(1.1), Half(-7.3)
    np.testing.assert_array_equal(strict("linear_activation", x=x, alpha=alpha, beta=beta), alpha * x + beta)


def test_softplus_does_not_overflow_inside() -> None:
    x = np.array([11.1, 100.0, 65504.0], Half)
    np.testing.assert_array_equal(strict("softplus", x=x), x)


def test_integers_divide_without_trapping() -> None:
    x, y = np.array([-(2**31), 7, -7, 7], np.int32), np.array([-1, 0, 2, -2], np.int32)
    expected = {"floor_div": [-(2**31), 0, -4, -4], "mod": [0, 0, 1, -1], "real_div": [-(2**31), 0, -3, -3]}
    for name, values in expected.items():
        (result,) = Call(TABLE[name], 0, {"x": x, "y": y}).run(STRICT)
        assert result.tolist() == values


def test_integers_take_negative_powers() -> None:
    x, y = np.array([2, 1, -1, -1, 0], np.int32), np.array([-1, -3, -3, -2, -1], np.int32)
    (result,) = Call(TABLE["pow"], 0, {"x": x, "y": y}).run("reference")
    assert result.tolist() == [0, 1, -1, 1, 0]
    (result,) = Call(TABLE["pow"], 0, {"x": x, "y": np.int32(-2)}).run("reference")
    assert result.tolist() == [0, 1, 1, 1, 0]


def test_casts_out_of_range_saturate_and_nan_becomes_zero() -> None:
    x = np.array([3e9, -3e9, np.inf, -np.inf, np.nan, 2147483520.0], np.float32)
    (result,) = Call(TABLE["cast"], 0, {"x": x, "dtype": "int32"}).run("reference")
    assert result.tolist() == [2**31 - 1, -(2**31), 2**31 - 1, -(2**31), 0, 2147483520]


def test_vectors_multiply_as_with_float32_accumulators() -> None:
    """The two arithmetics take operands of the same ranks, and give results of the same shapes."""
    operands = {n: torch.from_numpy(halves(*shape).astype(np.float32)) for n, shape in SHAPES.items()}
    for left, right in (("row", "row"), ("row", "matrix"), ("wide", "row"), ("stack", "row"), ("row", "stack")):
        single, half = (a.matmul(operands[left], operands[right]) for a in (SingleInside(), HalfInside()))
        assert single.shape == half.shape
        torch.testing.assert_close(half, single, rtol=0, atol=0.05)


SHAPES = {"row": (4,), "matrix": (4, 5), "wide": (3, 4), "stack": (2, 4, 4)}


def test_recurrent_steps_round_to_binary16() -> None:
    """One unit, so that each sum has one product: h = tanh(round(round(w x + b) + round(r h)))."""
    x, w, r, b = halves(6, 1, 1, scale=2.0), Half(0.7), Half(-1.3), Half(0.2)
    weights = {"weight_ih": np.array([[w]]), "weight_hh": np.array([[r]]), "bias": np.array([b])}
    call = Call(
        TABLE["rnn"], 0, {"x": x, "initial_h": np.zeros((1, 1), Half), **weights, "output_sequence": True}, True
    )
    rows, last = call.run(STRICT)
    h, expected = Half(0), []
    for value in x.reshape(-1):
        h = rounded(np.tanh, (w * value + b) + r * h)[()]
        expected.append(h)
    np.testing.assert_array_equal(rows.reshape(-1), np.array(expected))
    assert last.reshape(-1)[0] == expected[-1]
