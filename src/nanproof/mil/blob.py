"""Reader of ``weight.bin``, the blob storage (version 2) of an ML Program.

Layout, little endian: a header of 64 bytes (blob count, version), then at each offset that the program names a record
of 64 bytes (sentinel, element type, size in bytes, offset of the data) and the data itself, aligned to 64 bytes. The
format is that of coremltools' ``mlmodel/src/MILBlob/Blob/StorageFormat.hpp``.

Types of less than a byte are packed without gaps, the first element in the lowest bits of the first byte, across the
borders of bytes (measured on what coremltools 9.0's ``_BlobStorageWriter`` writes).

Data is memory-mapped, so that a program of gigabytes opens at once. Every offset is checked against the file.
"""

from __future__ import annotations

import functools
import struct
from pathlib import Path

import numpy as np

from nanproof.errors import ModelFileError
from nanproof.program import DType

__all__ = ["BlobFile", "unpacked"]

_SENTINEL = 0xDEADBEEF
_RECORD = struct.Struct("<IIQQ")
_HEADER_BYTES = 64
_VERSION = 2
_ELEMENT_TYPES = {
    1: DType.FP16,
    2: DType.FP32,
    3: DType.UINT8,
    4: DType.INT8,
    6: DType.INT16,
    7: DType.UINT16,
    8: DType.INT4,
    9: DType.UINT1,
    10: DType.UINT2,
    11: DType.UINT4,
    12: DType.UINT3,
    13: DType.UINT6,
    14: DType.INT32,
    15: DType.UINT32,
}


class BlobFile:
    """A weight file, mapped read-only.

    Raises:
        ModelFileError: The file is missing, too short or of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():  # a pipe in its place would block for ever
            raise ModelFileError(
                f"The weight file '{path}' is missing. An .mlpackage is a folder; copy it whole, with its weights."
            )
        try:
            self._bytes = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
        except OSError as error:
            raise ModelFileError(f"The weight file '{path}' cannot be opened: {error}.") from error
        except ValueError:
            raise ModelFileError(f"The weight file '{path}' is empty.") from None
        if self._bytes.size < _HEADER_BYTES:
            raise ModelFileError(f"The weight file '{path}' ends inside its header ({self._bytes.size} bytes).")
        version = int.from_bytes(self._bytes[4:8].tobytes(), "little")
        if version != _VERSION:
            raise ModelFileError(f"The weight file '{path}' has version {version}; ML Programs use version {_VERSION}.")

    def read(self, offset: int, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
        """The array of ``dtype`` and ``shape`` whose record starts at ``offset``, as a read-only view of the file.

        Elements of less than a byte are unpacked into bytes, which is a copy.

        Raises:
            ModelFileError: The record is damaged, lies beyond the end of the file, or holds other data.
        """
        where = f"the weight at offset {offset} of '{self.path}'"
        if offset < 0 or offset + _RECORD.size > self._bytes.size:
            raise ModelFileError(f"Damaged model: {where} lies beyond the end of the file ({self._bytes.size} bytes).")
        record = self._bytes[offset : offset + _RECORD.size].tobytes()
        sentinel, element, size, start = _RECORD.unpack(record)
        if sentinel != _SENTINEL:
            raise ModelFileError(f"Damaged model: {where} has no valid record there.")
        if _ELEMENT_TYPES.get(element) is not dtype:
            raise ModelFileError(
                f"Damaged model: {where} is declared {dtype.value} but stored as element type {element}."
            )
        count = 1
        for dim in shape:
            count *= dim
        if size != byte_count(count, dtype):
            raise ModelFileError(
                f"Damaged model: {where} has {size} bytes, but {dtype.value}{list(shape)} was declared."
            )
        if start + size > self._bytes.size:
            raise ModelFileError(
                f"Damaged model: {where} ends at byte {start + size}, but the file has {self._bytes.size} bytes. "
                "It was probably cut off while it was copied."
            )
        data = self._bytes[start : start + size]
        return (data.view(dtype.numpy) if dtype.packed_bits is None else unpacked(data, dtype, count)).reshape(shape)


def byte_count(count: int, dtype: DType) -> int:
    """The bytes that ``count`` elements of a type take in a file."""
    bits = dtype.packed_bits
    return count * dtype.numpy.itemsize if bits is None else -(-count * bits // 8)


def unpacked(data: np.ndarray, dtype: DType, count: int) -> np.ndarray:
    """The first ``count`` elements of a packed type, each in a byte of its own.

    >>> unpacked(np.array([0b11_10_01_00, 0b01], np.uint8), DType.UINT2, 5).tolist()
    [0, 1, 2, 3, 1]
    """
    bits = dtype.packed_bits or 8
    table = _table(bits, signed=dtype is DType.INT4)
    if 8 % bits == 0:
        chunks = data
    else:  # three bytes are two chunks of twelve bits
        padded = np.zeros(-(-data.size // 3) * 3, np.uint16)
        padded[: data.size] = data
        chunks = np.empty(padded.size // 3 * 2, np.uint16)
        chunks[0::2] = padded[0::3] | (padded[1::3] & 15) << 8
        chunks[1::2] = padded[1::3] >> 4 | padded[2::3] << 4
    return table[chunks].view(dtype.numpy)[:count]


@functools.cache
def _table(bits: int, *, signed: bool) -> np.ndarray:
    """The elements of each possible chunk side by side, as one number: a look-up is several times faster than shifts.

    A chunk is a byte, or twelve bits for types of three and six.
    """
    width = 8 if 8 % bits == 0 else 12
    numbers = np.arange(2**width)[:, np.newaxis] >> np.arange(0, width, bits) & 2**bits - 1
    elements = numbers.astype(np.uint8)
    if signed:
        elements = (elements << 4).view(np.int8) >> 4  # the fourth bit is the sign
    return np.ascontiguousarray(elements).view(f"u{width // bits}").reshape(-1)
