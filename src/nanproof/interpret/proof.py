"""Proof: what holds of every value of a program for all inputs inside stated assumptions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nanproof.errors import UsageError
from nanproof.interpret.bounds import Interpreter, Shared, Step
from nanproof.interpret.execute import Executor
from nanproof.numerics import get
from nanproof.ops.bounding import FLOAT32_MAX, integer_range
from nanproof.program import DType, Op, Program, Value
from nanproof.stress.kinds import input_kinds
from nanproof.values.bound import Bound
from nanproof.values.floats import FP16_MAX

__all__ = ["Assumption", "Obstacle", "Proof", "UnitProof", "assumptions", "prove"]

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
        first: Whether everything that the op reads is bounded. If not, it may be the consequence of another obstacle.
        chain: Names of the ops on whose way the bound grew, the last one first.
    """

    op: Op
    reason: str
    first: bool
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

    @property
    def closest(self) -> Step | None:
        """The bounded step that comes closest to the limit of its type."""
        steps = [s for s in self.steps if not s.problems and math.isfinite(s.limit)]
        return max(steps, key=lambda s: s.reach / s.limit, default=None)

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
    batches: Sequence[Mapping[str, np.ndarray]] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Proof:
    """Bound every value of a program for all inputs, and say whether Inf and NaN can occur.

    Args:
        program: The program: its weights count, and its types.
        assume: By input or state its bounds ``(low, high)``, or the name of its kind (``"image"``). What is not given
            is assumed by the signature, where that says something (token ids, masks, images); otherwise every finite
            number of its type is possible.
        units: Numerics to prove it for.
        batches: Inputs by name, if there are any: an input of no known kind is then assumed to stay in their range.
        shapes: Shapes of inputs that may have several. The proof holds for these shapes; by default for the default
            shapes.

    Returns:
        The proof, with everything that it assumes.

    Raises:
        UsageError: An assumption names no input, or is empty; or a shape is needed.
        NumericsError: There is no such numerics.
    """
    assumed = assumptions(program, assume, batches)
    sizes = _sizes(program, shapes or {})
    inner = _inner_shapes(program, assumed, sizes)
    proofs: dict[str, UnitProof] = {}
    shared = Shared()
    for unit in units:
        numerics = get(unit)
        interpreter = Interpreter(program.main, numerics, inner, shared)
        inputs = {a.name: Bound.interval(sizes[a.name], a.low, a.high, whole=a.whole) for a in assumed}
        outputs = interpreter(inputs)
        steps = tuple(interpreter.steps.values())
        obstacles = _obstacles(program, steps, outputs)
        proofs[numerics.name] = UnitProof(numerics.name, steps, obstacles)
    return Proof(assumed, sizes, proofs)


def assumptions(
    program: Program, assume: Mapping[str, Any] | None = None, batches: Sequence[Mapping[str, np.ndarray]] = ()
) -> tuple[Assumption, ...]:
    """What a proof assumes of each input and state: as given, by its kind, or every number of its type.

    Args:
        program: The program.
        assume: ``(low, high)`` by name, or the name of a kind (``"image"``, ...).
        batches: Inputs that are known: an input of no known kind is assumed to stay in the range that it has there.

    Raises:
        UsageError: A name is none of the program's, or a range is empty or not finite.
    """
    given = dict(assume or {})
    unknown = sorted(set(given) - set(program.main.inputs))
    if unknown:
        raise UsageError(
            f"There is no input {', '.join(map(repr, unknown))} to assume anything of. The program takes "
            f"{', '.join(program.main.inputs)}."
        )
    ranges = {name: _range(name, bounds) for name, bounds in given.items() if not isinstance(bounds, str)}
    stated: dict[str, str | tuple[float, float]] = {
        name: ranges[name] if name in ranges else str(bounds)
        for name, bounds in given.items()
        if name in program.inputs
    }
    kinds = input_kinds(program, batches, stated)
    made: list[Assumption] = []
    for name, value in program.main.inputs.items():
        if name in ranges:
            low, high = ranges[name]
            made.append(Assumption(name, low, high, not value.type.dtype.is_float, "given"))
        elif name in kinds and kinds[name].bounded:
            kind = kinds[name]
            made.append(Assumption(name, kind.low, kind.high, kind.integral, f"{kind.name}: {kind.reason}"))
        else:
            made.append(_by_type(name, value))
    return tuple(made)


def _range(name: str, bounds: Any) -> tuple[float, float]:
    low, high = (float(v) for v in bounds)
    if not low <= high or math.isinf(low) or math.isinf(high):
        raise UsageError(f"The assumption on '{name}', from {low:g} to {high:g}, is no range of finite numbers.")
    return low, high


def _by_type(name: str, value: Value) -> Assumption:
    dtype = value.type.dtype
    if dtype.is_float:
        limit = FP16_MAX if dtype is DType.FP16 else FLOAT32_MAX
        return Assumption(name, -limit, limit, False, f"every finite {dtype.value}: nothing says what it is")
    if dtype is DType.BOOL:
        return Assumption(name, 0, 1, True, "truth values")
    low, high = integer_range(dtype)
    return Assumption(name, low, high, True, f"every {dtype.value}: nothing says what it is")


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
    behind = _behind(steps)
    found = [
        Obstacle(step.op, problem, step.op not in behind, _chain(step, by_value))
        for step in steps
        for problem in step.problems
    ]
    for value, bound in zip(program.main.block.outputs, outputs, strict=True):
        step = by_value.get(value)
        if step is None or step.problems or not isinstance(bound, Bound) or not value.type.dtype.is_float:
            continue
        if not bound.finite:
            reason = f"the output '{value.name}' may be Inf or NaN"
            found.append(Obstacle(step.op, reason, step.op not in behind, _chain(step, by_value)))
    return tuple(found)


def _behind(steps: Sequence[Step]) -> set[Op]:
    """The ops that read, directly or not, what an op with a problem has computed."""
    lost: set[Value] = set()
    behind: set[Op] = set()
    for step in steps:
        if any(value in lost for value in step.op.operands):
            behind.add(step.op)
        if step.problems or step.op in behind:
            lost.update(step.op.outputs)
    return behind


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
