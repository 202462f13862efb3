"""``log(1 + exp(x))`` of a large ``x`` → ``max(x, 0) + log(1 + exp(-|x|))``.

**Why it is the same**: ``log(1 + e**x) = x + log(1 + e**-x)``, used for ``x > 0``; for ``x <= 0`` nothing changes.
Now the exponential lies in (0, 1] for any ``x``. (Mächler, "Accurately computing log(1 - exp(-|a|))", 2012, for the
accuracy of both branches.) A ``select`` that takes ``x`` itself beyond a threshold, as PyTorch's softplus does, stays
and picks among equals. Mish, ``x * tanh(softplus(x))``, is mended through it.

**Condition**: none on ``x`` but that it is finite.

**When**: the exponential was seen beyond the FP16 range; or, with a Neural Engine among the units, the op
``softplus`` was seen to read more than 10.39, where that unit returns 0 (device fact E6; coremltools#2687).
"""

from __future__ import annotations

from nanproof.findings import Finding
from nanproof.mil.edits import Named, Replace, Step
from nanproof.program import Op, Value
from nanproof.rewrite.exponentials import overflowing_exponential, scalar
from nanproof.rewrite.exponents import Known
from nanproof.rewrite.rewrite import Proposal, Rewrite

__all__ = ["propose"]

_ENGINE_END = 10.39
"""``exp`` of it is 2**15, less half a table step: from there on the Neural Engine's softplus is 0."""


def propose(known: Known) -> Proposal:
    """A rewrite for each softplus whose exponential overflows."""
    total = Proposal()
    for op in known.program.main.block.ops:
        found = _argument(known, op)
        if found is None:
            continue
        x, detail = found
        steps = (
            Step("abs", f"{op.name}_size", {"x": Named(x)}),
            Step("mul", f"{op.name}_negative", {"x": Named(f"{op.name}_size"), "y": -1.0}),
            Step("exp", f"{op.name}_exp", {"x": Named(f"{op.name}_negative")}),
            Step("log", f"{op.name}_log", {"x": Named(f"{op.name}_exp"), "epsilon": 1.0}),
            Step("relu", f"{op.name}_above", {"x": Named(x)}),
            Step("add", f"{op.name}_stable", {"x": Named(f"{op.name}_above"), "y": Named(f"{op.name}_log")}),
        )
        statement = "log(1 + exp(x)) → max(x, 0) + log(1 + exp(-|x|))"
        rewrite = Rewrite("softplus", (op.name,), statement, "always, for finite x", (Replace(op.name, steps),))
        total += Proposal((Finding.at("NP115", op, detail, f"rewritten: {statement}"),), (rewrite,))
    return total


def _argument(known: Known, op: Op) -> tuple[str, str] | None:
    """The name of ``x`` if an op is a softplus of it that overflows, and what was seen."""
    x = op.input("x")
    if op.name in known.frozen or x is None:
        return None
    if op.type == "softplus" and known.limits.engine and known.ranges[x.name].high >= _ENGINE_END:
        return x.name, f"it reads up to {known.ranges[x.name].high:.4g}; the Neural Engine returns 0 from 10.4 on"
    if op.type != "log":
        return None
    inner = x if scalar(op.input("epsilon")) == 1.0 else _without_one(known, x)
    exp = overflowing_exponential(known, inner) if inner is not None else None
    if exp is None:
        return None
    argument = exp.inputs["x"][0]
    return argument.name, f"exp of {known.ranges[argument.name].high:.4g} is infinite in FP16; its logarithm is not"


def _without_one(known: Known, value: Value) -> Value | None:
    """``v`` if a value is ``v + 1``, or ``None``."""
    maker = known.makers.get(value)
    if maker is None or maker.type != "add":
        return None
    x, y = maker.inputs["x"][0], maker.inputs["y"][0]
    if scalar(x) == 1.0:
        return y
    return x if scalar(y) == 1.0 else None
