"""The device facts once more, in whole numbers and fractions: slow, scalar, and without any code of the package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

INF, LIMIT = math.inf, 2**15


def parts(bits: int) -> tuple[int, int, Fraction]:
    """Sign, exponent (a subnormal counts as -14) and value of a bit pattern; exponent 31 is one more exponent (A12)."""
    sign, exponent, fraction = -1 if bits >> 15 else 1, bits >> 10 & 31, bits & 1023
    if exponent == 0:
        return sign, -14, sign * Fraction(fraction, 1024) / 2**14
    power = Fraction(2) ** (exponent - 15)
    return sign, exponent - 15, sign * (1 + Fraction(fraction, 1024)) * power


def whole_away(x: Fraction) -> int:
    """The nearest whole number, ties away from zero."""
    return int(math.copysign(1, x)) * math.floor(abs(x) + Fraction(1, 2))


def to_half(x: Fraction, *, away: bool) -> float:
    """The nearest binary16 number, ties away from zero or to even, as a float."""
    if x == 0:
        return 0.0
    size, exponent = abs(x), -14
    while size >= Fraction(2) ** (exponent + 1):
        exponent += 1
    unit = Fraction(2) ** (exponent - 10)
    count = whole_away(size / unit) if away else round(size / unit)
    rounded = count * unit
    return float(math.copysign(1, x)) * (INF if rounded >= 65536 else float(rounded))


def engine_dot(x: Sequence[int], w: Sequence[int], bias: int) -> float:
    """Q15.16: A2 to A8 and A12, on bit patterns."""
    total = whole_away(parts(bias)[2] * 65536)
    terms = [0]
    for a, b in zip(x, w, strict=True):
        (_, e, u), (_, f, v) = parts(a), parts(b)
        terms.append(whole_away(u * v * 65536) if e + f >= -16 else 0)
    for term in terms:
        total += term
        if abs(total) >= LIMIT * 65536:
            return math.copysign(INF, total)
    return to_half(Fraction(total, 65536), away=True)


def fused_dot(x: Sequence[Fraction], w: Sequence[Fraction], bias: Fraction) -> float:
    """A chain of fused multiply-adds in binary16, ties to even, that starts with the bias; finite operands (C2)."""
    total: Fraction = bias
    for a, b in zip(x, w, strict=True):
        step = to_half(total + a * b, away=False)
        if math.isinf(step):
            return step  # a product of finite numbers does not bring an infinity back
        total = Fraction(step)
    return float(total)
