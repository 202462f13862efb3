"""Which values can only be 0 and 1 (or 0 and -1): known from the program, or seen on the given inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nanproof.interpret.observe import Ranges
from nanproof.ops import TABLE
from nanproof.program import DType, Op, Value

__all__ = ["binary_sign"]


def binary_sign(value: Value, producers: Mapping[Value, Op], ranges: Ranges) -> tuple[int, str]:
    """The sign of a value that takes only the values 0 and 1, or 0 and -1, and how that is known, as a phrase.

    The program proves it for casts from ``bool``, for ``1 - x``, ``x - 1`` and products of such values, and for their
    movement. Otherwise it rests on the observed inputs, and the phrase says so. The sign is 0 if neither holds.
    """
    proved = _proved(value, producers)
    if proved:
        return proved, f"'{value.name}' is 0 or {proved} by construction"
    seen = ranges[value.name]
    if not seen.binary or not seen.finite or seen.low > seen.high or seen.low * seen.high < 0:
        return 0, ""
    sign = -1 if seen.low < 0 else 1
    return sign, f"'{value.name}' was 0 or {sign} on all given inputs"


def _proved(value: Value, producers: Mapping[Value, Op]) -> int:
    if value.type.dtype is DType.BOOL:
        return 1
    if value.const is not None:
        return int(not isinstance(value.const, str) and bool(np.isin(value.const, (0, 1)).all()))
    op = producers.get(value)
    if op is None:
        return 0
    x, y = op.input("x"), op.input("y")
    if op.type == "sub" and x is not None and y is not None:
        if _is_one(x):
            return int(_proved(y, producers) == 1)
        return -int(_is_one(y) and _proved(x, producers) == 1)
    if op.type == "mul" and x is not None and y is not None:
        return _proved(x, producers) * _proved(y, producers)
    moves = op.type == "cast" or (op.type in TABLE and TABLE[op.type].family == "structural")
    return _proved(x, producers) if moves and x is not None else 0


def _is_one(value: Value) -> bool:
    return value.const is not None and not isinstance(value.const, str) and bool((value.const == 1).all())
