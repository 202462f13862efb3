"""Bounds of normalisations and of softmax: what they give is small, whatever they get.

Statistics are assumed to be taken in float32 and in two passes (mean, then the squares of what is centred), or as
accurately (device facts G5, C6; docs, "What a proof assumes"). Then the standardised row has ``||z||**2 <= n`` whatever
the mean was rounded to, since its own squares were summed; 2**-6 is the room for that sum.

PyTorch computes ``x r + (-m r)`` with ``r = 1 / sqrt(Var[x] + epsilon)`` instead of ``(x - m) r``. For numbers of
binary16 that is as good: unless all are the same, ``r |x| <= 2**11 sqrt(n)``, of which float32 loses nothing that
counts. Other rows may differ by so little that only ``r <= epsilon**-0.5`` is left, and the loss is added.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from nanproof.ops.bounding import Reading, UnboundedError, parameter
from nanproof.ops.record import ints
from nanproof.program import DType
from nanproof.values.bound import Ball, Bound, Mix, once

__all__ = ["batch_norm", "instance_norm", "l2_norm", "layer_norm", "softmax", "softmax_room"]

_ROOM = 1 + 2.0**-6
_SQUARE_MAX = 3.0e38


_LOSS = 2.0**-18
"""Of ``|x| r``: 64 roundings of float32, so that a deviation of as many of them has a variance that is accurate."""


def _lost(reading: Reading, x: Bound, epsilon: float) -> float:
    """What each standardised element of a row may be off besides, where its numbers hardly differ."""
    if x.halves or (reading.machine.half and reading.op.inputs["x"][0].type.dtype is DType.FP16):
        return 0.0
    return x.reach / math.sqrt(epsilon) * _LOSS if epsilon > 0 else math.inf


def _standardised(reading: Reading, x: Bound, dims: list[int], epsilon: float) -> tuple[Tensor, float]:
    """The largest standardised element, and the radius of the ball of a standardised row.

    Raises:
        UnboundedError: The operand may not be finite.
    """
    if not x.finite:
        raise UnboundedError("its operand may be Inf or NaN")
    count = math.prod(x.shape[d] for d in dims)
    low, high = x.low, x.high
    for d in dims:
        low, high = low.amin(d, keepdim=True), high.amax(d, keepdim=True)
    spread = high - low
    if epsilon <= 0 or (reading.machine.narrow and epsilon < 2.0**-24):
        reading.doubt("its epsilon is zero: a constant row gives 0 / 0")
    limit = 65504.0 if reading.machine.narrow else _SQUARE_MAX
    largest = float(spread.max()) if spread.numel() else 0.0
    total = largest**2 * (count if reading.machine.narrow else 1)
    if total > limit or (reading.machine.narrow and float(x.reach) * count > limit):
        reading.doubt(
            f"the squares of centred values up to {largest:.4g} are summed in a type that ends at {limit:.4g}"
        )
    if reading.machine.narrow:
        # Steps that round to binary16 lose the two passes' own balance; what is left is the spread over the epsilon,
        # and how far the mean may be off.
        away = torch.maximum(low.abs(), high.abs()) * (2.0**-9 + count * reading.machine.sums) + 2.0**-23
        return (spread + away) / math.sqrt(max(epsilon, 2.0**-24)) * _ROOM, math.inf
    one = torch.full([1] * len(x.shape), math.sqrt(max(count - 1, 0)) * _ROOM, dtype=torch.float64)
    by_spread = spread / math.sqrt(epsilon) * _ROOM if epsilon > 0 else torch.full_like(spread, math.inf)
    both = torch.minimum(one, by_spread) + 2.0**-20 + _lost(reading, x, epsilon)
    if bool((both == both.max()).all()):
        both = both.amax().reshape([1] * both.dim())
    return both, math.sqrt(count) * (_ROOM + _lost(reading, x, epsilon))


def _affine(
    bound: Tensor, radius: float, dims: list[int], gamma: Tensor | None, beta: Tensor | None, x: Bound
) -> Bound:
    one = torch.ones([1] * len(x.shape), dtype=torch.float64)
    scale = one if gamma is None else gamma.double()
    shift = 0 * one if beta is None else beta.double()
    low, high = shift - scale.abs() * bound, shift + scale.abs() * bound
    if not math.isfinite(radius):
        return Bound(x.shape, low, high)

    def made() -> Ball:
        return Ball(frozenset(dims), shift, scale, one * radius, 0 * one)

    return Bound(x.shape, low, high, balls=(once(made),))


def _epsilon(value: Bound | None, default: float) -> float:
    return default if value is None else float(parameter(value, "epsilon"))


def layer_norm(
    reading: Reading,
    x: Bound,
    axes: Bound | None = None,
    gamma: Bound | None = None,
    beta: Bound | None = None,
    epsilon: Bound | None = None,
) -> Bound:
    """``(x - E[x]) / sqrt(Var[x] + epsilon) * gamma + beta``."""
    rank = len(x.shape)
    dims = list(range(rank)) if axes is None else sorted(a % rank for a in ints(parameter(axes, "axes")))
    shape = [x.shape[d] if d in dims else 1 for d in range(rank)]
    bound, radius = _standardised(reading, x, dims, _epsilon(epsilon, 1e-5))
    scale, shift = (None if p is None else parameter(p, "gamma or beta").reshape(shape) for p in (gamma, beta))
    return _affine(bound, radius, dims, scale, shift, x)


def instance_norm(
    reading: Reading, x: Bound, gamma: Bound | None = None, beta: Bound | None = None, epsilon: Bound | None = None
) -> Bound:
    """As a layer norm over all places of each channel."""
    rank = len(x.shape)
    dims = list(range(2, rank))
    bound, radius = _standardised(reading, x, dims, _epsilon(epsilon, 1e-5))
    scale, shift = (
        None if p is None else parameter(p, "gamma or beta").reshape(1, -1, *(1,) * (rank - 2)) for p in (gamma, beta)
    )
    return _affine(bound, radius, dims, scale, shift, x)


def batch_norm(
    reading: Reading,
    x: Bound,
    mean: Bound,
    variance: Bound,
    gamma: Bound | None = None,
    beta: Bound | None = None,
    epsilon: Bound | None = None,
) -> Bound:
    """An affine function of each channel, with constant statistics; each step rounds in its own way."""
    if not x.finite:
        raise UnboundedError("its operand may be Inf or NaN")
    rank = len(x.shape)

    def per_channel(value: Bound | None, default: float) -> Tensor:
        if value is None:
            return torch.full([1] * rank, default, dtype=torch.float64)
        return parameter(value, "a statistic").double().reshape(1, -1, *(1,) * (rank - 2))

    spread = per_channel(variance, 1.0) + _epsilon(epsilon, 1e-5)
    if bool((spread <= (2.0**-14 if reading.machine.narrow else 0)).any()):
        raise UnboundedError("a variance plus epsilon is not above zero, or not enough for binary16")
    scale = per_channel(gamma, 1.0) / spread.sqrt()
    middle, shift = per_channel(mean, 0.0), per_channel(beta, 0.0)
    ends = (x.low - middle) * scale, (x.high - middle) * scale
    relative = 2.0**-8 if reading.machine.narrow else 2.0**-20
    reach = torch.maximum(*(e.abs() for e in ends)) + shift.abs()
    centred = torch.maximum((x.low - middle).abs(), (x.high - middle).abs())
    noise = reach * relative + centred * scale.abs() * relative + x.magnitude * scale.abs() * relative
    if reading.machine.narrow and float(centred.max()) > 65504:
        reading.doubt("centred values leave the range of binary16")
    return Bound(x.shape, torch.minimum(*ends) + shift - noise, torch.maximum(*ends) + shift + noise)


def l2_norm(reading: Reading, x: Bound, epsilon: Bound | None = None) -> Bound:
    """``x / sqrt(sum(x**2) + epsilon)`` over the last three axes: a vector no longer than 1."""
    if not x.finite:
        raise UnboundedError("its operand may be Inf or NaN")
    e = _epsilon(epsilon, 1e-6)
    if e <= 0 or (reading.machine.narrow and e < 2.0**-24):
        reading.doubt("its epsilon is zero: a row of zeros gives 0 / 0")
    total = float(x.norm([-3, -2, -1]).max()) ** 2
    if reading.machine.narrow and total > 65504:
        reading.doubt(f"the sum of squares may be {total:.4g}")
    if reading.machine.narrow:
        reach = x.magnitude / math.sqrt(max(e, 2.0**-24)) * _ROOM
        return Bound(x.shape, -reach, reach)
    one = torch.ones([1] * len(x.shape), dtype=torch.float64) * _ROOM
    rank = len(x.shape)
    axes = frozenset(range(rank - 3, rank))
    return Bound(x.shape, -one, one, balls=(lambda: Ball(axes, 0 * one, one, one, 0 * one),))


def softmax(reading: Reading, x: Bound, axis: Bound | None = None) -> Bound:
    """Between 0 and 1, with a sum of 1; tighter where scores differ for certain. A row of ``-inf`` is NaN."""
    dim = (-1 if axis is None else int(parameter(axis, "axis"))) % len(x.shape)
    if x.nan:
        raise UnboundedError("its operand may be NaN")
    count = x.shape[dim]
    low, high = x.resolved(dim) if x.low.shape[dim] != x.high.shape[dim] else (x.low, x.high)
    if bool((low == -math.inf).any()) and not reading.machine.infinities:
        reading.doubt("a score may be -inf, which the Neural Engine reads as a number")
    sure = low.amax(dim).min() > -math.inf if low.numel() else True
    if not bool(sure):
        reading.doubt("every score of a row may be -inf: its softmax is NaN")
    if bool((high == math.inf).any()):
        reading.doubt("a score may be +inf: its softmax is NaN")
    if reading.machine.narrow and count > 65504:
        reading.doubt(f"a sum of {count} exponentials leaves the range of binary16")
    room = softmax_room(reading, count)
    result = Bound(x.shape, *_weights(low, high, dim, count, room), nan=not bool(sure))
    return replace(result, mix=Mix(dim, max(0.0, 1 - room), 1 + room))


def softmax_room(reading: Reading, count: int) -> float:
    """The relative error of a sum of exponentials, of which the largest is 1, and of each over it.

    In binary16 ``x - max(x)`` is off by 2**-11 of up to 17.4, beyond which the exponential vanishes, and the sum may
    stall.
    """
    return 2.0**-6 + 1.01 * count * 2.0**-11 if reading.machine.narrow else 2.0**-20 + count * 2.0**-24


def _weights(low: Tensor, high: Tensor, dim: int, count: int, room: float) -> tuple[Tensor, Tensor]:
    """``1 / (1 + sum of exp(x_j - x_i))``: the most where i is high and all others are low, and the other way round."""
    if low.shape[dim] == 1:
        others = count - 1
        gap = (low - high).nan_to_num(nan=-math.inf)
        most, least = 1 / (1 + others * gap.exp()), 1 / (1 + others * (-gap).exp())
    else:
        top = high.amax(dim, keepdim=True).nan_to_num(neginf=0.0, posinf=0.0)
        powers = [(v - top).exp() for v in (low, high)]
        sums = [p.sum(dim, keepdim=True) for p in powers]
        # The sum without the i-th is a difference: rounded down by what it may be off, and never below zero.
        rest = [(s - p - s * 2.0**-40).clamp(min=0.0) for s, p in zip(sums, powers, strict=True)]
        most = (powers[1] / (powers[1] + rest[0])).nan_to_num(nan=1.0)
        least = (powers[0] / (powers[0] + (sums[1] - powers[1]) + sums[1] * 2.0**-40)).nan_to_num(nan=0.0)
    room += 2.0**-9
    return (least * (1 - room) - 2.0**-23).clamp(min=0.0), (most * (1 + room) + 2.0**-23).clamp(max=1 + 2.0**-9)
