"""Writes the generated pages, findings.md and ops.md, from the records in the code: `make docs`."""

from __future__ import annotations

from pathlib import Path

from nanproof.findings import KINDS
from nanproof.ops import TABLE

HERE = Path(__file__).parent


def findings_page() -> str:
    """One section for each finding code."""
    sections = [
        f"## {kind.code} {kind.name}\n\n{kind.what}\n\n**Why is this bad?** {kind.why}\n\n"
        f"**Example:** `{kind.example}`\n\n**Fix:** {kind.fix}\n"
        for kind in KINDS.values()
    ]
    return "# Findings\n\n`nanproof explain CODE` prints the same.\n\n" + "\n".join(sections)


def ops_page() -> str:
    """A table of all records, and their notes."""
    rows = [
        f"| `{op.name}` | {op.family} | {op.since} | {', '.join(op.revisions) or '-'} | {', '.join(op.readings)} |"
        for op in TABLE.values()
    ]
    notes = [f"- `{op.name}`: {note.text} ({note.evidence})" for op in TABLE.values() for note in op.notes]
    head = (
        "# Operations\n\n"
        f"{len(TABLE)} of MIL's 168 serializable operations can be executed, in every opset revision named here. "
        "`nanproof ops` prints the same table.\n\n"
        "| operation | family | since | revised in | readings |\n|---|---|---|---|---|\n"
    )
    return head + "\n".join(rows) + "\n\n## Quirks of Core ML, with their evidence\n\n" + "\n".join(notes) + "\n"


PAGES = {"findings.md": findings_page, "ops.md": ops_page}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
