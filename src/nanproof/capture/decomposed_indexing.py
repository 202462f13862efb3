"""Decompositions of indexing, padding and windows that coremltools 9.0 lacks or computes as something else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["INDEXING"]

aten = torch.ops.aten


def _gather(x: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """``gather`` by fewer indices than ``x`` is wide along another axis, which 9.0 refuses."""
    narrowed = x
    for axis, size in enumerate(index.shape):
        if axis != dim % max(x.dim(), 1) and size != x.shape[axis]:
            narrowed = narrowed.narrow(axis, 0, size)
    return NotImplemented if narrowed is x else aten.gather.default(narrowed, dim, index)


def _index_put(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor:
    """``index_put`` along one axis behind whole ones (``x[:, ids] = y``), which 9.0 refuses: that axis goes first."""
    given = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if len(given) != 1:
        return NotImplemented
    ((axis, index),) = given
    if axis == 0 or index.dtype == torch.bool or index.dim() != 1:
        return NotImplemented
    shape = [*x.shape[:axis], index.shape[0], *x.shape[axis + 1 :]]
    moved = values.expand(shape).movedim(axis, 0)
    return aten.index_put.default(x.movedim(axis, 0), [index], moved, accumulate).movedim(0, axis)


def _diagonal(x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """``diagonal`` as a slice with the step of one row and one column. 9.0 returns the input, or refuses it."""
    x = x.movedim((dim1, dim2), (-2, -1))
    rows, columns = x.shape[-2:]
    first_row, first_column = max(-offset, 0), max(offset, 0)
    count = max(min(rows - first_row, columns - first_column), 0)
    flat = x.reshape(*x.shape[:-2], rows * columns)
    start = first_row * columns + first_column
    return flat[..., start : start + (count - 1) * (columns + 1) + 1 : columns + 1] if count else flat[..., :0]


def _as_strided(x: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> Tensor:
    """``as_strided`` of a contiguous tensor, which 9.0 lacks, by the place of each element."""
    if not x.is_contiguous():
        return NotImplemented
    places = torch.zeros([1] * len(size), dtype=torch.int32)
    for axis, (length, step) in enumerate(zip(size, stride, strict=True)):
        shape = [length if i == axis else 1 for i in range(len(size))]
        start = (storage_offset or 0) if axis == 0 else 0
        steps = torch.arange(start, start + length * step, step) if step else torch.full([length], start)
        places = places + steps.to(torch.int32).reshape(shape)
    return x.reshape(-1).index_select(0, places.reshape(-1)).reshape(list(size))


def _roll(x: Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> Tensor:
    """``roll`` as two slices along each axis. 9.0 cannot lower PyTorch's decomposition, which computes places."""
    if not dims:
        return _roll(x.reshape(-1), shifts, [0]).reshape(x.shape)
    for shift, axis in zip(shifts, dims, strict=True):
        length = x.shape[axis]
        cut = -shift % length if length else 0
        if cut:
            x = torch.cat([x.narrow(axis, cut, length - cut), x.narrow(axis, 0, cut)], axis)
    return x.clone()


def _unfold(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """``Tensor.unfold``, which 9.0 lacks: windows along an axis, in a new last one."""
    axis = dimension % max(x.dim(), 1)
    count = (x.shape[axis] - size) // step + 1
    if step == size:
        windows = x.narrow(axis, 0, count * size)
    else:
        places = torch.arange(count).unsqueeze(1) * step + torch.arange(size)
        windows = x.index_select(axis, places.reshape(-1))
    shape = [*x.shape[:axis], count, size, *x.shape[axis + 1 :]]
    return windows.reshape(shape).movedim(axis + 1, -1)


def _pad(x: Tensor, pad: Sequence[int], value: float = 0) -> Tensor:
    """``constant_pad_nd`` by negative amounts, which crop. 9.0 refuses those."""
    if all(amount >= 0 for amount in pad):
        return NotImplemented
    for i in range(len(pad) // 2):
        axis, (before, after) = x.dim() - 1 - i, pad[2 * i : 2 * i + 2]
        start = max(-before, 0)
        x = x.narrow(axis, start, x.shape[axis] - start - max(-after, 0))
    grown = [max(amount, 0) for amount in pad]
    return aten.constant_pad_nd.default(x, grown, value) if any(grown) else x.clone()


def _fold(
    x: Tensor,
    output_size: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Tensor:
    """``fold`` as the transposed convolution by the identity. 9.0 cannot lower PyTorch's decomposition of it."""
    taps = kernel_size[0] * kernel_size[1]
    blocks = [
        (output_size[i] + 2 * padding[i] - dilation[i] * (kernel_size[i] - 1) - 1) // stride[i] + 1 for i in range(2)
    ]
    covered = [(blocks[i] - 1) * stride[i] + dilation[i] * (kernel_size[i] - 1) + 1 for i in range(2)]
    batch = x.shape[:-2]
    channels = x.shape[-2] // taps
    columns = x.reshape(-1, taps, *blocks)
    weight = torch.eye(taps, dtype=x.dtype).reshape(taps, 1, *kernel_size)
    whole = aten.conv_transpose2d.input(columns, weight, None, stride, [0, 0], [0, 0], 1, dilation)
    rest = [output_size[i] + padding[i] - covered[i] for i in range(2)]
    image = aten.constant_pad_nd.default(whole, [-padding[1], rest[1], -padding[0], rest[0]])
    return image.reshape(*batch, channels, *output_size)


def _bucketize(x: Tensor, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """``bucketize``, which 9.0 lacks: the number of boundaries below."""
    below = x.unsqueeze(-1) >= boundaries if right else x.unsqueeze(-1) > boundaries
    return below.to(torch.int32).sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


def _kthvalue(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """``kthvalue``, which 9.0 lacks, from the sorted values."""
    values, places = torch.sort(x, dim=dim)
    values, places = values.narrow(dim, k - 1, 1), places.narrow(dim, k - 1, 1)
    return (values, places) if keepdim else (values.squeeze(dim), places.squeeze(dim))


def _median(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """``median`` along an axis, which 9.0 lacks: the lower of two middle values."""
    return _kthvalue(x, (x.shape[dim] + 1) // 2, dim, keepdim)


def _median_of_all(x: Tensor) -> Tensor:
    """``median`` of all elements, which 9.0 lacks."""
    return _median(x.reshape(-1), 0)[0]


def _avg_pool2d(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """``avg_pool2d`` with a divisor of its own, which 9.0 refuses: the mean, scaled."""
    if divisor_override is None or ceil_mode:
        return NotImplemented
    elements = kernel_size[0] * kernel_size[-1]
    return aten.avg_pool2d.default(x, kernel_size, stride, padding, False, True) * (elements / divisor_override)


def _empty_permuted(size: Sequence[int], physical_layout: Sequence[int], **kwargs: Any) -> Tensor:
    """``empty_permuted``, which 9.0 lacks. What is not written is zero."""
    return torch.zeros(list(size), dtype=kwargs.get("dtype"))


INDEXING: dict[Any, Callable[..., Any]] = {
    aten.gather.default: _gather,
    aten.index_put.default: _index_put,
    aten.diagonal.default: _diagonal,
    aten.as_strided.default: _as_strided,
    aten.roll.default: _roll,
    aten.unfold.default: _unfold,
    aten.constant_pad_nd.default: _pad,
    aten.col2im.default: _fold,
    aten.bucketize.Tensor: _bucketize,
    aten.kthvalue.default: _kthvalue,
    aten.median.dim: _median,
    aten.median.default: _median_of_all,
    aten.avg_pool2d.default: _avg_pool2d,
    aten.empty_permuted.default: _empty_permuted,
}
"""Decompositions by operator."""
