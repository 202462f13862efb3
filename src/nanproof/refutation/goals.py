"""What a search raises at an op in order to break it: the size of the result, a partial sum, a step to its pole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from nanproof.numerics.arithmetic import SingleInside
from nanproof.ops import TABLE
from nanproof.program import Op
from nanproof.values.floats import to_carrier

__all__ = ["Aim", "goal", "partial_sum", "reached"]

Aim = Literal["size", "sum", "error"]
"""Whether the result is to pass the range of its type, a partial sum of its products the end of an accumulator, or the
error of the outputs a tolerance (which has no slope)."""

_SINGLE = SingleInside()
_DOMAIN = frozenset({"log", "rsqrt", "sqrt"})
"""They end at zero: what is to be raised is the nearness of the operand to it, or how far it is beyond."""
_PRODUCTS = {
    "conv": ("x", "weight"),
    "conv_transpose": ("x", "weight"),
    "linear": ("x", "weight"),
    "matmul": ("x", "y"),
}


def goal(aim: Aim, op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> Tensor | None:
    """A scalar that grows on the way to Inf or NaN, or ``None`` if the op has no float results."""
    if aim == "sum":
        found = partial_sum(op, operands, results)
        if found is not None:
            return found
    if op.type in _DOMAIN:
        return -operands[0].amin() if operands[0].numel() else None
    return _size(results)


def reached(aim: Aim, op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> tuple[float, float]:
    """How good an input is, as :func:`goal` has it, and the largest value or partial sum, as a report has it."""
    raised, size = goal(aim, op, operands, results), _size(results)
    if raised is None or size is None:
        return 0.0, 0.0
    return float(raised), float(size if op.type in _DOMAIN else raised)


def _size(results: Sequence[Tensor]) -> Tensor | None:
    """The largest absolute value; not by way of ``abs``, which has no slope at zero."""
    sizes: list[Tensor] = []
    for result in results:
        if result.is_floating_point() and result.numel():
            low, high = result.amin(), result.amax()
            sizes.append(-low if bool(-low > high) else high)
    return torch.stack(sizes).amax() if sizes else None


def partial_sum(op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> Tensor | None:
    """The largest partial sum of an op's products in any order, bias included, or ``None`` if it is no such op.

    Of the products of one sign alone: half the sum of all sizes and the sum itself. A bias counts with its own sign.
    """
    if op.type not in _PRODUCTS:
        return None
    by_value = dict(zip(op.tensors, operands, strict=True))
    arguments: dict[str, Any] = {}
    for name, (value, *_) in op.inputs.items():
        given = by_value.get(value)
        arguments[name] = given if given is not None else to_carrier(value.const, value.type.dtype)  # pyright: ignore[reportArgumentType]
    for name in _PRODUCTS[op.type]:
        arguments[name] = arguments[name].abs()
    if "bias" in arguments:
        arguments["bias"] = torch.zeros_like(arguments["bias"])
    sizes = TABLE[op.type].run(_SINGLE, **arguments)
    # sum = positive + negative + bias, sizes = positive - negative: with the bias first, partial sums reach both ends.
    high = (results[0] + sizes) / 2
    low = (results[0] - sizes) / 2
    return torch.maximum(high.amax(), -low.amin()) if sizes.numel() else None
