"""Bounds of sums of products.

Each output is bounded twice, and the smaller bound holds: by the box, ``|w| |x|`` summed (the L1 norm of the weights
pays), and by Cauchy-Schwarz from an L2 ball, ``||w|| ||x||``. To that comes what the unit's accumulator adds:
``n u sum|w x|`` for any order of ``n`` additions (Jeannerod and Rump, "Improved error bounds for inner products in
floating-point arithmetic", 2013), and what single products lose. Partial sums in any order lie between the sum of the
negative and the sum of the positive products; they must stay below the accumulator's limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic, ConvSettings, SingleInside
from nanproof.ops.bound_movement import merged, moves
from nanproof.ops.bound_normalisation import softmax_room
from nanproof.ops.bounding import Reading, UnboundedError, aligned, parameter
from nanproof.ops.record import flag, ints
from nanproof.ops.windows import paddings
from nanproof.values.bound import Ball, Bound, Mix, once, outward
from nanproof.values.floats import FP16_MAX

__all__ = ["attention", "conv", "einsum", "linear", "matmul", "spectral_norm"]

_SINGLE = SingleInside()
_MOST_ELEMENTS = 2**22
"""Beyond this size nothing is told apart rather than copied."""
_NEAR = 0.25
"""Share of a limit from which on tighter bounds are worth their price."""


def _needs_finite(*bounds: Bound | None) -> bool:
    """Whether all operands are finite; a product of an infinity is not looked into.

    Raises:
        UnboundedError: One is not.
    """
    for bound in bounds:
        if bound is not None and not bound.finite:
            raise UnboundedError("a factor may be Inf or NaN")
    return True


def _center(x: Bound) -> tuple[Tensor, Tensor]:
    center = (x.low + x.high) / 2
    return center, outward(torch.maximum(x.high - center, center - x.low))


def spectral_norm(matrix: Tensor) -> float:
    """An upper bound of the largest singular value of a matrix.

    ``||A||_2 <= ||G**16||_F ** (1/32)`` for the smaller Gram matrix ``G``: at most the 64th root of its side too much.
    The float32 square of an n x n matrix ``G`` is off by at most ``n 2**-24 ||G||_F**2``, and of a semidefinite one
    ``||G||_F**2 <= n**0.5 ||G**2||_F``. So each squaring is off by ``n**1.5 2**-24`` of its norm, and the root divides
    the k-th by ``2**(k+1)``. ``2**-9`` is room for sides up to 1600; beyond that float64 is used.
    """
    if matrix.numel() == 0:
        return 0.0
    frobenius = float(matrix.double().square().sum().sqrt()) * (1 + 1e-9)
    if frobenius == 0 or not math.isfinite(frobenius):
        return frobenius
    a = (matrix.double() / frobenius).to(torch.float32 if min(matrix.shape) <= 1600 else torch.float64)
    gram = a @ a.mT if a.shape[0] < a.shape[1] else a.mT @ a
    scale = 0.0  # log2 of what was divided out
    for _ in range(4):
        gram, scale = gram @ gram, 2 * scale
        size = float(gram.double().square().sum().sqrt())
        if size < 2.0**-60:
            return frobenius
        gram, scale = gram / size, scale + math.log2(size)
    return min(frobenius, frobenius * 2.0 ** (scale / 32) * (1 + 2.0**-9))


def _norm_of(reading: Reading, weight: Tensor, scale: Tensor) -> float:
    """The spectral norm of a matrix with scaled columns, computed once for all units."""
    key = (weight.data_ptr(), tuple(weight.shape), hash(scale.numpy().tobytes()))
    if key not in reading.norms:
        reading.norms[key] = spectral_norm(weight * scale)
    return reading.norms[key]


def _lost(reading: Reading, *factors: Bound) -> float:
    """The most that a product of an element of each factor loses by itself: where one of them is read as zero, all."""
    machine = reading.machine
    return machine.lost + machine.flushed * sum(factor.finite_reach for factor in factors)


def _error(reading: Reading, total: Tensor, count: int, lost: float) -> Tensor:
    """How far a sum of ``count`` products may be off; ``total`` bounds the sum of absolute values."""
    return outward(total * (count * reading.machine.unit)) + count * lost + total * 2.0**-36


def linear(reading: Reading, x: Bound, weight: Bound, bias: Bound | None = None) -> Bound:
    """``x @ weight.T + bias`` with constant weights; other weights are those of a product of two values."""
    _needs_finite(x, weight, bias)
    if not weight.fixed and len(x.shape) < 2:
        raise UnboundedError("a product with a vector")
    if not weight.fixed:
        return _product(reading, x, _transposed(weight), bias)
    w = weight.low.expand(weight.shape)
    offset = torch.zeros((), dtype=torch.float64) if bias is None else bias.low
    spread = torch.zeros((), dtype=torch.float64) if bias is None else bias.high - bias.low
    depth = w.shape[1]
    center, radius = (t.expand(*t.shape[:-1], depth) for t in _center(x))
    size = w.abs()
    middle = F.linear(center, w)
    reach = outward(F.linear(radius, size))
    total = outward(F.linear(torch.maximum(x.low.abs(), x.high.abs()).expand(*center.shape[:-1], depth), size))
    last = len(x.shape) - 1
    low, high = middle - reach, middle + reach
    for ball in x.known_balls():
        if last not in ball.axes:
            continue
        c, s, slack = (t.expand(*t.shape[:-1], depth) for t in (ball.center, ball.scale, ball.slack))
        width = outward((w * s.unsqueeze(-2)).square().sum(-1).sqrt() * ball.radius + F.linear(slack, size))
        at = F.linear(c, w)
        low, high = torch.maximum(low, at - width), torch.minimum(high, at + width)
        total = torch.minimum(total, outward(w.square().sum(-1).sqrt() * x.norm([last])))
    low, high = low + offset, high + offset + spread
    total = total + offset.abs() + spread
    lost = _lost(reading, x, weight)
    reading.accumulated(_partial(reading, x, w, (offset, offset + spread), total, lost))
    error = _error(reading, total, depth + 1, lost)
    shape = (*x.shape[:-1], w.shape[0])
    balls = tuple(_image(reading, x, ball_of, w, offset, spread + error) for ball_of in x.balls)
    return Bound(
        shape, low - error, high + error, whole=x.whole and weight.whole and (bias is None or bias.whole), balls=balls
    )


def _partial(
    reading: Reading, x: Bound, w: Tensor, offset: tuple[Tensor, Tensor], total: Tensor, lost: float
) -> Tensor:
    """The largest partial sum in any order: of the positive or of the negative products, or all in absolute value."""
    if not math.isfinite(reading.machine.limit) or reading.machine.limit > 1e6:
        return total.amax().reshape(1)
    depth = w.shape[1]
    up, down = w.clamp(min=0), -w.clamp(max=0)
    high = x.high.clamp(min=0).expand(*x.high.shape[:-1], depth)
    low = -x.low.clamp(max=0).expand(*x.low.shape[:-1], depth)
    positive = F.linear(high, up) + F.linear(low, down) + offset[1].clamp(min=0)
    negative = F.linear(low, up) + F.linear(high, down) - offset[0].clamp(max=0)
    most = torch.minimum(outward(torch.maximum(positive, negative)), total)
    return most * (1 + (depth + 1) * reading.machine.unit) + (depth + 1) * lost


def _image(
    reading: Reading, x: Bound, make: Callable[[], Ball | None], w: Tensor, offset: Tensor, spread: Tensor
) -> Callable[[], Ball | None]:
    """The ball of ``W x + b`` around ``W c + b``: its radius grows by the spectral norm of the scaled ``W``.

    ``spread`` is how far the bias and what the unit adds up may be off.
    """

    def made() -> Ball | None:
        ball = make()
        last = len(x.shape) - 1
        if ball is None or ball.axes != frozenset([last]) or ball.scale.numel() not in (1, ball.scale.shape[-1]):
            return None
        depth = w.shape[1]
        c, s, slack = (t.expand(*t.shape[:-1], depth) for t in (ball.center, ball.scale, ball.slack))
        norm = _norm_of(reading, w, s.reshape(-1).contiguous())
        one = torch.ones([1] * len(x.shape), dtype=torch.float64)
        return Ball(
            frozenset([last]),
            F.linear(c, w) + offset,
            one,
            ball.radius * norm,
            outward(F.linear(slack, w.abs())) + spread,
        )

    return once(made)


def _transposed(x: Bound) -> Bound:
    mix = x.mix
    rank = len(x.shape)
    if mix is not None:
        mix = replace(mix, axis={rank - 1: rank - 2, rank - 2: rank - 1}.get(mix.axis, mix.axis))
    swap = {rank - 1: rank - 2, rank - 2: rank - 1}

    def moved(make: Callable[[], Ball | None]) -> Callable[[], Ball | None]:
        def made() -> Ball | None:
            ball = make()
            return None if ball is None else ball.mapped(lambda t: t.mT, (swap.get(a, a) for a in ball.axes))

        return made

    shape = (*x.shape[:-2], x.shape[-1], x.shape[-2])
    balls = tuple(moved(make) for make in x.balls)
    value = None if x.value is None else x.value.mT
    return Bound(shape, x.low.mT, x.high.mT, x.nan, x.whole, balls, mix=mix, value=value)


def matmul(
    reading: Reading, x: Bound, y: Bound, transpose_x: Bound | None = None, transpose_y: Bound | None = None
) -> Bound:
    """The product of two batches of matrices."""
    _needs_finite(x, y)
    if len(x.shape) < 2 or len(y.shape) < 2:
        raise UnboundedError("a product with a vector")
    if transpose_x is not None and flag(parameter(transpose_x, "transpose_x")):
        x = _transposed(x)
    if transpose_y is not None and flag(parameter(transpose_y, "transpose_y")):
        y = _transposed(y)
    return _product(reading, x, y)


def _product(reading: Reading, x: Bound, y: Bound, bias: Bound | None = None) -> Bound:
    if y.fixed and len(y.shape) == 2:
        transposed = y.low.expand(y.shape).mT
        return linear(reading, x, Bound.constant(transposed), bias)
    rank = max(len(x.shape), len(y.shape))
    x, y = aligned(x, rank), aligned(y, rank)
    shape = (*torch.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1])
    depth = x.shape[-1]
    low, high, total = _box_product(x, y, depth)
    norms = outward(x.box_norm([rank - 1]) * y.box_norm([rank - 2]))
    if norms.numel() and float(norms.max()) > _NEAR * min(reading.machine.limit, FP16_MAX):
        norms = outward(x.norm([rank - 1]) * y.norm([rank - 2]))  # which may take norms of matrices
    low, high, total = torch.maximum(low, -norms), torch.minimum(high, norms), torch.minimum(total, norms)
    if x.mix is not None and x.mix.axis == rank - 1:
        low, high, total = _mixture(x, y, low, high, total)
    whole = x.whole and y.whole
    if bias is not None:
        bias = aligned(bias, rank)
        low, high, total, whole = low + bias.low, high + bias.high, total + bias.magnitude, whole and bias.whole
    lost = _lost(reading, x, y)
    reading.accumulated(total * (1 + (depth + 1) * reading.machine.unit) + (depth + 1) * lost)
    error = _error(reading, total, depth + 1, lost)
    return Bound(shape, low - error, high + error, whole=whole)


def _box_product(x: Bound, y: Bound, depth: int) -> tuple[Tensor, Tensor, Tensor]:
    """Midpoint and radius of a product of boxes (Rump, "Fast and parallel interval arithmetic", 1999)."""
    if x.low.shape[-1] == 1 and y.low.shape[-2] == 1:  # nothing is told apart along the sum
        corners = [a * b for a in (x.low, x.high) for b in (y.low, y.high)]
        low = torch.stack(torch.broadcast_tensors(*corners)).amin(0) * depth
        high = torch.stack(torch.broadcast_tensors(*corners)).amax(0) * depth
        return low, high, torch.maximum(low.abs(), high.abs())
    (a, ra), (b, rb) = _center(x), _center(y)
    a, ra = (t.expand(*t.shape[:-1], depth) for t in (a, ra))
    b, rb = (t.expand(*t.shape[:-2], depth, t.shape[-1]) for t in (b, rb))
    middle = a @ b
    size = (a.abs() + ra) @ (b.abs() + rb)
    radius = outward(a.abs() @ rb + ra @ (b.abs() + rb)) + size * 2.0**-36
    return middle - radius, middle + radius, outward(size)


def _mixture(x: Bound, y: Bound, low: Tensor, high: Tensor, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of a mixture give a point of the hull of the rows of ``y``, scaled by their sum."""
    mix = x.mix or Mix(-1, 0.0, math.inf)
    least, most = y.low.amin(-2, keepdim=True), y.high.amax(-2, keepdim=True)
    lower = torch.where(least < 0, least * mix.high, least * mix.low)
    upper = torch.where(most > 0, most * mix.high, most * mix.low)
    reach = torch.maximum(least.abs(), most.abs()) * mix.high
    # Rows of x differ in nothing that is known of the mixture.
    return torch.maximum(low, lower), torch.minimum(high, upper), torch.minimum(total, outward(reach))


def conv(
    reading: Reading,
    x: Bound,
    weight: Bound,
    bias: Bound | None = None,
    strides: Bound | None = None,
    pad_type: str = "valid",
    pad: Bound | None = None,
    dilations: Bound | None = None,
    groups: Bound | None = None,
) -> Bound:
    """A convolution with constant weights. Places are not told apart: each channel has one box for all of them."""
    _needs_finite(x, weight, bias)
    if not weight.fixed or (bias is not None and not bias.fixed):
        raise UnboundedError("its weights are computed")
    w = weight.low.expand(weight.shape)
    spatial = len(x.shape) - 2
    kernel = weight.shape[2:]
    ones = [1] * spatial
    step, spread = (ones if v is None else ints(parameter(v, "strides")) for v in (strides, dilations))
    amounts = [0] * 2 * spatial if pad is None else ints(parameter(pad, "pad"))
    padded = any(p.before > 0 or p.after > 0 for p in paddings(pad_type, amounts, x.shape[2:], kernel, step, spread))
    low, high = x.low, x.high
    for axis in range(2, len(x.shape)):
        low, high = low.amin(axis, keepdim=True), high.amax(axis, keepdim=True)
    if padded:
        low, high = low.clamp(max=0), high.clamp(min=0)
    channels = x.shape[1]
    low, high = (t.expand(-1, channels, *(-1,) * spatial) for t in (low, high))
    settings = ConvSettings(ones, ones, 1 if groups is None else int(parameter(groups, "groups")))

    def summed(taps: Tensor, data: Tensor) -> Tensor:
        return _SINGLE.conv(data, taps.flatten(2).sum(-1).reshape(*taps.shape[:2], *ones), None, settings)

    up, down = w.clamp(min=0), w.clamp(max=0)
    least = summed(up, low) + summed(down, high)
    most = summed(up, high) + summed(down, low)
    total = outward(summed(w.abs(), torch.maximum(low.abs(), high.abs())))
    offset = torch.zeros(()).double() if bias is None else bias.low.reshape(1, -1, *ones)
    positive = summed(up, high.clamp(min=0)) + summed(down, low.clamp(max=0)) + offset.clamp(min=0)
    negative = summed(up, low.clamp(max=0)) + summed(down, high.clamp(min=0)) + offset.clamp(max=0)
    count = math.prod(w.shape[1:]) + 1
    partial = outward(torch.maximum(positive, -negative))
    lost = _lost(reading, x, weight)
    reading.accumulated(partial * (1 + count * reading.machine.unit) + count * lost)
    error = _error(reading, total + offset.abs(), count, lost)
    return Bound(reading.shape(), least + offset - error, most + offset + error)


def attention(reading: Reading, query: Bound, key: Bound, value: Bound, attn_mask: Bound | None = None) -> Bound:
    """Attention as its formula: scores by Cauchy-Schwarz, weights of a mixture, the hull of the values."""
    _needs_finite(query, key, value)
    rank = len(query.shape)
    scores = _product(reading, query, _transposed(key))
    limit = reading.machine.limit
    scale = 1 / math.sqrt(query.shape[-1])
    if reading.machine.narrow and scores.reach > limit:
        reading.doubt(f"scores up to {scores.reach:.4g} before they are scaled")
    low, high = scores.low * scale, scores.high * scale
    nan = False
    if attn_mask is not None:
        if attn_mask.nan:
            raise UnboundedError("the mask may be NaN")
        mask = aligned(attn_mask, rank)
        if reading.op.inputs["attn_mask"][0].type.dtype.value == "bool":
            low = torch.where(mask.low > 0, low, -math.inf)
        else:
            low, high = low + mask.low, high + mask.high
            if reading.machine.rounds:
                low = low.masked_fill(low < -65504, -math.inf)
        sure = low.amax(-1).min() > -math.inf if low.shape[-1] > 1 else low.min() > -math.inf
        nan = not bool(sure)
        if bool((low == -math.inf).any()) and not reading.machine.infinities:
            reading.doubt("a score may be -inf, which the Neural Engine reads as a number")
    if nan or bool((high == math.inf).any()):
        reading.doubt("every score of a row may be -inf: its softmax is NaN")
    count = key.shape[-2]
    sum_of = 1 + 2.0**-10 + softmax_room(reading, count) + count * 2.0**-24
    least, most = value.low.amin(-2, keepdim=True), value.high.amax(-2, keepdim=True)
    low = torch.where(least < 0, least * sum_of, least * max(2 - sum_of, 0.0))
    high = torch.where(most > 0, most * sum_of, most * max(2 - sum_of, 0.0))
    total = torch.maximum(least.abs(), most.abs()) * sum_of
    reading.accumulated(total * (1 + count * reading.machine.unit))
    error = _error(reading, total, count, _lost(reading, value, Bound.interval((), 0, sum_of)))
    return Bound((*query.shape[:-1], value.shape[-1]), low - error, high + error)


def einsum(reading: Reading, values: Sequence[Bound], equation: str) -> Bound:
    """The product of two tensors as that of two batches of matrices: their axes moved, multiplied, and moved back."""
    x, y = values
    _needs_finite(x, y)
    operands, result = equation.replace(" ", "").split("->")
    left, right = operands.split(",")
    shared = [c for c in result if c in left and c in right]
    summed = [c for c in left if c in right and c not in result]
    rows, columns = [c for c in left if c not in right], [c for c in right if c not in left]
    if any(len(set(t)) != len(t) for t in (left, right, result)) or set(rows + columns) - set(result):
        raise UnboundedError(f"the equation '{equation}' is no product of matrices")
    x = _grouped(reading, x, left, [[c] for c in shared] + [rows, summed])
    y = _grouped(reading, y, right, [[c] for c in shared] + [summed, columns])
    sizes = {**dict(zip(left, values[0].shape, strict=True)), **dict(zip(right, values[1].shape, strict=True))}
    product = _product(reading, x, y)
    own = [sizes[c] for c in (*rows, *columns)]
    order = [*shared, *rows, *columns]
    wide = (*product.shape[:-2], *own)

    def back(arithmetic: Arithmetic, x: Tensor) -> Tensor:
        return x.reshape(wide).permute([order.index(c) for c in result])

    return moves(back)(reading, x=_affordable(product))[0]


def _grouped(reading: Reading, x: Bound, letters: str, groups: Sequence[Sequence[str]]) -> Bound:
    """The operand with its axes in the order of some groups of letters, each group one axis."""
    sizes = dict(zip(letters, x.shape, strict=True))
    places = [letters.index(c) for group in groups for c in group]
    shape = [math.prod(sizes[c] for c in group) for group in groups]

    def moved(arithmetic: Arithmetic, x: Tensor) -> Tensor:
        return x.permute(places).reshape(shape)

    return moves(moved, to=shape)(reading, x=_affordable(x))[0]


def _affordable(x: Bound) -> Bound:
    """The operand, with nothing told apart where its elements are too many to be copied."""
    return x if math.prod(x.shape) <= _MOST_ELEMENTS else Bound(x.shape, *merged(x, range(len(x.shape))))
