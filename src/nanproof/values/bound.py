"""What is known of a value for all inputs: a box, L2 balls, and links to other values. Everything rounds outward.

A box is a pair of float64 tensors ``low`` and ``high`` that broadcast against the value: an axis along which nothing is
told apart has size 1 there ("merged"), whatever its size is. So a bound of a ``(8, 512, 384)`` tensor may take 384
numbers, and holds for every batch and every position.

The box alone forgets that the elements of a row are large together or not at all. A :class:`Ball` remembers: it is what
makes a layer norm followed by a matrix provable (Cauchy-Schwarz). A :class:`Link` remembers that one value bounds
another, as the root of a sum of squares bounds each summand, so that their quotient is bounded although neither is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

__all__ = ["Ball", "Bound", "Link", "Mix", "compressed", "hull", "once", "outward", "summed"]

_MARGIN = 2.0**-36
"""Relative room for the rounding of float64 sums of fewer than 2**16 terms: 2**16 * 2**-53 = 2**-37 (Higham, 2002)."""


_SMALL = 2**16
"""Of larger constants of floats it is not asked whether they are whole numbers."""


def outward(x: Tensor) -> Tensor:
    """An upper bound of a non-negative float64 quantity that was computed with rounding: a little more."""
    return x * (1 + _MARGIN)


@dataclass(frozen=True, slots=True, eq=False)
class Ball:
    """``x = center + scale * u + r`` with ``||u||_2 <= radius`` along ``axes``, and ``|r| <= slack``.

    All tensors are float64 and broadcast against the value; ``radius`` has size 1 on ``axes``.
    """

    axes: frozenset[int]
    center: Tensor
    scale: Tensor
    radius: Tensor
    slack: Tensor

    def mapped(self, move: Callable[[Tensor], Tensor], axes: Iterable[int]) -> Ball:
        """The ball of a value whose elements are moved by ``move``, along the axes to which its own went."""
        return Ball(frozenset(axes), move(self.center), move(self.scale), move(self.radius), move(self.slack))


@dataclass(frozen=True, slots=True, eq=False)
class Mix:
    """The elements along ``axis`` are not negative, and their sum is in ``[low, high]``: weights of a mixture."""

    axis: int
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """How a value compares with a gauge ``g`` of another one, its base.

    The gauge is, by ``kind``: ``"self"`` the absolute value of the base's element; ``"norm"`` the L2 norm of the base
    along ``axes``; ``"max"`` its largest absolute value along them; ``"sum"`` the sum of the absolute values. Whatever
    the kind, no element of the base along the axes is larger than the gauge, in absolute value.

    By ``sense``: ``"over"``: ``v >= factor * g**power - lost``; ``"under"``: ``|v| <= factor * g + lost``;
    ``"inverse"``: ``|v| <= factor / g + lost`` wherever ``g > 0``; ``"top"``: ``v`` is the largest element of the base
    along ``axes`` (kind ``"max"``, not of absolute values).

    Attributes:
        base: The identity of the base (:attr:`Bound.token`).
        sizes: The shape of the base.
        places: For each axis of the value, the axis of the base that it follows, or ``None`` where it does not depend
            on the base.
        factor: Broadcasts against the value.
        span: Axes of the value along which its L2 norm is known to be at most ``radius() * g``, and the square root of
            their size times ``lost``; for ``"under"``, if ``radius`` is there.
        radius: Makes that factor, of size 1 along ``span``.
    """

    sense: Literal["over", "under", "inverse", "top"]
    kind: Literal["self", "norm", "max", "sum"]
    base: object
    sizes: tuple[int, ...]
    axes: frozenset[int]
    places: tuple[int | None, ...]
    factor: Tensor
    power: int = 1
    lost: float = 0.0
    span: frozenset[int] = frozenset()
    radius: Callable[[], Tensor] | None = None

    def row(self) -> dict[int, int]:
        """Where the value has each axis of the base that is not summed and has more than one element."""
        return {
            place: axis
            for axis, place in enumerate(self.places)
            if place is not None and place not in self.axes and self.sizes[place] > 1
        }

    @property
    def aligned(self) -> bool:
        """Whether the value follows the base along all axes that tell its gauges apart."""
        return len(self.row()) == sum(1 for a, size in enumerate(self.sizes) if a not in self.axes and size > 1)

    def same_gauge(self, other: Link) -> bool:
        """Whether two values that are combined elementwise are compared with the same gauge."""
        return (
            self.base is other.base
            and self.kind == other.kind
            and self.axes == other.axes
            and self.aligned
            and self.row() == other.row()
        )


Balls = tuple[Callable[[], Ball | None], ...]


@dataclass(frozen=True, eq=False)
class Bound:
    """What is known of one value.

    Attributes:
        shape: The sizes of the value.
        low: Lower bounds, float64, broadcastable to ``shape`` with the same rank.
        high: Upper bounds.
        nan: Whether an element may be NaN.
        whole: Whether all elements are whole numbers.
        balls: Balls, made when they are first asked for.
        links: Links to other values.
        mix: Set where the elements are the weights of a mixture.
        peak: ``(axis, least)``: along the axis some element is at least ``least``.
        value: The carrier of a constant.
        root: The value whose square this is, but for one rounding: a sum of squares is the square of a norm.
        halves: Whether all elements are known to be numbers of binary16, in whatever type they are.
        token: The identity of the value, which exact copies share.
    """

    shape: tuple[int, ...]
    low: Tensor
    high: Tensor
    nan: bool = False
    whole: bool = False
    balls: Balls = ()
    links: tuple[Link, ...] = ()
    mix: Mix | None = None
    peak: tuple[int, float] | None = None
    value: Tensor | None = None
    root: Bound | None = None
    halves: bool = False
    token: object = field(default_factory=object)

    @classmethod
    def constant(cls, value: Tensor) -> Bound:
        """The bound of a constant: itself. Its carrier is kept."""
        wide = value.to(torch.float64)
        nan = value.is_floating_point() and bool(value.isnan().any())
        wide = torch.nan_to_num(wide, nan=0.0, posinf=math.inf, neginf=-math.inf) if nan else wide
        small = value.numel() <= _SMALL
        whole = not value.is_floating_point() or (small and bool((wide == wide.round()).all()))
        return cls(tuple(value.shape), wide, wide, nan, whole, value=value)

    @classmethod
    def interval(cls, shape: Sequence[int], low: float, high: float, *, whole: bool = False) -> Bound:
        """The same bounds for all elements."""
        ones = [1] * len(shape)
        least, most = (torch.full(ones, float(v), dtype=torch.float64) for v in (low, high))
        return cls(tuple(shape), least, most, whole=whole)

    @cached_property
    def least(self) -> float:
        """The lowest of all lower bounds."""
        return float(self.low.min()) if self.low.numel() else 0.0

    @cached_property
    def most(self) -> float:
        """The highest of all upper bounds."""
        return float(self.high.max()) if self.high.numel() else 0.0

    @cached_property
    def limited(self) -> bool:
        """Whether no bound is infinite."""
        return math.isfinite(self.least) and math.isfinite(self.most)

    @property
    def finite(self) -> bool:
        """Whether no element can be Inf or NaN."""
        return not self.nan and self.limited

    @property
    def fixed(self) -> bool:
        """Whether every element is known: that of a constant, or of what equals one."""
        return self.value is not None or self.low is self.high

    @property
    def reach(self) -> float:
        """The largest absolute value that an element can have; 0 for no elements."""
        return max(abs(self.least), abs(self.most))

    @property
    def finite_reach(self) -> float:
        """The largest absolute value among the bounds that are finite."""
        if self.limited:
            return self.reach
        sizes = [t[t.isfinite()].abs() for t in (self.low, self.high)]
        return max((float(t.max()) for t in sizes if t.numel()), default=0.0)

    @property
    def magnitude(self) -> Tensor:
        """The largest absolute value of each element."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def with_box(self, low: Tensor, high: Tensor) -> Bound:
        """The same knowledge with another box."""
        return replace(self, low=low, high=high)

    def plain(self) -> Bound:
        """The box alone, of a value of its own."""
        return Bound(self.shape, self.low, self.high, self.nan, self.whole)

    def expanded(self) -> tuple[Tensor, Tensor]:
        """Both bounds at the full size of the value."""
        return self.low.expand(self.shape), self.high.expand(self.shape)

    def resolved(self, axis: int) -> tuple[Tensor, Tensor]:
        """Both bounds with the axis at its full size."""
        axis %= len(self.shape)
        sizes = [-1] * len(self.shape)
        sizes[axis] = self.shape[axis]
        return (x.expand(sizes) if x.shape[axis] == 1 else x for x in (self.low, self.high))  # type: ignore[return-value]

    def known_balls(self) -> list[Ball]:
        """The balls, made now if they have not been asked for before."""
        return [ball for make in self.balls if (ball := make()) is not None]

    def box_norm(self, axes: Iterable[int]) -> Tensor:
        """An upper bound of the L2 norm along ``axes`` by the box alone: float64, size 1 on them."""
        dims = sorted(a % len(self.shape) for a in axes)
        return outward(summed(self.magnitude.square(), dims, self.shape).sqrt())

    def norm(self, axes: Iterable[int]) -> Tensor:
        """An upper bound of the L2 norm along ``axes``: float64, size 1 on them."""
        dims = sorted(a % len(self.shape) for a in axes)
        best = self.box_norm(dims)
        for ball in self.known_balls():
            if ball.axes.issuperset(dims):
                best = torch.minimum(best, ball_norm(ball, dims, self.shape))
        return best


def once(make: Callable[[], Ball | None]) -> Callable[[], Ball | None]:
    """A ball that is made when it is first asked for, and kept."""
    kept: list[Ball | None] = []

    def made() -> Ball | None:
        if not kept:
            kept.append(make())
        return kept[0]

    return made


def ball_norm(ball: Ball, dims: Sequence[int], shape: Sequence[int]) -> Tensor:
    """An upper bound of the norm along some of the ball's axes."""
    center, slack = (summed(t.square(), dims, shape).sqrt() for t in (ball.center, ball.slack))
    largest = ball.scale.abs().amax(list(dims), keepdim=True)
    return outward(center + largest * ball.radius + slack)


def summed(x: Tensor, dims: Sequence[int], shape: Sequence[int]) -> Tensor:
    """The sum along ``dims`` of a tensor that broadcasts to ``shape``; size 1 on them."""
    for dim in dims:
        x = x.sum(dim, keepdim=True) if x.shape[dim] != 1 else x * shape[dim]
    return x


def compressed(shape: Sequence[int], low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The same bounds, with each axis merged along which they do not differ."""
    for axis, size in enumerate(shape):
        if size > 1 and low.shape[axis] > 1 and high.shape[axis] > 1:
            first = low.narrow(axis, 0, 1), high.narrow(axis, 0, 1)
            if bool((low == first[0]).all()) and bool((high == first[1]).all()):
                low, high = first
    return low, high


def hull(bounds: Sequence[Bound]) -> Bound:
    """What holds of a value that is one of several of the same shape."""
    low, high = bounds[0].low, bounds[0].high
    for other in bounds[1:]:
        low, high = torch.minimum(low, other.low), torch.maximum(high, other.high)
    nan, whole = any(b.nan for b in bounds), all(b.whole for b in bounds)
    return Bound(bounds[0].shape, low, high, nan, whole)
