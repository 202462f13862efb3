"""Masks at their worst: rows that mask everything, padding on the left, a single token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["StressInput", "stress_masks"]


@dataclass(frozen=True, slots=True)
class StressInput:
    """Inputs by name, and what is special about them."""

    what: str
    inputs: Mapping[str, np.ndarray]


def stress_masks(batches: Sequence[Mapping[str, np.ndarray]]) -> list[StressInput]:
    """Variants of the first batch in which every input that looks like a mask is driven to its limits.

    An input counts as a mask if it has at least two axes, holds nothing but 0 and 1 in all batches, and both or only 1:
    this is a guess from the data, and the report states it.
    """
    if not batches:
        return []
    first = batches[0]
    masks = [name for name in first if all(_is_mask(b[name]) for b in batches) and any(b[name].any() for b in batches)]
    variants: list[StressInput] = []
    for name in masks:
        for what, mask in _variants(np.asarray(first[name])):
            variants.append(StressInput(f"{name}: {what}", {**first, name: mask}))
    return variants


def _is_mask(array: np.ndarray) -> bool:
    return array.ndim >= 2 and array.size > 0 and bool(np.isin(array, (0, 1)).all())


def _variants(mask: np.ndarray) -> list[tuple[str, np.ndarray]]:
    ones, zero = np.ones_like(mask), mask.dtype.type(0)
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
