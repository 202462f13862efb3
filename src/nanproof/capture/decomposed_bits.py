"""Bitwise operators of integers, of which MIL has none: through the 32 bits of each, which are exact in int32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["BITS"]

aten = torch.ops.aten
_WIDTH, _HALF = 32, 16


def _power_of_two(places: Tensor) -> Tensor:
    """``2 ** places`` in int32. 9.0 makes floats of a power of integers, and all that follows."""
    return torch.exp2(places.to(torch.float32)).to(torch.int32)


def _bits(x: Tensor) -> Tensor:
    """The bits of ``x`` along a new last axis, as 0 and 1: those of two's complement, from the lowest."""
    powers = _power_of_two(torch.arange(_WIDTH - 1))
    x = x.to(torch.int32).unsqueeze(-1)
    low = torch.remainder(torch.div(x, powers, rounding_mode="floor"), 2)
    return torch.cat([low, (x < 0).to(torch.int32)], -1)


def _number(bits: Tensor) -> Tensor:
    """The integer of some bits, in two halves of 16: what is summed stays exact in float32, and below 2^31."""
    powers = _power_of_two(torch.arange(_HALF))
    low = (bits[..., :_HALF] * powers).sum(-1, dtype=torch.int32)
    high = (bits[..., _HALF:] * torch.where(powers == 2 ** (_HALF - 1), -powers, powers)).sum(-1, dtype=torch.int32)
    return high * 2**_HALF + low


def _bitwise(logical: Callable[[Tensor, Tensor], Tensor], of_bits: Callable[[Tensor, Tensor], Tensor]) -> Any:
    def decompose(x: Tensor, y: Tensor) -> Tensor:
        """A bitwise operator: a logical one of booleans, or by the bits of integers."""
        if x.dtype == y.dtype == torch.bool:
            return logical(x, y)
        kind = torch.promote_types(x.dtype, y.dtype)
        return _number(of_bits(_bits(x), _bits(y))).to(kind)

    return decompose


def _by_number(operator: Any) -> Any:
    def decompose(x: Tensor, y: int) -> Tensor:
        """A bitwise operator with a number."""
        return operator(x, torch.full([], y, dtype=x.dtype))

    return decompose


def _not(x: Tensor) -> Tensor:
    """``~x = -x - 1`` of integers."""
    return torch.logical_not(x) if x.dtype == torch.bool else -x - 1


def _and(x: Tensor, y: Tensor) -> Tensor:
    return x * y


def _or(x: Tensor, y: Tensor) -> Tensor:
    return x + y - x * y


def _xor(x: Tensor, y: Tensor) -> Tensor:
    return x + y - x * y * 2


def _left_shift(x: Tensor, y: Tensor | int) -> Tensor:
    """``x << y`` within int32, for shifts from 0 to 30."""
    return x * (2**y if isinstance(y, int) else _power_of_two(y).to(x.dtype))


def _right_shift(x: Tensor, y: Tensor | int) -> Tensor:
    """``x >> y`` of integers, for shifts from 0 to 30: rounded down."""
    return torch.div(x, 2**y if isinstance(y, int) else _power_of_two(y).to(x.dtype), rounding_mode="floor")


BITS: dict[Any, Callable[..., Any]] = {
    aten.bitwise_and.Tensor: _bitwise(torch.logical_and, _and),
    aten.bitwise_or.Tensor: _bitwise(torch.logical_or, _or),
    aten.bitwise_xor.Tensor: _bitwise(torch.logical_xor, _xor),
    aten.bitwise_and.Scalar: _by_number(aten.bitwise_and.Tensor),
    aten.bitwise_or.Scalar: _by_number(aten.bitwise_or.Tensor),
    aten.bitwise_xor.Scalar: _by_number(aten.bitwise_xor.Tensor),
    aten.bitwise_not.default: _not,
    aten.bitwise_left_shift.Tensor: _left_shift,
    aten.bitwise_right_shift.Tensor: _right_shift,
    aten.__lshift__.Scalar: _left_shift,
    aten.__lshift__.Tensor: _left_shift,
    aten.__rshift__.Scalar: _right_shift,
    aten.__rshift__.Tensor: _right_shift,
}
"""Decompositions by operator."""
