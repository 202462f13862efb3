"""A second oracle for most ops: PyTorch's own function in float64, where the first is NumPy or a loop.

A peer answers ``None`` where PyTorch has no such function. Below it stands where coremltools' own inference contradicts
its documentation; the records' notes give the evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Array = np.ndarray
Inputs = Mapping[str, Any]
Peer = Callable[..., Any]


def _wide(x: Any) -> Tensor:
    """Floats in float64 and integers in int64, in which no law's numbers overflow by themselves."""
    array = np.asarray(x)
    kinds = {"f": np.float64, "i": np.int64, "u": np.int64}
    return torch.from_numpy(np.array(array, kinds.get(array.dtype.kind, array.dtype)))


def _narrow(result: Tensor, like: Array) -> Array:
    """Integers wrapped around at the width of the operand; a float that should be one is truncated first."""
    if like.dtype.kind == "i":
        return result.trunc().to(torch.int64).to(torch.int32).numpy()
    return result.numpy()


# ---------------------------------------------------------------------------------------------------------------------
# Elementwise


def _unary(function: Callable[[Tensor], Tensor]) -> Peer:
    return lambda x: _narrow(function(_wide(x)), x)


def _arithmetic(floats: Callable[..., Any], whole: Callable[..., Any]) -> Peer:
    """Floats by PyTorch, integers by Python's own unbounded ones, wrapped around at 32 bits."""

    def peer(x: Array, y: Array) -> Array:
        if np.asarray(x).dtype.kind == "f":
            return floats(_wide(x), _wide(y)).numpy()
        pairs = np.broadcast_arrays(x, y)
        results = [
            (whole(int(a), int(b)) + 2**31) % 2**32 - 2**31 for a, b in zip(*(p.flat for p in pairs), strict=True)
        ]
        return np.array(results, np.int64).reshape(pairs[0].shape).astype(np.int32)

    return peer


def _quotient(x: int, y: int) -> int:
    return 0 if y == 0 else abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)


def _power(x: int, y: int) -> int:
    if y >= 0:
        return pow(x, y, 2**32)
    return {1: 1, -1: 1 if y % 2 == 0 else -1}.get(x, 0)


def _activation(function: Callable[..., Tensor]) -> Peer:
    return lambda x, **parameters: function(_wide(x), *(float(p) for p in parameters.values())).numpy()


def _epsilon(function: Callable[[Tensor], Tensor], default: float) -> Peer:
    return lambda x, epsilon=default: function(_wide(x).float().add(float(epsilon)).double()).numpy()


_NAMESAKES = ("abs", "acos", "asin", "atan", "atanh", "ceil", "cos", "cosh", "erf", "exp", "floor", "relu", "round")
_NAMESAKES += ("sigmoid", "sin", "sinh", "sqrt", "square", "tan", "tanh")

ELEMENTWISE: dict[str, Peer] = {
    **{name: _unary(getattr(torch, name)) for name in _NAMESAKES},
    "sign": _unary(lambda x: torch.where(x.isnan(), x, x.sign()) if x.is_floating_point() else x.sign()),
    "exp2": _unary(lambda x: torch.exp2(x.double()).clamp(max=2.0**62) if not x.is_floating_point() else x.exp2()),
    "relu6": _unary(F.relu6),
    "identity": lambda x: x,
    "const": lambda val: val,
    "clip": _activation(lambda x, low, high: x.clamp(low, high)),
    "threshold": lambda x, alpha: _narrow(_wide(x).clamp(min=_wide(alpha).item()), x),
    "clamped_relu": _activation(lambda x, slope, top: F.leaky_relu(x, slope).clamp(max=top)),
    "linear_activation": _activation(lambda x, a, b: a * x + b),
    "scaled_tanh": _activation(lambda x, a, b: a * torch.tanh(b * x)),
    "sigmoid_hard": _activation(lambda x, a, b: (a * x + b).clamp(0, 1)),
    "thresholded_relu": _activation(lambda x, a: torch.where(x < a, 0.0, x)),
    "inverse": _epsilon(torch.reciprocal, 1e-4),
    "log": _epsilon(torch.log, 2.0**-149),
    "rsqrt": _epsilon(torch.rsqrt, 1e-12),
    "add": _arithmetic(torch.add, lambda x, y: x + y),
    "sub": _arithmetic(torch.sub, lambda x, y: x - y),
    "mul": _arithmetic(torch.mul, lambda x, y: x * y),
    "real_div": _arithmetic(torch.div, _quotient),
    "floor_div": _arithmetic(torch.floor_divide, lambda x, y: x // y if y else 0),
    "mod": _arithmetic(torch.remainder, lambda x, y: x % y if y else 0),
    "maximum": _arithmetic(torch.maximum, max),
    "minimum": _arithmetic(torch.minimum, min),
    "pow": _arithmetic(torch.pow, _power),
}

# ---------------------------------------------------------------------------------------------------------------------
# Reductions


def _reduced(function: Callable[[Tensor, list[int], bool], Tensor]) -> Peer:
    def peer(x: Array, axes: Any = None, keep_dims: bool = False) -> Array:
        dims = list(range(x.ndim)) if axes is None else [int(a) for a in axes]
        return _narrow(function(_wide(x), dims, bool(keep_dims)), x)

    return peer


def _product(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in sorted((d % x.dim() for d in dims), reverse=True):
        x = x.prod(dim, keepdim=keep)
    return x


def _extremum(pick: Callable[..., Tensor]) -> Peer:
    return lambda x, axis=-1, keep_dims=False, output_dtype="": pick(
        torch.from_numpy(x), int(axis), keepdim=bool(keep_dims)
    ).numpy()


def _cumsum(x: Array, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Array:
    wide = _wide(x).flip(int(axis)) if reverse else _wide(x)
    sums = wide.cumsum(int(axis)) - (wide if exclusive else 0)
    return _narrow(sums.flip(int(axis)) if reverse else sums, x)


REDUCTIONS: dict[str, Peer] = {
    "reduce_sum": _reduced(lambda x, dims, keep: x.sum(dims, keepdim=keep)),
    "reduce_mean": _reduced(lambda x, dims, keep: x.double().mean(dims, keepdim=keep)),
    "reduce_prod": _reduced(_product),
    "reduce_max": _reduced(lambda x, dims, keep: x.amax(dims, keepdim=keep)),
    "reduce_min": _reduced(lambda x, dims, keep: x.amin(dims, keepdim=keep)),
    "reduce_l1_norm": _reduced(lambda x, dims, keep: torch.linalg.vector_norm(x.double(), 1, dims, keepdim=keep)),
    "reduce_sum_square": _reduced(lambda x, dims, keep: x.square().sum(dims, keepdim=keep)),
    "reduce_log_sum": _reduced(lambda x, dims, keep: x.double().sum(dims, keepdim=keep).log()),
    "reduce_argmax": _extremum(torch.argmax),
    "reduce_argmin": _extremum(torch.argmin),
    "cumsum": _cumsum,
}

# ---------------------------------------------------------------------------------------------------------------------
# Movement


def _gather(x: Array, indices: Array, axis: int = 0, batch_dims: int = 0) -> Array | None:
    if batch_dims:
        return None
    places = torch.from_numpy(np.asarray(indices) % x.shape[axis]).long()
    taken = torch.from_numpy(x).index_select(axis, places.flatten())
    return taken.unflatten(axis, places.shape).numpy() if places.dim() else taken.squeeze(axis).numpy()


def _scatter_along_axis(data: Array, indices: Array, updates: Array, axis: int = 0, mode: str = "add") -> Array | None:
    names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    if mode not in names:
        return None
    places = torch.from_numpy(indices % data.shape[axis]).long()
    return _narrow(_wide(data).scatter_reduce(axis, places, _wide(updates), names[mode]), data)


def _scatter(data: Array, indices: Array, updates: Array, axis: int = 0, mode: str = "add") -> Array | None:
    if mode == "sub":
        places = torch.from_numpy(indices % data.shape[axis]).long()
        return _narrow(_wide(data).index_add(axis, places, _wide(updates), alpha=-1), data)
    column = indices.reshape(-1, *(1,) * (data.ndim - 1 - axis % data.ndim))
    return _scatter_along_axis(data, np.broadcast_to(column, updates.shape), updates, axis, mode)


def _scatter_nd(data: Array, indices: Array, updates: Array, mode: str = "add") -> Array | None:
    if mode not in ("add", "update"):
        return None
    places = tuple(torch.from_numpy(column.copy()).long() for column in np.moveaxis(indices, -1, 0))
    return _narrow(_wide(data).index_put(places, _wide(updates), accumulate=mode == "add"), data)


def _pad(x: Array, pad: Array, mode: str = "constant", constant_val: float = 0.0) -> Array | None:
    amounts = pad.reshape(-1, 2)[::-1].reshape(-1).tolist()
    if mode == "constant":
        return F.pad(torch.from_numpy(x), amounts, value=float(constant_val)).numpy()
    image = torch.from_numpy(x).reshape(1, -1, *x.shape[x.ndim - len(pad) // 2 :])
    padded = F.pad(image, amounts, mode)
    return padded.reshape(*x.shape[: x.ndim - len(pad) // 2], *padded.shape[2:]).numpy()


def _band_part(x: Array, lower: int = -1, upper: int = -1) -> Array:
    band = torch.from_numpy(x)
    band = band if lower < 0 else band.triu(-int(lower))
    return (band if upper < 0 else band.tril(int(upper))).numpy()


def _topk(x: Array, k: int = 1, axis: int = -1, ascending: bool = False, return_indices: bool = True) -> list[Array]:
    values, places = torch.topk(torch.from_numpy(x), k, axis, largest=not ascending)
    return [values.numpy(), places.numpy()][: 1 + return_indices]


MOVEMENT: dict[str, Peer] = {
    "transpose": lambda x, perm: torch.from_numpy(x).permute(perm.tolist()).numpy(),
    "stack": lambda values, axis: torch.stack([torch.from_numpy(v) for v in values], axis).numpy(),
    "tile": lambda x, reps: torch.tile(torch.from_numpy(x), reps.tolist()).numpy(),
    "sliding_windows": lambda x, axis, size, stride=1: (
        torch.from_numpy(x).unfold(axis, size, stride).movedim(-1, axis % x.ndim + 1).numpy()
    ),
    "pixel_shuffle": lambda x, upscale_factor: F.pixel_shuffle(torch.from_numpy(x), int(upscale_factor)).numpy(),
    "pixel_unshuffle": lambda x, downscale_factor: F.pixel_unshuffle(
        torch.from_numpy(x), int(downscale_factor)
    ).numpy(),
    "non_zero": lambda x: torch.nonzero(torch.from_numpy(x)).numpy(),
    "argsort": lambda x, axis=-1, ascending=False: torch.argsort(
        torch.from_numpy(x), axis, descending=not ascending
    ).numpy(),
    "topk": _topk,
    "pad": _pad,
    "band_part": _band_part,
    "gather": _gather,
    "gather_along_axis": lambda x, indices, axis=0: torch.take_along_dim(
        torch.from_numpy(x), torch.from_numpy(indices % x.shape[axis]).long(), axis
    ).numpy(),
    "scatter": _scatter,
    "scatter_along_axis": _scatter_along_axis,
    "scatter_nd": _scatter_nd,
}

# ---------------------------------------------------------------------------------------------------------------------
# Layers


def _matmul(x: Array, y: Array, transpose_x: bool = False, transpose_y: bool = False) -> Array:
    left, right = _wide(x).mT if transpose_x else _wide(x), _wide(y).mT if transpose_y else _wide(y)
    return _narrow(left @ right, x)


def _linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    return _narrow(F.linear(_wide(x), _wide(weight), None if bias is None else _wide(bias)), x)


def _conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    strides: Any = None,
    pad_type: str = "valid",
    pad: Any = None,
    dilations: Any = None,
    groups: int = 1,
) -> Array | None:
    steps = [1] * (x.ndim - 2) if strides is None else strides.tolist()
    if pad_type.startswith("same"):
        return None
    image = _wide(x) if pad is None else F.pad(_wide(x), pad.reshape(-1, 2)[::-1].reshape(-1).tolist())
    convolve = [F.conv1d, F.conv2d, F.conv3d][x.ndim - 3]
    offset = None if bias is None else _wide(bias)
    return convolve(image, _wide(weight), offset, steps, 0, dilations.tolist(), groups).numpy()


def _max_pool(
    x: Array, kernel_sizes: Array, pad_type: str, strides: Any, pad: Any = None, ceil_mode: bool = False
) -> Array | None:
    if pad_type.startswith("same") or (pad is not None and (pad[::2] != pad[1::2]).any()):
        return None
    pool = [F.max_pool1d, F.max_pool2d, F.max_pool3d][x.ndim - 3]
    amounts = 0 if pad is None else pad[::2].tolist()
    return pool(_wide(x), kernel_sizes.tolist(), strides.tolist(), amounts, ceil_mode=ceil_mode).numpy()


def _resize_bilinear(
    x: Array, target_size_height: int, target_size_width: int, sampling_mode: str = "DEFAULT"
) -> Array | None:
    if sampling_mode not in ("UNALIGN_CORNERS", "STRICT_ALIGN_CORNERS"):
        return None
    size, align = (target_size_height, target_size_width), sampling_mode == "STRICT_ALIGN_CORNERS"
    image = _wide(x).reshape(1, -1, *x.shape[-2:])
    return F.interpolate(image, size, mode="bilinear", align_corners=align).reshape(*x.shape[:-2], *size).numpy()


def _recurrent(kind: str, order: Sequence[int]) -> Peer:
    """PyTorch's module, of whose gates MIL's are another order; it has the usual activations only."""

    def peer(x: Array, initial_h: Array, weight_ih: Array, weight_hh: Array, **rest: Any) -> list[Array] | None:
        unusual = {k: v for k, v in rest.items() if k.endswith("activation") or k in ("peephole", "clip")}
        after = kind != "GRU" or rest.get("reset_after", False)
        if unusual or not after or rest.get("direction", "forward") == "bidirectional":
            return None
        hidden = weight_hh.shape[1]
        module = getattr(torch.nn, kind)(x.shape[2], hidden).double()

        def gates(weight: Any) -> Tensor:
            parts = np.split(np.zeros(len(weight_hh)) if weight is None else weight, len(order))
            return _wide(np.concatenate([parts[k] for k in order])).double()

        bias = (rest.get("input_bias"), rest.get("bias")) if kind == "GRU" else (rest.get("bias"), None)
        module.load_state_dict(
            dict(
                zip(
                    ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"),
                    map(gates, (weight_ih, weight_hh, *bias)),
                    strict=True,
                )
            )
        )
        state = _wide(initial_h)[None]
        steps = _wide(x).flip(0) if rest.get("direction") == "reverse" else _wide(x)
        with torch.no_grad():
            rows, last = module(steps, (state, _wide(rest["initial_c"])[None]) if kind == "LSTM" else state)
        rows = rows if rest.get("output_sequence") else rows[-1:]
        return [t.numpy() for t in (rows, *(s[0] for s in (last if kind == "LSTM" else (last,))))]

    return peer


LAYERS: dict[str, Peer] = {
    "matmul": _matmul,
    "linear": _linear,
    "einsum": lambda values, equation: torch.einsum(equation, *(_wide(v) for v in values)).numpy(),
    "conv": _conv,
    "max_pool": _max_pool,
    "resize_bilinear": _resize_bilinear,
    "l2_norm": lambda x, epsilon=1e-6: (
        _wide(x) / (torch.linalg.vector_norm(_wide(x), 2, (-3, -2, -1), keepdim=True) ** 2 + float(epsilon)).sqrt()
    ).numpy(),
    "lstm": _recurrent("LSTM", (0, 1, 3, 2)),
    "gru": _recurrent("GRU", (0, 2, 1)),
    "rnn": _recurrent("RNN", (0,)),
}

PEERS: dict[str, Peer] = {**ELEMENTWISE, **REDUCTIONS, **MOVEMENT, **LAYERS}

# ---------------------------------------------------------------------------------------------------------------------
# Where coremltools is alone


def _below_the_start(inputs: Inputs) -> bool:
    """An end below -size: with a negative stride coremltools infers one element too few (a note of the op)."""
    return bool((inputs["end"] < -np.array(inputs["x"].shape)).any())


def _to_a_scalar(inputs: Inputs) -> bool:
    """coremltools takes x[0] for the only element of a tensor of any rank (a note of the op)."""
    gone = range(inputs["x"].ndim) if "axes" not in inputs else {int(a) % inputs["x"].ndim for a in inputs["axes"]}
    return inputs["x"].ndim == len(gone) > 1 and inputs["x"].size == 1


def _from_the_end(inputs: Inputs) -> bool:
    """coremltools subtracts batch_dims from an axis that counts from the end (a note of the op)."""
    return inputs.get("axis", 0) < 0 < inputs.get("batch_dims", 0)


FOLDS_OTHERWISE: dict[str, Callable[[Inputs], bool]] = {
    "concat": lambda inputs: inputs["interleave"],  # DISPUTED in the oracles, as is the next
    "gather": _from_the_end,
    "scatter_along_axis": lambda inputs: inputs["mode"] != "update",
    "squeeze": _to_a_scalar,
}
"""Name of an op → whether coremltools folds such a call against its own documentation."""

INFERS_OTHERWISE: dict[str, Callable[[Inputs], bool]] = {
    "slice_by_index": _below_the_start,
    "slice_update": _below_the_start,
}
"""Name of an op → whether coremltools infers another type for such a call than its own folding or documentation."""
