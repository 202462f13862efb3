"""Reductions and running sums in float64 (exactly, in int64, for integers)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Reduce = Callable[..., np.ndarray]


def _over_axes(reduce: Reduce) -> Callable[..., np.ndarray]:
    """A NumPy reduction under MIL's names; an ``int32`` result is truncated and wraps around."""

    def oracle(x: np.ndarray, axes: Any = None, keep_dims: bool = False) -> np.ndarray:
        axis = tuple(range(x.ndim)) if axes is None else tuple(int(a) for a in axes)
        result = np.asarray(reduce(x.astype(np.float64), axis=axis, keepdims=bool(keep_dims)))
        return result if x.dtype.kind == "f" else np.trunc(result).astype(np.int64).astype(np.int32)

    return oracle


def _log_sum_exp(x: np.ndarray, *, axis: tuple[int, ...], keepdims: bool) -> np.ndarray:
    return torch.logsumexp(torch.from_numpy(x), dim=axis, keepdim=keepdims).numpy()


def _l2_norm(x: np.ndarray, *, axis: tuple[int, ...], keepdims: bool) -> np.ndarray:
    return torch.linalg.vector_norm(torch.from_numpy(x), 2, dim=axis, keepdim=keepdims).numpy()


def _extremum(index: Reduce) -> Callable[..., np.ndarray]:
    def oracle(x: np.ndarray, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> np.ndarray:
        return index(x, axis=int(axis), keepdims=bool(keep_dims)).astype(output_dtype)

    return oracle


def _cumsum(x: np.ndarray, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> np.ndarray:
    """Each element by its definition: the sum of the elements before it (after it, if reversed)."""
    rows = np.moveaxis(x, int(axis), 0).astype(np.float64)
    size = len(rows)
    parts = []
    for i in range(size):
        span = (i + bool(exclusive), size) if reverse else (0, i + 1 - bool(exclusive))
        parts.append(rows[slice(*span)].sum(0))
    return np.moveaxis(np.stack(parts), 0, int(axis)).astype(x.dtype) if parts else x


ORACLES: dict[str, Callable[..., Any]] = {
    "cumsum": _cumsum,
    "reduce_argmax": _extremum(np.argmax),
    "reduce_argmin": _extremum(np.argmin),
    "reduce_l1_norm": _over_axes(lambda x, axis, keepdims: np.sum(np.abs(x), axis=axis, keepdims=keepdims)),
    "reduce_l2_norm": _over_axes(_l2_norm),
    "reduce_log_sum": _over_axes(lambda x, axis, keepdims: np.log(np.sum(x, axis=axis, keepdims=keepdims))),
    "reduce_log_sum_exp": _over_axes(_log_sum_exp),
    "reduce_max": _over_axes(np.max),
    "reduce_mean": _over_axes(np.mean),
    "reduce_min": _over_axes(np.min),
    "reduce_prod": _over_axes(np.prod),
    "reduce_sum": _over_axes(np.sum),
    "reduce_sum_square": _over_axes(lambda x, axis, keepdims: np.sum(x * x, axis=axis, keepdims=keepdims)),
}
