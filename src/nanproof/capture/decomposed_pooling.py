"""Decompositions of pooling that coremltools 9.0 lacks or refuses: by the places of each window, or by matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nanproof.capture.decomposed_resampling import along

__all__ = ["POOLING"]

aten = torch.ops.aten
_WHOLE = (aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default)


def _each(given: Sequence[int], axes: int, otherwise: Sequence[int] | None = None) -> list[int]:
    """One number for each axis, of an argument that may have one for all."""
    values = list(given) or list(otherwise or [])
    return values * axes if len(values) == 1 else values


def _known(sizes: Sequence[Any]) -> bool:
    """Whether all sizes are numbers: the places of windows are constants."""
    return all(isinstance(size, int) for size in sizes)


def _windows_of(length: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """How many windows an axis has. The last one starts in the input or in the padding before it."""
    reach = length + 2 * padding - dilation * (kernel - 1) - 1
    count = -(-reach // stride) + 1 if ceil_mode else reach // stride + 1
    return count - 1 if ceil_mode and (count - 1) * stride >= length + padding else count


def _places(length: int, count: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    """(windows, kernel) places of the input. One in the padding is the nearest place of its window that is not."""
    start = (torch.arange(count) * stride - padding).unsqueeze(1)
    first = torch.clamp(torch.div(dilation - 1 - start, dilation, rounding_mode="floor"), min=0)
    last = torch.clamp(torch.div(length - 1 - start, dilation, rounding_mode="floor"), max=kernel - 1)
    tap = torch.maximum(torch.minimum(torch.arange(kernel), last), first)
    return start + tap * dilation


def _adaptive_places(length: int, count: int) -> Tensor:
    """(windows, longest window) places of the input. What is beyond the end of a window is its last place."""
    number = torch.arange(count)
    start = torch.div(number * length, count, rounding_mode="floor").unsqueeze(1)
    end = torch.div((number + 1) * length + count - 1, count, rounding_mode="floor").unsqueeze(1)
    longest = max(-(-(i + 1) * length // count) - i * length // count for i in range(count))
    return torch.minimum(start + torch.arange(longest), end - 1)


def _largest(x: Tensor, places: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The largest element of each window, and its place among all of the last axes. The first of equals counts."""
    axes = len(places)
    batch, shape = list(x.shape[:-axes]), list(x.shape[-axes:])
    x = x.reshape(-1, *shape)
    for i, of_axis in enumerate(places):
        x = x.index_select(i + 1, of_axis.reshape(-1))
    flat = torch.zeros([1, 1], dtype=torch.int64)
    for length, of_axis in zip(shape, places, strict=True):
        (windows, taps), (count, size) = flat.shape, of_axis.shape
        flat = flat.reshape(windows, 1, taps, 1) * length + of_axis.reshape(1, count, 1, size)
        flat = flat.reshape(windows * count, taps * size)
    counts, sizes = ([of_axis.shape[n] for of_axis in places] for n in (0, 1))
    windows = _side_by_side(x, counts, sizes)
    chosen = torch.argmax(windows, -1, keepdim=True)
    found = torch.gather(flat.expand(windows.shape), -1, chosen)
    return tuple(result.reshape(*batch, *counts) for result in (torch.amax(windows, -1), found))


def _side_by_side(x: Tensor, counts: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """(batch, count 1 * size 1, ...) as (batch, all counts, all sizes), by moves of five axes at most."""
    batch = x.shape[0]
    windows, taps = 1, 1
    rest = 1
    for count, size in zip(counts, sizes, strict=True):
        rest *= count * size
    for count, size in zip(counts, sizes, strict=True):
        rest //= count * size
        x = x.reshape(batch * windows, taps, count, size, rest)
        x = x.permute(0, 2, 1, 3, 4)
        windows, taps = windows * count, taps * size
        x = x.reshape(batch * windows, taps, rest)
    return x.reshape(batch, windows, taps)


def _max_pool(axes: int) -> Callable[..., tuple[Tensor, ...]]:
    def decompose(
        x: Tensor,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil_mode: bool = False,
    ) -> tuple[Tensor, ...]:
        """``max_pool`` with indices, which 9.0 lacks, and with a dilation, which it refuses.

        The values are those of the MIL op where it has them; the indices come of the windows, which nothing computes
        where nobody asks.
        """
        if not _known(x.shape):
            return NotImplemented
        kernel = _each(kernel_size, axes)
        steps, pads, gaps = _each(stride, axes, kernel), _each(padding, axes), _each(dilation, axes)
        places: list[Tensor] = []
        for i, length in enumerate(x.shape[-axes:]):
            form = (kernel[i], steps[i], pads[i], gaps[i])
            places.append(_places(length, _windows_of(length, *form, ceil_mode), *form))
        values, indices = _largest(x, places)
        if all(gap == 1 for gap in gaps):
            values = _WHOLE[axes - 1](x, kernel, steps, pads, gaps, ceil_mode)
        return values, indices

    return decompose


def _adaptive_max_pool(x: Tensor, output_size: Sequence[int]) -> tuple[Tensor, ...]:
    """``adaptive_max_pool``, of which 9.0 knows one size that divides, and no indices."""
    lengths = x.shape[-len(output_size) :]
    return _largest(x, [_adaptive_places(length, size) for length, size in zip(lengths, output_size, strict=True)])


def _adaptive_avg_pool3d(x: Tensor, output_size: Sequence[int]) -> Tensor:
    """``adaptive_avg_pool3d``, which 9.0 lacks, by one matrix an axis."""
    for i, size in enumerate(output_size):
        length = x.shape[i - 3]
        number = torch.arange(size).unsqueeze(1)
        start = torch.div(number * length, size, rounding_mode="floor")
        end = torch.div((number + 1) * length + size - 1, size, rounding_mode="floor")
        inside = (torch.arange(length) >= start) & (torch.arange(length) < end)
        x = along(x, i - 3, inside.to(x.dtype) / (end - start).to(x.dtype))
    return x


def _avg_pool(axes: int) -> Callable[..., Tensor]:
    def decompose(
        x: Tensor,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Tensor:
        """``avg_pool`` with a divisor of its own, and with windows beyond the end that count what is padded."""
        if (divisor_override is None and not (ceil_mode and count_include_pad)) or not _known(x.shape[-axes:]):
            return NotImplemented
        kernel = _each(kernel_size, axes)
        steps, pads = _each(stride, axes, kernel), _each(padding, axes)
        for i in range(axes):
            length = x.shape[i - axes]
            start = torch.arange(_windows_of(length, kernel[i], steps[i], pads[i], 1, ceil_mode)).unsqueeze(1)
            start = start * steps[i] - pads[i]
            inside = (torch.arange(length) >= start) & (torch.arange(length) < start + kernel[i])
            weights = inside.to(x.dtype)
            if divisor_override is None:
                end = torch.clamp(start + kernel[i], max=length + pads[i])
                weights = weights / (end - start).to(x.dtype)
            x = along(x, i - axes, weights)
        return x if divisor_override is None else x / divisor_override

    return decompose


POOLING: dict[Any, Callable[..., Any]] = {
    aten.max_pool2d_with_indices.default: _max_pool(2),
    aten.max_pool3d_with_indices.default: _max_pool(3),
    aten.adaptive_max_pool2d.default: _adaptive_max_pool,
    aten.adaptive_max_pool3d.default: _adaptive_max_pool,
    aten._adaptive_avg_pool3d.default: _adaptive_avg_pool3d,
    aten.avg_pool1d.default: _avg_pool(1),
    aten.avg_pool2d.default: _avg_pool(2),
    aten.avg_pool3d.default: _avg_pool(3),
}
"""Decompositions by operator."""
