"""What a bound says of a value, held against the value that a run computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from nanproof.values.bound import Ball, Bound, Link

_ROOM = 1e-9
"""Relative room for the float64 arithmetic of these checks themselves."""


_SLOPPY = 1 + 2.0**-7
"""The norm of a link takes no note of roundings: whoever divides by its gauge adds twice this room."""


def violations(bound: Bound, value: Tensor, known: Mapping[int, Tensor] | None = None) -> Iterator[str]:
    """Everything that the bound says and that is not so of a value; ``known`` has other values by their tokens."""
    x = value.to(torch.float64)
    if tuple(x.shape) != bound.shape:
        yield f"its shape is {tuple(x.shape)}, and not {bound.shape}"
        return
    low, high = bound.expanded()
    outside = ~((low <= x) & (x <= high))
    if bound.nan:
        outside &= ~x.isnan()
    if bool(outside.any()):
        place = tuple(int(v) for v in outside.nonzero()[0])
        yield f"{float(x[place])!r} at {place} is outside of [{float(low[place])!r}, {float(high[place])!r}]"
    if not bool(x.isfinite().all()):
        return
    if bound.whole and not bool((x == x.round()).all()):
        yield "not all elements are whole numbers"
    if bound.value is not None and not torch.equal(bound.value.to(torch.float64), x):
        yield "it is not the constant that it is said to be"
    yield from _mixture(bound, x)
    for ball in bound.known_balls():
        yield from _outside(ball, x)
    for link in bound.links:
        base = None if known is None else known.get(id(link.base))
        if base is not None and base.numel() and link.aligned and bool(base.isfinite().all()):
            yield from _broken(link, x, base.to(torch.float64))


def _mixture(bound: Bound, x: Tensor) -> Iterator[str]:
    if bound.mix is not None:
        totals = x.sum(bound.mix.axis)
        if bool((x < 0).any()):
            yield "a weight of the mixture is negative"
        if totals.numel() and not bound.mix.low - _ROOM <= float(totals.min()):
            yield f"the weights of a mixture sum up to {float(totals.min())!r}, below {bound.mix.low!r}"
        if totals.numel() and not float(totals.max()) <= bound.mix.high + _ROOM:
            yield f"the weights of a mixture sum up to {float(totals.max())!r}, above {bound.mix.high!r}"
    if bound.peak is not None and x.numel():
        axis, least = bound.peak
        if float(x.amax(axis).min()) < least - _ROOM:
            yield f"no element along axis {axis} reaches the peak {least!r}"


def _outside(ball: Ball, x: Tensor) -> Iterator[str]:
    """Whether ``x = center + scale * u + r`` is impossible with ``||u|| <= radius`` and ``|r| <= slack``."""
    size = x.abs() + ball.center.abs() + ball.slack
    rest = ((x - ball.center).abs() - ball.slack - size * _ROOM).clamp(min=0.0)
    scale = ball.scale.abs().expand(rest.shape)
    if bool(((scale == 0) & (rest > 0)).any()):
        yield "it leaves the center of its ball where the scale is zero"
    u = torch.where(scale > 0, rest / scale, 0.0)
    norm = u.square().sum(sorted(ball.axes), keepdim=True).sqrt()
    if bool((norm > ball.radius * (1 + _ROOM)).any()):
        worst = float((norm / ball.radius.clamp(min=1e-300)).max())
        yield f"it is outside of its ball along {sorted(ball.axes)}: {worst!r} times the radius"


def gauge_of(link: Link, base: Tensor, rank: int) -> Tensor:
    """The gauge of an aligned link, shaped to broadcast against a value of some rank."""
    axes = sorted(link.axes)
    if link.sense == "top":
        gauge = base.amax(axes, keepdim=True) if axes else base
    elif link.kind == "norm":
        gauge = base.square().sum(axes, keepdim=True).sqrt() if axes else base.abs()
    elif link.kind == "sum":
        gauge = base.abs().sum(axes, keepdim=True) if axes else base.abs()
    else:
        gauge = base.abs().amax(axes, keepdim=True) if axes else base.abs()
    rows = link.row()
    order = [place for place, _ in sorted(rows.items(), key=lambda item: item[1])]
    rest = [a for a in range(base.dim()) if a not in order]
    sizes = [1] * rank
    for place, axis in rows.items():
        sizes[axis] = base.shape[place]
    return gauge.permute([*order, *rest]).reshape(sizes)


def _broken(link: Link, x: Tensor, base: Tensor) -> Iterator[str]:
    gauge = gauge_of(link, base, x.dim())
    room = _ROOM * (1e-300 + gauge.abs())
    factor = link.factor
    if link.sense == "over":
        wrong = x < factor * gauge**link.power * (1 - _ROOM) - link.lost - _ROOM * abs(link.lost)
    elif link.sense == "under":
        wrong = x.abs() > factor * gauge * (1 + _ROOM) + link.lost + room
    elif link.sense == "inverse":
        wrong = (gauge > 0) & (x.abs() * gauge > (factor + link.lost * gauge) * (1 + _ROOM))
    else:
        wrong = x != gauge
    if link.sense == "under" and link.radius is not None:
        span = sorted(link.span)
        lost = link.lost * math.prod(x.shape[a] for a in span) ** 0.5
        norm = x.square().sum(span, keepdim=True).sqrt()
        if bool((norm > link.radius() * gauge * _SLOPPY + lost + room).any()):
            yield f"its norm along {span} is not that of its link to the {link.kind} of another value"
    if bool(wrong.any()):
        yield f"its link '{link.sense}' to the {link.kind} of another value does not hold"
