"""``nanproof ops``: the MIL ops that nanproof knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nanproof.cli.face import Answer, Face
from nanproof.cli.verb import verb

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["OPS_OF_MIL", "ops"]

OPS_OF_MIL = 168
"""Op types that a serialized ML Program may hold, in coremltools 9.0: those of its registry but ``_const_symbolic``,
and ``write_state``, as which ``coreml_update_state`` is written."""


@verb("nanproof ops", "nanproof ops --json")
def ops(face: Face) -> Answer:
    """List the MIL ops that nanproof knows: family, opset, revisions, and what it can do with each."""
    from nanproof.ops import TABLE

    rows = [
        {
            "name": record.name,
            "family": record.family,
            "since": record.since,
            "revisions": list(record.revisions),
            "readings": list(record.readings),
        }
        for record in TABLE.values()
    ]
    data = {"known": len(rows), "of": OPS_OF_MIL, "ops": rows}
    return Answer("ops", data, lambda console: _show(console, data))


def _show(console: Console, data: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for heading in ("op", "family", "since", "revised", "readings"):
        table.add_column(heading, no_wrap=True)
    for row in data["ops"]:
        cells = (row["name"], row["family"], row["since"], ", ".join(row["revisions"]), ", ".join(row["readings"]))
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    console.print(Text(f"{data['known']} of {data['of']}", "bold"), Text("op types of MIL"))
