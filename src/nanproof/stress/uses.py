"""Where the inputs of a program end up: the ops that first do more with them than move them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nanproof.program import Op, Program, Value

__all__ = ["Consumers", "Use", "consumers", "follow", "scalar", "uses"]

_MOVES = frozenset(
    {
        "band_part",
        "broadcast_to",
        "cast",
        "clip",
        "concat",
        "copy",
        "expand_dims",
        "flatten2d",
        "floor",
        "identity",
        "maximum",
        "minimum",
        "pixel_shuffle",
        "pixel_unshuffle",
        "relu",
        "reshape",
        "reshape_like",
        "reverse",
        "round",
        "slice_by_index",
        "slice_by_size",
        "split",
        "squeeze",
        "stack",
        "tile",
        "transpose",
    }
)
"""Ops whose result holds elements of their operand as they are, or cut to bounds that a constant names."""

_SHIFTS = frozenset({"add", "sub"})
Consumers = Mapping[Value, Sequence[tuple[Op, str]]]
"""For each value the ops that read it, with the name of the argument, nested blocks included."""


@dataclass(frozen=True, slots=True)
class Use:
    """An op that does something with an input, the argument as which it takes it, and what was added on the way."""

    op: Op
    argument: str
    offset: float = 0.0

    @property
    def other(self) -> Value | None:
        """The other operand of an op of two operands."""
        return self.op.input({"x": "y", "y": "x"}.get(self.argument, ""))


def consumers(program: Program) -> Consumers:
    """Who reads each value of the default function."""
    found: dict[Value, list[tuple[Op, str]]] = defaultdict(list)
    for op in program.main.block.walk():
        for argument, values in op.inputs.items():
            for value in values:
                found[value].append((op, argument))
    return found


def uses(value: Value, readers: Consumers) -> list[Use]:
    """The uses of an input behind movements, casts, additions of a constant, and the repair of negative indices.

    A constant that is added is a use, too: what comes behind it may be an index, or not.
    """
    found: list[Use] = []
    seen: set[tuple[Value, float]] = set()
    pending = [(value, 0.0)]
    while pending:
        at = pending.pop()
        if at in seen:
            continue
        seen.add(at)
        current, offset = at
        for op, argument in readers.get(current, ()):
            use = Use(op, argument, offset)
            added = _added(use)
            if op.type in _MOVES or (op.type == "select" and argument != "cond"):
                pending += [(out, offset) for out in op.outputs]
                continue
            found.append(use)
            if added is not None and len(seen) < _MOST_STEPS:
                pending += [(out, offset + added) for out in op.outputs]
    return found


_MOST_STEPS = 400
"""A ring of additions cannot be, but a long chain can, and nobody indexes with one."""


def _added(use: Use) -> float | None:
    """The constant that an ``add`` or ``sub`` adds to the input, or ``None``."""
    if use.op.type not in _SHIFTS or use.other is None or (use.op.type == "sub" and use.argument != "x"):
        return None
    constant = scalar(use.other)
    if constant is None:
        return None
    return constant if use.op.type == "add" else -constant


def scalar(value: Value | None) -> float | None:
    """The number that a constant holds in every element, or ``None``."""
    if value is None or value.const is None or isinstance(value.const, str) or not np.size(value.const):
        return None
    flat = np.asarray(value.const).reshape(-1)
    return float(flat[0]) if flat.dtype.kind in "biuf" and bool((flat == flat[0]).all()) else None


def follow(values: Iterable[Value], readers: Consumers, through: frozenset[str]) -> list[Use]:
    """The first ops behind the values that neither move elements nor are of the types ``through``."""
    found: list[Use] = []
    seen: set[Value] = set()
    pending = list(values)
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        for op, argument in readers.get(current, ()):
            if op.type in _MOVES or op.type in through:
                pending += op.outputs
            else:
                found.append(Use(op, argument))
    return found
