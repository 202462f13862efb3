"""Ops that move values about: reshape, transpose, concat, split, tile, windows over an axis, space and depth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic
from nanproof.ops import bound_joining as bounds
from nanproof.ops.bound_movement import moves
from nanproof.ops.record import Note, OpDef, Sample, flag, float_block, int_block, ints, structural
from nanproof.values.memory import affordable

__all__ = ["OPS"]


def _i32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def _reshape(arithmetic: Arithmetic, x: Tensor, shape: Tensor) -> Tensor:
    wanted = ints(shape)
    # Zeros inherit a dimension, counted from the right (iOS17). For equal ranks, the only case that iOS15 allows,
    # left and right agree.
    for place in (i for i, size in enumerate(wanted) if size == 0):
        from_right = len(wanted) - place
        wanted[place] = x.shape[-from_right] if from_right <= x.dim() else 1
    return x.reshape(wanted)


def _reshape_samples() -> Iterable[Sample]:
    x = float_block(2, 3, 4)
    yield Sample({"x": x, "shape": _i32(4, 6)})
    yield Sample({"x": x, "shape": _i32(2, -1)})
    yield Sample({"x": x, "shape": _i32(0, -1, 2)})
    yield Sample({"x": float_block(2, 1, 5), "shape": _i32(1, 0, -1, 0)})  # longer than the rank: iOS17 only
    yield Sample({"x": int_block(6), "shape": _i32(3, 2)})
    yield Sample({"x": int_block(2, 2) > 0, "shape": _i32(-1)})


def _reshape_like(
    arithmetic: Arithmetic,
    x: Tensor,
    ref_tensors: Sequence[Tensor],
    begins: Sequence[Tensor],
    ends: Sequence[Tensor],
    end_masks: Sequence[Tensor],
) -> Tensor:
    shape: list[int] = []
    for ref, begin, end, to_end in zip(ref_tensors, begins, ends, end_masks, strict=True):
        shape += ref.shape[int(begin) : None if flag(to_end) else int(end)]
    return x.reshape(shape)


def _reshape_like_samples() -> Iterable[Sample]:
    # The example of the op's documentation: the result has the shape (2, 3, 5, 6).
    yield Sample(
        {
            "x": float_block(6, 30),
            "ref_tensors": [float_block(2, 3, 4), float_block(1, 5, 6)],
            "begins": [np.array(0, np.int32), np.array(1, np.int32)],
            "ends": [np.array(2, np.int32), np.array(0, np.int32)],
            "end_masks": [np.array(False), np.array(True)],
        }
    )


def _transpose(arithmetic: Arithmetic, x: Tensor, perm: Tensor) -> Tensor:
    return x.permute(ints(perm))


def _transpose_samples() -> Iterable[Sample]:
    yield Sample({"x": float_block(2, 3, 4), "perm": _i32(2, 0, 1)})
    yield Sample({"x": int_block(2, 3, 4), "perm": _i32(0, -1, -2)})


def _expand_dims(arithmetic: Arithmetic, x: Tensor, axes: Tensor) -> Tensor:
    places = ints(axes)
    rank = x.dim() + len(places)
    for place in sorted(a % rank for a in places):
        x = x.unsqueeze(place)
    return x


def _expand_dims_samples() -> Iterable[Sample]:
    yield Sample({"x": float_block(2, 3), "axes": _i32(1)})
    yield Sample({"x": float_block(2, 3), "axes": _i32(-1, 0)})
    yield Sample({"x": int_block(3), "axes": _i32(0, 2)})


def _squeeze(arithmetic: Arithmetic, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(ints(axes)))


def _squeeze_samples() -> Iterable[Sample]:
    yield Sample({"x": float_block(1, 3, 1, 2)})
    yield Sample({"x": float_block(1, 3, 1, 2), "axes": _i32(-2)})
    yield Sample({"x": int_block(1, 1, 3), "axes": _i32(0, 1)})


def _concat(
    arithmetic: Arithmetic, values: Sequence[Tensor], axis: Tensor, interleave: Tensor | bool = False
) -> Tensor:
    dim = int(axis)
    if values[0].dim() == 0:
        return torch.stack(list(values))
    if not flag(interleave):
        return torch.cat(list(values), dim)
    dim %= values[0].dim()
    return torch.stack(list(values), dim + 1).flatten(dim, dim + 1)


def _concat_samples() -> Iterable[Sample]:
    yield Sample({"values": [float_block(2, 3), float_block(2, 1, seed=1)], "axis": 1})
    yield Sample({"values": [float_block(2, 3), float_block(1, 3, seed=1), float_block(4, 3, seed=2)], "axis": -2})
    yield Sample({"values": [float_block(3, 2), float_block(3, 2, seed=1)], "axis": 0, "interleave": True})
    yield Sample({"values": [float_block(2, 2, 3), float_block(2, 2, 3, seed=1)], "axis": -1, "interleave": True})
    yield Sample({"values": [int_block(3), int_block(2, seed=1)], "axis": 0})


def _split(
    arithmetic: Arithmetic,
    x: Tensor,
    axis: Tensor,
    num_splits: Tensor | None = None,
    split_sizes: Tensor | None = None,
) -> Sequence[Tensor]:
    dim = int(axis)
    if split_sizes is not None:
        return x.split(ints(split_sizes), dim)
    if num_splits is None:
        raise ValueError("split needs num_splits or split_sizes")
    return x.split(x.shape[dim] // int(num_splits), dim)


def _split_samples() -> Iterable[Sample]:
    yield Sample({"x": float_block(2, 6), "axis": 1, "num_splits": 3})
    yield Sample({"x": float_block(5, 2), "axis": -2, "split_sizes": _i32(1, 4)})
    yield Sample({"x": int_block(4, 2), "axis": 0, "num_splits": 3, "split_sizes": _i32(2, 1, 1)})


def _stack(arithmetic: Arithmetic, values: Sequence[Tensor], axis: Tensor) -> Tensor:
    return torch.stack(list(values), int(axis))


def _stack_samples() -> Iterable[Sample]:
    pair = [float_block(2, 3), float_block(2, 3, seed=1)]
    yield from (Sample({"values": pair, "axis": axis}) for axis in (0, 1, -1))
    yield Sample({"values": [int_block(3), int_block(3, seed=1), int_block(3, seed=2)], "axis": 1})


def _tile(arithmetic: Arithmetic, x: Tensor, reps: Tensor) -> Tensor:
    times = ints(reps)
    affordable(size * n for size, n in zip(x.shape, times, strict=True))
    return x.repeat(times)


def _tile_samples() -> Iterable[Sample]:
    yield Sample({"x": float_block(2, 3), "reps": _i32(2, 1)})
    yield Sample({"x": int_block(2, 1, 2), "reps": _i32(1, 3, 2)})


def _reverse(arithmetic: Arithmetic, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.flip(list(range(x.dim())) if axes is None else ints(axes))


def _reverse_samples() -> Iterable[Sample]:
    yield Sample({"x": float_block(2, 3, 2)})
    yield Sample({"x": float_block(2, 3, 2), "axes": _i32(-1, 0)})
    yield Sample({"x": int_block(4, 2), "axes": _i32(0)})


def _reverse_sequence(
    arithmetic: Arithmetic, x: Tensor, lengths: Tensor, seq_axis: Tensor | int = 0, batch_axis: Tensor | int = 0
) -> Tensor:
    along, across = int(seq_axis) % x.dim(), int(batch_axis) % x.dim()
    position = torch.arange(x.shape[along])
    count = lengths.long().unsqueeze(1)
    source = torch.where(position < count, count - 1 - position, position)  # (batch, sequence)
    source = source if across < along else source.T
    shape = [x.shape[d] if d in (along, across) else 1 for d in range(x.dim())]
    return x.gather(along, source.reshape(shape).expand(x.shape))


def _reverse_sequence_samples() -> Iterable[Sample]:
    yield Sample({"x": float_block(3, 4, 2), "lengths": _i32(0, 4, 2), "seq_axis": 1, "batch_axis": 0})
    yield Sample({"x": float_block(4, 2, 3), "lengths": _i32(3, 1, 4), "seq_axis": 0, "batch_axis": -1})
    yield Sample({"x": int_block(2, 5), "lengths": _i32(5, 3), "seq_axis": -1, "batch_axis": 0})


def _flatten2d(arithmetic: Arithmetic, x: Tensor, axis: Tensor | int = 1) -> Tensor:
    rows = 1
    for size in x.shape[: int(axis)]:
        rows *= size
    return x.reshape(rows, x.numel() // rows if rows else 0)


def _flatten2d_samples() -> Iterable[Sample]:
    yield Sample({"x": float_block(2, 3, 2)})
    yield from (Sample({"x": float_block(2, 3, 2), "axis": axis}) for axis in (-1, 0, 3))
    yield Sample({"x": int_block(3), "axis": -1})


def _sliding_windows(arithmetic: Arithmetic, x: Tensor, axis: Tensor, size: Tensor, stride: Tensor | int = 1) -> Tensor:
    dim = int(axis) % x.dim()
    return x.unfold(dim, int(size), int(stride)).movedim(-1, dim + 1)


def _sliding_windows_samples() -> Iterable[Sample]:
    yield Sample({"x": float_block(2, 6, 2), "axis": 1, "size": 3})
    yield Sample({"x": float_block(2, 7), "axis": -1, "size": 2, "stride": 3})
    yield Sample({"x": int_block(5, 2), "axis": 0, "size": 4, "stride": 1})


def _depth_to_space(arithmetic: Arithmetic, x: Tensor, block_size: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = int(block_size)
    blocks = x.reshape(n, b, b, c // (b * b), h, w)  # (n, row in block, column in block, channel, h, w)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, c // (b * b), h * b, w * b)


def _space_to_depth(arithmetic: Arithmetic, x: Tensor, block_size: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = int(block_size)
    blocks = x.reshape(n, c, h // b, b, w // b, b)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)


def _batch_to_space(arithmetic: Arithmetic, x: Tensor, block_shape: Tensor, crops: Tensor) -> Tensor:
    n, c, h, w = x.shape
    a, b = ints(block_shape)
    top, bottom, left, right = ints(crops)
    blocks = x.reshape(a, b, n // (a * b), c, h, w)
    image = blocks.permute(2, 3, 4, 0, 5, 1).reshape(n // (a * b), c, h * a, w * b)
    return image[:, :, top : h * a - bottom, left : w * b - right]


def _batch_to_space_samples() -> Iterable[Sample]:
    yield Sample(
        {"x": float_block(8, 1, 1, 3), "block_shape": _i32(2, 2), "crops": np.array([[0, 0], [2, 0]], np.int32)}
    )
    yield Sample(
        {"x": float_block(6, 2, 2, 2), "block_shape": _i32(3, 1), "crops": np.array([[1, 2], [0, 1]], np.int32)}
    )


def _pixel_shuffle(arithmetic: Arithmetic, x: Tensor, upscale_factor: Tensor) -> Tensor:
    return torch.pixel_shuffle(x, int(upscale_factor))


def _pixel_unshuffle(arithmetic: Arithmetic, x: Tensor, downscale_factor: Tensor) -> Tensor:
    return torch.pixel_unshuffle(x, int(downscale_factor))


def _blocks(parameter: str, shape: tuple[int, ...], dtype: type[np.generic] = np.int32) -> Any:
    """Samples of the ops that trade channels for space in blocks of 2 and 3."""

    def samples() -> Iterable[Sample]:
        yield Sample({"x": float_block(*shape), parameter: dtype(2)})
        yield Sample(
            {"x": float_block(1, *(9 * s // 4 if s % 4 == 0 else s * 3 // 2 for s in shape[1:])), parameter: dtype(3)}
        )

    return samples


_DEPTH_FIRST = Note(
    "The channel index is (row in block, column in block, channel), as in TensorFlow; pixel_shuffle puts the channel "
    "first.",
    "coremltools 9.0, frontend/tensorflow/ops.py: DepthToSpace and SpaceToDepth are lowered to these ops unchanged",
)
_INTERLEAVE = Note(
    "coremltools folds a constant concat as if interleave were False, whatever it is.",
    "coremltools 9.0, iOS15/tensor_operation.py: concat.value_inference",
)
_EMPTY_PRODUCT = Note(
    "coremltools cannot fold a constant flatten2d with no dimension before or after the axis, and infers a float size.",
    "coremltools 9.0, class flatten2d: numpy.prod of an empty tuple is the float 1.0",
)
_SCALAR = Note(
    "Squeezed of all its dimensions, a tensor is a scalar; coremltools folds a constant of rank 2 or more to x[0], "
    "which still has dimensions.",
    "coremltools 9.0, class squeeze: type_inference against value_inference",
)
_SQUEEZE = Note(
    "A named axis whose size is not 1 is kept, as in PyTorch; coremltools' own constant folding raises there.",
    "coremltools 9.0, class squeeze: docstring and type_inference against value_inference (numpy.squeeze)",
)

OPS: tuple[OpDef, ...] = (
    structural("reshape", _reshape, _reshape_samples, revisions=("iOS17",)),
    structural(
        "reshape_like",
        _reshape_like,
        _reshape_like_samples,
        since="iOS16",
        revisions=("iOS17",),
        variadic=frozenset({"ref_tensors", "begins", "ends", "end_masks"}),
        bound=bounds.reshape_like,
    ),
    structural("transpose", _transpose, _transpose_samples, revisions=("iOS17",)),
    structural("expand_dims", _expand_dims, _expand_dims_samples, revisions=("iOS17",)),
    structural("squeeze", _squeeze, _squeeze_samples, revisions=("iOS17",), notes=(_SQUEEZE, _SCALAR)),
    structural(
        "concat",
        _concat,
        _concat_samples,
        variadic=frozenset({"values"}),
        bound=bounds.concat,
        notes=(_INTERLEAVE,),
    ),
    structural("split", _split, _split_samples),
    structural("stack", _stack, _stack_samples, variadic=frozenset({"values"}), bound=bounds.stack),
    structural("tile", _tile, _tile_samples, bound=bounds.tile),
    structural("reverse", _reverse, _reverse_samples, revisions=("iOS17",)),
    structural(
        "reverse_sequence",
        _reverse_sequence,
        _reverse_sequence_samples,
        revisions=("iOS17",),
        bound=bounds.reverse_sequence,
    ),
    structural("flatten2d", _flatten2d, _flatten2d_samples, notes=(_EMPTY_PRODUCT,)),
    structural(
        "sliding_windows",
        _sliding_windows,
        _sliding_windows_samples,
        revisions=("iOS17",),
        bound=moves(_sliding_windows, injective=False),
    ),
    structural("depth_to_space", _depth_to_space, _blocks("block_size", (2, 8, 2, 2)), notes=(_DEPTH_FIRST,)),
    structural("space_to_depth", _space_to_depth, _blocks("block_size", (2, 2, 4, 4)), notes=(_DEPTH_FIRST,)),
    structural("batch_to_space", _batch_to_space, _batch_to_space_samples),
    structural("pixel_shuffle", _pixel_shuffle, _blocks("upscale_factor", (2, 8, 2, 2))),
    structural(
        "pixel_unshuffle", _pixel_unshuffle, _blocks("downscale_factor", (2, 2, 4, 4), np.uint32), since="iOS16"
    ),
)
