"""Arithmetic of two broadcast tensors. Integers wrap around at the width of their type."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import mpmath as mp
import numpy as np
import torch
from torch import Tensor

from nanproof.ops import bound_binary
from nanproof.ops.record import Note, OpDef, Sample, binary, int_block

__all__ = ["OPS"]

Rounding = str
"""How a quotient becomes an integer: ``"floor"`` or ``"trunc"``."""


def _real_div(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y) if x.is_floating_point() else _whole_quotient(x, y, "trunc")


def _floor_div(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y, rounding_mode="floor") if x.is_floating_point() else _whole_quotient(x, y, "floor")


def _mod(x: Tensor, y: Tensor) -> Tensor:
    if x.is_floating_point():
        return torch.remainder(x, y)
    return torch.where(y == 0, torch.zeros_like(x), x - y * _whole_quotient(x, y, "floor"))


def _pow(x: Tensor, y: Tensor) -> Tensor:
    if x.is_floating_point():
        return torch.pow(x, y)
    power = torch.pow(x, y.clamp(min=0))
    # 1 / x**-y, truncated: not zero only for the bases 1 and -1.
    inverted = torch.where(x.abs() == 1, torch.pow(x, y.abs() % 2), torch.zeros_like(power))
    return torch.where(y < 0, inverted, power)


def _whole_quotient(x: Tensor, y: Tensor, rounding: Rounding) -> Tensor:
    """Integer quotient in the dtype of ``x``; by zero it is 0, as NumPy and the Arm instruction SDIV have it."""
    # In 64 bits: the smallest int32 divided by -1 traps on x86.
    divisor = torch.where(y == 0, torch.ones_like(y), y).to(torch.int64)
    quotient = torch.div(x.to(torch.int64), divisor, rounding_mode=rounding).to(x.dtype)
    return torch.where(y == 0, torch.zeros_like(quotient), quotient)


def _integers(low_y: int, zeros: bool = True) -> Callable[[], Iterable[Sample]]:
    def samples() -> Iterable[Sample]:
        x, y = int_block(6, 5, low=-9), int_block(5, low=low_y, seed=1)
        yield Sample({"x": x, "y": y if zeros else np.where(y == 0, np.int32(3), y)})
        yield Sample({"x": x, "y": np.int32(2)})
        yield Sample({"x": np.array([-(2**31), 2**31 - 1, 65_537], np.int32), "y": np.int32(3)})

    return samples


def _exact_floor_div(x: Any, y: Any) -> Any:
    return mp.floor(x / y)


OPS: tuple[OpDef, ...] = (
    binary(
        "add",
        torch.add,
        exact=lambda x, y: x + y,
        integers=_integers(-7),
        bound=bound_binary.add,
    ),
    binary(
        "sub",
        torch.sub,
        exact=lambda x, y: x - y,
        integers=_integers(-7),
        bound=bound_binary.sub,
    ),
    binary(
        "mul",
        torch.mul,
        exact=lambda x, y: x * y,
        integers=_integers(-7),
        bound=bound_binary.mul,
    ),
    binary(
        "real_div",
        _real_div,
        exact=lambda x, y: x / y,
        bound=bound_binary.real_div,
        integers=_integers(-7, zeros=False),
        notes=(
            Note(
                "The quotient of two int32 is an int32, truncated toward zero.",
                "coremltools 9.0: type inference says int32, value inference divides and casts with NumPy astype",
            ),
        ),
    ),
    binary("floor_div", _floor_div, exact=_exact_floor_div, integers=_integers(-7), bound=bound_binary.floor_div),
    binary(
        "mod", _mod, exact=lambda x, y: x - y * _exact_floor_div(x, y), integers=_integers(-7), bound=bound_binary.mod
    ),
    # Like NumPy, and unlike `x > y ? x : y` of MIL's documentation, NaN in either operand wins.
    binary("maximum", torch.maximum, exact=max, picks=True, integers=_integers(-7), bound=bound_binary.maximum),
    binary("minimum", torch.minimum, exact=min, picks=True, integers=_integers(-7), bound=bound_binary.minimum),
    binary(
        "pow",
        _pow,
        exact=mp.power,
        bound=bound_binary.power,
        integers=_integers(0),
        notes=(
            Note(
                "int32 to a negative power is the truncated reciprocal; coremltools refuses to fold it.",
                "NumPy: 'Integers to negative integer powers are not allowed'",
            ),
        ),
    ),
)
