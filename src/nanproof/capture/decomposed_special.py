"""Decompositions of special functions, none of which MIL has: series and approximations that reach float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["SPECIAL"]

aten = torch.ops.aten
_SHIFT = 8
"""From here on the asymptotic series of the gamma function are exact in float32."""
_POINTS, _FAR = 64, 100.0


def _as_float(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.to(torch.float32)


def _polynomial(x: Tensor, *coefficients: float) -> Tensor:
    """By Horner's rule, from the highest power."""
    result: Any = coefficients[0]
    for coefficient in coefficients[1:]:
        result = result * x + coefficient
    return result


def _positive_lgamma(x: Tensor) -> Tensor:
    """``log(gamma(x))`` for ``x > 0``: Stirling's series behind ``gamma(x + 1) = x gamma(x)`` (DLMF 5.11.1)."""
    small = x < _SHIFT
    low = torch.clamp(x, max=float(_SHIFT))
    product = low
    for i in range(1, _SHIFT):
        product = product * (low + i)
    z = torch.where(small, x + _SHIFT, x)
    series = _polynomial(1 / (z * z), 1 / 1260, -1 / 360, 1 / 12) / z
    large = (z - 0.5) * torch.log(z) - z + (series + 0.5 * math.log(2 * math.pi))
    return large - torch.where(small, torch.log(product), 0.0)


def _lgamma(x: Tensor) -> Tensor:
    """``lgamma``, by the reflection ``gamma(x) gamma(1 - x) = pi / sin(pi x)`` below one half."""
    x = _as_float(x)
    mirrored = x < 0.5
    value = _positive_lgamma(torch.where(mirrored, 1 - x, x))
    sine = torch.sin((x - torch.floor(x)) * math.pi)
    reflected = torch.log(math.pi / torch.where(mirrored, sine, 1.0)) - value
    poles = (x <= 0) & (torch.floor(x) == x)
    return torch.where(poles, math.inf, torch.where(mirrored, reflected, value))


def _digamma(x: Tensor) -> Tensor:
    """``digamma``: its asymptotic series (DLMF 5.11.2) behind ``psi(x) = psi(x + 1) - 1 / x``; NaN at its poles."""
    x = _as_float(x)
    mirrored = x < 0.5
    y = torch.where(mirrored, 1 - x, x)
    small = y < _SHIFT
    terms = 1 / y
    for i in range(1, _SHIFT):
        terms = terms + 1 / (y + i)
    z = torch.where(small, y + _SHIFT, y)
    inverse = 1 / (z * z)
    value = torch.log(z) - 0.5 / z - inverse * _polynomial(inverse, 1 / 252, -1 / 120, 1 / 12)
    value = value - torch.where(small, terms, 0.0)
    fraction = x - torch.floor(x)
    at_pole = fraction == 0
    turned = math.pi / torch.tan(torch.where(at_pole, 0.5, fraction) * math.pi)
    poles = torch.where(x == 0, -math.inf, math.nan)
    return torch.where(mirrored, torch.where(at_pole, poles, value - turned), value)


def _polygamma(n: int, x: Tensor) -> Tensor:
    """``polygamma`` by the Hurwitz zeta function: a sum of its first terms, and Euler and Maclaurin's for the rest."""
    x = _as_float(x)
    if n == 0:
        return aten.digamma.default(x)
    order, terms = n + 1, 20
    value = torch.zeros_like(x)
    for i in range(terms):
        value = value + (x + i) ** -order
    rest = x + terms
    tail = rest ** (1 - order) / n + 0.5 * rest**-order + order / 12 * rest ** (-order - 1)
    tail = tail - order * (order + 1) * (order + 2) / 720 * rest ** (-order - 3)
    return (value + tail) * ((-1) ** order * float(math.factorial(n)))


def _erfinv(x: Tensor) -> Tensor:
    """``erfinv`` by M. Giles, Approximating the erfinv function (2010), in single precision."""
    x = _as_float(x)
    inside = x.abs() < 1
    y = torch.where(inside, x, 0.0)
    w = -torch.log((1 - y) * (1 + y))
    middle = _polynomial(
        w - 2.5,
        2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
        -0.00125372503, -0.00417768164, 0.246640727, 1.50140941,
    )  # fmt: skip
    tail = _polynomial(
        torch.sqrt(torch.clamp(w, min=5.0)) - 3,
        -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
        -0.0076224613, 0.00943887047, 1.00167406, 2.83297682,
    )  # fmt: skip
    ends = torch.where(x.abs() == 1, x * math.inf, math.nan)
    return torch.where(inside, torch.where(w < 5, middle, tail) * y, ends)


def _ndtri(p: Tensor) -> Tensor:
    """``ndtri``, the quantile of the normal distribution: M. Wichura, algorithm AS 241 (1988), PPND7."""
    p = _as_float(p)
    inside = (p > 0) & (p < 1)
    off = torch.where(inside, p, 0.5) - 0.5
    r = 0.180625 - off * off
    middle = _polynomial(r, 59.10937472, 159.29113202, 50.434271938, 3.3871327179)
    middle = off * middle / _polynomial(r, 67.1875636, 78.757757664, 17.895169469, 1.0)
    r = torch.sqrt(-torch.log(torch.where(inside, torch.minimum(p, 1 - p), 0.5)))
    near = _polynomial(r - 1.6, 0.17023821103, 1.3067284816, 2.75681539, 1.4234372777)
    near = near / _polynomial(r - 1.6, 0.12021132975, 0.7370016425, 1.0)
    far = _polynomial(r - 5, 0.017337203997, 0.42868294337, 3.081222638, 6.657905115)
    far = far / _polynomial(r - 5, 0.012258202635, 0.24197894225, 1.0)
    tail = torch.where(r <= 5, near, far) * torch.sign(off)
    ends = torch.where(p == 0, -math.inf, torch.where(p == 1, math.inf, math.nan))
    return torch.where(inside, torch.where(off.abs() <= 0.425, middle, tail), ends)


def _scaled_bessel(order: int, x: Tensor) -> Tensor:
    """``exp(-|x|) I(x)``: the mean of ``cos(n t) exp(x cos(t))`` (DLMF 10.32.3), and far away its series (10.40.1).

    The mean over equally spaced points converges faster than any power, since the function has a period.
    """
    size = _as_float(x).abs()
    angles = (torch.arange(_POINTS).to(torch.float32) + 0.5) * (math.pi / _POINTS)
    near = torch.exp(torch.clamp(size, max=_FAR).unsqueeze(-1) * (torch.cos(angles) - 1))
    near = (near * torch.cos(angles * order) if order else near).mean(-1)
    z = 1 / (8 * torch.clamp(size, min=_FAR))
    mu = 4 * order * order
    series = 1 - (mu - 1) * z + (mu - 1) * (mu - 9) / 2 * z * z
    far = series * torch.sqrt(z * (4 / math.pi))
    value = torch.where(size < _FAR, near, far)
    return torch.where(x < 0, -value, value) if order % 2 else value


def _bessel(order: int, scaled: bool) -> Callable[[Tensor], Tensor]:
    def decompose(x: Tensor) -> Tensor:
        """A modified Bessel function of the first kind."""
        x = _as_float(x)
        value = _scaled_bessel(order, x)
        return value if scaled else value * torch.exp(x.abs())

    return decompose


SPECIAL: dict[Any, Callable[..., Any]] = {
    aten.lgamma.default: _lgamma,
    aten.digamma.default: _digamma,
    aten.polygamma.default: _polygamma,
    aten.erfinv.default: _erfinv,
    aten.special_ndtri.default: _ndtri,
    aten.i0.default: _bessel(0, False),
    aten.special_i0e.default: _bessel(0, True),
    aten.special_i1.default: _bessel(1, False),
    aten.special_i1e.default: _bessel(1, True),
    aten.special_modified_bessel_i0.default: _bessel(0, False),
    aten.special_modified_bessel_i1.default: _bessel(1, False),
}
"""Decompositions by operator."""
