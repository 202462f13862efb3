"""Strategies for the inputs of an op: shapes, arrays of every kind of number, axes, windows.

The elements of an array come from a seed, which is drawn, so that an array of any size costs one draw: Hypothesis
shrinks shapes and parameters, and the seed to 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

Array = np.ndarray
Inputs = dict[str, Any]
Draw = st.DrawFn

THOROUGH = settings.get_current_profile_name() == "thorough"
"""Whether this run is that of `make thorough`: as many examples as its profile says, and other ones each time."""


def budget(examples: int) -> settings:
    """A fixed number of examples, the same in every run; many and new ones under the profile ``thorough``."""
    return settings() if THOROUGH else settings(max_examples=examples, derandomize=True, deadline=None, database=None)


# ---------------------------------------------------------------------------------------------------------------------
# Elements

_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1 / 3, -np.pi, 2.0, 7.5, -12.0, 89.0, 2049.0, 16777217.0)
_TINY = (1e-45, -1e-40, 2.0**-126, -(2.0**-126), 5.9e-8, -6.1e-5)
_LARGE = (65504.0, -65504.0, 65520.0, 1e5, -1e6, 3.4e38, -3.4e38)
_BEYOND = (np.inf, -np.inf, np.nan)
_INTEGERS = (0, 1, -1, 2, -2, 3, 7, -8, 255, -256, 46341, 65536, -65537, 2**31 - 1, -(2**31), -(2**31) + 1)

FLOAT_KINDS = ("ordinary", "whole", "extreme", "special", "broken")
"""Normally distributed; whole numbers, whose sums are exact; subnormal to huge; the same with infinities and NaN; whole
numbers with infinities and NaN, whose sums and products no order of the terms can change."""


def _floats(rng: np.random.Generator, shape: Sequence[int], kind: str) -> Array:
    if kind in ("whole", "broken"):
        whole = rng.integers(-4, 5, shape).astype(np.float64)
        return whole if kind == "whole" else np.where(rng.random(shape) < 0.2, rng.choice(_BEYOND, shape), whole)
    ordinary = rng.standard_normal(shape) * 2
    if kind == "ordinary":
        return ordinary
    pool = _FLOATS + _TINY + _LARGE + (_BEYOND if kind == "special" else ())
    return np.where(rng.random(shape) < 0.6, rng.choice(pool, shape), ordinary)


def made(shape: Sequence[int], dtype: str, kind: str, seed: int) -> Array:
    """An array of a NumPy dtype: floats of a kind, integers of the whole range if it is ``extreme``, else small."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.startswith("float"):
        with np.errstate(over="ignore", under="ignore"):
            return np.asarray(_floats(rng, shape, kind), np.float64).astype(np.float32).astype(dtype)
    limits = np.iinfo(dtype)
    if kind != "extreme":
        return rng.integers(max(limits.min, -9), 10, shape).astype(dtype)
    wrapped = rng.choice(np.array(_INTEGERS), shape).astype(dtype)
    return np.where(rng.random(shape) < 0.3, rng.integers(limits.min, limits.max + 1, shape), wrapped).astype(dtype)


seeds = st.integers(0, 2**32 - 1)
flags = st.booleans()
FLOAT_TYPES = ("float32", "float16")
WIDE_TYPES = ("float32", "float16", "int32")
ALL_TYPES = ("float32", "float16", "int32", "bool")


def arrays(
    shape: Sequence[int], dtypes: Sequence[str] = ("float32",), kinds: Sequence[str] = ("ordinary", "whole")
) -> st.SearchStrategy[Array]:
    """Arrays of one shape, of one of the dtypes and of one of the kinds."""
    return st.builds(made, st.just(tuple(shape)), st.sampled_from(dtypes), st.sampled_from(kinds), seeds)


def like(array: Array, shape: Sequence[int], kinds: Sequence[str] = ("ordinary", "whole")) -> st.SearchStrategy[Array]:
    """Arrays of the dtype of a given one."""
    return arrays(shape, (array.dtype.name,), kinds)


def chosen(shape: Sequence[int], low: int, high: int, dtype: str = "int32") -> st.SearchStrategy[Array]:
    """Integers of ``[low, high)``."""
    return st.builds(lambda seed: np.random.default_rng(seed).integers(low, high, shape).astype(dtype), seeds)


def numbers(low: float, high: float, dtype: str = "float32") -> st.SearchStrategy[Any]:
    """0-d floats of an interval."""
    return st.floats(low, high).map(np.dtype(dtype).type)


# ---------------------------------------------------------------------------------------------------------------------
# Shapes and places


def shapes(least: int = 0, most: int = 5, smallest: int = 1, largest: int = 4) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of a range of ranks; MIL knows ranks up to 5. ``smallest=0`` makes empty ones too."""
    return st.lists(st.integers(smallest, largest), min_size=least, max_size=most).map(tuple)


@st.composite
def broadcast(draw: Draw, count: int, most: int = 5, smallest: int = 0) -> list[tuple[int, ...]]:
    """Shapes that broadcast against each other: dimensions of one of them are 1, or missing in front."""
    whole = draw(shapes(0, most, smallest, 3))
    found = []
    for _ in range(count):
        ones = draw(st.lists(flags, min_size=len(whole), max_size=len(whole)))
        start = draw(st.integers(0, len(whole))) if draw(flags) else 0
        found.append(tuple(1 if one else n for n, one in zip(whole, ones, strict=True))[start:])
    return found


def axis(rank: int) -> st.SearchStrategy[int]:
    """One axis, also counted from the end."""
    return st.integers(-rank, rank - 1)


@st.composite
def axes(draw: Draw, rank: int, least: int = 1) -> Array:
    """Several axes in any order, some counted from the end."""
    places = draw(st.lists(st.integers(0, rank - 1), min_size=least, max_size=rank, unique=True))
    return np.array([p - rank if draw(flags) else p for p in places], np.int32)


def i32(values: Any) -> Array:
    return np.array(values, np.int32)


def some(draw: Draw, optional: Inputs) -> Inputs:
    """Each of these inputs, given as strategies, or its absence."""
    return {name: draw(strategy) for name, strategy in optional.items() if draw(flags)}


@st.composite
def windows(draw: Draw, ranks: tuple[int, int] = (1, 3), largest_pad: int = 3) -> dict[str, Any]:
    """Sizes, kernel, strides, dilations and symmetric padding of 1 to 3 dimensions, such that a window fits."""
    rank = draw(st.integers(*ranks))
    few = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    kernel, strides, dilations = draw(few), draw(few), draw(few)
    pad = draw(st.lists(st.integers(0, largest_pad), min_size=rank, max_size=rank))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    rest = draw(st.lists(st.integers(0, 4), min_size=rank, max_size=rank))
    shape = [max(1, r - 2 * p) + e for r, p, e in zip(reach, pad, rest, strict=True)]
    return {"shape": shape, "kernel": kernel, "strides": strides, "dilations": dilations, "pad": pad}
