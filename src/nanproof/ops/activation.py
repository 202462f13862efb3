"""Activation functions and softmax.

An activation without numeric parameters is one function with one rounding, under ``strict`` too: measured on Apple's
CPU, such activations are correctly rounded within 1.5 ulp (device facts C3), and ``softplus`` is computed in float32
(C6). The Neural Engine evaluates many of them by table. A parametrised activation is the formula of its documentation,
step by step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import mpmath as mp
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic, SingleInside
from nanproof.ops import bound_channels, bound_normalisation
from nanproof.ops.bound_elementwise import Curve, turns
from nanproof.ops.record import Note, OpDef, Sample, float_block, op, parametric, unary

__all__ = ["OPS", "softmax"]


# ---------------------------------------------------------------------------------------------------------------------
# Rules


def _gelu(arithmetic: Arithmetic, x: Tensor, mode: str = "EXACT") -> Tensor:
    # The table of a unit serves both forms of one function (device facts L4); the third is another function.
    name = "gelu" if mode in ("EXACT", "TANH_APPROXIMATION") else f"gelu {mode}"
    return arithmetic.function(name, _GELU[mode], x)


# Each form avoids the cancellation of the documented one, 1 + erf(..) or 1 + tanh(..), in the negative tail:
# 1 + erf(z) = erfc(-z) and 1 + tanh(a) = 2 sigmoid(2a).
_GELU: dict[str, Callable[[Tensor], Tensor]] = {
    "EXACT": lambda x: 0.5 * x * torch.erfc(x * -math.sqrt(0.5)),
    "TANH_APPROXIMATION": lambda x: x * torch.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x * x * x)),
    "SIGMOID_APPROXIMATION": lambda x: x * torch.sigmoid(1.702 * x),
}


def _clamped_relu(arithmetic: Arithmetic, x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.clamp(torch.where(x >= 0, x, alpha * x), max=beta)


def _elu(arithmetic: Arithmetic, x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x > 0, x, alpha * arithmetic.round(torch.expm1(x)))


def _leaky_relu(arithmetic: Arithmetic, x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x >= 0, x, alpha * x)


def _linear_activation(arithmetic: Arithmetic, x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return arithmetic.round(alpha * x) + beta


def _prelu(arithmetic: Arithmetic, x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x > 0, x, _of_channels(alpha, x) * x)


def _scaled_tanh(arithmetic: Arithmetic, x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return alpha * arithmetic.round(arithmetic.function("tanh", torch.tanh, arithmetic.round(beta * x)))


def _sigmoid_hard(arithmetic: Arithmetic, x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.clamp(arithmetic.round(alpha * x) + beta, 0.0, 1.0)


def _softplus_parametric(arithmetic: Arithmetic, x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    inner = arithmetic.round(_of_channels(beta, x) * x)
    return _of_channels(alpha, x) * arithmetic.round(arithmetic.function("softplus", F.softplus, inner))


def _thresholded_relu(arithmetic: Arithmetic, x: Tensor, alpha: Tensor) -> Tensor:
    return torch.where(x < alpha, torch.zeros_like(x), x)


def softmax(arithmetic: Arithmetic, x: Tensor, axis: Tensor | int = -1) -> Tensor:
    """``exp(x - max(x))``, divided by its sum over ``axis``."""
    dim, steps, x = int(axis), arithmetic.steps, arithmetic.decoded(x)
    if isinstance(steps, SingleInside):
        return torch.softmax(x, dim)  # the same steps, fused
    # A row of -inf is NaN here, as IEEE has it: -inf - -inf.
    powers = steps.round(torch.exp(steps.round(x - torch.amax(x, dim, keepdim=True))))
    return powers / steps.sum(powers, [dim], keepdim=True)


def _of_channels(parameter: Tensor, x: Tensor) -> Tensor:
    """A vector over the channels (dimension 1) of ``x``, shaped to broadcast against it."""
    return parameter.reshape(-1, *(1 for _ in x.shape[2:]))


# ---------------------------------------------------------------------------------------------------------------------
# The same in mpmath


def _exact_sigmoid(x: Any) -> Any:
    return 1 / (1 + mp.exp(-x))


def _exact_elu(x: Any, alpha: Any) -> Any:
    return x if x > 0 else alpha * mp.expm1(x)


def _exact_scaled_tanh(x: Any, alpha: Any, beta: Any) -> Any:
    return alpha * mp.tanh(beta * x)


def _exact_softplus(x: Any) -> Any:
    return mp.log1p(mp.exp(x))


def _exact_gelu(x: Any, mode: str = "EXACT") -> Any:
    if mode == "EXACT":
        return x * mp.erfc(-x / mp.sqrt(2)) / 2
    if mode == "TANH_APPROXIMATION":
        return x * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3))) / 2
    return x * _exact_sigmoid(mp.mpf("1.702") * x)


# ---------------------------------------------------------------------------------------------------------------------
# Samples


def _prelu_samples() -> Iterable[Sample]:
    yield Sample({"x": float_block(2, 3, 4, 2), "alpha": np.array([0.25, -1.5, 0.0], np.float32)})
    # Rank 3 and 5 are accepted by coremltools only if all channels have one slope.
    yield Sample({"x": float_block(2, 3, 4), "alpha": np.full(3, 0.1, np.float32)})


def _softplus_parametric_samples() -> Iterable[Sample]:
    alpha, beta = np.array([1.0, 0.5, -2.0], np.float32), np.array([1.0, -0.3, 4.0], np.float32)
    yield Sample({"x": float_block(2, 3, 4, 2), "alpha": alpha, "beta": beta})
    yield Sample({"x": float_block(1, 3, 5, scale=4.0), "alpha": alpha, "beta": beta})


def _softmax_samples() -> Iterable[Sample]:
    yield Sample({"x": float_block(2, 3, 4, scale=3.0)})
    yield Sample({"x": float_block(2, 3, 4, scale=3.0), "axis": np.int32(1)})
    yield Sample({"x": float_block(3, 5, scale=200.0), "axis": np.int32(-2)})
    # Masked attention scores: partly, and fully, where the row is NaN.
    yield Sample({"x": np.array([[0.0, 1.0, -np.inf], [-np.inf] * 3], np.float32)})


OPS: tuple[OpDef, ...] = (
    parametric(
        "clamped_relu",
        _clamped_relu,
        exact=lambda x, alpha, beta: min(beta, x if x >= 0 else alpha * x),
        parameters=[{"alpha": 0.3, "beta": 6}, {"alpha": -2, "beta": 4}],
        revisions=("iOS17",),
        curve=Curve(turning=turns(0.0)),
        notes=(
            Note(
                "For beta < 0 the constant folding of coremltools gives beta + min(alpha * x, beta) below zero, its "
                "documentation min(beta, alpha * x). nanproof follows the documentation.",
                "coremltools 9.0, iOS15/activation.py, clamped_relu.value_inference",
            ),
        ),
    ),
    parametric(
        "elu",
        _elu,
        exact=_exact_elu,
        parameters=[{"alpha": 1.0}, {"alpha": -0.7}],
        revisions=("iOS17",),
        curve=Curve(turning=turns(0.0), contracts=lambda settings: abs(settings["alpha"]) <= 1),
    ),
    parametric(
        "gelu",
        _gelu,
        exact=_exact_gelu,
        parameters=[
            {},
            {"mode": "EXACT"},
            {"mode": "TANH_APPROXIMATION"},
            {"mode": "SIGMOID_APPROXIMATION"},
        ],
        # All three forms turn within 0.01 of here, where they are flat.
        curve=Curve(turning=turns(-0.7518), loose=2.0**-12, contracts=lambda settings: True),
    ),
    parametric(
        "leaky_relu",
        _leaky_relu,
        exact=lambda x, alpha: x if x >= 0 else alpha * x,
        parameters=[{"alpha": 0.01}, {"alpha": -1.5}],
        revisions=("iOS17",),
        curve=Curve(turning=turns(0.0), contracts=lambda settings: abs(settings["alpha"]) <= 1),
    ),
    parametric(
        "linear_activation",
        _linear_activation,
        exact=lambda x, alpha, beta: alpha * x + beta,
        parameters=[{"alpha": 2.0, "beta": 0.0}, {"alpha": -0.37, "beta": 5.0}],
        revisions=("iOS17",),
    ),
    op("prelu", "activation", _prelu, _prelu_samples, revisions=("iOS17",), bound=bound_channels.prelu),
    unary(
        "relu",
        torch.relu,
        exact=lambda x: max(x, 0),
        increasing=True,
        picks=True,
        curve=Curve(contracts=lambda settings: True),
    ),
    unary("relu6", F.relu6, exact=lambda x: min(max(x, 0), 6), increasing=True),
    parametric(
        "scaled_tanh",
        _scaled_tanh,
        exact=_exact_scaled_tanh,
        parameters=[{"alpha": 1.7, "beta": 0.6}, {"alpha": -3.0, "beta": 2.0}],
        revisions=("iOS17",),
    ),
    unary("sigmoid", torch.sigmoid, exact=_exact_sigmoid, increasing=True),
    parametric(
        "sigmoid_hard",
        _sigmoid_hard,
        exact=lambda x, alpha, beta: min(max(alpha * x + beta, 0), 1),
        parameters=[{"alpha": 0.25, "beta": 0.5}, {"alpha": -0.1, "beta": 0.65}],
        revisions=("iOS17",),
    ),
    unary(
        "silu",
        F.silu,
        exact=lambda x: x * _exact_sigmoid(x),
        curve=Curve(turning=turns(-1.27846), loose=2.0**-20, contracts=lambda settings: True),
    ),
    op("softmax", "softmax", softmax, _softmax_samples, bound=bound_normalisation.softmax),
    unary("softplus", F.softplus, exact=_exact_softplus, increasing=True),
    op(
        "softplus_parametric",
        "activation",
        _softplus_parametric,
        _softplus_parametric_samples,
        revisions=("iOS17",),
        bound=bound_channels.softplus_parametric,
        notes=(
            Note(
                "The constant folding of coremltools overflows where exp(beta * x) does; the function does not.",
                "coremltools 9.0, iOS15/activation.py, softplus_parametric.value_inference",
            ),
        ),
    ),
    unary("softsign", lambda x: x / (1 + x.abs()), exact=lambda x: x / (1 + abs(x)), increasing=True),
    parametric(
        "thresholded_relu",
        _thresholded_relu,
        exact=lambda x, alpha: x if x >= alpha else 0,
        parameters=[{"alpha": 1.0}, {"alpha": -2.0}],
        revisions=("iOS17",),
        curve=Curve(turning=lambda settings: (math.nextafter(settings["alpha"], -math.inf), settings["alpha"])),
        notes=(
            Note(
                "NaN stays NaN, although 'x if x >= alpha, otherwise 0' reads as 0.",
                "coremltools 9.0, iOS15/activation.py, thresholded_relu.value_inference",
            ),
        ),
    ),
)
