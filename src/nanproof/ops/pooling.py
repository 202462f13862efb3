"""Pooling over windows of 1, 2 or 3 spatial dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic, ConvSettings
from nanproof.ops import bound_pooling as bounds
from nanproof.ops.record import Note, OpDef, Sample, flag, float_block, ints, op
from nanproof.ops.windows import Padding, pad_spatial, paddings

__all__ = ["OPS"]


@dataclass(frozen=True, slots=True)
class _Windows:
    """Windows over ``x``. ``overhang`` is what ``ceil_mode`` adds after the padding, which counts for no average."""

    kernel: list[int]
    strides: list[int]
    padding: list[Padding]
    overhang: list[int]

    def padded(self, x: Tensor, value: float = 0.0) -> Tensor:
        """``x`` with everything that a window touches."""
        return pad_spatial(
            x, [Padding(p.before, p.after + o) for p, o in zip(self.padding, self.overhang, strict=True)], value
        )

    def sums(self, arithmetic: Arithmetic, padded: Tensor) -> Tensor:
        """The sum of each window of an input that is padded already: a convolution with ones, channel by channel."""
        ones = torch.ones(1, 1, *self.kernel)
        single = padded.reshape(-1, 1, *padded.shape[2:])
        total = arithmetic.steps.conv(single, ones, None, ConvSettings(self.strides, [1] * len(self.kernel)))
        return total.reshape(*padded.shape[:2], *total.shape[2:])


def _windows(
    x: Tensor, kernel_sizes: Tensor, strides: Tensor | None, pad_type: str, pad: Tensor | None, ceil_mode: Tensor | bool
) -> _Windows:
    kernel, sizes = ints(kernel_sizes), x.shape[2:]
    step = [1] * len(kernel) if strides is None else ints(strides)
    amounts = [0] * 2 * len(kernel) if pad is None else ints(pad)
    padding = paddings(pad_type, amounts, sizes, kernel, step, [1] * len(kernel))
    overhang = [0] * len(kernel)
    if flag(ceil_mode):
        for i, (size, taps, stride, p) in enumerate(zip(sizes, kernel, step, padding, strict=True)):
            whole = size + p.before + p.after
            windows = -(-(whole - taps) // stride) + 1
            if (windows - 1) * stride >= size + p.before and p.before + p.after > 0:
                windows -= 1  # the last window would see nothing but padding
            overhang[i] = max(0, (windows - 1) * stride + taps - whole)
    return _Windows(kernel, step, padding, overhang)


def _max_pool(
    arithmetic: Arithmetic,
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    ceil_mode: Tensor | bool = False,
) -> Tensor:
    windows = _windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[x.dim() - 2]
    return pool(windows.padded(x, -math.inf), windows.kernel, windows.strides)


def _avg_pool(
    arithmetic: Arithmetic,
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    ceil_mode: Tensor | bool = False,
    exclude_padding_from_average: Tensor | bool = False,
) -> Tensor:
    windows = _windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    inside = torch.ones(1, 1, *x.shape[2:])
    if not flag(exclude_padding_from_average):
        inside = pad_spatial(inside, windows.padding, 1.0)
        counted = pad_spatial(inside, [Padding(0, o) for o in windows.overhang])
    else:
        counted = windows.padded(inside)
    unfolded = counted
    for dim, (taps, stride) in enumerate(zip(windows.kernel, windows.strides, strict=True), start=2):
        unfolded = unfolded.unfold(dim, taps, stride).sum(-1)
    return windows.sums(arithmetic, windows.padded(x)) / unfolded


def _l2_pool(
    arithmetic: Arithmetic,
    x: Tensor,
    kernel_sizes: Tensor,
    pad_type: str,
    strides: Tensor | None = None,
    pad: Tensor | None = None,
    ceil_mode: Tensor | bool = False,
) -> Tensor:
    windows = _windows(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    squares = arithmetic.round(windows.padded(x).square())
    return torch.sqrt(arithmetic.round(windows.sums(arithmetic, squares)))


def _settings(ranks: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Windows of every kind, with inputs of every rank."""

    def i32(values: Sequence[int]) -> np.ndarray:
        return np.array(values, np.int32)

    for rank in ranks:
        x, kernel = float_block(2, 3, *(7, 6, 4)[:rank]), i32((3, 2, 2)[:rank])
        yield {"x": x, "kernel_sizes": kernel, "pad_type": "valid"}
        yield {"x": x, "kernel_sizes": kernel, "pad_type": "valid", "strides": i32((2, 3, 1)[:rank])}
        for pad_type in ("same", "same_lower"):
            yield {"x": x, "kernel_sizes": kernel, "pad_type": pad_type, "strides": i32((2, 1, 3)[:rank])}
        yield {"x": x, "kernel_sizes": kernel, "pad_type": "custom", "pad": i32((1, 0, 0, 1, 1, 1)[: 2 * rank])}
    for rank in (r for r in ranks if r <= 2):
        x, kernel, strides = float_block(1, 2, *(6, 8)[:rank]), i32((3, 3)[:rank]), i32((2, 2)[:rank])
        windows = {"x": x, "kernel_sizes": kernel, "strides": strides, "ceil_mode": True}
        yield {**windows, "pad_type": "valid"}
        yield {**windows, "pad_type": "custom", "pad": i32((1, 1, 1, 1)[: 2 * rank])}


def _samples(*ranks: int) -> Any:
    return lambda: (Sample(settings) for settings in _settings(ranks))


def _avg_pool_samples() -> Iterable[Sample]:
    for settings in _settings((1, 2, 3)):
        yield Sample(settings)
        yield Sample({**settings, "exclude_padding_from_average": True})


_OVERHANG = Note(
    "What ceil_mode adds beyond the padding counts for no average; the padding itself counts unless excluded.",
    "coremltools 9.0, class avg_pool: 'Same as PyTorch's ceil mode'; torch.nn.AvgPool2d",
)
_BEYOND = Note(
    "Without padding, ceil_mode may place a last window wholly beyond the input, which PyTorch drops: max_pool gives "
    "-inf there and avg_pool NaN.",
    "coremltools 9.0, defs/_utils.py: spatial_dimensions_out_shape drops it only if there is padding",
)

OPS: tuple[OpDef, ...] = (
    op("avg_pool", "pooling", _avg_pool, _avg_pool_samples, bound=bounds.average(_windows), notes=(_OVERHANG, _BEYOND)),
    op(
        "max_pool",
        "pooling",
        _max_pool,
        _samples(1, 2, 3),
        picks=True,
        bound=bounds.largest(_windows),
        notes=(_BEYOND,),
    ),
    op("l2_pool", "pooling", _l2_pool, _samples(1, 2), bound=bounds.root_of_squares(_windows)),
)
