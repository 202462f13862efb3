"""What a rewrite hands to the planner."""

from __future__ import annotations

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

    def __add__(self, other: Proposal) -> Proposal:
        return Proposal(self.findings + other.findings, self.rewrites + other.rewrites, self.refusals + other.refusals)
