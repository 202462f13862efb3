"""The reading of a program that bounds every value for all inputs: abstract interpretation, op by op."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nanproof.interpret.loop import multiplies_integers
from nanproof.numerics import Numerics
from nanproof.ops import TABLE
from nanproof.ops.bounding import FLOAT32_MAX, Reading, UnboundedError, integer_range, limit_of, machine_of, stored
from nanproof.program import Block, DType, Function, Op, Value
from nanproof.values.bound import Bound, hull
from nanproof.values.floats import FP16_MAX, to_carrier

__all__ = ["Interpreter", "Shared", "Step"]

_ORDERED = frozenset(("bilinear", "reduction", "scan", "normalisation", "softmax", "pooling", "recurrent", "image"))
"""Families whose results depend on the order of sums, so that the fast reading of a unit is not its exact one."""

_LOOPS = 4
"""How often a loop's body is read before the bounds that still grow are given up."""


@dataclass(frozen=True, slots=True)
class Step:
    """One op as it was read.

    Attributes:
        op: The op.
        low: The least that an element of its first output can be; of all outputs for ``high`` and ``reach``.
        high: The most.
        reach: The largest absolute value that the bounds allow, before any is cut to the type's range.
        partial: The largest partial sum of its products, in any order of them.
        limit: What ``reach`` must not pass.
        problems: Why the result is not known to be finite; empty if it is.
        grown: The largest operand's reach, for the way on which a bound grew.
    """

    op: Op
    low: float
    high: float
    reach: float
    partial: float
    limit: float
    problems: tuple[str, ...]
    grown: float


@dataclass(frozen=True, slots=True)
class Shared:
    """What does not depend on the numerics: the constants as bounds, and norms of matrices by their content."""

    constants: dict[Value, Any] = field(default_factory=dict[Value, Any])
    norms: dict[Any, float] = field(default_factory=dict[Any, float])


class Interpreter:
    """Reads one function of a program under one numerics.

    Args:
        function: The function.
        numerics: How the unit computes.
        shapes: Sizes of values whose declared shape is not known.
        shared: What several readings of the function share.
    """

    def __init__(
        self,
        function: Function,
        numerics: Numerics,
        shapes: Mapping[Value, tuple[int, ...]],
        shared: Shared | None = None,
    ) -> None:
        self.function = function
        self.numerics = numerics
        self.shapes = shapes
        self.steps: dict[Op, Step] = {}
        self._shared = shared or Shared()
        self._makers = {value: op for op in function.block.walk() for value in op.outputs}
        self._states: dict[Value, Bound] = {}

    def __call__(self, inputs: Mapping[str, Bound]) -> list[Bound]:
        """The bounds of the outputs, for all inputs inside the given bounds; :attr:`steps` tells of each op."""
        env: dict[Value, Any] = {value: inputs[name] for name, value in self.function.inputs.items()}
        self._states = {v: inputs[name] for name, v in self.function.inputs.items() if v.type.kind.value == "state"}
        with torch.inference_mode():
            return self._block(self.function.block, env)

    def _block(self, block: Block, env: dict[Value, Any]) -> list[Any]:
        for op in block.ops:
            results = self._flow(op, env) if op.blocks else self._op(op, env)
            env.update(zip(op.outputs, results, strict=True))
        return [self._read(value, env) for value in block.outputs]

    def _read(self, value: Value, env: Mapping[Value, Any]) -> Any:
        if value.const is None:
            return env[value]
        if value not in self._shared.constants:
            carrier = to_carrier(value.const, value.type.dtype)
            self._shared.constants[value] = Bound.constant(carrier) if isinstance(carrier, Tensor) else carrier
        return self._shared.constants[value]

    def _op(self, op: Op, env: Mapping[Value, Any]) -> list[Any]:
        record = TABLE[op.type]
        machine = machine_of(self.numerics, op, of_integers=multiplies_integers(op, self._makers))
        reading = Reading(op, machine, shapes=self.shapes, states=self._states, norms=self._shared.norms)
        arguments: dict[str, Any] = {}
        for name, values in op.inputs.items():
            given = tuple(self._operand(op, name, value, env) for value in values)
            arguments[name] = given if name in record.variadic else given[0]
        known = self._computed(op, arguments, machine)
        if known is not None:
            results = known
        else:
            try:
                found = record.bound(reading, **arguments)
                results = list(found) if isinstance(found, (list, tuple)) else [found]
            except UnboundedError as error:
                reading.doubt(f"no bound: {error}")
                results = [self._anything(value) for value in op.outputs]
        operands = [b for given in arguments.values() for b in (given if isinstance(given, tuple) else [given])]
        return self._stored(reading, [b for b in operands if isinstance(b, Bound)], results)

    def _operand(self, op: Op, name: str, value: Value, env: Mapping[Value, Any]) -> Any:
        """What a rule gets; a table of which rows are gathered is not made a bound, being large."""
        if op.type == "gather" and name == "x" and value.const is not None and value not in self._shared.constants:
            return replace(self._anything(value), low=torch.zeros([1] * len(value.type.shape)).double())
        return self._read(value, env)

    def _computed(self, op: Op, arguments: Mapping[str, Any], machine: Any) -> list[Bound] | None:
        """The result of an op all of whose operands are known: what the unit computes of them."""
        record = TABLE[op.type]
        flat = [b for given in arguments.values() for b in (given if isinstance(given, tuple) else [given])]
        if record.family in ("random", "state", "list", "control") or op.type == "classify":
            return None
        if op.type == "shape" or (op.type == "fill_like" and "value" in arguments):
            flat = [b for name, b in arguments.items() if name == "value"]
        if any(isinstance(b, Bound) and b.value is None for b in flat):
            return None
        if record.family in _ORDERED and any(v.type.dtype.is_float for v in op.outputs):
            return None

        def carried(given: Any) -> Any:
            if isinstance(given, tuple):
                return tuple(carried(g) for g in given)  # type: ignore[misc]
            if isinstance(given, Bound):
                return given.value if given.value is not None else torch.zeros(()).expand(given.shape)
            return given

        try:
            results = record.run(machine.arithmetic, **{name: carried(given) for name, given in arguments.items()})
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):
            return None  # then the rule says what there is to say
        results = list(results) if isinstance(results, (list, tuple)) else [results]
        bounds: list[Bound] = []
        for value, result in zip(op.outputs, results, strict=True):
            if not isinstance(result, Tensor):
                return None
            half = value.type.dtype is DType.FP16 and self.numerics.rounds_storage
            carried_result = (
                to_carrier(result, value.type.dtype) if not half else machine.arithmetic.store(result.float())
            )
            if not isinstance(carried_result, Tensor):
                return None
            bounds.append(Bound.constant(carried_result))
        return bounds

    def _anything(self, value: Value) -> Bound:
        """Every number that the type of a value has."""
        dtype = value.type.dtype
        shape = self.shapes.get(value) or tuple(d if isinstance(d, int) else 1 for d in value.type.shape)
        if dtype.is_float:
            limit = FP16_MAX if dtype is DType.FP16 else FLOAT32_MAX
            return Bound.interval(shape, -limit, limit)
        if dtype.value == "bool":
            return Bound.interval(shape, 0, 1, whole=True)
        if dtype is DType.STRING:
            return Bound.interval((), 0, 0)
        low, high = integer_range(dtype)
        return Bound.interval(shape, low, high, whole=True)

    def _stored(self, reading: Reading, operands: Sequence[Bound], results: Sequence[Bound]) -> list[Bound]:
        op, machine = reading.op, reading.machine
        problems = list(reading.doubts)
        kept: list[Bound] = []
        reach, limit = 0.0, math.inf
        if reading.partial > machine.limit or (reading.partial >= machine.limit == 2.0**15):
            problems.append(
                f"a partial sum of its products may reach {reading.partial:.5g}, and the accumulator ends at "
                f"{machine.limit:.0f}"
            )
        infinite = any(not b.limited for b in operands)
        if not machine.infinities and any(b.nan for b in operands):
            problems.append("an operand may be NaN, which the Neural Engine reads as a number")
        for value, bound in zip(op.outputs, results, strict=True):
            dtype = value.type.dtype
            if not dtype.is_float:
                kept.append(self._integers(bound, dtype))
                continue
            bound = stored(bound, dtype, machine)
            limit = min(limit, limit_of(dtype, machine))
            reach = max(reach, bound.finite_reach)
            problems += self._faults(
                bound, limit_of(dtype, machine), machine.infinities, infinite=infinite, operands=operands
            )
            kept.append(_cut(bound, limit_of(dtype, machine), lost=bool(problems)))
        first = kept[0] if kept else Bound.interval((), 0, 0)
        grown = max((b.finite_reach for b in operands), default=0.0)
        least = min((b.least for b in kept), default=0.0)
        step = Step(
            op,
            least,
            max((b.most for b in kept), default=0.0),
            max(reach, first.reach if not reach else 0.0),
            reading.partial,
            limit,
            tuple(dict.fromkeys(problems)),
            grown,
        )
        self._note(step)
        return kept

    def _faults(
        self, bound: Bound, limit: float, infinities: bool, *, infinite: bool, operands: Sequence[Bound]
    ) -> list[str]:
        problems: list[str] = []
        reach = bound.finite_reach
        if reach > limit:
            problems.append(f"it may reach {reach:.5g}, and its type ends at {limit:.5g}")
        unlimited = not bound.limited
        if unlimited and not infinite:
            problems.append("it may be infinite")
        if unlimited and not infinities:
            problems.append("it may be infinite, which the Neural Engine reads as a number")
        if bound.nan and not any(b.nan for b in operands):
            problems.append("it may be NaN")
        return problems

    def _integers(self, bound: Bound, dtype: DType) -> Bound:
        """Integers wrap around at the width of their type: then they may be any."""
        if dtype is DType.STRING or dtype.value == "bool":
            return bound
        low, high = integer_range(dtype)
        if not bound.whole:  # computed as a real number, and truncated
            bound = Bound(bound.shape, bound.low.trunc(), bound.high.trunc(), whole=True)
        if bound.least >= low and bound.most <= high:
            return bound
        return Bound.interval(bound.shape, low, high, whole=True)

    def _note(self, step: Step) -> None:
        """Keep the worst of what was said of an op that is read several times, as in a loop."""
        before = self.steps.get(step.op)
        if before is not None:
            step = replace(
                step,
                low=min(step.low, before.low),
                high=max(step.high, before.high),
                reach=max(step.reach, before.reach),
                partial=max(step.partial, before.partial),
                problems=tuple(dict.fromkeys((*before.problems, *step.problems))),
            )
        self.steps[step.op] = step

    # -----------------------------------------------------------------------------------------------------------------
    # Control flow

    def _flow(self, op: Op, env: Mapping[Value, Any]) -> list[Any]:
        if op.type == "cond":
            return self._branches(op, env)
        return self._loop(op, env)

    def _branches(self, op: Op, env: Mapping[Value, Any]) -> list[Any]:
        predicate = self._read(op.inputs["pred"][0], env)
        then, otherwise = op.blocks
        taken = [b for b, may in ((then, predicate.most > 0), (otherwise, predicate.least < 1)) if may]
        found = [self._block(block, dict(env)) for block in taken]
        if len(found) == 1:
            return found[0]
        return [self._joined(pair) for pair in zip(*found, strict=True)]

    def _joined(self, pair: Sequence[Any]) -> Any:
        if all(isinstance(b, Bound) and b.shape == pair[0].shape for b in pair):
            return hull([b.plain() for b in pair])
        return pair[0]

    def _loop(self, op: Op, env: Mapping[Value, Any]) -> list[Any]:
        """A hull of all iterations: repeated until nothing grows; what still grows then may be anything."""
        condition, body = op.blocks
        variables = [self._read(v, env) for v in op.inputs["loop_vars"]]
        variables = [b.plain() if isinstance(b, Bound) else b for b in variables]
        # A value that still grows after some turns may be anything, and passes that on by one variable in a turn.
        turns = 2 * _LOOPS + 3 * len(variables)
        for turn in range(turns):
            before = dict(self.steps)
            inner = {**env, **dict(zip(condition.inputs, variables, strict=True))}
            self._block(condition, inner)
            after = self._block(body, {**env, **dict(zip(body.inputs, variables, strict=True))})
            wider = [self._joined(pair) for pair in zip(variables, after, strict=True)]
            grows = [_wider(a, b) for a, b in zip(variables, wider, strict=True)]
            if not any(grows):
                break
            self.steps = before if turn < turns - 1 else self.steps
            if turn >= _LOOPS:
                wider = [self._anything(v) if g else w for v, g, w in zip(op.outputs, grows, wider, strict=True)]
            variables = wider
        reach = max((b.reach for b in variables if isinstance(b, Bound)), default=0.0)
        self._note(Step(op, -reach, reach, reach, 0.0, math.inf, (), reach))
        return variables


def _wider(a: Any, b: Any) -> bool:
    if not isinstance(a, Bound):
        return False
    return bool((b.low < a.low).any()) or bool((b.high > a.high).any()) or (b.nan and not a.nan)


def _cut(bound: Bound, limit: float, *, lost: bool) -> Bound:
    """The bound of what is finite: the reading goes on as if what was lost had not happened, to find what else is."""
    if not lost:
        return bound
    return replace(bound, low=bound.low.clamp(min=-limit), high=bound.high.clamp(max=limit), nan=False)
