"""Observed ranges form a commutative monoid, and say what NumPy says."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanproof.interpret.observe import NOTHING, Range

NUMBERS = st.one_of(
    st.floats(width=32), st.sampled_from([0.0, 1.0, -1.0, 65504.0, float("inf"), float("-inf"), float("nan")])
)
ARRAYS = st.lists(NUMBERS, max_size=6).map(lambda v: np.array(v, np.float32))


def of(array):
    return Range.of(torch.from_numpy(array))


@settings(derandomize=True, deadline=None)
@given(ARRAYS, ARRAYS)
def test_joining_is_observing_both(a, b):
    joined, both = of(a) | of(b), of(np.concatenate([a, b]))
    assert (joined.low, joined.high, joined.infinities, joined.nans) == (
        both.low,
        both.high,
        both.infinities,
        both.nans,
    )


@settings(derandomize=True, deadline=None)
@given(ARRAYS, ARRAYS, ARRAYS)
def test_laws_of_a_commutative_monoid(a, b, c):
    x, y, z = of(a), of(b), of(c)
    assert x | y == y | x
    assert (x | y) | z == x | (y | z)
    assert x | NOTHING == x


@settings(derandomize=True, deadline=None)
@given(ARRAYS)
def test_against_numpy(array):
    seen = of(array)
    finite = array[np.isfinite(array)]
    assert seen.nans == np.isnan(array).sum()
    assert seen.infinities == np.isinf(array).sum()
    assert seen.magnitude == (np.abs(finite).max() if finite.size else 0.0)
    if array.size and np.isfinite(array).all():
        assert seen.binary == (np.isin(array, (0, 1)).all() or np.isin(array, (0, -1)).all() or _signs(array))


def _signs(array):
    """-1, 0 and 1 together: the bounds tell that the sign is mixed."""
    return np.isin(array, (-1, 0, 1)).all() and (array.min(), array.max()) == (-1.0, 1.0)
