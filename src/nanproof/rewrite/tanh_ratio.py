"""``(exp(x) - exp(-x)) / (exp(x) + exp(-x))`` → ``tanh(x)``.

**Why it is the same**: it is the definition. For ``|x| > 11.1`` one exponential is infinite in FP16, and Inf / Inf is
NaN where the quotient is 1.

**Condition**: none.

**When**: an exponential was seen beyond the FP16 range.
"""

from __future__ import annotations

from nanproof.findings import Finding
from nanproof.mil.edits import Named, Replace, Step
from nanproof.program import Op, Value
from nanproof.rewrite.exponentials import exponential, scalar
from nanproof.rewrite.exponents import Known
from nanproof.rewrite.rewrite import Proposal, Rewrite

__all__ = ["propose"]


def propose(known: Known) -> Proposal:
    """A rewrite for each hyperbolic tangent that is written out and overflows."""
    total = Proposal()
    for op in known.program.main.block.ops:
        x = _argument(known, op)
        if x is None or op.name in known.frozen:
            continue
        statement = "(exp(x) - exp(-x)) / (exp(x) + exp(-x)) → tanh(x)"
        edit = Replace(op.name, (Step("tanh", f"{op.name}_tanh", {"x": Named(x.name)}),))
        rewrite = Rewrite("tanh-ratio", (op.name,), statement, "always", (edit,))
        detail = f"exp of {known.ranges[x.name].magnitude:.4g} is infinite in FP16, and Inf / Inf is NaN"
        total += Proposal((Finding.at("NP115", op, detail, f"rewritten: {statement}"),), (rewrite,))
    return total


def _argument(known: Known, op: Op) -> Value | None:
    """``x`` if an op is the quotient for it, and an exponential overflows."""
    if op.type != "real_div":
        return None
    over, under = (known.makers.get(op.inputs[name][0]) for name in ("x", "y"))
    if over is None or under is None or over.type != "sub" or under.type != "add":
        return None
    rising, falling = over.inputs["x"][0], over.inputs["y"][0]
    if {under.inputs["x"][0], under.inputs["y"][0]} != {rising, falling}:
        return None
    exps = [exponential(known, value) for value in (rising, falling)]
    if exps[0] is None or exps[1] is None:
        return None
    x, negated = exps[0].inputs["x"][0], known.makers.get(exps[1].inputs["x"][0])
    if negated is None or negated.type != "mul":
        return None
    factors = negated.inputs["x"][0], negated.inputs["y"][0]
    if x not in factors or -1.0 not in (scalar(factors[0]), scalar(factors[1])):
        return None
    worst = max(known.ranges[v.name].magnitude for v in (rising, falling))
    return x if worst > known.limits.stored else None
