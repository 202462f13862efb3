"""Ops that read or write at computed places: the gather and scatter families."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic
from nanproof.ops import bound_lookup as bounds
from nanproof.ops import bound_scatter
from nanproof.ops.record import Note, OpDef, Sample, float_block, int_block, op, structural

__all__ = ["OPS"]


def _places(indices: Tensor, size: int, validate_indices: Tensor | bool = False) -> Tensor:
    """Indices as non-negative ``int64``. MIL counts negative ones from the end up to iOS16 and leaves them open later.

    Raises:
        IndexError: An index lies outside, or it is negative and to be validated; what a device reads there otherwise is
            undefined.
    """
    places = indices.long()
    if not validate_indices:
        places = torch.where(places < 0, places + size, places)
    if places.numel() and (int(places.min()) < 0 or int(places.max()) >= size):
        raise IndexError(
            f"the indices reach from {int(indices.min())} to {int(indices.max())}, but the axis has {size} elements"
        )
    return places


def _count(sizes: Iterable[int]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count


def _take(x: Tensor, places: Tensor) -> Tensor:
    """Rows ``x[b, places[b]]`` of a batch: ``(batch, n, m)`` at ``(batch, k)`` gives ``(batch, k, m)``."""
    if x.shape[0] == 1:  # no batch: an embedding look-up, where this is many times faster
        return x[0].index_select(0, places[0]).unsqueeze(0)
    return x[torch.arange(x.shape[0]).unsqueeze(1), places]


def _gather(
    arithmetic: Arithmetic,
    x: Tensor,
    indices: Tensor,
    axis: Tensor | int = 0,
    batch_dims: Tensor | int = 0,
    validate_indices: Tensor | bool = False,
) -> Tensor:
    dim, shared = int(axis) % x.dim(), int(batch_dims)
    rows = x.movedim(dim, shared)
    batch, rest, picked = rows.shape[:shared], rows.shape[shared + 1 :], indices.shape[shared:]
    places = _places(indices, x.shape[dim], validate_indices).reshape(_count(batch), _count(picked))
    taken = _take(rows.reshape(_count(batch), x.shape[dim], _count(rest)), places).reshape((*batch, *picked, *rest))
    # The picked dimensions belong where the axis was.
    source = range(shared, shared + len(picked))
    return taken.movedim(tuple(source), tuple(dim + i for i in range(len(picked))))


def _gather_samples() -> Iterable[Sample]:
    x = float_block(4, 3, 2)
    yield Sample({"x": x, "indices": np.array([2, 0, 3, 0], np.int32)})
    yield Sample({"x": x, "indices": np.array([[1, 0], [2, 1]], np.int32), "axis": 1})
    yield Sample({"x": x, "indices": np.int32(1), "axis": -1})
    yield Sample({"x": int_block(5), "indices": np.array([[4, -5, -1]], np.int32), "axis": 0})
    for indices, axis, batch_dims in (((4, 2), 1, 1), ((4, 5), 2, 1), ((4, 3, 2), -1, 2)):
        block = int_block(*indices, low=0, high=2)
        yield Sample({"x": x, "indices": block, "axis": axis, "batch_dims": batch_dims})
    yield Sample({"x": x, "indices": np.array([3], np.int32), "axis": 0, "batch_dims": 0, "validate_indices": True})


def _gather_along_axis(
    arithmetic: Arithmetic,
    x: Tensor,
    indices: Tensor,
    axis: Tensor | int = 0,
    validate_indices: Tensor | bool = False,
) -> Tensor:
    return x.gather(int(axis), _places(indices, x.shape[int(axis)], validate_indices))


def _gather_along_axis_samples() -> Iterable[Sample]:
    x = float_block(4, 3)
    yield Sample({"x": x, "indices": int_block(2, 3, low=0, high=4)})
    yield Sample({"x": x, "indices": int_block(4, 5, low=-3, high=3), "axis": -1})
    yield Sample({"x": int_block(2, 3, 2), "indices": int_block(2, 1, 2, low=0, high=3), "axis": 1})
    yield Sample({"x": x, "indices": int_block(4, 2, low=0, high=3), "axis": 1, "validate_indices": True})


def _flat_places(indices: Tensor, sizes: Sequence[int], validate_indices: Tensor | bool) -> Tensor:
    """Index tuples along the last dimension → places in a flattened tensor of those sizes."""
    flat = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for i, size in enumerate(sizes):
        flat = flat * size + _places(indices[..., i], size, validate_indices)
    return flat


def _gather_nd(
    arithmetic: Arithmetic,
    x: Tensor,
    indices: Tensor,
    batch_dims: Tensor | int = 0,
    validate_indices: Tensor | bool = False,
) -> Tensor:
    shared, depth = int(batch_dims), indices.shape[-1]
    batch, indexed, rest = x.shape[:shared], x.shape[shared : shared + depth], x.shape[shared + depth :]
    places = _flat_places(indices, indexed, validate_indices).reshape(_count(batch), -1)
    return _take(x.reshape(_count(batch), _count(indexed), _count(rest)), places).reshape((*indices.shape[:-1], *rest))


def _gather_nd_samples() -> Iterable[Sample]:
    x = float_block(2, 3, 4)
    yield Sample({"x": x, "indices": np.array([[0, 2], [1, -1]], np.int32)})
    yield Sample({"x": x, "indices": np.array([[[1], [0]], [[1], [1]]], np.int32)})
    yield Sample({"x": int_block(2, 3, 4), "indices": np.array([[1, 2, 3]], np.int32)})
    yield Sample({"x": x, "indices": np.array([[[2, 0]], [[1, 3]]], np.int32), "batch_dims": 1})
    yield Sample({"x": x, "indices": np.array([[[2], [0]], [[1], [1]]], np.int32), "batch_dims": 1})


# ---------------------------------------------------------------------------------------------------------------------
# Scatter

_MODES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "update": lambda old, new: new,
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": lambda old, new: old / new if old.is_floating_point() else torch.div(old, new, rounding_mode="trunc"),
    "max": torch.maximum,
    "min": torch.minimum,
}


def _turns(places: Tensor) -> Iterator[Tensor]:
    """Masks of the first, second, ... visit of every place, so that no mask visits a place twice."""
    order = torch.argsort(places, stable=True)
    ranked = places[order]
    turn = torch.empty_like(places)
    turn[order] = torch.arange(len(places)) - torch.searchsorted(ranked, ranked)
    for i in range(int(turn.max()) + 1 if len(places) else 0):
        yield turn == i


def _combine(arithmetic: Arithmetic, rows: Tensor, places: Tensor, updates: Tensor, mode: str) -> Tensor:
    """Put ``updates`` (k, ...) into ``rows`` (n, ...) at ``places`` (k,), one after the other.

    Each intermediate result is rounded, since a place visited again is read as the update before has stored it.
    """
    merge, rows = _MODES[mode], rows.clone()
    for turn in _turns(places):
        at = places[turn]
        rows[at] = arithmetic.round(merge(rows[at], updates[turn]))
    return rows


def _scatter(
    arithmetic: Arithmetic,
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: Tensor | int = 0,
    mode: str = "add",
    validate_indices: Tensor | bool = False,
) -> Tensor:
    dim = int(axis)
    places = _places(indices, data.shape[dim], validate_indices)
    return _combine(arithmetic, data.movedim(dim, 0), places, updates.movedim(dim, 0), mode).movedim(0, dim)


def _scatter_along_axis(
    arithmetic: Arithmetic,
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: Tensor | int = 0,
    mode: str = "add",
    validate_indices: Tensor | bool = False,
) -> Tensor:
    dim = int(axis) % data.dim()
    flat = torch.arange(data.numel()).reshape(data.shape)
    places = flat.gather(dim, _places(indices, data.shape[dim], validate_indices))
    return _combine(arithmetic, data.flatten(), places.flatten(), updates.flatten(), mode).reshape(data.shape)


def _scatter_nd(
    arithmetic: Arithmetic,
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    mode: str = "add",
    validate_indices: Tensor | bool = False,
) -> Tensor:
    depth = indices.shape[-1]
    rest = _count(data.shape[depth:])
    places = _flat_places(indices, data.shape[:depth], validate_indices).reshape(-1)
    rows, new = data.reshape(-1, rest), updates.reshape(-1, rest)
    return _combine(arithmetic, rows, places, new, mode).reshape(data.shape)


def _scatter_samples() -> Iterable[Sample]:
    data, indices = float_block(4, 3), np.array([2, 0, 2], np.int32)
    for mode in _MODES:
        yield Sample({"data": data, "indices": indices, "updates": float_block(3, 3, seed=1), "axis": 0, "mode": mode})
    yield Sample(
        {"data": data, "indices": np.array([-1, 0], np.int32), "updates": float_block(4, 2, seed=1), "axis": -1}
    )
    yield Sample(
        {"data": int_block(5), "indices": np.array([3, 3], np.int32), "updates": int_block(2, seed=1), "mode": "sub"}
    )


def _scatter_along_axis_samples() -> Iterable[Sample]:
    data, indices = float_block(4, 3), np.array([[1, 0, 1], [1, 2, 3]], np.int32)
    for mode in _MODES:
        yield Sample({"data": data, "indices": indices, "updates": float_block(2, 3, seed=1), "axis": 0, "mode": mode})
    yield Sample(
        {
            "data": data,
            "indices": int_block(4, 2, low=-3, high=3),
            "updates": float_block(4, 2, seed=1),
            "axis": -1,
            "mode": "update",
        }
    )
    yield Sample(
        {
            "data": int_block(2, 3),
            "indices": int_block(2, 3, low=0, high=3),
            "updates": int_block(2, 3, seed=1),
            "axis": 1,
            "mode": "update",
        }
    )


def _scatter_nd_samples() -> Iterable[Sample]:
    data, indices = float_block(2, 3, 4), np.array([[0, 1], [1, 2], [0, 1]], np.int32)
    for mode in _MODES:
        yield Sample({"data": data, "indices": indices, "updates": float_block(3, 4, seed=1), "mode": mode})
    yield Sample({"data": data, "indices": np.array([[1]], np.int32), "updates": float_block(1, 3, 4, seed=1)})
    yield Sample(
        {
            "data": int_block(5),
            "indices": np.array([[4], [-5]], np.int32),
            "updates": int_block(2, seed=1),
            "mode": "max",
        }
    )


_BATCHED_AXIS = Note(
    "With batch_dims, coremltools folds a constant gather over a wrong axis if the axis counts from the end.",
    "coremltools 9.0, defs/_utils.py: compute_gather subtracts batch_dims from the axis as given",
)
_NEGATIVE = Note(
    "Negative indices count from the end. iOS17 calls them out of bounds and what is read there undefined; nanproof "
    "still counts from the end, and raises for indices beyond both ends; with validate_indices for negative ones too.",
    "coremltools 9.0, classes iOS15.gather, iOS16.gather and iOS17.gather (docstrings)",
)
_DEFAULT_MODE = Note(
    "The default mode is 'add', although the docstring of scatter says 'update'.",
    "coremltools 9.0, iOS15/scatter_gather.py: scatter.default_inputs against its docstring",
)
_UPDATE_FOLDED = Note(
    "coremltools folds a constant scatter_along_axis as if the mode were 'update', whatever it is.",
    "coremltools 9.0, iOS15/scatter_gather.py: scatter_along_axis.value_inference (numpy.put_along_axis)",
)
_BOUNDS = Note(
    "With validate_indices, coremltools compares whole index tuples with the shape of x, which raises for legal tuples "
    "shorter than the rank.",
    "coremltools 9.0, iOS17/scatter_gather.py: gather_nd.type_inference and scatter_nd.type_inference",
)

OPS: tuple[OpDef, ...] = (
    structural(
        "gather",
        _gather,
        _gather_samples,
        revisions=("iOS16", "iOS17"),
        bound=bounds.known_places(_gather, bounds.gather),
        notes=(_NEGATIVE, _BATCHED_AXIS),
    ),
    structural(
        "gather_along_axis",
        _gather_along_axis,
        _gather_along_axis_samples,
        revisions=("iOS16", "iOS17"),
        bound=bounds.known_places(_gather_along_axis, bounds.gather_along),
        notes=(_NEGATIVE,),
    ),
    structural(
        "gather_nd",
        _gather_nd,
        _gather_nd_samples,
        revisions=("iOS16", "iOS17"),
        bound=bounds.known_places(_gather_nd, bounds.gather_nd),
        notes=(_NEGATIVE, _BOUNDS),
    ),
    op(
        "scatter",
        "scatter",
        _scatter,
        _scatter_samples,
        revisions=("iOS17",),
        bound=bound_scatter.scatter,
        notes=(_NEGATIVE, _DEFAULT_MODE),
    ),
    op(
        "scatter_along_axis",
        "scatter",
        _scatter_along_axis,
        _scatter_along_axis_samples,
        revisions=("iOS17",),
        bound=bound_scatter.scatter_along,
        notes=(_NEGATIVE, _UPDATE_FOLDED),
    ),
    op(
        "scatter_nd",
        "scatter",
        _scatter_nd,
        _scatter_nd_samples,
        revisions=("iOS17",),
        bound=bound_scatter.scatter_nd,
        notes=(_NEGATIVE, _BOUNDS),
    ),
)
