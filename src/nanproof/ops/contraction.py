"""Sums of products: matmul, linear, einsum, convolutions, attention. All go through the arithmetic's accumulators."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic, ConvSettings, SingleInside
from nanproof.ops import bound_contraction as bounds
from nanproof.ops import bound_transposed
from nanproof.ops.activation import softmax
from nanproof.ops.record import Note, OpDef, Sample, flag, float_block, int_block, ints, op
from nanproof.ops.windows import Padding, pad_spatial, paddings

__all__ = ["OPS"]


def _matmul(
    arithmetic: Arithmetic,
    x: Tensor,
    y: Tensor,
    transpose_x: Tensor | bool = False,
    transpose_y: Tensor | bool = False,
) -> Tensor:
    if x.dtype != y.dtype:  # iOS17 takes operands of different types
        common = torch.promote_types(x.dtype, y.dtype)
        x, y = x.to(common), y.to(common)
    x_is_vector, y_is_vector = x.dim() == 1, y.dim() == 1
    left = x.unsqueeze(0) if x_is_vector else x.mT if flag(transpose_x) else x
    right = y.unsqueeze(1) if y_is_vector else y.mT if flag(transpose_y) else y
    result = arithmetic.matmul(left, right)
    result = result.squeeze(-1) if y_is_vector else result
    return result.squeeze(-1 if y_is_vector else -2) if x_is_vector else result


def _matmul_samples() -> Iterable[Sample]:
    yield Sample({"x": float_block(3, 4), "y": float_block(4, 2, seed=1)})
    yield Sample({"x": float_block(2, 3, 4), "y": float_block(5, 1, 4, 2, seed=1)})
    yield Sample({"x": float_block(4, 3), "y": float_block(2, 5, 4, seed=1), "transpose_x": True, "transpose_y": True})
    yield Sample({"x": float_block(2, 3, 4), "y": float_block(2, 5, 4, seed=1), "transpose_y": True})
    yield Sample({"x": float_block(4), "y": float_block(4, 3, seed=1)})
    yield Sample({"x": int_block(2, 3), "y": int_block(3, 4, seed=1)})


def _linear(arithmetic: Arithmetic, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    # iOS17 allows weights of another type than x, of integers too; the result has the type of x.
    return arithmetic.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def _linear_samples() -> Iterable[Sample]:
    weight, bias = float_block(5, 4, seed=1), float_block(5, seed=2)
    yield Sample({"x": float_block(3, 4), "weight": weight, "bias": bias})
    yield Sample({"x": float_block(2, 3, 4), "weight": weight})
    yield Sample({"x": float_block(4), "weight": weight, "bias": bias})
    yield Sample({"x": int_block(2, 3), "weight": int_block(4, 3, seed=1), "bias": int_block(4, seed=2)})
    yield Sample({"x": float_block(2, 3), "weight": int_block(4, 3, seed=1), "bias": int_block(4, seed=2)})


def _einsum(arithmetic: Arithmetic, values: Sequence[Tensor], equation: str) -> Tensor:
    """Any product of two tensors without repeated letters inside one; MIL itself allows two such equations."""
    operands, result = equation.replace(" ", "").split("->")
    left, right = operands.split(",")
    x, y = values
    if any(len(set(letters)) != len(letters) for letters in (left, right, result)) or set(result) - set(left + right):
        raise ValueError(f"einsum equation '{equation}' is not supported")
    shared = [c for c in result if c in left and c in right]
    summed = [c for c in left if c in right and c not in result]
    rows, columns = [c for c in left if c not in right], [c for c in right if c not in left]
    if set(rows + columns) - set(result):
        raise ValueError(f"einsum equation '{equation}' sums over a dimension of one operand only")
    # The dimensions of both operands in one order: shared (which broadcast), own, summed.
    x = x.permute([left.index(c) for c in (*shared, *rows, *summed)])
    y = y.permute([right.index(c) for c in (*shared, *summed, *columns)])
    own_x, own_y = x.shape[len(shared) : len(shared) + len(rows)], y.shape[len(shared) + len(summed) :]
    depth = math.prod(x.shape[len(shared) + len(rows) :])
    total = arithmetic.matmul(
        x.reshape(*x.shape[: len(shared)], math.prod(own_x), depth),
        y.reshape(*y.shape[: len(shared)], depth, math.prod(own_y)),
    )
    total = total.reshape((*total.shape[:-2], *own_x, *own_y))
    order = [*shared, *rows, *columns]
    return total.permute([order.index(c) for c in result])


def _einsum_samples() -> Iterable[Sample]:
    for left, right in (((2, 3, 4, 5), (2, 5, 4, 6)), ((2, 3, 1, 5), (1, 5, 4, 6))):
        values = [float_block(*left), float_block(*right, seed=1)]
        yield Sample({"values": values, "equation": "nchw,nwhu->nchu"})
    yield Sample({"values": [float_block(3, 4, 5), float_block(5, 4, 2, seed=1)], "equation": "chw,whr->chr"})


# ---------------------------------------------------------------------------------------------------------------------
# Convolutions


def _conv(
    arithmetic: Arithmetic,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | int = 1,
) -> Tensor:
    kernel = weight.shape[2:]
    step = [1] * len(kernel) if strides is None else ints(strides)
    spread = [1] * len(kernel) if dilations is None else ints(dilations)
    amounts = [0] * 2 * len(kernel) if pad is None else ints(pad)
    padding = paddings(pad_type, amounts, x.shape[2:], kernel, step, spread)
    if any(p.before != p.after or p.before < 0 for p in padding):
        return arithmetic.conv(pad_spatial(x, padding), weight, bias, ConvSettings(step, spread, int(groups)))
    # To pad is to copy; the same on both ends is padded on the way.
    ends = [p.before for p in padding]
    return arithmetic.conv(x, weight, bias, ConvSettings(step, spread, int(groups), ends if any(ends) else ()))


def _conv_samples() -> Iterable[Sample]:
    def ones(n: int, value: int = 1) -> np.ndarray:
        return np.full(n, value, np.int32)

    for rank, sizes in ((1, (7,)), (2, (6, 5)), (3, (4, 5, 3))):
        x, weight = float_block(2, 4, *sizes), float_block(6, 4, *(2, 3, 2)[:rank], seed=1)
        yield Sample({"x": x, "weight": weight, "bias": float_block(6, seed=2), "pad_type": "valid"})
        for pad_type in ("same", "same_lower"):
            yield Sample({"x": x, "weight": weight, "pad_type": pad_type, "strides": ones(rank, 2)})
        pad = np.array((1, 2, 0, 1, 1, 0)[: 2 * rank], np.int32)
        yield Sample({"x": x, "weight": weight, "pad_type": "custom", "pad": pad, "bias": float_block(6, seed=2)})
    image = float_block(1, 4, 7, 8)
    grouped = {"x": image, "weight": float_block(6, 2, 3, 3, seed=1), "groups": 2, "bias": float_block(6, seed=2)}
    for pad_type in ("valid", "same", "same_lower"):
        yield Sample({**grouped, "pad_type": pad_type, "dilations": np.array([2, 1], np.int32)})
    depthwise = {
        "x": image,
        "weight": float_block(8, 1, 3, 2, seed=1),
        "groups": 4,
        "strides": np.array([1, 2], np.int32),
    }
    yield Sample({**depthwise, "pad_type": "custom", "pad": np.array([1, 1, 0, 1], np.int32)})
    yield Sample({"x": image, "weight": float_block(3, 4, 1, 1, seed=1)})


def _conv_transpose(
    arithmetic: Arithmetic,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Tensor | None = None,
    output_shape: Tensor | None = None,
    pad_type: str = "valid",
    strides: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | int = 1,
) -> Tensor:
    """A convolution with the mirrored kernel over the input with ``stride - 1`` zeros between its elements.

    In float32 PyTorch's own operator computes the same, without multiplying by the zeros.
    """
    kernel = weight.shape[2:]
    step = [1] * len(kernel) if strides is None else ints(strides)
    spread = [1] * len(kernel) if dilations is None else ints(dilations)
    amounts = [0] * 2 * len(kernel) if pad is None else ints(pad)
    wanted = None if output_shape is None else ints(output_shape)[2:]
    cuts = _transposed_cuts(pad_type, amounts, x.shape[2:], kernel, (step, spread), wanted)
    if isinstance(arithmetic, SingleInside):
        transpose = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[len(kernel)]
        whole = transpose(x, weight, None, tuple(step), 0, 0, int(groups), tuple(spread))
        cut = pad_spatial(whole, [Padding(-c.before, -c.after) for c in cuts])
        return cut if bias is None else cut + bias.reshape(-1, *(1,) * len(kernel))
    reach = [(k - 1) * d for k, d in zip(kernel, spread, strict=True)]
    spaced = _spaced(x, step)
    spaced = pad_spatial(spaced, [Padding(r - cut.before, r - cut.after) for r, cut in zip(reach, cuts, strict=True)])
    # (in, out / groups, *kernel) → (out, in / groups, *kernel), each group by itself.
    mirrored = weight.flip(list(range(2, weight.dim())))
    mirrored = mirrored.reshape(int(groups), -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
    return arithmetic.conv(spaced, mirrored, bias, ConvSettings([1] * len(kernel), spread, int(groups)))


def _spaced(x: Tensor, strides: Sequence[int]) -> Tensor:
    if all(s == 1 for s in strides):
        return x
    sizes = [(size - 1) * s + 1 for size, s in zip(x.shape[2:], strides, strict=True)]
    spaced = x.new_zeros(*x.shape[:2], *sizes)
    spaced[(..., *(slice(None, None, s) for s in strides))] = x
    return spaced


def _transposed_cuts(
    pad_type: str,
    pad: Sequence[int],
    sizes: Sequence[int],
    kernel: Sequence[int],
    steps: tuple[Sequence[int], Sequence[int]],
    wanted: Sequence[int] | None,
) -> list[Padding]:
    """What is cut off the full result at both ends of each dimension: the padding of the convolution it transposes."""
    cuts: list[Padding] = []
    for i, (size, taps, stride, dilation) in enumerate(zip(sizes, kernel, *steps, strict=True)):
        reach = (taps - 1) * dilation + 1
        full = (size - 1) * stride + reach
        if pad_type == "same":
            target = wanted[i] if wanted else size * stride
            before = max(0, full - target) // 2
        elif pad_type in ("valid", "custom"):
            before, after = pad[2 * i : 2 * i + 2] if pad_type == "custom" else (0, 0)
            target = wanted[i] if wanted else full - before - after
        else:
            raise ValueError(f"pad_type '{pad_type}' of conv_transpose is none of valid, same, custom")
        cuts.append(Padding(before, full - before - target))  # a negative cut appends zeros
    return cuts


def _conv_transpose_samples() -> Iterable[Sample]:
    for rank, sizes in ((1, (5,)), (2, (4, 3)), (3, (3, 2, 4))):
        x, weight = float_block(2, 4, *sizes), float_block(4, 3, *(3, 2, 4)[:rank], seed=1)
        strides = np.array((2, 3, 1)[:rank], np.int32)
        yield Sample({"x": x, "weight": weight, "bias": float_block(3, seed=2)})
        yield Sample({"x": x, "weight": weight, "pad_type": "same", "strides": strides})
        pad = np.array((1, 0, 0, 1, 2, 1)[: 2 * rank], np.int32)
        yield Sample({"x": x, "weight": weight, "pad_type": "custom", "pad": pad, "strides": strides})
    image = float_block(1, 4, 4, 5)
    grouped = {"x": image, "weight": float_block(4, 3, 3, 2, seed=1), "groups": 2, "bias": float_block(6, seed=2)}
    for dilations, strides in product(((1, 1), (2, 3)), ((1, 1), (2, 1))):
        places = {"dilations": np.array(dilations, np.int32), "strides": np.array(strides, np.int32)}
        yield Sample({**grouped, **places, "pad_type": "valid"})
    # The second-smallest size that a stride of 2 and this kernel could have come from.
    shape = np.array([1, 6, 10, 10], np.int32)
    yield Sample(
        {
            **grouped,
            "strides": np.array([2, 2], np.int32),
            "output_shape": shape,
            "pad_type": "custom",
            "pad": np.array([0, 0, 1, 0], np.int32),
        }
    )
    yield Sample(
        {
            **grouped,
            "strides": np.array([2, 2], np.int32),
            "output_shape": np.array([1, 6, 7, 9], np.int32),
            "pad_type": "same",
        }
    )


# ---------------------------------------------------------------------------------------------------------------------
# Attention


def _attention(
    arithmetic: Arithmetic, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None
) -> Tensor:
    rounded = arithmetic.round
    scores = rounded(rounded(arithmetic.matmul(query, key.mT)) / math.sqrt(query.shape[-1]))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = rounded(scores + attn_mask)
    return arithmetic.matmul(rounded(softmax(arithmetic, scores)), value)


def _attention_samples() -> Iterable[Sample]:
    query, key, value = float_block(2, 3, 5, 4), float_block(2, 3, 6, 4, seed=1), float_block(2, 3, 6, 7, seed=2)
    qkv = {"query": query, "key": key, "value": value}
    yield Sample(qkv)
    yield Sample({**qkv, "attn_mask": float_block(5, 6, seed=3)})
    yield Sample({**qkv, "attn_mask": float_block(2, 1, 5, 6, seed=3) > -0.5})
    yield Sample({"query": query[0], "key": key[0], "value": value[0], "attn_mask": float_block(1, 6, seed=3)})


_VECTORS = Note(
    "A 1-D y, which the docstring allows (rules 1 and 3), fails in coremltools' type inference with an IndexError; for "
    "a 1-D x and a y with batch dimensions it drops the first batch dimension instead of the inserted one.",
    "coremltools 9.0, iOS15/linear.py: matmul.type_inference reads y_shape[-2] and returns ret_shape[1:]",
)
_SAME = Note(
    "'same' is TensorFlow's SAME: ceil(size / stride) windows, an odd element of padding at the end.",
    "coremltools 9.0, defs/_utils.py: aggregated_pad; tests iOS14/test_conv.py and iOS16/test_conv.py",
)
_MASKED_ROWS = Note(
    "A row whose every score is -inf gives NaN, as IEEE arithmetic and PyTorch's formula do.",
    "coremltools 9.0, iOS18/transformers.py: numpy_softmax_last_dim",
)


def _conv_quantized(
    arithmetic: Arithmetic,
    x: Tensor,
    weight: Tensor,
    quantization_type: str,
    quant_scale: Tensor,
    quant_bias: Tensor,
    bias: Tensor | None = None,
    nbits: Tensor | int = 8,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | int = 1,
) -> Tensor:
    if quantization_type != "linear":
        raise ValueError(f"conv_quantized with quantization_type '{quantization_type}': MIL gives it no table")
    scale, shift = (
        p.reshape(-1, *(1,) * (weight.dim() - 1)) if p.numel() > 1 else p.reshape(()) for p in (quant_scale, quant_bias)
    )
    dense = arithmetic.round(arithmetic.round(weight.float() * scale) + shift)
    offset = None if bias is None else bias.float()
    return _conv(arithmetic, x, dense, offset, strides, pad_type, pad, dilations, groups)


def _conv_quantized_samples() -> Iterable[Sample]:
    weight = int_block(4, 3, 3, 2, low=0, high=256).astype(np.uint8)
    scalars = {"quant_scale": np.float32(0.01), "quant_bias": np.float32(-1.2)}
    linear = {"x": float_block(2, 3, 5, 6), "weight": weight, "quantization_type": "linear"}
    yield Sample({**linear, **scalars})
    vectors = {"quant_scale": float_block(4, seed=1), "quant_bias": float_block(4, seed=2)}
    settings = {"strides": np.array([1, 2], np.int32), "pad_type": "same", "nbits": 8}
    yield Sample({**linear, **vectors, **settings, "bias": np.array([1, 0, 255, 7], np.uint8)})


_QUANTIZED = Note(
    "Weights are quantised by one scale, or by one for each output channel; a bias of uint8 is taken as it is. "
    "The form 'lut' is not known: nothing says where its table stands.",
    "coremltools 9.0, iOS15/conv.py: W_float = W_quantized * scale + bias; the op is experimental, nothing emits it",
)

OPS: tuple[OpDef, ...] = (
    op(
        "matmul",
        "bilinear",
        _matmul,
        _matmul_samples,
        revisions=("iOS17",),
        bound=bounds.matmul,
        notes=(_VECTORS,),
    ),
    op("linear", "bilinear", _linear, _linear_samples, revisions=("iOS17",), bound=bounds.linear),
    op("einsum", "bilinear", _einsum, _einsum_samples, variadic=frozenset({"values"}), bound=bounds.einsum),
    op("conv", "bilinear", _conv, _conv_samples, revisions=("iOS17",), bound=bounds.conv, notes=(_SAME,)),
    op(
        "conv_quantized",
        "bilinear",
        _conv_quantized,
        _conv_quantized_samples,
        bound=bound_transposed.conv_quantized,
        notes=(_QUANTIZED, _SAME),
    ),
    op(
        "conv_transpose",
        "bilinear",
        _conv_transpose,
        _conv_transpose_samples,
        revisions=("iOS17",),
        bound=bound_transposed.conv_transpose(_transposed_cuts),
        notes=(_SAME,),
    ),
    op(
        "scaled_dot_product_attention",
        "attention",
        _attention,
        _attention_samples,
        since="iOS18",
        bound=bounds.attention,
        notes=(_MASKED_ROWS,),
    ),
)
