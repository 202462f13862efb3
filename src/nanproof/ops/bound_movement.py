"""Bounds of ops that move values about, and of reductions that rise with their operand.

The rule of execution itself is run on both ends of the box. Merged axes are expanded without a copy (their stride is
zero), and what comes out with a stride of zero is merged again: most movements cost nothing at any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nanproof.numerics.arithmetic import SingleInside
from nanproof.ops.bounding import BoundRule, Reading, UnboundedError, parameter
from nanproof.values.bound import Ball, Bound, Link, compressed, once

__all__ = ["cast", "merged", "moves"]

_SINGLE = SingleInside()
_MOST_ELEMENTS = 2**22
"""Beyond this size nothing is told apart rather than copied."""


def _merged(x: Tensor) -> Tensor:
    """The tensor without the axes along which it repeats itself for certain."""
    for axis, (size, stride) in enumerate(zip(x.shape, x.stride(), strict=True)):
        if stride == 0 and size > 1:
            x = x.narrow(axis, 0, 1)
    return x


def _given(others: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value if isinstance(value, str) else parameter(value, name)
        for name, value in others.items()
        if value is not None
    }


def moves(
    run: Callable[..., Any],
    *,
    data: str = "x",
    injective: bool = True,
    fill: str = "",
    to: Sequence[int] | None = None,
) -> BoundRule:
    """The rule of an op that only moves the elements of one operand, or puts a constant beside them.

    Args:
        run: The rule of execution. Its other inputs have to be constants.
        data: The name of the operand.
        injective: Whether no element comes twice, so that norms do not grow.
        fill: The name of the constant that may be put beside them.
        to: The sizes of the result, where it is not the output of the op but a step on the way to it.
    """

    def rule(reading: Reading, **inputs: Any) -> Any:
        if data not in inputs or "update" in inputs:
            raise UnboundedError("it does not move the elements of one operand alone")
        x: Bound = inputs.pop(data)
        given = _given(inputs)
        shape = reading.shape()
        if math.prod(x.shape) > _MOST_ELEMENTS and math.prod(shape) > _MOST_ELEMENTS and x.low.numel() > 1:
            ends = (x.least, x.most)
            more = [float(given[fill].double().min())] if fill and fill in given else [0.0] if fill else []
            return [
                Bound.interval(reading.shape(i), min(*ends, *more), max(*ends, *more), whole=x.whole)
                for i in range(len(reading.op.outputs))
            ]

        def moved(t: Tensor, output: int = 0) -> Tensor:
            result = run(_SINGLE, **{data: t.expand(x.shape)}, **given)
            return _merged(result[output] if isinstance(result, (list, tuple)) else result)

        results: list[Bound] = []
        for output in range(len(reading.op.outputs)):
            low, high = moved(x.low, output), moved(x.high, output)
            size = reading.shape(output) if to is None else tuple(to)
            low, high = (
                compressed(size, *torch.broadcast_tensors(low, high)) if low.shape != high.shape else (low, high)
            )
            bound = Bound(size, low, high, x.nan, x.whole)
            fixed = x.value is not None and size == tuple(moved_value(run, x, data, given, output).shape)
            if fixed:
                bound = replace(bound, value=moved_value(run, x, data, given, output))
            if injective and (x.balls or x.links or x.mix or x.peak):
                bound = _carried(bound, x, lambda t, o=output: moved(t, o), _traces(run, x, data, given, output))
            results.append(bound)
        return results

    return rule


def moved_value(run: Callable[..., Any], x: Bound, data: str, given: dict[str, Any], output: int) -> Tensor:
    """The carrier of a constant, moved."""
    result = run(_SINGLE, **{data: x.value}, **given)
    return result[output] if isinstance(result, (list, tuple)) else result


def _traces(
    run: Callable[..., Any], x: Bound, data: str, given: dict[str, Any], output: int
) -> list[tuple[list[int], bool]]:
    """For each axis of the operand, the axes of the result where its index varies, and whether it is the same there."""
    traces: list[tuple[list[int], bool]] = []
    for axis, size in enumerate(x.shape):
        index = torch.arange(size).reshape([size if a == axis else 1 for a in range(len(x.shape))]).expand(x.shape)
        result = run(_SINGLE, **{data: index}, **given)
        result = result[output] if isinstance(result, (list, tuple)) else result
        varies = [
            a
            for a, (n, stride) in enumerate(zip(result.shape, result.stride(), strict=True))
            if n > 1 and stride != 0 and bool((result != result.narrow(a, 0, 1)).any())
        ]
        same = False
        if len(varies) == 1 and result.shape[varies[0]] == size:
            own = torch.arange(size).reshape([size if a == varies[0] else 1 for a in range(result.dim())])
            same = bool((result == own).all())
        traces.append((varies if size > 1 else [], same))
    return traces


def _carried(bound: Bound, x: Bound, moved: Callable[[Tensor], Tensor], traced: list[tuple[list[int], bool]]) -> Bound:
    """What of balls, links and the like still holds where the elements are now."""
    traces = [went for went, _ in traced]

    def target(axis: int) -> int | None:
        """The one axis to which an axis of the operand went as it was, in the same order, if there is one."""
        went, same = traced[axis]
        if len(went) != 1 or bound.shape[went[0]] != x.shape[axis] or not same:
            return None
        return went[0] if not any(went[0] in other for a, other in enumerate(traces) if a != axis) else None

    def ball_moved(make: Callable[[], Ball | None]) -> Callable[[], Ball | None]:
        def made() -> Ball | None:
            ball = make()
            if ball is None:
                return None
            axes = {to for a in ball.axes for to in traces[a]}
            others = {to for a, went in enumerate(traces) if a not in ball.axes for to in went}
            if not axes or axes & others:
                return None
            if math.prod(bound.shape[a] for a in axes) > math.prod(x.shape[a] for a in ball.axes):
                return None  # some elements come twice, and the norm grows
            full = Ball(ball.axes, *(t.expand(x.shape) for t in (ball.center, ball.scale, ball.radius, ball.slack)))
            result = full.mapped(moved, axes)
            radius = result.radius.amax(sorted(axes), keepdim=True)
            return replace(result, radius=radius)

        return once(made)

    def link_moved(link: Link) -> Link | None:
        places: list[int | None] = [None] * len(bound.shape)
        for axis, place in enumerate(link.places):
            if place is None or x.shape[axis] == 1:
                continue
            to = target(axis)
            if to is None:
                return None
            places[to] = place
        factor = link.factor.amin() if link.sense == "over" else link.factor.amax()
        return replace(link, places=tuple(places), factor=factor, radius=None)

    links = tuple(made for link in x.links if link.sense != "top" and (made := link_moved(link)) is not None)
    mix = None if x.mix is None or (to := target(x.mix.axis)) is None else replace(x.mix, axis=to)
    peak = None if x.peak is None or (to := target(x.peak[0])) is None else (to, x.peak[1])
    return replace(bound, balls=tuple(ball_moved(make) for make in x.balls), links=links, mix=mix, peak=peak)


def cast(reading: Reading, x: Bound, dtype: str) -> Bound:
    """A change of type: exact into a wider one, toward zero into integers."""
    given, wanted = reading.op.inputs["x"][0].type.dtype, reading.op.outputs[0].type.dtype
    if wanted.value == "bool":
        never = (x.low == 0) & (x.high == 0) & (not x.nan)
        always = (x.low > 0) | (x.high < 0)
        return Bound(x.shape, always.double(), 1 - never.double(), whole=True)
    if not wanted.is_float:
        if x.nan:
            raise UnboundedError("NaN is cast to an integer")
        low, high = (t.clamp(-(2.0**31), 2.0**31 - 1).trunc() if given.is_float else t for t in (x.low, x.high))
        value = None if x.value is None or given.is_float else x.value
        links = x.links if x.whole else ()
        return Bound(x.shape, low, high, whole=True, value=value, links=links, token=x.token if x.whole else object())
    exact = wanted.value == "fp32" and (given.value == "fp16" or (not given.is_float and x.reach <= 2.0**24))
    exact = exact or given == wanted or (not given.is_float and x.reach <= 2048)
    if exact:
        return replace(x, value=None if x.value is None else x.value.float())
    itself = Link("under", "self", x.token, x.shape, frozenset(), tuple(range(len(x.shape))), torch.ones(()).double())
    over = replace(itself, sense="over")
    links = (itself, *([over] if x.least >= 0 else []), *(link for link in x.links if link.sense != "top"))
    return replace(x, value=None, links=links, token=object())


def merged(x: Bound, axes: Iterable[int]) -> tuple[Tensor, Tensor]:
    """The box with some axes merged; that of no elements is zero."""
    low, high = x.low, x.high
    for axis in axes:
        if low.shape[axis] == 0 or high.shape[axis] == 0:
            zero = torch.zeros([1] * len(x.shape), dtype=torch.float64)
            return zero, zero.clone()
        low, high = low.amin(axis, keepdim=True), high.amax(axis, keepdim=True)
    return low, high
