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

    The program decides for casts from ``bool``, for ``1 - x``, ``x - 1`` and products of such values, and for their
    movement. What it does not decide rests on the observed inputs, and the phrase names it. A value that was 0 on all
    of them tells nothing about its sign. The sign is 0 if the value takes others, or if that is not known.
    """
    observed: list[str] = []
    sign = _sign(value, producers, ranges, observed)
    if not sign:
        return 0, ""
    if observed:
        return sign, " and ".join(dict.fromkeys(observed)) + " on all given inputs"
    return sign, f"'{value.name}' is 0 or {sign} by construction"


def _sign(value: Value, producers: Mapping[Value, Op], ranges: Ranges, observed: list[str]) -> int:
    if value.type.dtype is DType.BOOL:
        return 1
    if value.const is not None:
        return int(not isinstance(value.const, str) and bool(np.isin(value.const, (0, 1)).all()))
    op = producers.get(value)
    inner = 0 if op is None else _sign_of_result(op, producers, ranges, observed)
    if inner:
        return inner
    seen = ranges[value.name]
    if not seen.binary or not seen.finite or seen.low >= 0 >= seen.high or seen.low * seen.high < 0:
        return 0
    sign = -1 if seen.low < 0 else 1
    observed.append(f"'{value.name}' was 0 or {sign}")
    return sign


def _sign_of_result(op: Op, producers: Mapping[Value, Op], ranges: Ranges, observed: list[str]) -> int:
    """The sign of what an op returns, from those of its operands."""

    def of(operand: Value) -> int:
        return _sign(operand, producers, ranges, observed)

    x, y = op.input("x"), op.input("y")
    if op.type == "sub" and x is not None and y is not None:
        if _is_one(x):
            return int(of(y) == 1)
        return -int(_is_one(y) and of(x) == 1)
    if op.type == "mul" and x is not None and y is not None:
        return of(x) * of(y)
    moves = op.type == "cast" or (op.type in TABLE and TABLE[op.type].family == "structural")
    return of(x) if moves and x is not None else 0


def _is_one(value: Value) -> bool:
    return value.const is not None and not isinstance(value.const, str) and bool((value.const == 1).all())
