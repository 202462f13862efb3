"""Edits of a MIL program as data: what a rewrite asks for, by op name. Applied by :mod:`nanproof.mil.edit`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["Edit", "Saturate", "SetConstant"]


@dataclass(frozen=True, slots=True, eq=False)
class SetConstant:
    """Give one constant input of one op another value (same shape and dtype)."""

    op: str
    input: str
    index: int
    value: np.ndarray


@dataclass(frozen=True, slots=True)
class Saturate:
    """Bound the first output of an op from below (``maximum``) or above (``minimum``)."""

    op: str
    with_op: Literal["maximum", "minimum"]
    bound: float


Edit = SetConstant | Saturate
