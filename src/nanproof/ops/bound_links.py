"""Links between values, and the bounds of quotients and products that follow from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from nanproof.ops.bounding import identity_places
from nanproof.values.bound import Ball, Bound, Link, once

__all__ = [
    "broadcast_links",
    "gauged",
    "inverse_link",
    "kept_links",
    "moved_links",
    "product_with_inverse",
    "quotient",
    "quotient_ball",
    "root_link",
    "self_link",
]

_SLOPPY = 1 + 2.0**-6
"""Room for the functions of a unit: roots are off by 2.1 ulp, inverses by 13.5 at most (device facts L3)."""


def self_link(base: Bound, sense: str, *, power: int = 1, factor: Tensor | None = None) -> Link:
    """The link of a value that compares with each element of ``base``."""
    one = torch.ones((), dtype=torch.float64) if factor is None else factor
    rank = len(base.shape)
    return Link(sense, "self", base.token, base.shape, frozenset(), identity_places(rank), one, power)  # type: ignore[arg-type]


def broadcast_links(bound: Bound, shape: Sequence[int]) -> list[Link]:
    """The links of an operand in a result of the same rank: axes along which it is repeated do not follow the base."""
    return [
        replace(
            link,
            places=tuple(
                None if own == 1 and size > 1 else place
                for own, size, place in zip(bound.shape, shape, link.places, strict=True)
            ),
            radius=link.radius if bound.shape == tuple(shape) else None,
        )
        for link in bound.links
    ]


def kept_links(bound: Bound, *senses: str) -> tuple[Link, ...]:
    """The links of some senses."""
    return tuple(link for link in bound.links if link.sense in senses)


def gauged(x: Bound, gauge: Link) -> Iterator[tuple[Tensor, float]]:
    """Factors ``(c, lost)`` with ``|x| <= c * g + lost``, for the gauge of another link; ranks are aligned.

    Every element of the base is bounded by the gauge itself, and what is bounded by such elements is so, too.
    """
    own = [self_link(x, "under"), *kept_links(x, "under")]
    for link in own:
        if link.base is not gauge.base:
            continue
        if link.kind == "self":
            follows = all(
                size == 1 or axis in gauge.axes or (axis in gauge.row() and link.row().get(axis) == gauge.row()[axis])
                for axis, size in enumerate(link.sizes)
            )
            if follows:
                yield link.factor, link.lost
        elif link.same_gauge(gauge):
            yield link.factor, link.lost


def quotient(x: Bound, y: Bound) -> Tensor | None:
    """A bound of ``|x / y|`` for ``y > 0``, from a link of ``y`` from below; ``None`` where there is none.

    ``|x| <= c g + l`` and ``y >= max(a g - d, m)``, so ``|x| / y <= c (m + d) / (a m) + l / m``: as ``g`` grows the
    quotient rises up to ``a g - d = m``, and falls from there on. For ``d <= 0`` it is at most ``c / a``.
    """
    best: Tensor | None = None
    least = y.low
    if not bool((least > 0).all()):
        return None
    for link in y.links:
        if link.sense != "over" or link.power != 1:
            continue
        for factor, lost in gauged(x, link):
            ratio = factor / link.factor * (1.0 if link.lost <= 0 else (least + link.lost) / least)
            found = (ratio + lost / least) * _SLOPPY
            best = found if best is None else torch.minimum(*torch.broadcast_tensors(best, found))
    return best


def quotient_ball(x: Bound, y: Bound) -> Callable[[], Ball | None] | None:
    """The ball of ``x / y`` where a norm of ``x`` is bounded by the gauge by which ``y`` is bounded from below."""
    for below in kept_links(y, "over"):
        for above in kept_links(x, "under"):
            if below.power == 1 and above.radius is not None and above.same_gauge(below):
                return once(partial(_quotient_ball, x, y, above, below))
    return None


def _quotient_ball(x: Bound, y: Bound, above: Link, below: Link) -> Ball | None:
    if above.radius is None:
        return None
    rank, axes = len(x.shape), sorted(above.span)
    if any(y.low.shape[a] != 1 for a in axes) or not bool((y.low > 0).all()):
        return None
    least = y.low
    ratio = above.radius() / below.factor * (1.0 if below.lost <= 0 else (least + below.lost) / least)
    loss = math.sqrt(math.prod(x.shape[a] for a in axes)) * above.lost / least
    one = torch.ones([1] * rank, dtype=torch.float64)
    return Ball(above.span, 0 * one, one, (ratio + loss) * _SLOPPY * one, 0 * one)


def product_with_inverse(x: Bound, y: Bound) -> tuple[Tensor, Ball | None] | None:
    """A bound of ``|x y|`` where ``y <= c / g`` for a gauge ``g`` of ``x``; and the ball that follows, for a norm."""
    for link in kept_links(y, "inverse"):
        for factor, lost in gauged(x, link):
            reach = x.magnitude.clamp(max=3.5e38)
            noise = (reach * link.lost + lost * y.magnitude) * _SLOPPY
            found = factor * link.factor * _SLOPPY
            ball: Ball | None = None
            if link.kind == "norm" and x.token is link.base and all(p in (None, i) for i, p in enumerate(link.places)):
                radius = _without(found, link.axes, len(x.shape))
                zero = torch.zeros([1] * len(x.shape), dtype=torch.float64)
                ball = Ball(link.axes, zero, zero + 1, radius, zero + noise)
            return found + noise, ball
    return None


def _without(x: Tensor, axes: frozenset[int], rank: int) -> Tensor:
    x = x.reshape([1] * rank) if x.dim() != rank else x
    return x.amax(sorted(axes), keepdim=True)


def inverse_link(link: Link, least: Tensor, epsilon: float, root: bool) -> Link | None:
    """What follows for ``1 / (y + epsilon)`` or ``1 / sqrt(y + epsilon)`` from a link of ``y`` from below."""
    if link.sense != "over" or link.power != (2 if root else 1):
        return None
    lost, m = link.lost - epsilon, float((least + epsilon).min())
    if lost > 0 and m <= 0:
        return None
    ratio = 1 / link.factor if lost <= 0 else (m + lost) / (link.factor * m)
    return replace(link, sense="inverse", power=1, factor=(ratio.sqrt() if root else ratio) * _SLOPPY, lost=0.0)


def root_link(link: Link) -> Link | None:
    """What follows for ``sqrt(y)``: ``sqrt(max(a g**2 - d, 0)) >= sqrt(a) g - sqrt(d)``."""
    if link.sense != "over" or link.power != 2:
        return None
    return replace(link, power=1, factor=link.factor.sqrt() / _SLOPPY, lost=max(link.lost, 0.0) ** 0.5 * _SLOPPY)


def moved_links(bound: Bound, move: Callable[[Sequence[int | None]], list[int | None]]) -> tuple[Link, ...]:
    """The links of a value whose axes are rearranged, each element staying what it is; the value itself is a base."""
    links = [self_link(bound, "under"), self_link(bound, "over")] if bound.least >= 0 else [self_link(bound, "under")]
    return tuple(
        replace(link, places=tuple(move(link.places)), factor=_single(link), radius=None)
        for link in (*links, *bound.links)
    )


def _single(link: Link) -> Tensor:
    """One factor for all elements."""
    return link.factor.amin() if link.sense == "over" else link.factor.amax()
