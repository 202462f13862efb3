"""Bounds of reductions. A sum of ``n`` terms is off by at most ``n u sum|x|``, in any order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from nanproof.ops.bound_links import kept_links, root_link, self_link
from nanproof.ops.bounding import BoundRule, Reading, UnboundedError, parameter
from nanproof.ops.record import flag, ints
from nanproof.values.bound import Bound, Link, outward, summed

__all__ = [
    "arg",
    "cumsum",
    "extremum",
    "l1_norm",
    "l2_norm",
    "log_sum",
    "log_sum_exp",
    "mean",
    "product",
    "sum_square",
    "total",
]

Reduced = Callable[[Reading, Bound, list[int]], Bound]
"""A reduction that keeps its dimensions."""


def reduced(rule: Reduced) -> BoundRule:
    """A rule over ``axes`` (all if absent) from one that keeps the dimensions."""

    def whole(reading: Reading, x: Bound, axes: Bound | None = None, keep_dims: Bound | None = None) -> Bound:
        rank = len(x.shape)
        dims = list(range(rank)) if axes is None else sorted(a % rank for a in ints(parameter(axes, "axes")))
        result = rule(reading, x, dims)
        shape = tuple(1 if a in dims else n for a, n in enumerate(x.shape))
        result = replace(result, shape=shape)
        if keep_dims is not None and flag(parameter(keep_dims, "keep_dims")):
            return result
        return _squeezed(result, dims)

    return whole


def _squeezed(x: Bound, dims: list[int]) -> Bound:
    kept = [a for a in range(len(x.shape)) if a not in dims]

    def cut(t: Tensor) -> Tensor:
        if t.dim() != len(x.shape):
            return t
        for a in reversed(range(t.dim())):
            t = t if a in kept else t.select(a, 0) if t.shape[a] else t.sum(a)
        return t

    links = tuple(
        replace(
            link,
            places=tuple(link.places[a] for a in kept),
            factor=cut(link.factor),
            span=frozenset(kept.index(a) for a in link.span if a in kept),
            radius=_cut_radius(link, kept, cut),
        )
        for link in x.links
        if link.sense != "top"
    )
    return Bound(tuple(x.shape[a] for a in kept), cut(x.low), cut(x.high), x.nan, x.whole, links=links)


def _cut_radius(link: Link, kept: list[int], cut: Callable[[Tensor], Tensor]) -> Callable[[], Tensor] | None:
    radius = link.radius
    return None if radius is None or not link.span.issubset(kept) else lambda: cut(radius())


def _count(x: Bound, dims: list[int]) -> int:
    return math.prod(x.shape[d] for d in dims)


def _finite(x: Bound) -> None:
    if not x.finite:
        raise UnboundedError("its operand may be Inf or NaN")


def _sum(reading: Reading, x: Bound, dims: list[int], divisor: float) -> Bound:
    """The sum over ``dims`` divided by a number, which comes after the sum."""
    _finite(x)
    count = _count(x, dims)
    low, high = summed(x.low, dims, x.shape), summed(x.high, dims, x.shape)
    size = outward(summed(x.magnitude, dims, x.shape))
    if x.root is not None and x.root.balls and dims:
        most = outward(x.root.norm(dims).square()) * (1 + 2.0**-9) + count * 2.0**-24
        high, size = torch.minimum(high, most), torch.minimum(size, most)
    if x.balls and dims:
        reach = outward(x.norm(dims) * math.sqrt(count))
        low, high, size = torch.maximum(low, -reach), torch.minimum(high, reach), torch.minimum(size, reach)
    if x.peak is not None and dims == [x.peak[0]] and x.least >= 0:
        low = low.clamp(min=x.peak[1])
    floats = reading.op.outputs[0].type.dtype.is_float
    loss = count * reading.machine.sums if floats else 0.0
    exact = x.whole and float(size.max() if size.numel() else 0.0) <= (2048 if reading.machine.half else 2**24)
    error = 0 * size if exact or not floats else size * (loss + 2.0**-36)
    if floats and reading.machine.sums > 2.0**-20 and size.numel() and float((size + error).max()) > 65504:
        reading.doubt(f"a partial sum in binary16 may be {float((size + error).max()):.4g}")
    links = [] if loss >= 0.5 else _sum_links(x, dims, 1 - loss, count, divisor)
    whole = x.whole and divisor == 1
    # Of terms that are not negative, no partial sum is; and what a sum loses is a part of itself.
    least = low * (1 - min(loss + 2.0**-36, 1.0)) if x.least >= 0 and not exact else low - error
    return Bound(x.shape, least / divisor, (high + error) / divisor, whole=whole, links=tuple(links))


def _sum_links(x: Bound, dims: list[int], kept: float, count: int, divisor: float) -> list[Link]:
    """Links of a sum: of squares to the norm; of what is not negative, and of what that bounds, to the sum."""
    links: list[Link] = []
    axes = frozenset(dims)

    def over(link: Link, kind: str, base_axes: frozenset[int]) -> Link:
        places = tuple(None if a in axes else p for a, p in enumerate(link.places))
        factor = link.factor.amin() * kept / divisor
        lost = link.lost * count / divisor * (1 if link.lost > 0 else kept)
        return replace(link, sense="over", kind=kind, axes=base_axes, places=places, factor=factor, lost=lost)  # type: ignore[arg-type]

    if x.least >= 0:
        itself = self_link(x, "over")
        links.append(over(itself, "sum", axes))
        links.append(over(itself, "max", axes))
    for link in x.links:
        summed_axes = frozenset(p for a in axes if (p := link.places[a]) is not None)
        if link.kind != "self" or len(summed_axes) != len([a for a in axes if x.shape[a] > 1]):
            continue
        if link.sense == "over" and link.power == 2 and x.least >= 0:
            links.append(over(link, "norm", summed_axes))
        elif link.sense == "over" and x.least >= 0:
            links += [over(link, kind, summed_axes) for kind in ("sum", "max")]
        elif link.sense == "under":
            places = tuple(None if a in axes else p for a, p in enumerate(link.places))
            factor = link.factor if link.factor.dim() == 0 else link.factor.amax(dims, keepdim=True)
            more = (1 + (1 - kept)) / divisor
            lost = link.lost * count * more
            made = replace(link, kind="sum", axes=summed_axes, places=places, factor=outward(factor * more), lost=lost)
            links.append(replace(made, radius=_grown(link.radius, dims, more) if not axes & link.span else None))
    return links


def _grown(radius: Callable[[], Tensor] | None, dims: list[int], more: float) -> Callable[[], Tensor] | None:
    """The radius of a sum of vectors: of the longest, by the triangle inequality."""
    return None if radius is None else lambda: outward(radius().amax(dims, keepdim=True) * more)


def _total(reading: Reading, x: Bound, dims: list[int]) -> Bound:
    return _sum(reading, x, dims, 1.0)


def _mean(reading: Reading, x: Bound, dims: list[int]) -> Bound:
    result = _sum(reading, x, dims, float(max(_count(x, dims), 1)))
    if reading.op.outputs[0].type.dtype.is_float:
        return result
    return replace(result, low=result.low.trunc(), high=result.high.trunc(), whole=True, links=())


def _squares(x: Bound) -> Bound:
    size = x.magnitude.square()
    inside = (x.low <= 0) & (x.high >= 0)
    low = torch.minimum(x.low.abs(), x.high.abs()).square().masked_fill(inside, 0.0)
    return Bound(x.shape, low, size, x.nan, x.whole, links=(self_link(x, "over", power=2),), root=x)


def _sum_square(reading: Reading, x: Bound, dims: list[int]) -> Bound:
    _finite(x)
    squares = _squares(x)
    if not reading.op.outputs[0].type.dtype.is_float and squares.most >= 2.0**31:
        raise UnboundedError("the squares of integers may wrap around")
    if reading.machine.narrow and squares.most > 65504:
        reading.doubt(f"squares up to {squares.most:.4g} before they are summed")
    result = _sum(reading, squares, dims, 1.0)
    if not reading.op.outputs[0].type.dtype.is_float:
        return result
    # Each square is rounded by itself, and vanishes if it is small.
    relative, spare = (2.0**-10, 2.0**-24) if reading.machine.rounds else (2.0**-22, 2.0**-149)
    spare *= _count(x, dims)
    links = (
        replace(link, factor=link.factor * (1 - relative), lost=max(link.lost, 0.0) + spare) for link in result.links
    )
    low, high = result.low * (1 - relative) - spare, result.high * (1 + relative) + spare
    return replace(result, low=low, high=high, links=tuple(links))


def _l2_norm(reading: Reading, x: Bound, dims: list[int]) -> Bound:
    result = _passed(reading, _sum_square(reading, x, dims))
    rooted = tuple(made for link in result.links if (made := root_link(link)) is not None)
    low, high = result.low.clamp(min=0).sqrt(), result.high.clamp(min=0).sqrt()
    return Bound(x.shape, low * (1 - 2.0**-9), high * (1 + 2.0**-9), links=rooted)


def _passed(reading: Reading, total: Bound) -> Bound:
    """A sum that is passed on inside the op: some units store it in binary16, where it overflows."""
    if reading.machine.rounds and total.most > 65504:
        reading.doubt(f"the sum inside it may be {total.most:.4g}, and binary16 ends at 65504")
    return total


def _l1_norm(reading: Reading, x: Bound, dims: list[int]) -> Bound:
    inside = (x.low <= 0) & (x.high >= 0)
    low = torch.minimum(x.low.abs(), x.high.abs()).masked_fill(inside, 0.0)
    absolute = Bound(x.shape, low, x.magnitude, x.nan, x.whole, links=(self_link(x, "over"), self_link(x, "under")))
    return _sum(reading, absolute, dims, 1.0)


def _log_sum(reading: Reading, x: Bound, dims: list[int]) -> Bound:
    result = _passed(reading, _sum(reading, x, dims, 1.0))
    if result.least <= 0:
        raise UnboundedError("the sum may not be above zero")
    return Bound(x.shape, result.low.log() - 2.0**-6, result.high.log() + 2.0**-6)


def _log_sum_exp(reading: Reading, x: Bound, dims: list[int]) -> Bound:
    _finite(x)
    count = _count(x, dims)
    low, high = x.low.amax(dims, keepdim=True), x.high.amax(dims, keepdim=True) + math.log(max(count, 1))
    if not reading.machine.arithmetic.max_shift and float(high.max()) > math.log(65504) - 2.0**-5:
        reading.doubt(f"the sum of exponentials may be exp({float(high.max()):.4g}): there is no shift by the maximum")
    elif not reading.machine.arithmetic.max_shift and float(low.min()) < -9.0:
        reading.doubt(f"exponentials of {float(low.min()):.4g} may vanish, and the logarithm of zero is infinite")
    room = 2.0**-6 + math.log1p(count * reading.machine.sums)
    return Bound(x.shape, low - low.abs() * 2.0**-9 - room, high + high.abs() * 2.0**-9 + room)


def extremum(pick: Callable[..., Tensor], *, largest: bool) -> BoundRule:
    """The rule of the largest or the smallest element."""

    def rule(reading: Reading, x: Bound, dims: list[int]) -> Bound:
        low, high = (pick(t, dims, keepdim=True) if dims else t for t in (x.low, x.high))
        links: list[Link] = []
        if largest:
            itself = self_link(x, "top")
            places = tuple(None if a in dims else a for a in range(len(x.shape)))
            links.append(replace(itself, kind="max", axes=frozenset(dims), places=places))
            for link in [*kept_links(x, "over"), *([self_link(x, "over")] if x.least >= 0 else [])]:
                axes = frozenset(p for a in dims if (p := link.places[a]) is not None)
                if link.kind == "self" and link.power == 1 and len(axes) == len([a for a in dims if x.shape[a] > 1]):
                    gone = tuple(None if a in dims else p for a, p in enumerate(link.places))
                    links.append(replace(link, kind="max", axes=axes, places=gone, factor=link.factor.amin()))
        return Bound(x.shape, low, high, x.nan, x.whole, links=tuple(links))

    return reduced(rule)


def _product(reading: Reading, x: Bound, dims: list[int]) -> Bound:
    _finite(x)
    count = _count(x, dims)
    size = x.magnitude
    for d in dims:
        size = size.prod(d, keepdim=True) if size.shape[d] != 1 else size ** x.shape[d]
    grown = float(torch.clamp(x.magnitude, min=1.0).max()) if x.magnitude.numel() else 1.0
    most = outward(size) * (1 + count * 2.0**-10)
    if count * math.log(grown) > math.log(65504.0 if reading.machine.half else 3e38) - 0.01:
        reading.doubt(f"a product of some of {count} factors up to {grown:.4g}")
    return Bound(x.shape, torch.zeros_like(most) if x.least >= 0 else -most, most, whole=x.whole)


def arg(
    reading: Reading, x: Bound, axis: Bound | None = None, keep_dims: Bound | None = None, output_dtype: str = ""
) -> Bound:
    """An index along the axis."""
    dim = -1 if axis is None else int(parameter(axis, "axis"))
    return Bound.interval(reading.shape(), 0, max(x.shape[dim] - 1, 0), whole=True)


def cumsum(
    reading: Reading, x: Bound, axis: Bound | None = None, exclusive: Bound | None = None, reverse: Bound | None = None
) -> Bound:
    """Running sums: each is a sum of some of the elements, in order."""
    _finite(x)
    dim = (0 if axis is None else int(parameter(axis, "axis"))) % len(x.shape)
    count = x.shape[dim]
    # Of a prefix of any length, nothing summed included: the negative part and the positive part of all.
    low = summed(x.low.clamp(max=0), [dim], x.shape)
    high = summed(x.high.clamp(min=0), [dim], x.shape)
    size = torch.maximum(-low, high)
    exact = x.whole and float(size.max() if size.numel() else 0.0) <= (2048 if reading.machine.half else 2**24)
    floats = reading.op.outputs[0].type.dtype.is_float
    error = (
        0 * size
        if exact or not floats
        else summed(x.magnitude, [dim], x.shape) * (count * reading.machine.sums + 2.0**-36)
    )
    return Bound(x.shape, low - error, high + error, whole=x.whole)


total, mean, sum_square = reduced(_total), reduced(_mean), reduced(_sum_square)
l1_norm, l2_norm = reduced(_l1_norm), reduced(_l2_norm)
log_sum, log_sum_exp, product = reduced(_log_sum), reduced(_log_sum_exp), reduced(_product)
