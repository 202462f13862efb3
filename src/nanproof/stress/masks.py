"""Masks at their worst: rows that mask everything, padding on the left, a single token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["StressInput", "mask_variants"]


@dataclass(frozen=True, slots=True)
class StressInput:
    """Inputs by name, and what is special about them."""

    what: str
    inputs: Mapping[str, np.ndarray]


def mask_variants(mask: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Masks of one shape, 1 for what is kept, with what is special about them; rows are along the last axis."""
    ones, zero = np.ones_like(mask), mask.dtype.type(0)
    if mask.ndim < 2:
        return [("nothing masked", ones), ("everything masked", np.zeros_like(mask))]
    empty_row, left, single = ones.copy(), ones.copy(), ones.copy()
    empty_row[0] = zero
    left[..., : mask.shape[-1] // 2] = zero
    single[..., 1:] = zero
    return [
        ("nothing masked", ones),
        ("first row masked everywhere", empty_row),
        ("left half masked", left),
        ("one left", single),
    ]
