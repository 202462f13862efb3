"""``log(sum(exp(x)))`` of a large ``x`` → ``m + log(sum(exp(x - m)))`` with ``m = max(x)``.

**Why it is the same**: ``exp(x) = exp(m) * exp(x - m)``, and ``exp(m)`` leaves the sum. All exponentials lie in [0,
1] then and one of them is 1, so that the sum lies between 1 and the number of elements: nothing overflows, and the
logarithm is taken of no small number. (Blanchard, Higham and Higham, "Accurately computing the log-sum-exp and
softmax functions", IMA J. Numer. Anal. 2021.)

**Condition**: ``x`` is finite, and there are fewer than 65504 elements.

**When**: the exponential or its sum was seen beyond the FP16 range; or, with a Neural Engine among the units, the op
``reduce_log_sum_exp`` may reach that unit's limit, since it subtracts no maximum there (device fact E5;
coremltools#2690).
"""

from __future__ import annotations

import math

from nanproof.findings import Finding
from nanproof.mil.edits import Argument, Named, Replace, Step
from nanproof.program import Op, Value
from nanproof.rewrite.exponentials import exponential, scalar
from nanproof.rewrite.exponents import Known
from nanproof.rewrite.rewrite import Proposal, Rewrite

__all__ = ["propose"]


def propose(known: Known) -> Proposal:
    """A rewrite for each logarithm of a sum of exponentials that overflows."""
    total = Proposal()
    for op in known.program.main.block.ops:
        reduction = _reduction(known, op)
        if op.name in known.frozen or reduction is None:
            continue
        x = reduction.inputs["x"][0]
        exp = exponential(known, x)
        x = exp.inputs["x"][0] if exp is not None else x
        if not _overflows(known, reduction, x):
            continue
        statement = "log(sum(exp(x))) → m + log(sum(exp(x - m))), with m = max(x)"
        edit = Replace(op.name, _steps(op.name, x, reduction))
        rewrite = Rewrite("log-sum-exp", (op.name,), statement, "always, for finite x", (edit,))
        detail = f"exp of {known.ranges[x.name].high:.4g}, summed, leaves the FP16 range; its logarithm does not"
        total += Proposal((Finding.at("NP115", op, detail, f"rewritten: {statement}"),), (rewrite,))
    return total


def _reduction(known: Known, op: Op) -> Op | None:
    """The reduction if an op is the logarithm of a sum of exponentials, or a ``reduce_log_sum_exp`` itself."""
    if op.type == "reduce_log_sum_exp":
        return op
    summed = known.makers.get(op.inputs["x"][0]) if op.type == "log" else None
    epsilon = scalar(op.input("epsilon"))
    if summed is None or summed.type != "reduce_sum" or (epsilon or 0.0) > 1e-30:
        return None
    return summed if exponential(known, summed.inputs["x"][0]) is not None else None


def _overflows(known: Known, reduction: Op, x: Value) -> bool:
    seen, count = known.ranges[x.name], math.prod(d for d in x.type.shape if isinstance(d, int))
    if not seen.finite or count >= known.limits.stored or _axes(reduction) is None:
        return False
    if reduction.type == "reduce_log_sum_exp":  # other units subtract the maximum themselves
        return known.limits.engine and seen.high + math.log(max(count, 1)) >= math.log(known.limits.stored)
    sums = known.ranges[reduction.outputs[0].name].magnitude
    return max(sums, math.exp(min(seen.high, 700.0))) > known.limits.stored


def _axes(reduction: Op) -> tuple[int, ...] | None:
    """The axes of a reduction; all of them if none are given, ``None`` if they are not known."""
    given = reduction.input("axes")
    if given is None:
        return tuple(range(len(reduction.inputs["x"][0].type.shape)))
    return None if given.const is None or isinstance(given.const, str) else tuple(int(a) for a in given.const)


def _steps(name: str, x: Value, reduction: Op) -> tuple[Step, ...]:
    axes = _axes(reduction) or ()
    keeps = bool(scalar(reduction.input("keep_dims")))
    over: dict[str, Argument] = {"axes": axes, "keep_dims": True}
    steps = [
        Step("reduce_max", f"{name}_max", {"x": Named(x.name), **over}),
        Step("sub", f"{name}_below", {"x": Named(x.name), "y": Named(f"{name}_max")}),
        Step("exp", f"{name}_exp", {"x": Named(f"{name}_below")}),
        Step("reduce_sum", f"{name}_sum", {"x": Named(f"{name}_exp"), **over}),
        Step("log", f"{name}_log", {"x": Named(f"{name}_sum")}),
        Step("add", f"{name}_stable", {"x": Named(f"{name}_max"), "y": Named(f"{name}_log")}),
    ]
    if not keeps:
        steps.append(Step("squeeze", f"{name}_squeezed", {"x": Named(f"{name}_stable"), "axes": axes}))
    return tuple(steps)
