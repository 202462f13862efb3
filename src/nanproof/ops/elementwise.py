"""Elementwise functions of one tensor that are no activation: arithmetic, roots, exponentials, trigonometry."""

from __future__ import annotations

import mpmath as mp
import torch

from nanproof.ops.record import OpDef, unary

__all__ = ["OPS"]

OPS: tuple[OpDef, ...] = (
    unary("abs", torch.abs, exact=abs),
    unary("exp", torch.exp, exact=mp.exp, increasing=True),
    unary("sqrt", torch.sqrt, exact=mp.sqrt, increasing=True, domain=(0.0, float("inf"))),
)
