"""The plan after the first written file: what still fails is kept FP32, and what need not be FP32 is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nanproof.comparison.criteria import Criteria
from nanproof.comparison.metrics import Difference
from nanproof.diagnosis.births import Birth
from nanproof.findings import Finding
from nanproof.plan.plan import Island, Plan, connected
from nanproof.plan.search import ACCURACY, NONFINITE, Found, Search
from nanproof.plan.simulation import Judge, Measure, Score, Simulation
from nanproof.plan.typing import Typist
from nanproof.program import Program
from nanproof.rewriting import Rewritten
from nanproof.trial import Trial

__all__ = ["Searched", "judge_of", "searched"]

_FP32 = "kept in FP32"


@dataclass(frozen=True, slots=True)
class Searched:
    """A plan with all findings, and whether it is another one than before."""

    plan: Plan
    findings: list[Finding]


def judge_of(trial: Trial, criteria: Criteria) -> Judge:
    """Scores the outputs of single runs as the trial judges all of them together."""
    count = len(trial.inputs)

    def judge(unit: str, i: int, outputs: Mapping[str, Any]) -> Score:
        found = trial.compared(unit, i, outputs, criteria)
        bad = {o.name: _share(o.worst, criteria.of(o.name).tolerance) for o in found.outputs}
        worst = max(found.outputs, key=lambda o: bad[o.name])
        where = f"on given input {i + 1}" if i < count else f"on the stress input '{trial.stress[i - count].what}'"
        what = (
            f"has {worst.worst.nonfinite} Inf or NaN"
            if worst.worst.nonfinite
            else criteria.of(worst.name).told(worst.worst.error)
        )
        return Score(bad[worst.name], i < count, f"output '{worst.name}' {what} {where} under '{unit}'", bad)

    return judge


def _share(worst: Difference, tolerance: float) -> float:
    """How many times the tolerance an output is off; of a tolerance of 0 any error is infinitely many times that."""
    if worst.nonfinite:
        return float("inf")
    return worst.error / tolerance if tolerance else float("inf") if worst.error else 0.0


def searched(
    plan: Plan,
    findings: Sequence[Finding],
    rewritten: Rewritten,
    written: Program,
    trial: Trial,
    runs: Mapping[str, tuple[list[Birth], list[dict[str, Any]]]],
    answers: Sequence[Mapping[str, Any]],
    criteria: Criteria,
    barred: frozenset[str] = frozenset(),
) -> Searched:
    """A plan that does not fail, if FP32 can help, and of which no island can go.

    Args:
        plan: The plan by which a file was written.
        findings: What was found until now, with what was done about it.
        rewritten: The float32 program.
        written: The file, read back.
        trial: The inputs.
        runs: Births and outputs of the file, by unit.
        answers: What the float32 program computes, by input.
        criteria: When an output counts as the same.
        barred: Ops that become FP16 in any case.
    """
    judge = judge_of(trial, criteria)
    scores = {(unit, i): judge(unit, i, o) for unit, (_, outputs) in runs.items() for i, o in enumerate(outputs)}
    measure = Measure(scores, tuple(birth for born, _ in runs.values() for birth in born))
    typist = Typist.like(rewritten.program, written, plan.kept)
    removable = [op.name for op in typist.program.walk() if op.name in plan.kept - plan.asked and typist.castable(op)]
    if not measure.failing and not measure.births and not removable:
        return Searched(replace(plan, trials=1, executions=1.0), list(findings))
    if any(judge("reference", i, answer).failed for i, answer in enumerate(answers)):
        return Searched(plan, list(findings))  # FP32 throughout would fail as well
    makers = {value.name: op.name for op in typist.program.main.block.ops for value in op.outputs}
    forced = frozenset(name for name in plan.fp32_outputs if makers.get(name) not in removable)
    simulation = Simulation(typist, trial.all_inputs, list(runs), judge, rewritten.ranges, plan.author, forced, 1, 1.0)
    fixed = plan.asked | (plan.kept - frozenset(removable))
    found = Search(simulation, fixed, barred).found(plan.kept, measure)
    better = _plan(plan, found, fixed, typist.program)
    better = replace(
        better,
        fp32_outputs=tuple(simulation.outputs(found.kept)),
        trials=simulation.trials,
        executions=round(simulation.executions, 2),
    )
    return Searched(better, _findings(plan, better, findings, found, typist.program))


def _plan(plan: Plan, found: Found, fixed: frozenset[str], program: Program) -> Plan:
    """The plan that keeps what was found, its islands with their evidence."""
    islands = [replace(i, ops=tuple(o for o in i.ops if o in found.kept)) for i in plan.islands]
    left: list[Island] = []
    for island in islands:
        if set(island.ops) <= fixed:
            left += [island] if island.ops else []
            continue
        for group in connected(program, island.ops):
            shown = next((found.evidence[op] for op in group if op in found.evidence), "")
            evidence = f"{island.evidence}; in FP16, {shown}" if shown else island.evidence
            left.append(Island(group, island.reason, evidence))
    known = {op for island in left for op in island.ops}
    for group in connected(program, found.kept - known):
        shown = next((found.evidence[op] for op in group if op in found.evidence), "")
        reason, because = next((found.causes[op] for op in group if op in found.causes), (ACCURACY, ""))
        left.append(Island(group, reason, f"in FP16, {shown}" if shown else because))
    return replace(plan, islands=tuple(left))


def _findings(before: Plan, after: Plan, findings: Sequence[Finding], found: Found, program: Program) -> list[Finding]:
    """The findings without those whose island turned out needless, and one for each island that is new."""
    gone = [set(island.ops) for island in before.islands if not set(island.ops) & after.kept]
    kept = [f for f in findings if not (f.remedy.startswith(_FP32) and any(f.op in ops for ops in gone))]
    by_name = {op.name: op for op in program.walk()}
    codes = {ACCURACY: "NP121", NONFINITE: "NP120"}
    new = [i for i in after.islands if i.reason in codes and not set(i.ops) & before.kept]
    return [*kept, *(Finding.at(codes[i.reason], by_name[i.ops[0]], i.evidence, _FP32) for i in new)]
