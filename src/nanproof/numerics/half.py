"""Arithmetic in binary16: of ``strict``, and of Apple's CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from torch import Tensor
from typing_extensions import override

from nanproof.numerics.accumulator import Accumulating, Fused, total_in_order
from nanproof.numerics.arithmetic import Arithmetic, SingleInside
from nanproof.values.floats import round_fp16

__all__ = ["CpuInside", "HalfInside", "HalfSteps"]

_SINGLE = SingleInside()


@final
class HalfInside(Accumulating):
    """IEEE binary16 everywhere: each product-sum is one fused multiply-add in binary16, in index order.

    The harshest of the IEEE readings: sums overflow at 65504 and stall at 2048. A bias is added last.
    """

    accumulator = Fused(bias_first=False)

    @override
    def round(self, x: Tensor) -> Tensor:
        return round_fp16(x)

    @override
    def sum(self, x: Tensor, dims: Sequence[int], *, keepdim: bool = False) -> Tensor:
        return total_in_order(x, dims, keepdim, round_fp16)


@final
class CpuInside(Accumulating):
    """Apple's CPU, bit for bit where it has been measured: products are accumulated in binary16 (device facts C2).

    Measured is the convolution; matrix products and sums are taken to be the same, which is the pessimistic reading.
    The chain starts with the bias: the measured rows agree with both orders. Activations, norms, softmax and pooling
    compute in float32 inside (C6, P7).
    """

    accumulator = Fused(bias_first=True)

    @property
    @override
    def steps(self) -> Arithmetic:
        return _SINGLE

    @override
    def round(self, x: Tensor) -> Tensor:
        return x

    @override
    def sum(self, x: Tensor, dims: Sequence[int], *, keepdim: bool = False) -> Tensor:
        return total_in_order(x, dims, keepdim, round_fp16)


@final
class HalfSteps(Accumulating):
    """IEEE binary16 for every step inside an op, but a sum or a mean is one step: float32 inside, rounded once.

    The fast reading of ``strict``. Steps overflow as in binary16 (a square, a sum, an exponential); what only a chain
    of binary16 additions would lose, it keeps. Of a recurrent layer all steps are one.
    """

    accumulator = _SINGLE
    whole = True

    @override
    def round(self, x: Tensor) -> Tensor:
        return round_fp16(x)

    @override
    def sum(self, x: Tensor, dims: Sequence[int], *, keepdim: bool = False) -> Tensor:
        return round_fp16(_SINGLE.sum(x, dims, keepdim=keepdim))

    @override
    def mean(self, x: Tensor, dims: Sequence[int], *, keepdim: bool = False) -> Tensor:
        return round_fp16(_SINGLE.mean(x, dims, keepdim=keepdim))
