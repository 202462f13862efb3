"""Images, point by point in float64, from the formulas of the MIL documentation and from ``F.grid_sample``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

Array = np.ndarray


def grid_points(mode: str, size: int, count: int) -> list[float]:
    """The table in the docstring of ``resize_bilinear``, word by word."""
    points = []
    for i in range(count):
        if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
            point = i * (size - 1) / (count - 1) if count > 1 else 0.0 if mode[0] == "S" else (size - 1) / 2
        elif mode == "DEFAULT":
            point = i * (size - size / count) / (count - 1) if count > 1 else 0.0
        elif mode == "OFFSET_CORNERS":
            delta = max(1, size - 1) / count
            point = 0.5 * delta + i * delta
        else:
            point = i * size / count + 0.5 * size / count - 0.5
        points.append(min(size - 1, max(0.0, point)))
    return points


def _interpolated(x: Array, axis: int, mode: str, count: int) -> Array:
    positions = np.arange(x.shape[axis])
    points = grid_points(mode, x.shape[axis], count)
    return np.apply_along_axis(lambda row: np.interp(points, positions, row), axis, x.astype(np.float64))


def _nearest(x: Array, axis: int, count: int, shift: float) -> Array:
    size = x.shape[axis]
    # A tiny nudge keeps quotients that are whole numbers from landing just below them.
    return np.take(x, [math.floor((i + shift) * size / count + 1e-9) for i in range(count)], axis)


def _bilinear(x: Array, height: int, width: int, mode: str) -> Array:
    return _interpolated(_interpolated(x, x.ndim - 2, mode, height), x.ndim - 1, mode, width)


def _upsample_nearest(x: Array, scale_factor_height: Any = 1, scale_factor_width: Any = 1) -> Array:
    height = math.floor(np.float32(scale_factor_height) * x.shape[-2])
    width = math.floor(np.float32(scale_factor_width) * x.shape[-1])
    return _nearest(_nearest(x, -2, height, 0.0), -1, width, 0.0)


def _upsample_bilinear(
    x: Array,
    scale_factor_height: Any = 1,
    scale_factor_width: Any = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Array:
    size = (
        math.floor(np.float32(scale_factor_height) * x.shape[-2]),
        math.floor(np.float32(scale_factor_width) * x.shape[-1]),
    )
    if not align_corners and half_pixel_centers is False:
        return _bilinear(x, *size, "DEFAULT")
    image = torch.from_numpy(x.astype(np.float64)).reshape(1, -1, *x.shape[-2:])
    result = F.interpolate(image, size=size, mode="bilinear", align_corners=bool(align_corners))
    return result.numpy().reshape(*x.shape[:-2], *size)


def _resize(
    x: Array, shape: Array, resized_dims: Any, interpolation_mode: str = "LINEAR", sampling_mode: str = "DEFAULT"
) -> Array:
    for k in range(1, int(resized_dims) + 1):
        count = int(shape[-k]) or x.shape[-k]
        nearest = interpolation_mode == "NEAREST_NEIGHBOR"
        x = _nearest(x, -k, count, 0.5) if nearest else _interpolated(x, x.ndim - k, sampling_mode, count)
    return x


def _crop(x: Array, crop_height: Array, crop_width: Array) -> Array:
    (top, bottom), (left, right) = crop_height, crop_width
    rows = range(top, x.shape[-2] - bottom)
    return np.take(np.take(x, rows, -2), range(left, x.shape[-1] - right), -1)


def _resample(
    x: Array,
    coordinates: Array,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Array:
    """PyTorch's ``grid_sample`` on coordinates made its own: pixel centres at -1 and 1, or pixel edges."""
    sizes = np.array([x.shape[-1], x.shape[-2]], np.float64)
    grid = coordinates.astype(np.float64)
    if coordinates_mode == "normalized_zero_to_one":
        grid = grid * 2 - 1
    elif coordinates_mode == "unnormalized":
        grid = grid / (sizes - 1) * 2 - 1 if align_corners else (grid + 0.5) / sizes * 2 - 1
    modes = {"constant": "zeros", "border": "border", "reflection": "reflection", "symmetric": "reflection"}
    assert padding_mode != "reflection" or align_corners, "PyTorch reflects about the edges without align_corners"
    assert padding_mode != "symmetric" or not align_corners, "PyTorch reflects about the centres with align_corners"
    value = float(padding_value) if padding_mode == "constant" else 0.0
    # Padding with a value is padding with zeros of an image from which the value has been taken.
    result = F.grid_sample(
        torch.from_numpy(x.astype(np.float64) - value),
        torch.from_numpy(grid),
        sampling_mode,
        modes[padding_mode],
        bool(align_corners),
    )
    return result.numpy() + value


def _affine(x: Array, transform_matrix: Array, output_height: int, output_width: int, **rest: Any) -> Array:
    theta = np.broadcast_to(transform_matrix.astype(np.float64), (len(x), 6)).reshape(-1, 2, 3)
    grid = F.affine_grid(
        torch.from_numpy(theta.copy()), [len(x), x.shape[1], int(output_height), int(output_width)], align_corners=True
    )
    return F.grid_sample(torch.from_numpy(x.astype(np.float64)), grid, align_corners=True).numpy()


ORACLES: dict[str, Callable[..., Any]] = {
    "upsample_nearest_neighbor": _upsample_nearest,
    "resize_nearest_neighbor": lambda x, target_size_height, target_size_width: _nearest(
        _nearest(x, -2, target_size_height, 0.5), -1, target_size_width, 0.5
    ),
    "upsample_bilinear": _upsample_bilinear,
    "resize_bilinear": lambda x, target_size_height=1, target_size_width=1, sampling_mode="DEFAULT": _bilinear(
        x, target_size_height, target_size_width, sampling_mode
    ),
    "resize": _resize,
    "crop": _crop,
    "resample": _resample,
    "affine": _affine,
}
