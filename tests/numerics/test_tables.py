"""Functions by table: the largest errors against those that were measured on an M6, and the published oddities.

The measured errors (table 8-7 of the report: against float64, in two digits) are independent evidence for the tables
that are built from domain and step alone. Those of `exp` and `log` are not: how they round inside was chosen among the
variants that come near. Ulps are those of binary16 at the true value.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath as mp
import numpy as np
import pytest

from tests.numerics.running import Half, all_halves, run

Real = Callable[[float], object]


def between(low: float, high: float) -> np.ndarray:
    every = all_halves()
    return every[(every >= low) & (every <= high)]


def truth(function: Real, x: np.ndarray) -> np.ndarray:
    return np.array([float(function(float(v))) for v in x])


def ulps(values: np.ndarray) -> np.ndarray:
    return np.ldexp(1.0, np.maximum(np.frexp(np.abs(values))[1], -13) - 11)


def engine(name: str, x: np.ndarray, unit: str = "ane") -> np.ndarray:
    parameters = {"epsilon": Half(0)} if name in ("log", "rsqrt", "inverse") else {}
    return run(name, unit, x=x, **parameters).astype(np.float64)


def gelu(x: float) -> object:
    return x * mp.erfc(-x / mp.sqrt(2)) / 2


def silu(x: float) -> object:
    return x / (1 + mp.exp(-x))


@pytest.mark.parametrize(
    ("name", "function", "domain", "measured"),
    [
        ("sigmoid", lambda x: 1 / (1 + mp.exp(-x)), (-8, 8), 3.4e-3),
        ("tanh", mp.tanh, (-4, 4), 1.6e-3),
        ("gelu", gelu, (-4, 4), 6.2e-3),
        ("silu", silu, (-8, 8), 1.5e-2),
        ("erf", mp.erf, (-2, 2), 8.6e-4),
        ("sin", mp.sin, (0, math.pi / 2), 6.3e-4),
        ("log", mp.log, (2.0**-14, 65504), 6.6e-3),
    ],
)
def test_largest_errors_are_those_measured(
    name: str, function: Real, domain: tuple[float, float], measured: float
) -> None:
    x = between(*domain)
    error = np.abs(engine(name, x) - truth(function, x)).max()
    assert f"{error:.1e}" == f"{measured:.1e}"


@pytest.mark.parametrize(
    ("name", "function", "domain", "measured"),
    [
        ("exp", mp.exp, (-9.7, 10), 9.1),
        ("sqrt", mp.sqrt, (2.0**-14, 65504), 1.2),
        ("rsqrt", lambda x: 1 / mp.sqrt(x), (2.0**-14, 65504), 2.1),
    ],
)
def test_largest_errors_in_ulps_are_those_measured(
    name: str, function: Real, domain: tuple[float, float], measured: float
) -> None:
    x = between(*domain)
    expected = truth(function, x)
    error = (np.abs(engine(name, x) - expected) / ulps(expected)).max()
    assert f"{error:.1f}" == f"{measured:.1f}"


def test_the_error_of_inverse_is_not_explained_by_its_table() -> None:
    """13.5 ulp were measured. The published grid gives less than 2, as long as epsilon is 0."""
    x = between(2.0**-14, 16000)
    assert (np.abs(engine("inverse", x) * x.astype(np.float64) - 1) < 2 * 2.0**-10).all()


def test_cos_is_the_shifted_sine() -> None:
    x = between(-20, 20)
    assert np.abs(engine("cos", x) - truth(mp.cos, x)).max() < 7e-4
    assert np.abs(engine("sin", x) - truth(mp.sin, x)).max() < 7e-4


def test_functions_saturate_beyond_their_tables() -> None:
    outside = np.array([-9.0, 9.0], Half)  # L2
    np.testing.assert_array_equal(engine("sigmoid", outside), [0, 1])
    np.testing.assert_array_equal(engine("tanh", outside), [-1, 1])
    np.testing.assert_array_equal(engine("gelu", outside), [0, 9])
    np.testing.assert_array_equal(engine("silu", outside), [0, 9])


def test_fitted_knots() -> None:
    assert engine("gelu", np.array([0.25], Half)) == Half(0.1436)  # L2
    assert engine("silu", np.array([0.5], Half)) == Half(0.296)


def test_both_forms_of_gelu_are_one_table() -> None:
    x = between(-5, 5)
    forms = [run("gelu", "ane", x=x, mode=mode) for mode in ("EXACT", "TANH_APPROXIMATION")]
    np.testing.assert_array_equal(*forms)  # L4
    x = np.linspace(-4, 4, 1001).astype(Half)
    forms = [run("gelu", "cpu", x=x, mode=mode) for mode in ("EXACT", "TANH_APPROXIMATION")]
    assert (forms[0] != forms[1]).mean() > 0.2  # 78 % of the points that were measured


def test_silu_is_a_table_of_its_own() -> None:
    x = between(-8, 8)
    product = run("mul", "ane", x=x, y=run("sigmoid", "ane", x=x))
    assert (product == run("silu", "ane", x=x)).mean() < 0.5  # L5: 38 % on an M6


def test_tables_of_an_m1() -> None:
    zero = np.zeros(1, Half)
    assert engine("gelu", zero, "ane_m1") == Half(-5.43e-4)  # L6
    assert engine("silu", zero, "ane_m1") == Half(-1.259e-3)
    edge = np.array([-9.95, -9.0, 8.0, 8.33], Half)
    low, inside, high, beyond = engine("sigmoid", edge, "ane_m1")
    assert (low, beyond) == (0, 1)
    assert 0 < inside < high < 1
    x = between(-3, 3)
    exact = truth(mp.sin, x)  # not native before an A15
    assert (np.abs(engine("sin", x, "ane_m1") - exact) <= 0.501 * ulps(exact)).all()


def test_exp_overflows_where_it_was_measured() -> None:
    x = np.array([11.0859375, 11.09375], Half)  # L7: at about 11.094
    below, above = engine("exp", x)
    assert math.isfinite(below)
    assert above == math.inf


def test_logarithm_of_zero_and_of_negative_numbers() -> None:
    x = np.array([0.0, -0.0, -1.0], Half)
    np.testing.assert_array_equal(engine("log", x), [-45440, -45440, 0])  # A14, A13
    np.testing.assert_array_equal(engine("log", x, "ane_m1"), [-45440, -45440, 0])


def test_roots_of_negative_numbers_are_zero() -> None:
    x = np.array([-1.0, -65504.0], Half)
    np.testing.assert_array_equal(engine("sqrt", x), [0, 0])  # A13
    np.testing.assert_array_equal(engine("rsqrt", x), [0, 0])


def test_the_inverse_of_either_zero_is_infinite() -> None:
    assert (engine("inverse", np.array([0.0, -0.0], Half)) == math.inf).all()  # A15


def test_round_is_a_floor_of_a_sum_in_fp16() -> None:
    """Reported without Core ML (ANEForge, pull request 116): round(1024) is 1025."""
    x = np.array([1024.0, 1023.0, 2.5, -2.5, 1.4, -1.6, 3000.0], Half)
    np.testing.assert_array_equal(engine("round", x), [1025, 1023, 3, -2, 1, -2, 3000])
    np.testing.assert_array_equal(run("round", "gpu", x=x), [1024, 1023, 2, -2, 1, -2, 3000])


def test_softplus_collapses_where_it_was_measured() -> None:
    """coremltools issue 2687: right at 10.394, 0 at 10.395 and beyond, in float32 inputs that are rounded to fp16."""
    x = np.array([10.394, 10.395, 20.0, np.inf], np.float32).astype(Half)
    for name, parameters in (("softplus", {}), ("softplus_parametric", {"alpha": [1], "beta": [1]})):
        arrays = {k: np.array(v, Half) for k, v in parameters.items()}
        data = x.reshape(1, 1, -1) if parameters else x
        right, *collapsed = run(name, "ane", x=data, **arrays).reshape(-1)
        assert right == Half(10.390625)
        assert collapsed == [0, 0, 0]
        assert run(name, "cpu", x=data, **arrays).reshape(-1)[2] == 20


def test_log_sum_exp_collapses_where_it_was_measured() -> None:
    """coremltools issue 2690: 32 equal channels give 0 from 7.6313 on."""
    for value, collapsed in ((7.6, False), (7.6313, True), (9.0, True)):
        x = np.full((1, 32), value, Half)
        result = run("reduce_log_sum_exp", "ane", x=x, axes=np.array([1], np.int32)).item()
        assert (result == 0) == collapsed
        assert run("reduce_log_sum_exp", "gpu", x=x, axes=np.array([1], np.int32)).item() == pytest.approx(
            value + math.log(32), abs=0.01
        )
