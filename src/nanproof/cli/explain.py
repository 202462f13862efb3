"""``nanproof explain``: what a finding code stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nanproof.cli.face import Answer, Face
from nanproof.cli.verb import verb
from nanproof.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["explain"]


@verb("nanproof explain NP101")
def explain(
    face: Face, code: Annotated[str, typer.Argument(help="A code such as NP101, or its name.", metavar="CODE")]
) -> Answer:
    """Explain a finding: what it is, why it is bad, an example, and what to do about it."""
    from nanproof.findings import KINDS
    from nanproof.report.data import kind_data

    by_name = {kind.name: kind.code for kind in KINDS.values()}
    known = by_name.get(code.lower(), code.upper())
    if known not in KINDS:
        listed = "\n".join(f"    {kind.code}  {kind.name}" for kind in KINDS.values())
        raise UsageError(f"There is no finding '{code}'. The codes are\n{listed}")
    data = kind_data(known)

    def show(console: Console) -> None:
        from rich.text import Text

        from nanproof.report.labels import labelled

        console.print(Text(f"{data['code']} {data['name']}", "bold"))
        rows = [(label, Text(data[label])) for label in ("what", "why")]
        console.print(labelled([*rows, ("example", Text(data["example"], "cyan")), ("fix", Text(data["fix"]))]))

    return Answer("explanation", data, show)
