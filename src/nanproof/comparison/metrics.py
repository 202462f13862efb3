"""How far one array is from another."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["Difference", "difference"]


@dataclass(frozen=True, slots=True)
class Difference:
    """The distance of an array from its reference.

    Attributes:
        error: Largest absolute error over the reference's range; the number that a tolerance is compared with.
        largest: Largest absolute error.
        range: Largest minus smallest element of the reference (its largest magnitude if it is constant).
        snr_db: Signal-to-noise ratio in decibels, ``inf`` for equal arrays.
        cosine: Smallest cosine similarity of any two corresponding rows (last axis), 1 for equal rows.
        nonfinite: Elements that are Inf or NaN here and not in the reference, or differ where the reference is not
            finite.
        compared: Elements that are finite in the reference.
    """

    error: float
    largest: float
    range: float
    snr_db: float
    cosine: float
    nonfinite: int
    compared: int

    def within(self, tolerance: float) -> bool:
        """Whether nothing is non-finite that should not be, and the error is at most ``tolerance``."""
        return self.nonfinite == 0 and self.error <= tolerance

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def difference(actual: np.ndarray, reference: np.ndarray) -> Difference:
    """Compare two arrays of one shape in float64.

    Elements that are NaN, or the same infinity, in both count as equal.

    Raises:
        ValueError: The shapes differ.
    """
    if actual.shape != reference.shape:
        raise ValueError(f"shapes differ: {actual.shape} and {reference.shape}")
    a, b = actual.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    nonfinite = int((~np.isfinite(a) & finite).sum() + (~same & ~finite).sum())
    good = finite & np.isfinite(a)
    if not finite.any():
        return Difference(0.0 if nonfinite == 0 else math.inf, 0.0, 0.0, math.inf, 1.0, nonfinite, 0)
    span = float(b[finite].max() - b[finite].min()) or float(np.abs(b[finite]).max()) or 1.0
    errors = np.abs(np.subtract(a, b, where=good, out=np.zeros_like(b)))
    largest = float(errors.max(initial=0.0))
    noise, signal = float((errors**2).sum()), float((b[good] ** 2).sum())
    snr = math.inf if noise == 0 else (-math.inf if signal == 0 else 10 * math.log10(signal / noise))
    error = math.inf if nonfinite else largest / span
    return Difference(error, largest, span, snr, _smallest_cosine(a, b, good), nonfinite, int(finite.sum()))


def _smallest_cosine(a: np.ndarray, b: np.ndarray, good: np.ndarray) -> float:
    if a.ndim == 0:
        return 1.0
    a, b = np.where(good, a, 0.0), np.where(good, b, 0.0)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    rows = norms > 0
    if not rows.any():
        return 1.0
    return float(((a * b).sum(-1)[rows] / norms[rows]).min())
