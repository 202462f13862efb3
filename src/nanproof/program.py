"""The ML Program as data: typed SSA values, ops, blocks and functions.

Plain frozen dataclasses without PyTorch and without coremltools, so that every reading of a program
(execution, ranges, proof) works on the same small thing, whichever reader filled it.
Dtype names are those of MIL (``MIL.proto`` and the coremltools text form): ``fp16``, ``int32``, ``bool``.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Block", "Constant", "DType", "Function", "Kind", "Op", "Program", "Source", "Type", "Value"]

Array = NDArray[np.generic]
Constant = Array | str
"""A compile-time value: an array (0-d for scalars; 1-d for a list, of strings too), or a string such as a ``mode``."""


class DType(enum.Enum):
    """Element type of a tensor, by its MIL name."""

    FP16 = "fp16"
    FP32 = "fp32"
    FP64 = "fp64"
    INT8 = "int8"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    UINT8 = "uint8"
    UINT16 = "uint16"
    UINT32 = "uint32"
    UINT64 = "uint64"
    BOOL = "bool"
    STRING = "string"
    # Compressed weights only (iOS18). An element is held in a byte here, and packed in a file.
    INT4 = "int4"
    UINT1 = "uint1"
    UINT2 = "uint2"
    UINT3 = "uint3"
    UINT4 = "uint4"
    UINT6 = "uint6"

    @property
    def is_float(self) -> bool:
        """Whether the type is a floating-point type."""
        return self in _FLOATS

    @property
    def is_integer(self) -> bool:
        """Whether the type is a signed or unsigned integer type (``bool`` is not)."""
        return self.value.startswith(("int", "uint"))

    @property
    def packed_bits(self) -> int | None:
        """Width of an element in bits if it is less than a byte, so that files pack several into one."""
        return int(self.value[-1]) if self in _SUB_BYTE else None

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The NumPy dtype of the same width, or of a byte for the types of less than a byte."""
        return np.dtype(_NUMPY.get(self, self.value))

    @classmethod
    def of_numpy(cls, dtype: np.dtype[np.generic]) -> DType:
        """The MIL element type that holds values of a NumPy dtype.

        Raises:
            KeyError: No MIL type has this width.
        """
        return _FROM_NUMPY[np.dtype(dtype)]


_FLOATS = frozenset({DType.FP16, DType.FP32, DType.FP64})
_SUB_BYTE = frozenset({DType.INT4, DType.UINT1, DType.UINT2, DType.UINT3, DType.UINT4, DType.UINT6})
_NUMPY = {
    DType.FP16: "float16",
    DType.FP32: "float32",
    DType.FP64: "float64",
    DType.STRING: "str",
    **{dtype: "int8" if dtype is DType.INT4 else "uint8" for dtype in _SUB_BYTE},
}
_FROM_NUMPY = {dtype.numpy: dtype for dtype in DType if dtype not in _SUB_BYTE}


class Kind(enum.Enum):
    """What a value is, beside a tensor."""

    TENSOR = "tensor"
    LIST = "list"
    """Tensors of one type in a row, as ``make_list`` makes them, or the labels of a classifier."""
    STATE = "state"
    """A tensor that outlives a prediction and is changed in place."""
    DICTIONARY = "dictionary"
    """The probabilities of a classifier by label."""


@dataclass(frozen=True, slots=True)
class Type:
    """Element type and shape of a tensor. An unknown dimension is a string, its symbol (``"?"`` if unnamed).

    Of a list they are those of one element, of a state those of its tensor, of a dictionary those of one of its values.
    ``length`` is that of a list (``None`` if it is not known), ``keys`` the type of a dictionary's keys.
    """

    dtype: DType
    shape: tuple[int | str, ...] = ()
    kind: Kind = Kind.TENSOR
    length: int | None = None
    keys: DType | None = None

    def __str__(self) -> str:
        dims = ", ".join(str(d) for d in self.shape)
        element = f"{self.dtype.value}[{dims}]"
        if self.kind is Kind.TENSOR:
            return element
        extra = "" if self.length is None else f", {self.length}"
        key = "" if self.keys is None else f"{self.keys.value}, "
        return f"{self.kind.value}<{key}{element}{extra}>"


_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>.+)\n\s*(?P<code>.*)')


@dataclass(frozen=True, slots=True)
class Source:
    """Where an op comes from: the line of the user's Python code and the module path in the model."""

    file: str
    line: int
    code: str = ""
    module: str = ""

    @classmethod
    def of_trace(cls, trace: str, *, module: str = "", below: str = "") -> Source | None:
        """The innermost frame of a Python stack trace, as text.

        Args:
            trace: The trace, as torch.export keeps it with each node.
            module: Module path in the model.
            below: Folder of a library whose frames count only if there are no others.
        """
        frames = list(_FRAME.finditer(trace))
        own = [f for f in frames if not below or not f["file"].startswith(below)] or frames
        return cls(own[-1]["file"], int(own[-1]["line"]), own[-1]["code"].strip(), module) if own else None

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}"
        return f"{self.module} at {where}" if self.module else where


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """One SSA value. Identity is what counts: two values are equal only if they are the same object.

    ``const`` is set for values known at compile time (MIL ``const`` ops and immediate arguments).
    """

    name: str
    type: Type
    const: Constant | None = None

    def __str__(self) -> str:
        return f"%{self.name}: {self.type}"


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """One operation. Each input holds a tuple of values, since MIL arguments may be variadic (``concat``)."""

    type: str
    name: str
    inputs: Mapping[str, tuple[Value, ...]]
    outputs: tuple[Value, ...]
    blocks: tuple[Block, ...] = ()
    attributes: Mapping[str, Constant] = field(default_factory=dict[str, Constant])
    source: Source | None = None

    def input(self, name: str) -> Value | None:
        """The first value of the named input, or ``None`` if the input is absent."""
        values = self.inputs.get(name, ())
        return values[0] if values else None

    @property
    def operands(self) -> Iterator[Value]:
        """All input values, constants included, in the order of the arguments."""
        for values in self.inputs.values():
            yield from values

    @property
    def tensors(self) -> list[Value]:
        """The operands that are tensors of numbers: what an observer of a run is shown, in this order."""
        return [v for v in self.operands if v.type.kind is Kind.TENSOR and v.type.dtype is not DType.STRING]

    @property
    def dtype(self) -> DType | None:
        """The floating-point type in which the op computes, or ``None`` if no float is involved.

        The type of the first float output decides; ops whose results are not floats (comparisons, ``argmax``)
        compute in the type of their first non-constant float input.
        """
        for value in self.outputs:
            if value.type.dtype.is_float:
                return value.type.dtype
        floats = [v for v in self.operands if v.type.dtype.is_float]
        floats.sort(key=lambda v: v.const is not None)
        return floats[0].type.dtype if floats else None

    def __str__(self) -> str:
        outs = ", ".join(str(v) for v in self.outputs)
        args = ", ".join(f"{k}={'/'.join(v.name for v in vs)}" for k, vs in self.inputs.items())
        return f"{outs} = {self.type}({args})"


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A straight line of ops with its own inputs (of a loop body, say) and results."""

    inputs: tuple[Value, ...]
    ops: tuple[Op, ...]
    outputs: tuple[Value, ...]

    def walk(self) -> Iterator[Op]:
        """All ops in execution order, nested blocks after the op that owns them."""
        for op in self.ops:
            yield op
            for block in op.blocks:
                yield from block.walk()


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """A callable of the program: named inputs, one block, the opset it was written for (``"CoreML7"``)."""

    name: str
    inputs: Mapping[str, Value]
    block: Block
    opset: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """An ML Program. ``inputs`` and ``outputs`` are those of the default function, in order."""

    functions: Mapping[str, Function]
    default: str = "main"

    @property
    def main(self) -> Function:
        """The default function."""
        return self.functions[self.default]

    @property
    def inputs(self) -> Mapping[str, Type]:
        """Name and type of every input, in order. States are no inputs: see :attr:`states`."""
        return {n: v.type for n, v in self.main.inputs.items() if v.type.kind is not Kind.STATE}

    @property
    def states(self) -> Mapping[str, Type]:
        """Name and type of every state, in order: what the program keeps from one prediction to the next."""
        return {n: v.type for n, v in self.main.inputs.items() if v.type.kind is Kind.STATE}

    @property
    def outputs(self) -> Mapping[str, Type]:
        """Name and type of every output, in order."""
        return {value.name: value.type for value in self.main.block.outputs}

    def walk(self) -> Iterator[Op]:
        """All ops of all functions, nested blocks included."""
        for function in self.functions.values():
            yield from function.block.walk()

    def __str__(self) -> str:
        lines: list[str] = []
        for function in self.functions.values():
            args = ", ".join(str(v) for v in function.inputs.values())
            lines.append(f"{function.name}[{function.opset}]({args})")
            lines.extend(f"  {op}" for op in function.block.walk())
            lines.append("  -> " + ", ".join(f"%{v.name}" for v in function.block.outputs))
        return "\n".join(lines)
