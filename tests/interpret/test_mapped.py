"""Releasing the pages of a mapped file: the data stays, the memory goes."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from nanproof.values.mapped import release


def resident(root: np.memmap) -> int:
    """Bytes of the file's mapping that are in memory, as Linux counts them."""
    smaps, start = Path("/proc/self/smaps"), f"{root.ctypes.data:x}-"
    if not smaps.exists():
        pytest.skip("the system does not tell which pages are in memory")
    lines = iter(smaps.read_text().splitlines())
    next(line for line in lines if line.startswith(start))
    return 1024 * int(next(line for line in lines if line.startswith("Rss:")).split()[1])


def test_released_pages_leave_memory_and_are_read_again(tmp_path):
    data = np.arange(1 << 20, dtype=np.uint32)
    data.tofile(tmp_path / "weights")
    root = np.memmap(tmp_path / "weights", dtype=np.uint8, mode="r")
    part = root[4096 * 3 + 64 : -4096].view(np.uint32)
    assert part.sum(dtype=np.int64) == data[(4096 * 3 + 64) // 4 : -1024].sum(dtype=np.int64)
    before = resident(root)
    release(part)
    assert resident(root) < before / 4
    np.testing.assert_array_equal(part, data[(4096 * 3 + 64) // 4 : -1024])


def test_other_arrays_are_left_alone():
    array = np.ones(mmap.PAGESIZE)
    release(array)
    release(array[3:])
    release(np.float32(1).reshape(()))
    assert array.sum() == mmap.PAGESIZE
