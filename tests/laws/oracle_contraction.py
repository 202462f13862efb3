"""Contractions, normalisations, pooling and compressed weights in float64: PyTorch's own ops, or loops over windows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

Array = np.ndarray


def _double(x: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(x, np.float64))


def _matmul(x: Array, y: Array, transpose_x: bool = False, transpose_y: bool = False) -> Array:
    x = np.swapaxes(x, -1, -2) if transpose_x else x
    y = np.swapaxes(y, -1, -2) if transpose_y else y
    return np.matmul(x.astype(np.float64), y.astype(np.float64)).astype(x.dtype)


def _linear(x: Array, weight: Array, bias: Any = 0) -> Array:
    rows = x.astype(np.float64)[..., np.newaxis, :] * weight.astype(np.float64)
    return (rows.sum(-1) + bias).astype(x.dtype)


def _einsum(values: Sequence[Array], equation: str) -> Array:
    x, y = (v.astype(np.float64) for v in values)
    left, right = equation.split("->")[0].split(",")
    sizes = {c: max(n, dict(zip(right, y.shape, strict=True)).get(c, 0)) for c, n in zip(left, x.shape, strict=True)}
    x = np.broadcast_to(x, [sizes[c] for c in left])
    y = np.broadcast_to(y, [sizes.get(c, n) for c, n in zip(right, y.shape, strict=True)])
    return np.einsum(equation, x, y)


def same_padding(size: int, reach: int, stride: int, *, lower: bool = False) -> tuple[int, int]:
    """TensorFlow's SAME, as its documentation writes it."""
    total = max(reach - stride, 0) if size % stride == 0 else max(reach - size % stride, 0)
    return (total - total // 2, total // 2) if lower else (total // 2, total - total // 2)


def _amounts(
    pad_type: str, pad: Any, sizes: Sequence[int], reaches: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    if pad_type == "custom":
        return [(int(a), int(b)) for a, b in np.reshape(pad, (-1, 2))]
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    lower = pad_type == "same_lower"
    return [same_padding(n, k, s, lower=lower) for n, k, s in zip(sizes, reaches, strides, strict=True)]


def _conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    strides: Any = None,
    pad_type: str = "valid",
    pad: Any = None,
    dilations: Any = None,
    groups: int = 1,
) -> Array:
    """One output element at a time: the sum over taps and channels that the definition names."""
    rank = x.ndim - 2
    step = [1] * rank if strides is None else list(strides)
    spread = [1] * rank if dilations is None else list(dilations)
    reach = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], spread, strict=True)]
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *_amounts(pad_type, pad, x.shape[2:], reach, step)])
    out = [(n - r) // s + 1 for n, r, s in zip(padded.shape[2:], reach, step, strict=True)]
    per_group = weight.shape[0] // groups
    result = np.zeros((len(x), len(weight), *out))
    for o, place in itertools.product(range(len(weight)), np.ndindex(*out)):
        channels = slice(o // per_group * weight.shape[1], (o // per_group + 1) * weight.shape[1])
        taps = tuple(slice(p * s, p * s + r, d) for p, s, r, d in zip(place, step, reach, spread, strict=True))
        window = padded[(slice(None), channels, *taps)]
        result[(slice(None), o, *place)] = (window * weight[o]).reshape(len(x), -1).sum(1)
        result[(slice(None), o, *place)] += 0 if bias is None else bias[o]
    return result


def _conv_transpose(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    pad: Any = None,
    output_shape: Any = None,
    pad_type: str = "valid",
    strides: Any = None,
    dilations: Any = None,
    groups: int = 1,
) -> Array:
    """PyTorch's full transposed convolution, from which the padding of the forward one is cut."""
    rank = x.ndim - 2
    step = [1] * rank if strides is None else [int(s) for s in strides]
    spread = [1] * rank if dilations is None else [int(d) for d in dilations]
    transposed = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[rank]
    full = transposed(_double(x), _double(weight), stride=step, dilation=spread, groups=int(groups)).numpy()
    sizes = [None] * rank if output_shape is None else [int(n) for n in output_shape[2:]]
    for i in range(rank):
        reach = (weight.shape[2 + i] - 1) * spread[i] + 1
        if pad_type == "same":
            size = x.shape[2 + i] * step[i] if sizes[i] is None else sizes[i]
            before = same_padding(size, reach, step[i])[0]
        else:
            before, after = np.reshape(pad, (-1, 2))[i] if pad_type == "custom" else (0, 0)
            size = full.shape[2 + i] - before - after if sizes[i] is None else sizes[i]
        rows = np.moveaxis(full, 2 + i, 0)
        rows = np.concatenate([rows, np.zeros((max(0, before + size - len(rows)), *rows.shape[1:]))])
        full = np.moveaxis(rows[before : before + size], 0, 2 + i)
    return full if bias is None else full + bias.reshape(-1, *(1,) * rank)


def _attention(query: Array, key: Array, value: Array, attn_mask: Array | None = None) -> Array:
    mask = None if attn_mask is None else torch.from_numpy(attn_mask)
    mask = mask.double() if mask is not None and mask.dtype != torch.bool else mask
    return F.scaled_dot_product_attention(_double(query), _double(key), _double(value), attn_mask=mask).numpy()


# ---------------------------------------------------------------------------------------------------------------------
# Normalisation


def _batch_norm(
    x: Array, mean: Array, variance: Array, gamma: Any = None, beta: Any = None, epsilon: float = 1e-5
) -> Array:
    weight, bias = (None if p is None else _double(p) for p in (gamma, beta))
    return F.batch_norm(_double(x), _double(mean), _double(variance), weight, bias, eps=float(epsilon)).numpy()


def _instance_norm(x: Array, gamma: Any = None, beta: Any = None, epsilon: float = 1e-5) -> Array:
    weight, bias = (None if p is None else _double(p) for p in (gamma, beta))
    return F.instance_norm(_double(x), weight=weight, bias=bias, eps=float(epsilon)).numpy()


def _layer_norm(x: Array, axes: Any = None, gamma: Any = None, beta: Any = None, epsilon: float = 1e-5) -> Array:
    """PyTorch's, after the normalised axes have been put last in the order of the dimensions."""
    dims = sorted(int(a) % x.ndim for a in (range(x.ndim) if axes is None else axes))
    moved = np.moveaxis(x, dims, range(x.ndim - len(dims), x.ndim))
    shape = moved.shape[x.ndim - len(dims) :]
    weight, bias = (None if p is None else _double(p) for p in (gamma, beta))
    result = F.layer_norm(_double(moved), shape, weight, bias, eps=float(epsilon)).numpy()
    return np.moveaxis(result, range(x.ndim - len(dims), x.ndim), dims)


def _l2_norm(x: Array, epsilon: float = 1e-6) -> Array:
    result = x.astype(np.float64)
    for place in np.ndindex(*x.shape[:-3]):
        result[place] /= np.sqrt(np.sum(result[place] ** 2) + float(epsilon))
    return result


def _local_response_norm(x: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Array:
    return F.local_response_norm(_double(x), int(size), float(alpha), float(beta), float(k)).numpy()


# ---------------------------------------------------------------------------------------------------------------------
# Pooling


def _pool(reduce: Callable[[Array, int], Array]) -> Callable[..., Array]:
    """Each window by itself, clipped to the input; ``reduce`` gets its elements and the number that counts."""

    def oracle(
        x: Array,
        kernel_sizes: Array,
        pad_type: str,
        strides: Any = None,
        pad: Any = None,
        ceil_mode: bool = False,
        exclude_padding_from_average: bool = False,
    ) -> Array:
        rank, sizes = x.ndim - 2, x.shape[2:]
        kernel, step = kernel_sizes.tolist(), [1] * rank if strides is None else strides.tolist()
        amounts = _amounts(pad_type, pad, sizes, kernel, step)
        rounding = math.ceil if ceil_mode else math.floor
        out = [rounding((n + a + b - k) / s) + 1 for n, (a, b), k, s in zip(sizes, amounts, kernel, step, strict=True)]
        for i, (n, (a, b), s) in enumerate(zip(sizes, amounts, step, strict=True)):
            out[i] -= bool(ceil_mode and a + b > 0 and (out[i] - 1) * s >= n + a)
        result = np.zeros((*x.shape[:2], *out))
        for place in np.ndindex(*out):
            count, cut = 1, [slice(None), slice(None)]
            for p, s, k, n, (a, b) in zip(place, step, kernel, sizes, amounts, strict=True):
                first, last = p * s - a, min(p * s - a + k, n + b)
                cut.append(slice(max(first, 0), max(min(last, n), 0)))
                count *= len(range(n)[cut[-1]]) if exclude_padding_from_average else last - first
            window = x[tuple(cut)].astype(np.float64).reshape(*x.shape[:2], -1)
            result[(slice(None), slice(None), *place)] = reduce(window, count)
        return result

    return oracle


# ---------------------------------------------------------------------------------------------------------------------
# Compressed weights


def _broadcast(parameter: Any, rank: int, axis: Any) -> Array:
    parameter = np.asarray(parameter, np.float64)
    return np.moveaxis(parameter.reshape(-1, *(1,) * (rank - 1)), 0, int(axis)) if parameter.ndim else parameter


def _dequantize(input: Array, scale: Any, zero_point: Any = 0, axis: Any = None) -> Array:
    zero = _broadcast(zero_point, input.ndim, axis)
    return (input.astype(np.float64) - zero) * _broadcast(scale, input.ndim, axis)


def _quantize(input: Array, scale: Any, output_dtype: str, zero_point: Any = 0, axis: Any = None) -> Array:
    # The quotient in the type of the input, which decides ties.
    quotient = input / _broadcast(scale, input.ndim, axis).astype(input.dtype)
    levels = np.rint(quotient) + _broadcast(zero_point, input.ndim, axis)
    limits = np.iinfo(output_dtype)
    return np.clip(levels, limits.min, limits.max).astype(output_dtype)


def _affine(quantized_data: Array, zero_point: Any, scale: Any, axis: Any) -> Array:
    return _dequantize(quantized_data, scale, zero_point, axis)


def _blockwise(data: Array, scale: Array, offset: Array | None = None) -> Array:
    result = np.zeros(data.shape)
    for place in np.ndindex(*data.shape):
        block = tuple(p // (n // m) for p, n, m in zip(place, data.shape, scale.shape, strict=True))
        result[place] = float(scale[block]) * (float(data[place]) - (0.0 if offset is None else float(offset[block])))
    return result


def _stream(packed: Array) -> int:
    """All bytes as one whole number, the first byte least significant."""
    return int.from_bytes(packed.tobytes(), "little")


def _lut(indices: Array, lut: Array, shape: Any = None, vector_axis: Any = None) -> Array:
    if shape is not None:
        width = int(math.log2(len(lut)))
        stream = _stream(indices)
        places = [stream >> (i * width) & (2**width - 1) for i in range(int(np.prod(shape)))]
        return lut[places].reshape([int(s) for s in shape])
    size = lut.shape[-1]
    axis = 0 if vector_axis is None else int(vector_axis) % indices.ndim
    wide = list(indices.shape)
    wide[axis] *= size
    result = np.empty(wide, lut.dtype)
    for place in np.ndindex(*wide):
        source = tuple(p // size if d == axis else p for d, p in enumerate(place))
        table = tuple(p // (n // m) for p, n, m in zip(source, indices.shape, lut.shape, strict=False))
        result[place] = lut[(*table, indices[source], place[axis] % size)]
    return result


def _sparse(nonzero_data: Array, mask: Array, shape: Any = None) -> Array:
    sizes = mask.shape if shape is None else [int(s) for s in shape]
    count = int(np.prod(sizes))
    bits = mask.reshape(-1).tolist() if shape is None else [_stream(mask) >> i & 1 for i in range(count)]
    values = iter(nonzero_data)
    return np.array([next(values) if bit else 0 for bit in bits], nonzero_data.dtype).reshape(sizes)


ORACLES: dict[str, Callable[..., Any]] = {
    "matmul": _matmul,
    "linear": _linear,
    "einsum": _einsum,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "scaled_dot_product_attention": _attention,
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "l2_norm": _l2_norm,
    "local_response_norm": _local_response_norm,
    "avg_pool": _pool(lambda window, count: window.sum(-1) / count),
    "max_pool": _pool(lambda window, count: window.max(-1)),
    "l2_pool": _pool(lambda window, count: np.sqrt((window**2).sum(-1))),
    "quantize": _quantize,
    "dequantize": _dequantize,
    "constexpr_affine_dequantize": _affine,
    "constexpr_blockwise_shift_scale": _blockwise,
    "constexpr_cast": lambda source_val, output_dtype: source_val.astype(np.float32),
    "constexpr_lut_to_dense": _lut,
    "constexpr_sparse_to_dense": _sparse,
}
