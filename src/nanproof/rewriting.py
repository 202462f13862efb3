"""Rewriting a lowered program, stage by stage: each is applied, executed in float32, compared, and observed again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nanproof.comparison.compare import as_array
from nanproof.comparison.metrics import difference
from nanproof.findings import Finding
from nanproof.interpret.observe import Ranges, observe
from nanproof.mil.edit import ApplyEdits
from nanproof.mil.reflect import reflect
from nanproof.plan.author import Requests
from nanproof.plan.plan import Plan
from nanproof.plan.planner import STAGES, Situation, taken_back, with_needed_islands
from nanproof.program import Program, Source
from nanproof.rewrite.limits import Limits
from nanproof.trial import Trial

__all__ = ["Rewritten", "rewritten", "unwritten"]

_REWRITE_TOLERANCE = 1e-4
"""A rewrite claims the same result; in float32 it may differ by rounding, not more."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A plan with its findings, the MIL program to which its rewrites are applied, and what is known of that program.

    ``ranges`` were observed on ``program``, in float32.
    """

    plan: Plan
    findings: list[Finding]
    pymil: Any
    program: Program
    ranges: Ranges


def unwritten(pymil: Any, program: Program, ranges: Ranges, requests: Requests | None = None) -> Rewritten:
    """A program as it was lowered, with a plan that grants what is asked for, and nothing else."""
    requests = requests or Requests()
    return Rewritten(Plan().with_islands(requests.islands), list(requests.findings), pymil, program, ranges)


def rewritten(
    lowered: Rewritten,
    trial: Trial,
    answers: Sequence[Mapping[str, np.ndarray]],
    limits: Limits,
    *,
    lower: Callable[[], Any],
    sources: Mapping[int, Source],
    without: Collection[str] = (),
) -> Rewritten:
    """A program with all rewrites that it needs, each shown to change nothing, and islands for what they leave.

    A stage whose rewrites change something is taken back.

    Args:
        lowered: The program as it was lowered; its MIL program is edited in place.
        trial: The inputs.
        answers: What the lowered program computes of them in float32.
        limits: Where the numbers of the requested units end.
        lower: Makes the MIL program once more, as it was lowered.
        sources: Where ops come from, by ``debug_handle``.
        without: Names of rewrites to leave out.
    """
    now, frozen = lowered, frozenset[str]()
    for stage in STAGES:
        situation = Situation(
            now.program, now.ranges, trial.all_inputs, len(trial.inputs), limits, frozen | now.plan.asked
        )
        proposal = stage(situation)
        if any(rewrite.name in without for rewrite in proposal.rewrites):
            proposal = proposal.only(lambda rewrite: rewrite.name not in without)
        if not proposal.rewrites:
            continue
        plan = replace(now.plan, rewrites=now.plan.rewrites + proposal.rewrites)
        ApplyEdits([edit for rewrite in proposal.rewrites for edit in rewrite.edits])(now.pymil)
        program = reflect(now.pymil, sources)
        ranges, results = observe(program, trial.all_inputs)
        changed = _change(trial, answers, results)
        if changed:
            plan, told = taken_back(now.plan, proposal, now.program, changed)
            pymil = lower()
            ApplyEdits(plan.edits)(pymil)
            now = Rewritten(plan, [*now.findings, *told], pymil, now.program, now.ranges)
            continue
        frozen |= {n for r in proposal.rewrites if r.name == "mask-sentinel" for n in r.ops}
        now = Rewritten(plan, [*now.findings, *proposal.findings], now.pymil, program, ranges)
    plan, findings = with_needed_islands(
        now.plan, Situation(now.program, now.ranges, trial.all_inputs, len(trial.inputs), limits, frozen)
    )
    return replace(now, plan=plan, findings=[*now.findings, *findings])


def _change(
    trial: Trial, answers: Sequence[Mapping[str, np.ndarray]], results: Sequence[Mapping[str, np.ndarray]]
) -> str:
    """How the rewritten program differs from the original in float32, or an empty string.

    On given inputs it may differ by rounding. On stress inputs it has to be finite where the original is: rows that
    mask everything hold nothing meaningful (see ``rewrite.mask_sentinel``).
    """
    count = len(trial.inputs)
    for i, (result, answer) in enumerate(zip(results, answers, strict=True)):
        for name, reference in answer.items():
            found = difference(as_array(result[name]), as_array(reference))
            if found.nonfinite or (i < count and not found.within(_REWRITE_TOLERANCE)):
                return f"rewritten, output '{name}' changed by {found.error:.3g} of its range in float32"
    return ""
