"""Arrays that are views of a mapped file."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["release"]


def release(array: NDArray[Any]) -> None:
    """Give the memory in which the pages of a mapped file were read back to the system, for the pages of ``array``.

    The data stays valid: it is read again from the file when it is next used. Does nothing for an array that is no view
    of a mapped file, and where the system has no ``madvise``.
    """
    root: Any = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    if not isinstance(root.base, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    # The mapping starts at a page, and the root at its first byte; the parts of pages at both ends may hold other data,
    # which costs nothing but another reading.
    start = array.ctypes.data - root.ctypes.data
    begin = start - start % mmap.PAGESIZE
    root.base.madvise(mmap.MADV_DONTNEED, begin, start + array.nbytes - begin)
