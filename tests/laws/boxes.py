"""Boxes around the operands of a call, and points inside of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nanproof.values.bound import Bound

Array = np.ndarray

LIMITS = {"float16": 65504.0, "float32": float(np.finfo(np.float32).max)}
_WIDTHS = ("point", "ulps", "near", "wide", "zero", "limit", "tiny", "negated")
"""Nothing; some neighbours; a tenth; several times its size; up to zero; up to the limit of the type; subnormal; both
signs."""


@dataclass(frozen=True, eq=False)
class Box:
    """Lower and upper ends around an array, which lies inside; on some axes they are the same for all elements."""

    sample: Array
    low: Array
    high: Array

    @property
    def bound(self) -> Bound:
        """The box as the bound of a value of its own."""
        low, high = (torch.from_numpy(np.array(a, np.float64)) for a in (self.low, self.high))
        whole = self.sample.dtype.kind != "f" or bool(
            ((self.low == np.round(self.low)) & (self.low == self.high) & np.isfinite(self.low)).all()
        )
        return Bound(self.sample.shape, low, high, bool(np.isnan(self.sample.astype(np.float64)).any()), whole)

    def points(self, rng: np.random.Generator, count: int) -> list[Array]:
        """The sample, both ends, random corners, and elements that are spread over numbers and over magnitudes."""
        shape = self.sample.shape
        low, high = (np.broadcast_to(a, shape).astype(self.sample.dtype) for a in (self.low, self.high))
        found = [self.sample, low, high]
        while len(found) < count:
            corner = np.where(rng.random(shape) < rng.choice([0.1, 0.5, 0.9]), low, high)
            inner = _between(rng, low, high)
            found.append(corner if len(found) % 2 else np.where(rng.random(shape) < 0.3, corner, inner))
        nan = np.isnan(self.sample.astype(np.float64))
        return [np.where(nan, self.sample, point) for point in found[:count]]


def around(rng: np.random.Generator, array: Array, *, calm: bool = False) -> Box:
    """A box of random widths around an array; ``calm`` keeps to its own range."""
    kinds = ("point", "ulps", "near") if calm else _WIDTHS
    kind = str(rng.choice(kinds)) if rng.random() < 0.7 else ""
    wide = np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
    if array.dtype.kind != "f":
        low, high = _whole_box(rng, array, wide, calm=calm)
    else:
        each = [kind] if kind else kinds
        which = rng.choice(each, array.shape) if array.shape else np.asarray(rng.choice(each))
        low, high = _float_box(rng, array, wide, which)
    for axis, size in enumerate(array.shape):
        if size and rng.random() < 0.4:
            low, high = low.min(axis, keepdims=True), high.max(axis, keepdims=True)
    return Box(array, low, high)


def _whole_box(rng: np.random.Generator, array: Array, wide: Array, *, calm: bool) -> tuple[Array, Array]:
    limits = (0, 1) if array.dtype.kind == "b" else (np.iinfo(array.dtype).min, np.iinfo(array.dtype).max)
    reach = 0 if rng.random() < 0.3 else int(rng.choice([0, 1] if calm else [1, 2, 5, 100, 2**31]))
    spread = [rng.integers(0, reach + 1, array.shape) for _ in range(2)]
    return np.maximum(wide - spread[0], limits[0]), np.minimum(wide + spread[1], limits[1])


def _float_box(rng: np.random.Generator, array: Array, wide: Array, kinds: Array) -> tuple[Array, Array]:
    limit = LIMITS[array.dtype.name]
    finite = np.where(np.isfinite(wide), wide, 0.0)
    ulp = np.maximum(np.abs(finite) * (2.0**-10 if array.dtype == np.float16 else 2.0**-23), 2.0**-24)
    size = np.abs(finite)
    lows, highs = {}, {}
    for kind, below, above in (
        ("point", 0 * ulp, 0 * ulp),
        ("ulps", ulp * 2, ulp * 3),
        ("near", size * rng.random(array.shape) / 8, size * rng.random(array.shape) / 8 + 1e-3),
        ("wide", (size + 1) * rng.random(array.shape) * 3, (size + 1) * rng.random(array.shape) * 3),
        ("zero", np.maximum(finite, 0.0), np.maximum(-finite, 0.0)),
        ("limit", np.where(rng.random(array.shape) < 0.5, limit + finite, 0.0), limit - finite),
        ("tiny", np.full(array.shape, 2.0**-24), np.full(array.shape, 2.0**-14)),
        ("negated", size + finite, size - finite),
    ):
        lows[kind], highs[kind] = finite - below, finite + above
    low = np.select([kinds == k for k in lows], list(lows.values()), finite)
    high = np.select([kinds == k for k in highs], list(highs.values()), finite)
    low, high = (np.clip(v, -limit, limit).astype(array.dtype).astype(np.float64) for v in (low, high))
    low, high = np.minimum(low, finite), np.maximum(high, finite)
    return np.where(wide == -np.inf, -np.inf, low), np.where(wide == np.inf, np.inf, high)


def _between(rng: np.random.Generator, low: Array, high: Array) -> Array:
    """Elements between two ends: uniform, or uniform over the numbers of the type, which reaches every magnitude."""
    if low.dtype.kind == "b":
        return np.where(rng.random(low.shape) < 0.5, low, high)
    if low.dtype.kind != "f":
        share = rng.random(low.shape)
        inside = np.floor(low + share * (high.astype(np.float64) - low + 1))
        return np.clip(inside, low, high).astype(low.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        share = rng.random(low.shape)
        uniform = (low * (1 - share) + high * share).astype(low.dtype)
        first, last = _ordinals(low), _ordinals(high)
        spread = _floats(first + np.floor(share * (last - first + 1)).astype(np.int64), low.dtype)
        found = np.where(rng.random(low.shape) < 0.5, uniform, spread)
        found = np.where(np.isnan(found), low, found)
        return np.clip(found, low, high).astype(low.dtype)


def _ordinals(x: Array) -> Array:
    """Floats as consecutive integers."""
    half = x.dtype == np.float16
    bits = np.asarray(x).view(np.uint16 if half else np.uint32).astype(np.int64)
    sign = 0x8000 if half else 0x80000000
    return np.where(bits & sign, -(bits & (sign - 1)), bits)


def _floats(ordinals: Array, dtype: np.dtype) -> Array:
    half = dtype == np.float16
    sign = 0x8000 if half else 0x80000000
    bits = np.where(ordinals < 0, -ordinals | sign, ordinals)
    return bits.astype(np.uint16 if half else np.uint32).view(dtype)


def merged(bound: Bound, axes: Sequence[int]) -> Bound:
    """The bound with nothing told apart along some axes."""
    low, high = bound.low, bound.high
    for axis in axes:
        low, high = low.amin(axis, keepdim=True), high.amax(axis, keepdim=True)
    return Bound(bound.shape, low, high, bound.nan, bound.whole)
