"""Ranges form a commutative monoid, say what NumPy says, and do not depend on how the elements came."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanproof.interpret.observe import NOTHING, Range, Ranges
from nanproof.interpret.tally import Tally

EDGES = [2.0**-126, 2.0**-149, 2.0**-25, 2.0**-24, 2.0**-14, 1.0, 65504.0, 65519.996, 65520.0, 65536.0, 3.4028235e38]
EDGES += [float(np.nextafter(np.float32(e), np.float32(0))) for e in EDGES]
SPECIAL = [0.0, -0.0, math.inf, -math.inf, math.nan, *EDGES, *(-e for e in EDGES)]
NUMBERS = st.one_of(st.floats(width=32), st.sampled_from(SPECIAL))
ARRAYS = st.lists(NUMBERS, max_size=12).map(lambda v: np.array(v, np.float32))


def of(array):
    return Range.of(torch.from_numpy(array))


def reference(array):
    """The same by NumPy's float16 and frexp, in float64."""
    x = array.astype(np.float64)
    finite = x[np.isfinite(x)]
    used = np.abs(finite[finite != 0])
    mantissas, exponents = np.frexp(used)
    ceilings = np.maximum(np.where(mantissas == 0.5, exponents - 1, exponents), -126)
    with np.errstate(over="ignore", under="ignore"):
        half = np.abs(finite.astype(np.float32).astype(np.float16)).astype(np.float64)
    return {
        "low": finite.min() if finite.size else math.inf,
        "high": finite.max() if finite.size else -math.inf,
        "smallest": used.min() if used.size else math.inf,
        "infinities": np.isinf(x).sum(),
        "nans": np.isnan(x).sum(),
        "zeros": (finite == 0).sum(),
        "overflows": np.isinf(half).sum(),
        "lost": ((half == 0) & (finite != 0)).sum(),
        "subnormals": ((np.abs(finite) > 2.0**-25) & (np.abs(finite) <= 2.0**-14)).sum(),
        "count": x.size,
        "histogram": tuple((int(k), int((ceilings == k).sum())) for k in np.unique(ceilings)),
    }


def check(array):
    seen = of(array)
    for name, expected in reference(array).items():
        assert getattr(seen, name) == expected, name


@settings(derandomize=True, deadline=None)
@given(ARRAYS)
def test_against_numpy(array):
    check(array)


def test_edges_against_numpy():
    for value in SPECIAL:
        check(np.array([value], np.float32))


@pytest.mark.parametrize("count", [1 << 15, (1 << 16) + 1, 200_000])
def test_large_arrays_against_numpy(count):
    rng = np.random.default_rng(count)
    array = (rng.standard_normal(count) * np.exp2(rng.integers(-60, 60, count))).astype(np.float32)
    array[rng.integers(0, count, 50)] = rng.choice(SPECIAL, 50)
    check(array)


@settings(derandomize=True, deadline=None)
@given(ARRAYS, ARRAYS, ARRAYS)
def test_laws_of_a_commutative_monoid(a, b, c):
    x, y, z = of(a), of(b), of(c)
    assert x | y == y | x
    assert (x | y) | z == x | (y | z)
    assert x | NOTHING == NOTHING | x == x


@settings(derandomize=True, deadline=None)
@given(ARRAYS, st.data())
def test_however_it_is_split(array, data):
    """One tensor, pieces joined, and one tally of all pieces in another order say the same."""
    cut = data.draw(st.integers(0, array.size))
    pieces = [torch.from_numpy(array[cut:]), torch.from_numpy(array[:cut])]
    tally = Tally()
    for piece in pieces:
        tally.add(piece)
    assert Range.tallied(tally) == Range.of(pieces[0]) | Range.of(pieces[1]) == of(array)


RANGES = st.dictionaries(st.sampled_from("abc"), ARRAYS.map(of), max_size=3).flatmap(
    lambda by_name: st.builds(
        Ranges,
        st.just(by_name),
        st.integers(0, 5),
        st.dictionaries(st.sampled_from("ab"), st.lists(ARRAYS.map(of), min_size=1, max_size=3).map(tuple), max_size=2),
    )
)


@settings(derandomize=True, deadline=None)
@given(RANGES, RANGES, RANGES)
def test_laws_for_many_values(x, y, z):
    assert x | y == y | x
    assert (x | y) | z == x | (y | z)
    assert x | Ranges() == Ranges() | x == x


@settings(derandomize=True, deadline=None)
@given(ARRAYS)
def test_binary(array):
    expected = bool(np.isin(array, (-1, 0, 1)).all())  # the bounds tell whether both signs were there
    assert of(array).binary == expected


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
        torch.arange(24.0).reshape(2, 3, 4)[:, 1:, ::2],
        torch.arange(3.0)[:, None].expand(3, 5),
        torch.arange(6.0, dtype=torch.float16),
        torch.arange(6.0, dtype=torch.bfloat16),
        torch.arange(6.0, dtype=torch.float64),
        torch.arange(6, dtype=torch.uint8),
        torch.tensor([[True, False], [True, True]]),
        torch.tensor(2.5),
    ],
    ids=["permuted", "strided", "expanded", "half", "bfloat16", "double", "bytes", "bool", "scalar"],
)
def test_any_layout_and_type(tensor):
    assert Range.of(tensor) == of(tensor.to(torch.float32).contiguous().numpy())


def test_large_integers_keep_their_bounds():
    seen = Range.of(torch.tensor([2**24 + 1, -(2**24) - 3]))
    assert (seen.low, seen.high) == (-(2**24) - 3, 2**24 + 1)


def test_a_double_beyond_float32_is_not_infinite():
    assert Range.of(torch.tensor([1e300], dtype=torch.float64)).finite


@pytest.mark.parametrize(
    ("value", "fp16", "bf16"),
    [(65519.0, True, True), (65520.0, False, True), (3.39e38, False, True), (3.4e38, False, False)],
)
def test_what_survives_where(value, fp16, bf16):
    tensor = torch.tensor([1.0, -value])
    assert bool(torch.isfinite(tensor.to(torch.float16)).all()) == fp16
    assert bool(torch.isfinite(tensor.to(torch.bfloat16)).all()) == bf16
    seen = Range.of(tensor)
    assert (seen.survives_fp16, seen.survives_bf16) == (fp16, bf16)


def test_inf_and_nan_survive_nowhere():
    for value in (math.inf, math.nan):
        seen = Range.of(torch.tensor([value, 1.0]))
        assert not seen.survives_fp16
        assert not seen.survives_bf16
