"""The reduction of a program to a few ops that still fail, by delta debugging with an oracle that executes them.

A part of a program is a set of its ops and one of their results as the output. What the ops read and do not make
becomes an input, with the numbers that float32 had there: given the right numbers, these ops alone go wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
from torch import Tensor

from nanproof.diagnosis.blame import walk
from nanproof.diagnosis.examine import weighted_errors
from nanproof.diagnosis.trace import Trace
from nanproof.errors import CouldNotCheckError
from nanproof.interpret.loop import Carried
from nanproof.interpret.sweep import Pair, Sweep
from nanproof.program import Block, DType, Function, Op, Program, Value
from nanproof.values.floats import from_carrier

__all__ = ["Fault", "Reduction", "fault_of", "reduced"]

_INPUTS = (DType.FP16, DType.FP32, DType.INT32)
"""What the input of an ML Program can be."""
_MOST_TRIALS = 300
_EVERYTHING = 1 << 30

Fault = str
"""``"nan"``, ``"inf"`` or ``"off"``: in which way a result is wrong."""


@dataclass(frozen=True, slots=True, eq=False)
class Reduction:
    """A small program that fails as the whole one does.

    Attributes:
        program: The program: the ops that are left, in their order, with one output.
        inputs: Its inputs, as float32 had them in the whole program.
        actual: What the unit makes of them.
        expected: What float32 makes of them.
        fault: In which way the output is wrong.
        ops: How many ops are left, constants not counted.
        whole: How many ops the whole program has.
        trials: How many parts were executed.
    """

    program: Program
    inputs: Mapping[str, np.ndarray]
    actual: np.ndarray
    expected: np.ndarray
    fault: Fault
    ops: int
    whole: int
    trials: int


def fault_of(actual: np.ndarray, expected: np.ndarray, tolerance: float) -> Fault | None:
    """In which way a result is wrong; ``None`` if it is within the tolerance of its range."""
    if actual.shape != expected.shape:
        return "off"
    a, e = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    there = np.isfinite(e)
    if not there.any():
        return None
    if np.isnan(a[there]).any():
        return "nan"
    if np.isinf(a[there]).any():
        return "inf"
    right = e[there]
    span = float(right.max() - right.min()) or float(np.abs(right).max()) or 1.0
    return "off" if float(np.abs(a[there] - right).max()) / span > tolerance else None


def reduced(
    program: Program,
    batch: Mapping[str, Any],
    unit: str,
    *,
    constants: Mapping[Value, np.ndarray] | None = None,
    tolerance: float = 1e-2,
) -> Reduction:
    """The smallest part of a program that is found to fail on its own, in the way in which an output of the whole does.

    Args:
        program: The program. Ops inside of a branch or a loop stay together.
        batch: Inputs on which it fails.
        unit: The numerics.
        constants: What constants were before they were rounded to FP16.
        tolerance: Largest error of an output, relative to its range, that counts as the same.

    Raises:
        CouldNotCheckError: It does not fail on these inputs, or no part of it does that could stand alone.
        InputError: The inputs do not fit.
    """
    return _Reducer(program, unit, constants or {}, tolerance)(batch)


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Some ops, in their order, and the result that is looked at."""

    ops: tuple[Op, ...]
    output: Value

    @property
    def key(self) -> tuple[frozenset[str], str]:
        return frozenset(op.name for op in self.ops), self.output.name


@final
@dataclass(slots=True, eq=False)
class _Reducer:
    program: Program
    unit: str
    constants: Mapping[Value, np.ndarray]
    tolerance: float
    trials: int = 0
    _exact: dict[Value, Carried] = field(default_factory=dict[Value, Carried])
    _faults: set[Fault] = field(default_factory=set[str])
    _known: dict[Any, Reduction | None] = field(default_factory=dict[Any, Any])

    def __call__(self, batch: Mapping[str, Any]) -> Reduction:
        if self.program.states:
            raise CouldNotCheckError("The program keeps states, and a part of it cannot: it was not reduced.")
        sweep, trace = Sweep(self.program, self.unit, self.constants), Trace()
        sweep(batch, trace)
        self._record(trace, sweep)
        for part in self._beginnings(trace, sweep):
            if self._fails(part) is not None:
                found = self._fails(self._smallest(part))
                assert found is not None  # noqa: S101 - only what fails is kept
                whole = sum(1 for _ in self.program.main.block.walk())
                return replace(found, whole=whole, trials=self.trials)
        raise CouldNotCheckError(
            "No part of the program could be found that fails by itself: the fault needs what a part cannot have "
            "(states, strings, lists), or too much memory."
        )

    def _record(self, trace: Trace, sweep: Sweep) -> None:
        """What float32 had, of every value of the main block; and in which ways the outputs are wrong."""
        top = set(self.program.main.block.ops)
        for executed in trace.before(trace.forgotten + trace.kept):
            if executed.op in top:
                self._exact |= {v: p.exact for v, p in zip(executed.op.outputs, executed.results, strict=True)}
                for value, pair in zip(executed.op.operands, executed.operands, strict=True):
                    self._exact.setdefault(value, pair.exact)
        for value, pair in zip(self.program.main.block.outputs, sweep.results, strict=True):
            fault = self._fault(value, pair)
            if fault is not None:
                self._faults.add(fault)
        if not self._faults:
            raise CouldNotCheckError("The program does not fail on these inputs, so there is nothing to reduce.")

    def _fault(self, value: Value, pair: Pair) -> Fault | None:
        if not isinstance(pair.actual, Tensor) or not isinstance(pair.exact, Tensor):
            return None
        return fault_of(from_carrier(pair.actual, value.type.dtype), pair.exact.numpy(), self.tolerance)

    def _beginnings(self, trace: Trace, sweep: Sweep) -> Iterable[_Part]:
        """Parts to begin with, the most promising first: along the way of the error, from where it was made."""
        block = self.program.main.block
        pairs = [p for v, p in zip(block.outputs, sweep.results, strict=True) if self._fault(v, p) is not None]
        walked = walk(trace, sweep, weighted_errors(pairs, self.tolerance), _EVERYTHING)
        owners = {inner.name: op for op in block.ops for inner in (op, *_inside(op))}
        touched = {owners[name].name for name in walked.through}
        made = [b.executed.op.name for b in sorted(walked.blames, key=lambda b: -b.mass)[:1]]
        place = {op.name: i for i, op in enumerate(block.ops)}
        first = min((place[owners[name].name] for name in made), default=0)
        for op in block.ops[first:]:
            if op.name in touched and op.outputs:
                ops = [o for o in self._cone(op) if o.name in touched]
                for value in op.outputs:
                    yield _Part(tuple(ops), value)
        for value, pair in zip(block.outputs, sweep.results, strict=True):
            if self._fault(value, pair) is not None and value in self._makers():
                yield _Part(tuple(self._cone(self._makers()[value])), value)

    def _makers(self) -> dict[Value, Op]:
        return {value: op for op in self.program.main.block.ops for value in op.outputs}

    def _cone(self, op: Op) -> list[Op]:
        """The ops that an op depends on, and itself, in their order."""
        makers, wanted, pending = self._makers(), {op}, [op]
        while pending:
            for value in _read(pending.pop()):
                maker = makers.get(value)
                if maker is not None and maker not in wanted:
                    wanted.add(maker)
                    pending.append(maker)
        return [one for one in self.program.main.block.ops if one in wanted]

    def _smallest(self, part: _Part) -> _Part:
        """Without all ops that can go, from the front and from the end."""
        while True:
            part = self._smaller(part)
            sooner = self._sooner(part)
            if sooner is None:
                return part
            part = sooner

    def _sooner(self, part: _Part) -> _Part | None:
        """The same with an earlier result for its output, if one fails."""
        for op in part.ops:
            for value in op.outputs:
                other = _Part(_needed(part.ops, value), value)
                if len(other.ops) < len(part.ops) and self._fails(other) is not None:
                    return other
        return None

    def _smaller(self, part: _Part) -> _Part:
        """Without as many ops as possible: halves, quarters, and so on down to single ops, until no one can go."""
        size = max(1, len(part.ops) // 2)
        while self.trials < _MOST_TRIALS:
            dropped = False
            at = 0
            while at < len(part.ops) and self.trials < _MOST_TRIALS:
                left = part.ops[:at] + part.ops[at + size :]
                other = _Part(_needed(left, part.output), part.output)
                if other.ops and self._fails(other) is not None:
                    part, dropped = other, True
                else:
                    at += size
            if size == 1 and not dropped:
                break
            size = max(1, size // 2)
        return part

    def _fails(self, part: _Part) -> Reduction | None:
        """What is left, if it fails in the way in which the whole does."""
        if part.key not in self._known:
            self._known[part.key] = self._tried(part)
        return self._known[part.key]

    def _tried(self, part: _Part) -> Reduction | None:
        made = {value for op in part.ops for value in op.outputs}
        if part.output not in made:
            return None
        given = dict.fromkeys(v for op in part.ops for v in _read(op) if v.const is None and v not in made)
        arrays: dict[str, np.ndarray] = {}
        for value in given:
            carried = self._exact.get(value)
            if not isinstance(carried, Tensor) or value.type.dtype not in _INPUTS:
                return None
            with np.errstate(over="ignore"):
                arrays[value.name] = from_carrier(carried, value.type.dtype).copy()
            if not np.isfinite(arrays[value.name]).all() and bool(carried.isfinite().all()):
                return None  # the fault lies before this
        self.trials += 1
        fixed = {value: _sized(value, arrays[value.name]) for value in given}
        program = _program(part, fixed, self.program.main.opset)
        try:
            actual, exact = Sweep(program, self.unit, self.constants)(arrays, lambda done: None)
        except CouldNotCheckError:
            return None
        name = part.output.name
        if name not in actual:
            return None
        fault = fault_of(actual[name], exact[name], self.tolerance)
        if fault not in self._faults:
            return None
        count = sum(1 for op in part.ops for _ in (op, *_inside(op)))
        return Reduction(program, arrays, actual[name], exact[name], fault, count, 0, 0)


def _program(part: _Part, inputs: Mapping[Value, Value], opset: str) -> Program:
    """The part as a program. Its inputs have the sizes that they had in the run."""
    ops = tuple(_renamed(op, inputs) for op in part.ops)
    function = Function("main", {v.name: v for v in inputs.values()}, Block((), ops, (part.output,)), opset)
    return Program({"main": function})


def _renamed(op: Op, inputs: Mapping[Value, Value]) -> Op:
    given = {name: tuple(inputs.get(v, v) for v in values) for name, values in op.inputs.items()}
    blocks = tuple(
        Block(b.inputs, tuple(_renamed(o, inputs) for o in b.ops), tuple(inputs.get(v, v) for v in b.outputs))
        for b in op.blocks
    )
    return replace(op, inputs=given, blocks=blocks)


def _sized(value: Value, array: np.ndarray) -> Value:
    return Value(value.name, replace(value.type, shape=tuple(array.shape)))


def _needed(ops: Sequence[Op], output: Value) -> tuple[Op, ...]:
    """Those of some ops of which the output is made."""
    wanted: set[Value] = {output}
    left: list[Op] = []
    for op in reversed(ops):
        if any(value in wanted for value in op.outputs):
            left.append(op)
            wanted |= set(_read(op))
    return tuple(reversed(left))


def _read(op: Op) -> Collection[Value]:
    """The values from around an op that it or its blocks read."""
    own: set[Value] = set()
    found: dict[Value, None] = dict.fromkeys(op.operands)
    for block in op.blocks:
        own |= set(block.inputs)
        for inner in block.ops:
            own |= set(inner.outputs)
            found |= dict.fromkeys(_read(inner))
        found |= dict.fromkeys(block.outputs)
    return [value for value in found if value not in own and value.const is None]


def _inside(op: Op) -> Iterable[Op]:
    for block in op.blocks:
        yield from block.walk()
