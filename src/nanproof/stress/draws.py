"""Inputs that nobody gave: drawn at random from what each input is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nanproof.stress.kinds import InputKind

__all__ = ["drawn"]


def drawn(kind: InputKind, shape: Sequence[int], dtype: np.dtype, rng: np.random.Generator) -> np.ndarray:
    """One value of an input, within the bounds of its kind.

    Reals come from the standard normal distribution unless they are stated to lie elsewhere, waveforms are as loud as
    speech, masks hide the ends of their rows, positions count up, and pixels, ids and indices are drawn evenly. Ids of
    which no table tells the number are 0 or 1, which every vocabulary has.

    Args:
        kind: What the input is.
        shape: The shape to draw.
        dtype: The dtype of the program's input.
        rng: Where numbers come from.
    """
    return _values(kind, tuple(shape), rng).astype(dtype)


def _values(kind: InputKind, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if kind.name == "mask":
        return _padding(shape, rng)
    if kind.name == "bool":
        return rng.integers(0, 2, shape)
    if kind.name == "positions":
        start = 0.0 if not math.isfinite(kind.low) else kind.low
        return np.broadcast_to(start + np.arange(shape[-1] if shape else 1), shape) if shape else np.array(start)
    if kind.name in ("ids", "index") or (kind.integral and kind.name != "image"):
        low = int(kind.low) if math.isfinite(kind.low) else 0
        high = int(kind.high) if math.isfinite(kind.high) else low + 1
        return rng.integers(low, high + 1, shape)
    if kind.name == "image":
        return rng.integers(0, 256, shape) if kind.integral else rng.uniform(kind.low, kind.high, shape)
    if kind.name == "audio":
        return np.clip(0.1 * rng.standard_normal(shape), kind.low, kind.high)
    return rng.uniform(kind.low, kind.high, shape) if kind.bounded else rng.standard_normal(shape)


def _padding(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Rows of ones that end in zeros somewhere in their second half; the first row keeps all."""
    mask = np.ones(shape)
    rows = mask.reshape(-1, shape[-1]) if shape and mask.size else mask[:0].reshape(0, 1)
    for row in rows[1:]:
        row[int(rng.integers(row.size // 2, row.size)) + 1 :] = 0
    return mask
