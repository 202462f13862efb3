"""Bounds of pooling. Places are not told apart: each channel has one box for all of them.

Only arithmetics that round every step (:attr:`~nanproof.ops.bounding.Machine.narrow`) add a window up with the unit's
accumulator; the others do in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nanproof.ops.bound_movement import merged
from nanproof.ops.bounding import BoundRule, Reading, UnboundedError, parameter
from nanproof.ops.record import flag
from nanproof.values.bound import Bound

__all__ = ["average", "largest", "root_of_squares"]

Windows = Callable[..., Any]
"""Lays windows as the rule of execution does; the result has ``kernel``, ``strides``, ``padding`` and ``overhang``."""


def _laid(
    lay: Windows,
    x: Bound,
    kernel_sizes: Bound,
    pad_type: str,
    strides: Bound | None,
    pad: Bound | None,
    ceil_mode: Bound | None,
) -> Any:
    def given(value: Bound | None, name: str) -> Tensor | None:
        return None if value is None else parameter(value, name)

    sizes = parameter(kernel_sizes, "kernel_sizes")
    ceil = ceil_mode is not None and flag(parameter(ceil_mode, "ceil_mode"))
    return lay(torch.zeros(()).expand(x.shape), sizes, given(strides, "strides"), pad_type, given(pad, "pad"), ceil)


def _beyond(windows: Any, x: Bound, *, padding_counts: bool) -> bool:
    """Whether a window sees nothing: no place of the input, nor of the padding where that counts.

    Windows are ordered and an interval each, so the first and the last of an axis tell.
    """
    layout = zip(x.shape[2:], windows.kernel, windows.strides, windows.padding, windows.overhang, strict=True)
    for size, taps, stride, p, overhang in layout:
        whole = size + p.before + p.after + overhang
        last = (whole - taps) // stride * stride
        first_seen, end_seen = (0, size + p.before + p.after) if padding_counts else (p.before, p.before + size)
        if last >= end_seen or taps <= first_seen:
            return True
    return False


def _per_channel(x: Bound) -> tuple[Tensor, Tensor]:
    return merged(x, range(2, len(x.shape)))


def largest(lay: Windows) -> BoundRule:
    """The rule of ``max_pool``: one of the elements of its channel."""

    def rule(
        reading: Reading,
        x: Bound,
        kernel_sizes: Bound,
        pad_type: str,
        strides: Bound | None = None,
        pad: Bound | None = None,
        ceil_mode: Bound | None = None,
    ) -> Bound:
        windows = _laid(lay, x, kernel_sizes, pad_type, strides, pad, ceil_mode)
        if _beyond(windows, x, padding_counts=False):
            reading.doubt("a window lies wholly beyond its input: its largest element is -inf")
        return Bound(reading.shape(), *_per_channel(x), x.nan, x.whole)

    return rule


def average(lay: Windows) -> BoundRule:
    """The rule of ``avg_pool``: between the lowest and the highest element, up to the rounding of the sum."""

    def rule(
        reading: Reading,
        x: Bound,
        kernel_sizes: Bound,
        pad_type: str,
        strides: Bound | None = None,
        pad: Bound | None = None,
        ceil_mode: Bound | None = None,
        exclude_padding_from_average: Bound | None = None,
    ) -> Bound:
        if not x.finite:
            raise UnboundedError("its operand may be Inf or NaN")
        excluded = exclude_padding_from_average is not None and flag(
            parameter(exclude_padding_from_average, "exclude_padding_from_average")
        )
        windows = _laid(lay, x, kernel_sizes, pad_type, strides, pad, ceil_mode)
        if _beyond(windows, x, padding_counts=not excluded):
            reading.doubt("a window lies wholly beyond its input: its average is 0 / 0")
        low, high = _per_channel(x)
        if not excluded and any(p.before > 0 or p.after > 0 for p in windows.padding):
            low, high = low.clamp(max=0), high.clamp(min=0)
        size = torch.maximum(low.abs(), high.abs())
        error = _summed(reading, size, math.prod(windows.kernel))
        # What is nowhere negative has no negative sum, in any arithmetic.
        lower, upper = low - error, high + error
        return Bound(
            reading.shape(),
            torch.where(low >= 0, lower.clamp(min=0), lower),
            torch.where(high <= 0, upper.clamp(max=0), upper),
        )

    return rule


def _summed(reading: Reading, size: Tensor, count: int) -> Tensor:
    """How far the mean of a window may be off; its sum is taken note of, where the unit's accumulator makes it."""
    machine = reading.machine
    if machine.narrow:
        reading.accumulated(size * count * (1 + count * machine.unit) + count * machine.lost)
        return size * ((count + 3) * machine.unit + 2.0**-10) + count * machine.lost + 2.0**-24
    if not machine.half:
        reading.accumulated(size * count * (1 + count * 2.0**-24))
    return size * (count * 2.0**-24 + 2.0**-20)


def root_of_squares(lay: Windows) -> BoundRule:
    """The rule of ``l2_pool``: from zero to the root of as many squares as a window has places."""

    def rule(
        reading: Reading,
        x: Bound,
        kernel_sizes: Bound,
        pad_type: str,
        strides: Bound | None = None,
        pad: Bound | None = None,
        ceil_mode: Bound | None = None,
    ) -> Bound:
        if not x.finite:
            raise UnboundedError("its operand may be Inf or NaN")
        windows = _laid(lay, x, kernel_sizes, pad_type, strides, pad, ceil_mode)
        count = math.prod(windows.kernel)
        low, high = _per_channel(x)
        size = torch.maximum(low.abs(), high.abs()).square()
        spare = count * 2.0**-24 if reading.machine.rounds else 0.0  # squares that are rounded up
        error = _summed(reading, size, count)
        total = size * count * (1 + 2.0**-10) + error * count + spare
        if not reading.machine.holds(float(total.max()) if total.numel() else 0.0):
            reading.doubt(f"the sum of squares may be {float(total.max()):.4g}")
        root = total.sqrt() * (1 + 2.0**-9)
        return Bound(reading.shape(), 0 * root, root)

    return rule
