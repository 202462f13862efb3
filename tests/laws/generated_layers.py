"""Generated calls of contractions, pooling, attention, recurrent layers, quantisation and compressed weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.laws.draws import (
    FLOAT_TYPES,
    WIDE_TYPES,
    Array,
    Draw,
    Inputs,
    arrays,
    axis,
    chosen,
    flags,
    i32,
    like,
    numbers,
    shapes,
    some,
    windows,
)

Strategy = st.SearchStrategy[Inputs]

PADS = ("valid", "same", "same_lower", "custom")


@st.composite
def _matmul(draw: Draw) -> Inputs:
    dtypes = WIDE_TYPES
    batch = draw(st.lists(st.integers(1, 3), max_size=2))
    m, k, n = draw(st.tuples(*(st.integers(1, 5),) * 3))
    lone = [1 if draw(flags) else b for b in batch][draw(st.integers(0, len(batch))) :]
    kinds = ("ordinary", "whole")
    transpose_x, transpose_y = draw(flags), draw(flags)
    x = draw(arrays((*lone, *((k, m) if transpose_x else (m, k))), dtypes, kinds))
    y = draw(like(x, (*batch, *((n, k) if transpose_y else (k, n))), kinds))
    return {"x": x, "y": y, "transpose_x": transpose_x, "transpose_y": transpose_y}


@st.composite
def _linear(draw: Draw) -> Inputs:
    k, n = draw(st.tuples(st.integers(1, 6), st.integers(1, 4)))
    x = draw(arrays((*draw(shapes(0, 3)), k), WIDE_TYPES, ("ordinary", "whole", "broken")))
    return {"x": x, "weight": draw(like(x, (n, k))), **some(draw, {"bias": like(x, (n,))})}


@st.composite
def _einsum(draw: Draw) -> Inputs:
    n, c, h, w, u = draw(shapes(5, 5))
    dtype = (draw(st.sampled_from(FLOAT_TYPES)),)
    if draw(flags):
        x, y, equation = (c, h, w), (w, h, u), "chw,whr->chr"
    else:
        x, y, equation = (n, c, h, w), (n, w, h, u), "nchw,nwhu->nchu"
    return {"values": [draw(arrays(x, dtype)), draw(arrays(y, dtype))], "equation": equation}


def _padding(draw: Draw, w: dict[str, Any], kinds: tuple[str, ...]) -> Inputs:
    """Padding of a kind; for one that adds nothing the input is made large enough by the caller."""
    pad_type = draw(st.sampled_from(kinds))
    pad = [amount for p in w["pad"] for amount in (p, draw(st.integers(0, p)) if p else 0)]
    return {"pad_type": pad_type, **({"pad": i32(pad)} if pad_type == "custom" else {})}


def _sizes(w: dict[str, Any]) -> list[int]:
    """Sizes in which a window fits even without padding."""
    reach = [(k - 1) * d + 1 for k, d in zip(w["kernel"], w["dilations"], strict=True)]
    return [max(n, r) for n, r in zip(w["shape"], reach, strict=True)]


@st.composite
def _conv(draw: Draw) -> Inputs:
    w, groups = draw(windows()), draw(st.integers(1, 3))
    inner, outer = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    kinds = ("ordinary", "whole", "broken")
    x = draw(arrays((draw(st.integers(1, 2)), groups * inner, *_sizes(w)), FLOAT_TYPES, kinds))
    weight = draw(like(x, (groups * outer, inner, *w["kernel"])))
    given = {"strides": st.just(i32(w["strides"])), "bias": like(x, (groups * outer,))}
    places = {"groups": groups, "dilations": i32(w["dilations"]), **_padding(draw, w, PADS)}
    return {"x": x, "weight": weight, **places, **some(draw, given)}


@st.composite
def _conv_transpose(draw: Draw) -> Inputs:
    w, groups = draw(windows(largest_pad=1)), draw(st.integers(1, 2))
    inner, outer = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    sizes = [n + 2 for n in _sizes(w)]  # more than the padding cuts off
    x = draw(arrays((draw(st.integers(1, 2)), groups * inner, *sizes), FLOAT_TYPES))
    weight = draw(like(x, (groups * inner, outer, *w["kernel"])))
    given = {"bias": like(x, (groups * outer,))}
    places = {"strides": i32(w["strides"]), "dilations": i32(w["dilations"]), "groups": groups}
    return {"x": x, "weight": weight, **places, **_padding(draw, w, ("valid", "same", "custom")), **some(draw, given)}


@st.composite
def _conv_quantized(draw: Draw) -> Inputs:
    w = draw(windows((2, 2)))
    x = draw(arrays((1, 2, *_sizes({**w, "dilations": [1, 1]}))))
    weight = draw(chosen((3, 2, *w["kernel"]), 0, 256, "uint8"))
    scale = (arrays((3,)), arrays((3,)))
    scale = scale if draw(flags) else (numbers(0.01, 2), numbers(-2, 2))
    factors = dict(zip(("quant_scale", "quant_bias"), (draw(s) for s in scale), strict=True))
    given = {"bias": chosen((3,), 0, 256, "uint8"), "strides": st.just(i32(w["strides"]))}
    pad = {"pad_type": draw(st.sampled_from(("valid", "same")))}
    return {"x": x, "weight": weight, "quantization_type": "linear", **factors, **pad, **some(draw, given)}


@st.composite
def _pool(draw: Draw, ranks: tuple[int, int], average: bool, kinds: tuple[str, ...]) -> Inputs:
    w = draw(windows(ranks))
    # PyTorch and MIL alike want no padding beyond the half of a window.
    w["pad"] = [min(p, k // 2) for p, k in zip(w["pad"], w["kernel"], strict=True)]
    sizes = [max(n, k) for n, k in zip(w["shape"], w["kernel"], strict=True)]
    x = draw(arrays((*draw(shapes(2, 2, largest=3)), *sizes), FLOAT_TYPES, kinds))
    padding = _padding(draw, w, PADS)
    ceil = padding["pad_type"] in ("valid", "custom") and len(sizes) < 3
    # A last window wholly beyond the input is the subject of a note; its strides are longer than the kernel.
    ceil = ceil and all(s <= k for s, k in zip(w["strides"], w["kernel"], strict=True))
    given = {"ceil_mode": flags} if ceil else {}
    given |= {"exclude_padding_from_average": flags} if average else {}
    return {"x": x, "kernel_sizes": i32(w["kernel"]), "strides": i32(w["strides"]), **padding, **some(draw, given)}


@st.composite
def _attention(draw: Draw) -> Inputs:
    batch = draw(shapes(1, 2, largest=3))
    rows, columns, depth, width = draw(st.tuples(*(st.integers(1, 5),) * 4))
    query = draw(arrays((*batch, rows, depth), FLOAT_TYPES))
    tensors = {"query": query, "key": draw(like(query, (*batch, columns, depth)))}
    tensors["value"] = draw(like(query, (*batch, columns, width)))
    if draw(flags):
        return tensors
    shape = (*(1 if draw(flags) else b for b in batch), rows, columns)
    mask = draw(arrays(shape, ("bool",)))
    mask[..., 0] = True  # no row is masked as a whole
    if draw(flags):
        return {**tensors, "attn_mask": mask}
    return {**tensors, "attn_mask": np.where(mask, query.dtype.type(0), query.dtype.type(-3e4))}


# ---------------------------------------------------------------------------------------------------------------------
# Recurrent layers

GATES = ("sigmoid", "hard_sigmoid", "tanh")
CELLS = ("tanh", "relu", "linear", "scaled_tanh", "sigmoid")


@st.composite
def _layer(draw: Draw, gates: int, both: bool = False) -> tuple[Inputs, int, int]:
    """The tensors that all kinds of layers have, the size of the input and the hidden size."""
    steps, batch, size, hidden = draw(st.tuples(*(st.integers(1, 4),) * 4))
    x = draw(arrays((steps, batch, size), FLOAT_TYPES))
    tensors = {"x": x, "initial_h": draw(like(x, (batch, hidden * (1 + both)), ("ordinary",)))}
    weights = {"weight_ih": (gates * hidden, size), "weight_hh": (gates * hidden, hidden)}
    tensors |= {name: draw(like(x, shape, ("ordinary",))) for name, shape in weights.items()}
    return tensors, size, hidden


@st.composite
def _lstm(draw: Draw) -> Inputs:
    both = draw(flags)
    tensors, size, hidden = draw(_layer(4, both))
    x = tensors["x"]
    tensors["initial_c"] = draw(like(x, tensors["initial_h"].shape))
    optional = {"bias": like(x, (4 * hidden,)), "peephole": like(x, (3 * hidden,))}
    given = some(draw, optional)
    if both:
        weights = {"weight_ih_back": (4 * hidden, size), "weight_hh_back": (4 * hidden, hidden)}
        given |= {name: draw(like(x, shape)) for name, shape in weights.items()}
        given |= {f"{name}_back": draw(optional[name]) for name in optional if name in given}
    names = {"recurrent_activation": GATES, "cell_activation": CELLS, "activation": CELLS}
    given |= some(draw, {name: st.sampled_from(choice) for name, choice in names.items()})
    given |= some(draw, {"clip": numbers(0.25, 2, x.dtype)})
    direction = "bidirectional" if both else draw(st.sampled_from(("forward", "reverse")))
    return {**tensors, **given, "direction": direction, "output_sequence": draw(flags)}


@st.composite
def _gru(draw: Draw) -> Inputs:
    tensors, _, hidden = draw(_layer(3))
    x = tensors["x"]
    given = some(draw, {"bias": like(x, (3 * hidden,)), "input_bias": like(x, (3 * hidden,)), "reset_after": flags})
    names = {"recurrent_activation": st.sampled_from(GATES), "activation": st.sampled_from(CELLS)}
    order = {"direction": st.sampled_from(("forward", "reverse")), "output_sequence": flags}
    return {**tensors, **given, **some(draw, names), **some(draw, order)}


@st.composite
def _rnn(draw: Draw) -> Inputs:
    tensors, _, hidden = draw(_layer(1))
    given = {"bias": like(tensors["x"], (hidden,)), "activation": st.sampled_from(CELLS), "output_sequence": flags}
    return {**tensors, **some(draw, given), **some(draw, {"direction": st.sampled_from(("forward", "reverse"))})}


# ---------------------------------------------------------------------------------------------------------------------
# Quantisation and compressed weights


def _bytes(draw: Draw, shape: tuple[int, ...], dtype: str) -> Array:
    limits = np.iinfo(dtype)
    return draw(chosen(shape, limits.min, limits.max + 1, dtype))


def _scales(draw: Draw, shape: tuple[int, ...], dtype: str = "float32") -> Array:
    found = np.abs(draw(arrays(shape, (dtype,), ("ordinary",))))
    return np.maximum(found, found.dtype.type(0.0625))


@st.composite
def _affine(draw: Draw, names: tuple[str, str], always: bool = False) -> Inputs:
    """Integers, their zero points and scales: one for all, or one for each place along an axis."""
    dtype = draw(st.sampled_from(("int8", "uint8")))
    data = _bytes(draw, draw(shapes(1, 4)), dtype)
    dim = draw(axis(data.ndim))
    size = () if draw(flags) else (data.shape[dim],)
    given = {names[0]: data, names[1]: _scales(draw, size)[()]}
    if always or draw(flags):
        given["zero_point"] = _bytes(draw, size, dtype)[()]
    return {**given, **({"axis": dim} if size or always else {})}


@st.composite
def _quantize(draw: Draw) -> Inputs:
    inputs = draw(_affine(("input", "scale")))
    dtype = inputs["input"].dtype.name
    x = draw(arrays(inputs["input"].shape, ("float32",), ("ordinary", "whole")))
    return {**inputs, "input": x * np.float32(8), "output_dtype": dtype}


@st.composite
def _blockwise(draw: Draw, least: int = 1) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A shape, and how many blocks each of its dimensions has."""
    blocks = draw(shapes(least, 4, largest=3))
    return tuple(b * draw(st.integers(1, 3)) for b in blocks), blocks


@st.composite
def _blockwise_shift_scale(draw: Draw) -> Inputs:
    shape, blocks = draw(_blockwise())
    dtype = draw(st.sampled_from(("int8", "uint8")))
    offset = {"offset": _bytes(draw, blocks, dtype)} if draw(flags) else {}
    return {"data": _bytes(draw, shape, dtype), "scale": _scales(draw, blocks), **offset}


@st.composite
def _masked(draw: Draw) -> tuple[Array, int, tuple[int, ...]]:
    """A mask with at least one bit, its count, and how many blocks it has."""
    shape, blocks = draw(_blockwise())
    mask = draw(chosen(shape, 0, 2, "uint8"))
    mask.reshape(-1)[0] = 1
    return mask, int(mask.sum()), blocks


@st.composite
def _sparse_blockwise(draw: Draw) -> Inputs:
    mask, count, blocks = draw(_masked())
    dtype = draw(st.sampled_from(("int8", "uint8")))
    offset = {"offset": _bytes(draw, blocks, dtype)} if draw(flags) else {}
    return {"data_mask": mask, "nonzero_data": _bytes(draw, (count,), dtype), "scale": _scales(draw, blocks), **offset}


@st.composite
def _sparse_to_dense(draw: Draw) -> Inputs:
    mask, count, _ = draw(_masked())
    values = draw(arrays((count,), ("float32", "float16"), ("ordinary", "whole")))
    if draw(flags):
        return {"nonzero_data": values, "mask": mask}
    bits = np.packbits(mask.reshape(-1), bitorder="little")
    return {"nonzero_data": values, "mask": bits, "shape": np.array(mask.shape, np.uint32)}


@st.composite
def _lut_to_dense(draw: Draw) -> Inputs:
    if draw(flags):
        width, shape = draw(st.sampled_from((1, 2, 4, 6, 8))), draw(shapes(1, 3))
        packed = _bytes(draw, (-(-width * math.prod(shape) // 8),), "uint8")
        return {"indices": packed, "lut": draw(arrays((2**width,))), "shape": np.array(shape, np.uint32)}
    shape, blocks = draw(_blockwise())
    return {"indices": _bytes(draw, shape, "uint8"), **draw(_table(blocks))}


@st.composite
def _table(draw: Draw, blocks: tuple[int, ...]) -> Inputs:
    size = draw(st.integers(1, 3))
    lut = {"lut": draw(arrays((*blocks, 256, size)))}
    return {**lut, "vector_axis": draw(axis(len(blocks)))} if size > 1 else lut


@st.composite
def _lut_to_sparse(draw: Draw) -> Inputs:
    mask, count, blocks = draw(_masked())
    return {"indices_mask": mask, "indices_nonzero_data": _bytes(draw, (count,), "uint8"), **draw(_table(blocks))}


@st.composite
def _constexpr_cast(draw: Draw) -> Inputs:
    x = draw(arrays(draw(shapes(1, 5)), ("float16",), ("ordinary", "extreme", "special")))
    return {"source_val": x, "output_dtype": "fp32"}


INPUTS: dict[str, Strategy] = {
    "matmul": _matmul(),
    "linear": _linear(),
    "einsum": _einsum(),
    "conv": _conv(),
    "conv_transpose": _conv_transpose(),
    "conv_quantized": _conv_quantized(),
    "avg_pool": _pool((1, 3), True, ("ordinary", "whole", "broken")),
    "max_pool": _pool((1, 3), False, ("ordinary", "whole", "extreme", "special")),
    "l2_pool": _pool((1, 2), False, ("ordinary", "whole")),
    "scaled_dot_product_attention": _attention(),
    "lstm": _lstm(),
    "gru": _gru(),
    "rnn": _rnn(),
    "quantize": _quantize(),
    "dequantize": _affine(("input", "scale")),
    "constexpr_affine_dequantize": _affine(("quantized_data", "scale"), always=True),
    "constexpr_blockwise_shift_scale": _blockwise_shift_scale(),
    "constexpr_sparse_blockwise_shift_scale": _sparse_blockwise(),
    "constexpr_sparse_to_dense": _sparse_to_dense(),
    "constexpr_lut_to_dense": _lut_to_dense(),
    "constexpr_lut_to_sparse": _lut_to_sparse(),
    "constexpr_cast": _constexpr_cast(),
}
