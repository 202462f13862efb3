"""The float32 program with FP16 types, as coremltools' cast makes it: what a plan computes, without writing a file.

The rules are those of coremltools 9.0, ``passes/defs/quantization.py`` (``FP16ComputePrecision``): which ops can be
cast, which of their parameters stay FP32, and that small constants do not become zero.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from nanproof.mil.names import base_name
from nanproof.program import Block, DType, Function, Kind, Op, Program, Type, Value
from nanproof.values.floats import FP16_MAX, FP16_SMALLEST_SUBNORMAL

__all__ = ["Typist", "uncastable"]

_NEVER = frozenset(
    {"cast", "while_loop", "cond", "read_state", "write_state", "coreml_update_state"}
    | {"make_list", "list_gather", "list_scatter", "list_read", "list_write", "list_length"}
)
_MIXED = {
    **{op: {"alpha"} for op in ("elu", "leaky_relu", "prelu", "thresholded_relu")},
    **{
        op: {"alpha", "beta"}
        for op in ("clamped_relu", "linear_activation", "scaled_tanh", "sigmoid_hard", "softplus_parametric")
    },
    **{op: {"epsilon"} for op in ("inverse", "log", "rsqrt")},
}
"""Parameters that stay FP32 beside FP16 data from iOS17 on."""
_MEANT_AS_INFINITY = 1e38
_PROTECTED = 400
"""Arrays of fewer elements than this keep their numbers above zero when they are cast."""


def uncastable(op: Op) -> bool:
    """Whether coremltools leaves an op in FP32 whatever it is told."""
    return op.type in _NEVER or any(_overflows(value) for value in op.operands)


def _overflows(value: Value) -> bool:
    if value.type.dtype is not DType.FP32 or not isinstance(value.const, np.ndarray):
        return False
    magnitudes = np.abs(value.const)
    return bool(magnitudes[magnitudes < _MEANT_AS_INFINITY].max(initial=0.0) > FP16_MAX)


@dataclass(frozen=True, slots=True)
class Typist:
    """Types one float32 program FP16, as often as it takes; constants are cast once.

    Attributes:
        program: The program.
        stuck: Names of ops that stay FP32 in any case.
        mixed: Whether the deployment target lets side parameters stay FP32 (iOS17 and later).
        half_outputs: Names of the outputs that are FP16 in the file, unless a plan says otherwise.
    """

    program: Program
    stuck: frozenset[str] = frozenset()
    mixed: bool = True
    half_outputs: frozenset[str] = frozenset()
    _constants: dict[Value, Value] = field(default_factory=dict[Value, Value])

    @classmethod
    def like(cls, program: Program, written: Program, kept: Collection[str]) -> Typist:
        """A typist that does as coremltools did when it wrote ``written`` of ``program``, where ``kept`` stayed FP32.

        An op that is FP32 in the file although nothing asked for it is stuck.
        """
        in_half = {base_name(op.name) for op in written.walk() if op.dtype is DType.FP16}
        stuck = {
            base_name(op.name)
            for op in written.walk()
            if op.dtype is DType.FP32 and base_name(op.name) not in kept and base_name(op.name) not in in_half
        }
        mixed = written.main.opset not in ("CoreML5", "CoreML6", "iOS15", "iOS16")
        outputs = zip(program.main.block.outputs, written.main.block.outputs, strict=False)
        half = frozenset(ours.name for ours, theirs in outputs if theirs.type.dtype is DType.FP16)
        return cls(program, frozenset(stuck), mixed, half)

    def castable(self, op: Op) -> bool:
        """Whether a plan has a choice for an op."""
        floats = any(v.type.dtype is DType.FP32 and v.type.kind is Kind.TENSOR for v in (*op.operands, *op.outputs))
        return floats and op.name not in self.stuck and not uncastable(op)

    def typed(self, fp32: Collection[str], fp32_outputs: Collection[str] = ()) -> Program:
        """The program in which all but some ops are FP16 that can be.

        Op and value names are kept. A value that is read in another type than it is computed in goes through a cast
        named after it.

        Args:
            fp32: Names of the ops that stay FP32.
            fp32_outputs: Names of the outputs that stay FP32.
        """
        functions = {
            name: _function(self, function, frozenset(fp32), self.half_outputs - set(fp32_outputs))
            for name, function in self.program.functions.items()
        }
        return Program(functions, self.program.default)

    def constant(self, value: Value) -> Value:
        """A constant in FP16."""
        if value not in self._constants:
            self._constants[value] = Value(f"{value.name}_to_fp16", _half(value.type), _cast(value.const))
        return self._constants[value]

    def stays(self, op: Op, parameter: str) -> bool:
        """Whether a parameter of an FP16 op stays FP32."""
        return self.mixed and parameter in _MIXED.get(op.type, ())


def _cast(constant: np.ndarray | str | None) -> np.ndarray:
    array = np.asarray(constant)
    with np.errstate(over="ignore", under="ignore"):
        half = array.astype(np.float16)
    if array.size < _PROTECTED:
        lost = (np.abs(half) <= FP16_SMALLEST_SUBNORMAL) & (np.abs(array) > np.finfo(np.float32).tiny)
        half = np.where(lost, np.copysign(np.float16(FP16_SMALLEST_SUBNORMAL), array.astype(np.float32)), half)
    return np.asarray(half, np.float16)


def _half(type: Type) -> Type:
    return Type(DType.FP16, type.shape, type.kind, type.length, type.keys)


def _function(typist: Typist, function: Function, fp32: frozenset[str], half_outputs: frozenset[str]) -> Function:
    scope = _Scope(typist, fp32, {}, {})
    block = function.block
    ops: list[Op] = []
    for op in block.ops:
        ops += scope.op(op)
    results: list[Value] = []
    for value in block.outputs:
        wanted = scope.half if value.name in half_outputs else scope.full
        result = wanted(value, ops) if value.type.dtype is DType.FP32 else scope.full(value, ops)
        if result.name != value.name and result.const is None:  # an output keeps its name
            named = Value(value.name, result.type, result.const)
            ops.append(Op("identity", f"{value.name}_output", {"x": (result,)}, (named,)))
            result = named
        results.append(result)
    return Function(function.name, function.inputs, Block(block.inputs, tuple(ops), tuple(results)), function.opset)


@dataclass(frozen=True, slots=True)
class _Scope:
    """The values of a block in both types, by the values of the float32 program."""

    typist: Typist
    fp32: frozenset[str]
    fulls: dict[Value, Value]
    halves: dict[Value, Value]

    def op(self, op: Op) -> list[Op]:
        """An op, behind the casts that it needs."""
        made: list[Op] = []
        cast = op.name not in self.fp32 and self.typist.castable(op)
        inputs: dict[str, tuple[Value, ...]] = {}
        for name, values in op.inputs.items():
            read = self.half if cast and not self.typist.stays(op, name) else self.full
            inputs[name] = tuple(read(value, made) for value in values)
        outputs: list[Value] = []
        for value in op.outputs:
            if cast and value.type.dtype is DType.FP32 and value.type.kind is Kind.TENSOR:
                self.halves[value] = Value(value.name, _half(value.type))
                outputs.append(self.halves[value])
            else:
                self.fulls[value] = value
                outputs.append(value)
        blocks = tuple(self.block(block) for block in op.blocks)
        made.append(Op(op.type, op.name, inputs, tuple(outputs), blocks, op.attributes, op.source))
        return made

    def block(self, block: Block) -> Block:
        """A block of an op: what it gets and gives is as in the float32 program."""
        inner = _Scope(self.typist, self.fp32, dict(self.fulls), dict(self.halves))
        ops: list[Op] = []
        for op in block.ops:
            ops += inner.op(op)
        results = tuple(inner.full(value, ops) for value in block.outputs)
        return Block(block.inputs, tuple(ops), results)

    def full(self, value: Value, ops: list[Op]) -> Value:
        """A value in the type of the float32 program."""
        if value not in self.fulls:
            if value not in self.halves:
                return value
            self.fulls[value] = self._cast(self.halves[value], value, "fp32", value.type, ops)
        return self.fulls[value]

    def half(self, value: Value, ops: list[Op]) -> Value:
        """A value in FP16, if it is a tensor in FP32."""
        if value.type.dtype is not DType.FP32 or value.type.kind is not Kind.TENSOR:
            return self.full(value, ops)
        if value.const is not None:
            return self.typist.constant(value)
        if value not in self.halves:
            self.fulls.setdefault(value, value)  # an input of the block is there as it is, cast or not
            self.halves[value] = self._cast(self.fulls[value], value, "fp16", _half(value.type), ops)
        return self.halves[value]

    def _cast(self, source: Value, value: Value, dtype: str, type: Type, ops: list[Op]) -> Value:
        made = Value(f"{value.name}_to_{dtype}", type)
        text = Value(f"{made.name}_dtype", Type(DType.STRING), dtype)
        ops.append(Op("cast", made.name, {"x": (source,), "dtype": (text,)}, (made,)))
        return made


def casts_of(program: Program) -> Mapping[str, int]:
    """How often a typed program casts to FP16 and to FP32."""
    found = {"fp16": 0, "fp32": 0}
    for op in program.walk():
        if op.type == "cast" and op.outputs[0].type.dtype.value in found:
            found[op.outputs[0].type.dtype.value] += 1
    return found
