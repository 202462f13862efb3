"""Bounds of ops that answer with places, or with values in order."""

from __future__ import annotations

from typing import Any

from nanproof.ops.bound_movement import merged
from nanproof.ops.bounding import Reading, UnboundedError, parameter
from nanproof.ops.record import flag
from nanproof.values.bound import Bound

__all__ = ["argsort", "suppressed", "topk"]


def argsort(reading: Reading, x: Bound, axis: Bound | None = None, ascending: Bound | None = None) -> Bound:
    """Places along an axis."""
    dim = -1 if axis is None else int(parameter(axis, "axis"))
    return Bound.interval(x.shape, 0.0, max(x.shape[dim] - 1, 0), whole=True)


def topk(
    reading: Reading,
    x: Bound,
    k: Bound | None = None,
    axis: Bound | None = None,
    ascending: Bound | None = None,
    sort: Bound | None = None,
    return_indices: Bound | None = None,
    output_indices_dtype: str = "int32",
) -> Any:
    """The i-th largest element lies between the i-th largest of the lower bounds and that of the upper ones."""
    dim = (-1 if axis is None else int(parameter(axis, "axis"))) % len(x.shape)
    wanted = 1 if k is None else int(parameter(k, "k"))
    count = x.shape[dim] if wanted == -1 else wanted
    if not 0 <= count <= x.shape[dim]:
        raise UnboundedError(f"there are no {count} elements along an axis of {x.shape[dim]}")
    rising = ascending is not None and flag(parameter(ascending, "ascending"))
    ordered = sort is None or flag(parameter(sort, "sort"))
    shape = (*x.shape[:dim], count, *x.shape[dim + 1 :])
    low, high = x.low, x.high
    if low.shape[dim] == 1 == high.shape[dim] or x.nan:
        low, high = merged(x, [dim])
    else:
        low, high = (t.sort(dim, descending=not rising).values.narrow(dim, 0, count) for t in x.resolved(dim))
        if not ordered:
            low, high = merged(Bound(shape, low, high), [dim])
    places = Bound.interval(shape, 0.0, max(x.shape[dim] - 1, 0), whole=True)
    return [Bound(shape, low, high, x.nan, x.whole), places][: len(reading.op.outputs)]


def suppressed(reading: Reading, boxes: Bound, scores: Bound, max_boxes: Bound, **others: Any) -> list[Bound]:
    """Some of the boxes with their scores, and zeros in the places of those that are missing; -1 for their indices."""
    chosen = [
        Bound.interval(reading.shape(i), min(x.least, 0.0), max(x.most, 0.0), whole=x.whole)
        for i, x in enumerate((boxes, scores))
    ]
    if boxes.nan or scores.nan:
        raise UnboundedError("a box or a score may be NaN")
    count = max(boxes.shape[1:])
    indices = Bound.interval(reading.shape(2), -1.0, count - 1.0, whole=True)
    if len(reading.op.outputs) == 3:
        return [*chosen, indices]
    return [*chosen, indices, Bound.interval(reading.shape(3), 0.0, max(max_boxes.most, 0.0), whole=True)]
