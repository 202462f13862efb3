"""Values, ops, blocks, functions, programs, and pipelines of programs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from nanproof.errors import UsageError
from nanproof.program.interface import Feature, Interface, Shapes
from nanproof.program.types import Constant, DType, Kind, Type

__all__ = ["Block", "Function", "Op", "Pipeline", "Program", "Source", "Value"]

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>.+)\n\s*(?P<code>.*)')


@dataclass(frozen=True, slots=True)
class Source:
    """Where an op comes from: the line of the user's Python code and the module path in the model."""

    file: str
    line: int
    code: str = ""
    module: str = ""

    @classmethod
    def of_trace(cls, trace: str, *, module: str = "", libraries: Sequence[str] = ()) -> Source | None:
        """The innermost frame of a Python stack trace, as text.

        Args:
            trace: The trace, as torch.export keeps it with each node.
            module: Module path in the model.
            libraries: Folders whose frames count only if there are no others, those of the first one least of all.
        """
        frames = list(_FRAME.finditer(trace))
        for count in range(len(libraries), -1, -1):
            own = [f for f in frames if not f["file"].startswith(tuple(libraries[:count]))]
            if own:
                return cls(own[-1]["file"], int(own[-1]["line"]), own[-1]["code"].strip(), module)
        return None

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
    """A callable of the program: named inputs, one block, the opset it was written for (``"CoreML7"``).

    ``described`` is what the file says about its interface; programs that come from no file have nothing to say.
    """

    name: str
    inputs: Mapping[str, Value]
    block: Block
    opset: str = ""
    described: Interface | None = None

    @property
    def interface(self) -> Interface:
        """What the function takes and gives: as described, or as its types have it."""
        if self.described is not None:
            return self.described
        inputs = (v for v in self.inputs.values() if v.type.kind is not Kind.STATE)
        return Interface({v.name: _typed(v) for v in inputs}, {v.name: _typed(v) for v in self.block.outputs})


def _typed(value: Value) -> Feature:
    dims = [d for d in value.type.shape if isinstance(d, int)]
    known = value.type.kind is Kind.TENSOR and len(dims) == len(value.type.shape)
    return Feature(value.name, value.type, Shapes(tuple(dims)) if known else Shapes())


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
    def interface(self) -> Interface:
        """What the default function takes and gives, images, optional inputs and flexible shapes included."""
        return self.main.interface

    def using(self, function_name: str | None) -> Program:
        """The same program with another default function; itself for ``None``.

        Raises:
            UsageError: There is no such function.
        """
        if function_name is None or function_name == self.default:
            return self
        if function_name not in self.functions:
            raise UsageError(f"There is no function '{function_name}'. The program holds {', '.join(self.functions)}.")
        return Program(self.functions, function_name)

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
            lines.extend(f"  {op}" + (f"  # {op.source}" if op.source else "") for op in function.block.walk())
            lines.append("  -> " + ", ".join(f"%{v.name}" for v in function.block.outputs))
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, eq=False)
class Pipeline:
    """ML Programs that run one after the other: each takes the inputs of the whole and what earlier stages gave.

    ``stages`` are by name, in the order in which they run.
    """

    stages: Mapping[str, Program]
    interface: Interface

    @property
    def inputs(self) -> Mapping[str, Type]:
        """Name and type of every input, in order."""
        return {name: feature.type for name, feature in self.interface.inputs.items()}

    @property
    def outputs(self) -> Mapping[str, Type]:
        """Name and type of every output, in order."""
        return {name: feature.type for name, feature in self.interface.outputs.items()}

    @property
    def states(self) -> Mapping[str, Type]:
        """None: whether Core ML lets the stage of a pipeline keep states is not documented."""
        return {}

    def using(self, function_name: str | None) -> Pipeline:
        """Itself, for ``None``.

        Raises:
            UsageError: A function was asked for: its stages run their default functions.
        """
        if function_name is not None:
            raise UsageError(f"There is no function '{function_name}': this is a pipeline, which has no functions.")
        return self
