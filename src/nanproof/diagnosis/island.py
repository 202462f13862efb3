"""What would be if some ops computed in FP32: the program with an island, and how far the island has to reach."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import final

import numpy as np

from nanproof.interpret.shadow import Shadow
from nanproof.program import Block, DType, Function, Op, Program, Type, Value
from nanproof.values.floats import FP16_MAX

__all__ = ["reach", "with_island"]

_FP16 = Value("fp16", Type(DType.STRING), "fp16")
_FP32 = Value("fp32", Type(DType.STRING), "fp32")


def reach(program: Program, ops: Collection[str], shadows: Mapping[str, Shadow]) -> frozenset[str]:
    """Some ops and those that read what FP16 does not hold of them, and so on: what has to be FP32 together."""
    readers: dict[Value, list[Op]] = {}
    for op in program.main.block.walk():
        for value in op.operands:
            readers.setdefault(value, []).append(op)
    by_name = {op.name: op for op in program.main.block.walk()}
    found, pending = set(ops), [by_name[name] for name in ops if name in by_name]
    while pending:
        op = pending.pop()
        if _fits(shadows.get(op.name)):
            continue
        for value in op.outputs:
            more = [reader for reader in readers.get(value, ()) if reader.name not in found and not reader.blocks]
            found |= {reader.name for reader in more}
            pending += more
    return frozenset(found)


def _fits(shadow: Shadow | None) -> bool:
    if shadow is None:
        return True
    largest = max(abs(shadow.low), abs(shadow.high)) if shadow.low <= shadow.high else 0.0
    return largest <= FP16_MAX and not shadow.vanished and not shadow.born


def with_island(program: Program, ops: Collection[str], constants: Mapping[Value, np.ndarray]) -> Program:
    """The program with some ops in FP32, their constants too, and casts to FP16 behind them for all other readers.

    Args:
        program: The program.
        ops: Names of ops.
        constants: What constants were before they were rounded to FP16.
    """
    functions = {name: _Builder(frozenset(ops), constants).function(f) for name, f in program.functions.items()}
    return Program(functions, program.default)


@final
class _Builder:
    def __init__(self, ops: frozenset[str], constants: Mapping[Value, np.ndarray]) -> None:
        self._ops = ops
        self._constants = constants
        self._wide: dict[Value, Value] = {}

    def function(self, function: Function) -> Function:
        return replace(function, block=self._block(function.block))

    def _block(self, block: Block) -> Block:
        ops: list[Op] = []
        for op in block.ops:
            ops += self._op(op)
        return Block(block.inputs, tuple(ops), block.outputs)

    def _op(self, op: Op) -> list[Op]:
        blocks = tuple(self._block(b) for b in op.blocks)
        if op.name not in self._ops or op.blocks:
            return [replace(op, blocks=blocks)]
        inputs = {name: tuple(self._widened(v) for v in values) for name, values in op.inputs.items()}
        halves = [v for v in op.outputs if v.type.dtype is DType.FP16]
        outputs: list[Value] = []
        casts: list[Op] = []
        for value in op.outputs:
            if value not in halves:
                outputs.append(value)
                continue
            wide = Value(f"{value.name}_wide", replace(value.type, dtype=DType.FP32))
            self._wide[value] = wide
            outputs.append(wide)
            half = {"x": (wide,), "dtype": (_FP16,)}
            casts.append(Op("cast", f"{value.name}_narrow", half, (value,)))
        if op.type == "cast" and halves:
            inputs["dtype"] = (_FP32,)
        return [replace(op, inputs=inputs, outputs=tuple(outputs)), *casts]

    def _widened(self, value: Value) -> Value:
        if value in self._constants:
            array = self._constants[value]
            return Value(value.name, replace(value.type, dtype=DType.FP32), array)
        return self._wide.get(value, value)
