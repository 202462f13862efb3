"""Functions that the Neural Engine evaluates in its own way, nearly all by piecewise-linear tables.

A function of one binary16 number has 65536 results. They are made once per function, in float64 by the table and its
roundings, and looked up ever after: a fast run and an exact run agree.

What is known (device facts L1, L2): domain and step of each table of an M6, 33 knots in binary16, linear interpolation,
saturation beyond. What is inferred, since it reproduces both digits of the measured largest errors (L3): knots are the
rounded values of the function, except the two fitted ones that were read out (``gelu`` at 0.25, ``silu`` at 0.5);
``exp`` takes ``x log2(e)`` and ``log`` the base-2 logarithm through binary16, and ``exp`` has ``log2(e)`` in binary16.
``inverse`` is not explained: 13.5 ulp were measured where this table gives 1.2. Beyond 2, ``erf`` is taken as 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor

from nanproof.numerics.rounding import nearest_away_double, nearest_even_double

__all__ = ["TABULATED", "TABULATED_M1", "looked_up"]

Function = Callable[[Tensor], Tensor]
"""Of float64 numbers that are binary16, NaN excepted, in float64, not rounded."""


def looked_up(name: str, x: Tensor, functions: Mapping[str, Function], *, ties_away: bool) -> Tensor:
    """The unit's value of a function, elementwise. ``x`` holds binary16 numbers in float32, as does the result.

    NaN reads as an infinity of its sign (A12, A13: it is decoded as a number beyond the range).
    """
    # Bit patterns as places. On half precision the conversion is exact.
    places = x.to(torch.float16).contiguous().view(torch.uint16).to(torch.int32)
    return torch.index_select(_results(functions[name], ties_away), 0, places.reshape(-1)).reshape(x.shape)


@cache
def _results(function: Function, ties_away: bool) -> Tensor:
    """All results of a function, by the bit pattern of its operand."""
    patterns = torch.arange(65536, dtype=torch.int32)
    halves = patterns.to(torch.uint16).view(torch.float16).to(torch.float64)
    largest = torch.where(patterns < 32768, torch.inf, -torch.inf).to(torch.float64)
    results = function(halves.where(~halves.isnan(), largest))
    return nearest_away_double(results) if ties_away else nearest_even_double(results).to(torch.float32) + 0.0


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def _piecewise(knots: Tensor, position: Tensor) -> Tensor:
    """Linear interpolation; ``position`` counts knots, and is clamped to them."""
    position = position.nan_to_num().clamp(0, len(knots) - 1)
    lower = position.floor().clamp(max=len(knots) - 2)
    left = lower.long()
    return knots[left] + (position - lower) * (knots[left + 1] - knots[left])


def _knots(function: Function, low: float, step: float, fitted: Mapping[float, float] | None = None) -> Tensor:
    """33 knots from ``low`` on, in binary16; ``fitted`` are those that are known not to be the function's values."""
    places = low + step * torch.arange(33, dtype=torch.float64)
    values = function(places)
    for place, value in (fitted or {}).items():
        values[places == place] = value
    return values.to(torch.float16).to(torch.float64)


def _half(x: Tensor) -> Tensor:
    """An intermediate result in binary16."""
    return x.to(torch.float16).to(torch.float64)


def _sigmoid(low: float, high: float) -> Function:
    step = (high - low) / 32
    knots = _knots(torch.sigmoid, low, step)

    def sigmoid(x: Tensor) -> Tensor:
        inside = _piecewise(knots, (x - low) / step)
        return torch.where(x < low, 0.0, torch.where(x > high, 1.0, inside))

    return sigmoid


def _odd(function: Function, step: float) -> Function:
    """An odd function with a table over ``[0, 32 step]``, 1 beyond."""
    knots = _knots(function, 0.0, step)

    def odd(x: Tensor) -> Tensor:
        size = x.abs()
        return torch.copysign(torch.where(size > 32 * step, 1.0, _piecewise(knots, size / step)), x)

    return odd


def _gated(function: Function, high: float, fitted: Mapping[float, float]) -> Function:
    """A function that is about 0 below and about ``x`` above its table over ``[-high, high]``."""
    step = high / 16
    knots = _knots(function, -high, step, fitted)

    def gated(x: Tensor) -> Tensor:
        inside = _piecewise(knots, (x + high) / step)
        return torch.where(x < -high, 0.0, torch.where(x > high, x, inside))

    return gated


_SINE = _knots(torch.sin, 0.0, math.pi / 64)


def _sine(x: Tensor) -> Tensor:
    """By the quarter turn, with an exact reduction of the angle (how the unit reduces large ones is not known)."""
    turn = torch.remainder(x, 2 * math.pi)
    half = torch.remainder(turn, math.pi)
    quarter = torch.minimum(half, math.pi - half)
    sine = _piecewise(_SINE, quarter * (64 / math.pi))
    return torch.where(x.isinf(), 0.0, torch.where(turn >= math.pi, -sine, sine))


def _cosine(x: Tensor) -> Tensor:
    return torch.where(x.isinf(), 0.0, _sine(x + math.pi / 2))


_POWERS = _knots(torch.exp2, 0.0, 1 / 32)
_LOG2_E = 1477 / 1024  # log2(e) in binary16


def _exp2(x: Tensor) -> Tensor:
    finite = x.clamp(-64, 64)
    whole = finite.floor()
    return torch.where(x > 64, torch.inf, _piecewise(_POWERS, (finite - whole) * 32) * torch.exp2(whole))


def _exp(x: Tensor) -> Tensor:
    return _exp2(_half(x * _LOG2_E))


_MANTISSAS = 0.5 + torch.arange(33, dtype=torch.float64) / 64
_LOGARITHMS, _INVERSES = (_half(values) for values in (torch.log2(_MANTISSAS), 1 / _MANTISSAS))


def _log(x: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(x)
    base2 = _half(_piecewise(_LOGARITHMS, (mantissa - 0.5) * 64) + exponent)
    # A14: the -inf of zero is multiplied as the number -2**16. E5, E6: where the sum of exponentials overflows,
    # its logarithm is 0. A13: so is that of a negative number.
    return torch.where(x == 0, -(2.0**16), torch.where((x < 0) | x.isinf(), 0.0, base2)) * math.log(2)


def _inverse(x: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(x.abs())
    size = _piecewise(_INVERSES, (mantissa - 0.5) * 64) * torch.exp2(-exponent.to(torch.float64))
    # A15: -0 is +0, and its inverse +inf.
    return torch.where(x == 0, torch.inf, torch.where(x.isinf(), 0.0, torch.copysign(size, x)))


_ROOT_PLACES = 0.5 + torch.arange(25, dtype=torch.float64) / 16
_ROOTS, _INVERSE_ROOTS = (_half(values) for values in (torch.sqrt(_ROOT_PLACES), torch.rsqrt(_ROOT_PLACES)))


def _by_parity(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x = m * 4**e``: the place of ``m``, in [0.5, 2), in a table with step 1/16, and ``2**e``."""
    mantissa, exponent = torch.frexp(x)
    odd = torch.remainder(exponent, 2)
    return (mantissa * (1 + odd) - 0.5) * 16, torch.exp2(((exponent - odd) // 2).to(torch.float64))


def _sqrt(x: Tensor) -> Tensor:
    place, scale = _by_parity(x)
    return torch.where(x <= 0, 0.0, torch.where(x.isinf(), torch.inf, _piecewise(_ROOTS, place) * scale))


def _rsqrt(x: Tensor) -> Tensor:
    place, scale = _by_parity(x)
    inside = torch.where(x.isinf(), 0.0, _piecewise(_INVERSE_ROOTS, place) / scale)
    return torch.where(x == 0, torch.inf, torch.where(x < 0, 0.0, inside))


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * torch.erfc(x * -math.sqrt(0.5))


def _silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _softplus(x: Tensor) -> Tensor:
    """``log(1 + exp(x))``, accurate (its steps are not measured), but 0 as soon as ``exp(x)`` reaches 2**15 (E6)."""
    overflown = nearest_away_double(_exp(x)) >= 2.0**15
    return torch.where(overflown, 0.0, torch.nn.functional.softplus(x, threshold=1e9))


def _round(x: Tensor) -> Tensor:
    """``floor(x + 1/2)`` with the sum in binary16: 1024 becomes 1025, as was reported (ANEForge, pull request 116)."""
    return torch.floor(nearest_away_double(x + 0.5).to(torch.float64))


def _round_m1(x: Tensor) -> Tensor:
    return torch.floor(_half(x + 0.5))


# gelu: EXACT and TANH_APPROXIMATION share one table (L4); silu is a table of its own (L5).
_GELU_FITTED, _SILU_FITTED = {0.25: 0.1436}, {0.5: 0.296}

TABULATED: Mapping[str, Function] = {
    "cos": _cosine,
    "erf": _odd(torch.erf, 1 / 16),
    "exp": _exp,
    "exp2": _exp2,
    "gelu": _gated(_gelu, 4.0, _GELU_FITTED),
    "inverse": _inverse,
    "log": _log,
    "round": _round,
    "rsqrt": _rsqrt,
    "sigmoid": _sigmoid(-8.0, 8.0),
    "silu": _gated(_silu, 8.0, _SILU_FITTED),
    "sin": _sine,
    "softplus": _softplus,
    "sqrt": _sqrt,
    "tanh": _odd(torch.tanh, 1 / 8),
}
"""The functions of an M6 (L2), which also stand for an M4 and an M5."""

TABULATED_M1: Mapping[str, Function] = {
    **{name: function for name, function in TABULATED.items() if name not in ("cos", "sin")},
    # L6: domain of the sigmoid, and gelu(0) and silu(0); sin and cos are computed elsewhere before an A15.
    "sigmoid": _sigmoid(-9.938, 8.320),
    "gelu": _gated(_gelu, 4.0, {**_GELU_FITTED, 0.0: -5.43e-4}),
    "round": _round_m1,
    "silu": _gated(_silu, 8.0, {**_SILU_FITTED, 0.0: -1.259e-3}),
}
"""The functions of an M1, as far as they are known to be others."""
