"""A tally: the statistics of a stream of tensors, in constant memory and at one or two nanoseconds an element.

All that is relative to a power of two comes from one histogram. The bits of a positive float32 grow with its value, and
adding 2^23 - 1 to them before the mantissa is shifted out gives ``ceil`` of the binary logarithm, and zero a bucket
of its own. So the counts of zeros and of what FP16 loses (up to 2^-25) are exact without another pass.
"""

from __future__ import annotations

import math
import threading
from typing import final

import numpy as np
import torch
from torch import Tensor

__all__ = ["Tally"]

_CHUNK = 1 << 16
"""Elements at a time: what is done to them stays in the cache of a core."""
_TORCH_COUNTS_FASTER = 1 << 15
"""NumPy widens what it counts to 64 bits; PyTorch does not, but needs 30 microseconds to begin."""
_SIGN = 256
"""Buckets of one sign; those of negative numbers come behind."""
_ONE = np.uint32(1)
_BIAS = 127
_ROUND_UP = np.uint32((1 << 23) - 1)
_MANTISSA = np.uint32(23)
_FP16_OVERFLOW = 65520.0
_LARGEST = float(np.finfo(np.float32).max)


class _Scratch(threading.local):
    """An array to work in, made once for each thread."""

    def __init__(self) -> None:
        self.bits = np.empty(_CHUNK, np.uint32)


_scratch = _Scratch()


@final
class Tally:
    """Counts and bounds of all elements that were added; the fields are those of a ``Range``."""

    __slots__ = ("_counts", "_least", "high", "infinities", "low", "nans", "overflows", "smallest")

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.smallest = math.inf
        self.infinities = self.nans = self.overflows = 0
        self._counts = np.zeros(2 * _SIGN, np.int64)
        self._least = _SIGN

    @property
    def zeros(self) -> int:
        """How many elements were zero."""
        return int(self._counts[0] + self._counts[_SIGN])

    def histogram(self) -> tuple[tuple[int, int], ...]:
        """``(k, n)``: n elements had a magnitude in (2^(k-1), 2^k]."""
        counts = self._counts[:_SIGN] + self._counts[_SIGN:]
        return tuple((int(b) - _BIAS, int(counts[b])) for b in np.nonzero(counts)[0] if b)

    def add(self, x: Tensor) -> None:
        """Add the elements of a tensor of numbers or truth values, in any order."""
        if x.numel() == 0:
            return
        flat = _flat(x)
        whole, known = flat.dtype.kind in "iu", (self.low, self.high)
        numbers = flat if flat.dtype == np.float32 else _as_float32(flat)
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, numbers.size, _CHUNK):
                self._add(numbers[start : start + _CHUNK])
        if whole:  # exact bounds, where float32 has rounded large integers
            self.low, self.high = min(known[0], int(flat.min())), max(known[1], int(flat.max()))

    def _add(self, part: np.ndarray) -> None:
        low, high = float(part.min()), float(part.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            part = self._finite(part)
            if not part.size:
                return
            low, high = float(part.min()), float(part.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        bits = _scratch.bits[: part.size]
        np.add(part.view(np.uint32), _ROUND_UP, out=bits)
        np.right_shift(bits, _MANTISSA, out=bits)
        counts = _counted(bits.view(np.int32))
        self._counts += counts
        if max(-low, high) >= _FP16_OVERFLOW:
            self.overflows += int(np.count_nonzero(np.abs(part) >= _FP16_OVERFLOW))
        least = self._least  # no smaller magnitude where all buckets below, and its own, are empty
        if counts[1:least].any() or counts[_SIGN + 1 : _SIGN + least].any():
            np.left_shift(part.view(np.uint32), _ONE, out=bits)
            np.subtract(bits, _ONE, out=bits)  # zero becomes the largest of all
            smallest = ((bits.min() + _ONE) >> _ONE).view(np.float32)
            self.smallest = min(self.smallest, float(smallest))
            self._least = int((smallest.view(np.uint32) + _ROUND_UP) >> _MANTISSA) + 1

    def _finite(self, part: np.ndarray) -> np.ndarray:
        """The finite elements, once the others are counted."""
        finite = np.isfinite(part)
        nans = int(np.isnan(part).sum())
        self.nans += nans
        self.infinities += part.size - int(finite.sum()) - nans
        return np.ascontiguousarray(part[finite])


def _flat(x: Tensor) -> np.ndarray:
    """The elements in memory order, without a copy where memory holds each once."""
    x = x.detach()
    if x.dtype in (torch.float16, torch.bfloat16, torch.bool):
        x = x.float()
    if not x.is_contiguous() and _dense(x):
        x = torch.as_strided(x, (x.numel(),), (1,))
    return x.reshape(-1).cpu().numpy()


def _dense(x: Tensor) -> bool:
    """Whether the elements fill a stretch of memory, in whatever order of axes."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _as_float32(flat: np.ndarray) -> np.ndarray:
    """Other numbers rounded; what is finite stays finite."""
    return np.clip(flat, -_LARGEST, _LARGEST).astype(np.float32) if flat.dtype.kind == "f" else flat.astype(np.float32)


def _counted(buckets: np.ndarray) -> np.ndarray:
    """How many elements each bucket has."""
    if buckets.size < _TORCH_COUNTS_FASTER:
        return np.bincount(buckets, minlength=2 * _SIGN)
    return torch.bincount(torch.from_numpy(buckets), minlength=2 * _SIGN).numpy()
