"""Bounds of activations with parameters for each channel, and of the normalisation across channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nanproof.ops.bounding import Reading, UnboundedError, parameter
from nanproof.values.bound import Bound

__all__ = ["local_response_norm", "prelu", "softplus_parametric"]

_LN2 = 0.6931471805599453


def _finite(*bounds: Bound) -> None:
    if not all(bound.finite for bound in bounds):
        raise UnboundedError("an operand may be Inf or NaN")


def _of_channels(value: Bound, x: Bound) -> tuple[Tensor, Tensor]:
    """The bounds of a vector over the channels, shaped to broadcast against ``x``."""
    ends = (t.expand(value.shape).reshape(-1, *(1,) * (len(x.shape) - 2)) for t in (value.low, value.high))
    low, high = (t.reshape(*(1,) * (len(x.shape) - t.dim()), *t.shape) for t in ends)
    return low, high


def _product(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    corners = torch.stack(torch.broadcast_tensors(*(u * v for u in a for v in b)))
    return corners.amin(0), corners.amax(0)


def prelu(reading: Reading, x: Bound, alpha: Bound) -> Bound:
    """``x`` above zero, and ``alpha x`` below: the hull of both parts, as far as ``x`` may lie in them."""
    _finite(x, alpha)
    zero = torch.zeros((), dtype=torch.float64)
    low, high = _product(_of_channels(alpha, x), (torch.minimum(x.low, zero), torch.minimum(x.high, zero)))
    may, must = x.low <= 0, x.high <= 0
    low = torch.where(must, low, torch.where(may, torch.minimum(low, zero), x.low))
    high = torch.where(must, high, torch.where(may, torch.maximum(high, x.high), x.high))
    return Bound(x.shape, low, high)


def softplus_parametric(reading: Reading, x: Bound, alpha: Bound, beta: Bound) -> Bound:
    """``alpha log(1 + exp(beta x))``; ``max(z, 0) <= softplus(z) <= max(z, 0) + log(2)``, and a table may give less."""
    _finite(x, alpha, beta)
    inner = _product(_of_channels(beta, x), (x.low, x.high))
    most = inner[1].clamp(min=0)
    reach = max(float(t.abs().max()) if t.numel() else 0.0 for t in inner)
    if not reading.machine.holds(reach):
        reading.doubt(f"its argument may reach {reach:.4g}")
    high = (most + _LN2) * (1 + 2.0**-6) + 2.0**-6
    low, high = _product(_of_channels(alpha, x), (torch.full_like(high, -(2.0**-6)), high))
    return Bound(x.shape, low, high)


def local_response_norm(
    reading: Reading,
    x: Bound,
    size: Bound,
    alpha: Bound | None = None,
    beta: Bound | None = None,
    k: Bound | None = None,
) -> Bound:
    """``x / (k + alpha / size * sum of squares)**beta``: no more than ``x / k**beta``."""
    _finite(x)
    given = ((alpha, 1e-4), (beta, 0.75), (k, 1.0))
    factor, power, least = (default if p is None else float(parameter(p, "a parameter")) for p, default in given)
    if not (factor >= 0 and power >= 0 and least >= 2.0**-14 and math.isfinite(factor)):
        raise UnboundedError("its denominator is not known to stay above zero")
    window = int(parameter(size, "size"))
    largest = x.reach**2
    steps = reading.machine.arithmetic.steps
    summed = steps.round(torch.tensor([largest * window * (1 + 2.0**-6) * max(factor, 1.0)]))
    if not math.isfinite(float(summed)):
        reading.doubt(f"the sum of squares may be {largest * window:.4g}")
    smallest = least**power
    if smallest < 2.0**-14 or power > 16:
        raise UnboundedError("its denominator may vanish")
    room = (1 + 2.0**-8) ** (power + 2)
    return Bound(x.shape, x.low.clamp(max=0) / smallest * room, x.high.clamp(min=0) / smallest * room)
