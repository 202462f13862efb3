"""Images: resizing by sampling a grid, cropping, sampling at given coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic, SingleInside
from nanproof.ops import bound_interpolation as bounds
from nanproof.ops.record import Note, OpDef, Sample, flag, float_block, ints, op, structural
from nanproof.values.memory import affordable

__all__ = ["OPS"]


# ---------------------------------------------------------------------------------------------------------------------
# Resizing. A grid maps (input size, output size) to the points of the input that are sampled, in float64.

Grid = Callable[[int, int], Tensor]


def _steps(count: int) -> Tensor:
    return torch.arange(count, dtype=torch.float64)


def _strict_align(size: int, count: int) -> Tensor:
    return _steps(count) * ((size - 1) / (count - 1) if count > 1 else 0.0)


def _align(size: int, count: int) -> Tensor:
    return _strict_align(size, count) if count > 1 else torch.tensor([(size - 1) / 2], dtype=torch.float64)


def _corner(size: int, count: int) -> Tensor:
    return _steps(count) * size / count


def _offset(size: int, count: int) -> Tensor:
    return (_steps(count) + 0.5) * max(1, size - 1) / count


def _centre(size: int, count: int) -> Tensor:
    return (_steps(count) + 0.5) * size / count - 0.5


_GRIDS: dict[str, Grid] = {
    "STRICT_ALIGN_CORNERS": _strict_align,
    "ALIGN_CORNERS": _align,
    "DEFAULT": _corner,
    "OFFSET_CORNERS": _offset,
    "UNALIGN_CORNERS": _centre,
}


def _linear(arithmetic: Arithmetic, x: Tensor, dim: int, count: int, grid: Grid) -> Tensor:
    """``x`` resized along one dimension, each sample between its two neighbours."""
    size = x.shape[dim]
    affordable([x.numel() // max(1, size), count])
    points = grid(size, count).clamp(0, size - 1)
    lower = points.floor().long()
    if torch.equal(points, lower.double()):
        return x.index_select(dim, lower)
    upper = (lower + 1).clamp(max=size - 1)
    weight = arithmetic.round((points - lower).float()).reshape(-1, *(1,) * (x.dim() - 1 - dim % x.dim()))
    low, high = x.index_select(dim, lower), x.index_select(dim, upper)
    # Not low + weight * (high - low): that overflows where high - low does.
    return arithmetic.round(low * arithmetic.round(1 - weight)) + arithmetic.round(high * weight)


def _bilinear(arithmetic: Arithmetic, x: Tensor, height: int, width: int, grid: Grid) -> Tensor:
    aligned = grid in (_strict_align, _align)
    if isinstance(arithmetic, SingleInside) and (aligned or grid is _centre):
        sizes = zip(x.shape[-2:], (height, width), strict=True)
        if all(_is_exact_in_float32(size - aligned, count - aligned) for size, count in sizes):
            affordable([*x.shape[:-2], height, width])
            image = x.reshape(1, -1, *x.shape[-2:])
            resized = F.interpolate(image, (height, width), mode="bilinear", align_corners=aligned)
            return resized.reshape(*x.shape[:-2], height, width)
    rows = arithmetic.round(_linear(arithmetic, x, -2, height, grid))
    return _linear(arithmetic, rows, -1, width, grid)


def _is_exact_in_float32(size: int, count: int) -> bool:
    """Whether PyTorch, whose grid is one of float32, samples exactly at multiples of ``size / count``.

    It is ten times as fast, but for other ratios its points are off by some ulps of the size of the image. Where a
    dimension keeps its size it would multiply a neighbour by 0, which makes NaN of Inf.
    """
    if size == count or min(size, count) < 1:
        return False
    denominator = count // math.gcd(size, count)
    return denominator & (denominator - 1) == 0


def _nearest(x: Tensor, dim: int, count: int, numerator: int) -> Tensor:
    """``x`` at ``floor((2 i + numerator) size / (2 count))``: in whole numbers, where a float may land one short."""
    affordable([x.numel() // max(1, x.shape[dim]), count])
    places = (2 * torch.arange(count) + numerator) * x.shape[dim] // (2 * count)
    return x.index_select(dim, places)


def _upsample_nearest_neighbor(
    arithmetic: Arithmetic,
    x: Tensor,
    scale_factor_height: Tensor | float = 1,
    scale_factor_width: Tensor | float = 1,
) -> Tensor:
    height, width = _scaled(x.shape[-2], scale_factor_height), _scaled(x.shape[-1], scale_factor_width)
    return _nearest(_nearest(x, -2, height, 0), -1, width, 0)


def _scaled(size: int, factor: Tensor | float) -> int:
    # As coremltools computes it: a 0-d NumPy scalar times an int, so that a float32 factor stays float32.
    return int(np.floor(torch.as_tensor(factor).numpy()[()] * size))


def _upsample_nearest_samples() -> Iterable[Sample]:
    yield Sample({"x": float_block(2, 3, 4), "scale_factor_height": 2, "scale_factor_width": 3})
    yield Sample(
        {"x": float_block(1, 2, 3, 5), "scale_factor_height": np.float64(1.5), "scale_factor_width": np.float64(0.67)}
    )
    yield Sample({"x": float_block(1, 1, 2, 3)})


def _resize_nearest_neighbor(
    arithmetic: Arithmetic, x: Tensor, target_size_height: Tensor, target_size_width: Tensor
) -> Tensor:
    return _nearest(_nearest(x, -2, int(target_size_height), 1), -1, int(target_size_width), 1)


def _resize_nearest_samples() -> Iterable[Sample]:
    for height, width in ((3, 2), (7, 5), (2, 9)):
        yield Sample({"x": float_block(1, 2, 4, 3), "target_size_height": height, "target_size_width": width})
    yield Sample({"x": float_block(2, 2, 1), "target_size_height": 3, "target_size_width": 2})


def _upsample_bilinear(
    arithmetic: Arithmetic,
    x: Tensor,
    scale_factor_height: Tensor | float = 1,
    scale_factor_width: Tensor | float = 1,
    align_corners: Tensor | bool = True,
    half_pixel_centers: Tensor | bool | None = None,
) -> Tensor:
    align = flag(align_corners)
    centred = not align if half_pixel_centers is None else flag(half_pixel_centers)
    if align and centred:
        raise ValueError("upsample_bilinear cannot have both align_corners and half_pixel_centers")
    height, width = _scaled(x.shape[-2], scale_factor_height), _scaled(x.shape[-1], scale_factor_width)
    return _bilinear(arithmetic, x, height, width, _strict_align if align else _centre if centred else _corner)


def _upsample_bilinear_samples() -> Iterable[Sample]:
    x = float_block(1, 2, 3, 4)
    yield Sample({"x": x, "scale_factor_height": 2, "scale_factor_width": 3})
    for align, centred in ((True, False), (False, True), (False, False)):
        fractions = {"scale_factor_height": np.float64(2.5), "scale_factor_width": np.float64(0.75)}
        yield Sample({"x": x, **fractions, "align_corners": align, "half_pixel_centers": centred})
    yield Sample(
        {
            "x": float_block(2, 1, 2),
            "scale_factor_height": np.float64(1.0),
            "scale_factor_width": np.float64(2.6),
            "align_corners": False,
        }
    )


def _resize_bilinear(
    arithmetic: Arithmetic,
    x: Tensor,
    target_size_height: Tensor | int = 1,
    target_size_width: Tensor | int = 1,
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    return _bilinear(arithmetic, x, int(target_size_height), int(target_size_width), _GRIDS[sampling_mode])


def _resize_bilinear_samples() -> Iterable[Sample]:
    for mode in _GRIDS:
        for height, width in ((5, 2), (1, 7)):
            sizes = {"target_size_height": height, "target_size_width": width}
            yield Sample({"x": float_block(1, 2, 3, 4), **sizes, "sampling_mode": mode})
    yield Sample({"x": float_block(1, 1, 2), "target_size_height": 1, "target_size_width": 5})


def _resize(
    arithmetic: Arithmetic,
    x: Tensor,
    shape: Tensor,
    resized_dims: Tensor,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    wanted = ints(shape)[-int(resized_dims) :] if int(resized_dims) else []
    if interpolation_mode == "NEAREST_NEIGHBOR" and sampling_mode != "DEFAULT":
        raise ValueError(f"resize: what NEAREST_NEIGHBOR does with sampling_mode '{sampling_mode}' is not documented")
    for dim, count in enumerate(wanted, start=-len(wanted)):
        size = count or x.shape[dim]  # 0 stands for the size that is there
        if interpolation_mode == "NEAREST_NEIGHBOR":
            x = _nearest(x, dim, size, 1)
        else:
            x = arithmetic.round(_linear(arithmetic, x, dim, size, _GRIDS[sampling_mode]))
    return x


def _resize_samples() -> Iterable[Sample]:
    x = float_block(1, 2, 3, 4)
    for mode in _GRIDS:
        yield Sample({"x": x, "shape": np.array([5, 7], np.int32), "resized_dims": np.uint32(2), "sampling_mode": mode})
    yield Sample({"x": x, "shape": np.array([1, 0, 6], np.int32), "resized_dims": np.uint32(2)})
    yield Sample(
        {
            "x": x,
            "shape": np.array([9, 3, 5, 2], np.int32),
            "resized_dims": np.uint32(3),
            "interpolation_mode": "LINEAR",
        }
    )
    yield Sample(
        {
            "x": x,
            "shape": np.array([5, 7], np.int32),
            "resized_dims": np.uint32(2),
            "interpolation_mode": "NEAREST_NEIGHBOR",
        }
    )


# ---------------------------------------------------------------------------------------------------------------------
# Cropping and sampling


def _crop(arithmetic: Arithmetic, x: Tensor, crop_height: Tensor, crop_width: Tensor) -> Tensor:
    (top, bottom), (left, right) = ints(crop_height), ints(crop_width)
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def _crop_samples() -> Iterable[Sample]:
    yield Sample(
        {
            "x": float_block(1, 2, 4, 5),
            "crop_height": np.array([0, 1], np.int32),
            "crop_width": np.array([2, 1], np.int32),
        }
    )
    yield Sample(
        {"x": float_block(2, 3, 3), "crop_height": np.array([1, 0], np.int32), "crop_width": np.array([0, 0], np.int32)}
    )


def _pixels(coordinates: Tensor, size: int, mode: str, align_corners: bool) -> Tensor:
    """Coordinates of one axis → pixel numbers, fractions included."""
    if mode == "unnormalized":
        return coordinates
    unit = (coordinates + 1) / 2 if mode == "normalized_minus_one_to_one" else coordinates
    return unit * (size - 1) if align_corners else unit * size - 0.5


def _inside(points: Tensor, size: int, mode: str) -> Tensor:
    """Points of an image padded without end → the points of the image where the same values stand."""
    if mode == "constant":
        return points
    if mode == "reflection" and size > 1:
        points = _folded(points, 0.0, size - 1.0)
    if mode == "symmetric":
        points = _folded(points, -0.5, size - 0.5)
    return points.clamp(0, size - 1)


def _folded(points: Tensor, low: float, high: float) -> Tensor:
    span = high - low
    along = (points - low).remainder(2 * span)
    return torch.minimum(along, 2 * span - along) + low


def _read(x: Tensor, rows: Tensor, columns: Tensor, mode: str, value: Tensor | float) -> Tensor:
    """Pixels of ``x`` (n, c, h, w) at whole places (n, *out); those outside hold ``value``: ``(n, c, *out)``."""
    height, width = x.shape[-2:]
    rows, columns = rows.long(), columns.long()
    batch = torch.arange(x.shape[0]).reshape(-1, *(1,) * (rows.dim() - 1))
    pixels = x[batch, :, rows.clamp(0, height - 1), columns.clamp(0, width - 1)].movedim(-1, 1)
    if mode != "constant":
        return pixels
    outside = (rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)
    return torch.where(outside.unsqueeze(1), torch.as_tensor(value, dtype=x.dtype), pixels)


def _resample(
    arithmetic: Arithmetic,
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: Tensor | float,
    coordinates_mode: str,
    align_corners: Tensor | bool,
) -> Tensor:
    # Coordinates are kept in float32: in binary16 most pixels of a large image could not be told apart.
    align = flag(align_corners)
    column, row = (
        _inside(_pixels(coordinates[..., i].float(), size, coordinates_mode, align), size, padding_mode)
        for i, size in enumerate((x.shape[-1], x.shape[-2]))
    )
    if sampling_mode == "nearest":
        return _read(x, row.round(), column.round(), padding_mode, padding_value)
    top, left = row.floor(), column.floor()
    down, right = (row - top).unsqueeze(1), (column - left).unsqueeze(1)
    total = torch.zeros(())
    for dy, share_y in ((0, 1 - down), (1, down)):
        for dx, share_x in ((0, 1 - right), (1, right)):
            corner = _read(x, top + dy, left + dx, padding_mode, padding_value)
            share = arithmetic.round(share_y * share_x)
            total = arithmetic.round(total + arithmetic.round(corner * share))
    return total


def _resample_samples() -> Iterable[Sample]:
    x, coordinates = float_block(2, 3, 4, 5), float_block(2, 3, 4, 2, seed=1, scale=1.5)
    for sampling in ("bilinear", "nearest"):
        for padding in ("constant", "border", "reflection", "symmetric"):
            modes = {"sampling_mode": sampling, "padding_mode": padding, "padding_value": np.float32(0.5)}
            for coordinates_mode in ("unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one"):
                align = padding != "symmetric"
                grid = {"coordinates_mode": coordinates_mode, "align_corners": align}
                yield Sample({"x": x, "coordinates": coordinates, **modes, **grid})


def _affine(
    arithmetic: Arithmetic,
    x: Tensor,
    transform_matrix: Tensor,
    output_height: Tensor,
    output_width: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: Tensor | float,
    coordinates_mode: str,
    align_corners: Tensor | bool,
) -> Tensor:
    if not flag(align_corners):
        raise ValueError("affine with align_corners=False, which MIL does not support")
    affordable([*x.shape[:2], int(output_height), int(output_width)])
    row = torch.linspace(-1, 1, int(output_height)) if int(output_height) > 1 else torch.zeros(1)
    column = torch.linspace(-1, 1, int(output_width)) if int(output_width) > 1 else torch.zeros(1)
    matrix = transform_matrix.expand(x.shape[0], 6).reshape(-1, 2, 1, 1, 3)
    places = matrix[..., 0] * column + matrix[..., 1] * row.unsqueeze(1) + matrix[..., 2]  # (n, 2, height, width)
    return _resample(
        arithmetic,
        x,
        places.movedim(1, -1),
        sampling_mode.lower(),
        padding_mode.lower(),
        padding_value,
        coordinates_mode.lower(),
        align_corners,
    )


def _affine_samples() -> Iterable[Sample]:
    fixed = {
        "sampling_mode": "bilinear",
        "padding_mode": "constant",
        "padding_value": np.float32(0.0),
        "coordinates_mode": "normalized_minus_one_to_one",
        "align_corners": True,
    }
    matrix = np.array([[0.8, 0.3, -0.2, -0.4, 1.1, 0.1], [1.0, 0.0, 0.0, 0.0, -1.0, 0.0]], np.float32)
    for rows, height, width in ((slice(None), 3, 5), (slice(1), 6, 2)):
        size = {"output_height": height, "output_width": width}
        yield Sample({"x": float_block(2, 3, 4, 5), "transform_matrix": matrix[rows], **size, **fixed})


_UPSAMPLE = Note(
    "Samples floor(i * input / output). The ratio is that of the sizes, not the given factor, which the torch frontend "
    "makes a little too large on purpose (_get_scales_from_output_size).",
    "coremltools 9.0, tests iOS15/test_image_resizing.py (factor 0.67) and TensorFlow's half_pixel_centers=False",
)
_RESIZE = Note(
    "Samples floor((i + 1/2) * input / output), unlike upsample_nearest_neighbor.",
    "coremltools 9.0, tests iOS17/test_image_resizing.py (2 rows to 3 give rows 0, 1, 1); TensorFlow's "
    "half_pixel_centers=True",
)

_SAME_SIZE = Note(
    "A size of 0 is that of x, and the grid is applied all the same: OFFSET_CORNERS changes an image of the same size.",
    "coremltools 9.0, iOS17/image_resizing.py: 'the dimension in the output tensor will instead be inferred'",
)

OPS: tuple[OpDef, ...] = (
    structural(
        "upsample_nearest_neighbor",
        _upsample_nearest_neighbor,
        _upsample_nearest_samples,
        bound=bounds.nearest(_upsample_nearest_neighbor),
        notes=(_UPSAMPLE,),
    ),
    structural(
        "resize_nearest_neighbor",
        _resize_nearest_neighbor,
        _resize_nearest_samples,
        bound=bounds.nearest(_resize_nearest_neighbor),
        notes=(_RESIZE,),
    ),
    op(
        "upsample_bilinear",
        "interpolation",
        _upsample_bilinear,
        _upsample_bilinear_samples,
        revisions=("iOS16",),
        bound=bounds.mixing(_upsample_bilinear),
    ),
    op(
        "resize_bilinear",
        "interpolation",
        _resize_bilinear,
        _resize_bilinear_samples,
        bound=bounds.mixing(_resize_bilinear),
    ),
    op(
        "resize",
        "interpolation",
        _resize,
        _resize_samples,
        since="iOS17",
        bound=bounds.resize,
        notes=(_RESIZE, _SAME_SIZE),
    ),
    structural("crop", _crop, _crop_samples),
    op(
        "resample",
        "interpolation",
        _resample,
        _resample_samples,
        revisions=("iOS16", "iOS17"),
        bound=bounds.resample,
    ),
    op("affine", "interpolation", _affine, _affine_samples, bound=bounds.affine),
)
