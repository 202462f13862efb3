"""Bounds of the arithmetic of two tensors, of comparisons and of choices between two."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nanproof.ops.bound_links import (
    broadcast_links,
    inverse_link,
    product_with_inverse,
    quotient,
    quotient_ball,
    self_link,
)
from nanproof.ops.bounding import BoundRule, Reading, UnboundedError, aligned, broadcast_shape
from nanproof.values.bound import Ball, Bound, Link, Mix, once

__all__ = [
    "add",
    "comparing",
    "connecting",
    "floor_div",
    "maximum",
    "minimum",
    "mod",
    "mul",
    "power",
    "real_div",
    "select",
    "sub",
]


def _pair(x: Bound, y: Bound) -> tuple[Bound, Bound, tuple[int, ...]]:
    shape = broadcast_shape(x, y)
    return aligned(x, len(shape)), aligned(y, len(shape)), shape


def _combined(x: Bound, y: Bound, run: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...]) -> Bound:
    """The hull of a function at the four corners; an undefined corner (``0 * inf``, ``inf - inf``) counts as zero."""
    corners = [run(a, b) for a in (x.low, x.high) for b in (y.low, y.high)]
    undefined = any(bool(c.isnan().any()) for c in corners)
    corners = [c.nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf) for c in corners] if undefined else corners
    low, high = corners[0], corners[0]
    for corner in corners[1:]:
        low, high = torch.minimum(low, corner), torch.maximum(high, corner)
    return Bound(shape, low, high, x.nan or y.nan, x.whole and y.whole)


def _finite(*bounds: Bound) -> bool:
    return all(b.limited for b in bounds)


def add(reading: Reading, x: Bound, y: Bound) -> Bound:
    """``x + y``."""
    x, y, shape = _pair(x, y)
    nan = x.nan or y.nan or _opposed(x, y)
    low, high = (
        torch.nan_to_num(v, nan=0.0, posinf=math.inf, neginf=-math.inf) for v in (x.low + y.low, x.high + y.high)
    )
    links: list[Link] = []
    for one, other in ((x, y), (y, x)):
        if other.least >= 0:
            more = [link for link in broadcast_links(one, shape) if link.sense == "over"]
            links += [replace(link, lost=link.lost - other.least) for link in more]
    balls = _added_balls(x, y) if _finite(x, y) else ()
    return Bound(shape, low, high, nan, x.whole and y.whole, balls, tuple(links))


def _opposed(x: Bound, y: Bound) -> bool:
    """Whether the sum may be of infinities of opposite sign."""
    up, down = (bool((b.high == math.inf).any()) for b in (x, y)), (bool((b.low == -math.inf).any()) for b in (x, y))
    (x_up, y_up), (x_down, y_down) = up, down
    return (x_up and y_down) or (x_down and y_up)


def _negative(x: Bound) -> Bound:
    def flipped(make: Callable[[], Ball | None]) -> Callable[[], Ball | None]:
        def made() -> Ball | None:
            ball = make()
            return None if ball is None else replace(ball, center=-ball.center)

        return made

    value = None if x.value is None else -x.value
    balls = tuple(flipped(make) for make in x.balls)
    return Bound(x.shape, -x.high, -x.low, x.nan, x.whole, balls, value=value)


def sub(reading: Reading, x: Bound, y: Bound) -> Bound:
    """``x - y``; a value minus its own largest element is not positive, and zero somewhere."""
    left, right, shape = _pair(x, y)
    if left.token is right.token:
        zero = torch.zeros([1] * len(shape), dtype=torch.float64)
        return Bound(shape, zero, zero, not _finite(left), whole=True)
    result = add(reading, left, _negative(right))
    for link in right.links:
        if (
            link.sense == "top"
            and link.base is x.token
            and link.aligned
            and all(p in (None, i) for i, p in enumerate(link.places))
        ):
            peak = (next(iter(link.axes)), 0.0) if len(link.axes) == 1 else None
            return replace(result, high=result.high.clamp(max=0.0), peak=peak, balls=())
    return result


def _added_balls(x: Bound, y: Bound) -> tuple[Callable[[], Ball | None], ...]:
    if not x.balls and not y.balls:
        return ()
    if x.fixed or y.fixed:  # a constant moves the center
        fixed, moving = (x, y) if x.fixed else (y, x)
        return tuple(_shifted(make, fixed, moving.shape) for make in moving.balls)

    def made() -> Ball | None:
        ours, theirs = x.known_balls(), y.known_balls()
        for ball in (*ours, *theirs):
            if any(x.shape[a] != y.shape[a] for a in ball.axes):
                continue  # repeated along the axis by the sum
            left, right = _ball_along(x, ours, ball), _ball_along(y, theirs, ball)
            if left is not None and right is not None:
                return _sum_of(left, right)
        return None

    return (once(made),)


def _shifted(make: Callable[[], Ball | None], by: Bound, shape: Sequence[int]) -> Callable[[], Ball | None]:
    def made() -> Ball | None:
        ball = make()
        if ball is None or any(shape[a] == 1 < by.shape[a] for a in ball.axes):
            return None  # repeated along the axis by the sum
        return replace(ball, center=ball.center + by.low)

    return made


def _ball_along(x: Bound, balls: Sequence[Ball], wanted: Ball) -> Ball | None:
    """A ball of ``x`` along the axes of another one: its own, or the one around zero that its box is in."""
    for ball in balls:
        if ball.axes == wanted.axes:
            return ball
    zero = torch.zeros([1] * len(x.shape), dtype=torch.float64)
    return Ball(wanted.axes, zero, zero + 1, x.norm(wanted.axes), zero)


def _sum_of(a: Ball, b: Ball) -> Ball:
    """``s1 u1 + s2 u2`` lies in ``max(s1, s2) u`` with ``|u| <= r1 + r2``."""
    scale = a.scale if a.scale is b.scale else torch.maximum(a.scale.abs(), b.scale.abs())
    return Ball(a.axes, a.center + b.center, scale, a.radius + b.radius, a.slack + b.slack)


def mul(reading: Reading, x: Bound, y: Bound) -> Bound:
    """``x * y``; of a value with itself a square."""
    if x.token is y.token:
        low, high = x.low.square(), x.high.square()
        crosses = (x.low < 0) & (x.high > 0)
        box = torch.minimum(low, high).masked_fill(crosses, 0.0), torch.maximum(low, high)
        return Bound(x.shape, *box, x.nan, x.whole, links=(self_link(x, "over", power=2),), root=x)
    x, y, shape = _pair(x, y)
    result = _combined(x, y, torch.mul, shape)
    zeros = [bool(((b.low <= 0) & (b.high >= 0)).any()) for b in (x, y)]
    infinite = [not _finite(b) for b in (x, y)]
    if (zeros[0] and infinite[1]) or (zeros[1] and infinite[0]):
        result = replace(result, nan=True)
    for a, b in ((x, y), (y, x)):
        found = product_with_inverse(a, b)
        if found is not None and _finite(a, b):
            reach, ball = found
            low, high = torch.maximum(result.low, -reach), torch.minimum(result.high, reach)
            result = replace(result, low=low, high=high)
            if ball is not None and a.shape == shape:
                result = replace(result, balls=(lambda ball=ball: ball, *result.balls))
    return replace(result, balls=(*result.balls, *_scaled_balls(x, y)), links=_product_links(x, y, shape))


def _scaled_balls(x: Bound, y: Bound) -> tuple[Callable[[], Ball | None], ...]:
    if not x.fixed and not y.fixed:
        return ()
    fixed, moving = (x, y) if x.fixed else (y, x)
    if any(m == 1 and f > 1 for m, f in zip(moving.shape, fixed.shape, strict=True)) or not _finite(fixed):
        return ()

    def scaled(make: Callable[[], Ball | None]) -> Callable[[], Ball | None]:
        def made() -> Ball | None:
            ball = make()
            if ball is None:
                return None
            k = fixed.low
            return Ball(ball.axes, ball.center * k, ball.scale * k, ball.radius, ball.slack * k.abs())

        return made

    return tuple(scaled(make) for make in moving.balls)


def _product_links(x: Bound, y: Bound, shape: tuple[int, ...]) -> tuple[Link, ...]:
    links: list[Link] = []
    for a, b in ((x, y), (y, x)):
        reach = b.magnitude
        if not reach.numel() or not bool(reach.isfinite().all()):
            continue
        own = [self_link(a, "under"), *(link for link in a.links if link.sense in ("under", "inverse"))]
        own = broadcast_links(replace(a, links=tuple(own)), shape)
        spread = {"span": frozenset[int](), "radius": None}
        links += [
            replace(link, factor=link.factor * reach, lost=link.lost * float(reach.max()), **spread) for link in own
        ]
        links += _spanning(a, b, shape)
        if b.fixed and b.least > 0:
            over = [link for link in broadcast_links(a, shape) if link.sense == "over"]
            links += [
                replace(link, factor=link.factor * b.low, lost=link.lost * (b.most if link.lost > 0 else b.least))
                for link in over
            ]
    return tuple(links)


def _spanning(a: Bound, b: Bound, shape: tuple[int, ...]) -> list[Link]:
    """The product with what has a ball: where all its elements have one factor, so has its norm."""
    if not b.balls or b.shape != shape or a.fixed:
        return []
    axes = frozenset(i for i, size in enumerate(a.shape) if size == 1 and shape[i] > 1)
    if not axes:
        return []
    (link,) = broadcast_links(replace(a, links=(self_link(a, "under", factor=b.magnitude),)), shape)
    return [replace(link, span=axes, radius=lambda: b.norm(axes))]


def real_div(reading: Reading, x: Bound, y: Bound) -> Bound:
    """``x / y``. A denominator that may be zero is made up for by a link alone, and only if it stays above zero."""
    integers = not reading.op.outputs[0].type.dtype.is_float
    x, y, shape = _pair(x, y)
    crosses = bool(((y.low <= 0) & (y.high >= 0)).any())
    if crosses and integers:
        reach = x.magnitude.expand(torch.broadcast_shapes(x.low.shape, y.low.shape))
        return Bound(shape, -reach, reach, whole=True)
    if crosses:
        raise UnboundedError("its denominator may be zero")
    result = _combined(x, y, torch.div, shape)
    if integers:
        return replace(result, low=result.low.trunc(), high=result.high.trunc(), whole=True)
    if not _finite(x) and not _finite(y):
        result = replace(result, nan=True)
    reach = quotient(x, y) if _finite(x, y) else None
    if reach is not None:
        result = replace(result, low=torch.maximum(result.low, -reach), high=torch.minimum(result.high, reach))
    links: list[Link] = []
    ball = quotient_ball(x, y) if _finite(x, y) and x.shape == shape else None
    if x.fixed:
        made = (inverse_link(link, y.low, 0.0, root=False) for link in broadcast_links(y, shape))
        links = [replace(link, factor=link.factor * x.magnitude) for link in made if link is not None]
    balls: tuple[Callable[[], Ball | None], ...] = () if ball is None else (ball,)
    if y.fixed:
        balls = _scaled_balls(x, Bound.constant(1 / y.low))
    return replace(result, whole=False, links=tuple(links), balls=balls)


def floor_div(reading: Reading, x: Bound, y: Bound) -> Bound:
    """``floor(x / y)``; of integers by zero it is zero."""
    x, y, shape = _pair(x, y)
    crosses = bool(((y.low <= 0) & (y.high >= 0)).any())
    if crosses and reading.op.outputs[0].type.dtype.is_float:
        raise UnboundedError("its divisor may be zero")
    if not _finite(x, y):
        raise UnboundedError("an operand may be infinite")
    if crosses:
        reach = x.magnitude + 1
        return Bound(shape, -reach, reach, whole=True)
    result = _combined(x, y, torch.div, shape)
    # One less, for a float quotient that is rounded up to a whole number and down again.
    spare = 1.0 if reading.op.outputs[0].type.dtype.is_float else 0.0
    return replace(result, low=result.low.floor() - spare, high=result.high.floor() + spare, whole=True)


def mod(reading: Reading, x: Bound, y: Bound) -> Bound:
    """``x - y floor(x / y)``: between zero and the divisor, of its sign."""
    x, y, shape = _pair(x, y)
    floats = reading.op.outputs[0].type.dtype.is_float
    if floats and bool(((y.low <= 0) & (y.high >= 0)).any()):
        raise UnboundedError("its divisor may be zero")
    if not _finite(x, y):
        raise UnboundedError("an operand may be infinite")
    low, high = y.low.clamp(max=0.0), y.high.clamp(min=0.0)
    if not floats:
        low, high = (low + 1).clamp(max=0.0), (high - 1).clamp(min=0.0)
    size = torch.broadcast_shapes(x.low.shape, y.low.shape)
    return Bound(shape, low.expand(size), high.expand(size), x.nan or y.nan, x.whole and y.whole)


def power(reading: Reading, x: Bound, y: Bound) -> Bound:
    """``x ** y`` for a constant whole or half exponent, or a base above zero."""
    x, y, shape = _pair(x, y)
    single = None if y.value is None or y.value.numel() != 1 else float(y.value.reshape(()))
    links: tuple[Link, ...] = ()
    root = x if single == 2 else None
    if single is not None and 0 <= single <= 16 and single == int(single):
        ends = x.low**single, x.high**single
        low, high = torch.minimum(*ends), torch.maximum(*ends)
        if int(single) % 2 == 0:
            low = low.masked_fill((x.low < 0) & (x.high > 0), 0.0 if single else 1.0)
        links = (self_link(x, "over", power=2),) if single == 2 else ()
    elif x.least > 0 or (x.least >= 0 and y.least > 0):
        result = _combined(x, y, torch.pow, shape)
        low, high = result.low, result.high
    else:
        raise UnboundedError("a base that may be negative has no such power")
    error = 2.0**-18 if reading.op.outputs[0].type.dtype.is_float else 0.0
    low, high = low - low.abs() * error, high + high.abs() * error
    whole = x.whole and y.whole and y.least >= 0
    return Bound(shape, low, high, x.nan or y.nan, whole, links=links, root=root)


def maximum(reading: Reading, x: Bound, y: Bound) -> Bound:
    """The larger of two: not less than what links say of either."""
    x, y, shape = _pair(x, y)
    links = [link for one in (x, y) for link in broadcast_links(one, shape) if link.sense == "over"]
    box = torch.maximum(x.low, y.low), torch.maximum(x.high, y.high)
    return Bound(shape, *box, x.nan or y.nan, x.whole and y.whole, links=tuple(links))


def minimum(reading: Reading, x: Bound, y: Bound) -> Bound:
    """The smaller of two."""
    x, y, shape = _pair(x, y)
    return Bound(shape, torch.minimum(x.low, y.low), torch.minimum(x.high, y.high), x.nan or y.nan, x.whole and y.whole)


# ---------------------------------------------------------------------------------------------------------------------
# Truth values


def comparing(name: str) -> BoundRule:
    """The rule of a relation: decided where the boxes decide it, and 0 or 1 elsewhere."""

    def rule(reading: Reading, x: Bound, y: Bound) -> Bound:
        x, y, shape = _pair(x, y)
        always, never = {
            "less": (x.high < y.low, x.low >= y.high),
            "less_equal": (x.high <= y.low, x.low > y.high),
            "greater": (x.low > y.high, x.high <= y.low),
            "greater_equal": (x.low >= y.high, x.high < y.low),
            "equal": ((x.low == x.high) & (y.low == y.high) & (x.low == y.low), (x.high < y.low) | (x.low > y.high)),
            "not_equal": (
                (x.high < y.low) | (x.low > y.high),
                (x.low == x.high) & (y.low == y.high) & (x.low == y.low),
            ),
        }[name]
        if x.nan or y.nan:
            always, never = torch.zeros_like(always), torch.zeros_like(never)
        return Bound(shape, always.double(), 1 - never.double(), whole=True)

    return rule


def connecting(run: Callable[[Tensor, Tensor], Tensor]) -> BoundRule:
    """The rule of a connective of truth values that rises in both (``and``, ``or``)."""

    def rule(reading: Reading, x: Bound, y: Bound) -> Bound:
        x, y, shape = _pair(x, y)
        low, high = (run(a != 0, b != 0).double() for a, b in ((x.low, y.low), (x.high, y.high)))
        return Bound(shape, low, high, whole=True)

    return rule


def either(reading: Reading, x: Bound, y: Bound) -> Bound:
    """``logical_xor``: decided only where both are."""
    x, y, shape = _pair(x, y)
    known = (x.low == x.high) & (y.low == y.high)
    value = ((x.low != 0) ^ (y.low != 0)).double()
    return Bound(shape, torch.where(known, value, 0.0), torch.where(known, value, 1.0), whole=True)


def negated(reading: Reading, x: Bound) -> Bound:
    """``logical_not``."""
    return Bound(x.shape, 1 - x.high, 1 - x.low, whole=True)


def select(reading: Reading, cond: Bound, a: Bound, b: Bound) -> Bound:
    """``a`` where the condition holds, ``b`` elsewhere: one of them where it is decided, either where it is not."""
    shape = broadcast_shape(cond, a, b)
    cond, a, b = (aligned(x, len(shape)) for x in (cond, a, b))
    true, false = cond.low > 0, cond.high < 1
    low = torch.where(true, a.low, torch.where(false, b.low, torch.minimum(a.low, b.low)))
    high = torch.where(true, a.high, torch.where(false, b.high, torch.maximum(a.high, b.high)))
    nan = (a.nan and not bool(false.all())) or (b.nan and not bool(true.all()))
    result = Bound(shape, low, high, nan, a.whole and b.whole)
    if bool(true.all()) and a.shape == shape:
        return replace(result, balls=a.balls, links=a.links, mix=a.mix, token=a.token)
    if bool(false.all()) and b.shape == shape:
        return replace(result, balls=b.balls, links=b.links, mix=b.mix, token=b.token)
    return replace(result, mix=_mixed(a, b, shape) or _mixed(b, a, shape))


def _mixed(weights: Bound, other: Bound, shape: tuple[int, ...]) -> Mix | None:
    """Weights of a mixture stay such where some of them are replaced by zeros; their sum may be less."""
    nothing = other.fixed and other.least == 0 and other.most == 0
    if weights.mix is None or not nothing or weights.shape != shape or weights.nan:
        return None
    return replace(weights.mix, low=0.0)
