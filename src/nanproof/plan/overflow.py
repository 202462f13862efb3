"""Activations beyond the FP16 range: the ops that write or read them stay FP32."""

from __future__ import annotations

from collections.abc import Collection

from nanproof.findings import Finding
from nanproof.interpret.observe import Ranges
from nanproof.plan.plan import Island, connected
from nanproof.program import Program
from nanproof.values.floats import FP16_MAX

__all__ = ["overflow_islands"]


def overflow_islands(
    program: Program, ranges: Ranges, rewritten: Collection[str]
) -> tuple[list[Finding], list[Island], list[str]]:
    """Findings and islands for values that leave the FP16 range on the observed inputs.

    Args:
        program: The float32 program.
        ranges: What was observed on it.
        rewritten: Ops whose huge values a rewrite has made finite already.

    Returns:
        Findings, islands, and the names of outputs that have to stay FP32.
    """
    too_large = {
        value: ranges[value.name].magnitude
        for op in program.walk()
        if op.name not in rewritten
        for value in op.outputs
        if value.type.dtype.is_float and ranges[value.name].magnitude > FP16_MAX
    }
    for value in program.main.inputs.values():
        if value.type.dtype.is_float and ranges[value.name].magnitude > FP16_MAX:
            too_large[value] = ranges[value.name].magnitude
    inputs = frozenset(program.main.inputs.values())
    findings: list[Finding] = []
    touched: dict[str, float] = {}
    for op in program.walk():
        written = [too_large[v] for v in op.outputs if v in too_large]
        read = [too_large[v] for v in op.operands if v in too_large]
        if written or read:
            touched[op.name] = max(written + read)
        fed = [v for v in op.operands if v in too_large and v in inputs]
        if fed or (written and not read):
            where = f"input '{fed[0].name}' has" if fed else "it has"
            detail = f"{where} values up to {touched[op.name]:.4g} on the given inputs; FP16 ends at {FP16_MAX:.0f}"
            findings.append(Finding.at("NP110", op, detail, "kept in FP32"))
    islands = [
        Island(group, "activation-overflow", f"values up to {max(touched[n] for n in group):.4g} on the given inputs")
        for group in connected(program, touched)
    ]
    outputs = [v.name for v in program.main.block.outputs if v in too_large]
    return findings, islands, outputs
