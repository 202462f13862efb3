"""Ops that make values or put a constant beside given ones: fill, range, shape, pad, band_part, space_to_batch."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic
from nanproof.ops import bound_filling as bounds
from nanproof.ops.record import Note, OpDef, Sample, float_block, int_block, ints, op
from nanproof.values.memory import affordable

__all__ = ["OPS"]


def _i32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def _full(shape: list[int], value: Tensor | float) -> Tensor:
    return torch.as_tensor(value).expand(affordable(shape)).clone()


def _fill(arithmetic: Arithmetic, shape: Tensor, value: Tensor | float = 0.0) -> Tensor:
    return _full(ints(shape), value)


def _fill_samples() -> Iterable[Sample]:
    yield Sample({"shape": _i32(2, 3)})
    yield Sample({"shape": _i32(2, 1, 3), "value": np.float32(-1.5)})
    yield Sample({"shape": _i32(4), "value": np.int32(7)})
    yield Sample({"shape": _i32(2, 2), "value": np.bool_(True)})


def _fill_like(arithmetic: Arithmetic, ref_tensor: Tensor, value: Tensor | float = 0.0) -> Tensor:
    return _full(list(ref_tensor.shape), value)


def _fill_like_samples() -> Iterable[Sample]:
    yield Sample({"ref_tensor": float_block(2, 3)})
    yield Sample({"ref_tensor": float_block(2, 3), "value": np.int32(-4)})


def _shape(arithmetic: Arithmetic, x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


def _shape_samples() -> Iterable[Sample]:
    yield Sample({"x": float_block(2, 1, 4)})
    yield Sample({"x": int_block(5)})


def _range_1d(arithmetic: Arithmetic, end: Tensor, start: Tensor, step: Tensor) -> Tensor:
    first, last, stride = start.item(), end.item(), step.item()
    if stride and math.isfinite((last - first) / stride):  # PyTorch says what is wrong with the others
        affordable([max(0, math.ceil((last - first) / stride))])
    return torch.arange(first, last, stride, dtype=start.dtype)


def _range_1d_samples() -> Iterable[Sample]:
    for start, end, step in ((0, 5, 1), (-3, 8, 4), (5, -2, -3)):
        yield Sample({"end": np.int32(end), "start": np.int32(start), "step": np.int32(step)})
    yield Sample({"end": np.float32(2.0), "start": np.float32(0.5), "step": np.float32(0.25)})


def _pad(
    arithmetic: Arithmetic, x: Tensor, pad: Tensor, mode: str = "constant", constant_val: Tensor | float = 0.0
) -> Tensor:
    amounts = ints(pad)
    padded = range(x.dim() - len(amounts) // 2, x.dim())
    pairs = list(zip(amounts[::2], amounts[1::2], strict=True))
    affordable([*x.shape[: padded.start], *(x.shape[d] + sum(pair) for d, pair in zip(padded, pairs, strict=True))])
    if mode == "constant":
        flat = [amount for pair in reversed(pairs) for amount in pair]  # PyTorch counts dimensions from the last
        return F.pad(x, flat, value=float(constant_val))
    for dim, (before, after) in zip(padded, pairs, strict=True):
        last = x.shape[dim] - 1
        source = torch.arange(-before, last + 1 + after)
        if mode == "reflect":
            source = last - (last - source.abs()).abs()
        elif mode == "replicate":
            source = source.clamp(0, last)
        else:
            raise ValueError(f"pad mode '{mode}' is none of constant, reflect, replicate")
        x = x.index_select(dim, source)
    return x


def _pad_samples() -> Iterable[Sample]:
    x = float_block(2, 3, 4)
    yield Sample({"x": x, "pad": _i32(1, 2)})
    yield Sample({"x": x, "pad": _i32(1, 0, 0, 2, 3, 1), "mode": "constant", "constant_val": np.float32(-2.5)})
    yield Sample({"x": x, "pad": _i32(2, 1, 3, 2), "mode": "reflect"})
    yield Sample({"x": x, "pad": _i32(1, 1, 2, 1, 0, 3), "mode": "reflect"})
    yield Sample({"x": x, "pad": _i32(2, 3, 1, 4), "mode": "replicate"})


def _band_part(arithmetic: Arithmetic, x: Tensor, lower: Tensor | int = -1, upper: Tensor | int = -1) -> Tensor:
    below = torch.arange(x.shape[-2]).unsqueeze(1) - torch.arange(x.shape[-1])  # how far under the diagonal
    low, up = int(lower), int(upper)
    keep = torch.ones_like(below, dtype=torch.bool)
    if low >= 0:
        keep &= below <= low
    if up >= 0:
        keep &= -below <= up
    return torch.where(keep, x, torch.zeros((), dtype=x.dtype))


def _band_part_samples() -> Iterable[Sample]:
    yield Sample({"x": float_block(3, 4)})
    for lower, upper in ((0, -1), (-1, 0), (0, 0), (2, 0), (0, 1)):
        yield Sample({"x": float_block(2, 4, 3), "lower": lower, "upper": upper})
    yield Sample({"x": int_block(3, 3), "lower": 1, "upper": 0})


def _space_to_batch(arithmetic: Arithmetic, x: Tensor, block_shape: Tensor, paddings: Tensor) -> Tensor:
    top, bottom, left, right = ints(paddings)
    affordable([*x.shape[:2], x.shape[2] + top + bottom, x.shape[3] + left + right])
    x = F.pad(x, [left, right, top, bottom])
    n, c, h, w = x.shape
    a, b = ints(block_shape)
    blocks = x.reshape(n, c, h // a, a, w // b, b)
    return blocks.permute(3, 5, 0, 1, 2, 4).reshape(n * a * b, c, h // a, w // b)


def _space_to_batch_samples() -> Iterable[Sample]:
    yield Sample(
        {"x": float_block(2, 1, 2, 4), "block_shape": _i32(2, 2), "paddings": np.array([[0, 0], [2, 0]], np.int32)}
    )
    yield Sample(
        {"x": float_block(1, 2, 2, 3), "block_shape": _i32(3, 2), "paddings": np.array([[1, 0], [0, 1]], np.int32)}
    )


_BAND = Note(
    "Outside the band stands 0, whatever x holds there. coremltools' constant folding multiplies by 0, which makes NaN "
    "of Inf.",
    "coremltools 9.0, class band_part: 'setting everything outside a center band to zeros' against value_inference",
)

OPS: tuple[OpDef, ...] = (
    op("fill", "generator", _fill, _fill_samples, bound=bounds.fill),
    op("fill_like", "generator", _fill_like, _fill_like_samples, since="iOS16", bound=bounds.fill_like),
    op("shape", "generator", _shape, _shape_samples, bound=bounds.shape),
    op("range_1d", "generator", _range_1d, _range_1d_samples, bound=bounds.range_1d),
    # Every element is one of x or the constant, so these select.
    op("pad", "select", _pad, _pad_samples, picks=True, bound=bounds.pad),
    op("band_part", "select", _band_part, _band_part_samples, picks=True, bound=bounds.band_part, notes=(_BAND,)),
    op(
        "space_to_batch",
        "select",
        _space_to_batch,
        _space_to_batch_samples,
        picks=True,
        bound=bounds.space_to_batch,
    ),
)
