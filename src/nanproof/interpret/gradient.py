"""The differentiable reading of a program: float32, with slopes where rounding and cutting have none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from nanproof.errors import ExecutionError
from nanproof.interpret.loop import Runner
from nanproof.interpret.state import make_state
from nanproof.numerics import Numerics
from nanproof.numerics.arithmetic import Arithmetic, ConvSettings, SingleInside
from nanproof.program import DType, Op, Program
from nanproof.values.floats import to_carrier

__all__ = ["Differentiator", "Goal", "Slopes", "Tap"]

Goal = Callable[[Op, Sequence[Tensor], Sequence[Tensor]], Tensor | None]
"""What to raise: a scalar made of an op's operands and results, or ``None`` where there is none."""

_SINGLE = SingleInside()
_STEPS = frozenset({"round", "floor", "ceil"})
_DEAD = 0.05
"""The slope of a dead ReLU: a search that starts among dead units would have no way to go otherwise."""


@final
class _StraightThrough(Arithmetic):
    """Float32 arithmetic in which a step function has the slope of the line that it follows."""

    whole = True

    @override
    def round(self, x: Tensor) -> Tensor:
        return x

    @override
    def function(self, name: str, rule: Callable[..., Tensor], *operands: Tensor) -> Tensor:
        result = rule(*operands)
        if not operands[0].requires_grad or not result.is_floating_point():
            return result
        line = operands[0] - operands[0].detach()
        if name in _STEPS:
            return result.detach() + line
        return result + _DEAD * line if name == "relu" else result

    @override
    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        return _SINGLE.matmul(x, y)

    @override
    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _SINGLE.linear(x, weight, bias)

    @override
    def conv(self, x: Tensor, weight: Tensor, bias: Tensor | None, settings: ConvSettings) -> Tensor:
        return _SINGLE.conv(x, weight, bias, settings)

    @override
    def sum(self, x: Tensor, dims: Sequence[int], *, keepdim: bool = False) -> Tensor:
        return _SINGLE.sum(x, dims, keepdim=keepdim)


@final
@dataclass(frozen=True, slots=True)
class _Smooth(Numerics):
    """The numerics of the reading: the same arithmetic for every op, whatever it computes in."""

    @override
    def arithmetic(self, dtype: DType | None, op_type: str = "", *, of_integers: bool = False) -> Arithmetic:
        return self.half


_SMOOTH = _Smooth("gradient", "float32 throughout, differentiable", _StraightThrough(), rounds_storage=False)


@dataclass(frozen=True, slots=True)
class Tap:
    """A float tensor that is made of whole numbers or truth values alone, such as the rows that ids gather.

    Attributes:
        op: The op that made it.
        operands: The operands of the op.
        result: The tensor.
        slope: The slope of the goal along it.
    """

    op: Op
    operands: tuple[Tensor, ...]
    result: Tensor
    slope: Tensor


@dataclass(frozen=True, slots=True)
class Slopes:
    """The value of a goal, and which way it rises.

    Attributes:
        goal: The goal. Inf or NaN where float32 ends too.
        inputs: Slopes along the float inputs that the goal depends on, by name; what is not finite is 0.
        taps: Slopes where float numbers first come of whole ones.
    """

    goal: float
    inputs: Mapping[str, np.ndarray]
    taps: tuple[Tap, ...]


class _ReachedError(Exception):
    """The goal was computed; nothing behind it has to be."""


class Differentiator:
    """A program made ready to be differentiated, states being zeros.

    Raises:
        UnsupportedOpError, ExecutionError: As for :class:`~nanproof.interpret.loop.Runner`.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._runner = Runner(program, _SMOOTH)
        self._nested = {op for outer in program.main.block.ops for block in outer.blocks for op in block.walk()}

    def __call__(self, inputs: Mapping[str, np.ndarray], target: Op, goal: Goal) -> Slopes | None:
        """Run up to an op, and differentiate a goal by the inputs.

        Args:
            inputs: One array for each input, as it is declared.
            target: The op of which the goal is made.
            goal: The goal; of an op that runs several times the last one counts.

        Returns:
            The slopes, or ``None`` where the op does not run, has no goal, or the goal depends on no input smoothly.
        """
        leaves: dict[str, Tensor] = {}
        carried: dict[str, Any] = dict(make_state(self.program).cells)
        for name, array in inputs.items():
            carried[name] = to_carrier(array, self.program.inputs[name].dtype)
            if self.program.inputs[name].dtype.is_float:
                leaves[name] = carried[name] = torch.as_tensor(carried[name]).clone().requires_grad_(True)
        sources = _Sources(self.program)
        reached: list[Tensor] = []

        def look(op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
            sources(op, operands, results)
            if op is not target:
                return
            value = goal(op, operands, results)
            if value is not None:
                reached[:] = [value]
            if op not in self._nested:
                raise _ReachedError

        try:
            self._runner(carried, [look], slopes=True)
        except _ReachedError:
            pass
        except ExecutionError:
            return None  # a rule that writes in place cannot be differentiated
        if not reached or not reached[0].requires_grad:
            return None
        tapped = [result for _, _, result in sources.taps]
        found = torch.autograd.grad(reached[0], [*leaves.values(), *tapped], allow_unused=True)
        slopes = [_finite(slope) for slope in found]
        by_input = {n: s.numpy() for n, s in zip(leaves, slopes[: len(leaves)], strict=True) if s is not None}
        taps = tuple(
            Tap(op, operands, result.detach(), slope)
            for (op, operands, result), slope in zip(sources.taps, slopes[len(leaves) :], strict=True)
            if slope is not None
        )
        return Slopes(float(reached[0].detach()), by_input, taps)


def _finite(slope: Tensor | None) -> Tensor | None:
    """A slope without Inf and NaN; there is none along what the goal does not depend on."""
    return None if slope is None else slope.nan_to_num(0.0, 0.0, 0.0)


class _Sources:
    """Finds the taps while a program runs: floats that depend on an input, but not smoothly. It makes them leaves."""

    def __init__(self, program: Program) -> None:
        self.taps: list[tuple[Op, tuple[Tensor, ...], Tensor]] = []
        self._moved = set(program.main.inputs.values())

    def __call__(self, op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        if not any(value in self._moved for value in op.operands):
            return
        self._moved.update(op.outputs)
        for result in results:
            if result.is_floating_point() and result.is_leaf and not result.requires_grad and result.numel():
                result.requires_grad_(True)
                self.taps.append((op, tuple(operands), result))
