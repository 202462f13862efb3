"""Reader of ``weight.bin``, the blob storage (version 2) of an ML Program.

Layout, little endian: a header of 64 bytes (blob count, version), then at each offset that the program names a record
of 64 bytes (sentinel, element type, size in bytes, offset of the data) and the data itself, aligned to 64 bytes. The
format is that of coremltools' ``mlmodel/src/MILBlob/Blob/StorageFormat.hpp``.

Data is memory-mapped, so that a program of gigabytes opens at once. Every offset is checked against the file.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from nanproof.errors import ModelFileError
from nanproof.program import DType

__all__ = ["BlobFile"]

_SENTINEL = 0xDEADBEEF
_RECORD = struct.Struct("<IIQQ")
_HEADER_BYTES = 64
_VERSION = 2
_ELEMENT_TYPES = {1: "float16", 2: "float32", 3: "uint8", 4: "int8", 6: "int16", 7: "uint16", 14: "int32", 15: "uint32"}


class BlobFile:
    """A weight file, mapped read-only.

    Raises:
        ModelFileError: The file is missing, too short or of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._bytes = np.memmap(path, dtype=np.uint8, mode="r")
        except FileNotFoundError:
            raise ModelFileError(
                f"The weight file '{path}' is missing. An .mlpackage is a folder; copy it whole, with its weights."
            ) from None
        except ValueError:
            raise ModelFileError(f"The weight file '{path}' is empty.") from None
        if self._bytes.size < _HEADER_BYTES:
            raise ModelFileError(f"The weight file '{path}' ends inside its header ({self._bytes.size} bytes).")
        version = int.from_bytes(self._bytes[4:8].tobytes(), "little")
        if version != _VERSION:
            raise ModelFileError(f"The weight file '{path}' has version {version}; ML Programs use version {_VERSION}.")

    def read(self, offset: int, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
        """The array of ``dtype`` and ``shape`` whose record starts at ``offset``, as a read-only view of the file.

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
        if _ELEMENT_TYPES.get(element) != dtype.numpy.name:
            raise ModelFileError(
                f"Damaged model: {where} is declared {dtype.value} but stored as element type {element}."
            )
        count = 1
        for dim in shape:
            count *= dim
        if size != count * dtype.numpy.itemsize:
            raise ModelFileError(
                f"Damaged model: {where} has {size} bytes, but {dtype.value}{list(shape)} was declared."
            )
        if start + size > self._bytes.size:
            raise ModelFileError(
                f"Damaged model: {where} ends at byte {start + size}, but the file has {self._bytes.size} bytes. "
                "It was probably cut off while it was copied."
            )
        return self._bytes[start : start + size].view(dtype.numpy).reshape(shape)
