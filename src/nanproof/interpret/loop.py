"""The one loop that runs a program: looks up each op's record, calls its rule, stores the result, forgets the dead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanproof.errors import ExecutionError, UnsupportedOpError
from nanproof.interpret.memory import require_memory
from nanproof.numerics import Numerics
from nanproof.numerics.arithmetic import Arithmetic
from nanproof.ops import TABLE, Flow, OpDef, StateCell, TensorList
from nanproof.program import Block, DType, Function, Op, Program, Value
from nanproof.values.floats import carrier, to_carrier
from nanproof.values.mapped import release

__all__ = ["Carried", "Observer", "Runner", "Step", "multiplies_integers"]

Carried = Tensor | str | tuple[str, ...] | TensorList | StateCell | Mapping[Any, float]
"""What stands for a MIL value while a program runs; the last is the dictionary of a classifier."""

Observer = Callable[[Op, Sequence[Tensor], Sequence[Tensor]], None]
"""Sees each op with its tensor operands and its stored results, in execution order.

Ops of a nested block are seen each time they run, and before the op that owns the block. A list is seen as the stack of
its elements, and a result that is no tensor as an empty one, so that there is one for each output.
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One op made ready: everything about it that is the same on every run.

    ``constants`` are the arguments known beforehand, ``computed`` those that are read when the op runs, ``variadic``
    those of several values. ``results`` are, for each output, the PyTorch dtype of its carrier (``None`` for text) and
    whether it is rounded to its type.
    """

    op: Op
    record: OpDef
    arithmetic: Arithmetic
    constants: Mapping[str, Any]
    computed: tuple[tuple[str, Value], ...]
    variadic: tuple[tuple[str, tuple[Value, ...]], ...]
    results: tuple[tuple[torch.dtype | None, bool], ...]
    dead: tuple[Value, ...]


class Runner:
    """Runs one function of a program under one numerics, as often as you like.

    Constants are put into carriers once, here, and compressed weights are unpacked once, so that many batches pay for
    them once.

    Args:
        program: The program.
        numerics: How to compute.
        function: The function; the default one without it.
        constants: Carriers of constants that are known already, or that shall be others than the program's own. What
            else is read is added to it.

    Raises:
        UnsupportedOpError: The program holds ops without a record; all of them are named.
        ExecutionError: A value is declared larger than the memory of this machine.
    """

    def __init__(
        self,
        program: Program,
        numerics: Numerics,
        function: str | None = None,
        constants: dict[Value, Carried] | None = None,
    ) -> None:
        self.program = program
        self.numerics = numerics
        self.function: Function = program.functions[function or program.default]
        _require_records(self.function)
        require_memory(self.function)
        self.constants: dict[Value, Carried] = {} if constants is None else constants
        self._weights: dict[Op, list[Any]] = {}
        self._steps: dict[Block, list[Step]] = {}

    def __call__(
        self, inputs: Mapping[str, Tensor | StateCell], observers: Sequence[Observer] = (), *, slopes: bool = False
    ) -> dict[str, Carried]:
        """Run on carried tensors, one for each input and a cell for each state; the carried outputs in order.

        With ``slopes`` PyTorch records what it needs to differentiate the results; use such a runner for that alone.

        There is no bound on the number of iterations of a loop: a program that never ends can be interrupted
        (``KeyboardInterrupt``) between any two ops.

        Raises:
            ExecutionError: An op's rule failed; the message names the op and where it comes from.
        """
        env: dict[Value, Carried] = {v: inputs[name] for name, v in self.function.inputs.items()}
        with torch.enable_grad() if slopes else torch.inference_mode():
            results = self._run_block(self.function.block, env, observers)
        return {v.name: r for v, r in zip(self.function.block.outputs, results, strict=True)}

    def _run_block(self, block: Block, env: dict[Value, Carried], observers: Sequence[Observer]) -> list[Carried]:
        for step in self.steps(block):
            if step.record.family == "control":
                results = self.flow(step, env, self.arguments(step, env), observers)
            else:
                results = self.results(step, self.arguments(step, env))
            env.update(zip(step.op.outputs, results, strict=True))
            if observers:
                operands = [t for v in step.op.operands if isinstance(t := self.read(v, env), Tensor)]
                seen = [_seen(result) for result in results]
                for observe in observers:
                    observe(step.op, operands, seen)
            for value in step.dead:
                env.pop(value, None)
        return [self.read(v, env) for v in block.outputs]

    def steps(self, block: Block) -> list[Step]:
        """The ops of a block made ready, in order."""
        steps = self._steps.get(block)
        if steps is None:
            steps = self._steps[block] = self._prepared(block)
        return steps

    def arguments(self, step: Step, env: Mapping[Value, Carried]) -> dict[str, Any]:
        """What the rule of an op is called with."""
        arguments = dict(step.constants)
        for name, value in step.computed:
            arguments[name] = env[value]
        for name, values in step.variadic:
            arguments[name] = tuple(self.read(value, env) for value in values)
        return arguments

    def results(self, step: Step, arguments: dict[str, Any]) -> list[Any]:
        """The results of an op that is no control flow, as they are stored. Weights are unpacked only once.

        Raises:
            ExecutionError: The rule failed.
        """
        if not step.op.type.startswith("constexpr_"):
            return self.stored(step, self.computed(step, arguments), arguments)
        if step.op not in self._weights:
            self._weights[step.op] = self.stored(step, self.computed(step, arguments), arguments)
        return self._weights[step.op]

    def computed(self, step: Step, arguments: dict[str, Any]) -> list[Any]:
        """What the rule of an op returns, before it is stored.

        Raises:
            ExecutionError: The rule failed.
        """
        return self._run(step, step.arithmetic, arguments)

    def flow(
        self,
        step: Step,
        env: Mapping[Value, Carried],
        arguments: dict[str, Any],
        observers: Sequence[Observer] = (),
    ) -> list[Any]:
        """The results of a control-flow op. A block sees the values around it, and keeps its own.

        Raises:
            ExecutionError: The rule of an op failed.
        """

        def call(block: Block, arguments: Sequence[Carried]) -> list[Carried]:
            inner = {**env, **dict(zip(block.inputs, arguments, strict=True))}
            return self._run_block(block, inner, observers)

        return self._run(step, Flow(step.op.blocks, call), arguments)

    def _run(self, step: Step, arithmetic: Arithmetic | Flow, arguments: dict[str, Any]) -> list[Any]:
        """What the rule of an op returns: not stored yet, but for the results of a control-flow op."""
        try:
            results = step.record.run(arithmetic, **arguments)
            results = list(results) if isinstance(results, list | tuple) else [results]
            if len(results) != len(step.op.outputs):
                raise ValueError(f"it has {len(results)} results, and the program expects {len(step.op.outputs)}")
        except _FAULTS as error:
            raise self._failed(step.op, error) from error
        return results

    def stored(self, step: Step, computed: Sequence[Any], arguments: Mapping[str, Any]) -> list[Any]:
        """What the rule of an op returned, each result in its carrier and rounded to its type.

        Raises:
            ExecutionError: A result does not fit into memory.
        """
        results = list(computed)
        try:
            for i, (wanted, rounds) in enumerate(step.results):
                result = results[i]
                if wanted is None or not isinstance(result, Tensor):
                    continue  # the elements of a list were stored before they came into it
                if result.dtype is not wanted:
                    result = result.to(wanted)
                results[i] = step.arithmetic.store(result, arguments.values()) if rounds else result
        except _FAULTS as error:
            raise self._failed(step.op, error) from error
        return results

    def _failed(self, op: Op, error: Exception) -> ExecutionError:
        shapes = ", ".join(f"{k}: {' '.join(str(v.type) for v in vs)}" for k, vs in op.inputs.items())
        source = f"\n  It comes from {op.source}." if op.source else ""
        memory = isinstance(error, MemoryError) or "can't allocate memory" in str(error)  # NumPy's and PyTorch's
        return ExecutionError(
            f"The op '{op.name}' ({op.type}) failed under the numerics '{self.numerics.name}': {error}\n"
            f"  Its inputs are {shapes}.{source}\n"
            + (
                "  The memory of this machine is not enough for it: run the model on a larger one."
                if memory
                else "  If the program is valid, this is a fault of nanproof: please report it with the model."
            )
        )

    def read(self, value: Value, env: Mapping[Value, Carried]) -> Carried:
        """A value as it is carried: from ``env``, or a constant."""
        if value.const is None:
            return env[value]
        if value not in self.constants:
            self.constants[value] = to_carrier(value.const, value.type.dtype)
            if isinstance(value.const, np.ndarray):
                release(value.const)  # the carrier is a copy, and twice as wide
        return self.constants[value]

    def _prepared(self, block: Block) -> list[Step]:
        given = self.function.inputs.values() if block is self.function.block else ()
        last_uses = _last_uses(block, given)
        makers = {value: op for op in block.ops for value in op.outputs}
        return [self._step(op, tuple(last_uses.get(op, ())), makers) for op in block.ops]

    def _step(self, op: Op, dead: tuple[Value, ...], makers: Mapping[Value, Op]) -> Step:
        record = TABLE[op.type]
        arithmetic = self.numerics.arithmetic(op.dtype, op.type, of_integers=multiplies_integers(op, makers))
        single = {name: values[0] for name, values in op.inputs.items() if name not in record.variadic}
        moves = record.family == "structural" or arithmetic.keeps
        rounds = self.numerics.rounds_storage and not (record.picks and moves and _of_one_type(op))
        return Step(
            op=op,
            record=record,
            arithmetic=arithmetic,
            constants={name: self.read(value, {}) for name, value in single.items() if value.const is not None},
            computed=tuple((name, value) for name, value in single.items() if value.const is None),
            variadic=tuple((name, values) for name, values in op.inputs.items() if name in record.variadic),
            results=tuple((_carrier(v), rounds and v.type.dtype is DType.FP16) for v in op.outputs),
            dead=dead,
        )


_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What PyTorch, NumPy and the rules raise where arguments do not fit, or a result does not fit into memory."""


_FACTORS = {"conv": ("x", "weight"), "linear": ("x", "weight"), "matmul": ("x", "y")}
_QUANTIZED = {
    "dequantize": "input",
    "constexpr_affine_dequantize": "quantized_data",
    "constexpr_blockwise_shift_scale": "data",
}


def multiplies_integers(op: Op, makers: Mapping[Value, Op]) -> bool:
    """Whether both factors of an op's products are 8-bit integers, dequantised right before it."""
    factors = [op.input(name) for name in _FACTORS.get(op.type, ())]
    sources = [makers.get(value) if value is not None else None for value in factors]
    data = [s.input(_QUANTIZED[s.type]) for s in sources if s is not None and s.type in _QUANTIZED]
    eight_bits = [v for v in data if v is not None and v.type.dtype in (DType.INT8, DType.UINT8)]
    return bool(factors) and len(eight_bits) == len(factors)


def _carrier(value: Value) -> torch.dtype | None:
    return None if value.type.dtype is DType.STRING else carrier(value.type.dtype)


def _of_one_type(op: Op) -> bool:
    """Whether all floats that an op reads and writes have the same type."""
    return len({v.type.dtype for v in (*op.operands, *op.outputs) if v.type.dtype.is_float}) <= 1


def _seen(result: Any) -> Tensor:
    """A result as observers see it."""
    if isinstance(result, TensorList):
        return result.stacked()
    return result if isinstance(result, Tensor) else torch.empty(0)


def _last_uses(block: Block, given: Iterable[Value]) -> dict[Op, list[Value]]:
    """For every op, the values of this block that nobody reads after it. Block results live on.

    Values from around the block are not its own to forget: in a loop the next iteration reads them again.
    """
    own = {*given, *block.inputs, *(v for op in block.ops for v in op.outputs)}
    seen = set(block.outputs)
    last: dict[Op, list[Value]] = {}
    for op in reversed(block.ops):
        for value in (*op.operands, *_read_inside(op), *op.outputs):
            if value in own and value not in seen:
                seen.add(value)
                last.setdefault(op, []).append(value)
    return last


def _read_inside(op: Op) -> Iterator[Value]:
    """Values that the blocks of an op read or return, at any depth."""
    for block in op.blocks:
        yield from block.outputs
        for inner in block.ops:
            yield from inner.operands
            yield from _read_inside(inner)


def _require_records(function: Function) -> None:
    missing = Counter(op.type for op in function.block.walk() if op.type not in TABLE)
    if missing:
        names = ", ".join(f"{name} ({count}x)" for name, count in sorted(missing.items()))
        raise UnsupportedOpError(
            f"nanproof cannot execute these MIL ops of function '{function.name}': {names}.\n"
            f"  It knows {len(TABLE)} ops; `nanproof ops` lists them. Nothing was checked."
        )
