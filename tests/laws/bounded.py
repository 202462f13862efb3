"""Programs read for all inputs inside boxes, and run on points of them: what is proved, against what is computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanproof.interpret.bounds import Interpreter, Shared
from nanproof.interpret.loop import Runner
from nanproof.numerics import Numerics, get
from nanproof.ops import OpDef
from nanproof.program import Block, DType, Function, Op, Program, Type, Value
from nanproof.values.bound import Bound
from nanproof.values.floats import from_carrier, to_carrier
from tests.laws.boxes import Box, around
from tests.laws.calls import arrays_of
from tests.laws.enclosure import violations

UNITS = ("gpu", "cpu", "ane", "strict", "reference", "ane_m1", "ane_pessimistic")

DATA = frozenset(
    ("x", "y", "a", "b", "cond", "values", "query", "key", "value", "attn_mask", "input", "data", "updates")
)
"""Inputs that are data; all others are constants of a program, most of the time."""

_PLACES = frozenset(("indices", "weight", "bias", "y", "b", "a", "attn_mask", "updates"))
"""Inputs that are now data and now constants."""


@cache
def readings(unit: str) -> tuple[Numerics, ...]:
    """The fast and the exact reading of a unit, if they differ."""
    fast, exact = get(unit), get(unit, exact=True)
    return (fast,) if fast.half is exact.half else (fast, exact)


@dataclass(frozen=True, eq=False)
class Boxed:
    """A program all of whose values are outputs, with a box for each of its inputs."""

    program: Program
    boxes: Mapping[str, Box]

    def bounds(self) -> dict[str, Bound]:
        return {name: box.bound for name, box in self.boxes.items()}

    def points(self, rng: np.random.Generator, count: int) -> list[dict[str, np.ndarray]]:
        columns = {name: box.points(rng, count) for name, box in self.boxes.items()}
        return [{name: columns[name][i] for name in columns} for i in range(count)]


@dataclass
class Tally:
    """How many elements were compared, and how often a bound was given up."""

    elements: int = 0
    proved: int = 0
    given_up: int = 0
    reasons: set[str] = field(default_factory=set)


def boxed_call(record: OpDef, inputs: Mapping[str, Any], types: Sequence[Type], rng: np.random.Generator) -> Boxed:
    """A program of one op. Its data are inputs with boxes around them; its parameters are constants."""
    values: dict[str, Value] = {}
    boxes: dict[str, Box] = {}
    arguments: dict[str, tuple[Value, ...]] = {}
    calm = rng.random() < 0.4
    for name, given in inputs.items():
        arguments[name] = ()
        for i, array in enumerate([given] if isinstance(given, str) else arrays_of(given)):
            label = f"{name}_{i}"
            fixed = isinstance(array, str) or array.ndim == 0 or name not in DATA | _PLACES
            fixed = fixed or (name in _PLACES and rng.random() < 0.5)
            value = Value(label, _type_of(array), array if fixed else None)
            if not fixed:
                values[label] = value
                boxes[label] = around(rng, np.asarray(array), calm=calm or name == "indices")
            arguments[name] = (*arguments[name], value)
    if not boxes:
        name = next(n for n, g in inputs.items() if not isinstance(g, str))
        array = np.asarray(arrays_of(inputs[name])[0])
        values[f"{name}_0"] = value = Value(f"{name}_0", _type_of(array))
        wide = array.astype(np.float64)
        boxes[f"{name}_0"] = Box(array, wide, wide)  # a parameter, of which sizes may depend
        arguments[name] = (value, *arguments[name][1:])
    outputs = tuple(Value(f"out_{i}", t) for i, t in enumerate(types))
    block = Block(tuple(values.values()), (Op(record.name, "call", arguments, outputs),), outputs)
    return Boxed(Program({"main": Function("main", values, block)}), boxes)


def exposed(program: Program) -> Program:
    """The same program with all values of its main block as outputs."""
    function = program.main
    found = dict.fromkeys(v for op in function.block.ops for v in op.outputs)
    block = Block(function.block.inputs, function.block.ops, tuple(found))
    return Program({"main": Function("main", function.inputs, block, function.opset)})


def check(
    boxed: Boxed, points: Iterable[Mapping[str, np.ndarray]], unit: str, tally: Tally, *, exact: bool = True
) -> Iterator[str]:
    """Read the program once, run it on each point in every reading of the unit, and tell what is not as proved."""
    points = list(points)
    function = boxed.program.main
    given = boxed.bounds()
    interpreter = Interpreter(function, get(unit), {}, Shared())
    found = interpreter(given)
    problems = {op: step.problems for op, step in interpreter.steps.items() if step.problems}
    if problems:
        tally.given_up += 1
        tally.reasons.update(p for ps in problems.values() for p in ps)
        return
    tally.proved += 1
    for numerics in readings(unit)[: None if exact else 1]:
        runner = Runner(boxed.program, numerics)
        for point in points:
            carried = {n: to_carrier(a, function.inputs[n].type.dtype) for n, a in point.items()}
            with np.errstate(all="ignore"):
                results = runner(carried)  # type: ignore[arg-type]
            known = {id(given[n].token): t for n, t in carried.items() if isinstance(t, Tensor)}
            tensors = [(v, b, results[v.name]) for v, b in zip(function.block.outputs, found, strict=True)]
            known |= {id(b.token): t for _, b, t in tensors if isinstance(b, Bound) and isinstance(t, Tensor)}
            for value, bound, tensor in tensors:
                if not isinstance(bound, Bound) or not isinstance(tensor, Tensor) or value.type.dtype is DType.STRING:
                    continue
                if all(isinstance(n, int) for n in value.type.shape) and tuple(tensor.shape) != value.type.shape:
                    continue  # sizes that depend on the point: the program declares those of the sample
                tally.elements += tensor.numel()
                stored = torch.from_numpy(np.asarray(from_carrier(tensor, value.type.dtype)))
                shown = tensor if value.type.dtype.is_float else stored
                for text in violations(bound, shown, known):
                    yield f"{numerics}: '{value.name}' of {_shown(boxed, point)}: {text}"


def _shown(boxed: Boxed, point: Mapping[str, np.ndarray]) -> str:
    ops = "; ".join(str(op) for op in boxed.program.main.block.ops[:12])
    parts = [f"{n}={np.array2string(a, threshold=12)}" for n, a in point.items()]
    parts += [
        f"box {n}=[{np.array2string(b.low, threshold=12)}, {np.array2string(b.high, threshold=12)}]"
        for n, b in boxed.boxes.items()
    ]
    return f"{ops} at {', '.join(parts)}"


def _type_of(array: np.ndarray | str) -> Type:
    return Type(DType.STRING) if isinstance(array, str) else Type(DType.of_numpy(array.dtype), array.shape)
