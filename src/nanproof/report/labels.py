"""Rows with labels: the shape of everything that the terminal shows."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

__all__ = ["VERDICT_STYLES", "labelled"]

VERDICT_STYLES = {"proved": "bold green", "tested": "bold green", "failed": "bold red", "unknown": "bold yellow"}


def labelled(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """Rows with a label on the left; a label that is a verdict gets its colour."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, content in rows:
        table.add_row(Text(label, VERDICT_STYLES.get(label, "bold")), content)
    return table
