"""Writes the generated pages from the records in the code, and from benchmarks/results: `make docs`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from nanproof.findings import KINDS
from nanproof.ops import TABLE

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"


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


WHYS = (
    ("complex", "complex numbers, which ML Programs lack"),
    ("bfloat16 tensors", "bfloat16, which ML Programs lack"),
    ("Sparse|_to_sparse", "sparse tensors"),
    (
        "torch.export cannot|cannot decompose|sym_storage|masked_select|bincount|unique|nonzero",
        "sizes that depend on values",
    ),
    ("in place", "arguments that are changed in place"),
    ("other numbers|other integers|Inf or NaN|shape \\[", "**wrong numbers**: verification reports them"),
    ("rank <= 5", "more than five axes"),
    (
        "linalg|cholesky|lu_|geqrf|ormqr|triangular|with_effects",
        "linear algebra: factorisations, inverses, eigenvalues",
    ),
    ("special_|gamma|zeta", "special functions without an approximation here"),
    ("", "no lowering"),
)
"""Why an operator does not convert: the first pattern that its error matches, and what that means."""


def operators_page() -> str:
    """What the operator database says, in totals, and what is refused."""
    found = json.loads((RESULTS / "operators.json").read_text(encoding="utf-8"))
    rows: dict[str, Any] = found["operators"]
    samples, ours, plain = (sum(row[i] for row in rows.values()) for i in range(3))
    whole = [sum(row[i] == row[0] for row in rows.values()) for i in (1, 2)]
    only = [name for name, row in rows.items() if row[2] > row[1]]
    core = {name: rows[entry] for name, entry in found["core"].items() if entry in rows}
    agreeing = sum(row[0] == row[1] for row in core.values())
    left = [f"`{name}`" for name, row in core.items() if row[0] != row[1]]
    refused: dict[str, list[str]] = {}
    for name, row in rows.items():
        for why in {next(text for pattern, text in WHYS if re.search(pattern, reason)) for reason in row[3]}:
            refused.setdefault(why, []).append(f"`{name}`" + (f" ({row[1]} of {row[0]})" if row[1] else ""))
    table = [f"| {why} | {', '.join(refused[why])} |" for _, why in WHYS if why in refused]
    return (
        "# Operators\n\n"
        "PyTorch tests its operators by a database of calls. At most five calls of each, in float32 and integers, are\n"
        "converted in float32, written, read, executed in `reference` numerics and compared with PyTorch: to 1e-4 of\n"
        "the largest element, integers exactly. Plain coremltools gets the same calls by each of its recipes (trace;\n"
        "export; export and core ATen decomposition) until one agrees. Calls that are random, or whose result PyTorch\n"
        "does not define, do not count; batch_norm writes its statistics into copies of its arguments.\n"
        f"PyTorch {found['torch']}, coremltools {found['coremltools']}; `benchmarks/operators.py` measures it.\n\n"
        "| | nanproof | plain coremltools | of |\n|---|---|---|---|\n"
        f"| operators of which every call agrees | {whole[0]} | {whole[1]} | {len(rows)} |\n"
        f"| calls that agree | {ours} | {plain} | {samples} |\n"
        f"| core ATen operators of which every call agrees | {agreeing} | | {len(core)} |\n\n"
        f"Operators of which plain coremltools does more calls than nanproof: {', '.join(only) or 'none'}.\n"
        "Counted as core ATen is what PyTorch tags so and has an entry of its own in the database. "
        f"Those that do not agree: {', '.join(left) or 'none'}.\n\n"
        "## What does not convert, and why\n\n"
        "With the number of calls that agree, where some do.\n\n"
        "| why | operators |\n|---|---|\n" + "\n".join(table) + "\n"
    )


RECIPES = ("trace", "export", "core ATen")


def models_page() -> str:
    """Which models convert, by nanproof and by each recipe of plain coremltools, and in how many operations."""
    lines = (RESULTS / "models.jsonl").read_text(encoding="utf-8").splitlines()
    found: dict[str, dict[str, Any]] = {}
    for record in map(json.loads, lines):
        found.setdefault(record["model"], {}).update(record)
    good = {
        name: {way: row[way] for way in ("nanproof", *RECIPES) if row.get(way, {}).get("error", 1.0) < _AGREES}
        for name, row in sorted(found.items())
    }
    least = {name: min((ways[w]["ops"] for w in RECIPES if w in ways), default=None) for name, ways in good.items()}
    rows = [
        f"| {name} | " + " | ".join(_cell(found[name].get(way, {})) for way in ("nanproof", *RECIPES)) + " |"
        for name in good
    ]
    ours = [name for name, ways in good.items() if "nanproof" in ways]
    more = [name for name in ours if least[name] is not None and good[name]["nanproof"]["ops"] > least[name]]
    ops, located = (sum(good[name]["nanproof"][key] for name in ours) for key in ("ops", "located"))
    counts = [f"{way} {sum(way in ways for ways in good.values())}" for way in RECIPES]
    asked = sum(any(way in row for way in RECIPES) for row in found.values())
    any_recipe = sum(any(way in ways for way in RECIPES) for ways in good.values())
    return (
        "# Models\n\n"
        "Architectures in tiny configurations with random weights, converted in float32 for iOS17, written, read, and\n"
        "executed in `reference` numerics: the number of operations in the file, and the largest error relative to\n"
        "the range of an output. An error of 1e-4 or more is wrong. Plain coremltools gets models by all its recipes;\n"
        "where its cells are empty, it has not been asked.\n"
        "`benchmarks/models.py` measures it.\n\n"
        f"nanproof converts {len(ours)} of {len(found)} rightly; plain coremltools {any_recipe} of the {asked} that\n"
        f"it was asked, by some recipe ({', '.join(counts)}).\n"
        f"Models in which nanproof needs more operations than the best recipe: {', '.join(more) or 'none'}.\n"
        f"Operations that know their line of Python: {located:,} of {ops:,}.\n\n"
        "| model | nanproof | trace | export | core ATen |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


_AGREES = 1e-4


def _cell(result: dict[str, Any]) -> str:
    if not result:
        return ""
    if result.get("why"):
        return "no"
    wrong = "" if result["error"] < _AGREES else ", **wrong**"
    return f"{result['ops']} ops, {result['error']:.0e}{wrong}"


PAGES = {"models.md": models_page, "findings.md": findings_page, "ops.md": ops_page, "operators.md": operators_page}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
