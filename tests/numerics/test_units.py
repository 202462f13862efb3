"""The table of numerics: names, readings, errors, and what did not change when units were added."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nanproof.errors import NumericsError
from nanproof.numerics import AVAILABLE, get
from nanproof.program import DType
from tests.numerics.running import Half, run


def test_names() -> None:
    assert list(AVAILABLE) == ["reference", "strict", "gpu", "cpu", "ane", "ane_m1", "ane_pessimistic"]
    for name, numerics in AVAILABLE.items():
        assert numerics.name == get(name, exact=True).name == name
        assert (numerics.exact, get(name, exact=True).exact) == (False, True)
        assert get(numerics) is numerics


def test_unknown_names_are_refused() -> None:
    with pytest.raises(NumericsError, match=r"Unknown numerics 'tpu'. Available: reference, strict, gpu, cpu, ane"):
        get("tpu")


def test_a_numerics_is_taken_as_it_is() -> None:
    x = np.full((1, 4096), 1, Half)
    assert run("matmul", get("cpu", exact=True), x=x, y=x.T.copy()).item() == 2048
    assert run("matmul", get("cpu"), x=x, y=x.T.copy()).item() == 4096


def test_fp32_is_single_precision_in_all() -> None:
    for name in AVAILABLE:
        for exact in (False, True):
            numerics = get(name, exact=exact)
            x = np.array([1e30, 2.0**-140], np.float32)
            np.testing.assert_array_equal(run("mul", numerics, DType.FP32, x=x, y=np.ones(2, np.float32)), x)
            single = numerics.arithmetic(DType.FP32)
            assert torch.equal(single.round(torch.from_numpy(x)), torch.from_numpy(x))


DATA = np.random.default_rng(0)
X, WEIGHT = DATA.normal(size=(5, 40)).astype(Half), DATA.normal(size=(3, 40)).astype(Half)
BIAS = DATA.normal(size=3).astype(Half)


@pytest.mark.parametrize("unit", ["reference", "gpu", "cpu", "strict"])
def test_fast_readings_round_once(unit: str) -> None:
    """Against float64, to the last bit of binary16 (of float32, in `reference`)."""
    wide = X.astype(np.float64) @ WEIGHT.T.astype(np.float64) + BIAS
    ours = run("linear", unit, x=X, weight=WEIGHT, bias=BIAS)
    np.testing.assert_array_equal(ours, wide.astype(Half))
    assert run("add", unit, x=np.array([2048.0], Half), y=np.array([1.0], Half)).item() == 2048  # ties to even


def test_exact_strict_adds_the_bias_last() -> None:
    x, weight = np.ones((1, 2), Half), np.array([[2048.0, 1.0]], Half)
    assert run("linear", "strict", exact=True, x=x, weight=weight, bias=np.array([-2048.0], Half)).item() == 0
    assert run("linear", "cpu", exact=True, x=x, weight=weight, bias=np.array([-2048.0], Half)).item() == 1


def test_fast_strict_overflows_step_by_step() -> None:
    """Squares beyond 65504 inside a norm: what float32 inside would hide. Sums alone are float32."""
    x, axes = np.array([[300.0, -300.0, 0.0, 0.0]], Half), np.array([1], np.int32)
    assert (run("layer_norm", "strict", x=x, axes=axes) == 0).all()
    assert (run("layer_norm", "gpu", x=x, axes=axes)[0, :2] != 0).all()
    many = np.full((1, 4), 30000, Half)
    assert run("reduce_sum", "strict", x=many, axes=axes).item() == math.inf
    assert run("reduce_mean", "strict", x=many, axes=axes).item() == 30000
    assert run("reduce_mean", "strict", exact=True, x=many, axes=axes).item() == math.inf


def test_exact_cpu_computes_norms_and_softmax_in_single_precision() -> None:
    x, axes = np.array([[300.0, -300.0, 0.0, 0.0]], Half), np.array([1], np.int32)
    for name, inputs in (("layer_norm", {"x": x, "axes": axes}), ("softmax", {"x": X})):
        np.testing.assert_array_equal(run(name, "cpu", exact=True, **inputs), run(name, "gpu", **inputs))
    assert run("softplus", "cpu", exact=True, x=np.array([20.0], Half)).item() == 20


def test_matmul_takes_operands_of_two_types() -> None:
    integers, floats = np.arange(6, dtype=np.int32).reshape(2, 3), np.full((3, 2), 0.5, np.float32)
    expected = integers.astype(np.float64) @ floats.astype(np.float64)
    np.testing.assert_array_equal(run("matmul", "reference", DType.FP32, x=integers, y=floats), expected)
    np.testing.assert_array_equal(run("matmul", "gpu", DType.FP16, x=integers, y=floats), expected)
