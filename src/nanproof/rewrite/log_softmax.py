"""``log(softmax(x))`` → ``d - log(sum(exp(d)))`` with ``d = x - max(x)``.

**Why it is the same**: the softmax is ``exp(d) / sum(exp(d))``, and its logarithm ``d - log(sum(exp(d)))``. Nothing
is rounded to 0 on the way: a class with a probability of 1e-9 has a logarithm of -20.7, where FP16 takes the
logarithm of 0. (Blanchard, Higham and Higham, "Accurately computing the log-sum-exp and softmax functions", IMA J.
Numer. Anal. 2021.)

**Condition**: ``x`` is finite, and there are fewer than 65504 elements.

**When**: the softmax was seen below 2**-14, where FP16 has fewer and fewer bits.
"""

from __future__ import annotations

import math

from nanproof.findings import Finding
from nanproof.mil.edits import Argument, Named, Replace, Step
from nanproof.program import Op
from nanproof.rewrite.exponentials import scalar
from nanproof.rewrite.exponents import Known
from nanproof.rewrite.rewrite import Proposal, Rewrite

__all__ = ["propose"]

_NORMAL = 2.0**-14


def propose(known: Known) -> Proposal:
    """A rewrite for each logarithm of a softmax with small probabilities."""
    total = Proposal()
    for op in known.program.main.block.ops:
        softmax = _softmax(known, op)
        if softmax is None or op.name in known.frozen:
            continue
        x, low = softmax.inputs["x"][0], known.ranges[softmax.outputs[0].name].low
        count = math.prod(d for d in x.type.shape if isinstance(d, int))
        if low >= _NORMAL or not known.ranges[x.name].finite or count >= known.limits.stored:
            continue
        axis = scalar(softmax.input("axis"))
        over: dict[str, Argument] = {"axes": (-1 if axis is None else int(axis),), "keep_dims": True}
        name = op.name
        steps = (
            Step("reduce_max", f"{name}_max", {"x": Named(x.name), **over}),
            Step("sub", f"{name}_below", {"x": Named(x.name), "y": Named(f"{name}_max")}),
            Step("exp", f"{name}_exp", {"x": Named(f"{name}_below")}),
            Step("reduce_sum", f"{name}_sum", {"x": Named(f"{name}_exp"), **over}),
            Step("log", f"{name}_log", {"x": Named(f"{name}_sum")}),
            Step("sub", f"{name}_stable", {"x": Named(f"{name}_below"), "y": Named(f"{name}_log")}),
        )
        statement = "log(softmax(x)) → d - log(sum(exp(d))), with d = x - max(x)"
        detail = f"it reads probabilities down to {low:.3g}; FP16 is precise down to 6.1e-05 and 0 below 3e-08"
        rewrite = Rewrite("log-softmax", (name,), statement, "always, for finite x", (Replace(name, steps),))
        total += Proposal((Finding.at("NP116", op, detail, f"rewritten: {statement}"),), (rewrite,))
    return total


def _softmax(known: Known, op: Op) -> Op | None:
    """The softmax of which an op takes the logarithm."""
    maker = known.makers.get(op.inputs["x"][0]) if op.type == "log" else None
    tiny = (scalar(op.input("epsilon")) or 0.0) <= 1e-30
    return maker if maker is not None and maker.type == "softmax" and tiny else None
