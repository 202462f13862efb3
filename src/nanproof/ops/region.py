"""Regions of images: cutting out boxes, and choosing among overlapping ones. Also the labels of a classifier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic
from nanproof.ops import bound_interpolation, bound_memory, bound_ordering
from nanproof.ops.record import Note, OpDef, Sample, flag, float_block, int_block, ints, op
from nanproof.values.memory import affordable

__all__ = ["OPS"]


# ---------------------------------------------------------------------------------------------------------------------
# crop_resize


def _points(start: Tensor, end: Tensor, count: int, mode: str) -> Tensor:
    """Sampled points of each interval: ``(boxes, count)``, in float64.

    The grids of ``resize_bilinear`` on [0, size - 1], moved to [start, end], so that size is end - start + 1.
    """
    span = (end - start).unsqueeze(1)
    steps = torch.arange(count, dtype=torch.float64)
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        middle = 0.5 * span if mode == "ALIGN_CORNERS" else torch.zeros_like(span)
        grid = steps * span / (count - 1) if count > 1 else middle
    elif mode == "DEFAULT":
        grid = steps * (span + 1) / count
    elif mode == "OFFSET_CORNERS":
        grid = (steps + 0.5) * span.clamp(min=1) / count
    else:
        grid = (steps + 0.5) * (span + 1) / count - 0.5
    points = start.unsqueeze(1) + grid
    low, high = torch.minimum(start, end).unsqueeze(1), torch.maximum(start, end).unsqueeze(1)
    return points.clamp(low, high)


def _intervals(boxes: Tensor, mode: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """First row, last row, first column, last column of boxes ``(n, 4)`` in any convention."""
    first, second, third, fourth = boxes.unbind(1)
    if mode.startswith("CENTER_SIZE"):
        first, second, third, fourth = (
            first - third / 2,
            second - fourth / 2,
            first + third / 2,
            second + fourth / 2,
        )
    if mode.endswith("WIDTH_FIRST"):
        return second, fourth, first, third
    return first, third, second, fourth


def _crop_resize(
    arithmetic: Arithmetic,
    x: Tensor,
    roi: Tensor | None = None,
    target_height: Tensor | int = 1,
    target_width: Tensor | int = 1,
    normalized_coordinates: Tensor | bool = False,
    spatial_scale: Tensor | float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    boxes: Tensor | None = None,
    box_indices: Tensor | None = None,
    pad_value: Tensor | float = 0.0,
) -> Tensor:
    places, images = _boxes_of(x, roi, boxes, box_indices)
    top, bottom, left, right = _intervals(places.double() * float(spatial_scale), box_coordinate_mode)
    height, width = x.shape[-2:]
    if flag(normalized_coordinates):
        top, bottom, left, right = top * (height - 1), bottom * (height - 1), left * (width - 1), right * (width - 1)
    affordable([len(places), x.shape[1], int(target_height), int(target_width)])
    rows = _points(top, bottom, int(target_height), sampling_mode).unsqueeze(2)
    columns = _points(left, right, int(target_width), sampling_mode).unsqueeze(1)
    result = _sampled(arithmetic, x, images, rows, columns, float(pad_value))
    if roi is None:
        return result
    per_box = 1 if roi.shape[2] == 5 else x.shape[0]
    return result.unflatten(0, (roi.shape[0], per_box))


def _boxes_of(x: Tensor, roi: Tensor | None, boxes: Tensor | None, box_indices: Tensor | None) -> tuple[Tensor, Tensor]:
    """Boxes ``(n, 4)``, and for each the image that it is cut from, of the forms of iOS15 and iOS17."""
    if boxes is not None:
        return boxes, torch.arange(len(boxes)) if box_indices is None else box_indices.long()
    if roi is None:
        raise ValueError("crop_resize needs roi (up to iOS16) or boxes (from iOS17)")
    flat = roi.flatten(1)
    if flat.shape[1] == 5:
        return flat[:, 1:], flat[:, 0].long()
    every = torch.arange(x.shape[0])  # each box is cut from every image
    return flat.repeat_interleave(len(every), 0), every.repeat(len(flat))


def _sampled(
    arithmetic: Arithmetic, x: Tensor, images: Tensor, rows: Tensor, columns: Tensor, outside: float
) -> Tensor:
    """Bilinear samples ``(n, c, h, w)`` at rows ``(n, h, 1)`` and columns ``(n, 1, w)`` of the named images."""
    height, width = x.shape[-2:]
    top, left = rows.clamp(0, height - 1).floor().long(), columns.clamp(0, width - 1).floor().long()
    down, right = (rows - top).float().unsqueeze(1), (columns - left).float().unsqueeze(1)
    image = images.reshape(-1, 1, 1)
    total = torch.zeros(())
    for dy, share_y in ((0, 1 - down), (1, down)):
        for dx, share_x in ((0, 1 - right), (1, right)):
            row, column = (top + dy).clamp(max=height - 1), (left + dx).clamp(max=width - 1)
            corner = x[image, :, row, column].movedim(-1, 1)
            total = arithmetic.round(total + arithmetic.round(corner * arithmetic.round(share_y * share_x)))
    inside = (rows >= 0) & (rows <= height - 1) & (columns >= 0) & (columns <= width - 1)
    return torch.where(inside.unsqueeze(1), total, torch.tensor(outside))


def _crop_resize_samples() -> Iterable[Sample]:
    x = float_block(2, 3, 5, 6)
    boxes = np.array([[0.5, 1.0, 3.25, 4.5], [3.0, 4.0, 1.0, 2.0], [1.0, -1.5, 6.0, 3.0]], np.float32)
    sizes = {"target_height": 3, "target_width": 4}
    for mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS"):
        yield Sample({"x": x, "roi": boxes.reshape(3, 1, 4, 1, 1), **sizes, "sampling_mode": mode})
        indices = {"box_indices": np.array([1, 0, 1], np.int32)}
        yield Sample({"x": x, "boxes": boxes, **indices, "target_height": 1, "sampling_mode": mode})
    numbered = np.concatenate([np.zeros((3, 1), np.float32), boxes / 8], 1).reshape(3, 1, 5, 1, 1)
    for convention in ("CORNERS_HEIGHT_FIRST", "CORNERS_WIDTH_FIRST", "CENTER_SIZE_HEIGHT_FIRST"):
        modes = {"normalized_coordinates": True, "box_coordinate_mode": convention, "pad_value": np.float32(7.0)}
        yield Sample({"x": x[:1], "roi": numbered, **sizes, **modes})
    modes = {"box_coordinate_mode": "CENTER_SIZE_WIDTH_FIRST", "spatial_scale": np.float32(0.5)}
    yield Sample({"x": x, "boxes": boxes[:2], **sizes, **modes, "pad_value": np.float32(-1.0)})
    whole = int_block(2, 4, low=0, high=4).astype(np.uint16)
    yield Sample({"x": x, "boxes": whole, "box_indices": np.array([1, 1], np.uint16), **sizes})


# ---------------------------------------------------------------------------------------------------------------------
# non_maximum_suppression


def _overlaps(arithmetic: Arithmetic, boxes: Tensor) -> Tensor:
    """Intersection over union of every two boxes, given by their centres and sizes: ``(n, n)``."""
    rounded = arithmetic.round
    x, y, width, height = boxes.unbind(1)
    edges = [(rounded(c - rounded(s / 2)), rounded(c + rounded(s / 2))) for c, s in ((x, width), (y, height))]
    area = rounded(width * height)
    common = torch.ones(())
    for low, high in edges:
        start, end = torch.maximum(low, low.unsqueeze(1)), torch.minimum(high, high.unsqueeze(1))
        common = rounded(common * rounded(end - start).clamp(min=0))
    return rounded(common / rounded(rounded(area + area.unsqueeze(1)) - common))


def _kept(overlaps: Tensor, order: list[int], threshold: float, classes: list[int] | None, most: int) -> list[int]:
    """Boxes in descending order of their scores, without those that overlap a kept one of their class too much."""
    close = (overlaps > threshold).tolist()
    kept: list[int] = []
    for candidate in order:
        rivals = (k for k in kept if classes is None or classes[k] == classes[candidate])
        if len(kept) < most and not any(close[candidate][k] for k in rivals):
            kept.append(candidate)
    return kept


def _non_maximum_suppression(
    arithmetic: Arithmetic,
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: Tensor,
    max_boxes: Tensor,
    per_class_suppression: Tensor | bool = False,
    score_threshold: Tensor | None = None,
) -> list[Tensor]:
    older, most = score_threshold is not None, int(max_boxes)
    if not older:  # from iOS17 on the boxes stand in the last dimension
        boxes, scores = boxes.mT, scores.mT
    affordable([len(boxes), most, max(4, scores.shape[-1])])
    coordinates = boxes.new_zeros(len(boxes), most, 4)
    chosen = scores.new_zeros(len(boxes), most, scores.shape[-1])
    indices = torch.full((len(boxes), most), -1, dtype=torch.int32)
    counts = torch.zeros(len(boxes), dtype=torch.int32)
    for n, (places, values) in enumerate(zip(boxes, scores, strict=True)):
        best, label = values.max(-1)
        order = [int(i) for i in best.argsort(descending=True, stable=True)]
        if score_threshold is not None:
            passing = (best >= score_threshold).tolist()
            order = [i for i in order if passing[i]] or order[:1]
        classes = [int(k) for k in label] if flag(per_class_suppression) else None
        kept = _kept(_overlaps(arithmetic, places), order, float(iou_threshold), classes, most)
        coordinates[n, : len(kept)], chosen[n, : len(kept)] = places[kept], values[kept]
        indices[n, : len(kept)] = torch.tensor(kept, dtype=torch.int32)
        counts[n] = len(kept)
    return [coordinates, chosen, indices, counts] if older else [coordinates.mT, chosen.mT, indices]


def _non_maximum_suppression_samples() -> Iterable[Sample]:
    boxes = np.concatenate([float_block(2, 12, 2), 1 + np.abs(float_block(2, 12, 2, seed=1))], -1)
    scores = float_block(2, 12, 3, seed=2)
    for per_class in (False, True):
        common = {"iou_threshold": np.float32(0.3), "per_class_suppression": per_class}
        for threshold in (0.5, 9.0):
            limits = {"score_threshold": np.float32(threshold), "max_boxes": 7}
            yield Sample({"boxes": boxes, "scores": scores, **common, **limits})
        turned = {"boxes": boxes.swapaxes(1, 2).copy(), "scores": scores.swapaxes(1, 2).copy()}
        for most in (3, 20):
            yield Sample({**turned, **common, "max_boxes": most})


# ---------------------------------------------------------------------------------------------------------------------
# classify


def _classify(arithmetic: Arithmetic, probabilities: Tensor, classes: Tensor | tuple[str, ...]) -> tuple[Any, Any]:
    labels = list(classes) if isinstance(classes, tuple) else ints(classes)
    values = probabilities.flatten()
    best = int(values.argmax())
    label = classes[best] if isinstance(classes, tuple) else classes.reshape(-1)[best]
    return label, dict(zip(labels, values.tolist(), strict=True))


def _no_samples() -> Iterable[Sample]:
    return ()


_ROI = Note(
    "For roi with an image number coremltools infers (N, B, C, h, w); the result is (N, 1, C, h, w).",
    "coremltools 9.0, iOS15/image_resizing.py: the docstring of crop_resize against its type_inference",
)
_BOX = Note(
    "Sampling modes are those of resize_bilinear on an interval of end - start + 1 points; a centre lies half a size "
    "from both ends. Boxes beyond the stated domain are undefined: coremltools' iOS15 test shows one.",
    "NeuralNetwork.proto, SamplingMode ('without loss of generality [0, X-1]'); the centre form is an assumption",
)
_FALLBACK = Note(
    "If no score reaches score_threshold, the best box is selected all the same. Places without a box hold zeros, and "
    "the index -1.",
    "coremltools 9.0, tests iOS14/test_tensor_operation.py: _ref_non_maximum_suppression",
)
_RETURNED = Note(
    "Of equal probabilities the first label is returned.",
    "an assumption; the documentation does not say",
)

OPS: tuple[OpDef, ...] = (
    op(
        "crop_resize",
        "interpolation",
        _crop_resize,
        _crop_resize_samples,
        revisions=("iOS16", "iOS17"),
        bound=bound_interpolation.crop_resize,
        notes=(_ROI, _BOX),
    ),
    op(
        "non_maximum_suppression",
        "selection",
        _non_maximum_suppression,
        _non_maximum_suppression_samples,
        revisions=("iOS17",),
        bound=bound_ordering.suppressed,
        notes=(_FALLBACK,),
    ),
    # Samples cannot hold lists of labels; tests/laws/test_programs.py builds programs.
    op("classify", "classifier", _classify, _no_samples, bound=bound_memory.classify, notes=(_RETURNED,)),
)
