"""Elementwise ops, softmax and comparisons in float64, by NumPy or PyTorch's own functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

_DTYPES = {"fp16": np.float16, "fp32": np.float32}


def _wide(x: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(x, np.float64))


def _cast(x: np.ndarray, dtype: str) -> np.ndarray:
    return x.astype(_DTYPES.get(dtype, dtype))


def _gelu(x: np.ndarray, mode: str = "EXACT") -> np.ndarray:
    wide = _wide(x)
    if mode == "SIGMOID_APPROXIMATION":
        return (wide / (1 + torch.exp(-1.702 * wide))).numpy()
    return F.gelu(wide, approximate="tanh" if mode.startswith("TANH") else "none").numpy()


def _prelu(x: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return F.prelu(_wide(x), _wide(alpha)).numpy()


def _softplus_parametric(x: np.ndarray, alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    alpha, beta = (np.expand_dims(p.astype(np.float64), tuple(range(1, x.ndim - 1))) for p in (alpha, beta))
    return alpha * np.logaddexp(0, beta * x)


def _softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    return torch.softmax(_wide(x), int(axis)).numpy()


def _select(cond: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(cond, a, b)


def _activation(function: Callable[..., torch.Tensor], *names: str) -> Callable[..., np.ndarray]:
    """An activation of PyTorch, with MIL's parameters in the order of its own."""

    def oracle(x: np.ndarray, **parameters: Any) -> np.ndarray:
        return function(_wide(x), *(float(parameters[n]) for n in names)).numpy()

    return oracle


ORACLES: dict[str, Callable[..., Any]] = {
    "cast": _cast,
    "elu": _activation(F.elu, "alpha"),
    "equal": lambda x, y: np.equal(x, y),
    "gelu": _gelu,
    "greater": lambda x, y: np.greater(x, y),
    "greater_equal": lambda x, y: np.greater_equal(x, y),
    "leaky_relu": _activation(F.leaky_relu, "alpha"),
    "less": lambda x, y: np.less(x, y),
    "less_equal": lambda x, y: np.less_equal(x, y),
    "logical_and": lambda x, y: x & y,
    "logical_not": lambda x: ~x,
    "logical_or": lambda x, y: x | y,
    "logical_xor": lambda x, y: x ^ y,
    "not_equal": lambda x, y: np.not_equal(x, y),
    "prelu": _prelu,
    "select": _select,
    "silu": _activation(F.silu),
    "softmax": _softmax,
    "softplus": _activation(F.softplus),
    "softplus_parametric": _softplus_parametric,
    "softsign": _activation(F.softsign),
}
