"""Proof: what holds of every value of a program for all inputs inside stated assumptions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nanproof.errors import UsageError
from nanproof.interpret.bounds import Interpreter, Shared, Step
from nanproof.interpret.execute import Executor
from nanproof.numerics import get
from nanproof.program import DType, Op, Program, Value
from nanproof.values.bound import Bound

__all__ = ["Assumption", "Obstacle", "Proof", "UnitProof", "prove"]

DEFAULT_UNITS = ("gpu", "cpu", "ane")


@dataclass(frozen=True, slots=True)
class Assumption:
    """What is assumed of an input: every element is finite and between two bounds.

    Attributes:
        name: The input, or the state.
        low: Lowest element.
        high: Highest element.
        whole: Whether elements are whole numbers.
        reason: Where the bounds come from.
    """

    name: str
    low: float
    high: float
    whole: bool
    reason: str

    def __str__(self) -> str:
        kind = "whole numbers" if self.whole else "numbers"
        return f"{self.name}: {kind} from {self.low:g} to {self.high:g} ({self.reason})"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Where a proof is lost, and why.

    Attributes:
        op: The op.
        reason: What may happen.
        chain: Names of the ops on whose way the bound grew, the last one first.
    """

    op: Op
    reason: str
    chain: tuple[str, ...]

    def __str__(self) -> str:
        where = f", {self.op.source}" if self.op.source else ""
        return f"{self.op.type} '{self.op.name}': {self.reason}{where}"


@dataclass(frozen=True, slots=True)
class UnitProof:
    """What is proved for one unit.

    Attributes:
        unit: Name of the numerics.
        steps: Every op with its bounds, in order of execution.
        obstacles: Where the proof is lost; empty if it is not.
    """

    unit: str
    steps: tuple[Step, ...]
    obstacles: tuple[Obstacle, ...]

    @property
    def verdict(self) -> Literal["proved", "unknown"]:
        """``"proved"`` if every value is finite and inside the unit's limits, for all inputs that are assumed."""
        return "unknown" if self.obstacles else "proved"

    def bounds(self, *op_types: str) -> dict[str, tuple[float, float]]:
        """Bounds of the results of ops of some types (of all ops without any), by name."""
        return {s.op.name: (s.low, s.high) for s in self.steps if not op_types or s.op.type in op_types}


@dataclass(frozen=True, slots=True)
class Proof:
    """What is proved of a program.

    Attributes:
        assumptions: What the proof assumes of the inputs.
        shapes: For which shapes of the inputs it holds.
        units: By name of the unit.
    """

    assumptions: tuple[Assumption, ...]
    shapes: Mapping[str, tuple[int, ...]]
    units: Mapping[str, UnitProof]

    @property
    def verdict(self) -> Literal["proved", "unknown"]:
        """``"proved"`` if it is, for every unit."""
        return "proved" if all(unit.verdict == "proved" for unit in self.units.values()) else "unknown"


def prove(
    program: Program,
    assume: Mapping[str, Any] | None = None,
    *,
    units: Sequence[str] = DEFAULT_UNITS,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Proof:
    """Bound every value of a program for all inputs, and say whether Inf and NaN can occur.

    Args:
        program: The program: its weights count, and its types.
        assume: Bounds ``(low, high)`` of inputs and states. What is not given is assumed by the signature, where that
            says something (token ids, masks, images); otherwise every finite number is possible.
        units: Numerics to prove it for.
        shapes: Shapes of inputs that may have several.

    Raises:
        UsageError: An assumption names no input, or is empty.
        NumericsError: There is no such numerics.
    """
    assumptions = _assumptions(program, assume or {})
    sizes = _sizes(program, shapes or {})
    inner = _inner_shapes(program, assumptions, sizes)
    proofs: dict[str, UnitProof] = {}
    shared = Shared()
    for unit in units:
        numerics = get(unit)
        interpreter = Interpreter(program.main, numerics, inner, shared)
        inputs = {a.name: Bound.interval(sizes[a.name], a.low, a.high, whole=a.whole) for a in assumptions}
        outputs = interpreter(inputs)
        steps = tuple(interpreter.steps.values())
        obstacles = _obstacles(program, steps, outputs)
        proofs[numerics.name] = UnitProof(numerics.name, steps, obstacles)
    return Proof(assumptions, sizes, proofs)


def _assumptions(program: Program, assume: Mapping[str, Any]) -> tuple[Assumption, ...]:
    unknown = sorted(set(assume) - set(program.main.inputs))
    if unknown:
        raise UsageError(
            f"There is no input {', '.join(map(repr, unknown))} to assume anything of. The program takes "
            f"{', '.join(program.main.inputs)}."
        )
    made: list[Assumption] = []
    for name, value in program.main.inputs.items():
        dtype = value.type.dtype
        if name in assume:
            low, high = (float(v) for v in assume[name])
            if not low <= high or math.isinf(low) or math.isinf(high):
                raise UsageError(
                    f"The assumption on '{name}', from {low:g} to {high:g}, is no range of finite numbers."
                )
            made.append(Assumption(name, low, high, not dtype.is_float, "given"))
        else:
            made.append(_by_type(name, value))
    return tuple(made)


def _by_type(name: str, value: Value) -> Assumption:
    dtype = value.type.dtype
    if dtype.is_float:
        limit = 65504.0 if dtype is DType.FP16 else 3.4028234663852886e38
        return Assumption(name, -limit, limit, False, f"every finite {dtype.value}")
    if dtype.value == "bool":
        return Assumption(name, 0, 1, True, "truth values")
    return Assumption(name, -(2.0**31), 2.0**31 - 1, True, f"every {dtype.value}")


def _sizes(program: Program, shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    sizes: dict[str, tuple[int, ...]] = {}
    for name, value in program.main.inputs.items():
        feature = program.interface.inputs.get(name)
        default = feature.shapes.default if feature is not None else None
        chosen = tuple(shapes[name]) if name in shapes else default or value.type.shape
        if not all(isinstance(d, int) for d in chosen):
            raise UsageError(
                f"Input '{name}' may have several shapes: say for which to prove, shapes={{'{name}': (1, 128)}}."
            )
        sizes[name] = tuple(int(d) for d in chosen)
    return sizes


def _inner_shapes(
    program: Program, assumptions: Sequence[Assumption], sizes: Mapping[str, tuple[int, ...]]
) -> dict[Value, tuple[int, ...]]:
    """The sizes of all values where the program leaves some open: those of one run on inputs inside the assumptions."""
    values = [v for op in program.main.block.walk() for v in op.outputs]
    if all(isinstance(d, int) for v in values for d in v.type.shape):
        return {}
    import numpy as np  # only here

    known: dict[Value, tuple[int, ...]] = {}

    def see(op: Op, operands: Any, results: Any) -> None:
        for value, result in zip(op.outputs, results, strict=True):
            known[value] = tuple(result.shape)

    given = {
        a.name: np.full(sizes[a.name], min(max(0.0, a.low), a.high)).astype(program.inputs[a.name].dtype.numpy)
        for a in assumptions
        if a.name in program.inputs
    }
    Executor(program, "reference").once(given, [see])
    return known


def _obstacles(program: Program, steps: Sequence[Step], outputs: Sequence[Any]) -> tuple[Obstacle, ...]:
    by_value = {value: step for step in steps for value in step.op.outputs}
    found = [Obstacle(step.op, problem, _chain(step, by_value)) for step in steps for problem in step.problems]
    for value, bound in zip(program.main.block.outputs, outputs, strict=True):
        step = by_value.get(value)
        if step is None or step.problems or not isinstance(bound, Bound) or not value.type.dtype.is_float:
            continue
        if not bound.finite:
            found.append(Obstacle(step.op, f"the output '{value.name}' may be Inf or NaN", _chain(step, by_value)))
    return tuple(found)


def _chain(step: Step, by_value: Mapping[Value, Step], most: int = 8) -> tuple[str, ...]:
    """The way back along the largest operands, as long as bounds shrink."""
    names = [step.op.name]
    while len(names) < most:
        behind = [by_value[v] for v in step.op.operands if v in by_value]
        if not behind:
            break
        larger = max(behind, key=lambda s: s.reach)
        if larger.reach <= 1.0 or larger.op.name in names:
            break
        step = larger
        names.append(step.op.name)
    return tuple(names)
