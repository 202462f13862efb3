"""Generated calls of elementwise ops, comparisons, casts, softmax, reductions and normalisations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.laws.draws import (
    ALL_TYPES,
    FLOAT_TYPES,
    WIDE_TYPES,
    Draw,
    Inputs,
    arrays,
    axes,
    axis,
    broadcast,
    chosen,
    flags,
    like,
    numbers,
    shapes,
    some,
)

Strategy = st.SearchStrategy[Inputs]

EVERY_KIND = ("ordinary", "extreme", "special")


@st.composite
def _unary(draw: Draw, dtypes: tuple[str, ...] = FLOAT_TYPES) -> Inputs:
    return {"x": draw(arrays(draw(shapes(0, 5, smallest=0)), dtypes, EVERY_KIND))}


@st.composite
def _exp2(draw: Draw) -> Inputs:
    """Integers whose power is one: what the others give is nobody's contract."""
    whole = draw(flags)
    return {"x": draw(chosen(draw(shapes(0, 5, 0)), -9, 31))} if whole else draw(_unary())


@st.composite
def _parametric(draw: Draw, **given: tuple[float, float]) -> Inputs:
    """An elementwise op with scalars of these intervals, in the dtype of ``x``."""
    x = draw(_unary())["x"]
    return {"x": x, **{name: draw(numbers(*interval, x.dtype.name)) for name, interval in given.items()}}


@st.composite
def _epsilon(draw: Draw) -> Inputs:
    x = draw(_unary())["x"]
    return {"x": x, **some(draw, {"epsilon": numbers(0, 2, x.dtype.name)})}


@st.composite
def _clip(draw: Draw) -> Inputs:
    x = draw(_unary())["x"]
    low, high = sorted(draw(st.tuples(*(st.floats(-300, 300, width=16),) * 2)))
    return {"x": x, "alpha": x.dtype.type(low), "beta": x.dtype.type(high)}


@st.composite
def _gelu(draw: Draw) -> Inputs:
    modes = ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")
    return {**draw(_unary()), **some(draw, {"mode": st.sampled_from(modes)})}


@st.composite
def _prelu(draw: Draw) -> Inputs:
    rank = draw(st.integers(3, 5))
    x = draw(arrays(draw(shapes(rank, rank)), FLOAT_TYPES, ("ordinary", "special")))
    same = rank != 4  # of other ranks coremltools accepts only one slope for all channels
    alpha = draw(like(x, (1,) if same else (x.shape[1],), ("ordinary",)))
    return {"x": x, "alpha": np.repeat(alpha, x.shape[1]) if same else alpha}


@st.composite
def _softplus_parametric(draw: Draw) -> Inputs:
    x = draw(arrays(draw(shapes(3, 5)), FLOAT_TYPES, ("ordinary", "whole")))
    return {"x": x, **{name: draw(like(x, (x.shape[1],), ("ordinary",))) for name in ("alpha", "beta")}}


@st.composite
def _threshold(draw: Draw) -> Inputs:
    x = draw(_unary(WIDE_TYPES))["x"]
    alpha = draw(numbers(-20, 20, x.dtype.name) if x.dtype.kind == "f" else st.integers(-20, 20).map(np.int32))
    return {"x": x, "alpha": alpha}


@st.composite
def _binary(
    draw: Draw, names: tuple[str, ...] = ("x", "y"), dtypes: tuple[str, ...] = WIDE_TYPES, zeros: bool = True
) -> Inputs:
    dtype, kind = draw(st.sampled_from(dtypes)), draw(st.sampled_from(EVERY_KIND))
    found = {n: draw(arrays(s, (dtype,), (kind,))) for n, s in zip(names, draw(broadcast(len(names))), strict=True)}
    if not zeros and dtype == "int32":
        last = names[-1]
        found[last] = np.where(found[last] == 0, np.int32(3), found[last])
    return found


@st.composite
def _select(draw: Draw) -> Inputs:
    cond, a, b = draw(broadcast(3))
    pair = draw(_binary(("a", "b"), ALL_TYPES))
    kinds = {"a": draw(like(pair["a"], a, EVERY_KIND)), "b": draw(like(pair["a"], b, EVERY_KIND))}
    # The declared type forgets the shape of cond, so that one of the others must have the whole shape.
    whole = np.broadcast_shapes(cond, a, b)
    kinds["a"] = draw(like(pair["a"], whole, EVERY_KIND))
    return {"cond": draw(arrays(cond, ("bool",))), **kinds}


_CASTS = {
    "float32": ("fp16", "fp32", "int32", "int8", "int16", "bool"),
    "int32": ("fp16", "fp32", "int8", "uint8", "int16", "uint16", "int32", "bool"),
    "int16": ("fp16", "fp32", "int8", "uint8", "uint16", "int32", "bool"),
    "uint16": ("fp16", "fp32", "int8", "uint8", "int16", "int32", "bool"),
    "int8": ("fp16", "fp32", "uint8", "int16", "uint16", "int32", "bool"),
    "uint8": ("fp16", "fp32", "int8", "int16", "uint16", "int32", "bool"),
    "bool": ("fp16", "fp32", "int32", "int8", "uint8"),
}


@st.composite
def _cast(draw: Draw) -> Inputs:
    source = draw(st.sampled_from(tuple(_CASTS)))
    dtype = draw(st.sampled_from(_CASTS[source]))
    # What a float beyond an integer type becomes is nobody's contract (see the note of the op).
    kinds = EVERY_KIND if dtype.startswith("fp") or dtype == "bool" or source != "float32" else ("ordinary", "whole")
    return {"x": draw(arrays(draw(shapes(0, 5, smallest=0)), (source,), kinds)), "dtype": dtype}


@st.composite
def _softmax(draw: Draw) -> Inputs:
    x = draw(arrays(draw(shapes(1, 5)), FLOAT_TYPES, ("ordinary", "whole", "special")))
    return {"x": x, **some(draw, {"axis": axis(x.ndim).map(np.int32)})}


# ---------------------------------------------------------------------------------------------------------------------
# Reductions


def _reduction(
    *kinds: str, dtypes: tuple[str, ...] = WIDE_TYPES, change: Callable[[Any], Any] = lambda x: x, smallest: int = 0
) -> Strategy:
    """Reductions over some axes, or all, of floats of these kinds and of integers."""

    @st.composite
    def strategy(draw: Draw) -> Inputs:
        shape = draw(shapes(1, 5, smallest=smallest, largest=3))
        x = change(draw(arrays(shape, dtypes, ("ordinary", "whole", *kinds))))
        given = {"axes": axes(x.ndim), "keep_dims": flags}
        return {"x": x, **({k: draw(s) for k, s in given.items()} if draw(flags) else some(draw, given))}

    return strategy()


def _positive(x: Any) -> Any:
    return np.abs(x) + x.dtype.type(1)


def _bounded(x: Any) -> Any:
    """Integers whose sums and squares stay in int32, wherever a float stands between."""
    return x % 1000 if x.dtype.kind == "i" else x


@st.composite
def _extremum(draw: Draw) -> Inputs:
    x = draw(arrays(draw(shapes(1, 5)), WIDE_TYPES, ("whole", "ordinary", "extreme", "special")))
    dtypes = st.sampled_from(("int32", "uint16"))
    return {"x": x, **some(draw, {"axis": axis(x.ndim).map(np.int32), "keep_dims": flags, "output_dtype": dtypes})}


@st.composite
def _cumsum(draw: Draw) -> Inputs:
    x = draw(arrays(draw(shapes(1, 5, smallest=0)), WIDE_TYPES, ("ordinary", "whole")))
    return {"x": x, **some(draw, {"axis": axis(x.ndim).map(np.int32), "exclusive": flags, "reverse": flags})}


# ---------------------------------------------------------------------------------------------------------------------
# Normalisations


def _epsilons(dtype: str) -> st.SearchStrategy[Any]:
    return st.sampled_from((1e-5, 1e-3, 0.25)).map(np.dtype(dtype).type)


@st.composite
def _batch_norm(draw: Draw) -> Inputs:
    x = draw(arrays(draw(shapes(3, 5)), FLOAT_TYPES))
    vector = like(x, (x.shape[1],), ("ordinary",))
    variance = np.abs(draw(vector)) + x.dtype.type(0.1)
    affine = {"gamma": draw(vector), "beta": draw(vector)} if draw(flags) else {}
    return {"x": x, "mean": draw(vector), "variance": variance, **affine, **some(draw, {"epsilon": _epsilons(x.dtype)})}


@st.composite
def _instance_norm(draw: Draw) -> Inputs:
    x = draw(arrays(draw(shapes(3, 4, smallest=2)), FLOAT_TYPES, ("ordinary",)))
    vector = like(x, (x.shape[1],), ("ordinary",))
    return {"x": x, **some(draw, {"gamma": vector, "beta": vector, "epsilon": _epsilons(x.dtype)})}


@st.composite
def _layer_norm(draw: Draw) -> Inputs:
    x = draw(arrays(draw(shapes(1, 5, smallest=2)), FLOAT_TYPES, ("ordinary",)))
    over = draw(axes(x.ndim))
    sizes = tuple(x.shape[d] for d in sorted(int(a) % x.ndim for a in over))
    given = some(draw, {"gamma": like(x, sizes), "beta": like(x, sizes), "epsilon": _epsilons(x.dtype)})
    return {"x": x, "axes": over, **given}


@st.composite
def _l2_norm(draw: Draw) -> Inputs:
    x = draw(arrays(draw(shapes(3, 5)), FLOAT_TYPES))
    return {"x": x, **some(draw, {"epsilon": _epsilons(x.dtype)})}


@st.composite
def _local_response_norm(draw: Draw) -> Inputs:
    x = draw(arrays(draw(shapes(3, 5)), FLOAT_TYPES))
    scalars = {"alpha": numbers(0, 2, x.dtype), "beta": numbers(0.25, 1, x.dtype), "k": numbers(1, 4, x.dtype)}
    return {"x": x, "size": draw(st.integers(1, 6)), **some(draw, scalars)}


_ELEMENTWISE = "acos asin atan atanh ceil cos cosh erf exp floor relu relu6 round sigmoid silu sin sinh softplus "
_ELEMENTWISE += "softsign sqrt tan tanh"
_BINARY = "add sub mul floor_div maximum minimum mod pow"
_COMPARISONS = "equal not_equal less less_equal greater greater_equal"
_SLOPE = (-3.0, 3.0)

INPUTS: dict[str, Strategy] = {
    **{name: _unary() for name in _ELEMENTWISE.split()},
    **{name: _unary(WIDE_TYPES) for name in ("abs", "sign", "square")},
    "exp2": _exp2(),
    "identity": _unary(ALL_TYPES),
    "clip": _clip(),
    "clamped_relu": _parametric(alpha=_SLOPE, beta=(0.0, 8.0)),
    "elu": _parametric(alpha=_SLOPE),
    "gelu": _gelu(),
    "inverse": _epsilon(),
    "leaky_relu": _parametric(alpha=_SLOPE),
    "linear_activation": _parametric(alpha=_SLOPE, beta=_SLOPE),
    "log": _epsilon(),
    "prelu": _prelu(),
    "rsqrt": _epsilon(),
    "scaled_tanh": _parametric(alpha=_SLOPE, beta=_SLOPE),
    "sigmoid_hard": _parametric(alpha=_SLOPE, beta=_SLOPE),
    "softplus_parametric": _softplus_parametric(),
    "threshold": _threshold(),
    "thresholded_relu": _parametric(alpha=_SLOPE),
    **{name: _binary() for name in _BINARY.split()},
    "real_div": _binary(zeros=False),
    **{name: _binary() for name in _COMPARISONS.split()},
    **{name: _binary(dtypes=("bool",)) for name in ("logical_and", "logical_or", "logical_xor")},
    "logical_not": _unary(("bool",)),
    "select": _select(),
    "cast": _cast(),
    "softmax": _softmax(),
    "reduce_sum": _reduction("extreme", dtypes=("int32",)) | _reduction("broken"),
    "reduce_mean": _reduction("broken", smallest=1),
    "reduce_prod": _reduction("broken"),
    "reduce_max": _reduction("extreme", "special", smallest=1),
    "reduce_min": _reduction("extreme", "special", smallest=1),
    "reduce_l1_norm": _reduction(change=_bounded),
    "reduce_l2_norm": _reduction(change=_bounded),
    "reduce_sum_square": _reduction(change=_bounded),
    "reduce_log_sum": _reduction(change=_positive, smallest=1),
    "reduce_log_sum_exp": _reduction(change=_bounded, smallest=1),
    "reduce_argmax": _extremum(),
    "reduce_argmin": _extremum(),
    "cumsum": _cumsum(),
    "batch_norm": _batch_norm(),
    "instance_norm": _instance_norm(),
    "layer_norm": _layer_norm(),
    "l2_norm": _l2_norm(),
    "local_response_norm": _local_response_norm(),
}
