"""Distances between floats, and the exact value of an elementwise call, for the laws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mpmath as mp
import numpy as np

from nanproof.ops import OpDef

_UNDEFINED = (ZeroDivisionError, ValueError)
"""What mpmath raises at a pole."""

FLOAT32_MAX = mp.mpf(float(np.finfo(np.float32).max))
FLOAT32_SMALLEST_NORMAL = mp.mpf(2) ** -126


def ordinals(halves: np.ndarray) -> np.ndarray:
    """Binary16 numbers as consecutive integers: neighbours differ by 1, both zeros are 0, infinity follows 65504."""
    bits = halves.astype(np.float16).view(np.uint16).astype(np.int32)
    return np.where(bits & 0x8000, -(bits & 0x7FFF), bits)


def points(record: OpDef, inputs: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The arguments of ``exact`` for every element of the result: Python floats, and strings as they are."""
    names = [n for n in record.parameters if n in inputs]
    arrays = {n: np.asarray(inputs[n], np.float64) for n in names if not isinstance(inputs[n], str)}
    shape = np.broadcast_shapes(*(a.shape for a in arrays.values()))
    flat = {n: np.broadcast_to(a, shape).reshape(-1).tolist() for n, a in arrays.items()}
    size = int(np.prod(shape))
    return list(zip(*(flat.get(n, [inputs[n]] * size) for n in names), strict=True))


def exact_value(record: OpDef, point: tuple[Any, ...]) -> Any:
    """The exact value at finite arguments, to 200 bits; ``None`` at a pole or outside of the real domain."""
    with mp.workprec(200):
        try:
            value = record.exact(*(mp.mpf(p) if isinstance(p, float) else p for p in point))
        except _UNDEFINED:
            return None
        value = mp.mpmathify(value)
        return None if isinstance(value, mp.mpc) or not mp.isfinite(value) else value


def is_finite(point: tuple[Any, ...]) -> bool:
    """Whether all numbers of the point are finite."""
    return all(np.isfinite(p) for p in point if isinstance(p, float))


def condition(record: OpDef, point: tuple[Any, ...], value: Any, place: int = 0) -> float:
    """How much a relative change of one argument, by default the first, is amplified, at most 128.

    A float32 implementation rounds its inner arguments (``1.702 * x``), and may lose this factor.
    """
    step = mp.mpf(2) ** -40
    with mp.workprec(200):
        moved = exact_value(record, (*point[:place], mp.mpf(point[place]) * (1 + step), *point[place + 1 :]))
        if moved is None or value == 0:
            return 0.0
        return float(min(abs((moved - value) / value) / step, 128))


def float32_ulp(value: Any) -> Any:
    """Distance of the float32 numbers around a value, that of the smallest normal at least."""
    magnitude = max(abs(value), FLOAT32_SMALLEST_NORMAL)
    return mp.ldexp(1, int(mp.floor(mp.log(magnitude, 2))) - 23)
