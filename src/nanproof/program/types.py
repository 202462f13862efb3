"""Types of values, by their MIL names."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Constant", "DType", "Kind", "Type"]

Array = NDArray[np.generic]
Constant = Array | str
"""A compile-time value: an array (0-d for scalars; 1-d for a list, of strings too), or a string such as a ``mode``."""


class DType(enum.Enum):
    """Element type of a tensor, by its MIL name."""

    FP16 = "fp16"
    FP32 = "fp32"
    FP64 = "fp64"
    INT8 = "int8"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    UINT8 = "uint8"
    UINT16 = "uint16"
    UINT32 = "uint32"
    UINT64 = "uint64"
    BOOL = "bool"
    STRING = "string"
    # Compressed weights only (iOS18). An element is held in a byte here, and packed in a file.
    INT4 = "int4"
    UINT1 = "uint1"
    UINT2 = "uint2"
    UINT3 = "uint3"
    UINT4 = "uint4"
    UINT6 = "uint6"

    @property
    def is_float(self) -> bool:
        """Whether the type is a floating-point type."""
        return self in _FLOATS

    @property
    def is_integer(self) -> bool:
        """Whether the type is a signed or unsigned integer type (``bool`` is not)."""
        return self.value.startswith(("int", "uint"))

    @property
    def packed_bits(self) -> int | None:
        """Width of an element in bits if it is less than a byte, so that files pack several into one."""
        return int(self.value[-1]) if self in _SUB_BYTE else None

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The NumPy dtype of the same width, or of a byte for the types of less than a byte."""
        return np.dtype(_NUMPY.get(self, self.value))

    @classmethod
    def of_numpy(cls, dtype: np.dtype[np.generic]) -> DType:
        """The MIL element type that holds values of a NumPy dtype.

        Raises:
            KeyError: No MIL type has this width.
        """
        return _FROM_NUMPY[np.dtype(dtype)]


_FLOATS = frozenset({DType.FP16, DType.FP32, DType.FP64})
_SUB_BYTE = frozenset({DType.INT4, DType.UINT1, DType.UINT2, DType.UINT3, DType.UINT4, DType.UINT6})
_NUMPY = {
    DType.FP16: "float16",
    DType.FP32: "float32",
    DType.FP64: "float64",
    DType.STRING: "str",
    **{dtype: "int8" if dtype is DType.INT4 else "uint8" for dtype in _SUB_BYTE},
}
_FROM_NUMPY = {dtype.numpy: dtype for dtype in DType if dtype not in _SUB_BYTE}


class Kind(enum.Enum):
    """What a value is, beside a tensor."""

    TENSOR = "tensor"
    LIST = "list"
    """Tensors of one type in a row, as ``make_list`` makes them, or the labels of a classifier."""
    STATE = "state"
    """A tensor that outlives a prediction and is changed in place."""
    DICTIONARY = "dictionary"
    """The probabilities of a classifier by label."""


@dataclass(frozen=True, slots=True)
class Type:
    """Element type and shape of a tensor. An unknown dimension is a string, its symbol (``"?"`` if unnamed).

    Of a list they are those of one element, of a state those of its tensor, of a dictionary those of one of its values.
    ``length`` is that of a list (``None`` if it is not known), ``keys`` the type of a dictionary's keys.
    """

    dtype: DType
    shape: tuple[int | str, ...] = ()
    kind: Kind = Kind.TENSOR
    length: int | None = None
    keys: DType | None = None

    def __str__(self) -> str:
        dims = ", ".join(str(d) for d in self.shape)
        element = f"{self.dtype.value}[{dims}]"
        if self.kind is Kind.TENSOR:
            return element
        extra = "" if self.length is None else f", {self.length}"
        key = "" if self.keys is None else f"{self.keys.value}, "
        return f"{self.kind.value}<{key}{element}{extra}>"
