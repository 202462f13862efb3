"""``exp(x) * mask``, where the exponential overflows in masked places → ``exp(mask * x - (1 - mask) * 10000) * mask``.

**Why it is the same**: let the mask be 1: the exponent is ``x`` as before, exactly. Let it be 0: the exponent is
-10000, the exponential 0, and ``0 * 0 = 0`` where it was ``exp(x) * 0 = 0``; in FP16 it was ``Inf * 0``, which is
NaN.

**Condition**: the mask is a constant of zeros and ones, and ``x`` is finite. (A computed mask is left to FP32.)

**When**: the exponential was seen beyond the FP16 range, and its product with the mask within it.
"""

from __future__ import annotations

import numpy as np

from nanproof.findings import Finding
from nanproof.mil.edits import Feed, Named, Operand, Step
from nanproof.program import Op
from nanproof.rewrite.exponentials import overflowing_exponential
from nanproof.rewrite.exponents import Known
from nanproof.rewrite.rewrite import Proposal, Rewrite

__all__ = ["propose"]

_FAR = 1e4
"""exp(-10000) is 0 in every format, and 10000 is an FP16 number."""


def propose(known: Known) -> Proposal:
    """A rewrite for each exponential that overflows where a mask hides it."""
    total = Proposal()
    for op in known.program.main.block.ops:
        found = _masked(known, op)
        if found is None or op.name in known.frozen:
            continue
        exp, mask = found
        x, kept = exp.inputs["x"][0], f"{exp.name}_kept"
        steps = (
            Step("mul", kept, {"x": Operand("x"), "y": mask}),
            Step("add", f"{exp.name}_masked", {"x": Named(kept), "y": ((mask - 1) * _FAR).astype(mask.dtype)}),
        )
        edit = Feed(exp.name, "x", 0, Named(f"{exp.name}_masked"), steps)
        statement = "exp(x) * mask → exp(mask * x - 10000 * (1 - mask)) * mask"
        condition = f"'{x.name}' is finite, as on the given inputs"
        rewrite = Rewrite("exp-before-mask", (exp.name, op.name), statement, condition, (edit,))
        detail = f"exp of {known.ranges[x.name].high:.4g} is infinite in FP16 where the mask is 0, and Inf * 0 is NaN"
        total += Proposal((Finding.at("NP115", exp, detail, f"rewritten: {statement}"),), (rewrite,))
    return total


def _masked(known: Known, op: Op) -> tuple[Op, np.ndarray] | None:
    """The exponential that an op multiplies by a constant mask, and the mask, if it hides the overflow."""
    if op.type != "mul" or known.ranges[op.outputs[0].name].magnitude > known.limits.stored:
        return None
    for data, factor in (("x", "y"), ("y", "x")):
        mask, value = op.inputs[factor][0].const, op.inputs[data][0]
        if isinstance(mask, np.ndarray) and bool(np.isin(mask, (0, 1)).all()) and known.readers(value) == 1:
            exp = overflowing_exponential(known, value)
            if exp is not None:
                return exp, mask
    return None
