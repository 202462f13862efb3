"""What the constants of an FP16 program were in the float32 program that it was made of."""

from __future__ import annotations

import numpy as np

from nanproof.mil.names import base_name
from nanproof.program import DType, Program, Value

__all__ = ["exact_constants"]


def exact_constants(program: Program, twin: Program) -> dict[Value, np.ndarray]:
    """The float32 constant of ``twin`` for each FP16 constant that an op of the same name reads in the same place.

    Args:
        program: A program with FP16 constants.
        twin: The float32 program of which it was made, by passes that keep the names of ops up to their suffixes.
    """
    originals = {op.name: op for op in twin.walk()}
    found: dict[Value, np.ndarray] = {}
    for op in program.walk():
        other = originals.get(base_name(op.name))
        if other is None or other.type != op.type:
            continue
        for name, values in op.inputs.items():
            for ours, theirs in zip(values, other.inputs.get(name, ()), strict=False):
                array = _original(ours, theirs)
                if array is not None:
                    found[ours] = array
    return found


def _original(ours: Value, theirs: Value) -> np.ndarray | None:
    if ours.type.dtype is not DType.FP16 or theirs.type.dtype is not DType.FP32:
        return None
    if isinstance(ours.const, np.ndarray) and isinstance(theirs.const, np.ndarray):
        return theirs.const if ours.const.shape == theirs.const.shape else None
    return None
