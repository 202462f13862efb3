"""The one loop that runs a program: looks up each op's record, calls its rule, stores the result, forgets the dead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nanproof.errors import ExecutionError, UnsupportedOpError
from nanproof.numerics import Numerics
from nanproof.numerics.arithmetic import Arithmetic
from nanproof.ops import TABLE, Flow, OpDef, StateCell, TensorList
from nanproof.program import Block, Function, Op, Program, Type, Value
from nanproof.values.floats import carrier, to_carrier

__all__ = ["Carried", "Observer", "Runner"]

Carried = Tensor | str | tuple[str, ...] | TensorList | StateCell | Mapping[Any, float]
"""What stands for a MIL value while a program runs; the last is the dictionary of a classifier."""

Observer = Callable[[Op, Sequence[Tensor], Sequence[Tensor]], None]
"""Sees each op with its tensor operands and its stored results, in execution order.

Ops of a nested block are seen each time they run, and before the op that owns the block. A list is seen as the stack of
its elements, and a result that is no tensor as an empty one, so that there is one for each output.
"""


class Runner:
    """Runs one function of a program under one numerics, as often as you like.

    Constants are put into carriers once, here, and compressed weights are unpacked once, so that many batches pay for
    them once.

    Raises:
        UnsupportedOpError: The program holds ops without a record; all of them are named.
    """

    def __init__(self, program: Program, numerics: Numerics, function: str | None = None) -> None:
        self.program = program
        self.numerics = numerics
        self.function: Function = program.functions[function or program.default]
        _require_records(self.function)
        self._constants: dict[Value, Carried] = {}
        self._weights: dict[Op, list[Any]] = {}
        self._last_uses: dict[Block, dict[Op, list[Value]]] = {}

    def __call__(
        self, inputs: Mapping[str, Tensor | StateCell], observers: Sequence[Observer] = ()
    ) -> dict[str, Carried]:
        """Run on carried tensors, one for each input and a cell for each state; the carried outputs in order.

        There is no bound on the number of iterations of a loop: a program that never ends can be interrupted
        (``KeyboardInterrupt``) between any two ops.

        Raises:
            ExecutionError: An op's rule failed; the message names the op and where it comes from.
        """
        env: dict[Value, Carried] = {v: inputs[name] for name, v in self.function.inputs.items()}
        with torch.inference_mode():
            results = self._run_block(self.function.block, env, observers)
        return {v.name: r for v, r in zip(self.function.block.outputs, results, strict=True)}

    def _run_block(self, block: Block, env: dict[Value, Carried], observers: Sequence[Observer]) -> list[Carried]:
        dead_after = self._dead_after(block)
        for op in block.ops:
            record = TABLE[op.type]
            arguments = {name: self._argument(name, values, record, env) for name, values in op.inputs.items()}
            if record.family == "control":
                results = self._apply(op, self._flow(op, env, observers), arguments)
            elif op.type.startswith("constexpr_"):
                if op not in self._weights:
                    self._weights[op] = self._apply(op, self.numerics.arithmetic(op.dtype), arguments)
                results = self._weights[op]
            else:
                results = self._apply(op, self.numerics.arithmetic(op.dtype), arguments)
            env.update(zip(op.outputs, results, strict=True))
            if observers:
                operands = [t for v in op.operands if isinstance(t := self._read(v, env), Tensor)]
                seen = [_seen(result) for result in results]
                for observe in observers:
                    observe(op, operands, seen)
            for value in dead_after.get(op, ()):
                env.pop(value, None)
        return [self._read(v, env) for v in block.outputs]

    def _flow(self, op: Op, env: Mapping[Value, Carried], observers: Sequence[Observer]) -> Flow:
        """What the rule of a control-flow op works with. A block sees the values around it, and keeps its own."""

        def call(block: Block, arguments: Sequence[Carried]) -> list[Carried]:
            inner = {**env, **dict(zip(block.inputs, arguments, strict=True))}
            return self._run_block(block, inner, observers)

        return Flow(op.blocks, call)

    def _apply(self, op: Op, arithmetic: Arithmetic | Flow, arguments: dict[str, Any]) -> list[Any]:
        try:
            results = TABLE[op.type].run(arithmetic, **arguments)
            if not isinstance(results, list | tuple):
                results = [results]
            return [self._store(result, value.type) for result, value in zip(results, op.outputs, strict=True)]
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError) as error:
            shapes = ", ".join(f"{k}: {' '.join(str(v.type) for v in vs)}" for k, vs in op.inputs.items())
            source = f"\n  It comes from {op.source}." if op.source else ""
            raise ExecutionError(
                f"The op '{op.name}' ({op.type}) failed under the numerics '{self.numerics.name}': {error}\n"
                f"  Its inputs are {shapes}.{source}\n"
                "  If the program is valid, this is a fault of nanproof: please report it with the model."
            ) from error

    def _store(self, result: Any, type: Type) -> Any:
        if not isinstance(result, Tensor):
            return result  # the elements of a list were stored before they came into it
        wanted = carrier(type.dtype)
        return self.numerics.store(result if result.dtype == wanted else result.to(wanted), type.dtype)

    def _argument(self, name: str, values: tuple[Value, ...], record: OpDef, env: dict[Value, Carried]) -> Any:
        carried = tuple(self._read(v, env) for v in values)
        return carried if name in record.variadic else carried[0]

    def _read(self, value: Value, env: Mapping[Value, Carried]) -> Carried:
        if value.const is None:
            return env[value]
        if value not in self._constants:
            self._constants[value] = to_carrier(value.const, value.type.dtype)
        return self._constants[value]

    def _dead_after(self, block: Block) -> dict[Op, list[Value]]:
        if block not in self._last_uses:
            given = self.function.inputs.values() if block is self.function.block else ()
            self._last_uses[block] = _last_uses(block, given)
        return self._last_uses[block]


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
