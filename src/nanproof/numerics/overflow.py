"""Overflow of the Neural Engine's accumulator, whatever the order in which it takes the products.

The unit's order is known for a 1x1 convolution only (device facts A3, A19, A20), and an overflow on the way is final.
So each sum is one of three: *definite*, the whole sum reaches 2**15; *possible*, some order of its products makes a
partial sum reach it; else *safe*, no order does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from nanproof.numerics.accumulator import Accumulator
from nanproof.numerics.arithmetic import ConvSettings, SingleInside
from nanproof.numerics.multiplier import LIMIT, Totals, decoded, flushed

__all__ = ["Sums", "Watched", "worst"]

_SINGLE = SingleInside()
_TOTALS = Totals()


@dataclass(frozen=True, slots=True)
class Sums:
    """Bounds of the sums of one op: float64 tensors in the shape of its result.

    Attributes:
        whole: All products and the bias.
        low: The bias and all negative products: the lowest partial sum of any order (A7: the bias comes first).
        high: The bias and all positive products.
        slack: How far the unit's roundings may take a partial sum beyond ``low`` or ``high``.
        definite: Where the unit's own whole sum reaches the limit.
    """

    whole: Tensor
    low: Tensor
    high: Tensor
    slack: Tensor
    definite: Tensor

    @property
    def possible(self) -> Tensor:
        """Where a partial sum reaches the limit in some order, but the whole sum does not."""
        return ((self.high + self.slack >= LIMIT) | (self.low - self.slack <= -LIMIT)) & ~self.definite


@final
class Watched(Accumulator):
    """An accumulator that computes bounds of its sums as well, by two more products in float64.

    Args:
        inner: What computes the results.
        see: Gets each result with its bounds, and returns what takes the place of the result.
        fixed_point: As for :class:`~nanproof.numerics.multiplier.Limited`. On an M1 the whole sum is judged without
            the unit's losses beyond 4096 (A10), which are known by example only.
    """

    def __init__(self, inner: Accumulator, see: Callable[[Tensor, Sums], Tensor], *, fixed_point: bool) -> None:
        self.inner = inner
        self.see = see
        self.fixed_point = fixed_point

    @override
    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        sums = self._sums(torch.matmul, lambda: _TOTALS.matmul(x, y), (x, y, None), x.shape[-1])
        return self.see(self.inner.matmul(x, y), sums)

    @override
    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        sums = self._sums(F.linear, lambda: _TOTALS.linear(x, weight, bias), (x, weight, bias), x.shape[-1])
        return self.see(self.inner.linear(x, weight, bias), sums)

    @override
    def conv(self, x: Tensor, weight: Tensor, bias: Tensor | None, settings: ConvSettings) -> Tensor:
        sums = self._sums(
            lambda a, b: _SINGLE.conv(a, b, None, settings),
            lambda: _TOTALS.conv(x, weight, bias, settings),
            (x, weight, None if bias is None else bias.reshape(-1, *(1,) * (x.dim() - 2))),
            math.prod(weight.shape[1:]),
        )
        return self.see(self.inner.conv(x, weight, bias, settings), sums)

    def _sums(
        self,
        product: Callable[[Tensor, Tensor], Tensor],
        exactly: Callable[[], Tensor],
        operands: tuple[Tensor, Tensor, Tensor | None],
        taps: int,
    ) -> Sums:
        read = decoded if self.fixed_point else flushed
        x, weight = (read(t).to(torch.float64) for t in operands[:2])
        start = torch.zeros(()) if operands[2] is None else decoded(operands[2]).to(torch.float64)
        signed, size = product(x, weight), product(x.abs(), weight.abs())
        whole, low, high = start + signed, start + (signed - size) / 2, start + (signed + size) / 2
        if not self.fixed_point:
            reached = whole.abs() >= (LIMIT if taps > 1 else math.inf)  # A5
            # A10: four roundings to 11 bits of a partial sum, which is no larger than all products together.
            slack = size * 2.0**-9 if taps > 1 else torch.full_like(size, -math.inf)
            return Sums(whole, low, high, slack, reached)
        # A6, A7: each product and the bias is rounded by half of 2**-16, or else dropped, if it is below 2**-15.
        slack, band = (taps + 1) * 2.0**-17, (taps + 1) * 2.0**-15
        near = (whole.abs() - LIMIT).abs() <= band
        reached = whole.abs() >= LIMIT
        if bool(near.any()):
            reached = torch.where(near, exactly().abs() >= LIMIT, reached)
        return Sums(whole, low, high, torch.full_like(whole, slack), reached)


def worst(result: Tensor, sums: Sums) -> Tensor:
    """The result, infinite where some order of the products overflows; where both signs can, +Inf."""
    reached, above = (sums.definite | sums.possible) & result.isfinite(), sums.high + sums.slack >= LIMIT
    return torch.where(reached, torch.where(above, math.inf, -math.inf), result)
