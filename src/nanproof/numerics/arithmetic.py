"""The arithmetic inside one op: how wide products are added up and where intermediate results are rounded.

A rule in the table of ops names the steps; an arithmetic says what each of them gives on one unit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from nanproof.values.floats import round_fp16

__all__ = ["Arithmetic", "ConvSettings", "SingleInside"]


class ConvSettings(NamedTuple):
    """How the windows of a convolution lie.

    ``padding`` is the number of zeros at both ends of each spatial dimension; none if it is empty.
    """

    strides: Sequence[int]
    dilations: Sequence[int]
    groups: int = 1
    padding: Sequence[int] = ()


class Arithmetic(ABC):
    """What an op's ``run`` rule may use beside plain elementwise PyTorch on float32 carriers."""

    max_shift: bool = True
    """Whether ``reduce_log_sum_exp`` subtracts the maximum before it takes exponentials."""

    keeps: bool = True
    """Whether every number of binary16, Inf and NaN included, is stored as it is."""

    whole: bool = False
    """Whether a recurrent layer is one step, computed in float32."""

    @property
    def steps(self) -> Arithmetic:
        """The arithmetic of the steps inside a normalisation, a softmax or a pooling."""
        return self

    @abstractmethod
    def round(self, x: Tensor) -> Tensor:
        """Round an intermediate result (between two steps inside one op). Same shape."""

    def store(self, x: Tensor, operands: Iterable[Any] = ()) -> Tensor:
        """Round the result of an op to ``fp16``. Same shape; ``operands`` are its arguments, tensors and others."""
        return round_fp16(x)

    def decoded(self, x: Tensor) -> Tensor:
        """An operand as the unit's multiplier or softmax reads it: itself, where Inf and NaN mean what IEEE says."""
        return x

    def function(self, name: str, rule: Callable[..., Tensor], *operands: Tensor) -> Tensor:
        """The elementwise function ``name``: by ``rule``, unless the unit evaluates it in a way of its own."""
        return rule(*operands)

    def cropped(self, x: Tensor, first: int) -> Tensor:
        """A slice that begins at ``first`` of the last axis, as the unit's copy engine delivers it."""
        return x

    @abstractmethod
    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """Batched matrix product with this arithmetic's accumulator: ``(..., m, k) @ (..., k, n)``.

        A vector stands for a row on the left and for a column on the right, without that dimension in the result.
        """

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``x @ weight.T + bias``: ``(..., k)`` and ``(n, k)`` give ``(..., n)``. Here the bias is added last."""
        product = self.matmul(x, weight.mT)
        return product if bias is None else self.round(product) + bias

    @abstractmethod
    def conv(self, x: Tensor, weight: Tensor, bias: Tensor | None, settings: ConvSettings) -> Tensor:
        """Convolution of 1, 2 or 3 spatial dimensions."""

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

    whole = True

    @override
    def round(self, x: Tensor) -> Tensor:
        return x

    @override
    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.matmul(x, y)

    @override
    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    @override
    def conv(self, x: Tensor, weight: Tensor, bias: Tensor | None, settings: ConvSettings) -> Tensor:
        strides, dilations, groups, padding = settings
        convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[x.dim() - 2]
        return convolve(x, weight, bias, tuple(strides), tuple(padding) or 0, tuple(dilations), groups)

    @override
    def sum(self, x: Tensor, dims: Sequence[int], *, keepdim: bool = False) -> Tensor:
        return torch.sum(x, dim=list(dims), keepdim=keepdim) if len(dims) else x
