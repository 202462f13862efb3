"""What a float attention mask may hold, told from the ops that make it: whether a row of it can be -inf throughout."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nanproof.mil.coreml import types

__all__ = ["is_finite"]

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_ROUNDS_TO_INF = _FLOAT32_MAX * (1 + 2.0**-25)
_ANYTHING = (-math.inf, math.inf)
_UNIT = (0.0, 1.0)
_MOST_STEPS = 200
Span = tuple[float, float]


def is_finite(mask: Any) -> bool:
    """Whether no element of a mask can be infinite.

    It is where every constant that it is made of is finite and stays so in sums and products, and where no float input
    of the model reaches it. A boolean or an integer that becomes part of it is taken for 0 or 1.
    """
    low, high = _Spans().of(mask)
    return low > -_ROUNDS_TO_INF and high < _ROUNDS_TO_INF


class _Spans:
    """The least and the largest number that a value may hold, in float64; everything where it is not known."""

    def __init__(self) -> None:
        self._known: dict[Any, Span] = {}

    def of(self, var: Any) -> Span:
        if var not in self._known:
            self._known[var] = _ANYTHING  # also for a program longer than what is looked at
            if len(self._known) < _MOST_STEPS:
                self._known[var] = self._span(var)
        return self._known[var]

    def _span(self, var: Any) -> Span:
        if var.val is not None:
            value = np.asarray(var.val, np.float64)
            return (float(value.min()), float(value.max())) if value.size and not np.isnan(value).any() else _ANYTHING
        if types.is_bool(var.dtype) or types.is_int(var.dtype):
            return _UNIT
        if var.op is None:
            return _ANYTHING
        kind = var.op.op_type
        if kind in _MOVES:
            return self._joined([var.op.inputs[_MOVES[kind]]])
        if kind == "select":
            return self._joined([var.op.a, var.op.b])
        if kind == "concat":
            return self._joined(var.op.values)
        if kind in _CORNERS:
            x, y = self.of(var.op.x), self.of(var.op.y)
            corners = [_CORNERS[kind](a, b) for a, b in itertools.product(x, y)]
            return _ANYTHING if any(math.isnan(c) for c in corners) else (min(corners), max(corners))
        return _ANYTHING

    def _joined(self, values: Sequence[Any]) -> Span:
        spans = [self.of(value) for value in values]
        return min(low for low, _ in spans), max(high for _, high in spans)


_MOVES = {
    **dict.fromkeys(("cast", "expand_dims", "squeeze", "reshape", "transpose", "tile", "identity", "reverse"), "x"),
    **dict.fromkeys(("slice_by_index", "slice_by_size", "gather", "gather_along_axis", "gather_nd", "band_part"), "x"),
    "pad": "x",
}
_CORNERS: dict[str, Callable[[float, float], float]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "maximum": max,
    "minimum": min,
}
