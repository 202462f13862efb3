"""What must hold of random draws: their range, and statistics within six standard errors of those of the law."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray


def _mean_is(draws: Array, mean: float, deviation: float) -> None:
    assert abs(draws.astype(np.float64).mean() - mean) < 6 * deviation / math.sqrt(draws.size) + 1e-6


def _bernoulli(draws: Array, shape: Array, prob: Any = 0.5, seed: int = -1) -> None:
    assert draws.shape == tuple(shape)
    assert set(np.unique(draws)) <= {0.0, 1.0}
    _mean_is(draws, float(prob), math.sqrt(prob * (1 - prob)))


def _normal(draws: Array, shape: Array, mean: Any = 0.0, stddev: Any = 1.0, seed: int = -1) -> None:
    assert draws.shape == tuple(shape)
    scaled = (draws.astype(np.float64) - float(mean)) / float(stddev)
    _mean_is(scaled, 0, 1)
    _mean_is(scaled**2, 1, math.sqrt(2))
    _mean_is(np.abs(scaled) < 1, math.erf(math.sqrt(0.5)), 0.47)


def _uniform(draws: Array, shape: Array, low: Any = 0.0, high: Any = 1.0, seed: int = -1) -> None:
    assert draws.shape == tuple(shape)
    assert (draws >= low).all()
    assert (draws < high).all()
    scaled = (draws.astype(np.float64) - float(low)) / (float(high) - float(low))
    _mean_is(scaled, 1 / 2, math.sqrt(1 / 12))
    _mean_is(scaled < 0.25, 0.25, math.sqrt(0.25 * 0.75))


def _categorical(draws: Array, x: Array, mode: str = "logits", size: int = 1, seed: int = -1) -> None:
    assert draws.shape == (*x.shape[:-1], size)
    weights = np.exp(x.astype(np.float64)) if mode == "logits" else x.astype(np.float64)
    shares = weights / weights.sum(-1, keepdims=True)
    assert (shares[tuple(np.indices(draws.shape)[:-1])][..., 0] >= 0).all()
    for k in range(x.shape[-1]):
        p = shares[..., k]
        found = (draws == k).mean(-1)
        assert (np.abs(found - p) <= 6 * np.sqrt(p * (1 - p) / size) + 1e-12).all()
    assert np.isin(draws, np.arange(x.shape[-1])).all()


STATISTICS: dict[str, Callable[..., None]] = {
    "random_bernoulli": _bernoulli,
    "random_normal": _normal,
    "random_uniform": _uniform,
    "random_categorical": _categorical,
}
