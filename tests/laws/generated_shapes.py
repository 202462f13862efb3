"""Generated calls of ops that move, order or make elements."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from tests.laws.draws import (
    ALL_TYPES,
    FLOAT_TYPES,
    WIDE_TYPES,
    Array,
    Draw,
    Inputs,
    arrays,
    axes,
    axis,
    chosen,
    flags,
    i32,
    like,
    numbers,
    seeds,
    shapes,
    some,
)

Strategy = st.SearchStrategy[Inputs]

KINDS = ("whole", "ordinary", "special")


@st.composite
def tensors(draw: Draw, least: int = 1, most: int = 5, smallest: int = 0, dtypes: tuple[str, ...] = ALL_TYPES) -> Array:
    return draw(arrays(draw(shapes(least, most, smallest)), dtypes, KINDS))


@st.composite
def _reshape(draw: Draw) -> Inputs:
    """The factors of the sizes, grouped anew; one size may be left to be found, and one that stands may be 0."""
    x = draw(tensors(smallest=1))
    rest, shape = x.size, []
    for _ in range(draw(st.integers(0, 3))):
        size = draw(st.sampled_from([d for d in range(1, rest + 1) if rest % d == 0]))
        shape.append(size)
        rest //= size
    shape.append(rest)
    if draw(flags):
        shape[draw(st.integers(0, len(shape) - 1))] = -1
    if len(shape) == x.ndim and draw(flags):
        shape = [0 if a == b else a for a, b in zip(shape, x.shape, strict=True)]
    return {"x": x, "shape": i32(shape)}


@st.composite
def _reshape_like(draw: Draw) -> Inputs:
    first, second = draw(shapes(1, 2)), draw(shapes(1, 2))
    begin, end = draw(st.integers(0, len(first) - 1)), draw(st.integers(0, len(second) - 1))
    sizes = (*first[begin:], *second[: end + 1])
    x = draw(arrays((math.prod(sizes),), WIDE_TYPES, KINDS))
    return {
        "x": x,
        "ref_tensors": [draw(arrays(first)), draw(arrays(second))],
        "begins": [i32(begin), i32(0)],
        "ends": [i32(0), i32(end + 1)],
        "end_masks": [np.array(True), np.array(False)],
    }


@st.composite
def _transpose(draw: Draw) -> Inputs:
    x = draw(tensors())
    places = draw(st.permutations(range(x.ndim)))
    return {"x": x, "perm": i32([p - x.ndim if draw(flags) else p for p in places])}


@st.composite
def _expand_dims(draw: Draw) -> Inputs:
    x = draw(tensors(0, 3))
    count = draw(st.integers(1, 5 - x.ndim))
    rank = x.ndim + count
    places = draw(st.lists(st.integers(0, rank - 1), min_size=count, max_size=count, unique=True))
    return {"x": x, "axes": i32([p - rank if draw(flags) else p for p in places])}


@st.composite
def _squeeze(draw: Draw) -> Inputs:
    shape = draw(st.lists(st.sampled_from((1, 1, 2, 3)), min_size=1, max_size=5))
    x = draw(arrays(shape, ALL_TYPES, KINDS))
    ones = [d for d, n in enumerate(shape) if n == 1]
    if not ones or draw(flags):
        return {"x": x}
    places = draw(st.lists(st.sampled_from(ones), min_size=1, unique=True))
    return {"x": x, "axes": i32([p - x.ndim if draw(flags) else p for p in places])}


@st.composite
def _concat(draw: Draw) -> Inputs:
    x = draw(tensors())
    dim, interleave = draw(axis(x.ndim)), draw(flags)
    values = [x]
    for _ in range(draw(st.integers(0, 3))):
        shape = list(x.shape)
        shape[dim] = shape[dim] if interleave else draw(st.integers(0, 3))
        values.append(draw(like(x, shape, KINDS)))
    return {"values": values, "axis": dim, "interleave": interleave}


@st.composite
def _stack(draw: Draw) -> Inputs:
    x = draw(tensors(0, 4))
    values = [x, *(draw(like(x, x.shape, KINDS)) for _ in range(draw(st.integers(0, 3))))]
    return {"values": values, "axis": draw(axis(x.ndim + 1))}


@st.composite
def _split(draw: Draw) -> Inputs:
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    equal = draw(flags)
    sizes = [sizes[0]] * len(sizes) if equal else sizes
    shape = list(draw(shapes(1, 4)))
    dim = draw(axis(len(shape)))
    shape[dim] = sum(sizes)
    split = {"num_splits": len(sizes)} if equal else {"split_sizes": i32(sizes)}
    return {"x": draw(arrays(shape, ALL_TYPES, KINDS)), "axis": dim, **split}


@st.composite
def _tile(draw: Draw) -> Inputs:
    x = draw(tensors(1, 4))
    return {"x": x, "reps": i32(draw(st.lists(st.integers(1, 3), min_size=x.ndim, max_size=x.ndim)))}


@st.composite
def _reverse(draw: Draw) -> Inputs:
    x = draw(tensors())
    return {"x": x, **some(draw, {"axes": axes(x.ndim)})}


@st.composite
def _reverse_sequence(draw: Draw) -> Inputs:
    x = draw(tensors(2, 4, 1, WIDE_TYPES))
    batch, along = draw(st.permutations(range(x.ndim)))[:2]
    lengths = draw(chosen((x.shape[batch],), 0, x.shape[along] + 1))
    return {"x": x, "lengths": lengths, "seq_axis": along, "batch_axis": batch}


@st.composite
def _flatten2d(draw: Draw) -> Inputs:
    x = draw(tensors(smallest=1, dtypes=WIDE_TYPES))
    return {"x": x, **some(draw, {"axis": st.integers(-x.ndim, x.ndim)})}


@st.composite
def _sliding_windows(draw: Draw) -> Inputs:
    x = draw(tensors(1, 4, 1, WIDE_TYPES))
    dim = draw(axis(x.ndim))
    return {
        "x": x,
        "axis": dim,
        "size": draw(st.integers(1, x.shape[dim])),
        **some(draw, {"stride": st.integers(1, 3)}),
    }


@st.composite
def _blocks(draw: Draw, name: str, up: bool, dtype: type[np.generic] = np.int32) -> Inputs:
    n, c, h, w = draw(shapes(4, 4, largest=3))
    block = draw(st.integers(2, 3))
    shape = (n, c * block**2, h, w) if up else (n, c, h * block, w * block)
    return {"x": draw(arrays(shape, FLOAT_TYPES, KINDS)), name: dtype(block)}


@st.composite
def _space_to_batch(draw: Draw) -> Inputs:
    n, c, h, w = draw(shapes(4, 4, largest=3))
    blocks = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pads = draw(st.tuples(*(st.integers(0, 2),) * 2))
    before = [min(p, size * block - 1) for p, size, block in zip(pads, (h, w), blocks, strict=True)]
    sizes = [size * block - b for size, block, b in zip((h, w), blocks, before, strict=True)]
    x = draw(arrays((n, c, *sizes), FLOAT_TYPES, KINDS))
    return {"x": x, "block_shape": i32(blocks), "paddings": i32([[b, 0] for b in before])}


@st.composite
def _batch_to_space(draw: Draw) -> Inputs:
    n, c, h, w = draw(shapes(4, 4, largest=3))
    blocks = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    crops = [
        [draw(st.integers(0, (size * b - 1) // 2)) for _ in range(2)] for size, b in zip((h, w), blocks, strict=True)
    ]
    x = draw(arrays((n * math.prod(blocks), c, h, w), FLOAT_TYPES, KINDS))
    return {"x": x, "block_shape": i32(blocks), "crops": i32(crops)}


# ---------------------------------------------------------------------------------------------------------------------
# Made and chosen values


@st.composite
def _fill(draw: Draw) -> Inputs:
    values = numbers(-9, 9) | st.integers(-9, 9).map(np.int32) | flags.map(np.bool_)
    return {"shape": i32(draw(shapes(1, 5, 0))), **some(draw, {"value": values})}


@st.composite
def _fill_like(draw: Draw) -> Inputs:
    return {"ref_tensor": draw(tensors()), **some(draw, {"value": numbers(-9, 9) | st.integers(-9, 9).map(np.int32)})}


@st.composite
def _range_1d(draw: Draw) -> Inputs:
    whole = draw(flags)
    kind = np.int32 if whole else np.float32
    step = draw(st.sampled_from((1, 2, 5) if whole else (0.25, 0.5, 1.5)))
    start, count = draw(st.integers(-9, 9)), draw(st.integers(1, 9))
    sign = draw(st.sampled_from((1, -1)))
    # An end between two steps, or on one, which does not count.
    end = start + sign * (step * count - (draw(st.integers(0, step - 1)) if whole else 0))
    return {"end": kind(end), "start": kind(start), "step": kind(sign * step)}


@st.composite
def _pad(draw: Draw) -> Inputs:
    mode = draw(st.sampled_from(("constant", "reflect", "replicate")))
    x = draw(tensors(1, 5, 1, FLOAT_TYPES if mode != "constant" else WIDE_TYPES))
    count = draw(st.integers(1, x.ndim if mode == "constant" else min(2, x.ndim)))
    amounts = []
    for size in x.shape[x.ndim - count :]:
        amounts += [draw(st.integers(0, size - 1 if mode == "reflect" else 3)) for _ in range(2)]
    value = {"constant_val": x.dtype.type(draw(st.integers(-3, 3)))} if mode == "constant" else {}
    return {"x": x, "pad": i32(amounts), "mode": mode, **value}


@st.composite
def _band_part(draw: Draw) -> Inputs:
    x = draw(arrays(draw(shapes(2, 5)), WIDE_TYPES, ("whole", "ordinary")))
    return {"x": x, **some(draw, {"lower": st.integers(-1, 4), "upper": st.integers(-1, 4)})}


@st.composite
def _one_hot(draw: Draw) -> Inputs:
    indices = draw(chosen(draw(shapes(1, 4)), 0, 5))
    given = {"axis": axis(indices.ndim + 1)}
    values = {"on_value": draw(numbers(-9, 9)), "off_value": draw(numbers(-9, 9))} if draw(flags) else {}
    return {"indices": indices, "one_hot_vector_size": draw(st.integers(1, 6)), **some(draw, given), **values}


@st.composite
def _order(draw: Draw) -> Inputs:
    """All values differ: which of equal ones comes first is open."""
    shape = draw(shapes(1, 4))
    x = np.random.default_rng(draw(seeds)).permutation(math.prod(shape)).reshape(shape) - 5
    return {
        "x": x.astype(draw(st.sampled_from(WIDE_TYPES))),
        **some(draw, {"axis": axis(len(shape)), "ascending": flags}),
    }


@st.composite
def _topk(draw: Draw) -> Inputs:
    inputs = draw(_order())
    size = inputs["x"].shape[inputs.get("axis", -1)]
    return {**inputs, "k": draw(st.integers(1, size)), **some(draw, {"return_indices": flags})}


INPUTS: dict[str, Strategy] = {
    "reshape": _reshape(),
    "reshape_like": _reshape_like(),
    "transpose": _transpose(),
    "expand_dims": _expand_dims(),
    "squeeze": _squeeze(),
    "concat": _concat(),
    "stack": _stack(),
    "split": _split(),
    "tile": _tile(),
    "reverse": _reverse(),
    "reverse_sequence": _reverse_sequence(),
    "flatten2d": _flatten2d(),
    "sliding_windows": _sliding_windows(),
    "depth_to_space": _blocks("block_size", True),
    "space_to_depth": _blocks("block_size", False),
    "pixel_shuffle": _blocks("upscale_factor", True),
    "pixel_unshuffle": _blocks("downscale_factor", False, np.uint32),
    "space_to_batch": _space_to_batch(),
    "batch_to_space": _batch_to_space(),
    "const": st.fixed_dictionaries({"val": tensors(0, 5)}),
    "shape": st.fixed_dictionaries({"x": tensors(1, 5)}),
    "non_zero": st.fixed_dictionaries({"x": tensors(1, 4, dtypes=ALL_TYPES)}),
    "fill": _fill(),
    "fill_like": _fill_like(),
    "range_1d": _range_1d(),
    "pad": _pad(),
    "band_part": _band_part(),
    "one_hot": _one_hot(),
    "argsort": _order(),
    "topk": _topk(),
}
