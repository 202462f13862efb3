"""A module that was taken apart, as plain data and as a tree of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nanproof.report.wording import error_text, plural

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    from nanproof.dissecting import Dissection, Part

__all__ = ["dissection_data", "print_dissection"]

_STYLES = {"good": "green", "failed": "bold red", "not converted": "bold yellow", "not tried": "dim"}


def dissection_data(found: Dissection) -> dict[str, Any]:
    """Everything that is known of the parts. An error that is not known is ``None``."""
    return {
        "verdict": found.verdict,
        "blamed": list(found.blamed),
        "conversions": found.conversions,
        "numerics": found.numerics,
        "tolerance": found.tolerance,
        "root": _part(found.root),
    }


def _part(part: Part) -> dict[str, Any]:
    return {
        "path": part.path,
        "type": part.kind,
        "status": part.status,
        "error": part.error if part.error == part.error else None,
        "nonfinite": part.nonfinite,
        "message": part.message,
        "children": [_part(child) for child in part.children],
    }


def print_dissection(data: Mapping[str, Any], console: Console) -> None:
    """Print the tree of submodules, each with its error, and which are to blame."""
    from rich.text import Text
    from rich.tree import Tree

    from nanproof.report.terminal import labelled

    tree = Tree(_line(data["root"], data["blamed"]), guide_style="dim")
    _grow(tree, data["root"], data["blamed"])
    console.print(tree)
    named = ", ".join(path or "the module itself, between its submodules" for path in data["blamed"])
    said = f"the fault is in {named}" if named else "every part that was converted is right"
    rests = (
        f"({plural(data['conversions'], 'conversion')}; numerics: {data['numerics']}; tolerance {data['tolerance']:g})"
    )
    console.print(labelled([(data["verdict"], Text(f"{said} {rests}"))]))


def _grow(tree: Tree, part: Mapping[str, Any], blamed: list[str]) -> None:
    if not any(_tried(child) for child in part["children"]):
        return  # whoever bisects has asked for one place, and not for all that there is
    for child in part["children"]:
        _grow(tree.add(_line(child, blamed)), child, blamed)


def _tried(part: Mapping[str, Any]) -> bool:
    return part["status"] != "not tried" or any(map(_tried, part["children"]))


def _line(part: Mapping[str, Any], blamed: list[str]) -> Text:
    from rich.text import Text

    here = part["path"] in blamed
    off = f"off by {error_text(part['error'] or 0)}"
    name = Text.assemble((part["path"] or part["type"], "bold" if here else ""))
    if part["path"]:
        name.append(f"  {part['type']}", "dim")
    broken = f"{part['nonfinite']:,} Inf or NaN" if part["nonfinite"] else off
    told = {"good": off, "failed": broken, "not converted": f"not converted: {part['message']}"}
    said = told.get(part["status"], "not tried")
    return name.append("  ").append(said, _STYLES[part["status"]]).append("  < to blame" if here else "", "bold red")
