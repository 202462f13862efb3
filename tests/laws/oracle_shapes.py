"""Movement of data, element by element: each oracle writes its op as NumPy indexing or as a loop over places."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray


def _reshape(x: Array, shape: Array) -> Array:
    aligned = [1] * max(0, len(shape) - x.ndim) + list(x.shape)
    aligned = aligned[len(aligned) - len(shape) :]
    return np.reshape(x, [a if s == 0 else int(s) for a, s in zip(aligned, shape, strict=True)])


def _reshape_like(
    x: Array, ref_tensors: Sequence[Array], begins: Sequence[Any], ends: Sequence[Any], end_masks: Sequence[Any]
) -> Array:
    shape: list[int] = []
    for ref, begin, end, mask in zip(ref_tensors, begins, ends, end_masks, strict=True):
        shape.extend(ref.shape[int(begin) :] if mask else ref.shape[int(begin) : int(end)])
    return np.reshape(x, shape)


def _expand_dims(x: Array, axes: Array) -> Array:
    return np.expand_dims(x, tuple(int(a) for a in axes))


def _squeeze(x: Array, axes: Array | None = None) -> Array:
    axes = np.arange(x.ndim) if axes is None else axes
    gone = {int(a) % x.ndim for a in axes if x.shape[int(a)] == 1}
    return x.reshape([s for d, s in enumerate(x.shape) if d not in gone])


def _concat(values: Sequence[Array], axis: int, interleave: bool = False) -> Array:
    if not interleave or not values[0].shape[axis]:
        return np.concatenate(values, axis)
    rows = [np.moveaxis(v, axis, 0) for v in values]
    return np.moveaxis(np.stack([row for group in zip(*rows, strict=True) for row in group]), 0, axis)


def _split(x: Array, axis: int, num_splits: int | None = None, split_sizes: Array | None = None) -> list[Array]:
    parts = int(num_splits or 0) if split_sizes is None else np.cumsum(split_sizes)[:-1]
    return np.split(x, parts, axis)


def _reverse_sequence(x: Array, lengths: Array, seq_axis: int = 0, batch_axis: int = 0) -> Array:
    result = x.copy()
    source, target = (np.moveaxis(a, (batch_axis, seq_axis), (0, 1)) for a in (x, result))
    for b, length in enumerate(lengths):
        for i in range(length):
            target[b, i] = source[b, length - 1 - i]
    return result


def _flatten2d(x: Array, axis: int = 1) -> Array:
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def _sliding_windows(x: Array, axis: int, size: int, stride: int = 1) -> Array:
    rows = np.moveaxis(x, axis, 0)
    windows = np.stack([rows[i : i + size] for i in range(0, len(rows) - size + 1, stride)])
    axis %= x.ndim
    return np.moveaxis(windows, (0, 1), (axis, axis + 1))


def _blocked(channel_of: Callable[[int, int, int, int, int], int], *, up: bool) -> Callable[..., Array]:
    """Channels against blocks of pixels; ``channel_of(c, i, j, channels, block)`` names the deep channel of a pixel."""

    def oracle(x: Array, **parameter: Any) -> Array:
        b = int(next(iter(parameter.values())))
        n, c, h, w = x.shape
        shape = (n, c // b**2, h * b, w * b) if up else (n, c * b**2, h // b, w // b)
        result = np.empty(shape, x.dtype)
        wide, deep = (result, x) if up else (x, result)
        channels = wide.shape[1]
        for ch, y, z in itertools.product(range(channels), range(wide.shape[2]), range(wide.shape[3])):
            k = channel_of(ch, y % b, z % b, channels, b)
            if up:
                wide[:, ch, y, z] = deep[:, k, y // b, z // b]
            else:
                deep[:, k, y // b, z // b] = wide[:, ch, y, z]
        return result

    return oracle


def _depth_first(c: int, i: int, j: int, channels: int, b: int) -> int:
    return (i * b + j) * channels + c


def _channel_first(c: int, i: int, j: int, channels: int, b: int) -> int:
    return c * b * b + i * b + j


def _space_to_batch(x: Array, block_shape: Array, paddings: Array) -> Array:
    padded = np.pad(x, [(0, 0), (0, 0), *paddings.tolist()])
    a, b = block_shape
    return np.concatenate([padded[:, :, i::a, j::b] for i in range(a) for j in range(b)])


def _batch_to_space(x: Array, block_shape: Array, crops: Array) -> Array:
    a, b = (int(s) for s in block_shape)
    n, c, h, w = x.shape
    image = np.empty((n // (a * b), c, h * a, w * b), x.dtype)
    for k, part in enumerate(np.split(x, a * b)):
        image[:, :, k // b :: a, k % b :: b] = part
    (top, bottom), (left, right) = crops.tolist()
    return image[:, :, top : h * a - bottom, left : w * b - right]


def _pad(x: Array, pad: Array, mode: str = "constant", constant_val: float = 0.0) -> Array:
    amounts = [(0, 0)] * (x.ndim - len(pad) // 2) + [(int(a), int(b)) for a, b in pad.reshape(-1, 2)]
    if mode == "constant":
        return np.pad(x, amounts, constant_values=constant_val)
    return np.pad(x, amounts, {"reflect": "reflect", "replicate": "edge"}[mode])


def _band_part(x: Array, lower: int = -1, upper: int = -1) -> Array:
    result = x.copy()
    for m, n in itertools.product(*map(range, x.shape[-2:])):
        if (0 <= lower < m - n) or (0 <= upper < n - m):
            result[..., m, n] = 0
    return result


# ---------------------------------------------------------------------------------------------------------------------
# Gather and scatter


def _gather(x: Array, indices: Any, axis: int = 0, batch_dims: int = 0, validate_indices: bool = False) -> Array:
    if batch_dims == 0:
        return np.take(x, indices, axis)
    axis %= x.ndim
    return np.stack([_gather(a, i, axis - 1, batch_dims - 1) for a, i in zip(x, indices, strict=True)])


def _gather_along_axis(x: Array, indices: Array, axis: int = 0, validate_indices: bool = False) -> Array:
    return np.take_along_axis(x, indices, axis)


def _gather_nd(x: Array, indices: Array, batch_dims: int = 0, validate_indices: bool = False) -> Array:
    if batch_dims:
        return np.stack([_gather_nd(a, i, batch_dims - 1) for a, i in zip(x, indices, strict=True)])
    return x[tuple(np.moveaxis(indices, -1, 0))]


def _merge(old: Any, new: Any, mode: str) -> Any:
    operations = {
        "add": np.add,
        "sub": np.subtract,
        "mul": np.multiply,
        "div": np.divide,
        "max": np.maximum,
        "min": np.minimum,
    }
    return new if mode == "update" else operations[mode](old, new)


def _scatter(
    data: Array, indices: Array, updates: Array, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Array:
    result = data.astype(np.float64)
    rows, new = np.moveaxis(result, axis, 0), np.moveaxis(updates, axis, 0)
    for k, place in enumerate(indices):
        rows[place] = _merge(rows[place], new[k], mode)
    return result.astype(data.dtype)


def _scatter_along_axis(
    data: Array, indices: Array, updates: Array, axis: int = 0, mode: str = "add", validate_indices: bool = False
) -> Array:
    result = data.astype(np.float64)
    for place in np.ndindex(*indices.shape):
        at = list(place)
        at[axis] = indices[place]
        result[tuple(at)] = _merge(result[tuple(at)], updates[place], mode)
    return result.astype(data.dtype)


def _scatter_nd(
    data: Array, indices: Array, updates: Array, mode: str = "add", validate_indices: bool = False
) -> Array:
    result = data.astype(np.float64)
    for place in np.ndindex(*indices.shape[:-1]):
        at = tuple(indices[place])
        result[at] = _merge(result[at], updates[place], mode)
    return result.astype(data.dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Slices and order


def _slices(
    rank: int,
    begin: Array,
    end: Array,
    stride: Array | None = None,
    begin_mask: Array | None = None,
    end_mask: Array | None = None,
    squeeze_mask: Array | None = None,
) -> tuple[slice | int, ...]:
    none = [False] * rank
    steps = [1] * rank if stride is None else stride.tolist()
    masks = (none if m is None else m for m in (begin_mask, end_mask, squeeze_mask))
    places = zip(begin.tolist(), end.tolist(), steps, *masks, strict=True)
    return tuple(
        (0 if bm else b) if sm else slice(None if bm else b, None if em else e, s) for b, e, s, bm, em, sm in places
    )


def _slice_by_index(x: Array, begin: Array, end: Array, **rest: Array) -> Array:
    return np.asarray(x[_slices(x.ndim, begin, end, **rest)])


def _slice_update(x: Array, update: Array, begin: Array, end: Array, **rest: Array) -> Array:
    result = x.copy()
    result[_slices(x.ndim, begin, end, **rest)] = update
    return result


def _slice_by_size(x: Array, begin: Array, size: Array) -> Array:
    starts = [b % n for b, n in zip(begin.tolist(), x.shape, strict=True)]
    ends = [n if s == -1 else b + s for b, s, n in zip(starts, size.tolist(), x.shape, strict=True)]
    return x[tuple(slice(b, e) for b, e in zip(starts, ends, strict=True))]


def _one_hot(indices: Array, one_hot_vector_size: int, axis: int = -1, on_value: Any = 1, off_value: Any = 0) -> Array:
    result = np.full((*indices.shape, one_hot_vector_size), off_value)
    for place in np.ndindex(*indices.shape):
        if 0 <= indices[place] < one_hot_vector_size:
            result[(*place, indices[place])] = on_value
    return np.moveaxis(result, -1, axis)


def _argsort(x: Array, axis: int = -1, ascending: bool = False) -> Array:
    return np.argsort(x if ascending else -x.astype(np.float64), axis=axis, kind="stable")


def _topk(x: Array, k: int = 1, axis: int = -1, ascending: bool = False, **rest: Any) -> list[Array]:
    places = np.take(_argsort(x, axis, ascending), range(k), axis)
    values = np.take(np.sort(x, axis) if ascending else np.flip(np.sort(x, axis), axis), range(k), axis)
    return [values, places][: 1 + bool(rest.get("return_indices", True))]


ORACLES: dict[str, Callable[..., Any]] = {
    "reshape": _reshape,
    "reshape_like": _reshape_like,
    "transpose": lambda x, perm: np.transpose(x, perm),
    "expand_dims": _expand_dims,
    "squeeze": _squeeze,
    "concat": _concat,
    "split": _split,
    "stack": lambda values, axis: np.stack(values, axis),
    "tile": lambda x, reps: np.tile(x, reps),
    "reverse": lambda x, axes=None: np.flip(x, None if axes is None else tuple(axes)),
    "reverse_sequence": _reverse_sequence,
    "flatten2d": _flatten2d,
    "sliding_windows": _sliding_windows,
    "depth_to_space": _blocked(_depth_first, up=True),
    "space_to_depth": _blocked(_depth_first, up=False),
    "pixel_shuffle": _blocked(_channel_first, up=True),
    "pixel_unshuffle": _blocked(_channel_first, up=False),
    "space_to_batch": _space_to_batch,
    "batch_to_space": _batch_to_space,
    "fill": lambda shape, value=0.0: np.full(shape, value),
    "fill_like": lambda ref_tensor, value=0.0: np.full(ref_tensor.shape, value),
    "shape": lambda x: np.array(x.shape),
    "range_1d": lambda end, start, step: np.arange(start, end, step),
    "pad": _pad,
    "band_part": _band_part,
    "gather": _gather,
    "gather_along_axis": _gather_along_axis,
    "gather_nd": _gather_nd,
    "scatter": _scatter,
    "scatter_along_axis": _scatter_along_axis,
    "scatter_nd": _scatter_nd,
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "slice_update": _slice_update,
    "one_hot": _one_hot,
    "non_zero": lambda x: np.argwhere(x),
    "argsort": _argsort,
    "topk": _topk,
}

DISPUTED: dict[str, str] = {
    "concat": "folds as if interleave were False, whatever it is",
    "scatter_along_axis": "folds as if the mode were 'update', whatever it is",
}
