"""``log(p + eps)`` with an epsilon that FP16 loses → ``log(2**k p + 2**k eps) - k log(2)``.

**Why it is the same**: ``log(2**k v) = log(v) + k log(2)``; both products with ``2**k`` are exact, and the sum is
rounded once more. The epsilon becomes a normal FP16 number, so that the logarithm of zeros is that of the epsilon,
where FP16 rounds 1e-8 to 0 (or, by coremltools' protection, to 6e-8: the logarithm is then off by 1.8).

**Condition**: ``2**k p`` stays 4 times below the FP16 range, as far as ``p`` was observed, while ``2**k eps`` is at
least 2**-14.

**When**: the epsilon is below 2**-14, and values of ``p`` were seen that are not far above it.
"""

from __future__ import annotations

import math

import numpy as np

from nanproof.findings import Finding
from nanproof.mil.edits import OUTPUT, Edit, Feed, Named, Operand, Replace, SetConstant, Step
from nanproof.program import Op, Value
from nanproof.rewrite.exponentials import scalar
from nanproof.rewrite.exponents import Known
from nanproof.rewrite.rewrite import Proposal, Rewrite

__all__ = ["propose"]

_NORMAL = 2.0**-14
_ROOM = 4.0
_FELT = 2.0**11
"""Beyond this multiple of the epsilon FP16 rounds the epsilon away anyway."""


def propose(known: Known) -> Proposal:
    """A rewrite for each logarithm whose floor vanishes in FP16."""
    total = Proposal()
    for op in known.program.main.block.ops:
        place = _floor(known, op)
        if place is None or op.name in known.frozen:
            continue
        adder, name, eps, p = place
        seen = known.ranges[p.name]
        if eps >= _NORMAL or seen.low >= eps * _FELT or seen.low < 0 or not seen.finite:
            continue
        shift = math.ceil(math.log2(_NORMAL / eps))
        if seen.high * 2.0**shift > known.limits.stored / _ROOM:
            continue
        total += _proposal(op, adder, name, eps, shift)
    return total


def _floor(known: Known, op: Op) -> tuple[Op, str, float, Value] | None:
    """The op that adds the epsilon of a logarithm, the name of that input, the epsilon, and what it is added to."""
    if op.type != "log":
        return None
    value, own = op.inputs["x"][0], scalar(op.input("epsilon")) or 0.0
    if own > 1e-30:
        return op, "epsilon", own, value
    adder = known.makers.get(value)
    if adder is None or adder.type not in ("add", "maximum", "clip") or known.readers(value) != 1:
        return None
    name = "alpha" if adder.type == "clip" else "y" if adder.inputs["y"][0].const is not None else "x"
    eps = scalar(adder.input(name))
    data = adder.inputs["y" if name == "x" else "x"][0]
    return (adder, name, eps, data) if eps is not None and eps > 0 and data.const is None else None


def _proposal(op: Op, adder: Op, name: str, eps: float, shift: int) -> Proposal:
    data = "y" if name == "x" else "x"
    scaled = f"{adder.name}_times_{2**shift}"
    edits: list[Edit] = [
        Feed(adder.name, data, 0, Named(scaled), (Step("mul", scaled, {"x": Operand(data), "y": 2.0**shift}),)),
        _scaled(adder, name, shift),
        Replace(op.name, (Step("add", f"{op.name}_shifted", {"x": OUTPUT, "y": -shift * math.log(2)}),)),
    ]
    if "beta" in adder.inputs:
        edits.append(_scaled(adder, "beta", shift))
    statement = f"log(p + {eps:.3g}) → log({2**shift} p + {eps * 2.0**shift:.3g}) - {shift} log 2"
    rewrite = Rewrite("log-floor", (adder.name, op.name), statement, "p as large as on the given inputs", tuple(edits))
    detail = f"the floor {eps:.3g} of the logarithm is no normal FP16 number, and values at the floor were seen"
    return Proposal((Finding.at("NP117", op, detail, f"rewritten: {statement}"),), (rewrite,))


def _scaled(adder: Op, name: str, shift: int) -> SetConstant:
    """A constant operand, times ``2**shift``."""
    values = np.asarray(adder.inputs[name][0].const, np.float32)
    with np.errstate(over="ignore"):
        return SetConstant(adder.name, name, 0, np.ldexp(values, shift))
