"""The written program as a tree of the modules whose code made it, with the range of every value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nanproof.mil.names import base_name
from nanproof.program import DType, Op
from nanproof.report.wording import nearby

if TYPE_CHECKING:
    from nanproof.interpret.range import Ranges
    from nanproof.result import Conversion

__all__ = ["modules_data", "place"]

_ELSEWHERE = "(no module)"
_LEAST, _MOST = -24.0, 17.0
"""Ends of the scale as powers of two: FP16's smallest subnormal, and one beyond its largest number."""


@dataclass(slots=True)
class _Module:
    """One module: the ops of its own code, and the modules inside it."""

    name: str
    ops: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    inner: dict[str, _Module] = field(default_factory=dict[str, "_Module"])


def modules_data(conversion: Conversion) -> dict[str, Any]:
    """The tree as plain data, with what the float32 program was seen to compute, and what is proved of the file.

    ``low`` and ``high`` are of the value in float32 on all inputs that were tried, ``None`` where a rewrite has made
    it; ``bound`` is the largest magnitude that the proof leaves, for the unit where it is largest, ``None`` where there
    is none.
    """
    bounds = _bounds(conversion)
    root = _Module("")
    for op in conversion.program.walk():
        module = root
        for part in (op.source.module if op.source and op.source.module else _ELSEWHERE).split("."):
            module = module.inner.setdefault(part, _Module(part))
        module.ops.append(_row(op, conversion.ranges, bounds))
    return _node(root)


def place(magnitude: Any) -> float:
    """Where a magnitude stands on a logarithmic scale, in percent: 0 at 2^-24, 97.6 at 65504.

    >>> place(2.0**-24), round(place(65504.0), 1), place(1e30), place(0.0)
    (0.0, 97.6, 100.0, 0.0)
    """
    size = float(magnitude)  # data holds infinities as strings
    if size <= 0.0:
        return 0.0
    share = (min(math.log2(size), _MOST) - _LEAST) / (_MOST - _LEAST)
    return 100.0 * min(1.0, max(0.0, share))


def _bounds(conversion: Conversion) -> Mapping[str, float]:
    """The largest magnitude of an op's results that the proof leaves, where it leaves any bound."""
    found: dict[str, float] = {}
    for unit in (conversion.proof.units if conversion.proof else {}).values():
        for step in unit.steps:
            reach = max(abs(step.low), abs(step.high))
            found[step.op.name] = math.inf if step.problems else max(reach, found.get(step.op.name, 0.0))
    return {name: reach for name, reach in found.items() if math.isfinite(reach)}


def _row(op: Op, ranges: Ranges | None, bounds: Mapping[str, float]) -> dict[str, Any]:
    output = op.outputs[0] if op.outputs else None
    row: dict[str, Any] = {
        "name": op.name,
        "type": op.type,
        "dtype": "" if op.dtype is None else op.dtype.value,
        "shape": [] if output is None else [str(d) for d in output.type.shape],
        "line": f"{nearby(op.source.file)}:{op.source.line}" if op.source else "",
        "code": op.source.code if op.source else "",
        "bound": bounds.get(op.name),
        "low": None,
        "high": None,
        "smallest": None,
    }
    known = None if ranges is None or output is None else ranges.by_name.get(base_name(output.name))
    if known is not None and known.count and output is not None and output.type.dtype.is_float:
        row |= {"low": known.low, "high": known.high, "smallest": known.smallest, "finite": known.finite}
    return row


def _node(module: _Module) -> dict[str, Any]:
    """A module with the sums of all that is in it; a chain of modules that hold nothing but each other is one."""
    name = module.name
    while not module.ops and len(module.inner) == 1:
        (module,) = module.inner.values()
        name = f"{name}.{module.name}" if name else module.name
    inner = [_node(one) for one in module.inner.values()]
    computing = [op for op in module.ops if op["dtype"] and op["type"] != "cast"]
    largest = [max(abs(op["low"]), abs(op["high"])) for op in module.ops if op["low"] is not None]
    return {
        "name": name,
        "count": len(module.ops) + sum(one["count"] for one in inner),
        "fp32": sum(op["dtype"] == DType.FP32.value for op in computing) + sum(one["fp32"] for one in inner),
        "largest": max([*largest, *(one["largest"] for one in inner)], default=0.0),
        "ops": module.ops,
        "inner": inner,
    }
