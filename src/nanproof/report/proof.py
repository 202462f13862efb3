"""A proof as plain data: what is assumed, what is proved, and where it is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nanproof.interpret.proof import Obstacle, Proof, UnitProof
from nanproof.refutation.witness import Refutation
from nanproof.report.places import source_data

__all__ = ["proof_data"]

_EXCLUDED = "kernels that compute something else than their op, and inputs outside of what is assumed"


def proof_data(proof: Proof, refutations: Sequence[Refutation] = ()) -> dict[str, Any]:
    """A proof as plain data, with what a search for witnesses came to: what ``nanproof prove --json`` prints."""
    refuted = any(r.verdict == "refuted" for r in refutations)
    return {
        "verdict": "refuted" if refuted else proof.verdict,
        "searched": [_refutation_data(r) for r in refutations],
        "assumptions": [
            {"name": a.name, "low": a.low, "high": a.high, "whole": a.whole, "reason": a.reason, "text": str(a)}
            for a in proof.assumptions
        ],
        "shapes": {name: list(shape) for name, shape in proof.shapes.items()},
        "not_covered": _EXCLUDED,
        "units": {name: _unit_data(unit) for name, unit in proof.units.items()},
    }


def _unit_data(unit: UnitProof) -> dict[str, Any]:
    closest = unit.closest
    return {
        "verdict": unit.verdict,
        "ops": len(unit.steps),
        "bounded": sum(not step.problems for step in unit.steps),
        "obstacles": [_obstacle_data(o) for o in unit.obstacles],
        "closest": None if closest is None else {"op": closest.op.name, "reach": closest.reach, "limit": closest.limit},
        "bounds": {
            step.op.name: {"low": step.low, "high": step.high, "partial": step.partial, "op_type": step.op.type}
            for step in unit.steps
        },
    }


def _refutation_data(refutation: Refutation) -> dict[str, Any]:
    witness = refutation.witness
    return {
        "unit": refutation.unit,
        "op": refutation.op.name,
        "verdict": refutation.verdict,
        "reached": refutation.reached,
        "limit": refutation.limit,
        "executions": refutation.executions,
        "exhausted": refutation.exhausted,
        "witness": None if witness is None else {"what": witness.what, "op": witness.op, "start": witness.start},
        "text": str(refutation),
    }


def _obstacle_data(obstacle: Obstacle) -> dict[str, Any]:
    return {
        "op": obstacle.op.name,
        "op_type": obstacle.op.type,
        "reason": obstacle.reason,
        "first": obstacle.first,
        "chain": list(obstacle.chain),
        "source": source_data(obstacle.op.source),
    }
