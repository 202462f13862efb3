"""Slices by begin, end and stride, by size, and writing into a slice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic, SingleInside
from nanproof.ops import bound_joining as bounds
from nanproof.ops.record import Note, OpDef, Sample, float_block, int_block, ints, structural

__all__ = ["OPS"]


def _bits(mask: Tensor | None, rank: int) -> list[bool]:
    return [False] * rank if mask is None else [bool(b) for b in mask.reshape(-1).tolist()]


def _cut(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None,
    begin_mask: Tensor | None,
    end_mask: Tensor | None,
    squeeze_mask: Tensor | None,
) -> Tensor:
    """The slice of ``slice_by_index`` with every dimension kept; a squeezed one has size 1."""
    rank = x.dim()
    steps = [1] * rank if stride is None else ints(stride)
    from_start, to_end, single = _bits(begin_mask, rank), _bits(end_mask, rank), _bits(squeeze_mask, rank)
    for dim, (first, last, step) in enumerate(zip(ints(begin), ints(end), steps, strict=True)):
        chosen = range(x.shape[dim])[None if from_start[dim] else first : None if to_end[dim] else last : step]
        if single[dim]:
            place = 0 if from_start[dim] else first
            chosen = range(x.shape[dim])[place : place + 1 or None]
        upward = chosen if chosen.step > 0 else chosen[::-1]  # PyTorch slices upward only
        x = (
            x[(slice(None),) * dim + (slice(upward.start, upward.stop, upward.step),)]
            if len(chosen)
            else x.narrow(dim, 0, 0)
        )
        x = x if chosen.step > 0 else x.flip(dim)
    return x


def _slice_by_index(
    arithmetic: Arithmetic,
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    squeezed = tuple(d for d, bit in enumerate(_bits(squeeze_mask, x.dim())) if bit)
    cut = _cut(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    cut = arithmetic.cropped(cut, 0 if _bits(begin_mask, x.dim())[-1] else ints(begin)[-1])
    return cut.squeeze(squeezed) if squeezed else cut


def _slices() -> Iterator[dict[str, Any]]:
    """Ways to slice a tensor of shape (4, 5, 6)."""

    def i32(*values: int) -> np.ndarray:
        return np.array(values, np.int32)

    def bits(*values: int) -> np.ndarray:
        return np.array(values, np.bool_)

    yield {"begin": i32(1, 0, 2), "end": i32(3, 5, 6)}
    yield {"begin": i32(0, -4, 1), "end": i32(4, -1, 6), "stride": i32(2, 1, 3)}
    yield {"begin": i32(9, 1, 0), "end": i32(3, 9, 4), "begin_mask": bits(1, 0, 1), "end_mask": bits(0, 1, 0)}
    yield {"begin": i32(3, 4, 5), "end": i32(0, 1, 2), "stride": i32(-1, -2, -1)}
    yield {
        "begin": i32(0, 0, -1),
        "end": i32(0, 0, 1),
        "stride": i32(-1, -3, -2),
        "begin_mask": bits(1, 1, 0),
        "end_mask": bits(1, 1, 0),
    }
    yield {"begin": i32(2, -1, 1), "end": i32(0, 0, 4), "squeeze_mask": bits(1, 1, 0)}
    yield {"begin": i32(0, 0, 0), "end": i32(0, 5, 6), "end_mask": bits(1, 0, 0), "squeeze_mask": bits(0, 0, 1)}


def _slice_by_index_samples() -> Iterable[Sample]:
    yield from (Sample({"x": float_block(4, 5, 6), **slices}) for slices in _slices())
    yield Sample({"x": int_block(3, 2), "begin": np.array([1, 0], np.int32), "end": np.array([2, 2], np.int32)})
    yield Sample(
        {
            "x": int_block(4),
            "begin": np.array([-2], np.int32),
            "end": np.array([0], np.int32),
            "squeeze_mask": np.array([True]),
        }
    )


def _slice_update(
    arithmetic: Arithmetic,
    x: Tensor,
    update: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    places = _cut(torch.arange(x.numel()).reshape(x.shape), begin, end, stride, begin_mask, end_mask, squeeze_mask)
    result = x.flatten().clone()
    result[places.flatten()] = update.flatten()
    return result.reshape(x.shape)


def _slice_update_samples() -> Iterable[Sample]:
    x = float_block(4, 5, 6)
    for slices in _slices():
        chosen = {k: torch.from_numpy(v) for k, v in slices.items()}
        shape = _slice_by_index(SingleInside(), torch.from_numpy(x), **chosen).shape
        yield Sample({"x": x, "update": float_block(*shape, seed=1), **slices})


def _slice_by_size(arithmetic: Arithmetic, x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    for dim, (first, count) in enumerate(zip(ints(begin), ints(size), strict=True)):
        first += x.shape[dim] if first < 0 else 0
        x = x.narrow(dim, first, x.shape[dim] - first if count == -1 else count)
    return arithmetic.cropped(x, ints(begin)[-1])


def _slice_by_size_samples() -> Iterable[Sample]:
    for begin, size in (((1, 0, 2), (2, 5, 3)), ((0, 3, 1), (-1, -1, 1)), ((2, -2, 0), (1, 2, 6))):
        yield Sample({"x": float_block(4, 5, 6), "begin": np.array(begin, np.int32), "size": np.array(size, np.int32)})
    yield Sample({"x": int_block(5), "begin": np.array([1], np.int32), "size": np.array([3], np.int32)})


_MASKED_BEGIN = Note(
    "A masked begin means the first element in the direction of the stride: the last one for a negative stride, "
    "although the docstring says 0. A masked end likewise.",
    "coremltools 9.0, defs/_utils.py: solve_slice_by_index_slice hands None to NumPy",
)
_INFERRED = Note(
    "coremltools infers a shape that its own constant folding contradicts for an end below -size with a negative "
    "stride (one element too few) and for a begin of 1 in a dimension of size 1 (one element, where the slice is "
    "empty). nanproof follows NumPy.",
    "coremltools 9.0, defs/_utils.py: solve_slice_by_index_shape against solve_slice_by_index_slice",
)
_ZERO_SIZE = Note(
    "A size of 0 gives an empty slice; coremltools' constant folding treats it as -1 (all that remains).",
    "coremltools 9.0, class slice_by_size: type_inference against value_inference",
)

OPS: tuple[OpDef, ...] = (
    structural(
        "slice_by_index",
        _slice_by_index,
        _slice_by_index_samples,
        revisions=("iOS17",),
        bound=bounds.slices(_slice_by_index, clamps=True),
        notes=(_MASKED_BEGIN, _INFERRED),
    ),
    structural(
        "slice_by_size",
        _slice_by_size,
        _slice_by_size_samples,
        revisions=("iOS17",),
        bound=bounds.slices(_slice_by_size, clamps=False),
        notes=(_ZERO_SIZE,),
    ),
    structural(
        "slice_update",
        _slice_update,
        _slice_update_samples,
        since="iOS18",
        bound=bounds.updated(_slice_update),
        notes=(_MASKED_BEGIN, _INFERRED),
    ),
)
