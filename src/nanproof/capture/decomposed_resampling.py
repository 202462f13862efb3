"""Decompositions of resizing that coremltools 9.0 lacks, computes as something else, or unrolls.

Resizing is linear along each axis: an axis of known length is multiplied by a constant matrix of (output, input).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["RESAMPLING", "along"]

aten = torch.ops.aten
_LARGEST = 1 << 20
"""Elements of a matrix that is written into a package: 4 MB in float32."""


def along(x: Tensor, axis: int, weights: Tensor) -> Tensor:
    """``x`` with one axis multiplied by a matrix of (output, input)."""
    axis %= x.dim()
    if axis == x.dim() - 2:
        return torch.matmul(weights, x)
    if axis == x.dim() - 1:
        return torch.matmul(x, weights.transpose(0, 1))
    return torch.matmul(x.movedim(axis, -1), weights.transpose(0, 1)).movedim(-1, axis)


def _triangle(distance: Tensor) -> Tensor:
    return torch.clamp(1 - distance.abs(), min=0.0)


def _cubic(coefficient: float) -> Callable[[Tensor], Tensor]:
    """The kernel of Keys (1981), which PyTorch takes with -0.75, and with -0.5 where it smoothes."""

    def kernel(distance: Tensor) -> Tensor:
        a, t = coefficient, distance.abs()
        near = ((a + 2) * t - (a + 3)) * t * t + 1
        far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
        return torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros([])))

    return kernel


def _step(length: int, size: int, align_corners: bool, scale: float | None) -> float:
    """How far two neighbours of the output lie apart in the input (``area_pixel_compute_scale`` of PyTorch)."""
    if align_corners:
        return (length - 1) / (size - 1) if size > 1 else 0.0
    return 1 / scale if scale else length / size


def _smooth(
    length: int, size: int, align_corners: bool, scale: float | None, kernel: Callable[[Tensor], Tensor], reach: float
) -> Tensor:
    """The matrix of an antialiased resize: the kernel is widened to the step where that is above 1."""
    step = _step(length, size, align_corners, scale)
    wide = max(step, 1.0)
    centers = (torch.arange(size).to(torch.float32).unsqueeze(1) + 0.5) * step
    first = torch.clamp(torch.floor(centers - reach * wide + 0.5), min=0.0)
    last = torch.clamp(torch.floor(centers + reach * wide + 0.5), max=float(length))
    places = torch.arange(length).to(torch.float32)
    weights = kernel((places - centers + 0.5) * (1 / wide))
    weights = torch.where((places >= first) & (places < last), weights, torch.zeros([]))
    return weights / weights.sum(1, keepdim=True)


def _sharp(
    length: int, size: int, align_corners: bool, scale: float | None, kernel: Callable[[Tensor], Tensor], reach: int
) -> Tensor:
    """The matrix of a plain resize: the weight of a place beyond the border goes to the border."""
    step = _step(length, size, align_corners, scale)
    outputs = torch.arange(size).to(torch.float32)
    at = outputs * step if align_corners else (outputs + 0.5) * step - 0.5
    at = at if align_corners or reach > 1 else torch.clamp(at, min=0.0)
    first = torch.floor(at)
    places = torch.arange(length).to(torch.float32)
    weights = torch.zeros([])
    for tap in range(1 - reach, 1 + reach):
        place = torch.clamp(first + tap, min=0.0, max=float(length - 1))
        share = kernel(at - first - tap)
        weights = weights + torch.where(places == place.unsqueeze(1), share.unsqueeze(1), torch.zeros([]))
    return weights


def _sizes(
    x: Tensor, size: Sequence[int] | None, scales: Sequence[float | None] | None
) -> tuple[list[int], list[float | None]]:
    """The output size of each spatial axis, and the scale that was given for it."""
    given = list(scales or [None] * (x.dim() - 2))
    if size is not None:
        return list(size), given if scales else [None] * len(size)
    return [int(length * (scale or 1)) for length, scale in zip(x.shape[2:], given, strict=True)], given


def _known(*sizes: Any) -> bool:
    return all(isinstance(size, int) for size in sizes)


def _resized(x: Tensor, matrix: Any, size: Any, align_corners: bool, scales: Any, *form: Any) -> Tensor:
    sizes, given = _sizes(x, size, scales)
    shape = x.shape[2:]
    if not _known(*shape, *sizes) or any(a * b > _LARGEST for a, b in zip(shape, sizes, strict=True)):
        return NotImplemented
    for axis in (3, 2):
        weights = matrix(shape[axis - 2], sizes[axis - 2], align_corners, given[axis - 2], *form)
        x = along(x, axis, weights.to(x.dtype))
    return x


def _smoothed(*form: Any) -> Callable[..., Tensor]:
    def decompose(x: Tensor, output_size: Any, align_corners: bool, *scales: Any, **named: Any) -> Tensor:
        """A resize with ``antialias=True``, which 9.0 computes without."""
        given = _scales(scales, named)
        return _resized(x, _smooth, output_size, align_corners, given, *form)

    return decompose


def _scales(scales: Sequence[Any], named: dict[str, Any]) -> Sequence[float | None] | None:
    """The scales of either form of an operator: a list, or one argument an axis."""
    if "scale_factors" in named or (scales and not isinstance(scales[0], (int, float)) and len(scales) == 1):
        return named.get("scale_factors", scales[0] if scales else None)
    each = [*scales, *(named[name] for name in ("scales_h", "scales_w") if name in named)]
    return each if len(each) == 2 and any(each) else None


def _bicubic(x: Tensor, output_size: Any, align_corners: bool, *scales: Any, **named: Any) -> Tensor:
    """``upsample_bicubic2d``, of which PyTorch's decomposition has a hundred operators."""
    return _resized(x, _sharp, output_size, align_corners, _scales(scales, named), _cubic(-0.75), 2)


def _bilinear(x: Tensor, output_size: Any, align_corners: bool, *scales: Any, **named: Any) -> Tensor:
    """``upsample_bilinear2d`` by a scale that does not divide, which 9.0 refuses."""
    given = _scales(scales, named)
    if output_size is not None or align_corners or given is None:
        return NotImplemented
    if all(length * scale == int(length * scale) for length, scale in zip(x.shape[2:], given, strict=True) if scale):
        return NotImplemented
    return _resized(x, _sharp, None, align_corners, given, _triangle, 1)


def _nearest(x: Tensor, output_size: Any, *scales: Any, **named: Any) -> Tensor:
    """``upsample_nearest`` by no whole number: 9.0 takes other neighbours. In float32, as PyTorch computes places."""
    given = named.get("scale_factors", scales[0] if scales else None)
    given = [given] if isinstance(given, float) else given
    sizes, factors = _sizes(x, output_size, given)
    shape = x.shape[2:]
    if not _known(*shape, *sizes) or all(size % length == 0 for length, size in zip(shape, sizes, strict=True)):
        return NotImplemented
    for i, (length, size) in enumerate(zip(shape, sizes, strict=True)):
        if length == size and not factors[i]:
            continue
        step = torch.full([], _step(length, size, False, factors[i]), dtype=torch.float32)
        places = torch.floor(torch.arange(size).to(torch.float32) * step).to(torch.int32)
        x = x.index_select(i + 2, torch.clamp(places, max=length - 1))
    return x


RESAMPLING: dict[Any, Callable[..., Any]] = {
    aten._upsample_bilinear2d_aa.default: _smoothed(_triangle, 1.0),
    aten._upsample_bilinear2d_aa.vec: _smoothed(_triangle, 1.0),
    aten._upsample_bicubic2d_aa.default: _smoothed(_cubic(-0.5), 2.0),
    aten._upsample_bicubic2d_aa.vec: _smoothed(_cubic(-0.5), 2.0),
    aten.upsample_bicubic2d.default: _bicubic,
    aten.upsample_bicubic2d.vec: _bicubic,
    aten.upsample_bilinear2d.vec: _bilinear,
    aten.upsample_nearest1d.vec: _nearest,
    aten.upsample_nearest2d.vec: _nearest,
    aten.upsample_nearest3d.vec: _nearest,
}
"""Decompositions by operator."""
