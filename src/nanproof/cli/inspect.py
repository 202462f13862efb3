"""``nanproof inspect``: what is in an ML Program file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanproof.cli.face import Answer, Face
from nanproof.cli.verb import verb

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["inspect"]


@verb("nanproof inspect bert.mlpackage", "nanproof inspect bert.mlpackage --ops")
def inspect(
    face: Face,
    model: Annotated[Path, typer.Argument(help="The .mlpackage.", metavar="MODEL")],
    ops: Annotated[bool, typer.Option("--ops", help="List every op.")] = False,
) -> Answer:
    """Show what is in an ML Program: inputs, outputs, opset, ops by type and by float type, weights, metadata."""
    with face.progress(f"reading {model}"):
        from nanproof.mil.package import open_package
        from nanproof.mil.read import load
        from nanproof.report.census import program_data
        from nanproof.report.wording import package_bytes

        program = load(model)
        metadata = open_package(model).spec.description.metadata
    fields = ("shortDescription", "versionString", "author", "license")
    described = {name: getattr(metadata, name) for name in fields if getattr(metadata, name)}
    data: dict[str, Any] = {
        "model": str(model),
        "package_bytes": package_bytes(model),
        "program": program_data(program),
        "metadata": {**described, **dict(sorted(metadata.userDefined.items()))},
    }
    if ops:
        data["listing"] = str(program).splitlines()
    return Answer("inspection", data, lambda console: _show(console, data))


def _show(console: Console, data: dict[str, Any]) -> None:
    from rich.console import RenderableType
    from rich.text import Text

    from nanproof.report.terminal import labelled
    from nanproof.report.wording import plural, size_text

    program: dict[str, Any] = data["program"]
    weights = f"{size_text(program['weights_bytes'])} of constants, {size_text(data['package_bytes'])} on disk"
    system = f"  ({program['system']} and later)" if program["system"] else ""
    names = ", ".join(f"{f['name']} ({plural(f['ops'], 'op')})" for f in program["functions"])
    counts = f"{program['fp16']} in FP16, {program['fp32']} in FP32, {program['without_floats']} without floats"
    kept = program["fp32_ops"]
    rows: list[tuple[str, RenderableType]] = [
        ("inputs", _types(program["inputs"])),
        ("outputs", _types(program["outputs"])),
        ("opset", Text.assemble(program["opset"], (system, "dim"))),
        ("functions", Text(names)),
        ("ops", Text(f"{plural(program['ops'], 'op')}: {counts}, {plural(program['casts'], 'cast')}")),
        ("", _op_table(program["types"])),
    ]
    if kept and program["fp16"]:
        shown = ", ".join(f"{op['name']} ({op['type']})" for op in kept[:8])
        rows.append(("FP32", Text(shown + (f" and {len(kept) - 8} more" if len(kept) > 8 else ""))))
    rows.append(("size", Text(weights)))
    if data["metadata"]:
        rows.append(("metadata", Text("\n".join(f"{k}: {v}" for k, v in data["metadata"].items()))))
    console.print(labelled(rows))
    for line in data.get("listing", ()):
        console.print(Text(line), soft_wrap=True)


def _types(values: list[dict[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for value in values:
        table.add_row(Text(value["name"]), Text(f"{value['dtype']}[{', '.join(str(d) for d in value['shape'])}]"))
    return table


def _op_table(types: list[dict[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("type")
    for heading in ("count", "fp16", "fp32", "no float"):
        table.add_column(heading, justify="right")
    for row in types:
        counts = (row["count"], row["fp16"], row["fp32"], row["without_floats"])
        table.add_row(Text(row["type"]), *(Text(str(c) if c else "·", "" if c else "dim") for c in counts))
    return table
