"""One input, executed: what float32 makes of it, and what a unit makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nanproof.comparison.compare import as_array, measured
from nanproof.comparison.metrics import difference
from nanproof.interpret.execute import Executor
from nanproof.interpret.loop import Observer
from nanproof.mil.names import base_name
from nanproof.numerics import Numerics, get
from nanproof.numerics.neural_engine import NeuralEngine
from nanproof.numerics.overflow import Watched, worst
from nanproof.program import Op, Program

__all__ = ["Answer", "Fault", "Faults", "any_order", "harm", "spans"]

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Fault:
    """What an op made: ``"NaN"`` of operands without, or ``"Inf"`` of finite ones."""

    op: Op
    what: Literal["Inf", "NaN"]


@dataclass(slots=True)
class Faults:
    """Observer that collects the ops that make Inf or NaN. Infinite constants do not count as operands.

    Attributes:
        by_op: The faults.
    """

    by_op: dict[Op, Fault] = field(default_factory=dict[Op, Fault])

    def __call__(self, op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        """Look at one op as it ran."""
        floats = [r for r in results if r.is_floating_point()]
        if all(_all(torch.isfinite, r) for r in floats):
            return
        given = [t for v, t in zip(op.tensors, operands, strict=True) if v.const is None and t.is_floating_point()]
        if any(not _all(torch.isfinite, r) and bool(r.isnan().any()) for r in floats):
            if not any(bool(t.isnan().any()) for t in given):
                self.by_op.setdefault(op, Fault(op, "NaN"))
        elif all(_all(torch.isfinite, t) for t in given):
            self.by_op.setdefault(op, Fault(op, "Inf"))


def _all(test: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    return bool(test(x).all())


class Answer:
    """What float32 makes of an input; it watches the run that finds out.

    Args:
        runner: The program made ready to run in float32.
        inputs: The input.
        observers: Who else wants to see that run.

    Attributes:
        outputs: The outputs. Those of type ``fp16`` may be larger than that holds.
        broken: Names of the values that are Inf or NaN somewhere, as they were called before a cast to FP16.
    """

    def __init__(self, runner: Executor, inputs: Arrays, observers: Sequence[Observer] = ()) -> None:
        self.broken: set[str] = set()
        self._kept = {value: value.name for value in runner.program.main.block.outputs}
        self._floats: dict[str, np.ndarray] = {}
        given = runner.once(inputs, [*observers, self._see])
        self.outputs: dict[str, Any] = {
            name: self._floats.get(name, output) if isinstance(output, np.ndarray) else output
            for name, output in given.items()
        }

    def _see(self, op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        for value, result in zip(op.outputs, results, strict=True):
            if not result.is_floating_point():
                continue
            if value in self._kept:
                self._floats[value.name] = result.clone().numpy()
            if not _all(torch.isfinite, result):
                self.broken.add(base_name(value.name))

    def excuses(self, op: Op) -> bool:
        """Whether float32 is not finite there either."""
        return any(base_name(value.name) in self.broken for value in op.outputs)


def spans(outputs: Mapping[str, Any], program: Program) -> dict[str, float]:
    """The range of the finite elements of each output that is a tensor of numbers."""
    found: dict[str, float] = {}
    for name in measured(program):
        array = as_array(outputs[name]).astype(np.float64)
        finite = array[np.isfinite(array)]
        found[name] = float(np.ptp(finite)) if finite.size else 0.0
    return found


def harm(program: Program, actual: Mapping[str, Any], expected: Mapping[str, Any], span: Mapping[str, float]) -> float:
    """How far the outputs are off, relative to their range; infinite where they are not finite and should be.

    The range is the larger of that of the expected output and ``span``: an output that happens to be nearly constant
    is not measured by its own noise. What the rounding of the output itself may do, one ulp of binary16, does no harm.
    """
    largest = 0.0
    for name, right in zip(measured(program), expected.values(), strict=False):
        found = difference(as_array(actual[name]), as_array(right))
        if found.nonfinite:
            return math.inf
        size = float(np.abs(as_array(right).astype(np.float64), where=np.isfinite(as_array(right))).max(initial=0.0))
        if found.largest > size * 2.0**-10:
            largest = max(largest, found.largest / max(found.range, span.get(name, 0.0)))
    return largest


def any_order(unit: str) -> Numerics | None:
    """A Neural Engine whose sums are infinite if some order of their products overflows; ``None`` for other units."""
    numerics = get(unit)
    engine = numerics.half
    if not isinstance(engine, NeuralEngine):
        return None
    watched = Watched(engine.accumulator, worst, fixed_point=numerics.name != "ane_m1")
    return replace(numerics, half=replace(engine, accumulator=watched))
