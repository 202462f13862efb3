"""The arithmetic of the Neural Engine. Row numbers name the device facts (docs, "Numerics and their evidence")."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from typing_extensions import override

from nanproof.numerics.accumulator import Accumulating, Accumulator, total_in_order
from nanproof.numerics.arithmetic import Arithmetic, SingleInside
from nanproof.numerics.multiplier import decoded
from nanproof.numerics.rounding import nearest_away
from nanproof.numerics.tables import Function, looked_up
from nanproof.values.floats import round_fp16

__all__ = ["NeuralEngine"]

_SINGLE = SingleInside()
_CROP_LIMIT = 4094.0


@final
@dataclass(frozen=True, slots=True)
class NeuralEngine(Accumulating):
    """One generation of the Neural Engine.

    Products are summed by the ``accumulator``. Elementwise results and reductions have the full range of binary16 (E1,
    E3, A5). There is no NaN (A13): an invalid operation gives 0, an operand that is NaN +Inf. Functions come from
    tables. What nobody has measured in public (norms, softmax, pooling) computes in float32 inside.

    Attributes:
        accumulator: How products are summed.
        ties_away: Whether results are rounded with ties away from zero (A8: M4 and later), or to even (M1).
        tables: The functions that are evaluated by a table.
        narrow: Whether reductions and norms accumulate in binary16 (E4, E11); otherwise in float32.
        crops: Whether a slice that begins inside the last axis loses numbers beyond 4094 (D1: M1 and M2).
    """

    accumulator: Accumulator
    ties_away: bool
    tables: Mapping[str, Function]
    narrow: bool = False
    crops: bool = False

    max_shift = False  # E5
    keeps = False  # A13, A15

    @property
    @override
    def steps(self) -> Arithmetic:
        return self if self.narrow else _SINGLE

    def _rounded(self, x: Tensor) -> Tensor:
        return nearest_away(x) if self.ties_away else round_fp16(x).add_(0.0)  # A15: no -0

    @override
    def round(self, x: Tensor) -> Tensor:
        # A13: what is NaN here comes of an invalid step.
        return self._rounded(x).nan_to_num_(nan=0.0, posinf=math.inf, neginf=-math.inf)

    @override
    def store(self, x: Tensor, operands: Iterable[Any] = ()) -> Tensor:
        rounded = self._rounded(x)
        if rounded.numel() and math.isnan(rounded.amax()):
            return _without_nan(rounded, operands)
        return rounded

    @override
    def decoded(self, x: Tensor) -> Tensor:
        return decoded(x)

    @override
    def function(self, name: str, rule: Callable[..., Tensor], *operands: Tensor) -> Tensor:
        if name not in self.tables:
            return rule(*operands)
        return looked_up(name, operands[0], self.tables, ties_away=self.ties_away)

    @override
    def cropped(self, x: Tensor, first: int) -> Tensor:
        if not self.crops or first == 0:
            return x
        return torch.where(x.abs() > _CROP_LIMIT, torch.copysign(torch.full_like(x, math.inf), x), x)

    @override
    def sum(self, x: Tensor, dims: Sequence[int], *, keepdim: bool = False) -> Tensor:
        if self.narrow:
            return total_in_order(x, dims, keepdim, self.round)
        return self.round(_SINGLE.sum(x, dims, keepdim=keepdim))

    @override
    def mean(self, x: Tensor, dims: Sequence[int], *, keepdim: bool = False) -> Tensor:
        if self.narrow:
            return Arithmetic.mean(self, x, dims, keepdim=keepdim)
        return self.round(_SINGLE.mean(x, dims, keepdim=keepdim))


def _without_nan(x: Tensor, operands: Iterable[Any]) -> Tensor:
    """+Inf in the place of a NaN that comes of a NaN, 0 in the place of one that comes of an invalid operation."""
    poisoned = torch.zeros(x.shape, dtype=torch.bool)
    for operand in operands:
        if isinstance(operand, Tensor) and operand.is_floating_point() and bool(operand.isnan().any()):
            poisoned = poisoned | (operand.isnan() if _broadcasts(operand.shape, x.shape) else True)
    return torch.where(x.isnan(), torch.where(poisoned, math.inf, 0.0), x)


def _broadcasts(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    pairs = zip(reversed(shape), reversed(wanted), strict=False)
    return len(shape) <= len(wanted) and all(size in (1, other) for size, other in pairs)
