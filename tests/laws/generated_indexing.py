"""Generated calls of ops that read or write at computed places: gather, scatter, slices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.laws.draws import WIDE_TYPES, Array, Draw, Inputs, arrays, axis, chosen, flags, i32, like, seeds, shapes
from tests.laws.generated_shapes import KINDS, tensors

Strategy = st.SearchStrategy[Inputs]


@st.composite
def _gather(draw: Draw) -> Inputs:
    x = draw(tensors(1, 4, 1))
    shared = draw(st.integers(0, x.ndim - 1))
    dim = draw(st.integers(shared, x.ndim - 1))
    picked = draw(shapes(0 if shared else 1, 2, 0))
    indices = draw(chosen((*x.shape[:shared], *picked), -x.shape[dim], x.shape[dim]))
    return {"x": x, "indices": indices, "axis": dim - (x.ndim if draw(flags) else 0), "batch_dims": shared}


@st.composite
def _gather_along_axis(draw: Draw) -> Inputs:
    x = draw(tensors(1, 4, 1))
    dim = draw(axis(x.ndim))
    shape = list(x.shape)
    shape[dim] = draw(st.integers(1, 5))
    return {"x": x, "indices": draw(chosen(shape, -x.shape[dim], x.shape[dim])), "axis": dim}


def _places(draw: Draw, sizes: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    columns = [draw(chosen(shape, 0, size)) for size in sizes]
    return np.stack(columns, -1).astype(np.int32)


@st.composite
def _gather_nd(draw: Draw) -> Inputs:
    x = draw(tensors(1, 4, 1))
    shared = draw(st.integers(0, x.ndim - 1))
    depth = draw(st.integers(1, x.ndim - shared))
    shape = (*x.shape[:shared], *draw(shapes(1, 2)))
    return {"x": x, "indices": _places(draw, x.shape[shared : shared + depth], shape), "batch_dims": shared}


MODES = ("update", "add", "sub", "mul", "div", "max", "min")


@st.composite
def _data(draw: Draw) -> tuple[Array, str]:
    """What is written into, and how. Divisors are no zeros, and integers are not divided."""
    x = draw(arrays(draw(shapes(1, 4)), WIDE_TYPES, ("whole", "ordinary")))
    return x, draw(st.sampled_from([m for m in MODES if m != "div" or x.dtype.kind == "f"]))


def _updates(draw: Draw, data: Array, shape: tuple[int, ...], mode: str) -> Array:
    found = draw(like(data, shape))
    return np.where(found == 0, data.dtype.type(2), found) if mode == "div" else found


@st.composite
def _scatter(draw: Draw) -> Inputs:
    data, mode = draw(_data())
    dim = draw(axis(data.ndim))
    count = draw(st.integers(1, 4))
    # Of several writes to one place with "update" the order counts, and Core ML's is not known.
    once = mode == "update"
    size = data.shape[dim]
    indices = np.random.default_rng(draw(seeds)).choice(size, min(count, size) if once else count, replace=not once)
    shape = list(data.shape)
    shape[dim] = len(indices)
    updates = _updates(draw, data, tuple(shape), mode)
    return {"data": data, "indices": i32(indices), "updates": updates, "axis": dim, "mode": mode}


@st.composite
def _scatter_along_axis(draw: Draw) -> Inputs:
    data, mode = draw(_data())
    dim = draw(axis(data.ndim))
    shape = list(data.shape)
    shape[dim] = draw(st.integers(1, data.shape[dim]))
    rng = np.random.default_rng(draw(seeds))
    if mode == "update":
        rows = np.argsort(rng.random(data.shape), axis=dim)
        indices = np.take(rows, range(shape[dim]), dim)
    else:
        indices = rng.integers(0, data.shape[dim], shape)
    updates = _updates(draw, data, tuple(shape), mode)
    return {"data": data, "indices": i32(indices), "updates": updates, "axis": dim, "mode": mode}


@st.composite
def _scatter_nd(draw: Draw) -> Inputs:
    data, mode = draw(_data())
    depth = draw(st.integers(1, data.ndim))
    sizes = data.shape[:depth]
    if mode == "update":
        count = draw(st.integers(1, math.prod(sizes)))
        flat = np.random.default_rng(draw(seeds)).choice(math.prod(sizes), count, replace=False)
        indices = np.stack(np.unravel_index(flat, sizes), -1).astype(np.int32)
    else:
        indices = _places(draw, sizes, draw(shapes(1, 2)))
    updates = _updates(draw, data, (*indices.shape[:-1], *data.shape[depth:]), mode)
    return {"data": data, "indices": indices, "updates": updates, "mode": mode}


@st.composite
def _cuts(draw: Draw, shape: tuple[int, ...]) -> Inputs:
    """Slices that are not empty, since MIL knows no empty tensors, in any direction and by any masks."""
    found: dict[str, list[Any]] = {k: [] for k in ("begin", "end", "stride", "begin_mask", "end_mask", "squeeze_mask")}
    for size in shape:
        stride = draw(st.sampled_from((1, 2, 3, -1, -2)))
        single = draw(st.integers(0, 4)) == 0
        first, last = sorted(draw(st.tuples(*(st.integers(0, size - 1),) * 2)))
        begin, end = (first, last + 1) if stride > 0 or single else (last, first - 1 if first else -size - 1)
        negative = draw(flags)
        begin = begin - size if negative else begin
        end = end - size if draw(flags) and 0 < end < size else end
        free = draw(st.tuples(flags, flags))
        values = (begin, end, 1 if single else stride, free[0] and not single, free[1] and not single, single)
        for name, value in zip(found, values, strict=True):
            found[name].append(value)
    return {k: np.array(v, np.bool_ if k.endswith("mask") else np.int32) for k, v in found.items()}


@st.composite
def _slice_by_index(draw: Draw) -> Inputs:
    x = draw(tensors(1, 4, 1))
    return {"x": x, **draw(_cuts(x.shape))}


@st.composite
def _slice_update(draw: Draw) -> Inputs:
    inputs = draw(_slice_by_index())
    x = inputs.pop("x")
    cut: list[Any] = []
    for b, e, s, bm, em, single in zip(*(inputs[k].tolist() for k in inputs), strict=True):
        cut.append(b if single else slice(None if bm else b, None if em else e, s))
    return {"x": x, "update": draw(like(x, x[tuple(cut)].shape, KINDS)), **inputs}


@st.composite
def _slice_by_size(draw: Draw) -> Inputs:
    x = draw(tensors(1, 4, 1))
    begin = [draw(st.integers(0, n - 1)) for n in x.shape]
    size = [draw(st.integers(1, n - b)) if draw(flags) else -1 for n, b in zip(x.shape, begin, strict=True)]
    return {"x": x, "begin": i32(begin), "size": i32(size)}


INPUTS: dict[str, Strategy] = {
    "gather": _gather(),
    "gather_along_axis": _gather_along_axis(),
    "gather_nd": _gather_nd(),
    "scatter": _scatter(),
    "scatter_along_axis": _scatter_along_axis(),
    "scatter_nd": _scatter_nd(),
    "slice_by_index": _slice_by_index(),
    "slice_update": _slice_update(),
    "slice_by_size": _slice_by_size(),
}
