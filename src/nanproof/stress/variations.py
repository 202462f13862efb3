"""Other inputs of the same kind as a given one, for checks that want more than one example and may not ask for more."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

__all__ = ["varied"]


def varied(inputs: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, np.ndarray]:
    """Floats drawn from a normal distribution of the given mean and deviation; anything else in another order.

    So ids stay in their vocabulary and masks stay masks. The same for the same seed.
    """
    rng = np.random.default_rng(seed)
    return {name: _varied(np.asarray(array), rng) for name, array in inputs.items()}


def _varied(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if array.dtype.kind != "f" or not np.isfinite(array).all() or not array.size:
        return rng.permutation(array.reshape(-1)).reshape(array.shape)
    spread = float(array.std()) or 1.0
    return rng.normal(float(array.mean()), spread, array.shape).astype(array.dtype)
