"""From a float32 program and its observed ranges to a plan; and from what went wrong to a better plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nanproof.diagnosis.births import Birth
from nanproof.findings import Finding
from nanproof.interpret.observe import Ranges
from nanproof.plan.overflow import overflow_islands
from nanproof.plan.plan import Island, Plan, connected
from nanproof.program import Program
from nanproof.rewrite import mask_sentinel

__all__ = ["first_plan", "replan", "take_back", "without_islands"]


def first_plan(program: Program, ranges: Ranges) -> tuple[Plan, list[Finding]]:
    """Exact rewrites first; what they refuse, and what overflows on the observed inputs, stays FP32.

    Args:
        program: The float32 program.
        ranges: Ranges observed on it under ``reference`` numerics.
    """
    proposal = mask_sentinel.propose(program, ranges)
    plan = Plan(rewrites=proposal.rewrites)
    plan = plan.with_islands(
        Island(group, "mask-sentinel", refusal.reason)
        for refusal in proposal.refusals
        for group in connected(program, refusal.ops)
    )
    outputs = [
        v.name
        for v in program.main.block.outputs
        if any(v in op.outputs and op.name in plan.kept for op in program.walk())
    ]
    rewritten = {name for rewrite in plan.rewrites if rewrite.name == "mask-sentinel" for name in rewrite.ops}
    findings, islands, overflowing = overflow_islands(program, ranges, rewritten | plan.kept)
    return plan.with_islands(islands, [*outputs, *overflowing]), [*proposal.findings, *findings]


def without_islands(plan: Plan, findings: Sequence[Finding]) -> tuple[Plan, list[Finding]]:
    """The plan with its rewrites alone, and findings that say so: what ``precision="float16"`` asks for."""
    left = [
        replace(f, remedy="not repaired: the precision is float16") if f.remedy.startswith("kept in FP32") else f
        for f in findings
    ]
    return Plan(rewrites=plan.rewrites), left


def take_back(plan: Plan, findings: Sequence[Finding], program: Program, evidence: str) -> tuple[Plan, list[Finding]]:
    """The plan with the ops of all its rewrites in FP32 instead, and findings that say so.

    Args:
        plan: The plan whose rewrites changed something.
        findings: Its findings.
        program: The float32 program.
        evidence: What they changed.
    """
    remedy = f"kept in FP32, since the rewrite was taken back: {evidence}"
    told = [replace(f, remedy=remedy) if f.remedy.startswith("rewritten") else f for f in findings]
    return plan.without_rewrites(program, evidence), told


def replan(plan: Plan, program: Program, births: Sequence[Birth]) -> tuple[Plan, list[Finding]]:
    """Keep the ops FP32 at which Inf or NaN was born although FP32 stays finite.

    Args:
        plan: The plan under which the births were seen.
        program: The float32 program.
        births: What was seen on the written program.

    Returns:
        The new plan (equal to the old one if nothing can be added) and a finding for each op added.
    """
    by_name = {op.name: op for op in program.walk()}
    evidence: dict[str, str] = {}
    for birth in births:
        if birth.op not in plan.kept:
            evidence.setdefault(birth.op, birth.described)
        else:  # FP32 did not help there: what comes in has lost too much already
            for name in _feeding(plan, program, birth.op):
                evidence.setdefault(name, f"feeds '{birth.op}', where {birth.described}")
    fresh = {name: why for name, why in evidence.items() if name in by_name}
    islands = [
        Island(group, "non-finite-birth", "; ".join(fresh[name] for name in group))
        for group in connected(program, fresh)
    ]
    outputs = [v.name for v in program.main.block.outputs if any(v in by_name[name].outputs for name in fresh)]
    findings = [Finding.at("NP120", by_name[name], why, "kept in FP32") for name, why in fresh.items()]
    return plan.with_islands(islands, outputs), findings


def _feeding(plan: Plan, program: Program, name: str) -> list[str]:
    """The ops that compute what flows into the island of an op and are not in FP32 yet."""
    island = next(group for group in connected(program, plan.kept) if name in group)
    producers = {value: op for op in program.walk() for value in op.outputs}
    read = [value for op in program.walk() if op.name in island for value in op.operands if value.type.dtype.is_float]
    return list(dict.fromkeys(producers[v].name for v in read if v in producers and producers[v].name not in plan.kept))
