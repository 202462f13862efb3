"""The arithmetic inside one op: how wide products are added up and where intermediate results are rounded.

The *storage* rounding of a result is not here: it follows from the type of the value and is done once, by the
executor, for every op alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from nanproof.values.floats import round_fp16

__all__ = ["Arithmetic", "ConvSettings", "HalfInside", "SingleInside"]

ConvSettings = tuple[Sequence[int], Sequence[int], int]
"""Strides, dilations and groups of a convolution; the input is padded already."""


class Arithmetic(ABC):
    """What an op's ``run`` rule may use beside plain elementwise PyTorch on float32 carriers."""

    @abstractmethod
    def round(self, x: Tensor) -> Tensor:
        """Round an intermediate result (between two steps inside one op). Same shape."""

    @abstractmethod
    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """Batched matrix product with this arithmetic's accumulator: ``(..., m, k) @ (..., k, n)``.

        A vector stands for a row on the left and for a column on the right, without that dimension in the result.
        """

    @abstractmethod
    def conv(self, x: Tensor, weight: Tensor, settings: ConvSettings) -> Tensor:
        """Convolution of 1, 2 or 3 spatial dimensions, without bias, over an input that is padded already."""

    @abstractmethod
    def sum(self, x: Tensor, dims: Sequence[int], *, keepdim: bool = False) -> Tensor:
        """Sum over ``dims`` with this arithmetic's accumulator."""

    def mean(self, x: Tensor, dims: Sequence[int], *, keepdim: bool = False) -> Tensor:
        """Mean over ``dims``: the sum, then one division."""
        count = 1
        for dim in dims:
            count *= x.shape[dim]
        return self.round(self.sum(x, dims, keepdim=keepdim) / count)


@final
class SingleInside(Arithmetic):
    """IEEE binary32 inside the op: no intermediate rounding, float32 accumulators.

    This is how a ``fp32`` op computes on CPU and GPU (device facts T1), and how the GPU computes a ``fp16`` op: float32
    accumulators, one rounding when the result is stored (G2-G5; for softmax and norms an assumption, see section 9.2).
    """

    @override
    def round(self, x: Tensor) -> Tensor:
        return x

    @override
    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.matmul(x, y)

    @override
    def conv(self, x: Tensor, weight: Tensor, settings: ConvSettings) -> Tensor:
        strides, dilations, groups = settings
        convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[x.dim() - 2]
        return convolve(x, weight, None, tuple(strides), 0, tuple(dilations), groups)

    @override
    def sum(self, x: Tensor, dims: Sequence[int], *, keepdim: bool = False) -> Tensor:
        return torch.sum(x, dim=list(dims), keepdim=keepdim) if len(dims) else x


@final
class HalfInside(Arithmetic):
    """IEEE binary16 everywhere: each product-sum is one fused multiply-add in binary16, in index order.

    The sequential fused accumulator reproduces 165 of 165 measured rows of a ``fp16`` convolution on Apple's CPU
    (device facts C2). It is the harshest of the IEEE readings: sums overflow at 65504 and stall at 2048.
    """

    @override
    def round(self, x: Tensor) -> Tensor:
        return round_fp16(x)

    @override
    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        if x.dim() == 1:
            return self.matmul(x.unsqueeze(0), y).squeeze(-1 if y.dim() == 1 else -2)
        if y.dim() == 1:
            return self.matmul(x, y.unsqueeze(1)).squeeze(-1)
        shape = (*torch.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1])
        # Of two binary16 numbers float64 holds the product, and its sum with a third, so that one rounding remains.
        total = torch.zeros(shape, dtype=torch.float64)
        left, right = x.to(torch.float64).movedim(-1, 0).contiguous(), y.to(torch.float64).movedim(-2, 0).contiguous()
        for k in range(left.shape[0]):
            total = _nearest_fp16(total + left[k].unsqueeze(-1) * right[k].unsqueeze(-2))
        return total.to(torch.float32)

    @override
    def conv(self, x: Tensor, weight: Tensor, settings: ConvSettings) -> Tensor:
        strides, dilations, groups = settings
        windows = _windows(x, weight.shape[2:], strides, dilations)
        batch, spatial = x.shape[0], windows.shape[2 : 2 + len(strides)]
        columns = windows.flatten(2 + len(strides))  # (batch, channels, *out, taps)
        columns = columns.reshape(batch, groups, -1, *columns.shape[2:]).movedim(2, -2)
        columns = columns.flatten(-2).flatten(2, -2)  # (batch, groups, out positions, channels * taps)
        kernels = weight.reshape(groups, weight.shape[0] // groups, -1).transpose(1, 2)
        out = self.matmul(columns, kernels.unsqueeze(0))
        return out.transpose(2, 3).reshape(batch, weight.shape[0], *spatial)

    @override
    def sum(self, x: Tensor, dims: Sequence[int], *, keepdim: bool = False) -> Tensor:
        if not len(dims):
            return x
        kept = [d for d in range(x.dim()) if d not in {d % x.dim() for d in dims}]
        rows = x.permute(*(d for d in range(x.dim()) if d not in kept), *kept).reshape(-1, *(x.shape[d] for d in kept))
        total = torch.zeros(rows.shape[1:], dtype=torch.float32)
        for row in rows:
            total = round_fp16(total + row)
        if keepdim:
            for d in sorted(d % x.dim() for d in dims):
                total = total.unsqueeze(d)
        return total


def _nearest_fp16(x: Tensor) -> Tensor:
    """Round a float64 tensor to binary16, once. Same shape and dtype.

    PyTorch goes there by way of float32 and rounds twice, which picks the wrong neighbour where the float32 is the
    midpoint of two binary16 numbers. Rounded to odd at 24 bits first, no float32 is such a midpoint by accident
    (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008).
    """
    bits = x.view(torch.int64)
    # The carry of this addition sets the last bit that is kept if any bit below it is set.
    odd = ((bits & _BELOW_24).add_(_BELOW_24)).bitwise_or_(bits).bitwise_and_(~_BELOW_24)
    return odd.view(torch.float64).to(torch.float16).to(torch.float64)


_BELOW_24 = (1 << 29) - 1
"""The bits of a float64 beyond the 24 significant ones of a float32."""


def _windows(x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Tensor:
    """Sliding windows as a view: ``(batch, channels, *out, *kernel)``."""
    for i, (size, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        x = x.unfold(2 + i, (size - 1) * dilation + 1, stride)[..., ::dilation]
    return x
