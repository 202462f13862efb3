"""A proof for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from nanproof.report.labels import labelled
from nanproof.report.wording import joined, nearby, plural

__all__ = ["proof_lines", "show_proof"]

_MOST = 5


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
    first = [o for o in unit["obstacles"] if o["first"]]
    lines: list[RenderableType] = [_line(unit), *(_obstacle(o) for o in first[:_MOST])]
    more = len(unit["obstacles"]) - len(first[:_MOST])
    if more:
        lines.append(Text(f"and {plural(more, 'more obstacle')}, most of them behind these: --json shows all", "dim"))
    return Group(*lines)


def _line(unit: Mapping[str, Any]) -> Text:
    """What is proved for a unit, in one line."""
    closest = unit["closest"]
    if unit["verdict"] != "proved":
        return Text(f"{unit['bounded']} of {plural(unit['ops'], 'op')} are bounded")
    line = Text(f"every value of {plural(unit['ops'], 'op')} is finite")
    if closest is not None:
        share = closest["reach"] / closest["limit"]
        line.append(
            f"; the largest is '{closest['op']}', at most {closest['reach']:.5g}, {share:.0%} of the limit", "dim"
        )
    return line


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
        return Text(
            f"no Inf and no NaN for any input as assumed (numerics: {units}); not covered: {data['not_covered']}"
        )
    open_units = joined(name for name, unit in data["units"].items() if unit["verdict"] != "proved")
    return Text(f"not proved for {open_units}: this is no evidence that it fails (numerics: {units})")


def proof_lines(data: Mapping[str, Any]) -> RenderableType:
    """A proof beside other things: what is assumed, and for each unit what is proved, or where it is lost first."""
    lines: list[RenderableType] = [Text(f"assumed: {a['text']}", "dim") for a in data["assumptions"]]
    for name, unit in data["units"].items():
        lines.append(Text(f"{name}: ") + _line(unit))
        if unit["verdict"] != "proved":
            lost = next((o for o in unit["obstacles"] if o["first"]), unit["obstacles"][0])
            lines.append(Padding(_obstacle(lost), (0, 0, 0, 2)))
    return Group(*lines)
