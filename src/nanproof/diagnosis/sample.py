"""The element that shows a fault best: what an op had there, what it made of it, and what it should have made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nanproof.interpret.loop import Carried
from nanproof.interpret.sweep import Executed

__all__ = ["Sample", "number", "sample_of"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One element of a result.

    Attributes:
        index: Where it is.
        actual: What the unit has there.
        again: What float32 makes of the unit's operands.
        exact: What pure float32 has.
        operands: By the name of the argument, what the unit had there; only of operands that are broadcast to the
            result, or of the largest magnitude where the op does not work element by element.
        elementwise: Whether the operands are those of this element.
    """

    index: tuple[int, ...]
    actual: float
    again: float
    exact: float
    operands: tuple[tuple[str, float], ...]
    elementwise: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "index": list(self.index),
            "actual": self.actual,
            "float32_on_same_operands": self.again,
            "float32": self.exact,
            "operands": dict(self.operands),
            "elementwise": self.elementwise,
        }


def sample_of(executed: Executed, output: int, weights: Tensor, *, elementwise: bool) -> Sample | None:
    """The element of the largest weight; ``None`` if the result is no tensor, or has no elements."""
    pair, again = executed.results[output], executed.recomputed[output]
    actual, exact = pair.actual, pair.exact
    if not (isinstance(actual, Tensor) and isinstance(exact, Tensor) and isinstance(again, Tensor)):
        return None
    if not actual.numel() or actual.shape != exact.shape or actual.shape != again.shape:
        return None
    place = int(weights.reshape(-1).argmax()) if weights.shape == actual.shape else 0
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), actual.shape))
    named: list[tuple[str, float]] = []
    position = 0
    for name, values in executed.op.inputs.items():
        for _ in values:
            found = _operand(executed.operands[position].actual, actual.shape, index, elementwise)
            named += [] if found is None else [(name, found)]
            position += 1
    now, then, right = (float(t.reshape(-1)[place]) for t in (actual, again, exact))
    return Sample(index, now, then, right, tuple(named), elementwise)


def _operand(carried: Carried, shape: Sequence[int], index: tuple[int, ...], elementwise: bool) -> float | None:
    if not isinstance(carried, Tensor) or not carried.numel() or carried.dtype is torch.bool:
        return None
    if not elementwise:
        magnitudes = torch.nan_to_num(carried.double().reshape(-1), 0.0, 0.0, 0.0).abs()
        return float(carried.reshape(-1)[int(magnitudes.argmax())]) if carried.is_floating_point() else None
    try:
        return float(carried.broadcast_to(tuple(shape))[index])
    except RuntimeError:
        return None


def number(x: float) -> str:
    """A number as people read it.

    >>> number(162754.79), number(float("-inf")), number(2.0), number(float("nan"))
    ('1.628e+05', '-Inf', '2', 'NaN')
    """
    if x != x:
        return "NaN"
    if x in (float("inf"), float("-inf")):
        return "Inf" if x > 0 else "-Inf"
    return f"{x:.4g}"
