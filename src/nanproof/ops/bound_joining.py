"""Bounds of ops that put tensors beside each other, or one into another, and of those that repeat elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic, SingleInside
from nanproof.ops.bound_links import broadcast_links
from nanproof.ops.bound_movement import merged, moves
from nanproof.ops.bounding import BoundRule, Reading, UnboundedError, parameter
from nanproof.values.bound import Ball, Bound, compressed, hull, once, outward

__all__ = ["concat", "reshape_like", "reverse_sequence", "slices", "stack", "tile", "updated"]

_SINGLE = SingleInside()
_MOST_ELEMENTS = 2**22
"""Beyond this size nothing is told apart rather than copied."""
_FEW_ELEMENTS = 2**16
"""Up to this size an update of known places is written out."""


# ---------------------------------------------------------------------------------------------------------------------
# Beside each other


def concat(reading: Reading, values: Sequence[Bound], axis: Bound, interleave: Bound | None = None) -> Bound:
    """Operands side by side along an axis, on which they are told apart unless all are bounded alike."""
    if not values[0].shape:
        return stack(reading, values, axis)
    dim = int(parameter(axis, "axis")) % len(values[0].shape)
    joined = _joined(values, dim)
    if interleave is None or not bool(parameter(interleave, "interleave")):
        return joined
    low, high = merged(joined, [dim])  # elements of all operands take turns
    return Bound(joined.shape, low, high, joined.nan, joined.whole)


def stack(reading: Reading, values: Sequence[Bound], axis: Bound) -> Bound:
    """Operands side by side along a new axis."""
    rank = len(values[0].shape) + 1
    dim = int(parameter(axis, "axis")) % rank
    return _joined([_with_axis(v, dim) for v in values], dim)


def _with_axis(x: Bound, dim: int) -> Bound:
    def moved(make: Callable[[], Ball | None]) -> Callable[[], Ball | None]:
        def made() -> Ball | None:
            ball = make()
            return None if ball is None else ball.mapped(grown, (a + (a >= dim) for a in ball.axes))

        return made

    def grown(t: Tensor) -> Tensor:
        return t.unsqueeze(dim) if t.dim() == len(x.shape) else t

    shape = (*x.shape[:dim], 1, *x.shape[dim:])
    balls = tuple(moved(make) for make in x.balls)
    return Bound(shape, grown(x.low), grown(x.high), x.nan, x.whole, balls)


def _joined(values: Sequence[Bound], dim: int) -> Bound:
    first = values[0]
    shape = (*first.shape[:dim], sum(v.shape[dim] for v in values), *first.shape[dim + 1 :])
    nan, whole = any(v.nan for v in values), all(v.whole for v in values)
    values = [v for v in values if v.shape[dim]]
    if not values or 0 in shape:
        return Bound.interval(shape, 0.0, 0.0, whole=True)
    balls = (once(lambda: _joined_ball(values, dim, shape)),) if any(v.balls for v in values) else ()
    alike = all(v.low.shape[dim] == 1 == v.high.shape[dim] for v in values)
    first = values[0]
    if alike and all(torch.equal(v.low, first.low) and torch.equal(v.high, first.high) for v in values):
        return Bound(shape, first.low, first.high, nan, whole, balls)
    low, high = (_side_by_side([(v.shape[dim], t) for v, t in ends], dim, shape) for ends in _ends(values))
    if low is None or high is None:
        ends = [merged(v, range(len(shape))) for v in values]
        joined = hull([Bound((1,) * len(shape), *end) for end in ends])
        return replace(joined, shape=shape, nan=nan, whole=whole, balls=balls)
    return Bound(shape, low, high, nan, whole, balls)


def _ends(values: Sequence[Bound]) -> Iterator[list[tuple[Bound, Tensor]]]:
    yield [(v, v.low) for v in values]
    yield [(v, v.high) for v in values]


def _side_by_side(parts: Sequence[tuple[int, Tensor]], dim: int, shape: Sequence[int]) -> Tensor | None:
    """Tensors that broadcast to parts of a shape, put together; ``None`` if that takes too much memory."""
    sizes = [max(t.shape[a] for _, t in parts) for a in range(len(shape))]
    sizes[dim] = shape[dim]
    if math.prod(sizes) > _MOST_ELEMENTS:
        return None
    return torch.cat([t.expand(*sizes[:dim], n, *sizes[dim + 1 :]) for n, t in parts], dim)


def _joined_ball(values: Sequence[Bound], dim: int, shape: Sequence[int]) -> Ball | None:
    """Along other axes each part keeps its own ball; along the axis itself squared radii add up."""
    wanted = next((ball.axes for v in values for ball in v.known_balls()), None)
    if wanted is None or not all(v.limited for v in values):
        return None
    balls = [_ball_of(v, wanted) for v in values]
    sizes = [v.shape[dim] for v in values]

    def beside(tensors: Sequence[Tensor]) -> Tensor | None:
        return _side_by_side(list(zip(sizes, tensors, strict=True)), dim, shape)

    center, scale, slack = (beside([getattr(b, name) for b in balls]) for name in ("center", "scale", "slack"))
    if dim in wanted:
        radius = outward(torch.stack(torch.broadcast_tensors(*(b.radius for b in balls))).square().sum(0).sqrt())
    else:
        radius = beside([b.radius for b in balls])
    if center is None or scale is None or slack is None or radius is None:
        return None
    return Ball(wanted, center, scale, radius, slack)


def _ball_of(x: Bound, axes: frozenset[int]) -> Ball:
    """A ball along some axes: one that is known, or the one around zero in which the box lies."""
    for ball in x.known_balls():
        if ball.axes == axes:
            return Ball(
                axes, *(_full_rank(t, len(x.shape)) for t in (ball.center, ball.scale, ball.radius, ball.slack))
            )
    zero = torch.zeros([1] * len(x.shape), dtype=torch.float64)
    return Ball(axes, zero, zero + 1, x.norm(axes), zero)


def _full_rank(t: Tensor, rank: int) -> Tensor:
    return t.reshape(*(1,) * (rank - t.dim()), *t.shape)


# ---------------------------------------------------------------------------------------------------------------------
# Repeated, reversed, reshaped


def tile(reading: Reading, x: Bound, reps: Bound) -> Bound:
    """Copies along axes. A merged axis stays so; a norm along axes of which there is one copy stays what it is."""
    times = [int(n) for n in parameter(reps, "reps").reshape(-1).tolist()]
    shape = tuple(size * n for size, n in zip(x.shape, times, strict=True))
    if 0 in shape:
        return Bound.interval(shape, 0.0, 0.0, whole=True)

    def repeated(t: Tensor) -> Tensor:
        t = _full_rank(t, len(shape))
        return t.repeat([n if size > 1 else 1 for size, n in zip(t.shape, times, strict=True)])

    low, high = x.low, x.high
    if max(math.prod(repeated_sizes(t, times)) for t in (low, high)) > _MOST_ELEMENTS:
        low, high = merged(x, range(len(shape)))

    def moved(make: Callable[[], Ball | None]) -> Callable[[], Ball | None]:
        def made() -> Ball | None:
            ball = make()
            if ball is None or any(times[a] != 1 for a in ball.axes):
                return None
            parts = (ball.center, ball.scale, ball.radius, ball.slack)
            if max(math.prod(repeated_sizes(t, times)) for t in parts) > _MOST_ELEMENTS:
                return None
            return ball.mapped(repeated, ball.axes)

        return once(made)

    mix = x.mix if x.mix is not None and times[x.mix.axis] == 1 else None
    balls = tuple(moved(make) for make in x.balls)
    # A single element that is repeated is what it was; several in a row would no longer follow the base.
    single = all(size == 1 or n == 1 for size, n in zip(x.shape, times, strict=True))
    links = tuple(link for link in broadcast_links(x, shape) if link.sense != "top") if single else ()
    return Bound(shape, repeated(low), repeated(high), x.nan, x.whole, balls, links, mix=mix)


def repeated_sizes(t: Tensor, times: Sequence[int]) -> list[int]:
    """The sizes of a tensor once the axes that are told apart are repeated."""
    return [n * size if size > 1 else 1 for size, n in zip(t.shape, times[len(times) - t.dim() :], strict=True)]


def reshape_like(
    reading: Reading,
    x: Bound,
    ref_tensors: Sequence[Bound],
    begins: Sequence[Bound],
    ends: Sequence[Bound],
    end_masks: Sequence[Bound],
) -> Any:
    """A reshape to sizes of other tensors."""
    shape: list[int] = []
    for ref, begin, end, to_end in zip(ref_tensors, begins, ends, end_masks, strict=True):
        last = None if bool(parameter(to_end, "end_masks")) else int(parameter(end, "ends"))
        shape += ref.shape[int(parameter(begin, "begins")) : last]

    def reshaped(arithmetic: Arithmetic, x: Tensor) -> Tensor:
        return x.reshape(shape)

    return moves(reshaped)(reading, x=x)


def reverse_sequence(
    reading: Reading, x: Bound, lengths: Bound, seq_axis: Bound | None = None, batch_axis: Bound | None = None
) -> Bound:
    """Elements change places along one axis."""
    dim = 0 if seq_axis is None else int(parameter(seq_axis, "seq_axis"))
    if lengths.least < 0 or lengths.most > x.shape[dim]:
        reading.doubt(f"a length may lie outside of the {x.shape[dim]} elements")
    return Bound(x.shape, *merged(x, [dim]), x.nan, x.whole)


# ---------------------------------------------------------------------------------------------------------------------
# Slices


def slices(run: Callable[..., Any], *, clamps: bool) -> BoundRule:
    """The rule of a slice: a movement at known places, and the hull of all where they are computed.

    Args:
        run: The rule of execution.
        clamps: Whether places outside are brought inside, as in NumPy.
    """
    moved = moves(run)

    def rule(reading: Reading, x: Bound, begin: Bound, **others: Any) -> Any:
        _cropped(reading, x, begin, others.get("begin_mask"))
        if all(not isinstance(b, Bound) or b.value is not None for b in (begin, *others.values())):
            return moved(reading, x=x, begin=begin, **others)
        declared = reading.op.outputs[0].type.shape
        if not all(isinstance(size, int) for size in declared):
            raise UnboundedError("the size of a slice depends on the data")
        if not clamps:
            size = parameter(others["size"], "size").double()
            if bool((size < 0).any()):
                raise UnboundedError("the size of a slice depends on the data")
            if bool((begin.high + size > torch.tensor(x.shape)).any()) or begin.least < 0:
                reading.doubt("a slice may begin outside of what there is to read")
        low, high = (t.reshape([1] * len(declared)) for t in merged(x, range(len(x.shape))))
        return Bound(reading.shape(), low, high, x.nan, x.whole)

    return rule


def _cropped(reading: Reading, x: Bound, begin: Bound, mask: Bound | None) -> None:
    """D1: what the copy engine of an M1 loses in a slice that begins inside the last axis."""
    first = 1 if begin.value is None else int(begin.value.reshape(-1)[-1])
    if mask is not None and mask.value is not None and bool(mask.value.reshape(-1)[-1]):
        first = 0
    delivered = reading.machine.arithmetic.cropped(torch.tensor([min(x.reach, 65504.0)]), first)
    if not math.isfinite(float(delivered)):
        reading.doubt(f"a slice inside the last axis loses numbers such as {x.reach:.5g} on this unit")


def updated(run: Callable[..., Any]) -> BoundRule:
    """The rule of writing into a slice, from the rule of execution: what was there, or what is written."""

    def rule(reading: Reading, x: Bound, update: Bound, **places: Any) -> Bound:
        given = {name: b.value for name, b in places.items() if b is not None}
        whole = x.whole and update.whole
        if math.prod(update.shape) == 0:
            return x.plain()
        if math.prod(x.shape) <= _FEW_ELEMENTS and all(value is not None for value in given.values()):
            position = torch.arange(1, math.prod(update.shape) + 1).reshape(update.shape)
            written = run(_SINGLE, x=torch.zeros(x.shape, dtype=torch.int64), update=position, **given)
            if update.shape == x.shape and torch.equal(written, position):
                return update  # all of it, in order
            pairs = zip(x.expanded(), update.expanded(), strict=True)
            low, high = (run(_SINGLE, x=old, update=new, **given) for old, new in pairs)
            nan = update.nan or (x.nan and bool((written == 0).any()))
            return Bound(x.shape, *compressed(x.shape, low, high), nan, whole)
        low, high = x.low.clamp(max=update.least), x.high.clamp(min=update.most)
        return Bound(x.shape, low, high, x.nan or update.nan, whole)

    return rule
