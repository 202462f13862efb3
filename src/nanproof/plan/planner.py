"""From a float32 program and its observed ranges to a plan: rewrites, and islands for what they leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nanproof.findings import Finding
from nanproof.interpret.observe import Ranges
from nanproof.plan.overflow import overflow_islands
from nanproof.plan.plan import Island, Plan, connected
from nanproof.program import Program
from nanproof.rewrite import (
    exp_before_mask,
    log_floor,
    log_softmax,
    log_sum_exp,
    mask_sentinel,
    power_of_two,
    softplus,
    tanh_ratio,
)
from nanproof.rewrite.exponents import Known
from nanproof.rewrite.limits import Limits
from nanproof.rewrite.rewrite import Proposal

__all__ = ["STAGES", "Situation", "taken_back", "with_needed_islands", "without_islands"]


@dataclass(frozen=True, slots=True)
class Situation:
    """What a stage of rewriting sees: the float32 program as rewritten so far, and what is known of it.

    Attributes:
        program: The program.
        ranges: Ranges observed on it under ``reference`` numerics.
        batches: The inputs of these runs: given ones, and then stress inputs.
        given: How many of them are given; on the others only finiteness counts.
        limits: Where the numbers of the requested units end.
        rewritten: Names of ops that are to stay as they are: they hold the finite sentinels of an earlier stage, or are
            FP32 that is asked for, which no value overflows.
    """

    program: Program
    ranges: Ranges
    batches: Sequence[Mapping[str, Any]]
    given: int
    limits: Limits
    rewritten: frozenset[str] = frozenset()


def _sentinels(situation: Situation) -> Proposal:
    proposal = mask_sentinel.propose(situation.program, situation.ranges)
    return proposal.only(lambda rewrite: rewrite.name == "mask-sentinel")


_FUNCTIONS = (softplus, log_sum_exp, log_softmax, tanh_ratio, exp_before_mask, log_floor)


def _functions(situation: Situation) -> Proposal:
    """Forms of exponentials and logarithms that overflow or vanish on the way to a result that fits."""
    known = Known(situation.program, situation.ranges, situation.limits, situation.rewritten)
    return sum((form.propose(known) for form in _FUNCTIONS), Proposal())


def _powers_of_two(situation: Situation) -> Proposal:
    known = Known(situation.program, situation.ranges, situation.limits, situation.rewritten)
    return power_of_two.propose(known, situation.batches, situation.given)


def _bounds(situation: Situation) -> Proposal:
    """Clip bounds, once scaling has divided them; and what no rewrite makes safe."""
    proposal = mask_sentinel.propose(situation.program, situation.ranges)
    return proposal.only(lambda rewrite: rewrite.name == "clip-bound")


STAGES: tuple[Callable[[Situation], Proposal], ...] = (_sentinels, _functions, _powers_of_two, _bounds)
"""Rewrites in the order in which they are tried; each sees the program as the ones before have left it."""


def with_needed_islands(plan: Plan, situation: Situation) -> tuple[Plan, list[Finding]]:
    """The plan, and FP32 for what its rewrites left: sentinels that none could follow, and values that overflow.

    Args:
        plan: The rewrites, and the islands of the module's author.
        situation: The program that the rewrites have made.
    """
    program, ranges = situation.program, situation.ranges
    left = mask_sentinel.propose(program, ranges).apart_from(situation.rewritten)
    plan = plan.with_islands(
        Island(group, "mask-sentinel", refusal.reason)
        for refusal in left.refusals
        for group in connected(program, refusal.ops)
    )
    outputs = [
        v.name
        for v in program.main.block.outputs
        if any(v in op.outputs and op.name in plan.kept - plan.asked for op in program.walk())
    ]
    safe = situation.rewritten | (plan.kept - plan.asked)
    findings, islands, overflowing = overflow_islands(program, ranges, safe)
    findings = [f for f in findings if f.op not in plan.asked]  # whoever asked has seen to it
    return plan.with_islands(islands, [*outputs, *overflowing]), [*left.findings, *findings]


def without_islands(plan: Plan, findings: Sequence[Finding]) -> tuple[Plan, list[Finding]]:
    """The plan with its rewrites alone, and findings that say so: what ``precision="float16"`` asks for."""
    left = [
        replace(f, remedy="not repaired: the precision is float16") if f.remedy.startswith("kept in FP32") else f
        for f in findings
    ]
    return Plan(rewrites=plan.rewrites), left


def taken_back(plan: Plan, proposal: Proposal, program: Program, evidence: str) -> tuple[Plan, list[Finding]]:
    """The plan without the rewrites of a proposal that changed something: sentinels and bounds stay FP32 instead.

    What else overflows stays FP32 as any overflow does.

    Args:
        plan: The plan before these rewrites.
        proposal: The rewrites, and their findings.
        program: The float32 program for which they were proposed.
        evidence: What they changed.
    """
    constants = tuple(r for r in proposal.rewrites if r.name in ("mask-sentinel", "clip-bound"))
    if not constants:
        return plan, []
    remedy = f"kept in FP32, since the rewrite was taken back: {evidence}"
    told = [replace(f, remedy=remedy) if f.remedy.startswith("rewritten") else f for f in proposal.findings]
    tried = replace(plan, rewrites=constants)
    return replace(tried.without_rewrites(program, evidence), rewrites=plan.rewrites), told
