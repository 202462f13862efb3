"""Binary16 and the tensors that carry MIL values in PyTorch.

A ``fp16`` value is carried in a ``torch.float32`` tensor that holds only numbers of the binary16 grid. Emulation by
"compute in float32, round once" is several times faster on a CPU than PyTorch's own half kernels, and it is the only
way to give an accumulator another width than the storage.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nanproof.program import Constant, DType

__all__ = [
    "FP16_MAX",
    "FP16_SMALLEST_NORMAL",
    "FP16_SMALLEST_SUBNORMAL",
    "carrier",
    "from_carrier",
    "round_fp16",
    "to_carrier",
]

FP16_MAX = 65504.0
"""Largest finite binary16 number, (2 - 2**-10) * 2**15 (IEEE 754-2019, table 3.5)."""
FP16_SMALLEST_NORMAL = 2.0**-14
FP16_SMALLEST_SUBNORMAL = 2.0**-24

_CARRIERS = {
    DType.FP16: torch.float32,
    DType.FP32: torch.float32,
    DType.FP64: torch.float64,
    DType.INT8: torch.int8,
    DType.UINT8: torch.uint8,
    # PyTorch has no arithmetic for these widths, so a wider signed type carries them.
    DType.UINT16: torch.int32,
    DType.UINT32: torch.int64,
    DType.UINT64: torch.int64,
    DType.INT16: torch.int16,
    DType.INT32: torch.int32,
    DType.INT64: torch.int64,
    DType.BOOL: torch.bool,
    # Less than a byte: each element in a byte of its own. Only constexpr ops read them, and compute in floats.
    DType.INT4: torch.int8,
    DType.UINT1: torch.uint8,
    DType.UINT2: torch.uint8,
    DType.UINT3: torch.uint8,
    DType.UINT4: torch.uint8,
    DType.UINT6: torch.uint8,
}


def carrier(dtype: DType) -> torch.dtype:
    """The PyTorch dtype that carries a MIL dtype."""
    return _CARRIERS[dtype]


def round_fp16(x: Tensor) -> Tensor:
    """Round a float32 tensor to the nearest binary16 numbers, ties to even, overflow to infinity.

    Subnormals are kept (gradual underflow), as every Apple unit does elementwise. Same shape, dtype ``float32``.

    >>> round_fp16(torch.tensor([65519.0, 65520.0, 2049.0, 1e-8])).tolist()
    [65504.0, inf, 2048.0, 0.0]
    """
    return x.to(torch.float16).to(torch.float32)


def to_carrier(array: Constant | Tensor, dtype: DType) -> Tensor | str | tuple[str, ...]:
    """Put an array of any dtype into the carrier of ``dtype``; strings pass through, an array of them as a tuple."""
    if isinstance(array, str):
        return array
    if dtype is DType.STRING:
        return tuple(str(text) for text in np.asarray(array).reshape(-1))
    if isinstance(array, Tensor):
        tensor = array
    elif array.dtype == np.float16 and carrier(dtype) is torch.float32:
        # NumPy keeps the sign and the bits of a NaN, which the Neural Engine reads as a number. No rounding: all fit.
        return torch.from_numpy(np.asarray(array).astype(np.float32))
    else:
        # The copy is wanted: PyTorch needs writable memory, and a weight file is mapped read-only.
        tensor = torch.from_numpy(np.array(array, dtype=_torch_readable(array.dtype)))
    tensor = tensor.to(carrier(dtype))
    return round_fp16(tensor) if dtype is DType.FP16 else tensor


def from_carrier(tensor: Tensor, dtype: DType) -> np.ndarray:
    """The NumPy array of a carried value, in the NumPy dtype of the same width."""
    if dtype is DType.FP16:
        tensor = tensor.to(torch.float16)  # `reference` may hold more than 65504, of which NumPy would warn
    return tensor.detach().numpy().astype(dtype.numpy, copy=False)


_WIDER: dict[str, str] = {"uint16": "int32", "uint32": "int64", "uint64": "int64"}


def _torch_readable(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    return np.dtype(_WIDER.get(dtype.name, dtype.name))
