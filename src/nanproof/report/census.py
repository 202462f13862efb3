"""What a program consists of: inputs, outputs, op counts by type and by float type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from nanproof.program import DType, Op, Program, Type

__all__ = ["program_data"]

_SYSTEMS = {
    "CoreML5": "iOS15, macOS12",
    "CoreML6": "iOS16, macOS13",
    "CoreML7": "iOS17, macOS14",
    "CoreML8": "iOS18, macOS15",
    "CoreML9": "iOS26, macOS26",
}


def program_data(program: Program) -> dict[str, Any]:
    """The census of a program as plain data. Casts are counted by themselves: they convert, they do not compute."""
    ops = list(program.walk())
    computing = Counter(_float_type(op) for op in ops if op.type != "cast")
    return {
        "functions": [
            {
                "name": f.name,
                "opset": f.opset,
                "system": _SYSTEMS.get(f.opset, ""),
                "ops": sum(1 for _ in f.block.walk()),
            }
            for f in program.functions.values()
        ],
        "opset": program.main.opset,
        "system": _SYSTEMS.get(program.main.opset, ""),
        "inputs": _typed(program.inputs),
        "outputs": _typed(program.outputs),
        "ops": len(ops),
        "fp16": computing["fp16"],
        "fp32": computing["fp32"],
        "without_floats": computing["none"],
        "casts": sum(op.type == "cast" for op in ops),
        "types": _types(ops),
        "fp32_ops": [
            {"name": op.name, "type": op.type} for op in ops if op.type != "cast" and _float_type(op) == "fp32"
        ],
        "weights_bytes": _weights_bytes(ops),
    }


def _typed(values: Mapping[str, Type]) -> list[dict[str, Any]]:
    return [{"name": n, "dtype": t.dtype.value, "shape": list(t.shape)} for n, t in values.items()]


def _float_type(op: Op) -> str:
    if op.dtype is None:
        return "none"
    return "fp16" if op.dtype is DType.FP16 else "fp32"


def _types(ops: Iterable[Op]) -> list[dict[str, Any]]:
    counts: dict[str, Counter[str]] = {}
    for op in ops:
        counts.setdefault(op.type, Counter())[_float_type(op)] += 1
    rows = [
        {"type": name, "count": sum(c.values()), "fp16": c["fp16"], "fp32": c["fp32"], "without_floats": c["none"]}
        for name, c in counts.items()
    ]
    return sorted(rows, key=lambda row: (-row["count"], row["type"]))


def _weights_bytes(ops: Iterable[Op]) -> int:
    """Bytes of all constants as they are stored; one that several ops read counts once."""
    constants = {id(v): v.const for op in ops for v in op.operands if v.const is not None}
    return sum(0 if isinstance(c, str) else int(c.nbytes) for c in constants.values())
