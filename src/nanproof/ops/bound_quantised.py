"""Bounds of quantisation: whole levels of a type, and products of levels with their scale."""

from __future__ import annotations

import torch
from torch import Tensor

from nanproof.ops.bounding import Reading, UnboundedError, parameter
from nanproof.values.bound import Bound

__all__ = ["dequantize", "quantize"]


def _along(value: Bound, x: Bound, axis: Bound | None) -> tuple[Tensor, Tensor]:
    """The bounds of a scale or a zero point, shaped to broadcast against ``x``."""
    if not value.finite:
        raise UnboundedError("a scale or a zero point may be Inf or NaN")
    rank, size = len(x.shape), 1
    for n in value.shape:
        size *= n
    sizes = [1] * rank
    if axis is not None and len(value.shape) == 1:
        sizes[int(parameter(axis, "axis"))] = size
    elif size != 1:
        raise UnboundedError("a vector of scales has no axis")
    low, high = (t.expand(value.shape).reshape(sizes) for t in (value.low, value.high))
    return low, high


def quantize(
    reading: Reading,
    input: Bound,
    scale: Bound,
    output_dtype: str,
    zero_point: Bound | None = None,
    axis: Bound | None = None,
) -> Bound:
    """The nearest level, cut to the range of the type."""
    least, most = (0.0, 255.0) if output_dtype == "uint8" else (-128.0, 127.0)
    if input.nan:
        raise UnboundedError("its operand may be NaN")
    steps = _along(scale, input, axis)
    if not bool(((steps[0] > 0) | (steps[1] < 0)).all()):
        raise UnboundedError("its scale may be zero")
    if not input.limited:
        return Bound.interval(input.shape, least, most, whole=True)
    corners = torch.stack(torch.broadcast_tensors(*(a / b for a in (input.low, input.high) for b in steps)))
    low, high = corners.amin(0), corners.amax(0)
    low, high = (low - low.abs() * 2.0**-9 - 1).floor(), (high + high.abs() * 2.0**-9 + 1).ceil()
    if zero_point is not None:
        offset = _along(zero_point, input, axis)
        low, high = low + offset[0], high + offset[1]
    return Bound(input.shape, low.clamp(least, most), high.clamp(least, most), whole=True)


def dequantize(
    reading: Reading, input: Bound, scale: Bound, zero_point: Bound | None = None, axis: Bound | None = None
) -> Bound:
    """``(level - zero point) * scale``: one product of an exact difference."""
    low, high = input.low, input.high
    if zero_point is not None:
        offset = _along(zero_point, input, axis)
        low, high = low - offset[1], high - offset[0]
    corners = torch.stack(torch.broadcast_tensors(*(a * b for a in (low, high) for b in _along(scale, input, axis))))
    return Bound(input.shape, corners.amin(0), corners.amax(0))
