"""Bounds of the scatter family: what stood at a place, combined with as many updates as may come to it.

Updates come one after the other, and each result is rounded. An element to which none comes stays what it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nanproof.ops.bounding import Reading, UnboundedError, parameter
from nanproof.values.bound import Bound

__all__ = ["scatter", "scatter_along", "scatter_nd"]


@dataclass(frozen=True, slots=True)
class _Updates:
    """The numbers that are written: their bounds, and how many of them may come to one place."""

    low: float
    high: float
    count: int

    @property
    def reach(self) -> float:
        return max(abs(self.low), abs(self.high))


Combined = Callable[[Tensor, Tensor, _Updates], tuple[Tensor, Tensor]]


def _update(low: Tensor, high: Tensor, new: _Updates) -> tuple[Tensor, Tensor]:
    return low.clamp(max=new.low), high.clamp(min=new.high)


def _add(low: Tensor, high: Tensor, new: _Updates) -> tuple[Tensor, Tensor]:
    return low + new.count * min(new.low, 0.0), high + new.count * max(new.high, 0.0)


def _sub(low: Tensor, high: Tensor, new: _Updates) -> tuple[Tensor, Tensor]:
    return _add(low, high, _Updates(-new.high, -new.low, new.count))


def _mul(low: Tensor, high: Tensor, new: _Updates) -> tuple[Tensor, Tensor]:
    factor = torch.tensor(max(new.reach, 1.0), dtype=torch.float64) ** new.count
    reach = torch.maximum(low.abs(), high.abs())
    reach = torch.where(reach == 0, reach, reach * factor)
    return torch.where((low >= 0) & (new.low >= 0), 0 * reach.clamp(max=1.0), -reach), reach


def _div(low: Tensor, high: Tensor, new: _Updates) -> tuple[Tensor, Tensor]:
    if new.low <= 0 <= new.high:
        raise UnboundedError("an update by which is divided may be zero")
    least = min(abs(new.low), abs(new.high))
    return _mul(low, high, _Updates(-1 / least, 1 / least, new.count))


def _max(low: Tensor, high: Tensor, new: _Updates) -> tuple[Tensor, Tensor]:
    return low, high.clamp(min=new.high)


def _min(low: Tensor, high: Tensor, new: _Updates) -> tuple[Tensor, Tensor]:
    return low.clamp(max=new.low), high


_MODES: dict[str, Combined] = {
    "update": _update,
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "max": _max,
    "min": _min,
}
_CHOOSING = ("update", "max", "min")


def _combined(reading: Reading, data: Bound, updates: Bound, count: int, mode: str) -> Bound:
    nan, whole = data.nan or updates.nan, data.whole and updates.whole
    if mode not in _MODES:
        raise UnboundedError(f"there is no mode '{mode}'")
    if count == 0 or math.prod(updates.shape) == 0:
        return data.plain()
    if mode not in _CHOOSING and not (data.finite and updates.finite):
        raise UnboundedError("an operand may be Inf or NaN")
    low, high = _MODES[mode](data.low, data.high, _Updates(updates.least, updates.most, count))
    if mode not in _CHOOSING and reading.op.outputs[0].type.dtype.is_float:
        unit, least = (2.0**-11, 2.0**-24) if reading.machine.half else (2.0**-23, 2.0**-149)
        reach = torch.maximum(low.abs(), high.abs())
        error = reach * (math.expm1(min(count * unit, 700.0))) + count * least
        # Each rounding but the last; of a single update there is no other.
        low, high = (low - error, high + error) if count > 1 else (low, high)
    whole = whole and (mode != "div" or not reading.op.outputs[0].type.dtype.is_float)
    return Bound(data.shape, low, high, nan, whole)


def _inside(reading: Reading, indices: Bound, size: int) -> None:
    """An index outside is a doubt: what a device writes there is undefined."""
    if indices.most >= size or indices.least < -size:
        reading.doubt(f"an index may lie outside of the {size} elements")


def _most_often(places: Tensor | None, otherwise: int) -> int:
    """How often the place that is named most often is named, where places are known."""
    if places is None or not places.numel():
        return otherwise
    return int(torch.unique(places, dim=0, return_counts=True)[1].max())


def _known(indices: Bound, sizes: Tensor) -> Tensor | None:
    """Known places, counted from the start."""
    if indices.value is None:
        return None
    places = indices.value.long()
    return torch.where(places < 0, places + sizes, places)


def scatter(
    reading: Reading,
    data: Bound,
    indices: Bound,
    updates: Bound,
    axis: Bound | None = None,
    mode: str = "add",
    validate_indices: Bound | None = None,
) -> Bound:
    """Slices along an axis."""
    size = data.shape[0 if axis is None else int(parameter(axis, "axis"))]
    _inside(reading, indices, size)
    places = _known(indices, torch.tensor(size))
    count = _most_often(None if places is None else places.reshape(-1), math.prod(indices.shape))
    return _combined(reading, data, updates, count, mode)


def scatter_along(
    reading: Reading,
    data: Bound,
    indices: Bound,
    updates: Bound,
    axis: Bound | None = None,
    mode: str = "add",
    validate_indices: Bound | None = None,
) -> Bound:
    """Elements along an axis: of each line as many as there are indices in it."""
    dim = (0 if axis is None else int(parameter(axis, "axis"))) % len(data.shape)
    _inside(reading, indices, data.shape[dim])
    return _combined(reading, data, updates, indices.shape[dim], mode)


def scatter_nd(
    reading: Reading,
    data: Bound,
    indices: Bound,
    updates: Bound,
    mode: str = "add",
    validate_indices: Bound | None = None,
) -> Bound:
    """Slices at index tuples."""
    depth = indices.shape[-1]
    low, high = (t.expand(*t.shape[:-1], depth) for t in (indices.low, indices.high))
    for place in range(depth if math.prod(indices.shape) else 0):
        if float(high[..., place].max()) >= data.shape[place] or float(low[..., place].min()) < -data.shape[place]:
            reading.doubt(f"an index may lie outside of the {data.shape[place]} elements of axis {place}")
    places = _known(indices, torch.tensor(data.shape[:depth]))
    count = _most_often(None if places is None else places.reshape(-1, depth), math.prod(indices.shape[:-1]))
    return _combined(reading, data, updates, count, mode)
