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
    if len({tuple(index.shape) for _, index in given}) > 1 and all(index.dtype != torch.bool for _, index in given):
        spread = iter(torch.broadcast_tensors(*(index for _, index in given)))
        whole = [index if index is None else next(spread) for index in indices]
        return aten.index_put.default(x, whole, values, accumulate)
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
    places = _strided(size, stride, storage_offset)
    return x.reshape(-1).index_select(0, places.reshape(-1)).reshape(list(size))


def _strided(size: Sequence[int], stride: Sequence[int], storage_offset: int | None) -> Tensor:
    """The place of each element of a strided view in the memory."""
    places = torch.full([1] * len(size), storage_offset or 0, dtype=torch.int32)
    for axis, (length, step) in enumerate(zip(size, stride, strict=True)):
        shape = [length if i == axis else 1 for i in range(len(size))]
        steps = torch.arange(0, length * step, step) if step else torch.full([length], 0)
        places = places + steps.to(torch.int32).reshape(shape)
    return places


def _as_strided_scatter(
    x: Tensor, src: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor:
    """``as_strided_scatter`` into a contiguous tensor, which 9.0 lacks."""
    if not x.is_contiguous():
        return NotImplemented
    places = _strided(size, stride, storage_offset).reshape(-1)
    return aten.scatter.src(x.reshape(-1), 0, places.to(torch.int64), src.reshape(-1)).reshape(x.shape)


def _diagonal_scatter(x: Tensor, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """``diagonal_scatter``, which 9.0 lacks: a choice by a constant mask."""
    moved = x.movedim((dim1, dim2), (-2, -1))
    rows, columns = (torch.arange(size) for size in moved.shape[-2:])
    number = torch.clamp(rows - max(-offset, 0), min=0, max=src.shape[-1] - 1)
    on_it = columns == (rows + offset).unsqueeze(1)
    spread = src.index_select(-1, number).unsqueeze(-1)
    return torch.where(on_it, spread, moved).movedim((-2, -1), (dim1, dim2))


def _put(x: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """``put``, which 9.0 lacks: a scatter into all elements in a row."""
    scatter = aten.scatter_add.default if accumulate else aten.scatter.src
    index = torch.where(index < 0, index + x.numel(), index)
    return scatter(x.reshape(-1), 0, index.reshape(-1), source.reshape(-1)).reshape(x.shape)


def _copied(operator: Any) -> Callable[..., Tensor]:
    def decompose(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """A move whose result is a copy, which 9.0 lacks by that name: in MIL any result is one."""
        return operator(x, *args, **kwargs)

    return decompose


def _repeat(x: Tensor, repeats: Sequence[int]) -> Tensor:
    """``repeat`` of what has no axes, not even new ones; 9.0 refuses an empty list."""
    return NotImplemented if len(repeats) else aten.alias.default(x)


def _resize(x: Tensor, size: Sequence[int], **kwargs: Any) -> Tensor:
    """``resize`` to the same number of elements, which 9.0 lacks. What more there would be is not defined."""
    numbers = torch.Size(size).numel()
    return x.reshape(list(size)) if numbers == x.numel() else NotImplemented


def _repeat_each(repeats: Tensor, *, output_size: int | None = None) -> Tensor:
    """``repeat_interleave`` by a tensor, if it is known how long the result is: how many sums are not above a place."""
    if output_size is None:
        return NotImplemented
    ends = torch.cumsum(repeats.to(torch.int32), 0)
    places = torch.arange(output_size, dtype=torch.int32).unsqueeze(1)
    return (places >= ends).to(torch.int32).sum(1, dtype=torch.int64)


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
    if x.dim() == 0:
        return x.reshape(1).narrow(0, 0, size)
    axis = dimension % x.dim()
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


def _searchsorted(
    ordered: Tensor,
    values: Tensor | float,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """``searchsorted``, which 9.0 refuses for values of fewer or more axes than the sequence, and without order."""
    ordered = ordered if sorter is None else torch.gather(ordered, -1, sorter)
    found = values if isinstance(values, Tensor) else torch.full([], values, dtype=ordered.dtype)
    boundaries = ordered if ordered.dim() == 1 else ordered.unsqueeze(-2)
    return _bucketize(found, boundaries, out_int32=out_int32, right=right if side is None else side == "right")


def _histc(x: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """``histc``, which 9.0 lacks: each element against each bin. The last bin has its upper end."""
    x = x.reshape(-1, 1)
    low, high = torch.full([], min, dtype=x.dtype), torch.full([], max, dtype=x.dtype)
    if min == max == 0:
        low, high = x.min(), x.max()
        low, high = torch.where(low == high, low - 1, low), torch.where(low == high, high + 1, high)
    elif min == max:
        low, high = low - 1, high + 1
    number = torch.floor((x - low) / (high - low) * bins).to(torch.int32)
    inside = (x >= low) & (x <= high)
    hits = inside & (torch.clamp(number, max=bins - 1) == torch.arange(bins, dtype=torch.int32))
    return hits.to(torch.int32).sum(0, dtype=torch.int32).to(x.dtype)


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


def _nanmedian(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """``nanmedian`` along an axis, which 9.0 lacks: the median of what is a number, which is sorted to the front."""
    if not x.is_floating_point():
        return _median(x, dim, keepdim)
    x = x if x.dim() else x.reshape(1)
    valid = x == x
    count = valid.to(torch.int32).sum(dim, keepdim=True, dtype=torch.int64)
    _, order = torch.sort(torch.where(valid, x, torch.full([], torch.finfo(x.dtype).max)), dim=dim)
    middle = torch.clamp(torch.div(count - 1, 2, rounding_mode="floor"), min=0)
    places = torch.gather(order, dim, middle)
    values = torch.gather(x, dim, places)
    return (values, places) if keepdim else (values.squeeze(dim), places.squeeze(dim))


def _nanmedian_of_all(x: Tensor) -> Tensor:
    """``nanmedian`` of all elements, which 9.0 lacks."""
    return _nanmedian(x.reshape(-1), 0)[0]


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
    aten.nanmedian.dim: _nanmedian,
    aten.nanmedian.default: _nanmedian_of_all,
    aten.as_strided_scatter.default: _as_strided_scatter,
    aten.diagonal_scatter.default: _diagonal_scatter,
    aten.put.default: _put,
    aten.as_strided_copy.default: _copied(aten.as_strided.default),
    aten.narrow_copy.default: _copied(aten.narrow.default),
    aten.permute_copy.default: _copied(aten.permute.default),
    aten.unfold_copy.default: _unfold,
    aten.repeat.default: _repeat,
    aten.resize.default: _resize,
    aten.repeat_interleave.Tensor: _repeat_each,
    aten.searchsorted.Tensor: _searchsorted,
    aten.searchsorted.Scalar: _searchsorted,
    aten.histc.default: _histc,
    aten.empty_permuted.default: _empty_permuted,
}
"""Decompositions by operator."""
