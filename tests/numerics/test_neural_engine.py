"""The Neural Engine besides its multiplier and its tables, against published measurements."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nanproof.numerics import get
from nanproof.program import DType
from tests.laws.calls import Call, arrays_of, calls
from tests.numerics.running import Half, run

UNITS = ["ane", "ane_m1"]
INF, NAN = math.inf, math.nan


def half(*values: float) -> np.ndarray:
    return np.array(values, Half)


@pytest.mark.parametrize("unit", UNITS)
def test_elementwise_ops_have_the_full_range(unit: str) -> None:
    assert run("add", unit, x=half(40000), y=half(1)).item() == 40000  # E1
    assert run("mul", unit, x=half(256), y=half(256)).item() == INF
    assert run("add", unit, x=half(65504), y=half(16)).item() == INF  # E2: never clamped
    assert run("mul", unit, x=half(2.0**-12), y=half(2.0**-12)).item() == 2.0**-24


def test_elementwise_ops_round_ties_away_from_zero() -> None:
    x, y = half(2048, -2048, 1), half(1, -1, 2.0**-11)
    np.testing.assert_array_equal(run("add", "ane", x=x, y=y), half(2050, -2050, 1 + 2.0**-10))
    np.testing.assert_array_equal(run("add", "ane_m1", x=x, y=y), half(2048, -2048, 1))
    np.testing.assert_array_equal(run("sub", "ane", x=x, y=-y), half(2050, -2050, 1 + 2.0**-10))
    product = run("mul", "ane", x=half(1 + 2.0**-10), y=half(1.5))
    assert product.item() == 1.5 + 2.0**-9  # 1.5 + 1.5 * 2**-10 is a tie


@pytest.mark.parametrize("unit", UNITS)
def test_no_op_gives_nan(unit: str) -> None:
    np.testing.assert_array_equal(run("add", unit, x=half(NAN, INF, -INF), y=half(1, -INF, 1)), half(INF, 0, -INF))
    np.testing.assert_array_equal(run("mul", unit, x=half(0, NAN), y=half(INF, 0)), half(0, INF))  # A13
    np.testing.assert_array_equal(run("real_div", unit, x=half(0, 1), y=half(0, 0)), half(0, INF))
    norm = run("layer_norm", unit, x=half(INF, 1, 2, 3).reshape(1, 4), axes=np.array([1], np.int32))
    assert not np.isnan(norm).any()


@pytest.mark.parametrize("call", calls(half=True), ids=str)
@pytest.mark.parametrize("unit", UNITS)
def test_no_op_of_the_table_gives_nan(unit: str, call: Call) -> None:
    """On all samples of all ops: but for ops that run elsewhere, and NaN that an op was given and hands on."""
    if call.record.name in get(unit).elsewhere:
        return
    given = any(np.isnan(a).any() for v in call.inputs.values() for a in arrays_of(v) if a.dtype.kind == "f")
    for result in call.run(get(unit)):
        if isinstance(result, np.ndarray) and result.dtype.kind == "f":
            assert not np.isnan(result).any() or (given and call.record.picks)


@pytest.mark.parametrize("unit", UNITS)
def test_negative_zero_is_zero(unit: str) -> None:
    result = run("mul", unit, x=half(-0.0, -1, -(2.0**-24)), y=half(1, 0, 2.0**-10))
    assert not np.signbit(result).any()  # A15


@pytest.mark.parametrize("unit", UNITS)
def test_softmax_reads_infinities_as_numbers(unit: str) -> None:
    x = half(1000, 1, 2, 3).reshape(1, 4)
    np.testing.assert_array_equal(run("softmax", unit, x=x), half(1, 0, 0, 0).reshape(1, 4))  # E8
    x = half(NAN, 1, 2, 3).reshape(1, 4)
    np.testing.assert_array_equal(run("softmax", unit, x=x), half(1, 0, 0, 0).reshape(1, 4))
    masked = np.array([[-INF, -INF], [-INF, 0]], Half)
    np.testing.assert_array_equal(run("softmax", unit, x=masked), [[0.5, 0.5], [0, 1]])  # E10, an inference
    assert np.isnan(run("softmax", "gpu", x=masked)[0]).all()


@pytest.mark.parametrize("unit", UNITS)
def test_attention_with_a_masked_row_is_finite(unit: str) -> None:
    query = np.ones((1, 2, 4), Half)
    mask = np.array([[[-INF, -INF], [0, -INF]]], Half)
    inputs = {"query": query, "key": query, "value": query, "attn_mask": mask}
    np.testing.assert_array_equal(run("scaled_dot_product_attention", unit, **inputs), query)
    assert np.isnan(run("scaled_dot_product_attention", "cpu", **inputs)[0, 0]).all()


def test_a_sum_has_the_range_of_fp16_and_a_mean_does_not_leave_it() -> None:
    axes = np.array([1], np.int32)
    for unit in UNITS:
        assert run("reduce_sum", unit, x=np.full((1, 2), 20000, Half), axes=axes).item() == 40000  # E3, A5
        assert run("reduce_sum", unit, x=np.full((1, 4), 20000, Half), axes=axes).item() == INF
        assert run("reduce_mean", unit, x=np.full((1, 4), 20000, Half), axes=axes).item() == 20000


def test_sources_differ_on_the_width_of_sums_and_both_can_be_asked_for() -> None:
    axes, many = np.array([1], np.int32), np.ones((1, 3000), Half)
    assert run("reduce_sum", "ane", x=many, axes=axes).item() == 3000  # wide
    # Narrow (E4): beyond 2048 each sum is a tie, and goes up by 2.
    assert run("reduce_sum", "ane_pessimistic", x=many, axes=axes).item() == 2048 + 2 * 952
    assert run("reduce_mean", "ane_pessimistic", x=np.full((1, 4), 20000, Half), axes=axes).item() == INF


def test_norms_overflow_inside_in_the_worse_reading_only() -> None:
    x, axes = np.array([[300.0, -300.0, 0.0, 0.0]], Half), np.array([1], np.int32)  # squares beyond 65504
    good = run("layer_norm", "ane", x=x, axes=axes)
    np.testing.assert_allclose(good, [[math.sqrt(2), -math.sqrt(2), 0, 0]], rtol=1e-3)
    np.testing.assert_array_equal(run("layer_norm", "ane_pessimistic", x=x, axes=axes), np.zeros((1, 4)))  # E11


@pytest.mark.parametrize("exact", [False, True])
def test_the_worse_reading_overflows_if_any_order_does(exact: bool) -> None:
    x = half(16384, -16384, 16384, -16384, 1).reshape(1, 5)
    weight = np.ones((1, 5), Half)
    assert run("linear", "ane", exact=exact, x=x, weight=weight).item() == 1
    assert run("linear", "ane_pessimistic", exact=exact, x=x, weight=weight).item() == INF
    bias = half(-32752)  # A7: counts from the start, and keeps the sum low
    assert run("linear", "ane_pessimistic", exact=exact, x=np.abs(x[:, :2]), weight=weight[:, :2], bias=bias) == 16


@pytest.mark.parametrize("unit", [*UNITS, "ane_pessimistic", "cpu", "gpu", "strict"])
def test_fp32_ops_are_ieee_float32_everywhere(unit: str) -> None:
    x = np.array([40000.0, INF, 3.0], np.float32)
    y = np.array([40000.0, -INF, 0.1], np.float32)
    np.testing.assert_array_equal(run("add", unit, DType.FP32, x=x, y=y), np.array([80000, NAN, 3.1], np.float32))
    total = run("matmul", unit, DType.FP32, x=np.full((1, 4), 2e4, np.float32), y=np.ones((4, 1), np.float32))
    assert total.item() == 80000  # P1, T1
    tanh = run("tanh", unit, DType.FP32, x=np.array([0.3], np.float32))
    assert tanh.item() == pytest.approx(math.tanh(0.3), rel=1e-6)


@pytest.mark.parametrize("unit", UNITS)
def test_ops_that_the_engine_does_not_run_are_ieee(unit: str) -> None:
    """P3: left to the CPU. An infinity that leaves the engine becomes NaN there."""
    assert np.isnan(run("sinh", unit, x=half(NAN))).all()
    assert run("cumsum", unit, x=half(INF, -INF))[0] == INF
    assert np.isnan(run("cumsum", unit, x=half(INF, -INF))[1])
    cast = run("cast", unit, x=np.array([2049.0, NAN], np.float32), dtype="fp16")
    np.testing.assert_array_equal(cast, half(2048, NAN))


def test_slices_inside_the_last_axis_lose_large_numbers_on_an_m1() -> None:
    x = half(1, 4094, 4096, -5000).reshape(1, 4)
    inside = {"begin": np.array([0, 1], np.int32), "end": np.array([1, 4], np.int32)}
    start = {"begin": np.array([0, 0], np.int32), "end": np.array([1, 4], np.int32)}
    np.testing.assert_array_equal(run("slice_by_index", "ane_m1", x=x, **inside), half(4094, INF, -INF).reshape(1, 3))
    np.testing.assert_array_equal(run("slice_by_index", "ane_m1", x=x, **start), x)  # D1
    np.testing.assert_array_equal(run("slice_by_index", "ane", x=x, **inside), x[:, 1:])
    size = {"begin": np.array([0, 2], np.int32), "size": np.array([1, 2], np.int32)}
    np.testing.assert_array_equal(run("slice_by_size", "ane_m1", x=x, **size), half(INF, -INF).reshape(1, 2))
