"""Roundings to binary16 and to the fixed-point numbers of the Neural Engine, each from float32 or float64, once."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fixed_point", "nearest_away", "nearest_away_double", "nearest_even_double"]

_LARGEST = torch.finfo(torch.float32).max
_BELOW_24 = (1 << 29) - 1
"""The bits of a float64 beyond the 24 significant ones of a float32."""


def nearest_away(x: Tensor) -> Tensor:
    """Round a float32 tensor to the nearest binary16 numbers, ties away from zero, overflow to infinity.

    So the Neural Engine of an M4 or later stores its results (device facts A8, E1). Subnormals are kept; ``-0`` becomes
    ``+0`` (A15); NaN stays NaN. Same shape and dtype.

    >>> nearest_away(torch.tensor([2049.0, -2049.0, 65519.0, 65520.0, 2.0**-25])).tolist()
    [2050.0, -2050.0, 65504.0, inf, 5.960464477539063e-08]
    """
    # The midpoint of two binary16 numbers is a float32 whose last bit is 0. Setting that bit moves a tie away from
    # zero, and nothing else across a midpoint. The clamp is for infinities, of which that bit would make NaN.
    sticky = x.clamp(-_LARGEST, _LARGEST).view(torch.int32).bitwise_or_(1).view(torch.float32)
    return sticky.to(torch.float16).to(torch.float32).add_(0.0)


def nearest_away_double(x: Tensor) -> Tensor:
    """As :func:`nearest_away`, of a float64 tensor. Same shape, dtype ``float32``."""
    _, exponent = torch.frexp(x)
    unit = torch.exp2((exponent.clamp(min=-13) - 11).to(torch.float64))
    whole = x / unit
    rounded = torch.trunc(whole + torch.copysign(torch.full_like(x, 0.5), x)) * unit
    return rounded.where(x.isfinite(), x).to(torch.float32).to(torch.float16).to(torch.float32).add_(0.0)


def nearest_even_double(x: Tensor) -> Tensor:
    """Round a float64 tensor to binary16, ties to even. Same shape and dtype.

    PyTorch goes there by way of float32 and rounds twice, which picks the wrong neighbour where the float32 is the
    midpoint of two binary16 numbers. Rounded to odd at 24 bits first, no float32 is such a midpoint by accident
    (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008).
    """
    bits = x.view(torch.int64)
    # The carry of this addition sets the last bit that is kept if any bit below it is set.
    odd = ((bits & _BELOW_24).add_(_BELOW_24)).bitwise_or_(bits).bitwise_and_(~_BELOW_24)
    return odd.view(torch.float64).to(torch.float16).to(torch.float64)


def fixed_point(x: Tensor) -> Tensor:
    """A float64 tensor in whole numbers of ``2**-16``, ties away from zero (A6, A7). Same shape and dtype."""
    scaled = x * 65536.0
    return torch.trunc(scaled + torch.copysign(torch.full_like(scaled, 0.5), scaled))
