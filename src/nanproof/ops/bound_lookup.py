"""Bounds of ops that read at computed places, fill, or count."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nanproof.ops.bound_movement import moves
from nanproof.ops.bounding import BoundRule, Reading, UnboundedError, parameter
from nanproof.values.bound import Ball, Bound, once, outward
from nanproof.values.floats import to_carrier

__all__ = ["gather", "gather_along", "gather_nd", "known_places"]


def known_places(run: Callable[..., Any], computed: BoundRule) -> BoundRule:
    """The rule of an op that reads at places: a movement where they are constants, and another rule where not."""
    moved = moves(run, injective=False)

    def rule(reading: Reading, x: Bound, indices: Bound, **others: Any) -> Any:
        if indices.value is not None and reading.op.inputs["x"][0].const is None:
            return moved(reading, x=x, indices=indices, **others)
        return computed(reading, x, indices, **others)

    return rule


def gather(
    reading: Reading,
    x: Bound,
    indices: Bound,
    axis: Bound | None = None,
    batch_dims: Bound | None = None,
    validate_indices: Bound | None = None,
) -> Bound:
    """Rows of a tensor: the hull of those that the indices may name. Of a constant table a ball, too."""
    shape = reading.shape()
    rank = len(x.shape)
    dim = (0 if axis is None else int(parameter(axis, "axis"))) % rank
    shared = 0 if batch_dims is None else int(parameter(batch_dims, "batch_dims"))
    size = x.shape[dim]
    first, last = _rows(reading, indices, size, validate_indices)
    table = reading.op.inputs["x"][0]
    if table.const is not None and shared == 0:
        rows = to_carrier(table.const, table.type.dtype)
        if not isinstance(rows, Tensor):
            raise UnboundedError("its table is text")
        chosen = rows.movedim(dim, 0)[first : last + 1]
        if rows.is_floating_point() and bool(chosen.isnan().any()):
            raise UnboundedError("its table holds NaN")
        low, high = chosen.amin(0).double(), chosen.amax(0).double()
        inserted = len(indices.shape)

        def placed(t: Tensor) -> Tensor:
            before, after = t.shape[:dim], t.shape[dim:]
            return t.reshape(*before, *(1,) * inserted, *after)

        result = Bound(shape, placed(low), placed(high), whole=not rows.is_floating_point())
        if rank == 2 and dim == 0 and rows.is_floating_point():
            return Bound(shape, result.low, result.high, balls=(_row_ball(chosen, len(shape)),))
        return result
    low, high = (t.narrow(dim, first, last - first + 1) if t.shape[dim] > 1 else t for t in (x.low, x.high))
    low, high = low.amin(dim, keepdim=True), high.amax(dim, keepdim=True)
    if shared or any(n > 1 for t in (low, high) for n in t.shape):
        # Where the other axes come to lie is not worth the trouble: nothing is told apart.
        return Bound(shape, _single(low.amin(), len(shape)), _single(high.amax(), len(shape)), x.nan, x.whole)
    return Bound(shape, _single(low.reshape(()), len(shape)), _single(high.reshape(()), len(shape)), x.nan, x.whole)


def _single(t: Tensor, rank: int) -> Tensor:
    return t.reshape([1] * rank)


def _least(size: int, validated: Bound | None) -> int:
    """The lowest index: negative ones count from the end, unless they are validated."""
    return 0 if validated is not None and bool(parameter(validated, "validate_indices")) else -size


def _rows(reading: Reading, indices: Bound, size: int, validated: Bound | None) -> tuple[int, int]:
    """The first and the last row that may be read. An index outside is a doubt: what a device reads is undefined."""
    low, high, lowest = indices.least, indices.most, _least(size, validated)
    if high >= size or low < lowest:
        reading.doubt(f"an index may be {low if low < lowest else high:.0f}, and there are {size} elements")
    if low < 0:
        return 0, size - 1
    return min(int(low), size - 1), min(int(high), size - 1)


def _row_ball(rows: Tensor, rank: int) -> Callable[[], Ball | None]:
    def made() -> Ball:
        one = torch.ones([1] * rank, dtype=torch.float64)
        norm = max((float(part.double().square().sum(-1).max()) for part in rows.split(4096)), default=0.0)
        return Ball(frozenset([rank - 1]), 0 * one, one, outward(one * math.sqrt(norm)), 0 * one)

    return once(made)


def gather_nd(
    reading: Reading,
    x: Bound,
    indices: Bound,
    batch_dims: Bound | None = None,
    validate_indices: Bound | None = None,
) -> Bound:
    """Some elements of a tensor; each coordinate has to lie inside."""
    shape = reading.shape()
    shared = 0 if batch_dims is None else int(parameter(batch_dims, "batch_dims"))
    low, high = (t.expand(*t.shape[:-1], indices.shape[-1]) for t in (indices.low, indices.high))
    for place in range(indices.shape[-1]):
        size = x.shape[shared + place]
        if float(high[..., place].max()) >= size or float(low[..., place].min()) < _least(size, validate_indices):
            reading.doubt(f"an index may lie outside of the {size} elements of axis {shared + place}")
    return Bound(shape, _single(x.low.amin(), len(shape)), _single(x.high.amax(), len(shape)), x.nan, x.whole)


def gather_along(
    reading: Reading, x: Bound, indices: Bound, axis: Bound | None = None, validate_indices: Bound | None = None
) -> Bound:
    """Elements along one axis: the hull along it."""
    shape = reading.shape()
    dim = (0 if axis is None else int(parameter(axis, "axis"))) % len(x.shape)
    first, last = _rows(reading, indices, x.shape[dim], validate_indices)
    low, high = (t.narrow(dim, first, last - first + 1) if t.shape[dim] > 1 else t for t in (x.low, x.high))
    low, high = low.amin(dim, keepdim=True), high.amax(dim, keepdim=True)
    if any(t.shape[a] not in (1, n) for t in (low, high) for a, n in enumerate(shape)):
        low, high = _single(low.amin(), len(shape)), _single(high.amax(), len(shape))
    return Bound(shape, low, high, x.nan, x.whole)
