"""What a rewrite hands to the planner."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from nanproof.findings import Finding
from nanproof.mil.edits import Edit

__all__ = ["Proposal", "Refusal", "Rewrite"]


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One application of a rewrite, ready to be applied.

    Attributes:
        name: Name of the rewrite.
        ops: Names of the ops that it concerns.
        statement: What it does here, with the numbers.
        condition: Under which condition the result is the same, and how that condition is known.
        edits: The edits of the MIL program.
    """

    name: str
    ops: tuple[str, ...]
    statement: str
    condition: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Ops that no rewrite makes safe, and why: they have to stay in FP32."""

    ops: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """Findings with what to do about them."""

    findings: tuple[Finding, ...] = ()
    rewrites: tuple[Rewrite, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    def only(self, wanted: Callable[[Rewrite], bool]) -> Proposal:
        """Some of the rewrites, and the findings that they are for."""
        rewrites = tuple(rewrite for rewrite in self.rewrites if wanted(rewrite))
        ops = {name for rewrite in rewrites for name in rewrite.ops}
        findings = tuple(f for f in self.findings if f.op in ops and f.remedy.startswith("rewritten"))
        return Proposal(findings, rewrites)

    def apart_from(self, ops: Collection[str]) -> Proposal:
        """The refusals, and the findings that they are for, where they do not concern these ops."""
        refusals = tuple(refusal for refusal in self.refusals if not set(refusal.ops) & set(ops))
        named = {name for refusal in refusals for name in refusal.ops}
        findings = tuple(f for f in self.findings if f.op in named and not f.remedy.startswith("rewritten"))
        return Proposal(findings, (), refusals)

    def __add__(self, other: Proposal) -> Proposal:
        return Proposal(self.findings + other.findings, self.rewrites + other.rewrites, self.refusals + other.refusals)
