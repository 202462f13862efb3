"""Compressed weights: quantised, palettised, sparse. The iOS18 forms of one name differ in their inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic
from nanproof.ops import bound_quantised as bounds
from nanproof.ops.bounding import unbounded
from nanproof.ops.record import Note, OpDef, Sample, float_block, ints, op

__all__ = ["OPS"]


def _along(parameter: Tensor, rank: int, axis: Tensor | None) -> Tensor:
    """A vector of scales as a tensor that broadcasts along ``axis``; scalars pass through."""
    if parameter.dim() != 1 or axis is None:
        return parameter
    shape = [1] * rank
    shape[int(axis)] = -1
    return parameter.reshape(shape)


def _dequantize(
    arithmetic: Arithmetic, input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: Tensor | None = None
) -> Tensor:
    # A difference of two 8-bit numbers needs 9 bits: exact in float32 and in binary16.
    levels = input.float()
    if zero_point is not None:
        levels = levels - _along(zero_point, input.dim(), axis).float()
    return levels * _along(scale, input.dim(), axis)


def _dequantize_samples() -> Iterable[Sample]:
    data = np.array([[-128, 127, 3], [0, -7, 64]], np.int8)
    yield Sample({"input": data, "scale": np.float32(0.1)})
    yield Sample({"input": data, "scale": np.float32(0.5), "zero_point": np.int8(-128)})
    scale = np.array([0.1, 0.25, 3.0], np.float32)
    yield Sample({"input": data, "scale": scale, "zero_point": np.array([1, -2, 3], np.int8), "axis": 1})
    yield Sample(
        {"input": data.view(np.uint8), "scale": scale[:2], "zero_point": np.array([0, 255], np.uint8), "axis": -2}
    )


def _quantize(
    arithmetic: Arithmetic,
    input: Tensor,
    scale: Tensor,
    output_dtype: str,
    zero_point: Tensor | None = None,
    axis: Tensor | None = None,
) -> Tensor:
    dtype = {"int8": torch.int8, "uint8": torch.uint8}[output_dtype]
    levels = torch.round(arithmetic.round(input / _along(scale, input.dim(), axis)))  # ties to even
    if zero_point is not None:
        levels = levels + _along(zero_point, input.dim(), axis).float()
    return levels.clamp(torch.iinfo(dtype).min, torch.iinfo(dtype).max).to(dtype)


def _quantize_samples() -> Iterable[Sample]:
    x = float_block(3, 4, scale=20.0)
    yield Sample({"input": x, "scale": np.float32(0.25), "output_dtype": "int8"})
    yield Sample({"input": x, "scale": np.float32(0.5), "zero_point": np.uint8(128), "output_dtype": "uint8"})
    scale, zero = np.array([0.1, 1.0, 2.0], np.float32), np.array([-3, 0, 9], np.int8)
    yield Sample({"input": x, "scale": scale, "zero_point": zero, "output_dtype": "int8", "axis": 0})
    ties = np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)
    yield Sample({"input": ties, "scale": np.float32(1.0), "output_dtype": "int8"})


def _constexpr_affine_dequantize(
    arithmetic: Arithmetic, quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: Tensor
) -> Tensor:
    return _dequantize(arithmetic, quantized_data, scale, zero_point, axis)


def _constexpr_affine_dequantize_samples() -> Iterable[Sample]:
    data = np.array([[-128, 127, 3], [0, -7, 64]], np.int8)
    vectors = {"zero_point": np.array([1, -128], np.int8), "scale": np.array([0.1, 3.0], np.float32)}
    yield Sample({"quantized_data": data, **vectors, "axis": 0})
    yield Sample(
        {"quantized_data": data.view(np.uint8), "zero_point": np.uint8(7), "scale": np.float32(0.3), "axis": -1}
    )
    yield Sample(
        {"quantized_data": data, "zero_point": np.int8(0), "scale": np.array([1.0, 2.0, 0.5], np.float32), "axis": 1}
    )


def _constexpr_blockwise_shift_scale(
    arithmetic: Arithmetic, data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> Tensor:
    def spread(parameter: Tensor) -> Tensor:
        for dim, (size, blocks) in enumerate(zip(data.shape, parameter.shape, strict=True)):
            parameter = parameter.repeat_interleave(size // blocks, dim)
        return parameter.float()

    levels = data.float() if offset is None else arithmetic.round(data.float() - spread(offset))
    return levels * spread(scale)


def _constexpr_blockwise_shift_scale_samples() -> Iterable[Sample]:
    data = np.arange(-12, 12).reshape(4, 6).astype(np.int8)
    yield Sample({"data": data, "scale": float_block(4, 1)})
    yield Sample({"data": data, "scale": float_block(2, 3), "offset": np.arange(6).reshape(2, 3).astype(np.int8)})
    yield Sample({"data": data, "scale": float_block(1, 2), "offset": float_block(1, 2, seed=1)})


def _sparse_blockwise(
    arithmetic: Arithmetic, data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> list[Tensor]:
    dense = _constexpr_sparse_to_dense(arithmetic, nonzero_data, data_mask)
    return [data_mask, _constexpr_blockwise_shift_scale(arithmetic, dense, scale, offset)[data_mask != 0]]


def _sparse_blockwise_samples() -> Iterable[Sample]:
    # The example of the documentation, and one in blocks without an offset.
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]], np.uint8)
    parameters = {"scale": np.array([[0.1, 0.2, 0.3, 0.4]], np.float32), "offset": np.array([[1, 2, 3, 4]], np.int8)}
    data = np.array([10, 11, 3, 4, 5, 6, 7, 8, 9], np.int8)
    yield Sample({"data_mask": mask, "nonzero_data": data, **parameters})
    yield Sample({"data_mask": mask, "nonzero_data": data.view(np.uint8), "scale": float_block(2, 2)})


def _lut_to_sparse(
    arithmetic: Arithmetic,
    indices_mask: Tensor,
    indices_nonzero_data: Tensor,
    lut: Tensor,
    vector_axis: Tensor | None = None,
) -> list[Tensor]:
    axis = 0 if vector_axis is None else int(vector_axis) % indices_mask.dim()
    indices = _constexpr_sparse_to_dense(arithmetic, indices_nonzero_data, indices_mask)
    mask = indices_mask.repeat_interleave(lut.shape[-1], axis)
    return [mask, _looked_up(indices.long(), lut, axis)[mask != 0]]


def _lut_to_sparse_samples() -> Iterable[Sample]:
    mask = np.array([[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 1], [0, 1, 1, 0, 1, 0], [0, 0, 0, 1, 0, 0]], np.uint8)
    given = {"indices_mask": mask, "indices_nonzero_data": np.array([0, 1, 255, 0, 1, 7, 0, 0, 1], np.uint8)}
    yield Sample({**given, "lut": float_block(1, 1, 256, 1)})
    yield Sample({**given, "lut": float_block(2, 3, 256, 1)})
    for axis in (0, 1):
        yield Sample({**given, "lut": float_block(2, 1, 256, 2), "vector_axis": axis})


def _constexpr_cast(arithmetic: Arithmetic, source_val: Tensor, output_dtype: str) -> Tensor:
    if output_dtype not in ("fp16", "fp32"):
        raise ValueError(f"constexpr_cast to '{output_dtype}': only floats are known")
    return source_val.float()


def _constexpr_cast_samples() -> Iterable[Sample]:
    yield Sample({"source_val": float_block(2, 3).astype(np.float16), "output_dtype": "fp32"})


def _bits(packed: Tensor) -> Tensor:
    """The bits of bytes, least significant first."""
    return (packed.to(torch.int32).unsqueeze(-1) >> torch.arange(8)).bitwise_and(1).flatten()


def _constexpr_lut_to_dense(
    arithmetic: Arithmetic, indices: Tensor, lut: Tensor, shape: Tensor | None = None, vector_axis: Tensor | None = None
) -> Tensor:
    if shape is None:
        return _looked_up(indices.long(), lut, 0 if vector_axis is None else int(vector_axis) % indices.dim())
    sizes = ints(shape)
    width = lut.numel().bit_length() - 1
    bits = _bits(indices)[: math.prod(sizes) * width].reshape(-1, width)
    return lut[(bits << torch.arange(width)).sum(1)].reshape(sizes)


def _looked_up(indices: Tensor, lut: Tensor, axis: int) -> Tensor:
    """The iOS18 form: a table for each block of indices, whose entries are vectors that lie along ``axis``."""
    table = torch.zeros_like(indices)
    for dim, (size, blocks) in enumerate(zip(indices.shape, lut.shape, strict=False)):
        block = torch.arange(size) // (size // blocks)
        table = table * blocks + block.reshape(-1, *(1,) * (indices.dim() - 1 - dim))
    vectors = lut.reshape(-1, *lut.shape[-2:])[table, indices]
    return vectors.movedim(-1, axis + 1).flatten(axis, axis + 1)


def _constexpr_lut_to_dense_samples() -> Iterable[Sample]:
    rng = np.random.default_rng(0)
    for width, sizes in ((1, (11,)), (2, (5,)), (4, (3, 3)), (6, (2, 5)), (8, (2, 2))):
        count = -(-width * math.prod(sizes) // 8)
        packed = rng.integers(0, 256, count).astype(np.uint8)
        yield Sample({"indices": packed, "lut": float_block(2**width), "shape": np.array(sizes, np.uint32)})
    # The example of the documentation: i0..i4 = 00, 11, 10, 01, 11.
    packed = np.array([0b01101100, 0b00000011], np.uint8)
    yield Sample({"indices": packed, "lut": np.array([5, -6, 7, -8], np.int8), "shape": np.array([5], np.uint32)})
    places = rng.integers(0, 256, (4, 6)).astype(np.uint8)
    yield Sample({"indices": places, "lut": float_block(2, 1, 256, 1)})
    for axis in (0, -1):
        yield Sample({"indices": places, "lut": float_block(2, 3, 256, 2), "vector_axis": axis})


def _constexpr_sparse_to_dense(
    arithmetic: Arithmetic, nonzero_data: Tensor, mask: Tensor, shape: Tensor | None = None
) -> Tensor:
    # iOS16 packs the mask into bytes and gives the shape apart; in iOS18 the mask has the shape.
    sizes = list(mask.shape) if shape is None else ints(shape)
    kept = (mask.flatten() if shape is None else _bits(mask)[: math.prod(sizes)]) != 0
    dense = nonzero_data.new_zeros(math.prod(sizes))
    dense[kept] = nonzero_data
    return dense.reshape(sizes)


def _constexpr_sparse_to_dense_samples() -> Iterable[Sample]:
    # The example of the documentation, and one of two bytes.
    yield Sample(
        {"nonzero_data": float_block(2), "mask": np.array([0b00001100], np.uint8), "shape": np.array([5], np.uint32)}
    )
    mask = np.array([0b10110001, 0b00000101], np.uint8)
    yield Sample({"nonzero_data": float_block(6), "mask": mask, "shape": np.array([3, 4], np.uint32)})
    yield Sample({"nonzero_data": float_block(3), "mask": np.array([[0, 1, 0], [1, 0, 1]], np.uint8)})


_NO_AXIS = Note(
    "For scalar scale and zero_point coremltools refuses an axis.",
    "coremltools 9.0, iOS17/quantization_ops.py: _check_scale_zp_shapes",
)
_TWO_FORMS = Note(
    "Up to iOS17 bits are packed into bytes and the shape stands apart; from iOS18 the indices or the mask have the "
    "shape.",
    "coremltools 9.0, iOS16/constexpr_ops.py and iOS18/compression.py",
)

_COMPUTED = unbounded("weights that are stored compressed are constants: they are unpacked, not bounded")

OPS: tuple[OpDef, ...] = (
    op(
        "quantize",
        "quantisation",
        _quantize,
        _quantize_samples,
        since="iOS17",
        bound=bounds.quantize,
        notes=(_NO_AXIS,),
    ),
    op(
        "dequantize",
        "quantisation",
        _dequantize,
        _dequantize_samples,
        since="iOS17",
        bound=bounds.dequantize,
        notes=(_NO_AXIS,),
    ),
    op(
        "constexpr_affine_dequantize",
        "quantisation",
        _constexpr_affine_dequantize,
        _constexpr_affine_dequantize_samples,
        bound=_COMPUTED,
        since="iOS16",
    ),
    op(
        "constexpr_blockwise_shift_scale",
        "quantisation",
        _constexpr_blockwise_shift_scale,
        _constexpr_blockwise_shift_scale_samples,
        bound=_COMPUTED,
        since="iOS18",
    ),
    op(
        "constexpr_sparse_blockwise_shift_scale",
        "quantisation",
        _sparse_blockwise,
        _sparse_blockwise_samples,
        bound=_COMPUTED,
        since="iOS18",
    ),
    op(
        "constexpr_lut_to_sparse",
        "quantisation",
        _lut_to_sparse,
        _lut_to_sparse_samples,
        bound=_COMPUTED,
        since="iOS18",
    ),
    op(
        "constexpr_cast",
        "quantisation",
        _constexpr_cast,
        _constexpr_cast_samples,
        bound=_COMPUTED,
        since="iOS16",
        revisions=("iOS18",),
    ),
    op(
        "constexpr_lut_to_dense",
        "quantisation",
        _constexpr_lut_to_dense,
        _constexpr_lut_to_dense_samples,
        bound=_COMPUTED,
        since="iOS16",
        revisions=("iOS18",),
        notes=(_TWO_FORMS,),
    ),
    op(
        "constexpr_sparse_to_dense",
        "quantisation",
        _constexpr_sparse_to_dense,
        _constexpr_sparse_to_dense_samples,
        bound=_COMPUTED,
        since="iOS16",
        revisions=("iOS18",),
        notes=(_TWO_FORMS,),
    ),
)
