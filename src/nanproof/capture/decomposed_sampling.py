"""Decompositions of ``grid_sample`` in the forms that coremltools 9.0 lacks: bicubic, and of volumes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._decomp.decompositions import grid_sampler_2d

__all__ = ["SAMPLING"]

aten = torch.ops.aten
_BILINEAR, _NEAREST, _BICUBIC = range(3)
_ZEROS, _BORDER, _REFLECTION = range(3)


def _grid_sampler_2d(x: Tensor, grid: Tensor, mode: int, padding: int, align_corners: bool) -> Tensor:
    """``grid_sampler_2d`` with a bicubic kernel: PyTorch's own decomposition."""
    return grid_sampler_2d(x, grid, mode, padding, align_corners) if mode == _BICUBIC else NotImplemented


def _place(at: Tensor, length: int, padding: int, align_corners: bool) -> Tensor:
    """Coordinates from -1 to 1 as places in the input, inside of it unless what is outside counts as zero."""
    place = (at + 1) * ((length - 1) / 2) if align_corners else ((at + 1) * length - 1) / 2
    if padding == _ZEROS:
        return place
    if padding == _REFLECTION:
        low, span = (0.0, float(length - 1)) if align_corners else (-0.5, float(length))
        distance = (place - low).abs()
        turns = torch.floor(distance / span) if span else torch.zeros_like(distance)
        rest = distance - turns * span
        place = torch.where(turns % 2 == 0, rest + low, span - rest + low)
    return torch.clamp(place, min=0.0, max=float(length - 1))


def _grid_sampler_3d(x: Tensor, grid: Tensor, mode: int, padding: int, align_corners: bool) -> Tensor:
    """``grid_sampler_3d``, which 9.0 lacks: the eight neighbours of each place, each by its weight."""
    batch, channels, *sizes = x.shape
    shape = grid.shape[1:-1]
    points = grid.reshape(batch, -1, 3)
    flat = x.reshape(batch, channels, -1)
    places = [_place(points[..., 2 - i], sizes[i], padding, align_corners) for i in range(3)]
    firsts = [torch.round(p) if mode == _NEAREST else torch.floor(p) for p in places]
    total = torch.zeros([])
    for corner in itertools.product((0, 1), repeat=3) if mode == _BILINEAR else ((0, 0, 0),):
        index, weight = torch.zeros([], dtype=torch.int64), torch.ones([])
        for i, step in enumerate(corner):
            at = firsts[i] + step
            if mode == _BILINEAR:
                weight = weight * (1 - (places[i] - at).abs())
            inside = (at >= 0) & (at <= sizes[i] - 1)
            weight = weight * inside.to(x.dtype)
            index = index * sizes[i] + torch.clamp(at, min=0.0, max=float(sizes[i] - 1)).to(torch.int64)
        taken = torch.gather(flat, 2, index.unsqueeze(1).expand(batch, channels, index.shape[-1]))
        total = total + taken * weight.unsqueeze(1)
    return total.reshape(batch, channels, *shape)


SAMPLING: dict[Any, Callable[..., Any]] = {
    aten.grid_sampler_2d.default: _grid_sampler_2d,
    aten.grid_sampler_3d.default: _grid_sampler_3d,
}
"""Decompositions by operator."""
