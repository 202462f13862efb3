"""The multiply-accumulate path of the Neural Engine: 32-bit fixed point, fast and bit for bit (device facts A2-A12)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from nanproof.numerics.accumulator import Accumulator, Chained, operands
from nanproof.numerics.arithmetic import ConvSettings, SingleInside
from nanproof.numerics.rounding import fixed_point, nearest_away_double, nearest_even_double

__all__ = ["LIMIT", "FixedPoint", "FourLanes", "Limited", "Totals", "decoded", "flushed"]

LIMIT = 2.0**15
"""A sum of products that reaches it, with either sign, is an infinity (A3, A4)."""

_SMALLEST_NORMAL = 2.0**-14
_RESOLVING = 1.5 * 2.0**7
_SINGLE = SingleInside()


def decoded(x: Tensor) -> Tensor:
    """An operand as the multiplier reads it (A12): exponent 31 is one more exponent, so Inf is 2**16, NaN up to 131008.

    Float32 or float64; same shape and dtype. The bits of a NaN count; a signalling one reaches the unit as a quiet one.
    """
    if not x.numel() or all(math.isfinite(bound) for bound in torch.aminmax(x)):
        return x
    bits = x.to(torch.float32).view(torch.int32)
    fraction = (bits >> 13 & 0x3FF) | torch.where(x.isnan(), 0x200, 0)
    size = 2.0**16 * (1 + fraction.to(x.dtype) / 1024)
    return torch.where(x.isfinite(), x, torch.where(bits < 0, -size, size))


@final
class Limited(Accumulator):
    """Products summed in float32; infinite where the result, bias included, reaches 2**15.

    The fast reading of A2-A8. Not seen: an overflow on the way to a result inside the range (A3; see ``overflow``), the
    roundings of single products and those that are dropped (A6: below 2**-15 each), on an M1 the loss beyond 4096
    (A10) and flushed subnormals (A11).

    Args:
        fixed_point: Whether results are multiples of 2**-16 (A2: M4 and M6); otherwise a sum of one product has the
            full range (A5: M1).
    """

    def __init__(self, *, fixed_point: bool) -> None:
        self.fixed_point = fixed_point

    @override
    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        return self._limited(_SINGLE.matmul, x, y, None, x.shape[-1])

    @override
    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._limited(F.linear, x, weight, bias, x.shape[-1])

    @override
    def conv(self, x: Tensor, weight: Tensor, bias: Tensor | None, settings: ConvSettings) -> Tensor:
        def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            return _SINGLE.conv(x, weight, bias, settings)

        return self._limited(convolve, x, weight, bias, math.prod(weight.shape[1:]))

    def _limited(
        self, product: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None, taps: int
    ) -> Tensor:
        result = product(x, weight) if bias is None else product(x, weight, bias)
        if not result.numel():
            return result
        low, high = (float(bound) for bound in torch.aminmax(result))
        if low > -LIMIT and high < LIMIT:
            return self._resolved(result)
        if not (math.isfinite(low) and math.isfinite(high)):  # an operand was not: read it as the multiplier does
            result = product(decoded(x), decoded(weight), *(() if bias is None else (decoded(bias),)))
        return result if taps == 1 and not self.fixed_point else _limit(self._resolved(result))

    def _resolved(self, x: Tensor) -> Tensor:
        # The last bit of 192 + x is worth 2**-16, or less than a binary16 number near x where x is large.
        return x.add_(_RESOLVING).sub_(_RESOLVING) if self.fixed_point else x


def _limit(x: Tensor) -> Tensor:
    return torch.where(x.abs() >= LIMIT, torch.copysign(torch.full_like(x, math.inf), x), x)


@final
class FixedPoint(Chained):
    """Q15.16, bit for bit as on an M4 and an M6: 186 of 188 measured rows, the other two altered before the device.

    The order of the products is the index order, as measured for a 1x1 convolution. For larger kernels and for
    matrix products in several passes the order is not known (A19, A20).
    """

    @override
    def dot(self, x: Tensor, y: Tensor, bias: Tensor | None) -> Tensor:
        return nearest_away_double(_fixed_sums(x, y, bias, sticky=True))  # A8


@final
class Totals(Chained):
    """The sums of :class:`FixedPoint` before their limit and their rounding, in float64. They have no order."""

    @override
    def dot(self, x: Tensor, y: Tensor, bias: Tensor | None) -> Tensor:
        return _fixed_sums(x, y, bias, sticky=False)


def _fixed_sums(x: Tensor, y: Tensor, bias: Tensor | None, *, sticky: bool) -> Tensor:
    """Sums of products in the multiplier's fixed point; if ``sticky``, infinite from the first that reaches 2**15."""
    total, left, right = operands(decoded(x), decoded(y), None if bias is None else decoded(bias))
    # No partial sum is larger than all products together, each enlarged by its rounding.
    largest = total.abs() + torch.matmul(decoded(x).abs().to(torch.float64), decoded(y).abs().to(torch.float64))
    sticky = sticky and bool((largest + len(left) * 2.0**-16 >= LIMIT).any())
    total = fixed_point(total)  # A7
    total = _limited(total) if sticky else total
    exponents = _exponent(left), _exponent(right)
    left = left * (65536 * (1 + 2.0**-33))
    for k in range(len(left)):
        # A product has 22 bits. Enlarged by 2**-33 a tie lies beyond the midpoint, a whole number below the limit is
        # off by less than a half, and nothing else crosses a midpoint: the rounding is half away from zero.
        product = (left[k].unsqueeze(-1) * right[k].unsqueeze(-2)).round_()
        aligned = exponents[0][k].unsqueeze(-1) + exponents[1][k].unsqueeze(-2) >= -16  # A6
        total = total.add_(product.mul_(aligned))
        total = _limited(total) if sticky else total
    return total / 65536


def _limited(total: Tensor) -> Tensor:
    """Infinite from 2**15 on, in units of 2**-16; as a float64 it stays so, whatever finite number is added (A3)."""
    bound = LIMIT * 65536
    return total.masked_fill_(total >= bound, math.inf).masked_fill_(total <= -bound, -math.inf)


def _exponent(x: Tensor) -> Tensor:
    """``e`` of a binary16 number ``1.f * 2**e``; a subnormal counts as ``e = -14`` (A6)."""
    return (torch.frexp(x).exponent - 1).clamp(min=-14).to(torch.int8)


@final
class FourLanes(Chained):
    """The multiply-accumulate path of an M1, as far as it is known.

    Operands below the smallest normal number are 0 (A11). Products are summed four at a time, and a partial sum from
    4096 on is rounded to binary16 (A10; that reproduces the published sums, the exact loss is not known). The sums
    of four are added without loss, the bias first; from 2**15 on the result is infinite, unless it is that of one
    product (A5). Rounded to nearest, ties to even (A8).
    """

    @override
    def dot(self, x: Tensor, y: Tensor, bias: Tensor | None) -> Tensor:
        total, left, right = operands(flushed(x), flushed(y), None if bias is None else decoded(bias))
        taps = left.shape[0]
        for first in range(0, taps, 4):
            partial = torch.zeros_like(total)
            for k in range(first, min(first + 4, taps)):
                partial = partial + left[k].unsqueeze(-1) * right[k].unsqueeze(-2)
                partial = torch.where(partial.abs() < 4096, partial, nearest_even_double(partial))
            total = total + partial
        total = total if taps == 1 else _limit(total)
        return nearest_even_double(total.nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf)).to(torch.float32)


def flushed(x: Tensor) -> Tensor:
    """An operand as the multiplier of an M1 reads it: decoded, without subnormals."""
    number = decoded(x)
    return torch.where(number.abs() < _SMALLEST_NORMAL, 0.0, number)
