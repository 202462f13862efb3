"""Decompositions of random operators, which 9.0 lacks, from uniform numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["CHANCE"]

aten = torch.ops.aten


def _bernoulli(x: Tensor, p: float | None = None, *, generator: Any = None) -> Tensor:
    """``bernoulli`` of the probabilities ``x``, or of ``p`` in the shape of ``x``."""
    return (torch.rand_like(x) < (x if p is None else p)).to(x.dtype)


def _rrelu(
    x: Tensor, noise: Tensor, lower: float = 0.125, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> tuple[Tensor, Tensor]:
    """``rrelu``: slopes of negative numbers from ``lower`` to ``upper``, or their middle outside of training."""
    if not training:
        return torch.where(x > 0, x, x * ((lower + upper) / 2)), noise
    slopes = torch.where(x > 0, torch.ones([]), torch.rand_like(x) * (upper - lower) + lower)
    return x * slopes, slopes


def _dropout(x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    """``dropout`` of everything, which 9.0 leaves out like any other dropout."""
    if not train or p != 1:
        return NotImplemented
    return torch.zeros_like(x), torch.zeros_like(x, dtype=torch.bool)


CHANCE: dict[Any, Callable[..., Any]] = {
    aten.bernoulli.default: _bernoulli,
    aten.bernoulli.p: _bernoulli,
    aten.native_dropout.default: _dropout,
    aten.rrelu_with_noise_functional.default: _rrelu,
}
"""Decompositions by operator."""
