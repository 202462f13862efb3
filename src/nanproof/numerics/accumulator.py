"""Sums of products, added up one product after the other, and the sums of plain numbers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol, final

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from nanproof.numerics.arithmetic import Arithmetic, ConvSettings
from nanproof.numerics.rounding import nearest_even_double

__all__ = ["Accumulating", "Accumulator", "Chained", "Fused", "operands", "total_in_order"]


class Accumulator(Protocol):
    """How a unit computes matrix products and convolutions; the methods are those of an ``Arithmetic``.

    The bias belongs to the sum: a unit may start with it.
    """

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """``(..., m, k) @ (..., k, n)``; a vector is a row on the left and a column on the right."""
        ...

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``x @ weight.T + bias``: ``(..., k)`` and ``(n, k)`` give ``(..., n)``."""
        ...

    def conv(self, x: Tensor, weight: Tensor, bias: Tensor | None, settings: ConvSettings) -> Tensor:
        """Convolution of 1, 2 or 3 spatial dimensions."""
        ...


class Accumulating(Arithmetic):
    """An arithmetic whose products go to an accumulator."""

    accumulator: Accumulator

    @override
    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        return self.accumulator.matmul(x, y)

    @override
    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self.accumulator.linear(x, weight, bias)

    @override
    def conv(self, x: Tensor, weight: Tensor, bias: Tensor | None, settings: ConvSettings) -> Tensor:
        return self.accumulator.conv(x, weight, bias, settings)


class Chained(Accumulator, ABC):
    """An accumulator that takes one product after the other: for each output by input channel, then kernel place."""

    @abstractmethod
    def dot(self, x: Tensor, y: Tensor, bias: Tensor | None) -> Tensor:
        """``(..., m, k) @ (..., k, n) + bias`` in float32; the bias broadcasts against the result."""

    @override
    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        if x.dim() == 1:
            return self.matmul(x.unsqueeze(0), y).squeeze(-1 if y.dim() == 1 else -2)
        if y.dim() == 1:
            return self.matmul(x, y.unsqueeze(1)).squeeze(-1)
        return self.dot(x, y, None)

    @override
    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = x.unsqueeze(0) if x.dim() == 1 else x
        return self.dot(rows, weight.mT, bias).reshape(*x.shape[:-1], weight.shape[0])

    @override
    def conv(self, x: Tensor, weight: Tensor, bias: Tensor | None, settings: ConvSettings) -> Tensor:
        strides, dilations, groups, padding = settings
        if any(padding):
            x = F.pad(x, [amount for amount in reversed(padding) for _ in range(2)])
        windows = _windows(x, weight.shape[2:], strides, dilations)
        batch, spatial = x.shape[0], windows.shape[2 : 2 + len(strides)]
        columns = windows.flatten(2 + len(strides))  # (batch, channels, *out, taps)
        columns = columns.reshape(batch, groups, -1, *columns.shape[2:]).movedim(2, -2)
        columns = columns.flatten(-2).flatten(2, -2)  # (batch, groups, out positions, channels * taps)
        kernels = weight.reshape(groups, weight.shape[0] // groups, -1).transpose(1, 2)
        start = None if bias is None else bias.reshape(groups, 1, -1)
        out = self.dot(columns, kernels.unsqueeze(0), start)
        return out.transpose(2, 3).reshape(batch, weight.shape[0], *spatial)


@final
class Fused(Chained):
    """One fused multiply-add in binary16 after the other, rounded to nearest even, subnormals kept.

    It reproduces 165 of 165 measured rows of a convolution on Apple's CPU (device facts C2).

    Args:
        bias_first: Whether the chain starts with the bias; otherwise the bias is added to the result, in float32.
    """

    def __init__(self, *, bias_first: bool) -> None:
        self.bias_first = bias_first

    @override
    def dot(self, x: Tensor, y: Tensor, bias: Tensor | None) -> Tensor:
        # Of two binary16 numbers float64 holds the product, and its sum with a third, so that one rounding remains.
        total, left, right = operands(x, y, bias if self.bias_first else None)
        for k in range(left.shape[0]):
            total = nearest_even_double(total + left[k].unsqueeze(-1) * right[k].unsqueeze(-2))
        result = total.to(torch.float32)
        return result if bias is None or self.bias_first else result + bias


def operands(x: Tensor, y: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The start of the sums ``(..., m, n)``, and both operands with the summed dimension first, in float64."""
    shape = (*torch.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1])
    start = torch.zeros(shape, dtype=torch.float64)
    if bias is not None:
        start = start + bias
    left, right = x.to(torch.float64).movedim(-1, 0), y.to(torch.float64).movedim(-2, 0)
    return start, left.contiguous(), right.contiguous()


def total_in_order(x: Tensor, dims: Sequence[int], keepdim: bool, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """Sum over ``dims``, one element after the other in index order, each partial sum rounded. Float32."""
    if not len(dims):
        return x
    gone = sorted(d % x.dim() for d in dims)
    kept = [d for d in range(x.dim()) if d not in gone]
    count = math.prod(x.shape[d] for d in gone)
    rows = x.permute(*gone, *kept).reshape(count, *(x.shape[d] for d in kept))
    total = torch.zeros(rows.shape[1:], dtype=torch.float32)
    for row in rows:
        total = rounding(total + row)
    for d in gone if keepdim else ():
        total = total.unsqueeze(d)
    return total


def _windows(x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Tensor:
    """Sliding windows as a view: ``(batch, channels, *out, *kernel)``."""
    for i, (size, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        x = x.unfold(2 + i, (size - 1) * dilation + 1, stride)[..., ::dilation]
    return x
