"""Where exponentials overflow although what is made of them fits: what the rewrites of such forms have in common."""

from __future__ import annotations

import numpy as np

from nanproof.program import Op, Value
from nanproof.rewrite.exponents import Known

__all__ = ["exponential", "overflowing_exponential", "scalar"]


def scalar(value: Value | None) -> float | None:
    """The number of which a constant consists, or ``None`` if it is no constant, or holds several numbers."""
    if value is None or not isinstance(value.const, np.ndarray) or not value.const.size:
        return None
    first = value.const.reshape(-1)[0]
    return float(first) if bool((value.const == first).all()) else None


def exponential(known: Known, value: Value) -> Op | None:
    """The ``exp`` of which a value is the result."""
    maker = known.makers.get(value)
    return maker if maker is not None and maker.type == "exp" else None


def overflowing_exponential(known: Known, value: Value) -> Op | None:
    """The ``exp`` of which a value is the result, if it was seen to leave the range and its operand is finite."""
    maker = exponential(known, value)
    if maker is None or known.ranges[value.name].magnitude <= known.limits.stored:
        return None
    return maker if known.ranges[maker.inputs["x"][0].name].finite else None
