"""Bounds of interpolation: weights are not negative and add up to one, so results stay among the elements.

Weights and products are rounded where the unit rounds the steps inside an op; then results may leave the hull a little.
Places are not told apart: each channel of each image has one box.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nanproof.numerics.arithmetic import SingleInside
from nanproof.ops.bound_movement import merged
from nanproof.ops.bounding import BoundRule, Reading, UnboundedError, parameter
from nanproof.ops.record import ints
from nanproof.values.bound import Bound

__all__ = ["affine", "crop_resize", "mixing", "nearest", "resample", "resize"]

_SINGLE = SingleInside()
_PLACES_MAX = 2.0**100
"""Coordinates below it, in float32, are not Inf after they are scaled to pixels."""


def _mixed(reading: Reading, shape: tuple[int, ...], low: Tensor, high: Tensor, nan: bool = False) -> Bound:
    """The hull, and what rounding adds: two passes or four products, each of a weight and an element."""
    error = 2.0**-7 if reading.machine.rounds else 2.0**-18
    size = torch.maximum(low.abs(), high.abs()) * error + (2.0**-21 if reading.machine.rounds else 2.0**-140)
    lower, upper = low - size, high + size
    # What is nowhere negative mixes to nothing negative, in any arithmetic.
    lower = torch.where(low >= 0, lower.clamp(min=0), lower)
    return Bound(shape, lower, torch.where(high <= 0, upper.clamp(max=0), upper), nan)


def _finite(x: Bound) -> None:
    if not x.finite:
        raise UnboundedError("its operand may be Inf or NaN, and a weight of zero makes NaN of Inf")


def _sizes(run: Callable[..., Any], x: Bound, others: dict[str, Any]) -> tuple[int, ...]:
    """The shape of the result by the rule of execution, on one channel of one image.

    Raises:
        UnboundedError: A size is computed.
    """
    given = {k: v if isinstance(v, str) else parameter(v, k) for k, v in others.items() if v is not None}
    lead = len(x.shape) - 2
    result = run(_SINGLE, x=torch.zeros([1] * lead + list(x.shape[-2:])), **given)
    return (*x.shape[:lead], *result.shape[-2:])


def mixing(run: Callable[..., Any]) -> BoundRule:
    """The rule of a bilinear resize of the last two axes, from the rule of execution."""

    def rule(reading: Reading, x: Bound, **others: Any) -> Bound:
        _finite(x)
        rank = len(x.shape)
        return _mixed(reading, _sizes(run, x, others), *merged(x, [rank - 2, rank - 1]))

    return rule


def nearest(run: Callable[..., Any]) -> BoundRule:
    """The rule of a resize of the last two axes that copies elements."""

    def rule(reading: Reading, x: Bound, **others: Any) -> Bound:
        rank = len(x.shape)
        return Bound(_sizes(run, x, others), *merged(x, [rank - 2, rank - 1]), x.nan, x.whole)

    return rule


def resize(
    reading: Reading,
    x: Bound,
    shape: Bound,
    resized_dims: Bound,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Bound:
    """A resize of the last axes, in turn."""
    count = int(parameter(resized_dims, "resized_dims"))
    wanted = ints(parameter(shape, "shape"))[-count:] if count else []
    rank = len(x.shape)
    first = rank - count
    sizes = (*x.shape[:first], *(n or x.shape[first + i] for i, n in enumerate(wanted)))
    low, high = merged(x, range(first, rank))
    if interpolation_mode == "NEAREST_NEIGHBOR":
        return Bound(sizes, low, high, x.nan, x.whole)
    _finite(x)
    for _ in range(max(1, (count + 1) // 2)):  # each covers two passes
        mixed = _mixed(reading, sizes, low, high)
        low, high = mixed.low, mixed.high
    return Bound(sizes, low, high)


def _with_padding(low: Tensor, high: Tensor, value: Bound | None) -> tuple[Tensor, Tensor]:
    """The hull with what stands outside of the image: zero if nothing is given."""
    if value is None:
        return low.clamp(max=0), high.clamp(min=0)
    if not value.finite:
        raise UnboundedError("the value outside of the image may be Inf or NaN")
    return low.clamp(max=value.least), high.clamp(min=value.most)


def _places(coordinates: Bound, scale: float) -> None:
    if not coordinates.finite or not coordinates.reach * scale < _PLACES_MAX:
        raise UnboundedError("its coordinates may be Inf or NaN, or too large to tell pixels apart")


def resample(
    reading: Reading,
    x: Bound,
    coordinates: Bound,
    sampling_mode: str,
    padding_mode: str,
    padding_value: Bound,
    coordinates_mode: str,
    align_corners: Bound,
) -> Bound:
    """Samples at given places."""
    _places(coordinates, max(1, *x.shape[2:]))
    sizes = (*x.shape[:2], *coordinates.shape[1:-1])
    return _sampled(reading, x, sizes, sampling_mode.lower(), padding_mode.lower(), padding_value)


def _sampled(
    reading: Reading, x: Bound, sizes: tuple[int, ...], sampling_mode: str, padding_mode: str, value: Bound
) -> Bound:
    low, high = merged(x, range(2, len(x.shape)))
    if padding_mode == "constant":
        low, high = _with_padding(low, high, value)
    if sampling_mode == "nearest":
        return Bound(sizes, low, high, x.nan)
    _finite(x)
    return _mixed(reading, sizes, low, high)


def affine(
    reading: Reading,
    x: Bound,
    transform_matrix: Bound,
    output_height: Bound,
    output_width: Bound,
    sampling_mode: str,
    padding_mode: str,
    padding_value: Bound,
    coordinates_mode: str,
    align_corners: Bound,
) -> Bound:
    """Samples at the places of an affine image of the grid."""
    _places(transform_matrix, 3.0 * max(1, *x.shape[2:]))
    sizes = (*x.shape[:2], *(int(parameter(n, "the size")) for n in (output_height, output_width)))
    return _sampled(reading, x, sizes, sampling_mode.lower(), padding_mode.lower(), padding_value)


def crop_resize(
    reading: Reading,
    x: Bound,
    roi: Bound | None = None,
    target_height: Bound | None = None,
    target_width: Bound | None = None,
    normalized_coordinates: Bound | None = None,
    spatial_scale: Bound | None = None,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    boxes: Bound | None = None,
    box_indices: Bound | None = None,
    pad_value: Bound | None = None,
) -> Bound:
    """Samples of any of the images, and what stands outside of them."""
    _finite(x)
    places = boxes if roi is None else roi
    if places is None:
        raise UnboundedError("it has no boxes")
    scale = 1.0 if spatial_scale is None else spatial_scale.reach
    _places(places, scale * 4 * max(1, *x.shape[-2:]))
    size = [1 if n is None else int(parameter(n, "the size")) for n in (target_height, target_width)]
    images, channels = x.shape[:2]
    if roi is None:
        sizes = (places.shape[0], channels, *size)
        _named(reading, box_indices, images)
        if box_indices is None and places.shape[0] > images:
            reading.doubt(f"there are {places.shape[0]} boxes and {images} images")
    else:
        numbered = roi.shape[2] == 5
        sizes = (roi.shape[0], 1 if numbered else images, channels, *size)
        if numbered:
            low, high = (t.expand(t.shape[0], t.shape[1], 5, *t.shape[3:])[:, :, 0] for t in (roi.low, roi.high))
            _named(reading, Bound((1,), low.amin().reshape(1), high.amax().reshape(1)), images)
    low, high = merged(x, [0, 2, 3])
    low, high = _with_padding(low, high, pad_value)
    box = [1] * (len(sizes) - 3) + [low.shape[1], 1, 1]
    return _mixed(reading, sizes, low.reshape(box), high.reshape(box))


def _named(reading: Reading, indices: Bound | None, images: int) -> None:
    if indices is not None and (indices.nan or indices.most >= images or indices.least <= -1):
        reading.doubt(f"an image may be named outside of the {images} that there are")
