"""Who is to blame for wrong outputs: the answer of a diagnosis, as data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nanproof.diagnosis.sample import Sample
from nanproof.findings import Finding

__all__ = ["Culprit", "Damage", "Diagnosis"]


@dataclass(frozen=True, slots=True)
class Damage:
    """How far one output is off, in the worst run.

    Attributes:
        output: Its name.
        unit: The numerics.
        batch: Which of the inputs.
        error: Largest error relative to the range of the output in float32; ``inf`` if it has Inf or NaN.
        nonfinite: Elements that are Inf or NaN and should not be.
        elements: How many elements it has.
    """

    output: str
    unit: str
    batch: int
    error: float
    nonfinite: int
    elements: int

    def __str__(self) -> str:
        if self.nonfinite:
            return f"output '{self.output}' has {self.nonfinite} Inf or NaN in {self.elements} elements"
        return f"output '{self.output}' is off by {self.error:.3g} of its range"


@dataclass(frozen=True, slots=True)
class Culprit:
    """One fault in one line of code, or at one op where lines are not known.

    Attributes:
        finding: What it is, where, with the values that did it, and the fix.
        share: Its part of the error of the outputs, from 0 to 1; 0 for what did harm that greater harm covers.
        ops: Names of all ops in which it was met.
        units: The numerics under which it was met.
        batch: Which of the inputs shows it best.
        sample: The element that shows it.
        effects: What became of it on the way to the outputs, in words.
        island: The ops that were computed in FP32 to see whether it is the cause; empty if that was not tried.
        removes: The part of the outputs' error that was gone then.
        cures: Whether the outputs were within the tolerance then.
    """

    finding: Finding
    share: float
    ops: tuple[str, ...]
    units: tuple[str, ...]
    batch: int
    sample: Sample | None
    effects: tuple[str, ...]
    island: tuple[str, ...] = ()
    removes: float | None = None
    cures: bool | None = None

    @property
    def place(self) -> tuple[str, str | int]:
        """Where it is: file and line, or the op."""
        source = self.finding.source
        return (source.file, source.line) if source is not None else ("", self.finding.op)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is wrong with a program on given inputs, and why.

    Attributes:
        units: The numerics under which it ran.
        tolerance: Largest error of an output that counts as the same.
        batches: How many inputs there were.
        outputs: How far each output is off, in the worst run.
        culprits: Who is to blame, most to blame first; empty if all outputs are within the tolerance.
        harmless: Ops that made Inf which changed nothing: the right limit came out.
        executions: What the diagnosis of one input under one unit has cost, in executions of the program; the largest.
        unexplained: The part of the error that was not followed to its end.
    """

    units: tuple[str, ...]
    tolerance: float
    batches: int
    outputs: tuple[Damage, ...]
    culprits: tuple[Culprit, ...]
    harmless: tuple[str, ...]
    executions: float
    unexplained: float

    @property
    def verdict(self) -> str:
        """``"failed"`` if an output is wrong, else ``"tested"``."""
        return "failed" if self.damaged or self.culprits else "tested"

    def with_first(self, culprits: Sequence[Culprit]) -> Diagnosis:
        """The same with others before all culprits."""
        return replace(self, culprits=(*culprits, *self.culprits))

    @property
    def damaged(self) -> tuple[Damage, ...]:
        """The outputs that are not within the tolerance."""
        return tuple(d for d in self.outputs if not d.error <= self.tolerance)

    def __or__(self, other: Diagnosis) -> Diagnosis:
        """Two diagnoses of one program together: of several inputs, or under several units."""
        worst: dict[str, Damage] = {}
        for damage in (*self.outputs, *other.outputs):
            known = worst.get(damage.output)
            if known is None or (damage.error, damage.nonfinite) > (known.error, known.nonfinite):
                worst[damage.output] = damage
        culprits = joined([*self.culprits, *other.culprits])
        met = {op for culprit in culprits for op in culprit.ops}
        return Diagnosis(
            units=tuple(dict.fromkeys((*self.units, *other.units))),
            tolerance=self.tolerance,
            batches=max(self.batches, other.batches),
            outputs=tuple(worst.values()),
            culprits=culprits,
            harmless=tuple(op for op in dict.fromkeys((*self.harmless, *other.harmless)) if op not in met),
            executions=max(self.executions, other.executions),
            unexplained=max(self.unexplained, other.unexplained),
        )


def joined(culprits: Sequence[Culprit]) -> tuple[Culprit, ...]:
    """The same fault in the same line as one, the largest share first."""
    found: dict[tuple[object, ...], Culprit] = {}
    for culprit in culprits:
        key = (culprit.finding.code, culprit.place)
        known = found.get(key)
        if known is None:
            found[key] = culprit
            continue
        first, second = (known, culprit) if known.share >= culprit.share else (culprit, known)
        tried = first if first.removes is not None or second.removes is None else second
        found[key] = replace(
            first,
            ops=tuple(dict.fromkeys((*first.ops, *second.ops))),
            units=tuple(dict.fromkeys((*known.units, *culprit.units))),
            island=tried.island,
            removes=tried.removes,
            cures=tried.cures,
        )
    return tuple(sorted(found.values(), key=lambda c: -c.share if math.isfinite(c.share) else 0.0))
