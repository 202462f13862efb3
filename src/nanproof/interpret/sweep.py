"""The loop that runs a program twice at once: as a unit computes it, and in pure float32 beside it.

Each op is also computed in float32 on the operands that the unit has, which tells its own error from what it inherits.
Where a branch or the end of a loop depends on numbers, either execution goes its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from nanproof.interpret.execute import Executor
from nanproof.interpret.inputs import check_inputs
from nanproof.interpret.loop import Carried, Runner, Step
from nanproof.interpret.state import Turn, check_state, make_state
from nanproof.numerics import Numerics, get
from nanproof.numerics.arithmetic import Arithmetic
from nanproof.ops import StateCell
from nanproof.program import Block, DType, Op, Program, Value
from nanproof.values.floats import from_carrier, to_carrier

__all__ = ["Executed", "Pair", "Sweep", "Visitor"]

_NARROW = (DType.INT16, DType.UINT16)


@final
@dataclass(slots=True, eq=False)
class Pair:
    """One value in both executions; the same object in both where they agree for sure.

    Attributes:
        actual: What the unit has.
        exact: What pure float32 has.
    """

    actual: Carried
    exact: Carried
    _exceptional: Tensor | None = None
    _known: bool = False

    @property
    def same(self) -> bool:
        """Whether both executions are known to have the same."""
        return self.actual is self.exact

    @property
    def exceptional(self) -> Tensor | None:
        """Where the unit has Inf or NaN, or another one than float32; ``None`` where nowhere."""
        if not self._known:
            self._exceptional, self._known = _exceptional(self.actual, self.exact), True
        return self._exceptional


def _exceptional(actual: Carried, exact: Carried) -> Tensor | None:
    if actual is exact or not isinstance(actual, Tensor) or not actual.is_floating_point():
        return None
    finite = actual.isfinite()
    if bool(finite.all()):
        return None
    if not isinstance(exact, Tensor) or exact.shape != actual.shape:
        return ~finite
    there = ~finite & ~((actual == exact) | (actual.isnan() & exact.isnan()))
    return there if bool(there.any()) else None


@dataclass(frozen=True, slots=True, eq=False)
class Executed:
    """One op as it ran once.

    Attributes:
        op: The op. Ops of a nested block come each time they run, and before the op that owns the block.
        operands: In the order of ``op.operands``, constants included.
        results: One for each output.
        recomputed: For each output, float32 on the operands that the unit has; the exact result itself where nothing
            came in but what float32 has as well.
        parted: Whether a branch or a loop went on otherwise in float32, in which case the ops inside are not seen.
    """

    op: Op
    operands: tuple[Pair, ...]
    results: tuple[Pair, ...]
    recomputed: tuple[Carried, ...]
    parted: bool = False

    def operand(self, name: str) -> Pair | None:
        """The first value of a named input: a file has the inputs of an op in any order."""
        value = self.op.input(name)
        pairs = zip(self.op.operands, self.operands, strict=True)
        return next((pair for operand, pair in pairs if operand is value), None)


Visitor = Callable[[Executed], None]


@final
class Sweep:
    """A program made ready to run under a unit's numerics and in pure float32 at once.

    In float32 no type counts: casts between floats do nothing, and integers stay as wide as they were. Memory is
    proportional to the values that are alive. An op costs at most three evaluations: by the unit, in float32 on the
    unit's operands, and in pure float32; two where one of these is known from another.

    Args:
        program: The program, whatever its types are.
        numerics: How the unit computes.
        constants: What a constant was before it was rounded to FP16, by value (see
            :func:`nanproof.diagnosis.twins.exact_constants`). What a constant has lost then counts as the own error of
            the op that reads it. Without it float32 computes with the program's own constants.

    Attributes:
        results: The outputs of the last run, in both executions.
        evaluations: How many evaluations of ops all runs have cost.
        executed: How many ops the program has executed in them.

    Raises:
        NumericsError, UnsupportedOpError, UsageError: As :class:`~nanproof.interpret.execute.Executor`.
    """

    def __init__(
        self,
        program: Program,
        numerics: str | Numerics,
        constants: Mapping[Value, np.ndarray] | None = None,
    ) -> None:
        self.program = Executor(program, numerics).program  # refuses what cannot run
        self.numerics = get(numerics)
        self._unit = Runner(program, self.numerics)
        self._lost = {value: _carried(array) for value, array in (constants or {}).items()}
        known: dict[Value, Carried] = dict(self._lost) if self._lost else self._unit.constants
        self._float32 = Runner(program, get("reference"), constants=known)
        self._exact_steps: dict[Block, list[Step]] = {}
        self._by_op: dict[Op, Step] = {}
        self._constants: dict[Value, Pair] = {}
        self._cells: dict[Value, Pair] = {}
        self._visit: Visitor = _blind
        self.results: Sequence[Pair] = ()
        self.evaluations = self.executed = 0

    def __call__(
        self, inputs: Mapping[str, Any], visit: Visitor
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Run once; the outputs of the unit, and those of float32. States begin as :meth:`Executor.once` has them.

        The outputs are arrays in the dtypes of the outputs, those of float32 in float32. What is no tensor is left out.

        Raises:
            InputError, ExecutionError: As calling an executor.
        """
        arrays = check_inputs(self.program.interface, inputs)
        main = self.program.main
        self._start(inputs)
        env: dict[Value, Pair] = {}
        for name, array in arrays.items():
            carried = to_carrier(array, main.inputs[name].type.dtype)
            env[main.inputs[name]] = Pair(carried, carried)
        self._visit = visit
        try:
            with torch.inference_mode():
                results = self._block(main.block, env)
        finally:
            self._visit = _blind
        self.results = results
        named = list(zip(main.block.outputs, results, strict=True))
        tensors = [(v, p.actual, p.exact) for v, p in named]
        actual = {v.name: from_carrier(a, v.type.dtype).copy() for v, a, _ in tensors if isinstance(a, Tensor)}
        return actual, {v.name: e.numpy().copy() for v, _, e in tensors if isinstance(e, Tensor)}

    def again(self, op: Op, operands: Mapping[Value, Carried]) -> list[Any]:
        """What float32 makes of other operands of an op that has run: its results, not put into their carriers yet.

        Constants need not be given. Slopes are recorded if PyTorch is told to.

        Raises:
            ExecutionError: The rule failed.
        """
        step = self._by_op[op]
        if _narrows(op):
            return [operands[op.inputs["x"][0]]]
        self.evaluations += 1
        return self._float32.computed(step, self._float32.arguments(step, operands))

    def _start(self, inputs: Mapping[str, Any]) -> None:
        """Set the states, unless the inputs go on with a conversation."""
        if isinstance(inputs, Turn) and inputs.start is None and self._cells:
            return
        state = make_state(self.program)
        for name, value in ((inputs.start or {}) if isinstance(inputs, Turn) else {}).items():
            state.write_state(name, value)
        cells = check_state(self.program.states, state)
        self._cells = {self.program.main.inputs[n]: Pair(c.tensor, c.tensor) for n, c in cells.items()}

    def _block(self, block: Block, env: dict[Value, Pair]) -> list[Pair]:
        for step, exact in zip(self._unit.steps(block), self._exactly(block), strict=True):
            done = self._executed(step, exact, env)
            env.update(zip(step.op.outputs, done.results, strict=True))
            self._visit(done)
            for value in step.dead:
                env.pop(value, None)
        return [self._read(value, env) for value in block.outputs]

    def _exactly(self, block: Block) -> list[Step]:
        """The steps of a block in float32, which have no narrow integers either."""
        if block not in self._exact_steps:
            steps = self._float32.steps(block)
            self._exact_steps[block] = [replace(step, results=tuple(map(_wide, step.results))) for step in steps]
            self._by_op |= {step.op: step for step in self._exact_steps[block]}
        return self._exact_steps[block]

    def _read(self, value: Value, env: Mapping[Value, Pair]) -> Pair:
        if value.const is None:
            return self._cells[value] if value in self._cells else env[value]
        if value not in self._constants:
            actual = self._unit.read(value, {})
            self._constants[value] = Pair(actual, self._lost.get(value, actual))
        return self._constants[value]

    def _executed(self, step: Step, exact: Step, env: dict[Value, Pair]) -> Executed:
        op = step.op
        operands = tuple(self._read(value, env) for value in op.operands)
        if op.type == "while_loop":
            return self._loop(step, exact, operands, env)
        if op.type == "cond":
            return self._branch(step, exact, operands, env)
        if op.type == "read_state":
            return Executed(op, operands, operands, (operands[0].actual,))
        if op.type == "write_state":
            self._cells[op.inputs["input"][0]] = self._read(op.inputs["data"][0], env)
            return Executed(op, operands, (), ())
        self.executed += 1
        return self._plain(step, exact, operands, env)

    def _plain(self, step: Step, exact: Step, operands: tuple[Pair, ...], env: dict[Value, Pair]) -> Executed:
        """An op without blocks."""
        op = step.op
        actual_env = {v: p.actual for v, p in zip(op.operands, operands, strict=True)}
        given = self._unit.arguments(step, actual_env)
        computed = None
        if op.type.startswith("constexpr_"):
            actual = self._unit.results(step, given)
        else:
            computed = self._unit.computed(step, given)
            actual = self._unit.stored(step, computed, given)
        self.evaluations += 1
        exact_env = {v: p.exact for v, p in zip(op.operands, operands, strict=True)}
        pure = self._evaluated(exact, exact_env)
        if all(p.same for p, v in zip(operands, op.operands, strict=True) if v.const is None):
            recomputed = pure  # the constants of `pure` are those of float32 in either case
        else:
            recomputed = self._recomputed(step, exact, actual_env, computed, actual)
        results = tuple(_pair(a, e) for a, e in zip(actual, pure, strict=True))
        return Executed(op, operands, results, tuple(recomputed))

    def _recomputed(
        self, step: Step, exact: Step, env: Mapping[Value, Carried], computed: list[Any] | None, actual: list[Any]
    ) -> list[Any]:
        """What float32 makes of the unit's operands, evaluated only if it is not known already."""
        if not any(v in self._lost for v in step.op.operands):
            if computed is not None and step.arithmetic is exact.arithmetic and not _narrows(step.op):
                return self._float32.stored(exact, computed, {})
            moves = step.record.family == "structural" and type(step.arithmetic).cropped is Arithmetic.cropped
            if moves and not any(rounds for _, rounds in step.results):
                return actual
        return self._evaluated(exact, {v: self._lost.get(v, c) for v, c in env.items()})

    def _evaluated(self, exact: Step, env: Mapping[Value, Carried]) -> list[Any]:
        if _narrows(exact.op):
            return [env[exact.op.inputs["x"][0]]]
        self.evaluations += 1
        return self._float32.results(exact, self._float32.arguments(exact, env))

    def _branch(self, step: Step, exact: Step, operands: tuple[Pair, ...], env: dict[Value, Pair]) -> Executed:
        then, otherwise = step.op.blocks
        decides = self._read(step.op.inputs["pred"][0], env)
        chosen = [bool(t) for t in (decides.actual, decides.exact)]
        if chosen[0] == chosen[1]:
            results = tuple(self._block(then if chosen[0] else otherwise, {**env}))
            return Executed(step.op, operands, results, tuple(p.actual for p in results))
        arguments = {"pred": decides.actual}, {"pred": decides.exact}
        return self._parted(step, exact, operands, env, arguments)

    def _loop(self, step: Step, exact: Step, operands: tuple[Pair, ...], env: dict[Value, Pair]) -> Executed:
        condition, body = step.op.blocks
        variables = [self._read(value, env) for value in step.op.inputs["loop_vars"]]
        while True:
            (go,) = self._block(condition, {**env, **dict(zip(condition.inputs, variables, strict=True))})
            goes = [bool(t) for t in (go.actual, go.exact)]
            if goes[0] != goes[1]:
                now = tuple(p.actual for p in variables), tuple(p.exact for p in variables)
                return self._parted(step, exact, operands, env, ({"loop_vars": now[0]}, {"loop_vars": now[1]}))
            if not goes[0]:
                return Executed(step.op, operands, tuple(variables), tuple(p.actual for p in variables))
            variables = self._block(body, {**env, **dict(zip(body.inputs, variables, strict=True))})

    def _parted(
        self,
        step: Step,
        exact: Step,
        operands: tuple[Pair, ...],
        env: Mapping[Value, Pair],
        arguments: tuple[dict[str, Any], dict[str, Any]],
    ) -> Executed:
        """Both executions go on by themselves, from where they parted, and meet behind the op."""
        actual_cells = {v: StateCell(_tensor(p.actual)) for v, p in self._cells.items()}
        exact_cells = {v: StateCell(_tensor(p.exact)) for v, p in self._cells.items()}
        actual = self._unit.flow(step, {**{v: p.actual for v, p in env.items()}, **actual_cells}, arguments[0])
        pure = self._float32.flow(exact, {**{v: p.exact for v, p in env.items()}, **exact_cells}, arguments[1])
        for value, pair in self._cells.items():
            tensors = actual_cells[value].tensor, exact_cells[value].tensor
            if tensors[0] is not pair.actual or tensors[1] is not pair.exact:
                self._cells[value] = Pair(*tensors)
        results = tuple(_pair(a, e) for a, e in zip(actual, pure, strict=True))
        return Executed(step.op, operands, results, tuple(actual), parted=True)


def _blind(executed: Executed) -> None:
    """Sees nothing."""


def _carried(array: np.ndarray) -> Carried:
    return to_carrier(array, DType.FP32)


def _tensor(carried: Carried) -> Tensor:
    assert isinstance(carried, Tensor)  # noqa: S101 - states are tensors
    return carried


def _wide(result: tuple[torch.dtype | None, bool]) -> tuple[torch.dtype | None, bool]:
    dtype, rounds = result
    return torch.int32 if dtype is torch.int16 else dtype, rounds


def _narrows(op: Op) -> bool:
    """Whether an op only makes an integer narrower."""
    if op.type != "cast" or op.outputs[0].type.dtype not in _NARROW:
        return False
    return op.inputs["x"][0].type.dtype.is_integer


def _pair(actual: Carried, exact: Carried) -> Pair:
    """Both as one where they are equal and comparing them is cheap: integers and truth values decide what follows."""
    if not isinstance(actual, Tensor) or not isinstance(exact, Tensor) or actual.is_floating_point():
        return Pair(actual, exact)
    return Pair(actual, actual if actual.shape == exact.shape and bool((actual == exact).all()) else exact)
