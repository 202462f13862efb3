"""One call of one op: a sample made into a program of a single op, and run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor

from nanproof.interpret.execute import Executor
from nanproof.numerics import get
from nanproof.numerics.arithmetic import SingleInside
from nanproof.ops import TABLE, OpDef
from nanproof.program import Block, DType, Function, Op, Program, Type, Value
from nanproof.values.floats import to_carrier
from tests.laws.inference import Inferred, RejectedError, infer, opsets_of


@dataclass(frozen=True, eq=False)
class Call:
    """One sample of a record. ``half`` says that its floats are ``fp16``."""

    record: OpDef
    index: int
    inputs: Mapping[str, Any]
    half: bool = False

    def __str__(self) -> str:
        return f"{self.record.name}-{self.index}{'-fp16' if self.half else ''}"

    @property
    def floats(self) -> bool:
        """Whether any input is a float."""
        return any(a.dtype.kind == "f" for v in self.inputs.values() for a in arrays_of(v))

    def inferred(self, opset: str | None = None) -> Inferred:
        """What coremltools says about the call: in that opset, or in the newest that accepts it.

        Raises:
            RejectedError: The opset, or every opset, refuses the call.
        """
        if opset is not None:
            return _inferred(self, opset)
        refusals: list[RejectedError] = []
        for newest in reversed(opsets_of(self.record.name)):
            try:
                return _inferred(self, newest)
            except RejectedError as refusal:
                refusals.append(refusal)
        raise refusals[0]

    @property
    def accepted(self) -> bool:
        """Whether any opset accepts the call."""
        try:
            self.inferred()
        except RejectedError:
            return False
        return True

    def run(self, numerics: str, types: Sequence[Type] | None = None) -> list[np.ndarray]:
        """The stored results, one for each output, in the NumPy dtypes of the declared types."""
        program, inputs = self.program(types)
        return list(Executor(program, numerics)(inputs).values())

    def carried(self, numerics: str, types: Sequence[Type] | None = None) -> list[Tensor]:
        """The stored results as the executor holds them."""
        program, inputs = self.program(types)
        seen: list[Tensor] = []
        Executor(program, get(numerics))(inputs, [lambda op, operands, results: seen.extend(results)])
        return seen

    def computed(self) -> list[Tensor]:
        """What the rule itself returns under float32 arithmetic, before anything is stored."""
        arguments: dict[str, Any] = {}
        for name, given in self.inputs.items():
            carried = tuple(to_carrier(a, DType.of_numpy(a.dtype)) for a in arrays_of(given))
            arguments[name] = (
                given if isinstance(given, str) else carried if name in self.record.variadic else carried[0]
            )
        results = self.record.run(SingleInside(), **arguments)
        return [results] if isinstance(results, Tensor) else list(results)

    def program(self, types: Sequence[Type] | None = None) -> tuple[Program, dict[str, np.ndarray]]:
        """The one-op program, and its inputs: tensors are inputs of the function, scalars and strings constants.

        ``types`` are those of the outputs, by default what coremltools infers.
        """
        types = self.inferred().types if types is None else types
        tensors: dict[str, np.ndarray] = {}
        values: dict[str, Value] = {}
        arguments: dict[str, tuple[Value, ...]] = {}
        for name, given in self.inputs.items():
            arguments[name] = ()
            for i, array in enumerate([given] if isinstance(given, str) else arrays_of(given)):
                label = f"{name}_{i}"
                if isinstance(array, str) or array.ndim == 0:
                    value = Value(label, _type_of(array), array)
                else:
                    value = values[label] = Value(label, _type_of(array))
                    tensors[label] = array
                arguments[name] = (*arguments[name], value)
        outputs = tuple(Value(f"out_{i}", t) for i, t in enumerate(types))
        block = Block(tuple(values.values()), (Op(self.record.name, "call", arguments, outputs),), outputs)
        return Program({"main": Function("main", values, block)}), tensors


@cache
def _inferred(call: Call, opset: str) -> Inferred:
    return infer(call.record.name, call.inputs, opset)


def arrays_of(value: Any) -> list[np.ndarray]:
    """A sample's input as arrays in MIL dtypes: several for a list of arrays, none for a string."""
    if isinstance(value, str):
        return []
    if isinstance(value, list | tuple) and any(isinstance(e, np.ndarray) for e in value):
        return [np.asarray(e) for e in value]
    array = np.asarray(value)
    if isinstance(value, np.ndarray | np.generic):
        return [array]
    # Python numbers, and lists of them, are what the builder makes of them: int32, fp32, bool.
    return [array.astype({"i": np.int32, "f": np.float32}.get(array.dtype.kind, array.dtype))]


def calls(*, half: bool = False) -> list[Call]:
    """Every sample of the table, or those with floats, in ``fp16``."""
    return list(_calls(half))


def _calls(half: bool) -> Iterator[Call]:
    for record in TABLE.values():
        for index, sample in enumerate(record.samples()):
            if not half:
                yield Call(record, index, sample.inputs)
                continue
            # Some parameters, such as the factors of upsampling, are fp32 beside fp16 tensors.
            for scalars in (True, False):
                inputs = {k: _halved(v) if scalars or _is_tensor(v) else v for k, v in sample.inputs.items()}
                call = Call(record, index, inputs, half=True)
                if call.floats and call.accepted:
                    yield call
                    break


def _is_tensor(value: Any) -> bool:
    return isinstance(value, np.ndarray | list | tuple)


def _halved(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_halved(v) for v in value]
    if isinstance(value, float):
        return np.float16(value)
    if isinstance(value, np.ndarray | np.generic) and value.dtype == np.float32:
        with np.errstate(over="ignore"):
            return value.astype(np.float16)
    return value


def _type_of(array: np.ndarray | str) -> Type:
    return Type(DType.STRING) if isinstance(array, str) else Type(DType.of_numpy(array.dtype), array.shape)
