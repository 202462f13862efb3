"""The one loop that runs a program: looks up each op's record, calls its rule, stores the result, forgets the dead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nanproof.errors import ExecutionError, UnsupportedOpError
from nanproof.numerics import Numerics
from nanproof.ops import TABLE, OpDef
from nanproof.program import Block, Function, Op, Program, Type, Value
from nanproof.values.floats import carrier, to_carrier

__all__ = ["Observer", "Runner"]

Carried = Tensor | str
Observer = Callable[[Op, Sequence[Tensor], Sequence[Tensor]], None]
"""Sees each op with its tensor operands and its stored results, in execution order."""


class Runner:
    """Runs one function of a program under one numerics, as often as you like.

    Constants are put into carriers once, here, so that many batches pay for them once.

    Raises:
        UnsupportedOpError: The program holds ops without a record; all of them are named.
    """

    def __init__(self, program: Program, numerics: Numerics, function: str | None = None) -> None:
        self.program = program
        self.numerics = numerics
        self.function: Function = program.functions[function or program.default]
        _require_records(self.function)
        self._constants: dict[Value, Carried] = {}
        self._last_uses: dict[Block, dict[Op, list[Value]]] = {}

    def __call__(self, inputs: Mapping[str, Tensor], observers: Sequence[Observer] = ()) -> dict[str, Tensor]:
        """Run on carried tensors, one for each input, and return the carried outputs in order.

        Raises:
            ExecutionError: An op's rule failed; the message names the op and where it comes from.
        """
        env: dict[Value, Carried] = {v: inputs[name] for name, v in self.function.inputs.items()}
        with torch.inference_mode():
            results = self._run_block(self.function.block, env, observers)
        return {v.name: r for v, r in zip(self.function.block.outputs, results, strict=True)}

    def _run_block(self, block: Block, env: dict[Value, Carried], observers: Sequence[Observer]) -> list[Tensor]:
        dead_after = self._dead_after(block)
        for op in block.ops:
            record = TABLE[op.type]
            arguments = {name: self._argument(name, values, record, env) for name, values in op.inputs.items()}
            results = self._apply(op, record, arguments)
            env.update(zip(op.outputs, results, strict=True))
            if observers:
                operands = [t for v in op.operands if isinstance(t := self._read(v, env), Tensor)]
                for observe in observers:
                    observe(op, operands, results)
            for value in dead_after.get(op, ()):
                env.pop(value, None)
        return [_tensor(self._read(v, env)) for v in block.outputs]

    def _apply(self, op: Op, record: OpDef, arguments: dict[str, Any]) -> list[Tensor]:
        try:
            results = record.run(self.numerics.arithmetic(op.dtype), **arguments)
            if isinstance(results, Tensor):
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

    def _store(self, result: Tensor, type: Type) -> Tensor:
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
            self._last_uses[block] = _last_uses(block)
        return self._last_uses[block]


def _tensor(carried: Carried) -> Tensor:
    if isinstance(carried, str):
        raise ExecutionError(f"A block returns the string '{carried}', which is no tensor.")
    return carried


def _last_uses(block: Block) -> dict[Op, list[Value]]:
    """For every op, the values that nobody reads after it. Block results live on."""
    seen = set(block.outputs)
    last: dict[Op, list[Value]] = {}
    for op in reversed(block.ops):
        nested = [v for inner in op.blocks for o in inner.walk() for v in o.operands]
        for value in (*op.operands, *nested, *op.outputs):
            if value not in seen and value.const is None:
                seen.add(value)
                last.setdefault(op, []).append(value)
    return last


def _require_records(function: Function) -> None:
    missing = Counter(op.type for op in function.block.walk() if op.type not in TABLE)
    if missing:
        names = ", ".join(f"{name} ({count}x)" for name, count in sorted(missing.items()))
        raise UnsupportedOpError(
            f"nanproof cannot execute these MIL ops of function '{function.name}': {names}.\n"
            f"  It knows {len(TABLE)} ops; `nanproof ops` lists them. Nothing was checked."
        )
