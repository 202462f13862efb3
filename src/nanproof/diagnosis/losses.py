"""What FP16 has taken from the constants of a file for good, and what can be said about it all the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nanproof.findings import Finding
from nanproof.program import Op, Program

__all__ = ["SMALLEST", "losses", "lost"]

SMALLEST = 2.0**-24
"""The smallest FP16 number above 0, which coremltools 7 to 9 put in the place of all constants that would be 0."""

_WEIGHING = frozenset(
    {
        "batch_norm",
        "conv",
        "conv_transpose",
        "einsum",
        "gru",
        "instance_norm",
        "layer_norm",
        "linear",
        "lstm",
        "matmul",
        "rnn",
    }
)
"""Ops whose constants were trained: none of these is infinite on purpose, as a bound or a mask may be."""
_MOST_SMALL = 400
"""So many elements has a constant at most in which coremltools puts the smallest number."""


def losses(program: Program, names: Mapping[str, str]) -> list[Finding]:
    """A finding for each FP16 constant of the default function that is not what it was.

    Args:
        program: The program as it is in the file.
        names: The name of each op in the float32 program, by the one in the file.
    """
    found: list[Finding] = []
    for op in program.main.block.walk():
        for argument, values in op.inputs.items():
            for value in values:
                if isinstance(value.const, np.ndarray) and value.const.dtype == np.float16:
                    finding = _loss(op, argument, value.const, names.get(op.name, op.name))
                    found += [finding] if finding is not None else []
    return found


def lost(findings: list[Finding]) -> list[str]:
    """What cannot be known any more, for each finding that says so."""
    return [f"{f.op_type} '{f.op}': {f.detail}" for f in findings if f.code == "NP402"]


def _loss(op: Op, argument: str, constant: np.ndarray, name: str) -> Finding | None:
    infinite, undefined = int(np.isinf(constant).sum()), int(np.isnan(constant).sum())
    if undefined:
        detail = f"its constant input '{argument}' holds {undefined} NaN"
        return Finding("NP402", name, op.type, detail, "not repaired: convert from the source", op.source)
    if infinite and op.type in _WEIGHING:
        detail = f"its weights '{argument}' hold {infinite} Inf"
        return Finding("NP402", name, op.type, detail, "not repaired: convert from the source", op.source)
    if infinite:
        low, high = float(constant.min()), float(constant.max())
        shown = f"{low:g}" if np.isinf(low) else f"{high:g}"
        detail = f"its constant input '{argument}' holds {shown}: in float32 it was finite, or a true infinity"
        return Finding("NP401", name, op.type, detail, "taken for a huge finite number", op.source)
    if constant.size < _MOST_SMALL and bool((np.abs(constant) == np.float16(SMALLEST)).any()):
        detail = f"its constant input '{argument}' holds {SMALLEST:.3g}, which stands for anything smaller"
        return Finding("NP403", name, op.type, detail, "left as it is", op.source)
    return None
