"""Decompositions of scatters, masks, running extremes and bags, which 9.0 lacks or refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["SCATTERING"]

aten = torch.ops.aten


def _narrow(operator: Any) -> Callable[..., Tensor]:
    def decompose(x: Tensor, dim: int, index: Tensor, source: Any, *args: Any, **kwargs: Any) -> Tensor:
        """A scatter by fewer indices than ``x`` or the source is wide, which 9.0 refuses: into the part they reach."""
        axis = dim % max(x.dim(), 1)
        part, cut = x, False
        for i, size in enumerate(index.shape):
            if isinstance(source, Tensor) and source.shape[i] != size:
                source, cut = source.narrow(i, 0, size), True
            if i != axis and x.shape[i] != size:
                part, cut = part.narrow(i, 0, size), True
        if not cut:
            return NotImplemented
        written = operator(part, dim, index, source, *args, **kwargs)
        return _put_back(x, written)

    return decompose


def _put_back(x: Tensor, part: Tensor) -> Tensor:
    """``x`` with its first elements along each axis replaced."""
    for axis in range(x.dim() - 1, -1, -1):
        if part.shape[axis] != x.shape[axis]:
            rest = x
            for i in range(axis):
                rest = rest.narrow(i, 0, part.shape[i])
            size = part.shape[axis]
            part = torch.cat([part, rest.narrow(axis, size, x.shape[axis] - size)], axis)
    return part


def _scatter_reduce(
    x: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """``scatter_reduce``, which 9.0 lacks, by comparing each place with each index.

    One element is compared for each index and place along the axis: quadratic, and without order.
    """
    axis = dim % max(x.dim(), 1)
    narrowed = _narrow(aten.scatter_reduce.two)(x, dim, index, src, reduce, include_self=include_self)
    if narrowed is not NotImplemented:
        return narrowed
    if reduce == "sum" and include_self:
        return aten.scatter_add.default(x, dim, index, src)
    index, src, own = (t.movedim(axis, -1) for t in (index, src, x))
    hits = index.unsqueeze(-2) == torch.arange(own.shape[-1]).unsqueeze(-1)
    return _reduced(own, hits, src.unsqueeze(-2), reduce, include_self).movedim(-1, axis)


_NEUTRAL = {"sum": 0, "mean": 0, "prod": 1}


def _reduced(own: Tensor, hits: Tensor, values: Tensor, reduce: str, include_self: bool) -> Tensor:
    """Elements, and the values that hit each of them along the last axis, as one element each."""
    extreme = reduce in ("amax", "amin")
    limits = torch.finfo(own.dtype) if own.is_floating_point() else torch.iinfo(torch.int32)
    neutral = _NEUTRAL.get(reduce, limits.min if reduce == "amax" else limits.max)
    found = torch.where(hits, values, torch.full([], neutral, dtype=own.dtype))
    if extreme:
        pick, join = (torch.amax, torch.maximum) if reduce == "amax" else (torch.amin, torch.minimum)
        combined, total = pick(found, -1), join
    else:
        combined = found.prod(-1) if reduce == "prod" else found.sum(-1, dtype=own.dtype)
        total = torch.mul if reduce == "prod" else torch.add
    count = hits.to(torch.int32).sum(-1, dtype=torch.int32)
    result = total(own, combined) if include_self else combined
    if reduce == "mean":
        number = torch.clamp(count + 1 if include_self else count, min=1).to(own.dtype)
        result = result / number if own.is_floating_point() else torch.div(result, number, rounding_mode="floor")
    return result if include_self else torch.where(count > 0, result, own)


def _scatter_by(x: Tensor, dim: int, index: Tensor, src: Tensor | float, *, reduce: str) -> Tensor:
    """``scatter`` that adds or multiplies, which 9.0 lacks."""
    source = src if isinstance(src, Tensor) else torch.full(index.shape, src, dtype=x.dtype)
    kind = {"add": "sum", "multiply": "prod"}[reduce]
    return aten.scatter_reduce.two(x, dim, index, source, kind)


def _index_reduce(
    x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """``index_reduce``, which 9.0 lacks: ``scatter_reduce`` with the same index for all other axes."""
    axis = dim % max(x.dim(), 1)
    if x.dim() == 0:
        return _index_reduce(x.reshape(1), 0, index, source.reshape(-1), reduce, include_self=include_self).reshape(())
    spread = index.reshape([-1 if i == axis else 1 for i in range(x.dim())]).expand(source.shape)
    kind = {"mean": "mean", "prod": "prod", "amax": "amax", "amin": "amin"}[reduce]
    return aten.scatter_reduce.two(x, dim, spread, source, kind, include_self=include_self)


def _masked_scatter(x: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """``masked_scatter``, which 9.0 lacks: the n-th true place takes the n-th element of the source."""
    x, mask = torch.broadcast_tensors(x, mask)
    places = torch.cumsum(mask.reshape(-1).to(torch.int32), 0) - 1
    taken = source.reshape(-1).index_select(0, torch.clamp(places, min=0)).reshape(x.shape)
    return torch.where(mask, taken, x)


def _running(pick: Any) -> Callable[..., tuple[Tensor, Tensor]]:
    def decompose(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """``cummax`` or ``cummin``, which 9.0 lacks: each place against all before it. The last of equals counts."""
        if x.dim() == 0:
            values, places = decompose(x.reshape(1), 0)
            return values.reshape(()), places.reshape(())
        moved = x.movedim(dim, -1)
        length = moved.shape[-1]
        steps = torch.arange(length, dtype=torch.int32)
        before = steps.unsqueeze(-1) >= steps
        worst = _worst(x.dtype, pick is torch.amax)
        values = pick(torch.where(before, moved.unsqueeze(-2), torch.full([], worst, dtype=x.dtype)), -1)
        reached = before & (moved.unsqueeze(-2) == values.unsqueeze(-1))
        places = torch.where(reached, steps, torch.full([], -1, dtype=torch.int32)).amax(-1)
        return values.movedim(-1, dim), places.movedim(-1, dim).to(torch.int64)

    return decompose


def _worst(dtype: torch.dtype, of_largest: bool) -> float | int:
    limits = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(torch.int32)
    return limits.min if of_largest else limits.max


def _logcumsumexp(x: Tensor, dim: int) -> Tensor:
    """``logcumsumexp``, of which PyTorch's decomposition has infinities that meet in 9.0."""
    largest = torch.amax(x, dim, keepdim=True)
    return torch.log(torch.cumsum(torch.exp(x - largest), dim)) + largest


def _embedding_bag(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``embedding_bag``, which 9.0 lacks: rows times the matrix that tells which row is in which bag."""
    count = indices.shape[0]
    starts = (offsets[:-1] if include_last_offset else offsets).to(torch.int32)
    ends = torch.cat([starts[1:], offsets[-1:].to(torch.int32)]) if include_last_offset else None
    if ends is None:
        ends = torch.cat([starts[1:], torch.full([1], count, dtype=torch.int32)])
    places = torch.arange(count, dtype=torch.int32)
    inside = (places >= starts.unsqueeze(-1)) & (places < ends.unsqueeze(-1))
    if padding_idx >= 0:
        inside = inside & (indices != padding_idx)
    rows = weight.index_select(0, indices)
    member = inside.to(weight.dtype)
    number = member.sum(-1, keepdim=True)
    if mode == 2:
        lowest = torch.full([], torch.finfo(weight.dtype).min)
        bags = torch.where(inside.unsqueeze(-1), rows, lowest).amax(1)
        bags = torch.where(number > 0, bags, torch.zeros([]))
    else:
        shares = member if per_sample_weights is None else member * per_sample_weights
        bags = torch.mm(shares, rows)
        bags = bags / torch.clamp(number, min=1) if mode == 1 else bags
    owner = torch.zeros_like(indices)
    return bags, owner, number.squeeze(-1).to(indices.dtype), torch.zeros_like(offsets)


def _pdist(x: Tensor, p: float = 2) -> Tensor:
    """``pdist``, which 9.0 lacks: each row against those below it."""
    rows = [torch.linalg.vector_norm(x[i] - x[i + 1 :], p, -1) for i in range(x.shape[0] - 1)]
    return torch.cat(rows)


def _sort(x: Tensor, *, stable: bool | None, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """``sort`` that keeps the order of equals, as the sort of MIL does here. 9.0 lacks it by this name."""
    return aten.sort.default(x, dim, descending)


SCATTERING: dict[Any, Callable[..., Any]] = {
    aten.scatter.src: _narrow(aten.scatter.src),
    aten.scatter.value: _narrow(aten.scatter.value),
    aten.scatter_add.default: _narrow(aten.scatter_add.default),
    aten.scatter_reduce.two: _scatter_reduce,
    aten.scatter.reduce: _scatter_by,
    aten.scatter.value_reduce: _scatter_by,
    aten.index_reduce.default: _index_reduce,
    aten.masked_scatter.default: _masked_scatter,
    aten.cummax.default: _running(torch.amax),
    aten.cummin.default: _running(torch.amin),
    aten.logcumsumexp.default: _logcumsumexp,
    aten._embedding_bag.default: _embedding_bag,
    aten._embedding_bag_forward_only.default: _embedding_bag,
    aten.sort.stable: _sort,
    aten._pdist_forward.default: _pdist,
}
"""Decompositions by operator."""
