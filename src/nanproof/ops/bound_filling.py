"""Bounds of ops that make values or put a constant beside given ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from nanproof.ops.bound_movement import merged
from nanproof.ops.bounding import Reading, UnboundedError, parameter
from nanproof.ops.record import ints
from nanproof.values.bound import Bound

__all__ = ["band_part", "fill", "fill_like", "one_hot", "pad", "range_1d", "shape", "space_to_batch"]


def _single(shape: tuple[int, ...], value: Bound | None) -> Bound:
    """One number everywhere: zero where there is none given."""
    if value is None:
        return Bound.interval(shape, 0.0, 0.0, whole=True)
    one = [1] * len(shape)
    return Bound(shape, value.low.reshape(one), value.high.reshape(one), value.nan, value.whole)


def fill(reading: Reading, shape: Bound, value: Bound | None = None) -> Bound:
    """One number, as often as a known shape says."""
    return _single(tuple(ints(parameter(shape, "the shape"))), value)


def fill_like(reading: Reading, ref_tensor: Bound, value: Bound | None = None) -> Bound:
    """One number, in the shape of another tensor."""
    return _single(ref_tensor.shape, value)


def shape(reading: Reading, x: Bound) -> Bound:
    """The sizes, which a bound knows."""
    return Bound.constant(torch.tensor(x.shape, dtype=torch.int32))


def range_1d(reading: Reading, end: Bound, start: Bound, step: Bound) -> Bound:
    """Numbers between the start and the end; how many they are has to be declared."""
    declared = reading.op.outputs[0].type.shape
    if not all(isinstance(size, int) for size in declared):
        raise UnboundedError("how many numbers there are depends on the data")
    if not (start.finite and end.finite and step.finite):
        raise UnboundedError("an end may be Inf or NaN")
    low, high = min(start.least, end.least), max(start.most, end.most)
    room = 0.0 if start.whole and step.whole else max(abs(low), abs(high)) * 2.0**-10
    return Bound.interval(reading.shape(), low - room, high + room, whole=start.whole and step.whole)


def pad(reading: Reading, x: Bound, pad: Bound, mode: str = "constant", constant_val: Bound | None = None) -> Bound:
    """A constant beside the elements, or some of them once more. A merged axis stays so, with the constant in it."""
    amounts = ints(parameter(pad, "pad"))
    pairs = list(zip(amounts[::2], amounts[1::2], strict=True))
    value = Bound.interval((), 0.0, 0.0, whole=True) if constant_val is None else constant_val
    first = len(x.shape) - len(pairs)
    low, high, sizes = x.low, x.high, list(x.shape)
    filled = False
    for axis, (before, after) in enumerate(pairs, start=first):
        if not before and not after:
            continue
        sizes[axis] += before + after
        if mode != "constant" or low.shape[axis] == 1 or high.shape[axis] == 1 or low.shape[axis] == 0:
            low, high = merged(Bound(x.shape, low, high), [axis])
        if mode != "constant":
            continue
        filled = filled or before > 0 or after > 0
        if low.shape[axis] == 1:
            if before > 0 or after > 0:
                low, high = low.clamp(max=value.least), high.clamp(min=value.most)
        else:
            flat = [0, 0] * (len(sizes) - 1 - axis) + [before, after]
            low, high = F.pad(low, flat, value=value.least), F.pad(high, flat, value=value.most)
    nan = x.nan or (filled and value.nan)
    if x.shape and 0 in x.shape and filled:  # nothing but the constant
        low, high = (t.reshape([1] * len(sizes)) for t in (value.low, value.high))
    return Bound(tuple(sizes), low, high, nan, x.whole and (value.whole or not filled))


def band_part(reading: Reading, x: Bound, lower: Bound | None = None, upper: Bound | None = None) -> Bound:
    """The elements near the diagonal, and zeros elsewhere."""
    return Bound(x.shape, x.low.clamp(max=0), x.high.clamp(min=0), x.nan, x.whole)


def space_to_batch(reading: Reading, x: Bound, block_shape: Bound, paddings: Bound) -> Bound:
    """Elements of each channel, and zeros."""
    low, high = merged(x, [0, 2, 3])
    rows, columns = ints(parameter(block_shape, "block_shape"))
    top, bottom, left, right = ints(parameter(paddings, "paddings"))
    batch, channels, height, width = x.shape
    sizes = batch * rows * columns, channels, (height + top + bottom) // rows, (width + left + right) // columns
    return Bound(sizes, low.clamp(max=0), high.clamp(min=0), x.nan, x.whole)


def one_hot(
    reading: Reading,
    indices: Bound,
    one_hot_vector_size: Bound,
    axis: Bound | None = None,
    on_value: Bound | None = None,
    off_value: Bound | None = None,
) -> Bound:
    """One of two numbers. An index outside turns no place on."""
    rank = len(indices.shape) + 1
    dim = (-1 if axis is None else int(parameter(axis, "axis"))) % rank
    size = int(parameter(one_hot_vector_size, "one_hot_vector_size"))
    sizes = (*indices.shape[:dim], size, *indices.shape[dim:])
    on = Bound.interval((), 1.0, 1.0, whole=True) if on_value is None else on_value
    off = Bound.interval((), 0.0, 0.0, whole=True) if off_value is None else off_value
    low, high = min(on.least, off.least), max(on.most, off.most)
    result = Bound.interval(sizes, low, high, whole=on.whole and off.whole)
    return Bound(sizes, result.low, result.high, on.nan or off.nan, result.whole)
