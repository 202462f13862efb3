"""Which values can only be 0 and 1: known from the program, or seen on the given inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nanproof.interpret.observe import Ranges
from nanproof.ops import TABLE
from nanproof.program import DType, Op, Value

__all__ = ["is_binary"]


def is_binary(value: Value, producers: Mapping[Value, Op], ranges: Ranges) -> str:
    """Why a value takes only the values 0 and 1, as a phrase; empty if that is not known.

    The program proves it for casts from ``bool``, for ``1 - x`` and products of such values and for their movement.
    Otherwise it rests on the observed inputs, and the phrase says so.
    """
    if _proved(value, producers):
        return f"'{value.name}' is 0 or 1 by construction"
    seen = ranges[value.name]
    if seen.binary and seen.finite and seen.low <= seen.high:
        return f"'{value.name}' was 0 or 1 on all given inputs"
    return ""


def _proved(value: Value, producers: Mapping[Value, Op]) -> bool:
    if value.type.dtype is DType.BOOL:
        return True
    if value.const is not None:
        return not isinstance(value.const, str) and bool(np.isin(value.const, (0, 1)).all())
    op = producers.get(value)
    if op is None:
        return False
    x, y = op.input("x"), op.input("y")
    if op.type == "sub" and x is not None and y is not None:
        one = x.const is not None and not isinstance(x.const, str) and bool((x.const == 1).all())
        return one and _proved(y, producers)
    if op.type == "mul" and x is not None and y is not None:
        return _proved(x, producers) and _proved(y, producers)
    moves = op.type == "cast" or (op.type in TABLE and TABLE[op.type].family == "structural")
    return moves and x is not None and _proved(x, producers)
