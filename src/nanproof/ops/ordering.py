"""Ops that answer with places or with values in order: argsort, topk, non_zero, one_hot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic
from nanproof.ops import bound_filling
from nanproof.ops import bound_ordering as bounds
from nanproof.ops.bounding import unbounded
from nanproof.ops.record import Note, OpDef, Sample, flag, float_block, int_block, op
from nanproof.values.memory import affordable

__all__ = ["OPS"]


def _one_hot(
    arithmetic: Arithmetic,
    indices: Tensor,
    one_hot_vector_size: Tensor,
    axis: Tensor | int = -1,
    on_value: Tensor | int = 1,
    off_value: Tensor | int = 0,
) -> Tensor:
    affordable([*indices.shape, int(one_hot_vector_size)])
    hit = indices.unsqueeze(-1) == torch.arange(int(one_hot_vector_size))
    return torch.where(hit, torch.as_tensor(on_value), torch.as_tensor(off_value)).movedim(-1, int(axis))


def _one_hot_samples() -> Iterable[Sample]:
    indices = np.array([[1, 0], [3, 2]], np.int32)
    yield Sample({"indices": indices, "one_hot_vector_size": 4})
    for axis in (0, 1, -2):
        values = {"on_value": np.float32(2.5), "off_value": np.float32(-1.0)}
        yield Sample({"indices": indices, "one_hot_vector_size": 5, "axis": axis, **values})
    yield Sample({"indices": np.array([7, -1], np.int32), "one_hot_vector_size": 3})  # out of range: no place is on


def _non_zero(arithmetic: Arithmetic, x: Tensor) -> Tensor:
    return torch.nonzero(x)


def _non_zero_samples() -> Iterable[Sample]:
    yield Sample({"x": np.array([[0.0, 1.5], [-0.0, -2.0]], np.float32)})
    yield Sample({"x": int_block(3, 4, low=-1, high=2)})
    yield Sample({"x": int_block(5) > 2})


def _order(x: Tensor, axis: Tensor | int, ascending: Tensor | bool) -> Tensor:
    return torch.argsort(x, dim=int(axis), descending=not flag(ascending), stable=True)


def _argsort(arithmetic: Arithmetic, x: Tensor, axis: Tensor | int = -1, ascending: Tensor | bool = False) -> Tensor:
    return _order(x, axis, ascending)


def _argsort_samples() -> Iterable[Sample]:
    yield Sample({"x": float_block(3, 4)})
    yield Sample({"x": float_block(3, 4), "axis": 0, "ascending": True})
    yield Sample({"x": np.array([3, -5, 7, 0], np.int32), "axis": -1, "ascending": False})


def _topk(
    arithmetic: Arithmetic,
    x: Tensor,
    k: Tensor | int = 1,
    axis: Tensor | int = -1,
    ascending: Tensor | bool = False,
    sort: Tensor | bool = True,
    return_indices: Tensor | bool = True,
    output_indices_dtype: str = "int32",
) -> Sequence[Tensor]:
    dim = int(axis)
    count = x.shape[dim] if int(k) == -1 else int(k)
    # With sort=False any order is legal, and equal values may stand in any order: the stable one is reproducible.
    places = _order(x, dim, ascending).narrow(dim, 0, count)
    values = x.gather(dim, places)
    return (values, places) if flag(return_indices) else (values,)


def _topk_samples() -> Iterable[Sample]:
    x = float_block(3, 5)
    yield Sample({"x": x})
    yield Sample({"x": x, "k": 3, "axis": -1, "ascending": True})
    yield Sample({"x": x, "k": 2, "axis": 0})
    yield Sample({"x": np.array([4, -1, 9, 2], np.int32), "k": 4, "axis": 0, "ascending": True})
    yield Sample({"x": x, "k": 2, "sort": True, "return_indices": False})
    yield Sample({"x": x, "k": 2, "axis": 1, "output_indices_dtype": "uint16"})


_TIES = Note(
    "Equal values keep their order; MIL does not say which comes first, and coremltools folds with an unstable sort.",
    "coremltools 9.0, classes argsort and topk: value_inference (numpy.argsort without kind)",
)
_OUT_OF_RANGE = Note(
    "An index outside [0, size) turns no place on.",
    "TensorFlow's tf.one_hot, from which coremltools lowers to this op unchanged; MIL says nothing",
)
_ALL = Note(
    "k = -1 takes all elements (iOS17); coremltools infers a size of -1 there.",
    "coremltools 9.0, iOS17/tensor_operation.py: docstring of topk against type_inference",
)

OPS: tuple[OpDef, ...] = (
    op("one_hot", "generator", _one_hot, _one_hot_samples, bound=bound_filling.one_hot, notes=(_OUT_OF_RANGE,)),
    op(
        "non_zero",
        "index",
        _non_zero,
        _non_zero_samples,
        bound=unbounded("how many places there are depends on the data"),
    ),
    op("argsort", "index", _argsort, _argsort_samples, bound=bounds.argsort, notes=(_TIES,)),
    op("topk", "sort", _topk, _topk_samples, revisions=("iOS16", "iOS17"), bound=bounds.topk, notes=(_TIES, _ALL)),
)
