"""A proof as plain data and for the terminal: what is assumed, what is proved, and where it is lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from nanproof.interpret.proof import Obstacle, Proof, UnitProof
from nanproof.refutation.witness import Refutation
from nanproof.report.data import source_data
from nanproof.report.terminal import labelled
from nanproof.report.wording import joined, nearby, plural

__all__ = ["proof_data", "show_proof"]

_MOST = 5
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


def show_proof(console: Console, data: Mapping[str, Any]) -> None:
    """Print a proof for people."""
    shapes = data["shapes"]
    assumed = [Text(f"{a['text']}; shape {shapes[a['name']]}") for a in data["assumptions"]]
    rows: list[tuple[str, RenderableType]] = [("assumed", Group(*assumed) if assumed else Text("nothing: no inputs"))]
    for name, unit in data["units"].items():
        rows.append((f"{name}", _unit_text(unit)))
    if data["searched"]:
        rows.append(("searched", Group(*(Text(found["text"]) for found in _worth_telling(data["searched"])))))
    rows.append((data["verdict"], _summary(data)))
    console.print(labelled(rows))


def _unit_text(unit: Mapping[str, Any]) -> RenderableType:
    closest = unit["closest"]
    line = Text(f"every value of {plural(unit['ops'], 'op')} is finite")
    if unit["verdict"] != "proved":
        line = Text(f"{unit['bounded']} of {plural(unit['ops'], 'op')} are bounded")
    if closest is not None and unit["verdict"] == "proved":
        share = closest["reach"] / closest["limit"]
        line.append(
            f"; the largest is '{closest['op']}', at most {closest['reach']:.5g}, {share:.0%} of the limit", "dim"
        )
    first = [o for o in unit["obstacles"] if o["first"]]
    lines: list[RenderableType] = [line, *(_obstacle(o) for o in first[:_MOST])]
    more = len(unit["obstacles"]) - len(first[:_MOST])
    if more:
        lines.append(Text(f"and {plural(more, 'more obstacle')}, most of them behind these: --json shows all", "dim"))
    return Group(*lines)


def _obstacle(obstacle: Mapping[str, Any]) -> RenderableType:
    line = Text.assemble((f"{obstacle['op_type']} '{obstacle['op']}'", "bold"), f": {obstacle['reason']}")
    parts: list[RenderableType] = [line]
    source = obstacle["source"]
    if source:
        place = Text.assemble((f"{nearby(source['file'])}:{source['line']}", "cyan"), "  ", (source["code"], "dim"))
        parts.append(Padding(place, (0, 0, 0, 2)))
    if len(obstacle["chain"]) > 1:
        parts.append(Padding(Text(f"grown along {' ← '.join(obstacle['chain'])}", "dim"), (0, 0, 0, 2)))
    return Group(*parts)


def _worth_telling(searched: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """What was refuted; where nothing was, what came closest."""
    refuted = [found for found in searched if found["verdict"] == "refuted"]
    return (refuted or searched)[:_MOST]


def _summary(data: Mapping[str, Any]) -> Text:
    units = joined(data["units"])
    if data["verdict"] == "refuted":
        told = data.get("witness")
        return Text(f"an input within the assumptions breaks it (numerics: {units})" + (f": {told}" if told else ""))
    if data["verdict"] == "proved":
        return Text(f"no Inf and no NaN for any input as assumed (numerics: {units}); not covered: {_EXCLUDED}")
    open_units = joined(name for name, unit in data["units"].items() if unit["verdict"] != "proved")
    return Text(f"not proved for {open_units}: this is no evidence that it fails (numerics: {units})")
