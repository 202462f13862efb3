"""Regions of images, point by point and box by box; sparse compressed weights; a quantised convolution by PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tests.laws.oracle_contraction import same_padding
from tests.laws.oracle_image import grid_points

Array = np.ndarray


# ---------------------------------------------------------------------------------------------------------------------
# crop_resize


def _points(start: float, end: float, count: int, mode: str) -> list[float]:
    """The table of ``resize_bilinear`` for an interval of ``end - start + 1`` points, or its mirror image."""
    if start > end:
        mirrored = {"DEFAULT", "UNALIGN_CORNERS", "OFFSET_CORNERS"}
        if mode in mirrored:  # formulas with a negative size, which the documentation leaves open
            return [min(start, max(end, p)) for p in _formula(start, end, count, mode)]
        return _points(end, start, count, mode)[::-1] if count > 1 or mode == "ALIGN_CORNERS" else [start]
    return [start + p for p in grid_points(mode, end - start + 1, count)]


def _formula(start: float, end: float, count: int, mode: str) -> list[float]:
    size = end - start + 1
    if mode == "DEFAULT":
        return [start + i * size / count for i in range(count)]
    if mode == "OFFSET_CORNERS":
        return [start + (i + 0.5) * max(1, size - 1) / count for i in range(count)]
    return [start + (i + 0.5) * size / count - 0.5 for i in range(count)]


def _pixel(image: Array, row: float, column: float, outside: float) -> Array:
    height, width = image.shape[-2:]
    if not (0 <= row <= height - 1 and 0 <= column <= width - 1):
        return np.full(image.shape[0], outside)
    top, left = math.floor(row), math.floor(column)
    total = np.zeros(image.shape[0])
    for y, share_y in ((top, 1 - (row - top)), (top + 1, row - top)):
        for x, share_x in ((left, 1 - (column - left)), (left + 1, column - left)):
            if share_y * share_x:
                total += image[:, y, x].astype(np.float64) * share_y * share_x
    return total


def _corners(box: Array, convention: str) -> tuple[float, float, float, float]:
    a, b, c, d = (float(v) for v in box)
    if convention.startswith("CENTER"):
        a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
    return (a, b, c, d) if convention.endswith("HEIGHT_FIRST") else (b, a, d, c)


def _crop_resize(
    x: Array,
    roi: Any = None,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    boxes: Any = None,
    box_indices: Any = None,
    pad_value: float = 0.0,
) -> Array:
    height, width = x.shape[-2:]
    factors = np.array([height - 1, width - 1] * 2 if normalized_coordinates else [1] * 4, np.float64)

    def cut(image: Array, box: Array) -> Array:
        scaled = box.astype(np.float64) * float(spatial_scale)
        top, left, bottom, right = np.array(_corners(scaled, box_coordinate_mode)) * factors
        rows = _points(top, bottom, target_height, sampling_mode)
        columns = _points(left, right, target_width, sampling_mode)
        pixels = [[_pixel(image, r, c, float(pad_value)) for c in columns] for r in rows]
        return np.moveaxis(np.array(pixels), -1, 0)

    if boxes is not None:
        numbers = range(len(boxes)) if box_indices is None else box_indices
        return np.stack([cut(x[int(i)], box) for i, box in zip(numbers, boxes, strict=True)])
    flat = roi.reshape(len(roi), -1)
    if flat.shape[1] == 5:
        return np.stack([cut(x[int(row[0])], row[1:])[None] for row in flat])
    return np.stack([np.stack([cut(image, row) for image in x]) for row in flat])


# ---------------------------------------------------------------------------------------------------------------------
# non_maximum_suppression


def _overlap(a: Array, b: Array) -> float:
    sides = [
        min(a[k] + a[k + 2] / 2, b[k] + b[k + 2] / 2) - max(a[k] - a[k + 2] / 2, b[k] - b[k + 2] / 2) for k in (0, 1)
    ]
    common = max(sides[0], 0) * max(sides[1], 0)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def _suppressed(
    boxes: Array, scores: Array, iou_threshold: Any, max_boxes: Any, per_class: bool, score_threshold: Any
) -> list[int]:
    """ "Iteratively removes lower-scoring boxes which have an IoU greater than iou_threshold with another.\""""
    best = scores.max(-1)
    left = [i for i in range(len(boxes)) if score_threshold is None or best[i] >= score_threshold]
    left = left or [int(best.argmax())]
    chosen = []
    while left and len(chosen) < max_boxes:
        top = max(left, key=lambda i: best[i])
        chosen.append(top)
        same = scores.argmax(-1) == scores[top].argmax() if per_class else np.ones(len(boxes), bool)
        left = [i for i in left if i != top and not (same[i] and _overlap(boxes[i], boxes[top]) > float(iou_threshold))]
    return chosen


def _non_maximum_suppression(
    boxes: Array,
    scores: Array,
    iou_threshold: Any,
    max_boxes: int,
    per_class_suppression: bool = False,
    score_threshold: Any = None,
) -> tuple[Array, ...]:
    newer = score_threshold is None
    if newer:
        boxes, scores = np.swapaxes(boxes, 1, 2), np.swapaxes(scores, 1, 2)
    places = np.zeros((len(boxes), max_boxes, 4), np.float32)
    values = np.zeros((len(boxes), max_boxes, scores.shape[2]), np.float32)
    indices = np.full((len(boxes), max_boxes), -1)
    counts = []
    for n in range(len(boxes)):
        chosen = _suppressed(
            boxes[n].astype(np.float64), scores[n], iou_threshold, max_boxes, per_class_suppression, score_threshold
        )
        for k, i in enumerate(chosen):
            places[n, k], values[n, k], indices[n, k] = boxes[n, i], scores[n, i], i
        counts.append(len(chosen))
    if newer:
        return np.swapaxes(places, 1, 2), np.swapaxes(values, 1, 2), indices
    return places, values, indices, np.array(counts)


# ---------------------------------------------------------------------------------------------------------------------
# Weights


def _sparse_blockwise(data_mask: Array, nonzero_data: Array, scale: Array, offset: Any = None) -> tuple[Array, Array]:
    values = []
    for place, number in zip(np.argwhere(data_mask), nonzero_data, strict=True):
        block = tuple(p // (n // m) for p, n, m in zip(place, data_mask.shape, scale.shape, strict=True))
        values.append(float(scale[block]) * (float(number) - (0.0 if offset is None else float(offset[block]))))
    return data_mask, np.array(values)


def _lut_to_sparse(
    indices_mask: Array, indices_nonzero_data: Array, lut: Array, vector_axis: Any = None
) -> tuple[Array, Array]:
    axis, size = int(vector_axis or 0), lut.shape[-1]
    wide = list(indices_mask.shape)
    wide[axis] *= size
    dense: Array = np.full(wide, np.nan)
    for place, index in zip(np.argwhere(indices_mask), indices_nonzero_data, strict=True):
        table = tuple(p // (n // m) for p, n, m in zip(place, indices_mask.shape, lut.shape, strict=False))
        for k in range(size):
            target = [int(p) for p in place]
            target[axis] = target[axis] * size + k
            dense[tuple(target)] = lut[(*table, index, k)]
    mask = ~np.isnan(dense)
    return mask.astype(np.uint8), dense[mask]


def _conv_quantized(
    x: Array,
    weight: Array,
    quantization_type: str,
    quant_scale: Any,
    quant_bias: Any,
    bias: Any = None,
    nbits: int = 8,
    strides: Any = (1, 1),
    pad_type: str = "valid",
) -> Array:
    column = (-1, *(1,) * (weight.ndim - 1))
    scale, shift = (np.asarray(p, np.float64).reshape(column) for p in (quant_scale, quant_bias))
    dense = torch.from_numpy(weight * scale + shift)
    image = torch.from_numpy(x.astype(np.float64))
    if pad_type == "same":
        sizes = zip(x.shape[2:], weight.shape[2:], strides, strict=True)
        amounts = [same_padding(n, k, int(s)) for n, k, s in sizes]
        image = F.pad(image, [a for pair in reversed(amounts) for a in pair])
    offset = None if bias is None else torch.from_numpy(bias.astype(np.float64))
    return F.conv2d(image, dense, offset, tuple(int(s) for s in strides)).numpy()


ORACLES: dict[str, Callable[..., Any]] = {
    "crop_resize": _crop_resize,
    "non_maximum_suppression": _non_maximum_suppression,
    "constexpr_sparse_blockwise_shift_scale": _sparse_blockwise,
    "constexpr_lut_to_sparse": _lut_to_sparse,
    "conv_quantized": _conv_quantized,
}
