"""Elementwise functions of one tensor that are no activation: arithmetic, roots, exponentials, trigonometry, casts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import mpmath as mp
import numpy as np
import torch
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic
from nanproof.ops import bound_binary, bound_movement
from nanproof.ops.bound_elementwise import Curve, absolute, clipped, inverted, rooted, squared, turns
from nanproof.ops.record import (
    Note,
    OpDef,
    Sample,
    float_grid,
    float_specials,
    int_block,
    op,
    parametric,
    scalar,
    structural,
    unary,
)
from nanproof.program import DType
from nanproof.values.floats import carrier

__all__ = ["OPS"]

_INFINITY = float("inf")
_INT32_MIN, _INT32_MAX = -(2**31), 2**31 - 1
_LOG_EPSILON = 2.0**-149
"""What the documented default 1e-45 of ``log`` is as a float32: the smallest subnormal. As a binary16 it is zero."""


def _always(settings: object) -> bool:
    return True


def _above(number: float) -> float:
    """The next float64."""
    return math.nextafter(number, math.inf)


def _clip(arithmetic: Arithmetic, x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.clamp(x, scalar(alpha), scalar(beta))


def _threshold(arithmetic: Arithmetic, x: Tensor, alpha: Tensor) -> Tensor:
    return torch.clamp(x, min=alpha)


def _inverse(arithmetic: Arithmetic, x: Tensor, epsilon: Tensor | float = 1e-4) -> Tensor:
    return arithmetic.function("inverse", torch.reciprocal, arithmetic.round(x + epsilon))


def _log(arithmetic: Arithmetic, x: Tensor, epsilon: Tensor | float = _LOG_EPSILON) -> Tensor:
    return arithmetic.function("log", torch.log, arithmetic.round(x + epsilon))


def _rsqrt(arithmetic: Arithmetic, x: Tensor, epsilon: Tensor | float = 1e-12) -> Tensor:
    return arithmetic.function("rsqrt", torch.rsqrt, arithmetic.round(x + epsilon))


def _sign(x: Tensor) -> Tensor:
    # PyTorch's sign of NaN is 0, which would hide it.
    return torch.where(torch.isnan(x), x, torch.sign(x))


# In float64, since PyTorch's float32 versions overflow before their results do (cosh(89) is 2.2e38).
def _cosh(x: Tensor) -> Tensor:
    return torch.cosh(x.to(torch.float64)).to(x.dtype)


def _sinh(x: Tensor) -> Tensor:
    return torch.sinh(x.to(torch.float64)).to(x.dtype)


def _exp2(x: Tensor) -> Tensor:
    return torch.exp2(x).to(x.dtype)


def _logical_not(arithmetic: Arithmetic, x: Tensor) -> Tensor:
    return torch.logical_not(x)


def _identity(arithmetic: Arithmetic, x: Tensor) -> Tensor:
    return x


def _exact_exp2(x: Any) -> Any:
    return mp.power(2, x)


def _exact_inverse(x: Any, epsilon: Any = 1e-4) -> Any:
    return 1 / (x + epsilon)


def _exact_log(x: Any, epsilon: Any = _LOG_EPSILON) -> Any:
    return mp.log(x + epsilon)


def _exact_rsqrt(x: Any, epsilon: Any = 1e-12) -> Any:
    return 1 / mp.sqrt(x + epsilon)


def _cast(arithmetic: Arithmetic, x: Tensor, dtype: str) -> Tensor:
    target = DType(dtype)
    if target is DType.BOOL:
        return x != 0
    if target.is_float:
        return x.to(carrier(target))
    whole = _truncated(x) if x.is_floating_point() else x
    return whole.to(torch.int32) & 0xFFFF if target is DType.UINT16 else whole.to(carrier(target))


def _truncated(x: Tensor) -> Tensor:
    """Floats as ``int32``, toward zero; NaN becomes 0 and what is out of range saturates (see the note of ``cast``)."""
    wide = torch.nan_to_num(x.to(torch.float64), nan=0.0, posinf=_INT32_MAX, neginf=_INT32_MIN)
    return wide.clamp(_INT32_MIN, _INT32_MAX).to(torch.int32)


def _cast_samples() -> Iterable[Sample]:
    floats = np.array([0.0, -0.0, 0.4, -0.4, 1.5, -1.5, 2.5, 99.9, -99.9], np.float32)
    for dtype in ("fp16", "fp32", "int32", "int8", "int16", "bool"):
        yield Sample({"x": floats, "dtype": dtype})
    for dtype in ("uint8", "uint16"):
        yield Sample({"x": np.abs(floats), "dtype": dtype})
    for dtype in ("fp32", "fp16", "bool"):
        yield Sample({"x": float_specials(), "dtype": dtype})
    for dtype in ("fp16", "fp32", "int8", "uint8", "int16", "uint16", "bool"):
        yield Sample({"x": np.array([0, 1, -1, 127, 128, 300, -300, 40_000, 70_000], np.int32), "dtype": dtype})
    for dtype in ("fp16", "fp32", "int32", "uint8"):
        yield Sample({"x": np.array([[True, False]]), "dtype": dtype})
    yield Sample({"x": np.array([0, 200, 255], np.uint8), "dtype": "int8"})
    yield Sample({"x": np.array([0, 40_000, 65_535], np.uint16), "dtype": "int16"})
    yield Sample({"x": np.array([-1, 5], np.int8), "dtype": "uint16"})


_CAST_NOTES = (
    Note(
        "A float outside of the range of int32 saturates and NaN becomes 0; a narrower integer then wraps.",
        "The conversion instruction FCVTZS of every Apple silicon CPU (Arm ARM, shared/FPToFixed); how Core ML casts "
        "on other units is not published.",
    ),
    Note(
        "Integers beyond the target wrap around, as indices cast to int16 by the converter do.",
        "coremltools iOS17 value inference (NumPy astype).",
    ),
)


def _identity_samples() -> Iterable[Sample]:
    yield Sample({"x": float_grid()})
    yield Sample({"x": int_block(2, 3)})
    yield Sample({"x": np.array([True, False])})


def _threshold_integers() -> Iterable[Sample]:
    yield Sample({"x": int_block(3, 4), "alpha": np.int32(2)})


OPS: tuple[OpDef, ...] = (
    unary(
        "abs",
        torch.abs,
        exact=abs,
        picks=True,
        integers=True,
        curve=Curve(turning=turns(0.0), contracts=_always, link=absolute),
    ),
    unary("acos", torch.acos, exact=mp.acos, increasing=False, domain=(-1, 1)),
    unary("asin", torch.asin, exact=mp.asin, increasing=True, domain=(-1, 1)),
    unary("atan", torch.atan, exact=mp.atan, increasing=True, curve=Curve(contracts=_always)),
    unary("atanh", torch.atanh, exact=mp.atanh, increasing=True, domain=(-1, 1)),
    unary("ceil", torch.ceil, exact=mp.ceil, increasing=True),
    parametric(
        "clip",
        _clip,
        exact=lambda x, alpha, beta: min(max(x, alpha), beta),
        increasing=True,
        picks=True,
        parameters=[{"alpha": -2, "beta": 11}, {"alpha": -1e30, "beta": 0.1}],
        revisions=("iOS17",),
        curve=Curve(link=clipped, contracts=lambda settings: settings["alpha"] <= 0 <= settings["beta"]),
    ),
    unary("cos", torch.cos, exact=mp.cos, curve=Curve(codomain=(-1.0, 1.0))),
    unary("cosh", _cosh, exact=mp.cosh, curve=Curve(turning=turns(0.0))),
    unary("erf", torch.erf, exact=mp.erf, increasing=True),
    unary("exp", torch.exp, exact=mp.exp, increasing=True),
    unary("exp2", _exp2, exact=_exact_exp2, increasing=True, integers=True),
    unary("floor", torch.floor, exact=mp.floor, increasing=True),
    parametric(
        "inverse",
        _inverse,
        exact=_exact_inverse,
        parameters=[{}, {"epsilon": 0.0}, {"epsilon": 0.25}],
        revisions=("iOS17",),
        curve=Curve(domain=lambda settings: (_above(-settings.get("epsilon", 1e-4)), _INFINITY), link=inverted(1e-4)),
    ),
    parametric(
        "log",
        _log,
        exact=_exact_log,
        increasing=True,
        domain=(0.0, _INFINITY),
        parameters=[{}, {"epsilon": 0.1}],
        revisions=("iOS17",),
        curve=Curve(
            domain=lambda settings: (_above(-settings.get("epsilon", _LOG_EPSILON)), _INFINITY), loose=2.0**-20
        ),
        notes=(
            Note(
                "In fp16 the default epsilon is 0, so log(0) is -inf.", "np.float16(1e-45), coremltools default_inputs"
            ),
        ),
    ),
    op(
        "logical_not",
        "logical",
        _logical_not,
        lambda: [Sample({"x": np.array([[True], [False]])})],
        bound=bound_binary.negated,
    ),
    unary("round", torch.round, exact=mp.nint, increasing=True),
    parametric(
        "rsqrt",
        _rsqrt,
        exact=_exact_rsqrt,
        increasing=False,
        domain=(0.0, _INFINITY),
        parameters=[{}, {"epsilon": 1e-5}],
        revisions=("iOS17",),
        curve=Curve(
            domain=lambda settings: (_above(-settings.get("epsilon", 1e-12)), _INFINITY),
            link=inverted(1e-12, root=True),
        ),
    ),
    unary("sign", _sign, exact=mp.sign, increasing=True, integers=True),
    unary("sin", torch.sin, exact=mp.sin, curve=Curve(codomain=(-1.0, 1.0), contracts=_always)),
    unary("sinh", _sinh, exact=mp.sinh, increasing=True),
    unary(
        "sqrt",
        torch.sqrt,
        exact=mp.sqrt,
        increasing=True,
        domain=(0.0, _INFINITY),
        curve=Curve(domain=lambda settings: (0.0, _INFINITY), link=rooted),
    ),
    unary("square", torch.square, exact=lambda x: x * x, integers=True, curve=Curve(turning=turns(0.0), link=squared)),
    unary("tan", torch.tan, exact=mp.tan, curve=Curve(domain=lambda settings: (-1.57, 1.57))),
    unary("tanh", torch.tanh, exact=mp.tanh, increasing=True, curve=Curve(contracts=_always)),
    parametric(
        "threshold",
        _threshold,
        exact=max,
        increasing=True,
        parameters=[{"alpha": 0.1}, {"alpha": -3}],
        extra=_threshold_integers,
        curve=Curve(link=clipped),
    ),
    op(
        "cast",
        "cast",
        _cast,
        _cast_samples,
        revisions=("iOS17",),
        bound=bound_movement.cast,
        notes=_CAST_NOTES,
    ),
    structural("identity", _identity, _identity_samples),
)
